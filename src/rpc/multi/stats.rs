//! The statistics of clients.

use crate::balance::BreakerState;

/// The statistics of a [`MultiClient`](super::MultiClient).
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
