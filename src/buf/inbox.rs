//! What a connection has received and its codec has not yet consumed.
//!
//! Bytes are received into the reactor's scratch buffer and decoded there; only an incomplete frame's
//! beginning is kept, in a ring lent by the reactor's pool. So an idle connection holds no buffer.

use super::pool::BufferPool;
use super::ring::Ring;

/// A connection's leftover input.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct Inbox {
    ring: Ring,
    /// The codec asked not to be called again with fewer bytes than this.
    need: u32,
    /// How many frames in a row the codec has found in it without consuming anything.
    in_vain: u32,
}

/// A leftover of up to this size is copied in front of the next read rather than read behind.
const PREPEND_MAX: usize = 4 << 10;

/// The most memory set aside on a peer's word alone; beyond it a buffer doubles as the bytes arrive.
const TRUSTED: usize = 1 << 20;

impl Inbox {
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.ring.len()
    }

    /// Whether the codec may be able to decode what is here.
    pub(crate) fn is_ready(&self) -> bool {
        !self.ring.is_empty() && self.ring.len() >= self.need as usize
    }

    /// Keeps a leftover that was decoded in the scratch buffer.
    pub(crate) fn keep(&mut self, leftover: &[u8], pool: &mut BufferPool) {
        pool.reserve(&mut self.ring, leftover.len());
        self.ring.write(leftover);
    }

    /// Tells how many bytes must be here before decoding again makes sense, and how many frames were found in vain.
    pub(crate) fn set_need(&mut self, at_least: usize, in_vain: u32) {
        self.need = u32::try_from(at_least).unwrap_or(u32::MAX);
        self.in_vain = in_vain;
    }

    /// How many frames in a row the codec has found in it without consuming anything.
    pub(crate) fn in_vain(&self) -> u32 {
        self.in_vain
    }

    /// Moves a small leftover to the front of `scratch`, to be decoded together with what is read behind it.
    ///
    /// Answers how many bytes that were, or `None` when the rest of the frame should be read
    /// [straight into the ring](Self::spare_mut) instead.
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

    /// Room to receive into, behind the leftover.
    pub(crate) fn spare_mut(&mut self, pool: &mut BufferPool) -> &mut [u8] {
        if self.ring.free() == 0 || self.ring.capacity() < self.need as usize {
            let missing = (self.need as usize).saturating_sub(self.ring.len());
            let additional = missing.min(TRUSTED.max(self.ring.len()));
            pool.reserve(&mut self.ring, additional.max(PREPEND_MAX));
        }
        self.ring.spare_mut()
    }

    /// Counts `n` bytes received into [`spare_mut`](Self::spare_mut).
    pub(crate) fn received(&mut self, n: usize) {
        self.ring.commit(n);
    }

    /// Takes the leftover out to decode it, so that the connection can be lent to a callback meanwhile.
    pub(crate) fn take(&mut self) -> Ring {
        std::mem::take(&mut self.ring)
    }

    /// Puts back what [`take`](Self::take) took, less what was consumed since.
    pub(crate) fn put_back(&mut self, mut ring: Ring, pool: &mut BufferPool) {
        if ring.is_empty() {
            pool.release(&mut ring);
        }
        self.ring = ring;
    }

    /// A copy of its first bytes, so many at the most.
    pub(crate) fn beginning(&self, most: usize) -> Box<[u8]> {
        let (first, second) = self.ring.as_slices();
        first.iter().chain(second).take(most).copied().collect()
    }

    /// Takes everything out.
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
