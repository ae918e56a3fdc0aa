//! The input that a connection has received and its codec has not consumed.
//!
//! The reactor receives bytes into its scratch buffer and decodes them there. Only the beginning of an incomplete frame is
//! kept, in a ring from the reactor's pool. So an idle connection holds no buffer.

use super::pool::BufferPool;
use super::ring::Ring;

/// A connection's unconsumed input.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct Inbox {
    ring: Ring,
    /// The codec needs at least this many bytes to make progress.
    need: u32,
    /// The number of successive frames for which the codec consumed nothing.
    in_vain: u32,
}

/// Input of up to this size is copied into the scratch buffer before the next read. More than that stays in the ring, and
/// the next read goes into the ring too.
const PREPEND_MAX: usize = 4 << 10;

/// The most memory reserved for a frame only because its header announces the length. Beyond that, the buffer doubles as
/// the bytes arrive.
const MAX_UNPROVEN: usize = 1 << 20;

impl Inbox {
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.ring.len()
    }

    /// Returns true if the codec may be able to decode a frame.
    pub(crate) fn is_ready(&self) -> bool {
        !self.ring.is_empty() && self.ring.len() >= self.need as usize
    }

    /// Keeps the input that the codec left in the scratch buffer.
    pub(crate) fn keep(&mut self, rest: &[u8], pool: &mut BufferPool) {
        pool.reserve(&mut self.ring, rest.len());
        self.ring.write(rest);
    }

    /// Sets the number of bytes that the codec needs to make progress, and the number of successive frames for which it
    /// consumed nothing.
    pub(crate) fn set_need(&mut self, at_least: usize, in_vain: u32) {
        self.need = u32::try_from(at_least).unwrap_or(u32::MAX);
        self.in_vain = in_vain;
    }

    /// Returns the number of successive frames for which the codec consumed nothing.
    pub(crate) fn in_vain(&self) -> u32 {
        self.in_vain
    }

    /// Moves the input to the front of `scratch` if it is small, so that the next read goes behind it.
    ///
    /// Returns the number of bytes moved. Returns `None` if the rest of the frame should be read
    /// [directly into the ring](Self::spare_mut) instead.
    pub(crate) fn move_to(&mut self, scratch: &mut [u8], pool: &mut BufferPool) -> Option<usize> {
        let len = self.ring.len();
        if len == 0 {
            self.set_need(0, 0);
            return Some(0);
        }
        if len > PREPEND_MAX || self.need as usize > scratch.len() / 2 {
            return None;
        }
        let (first, second) = self.ring.as_slices();
        scratch[..first.len()].copy_from_slice(first);
        scratch[first.len()..len].copy_from_slice(second);
        self.clear(pool);
        Some(len)
    }

    /// Returns free space behind the input, to receive into.
    pub(crate) fn spare_mut(&mut self, pool: &mut BufferPool) -> &mut [u8] {
        if self.ring.free() == 0 || self.ring.capacity() < self.need as usize {
            let missing = (self.need as usize).saturating_sub(self.ring.len());
            let additional = missing.min(MAX_UNPROVEN.max(self.ring.len()));
            pool.reserve(&mut self.ring, additional.max(PREPEND_MAX));
        }
        self.ring.spare_mut()
    }

    /// Counts `n` bytes received into [`spare_mut`](Self::spare_mut).
    pub(crate) fn received(&mut self, n: usize) {
        self.ring.commit(n);
    }

    /// Takes the input out to decode it, so that a callback can borrow the connection meanwhile.
    pub(crate) fn take(&mut self) -> Ring {
        std::mem::take(&mut self.ring)
    }

    /// Puts back the ring that [`take`](Self::take) returned, after the codec has consumed some of it.
    pub(crate) fn put_back(&mut self, mut ring: Ring, pool: &mut BufferPool) {
        if ring.is_empty() {
            pool.release(&mut ring);
        }
        self.ring = ring;
    }

    /// Returns a copy of the first bytes, at most `most`.
    pub(crate) fn beginning(&self, most: usize) -> Box<[u8]> {
        let (first, second) = self.ring.as_slices();
        first.iter().chain(second).take(most).copied().collect()
    }

    /// Takes out all input.
    pub(crate) fn take_bytes(&mut self, pool: &mut BufferPool) -> Vec<u8> {
        let (first, second) = self.ring.as_slices();
        let bytes = [first, second].concat();
        self.clear(pool);
        bytes
    }

    pub(crate) fn clear(&mut self, pool: &mut BufferPool) {
        pool.release(&mut self.ring);
        self.set_need(0, 0);
    }
}
