//! Sends each datagram back to its sender. Try `nc -u 127.0.0.1 9000`.

mod util;

use std::process::ExitCode;

use clap::Parser;
use epicycle::codec::Raw;
use epicycle::{
    AcceptMode, Action, Conn, ConnInfo, Datagram, EventHandler, Listen, Server, Udp, UdpSessions,
};

/// A UDP echo server
#[derive(Parser)]
struct Flags {
    /// The address to listen on: udp://HOST:PORT, udp4://HOST:PORT or udp6://HOST:PORT
    #[arg(long, value_name = "ADDRESS", default_value = "udp://:9000")]
    listen: String,
    /// Keeps a session for each peer, and numbers its datagrams
    #[arg(long)]
    sessions: bool,
    /// The most datagrams in one system call, from 1 to 64
    #[arg(long, value_name = "N", default_value_t = 64)]
    batch: usize,
    /// The number of reactors, each with its own socket [default: one per core]
    #[arg(long, value_name = "N")]
    reactors: Option<usize>,
}

struct Echo;

impl EventHandler for Echo {
    type Codec = Raw;
    /// The number of datagrams received.
    type Session = u64;

    const HANDLES_DATAGRAMS: bool = true;

    fn codec(&mut self, _: &ConnInfo<'_>) -> Raw {
        Raw
    }

    fn on_datagram(&mut self, udp: &mut Udp<'_, Self>, datagram: Datagram<'_>) -> Action {
        udp.reply(datagram.data).into()
    }

    fn on_open(&mut self, _conn: &mut Conn<'_, Self>) -> Option<u64> {
        Some(0)
    }

    fn react(&mut self, conn: &mut Conn<'_, Self>, count: &mut u64, bytes: &[u8]) -> Action {
        *count += 1;
        let mut answer = format!("{count}: ").into_bytes();
        answer.extend_from_slice(bytes);
        // An answer that is too long for a datagram is dropped, as the network might do.
        let _ = conn.write(&answer);
        Action::Continue
    }
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    let mut listen = Listen::on(flags.listen).batch(flags.batch);
    if flags.sessions {
        listen = listen.sessions(UdpSessions::new());
    }
    let mut server = Server::bind(listen).accept_mode(AcceptMode::ReusePort);
    if let Some(reactors) = flags.reactors {
        server = server.reactors(reactors);
    }
    util::run("udp_echo", server, |_reactor| Echo)
}
