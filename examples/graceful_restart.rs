//! A server that is replaced while it runs, without a refused connection or a lost request. Start it, start it
//! again with the same `--control`, and the second takes over from the first.
//!
//! The new process asks for the listening sockets at the control socket of the old one. Once it listens it says
//! so; the old one then accepts no more, serves who is connected until they are done, and ends. Connections
//! that come meanwhile wait in the queue of the sockets that both have.

mod util;

use std::error::Error;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{self, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{fs, thread};

use clap::Parser;
use epicycle::codec::Lines;
use epicycle::{Action, Conn, Engine, EventHandler, Listen, Server, handover};

/// Answers each line with its own process number and the line, and can be replaced by another process.
#[derive(Parser)]
struct Flags {
    /// The address to listen on, for the first process
    #[arg(long, value_name = "ADDR", default_value = "tcp://127.0.0.1:9000")]
    listen: String,
    /// The Unix socket at which the next process asks; who may write to it may take over
    #[arg(
        long,
        value_name = "PATH",
        default_value = "/tmp/graceful_restart.sock"
    )]
    control: PathBuf,
    /// How long those who are connected are served once another process has taken over
    #[arg(long, value_name = "PERIOD", default_value = "30s", value_parser = util::period)]
    drain: Duration,
}

/// What the new process says once it listens.
const READY: &[u8] = b"ready";

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

/// The process that runs already, if one does.
fn predecessor(control: &Path) -> io::Result<Option<UnixStream>> {
    match UnixStream::connect(control) {
        Ok(stream) => Ok(Some(stream)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        // One that has died has left its socket behind.
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            fs::remove_file(control)?;
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Takes the place of the old process: it has stopped accepting when this comes back.
fn relieve(mut old: UnixStream) -> io::Result<()> {
    old.write_all(READY)?;
    match old.read(&mut [0]) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
        Err(error) => Err(error),
    }
}

/// Waits for processes that want to take over, until one has.
fn await_successor(control: &UnixListener, path: &Path, engine: &Engine<Answers>) {
    for stream in control.incoming() {
        match stream.and_then(|stream| hand_over(stream, path, engine)) {
            Ok(()) => return,
            Err(error) => eprintln!("graceful_restart: still here, nobody took over: {error}"),
        }
    }
}

/// Hands over to another process; on an error everything is as before.
fn hand_over(mut new: UnixStream, path: &Path, engine: &Engine<Answers>) -> io::Result<()> {
    handover::send(&new, &engine.listeners()?)?;
    new.read_exact(&mut [0; READY.len()])?;
    engine.stop_accepting();
    while engine.is_accepting() {
        thread::sleep(Duration::from_millis(1));
    }
    // The place is free for the new one, which goes on when the stream ends.
    remove(path);
    Ok(())
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        eprintln!(
            "graceful_restart: cannot remove {}: {error}",
            path.display()
        );
    }
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
    let problem = |error| format!("{}: {error}", flags.control.display());
    let old = predecessor(&flags.control).map_err(problem)?;
    let mut sockets = match &old {
        Some(old) => handover::receive(old)?,
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
        relieve(old)?;
    }
    let control = UnixListener::bind(&flags.control).map_err(problem)?;

    for addr in running.local_addrs() {
        println!(
            "graceful_restart listens on {addr} with process {}",
            process::id()
        );
    }
    let engine = running.engine().clone();
    let path = flags.control.clone();
    let replaced = Arc::<AtomicBool>::default();
    let note = replaced.clone();
    thread::spawn(move || {
        await_successor(&control, &path, &engine);
        note.store(true, Ordering::Release);
        println!("graceful_restart is replaced");
        drain(&engine, flags.drain);
    });
    let report = running.join();
    if !replaced.load(Ordering::Acquire) {
        remove(&flags.control);
    }
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
