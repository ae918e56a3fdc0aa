//! The options of a server, with their defaults and their costs.

use std::sync::Arc;
use std::time::Duration;

use super::Server;
use crate::engine::conn::limits::{ConnLimits, OutboundPolicy};
use crate::engine::connect::resolve::{LookupOptions, Resolve};
use crate::engine::listen::handover::Control;
use crate::engine::server::acceptor::{Balance, BalancePolicy};
use crate::sys::options::{Keepalive, SocketOptions};

/// The threads that accept the connections of a server's listeners.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AcceptMode {
    /// A main reactor with its own thread accepts connections and deals them to the reactors by the balance policy. This is
    /// best for long connections. A single reactor accepts by itself.
    #[default]
    MainReactor,
    /// Each reactor has its own listeners (`SO_REUSEPORT`). There is no main reactor.
    ///
    /// This saves the hand-over between threads and is best for many short connections. The kernel spreads connections by a
    /// hash of their addresses. A few clients may therefore spread unevenly, and the balance policy is not used. The reactors
    /// share the listener of a Unix socket. Each reactor has its own socket for a UDP address.
    ReusePort,
    /// One reactor does everything on one thread. The start fails if more [`reactors`](Server::reactors) are requested.
    SingleLoop,
}

/// The policy by which the main reactor deals connections.
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
    pub(super) limits: ConnLimits,
    pub(super) max_connections: usize,
    pub(super) max_connections_per_ip: usize,
    /// The leading bits of an IPv4 and of an IPv6 address.
    pub(super) per_ip_prefix: (u8, u8),
    pub(super) drain_deadline: Duration,
    pub(super) tick: Duration,
    pub(super) spin: Duration,
    #[cfg(feature = "signals")]
    pub(super) stop_on_signals: bool,
    /// None if no other process can take over.
    pub(super) control: Option<Control>,
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
                resolver: None,
                threads: 4,
                queue: 1024,
                ttl: Duration::from_secs(30),
            },
            mailbox: 65_536,
            read_buffer: 80 * KIB,
            read_budget: 256 * KIB,
            frame_budget: 1024,
            limits: ConnLimits::default(),
            max_connections: usize::MAX,
            max_connections_per_ip: usize::MAX,
            // A whole IPv4 address, and the /64 that an IPv6 host has to itself (RFC 6177, RFC 7934).
            per_ip_prefix: (32, 64),
            drain_deadline: Duration::from_secs(30),
            tick: Duration::ZERO,
            spin: Duration::ZERO,
            #[cfg(feature = "signals")]
            stop_on_signals: false,
            control: None,
        }
    }
}

/// # Threads
impl Server {
    /// Sets the number of reactors, from 1 to 1,024. Each is a thread. Default: one for each core that the process may use.
    ///
    /// A reactor costs about 350 KiB for its read buffer, its output arena and its events.
    pub fn reactors(mut self, reactors: usize) -> Self {
        self.options.reactors = Some(reactors);
        self
    }

    /// Sets the threads that accept connections. Default: [`AcceptMode::MainReactor`].
    pub fn accept_mode(mut self, mode: AcceptMode) -> Self {
        self.options.accept_mode = mode;
        self
    }

    /// Pins reactor N to processor N (`sched_setaffinity(2)`, Linux only). Default: off.
    pub fn pin_to_cpus(mut self, on: bool) -> Self {
        self.options.pin = on;
        self
    }

    /// Sets the policy by which the main reactor deals connections. Default: round robin.
    pub fn balance(mut self, policy: BalancePolicy) -> Self {
        self.options.balance = BalanceChoice::Policy(policy);
        self
    }

    /// Deals connections by the application's own policy. Default: see [`balance`](Self::balance).
    pub fn balance_with(mut self, balance: impl Balance) -> Self {
        self.options.balance = BalanceChoice::Custom(Box::new(balance));
        self
    }

    /// Sets the number of requests of other threads that may wait for a reactor. Default: 65,536.
    ///
    /// Each waiting request costs about 64 bytes and its content.
    pub fn mailbox(mut self, requests: usize) -> Self {
        self.options.mailbox = requests;
        self
    }

    /// Sets the time from boot to the first call of [`tick`](crate::EventHandler::tick). Each call returns the delay to the
    /// next one. Default: zero, the first call is made at once.
    pub fn tick(mut self, first: Duration) -> Self {
        self.options.tick = first;
        self
    }

    /// Lets a reactor spin: before it sleeps, it polls for this time without waiting. Default: zero, off. `Duration::MAX` means
    /// that it never sleeps.
    ///
    /// The kernel need not wake a reactor that spins, so the answer to the first message after a pause leaves earlier. The spin
    /// ends with the first event, or when a timer is due, and begins again when there is nothing left to do.
    ///
    /// The cost is a core for each reactor: entirely if events come more often than the spin lasts, otherwise for the spin after
    /// each of them. The thread that accepts connections does not spin. A reactor that shares its core makes all others on it
    /// slower, itself included. [`busy`](crate::metrics::ReactorStats::busy) does not count the time. In a simulation the option
    /// has no effect.
    pub fn spin(mut self, time: Duration) -> Self {
        self.options.spin = time;
        self
    }
}

/// # Sockets
impl Server {
    /// Sets the number of connections that the kernel queues until they are accepted. Default: 4,096. The system caps it
    /// (`net.core.somaxconn`).
    pub fn backlog(mut self, connections: u32) -> Self {
        self.options.socket.backlog = i32::try_from(connections).unwrap_or(i32::MAX);
        self
    }

    /// Turns Nagle's algorithm off (`TCP_NODELAY`). Default: on, so that small writes are sent at once.
    pub fn nodelay(mut self, on: bool) -> Self {
        self.options.socket.nodelay = on;
        self
    }

    /// Probes silent TCP peers. The first probe is sent after `idle`, the next ones every `interval`. The kernel closes the
    /// connection after `count` unanswered probes. Default: off.
    ///
    /// The times are in whole seconds, from 1 to 32,767. `count` is from 1 to 127. The cost is one packet per connection and
    /// idle period.
    pub fn keepalive(mut self, idle: Duration, interval: Duration, count: u32) -> Self {
        self.options.socket.keepalive = Some(Keepalive {
            idle,
            interval,
            count,
        });
        self
    }

    /// Sets the size of the kernel's receive buffer of a connection, in bytes (`SO_RCVBUF`), less than 2 GiB. The system caps
    /// it (`net.core.rmem_max`). Default: the system's size, which adapts to the connection. A fixed size turns that off.
    pub fn recv_buffer(mut self, bytes: usize) -> Self {
        self.options.socket.recv_buffer = Some(bytes);
        self
    }

    /// Sets the size of the kernel's send buffer of a connection, in bytes (`SO_SNDBUF`), less than 2 GiB. The system caps it
    /// (`net.core.wmem_max`). Default: the system's size, which adapts to the connection. A fixed size turns that off.
    pub fn send_buffer(mut self, bytes: usize) -> Self {
        self.options.socket.send_buffer = Some(bytes);
        self
    }

    /// Sets the time for which the kernel tries to deliver output after a close (`SO_LINGER`), in whole seconds, at most
    /// 32,767. Zero resets the connection. Default: the system's.
    ///
    /// The close then waits *in the system call* and stalls the reactor. Few programs need this option, because the engine
    /// drains connections by itself.
    pub fn linger(mut self, linger: Duration) -> Self {
        self.options.socket.linger = Some(linger);
        self
    }

    /// Listens on one network interface only (`SO_BINDTODEVICE`, Linux only). Default: all interfaces.
    pub fn bind_to_device(mut self, device: impl Into<String>) -> Self {
        self.options.socket.device = Some(device.into());
        self
    }
}

/// # Host names
///
/// These options apply to outbound connections. The system looks up the addresses of listeners when the server starts.
impl Server {
    /// Sets the resolver of host names. Default: the system's, [`SystemResolver`](crate::SystemResolver).
    pub fn resolver(mut self, resolver: impl Resolve) -> Self {
        self.options.lookups.resolver = Some(Arc::new(resolver));
        self
    }

    /// Sets the number of threads that look names up, from 1 to 256. Default: 4. The first lookup starts the threads. Each
    /// reserves 2 MiB of address space.
    ///
    /// A name whose server does not answer occupies a thread for as long as the resolver waits, also past the timeout of the
    /// connect. `getaddrinfo(3)` usually waits 10 s or more. The shutdown does not wait for it.
    pub fn lookup_threads(mut self, threads: usize) -> Self {
        self.options.lookups.threads = threads;
        self
    }

    /// Sets the number of names that may wait for a lookup thread. Default: 1,024, at a cost of about 200 bytes each.
    ///
    /// All connects to one name share a place. Connects to further names fail with
    /// [`ConnectError::LookupQueueFull`](crate::ConnectError). When the last connect to a waiting name is cancelled, the name
    /// leaves the queue and is not looked up.
    pub fn lookup_queue(mut self, names: usize) -> Self {
        self.options.lookups.queue = names;
        self
    }

    /// Sets the time for which the addresses of a name are cached. Default: 30 s. Zero turns the cache off.
    ///
    /// The cache holds 1,024 names at most. A name costs about 100 bytes, and 32 bytes for each address. Failures are not
    /// cached. [`Connect::fresh_lookup`](crate::Connect::fresh_lookup) bypasses the cache.
    pub fn lookup_ttl(mut self, ttl: Duration) -> Self {
        self.options.lookups.ttl = ttl;
        self
    }
}

/// # Limits
impl Server {
    /// Sets the size of the buffer into which a reactor receives, from 16 KiB to 16 MiB. Default: 80 KiB. There is one per
    /// reactor.
    ///
    /// A read that fills the buffer must be followed by another one. The default is therefore a little larger than 64 KiB, a
    /// common size of messages.
    pub fn read_buffer(mut self, bytes: usize) -> Self {
        self.options.read_buffer = bytes;
        self
    }

    /// Sets the number of bytes that a connection may receive before the reactor serves the next one. Default: 256 KiB.
    ///
    /// The [cost](crate::codec::Codec::take_cost) that the codec reports counts too, for example bytes that it inflates. Where
    /// one event takes several reads, as on Unix sockets and under TLS, a read counts as 1 KiB at least.
    pub fn read_budget(mut self, bytes: usize) -> Self {
        self.options.read_budget = bytes;
        self
    }

    /// Sets the number of frames of a connection that are handled before the reactor serves the next one. Default: 1,024.
    ///
    /// Frames that the codec [skips](crate::codec::Decoded::Skip) count too.
    pub fn frame_budget(mut self, frames: usize) -> Self {
        self.options.frame_budget = frames;
        self
    }

    /// Sets the longest frame for which a codec may wait, in bytes, up to 512 MiB. The codec's own limit can only be lower.
    /// Default: 16 MiB.
    ///
    /// A connection with an incomplete frame holds up to twice the size of the frame. Past the first MiB, memory is allocated
    /// as the bytes arrive.
    pub fn max_frame(mut self, bytes: usize) -> Self {
        self.options.limits.max_frame = Some(bytes);
        self
    }

    /// Sets the high-water mark: the number of waiting bytes above which a peer counts as slow. See [`OutboundPolicy`].
    /// Default: 1 MiB, or the outbound limit if that is less.
    pub fn high_water(mut self, bytes: usize) -> Self {
        self.options.limits.high_water = Some(bytes);
        self
    }

    /// Sets the low-water mark: the number of waiting bytes at which a slow peer no longer counts as slow, and `on_drain` is
    /// called. Default: half the high-water mark.
    pub fn low_water(mut self, bytes: usize) -> Self {
        self.options.limits.low_water = Some(bytes);
        self
    }

    /// Sets the number of written bytes that may wait for one peer, from 16 KiB to 512 MiB. Default: 64 MiB.
    ///
    /// Waiting output is held in memory. At worst it takes twice its size while its buffer grows. Bytes that are shared by
    /// reference are held once for all peers.
    ///
    /// The engine offers output to the kernel between callbacks. As long as the kernel has refused none, 1 MiB may wait even
    /// if the limit is lower. A callback can therefore write 1 MiB to a peer that reads. A single write that is longer than
    /// both is refused with [`WriteError::TooLong`](crate::WriteError).
    pub fn outbound_limit(mut self, bytes: usize) -> Self {
        self.options.limits.outbound = Some(bytes);
        self
    }

    /// Sets the treatment of a peer that does not read. Default: [`OutboundPolicy::PauseReads`], which stops reading the input
    /// of an accepted connection.
    pub fn outbound_policy(mut self, policy: OutboundPolicy) -> Self {
        self.options.limits.policy = Some(policy);
        self
    }

    /// Sets the number of files that may wait to be sent to one peer. Default: 16. Each has its own descriptor. See
    /// [`Conn::send_file`](crate::Conn::send_file).
    ///
    /// A peer for which more than a quarter of that number waits counts as slow, as above the high-water mark.
    pub fn max_queued_files(mut self, files: usize) -> Self {
        self.options.limits.max_files = Some(files);
        self
    }

    /// Sets the number of connections that may be open. Further ones are accepted and closed at once. UDP sessions do not
    /// count. Default: no limit other than the descriptors of the process. Costs an atomic addition per connection.
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.options.max_connections = connections;
        self
    }

    /// Sets the number of connections that one peer may have open. Further ones are accepted and closed at once. UDP sessions
    /// do not count. Default: no limit.
    ///
    /// A peer is an IPv4 address or an IPv6 network: see [`per_ip_prefix`](Self::per_ip_prefix). A limit costs a locked table
    /// of the connected peers, about 50 bytes each.
    pub fn max_connections_per_ip(mut self, connections: usize) -> Self {
        self.options.max_connections_per_ip = connections;
        self
    }

    /// Sets the number of leading bits of an address that distinguish peers for
    /// [`max_connections_per_ip`](Self::max_connections_per_ip): from 1 to 32 for IPv4, from 1 to 128 for IPv6. Default: 32 and
    /// 64, because an IPv6 host usually has a whole /64. An IPv4 address that is mapped into IPv6 (`::ffff:a.b.c.d`) counts as
    /// IPv4.
    pub fn per_ip_prefix(mut self, ipv4: u8, ipv6: u8) -> Self {
        self.options.per_ip_prefix = (ipv4, ipv6);
        self
    }
}

/// # Timeouts
///
/// All timeouts of a connection share one entry in the timer wheel of its reactor, at a cost of about 50 bytes.
impl Server {
    /// Closes a connection on which nothing was received or sent for this time. Default: never. Input that the codec
    /// [skips](crate::codec::Decoded::Skip) does not count.
    ///
    /// The timeout does not run while the handler owes an answer. The engine knows of that if the codec
    /// [reports](crate::codec::Stage) it, as the HTTP codec does, or if [`Conn::defer_answer`](crate::Conn::defer_answer) was
    /// called. See [`answer_timeout`](Self::answer_timeout).
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.options.limits.idle = Some(timeout);
        self
    }

    /// Closes a connection whose handler owes an answer if nothing was received or sent for this time: the handler has not
    /// answered, or does not continue an answer. Default: never.
    ///
    /// A warning is logged. HTTP answers 503 unless the answer has begun. An event stream that may be silent for longer has to
    /// send comments in between.
    pub fn answer_timeout(mut self, timeout: Duration) -> Self {
        self.options.limits.answer = Some(timeout);
        self
    }

    /// Closes a connection if a frame that has begun does not arrive within this time. Default: never.
    pub fn read_timeout(mut self, timeout: Duration) -> Self {
        self.options.limits.read = Some(timeout);
        self
    }

    /// Resets a connection whose peer takes no output for this time although some waits. Default: 60 s. `Duration::MAX` means
    /// never.
    ///
    /// On Linux a peer takes output when it acknowledges it (`SIOCOUTQ`, `tcp(7)`). The engine asks the kernel eight times
    /// within the timeout, so the reset may be late by an eighth. On other systems a peer counts as alive when the kernel
    /// takes more.
    pub fn write_stall_timeout(mut self, timeout: Duration) -> Self {
        self.options.limits.write_stall = Some(timeout);
        self
    }

    /// Closes a connection if its first frame does not arrive within this time. Default: never. A TLS handshake precedes that
    /// and has its own timeout.
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.options.limits.handshake = Some(timeout);
        self
    }

    /// Closes a connection that has been open for this time. Default: never.
    ///
    /// The connection ends as at a shutdown: an owed or awaited answer may still arrive, and written output is sent. The
    /// [`drain_deadline`](Self::drain_deadline) begins at the end of the lifetime. Anything unfinished at that deadline is
    /// lost, even if the connection is busy.
    pub fn lifetime(mut self, lifetime: Duration) -> Self {
        self.options.limits.lifetime = Some(lifetime);
        self
    }

    /// Sets the time for which a connection that has sent all output and FIN waits for the peer's FIN. Its socket is closed
    /// after that. Default: 5 s, and at most 1 s once the server shuts down.
    ///
    /// Without the wait, late input makes the kernel answer with RST. That can destroy output that the peer has not read yet
    /// (RFC 9112, section 9.6, for HTTP).
    ///
    /// The same time applies to a connection that the peer has reset while the handler has paused reads: the handler can read
    /// the input that had arrived.
    pub fn fin_timeout(mut self, timeout: Duration) -> Self {
        self.options.limits.fin = Some(timeout);
        self
    }

    /// Sets the time within which a closing connection must send its written output, and within which the server must shut
    /// down. Unsent output is lost then. Default: 30 s.
    ///
    /// If the protocol has ended the conversation, as after the answer to an HTTP request that asks to close, the deadline
    /// begins again each time the peer takes some output. It ends at the latest one deadline after the
    /// [`lifetime`](Self::lifetime).
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
