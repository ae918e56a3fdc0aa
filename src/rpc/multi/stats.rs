//! The statistics of clients.

use crate::balance::BreakerState;
use crate::metrics::{Expose, Exposition};

/// The statistics of a [`MultiClient`](super::MultiClient).
///
/// The names of its metrics begin with `epicycle_rpc_client_`. Those of an address have a label `address`. Two clients need a
/// label each that tells them apart.
///
/// ```
/// use epicycle::metrics::Exposition;
/// use epicycle::rpc::{MultiClient, Peer};
///
/// let peer = Peer::builder().start()?;
/// let client = MultiClient::builder(&peer).to("tcp://127.0.0.1:9").build()?;
/// let mut metrics = Exposition::new();
/// metrics.add(&[("client", "adders")], &client.stats());
/// let mut text = String::new();
/// metrics.write(&mut text);
/// assert!(text.contains("epicycle_rpc_client_retries_total{client=\"adders\"} 0\n"));
/// # Ok::<(), epicycle::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MultiStats {
    /// The number of open sessions.
    pub workers: usize,
    /// The number of those without a call in flight.
    pub idle: usize,
    /// The number of sessions that are being dialled.
    pub dialling: usize,
    /// The number of sessions that were opened.
    pub created: u64,
    /// The number of dials that failed.
    pub failed_dials: u64,
    /// The number of calls that have not ended.
    pub doing: usize,
    /// The number of those that wait for a session.
    pub waiting: usize,
    /// The number of calls that have ended.
    pub done: u64,
    /// The fewest calls in flight on a session.
    pub min_load: usize,
    /// The most calls in flight on a session.
    pub max_load: usize,
    /// The number of calls that were sent again.
    pub retries: u64,
    /// The number of calls that were sent to a second address because the first took long.
    pub hedges: u64,
    /// The number of retries and hedges that the budget did not allow.
    pub over_budget: u64,
    /// The number of ejections.
    pub ejections: u64,
    /// The number of times that a circuit breaker opened.
    pub breaks: u64,
    /// The number of calls and pushes that were refused since too many waited, or since all circuit breakers were open.
    pub refused: u64,
    /// The number of accepted pushes that were not sent.
    pub dropped_pushes: u64,
    /// The addresses, in the order in which they were given or found.
    pub addresses: Vec<AddressStats>,
}

/// The state of an address of a [`MultiClient`](super::MultiClient).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AddressStats {
    /// The address.
    pub address: String,
    /// The number of open sessions.
    pub sessions: usize,
    /// The number of calls in flight.
    pub in_flight: u32,
    /// True if it gets calls: it is neither ejected nor unreachable.
    pub is_up: bool,
    /// True if it is ejected, until it has answered again.
    pub is_ejected: bool,
    /// The share of its calls that it gets, in thousandths: less than 1000 for some time after its return.
    pub ramp: u16,
    /// The state of its circuit breaker. `None` if it has none.
    pub breaker: Option<BreakerState>,
}

impl Expose for MultiStats {
    fn expose(&self, labels: &[(&str, &str)], to: &mut Exposition) {
        let gauges = [
            ("sessions", "Open sessions.", self.workers),
            (
                "idle_sessions",
                "Open sessions without a call in flight.",
                self.idle,
            ),
            (
                "dialling",
                "Sessions that are being dialled.",
                self.dialling,
            ),
            ("in_flight", "Calls that have not ended.", self.doing),
            (
                "waiting",
                "Calls and pushes that wait for a session.",
                self.waiting,
            ),
            (
                "min_load",
                "The fewest calls in flight on a session.",
                self.min_load,
            ),
            (
                "max_load",
                "The most calls in flight on a session.",
                self.max_load,
            ),
        ];
        for (name, help, value) in gauges {
            to.gauge(&format!("{PREFIX}_{name}"), help, labels, value as f64);
        }
        let counters = [
            ("opened", "Sessions that were opened.", self.created),
            ("failed_dials", "Dials that failed.", self.failed_dials),
            ("done", "Calls that have ended.", self.done),
            ("retries", "Calls that were sent again.", self.retries),
            (
                "hedges",
                "Calls that were sent to a second address too.",
                self.hedges,
            ),
            (
                "over_budget",
                "Retries and hedges that the budget did not allow.",
                self.over_budget,
            ),
            ("ejections", "Ejections of addresses.", self.ejections),
            (
                "breaks",
                "Times that a circuit breaker opened.",
                self.breaks,
            ),
            (
                "refused",
                "Calls and pushes that were refused.",
                self.refused,
            ),
            (
                "dropped_pushes",
                "Accepted pushes that were not sent.",
                self.dropped_pushes,
            ),
        ];
        for (name, help, value) in counters {
            to.counter(
                &format!("{PREFIX}_{name}_total"),
                help,
                labels,
                value as f64,
            );
        }
        for address in &self.addresses {
            address.expose(labels, to);
        }
    }
}

impl AddressStats {
    fn expose(&self, labels: &[(&str, &str)], to: &mut Exposition) {
        let labels = [labels, &[("address", &*self.address)]].concat();
        let is_broken = self.breaker == Some(BreakerState::Open);
        let gauges = [
            (
                "sessions",
                "Open sessions of the address.",
                self.sessions as f64,
            ),
            (
                "in_flight",
                "Calls in flight at the address.",
                self.in_flight.into(),
            ),
            (
                "up",
                "1 if the address gets calls.",
                u8::from(self.is_up).into(),
            ),
            (
                "ejected",
                "1 if the address is ejected.",
                u8::from(self.is_ejected).into(),
            ),
            (
                "ramp",
                "The share of its calls that the address gets, up to 1.",
                f64::from(self.ramp) / 1000.0,
            ),
            (
                "broken",
                "1 if the circuit breaker of the address is open.",
                u8::from(is_broken).into(),
            ),
        ];
        for (name, help, value) in gauges {
            to.gauge(&format!("{PREFIX}_address_{name}"), help, &labels, value);
        }
    }
}

const PREFIX: &str = "epicycle_rpc_client";
