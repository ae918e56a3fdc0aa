//! What a connection has written and the kernel has not yet taken.
//!
//! A write goes one of two ways. While nothing waits, it is *staged*: appended to the reactor's arena,
//! where the replies of a turn lie back to back until the flush phase sends each connection's stretch
//! with one system call. What the kernel does not take then, and every write behind it, waits in the
//! connection's own *backlog*: one coalescing ring for copied bytes, shared [`Bytes`] by reference, and what is
//! not in memory at all: stretches of files, and bytes in a pipe of the kernel's.

#[cfg(all(test, not(loom)))]
mod tests;

use std::cell::Cell;
use std::io::IoSlice;

use bytes::Bytes;

use super::order::{FileStretch, Front, Order, Segment};
use super::outbox::{Arena, Staged};
use super::pool::BufferPool;
use super::ring::{self, Ring};
use crate::sys::transfer::KernelPipe;

/// A connection's output: either staged in the arena, or in its own backlog, never both.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct OutQueue {
    len: usize,
    staged: Staged,
    ring: Ring,
    /// None while all of the backlog is in the ring. Few connections have one, and each pays for the field.
    order: Option<Box<Order>>,
    /// How many of the newest bytes that the application wrote `pre_write` has not been shown.
    unseen: Cell<usize>,
}

/// What a stretch of a file counts as in memory: its descriptor, and its place here.
pub(crate) const STRETCH_COST: usize = 4 << 10;

/// The longest piece that is coalesced with others.
const RING_PIECE: usize = 1 << 20;

/// A connection with this much output is flushed before its next frame.
pub(crate) const FLUSH_AT: usize = 64 << 10;

/// The most slices handed to one vectored write; Linux takes up to 1,024.
pub(crate) const MAX_SLICES: usize = 64;

impl OutQueue {
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// How many of these bytes are in memory, with a little for each stretch of a file.
    #[inline]
    pub(crate) fn in_memory(&self) -> usize {
        match &self.order {
            Some(order) => self.len - order.elsewhere() + order.files() * STRETCH_COST,
            None => self.len,
        }
    }

    /// Stages the first output of a turn, while there is no backlog; returns whether there was room.
    #[inline]
    pub(crate) fn stage(&mut self, bytes: &[u8], arena: &mut Arena) -> bool {
        let start = arena.len;
        let fits = arena.append(bytes);
        if fits {
            self.staged = Staged {
                start: start as u32,
                len: bytes.len() as u32,
            };
            self.len = bytes.len();
        }
        fits
    }

    /// Stages more, if what is staged is all there is and nobody has staged anything behind it.
    fn stage_more(&mut self, bytes: &[u8], arena: &mut Arena) -> bool {
        let end = (self.staged.start + self.staged.len) as usize;
        let fits = !self.staged.is_empty()
            && self.len == self.staged.len as usize
            && end == arena.len
            && arena.append(bytes);
        if fits {
            self.staged.len += bytes.len() as u32;
            self.len += bytes.len();
        }
        fits
    }

    /// Stages what may be staged; returns whether it was.
    #[inline]
    pub(super) fn stage_any(&mut self, bytes: &[u8], arena: &mut Arena) -> bool {
        if self.len == 0 && self.order.is_none() {
            self.stage(bytes, arena)
        } else {
            self.stage_more(bytes, arena)
        }
    }

    /// Whether what is written now may be staged, if there is room.
    #[inline]
    pub(super) fn can_stage(&self, arena: &Arena) -> bool {
        if self.len == 0 {
            return self.order.is_none();
        }
        let end = (self.staged.start + self.staged.len) as usize;
        self.len == self.staged.len as usize && end == arena.len
    }

    /// Stages what has been written behind everything in the arena.
    #[inline]
    pub(super) fn staged_more(&mut self, len: usize, arena: &mut Arena) {
        if self.len == 0 {
            self.staged.start = arena.len as u32;
        }
        arena.len += len;
        self.staged.len += len as u32;
        self.len += len;
    }

    #[inline]
    pub(crate) fn staged(&self) -> Staged {
        self.staged
    }

    #[inline]
    pub(crate) fn backlog_len(&self) -> usize {
        self.len - self.staged.len as usize
    }

    /// The kernel took all that was staged.
    #[inline]
    pub(crate) fn staged_sent(&mut self) {
        self.len = 0;
        self.staged.len = 0;
    }

    /// The kernel took only `sent` bytes of what was staged: the rest, already shown to `pre_write`, becomes backlog.
    pub(crate) fn staged_refused(&mut self, sent: usize, arena: &Arena, pool: &mut BufferPool) {
        let staged = arena.get(self.staged);
        self.staged.len = 0;
        self.len = 0;
        self.enqueue(&staged[sent..], pool);
        self.unseen.set(0);
    }

    /// Appends to the backlog `bytes` of which `pre_write` has already seen everything.
    pub(crate) fn enqueue_seen(&mut self, bytes: &[u8], pool: &mut BufferPool) {
        let unseen = self.unseen.get();
        self.enqueue(bytes, pool);
        self.unseen.set(unseen);
    }

    /// Moves what is staged into the backlog, because something must be queued behind it.
    pub(crate) fn unstage(&mut self, arena: &Arena, pool: &mut BufferPool) {
        if self.staged.is_empty() {
            return;
        }
        let staged = arena.get(self.staged);
        self.len -= staged.len();
        self.staged.len = 0;
        self.enqueue(staged, pool);
    }

    /// Appends a copy behind what the kernel has refused before.
    #[cold]
    pub(super) fn enqueue_copy(&mut self, bytes: &[u8], arena: &Arena, pool: &mut BufferPool) {
        // What is long would only be copied again while the ring grows around it.
        if bytes.len() > RING_PIECE || self.ring.len() > ring::MAX_CAPACITY / 4 {
            self.enqueue_shared(Bytes::copy_from_slice(bytes), arena, pool);
        } else {
            self.unstage(arena, pool);
            self.enqueue(bytes, pool);
        }
    }

    pub(crate) fn enqueue(&mut self, bytes: &[u8], pool: &mut BufferPool) {
        if bytes.is_empty() {
            return;
        }
        // Doubling keeps the copying of a growing backlog linear.
        let additional = if bytes.len() > self.ring.free() {
            bytes.len().max(self.ring.len())
        } else {
            bytes.len()
        };
        pool.reserve(&mut self.ring, additional);
        self.ring.write(bytes);
        self.len += bytes.len();
        *self.unseen.get_mut() += bytes.len();
        if let Some(order) = &mut self.order {
            order.push(Segment::Ring(bytes.len()));
        }
    }

    /// Appends shared bytes by reference.
    pub(super) fn enqueue_shared(&mut self, bytes: Bytes, arena: &Arena, pool: &mut BufferPool) {
        self.unstage(arena, pool);
        self.len += bytes.len();
        *self.unseen.get_mut() += bytes.len();
        self.order().push(Segment::Shared(bytes));
    }

    /// Appends a stretch of a file.
    pub(crate) fn enqueue_file(
        &mut self,
        stretch: FileStretch,
        arena: &Arena,
        pool: &mut BufferPool,
    ) {
        if stretch.left == 0 {
            return;
        }
        self.unstage(arena, pool);
        self.len += stretch.left;
        self.order().push(Segment::File(stretch));
    }

    /// Appends bytes that the application did not write.
    pub(crate) fn enqueue_foreign(&mut self, bytes: Bytes, arena: &Arena, pool: &mut BufferPool) {
        if bytes.is_empty() {
            return;
        }
        self.unstage(arena, pool);
        self.len += bytes.len();
        self.order().push(Segment::Foreign(bytes));
    }

    /// Appends the `len` bytes that are in a pipe, while nothing else waits.
    pub(crate) fn enqueue_piped(&mut self, pipe: KernelPipe, len: usize) {
        self.len += len;
        self.order().push(Segment::Piped(pipe, len));
    }

    fn order(&mut self) -> &mut Order {
        let in_ring = self.ring.len();
        self.order.get_or_insert_with(|| {
            let mut order = Box::<Order>::default();
            if in_ring > 0 {
                order.push(Segment::Ring(in_ring));
            }
            order
        })
    }

    /// The oldest backlog bytes, up to the first that is not in memory, as slices for one vectored write; returns how
    /// many slices there are.
    pub(crate) fn slices<'a>(&'a self, into: &mut [IoSlice<'a>; MAX_SLICES]) -> usize {
        let mut count = 0;
        self.each_slice(|slice, _| {
            // Behind what is not in memory nothing can be sent yet.
            if slice.is_empty() {
                return false;
            }
            into[count] = IoSlice::new(slice);
            count += 1;
            count < MAX_SLICES
        });
        count
    }

    /// What the backlog begins with.
    #[inline]
    pub(crate) fn front(&self) -> Front<'_> {
        self.order
            .as_ref()
            .map_or(Front::Memory, |order| order.front())
    }

    /// How many stretches of files are in it.
    pub(crate) fn files(&self) -> usize {
        self.order.as_ref().map_or(0, |order| order.files())
    }

    /// The stretch of a file that is to be read next: one at the front of the backlog, or behind what has been
    /// read of it.
    pub(crate) fn next_file(&self) -> Option<&FileStretch> {
        self.order.as_ref()?.next_file()
    }

    /// Shows the backlog bytes that `show` has not seen yet, once each, as far as the application wrote them. Those that it
    /// was given before it panics count as seen.
    #[inline]
    pub(crate) fn show_unseen(&mut self, mut show: impl FnMut(&[u8])) {
        if self.unseen.get() == 0 {
            return;
        }
        let order = self.order.as_ref();
        let never_seen = order.map_or(0, |order| order.not_own());
        let mut seen = self.backlog_len() - never_seen - self.unseen.get();
        self.each_slice(|slice, own| {
            let slice = if own { slice } else { &[] };
            let skipped = seen.min(slice.len());
            seen -= skipped;
            let fresh = &slice[skipped..];
            if !fresh.is_empty() {
                self.unseen.set(self.unseen.get() - fresh.len());
                show(fresh);
            }
            true
        });
    }

    /// Calls `visit` with the backlog's stretches, oldest first, while it answers true, and with whether the
    /// application wrote it. None is empty but those that are not in memory.
    fn each_slice<'a>(&'a self, mut visit: impl FnMut(&'a [u8], bool) -> bool) {
        let (first, second) = self.ring.as_slices();
        let mut visit_own = |slice: &'a [u8]| slice.is_empty() || visit(slice, true);
        let Some(order) = &self.order else {
            let _ = visit_own(first) && visit_own(second);
            return;
        };
        let split = first.len();
        let mut offset = 0;
        for segment in order.iter() {
            let mut visit_own = |slice: &'a [u8]| slice.is_empty() || visit(slice, true);
            let go_on = match segment {
                Segment::Shared(bytes) => visit_own(bytes),
                Segment::Ring(len) => {
                    let start = offset;
                    offset += len;
                    let second_part = start.saturating_sub(split)..offset.saturating_sub(split);
                    visit_own(&first[start.min(split)..offset.min(split)])
                        && visit_own(&second[second_part])
                }
                Segment::Foreign(bytes) => visit(bytes, false),
                Segment::File(_) | Segment::Piped(..) => visit(&[], false),
            };
            if !go_on {
                break;
            }
        }
    }

    /// The kernel took the `n` oldest backlog bytes.
    pub(crate) fn backlog_sent(&mut self, n: usize, pool: &mut BufferPool) {
        self.len -= n;
        match &mut self.order {
            Some(order) => self.ring.consume(order.take_oldest(n)),
            None => self.ring.consume(n),
        }
        self.forget_order();
        if self.ring.is_empty() {
            pool.release(&mut self.ring);
        }
    }

    /// Puts bytes that have been read of the [next file](Self::next_file) in their place.
    pub(crate) fn file_read(&mut self, bytes: Bytes) {
        if let Some(order) = &mut self.order {
            order.file_read(bytes);
        }
    }

    /// The kernel took `n` bytes out of the pipe that the backlog begins with; gives it back once it is empty.
    pub(crate) fn pipe_sent(&mut self, n: usize) -> Option<KernelPipe> {
        let emptied = self.order.as_mut()?.pipe_sent(n);
        self.len -= n;
        self.forget_order();
        emptied
    }

    fn forget_order(&mut self) {
        if self.order.as_ref().is_some_and(|order| order.is_empty()) {
            self.order = None;
        }
    }

    /// Forgets everything: the connection is closing without a drain.
    pub(crate) fn clear(&mut self, pool: &mut BufferPool) {
        if self.len > 0 {
            pool.release(&mut self.ring);
            *self = Self::default();
        }
    }

    /// Takes back everything past the first `len` bytes: copies and shared bytes, never a file's.
    pub(super) fn rollback(&mut self, len: usize, arena: &mut Arena, pool: &mut BufferPool) {
        let excess = self.len.saturating_sub(len);
        if excess == 0 {
            return;
        }
        if self.staged.len > 0 {
            // Only the newest stretch of the arena can have been written by a call still under way.
            let keep = (self.staged.len as usize).saturating_sub(excess);
            self.len -= self.staged.len as usize - keep;
            self.staged.len = keep as u32;
            arena.len = self.staged.start as usize + keep;
        } else {
            self.drop_newest(excess);
            if self.ring.is_empty() {
                pool.release(&mut self.ring);
            }
        }
    }

    fn drop_newest(&mut self, n: usize) {
        let n = n.min(self.backlog_len());
        self.len -= n;
        self.unseen.set(self.unseen.get().saturating_sub(n));
        let in_ring = match &mut self.order {
            Some(order) => order.take_newest(n),
            None => n,
        };
        self.ring.truncate(self.ring.len() - in_ring);
        self.forget_order();
    }
}
