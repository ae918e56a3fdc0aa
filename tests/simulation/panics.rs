//! Panics in callbacks: each affects only its own connection.

use std::panic::resume_unwind;
use std::time::Duration;

use epicycle::codec::Lines;
use epicycle::testing::{Ending, Peer, Simulation, each_seed};
use epicycle::{Action, CloseReason, Closed, Conn, ConnInfo, EventHandler, Reactor};
use fastrand::Rng;

use super::ledger::Ledger;
use super::world;

/// Echoes lines; what begins with a `!` makes it panic, somewhere.
struct Fragile {
    ledger: Ledger,
    rng: Rng,
    panics: u64,
}

struct Session {
    life: usize,
    /// Its `on_close` panics too.
    doomed: bool,
}

impl Fragile {
    /// Unwinds as a panic does, without a message on standard error.
    fn panic(&mut self) {
        self.panics += 1;
        resume_unwind(Box::new("as planned"));
    }
}

impl EventHandler for Fragile {
    type Codec = Lines;
    type Session = Session;

    fn codec(&mut self, _: &ConnInfo<'_>) -> Lines {
        Lines::new()
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<Session> {
        let life = self.ledger.open(conn);
        let doomed = false;
        Some(Session { life, doomed })
    }

    fn react(&mut self, conn: &mut Conn<'_, Self>, session: &mut Session, line: &[u8]) -> Action {
        self.ledger.frame(conn, session.life);
        let answer = [line, b"\n"].concat();
        conn.write(&answer).expect("an open connection");
        self.ledger.wrote(session.life, &answer);
        if line.starts_with(b"!") {
            session.doomed = self.rng.bool();
            match self.rng.bool() {
                true => self.panic(),
                false => drop(conn.set_timer(Duration::from_millis(self.rng.u64(..10)), 0)),
            }
        }
        Action::Continue
    }

    fn on_timer(&mut self, _: &mut Conn<'_, Self>, _: &mut Session, _: u64) -> Action {
        self.panic();
        Action::Continue
    }

    fn on_close(
        &mut self,
        _: &mut Reactor<'_, Self>,
        info: &Closed,
        session: Session,
        reason: CloseReason,
    ) {
        self.ledger.close(info, session.life, &reason);
        if session.doomed {
            self.panic();
        }
    }
}

#[test]
fn a_panic_costs_its_own_connection_and_nothing_else() {
    each_seed(0..600, |seed| {
        let mut rng = Rng::with_seed(seed);
        let ledger = Ledger::default();
        let server = world::server(&mut rng);
        let link = world::link(&mut rng).resets(0);
        let mut sim = Simulation::new(seed, link, server, |_| Fragile {
            ledger: ledger.clone(),
            rng: Rng::with_seed(!seed),
            panics: 0,
        })
        .expect("a simulation");
        sim.contain_panics(true);
        let peers: Vec<Peer> = (0..rng.usize(2..8)).map(|_| sim.connect()).collect();
        let mut sent = vec![Vec::new(); peers.len()];
        let mut calm = vec![true; peers.len()];
        for _ in 0..rng.usize(0..40) {
            let n = rng.usize(..peers.len());
            let mut line = vec![b'a' + n as u8; world::len(&mut rng)];
            if rng.u32(..10) == 0 {
                line.insert(0, b'!');
                calm[n] = false;
            }
            line.push(b'\n');
            sim.send(peers[n], &line);
            sent[n].extend(line);
            if rng.u32(..4) == 0 {
                sim.run_for(Duration::from_micros(rng.u64(..20_000)));
            }
        }
        sim.run_for(Duration::from_secs(1000));
        for (n, peer) in peers.iter().enumerate() {
            if calm[n] {
                assert_eq!(sim.ending(*peer), Ending::Open, "peer {n} has done nothing");
                assert_eq!(sim.received(*peer).len(), sent[n].len(), "peer {n}");
            } else {
                assert_ne!(sim.ending(*peer), Ending::Open, "peer {n} lives on");
            }
        }
        sim.finish();
        ledger.check(&sim, &peers);
        assert_eq!(sim.stats().panics, sim.handler().panics);
    });
}
