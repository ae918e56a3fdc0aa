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
use std::{fmt, io};

/// Why a server could not start or a request to a running one could not be carried out.
#[derive(Debug)]
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

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Address { input, problem } => write!(f, "bad address {input:?}: {problem}"),
            Error::Option { name, problem } => write!(f, "bad option {name}: {problem}"),
            Error::Bind { addr, source } => write!(f, "cannot listen on {addr}: {source}"),
            Error::Setup { what, source } => write!(f, "cannot make {what}: {source}"),
            Error::Boot { reactor, message } => {
                write!(
                    f,
                    "the handler of reactor {reactor} panicked while booting: {message}"
                )
            }
        }
    }
}

/// For addresses that need no parsing.
impl From<Infallible> for Error {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Bind { source, .. } | Error::Setup { source, .. } => Some(source),
            Error::Address { .. } | Error::Option { .. } | Error::Boot { .. } => None,
        }
    }
}
