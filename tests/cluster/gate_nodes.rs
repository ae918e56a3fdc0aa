//! The links of a gate to nodes.

use std::io::Read;
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use epicycle::cluster::dispatch::Policy;
use epicycle::cluster::drpc::{
    Answer, Code, Hello, MAC, NONCE, Party, Request, Role, Secret, VERSION, Value,
};
use epicycle::cluster::gate::{Gate, RateLimit, RefusedPacket};
use epicycle::cluster::link::LaneOptions;
use epicycle::cluster::mesh::MeshClient;
use epicycle::cluster::registry::{Instance, Registry, RouteSpec};
use epicycle::cluster::{self, Error, Kind, State};

use crate::gate::World;
use crate::rig::{Node, Wire, packet};
use crate::util::eventually;
use crate::util::ports::DeadPort;

#[test]
fn a_gate_finds_nodes_that_come_and_leaves_those_that_go() {
    let world = World::with(|gate| gate.reactors(2).dispatch(Policy::RoundRobin));
    let (mut client, cid) = world.known_client("0");
    let second = Node::start("node-2", vec![RouteSpec::new(1)]);
    world.registry.register(&second.instance).expect("is sound");
    second.await_link();
    eventually("both get packets", || {
        client.send(packet(1, 1, "x"));
        !second.packets(cid).is_empty()
    });
    let mut hung = second.instance.clone();
    hung.state = State::Hang;
    world.registry.register(&hung).expect("is sound");
    eventually("it is known", || {
        let before = second.packets(cid).len();
        for _ in 0..4 {
            client.send(packet(1, 1, "y"));
        }
        client.send(b"\0\0\0\x01\x80");
        client.expect(b"\0\0\0\x01\x80");
        second.packets(cid).len() == before
    });
    world
        .registry
        .deregister(&world.node.instance)
        .expect("is there");
    eventually("nobody takes packets", || {
        client.send(packet(1, 1, "z"));
        world.gate.stats().refused[RefusedPacket::NoneWorking] > 0
    });
}

#[test]
fn packets_of_a_client_wait_in_order_while_the_link_to_their_node_is_down() {
    let world = World::new();
    let (mut client, cid) = world.known_client("0");
    // The node's process ends and begins anew, at the same address.
    let addr = world.node.instance.endpoint.clone();
    let addr = addr
        .trim_start_matches("drpc://")
        .trim_end_matches("?is_secure=false");
    let World { gate, node, .. } = world;
    let routes = node.instance.routes.clone();
    drop(node);
    eventually("the gate has noticed", || {
        client.send(packet(1, 1, "lost or not"));
        TcpListener::bind(addr).is_ok()
    });
    for n in 1..=100 {
        client.send(packet(1, 1, &n.to_string()));
    }
    let listener = TcpListener::bind(addr).expect("is free");
    let node = Node::serve("node-1", routes, listener);
    node.await_packet("100");
    let mut packets = node.packets(cid);
    packets.retain(|packet| packet != "lost or not");
    let sent: Vec<String> = (1..=100).map(|n| n.to_string()).collect();
    assert_eq!(packets, sent);
    assert_eq!(gate.stats().given_up, 0);
}

#[test]
fn a_link_that_is_cut_again_and_again_keeps_the_order_and_repeats_nothing() {
    let world = World::with(|gate| gate.reactors(2));
    let (mut client, cid) = world.known_client("-1");
    for n in 0..300 {
        client.send(packet(1, 1, &n.to_string()));
        if n % 50 == 25 {
            world.node.cut();
        }
    }
    eventually("the last one comes", || {
        client.send(packet(1, 1, "300"));
        world.node.packets(cid).iter().any(|packet| packet == "300")
    });
    let got = world.node.packets(cid);
    let numbers = got
        .iter()
        .map(|data| data.parse::<i32>().expect("is a number"));
    let mut numbers: Vec<i32> = numbers.collect();
    numbers.dedup_by_key(|n| if *n == 300 { -2 } else { *n });
    assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
}

#[test]
fn with_a_secret_only_those_who_have_it_are_served() {
    let secret = Secret::new(b"the secret of this cluster").expect("is long enough");
    let world_secret = secret.clone();
    // The node of this world is due, so that the gate sends it nothing.
    let world = World::with(move |gate| gate.secret(world_secret));
    let mut client = world.client();
    client.send(packet(1, 1, "a"));
    let dial = |secret: &Secret| {
        let mut wire = Wire::connect(world.gate.link_addr());
        let (kind, id) = (Kind::Node.code(), "node-9");
        let nonce = [9; NONCE];
        let hello = Hello {
            version: VERSION,
            features: 0,
            nonce,
        };
        let mut frames = Vec::new();
        let stat = Request::GetState;
        for (seq, request) in [
            (1, Request::Handshake { kind, id }),
            (2, Request::Hello(hello)),
            (3, stat),
        ] {
            request.encode_into(seq, &mut frames).expect("is sound");
        }
        wire.send(frames);
        let code = |mut bytes: Vec<u8>| {
            use epicycle::cluster::drpc::{FrameCodec, Incoming};
            use epicycle::codec::{Codec, Decoded};
            let Ok(Decoded::Frame {
                frame: Incoming::Frame(frame),
                ..
            }) = FrameCodec::default().decode(&mut bytes)
            else {
                panic!("is no frame");
            };
            let answer = Answer::decode(&frame).expect("is an answer");
            let theirs = match answer.value {
                Value::Hello(hello, Some(mac)) => Some((hello.nonce, mac)),
                _ => None,
            };
            (answer.code, theirs)
        };
        assert_eq!(code(wire.next().expect("is open")).0, Code::Done);
        let (_, theirs) = code(wire.next().expect("is open"));
        let (their_nonce, mac) = theirs.expect("has a proof");
        assert_eq!(
            code(wire.next().expect("is open")).0,
            Code::Failed,
            "before the proof"
        );
        let dialler = Party { kind, id, nonce };
        let listener = Party {
            kind: Kind::Gate.code(),
            id: "gate-1",
            nonce: their_nonce,
        };
        let is_genuine = secret.verify(&mac, Role::Listener, &dialler, &listener);
        let mac: [u8; MAC] = secret.mac(Role::Dialler, &dialler, &listener);
        let mut frames = Vec::new();
        Request::Prove { mac }
            .encode_into(4, &mut frames)
            .expect("is sound");
        wire.send(frames);
        let proved = code(wire.next().expect("is open")).0;
        (is_genuine, proved, wire)
    };
    let (is_genuine, proved, mut wire) = dial(&secret);
    assert_eq!((is_genuine, proved), (true, Code::Done));
    let mut frame = Vec::new();
    Request::GetState
        .encode_into(5, &mut frame)
        .expect("is sound");
    wire.send(frame);
    assert_eq!(wire.next().expect("is served").last(), Some(&1));

    let wrong = Secret::new(b"the secret of another one").expect("is long enough");
    let (is_genuine, proved, mut wire) = dial(&wrong);
    assert_eq!((is_genuine, proved), (false, Code::Failed));
    assert!(wire.is_over());
    assert!(world.node.told().is_empty(), "it has not proved itself");
}

#[test]
fn a_state_that_another_server_sets_is_registered() {
    let world = World::new();
    let mut link = world.link();
    assert_eq!(link.call(&Request::SetState { state: 2 }), Code::Done);
    let registered = || {
        let gates = world.registry.services("gate").expect("is in memory");
        gates[0].state
    };
    eventually("it is registered", || registered() == State::Busy);
    world.gate.set_state(State::Work).expect("is in memory");
    assert_eq!(registered(), State::Work);
    let state = link.ask(&Request::GetState, |answer| answer.value == Value::State(1));
    assert!(state);
}

#[test]
fn links_beyond_the_limit_are_closed_and_leave_room_when_they_go() {
    let world = World::with(|gate| gate.max_links(2).reactors(2));
    let first = world.link();
    let _second = world.link();
    let mut third = Wire::connect(world.gate.link_addr());
    assert!(third.is_over());
    assert_eq!(world.gate.stats().links_refused, 1);
    drop(first);
    eventually("there is room again", || world.gate.stats().links == 1);
    let _third = world.link();
}

fn lanes(change: impl FnOnce(&mut LaneOptions)) -> LaneOptions {
    let mut options = LaneOptions::default();
    change(&mut options);
    options
}

#[test]
fn links_to_nodes_have_heartbeats() {
    let often = lanes(|options| options.heartbeat = Duration::from_millis(50));
    let world = World::with(|gate| gate.lanes(often));
    eventually("some come", || world.node.heartbeats() >= 3);
}

#[test]
fn a_link_from_another_server_that_is_silent_is_closed_and_heartbeats_keep_one() {
    let world = World::new();
    let (mut silent, mut lively) = (world.link(), world.link());
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Acquire) {
                lively.wire.send(b"\0\0\0\x01\x80");
                thread::sleep(Duration::from_millis(100));
            }
            assert_eq!(lively.bind(1, 1), Code::NotFound);
        });
        let over = silent.wire.is_over();
        is_over.store(true, Ordering::Release);
        assert!(over);
    });
}

/// Registers a node whose links are accepted by the test.
fn dead_node(world: &World) -> TcpListener {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let addr = listener.local_addr().expect("is bound");
    let dead = Instance::new(Kind::Node, "node-9", format!("drpc://{addr}"));
    world.registry.register(&dead).expect("is sound");
    listener
}

#[test]
fn a_node_that_accepts_and_closes_is_dialled_less_and_less_often() {
    let world = World::new();
    let listener = dead_node(&world);
    let began = Instant::now();
    for _ in 0..6 {
        drop(listener.accept().expect("is dialled"));
    }
    // At least half of 50, 100, 200, 400 and 800 ms.
    assert!(began.elapsed() >= Duration::from_millis(775));
}

#[test]
fn a_node_that_cannot_be_reached_is_dialled_until_it_can() {
    // Nothing else wakes the gate's timer.
    let idle = lanes(|options| {
        options.heartbeat = Duration::from_secs(3600);
        options.queue_time = Duration::from_millis(100);
    });
    let world = World::with(|gate| gate.lanes(idle));
    let (mut client, _) = world.known_client("me");
    let dead = DeadPort::new();
    let routes = vec![RouteSpec::new(77)];
    let mut instance = Instance::new(Kind::Node, "node-9", format!("drpc://{}", dead.addr));
    instance.routes.clone_from(&routes);
    world.registry.register(&instance).expect("is sound");
    eventually("a packet is given up", || {
        client.send(packet(77, 1, "x"));
        world.gate.stats().given_up > 0
    });
    let node = Node::serve("node-9", routes, dead.revive());
    node.await_link();
}

#[test]
fn a_node_that_does_not_answer_the_opening_is_given_up_and_dialled_again() {
    let hasty = lanes(|options| options.handshake_timeout = Duration::from_millis(500));
    let world = World::with(|gate| gate.lanes(hasty));
    let listener = dead_node(&world);
    for _ in 0..2 {
        let (mut link, _) = listener.accept().expect("is dialled");
        let mut opening = Vec::new();
        link.read_to_end(&mut opening).expect("ends with FIN");
        assert!(
            opening.starts_with(b"\0\0\0\x11\0\x01"),
            "it begins with a handshake"
        );
    }
    let (_client, _) = world.known_client("others are served");
}

#[test]
fn times_of_zero_are_refused_at_the_start() {
    let change: [fn(&mut LaneOptions); 4] = [
        |lanes| lanes.handshake_timeout = Duration::ZERO,
        |lanes| lanes.call_timeout = Duration::ZERO,
        |lanes| lanes.heartbeat = Duration::ZERO,
        |lanes| lanes.queue_time = Duration::ZERO,
    ];
    for change in change {
        let mut lanes = LaneOptions::default();
        change(&mut lanes);
        let gate = Gate::builder().listen("tcp://127.0.0.1:0");
        let gate = gate.lanes(lanes.clone()).start();
        assert!(
            matches!(gate, Err(Error::InvalidArgument { .. })),
            "{lanes:?}"
        );
        let node = cluster::node::Node::builder().lanes(lanes.clone()).start();
        assert!(
            matches!(node, Err(Error::InvalidArgument { .. })),
            "{lanes:?}"
        );
    }
    let limit = RateLimit::per_second(10, 0).burst(Duration::ZERO);
    let gate = Gate::builder()
        .listen("tcp://127.0.0.1:0")
        .rate_limit(limit);
    assert!(matches!(gate.start(), Err(Error::InvalidArgument { .. })));
    let mesh = MeshClient::builder().call_timeout(Duration::ZERO).start();
    assert!(matches!(mesh, Err(Error::InvalidArgument { .. })));
}
