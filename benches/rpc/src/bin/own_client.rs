//! Calls by this crate's own client: the cost of a client.

use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use epicycle::rpc::wire::Pb;
use epicycle::rpc::{Codec, Peer, Session, Status};
use hdrhistogram::Histogram;
use rpc_bench::load::{Flags, Meter, end_in_time, latencies};
use rpc_bench::message::BenchmarkMessage;

/// Loads a server with calls of an epicycle client, and measures the cost to both
#[derive(Parser)]
struct Arguments {
    /// The way in which replies are awaited
    how: How,
    #[command(flatten)]
    flags: Flags,
}

#[derive(Clone, Copy, ValueEnum)]
enum How {
    /// By callbacks on the reactor
    Callbacks,
    /// By a thread for each connection
    Wait,
}

/// The state that all callers share.
struct Load {
    is_counting: AtomicBool,
    is_over: AtomicBool,
    latencies: Mutex<Histogram<u64>>,
    failure: Mutex<Option<Status>>,
}

impl Load {
    /// Counts a call that has ended. Returns true if the caller goes on.
    fn ended(&self, since: Instant, result: Result<Pb<BenchmarkMessage>, Status>) -> bool {
        let is_over = self.is_over.load(Ordering::Relaxed);
        match result {
            Ok(reply) if reply.0.field2 == 100 => {
                if self.is_counting.load(Ordering::Relaxed) {
                    let took = since.elapsed().as_nanos() as u64;
                    let mut latencies = self.latencies.lock().expect("nobody panics with it");
                    latencies.saturating_record(took);
                }
                !is_over
            }
            Ok(_) => panic!("the server answers something else than it should"),
            Err(_) if is_over => false,
            Err(status) => {
                *self.failure.lock().expect("nobody panics with it") = Some(status);
                false
            }
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let Arguments { how, flags } = Arguments::parse();
    end_in_time();
    let load = Arc::new(Load {
        is_counting: AtomicBool::new(false),
        is_over: AtomicBool::new(false),
        latencies: Mutex::new(latencies()),
        failure: Mutex::default(),
    });
    let peer = Peer::builder()
        .body_codec(Codec::PROTOBUF)
        .reactors(1)
        .start()?;
    let request = Arc::new(Pb(BenchmarkMessage::request()));
    let mut threads = Vec::new();
    for _ in 0..flags.connections {
        let session = peer.dial(&*format!("tcp://{}", flags.addr()))?;
        let (load, request) = (load.clone(), request.clone());
        match how {
            How::Callbacks => call(session, request, load),
            How::Wait => threads.push(thread::spawn(move || {
                loop {
                    let since = Instant::now();
                    if !load.ended(since, session.call("/bench", &*request).wait()) {
                        return;
                    }
                }
            })),
        }
    }
    thread::sleep(Duration::from_secs_f64(flags.warm_up));
    let mut meter = Meter::begin(flags.pid)?;
    load.is_counting.store(true, Ordering::Relaxed);
    thread::sleep(Duration::from_secs_f64(flags.seconds));
    load.is_counting.store(false, Ordering::Relaxed);
    let counted = load
        .latencies
        .lock()
        .expect("nobody panics with it")
        .clone();
    meter.latencies.add(counted)?;
    let report = meter.report();
    load.is_over.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.join().map_err(|_| "a thread has panicked")?;
    }
    if let Some(status) = load.failure.lock().expect("nobody panics with it").take() {
        return Err(status.into());
    }
    println!("{}", report?);
    Ok(())
}

/// Makes a call, and the next one when it has ended.
fn call(session: Session, request: Arc<Pb<BenchmarkMessage>>, load: Arc<Load>) {
    let since = Instant::now();
    let (next, of) = (session.clone(), request.clone());
    session.call("/bench", &*request).then(move |result| {
        if load.ended(since, result) {
            call(next, of, load);
        }
    });
}
