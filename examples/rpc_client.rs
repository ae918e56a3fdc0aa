//! An RPC client: it has `rpc_server` add numbers, answers the calls that the server makes, and prints what the server pushes.

mod util;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use epicycle::Connect;
use epicycle::rpc::{Peer, Router, Status};

/// An RPC client that has numbers added
#[derive(Parser)]
struct Flags {
    /// The server: tcp://HOST:PORT or unix://PATH
    #[arg(long, value_name = "ADDR", default_value = "tcp://127.0.0.1:9090")]
    to: String,
    /// The protocol. A 4 means the dialect of Teleport v4.0.0, and ws a WebSocket at /ws
    #[arg(long, value_enum, default_value = "raw")]
    proto: util::Proto,
    /// The time within which each call must be answered
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    timeout: u64,
    /// The time to stay for pushes after the calls
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    stay: u64,
    /// The numbers to add
    #[arg(allow_negative_numbers = true)]
    numbers: Vec<i64>,
}

fn routes() -> Router {
    let mut routes = Router::new();
    routes.call("name", |ctx, _: ()| {
        Ok(format!("client {}", ctx.session().id()))
    });
    routes.push("push/status", |_ctx, text: String| {
        println!("the server says: {text}");
        Ok(())
    });
    routes
}

fn run(flags: &Flags) -> Result<(), Status> {
    let timeout = Duration::from_secs(flags.timeout);
    let started = Peer::builder()
        .routes(routes())
        .dial_protocol(flags.proto.of_dial(util::WEBSOCKET_PATH))
        .call_timeout(timeout)
        .reactors(1)
        .server(util::stop_on_signals)
        .start();
    let peer = started.map_err(|error| Status::new(-1, error.to_string()))?;
    let session = peer.dial(Connect::to(&flags.to).timeout(timeout))?;

    let begun = Instant::now();
    let call = session.call("/math/add", &flags.numbers);
    let sum: i64 = call.query("author", "rpc_client").wait()?;
    println!("the sum is {sum}, after {:.1?}", begun.elapsed());
    let greeting: String = session.call("/greet", "hello").wait()?;
    println!("{}", greeting.replace(&*session.id(), "here"));
    session.push("/note", "that was all")?;
    // Whatever was pushed before this call arrives before its reply.
    let failed = session.call::<_, i64>("/math/divide", &(1, 0)).wait();
    if let Err(status) = failed {
        println!("1 / 0: {status}");
    }
    session.wait_closed(Duration::from_secs(flags.stay));
    peer.shutdown();
    Ok(())
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    util::log_to_stderr();
    match run(&flags) {
        Ok(()) => ExitCode::SUCCESS,
        Err(status) => util::fail("rpc_client", status),
    }
}
