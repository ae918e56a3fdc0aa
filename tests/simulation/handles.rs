//! Requests by handles, as from other threads: in order, answered once, and harmless if they are late.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use epicycle::codec::Raw;
use epicycle::testing::{Ending, Peer, Simulation, World, each_seed};
use epicycle::{
    Action, Bytes, CloseReason, Closed, Conn, ConnInfo, EventHandler, Handle, HandleError, Outlet,
    Reactor, Service, WriteError, service,
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

/// Registers its connections, as any handler can.
fn member(members: &Rc<RefCell<Vec<Outlet>>>) -> impl Fn(usize) -> Service + use<> {
    let members = members.clone();
    move |_| {
        let members = members.clone();
        service(move |conn, bytes| {
            if bytes == b"?" {
                members.borrow_mut().push(conn.outlet());
            }
            Action::Continue
        })
    }
}

#[test]
fn outlets_of_several_engines_keep_the_promises_of_handles() {
    let (mut closed, mut delivered) = (0, 0);
    each_seed(0..500, |seed| {
        let mut rng = Rng::with_seed(seed);
        let link = world::link(&mut rng);
        let mut world = World::new(seed, link).expect("a world");
        let members = Rc::<RefCell<Vec<Outlet>>>::default();
        let handles = Arc::<Mutex<Vec<Handle<Listener>>>>::default();
        let server = world::server_on("tcp://:1", &mut rng).reactors(2);
        let one = world.start([192, 168, 0, 1], server, member(&members));
        let one = one.expect("an engine");
        let ledger = Ledger::default();
        let listener = |_| Listener {
            ledger: ledger.clone(),
            handles: handles.clone(),
        };
        let server = world::server_on("tcp://:1", &mut rng);
        let two = world.start([192, 168, 0, 2], server, listener);
        let two = two.expect("an engine");

        // One at a time, so that the place in the registry is known.
        let (mut peers, mut engines) = (Vec::new(), Vec::new());
        for _ in 0..6 {
            let known = members.borrow().len();
            let engine = rng.u32(1..=2);
            let peer = match engine {
                1 => world.connect((one, 1)),
                _ => world.connect((two, 1)),
            };
            world.send(peer, "?");
            world.run_for(Duration::from_secs(1));
            let new = std::mem::take(&mut *handles.lock().expect("a lock"));
            members.borrow_mut().extend(new.iter().map(Handle::outlet));
            // The link may have reset it.
            if members.borrow().len() > known {
                peers.push(peer);
                engines.push(engine);
            }
        }
        let outlets = members.take();
        assert_eq!(outlets.len(), peers.len());

        let (mut taken, called) = (0, Arc::new(AtomicUsize::new(0)));
        let mut expected = vec![Vec::new(); outlets.len()];
        let mut shut = vec![false; outlets.len()];
        for n in 0..rng.u8(1..40) {
            let message = Bytes::from(vec![n; world::len(&mut rng)]);
            for (at, outlet) in outlets.iter().enumerate() {
                let result = match rng.u32(..40) {
                    0 => {
                        shut[at] |= outlet.close().is_ok();
                        continue;
                    }
                    1 => {
                        shut[at] |= outlet.abort().is_ok();
                        continue;
                    }
                    2..20 => {
                        let called = called.clone();
                        let done = move |_: Result<(), WriteError>| {
                            called.fetch_add(1, Ordering::Relaxed);
                        };
                        let result = outlet.write_flushed(message.clone(), done);
                        taken += usize::from(result.is_ok());
                        result
                    }
                    _ => outlet.write(message.clone()),
                };
                match result {
                    Ok(()) if !shut[at] => expected[at].extend(&message),
                    Ok(()) => {}
                    Err(HandleError::Closed) => closed += 1,
                    Err(error) => panic!("refused: {error}"),
                }
            }
            world.run_for(Duration::from_micros(rng.u64(..20_000)));
        }
        world.finish(one);
        for (outlet, engine) in outlets.iter().zip(&engines) {
            assert!(*engine == 2 || !outlet.is_open(), "its engine has ended");
        }
        world.finish(two);
        assert_eq!(called.load(Ordering::Relaxed), taken, "each is called once");
        for ((outlet, peer), expected) in outlets.iter().zip(&peers).zip(&expected) {
            assert!(!outlet.is_open());
            assert_eq!(outlet.write("late"), Err(HandleError::Closed));
            let received = world.received(*peer);
            assert!(expected.starts_with(received), "another order");
            if world.ending(*peer) == Ending::Finished {
                assert_eq!(received.len(), expected.len(), "lost before the close");
                delivered += received.len();
            }
        }
    });
    assert!(closed > 0 && delivered > 0);
}
