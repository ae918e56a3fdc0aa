//! Unix sockets of records (`unixpacket://`): a stream of bytes that travels in records.

use std::fs::{self, File};
use std::io::{self, IoSlice, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use epicycle::codec::{LengthField, Lines};
use epicycle::{Action, CloseReason, DetachError, Endpoint, Listen, Running, Server, handover};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::util::app::{App, Cut, Gate, Log, local, start};
use crate::util::client::{Client, TempPath};
use crate::util::{LONG, eventually, noise, skipped};

/// The longest record that the engine sends.
const SENT_MAX: usize = 4096;

/// The longest record that it takes.
const RECEIVED_MAX: usize = 64 << 10;

fn addr(path: &TempPath) -> String {
    format!("unixpacket://{}", path.0.display())
}

/// Starts a server with one reactor.
fn serve(
    path: &TempPath,
    make: impl Fn(App) -> App + Send + Sync + 'static,
) -> (Running<App>, Arc<Log>) {
    start(Server::bind(addr(path)).reactors(1), make)
}

/// A peer that sees the records.
struct Peer(Socket);

impl Peer {
    fn to(path: &TempPath) -> Self {
        let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None).expect("a socket");
        let addr = SockAddr::unix(&path.0).expect("an address");
        socket.connect(&addr).expect("connects");
        Self::with(socket)
    }

    fn with(socket: Socket) -> Self {
        socket.set_read_timeout(Some(LONG)).expect("is set");
        socket.set_write_timeout(Some(LONG)).expect("is set");
        Self(socket)
    }

    fn send(&self, record: impl AsRef<[u8]>) {
        let record = record.as_ref();
        assert_eq!(self.0.send(record).expect("sends"), record.len());
    }

    /// Returns the next record as a reader sees it who has a buffer of 4,096 bytes.
    fn record(&self) -> Vec<u8> {
        let mut buffer = [0; SENT_MAX];
        let n = (&self.0).read(&mut buffer).expect("receives");
        buffer[..n].to_vec()
    }

    /// Returns the records of the next `len` bytes.
    fn records(&self, len: usize) -> Vec<Vec<u8>> {
        let (mut records, mut got) = (Vec::new(), 0);
        while got < len {
            let record = self.record();
            assert!(!record.is_empty(), "the stream ends after {got} bytes");
            got += record.len();
            records.push(record);
        }
        assert_eq!(got, len);
        records
    }

    fn round_trip(&self, bytes: &[u8]) {
        self.send(bytes);
        assert_eq!(self.record(), bytes);
    }
}

#[test]
fn output_is_cut_into_records_that_a_buffer_of_4096_bytes_takes() {
    let path = TempPath::new();
    let (_running, _log) = serve(&path, |app| {
        app.react(|conn, _, frame| match frame {
            b"once" => conn.write(&noise(1, 10_000)).into(),
            b"shared" => conn.write_shared(noise(2, 1 << 20)).into(),
            b"small" => {
                let parts = [&b"a"[..], b"", b"b", &[b'c'; 4090], &[b'd'; 9]];
                conn.write_vectored(&parts.map(IoSlice::new)).into()
            }
            frame => conn.write(frame).into(),
        })
    });
    let peer = Peer::to(&path);
    peer.round_trip(b"hello");
    for (request, expected) in [("once", noise(1, 10_000)), ("shared", noise(2, 1 << 20))] {
        peer.send(request);
        let records = peer.records(expected.len());
        assert!(records.concat() == expected, "{request}");
        assert!(records.iter().all(|record| record.len() <= SENT_MAX));
        assert_eq!(records.len(), expected.len().div_ceil(SENT_MAX));
    }
    peer.send("small");
    assert_eq!(peer.records(4101).len(), 2, "small slices share a record");
}

#[test]
fn received_records_are_joined_to_the_stream_of_bytes() {
    let path = TempPath::new();
    let (running, log) = serve(&path, |app| {
        app.codec(Cut::Lines(Lines::new()))
            .react(|conn, _, line| conn.send(line).into())
    });
    let peer = Peer::to(&path);
    for record in ["on", "e\ntwo\nth", "ree\n"] {
        peer.send(record);
    }
    assert_eq!(peer.records(14).concat(), b"one\ntwo\nthree\n");
    assert_eq!(log.frames(), 3);
    // The transport is told, and the address has the usual form.
    assert_eq!(
        running.local_addrs()[0].to_string(),
        format!("unix://{}", path.0.display())
    );
}

#[test]
fn records_and_frames_of_all_sizes_come_through_any_read_buffer() {
    for read_buffer in [16 << 10, 64 << 10, 256 << 10] {
        let path = TempPath::new();
        let server = Server::bind(addr(&path))
            .reactors(1)
            .read_buffer(read_buffer);
        let (_running, _log) = start(server, |app| {
            app.codec(Cut::Length(LengthField::default()))
                .react(|conn, _, frame| conn.send(frame).into())
        });
        let seed = fastrand::u64(..);
        println!("seed {seed}, read buffer {read_buffer}");
        let mut random = fastrand::Rng::with_seed(seed);
        let mut stream = Vec::new();
        while stream.len() < 4 << 20 {
            let magnitude = random.u32(0..20);
            let frame = noise(seed, random.usize(0..=1 << magnitude));
            stream.extend_from_slice(&(frame.len() as u32).to_be_bytes());
            stream.extend_from_slice(&frame);
        }
        let peer = Peer::to(&path);
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut rest = &stream[..];
                while !rest.is_empty() {
                    let n = random.usize(1..=RECEIVED_MAX).min(rest.len());
                    peer.send(&rest[..n]);
                    rest = &rest[n..];
                }
            });
            assert!(peer.records(stream.len()).concat() == stream);
        });
    }
}

#[test]
fn a_record_that_is_too_long_closes_the_connection_with_the_reason() {
    let path = TempPath::new();
    let (_running, log) = serve(&path, |app| app);
    let peer = Peer::to(&path);
    peer.send(vec![b'x'; RECEIVED_MAX]);
    assert_eq!(peer.records(RECEIVED_MAX).concat().len(), RECEIVED_MAX);
    peer.send(vec![b'x'; RECEIVED_MAX + 1]);
    let (closed, reason) = log.await_close(0);
    assert_eq!(
        closed.bytes_in, RECEIVED_MAX as u64,
        "no part of it is handled"
    );
    let CloseReason::Io(error) = &*reason else {
        panic!("{reason:?}");
    };
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert!(error.to_string().contains("at most 65536 bytes"), "{error}");
}

#[test]
fn an_empty_record_is_the_end_of_the_stream() {
    let path = TempPath::new();
    let (_running, log) = serve(&path, |app| app);
    let peer = Peer::to(&path);
    peer.round_trip(b"hello");
    peer.send([]);
    assert_eq!(peer.record(), b"", "this side ends, too");
    let (_, reason) = log.await_close(0);
    assert!(matches!(*reason, CloseReason::Peer), "{reason:?}");
}

#[test]
fn either_side_of_a_record_connection_can_end_first() {
    let path = TempPath::new();
    let (_running, log) = serve(&path, |app| {
        app.react(|conn, _, frame| {
            let _ = conn.write(frame);
            if frame == b"end" {
                conn.shutdown_write();
            }
            Action::Continue
        })
        .on_peer_shutdown(|conn, _| {
            let _ = conn.write(&noise(3, 500_000));
            Action::Close
        })
    });
    // The server first: the peer can still send.
    let peer = Peer::to(&path);
    peer.round_trip(b"end");
    assert_eq!(peer.record(), b"");
    peer.send("more");
    eventually("it arrives", || log.frames() == 2);
    drop(peer);
    // The peer first: it still gets all output.
    let peer = Peer::to(&path);
    peer.round_trip(b"hello");
    peer.0.shutdown(Shutdown::Write).expect("ends");
    assert!(peer.records(500_000).concat() == noise(3, 500_000));
    assert_eq!(peer.record(), b"");
    assert!(matches!(*log.await_close(1).1, CloseReason::Peer));
}

#[test]
fn output_before_a_close_arrives_on_a_record_connection() {
    let path = TempPath::new();
    let (running, log) = serve(&path, |app| {
        app.react(|conn, _, _| {
            conn.write_shared(noise(4, 3 << 20)).expect("is taken");
            Action::Close
        })
    });
    let peer = Peer::to(&path);
    peer.send("all");
    eventually("it is answered", || log.frames() == 1);
    let stopping = thread::spawn(|| running.shutdown());
    assert!(peer.records(3 << 20).concat() == noise(4, 3 << 20));
    assert_eq!(peer.record(), b"");
    drop(peer);
    assert_eq!(stopping.join().expect("ends").forced, 0);
}

#[test]
fn a_path_of_a_record_socket_is_handled_as_that_of_a_stream_socket() {
    let path = TempPath::new();
    // A socket whose server is dead, of records or not, is replaced.
    for kind in [Type::SEQPACKET, Type::STREAM] {
        let dead = Socket::new(Domain::UNIX, kind, None).expect("a socket");
        let at = SockAddr::unix(&path.0).expect("an address");
        dead.bind(&at).expect("binds");
        drop(dead);
        let (running, _log) = serve(&path, |app| app);
        Peer::to(&path).round_trip(b"hello");
        for second in [addr(&path), path.addr()] {
            let error = Server::bind(second).start(|_| App::echo(&Arc::default()));
            let error = error.expect_err("is in use").to_string();
            assert!(error.contains("another server answers there"), "{error}");
        }
        running.shutdown();
        assert!(!fs::exists(&path.0).expect("can be looked for"));
    }
    let listen = Listen::on(addr(&path)).path_mode(0o600);
    let (running, _log) = start(Server::bind(listen), |app| app);
    let metadata = fs::metadata(&path.0).expect("is there");
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o777,
        0o600
    );
    running.shutdown();
}

#[test]
fn addresses_of_record_sockets_are_shown_as_they_are_read() {
    let parsed: Endpoint = "unixpacket:///run/app.sock".parse().expect("an address");
    assert_eq!(parsed, Endpoint::UnixPacket("/run/app.sock".into()));
    assert_eq!(parsed.to_string(), "unixpacket:///run/app.sock");
    let named: Endpoint = "unixpacket://@a\\x00b".parse().expect("an address");
    assert_eq!(named, Endpoint::UnixPacketAbstract(b"a\0b".to_vec()));
    assert_eq!(named.to_string(), "unixpacket://@a\\x00b");
    for (wrong, remedy) in [
        ("unixpacket://", "unixpacket:///run/app.sock"),
        ("unixpacket://@", "unixpacket://@app"),
        ("unixpacket:/run", "unixpacket:///run"),
    ] {
        let error = wrong.parse::<Endpoint>().expect_err(wrong).to_string();
        assert!(error.contains(remedy), "{error}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_record_socket_can_have_an_abstract_name_and_is_connected_to() {
    let addr = format!("unixpacket://@epicycle-records-{}", std::process::id());
    let (running, log) = start(Server::bind(&addr).reactors(1), |app| {
        app.on_open(|conn| {
            let peer = conn.peer_credentials().expect("are known");
            assert_eq!(peer.process, Some(std::process::id()));
            conn.write(b"hello").is_ok()
        })
        // One side answers the other once.
        .react(|_, _, _| Action::Close)
    });
    running.engine().connect(&addr).expect("is taken");
    for n in 0..2 {
        assert_eq!(log.await_close(n).0.bytes_out, 5);
    }
    // A stream socket of that name is another socket.
    let stream = addr.replace("unixpacket", "unix");
    running.engine().connect(&stream).expect("is taken");
    log.await_failure(0);
}

#[test]
fn a_stream_connect_to_a_record_socket_fails() {
    let path = TempPath::new();
    let (running, log) = serve(&path, |app| app);
    running.engine().connect(path.addr()).expect("is taken");
    let failed = log.await_failure(0).error.to_string();
    assert!(failed.contains("rong"), "{failed}");
}

#[test]
fn record_sockets_are_adopted_listening_or_connected_and_handed_over() {
    let path = TempPath::new();
    let listener = Socket::new(Domain::UNIX, Type::SEQPACKET, None).expect("a socket");
    let at = SockAddr::unix(&path.0).expect("an address");
    listener.bind(&at).expect("binds");
    let (running, log) = start(Server::bind(OwnedFd::from(listener)).reactors(1), |app| app);
    Peer::to(&path).round_trip(b"hello");

    let (near, far) = Socket::pair(Domain::UNIX, Type::SEQPACKET, None).expect("a pair");
    running.engine().adopt(near, 0).expect("is adopted");
    Peer::with(far).round_trip(b"hello");
    log.await_close(1);

    // Another server goes on with the listener.
    let (old_end, new_end) = std::os::unix::net::UnixStream::pair().expect("two ends");
    let sockets = running.engine().listeners().expect("copies");
    handover::send(&old_end, &sockets).expect("sends");
    running.shutdown();
    let mut sockets = handover::receive(&new_end).expect("receives");
    let inherited = sockets.pop().expect("one");
    let (_running, _log) = start(Server::bind(inherited).reactors(1), |app| app);
    Peer::to(&path).round_trip(b"hello");
}

#[test]
fn files_and_pipes_are_copied_to_record_connections() {
    let path = TempPath::new();
    let content = noise(5, 700_000);
    let file = {
        let path = TempPath::new();
        let mut file = File::create_new(&path.0).expect("is made");
        file.write_all(&content).expect("is written");
        Arc::new(File::open(&path.0).expect("opens"))
    };
    let waiting = Arc::new(Mutex::new(None));
    let server = local().and(addr(&path));
    let (running, _log) = start(server, move |app| {
        let (file, waiting) = (file.clone(), waiting.clone());
        app.react(move |conn, _, frame| match frame {
            b"file" => conn.send_file(file.clone(), ..).into(),
            b"pipe" => {
                let mut waiting = waiting.lock().expect("no panic");
                conn.write(b"ok").expect("is taken");
                match waiting.take() {
                    Some(other) => conn.pipe(other).expect("is joined"),
                    None => *waiting = Some(conn.id()),
                }
                Action::Continue
            }
            _ => {
                let refused = conn.detach(drop).expect_err("is refused");
                assert_eq!(refused, DetachError::NotPlain);
                conn.write(b"refused").into()
            }
        })
    });
    let peer = Peer::to(&path);
    peer.send("detach");
    assert_eq!(peer.record(), b"refused");
    peer.send("file");
    assert!(peer.records(content.len()).concat() == content);

    peer.send("pipe");
    assert_eq!(peer.record(), b"ok");
    let tcp = Client::to(&running);
    tcp.round_trip_with("pipe", "ok");
    thread::scope(|scope| {
        scope.spawn(|| tcp.send(&content));
        assert!(peer.records(content.len()).concat() == content);
        scope.spawn(|| content.chunks(30_000).for_each(|record| peer.send(record)));
        assert!(tcp.recv(content.len()) == content);
    });
    peer.0.shutdown(Shutdown::Write).expect("ends");
    assert_eq!(tcp.recv_to_end(), b"");
}

#[cfg(feature = "tls")]
#[test]
fn tls_is_refused_on_record_sockets() {
    use epicycle::tls::{Identity, Roots, TlsClient, TlsServer};
    use epicycle::{Adopt, Connect};

    let path = TempPath::new();
    let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("is made");
    let (cert, key) = (key.cert.pem(), key.signing_key.serialize_pem());
    let identity = Identity::from_pem(cert.as_bytes(), key.as_bytes()).expect("fits");
    let tls = TlsServer::new(identity).expect("works");
    let refused = |listen: Listen| {
        let started = Server::bind(listen).start(|_| App::echo(&Arc::default()));
        started.expect_err("is refused").to_string()
    };
    let error = refused(Listen::on(addr(&path)).tls(&tls));
    assert!(
        error.contains("tls") && error.contains("unixpacket"),
        "{error}"
    );
    assert!(!fs::exists(&path.0).expect("can be looked for"));
    let listener = Socket::new(Domain::UNIX, Type::SEQPACKET, None).expect("a socket");
    let at = SockAddr::unix(&path.0).expect("an address");
    listener.bind(&at).expect("binds");
    let error = refused(Listen::socket(listener).tls(&tls));
    assert!(error.contains("no tls"), "{error}");

    let (running, _log) = start(Server::bind("tcp://127.0.0.1:0"), |app| app);
    let (near, _far) = Socket::pair(Domain::UNIX, Type::SEQPACKET, None).expect("a pair");
    let adopt = Adopt::new(near).tls_server(&tls);
    let error = running.engine().adopt_with(adopt).expect_err("is refused");
    assert!(error.to_string().contains("tls"), "{error}");
    let roots = Roots::from_pem(cert.as_bytes()).expect("a root");
    let client = TlsClient::new(&roots).expect("works");
    let connect = Connect::to(addr(&path)).tls(&client.server_name("localhost").expect("a name"));
    let error = running.engine().connect(connect).expect_err("is refused");
    assert!(error.to_string().contains("there is no TLS"), "{error}");
}

/// Returns a Python script with `path` as its argument, if there is a Python.
fn python(script: &str, path: &TempPath) -> Option<Command> {
    let mut python = Command::new("python3");
    python.arg("-c").arg(script).arg(&path.0);
    let found = Command::new("python3").arg("--version").output();
    if found.is_ok_and(|output| output.status.success()) {
        return Some(python);
    }
    skipped("python3 is not installed");
    None
}

#[test]
fn pythons_record_sockets_are_served() {
    let path = TempPath::new();
    let script = "
import socket, sys
peer = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
peer.settimeout(60)
peer.connect(sys.argv[1])
for n in (1, 4096, 4097, 60000):
    sent = bytes(i * 7 % 251 for i in range(n))
    peer.send(sent)
    got = b''
    while len(got) < n:
        record = peer.recv(4096)
        assert record, 'the end'
        got += record
    assert got == sent, n
peer.shutdown(socket.SHUT_WR)
assert peer.recv(4096) == b''
print('good')
";
    let Some(mut python) = python(script, &path) else {
        return;
    };
    let (_running, log) = serve(&path, |app| app);
    let output = python.output().expect("runs");
    let shown = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.stdout, b"good\n", "{shown}");
    assert!(matches!(*log.await_close(0).1, CloseReason::Peer));
}

#[test]
fn a_python_server_of_records_is_connected_to() {
    let path = TempPath::new();
    // It reads into 4,096 bytes, so the kernel would drop the rest of a longer record.
    let script = "
import socket, sys
server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
server.bind(sys.argv[1])
server.listen()
print('listens', flush=True)
peer, _ = server.accept()
while True:
    record = peer.recv(4096)
    if not record:
        break
    peer.send(record)
";
    let Some(mut python) = python(script, &path) else {
        return;
    };
    let mut child = python.stdout(Stdio::piped()).spawn().expect("starts");
    let mut line = [0; 8];
    let stdout = child.stdout.as_mut().expect("is piped");
    stdout.read_exact(&mut line).expect("listens");
    let back = Arc::new(Mutex::new(Vec::new()));
    let received = back.clone();
    let (running, log) = start(local(), move |app| {
        let received = received.clone();
        app.on_open(|conn| conn.write_shared(noise(6, 1 << 20)).is_ok())
            .react(move |conn, _, bytes| {
                let mut received = received.lock().expect("no panic");
                received.extend_from_slice(bytes);
                if received.len() == 1 << 20 {
                    conn.close();
                }
                Action::Continue
            })
    });
    running.engine().connect(addr(&path)).expect("is taken");
    log.await_close(0);
    assert!(*back.lock().expect("no panic") == noise(6, 1 << 20));
    assert!(child.wait().expect("ends").success());
}

#[test]
fn many_short_records_of_one_peer_do_not_stop_the_others() {
    let path = TempPath::new();
    let order = Arc::new(Mutex::new(Vec::new()));
    let lines = order.clone();
    let server = Server::bind(addr(&path)).reactors(1).read_budget(4096);
    let (running, log) = start(server, move |app| {
        let lines = lines.clone();
        app.codec(Cut::Lines(Lines::new()))
            .react(move |_, _, line| {
                lines.lock().expect("no panics").push(line[0]);
                Action::Continue
            })
    });
    let (flood, other) = (Peer::to(&path), Peer::to(&path));
    eventually("both are there", || log.opened() == 2);
    let gate = Gate::before(running.engine(), 0);
    for _ in 0..100 {
        flood.send("f");
    }
    flood.send("\n");
    other.send("other\n");
    drop(gate);
    eventually("both are read", || log.frames() == 2);
    assert_eq!(*order.lock().expect("no panics"), b"of");
}
