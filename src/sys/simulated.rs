//! The socket of a simulated connection.

use std::io;
use std::sync::Arc;

use socket2::{Domain, Socket, Type};

use crate::simnet::network::End;

/// The end of a simulated connection, which has no descriptor of its own.
#[derive(Debug)]
pub(crate) struct Simulated {
    pub(crate) end: End,
    /// What shows instead: a socket that is never connected, and takes options.
    pub(crate) stand_in: Arc<StandIn>,
}

/// A socket that is never connected, which all simulated ones of a reactor share.
#[derive(Debug)]
pub(crate) struct StandIn(Socket);

impl StandIn {
    pub(crate) fn new() -> io::Result<Self> {
        Socket::new(Domain::IPV4, Type::STREAM, None).map(Self)
    }
}

impl std::os::fd::AsFd for StandIn {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}
