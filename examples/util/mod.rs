//! Code that the examples share: flags for the listener, a run until ctrl-c or SIGTERM, and the log.

#![allow(dead_code, unused_imports, reason = "no example uses everything")]

#[cfg(feature = "rpc")]
#[path = "../../src/bin/epicycle/proto.rs"]
mod proto;
mod tls;

use std::error::Error as StdError;
use std::fmt::Display;
use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::{ArgAction, Args};
use epicycle::{AcceptMode, Error, EventHandler, Report, Server};

#[cfg(feature = "rpc")]
pub(crate) use self::proto::{Proto, WEBSOCKET_PATH};
#[cfg(feature = "tls")]
pub(crate) use self::tls::Files;
pub(crate) use self::tls::Tls;

/// The listener and the number of reactors. PORT is the default port.
#[derive(Args)]
pub(crate) struct Listen<const PORT: u16 = 9000> {
    /// The TCP port to listen on, on every interface; 0 lets the kernel choose
    #[arg(long, default_value_t = PORT)]
    port: u16,
    /// The address to listen on, instead of --port: tcp://HOST:PORT or unix://PATH
    #[arg(long, conflicts_with = "port")]
    addr: Option<String>,
    /// One reactor per core if true, a single reactor if false
    #[arg(long, value_name = "true|false", default_value_t = true, action = ArgAction::Set)]
    multicore: bool,
    /// The number of reactors, instead of --multicore
    #[arg(long, value_name = "N", conflicts_with = "multicore")]
    reactors: Option<usize>,
    /// Gives each reactor its own listener, with SO_REUSEPORT
    #[arg(long)]
    reuseport: bool,
    /// The time for which a reactor polls before it sleeps, at the cost of its core
    #[arg(long, value_name = "MICROSECONDS", default_value_t = 0)]
    spin: u64,
}

impl<const PORT: u16> Listen<PORT> {
    /// Returns a server with the options of the flags.
    pub(crate) fn server(&self) -> Server {
        self.server_on(self.listener())
    }

    /// Returns the same server, over TLS if the TLS flags ask for it.
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
            .spin(Duration::from_micros(self.spin))
            .drain_deadline(Duration::from_secs(10));
        match self.reactors {
            Some(reactors) => server.reactors(reactors),
            None if self.multicore => server,
            None => server.reactors(1),
        }
    }
}

/// Sets the timeouts of a public server: for the first request, for the rest of a request that has begun, for its answer,
/// between requests, and for a client that does not read.
pub(crate) fn with_timeouts(server: Server) -> Server {
    server
        .handshake_timeout(Duration::from_secs(30))
        .read_timeout(Duration::from_secs(30))
        .answer_timeout(Duration::from_secs(60))
        .idle_timeout(Duration::from_secs(75))
        .write_stall_timeout(Duration::from_secs(60))
}

/// Runs a server until ctrl-c or SIGTERM, then shuts it down gracefully and prints a summary.
pub(crate) fn run<H: EventHandler>(
    name: &'static str,
    server: Server,
    factory: impl Fn(usize) -> H + Send + Sync + 'static,
) -> ExitCode {
    let result = try_run(name, server, factory);
    tls::remove_own_certificate();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(name, error),
    }
}

/// Prints an error on standard error.
pub(crate) fn fail(name: &str, error: impl Display) -> ExitCode {
    eprintln!("{name}: {error}");
    ExitCode::FAILURE
}

fn try_run<H: EventHandler>(
    name: &'static str,
    server: Server,
    factory: impl Fn(usize) -> H + Send + Sync + 'static,
) -> Result<(), Error> {
    log_to_stderr();
    let running = stop_on_signals(server).start(factory)?;
    for addr in running.local_addrs() {
        let reactors = running.engine().reactors();
        println!("{name} listens on {addr} with {reactors} reactor(s); ctrl-c ends it");
    }
    print_report(name, &running.join());
    Ok(())
}

/// Waits for ctrl-c or SIGTERM.
pub(crate) fn await_signal() -> std::io::Result<()> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
    signals.forever().next();
    Ok(())
}

/// Parses the id and the address of another server.
pub(crate) fn server(text: &str) -> Result<(String, String), String> {
    let (id, address) = text.split_once('=').ok_or("write ID=HOST:PORT")?;
    Ok((id.to_owned(), address.to_owned()))
}

/// Prints the summary of a server that has ended.
pub(crate) fn print_report(name: &str, report: &Report) {
    let total = report.stats.total();
    println!(
        "{name} ends: {} connections, {} bytes in, {} bytes out; at the end {} drained, {} forced",
        total.accepted, total.bytes_in, total.bytes_out, report.drained, report.forced
    );
}

/// Makes ctrl-c and SIGTERM shut the server down gracefully, if the crate is built with the feature `signals`.
pub(crate) fn stop_on_signals(server: Server) -> Server {
    #[cfg(feature = "signals")]
    let server = server.stop_on_signals();
    server
}

/// Logs warnings and received signals. RUST_LOG=debug shows the work of the engine.
pub(crate) fn log_to_stderr() {
    log_to_stderr_from("warn");
}

/// Logs records of this level and above, and received signals.
pub(crate) fn log_to_stderr_from(level: &str) {
    let env = env_logger::Env::default();
    let env = env.default_filter_or(format!("{level},epicycle::signals=info"));
    env_logger::Builder::from_env(env)
        .format(|out, record| {
            let time = humantime::format_rfc3339_millis(SystemTime::now());
            let (level, target, text) = (record.level(), record.target(), record.args());
            writeln!(out, "{time} {level:5} {target}: {text}")
        })
        .init();
}

/// Parses a period such as 500ms, 1s or 2m: longer than zero, and at most a day.
pub(crate) fn period(text: &str) -> Result<Duration, String> {
    match period_or_zero(text) {
        Ok(Duration::ZERO) => {
            Err("the period must be longer than zero; write 1s, for example".into())
        }
        period => period,
    }
}

/// Parses a period that may be zero.
pub(crate) fn period_or_zero(text: &str) -> Result<Duration, String> {
    let period = humantime::parse_duration(text)
        .map_err(|error| format!("{error}; write 500ms, 1s or 2m, for example"))?;
    if period > DAY {
        return Err("the period must be at most a day".into());
    }
    Ok(period)
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
