//! The settings as a reactor uses them.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::admission::Admission;
use super::egress::Guard;
use super::forwarding;
use super::kept::Kept;
use super::metrics::{ListenerCounters, Meters};
use super::pool::SharedPool;
use super::route::{Route, Routes};
use super::settings::{ListenerKind, ListenerSettings, Settings};
use crate::engine::conn::limits::{ConnLimits, OutboundPolicy};
use crate::http::Limits;

/// The settings as a reactor uses them. Exchanges under way keep the parts that they began with.
pub(super) struct Rules {
    /// By label.
    pub(super) listeners: HashMap<Box<str>, Rc<Listener>>,
    pub(super) routes: Routes,
    /// The numbers of the pools, by name.
    pub(super) pools: HashMap<Box<str>, usize>,
}

/// A listener, with what is worked out once.
pub(super) struct Listener {
    pub(super) settings: ListenerSettings,
    /// The limits of its codecs.
    pub(super) limits: Limits,
    /// The limits of a connection that waits for a request, or for its head.
    pub(super) between: ConnLimits,
    /// The limits of a connection that sends a body.
    pub(super) uploading: ConnLimits,
    pub(super) forwarding: forwarding::Rules,
    /// The rules by which it takes requests, if it has some.
    pub(super) admission: Option<Box<Admission>>,
    /// The targets that its clients may reach, if they name them.
    pub(super) guard: Arc<Guard>,
    /// The counters of the connections that it forwards.
    pub(super) counters: Arc<ListenerCounters>,
    /// The route of requests to the targets that clients name, if the listener is a forward proxy.
    pub(super) targets: Option<Rc<Route>>,
}

impl Rules {
    pub(super) fn new(
        settings: &Settings,
        pools: &[Arc<SharedPool>],
        meters: &Meters,
        kept: &Kept,
    ) -> Self {
        let numbers = pools.iter().zip(0..);
        let (named, of_targets): (HashMap<_, _>, HashMap<_, _>) = numbers
            .filter(|(pool, _)| settings.has_pool(&pool.name))
            .map(|(pool, number)| (pool.name.clone(), number))
            .partition(|(name, _)| settings.pools.contains_key(&**name));
        let admin = settings.admin.iter().map(|admin| &*admin.listen);
        let all = settings.listeners.iter().map(label).chain(admin);
        let listeners = settings.listeners.iter().map(|listener| {
            let label: Box<str> = label(listener).into();
            let guard = Guard::new(listener.egress.clone(), all.clone());
            let counters = match listener.kind {
                ListenerKind::Tcp | ListenerKind::Udp => meters.listener(&label),
                _ => Arc::default(),
            };
            let mut rules = Listener::new(listener.clone(), guard, counters, kept);
            if listener.kind == ListenerKind::Forward {
                let pool = of_targets.get(&*listener.on).copied();
                rules.targets = Some(Rc::new(Route::of_targets(&listener.on, pool, meters)));
            }
            (label, Rc::new(rules))
        });
        let pools = named;
        Self {
            listeners: listeners.collect(),
            routes: Routes::new(&settings.routes, &pools, meters, kept),
            pools,
        }
    }
}

/// Returns the label by which the engine knows a listener.
pub(super) fn label(listener: &ListenerSettings) -> &str {
    &listener.on
}

impl Listener {
    fn new(
        settings: ListenerSettings,
        guard: Guard,
        counters: Arc<ListenerCounters>,
        kept: &Kept,
    ) -> Self {
        let bounds = &settings.limits;
        let limits = Limits::default()
            .max_head(bounds.max_head)
            .max_headers(bounds.max_headers)
            .max_body(bounds.max_body);
        Self {
            limits,
            uploading: ConnLimits::new().read_timeout(settings.timeouts.body_idle),
            between: ConnLimits::new().read_timeout(settings.timeouts.head),
            admission: Admission::of_listener(&settings, &kept.limiters),
            forwarding: forwarding::Rules::new(&settings.forwarding),
            guard: Arc::new(guard),
            counters,
            targets: None,
            settings,
        }
    }
}

/// Returns the limits of the connections of a listener.
pub(super) fn client_limits(settings: &ListenerSettings) -> ConnLimits {
    let timeouts = &settings.timeouts;
    let high = settings.limits.high_water;
    let (read, idle) = match settings.kind {
        // Until it is joined with its node's, the times of the pool count.
        ListenerKind::Tcp | ListenerKind::Udp => (Duration::MAX, Duration::MAX),
        _ => (timeouts.head, timeouts.idle),
    };
    ConnLimits::new()
        .read_timeout(read)
        .idle_timeout(idle)
        .write_stall_timeout(timeouts.write_stall)
        .high_water(high)
        .low_water(high / 2)
        // A client that does not read for a while may still send.
        .outbound_policy(OutboundPolicy::Drop)
}
