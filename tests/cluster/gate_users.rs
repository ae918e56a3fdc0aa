//! Users: their binds, with the locator, and logins on a second connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use epicycle::cluster::drpc::{Code, Request};
use epicycle::cluster::gate::{DuplicateLogin, Gate, RefusedPacket};
use epicycle::cluster::locator::{LocationEvent, Locator, MemoryLocator};
use epicycle::cluster::registry::Registry;
use epicycle::cluster::{Error, Watch, WatchSender, watch};
use parking_lot::Mutex;

use crate::gate::World;
use crate::rig::{Link, Told, Wire, packet, user};
use crate::util::eventually;

const HEARTBEAT: &[u8] = b"\0\0\0\x01\x80";
/// Goodbye: logged in elsewhere, again at once.
const REPLACED: &[u8] = b"\0\0\0\x0a\x01\0\x04\0\0\x02\0\0\0\0";
/// A control packet of a later version, with which a client tells that it knows control packets.
const CONTROL: &[u8] = b"\0\0\0\x05\x01\0\x63\0\0";

fn event(event: u8, cid: i64, uid: i64) -> Told {
    Told::Event { event, cid, uid }
}

fn is_open(client: &mut Wire) {
    client.send(HEARTBEAT);
    client.expect(HEARTBEAT);
}

#[test]
fn nodes_are_told_of_a_connection_before_its_first_packet_of_its_user_before_those_that_have_it_and_of_its_end_last()
 {
    let world = World::new();
    let mut link = world.link();
    let (mut client, cid) = world.known_client("a");
    assert_eq!(link.bind(cid, 7), Code::Done);
    client.send(packet(4, 2, "b"));
    world.node.await_packet("b");
    // Again, as due does it.
    assert_eq!(link.bind(cid, 7), Code::Done);
    assert_eq!(link.bind(cid, 8), Code::Done);
    assert!(!link.is_online(user(7)));
    client.send(packet(4, 3, "c"));
    drop(client);
    let told = world.node.await_told(7 + 1);
    let packet = |uid, route, seq, data: &str| Told::Packet {
        cid,
        uid,
        route,
        seq,
        data: data.to_owned(),
    };
    let expected = [
        event(1, cid, 0),
        packet(0, 1, 1, "a"),
        event(2, cid, 7),
        packet(7, 4, 2, "b"),
        event(2, cid, 7),
        event(2, cid, 8),
        packet(8, 4, 3, "c"),
        event(3, cid, 8),
    ];
    assert_eq!(told, expected);
    eventually("the locator forgets both", || {
        let located = |uid| world.locator.locate_gate(uid).expect("is in memory");
        located(7).is_none() && located(8).is_none()
    });
}

#[test]
fn the_locator_knows_a_user_when_the_bind_is_answered_and_not_when_the_unbind_is() {
    let world = World::with(|gate| gate.reactors(2));
    let mut link = world.link();
    let (_client, cid) = world.known_client("a");
    let located = || world.locator.locate_gate(7).expect("is in memory");
    for _ in 0..20 {
        assert_eq!(link.bind(cid, 7), Code::Done);
        assert_eq!(located().as_deref(), Some("gate-1"));
        assert_eq!(link.call(&Request::Unbind { uid: 7 }), Code::Done);
        assert_eq!(located(), None);
    }
    assert_eq!(link.call(&Request::Unbind { uid: 7 }), Code::NotFound);
    assert_eq!(link.bind(cid + 1024, 7), Code::NotFound);
    assert_eq!(link.bind(cid ^ 1023, 7), Code::NotFound, "on no reactor");
}

#[test]
fn a_second_login_takes_the_user_from_the_first_connection_and_closes_it() {
    let world = World::with(|gate| gate.reactors(2));
    let mut link = world.link();
    let (mut old, old_cid) = world.known_client("old");
    old.send(CONTROL);
    is_open(&mut old);
    let (mut new, new_cid) = world.known_client("new");
    assert_eq!(link.bind(old_cid, 7), Code::Done);
    assert_eq!(link.bind(new_cid, 7), Code::Done);
    old.expect(REPLACED);
    assert!(old.is_over());
    eventually("its end is told", || {
        world.node.told().contains(&event(3, old_cid, 0))
    });
    let hello = packet(100, 0, "hello");
    let push = Request::Push {
        target: user(7),
        disconnect: false,
        packet: &hello,
    };
    assert_eq!(link.call(&push), Code::Done);
    new.expect(&hello);
    let located = world.locator.locate_gate(7).expect("is in memory");
    assert_eq!(
        located.as_deref(),
        Some("gate-1"),
        "the end of the old one changes nothing"
    );
    // One that has not sent a control packet gets none.
    let (_newest, newest_cid) = world.known_client("newest");
    assert_eq!(link.bind(newest_cid, 7), Code::Done);
    assert_eq!(new.next(), None);
    eventually("both are counted", || world.gate.stats().replaced == 2);
}

#[test]
fn a_second_login_leaves_the_first_connection_without_a_user_or_is_refused_if_so_chosen() {
    let world = World::with(|gate| gate.duplicate_login(DuplicateLogin::Unbind));
    let mut link = world.link();
    let (mut old, old_cid) = world.known_client("old");
    let (_new, new_cid) = world.known_client("new");
    assert_eq!(link.bind(old_cid, 7), Code::Done);
    assert_eq!(link.bind(new_cid, 7), Code::Done);
    eventually("it has lost the user", || world.gate.stats().replaced == 1);
    old.send(packet(1, 2, "nobody"));
    assert_eq!(world.node.await_packet("nobody"), (old_cid, 0));
    drop(old);
    eventually("its end is told", || {
        world.node.told().contains(&event(3, old_cid, 0))
    });
    assert!(link.is_online(user(7)));

    let world = World::with(|gate| gate.duplicate_login(DuplicateLogin::Refuse));
    let mut link = world.link();
    let (old, old_cid) = world.known_client("old");
    let (_new, new_cid) = world.known_client("new");
    assert_eq!(link.bind(old_cid, 7), Code::Done);
    assert_eq!(link.bind(new_cid, 7), Code::Failed);
    assert_eq!(link.bind(old_cid, 7), Code::Done, "it is its own");
    drop(old);
    eventually("the user is free", || link.bind(new_cid, 7) == Code::Done);
}

#[test]
fn a_gate_that_stops_says_goodbye_leaves_the_registry_and_has_its_users_forgotten() {
    let world = World::new();
    let (mut client, cid) = world.known_client("a");
    client.send(CONTROL);
    is_open(&mut client);
    assert_eq!(world.link().bind(cid, 7), Code::Done);
    let World {
        gate,
        node,
        registry,
        locator,
    } = world;
    let reader = thread::spawn(move || {
        // Goodbye: about to stop.
        client.expect(b"\0\0\0\x0a\x01\0\x04\0\0\x01\0\0\0\0");
        assert!(client.is_over());
    });
    gate.shutdown();
    reader.join().expect("it is told");
    assert!(registry.services("gate").expect("is in memory").is_empty());
    assert_eq!(locator.locate_gate(7).expect("is in memory"), None);
    drop(node);
}

/// A second gate of the same cluster.
fn second_gate(world: &World, policy: DuplicateLogin) -> Gate {
    let gate = Gate::builder()
        .id("gate-2")
        .listen("tcp://127.0.0.1:0")
        .registry(world.registry.clone())
        .locator(world.locator.clone())
        .duplicate_login(policy);
    gate.start().expect("starts")
}

fn client_of(gate: &Gate, world: &World, name: &str) -> (Wire, i64) {
    let mut client = Wire::connect(&gate.client_addrs()[0]);
    client.send(packet(1, 1, name));
    let (cid, _) = world.node.await_packet(name);
    (client, cid)
}

#[test]
fn a_second_login_at_another_gate_has_the_same_effect_and_the_newer_one_stays() {
    let world = World::new();
    let gate = second_gate(&world, DuplicateLogin::Replace);
    let mut links = [world.link(), Link::dial(gate.link_addr(), "fake-1")];
    for round in 0..5 {
        let (mut old, old_cid) = world.known_client(&format!("old {round}"));
        let (mut new, new_cid) = client_of(&gate, &world, &format!("new {round}"));
        assert_eq!(links[0].bind(old_cid, 7), Code::Done);
        assert_eq!(links[1].bind(new_cid, 7), Code::Done);
        assert!(old.is_over());
        is_open(&mut new);
        assert!(!links[0].is_online(user(7)));
        assert!(links[1].is_online(user(7)));
        let located = world.locator.locate_gate(7).expect("is in memory");
        assert_eq!(located.as_deref(), Some("gate-2"));
        // And back.
        let (mut back, back_cid) = world.known_client(&format!("back {round}"));
        assert_eq!(links[0].bind(back_cid, 7), Code::Done);
        assert!(new.is_over());
        is_open(&mut back);
        assert!(links[0].is_online(user(7)));
    }
}

#[test]
fn a_user_at_another_gate_is_not_bound_here_if_second_logins_are_refused_unless_that_gate_is_gone()
{
    let world = World::with(|gate| gate.duplicate_login(DuplicateLogin::Refuse));
    let gate = second_gate(&world, DuplicateLogin::Refuse);
    let (_there, there) = client_of(&gate, &world, "there");
    let (_here, here) = world.known_client("here");
    let mut link = world.link();
    assert_eq!(
        Link::dial(gate.link_addr(), "fake-1").bind(there, 7),
        Code::Done
    );
    assert_eq!(link.bind(here, 7), Code::Failed);
    world.locator.bind_gate(8, "gate-9").expect("is in memory");
    assert_eq!(
        link.bind(here, 8),
        Code::Done,
        "nobody has ever heard of that gate"
    );
}

/// A locator that can be made to fail, to panic, and to wait.
#[derive(Clone, Default)]
pub(crate) struct Faulty {
    pub(crate) inner: MemoryLocator,
    pub(crate) fails: Arc<AtomicBool>,
    pub(crate) panics: Arc<AtomicBool>,
    pub(crate) waits: Arc<AtomicBool>,
    /// The number of questions.
    pub(crate) asked: Arc<AtomicUsize>,
    /// The number of times that a user's node was asked for.
    pub(crate) answers: Arc<AtomicUsize>,
    /// The number of those answers that it gives. It keeps back the others.
    pub(crate) gives: Arc<Mutex<Option<usize>>>,
    /// The watches, if they tell only what the test tells.
    pub(crate) watches: Option<Arc<Mutex<Vec<WatchSender<LocationEvent>>>>>,
}

impl Faulty {
    fn ask<R>(&self, ask: impl FnOnce(&MemoryLocator) -> Result<R, Error>) -> Result<R, Error> {
        self.asked.fetch_add(1, Ordering::AcqRel);
        while self.waits.load(Ordering::Acquire) {
            thread::sleep(Duration::from_millis(1));
        }
        if self.fails.load(Ordering::Acquire) {
            return Err(Error::Backend {
                backend: "locator",
                problem: "it fails on purpose".to_owned(),
            });
        }
        assert!(!self.panics.load(Ordering::Acquire), "it panics on purpose");
        ask(&self.inner)
    }
}

impl Locator for Faulty {
    fn bind_gate(&self, uid: i64, gid: &str) -> Result<(), Error> {
        self.ask(|inner| inner.bind_gate(uid, gid))
    }

    fn unbind_gate(&self, uid: i64, gid: &str) -> Result<bool, Error> {
        self.ask(|inner| inner.unbind_gate(uid, gid))
    }

    fn bind_node(&self, uid: i64, alias: &str, nid: &str) -> Result<(), Error> {
        self.ask(|inner| inner.bind_node(uid, alias, nid))
    }

    fn unbind_node(&self, uid: i64, alias: &str, nid: &str) -> Result<bool, Error> {
        self.ask(|inner| inner.unbind_node(uid, alias, nid))
    }

    fn locate_gate(&self, uid: i64) -> Result<Option<String>, Error> {
        self.ask(|inner| inner.locate_gate(uid))
    }

    fn locate_node(&self, uid: i64, alias: &str) -> Result<Option<String>, Error> {
        let answer = self.ask(|inner| inner.locate_node(uid, alias));
        let number = self.answers.fetch_add(1, Ordering::AcqRel) + 1;
        while self.gives.lock().is_some_and(|gives| gives < number) {
            thread::sleep(Duration::from_millis(1));
        }
        answer
    }

    fn locate_nodes(&self, uid: i64) -> Result<Vec<(String, String)>, Error> {
        self.ask(|inner| inner.locate_nodes(uid))
    }

    fn watch(&self) -> Result<Watch<LocationEvent>, Error> {
        let Some(watches) = &self.watches else {
            return self.inner.watch();
        };
        let (sender, watch) = watch();
        watches.lock().push(sender);
        Ok(watch)
    }
}

fn faulty() -> (World, Faulty) {
    faulty_with(None)
}

fn faulty_with(watches: Option<Arc<Mutex<Vec<WatchSender<LocationEvent>>>>>) -> (World, Faulty) {
    let faulty = Faulty {
        watches,
        ..Faulty::default()
    };
    let world = World::with(|gate| gate.locator(faulty.clone()));
    (world, faulty)
}

#[test]
fn a_bind_that_the_locator_does_not_confirm_changes_nothing() {
    let (world, locator) = faulty();
    let mut link = world.link();
    let (mut client, cid) = world.known_client("a");
    locator.fails.store(true, Ordering::Release);
    assert_eq!(link.bind(cid, 7), Code::Failed);
    client.send(packet(1, 2, "nobody"));
    assert_eq!(world.node.await_packet("nobody"), (cid, 0));
    assert!(!link.is_online(user(7)));
    assert!(!world.node.told().contains(&event(2, cid, 7)));
    locator.fails.store(false, Ordering::Release);
    assert_eq!(link.bind(cid, 7), Code::Done);
}

#[test]
fn a_locator_that_panics_fails_the_bind_and_holds_no_client_up() {
    let (world, locator) = faulty();
    let mut link = world.link();
    let (mut client, cid) = world.known_client("a");
    locator.panics.store(true, Ordering::Release);
    assert_eq!(link.bind(cid, 7), Code::Failed);
    client.send(packet(1, 2, "goes on"));
    assert_eq!(world.node.await_packet("goes on"), (cid, 0));
    locator.panics.store(false, Ordering::Release);
    assert_eq!(link.bind(cid, 7), Code::Done);
    // A look-up for a packet of a stateful route.
    locator.panics.store(true, Ordering::Release);
    client.send(packet(3, 3, "is refused"));
    client.send(packet(1, 4, "goes on again"));
    assert_eq!(world.node.await_packet("goes on again"), (cid, 7));
    assert_eq!(world.gate.stats().refused[RefusedPacket::Busy], 1);
    locator.panics.store(false, Ordering::Release);
}

#[test]
fn a_bind_whose_connection_ends_meanwhile_leaves_no_user_behind() {
    let (world, locator) = faulty();
    let mut link = world.link();
    let (client, cid) = world.known_client("a");
    locator.waits.store(true, Ordering::Release);
    link.send(50, &Request::Bind { cid, uid: 7 });
    drop(client);
    eventually("its end is told", || {
        world.node.told().contains(&event(3, cid, 0))
    });
    locator.waits.store(false, Ordering::Release);
    let mut expected = Vec::new();
    let answer = epicycle::cluster::drpc::Answer::new(2, Code::NotFound);
    answer.encode_into(50, &mut expected).expect("is sound");
    link.wire.expect(expected);
    eventually("the locator forgets it", || {
        locator
            .inner
            .locate_gate(7)
            .expect("is in memory")
            .is_none()
    });
}

#[test]
fn packets_wait_for_the_locator_in_their_order_and_go_to_the_node_of_their_user() {
    let (world, locator) = faulty();
    let mut link = world.link();
    let (mut client, cid) = world.known_client("a");
    assert_eq!(link.bind(cid, 7), Code::Done);
    locator
        .inner
        .bind_node(7, "node", "node-1")
        .expect("is in memory");
    locator.waits.store(true, Ordering::Release);
    client.send(packet(3, 2, "b"));
    client.send(packet(1, 3, "c"));
    client.send(packet(3, 4, "d"));
    // Others do not wait.
    let (_other, _) = world.known_client("other");
    assert_eq!(world.node.packets(cid), ["a"]);
    locator.waits.store(false, Ordering::Release);
    world.node.await_packet("d");
    assert_eq!(world.node.packets(cid), ["a", "b", "c", "d"]);
}

#[test]
fn a_change_that_an_own_bind_has_overtaken_takes_nobody_away() {
    let (world, locator) = faulty();
    let mut link = world.link();
    let (mut client, cid) = world.known_client("a");
    let (mut other, other_cid) = world.known_client("b");
    assert_eq!(link.bind(cid, 7), Code::Done);
    assert_eq!(link.bind(other_cid, 8), Code::Done);
    // The gate is told of the first change when the second has been made.
    locator.waits.store(true, Ordering::Release);
    for (uid, gid) in [(7, "gate-2"), (7, "gate-1"), (8, "gate-2")] {
        locator.inner.bind_gate(uid, gid).expect("is in memory");
    }
    locator.waits.store(false, Ordering::Release);
    assert!(other.is_over(), "it is at the other gate");
    is_open(&mut client);
    assert!(link.is_online(user(7)));
}

#[test]
fn users_that_another_gate_has_bound_while_the_watch_was_interrupted_are_found() {
    let watches = Arc::new(Mutex::new(Vec::new()));
    let (world, locator) = faulty_with(Some(watches.clone()));
    let mut link = world.link();
    let (mut client, cid) = world.known_client("a");
    let (mut other, other_cid) = world.known_client("b");
    assert_eq!(link.bind(cid, 7), Code::Done);
    assert_eq!(link.bind(other_cid, 8), Code::Done);
    locator.inner.bind_gate(8, "gate-2").expect("is in memory");
    for watch in watches.lock().iter() {
        assert!(watch.push(LocationEvent::Interrupted, 10));
    }
    assert!(other.is_over(), "it is at the other gate");
    is_open(&mut client);
}
