//! A byte ring over storage it is lent: power-of-two capacity, contents in at most two slices.

use std::ops::Range;

/// A growable-by-replacement ring of bytes.
///
/// The storage is a zeroed box whose length is a power of two (or zero: an empty ring owns nothing).
/// Growing means moving to larger storage, which [`BufferPool`](super::pool::BufferPool) does.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Ring {
    len: u32,
    head: u32,
    storage: Box<[u8]>,
}

/// The largest capacity: indexes are 32 bits wide, and a sum of two of them must not overflow.
pub const MAX_CAPACITY: usize = 1 << 30;

impl Ring {
    /// A ring without storage: capacity 0.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty ring over `storage`.
    ///
    /// # Panics
    ///
    /// When the storage's length is neither 0 nor a power of two of at most [`MAX_CAPACITY`].
    pub fn over(storage: Box<[u8]>) -> Self {
        let capacity = storage.len();
        assert!(capacity == 0 || (capacity.is_power_of_two() && capacity <= MAX_CAPACITY));
        Self {
            storage,
            head: 0,
            len: 0,
        }
    }

    /// Gives the storage up, leaving an empty ring without any.
    pub fn take_storage(&mut self) -> Box<[u8]> {
        self.head = 0;
        self.len = 0;
        std::mem::take(&mut self.storage)
    }

    /// How many bytes it holds.
    #[inline]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether it holds nothing.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many bytes it can hold.
    #[inline]
    pub fn capacity(&self) -> usize {
        self.storage.len()
    }

    /// How many more bytes it can take.
    #[inline]
    pub fn free(&self) -> usize {
        self.capacity() - self.len()
    }

    /// The contents, oldest first, as two slices of which the second may be empty.
    pub fn as_slices(&self) -> (&[u8], &[u8]) {
        let (first, second) = self.regions(self.head as usize, self.len());
        (&self.storage[first], &self.storage[second])
    }

    /// Copies in as much of `bytes` as fits and says how much that was.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        let n = bytes.len().min(self.free());
        let (first, second) = self.regions(self.tail(), n);
        let split = first.len();
        self.storage[first].copy_from_slice(&bytes[..split]);
        self.storage[second].copy_from_slice(&bytes[split..n]);
        self.len += n as u32;
        n
    }

    /// The first contiguous stretch of free space; fill it, then [`commit`](Self::commit).
    pub fn spare_mut(&mut self) -> &mut [u8] {
        if self.len == 0 {
            self.head = 0;
        }
        let (first, _) = self.regions(self.tail(), self.free());
        &mut self.storage[first]
    }

    /// Counts `n` bytes of [`spare_mut`](Self::spare_mut) as written.
    ///
    /// # Panics
    ///
    /// When that is more than the stretch was long.
    pub fn commit(&mut self, n: usize) {
        let (spare, _) = self.regions(self.tail(), self.free());
        assert!(n <= spare.len(), "committed more than the spare stretch");
        self.len += n as u32;
    }

    /// Drops the `n` oldest bytes.
    ///
    /// # Panics
    ///
    /// When it holds fewer.
    pub fn consume(&mut self, n: usize) {
        assert!(n <= self.len(), "consumed more than the contents");
        self.len -= n as u32;
        self.head = if self.len == 0 {
            0
        } else {
            ((self.head as usize + n) & (self.capacity() - 1)) as u32
        };
    }

    /// Drops the newest bytes, keeping the `len` oldest; nothing when it holds no more than that.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len().min(len) as u32;
    }

    /// The contents as one slice, moving them when they wrap around the end.
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
        // An empty ring without storage has no mask; its head and length are both 0.
        (self.head as usize + self.len()) & self.capacity().wrapping_sub(1)
    }

    /// Splits the `len` bytes from `start` on at the end of the storage.
    fn regions(&self, start: usize, len: usize) -> (Range<usize>, Range<usize>) {
        let end = start + len;
        if end <= self.capacity() {
            (start..end, 0..0)
        } else {
            (start..self.capacity(), 0..end - self.capacity())
        }
    }
}
