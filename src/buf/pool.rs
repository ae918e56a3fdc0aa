//! A reactor's store of buffers, by power-of-two size class.

use super::ring::Ring;

/// Buffers that connections borrow while they have bytes to keep.
///
/// A pool belongs to one reactor, so it needs no lock. The memory it keeps for reuse is bounded; buffers beyond that return
/// to the allocator.
#[derive(Debug)]
pub struct BufferPool {
    /// Free buffers of `MIN_SIZE << index` bytes.
    classes: [Vec<Box<[u8]>>; CLASSES],
    retained: usize,
    lent: usize,
}

/// The smallest buffer, in bytes.
const MIN_SIZE: usize = 1 << 10;

/// Buffers from 1 KiB to 1 MiB are kept for reuse. Larger ones are rare and return to the allocator.
const CLASSES: usize = 11;

/// The most bytes kept in a pool for reuse.
const MAX_RETAINED: usize = 4 << 20;

impl BufferPool {
    /// Creates an empty pool.
    pub fn new() -> Self {
        Self {
            classes: std::array::from_fn(|_| Vec::new()),
            retained: 0,
            lent: 0,
        }
    }

    /// Returns the number of bytes in buffers that are lent now.
    pub fn lent(&self) -> usize {
        self.lent
    }

    /// Makes room for `additional` more bytes in `ring`. Moves its contents to larger storage if needed.
    ///
    /// The ring's storage must come from this pool, or the ring must have none, as a new one.
    ///
    /// # Panics
    ///
    /// If the ring would need more than [`MAX_CAPACITY`](super::ring::MAX_CAPACITY) bytes. The limits on frames and output
    /// forbid that.
    pub fn reserve(&mut self, ring: &mut Ring, additional: usize) {
        if ring.free() >= additional {
            return;
        }
        let mut larger = Ring::over(self.take(ring.len() + additional));
        let (first, second) = ring.as_slices();
        larger.write(first);
        larger.write(second);
        self.release(ring);
        *ring = larger;
    }

    /// Takes the storage of `ring` back. The ring is empty then.
    #[inline]
    pub fn release(&mut self, ring: &mut Ring) {
        if ring.capacity() > 0 {
            self.put_back(ring.take_storage());
        }
    }

    /// Stops counting a lent buffer of `size` bytes, which will not come back.
    pub fn forget(&mut self, size: usize) {
        self.lent -= size;
    }

    fn put_back(&mut self, storage: Box<[u8]>) {
        let size = storage.len();
        self.lent -= size;
        if self.retained + size > MAX_RETAINED {
            return;
        }
        if let Some(class) = self.classes.get_mut(class_of(size)) {
            self.retained += size;
            class.push(storage);
        }
    }

    /// Returns a buffer of at least `size` bytes. It may contain bytes of its last user.
    fn take(&mut self, size: usize) -> Box<[u8]> {
        let size = size.next_power_of_two().max(MIN_SIZE);
        self.lent += size;
        if let Some(storage) = self.classes.get_mut(class_of(size)).and_then(Vec::pop) {
            self.retained -= size;
            return storage;
        }
        vec![0; size].into_boxed_slice()
    }
}

impl Default for BufferPool {
    fn default() -> Self {
        Self::new()
    }
}

/// Returns the index of the class of a size, which is a power of two and at least `MIN_SIZE`.
fn class_of(size: usize) -> usize {
    (size / MIN_SIZE).trailing_zeros() as usize
}
