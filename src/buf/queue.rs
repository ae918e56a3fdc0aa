//! The output that a connection has written and the kernel has not accepted.
//!
//! A write goes one of two ways:
//!
//! - While nothing waits, it is *staged*: appended to the reactor's arena. The output of all connections in a turn lies
//!   there back to back. The flush phase sends the bytes of each connection with one system call.
//! - Bytes that the kernel does not accept then, and all later writes, wait in the connection's own *backlog*. It consists of
//!   a ring for copied bytes, shared [`Bytes`] kept by reference, parts of files, and bytes in a kernel pipe.

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

/// A connection's output. It is either staged in the arena or in the backlog, never in both.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct OutQueue {
    len: usize,
    staged: Staged,
    ring: Ring,
    /// The order of the backlog. `None` while all of it is in the ring. It is boxed because few connections have one, and
    /// every connection pays for the field.
    order: Option<Box<Order>>,
    /// The number of the newest bytes written by the application that `pre_write` has not seen. Without meaning if the handler
    /// has none.
    unseen: Cell<usize>,
}

/// The bytes of memory that the outbound limit counts for a file segment: its descriptor and its place in the backlog.
pub(crate) const STRETCH_COST: usize = 4 << 10;

/// The longest piece that is copied into the ring.
const RING_PIECE: usize = 1 << 20;

/// A connection with this many bytes of output is flushed before its next frame.
pub(crate) const FLUSH_AT: usize = 64 << 10;

/// The most slices passed to one vectored write. Linux accepts up to 1,024.
pub(crate) const MAX_SLICES: usize = 64;

impl OutQueue {
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Returns the number of these bytes that are in memory, plus [`STRETCH_COST`] for each file segment.
    #[inline]
    pub(crate) fn in_memory(&self) -> usize {
        match &self.order {
            Some(order) => self.len - order.outside_memory() + order.files() * STRETCH_COST,
            None => self.len,
        }
    }

    /// Stages the first output of a turn, if nothing waits. Returns false if the arena has no room.
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

    /// Stages more output, if there is no backlog and no other connection has staged anything since.
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

    /// Stages the bytes if possible. Returns false if they must go to the backlog.
    #[inline]
    pub(super) fn stage_any(&mut self, bytes: &[u8], arena: &mut Arena) -> bool {
        if self.is_unused() {
            self.stage(bytes, arena)
        } else {
            self.stage_more(bytes, arena)
        }
    }

    /// Returns true if nothing is in it, not even an empty segment.
    #[inline]
    pub(crate) fn is_unused(&self) -> bool {
        self.len == 0 && self.order.is_none()
    }

    /// Returns true if a write may be staged now, given room in the arena.
    #[inline]
    pub(super) fn can_stage(&self, arena: &Arena) -> bool {
        if self.len == 0 {
            return self.order.is_none();
        }
        let end = (self.staged.start + self.staged.len) as usize;
        self.len == self.staged.len as usize && end == arena.len
    }

    /// Stages `len` bytes that have been written directly behind everything in the arena.
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

    /// Removes all staged bytes, which the kernel has accepted.
    #[inline]
    pub(crate) fn staged_sent(&mut self) {
        self.len = 0;
        self.staged.len = 0;
    }

    /// Removes the first `sent` staged bytes, which the kernel has accepted. The rest becomes backlog; `pre_write` has seen
    /// it already.
    pub(crate) fn staged_refused(&mut self, sent: usize, arena: &Arena, pool: &mut BufferPool) {
        let staged = arena.get(self.staged);
        self.staged.len = 0;
        self.len = 0;
        self.enqueue(&staged[sent..], pool);
        self.unseen.set(0);
    }

    /// Appends bytes to the backlog that `pre_write` has already seen.
    pub(crate) fn enqueue_seen(&mut self, bytes: &[u8], pool: &mut BufferPool) {
        let unseen = self.unseen.get();
        self.enqueue(bytes, pool);
        self.unseen.set(unseen);
    }

    /// Moves staged bytes into the backlog, so that something can be queued behind them.
    pub(crate) fn unstage(&mut self, arena: &Arena, pool: &mut BufferPool) {
        if self.staged.is_empty() {
            return;
        }
        let staged = arena.get(self.staged);
        self.len -= staged.len();
        self.staged.len = 0;
        self.enqueue(staged, pool);
    }

    /// Appends a copy to the backlog.
    #[cold]
    pub(crate) fn enqueue_copy(&mut self, bytes: &[u8], arena: &Arena, pool: &mut BufferPool) {
        // A long piece in the ring would be copied again each time the ring grows.
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
        // Doubling keeps the total cost of copying linear while the backlog grows.
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

    /// Appends a part of a file.
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

    /// Appends the `len` bytes that are in a kernel pipe. Nothing else may wait.
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

    /// Fills `into` with slices of the oldest backlog bytes, for one vectored write, up to the first byte that is not in
    /// memory. Returns the number of slices.
    pub(crate) fn slices<'a>(&'a self, into: &mut [IoSlice<'a>; MAX_SLICES]) -> usize {
        let mut count = 0;
        self.each_slice(|slice, _| {
            // A segment outside memory must be sent before the bytes behind it.
            if slice.is_empty() {
                return false;
            }
            into[count] = IoSlice::new(slice);
            count += 1;
            count < MAX_SLICES
        });
        count
    }

    /// Returns the kind of the backlog's first segment.
    #[inline]
    pub(crate) fn front(&self) -> Front<'_> {
        self.order
            .as_ref()
            .map_or(Front::Memory, |order| order.front())
    }

    /// Returns the number of file segments.
    pub(crate) fn files(&self) -> usize {
        self.order.as_ref().map_or(0, |order| order.files())
    }

    /// Returns the file segment to read next: the one at the front of the backlog, or the one behind bytes that were read
    /// from it.
    pub(crate) fn next_file(&self) -> Option<&FileStretch> {
        self.order.as_ref()?.next_file()
    }

    /// Passes those bytes of the backlog to `show` that the application wrote and `show` has not seen, once each. If `show`
    /// panics, the bytes passed to it so far count as seen.
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

    /// Calls `visit` with each slice of the backlog, oldest first, until it returns false. The second argument is true if
    /// the application wrote the slice. A segment outside memory is visited as an empty slice; no other slice is empty.
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

    /// Removes the `n` oldest backlog bytes, which the kernel has accepted.
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

    /// Inserts bytes that were read from the [next file](Self::next_file), in the place of that part of it.
    pub(crate) fn file_read(&mut self, bytes: Bytes) {
        if let Some(order) = &mut self.order {
            order.file_read(bytes);
        }
    }

    /// Removes `n` bytes, which the kernel has accepted from the pipe at the front of the backlog. Returns the pipe once it is
    /// empty.
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

    /// Drops all output, because the connection closes without a drain.
    pub(crate) fn clear(&mut self, pool: &mut BufferPool) {
        if self.len > 0 {
            pool.release(&mut self.ring);
            *self = Self::default();
        }
    }

    /// Drops everything after the first `len` bytes. These can be copies and shared bytes, but not bytes of a file.
    pub(super) fn rollback(&mut self, len: usize, arena: &mut Arena, pool: &mut BufferPool) {
        let excess = self.len.saturating_sub(len);
        if excess == 0 {
            return;
        }
        if self.staged.len > 0 {
            // The call under way has written the newest bytes of the arena, and nothing is behind them.
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
