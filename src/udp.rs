//! How a UDP socket is served.

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
            Some(sessions) if sessions.max == 0 => {
                bad("max_sessions", "0 would admit nobody; use 1 or more".into())
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
/// - Each `write` or `send` is one datagram, of up to 65,507 bytes. All sessions of a socket share one queue, which
///   holds as much as [`outbound_limit`](crate::Server::outbound_limit) says; there are no water marks. What the kernel
///   drops, or the network, is lost: there is no promise that datagrams arrive. They are not shown to
///   [`pre_write`](crate::EventHandler::pre_write).
/// - While reads are paused, datagrams from the peer are dropped.
/// - A session ends when this side closes or aborts it, at the end of the same turn, or by a timeout, or with the
///   server. The peer does not notice; its next datagram opens another one.
///
/// What is dropped is counted ([`datagrams_dropped`](crate::metrics::ReactorStats::datagrams_dropped)).
///
/// A source address is easily forged. Answer an address that has proved nothing with no more bytes than it sent, or
/// others will have your server flood a third.
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
pub struct UdpSessions {
    pub(crate) idle: Duration,
    pub(crate) max: usize,
}

impl UdpSessions {
    /// Sessions that end after 60 s of silence, at most 65,536 at a time on a socket.
    pub fn new() -> Self {
        Self {
            idle: Duration::from_secs(60),
            max: 65_536,
        }
    }

    /// Ends a session when nothing was received from its peer or sent to it for so long, in place of the server's
    /// [`idle_timeout`](crate::Server::idle_timeout). Default: 60 s; `Duration::MAX` for never.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle = timeout;
        self
    }

    /// How many sessions a socket may have; further peers are not answered and their datagrams dropped. With
    /// [`AcceptMode::ReusePort`](crate::AcceptMode) each reactor has a socket. Default: 65,536.
    ///
    /// A session costs what a connection does, and about 80 bytes for finding it by its address.
    pub fn max_sessions(mut self, sessions: usize) -> Self {
        self.max = sessions;
        self
    }
}

impl Default for UdpSessions {
    fn default() -> Self {
        Self::new()
    }
}
