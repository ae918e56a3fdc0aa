//! The stand-in for `linux.rs` on platforms without calls for several datagrams. No socket is batched there, so these
//! functions are never called.

use std::io::{self, ErrorKind};
use std::os::fd::BorrowedFd;

use super::{Arrival, Message};

/// True if a call can receive or send several datagrams.
pub(super) const SUPPORTED: bool = false;

pub(super) struct Headers;

impl Headers {
    pub(super) fn new() -> Self {
        Self
    }

    pub(super) fn receive(
        &mut self,
        _socket: BorrowedFd<'_>,
        _slots: &mut [u8],
        _slot_len: usize,
        _arrivals: &mut Vec<Arrival>,
    ) -> io::Result<()> {
        Err(ErrorKind::Unsupported.into())
    }

    pub(super) fn transmit(
        &mut self,
        _socket: BorrowedFd<'_>,
        _messages: &[Message<'_>],
    ) -> io::Result<usize> {
        Err(ErrorKind::Unsupported.into())
    }
}

pub(super) fn enable_runs_in(_socket: BorrowedFd<'_>) -> bool {
    false
}

pub(super) fn takes_runs_out(_socket: BorrowedFd<'_>) -> bool {
    false
}
