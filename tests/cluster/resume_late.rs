//! Users on their way to a gate whose locator answers late.

use std::cell::Cell;
use std::sync::atomic::Ordering;

use epicycle::cluster::Event;
use epicycle::cluster::drpc::{Code, Request, Scope, Targets};
use epicycle::cluster::locator::Locator;
use epicycle::cluster::packet::{Control, ResumeRefusal};

use crate::gate_users::Faulty;
use crate::resume::{ECHO, LOGIN, NEWS, Player, TOKEN, World, options};
use crate::rig::{Link, packet, user};
use crate::util::eventually;

/// Two gates of one reactor. Each asks the locator in its own way.
fn world() -> (World, [Faulty; 2]) {
    let first = Faulty::default();
    let second = Faulty {
        inner: first.inner.clone(),
        ..Faulty::default()
    };
    let locators = [first, second];
    let started = Cell::new(0);
    let world = World::with(
        |gate| {
            let locator = locators[started.replace(started.get() + 1)].clone();
            gate.resume(options()).reactors(1).locator(locator)
        },
        |node| node.locator(locators[0].inner.clone()),
    );
    (world, locators)
}

/// Begins to take a user back at the second gate, and waits until its locator is asked.
fn resume(world: &World, old: &Player, locator: &Faulty) -> Player {
    let mut new = world.connect(1);
    let (token, last) = (&*old.token, old.count);
    new.control(&Control::Resume { token, last });
    new.count = last;
    let mut link = Link::dial(world.gates[1].link_addr(), "node-2");
    eventually("it is about to come back", || {
        locator.asked.load(Ordering::Acquire) > 0 && link.is_online(user(7))
    });
    new
}

fn returns(world: &World) -> usize {
    let told = world.told();
    let returns = told.iter().filter(|told| told.0 == Event::Reconnect);
    returns.count()
}

#[test]
fn a_client_whose_user_is_unbound_on_its_way_is_told_so_and_goes_on() {
    let (world, locators) = world();
    let old = world.player(0, 7);
    old.cut();
    world.await_away(0, 1);
    locators[1].waits.store(true, Ordering::Release);
    let mut new = resume(&world, &old, &locators[1]);
    let mut link = Link::dial(world.gates[1].link_addr(), "node-2");
    assert_eq!(link.call(&Request::Unbind { uid: 7 }), Code::Done);
    locators[1].waits.store(false, Ordering::Release);
    assert_eq!(new.resumed(), Err(ResumeRefusal::Expired));
    eventually("the locator forgets the user", || {
        let located = locators[1].inner.locate_gate(7);
        located.expect("is in memory").is_none()
    });
    assert_eq!(returns(&world), 1);
    let new = Player::login(new, 8);
    assert!(!world.is_online(7) && world.is_online(8));
    drop(new);
}

#[test]
fn a_login_that_overtakes_a_user_on_its_way_is_the_only_one_that_has_it() {
    let (world, locators) = world();
    let old = world.player(0, 7);
    old.cut();
    world.await_away(0, 1);
    locators[1].waits.store(true, Ordering::Release);
    let mut rival = world.connect(1);
    rival.wire.send(packet(LOGIN, 1, "7"));
    eventually("the login waits for the locator", || {
        locators[1].asked.load(Ordering::Acquire) > 0
    });
    let mut new = resume(&world, &old, &locators[1]);
    locators[1].waits.store(false, Ordering::Release);
    assert_eq!(new.resumed(), Err(ResumeRefusal::Expired));
    new.wire.send(packet(ECHO, 2, "\"nobody\""));
    new.expect(ECHO, "\"0 nobody\"");
    while rival.cid == 0 {
        match rival.next() {
            (LOGIN, cid) => rival.cid = cid.parse().expect("is a number"),
            (route, data) => assert_eq!(route, TOKEN, "{data}"),
        }
    }
    world.push(user(7), "for the login");
    while let (route, data) = rival.next()
        && route != NEWS
    {
        assert_eq!(route, TOKEN, "{data}");
    }
    assert_eq!(world.gates[1].stats().users, 1);
}

#[test]
fn a_user_whose_new_gate_waits_long_for_its_locator_misses_nothing() {
    let (world, locators) = world();
    let old = world.player(0, 7);
    old.cut();
    world.await_away(0, 1);
    let asked = || locators[0].asked.load(Ordering::Acquire);
    let before = asked();
    let kept = || world.gates[0].stats().resume_bytes;
    let kept_before = kept();
    world.push(user(7), "before");
    eventually("it is kept", || kept() > kept_before);
    locators[1].waits.store(true, Ordering::Release);
    let mut new = resume(&world, &old, &locators[1]);
    eventually("the old gate has asked for it", || asked() > before);
    world.push(user(7), "meanwhile");
    eventually("the old gate has asked again", || asked() > before + 1);
    locators[1].waits.store(false, Ordering::Release);
    assert_eq!(new.resumed(), Ok(1));
    new.expect_news("before");
    new.expect_news("meanwhile");
    new.take_token();
    eventually("the old connection is forgotten", || {
        world.gates[0].stats().away == 0
    });
    assert!(world.disconnects().is_empty(), "{:?}", world.told());
}

#[test]
fn a_refused_client_stays_in_the_channels_that_it_was_in() {
    let world = World::new(options());
    let old = world.player(0, 7);
    let _newer = world.player(0, 7);
    let mut new = world.connect(0);
    new.wire.send(packet(ECHO, 1, "\"hi\""));
    new.expect(ECHO, "\"0 hi\"");
    let told = world.told();
    let connected = told.iter().rfind(|told| told.0 == Event::Connect);
    let cid = connected.expect("is told").2;
    let mut link = Link::dial(world.gates[0].link_addr(), "node-2");
    let joined = link.call(&Request::Subscribe {
        scope: Scope::Conn,
        targets: Targets::from(&[cid]),
        channel: "lobby",
    });
    assert_eq!(joined, Code::Done);
    // The user has another connection, which the gate finds out on its reactor.
    let (token, last) = (&*old.token, old.count);
    new.control(&Control::Resume { token, last });
    assert_eq!(new.resumed(), Err(ResumeRefusal::Expired));
    let packet = packet(NEWS, 0, "\"for the lobby\"");
    let published = link.total(&Request::Publish {
        channel: "lobby",
        disconnect: false,
        packet: &packet,
    });
    assert_eq!(published, 1);
    new.expect_news("for the lobby");
}
