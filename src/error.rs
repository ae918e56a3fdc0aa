//! What can go wrong before or beside the event loops: addresses, options, binding, threads.
//!
//! Errors of one connection are elsewhere: [`WriteError`](crate::WriteError) for writes,
//! [`FrameError`](crate::codec::FrameError) for codecs and [`CloseReason`](crate::CloseReason) for the end.
//!
//! ```
//! let error = epicycle::Server::bind("tpc://127.0.0.1:9000").start(|_| unreachable(0)).err();
//! # fn unreachable(_: u8) -> epicycle::Service { unimplemented!() }
//! assert!(error.unwrap().to_string().contains("use tcp://"));
//! ```

use std::convert::Infallible;
use std::io;

/// Implements `Display`, `Debug` and `Error` for an error type, from a message for each of its variants.
///
/// - A message is complete. It contains the message of the cause, if there is one, so that printing an error once tells all.
/// - `source` therefore does not return the cause, but the cause's own source: a report that follows the chain of
///   sources repeats nothing.
/// - `Debug` is the message as well, since `main` and `unwrap` print that to users.
macro_rules! error_messages {
    (
        $error:ident { $($variant:pat => $message:literal $(($($argument:expr),+))?,)+ }
        $(causes { $($with_cause:pat => $cause:expr,)+ })?
    ) => {
        impl std::fmt::Display for $error {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                match self {
                    $($variant => write!(f, $message $(, $($argument),+)?),)+
                }
            }
        }

        impl std::fmt::Debug for $error {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Display::fmt(self, f)
            }
        }

        impl std::error::Error for $error {
            $(
                fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
                    match self {
                        $($with_cause => std::error::Error::source($cause),)+
                        _ => None,
                    }
                }
            )?
        }
    };
}

pub(crate) use error_messages;

/// Why a server could not start or a request to a running one could not be carried out.
#[non_exhaustive]
pub enum Error {
    /// An address could not be understood or resolved.
    Address {
        /// The address as it was given.
        input: String,
        /// What is wrong with it, and what would be right.
        problem: String,
    },
    /// An option has a value that cannot work.
    Option {
        /// The option's name, as its builder method is called.
        name: &'static str,
        /// What is wrong with the value, and what would be right.
        problem: String,
    },
    /// A listener could not be bound.
    Bind {
        /// The address that could not be bound.
        addr: String,
        /// What the kernel said, or what is in the way.
        source: io::Error,
    },
    /// A reactor could not be set up: no descriptors, no memory, no thread.
    Setup {
        /// What was being made.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The handler factory or `on_boot` panicked on a reactor's thread.
    Boot {
        /// The reactor, counted from 0.
        reactor: usize,
        /// The panic's message.
        message: String,
    },
}

error_messages! {
    Error {
        Error::Address { input, problem } => "bad address {input:?}: {problem}",
        Error::Option { name, problem } => "bad option {name}: {problem}",
        Error::Bind { addr, source } => "cannot listen on {addr}: {source}",
        Error::Setup { what, source } => "cannot make {what}: {source}",
        Error::Boot { reactor, message } => "the handler of reactor {reactor} panicked while booting: {message}",
    }
    causes {
        Error::Bind { source, .. } | Error::Setup { source, .. } => source,
    }
}

/// For addresses that need no parsing.
impl From<Infallible> for Error {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as StdError;
    use std::{fmt, io};

    use super::Error;
    use crate::codec::FrameError;
    use crate::{ConnectError, WriteError};

    /// An error with a source that its message does not contain.
    #[derive(Debug)]
    struct Cause(Option<Box<Cause>>);

    impl fmt::Display for Cause {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(if self.0.is_some() { "near" } else { "deep" })
        }
    }

    impl StdError for Cause {
        fn source(&self) -> Option<&(dyn StdError + 'static)> {
            self.0.as_deref().map(|cause| cause as _)
        }
    }

    fn cause() -> Cause {
        Cause(Some(Box::new(Cause(None))))
    }

    /// Asserts that the message contains that of the cause, once, and that the source is what lies behind the cause.
    fn is_told_once(error: impl StdError) {
        let message = error.to_string();
        assert_eq!(message.matches("near").count(), 1, "{message}");
        assert_eq!(format!("{error:?}"), message);
        let behind = error.source().expect("the cause has a source");
        assert_eq!(behind.to_string(), "deep", "of {message}");
        assert!(behind.source().is_none());
    }

    #[test]
    fn an_error_tells_its_cause_once() {
        let bind = || Error::Bind {
            addr: "tcp://:80".into(),
            source: io::Error::other(cause()),
        };
        is_told_once(bind());
        is_told_once(Error::Setup {
            what: "a poll",
            source: io::Error::other(cause()),
        });
        is_told_once(FrameError::Other(Box::new(cause())));
        is_told_once(WriteError::Frame(FrameError::Other(Box::new(cause()))));
        is_told_once(WriteError::File(io::Error::other(cause())));
        is_told_once(ConnectError::Address(bind()));
        is_told_once(ConnectError::Option(bind()));
        is_told_once(ConnectError::Io(io::Error::other(cause())));
        is_told_once(ConnectError::Tls(Box::new(cause())));
        #[cfg(feature = "tls")]
        is_told_once(crate::tls::TlsError::File {
            path: "cert.pem".into(),
            source: io::Error::other(cause()),
        });
    }

    #[test]
    fn a_main_that_returns_an_error_prints_what_a_person_can_read() {
        let error = Error::Bind {
            addr: "tcp://127.0.0.1:80".into(),
            source: io::ErrorKind::PermissionDenied.into(),
        };
        // `main` prints the error by `Debug`.
        let printed = format!("Error: {error:?}");
        assert_eq!(
            printed,
            "Error: cannot listen on tcp://127.0.0.1:80: permission denied"
        );
    }
}
