//! A world with one engine.

use std::net::SocketAddr;
use std::time::Duration;

use super::world::{Host, Peer, World};
use crate::addr::Addr;
use crate::clock;
use crate::engine::handler::EventHandler;
use crate::engine::handler::engine::Engine;
use crate::engine::server::{Report, Server};
use crate::error::Error;
use crate::metrics::ReactorStats;
use crate::simnet::link::Link;
use crate::simnet::network::{Ending, Reading};
use crate::sys::simulated::to_place;

/// A [`World`] with one engine, which scripted peers connect to.
///
/// It has the methods of the world that such a test needs, and [`world`](Self::world) returns the world for all others.
#[derive(Debug)]
pub struct Simulation<H: EventHandler> {
    world: World,
    host: Host<H>,
}

/// Makes the calling callback take this virtual time, in whole microseconds. The rest of the turn, and the following work of
/// its reactor, happen later by that time.
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

/// The address of the engine's host.
const HOST: [u8; 4] = [192, 168, 0, 1];

impl<H: EventHandler> Simulation<H> {
    /// Creates a world, and an engine in it at 192.168.0.1.
    ///
    /// # Errors
    ///
    /// As for [`World::start`].
    ///
    /// # Panics
    ///
    /// As for [`World::start`].
    pub fn new(
        seed: u64,
        link: Link,
        server: Server,
        factory: impl Fn(usize) -> H,
    ) -> Result<Self, Error> {
        let mut world = World::new(seed, link)?;
        let host = world.start(HOST, server, factory)?;
        Ok(Self { world, host })
    }

    /// Connects a new peer to the engine's first listener. See [`World::connect`].
    pub fn connect(&mut self) -> Peer {
        let from = self.world.next_address();
        self.connect_from(from)
    }

    /// Connects a new peer from the given address, as [`connect`](Self::connect) does.
    pub fn connect_from(&mut self, from: SocketAddr) -> Peer {
        let listener = self.engine().local_addrs().first().cloned();
        let to = listener.unwrap_or(Addr::Ip((self.host, 0).into()));
        self.world.connect_to(from, self.host.into(), to_place(&to))
    }

    /// Lets time pass as [`World::run_until`] does, with a condition on the simulation.
    ///
    /// # Panics
    ///
    /// As for [`World::run_for`].
    pub fn run_until(&mut self, within: Duration, mut done: impl FnMut(&Self) -> bool) -> bool {
        let end = self.world.after(within);
        loop {
            if done(self) {
                return true;
            }
            if self.world.after(Duration::ZERO) > end || !self.world.step(end) {
                return done(self);
            }
        }
    }

    /// Shuts the engine down, waits until it has ended, and returns the report of
    /// [`Running::shutdown`](crate::Running::shutdown). The bytes that peers have received stay available.
    ///
    /// # Panics
    ///
    /// As for [`World::finish`].
    pub fn finish(&mut self) -> Report {
        let report = self.world.finish(self.host);
        // Bytes sent before the end are still in transit.
        while !self.world.pass_through() {}
        report
    }

    /// Returns the handler of the first reactor.
    pub fn handler(&self) -> &H {
        self.world.handler(self.host, 0)
    }

    /// Returns the handler of the first reactor, to change it between turns.
    pub fn handler_mut(&mut self) -> &mut H {
        self.world.handler_mut(self.host, 0)
    }

    /// Returns the engine.
    pub fn engine(&self) -> &Engine<H> {
        self.world.engine(self.host)
    }

    /// Returns the engine's counters.
    pub fn stats(&self) -> ReactorStats {
        self.world.stats(self.host)
    }

    /// Returns the engine's host.
    pub fn host(&self) -> Host<H> {
        self.host
    }

    /// Returns the world, for what a test of one engine rarely needs: names, cuts, listeners of the test.
    pub fn world(&mut self) -> &mut World {
        &mut self.world
    }
}

/// Defines methods that call those of the world.
macro_rules! as_the_world {
    ($($name:ident(&mut self $(, $argument:ident: $type:ty)*) $(-> $result:ty)?;)*) => {
        impl<H: EventHandler> Simulation<H> {
            $(
                #[doc = concat!("Does what [`World::", stringify!($name), "`] does.")]
                pub fn $name(&mut self $(, $argument: $type)*) $(-> $result)? {
                    self.world.$name($($argument),*)
                }
            )*
        }
    };
    ($($name:ident(&self $(, $argument:ident: $type:ty)*) -> $result:ty;)*) => {
        impl<H: EventHandler> Simulation<H> {
            $(
                #[doc = concat!("Returns what [`World::", stringify!($name), "`] does.")]
                pub fn $name(&self $(, $argument: $type)*) -> $result {
                    self.world.$name($($argument),*)
                }
            )*
        }
    };
}

as_the_world! {
    contain_panics(&mut self, contain: bool);
    set_link(&mut self, link: Link);
    run_for(&mut self, time: Duration);
    run_until_quiet(&mut self);
    send(&mut self, peer: Peer, bytes: impl AsRef<[u8]>) -> bool;
    shutdown(&mut self, peer: Peer);
    close(&mut self, peer: Peer);
    reset(&mut self, peer: Peer);
    set_reading(&mut self, peer: Peer, reading: Reading);
    keep_open(&mut self, peer: Peer);
    take_received(&mut self, peer: Peer) -> Vec<u8>;
}

as_the_world! {
    now(&self) -> Duration;
    received(&self, peer: Peer) -> &[u8];
    ending(&self, peer: Peer) -> Ending;
    is_closed(&self, peer: Peer) -> bool;
    unread(&self, peer: Peer) -> usize;
    fingerprint(&self) -> u64;
}
