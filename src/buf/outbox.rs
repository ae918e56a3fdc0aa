//! What a connection has written and the kernel has not yet taken.
//!
//! A write goes one of two ways. While nothing waits, it is *staged*: appended to the reactor's arena,
//! where the replies of a turn lie back to back until the flush phase sends each connection's stretch
//! with one system call. What the kernel does not take then, and every write behind it, waits in the
//! connection's own *backlog*: one coalescing ring for copied bytes, and shared [`Bytes`] by reference.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use bytes::Bytes;

use super::pool::BufferPool;
use super::ring::{self, Ring};

/// Where a codec writes an encoded frame.
///
/// It appends to the connection's output: small pieces are copied, large shared ones kept by reference.
///
/// ```
/// use epicycle::codec::{Codec, Decoded, Encode, FrameError, encode_to_vec};
/// use epicycle::Outbox;
///
/// struct Shout;
///
/// impl Codec for Shout {
///     type Frame<'a> = &'a [u8];
///     fn decode<'a>(&mut self, src: &'a mut [u8]) -> Result<Decoded<&'a [u8]>, FrameError> {
///         Ok(Decoded::Frame { consumed: src.len(), frame: src })
///     }
/// }
///
/// impl Encode<&str> for Shout {
///     fn encode(&mut self, item: &str, dst: &mut Outbox<'_>) -> Result<(), FrameError> {
///         dst.put(item.to_uppercase().as_bytes());
///         dst.put(b"!");
///         Ok(())
///     }
/// }
///
/// assert_eq!(encode_to_vec(&mut Shout, "hello")?, b"HELLO!");
/// # Ok::<(), FrameError>(())
/// ```
#[derive(Debug)]
pub struct Outbox<'a> {
    queue: &'a mut OutQueue,
    arena: &'a mut Arena,
    pool: &'a mut BufferPool,
}

impl<'a> Outbox<'a> {
    #[inline]
    pub(crate) fn new(
        queue: &'a mut OutQueue,
        arena: &'a mut Arena,
        pool: &'a mut BufferPool,
    ) -> Self {
        Self { queue, arena, pool }
    }

    /// How many bytes wait to be sent on this connection, these included.
    #[inline]
    pub fn len(&self) -> usize {
        self.queue.len
    }

    /// Whether nothing waits to be sent.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.queue.len == 0
    }

    /// Appends a copy of `bytes`.
    #[inline]
    pub fn put(&mut self, bytes: &[u8]) {
        let queue = &mut *self.queue;
        let staged = if queue.len == 0 && queue.order.is_none() {
            queue.stage(bytes, self.arena)
        } else {
            queue.stage_more(bytes, self.arena)
        };
        if !staged {
            self.enqueue(bytes);
        }
    }

    /// Appends `bytes` by reference when they are large enough for that to pay, else a copy.
    pub fn put_shared(&mut self, bytes: Bytes) {
        if bytes.len() <= SHARED_MIN {
            return self.put(&bytes);
        }
        self.queue.unstage(self.arena, self.pool);
        self.queue.enqueue_shared(bytes);
    }

    /// Appends a copy behind what the kernel has refused before.
    #[cold]
    fn enqueue(&mut self, bytes: &[u8]) {
        self.queue.unstage(self.arena, self.pool);
        // What is long would only be copied again while the ring grows around it.
        if bytes.len() > RING_PIECE || self.queue.ring.len() > ring::MAX_CAPACITY / 4 {
            self.queue.enqueue_shared(Bytes::copy_from_slice(bytes));
        } else {
            self.queue.enqueue(bytes, self.pool);
        }
    }

    /// Takes back everything past the first `len` bytes: a frame whose encoding failed half-way.
    pub(crate) fn rollback(&mut self, len: usize) {
        let queue = &mut *self.queue;
        let excess = queue.len.saturating_sub(len);
        if excess == 0 {
            return;
        }
        if queue.staged.len > 0 {
            // Only the newest stretch of the arena can have been written by a call still under way.
            let keep = (queue.staged.len as usize).saturating_sub(excess);
            queue.len -= queue.staged.len as usize - keep;
            queue.staged.len = keep as u32;
            self.arena.len = queue.staged.start as usize + keep;
        } else {
            queue.drop_newest(excess);
            if queue.ring.is_empty() {
                self.pool.release(&mut queue.ring);
            }
        }
    }
}

impl io::Write for Outbox<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.put(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Shared bytes up to this size are copied: cheaper than a reference count and a queue entry.
const SHARED_MIN: usize = 512;

/// The longest piece that is coalesced with others.
const RING_PIECE: usize = 1 << 20;

/// The reactor's arena: the staged output of every connection written to in this turn.
#[derive(Debug)]
pub(crate) struct Arena {
    bytes: Box<[u8]>,
    len: usize,
}

/// The most bytes staged before a flush: small enough to stay in a core's second-level cache.
const ARENA_CAPACITY: usize = 256 << 10;

impl Arena {
    pub(crate) fn new() -> Self {
        Self {
            bytes: vec![0; ARENA_CAPACITY].into_boxed_slice(),
            len: 0,
        }
    }

    /// An arena that takes nothing, so that every write becomes backlog.
    pub(crate) fn empty() -> Self {
        Self {
            bytes: Box::default(),
            len: 0,
        }
    }

    #[inline]
    pub(crate) fn get(&self, staged: Staged) -> &[u8] {
        &self.bytes[staged.start as usize..][..staged.len as usize]
    }

    /// Appends `bytes` if there is room for them.
    #[inline]
    fn append(&mut self, bytes: &[u8]) -> bool {
        let room = self.bytes.get_mut(self.len..).unwrap_or_default();
        let Some(place) = room.get_mut(..bytes.len()) else {
            return false;
        };
        place.copy_from_slice(bytes);
        self.len += bytes.len();
        true
    }

    /// Forgets everything staged; for after the flush phase.
    #[inline]
    pub(crate) fn clear(&mut self) {
        self.len = 0;
    }

    /// Whether it should be flushed before more connections are served.
    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.len > ARENA_CAPACITY / 2
    }
}

/// A connection's stretch of the arena.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Staged {
    start: u32,
    len: u32,
}

impl Staged {
    #[inline]
    pub(crate) fn is_empty(self) -> bool {
        self.len == 0
    }
}

/// A connection's output: either staged in the arena, or in its own backlog, never both.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct OutQueue {
    len: usize,
    staged: Staged,
    ring: Ring,
    /// The order of ring stretches and shared bytes; none while all of the backlog is in the ring.
    #[allow(
        clippy::box_collection,
        reason = "few connections have one, and each pays for the field"
    )]
    order: Option<Box<VecDeque<Segment>>>,
    /// How many of the newest backlog bytes `pre_write` has not been shown.
    unseen: usize,
}

#[derive(Debug)]
enum Segment {
    Ring(usize),
    Shared(Bytes),
}

/// A connection with this much output is flushed before its next frame.
pub(crate) const FLUSH_AT: usize = 64 << 10;

/// The most slices handed to one vectored write; Linux takes up to 1,024.
pub(crate) const MAX_SLICES: usize = 64;

impl OutQueue {
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Stages the first output of a turn, while there is no backlog; says whether there was room.
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
        self.unseen = 0;
    }

    /// Appends to the backlog `bytes` of which `pre_write` has already seen everything.
    pub(crate) fn enqueue_seen(&mut self, bytes: &[u8], pool: &mut BufferPool) {
        let unseen = self.unseen;
        self.enqueue(bytes, pool);
        self.unseen = unseen;
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
        self.unseen += bytes.len();
        if let Some(order) = &mut self.order {
            match order.back_mut() {
                Some(Segment::Ring(len)) => *len += bytes.len(),
                _ => order.push_back(Segment::Ring(bytes.len())),
            }
        }
    }

    fn enqueue_shared(&mut self, bytes: Bytes) {
        self.len += bytes.len();
        self.unseen += bytes.len();
        self.order().push_back(Segment::Shared(bytes));
    }

    /// Keeps a place behind everything written so far, to be filled before the next flush.
    pub(crate) fn reserve_place(&mut self, arena: &Arena, pool: &mut BufferPool) -> usize {
        self.unstage(arena, pool);
        let order = self.order();
        order.push_back(Segment::Shared(Bytes::new()));
        order.len() - 1
    }

    /// Fills a place that [`reserve_place`](Self::reserve_place) kept.
    pub(crate) fn fill_place(&mut self, place: usize, bytes: Bytes) {
        if let Some(segment) = self.order.as_mut().and_then(|order| order.get_mut(place)) {
            self.len += bytes.len();
            self.unseen += bytes.len();
            *segment = Segment::Shared(bytes);
        }
    }

    fn order(&mut self) -> &mut VecDeque<Segment> {
        let in_ring = self.ring.len();
        self.order.get_or_insert_with(|| {
            let mut order = VecDeque::with_capacity(4);
            if in_ring > 0 {
                order.push_back(Segment::Ring(in_ring));
            }
            Box::new(order)
        })
    }

    /// The oldest backlog bytes, as slices for one vectored write; says how many slices there are.
    pub(crate) fn slices<'a>(&'a self, into: &mut [IoSlice<'a>; MAX_SLICES]) -> usize {
        let mut count = 0;
        self.each_slice(|slice| {
            into[count] = IoSlice::new(slice);
            count += 1;
            count < MAX_SLICES
        });
        count
    }

    /// Shows the backlog bytes that `show` has not seen yet, once each.
    #[inline]
    pub(crate) fn show_unseen(&mut self, mut show: impl FnMut(&[u8])) {
        let mut seen = self.backlog_len() - self.unseen;
        self.unseen = 0;
        self.each_slice(|slice| {
            let skipped = seen.min(slice.len());
            seen -= skipped;
            if skipped < slice.len() {
                show(&slice[skipped..]);
            }
            true
        });
    }

    /// Calls `visit` with the backlog's stretches, oldest first, none of them empty, while it answers true.
    fn each_slice<'a>(&'a self, mut visit: impl FnMut(&'a [u8]) -> bool) {
        let (first, second) = self.ring.as_slices();
        let mut visit = |slice: &'a [u8]| slice.is_empty() || visit(slice);
        let Some(order) = &self.order else {
            let _ = visit(first) && visit(second);
            return;
        };
        let split = first.len();
        let mut offset = 0;
        for segment in order.iter() {
            let go_on = match segment {
                Segment::Shared(bytes) => visit(bytes),
                Segment::Ring(len) => {
                    let start = offset;
                    offset += len;
                    visit(&first[start.min(split)..offset.min(split)])
                        && visit(&second[start.saturating_sub(split)..offset.saturating_sub(split)])
                }
            };
            if !go_on {
                break;
            }
        }
    }

    /// The kernel took the `n` oldest backlog bytes.
    pub(crate) fn backlog_sent(&mut self, n: usize, pool: &mut BufferPool) {
        self.len -= n;
        if let Some(order) = &mut self.order {
            let mut left = n;
            let mut from_ring = 0;
            while left > 0 {
                match order.front_mut() {
                    Some(Segment::Ring(len)) => {
                        let taken = left.min(*len);
                        *len -= taken;
                        left -= taken;
                        from_ring += taken;
                        if *len > 0 {
                            break;
                        }
                    }
                    Some(Segment::Shared(bytes)) => {
                        let taken = left.min(bytes.len());
                        bytes::Buf::advance(bytes, taken);
                        left -= taken;
                        if !bytes.is_empty() {
                            break;
                        }
                    }
                    None => break,
                }
                order.pop_front();
            }
            self.ring.consume(from_ring);
            if order.is_empty() {
                self.order = None;
            }
        } else {
            self.ring.consume(n);
        }
        if self.ring.is_empty() {
            pool.release(&mut self.ring);
        }
    }

    /// Forgets everything: the connection is closing without a drain.
    pub(crate) fn clear(&mut self, pool: &mut BufferPool) {
        if self.len > 0 {
            pool.release(&mut self.ring);
            *self = Self::default();
        }
    }

    fn drop_newest(&mut self, n: usize) {
        let mut left = n.min(self.backlog_len());
        self.len -= left;
        self.unseen = self.unseen.saturating_sub(left);
        let Some(order) = &mut self.order else {
            self.ring.truncate(self.ring.len() - left);
            return;
        };
        while left > 0 {
            match order.back_mut() {
                Some(Segment::Ring(len)) => {
                    let taken = left.min(*len);
                    *len -= taken;
                    left -= taken;
                    self.ring.truncate(self.ring.len() - taken);
                    if *len > 0 {
                        break;
                    }
                }
                Some(Segment::Shared(bytes)) => {
                    let taken = left.min(bytes.len());
                    bytes.truncate(bytes.len() - taken);
                    left -= taken;
                    if !bytes.is_empty() {
                        break;
                    }
                }
                None => break,
            }
            order.pop_back();
        }
        if order.is_empty() {
            self.order = None;
        }
    }
}
