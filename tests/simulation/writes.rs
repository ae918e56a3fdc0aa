//! All methods of writing: staged, copied and shared output, and writes in `on_drain`, keep their order.

use std::io::IoSlice;
use std::time::Duration;

use epicycle::codec::Raw;
use epicycle::testing::{Ending, Peer, Simulation, each_seed};
use epicycle::{Action, Bytes, CloseReason, Closed, Conn, ConnInfo, EventHandler, Reactor};
use fastrand::Rng;

use super::ledger::Ledger;
use super::world;

/// Answers what arrives with that, among other things, and has more to send than there is room for.
struct Writer {
    ledger: Ledger,
    rng: Rng,
}

struct Session {
    life: usize,
    /// How many bytes are still to be sent.
    left: usize,
}

impl Writer {
    fn write_somehow(&mut self, conn: &mut Conn<'_, Self>, life: usize, bytes: &[u8]) {
        let half = self.rng.usize(0..=bytes.len());
        let written = match self.rng.u32(..3) {
            0 => conn.write(bytes),
            1 => conn.write_shared(Bytes::copy_from_slice(bytes)),
            _ => conn.write_vectored(&[IoSlice::new(&bytes[..half]), IoSlice::new(&bytes[half..])]),
        };
        written.expect("an open connection");
        self.ledger.wrote(life, bytes);
    }

    fn pump(&mut self, conn: &mut Conn<'_, Self>, session: &mut Session) {
        while session.left > 0 && conn.has_room() {
            let now = session.left.min(self.rng.usize(1..5000));
            let bytes = vec![self.rng.u8(..); now];
            self.write_somehow(conn, session.life, &bytes);
            session.left -= now;
        }
    }
}

impl EventHandler for Writer {
    type Codec = Raw;
    type Session = Session;

    fn codec(&mut self, _: &ConnInfo<'_>) -> Raw {
        Raw
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<Session> {
        let life = self.ledger.open(conn);
        Some(Session { life, left: 0 })
    }

    fn react(&mut self, conn: &mut Conn<'_, Self>, session: &mut Session, frame: &[u8]) -> Action {
        self.ledger.frame(conn, session.life);
        if self.rng.bool() {
            let before = vec![b'<'; world::len(&mut self.rng)];
            self.write_somehow(conn, session.life, &before);
        }
        // A long one, or a part of it, is sent from where it was received.
        let from = match self.rng.bool() {
            true => 0,
            false => self.rng.usize(0..=frame.len()),
        };
        conn.write(&frame[from..]).expect("an open connection");
        self.ledger.wrote(session.life, &frame[from..]);
        if self.rng.bool() {
            let behind = vec![b'>'; world::len(&mut self.rng)];
            self.write_somehow(conn, session.life, &behind);
        }
        if self.rng.u32(..4) == 0 {
            session.left += self.rng.usize(..50_000);
        }
        self.pump(conn, session);
        Action::Continue
    }

    fn on_drain(&mut self, conn: &mut Conn<'_, Self>, session: &mut Session) -> Action {
        self.pump(conn, session);
        match session.left == 0 && conn.peer_has_shut_down() {
            true => Action::Close,
            false => Action::Continue,
        }
    }

    fn on_peer_shutdown(&mut self, _: &mut Conn<'_, Self>, session: &mut Session) -> Action {
        match session.left == 0 {
            true => Action::Close,
            false => Action::Continue,
        }
    }

    fn on_close(
        &mut self,
        _: &mut Reactor<'_, Self>,
        info: &Closed,
        session: Session,
        reason: CloseReason,
    ) {
        self.ledger.close(info, session.life, &reason);
    }
}

#[test]
fn writes_of_every_kind_keep_their_order_and_on_drain_is_not_forgotten() {
    each_seed(0..600, |seed| {
        let mut rng = Rng::with_seed(seed);
        let ledger = Ledger::default();
        let (server, link) = (world::server(&mut rng), world::link(&mut rng));
        let mut sim = Simulation::new(seed, link, server, |_| Writer {
            ledger: ledger.clone(),
            rng: Rng::with_seed(!seed),
        })
        .expect("a simulation");
        let peers: Vec<Peer> = (0..rng.usize(1..4)).map(|_| sim.connect()).collect();
        for peer in &peers {
            sim.set_reading(*peer, world::reading(&mut rng));
            for _ in 0..rng.usize(0..5) {
                let mut bytes = vec![0; rng.usize(1..40_000)];
                rng.fill(&mut bytes);
                sim.send(*peer, bytes);
                sim.run_for(Duration::from_micros(rng.u64(..50_000)));
            }
            sim.shutdown(*peer);
        }
        sim.run_for(Duration::from_secs(3000));
        for peer in &peers {
            assert_ne!(sim.ending(*peer), Ending::Open, "a rest is never sent");
        }
        sim.finish();
        ledger.check(&sim, &peers);
    });
}
