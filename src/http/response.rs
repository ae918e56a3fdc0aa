use std::fmt;

use ::http::StatusCode;
use bytes::Bytes;

use super::block::HeaderBlock;
use super::check::Names;
use super::list::HeaderList;

/// An answer, to be sent with [`Conn::send`](crate::Conn::send).
///
/// The codec adds the `Date` unless the answer has one, the framing of the body, and `Connection: close` if the
/// connection closes. It omits the body in answer to HEAD. It refuses an invalid answer with a
/// [`SendError`](super::SendError), so that only valid messages leave the connection.
///
/// ```
/// use epicycle::codec::encode_to_vec;
/// # use epicycle::codec::{Codec, Decoded};
/// use epicycle::http::{HttpCodec, ServerResponse};
///
/// # let mut codec = HttpCodec::default();
/// # codec.decode(&mut *b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec())?;
/// let answer = ServerResponse::ok().header("Content-Type", "text/plain").body("hello");
/// # let sent = encode_to_vec(&mut codec, answer)?;
/// # let sent = String::from_utf8(sent).unwrap();
/// # assert!(sent.starts_with("HTTP/1.1 200 OK\r\n"), "{sent}");
/// # assert!(sent.ends_with("Content-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello"), "{sent}");
/// # Ok::<(), epicycle::codec::FrameError>(())
/// ```
#[derive(Clone)]
#[must_use = "nothing is sent until it is passed to `Conn::send`"]
pub struct ServerResponse<'a> {
    pub(super) status: StatusCode,
    /// `None` for the standard one of the status.
    pub(super) reason: Option<&'a [u8]>,
    pub(super) block: &'a [u8],
    pub(super) block_names: Names,
    pub(super) headers: HeaderList<'a>,
    pub(super) body: Body<'a>,
    pub(super) close: bool,
    pub(super) upgrade: Option<&'a str>,
    /// True if an [`End`] follows in any case.
    pub(super) awaits_end: bool,
}

/// The body of a message to be sent.
#[derive(Clone, Debug)]
pub(super) enum Body<'a> {
    None,
    /// There is no body, but its length may be announced: in answer to HEAD, and with a 304.
    Absent(Option<u64>),
    Bytes(&'a [u8]),
    Shared(Bytes),
    /// A body of this many bytes, which the handler sends as [`Chunk`]s.
    Sized(u64),
    /// A body of this many bytes, which the handler writes past the codec.
    Elsewhere(u64),
    /// A body of unknown length: chunks until an [`End`].
    Stream,
}

impl<'a> ServerResponse<'a> {
    /// Returns an answer with that status and without a body.
    ///
    /// With an informational status (1xx) it is an interim response, such as `103 Early Hints`. The answer itself
    /// follows. HTTP/1.0 clients do not get it. A 101 needs [`upgrade`](Self::upgrade).
    #[inline]
    pub fn new(status: StatusCode) -> Self {
        Self {
            status,
            reason: None,
            block: &[],
            block_names: Names::default(),
            headers: HeaderList::new(),
            body: Body::None,
            close: false,
            upgrade: None,
            awaits_end: false,
        }
    }

    /// Returns a `200 OK`.
    #[inline]
    pub fn ok() -> Self {
        Self::new(StatusCode::OK)
    }

    /// Returns an answer of plain text in UTF-8.
    pub fn text(status: StatusCode, text: &'a str) -> Self {
        Self::new(status)
            .header("Content-Type", "text/plain; charset=utf-8")
            .body(text)
    }

    /// Returns an answer of JSON.
    pub fn json(status: StatusCode, json: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        Self::new(status)
            .header("Content-Type", "application/json")
            .body(json)
    }

    /// Returns a `101 Switching Protocols`: after this answer the connection uses the named protocol. The codec reads
    /// no further input as HTTP.
    pub fn upgrade(protocol: &'a str) -> Self {
        Self {
            upgrade: Some(protocol),
            ..Self::new(StatusCode::SWITCHING_PROTOCOLS)
        }
    }

    /// Replaces the status, and the reason phrase by the standard one: for a proxy that changes a
    /// [relayed](Self::relayed) response.
    pub fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self.reason = None;
        self
    }

    /// Sets the reason phrase, a text for people. Default: the standard one of the status.
    pub fn reason(mut self, reason: &'a str) -> Self {
        self.reason = Some(reason.as_bytes());
        self
    }

    /// Appends a header. With an `Upgrade` header, which offers another protocol to the client, the codec sends
    /// `Connection: Upgrade` as well.
    #[inline]
    pub fn header(mut self, name: &'a str, value: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        self.headers.push((name, value.as_ref()));
        self
    }

    /// Adds a block of headers that were checked before. They precede the others. A second block replaces the first.
    #[inline]
    pub fn block(mut self, block: &'a HeaderBlock) -> Self {
        self.block = block.lines();
        self.block_names = block.names();
        self
    }

    /// Sets the body.
    #[inline]
    pub fn body(mut self, body: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        self.body = Body::Bytes(body.as_ref());
        self
    }

    /// Sets a shared body. A large one is not copied.
    pub fn shared_body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = Body::Shared(body.into());
        self
    }

    /// Announces a body of `len` bytes, which the handler sends as [`Chunk`]s. In answer to HEAD they are dropped, and
    /// an [`End`] may replace them.
    pub fn sized(mut self, len: u64) -> Self {
        self.body = Body::Sized(len);
        self
    }

    /// Announces a body of `len` bytes that the handler writes past the codec, with
    /// [`Conn::send_file`](crate::Conn::send_file) for example. It must write exactly `len` bytes, or none in answer to
    /// HEAD. An [`End`] follows.
    ///
    /// If the body is longer or shorter, the `End` is refused with a [`SendError`](super::SendError): the client could
    /// not tell where the next answer begins. The connection must then close. It does if the handler returns that error
    /// as its [`Action`](crate::Action).
    ///
    /// ```
    /// # use epicycle::http::{End, HttpCodec, ServerResponse};
    /// # use epicycle::{Conn, EventHandler, WriteError};
    /// # use std::fs::File;
    /// fn send<H>(conn: &mut Conn<'_, H>, file: File, len: u64, is_head: bool) -> Result<(), WriteError>
    /// where
    ///     H: EventHandler<Codec = HttpCodec>,
    /// {
    ///     conn.send(ServerResponse::ok().file(len))?;
    ///     if !is_head {
    ///         conn.send_file(file, ..len)?;
    ///     }
    ///     conn.send(End)
    /// }
    /// ```
    pub fn file(mut self, len: u64) -> Self {
        self.body = Body::Elsewhere(len);
        self
    }

    /// Announces a body of unknown length, which the handler sends as [`Chunk`]s until an [`End`]. In answer to HEAD
    /// the chunks are dropped; the end must still be sent.
    ///
    /// An HTTP/1.0 client gets the body without chunk framing, up to the end of the connection.
    pub fn streamed(mut self) -> Self {
        self.body = Body::Stream;
        self
    }

    /// Closes the connection after this answer.
    pub fn close(mut self) -> Self {
        self.close = true;
        self
    }

    /// Returns the status.
    pub fn status(&self) -> StatusCode {
        self.status
    }
}

impl fmt::Debug for ServerResponse<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headers = self.headers.as_slice().iter();
        let headers: Vec<_> = headers
            .map(|(name, value)| (*name, String::from_utf8_lossy(value)))
            .collect();
        f.debug_struct("ServerResponse")
            .field("status", &self.status)
            .field("block", &String::from_utf8_lossy(self.block))
            .field("headers", &headers)
            .field("body", &self.body)
            .finish_non_exhaustive()
    }
}

/// A part of a body that was announced as [streamed](ServerResponse::streamed) or [sized](ServerResponse::sized).
///
/// If the connection cannot take more for now, send the next part in [`on_drain`](crate::EventHandler::on_drain).
#[derive(Clone, Copy, Debug)]
#[must_use = "nothing is sent until it is passed to `Conn::send`"]
pub struct Chunk<'a>(pub &'a [u8]);

/// The end of a [streamed](ServerResponse::streamed) body, of a [file](ServerResponse::file) or of a
/// [relayed](ServerResponse::relayed) message. In answer to HEAD it may end any announced body.
#[derive(Clone, Copy, Debug, Default)]
#[must_use = "nothing is sent until it is passed to `Conn::send`"]
pub struct End;

/// The end of a [streamed](ServerResponse::streamed) body, with trailers. An HTTP/1.0 client does not get them, and
/// neither does one that gets a body of known length or none.
///
/// Servers should send trailers only to clients that [accept](super::ServerRequest::accepts_trailers) them, or that can
/// do without (RFC 9110, section 6.5.1).
///
/// ```
/// # use epicycle::codec::{Codec, Decoded, encode_to_vec};
/// use epicycle::http::{Chunk, HeaderBlock, HttpCodec, ServerResponse, Trailers};
///
/// # let mut codec = HttpCodec::default();
/// # codec.decode(&mut *b"GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n".to_vec())?;
/// # encode_to_vec(&mut codec, ServerResponse::ok().streamed())?;
/// # encode_to_vec(&mut codec, Chunk(b"hello"))?;
/// let trailers = HeaderBlock::new().with("Checksum", "5d41402a")?;
/// # let sent =
/// encode_to_vec(&mut codec, Trailers(&trailers))?;
/// # assert_eq!(sent, b"0\r\nChecksum: 5d41402a\r\n\r\n");
/// # Ok::<(), epicycle::codec::FrameError>(())
/// ```
#[derive(Clone, Copy, Debug)]
#[must_use = "nothing is sent until it is passed to `Conn::send`"]
pub struct Trailers<'a>(pub &'a HeaderBlock);

/// A `100 Continue`, for a codec with [`manual_continue`](super::HttpStreamCodec::manual_continue).
#[derive(Clone, Copy, Debug)]
#[must_use = "nothing is sent until it is passed to `Conn::send`"]
pub struct Continue;
