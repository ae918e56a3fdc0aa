//! The counters of a gate by route.

use std::collections::BTreeMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use crate::metric_set;
use crate::metrics::{Expose, Exposition};

metric_set! {
    /// The metrics of a route at one moment. Counters count from the gate's start.
    #[derive(Clone, Debug, Default)]
    pub(super) struct RouteStats("epicycle_gate_route") {
        /// Packets of clients with this route.
        packets_in: counter,
        /// Bytes of these packets.
        bytes_in: counter,
        /// Packets with this route pushed to clients, counted for each receiver.
        pushed: counter,
        /// Bytes of these packets.
        bytes_pushed: counter,
    }
    /// The counters of a route, of one reactor.
    #[derive(Debug, Default)]
    pub(super) struct RouteCounters;
}

/// The counters of one reactor by route.
pub(super) struct ByRoute {
    known: FxHashMap<i32, Arc<RouteCounters>>,
    /// Those of all routes without counters of their own.
    other: Arc<RouteCounters>,
    all: Arc<AllRoutes>,
}

/// The counters of all reactors. Taken for a moment when a reactor meets a new route, and by who reads them.
#[derive(Default)]
pub(super) struct AllRoutes(Mutex<Vec<(Option<i32>, Arc<RouteCounters>)>>);

/// The maximum number of routes with counters of their own, on each reactor.
const MAX_ROUTES: usize = 256;

impl ByRoute {
    pub(super) fn new(all: Arc<AllRoutes>) -> Self {
        let other = Arc::default();
        all.0.lock().push((None, Arc::clone(&other)));
        Self {
            known: FxHashMap::default(),
            other,
            all,
        }
    }

    /// Returns the counters of a route. One that is new gets its own only if it exists, so that no client can make counters.
    pub(super) fn of(&mut self, route: i32, exists: impl FnOnce() -> bool) -> &RouteCounters {
        let is_full = self.known.len() >= MAX_ROUTES;
        match self.known.entry(route) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) if !is_full && exists() => {
                let counters = Arc::<RouteCounters>::default();
                self.all.0.lock().push((Some(route), counters.clone()));
                new.insert(counters)
            }
            Entry::Vacant(_) => &self.other,
        }
    }
}

impl AllRoutes {
    /// Adds the metrics with the label `route`, which is `other` for those without counters of their own.
    pub(super) fn expose(&self, labels: &[(&str, &str)], to: &mut Exposition) {
        let mut sums: BTreeMap<Option<i32>, RouteStats> = BTreeMap::new();
        for (route, counters) in &*self.0.lock() {
            *sums.entry(*route).or_default() += counters.read();
        }
        for (route, stats) in sums {
            let route = route.map_or_else(|| "other".to_owned(), |route| route.to_string());
            stats.expose(&[labels, &[("route", route.as_str())]].concat(), to);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes_in(all: &AllRoutes) -> usize {
        let mut exposition = Exposition::new();
        all.expose(&[], &mut exposition);
        let mut text = String::new();
        exposition.write(&mut text);
        text.matches("epicycle_gate_route_packets_in_total{")
            .count()
    }

    #[test]
    fn only_routes_that_exist_have_counters_and_their_number_is_bounded() {
        let all = Arc::new(AllRoutes::default());
        let mut reactors = [(); 2].map(|()| ByRoute::new(all.clone()));
        for by_route in &mut reactors {
            for route in 0..10_000 {
                by_route.of(route, || false).packets_in.add(1);
            }
        }
        assert_eq!(routes_in(&all), 1);
        for by_route in &mut reactors {
            for route in -5_000..5_000 {
                by_route.of(route, || true).packets_in.add(1);
            }
        }
        assert_eq!(routes_in(&all), MAX_ROUTES + 1);
        let sums = all
            .0
            .lock()
            .iter()
            .map(|(_, counters)| counters.packets_in.get())
            .sum::<u64>();
        assert_eq!(sums, 40_000, "every packet is counted once");
    }
}
