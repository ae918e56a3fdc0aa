//! Errors outside the event loops: addresses, options, binding, threads.
//!
//! A connection has errors of its own: [`WriteError`](crate::WriteError) for writes,
//! [`FrameError`](crate::codec::FrameError) for codecs, and [`CloseReason`](crate::CloseReason) for its end.
//!
//! ```
//! let error = epicycle::Server::bind("tpc://127.0.0.1:9000").start(|_| unreachable(0)).err();
//! # fn unreachable(_: u8) -> epicycle::Service { unimplemented!() }
//! assert!(error.unwrap().to_string().contains("use tcp://"));
//! ```

use std::borrow::Cow;
use std::convert::Infallible;
use std::io;
use std::path::Path;

/// Implements `Display`, `Debug` and `Error` for an error type, from a message for each of its variants.
///
/// - A message is complete: it contains the message of the cause, if there is one.
/// - `source` therefore returns the source of the cause, not the cause itself. A report that follows the chain of sources
///   repeats nothing.
/// - `Debug` prints the message as well, because users see it when `main` returns an error or `unwrap` panics.
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

/// An error that kept a server from starting, or from carrying out a request while it runs.
#[non_exhaustive]
pub enum Error {
    /// An address is malformed or does not resolve.
    Address {
        /// The address as it was given.
        input: String,
        /// The problem and its remedy.
        problem: String,
    },
    /// An option has a value that is not allowed.
    Option {
        /// The name of the option's builder method.
        name: &'static str,
        /// The problem and its remedy.
        problem: String,
    },
    /// A listener could not be bound.
    Bind {
        /// The address that could not be bound.
        addr: String,
        /// The error of the kernel, or of a check before the bind.
        source: io::Error,
    },
    /// The engine accepts no more connections, or shuts down.
    Stopped,
    /// A reactor could not be set up, for example for want of descriptors, memory or threads.
    Setup {
        /// The object that could not be made.
        what: &'static str,
        /// The error of the kernel.
        source: io::Error,
    },
    /// The handler factory or `on_boot` panicked on a reactor's thread.
    Boot {
        /// The index of the reactor, from 0.
        reactor: usize,
        /// The message of the panic.
        message: String,
    },
}

impl Error {
    /// Returns an error with the same message.
    pub(crate) fn copy(&self) -> Self {
        let copy = |error: &io::Error| io::Error::new(error.kind(), error.to_string());
        match self {
            Error::Address { input, problem } => Error::Address {
                input: input.clone(),
                problem: problem.clone(),
            },
            Error::Option { name, problem } => Error::Option {
                name,
                problem: problem.clone(),
            },
            Error::Bind { addr, source } => Error::Bind {
                addr: addr.clone(),
                source: copy(source),
            },
            Error::Stopped => Error::Stopped,
            Error::Setup { what, source } => Error::Setup {
                what,
                source: copy(source),
            },
            Error::Boot { reactor, message } => Error::Boot {
                reactor: *reactor,
                message: message.clone(),
            },
        }
    }
}

error_messages! {
    Error {
        Error::Address { input, problem } => "bad address {input:?}: {problem}",
        Error::Option { name, problem } => "bad option {name}: {problem}",
        Error::Bind { addr, source } => "cannot listen on {addr}: {source}{}" (bind_remedy(addr, source)),
        Error::Stopped => "the engine does not accept any more",
        Error::Setup { what, source } => "cannot make {what}: {source}",
        Error::Boot { reactor, message } => "the handler of reactor {reactor} panicked while booting: {message}",
    }
    causes {
        Error::Bind { source, .. } | Error::Setup { source, .. } => source,
    }
}

/// Returns the remedy of an address that cannot be listened on, as the end of the message.
fn bind_remedy(addr: &str, source: &io::Error) -> Cow<'static, str> {
    let remedy = match source.kind() {
        io::ErrorKind::PermissionDenied => {
            "; a port below 1024 needs CAP_NET_BIND_SERVICE, and a path a folder that can be written"
        }
        io::ErrorKind::AddrInUse => {
            "; something listens there already, or a connection has the port (`ss -tan` shows it)"
        }
        io::ErrorKind::AddrNotAvailable => "; no interface of this host has the address",
        io::ErrorKind::NotFound => return missing_folder(addr).into(),
        _ => "",
    };
    remedy.into()
}

/// Names the folder that the path of a Unix socket lacks.
fn missing_folder(addr: &str) -> String {
    let path = addr.strip_prefix("unix://").unwrap_or(addr);
    let folder = Path::new(path).parent().unwrap_or(Path::new(path));
    format!("; make the folder {} first", folder.display())
}

/// Lets functions that take `TryInto<Endpoint>` accept an [`Endpoint`](crate::Endpoint) itself, whose conversion cannot
/// fail.
/// The reason why a stream call did nothing, or why the stream failed.
#[derive(Debug)]
pub(crate) enum StreamError {
    /// Nothing can be received, or sent, until the next event.
    WouldBlock,
    /// A signal interrupted the call. It can be made again at once.
    Interrupted,
    /// The peer's TLS stream ended without close_notify: it may be truncated.
    #[cfg_attr(not(feature = "tls"), allow(dead_code, reason = "only TLS can tell"))]
    Truncated,
    /// The peer violated the TLS protocol, or refused this side.
    #[cfg_attr(not(feature = "tls"), allow(dead_code, reason = "of TLS alone"))]
    Tls(io::Error),
    /// The socket failed.
    Io(io::Error),
}

impl From<io::Error> for StreamError {
    #[cold]
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::WouldBlock => StreamError::WouldBlock,
            io::ErrorKind::Interrupted => StreamError::Interrupted,
            _ => StreamError::Io(error),
        }
    }
}

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

    /// Asserts that the message contains that of the cause once, and that `source` returns the source of the cause.
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
            "Error: cannot listen on tcp://127.0.0.1:80: permission denied; a port below 1024 needs CAP_NET_BIND_SERVICE, \
             and a path a folder that can be written"
        );
    }
}
