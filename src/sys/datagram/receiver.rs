use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::AsFd;

use super::batches::Headers;
#[cfg(feature = "testing")]
use super::simulated;
use super::{Arrival, DatagramSocket, canonical, portable};

/// Receives batches of datagrams and returns them one by one.
///
/// One receiver serves all sockets of a reactor. It has a slot for each message of a batch. A slot has 64 KiB if the kernel
/// delivers runs of datagrams, else the length of the longest datagram wanted. With batches of 64 the slots reserve 4 MiB of
/// addresses. Only the pages that datagrams have reached take memory: 256 KiB for small ones.
pub(crate) struct Receiver {
    bytes: Box<[u8]>,
    slot_len: usize,
    arrivals: Vec<Arrival>,
    /// The index of the arrival that is returned next.
    next: usize,
    /// The number of its bytes that have been returned already.
    offset: usize,
    /// The longest datagram that the socket of this batch wants.
    longest: usize,
    headers: Headers,
}

/// A datagram within an arrival.
struct Piece {
    /// The place of its bytes in the buffer, up to the longest length wanted.
    bytes: Range<usize>,
    /// The length as received.
    len: usize,
    /// True for the last datagram of its arrival.
    is_last: bool,
    truncated: bool,
}

/// A datagram that has arrived.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Received<'a> {
    pub(crate) peer: SocketAddr,
    pub(crate) data: &'a mut [u8],
    /// True if the end of the datagram is lost.
    pub(crate) truncated: bool,
}

/// The length of a slot for a run of datagrams: the most that IP can carry, and some cache lines. Without these, the
/// beginnings of all slots would compete for the same cache set.
const RUN_LEN: usize = (64 << 10) + 5 * 64;

impl Receiver {
    /// Creates a receiver without buffers. They are allocated for the first socket.
    pub(crate) fn new() -> Self {
        Self {
            bytes: Box::default(),
            slot_len: 0,
            arrivals: Vec::new(),
            next: 0,
            offset: 0,
            longest: 0,
            headers: Headers::new(),
        }
    }

    /// Makes room for a batch of this socket.
    fn fit(&mut self, socket: &DatagramSocket) {
        let wanted = if socket.hands_over_runs() {
            RUN_LEN
        } else {
            socket.longest()
        };
        let slots = self.bytes.len() / self.slot_len.max(1);
        if wanted > self.slot_len || socket.batch() > slots {
            self.slot_len = self.slot_len.max(wanted);
            // The system provides zeroed memory without touching it.
            self.bytes = vec![0; self.slot_len * slots.max(socket.batch())].into_boxed_slice();
        }
    }

    /// Receives up to a batch, in place of the last one. Returns true if that drained the socket.
    ///
    /// # Errors
    ///
    /// The kernel's error; `WouldBlock` if no datagram waits.
    pub(crate) fn receive(&mut self, socket: &DatagramSocket) -> io::Result<bool> {
        self.fit(socket);
        self.arrivals.clear();
        (self.next, self.offset) = (0, 0);
        self.longest = socket.longest();
        #[cfg(feature = "testing")]
        if let Some(end) = socket.as_simulated() {
            let slots = self.bytes.chunks_exact_mut(self.slot_len);
            return simulated::receive(end, slots.take(socket.batch()), &mut self.arrivals);
        }
        if socket.is_batched() {
            let slots = &mut self.bytes[..self.slot_len * socket.batch()];
            let fd = socket.as_fd();
            self.headers
                .receive(fd, slots, self.slot_len, &mut self.arrivals)?;
            return Ok(self.arrivals.len() < socket.batch());
        }
        for slot in self
            .bytes
            .chunks_exact_mut(self.slot_len)
            .take(socket.batch())
        {
            match portable::receive(socket.as_fd(), slot) {
                Ok(arrival) => self.arrivals.push(arrival),
                Err(error) if self.arrivals.is_empty() => return Err(error),
                Err(error) => return Ok(error.kind() == io::ErrorKind::WouldBlock),
            }
        }
        Ok(false)
    }

    /// Returns the sender of the next datagram of the batch.
    #[inline]
    pub(crate) fn peek(&self) -> Option<SocketAddr> {
        let arrival = self.arrivals.get(self.next)?;
        Some(canonical(arrival.peer))
    }

    /// Returns the bytes of the next datagram of the batch without removing it, and true if its end is lost.
    pub(crate) fn peek_datagram(&self) -> Option<(&[u8], bool)> {
        let piece = self.piece()?;
        Some((&self.bytes[piece.bytes], piece.truncated))
    }

    /// Returns the next datagram of the batch.
    pub(crate) fn next(&mut self) -> Option<Received<'_>> {
        let peer = self.peek()?;
        let piece = self.piece()?;
        if piece.is_last {
            self.next += 1;
            self.offset = 0;
        } else {
            self.offset += piece.len;
        }
        Some(Received {
            peer,
            data: &mut self.bytes[piece.bytes],
            truncated: piece.truncated,
        })
    }

    /// Returns the place of the next datagram of the batch.
    #[inline]
    fn piece(&self) -> Option<Piece> {
        let arrival = self.arrivals.get(self.next)?;
        let start = self.next * self.slot_len + self.offset;
        let rest = arrival.len - self.offset;
        let len = match arrival.segment {
            0 => rest,
            segment => rest.min(segment),
        };
        let is_last = len == rest;
        let wanted = len.min(self.longest);
        Some(Piece {
            bytes: start..start + wanted,
            len,
            is_last,
            truncated: wanted < len || (arrival.truncated && is_last),
        })
    }

    /// Drops the rest of the batch. Returns the number of datagrams dropped.
    pub(crate) fn clear(&mut self) -> usize {
        let mut dropped = 0;
        while self.next().is_some() {
            dropped += 1;
        }
        dropped
    }
}
