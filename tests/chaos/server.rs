//! The process of the servers: an echo, a length-field and an HTTP server, and an echo over TLS.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{env, io, thread};

use epicycle::metrics::ReactorStats;
use epicycle::{AcceptMode, Listen, Report, Server};
use serde_json::{Value, json};

use super::kind::{KINDS, Kind};
use super::ledger::Ledger;
use super::services::{Answering, Counted, Echo, Frames, Http};
use crate::pki;
use crate::util::process::{
    descriptor_limit, descriptors, limit_descriptors, pipe_descriptors, resident, timer_descriptors,
};

/// The variable that makes this process the servers of the named test.
pub(crate) const ROLE: &str = "EPICYCLE_CHAOS_SERVERS";

/// The variable with the addresses of the nodes of a gateway.
pub(crate) const NODES: &str = "EPICYCLE_CHAOS_NODES";

/// The prefix of every output line of this process.
pub(crate) const SAYS: &str = "SERVERS ";

/// The most that one connection may hold, in bytes: output up to its limit and an incomplete frame, each in a buffer of up to twice
/// its size.
pub(crate) const MOST_A_CONNECTION: usize = 2 * OUTBOUND_LIMIT + 2 * MAX_FRAME;

/// The timeout of a TLS handshake, and then of the first message.
pub(crate) const HANDSHAKE: Duration = Duration::from_millis(1500);

/// The idle timeout.
pub(crate) const IDLE: Duration = Duration::from_millis(2000);

const MAX_FRAME: usize = 32 << 10;
const OUTBOUND_LIMIT: usize = 128 << 10;

/// The mode of accepting.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mode {
    SingleLoop,
    MainReactor,
    ReusePort,
}

impl Mode {
    /// Returns a description for the summary.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Mode::SingleLoop => "a single loop",
            Mode::MainReactor => "a main reactor and two sub-reactors",
            Mode::ReusePort => "two reactors, each with its listener",
        }
    }
}

/// Returns true if this process was started as the servers of that test.
pub(crate) fn is_wanted(test: &str) -> bool {
    env::var(ROLE).is_ok_and(|wanted| wanted == test)
}

/// Runs the servers until standard input, which carries the orders, ends.
pub(crate) fn serve(mode: Mode) {
    limit_descriptors(descriptor_limit().1);
    let tls = pki::server_tls().handshake_timeout(HANDSHAKE);
    let plain = || Listen::on("tcp://127.0.0.1:0");
    obey(vec![
        start::<Echo>(mode, Kind::Echo, plain()),
        start::<Frames>(mode, Kind::Frames, plain()),
        start::<Http>(mode, Kind::Http, plain()),
        start::<Echo>(mode, Kind::Tls, plain().tls(&tls)),
    ]);
}

/// Tells the addresses of servers, and does what it is told until standard input ends.
pub(super) fn obey(servers: Vec<Started>) {
    let peak = Arc::<Mutex<Peak>>::default();
    watch(&servers, &peak);
    // If there is only one server, it stands for every kind.
    let addresses = servers.iter().flat_map(|server| server.addresses.clone());
    let addresses: Vec<_> = addresses.cycle().take(KINDS.len()).collect();
    say(&json!({ "addresses": addresses, "authority": pki::TRUSTED.pem() }));
    for order in io::stdin().lines() {
        match order.expect("is text").as_str() {
            "look" => say(&look(&servers, &peak)),
            "forget the peak" => *lock(&peak) = Peak::default(),
            _ => break,
        }
    }
    for server in &servers {
        (server.shutdown)();
    }
    let ends = servers.into_iter().map(Started::end);
    say(&Value::Array(ends.collect()));
}

fn say(what: &Value) {
    // The test harness may have printed an incomplete line.
    println!("\n{SAYS}{what}");
}

/// Sets the limits of a server in production, with timeouts short enough to fire.
fn limited(mode: Mode, listen: Listen) -> Server {
    let server = Server::bind(listen)
        .max_connections(10_000)
        .max_connections_per_ip(24)
        .handshake_timeout(HANDSHAKE)
        .read_timeout(Duration::from_millis(1700))
        .idle_timeout(IDLE)
        .write_stall_timeout(Duration::from_millis(1500))
        .drain_deadline(Duration::from_millis(1000))
        .fin_timeout(Duration::from_millis(500))
        .max_frame(MAX_FRAME)
        .high_water(OUTBOUND_LIMIT / 4)
        .outbound_limit(OUTBOUND_LIMIT)
        .recv_buffer(32 << 10)
        // The kernel's buffer is small, so that the engine has to buffer output.
        .send_buffer(8 << 10);
    match mode {
        Mode::SingleLoop => server.accept_mode(AcceptMode::SingleLoop),
        Mode::MainReactor => server.reactors(2),
        Mode::ReusePort => server.reactors(2).accept_mode(AcceptMode::ReusePort),
    }
}

/// A running server of any kind.
pub(super) struct Started {
    pub(super) name: &'static str,
    pub(super) addresses: Vec<String>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) stats: Arc<dyn Fn() -> ReactorStats + Send + Sync>,
    /// Counts what is under way beside the connections.
    pub(super) under_way: Box<dyn Fn() -> u64>,
    pub(super) shutdown: Box<dyn Fn()>,
    pub(super) join: Box<dyn FnOnce() -> End>,
}

/// The last counters of a server.
pub(super) struct End {
    pub(super) stats: ReactorStats,
    /// The connections that ended by themselves during the shutdown, and those that were ended by force.
    pub(super) drained: u64,
    pub(super) forced: u64,
}

impl From<Report> for End {
    fn from(report: Report) -> Self {
        Self {
            stats: report.stats.total(),
            drained: report.drained as u64,
            forced: report.forced as u64,
        }
    }
}

fn start<P: Answering>(mode: Mode, kind: Kind, listen: Listen) -> Started {
    let ledger = Arc::<Ledger>::default();
    let for_factory = ledger.clone();
    let running = limited(mode, listen)
        .start(move |_| Counted::<P>::new(for_factory.clone()))
        .expect("starts");
    let engine = running.engine().clone();
    let for_shutdown = engine.clone();
    let address = running.local_addrs()[0].as_socket_addr();
    Started {
        name: kind.name(),
        addresses: vec![address.expect("is a TCP address").to_string()],
        ledger,
        stats: Arc::new(move || engine.stats().total()),
        under_way: Box::new(|| 0),
        shutdown: Box::new(move || for_shutdown.shutdown()),
        join: Box::new(move || running.join().into()),
    }
}

impl Started {
    /// Returns its counters so far.
    fn look(&self) -> Value {
        let mut counts = counts(self.name, &self.ledger, (self.stats)());
        counts["under_way"] = (self.under_way)().into();
        counts
    }

    /// Waits for its end. Returns its final counters.
    fn end(self) -> Value {
        let end = (self.join)();
        let mut counts = counts(self.name, &self.ledger, end.stats);
        counts["drained"] = end.drained.into();
        counts["forced"] = end.forced.into();
        counts
    }
}

fn counts(name: &str, ledger: &Ledger, stats: ReactorStats) -> Value {
    let (opened, closed) = ledger.counts();
    json!({
        "name": name,
        "on_open": opened,
        "on_close": closed,
        "accepted": stats.accepted,
        "refused": stats.refused,
        "closed": stats.closed,
        "handshake_failures": stats.handshake_failures,
        "connections": stats.connections,
        "buffered": stats.buffered,
        "timers": stats.timers,
        "panics": stats.panics,
        "accept_errors": stats.accept_errors,
        "ends": ledger.ends(),
    })
}

/// The peaks of the resources.
#[derive(Default)]
struct Peak {
    connections: u64,
    buffered: u64,
    memory: usize,
}

/// Samples the servers every 50 ms while the process lives.
fn watch(servers: &[Started], peak: &Arc<Mutex<Peak>>) {
    let stats: Vec<_> = servers.iter().map(|server| server.stats.clone()).collect();
    let peak = peak.clone();
    thread::spawn(move || {
        loop {
            let mut total = ReactorStats::default();
            for stats in &stats {
                total += stats();
            }
            let mut peak = lock(&peak);
            peak.connections = peak.connections.max(total.connections);
            peak.buffered = peak.buffered.max(total.buffered);
            peak.memory = peak.memory.max(resident().unwrap_or(0));
            drop(peak);
            thread::sleep(Duration::from_millis(50));
        }
    });
}

fn look(servers: &[Started], peak: &Mutex<Peak>) -> Value {
    // Locked meanwhile, because the file with the memory's size needs a descriptor too.
    let peak = lock(peak);
    json!({
        "servers": servers.iter().map(Started::look).collect::<Vec<_>>(),
        "descriptors": descriptors() - timer_descriptors() - pipe_descriptors(),
        "pipes": pipe_descriptors(),
        "memory": resident(),
        "peak_connections": peak.connections,
        "peak_buffered": peak.buffered,
        "peak_memory": peak.memory,
    })
}

fn lock(peak: &Mutex<Peak>) -> MutexGuard<'_, Peak> {
    peak.lock().unwrap_or_else(PoisonError::into_inner)
}
