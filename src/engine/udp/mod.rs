//! How a UDP socket is served.

pub(crate) mod recency;
pub(crate) mod sockets;

use std::net::IpAddr;
use std::time::Duration;

use crate::error::Error;
use crate::sys::datagram::{MAX_BATCH, MulticastInterface};
use crate::sys::options::buffer_problem;

/// The options of a UDP socket that a server listens on.
#[derive(Clone, Debug)]
pub(crate) struct UdpOptions {
    pub(crate) groups: Vec<(IpAddr, MulticastInterface)>,
    pub(crate) broadcast: bool,
    pub(crate) recv_buffer: Option<usize>,
    pub(crate) send_buffer: Option<usize>,
    pub(crate) batch: usize,
    pub(crate) max_datagram: usize,
    pub(crate) sessions: Option<UdpSessions>,
}

/// The most datagrams that pass in one system call, unless the option says otherwise.
pub(crate) const DEFAULT_BATCH: usize = MAX_BATCH;

/// Longer than any datagram.
pub(crate) const DEFAULT_MAX_DATAGRAM: usize = 64 << 10;

/// The most sessions of a socket: half of what a reactor can serve, so that they leave room for streams.
pub(crate) const MAX_SESSIONS: usize = 1 << 21;

/// Datagrams shorter than any protocol's would only be cut to pieces.
const MIN_MAX_DATAGRAM: usize = 16;

impl Default for UdpOptions {
    fn default() -> Self {
        Self {
            groups: Vec::new(),
            broadcast: false,
            recv_buffer: None,
            send_buffer: None,
            batch: DEFAULT_BATCH,
            max_datagram: DEFAULT_MAX_DATAGRAM,
            sessions: None,
        }
    }
}

impl UdpOptions {
    /// Finds values that cannot work.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let bad = |name, problem: String| Err(Error::Option { name, problem });
        if !(1..=MAX_BATCH).contains(&self.batch) {
            let batch = self.batch;
            return bad("batch", format!("{batch} is not from 1 to {MAX_BATCH}"));
        }
        if !(MIN_MAX_DATAGRAM..=DEFAULT_MAX_DATAGRAM).contains(&self.max_datagram) {
            let size = self.max_datagram;
            return bad(
                "max_datagram",
                format!("{size} bytes is not from {MIN_MAX_DATAGRAM} bytes to 64 KiB"),
            );
        }
        for (name, bytes) in [
            ("recv_buffer", self.recv_buffer),
            ("send_buffer", self.send_buffer),
        ] {
            if let Some(problem) = bytes.and_then(buffer_problem) {
                return bad(name, problem);
            }
        }
        for (group, _) in &self.groups {
            if !group.is_multicast() {
                return bad(
                    "join_multicast",
                    format!("{group} is no multicast address; use one of 224.0.0.0/4 or ff00::/8"),
                );
            }
        }
        match &self.sessions {
            Some(sessions) if !(1..=MAX_SESSIONS).contains(&sessions.max) => {
                let max = sessions.max;
                bad(
                    "max_sessions",
                    format!("{max} is not from 1 to {MAX_SESSIONS}"),
                )
            }
            Some(sessions) if sessions.idle.is_zero() => bad(
                "idle_timeout",
                "zero would close every session at once; use Duration::MAX for never".into(),
            ),
            _ => Ok(()),
        }
    }
}

/// Has a UDP socket served as sessions: each peer address is a connection of its own.
///
/// A session opens with the first datagram from an address, and lives like a connection:
/// [`on_open`](crate::EventHandler::on_open), [`react`](crate::EventHandler::react) for each frame,
/// [`on_close`](crate::EventHandler::on_close) once. Its [`Conn`](crate::Conn), timers, handles and broadcasts are those
/// of any connection. What differs, because datagrams are no stream:
///
/// - A datagram is decoded by itself. Bytes at its end that make no frame are given to the codec's
///   [`decode_eof`](crate::codec::Codec::decode_eof), then dropped. A malformed datagram is dropped; the session goes
///   on. In both cases the codec is made anew. An empty datagram opens a session and keeps it, but has no frame.
/// - A datagram that was truncated is dropped.
/// - Each `write` or `send` is one datagram, of up to 65,507 bytes; there are no water marks. All sessions of a socket share one
///   queue. It holds as much as [`outbound_limit`](crate::Server::outbound_limit) says for a session and twice that for all, and a
///   session no more than is still free: one that floods leaves half to the others, two leave a third, and so on. Whoever finds
///   no room although it has less in the queue than most is never closed for it, whatever the
///   [`OutboundPolicy`](crate::OutboundPolicy). What the kernel drops, or the network, is lost: there is no promise that
///   datagrams arrive. They are not shown to [`pre_write`](crate::EventHandler::pre_write).
/// - Sessions do not count against [`max_connections`](crate::Server::max_connections) and
///   [`max_connections_per_ip`](crate::Server::max_connections_per_ip), for their peers' addresses may be forged; they have
///   [a limit of their own](Self::max_sessions).
/// - While reads are paused, datagrams from the peer are dropped.
/// - A session ends when this side closes or aborts it, at the end of the same turn, or by a timeout, or with the
///   server. The peer does not notice; its next datagram opens another one.
///
/// What is dropped is counted ([`datagrams_dropped`](crate::metrics::ReactorStats::datagrams_dropped)).
///
/// A source address is easily forged. Answer an address that has proved nothing with no more bytes than it sent, or
/// others will have your server flood a third. [`EventHandler::admit`](crate::EventHandler::admit) is asked before there is a
/// session, and can demand a proof.
///
/// ```
/// use std::time::Duration;
/// use epicycle::{Listen, Server, UdpSessions, service};
///
/// let sessions = UdpSessions::new().idle_timeout(Duration::from_secs(30)).max_sessions(10_000);
/// let running = Server::bind(Listen::on("udp://127.0.0.1:0").sessions(sessions))
///     .start(|_| service(|conn, bytes| conn.write(bytes).into()))?;
/// # let peer = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
/// # peer.send_to(b"hello", running.local_addrs()[0].as_socket_addr().unwrap()).unwrap();
/// # let mut answer = [0; 9];
/// # assert_eq!(peer.recv(&mut answer).unwrap(), 5);
/// # Ok::<(), epicycle::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "it does nothing until it is passed to `Listen::sessions`"]
pub struct UdpSessions {
    pub(crate) idle: Duration,
    pub(crate) max: usize,
    pub(crate) evict_silent: bool,
}

impl UdpSessions {
    /// Sessions that end after 60 s of silence, at most 65,536 at a time on a socket.
    pub fn new() -> Self {
        Self {
            idle: Duration::from_secs(60),
            max: 65_536,
            evict_silent: false,
        }
    }

    /// Ends a session when nothing was received from its peer or sent to it for so long, in place of the server's
    /// [`idle_timeout`](crate::Server::idle_timeout). Default: 60 s; `Duration::MAX` for never.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle = timeout;
        self
    }

    /// How many sessions a socket may have, up to 2,097,152; further peers are not answered and their datagrams dropped, unless
    /// [`evict_silent`](Self::evict_silent) makes room. With [`AcceptMode::ReusePort`](crate::AcceptMode) each reactor has a
    /// socket. Default: 65,536.
    ///
    /// A session costs what a connection does, and about 80 bytes for finding it by its address.
    pub fn max_sessions(mut self, sessions: usize) -> Self {
        self.max = sessions;
        self
    }

    /// Has a newcomer take the place of the session whose peer has been silent for longest, when there are as many as may be.
    /// That one ends with [`CloseReason::Evicted`](crate::CloseReason). Default: off, newcomers are refused. Costs 8 bytes for
    /// each connection that its reactor has had at a time.
    ///
    /// Without [`admit`](crate::EventHandler::admit) somebody who forges addresses can evict everybody.
    pub fn evict_silent(mut self, on: bool) -> Self {
        self.evict_silent = on;
        self
    }
}

impl Default for UdpSessions {
    fn default() -> Self {
        Self::new()
    }
}
