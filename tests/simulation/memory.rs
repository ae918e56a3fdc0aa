//! Peers that do not read: their cost is bounded and affects only themselves, and held output arrives when they read.

use std::time::Duration;

use epicycle::codec::Raw;
use epicycle::testing::{Ending, Link, Peer, Reading, Simulation, each_seed};
use epicycle::{
    Action, CloseReason, Closed, Conn, ConnId, ConnInfo, EventHandler, OutboundPolicy, Reactor,
    Server,
};
use fastrand::Rng;

use super::ledger::Ledger;
use super::world;

const LIMIT: usize = 64 << 10;

/// What one call receives.
const READ_BUFFER: usize = 16 << 10;

const MOST: usize = LIMIT + 10 * READ_BUFFER;

/// Answers with ten times as much, as far as that is taken, and looks at how much waits.
struct Generous {
    ledger: Ledger,
    refused: usize,
    policy: OutboundPolicy,
}

impl EventHandler for Generous {
    type Codec = Raw;
    type Session = usize;

    fn codec(&mut self, _: &ConnInfo<'_>) -> Raw {
        Raw
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<usize> {
        Some(self.ledger.open(conn))
    }

    fn react(&mut self, conn: &mut Conn<'_, Self>, life: &mut usize, bytes: &[u8]) -> Action {
        self.ledger.frame(conn, *life);
        for chunk in bytes.chunks(1000) {
            let answer = chunk.repeat(10);
            match conn.write(&answer) {
                Ok(()) => self.ledger.wrote(*life, &answer),
                Err(_) => {
                    self.refused += 1;
                    assert!(self.policy != OutboundPolicy::Close || !conn.is_open());
                }
            }
        }
        // The limit, and what one read brings forth while the kernel has refused nothing.
        assert!(conn.buffered_out() <= MOST, "more waits than may");
        Action::Continue
    }

    fn on_close(
        &mut self,
        _: &mut Reactor<'_, Self>,
        info: &Closed,
        life: usize,
        reason: CloseReason,
    ) {
        self.ledger.close(info, life, &reason);
    }
}

fn world(seed: u64, policy: OutboundPolicy) -> (Simulation<Generous>, Ledger, Rng) {
    let mut rng = Rng::with_seed(seed);
    let ledger = Ledger::default();
    let server: Server = world::server(&mut rng)
        .read_buffer(READ_BUFFER)
        .high_water(20 << 10)
        .low_water(rng.usize(0..20 << 10))
        .outbound_limit(LIMIT)
        .outbound_policy(policy);
    let link = world::link(&mut rng).resets(0).send_buffer(1000..=8000);
    let sim = Simulation::new(seed, link, server, |_| Generous {
        ledger: ledger.clone(),
        refused: 0,
        policy,
    });
    (sim.expect("a simulation"), ledger, rng)
}

/// Some peers that do not read send so much, and one reads.
fn flood(sim: &mut Simulation<Generous>, rng: &mut Rng, len: usize) -> (Vec<Peer>, Peer) {
    let deaf: Vec<Peer> = (0..rng.usize(1..4)).map(|_| sim.connect()).collect();
    let other = sim.connect();
    for peer in &deaf {
        sim.set_reading(*peer, Reading::Never);
        for _ in 0..len / 1000 {
            sim.send(*peer, [rng.u8(..); 1000]);
        }
    }
    for _ in 0..10 {
        let before = sim.received(other).len();
        sim.send(other, b"hello");
        let served = sim.run_until(Duration::from_secs(20), |sim| {
            // A ring has room for a power of two, and input for one frame.
            assert!(
                sim.stats().buffered
                    <= deaf.len() as u64 * (2 * MOST as u64 + (32 << 10)) + (64 << 10)
            );
            sim.received(other).len() == before + 50
        });
        assert!(served, "one who reads waits for those who do not");
    }
    (deaf, other)
}

#[test]
fn a_peer_that_does_not_read_is_not_read_either() {
    each_seed(0..200, |seed| {
        let (mut sim, ledger, mut rng) = world(seed, OutboundPolicy::PauseReads);
        // Each chunk of ten times 1,000 bytes is refused or goes into what is left above the mark.
        let (deaf, other) = flood(&mut sim, &mut rng, 200_000);
        sim.run_for(Duration::from_secs(100));
        for peer in &deaf {
            assert!(sim.unread(*peer) > 0, "all of it was read");
            sim.set_reading(*peer, Reading::Freely);
            sim.shutdown(*peer);
        }
        sim.shutdown(other);
        sim.run_for(Duration::from_secs(3000));
        for peer in deaf.iter().chain([&other]) {
            assert_eq!(sim.unread(*peer), 0, "reading did not go on");
            assert_eq!(sim.ending(*peer), Ending::Finished);
        }
        sim.finish();
        let peers: Vec<Peer> = deaf.into_iter().chain([other]).collect();
        ledger.check(&sim, &peers);
    });
}

#[test]
fn what_is_dropped_is_dropped_whole() {
    each_seed(0..200, |seed| {
        let (mut sim, ledger, mut rng) = world(seed, OutboundPolicy::Drop);
        let (deaf, other) = flood(&mut sim, &mut rng, 60_000);
        sim.run_for(Duration::from_secs(100));
        assert!(sim.handler().refused > 0);
        for peer in deaf.iter().chain([&other]) {
            assert_eq!(sim.unread(*peer), 0, "it is read on");
            sim.set_reading(*peer, Reading::Freely);
            sim.shutdown(*peer);
        }
        sim.run_for(Duration::from_secs(3000));
        sim.finish();
        let peers: Vec<Peer> = deaf.into_iter().chain([other]).collect();
        for peer in &peers {
            assert_eq!(sim.ending(*peer), Ending::Finished);
        }
        ledger.check(&sim, &peers);
    });
}

#[test]
fn whoever_is_over_the_limit_is_closed() {
    each_seed(0..200, |seed| {
        let (mut sim, ledger, mut rng) = world(seed, OutboundPolicy::Close);
        let (deaf, other) = flood(&mut sim, &mut rng, 60_000);
        sim.run_for(Duration::from_secs(1100));
        for peer in &deaf {
            assert_ne!(sim.ending(*peer), Ending::Open);
        }
        assert_eq!(sim.ending(other), Ending::Open);
        sim.finish();
        let peers: Vec<Peer> = deaf.into_iter().chain([other]).collect();
        ledger.check(&sim, &peers);
    });
}

/// Everybody's timer runs out in the same millisecond, and each writes something.
#[derive(Default)]
struct Chorus {
    written: usize,
    shown: usize,
    most: usize,
}

impl EventHandler for Chorus {
    type Codec = Raw;
    type Session = ();

    const HANDLES_PRE_WRITE: bool = true;

    fn codec(&mut self, _: &ConnInfo<'_>) -> Raw {
        Raw
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<()> {
        conn.set_timer(Duration::from_secs(1), 0);
        Some(())
    }

    fn react(&mut self, _: &mut Conn<'_, Self>, (): &mut (), _: &[u8]) -> Action {
        Action::Continue
    }

    fn on_timer(&mut self, conn: &mut Conn<'_, Self>, (): &mut (), _: u64) -> Action {
        self.written += 1000;
        self.most = self.most.max(self.written - self.shown);
        conn.write(&[7; 1000]).into()
    }

    fn pre_write(&mut self, _: ConnId, (): &mut (), bytes: &[u8]) {
        self.shown += bytes.len();
    }
}

#[test]
fn timers_that_run_out_together_do_not_have_all_output_wait_for_the_last_of_them() {
    let server = Server::bind("tcp://:1");
    let mut sim =
        Simulation::new(0, Link::calm(), server, |_| Chorus::default()).expect("a simulation");
    let peers: Vec<Peer> = (0..2000).map(|_| sim.connect()).collect();
    sim.run_for(Duration::from_secs(2));
    assert!(peers.iter().all(|peer| sim.received(*peer).len() == 1000));
    assert_eq!(sim.handler().shown, 2000 * 1000);
    // The arena, where output is staged, holds 256 KiB.
    assert!(
        sim.handler().most <= 256 << 10,
        "{} bytes wait",
        sim.handler().most
    );
}
