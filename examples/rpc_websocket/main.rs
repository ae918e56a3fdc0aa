//! A page that calls this program and is called by it. Try `rpc_websocket` and open http://127.0.0.1:8080/.
//!
//! One port takes all of this: the page and calls by HTTP, calls and pushes in a WebSocket, and the raw protocol of Teleport
//! (`rpc_client --to tcp://127.0.0.1:8080 1 2 3`).

#[path = "../util/mod.rs"]
mod util;

use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::Parser;
use epicycle::Endpoint;
use epicycle::rpc::wire::Html;
use epicycle::rpc::{Http, Peer, ProtocolChoice, Router, WebSocket};

/// An RPC server with a page that calls it over a WebSocket
#[derive(Parser)]
struct Flags {
    /// The address to listen on: tcp://HOST:PORT or unix://PATH
    #[arg(long, value_name = "ADDR", default_value = "tcp://127.0.0.1:8080")]
    listen: Endpoint,
    /// An origin whose pages may connect, besides the server's own page
    #[arg(long, value_name = "URL")]
    origin: Vec<String>,
}

/// The whole page, with its script and style.
const PAGE: &str = include_str!("page.html");

/// Allows the page only its inline script and style, and connections to its own server.
const POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; connect-src 'self'";

fn routes() -> Router {
    let mut routes = Router::new();
    routes.call("/", |ctx, _: ()| {
        ctx.add_reply_meta("Content-Security-Policy", POLICY);
        Ok(Html(PAGE.to_owned()))
    });
    routes.call("/math/add", |_ctx, numbers: Vec<i64>| {
        Ok(numbers.iter().sum::<i64>())
    });
    // A handler that waits for a call to its own caller, the page.
    routes.call_async("/greet", |ctx, greeting: String| async move {
        let name: String = ctx.session().call("/name", &()).await?;
        Ok(format!("{greeting}, {name}"))
    });
    routes.push("/note", |ctx, text: String| {
        println!("{} notes: {text}", ctx.session().id());
        Ok(())
    });
    routes
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    util::log_to_stderr();
    let socket = WebSocket::json("/ws").origins(flags.origin.clone());
    let http = Http::new().origins(flags.origin).websocket(socket);
    let started = Peer::builder()
        .listen_with(flags.listen, ProtocolChoice::raw().or_http(http))
        .routes(routes())
        .server(util::stop_on_signals)
        .start();
    let peer = match started {
        Ok(peer) => peer,
        Err(error) => return util::fail("rpc_websocket", error),
    };
    for addr in peer.local_addrs() {
        println!("rpc_websocket listens on {addr} with a page; ctrl-c ends it");
    }
    let pushing = peer.clone();
    thread::spawn(move || {
        let every = Duration::from_secs(1);
        loop {
            thread::sleep(every);
            let state = format!("{} sessions are open", pushing.session_count());
            if pushing.broadcast("/push/status", &state).is_err() {
                return;
            }
        }
    });
    if let Some(report) = peer.wait() {
        util::print_report("rpc_websocket", &report);
    }
    ExitCode::SUCCESS
}
