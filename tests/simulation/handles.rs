//! Requests by handles, as from other threads: in order, answered once, and harmless if they are late.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use epicycle::codec::Raw;
use epicycle::testing::{Ending, Peer, Simulation, each_seed};
use epicycle::{
    Action, CloseReason, Closed, Conn, ConnInfo, EventHandler, Handle, Reactor, WriteError,
};
use fastrand::Rng;

use super::ledger::Ledger;
use super::world;

struct Listener {
    ledger: Ledger,
    handles: Arc<Mutex<Vec<Handle<Listener>>>>,
}

impl EventHandler for Listener {
    type Codec = Raw;
    type Session = usize;

    fn codec(&mut self, _: &ConnInfo<'_>) -> Raw {
        Raw
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<usize> {
        self.handles.lock().expect("a lock").push(conn.handle());
        Some(self.ledger.open(conn))
    }

    fn react(&mut self, _: &mut Conn<'_, Self>, _: &mut usize, _: &[u8]) -> Action {
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

#[test]
fn what_handles_write_arrives_in_order_until_the_connection_is_closed() {
    each_seed(0..1000, |seed| {
        let mut rng = Rng::with_seed(seed);
        let ledger = Ledger::default();
        let handles = Arc::default();
        let (server, link) = (world::server(&mut rng), world::link(&mut rng));
        let mut sim = Simulation::new(seed, link, server, |_| Listener {
            ledger: ledger.clone(),
            handles: Arc::clone(&handles),
        })
        .expect("a simulation");
        let peers: Vec<Peer> = (0..rng.usize(1..5)).map(|_| sim.connect()).collect();
        sim.run_for(Duration::from_millis(10));
        let handles = std::mem::take(&mut *handles.lock().expect("a lock"));

        let (mut asked, answered) = (0, Arc::new(AtomicUsize::new(0)));
        // What was asked for before the connection was asked to close.
        let mut asked_for = vec![Vec::new(); handles.len()];
        let mut open = vec![true; handles.len()];
        for n in 0..rng.usize(0..60) {
            let which = rng.usize(..handles.len());
            let handle = &handles[which];
            let mut message = vec![0; world::len(&mut rng)];
            message.fill(n as u8);
            let taken = match rng.u32(..20) {
                0 => {
                    open[which] &= handle.close().is_err();
                    false
                }
                1 if rng.u32(..4) == 0 => {
                    open[which] &= handle.abort().is_err();
                    false
                }
                2..6 => {
                    let told = answered.clone();
                    let tell = move |_: Result<(), WriteError>| {
                        told.fetch_add(1, Ordering::Relaxed);
                    };
                    let taken = handle.write_flushed(message.clone(), tell).is_ok();
                    asked += usize::from(taken);
                    taken
                }
                6..10 => {
                    let message = message.clone();
                    let write = move |_: &mut _, conn: &mut Conn<'_, Listener>, _: &mut usize| {
                        conn.write(&message).expect("an open connection");
                    };
                    open[which] && handle.run(write).is_ok()
                }
                _ => handle.write(message.clone()).is_ok(),
            };
            if taken && open[which] {
                asked_for[which].extend(message);
            }
            if rng.bool() {
                sim.run_for(Duration::from_micros(rng.u64(..10_000)));
            }
        }
        sim.finish();
        assert_eq!(
            answered.load(Ordering::Relaxed),
            asked,
            "each is answered once"
        );
        for (handle, asked_for) in handles.iter().zip(&asked_for) {
            assert!(!handle.is_open());
            assert!(handle.write("late").is_err());
            let peer = peers[ledger.peer_of(handle.id())];
            let received = sim.received(peer);
            assert!(asked_for.starts_with(received), "another order");
            if sim.ending(peer) == Ending::Finished {
                assert_eq!(received.len(), asked_for.len(), "lost before the close");
            }
        }
        ledger.check(&sim, &peers);
    });
}
