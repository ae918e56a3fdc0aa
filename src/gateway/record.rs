use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::addr::Addr;
use crate::engine::conn::close::Closed;
use crate::http::{Headers, StatusCode};
use crate::metric_label;
use crate::metrics::Label;

/// The course of an exchange, for logs and metrics. [`Hooks::on_done`](super::Hooks::on_done) receives it.
///
/// The client chose method, host and target: escape them before they are written to a log.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Record<'a> {
    /// The peer of the client's connection.
    pub peer: &'a Addr,
    /// The client: the peer, or the address that a trusted proxy told.
    pub client: Option<IpAddr>,
    /// The name that the client has proved with a password. Empty if none was asked for, or none was right.
    pub user: &'a str,
    /// The method.
    pub method: &'a str,
    /// The requested host.
    pub host: &'a str,
    /// The requested target.
    pub target: &'a str,
    /// True if the version is HTTP/1.0.
    pub is_http10: bool,
    /// The fields of the request, as the node got them. Empty if it was refused.
    pub fields: Headers<'a>,
    /// The name of the route. Empty if none fits.
    pub route: &'a str,
    /// The name of the pool. Empty if none was chosen.
    pub pool: &'a str,
    /// The address of the node. Empty if none was chosen.
    pub node: &'a str,
    /// The status that the client got, or 499 if it left before it got one.
    pub status: u16,
    /// The bytes of the request's body that arrived.
    pub request_bytes: u64,
    /// The bytes of the response's body that were passed on.
    pub response_bytes: u64,
    /// The time of day at the beginning, in whole seconds since 1970.
    pub unix_time: u64,
    /// The times of its parts.
    pub times: Times,
    /// True if the connection to the node had served before.
    pub reused: bool,
    /// The number of times that the request was sent to a node, or that this was tried.
    pub tries: u32,
    /// The one who ended it.
    pub ended_by: EndedBy,
    /// The timeout that ended it, by the name of its option: `connect`, `response_head`, `body_idle`,
    /// `write_stall`, `request`, `pending_timeout` or `tunnel_idle`. Empty if none did.
    pub timeout: &'static str,
}

impl<'a> Record<'a> {
    /// Returns the record of a connection that has ended without a sound request of HTTP. It names no pool, and tells no time.
    pub(super) fn of(closed: &'a Closed, method: &'a str, target: &'a str) -> Self {
        Self {
            peer: &closed.peer,
            client: closed.peer.ip(),
            user: "",
            method,
            host: "",
            target,
            is_http10: false,
            fields: Headers::NONE,
            route: "",
            pool: "",
            node: "",
            status: 0,
            request_bytes: closed.bytes_in,
            response_bytes: closed.bytes_out,
            unix_time: 0,
            times: Times::default(),
            reused: false,
            tries: 0,
            ended_by: EndedBy::Gateway,
            timeout: "",
        }
    }
}

/// The times of an exchange, from its beginning. They are as exact as the turns of the reactor's loop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Times {
    /// The time for which it waited for a place among `max_connections`, or for a connection in use, until that was there or a
    /// connection was begun for it.
    pub queued: Duration,
    /// When it had a connection to a node.
    pub connected: Option<Duration>,
    /// When the head of the response had arrived.
    pub first_byte: Option<Duration>,
    /// When it ended.
    pub total: Duration,
}

metric_label! {
    /// The one who ended an exchange. Its [text](crate::metrics::Label::value) is `complete`, `client`, `node`, `gateway` or
    /// `timeout`.
    #[derive(Default)]
    #[non_exhaustive]
    pub enum EndedBy("outcome") {
        /// Nobody: it is complete.
        #[default]
        Nobody = "complete",
        /// The client left.
        Client = "client",
        /// The node, or the connection to it.
        Node = "node",
        /// The gateway: it refused the request, or a hook answered.
        Gateway = "gateway",
        /// A timeout.
        Timeout = "timeout",
    }
}

impl fmt::Display for EndedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.value())
    }
}

/// The part of a record that an exchange collects.
#[derive(Debug)]
pub(super) struct Notes {
    pub(super) began: Instant,
    pub(super) unix_time: u64,
    pub(super) status: Option<StatusCode>,
    pub(super) request_bytes: u64,
    pub(super) response_bytes: u64,
    pub(super) times: Times,
    /// The time from which it waits for a connection.
    pub(super) waits_since: Option<Instant>,
    pub(super) tries: u32,
    pub(super) reused: bool,
    pub(super) ended_by: EndedBy,
    pub(super) timeout: &'static str,
    /// True for a health check or metrics of the gateway itself, which are neither logged nor counted.
    pub(super) is_own: bool,
}

impl Notes {
    pub(super) fn at(began: Instant, unix_time: u64) -> Self {
        Self {
            began,
            unix_time,
            status: None,
            request_bytes: 0,
            response_bytes: 0,
            times: Times::default(),
            waits_since: None,
            tries: 0,
            reused: false,
            ended_by: EndedBy::default(),
            timeout: "",
            is_own: false,
        }
    }

    pub(super) fn begin_wait(&mut self, now: Instant) {
        self.waits_since = Some(now);
    }

    /// Ends the wait for a connection, which took until `end`.
    pub(super) fn end_wait(&mut self, end: Instant) {
        if let Some(since) = self.waits_since.take() {
            self.times.queued += end.saturating_duration_since(since);
        }
    }

    pub(super) fn since(&self, now: Instant) -> Duration {
        // Much of it happens in the turn in which the request came.
        match now == self.began {
            true => Duration::ZERO,
            false => now.saturating_duration_since(self.began),
        }
    }
}
