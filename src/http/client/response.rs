#[cfg(feature = "gateway")]
use std::ops::Range;
use std::{fmt, str};

use ::http::StatusCode;
use bytes::Bytes;

use super::head::Head;
use crate::http::fields::Headers;
use crate::http::head::Version;
use crate::http::parts::Extent;

/// A response, borrowed from the connection's input.
///
/// ```
/// use epicycle::codec::{Codec, Decoded, encode_to_vec};
/// use epicycle::http::client::{ClientCodec, ClientRequest};
///
/// let mut codec = ClientCodec::default();
/// encode_to_vec(&mut codec, ClientRequest::get("a", "/"))?;
/// let mut input = *b"HTTP/1.1 404 Not Found\r\nServer: x\r\nContent-Length: 5\r\n\r\nnope\n";
/// let Decoded::Frame { frame: response, .. } = codec.decode(&mut input)? else {
///     panic!("it is complete");
/// };
/// assert_eq!((response.status().as_u16(), response.reason()), (404, "Not Found"));
/// assert_eq!(response.header("server"), Some("x"));
/// assert_eq!(response.body(), b"nope\n");
/// # Ok::<(), epicycle::codec::FrameError>(())
/// ```
#[derive(Clone, Copy)]
pub struct ClientResponse<'a> {
    /// The bytes from the status line to the empty line.
    bytes: &'a [u8],
    head: Head,
    body: &'a [u8],
    trailers: &'a [u8],
}

impl<'a> ClientResponse<'a> {
    pub(super) fn new(bytes: &'a [u8], head: Head, body: &'a [u8], trailers: &'a [u8]) -> Self {
        Self {
            bytes,
            head,
            body,
            trailers,
        }
    }

    /// Returns the status.
    pub fn status(&self) -> StatusCode {
        self.head.status
    }

    /// Returns the server's reason phrase for the status: a text for people, often empty.
    pub fn reason(&self) -> &'a str {
        str::from_utf8(self.reason_bytes()).unwrap_or_default()
    }

    pub(in crate::http) fn reason_bytes(&self) -> &'a [u8] {
        let line = self.bytes.get(..self.head.headers().start - 2);
        let reason = line.and_then(|line| line.get("HTTP/1.1 200 ".len()..));
        reason.unwrap_or_default()
    }

    pub(in crate::http) fn extent(&self) -> Extent {
        self.head.extent
    }

    /// Returns the version.
    pub fn version(&self) -> Version {
        self.head.version
    }

    /// Returns true if the version was sent as 1.0 or 1.1. A later minor version is read as 1.1.
    #[cfg(feature = "gateway")]
    pub(crate) fn has_known_version(&self) -> bool {
        self.bytes.starts_with(b"HTTP/1.0") || self.bytes.starts_with(b"HTTP/1.1")
    }

    /// Returns the headers, in order.
    pub fn headers(&self) -> Headers<'a> {
        Headers::new(&self.bytes[self.head.headers()], self.head.nominates)
    }

    /// Calls `keep` for each stretch of header lines that a proxy passes on. Returns false if they have to be looked for.
    #[cfg(feature = "gateway")]
    #[inline]
    pub(in crate::http) fn each_end_to_end(&self, mut keep: impl FnMut(&'a [u8])) -> bool {
        let Range { start, end } = self.head.headers();
        let found = |range| keep(&self.bytes[range]);
        !self.head.nominates && self.head.hop_lines.each_other(start, end, found)
    }

    /// Returns true if it has a `Date`.
    #[cfg(feature = "gateway")]
    pub(in crate::http) fn has_date(&self) -> bool {
        self.head.hop_lines.has_date
    }

    /// Returns the value of the first header of that name, in any case, if the value is UTF-8.
    pub fn header(&self, name: &str) -> Option<&'a str> {
        let value = self.headers().get(name)?;
        str::from_utf8(value).ok()
    }

    /// Returns the whole body, without chunk framing. It is empty for a response of a
    /// [`StreamCodec`](super::StreamCodec), whose body follows in parts.
    pub fn body(&self) -> &'a [u8] {
        self.body
    }

    /// Returns the trailers of a chunked body.
    pub fn trailers(&self) -> Headers<'a> {
        Headers::trailers(self.trailers)
    }

    /// Returns the body's length in bytes, if the head announces it. The response to HEAD and a 304 announce the length
    /// that the body would have.
    pub fn content_length(&self) -> Option<u64> {
        self.head.length
    }

    /// Returns true if the response has a body, even an empty one.
    pub fn has_body(&self) -> bool {
        self.head.extent != Extent::None
    }

    /// Returns true if the connection can be used for another request: the server allows it, the body does not end with
    /// the stream, and no input has arrived after the response. Before the end of a response in parts, this is only the
    /// server's intention: ask [`StreamCodec::is_reusable`](super::StreamCodec::is_reusable) at its end.
    pub fn keep_alive(&self) -> bool {
        self.head.keep_alive
    }

    /// Returns true if the connection uses another protocol from here on: the server agreed to an
    /// [upgrade](super::ClientRequest::upgrade), or a `CONNECT` succeeded.
    pub fn is_upgrade(&self) -> bool {
        self.head.upgrades
    }

    /// Returns an owned copy in the types of the `http` crate. Returns `None` if the crate does not accept one of the
    /// headers.
    pub fn to_http(&self) -> Option<::http::Response<Bytes>> {
        let mut response =
            ::http::Response::builder()
                .status(self.status())
                .version(match self.version() {
                    Version::Http10 => ::http::Version::HTTP_10,
                    Version::Http11 => ::http::Version::HTTP_11,
                });
        for (name, value) in self.headers() {
            response = response.header(name, value);
        }
        response.body(Bytes::copy_from_slice(self.body)).ok()
    }
}

impl fmt::Debug for ClientResponse<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientResponse")
            .field("status", &self.status())
            .field("version", &self.version())
            .field("headers", &self.headers())
            .field("body", &self.body.len())
            .finish_non_exhaustive()
    }
}
