//! A game: players run for coins in rooms. It needs no other server:
//!
//! ```sh
//! cargo run --features cluster --example game -- --bots 10
//! ```
//!
//! Open http://127.0.0.1:8080/ and use the arrow keys. The page talks to the gate over WebSocket, the bots over TCP, or over KCP with
//! `--features cluster,kcp` and `--listen kcp://127.0.0.1:3555 --listen ws://127.0.0.1:3554/`. The lobby is the state of the node, and each room is an actor with a clock. `protocol.rs` has the packets.

mod arena;
mod bots;
mod lobby;
mod page;
mod protocol;
#[path = "../util/mod.rs"]
mod util;

use std::process::ExitCode;

use clap::Parser;
use epicycle::cluster::client::Clients;
use epicycle::cluster::gate::{Gate, RateLimit};
use epicycle::cluster::node::Node;
use epicycle::cluster::{Cluster, Error, Event};
use epicycle::{Addr, Running, Server};

use self::page::Page;

/// Players run for coins in rooms
#[derive(Parser)]
struct Flags {
    /// An address for players: tcp://HOST:PORT, ws://HOST:PORT/PATH or kcp://HOST:PORT (feature kcp); may be repeated. The bots use the
    /// first one
    #[arg(long, value_name = "ADDR", default_values = ["tcp://127.0.0.1:3553", "ws://127.0.0.1:3554/"])]
    listen: Vec<String>,
    /// The address of the web page, which plays over the first ws:// address
    #[arg(long, value_name = "ADDR", default_value = "tcp://127.0.0.1:8080")]
    page: String,
    /// The number of players that the program plays itself
    #[arg(long, value_name = "N", default_value_t = 0)]
    bots: usize,
}

/// The parts of the game. The first ones end first.
struct Game {
    bots: bots::Bots,
    page: Running<Page>,
    gate: Gate,
    node: Node,
}

fn start(flags: &Flags) -> Result<Game, Error> {
    let cluster = Cluster::embedded();
    let node = lobby::routes(cluster.node())
        .event(Event::Disconnect, |_, cx| cx.next())
        .event(Event::Reconnect, |_, cx| cx.next())
        .start()?;
    let mut gate = cluster
        .gate()
        .rate_limit(RateLimit::per_second(200, 256 << 10));
    for listener in &flags.listen {
        gate = gate.listen(&**listener);
    }
    let gate = gate.start()?;
    let port = flags
        .listen
        .iter()
        .zip(gate.client_addrs())
        .find(|(listener, _)| listener.starts_with("ws://"))
        .and_then(|(_, addr)| addr.as_socket_addr())
        .map(|addr| addr.port());
    let page = Server::bind(&*flags.page)
        .reactors(1)
        .start(move |_| Page::new(port))?;
    let clients = Clients::start(1)?;
    let bots = bots::start(&clients, &first(&flags.listen, &gate), flags.bots)?;
    Ok(Game {
        bots,
        page,
        gate,
        node,
    })
}

/// Returns the first address for players, with its port.
fn first(listeners: &[String], gate: &Gate) -> String {
    let (scheme, host) = listeners[0].split_once("://").unwrap_or_default();
    let path = host.find('/').map_or("", |at| &host[at..]);
    format!("{scheme}://{}{path}", gate.client_addrs()[0])
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    util::log_to_stderr();
    let game = match start(&flags) {
        Ok(game) => game,
        Err(error) => return util::fail("game", error),
    };
    for addr in game.gate.client_addrs() {
        println!("game listens for players on {addr}");
    }
    let page: Vec<String> = game
        .page
        .local_addrs()
        .iter()
        .map(Addr::to_string)
        .collect();
    println!(
        "game listens on {} with {} bots; ctrl-c ends it",
        page.join(", "),
        flags.bots
    );
    if let Err(error) = util::await_signal() {
        return util::fail("game", error);
    }
    let coins = game.bots.coins();
    drop(game.bots);
    let (node, gate) = (game.node.stats(), game.gate.stats());
    println!(
        "game ends: {} packets of players, {} pushed, {coins} coins of bots",
        node.packets_in, gate.pushed
    );
    ExitCode::SUCCESS
}
