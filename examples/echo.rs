//! Sends back whatever arrives. Try `nc 127.0.0.1 9000`.

mod util;

use std::process::ExitCode;

use clap::Parser;
use epicycle::codec::Raw;
use epicycle::{Action, Conn, EventHandler};

/// An echo server.
#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    listen: util::Listen,
}

struct Echo;

impl EventHandler for Echo {
    type Codec = Raw;
    type Session = ();

    fn codec(&mut self) -> Raw {
        Raw
    }

    fn on_open(&mut self, _conn: &mut Conn<'_, Self>) -> Option<()> {
        Some(())
    }

    fn react(&mut self, conn: &mut Conn<'_, Self>, (): &mut (), bytes: &[u8]) -> Action {
        conn.write(bytes).into()
    }
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    util::run("echo", flags.listen.server(), |_reactor| Echo)
}
