//! The options of UDP sockets and their sessions.

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
    pub(crate) shares_addr: bool,
}

/// The default for the most datagrams in one system call.
pub(crate) const DEFAULT_BATCH: usize = MAX_BATCH;

/// The default for the longest datagram that is received whole. No datagram is longer.
pub(crate) const DEFAULT_MAX_DATAGRAM: usize = 64 << 10;

/// The most sessions of a socket: half of a reactor's slots, so that the others are left for streams.
pub(crate) const MAX_SESSIONS: usize = 1 << 21;

/// The smallest limit on the length of a datagram. A smaller one would truncate the datagrams of every protocol.
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
            shares_addr: false,
        }
    }
}

impl UdpOptions {
    /// Refuses values that cannot work.
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

/// The options of UDP sessions. With sessions, each peer address of a UDP socket is a connection.
///
/// A session opens with the first datagram from an address. It has the life of a connection:
/// [`on_open`](crate::EventHandler::on_open), [`react`](crate::EventHandler::react) for each frame,
/// [`on_close`](crate::EventHandler::on_close) once. Its [`Conn`](crate::Conn), timers, handles and broadcasts work like those
/// of any connection. These differences remain, because datagrams are no stream:
///
/// - Each datagram is decoded separately. Bytes at its end that are no complete frame are given to the codec's
///   [`decode_eof`](crate::codec::Codec::decode_eof) and then dropped. A malformed datagram is dropped, and the session
///   continues. In both cases the session gets a new codec. An empty datagram opens a session or keeps it alive, but has no
///   frame, unless the codec's [`stage`](crate::codec::Codec::stage) says that the rest of a message is awaited: then it is given
///   to `decode_eof`.
/// - A truncated datagram is dropped.
/// - Each `write` or `send` is one datagram of up to 65,507 bytes. There are no water marks.
/// - All sessions of a socket share one queue of output. The queue holds twice the
///   [`outbound_limit`](crate::Server::outbound_limit). A session may hold that limit, but no more than the space that
///   is still free: one flooding session leaves half of the queue to the others, two leave a third, and so on. A session that
///   finds no room although it has less in the queue than most others is never closed for that, whatever the
///   [`OutboundPolicy`](crate::OutboundPolicy).
/// - Datagrams that the kernel or the network drops are lost. [`pre_write`](crate::EventHandler::pre_write) is not called for
///   datagrams.
/// - Sessions do not count against [`max_connections`](crate::Server::max_connections) and
///   [`max_connections_per_ip`](crate::Server::max_connections_per_ip), because the addresses of their peers may be forged.
///   [`max_sessions`](Self::max_sessions) limits them.
/// - While reads are paused, datagrams from the peer are dropped.
/// - A session ends at the end of the turn in which this side closes or aborts it, by a timeout, or with the server. The peer
///   does not notice. Its next datagram opens a new session.
///
/// Dropped datagrams are counted ([`datagrams_dropped`](crate::metrics::ReactorStats::datagrams_dropped)).
///
/// A source address is easily forged. Send an unproven address no more bytes than it has sent. Otherwise attackers can make
/// your server flood a third party. [`EventHandler::admit`](crate::EventHandler::admit) is called before a session opens, and
/// can demand a proof.
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
    /// Creates the default options: an idle timeout of 60 s, and at most 65,536 sessions on a socket.
    pub fn new() -> Self {
        Self {
            idle: Duration::from_secs(60),
            max: 65_536,
            evict_silent: false,
        }
    }

    /// Ends a session when nothing was received from its peer or sent to it for this time. It replaces the server's
    /// [`idle_timeout`](crate::Server::idle_timeout). Default: 60 s. `Duration::MAX` means never.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle = timeout;
        self
    }

    /// Sets the most sessions of a socket, from 1 to 2,097,152. Default: 65,536. The datagrams of further peers are dropped,
    /// unless [`evict_silent`](Self::evict_silent) makes room. With [`AcceptMode::ReusePort`](crate::AcceptMode) each reactor
    /// has a socket.
    ///
    /// A session costs as much memory as a connection, and about 80 bytes for the lookup by its address.
    pub fn max_sessions(mut self, sessions: usize) -> Self {
        self.max = sessions;
        self
    }

    /// Lets a new peer replace the session whose peer has been silent for the longest time, if the socket has no room. The old
    /// session ends with [`CloseReason::Evicted`](crate::CloseReason). Default: off, new peers are refused. Costs 8 bytes for
    /// each slot that the reactor has ever used.
    ///
    /// Without [`admit`](crate::EventHandler::admit), an attacker who forges addresses can evict all sessions.
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
