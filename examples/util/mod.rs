//! Code that the examples share: flags for where to listen, a run until ctrl-c or SIGTERM, and the log.

#![allow(dead_code, unused_imports, reason = "no example uses everything")]

mod tls;

use std::error::Error as StdError;
use std::fmt::Display;
use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

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

/// The timeouts of a server that anybody may connect to: for the first request, for the rest of one that has begun, for its
/// answer, between requests, and for a client that does not read.
pub(crate) fn with_timeouts(server: Server) -> Server {
    server
        .handshake_timeout(Duration::from_secs(30))
        .read_timeout(Duration::from_secs(30))
        .answer_timeout(Duration::from_secs(60))
        .idle_timeout(Duration::from_secs(75))
        .write_stall_timeout(Duration::from_secs(60))
}

/// Runs a server until ctrl-c or SIGTERM, then shuts it down in stages and prints how that went.
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
    log_to_stderr();
    let running = stop_on_signals(server).start(factory)?;
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

/// Has ctrl-c and SIGTERM shut the server down gracefully, where the crate is built with that.
pub(crate) fn stop_on_signals(server: Server) -> Server {
    #[cfg(feature = "signals")]
    let server = server.stop_on_signals();
    server
}

/// Logs warnings, and what signals do. RUST_LOG=debug shows what the engine does.
pub(crate) fn log_to_stderr() {
    let env = env_logger::Env::default().default_filter_or("warn,epicycle::signals=info");
    env_logger::Builder::from_env(env)
        .format(|out, record| {
            let time = humantime::format_rfc3339_millis(SystemTime::now());
            let (level, target, text) = (record.level(), record.target(), record.args());
            writeln!(out, "{time} {level:5} {target}: {text}")
        })
        .init();
}

/// Reads a period such as 500ms, 1s or 2m: longer than nothing, and at most a day.
pub(crate) fn period(text: &str) -> Result<Duration, String> {
    match period_or_zero(text) {
        Ok(Duration::ZERO) => Err("it must be longer than nothing".into()),
        period => period,
    }
}

/// The same where 0 turns something off.
pub(crate) fn period_or_zero(text: &str) -> Result<Duration, String> {
    let period = humantime::parse_duration(text)
        .map_err(|error| format!("{error}; write 500ms, 1s or 2m, for example"))?;
    if period > DAY {
        return Err("at most a day is possible".into());
    }
    Ok(period)
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
