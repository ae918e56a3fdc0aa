//! Mirrors: which requests are copied, and how many copies are under way.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::settings::MirrorSettings;

/// The counts of the mirrors of routes, which all reactors share. A reload keeps them.
#[derive(Debug, Default)]
pub(super) struct Mirrors(Mutex<BTreeMap<String, Arc<Counts>>>);

#[derive(Debug, Default)]
struct Counts {
    /// The requests that could be copied.
    seen: AtomicU64,
    under_way: AtomicU32,
}

/// The mirror of a route.
#[derive(Debug)]
pub(super) struct Mirror {
    pub(super) settings: MirrorSettings,
    /// The number of its pool.
    pub(super) pool: Option<usize>,
    counts: Arc<Counts>,
}

/// A copy under way, as long as this is kept.
#[derive(Debug)]
pub(super) struct UnderWay(Arc<Counts>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Mirrors {
    fn of(&self, route: &str) -> Arc<Counts> {
        self.0.lock().entry(route.to_owned()).or_default().clone()
    }

    /// Forgets the routes that nobody uses any more.
    pub(super) fn forget_unused(&self) {
        self.0
            .lock()
            .retain(|_, counts| Arc::strong_count(counts) > 1);
    }

    /// Returns the copies under way, by route.
    pub(super) fn under_way(&self) -> Vec<(String, u32)> {
        let counts = self.0.lock();
        let counts = counts.iter();
        counts
            .map(|(route, counts)| (route.clone(), counts.under_way.load(Ordering::Relaxed)))
            .collect()
    }
}

impl Mirror {
    pub(super) fn new(
        settings: &MirrorSettings,
        route: &str,
        pools: &HashMap<Box<str>, usize>,
        mirrors: &Mirrors,
    ) -> Box<Self> {
        Box::new(Self {
            pool: pools.get(&*settings.pool).copied(),
            settings: settings.clone(),
            counts: mirrors.of(route),
        })
    }

    /// Returns true if a request with a body of such a length, if that is known, is to be copied. Of each hundred that could be, so many are as the settings
    /// say, evenly spread.
    pub(super) fn samples(&self, body: Option<u64>) -> bool {
        if body.is_some_and(|len| len > self.settings.max_body as u64) {
            return false;
        }
        let percent = u64::from(self.settings.percent);
        let seen = self.counts.seen.fetch_add(1, Ordering::Relaxed) % 100;
        (seen + 1) * percent / 100 > seen * percent / 100
    }

    /// Begins a copy, unless there are too many.
    pub(super) fn begin(&self) -> Option<UnderWay> {
        let before = self.counts.under_way.fetch_add(1, Ordering::Relaxed);
        let under_way = UnderWay(self.counts.clone());
        (before < self.settings.max_in_flight).then_some(under_way)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mirror(settings: &MirrorSettings) -> Box<Mirror> {
        Mirror::new(settings, "r", &HashMap::new(), &Mirrors::default())
    }

    #[test]
    fn of_a_hundred_requests_so_many_are_copied_as_percent_says_evenly_spread() {
        for percent in 1..=100 {
            let mirror = mirror(&MirrorSettings::to("shadow").percent(percent));
            let copied: Vec<bool> = (0..200).map(|_| mirror.samples(None)).collect();
            for hundred in copied.chunks(100) {
                let count = hundred.iter().filter(|copied| **copied).count();
                assert_eq!(count, usize::from(percent));
            }
            let gap = copied.split(|copied| *copied).map(<[bool]>::len).max();
            assert!(
                gap <= Some(100_usize.div_ceil(usize::from(percent))),
                "{percent}: {gap:?}"
            );
        }
    }

    #[test]
    fn long_bodies_are_not_copied_and_do_not_count() {
        let mirror = mirror(&MirrorSettings::to("shadow").percent(50));
        for _ in 0..10 {
            assert!(!mirror.samples(Some((64 << 10) + 1)));
        }
        let copied = [Some(64 << 10), None].map(|body| mirror.samples(body));
        assert_eq!(copied, [false, true]);
    }

    #[test]
    fn so_many_copies_are_under_way_and_no_more() {
        let mut settings = MirrorSettings::to("shadow");
        settings.max_in_flight = 2;
        let mirror = mirror(&settings);
        let (first, second) = (mirror.begin(), mirror.begin());
        assert!(first.is_some() && second.is_some());
        assert!(mirror.begin().is_none());
        drop(first);
        assert!(mirror.begin().is_some());
    }
}
