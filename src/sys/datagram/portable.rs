//! One datagram in a call, on every platform.

use std::io::{self, ErrorKind, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

use rustix::net::{RecvAncillaryBuffer, RecvFlags, ReturnFlags, SendFlags, recvmsg, send, sendto};

use super::{Arrival, Message};

/// Receives one datagram.
pub(super) fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Arrival> {
    let mut slices = [IoSliceMut::new(buffer)];
    let mut control = RecvAncillaryBuffer::default();
    let received = recvmsg(socket, &mut slices, &mut control, RecvFlags::empty())?;
    let peer = received
        .address
        .and_then(|addr| SocketAddr::try_from(addr).ok())
        .ok_or(ErrorKind::InvalidData)?;
    Ok(Arrival {
        peer,
        len: received.bytes,
        segment: 0,
        truncated: received.flags.contains(ReturnFlags::TRUNC),
    })
}

/// Sends the first of the messages, which is a single datagram. Returns 1.
pub(super) fn transmit(socket: BorrowedFd<'_>, messages: &[Message<'_>]) -> io::Result<usize> {
    let Some(message) = messages.first() else {
        return Ok(0);
    };
    match message.to {
        Some(to) => sendto(socket, message.bytes, SendFlags::empty(), &to)?,
        None => send(socket, message.bytes, SendFlags::empty())?,
    };
    Ok(1)
}
