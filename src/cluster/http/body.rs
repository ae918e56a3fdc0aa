//! The memory of the bodies of requests, of which all connections together have a bound.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The memory that all bodies share.
#[derive(Debug)]
pub(super) struct Room {
    held: AtomicU64,
    max: u64,
}

/// A body that arrives.
pub(super) struct Body {
    bytes: Vec<u8>,
    /// The length that was announced, or the longest one that is allowed.
    expected: u64,
    share: Share,
}

/// The part of the room that a body takes. A drop gives it back.
pub(super) struct Share {
    room: Arc<Room>,
    held: u64,
}

/// There is no room.
#[derive(Debug)]
pub(super) struct NoRoom;

impl Room {
    pub(super) fn new(max: u64) -> Arc<Self> {
        let held = AtomicU64::new(0);
        Arc::new(Self { held, max })
    }

    /// Returns the bytes that are taken.
    pub(super) fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// Returns true if this many more bytes have no room now.
    pub(super) fn lacks(&self, bytes: u64) -> bool {
        bytes > self.max.saturating_sub(self.held())
    }
}

impl Share {
    fn grow(&mut self, to: u64) -> Result<(), NoRoom> {
        let more = to.saturating_sub(self.held);
        let taken = |held: u64| held.checked_add(more).filter(|held| *held <= self.room.max);
        let held = &self.room.held;
        let grown = held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken);
        grown.map_err(|_| NoRoom)?;
        self.held += more;
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.room.held.fetch_sub(self.held, Ordering::Relaxed);
    }
}

impl Body {
    /// Returns an empty one. It takes room as its bytes arrive: clients that only announce them take none.
    pub(super) fn new(room: &Arc<Room>, expected: u64) -> Self {
        let share = Share {
            room: room.clone(),
            held: 0,
        };
        Self {
            bytes: Vec::new(),
            expected,
            share,
        }
    }

    pub(super) fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    pub(super) fn push(&mut self, part: &[u8]) -> Result<(), NoRoom> {
        let len = self.bytes.len() + part.len();
        if len > self.bytes.capacity() {
            let expected = usize::try_from(self.expected).unwrap_or(usize::MAX);
            let capacity = (2 * self.bytes.capacity()).min(expected).max(len);
            self.share.grow(capacity as u64)?;
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
        self.bytes.extend_from_slice(part);
        Ok(())
    }

    /// Returns the bytes, and their share of the room, which they need until they are dropped.
    pub(super) fn into_parts(self) -> (Vec<u8>, Share) {
        (self.bytes, self.share)
    }
}
