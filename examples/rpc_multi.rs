//! A client of a service with several addresses. Without `--to` it starts three servers of its own and stops one amid the calls.

mod util;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use epicycle::balance::{HashRing, Least, Place, RoundRobin, TwoChoices};
use epicycle::rpc::{MultiClient, MultiClientBuilder, Peer, Router};

/// A client of a service with several addresses
#[derive(Parser)]
struct Flags {
    /// An address or a host name of the service, where `rpc_server` runs: tcp://HOST:PORT or unix://PATH. May be repeated
    #[arg(long, value_name = "ADDR")]
    to: Vec<String>,
    /// The way in which addresses are picked
    #[arg(long, value_enum, default_value = "least")]
    balance: Balance,
    /// The number of calls
    #[arg(long, value_name = "N", default_value_t = 3000)]
    calls: usize,
    /// The number of threads that call
    #[arg(long, value_name = "N", default_value_t = 4)]
    threads: usize,
    /// The time after which a call is sent to a second address
    #[arg(long, value_name = "MILLISECONDS")]
    hedge: Option<u64>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Balance {
    /// The address with the fewest calls in flight
    Least,
    /// The better of two random ones
    Two,
    /// One after the other
    Turns,
    /// By the key of the call
    Key,
}

impl Balance {
    fn set(self, builder: MultiClientBuilder) -> MultiClientBuilder {
        match self {
            Balance::Least => builder.balancer(Least::new()),
            Balance::Two => builder.balancer(TwoChoices::new(7)),
            Balance::Turns => builder.balancer(RoundRobin::new(Place::ALONE)),
            Balance::Key => builder.balancer(HashRing::new()),
        }
    }
}

fn server() -> Result<Peer, epicycle::Error> {
    let mut routes = Router::new();
    routes.call("/math/add", |_ctx, numbers: Vec<i64>| {
        Ok(numbers.iter().sum::<i64>())
    });
    let builder = Peer::builder().listen("tcp://127.0.0.1:0").routes(routes);
    builder.reactors(1).start()
}

fn run(flags: &Flags) -> Result<(), epicycle::Error> {
    let own = match flags.to.is_empty() {
        true => vec![server()?, server()?, server()?],
        false => Vec::new(),
    };
    let peer = Peer::builder()
        .reactors(1)
        .server(util::stop_on_signals)
        .start()?;
    let mut builder = flags.balance.set(MultiClient::builder(&peer));
    for server in &own {
        builder = builder.to(&server.local_addrs()[0]);
    }
    for to in &flags.to {
        builder = builder.to(to);
    }
    let client = builder.build()?;

    let (next, failed) = (Arc::new(AtomicUsize::new(0)), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..flags.threads {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= flags.calls {
                        return;
                    }
                    if n == flags.calls / 2
                        && let Some(server) = own.first()
                    {
                        println!("a server stops at call {n}");
                        server.shutdown_within(Duration::ZERO);
                    }
                    let numbers = [n as i64, 1];
                    let call = client.call::<_, i64>("/math/add", &numbers);
                    let call = call.key(n.to_le_bytes()).idempotent();
                    let call = match flags.hedge {
                        Some(millis) => call.hedge(Duration::from_millis(millis)),
                        None => call,
                    };
                    if let Err(status) = call.wait() {
                        failed.fetch_add(1, Ordering::Relaxed);
                        eprintln!("call {n}: {status}");
                    }
                }
            });
        }
    });
    let stats = client.stats();
    for address in &stats.addresses {
        let state = if address.is_up { "up" } else { "down" };
        let sessions = address.sessions;
        println!("{} is {state}, with {sessions} sessions", address.address);
    }
    println!(
        "{} calls, {} failed, {} retries, {} hedges",
        stats.done,
        failed.into_inner(),
        stats.retries,
        stats.hedges
    );
    client.close();
    peer.shutdown();
    Ok(())
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    util::log_to_stderr();
    match run(&flags) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => util::fail("rpc_multi", error),
    }
}
