//! The datagrams of a simulated socket.

use std::io;

use super::{Arrival, Message};
use crate::simnet::network::DatagramEnd;

/// Receives a datagram into each slot, while there are any. Returns true if that drained the socket.
pub(super) fn receive<'a>(
    end: &DatagramEnd,
    slots: impl Iterator<Item = &'a mut [u8]>,
    arrivals: &mut Vec<Arrival>,
) -> io::Result<bool> {
    for slot in slots {
        let (peer, bytes) = match end.receive() {
            Ok(datagram) => datagram,
            Err(error) if arrivals.is_empty() => return Err(error),
            Err(error) => return Ok(error.kind() == io::ErrorKind::WouldBlock),
        };
        let len = bytes.len().min(slot.len());
        slot[..len].copy_from_slice(&bytes[..len]);
        arrivals.push(Arrival {
            peer,
            len,
            segment: 0,
            truncated: len < bytes.len(),
        });
    }
    Ok(false)
}

/// Sends the first of the messages, which is a single datagram. Returns 1.
pub(super) fn transmit(end: &DatagramEnd, messages: &[Message<'_>]) -> io::Result<usize> {
    let Some(message) = messages.first() else {
        return Ok(0);
    };
    end.send(message.to, message.bytes)?;
    Ok(1)
}
