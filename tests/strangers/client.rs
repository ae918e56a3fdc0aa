//! This crate's client against another implementation's server: `server.py`.

use std::borrow::Cow;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, mpsc};

use epicycle::ws::{
    ClientCodec, Close, CloseCode, DeflateOptions, Event, Fragment, Handshake, HandshakeError,
    Limits, Message, Ping,
};
use epicycle::{
    Action, Client, CloseReason, Closed, Conn, ConnInfo, Connect, EventHandler, FailedConnect,
    Frame, Reactor,
};

use crate::util::strangers::{python_websockets, spawn_serving};
use crate::util::{LONG, noise};

/// A running `server.py`.
struct Theirs {
    python: Child,
    port: u16,
}

impl Theirs {
    /// Starts one with that compression: `none`, `deflate` or `takeover`. Skipped without Python's `websockets`.
    fn start(compression: &str) -> Option<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/strangers/server.py");
        let mut python = python_websockets()?;
        let serving = python.arg(script).arg(compression).stdin(Stdio::piped());
        let (python, port) = spawn_serving(serving);
        Some(Self { python, port })
    }

    fn handshake(&self) -> Handshake {
        Handshake::new(format!("127.0.0.1:{}", self.port), "/")
    }

    /// Opens a WebSocket and says all of it, each thing once the one before it has been answered.
    fn hold(&self, handshake: Handshake, talk: Vec<Say>) -> Told {
        let (tell, told) = mpsc::channel();
        let (tell, talk) = (Mutex::new(tell), Arc::new(talk));
        let running = Client::new()
            .start(move |_| Caller {
                handshake: handshake.clone(),
                talk: talk.clone(),
                told: Told::default(),
                tell: tell.lock().expect("no panics").clone(),
            })
            .expect("starts");
        let connect = Connect::to(format!("tcp4://127.0.0.1:{}", self.port));
        running.engine().connect(connect).expect("the engine runs");
        told.recv_timeout(LONG).expect("the engine runs")
    }
}

impl Drop for Theirs {
    fn drop(&mut self) {
        let _ = self.python.kill();
        let _ = self.python.wait();
    }
}

/// What this side says, to be answered by the server.
#[derive(Clone)]
enum Say {
    /// Comes back.
    Message(Message<'static>),
    /// Comes back in one piece.
    Fragments(Vec<&'static str>),
    /// Is answered with another text.
    Ask(&'static str, &'static str),
    Ping(&'static [u8]),
    Close(CloseCode, &'static str),
}

/// What became of a WebSocket.
#[derive(Debug, Default)]
struct Told {
    protocol: Option<String>,
    compressed: bool,
    heard: Vec<Heard>,
    ended: Option<CloseReason>,
}

#[derive(Debug, PartialEq)]
enum Heard {
    Message(Message<'static>),
    Pong(Vec<u8>),
    Closed(Option<u16>, String),
}

impl Say {
    fn answer(&self) -> Heard {
        match self {
            Say::Message(message) => Heard::Message(message.clone()),
            Say::Fragments(parts) => Heard::Message(parts.concat().into()),
            Say::Ask(_, answer) => Heard::Message((*answer).into()),
            Say::Ping(payload) => Heard::Pong(payload.to_vec()),
            Say::Close(code, reason) => Heard::Closed(Some(code.get()), (*reason).to_owned()),
        }
    }
}

struct Caller {
    handshake: Handshake,
    talk: Arc<Vec<Say>>,
    told: Told,
    tell: mpsc::Sender<Told>,
}

impl EventHandler for Caller {
    type Codec = ClientCodec;
    type Session = ();

    fn codec(&mut self, _: &ConnInfo<'_>) -> ClientCodec {
        ClientCodec::new(Limits::default().max_frame(2 << 20).max_message(2 << 20))
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<()> {
        conn.send(self.handshake.clone()).ok()
    }

    fn react(&mut self, conn: &mut Conn<'_, Self>, (): &mut (), event: Frame<'_, Self>) -> Action {
        match event {
            Event::Opened(opened) => {
                self.told.protocol = opened.protocol;
                self.told.compressed = opened.compressed;
            }
            Event::Message(message) => self.told.heard.push(Heard::Message(message.into_owned())),
            Event::Pong(payload) => self.told.heard.push(Heard::Pong(payload.to_vec())),
            Event::Closed(close) => {
                let code = close.code.map(CloseCode::get);
                self.told
                    .heard
                    .push(Heard::Closed(code, close.reason.to_owned()));
                return Action::Continue;
            }
        }
        self.talk_on(conn)
    }

    fn on_close(&mut self, _: &mut Reactor<'_, Self>, _: &Closed, (): (), reason: CloseReason) {
        self.told.ended = Some(reason);
        // Nobody listens any more at the end of the test.
        let _ = self.tell.send(std::mem::take(&mut self.told));
    }

    fn on_connect_failed(&mut self, _: &mut Reactor<'_, Self>, failed: FailedConnect) {
        panic!("{}", failed.error);
    }
}

impl Caller {
    fn talk_on(&mut self, conn: &mut Conn<'_, Self>) -> Action {
        match self.talk.get(self.told.heard.len()) {
            Some(Say::Message(message)) => conn.send(message.clone()).into(),
            Some(Say::Fragments(parts)) => {
                for (n, part) in parts.iter().enumerate() {
                    let (part, last) = (Message::from(*part), n + 1 == parts.len());
                    conn.send(Fragment { part, last }).expect("is sent");
                }
                Action::Continue
            }
            Some(Say::Ask(text, _)) => conn.send(*text).into(),
            Some(Say::Ping(payload)) => conn.send(Ping(payload)).into(),
            Some(Say::Close(code, reason)) => conn.send(Close::new(*code, reason)).into(),
            None => Action::Continue,
        }
    }
}

fn binary(seed: u64, len: usize) -> Say {
    Say::Message(Message::Binary(Cow::Owned(noise(seed, len))))
}

fn text(text: impl Into<String>) -> Say {
    Say::Message(Message::Text(Cow::Owned(text.into())))
}

/// Everything that can be said, and goodbye.
fn all() -> Vec<Say> {
    vec![
        text("hello"),
        text(""),
        text("zażółć gęślą jaźń €😀"),
        binary(1, 125),
        binary(2, 126),
        binary(3, 65_535),
        binary(4, 65_536),
        binary(5, 1 << 20),
        text("over and over and ".repeat(1000)),
        text("over and over and ".repeat(1000)),
        Say::Fragments(vec!["one ", "", "€ ", "three"]),
        Say::Ask("in pieces", "in pieces"),
        Say::Ask("ping are you there?", "pong are you there?"),
        Say::Ping(b"are you?"),
        Say::Close(CloseCode::NORMAL, "goodbye"),
    ]
}

/// That all of a talk was answered as it is to be, and the WebSocket closed well.
fn went_well(told: &Told, talk: &[Say]) {
    let answers: Vec<_> = talk.iter().map(Say::answer).collect();
    for (heard, answer) in told.heard.iter().zip(&answers) {
        assert!(heard == answer, "{heard:.80?} in place of {answer:.80?}");
    }
    assert_eq!(told.heard.len(), answers.len());
    let ended = told.ended.as_ref().expect("it has ended");
    assert!(matches!(ended, CloseReason::Peer), "{ended}");
}

#[test]
fn their_server_answers_our_client_with_any_compression() {
    for (compression, takeover) in [("none", false), ("deflate", false), ("takeover", true)] {
        let Some(theirs) = Theirs::start(compression) else {
            return;
        };
        let options = DeflateOptions::default();
        let offers = [
            None,
            Some(options),
            Some(options.context_takeover(true).threshold(1)),
            Some(options.context_takeover(takeover).window_bits(10).level(9)),
        ];
        for offer in offers {
            let mut handshake = theirs.handshake();
            if let Some(options) = offer {
                handshake = handshake.deflate(options);
            }
            let told = theirs.hold(handshake, all());
            assert_eq!(told.compressed, offer.is_some() && compression != "none");
            went_well(&told, &all());
        }
    }
}

#[test]
fn their_close_is_heard_with_code_and_reason() {
    let Some(theirs) = Theirs::start("deflate") else {
        return;
    };
    for (ask, code, reason) in [
        ("close 1000 ", 1000, ""),
        ("close 1011 sorry", 1011, "sorry"),
        ("close 4001 é€", 4001, "é€"),
    ] {
        let told = theirs.hold(theirs.handshake(), vec![Say::Ask(ask, "")]);
        assert_eq!(told.heard, [Heard::Closed(Some(code), reason.to_owned())]);
        assert!(matches!(told.ended, Some(CloseReason::Peer)), "{told:?}");
    }
}

#[test]
fn the_sub_protocol_is_theirs_to_choose() {
    let Some(theirs) = Theirs::start("none") else {
        return;
    };
    let goodbye = || vec![Say::Close(CloseCode::NORMAL, "")];
    let offer = theirs.handshake().protocol("other").protocol("echo.v1");
    let told = theirs.hold(offer, goodbye());
    assert_eq!(told.protocol.as_deref(), Some("echo.v1"));
    went_well(&told, &goodbye());
    let told = theirs.hold(theirs.handshake().protocol("other"), goodbye());
    let name = "Sec-WebSocket-Protocol";
    assert_eq!(*refusal(&told), HandshakeError::Header { name });
}

#[test]
fn a_refusal_of_theirs_is_told() {
    let Some(theirs) = Theirs::start("none") else {
        return;
    };
    let foreign = theirs.handshake().header("Origin", "https://evil.example");
    let told = theirs.hold(foreign, Vec::new());
    assert!(matches!(refusal(&told), HandshakeError::Status(status) if status.as_u16() == 403));
}

fn refusal(told: &Told) -> &HandshakeError {
    match &told.ended {
        Some(CloseReason::Frame(error)) => HandshakeError::of(error).expect("the handshake failed"),
        other => panic!("{other:?}"),
    }
}
