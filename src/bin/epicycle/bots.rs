//! `epicycle bots`: clients of a gate that ask at a steady rate.

use std::collections::BTreeMap;
use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use epicycle::Bytes;
use epicycle::cluster::Error as ClusterError;
use epicycle::cluster::client::{Client, ClientEvent, Clients};
use hdrhistogram::Histogram;

use crate::decode::Format;
use crate::util;

/// Connects clients to a gate, which send requests at a steady rate
///
/// Each request waits for its answer. The summary tells how many were answered, and how long it took. The exit code is 1 if no
/// client could connect, or none of the requests was answered.
///
/// Examples:
///   epicycle bots --addr ws://127.0.0.1:3653 --clients 100 --rate 1000
///   epicycle bots --addr tcp://127.0.0.1:3553 --first '2={"uid":{number}}' --route 4 --data '{"x":1}' --time 1m
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Flags {
    /// The gate: tcp://HOST:PORT, ws://HOST:PORT/PATH or kcp://HOST:PORT
    #[arg(long)]
    addr: String,
    /// The number of clients
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    clients: u32,
    /// The requests in a second, of all clients together; 0: the clients are only connected
    #[arg(long, value_name = "R", default_value_t = 100, value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    rate: u32,
    /// The time for which requests are sent
    #[arg(long, value_name = "PERIOD", default_value = "10s", value_parser = util::period)]
    time: Duration,
    /// The route of the requests
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        allow_negative_numbers = true
    )]
    route: i32,
    /// The data of the requests; {number} is the number of the client, from 1 on
    #[arg(long, value_name = "TEXT", default_value = "\"hello\"")]
    data: String,
    /// A request that each client sends as soon as it is connected, to log in for example; {number} as in --data
    #[arg(long, value_name = "ROUTE=TEXT", value_parser = first)]
    first: Option<(i32, String)>,
    /// The time within which an answer must come
    #[arg(long, value_name = "PERIOD", default_value = "3s", value_parser = util::period)]
    timeout: Duration,
    /// The number of threads that the clients share
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: u16,
    #[command(flatten)]
    format: Format,
}

/// The longest time between two looks at what is due.
const TICK: Duration = Duration::from_millis(5);

/// The counts of all clients.
struct Tally {
    connections: AtomicU64,
    disconnections: AtomicU64,
    pushes: AtomicU64,
    results: Mutex<Results>,
}

struct Results {
    micros: Histogram<u64>,
    failures: BTreeMap<String, u64>,
}

impl Tally {
    fn note(&self, since: Instant, failure: Option<String>) {
        let mut results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        match failure {
            None => {
                let micros = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
                results.micros.saturating_record(micros.max(1));
            }
            Some(failure) => *results.failures.entry(failure).or_default() += 1,
        }
    }
}

pub(crate) fn run(flags: &Flags) -> Result<ExitCode, Box<dyn Error>> {
    let tally = Arc::new(Tally {
        connections: AtomicU64::new(0),
        disconnections: AtomicU64::new(0),
        pushes: AtomicU64::new(0),
        results: Mutex::new(Results {
            micros: Histogram::new_with_bounds(1, 3_600_000_000, 3)?,
            failures: BTreeMap::new(),
        }),
    });
    let threads = Clients::start(usize::from(flags.threads))?;
    let clients: Result<Vec<Client>, ClusterError> = (1..=flags.clients)
        .map(|number| connect(flags, number, &threads, &tally))
        .collect();
    let clients = clients?;
    let data: Vec<Bytes> = (1..=flags.clients)
        .map(|number| text_of(&flags.data, number))
        .collect();
    await_connections(&clients, flags.timeout);
    let (begin, connected) = (Instant::now(), count_connected(&clients));
    println!(
        "{connected} of {} clients are connected to {}",
        clients.len(),
        flags.addr
    );
    if connected == 0 {
        let remedy = "is the gate there, and is it the protocol of its listener?";
        return Err(format!("no client could connect; {remedy}").into());
    }

    let mut asked: u64 = 0;
    while begin.elapsed() < flags.time {
        let due = begin.elapsed().as_secs_f64() * f64::from(flags.rate);
        while (asked as f64) < due && begin.elapsed() < flags.time {
            let which = (asked % clients.len() as u64) as usize;
            ask(&clients[which], flags.route, data[which].clone(), &tally);
            asked += 1;
        }
        thread::sleep(TICK.min(flags.time.saturating_sub(begin.elapsed())));
    }
    let elapsed = begin.elapsed();
    await_answers(&tally, asked, flags.timeout);
    let still = count_connected(&clients);
    let lost = tally.disconnections.load(Ordering::Relaxed);
    drop(clients);
    drop(threads);
    Ok(report(&tally, asked, elapsed, still, lost))
}

fn connect(
    flags: &Flags,
    number: u32,
    threads: &Clients,
    tally: &Arc<Tally>,
) -> Result<Client, ClusterError> {
    let first = flags.first.as_ref();
    let first = first.map(|(route, data)| (*route, text_of(data, number)));
    let (events, pushes) = (tally.clone(), tally.clone());
    Client::builder()
        .packets(flags.format.options()?)
        .call_timeout(flags.timeout)
        .connect_timeout(flags.timeout)
        .on_event(move |client, event| match event {
            ClientEvent::Connected { .. } => {
                events.connections.fetch_add(1, Ordering::Relaxed);
                let Some((route, data)) = &first else {
                    return;
                };
                let (tally, since) = (events.clone(), Instant::now());
                let sent = client.request(*route, data, move |_, reply| {
                    if let Err(error) = reply {
                        tally.note(since, Some(format!("the first request: {error}")));
                    }
                });
                if let Err(error) = sent {
                    events.note(since, Some(format!("the first request: {error}")));
                }
            }
            ClientEvent::Disconnected { .. } => {
                events.disconnections.fetch_add(1, Ordering::Relaxed);
            }
            ClientEvent::ConnectFailed { error, .. } => {
                events.note(Instant::now(), Some(error.to_string()));
            }
            _ => {}
        })
        .other_routes(move |_, _| {
            pushes.pushes.fetch_add(1, Ordering::Relaxed);
        })
        .dial(threads, &flags.addr)
}

fn ask(client: &Client, route: i32, data: Bytes, tally: &Arc<Tally>) {
    let (since, answered) = (Instant::now(), tally.clone());
    let sent = client.request_then(route, data, move |_, reply| {
        answered.note(since, reply.err().map(|error| error.to_string()));
    });
    if let Err(error) = sent {
        tally.note(since, Some(error.to_string()));
    }
}

fn count_connected(clients: &[Client]) -> usize {
    clients
        .iter()
        .filter(|client| client.is_connected())
        .count()
}

fn await_connections(clients: &[Client], timeout: Duration) {
    let begin = Instant::now();
    while begin.elapsed() < timeout && count_connected(clients) < clients.len() {
        thread::sleep(TICK);
    }
}

/// Waits for the answers under way. Each has its own timeout, so this ends.
fn await_answers(tally: &Tally, asked: u64, timeout: Duration) {
    let begin = Instant::now();
    let ended = || {
        let results = tally.results.lock().unwrap_or_else(PoisonError::into_inner);
        results.micros.len() + results.failures.values().sum::<u64>() >= asked
    };
    while begin.elapsed() < timeout + Duration::from_secs(1) && !ended() {
        thread::sleep(TICK);
    }
}

fn report(tally: &Tally, asked: u64, elapsed: Duration, still: usize, lost: u64) -> ExitCode {
    let results = tally.results.lock().unwrap_or_else(PoisonError::into_inner);
    let answered = results.micros.len();
    println!(
        "{asked} requests in {:.1} s, {answered} answered, {} pushes received",
        elapsed.as_secs_f64(),
        tally.pushes.load(Ordering::Relaxed),
    );
    if answered > 0 {
        let at = |quantile| {
            let micros = results.micros.value_at_quantile(quantile);
            format!("{:.1?}", Duration::from_micros(micros))
        };
        let (p50, p90, p99) = (at(0.5), at(0.9), at(0.99));
        println!(
            "time to the answer: p50 {p50}, p90 {p90}, p99 {p99}, longest {}",
            at(1.0)
        );
    }
    for (failure, count) in &results.failures {
        println!("failed {count} times: {failure}");
    }
    if lost > 0 {
        println!("{lost} connections were lost, {still} clients are connected at the end");
    }
    match asked > 0 && answered == 0 {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    }
}

fn text_of(text: &str, number: u32) -> Bytes {
    text.replace("{number}", &number.to_string()).into()
}

/// Parses a route and data.
fn first(text: &str) -> Result<(i32, String), String> {
    let pair = text.split_once('=').and_then(|(route, data)| {
        let route = route.trim().parse().ok()?;
        Some((route, data.to_owned()))
    });
    pair.ok_or_else(|| "write a route and data, 2={\"uid\":{number}} for example".to_owned())
}
