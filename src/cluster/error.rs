use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use crate::codec::FrameError;
use crate::error::error_messages;
use crate::rpc::wire::Status;

/// The reason why something could not be done in the cluster.
///
/// A clone is cheap: one failure may concern many waiters.
#[derive(Clone)]
#[non_exhaustive]
pub enum Error {
    /// No connection or user of this number is at the gate.
    NotFoundSession {
        /// The kind of the number: `connection` or `user`.
        kind: &'static str,
        /// The number.
        target: i64,
    },
    /// No node serves this route.
    NotFoundRoute {
        /// The route.
        route: i32,
    },
    /// No instance of this id or name is registered, or none takes requests.
    NotFoundEndpoint {
        /// The id or the name.
        wanted: String,
    },
    /// The user is on no gate or no node.
    NotFoundUserLocation {
        /// The user's id.
        uid: i64,
    },
    /// An argument or an option has a value that is not allowed.
    InvalidArgument {
        /// The name of the argument.
        name: &'static str,
        /// The problem and its remedy.
        problem: String,
    },
    /// A message of a peer is malformed.
    InvalidMessage {
        /// The fault.
        what: &'static str,
    },
    /// The peer may not ask this, or not now.
    IllegalRequest {
        /// The fault.
        what: &'static str,
    },
    /// A part of a message is longer than its limit.
    TooLarge {
        /// The part.
        what: &'static str,
        /// Its length in bytes, or the number of its items.
        len: usize,
        /// The maximum.
        max: usize,
    },
    /// The route does not fit into the route field of a packet.
    RouteOverflow {
        /// The route.
        route: i32,
        /// The width of the field, in bytes.
        bytes: usize,
    },
    /// The sequence number does not fit into the sequence field of a packet.
    SeqOverflow {
        /// The sequence number.
        seq: i32,
        /// The width of the field, in bytes.
        bytes: usize,
    },
    /// A queue or a table is full. The request was not carried out; try again later, or shed load.
    Busy {
        /// The queue or the table.
        what: &'static str,
    },
    /// No answer came in time. It is unknown if the request was carried out.
    Timeout {
        /// The request.
        what: Cow<'static, str>,
        /// The time that was waited.
        after: Duration,
    },
    /// The request was cancelled. It is unknown if it was carried out.
    Cancelled,
    /// There is no connection to the peer.
    LinkDown {
        /// The peer's id or address.
        peer: String,
    },
    /// This side is about to stop and takes no new requests.
    Draining,
    /// One side has not proved that it knows the cluster's secret, or the handler of a service wants a login.
    Unauthorized {
        /// The problem and its remedy.
        reason: Cow<'static, str>,
    },
    /// The peer refused the request.
    Refused {
        /// The reason that it gave.
        reason: String,
    },
    /// The handler of a service failed, with this status.
    Service(Status),
    /// A server cannot start: an address or an option is wrong, or the system refuses.
    Start(Arc<crate::Error>),
    /// A value cannot be encoded or decoded.
    Codec(Arc<dyn std::error::Error + Send + Sync>),
    /// A backend, such as the registry or the locator, cannot be reached or answered with an error.
    Backend {
        /// The backend.
        backend: &'static str,
        /// The problem.
        problem: String,
    },
}

error_messages! {
    Error {
        Error::NotFoundSession { kind, target } => "no {kind} {target} is at this gate",
        Error::NotFoundRoute { route } => "nobody serves the route {route}; start a node that has it, or bind the user to an actor that has it",
        Error::NotFoundEndpoint { wanted } => "no instance {wanted:?} takes requests; check that it is registered and in `work`",
        Error::NotFoundUserLocation { uid } => "the user {uid} is nowhere: not bound, or gone",
        Error::InvalidArgument { name, problem } => "the argument `{name}`: {problem}",
        Error::InvalidMessage { what } => "a malformed message: {what}",
        Error::IllegalRequest { what } => "a request that is not allowed: {what}",
        Error::TooLarge { what, len, max } => "a {what} of {len}, where at most {max} is allowed",
        Error::RouteOverflow { route, bytes } =>
            "the route {route} does not fit into {bytes} bytes; use a smaller one, or set `PacketOptions::route_bytes`",
        Error::SeqOverflow { seq, bytes } =>
            "the sequence number {seq} does not fit into {bytes} bytes; begin again at 1, or set `PacketOptions::seq_bytes`",
        Error::Busy { what } => "the {what} is full; try again later, or send less",
        Error::Timeout { what, after } => "no answer to {what} within {after:?}",
        Error::Cancelled => "the request was cancelled",
        Error::LinkDown { peer } => "there is no connection to {peer}",
        Error::Draining => "this side is about to stop and takes no new requests",
        Error::Unauthorized { reason } => "not authorized: {reason}",
        Error::Refused { reason } => "the other side refused: {reason}",
        Error::Service(status) => "the service answered: {status}",
        Error::Start(error) => "{error}",
        Error::Codec(error) => "{error}",
        Error::Backend { backend, problem } => "{}: {problem}" (spelled(backend)),
    }
    causes {
        Error::Start(error) => &**error,
        Error::Codec(error) => &**error,
    }
}

impl Error {
    pub(super) fn backend(backend: &'static str, problem: impl Into<String>) -> Self {
        Error::Backend {
            backend,
            problem: problem.into(),
        }
    }

    pub(super) fn argument(name: &'static str, problem: impl Into<String>) -> Self {
        Error::InvalidArgument {
            name,
            problem: problem.into(),
        }
    }

    /// Returns the error of a proof that is wrong or missing. Neither side can tell which of them has the wrong secret.
    pub(super) const fn secrets_differ() -> Self {
        Error::Unauthorized {
            reason: Cow::Borrowed(SECRETS_DIFFER),
        }
    }

    /// Refuses a time of zero for an option that has no meaning without time.
    pub(super) fn if_zero(name: &'static str, time: Duration) -> Result<(), Self> {
        match time.is_zero() {
            true => Err(Self::argument(name, "zero leaves no time at all")),
            false => Ok(()),
        }
    }
}

const SECRETS_DIFFER: &str = "this side or the other has no secret of the cluster, or a different one; give both the same `secret`";

/// Returns a backend's name as its makers spell it.
pub(super) fn spelled(backend: &'static str) -> Cow<'static, str> {
    let name = match backend {
        "consul" => "Consul",
        "etcd" | "memcached" => backend,
        "kafka" => "Kafka",
        "nacos" => "Nacos",
        "nats" => "NATS",
        "rabbitmq" => "RabbitMQ",
        "redis" => "Redis",
        _ => return format!("the {backend}").into(),
    };
    name.into()
}

impl From<crate::Error> for Error {
    fn from(error: crate::Error) -> Self {
        Error::Start(Arc::new(error))
    }
}

impl From<Error> for FrameError {
    #[cold]
    fn from(error: Error) -> Self {
        match error {
            Error::TooLarge { len, max, .. } => FrameError::TooLong {
                len: len as u64,
                max,
            },
            error => FrameError::Other(Box::new(error)),
        }
    }
}
