//! A closed loop of calls: each connection has one call under way, and makes the next one when its reply has arrived.

use std::error::Error;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process;
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use hdrhistogram::Histogram;
use mio::{Events, Interest, Poll, Token};

use crate::process::{processor_time, resident};

/// The arguments of a load
#[derive(Clone, Debug, Parser)]
pub struct Flags {
    /// The server's port on 127.0.0.1
    pub port: u16,
    /// The server's process; its children count too
    pub pid: u32,
    /// The number of connections
    #[arg(long, default_value_t = 100)]
    pub connections: usize,
    /// The seconds of load before the measurement
    #[arg(long, default_value_t = 0.3)]
    pub warm_up: f64,
    /// The seconds of the measurement
    #[arg(long, default_value_t = 1.0)]
    pub seconds: f64,
    /// The number of calls on each connection, instead of a time, for loads without a framework's client
    #[arg(long)]
    pub calls: Option<u64>,
}

/// A client's side of one connection, without its socket.
pub trait Dialogue {
    /// Appends the bytes in front of the first call.
    fn open(&mut self, out: &mut Vec<u8>) {
        let _ = out;
    }

    /// Appends the bytes of the next call.
    fn call(&mut self, out: &mut Vec<u8>);

    /// Takes what has arrived and was not consumed before. Returns the number of bytes that it consumes, and true if the reply
    /// to the call is complete. It may append bytes to be sent.
    ///
    /// # Errors
    ///
    /// A text that says which rule the server has broken. The load then ends.
    fn receive(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<(usize, bool), String>;
}

/// The longest time without an answer. On a busy machine it may be seconds.
const SILENCE: Duration = Duration::from_secs(5);

/// The number of connections opened at once, which is less than a listener's backlog.
const AT_ONCE: usize = 64;

impl Flags {
    /// Returns the server's address.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }
}

/// Ends the process after a minute and a half: a load must end by itself, even if nobody ends it.
pub fn end_in_time() {
    thread::spawn(|| {
        thread::sleep(Duration::from_secs(90));
        eprintln!("a minute and a half is over");
        process::exit(1);
    });
}

/// Counts answers, and the cost of the server and of this process meanwhile.
pub struct Meter {
    pid: u32,
    begin: Instant,
    server: Duration,
    client: Duration,
    /// The latencies in nanoseconds.
    pub latencies: Histogram<u64>,
}

impl Meter {
    /// Begins a measurement.
    ///
    /// # Errors
    ///
    /// If the server has ended.
    pub fn begin(pid: u32) -> Result<Self, Box<dyn Error>> {
        Ok(Self {
            pid,
            latencies: latencies(),
            server: processor_time(pid)?,
            client: processor_time(process::id())?,
            begin: Instant::now(),
        })
    }

    /// Ends the measurement. Returns a line of JSON.
    ///
    /// # Errors
    ///
    /// If no answer came, or the server has ended.
    pub fn report(self) -> Result<String, Box<dyn Error>> {
        let took = self.begin.elapsed();
        let server = processor_time(self.pid)? - self.server;
        let client = processor_time(process::id())? - self.client;
        if self.latencies.is_empty() {
            return Err("no answer came".into());
        }
        let quantile = |q| self.latencies.value_at_quantile(q) as f64 / 1e3;
        Ok(format!(
            r#"{{"answers": {}, "seconds": {}, "cpu_seconds": {}, "client_cpu_seconds": {}, "p50_us": {}, "p99_us": {}, "p999_us": {}, "resident_bytes": {}}}"#,
            self.latencies.len(),
            took.as_secs_f64(),
            server.as_secs_f64(),
            client.as_secs_f64(),
            quantile(0.5),
            quantile(0.99),
            quantile(0.999),
            resident(self.pid)?,
        ))
    }
}

/// Returns an empty histogram of latencies in nanoseconds.
#[must_use]
pub fn latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 2).expect("the bounds are valid")
}

/// Runs a load with the flags of the command line, and prints its report. `dialogue` makes the client's side of each connection.
///
/// # Errors
///
/// If the server does not answer, or not as it should.
pub fn run<D: Dialogue>(dialogue: impl Fn(usize) -> D) -> Result<(), Box<dyn Error>> {
    run_with(&Flags::parse(), dialogue)
}

/// Does the same with flags that are parsed already.
///
/// # Errors
///
/// The same as [`run`].
pub fn run_with<D: Dialogue>(
    flags: &Flags,
    dialogue: impl Fn(usize) -> D,
) -> Result<(), Box<dyn Error>> {
    end_in_time();
    let mut poll = Poll::new()?;
    let mut peers = Vec::new();
    for n in 0..flags.connections {
        if n % AT_ONCE == AT_ONCE - 1 {
            thread::sleep(Duration::from_millis(2));
        }
        let stream = TcpStream::connect(flags.addr())?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let mut stream = mio::net::TcpStream::from_std(stream);
        let interest = Interest::READABLE | Interest::WRITABLE;
        poll.registry().register(&mut stream, Token(n), interest)?;
        let calls = flags.calls.unwrap_or(u64::MAX);
        peers.push(Peer::new(stream, dialogue(n), calls));
    }
    for peer in &mut peers {
        peer.begin()?;
    }
    if flags.calls.is_none() {
        let mut unwanted = latencies();
        drive(
            &mut poll,
            &mut peers,
            flags.warm_up,
            u64::MAX,
            &mut unwanted,
        )?;
    }
    let mut meter = Meter::begin(flags.pid)?;
    let (seconds, calls) = match flags.calls {
        Some(calls) => (60.0, calls * flags.connections as u64),
        None => (flags.seconds, u64::MAX),
    };
    drive(&mut poll, &mut peers, seconds, calls, &mut meter.latencies)?;
    println!("{}", meter.report()?);
    Ok(())
}

/// Keeps the load running for a time, or for a number of calls.
fn drive<D: Dialogue>(
    poll: &mut Poll,
    peers: &mut [Peer<D>],
    seconds: f64,
    calls: u64,
    latencies: &mut Histogram<u64>,
) -> Result<(), Box<dyn Error>> {
    let mut events = Events::with_capacity(1024);
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    while Instant::now() < end && latencies.len() < calls {
        poll.poll(&mut events, Some(SILENCE))?;
        if events.is_empty() {
            return Err(format!("for {SILENCE:?} the server has not answered").into());
        }
        for event in &events {
            let peer = &mut peers[event.token().0];
            if event.is_writable() {
                peer.send()?;
            }
            if event.is_readable() {
                peer.receive(latencies)?;
            }
        }
    }
    Ok(())
}

/// One connection to the server.
struct Peer<D> {
    stream: mio::net::TcpStream,
    dialogue: D,
    /// The bytes to be sent, and the number of them that have been.
    out: Vec<u8>,
    sent: usize,
    /// The bytes that have arrived and are not consumed.
    input: Vec<u8>,
    /// The moment at which the call under way was due.
    since: Instant,
    /// The number of calls that are not answered yet.
    left: u64,
}

impl<D: Dialogue> Peer<D> {
    fn new(stream: mio::net::TcpStream, dialogue: D, calls: u64) -> Self {
        Self {
            stream,
            dialogue,
            out: Vec::new(),
            sent: 0,
            input: Vec::new(),
            since: Instant::now(),
            left: calls,
        }
    }

    fn begin(&mut self) -> Result<(), Box<dyn Error>> {
        self.dialogue.open(&mut self.out);
        self.next()
    }

    fn next(&mut self) -> Result<(), Box<dyn Error>> {
        self.dialogue.call(&mut self.out);
        self.since = Instant::now();
        self.send()
    }

    /// Sends what is due, as far as the kernel accepts it.
    fn send(&mut self) -> Result<(), Box<dyn Error>> {
        while self.sent < self.out.len() {
            match self.stream.write(&self.out[self.sent..]) {
                Ok(sent) => self.sent += sent,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        self.out.clear();
        self.sent = 0;
        Ok(())
    }

    fn receive(&mut self, latencies: &mut Histogram<u64>) -> Result<(), Box<dyn Error>> {
        let mut buffer = [0; 16 << 10];
        loop {
            let come = match self.stream.read(&mut buffer) {
                Ok(0) => return Err("the server has closed a connection".into()),
                Ok(come) => come,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            self.input.extend_from_slice(&buffer[..come]);
            self.consume(latencies)?;
            // Events are edge-triggered, but a short read has drained the socket.
            if come < buffer.len() {
                return self.send();
            }
        }
    }

    fn consume(&mut self, latencies: &mut Histogram<u64>) -> Result<(), Box<dyn Error>> {
        loop {
            let (consumed, is_complete) = self.dialogue.receive(&self.input, &mut self.out)?;
            self.input.drain(..consumed);
            if is_complete {
                latencies.saturating_record(self.since.elapsed().as_nanos() as u64);
                self.left -= 1;
                if self.left > 0 {
                    self.next()?;
                }
            }
            if consumed == 0 || self.input.is_empty() {
                return Ok(());
            }
        }
    }
}
