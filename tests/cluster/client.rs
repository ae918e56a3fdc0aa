//! Clients of gates: over a scripted gate, and over one of ours.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

use epicycle::Reconnect;
use epicycle::cluster::client::{Client, ClientBuilder, ClientEvent, Clients};
use epicycle::cluster::drpc::{Code, Request, Target};
use epicycle::cluster::packet::{Control, GoodbyeReason, PacketFrame, PacketOptions};
use epicycle::cluster::{Cluster, Error};
use parking_lot::Mutex;

use crate::gate::World;
use crate::rig::{Wire, conn, packet};
use crate::util::ports::DeadPort;
use crate::util::{LONG, eventually};

/// A gate that does what a test says.
struct ScriptedGate(TcpListener);

impl ScriptedGate {
    fn new() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").expect("a port"))
    }

    fn url(&self) -> String {
        format!("tcp://{}", self.0.local_addr().expect("has an address"))
    }

    fn accept(&self) -> Wire {
        Wire::over(self.0.accept().expect("a client").0)
    }

    /// Connects a client. Returns it with the gate's end of its connection.
    fn connect(&self, builder: ClientBuilder) -> (Client, Wire) {
        let client = builder.connect(self.url()).expect("connects");
        (client, self.accept())
    }
}

/// Sends a request. Returns where its result arrives.
fn ask(client: &Client, route: i32, data: &str) -> Receiver<Result<Vec<u8>, Error>> {
    let (sender, receiver) = mpsc::channel();
    let asked = client.request_then(route, data.to_owned(), move |_, reply| {
        let _ = sender.send(reply.map(<[u8]>::to_vec));
    });
    asked.expect("is sent");
    receiver
}

fn next<T>(receiver: &Receiver<T>) -> T {
    receiver.recv_timeout(LONG).expect("comes")
}

/// Notes the names of events.
fn note_events(builder: ClientBuilder) -> (ClientBuilder, Receiver<&'static str>) {
    let (sender, receiver) = mpsc::channel();
    let builder = builder.on_event(move |_, event| {
        let name = match event {
            ClientEvent::Connected { again: false } => "connected",
            ClientEvent::Connected { again: true } => "connected again",
            ClientEvent::Disconnected { .. } => "disconnected",
            ClientEvent::Goodbye {
                retry_in: Some(time),
                ..
            } => match time.as_millis() {
                7 => "come again in 7 ms",
                _ => "come again",
            },
            ClientEvent::Goodbye {
                reason: GoodbyeReason::Kicked,
                ..
            } => "kicked",
            ClientEvent::Goodbye { .. } => "replaced",
            ClientEvent::ConnectFailed { .. } => "failed",
            ClientEvent::ResumeRefused { .. } => "refused",
            _ => "another",
        };
        let _ = sender.send(name);
    });
    (builder, receiver)
}

fn quickly() -> Reconnect {
    Reconnect::new(Duration::from_millis(1), Duration::from_millis(10))
}

#[test]
fn answers_find_their_requests_by_route_and_seq_in_any_order() {
    let gate = ScriptedGate::new();
    let pushes = Arc::new(Mutex::new(Vec::new()));
    let builder = Client::builder().other_routes({
        let pushes = pushes.clone();
        move |_, packet| pushes.lock().push((packet.route, packet.seq))
    });
    let (client, mut wire) = gate.connect(builder);
    let (one, two) = (ask(&client, 1, "one"), ask(&client, 2, "two"));
    wire.expect(packet(1, 1, "one"));
    wire.expect(packet(2, 2, "two"));
    // The same seq of another route is no answer.
    wire.send(packet(9, 1, "push"));
    wire.send(packet(2, 2, "to two"));
    wire.send(packet(1, 1, "to one"));
    assert_eq!(next(&one).expect("is answered"), b"to one");
    assert_eq!(next(&two).expect("is answered"), b"to two");
    // An answer that comes twice is a push.
    wire.send(packet(1, 1, "to one"));
    wire.send(packet(7, 0, "news"));
    eventually("the pushes are there", || pushes.lock().len() == 3);
    assert_eq!(*pushes.lock(), [(9, 1), (1, 1), (7, 0)]);
}

#[test]
fn a_request_without_an_answer_fails_in_time_and_others_go_on() {
    let gate = ScriptedGate::new();
    let (client, mut wire) =
        gate.connect(Client::builder().call_timeout(Duration::from_millis(50)));
    let error = client.request(1, "x").expect_err("nobody answers");
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    assert!(error.to_string().contains("of route 1 "), "{error}");
    wire.expect(packet(1, 1, "x"));
    let late = thread::spawn(move || {
        wire.send(packet(1, 1, "late"));
        while let Some(request) = wire.next() {
            wire.send(&request);
        }
    });
    eventually("one is answered in time", || {
        client.request(1, "y").is_ok_and(|answer| answer == "y")
    });
    drop(client);
    late.join().expect("the client has ended the connection");
}

#[test]
fn the_end_of_a_connection_fails_its_requests_and_another_one_is_made() {
    let gate = ScriptedGate::new();
    let (builder, events) = note_events(Client::builder().reconnect(quickly()));
    let (client, mut wire) = gate.connect(builder);
    assert_eq!(next(&events), "connected");
    let waiting = ask(&client, 1, "x");
    wire.expect(packet(1, 1, "x"));
    drop(wire);
    let error = next(&waiting).expect_err("its connection is gone");
    assert!(
        matches!(&error, Error::LinkDown { peer } if *peer == gate.url()),
        "{error}"
    );
    assert_eq!(next(&events), "disconnected");
    let mut wire = gate.accept();
    assert_eq!(next(&events), "connected again");
    assert!(client.is_connected());
    client.push(5, "y").expect("is sent");
    wire.expect(packet(5, 0, "y"));

    client.close();
    assert!(wire.is_over());
    assert_eq!(next(&events), "disconnected");
    // Its handlers are gone, so it does not dial again.
    assert!(
        events
            .recv_timeout(LONG)
            .is_err_and(|error| error == mpsc::RecvTimeoutError::Disconnected)
    );
    let error = client.push(5, "z").expect_err("it is closed");
    assert!(matches!(error, Error::LinkDown { .. }), "{error}");
}

/// Tells a gate that control packets are known.
const ACK: &[u8] = b"\0\0\0\x0d\x01\0\x05\0\0\0\0\0\0\0\0\0\0";

#[test]
fn a_client_leaves_a_gate_that_stops_when_its_requests_have_ended_and_comes_again_when_it_is_told_to()
 {
    let gate = ScriptedGate::new();
    // The gate's time counts, not this one.
    let hours = Duration::from_secs(3600);
    let builder = Client::builder().reconnect(Reconnect::new(hours, hours));
    let (builder, events) = note_events(builder.control_packets(true));
    let (client, mut wire) = gate.connect(builder);
    assert_eq!(next(&events), "connected");
    wire.expect(ACK);
    let waiting = ask(&client, 1, "x");
    wire.expect(packet(1, 1, "x"));
    wire.send(b"\0\0\0\x0a\x01\0\x04\0\0\x01\0\0\0\x07");
    assert_eq!(next(&events), "come again in 7 ms");
    assert!(!client.is_connected());
    let error = client.push(5, "y").expect_err("it takes no more");
    assert!(matches!(error, Error::LinkDown { .. }), "{error}");
    wire.send(packet(1, 1, "answer"));
    assert_eq!(next(&waiting).expect("is answered"), b"answer");
    assert!(wire.is_over());
    drop(wire);
    assert_eq!(next(&events), "disconnected");
    let mut wire = gate.accept();
    assert_eq!(next(&events), "connected again");
    wire.expect(ACK);
    client.push(5, "z").expect("is sent");
    wire.expect(packet(5, 0, "z"));
    // Without a request under way it leaves at once.
    wire.send(b"\0\0\0\x0a\x01\0\x04\0\0\x01\0\0\0\0");
    assert!(wire.is_over());
}

#[test]
fn a_client_whose_user_has_logged_in_elsewhere_does_not_come_again() {
    let gate = ScriptedGate::new();
    let builder = Client::builder().reconnect(quickly()).control_packets(true);
    let (builder, events) = note_events(builder);
    let (_client, mut wire) = gate.connect(builder);
    wire.send(b"\0\0\0\x0a\x01\0\x04\0\0\x02\0\0\0\0");
    wire.expect(ACK);
    assert!(wire.is_over());
    drop(wire);
    for event in ["connected", "replaced", "disconnected"] {
        assert_eq!(next(&events), event);
    }
    // Its handlers are gone.
    assert!(
        events
            .recv_timeout(LONG)
            .is_err_and(|error| error == mpsc::RecvTimeoutError::Disconnected)
    );
}

#[test]
fn a_client_that_is_kicked_is_told_so_and_does_not_come_again_if_it_knows_control_packets() {
    let cluster = Cluster::embedded();
    let node = cluster
        .node()
        .route(1, |_: &mut (), cx| cx.disconnect(false))
        .route(2, |_, cx| {
            let client = Target::conn(cx.cid());
            cx.kick(client, false)
        })
        .start()
        .expect("starts");
    let gate = cluster.gate().listen("tcp://127.0.0.1:0");
    let gate = gate.start().expect("starts");
    let connect = |knows| {
        let builder = Client::builder()
            .reconnect(quickly())
            .control_packets(knows);
        let (builder, events) = note_events(builder);
        let client = builder.connect(gate.client_addrs()[0].to_string());
        (client.expect("connects"), events)
    };
    for route in [1, 2] {
        let (client, events) = connect(true);
        client.push(route, "").expect("is sent");
        for event in ["connected", "kicked", "disconnected"] {
            assert_eq!(next(&events), event);
        }
        // Its handlers are gone.
        assert!(events.recv_timeout(LONG).is_err());
        assert!(client.push(route, "").is_err());
    }
    let (client, events) = connect(false);
    client.push(1, "").expect("is sent");
    for event in ["connected", "disconnected", "connected again"] {
        assert_eq!(next(&events), event);
    }
    drop(node);
}

#[test]
fn a_gate_that_cannot_be_reached_is_an_error_at_once_or_dialled_until_it_can() {
    let dead = DeadPort::new();
    let url = format!("tcp://{}", dead.addr);
    let error = Client::builder().connect(&url).expect_err("nobody listens");
    assert!(error.to_string().contains(&url), "{error}");
    #[cfg(not(feature = "kcp"))]
    {
        let kcp = Client::builder().connect("kcp://127.0.0.1:1");
        let error = kcp.expect_err("it is not built in");
        assert!(error.to_string().contains("feature `kcp`"), "{error}");
    }

    let clients = Clients::start(1).expect("starts");
    let (builder, events) = note_events(Client::builder().reconnect(quickly()));
    let client = builder.dial(&clients, &url).expect("is sound");
    for _ in 0..3 {
        assert_eq!(next(&events), "failed");
    }
    let error = client.request(1, "x").expect_err("there is no connection");
    assert!(matches!(error, Error::LinkDown { .. }), "{error}");
    let (builder, events) = note_events(Client::builder().reconnect(None));
    let _client = builder.dial(&clients, &url).expect("is sound");
    assert_eq!(next(&events), "failed");
    assert!(events.recv_timeout(LONG).is_err(), "it is closed");
}

#[test]
fn a_silent_gate_is_given_up_and_one_that_says_anything_is_not() {
    let gate = ScriptedGate::new();
    let often = Client::builder()
        .heartbeat(Duration::from_millis(30))
        .reconnect(quickly());
    let (builder, events) = note_events(often);
    let (_client, mut wire) = gate.connect(builder);
    assert_eq!(next(&events), "connected");
    let heartbeat = b"\0\0\0\x01\x80";
    // A size of 0 is a sign of life too.
    for life in [&heartbeat[..], b"\0\0\0\0", &packet(1, 0, "x")].repeat(3) {
        wire.expect(heartbeat);
        wire.send(life);
    }
    assert!(events.try_recv().is_err(), "it is connected still");
    for _ in 0..3 {
        wire.expect(heartbeat);
    }
    assert!(wire.is_over());
    assert_eq!(next(&events), "disconnected");
    gate.accept();
}

#[test]
fn a_gate_that_sends_what_is_no_packet_is_left() {
    let gate = ScriptedGate::new();
    for bad in [&b"\xff\xff\xff\xff"[..], b"\0\0\0\x03\0\0\x01"] {
        let (builder, events) = note_events(Client::builder().reconnect(None));
        let (_client, mut wire) = gate.connect(builder);
        assert_eq!(next(&events), "connected");
        wire.send(bad);
        assert_eq!(next(&events), "disconnected");
        assert!(wire.is_over());
    }
}

#[test]
fn each_route_has_its_numbers_and_all_in_use_is_busy() {
    let gate = ScriptedGate::new();
    let narrow = PacketOptions::builder().seq_bytes(1).build();
    let (client, mut wire) = gate.connect(Client::builder().packets(narrow.expect("is sound")));
    let waiting: Vec<_> = (0..127).map(|_| ask(&client, 1, "x")).collect();
    let error = client.request(1, "x").expect_err("all numbers are in use");
    assert!(matches!(error, Error::Busy { .. }), "{error}");
    let other = ask(&client, 2, "y");
    let requests: Vec<_> = (0..128).map(|_| wire.next().expect("comes")).collect();
    for request in requests.iter().rev() {
        wire.send(request);
    }
    for one in waiting {
        assert_eq!(next(&one).expect("is answered"), b"x");
    }
    assert_eq!(next(&other).expect("is answered"), b"y");

    let without = PacketOptions::builder().seq_bytes(0).build();
    let (client, _wire) = gate.connect(Client::builder().packets(without.expect("is sound")));
    let error = client.request(1, "x").expect_err("has no seq");
    assert!(error.to_string().contains("seq_bytes"), "{error}");
    let error = client
        .request(1, vec![0; 5001])
        .expect_err("has no seq either");
    assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");
}

#[test]
fn a_request_that_does_not_fit_is_an_error_and_costs_no_number() {
    let gate = ScriptedGate::new();
    let (client, mut wire) = gate.connect(Client::builder());
    let error = client.request(1, vec![0; 5001]).expect_err("is too large");
    assert!(
        matches!(error, Error::TooLarge { max: 5000, .. }),
        "{error}"
    );
    let error = client
        .request(40_000, "x")
        .expect_err("has a route too high");
    assert!(
        matches!(error, Error::RouteOverflow { route: 40_000, .. }),
        "{error}"
    );
    let sound = ask(&client, 1, "x");
    let request = wire.next().expect("comes");
    wire.send(&request);
    assert_eq!(next(&sound).expect("is answered"), b"x");
}

#[test]
fn handlers_have_their_own_state_and_answer_from_the_reactor() {
    let gate = ScriptedGate::new();
    let clients = Clients::start(2).expect("starts");
    let (sums, told): (Sender<u32>, _) = mpsc::channel();
    let mut joined = Vec::new();
    for _ in 0..4 {
        let (mut sum, sums) = (0, sums.clone());
        let builder = Client::builder().route(3, move |context, packet| {
            sum += u32::from(packet.data[0]);
            let _ = sums.send(sum);
            let done = context.request(4, packet.data, |context, reply| {
                let reply = reply.expect("is answered").to_vec();
                context.push(5, &reply).expect("is sent");
            });
            done.expect("is sent");
        });
        let client = builder.connect_on(&clients, gate.url()).expect("connects");
        joined.push((client, gate.accept()));
    }
    for (_, wire) in &mut joined {
        for expected in [7, 14] {
            wire.send(packet(3, 0, "\x07"));
            let request = wire.next().expect("comes");
            wire.send(&request);
            wire.expect(packet(5, 0, "\x07"));
            assert_eq!(next(&told), expected);
        }
    }
}

#[test]
fn nothing_waits_on_a_reactor_and_the_last_client_may_go_there() {
    let gate = ScriptedGate::new();
    let (sender, told) = mpsc::channel();
    let own: Arc<Mutex<Option<Client>>> = Arc::default();
    let builder = Client::builder().route(1, {
        let own = own.clone();
        move |_, _| {
            let client = own.lock().take().expect("is there");
            let _ = sender.send(client.request(1, "x").map(drop));
            // This is the last one, so the threads end with it.
            drop(client);
        }
    });
    let (client, mut wire) = gate.connect(builder);
    *own.lock() = Some(client);
    wire.send(packet(1, 0, "go"));
    let error = next(&told).expect_err("it would wait for itself");
    assert!(error.to_string().contains("request_then"), "{error}");
    assert!(wire.is_over());
    eventually("the handlers are gone", || {
        matches!(told.try_recv(), Err(mpsc::TryRecvError::Disconnected))
    });
}

#[test]
fn a_client_speaks_with_a_gate_over_tcp_and_over_websocket() {
    let world = World::with(|gate| gate.listen("ws://127.0.0.1:0/play"));
    let addrs = world.gate.client_addrs();
    let mut link = world.link();
    for (name, url) in [
        ("tcp", format!("{}", addrs[0])),
        (
            "ws",
            format!("ws://{}/play", addrs[1].as_socket_addr().expect("is TCP")),
        ),
    ] {
        let (sender, pushes) = mpsc::channel();
        let builder = Client::builder()
            .heartbeat(Duration::from_millis(20))
            .route(-5, move |_, packet| drop(sender.send(packet.data.to_vec())));
        let client = builder.connect(&url).expect("connects");
        let answer = ask(&client, 1, name);
        let (cid, _) = world.node.await_packet(name);
        let mut push = |packet: &[u8]| {
            let request = Request::Push {
                target: conn(cid),
                disconnect: false,
                packet,
            };
            assert_eq!(link.call(&request), Code::Done);
        };
        push(&packet(1, 1, "answer"));
        push(&packet(-5, 0, "news"));
        assert_eq!(next(&answer).expect("is answered"), b"answer");
        assert_eq!(next(&pushes), b"news");
    }
    let addr = addrs[1].as_socket_addr().expect("is TCP");
    let error = Client::builder().connect(format!("ws://{addr}/other"));
    let error = error.expect_err("nothing is there").to_string();
    assert!(error.contains("404"), "{error}");
}

/// Returns a client that has a token, and lets its gate see how it comes back.
fn resuming(builder: ClientBuilder) -> (ScriptedGate, Client, Wire) {
    let gate = ScriptedGate::new();
    let (client, wire) = gate.connect(builder.reconnect(quickly()));
    client.set_resume_token("a token").expect("is running");
    (gate, client, wire)
}

/// Waits until a client has tried to come back. Returns the number of the last packet that it says to have.
fn resumed_after(wire: &mut Wire) -> u64 {
    loop {
        let bytes = wire.next().expect("is open");
        match PacketOptions::default().decode_message(&bytes) {
            Ok(PacketFrame::Control(Control::Resume { last, .. })) => return last,
            Ok(_) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

fn control(control: &Control<'_>) -> Vec<u8> {
    let packet = PacketOptions::default().encode_control(control);
    packet.expect("is short").as_bytes().to_vec()
}

#[test]
fn a_request_fails_in_time_though_no_gate_is_there_when_its_client_would_come_back() {
    let (sender, receiver) = mpsc::channel();
    let builder = Client::builder()
        .call_timeout(Duration::from_millis(300))
        .route(7, move |cx, _| {
            let sender = sender.clone();
            let asked = cx.request(8, b"", move |_, reply| {
                let _ = sender.send(reply.map(<[u8]>::len));
            });
            asked.expect("is sent");
        });
    let (gate, _client, wire) = resuming(builder);
    drop(wire);
    let mut wire = gate.accept();
    resumed_after(&mut wire);
    wire.send(packet(7, 0, "ask"));
    // The request.
    wire.next().expect("is open");
    drop((gate, wire));
    let reply = next(&receiver);
    assert!(matches!(reply, Err(Error::Timeout { .. })), "{reply:?}");
}

#[test]
fn a_client_counts_as_its_gate_does_if_that_takes_it_back_late() {
    let (came, comes) = mpsc::channel();
    let builder = Client::builder()
        .call_timeout(Duration::from_millis(100))
        .route(7, move |_, _| came.send(()).expect("is awaited"));
    let (builder, events) = note_events(builder);
    let (gate, client, mut wire) = resuming(builder);
    for _ in 0..5 {
        wire.send(packet(7, 0, "before"));
        next(&comes);
    }
    drop(wire);
    let mut wire = gate.accept();
    assert_eq!(resumed_after(&mut wire), 5);
    wire.send(packet(7, 0, "which the gate does not count"));
    next(&comes);
    while next(&events) != "refused" {}
    wire.send(control(&Control::Resumed { count: 1 }));
    wire.send(packet(7, 0, "missed"));
    next(&comes);
    client.set_resume_token("another one").expect("is running");
    drop(wire);
    assert_eq!(resumed_after(&mut gate.accept()), 6);
}
