//! Sends back all bytes it receives. Try `nc 127.0.0.1 9000`, or with `--addr udp://:9000` `nc -u 127.0.0.1 9000`.

mod util;

use std::process::ExitCode;

use clap::Parser;
use epicycle::codec::Raw;
use epicycle::{Action, Conn, ConnInfo, Datagram, EventHandler, Udp};

/// An echo server
#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    listen: util::Listen,
}

struct Echo;

impl EventHandler for Echo {
    type Codec = Raw;
    type Session = ();

    const HANDLES_DATAGRAMS: bool = true;

    fn codec(&mut self, _: &ConnInfo<'_>) -> Raw {
        Raw
    }

    fn on_open(&mut self, _conn: &mut Conn<'_, Self>) -> Option<()> {
        Some(())
    }

    fn react(&mut self, conn: &mut Conn<'_, Self>, (): &mut (), bytes: &[u8]) -> Action {
        conn.write(bytes).into()
    }

    /// For `--addr udp://:9000`.
    fn on_datagram(&mut self, udp: &mut Udp<'_, Self>, datagram: Datagram<'_>) -> Action {
        udp.reply(datagram.data).into()
    }
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    util::run("echo", flags.listen.server(), |_reactor| Echo)
}
