use ::http::StatusCode;
use bytes::Bytes;

use super::check::{Names, check_headers};
use super::error::SendError;
use super::exchange::{AnswerState, Exchange};
use super::prefix::ResponsePrefix;
use super::response::{Body, ServerResponse};
use super::write::{self, Cursor};
use crate::buf::outbox::Outbox;

/// An answer that is always the same, except for its date. It is checked and encoded once.
///
/// Use it for pages that do not change, health checks and redirects. [`Conn::send`](crate::Conn::send) takes a
/// reference to it.
///
/// ```
/// use epicycle::http::{HttpCodec, Prepared, ServerRequest, ServerResponse};
/// use epicycle::{Action, Conn, ConnInfo, EventHandler};
///
/// struct Hello {
///     answer: Prepared,
/// }
///
/// impl EventHandler for Hello {
///     # type Codec = HttpCodec;
///     # type Session = ();
///     # fn codec(&mut self, _: &ConnInfo<'_>) -> HttpCodec { HttpCodec::default() }
///     # fn on_open(&mut self, _conn: &mut Conn<'_, Self>) -> Option<()> { Some(()) }
///     fn react(&mut self, conn: &mut Conn<'_, Self>, (): &mut (), _: ServerRequest<'_>) -> Action {
///         conn.send(&self.answer).into()
///     }
/// }
///
/// let answer = Prepared::new(ServerResponse::ok().header("Content-Type", "text/plain").body("Hello"))?;
/// # epicycle::Server::bind("tcp://127.0.0.1:0").start(move |_| Hello { answer: answer.clone() }).unwrap();
/// # Ok::<(), epicycle::http::SendError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Prepared {
    status: StatusCode,
    reason: Option<Box<[u8]>>,
    /// The encoded header lines.
    headers: Vec<u8>,
    names: Names,
    body: Bytes,
    close: bool,
    /// All bytes after the status line and the date, for an answer without special needs.
    usual: Vec<u8>,
}

impl Prepared {
    /// Encodes an answer for later use. The answer must have a complete body, or none.
    ///
    /// # Errors
    ///
    /// Returns the errors of sending it, and [`SendError::Bodiless`] for a status without a body and for an answer
    /// whose body is to follow.
    pub fn new(response: ServerResponse<'_>) -> Result<Self, SendError> {
        let status = response.status;
        let body = match response.body {
            _ if write::is_bodiless(status) => return Err(SendError::Bodiless { status }),
            Body::None => Bytes::new(),
            Body::Bytes(body) => Bytes::copy_from_slice(body),
            Body::Shared(body) => body,
            _ => return Err(SendError::Bodiless { status }),
        };
        let given = response.headers.as_slice();
        let names = check_headers(given)?.names.or(response.block_names);
        if let Some(reason) = response.reason {
            write::check_reason(reason)?;
        }
        let mut headers = response.block.to_vec();
        for (name, value) in given {
            for part in [name.as_bytes(), b": ", value, b"\r\n"] {
                headers.extend_from_slice(part);
            }
        }
        let mut usual = Vec::new();
        let is_usual = status == StatusCode::OK
            && response.reason.is_none()
            && !response.close
            && !names.upgrade
            && !names.date;
        if is_usual && body.len() <= write::SMALL_BODY {
            usual.extend_from_slice(&headers);
            let length = format!("Content-Length: {}\r\n\r\n", body.len());
            usual.extend_from_slice(length.as_bytes());
            usual.extend_from_slice(&body);
        }
        Ok(Self {
            status,
            reason: response.reason.map(Box::from),
            headers,
            names,
            body,
            close: response.close,
            usual,
        })
    }

    /// Returns all bytes after the cached first lines, if the answer can be sent unchanged.
    #[inline]
    pub(super) fn usual(&self) -> Option<&[u8]> {
        (!self.usual.is_empty()).then_some(&self.usual)
    }

    /// Returns the answer, to be encoded again.
    pub(super) fn response(&self) -> ServerResponse<'_> {
        let mut response = ServerResponse::new(self.status).shared_body(self.body.clone());
        response.reason = self.reason.as_deref();
        response.block = &self.headers;
        response.block_names = self.names;
        response.close = self.close;
        response
    }
}

/// Writes a prepared answer.
#[inline(always)]
pub(super) fn write_prepared(
    exchange: &mut Exchange,
    prepared: &Prepared,
    dst: &mut Outbox<'_>,
) -> Result<(), SendError> {
    exchange.may_begin()?;
    let usual = prepared.usual().filter(|_| exchange.is_usual());
    let Some(usual) = usual else {
        return write_anew(exchange, prepared, dst);
    };
    let prefix = ResponsePrefix::at(dst.unix_time());
    dst.put_with(prefix.ok().len() + usual.len(), |room| {
        let mut answer = Cursor { room, len: 0 };
        answer.put(prefix.ok());
        answer.put(usual);
        answer.len
    });
    exchange.answered(AnswerState::None);
    Ok(())
}

/// Writes a prepared answer to a request that needs a special head or body.
#[inline(never)]
fn write_anew(
    exchange: &mut Exchange,
    prepared: &Prepared,
    dst: &mut Outbox<'_>,
) -> Result<(), SendError> {
    write::response(exchange, &prepared.response(), dst)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::codec::{Codec, Decoded, encode_to_vec};
    use crate::http::HttpCodec;

    #[test]
    fn it_is_sent_as_it_would_be_written_anew() {
        let large = "x".repeat(2 * write::SMALL_BODY);
        let answers = [
            ServerResponse::ok(),
            ServerResponse::ok().header("A", "b").body("hello"),
            ServerResponse::ok().header("Upgrade", "h2c").body("hello"),
            ServerResponse::ok().header("Date", "today").body("hello"),
            ServerResponse::ok().reason("Fine").body("hello"),
            ServerResponse::ok().body("hello").close(),
            ServerResponse::ok().body(&large),
            ServerResponse::text(StatusCode::NOT_FOUND, "not here"),
        ];
        let requests = [
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
            "GET / HTTP/1.0\r\n\r\n",
            "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        ];
        for answer in answers {
            let prepared = Prepared::new(answer.clone()).expect("it can be prepared");
            for request in requests {
                let mut anew = asked(request);
                let mut again = asked(request);
                let anew_bytes = encode_to_vec(&mut anew, answer.clone()).expect("it is valid");
                let bytes = encode_to_vec(&mut again, &prepared).expect("it is valid");
                let text = |bytes| String::from_utf8(bytes).expect("text");
                assert_eq!(
                    without_date(&text(bytes)),
                    without_date(&text(anew_bytes)),
                    "{request}"
                );
                assert_eq!(again.stage(), anew.stage());
            }
        }
    }

    #[test]
    fn what_is_to_follow_cannot_be_prepared() {
        for answer in [
            ServerResponse::ok().sized(5),
            ServerResponse::ok().streamed(),
            ServerResponse::new(StatusCode::NO_CONTENT),
            ServerResponse::upgrade("websocket"),
        ] {
            let error = Prepared::new(answer).err();
            assert!(matches!(error, Some(SendError::Bodiless { .. })));
        }
        let error = Prepared::new(ServerResponse::ok().header("A", "b\r\nC: d")).err();
        assert!(matches!(error, Some(SendError::Header { .. })));
    }

    fn asked(request: &str) -> HttpCodec {
        let mut codec = HttpCodec::default();
        let found = codec
            .decode(&mut request.as_bytes().to_vec())
            .map(|found| matches!(found, Decoded::Frame { .. }));
        assert!(found.expect("it is valid"));
        codec
    }

    fn without_date(answer: &str) -> Vec<&str> {
        let lines = answer.split("\r\n");
        lines.filter(|line| !line.starts_with("Date: ")).collect()
    }
}
