//! Rooms: members, lost connections, the clock and broadcasts.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use epicycle::cluster::client::Client;
use epicycle::cluster::node::{
    ActorRef, HandlerError, NodeBuilder, Room, RoomContext, RoomOptions, RoomRoutes, Tick,
};
use epicycle::cluster::{Error, Event};
use serde_json::json;

use crate::node::{Embedded, ask};
use crate::node_verbs::{listener, tell, with_login};
use crate::util::{LONG, eventually};

/// A room that tells what happens in it.
struct Hall {
    told: Sender<String>,
    ticks: Sender<Tick>,
}

impl Hall {
    fn new(told: Sender<String>) -> Self {
        Self {
            told,
            ticks: channel().0,
        }
    }

    fn tell(&self, what: String) -> Result<(), HandlerError> {
        // The test may have seen enough.
        let _ = self.told.send(what);
        Ok(())
    }
}

impl Room for Hall {
    fn routes(routes: &mut RoomRoutes<'_, Self>) {
        routes
            .route(20, |_, cx| {
                let text: String = cx.parse()?;
                cx.broadcast(50, &text)?;
                let members = cx.members();
                cx.respond(&members)
            })
            .route(21, |_, cx| {
                let was_member = cx.leave(cx.uid());
                cx.respond(&was_member)
            });
    }

    fn on_join(&mut self, cx: &mut RoomContext<'_, Self>, uid: i64) -> Result<(), HandlerError> {
        assert!(cx.is_member(uid));
        self.tell(format!("{uid} joins"))
    }

    fn on_lost(&mut self, cx: &mut RoomContext<'_, Self>, uid: i64) -> Result<(), HandlerError> {
        assert!(cx.is_member(uid), "it stays for the window");
        self.tell(format!("{uid} is lost"))
    }

    fn on_reconnect(
        &mut self,
        _: &mut RoomContext<'_, Self>,
        uid: i64,
    ) -> Result<(), HandlerError> {
        self.tell(format!("{uid} is back"))?;
        Err("the error of a hook, which costs nothing else".into())
    }

    fn on_leave(&mut self, cx: &mut RoomContext<'_, Self>, uid: i64) -> Result<(), HandlerError> {
        assert!(!cx.is_member(uid));
        self.tell(format!("{uid} leaves"))
    }

    fn on_tick(&mut self, _: &mut RoomContext<'_, Self>, tick: Tick) -> Result<(), HandlerError> {
        let _ = self.ticks.send(tick);
        Ok(())
    }

    fn on_stop(&mut self, cx: &mut RoomContext<'_, Self>) {
        let _ = self.tell(format!("stops with {:?}", cx.members()));
    }
}

fn without_reconnect<T: 'static>(node: NodeBuilder<T>) -> NodeBuilder<T> {
    with_login(node)
        .route(5, |_, cx| {
            let hall = cx.actor("hall", "1").ok_or(Error::Cancelled)?;
            let joined = hall.join::<Hall>(cx.uid());
            tell(cx, joined)
        })
        .route(20, |_, cx| cx.next())
        .route(21, |_, cx| cx.next())
        .event(Event::Disconnect, |_, cx| cx.next())
}

fn rooms<T: 'static>(node: NodeBuilder<T>) -> NodeBuilder<T> {
    without_reconnect(node).event(Event::Reconnect, |_, cx| cx.next())
}

struct Opened {
    world: Embedded,
    told: Receiver<String>,
    ticks: Receiver<Tick>,
}

impl Opened {
    fn new(options: RoomOptions) -> Self {
        Self::at(Embedded::new(rooms), options)
    }

    fn at(world: Embedded, options: RoomOptions) -> Self {
        let ((tell, told), (tick, ticks)) = (channel(), channel());
        let hall = Hall {
            told: tell,
            ticks: tick,
        };
        let spawned = world
            .node
            .later()
            .run(move |cx| cx.spawn_room(options, "hall", "1", hall).map(drop));
        spawned.expect("has room");
        eventually("it is there", || world.node.actor("hall", "1").is_some());
        Self { world, told, ticks }
    }

    fn expect(&self, what: &str) {
        assert_eq!(self.told.recv_timeout(LONG).as_deref(), Ok(what));
    }

    fn join(&self, client: &Client, uid: i64) {
        assert_eq!(ask(client, 2, &json!(uid)), "ok");
        assert_eq!(ask(client, 5, &json!(0)), "ok");
        self.expect(&format!("{uid} joins"));
    }
}

#[test]
fn members_get_what_is_broadcast_and_no_one_else_does() {
    let hall = Opened::new(RoomOptions::default());
    let (seven, of_seven) = listener(&hall.world.gate);
    let (eight, of_eight) = listener(&hall.world.gate);
    let (nine, of_nine) = listener(&hall.world.gate);
    hall.join(&seven, 7);
    hall.join(&eight, 8);
    assert_eq!(ask(&nine, 2, &json!(9)), "ok");
    assert_eq!(ask(&seven, 20, &json!("hello")), json!([7, 8]));
    for pushes in [&of_seven, &of_eight] {
        assert_eq!(pushes.recv_timeout(LONG), Ok(json!("hello")));
    }
    // Joining twice is joining once.
    assert_eq!(ask(&seven, 5, &json!(0)), "ok");
    assert_eq!(ask(&eight, 21, &json!(0)), true);
    hall.expect("8 leaves");
    assert_eq!(ask(&seven, 20, &json!("bye")), json!([7]));
    assert_eq!(of_seven.recv_timeout(LONG), Ok(json!("bye")));
    // Nothing of it was sent to the others: what comes next is the end.
    drop((eight, nine));
    assert!(of_eight.iter().next().is_none() && of_nine.iter().next().is_none());
}

#[test]
fn a_member_that_lost_its_connection_stays_for_the_window_and_can_come_back() {
    let hall = Opened::new(RoomOptions::default().reconnect_window(LONG));
    let (seven, eight) = (hall.world.client(), hall.world.client());
    hall.join(&seven, 7);
    hall.join(&eight, 8);
    drop(seven);
    hall.expect("7 is lost");
    assert_eq!(ask(&eight, 20, &json!("there?")), json!([7, 8]));
    let again = hall.world.client();
    assert_eq!(ask(&again, 2, &json!(7)), "ok");
    hall.expect("7 is back");
    // It is bound to the room still.
    assert_eq!(ask(&again, 20, &json!("here")), json!([7, 8]));
}

#[test]
fn a_member_is_back_with_its_next_packet_which_is_handled_though_the_hook_fails() {
    let world = Embedded::new(without_reconnect);
    let hall = Opened::at(world, RoomOptions::default().reconnect_window(LONG));
    let seven = hall.world.client();
    hall.join(&seven, 7);
    drop(seven);
    hall.expect("7 is lost");
    let again = hall.world.client();
    assert_eq!(ask(&again, 2, &json!(7)), "ok");
    assert_eq!(ask(&again, 20, &json!("here")), json!([7]));
    hall.expect("7 is back");
    assert_eq!(hall.world.node.stats().handler_errors, 1);
}

#[test]
fn a_member_that_does_not_come_back_leaves_when_the_window_is_over() {
    let hall = Opened::new(RoomOptions::default().reconnect_window(Duration::from_millis(30)));
    let (seven, eight) = (hall.world.client(), hall.world.client());
    hall.join(&seven, 7);
    hall.join(&eight, 8);
    drop(seven);
    hall.expect("7 is lost");
    hall.expect("7 leaves");
    assert_eq!(ask(&eight, 20, &json!("alone")), json!([8]));
}

#[test]
fn a_full_room_takes_nobody_until_one_leaves() {
    let hall = Opened::new(RoomOptions::default().max_members(1));
    let (seven, eight) = (hall.world.client(), hall.world.client());
    hall.join(&seven, 7);
    assert_eq!(ask(&eight, 2, &json!(8)), "ok");
    assert_eq!(ask(&eight, 5, &json!(0)), "ok");
    eventually("it is refused", || {
        hall.world.node.stats().handler_errors == 1
    });
    assert_eq!(ask(&seven, 21, &json!(0)), true);
    hall.expect("7 leaves");
    assert_eq!(ask(&eight, 5, &json!(0)), "ok");
    hall.expect("8 joins");
}

#[test]
fn a_clock_ticks_with_a_fixed_step_until_the_room_ends() {
    let began = Instant::now();
    let hall = Opened::new(RoomOptions::default().tick(100));
    let mut lag = 0;
    for number in 1..=20 {
        let tick = hall.ticks.recv_timeout(LONG).expect("comes");
        lag += tick.lag;
        assert_eq!(
            (tick.number, tick.step),
            (number, Duration::from_millis(10))
        );
    }
    // None comes early, whatever the machine does.
    assert!(began.elapsed() >= Duration::from_millis(10) * (20 + lag as u32));
    hall.world.node.actor("hall", "1").expect("is there").kill();
    hall.expect("stops with []");
    eventually("no more come", || {
        let ended = hall.ticks.recv_timeout(LONG);
        ended.is_err_and(|error| error == std::sync::mpsc::RecvTimeoutError::Disconnected)
    });

    let too_fast = hall.world.node.later().run(|cx| {
        let options = RoomOptions::default().tick(1001);
        cx.spawn_room(options, "hall", "2", Hall::new(channel().0))
            .map(drop)
    });
    too_fast.expect("is taken");
    eventually("it is refused", || {
        hall.world.node.stats().handler_errors == 1
    });
    assert!(hall.world.node.actor("hall", "2").is_none());
}

#[test]
fn a_user_that_joins_after_its_end_was_told_has_lost_its_connection() {
    let hall = Opened::new(RoomOptions::default());
    let (seven, eight) = (hall.world.client(), hall.world.client());
    assert_eq!(ask(&seven, 2, &json!(7)), "ok");
    drop(seven);
    eventually("it is gone", || hall.world.gate.stats().connections == 1);
    let room = hall.world.node.actor("hall", "1").expect("is there");
    room.join::<Hall>(7).expect("has room");
    hall.expect("7 joins");
    hall.expect("7 is lost");
    hall.expect("7 leaves");
    // One that is connected stays, whoever has it join.
    assert_eq!(ask(&eight, 2, &json!(8)), "ok");
    room.join::<Hall>(8).expect("has room");
    hall.expect("8 joins");
    assert_eq!(ask(&eight, 20, &json!("there?")), json!([8]));
}

#[test]
fn a_room_is_told_when_its_member_joins_another_one() {
    let hall = Opened::new(RoomOptions::default());
    let seven = hall.world.client();
    hall.join(&seven, 7);
    let (told, of_other) = channel();
    let other = Hall::new(told);
    let later = hall.world.node.later();
    let spawned = later.run(move |cx| {
        let other = cx.spawn_room(RoomOptions::default(), "hall", "2", other)?;
        other.join::<Hall>(7)
    });
    spawned.expect("has room");
    assert_eq!(of_other.recv_timeout(LONG).as_deref(), Ok("7 joins"));
    hall.expect("7 leaves");
    // Its packets go to the new one.
    assert_eq!(ask(&seven, 20, &json!("here")), json!([7]));
    drop(seven);
    assert_eq!(of_other.recv_timeout(LONG).as_deref(), Ok("7 is lost"));
}

#[test]
fn what_comes_after_a_join_finds_the_member_although_the_room_has_not_taken_it_yet() {
    let hall = Opened::new(RoomOptions::default());
    let (seven, of_seven) = listener(&hall.world.gate);
    assert_eq!(ask(&seven, 2, &json!(7)), "ok");
    // The room gets its messages when this has ended, and the packet before.
    let sent = hall.world.node.later().run(|cx| {
        let room = cx.actor("hall", "1").ok_or(Error::Cancelled)?;
        room.deliver(20, 0, "too early")?;
        room.join::<Hall>(7)?;
        room.invoke_room(|_: &mut Hall, cx| cx.broadcast(50, "welcome"))?;
        cx.deliver_here(20, 7, "me, too")
    });
    sent.expect("has room");
    for expected in ["welcome", "me, too"] {
        assert_eq!(of_seven.recv_timeout(LONG), Ok(json!(expected)));
    }
}

#[test]
fn a_user_that_is_bound_elsewhere_before_its_room_takes_it_does_not_join() {
    let hall = Opened::new(RoomOptions::default());
    let other = Hall::new(channel().0);
    let moved = hall.world.node.later().run(move |cx| {
        let room = cx.actor("hall", "1").ok_or(Error::Cancelled)?;
        room.join::<Hall>(7)?;
        cx.spawn_room(RoomOptions::default(), "hall", "2", other)?;
        cx.bind_actor(7, "hall", "2")?;
        room.join::<Hall>(8)
    });
    moved.expect("has room");
    hall.expect("8 joins");
}

#[test]
fn a_room_that_refuses_a_user_leaves_it_where_it_was() {
    let hall = Opened::new(RoomOptions::default());
    let seven = hall.world.client();
    hall.join(&seven, 7);
    let other = Hall::new(channel().0);
    let (ended, has_ended) = channel();
    let refused = hall.world.node.later().run(move |cx| {
        let options = RoomOptions::default().max_members(0);
        let full = cx.spawn_room(options, "hall", "full", other)?;
        full.join::<Hall>(7)?;
        full.join::<Hall>(8)?;
        assert!(full.join::<Hall>(0).is_err(), "that is no user");
        full.invoke_room(move |_: &mut Hall, _| ended.send(()))
    });
    refused.expect("has room");
    assert_eq!(has_ended.recv_timeout(LONG), Ok(()));
    assert_eq!(hall.world.node.stats().handler_errors, 2);
    assert_eq!(ask(&seven, 20, &json!("still here")), json!([7]));
    // The room that refused 8 does not have its packets.
    let eight = hall.world.client();
    assert_eq!(ask(&eight, 2, &json!(8)), "ok");
    eight.push(20, "1").expect("is sent");
    eventually("nobody takes it", || {
        hall.world.node.stats().handler_errors == 3
    });
    hall.world.node.actor("hall", "1").expect("is there").kill();
    hall.expect("stops with [7]");
}

/// A room that starts another one, and tells its end and what comes to it.
struct Lobby(Sender<String>);

impl Room for Lobby {
    fn routes(routes: &mut RoomRoutes<'_, Self>) {
        routes
            .event(Event::Disconnect, |lobby, cx| {
                let is_member = cx.is_member(cx.uid());
                let _ = lobby.0.send(format!("{} ends, {is_member}", cx.uid()));
                Ok::<(), Error>(())
            })
            .default_route(|lobby, cx| {
                let _ = lobby.0.send(format!("route {}", cx.route()));
                Ok::<(), Error>(())
            });
    }

    fn on_start(&mut self, cx: &mut RoomContext<'_, Self>) -> Result<(), HandlerError> {
        let child = Hall::new(channel().0);
        cx.spawn_room(RoomOptions::default(), "hall", "child", child)?;
        Ok(())
    }

    fn on_child_end(&mut self, _: &mut RoomContext<'_, Self>, child: &ActorRef, panicked: bool) {
        let _ = self.0.send(format!("{} ended, {panicked}", child.id()));
    }
}

#[test]
fn a_room_has_events_and_a_default_route_and_knows_the_end_of_what_it_has_started() {
    let world = Embedded::new(rooms);
    let (told, of_lobby) = channel();
    let expect = |what: &str| assert_eq!(of_lobby.recv_timeout(LONG).as_deref(), Ok(what));
    let seven = world.client();
    assert_eq!(ask(&seven, 2, &json!(7)), "ok");
    let options = RoomOptions::default().reconnect_window(LONG);
    let spawned = world.node.later().run(move |cx| {
        let lobby = cx.spawn_room(options, "lobby", "1", Lobby(told))?;
        lobby.deliver(77, 0, &"x")?;
        lobby.join::<Lobby>(7)
    });
    spawned.expect("has room");
    expect("route 77");
    world.node.actor("hall", "child").expect("is there").kill();
    expect("child ended, false");
    drop(seven);
    expect("7 ends, true");
}
