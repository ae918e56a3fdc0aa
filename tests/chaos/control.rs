//! The control group: well-behaved clients that make requests all the time, compare the answers and measure latency.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use hdrhistogram::Histogram;
use rustls::ClientConfig;

use super::kind::{KINDS, Kind};
use super::server::{HANDSHAKE, IDLE};
use super::services::MAX_PAYLOAD;
use super::tls::{self, Tls};

/// The number of clients for each kind of server, if all are there.
const EACH: usize = 4;

/// The timeout of a request.
const PATIENCE: Duration = Duration::from_secs(10);

/// The phase of the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Phase {
    /// The group has no connections.
    Pause,
    /// The group makes requests, compares the answers and does not measure latency.
    WarmUp,
    /// Before the storm.
    Before,
    /// With the hostile clients.
    Storm,
    After,
    End,
}

impl Phase {
    /// Returns a description for the summary.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Phase::Pause | Phase::WarmUp | Phase::End => "not timed",
            Phase::Before => "alone, before the storm",
            Phase::Storm => "during the storm",
            Phase::After => "alone again",
        }
    }
}

/// The phases whose latencies are kept.
pub(crate) const TIMED: [Phase; 3] = [Phase::Before, Phase::Storm, Phase::After];

/// The latencies of requests in microseconds, for each of [`TIMED`]; that of a connection's first request includes the connect.
#[derive(Debug)]
pub(crate) struct Latencies {
    pub(crate) of: [Histogram<u64>; TIMED.len()],
    /// All requests, including the warm-up.
    pub(crate) requests: u64,
    /// Connections that the server closed by one of its timeouts, because this machine was busy.
    pub(crate) excused: u64,
}

/// Controls the members of the group. They end when it is dropped.
#[derive(Debug)]
pub(crate) struct Group {
    phase: AtomicU8,
}

impl Group {
    pub(crate) fn new() -> Self {
        Self {
            phase: AtomicU8::new(Phase::Pause as u8),
        }
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    /// Runs all members until the end.
    ///
    /// # Errors
    ///
    /// A description of the first request without a right answer.
    pub(crate) fn run(
        &self,
        seed: u64,
        kinds: &[Kind],
        servers: &[SocketAddr; KINDS.len()],
        authority: &str,
    ) -> Result<Latencies, String> {
        let config = &tls::config(authority);
        thread::scope(|scope| {
            let members: Vec<_> = (0..EACH * KINDS.len())
                .map(|n| {
                    let kind = kinds[n % kinds.len()];
                    let server = servers[kind.server()];
                    let rng = Rng::with_seed(seed ^ (n as u64) << 32);
                    scope.spawn(move || Member::new(kind, server, config, rng).run(&self.phase))
                })
                .collect();
            let mut all = Latencies::new();
            for member in members {
                let one = member.join().expect("no panic")?;
                for (all, one) in all.of.iter_mut().zip(&one.of) {
                    all.add(one).expect("have the same bounds");
                }
                all.requests += one.requests;
                all.excused += one.excused;
            }
            Ok(all)
        })
    }
}

impl Latencies {
    fn new() -> Self {
        let histogram = || Histogram::new(3).expect("is a precision");
        Self {
            of: [histogram(), histogram(), histogram()],
            requests: 0,
            excused: 0,
        }
    }
}

/// TCP or TLS.
trait Stream: Read + Write {}

impl<S: Read + Write> Stream for S {}

struct Member {
    kind: Kind,
    server: SocketAddr,
    config: Arc<ClientConfig>,
    rng: Rng,
    /// The connection, and the number of requests left to make on it.
    open: Option<(Box<dyn Stream>, usize)>,
    latencies: Latencies,
}

impl Member {
    fn new(kind: Kind, server: SocketAddr, config: &Arc<ClientConfig>, rng: Rng) -> Self {
        Self {
            kind,
            server,
            config: config.clone(),
            rng,
            open: None,
            latencies: Latencies::new(),
        }
    }

    fn run(mut self, phase: &AtomicU8) -> Result<Latencies, String> {
        let mut asked = Instant::now();
        loop {
            let phase = phase.load(Ordering::Relaxed);
            if phase == Phase::End as u8 {
                return Ok(self.latencies);
            }
            if phase == Phase::Pause as u8 {
                self.open = None;
                thread::sleep(Duration::from_millis(2));
                continue;
            }
            let began = Instant::now();
            // The time of this side's last action that the server waits for, and the server's timeout for it.
            let (since, patience) = match self.open {
                Some(_) => (asked, IDLE),
                None => (began, HANDSHAKE),
            };
            match self.request(&mut asked) {
                Ok(()) => {
                    self.latencies.requests += 1;
                    if let Some(n) = TIMED.iter().position(|timed| *timed as u8 == phase) {
                        let micros = began.elapsed().as_micros() as u64;
                        let recorded = self.latencies.of[n].record(micros);
                        recorded.expect("the bounds follow");
                    }
                }
                Err(error) if is_end(&error) && since.elapsed() >= patience => {
                    self.latencies.excused += 1;
                }
                Err(error) => {
                    let (kind, took) = (self.kind.name(), began.elapsed());
                    return Err(format!("{kind}, after {took:?}: {error}"));
                }
            }
            thread::sleep(Duration::from_micros(self.rng.u64(2000..8000)));
        }
    }

    /// Makes a request, on a new connection if there is none. Sets `asked` to the time of its sending.
    fn request(&mut self, asked: &mut Instant) -> io::Result<()> {
        let payload = self.payload();
        let (mut stream, left) = match self.open.take() {
            Some(open) => open,
            None => (self.connect()?, self.rng.usize(..30)),
        };
        // Taken before the call, because this thread may have to wait for the processor after it.
        *asked = Instant::now();
        stream.write_all(&self.kind.request(&payload))?;
        let mut received = Vec::new();
        let mut some = [0; 4096];
        let end = loop {
            let answer = self.kind.answer(&received, &payload);
            if let Some(end) = answer.map_err(io::Error::other)? {
                break end;
            }
            let n = stream.read(&mut some)?;
            if n == 0 {
                let got = received.len();
                let why = format!("the server ended the connection after {got} bytes of an answer");
                return Err(io::Error::new(ErrorKind::UnexpectedEof, why));
            }
            received.extend_from_slice(&some[..n]);
        };
        if end < received.len() {
            return Err(io::Error::other("more came than was asked for"));
        }
        if left > 0 {
            self.open = Some((stream, left - 1));
        }
        Ok(())
    }

    fn connect(&self) -> io::Result<Box<dyn Stream>> {
        let stream = TcpStream::connect(self.server)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(match self.kind {
            Kind::Tls => Box::new(Tls::over(stream, &self.config)?),
            _ => Box::new(stream),
        })
    }

    /// Returns a random length, mostly a short one.
    fn payload(&mut self) -> Vec<u8> {
        let most = match self.rng.u32(..20) {
            0 => MAX_PAYLOAD,
            _ => 500,
        };
        let mut bytes = vec![0; self.rng.usize(1..=most)];
        self.rng.fill(&mut bytes);
        bytes
    }
}

/// Returns true if the error means that the server has closed the connection. A wrong or late answer is another error.
pub(crate) fn is_end(error: &io::Error) -> bool {
    use ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(
        error.kind(),
        BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof
    )
}
