use std::fmt;

use bytes::Bytes;

use crate::buf::outbox::Outbox;
use crate::http::block::HeaderBlock;
use crate::http::check::{Checked, Names, check_headers, check_protocol, framing_header};
use crate::http::error::SendError;
use crate::http::fields::{Headers, is_target, is_token};
use crate::http::head::{check_target, is_host};
use crate::http::list::HeaderList;
use crate::http::response::Body;
use crate::http::write::{CODEC_LINES_MAX, Cursor, SMALL_BODY};

/// A request, to be sent with [`Conn::send`](crate::Conn::send).
///
/// The codec adds the framing of the body, and `Connection: close` if the connection closes. It refuses an invalid
/// request with a [`SendError`], so that only valid messages leave the connection.
///
/// ```
/// use epicycle::codec::encode_to_vec;
/// use epicycle::http::client::{ClientCodec, ClientRequest};
///
/// let request = ClientRequest::new("PUT", "example.org", "/items/7").header("Content-Type", "text/plain").body("seven");
/// let sent = encode_to_vec(&mut ClientCodec::default(), request)?;
/// assert_eq!(sent, b"PUT /items/7 HTTP/1.1\r\nHost: example.org\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nseven");
/// # Ok::<(), epicycle::codec::FrameError>(())
/// ```
#[derive(Clone)]
#[must_use = "nothing is sent until it is passed to `Conn::send`"]
pub struct ClientRequest<'a> {
    pub(super) method: &'a str,
    host: &'a str,
    target: &'a str,
    /// True if the three come from a received request, and so have been checked.
    pub(in crate::http) is_line_checked: bool,
    block: &'a [u8],
    block_names: Names,
    headers: HeaderList<'a>,
    pub(in crate::http) body: Body<'a>,
    pub(super) close: bool,
    pub(super) upgrade: Option<&'a str>,
    /// True if an [`End`](crate::http::End) follows in any case.
    pub(in crate::http) awaits_end: bool,
}

impl<'a> ClientRequest<'a> {
    /// Returns a request without a body.
    ///
    /// `host` is the host of the URI, with its port unless that is the scheme's default. `target` is usually a path
    /// with or without a query. A proxy gets a whole URI, `CONNECT` a host and a port, and `OPTIONS` may get `*` (RFC
    /// 9112, section 3.2). If the target begins with `?`, its path is `/`.
    pub fn new(method: &'a str, host: &'a str, target: &'a str) -> Self {
        Self {
            method,
            host,
            target,
            is_line_checked: false,
            block: &[],
            block_names: Names::default(),
            headers: HeaderList::new(),
            body: Body::None,
            close: false,
            upgrade: None,
            awaits_end: false,
        }
    }

    /// Returns a `GET`.
    pub fn get(host: &'a str, target: &'a str) -> Self {
        Self::new("GET", host, target)
    }

    /// Returns a `POST` with a body.
    pub fn post(host: &'a str, target: &'a str, body: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        Self::new("POST", host, target).body(body)
    }

    /// Sets the method.
    pub fn method(mut self, method: &'a str) -> Self {
        self.method = method;
        self.is_line_checked = false;
        self
    }

    /// Sets the host, with its port unless that is the scheme's default.
    pub fn host(mut self, host: &'a str) -> Self {
        self.host = host;
        self.is_line_checked = false;
        self
    }

    /// Sets the target. See [`new`](Self::new).
    pub fn target(mut self, target: &'a str) -> Self {
        self.target = target;
        self.is_line_checked = false;
        self
    }

    /// Notes that method, host and target come from a received request, which was checked. The host must not be empty.
    #[cfg(feature = "gateway")]
    pub(crate) fn received(mut self) -> Self {
        self.is_line_checked = true;
        self
    }

    /// Appends a header. The codec itself writes `Host`, `Upgrade` and the framing headers. With a `TE` header, it
    /// sends `Connection: TE` as well, which that header requires (RFC 9110, section 10.1.4).
    pub fn header(mut self, name: &'a str, value: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        self.headers.push((name, value.as_ref()));
        self
    }

    /// Adds a block of headers that were checked before. They precede the others. A second block replaces the first.
    pub fn block(mut self, block: &'a HeaderBlock) -> Self {
        self.block = block.lines();
        self.block_names = block.names();
        self
    }

    /// Sets the body.
    pub fn body(mut self, body: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        self.body = Body::Bytes(body.as_ref());
        self
    }

    /// Sets a shared body. A large one is not copied.
    pub fn shared_body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = Body::Shared(body.into());
        self
    }

    /// Announces a body of `len` bytes. Send it as [`Chunk`](crate::http::Chunk)s before another request.
    pub fn sized(mut self, len: u64) -> Self {
        self.body = Body::Sized(len);
        self
    }

    /// Announces a body of `len` bytes that the handler writes past the codec, with
    /// [`Conn::send_file`](crate::Conn::send_file) for example. It must write exactly `len` bytes. An
    /// [`End`](crate::http::End) follows; it is refused while the body is shorter or longer.
    pub fn file(mut self, len: u64) -> Self {
        self.body = Body::Elsewhere(len);
        self
    }

    /// Announces a body of unknown length. Send it as [`Chunk`](crate::http::Chunk)s until an
    /// [`End`](crate::http::End). HTTP/1.0 servers do not understand it.
    pub fn streamed(mut self) -> Self {
        self.body = Body::Stream;
        self
    }

    /// Asks to change to another protocol on this connection. No other request can be sent before the response to this
    /// one. [`ClientResponse::is_upgrade`](super::ClientResponse::is_upgrade) tells if the server agreed.
    pub fn upgrade(mut self, protocol: &'a str) -> Self {
        self.upgrade = Some(protocol);
        self
    }

    /// Closes the connection after the response to this request, its last one.
    pub fn close(mut self) -> Self {
        self.close = true;
        self
    }

    /// Checks the request. Returns the number of bytes that the head takes, and the headers that it has.
    fn check(&self) -> Result<Checked, SendError> {
        if !self.is_line_checked {
            self.check_line()?;
        }
        let mut checked = check_headers(self.headers.as_slice())?;
        let names = checked.names.or(self.block_names);
        // A protocol change must be requested with `upgrade`, so that the codec knows that the server may change the
        // protocol.
        if names.host || names.upgrade {
            return Err(self.refuse_own_header());
        }
        if self.upgrade.is_some() && matches!(self.method, "HEAD" | "CONNECT") {
            let name = "Upgrade".to_owned();
            return Err(SendError::Header { name });
        }
        let protocol = self.upgrade.map_or(Ok(0), check_protocol)?;
        let line = self.method.len() + self.target.len() + self.host.len();
        checked.names = names;
        checked.len += self.block.len() + protocol + line;
        Ok(checked)
    }

    /// Returns the error for a header that the codec writes itself.
    #[cold]
    fn refuse_own_header(&self) -> SendError {
        let given = self.headers.as_slice().iter().map(|(name, _)| *name);
        let in_block = Headers::new(self.block, false).map(|(name, _)| name);
        let is_own =
            |name: &&str| name.eq_ignore_ascii_case("host") || name.eq_ignore_ascii_case("upgrade");
        let name = in_block.chain(given).find(is_own);
        framing_header(name.unwrap_or_default().as_bytes())
    }

    fn check_line(&self) -> Result<(), SendError> {
        // The path of such a target is written.
        let is_valid = |target: &[u8]| match target {
            [b'?', ..] => self.method != "CONNECT" && is_target(target),
            _ => check_target(self.method, target).is_ok(),
        };
        if !is_host(self.host.as_bytes()) {
            return Err(SendError::Host);
        }
        match is_token(self.method.as_bytes()) && is_valid(self.target.as_bytes()) {
            true => Ok(()),
            false => Err(SendError::RequestLine),
        }
    }

    /// Appends the request, without the part of its body that follows later.
    pub(super) fn write(&self, dst: &mut Outbox<'_>) -> Result<(), SendError> {
        let Checked { len: room, names } = self.check()?;
        let small = match &self.body {
            Body::Bytes(body) if body.len() <= SMALL_BODY => *body,
            _ => &[],
        };
        dst.put_with(CODEC_LINES_MAX + room + small.len(), |room| {
            let mut head = Cursor { room, len: 0 };
            let root = if self.target.starts_with('?') {
                "/"
            } else {
                ""
            };
            for part in [
                self.method,
                " ",
                root,
                self.target,
                " HTTP/1.1\r\nHost: ",
                self.host,
            ] {
                head.put(part.as_bytes());
            }
            head.put(b"\r\n");
            let mut before: &[u8] = b"Connection: ";
            for (is_named, option) in [
                (self.close, &b"close"[..]),
                (self.upgrade.is_some(), b"Upgrade"),
                (names.te, b"TE"),
            ] {
                if is_named {
                    head.put(before);
                    head.put(option);
                    before = b", ";
                }
            }
            if self.close || names.te || self.upgrade.is_some() {
                head.put(b"\r\n");
            }
            if let Some(protocol) = self.upgrade {
                head.put(b"Upgrade: ");
                head.put(protocol.as_bytes());
                head.put(b"\r\n");
            }
            head.put(self.block);
            head.headers(self.headers.as_slice());
            match self.length() {
                Length::Unannounced => {}
                Length::Known(len) => {
                    head.put(b"Content-Length: ");
                    head.put(itoa::Buffer::new().format(len).as_bytes());
                    head.put(b"\r\n");
                }
                Length::Chunked => head.put(b"Transfer-Encoding: chunked\r\n"),
            }
            head.put(b"\r\n");
            head.put(small);
            head.len
        });
        match &self.body {
            Body::Bytes(body) if body.len() > SMALL_BODY => dst.put(body),
            Body::Shared(body) => dst.put_shared(body.clone()),
            _ => {}
        }
        Ok(())
    }

    fn length(&self) -> Length {
        match &self.body {
            // For methods that usually have a body, its absence is announced (RFC 9110, section 8.6).
            Body::None if matches!(self.method, "POST" | "PUT" | "PATCH") => Length::Known(0),
            Body::None | Body::Absent(_) => Length::Unannounced,
            Body::Bytes(body) => Length::Known(body.len() as u64),
            Body::Shared(body) => Length::Known(body.len() as u64),
            Body::Sized(len) | Body::Elsewhere(len) => Length::Known(*len),
            Body::Stream => Length::Chunked,
        }
    }
}

/// The body length that the head announces.
enum Length {
    Unannounced,
    Known(u64),
    Chunked,
}

impl fmt::Debug for ClientRequest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headers = self.headers.as_slice().iter();
        let headers: Vec<_> = headers
            .map(|(name, value)| (*name, String::from_utf8_lossy(value)))
            .collect();
        f.debug_struct("ClientRequest")
            .field("method", &self.method)
            .field("host", &self.host)
            .field("target", &self.target)
            .field("block", &String::from_utf8_lossy(self.block))
            .field("headers", &headers)
            .field("body", &self.body)
            .finish_non_exhaustive()
    }
}
