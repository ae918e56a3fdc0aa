//! A reactor, its connections and their peers, and the time they live in.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::addr::Addr;
use crate::clock;
use crate::engine::conn::origin::Origin;
use crate::engine::handler::EventHandler;
use crate::engine::handler::context::Arrival;
use crate::engine::handler::engine::Engine;
use crate::engine::reactor::EventLoop;
use crate::engine::server::{Report, Server};
use crate::error::Error;
use crate::metrics::ReactorStats;
use crate::panic;
use crate::simnet::link::Link;
use crate::simnet::network::Ending;
use crate::simnet::network::Network;
use crate::simnet::network::Reading;
use crate::sys::simulated::{Simulated, StandIn};
use crate::sys::socket::StreamSocket;

/// One reactor with its handler, on a simulated network and in virtual time.
///
/// It runs the engine's own loop on the calling thread: each call of [`run_for`](Self::run_for) and its like makes as many
/// turns as there is reason for, and time jumps from one event to the next. Everything that chance decides comes from the
/// seed, so the same seed and the same calls have the same outcome. That holds for the handler too as far as it asks
/// nobody else: the generator of [`fastrand`](https://docs.rs/fastrand) is seeded for it.
///
/// Requests by a [`Handle`](crate::Handle) or the [`Engine`] are carried out in the next turn. Listeners speak TLS if the server's
/// first one does. What is not simulated:
///
/// - Worker pools, and files that are sent: they work, on threads of their own and in real time.
/// - Outbound connections, which fail with [`Unsupported`](std::io::ErrorKind::Unsupported), and sockets that are
///   [adopted](Engine::adopt), which are never heard of. [`Conn::detach`](crate::Conn::detach) is refused.
/// - UDP.
pub struct Simulation<H: EventHandler> {
    event_loop: EventLoop<H>,
    engine: Engine<H>,
    network: Network,
    stand_in: Arc<StandIn>,
    /// In microseconds since the start.
    now: u64,
    received: Vec<Vec<u8>>,
    contains_panics: bool,
    panic: Option<String>,
    /// Turns in a row that no event and no time has called for.
    idle_turns: u32,
    // Behind the loop, which it outlives.
    _last_mail: LastMail<H>,
}

/// A simulated client: one connection, seen from its other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Peer(usize);

/// Says that the callback which calls this takes so long, in whole microseconds of virtual time. What comes after it in the turn
/// is so much later, and so is all that the network does meanwhile.
///
/// ```
/// use std::time::Duration;
/// use epicycle::testing::{Link, Simulation, spend};
/// use epicycle::{Server, service};
///
/// let slow = |_reactor| service(|conn, bytes| {
///     spend(Duration::from_secs(2));
///     conn.write(bytes).into()
/// });
/// let mut sim = Simulation::new(1, Link::calm(), Server::bind("tcp://:9000"), slow).unwrap();
/// let peer = sim.connect();
/// sim.send(peer, "hello");
/// sim.run_until_quiet();
/// assert!(sim.now() > Duration::from_secs(2));
/// ```
pub fn spend(time: Duration) {
    clock::spend(time);
}

/// So many turns that neither an event nor a moment has called for are no work any more.
const SPINNING: u32 = 100_000;

impl<H: EventHandler> Simulation<H> {
    /// A reactor that nobody has connected to yet. Of the server the options count; its addresses are not bound, and there
    /// is one reactor whatever it says. `factory` is called with 0.
    ///
    /// # Errors
    ///
    /// [`Error`] when an option is wrong, or the process has no descriptor left: three are needed.
    ///
    /// # Panics
    ///
    /// As `factory` and [`on_boot`](EventHandler::on_boot) do.
    pub fn new(
        seed: u64,
        link: Link,
        server: Server,
        factory: impl Fn(usize) -> H,
    ) -> Result<Self, Error> {
        fastrand::seed(seed);
        let stand_in = StandIn::new().map_err(|source| Error::Setup {
            what: "the simulated sockets",
            source,
        })?;
        let (event_loop, engine) = server.simulate(factory)?;
        Ok(Self {
            event_loop,
            _last_mail: LastMail(engine.clone()),
            engine,
            network: Network::new(seed, link),
            stand_in: Arc::new(stand_in),
            now: 0,
            received: Vec::new(),
            contains_panics: false,
            panic: None,
            idle_turns: 0,
        })
    }

    /// Whether a panic in a callback closes its connection and nothing else, as in a server. Otherwise, which is the default,
    /// it goes on to whoever runs the simulation, so that handlers may assert.
    pub fn contain_panics(&mut self, contain: bool) {
        self.contains_panics = contain;
    }

    /// Changes what the network does from now on; send buffers stay as they are.
    pub fn set_link(&mut self, link: Link) {
        self.network.set_link(link);
    }

    // Time.

    /// The virtual time since the start.
    pub fn now(&self) -> Duration {
        Duration::from_micros(self.now)
    }

    /// Lets time pass.
    ///
    /// # Panics
    ///
    /// When a callback does, unless panics are [contained](Self::contain_panics).
    pub fn run_for(&mut self, time: Duration) {
        self.run_until(time, |_| false);
    }

    /// Lets time pass until `done`, which is asked after each turn and whenever peers have done something; whether it was within that time.
    ///
    /// # Panics
    ///
    /// As for [`run_for`](Self::run_for).
    pub fn run_until(&mut self, within: Duration, mut done: impl FnMut(&Self) -> bool) -> bool {
        let within = u64::try_from(within.as_micros()).unwrap_or(u64::MAX);
        let end = self.now.saturating_add(within);
        loop {
            if done(self) {
                return true;
            }
            if self.now > end || !self.step(end) {
                return done(self);
            }
        }
    }

    /// Lets time pass until nothing is on its way and nobody has anything to do: only timers are left. Those that are due
    /// before that do run.
    ///
    /// # Panics
    ///
    /// As for [`run_for`](Self::run_for).
    pub fn run_until_quiet(&mut self) {
        loop {
            while self.step(self.now) {}
            match self.network.next_time() {
                Some(next) => while self.step(next) {},
                None => break,
            }
        }
    }

    /// Shuts the engine down, waits for the end as long as it takes, and reports as [`Running::shutdown`] does. What peers
    /// have received by then can still be asked for.
    ///
    /// # Panics
    ///
    /// As for [`run_for`](Self::run_for); and when the engine does not come to an end.
    ///
    /// [`Running::shutdown`]: crate::Running::shutdown
    pub fn finish(&mut self) -> Report {
        self.engine.shutdown();
        while !self.event_loop.has_ended() {
            let goes_on = self.step(u64::MAX);
            assert!(
                goes_on || self.event_loop.has_ended(),
                "the engine waits for nothing, and has not ended"
            );
        }
        self.event_loop.end();
        // What was sent before the end is still on its way.
        while let Some(next) = self.network.next_time() {
            self.pass_to(next);
            self.advance();
        }
        Report::of(self.engine.stats())
    }

    // Peers.

    /// Somebody connects. The handler hears of it in the next turn.
    ///
    /// One who may not, by the server's limits, is closed at once.
    pub fn connect(&mut self) -> Peer {
        // A different address for each, from 10.0.0.1 on.
        let ip = Ipv4Addr::from((10 << 24) + (self.received.len() as u32 & 0xff_ffff) + 1);
        self.connect_from(SocketAddr::from((ip, 40_000)))
    }

    /// The same, from an address of one's choice.
    pub fn connect_from(&mut self, addr: SocketAddr) -> Peer {
        let (number, end) = self.network.connect();
        self.received.push(Vec::new());
        let peer = Addr::Ip(addr);
        let admission = &self.engine.shared().admission;
        if !self.engine.is_stopping() && admission.admit(&peer) {
            let simulated = Simulated {
                end,
                stand_in: self.stand_in.clone(),
            };
            let arrival = Arrival {
                socket: StreamSocket::simulated(simulated),
                peer,
                origin: Origin::Accepted { listener: 0 },
            };
            self.engine.deal(0, arrival);
        }
        Peer(number)
    }

    /// A peer sends bytes; returns whether it could: it has not ended its stream, and knows of no reset.
    pub fn send(&mut self, peer: Peer, bytes: impl AsRef<[u8]>) -> bool {
        self.network.send(peer.0, bytes.as_ref())
    }

    /// A peer ends its stream (FIN) behind all it has sent, and reads on.
    pub fn shutdown(&mut self, peer: Peer) {
        self.network.shutdown(peer.0);
    }

    /// A peer closes: it ends its stream behind all it has sent, and what still comes is answered with RST.
    pub fn close(&mut self, peer: Peer) {
        self.network.close(peer.0);
    }

    /// A peer resets the connection. What it has sent arrives in part.
    pub fn reset(&mut self, peer: Peer) {
        self.network.reset(peer.0);
    }

    /// How a peer reads from now on; freely at first.
    pub fn set_reading(&mut self, peer: Peer, reading: Reading) {
        self.network.set_reading(peer.0, reading);
    }

    /// A peer does not end its stream when it sees the other's end, as it would otherwise.
    pub fn keep_open(&mut self, peer: Peer) {
        self.network.keep_open(peer.0);
    }

    /// All that a peer has read.
    pub fn received(&self, peer: Peer) -> &[u8] {
        &self.received[peer.0]
    }

    /// The same, which is forgotten then.
    pub fn take_received(&mut self, peer: Peer) -> Vec<u8> {
        std::mem::take(&mut self.received[peer.0])
    }

    /// How the connection has ended for its peer.
    pub fn ending(&self, peer: Peer) -> Ending {
        self.network.ending(peer.0)
    }

    /// Whether the engine has closed its end.
    pub fn is_closed(&self, peer: Peer) -> bool {
        self.network.is_closed(peer.0)
    }

    /// How many bytes of a peer's are on their way or wait in the socket: not read by the engine.
    pub fn unread(&self, peer: Peer) -> usize {
        self.network.unread(peer.0)
    }

    // The reactor.

    /// The handler.
    pub fn handler(&self) -> &H {
        self.event_loop.handler()
    }

    /// The handler, to be changed between turns.
    pub fn handler_mut(&mut self) -> &mut H {
        self.event_loop.handler_mut()
    }

    /// The engine, to ask something of it.
    pub fn engine(&self) -> &Engine<H> {
        &self.engine
    }

    /// The reactor's counters.
    pub fn stats(&self) -> ReactorStats {
        self.engine.stats().total()
    }

    /// A number that depends on every event and every call of a socket so far, and on their times: it is the same for the same
    /// seed.
    pub fn fingerprint(&self) -> u64 {
        self.network.fingerprint()
    }

    /// Makes a turn if there is reason for one, or else lets time pass to what happens next by `until`. If that is nothing,
    /// it is `until` then, and the answer is no.
    fn step(&mut self, until: u64) -> bool {
        self.advance();
        let events = self.network.poll();
        let timeout = self.event_loop.sleeps_for();
        if !events.is_empty() || timeout == Some(Duration::ZERO) {
            self.idle_turns += 1;
            if !events.is_empty() {
                self.idle_turns = 0;
            }
            assert!(self.idle_turns < SPINNING, "the reactor spins");
            self.event_loop.turn(timeout, &events, |panic| {
                self.panic
                    .get_or_insert_with(|| panic::message(panic).to_owned());
            });
            let spent = u64::try_from(clock::take_spent().as_micros()).unwrap_or(u64::MAX);
            let turn_time = self.network.turn_time().saturating_add(spent);
            self.pass_to(self.now.saturating_add(turn_time));
            self.rethrow();
            return true;
        }
        let micros =
            |time: Duration| u64::try_from(time.as_nanos().div_ceil(1000)).unwrap_or(u64::MAX);
        let wakes = timeout.map(|timeout| self.now.saturating_add(micros(timeout)));
        let next = [self.network.next_time(), wakes]
            .into_iter()
            .flatten()
            .min();
        let next = next.filter(|next| *next <= until);
        if next.is_some() || until < u64::MAX {
            self.idle_turns = 0;
            self.pass_to(next.unwrap_or(until));
        }
        next.is_some()
    }

    /// Lets the network do what is due.
    fn advance(&mut self) {
        for (number, bytes) in self.network.advance() {
            self.received[number].extend(bytes);
        }
    }

    fn pass_to(&mut self, now: u64) {
        self.now = self.now.max(now);
        self.network.set_time(self.now);
        self.event_loop.set_time(Duration::from_micros(self.now));
    }

    fn rethrow(&mut self) {
        if let Some(message) = self.panic.take()
            && !self.contains_panics
        {
            panic!("a callback panicked: {message}");
        }
    }
}

impl<H: EventHandler> fmt::Debug for Simulation<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulation")
            .field("now", &self.now())
            .field("peers", &self.received.len())
            .finish_non_exhaustive()
    }
}

/// Requests that nobody carries out any more name the engine, and would keep it alive.
struct LastMail<H: EventHandler>(Engine<H>);

impl<H: EventHandler> Drop for LastMail<H> {
    fn drop(&mut self) {
        self.0.peer(0).mailbox.close();
    }
}
