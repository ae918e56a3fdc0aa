//! An RPC server: it adds numbers, greets, and pushes its state to all clients. `rpc_client` talks to it, and so does a program
//! that is written with Teleport v4.

mod util;

use std::path::PathBuf;
use std::process::{self, ExitCode};
use std::thread;
use std::time::Duration;

use clap::Parser;
use epicycle::Endpoint;
use epicycle::handover::Control;
use epicycle::rpc::{Peer, Router, Status};

/// An RPC server that adds numbers and pushes its state
#[derive(Parser)]
struct Flags {
    /// The address to listen on: tcp://HOST:PORT or unix://PATH
    #[arg(
        long,
        alias = "addr",
        value_name = "ADDR",
        default_value = "tcp://:9090"
    )]
    listen: Endpoint,
    /// The protocol. A 4 means the dialect of Teleport v4.0.0, and ws a WebSocket at /ws
    #[arg(long, value_enum, default_value = "raw")]
    proto: util::Proto,
    /// The number of reactors. Without it, one per core
    #[arg(long, value_name = "N")]
    reactors: Option<usize>,
    /// The seconds between two pushes to all clients; 0 for none
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    push_every: u64,
    /// The Unix socket for the next process. SIGUSR2 starts it with the same flags, and this one ends when its calls have ended
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
}

fn routes() -> Router {
    let mut routes = Router::new();
    routes.group("math", |routes| {
        routes.call("add", |ctx, numbers: Vec<i64>| {
            if let Some(author) = ctx.query("author") {
                println!(
                    "{} ({author}) adds {} numbers",
                    ctx.session().id(),
                    numbers.len()
                );
            }
            Ok(numbers.iter().sum::<i64>())
        });
        routes.call("divide", |_ctx, (a, b): (i64, i64)| {
            a.checked_div(b)
                .ok_or_else(|| Status::new(1001, "Bad Division").with_reason(format!("{a} / {b}")))
        });
    });
    // A handler that waits for a call to its own caller.
    routes.call_async("greet", |ctx, greeting: String| async move {
        let name: String = ctx.session().call("/name", &()).await?;
        Ok(format!("{greeting}, {name}"))
    });
    routes.call_blocking("sleep", |_ctx, seconds: u64| {
        thread::sleep(Duration::from_secs(seconds.min(10)));
        Ok(())
    });
    routes.call_bytes("echo", |_ctx, body, out| {
        out.extend_from_slice(body);
        Ok(())
    });
    routes.push("note", |ctx, text: String| {
        println!("{} notes: {text}", ctx.session().id());
        Ok(())
    });
    routes
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    util::log_to_stderr();
    let mut builder = Peer::builder()
        .listen_with(flags.listen, flags.proto.of_listener())
        .routes(routes())
        .server(util::stop_on_signals);
    if let Some(path) = flags.control {
        builder = builder.replaceable(Control::at(path));
    }
    if let Some(reactors) = flags.reactors {
        builder = builder.reactors(reactors);
    }
    let peer = match builder.start() {
        Ok(peer) => peer,
        Err(error) => return util::fail("rpc_server", error),
    };
    for addr in peer.local_addrs() {
        println!(
            "rpc_server listens on {addr} with {} routes in process {}; ctrl-c ends it",
            peer.routes().len(),
            process::id()
        );
    }
    if flags.push_every > 0 {
        let peer = peer.clone();
        thread::spawn(move || {
            loop {
                thread::sleep(Duration::from_secs(flags.push_every));
                let state = format!("{} sessions are open", peer.session_count());
                if peer.broadcast("/push/status", &state).is_err() {
                    return;
                }
            }
        });
    }
    if let Some(report) = peer.wait() {
        util::print_report("rpc_server", &report);
    }
    ExitCode::SUCCESS
}
