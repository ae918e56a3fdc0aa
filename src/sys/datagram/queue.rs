use std::collections::HashMap;
use std::net::SocketAddr;

use super::{MAX_DATAGRAM, Message};

/// The datagrams that wait to be sent from one socket, in order, back to back in one buffer.
///
/// The buffer grows with what waits, up to twice the limit of a peer, and a large one is given back when it is empty.
///
/// All peers of a socket share its queue, and none must take all of it from the others: a peer may have as much waiting as
/// is still free (the "dynamic threshold" of Choudhury and Hahne, 1998). One alone has its limit then; of N that flood,
/// each has a share of N + 1, and the last share is free for whoever comes.
#[derive(Debug)]
pub(crate) struct SendQueue {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    /// How many of the entries are gone already.
    head: usize,
    /// How many have been queued since the beginning.
    queued_ever: u64,
    /// The most that may wait for one peer, bytes and [`ENTRY_COST`]s.
    limit: usize,
    /// What waits for each peer, only while that decides who is refused.
    shares: Option<HashMap<Option<SocketAddr>, usize>>,
    /// The longest datagrams that leave in runs, as far as has been found out; 0 for no runs.
    longest_run: usize,
    /// The size of a refused run, whose first datagram is tried alone to tell what is to blame.
    on_trial: Option<usize>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    to: Option<SocketAddr>,
    start: usize,
    len: usize,
}

impl Entry {
    /// How much of the queue it takes.
    fn cost(&self) -> usize {
        self.len + ENTRY_COST
    }
}

/// Why a datagram was not queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// There is no such socket any more.
    Closed,
    /// It is longer than [`MAX_DATAGRAM`].
    TooLong,
    /// Its peer has as much waiting as it may: so many bytes.
    Full(usize),
    /// The queue is full with what waits for others: so many bytes.
    Crowded(usize),
}

/// What a datagram counts beyond its bytes.
pub(super) const ENTRY_COST: usize = size_of::<Entry>();

/// A buffer of up to this size is kept for the next datagrams.
const KEPT: usize = 256 << 10;

/// The most datagrams in a run (`UDP_MAX_SEGMENTS` of the first kernels that had it).
const MAX_RUN: usize = 64;

impl SendQueue {
    /// A queue for up to `limit` bytes to a peer and twice that in all, each datagram counted with some 50 more; `runs` says
    /// whether datagrams of one size to one address may leave as one.
    pub(crate) fn new(limit: usize, runs: bool) -> Self {
        Self {
            bytes: Vec::new(),
            entries: Vec::new(),
            head: 0,
            queued_ever: 0,
            limit,
            shares: None,
            longest_run: if runs { MAX_DATAGRAM } else { 0 },
            on_trial: None,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.head == self.entries.len()
    }

    /// How many datagrams wait.
    pub(crate) fn len(&self) -> usize {
        self.entries.len() - self.head
    }

    /// How many bytes wait, with [`ENTRY_COST`] for each datagram.
    pub(crate) fn queued(&self) -> usize {
        let start = self.entries.get(self.head).map(|entry| entry.start);
        start.map_or(0, |start| self.bytes.len() - start) + self.len() * ENTRY_COST
    }

    /// The place behind the last datagram, for [`is_past`](Self::is_past).
    pub(crate) fn position(&self) -> u64 {
        self.queued_ever
    }

    /// How many datagrams have left the queue since the beginning.
    pub(crate) fn gone(&self) -> u64 {
        self.queued_ever - self.len() as u64
    }

    /// Whether all datagrams before a place have left the queue.
    pub(crate) fn is_past(&self, position: u64) -> bool {
        self.gone() >= position
    }

    /// Whether a datagram of `len` bytes to that peer would be queued.
    fn admit(&mut self, to: Option<SocketAddr>, len: usize) -> Result<(), Refused> {
        if len > MAX_DATAGRAM {
            return Err(Refused::TooLong);
        }
        let (queued, cost) = (self.queued(), len + ENTRY_COST);
        if queued + cost <= self.limit {
            // Nobody can have more than the limit then, nor more than is free.
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
            // It has less than most.
            Err(Refused::Crowded(queued))
        }
    }

    /// Queues a copy of the pieces as one datagram, and returns how many bytes it has; `to` is none on a connected socket.
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

    /// The messages to send first; returns how many there are.
    ///
    /// Datagrams of one size to one address that follow each other become one message; the last may be shorter.
    pub(super) fn messages<'a>(&'a self, into: &mut [Message<'a>]) -> usize {
        let mut rest = &self.entries[self.head..];
        let (longest_run, most) = match self.on_trial {
            Some(_) => (0, 1),
            None => (self.longest_run, into.len()),
        };
        let mut count = 0;
        for place in &mut into[..most] {
            let Some(first) = rest.first() else {
                break;
            };
            let mut run = 1;
            let mut len = first.len;
            if first.len > 0 && first.len <= longest_run {
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

    /// A run of datagrams of this size was refused: the first is tried alone.
    pub(super) fn begin_trial(&mut self, segment: usize) {
        self.on_trial = Some(segment);
    }

    /// The trial, if there was one, is over: what passes alone was refused for being in a run.
    pub(super) fn end_trial(&mut self, passed: bool) {
        if let Some(refused) = self.on_trial.take()
            && passed
        {
            self.longest_run = self.longest_run.min(refused - 1);
        }
    }

    /// The first `n` datagrams are sent, or given up; returns how many bytes they had.
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

    /// Forgets everything; returns how many datagrams that were.
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

    /// Takes out what is gone, once that is most of the buffer: what waits is then moved less often than it is written.
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
