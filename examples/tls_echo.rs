//! Sends back whatever arrives over TLS. It makes itself a certificate when it is given none; try
//! `openssl s_client -connect 127.0.0.1:9443`.

mod util;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use epicycle::codec::Raw;
use epicycle::tls::{Identity, TlsServer};
use epicycle::{Action, Conn, EventHandler, Listen, Server};

/// An echo server over TLS.
#[derive(Parser)]
struct Flags {
    /// Where to listen: tcp://HOST:PORT or unix://PATH
    #[arg(long, default_value = "tcp://:9443")]
    listen: String,
    /// How many reactors; one per core unless said otherwise
    #[arg(long, value_name = "N")]
    reactors: Option<usize>,
    /// A PEM file with the server's certificate and those that lead to its root
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// A PEM file with the certificate's private key
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// A protocol to offer by ALPN; can be given several times, most preferred first
    #[arg(long, value_name = "PROTOCOL")]
    alpn: Vec<String>,
}

struct Echo;

impl EventHandler for Echo {
    type Codec = Raw;
    type Session = ();

    fn codec(&mut self) -> Raw {
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
    let identity = match (flags.cert, flags.key) {
        (Some(cert), Some(key)) => Identity::from_pem_files(cert, key)?,
        _ => own_identity()?,
    };
    let tls = TlsServer::new(identity)?.alpn(&flags.alpn);
    let server = Server::bind(Listen::on(flags.listen).tls(&tls));
    Ok(match flags.reactors {
        Some(reactors) => server.reactors(reactors),
        None => server,
    })
}

/// A certificate that vouches for itself, written to a file for clients to trust.
fn own_identity() -> Result<Identity, Box<dyn Error>> {
    let names = ["localhost", "127.0.0.1", "::1"].map(String::from);
    let made = rcgen::generate_simple_self_signed(names)?;
    let certificate = made.cert.pem();
    let path = std::env::temp_dir().join(format!("tls_echo-{}.pem", std::process::id()));
    std::fs::write(&path, &certificate)?;
    println!(
        "made a certificate for localhost, {}; try: openssl s_client -connect localhost:PORT -CAfile {}",
        path.display(),
        path.display()
    );
    Ok(Identity::from_pem(
        certificate,
        made.signing_key.serialize_pem(),
    )?)
}
