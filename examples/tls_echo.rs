//! Sends back all bytes it receives over TLS. Without a certificate on the command line it makes its own. Try
//! `openssl s_client -connect 127.0.0.1:9443`.

mod util;

use std::error::Error;
use std::process::ExitCode;

use clap::Parser;
use epicycle::codec::Raw;
use epicycle::tls::TlsServer;
use epicycle::{Action, Conn, ConnInfo, EventHandler, Listen, Server};

/// An echo server over TLS
#[derive(Parser)]
struct Flags {
    /// The address to listen on: tcp://HOST:PORT or unix://PATH
    #[arg(long, default_value = "tcp://:9443")]
    listen: String,
    /// The number of reactors [default: one per core]
    #[arg(long, value_name = "N")]
    reactors: Option<usize>,
    #[command(flatten)]
    files: util::Files,
    /// A protocol to offer by ALPN; may be repeated, most preferred first
    #[arg(long, value_name = "PROTOCOL")]
    alpn: Vec<String>,
}

struct Echo;

impl EventHandler for Echo {
    type Codec = Raw;
    type Session = ();

    fn codec(&mut self, _: &ConnInfo<'_>) -> Raw {
        Raw
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<()> {
        if let Some(tls) = conn.tls() {
            log::info!("{}: {tls:?}", conn.peer_addr());
        }
        Some(())
    }

    fn react(&mut self, conn: &mut Conn<'_, Self>, (): &mut (), bytes: &[u8]) -> Action {
        conn.write(bytes).into()
    }
}

fn main() -> ExitCode {
    match server(Flags::parse()) {
        Ok(server) => util::run("tls_echo", server, |_reactor| Echo),
        Err(error) => util::fail("tls_echo", error),
    }
}

fn server(flags: Flags) -> Result<Server, Box<dyn Error>> {
    let tls = TlsServer::new(flags.files.identity("tls_echo")?)?.alpn(&flags.alpn);
    let server = Server::bind(Listen::on(flags.listen).tls(&tls));
    Ok(match flags.reactors {
        Some(reactors) => server.reactors(reactors),
        None => server,
    })
}
