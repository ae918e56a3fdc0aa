use std::fmt;
use std::ops::Range;
use std::str;

use bytes::Bytes;

use super::fields::Headers;
use super::flags::{CLOSE, EXPECTS, HTTP10};
use super::head::{Framing, Head, Version, authority};

/// A request, as it lies in the connection's input.
///
/// Who sent it is [`Conn::peer_addr`](crate::Conn::peer_addr). To keep it, make an
/// [owned](Self::to_http) one.
///
/// ```
/// use epicycle::codec::{Codec, Decoded};
/// use epicycle::http::HttpCodec;
///
/// let mut input = *b"POST /items?sort=name HTTP/1.1\r\nHost: example.org\r\nContent-Length: 5\r\n\r\nhello";
/// let Decoded::Frame { frame: request, .. } = HttpCodec::default().decode(&mut input)? else {
///     panic!("it is complete");
/// };
/// assert_eq!((request.method(), request.path(), request.query()), ("POST", "/items", Some("sort=name")));
/// assert_eq!(request.header("host"), Some("example.org"));
/// assert_eq!(request.body(), b"hello");
/// # Ok::<(), epicycle::codec::FrameError>(())
/// ```
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// The head, and the body right behind it.
    bytes: &'a [u8],
    head: Head,
    trailers: &'a [u8],
}

impl<'a> Request<'a> {
    #[inline]
    pub(super) fn new(bytes: &'a [u8], head: Head, trailers: &'a [u8]) -> Self {
        Self {
            bytes,
            head,
            trailers,
        }
    }

    /// The method, in capitals as a rule; methods are case-sensitive.
    #[inline]
    pub fn method(&self) -> &'a str {
        match &self.bytes[self.head.method()] {
            // Not to be looked at once more.
            b"GET" => "GET",
            b"POST" => "POST",
            _ => self.text(self.head.method()),
        }
    }

    /// The target as it was sent: a path with or without a query, a whole URI, an authority or `*`
    /// (RFC 9112, section 3.2).
    #[inline]
    pub fn target(&self) -> &'a str {
        self.text(self.head.target())
    }

    /// The target's path, escapes and all; empty when there is none, which is so after `CONNECT`.
    #[inline]
    pub fn path(&self) -> &'a str {
        let target = self.path_and_query();
        match target.split_once('?') {
            // An empty path is the root (RFC 9110, section 4.2.3).
            Some(("", _)) => "/",
            Some((path, _)) => path,
            None => target,
        }
    }

    /// What follows the `?` in the target, if there is one.
    pub fn query(&self) -> Option<&'a str> {
        let (_, query) = self.path_and_query().split_once('?')?;
        Some(query)
    }

    #[inline]
    fn path_and_query(&self) -> &'a str {
        let target = self.target();
        match target.as_bytes().first() {
            Some(b'/' | b'*') => target,
            _ => behind_authority(target),
        }
    }

    /// The host it is for, with the port if one is given: the target's, or that of the `Host` header.
    pub fn host(&self) -> Option<&'a str> {
        let target = self.target();
        if self.method() == "CONNECT" {
            return Some(target);
        }
        match authority(target.as_bytes()) {
            Some(authority) => str::from_utf8(authority).ok(),
            None => self.header("host"),
        }
    }

    /// The version.
    pub fn version(&self) -> Version {
        if self.head.has(HTTP10) {
            Version::Http10
        } else {
            Version::Http11
        }
    }

    /// The headers, in order.
    pub fn headers(&self) -> Headers<'a> {
        Headers::new(&self.bytes[self.head.headers()])
    }

    /// The value of the first header of that name, in whatever case, if it is text in UTF-8.
    pub fn header(&self, name: &str) -> Option<&'a str> {
        self.headers()
            .get(name)
            .and_then(|value| str::from_utf8(value).ok())
    }

    /// The body: all of it, free of chunk framing. Of an [`HttpStreamCodec`](super::HttpStreamCodec)'s request it is
    /// empty, as the body follows.
    #[inline]
    pub fn body(&self) -> &'a [u8] {
        &self.bytes[self.head.len()..]
    }

    /// The trailers that followed a chunked body. They are not merged with the headers, as they could contradict
    /// them.
    pub fn trailers(&self) -> Headers<'a> {
        Headers::new(self.trailers)
    }

    /// Whether there is a body, be it an empty one, that belongs to it.
    pub fn has_body(&self) -> bool {
        self.head.framing != Framing::None
    }

    /// How long the body is, in bytes, if the request says so at its beginning.
    pub fn content_length(&self) -> Option<u64> {
        match self.head.framing {
            Framing::Length(length) => Some(length),
            _ => None,
        }
    }

    /// Whether the client lets the connection be used for another request.
    pub fn keep_alive(&self) -> bool {
        !self.head.has(CLOSE)
    }

    /// Whether the client waits for a `100 Continue` before it sends the body.
    pub fn expects_continue(&self) -> bool {
        self.head.has(EXPECTS)
    }

    /// Whether the client wants to go on with that protocol (RFC 9110, section 7.8).
    pub fn wants_upgrade(&self, protocol: &str) -> bool {
        let headers = self.headers();
        self.version() == Version::Http11
            && headers.has_token("connection", "upgrade")
            && headers.has_token("upgrade", protocol)
    }

    /// A copy in the types of the `http` crate, to be kept or sent elsewhere. `None` if the target is none that the crate
    /// knows, which is stricter about some characters.
    pub fn to_http(&self) -> Option<::http::Request<Bytes>> {
        let mut request = ::http::Request::builder()
            .method(self.method())
            .uri(self.target())
            .version(match self.version() {
                Version::Http10 => ::http::Version::HTTP_10,
                Version::Http11 => ::http::Version::HTTP_11,
            });
        for (name, value) in self.headers() {
            request = request.header(name, value);
        }
        request.body(Bytes::copy_from_slice(self.body())).ok()
    }

    #[inline]
    fn text(&self, range: Range<usize>) -> &'a str {
        // It has been found to be ASCII.
        str::from_utf8(&self.bytes[range]).unwrap_or_default()
    }
}

/// The path and query of a target that begins with something else.
#[cold]
fn behind_authority(target: &str) -> &str {
    let Some(authority) = authority(target.as_bytes()) else {
        return "";
    };
    let begin = target.find("://").map_or(0, |scheme| scheme + 3) + authority.len();
    match target.get(begin..) {
        None | Some("") => "/",
        Some(rest) => rest,
    }
}

impl fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("method", &self.method())
            .field("target", &self.target())
            .field("version", &self.version())
            .field("headers", &self.headers())
            .field("body", &self.body().len())
            .finish_non_exhaustive()
    }
}
