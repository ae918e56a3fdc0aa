//! A reactor on a simulated network, with its peers and its virtual time.

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
/// It runs the engine's own event loop on the calling thread. [`run_for`](Self::run_for) and the other `run_` methods make
/// turns of the loop while there is a reason for one, and time jumps from one event to the next. The seed decides each random
/// choice, so the same seed and the same calls give the same result. That includes the handler, unless it uses other sources
/// of randomness: the seed also sets the generator of [`fastrand`](https://docs.rs/fastrand).
///
/// The next turn carries out requests of a [`Handle`](crate::Handle) or the [`Engine`]. All connections use TLS if the
/// server's first listener does. These are not simulated:
///
/// - Worker pools and files to send. They work, on their own threads and in real time.
/// - Outbound connections. They fail with [`Unsupported`](std::io::ErrorKind::Unsupported).
/// - [Adopted](Engine::adopt) sockets. They never have events.
/// - [`Conn::detach`](crate::Conn::detach). It returns an error.
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
    /// The number of successive turns without an event and without progress in time.
    idle_turns: u32,
    // Dropped after the loop, because fields are dropped in order.
    _last_mail: LastMail<H>,
}

/// A simulated client: one connection, seen from its other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Peer(usize);

/// Makes the calling callback take this virtual time, in whole microseconds. The rest of the turn, and the following work of
/// the network, happen later by that time.
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

/// The number of successive turns without a reason that counts as a busy loop.
const SPINNING: u32 = 100_000;

impl<H: EventHandler> Simulation<H> {
    /// Creates a reactor without connections. It uses the options of `server`, but does not bind its addresses, and there is
    /// always one reactor. `factory` is called with 0.
    ///
    /// # Errors
    ///
    /// [`Error`] if an option has a bad value, or if the process cannot open the three descriptors needed.
    ///
    /// # Panics
    ///
    /// If `factory` or [`on_boot`](EventHandler::on_boot) does.
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

    /// Selects the effect of a panic in a callback. If `contain` is true, the panic closes only its connection, as in a server.
    /// If it is false, which is the default, the panic resumes in the caller of the simulation, so that handlers may assert.
    pub fn contain_panics(&mut self, contain: bool) {
        self.contains_panics = contain;
    }

    /// Changes the network from now on. Existing send buffers keep their sizes.
    pub fn set_link(&mut self, link: Link) {
        self.network.set_link(link);
    }

    // Time.

    /// Returns the virtual time since the start.
    pub fn now(&self) -> Duration {
        Duration::from_micros(self.now)
    }

    /// Lets time pass.
    ///
    /// # Panics
    ///
    /// If a callback does, unless panics are [contained](Self::contain_panics).
    pub fn run_for(&mut self, time: Duration) {
        self.run_until(time, |_| false);
    }

    /// Lets time pass until `done` returns true, or until the time `within` has passed. `done` is called after each turn, and
    /// after each action of a peer. Returns true if `done` did.
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

    /// Lets time pass until nothing is in transit and nobody has anything to do, except for pending timers. Timers that are
    /// due before that fire.
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

    /// Shuts the engine down, waits until it has ended, and returns the report of [`Running::shutdown`]. The bytes that peers
    /// have received stay available.
    ///
    /// # Panics
    ///
    /// As for [`run_for`](Self::run_for). Also if the engine does not end.
    ///
    /// [`Running::shutdown`]: crate::Running::shutdown
    pub fn finish(&mut self) -> Report {
        self.engine.shutdown();
        while !self.event_loop.has_ended() {
            let goes_on = self.step(u64::MAX);
            assert!(
                goes_on || self.event_loop.has_ended(),
                "the engine has not ended, and nothing is left to wait for"
            );
        }
        self.event_loop.end();
        // Bytes sent before the end are still in transit.
        while let Some(next) = self.network.next_time() {
            self.pass_to(next);
            self.advance();
        }
        Report::of(self.engine.stats())
    }

    // Peers.

    /// Connects a new peer. The handler is notified in the next turn.
    ///
    /// If the server's limits refuse the peer, its connection is closed at once.
    pub fn connect(&mut self) -> Peer {
        // Each peer has a different address, from 10.0.0.1 on.
        let ip = Ipv4Addr::from((10 << 24) + (self.received.len() as u32 & 0xff_ffff) + 1);
        self.connect_from(SocketAddr::from((ip, 40_000)))
    }

    /// Connects a new peer from the given address, as [`connect`](Self::connect) does.
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

    /// Sends bytes from a peer. Returns false if the peer has ended its stream or has seen a reset.
    pub fn send(&mut self, peer: Peer, bytes: impl AsRef<[u8]>) -> bool {
        self.network.send(peer.0, bytes.as_ref())
    }

    /// Ends a peer's stream (FIN) after all bytes it has sent. The peer continues to read.
    pub fn shutdown(&mut self, peer: Peer) {
        self.network.shutdown(peer.0);
    }

    /// Closes a peer's end. Its stream ends after all bytes it has sent, and it answers further bytes with RST.
    pub fn close(&mut self, peer: Peer) {
        self.network.close(peer.0);
    }

    /// Resets the connection from the peer's end. Bytes that it has sent arrive in part.
    pub fn reset(&mut self, peer: Peer) {
        self.network.reset(peer.0);
    }

    /// Sets the pace at which a peer reads from now on. At first it reads freely.
    pub fn set_reading(&mut self, peer: Peer, reading: Reading) {
        self.network.set_reading(peer.0, reading);
    }

    /// Makes a peer keep its stream open after it has seen the end of the engine's. By default it ends its stream then.
    pub fn keep_open(&mut self, peer: Peer) {
        self.network.keep_open(peer.0);
    }

    /// Returns all bytes that a peer has read.
    pub fn received(&self, peer: Peer) -> &[u8] {
        &self.received[peer.0]
    }

    /// Takes the bytes that a peer has read since the last call.
    pub fn take_received(&mut self, peer: Peer) -> Vec<u8> {
        std::mem::take(&mut self.received[peer.0])
    }

    /// Returns the state of the connection as its peer sees it.
    pub fn ending(&self, peer: Peer) -> Ending {
        self.network.ending(peer.0)
    }

    /// Returns true if the engine has closed its end.
    pub fn is_closed(&self, peer: Peer) -> bool {
        self.network.is_closed(peer.0)
    }

    /// Returns the number of bytes from a peer that the engine has not read: those in transit and those in the socket.
    pub fn unread(&self, peer: Peer) -> usize {
        self.network.unread(peer.0)
    }

    // The reactor.

    /// Returns the handler.
    pub fn handler(&self) -> &H {
        self.event_loop.handler()
    }

    /// Returns the handler, to change it between turns.
    pub fn handler_mut(&mut self) -> &mut H {
        self.event_loop.handler_mut()
    }

    /// Returns the engine.
    pub fn engine(&self) -> &Engine<H> {
        &self.engine
    }

    /// Returns the reactor's counters.
    pub fn stats(&self) -> ReactorStats {
        self.engine.stats().total()
    }

    /// Returns a number that depends on every event and every socket call so far, and on their times. It is the same for the
    /// same seed.
    pub fn fingerprint(&self) -> u64 {
        self.network.fingerprint()
    }

    /// Makes a turn if there is a reason for one. Otherwise lets time pass to the next event, if it is not later than `until`.
    /// If there is none, lets time pass to `until` and returns false.
    fn step(&mut self, until: u64) -> bool {
        self.advance();
        let events = self.network.poll();
        let timeout = self.event_loop.sleeps_for();
        if !events.is_empty() || timeout == Some(Duration::ZERO) {
            self.idle_turns += 1;
            if !events.is_empty() {
                self.idle_turns = 0;
            }
            assert!(
                self.idle_turns < SPINNING,
                "the reactor makes turns without a reason"
            );
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

    /// Executes the network's work that is due.
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

/// Closes the mailbox after the loop. Requests left in it hold the engine, and would keep it alive.
struct LastMail<H: EventHandler>(Engine<H>);

impl<H: EventHandler> Drop for LastMail<H> {
    fn drop(&mut self) {
        self.0.peer(0).mailbox.close();
    }
}
