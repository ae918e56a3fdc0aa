//! The start of an engine: its sockets, its threads, and the value that they share.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Arc, OnceLock, mpsc};
use std::{io, thread};

use mio::{Poll, Waker};
use parking_lot::Mutex;

use super::Running;
use super::acceptor::Acceptor;
use super::options::{AcceptMode, BalanceChoice, Options};
use super::settings::{Settings, cores};
#[cfg(feature = "signals")]
use super::signals;
use crate::addr::Addr;
use crate::clock::{Clock, millis};
use crate::engine::conn::limits::Limits;
use crate::engine::connect::resolve::Lookups;
use crate::engine::handler::EventHandler;
use crate::engine::handler::engine::{Engine, ListenOptions, MainReactor, Peer, RUNNING, Shared};
use crate::engine::listen::listeners::{AllListening, Listeners};
use crate::engine::listen::profile::{ListenProfile, ListenProfiles};
use crate::engine::listen::{Listen, Resolved, StreamPlace};
use crate::engine::mailbox::Mailbox;
use crate::engine::reactor::{EventLoop, LISTENERS, Parts, WAKER};
use crate::engine::reactor_thread;
use crate::engine::slots::Liveness;
use crate::engine::udp::sockets::{self, UdpPlace, UdpSockets};
use crate::error::Error;
use crate::panic;
use crate::sys::stack::NetworkStack;
use crate::sys::{affinity, sigpipe};

/// Makes a handler on the thread of its reactor, from the reactor's number.
type Factory<H> = Arc<dyn Fn(usize) -> H + Send + Sync>;

/// Binds the sockets and starts the threads. Nothing is left running after an error.
pub(super) fn start<H: EventHandler>(
    listens: Vec<Listen>,
    options: Options,
    factory: impl Fn(usize) -> H + Send + Sync + 'static,
) -> Result<Running<H>, Error> {
    let settings = Settings::parse(options)?;
    // Before anything is bound, so that no signal ends the process and leaves a Unix socket's path behind.
    #[cfg(feature = "signals")]
    let signals = signals::watch(&settings)?;
    let places = Places::resolve(listens, &settings.limits)?;
    places.check_handler::<H>()?;
    let bound = Bound::bind(places, &settings)?;

    let count = settings.reactors;
    let mut polls = Vec::with_capacity(count);
    let mut peers = Vec::with_capacity(count);
    for _ in 0..count {
        let (poll, waker) = poll_and_waker()?;
        peers.push(peer(&settings, waker));
        polls.push(poll);
    }
    let Accepting {
        main,
        reactors: listeners,
        mut sockets,
    } = Accepting::assign(bound.listeners, &bound.names, &settings)?;
    let (main, dealing) = main.map_or((None, None), |(main, poll, listeners)| {
        (Some(main), Some((poll, listeners)))
    });
    let accepts_itself = dealing.is_none();
    let acceptors = if accepts_itself { count } else { 1 };
    for number in bound.udp_numbers {
        sockets.add_udp(number);
    }
    let engine = Engine::new(Shared {
        main,
        next_listener: AtomicUsize::new(bound.local_addrs.len()),
        local_addrs: bound.local_addrs,
        listening: Mutex::new(sockets),
        acceptors: AtomicUsize::new(acceptors),
        profiles: bound.profiles,
        ..shared(&settings, peers, NetworkStack::Kernel)
    });

    // An error drops this, which ends the threads that run by then.
    let mut running = Running::new(engine);
    #[cfg(feature = "signals")]
    if let Some(signals) = signals {
        running.watch_signals(signals)?;
    }
    let reactors = polls.into_iter().zip(listeners).zip(bound.udp_sockets);
    let reactors = reactors.map(|((poll, listeners), udp_sockets)| ReactorSockets {
        poll,
        listeners,
        udp_sockets,
    });
    running.boot_reactors(reactors, accepts_itself, &settings, Arc::new(factory))?;
    if let Some((poll, listeners)) = dealing {
        running.start_acceptor(poll, listeners, settings.balance)?;
    }
    match &*bound.listening {
        // A server has many of them, for its links and backends.
        "" => log::debug!(target: "epicycle::server", "a client with {count} reactor(s)"),
        addrs => {
            log::info!(target: "epicycle::server", "listening on {addrs} with {count} reactor(s)");
        }
    }
    Ok(running)
}

/// The places that a server listens on, each with its number.
pub(super) struct Places {
    /// The names of all places in the order in which they were given, for messages.
    names: String,
    pub(super) streams: Vec<StreamPlace>,
    pub(super) datagrams: Vec<UdpPlace>,
    pub(super) profiles: ListenProfiles,
}

impl Places {
    pub(super) fn resolve(listens: Vec<Listen>, server: &Limits) -> Result<Self, Error> {
        let profiles = ListenProfiles::default();
        let mut names = Vec::new();
        let (mut streams, mut datagrams) = (Vec::new(), Vec::new());
        for (number, listen) in listens.into_iter().enumerate() {
            profiles.insert(number, ListenProfile::of(&listen, server)?);
            match listen.resolve(number)? {
                Resolved::Stream(place) => {
                    names.push(place.place.to_string());
                    streams.push(place);
                }
                Resolved::Udp(place) => {
                    names.push(place.1.to_string());
                    datagrams.push(place);
                }
            }
        }
        Ok(Self {
            names: names.join(", "),
            streams,
            datagrams,
            profiles,
        })
    }

    /// Refuses a UDP address without sessions if the handler does not handle datagrams.
    pub(super) fn check_handler<H: EventHandler>(&self) -> Result<(), Error> {
        let handles_datagrams = H::HANDLES_DATAGRAMS;
        let mut places = self.datagrams.iter();
        places.try_for_each(|place| sockets::check_handler(place, handles_datagrams))
    }
}

/// The sockets of a server, bound.
struct Bound {
    /// As in [`Places`].
    names: String,
    listeners: Listeners,
    profiles: ListenProfiles,
    /// The UDP sockets of each reactor.
    udp_sockets: Vec<UdpSockets>,
    /// The numbers of the UDP listeners.
    udp_numbers: Vec<usize>,
    /// The addresses with the ports that the kernel chose, for messages.
    listening: String,
    /// In the order in which the places were given.
    local_addrs: Vec<Addr>,
}

impl Bound {
    fn bind(places: Places, settings: &Settings) -> Result<Self, Error> {
        let listeners = Listeners::bind(places.streams, &settings.socket)?;
        let udp_numbers: Vec<_> = places.datagrams.iter().map(|place| place.0).collect();
        let options = udp_options(settings, NetworkStack::Kernel);
        let udp = sockets::bind(places.datagrams, settings.reactors, &options)?;
        let tcp_addrs = listeners.local_addrs().map_err(setup("the listeners"))?;
        let mut local_addrs = [tcp_addrs, udp.addrs].concat();
        local_addrs.sort_by_key(|(number, _)| *number);
        let listening = local_addrs.iter();
        let listening: Vec<_> = listening
            .map(|(number, addr)| addr.with_scheme(udp_numbers.contains(number)))
            .collect();
        Ok(Self {
            listening: listening.join(", "),
            profiles: places.profiles,
            names: places.names,
            listeners,
            udp_sockets: udp.reactors,
            udp_numbers,
            local_addrs: local_addrs.into_iter().map(|(_, addr)| addr).collect(),
        })
    }
}

pub(super) fn udp_options(settings: &Settings, stack: NetworkStack) -> sockets::Common {
    sockets::Common {
        reuse_port: settings.socket.reuse_port,
        device: settings.socket.device.clone(),
        limits: settings.limits.clone(),
        stack,
    }
}

/// The assignment of the listeners to the threads: either all belong to the main reactor, or each reactor has its own.
struct Accepting {
    main: Option<(MainReactor, Poll, Listeners)>,
    /// The listeners of each reactor. Empty ones if there is a main reactor.
    reactors: Vec<Listeners>,
    /// All sockets that listen.
    sockets: AllListening,
}

impl Accepting {
    fn assign(listeners: Listeners, names: &str, settings: &Settings) -> Result<Self, Error> {
        let count = settings.reactors;
        let mut sockets = AllListening::default();
        listeners.note(&mut sockets);
        // With one reactor there is nothing to balance, and it accepts by itself.
        if settings.accept_mode == AcceptMode::MainReactor && count > 1 && listeners.are_any() {
            let (poll, waker) = poll_and_waker()?;
            let main = MainReactor {
                waker,
                metrics: Default::default(),
                changes: Mutex::default(),
            };
            return Ok(Self {
                main: Some((main, poll, listeners)),
                reactors: (0..count).map(|_| Listeners::default()).collect(),
                sockets,
            });
        }
        let mut reactors = Vec::with_capacity(count);
        for _ in 1..count {
            let sibling = listeners.sibling().map_err(|source| Error::Bind {
                addr: names.to_owned(),
                source,
            })?;
            sibling.note(&mut sockets);
            reactors.push(sibling);
        }
        reactors.push(listeners);
        Ok(Self {
            main: None,
            reactors,
            sockets,
        })
    }
}

/// The poll of a reactor and the sockets that it watches from the start.
struct ReactorSockets {
    poll: Poll,
    listeners: Listeners,
    udp_sockets: UdpSockets,
}

impl<H: EventHandler> Running<H> {
    #[cfg(feature = "signals")]
    fn watch_signals(&mut self, signals: crate::sys::signals::StopSignals) -> Result<(), Error> {
        let watcher = signals::start(signals, self.engine.clone());
        let watcher = watcher.map_err(setup("the thread that waits for signals"))?;
        self.watchers.push(watcher);
        Ok(())
    }

    /// Starts the reactors' threads and waits until all of them have booted.
    fn boot_reactors(
        &mut self,
        reactors: impl Iterator<Item = ReactorSockets>,
        accepts_itself: bool,
        settings: &Settings,
        factory: Factory<H>,
    ) -> Result<(), Error> {
        let (booted, boots) = mpsc::channel();
        for (index, sockets) in reactors.enumerate() {
            let ReactorSockets {
                poll,
                listeners,
                udp_sockets,
            } = sockets;
            listeners
                .register(poll.registry(), LISTENERS)
                .and_then(|()| udp_sockets.register(poll.registry()))
                .map_err(setup("the watch on the listeners"))?;
            let parts = Parts {
                poll,
                engine: self.engine.clone(),
                clock: Clock::system(),
                index,
                budgets: settings.budgets,
                limits: settings.limits.clone(),
                listeners,
                accepts_itself,
                udp_sockets,
                socket: settings.socket.clone(),
                stack: NetworkStack::Kernel,
                read_buffer: settings.read_buffer,
                first_tick: settings.first_tick,
                spin: settings.spin,
            };
            let cpu = settings.pin.then_some(index);
            let factory = factory.clone();
            let booted = booted.clone();
            let thread = thread::Builder::new().name(format!("epicycle-{index}"));
            let spawned = thread.spawn(move || run_reactor(parts, &*factory, cpu, booted));
            self.reactors
                .push(spawned.map_err(setup("a reactor's thread"))?);
        }
        drop(booted);
        // Each reactor sends one result.
        boots.into_iter().collect()
    }

    fn start_acceptor(
        &mut self,
        poll: Poll,
        listeners: Listeners,
        balance: BalanceChoice,
    ) -> Result<(), Error> {
        listeners
            .register(poll.registry(), 0)
            .map_err(setup("the watch on the listeners"))?;
        let acceptor = Acceptor::new(poll, listeners, balance.make(), self.engine.clone());
        let thread = thread::Builder::new().name("epicycle-main".to_owned());
        let spawned = thread.spawn(move || acceptor.run());
        self.main = Some(spawned.map_err(setup("the main reactor's thread"))?);
        Ok(())
    }
}

/// Runs a reactor: the body of its thread.
fn run_reactor<H: EventHandler>(
    parts: Parts<H>,
    factory: &dyn Fn(usize) -> H,
    cpu: Option<usize>,
    booted: mpsc::Sender<Result<(), Error>>,
) {
    let _mark = reactor_thread::mark();
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
            // The start may have failed because of another reactor. Nobody receives this then, and the loop finds the
            // shutdown.
            let _ = booted.send(Ok(()));
            drop(booted);
            event_loop.run();
        }
        Err(panic) => {
            let message = panic::message(&*panic).to_owned();
            // Commands that others have sent meanwhile must not keep the engine alive.
            engine.peer(reactor).mailbox.close();
            let _ = booted.send(Err(Error::Boot { reactor, message }));
        }
    }
}

/// Returns the value that the threads share, of an engine that listens nowhere.
pub(super) fn shared<H: EventHandler>(
    settings: &Settings,
    reactors: Vec<Peer<H>>,
    stack: NetworkStack,
) -> Shared<H> {
    let listen_options = ListenOptions {
        socket: settings.socket.clone(),
        udp: udp_options(settings, stack),
    };
    Shared {
        reactors: reactors.into(),
        main: None,
        admission: settings.admission.counter(),
        local_addrs: Vec::new(),
        listening: Mutex::default(),
        accepting: AtomicBool::new(true),
        acceptors: AtomicUsize::new(0),
        listen_options,
        profiles: ListenProfiles::default(),
        limits: settings.limits.clone(),
        next_listener: AtomicUsize::new(0),
        drain_deadline: millis(settings.drain_deadline).min(RUNNING - 1),
        drain_within: AtomicU64::new(RUNNING),
        unsettled: AtomicUsize::new(0),
        next_reactor: AtomicUsize::new(0),
        next_dial: AtomicU64::new(0),
        lookups: Lookups::new(settings.lookups.clone()),
        reads: OnceLock::new(),
    }
}

/// Returns the part of a future reactor that other threads use.
pub(super) fn peer<H: EventHandler>(settings: &Settings, waker: Waker) -> Peer<H> {
    Peer {
        mailbox: Mailbox::new(settings.mailbox, waker),
        liveness: Liveness::new(),
        metrics: Arc::default(),
        load: AtomicUsize::new(0),
    }
}

pub(super) fn poll_and_waker() -> Result<(Poll, Waker), Error> {
    let made = Poll::new().and_then(|poll| {
        let waker = Waker::new(poll.registry(), WAKER)?;
        Ok((poll, waker))
    });
    made.map_err(setup("a reactor's poll and waker"))
}

pub(super) fn setup(what: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Setup { what, source }
}
