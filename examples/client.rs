//! A small netcat: sends standard input to a connection, and writes received bytes to standard output. Try
//! `echo hello | client tcp://127.0.0.1:9000`. Over UDP, each read of the input becomes a datagram.
//!
//! Reading and writing the standard streams blocks, so each has its own thread. Both directions have backpressure: input is
//! read only as fast as the kernel accepts it, and the connection only as fast as the output is written.

mod util;

use std::error::Error;
use std::io::{self, Read, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use clap::Parser;
use epicycle::codec::Raw;
use epicycle::{
    Action, CloseReason, Closed, Conn, ConnInfo, Connect, Endpoint, EventHandler, FailedConnect,
    Handle, Reactor,
};

/// Connects standard input and output to a server
#[derive(Parser)]
struct Flags {
    /// The server: tcp://HOST:PORT, unix://PATH or udp://HOST:PORT
    addr: Endpoint,
    /// The timeout of the connect
    #[arg(long, value_name = "PERIOD", default_value = "10s", value_parser = util::period)]
    timeout: Duration,
    /// The time to wait for answers after the end of the input; only for UDP, which has no end of stream
    #[arg(long, value_name = "PERIOD", default_value = "1s", value_parser = util::period)]
    wait: Duration,
    #[cfg(feature = "tls")]
    #[command(flatten)]
    tls: Tls,
}

#[cfg(feature = "tls")]
#[derive(clap::Args)]
struct Tls {
    /// Uses TLS
    #[arg(long)]
    tls: bool,
    /// Trusts the certificates in this PEM file instead of the system's
    #[arg(long, value_name = "FILE", requires = "tls")]
    ca: Option<std::path::PathBuf>,
    /// The name that the server's certificate must have, instead of the address's host
    #[arg(long, value_name = "NAME", requires = "tls")]
    name: Option<String>,
}

const CHUNK: usize = 64 << 10;

/// The size of a datagram. It is small, because a datagram is lost if any of its IP fragments is.
const DATAGRAM: usize = 8 << 10;

/// The most chunks of input that may wait to be sent.
const CHUNKS_AHEAD: usize = 8;

/// The most bytes of output that may wait before reading from the connection pauses.
const OUTPUT_AHEAD: usize = 1 << 20;

/// A message from the reactor or the input thread to the main thread.
enum Event {
    Open(Handle<Netcat>),
    Failed(FailedConnect),
    Closed(Closed, CloseReason),
    BadInput(io::Error),
}

struct Netcat {
    events: Sender<Event>,
    output: Sender<Vec<u8>>,
    /// The number of output bytes that wait.
    waiting: Arc<AtomicUsize>,
}

impl Netcat {
    fn tell(&self, event: Event) {
        // Fails if the main thread has ended already.
        let _ = self.events.send(event);
    }
}

impl EventHandler for Netcat {
    type Codec = Raw;
    type Session = ();

    fn codec(&mut self, _: &ConnInfo<'_>) -> Raw {
        Raw
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<()> {
        self.tell(Event::Open(conn.handle()));
        Some(())
    }

    fn react(&mut self, conn: &mut Conn<'_, Self>, (): &mut (), bytes: &[u8]) -> Action {
        let before = self.waiting.fetch_add(bytes.len(), Ordering::Relaxed);
        if before + bytes.len() > OUTPUT_AHEAD {
            conn.pause_reads();
        }
        match self.output.send(bytes.to_vec()) {
            Ok(()) => Action::Continue,
            Err(_) => Action::Close,
        }
    }

    fn on_timer(&mut self, _conn: &mut Conn<'_, Self>, (): &mut (), _token: u64) -> Action {
        Action::Close
    }

    fn on_close(&mut self, _: &mut Reactor<'_, Self>, info: &Closed, (): (), reason: CloseReason) {
        self.tell(Event::Closed(info.clone(), reason));
    }

    fn on_connect_failed(&mut self, _reactor: &mut Reactor<'_, Self>, failed: FailedConnect) {
        self.tell(Event::Failed(failed));
    }
}

/// Sends the input, and then FIN. UDP has no FIN, so there the connection closes after the time `wait`.
fn copy_in(mut input: impl Read, to: &Handle<Netcat>, wait: Option<Duration>) -> io::Result<()> {
    let size = if wait.is_some() { DATAGRAM } else { CHUNK };
    let (taken, flushed) = channel();
    let mut ahead = 0;
    loop {
        let mut chunk = vec![0; size];
        let n = match input.read(&mut chunk) {
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if n == 0 {
            // Fails if the connection is closed already, and then no FIN is needed.
            let _ = to.run(move |_, conn, ()| match wait {
                Some(wait) => {
                    conn.set_timer(wait, 0);
                }
                None => conn.shutdown_write(),
            });
            return Ok(());
        }
        chunk.truncate(n);
        let taken = taken.clone();
        let done = move |result: Result<(), _>| {
            let _ = taken.send(result.is_ok());
        };
        if to.write_flushed(chunk, done).is_err() {
            return Ok(());
        }
        ahead += 1;
        while ahead == CHUNKS_AHEAD {
            match flushed.recv() {
                Ok(true) => ahead -= 1,
                _ => return Ok(()),
            }
        }
    }
}

/// Writes received bytes to the output, and resumes reading once few are left.
fn copy_out(
    chunks: &Receiver<Vec<u8>>,
    mut output: impl Write,
    waiting: &AtomicUsize,
    from: &Handle<Netcat>,
) -> io::Result<()> {
    for chunk in chunks {
        let written = output.write_all(&chunk).and_then(|()| output.flush());
        if written.is_err() {
            let _ = from.abort();
            return written;
        }
        let before = waiting.fetch_sub(chunk.len(), Ordering::Relaxed);
        let (half, after) = (OUTPUT_AHEAD / 2, before - chunk.len());
        if before > half && after <= half {
            let _ = from.run(|_, conn, ()| conn.resume_reads());
        }
    }
    Ok(())
}

fn run(flags: &Flags) -> Result<(), Box<dyn Error>> {
    util::log_to_stderr();
    let connect = Connect::to(flags.addr.clone()).timeout(flags.timeout);
    #[cfg(feature = "tls")]
    let connect = flags.tls.apply(connect)?;
    let (events, incoming) = channel();
    let (output, chunks) = channel();
    let waiting = Arc::<AtomicUsize>::default();
    let (bad_input, queue) = (events.clone(), waiting.clone());
    let running = epicycle::Client::new().start(move |_| Netcat {
        events: events.clone(),
        output: output.clone(),
        waiting: queue.clone(),
    })?;
    running.engine().connect(connect)?;
    let handle = match incoming.recv()? {
        Event::Open(handle) => handle,
        Event::Failed(failed) => {
            return Err(format!("cannot connect to {}: {}", failed.to, failed.error).into());
        }
        Event::Closed(_, reason) => return Err(reason.to_string().into()),
        Event::BadInput(error) => return Err(error.into()),
    };

    let to = handle.clone();
    let is_udp = matches!(flags.addr, Endpoint::Udp { .. });
    let wait = is_udp.then_some(flags.wait);
    thread::spawn(move || {
        if let Err(error) = copy_in(io::stdin().lock(), &to, wait) {
            let _ = bad_input.send(Event::BadInput(error));
        }
    });
    let out = thread::spawn(move || copy_out(&chunks, io::stdout().lock(), &waiting, &handle));
    let end = incoming.recv()?;
    // The handler holds the last sender of output, so its drop ends the output thread.
    running.shutdown();
    let written = out.join().map_err(|_| "the output's thread panicked")?;
    written.map_err(|error| format!("standard output: {error}"))?;
    match end {
        Event::Closed(info, CloseReason::Peer) if info.unsent == 0 => Ok(()),
        Event::Closed(_, CloseReason::Local) if is_udp => Ok(()),
        Event::Closed(_, reason) => Err(reason.to_string().into()),
        Event::BadInput(error) => Err(format!("standard input: {error}").into()),
        Event::Open(_) | Event::Failed(_) => Err("a second connection was made".into()),
    }
}

#[cfg(feature = "tls")]
impl Tls {
    fn apply(&self, connect: Connect) -> Result<Connect, Box<dyn Error>> {
        use epicycle::tls::{Roots, TlsClient};

        if !self.tls {
            return Ok(connect);
        }
        let roots = match &self.ca {
            Some(file) => Roots::from_pem_file(file)?,
            None => Roots::native()?,
        };
        let mut tls = TlsClient::new(&roots)?;
        if let Some(name) = &self.name {
            tls = tls.server_name(name)?;
        }
        Ok(connect.tls(&tls))
    }
}

fn main() -> ExitCode {
    match run(&Flags::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => util::fail("client", error),
    }
}
