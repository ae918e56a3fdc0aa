//! What the examples share: the flags that say where to listen, and a graceful end at ctrl-c.

#![allow(dead_code, unused_imports, reason = "no example uses everything")]

mod tls;

use std::error::Error as StdError;
use std::fmt::Display;
use std::process::{ExitCode, exit};
use std::time::Duration;

use clap::{ArgAction, Args};
use epicycle::{AcceptMode, Error, EventHandler, Server};

#[cfg(feature = "tls")]
pub(crate) use self::tls::Files;
pub(crate) use self::tls::Tls;

/// Where to listen and with how many reactors; PORT is the port unless a flag says otherwise.
#[derive(Args)]
pub(crate) struct Listen<const PORT: u16 = 9000> {
    /// The TCP port to listen on, on every interface; 0 lets the kernel choose
    #[arg(long, default_value_t = PORT)]
    port: u16,
    /// The address to listen on, in place of the port: tcp://HOST:PORT or unix://PATH
    #[arg(long, conflicts_with = "port")]
    addr: Option<String>,
    /// One reactor per core, or one for everything
    #[arg(long, value_name = "true|false", default_value_t = true, action = ArgAction::Set)]
    multicore: bool,
    /// How many reactors, in place of --multicore
    #[arg(long, value_name = "N", conflicts_with = "multicore")]
    reactors: Option<usize>,
    /// Gives each reactor its own listener, by SO_REUSEPORT
    #[arg(long)]
    reuseport: bool,
}

impl<const PORT: u16> Listen<PORT> {
    /// A server as the flags say.
    pub(crate) fn server(&self) -> Server {
        self.server_on(self.listener())
    }

    /// The same over TLS if other flags say so.
    pub(crate) fn server_over(&self, tls: &Tls, name: &str) -> Result<Server, Box<dyn StdError>> {
        Ok(self.server_on(tls.over(name, self.listener())?))
    }

    fn listener(&self) -> epicycle::Listen {
        match &self.addr {
            Some(addr) => epicycle::Listen::on(addr),
            None => epicycle::Listen::on(format!("tcp://:{}", self.port)),
        }
    }

    fn server_on(&self, listener: epicycle::Listen) -> Server {
        let accept_mode = match self.reuseport {
            true => AcceptMode::ReusePort,
            false => AcceptMode::MainReactor,
        };
        let server = Server::bind(listener)
            .accept_mode(accept_mode)
            .drain_deadline(Duration::from_secs(10));
        match self.reactors {
            Some(reactors) => server.reactors(reactors),
            None if self.multicore => server,
            None => server.reactors(1),
        }
    }
}

/// Runs a server until ctrl-c, then shuts it down in stages and says how that went.
pub(crate) fn run<H: EventHandler>(
    name: &'static str,
    server: Server,
    factory: impl Fn(usize) -> H + Send + Sync + 'static,
) -> ExitCode {
    match try_run(name, server, factory) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(name, error),
    }
}

/// Says on standard error what went wrong.
pub(crate) fn fail(name: &str, error: impl Display) -> ExitCode {
    eprintln!("{name}: {error}");
    ExitCode::FAILURE
}

fn try_run<H: EventHandler>(
    name: &'static str,
    server: Server,
    factory: impl Fn(usize) -> H + Send + Sync + 'static,
) -> Result<(), Error> {
    // RUST_LOG=debug shows what the engine does.
    env_logger::init_from_env(env_logger::Env::default().default_filter_or("warn"));
    let running = server.start(factory)?;
    let engine = running.engine().clone();
    let stop = move || {
        if engine.is_stopping() {
            exit(130);
        }
        eprintln!("{name}: stopping; ctrl-c again ends it at once");
        engine.shutdown();
    };
    if let Err(error) = ctrlc::set_handler(stop) {
        eprintln!("{name}: ctrl-c will end it at once: {error}");
    }
    for addr in running.local_addrs() {
        let reactors = running.engine().reactors();
        println!("{name} listens on {addr} with {reactors} reactor(s); ctrl-c ends it");
    }
    let report = running.join();
    let total = report.stats.total();
    println!(
        "{name} ends: {} connections, {} bytes in, {} bytes out; at the end {} drained, {} forced",
        total.accepted, total.bytes_in, total.bytes_out, report.drained, report.forced
    );
    Ok(())
}

/// Reads a period as people write it: 500ms, 1s, 2m.
pub(crate) fn period(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let millis = match &text[digits.len()..] {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        _ => return Err("write a number and its unit: 500ms, 1s or 2m".into()),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| "write a whole number and its unit: 500ms, 1s or 2m")?;
    let total = number.checked_mul(millis).map(Duration::from_millis);
    match total.filter(|period| *period <= DAY) {
        None => Err("at most a day is possible".into()),
        Some(Duration::ZERO) => Err("it must be longer than nothing".into()),
        Some(period) => Ok(period),
    }
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
