//! An engine in a simulated network, made from the options of a server. The simulation runs the turns of its reactors.

use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::Server;
use super::acceptor::Balance;
use super::options::AcceptMode;
use super::settings::Settings;
use super::start::{Places, peer, poll_and_waker, shared, udp_options};
use mio::Poll;
use parking_lot::Mutex;

use crate::addr::Addr;
use crate::clock::Clock;
use crate::engine::conn::origin::Origin;
use crate::engine::handler::EventHandler;
use crate::engine::handler::context::Arrival;
use crate::engine::handler::engine::{Engine, Shared};
use crate::engine::listen;
use crate::engine::listen::handshakes::counted_as;
use crate::engine::listen::listeners::{AllListening, Listeners};
use crate::engine::reactor::{EventLoop, Parts};
use crate::engine::udp::sockets::{self, UdpSockets};
use crate::error::Error;
use crate::panic;
use crate::simnet::network::{End, Network};
use crate::sys::simulated::{Simulated, SimulatedHost, StandIn};
use crate::sys::socket::StreamSocket;
use crate::sys::stack::NetworkStack;

/// An engine in a simulated network.
pub(crate) struct SimulatedEngine<H: EventHandler> {
    pub(crate) engine: Engine<H>,
    pub(crate) reactors: Vec<SimulatedReactor<H>>,
    /// Chooses the reactor of a connection. None if the kernel does.
    balance: Option<Box<dyn Balance>>,
    network: Network,
    stand_in: Arc<StandIn>,
    clock: Clock,
}

pub(crate) struct SimulatedReactor<H: EventHandler> {
    pub(crate) event_loop: EventLoop<H>,
    /// The number by which it polls the network.
    pub(crate) poller: usize,
}

/// The place of an engine in a simulated network.
pub(crate) struct Site {
    pub(crate) network: Network,
    pub(crate) ip: IpAddr,
    /// The number of the engine.
    pub(crate) number: usize,
    pub(crate) stand_in: Arc<StandIn>,
    /// The clock of all engines of the network.
    pub(crate) clock: Clock,
}

impl Server {
    /// Boots an engine. The caller runs the turns of its reactors.
    ///
    /// # Errors
    ///
    /// Returns an [`Error`] if an option is wrong, if an address cannot be bound, or if no descriptor is left.
    pub(crate) fn simulate<H: EventHandler>(
        self,
        site: Site,
        factory: impl Fn(usize) -> H,
    ) -> Result<SimulatedEngine<H>, Error> {
        let mut options = self.options;
        // Not one for each core, because a seed must have one outcome on all machines.
        options.reactors.get_or_insert(1);
        let settings = Settings::parse(options)?;
        let places = Places::resolve(self.listens, &settings.limits)?;
        places.check_handler::<H>()?;
        let count = settings.reactors;
        let (mut polls, mut peers) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let (poll, waker) = poll_and_waker()?;
            peers.push(peer(&settings, waker));
            polls.push(poll);
        }
        let pollers: Vec<usize> = (0..count).map(|_| site.network.add_poller()).collect();
        let host = site.host(pollers[0]);
        let stack = NetworkStack::Simulated(host.clone());
        let mut local_addrs = Vec::new();
        let mut listening = AllListening::default();
        for place in places.streams {
            let number = place.number;
            let addr = listen::simulated::listen(&host, place, &mut listening)?;
            local_addrs.push((number, addr));
        }
        for place in &places.datagrams {
            listening.add_udp(place.0);
        }
        let options = udp_options(&settings, stack.clone());
        let udp = sockets::bind(places.datagrams, count, &options)?;
        local_addrs.extend(udp.addrs);
        local_addrs.sort_by_key(|(number, _)| *number);
        let engine = Engine::new(Shared {
            next_listener: AtomicUsize::new(local_addrs.len()),
            local_addrs: local_addrs.into_iter().map(|(_, addr)| addr).collect(),
            listening: Mutex::new(listening),
            acceptors: AtomicUsize::new(1),
            profiles: places.profiles,
            ..shared(&settings, peers, stack)
        });
        engine.shared().lookups.simulate(site.clock.now());
        let boot = |(index, (poll, udp_sockets)): (usize, (Poll, UdpSockets))| {
            let poller = pollers[index];
            udp_sockets.assign(poller);
            if let Err(source) = udp_sockets.register(poll.registry()) {
                let what = "the watch on the UDP sockets";
                return Err(Error::Setup { what, source });
            }
            let parts = Parts {
                poll,
                engine: engine.clone(),
                clock: site.clock.clone(),
                index,
                budgets: settings.budgets,
                limits: settings.limits.clone(),
                listeners: Listeners::default(),
                accepts_itself: false,
                udp_sockets,
                socket: settings.socket.clone(),
                stack: NetworkStack::Simulated(site.host(poller)),
                read_buffer: settings.read_buffer,
                first_tick: settings.first_tick,
                spin: Duration::ZERO,
            };
            match EventLoop::boot(parts, &factory) {
                Ok(event_loop) => Ok(SimulatedReactor { event_loop, poller }),
                Err(panic) => resume_unwind(panic),
            }
        };
        let reactors = polls.into_iter().zip(udp.reactors).enumerate();
        let reactors = reactors.map(boot).collect::<Result<_, _>>()?;
        let by_kernel = settings.accept_mode == AcceptMode::ReusePort;
        Ok(SimulatedEngine {
            reactors,
            balance: (!by_kernel).then(|| settings.balance.make()),
            network: site.network,
            stand_in: site.stand_in,
            clock: site.clock,
            engine,
        })
    }
}

impl Site {
    /// Returns the host as the reactor that polls by this number sees it.
    fn host(&self, poller: usize) -> SimulatedHost {
        SimulatedHost {
            network: self.network.clone(),
            ip: self.ip,
            engine: self.number,
            poller,
            stand_in: self.stand_in.clone(),
        }
    }
}

impl<H: EventHandler> SimulatedEngine<H> {
    /// Accepts a connection, as the main reactor does. A connection that the limits forbid is closed.
    pub(crate) fn accept(&mut self, end: End, peer: Addr, listener: usize) {
        let reactor = self.pick(&peer);
        let shared = self.engine.shared();
        let metrics = &self.engine.peer(reactor).metrics;
        metrics.accepted.add(1);
        let handshakes = shared.listening.lock().handshakes(listener);
        if !shared.accepting.load(Ordering::Acquire)
            || handshakes
                .as_ref()
                .is_some_and(|steps| steps.refuses(&peer))
            || !shared
                .admission
                .admit(counted_as(handshakes.as_ref(), &peer))
        {
            metrics.refused.add(1);
            return;
        }
        end.assign(self.reactors[reactor].poller);
        let simulated = Simulated {
            end,
            stand_in: self.stand_in.clone(),
        };
        let arrival = Arrival {
            socket: StreamSocket::simulated(simulated),
            peer,
            origin: Origin::Accepted { listener },
            handshakes,
        };
        self.engine.deal(reactor, arrival);
    }

    /// Closes the listeners once the engine accepts no more.
    pub(crate) fn follow_accepting(&mut self, number: usize) {
        let shared = self.engine.shared();
        if !shared.accepting.load(Ordering::Acquire)
            && shared.acceptors.swap(0, Ordering::AcqRel) > 0
        {
            self.network.unlisten(number, None);
        }
    }

    /// Sets the time by which the addresses of names are cached.
    pub(crate) fn set_time(&mut self, now: Duration) {
        self.clock.set(now);
        self.engine.shared().lookups.simulate(self.clock.now());
    }

    fn pick(&mut self, peer: &Addr) -> usize {
        let reactors = &self.engine.shared().reactors;
        let count = reactors.len();
        if count == 1 {
            return 0;
        }
        let Some(balance) = &mut self.balance else {
            return self.network.draw(count);
        };
        let loads = reactors.iter().map(|r| r.load.load(Ordering::Relaxed));
        let loads: Vec<usize> = loads.collect();
        match catch_unwind(AssertUnwindSafe(|| balance.pick(peer, &loads))) {
            Ok(reactor) => reactor % count,
            Err(panic) => {
                panic::report("epicycle::accept", "the balance policy", panic);
                0
            }
        }
    }
}
