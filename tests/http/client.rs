//! The client's codec against this server, another implementation, and servers that break the rules.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use std::{fs, thread};

use epicycle::codec::Codec;
use epicycle::http::client::{ClientCodec, ClientRequest, ClientResponse};
use epicycle::http::{Chunk, End, Limits, SendError};
use epicycle::{
    Action, Client, CloseReason, Closed, Conn, ConnInfo, EventHandler, Handle, Reactor, Running,
    TimeoutKind, WriteError,
};

use crate::responses::{Kept, cause};
use crate::site::{Site, start};
use crate::util::app::local;
use crate::util::client::TempPath;
use crate::util::{LONG, noise, skipped};

enum Heard {
    Open(Handle<Browser>),
    Response(Kept),
    Closed(Closed, CloseReason),
}

/// Tells a test what it hears, and is told what to ask.
struct Browser {
    tell: Sender<Heard>,
    limits: Limits,
}

impl EventHandler for Browser {
    type Codec = ClientCodec;
    type Session = ();

    fn codec(&mut self, _: &ConnInfo<'_>) -> ClientCodec {
        ClientCodec::new(self.limits)
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<()> {
        let _ = self.tell.send(Heard::Open(conn.handle()));
        Some(())
    }

    fn react(
        &mut self,
        _conn: &mut Conn<'_, Self>,
        (): &mut (),
        response: ClientResponse<'_>,
    ) -> Action {
        let _ = self.tell.send(Heard::Response(Kept::of(&response)));
        Action::Continue
    }

    fn on_close(&mut self, _: &mut Reactor<'_, Self>, info: &Closed, (): (), reason: CloseReason) {
        let _ = self.tell.send(Heard::Closed(info.clone(), reason));
    }
}

/// A connection to a server, in the hands of a test.
struct Visit {
    running: Running<Browser>,
    handle: Handle<Browser>,
    heard: Receiver<Heard>,
}

impl Visit {
    fn to(addr: SocketAddr) -> Self {
        Self::with(addr, Client::new().read_timeout(LONG), Limits::default())
    }

    fn with(to: SocketAddr, client: Client, limits: Limits) -> Self {
        let (tell, heard) = mpsc::channel();
        let tell = Mutex::new(tell);
        let make = move |_| Browser {
            tell: tell.lock().expect("is sound").clone(),
            limits,
        };
        let running = client.start(make).expect("starts");
        running.engine().connect(to).expect("is taken");
        let Ok(Heard::Open(handle)) = heard.recv_timeout(LONG) else {
            panic!("it does not open");
        };
        Self {
            running,
            handle,
            heard,
        }
    }

    fn run(&self, task: impl FnOnce(&mut Conn<'_, Browser>) + Send + 'static) {
        let taken = self.handle.run(|_, conn, ()| task(conn));
        taken.expect("is open");
    }

    fn ask(&self, request: ClientRequest<'static>) {
        self.run(|conn| conn.send(request).expect("is taken"));
    }

    fn hear(&self) -> Kept {
        match self.heard.recv_timeout(LONG) {
            Ok(Heard::Response(response)) => response,
            Ok(Heard::Closed(_, reason)) => panic!("closed: {reason}"),
            _ => panic!("no response"),
        }
    }

    fn await_end(&self) -> (Closed, CloseReason) {
        match self.heard.recv_timeout(LONG) {
            Ok(Heard::Closed(closed, reason)) => (closed, reason),
            Ok(Heard::Response(response)) => panic!("a response: {response:?}"),
            _ => panic!("no end"),
        }
    }
}

fn addr<C: Codec>(running: &Running<Site<C>>) -> SocketAddr {
    let addr = running.local_addrs()[0].as_socket_addr();
    addr.expect("is an IP address")
}

#[test]
fn requests_need_not_wait_for_responses() {
    let (running, _) = start(local(), Site::mirror);
    let visit = Visit::to(addr(&running));
    visit.run(|conn| {
        for n in 0..1000 {
            let target = format!("/{n}");
            let sent = match n % 4 {
                0 => conn.send(ClientRequest::get("a", &target)),
                1 => conn.send(ClientRequest::post("a", &target, "hello")),
                2 => conn.send(ClientRequest::new("HEAD", "a", &target)),
                _ => conn
                    .send(ClientRequest::new("PUT", "a", &target).streamed())
                    .and_then(|()| conn.send(Chunk(b"hel")))
                    .and_then(|()| conn.send(Chunk(b"lo")))
                    .and_then(|()| conn.send(End)),
            };
            sent.expect("is taken");
        }
    });
    for n in 0..1000 {
        let expected = match n % 4 {
            0 => format!("GET /{n}\n"),
            1 => format!("POST /{n}\nhello"),
            2 => String::new(),
            _ => format!("PUT /{n}\nhello"),
        };
        let response = visit.hear();
        assert_eq!((response.status, response.text()), (200, &*expected));
    }
    visit.ask(ClientRequest::get("a", "/last").close());
    assert_eq!(visit.hear().text(), "GET /last\n");
    let (closed, reason) = visit.await_end();
    assert!(matches!(reason, CloseReason::Local), "{reason}");
    assert_eq!((closed.unsent, closed.undecoded), (0, 0));
}

#[test]
fn large_bodies_go_both_ways() {
    const LEN: usize = 8 << 20;
    let (running, _) = start(local(), || {
        let limits = Limits::default().max_body(LEN as u64);
        Site::new(
            move || epicycle::http::HttpCodec::new(limits),
            |conn, _, request| {
                conn.send(epicycle::http::ServerResponse::ok().body(request.body()))
                    .into()
            },
        )
    });
    let limits = Limits::default().max_body(LEN as u64);
    let visit = Visit::with(addr(&running), Client::new(), limits);
    let body = noise(5, LEN);
    let shared = bytes::Bytes::from(body.clone());
    visit.ask(ClientRequest::new("PUT", "a", "/").shared_body(shared.clone()));
    assert!(visit.hear().body == body);
    let sized = shared.clone();
    visit.run(move |conn| {
        conn.send(ClientRequest::new("PUT", "a", "/").sized(LEN as u64))
            .expect("is taken");
        for part in sized.chunks(100_000) {
            conn.send(Chunk(part)).expect("is taken");
        }
    });
    assert!(visit.hear().body == body);
    let file = TempPath::new();
    fs::write(&file.0, &body).expect("writes");
    let opened = Arc::new(fs::File::open(&file.0).expect("opens"));
    visit.run(move |conn| {
        assert!(conn.codec().is_ready());
        conn.send(ClientRequest::new("PUT", "a", "/").file(LEN as u64))
            .expect("is taken");
        conn.send_file(opened.clone(), ..10).expect("is taken");
        let error = conn.send(End).expect_err("is too short").to_string();
        assert!(
            error.contains("8388598 of the announced bytes remain"),
            "{error}"
        );
        assert!(!conn.codec().is_ready());
        conn.send_file(opened.clone(), 10..).expect("is taken");
        conn.send(End).expect("is taken");
        assert!(conn.codec().is_ready());
        conn.send(ClientRequest::get("a", "/")).expect("is taken");
    });
    assert!(visit.hear().body == body);
    assert_eq!(visit.hear().body, b"");
}

/// A server that sends what it is told, once it has read a request, and ends its stream if told so.
fn scripted(said: Vec<u8>, ends: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let addr = listener.local_addr().expect("has one");
    thread::spawn(move || {
        let (mut peer, _) = listener.accept().expect("accepts");
        await_request(&mut peer);
        let _ = peer.write_all(&said);
        if ends {
            let _ = peer.shutdown(std::net::Shutdown::Write);
        }
        let _ = peer.read_to_end(&mut Vec::new());
    });
    addr
}

fn await_request(peer: &mut TcpStream) {
    let mut received = Vec::new();
    while !received.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        peer.read_exact(&mut byte).expect("a request");
        received.push(byte[0]);
    }
}

#[test]
fn a_refusal_is_heard_while_the_request_is_being_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let visit = Visit::to(listener.local_addr().expect("has one"));
    let (mut server, _) = listener.accept().expect("accepts");
    visit.run(|conn| {
        let body = vec![b'x'; 16 << 20];
        let request = ClientRequest::new("POST", "a", "/").sized(body.len() as u64);
        conn.send(request).expect("is taken");
        conn.send(Chunk(&body)).expect("is taken");
    });
    await_request(&mut server);
    // It reads no more of it.
    server
        .write_all(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 4\r\n\r\nmuch")
        .expect("sends");
    assert_eq!(visit.hear().body, b"much");
}

#[test]
fn a_body_may_end_with_the_stream() {
    let body = noise(6, 300_000);
    for head in [
        "HTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\n",
    ] {
        let visit = Visit::to(scripted([head.as_bytes(), &body].concat(), true));
        visit.run(|conn| {
            conn.send(ClientRequest::get("a", "/1")).expect("is taken");
            conn.send(ClientRequest::get("a", "/never answered"))
                .expect_err("is no target");
            conn.send(ClientRequest::get("a", "/never-answered"))
                .expect("is taken");
        });
        assert!(visit.hear().body == body);
        let (_, reason) = visit.await_end();
        assert!(
            matches!(reason, CloseReason::Local | CloseReason::Peer),
            "{reason}"
        );
    }
    let visit = Visit::to(scripted(b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), true));
    visit.ask(ClientRequest::get("a", "/empty"));
    assert_eq!(visit.hear().body, b"");
}

#[test]
fn a_response_that_is_cut_short_is_an_error() {
    let cut = [
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
    ];
    for said in cut {
        let visit = Visit::to(scripted(said.as_bytes().to_vec(), true));
        visit.ask(ClientRequest::get("a", "/"));
        let (_, reason) = visit.await_end();
        assert!(
            matches!(reason, CloseReason::Frame(_)),
            "{said:?}: {reason}"
        );
    }
    // Of what has not begun there is no part.
    let visit = Visit::to(scripted(Vec::new(), true));
    visit.ask(ClientRequest::get("a", "/"));
    let (_, reason) = visit.await_end();
    assert!(matches!(reason, CloseReason::Peer), "{reason}");
}

#[test]
fn a_response_that_does_not_go_on_has_the_read_timeout_and_one_that_does_not_begin_the_idle_timeout()
 {
    let brief = Duration::from_millis(200);
    let client = || Client::new().read_timeout(brief).idle_timeout(2 * brief);
    for (said, kind) in [("HTTP/1.1 200", TimeoutKind::Read), ("", TimeoutKind::Idle)] {
        let server = scripted(said.into(), false);
        let visit = Visit::with(server, client(), Limits::default());
        visit.ask(ClientRequest::get("a", "/"));
        let (_, reason) = visit.await_end();
        assert!(
            matches!(reason, CloseReason::Timeout(other) if other == kind),
            "{reason}"
        );
    }
}

#[test]
fn a_shutdown_waits_for_the_responses_that_are_outstanding() {
    let (asked, requests) = mpsc::channel();
    let asked = Mutex::new(asked);
    let (server, _) = start(local(), move || {
        let asked = asked.lock().expect("is sound").clone();
        Site::of(move |conn, _, _| {
            let _ = asked.send(conn.handle());
            epicycle::Action::Continue
        })
    });
    let client = Client::new().drain_deadline(2 * LONG);
    let visit = Visit::with(addr(&server), client, Limits::default());
    visit.ask(ClientRequest::get("a", "/1"));
    visit.ask(ClientRequest::get("a", "/2"));
    let handle = requests.recv_timeout(LONG).expect("is asked");
    visit.running.engine().shutdown();
    for next in [true, false] {
        let late = epicycle::http::ServerResponse::ok().body(b"late");
        handle.send(late).expect("is open");
        assert_eq!(visit.hear().body, b"late");
        if next {
            requests.recv_timeout(LONG).expect("is asked again");
        }
    }
    let (_, reason) = visit.await_end();
    assert!(matches!(reason, CloseReason::Shutdown), "{reason}");
    let report = visit.running.join();
    assert_eq!((report.drained, report.forced), (1, 0));
}

/// A server that says something and never ends its stream, whatever the client does, as long as what it gives back is
/// there.
fn deaf(said: &'static str) -> (SocketAddr, Sender<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let addr = listener.local_addr().expect("has one");
    let (leave, left) = mpsc::channel();
    thread::spawn(move || {
        let (mut peer, _) = listener.accept().expect("accepts");
        await_request(&mut peer);
        peer.write_all(said.as_bytes()).expect("is taken");
        let _ = left.recv();
    });
    (addr, leave)
}

#[test]
fn a_client_hears_at_once_of_a_server_that_has_failed_though_that_does_not_hang_up() {
    let brief = Duration::from_millis(200);
    let client = || Client::new().fin_timeout(100 * LONG).drain_deadline(brief);
    for (said, client, expected) in [
        (
            "HTTP/1.1 200",
            client().read_timeout(brief),
            "a frame took too long to arrive",
        ),
        ("", client().idle_timeout(brief), "idle for too long"),
        (
            "",
            client().handshake_timeout(brief),
            "the first frame took too long",
        ),
        (
            "SSH-2.0\r\n",
            client(),
            "it does not begin with a version of HTTP",
        ),
    ] {
        let (server, leave) = deaf(said);
        let visit = Visit::with(server, client, Limits::default());
        visit.ask(ClientRequest::get("a", "/"));
        let (closed, reason) = visit.await_end();
        assert!(reason.to_string().contains(expected), "{said:?}: {reason}");
        assert_eq!((closed.unsent, closed.bytes_in), (0, said.len() as u64));
        // Nothing can be asked of it any more, and it is counted once.
        visit.handle.run(|_, _, ()| ()).expect_err("it has ended");
        assert_eq!(visit.running.engine().stats().total().closed, 1);
        drop(leave);
        let running = visit.running.engine().clone();
        crate::util::eventually("its socket is closed", || running.connections() == 0);
        assert_eq!(running.stats().total().closed, 1);
        assert!(visit.heard.try_recv().is_err(), "it is told once");
    }
}

#[test]
fn an_upgraded_connection_is_left_to_the_handler() {
    let said =
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: chat/2\r\n\r\nhello";
    let visit = Visit::to(scripted(said.into(), false));
    visit.run(|conn| {
        conn.send(ClientRequest::get("a", "/").upgrade("chat/2"))
            .expect("is taken");
        let refused = conn.send(ClientRequest::get("a", "/"));
        assert_eq!(refusal(refused), SendError::Last);
    });
    let response = visit.hear();
    assert_eq!(
        (response.status, response.upgraded, &response.body[..]),
        (101, true, &b""[..])
    );
    let (tell, unread) = mpsc::channel();
    visit.run(move |conn| {
        assert_eq!(
            refusal(conn.send(ClientRequest::get("a", "/"))),
            SendError::Last
        );
        conn.detach(move |detached| tell.send(detached.unread).expect("is awaited"))
            .expect("can be");
    });
    let unread = unread.recv_timeout(LONG).expect("is detached");
    assert!(b"hello".starts_with(&unread), "{unread:?}");
}

fn refusal(sent: Result<(), WriteError>) -> SendError {
    match sent {
        Err(WriteError::Frame(error)) => cause(error),
        other => panic!("not refused: {other:?}"),
    }
}

/// Python's server, and a directory with a file in it.
pub(crate) struct PythonServer {
    pub(crate) addr: SocketAddr,
    process: Child,
    dir: TempPath,
}

impl PythonServer {
    /// Serves `body` as `/noise`. Returns `None` if Python is not installed.
    pub(crate) fn start(body: &[u8]) -> Option<Self> {
        let dir = TempPath::new();
        fs::create_dir(&dir.0).expect("is made");
        fs::write(dir.0.join("noise"), body).expect("writes");
        let probe = TcpListener::bind("127.0.0.1:0").expect("binds");
        let addr = probe.local_addr().expect("has one");
        drop(probe);
        let process = Command::new("python3")
            .args(["-m", "http.server", "--protocol", "HTTP/1.1"])
            .args(["--bind", "127.0.0.1"])
            .arg(addr.port().to_string())
            .arg("--directory")
            .arg(&dir.0)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        crate::util::eventually("it listens", || TcpStream::connect(addr).is_ok());
        Some(Self { addr, process, dir })
    }
}

impl Drop for PythonServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.dir.0);
    }
}

#[test]
fn pythons_server_is_understood() {
    let body = noise(8, 500_000);
    let Some(python) = PythonServer::start(&body) else {
        return skipped("python3 is not installed");
    };
    let visit = Visit::to(python.addr);
    visit.ask(ClientRequest::get("localhost", "/noise"));
    assert!(visit.hear().body == body);
    visit.ask(ClientRequest::new("HEAD", "localhost", "/noise"));
    let response = visit.hear();
    assert_eq!((response.status, response.body.len()), (200, 0));
    visit.ask(ClientRequest::get("localhost", "/"));
    assert!(visit.hear().text().contains("noise"));
    visit.ask(ClientRequest::get("localhost", "/none"));
    assert_eq!(visit.hear().status, 404);
    let _ = visit.await_end();
}
