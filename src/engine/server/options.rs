//! The server's options: each with its default, and what it costs.

use std::sync::Arc;
use std::time::Duration;

use super::Server;
use crate::engine::conn::limits::OutboundPolicy;
use crate::engine::connect::resolve::{LookupOptions, Resolve, SystemResolver};
use crate::engine::server::acceptor::{Balance, BalancePolicy};
use crate::sys::options::{Keepalive, SocketOptions};

/// Who accepts the connections of a server's listeners.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AcceptMode {
    /// A main reactor with a thread of its own accepts, and deals connections by the balance policy. Best for connections that
    /// last. With one reactor there is nobody to choose between: it accepts by itself.
    #[default]
    MainReactor,
    /// Each reactor has listeners of its own (`SO_REUSEPORT`), and there is no main reactor.
    ///
    /// Saves the hand-over between threads: best for many short connections. The kernel spreads connections by a hash of their
    /// addresses, so few clients may spread unevenly, and the balance policy has no say. On Unix sockets the reactors share one
    /// listener. UDP sockets, too, are one for each reactor.
    ReusePort,
    /// One reactor does everything, on one thread. A server that asks for more [`reactors`](Server::reactors) does not start.
    SingleLoop,
}

/// Which reactor gets a connection.
pub(super) enum BalanceChoice {
    Policy(BalancePolicy),
    Custom(Box<dyn Balance>),
}

/// The options as the builder methods set them. [`Settings`](super::settings::Settings) checks them.
#[derive(Debug)]
pub(super) struct Options {
    pub(super) accept_mode: AcceptMode,
    pub(super) reactors: Option<usize>,
    pub(super) pin: bool,
    pub(super) balance: BalanceChoice,
    pub(super) socket: SocketOptions,
    pub(super) lookups: LookupOptions,
    pub(super) mailbox: usize,
    pub(super) read_buffer: usize,
    pub(super) read_budget: usize,
    pub(super) frame_budget: usize,
    pub(super) max_frame: usize,
    pub(super) high_water: Option<usize>,
    pub(super) low_water: Option<usize>,
    pub(super) outbound_limit: usize,
    pub(super) outbound_policy: OutboundPolicy,
    pub(super) max_queued_files: usize,
    pub(super) max_connections: usize,
    pub(super) max_connections_per_ip: usize,
    /// The leading bits of an IPv4 and of an IPv6 address.
    pub(super) per_ip_prefix: (u8, u8),
    pub(super) idle: Option<Duration>,
    pub(super) answer: Option<Duration>,
    pub(super) read: Option<Duration>,
    pub(super) write_stall: Option<Duration>,
    pub(super) handshake: Option<Duration>,
    pub(super) lifetime: Option<Duration>,
    pub(super) fin: Duration,
    pub(super) drain_deadline: Duration,
    pub(super) tick: Duration,
    #[cfg(feature = "signals")]
    pub(super) stop_on_signals: bool,
}

pub(super) const KIB: usize = 1 << 10;
pub(super) const MIB: usize = 1 << 20;

impl Default for Options {
    fn default() -> Self {
        Self {
            accept_mode: AcceptMode::MainReactor,
            reactors: None,
            pin: false,
            balance: BalanceChoice::Policy(BalancePolicy::RoundRobin),
            socket: SocketOptions {
                backlog: 4096,
                reuse_port: false,
                nodelay: true,
                keepalive: None,
                recv_buffer: None,
                send_buffer: None,
                linger: None,
                device: None,
            },
            lookups: LookupOptions {
                resolver: Arc::new(SystemResolver),
                threads: 4,
                queue: 1024,
                ttl: Duration::from_secs(30),
            },
            mailbox: 64 * KIB,
            read_buffer: 80 * KIB,
            read_budget: 256 * KIB,
            frame_budget: 1024,
            max_frame: 16 * MIB,
            high_water: None,
            low_water: None,
            outbound_limit: 64 * MIB,
            outbound_policy: OutboundPolicy::PauseReads,
            max_queued_files: 16,
            max_connections: usize::MAX,
            max_connections_per_ip: usize::MAX,
            // A whole IPv4 address, and the /64 that an IPv6 host has to itself (RFC 6177, RFC 7934).
            per_ip_prefix: (32, 64),
            idle: None,
            answer: None,
            read: None,
            write_stall: Some(Duration::from_secs(60)),
            handshake: None,
            lifetime: None,
            fin: Duration::from_secs(5),
            drain_deadline: Duration::from_secs(30),
            tick: Duration::ZERO,
            #[cfg(feature = "signals")]
            stop_on_signals: false,
        }
    }
}

/// # Threads
impl Server {
    /// How many reactors there are, each a thread. Default: one per core the process may use.
    ///
    /// A reactor costs about 350 KiB: its read buffer, its arena for replies and its events.
    pub fn reactors(mut self, reactors: usize) -> Self {
        self.options.reactors = Some(reactors);
        self
    }

    /// Who accepts. Default: [`AcceptMode::MainReactor`].
    pub fn accept_mode(mut self, mode: AcceptMode) -> Self {
        self.options.accept_mode = mode;
        self
    }

    /// Pins reactor N to processor N (`sched_setaffinity(2)`, Linux only). Default: off.
    pub fn pin_to_cpus(mut self, on: bool) -> Self {
        self.options.pin = on;
        self
    }

    /// How the main reactor deals connections. Default: round robin.
    pub fn balance(mut self, policy: BalancePolicy) -> Self {
        self.options.balance = BalanceChoice::Policy(policy);
        self
    }

    /// Deals connections by a policy of one's own.
    pub fn balance_with(mut self, balance: impl Balance) -> Self {
        self.options.balance = BalanceChoice::Custom(Box::new(balance));
        self
    }

    /// How many requests of other threads may wait for a reactor. Default: 65,536.
    ///
    /// About 64 bytes for each that waits, plus what it carries.
    pub fn mailbox(mut self, requests: usize) -> Self {
        self.options.mailbox = requests;
        self
    }

    /// When [`tick`](crate::EventHandler::tick) is first called after boot; later calls come when it
    /// says. Default: at once.
    pub fn tick(mut self, first: Duration) -> Self {
        self.options.tick = first;
        self
    }
}

/// # Sockets
impl Server {
    /// How many connections the kernel queues while they wait to be accepted. Default: 4,096, capped by
    /// the system (`net.core.somaxconn`).
    pub fn backlog(mut self, connections: u32) -> Self {
        self.options.socket.backlog = i32::try_from(connections).unwrap_or(i32::MAX);
        self
    }

    /// Turns Nagle's algorithm off. Default: on, that is, small writes leave at once.
    pub fn nodelay(mut self, on: bool) -> Self {
        self.options.socket.nodelay = on;
        self
    }

    /// Probes silent TCP peers: after `idle`, then every `interval`, `count` times. Default: off. Costs a packet
    /// to each connection per idle period. The times are in whole seconds, from 1 to 32,767; there are at most 127 probes.
    pub fn keepalive(mut self, idle: Duration, interval: Duration, count: u32) -> Self {
        self.options.socket.keepalive = Some(Keepalive {
            idle,
            interval,
            count,
        });
        self
    }

    /// The kernel's receive buffer of a connection, in bytes (`SO_RCVBUF`), less than 2 GiB; the system caps it
    /// (`net.core.rmem_max`). Default: the system's, which adapts; setting it turns that off.
    pub fn recv_buffer(mut self, bytes: usize) -> Self {
        self.options.socket.recv_buffer = Some(bytes);
        self
    }

    /// The kernel's send buffer of a connection, in bytes (`SO_SNDBUF`), less than 2 GiB; the system caps it
    /// (`net.core.wmem_max`). Default: the system's, which adapts; setting it turns that off.
    pub fn send_buffer(mut self, bytes: usize) -> Self {
        self.options.socket.send_buffer = Some(bytes);
        self
    }

    /// How long the kernel keeps trying to deliver after a close (`SO_LINGER`), in whole seconds, at most 32,767; zero resets
    /// the connection. Default: the system's.
    ///
    /// Closing waits that long *in the system call*, which stalls the reactor: rarely what one wants.
    /// The engine drains connections by itself.
    pub fn linger(mut self, linger: Duration) -> Self {
        self.options.socket.linger = Some(linger);
        self
    }

    /// Listens on one network interface only (`SO_BINDTODEVICE`, Linux only). Default: on all.
    pub fn bind_to_device(mut self, device: impl Into<String>) -> Self {
        self.options.socket.device = Some(device.into());
        self
    }
}

/// # Host names
///
/// Of outbound connections; the addresses of listeners are looked up by the system when the server starts.
impl Server {
    /// Who looks host names up. Default: the system, [`SystemResolver`].
    pub fn resolver(mut self, resolver: impl Resolve) -> Self {
        self.options.lookups.resolver = Arc::new(resolver);
        self
    }

    /// How many names are looked up at a time, each on a thread, from 1 to 256. Default: 4. The threads are made when
    /// there is a first name, and each reserves 2 MiB of address space.
    ///
    /// A name whose server does not answer takes a thread for as long as the resolver waits, `getaddrinfo(3)` usually 10 s or
    /// more, and also past the connect's timeout; the shutdown does not wait for it.
    pub fn lookup_threads(mut self, threads: usize) -> Self {
        self.options.lookups.threads = threads;
        self
    }

    /// How many names may wait for one of these threads; the connects of one name share a place. Further ones fail with
    /// [`ConnectError::LookupQueueFull`](crate::ConnectError). A name that nobody waits for any more gives its place back and
    /// is not looked up. Default: 1,024, about 200 bytes each.
    pub fn lookup_queue(mut self, names: usize) -> Self {
        self.options.lookups.queue = names;
        self
    }

    /// How long the addresses of a name are kept and used again. Default: 30 s; zero for not at all. Of the last 1,024 names at
    /// most, about 100 bytes each and 32 for each address. Failures are not kept.
    /// [`Connect::fresh_lookup`](crate::Connect::fresh_lookup) passes over what is kept.
    pub fn lookup_ttl(mut self, ttl: Duration) -> Self {
        self.options.lookups.ttl = ttl;
        self
    }
}

/// # Limits
impl Server {
    /// The buffer a reactor receives into, in bytes. Default: 80 KiB. One per reactor.
    ///
    /// A read that fills it has to be followed by another, so it is a little larger than 64 KiB, a
    /// common size of messages.
    pub fn read_buffer(mut self, bytes: usize) -> Self {
        self.options.read_buffer = bytes;
        self
    }

    /// How many bytes a connection may receive before the others have their turn. Default: 256 KiB.
    ///
    /// What its codec [costs](crate::codec::Codec::take_cost) counts too: bytes that are inflated or compressed, say.
    pub fn read_budget(mut self, bytes: usize) -> Self {
        self.options.read_budget = bytes;
        self
    }

    /// How many frames of a connection are handled before the others have their turn. Default: 1,024.
    ///
    /// What its codec [skips](crate::codec::Decoded::Skip) counts too.
    pub fn frame_budget(mut self, frames: usize) -> Self {
        self.options.frame_budget = frames;
        self
    }

    /// The longest frame a codec may wait for, in bytes, whatever its own limit. Default: 16 MiB.
    ///
    /// A connection with an incomplete frame holds up to twice the frame's size; memory is set aside as
    /// the bytes come, after the first MiB.
    pub fn max_frame(mut self, bytes: usize) -> Self {
        self.options.max_frame = bytes;
        self
    }

    /// Above how many waiting bytes a peer counts as slow: see [`OutboundPolicy`]. Default: 1 MiB, or
    /// the outbound limit when that is less.
    pub fn high_water(mut self, bytes: usize) -> Self {
        self.options.high_water = Some(bytes);
        self
    }

    /// At how few waiting bytes it does not any more, and `on_drain` is called. Default: half the
    /// high-water mark.
    pub fn low_water(mut self, bytes: usize) -> Self {
        self.options.low_water = Some(bytes);
        self
    }

    /// How many written bytes may wait for one peer. Default: 64 MiB. What waits is held in memory, twice
    /// that at worst while its buffer grows; bytes shared by reference are held once for all peers.
    ///
    /// The kernel is offered output between callbacks. As long as it has refused none, 1 MiB may wait whatever the limit,
    /// so that a callback may write that much to a peer that reads. One write that is longer than both is refused with
    /// [`WriteError::TooLong`](crate::WriteError).
    pub fn outbound_limit(mut self, bytes: usize) -> Self {
        self.options.outbound_limit = bytes;
        self
    }

    /// What happens to a peer that does not read. Default: [`OutboundPolicy::PauseReads`], by which the input of an
    /// accepted connection is not read either.
    pub fn outbound_policy(mut self, policy: OutboundPolicy) -> Self {
        self.options.outbound_policy = policy;
        self
    }

    /// How many files may wait to be sent to one peer, each with a descriptor of its own. Default: 16. See
    /// [`Conn::send_file`](crate::Conn::send_file).
    ///
    /// With more than a quarter of them waiting, a peer counts as slow, as above the high-water mark.
    pub fn max_queued_files(mut self, files: usize) -> Self {
        self.options.max_queued_files = files;
        self
    }

    /// How many connections may be open, UDP sessions apart; more are accepted and closed at once. Default: no limit but the
    /// process's descriptors. Costs an atomic addition per connection.
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.options.max_connections = connections;
        self
    }

    /// How many connections one peer may have open; more are accepted and closed at once. A peer is an IPv4 address or an
    /// IPv6 network: see [`per_ip_prefix`](Self::per_ip_prefix). UDP sessions do not count. Default: no limit. Costs a locked table of the peers that are
    /// connected, about 50 bytes each.
    pub fn max_connections_per_ip(mut self, connections: usize) -> Self {
        self.options.max_connections_per_ip = connections;
        self
    }

    /// How many leading bits of an address tell one peer from another for
    /// [`max_connections_per_ip`](Self::max_connections_per_ip): from 1 to 32 of an IPv4 address, from 1 to 128 of an IPv6
    /// address. Default: 32 and 64, for an IPv6 host usually has a whole /64 to itself. An IPv4 address that is mapped into
    /// IPv6 (`::ffff:a.b.c.d`) counts as IPv4.
    pub fn per_ip_prefix(mut self, ipv4: u8, ipv6: u8) -> Self {
        self.options.per_ip_prefix = (ipv4, ipv6);
        self
    }
}

/// # Timeouts
///
/// All timeouts of a connection share one entry in its reactor's timing wheel, about 50 bytes.
impl Server {
    /// Closes a connection on which nothing was received or sent for so long. Default: never. What its codec
    /// [skips](crate::codec::Decoded::Skip) does not count.
    ///
    /// It does not run while the handler owes an answer, where the codec [tells](crate::codec::Stage), as HTTP's does, or
    /// [`Conn::defer_answer`](crate::Conn::defer_answer) was called. See [`answer_timeout`](Self::answer_timeout).
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.options.idle = Some(timeout);
        self
    }

    /// Closes a connection whose handler owes an answer, when nothing was received or sent for so long: the handler has not
    /// answered, or does not go on with an answer that it has begun. Default: never. A warning is logged, and HTTP says 503 unless the answer has begun.
    ///
    /// A stream of events that may be silent for longer sends comments meanwhile.
    pub fn answer_timeout(mut self, timeout: Duration) -> Self {
        self.options.answer = Some(timeout);
        self
    }

    /// Closes a connection when a frame that has begun takes longer to arrive. Default: never.
    pub fn read_timeout(mut self, timeout: Duration) -> Self {
        self.options.read = Some(timeout);
        self
    }

    /// Resets a connection whose peer takes no output for so long while some waits. Default: 60 s;
    /// `Duration::MAX` for never.
    ///
    /// On Linux a peer takes what it acknowledges (`SIOCOUTQ`, `tcp(7)`); the kernel is asked eight times in that time, so
    /// the reset may come an eighth of it late. Elsewhere a peer counts as alive when the kernel takes more.
    pub fn write_stall_timeout(mut self, timeout: Duration) -> Self {
        self.options.write_stall = Some(timeout);
        self
    }

    /// Closes a connection when its first frame takes longer to arrive. Default: never. A TLS handshake comes before
    /// that and has a limit of its own.
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.options.handshake = Some(timeout);
        self
    }

    /// Closes a connection that has been open for so long. Default: never.
    ///
    /// It ends as at a shutdown: an answer that is owed or awaited may still come, and what was written is sent. What is
    /// not done by the [`drain_deadline`](Self::drain_deadline) after the lifetime is lost, however busy the connection is.
    pub fn lifetime(mut self, lifetime: Duration) -> Self {
        self.options.lifetime = Some(lifetime);
        self
    }

    /// How long a connection that has sent everything and FIN waits for the peer's FIN before its socket
    /// is closed. Default: 5 s, and at most 1 s once the server shuts down. Also how long one that the peer has reset waits
    /// for a handler that has paused reads to read what had arrived.
    ///
    /// Without the wait, input that arrives late makes the kernel answer with RST, which can destroy
    /// what the peer has not read yet (RFC 9112, section 9.6, tells the story for HTTP).
    pub fn fin_timeout(mut self, timeout: Duration) -> Self {
        self.options.fin = timeout;
        self
    }

    /// How long a closing connection may take to send what was written, and the server to shut down. What
    /// is not sent by then is lost. Default: 30 s.
    ///
    /// Where a protocol has said all, as after the answer to an HTTP request that asks to close, a connection has that long each time
    /// the peer has taken some of it, up to the end of its [`lifetime`](Self::lifetime) and one such deadline.
    pub fn drain_deadline(mut self, deadline: Duration) -> Self {
        self.options.drain_deadline = deadline;
        self
    }
}

impl BalanceChoice {
    pub(super) fn make(self) -> Box<dyn Balance> {
        match self {
            BalanceChoice::Policy(policy) => policy.into_balance(),
            BalanceChoice::Custom(balance) => balance,
        }
    }
}

impl std::fmt::Debug for BalanceChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            BalanceChoice::Policy(policy) => policy.fmt(f),
            BalanceChoice::Custom(_) => f.write_str("Custom"),
        }
    }
}
