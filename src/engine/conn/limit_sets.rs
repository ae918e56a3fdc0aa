//! The limits of a reactor's connections. Connections with equal limits share them.

use std::collections::HashMap;

use slab::Slab;

use super::limits::Limits;

/// The sets of limits that connections use. A connection knows its set by a number.
#[derive(Debug)]
pub(crate) struct LimitSets {
    /// The set with the number 0.
    server: Limits,
    /// The others, each at its number less 1.
    others: Slab<LimitSet>,
    numbers: HashMap<Limits, u16>,
}

#[derive(Debug)]
struct LimitSet {
    limits: Limits,
    users: usize,
}

/// The number of the server's set.
pub(crate) const SERVER: u16 = 0;

impl LimitSets {
    pub(crate) fn new(server: Limits) -> Self {
        Self {
            server,
            others: Slab::new(),
            numbers: HashMap::new(),
        }
    }

    /// Returns the limits of the server, which apply where no others are set.
    pub(crate) fn server(&self) -> &Limits {
        &self.server
    }

    /// Returns the set with a number.
    #[inline]
    pub(crate) fn get(&self, number: u16) -> &Limits {
        match number {
            SERVER => &self.server,
            number => self
                .others
                .get(usize::from(number) - 1)
                .map_or(&self.server, |set| &set.limits),
        }
    }

    /// Returns the number of the set with these limits, for one more connection. Returns `None` if 65,535 other sets are in
    /// use.
    pub(crate) fn acquire(&mut self, limits: &Limits) -> Option<u16> {
        if *limits == self.server {
            return Some(SERVER);
        }
        let number = match self.numbers.get(limits) {
            Some(number) => *number,
            None => {
                let number = u16::try_from(self.others.vacant_key() + 1).ok()?;
                self.others.insert(LimitSet {
                    limits: limits.clone(),
                    users: 0,
                });
                self.numbers.insert(limits.clone(), number);
                number
            }
        };
        if let Some(set) = self.others.get_mut(usize::from(number) - 1) {
            set.users += 1;
        }
        Some(number)
    }

    /// Records that a connection uses a set no more.
    pub(crate) fn release(&mut self, number: u16) {
        let Some(index) = usize::from(number).checked_sub(1) else {
            return;
        };
        let Some(set) = self.others.get_mut(index) else {
            return;
        };
        set.users -= 1;
        if set.users == 0 {
            let LimitSet { limits, .. } = self.others.remove(index);
            self.numbers.remove(&limits);
        }
    }

    /// Sets the drain deadline of all sets, in milliseconds.
    pub(crate) fn set_drain(&mut self, drain: u64) {
        self.server.drain = drain;
        self.numbers.clear();
        for (index, set) in &mut self.others {
            set.limits.drain = drain;
            self.numbers.insert(set.limits.clone(), index as u16 + 1);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn idle(idle: u64) -> Limits {
        Limits {
            idle,
            ..Limits::default()
        }
    }

    #[test]
    fn equal_limits_are_one_set_until_the_last_connection_has_gone() {
        let mut sets = LimitSets::new(idle(1));
        assert_eq!(sets.acquire(&idle(1)), Some(SERVER));
        let two = sets.acquire(&idle(2));
        assert_eq!(sets.acquire(&idle(2)), two);
        let three = sets.acquire(&idle(3));
        assert_ne!(three, two);
        let (two, three) = (two.expect("room"), three.expect("room"));
        sets.release(two);
        assert_eq!(sets.get(two), &idle(2));
        sets.release(two);
        sets.release(SERVER);
        assert_eq!(sets.acquire(&idle(4)), Some(two), "the place is free");
        assert_eq!((sets.get(two).idle, sets.get(three).idle), (4, 3));
        assert_eq!(sets.get(SERVER), &idle(1));
    }

    #[test]
    fn the_drain_of_a_shutdown_reaches_all_sets() {
        let mut sets = LimitSets::new(idle(1));
        let two = sets.acquire(&idle(2)).expect("room");
        sets.set_drain(7);
        assert_eq!((sets.get(SERVER).drain, sets.get(two).drain), (7, 7));
        let again = Limits {
            drain: 7,
            ..idle(2)
        };
        assert_eq!(sets.acquire(&again), Some(two));
    }

    #[test]
    fn the_number_of_sets_is_limited_and_places_come_back() {
        let mut sets = LimitSets::new(Limits::default());
        for n in 0..u64::from(u16::MAX) {
            assert!(sets.acquire(&idle(n)).is_some());
        }
        assert_eq!(sets.acquire(&idle(1 << 20)), None);
        let one = sets.acquire(&idle(9)).expect("is there");
        sets.release(one);
        assert_eq!(sets.acquire(&idle(1 << 20)), None);
        sets.release(one);
        assert_eq!(sets.acquire(&idle(1 << 20)), Some(one));
    }
}
