//! Outbound connections: the address, the timeout, and the policy for further attempts.

pub(crate) mod awaiting;
pub(crate) mod negotiation;
pub(crate) mod resolve;

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use self::awaiting::Awaiting;
use self::negotiation::{Negotiate, Negotiation};
use crate::addr::{Addr, Endpoint};
use crate::engine::conn::limits::{ConnLimits, Limits};
#[cfg(feature = "proxy-protocol")]
use crate::engine::proxy_protocol::ProxyHeader;
use crate::error::{Error, error_messages};
#[cfg(feature = "tls")]
use crate::tls::TlsClient;

/// The description of an outbound connection, for [`Engine::connect`](crate::Engine::connect).
///
/// The connection runs on a reactor like any other. [`on_open`](crate::EventHandler::on_open) is called when it is open.
/// [`Conn::origin`](crate::Conn::origin) distinguishes it from the connections that listeners accept. For each attempt that
/// fails, [`on_connect_failed`](crate::EventHandler::on_connect_failed) is called instead.
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
///
/// It can be cloned and serve as a profile for many connections. [`at`](Self::at) returns a copy for another address.
#[derive(Clone, Debug)]
#[must_use = "it has no effect until it is given to an engine"]
pub struct Connect {
    pub(crate) to: Result<Endpoint, Arc<Error>>,
    pub(crate) token: u64,
    /// None if it is the default.
    pub(crate) timeout: Option<Duration>,
    pub(crate) local: Option<SocketAddr>,
    pub(crate) any_port: bool,
    pub(crate) reconnect: Option<Reconnect>,
    pub(crate) fresh_lookup: bool,
    /// None if they are those of the engine.
    pub(crate) limits: Option<Arc<ConnLimits>>,
    pub(crate) allow: Option<Allow>,
    pub(crate) negotiate: Option<Negotiate>,
    /// None if this side connects.
    pub(crate) awaits: Option<Awaiting>,
    #[cfg(feature = "proxy-protocol")]
    pub(crate) proxy_header: Option<ProxyHeader>,
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<TlsClient>,
}

/// A check of each IP address before it is dialled.
#[derive(Clone)]
pub(crate) struct Allow(Arc<dyn Fn(IpAddr) -> bool + Send + Sync>);

impl Allow {
    pub(crate) fn is_allowed(&self, ip: IpAddr) -> bool {
        (self.0)(ip.to_canonical())
    }
}

impl fmt::Debug for Allow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Allow")
    }
}

/// The policy for further attempts.
///
/// It applies to a failed attempt, and to a connection that the peer closed, that broke, or that ended by a timeout or
/// another limit. A connection that the application closed, aborted or detached, or that the shutdown ended, stays closed.
///
/// The delay doubles with each failure in a row, from the first delay to the longest. Each delay is shortened at random to
/// between half and all of its length, so that the clients of a server that restarts do not reconnect at the same moment. A
/// connection that lasted longer than the delay before it resets the delay to the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reconnect {
    first: Duration,
    longest: Duration,
    limit: Option<u32>,
}

/// The reason why a connection was not made.
#[non_exhaustive]
pub enum ConnectError {
    /// The address is bad, or its host name does not resolve.
    Address(Error),
    /// The kernel or the peer refused the connection.
    Io(io::Error),
    /// The TLS handshake failed.
    Tls(Box<dyn std::error::Error + Send + Sync>),
    /// The [negotiation](Negotiation) that the connection begins with failed.
    Negotiation(Box<dyn std::error::Error + Send + Sync>),
    /// The attempt took longer than the connect timeout.
    Timeout,
    /// The application cancelled the connect.
    Cancelled,
    /// The engine is shutting down or has ended.
    Stopped,
    /// The reactor's mailbox is full. A later attempt may succeed.
    MailboxFull,
    /// The queue of names to look up is full. A later attempt may succeed.
    LookupQueueFull {
        /// The number of names that may wait.
        capacity: usize,
    },
    /// [`Connect::allow`] refused this address.
    Denied {
        /// The address.
        addr: SocketAddr,
    },
    /// None of the addresses of a host name could be connected to. Contains each address that was tried with its error, in
    /// the order in which they failed. There is at least one.
    Host(Vec<FailedAddress>),
    /// The engine has no reactor with that number.
    NoSuchReactor {
        /// The number that was given.
        reactor: usize,
        /// The number of reactors. They are counted from 0.
        reactors: usize,
    },
    /// An option of the [`Connect`] has a value that cannot work.
    Option(Error),
}

/// An address of a host name that could not be connected to.
#[derive(Debug)]
#[non_exhaustive]
pub struct FailedAddress {
    /// The address.
    pub addr: Addr,
    /// The reason.
    pub error: ConnectError,
}

/// The timeout of an attempt that has no other.
pub(crate) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// The shortest time between two attempts.
const SHORTEST_DELAY: Duration = Duration::from_millis(1);

/// An attempt that failed, for [`on_connect_failed`](crate::EventHandler::on_connect_failed).
#[derive(Debug)]
#[non_exhaustive]
pub struct FailedConnect {
    /// The number given to [`Connect::token`], or to [`Adopt::token`](crate::Adopt::token) if the TLS handshake on an adopted
    /// socket failed.
    pub token: u64,
    /// The address. For an adopted socket, that of its peer.
    pub to: Endpoint,
    /// The number of failures in a row, this one included.
    pub attempt: u32,
    /// The reason of the failure. For a host name, it is mostly [`ConnectError::Host`].
    pub error: ConnectError,
    /// The delay before the next attempt. `None` if there is none.
    pub retry_in: Option<Duration>,
}

/// The state of the delays between attempts.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    /// The number of failures in a row. A short connection counts as one.
    failures: u32,
    /// The delay before the last attempt.
    last_delay: Duration,
}

/// The identifier of an outbound connection, from the call of `Engine::connect` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct DialId(pub(crate) u64);

impl Connect {
    /// Connects to an address: a string (see [`Endpoint`] for the forms), a `SocketAddr` or an `Endpoint`. Other threads look
    /// up a host name.
    ///
    /// The addresses of a host name are tried as RFC 8305 ("Happy Eyeballs") describes: IPv6 and IPv4 take turns, the next
    /// attempt begins when one fails or after 250 ms, and the first connection that opens is kept. The pause is shorter if the
    /// timeout leaves less time for each. At most 8 attempts run at a time. A TLS handshake under way has its share of the
    /// timeout before a further address is tried.
    ///
    /// A `udp://` address makes a session over a socket of its own, which receives from that peer only.
    pub fn to<A>(addr: A) -> Self
    where
        A: TryInto<Endpoint, Error: Into<Error>>,
    {
        Self {
            to: addr.try_into().map_err(|error| Arc::new(error.into())),
            token: 0,
            timeout: None,
            local: None,
            any_port: false,
            reconnect: None,
            fresh_lookup: false,
            limits: None,
            allow: None,
            negotiate: None,
            awaits: None,
            #[cfg(feature = "proxy-protocol")]
            proxy_header: None,
            #[cfg(feature = "tls")]
            tls: None,
        }
    }

    /// Returns a copy with another address.
    ///
    /// ```
    /// use std::time::Duration;
    /// use epicycle::Connect;
    ///
    /// let profile = Connect::to("tcp://10.0.0.1:80").timeout(Duration::from_secs(1));
    /// let other = profile.at("tcp://10.0.0.2:80").token(2);
    /// ```
    pub fn at<A>(&self, addr: A) -> Self
    where
        A: TryInto<Endpoint, Error: Into<Error>>,
    {
        let to = addr.try_into().map_err(|error| Arc::new(error.into()));
        Self { to, ..self.clone() }
    }

    /// Sets limits for this connection that differ from those of the engine.
    pub fn limits(mut self, limits: ConnLimits) -> Self {
        self.limits = Some(Arc::new(limits));
        self
    }

    /// Sets a number by which the handler recognizes the connection: [`Origin::Connected`](crate::Origin) contains it.
    /// Default: 0.
    pub fn token(mut self, token: u64) -> Self {
        self.token = token;
        self
    }

    /// Sets the timeout of an attempt, from the name lookup to the end of the TLS handshake. Default: 10 s. `Duration::MAX`
    /// means never.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Sets the local address. With port 0 the kernel chooses the port. Only the host's addresses of the same IP version are
    /// tried. A Unix socket ignores it. Default: the kernel chooses address and port.
    pub fn local_addr(mut self, addr: SocketAddr) -> Self {
        self.local = Some(addr);
        self
    }

    /// Allows port 0 in a `udp://` address. The peer is then the port of that host from which the first datagram comes, and no other
    /// can send from then on. The session opens at once, and nothing can be sent before that datagram. Default: off.
    pub fn any_port(mut self, on: bool) -> Self {
        self.any_port = on;
        self
    }

    /// Uses TLS. The server's certificate must be valid for the host of the address, or for
    /// [`TlsClient::server_name`] if that is set. A Unix socket has no host, so there it must be set.
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

    /// Sends a header of the PROXY protocol first, before TLS and before the output of the handler. Default: none.
    ///
    /// ```
    /// use std::net::SocketAddr;
    /// use epicycle::{Connect, ProxyHeader};
    ///
    /// fn upstream(client: SocketAddr, server: SocketAddr) -> Connect {
    ///     Connect::to("tcp://10.0.0.5:80").proxy_protocol(ProxyHeader::v2(client, server))
    /// }
    /// ```
    #[cfg(feature = "proxy-protocol")]
    pub fn proxy_protocol(mut self, header: ProxyHeader) -> Self {
        self.proxy_header = Some(header);
        self
    }

    /// Begins each connection with a negotiation, which `make` makes: with a proxy, for example, which connects the target then. It
    /// comes before TLS, and `host` is the name that the certificate must have. The header of
    /// [`proxy_protocol`](Self::proxy_protocol) comes before it. Default: none.
    ///
    /// ```
    /// use std::error::Error;
    /// use epicycle::{Connect, Negotiation};
    ///
    /// /// Sends a name, and awaits a byte.
    /// struct Login;
    ///
    /// impl Negotiation for Login {
    ///     fn advance(
    ///         &mut self,
    ///         received: &[u8],
    ///         send: &mut Vec<u8>,
    ///     ) -> Result<Option<usize>, Box<dyn Error + Send + Sync>> {
    ///         match received.first() {
    ///             None => send.extend(b"alice\n"),
    ///             Some(b'+') => return Ok(Some(1)),
    ///             Some(_) => return Err("not welcome".into()),
    ///         }
    ///         Ok(None)
    ///     }
    /// }
    ///
    /// let connect = Connect::to("tcp://10.0.0.5:4000").negotiate("10.0.0.5", || Login);
    /// ```
    pub fn negotiate<N: Negotiation + 'static>(
        mut self,
        host: &str,
        make: impl Fn() -> N + Send + Sync + 'static,
    ) -> Self {
        self.negotiate = Some(Negotiate::new(host, make));
        self
    }

    /// Connects again after a failure or a broken connection. Default: off.
    pub fn reconnect(mut self, reconnect: Reconnect) -> Self {
        self.reconnect = Some(reconnect);
        self
    }

    /// Looks the host name up even if its addresses are cached. Default: off, addresses are cached for
    /// [`lookup_ttl`](crate::Server::lookup_ttl). An attempt after a failed one always looks the name up.
    pub fn fresh_lookup(mut self, on: bool) -> Self {
        self.fresh_lookup = on;
        self
    }

    /// Asks about each IP address right before it is dialled. An address that is not allowed is skipped, and fails with
    /// [`ConnectError::Denied`]. Default: all addresses are allowed.
    ///
    /// A check of the host name alone is not enough against a peer that chooses the name: its addresses may change between the
    /// check and the connect. An IPv4 address that is written as IPv6 (`::ffff:127.0.0.1`) is asked about as IPv4. Unix sockets
    /// are not asked about. The function runs on the reactor's thread and must not block. If it panics, the address is not
    /// allowed.
    ///
    /// ```
    /// use std::net::IpAddr;
    /// use epicycle::Connect;
    ///
    /// let connect = Connect::to("tcp://upstream.example:443").allow(|ip| match ip {
    ///     IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_private() && !ip.is_link_local(),
    ///     IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unique_local() && !ip.is_unicast_link_local(),
    /// });
    /// ```
    pub fn allow(mut self, is_allowed: impl Fn(IpAddr) -> bool + Send + Sync + 'static) -> Self {
        self.allow = Some(Allow(Arc::new(is_allowed)));
        self
    }

    /// Awaits a connection at a local address instead of making one, with port 0 at one that the kernel chooses. The first peer that
    /// `admits` lets in has it, and there is no second one. Others are reset. The timeout is that of the wait. Returns the address, too.
    ///
    /// # Errors
    ///
    /// Those of `bind(2)` and `listen(2)`.
    #[cfg_attr(
        not(feature = "gateway"),
        allow(dead_code, reason = "only SOCKS has such connections")
    )]
    pub(crate) fn await_peer(
        local: SocketAddr,
        admits: impl Fn(SocketAddr) -> bool + Send + Sync + 'static,
    ) -> io::Result<(Self, SocketAddr)> {
        let (awaiting, bound) = Awaiting::bind(local, admits)?;
        let connect = Self {
            awaits: Some(awaiting),
            ..Self::to(bound)
        };
        Ok((connect, bound))
    }

    /// Sets a timeout and a local address, where none is set. Port 0 lets the kernel choose.
    #[cfg(feature = "rpc")]
    pub(crate) fn with_defaults(mut self, timeout: Option<Duration>, ip: Option<IpAddr>) -> Self {
        self.timeout = self.timeout.or(timeout);
        self.local = self.local.or(ip.map(|ip| SocketAddr::new(ip, 0)));
        self
    }

    /// Refuses values that cannot work.
    /// Returns the host and port that are dialled, as HTTP writes them. Returns `None` for a Unix socket.
    #[cfg(feature = "rpc")]
    pub(crate) fn host_and_port(&self) -> Option<String> {
        match &self.to {
            Ok(Endpoint::Tcp { host, port, .. }) if host.contains(':') => {
                Some(format!("[{host}]:{port}"))
            }
            Ok(Endpoint::Tcp { host, port, .. }) => Some(format!("{host}:{port}")),
            _ => None,
        }
    }

    pub(crate) fn check(&self, server: &Limits) -> Result<(), Error> {
        if let Some(limits) = &self.limits {
            limits.over(server)?;
        }
        let bad = |name, problem: &str| {
            let problem = problem.to_owned();
            Err(Error::Option { name, problem })
        };
        if self.timeout.is_some_and(|timeout| timeout.is_zero()) {
            return bad(
                "timeout",
                "zero would end every attempt at once; use Duration::MAX for never",
            );
        }
        #[cfg(feature = "proxy-protocol")]
        if self.proxy_header.is_some() && matches!(self.to, Ok(Endpoint::Udp { .. })) {
            return bad(
                "proxy_protocol",
                "it is not for datagrams; connect to a tcp:// address",
            );
        }
        self.reconnect
            .map_or(Ok(()), |policy| policy.check("reconnect"))
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
    /// Creates a policy without a limit on the number of attempts. The first delay is `first`. It doubles with each failure, up
    /// to `longest`. Both are at least 1 ms.
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            limit: None,
        }
    }

    /// Stops after this number of failed attempts in a row. Default: no limit.
    pub fn limit(mut self, failures: u32) -> Self {
        self.limit = Some(failures);
        self
    }

    /// Refuses delays that cannot work. `name` is that of the option.
    pub(crate) fn check(&self, name: &'static str) -> Result<(), Error> {
        if self.first.min(self.longest) >= SHORTEST_DELAY {
            return Ok(());
        }
        let problem = "it would try again without a pause; use delays of 1 ms or more".to_owned();
        Err(Error::Option { name, problem })
    }

    /// Returns true if this number of failures in a row ends the attempts.
    pub(crate) fn gives_up(&self, failures: u32) -> bool {
        self.limit.is_some_and(|limit| failures >= limit)
    }

    fn delay(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        let whole = self.first.saturating_mul(1 << doublings).min(self.longest);
        whole.mul_f64(0.5 + fastrand::f64() / 2.0)
    }
}

impl Backoff {
    /// Records a failed attempt. Returns the delay before the next one.
    pub(crate) fn after_failure(&mut self, policy: &Reconnect) -> Duration {
        self.failures = self.failures.saturating_add(1);
        self.last_delay = policy.delay(self.failures);
        self.last_delay
    }

    /// Records the end of a connection. Returns the delay before the next attempt. A server that accepts and closes at once
    /// counts as one that refuses.
    pub(crate) fn after_connection(&mut self, lasted: Duration, policy: &Reconnect) -> Duration {
        if lasted > self.last_delay {
            self.failures = 0;
        }
        self.after_failure(policy)
    }
}

/// The first delay is 100 ms, the longest 30 s. The number of attempts has no limit.
impl Default for Reconnect {
    fn default() -> Self {
        Self::new(Duration::from_millis(100), Duration::from_secs(30))
    }
}

impl ConnectError {
    /// Returns the error of the address that failed last if this is [`ConnectError::Host`], and else the error itself.
    pub fn last(&self) -> &Self {
        match self {
            ConnectError::Host(failures) => failures.last().map_or(self, |last| &last.error),
            other => other,
        }
    }
}

/// Prints the addresses of a host and their errors.
struct Failures<'a>(&'a [FailedAddress]);

impl fmt::Display for Failures<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, FailedAddress { addr, error }) in self.0.iter().enumerate() {
            let separator = if n == 0 { "" } else { "; " };
            write!(f, "{separator}{addr}: {error}")?;
        }
        Ok(())
    }
}

error_messages! {
    ConnectError {
        ConnectError::Address(error) | ConnectError::Option(error) => "{error}",
        ConnectError::Io(error) => "{error}",
        ConnectError::Tls(error) => "the TLS handshake failed: {error}",
        ConnectError::Negotiation(error) => "{error}",
        ConnectError::Timeout => "connecting took longer than the connect timeout",
        ConnectError::Cancelled => "the connect was cancelled",
        ConnectError::Stopped => "the engine is shutting down",
        ConnectError::MailboxFull => "the reactor's mailbox is full; ask less often or raise the mailbox option",
        ConnectError::LookupQueueFull { capacity } =>
            "{capacity} host names wait to be looked up already; ask less often, or raise the lookup_queue \
             or lookup_threads option",
        ConnectError::Denied { addr } =>
            "the address {addr} is not allowed; see Connect::allow",
        ConnectError::Host(failures) =>
            "no address of the host can be connected to: {}" (Failures(failures)),
        ConnectError::NoSuchReactor { reactor, reactors } =>
            "there is no reactor {reactor}; the engine has {reactors}, counted from 0",
    }
    causes {
        ConnectError::Address(error) | ConnectError::Option(error) => error,
        ConnectError::Io(error) => error,
        ConnectError::Tls(error) | ConnectError::Negotiation(error) => &**error,
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
