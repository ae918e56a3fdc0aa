//! Peers over WebSockets.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use epicycle::http::StatusCode;
use epicycle::rpc::plugins::auth::{Bearer, Verify};
use epicycle::rpc::wire::{Dialect, Limits, Message, Raw};
use epicycle::rpc::{Codec, Http, Peer, ProtocolChoice, Router, Session, Status, WebSocket, code};
use epicycle::ws::{self, DeflateOptions, Incoming, ServerCodec};
use epicycle::{Action, Conn, ConnInfo, EventHandler, Frame, Reconnect, Server};

use crate::ends::{serving, start};
use crate::recordings::recorded;
use crate::util::{LONG, eventually, expect_panics};
use crate::wire::{Form, decode};

/// The routes that the recorded conversations use.
fn routes() -> Router {
    let mut routes = Router::new();
    routes.call("/math/add", |ctx, numbers: Vec<i64>| {
        if ctx.query("push_status").as_deref() == Some("yes") {
            let text = format!("{} numbers are being added...", numbers.len());
            ctx.session().push("/push/status", &text)?;
        }
        Ok(numbers.iter().sum::<i64>())
    });
    routes.call("/err/panic", |_ctx, text: String| -> Result<(), Status> {
        std::panic::panic_any(format!("boom: {text}"))
    });
    routes.call("/math/divide", |_ctx, body: BTreeMap<String, i64>| {
        let part = |key| body.get(key).copied().unwrap_or_default();
        assert!(part("B") != 0, "runtime error: integer divide by zero");
        Ok(part("A") / part("B"))
    });
    routes.call("/echo", |_ctx, text: String| Ok(text));
    routes.call_blocking("/slow", |_ctx, millis: u64| {
        std::thread::sleep(Duration::from_millis(millis));
        Ok(millis)
    });
    routes.push("/push/note", |ctx, text: String| {
        ctx.session().push("/push/back", &format!("back: {text}"))
    });
    routes
}

fn server(protocol: impl Into<ProtocolChoice>) -> Peer {
    start(serving(protocol, routes()))
}

fn client() -> Peer {
    start(Peer::builder().reactors(1))
}

fn dial(client: &Peer, server: &Peer, socket: WebSocket) -> Result<Session, Status> {
    client.dial_with(&server.local_addrs()[0], socket)
}

/// A client that sends any bytes.
pub(crate) struct Plain(pub(crate) TcpStream);

const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

impl Plain {
    pub(crate) fn to(server: &Peer) -> Self {
        Self::to_listener(server, 0)
    }

    fn to_listener(server: &Peer, listener: usize) -> Self {
        let addr = server.local_addrs()[listener].as_socket_addr();
        let socket = TcpStream::connect(addr.expect("is TCP")).expect("connects");
        socket.set_read_timeout(Some(LONG)).expect("is set");
        Self(socket)
    }

    /// Opens a WebSocket.
    fn open(server: &Peer, path: &str) -> Self {
        let mut plain = Self::to(server);
        plain.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n{UPGRADE}\r\n"));
        let head = plain.head();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        plain
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).expect("is sent");
    }

    /// Sends a masked frame.
    fn frame(&mut self, first: u8, payload: &[u8]) {
        self.send(frame(first, payload));
    }

    pub(crate) fn head(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.extend(self.read(1));
        }
        String::from_utf8(head).expect("is text")
    }

    pub(crate) fn read(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.0.read_exact(&mut bytes).expect("arrives");
        bytes
    }

    pub(crate) fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        self.0.read_to_end(&mut rest).expect("ends");
        rest
    }

    /// Returns the first byte of the next frame, and its payload.
    fn received(&mut self) -> (u8, Vec<u8>) {
        let head = self.read(2);
        let len = match head[1] {
            126 => usize::from(u16::from_be_bytes([self.read(1)[0], self.read(1)[0]])),
            127 => panic!("it is too long for this test"),
            len => len.into(),
        };
        (head[0], self.read(len))
    }

    /// Expects a close frame with this code, and the end of the connection.
    #[track_caller]
    fn expect_end(&mut self, code: u16) {
        let (first, payload) = self.received();
        let text = payload.escape_ascii();
        assert_eq!(
            (first, &payload[..2]),
            (0x88, &code.to_be_bytes()[..]),
            "{text}"
        );
        assert_eq!(self.rest(), b"");
    }
}

fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        len @ 0..=125 => frame.push(0x80 | len as u8),
        len @ 126..=0xFFFF => {
            frame.push(0x80 | 126);
            frame.extend((len as u16).to_be_bytes());
        }
        len => {
            frame.push(0x80 | 127);
            frame.extend((len as u64).to_be_bytes());
        }
    }
    let mask = [7, 1, 200, 33];
    frame.extend(mask);
    let masked = payload.iter().enumerate();
    frame.extend(masked.map(|(at, byte)| byte ^ mask[at % 4]));
    frame
}

const ADD: &[u8] = br#"{"seq":"0","mtype":1,"uri":"/math/add","meta":"","body_codec":106,"body":"[1,2]","xfer_pipe":[]}"#;
const SUM: &[u8] =
    br#"{"seq":"0","mtype":2,"uri":"","meta":"","body_codec":106,"body":"3","xfer_pipe":[]}"#;

#[test]
fn every_protocol_and_dialect_carries_calls_and_pushes_over_websocket() {
    let (told, tells) = mpsc::channel();
    let mut pushes = Router::new();
    pushes.push("/push/back", move |_ctx, text: String| {
        let _ = told.send(text);
        Ok(())
    });
    let client = start(Peer::builder().reactors(1).routes(pushes));
    type Make = fn(&'static str) -> WebSocket;
    let kinds: [Make; 3] = [WebSocket::json, WebSocket::pb, WebSocket::raw];
    for make in kinds {
        for dialect in [Dialect::V4_0, Dialect::V4_1] {
            // The protobuf of a message does not show its dialect.
            let server = server(make("/ws").dialect(dialect));
            let detecting = self::server(make("/ws"));
            for server in [&server, &detecting] {
                let session = dial(&client, server, make("/ws").dialect(dialect)).expect("opens");
                let call = session.call("/math/add", &[1, 2]).filters(b"gm");
                assert_eq!(call.wait(), Ok(3));
                session.push("/push/note", "hi").expect("is sent");
                assert_eq!(tells.recv_timeout(LONG).as_deref(), Ok("back: hi"));
                // Longer than the first of the lengths that a frame can have.
                let text = "\\\"中".repeat(30_000);
                assert_eq!(session.call("/echo", &text).wait(), Ok(text));
            }
        }
    }
}

/// A recorded conversation over a WebSocket.
#[derive(Default)]
struct Conversation {
    sent: Vec<Vec<u8>>,
    answered: Vec<Vec<u8>>,
}

fn conversations() -> BTreeMap<(String, String), Conversation> {
    let mut found: BTreeMap<_, Conversation> = BTreeMap::new();
    for row in recorded() {
        let is_known = matches!(&*row.version, "v400" | "b2c0579");
        if is_known && row.scenario.starts_with("ws_") && !row.bytes.is_empty() {
            let conversation = found.entry((row.version, row.scenario)).or_default();
            match &*row.side {
                "C>S" => conversation.sent.push(row.bytes),
                _ => conversation.answered.push(row.bytes),
            }
        }
    }
    found
}

fn dialect_of(version: &str) -> Dialect {
    match version {
        "v400" => Dialect::V4_0,
        _ => Dialect::V4_1,
    }
}

/// The WebSocket of a recorded conversation, and the form of its messages.
fn socket_of(version: &str, scenario: &str, head: &str) -> (WebSocket, Form) {
    let dialect = dialect_of(version);
    let path = head.split(' ').nth(1).expect("has a path");
    if scenario.starts_with("ws_json") {
        (WebSocket::json(path), Form::WsJson(dialect))
    } else if scenario.starts_with("ws_pb") {
        (WebSocket::pb(path), Form::WsPb(dialect))
    } else {
        (WebSocket::raw(path), Form::Raw(dialect))
    }
}

/// Undoes the mask of a short frame.
fn unmasked(frame: &[u8]) -> Vec<u8> {
    assert_eq!(frame[0], 0x82);
    let at = match frame[1] {
        0xFE => 4,
        _ => 2,
    };
    let (mask, payload) = frame[at..].split_at(4);
    let bytes = payload.iter().enumerate();
    bytes.map(|(n, byte)| byte ^ mask[n % 4]).collect()
}

/// The bytes of a message, without what is different on purpose.
fn comparable(form: Form, scenario: &str, bytes: &[u8]) -> String {
    let message = || decode(form, bytes).expect("is a message").0;
    match scenario {
        // The reason is the text of Go's panic.
        "ws_pb_panic" => format!("{:?}", message().status().map(|status| status.code)),
        // Go's JSON is invalid here.
        "ws_json_gzip_fails" => {
            let mut message = message();
            message.size = 0;
            format!("{message:?}")
        }
        _ => bytes.escape_ascii().to_string(),
    }
}

#[test]
fn recorded_websocket_clients_get_the_recorded_answers() {
    expect_panics();
    let mut seen = 0;
    for ((version, scenario), conversation) in conversations() {
        let head = String::from_utf8_lossy(&conversation.sent[0]).into_owned();
        let (socket, form) = socket_of(&version, &scenario, &head);
        let server = match form {
            Form::WsPb(dialect) => server(socket.dialect(dialect)),
            _ => server(socket),
        };
        let mut plain = Plain::to(&server);
        // All at once, as a client may send.
        plain.send(conversation.sent.concat());
        let mut answers = conversation.answered.iter();
        let expected = answers.next().expect("is accepted");
        let accepts = |head: &str| {
            let mut lines = head.lines();
            let line = lines.find(|line| line.starts_with("Sec-WebSocket-Accept"));
            line.expect("accepts").to_owned()
        };
        let expected = String::from_utf8_lossy(expected);
        assert_eq!(
            accepts(&plain.head()),
            accepts(&expected),
            "{version} {scenario}"
        );
        for answer in answers.filter(|answer| answer[0] == 0x82) {
            let (first, payload) = plain.received();
            let recorded = &answer[if answer[1] == 126 { 4 } else { 2 }..];
            assert_eq!(first, 0x82);
            let name = format!("{version} {scenario}");
            let answer = comparable(form, &scenario, &payload);
            assert_eq!(answer, comparable(form, &scenario, recorded), "{name}");
            seen += 1;
        }
    }
    assert!(seen == 0 || seen == 17, "{seen} answers");
}

/// A server that answers as recorded, and tells what it was sent.
struct Recorded {
    answer: Vec<u8>,
    told: mpsc::Sender<(String, Vec<u8>)>,
}

impl EventHandler for Recorded {
    type Codec = ServerCodec;
    type Session = String;

    fn codec(&mut self, _: &ConnInfo<'_>) -> ServerCodec {
        ServerCodec::default()
    }

    fn on_open(&mut self, _: &mut Conn<'_, Self>) -> Option<String> {
        Some(String::new())
    }

    fn react(
        &mut self,
        conn: &mut Conn<'_, Self>,
        head: &mut String,
        frame: Frame<'_, Self>,
    ) -> Action {
        match frame {
            Incoming::Request(request) => {
                let header = |name| request.header(name).unwrap_or_default();
                let client = conn.peer_addr().to_string();
                let origin = header("origin").replace(&client, "CLIENT");
                let server = conn.local_addr().expect("is bound").to_string();
                let host = header("host").replace(&server, "SERVER");
                *head = format!("{} {host} {origin}", request.target());
                conn.send(ws::accept(&request)).into()
            }
            Incoming::Message(ws::Message::Binary(bytes)) => {
                let _ = self.told.send((head.clone(), bytes.to_vec()));
                conn.send(&self.answer[..]).into()
            }
            _ => Action::Continue,
        }
    }
}

#[test]
fn a_client_sends_the_recorded_websocket_messages_and_takes_the_recorded_answers() {
    let client = start(Peer::builder().reactors(1).call_timeout(None));
    let mut seen = 0;
    for ((version, scenario), conversation) in conversations() {
        let name = format!("{version} {scenario}");
        let head = String::from_utf8_lossy(&conversation.sent[0]).into_owned();
        let (socket, form) = socket_of(&version, &scenario, &head);
        let sent = unmasked(&conversation.sent[1]);
        let (call, _) = decode(form, &sent).expect("is a message");
        if call.kind != epicycle::rpc::wire::Kind::Call {
            continue;
        }
        let mut answers = conversation.answered.iter();
        let answer = answers
            .find(|answer| answer[0] == 0x82)
            .expect("is answered");
        let answer = answer[if answer[1] == 126 { 4 } else { 2 }..].to_vec();
        let (told, tells) = mpsc::channel();
        let reply = answer.clone();
        let recorded = Server::bind("tcp4://127.0.0.1:0")
            .reactors(1)
            .start(move |_| Recorded {
                answer: reply.clone(),
                told: told.clone(),
            })
            .expect("starts");
        let protocol = socket.dialect(dialect_of(&version));
        let session = client
            .dial_with(&recorded.local_addrs()[0], protocol)
            .expect("opens");
        let uri = String::from_utf8(call.uri.to_vec()).expect("is text");
        let body = Raw(call.body.to_vec().into());
        let result = session
            .call::<_, Raw>(uri, &body)
            .codec(call.codec)
            .filters(call.filters.ids())
            .wait();
        let (head, received) = tells.recv_timeout(LONG).expect("is sent");
        let path = head.split(' ').next().expect("has a path");
        assert_eq!(head, format!("{path} SERVER ws://CLIENT{path}"), "{name}");
        let received = comparable(form, &scenario, &received);
        assert_eq!(received, comparable(form, &scenario, &sent), "{name}");
        let (reply, _) = decode(form, &answer).expect("is a message");
        match reply.status() {
            Some(status) => assert_eq!(result.expect_err("fails"), status, "{name}"),
            None => assert_eq!(result.expect("succeeds").0, *reply.body, "{name}"),
        }
        seen += 1;
    }
    assert!(seen == 0 || seen == 15, "only {seen} calls");
}

#[test]
fn a_request_that_opens_no_websocket_is_refused_with_its_status() {
    let socket = WebSocket::json("/ws")
        .origins(["https://good.example"])
        .check(|request| match request.query() {
            Some("no") => Err(StatusCode::UNAUTHORIZED),
            _ => Ok(()),
        });
    let server = server(socket);
    let refused = |target: &str, headers: &str| {
        let mut plain = Plain::to(&server);
        plain.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n{headers}\r\n"));
        let head = plain.head();
        // Nothing else is served on the connection.
        assert!(head.contains("Connection: close\r\n"), "{head}");
        plain.rest();
        head.split(' ').nth(1).expect("has a status").to_owned()
    };
    assert_eq!(refused("/other", UPGRADE), "404");
    assert_eq!(refused("/", ""), "404");
    assert_eq!(refused("/ws", ""), "426");
    assert_eq!(refused("/ws?no", UPGRADE), "401");
    let key = UPGRADE.replace("ZQ==", "ZQ");
    assert_eq!(refused("/ws", &key), "400");
    assert_eq!(refused("/ws", &UPGRADE.replace("13", "8")), "426");
    let from = |origin: &str| format!("{UPGRADE}Origin: {origin}\r\n");
    assert_eq!(refused("/ws", &from("https://bad.example")), "403");
    assert_eq!(refused("/ws", &from("null")), "403");
    for origin in ["https://good.example", "http://a", "ws://127.0.0.1:1234/ws"] {
        let mut plain = Plain::to(&server);
        plain.send(format!(
            "GET /ws HTTP/1.1\r\nHost: a\r\n{}\r\n",
            from(origin)
        ));
        assert!(plain.head().starts_with("HTTP/1.1 101 "), "{origin}");
    }
    eventually("the sessions end", || server.session_count() == 0);
    let anybody = self::server(WebSocket::json("/ws").any_origin());
    let mut plain = Plain::to(&anybody);
    let headers = from("https://bad.example");
    plain.send(format!("GET /ws HTTP/1.1\r\nHost: a\r\n{headers}\r\n"));
    assert!(plain.head().starts_with("HTTP/1.1 101 "));
    let status = dial(&client(), &server, WebSocket::json("/ws?no")).expect_err("is refused");
    assert_eq!(status.code, code::DIAL_FAILED);
    assert!(status.reason.contains("401"), "{status}");
}

#[test]
fn messages_before_the_handshake_has_ended_and_texts_are_taken() {
    let server = server(WebSocket::json("/ws"));
    let mut plain = Plain::to(&server);
    let head = format!("GET /ws HTTP/1.1\r\nHost: a\r\n{UPGRADE}\r\n");
    // A binary message, and one that is text, in fragments with a ping between them.
    let mut bytes = head.into_bytes();
    bytes.extend(frame(0x82, ADD));
    bytes.extend(frame(0x01, &ADD[..20]));
    bytes.extend(frame(0x89, b"are you there"));
    bytes.extend(frame(0x80, &ADD[20..]));
    for byte in bytes {
        plain.send([byte]);
    }
    assert!(plain.head().starts_with("HTTP/1.1 101 "));
    assert_eq!(plain.received(), (0x82, SUM.to_vec()));
    assert_eq!(plain.received(), (0x8A, b"are you there".to_vec()));
    assert_eq!(plain.received(), (0x82, SUM.to_vec()));
    // The close of the other side is answered.
    plain.frame(0x88, b"\x03\xE8");
    plain.expect_end(1000);
}

#[test]
fn what_breaks_the_protocol_costs_one_websocket_and_is_told_its_code() {
    let limits = {
        let mut limits = Limits::default();
        limits.message = 1000;
        limits
    };
    let server = start(serving(WebSocket::json("/ws"), routes()).limits(limits));
    let client = client();
    let healthy = dial(&client, &server, WebSocket::json("/ws")).expect("opens");
    let refused = |first: u8, payload: &[u8], code| {
        let mut plain = Plain::open(&server, "/ws");
        plain.frame(first, payload);
        plain.expect_end(code);
    };
    refused(0x82, &[b'x'; 1001], 1009);
    refused(0x81, b"\xFF\xFE", 1007);
    refused(0x83, b"reserved opcode", 1002);
    refused(0x82, b"no JSON", 1002);

    let mut unmasked = Plain::open(&server, "/ws");
    unmasked.send(b"\x82\x01x");
    unmasked.expect_end(1002);

    let mut huge = Plain::open(&server, "/ws");
    huge.send(b"\x82\xFF\x7F\xFF\xFF\xFF\xFF\xFF\xFF\xFF\0\0\0\0");
    huge.expect_end(1009);

    let mut fragments = Plain::open(&server, "/ws");
    fragments.frame(0x02, &[b'x'; 600]);
    fragments.frame(0x80, &[b'x'; 600]);
    fragments.expect_end(1009);
    assert_eq!(healthy.call("/math/add", &[1, 2]).wait(), Ok(3));
}

#[test]
fn a_websocket_message_that_is_not_exactly_one_message_closes_it() {
    let server = server(WebSocket::raw("/ws"));
    let call = b"\0\0\0\x1dr\0\0\x010\x01\0\x09/math/add\0\0j[1,2]";
    for payload in [&call[..9], &[&call[..], call].concat()] {
        let mut plain = Plain::open(&server, "/ws");
        plain.frame(0x82, payload);
        plain.expect_end(1002);
    }
}

#[test]
fn a_message_as_long_as_the_limit_passes_and_one_byte_more_does_not() {
    let mut limits = Limits::default();
    limits.message = 100_000;
    let server = start(serving(WebSocket::raw("/ws"), routes()).limits(limits));
    let client = client();
    let dial = || dial(&client, &server, WebSocket::raw("/ws")).expect("opens");
    // The size, 'r', no filters, the lengths, the seq "0", the kind, the URI, the codec, two quotes.
    let around = 4 + 2 + 6 + 1 + 1 + "/echo".len() + 1 + 2 + "X-Timeout=30000".len();
    let text = "x".repeat(100_000 - around);
    assert_eq!(dial().call("/echo", &text).wait(), Ok(text.clone()));
    let longer = dial()
        .call::<_, String>("/echo", &format!("{text}x"))
        .wait();
    assert_eq!(longer.expect_err("closes").code, code::CONNECTION_CLOSED);
}

#[test]
fn a_flood_of_pings_is_answered_within_bounds() {
    let server = server(WebSocket::json("/ws"));
    let mut plain = Plain::open(&server, "/ws");
    let ping = frame(0x89, &[0; 125]);
    for _ in 0..2000 {
        plain.send(ping.repeat(10));
    }
    plain.frame(0x82, ADD);
    let mut pongs = 0;
    loop {
        let (first, payload) = plain.received();
        match first {
            0x8A => pongs += 1,
            _ => {
                assert_eq!(payload, SUM);
                break;
            }
        }
    }
    assert!((1..=20_000).contains(&pongs), "{pongs} pongs");
}

#[test]
fn a_session_that_closes_sends_a_close_frame_behind_its_last_reply() {
    let server = server(WebSocket::json("/ws"));
    let mut plain = Plain::open(&server, "/ws");
    let call = String::from_utf8_lossy(ADD).replace("/math/add", "/slow");
    plain.frame(0x82, call.replace("[1,2]", "300").as_bytes());
    eventually("it is open", || server.session_count() == 1);
    let session = server.sessions().remove(0);
    let stats = || server.stats();
    eventually("the call is under way", || {
        stats()
            .call("/slow")
            .is_some_and(|slow| slow.stats.in_flight() == 1)
    });
    session.close();
    let (_, reply) = plain.received();
    assert!(String::from_utf8_lossy(&reply).contains(r#""body":"300""#));
    plain.expect_end(1000);
}

#[test]
fn a_shutdown_loses_no_call_over_websocket() {
    let server = server(WebSocket::json("/ws"));
    let client = client();
    let session = dial(&client, &server, WebSocket::json("/ws")).expect("opens");
    let slow = session.call::<_, u64>("/slow", &300).send();
    // The next reply shows that the call has arrived.
    assert_eq!(session.call("/math/add", &[1, 2]).wait(), Ok(3));
    server.shutdown();
    assert_eq!(slow.wait(), Ok(300));
    assert!(session.wait_closed(LONG));
}

#[test]
fn authentication_is_done_inside_the_websocket_and_early_messages_are_short() {
    let verify = || {
        Verify::new(|token, _session| match token {
            "right" => Ok(()),
            _ => Err(Status::new(403, "wrong")),
        })
    };
    let server = start(serving(WebSocket::json("/ws"), routes()).plugin(verify()));
    let with = |token: &str| {
        let client = start(Peer::builder().reactors(1).plugin(Bearer::new(token)));
        let sum = dial(&client, &server, WebSocket::json("/ws"))
            .and_then(|session| session.call::<_, i64>("/math/add", &[1, 2]).wait());
        sum.map_err(|status| status.code)
    };
    assert_eq!(with("right"), Ok(3));
    assert_eq!(with("wrong"), Err(403));

    let mut plain = Plain::open(&server, "/ws");
    plain.frame(0x02, &[b'x'; 3000]);
    plain.frame(0x80, &[b'x'; 3000]);
    plain.expect_end(1009);
}

#[test]
fn a_session_over_websocket_redials_with_a_new_handshake() {
    let (seen, handshakes) = mpsc::channel();
    let socket = WebSocket::json("/ws").check(move |request| {
        let _ = seen.send(request.target().to_owned());
        Ok(())
    });
    let server = server(socket);
    let policy = Reconnect::new(Duration::from_millis(10), Duration::from_millis(100));
    let client = start(Peer::builder().reactors(1).redial(policy));
    let session = dial(&client, &server, WebSocket::json("/ws?a=b")).expect("opens");
    for _ in 0..3 {
        let target = handshakes.recv_timeout(LONG);
        assert_eq!(target.as_deref(), Ok("/ws?a=b"));
        eventually("it is accepted", || server.session_count() == 1);
        let call = session.call("/math/add", &[1, 2]).idempotent();
        assert_eq!(call.wait(), Ok(3));
        server.sessions().remove(0).abort();
    }
    assert_eq!(
        session.call("/math/add", &[1, 2]).idempotent().wait(),
        Ok(3)
    );
}

#[cfg(feature = "tls")]
#[test]
fn calls_go_over_wss_with_the_name_that_was_dialled() {
    use epicycle::tls::{Identity, Roots, TlsClient, TlsServer};
    use epicycle::{Connect, Listen};

    let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("is made");
    let (certificate, key) = (issued.cert.pem(), issued.signing_key.serialize_pem());
    let identity = Identity::from_pem(&certificate, &key).expect("is right");
    let tls = TlsServer::new(identity).expect("is right");
    let (told, tells) = mpsc::channel();
    let socket = WebSocket::json("/ws").check(move |request| {
        let header = |name| request.header(name).unwrap_or_default().to_owned();
        let _ = told.send((header("host"), header("origin")));
        Ok(())
    });
    let server = start(
        Peer::builder()
            .listen_with(Listen::on("tcp4://127.0.0.1:0").tls(&tls), socket)
            .routes(routes())
            .reactors(1),
    );
    let roots = Roots::from_pem(&certificate).expect("is a certificate");
    let trusting = TlsClient::new(&roots).expect("is right");
    let port = server.local_addrs()[0]
        .as_socket_addr()
        .expect("is TCP")
        .port();
    let client = client();
    let connect = Connect::to(format!("tcp4://localhost:{port}")).tls(&trusting);
    let session = client
        .dial_with(connect, WebSocket::json("/ws"))
        .expect("opens");
    assert_eq!(session.call("/math/add", &[1, 2]).wait(), Ok(3));
    let (host, origin) = tells.recv_timeout(LONG).expect("is checked");
    assert_eq!(host, format!("localhost:{port}"));
    assert_eq!(origin, format!("wss://{}/ws", session.local_addr()));
}

#[test]
fn compression_is_used_if_both_want_it() {
    let deflate = || WebSocket::json("/ws").deflate(DeflateOptions::default());
    let server = server(deflate());
    let client = client();
    let text = "again and ".repeat(10_000);
    for socket in [deflate(), WebSocket::json("/ws")] {
        let session = dial(&client, &server, socket).expect("opens");
        assert_eq!(session.call("/echo", &text).wait(), Ok(text.clone()));
    }
    let mut plain = Plain::to(&server);
    let offer = "Sec-WebSocket-Extensions: permessage-deflate\r\n";
    plain.send(format!(
        "GET /ws HTTP/1.1\r\nHost: a\r\n{UPGRADE}{offer}\r\n"
    ));
    assert!(plain.head().contains("permessage-deflate"));
}

#[test]
fn a_broadcast_reaches_websockets_and_streams() {
    let protocol = ProtocolChoice::raw().or_http(vec![
        WebSocket::json("/json"),
        WebSocket::pb("/pb"),
        WebSocket::raw("/raw"),
    ]);
    let server = server(protocol);
    let (told, tells) = mpsc::channel();
    let mut routes = Router::new();
    routes.push("/news", move |_ctx, text: String| {
        let _ = told.send(text);
        Ok(())
    });
    let client = start(Peer::builder().reactors(1).routes(routes));
    let addr = &server.local_addrs()[0];
    let sockets = [
        WebSocket::json("/json"),
        WebSocket::json("/json"),
        WebSocket::pb("/pb"),
        WebSocket::raw("/raw"),
    ];
    let mut sessions = Vec::new();
    for socket in sockets {
        sessions.push(client.dial_with(addr, socket).expect("opens"));
    }
    sessions.push(client.dial(addr).expect("connects"));
    // A session on the stream opens with its first message.
    for session in &sessions {
        assert_eq!(session.call("/math/add", &[1, 2]).wait(), Ok(3));
    }
    // The payload of a long message is shared.
    for text in ["hello".to_owned(), "long ".repeat(10_000)] {
        server.broadcast("/news", &text).expect("is sent");
        for _ in 0..sessions.len() {
            assert_eq!(tells.recv_timeout(LONG).as_ref(), Ok(&text));
        }
    }
}

#[test]
fn one_port_takes_raw_messages_of_both_dialects_and_websockets_at_every_cut() {
    let protocol = ProtocolChoice::raw().or_http(WebSocket::json("/ws"));
    let server = server(protocol);
    let client = client();
    let addr = &server.local_addrs()[0];
    for dialect in [Dialect::V4_0, Dialect::V4_1] {
        let session = client
            .dial_with(addr, ProtocolChoice::raw_of(dialect))
            .expect("connects");
        assert_eq!(session.call("/math/add", &[1, 2]).wait(), Ok(3));
    }
    let session = client
        .dial_with(addr, WebSocket::json("/ws"))
        .expect("opens");
    assert_eq!(session.call("/math/add", &[1, 2]).wait(), Ok(3));

    let raw = b"\0\0\0\x1dr\0\0\x010\x01\0\x09/math/add\0\0j[1,2]";
    let upgrade = format!("GET /ws HTTP/1.1\r\nHost: a\r\n{UPGRADE}\r\n").into_bytes();
    let upgrade = [upgrade, frame(0x82, ADD)].concat();
    for cut in 1..12 {
        for whole in [&raw[..], &upgrade] {
            let mut plain = Plain::to(&server);
            plain.0.set_nodelay(true).expect("is set");
            plain.send(&whole[..cut]);
            std::thread::sleep(Duration::from_millis(2));
            plain.send(&whole[cut..]);
            if whole == raw {
                assert_eq!(plain.read(16), b"\0\0\0\x10r\0\0\x010\x02\0\0\0\0j3");
            } else {
                plain.head();
                assert_eq!(plain.received(), (0x82, SUM.to_vec()));
            }
        }
    }
    // Neither of them.
    let mut plain = Plain::to(&server);
    plain.send(b"hello, is anybody there?");
    assert_eq!(plain.rest(), b"");
}

#[test]
fn a_server_calls_its_client_over_websocket() {
    let mut routes = Router::new();
    routes.call_async("/double", |ctx, n: i64| async move {
        let answer: i64 = ctx.session().call("/ask", &n).await?;
        Ok(2 * answer)
    });
    let server = start(
        Peer::builder()
            .listen_with("tcp4://127.0.0.1:0", WebSocket::pb("/ws"))
            .routes(routes),
    );
    let mut routes = Router::new();
    routes.call("/ask", |_ctx, n: i64| Ok(n + 1));
    let client = start(Peer::builder().routes(routes));
    let session = dial(&client, &server, WebSocket::pb("/ws")).expect("opens");
    assert_eq!(session.call("/double", &20).wait(), Ok(42));
}

/// Returns some of the conversations that a port takes that takes everything.
fn openings() -> Vec<Vec<u8>> {
    let mut call = Message::call("/math/add?a=b");
    call.seq = b"7"[..].into();
    call.codec = Codec::JSON;
    call.body = b"[1,2,3]"[..].into();
    let encoded = |form: Form| form.encode(&call).expect("fits");
    let upgrade =
        |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\n{UPGRADE}\r\n").into_bytes();
    let json = br#"{"seq":"0","mtype":1,"uri":"/math/add","meta":"a=b","body_codec":106,"body":"[1,2]","xfer_pipe":[]}"#;
    let in_socket = |path: &str, message: &[u8]| {
        let half = message.len() / 2;
        let parts = [
            upgrade(path),
            frame(0x82, message),
            frame(0x89, b"ping"),
            // A fragmented message with a ping inside.
            frame(0x02, &message[..half]),
            frame(0x89, b""),
            frame(0x80, &message[half..]),
            frame(0x81, message),
            frame(0x88, b"\x03\xe8"),
        ];
        parts.concat()
    };
    let raw = encoded(Form::Raw(Dialect::V4_1));
    vec![
        [&raw[..], &raw].concat(),
        [encoded(Form::Raw(Dialect::V4_0)), raw.clone()].concat(),
        b"POST /math/add HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 5\r\n\r\n[1,2]\
            GET /query?a=x HTTP/1.1\r\nHost: a\r\nAccept: text/plain;q=0.5, */*;q=0.1\r\nX-Timeout: 9\r\n\r\n\
            POST /math/add HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n[1\r\n2;x=y\r\n,2\r\n1\r\n]\r\n0\r\nT: x\r\n\r\n\
            OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\nHEAD /nowhere HTTP/1.0\r\n\r\n"
            .to_vec(),
        in_socket("/json", json),
        in_socket("/pb", &encoded(Form::WsPb(Dialect::V4_1))),
        in_socket("/raw", &raw),
    ]
}

#[test]
fn whatever_arrives_on_a_port_that_takes_everything_costs_only_its_connection() {
    let http = Http::new()
        .websocket(WebSocket::json("/json"))
        .websocket(WebSocket::pb("/pb"))
        .websocket(WebSocket::raw("/raw"));
    let server = start(serving(ProtocolChoice::raw().or_http(http), routes()));
    let openings = openings();
    const THREADS: u64 = 4;
    thread::scope(|scope| {
        for number in 0..THREADS {
            let (server, openings) = (&server, &openings);
            scope.spawn(move || {
                let mut rng = fastrand::Rng::with_seed(number);
                for round in 0..150 {
                    let mut bytes = rng.choice(openings).expect("is one").clone();
                    for _ in 0..rng.usize(..4) {
                        let at = rng.usize(..bytes.len());
                        match rng.u8(..5) {
                            0 => bytes[at] = rng.u8(..),
                            1 => bytes[at] ^= 1 << rng.u8(..8),
                            2 => drop(bytes.remove(at)),
                            3 => bytes.insert(at, *rng.choice(b"\0\xff\r\n :;0").expect("is one")),
                            _ => bytes.truncate(at.max(1)),
                        }
                    }
                    let mut client = Plain::to(server);
                    client.0.set_nodelay(true).expect("is set");
                    let mut rest = &bytes[..];
                    while !rest.is_empty() {
                        let piece = rng.usize(1..=rest.len().min(200));
                        // The server may have closed it.
                        if client.0.write_all(&rest[..piece]).is_err() {
                            break;
                        }
                        rest = &rest[piece..];
                    }
                    let _ = client.0.shutdown(Shutdown::Write);
                    let ended = client.0.read_to_end(&mut Vec::new());
                    let hangs = ended.is_err_and(|error| {
                        matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
                    });
                    assert!(!hangs, "{number} {round}: {}", bytes.escape_ascii());
                }
            });
        }
    });
    eventually("all have ended", || server.session_count() == 0);
    let mut client = Plain::to(&server);
    client.send("POST /math/add HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n[1,2]");
    assert!(client.head().starts_with("HTTP/1.1 200 "));
    let panics = server.engine_stats().expect("it runs").main.panics;
    assert_eq!(panics, 0);
}
