use std::collections::VecDeque;
use std::time::Duration;

/// Frames that wait for a connection, in order, up to a number of bytes and for a time.
pub(super) struct Queue {
    frames: VecDeque<Queued>,
    bytes: usize,
    max_bytes: usize,
    max_time: Duration,
}

pub(super) struct Queued {
    pub(super) frame: Vec<u8>,
    /// The number of the call, or 0.
    pub(super) seq: u64,
    since: Duration,
}

/// The place of the operation in a frame.
const OP: usize = 5;
const SEQ: std::ops::Range<usize> = 6..14;

impl Queue {
    pub(super) fn new(max_bytes: usize, max_time: Duration) -> Self {
        Self {
            frames: VecDeque::new(),
            bytes: 0,
            max_bytes,
            max_time,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns false if there is no room.
    pub(super) fn push(&mut self, frame: Vec<u8>, seq: u64, now: Duration) -> bool {
        if self.bytes + frame.len() > self.max_bytes {
            return false;
        }
        self.bytes += frame.len();
        self.frames.push_back(Queued {
            frame,
            seq,
            since: now,
        });
        true
    }

    /// Puts back the first frames, in the order in which they were popped.
    pub(super) fn put_back(&mut self, frames: Vec<Queued>) {
        for queued in frames.into_iter().rev() {
            self.bytes += queued.frame.len();
            self.frames.push_front(queued);
        }
    }

    pub(super) fn pop(&mut self) -> Option<Queued> {
        let queued = self.frames.pop_front()?;
        self.bytes -= queued.frame.len();
        Some(queued)
    }

    /// Removes one that has waited for too long.
    pub(super) fn pop_expired(&mut self, now: Duration) -> Option<Queued> {
        self.deadline().filter(|deadline| *deadline <= now)?;
        self.pop()
    }

    /// Returns the time at which the first has waited for too long.
    pub(super) fn deadline(&self) -> Option<Duration> {
        let first = self.frames.front()?;
        Some(first.since.saturating_add(self.max_time))
    }

    /// Returns the numbers of the calls among them.
    pub(super) fn seqs(&self) -> impl Iterator<Item = u64> {
        self.frames
            .iter()
            .map(|queued| queued.seq)
            .filter(|seq| *seq != 0)
    }
}

impl Queued {
    pub(super) fn op(&self) -> u8 {
        self.frame[OP]
    }

    /// Makes it a request without an answer.
    pub(super) fn forget_seq(&mut self) {
        self.frame[SEQ].fill(0);
    }

    pub(super) fn set_op(&mut self, op: u8) {
        self.frame[OP] = op;
    }
}
