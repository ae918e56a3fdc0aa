//! The hooks of an application, and what they see.

use std::error::Error as StdError;
use std::fmt;
use std::net::IpAddr;

use super::error::ProxyError;
use super::record::Record;
use super::reply::Reply;
use crate::addr::Addr;
use crate::http::{HeaderBlock, StatusCode, Version};

/// The hooks of an application into the exchanges of a gateway. Each reactor has a value of its own, so no hook needs a lock,
/// and none may block. Every method has a default.
///
/// A panic in a hook fails its exchange, with a 500 or a cut, and no other.
///
/// ```
/// use epicycle::gateway::{Hooks, RequestHead, Verdict, Reply};
/// use epicycle::http::StatusCode;
///
/// struct Auth;
///
/// impl Hooks for Auth {
///     type Exchange = ();
///
///     fn on_request(&mut self, request: &mut RequestHead<'_>, (): &mut ()) -> Verdict {
///         if request.field("authorization").is_none() {
///             return Verdict::Answer(Reply::text(StatusCode::UNAUTHORIZED, "who are you?"));
///         }
///         request.fields().remove("authorization");
///         Verdict::Forward
///     }
/// }
/// ```
pub trait Hooks: Sized + 'static {
    /// The application's state of an exchange.
    type Exchange: Default + 'static;

    /// Called when the head of a request has arrived: after the route was chosen and hop-by-hop fields were removed, before
    /// forwarding fields are set. It may change method, target, host and fields.
    fn on_request(&mut self, request: &mut RequestHead<'_>, cx: &mut Self::Exchange) -> Verdict {
        let _ = (request, cx);
        Verdict::Forward
    }

    /// Called with the head of each final response and of each 101, after hop-by-hop fields were removed.
    ///
    /// # Errors
    ///
    /// The response is refused then: the error goes to [`on_error`](Self::on_error), and the rest of the response is dropped.
    fn on_response(
        &mut self,
        response: &mut ResponseHead<'_>,
        cx: &mut Self::Exchange,
    ) -> Result<(), Box<dyn StdError + Send + Sync>> {
        let _ = (response, cx);
        Ok(())
    }

    /// Called when there is no response to pass on, to get one. The default is [`ProxyError::reply`].
    fn on_error(&mut self, error: &ProxyError, cx: &mut Self::Exchange) -> Reply {
        let _ = cx;
        error.reply()
    }

    /// Called with each interim response that is passed on.
    fn on_interim(&mut self, status: StatusCode, fields: &HeaderBlock, cx: &mut Self::Exchange) {
        let _ = (status, fields, cx);
    }

    /// Called with each part of a request's body.
    fn on_request_part(&mut self, part: &[u8], cx: &mut Self::Exchange) {
        let _ = (part, cx);
    }

    /// Called with each part of a response's body.
    fn on_response_part(&mut self, part: &[u8], cx: &mut Self::Exchange) {
        let _ = (part, cx);
    }

    /// Called when client and node change to another protocol, with its name.
    fn on_upgrade(&mut self, protocol: &str, cx: &mut Self::Exchange) {
        let _ = (protocol, cx);
    }

    /// Called once at the end of each exchange.
    fn on_done(&mut self, record: &Record<'_>, cx: &mut Self::Exchange) {
        let _ = (record, cx);
    }
}

/// No hooks.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoHooks;

impl Hooks for NoHooks {
    type Exchange = ();
}

/// The next step of a request.
#[derive(Debug)]
#[non_exhaustive]
pub enum Verdict {
    /// It goes to the pool of its route.
    Forward,
    /// It takes the route of that name instead.
    Route(String),
    /// It goes to the pool of that name.
    Pool(String),
    /// It goes to the node with that address, as the settings spell it, of its route's pool.
    Node(String),
    /// The gateway answers.
    Answer(Reply),
    /// The client's connection is closed without an answer.
    Close,
}

/// The head of a request, as its node will get it.
#[derive(Debug, Default)]
pub(super) struct Head {
    pub(super) method: String,
    pub(super) target: String,
    pub(super) host: String,
    pub(super) fields: HeaderBlock,
    /// True if method, target and host are those of the received request, which was checked.
    pub(super) is_checked: bool,
    /// True if the fields may be others than those of the received request.
    pub(super) has_new_fields: bool,
}

/// The head of a request, to look at and to change.
pub struct RequestHead<'a> {
    pub(super) head: &'a mut Head,
    pub(super) peer: &'a Addr,
    pub(super) client: Option<IpAddr>,
    pub(super) user: Option<&'a str>,
    pub(super) route: &'a str,
    pub(super) version: Version,
    pub(super) content_length: Option<u64>,
}

impl RequestHead<'_> {
    /// Returns the method.
    pub fn method(&self) -> &str {
        &self.head.method
    }

    /// Replaces the method.
    pub fn set_method(&mut self, method: impl Into<String>) {
        self.head.method = method.into();
        self.head.is_checked = false;
    }

    /// Returns the target that the node gets.
    pub fn target(&self) -> &str {
        &self.head.target
    }

    /// Replaces the target.
    pub fn set_target(&mut self, target: impl Into<String>) {
        self.head.target = target.into();
        self.head.is_checked = false;
    }

    /// Returns the path of the target.
    pub fn path(&self) -> &str {
        path_of(&self.head.target)
    }

    /// Returns the host that the node gets. It is empty if that is the node's own: by the route's settings, or because an
    /// HTTP/1.0 client has named none.
    pub fn host(&self) -> &str {
        &self.head.host
    }

    /// Replaces the host.
    pub fn set_host(&mut self, host: impl Into<String>) {
        self.head.host = host.into();
        self.head.is_checked = false;
    }

    /// Returns the value of the first field of that name.
    pub fn field(&self, name: &str) -> Option<&[u8]> {
        self.head.fields.headers().get(name)
    }

    /// Returns the fields, without `Host` and those about framing and the connection, which the gateway writes itself.
    pub fn fields(&mut self) -> &mut HeaderBlock {
        self.head.has_new_fields = true;
        &mut self.head.fields
    }

    /// Returns the address of the peer.
    pub fn peer_addr(&self) -> &Addr {
        self.peer
    }

    /// Returns the client's address: the peer's, or what a trusted proxy told.
    pub fn client(&self) -> Option<IpAddr> {
        self.client
    }

    /// Returns the name that the client has proved with a password, if listener or route ask for one.
    pub fn user(&self) -> Option<&str> {
        self.user
    }

    /// Returns the name of the route.
    pub fn route(&self) -> &str {
        self.route
    }

    /// Returns the version of the client's request.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Returns the length of the body, if it is announced.
    pub fn content_length(&self) -> Option<u64> {
        self.content_length
    }
}

impl fmt::Debug for RequestHead<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.head.fmt(f)
    }
}

/// The head of a response, to look at and to change.
#[derive(Debug)]
pub struct ResponseHead<'a> {
    pub(super) status: StatusCode,
    pub(super) fields: &'a mut HeaderBlock,
    pub(super) node: &'a str,
    pub(super) content_length: Option<u64>,
}

impl ResponseHead<'_> {
    /// Returns the status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Replaces the status. It must fit the body: a response with one cannot become a 204.
    pub fn set_status(&mut self, status: StatusCode) {
        self.status = status;
    }

    /// Returns the value of the first field of that name.
    pub fn field(&self, name: &str) -> Option<&[u8]> {
        self.fields.headers().get(name)
    }

    /// Returns the fields, without those about framing and the connection, which the gateway writes itself.
    pub fn fields(&mut self) -> &mut HeaderBlock {
        self.fields
    }

    /// Returns the address of the node.
    pub fn node(&self) -> &str {
        self.node
    }

    /// Returns the length of the body, if it is announced.
    pub fn content_length(&self) -> Option<u64> {
        self.content_length
    }
}

/// Returns the path of a target.
pub(super) fn path_of(target: &str) -> &str {
    target.split('?').next().unwrap_or_default()
}
