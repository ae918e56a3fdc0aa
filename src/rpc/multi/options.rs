//! The options of clients.

use std::time::Duration;

use crate::addr::Endpoint;
use crate::balance::{CircuitBreaker, Health};
use crate::engine::connect::{Connect, Reconnect};
use crate::error::Error;
use crate::rpc::codec::ProtocolChoice;

/// The options that a client keeps.
pub(super) struct Options {
    pub(super) protocol: ProtocolChoice,
    /// The most sessions of an address.
    pub(super) sessions: usize,
    /// The sessions of an address that are kept open without calls.
    pub(super) keep: usize,
    /// The time after which further sessions close that have no calls.
    pub(super) idle: Duration,
    /// The most calls and pushes that wait for a session.
    pub(super) max_waiting: usize,
    /// The longest time for which one waits.
    pub(super) max_wait: Duration,
    /// The most attempts of a call.
    pub(super) attempts: u32,
    /// The delays between the attempts of a call.
    pub(super) retry: Reconnect,
    /// The delays between the dials of an address.
    pub(super) redial: Reconnect,
    pub(super) health: Health,
    /// None if there are no breakers.
    pub(super) breaker: Option<CircuitBreaker>,
    /// The time between two lookups of a host name.
    pub(super) resolve_every: Duration,
}

/// An address or a host name of the service.
pub(super) struct Source {
    pub(super) connect: Connect,
    pub(super) weight: u32,
}

impl Source {
    pub(super) fn check(&self) -> Result<(), Error> {
        let problem = match &self.connect.to {
            Ok(Endpoint::Udp { .. }) => {
                "datagrams carry no sessions; use a tcp:// address".to_owned()
            }
            Ok(_) => return Ok(()),
            Err(error) => error.to_string(),
        };
        Err(Error::Option {
            name: "to",
            problem,
        })
    }
}
