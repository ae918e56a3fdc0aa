//! Clients that come back after they have lost their connection: to the same gate, and to another one.

use std::io::Read;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use epicycle::cluster::client::{Client, ClientBuilder, ClientEvent};
use epicycle::cluster::drpc::{Secret, Target};
use epicycle::cluster::gate::{Gate, GateBuilder, RefusedResume, ResumeOptions};
use epicycle::cluster::locator::Locator;
use epicycle::cluster::node::{Node, NodeBuilder};
use epicycle::cluster::packet::{
    Control, GoodbyeReason, PacketFrame, PacketOptions, ResumeRefusal,
};
use epicycle::cluster::{Cluster, Error, Event};
use epicycle::{Addr, Reconnect};
use parking_lot::Mutex;

use crate::gate_clients::Socket;
use crate::rig::{Wire, packet, user};
use crate::util::{LONG, await_some, eventually};

pub(crate) const LOGIN: i32 = 1;
pub(crate) const ECHO: i32 = 2;
/// Answers when the test lets it.
pub(crate) const LATER: i32 = 3;
pub(crate) const TOKEN: i32 = 9;
pub(crate) const NEWS: i32 = 100;

/// An event, its gate, connection and user.
type Told = (Event, String, i64, i64);

/// A node and two gates.
pub(crate) struct World {
    pub(crate) cluster: Cluster,
    pub(crate) node: Node,
    pub(crate) gates: Vec<Gate>,
    pub(crate) told: Arc<Mutex<Vec<Told>>>,
    /// Answers that are to come later.
    pub(crate) later: Arc<Mutex<Vec<epicycle::cluster::node::Later>>>,
}

/// A client that keeps count of its packets.
pub(crate) struct Player {
    pub(crate) wire: Wire,
    pub(crate) cid: i64,
    /// The number of packets that it has.
    pub(crate) count: u64,
    pub(crate) token: String,
}

pub(crate) fn options() -> ResumeOptions {
    ResumeOptions::new()
}

impl World {
    pub(crate) fn new(options: ResumeOptions) -> Self {
        Self::with(|gate| gate.resume(options).reactors(2), |node| node)
    }

    pub(crate) fn with(
        change: impl Fn(GateBuilder) -> GateBuilder,
        change_node: impl Fn(NodeBuilder<()>) -> NodeBuilder<()>,
    ) -> Self {
        let cluster = Cluster::embedded();
        let (told, later) = (Arc::<Mutex<Vec<Told>>>::default(), Arc::default());
        let mut node = change_node(cluster.node().id("node-1"))
            .route(LOGIN, |_, cx| {
                let uid: i64 = cx.parse()?;
                let cid = cx.cid();
                cx.bind_gate(uid, move |_: &mut (), cx, bound| {
                    bound?;
                    cx.subscribe("news")?;
                    cx.respond(&cid)
                })
            })
            .route(ECHO, |_, cx| {
                let text: String = cx.parse()?;
                cx.respond(&format!("{} {text}", cx.uid()))
            })
            .route(LATER, {
                let later: Arc<Mutex<Vec<_>>> = Arc::clone(&later);
                move |_, cx| {
                    later.lock().push(cx.later());
                    Ok::<(), Error>(())
                }
            });
        for event in [Event::Connect, Event::Reconnect, Event::Disconnect] {
            let told = told.clone();
            node = node.event(event, move |_: &mut (), cx| {
                let seen = (event, cx.gid().to_owned(), cx.cid(), cx.uid());
                told.lock().push(seen);
                match event {
                    Event::Reconnect => cx.resume_token(|_: &mut (), cx, token| {
                        // Without resume there is none.
                        token.map_or(Ok(()), |token| cx.push(TOKEN, &token))
                    }),
                    _ => Ok::<(), Error>(()),
                }
            });
        }
        let node = node.start().expect("starts");
        let gates = ["gate-1", "gate-2"].map(|id| {
            let gate = change(cluster.gate().id(id)).listen("tcp://127.0.0.1:0");
            gate.start().expect("starts")
        });
        let world = Self {
            cluster,
            node,
            gates: gates.into(),
            told,
            later,
        };
        eventually("the node knows the gates", || {
            world.gates.iter().all(|gate| gate.stats().links > 0)
        });
        world
    }

    pub(crate) fn connect(&self, gate: usize) -> Player {
        Player::connect(&self.gates[gate].client_addrs()[0])
    }

    /// Connects and logs in. The client has a token.
    pub(crate) fn player(&self, gate: usize, uid: i64) -> Player {
        Player::login(self.connect(gate), uid)
    }

    /// Comes back with a token. Returns the number of packets that follow.
    pub(crate) fn resume(&self, gate: usize, old: &Player) -> Result<(Player, u32), ResumeRefusal> {
        self.resume_with(gate, &old.token, old.count)
    }

    pub(crate) fn resume_with(
        &self,
        gate: usize,
        token: &str,
        last: u64,
    ) -> Result<(Player, u32), ResumeRefusal> {
        let mut player = self.connect(gate);
        player.control(&Control::Resume { token, last });
        player.count = last;
        player.resumed().map(|count| (player, count))
    }

    pub(crate) fn push(&self, target: Target, text: &str) {
        let text = text.to_owned();
        let pushed = self
            .node
            .later()
            .run(move |cx| cx.push_to(target, NEWS, &text));
        pushed.expect("there is room");
    }

    pub(crate) fn told(&self) -> Vec<Told> {
        self.told.lock().clone()
    }

    /// Returns the gate, the connection and the user of each Disconnect.
    pub(crate) fn disconnects(&self) -> Vec<(String, i64, i64)> {
        let told = self.told().into_iter();
        let ends = told.filter(|told| told.0 == Event::Disconnect);
        ends.map(|(_, gid, cid, uid)| (gid, cid, uid)).collect()
    }

    /// Returns the users of which a Disconnect was told.
    pub(crate) fn gone(&self) -> Vec<i64> {
        let users = self.disconnects().into_iter().map(|(_, _, uid)| uid);
        users.filter(|uid| *uid != 0).collect()
    }

    pub(crate) fn await_away(&self, gate: usize, count: u64) {
        eventually("the loss is noticed", || {
            self.gates[gate].stats().away == count
        });
    }

    pub(crate) fn refused(&self, gate: usize, reason: RefusedResume) -> u64 {
        self.gates[gate].stats().resumes_refused[reason]
    }

    pub(crate) fn is_online(&self, uid: i64) -> bool {
        let (sender, receiver) = std::sync::mpsc::channel();
        let asked = self.node.later().run(move |cx| {
            cx.is_online(user(uid), move |_: &mut (), _, online| {
                sender.send(online).map_err(|_| Error::Cancelled)
            })
        });
        asked.expect("there is room");
        let online = receiver.recv_timeout(LONG).expect("is answered");
        online.expect("the gate knows")
    }
}

impl Player {
    pub(crate) fn connect(gate: &Addr) -> Self {
        Self {
            wire: Wire::connect(gate),
            cid: 0,
            count: 0,
            token: String::new(),
        }
    }

    /// Logs in, and waits for a token.
    pub(crate) fn login(mut player: Self, uid: i64) -> Self {
        player.wire.send(packet(LOGIN, 1, &uid.to_string()));
        while player.cid == 0 || player.token.is_empty() {
            let (route, data) = player.next();
            match route {
                LOGIN => player.cid = data.parse().expect("is a number"),
                TOKEN => player.token = data.trim_matches('"').to_owned(),
                _ => panic!("{route}: {data}"),
            }
        }
        player
    }

    pub(crate) fn control(&mut self, control: &Control<'_>) {
        let packet = PacketOptions::default().encode_control(control);
        self.wire.send(packet.expect("is short").as_bytes());
    }

    /// Returns the route and the data of the next packet.
    pub(crate) fn next(&mut self) -> (i32, String) {
        let bytes = self.wire.next().expect("is open");
        match PacketOptions::default().decode_message(&bytes) {
            Ok(PacketFrame::Packet { packet, .. }) => {
                self.count += 1;
                (
                    packet.route,
                    String::from_utf8_lossy(packet.data).into_owned(),
                )
            }
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn resumed(&mut self) -> Result<u32, ResumeRefusal> {
        let bytes = self.wire.next().expect("is open");
        match PacketOptions::default().decode_message(&bytes) {
            Ok(PacketFrame::Control(Control::Resumed { count })) => Ok(count),
            Ok(PacketFrame::Control(Control::Refused { reason })) => Err(reason),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn expect(&mut self, route: i32, data: &str) {
        assert_eq!(self.next(), (route, data.to_owned()));
    }

    pub(crate) fn expect_news(&mut self, text: &str) {
        self.expect(NEWS, &format!("\"{text}\""));
    }

    /// Reads the next token.
    pub(crate) fn take_token(&mut self) {
        let (route, token) = self.next();
        assert_eq!(route, TOKEN, "{token}");
        self.token = token.trim_matches('"').to_owned();
    }

    pub(crate) fn cut(&self) {
        self.wire.0.shutdown(Shutdown::Both).expect("is open");
    }
}

/// A user loses its connection to the first gate, misses pushes, and comes back to gate `to`.
fn comes_back(world: &World, to: usize) {
    let mut old = world.player(0, 7);
    world.push(user(7), "before");
    old.expect_news("before");
    old.cut();
    world.await_away(0, 1);
    assert!(world.is_online(7));
    for n in 0..5 {
        world.push(user(7), &format!("missed {n}"));
    }
    let pushed = |count| {
        eventually("the pushes come", || world.node.stats().pushed >= count);
    };
    pushed(8);
    let (mut new, count) = world.resume(to, &old).expect("comes back");
    let missed = (0..count).map(|_| new.next().1).collect::<Vec<_>>();
    // Some may be on their way to the old gate still, and are passed on.
    let mut all = missed;
    while all.len() < 5 || new.token.is_empty() {
        let (route, data) = new.next();
        match route {
            TOKEN => new.token = data.trim_matches('"').to_owned(),
            _ => all.push(data),
        }
    }
    assert_eq!(
        all,
        (0..5)
            .map(|n| format!("\"missed {n}\""))
            .collect::<Vec<_>>()
    );
    assert_ne!(new.token, old.token);
    // It has its user and its channels.
    new.wire.send(packet(ECHO, 2, r#""here""#));
    new.expect(ECHO, r#""7 here""#);
    let published = world
        .node
        .later()
        .run(|cx| cx.publish("news", NEWS, "for all"));
    published.expect("there is room");
    new.expect_news("for all");
    world.push(user(7), "after");
    new.expect_news("after");
    let gid = world.gates[to].id();
    let located = world
        .cluster
        .locator()
        .locate_gate(7)
        .expect("is in memory");
    assert_eq!(located.as_deref(), Some(gid));
    let told = world.told();
    let last = told.last().expect("is told");
    assert_eq!((last.0, &*last.1, last.3), (Event::Reconnect, gid, 7));
    assert_ne!(last.2, old.cid);
    assert!(world.gone().is_empty());
    // The token was good once.
    let again = world.resume(to, &old).map(|_| ());
    assert_eq!(again, Err(ResumeRefusal::Expired));
    // And so it goes on.
    new.cut();
    world.await_away(to, 1);
    world.push(user(7), "once more");
    let (mut newer, _) = world.resume(0, &new).expect("comes back");
    loop {
        match newer.next() {
            (TOKEN, _) => {}
            (route, data) => {
                assert_eq!((route, &*data), (NEWS, "\"once more\""));
                break;
            }
        }
    }
    assert_eq!(
        world.gates[to].stats().resumed + world.gates[0].stats().resumed,
        match to {
            0 => 4,
            _ => 2,
        }
    );
    assert!(world.gone().is_empty());
}

#[test]
fn a_user_comes_back_to_the_same_gate_with_all_that_it_has_missed() {
    comes_back(&World::new(options()), 0);
}

#[test]
fn a_user_comes_back_to_another_gate_with_all_that_it_has_missed() {
    comes_back(&World::new(options()), 1);
}

#[test]
fn a_user_comes_back_to_another_gate_of_a_cluster_with_a_secret() {
    let secret = || Secret::new(b"the secret of this cluster").expect("is long enough");
    let world = World::with(
        |gate| gate.resume(options()).secret(secret()),
        |node| node.secret(secret()).reactors(2),
    );
    comes_back(&world, 1);
}

#[cfg(feature = "tls")]
#[test]
fn a_user_comes_back_to_another_gate_over_links_with_tls() {
    let cert = crate::gate_tls::issued();
    let tls = || crate::gate_tls::settings(&cert, &cert);
    let world = World::with(
        |gate| gate.resume(options()).link_tls(tls()),
        |node| node.link_tls(tls()),
    );
    comes_back(&world, 1);
}

#[test]
fn a_connection_that_seems_alive_ends_when_its_user_comes_back() {
    let world = World::new(options());
    let mut players = Vec::new();
    for to in [0, 1] {
        let uid = 7 + to as i64;
        let mut old = world.player(0, uid);
        world.push(user(uid), "unread");
        let (mut new, count) = world.resume(to, &old).expect("comes back");
        // The pushes are sent again, since the client has not told that it has it.
        assert!(count <= 1);
        loop {
            match new.next() {
                (NEWS, data) => {
                    assert_eq!(data, "\"unread\"");
                    break;
                }
                (route, _) => assert_eq!(route, TOKEN),
            }
        }
        assert!(old.wire.is_over());
        assert!(world.gone().is_empty());
        players.push(new);
    }
}

#[test]
fn an_answer_that_comes_after_the_return_reaches_the_new_connection() {
    let world = World::new(options());
    for to in [0, 1] {
        let uid = 7 + to as i64;
        let mut old = world.player(0, uid);
        old.wire.send(packet(LATER, 5, ""));
        let later = await_some("the request", || world.later.lock().pop());
        old.cut();
        let (mut new, _) = world.resume(to, &old).expect("comes back");
        new.take_token();
        later.respond("late").expect("there is room");
        new.expect(LATER, "\"late\"");
        assert_eq!(world.gates[0].stats().passed_on, 1 + to as u64);
    }
}

#[test]
fn a_user_that_does_not_come_back_in_time_is_gone() {
    let world = World::new(options().window(Duration::from_millis(50)));
    let old = world.player(0, 7);
    old.cut();
    let ended = vec![("gate-1".to_owned(), old.cid, 7)];
    eventually("the end is told", || world.disconnects() == ended);
    let refused = world.resume(0, &old).map(|_| ());
    assert_eq!(refused, Err(ResumeRefusal::Expired));
    let refused = world.resume(1, &old).map(|_| ());
    assert_eq!(refused, Err(ResumeRefusal::Expired));
    eventually("the locator forgets it", || {
        let located = world.cluster.locator().locate_gate(7);
        located.expect("is in memory").is_none()
    });
    let stats = world.gates[0].stats();
    assert_eq!((stats.away, stats.users, stats.windows_ended), (0, 0, 1));
    assert_eq!(stats.resume_bytes, 0);
}

#[test]
fn a_client_that_missed_more_than_is_kept_is_told_so() {
    let world = World::new(options().buffer(1000));
    for to in [0, 1] {
        let uid = 7 + to as i64;
        let old = world.player(0, uid);
        old.cut();
        world.await_away(0, 1 + to as u64);
        let before = world.node.stats().pushed;
        for _ in 0..3 {
            world.push(user(uid), &"x".repeat(500));
        }
        eventually("they are sent", || world.node.stats().pushed == before + 3);
        let refused = world.resume(to, &old).map(|_| ());
        assert_eq!(refused, Err(ResumeRefusal::Lost));
        assert_eq!(world.refused(to, RefusedResume::Lost), 1);
        assert!(world.gates[0].stats().resume_bytes <= 2000);
    }
    assert!(world.gone().is_empty());
}

#[test]
fn a_connection_that_is_ended_on_purpose_is_not_waited_for() {
    let world = World::new(options());
    let kick = |target| {
        let kicked = world.node.later().run(move |cx| cx.kick(target, false));
        kicked.expect("there is room");
    };
    let mut kicked = world.player(0, 7);
    kick(user(7));
    assert!(kicked.wire.is_over());
    eventually("its end is told", || world.gone().len() == 1);
    // One that is away.
    let away = world.player(0, 8);
    away.cut();
    world.await_away(0, 1);
    kick(user(8));
    eventually("its end is told", || world.gone().len() == 2);
    assert_eq!(world.gates[0].stats().away, 0);
    let mut malformed = world.player(0, 9);
    malformed.wire.send(b"\x80\0\0\0");
    eventually("its end is told", || world.gone().len() == 3);
    for old in [&kicked, &away, &malformed] {
        let refused = world.resume(0, old).map(|_| ());
        assert_eq!(refused, Err(ResumeRefusal::Expired));
    }
    assert_eq!(world.gone(), [7, 8, 9]);
}

#[test]
fn a_login_while_the_user_is_away_takes_its_place() {
    let world = World::new(options());
    let mut players = Vec::new();
    for to in [0, 1] {
        let uid = 7 + to as i64;
        let old = world.player(0, uid);
        old.cut();
        world.await_away(0, 1);
        players.push(world.player(to, uid));
        // Without its user, as for every second login.
        let ended = ("gate-1".to_owned(), old.cid, 0);
        eventually("the old one is given up", || {
            world.disconnects().contains(&ended)
        });
        let refused = world.resume(0, &old).map(|_| ());
        assert_eq!(refused, Err(ResumeRefusal::Expired));
        assert_eq!(world.gates[0].stats().away, 0);
    }
}

#[test]
fn tokens_that_are_forged_foreign_or_ahead_of_what_was_sent_are_refused() {
    let world = World::new(options());
    let old = world.player(0, 7);
    let refusal = |gate, token: &str, last| {
        let refused = world.resume_with(gate, token, last).map(|_| ());
        refused.expect_err("is refused")
    };
    let mut forged = old.token.clone().into_bytes();
    forged[20] ^= 1;
    let forged = String::from_utf8(forged).expect("is ASCII");
    for gate in [0, 1] {
        assert_eq!(refusal(gate, &forged, 0), ResumeRefusal::Invalid);
        assert_eq!(refusal(gate, "", 0), ResumeRefusal::Invalid);
        assert_eq!(refusal(gate, "nonsense", 0), ResumeRefusal::Invalid);
        assert_eq!(refusal(gate, &old.token, u64::MAX), ResumeRefusal::Invalid);
        assert_eq!(
            refusal(gate, &old.token, old.count + 1),
            ResumeRefusal::Invalid
        );
    }
    // One with a user has nothing to take back, and one that has tried does not try again.
    let mut other = world.player(1, 8);
    let control = Control::Resume {
        token: &old.token,
        last: old.count,
    };
    other.control(&control);
    assert_eq!(other.resumed(), Err(ResumeRefusal::Invalid));
    let mut stranger = world.connect(0);
    for _ in 0..2 {
        stranger.control(&Control::Resume {
            token: "?",
            last: 0,
        });
        assert_eq!(stranger.resumed(), Err(ResumeRefusal::Invalid));
    }
    stranger.control(&control);
    assert_eq!(stranger.resumed(), Err(ResumeRefusal::Invalid));
    // It is still there for the one who has it.
    assert!(world.is_online(7));
    assert!(world.resume(1, &old).is_ok());
}

#[test]
fn a_flood_of_attempts_costs_nobody_else_anything() {
    let world = World::new(options());
    let mut old = world.player(0, 7);
    let token = old.token.clone();
    thread::scope(|scope| {
        for gate in [0, 1] {
            let (addr, token) = (&world.gates[gate].client_addrs()[0], &*token);
            scope.spawn(move || {
                for _ in 0..200 {
                    let mut stranger = Player::connect(addr);
                    for _ in 0..20 {
                        stranger.control(&Control::Resume { token, last: 999 });
                    }
                    for _ in 0..20 {
                        assert_eq!(stranger.resumed(), Err(ResumeRefusal::Invalid));
                    }
                }
            });
        }
        for n in 0..20 {
            world.push(user(7), &n.to_string());
            old.expect_news(&n.to_string());
        }
    });
    assert_eq!(world.refused(0, RefusedResume::Invalid), 4000);
    assert!(world.resume(1, &old).is_ok());
}

#[test]
fn a_gate_without_resume_says_so_and_gives_no_tokens() {
    let world = World::with(|gate| gate, |node| node);
    let (sender, receiver) = std::sync::mpsc::channel();
    let mut client = world.connect(0);
    client.wire.send(packet(LATER, 1, ""));
    let later = await_some("the request", || world.later.lock().pop());
    let asked = later.run(move |cx| {
        cx.resume_token(move |_: &mut (), _, token| {
            sender.send(token).map_err(|_| Error::Cancelled)
        })
    });
    asked.expect("there is room");
    let token = receiver.recv_timeout(LONG).expect("is answered");
    assert!(matches!(token, Err(Error::Refused { .. })), "{token:?}");
    let refused = world.resume_with(0, "a token", 0).map(|_| ());
    assert_eq!(refused, Err(ResumeRefusal::Off));
}

#[test]
fn what_a_client_acknowledges_is_not_kept() {
    let world = World::new(options());
    let mut player = world.player(0, 7);
    for n in 0..10 {
        world.push(user(7), &n.to_string());
        player.expect_news(&n.to_string());
    }
    eventually("they are kept", || {
        world.gates[0].stats().resume_bytes > 100
    });
    let kept = world.gates[0].stats().resume_bytes;
    // More than was sent is not believed.
    player.control(&Control::Ack { n: 1000 });
    player.control(&Control::Ack {
        n: player.count - 1,
    });
    eventually("they are forgotten", || {
        world.gates[0].stats().resume_bytes < kept / 5
    });
    player.cut();
    let (mut new, count) = world
        .resume(
            1,
            &Player {
                count: player.count - 1,
                ..player
            },
        )
        .expect("comes back");
    assert_eq!(count, 1);
    new.expect_news("9");
}

#[test]
fn a_user_of_a_gate_that_has_gone_logs_in_anew() {
    let mut world = World::new(options());
    let old = world.player(0, 7);
    world.gates.remove(0).shutdown();
    let refused = world.resume(0, &old).map(|_| ());
    assert_eq!(refused, Err(ResumeRefusal::Expired));
}

#[test]
fn users_leave_a_gate_that_drains_without_a_disconnect() {
    let mut world = World::new(options());
    let mut old = world.player(0, 7);
    old.control(&Control::Ack { n: 0 });
    let draining = world.gates.remove(0);
    let drained = thread::spawn(move || draining.drain(Duration::from_secs(60)));
    let bytes = old.wire.next().expect("is open");
    let goodbye = PacketOptions::default().decode_message(&bytes);
    let Ok(PacketFrame::Control(Control::Goodbye { reason, .. })) = goodbye else {
        panic!("{goodbye:?}");
    };
    assert_eq!(reason, GoodbyeReason::Stopping);
    old.cut();
    // The other gate.
    let (mut new, _) = world.resume(0, &old).expect("comes back");
    new.take_token();
    new.wire.send(packet(ECHO, 2, r#""here""#));
    new.expect(ECHO, r#""7 here""#);
    drained.join().expect("ends");
    assert!(world.gone().is_empty());
}

#[test]
fn the_end_of_a_websocket_tells_if_its_user_may_come_back() {
    let world = World::with(
        |gate| gate.resume(options()).listen("ws://127.0.0.1:0/play"),
        |node| node,
    );
    let gate = &world.gates[0];
    let close = |code: u16| (8, code.to_be_bytes().to_vec());
    let (text, malformed) = (b"text".to_vec(), b"\0\0\0\x03\0\0\x01".to_vec());
    let ends = [
        // A browser that leaves the page.
        (vec![close(1001)], true),
        (vec![(8, Vec::new())], true),
        (vec![close(1000)], false),
        // The client answers the gate's close.
        (vec![(1, text), close(1003)], false),
        (vec![(2, malformed), close(1002)], false),
        (vec![(2, packet(ECHO, 0, "no JSON")), close(1001)], true),
    ];
    let mut away = 0;
    for (uid, (frames, stays)) in (7..).zip(ends) {
        let mut socket = Socket::open(&gate.client_addrs()[0], "/play", "").expect("opens");
        let tokens = gate.stats().tokens;
        socket.send(2, &packet(LOGIN, 1, &uid.to_string()));
        eventually("it has a token", || gate.stats().tokens > tokens);
        for (opcode, payload) in &frames {
            socket.send(*opcode, payload);
        }
        let ended = socket.0.0.read_to_end(&mut Vec::new());
        ended.expect("is closed in order");
        drop(socket);
        away += u64::from(stays);
        eventually("it is away, or gone", || {
            let stats = gate.stats();
            let is_right = stats.connections == 0 && stats.away == away;
            is_right && world.is_online(uid) == stays
        });
    }
}

/// Pushes to a client of the library, and its events, in their order.
#[derive(Clone, Default)]
pub(crate) struct Seen {
    all: Arc<Mutex<Vec<String>>>,
    tokens: Arc<AtomicU64>,
}

impl Seen {
    fn note(&self, what: String) {
        self.all.lock().push(what);
    }

    fn all(&self) -> Vec<String> {
        self.all.lock().clone()
    }

    /// Returns the number of tokens that the client has got.
    pub(crate) fn tokens(&self) -> u64 {
        self.tokens.load(Ordering::Acquire)
    }

    pub(crate) fn count(&self, what: &str) -> usize {
        let all = self.all.lock();
        all.iter().filter(|seen| *seen == what).count()
    }
}

/// Returns a client that logs in as the user whenever it is a new one, and uses each token that it gets.
pub(crate) fn library_client(uid: i64, seen: &Seen) -> ClientBuilder {
    let (news, events, tokens) = (seen.clone(), seen.clone(), seen.tokens.clone());
    Client::builder()
        // On a busy machine an answer may take its time.
        .call_timeout(LONG)
        .reconnect(Reconnect::new(
            Duration::from_millis(1),
            Duration::from_millis(20),
        ))
        .route(TOKEN, move |cx, packet| {
            let token = String::from_utf8_lossy(packet.data);
            cx.set_resume_token(token.trim_matches('"'));
            tokens.fetch_add(1, Ordering::AcqRel);
        })
        .route(NEWS, move |_, packet| {
            let data = String::from_utf8_lossy(packet.data);
            news.note(data.trim_matches('"').to_owned());
        })
        .on_event(move |cx, event| match event {
            ClientEvent::Connected { again } => {
                events.note(format!("connected {again}"));
                let sent = cx.request(LOGIN, uid.to_string().as_bytes(), |_, _| {});
                sent.expect("is sent");
            }
            ClientEvent::Resumed { .. } => events.note("resumed".to_owned()),
            ClientEvent::ResumeRefused { reason } => events.note(format!("{reason:?}")),
            _ => {}
        })
}

/// Passes bytes between clients and a gate, until it is told to cut.
struct Relay {
    addr: std::net::SocketAddr,
    streams: Arc<Mutex<Vec<TcpStream>>>,
}

impl Relay {
    fn start(to: std::net::SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let addr = listener.local_addr().expect("is bound");
        let streams = Arc::<Mutex<Vec<TcpStream>>>::default();
        let all = streams.clone();
        // It ends with the process: it holds nothing else.
        thread::spawn(move || {
            while let Ok((client, _)) = listener.accept() {
                let Ok(gate) = TcpStream::connect(to) else {
                    continue;
                };
                let copy = |stream: &TcpStream| stream.try_clone().expect("clones");
                // Before a byte has passed, so that what works can be cut.
                all.lock().extend([copy(&client), copy(&gate)]);
                for (mut from, mut to) in
                    [(copy(&client), copy(&gate)), (copy(&gate), copy(&client))]
                {
                    thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = to.shutdown(Shutdown::Both);
                    });
                }
            }
        });
        Self { addr, streams }
    }

    fn cut(&self) {
        for stream in self.streams.lock().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// A client of the library comes back again and again through relays in front of both gates.
fn library_comes_back(scheme: &str) {
    let world = World::with(
        |gate| gate.resume(options()).listen("ws://127.0.0.1:0/play"),
        |node| node,
    );
    let port = usize::from(scheme == "ws");
    // The ws listener was added before the tcp one.
    let relays: Vec<_> = (world.gates.iter())
        .map(|gate| {
            let addrs = gate.client_addrs();
            let addr = if port == 1 { &addrs[0] } else { &addrs[1] };
            Relay::start(addr.as_socket_addr().expect("is an IP address"))
        })
        .collect();
    let path = if port == 1 { "/play" } else { "" };
    let urls: Vec<_> = (relays.iter())
        .map(|relay| format!("{scheme}://{}{path}", relay.addr))
        .collect();
    let seen = Seen::default();
    let builder = library_client(7, &seen).or_at(&*urls[1]);
    let client = builder.connect(&urls[0]).expect("connects");
    let resumed = || {
        world
            .gates
            .iter()
            .map(|gate| gate.stats().resumed)
            .sum::<u64>()
    };
    for round in 0..4_u64 {
        eventually("it has a token", || seen.tokens() > round);
        let mark = format!("{round} before");
        world.push(user(7), &mark);
        eventually("it has come", || seen.count(&mark) == 1);
        // A request that is answered after the cut.
        let (sender, receiver) = std::sync::mpsc::channel();
        let asked = client.request_then(LATER, "", move |_, reply| {
            let _ = sender.send(reply.map(<[u8]>::to_vec));
        });
        asked.expect("is sent");
        let later = await_some("the request", || world.later.lock().pop());
        relays.iter().for_each(Relay::cut);
        for n in 0..3 {
            world.push(user(7), &format!("{round} {n}"));
        }
        later.respond("late").expect("there is room");
        let reply = receiver.recv_timeout(LONG).expect("comes");
        assert_eq!(reply.expect("is answered"), b"\"late\"");
        eventually("it is back", || resumed() == round + 1);
        eventually("all has come", || {
            (0..3).all(|n| seen.count(&format!("{round} {n}")) == 1)
        });
    }
    assert_eq!(seen.count("connected false"), 1);
    assert_eq!(seen.count("connected true"), 0, "{:?}", seen.all());
    assert_eq!(seen.count("resumed"), 4);
    assert!(world.gone().is_empty());
    let news = seen.all();
    for round in 0..4 {
        for n in 0..3 {
            assert_eq!(
                news.iter()
                    .filter(|seen| **seen == format!("{round} {n}"))
                    .count(),
                1
            );
        }
    }
}

#[test]
fn a_client_of_the_library_comes_back_by_itself_with_its_requests() {
    library_comes_back("tcp");
}

#[test]
fn a_client_of_the_library_comes_back_over_websocket() {
    library_comes_back("ws");
}

#[test]
fn a_client_of_the_library_that_is_refused_logs_in_anew() {
    let world = World::new(options().window(Duration::from_millis(1)));
    let gate = world.gates[0].client_addrs()[0].clone();
    let relay = Relay::start(gate.as_socket_addr().expect("is an IP address"));
    let seen = Seen::default();
    let reconnect = Reconnect::new(Duration::from_millis(100), Duration::from_millis(200));
    let builder = library_client(7, &seen).reconnect(reconnect);
    let client = builder.connect(relay.addr.to_string()).expect("connects");
    eventually("it has a token", || seen.tokens() > 0);
    world.push(user(7), "before");
    eventually("it has come", || seen.count("before") == 1);
    let (sender, receiver) = std::sync::mpsc::channel();
    let asked = client.request_then(LATER, "", move |_, reply| {
        let _ = sender.send(reply.map(|_| ()));
    });
    asked.expect("is sent");
    await_some("the request", || world.later.lock().pop());
    relay.cut();
    let failed = receiver.recv_timeout(LONG).expect("comes");
    assert!(matches!(failed, Err(Error::LinkDown { .. })), "{failed:?}");
    eventually("it logs in again", || world.gates[0].stats().tokens > 1);
    world.push(user(7), "after");
    eventually("it has come", || seen.count("after") == 1);
    assert_eq!(
        seen.all(),
        [
            "connected false",
            "before",
            "Expired",
            "connected true",
            "after"
        ]
    );
}
