//! Users on their way from one connection to another, while something goes wrong.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use epicycle::Addr;
use epicycle::cluster::client::Client;
use epicycle::cluster::drpc::{Answer, Code, Hello, NONCE, Request, VERSION, Value};
use epicycle::cluster::link::LaneOptions;
use epicycle::cluster::locator::Locator;
use epicycle::cluster::packet::{Control, ResumeRefusal};
use epicycle::cluster::registry::{Instance, Registry};
use epicycle::cluster::{Error, Event, Kind};
use parking_lot::Mutex;

use crate::resume::{ECHO, NEWS, Player, TOKEN, World, options};
use crate::rig::{Link, Wire, conn, frame_of, packet, user};
use crate::util::{await_some, eventually};

/// The id of a gate that is played by a test.
pub(crate) const OTHER: &str = "gate-9";

/// A gate that has dialled another one.
pub(crate) struct Claimant {
    wire: Wire,
    seq: u64,
}

impl Claimant {
    fn dial(world: &World, gate: usize) -> Self {
        Self::at(world.gates[gate].link_addr())
    }

    /// Dials a server at this address.
    pub(crate) fn at(addr: &Addr) -> Self {
        let mut claimant = Self {
            wire: Wire::connect(addr),
            seq: 0,
        };
        let kind = Kind::Gate.code();
        claimant.call(&Request::Handshake { kind, id: OTHER });
        claimant.call(&Request::Hello(Hello {
            version: VERSION,
            features: 0,
            nonce: [1; NONCE],
        }));
        claimant
    }

    pub(crate) fn send(&mut self, seq: u64, request: &Request<'_>) {
        let mut frame = Vec::new();
        request.encode_into(seq, &mut frame).expect("is sound");
        self.wire.send(frame);
    }

    fn call(&mut self, request: &Request<'_>) -> Vec<u8> {
        self.seq += 1;
        self.send(self.seq, request);
        self.wire.next().expect("the link is open")
    }

    /// Claims a user. Returns the number of pushes that were missed, or the code of the refusal.
    fn take(&mut self, cid: i64, player: &Player) -> Result<usize, u16> {
        let (last, token) = (player.count, &*player.token);
        let mut answer = self.call(&Request::Take { cid, last, token });
        let frame = frame_of(&mut answer).expect("is no heartbeat");
        let answer = Answer::decode(&frame).expect("is an answer");
        match answer.value {
            Value::Taken(taken) => Ok(taken.pushes().count()),
            _ => Err(answer.code.code()),
        }
    }
}

/// A gate that others dial, and which answers no claim.
pub(crate) struct OtherGate {
    requests: Arc<Mutex<Vec<String>>>,
}

impl OtherGate {
    /// Starts it, and registers it in the world.
    pub(crate) fn start(world: &World) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let addr = listener.local_addr().expect("is bound");
        let requests = Arc::<Mutex<Vec<String>>>::default();
        let log = requests.clone();
        // It ends with the process.
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let log = log.clone();
                thread::spawn(move || serve(Wire::over(stream), &log));
            }
        });
        register(world, addr);
        Self { requests }
    }

    fn has_got(&self, request: &str) -> bool {
        self.requests.lock().iter().any(|got| got == request)
    }

    fn await_request(&self, request: &str) {
        eventually(&format!("{request} in {:?}", self.requests.lock()), || {
            self.has_got(request)
        });
    }
}

fn register(world: &World, addr: SocketAddr) {
    let endpoint = format!("drpc://{addr}?is_secure=false");
    let gate = Instance::new(Kind::Gate, OTHER, endpoint);
    world.cluster.registry().register(&gate).expect("has room");
}

fn serve(mut wire: Wire, log: &Mutex<Vec<String>>) {
    let quiet = Duration::from_secs(3600);
    wire.0.set_read_timeout(Some(quiet)).expect("can be set");
    while let Some(mut bytes) = wire.next() {
        let Some(frame) = frame_of(&mut bytes) else {
            continue;
        };
        let mut answer = Answer::new(frame.op, Code::Done);
        match Request::decode(&frame).expect("is sound") {
            Request::GetState => answer.value = Value::State(1),
            Request::Hello(hello) => answer.value = Value::Hello(hello, None),
            Request::Take { .. } => {
                log.lock().push("take".to_owned());
                continue;
            }
            Request::GiveBack { cid, uid } => log.lock().push(format!("back {cid} {uid}")),
            Request::PassOn { cid, uid, .. } => log.lock().push(format!("pass {cid} {uid}")),
            Request::Disconnect { target, .. } => {
                log.lock().push(format!("disconnect {}", target.id));
            }
            _ => {}
        }
        if frame.seq != 0 {
            let mut answered = Vec::new();
            answer
                .encode_into(frame.seq, &mut answered)
                .expect("is sound");
            wire.send(answered);
        }
    }
}

/// Returns a token of the gate that is played. Without a secret nobody else can check it.
fn token_of_other(uid: i64) -> String {
    let mut bytes = vec![1];
    bytes.extend(uid.to_be_bytes());
    bytes.extend(u64::MAX.to_be_bytes());
    bytes.extend([7; NONCE]);
    bytes.extend(OTHER.as_bytes());
    bytes.extend([0; 32]);
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let digits = bytes.chunks(3).flat_map(|chunk| {
        let mut group = [0; 4];
        group[1..=chunk.len()].copy_from_slice(chunk);
        let group = u32::from_be_bytes(group);
        (0..=chunk.len()).map(move |at| DIGITS[(group >> (18 - 6 * at)) as usize & 63] as char)
    });
    digits.collect()
}

/// Makes servers give a call up soon.
fn impatient() -> LaneOptions {
    let mut lanes = LaneOptions::default();
    lanes.call_timeout = Duration::from_millis(300);
    lanes
}

fn news(world: &World, uid: i64, text: &str) {
    let before = world.node.stats().pushed;
    world.push(user(uid), text);
    eventually("it is pushed", || world.node.stats().pushed > before);
}

#[test]
fn a_user_who_is_given_back_has_lost_nothing() {
    let world = World::new(options());
    let other = OtherGate::start(&world);
    let old = world.player(0, 7);
    old.cut();
    world.await_away(0, 1);
    news(&world, 7, "before");
    let mut claimant = Claimant::dial(&world, 0);
    for round in 0..3_i64 {
        eventually("all before is kept", || {
            let taken = claimant.take(round + 5, &old);
            if taken != Ok(1 + round as usize) {
                let (cid, uid) = (round + 5, 7);
                claimant.send(0, &Request::GiveBack { cid, uid });
            }
            taken == Ok(1 + round as usize)
        });
        // It is passed on, but nobody has taken it.
        news(&world, 7, &round.to_string());
        other.await_request(&format!("pass {} 7", round + 5));
        let (cid, uid) = (round + 5, 7);
        claimant.send(0, &Request::GiveBack { cid, uid });
    }
    // Others cannot give it back.
    assert_eq!(claimant.take(8, &old), Ok(4));
    claimant.send(0, &Request::GiveBack { cid: 9, uid: 7 });
    claimant.send(0, &Request::GiveBack { cid: 8, uid: 6 });
    let published = (world.node.later()).run(|cx| cx.publish("news", NEWS, "for all"));
    published.expect("there is room");
    // The next one waits until the one before has given up.
    let back = thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(50));
            claimant.send(0, &Request::GiveBack { cid: 8, uid: 7 });
        });
        world.resume(1, &old)
    });
    let (mut new, count) = back.expect("comes back");
    assert_eq!(count, 5);
    for text in ["before", "0", "1", "2", "for all"] {
        new.expect_news(text);
    }
    new.take_token();
    assert!(world.gone().is_empty());
    eventually("nothing is left", || {
        let stats = world.gates[0].stats();
        (stats.away, stats.resume_bytes, stats.pushes_dropped) == (0, 0, 0)
    });
}

#[test]
fn a_user_whose_new_gate_dies_at_once_is_waited_for() {
    let world = World::new(options());
    let other = TcpListener::bind("127.0.0.1:0").expect("binds");
    register(&world, other.local_addr().expect("is bound"));
    let old = world.player(0, 7);
    old.cut();
    world.await_away(0, 1);
    news(&world, 7, "missed");
    let mut claimant = Claimant::dial(&world, 0);
    assert_eq!(claimant.take(5, &old), Ok(1));
    drop((claimant, other));
    let deregistered = world.cluster.registry().deregister(&Instance::new(
        Kind::Gate,
        OTHER,
        "drpc://127.0.0.1:1?is_secure=false",
    ));
    deregistered.expect("is in memory");
    news(&world, 7, "missed too");
    let (mut new, count) = world.resume(1, &old).expect("comes back");
    assert_eq!(count, 2);
    new.expect_news("missed");
    new.expect_news("missed too");
    assert!(world.gone().is_empty());
}

#[test]
fn the_window_ends_for_a_user_who_was_handed_over_to_nobody() {
    let world = World::new(options().window(Duration::from_millis(300)));
    let old = world.player(0, 7);
    old.cut();
    world.await_away(0, 1);
    assert_eq!(Claimant::dial(&world, 0).take(5, &old), Ok(0));
    let ended = vec![("gate-1".to_owned(), old.cid, 7)];
    eventually("the end is told", || world.disconnects() == ended);
    let stats = world.gates[0].stats();
    assert_eq!((stats.away, stats.users, stats.windows_ended), (0, 0, 1));
}

#[test]
fn a_gate_that_ends_tells_no_end_of_a_user_who_is_on_the_way_to_another_one() {
    for arrives in [true, false] {
        let mut world = World::new(options());
        let _other = OtherGate::start(&world);
        let old = world.player(0, 7);
        old.cut();
        world.await_away(0, 1);
        let mut last = world.player(0, 8);
        let mut claimant = Claimant::dial(&world, 0);
        assert_eq!(claimant.take(5, &old), Ok(0));
        let gate = world.gates.remove(0);
        let ended = thread::spawn(move || gate.drain(Duration::ZERO));
        // Then those are given up that nobody has claimed.
        while last.wire.next().is_some() {}
        drop(last);
        if arrives {
            let bound = world.cluster.locator().bind_gate(7, OTHER);
            bound.expect("is in memory");
        }
        ended.join().expect("ends");
        let gone = world.gone();
        assert_eq!(gone.contains(&7), !arrives, "{gone:?}");
        assert!(gone.contains(&8));
    }
}

#[test]
fn a_login_takes_the_user_from_one_who_has_claimed_it() {
    let world = World::new(options());
    let other = OtherGate::start(&world);
    let mut players = Vec::new();
    for to in [0, 1] {
        let uid = 7 + to as i64;
        let old = world.player(0, uid);
        old.cut();
        world.await_away(0, 1);
        let mut claimant = Claimant::dial(&world, 0);
        assert_eq!(claimant.take(5, &old), Ok(0));
        let mut new = world.player(to, uid);
        // As for every second login.
        let ended = ("gate-1".to_owned(), old.cid, 0);
        eventually("the old one is given up", || {
            world.disconnects().contains(&ended)
        });
        world.push(user(uid), "for the new one");
        new.expect_news("for the new one");
        world.push(conn(old.cid), "for nobody");
        assert!(claimant.take(6, &old).is_err());
        assert!(!other.has_got(&format!("pass 5 {uid}")));
        assert!(world.is_online(uid));
        assert_eq!(world.gates[0].stats().away, 0);
        players.push(new);
    }
}

#[test]
fn a_user_who_is_kicked_on_its_way_is_gone() {
    let world = World::new(options());
    let other = OtherGate::start(&world);
    let old = world.player(0, 7);
    old.cut();
    world.await_away(0, 1);
    let mut claimant = Claimant::dial(&world, 0);
    assert_eq!(claimant.take(5, &old), Ok(0));
    let kicked = world.node.later().run(|cx| cx.kick(user(7), false));
    kicked.expect("there is room");
    other.await_request("disconnect 5");
    eventually("its end is told", || world.gone() == [7]);
    claimant.send(0, &Request::GiveBack { cid: 5, uid: 7 });
    assert!(claimant.take(6, &old).is_err());
}

#[test]
fn a_gate_that_gets_no_answer_gives_the_user_back() {
    let world = World::with(
        |gate| gate.resume(options()).reactors(2).lanes(impatient()),
        |node| node,
    );
    let other = OtherGate::start(&world);
    let token = token_of_other(7);
    let resume = || {
        await_some("the gate is known", || {
            let refused = world.resume_with(0, &token, 0).map(|_| ());
            // The gate learns of the other one by the registry's watch.
            (refused != Err(ResumeRefusal::Expired)).then_some(refused)
        })
    };
    assert_eq!(resume(), Err(ResumeRefusal::Unavailable));
    eventually("it is given back", || {
        let requests = other.requests.lock();
        requests
            .iter()
            .any(|request| request.starts_with("back ") && request.ends_with(" 7"))
    });
    // The connection goes on as a new one.
    let mut new = world.player(0, 8);
    new.wire.send(packet(ECHO, 2, r#""here""#));
    new.expect(ECHO, r#""8 here""#);
}

#[test]
fn nobody_is_bound_to_a_connection_that_takes_its_user_back() {
    let world = World::new(options());
    let other = OtherGate::start(&world);
    let token = token_of_other(7);
    let (mut client, cid) = await_some("the gate is known", || {
        let mut client = world.connect(0);
        client.wire.send(packet(ECHO, 1, "\"hi\""));
        client.expect(ECHO, "\"0 hi\"");
        let told = world.told();
        let connected = told.iter().rfind(|told| told.0 == Event::Connect);
        let cid = connected.expect("is told").2;
        let last = 0;
        client.control(&Control::Resume {
            token: &token,
            last,
        });
        // The gate learns of the other one by the registry's watch, and refuses before.
        client.wire.send(packet(ECHO, 2, "\"hi\""));
        (0..40).find_map(|_| {
            thread::sleep(Duration::from_millis(5));
            other.has_got("take").then_some(())
        })?;
        Some((client, cid))
    });
    let mut node = Link::dial(world.gates[0].link_addr(), "node-2");
    assert_eq!(node.bind(cid, 8), Code::Failed);
    assert!(!world.is_online(8));
    // The gate gives up in time, and then it is a connection as any other one.
    assert_eq!(client.resumed(), Err(ResumeRefusal::Unavailable));
    client.expect(ECHO, "\"0 hi\"");
    assert_eq!(node.bind(cid, 8), Code::Done);
    assert_eq!(client.next().0, TOKEN);
    // The node hears of it by the watch of the locator.
    eventually("it is online", || world.is_online(8));
}

#[test]
fn what_is_passed_on_reaches_nobody_but_the_user() {
    let world = World::new(options());
    let mut player = world.player(0, 7);
    let stranger = world.player(0, 8);
    let mut claimant = Claimant::dial(&world, 0);
    let mut pass = |cid, uid, text: &str| {
        let packet = packet(NEWS, 0, &format!("\"{text}\""));
        claimant.send(
            0,
            &Request::PassOn {
                cid,
                uid,
                disconnect: false,
                packet: &packet,
            },
        );
    };
    pass(player.cid, 8, "for another user");
    pass(player.cid, 0, "for nobody");
    pass(stranger.cid, 7, "for another user");
    pass(i64::MAX, 7, "for a reactor that is not there");
    pass(player.cid, 7, "mine");
    player.expect_news("mine");
    eventually("the others are dropped", || {
        world.gates[0].stats().pushes_dropped == 2
    });
}

#[test]
fn a_node_that_hangs_keeps_nobody_from_coming_back() {
    let (sender, receiver) = channel::<()>();
    let receiver = Arc::new(Mutex::new(receiver));
    let world = World::with(
        |gate| gate.resume(options()).lanes(impatient()),
        |node| {
            let receiver = receiver.clone();
            node.route(50, move |_, _| {
                // Until the test lets it go.
                let _ = receiver.lock().recv();
                Ok::<(), Error>(())
            })
        },
    );
    let mut old = world.player(0, 7);
    let handled = world.node.stats().packets_in;
    old.wire.send(packet(50, 0, ""));
    eventually("the node hangs", || world.node.stats().packets_in > handled);
    old.cut();
    world.await_away(0, 1);
    let back = world.resume(1, &old);
    sender.send(()).expect("it waits");
    let (_new, count) = back.expect("comes back");
    assert_eq!(count, 0);
    eventually("the node knows it", || {
        let told = world.told();
        told.iter()
            .filter(|told| told.0 == Event::Reconnect)
            .count()
            == 2
    });
    assert!(world.gone().is_empty());
}

#[test]
fn a_client_that_says_that_it_leaves_is_not_waited_for() {
    let world = World::with(
        |gate| gate.resume(options()).listen("ws://127.0.0.1:0/play"),
        |node| node,
    );
    let addrs = world.gates[0].client_addrs();
    let mut leaving = Player::login(Player::connect(&addrs[1]), 7);
    leaving.control(&Control::Leave);
    leaving.cut();
    eventually("its end is told", || world.gone() == [7]);
    // A client of the library says so when it is closed, over either transport.
    for (at, scheme, path) in [(0, "ws", "/play"), (1, "tcp", "")] {
        let addr = addrs[at].as_socket_addr().expect("is an IP address");
        let seen = Arc::<AtomicBool>::default();
        let has_token = seen.clone();
        let client = Client::builder()
            .route(TOKEN, move |cx, packet| {
                cx.set_resume_token(String::from_utf8_lossy(packet.data).trim_matches('"'));
                has_token.store(true, Ordering::Release);
            })
            .connect(format!("{scheme}://{addr}{path}"))
            .expect("connects");
        let uid = 8 + at as i64;
        client.request(1, uid.to_string()).expect("is answered");
        eventually("it has a token", || seen.load(Ordering::Acquire));
        client.close();
        eventually("its end is told", || world.gone().contains(&uid));
    }
    assert_eq!(world.gates[0].stats().away, 0);
}
