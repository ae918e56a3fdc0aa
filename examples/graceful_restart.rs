//! A server that is replaced while it runs, without a refused connection or a lost request. Start it, start it
//! again with the same `--control`, and the second takes over from the first.
//!
//! The new process asks for the listening sockets at the control socket of the old one, which answers processes of the same
//! user. Once the new one listens it says so; the old one then accepts no more, serves its connections until they are done,
//! and ends. Connections that come meanwhile wait in the queue of the sockets that both have.

mod util;

use std::error::Error;
use std::path::PathBuf;
use std::process::{self, ExitCode};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{env, io, thread};

use clap::Parser;
use epicycle::codec::Lines;
use epicycle::handover::{Control, Successors};
use epicycle::{Action, Conn, Engine, EventHandler, Listen, Server};
use rustix::process::geteuid;

/// Answers each line with its own process number and the line, and can be replaced by another process.
#[derive(Parser)]
struct Flags {
    /// The address to listen on, for the first process
    #[arg(long, value_name = "ADDR", default_value = "tcp://127.0.0.1:9000")]
    listen: String,
    /// The Unix socket at which the next process asks [default: graceful_restart.sock in $XDG_RUNTIME_DIR, or for root in /run]
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
    /// How long those who are connected are served once another process has taken over
    #[arg(long, value_name = "PERIOD", default_value = "30s", value_parser = util::period)]
    drain: Duration,
}

struct Answers;

impl EventHandler for Answers {
    type Codec = Lines;
    type Session = ();

    fn codec(&mut self) -> Lines {
        Lines::new()
    }

    fn on_open(&mut self, _conn: &mut Conn<'_, Self>) -> Option<()> {
        Some(())
    }

    fn react(&mut self, conn: &mut Conn<'_, Self>, (): &mut (), line: &[u8]) -> Action {
        let line = String::from_utf8_lossy(line);
        conn.send(format!("{} {line}", process::id())).into()
    }
}

/// Where the next process asks, unless the flags say: in a directory that nobody else can write to.
fn usual_control() -> Result<PathBuf, &'static str> {
    let own = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let directory = match own.filter(|path| path.is_absolute()) {
        Some(directory) => directory,
        None if geteuid().is_root() => "/run".into(),
        None => {
            return Err(
                "there is no $XDG_RUNTIME_DIR; say where the control socket is to be: --control PATH",
            );
        }
    };
    Ok(directory.join("graceful_restart.sock"))
}

/// Waits for processes that want to take over, until one has, or none can any more.
fn await_successor(successors: &Successors, engine: &Engine<Answers>) -> io::Result<bool> {
    while let Some(successor) = successors.accept()? {
        match engine
            .listeners()
            .and_then(|sockets| successor.hand_over(&sockets))
        {
            Ok(successor) => {
                engine.stop_accepting();
                while engine.is_accepting() {
                    thread::sleep(Duration::from_millis(1));
                }
                // Frees the path for the new process, which goes on once its connection ends.
                successors.close();
                drop(successor);
                return Ok(true);
            }
            Err(error) => eprintln!("graceful_restart: still here, nobody took over: {error}"),
        }
    }
    Ok(false)
}

/// Serves those who are connected until they are gone, or for so long.
fn drain(engine: &Engine<Answers>, at_most: Duration) {
    let deadline = Instant::now() + at_most;
    while engine.connections() > 0 && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(10));
    }
    engine.shutdown();
}

fn run(flags: Flags) -> Result<(), Box<dyn Error>> {
    util::log_to_stderr();
    let control = Control::at(match flags.control {
        Some(path) => path,
        None => usual_control()?,
    });
    let mut old = control.predecessor()?;
    let mut sockets = match &mut old {
        Some(old) => old.receive()?,
        None => Vec::new(),
    }
    .into_iter();
    let first = match sockets.next() {
        Some(socket) => Listen::socket(socket),
        None => Listen::on(&flags.listen),
    };
    let server = sockets.fold(Server::bind(first), Server::and);
    let running = util::stop_on_signals(server).start(|_reactor| Answers)?;
    if let Some(old) = old {
        old.relieve()?;
    }
    let successors = Arc::new(control.listen()?);
    for addr in running.local_addrs() {
        println!(
            "graceful_restart listens on {addr} with process {}",
            process::id()
        );
    }
    let engine = running.engine().clone();
    let watched = successors.clone();
    thread::spawn(move || match await_successor(&watched, &engine) {
        Ok(false) => {}
        Ok(true) => {
            println!("graceful_restart is replaced");
            drain(&engine, flags.drain);
        }
        Err(error) => eprintln!("graceful_restart: it cannot be replaced: {error}"),
    });
    let report = running.join();
    successors.close();
    let total = report.stats.total();
    println!(
        "graceful_restart ends: {} connections, {} requests; at the end {} drained, {} forced",
        total.accepted, total.frames, report.drained, report.forced
    );
    Ok(())
}

fn main() -> ExitCode {
    match run(Flags::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => util::fail("graceful_restart", error),
    }
}
