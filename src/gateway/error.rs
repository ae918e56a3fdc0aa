use std::error::Error as StdError;
use std::io;

use super::config::ConfigError;
use super::dial::{self, Refused, Via};
use super::egress::Refusal;
use super::reply::Reply;
use super::settings::{ErrorPage, Problem};
use crate::balance::Outcome;
use crate::engine::conn::close::{CloseReason, TimeoutKind};
use crate::engine::connect::ConnectError;
use crate::error::{Error, error_messages};
use crate::http::{MessageError, StatusCode};
use crate::sys::socket;

/// The reason why a gateway does not start, or does not take new settings.
#[non_exhaustive]
pub enum GatewayError {
    /// The configuration file cannot be used.
    Config(ConfigError),
    /// These settings cannot work. There is at least one.
    Settings(Vec<Problem>),
    /// The engine could not start: an address that cannot be bound, for example.
    Start(Error),
    /// The certificates of the system's trusted authorities could not be read.
    Roots(Box<dyn StdError + Send + Sync>),
    /// The access log could not be opened.
    Log(io::Error),
    /// There is no pool or node of that name.
    NotFound(Problem),
    /// It cannot be done as things are now.
    Conflict(Problem),
}

impl From<Error> for GatewayError {
    fn from(error: Error) -> Self {
        GatewayError::Start(error)
    }
}

fn list(problems: &[Problem]) -> String {
    let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
    problems.join("; ")
}

error_messages! {
    GatewayError {
        GatewayError::Config(error) => "{error}",
        GatewayError::Settings(problems) => "{}" (list(problems)),
        GatewayError::Start(error) => "{error}",
        GatewayError::Roots(error) => "{error}",
        GatewayError::Log(error) => "{error}",
        GatewayError::NotFound(problem) => "{problem}",
        GatewayError::Conflict(problem) => "{problem}",
    }
    causes {
        GatewayError::Config(error) => error,
        GatewayError::Start(error) => error,
        GatewayError::Roots(error) => &**error,
        GatewayError::Log(error) => error,
    }
}

/// The failure of an exchange, which becomes an answer of the gateway's own, or a cut.
///
/// [`Hooks::on_error`](super::Hooks::on_error) receives it. Its text names addresses and is for logs. A client gets
/// [`status`](Self::status) and a short text without addresses.
pub struct ProxyError {
    pub(super) status: StatusCode,
    pub(super) phase: Phase,
    pub(super) node: Option<Box<str>>,
    /// The proxy by way of which the connect was made, unless the cause names it.
    via: Option<Via>,
    pub(super) cause: Cause,
    /// The route's page for the status.
    pub(super) page: Option<Box<ErrorPage>>,
    /// True if the reply tells the error in `Proxy-Status`.
    pub(super) is_told: bool,
    /// A field that the reply has.
    pub(super) field: Option<Box<(&'static str, String)>>,
}

/// The part of an exchange in which it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// The request itself is at fault, or nothing serves it.
    Request,
    /// The choice of a node, and the wait for a place among its connections.
    Pick,
    /// The lookup of the node's name.
    Resolve,
    /// The connect.
    Connect,
    /// The TLS handshake.
    Handshake,
    /// The request was being sent.
    Send,
    /// The head of the response was awaited.
    Head,
    /// The body of the response was being passed on.
    Body,
}

/// The cause of a [`ProxyError`].
#[non_exhaustive]
pub enum Cause {
    /// The egress policy refuses the target.
    Refused(Refusal),
    /// The request is not acceptable.
    Request {
        /// The fault.
        what: &'static str,
    },
    /// No route fits.
    NoRoute,
    /// A hook named a pool, a route or a node that does not exist, or a head that cannot be sent.
    Hook(Box<dyn StdError + Send + Sync>),
    /// A hook panicked.
    Panic,
    /// No node takes requests.
    NoNode,
    /// Too many requests are under way at the pool, or at each of its nodes.
    Overloaded,
    /// Too many requests wait for a connection, or this one has waited for too long.
    Busy,
    /// The node could not be connected to.
    Connect(ConnectError),
    /// The connection to the node has ended.
    Closed(CloseReason),
    /// The node's response is not sound.
    Response(MessageError),
    /// The node changed to a protocol that was not asked for.
    Protocol,
    /// The exchange took longer than it may.
    Timeout,
    /// The client has left.
    Client,
}

impl ProxyError {
    pub(super) fn new(status: StatusCode, phase: Phase, cause: Cause) -> Self {
        Self {
            status,
            phase,
            node: None,
            via: None,
            cause,
            page: None,
            is_told: false,
            field: None,
        }
    }

    /// Adds a field to the reply. The value has no control characters.
    pub(super) fn with_field(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.field = Some(Box::new((name, value.into())));
        self
    }

    pub(super) fn request(status: StatusCode, what: &'static str) -> Self {
        Self::new(status, Phase::Request, Cause::Request { what })
    }

    pub(super) fn at(mut self, node: Option<&str>) -> Self {
        self.node = node.map(Into::into);
        self
    }

    /// Returns the failure of a connect, which was made by way of a proxy or not.
    pub(super) fn connect(error: ConnectError, via: Option<&Via>) -> Self {
        let phase = match telling(&error) {
            ConnectError::Address(_) | ConnectError::LookupQueueFull { .. } => Phase::Resolve,
            ConnectError::Tls(_) => Phase::Handshake,
            _ => Phase::Connect,
        };
        let status = match telling(&error) {
            ConnectError::Timeout => StatusCode::GATEWAY_TIMEOUT,
            ConnectError::Denied { .. } => StatusCode::FORBIDDEN,
            ConnectError::Negotiation(error) => match dial::refusal(&**error) {
                Some(Refused::Reply(2) | Refused::Status(403)) => StatusCode::FORBIDDEN,
                Some(Refused::Reply(6) | Refused::Status(504)) => StatusCode::GATEWAY_TIMEOUT,
                _ => StatusCode::BAD_GATEWAY,
            },
            ConnectError::Stopped | ConnectError::MailboxFull => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::BAD_GATEWAY,
        };
        let is_named = matches!(error, ConnectError::Negotiation(_));
        Self {
            via: via.filter(|_| !is_named).cloned(),
            ..Self::new(status, phase, Cause::Connect(error))
        }
    }

    /// Returns the refusal of a target.
    pub(super) fn refused(refusal: Refusal) -> Self {
        let cause = Cause::Refused(refusal);
        Self::new(StatusCode::FORBIDDEN, Phase::Request, cause)
    }

    /// Returns true if the egress policy refuses the target, or each of its addresses.
    pub(super) fn is_refusal(&self) -> bool {
        match &self.cause {
            Cause::Refused(_) => true,
            Cause::Connect(error) => matches!(telling(error), ConnectError::Denied { .. }),
            _ => false,
        }
    }

    /// Returns true if a hook has failed, or the proxy by way of which a target was to be reached.
    pub(super) fn is_of_this_side(&self) -> bool {
        match &self.cause {
            Cause::Hook(_) | Cause::Panic => true,
            Cause::Connect(ConnectError::Negotiation(error)) => match dial::refusal(&**error) {
                Some(Refused::Status(status)) => status == 407,
                refused => !matches!(refused, Some(Refused::Reply(_))),
            },
            Cause::Connect(_) => self.via.is_some(),
            _ => false,
        }
    }

    /// Returns the failure of a connection that ended before the exchange did.
    pub(super) fn closed(reason: CloseReason, phase: Phase) -> Self {
        let status = match &reason {
            CloseReason::Timeout(_) => StatusCode::GATEWAY_TIMEOUT,
            CloseReason::Shutdown => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::BAD_GATEWAY,
        };
        let cause = match reason {
            CloseReason::Frame(error) => match MessageError::of(&error) {
                Some(error) => Cause::Response(error),
                None => Cause::Closed(CloseReason::Frame(error)),
            },
            reason => Cause::Closed(reason),
        };
        Self::new(status, phase, cause)
    }

    /// Returns what it says about the node. That this host has no descriptor, memory or port left is no fault of the node's.
    pub(super) fn outcome(&self) -> Outcome {
        match &self.cause {
            Cause::Connect(error) if is_shortage(error) => Outcome::Abandoned,
            _ => Outcome::Failure,
        }
    }

    /// Returns the status that the client gets, unless it has one already.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Returns the part of the exchange in which it failed.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Returns the node's address, if a node was chosen.
    pub fn node(&self) -> Option<&str> {
        self.node.as_deref()
    }

    /// Returns the cause.
    pub fn cause(&self) -> &Cause {
        &self.cause
    }

    /// Returns the answer for the client: the route's error page for this status, or a line of plain text that names no
    /// address. A 503 has a `Retry-After`.
    pub fn reply(&self) -> Reply {
        let mut reply = match &self.page {
            None => Reply::text(self.status, format!("{}\n", self.text())),
            Some(page) => {
                let mut reply = Reply::new(self.status);
                // The settings were checked.
                let _ = reply.fields.push("Content-Type", &page.content_type);
                reply.body = page.body.clone();
                reply
            }
        };
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            let _ = reply.fields.push("Retry-After", "1");
        }
        if let Some(field) = &self.field {
            let _ = reply.fields.push(field.0, &field.1);
        }
        if self.is_told {
            let told = format!("epicycle; error={}", self.kind());
            let _ = reply.fields.push("Proxy-Status", told);
        }
        reply
    }

    /// Returns the type of the error in `Proxy-Status` (RFC 9209, section 2.3).
    fn kind(&self) -> &'static str {
        match (&self.cause, self.phase) {
            (Cause::Request { .. } | Cause::NoRoute, _) => "http_request_denied",
            (Cause::Refused(_), _) => "http_request_denied",
            (Cause::Hook(_) | Cause::Panic, _) => "proxy_internal_error",
            (Cause::Connect(_), _) if self.is_refusal() => "destination_ip_prohibited",
            (Cause::NoNode, _) => "destination_unavailable",
            (Cause::Busy | Cause::Overloaded, _) => "connection_limit_reached",
            (Cause::Protocol, _) => "http_upgrade_failed",
            (Cause::Response(_), _) => "http_protocol_error",
            (Cause::Connect(ConnectError::Timeout), _) => "connection_timeout",
            (_, Phase::Resolve) => "dns_error",
            (_, Phase::Handshake) => "tls_protocol_error",
            (Cause::Connect(_), _) => "connection_refused",
            _ if self.status == StatusCode::GATEWAY_TIMEOUT => "http_response_timeout",
            _ => "connection_terminated",
        }
    }

    /// Returns the name of the option for the timeout that is the cause. Empty if none is.
    pub(super) fn timeout(&self) -> &'static str {
        match &self.cause {
            Cause::Timeout => "request",
            Cause::Connect(ConnectError::Timeout) => "connect",
            Cause::Closed(CloseReason::Timeout(TimeoutKind::Response)) => "response_head",
            Cause::Closed(CloseReason::Timeout(_)) => "body_idle",
            _ => "",
        }
    }

    /// Returns a text for the client, without addresses.
    pub fn text(&self) -> &'static str {
        match (&self.cause, self.status.as_u16()) {
            (Cause::Request { what }, _) => what,
            (Cause::NoRoute, _) => "nothing is served here",
            (_, 403) => "the policy of this proxy refuses the target",
            (_, 500) => "the gateway failed to handle the request",
            (_, 503) => "no server can take the request now; try again later",
            (_, 504) => "the server took too long to answer",
            _ => "the server gave no sound answer",
        }
    }
}

/// Returns the error of the address that tells most: the last one that was dialled.
fn telling(error: &ConnectError) -> &ConnectError {
    let ConnectError::Host(failed) = error else {
        return error;
    };
    let mut errors = failed.iter().rev().map(|failed| &failed.error);
    let dialled = errors.find(|error| !matches!(error, ConnectError::Denied { .. }));
    dialled.unwrap_or_else(|| error.last())
}

/// Returns the part of a message that names a proxy.
pub(super) fn by_way_of(via: Option<&Via>) -> String {
    via.map_or(String::new(), |via| format!(" by way of {via}"))
}

/// Returns true if a connection was not made because this host lacks what it needs.
pub(super) fn is_shortage(error: &ConnectError) -> bool {
    matches!(error.last(), ConnectError::Io(error) if socket::is_shortage(error))
}

impl Phase {
    fn text(self) -> &'static str {
        match self {
            Phase::Request => "the request",
            Phase::Pick => "the choice of a node",
            Phase::Resolve => "the lookup of the node's name",
            Phase::Connect => "the connect",
            Phase::Handshake => "the TLS handshake",
            Phase::Send => "the sending of the request",
            Phase::Head => "the wait for the response",
            Phase::Body => "the body of the response",
        }
    }
}

error_messages! {
    ProxyError {
        ProxyError { status, phase, node: Some(node), via, cause, .. } =>
            "{status}: {} at {node}{} failed: {cause}" (phase.text(), by_way_of(via.as_ref())),
        ProxyError { status, phase, node: None, via, cause, .. } =>
            "{status}: {}{} failed: {cause}" (phase.text(), by_way_of(via.as_ref())),
    }
    causes {
        ProxyError { cause: Cause::Connect(error), .. } => error,
        ProxyError { cause: Cause::Hook(error), .. } => &**error,
    }
}

error_messages! {
    Cause {
        Cause::Request { what } => "{what}",
        Cause::Refused(refusal) => "{refusal}",
        Cause::NoRoute => "no route fits",
        Cause::Hook(error) => "a hook failed: {error}",
        Cause::Panic => "a hook panicked",
        Cause::NoNode => "no node takes requests",
        Cause::Overloaded => "too many requests are under way",
        Cause::Busy => "too many requests wait for a connection",
        Cause::Connect(error) => "{error}",
        Cause::Closed(reason) => "{reason}",
        Cause::Response(error) => "{error}",
        Cause::Protocol => "it changed to a protocol that was not asked for",
        Cause::Timeout => "the exchange took too long",
        Cause::Client => "the client has left",
    }
    causes {
        Cause::Refused(refusal) => refusal,
        Cause::Connect(error) => error,
        Cause::Hook(error) => &**error,
    }
}
