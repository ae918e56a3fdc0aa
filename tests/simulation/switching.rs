//! Connections that change their codec with nearly each message, from callbacks and from timers, and hear of FIN.

use std::time::Duration;

use epicycle::codec::{self, Fixed, Lines, Peek};
use epicycle::testing::{Ending, Simulation, each_seed};
use epicycle::{Action, CloseReason, Closed, Conn, ConnInfo, ConnLimits, EventHandler, Reactor};
use fastrand::Rng;

use super::ledger::Ledger;
use super::world;

codec::one_of! {
    enum Protocol {
        Peek(Peek),
        Lines(Lines),
        Fixed(Fixed),
    }
    enum ProtocolFrame;
}

/// Sends all payloads back. A line says how long the payload behind it is, and if its codec is chosen now or later.
struct Switcher {
    ledger: Ledger,
}

struct Session {
    life: usize,
    fin: bool,
    end: bool,
}

impl Switcher {
    fn line(&self, conn: &mut Conn<'_, Self>, session: &mut Session, line: &[u8]) {
        let line = std::str::from_utf8(line).expect("the peer sends text");
        let (when, len) = line.split_once(' ').expect("the peer sends two words");
        let len: u64 = len.parse().expect("the peer sends a length");
        match when {
            "now" => self.expect(conn, len),
            "limits" => {
                let limits = ConnLimits::new()
                    .max_frame(60 << 10)
                    .high_water(1 + len as usize);
                conn.set_limits(&limits).expect("they can work");
                self.expect(conn, len);
            }
            _ => {
                conn.pause_reads();
                conn.set_timer(Duration::from_micros(len), len);
            }
        }
        self.ledger.frame(conn, session.life);
    }

    fn expect(&self, conn: &mut Conn<'_, Self>, len: u64) {
        conn.switch(Fixed::new(len as usize).expect("not empty"));
    }
}

impl EventHandler for Switcher {
    type Codec = Protocol;
    type Session = Session;

    const HANDLES_FIN: bool = true;

    fn codec(&mut self, _: &ConnInfo<'_>) -> Protocol {
        Peek::new().into()
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<Session> {
        Some(Session {
            life: self.ledger.open(conn),
            fin: false,
            end: false,
        })
    }

    fn react(
        &mut self,
        conn: &mut Conn<'_, Self>,
        session: &mut Session,
        frame: ProtocolFrame<'_>,
    ) -> Action {
        match frame {
            ProtocolFrame::Peek(_) => conn.switch(Lines::new()),
            ProtocolFrame::Lines(line) => self.line(conn, session, line),
            ProtocolFrame::Fixed(payload) => {
                assert!(conn.write(payload).is_ok(), "little waits");
                self.ledger.wrote(session.life, payload);
                conn.switch(Lines::new());
            }
        }
        Action::Continue
    }

    fn on_timer(&mut self, conn: &mut Conn<'_, Self>, _: &mut Session, len: u64) -> Action {
        self.expect(conn, len);
        conn.resume_reads();
        Action::Continue
    }

    fn on_fin(&mut self, _: &mut Conn<'_, Self>, session: &mut Session) -> Action {
        assert!(!session.fin && !session.end, "once, and before the end");
        session.fin = true;
        Action::Continue
    }

    fn on_peer_shutdown(&mut self, _: &mut Conn<'_, Self>, session: &mut Session) -> Action {
        assert!(session.fin && !session.end, "once, and after FIN");
        session.end = true;
        Action::Close
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
fn each_codec_gets_the_input_that_is_its_own_however_the_network_cuts_it() {
    each_seed(0..1000, |seed| {
        let mut rng = Rng::with_seed(seed);
        let ledger = Ledger::default();
        let (server, link) = (world::server(&mut rng), world::link(&mut rng));
        let mut sim = Simulation::new(seed, link, server, |_| Switcher {
            ledger: ledger.clone(),
        })
        .expect("a simulation");
        let mut peers = Vec::new();
        let mut expected = Vec::new();
        for _ in 0..rng.usize(1..4) {
            let peer = sim.connect();
            let mut payloads = Vec::new();
            for n in 0..rng.usize(0..20) {
                let len = world::len(&mut rng).max(1);
                let when = ["now", "later", "limits"][rng.usize(..3)];
                let mut message = format!("{when} {len}\n").into_bytes();
                message.resize(message.len() + len, n as u8);
                payloads.resize(payloads.len() + len, n as u8);
                sim.send(peer, message);
                if rng.bool() {
                    sim.run_for(Duration::from_micros(rng.u64(..10_000)));
                }
            }
            sim.shutdown(peer);
            peers.push(peer);
            expected.push(payloads);
        }
        // A shutdown would close those that wait for a timer.
        sim.run_until(Duration::from_secs(10_000), |sim| {
            peers.iter().all(|peer| sim.is_closed(*peer))
        });
        sim.finish();
        for (peer, expected) in peers.iter().zip(&expected) {
            let received = sim.received(*peer);
            assert!(expected.starts_with(received), "other bytes");
            if sim.ending(*peer) == Ending::Finished {
                assert_eq!(received.len(), expected.len(), "all payloads come back");
            }
        }
        ledger.check(&sim, &peers);
    });
}
