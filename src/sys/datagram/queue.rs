use std::collections::HashMap;
use std::net::SocketAddr;

use super::{MAX_DATAGRAM, Message};

/// The datagrams that wait to be sent from one socket, in order, back to back in one buffer.
///
/// The buffer grows as needed, up to twice the limit of a peer. A large buffer is freed when it is empty.
///
/// All peers of a socket share its queue, and no peer may take all of it. A peer may have as many bytes waiting as are still
/// free in the queue (the "dynamic threshold" of Choudhury and Hahne, 1998). So a single peer can use its whole limit. If N
/// peers flood the queue, each gets one of N + 1 equal shares, and the last share stays free for other peers.
#[derive(Debug)]
pub(crate) struct SendQueue {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    /// The number of entries at the front that have left the queue.
    head: usize,
    /// The number of datagrams queued since the beginning.
    queued_ever: u64,
    /// The most bytes that may wait for one peer, with [`ENTRY_COST`] for each datagram.
    limit: usize,
    /// The bytes that wait for each peer. Counted only while the queue is so full that shares matter.
    shares: Option<HashMap<Option<SocketAddr>, usize>>,
    /// The longest datagrams that are sent in runs, as far as is known; 0 if none are.
    longest_in_run: usize,
    /// The datagram size of a run that the kernel refused. The first datagram of the run is then sent alone, to find out
    /// whether the datagram or the run is the cause.
    on_trial: Option<usize>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    to: Option<SocketAddr>,
    start: usize,
    len: usize,
}

impl Entry {
    /// Returns the bytes that the entry counts for.
    fn cost(&self) -> usize {
        self.len + ENTRY_COST
    }
}

/// The reason why a datagram was not queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The socket is closed.
    Closed,
    /// The datagram is longer than [`MAX_DATAGRAM`].
    TooLong,
    /// The peer has used up its share. This number of bytes waits for it.
    Full(usize),
    /// Datagrams for other peers fill the queue. This number of bytes waits in it.
    Crowded(usize),
}

/// The bytes that a datagram counts for, in addition to its length.
pub(super) const ENTRY_COST: usize = size_of::<Entry>();

/// An empty buffer is kept up to this size.
const KEPT: usize = 256 << 10;

/// The most datagrams in a run (`UDP_MAX_SEGMENTS` of the first kernels that had it).
const MAX_RUN: usize = 64;

impl SendQueue {
    /// Creates a queue for up to `limit` bytes to a peer and twice that in all, with some 50 bytes for each datagram. `runs`
    /// is true if datagrams of one size to one address may leave as one message.
    pub(crate) fn new(limit: usize, runs: bool) -> Self {
        Self {
            bytes: Vec::new(),
            entries: Vec::new(),
            head: 0,
            queued_ever: 0,
            limit,
            shares: None,
            longest_in_run: if runs { MAX_DATAGRAM } else { 0 },
            on_trial: None,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.head == self.entries.len()
    }

    /// Returns the number of datagrams that wait.
    pub(crate) fn len(&self) -> usize {
        self.entries.len() - self.head
    }

    /// Returns the number of bytes that wait, with [`ENTRY_COST`] for each datagram.
    pub(crate) fn queued(&self) -> usize {
        let start = self.entries.get(self.head).map(|entry| entry.start);
        start.map_or(0, |start| self.bytes.len() - start) + self.len() * ENTRY_COST
    }

    /// Returns the position behind the last datagram, for [`is_past`](Self::is_past).
    pub(crate) fn position(&self) -> u64 {
        self.queued_ever
    }

    /// Returns the number of datagrams that have left the queue since the beginning.
    pub(crate) fn gone(&self) -> u64 {
        self.queued_ever - self.len() as u64
    }

    /// Returns true if all datagrams before a position have left the queue.
    pub(crate) fn is_past(&self, position: u64) -> bool {
        self.gone() >= position
    }

    /// Checks if a datagram of `len` bytes to that peer may be queued.
    fn admit(&mut self, to: Option<SocketAddr>, len: usize) -> Result<(), Refused> {
        if len > MAX_DATAGRAM {
            return Err(Refused::TooLong);
        }
        let (queued, cost) = (self.queued(), len + ENTRY_COST);
        if queued + cost <= self.limit {
            // No peer can exceed the limit then, nor the half of the queue that is still free.
            return Ok(());
        }
        self.admit_share(to, queued, cost)
    }

    #[cold]
    fn admit_share(
        &mut self,
        to: Option<SocketAddr>,
        queued: usize,
        cost: usize,
    ) -> Result<(), Refused> {
        // A connected socket has one peer.
        if to.is_none() {
            return Err(Refused::Full(queued));
        }
        let waiting = &self.entries[self.head..];
        let shares = self.shares.get_or_insert_with(|| {
            let mut shares = HashMap::new();
            for entry in waiting {
                *shares.entry(entry.to).or_default() += entry.cost();
            }
            shares
        });
        let own = shares.get(&to).copied().unwrap_or(0);
        let free = (2 * self.limit).saturating_sub(queued);
        if own + cost <= free.min(self.limit) {
            Ok(())
        } else if own * shares.len() >= queued {
            Err(Refused::Full(own))
        } else {
            // The peer has less than the average, so the others fill the queue.
            Err(Refused::Crowded(queued))
        }
    }

    /// Queues a copy of the pieces as one datagram. Returns its length. `to` is `None` on a connected socket.
    pub(crate) fn push<'a>(
        &mut self,
        to: Option<SocketAddr>,
        pieces: impl Iterator<Item = &'a [u8]> + Clone,
    ) -> Result<usize, Refused> {
        let len = pieces.clone().map(<[u8]>::len).sum();
        self.admit(to, len)?;
        self.make_room();
        let start = self.bytes.len();
        for piece in pieces {
            self.bytes.extend_from_slice(piece);
        }
        let entry = Entry { to, start, len };
        if let Some(shares) = &mut self.shares {
            *shares.entry(to).or_default() += entry.cost();
        }
        self.entries.push(entry);
        self.queued_ever += 1;
        Ok(len)
    }

    /// Fills `into` with the messages to send first. Returns their number.
    ///
    /// Successive datagrams of one size to one address become one message. The last of them may be shorter.
    pub(super) fn messages<'a>(&'a self, into: &mut [Message<'a>]) -> usize {
        let mut rest = &self.entries[self.head..];
        let (longest_in_run, most) = match self.on_trial {
            Some(_) => (0, 1),
            None => (self.longest_in_run, into.len()),
        };
        let mut count = 0;
        for place in &mut into[..most] {
            let Some(first) = rest.first() else {
                break;
            };
            let mut run = 1;
            let mut len = first.len;
            if first.len > 0 && first.len <= longest_in_run {
                for entry in rest[1..].iter().take(MAX_RUN - 1) {
                    if entry.to != first.to
                        || entry.len > first.len
                        || entry.len == 0
                        || len + entry.len > MAX_DATAGRAM
                    {
                        break;
                    }
                    run += 1;
                    len += entry.len;
                    if entry.len < first.len {
                        break;
                    }
                }
            }
            *place = Message {
                to: first.to,
                bytes: &self.bytes[first.start..first.start + len],
                segment: if run > 1 { first.len } else { 0 },
            };
            rest = &rest[run..];
            count += 1;
        }
        count
    }

    /// Makes the next message the first datagram alone, because the kernel refused a run of datagrams of this size.
    pub(super) fn begin_trial(&mut self, segment: usize) {
        self.on_trial = Some(segment);
    }

    /// Ends the trial, if there is one. If the datagram passed alone, the run was the cause, and datagrams of this size are
    /// not sent in runs any more.
    pub(super) fn end_trial(&mut self, passed: bool) {
        if let Some(refused) = self.on_trial.take()
            && passed
        {
            self.longest_in_run = self.longest_in_run.min(refused - 1);
        }
    }

    /// Removes the first `n` datagrams, which were sent or dropped. Returns the number of their bytes.
    pub(super) fn pop(&mut self, n: usize) -> usize {
        let popped = &self.entries[self.head..self.head + n];
        let bytes = popped.iter().map(|entry| entry.len).sum();
        if let Some(shares) = &mut self.shares {
            for entry in popped {
                let share = shares.entry(entry.to).or_default();
                *share -= entry.cost();
                if *share == 0 {
                    shares.remove(&entry.to);
                }
            }
        }
        self.head += n;
        if self.is_empty() {
            self.clear();
        } else if self.queued() < self.limit / 2 {
            self.shares = None;
        }
        bytes
    }

    /// Drops all datagrams. Returns their number.
    pub(crate) fn clear(&mut self) -> usize {
        let dropped = self.len();
        self.head = 0;
        self.shares = None;
        self.entries.clear();
        self.bytes.clear();
        self.entries.shrink_to(KEPT / ENTRY_COST);
        self.bytes.shrink_to(KEPT);
        dropped
    }

    /// Removes entries that have left the queue from the buffer, once they are the larger part of it. So moving the rest
    /// costs less than writing it did.
    fn make_room(&mut self) {
        if self.head == 0 || self.head < self.len() {
            return;
        }
        let gone = self.entries[self.head].start;
        self.entries.drain(..self.head);
        for entry in &mut self.entries {
            entry.start -= gone;
        }
        self.bytes.drain(..gone);
        self.head = 0;
    }
}
