//! Engines and scripted peers in one simulated network and one virtual time.

use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::marker::PhantomData;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use super::names::Resolution;
use super::process::Process;
use crate::clock::{self, Clock};
use crate::engine::connect::resolve::LookupResult;
use crate::engine::handler::EventHandler;
use crate::engine::handler::engine::Engine;
use crate::engine::server::simulated::{SimulatedEngine, Site};
use crate::engine::server::{Report, Server};
use crate::error::Error;
use crate::metrics::ReactorStats;
use crate::panic;
use crate::simnet::link::Link;
use crate::simnet::network::{DatagramEnd, Ending, Network, Place, Reading};
use crate::sys::simulated::StandIn;
use crate::workers::{PoolBuilder, SimulatedWorkers, TakenJob, WorkerPool};

/// Engines and scripted peers in one simulated network and one virtual time.
///
/// Each engine has a host with an address of its own, its own options and its own type of handler. Engines connect to each
/// other, and to listeners of the test. The world runs their reactors' turns on the calling thread. If several reactors have
/// a reason for a turn, the seed decides which is first.
///
/// One seed decides each random choice, so the same seed and the same calls give the same result. That includes the handlers,
/// unless they use other sources of randomness: the seed also sets the generator of
/// [`fastrand`](https://docs.rs/fastrand). The keys of TLS come from the system, so with TLS the lengths of handshakes may
/// differ.
///
/// Methods that take a host's address accept an array, an [`IpAddr`] or a [`Host`]: `world.cut([10, 0, 0, 2], origin)`. With
/// a port it is a pair: `world.connect((proxy, 80))`.
///
/// These are not simulated:
///
/// - Files to send, and worker pools that [`worker_pool`](Self::worker_pool) has not built. They work, on their own threads
///   and in real time.
/// - Multicast. It returns an error, or concerns the real network.
/// - [Adopted](Engine::adopt) sockets. They never have events.
/// - [`Conn::detach`](crate::Conn::detach) and [Unix sockets of records](crate::Endpoint#records). They return an error.
pub struct World {
    network: Network,
    stand_in: Arc<StandIn>,
    clock: Clock,
    /// In microseconds since the start.
    now: u64,
    engines: Vec<Entry>,
    names: HashMap<String, Resolution>,
    pools: Vec<Pool>,
    /// The work of other threads that is under way, by the time of its end and in the order in which it began.
    work: BTreeMap<(u64, u64), Work>,
    work_begun: u64,
    /// The bytes that each scripted peer has read, by the number of its connection.
    received: Vec<Vec<u8>>,
    /// The number of peers that have got an address.
    peers: u32,
    udp_peers: Vec<DatagramEnd>,
    contains_panics: bool,
    panic: Option<String>,
    due: Vec<Due>,
}

/// An engine in a [`World`], with the address of its host.
///
/// It converts to that address, so it stands for the host where an address is wanted.
pub struct Host<H> {
    number: usize,
    ip: IpAddr,
    handler: PhantomData<fn() -> H>,
}

/// A scripted peer: one connection, seen from the other end than an engine's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Peer(usize);

/// A listener of the test, to which engines connect: see [`World::listen`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PeerListener(usize);

/// A UDP socket of the test: see [`World::bind_udp`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UdpPeer(usize);

struct Entry {
    ip: IpAddr,
    /// None while it is killed.
    process: Option<Box<dyn Process>>,
    /// The number of engines that ran here before. A lookup of theirs has nobody to answer.
    restarts: u32,
    reactors: Vec<Pace>,
}

/// The progress of a reactor.
struct Pace {
    poller: usize,
    /// The end of the turn under way.
    busy_until: u64,
    /// The number of successive turns without an event and without progress in time.
    idle_turns: u32,
    idle_since: u64,
    has_ended: bool,
}

/// The work of another thread.
enum Work {
    Lookup {
        engine: usize,
        restarts: u32,
        name: Arc<str>,
        found: LookupResult,
    },
    Job {
        pool: usize,
        job: TakenJob,
    },
}

/// A worker pool.
struct Pool {
    workers: SimulatedWorkers,
    /// The range of the time that a job takes.
    takes: RangeInclusive<Duration>,
}

/// A reactor that may have a reason for a turn.
struct Due {
    engine: usize,
    reactor: usize,
    timeout: Option<Duration>,
}

/// The number of successive turns without a reason that counts as a busy loop.
const SPINNING: u32 = 100_000;

impl World {
    /// Creates a world without hosts. `link` applies between all hosts that have no other.
    ///
    /// # Errors
    ///
    /// [`Error::Setup`] if the process cannot open a descriptor.
    pub fn new(seed: u64, link: Link) -> Result<Self, Error> {
        fastrand::seed(seed);
        let stand_in = StandIn::new().map_err(|source| Error::Setup {
            what: "the simulated sockets",
            source,
        })?;
        Ok(Self {
            network: Network::new(seed, link),
            stand_in: Arc::new(stand_in),
            clock: Clock::simulated(),
            now: 0,
            engines: Vec::new(),
            names: HashMap::new(),
            pools: Vec::new(),
            work: BTreeMap::new(),
            work_begun: 0,
            received: Vec::new(),
            peers: 0,
            udp_peers: Vec::new(),
            contains_panics: false,
            panic: None,
            due: Vec::new(),
        })
    }

    /// Selects the effect of a panic in a callback. If `contain` is true, the panic closes only its connection, as in a server.
    /// If it is false, which is the default, the panic resumes in the caller of the simulation, so that handlers may assert.
    pub fn contain_panics(&mut self, contain: bool) {
        self.contains_panics = contain;
    }
}

/// # Engines
impl World {
    /// Starts an engine on a new host with this address, with the options of a [`Server`] or a [`Client`](crate::Client).
    /// It has one reactor unless [`reactors`](Server::reactors) is set. `factory` makes the handler of each. An engine with
    /// an empty host or an unspecified address to listen on listens on its host's address.
    ///
    /// # Errors
    ///
    /// [`Error`] if an option has a bad value, if an address cannot be bound, or if the process cannot open the two
    /// descriptors that a reactor needs.
    ///
    /// # Panics
    ///
    /// If `factory` or [`on_boot`](EventHandler::on_boot) does, or if there is a host with this address.
    pub fn start<H: EventHandler>(
        &mut self,
        address: impl Into<IpAddr>,
        server: impl Into<Server>,
        factory: impl Fn(usize) -> H,
    ) -> Result<Host<H>, Error> {
        let ip = address.into();
        assert!(!self.network.has_host(ip), "{ip} is taken already");
        self.network.add_host(ip);
        let number = self.engines.len();
        self.engines.push(Entry {
            ip,
            process: None,
            restarts: 0,
            reactors: Vec::new(),
        });
        self.boot(number, server.into(), factory)?;
        Ok(Host {
            number,
            ip,
            handler: PhantomData,
        })
    }

    /// Gives the host of an engine one more address, for example an IPv6 one.
    ///
    /// # Panics
    ///
    /// If there is a host with this address.
    pub fn add_address<H: EventHandler>(&mut self, host: Host<H>, address: impl Into<IpAddr>) {
        let ip = address.into();
        assert!(
            self.network.add_address(host.ip, ip),
            "{ip} is taken already"
        );
    }

    /// Kills an engine, as SIGKILL would: no callback is called any more, and its host closes its sockets. A connection ends
    /// with RST if input was unread, else with FIN.
    pub fn kill<H: EventHandler>(&mut self, host: Host<H>) {
        self.network.note("kill", host.number, 0);
        self.network.unlisten(host.number, None);
        self.engines[host.number].process = None;
        self.engines[host.number].reactors.clear();
    }

    /// Crashes the host of an engine, as a power failure would: nothing leaves it any more, and nobody is told. It answers
    /// nothing until it is [restarted](Self::restart). After that it answers bytes for its old connections with RST.
    pub fn crash<H: EventHandler>(&mut self, host: Host<H>) {
        self.network.set_down(host.ip, true);
        self.kill(host);
    }

    /// Starts an engine on the host of one that was [killed](Self::kill), has [crashed](Self::crash) or has ended.
    ///
    /// # Errors
    ///
    /// As for [`start`](Self::start).
    ///
    /// # Panics
    ///
    /// As for [`start`](Self::start), and if the engine still runs.
    pub fn restart<H: EventHandler>(
        &mut self,
        host: Host<H>,
        server: impl Into<Server>,
        factory: impl Fn(usize) -> H,
    ) -> Result<(), Error> {
        assert!(!self.is_running(host), "{} still runs", host.ip);
        self.engines[host.number].process = None;
        self.engines[host.number].restarts += 1;
        self.network.set_down(host.ip, false);
        self.boot(host.number, server.into(), factory)
    }

    fn boot<H: EventHandler>(
        &mut self,
        number: usize,
        server: Server,
        factory: impl Fn(usize) -> H,
    ) -> Result<(), Error> {
        let site = Site {
            network: self.network.clone(),
            ip: self.engines[number].ip,
            number,
            stand_in: self.stand_in.clone(),
            clock: self.clock.restarted(),
        };
        let process = server.simulate(site, factory).inspect_err(|_| {
            // Some of its addresses may have been bound already.
            self.network.unlisten(number, None);
        })?;
        let entry = &mut self.engines[number];
        let pace = |poller| Pace {
            poller,
            busy_until: 0,
            idle_turns: 0,
            idle_since: 0,
            has_ended: false,
        };
        entry.reactors = process.pollers().into_iter().map(pace).collect();
        entry.process = Some(Box::new(process));
        Ok(())
    }

    /// Returns true until an engine is killed or its shutdown has ended.
    pub fn is_running<H: EventHandler>(&self, host: Host<H>) -> bool {
        let entry = &self.engines[host.number];
        entry.process.is_some() && entry.reactors.iter().any(|reactor| !reactor.has_ended)
    }

    /// Shuts an engine down, waits until it has ended, and returns the report of
    /// [`Running::shutdown`](crate::Running::shutdown). The other engines run on meanwhile.
    ///
    /// # Panics
    ///
    /// As for [`run_for`](Self::run_for). Also if the engine was killed, or if it does not end.
    pub fn finish<H: EventHandler>(&mut self, host: Host<H>) -> Report {
        self.engine(host).shutdown();
        while self.is_running(host) {
            let goes_on = self.step(u64::MAX);
            assert!(
                goes_on || !self.is_running(host),
                "the engine has not ended, and nothing is left to wait for"
            );
        }
        Report::of(self.engine(host).stats())
    }

    /// Builds a worker pool whose jobs run in virtual time, for handlers of this world. Each job occupies one of the pool's
    /// threads for a time from the range `takes`, and runs at the end of it, on the calling thread. A shutdown of the pool does
    /// not wait.
    ///
    /// # Errors
    ///
    /// [`Error::Option`] as for [`PoolBuilder::build`].
    pub fn worker_pool(
        &mut self,
        builder: PoolBuilder,
        takes: RangeInclusive<Duration>,
    ) -> Result<WorkerPool, Error> {
        let (pool, workers) = builder.simulate()?;
        self.pools.push(Pool { workers, takes });
        Ok(pool)
    }

    /// Returns an engine.
    ///
    /// # Panics
    ///
    /// If it was killed.
    pub fn engine<H: EventHandler>(&self, host: Host<H>) -> &Engine<H> {
        &self.process(host).engine
    }

    /// Returns the handler of a reactor.
    ///
    /// # Panics
    ///
    /// If the engine was killed, or if it has no such reactor.
    pub fn handler<H: EventHandler>(&self, host: Host<H>, reactor: usize) -> &H {
        self.process(host).reactors[reactor].event_loop.handler()
    }

    /// Returns the handler of a reactor, to change it between turns.
    ///
    /// # Panics
    ///
    /// As for [`handler`](Self::handler).
    pub fn handler_mut<H: EventHandler>(&mut self, host: Host<H>, reactor: usize) -> &mut H {
        let process = self.engines[host.number].process.as_deref_mut();
        let engine = process.and_then(|process| {
            let process: &mut dyn Any = process;
            process.downcast_mut::<SimulatedEngine<H>>()
        });
        match engine {
            Some(engine) => engine.reactors[reactor].event_loop.handler_mut(),
            None => killed(host.ip),
        }
    }

    /// Returns the counters of an engine, of all its reactors together.
    ///
    /// # Panics
    ///
    /// If it was killed.
    pub fn stats<H: EventHandler>(&self, host: Host<H>) -> ReactorStats {
        self.engine(host).stats().total()
    }

    fn process<H: EventHandler>(&self, host: Host<H>) -> &SimulatedEngine<H> {
        let process = self.engines[host.number].process.as_deref();
        let engine = process.and_then(|process| {
            let process: &dyn Any = process;
            process.downcast_ref()
        });
        engine.unwrap_or_else(|| killed(host.ip))
    }
}

/// Returns the earlier of two times.
fn earliest(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

fn killed(ip: IpAddr) -> ! {
    panic!("the engine at {ip} was killed")
}

/// # The network
///
/// All of these can change while connections are open.
impl World {
    /// Changes the link between all hosts that have no other. Existing send buffers keep their sizes.
    pub fn set_link(&mut self, link: Link) {
        self.network.set_link(link);
    }

    /// Sets the link of one direction between two hosts. Connections use the settings of the direction in which they send;
    /// [`send_buffer`](Link::send_buffer), [`interference`](Link::interference) and [`resets`](Link::resets) concern the end
    /// at `from`.
    pub fn set_link_from(&mut self, from: impl Into<IpAddr>, to: impl Into<IpAddr>, link: Link) {
        self.network.set_link_from(from.into(), to.into(), link);
    }

    /// Separates two hosts, as a network partition does. Everything between them waits until they are
    /// [healed](Self::heal): TCP sends it again. A connect waits until its timeout.
    pub fn cut(&mut self, a: impl Into<IpAddr>, b: impl Into<IpAddr>) {
        let (a, b) = (a.into(), b.into());
        self.cut_from(a, b);
        self.cut_from(b, a);
    }

    /// Ends the separation of two hosts.
    pub fn heal(&mut self, a: impl Into<IpAddr>, b: impl Into<IpAddr>) {
        let (a, b) = (a.into(), b.into());
        self.network.set_cut(a, b, false);
        self.network.set_cut(b, a, false);
    }

    /// Stops everything that one host sends to another. The other direction works on.
    pub fn cut_from(&mut self, from: impl Into<IpAddr>, to: impl Into<IpAddr>) {
        self.network.set_cut(from.into(), to.into(), true);
    }

    /// Sets the answer to lookups of a host name, from now on. A name without one does not resolve. An engine with a
    /// [resolver](Server::resolver) of its own asks that one instead, after the delay that is set here.
    pub fn set_name(&mut self, name: impl Into<String>, resolution: Resolution) {
        self.names.insert(name.into(), resolution);
    }

    /// Returns a number that depends on every event and every socket call so far, and on their times. It is the same for the
    /// same seed.
    pub fn fingerprint(&self) -> u64 {
        self.network.fingerprint()
    }
}

/// # Time
impl World {
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
        let end = self.after(within);
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
            match self.next_work() {
                Some(next) => while self.step(next) {},
                None => break,
            }
        }
    }

    /// Returns the moment after a time, in microseconds.
    pub(super) fn after(&self, time: Duration) -> u64 {
        let time = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.now.saturating_add(time)
    }

    /// Makes a turn if there is a reason for one. Otherwise lets time pass to the next event, if it is not later than `until`.
    /// If there is none, lets time pass to `until` and returns false.
    pub(super) fn step(&mut self, until: u64) -> bool {
        self.advance();
        let wakes = self.find_due();
        while !self.due.is_empty() {
            let picked = match self.due.len() {
                1 => 0,
                several => self.network.draw(several),
            };
            let due = self.due.swap_remove(picked);
            if self.turn(&due) {
                self.rethrow();
                return true;
            }
        }
        let next = earliest(self.next_arrival(), wakes).filter(|next| *next <= until);
        if next.is_some() || until < u64::MAX {
            self.pass_to(next.unwrap_or(until));
        }
        next.is_some()
    }

    /// Returns true once nothing is in transit, without timers and engines. Otherwise lets time pass to the next such event.
    pub(super) fn pass_through(&mut self) -> bool {
        match self.network.next_time() {
            Some(next) => {
                self.pass_to(next);
                self.advance();
                false
            }
            None => true,
        }
    }

    /// Lists the reactors that may have a reason for a turn. Returns the time at which the first of the others wakes, or ends
    /// its turn.
    fn find_due(&mut self) -> Option<u64> {
        self.due.clear();
        let mut wakes = None;
        for (number, entry) in self.engines.iter_mut().enumerate() {
            let Some(process) = &mut entry.process else {
                continue;
            };
            for (reactor, pace) in entry.reactors.iter().enumerate() {
                if pace.has_ended {
                    continue;
                }
                if pace.busy_until > self.now {
                    wakes = earliest(wakes, Some(pace.busy_until));
                    continue;
                }
                let timeout = process.sleeps_for(reactor, Duration::from_micros(self.now));
                if timeout == Some(Duration::ZERO) || self.network.may_have_events(pace.poller) {
                    self.due.push(Due {
                        engine: number,
                        reactor,
                        timeout,
                    });
                }
                if let Some(timeout) = timeout {
                    let micros = timeout.as_nanos().div_ceil(1000);
                    let micros = u64::try_from(micros).unwrap_or(u64::MAX);
                    wakes = earliest(wakes, Some(self.now.saturating_add(micros)));
                }
            }
        }
        wakes
    }

    /// Makes a turn of a reactor, if it has a reason for one.
    fn turn(&mut self, due: &Due) -> bool {
        let entry = &mut self.engines[due.engine];
        let (Some(process), pace) = (&mut entry.process, &mut entry.reactors[due.reactor]) else {
            return false;
        };
        let events = self.network.poll(pace.poller);
        if events.is_empty() && due.timeout != Some(Duration::ZERO) {
            return false;
        }
        if !events.is_empty() || pace.idle_since < self.now {
            pace.idle_turns = 0;
            pace.idle_since = self.now;
        }
        pace.idle_turns += 1;
        assert!(
            pace.idle_turns < SPINNING,
            "a reactor makes turns without a reason"
        );
        let panic = &mut self.panic;
        let now = Duration::from_micros(self.now);
        process.turn(due.reactor, now, due.timeout, &events, &mut |panicked| {
            panic.get_or_insert_with(|| panic::message(panicked).to_owned());
        });
        let spent = u64::try_from(clock::take_spent().as_micros()).unwrap_or(u64::MAX);
        let turn_time = self.network.turn_time().saturating_add(spent);
        pace.busy_until = self.now.saturating_add(turn_time);
        pace.has_ended = process.end(due.reactor);
        if pace.has_ended && entry.reactors.iter().all(|reactor| reactor.has_ended) {
            process.end_helpers();
        }
        self.follow(due.engine);
        true
    }

    /// Does what an engine's other threads would do after a turn.
    fn follow(&mut self, engine: usize) {
        while let Some(process) = &mut self.engines[engine].process
            && let Some(name) = process.follow(engine)
        {
            self.look_up(engine, name);
        }
    }

    /// Returns the time at which something arrives, or another thread has done its work.
    fn next_arrival(&self) -> Option<u64> {
        let work = self.work.first_key_value().map(|((at, _), _)| *at);
        earliest(self.network.next_time(), work)
    }

    /// Returns the time at which something arrives, another thread has done its work, or the turn of a reactor ends.
    fn next_work(&self) -> Option<u64> {
        let reactors = self.engines.iter().flat_map(|entry| &entry.reactors);
        let turns = reactors.map(|pace| pace.busy_until);
        let turn = turns.filter(|end| *end > self.now).min();
        earliest(self.next_arrival(), turn)
    }

    /// Executes the work of the network and of other threads that is due, and begins what waits for a thread.
    fn advance(&mut self) {
        let news = self.network.advance();
        for (number, bytes) in news.received {
            self.received_by(number).extend(bytes);
        }
        for arrived in news.arrived {
            if let Some(process) = &mut self.engines[arrived.engine].process {
                process.accept(arrived);
            }
        }
        while let Some(entry) = self.work.first_entry()
            && entry.key().0 <= self.now
        {
            let work = entry.remove();
            self.complete(work);
        }
        for pool in 0..self.pools.len() {
            while let Some(job) = self.pools[pool].workers.take() {
                self.network.note("job", pool, 0);
                let takes = self.pools[pool].takes.clone();
                self.begin(takes, Work::Job { pool, job });
            }
        }
    }

    /// Begins work that takes a time from this range. Work that takes for ever occupies its thread, and is of no other
    /// interest.
    fn begin(&mut self, takes: RangeInclusive<Duration>, work: Work) {
        let micros = |time: &Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let (first, last) = (micros(takes.start()), micros(takes.end()));
        let takes = self.network.draw_time(first..=last.max(first));
        if takes < u64::MAX {
            self.work_begun += 1;
            let end = (self.now.saturating_add(takes), self.work_begun);
            self.work.insert(end, work);
        }
    }

    fn complete(&mut self, work: Work) {
        match work {
            Work::Lookup {
                engine,
                restarts,
                name,
                found,
            } => {
                let entry = &mut self.engines[engine];
                if let Some(process) = &mut entry.process
                    && entry.restarts == restarts
                {
                    self.network.note("resolved", engine, 0);
                    process.resolved(name, found);
                }
                // Its thread is free for the next name.
                self.follow(engine);
            }
            Work::Job { pool, job } => {
                self.network.note("done", pool, 0);
                self.pools[pool].workers.run(job);
            }
        }
    }

    /// Begins a lookup of an engine.
    fn look_up(&mut self, engine: usize, name: Arc<str>) {
        self.network.note("look up", engine, name.len());
        let (delay, found) = match self.names.get(&*name) {
            Some(resolution) => resolution.answer(),
            None => (Duration::ZERO..=Duration::ZERO, Err("no such name".into())),
        };
        let lookup = Work::Lookup {
            engine,
            restarts: self.engines[engine].restarts,
            name,
            found,
        };
        self.begin(delay, lookup);
    }

    fn pass_to(&mut self, now: u64) {
        self.now = self.now.max(now);
        self.network.set_time(self.now);
        let now = Duration::from_micros(self.now);
        self.clock.set(now);
        for entry in &mut self.engines {
            if let Some(process) = &mut entry.process {
                process.set_time(now);
            }
        }
    }

    fn rethrow(&mut self) {
        if let Some(message) = self.panic.take()
            && !self.contains_panics
        {
            panic!("a callback panicked: {message}");
        }
    }
}

/// # Scripted peers
///
/// The test acts as these: it sends bytes, lets time pass, and checks the bytes that have arrived.
impl World {
    /// Connects a new peer to a listener of an engine. The handler is notified in its next turn.
    ///
    /// If the server's limits refuse the peer, its connection is closed at once. If nobody listens there, it is
    /// [`Ending::Reset`].
    pub fn connect(&mut self, to: impl Into<SocketAddr>) -> Peer {
        let from = self.next_address();
        self.connect_from(from, to)
    }

    /// Connects a new peer from the given address, as [`connect`](Self::connect) does.
    pub fn connect_from(&mut self, from: SocketAddr, to: impl Into<SocketAddr>) -> Peer {
        let to = to.into();
        self.connect_to(from, to.ip(), Place::Ip(to))
    }

    /// Connects a new peer to a Unix socket of an engine, by its path, or by its abstract name behind a NUL byte.
    pub fn connect_unix<H: EventHandler>(&mut self, host: Host<H>, path: impl AsRef<[u8]>) -> Peer {
        let from = self.next_address();
        self.connect_to(from, host.ip, Place::Unix(path.as_ref().into()))
    }

    pub(super) fn connect_to(&mut self, from: SocketAddr, host: IpAddr, to: Place) -> Peer {
        let number = self.network.connect(from, host, to);
        self.advance();
        Peer(number)
    }

    /// Returns the address of the next peer. Each has a different one, from 10.0.0.1 on.
    pub(super) fn next_address(&mut self) -> SocketAddr {
        loop {
            self.peers += 1;
            let ip = IpAddr::from(Ipv4Addr::from((10 << 24) + (self.peers & 0xff_ffff)));
            if !self.network.has_host(ip) {
                return SocketAddr::new(ip, 40_000);
            }
        }
    }

    /// Listens as a scripted server, on a host that needs not exist before.
    ///
    /// # Panics
    ///
    /// If somebody listens there already.
    pub fn listen(&mut self, addr: impl Into<SocketAddr>) -> PeerListener {
        let addr = addr.into();
        match self.network.listen_by_script(addr) {
            Ok(number) => PeerListener(number),
            Err(error) => panic!("cannot listen on {addr}: {error}"),
        }
    }

    /// Takes the next connection that an engine has made to a listener of the test.
    pub fn accept(&mut self, listener: PeerListener) -> Option<Peer> {
        self.network.accept(listener.0).map(Peer)
    }

    /// Closes a listener of the test. Further connects are refused.
    pub fn close_listener(&mut self, listener: PeerListener) {
        self.network.unlisten_by_script(listener.0);
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
        self.received.get(peer.0).map_or(&[], |received| received)
    }

    /// Takes the bytes that a peer has read since the last call.
    pub fn take_received(&mut self, peer: Peer) -> Vec<u8> {
        std::mem::take(self.received_by(peer.0))
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

    /// Binds a UDP socket of the test, on a host that needs not exist before.
    ///
    /// # Panics
    ///
    /// If the address is in use.
    pub fn bind_udp(&mut self, addr: impl Into<SocketAddr>) -> UdpPeer {
        let addr = addr.into();
        match self.network.bind_datagrams_by_script(addr) {
            Ok(end) => self.udp_peers.push(end),
            Err(error) => panic!("cannot bind {addr}: {error}"),
        }
        UdpPeer(self.udp_peers.len() - 1)
    }

    /// Sends a datagram from a socket of the test. It may be [lost](Link::loss), arrive [twice](Link::duplicates), and
    /// overtake others by its [`delay`](Link::delay).
    ///
    /// # Panics
    ///
    /// If the peer's host has no address of this IP version.
    pub fn send_datagram(
        &mut self,
        peer: UdpPeer,
        to: impl Into<SocketAddr>,
        bytes: impl AsRef<[u8]>,
    ) {
        let to = to.into();
        if let Err(error) = self.udp_peers[peer.0].send(Some(to), bytes.as_ref()) {
            panic!("cannot send to {to}: {error}");
        }
    }

    /// Takes the next datagram that has arrived at a socket of the test, with the address that it comes from.
    pub fn take_datagram(&mut self, peer: UdpPeer) -> Option<(SocketAddr, Vec<u8>)> {
        self.udp_peers[peer.0].receive().ok()
    }

    fn received_by(&mut self, number: usize) -> &mut Vec<u8> {
        if self.received.len() <= number {
            self.received.resize_with(number + 1, Vec::new);
        }
        &mut self.received[number]
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World")
            .field("now", &self.now())
            .field("engines", &self.engines.len())
            .field("peers", &self.peers)
            .finish_non_exhaustive()
    }
}

impl<H> Clone for Host<H> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<H> Copy for Host<H> {}

impl<H> From<Host<H>> for IpAddr {
    fn from(host: Host<H>) -> Self {
        host.ip
    }
}

impl<H> fmt::Debug for Host<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Host").field(&self.ip).finish()
    }
}
