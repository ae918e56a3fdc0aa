//! The socket of a simulated connection.

use std::io;
use std::sync::Arc;

use socket2::{Domain, Socket, Type};

use crate::simnet::network::End;

/// The reactor's end of a simulated connection. It has no descriptor of its own.
#[derive(Debug)]
pub(crate) struct Simulated {
    pub(crate) end: End,
    /// A real socket that supplies the descriptor and accepts options.
    pub(crate) stand_in: Arc<StandIn>,
}

/// A socket that is never connected. All simulated sockets of a reactor share it.
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
