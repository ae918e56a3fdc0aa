//! Peers that reset: input that arrived before is passed to the handler, even if the connection was busy.

use std::time::Duration;

use epicycle::codec::Raw;
use epicycle::testing::{Ending, Peer, Reading, Simulation, each_seed};
use epicycle::{Action, CloseReason, Closed, Conn, ConnInfo, EventHandler, Reactor};
use fastrand::Rng;

use super::ledger::Ledger;
use super::world;

/// Counts what it hears, and has more to say than its peers read.
struct Busy {
    ledger: Ledger,
    rng: Rng,
    /// How many bytes each connection has had.
    heard: Vec<(usize, usize)>,
}

struct Session {
    life: usize,
    peer: usize,
    heard: usize,
}

impl Busy {
    fn say(&mut self, conn: &mut Conn<'_, Self>, life: usize, most: usize) {
        let bytes = vec![self.rng.u8(..); self.rng.usize(0..most)];
        if conn.write(&bytes).is_ok() {
            self.ledger.wrote(life, &bytes);
        }
    }
}

impl EventHandler for Busy {
    type Codec = Raw;
    type Session = Session;

    fn codec(&mut self, _: &ConnInfo<'_>) -> Raw {
        Raw
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<Session> {
        let life = self.ledger.open(conn);
        self.say(conn, life, 100_000);
        Some(Session {
            life,
            peer: self.ledger.peer_of(conn.id()),
            heard: 0,
        })
    }

    fn react(&mut self, conn: &mut Conn<'_, Self>, session: &mut Session, bytes: &[u8]) -> Action {
        self.ledger.frame(conn, session.life);
        session.heard += bytes.len();
        self.say(conn, session.life, 1000);
        if self.rng.u32(..10) == 0 {
            conn.pause_reads();
            conn.set_timer(Duration::from_millis(self.rng.u64(..500)), 0);
        }
        Action::Continue
    }

    fn on_timer(&mut self, conn: &mut Conn<'_, Self>, _: &mut Session, _: u64) -> Action {
        conn.resume_reads();
        Action::Continue
    }

    fn on_close(
        &mut self,
        _: &mut Reactor<'_, Self>,
        info: &Closed,
        session: Session,
        reason: CloseReason,
    ) {
        assert!(matches!(reason, CloseReason::Reset(_)), "{reason}");
        self.heard.push((session.peer, session.heard));
        self.ledger.close(info, session.life, &reason);
    }
}

#[test]
fn what_arrived_before_a_reset_is_handed_out() {
    each_seed(0..400, |seed| {
        let mut rng = Rng::with_seed(seed);
        let ledger = Ledger::default();
        let server = world::server(&mut rng);
        let link = world::link(&mut rng).resets(0);
        let mut sim = Simulation::new(seed, link, server, |_| Busy {
            ledger: ledger.clone(),
            rng: Rng::with_seed(!seed),
            heard: Vec::new(),
        })
        .expect("a simulation");
        let peers: Vec<Peer> = (0..rng.usize(1..4)).map(|_| sim.connect()).collect();
        let mut sent = Vec::new();
        for peer in &peers {
            let reading = match rng.bool() {
                true => Reading::Never,
                false => world::reading(&mut rng),
            };
            sim.set_reading(*peer, reading);
            let len = rng.usize(1..60_000);
            sim.send(*peer, vec![7; len]);
            sent.push(len);
        }
        // All of it arrives, and some of it may be handled.
        sim.run_for(Duration::from_secs(rng.u64(20..30)));
        for peer in &peers {
            sim.reset(*peer);
        }
        sim.run_for(Duration::from_secs(100));
        assert_eq!(sim.handler().heard.len(), peers.len());
        for (peer, heard) in sim.handler().heard.clone() {
            assert_eq!(heard, sent[peer], "of peer {peer}");
            assert_eq!(sim.ending(peers[peer]), Ending::Reset);
        }
        sim.finish();
        ledger.check(&sim, &peers);
    });
}
