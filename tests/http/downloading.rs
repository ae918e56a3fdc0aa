//! The client's codec that hands responses out in parts, over real sockets.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Mutex;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use epicycle::codec::FrameError;
use epicycle::http::client::{ClientRequest, ResponsePart, StreamCodec};
use epicycle::http::{Chunk, End, MessageError};
use epicycle::{
    Action, Client, CloseReason, Closed, Conn, ConnInfo, EventHandler, Handle, Reactor, Running,
    TimeoutKind,
};

use crate::client::PythonServer;
use crate::util::{LONG, noise, skipped};

/// The news of a connection, with the bytes of neighbouring parts together.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    Interim(u16),
    Head(u16),
    Body(Vec<u8>),
    End(Vec<(String, Vec<u8>)>),
    Upgraded(Vec<u8>),
}

enum Told {
    Open(Handle<Listener>),
    Part(Heard),
    Closed(CloseReason),
}

/// Tells a test what it hears.
struct Listener {
    tell: Sender<Told>,
}

impl EventHandler for Listener {
    type Codec = StreamCodec;
    type Session = ();

    fn codec(&mut self, _: &ConnInfo<'_>) -> StreamCodec {
        StreamCodec::default()
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<()> {
        let _ = self.tell.send(Told::Open(conn.handle()));
        Some(())
    }

    fn react(&mut self, _conn: &mut Conn<'_, Self>, (): &mut (), part: ResponsePart<'_>) -> Action {
        let heard = match part {
            ResponsePart::Interim(response) => Heard::Interim(response.status().as_u16()),
            ResponsePart::Head(response) => Heard::Head(response.status().as_u16()),
            ResponsePart::Body(bytes) => Heard::Body(bytes.to_vec()),
            ResponsePart::End(trailers) => {
                let owned = |(name, value): (&str, &[u8])| (name.to_owned(), value.to_vec());
                Heard::End(trailers.map(owned).collect())
            }
            ResponsePart::Upgraded(bytes) => Heard::Upgraded(bytes.to_vec()),
            other => panic!("{other:?}"),
        };
        let _ = self.tell.send(Told::Part(heard));
        Action::Continue
    }

    fn on_close(&mut self, _: &mut Reactor<'_, Self>, _: &Closed, (): (), reason: CloseReason) {
        let _ = self.tell.send(Told::Closed(reason));
    }
}

/// A connection to a server that the test plays, or to another one.
struct Visit {
    running: Running<Listener>,
    handle: Handle<Listener>,
    told: Receiver<Told>,
}

impl Visit {
    fn to(addr: SocketAddr, client: Client) -> Self {
        let (tell, told) = mpsc::channel();
        let tell = Mutex::new(tell);
        let make = move |_| Listener {
            tell: tell.lock().expect("is sound").clone(),
        };
        let running = client.start(make).expect("starts");
        running.engine().connect(addr).expect("is taken");
        let Ok(Told::Open(handle)) = told.recv_timeout(LONG) else {
            panic!("it does not open");
        };
        Self {
            running,
            handle,
            told,
        }
    }

    /// Returns a visit to the test, and the test's end of the connection.
    fn to_me(client: Client) -> (Self, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let visit = Self::to(listener.local_addr().expect("has one"), client);
        let (peer, _) = listener.accept().expect("accepts");
        (visit, peer)
    }

    fn run(&self, task: impl FnOnce(&mut Conn<'_, Listener>) + Send + 'static) {
        let (done, is_done) = mpsc::channel();
        let task = move |_: &mut Listener, conn: &mut Conn<'_, Listener>, (): &mut ()| {
            task(conn);
            let _ = done.send(());
        };
        self.handle.run(task).expect("is open");
        is_done.recv_timeout(LONG).expect("is run");
    }

    fn ask(&self, request: ClientRequest<'static>) {
        self.run(|conn| conn.send(request).expect("is taken"));
    }

    fn is_reusable(&self) -> bool {
        let (tell, told) = mpsc::channel();
        self.run(move |conn| tell.send(conn.codec().is_reusable()).expect("is awaited"));
        told.recv_timeout(LONG).expect("is told")
    }

    fn hear(&self) -> Heard {
        match self.told.recv_timeout(LONG) {
            Ok(Told::Part(heard)) => heard,
            Ok(Told::Closed(reason)) => panic!("closed: {reason}"),
            _ => panic!("nothing is heard"),
        }
    }

    /// Returns the body up to its end.
    fn hear_body(&self) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            match self.hear() {
                Heard::Body(bytes) => body.extend(bytes),
                Heard::End(_) => return body,
                other => panic!("{other:?}"),
            }
        }
    }

    fn await_end(&self) -> CloseReason {
        match self.told.recv_timeout(LONG) {
            Ok(Told::Closed(reason)) => reason,
            Ok(Told::Part(heard)) => panic!("{heard:?}"),
            _ => panic!("no end"),
        }
    }
}

fn say(peer: &mut TcpStream, text: &str) {
    peer.write_all(text.as_bytes()).expect("sends");
}

/// Reads from the peer until the input ends in `end`.
fn read_to(peer: &mut TcpStream, end: &str) -> String {
    peer.set_read_timeout(Some(LONG)).expect("is set");
    let mut received = Vec::new();
    while !received.ends_with(end.as_bytes()) {
        let mut byte = [0];
        peer.read_exact(&mut byte).expect("more");
        received.push(byte[0]);
    }
    String::from_utf8(received).expect("is text")
}

fn malformed(reason: &CloseReason) -> MessageError {
    match reason {
        CloseReason::Frame(error @ FrameError::Other(_)) => {
            MessageError::of(error).expect("is of the message")
        }
        other => panic!("{other}"),
    }
}

#[test]
fn each_part_of_a_response_is_handed_out_as_it_arrives() {
    let (visit, mut peer) = Visit::to_me(Client::new());
    visit.ask(ClientRequest::get("a", "/watch"));
    read_to(&mut peer, "\r\n\r\n");
    say(&mut peer, "HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(visit.hear(), Heard::Interim(100));
    say(&mut peer, "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
    assert_eq!(visit.hear(), Heard::Interim(103));
    say(
        &mut peer,
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    );
    assert_eq!(visit.hear(), Heard::Head(200));
    for event in ["one", "two", "three"] {
        assert!(!visit.is_reusable());
        say(&mut peer, &format!("{:x}\r\n{event}\r\n", event.len()));
        assert_eq!(visit.hear(), Heard::Body(event.into()));
    }
    say(&mut peer, "0\r\nChecksum: 7\r\n\r\n");
    let trailers = vec![("Checksum".to_owned(), b"7".to_vec())];
    assert_eq!(visit.hear(), Heard::End(trailers));
    assert!(visit.is_reusable());
    visit.ask(ClientRequest::new("HEAD", "a", "/"));
    read_to(&mut peer, "\r\n\r\n");
    say(&mut peer, "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n");
    assert_eq!(visit.hear(), Heard::Head(200));
    assert_eq!(visit.hear(), Heard::End(Vec::new()));
    assert!(visit.is_reusable());
}

#[test]
fn a_body_without_a_length_ends_where_the_stream_ends() {
    for body in ["", "hello"] {
        let (visit, mut peer) = Visit::to_me(Client::new());
        visit.ask(ClientRequest::get("a", "/"));
        read_to(&mut peer, "\r\n\r\n");
        say(&mut peer, "HTTP/1.1 200 OK\r\n\r\n");
        assert_eq!(visit.hear(), Heard::Head(200));
        say(&mut peer, body);
        if !body.is_empty() {
            assert_eq!(visit.hear(), Heard::Body(body.into()));
        }
        peer.shutdown(Shutdown::Write).expect("ends");
        assert_eq!(visit.hear(), Heard::End(Vec::new()));
        let reason = visit.await_end();
        assert!(matches!(reason, CloseReason::Local), "{reason}");
    }
}

#[test]
fn a_response_that_the_end_of_the_stream_cuts_short_has_no_end() {
    let cut = [
        ("HTTP/1.1 200 OK\r\nContent-Le", 0),
        ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", 1),
        ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello", 2),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 1),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
            2,
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
            2,
        ),
    ];
    for (said, parts) in cut {
        let (visit, mut peer) = Visit::to_me(Client::new());
        visit.ask(ClientRequest::get("a", "/"));
        read_to(&mut peer, "\r\n\r\n");
        say(&mut peer, said);
        for _ in 0..parts {
            visit.hear();
        }
        peer.shutdown(Shutdown::Write).expect("ends");
        assert_eq!(
            malformed(&visit.await_end()),
            MessageError::Truncated,
            "{said:?}"
        );
    }
    // Of a response that has not begun nothing is missing: the request may be sent again.
    let (visit, mut peer) = Visit::to_me(Client::new());
    visit.ask(ClientRequest::get("a", "/"));
    read_to(&mut peer, "\r\n\r\n");
    peer.shutdown(Shutdown::Write).expect("ends");
    let reason = visit.await_end();
    assert!(matches!(reason, CloseReason::Peer), "{reason}");
}

#[test]
fn a_response_may_end_before_its_request() {
    let (visit, mut peer) = Visit::to_me(Client::new());
    visit.run(|conn| {
        conn.send(ClientRequest::new("POST", "a", "/").streamed())
            .expect("is taken");
        conn.send(Chunk(b"first")).expect("is taken");
    });
    read_to(&mut peer, "first\r\n");
    say(
        &mut peer,
        "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno",
    );
    assert_eq!(visit.hear(), Heard::Head(403));
    assert_eq!(visit.hear_body(), b"no");
    assert!(!visit.is_reusable());
    visit.run(|conn| {
        assert!(!conn.codec().is_ready() && conn.codec().outstanding() == 0);
        conn.send(Chunk(b"second")).expect("is taken");
        conn.send(End).expect("is taken");
    });
    read_to(&mut peer, "6\r\nsecond\r\n0\r\n\r\n");
    assert!(visit.is_reusable());
    visit.ask(ClientRequest::get("a", "/"));
    read_to(&mut peer, "\r\n\r\n");
    say(&mut peer, "HTTP/1.1 204 No Content\r\n\r\n");
    assert_eq!(visit.hear(), Heard::Head(204));
    assert_eq!(visit.hear_body(), b"");
}

#[test]
fn a_byte_that_nobody_asked_for_ends_the_connection_also_between_responses() {
    for at_once in [false, true] {
        let (visit, mut peer) = Visit::to_me(Client::new());
        visit.ask(ClientRequest::get("a", "/"));
        read_to(&mut peer, "\r\n\r\n");
        let response = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
        say(&mut peer, response);
        if !at_once {
            assert_eq!(visit.hear(), Heard::Head(200));
            assert_eq!(visit.hear_body(), b"hi");
            assert!(visit.is_reusable());
        }
        say(&mut peer, "\n");
        if at_once {
            assert_eq!(visit.hear(), Heard::Head(200));
            assert_eq!(visit.hear_body(), b"hi");
        }
        let error = malformed(&visit.await_end());
        assert!(matches!(error, MessageError::Malformed { .. }), "{error}");
    }
}

#[test]
fn after_a_change_of_protocol_its_bytes_are_handed_out() {
    let connect = ClientRequest::new("CONNECT", "a:1", "a:1");
    let upgrade = ClientRequest::get("a", "/").upgrade("chat");
    for (request, head, status) in [
        (connect, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", 200),
        (
            upgrade,
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: chat\r\nConnection: upgrade\r\n\r\n",
            101,
        ),
    ] {
        let (visit, mut peer) = Visit::to_me(Client::new());
        visit.ask(request);
        read_to(&mut peer, "\r\n\r\n");
        say(&mut peer, &format!("{head}HTTP/1.1 "));
        assert_eq!(visit.hear(), Heard::Head(status));
        assert_eq!(visit.hear(), Heard::Upgraded(b"HTTP/1.1 ".to_vec()));
        visit.run(|conn| {
            assert!(conn.codec().is_upgraded() && !conn.codec().is_ready());
            conn.write(b"to you").expect("is taken");
        });
        read_to(&mut peer, "to you");
        say(&mut peer, "to me");
        assert_eq!(visit.hear(), Heard::Upgraded(b"to me".to_vec()));
        peer.shutdown(Shutdown::Write).expect("ends");
        let reason = visit.await_end();
        assert!(matches!(reason, CloseReason::Peer), "{reason}");
    }
    // A refusal is an ordinary response.
    let (visit, mut peer) = Visit::to_me(Client::new());
    visit.ask(ClientRequest::new("CONNECT", "a:1", "a:1"));
    read_to(&mut peer, "\r\n\r\n");
    say(
        &mut peer,
        "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno",
    );
    assert_eq!(visit.hear(), Heard::Head(403));
    assert_eq!(visit.hear_body(), b"no");
    assert!(visit.is_reusable());
}

#[test]
fn a_response_that_stalls_between_its_parts_has_the_read_timeout() {
    let client = Client::new().read_timeout(Duration::from_millis(200));
    let (visit, mut peer) = Visit::to_me(client);
    visit.ask(ClientRequest::get("a", "/"));
    read_to(&mut peer, "\r\n\r\n");
    say(
        &mut peer,
        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello",
    );
    assert_eq!(visit.hear(), Heard::Head(200));
    assert_eq!(visit.hear(), Heard::Body(b"hello".to_vec()));
    let reason = visit.await_end();
    let is_read = matches!(reason, CloseReason::Timeout(TimeoutKind::Read));
    assert!(is_read, "{reason}");
}

#[test]
fn a_shutdown_waits_for_the_rest_of_a_response() {
    let (visit, mut peer) = Visit::to_me(Client::new());
    visit.ask(ClientRequest::get("a", "/"));
    read_to(&mut peer, "\r\n\r\n");
    say(
        &mut peer,
        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello",
    );
    assert_eq!(visit.hear(), Heard::Head(200));
    assert_eq!(visit.hear(), Heard::Body(b"hello".to_vec()));
    visit.running.engine().shutdown();
    // A turn of the loop later it is under way.
    visit.run(|_| ());
    say(&mut peer, " you");
    assert_eq!(visit.hear_body(), b" you");
    let reason = visit.await_end();
    assert!(matches!(reason, CloseReason::Shutdown), "{reason}");
    let report = visit.running.join();
    assert_eq!((report.drained, report.forced), (1, 0));
}

#[test]
fn pythons_server_is_understood_part_by_part() {
    let body = noise(9, 3_000_000);
    let Some(python) = PythonServer::start(&body) else {
        return skipped("python3 is not installed");
    };
    let visit = Visit::to(python.addr, Client::new());
    for _ in 0..2 {
        visit.ask(ClientRequest::get("localhost", "/noise"));
        assert_eq!(visit.hear(), Heard::Head(200));
        assert!(visit.hear_body() == body);
        assert!(visit.is_reusable());
    }
    visit.ask(ClientRequest::new("HEAD", "localhost", "/noise"));
    assert_eq!(visit.hear(), Heard::Head(200));
    assert_eq!(visit.hear_body(), b"");
    // It closes after an error.
    visit.ask(ClientRequest::get("localhost", "/none"));
    assert_eq!(visit.hear(), Heard::Head(404));
    assert!(!visit.hear_body().is_empty());
    let reason = visit.await_end();
    assert!(matches!(reason, CloseReason::Local), "{reason}");
}
