//! The statistics of a peer: what has arrived at each route, and how it was answered.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;

use super::route_info::RouteInfo;
use super::wire::{Kind, code};
use crate::metrics::{Distribution, Expose, Exposition, Histogram};
use crate::{metric_label, metric_set};

metric_label! {
    /// The end of a call or a push, by the code of its status.
    pub enum Outcome("outcome") {
        /// It succeeded.
        Ok = "ok",
        /// [`BAD_MESSAGE`](code::BAD_MESSAGE).
        BadMessage = "400",
        /// [`UNAUTHORIZED`](code::UNAUTHORIZED).
        Unauthorized = "401",
        /// [`NOT_FOUND`](code::NOT_FOUND).
        NotFound = "404",
        /// [`HANDLE_TIMEOUT`](code::HANDLE_TIMEOUT).
        Timeout = "408",
        /// [`TOO_MANY_REQUESTS`](code::TOO_MANY_REQUESTS).
        TooManyRequests = "429",
        /// [`CANCELLED`](code::CANCELLED): the caller no longer waited, or its session ended.
        Cancelled = "499",
        /// [`INTERNAL_SERVER_ERROR`](code::INTERNAL_SERVER_ERROR).
        InternalServerError = "500",
        /// [`BAD_GATEWAY`](code::BAD_GATEWAY).
        BadGateway = "502",
        /// [`SERVICE_UNAVAILABLE`](code::SERVICE_UNAVAILABLE).
        ServiceUnavailable = "503",
        /// Another code, such as one of the application's.
        Other = "other",
    }
}

impl Outcome {
    /// Returns the outcome with this code of a status.
    pub fn of(code: i32) -> Self {
        match code {
            code::BAD_MESSAGE => Self::BadMessage,
            code::UNAUTHORIZED => Self::Unauthorized,
            code::NOT_FOUND => Self::NotFound,
            code::HANDLE_TIMEOUT => Self::Timeout,
            code::TOO_MANY_REQUESTS => Self::TooManyRequests,
            code::CANCELLED => Self::Cancelled,
            code::INTERNAL_SERVER_ERROR => Self::InternalServerError,
            code::BAD_GATEWAY => Self::BadGateway,
            code::SERVICE_UNAVAILABLE => Self::ServiceUnavailable,
            _ => Self::Other,
        }
    }
}

metric_set! {
    /// The messages of a route up to one moment.
    #[derive(Clone, Debug, Default)]
    #[non_exhaustive]
    pub struct RouteStats("epicycle_rpc_route") {
        /// Calls or pushes that arrived.
        arrived: counter,
        /// Calls and pushes that ended, by their outcomes. A push to a blocking handler ends when it is queued.
        ended: counter by Outcome,
        /// Bytes of the messages that arrived.
        bytes_in: counter,
        /// Bytes of the replies.
        bytes_out: counter,
    }
    /// The counters of a route on one reactor.
    #[derive(Debug, Default)]
    pub(super) struct RouteCounters;
}

impl RouteStats {
    /// Returns the number of calls that are not answered yet.
    pub fn in_flight(&self) -> u64 {
        let ended: u64 = self.ended.iter().map(|(_, ended)| ended).sum();
        self.arrived.saturating_sub(ended)
    }
}

metric_set! {
    /// The sessions of a peer, and what went wrong on them, up to one moment.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    #[non_exhaustive]
    pub struct PeerStats("epicycle_rpc") {
        /// Sessions now.
        sessions: gauge,
        /// Replies whose calls are unknown here, or have ended.
        stray_replies: counter,
        /// Pushes that no route takes.
        stray_pushes: counter,
        /// Calls that ended at their deadlines, on either side.
        timeouts: counter,
        /// Calls that were cancelled, on either side.
        cancels: counter,
        /// Answers of handlers that came too late.
        late_answers: counter,
        /// Pushes that could not be sent, or found no room and were to be dropped then.
        dropped_pushes: counter,
        /// Items of streams that found no room and were to be dropped then.
        dropped_items: counter,
        /// Messages for streams that are unknown here, or have ended.
        stray_items: counter,
        /// Streams that ended because the other side broke their rules.
        stream_violations: counter,
        /// Connections of sessions that redialled.
        redials: counter,
    }
}

/// The statistics of a peer at one moment.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Stats {
    /// The whole peer.
    pub peer: PeerStats,
    /// Each route, in the order of [`Peer::routes`](super::Peer::routes).
    pub routes: Vec<RouteReport>,
    /// The messages that no route takes.
    pub unknown: RouteStats,
}

/// The statistics of a route at one moment.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RouteReport {
    /// The route.
    pub route: RouteInfo,
    /// Its messages.
    pub stats: RouteStats,
    /// The times from the arrival of a call to its reply. Empty unless times are
    /// [counted](super::PeerBuilder::count_time).
    pub times: Option<Distribution>,
}

impl Stats {
    /// Returns the statistics of the route of calls with this path.
    pub fn call(&self, path: &str) -> Option<&RouteReport> {
        self.find(Kind::Call, path)
    }

    /// Returns the statistics of the route of pushes with this path.
    pub fn push(&self, path: &str) -> Option<&RouteReport> {
        self.find(Kind::Push, path)
    }

    fn find(&self, kind: Kind, path: &str) -> Option<&RouteReport> {
        (self.routes.iter()).find(|report| report.route.kind == kind && &*report.route.path == path)
    }
}

/// Adds a series for each route, with the labels `kind` (`call`, `push`) and `route`.
impl Expose for Stats {
    fn expose(&self, labels: &[(&str, &str)], to: &mut Exposition) {
        self.peer.expose(labels, to);
        let unknown = [labels, &[("kind", ""), ("route", "")]].concat();
        self.unknown.expose(&unknown, to);
        for report in &self.routes {
            let kind = report.route.kind.to_string().to_ascii_lowercase();
            let own = [("kind", &*kind), ("route", &*report.route.path)];
            let labels = [labels, &own].concat();
            report.stats.expose(&labels, to);
            if let Some(times) = &report.times {
                let times = RouteTimes {
                    time: times.clone(),
                };
                times.expose(&labels, to);
            }
        }
    }
}

metric_set! {
    #[derive(Clone, Debug, Default)]
    struct RouteTimes("epicycle_rpc_route") {
        /// Times from the arrival of a call to its reply.
        time: time_histogram,
    }
}

/// Counts the messages of all routes on one reactor. The last place is that of messages that no route takes.
pub(super) struct Meters(Box<[Meter]>);

#[derive(Default)]
struct Meter {
    counters: RouteCounters,
    /// Made when the first time is recorded: it takes 10 KiB.
    times: OnceLock<Histogram>,
}

impl Meters {
    /// Returns the place of messages that no route takes.
    pub(super) fn unknown(&self) -> usize {
        self.0.len() - 1
    }

    /// Counts a message that has arrived at a route.
    #[inline]
    pub(super) fn arrived(&self, route: usize, bytes: usize) {
        let counters = &self.0[route].counters;
        counters.arrived.add(1);
        counters.bytes_in.add(bytes as u64);
    }

    /// Counts the end of a message of a route.
    #[inline]
    pub(super) fn ended(&self, route: usize, outcome: Outcome) {
        self.0[route].counters.ended[outcome].add(1);
    }

    /// Counts the end of a call of a route, and its reply.
    #[inline]
    pub(super) fn replied(
        &self,
        route: usize,
        outcome: Outcome,
        bytes: usize,
        time: Option<Duration>,
    ) {
        let meter = &self.0[route];
        meter.counters.ended[outcome].add(1);
        meter.counters.bytes_out.add(bytes as u64);
        if let Some(time) = time {
            meter
                .times
                .get_or_init(Histogram::default)
                .record_time(time);
        }
    }
}

/// The meters of a peer's reactors.
pub(super) struct AllMeters {
    /// The number of routes of each.
    routes: usize,
    all: Mutex<Vec<Arc<Meters>>>,
}

impl AllMeters {
    pub(super) fn new(routes: usize) -> Self {
        Self {
            routes,
            all: Mutex::default(),
        }
    }

    /// Makes the meters of a reactor.
    pub(super) fn add(&self) -> Arc<Meters> {
        let places = 0..=self.routes;
        let meters = Arc::new(Meters(places.map(|_| Meter::default()).collect()));
        self.all.lock().push(meters.clone());
        meters
    }

    pub(super) fn read(&self, peer: PeerStats, routes: &[RouteInfo]) -> Stats {
        let all = self.all.lock();
        let sum = |place: usize| {
            let mut sum = RouteStats::default();
            let mut times: Option<Distribution> = None;
            for meters in &*all {
                let meter = &meters.0[place];
                sum += meter.counters.read();
                if let Some(own) = meter.times.get().map(Histogram::read) {
                    match &mut times {
                        Some(times) => times.add(&own),
                        None => times = Some(own),
                    }
                }
            }
            (sum, times)
        };
        let routes = routes.iter().enumerate().map(|(place, route)| {
            let (stats, times) = sum(place);
            RouteReport {
                route: route.clone(),
                stats,
                times,
            }
        });
        Stats {
            peer,
            routes: routes.collect(),
            unknown: sum(self.routes).0,
        }
    }
}

/// The counters of a peer that all its threads share.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) stray_replies: AtomicU64,
    pub(super) stray_pushes: AtomicU64,
    pub(super) timeouts: AtomicU64,
    pub(super) cancels: AtomicU64,
    pub(super) late_answers: AtomicU64,
    pub(super) dropped_pushes: AtomicU64,
    pub(super) dropped_items: AtomicU64,
    pub(super) stray_items: AtomicU64,
    pub(super) stream_violations: AtomicU64,
    pub(super) redials: AtomicU64,
}

impl Counters {
    pub(super) fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn read(&self, sessions: usize) -> PeerStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        PeerStats {
            sessions: sessions as u64,
            stray_replies: get(&self.stray_replies),
            stray_pushes: get(&self.stray_pushes),
            timeouts: get(&self.timeouts),
            cancels: get(&self.cancels),
            late_answers: get(&self.late_answers),
            dropped_pushes: get(&self.dropped_pushes),
            dropped_items: get(&self.dropped_items),
            stray_items: get(&self.stray_items),
            stream_violations: get(&self.stream_violations),
            redials: get(&self.redials),
        }
    }
}
