//! What the examples share: the flags that say where to listen, and a graceful end at ctrl-c.

use std::process::ExitCode;
use std::time::Duration;

use clap::{ArgAction, Args};
use epicycle::{Error, EventHandler, Server};

/// Where to listen and with how many reactors.
#[derive(Args)]
pub struct Listen {
    /// The TCP port to listen on, on every interface; 0 lets the kernel choose
    #[arg(long, default_value_t = 9000)]
    pub port: u16,
    /// The address to listen on, in place of the port: tcp://HOST:PORT or unix://PATH
    #[arg(long, conflicts_with = "port")]
    pub addr: Option<String>,
    /// One reactor per core, or one for everything
    #[arg(long, default_value_t = true, action = ArgAction::Set)]
    pub multicore: bool,
    /// How many reactors, in place of --multicore
    #[arg(long)]
    pub reactors: Option<usize>,
    /// Gives each reactor its own listener, by SO_REUSEPORT
    #[arg(long)]
    pub reuseport: bool,
}

impl Listen {
    /// A server as the flags say.
    pub fn server(&self) -> Server {
        let addr = match &self.addr {
            Some(addr) => addr.clone(),
            None => format!("tcp://:{}", self.port),
        };
        let server = Server::bind(addr)
            .reuse_port(self.reuseport)
            .drain_deadline(Duration::from_secs(10));
        match self.reactors {
            Some(reactors) => server.reactors(reactors),
            None if self.multicore => server,
            None => server.reactors(1),
        }
    }
}

/// Runs a server until ctrl-c, then shuts it down in stages and says how that went.
pub fn run<H: EventHandler>(
    name: &str,
    server: Server,
    factory: impl Fn(usize) -> H + Send + Sync + 'static,
) -> ExitCode {
    match try_run(name, server, factory) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn try_run<H: EventHandler>(
    name: &str,
    server: Server,
    factory: impl Fn(usize) -> H + Send + Sync + 'static,
) -> Result<(), Error> {
    env_logger::init();
    let running = server.start(factory)?;
    for addr in running.local_addrs() {
        let reactors = running.engine().reactors();
        println!("{name} listens on {addr} with {reactors} reactor(s); ctrl-c ends it");
    }
    let engine = running.engine().clone();
    if let Err(error) = ctrlc::set_handler(move || engine.shutdown()) {
        eprintln!("{name}: ctrl-c will end it at once: {error}");
    }
    let report = running.join();
    let total = report.stats.total();
    println!(
        "{name} ends: {} connections, {} bytes in, {} bytes out; at the end {} drained, {} forced",
        total.accepted, total.bytes_in, total.bytes_out, report.drained, report.forced
    );
    Ok(())
}
