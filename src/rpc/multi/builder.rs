//! The options of clients, as applications set them.

use std::fmt;
use std::time::Duration;

use super::client::MultiClient;
use super::options::{Options, Source};
use super::pool::Pool;
use crate::balance::{Balancer, CircuitBreaker, Ejection, Health, Least, RetryBudget};
use crate::engine::connect::{Connect, Reconnect};
use crate::error::Error;
use crate::rpc::codec::ProtocolChoice;
use crate::rpc::peer::Peer;

/// The options of a [`MultiClient`].
#[must_use = "a builder does nothing until build is called"]
pub struct MultiClientBuilder {
    peer: Peer,
    sources: Vec<Source>,
    options: Options,
    ejection: Ejection,
    slow_start: Duration,
    balancer: Box<dyn Balancer>,
    budget: RetryBudget,
}

impl MultiClient {
    /// Returns the options of a client whose sessions belong to this peer, at their defaults.
    pub fn builder(peer: &Peer) -> MultiClientBuilder {
        MultiClientBuilder {
            options: Options {
                protocol: peer.dial_protocol(),
                sessions: 4,
                keep: 1,
                idle: Duration::from_secs(60),
                max_waiting: 1024,
                max_wait: Duration::from_secs(5),
                attempts: 3,
                retry: Reconnect::new(Duration::from_millis(20), Duration::from_secs(1)),
                redial: Reconnect::new(Duration::from_millis(100), Duration::from_secs(10)),
                health: Health::default(),
                breaker: Some(CircuitBreaker::new()),
                resolve_every: Duration::from_secs(30),
            },
            peer: peer.downgraded(),
            sources: Vec::new(),
            ejection: Ejection::default(),
            slow_start: Duration::from_secs(10),
            balancer: Box::new(Least::new()),
            budget: RetryBudget::new().percent(10),
        }
    }
}

impl MultiClientBuilder {
    /// Adds an address of the service, or a host name. Each address of a host name is an address of the service. The name is
    /// [looked up again](Self::resolve_every) from time to time.
    pub fn to(self, to: impl Into<Connect>) -> Self {
        self.to_weighted(to, 1)
    }

    /// Adds an address or a host name with a share of the calls, relative to the others. Each address of the name has this weight.
    pub fn to_weighted(mut self, to: impl Into<Connect>, weight: u32) -> Self {
        let connect = to.into();
        self.sources.push(Source { connect, weight });
        self
    }

    /// Sets the protocol of the sessions. Default: that of the peer's outbound connections.
    pub fn protocol(mut self, protocol: impl Into<ProtocolChoice>) -> Self {
        self.options.protocol = protocol.into();
        self
    }

    /// Sets how addresses are picked: any [balancer](crate::balance). Default: [`Least`], the address with the fewest calls in
    /// flight. A call is in flight until its reply has arrived. On a [`HashRing`](crate::balance::HashRing), calls go by their
    /// [`key`](super::MultiCall::key).
    pub fn balancer(mut self, balancer: impl Balancer + 'static) -> Self {
        self.balancer = Box::new(balancer);
        self
    }

    /// Sets the most sessions of an address. A further one is dialled when all of the address have a call in flight. Each costs
    /// about 1 KiB here. Default: 4.
    pub fn sessions(mut self, sessions: usize) -> Self {
        self.options.sessions = sessions;
        self
    }

    /// Sets the number of sessions of each address that are kept open without calls, at most [`sessions`](Self::sessions). They are
    /// dialled at once. With 0 an address is dialled by its first call. Default: 1.
    pub fn keep(mut self, sessions: usize) -> Self {
        self.options.keep = sessions;
        self
    }

    /// Sets the time after which a session without calls closes, beyond those that are [kept](Self::keep). Default: 60 s.
    pub fn idle(mut self, time: Duration) -> Self {
        self.options.idle = time;
        self
    }

    /// Sets the most calls and pushes that wait since no address is connected. One more fails with
    /// [`TOO_MANY_REQUESTS`](crate::rpc::code::TOO_MANY_REQUESTS). Each holds its message. Default: 1,024.
    pub fn max_waiting(mut self, calls: usize) -> Self {
        self.options.max_waiting = calls;
        self
    }

    /// Sets the longest time for which a call waits for an address. It then fails with
    /// [`DIAL_FAILED`](crate::rpc::code::DIAL_FAILED) and the reasons of the last dials. Default: 5 s.
    pub fn max_wait(mut self, time: Duration) -> Self {
        self.options.max_wait = time;
        self
    }

    /// Sets the most attempts of a call, the first one and hedges included. 1 means no retries. Default: 3.
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.options.attempts = attempts;
        self
    }

    /// Sets the delays between the attempts of a call that was sent. They double, and are shortened at random. A call that was not
    /// sent goes to another address at once. Default: from 20 ms to 1 s.
    pub fn retry_delays(mut self, delays: Reconnect) -> Self {
        self.options.retry = delays;
        self
    }

    /// Sets the share of the calls that may be retried or hedged. Calls that were not sent need none of it. Default: 10 % of the
    /// calls of the last 10 s, and 10 more.
    pub fn budget(mut self, budget: RetryBudget) -> Self {
        self.budget = budget;
        self
    }

    /// Sets the delays between the dials of an address that fail, or whose sessions end. Default: from 100 ms to 10 s.
    pub fn dial_delays(mut self, delays: Reconnect) -> Self {
        self.options.redial = delays;
        self
    }

    /// Sets the rules by which an address that fails several times in a row gets no calls. A broken connection, no reply in time,
    /// and the codes 500, 502 and 503 are failures; 429 and all other codes are none. Default: see [`Ejection`].
    pub fn ejection(mut self, ejection: Ejection) -> Self {
        self.ejection = ejection;
        self
    }

    /// Sets the time over which an address that returns, or that a name has gained, grows to its full share of the calls.
    /// Default: 10 s.
    pub fn slow_start(mut self, over: Duration) -> Self {
        self.slow_start = over;
        self
    }

    /// Sets the circuit breaker that each address gets, with the same failures as the [ejection](Self::ejection). If those of all
    /// addresses are open, calls fail at once with [`SERVICE_UNAVAILABLE`](crate::rpc::code::SERVICE_UNAVAILABLE). `None`: there
    /// are none. Default: see [`CircuitBreaker::new`].
    pub fn breaker(mut self, breaker: impl Into<Option<CircuitBreaker>>) -> Self {
        self.options.breaker = breaker.into();
        self
    }

    /// Sets the time after which host names are looked up again. They are also looked up again when an address fails, at most once
    /// in a second. Addresses that stay keep their sessions and their state. The sessions of those that are gone close once their
    /// calls have ended. Default: 30 s.
    pub fn resolve_every(mut self, time: Duration) -> Self {
        self.options.resolve_every = time;
        self
    }

    /// Makes the client. It begins to dial.
    ///
    /// # Errors
    ///
    /// Returns an [`Error`] that names a wrong address or option.
    pub fn build(self) -> Result<MultiClient, Error> {
        let mut options = self.options;
        let bad = |name, problem: &str| {
            let problem = problem.to_owned();
            Err(Error::Option { name, problem })
        };
        if self.sources.is_empty() {
            return bad("to", "there is no address; give at least one");
        }
        for source in &self.sources {
            source.check()?;
        }
        if options.sessions == 0 || options.attempts == 0 {
            return bad("sessions and attempts", "they must be at least 1");
        }
        if options.resolve_every.is_zero() {
            return bad(
                "resolve_every",
                "zero would look names up without a pause; use 30 s, say",
            );
        }
        options.keep = options.keep.min(options.sessions);
        options.health = Health::new(self.ejection).slow_start(self.slow_start);
        let pool = Pool::start(self.peer, options, self.sources, self.balancer, self.budget);
        Ok(MultiClient::of(pool))
    }
}

impl fmt::Debug for MultiClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let to = self.sources.iter().map(|source| &source.connect.to);
        f.debug_struct("MultiClientBuilder")
            .field("to", &to.collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}
