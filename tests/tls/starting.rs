//! TLS that begins in mid-stream: STARTTLS, on either side.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use epicycle::codec::{self, Lines, Raw};
use epicycle::tls::{TlsClient, TlsServer};
use epicycle::{
    Action, Answer, CloseReason, Closed, Conn, ConnInfo, EventHandler, Origin, Reactor, Running,
    Server, StartTlsError, TimeoutKind, WriteError,
};
use rustls::ClientConnection;

use crate::pki::{TRUSTED, client_config, client_tls, server_tls};
use crate::util::client::{Client, TempPath};
use crate::util::{LONG, eventually, noise, skipped};

codec::one_of! {
    /// Lines as SMTP has them, and then whatever the two sides like.
    enum Mail {
        Text(Lines),
        Bytes(Raw),
    }
    enum MailFrame;
    impl Encode<&[u8]> for Text | Bytes;
}

/// A mail server of a kind, or its client.
///
/// The server answers `STARTTLS`, and each other line with `250` and the line. `BYTES` is a STARTTLS after which there are no
/// lines any more, and `MUCH` one after which much output waits.
#[derive(Clone)]
struct Post {
    tls: TlsServer,
    client: (TlsClient, String),
    events: Arc<Mutex<Vec<String>>>,
    owed: Arc<Mutex<Vec<Answer<Self>>>>,
}

const MUCH: usize = 6 << 20;

impl Post {
    fn new() -> Self {
        Self {
            tls: server_tls(),
            client: (client_tls(), "localhost".to_owned()),
            events: Arc::default(),
            owed: Arc::default(),
        }
    }

    fn start(&self) -> Running<Self> {
        let server = Server::bind("tcp://127.0.0.1:0").reactors(1);
        let post = self.clone();
        server.start(move |_| post.clone()).expect("starts")
    }

    fn note(&self, conn: &Conn<'_, Self>, event: impl Into<String>) {
        let side = match conn.origin() {
            Origin::Connected { .. } => "client",
            _ => "server",
        };
        self.push(format!("{side}: {}", event.into()));
    }

    fn push(&self, event: String) {
        self.events.lock().expect("no panics").push(event);
    }

    fn events(&self) -> Vec<String> {
        self.events.lock().expect("no panics").clone()
    }

    fn await_event(&self, event: &str) {
        eventually(event, || {
            self.events().iter().any(|known| known.contains(event))
        });
    }

    fn serve(&self, conn: &mut Conn<'_, Self>, line: &[u8]) -> Action {
        match line {
            b"STARTTLS" => conn.send(&b"220 go ahead"[..]).expect("is taken"),
            b"BYTES" => {
                conn.send(&b"220 go ahead"[..]).expect("is taken");
                conn.switch(Raw);
            }
            b"LATER" => {
                let answer = conn.defer_answer();
                self.owed.lock().expect("no panics").push(answer);
                return Action::Continue;
            }
            b"MUCH" => {
                conn.write_shared(noise(1, MUCH)).expect("is taken");
            }
            line if line.starts_with(b"ehlo") => {
                if conn.tls().is_none() {
                    conn.send(&b"250-mail"[..]).expect("is taken");
                    return conn.send(&b"250 STARTTLS"[..]).into();
                }
                return conn.send(&b"250 mail"[..]).into();
            }
            b"quit" => {
                conn.send(&b"221 bye"[..]).expect("is taken");
                return Action::Close;
            }
            line => return conn.send(&[b"250 ", line].concat()[..]).into(),
        }
        if let Err(error) = conn.start_tls_server(&self.tls) {
            return conn.send(format!("454 {error}").as_bytes()).into();
        }
        // From now on nothing can be written in plain text.
        let refused = conn.write(b"plain").expect_err("is refused");
        assert!(matches!(refused, WriteError::StartsTls), "{refused}");
        let again = conn.start_tls_server(&self.tls).expect_err("is refused");
        assert!(matches!(again, StartTlsError::NotOpen), "{again}");
        Action::Continue
    }
}

impl EventHandler for Post {
    type Codec = Mail;
    type Session = ();

    fn codec(&mut self, _: &ConnInfo<'_>) -> Mail {
        Lines::new().crlf().into()
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<()> {
        if let Origin::Accepted { .. } = conn.origin() {
            conn.send(&b"220 mail"[..]).ok()?;
        }
        Some(())
    }

    fn react(&mut self, conn: &mut Conn<'_, Self>, (): &mut (), frame: MailFrame<'_>) -> Action {
        let line = match frame {
            MailFrame::Text(line) => line,
            MailFrame::Bytes(bytes) => return conn.write(bytes).into(),
        };
        self.note(conn, String::from_utf8_lossy(line));
        if let Origin::Accepted { .. } = conn.origin() {
            return self.serve(conn, line);
        }
        match line {
            b"220 mail" => conn.send(&b"STARTTLS"[..]).into(),
            b"220 go ahead" => {
                let (tls, host) = &self.client;
                conn.start_tls_client(tls, host).expect("begins");
                Action::Continue
            }
            b"250 secret" => Action::Close,
            _ => Action::Continue,
        }
    }

    fn on_tls(&mut self, conn: &mut Conn<'_, Self>, (): &mut ()) -> Action {
        self.note(conn, "TLS");
        assert!(conn.tls().is_some());
        let twice = conn.start_tls_server(&self.tls).expect_err("is refused");
        assert!(matches!(twice, StartTlsError::NotPlain), "{twice}");
        match conn.origin() {
            Origin::Connected { .. } => conn.send(&b"secret"[..]).into(),
            _ => Action::Continue,
        }
    }

    fn on_close(&mut self, _: &mut Reactor<'_, Self>, info: &Closed, (): (), reason: CloseReason) {
        let short = match &reason {
            CloseReason::Tls(_) => "tls failed".to_owned(),
            CloseReason::Timeout(TimeoutKind::Handshake) => "handshake timeout".to_owned(),
            other => other.to_string(),
        };
        self.push(format!("closed: {short}, {} unsent", info.unsent));
    }
}

/// A client without TLS, which has been greeted.
fn greeted(running: &Running<Post>) -> Client {
    let client = Client::to(running);
    assert_eq!(client.recv(10), b"220 mail\r\n");
    client
}

/// Begins the handshake behind `before`, in one piece with it, and returns the answer to a line under TLS.
fn hurry(client: &Client, before: &[u8], answer: &[u8]) -> Vec<u8> {
    let config = Arc::new(client_config());
    let name = "localhost".try_into().expect("a name");
    let mut connection = ClientConnection::new(config, name).expect("is set up");
    let mut first = before.to_vec();
    connection.write_tls(&mut first).expect("writes");
    client.send(first);
    assert_eq!(client.recv(answer.len()), answer);
    let mut stream = rustls::StreamOwned::new(connection, &client.0);
    stream.write_all(b"hello\r\n").expect("sends");
    let mut line = Vec::new();
    while !line.ends_with(b"hello\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("receives");
        line.push(byte[0]);
    }
    line
}

#[test]
fn both_sides_go_over_to_tls_in_mid_stream() {
    let post = Post::new();
    let running = post.start();
    let addr = running.local_addrs()[0].to_string();
    running.engine().connect(addr.as_str()).expect("is taken");
    post.await_event("closed: closed by this side");
    eventually("both close", || running.engine().connections() == 0);
    let events = post.events();
    for expected in [
        "server: TLS",
        "client: TLS",
        "server: secret",
        "client: 250 secret",
    ] {
        assert!(events.iter().any(|event| event == expected), "{events:?}");
    }
    let total = running.shutdown().stats.total();
    assert_eq!((total.handshakes, total.handshake_failures), (2, 0));
    assert_eq!((total.accepted, total.connected, total.closed), (1, 1, 2));
}

#[test]
fn a_handshake_that_comes_with_the_command_is_taken() {
    let post = Post::new();
    let running = post.start();
    let answer = hurry(&greeted(&running), b"STARTTLS\r\n", b"220 go ahead\r\n");
    assert_eq!(answer, b"250 hello\r\n");
    assert!(post.events().contains(&"server: hello".to_owned()));
}

#[test]
fn the_codec_can_change_with_the_stream() {
    let post = Post::new();
    let running = post.start();
    let client = greeted(&running);
    // The answer is encoded by the codec of before. Under TLS the bytes come back as they are.
    let answer = hurry(&client, b"BYTES\r\n", b"220 go ahead\r\n");
    assert_eq!(answer, b"hello\r\n");
}

#[test]
fn commands_injected_behind_starttls_never_reach_the_codec() {
    let post = Post::new();
    let running = post.start();
    for (n, injected) in [&b"RCPT injected\r\n"[..], &vec![b'x'; 300_000]]
        .into_iter()
        .enumerate()
    {
        let client = greeted(&running);
        client.send([b"STARTTLS\r\n", injected].concat());
        // The answer, then an alert.
        let (answer, _) = client.recv_to_any_end();
        assert!(answer.starts_with(b"220 go ahead\r\n"));
        drop(client);
        eventually("it is closed", || {
            let closed = post.events();
            let closed = closed
                .iter()
                .filter(|event| event.starts_with("closed: tls failed"));
            closed.count() == n + 1
        });
    }
    let events = post.events();
    assert!(
        !events.iter().any(|event| event.contains("injected")),
        "{events:?}"
    );
    assert!(
        !events
            .iter()
            .any(|event| event.contains("TLS") && !event.contains("STARTTLS"))
    );
    let total = running.shutdown().stats.total();
    assert_eq!(
        (total.handshakes, total.handshake_failures, total.tls_errors),
        (0, 2, 2)
    );
}

#[test]
fn answers_injected_before_the_handshake_never_reach_a_client() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let addr = listener.local_addr().expect("has one");
    let server = thread::spawn(move || {
        let (mut peer, _) = listener.accept().expect("accepts");
        peer.set_read_timeout(Some(LONG)).expect("is set");
        peer.write_all(b"220 mail\r\n").expect("sends");
        peer.read_exact(&mut [0; 10]).expect("receives");
        peer.write_all(b"220 go ahead\r\n250 injected\r\n")
            .expect("sends");
        let _ = peer.read_to_end(&mut Vec::new());
    });
    let post = Post::new();
    let running = post.start();
    running.engine().connect(addr).expect("is taken");
    post.await_event("closed: tls failed");
    let events = post.events();
    assert!(
        !events.iter().any(|event| event.contains("injected")),
        "{events:?}"
    );
    running.shutdown();
    server.join().expect("ends");
}

#[test]
fn a_certificate_for_another_name_ends_the_connection() {
    let mut post = Post::new();
    post.client.1 = "other.test".to_owned();
    let running = post.start();
    let addr = running.local_addrs()[0].to_string();
    running.engine().connect(addr.as_str()).expect("is taken");
    // Both sides are told: the client by its check, the server by the alert.
    eventually("both close", || {
        let events = post.events();
        events
            .iter()
            .filter(|event| event.starts_with("closed: tls failed"))
            .count()
            == 2
    });
    assert!(!post.events().iter().any(|event| event.ends_with(": TLS")));
}

#[test]
fn output_from_before_is_sent_as_it_is() {
    let post = Post::new();
    let running = post.start();
    let client = greeted(&running);
    client.send("MUCH\r\n");
    post.await_event("server: MUCH");
    assert!(client.recv(MUCH) == noise(1, MUCH));
    let answer = hurry(&client, b"", b"");
    assert_eq!(answer, b"250 hello\r\n");
}

#[test]
fn a_handshake_that_never_comes_ends_by_its_timeout() {
    let mut post = Post::new();
    post.tls = server_tls().handshake_timeout(Duration::from_millis(50));
    let running = post.start();
    let client = greeted(&running);
    client.send("STARTTLS\r\n");
    post.await_event("closed: handshake timeout");
    let total = running.shutdown().stats.total();
    assert_eq!(
        (total.handshake_failures, total.timeouts, total.closed),
        (1, 1, 1)
    );
}

#[test]
fn a_peer_that_leaves_during_the_handshake_ends_the_connection() {
    let post = Post::new();
    let running = post.start();
    for _ in 0..2 {
        let client = greeted(&running);
        client.send("STARTTLS\r\n");
        assert_eq!(client.recv(14), b"220 go ahead\r\n");
    }
    // The end in one piece with the command.
    let client = greeted(&running);
    client.send("STARTTLS\r\n");
    client.end_writes();
    let _ = client.recv_to_any_end();
    eventually("all close", || running.engine().connections() == 0);
    let closed = post.events();
    let closed = closed.iter().filter(|event| event.starts_with("closed: "));
    let closed: Vec<_> = closed.collect();
    assert_eq!(closed, ["closed: tls failed, 0 unsent"; 3]);
    let stats = running.engine().stats().total();
    assert_eq!((stats.tls_errors, stats.handshake_failures), (3, 3));
}

#[test]
fn writes_of_other_threads_and_a_shutdown_during_the_handshake() {
    let post = Post::new();
    let running = post.start();
    let client = greeted(&running);
    client.send("STARTTLS\r\n");
    assert_eq!(client.recv(14), b"220 go ahead\r\n");
    let (tell, told) = mpsc::channel();
    running
        .engine()
        .run_on(0, move |_, reactor| {
            reactor.for_each(|conn, ()| {
                let done = conn.write_then(&b"plain"[..], |_| {});
                tell.send(matches!(done, Err(WriteError::StartsTls)))
                    .expect("waits");
            });
        })
        .expect("is taken");
    assert!(told.recv_timeout(LONG).expect("is told"));
    // Nobody waits for the silent peer.
    running.shutdown();
    let (rest, end) = client.recv_to_any_end();
    assert_eq!(rest, b"");
    assert!(Client::is_reset(&end), "{end:?}");
    post.await_event("closed: ");
}

fn ca_file() -> TempPath {
    let path = TempPath::new();
    std::fs::write(&path.0, TRUSTED.pem()).expect("is written");
    path
}

#[test]
fn pythons_smtplib_starts_tls() {
    let found = Command::new("python3")
        .args(["-c", "import smtplib, ssl"])
        .output();
    if !found.is_ok_and(|output| output.status.success()) {
        return skipped("python3 with smtplib and ssl is not installed");
    }
    let post = Post::new();
    let running = post.start();
    let script = "
import smtplib, ssl, sys
port, ca = int(sys.argv[1]), sys.argv[2]
mail = smtplib.SMTP('localhost', port, timeout=60)
mail.ehlo('stranger')
assert mail.has_extn('starttls')
code, text = mail.starttls(context=ssl.create_default_context(cafile=ca))
assert code == 220, (code, text)
mail.ehlo('stranger')
assert not mail.has_extn('starttls')
assert mail.docmd('secret') == (250, b'secret')
mail.quit()
print('good')
";
    let port = running.local_addrs()[0]
        .as_socket_addr()
        .expect("IP")
        .port();
    let ca = ca_file();
    let mut python = Command::new("python3");
    python
        .arg("-c")
        .arg(script)
        .arg(port.to_string())
        .arg(&ca.0);
    let output = python.output().expect("runs");
    let shown = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.stdout, b"good\n", "{shown}");
    post.await_event("server: secret");
}

#[test]
fn a_python_server_starts_tls_with_our_client() {
    let found = Command::new("python3").args(["-c", "import ssl"]).output();
    if !found.is_ok_and(|output| output.status.success()) {
        return skipped("python3 with ssl is not installed");
    }
    let script = "
import socket, ssl, sys
server = socket.create_server(('127.0.0.1', 0))
print(server.getsockname()[1], flush=True)
peer, _ = server.accept()
peer.settimeout(60)
peer.sendall(b'220 mail\\r\\n')
assert peer.recv(100) == b'STARTTLS\\r\\n'
peer.sendall(b'220 go ahead\\r\\n')
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1], sys.argv[2])
peer = context.wrap_socket(peer, server_side=True)
assert peer.recv(100) == b'secret\\r\\n'
peer.sendall(b'250 secret\\r\\n')
assert peer.recv(100) == b''
print('good')
";
    let issued = TRUSTED.issue(&["localhost"]);
    let (certificate, key) = (TempPath::new(), TempPath::new());
    std::fs::write(&certificate.0, issued.certificate).expect("is written");
    std::fs::write(&key.0, issued.key).expect("is written");
    let mut python = Command::new("python3");
    python.arg("-c").arg(script).arg(&certificate.0).arg(&key.0);
    let mut child = python
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("runs");
    let mut said = child.stdout.take().expect("is piped");
    let mut port = Vec::new();
    while !port.ends_with(b"\n") {
        let mut byte = [0];
        said.read_exact(&mut byte).expect("says its port");
        port.push(byte[0]);
    }
    let port = String::from_utf8_lossy(&port);
    let post = Post::new();
    let running = post.start();
    let addr = format!("tcp://127.0.0.1:{}", port.trim());
    running.engine().connect(addr.as_str()).expect("is taken");
    post.await_event("closed: closed by this side");
    assert!(child.wait().expect("ends").success());
    assert!(post.events().contains(&"client: 250 secret".to_owned()));
}

#[test]
fn tls_is_not_started_on_a_connection_that_cannot_have_it() {
    let post = Post::new();
    let running = post.start();
    let addr = running.local_addrs()[0].as_socket_addr().expect("IP");
    let _peer = TcpStream::connect(addr).expect("connects");
    eventually("it is open", || running.engine().connections() == 1);
    let (tell, told) = mpsc::channel();
    let (client, server) = (client_tls(), server_tls());
    running
        .engine()
        .run_on(0, move |_, reactor| {
            reactor.for_each(|conn, ()| {
                let nameless = conn.start_tls_client(&client, "");
                let nameless = matches!(nameless, Err(StartTlsError::Tls(_)));
                // It stays as it was.
                conn.write(b"more").expect("is taken");
                conn.shutdown_write();
                let shut = conn.start_tls_server(&server);
                let shut = matches!(shut, Err(StartTlsError::NotOpen));
                tell.send(nameless && shut).expect("waits");
            });
        })
        .expect("is taken");
    assert!(told.recv_timeout(LONG).expect("is told"));
}

/// Has a server owe a client the answer to STARTTLS, and gives it once the server waits for it to shut down.
fn started_in_a_shutdown(post: &Post) -> (Client, Running<Post>) {
    let running = post.start();
    let client = greeted(&running);
    client.send("LATER\r\n");
    post.await_event("server: LATER");
    let idle = greeted(&running);
    running.engine().shutdown();
    // Then the other one has been asked before.
    assert_eq!(idle.recv_to_end(), b"");
    let answer = post.owed.lock().expect("no panics").pop();
    let tls = post.tls.clone();
    answer
        .expect("is owed")
        .run(move |_, conn, ()| {
            conn.send(&b"220 go ahead"[..]).expect("is taken");
            conn.start_tls_server(&tls).expect("begins");
        })
        .expect("is open");
    assert_eq!(client.recv(14), b"220 go ahead\r\n");
    (client, running)
}

#[test]
fn a_shutdown_that_waited_for_the_answer_goes_on_behind_the_handshake() {
    let post = Post::new();
    let (client, running) = started_in_a_shutdown(&post);
    let name = "localhost".try_into().expect("a name");
    let connection = ClientConnection::new(Arc::new(client_config()), name).expect("is set up");
    let mut rest = Vec::new();
    rustls::StreamOwned::new(connection, &client.0)
        .read_to_end(&mut rest)
        .expect("ends with close_notify");
    drop(client);
    let report = running.join();
    assert!(post.events().contains(&"server: TLS".to_owned()));
    assert_eq!((report.drained, report.forced), (2, 0));
}

#[test]
fn a_handshake_that_fails_during_a_shutdown_ends_the_connection() {
    let post = Post::new();
    let (client, running) = started_in_a_shutdown(&post);
    client.send("no handshake");
    let _ = client.recv_to_any_end();
    drop(client);
    let report = running.join();
    post.await_event("closed: tls failed");
    let total = report.stats.total();
    assert_eq!((total.handshake_failures, total.panics), (1, 0));
    assert_eq!((report.drained, report.forced), (2, 0));
}
