use std::fmt;
use std::ops::Range;
use std::str;

use bytes::Bytes;

use super::fields::Headers;
use super::head::flags::{CLOSE, EXPECTS, HTTP10, NOMINATES};
use super::head::{Framing, Head, Version, authority};
use super::lines::is_named;

/// A request, borrowed from the connection's input.
///
/// [`Conn::peer_addr`](crate::Conn::peer_addr) is the address of its sender. Use [`to_http`](Self::to_http) for an
/// owned copy.
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
pub struct ServerRequest<'a> {
    /// The head, directly followed by the body.
    bytes: &'a [u8],
    head: Head,
    trailers: &'a [u8],
}

impl<'a> ServerRequest<'a> {
    #[inline]
    pub(super) fn new(bytes: &'a [u8], head: Head, trailers: &'a [u8]) -> Self {
        Self {
            bytes,
            head,
            trailers,
        }
    }

    /// Returns the method. Methods are case-sensitive, and usually in capitals.
    #[inline]
    pub fn method(&self) -> &'a str {
        match &self.bytes[self.head.method()] {
            // The common method skips the UTF-8 check.
            b"GET" => "GET",
            b"POST" => "POST",
            _ => self.text(self.head.method()),
        }
    }

    /// Returns the target as it was sent: a path with or without a query, a whole URI, an authority or `*` (RFC 9112,
    /// section 3.2).
    #[inline]
    pub fn target(&self) -> &'a str {
        self.text(self.head.target())
    }

    /// Returns the target's path, with its escapes. It is empty if the target has none, as after `CONNECT`.
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

    /// Returns the part of the target after the `?`, if there is one.
    pub fn query(&self) -> Option<&'a str> {
        let (_, query) = self.path_and_query().split_once('?')?;
        Some(query)
    }

    /// Returns the target's path and query, with their escapes. In a target in absolute form the path may be missing:
    /// then the result is `/`, or begins with the `?`. It is empty if the target has neither, as after `CONNECT`.
    #[inline]
    pub fn path_and_query(&self) -> &'a str {
        let target = self.target();
        match target.as_bytes().first() {
            Some(b'/' | b'*') => target,
            _ => path_and_query_of(target),
        }
    }

    /// Returns the scheme of a target in absolute form, which clients send to proxies: `http` or `https` in any case.
    pub fn scheme(&self) -> Option<&'a str> {
        let target = self.target();
        authority(target.as_bytes())?;
        target.split_once("://").map(|(scheme, _)| scheme)
    }

    /// Returns the authority in the target, a host and maybe a port: that of a target in absolute form, or the whole
    /// target of `CONNECT`. The `Host` header is not considered: see [`host`](Self::host).
    pub fn authority(&self) -> Option<&'a str> {
        if self.bytes[self.head.target()].first() == Some(&b'/') {
            return None;
        }
        let target = self.target();
        if self.method() == "CONNECT" {
            return Some(target);
        }
        let authority = authority(target.as_bytes())?;
        str::from_utf8(authority).ok()
    }

    /// Returns the requested host, with the port if one is given. It comes from the target, or else from the `Host`
    /// header.
    pub fn host(&self) -> Option<&'a str> {
        self.authority().or_else(|| {
            // It is looked up for each request, and mostly the first line.
            let mut lines = self.headers().lines();
            let line = lines.find(|line| is_named(line.name(), b"host"))?;
            str::from_utf8(line.value()).ok()
        })
    }

    /// Returns the version.
    pub fn version(&self) -> Version {
        if self.head.has(HTTP10) {
            Version::Http10
        } else {
            Version::Http11
        }
    }

    /// Returns the headers, in order.
    pub fn headers(&self) -> Headers<'a> {
        let nominates = self.head.has(NOMINATES);
        Headers::new(&self.bytes[self.head.headers()], nominates)
    }

    /// Returns the value of the first header of that name, in any case, if the value is UTF-8.
    pub fn header(&self, name: &str) -> Option<&'a str> {
        self.headers()
            .get(name)
            .and_then(|value| str::from_utf8(value).ok())
    }

    /// Returns the whole body, without chunk framing. It is empty for a request of an
    /// [`HttpStreamCodec`](super::HttpStreamCodec), whose body follows in parts.
    #[inline]
    pub fn body(&self) -> &'a [u8] {
        &self.bytes[self.head.len()..]
    }

    /// Returns the trailers of a chunked body. They are not merged with the headers, which they could contradict.
    pub fn trailers(&self) -> Headers<'a> {
        Headers::trailers(self.trailers)
    }

    /// Returns true if the request has a body, even an empty one.
    pub fn has_body(&self) -> bool {
        self.head.framing != Framing::None
    }

    pub(super) fn framing(&self) -> Framing {
        self.head.framing
    }

    /// Returns the body's length in bytes, if the head announces it.
    pub fn content_length(&self) -> Option<u64> {
        match self.head.framing {
            Framing::Length(length) => Some(length),
            _ => None,
        }
    }

    /// Returns true if the client allows another request on this connection.
    pub fn keep_alive(&self) -> bool {
        !self.head.has(CLOSE)
    }

    /// Returns true if the client waits for a `100 Continue` before it sends the body.
    pub fn expects_continue(&self) -> bool {
        self.head.has(EXPECTS)
    }

    /// Returns true if the client accepts trailers behind a chunked body (RFC 9110, section 10.1.4).
    pub fn accepts_trailers(&self) -> bool {
        self.version() == Version::Http11 && self.headers().has_token("te", "trailers")
    }

    /// Returns true if the client asks to change to that protocol (RFC 9110, section 7.8).
    pub fn wants_upgrade(&self, protocol: &str) -> bool {
        let headers = self.headers();
        self.version() == Version::Http11
            && headers.has_token("connection", "upgrade")
            && headers.has_token("upgrade", protocol)
    }

    /// Returns an owned copy in the types of the `http` crate. Returns `None` if the crate, which is stricter about
    /// some characters, does not accept the target.
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
        // The parser has checked that these bytes are ASCII.
        str::from_utf8(&self.bytes[range]).unwrap_or_default()
    }
}

/// Returns the path and query of a target that begins with something else.
#[cold]
fn path_and_query_of(target: &str) -> &str {
    let Some(authority) = authority(target.as_bytes()) else {
        return "";
    };
    let begin = target.find("://").map_or(0, |scheme| scheme + 3) + authority.len();
    match target.get(begin..) {
        None | Some("") => "/",
        Some(rest) => rest,
    }
}

/// A copy of a request's head, for a request that is looked at again later.
#[cfg(feature = "gateway")]
pub(crate) struct KeptHead {
    bytes: Box<[u8]>,
    head: Head,
}

#[cfg(feature = "gateway")]
impl KeptHead {
    /// Copies the head of a request.
    pub(crate) fn of(request: &ServerRequest<'_>) -> Self {
        Self {
            bytes: request.bytes[..request.head.len()].into(),
            head: request.head,
        }
    }

    /// Returns the request, without its body.
    pub(crate) fn request(&self) -> ServerRequest<'_> {
        ServerRequest::new(&self.bytes, self.head, &[])
    }
}

impl fmt::Debug for ServerRequest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerRequest")
            .field("method", &self.method())
            .field("target", &self.target())
            .field("version", &self.version())
            .field("headers", &self.headers())
            .field("body", &self.body().len())
            .finish_non_exhaustive()
    }
}
