//! Starting an engine, and waiting for its end.

pub(crate) mod acceptor;

mod options;
#[cfg(feature = "signals")]
mod signals;
#[cfg(feature = "testing")]
mod simulated;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread::{self, JoinHandle};

use mio::{Poll, Waker};
use parking_lot::Mutex;

pub use self::options::AcceptMode;
use self::options::Options;
use crate::addr::Addr;
use crate::clock::Clock;
use crate::clock::millis;
use crate::engine::connect::resolve::Lookups;
use crate::engine::handler::engine::{Engine, MainReactor, Peer, RUNNING, Shared};
use crate::engine::handler::{Action, Conn, EventHandler, Service, service};
use crate::engine::listen::admission::Admission;
use crate::engine::listen::listeners::Listeners;
use crate::engine::listen::{Listen, Place};
use crate::engine::mailbox::Mailbox;
use crate::engine::reactor::{EventLoop, LISTENERS, Parts, WAKER};
use crate::engine::server::acceptor::Acceptor;
use crate::engine::slots::Liveness;
use crate::engine::udp::sockets::{self, UdpPlace};
use crate::error::Error;
use crate::metrics::Stats;
use crate::panic;
use crate::sys::{affinity, sigpipe};

/// A server to be: where it listens and under which limits.
///
/// Every option has a default that suits a production server; each method says what it is and what it
/// costs.
///
/// ```
/// use std::time::Duration;
/// use epicycle::{Server, service};
///
/// let running = Server::bind("tcp://127.0.0.1:0")
///     .reactors(2)
///     .idle_timeout(Duration::from_secs(300))
///     .start(|_reactor| service(|conn, bytes| conn.write(bytes).into()))?;
/// println!("listening on {}", running.local_addrs()[0]);
/// let report = running.shutdown();
/// assert_eq!(report.forced, 0);
/// # Ok::<(), epicycle::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "a server does nothing until it is run or started"]
pub struct Server {
    listens: Vec<Listen>,
    options: Options,
}

/// A running server. Dropping it shuts the server down and waits for the end.
#[must_use = "dropping it shuts the server down"]
pub struct Running<H: EventHandler> {
    engine: Engine<H>,
    main: Option<JoinHandle<()>>,
    reactors: Vec<JoinHandle<()>>,
    #[cfg(feature = "signals")]
    signals: Option<signals::Watch>,
}

/// How a server ended.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report {
    /// Connections that were open at the shutdown, or made during it, and closed with everything sent.
    pub drained: usize,
    /// Connections that had to be reset at the deadline, or broke before.
    pub forced: usize,
    /// The final counters.
    pub stats: Stats,
}

impl Report {
    /// What the counters say at the end: they outlive a reactor whose thread panics.
    pub(crate) fn of(stats: Stats) -> Self {
        let total = stats.total();
        Self {
            drained: total.drained as usize,
            forced: total.forced as usize,
            stats,
        }
    }
}

impl Server {
    /// A server on one address or socket: see [`Listen`] for what can be one. A bad address is reported by
    /// [`run`](Self::run) and [`start`](Self::start).
    pub fn bind(listen: impl Into<Listen>) -> Self {
        Self::unbound().and(listen)
    }

    /// A server that listens nowhere.
    pub(crate) fn unbound() -> Self {
        Self {
            listens: Vec::new(),
            options: Options::default(),
        }
    }

    /// Listens on another address or socket too.
    pub fn and(mut self, listen: impl Into<Listen>) -> Self {
        self.listens.push(listen.into());
        self
    }

    /// Runs until the end of a shutdown. One is begun by an [`Action`](crate::Action), by [`Engine::shutdown`], or by a
    /// signal with the option `stop_on_signals`.
    ///
    /// `factory` makes each reactor's handler, on that reactor's thread, from the reactor's number.
    ///
    /// # Errors
    ///
    /// As for [`start`](Self::start).
    pub fn run<H: EventHandler>(
        self,
        factory: impl Fn(usize) -> H + Send + Sync + 'static,
    ) -> Result<Report, Error> {
        Ok(self.start(factory)?.join())
    }

    /// Starts the threads and comes back once every reactor has booted and the listeners are open.
    ///
    /// # Errors
    ///
    /// An [`Error`] that names the address or option that is wrong, the address that cannot be bound, or
    /// the reactor whose handler panicked while booting. Nothing is left running then.
    pub fn start<H: EventHandler>(
        self,
        factory: impl Fn(usize) -> H + Send + Sync + 'static,
    ) -> Result<Running<H>, Error> {
        let mut options = self.options;
        options.check()?;
        #[cfg(feature = "signals")]
        let signals = signals::watch(&options)?;
        #[cfg(feature = "tls")]
        let tls = self
            .listens
            .iter()
            .map(|listen| listen.tls.clone())
            .collect();
        let Places {
            names,
            streams,
            datagrams,
        } = Places::of(self.listens)?;
        if !H::HANDLES_DATAGRAMS
            && let Some((_, addr, _)) = datagrams.iter().find(|(_, _, udp)| udp.sessions.is_none())
        {
            return Err(Error::Option {
                name: "sessions",
                problem: format!(
                    "the handler takes no datagrams, which are all that arrives at {addr}: give the address sessions, \
                     Listen::on({:?}).sessions(UdpSessions::new()), or implement on_datagram and set HANDLES_DATAGRAMS",
                    addr.to_string()
                ),
            });
        }
        let count = options.reactors();
        // A hand-over has nobody to choose between when there is one reactor.
        let dealt =
            options.accept_mode == AcceptMode::MainReactor && count > 1 && !streams.is_empty();
        options.socket.reuse_port = options.accept_mode == AcceptMode::ReusePort;
        let listens = !streams.is_empty();
        let listeners = Listeners::bind(streams, &options.socket)?;
        let common = sockets::Common {
            reuse_port: options.socket.reuse_port,
            device: options.socket.device.clone(),
            limits: options.limits(),
        };
        let udp_sockets = sockets::bind(datagrams, count, &common)?;
        let local_addrs = listeners.local_addrs().map_err(|source| Error::Setup {
            what: "the listeners",
            source,
        })?;
        let mut local_addrs = [local_addrs, udp_sockets.addrs].concat();
        local_addrs.sort_by_key(|(number, _)| *number);
        let local_addrs = local_addrs.into_iter().map(|(_, addr)| addr).collect();

        let mut polls = Vec::with_capacity(count);
        let mut reactors = Vec::with_capacity(count);
        for _ in 0..count {
            let (poll, waker) = poll_and_waker()?;
            reactors.push(peer(&options, waker));
            polls.push(poll);
        }
        let mut listening: Vec<_> = listeners.sockets().collect();
        // The listeners are the main reactor's, or each reactor has its own.
        let mut main = None;
        let mut dealing = None;
        let mut accepting = Vec::new();
        if dealt {
            let (poll, waker) = poll_and_waker()?;
            main = Some(MainReactor {
                waker,
                metrics: Default::default(),
            });
            dealing = Some((poll, listeners));
        } else {
            for _ in 1..count {
                let sibling = listeners.sibling();
                let sibling = sibling.map_err(|source| Error::Bind {
                    addr: names.clone(),
                    source,
                })?;
                for socket in sibling.sockets() {
                    // Some are shared rather than bound anew.
                    if !listening.iter().any(|known| Arc::ptr_eq(known, &socket)) {
                        listening.push(socket);
                    }
                }
                accepting.push(sibling);
            }
            accepting.push(listeners);
        }
        let acceptors = if dealt { 1 } else { accepting.len() };

        let engine = Engine::new(Shared {
            main,
            local_addrs,
            listening: Mutex::new(listening),
            #[cfg(feature = "tls")]
            tls,
            acceptors: AtomicUsize::new(if listens { acceptors } else { 0 }),
            ..shared(&options, reactors)
        });
        let mut running = Running {
            engine: engine.clone(),
            main: None,
            reactors: Vec::with_capacity(count),
            #[cfg(feature = "signals")]
            signals: None,
        };
        #[cfg(feature = "signals")]
        if let Some(signals) = signals {
            let watch = signals::Watch::start(signals, engine.clone());
            running.signals = Some(watch.map_err(|source| Error::Setup {
                what: "the thread that waits for signals",
                source,
            })?);
        }

        let factory: Arc<dyn Fn(usize) -> H + Send + Sync> = Arc::new(factory);
        let (booted, boots) = mpsc::channel();
        let setup = |what| move |source| Error::Setup { what, source };
        let mut accepting = accepting.into_iter();
        for (index, (poll, udp_sockets)) in polls.into_iter().zip(udp_sockets.reactors).enumerate()
        {
            let listeners = accepting.next().unwrap_or_default();
            listeners
                .register(poll.registry(), LISTENERS)
                .and_then(|()| udp_sockets.register(poll.registry()))
                .map_err(setup("the watch on the listeners"))?;
            let parts = Parts {
                poll,
                engine: engine.clone(),
                clock: Clock::system(),
                index,
                limits: options.limits(),
                listeners,
                udp_sockets,
                socket: options.socket.clone(),
                read_buffer: options.read_buffer,
                first_tick: options.tick,
            };
            let cpu = options.pin.then_some(index);
            let factory = factory.clone();
            let booted = booted.clone();
            let body = move || run_reactor(parts, &*factory, cpu, booted);
            let thread = thread::Builder::new().name(format!("epicycle-{index}"));
            running
                .reactors
                .push(thread.spawn(body).map_err(setup("a reactor's thread"))?);
        }
        drop(booted);
        // Every reactor answers once, and an error drops `running`, which ends the others.
        for boot in boots {
            boot?;
        }
        if let Some((poll, listeners)) = dealing {
            listeners
                .register(poll.registry(), 0)
                .map_err(setup("the watch on the listeners"))?;
            let acceptor = Acceptor::new(poll, listeners, options.balance.make(), engine);
            let thread = thread::Builder::new().name("epicycle-main".to_owned());
            let spawned = thread.spawn(move || acceptor.run());
            running.main = Some(spawned.map_err(setup("the main reactor's thread"))?);
        }
        log::info!(
            target: "epicycle::server",
            "{what} with {count} reactor(s)",
            what = if names.is_empty() {
                "a client".to_owned()
            } else {
                format!("listening on {names}")
            }
        );
        Ok(running)
    }
}

/// What a server listens on, each with its number.
struct Places {
    /// All of them, as they were given.
    names: String,
    streams: Vec<(usize, Place)>,
    datagrams: Vec<UdpPlace>,
}

impl Places {
    fn of(listens: Vec<Listen>) -> Result<Self, Error> {
        let mut names = Vec::new();
        let (mut streams, mut datagrams) = (Vec::new(), Vec::new());
        for (number, listen) in listens.into_iter().enumerate() {
            let (place, udp) = listen.resolve()?;
            names.push(place.to_string());
            match (place, udp) {
                (Place::Addr(addr), Some(udp)) => datagrams.push((number, addr, udp)),
                (place, _) => streams.push((number, place)),
            }
        }
        Ok(Self {
            names: names.join(", "),
            streams,
            datagrams,
        })
    }
}

/// What an engine's threads share that listens nowhere.
fn shared<H: EventHandler>(options: &Options, reactors: Vec<Peer<H>>) -> Shared<H> {
    Shared {
        reactors: reactors.into(),
        main: None,
        admission: Admission::new(
            options.max_connections,
            options.max_connections_per_ip,
            options.per_ip_prefix,
        ),
        local_addrs: Vec::new(),
        listening: Mutex::default(),
        accepting: AtomicBool::new(true),
        #[cfg(feature = "tls")]
        tls: Vec::new(),
        acceptors: AtomicUsize::new(0),
        drain_deadline: millis(options.drain_deadline).min(RUNNING - 1),
        drain_within: AtomicU64::new(RUNNING),
        unsettled: AtomicUsize::new(0),
        next_reactor: AtomicUsize::new(0),
        next_dial: AtomicU64::new(0),
        lookups: Lookups::new(options.lookups.clone()),
        reads: OnceLock::new(),
    }
}

/// What the others see of a reactor to be.
fn peer<H: EventHandler>(options: &Options, waker: Waker) -> Peer<H> {
    Peer {
        mailbox: Mailbox::new(options.mailbox, waker),
        liveness: Liveness::new(),
        metrics: Arc::default(),
        load: AtomicUsize::new(0),
    }
}

fn poll_and_waker() -> Result<(Poll, Waker), Error> {
    let made = Poll::new().and_then(|poll| {
        let waker = Waker::new(poll.registry(), WAKER)?;
        Ok((poll, waker))
    });
    made.map_err(|source| Error::Setup {
        what: "a reactor's poll and waker",
        source,
    })
}

/// Runs a server that calls `react` with whatever arrives, one copy of the closure per reactor.
///
/// At a UDP address, each peer is a connection: a [session](Listen::sessions) with the defaults of [`UdpSessions`](crate::UdpSessions),
/// unless the [`Listen`] has others. `react` is called with each datagram, and each write is one.
///
/// SIGINT (ctrl-c) and SIGTERM shut it down gracefully, as [`Server::stop_on_signals`] has them do, unless the feature
/// `signals` is off.
///
/// # Errors
///
/// As for [`Server::start`].
pub fn serve<F>(listen: impl Into<Listen>, react: F) -> Result<(), Error>
where
    F: FnMut(&mut Conn<'_, Service>, &[u8]) -> Action + Clone + Send + Sync + 'static,
{
    let server = Server::bind(listen.into().or_sessions());
    #[cfg(feature = "signals")]
    let server = server.stop_on_signals();
    server.run(move |_| service(react.clone()))?;
    Ok(())
}

/// The body of a reactor's thread.
fn run_reactor<H: EventHandler>(
    parts: Parts<H>,
    factory: &dyn Fn(usize) -> H,
    cpu: Option<usize>,
    booted: mpsc::Sender<Result<(), Error>>,
) {
    let reactor = parts.index;
    let engine = parts.engine.clone();
    if let Some(cpu) = cpu
        && let Err(error) = affinity::pin_to(cpu % cores())
    {
        log::warn!(target: "epicycle::server", "cannot pin reactor {reactor}: {error}");
    }
    if let Err(error) = sigpipe::block() {
        log::warn!(target: "epicycle::server", "cannot block SIGPIPE in reactor {reactor}: {error}");
    }
    match EventLoop::boot(parts, factory) {
        Ok(event_loop) => {
            // The starter may have given up over another reactor; the loop then finds it is to stop.
            let _ = booted.send(Ok(()));
            drop(booted);
            event_loop.run();
        }
        Err(panic) => {
            let message = panic::message(&*panic).to_owned();
            // What others have asked of it meanwhile must not keep the engine alive.
            engine.peer(reactor).mailbox.close();
            let _ = booted.send(Err(Error::Boot { reactor, message }));
        }
    }
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

impl<H: EventHandler> Running<H> {
    /// The addresses it listens on, in the order they were given; with the ports the kernel chose.
    pub fn local_addrs(&self) -> &[Addr] {
        self.engine.local_addrs()
    }

    /// The engine, to be shared with other threads.
    pub fn engine(&self) -> &Engine<H> {
        &self.engine
    }

    /// Shuts down in stages and waits for the end.
    pub fn shutdown(self) -> Report {
        self.engine.shutdown();
        self.join()
    }

    /// Waits for the end, which something else has to call for.
    pub fn join(mut self) -> Report {
        self.wait()
    }

    fn wait(&mut self) -> Report {
        for reactor in self.reactors.drain(..) {
            if let Err(panic) = reactor.join() {
                panic::report("epicycle::server", "a reactor", panic);
            }
        }
        if let Some(main) = self.main.take()
            && main.join().is_err()
        {
            log::error!(target: "epicycle::server", "the main reactor died");
        }
        #[cfg(feature = "signals")]
        drop(self.signals.take());
        self.engine.end_helpers();
        Report::of(self.engine.stats())
    }
}

impl<H: EventHandler> fmt::Debug for Running<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Running").field(&self.engine).finish()
    }
}

impl<H: EventHandler> Drop for Running<H> {
    fn drop(&mut self) {
        if !self.reactors.is_empty() {
            self.engine.shutdown();
            self.wait();
        }
    }
}
