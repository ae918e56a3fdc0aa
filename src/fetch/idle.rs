//! The idle connections of a pool, in the order in which they became idle.

use std::collections::VecDeque;
use std::time::Instant;

/// Idle connections by numbers that grow. The one that has been idle for longest is first.
///
/// The one that was added last is removed in constant time, and so is the first. Any other takes a search. The place of a removed
/// one stays empty until it is at an end, or until most places are empty. So the first and the last place are never empty.
#[derive(Debug)]
pub(super) struct Idle<C> {
    places: VecDeque<Place<C>>,
    len: usize,
}

#[derive(Debug)]
struct Place<C> {
    key: u64,
    connection: Option<(C, Instant)>,
}

/// The number of empty places that are always tolerated.
const FEW: usize = 16;

impl<C> Default for Idle<C> {
    fn default() -> Self {
        Self {
            places: VecDeque::new(),
            len: 0,
        }
    }
}

impl<C: Copy> Idle<C> {
    /// Adds a connection. `key` must be larger than all keys before.
    pub(super) fn add(&mut self, key: u64, connection: C, since: Instant) {
        let connection = Some((connection, since));
        self.places.push_back(Place { key, connection });
        self.len += 1;
    }

    /// Removes a connection. Returns it if it is there.
    pub(super) fn remove(&mut self, key: u64) -> Option<C> {
        let is_last = self.places.back().is_some_and(|last| last.key == key);
        let at = match is_last {
            true => self.places.len() - 1,
            false => self.places.binary_search_by_key(&key, |it| it.key).ok()?,
        };
        let (connection, _) = self.places[at].connection.take()?;
        self.len -= 1;
        let is_empty = |place: &mut Place<C>| place.connection.is_none();
        while self.places.pop_back_if(is_empty).is_some() {}
        while self.places.pop_front_if(is_empty).is_some() {}
        if self.places.len() > 2 * self.len + FEW {
            self.places.retain(|place| place.connection.is_some());
        }
        Some(connection)
    }

    /// Returns the key of the connection that has been idle for longest, and the time since when it is idle.
    pub(super) fn first(&self) -> Option<(u64, Instant)> {
        let first = self.places.front()?;
        let (_, since) = first.connection?;
        Some((first.key, since))
    }

    /// Returns the connections and their keys, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, C)> {
        self.places.iter().filter_map(|place| {
            let (connection, _) = place.connection?;
            Some((place.key, connection))
        })
    }

    /// Returns the number of connections.
    pub(super) fn len(&self) -> usize {
        self.len
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_agrees_with_a_sorted_map(steps in prop::collection::vec(any::<(bool, prop::sample::Index)>(), 1..500)) {
            let (mut idle, mut model) = (Idle::default(), BTreeMap::new());
            let now = Instant::now();
            for (key, (adds, which)) in (0..).zip(steps) {
                if adds {
                    idle.add(key, key * 7, now);
                    model.insert(key, key * 7);
                } else {
                    let gone = which.index(key as usize + 1) as u64;
                    prop_assert_eq!(idle.remove(gone), model.remove(&gone));
                }
                prop_assert_eq!(idle.len(), model.len());
                prop_assert_eq!(idle.first().map(|(key, _)| key), model.keys().next().copied());
                let all: Vec<_> = idle.iter().collect();
                prop_assert_eq!(all, model.iter().map(|(key, value)| (*key, *value)).collect::<Vec<_>>());
                prop_assert!(idle.places.len() <= 2 * model.len() + FEW);
            }
        }
    }
}
