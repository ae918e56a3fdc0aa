//! Timers: a hierarchical timer wheel. It counts ticks and reads no clock.
//!
//! Scheme 7 of George Varghese and Tony Lauck, "Hashed and hierarchical timing wheels: data structures for the
//! efficient implementation of a timer facility", SOSP 1987. Level 0 has a slot for each of 64 ticks, level 1 a slot for
//! each 64 of those, and so on. A timer lies on the level of the highest bit in which its deadline differs from now,
//! and moves down (cascades) when time reaches its slot.
//!
//! Eleven levels cover every `u64`, so that no deadline is too far away and none is clamped. Six levels would take 1.3 KiB
//! less.

use std::{mem, num::NonZeroU32};

use slab::Slab;

/// A timer wheel. It inserts and cancels timers in constant time, and they expire in the order of their deadlines.
///
/// The caller chooses the epoch from which ticks count. A new wheel is at tick 0. A caller with a finer clock rounds deadlines
/// up and the present time down, so that no timer expires early.
///
/// Every `coarse`th tick from 0 on is *coarse* (see [`new`](Wheel::new)). [`has_fine`](Wheel::has_fine) returns true if the
/// deadline of a timer is not coarse.
///
/// An empty wheel takes 3 KiB. Each timer adds 20 bytes and its value: 24 bytes in all for a `u32`. The memory of removed
/// timers is kept for later ones.
#[derive(Debug)]
pub struct Wheel<T> {
    entries: Slab<Entry<T>>,
    slots: [[u32; SLOTS]; LEVELS],
    /// The slots that have entries, one bit for each.
    occupied: [u64; LEVELS],
    /// The list of timers that `advance` has found due.
    expired: u32,
    /// The list of timers whose deadline had passed at their insert. They expire at the next `advance`.
    overdue: u32,
    now: u64,
    generation: NonZeroU32,
    /// The mask of the low bits that are 0 in a coarse tick.
    fraction: u64,
    /// The number of timers with a deadline that is not coarse.
    fine: usize,
}

/// The key of a timer in its [`Wheel`]. The key of a timer that is gone cancels nothing.
///
/// The generation counts the wheel's inserts. A stale key only matches another timer if that has the same index and was
/// inserted an exact multiple of 2^32 - 1 inserts later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TimerKey {
    index: u32,
    generation: NonZeroU32,
}

/// A timer with its links in a circular list.
#[derive(Debug)]
struct Entry<T> {
    deadline: u64,
    next: u32,
    prev: u32,
    generation: NonZeroU32,
    value: T,
}

const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
const LEVELS: usize = u64::BITS.div_ceil(SLOT_BITS) as usize;

/// The head of an empty list.
const NIL: u32 = u32::MAX;

impl<T> Wheel<T> {
    /// Creates a wheel at tick 0 without timers. Each `coarse`th tick is coarse.
    ///
    /// # Panics
    ///
    /// Panics if `coarse` is no power of two.
    pub fn new(coarse: u64) -> Self {
        assert!(
            coarse.is_power_of_two(),
            "{coarse} ticks are no power of two"
        );
        Wheel {
            entries: Slab::new(),
            slots: [[NIL; SLOTS]; LEVELS],
            occupied: [0; LEVELS],
            expired: NIL,
            overdue: NIL,
            now: 0,
            generation: NonZeroU32::MIN,
            fraction: coarse - 1,
            fine: 0,
        }
    }

    /// Adds a timer that expires when [`advance`](Wheel::advance) reaches `deadline`.
    ///
    /// A timer whose deadline is now or earlier expires at the next advance, even if time does not move on, and not before. A
    /// loop that pops timers and inserts overdue ones therefore ends.
    ///
    /// # Panics
    ///
    /// Panics if there are 2^32 - 1 timers already.
    pub fn insert(&mut self, deadline: u64, value: T) -> TimerKey {
        let index = self.entries.vacant_key();
        assert!(index < NIL as usize, "too many timers");
        let (index, generation) = (index as u32, self.generation);
        self.generation = self.generation.checked_add(1).unwrap_or(NonZeroU32::MIN);
        self.entries.insert(Entry {
            deadline,
            next: NIL,
            prev: NIL,
            generation,
            value,
        });
        self.fine += self.is_fine(deadline);
        self.file_new(index);
        TimerKey { index, generation }
    }

    /// Returns the value of a timer, due or not. Returns none if it was popped or cancelled.
    pub fn get_mut(&mut self, key: TimerKey) -> Option<&mut T> {
        let entry = self.entries.get_mut(key.index as usize)?;
        (entry.generation == key.generation).then_some(&mut entry.value)
    }

    /// Returns the deadline of a timer. Returns none if it was popped or cancelled.
    pub fn deadline(&self, key: TimerKey) -> Option<u64> {
        let entry = self.entries.get(key.index as usize)?;
        (entry.generation == key.generation).then_some(entry.deadline)
    }

    /// Changes the deadline of a timer, due or not, to an earlier or a later one, as if it were inserted again. Its key stays valid. Returns false if the
    /// timer was popped or cancelled.
    pub fn postpone(&mut self, key: TimerKey, deadline: u64) -> bool {
        let TimerKey { index, generation } = key;
        let Some(entry) = self.entries.get(index as usize) else {
            return false;
        };
        if entry.generation != generation {
            return false;
        }
        let before = entry.deadline;
        self.take_out(index, before);
        self.fine = self.fine - self.is_fine(before) + self.is_fine(deadline);
        self.entries[index as usize].deadline = deadline;
        self.file_new(index);
        true
    }

    /// Removes a timer, due or not, and returns its value. Returns none if it was popped or cancelled.
    pub fn cancel(&mut self, key: TimerKey) -> Option<T> {
        let TimerKey { index, generation } = key;
        let entry = self.entries.get(index as usize)?;
        if entry.generation != generation {
            return None;
        }
        let deadline = entry.deadline;
        self.take_out(index, deadline);
        self.fine -= self.is_fine(deadline);
        Some(self.entries.remove(index as usize).value)
    }

    /// Returns the tick at which `advance` must be called next, or none if there are no timers.
    ///
    /// The tick can be before the earliest deadline, if several timers move down a level then. It is never after it. While
    /// timers are overdue, or expired and not popped, it is the tick of the last advance.
    #[inline]
    pub fn next_deadline(&self) -> Option<u64> {
        if self.entries.is_empty() {
            return None;
        }
        self.earliest()
    }

    fn earliest(&self) -> Option<u64> {
        if self.expired != NIL || self.overdue != NIL {
            return Some(self.now);
        }
        let (level, slot, start) = self.first_slot()?;
        let head = self.slots[level][slot];
        let first = &self.entries[head as usize];
        Some(if first.next == head {
            first.deadline
        } else {
            start
        })
    }

    /// Returns true if a timer has a deadline that is not coarse.
    #[inline]
    pub fn has_fine(&self) -> bool {
        self.fine > 0
    }

    /// Advances the time to `now`. Every timer with a deadline at or before `now` becomes ready for
    /// [`pop_expired`](Wheel::pop_expired).
    ///
    /// Time does not run backwards: a `now` before that of an earlier call has no effect. The cost depends on the occupied
    /// slots that are passed. Empty slots cost nothing.
    #[inline]
    pub fn advance(&mut self, now: u64) {
        if !self.entries.is_empty() {
            self.pass_to(now);
        }
        self.now = self.now.max(now);
    }

    fn pass_to(&mut self, now: u64) {
        let overdue = mem::replace(&mut self.overdue, NIL);
        append(&mut self.entries, &mut self.expired, overdue);
        while let Some((level, slot, start)) = self.first_slot()
            && start <= now
        {
            self.now = start;
            self.occupied[level] &= !(1 << slot);
            let list = mem::replace(&mut self.slots[level][slot], NIL);
            if level == 0 {
                append(&mut self.entries, &mut self.expired, list);
            } else {
                self.cascade(list);
            }
        }
    }

    /// Removes and returns the next timer that [`advance`](Wheel::advance) found due, those of earlier ticks first.
    ///
    /// A timer that was inserted with a past deadline is due at the tick of its insert.
    pub fn pop_expired(&mut self) -> Option<(TimerKey, T)> {
        let index = self.expired;
        if index == NIL {
            return None;
        }
        unlink(&mut self.entries, &mut self.expired, index);
        let entry = self.entries.remove(index as usize);
        self.fine -= self.is_fine(entry.deadline);
        let generation = entry.generation;
        Some((TimerKey { index, generation }, entry.value))
    }

    /// Returns the timer that [`pop_expired`](Wheel::pop_expired) would return.
    pub fn peek_expired(&mut self) -> Option<(TimerKey, &mut T)> {
        let index = self.expired;
        let entry = self.entries.get_mut(index as usize)?;
        let generation = entry.generation;
        Some((TimerKey { index, generation }, &mut entry.value))
    }

    /// Returns true if [`advance`](Wheel::advance) found timers due that are not popped yet.
    #[inline]
    pub fn has_expired(&self) -> bool {
        self.expired != NIL
    }

    /// Returns the number of timers, including those that are expired and not popped.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns true if there are no timers, not even expired ones.
    #[cfg(any(test, feature = "internals"))]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns the occupied slot that time reaches first: its level, its index and its first tick.
    ///
    /// The deadlines of a level share all higher bits with now and are later than now. No slot wraps around, and the lowest
    /// level has the earliest deadline.
    fn first_slot(&self) -> Option<(usize, usize, u64)> {
        let level = self.occupied.iter().position(|&slots| slots != 0)?;
        let slot = self.occupied[level].trailing_zeros();
        let shift = level as u32 * SLOT_BITS;
        let level_start = self.now >> shift >> SLOT_BITS << SLOT_BITS << shift;
        Some((level, slot as usize, level_start | u64::from(slot) << shift))
    }

    /// Puts every entry of a list that was removed from its slot into the right slot for the present time.
    fn cascade(&mut self, list: u32) {
        let last = self.entries[list as usize].prev;
        let mut next = list;
        loop {
            let index = next;
            next = self.entries[index as usize].next;
            self.file(index);
            if index == last {
                break;
            }
        }
    }

    /// Returns 1 if a deadline is not coarse, and 0 otherwise.
    #[inline]
    fn is_fine(&self, deadline: u64) -> usize {
        usize::from(deadline & self.fraction != 0)
    }

    /// Removes an entry with this deadline from its list.
    fn take_out(&mut self, index: u32, deadline: u64) {
        match place(deadline, self.now) {
            Some((level, slot)) => {
                let head = &mut self.slots[level][slot];
                unlink(&mut self.entries, head, index);
                if *head == NIL {
                    self.occupied[level] &= !(1 << slot);
                }
            }
            // An entry that is the head of neither list can be inside either. Unlinking it leaves both heads as they are.
            None if self.overdue == index => unlink(&mut self.entries, &mut self.overdue, index),
            None => unlink(&mut self.entries, &mut self.expired, index),
        }
    }

    /// Puts an entry that is in no list into its slot, or into the overdue list.
    fn file_new(&mut self, index: u32) {
        if self.entries[index as usize].deadline <= self.now {
            push_back(&mut self.entries, &mut self.overdue, index);
        } else {
            self.file(index);
        }
    }

    /// Puts an entry that is in no list into its slot, or into the expired list.
    fn file(&mut self, index: u32) {
        let list = match place(self.entries[index as usize].deadline, self.now) {
            Some((level, slot)) => {
                self.occupied[level] |= 1 << slot;
                &mut self.slots[level][slot]
            }
            None => &mut self.expired,
        };
        push_back(&mut self.entries, list, index);
    }
}

/// Returns the level and slot of a deadline, or none if it has passed.
///
/// The result is the same for every `now` until time reaches the slot, so entries need not store it.
fn place(deadline: u64, now: u64) -> Option<(usize, usize)> {
    if deadline <= now {
        return None;
    }
    let level = (deadline ^ now).ilog2() / SLOT_BITS;
    let slot = (deadline >> (level * SLOT_BITS)) as usize % SLOTS;
    Some((level as usize, slot))
}

fn push_back<T>(entries: &mut Slab<Entry<T>>, head: &mut u32, index: u32) {
    let entry = &mut entries[index as usize];
    (entry.next, entry.prev) = (index, index);
    append(entries, head, index);
}

/// Appends the list that begins at `other` to the list that begins at `head`. Either may be empty.
fn append<T>(entries: &mut Slab<Entry<T>>, head: &mut u32, other: u32) {
    if other == NIL {
        return;
    }
    if *head == NIL {
        *head = other;
        return;
    }
    let last = entries[other as usize].prev;
    let head_last = mem::replace(&mut entries[*head as usize].prev, last);
    entries[other as usize].prev = head_last;
    entries[head_last as usize].next = other;
    entries[last as usize].next = *head;
}

fn unlink<T>(entries: &mut Slab<Entry<T>>, head: &mut u32, index: u32) {
    let Entry { next, prev, .. } = entries[index as usize];
    if next == index {
        *head = NIL;
        return;
    }
    entries[prev as usize].next = next;
    entries[next as usize].prev = prev;
    if *head == index {
        *head = next;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::{collection::vec, prelude::*, sample::Index};

    use super::*;

    fn pop<T>(wheel: &mut Wheel<T>) -> Option<T> {
        wheel.pop_expired().map(|(_, value)| value)
    }

    #[test]
    fn timers_expire_at_their_tick_and_not_before() {
        for deadline in [1, 63, 64, 65, 4095, 4096, 1 << 36, (1 << 60) + 1, u64::MAX] {
            let mut wheel = Wheel::new(1);
            wheel.insert(deadline, ());
            wheel.advance(deadline - 1);
            assert_eq!(pop(&mut wheel), None, "{deadline} fired early");
            wheel.advance(deadline);
            assert_eq!(pop(&mut wheel), Some(()), "{deadline} did not fire");
        }
    }

    #[test]
    fn a_stale_key_does_not_cancel_the_timer_that_took_its_place() {
        let mut wheel = Wheel::new(1);
        let stale = wheel.insert(5, 'a');
        assert_eq!(wheel.cancel(stale), Some('a'));
        let reused = wheel.insert(5, 'b');
        assert_eq!(stale.index, reused.index);
        assert_eq!(wheel.cancel(stale), None);
        assert_eq!(wheel.cancel(reused), Some('b'));
    }

    #[test]
    fn memory_is_what_the_docs_say() {
        assert_eq!(size_of::<Option<Entry<u32>>>(), 24);
        assert_eq!(size_of::<Option<TimerKey>>(), 8);
        assert!(size_of::<Wheel<u32>>() <= 3 * 1024);
        assert_eq!(Wheel::<u32>::new(1).entries.capacity(), 0);
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_sorted_set(steps in vec((0..20, ticks(), any::<Index>()), 1..200)) {
            let mut model = Model::new();
            for (step, ticks, which) in steps {
                match step {
                    0..8 => model.insert(model.now.saturating_add(ticks)),
                    8..10 => model.insert(model.now.saturating_sub(ticks)),
                    10..12 => model.cancel(which),
                    12..14 => model.postpone(which, model.now.saturating_add(ticks)),
                    14..16 => model.advance(model.now.saturating_add(ticks)),
                    16 => model.advance(model.now.saturating_sub(ticks)),
                    17..19 => model.pop(which.index(4)),
                    _ => model.advance(model.wheel.next_deadline().unwrap_or(model.now)),
                }
                model.check();
            }
            while let Some(next) = model.wheel.next_deadline() {
                model.advance(next);
                model.check();
                model.pop(usize::MAX);
            }
            assert!(model.wheel.is_empty());
        }
    }

    fn ticks() -> impl Strategy<Value = u64> {
        prop_oneof![4 => 0..70u64, 4 => 0..10_000u64, 2 => 0..1u64 << 38, 1 => any::<u64>()]
    }

    /// The distance of coarse ticks in these tests.
    const COARSE: u64 = 64;

    /// A wheel and a simple model that it must agree with: timers by tick and number.
    struct Model {
        wheel: Wheel<usize>,
        now: u64,
        /// The tick, the key and the deadline of each timer.
        keys: Vec<(u64, TimerKey, u64)>,
        waiting: BTreeSet<(u64, usize)>,
        due: BTreeSet<(u64, usize)>,
    }

    impl Model {
        fn new() -> Self {
            Self {
                wheel: Wheel::new(COARSE),
                now: 0,
                keys: Vec::new(),
                waiting: BTreeSet::new(),
                due: BTreeSet::new(),
            }
        }

        fn insert(&mut self, deadline: u64) {
            let timer = self.keys.len();
            let tick = deadline.max(self.now);
            let key = self.wheel.insert(deadline, timer);
            self.keys.push((tick, key, deadline));
            self.waiting.insert((tick, timer));
        }

        fn postpone(&mut self, which: Index, deadline: u64) {
            let timer = which.index(self.keys.len().max(1));
            let Some((tick, key, of)) = self.keys.get_mut(timer) else {
                return;
            };
            let known = self.waiting.remove(&(*tick, timer)) || self.due.remove(&(*tick, timer));
            assert_eq!(self.wheel.postpone(*key, deadline), known);
            if known {
                (*tick, *of) = (deadline.max(self.now), deadline);
                self.waiting.insert((*tick, timer));
            }
        }

        fn cancel(&mut self, which: Index) {
            let timer = which.index(self.keys.len().max(1));
            let Some(&(tick, key, _)) = self.keys.get(timer) else {
                return;
            };
            let known = self.waiting.remove(&(tick, timer)) || self.due.remove(&(tick, timer));
            assert_eq!(self.wheel.cancel(key), known.then_some(timer));
        }

        fn advance(&mut self, now: u64) {
            self.wheel.advance(now);
            let now = now.max(self.now);
            self.now = now;
            while self.waiting.first().is_some_and(|&(tick, _)| tick <= now) {
                self.due.extend(self.waiting.pop_first());
            }
        }

        fn pop(&mut self, count: usize) {
            for _ in 0..count {
                let popped = pop(&mut self.wheel);
                let Some(&(tick, _)) = self.due.first() else {
                    return assert_eq!(popped, None, "fired early");
                };
                let in_order = popped.is_some_and(|timer| self.due.remove(&(tick, timer)));
                assert!(in_order, "{popped:?} popped, not one of tick {tick}");
            }
        }

        fn check(&mut self) {
            assert_eq!(self.wheel.len(), self.waiting.len() + self.due.len());
            assert!(!self.wheel.has_expired() || !self.due.is_empty());
            let left = self.waiting.iter().chain(&self.due);
            let fine = left.filter(|(_, timer)| !self.keys[*timer].2.is_multiple_of(COARSE));
            assert_eq!(self.wheel.has_fine(), fine.count() > 0);
            let peeked = self.wheel.peek_expired().map(|(key, timer)| (key, *timer));
            assert!(peeked.is_none_or(|(key, timer)| self.keys[timer].1 == key));
            let earliest = self.due.first().or(self.waiting.first());
            let next = self.wheel.next_deadline();
            assert_eq!(next.is_some(), earliest.is_some());
            if let (Some(next), Some(&(tick, _))) = (next, earliest) {
                assert!((self.now..=tick.max(self.now)).contains(&next));
            }
        }
    }
}
