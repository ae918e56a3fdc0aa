//! A server that another process replaces while it runs, without a refused connection or a lost request. Start it, then
//! start it again with the same `--control`: the second process takes over from the first.
//!
//! The new process connects to the control socket of the old one and asks for its listening sockets. The old process answers
//! only processes of the same user. Once the new process listens, it notifies the old one. The old process then stops
//! accepting, serves its connections until they close, and ends. Both processes share the listening sockets, so connections
//! that arrive meanwhile wait in the backlog.

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
use epicycle::{Action, Conn, ConnInfo, Engine, EventHandler, Listen, Server};
use rustix::process::geteuid;

/// Answers each line with its process number and the line, and can be replaced by another process
#[derive(Parser)]
struct Flags {
    /// The address to listen on, for the first process
    #[arg(long, value_name = "ADDR", default_value = "tcp://127.0.0.1:9000")]
    listen: String,
    /// The Unix socket for the next process [default: graceful_restart.sock in $XDG_RUNTIME_DIR, or for root in /run]
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
    /// The time for which open connections are served after another process has taken over
    #[arg(long, value_name = "PERIOD", default_value = "30s", value_parser = util::period)]
    drain: Duration,
}

struct Answers;

impl EventHandler for Answers {
    type Codec = Lines;
    type Session = ();

    fn codec(&mut self, _: &ConnInfo<'_>) -> Lines {
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

/// Returns the default path of the control socket, in a directory to which only this user can write.
fn usual_control() -> Result<PathBuf, &'static str> {
    let own = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let directory = match own.filter(|path| path.is_absolute()) {
        Some(directory) => directory,
        None if geteuid().is_root() => "/run".into(),
        None => {
            return Err(
                "$XDG_RUNTIME_DIR is not set; give the path of the control socket: --control PATH",
            );
        }
    };
    Ok(directory.join("graceful_restart.sock"))
}

/// Waits until another process has taken over, and returns true. Returns false once the control socket is closed.
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
                // Frees the path for the new process, which waits for the end of this connection.
                successors.close();
                drop(successor);
                return Ok(true);
            }
            Err(error) => {
                eprintln!("graceful_restart: the other process has not taken over: {error}");
            }
        }
    }
    Ok(false)
}

/// Serves the open connections until they close or the time has passed.
fn drain(engine: &Engine<Answers>, time: Duration) {
    let deadline = Instant::now() + time;
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
        Err(error) => eprintln!("graceful_restart: cannot be replaced any more: {error}"),
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
