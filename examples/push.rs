//! Greets each client, sends back all bytes it receives, and pushes a line to all clients on each tick. Try
//! `nc 127.0.0.1 9000`.

mod util;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use epicycle::codec::Raw;
use epicycle::{Action, Conn, ConnInfo, EventHandler, Reactor};

/// An echo server that also pushes lines to its clients
#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    listen: util::Listen,
    /// The time between pushes: 500ms, 1s, 2m; 0 for no pushes
    #[arg(long, default_value = "1s", value_parser = util::period_or_zero)]
    tick: Duration,
}

struct Push {
    /// `None` for no pushes.
    every: Option<Duration>,
    count: u64,
}

impl EventHandler for Push {
    type Codec = Raw;
    type Session = ();

    fn codec(&mut self, _: &ConnInfo<'_>) -> Raw {
        Raw
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<()> {
        let peer = conn.peer_addr();
        let greeting = match self.every {
            Some(every) => format!("hello {peer}, a push every {every:?}\n"),
            None => format!("hello {peer}\n"),
        };
        conn.write(greeting.as_bytes()).is_ok().then_some(())
    }

    fn react(&mut self, conn: &mut Conn<'_, Self>, (): &mut (), bytes: &[u8]) -> Action {
        conn.write(bytes).into()
    }

    /// Each reactor has its own tick and pushes to its own connections, so no thread waits for another.
    fn tick(&mut self, reactor: &mut Reactor<'_, Self>) -> Option<Duration> {
        let every = self.every?;
        self.count += 1;
        let clients = reactor.connections();
        let push = format!(
            "push {} to {clients} client(s) of reactor {}\n",
            self.count,
            reactor.id()
        );
        reactor.broadcast(push);
        Some(every)
    }

    fn on_shutdown(&mut self, reactor: &mut Reactor<'_, Self>) {
        reactor.broadcast("goodbye\n");
    }
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    let every = Some(flags.tick).filter(|tick| !tick.is_zero());
    let server = flags.listen.server().tick(flags.tick);
    util::run("push", server, move |_reactor| Push { every, count: 0 })
}
