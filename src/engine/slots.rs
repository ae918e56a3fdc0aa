//! The slots of a reactor's connections, and the identifiers of connections.

use std::cell::{RefCell, RefMut};
use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// The identifier of a connection. It is unique within an engine and is not reused for another connection.
///
/// It consists of the reactor (10 bits), the slot (22 bits) and the generation (32 bits), which counts the reactor's
/// connections.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(u64);

const SLOT_BITS: u32 = 22;

/// The most reactors that an identifier can distinguish.
pub(crate) const MAX_REACTORS: usize = 1 << 10;

/// The most connections of one reactor at a time.
pub(crate) const MAX_SLOTS: usize = 1 << SLOT_BITS;

impl ConnId {
    pub(crate) fn new(reactor: usize, slot: usize, generation: u32) -> Self {
        let place = (reactor << SLOT_BITS | slot) as u64;
        Self(place << 32 | u64::from(generation))
    }

    /// Returns the number of the reactor that owns the connection, counted from 0.
    pub fn reactor(self) -> usize {
        (self.0 >> (32 + SLOT_BITS)) as usize
    }

    /// Returns the identifier as a number, which is unique among the connections of an engine. It can be the
    /// [token](crate::Connect::token) of a connect that this connection waits for: [`from_u64`](Self::from_u64) then tells the new
    /// connection whose it is.
    pub fn as_u64(self) -> u64 {
        self.0
    }

    /// Returns the identifier that [`as_u64`](Self::as_u64) made into a number. Any other number is an identifier of no
    /// connection, or of a connection that the caller did not mean.
    pub fn from_u64(number: u64) -> Self {
        Self(number)
    }

    pub(crate) fn slot(self) -> usize {
        (self.0 >> 32) as usize & (MAX_SLOTS - 1)
    }

    pub(crate) fn generation(self) -> u32 {
        self.0 as u32
    }
}

impl fmt::Display for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}.{}.{}",
            self.reactor(),
            self.slot(),
            self.generation()
        )
    }
}

impl fmt::Debug for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConnId({self})")
    }
}

/// The connections of a reactor, by their [`ConnId`]s. A stale identifier finds nothing.
///
/// Each is in a cell of its own. While the loop serves one, its callbacks can borrow another one. A connection that is
/// borrowed already is not found.
#[derive(Debug)]
pub(crate) struct Slots<T> {
    places: Vec<Place<T>>,
    /// The free places. The last one is used first, since it is most likely in the cache.
    vacant: Vec<u32>,
    reactor: usize,
    last_generation: u32,
}

/// A place for a connection.
///
/// It is aligned to cache lines. With many connections, each line that is touched has to be fetched from memory.
#[derive(Debug)]
#[repr(align(64))]
struct Place<T>(RefCell<Option<T>>);

/// A value in a slot.
pub(crate) trait Tenant {
    fn id(&self) -> ConnId;
}

impl<T: Tenant> Slots<T> {
    pub(crate) fn new(reactor: usize) -> Self {
        Self {
            places: Vec::new(),
            vacant: Vec::new(),
            reactor,
            last_generation: 0,
        }
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.places.len() - self.vacant.len()
    }

    /// Returns the identifier of the next connection. The next [`insert`](Self::insert) must be of that connection.
    pub(crate) fn next_id(&mut self) -> ConnId {
        // 0 means "no connection" in the liveness table.
        self.last_generation = self.last_generation.wrapping_add(1).max(1);
        let slot = self.vacant.last().map(|slot| *slot as usize);
        ConnId::new(
            self.reactor,
            slot.unwrap_or(self.places.len()),
            self.last_generation,
        )
    }

    pub(crate) fn insert(&mut self, tenant: T) -> usize {
        match self.vacant.pop() {
            Some(slot) => {
                let slot = slot as usize;
                *self.places[slot].0.get_mut() = Some(tenant);
                slot
            }
            None => {
                self.places.push(Place(RefCell::new(Some(tenant))));
                self.places.len() - 1
            }
        }
    }

    /// Borrows a place. Hot paths look for the connection in it themselves.
    #[inline(always)]
    pub(crate) fn place(&self, slot: usize) -> Option<RefMut<'_, Option<T>>> {
        self.places.get(slot)?.0.try_borrow_mut().ok()
    }

    /// Borrows the connection in a slot.
    pub(crate) fn at(&self, slot: usize) -> Option<RefMut<'_, T>> {
        RefMut::filter_map(self.place(slot)?, Option::as_mut).ok()
    }

    /// Borrows the connection with an identifier, unless it is gone.
    pub(crate) fn get(&self, id: ConnId) -> Option<RefMut<'_, T>> {
        self.at(id.slot()).filter(|tenant| tenant.id() == id)
    }

    /// Borrows two connections, unless one of them is gone or they are the same.
    pub(crate) fn pair(
        &self,
        one: ConnId,
        other: ConnId,
    ) -> Option<(RefMut<'_, T>, RefMut<'_, T>)> {
        Some((self.get(one)?, self.get(other)?))
    }

    /// Returns the connection in a slot. This costs less than to borrow it.
    #[inline(always)]
    pub(crate) fn at_mut(&mut self, slot: usize) -> Option<&mut T> {
        self.places.get_mut(slot)?.0.get_mut().as_mut()
    }

    pub(crate) fn remove(&mut self, slot: usize) -> Option<T> {
        let tenant = self.places.get_mut(slot)?.0.get_mut().take()?;
        self.vacant.push(slot as u32);
        Some(tenant)
    }

    /// Drops the connection in a slot where it is. To move it out first would cost more.
    pub(crate) fn free(&mut self, slot: usize) {
        if let Some(Place(place)) = self.places.get_mut(slot)
            && place.get_mut().is_some()
        {
            *place.get_mut() = None;
            self.vacant.push(slot as u32);
        }
    }

    /// Returns one more than the highest slot that was ever in use.
    pub(crate) fn end(&self) -> usize {
        self.places.len()
    }
}

/// A table of the open connections that any thread reads without a lock. It has the generation of each slot.
///
/// The table grows by chunks, each twice as large as the one before. Chunks never move.
#[derive(Debug)]
pub(crate) struct Liveness {
    chunks: [OnceLock<Box<[AtomicU32]>>; CHUNKS],
}

const FIRST_CHUNK: usize = 256;
const CHUNKS: usize = SLOT_BITS as usize - FIRST_CHUNK.ilog2() as usize + 1;

impl Liveness {
    pub(crate) fn new() -> Self {
        Self {
            chunks: [const { OnceLock::new() }; CHUNKS],
        }
    }

    pub(crate) fn set_open(&self, id: ConnId) {
        self.entry(id.slot())
            .store(id.generation(), Ordering::Release);
    }

    pub(crate) fn set_closed(&self, id: ConnId) {
        self.entry(id.slot()).store(0, Ordering::Release);
    }

    pub(crate) fn is_open(&self, id: ConnId) -> bool {
        let (chunk, offset) = locate(id.slot());
        self.chunks[chunk]
            .get()
            .is_some_and(|chunk| chunk[offset].load(Ordering::Acquire) == id.generation())
    }

    fn entry(&self, slot: usize) -> &AtomicU32 {
        let (chunk, offset) = locate(slot);
        let entries = self.chunks[chunk].get_or_init(|| {
            (0..FIRST_CHUNK << chunk)
                .map(|_| AtomicU32::new(0))
                .collect()
        });
        &entries[offset]
    }
}

/// Returns the chunk that contains a slot, and the offset in the chunk.
fn locate(slot: usize) -> (usize, usize) {
    let chunk = (slot / FIRST_CHUNK + 1).ilog2() as usize;
    (chunk, slot - FIRST_CHUNK * ((1 << chunk) - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Tenant for ConnId {
        fn id(&self) -> ConnId {
            *self
        }
    }

    #[test]
    fn an_identifier_gives_back_its_parts() {
        let id = ConnId::new(MAX_REACTORS - 1, MAX_SLOTS - 1, u32::MAX);
        assert_eq!(id.reactor(), MAX_REACTORS - 1);
        assert_eq!(id.slot(), MAX_SLOTS - 1);
        assert_eq!(id.generation(), u32::MAX);
    }

    #[test]
    fn a_stale_identifier_does_not_reach_a_reused_slot() {
        let mut slots = Slots::new(3);
        let first = slots.next_id();
        let slot = slots.insert(first);
        slots.remove(slot);
        let second = slots.next_id();
        assert_eq!(slots.insert(second), slot);
        assert!(slots.get(first).is_none());
        assert_eq!(slots.get(second).as_deref(), Some(&second));
    }

    #[test]
    fn a_borrowed_connection_is_not_found_and_its_neighbour_is() {
        let mut slots = Slots::new(3);
        let first = slots.next_id();
        slots.insert(first);
        let second = slots.next_id();
        slots.insert(second);
        let held = slots.get(first);
        assert!(slots.get(first).is_none());
        assert_eq!(slots.get(second).as_deref(), Some(&second));
        drop(held);
        assert_eq!(slots.get(first).as_deref(), Some(&first));
    }

    #[test]
    fn places_are_used_again_and_counted_once() {
        let mut slots = Slots::new(0);
        let ids: Vec<_> = (0..3)
            .map(|_| {
                let id = slots.next_id();
                slots.insert(id);
                id
            })
            .collect();
        assert_eq!(slots.remove(1), Some(ids[1]));
        assert_eq!(slots.remove(1), None);
        assert_eq!(slots.remove(7), None);
        assert_eq!((slots.len(), slots.end()), (2, 3));
        let next = slots.next_id();
        assert_eq!(next.slot(), 1);
        slots.insert(next);
        assert_eq!((slots.len(), slots.end()), (3, 3));
        assert_eq!(slots.next_id().slot(), 3);
    }

    #[test]
    fn a_pair_is_two_connections_that_are_there() {
        let mut slots = Slots::new(3);
        let first = slots.next_id();
        slots.insert(first);
        let second = slots.next_id();
        let slot = slots.insert(second);
        assert!(slots.pair(first, second).is_some());
        assert!(slots.pair(first, first).is_none());
        slots.remove(slot);
        assert!(slots.pair(first, second).is_none());
        let third = slots.next_id();
        slots.insert(third);
        assert!(slots.pair(first, second).is_none());
        assert!(slots.pair(third, first).is_some());
    }

    #[test]
    fn liveness_follows_each_slot() {
        let liveness = Liveness::new();
        for slot in [0, 255, 256, 767, 768, MAX_SLOTS - 1] {
            let id = ConnId::new(0, slot, 7);
            assert!(!liveness.is_open(id));
            liveness.set_open(id);
            assert!(liveness.is_open(id));
            assert!(!liveness.is_open(ConnId::new(0, slot, 8)));
            liveness.set_closed(id);
            assert!(!liveness.is_open(id));
        }
    }
}
