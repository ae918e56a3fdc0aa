//! Everything at once: connections come and go, callbacks and other threads do to them whatever they may, at any moment, and
//! the server is shut down in the midst of it.

mod handler;
mod tale;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use epicycle::testing::{Ending, Peer, Simulation, each_seed};
use epicycle::{HandleError, OutboundPolicy, Reactor};
use fastrand::Rng;

use self::handler::Anything;
use self::tale::Teller;
use super::world;

/// How many addresses the peers have, and how many connections each may have at a time.
const ADDRESSES: u8 = 4;
const PER_ADDRESS: usize = 3;

/// The port of the first peer; each has its own.
const FIRST_PORT: u16 = 1000;

#[test]
fn whatever_happens_at_once_every_promise_is_kept() {
    each_seed(0..1000, |seed| {
        // Large writes leave at once if no `pre_write` has to see them.
        if seed % 2 == 0 {
            Storm::<true>::new(seed).blow();
        } else {
            Storm::<false>::new(seed).blow();
        }
    });
}

struct Storm<const SHOWS: bool> {
    sim: Simulation<Anything<SHOWS>>,
    rng: Rng,
    peers: Vec<Peer>,
    /// Requests of other threads, and those that were carried out or dropped.
    asked: usize,
    done: Arc<AtomicUsize>,
    broadcasts: Teller,
}

/// Counts when it is dropped, with the request that it is a part of.
struct Count(Arc<AtomicUsize>);

impl Drop for Count {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl<const SHOWS: bool> Storm<SHOWS> {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let limit = rng.usize(80 << 10..200 << 10);
        let policies = [
            OutboundPolicy::PauseReads,
            OutboundPolicy::Drop,
            OutboundPolicy::Close,
        ];
        let server = world::server(&mut rng)
            .outbound_limit(limit)
            .outbound_policy(policies[rng.usize(..3)])
            .max_connections_per_ip(PER_ADDRESS)
            .idle_timeout(Duration::from_millis(rng.u64(100..5000)))
            .write_stall_timeout(Duration::from_millis(rng.u64(100..5000)))
            .fin_timeout(Duration::from_millis(rng.u64(1..5000)))
            .drain_deadline(Duration::from_millis(rng.u64(1..5000)))
            .mailbox(rng.usize(1..100))
            .tick(Duration::from_millis(rng.u64(..20)));
        let link = world::link(&mut rng);
        let handler = |_| Anything::new(Rng::with_seed(!seed), limit);
        let mut sim = Simulation::new(seed, link, server, handler).expect("a simulation");
        sim.contain_panics(true);
        Self {
            sim,
            rng,
            peers: Vec::new(),
            asked: 0,
            done: Arc::default(),
            broadcasts: Teller::new(b'B'),
        }
    }

    fn blow(mut self) {
        for _ in 0..self.rng.usize(1..150) {
            match self.rng.u32(..20) {
                0..3 => self.somebody_connects(),
                3..9 => self.a_peer_does_something(),
                9..13 => self.a_handle_does_something(),
                13 => self.the_engine_does_something(),
                _ => {
                    let time = Duration::from_micros(self.rng.u64(..20_000));
                    self.sim.run_for(time);
                }
            }
            let most = usize::from(ADDRESSES) * PER_ADDRESS;
            assert!(self.sim.engine().connections() <= most, "more than may");
        }
        if self.rng.bool() {
            self.all_leave_and_others_come();
        }
        self.sim.finish();
        self.check();
    }

    fn somebody_connects(&mut self) {
        let host = self.rng.u8(..ADDRESSES);
        let peer = self.connect_from(host);
        let reading = world::reading(&mut self.rng);
        self.sim.set_reading(peer, reading);
    }

    fn connect_from(&mut self, host: u8) -> Peer {
        let port = FIRST_PORT + self.peers.len() as u16;
        let peer = self
            .sim
            .connect_from(SocketAddr::from(([10, 0, 0, host], port)));
        self.peers.push(peer);
        peer
    }

    fn a_peer_does_something(&mut self) {
        if self.peers.is_empty() {
            return;
        }
        let which = self.rng.usize(..self.peers.len());
        let peer = self.peers[which];
        match self.rng.u32(..20) {
            0 => self.sim.shutdown(peer),
            1 => self.sim.close(peer),
            2 => self.sim.reset(peer),
            3 => self.sim.keep_open(peer),
            4 => {
                let reading = world::reading(&mut self.rng);
                self.sim.set_reading(peer, reading);
            }
            _ => {
                // Always the same ones, lest an echo look torn.
                let bytes = vec![which as u8; world::len(&mut self.rng)];
                self.sim.send(peer, bytes);
            }
        }
    }

    /// Another thread has a handle, of a connection that may be gone, whose slot may be another one's.
    fn a_handle_does_something(&mut self) {
        let lives = &self.sim.handler().lives;
        let recent = lives.len().saturating_sub(10)..lives.len();
        if recent.is_empty() {
            return;
        }
        let (handle, session) = lives[self.rng.usize(recent)].clone();
        let count = Count(self.done.clone());
        self.asked += 1;
        let taken = match self.rng.u32(..12) {
            0 => handle.close(),
            1 => handle.abort(),
            2..6 => {
                let message = session.life().handles.message(&mut self.rng);
                session.life().handles.go_on();
                handle.write_flushed(message, move |_| drop(count))
            }
            _ => handle.run(move |handler, conn, session| {
                let _count = count;
                handler.does_anything(conn, session);
            }),
        };
        let closed = session.life().closed.is_some();
        assert!(
            !closed || taken == Err(HandleError::Closed),
            "a request to nobody is taken"
        );
    }

    fn the_engine_does_something(&mut self) {
        let engine = self.sim.engine().clone();
        let count = Count(self.done.clone());
        self.asked += 1;
        let task = move |handler: &mut Anything<SHOWS>,
                         reactor: &mut Reactor<'_, Anything<SHOWS>>| {
            let _count = count;
            handler.does_anything_to_all(reactor);
        };
        let _taken = match self.rng.u32(..3) {
            0 => {
                let message = self.broadcasts.message(&mut self.rng);
                self.broadcasts.go_on();
                engine.broadcast(message)
            }
            1 => engine.run_on(0, task),
            _ => engine.schedule(0, Duration::from_millis(self.rng.u64(..500)), task),
        };
    }

    /// Nothing is left of those who have gone, nor in the limits' accounts.
    fn all_leave_and_others_come(&mut self) {
        for peer in &self.peers {
            self.sim.reset(*peer);
        }
        self.sim.run_for(Duration::from_secs(60));
        let stats = self.sim.stats();
        assert_eq!((stats.connections, stats.buffered, stats.queued), (0, 0, 0));
        self.sim.handler_mut().refuses = false;
        let before = self.sim.handler().opened;
        for host in 0..ADDRESSES {
            for _ in 0..PER_ADDRESS + 1 {
                self.connect_from(host);
            }
        }
        self.sim.run_for(Duration::from_micros(1));
        let opened = self.sim.handler().opened - before;
        assert_eq!(
            opened,
            u64::from(ADDRESSES) * PER_ADDRESS as u64,
            "as many as may"
        );
    }

    fn check(self) {
        let stats = self.sim.stats();
        assert_eq!(
            (stats.connections, stats.buffered),
            (0, 0),
            "something is left"
        );
        assert_eq!(self.sim.engine().connections(), 0);
        let handler = self.sim.handler();
        assert_eq!(stats.panics, handler.panics);
        assert_eq!(
            handler.told.load(Ordering::Relaxed),
            handler.asked,
            "completions"
        );
        let mut ids = HashSet::new();
        for (handle, session) in &handler.lives {
            let life = session.life();
            let (id, peer) = (life.id, self.peers[life.peer]);
            assert!(ids.insert(id), "{id} opens twice");
            assert!(!handle.is_open());
            let closed = life.closed.as_ref().expect("on_close was called");
            let received = self.sim.received(peer);
            assert!(
                !SHOWS || life.shown.starts_with(received),
                "{id}: something else arrives"
            );
            assert!(
                !SHOWS || closed.bytes_out <= life.shown.len() as u64,
                "{id}: not shown"
            );
            if self.sim.ending(peer) == Ending::Finished {
                let all = (received.len(), closed.bytes_out, closed.unsent);
                let shown = if SHOWS {
                    life.shown.len()
                } else {
                    received.len()
                };
                assert_eq!(
                    all,
                    (shown, shown as u64, 0),
                    "{id}: lost before FIN: {}",
                    life.reason
                );
            }
            let told = tale::check(received);
            let count = |who| told.get(&who).copied().unwrap_or_default();
            assert!(count(b'C') <= life.callbacks.told() && count(b'E') <= life.echoes.told());
        }
        let (asked, done) = (self.asked, self.done.clone());
        drop(self);
        assert_eq!(
            done.load(Ordering::Relaxed),
            asked,
            "a request is neither done nor dropped"
        );
    }
}
