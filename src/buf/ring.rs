//! A byte ring over storage from a pool. Its capacity is a power of two, and its contents are at most two slices.

use std::ops::Range;

/// A ring of bytes.
///
/// The length of the storage is a power of two, or zero: a new ring owns no memory.
/// To grow a ring, [`BufferPool`](super::pool::BufferPool) moves its contents to larger storage.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Ring {
    len: u32,
    head: u32,
    storage: Box<[u8]>,
}

/// The largest capacity. Indexes are 32 bits wide, and the sum of two must not overflow.
pub const MAX_CAPACITY: usize = 1 << 30;

impl Ring {
    /// Creates a ring without storage: its capacity is 0.
    #[cfg(feature = "internals")]
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates an empty ring over `storage`.
    ///
    /// # Panics
    ///
    /// If the storage's length is neither 0 nor a power of two of at most [`MAX_CAPACITY`].
    pub fn over(storage: Box<[u8]>) -> Self {
        let capacity = storage.len();
        assert!(capacity == 0 || (capacity.is_power_of_two() && capacity <= MAX_CAPACITY));
        Self {
            storage,
            head: 0,
            len: 0,
        }
    }

    /// Takes the storage out. The ring is empty then, with capacity 0.
    pub fn take_storage(&mut self) -> Box<[u8]> {
        self.head = 0;
        self.len = 0;
        std::mem::take(&mut self.storage)
    }

    /// Returns the number of bytes in the ring.
    #[inline]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Returns true if the ring holds no bytes.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the number of bytes that the ring can hold.
    #[inline]
    pub fn capacity(&self) -> usize {
        self.storage.len()
    }

    /// Returns the number of bytes that still fit.
    #[inline]
    pub fn free(&self) -> usize {
        self.capacity() - self.len()
    }

    /// Returns the contents, oldest first, as two slices. The second may be empty.
    pub fn as_slices(&self) -> (&[u8], &[u8]) {
        let (first, second) = self.regions(self.head as usize, self.len());
        (&self.storage[first], &self.storage[second])
    }

    /// Copies as many of `bytes` into the ring as fit. Returns their number.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        let n = bytes.len().min(self.free());
        let (first, second) = self.regions(self.tail(), n);
        let split = first.len();
        self.storage[first].copy_from_slice(&bytes[..split]);
        self.storage[second].copy_from_slice(&bytes[split..n]);
        self.len += n as u32;
        n
    }

    /// Returns the first contiguous part of the free space. Fill it, then [`commit`](Self::commit).
    pub fn spare_mut(&mut self) -> &mut [u8] {
        if self.len == 0 {
            self.head = 0;
        }
        let (first, _) = self.regions(self.tail(), self.free());
        &mut self.storage[first]
    }

    /// Adds `n` bytes of [`spare_mut`](Self::spare_mut) to the contents.
    ///
    /// # Panics
    ///
    /// If `n` is greater than the length of that slice.
    pub fn commit(&mut self, n: usize) {
        let (spare, _) = self.regions(self.tail(), self.free());
        assert!(n <= spare.len(), "committed more than the spare stretch");
        self.len += n as u32;
    }

    /// Drops the `n` oldest bytes.
    ///
    /// # Panics
    ///
    /// If the ring holds fewer.
    pub fn consume(&mut self, n: usize) {
        assert!(n <= self.len(), "consumed more than the contents");
        self.len -= n as u32;
        self.head = if self.len == 0 {
            0
        } else {
            ((self.head as usize + n) & (self.capacity() - 1)) as u32
        };
    }

    /// Keeps the `len` oldest bytes and drops the rest, if there are more.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len().min(len) as u32;
    }

    /// Returns the contents as one slice. Moves them if they wrap around the end.
    pub fn make_contiguous(&mut self) -> &mut [u8] {
        let len = self.len();
        if self.head as usize + len > self.capacity() {
            self.storage.rotate_left(self.head as usize);
            self.head = 0;
        }
        let head = self.head as usize;
        &mut self.storage[head..head + len]
    }

    fn tail(&self) -> usize {
        // Without storage, the mask is all ones; head and length are both 0 then.
        (self.head as usize + self.len()) & self.capacity().wrapping_sub(1)
    }

    /// Returns the `len` bytes from `start` on as two ranges, split at the end of the storage.
    fn regions(&self, start: usize, len: usize) -> (Range<usize>, Range<usize>) {
        let end = start + len;
        if end <= self.capacity() {
            (start..end, 0..0)
        } else {
            (start..self.capacity(), 0..end - self.capacity())
        }
    }
}
