//! Compares a UDP echo on the engine with a plain `recvfrom`/`sendto` loop: datagrams in a second, and processor time of the
//! serving thread for a datagram. The servers take turns in one run, and the results are medians of several rounds.
//!
//! The peers are a second engine on another core, which sends each echoed datagram again: a number of flows, with a number of
//! datagrams under way on each. It sends one datagram in a system call, or batches, as a peer with bulk data does.

#![allow(missing_docs)]

mod util;

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use epicycle::codec::Raw;
use epicycle::{
    Action, Conn, ConnInfo, Datagram, EventHandler, Listen, Reactor, Running, Server, Udp,
};

use util::{HOW_LONG, own_processor_time, pin_to};

/// A load: the number of sockets, the datagrams under way on each, and their length in bytes.
#[derive(Clone, Copy)]
struct Load {
    flows: usize,
    window: usize,
    size: usize,
}

const LOADS: [Load; 7] = [
    Load::new(1, 1, 64),
    Load::new(1, 64, 64),
    Load::new(1, 64, 1200),
    Load::new(8, 16, 64),
    Load::new(64, 4, 64),
    Load::new(64, 16, 1200),
    Load::new(256, 1, 64),
];

const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_millis(400);
const WARM_UP: Duration = Duration::from_millis(100);

fn main() {
    // `cargo test` runs this too, and must not measure.
    if std::env::args().any(|arg| arg == "--test") {
        return;
    }
    let plain = plain_loop();
    let batched = engine(64);
    let single = engine(1);
    let servers = [plain, addr_of(&batched), addr_of(&single)];
    println!(
        "each: datagrams a second, processor time of the serving thread a datagram; ratios to the plain loop"
    );
    println!(
        "{:<34} {:>19} {:>32} {:>32}",
        "load", "plain loop", "engine, batches of 64", "engine, batches of 1"
    );
    for (kind, batch) in [("one a call", 1), ("in batches", 64)] {
        for load in LOADS {
            let Load {
                flows,
                window,
                size,
            } = load;
            let mut rounds = [const { Vec::new() }; 3];
            for _ in 0..ROUNDS {
                for (server, results) in servers.iter().zip(&mut rounds) {
                    results.push(measure(*server, load, batch));
                }
            }
            let [plain, batched, single] = rounds.map(median);
            let versus = |(rate, cost): (f64, f64)| {
                let (faster, cheaper) = (rate / plain.0, plain.1 / cost);
                format!("{rate:>8.0}/s {cost:>6.2} us {faster:>5.2}x {cheaper:>5.2}x")
            };
            println!(
                "{:<34} {:>8.0}/s {:>6.2} us  {:>32} {:>32}",
                format!("{flows} x {window} of {size} B, sent {kind}"),
                plain.0,
                plain.1,
                versus(batched),
                versus(single)
            );
        }
    }
}

impl Load {
    const fn new(flows: usize, window: usize, size: usize) -> Self {
        Self {
            flows,
            window,
            size,
        }
    }
}

fn median(mut of: Vec<(f64, f64)>) -> (f64, f64) {
    let middle = of.len() / 2;
    of.sort_by(|a, b| a.0.total_cmp(&b.0));
    let rate = of[middle].0;
    of.sort_by(|a, b| a.1.total_cmp(&b.1));
    (rate, of[middle].1)
}

/// Returns the datagrams in a second, and the server's processor time for a datagram in microseconds.
fn measure(server: SocketAddr, load: Load, batch: usize) -> (f64, f64) {
    let peers = Peers::start(server, load, batch);
    thread::sleep(WARM_UP);
    let (count, time, began) = (peers.count(), processor_time(server), Instant::now());
    thread::sleep(ROUND);
    let (count, took) = (
        (peers.count() - count) as f64,
        began.elapsed().as_secs_f64(),
    );
    let time = processor_time(server) - time;
    peers.stop();
    (count / took, time as f64 / 1000.0 / count.max(1.0))
}

/// Returns the processor time of a server's thread in nanoseconds.
fn processor_time(server: SocketAddr) -> u64 {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("binds");
    let timeout = Some(Duration::from_millis(200));
    socket.set_read_timeout(timeout).expect("is an option");
    let mut answer = [0; 8];
    for _ in 0..20 {
        socket.send_to(HOW_LONG, server).expect("sends");
        // The request is lost if the socket of a busy server is full.
        if socket.recv(&mut answer).is_ok() {
            return u64::from_ne_bytes(answer);
        }
    }
    panic!("the server does not answer");
}

fn plain_loop() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("binds");
    let addr = socket.local_addr().expect("is bound");
    thread::spawn(move || {
        pin_to(0);
        let mut buffer = vec![0; 64 << 10];
        loop {
            let Ok((n, peer)) = socket.recv_from(&mut buffer) else {
                continue;
            };
            let _ = match &buffer[..n] {
                HOW_LONG => socket.send_to(&own_processor_time(), peer),
                bytes => socket.send_to(bytes, peer),
            };
        }
    });
    addr
}

fn engine(batch: usize) -> Running<Echo> {
    Server::bind(Listen::on("udp4://127.0.0.1:0").batch(batch))
        .reactors(1)
        .start(|_| Echo)
        .expect("starts")
}

fn addr_of<H: EventHandler>(running: &Running<H>) -> SocketAddr {
    let addr = running.local_addrs()[0].as_socket_addr();
    addr.expect("a UDP address")
}

struct Echo;

impl EventHandler for Echo {
    type Codec = Raw;
    type Session = ();

    const HANDLES_DATAGRAMS: bool = true;

    fn codec(&mut self, _: &ConnInfo<'_>) -> Raw {
        Raw
    }

    fn on_boot(&mut self, _reactor: &mut Reactor<'_, Self>) {
        pin_to(0);
    }

    fn on_open(&mut self, _conn: &mut Conn<'_, Self>) -> Option<()> {
        None
    }

    fn react(&mut self, _conn: &mut Conn<'_, Self>, (): &mut (), _frame: &[u8]) -> Action {
        Action::Close
    }

    fn on_datagram(&mut self, udp: &mut Udp<'_, Self>, datagram: Datagram<'_>) -> Action {
        match datagram.data {
            HOW_LONG => udp.reply(&own_processor_time()).into(),
            bytes => udp.reply(bytes).into(),
        }
    }
}

/// Sends each echoed datagram again, on every flow.
struct Peers {
    running: Running<Peer>,
    shared: Arc<Shared>,
}

struct Peer {
    server: SocketAddr,
    load: Load,
    shared: Arc<Shared>,
    seen: u64,
}

#[derive(Default)]
struct Shared {
    over: AtomicBool,
    count: AtomicU64,
}

impl Peers {
    fn start(server: SocketAddr, load: Load, batch: usize) -> Self {
        let listen = || Listen::on("udp4://127.0.0.1:0").batch(batch);
        let mut peers = Server::bind(listen()).reactors(1);
        for _ in 1..load.flows {
            peers = peers.and(listen());
        }
        let shared = Arc::<Shared>::default();
        let for_peer = shared.clone();
        let running = peers.start(move |_| Peer {
            server,
            load,
            shared: for_peer.clone(),
            seen: 0,
        });
        Self {
            running: running.expect("starts"),
            shared,
        }
    }

    fn count(&self) -> u64 {
        self.shared.count.load(Ordering::Relaxed)
    }

    fn stop(self) {
        self.shared.over.store(true, Ordering::Relaxed);
        self.running.shutdown();
    }
}

impl EventHandler for Peer {
    type Codec = Raw;
    type Session = ();

    const HANDLES_DATAGRAMS: bool = true;

    fn codec(&mut self, _: &ConnInfo<'_>) -> Raw {
        Raw
    }

    fn on_boot(&mut self, reactor: &mut Reactor<'_, Self>) {
        pin_to(1);
        let bytes = vec![7; self.load.size];
        for flow in 0..self.load.flows {
            let mut udp = reactor.udp(flow).expect("it is here");
            for _ in 0..self.load.window {
                udp.send_to(&bytes, self.server).expect("is queued");
            }
        }
    }

    fn on_open(&mut self, _conn: &mut Conn<'_, Self>) -> Option<()> {
        None
    }

    fn react(&mut self, _conn: &mut Conn<'_, Self>, (): &mut (), _frame: &[u8]) -> Action {
        Action::Close
    }

    fn on_datagram(&mut self, udp: &mut Udp<'_, Self>, datagram: Datagram<'_>) -> Action {
        self.seen += 1;
        self.shared.count.store(self.seen, Ordering::Relaxed);
        if self.shared.over.load(Ordering::Relaxed) {
            return Action::Continue;
        }
        udp.reply(datagram.data).into()
    }
}
