//! Compares a TLS echo on the engine with rustls over bare mio loops: processor time of the serving thread for a message, and
//! messages in a second. The servers take turns in one run, and the results are medians of several rounds.
//!
//! Bare loop A uses rustls as its documentation shows: rustls reads records from the socket itself. Bare loop B reads the
//! socket into one large buffer first, as the engine does. That costs a copy and saves system calls.
//! The peer is one thread with blocking rustls clients. It sends a message on each connection, then waits for each answer.

#![allow(missing_docs)]

mod util;

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use epicycle::codec::Raw;
use epicycle::tls::{Identity, TlsServer};
use epicycle::{Action, Conn, ConnInfo, EventHandler, Listen, Reactor, Running, Server};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned,
};

use util::{HOW_LONG, own_processor_time, pin_to};

/// A load: the length of a message in bytes, and the number of connections, with one message under way on each.
#[derive(Clone, Copy)]
struct Load {
    connections: usize,
    size: usize,
}

const ROUNDS: usize = 15;
const ROUND: Duration = Duration::from_millis(200);
const WARM_UP: Duration = Duration::from_millis(50);

fn main() {
    // `cargo test` runs this too, and must not measure.
    if std::env::args().any(|arg| arg == "--test") {
        return;
    }
    let pki = Pki::new();
    let engine = engine(&pki);
    let addr = engine.local_addrs()[0].as_socket_addr();
    let servers = [
        bare_loop(&pki, false),
        bare_loop(&pki, true),
        addr.expect("a TCP address"),
    ];
    println!(
        "microseconds of the serving thread's processor time a message, messages a second, how many times cheaper the engine is than the better bare loop"
    );
    println!(
        "{:<22} {:>22} {:>22} {:>22} {:>9}",
        "load", "bare loop A", "bare loop B", "engine", "engine is"
    );
    for connections in [1, 32] {
        for size in [64, 1024, 16 << 10, 64 << 10] {
            let load = Load { connections, size };
            let mut rounds = [const { Vec::new() }; 3];
            let mut peers = servers.map(|server| Peers::connect(server, &pki, load));
            for _ in 0..ROUNDS {
                for (peers, results) in peers.iter_mut().zip(&mut rounds) {
                    results.push(peers.measure());
                }
            }
            // The ratio is within a round, so that other work on the machine affects both servers.
            let ratios = |bare: usize| {
                let pairs = rounds[bare].iter().zip(&rounds[2]);
                let ratios = pairs.map(|(bare, engine)| bare.1 / engine.1);
                median_of(ratios.collect())
            };
            let ratio = ratios(0).min(ratios(1));
            let [a, b, engine] = rounds.map(median);
            let show = |(rate, cost): (f64, f64)| format!("{cost:>7.2} us {rate:>8.0}/s");
            println!(
                "{:<22} {:>22} {:>22} {:>22} {:>8.3}x",
                format!("{connections} x {size} B"),
                show(a),
                show(b),
                show(engine),
                ratio
            );
        }
    }
}

fn median(of: Vec<(f64, f64)>) -> (f64, f64) {
    let (rates, costs) = of.into_iter().unzip();
    (median_of(rates), median_of(costs))
}

fn median_of(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}

/// A certificate for the server, which the clients trust.
struct Pki {
    certificate: String,
    key: String,
}

impl Pki {
    fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("makes one");
        Self {
            certificate: made.cert.pem(),
            key: made.signing_key.serialize_pem(),
        }
    }

    fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.certificate.as_bytes()).expect("is a certificate")
    }

    fn client(&self) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.der()).expect("is a root");
        ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("has versions")
            .with_root_certificates(roots)
            .with_no_client_auth()
    }

    fn server(&self) -> ServerConfig {
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).expect("is a key");
        ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("has versions")
            .with_no_client_auth()
            .with_single_cert(vec![self.der()], key)
            .expect("match")
    }
}

/// The clients of one server.
struct Peers {
    streams: Vec<StreamOwned<ClientConnection, TcpStream>>,
    load: Load,
}

impl Peers {
    fn connect(server: SocketAddr, pki: &Pki, load: Load) -> Self {
        pin_to(1);
        let config = Arc::new(pki.client());
        let connect = |_| {
            let socket = TcpStream::connect(server).expect("connects");
            socket.set_nodelay(true).expect("is an option");
            let name = "localhost".try_into().expect("is a name");
            let tls = ClientConnection::new(config.clone(), name).expect("is set up");
            StreamOwned::new(tls, socket)
        };
        Self {
            streams: (0..load.connections).map(connect).collect(),
            load,
        }
    }

    /// Returns the messages in a second, and the server's processor time for a message in microseconds.
    fn measure(&mut self) -> (f64, f64) {
        self.exchange(WARM_UP);
        let time = self.processor_time();
        let began = Instant::now();
        let count = self.exchange(ROUND) as f64;
        let took = began.elapsed().as_secs_f64();
        let time = self.processor_time() - time;
        (count / took, time as f64 / 1000.0 / count)
    }

    fn exchange(&mut self, duration: Duration) -> usize {
        let message = vec![7; self.load.size];
        let mut answer = vec![0; self.load.size];
        let began = Instant::now();
        let mut count = 0;
        while began.elapsed() < duration {
            for stream in &mut self.streams {
                stream.write_all(&message).expect("it reads");
            }
            for stream in &mut self.streams {
                stream.read_exact(&mut answer).expect("it answers");
            }
            count += self.streams.len();
        }
        count
    }

    /// Returns the processor time of the server's thread in nanoseconds.
    fn processor_time(&mut self) -> u64 {
        let mut answer = [0; 8];
        self.streams[0].write_all(HOW_LONG).expect("it reads");
        self.streams[0].read_exact(&mut answer).expect("it answers");
        u64::from_ne_bytes(answer)
    }
}

struct Echo;

impl EventHandler for Echo {
    type Codec = Raw;
    type Session = ();

    fn codec(&mut self, _: &ConnInfo<'_>) -> Raw {
        Raw
    }

    fn on_boot(&mut self, _reactor: &mut Reactor<'_, Self>) {
        pin_to(0);
    }

    fn on_open(&mut self, _conn: &mut Conn<'_, Self>) -> Option<()> {
        Some(())
    }

    fn react(&mut self, conn: &mut Conn<'_, Self>, (): &mut (), bytes: &[u8]) -> Action {
        match bytes {
            HOW_LONG => conn.write(&own_processor_time()).into(),
            bytes => conn.write(bytes).into(),
        }
    }
}

fn engine(pki: &Pki) -> Running<Echo> {
    let identity = Identity::from_pem(&pki.certificate, &pki.key).expect("match");
    let tls = TlsServer::new(identity).expect("is set up");
    Server::bind(Listen::on("tcp://127.0.0.1:0").tls(&tls))
        .reactors(1)
        .start(|_| Echo)
        .expect("starts")
}

/// A connection of a bare loop.
struct Bare {
    socket: TcpStream,
    tls: ServerConnection,
}

/// Starts a bare loop, with or without a buffer between the socket and rustls. Returns its address.
fn bare_loop(pki: &Pki, buffered: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    listener.set_nonblocking(true).expect("is an option");
    let addr = listener.local_addr().expect("is bound");
    let config = Arc::new(pki.server());
    thread::spawn(move || {
        pin_to(0);
        let mut poll = Poll::new().expect("is made");
        let registry = poll.registry();
        registry
            .register(
                &mut SourceFd(&listener.as_raw_fd()),
                Token(0),
                Interest::READABLE,
            )
            .expect("is watched");
        let mut connections = HashMap::new();
        let mut events = Events::with_capacity(128);
        let (mut wire, mut plain) = (vec![0; 80 << 10], vec![0; 80 << 10]);
        for token in 1.. {
            poll.poll(&mut events, None).expect("waits");
            for event in &events {
                if event.token() != Token(0) {
                    if let Some(bare) = connections.get_mut(&event.token()) {
                        let room = if buffered { &mut wire[..] } else { &mut [] };
                        if serve(bare, room, &mut plain).is_err() {
                            connections.remove(&event.token());
                        }
                    }
                    continue;
                }
                for n in 0.. {
                    let Ok((socket, _)) = listener.accept() else {
                        break;
                    };
                    socket.set_nodelay(true).expect("is an option");
                    socket.set_nonblocking(true).expect("is an option");
                    let token = Token(token * 100_000 + n);
                    let both = Interest::READABLE | Interest::WRITABLE;
                    let registry = poll.registry();
                    registry
                        .register(&mut SourceFd(&socket.as_raw_fd()), token, both)
                        .expect("is watched");
                    let mut tls = ServerConnection::new(config.clone()).expect("is set up");
                    tls.set_buffer_limit(None);
                    connections.insert(token, Bare { socket, tls });
                }
            }
        }
    });
    addr
}

/// Echoes the available input. Returns an error at the end of the stream.
fn serve(bare: &mut Bare, wire: &mut [u8], plain: &mut [u8]) -> io::Result<()> {
    let Bare { socket, tls } = bare;
    loop {
        let drained = if wire.is_empty() {
            match tls.read_tls(socket) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(_) => false,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        } else {
            let n = match socket.read(wire) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(n) => n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            };
            let mut rest = &wire[..n];
            while !rest.is_empty() {
                tls.read_tls(&mut rest)?;
                echo(tls, plain)?;
            }
            n < wire.len()
        };
        echo(tls, plain)?;
        if drained {
            break;
        }
    }
    while tls.wants_write() {
        match tls.write_tls(socket) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn echo(tls: &mut ServerConnection, plain: &mut [u8]) -> io::Result<()> {
    tls.process_new_packets().map_err(io::Error::other)?;
    loop {
        match tls.reader().read(plain) {
            Ok(0) => return Ok(()),
            Ok(n) if &plain[..n] == HOW_LONG => tls.writer().write_all(&own_processor_time())?,
            Ok(n) => tls.writer().write_all(&plain[..n])?,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}
