//! Requests, and replies to them.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use percent_encoding::percent_decode_str;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::HttpProxy;
use super::body::Share;
use crate::Bytes;
use crate::cluster::Error;
use crate::cluster::seldom::warn_seldom;
use crate::error::error_messages;

/// A request, which a handler has as its own.
pub struct HttpRequest {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) query: String,
    pub(super) params: BTreeMap<String, String>,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Bytes,
    /// Held until the handler has ended.
    pub(super) share: Option<Share>,
    pub(super) peer: Option<SocketAddr>,
    pub(super) user: Option<i64>,
    pub(super) proxy: Arc<HttpProxy>,
}

impl HttpRequest {
    /// Returns the method.
    pub fn method(&self) -> &str {
        &self.method
    }

    /// Returns the path, as it was sent.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Returns the part of the path for a name of the pattern, with its escapes resolved. It is empty if there is no such name, or the
    /// part is not UTF-8. It may contain anything else.
    pub fn param(&self, name: &str) -> &str {
        self.params.get(name).map_or("", String::as_str)
    }

    /// Returns the first value of a name in the query, with its escapes resolved.
    pub fn query(&self, name: &str) -> Option<String> {
        let decoded = |text: &str| {
            let text = text.replace('+', " ");
            percent_decode_str(&text).decode_utf8_lossy().into_owned()
        };
        self.query.split('&').find_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(key) == name).then(|| decoded(value))
        })
    }

    /// Returns the first header of a name, if it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        let found = headers.find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// Returns the body.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// Reads the body as JSON.
    ///
    /// # Errors
    ///
    /// 400, if it is no such value.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, HttpError> {
        let value = serde_json::from_slice(&self.body);
        value.map_err(|error| HttpError::new(400, format!("the body: {error}")))
    }

    /// Returns the address of the client, or of the proxy in front of this server.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// Returns the user that a middleware has [set](Self::set_user).
    pub fn user(&self) -> Option<i64> {
        self.user
    }

    /// Sets the user, for the handler.
    pub fn set_user(&mut self, uid: i64) {
        self.user = Some(uid);
    }

    /// Returns the way to the rest of the cluster.
    pub fn proxy(&self) -> &HttpProxy {
        &self.proxy
    }
}

/// A reply.
#[derive(Clone, Debug)]
pub struct HttpReply {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Bytes,
}

impl HttpReply {
    /// Returns a reply with a value as JSON, and 200.
    ///
    /// # Errors
    ///
    /// 500, if JSON cannot hold the value.
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<Self, HttpError> {
        let body = serde_json::to_vec(value);
        let body = body.map_err(|error| HttpError::new(500, format!("the answer: {error}")))?;
        Ok(Self::of("application/json", body))
    }

    /// Returns a reply with text, and 200.
    pub fn text(text: impl Into<String>) -> Self {
        Self::of("text/plain; charset=utf-8", text.into())
    }

    /// Returns a reply with a page, and 200. Escape what comes from others.
    pub fn html(page: impl Into<String>) -> Self {
        Self::of("text/html; charset=utf-8", page.into())
    }

    /// Returns a reply with a body of this media type, and 200.
    pub fn of(media_type: &str, body: impl Into<Bytes>) -> Self {
        let headers = vec![("Content-Type".to_owned(), media_type.to_owned())];
        Self {
            status: 200,
            headers,
            body: body.into(),
        }
    }

    pub(super) fn empty(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Bytes::new(),
        }
    }

    /// Sets the status, from 200 to 599.
    pub fn status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    /// Adds a header. Those of the connection are written by the server.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }
}

/// A request that is refused, or has failed. The client gets `{"error": problem}` with the status.
#[derive(Clone, PartialEq, Eq)]
pub struct HttpError {
    /// The status, from 400 to 599.
    pub status: u16,
    /// The problem, which the client is told.
    pub problem: String,
}

error_messages! {
    HttpError {
        HttpError { status, problem } => "{status}: {problem}",
    }
}

impl HttpError {
    /// Returns an error with this status.
    pub fn new(status: u16, problem: impl Into<String>) -> Self {
        let problem = problem.into();
        Self { status, problem }
    }

    pub(super) fn reply(&self) -> HttpReply {
        HttpReply::of("application/json", self.json()).status(self.status)
    }

    /// Returns the body of the reply.
    pub(super) fn json(&self) -> String {
        serde_json::json!({"error": self.problem}).to_string()
    }
}

/// The text of an error whose reason is nobody's business.
pub(super) const FAILED: &str = "it has failed; see the log";

/// A backend or a peer that has failed is logged, and the client is not told which one.
impl From<Error> for HttpError {
    fn from(error: Error) -> Self {
        // The problem names other servers and their addresses, which are nobody's business.
        if matches!(error, Error::Backend { .. } | Error::LinkDown { .. }) {
            warn_seldom!("a request has failed: {error}");
            return Self::new(502, "another server has failed; see the log");
        }
        // The handler has chosen the arguments, and its program the options.
        if matches!(error, Error::InvalidArgument { .. } | Error::Start(_)) {
            warn_seldom!("a request has failed: {error}");
            return Self::new(500, FAILED);
        }
        // A secret that is missing is as little a client's business.
        if matches!(error, Error::Unauthorized { .. }) {
            warn_seldom!("a request has failed: {error}");
            return Self::new(401, "not authorized");
        }
        let status = match &error {
            Error::NotFoundEndpoint { .. }
            | Error::NotFoundUserLocation { .. }
            | Error::NotFoundSession { .. }
            | Error::NotFoundRoute { .. } => 404,
            Error::TooLarge { .. } | Error::RouteOverflow { .. } | Error::Codec(_) => 400,
            Error::Busy { .. } | Error::Draining => 503,
            Error::Timeout { .. } => 504,
            _ => 502,
        };
        Self::new(status, error.to_string())
    }
}

impl fmt::Debug for HttpRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpRequest")
            .field("method", &self.method)
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}
