//! A reactor's store of buffers, by power-of-two size class.

use super::ring::Ring;

/// Buffers that connections borrow while they have something to keep.
///
/// One pool belongs to one reactor, so taking and giving back are a push and a pop. What it keeps for
/// reuse is bounded; past that, buffers go back to the allocator.
#[derive(Debug)]
pub struct BufferPool {
    /// Free buffers of `MIN_SIZE << index` bytes.
    classes: [Vec<Box<[u8]>>; CLASSES],
    retained: usize,
    lent: usize,
}

/// The smallest buffer, in bytes.
const MIN_SIZE: usize = 1 << 10;

/// Buffers from 1 KiB to 1 MiB are kept for reuse; larger ones are rare and go straight back.
const CLASSES: usize = 11;

/// The most bytes that lie in a pool unused.
const MAX_RETAINED: usize = 4 << 20;

impl BufferPool {
    /// A pool that holds nothing yet.
    pub fn new() -> Self {
        Self {
            classes: std::array::from_fn(|_| Vec::new()),
            retained: 0,
            lent: 0,
        }
    }

    /// How many bytes of buffers are lent out now.
    pub fn lent(&self) -> usize {
        self.lent
    }

    /// Makes room for `additional` more bytes in `ring`, moving its contents to larger storage when needed.
    ///
    /// The ring's storage must come from this pool, as that of a new ring does: it has none.
    ///
    /// # Panics
    ///
    /// When more than [`MAX_CAPACITY`](super::ring::MAX_CAPACITY) is asked for; the limits on frames and
    /// output forbid that.
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

    /// Takes the storage of `ring` back, leaving it empty.
    #[inline]
    pub fn release(&mut self, ring: &mut Ring) {
        if ring.capacity() > 0 {
            self.put_back(ring.take_storage());
        }
    }

    /// Counts a buffer of `size` bytes that was lent as gone.
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

    /// A buffer of at least `size` bytes; its contents are whatever the last user left.
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

/// The index of the class of a power-of-two size of at least `MIN_SIZE`.
fn class_of(size: usize) -> usize {
    (size / MIN_SIZE).trailing_zeros() as usize
}
