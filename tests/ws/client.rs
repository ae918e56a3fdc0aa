//! The client's codec, against the server's and against servers that misbehave.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::mpsc;
use std::thread;

use epicycle::ws::{
    ClientCodec, Close, CloseCode, DeflateOptions, Event, Handshake, HandshakeError, Limits,
    Message, Ping,
};
use epicycle::{
    Action, Client, CloseReason, Closed, Conn, ConnInfo, Connect, EventHandler, Frame, Reactor,
    Running, TimeoutKind,
};

use crate::service::{self, SOON, Setup};
use crate::util::LONG;

/// What a client has seen.
#[derive(Debug)]
pub(crate) enum News {
    Opened {
        protocol: Option<String>,
        compressed: bool,
    },
    Message(Message<'static>),
    Pong(Vec<u8>),
    Closed(Option<u16>, String),
    Gone(CloseReason),
}

/// Sends the messages one by one, each when the one before it is back, and closes.
pub(crate) struct Caller {
    handshake: Handshake,
    messages: Vec<Message<'static>>,
    news: mpsc::Sender<News>,
}

impl Caller {
    fn tell(&self, news: News) {
        // A test that has seen enough has hung up.
        let _ = self.news.send(news);
    }
}

impl EventHandler for Caller {
    type Codec = ClientCodec;
    type Session = usize;

    fn codec(&mut self, _: &ConnInfo<'_>) -> ClientCodec {
        ClientCodec::new(Limits::default().max_message(4 << 20))
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<usize> {
        assert!(conn.send("early").is_err());
        conn.send(self.handshake.clone()).expect("is well formed");
        Some(0)
    }

    fn react(
        &mut self,
        conn: &mut Conn<'_, Self>,
        next: &mut usize,
        event: Frame<'_, Self>,
    ) -> Action {
        match event {
            Event::Opened(opened) => self.tell(News::Opened {
                protocol: opened.protocol,
                compressed: opened.compressed,
            }),
            Event::Message(message) => self.tell(News::Message(message.into_owned())),
            Event::Pong(payload) => {
                self.tell(News::Pong(payload.to_vec()));
                return Action::Continue;
            }
            Event::Closed(close) => {
                self.tell(News::Closed(
                    close.code.map(CloseCode::get),
                    close.reason.to_owned(),
                ));
                return Action::Continue;
            }
        }
        *next += 1;
        match self.messages.get(*next - 1) {
            Some(message) => conn.send(message).into(),
            None => {
                conn.send(Ping(b"last")).expect("is taken");
                conn.send(Close::new(CloseCode::NORMAL, "done")).into()
            }
        }
    }

    fn on_close(
        &mut self,
        _: &mut Reactor<'_, Self>,
        _info: &Closed,
        _next: usize,
        reason: CloseReason,
    ) {
        self.tell(News::Gone(reason));
    }
}

/// Calls the server at `addr`.
fn call(
    addr: &str,
    handshake: Handshake,
    messages: Vec<Message<'static>>,
) -> (Running<Caller>, mpsc::Receiver<News>) {
    call_by(Connect::to(addr), handshake, messages)
}

pub(crate) fn call_by(
    connect: Connect,
    handshake: Handshake,
    messages: Vec<Message<'static>>,
) -> (Running<Caller>, mpsc::Receiver<News>) {
    let (sender, news) = mpsc::channel();
    let client = Client::new().reactors(1).fin_timeout(SOON);
    let factory = move |_| Caller {
        handshake: handshake.clone(),
        messages: messages.clone(),
        news: sender.clone(),
    };
    let running = client.start(factory).expect("starts");
    running.engine().connect(connect).expect("is taken");
    (running, news)
}

pub(crate) fn next(news: &mpsc::Receiver<News>) -> News {
    news.recv_timeout(LONG).expect("there is news")
}

pub(crate) fn messages() -> Vec<Message<'static>> {
    vec![
        "hello".into(),
        "".into(),
        vec![0; 200_000].into(),
        "grüß Gott ".repeat(1000).into(),
        vec![1; 126].into(),
    ]
}

#[test]
fn messages_go_there_and_back_compressed_or_not() {
    let takeover = DeflateOptions::default().context_takeover(true);
    for deflate in [None, Some(DeflateOptions::default()), Some(takeover)] {
        let setup = Setup {
            deflate,
            ..Setup::default()
        };
        let (server, log) = service::start(service::local(), setup);
        let addr = format!("tcp://{}", server.local_addrs()[0]);
        let mut handshake = Handshake::new("a", "/path?query")
            .protocol("v0")
            .protocol("v1")
            .header("X-Me", "test");
        if let Some(options) = deflate {
            handshake = handshake.deflate(options);
        }
        let (_client, news) = call(&addr, handshake, messages());
        match next(&news) {
            News::Opened {
                protocol,
                compressed,
            } => {
                assert_eq!(
                    (protocol.as_deref(), compressed),
                    (Some("v1"), deflate.is_some())
                );
            }
            other => panic!("{other:?}"),
        }
        for expected in messages() {
            match next(&news) {
                News::Message(message) => assert!(message == expected),
                other => panic!("{other:?}"),
            }
        }
        // The ping was sent before the Close, and the server answered it before it saw that.
        assert!(matches!(next(&news), News::Pong(payload) if payload == b"last"));
        assert!(matches!(next(&news), News::Closed(Some(1000), reason) if reason.is_empty()));
        assert!(matches!(next(&news), News::Gone(CloseReason::Peer)));
        assert_eq!(log.await_closed(), (Some(1000), "done".to_owned()));
        assert!(matches!(*log.await_gone(), CloseReason::Local));
    }
}

#[test]
fn the_servers_close_is_answered_and_its_end_awaited() {
    let (server, log) = service::start(service::local(), Setup::default());
    let addr = format!("tcp://{}", server.local_addrs()[0]);
    let (_client, news) = call(&addr, Handshake::new("a", "/"), vec!["close".into()]);
    assert!(matches!(next(&news), News::Opened { .. }));
    assert!(matches!(next(&news), News::Closed(Some(1008), reason) if reason == "as told"));
    assert!(matches!(next(&news), News::Gone(CloseReason::Peer)));
    assert_eq!(log.await_closed(), (Some(1008), String::new()));
}

/// A server that reads a request and gives a canned answer, in which `ACCEPT` stands for the right key; it ends when
/// the client has.
fn canned(answer: &str) -> String {
    canned_with(answer, b"")
}

/// The same with frames behind the answer.
fn canned_with(answer: &str, frames: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let addr = format!("tcp://{}", listener.local_addr().expect("is bound"));
    let answer = answer.to_owned();
    thread::spawn(move || {
        let (mut socket, _) = listener.accept().expect("accepts");
        let mut request = Vec::new();
        let mut byte = [0];
        while !request.ends_with(b"\r\n\r\n") {
            socket.read_exact(&mut byte).expect("reads");
            request.push(byte[0]);
        }
        let request = String::from_utf8(request).expect("is text");
        let key = request
            .lines()
            .find_map(|line| line.strip_prefix("Sec-WebSocket-Key: "));
        let accept = accept_of(key.expect("has a key"));
        let answer = answer.replace("ACCEPT", &accept).into_bytes();
        socket
            .write_all(&[&answer, frames].concat())
            .expect("writes");
        let mut rest = Vec::new();
        let _ = socket.read_to_end(&mut rest);
    });
    addr
}

fn accept_of(key: &str) -> String {
    use base64::Engine as _;
    use sha1::Digest as _;
    let hash = sha1::Sha1::digest(format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11"));
    base64::engine::general_purpose::STANDARD.encode(hash)
}

const GOOD: &str = "HTTP/1.1 101 Switching Protocols\r\nupgrade: WebSocket\r\nconnection: upgrade\r\n\
    sec-websocket-accept: ACCEPT\r\n\r\n";

#[test]
fn an_answer_that_opens_no_websocket_is_the_reason_for_the_end() {
    let lacks = |name| HandshakeError::Header { name };
    let status =
        |code| HandshakeError::Status(epicycle::http::StatusCode::from_u16(code).expect("is one"));
    let with = |header: &str| GOOD.replace("\r\n\r\n", &format!("\r\n{header}\r\n\r\n"));
    let cases = [
        (
            "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n".to_owned(),
            status(403),
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_owned(),
            status(200),
        ),
        (
            GOOD.replace("ACCEPT", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
            lacks("Sec-WebSocket-Accept"),
        ),
        (GOOD.replace("upgrade: WebSocket\r\n", ""), lacks("Upgrade")),
        (
            GOOD.replace("connection: upgrade", "connection: close"),
            HandshakeError::Malformed(
                "a malformed HTTP message: a change of protocol without `Connection: Upgrade`"
                    .to_owned(),
            ),
        ),
        (
            with("Sec-WebSocket-Protocol: never-offered"),
            lacks("Sec-WebSocket-Protocol"),
        ),
        (
            with("Sec-WebSocket-Extensions: permessage-deflate"),
            lacks("Sec-WebSocket-Extensions"),
        ),
    ];
    for (answer, expected) in cases {
        let (_client, news) = call(&canned(&answer), Handshake::new("a", "/"), vec![]);
        match next(&news) {
            News::Gone(CloseReason::Frame(error)) => {
                assert_eq!(HandshakeError::of(&error), Some(&expected), "{answer}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn an_answer_by_other_rules_than_those_of_http_opens_no_websocket() {
    let interim = "HTTP/1.1 103 Early Hints\r\n\r\n";
    for answer in [
        "SSH-2.0-OpenSSH\r\n".to_owned(),
        GOOD.replace("HTTP/1.1", "HTTP/1.0"),
        GOOD.replace("upgrade\r\n", "upgrade\n"),
        GOOD.replace("\r\n", "\n"),
        GOOD.replace("connection:", "connection :"),
        interim.repeat(17) + GOOD,
    ] {
        let (_client, news) = call(&canned(&answer), Handshake::new("a", "/"), vec![]);
        let News::Gone(CloseReason::Frame(error)) = next(&news) else {
            panic!("{answer:?}: no error");
        };
        let error = HandshakeError::of(&error);
        assert!(
            matches!(error, Some(HandshakeError::Malformed(_))),
            "{answer:?}: {error:?}"
        );
    }
}

#[test]
fn any_window_that_a_server_asks_for_is_kept_to() {
    for window in [
        "client_max_window_bits=8",
        "server_max_window_bits=8",
        "server_max_window_bits=15",
    ] {
        let extensions = format!(
            "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; {window}\r\n\r\n"
        );
        let answer = GOOD.replace("\r\n\r\n", &format!("\r\n{extensions}"));
        // It is spoken to, so that it compresses, and says what section 7.2.3.1 of RFC 7692 has.
        let addr = canned_with(&answer, b"\xC1\x07\xF2\x48\xCD\xC9\xC9\x07\0");
        let handshake = Handshake::new("a", "/").deflate(DeflateOptions::default());
        let (_client, news) = call(&addr, handshake, vec![vec![7; 5000].into()]);
        assert!(
            matches!(
                next(&news),
                News::Opened {
                    compressed: true,
                    ..
                }
            ),
            "{window}"
        );
        assert!(
            matches!(next(&news), News::Message(message) if message.as_text() == Some("Hello"))
        );
    }
}

#[test]
fn the_headers_of_the_handshake_are_the_codecs() {
    let refused = |handshake: Handshake| {
        let mut codec = ClientCodec::default();
        epicycle::codec::encode_to_vec(&mut codec, handshake).expect_err("is refused");
    };
    for name in [
        "Host",
        "upgrade",
        "Connection",
        "Sec-WebSocket-Key",
        "Content-Length",
        "a b",
        "",
    ] {
        refused(Handshake::new("a", "/").header(name, "x"));
    }
    for host in ["", "a b", "a:80x", "x@a", "[::1", ":80"] {
        refused(Handshake::new(host, "/"));
    }
    for target in ["", "x", "/a b", "/a#b", "/\u{e9}"] {
        refused(Handshake::new("a", target));
    }
}

#[test]
fn a_server_that_chooses_no_protocol_fails_a_client_that_needs_one() {
    let handshake = Handshake::new("a", "/").protocol("v9");
    let (_client, news) = call(&canned(GOOD), handshake, vec![]);
    assert!(matches!(next(&news), News::Gone(CloseReason::Frame(_))));
}

#[test]
fn other_answers_before_the_one_are_passed_over() {
    let answer = format!("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n{GOOD}");
    let (_client, news) = call(&canned(&answer), Handshake::new("a", "/"), vec![]);
    assert!(matches!(
        next(&news),
        News::Opened {
            protocol: None,
            compressed: false
        }
    ));
}

#[test]
fn a_server_that_does_not_answer_the_close_is_left() {
    let (_client, news) = call(&canned(GOOD), Handshake::new("a", "/"), vec![]);
    assert!(matches!(next(&news), News::Opened { .. }));
    assert!(matches!(
        next(&news),
        News::Gone(CloseReason::Timeout(TimeoutKind::Close))
    ));
}

#[test]
fn a_server_that_does_not_end_the_connection_is_left() {
    let addr = canned_with(GOOD, b"\x88\0");
    let (_client, news) = call(&addr, Handshake::new("a", "/"), vec!["hello".into()]);
    assert!(matches!(next(&news), News::Opened { .. }));
    assert!(matches!(next(&news), News::Closed(None, _)));
    assert!(matches!(
        next(&news),
        News::Gone(CloseReason::Timeout(TimeoutKind::Close))
    ));
}

#[test]
fn a_masked_frame_of_a_server_is_refused() {
    let addr = canned_with(GOOD, b"\x81\x81\0\0\0\0a");
    let (_client, news) = call(&addr, Handshake::new("a", "/"), vec!["hello".into()]);
    assert!(matches!(next(&news), News::Opened { .. }));
    assert!(matches!(next(&news), News::Gone(CloseReason::Frame(_))));
}
