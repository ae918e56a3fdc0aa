//! Callbacks that write to the other connections of the reactor, close them, or panic with one in hand.

use std::time::Duration;

use epicycle::codec::LengthField;
use epicycle::testing::{Peer, Simulation, each_seed};
use epicycle::{Action, CloseReason, Closed, Conn, ConnId, ConnInfo, EventHandler, Reactor};
use fastrand::Rng;

use super::ledger::Ledger;
use super::world::{self, Farewell};

/// Passes each frame on to another connection, chosen by its first byte.
struct Switchboard {
    ledger: Ledger,
    rng: Rng,
    /// The open connections, in no order.
    open: Vec<ConnId>,
}

impl Switchboard {
    fn pass_on(&mut self, conn: &mut Conn<'_, Self>, life: usize, frame: &[u8]) {
        let target = self.open[usize::from(frame[0]) % self.open.len()];
        let ledger = self.ledger.clone();
        if target == conn.id() {
            assert!(conn.with(target, |_, _| ()).is_none(), "reaches itself");
            if conn.write(frame).is_ok() {
                ledger.wrote(life, frame);
            }
            return;
        }
        let here = conn.id();
        match self.rng.u32(..60) {
            0 => {
                conn.with(target, |other, _| other.close());
            }
            1 => {
                conn.with(target, |other, _| other.abort());
            }
            2 => {
                conn.with(target, |other, life| {
                    if other.write(frame).is_ok() {
                        ledger.wrote(*life, frame);
                    }
                    assert!(other.with(here, |_, _| ()).is_none(), "reaches back");
                    panic!("on purpose: with another connection in hand");
                });
            }
            3 => {
                conn.with(target, |other, _| other.pause_reads());
                conn.defer(move |_, reactor| {
                    reactor.with(target, |other, _| other.resume_reads());
                });
            }
            _ => {
                conn.with(target, |other, life| {
                    if other.write(frame).is_ok() {
                        ledger.wrote(*life, frame);
                    }
                });
            }
        }
    }
}

impl EventHandler for Switchboard {
    type Codec = LengthField;
    type Session = usize;

    fn codec(&mut self, _: &ConnInfo<'_>) -> LengthField {
        LengthField::builder()
            .length(2)
            .strip(2)
            .build()
            .expect("a valid layout")
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<usize> {
        self.open.push(conn.id());
        // What is exact is the account of a connection that was written to, be it with nothing.
        let life = self.ledger.open(conn);
        self.ledger.wrote(life, b"");
        Some(life)
    }

    fn react(&mut self, conn: &mut Conn<'_, Self>, life: &mut usize, frame: &[u8]) -> Action {
        self.ledger.frame(conn, *life);
        if frame.is_empty() {
            return Action::Continue;
        }
        self.pass_on(conn, *life, frame);
        Action::Continue
    }

    fn on_close(
        &mut self,
        reactor: &mut Reactor<'_, Self>,
        info: &Closed,
        life: usize,
        reason: CloseReason,
    ) {
        self.open.retain(|id| *id != info.id);
        assert!(
            reactor.with(info.id, |_, _| ()).is_none(),
            "reaches the end"
        );
        let ledger = self.ledger.clone();
        // The others are told.
        reactor.for_each(|other, life| {
            if other.write(b"gone").is_ok() {
                ledger.wrote(*life, b"gone");
            }
        });
        self.ledger.close(info, life, &reason);
    }
}

#[test]
fn what_one_connection_writes_to_another_arrives_in_order_whatever_else_it_does() {
    each_seed(0..1000, |seed| {
        let mut rng = Rng::with_seed(seed);
        let ledger = Ledger::default();
        let (server, link) = (world::server(&mut rng), world::link(&mut rng));
        let mut sim = Simulation::new(seed, link, server, |_| Switchboard {
            ledger: ledger.clone(),
            rng: Rng::with_seed(seed),
            open: Vec::new(),
        })
        .expect("a simulation");
        sim.contain_panics(true);
        let peers: Vec<Peer> = (0..rng.usize(2..8)).map(|_| sim.connect()).collect();
        for _ in 0..rng.usize(1..60) {
            let peer = peers[rng.usize(..peers.len())];
            let mut frame = vec![rng.u8(..); world::len(&mut rng).min(40 << 10)];
            frame.splice(0..0, (frame.len() as u16).to_be_bytes());
            sim.send(peer, frame);
            if rng.u32(..20) == 0 {
                world::say(&mut sim, peer, world::farewell(&mut rng));
            }
            if rng.bool() {
                sim.run_for(Duration::from_micros(rng.u64(..10_000)));
            }
        }
        for peer in &peers {
            world::say(&mut sim, *peer, Farewell::Shutdown);
        }
        sim.finish();
        ledger.check(&sim, &peers);
    });
}
