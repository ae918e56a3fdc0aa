//! The server's answer to the opening handshake (RFC 6455, section 4.2).

use std::borrow::Cow;
use std::fmt;

use super::deflate::{Agreed, DeflateOptions, EXTENSIONS};
use super::extension;
use super::key::{self, AcceptKey};
use crate::error::error_messages;
use crate::http::lines::tokens;
use crate::http::{Headers, ServerRequest, ServerResponse, StatusCode};

/// Checks that a request opens a WebSocket. Returns the answer to it.
///
/// ```
/// use epicycle::ws::{self, Incoming, ServerCodec};
/// use epicycle::{Action, Conn, ConnInfo, EventHandler, Frame, Server};
///
/// struct Chat;
///
/// impl EventHandler for Chat {
///     type Codec = ServerCodec;
///     type Session = ();
///     # fn codec(&mut self, _: &ConnInfo<'_>) -> ServerCodec { ServerCodec::default() }
///     # fn on_open(&mut self, _conn: &mut Conn<'_, Self>) -> Option<()> { Some(()) }
///
///     fn react(&mut self, conn: &mut Conn<'_, Self>, (): &mut (), frame: Frame<'_, Self>) -> Action {
///         match frame {
///             Incoming::Request(request) => {
///                 let answer = ws::accept(&request)
///                     .and_then(|accept| accept.origins(["https://chat.example"]))
///                     .map(|accept| accept.protocol(["chat.v2", "chat.v1"]));
///                 conn.send(answer).into()
///             }
///             Incoming::Message(message) => conn.send(message).into(),
///             Incoming::Pong(_) | Incoming::Closed(_) => Action::Continue,
///         }
///     }
/// }
/// # let running = Server::bind("tcp://127.0.0.1:0").start(|_| Chat)?;
/// # Ok::<(), epicycle::Error>(())
/// ```
///
/// # Errors
///
/// Returns a [`Refusal`] if the request opens no WebSocket. Send it as the answer.
pub fn accept<'a>(request: &ServerRequest<'a>) -> Result<Accept<'a>, Refusal> {
    let headers = request.headers();
    if request.method() != "GET" || !request.wants_upgrade("websocket") {
        return Err(Refusal::NoUpgrade);
    }
    // `Content-Length: 0` means no body.
    if request.has_body() && request.content_length() != Some(0) {
        return Err(Refusal::Body);
    }
    if only(headers, "sec-websocket-version") != Some(b"13") {
        return Err(Refusal::Version);
    }
    if !are_extensions(headers) {
        return Err(Refusal::Extensions);
    }
    match only(headers, "sec-websocket-key") {
        Some(key) if key::is_valid(key) => Ok(Accept {
            key: key::answer(key),
            request: Some(headers),
            protocol: None,
            deflate: None,
            headers: Vec::new(),
        }),
        _ => Err(Refusal::Key),
    }
}

/// The answer that opens a WebSocket. [Send](crate::Conn::send) it on the connection of a
/// [`ServerCodec`](super::ServerCodec).
#[derive(Clone)]
#[must_use = "the WebSocket opens when it is sent"]
pub struct Accept<'a> {
    key: AcceptKey,
    /// The headers of the request, while it is borrowed.
    request: Option<Headers<'a>>,
    protocol: Option<Cow<'a, str>>,
    deflate: Option<Agreed>,
    headers: Vec<(Cow<'a, str>, Cow<'a, [u8]>)>,
}

impl<'a> Accept<'a> {
    /// Chooses a sub-protocol: the first of `supported` that the client offers. If there is none, the answer names no
    /// sub-protocol, and the client may close. [`chosen_protocol`](Self::chosen_protocol) returns the choice.
    pub fn protocol<P: AsRef<str>>(mut self, supported: impl IntoIterator<Item = P>) -> Self {
        let Some(headers) = self.request else {
            return self;
        };
        let offered = || list(headers, "sec-websocket-protocol");
        let mut supported = supported.into_iter();
        let chosen = supported.find_map(|ours| offered().find(|theirs| *theirs == ours.as_ref()));
        self.protocol = chosen.map(Cow::Borrowed);
        self
    }

    /// Returns the chosen sub-protocol.
    pub fn chosen_protocol(&self) -> Option<&str> {
        self.protocol.as_deref()
    }

    /// Accepts only these origins, such as `https://example.org`. Pages of other origins then cannot use the visitor's
    /// cookies here (RFC 6455, section 10.2). A client that is not a browser sends no origin, and is accepted.
    ///
    /// # Errors
    ///
    /// Returns [`Refusal::Origin`] for any other origin.
    pub fn origins<O: AsRef<str>>(
        self,
        allowed: impl IntoIterator<Item = O>,
    ) -> Result<Self, Refusal> {
        let mut origins = self
            .request
            .into_iter()
            .flat_map(|headers| headers.get_all("origin"));
        let Some(origin) = origins.next() else {
            return Ok(self);
        };
        let mut allowed = allowed.into_iter();
        let is_allowed =
            allowed.any(|allowed| allowed.as_ref().as_bytes().eq_ignore_ascii_case(origin));
        if is_allowed && origins.next().is_none() {
            return Ok(self);
        }
        Err(Refusal::Origin)
    }

    /// Compresses messages if the client offers it.
    pub fn deflate(mut self, options: DeflateOptions) -> Self {
        let Some(headers) = self.request else {
            return self;
        };
        let mut offers = headers.get_all(EXTENSIONS).filter_map(extension::parse);
        self.deflate = offers.find_map(|offers| options.accept(&offers));
        self
    }

    /// Returns true if messages will be compressed.
    pub fn is_compressed(&self) -> bool {
        self.deflate.is_some()
    }

    /// Adds a header to the answer, such as a cookie.
    pub fn header(mut self, name: &'a str, value: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        self.headers.push((name.into(), value.as_ref().into()));
        self
    }

    /// Returns a copy that does not borrow the request, to be sent later. Choose among the client's offers before.
    pub fn into_owned(self) -> Accept<'static> {
        let headers = self.headers.into_iter();
        Accept {
            key: self.key,
            request: None,
            protocol: self
                .protocol
                .map(|protocol| Cow::Owned(protocol.into_owned())),
            deflate: self.deflate,
            headers: headers
                .map(|(name, value)| (name.into_owned().into(), value.into_owned().into()))
                .collect(),
        }
    }

    pub(super) fn agreed(&self) -> Option<Agreed> {
        self.deflate
    }

    /// Builds the response and passes it to `send`.
    pub(super) fn respond<R>(&self, send: impl FnOnce(ServerResponse<'_>) -> R) -> R {
        let extensions = self.deflate.map(|agreed| agreed.answer());
        let mut response =
            ServerResponse::upgrade("websocket").header("Sec-WebSocket-Accept", &self.key);
        if let Some(protocol) = &self.protocol {
            response = response.header("Sec-WebSocket-Protocol", &**protocol);
        }
        if let Some(extensions) = &extensions {
            response = response.header("Sec-WebSocket-Extensions", extensions);
        }
        for (name, value) in &self.headers {
            response = response.header(name, &**value);
        }
        send(response)
    }
}

impl fmt::Debug for Accept<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Accept")
            .field("protocol", &self.protocol)
            .field("compressed", &self.is_compressed())
            .finish_non_exhaustive()
    }
}

/// The reason why a request opens no WebSocket. Sent to the client, it becomes a [response](Self::response).
#[derive(Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
#[must_use = "nothing is sent until it is passed to `Conn::send`"]
pub enum Refusal {
    /// The request is not a GET that asks for an upgrade to `websocket`: 426.
    NoUpgrade,
    /// The request has a body: 400. A part of it could be taken for frames.
    Body,
    /// Its `Sec-WebSocket-Version` is not 13: 426. The answer names version 13.
    Version,
    /// Its `Sec-WebSocket-Key` is not 16 bytes in base64: 400.
    Key,
    /// Its `Sec-WebSocket-Extensions` is malformed: 400 (RFC 6455, section 9.1).
    Extensions,
    /// Its `Origin` is not allowed: 403.
    Origin,
}

impl Refusal {
    /// Returns the status of the answer.
    pub fn status(self) -> StatusCode {
        match self {
            Refusal::NoUpgrade | Refusal::Version => StatusCode::UPGRADE_REQUIRED,
            Refusal::Body | Refusal::Key | Refusal::Extensions => StatusCode::BAD_REQUEST,
            Refusal::Origin => StatusCode::FORBIDDEN,
        }
    }

    /// Returns the answer.
    pub fn response(self) -> ServerResponse<'static> {
        let text = match self {
            Refusal::NoUpgrade => "this resource is a WebSocket; send an upgrade request\n",
            Refusal::Body => "a request for a WebSocket must not have a body\n",
            Refusal::Version => "this server supports version 13 of WebSocket\n",
            Refusal::Key => "the Sec-WebSocket-Key is not 16 bytes in base64\n",
            Refusal::Extensions => "the Sec-WebSocket-Extensions is malformed\n",
            Refusal::Origin => "this origin is not allowed\n",
        };
        let response = ServerResponse::text(self.status(), text);
        match self {
            Refusal::NoUpgrade | Refusal::Version => response
                .header("Upgrade", "websocket")
                .header("Sec-WebSocket-Version", "13"),
            _ => response,
        }
    }
}

error_messages! {
    Refusal {
        Refusal::NoUpgrade => "the request does not ask for a WebSocket",
        Refusal::Body => "the request for a WebSocket has a body",
        Refusal::Version => "the client's version of WebSocket is not 13",
        Refusal::Key => "the Sec-WebSocket-Key is not 16 bytes in base64",
        Refusal::Extensions => "the Sec-WebSocket-Extensions is malformed",
        Refusal::Origin => "the origin is not allowed",
    }
}

/// Returns the value of a header that must occur exactly once.
fn only<'a>(headers: Headers<'a>, name: &str) -> Option<&'a [u8]> {
    let mut values = headers.get_all(name);
    values.next().filter(|_| values.next().is_none())
}

/// Returns the members of a list, from all headers of that name.
fn list<'a>(headers: Headers<'a>, name: &'static str) -> impl Iterator<Item = &'a str> {
    let members = headers.get_all(name).flat_map(tokens);
    members.filter_map(|member| str::from_utf8(member).ok())
}

/// Returns true if all offered extensions are well-formed. They need not be known.
fn are_extensions(headers: Headers<'_>) -> bool {
    let mut values = headers.get_all(EXTENSIONS);
    values.all(|value| extension::parse(value).is_some())
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::codec::{Codec, Decoded};
    use crate::http::HttpCodec;

    const HEADERS: &str = "Upgrade: websocket\r\nConnection: keep-alive, Upgrade\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

    fn with<R>(method: &str, headers: &str, look: impl FnOnce(&ServerRequest<'_>) -> R) -> R {
        let mut input = format!("{method} /chat HTTP/1.1\r\nHost: a\r\n{headers}\r\n").into_bytes();
        match HttpCodec::default().decode(&mut input) {
            Ok(Decoded::Frame { frame, .. }) => look(&frame),
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn refused(headers: &str, refusal: Refusal) {
        with("GET", headers, |request| {
            assert_eq!(accept(request).err(), Some(refusal), "{headers}");
        });
    }

    #[test]
    fn what_opens_no_websocket_is_refused() {
        with("GET", HEADERS, |request| assert!(accept(request).is_ok()));
        with("POST", HEADERS, |request| {
            assert_eq!(accept(request).err(), Some(Refusal::NoUpgrade));
        });
        refused("", Refusal::NoUpgrade);
        refused(
            &HEADERS.replace("Upgrade: websocket", "Upgrade: h2c"),
            Refusal::NoUpgrade,
        );
        refused(&HEADERS.replace(", Upgrade", ""), Refusal::NoUpgrade);
        with(
            "GET",
            &format!("{HEADERS}Content-Length: 0\r\n"),
            |request| {
                assert!(accept(request).is_ok());
            },
        );
        for value in [
            "permessage-deflate;;",
            "\"permessage-deflate\"",
            ";;",
            "a b",
            "é",
        ] {
            refused(
                &format!(
                    "{HEADERS}Sec-WebSocket-Extensions: a\r\nSec-WebSocket-Extensions: {value}\r\n"
                ),
                Refusal::Extensions,
            );
        }
        refused(&HEADERS.replace("13", "8"), Refusal::Version);
        refused(
            &format!("{HEADERS}Sec-WebSocket-Version: 13\r\n"),
            Refusal::Version,
        );
        refused(&HEADERS.replace("ZQ==", "ZQ"), Refusal::Key);
        refused(
            &format!("{HEADERS}Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"),
            Refusal::Key,
        );
    }

    #[test]
    fn a_refusal_is_answered_as_the_rfc_says() {
        assert_eq!(
            Refusal::Version.response().status(),
            StatusCode::UPGRADE_REQUIRED
        );
        assert_eq!(Refusal::Origin.response().status(), StatusCode::FORBIDDEN);
        assert_eq!(Refusal::Key.response().status(), StatusCode::BAD_REQUEST);
    }

    #[test]
    fn the_first_protocol_that_both_know_is_chosen() {
        let offers =
            format!("{HEADERS}Sec-WebSocket-Protocol: a, b\r\nSec-WebSocket-Protocol: c\r\n");
        with("GET", &offers, |request| {
            let choose = |supported: &[&str]| {
                let accept = accept(request)
                    .expect("opens a WebSocket")
                    .protocol(supported);
                accept.into_owned().chosen_protocol().map(str::to_owned)
            };
            assert_eq!(choose(&["c", "a"]).as_deref(), Some("c"));
            assert_eq!(choose(&["A", "b"]).as_deref(), Some("b"));
            assert_eq!(choose(&["d"]), None);
        });
    }

    #[test]
    fn only_allowed_origins_are_let_in() {
        let judge = |headers: &str| {
            with("GET", &format!("{HEADERS}{headers}"), |request| {
                let accept = accept(request).expect("opens a WebSocket");
                accept
                    .origins(["https://a.example", "https://b.example"])
                    .is_ok()
            })
        };
        assert!(judge(""));
        assert!(judge("Origin: https://b.example\r\n"));
        assert!(judge("Origin: HTTPS://B.example\r\n"));
        assert!(!judge("Origin: https://c.example\r\n"));
        assert!(!judge("Origin: https://b.example.c.example\r\n"));
        assert!(!judge("Origin: null\r\n"));
        assert!(!judge(
            "Origin: https://b.example\r\nOrigin: https://b.example\r\n"
        ));
    }

    #[test]
    fn compression_is_agreed_upon_if_it_is_offered() {
        let judge = |headers: &str| {
            with("GET", &format!("{HEADERS}{headers}"), |request| {
                let accept = accept(request).expect("opens a WebSocket");
                accept.deflate(DeflateOptions::default()).is_compressed()
            })
        };
        assert!(!judge(""));
        assert!(!judge(
            "Sec-WebSocket-Extensions: x-webkit-deflate-frame\r\n"
        ));
        assert!(judge(
            "Sec-WebSocket-Extensions: x-webkit-deflate-frame\r\nSec-WebSocket-Extensions: permessage-deflate\r\n"
        ));
    }
}
