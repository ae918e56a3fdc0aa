//! How WebSockets end on real connections: who says goodbye, with which code, and who waits for whom.
#![cfg(feature = "ws")]

mod util;

use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use epicycle::ws::{self, Close, CloseCode, Incoming, Limits, Message, ServerCodec};
use epicycle::{
    Action, CloseReason, Closed, Conn, EventHandler, Frame, Running, Server, TimeoutKind,
};

use crate::util::app::local;
use crate::util::client::Client;
use crate::util::{LONG, expect_panics};

/// What a handler has seen.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Text(String),
    Closed(Option<u16>),
}

/// An echo of texts that obeys a few of them.
struct Obedient {
    seen: Sender<Seen>,
    ended: Sender<CloseReason>,
}

impl EventHandler for Obedient {
    type Codec = ServerCodec;
    type Session = ();

    fn codec(&mut self) -> ServerCodec {
        ServerCodec::new(Limits::default().max_message(100))
    }

    fn on_open(&mut self, _conn: &mut Conn<'_, Self>) -> Option<()> {
        Some(())
    }

    fn react(&mut self, conn: &mut Conn<'_, Self>, (): &mut (), frame: Frame<'_, Self>) -> Action {
        let message = match frame {
            Incoming::Request(request) => return conn.send(ws::accept(&request)).into(),
            Incoming::Message(message) => message,
            Incoming::Closed(close) => {
                let code = close.code.map(CloseCode::get);
                let _ = self.seen.send(Seen::Closed(code));
                return Action::Continue;
            }
            Incoming::Pong(_) => return Action::Continue,
        };
        let text = message.as_text().unwrap_or_default().to_owned();
        let _ = self.seen.send(Seen::Text(text.clone()));
        match &text[..] {
            "close" => Action::Close,
            "say goodbye" => conn.send(Close::new(CloseCode::POLICY, "as told")).into(),
            "panic" => panic!("on purpose"),
            _ => conn.send(Message::from(text)).into(),
        }
    }

    fn on_close(&mut self, _: &Closed, (): (), reason: CloseReason) {
        let _ = self.ended.send(reason);
    }
}

/// What the handler tells.
struct Told {
    seen: Receiver<Seen>,
    ended: Receiver<CloseReason>,
}

impl Told {
    fn seen(&self) -> Seen {
        self.seen.recv_timeout(LONG).expect("it is seen")
    }

    fn end(&self) -> CloseReason {
        self.ended.recv_timeout(LONG).expect("it ends")
    }
}

fn start(server: Server) -> (Running<Obedient>, Told) {
    let (to_seen, seen) = mpsc::channel();
    let (to_ended, ended) = mpsc::channel();
    let factory = move |_| Obedient {
        seen: to_seen.clone(),
        ended: to_ended.clone(),
    };
    let running = server.start(factory).expect("starts");
    (running, Told { seen, ended })
}

/// A client whose WebSocket is open.
fn open(running: &Running<Obedient>) -> Client {
    let client = Client::to(running);
    client.send(
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.extend(client.recv(1));
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "), "{head:?}");
    client
}

/// A frame of a client's, of less than 126 bytes, with a mask that changes nothing.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let head = [first, 0x80 | payload.len() as u8, 0, 0, 0, 0];
    [&head, payload].concat()
}

const TEXT: u8 = 0x81;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;

/// Receives a Close, and says its code.
fn recv_close(client: &Client) -> Option<u16> {
    let head = client.recv(2);
    assert_eq!(head[0], CLOSE, "{head:?}");
    let payload = client.recv(head[1].into());
    let (code, _) = payload.split_first_chunk()?;
    Some(u16::from_be_bytes(*code))
}

#[test]
fn pings_are_answered_and_the_handler_does_not_see_them() {
    let (running, told) = start(local());
    let client = open(&running);
    client.send(frame(PING, b"there?"));
    assert_eq!(client.recv(8), b"\x8A\x06there?");
    client.send(frame(TEXT, b"hi"));
    assert_eq!(client.recv(4), b"\x81\x02hi");
    assert_eq!(told.seen(), Seen::Text("hi".to_owned()));
}

#[test]
fn the_peers_close_is_echoed_and_ends_the_connection() {
    let (running, told) = start(local());
    let client = open(&running);
    let behind = frame(TEXT, b"too late");
    client.send([frame(TEXT, b"hi"), frame(CLOSE, b"\x0F\xA0"), behind].concat());
    assert_eq!(client.recv(4), b"\x81\x02hi");
    assert_eq!(recv_close(&client), Some(4000));
    assert_eq!(client.recv_to_end(), b"");
    drop(client);
    told.end();
    assert_eq!(told.seen(), Seen::Text("hi".to_owned()));
    assert_eq!(told.seen(), Seen::Closed(Some(4000)));
    assert!(told.seen.try_recv().is_err(), "nothing counts behind it");
}

#[test]
fn a_close_of_this_side_waits_for_the_peers_and_messages_still_come() {
    let (running, told) = start(local().fin_timeout(LONG));
    let client = open(&running);
    client.send(frame(TEXT, b"say goodbye"));
    assert_eq!(recv_close(&client), Some(1008));
    assert_eq!(told.seen(), Seen::Text("say goodbye".to_owned()));
    client.send(frame(TEXT, b"on its way"));
    assert_eq!(told.seen(), Seen::Text("on its way".to_owned()));
}

#[test]
fn a_peer_that_does_not_answer_a_close_is_closed_after_the_fin_timeout() {
    let (running, told) = start(local().fin_timeout(Duration::from_millis(100)));
    let client = open(&running);
    client.send(frame(TEXT, b"say goodbye"));
    assert_eq!(recv_close(&client), Some(1008));
    assert_eq!(client.recv_to_end(), b"");
    let reason = told.end();
    let in_vain = matches!(reason, CloseReason::Timeout(TimeoutKind::Close));
    assert!(in_vain, "{reason}");
}

/// Whether a reason is the one expected.
type Judge = fn(&CloseReason) -> bool;

#[test]
fn the_close_code_tells_why_this_side_closes() {
    expect_panics();
    let (running, told) = start(local());
    let cases: [(Vec<u8>, u16, Judge); 5] = [
        (frame(TEXT, b"close"), 1000, |reason| {
            matches!(reason, CloseReason::Local)
        }),
        (frame(0x83, b"no such opcode"), 1002, |reason| {
            matches!(reason, CloseReason::Frame(_))
        }),
        (frame(TEXT, b"\xFF"), 1007, |reason| {
            matches!(reason, CloseReason::Frame(_))
        }),
        (frame(TEXT, &[b'x'; 101]), 1009, |reason| {
            matches!(reason, CloseReason::Frame(_))
        }),
        (frame(TEXT, b"panic"), 1011, |reason| {
            matches!(reason, CloseReason::Panic)
        }),
    ];
    for (bytes, code, expected) in cases {
        let client = open(&running);
        client.send(bytes);
        assert_eq!(recv_close(&client), Some(code));
        assert_eq!(client.recv_to_end(), b"");
        drop(client);
        let reason = told.end();
        assert!(expected(&reason), "{code}: {reason}");
    }
}

#[test]
fn a_shutdown_says_1001_and_an_idle_timeout_as_well() {
    let (running, told) = start(local());
    let client = open(&running);
    running.engine().shutdown();
    assert_eq!(recv_close(&client), Some(1001));
    assert_eq!(client.recv_to_end(), b"");
    drop(client);
    assert_eq!(running.join().forced, 0);
    let reason = told.end();
    assert!(matches!(reason, CloseReason::Shutdown), "{reason}");

    let (running, told) = start(local().idle_timeout(Duration::from_millis(200)));
    let client = open(&running);
    assert_eq!(recv_close(&client), Some(1001));
    assert_eq!(client.recv_to_end(), b"");
    drop(client);
    let reason = told.end();
    let idle = matches!(reason, CloseReason::Timeout(TimeoutKind::Idle));
    assert!(idle, "{reason}");
    let _ = running.shutdown();
}
