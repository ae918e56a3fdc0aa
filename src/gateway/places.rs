//! The places for connections to a node, which all reactors share.
//!
//! A connection has a place from before it is made until it is closed, so the limit holds for the process. A reactor that finds no
//! place tells that its dial waits. Whoever gives a place free passes it on to the reactor that waits for longest.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use super::destination::Destination;
use crate::balance::NodeId;

/// The places for connections to a node.
#[derive(Debug)]
pub(super) struct Places {
    max: AtomicUsize,
    taken: AtomicUsize,
    /// The number of taken places whose connections are being closed for others.
    yielding: AtomicUsize,
    /// The dials of each reactor that wait.
    queues: Box<[Queue]>,
}

/// The dials of a reactor that wait for a place at a node.
#[derive(Debug)]
struct Queue {
    dials: AtomicUsize,
    /// The time from which the first of them waits, in nanoseconds. [`NEVER`] if there is none.
    since: AtomicU64,
}

const NEVER: u64 = u64::MAX;

/// A place that is taken. It is free again when this is dropped. Before that it is offered to those who wait.
#[derive(Debug)]
pub(super) struct TakenPlace {
    places: Arc<Places>,
    yields: bool,
}

impl Places {
    pub(super) fn new(max: Option<usize>, reactors: usize) -> Self {
        let queue = |_| Queue {
            dials: AtomicUsize::new(0),
            since: AtomicU64::new(NEVER),
        };
        Self {
            max: AtomicUsize::new(max.unwrap_or(usize::MAX)),
            taken: AtomicUsize::new(0),
            yielding: AtomicUsize::new(0),
            queues: (0..reactors).map(queue).collect(),
        }
    }

    pub(super) fn set_max(&self, max: Option<usize>) {
        self.max.store(max.unwrap_or(usize::MAX), SeqCst);
    }

    /// Returns the number of places that are taken.
    pub(super) fn taken(&self) -> usize {
        self.taken.load(SeqCst)
    }

    /// Takes a place, if one is free.
    pub(super) fn try_take(self: &Arc<Self>) -> Option<TakenPlace> {
        let max = self.max.load(SeqCst);
        let more = |taken| (taken < max).then_some(taken + 1);
        self.taken.fetch_update(SeqCst, SeqCst, more).ok()?;
        Some(TakenPlace {
            places: self.clone(),
            yields: false,
        })
    }

    /// Tells how many dials of a reactor wait, and since when the first of them. Take a place after that if one is free: it may
    /// have come free before anybody could see that this reactor waits.
    pub(super) fn tell(&self, reactor: usize, dials: usize, since: Option<Duration>) {
        let queue = &self.queues[reactor];
        queue.dials.store(dials, SeqCst);
        queue.since.store(since.map_or(NEVER, nanos), SeqCst);
    }

    /// Returns the reactor whose dial waits for longest.
    pub(super) fn longest_waiting(&self) -> Option<usize> {
        let since = |queue: &Queue| queue.since.load(SeqCst);
        let all = self.queues.iter().map(since).enumerate();
        let first = all.min_by_key(|(_, since)| *since)?;
        (first.1 != NEVER).then_some(first.0)
    }

    /// Returns true if more are taken than may be, since the limit was lowered.
    pub(super) fn are_too_many(&self) -> bool {
        self.taken() > self.max.load(SeqCst)
    }

    /// Returns true if more dials wait than connections are being closed for them.
    pub(super) fn are_wanted(&self) -> bool {
        let dials: usize = self
            .queues
            .iter()
            .map(|queue| queue.dials.load(SeqCst))
            .sum();
        dials > self.yielding.load(SeqCst)
    }

    /// Returns true if a reactor must give up a connection that it could use again: there are more than may be, or a dial of
    /// another reactor waits, and has waited for longer than the first of its own by more than `patience`.
    pub(super) fn must_yield(
        &self,
        reactor: usize,
        own: Option<Duration>,
        patience: Duration,
    ) -> bool {
        if self.are_too_many() {
            return true;
        }
        let others = self.queues.iter().enumerate();
        let others = others.filter(|(number, _)| *number != reactor);
        let first = others.map(|(_, queue)| queue.since.load(SeqCst)).min();
        match first {
            None | Some(NEVER) => false,
            Some(first) => {
                let is_first =
                    own.is_none_or(|own| first.saturating_add(nanos(patience)) < nanos(own));
                is_first && self.are_wanted()
            }
        }
    }
}

/// Returns a time in nanoseconds: enough for 500 years.
fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(NEVER - 1)
}

impl TakenPlace {
    /// Returns true if it is one of these places.
    pub(super) fn is_one_of(&self, places: &Arc<Places>) -> bool {
        Arc::ptr_eq(&self.places, places)
    }

    /// Tells that the connection is being closed for another reactor.
    pub(super) fn begin_yield(&mut self) {
        if !self.yields {
            self.yields = true;
            self.places.yielding.fetch_add(1, SeqCst);
        }
    }

    /// Tells that the place is another reactor's by now.
    pub(super) fn end_yield(&mut self) {
        if self.yields {
            self.yields = false;
            self.places.yielding.fetch_sub(1, SeqCst);
        }
    }
}

impl Drop for TakenPlace {
    fn drop(&mut self) {
        self.end_yield();
        self.places.taken.fetch_sub(1, SeqCst);
    }
}

/// The dials of a reactor that wait for places, by their destinations, with the times from which they wait.
#[derive(Debug, Default)]
pub(super) struct Held(HashMap<Destination, VecDeque<Duration>>);

impl Held {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn add(&mut self, to: Destination, since: Duration) {
        self.0.entry(to).or_default().push_back(since);
    }

    /// Returns the destinations, each with the number of its dials.
    pub(super) fn destinations(&self) -> Vec<(Destination, usize)> {
        let dials = self.0.iter();
        dials.map(|(to, since)| (to.clone(), since.len())).collect()
    }

    /// Returns the number of dials to a node, and the time from which the first of them waits.
    pub(super) fn at(&self, node: NodeId) -> (usize, Option<Duration>) {
        let mut dials = 0;
        let mut first: Option<Duration> = None;
        for (to, since) in &self.0 {
            if to.node == node {
                dials += since.len();
                let oldest = since.front().copied();
                first = first.into_iter().chain(oldest).min();
            }
        }
        (dials, first)
    }

    /// Takes the dial to a node that waits for longest.
    pub(super) fn take(&mut self, node: NodeId) -> Option<Destination> {
        let at_node = self.0.iter().filter(|(to, _)| to.node == node);
        let first = at_node.min_by_key(|(_, since)| since.front().copied());
        let to = first.map(|(to, _)| to.clone())?;
        self.forget(&to);
        Some(to)
    }

    /// Forgets the first dial to a destination.
    pub(super) fn forget(&mut self, to: &Destination) {
        if let Some(since) = self.0.get_mut(to) {
            since.pop_front();
            if since.is_empty() {
                self.0.remove(to);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(n: u64) -> Option<Duration> {
        Some(Duration::from_secs(n))
    }

    #[test]
    fn there_are_never_more_places_than_the_limit() {
        let places = Arc::new(Places::new(Some(3), 4));
        let most = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        if let Some(_place) = places.try_take() {
                            most.fetch_max(places.taken(), SeqCst);
                        }
                    }
                });
            }
        });
        assert_eq!((most.into_inner() <= 3, places.taken()), (true, 0));
    }

    #[test]
    fn a_place_goes_to_the_reactor_that_waits_for_longest() {
        let places = Places::new(Some(1), 3);
        assert_eq!(places.longest_waiting(), None);
        places.tell(2, 1, seconds(5));
        places.tell(0, 3, seconds(7));
        assert_eq!(places.longest_waiting(), Some(2));
        places.tell(2, 0, None);
        assert_eq!(places.longest_waiting(), Some(0));
    }

    #[test]
    fn a_reactor_yields_to_one_that_waits_for_much_longer() {
        let places = Arc::new(Places::new(Some(1), 2));
        let mut place = places.try_take().expect("is free");
        let patience = Duration::from_secs(1);
        assert!(!places.must_yield(0, None, patience));
        places.tell(1, 1, seconds(10));
        // Nobody waits here.
        assert!(places.must_yield(0, None, patience));
        assert!(!places.must_yield(0, seconds(9), patience));
        assert!(!places.must_yield(0, seconds(11), patience));
        assert!(places.must_yield(0, seconds(12), patience));
        // One connection is enough for one dial.
        place.begin_yield();
        assert!(!places.must_yield(0, None, patience));
        drop(place);
        assert!(places.must_yield(0, None, patience));
        // A limit that has been lowered.
        places.tell(1, 0, None);
        let _place = places.try_take();
        places.set_max(Some(0));
        assert!(places.must_yield(0, None, patience));
    }
}
