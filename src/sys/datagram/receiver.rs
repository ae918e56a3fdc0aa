use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::AsFd;

use super::batches::Headers;
use super::{Arrival, DatagramSocket, canonical, portable};

/// Receives batches of datagrams and deals them out one by one.
///
/// One serves all sockets of a reactor. It keeps a buffer per datagram of a batch: 64 KiB each where the kernel hands
/// over runs of datagrams, else the longest datagram wanted. With batches of 64 that is 4 MiB of addresses, of
/// which only what datagrams have reached takes memory: 256 KiB for small ones.
pub(crate) struct Receiver {
    bytes: Box<[u8]>,
    slot_len: usize,
    arrivals: Vec<Arrival>,
    /// The arrival that is dealt out next, and how much of it has been.
    next: usize,
    offset: usize,
    /// The longest datagram the socket of this batch wants.
    longest: usize,
    headers: Headers,
}

/// A datagram within an arrival.
struct Piece {
    /// As much of it as is wanted.
    bytes: Range<usize>,
    /// How long it is.
    len: usize,
    /// The last of its arrival.
    is_last: bool,
    truncated: bool,
}

/// A datagram that has arrived.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Received<'a> {
    pub(crate) peer: SocketAddr,
    pub(crate) data: &'a mut [u8],
    /// There was more, which is lost.
    pub(crate) truncated: bool,
}

/// Room for a run of datagrams: what IP can carry, and some cache lines, lest the beginnings of all slots compete for
/// one place in the cache.
const RUN_LEN: usize = (64 << 10) + 5 * 64;

impl Receiver {
    /// A receiver without buffers: the first sockets give it some.
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

    /// Sees that there is room for a batch of the socket's.
    fn fit(&mut self, socket: &DatagramSocket) {
        let wanted = if socket.hands_over_runs() {
            RUN_LEN
        } else {
            socket.longest()
        };
        let slots = self.bytes.len() / self.slot_len.max(1);
        if wanted > self.slot_len || socket.batch() > slots {
            self.slot_len = self.slot_len.max(wanted);
            // Zeroed memory comes untouched from the system.
            self.bytes = vec![0; self.slot_len * slots.max(socket.batch())].into_boxed_slice();
        }
    }

    /// Receives up to a batch, replacing the last one; returns whether the socket is drained.
    ///
    /// # Errors
    ///
    /// What the kernel says; `WouldBlock` when there is nothing.
    pub(crate) fn receive(&mut self, socket: &DatagramSocket) -> io::Result<bool> {
        self.fit(socket);
        self.arrivals.clear();
        (self.next, self.offset) = (0, 0);
        self.longest = socket.longest();
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

    /// Who has sent the next datagram of the batch.
    #[inline]
    pub(crate) fn peek(&self) -> Option<SocketAddr> {
        let arrival = self.arrivals.get(self.next)?;
        Some(canonical(arrival.peer))
    }

    /// A look at the next datagram of the batch: its bytes, and whether there were more.
    pub(crate) fn peek_datagram(&self) -> Option<(&[u8], bool)> {
        let piece = self.piece()?;
        Some((&self.bytes[piece.bytes], piece.truncated))
    }

    /// The next datagram of the batch.
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

    /// Where the next datagram of the batch lies.
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

    /// Drops what is left of the batch; returns how many datagrams that were.
    pub(crate) fn clear(&mut self) -> usize {
        let mut dropped = 0;
        while self.next().is_some() {
            dropped += 1;
        }
        dropped
    }
}
