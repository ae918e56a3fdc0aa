//! Greets each client, then pushes a line to every one of them each tick. Try `nc 127.0.0.1 9000`.

mod util;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use epicycle::codec::Raw;
use epicycle::{Action, Conn, EventHandler, Reactor};

/// A server that pushes to its clients.
#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    listen: util::Listen,
    /// The time between two pushes: 500ms, 1s, 2m
    #[arg(long, default_value = "1s", value_parser = util::period)]
    tick: Duration,
}

struct Push {
    every: Duration,
    count: u64,
}

impl EventHandler for Push {
    type Codec = Raw;
    type Session = ();

    fn codec(&mut self) -> Raw {
        Raw
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<()> {
        let greeting = format!(
            "hello {}, a push every {:?}\n",
            conn.peer_addr(),
            self.every
        );
        conn.write(greeting.as_bytes()).is_ok().then_some(())
    }

    /// What clients say is of no interest.
    fn react(&mut self, _conn: &mut Conn<'_, Self>, (): &mut (), _bytes: &[u8]) -> Action {
        Action::Continue
    }

    /// Each reactor has its own tick, and pushes to its own connections: no thread waits for another.
    fn tick(&mut self, reactor: &mut Reactor<'_, Self>) -> Option<Duration> {
        self.count += 1;
        let clients = reactor.connections();
        let push = format!(
            "push {} to {clients} client(s) of reactor {}\n",
            self.count,
            reactor.id()
        );
        reactor.broadcast(push);
        Some(self.every)
    }

    fn on_shutdown(&mut self, reactor: &mut Reactor<'_, Self>) {
        reactor.broadcast("goodbye\n");
    }
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    let every = flags.tick;
    let server = flags.listen.server().tick(every);
    util::run("push", server, move |_reactor| Push { every, count: 0 })
}
