//! Outbound connections: where to, how long to try, and whether to try again.

pub(crate) mod resolve;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::addr::Endpoint;
use crate::error::{Error, error_messages};
#[cfg(feature = "tls")]
use crate::tls::TlsClient;

/// An outbound connection to be made, for [`Engine::connect`](crate::Engine::connect).
///
/// It runs on the reactors like any other: once it is open, [`on_open`](crate::EventHandler::on_open) is
/// called for it, and [`Conn::origin`](crate::Conn::origin) tells it from the connections that listeners
/// accept. Each attempt that fails is told to
/// [`on_connect_failed`](crate::EventHandler::on_connect_failed) instead.
///
/// ```
/// use std::time::Duration;
/// use epicycle::{Connect, Reconnect};
///
/// let connect = Connect::to("tcp://localhost:6379")
///     .timeout(Duration::from_secs(3))
///     .reconnect(Reconnect::new(Duration::from_millis(100), Duration::from_secs(10)).limit(20))
///     .token(7);
/// ```
#[derive(Debug)]
#[must_use = "a connection has to be given to an engine to be made"]
pub struct Connect {
    pub(crate) to: Result<Endpoint, Error>,
    pub(crate) token: u64,
    pub(crate) timeout: Duration,
    pub(crate) local: Option<SocketAddr>,
    pub(crate) reconnect: Option<Reconnect>,
    pub(crate) fresh_lookup: bool,
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<TlsClient>,
}

/// Whether and when to try again: after a connect that failed, and after a connection that the peer closed,
/// that broke, or that ended by a timeout or another limit. One that the application has closed, aborted or
/// detached, or that the shutdown has ended, stays closed.
///
/// The first delay doubles with each failure in a row, up to the longest. Each is shortened by chance, to
/// between the half and the whole of it, so that many clients of a server that restarts do not come back at
/// the same moment. A connection that has lasted longer than the delay before it begins the delays anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reconnect {
    first: Duration,
    longest: Duration,
    limit: Option<u32>,
}

/// Why a connection was not made.
#[non_exhaustive]
pub enum ConnectError {
    /// The address is bad, or its host name does not resolve.
    Address(Error),
    /// The kernel or the peer refused.
    Io(io::Error),
    /// The TLS handshake failed.
    Tls(Box<dyn std::error::Error + Send + Sync>),
    /// It took longer than the connect timeout.
    Timeout,
    /// It was cancelled.
    Cancelled,
    /// The engine is shutting down, or has.
    Stopped,
    /// The reactor's mailbox is full: ask again later.
    MailboxFull,
    /// As many names wait to be looked up as may: ask again later.
    LookupQueueFull {
        /// How many may wait.
        capacity: usize,
    },
    /// The engine has no reactor of that number.
    NoSuchReactor {
        /// The number that was given.
        reactor: usize,
        /// How many there are, counted from 0.
        reactors: usize,
    },
    /// An option of the [`Connect`] has a value that cannot work.
    Option(Error),
}

/// The shortest time between two attempts.
const SHORTEST_DELAY: Duration = Duration::from_millis(1);

/// An attempt that failed, for [`on_connect_failed`](crate::EventHandler::on_connect_failed).
#[derive(Debug)]
#[non_exhaustive]
pub struct FailedConnect {
    /// The number given to [`Connect::token`].
    pub token: u64,
    /// Where to.
    pub to: Endpoint,
    /// Which failure in a row it is, counted from 1.
    pub attempt: u32,
    /// Why it failed; of several addresses of a host, the last one's reason.
    pub error: ConnectError,
    /// When it is tried again; `None` when it is not.
    pub retry_in: Option<Duration>,
}

/// How often in a row it went wrong, and how long that was waited for.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    setbacks: u32,
    waited: Duration,
}

/// Names an outbound connection from the moment it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct DialId(pub(crate) u64);

impl Connect {
    /// Connects to an address: a string (see [`Endpoint`] for the forms), a `SocketAddr` or a
    /// `Endpoint`. A host name is resolved off the loop, and its addresses are tried one after the other.
    pub fn to<A>(addr: A) -> Self
    where
        A: TryInto<Endpoint, Error: Into<Error>>,
    {
        Self {
            to: addr.try_into().map_err(Into::into),
            token: 0,
            timeout: Duration::from_secs(10),
            local: None,
            reconnect: None,
            fresh_lookup: false,
            #[cfg(feature = "tls")]
            tls: None,
        }
    }

    /// A number to know the connection by: [`Origin::Connected`](crate::Origin) has it. Default: 0.
    pub fn token(mut self, token: u64) -> Self {
        self.token = token;
        self
    }

    /// How long an attempt may take, from the resolving of the name to the end of the TLS handshake. Default:
    /// 10 s; `Duration::MAX` for never.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Connects from a local address; port 0 lets the kernel choose. Of a host's addresses those of its IP
    /// version are tried; a Unix socket has no use for it. Default: the kernel chooses both.
    pub fn local_addr(mut self, addr: SocketAddr) -> Self {
        self.local = Some(addr);
        self
    }

    /// Speaks TLS. The server has to prove that it is the address's host, unless
    /// [`TlsClient::server_name`] says who else; a Unix socket's path names nobody, so that must be said.
    ///
    /// ```no_run
    /// use epicycle::Connect;
    /// use epicycle::tls::{Roots, TlsClient};
    ///
    /// let tls = TlsClient::new(&Roots::native()?)?;
    /// let connect = Connect::to("tcp://example.com:443").tls(&tls);
    /// # Ok::<(), epicycle::tls::TlsError>(())
    /// ```
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: &TlsClient) -> Self {
        self.tls = Some(tls.clone());
        self
    }

    /// Tries again when it fails or breaks. Default: not.
    pub fn reconnect(mut self, reconnect: Reconnect) -> Self {
        self.reconnect = Some(reconnect);
        self
    }

    /// Has the host's name looked up although its addresses are known from a lookup before. Default: addresses are kept as
    /// long as [`lookup_ttl`](crate::Server::lookup_ttl) says. An attempt that follows one that failed looks the name up
    /// anyway.
    pub fn fresh_lookup(mut self, on: bool) -> Self {
        self.fresh_lookup = on;
        self
    }

    /// Finds values that cannot work.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let bad = |name, problem: &str| {
            let problem = problem.to_owned();
            Err(Error::Option { name, problem })
        };
        if self.timeout.is_zero() {
            return bad(
                "timeout",
                "zero would end every attempt at once; use Duration::MAX for never",
            );
        }
        if self
            .reconnect
            .is_some_and(|policy| policy.first.min(policy.longest) < SHORTEST_DELAY)
        {
            return bad(
                "reconnect",
                "it would try again without a pause; use delays of 1 ms or more",
            );
        }
        Ok(())
    }
}

impl<A> From<A> for Connect
where
    A: TryInto<Endpoint, Error: Into<Error>>,
{
    fn from(addr: A) -> Self {
        Self::to(addr)
    }
}

impl Reconnect {
    /// Tries again after `first`, and then after twice as long each time, up to `longest`, without end. Both are at least 1 ms.
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            limit: None,
        }
    }

    /// Gives up after so many attempts in a row have failed.
    pub fn limit(mut self, failures: u32) -> Self {
        self.limit = Some(failures);
        self
    }

    /// Whether so many failures in a row are enough.
    pub(crate) fn gives_up(&self, failures: u32) -> bool {
        self.limit.is_some_and(|limit| failures >= limit)
    }

    fn delay(&self, setbacks: u32) -> Duration {
        let doublings = setbacks.saturating_sub(1).min(31);
        let whole = self.first.saturating_mul(1 << doublings).min(self.longest);
        whole.mul_f64(0.5 + fastrand::f64() / 2.0)
    }
}

impl Backoff {
    /// An attempt has failed: how long to wait for the next.
    pub(crate) fn after_failure(&mut self, policy: &Reconnect) -> Duration {
        self.setbacks = self.setbacks.saturating_add(1);
        let delay = policy.delay(self.setbacks);
        self.waited = delay;
        delay
    }

    /// The same for a connection that has ended. A server that accepts and closes at once is worth no more
    /// haste than one that refuses.
    pub(crate) fn after_connection(&mut self, lasted: Duration, policy: &Reconnect) -> Duration {
        if lasted > self.waited {
            self.setbacks = 0;
        }
        self.after_failure(policy)
    }
}

/// 100 ms, up to 30 s, without end.
impl Default for Reconnect {
    fn default() -> Self {
        Self::new(Duration::from_millis(100), Duration::from_secs(30))
    }
}

error_messages! {
    ConnectError {
        ConnectError::Address(error) | ConnectError::Option(error) => "{error}",
        ConnectError::Io(error) => "{error}",
        ConnectError::Tls(error) => "the TLS handshake failed: {error}",
        ConnectError::Timeout => "connecting took longer than the connect timeout",
        ConnectError::Cancelled => "the connect was cancelled",
        ConnectError::Stopped => "the engine is shutting down",
        ConnectError::MailboxFull => "the reactor's mailbox is full; ask less often or raise the mailbox option",
        ConnectError::LookupQueueFull { capacity } =>
            "{capacity} host names wait to be looked up already; ask less often, or raise the lookup_queue \
             or lookup_threads option",
        ConnectError::NoSuchReactor { reactor, reactors } =>
            "there is no reactor {reactor}; the engine has {reactors}, counted from 0",
    }
    causes {
        ConnectError::Address(error) | ConnectError::Option(error) => error,
        ConnectError::Io(error) => error,
        ConnectError::Tls(error) => &**error,
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_longest_and_end_at_the_limit() {
        let reconnect = Reconnect::new(Duration::from_millis(100), Duration::from_secs(1)).limit(7);
        for (failures, whole) in [(1, 100), (2, 200), (3, 400), (4, 800), (5, 1000), (6, 1000)] {
            let delay = reconnect.delay(failures);
            assert!(!reconnect.gives_up(failures));
            let whole = Duration::from_millis(whole);
            assert!(
                delay >= whole / 2 && delay <= whole,
                "{failures}: {delay:?}"
            );
        }
        assert!(reconnect.gives_up(7));
        assert!(!Reconnect::default().gives_up(u32::MAX));
        assert!(Reconnect::default().delay(u32::MAX) <= Duration::from_secs(30));
    }

    #[test]
    fn a_connection_that_ends_at_once_lengthens_the_delay_and_one_that_lasts_does_not() {
        let policy = Reconnect::new(Duration::from_millis(100), Duration::from_secs(1));
        let mut backoff = Backoff::default();
        for whole in [100, 200, 400, 800, 1000] {
            let delay = backoff.after_connection(Duration::ZERO, &policy);
            assert!(delay >= Duration::from_millis(whole) / 2, "{delay:?}");
        }
        let delay = backoff.after_connection(Duration::from_millis(1001), &policy);
        assert!(delay <= Duration::from_millis(100), "{delay:?}");
        let delay = backoff.after_failure(&policy);
        assert!(delay >= Duration::from_millis(100), "{delay:?}");
    }
}
