//! Loads a server in a closed loop, and measures the cost to the server.
//!
//! Each connection keeps `depth` messages under way: for each answer, it sends another message. Answers are compared byte by
//! byte with the expected ones; those of HTTP by their status and length. Prints one line of JSON.

mod message;
mod server;
mod steady;
mod visits;

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::process;
use std::thread;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use hdrhistogram::Histogram;
use mio::event::Event;
use mio::{Events, Poll, Registry};

use self::message::Exchange;
use self::steady::Steady;
use self::visits::Visits;

/// Loads a server in a closed loop, and measures the cost to the server
#[derive(Parser)]
struct Flags {
    /// The kind of load
    mode: Mode,
    /// The server's port on 127.0.0.1
    port: u16,
    /// The server's process; its children count too
    pid: u32,
    /// The number of connections
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// The number of bytes in a message, if the mode has a choice
    #[arg(long, default_value_t = 64)]
    size: usize,
    /// The number of messages under way on each connection
    #[arg(long, default_value_t = 1)]
    depth: usize,
    /// The seconds of load before the measurement
    #[arg(long, default_value_t = 0.2)]
    warm_up: f64,
    /// The seconds of the measurement
    #[arg(long, default_value_t = 0.6)]
    seconds: f64,
}

#[derive(Clone, Copy, ValueEnum)]
enum Mode {
    /// Echoed bytes
    Echo,
    /// Echoed bytes, with one message on each connection
    Accept,
    /// GET /
    Http,
    /// The requests of benches/heads.txt by turns
    Heads,
    /// Redis's PING
    Ping,
    /// Binary messages, uncompressed, of one frame each
    Websocket,
}

/// The longest time without an answer. On a busy machine it may be seconds.
const SILENCE: Duration = Duration::from_secs(5);

/// The connections of a load.
trait Clients {
    /// Handles an event.
    fn ready(
        &mut self,
        registry: &Registry,
        event: &Event,
        counts: &mut Counts,
    ) -> Result<(), Box<dyn Error>>;
}

/// The counters. A latency is in nanoseconds, from the due time of a message until its answer is complete.
struct Counts {
    answers: u64,
    latencies: Histogram<u64>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let flags = Flags::parse();
    // The load must end by itself, even if nobody ends it.
    thread::spawn(|| {
        thread::sleep(Duration::from_secs(60));
        eprintln!("a minute is over");
        process::exit(1);
    });
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, flags.port));
    let mut poll = Poll::new()?;
    let exchange = match flags.mode {
        Mode::Echo | Mode::Accept => Exchange::echo(flags.size),
        Mode::Http => Exchange::http(addr)?,
        Mode::Heads => Exchange::heads(addr)?,
        Mode::Ping => Exchange::ping(),
        Mode::Websocket => Exchange::websocket(flags.size),
    };
    let registry = poll.registry();
    let mut clients: Box<dyn Clients> = match flags.mode {
        Mode::Accept => Box::new(Visits::begin(registry, addr, exchange, flags.connections)?),
        _ => Box::new(Steady::open(
            registry,
            addr,
            exchange,
            flags.connections,
            flags.depth,
        )?),
    };
    drive(
        &mut poll,
        &mut *clients,
        Duration::from_secs_f64(flags.warm_up),
    )?;
    let (begin, cpu) = (Instant::now(), server::processor_time(flags.pid)?);
    let counts = drive(
        &mut poll,
        &mut *clients,
        Duration::from_secs_f64(flags.seconds),
    )?;
    let (took, cpu) = (begin.elapsed(), server::processor_time(flags.pid)? - cpu);
    if counts.answers == 0 {
        return Err("no answer came".into());
    }
    let quantile =
        |q| Duration::from_nanos(counts.latencies.value_at_quantile(q)).as_secs_f64() * 1e6;
    println!(
        r#"{{"answers": {}, "seconds": {}, "cpu_seconds": {}, "p50_us": {}, "p99_us": {}, "resident_bytes": {}}}"#,
        counts.answers,
        took.as_secs_f64(),
        cpu.as_secs_f64(),
        quantile(0.5),
        quantile(0.99),
        server::resident(flags.pid)?,
    );
    Ok(())
}

/// Keeps the load running for a time, and counts the answers that arrive meanwhile.
fn drive(
    poll: &mut Poll,
    clients: &mut dyn Clients,
    how_long: Duration,
) -> Result<Counts, Box<dyn Error>> {
    let mut counts = Counts {
        answers: 0,
        latencies: Histogram::new_with_bounds(1, 60_000_000_000, 2)?,
    };
    let mut events = Events::with_capacity(1024);
    let end = Instant::now() + how_long;
    while Instant::now() < end {
        poll.poll(&mut events, Some(SILENCE))?;
        if events.is_empty() {
            return Err(format!("for {SILENCE:?} the server has not answered").into());
        }
        for event in &events {
            clients.ready(poll.registry(), event, &mut counts)?;
        }
    }
    Ok(counts)
}
