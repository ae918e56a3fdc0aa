//! The admin interface, over real sockets, with a gate and nodes that it acts on.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use epicycle::cluster::admin::{Admin, AdminBuilder};
use epicycle::cluster::drpc::{Code, Request, Secret};
use epicycle::cluster::locator::Locator;
use epicycle::cluster::mesh::{Mesh, MeshClient};
use epicycle::cluster::node::Node;
use epicycle::cluster::registry::{Instance, Registry};
use epicycle::cluster::{Cluster, Kind, Monitor, State};
use serde_json::{Value, json};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::gate::World;
use crate::gate_users::Faulty;
use crate::rig::{Wire, conn, packet};
use crate::util::strangers::prometheus_families;
use crate::util::{LONG, eventually};

const TOKEN: &str = "0123456789abcdef";

pub(crate) struct Response {
    status: u16,
    head: String,
    body: String,
}

impl Response {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("{} {}", self.status, self.body))
    }
}

/// Sends a request as it is.
fn send(admin: &Admin, request: &str) -> Response {
    let mut stream = TcpStream::connect(admin.addr()).expect("connects");
    stream.set_read_timeout(Some(LONG)).expect("can be set");
    stream.write_all(request.as_bytes()).expect("is sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("is read");
    let (head, body) = answer.split_once("\r\n\r\n").expect("has a head");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    Response {
        status: status.expect("has a status"),
        head: head.to_owned(),
        body: body.to_owned(),
    }
}

fn ask(admin: &Admin, method: &str, path: &str, body: &str) -> Response {
    let length = body.len();
    let token = admin.token().map_or(String::new(), |token| {
        format!("Authorization: Bearer {token}\r\n")
    });
    let head =
        format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{token}Connection: close\r\n");
    send(
        admin,
        &format!("{head}Content-Length: {length}\r\n\r\n{body}"),
    )
}

pub(crate) fn get(admin: &Admin, path: &str) -> Response {
    ask(admin, "GET", path, "")
}

/// An interface to the gate and the node of a world.
fn admin(world: &World, options: impl FnOnce(AdminBuilder) -> AdminBuilder) -> Admin {
    let builder = Admin::builder()
        .registry(world.registry.clone())
        .locator(world.locator.clone());
    options(builder).start().expect("starts")
}

#[test]
fn instances_are_listed_and_their_states_are_set_over_links() {
    let cluster = Cluster::embedded();
    let gate = cluster.gate().id("gate-1").listen("tcp://127.0.0.1:0");
    let _gate = gate.start().expect("starts");
    let node = cluster
        .node()
        .id("node 1")
        .route(1, |_, cx| cx.respond("hi"));
    let _node = node.start().expect("starts");
    let _mesh = cluster.mesh().id("mesh-1").service("math", |_| {});
    let _mesh = _mesh.start().expect("starts");
    let admin = cluster.admin().start().expect("starts");
    let state = |id: &str| {
        let told = get(&admin, "/instances").json();
        let instances = told["instances"].as_array().expect("is a list").clone();
        let found = instances.into_iter().find(|instance| instance["id"] == id);
        found.expect("is listed")["state"].clone()
    };
    for id in ["gate-1", "node 1", "mesh-1"] {
        assert_eq!(state(id), "work");
    }
    let set = |id: &str, body: &str| ask(&admin, "PUT", &format!("/instances/{id}/state"), body);
    for (path, id) in [("gate-1", "gate-1"), ("node%201", "node 1")] {
        let answer = set(path, r#"{"state":"busy"}"#);
        assert_eq!(
            (answer.status, answer.json()["id"].clone()),
            (200, json!(id))
        );
        eventually("it is registered", || state(id) == "busy");
    }
    let unknown = set("nobody", r#"{"state":"busy"}"#);
    assert_eq!(unknown.status, 404);
    assert!(unknown.body.contains("is registered"), "{}", unknown.body);
    for (id, body) in [
        ("mesh-1", r#"{"state":"busy"}"#),
        ("gate-1", r#"{"state":"lazy"}"#),
        ("gate-1", r#"{"state":"busy","x":1}"#),
        ("gate-1", ""),
    ] {
        assert_eq!(set(id, body).status, 400, "{id} {body}");
    }
    assert_eq!(state("gate-1"), "busy");
    // One that gets nothing any more can be told to work again.
    for wanted in ["shut", "work"] {
        let answer = set("gate-1", &format!(r#"{{"state":"{wanted}"}}"#));
        assert_eq!(answer.status, 200, "{}", answer.body);
        eventually("it is registered", || state("gate-1") == wanted);
    }
}

#[test]
fn probes_are_answered_while_all_workers_are_busy() {
    let world = World::new();
    let locator = Faulty::default();
    locator.waits.store(true, Ordering::Release);
    let admin = admin(&world, |admin| admin.locator(locator.clone()));
    thread::scope(|scope| {
        let asked = [(); 8].map(|()| scope.spawn(|| get(&admin, "/users/7").status));
        eventually("the workers are busy", || {
            locator.asked.load(Ordering::Acquire) == 4
        });
        for path in ["/healthz", "/readyz"] {
            assert_eq!(get(&admin, path).status, 200);
        }
        locator.waits.store(false, Ordering::Release);
        for asked in asked {
            assert_eq!(asked.join().expect("is answered"), 404);
        }
    });
}

#[cfg(target_os = "linux")]
#[test]
fn one_address_does_not_take_the_place_of_all_others() {
    let world = World::new();
    let admin = admin(&world, |admin| admin.listen("tcp://0.0.0.0:0"));
    let port = admin.addr().port();
    let connect = |from: &str| {
        let addr =
            |host: &str, port| SockAddr::from(SocketAddr::new(host.parse().expect("is one"), port));
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("is there");
        socket.bind(&addr(from, 0)).expect("binds");
        socket.connect(&addr("127.0.0.1", port)).expect("connects");
        Wire::over(socket.into())
    };
    let held: Vec<Wire> = (0..48).map(|_| connect("127.0.0.1")).collect();
    assert!(connect("127.0.0.1").is_over());
    let mut other = connect("127.0.0.2");
    other.send("GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let mut answer = String::new();
    other.0.read_to_string(&mut answer).expect("is read");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    drop(held);
}

#[test]
fn a_user_is_found_and_kicked_at_its_gate() {
    let world = World::new();
    let admin = admin(&world, |admin| admin);
    let (mut client, cid) = world.known_client("me");
    let addr = client.0.local_addr().expect("has one").to_string();
    assert_eq!(get(&admin, "/users/7").status, 404);
    assert_eq!(world.link().bind(cid, 7), Code::Done);
    let bound = world.locator.bind_node(7, "chess", "node-1");
    bound.expect("is bound");
    let user = get(&admin, "/users/7");
    let expected = json!({"uid": 7, "gate": "gate-1", "nodes": {"chess": "node-1"}, "online": true, "addr": addr});
    assert_eq!((user.status, user.json()), (200, expected));

    for wrong in [
        "/users/0",
        "/users/-7",
        "/users/x",
        "/users/99999999999999999999",
    ] {
        assert_eq!(get(&admin, wrong).status, 400, "{wrong}");
    }
    assert_eq!(ask(&admin, "POST", "/users/8/kick", "").status, 404);
    // Ack: it speaks control packets.
    client.send(b"\0\0\0\x0d\x01\0\x05\0\0\0\0\0\0\0\0\0\0");
    client.send(b"\0\0\0\x01\x80");
    client.expect(b"\0\0\0\x01\x80");
    let kicked = ask(&admin, "POST", "/users/7/kick", "");
    assert_eq!(
        (kicked.status, kicked.json()),
        (200, json!({"uid": 7, "gate": "gate-1"}))
    );
    // Goodbye: kicked.
    client.expect(b"\0\0\0\x0a\x01\0\x04\0\0\x03\0\0\0\0");
    assert_eq!(client.next(), None);
    eventually("the gate has let it go", || {
        let kicked = ask(&admin, "POST", "/users/7/kick?force=true", "");
        kicked.status == 404
    });
}

#[test]
fn a_broadcast_reaches_the_clients_of_all_gates() {
    let world = World::new();
    let admin = admin(&world, |admin| admin);
    let (mut user, cid) = world.known_client("user");
    let (mut guest, _) = world.known_client("guest");
    assert_eq!(world.link().bind(cid, 7), Code::Done);
    let to_users = ask(
        &admin,
        "POST",
        "/broadcast",
        r#"{"route":7,"data":{"text":"hi"}}"#,
    );
    assert_eq!(
        (to_users.status, to_users.json()),
        (200, json!({"receivers": 1, "failed": {}}))
    );
    user.expect(packet(7, 0, r#"{"text":"hi"}"#));
    let to_all = r#"{"route":7,"to":"connections","data":[1]}"#;
    let to_all = ask(&admin, "POST", "/broadcast", to_all);
    assert_eq!(to_all.json()["receivers"], 2);
    for client in [&mut user, &mut guest] {
        client.expect(packet(7, 0, "[1]"));
    }
    for wrong in [
        r#"{"data":1}"#,
        r#"{"route":70000,"data":1}"#,
        r#"{"route":7,"to":"everybody"}"#,
        "[",
    ] {
        assert_eq!(
            ask(&admin, "POST", "/broadcast", wrong).status,
            400,
            "{wrong}"
        );
    }
    let long = format!(r#"{{"route":7,"data":"{}"}}"#, "x".repeat(5000));
    assert_eq!(ask(&admin, "POST", "/broadcast", &long).status, 400);

    // A gate that cannot be reached is named, and the others get it.
    let mut gone = Instance::new(Kind::Gate, "gone", "drpc://127.0.0.1:1?is_secure=false");
    world.registry.register(&gone).expect("is sound");
    eventually("the other gate is known", || {
        let answer = ask(&admin, "POST", "/broadcast", r#"{"route":7,"data":2}"#);
        let told = answer.json();
        assert_eq!(told["receivers"], 1);
        answer.status == 502 && told["failed"]["gone"].is_string()
    });
    gone.state = State::Shut;
    world.registry.register(&gone).expect("is sound");
    eventually("one that is shut is not asked", || {
        ask(&admin, "POST", "/broadcast", r#"{"route":7,"data":3}"#).status == 200
    });
}

#[test]
fn only_those_with_the_token_are_let_in_and_a_guess_takes_its_time() {
    let admin = Admin::builder().token(TOKEN).host("ops.example");
    let admin = admin.start().expect("starts");
    let with = |path: &str, fields: &str| {
        send(
            &admin,
            &format!("GET {path} HTTP/1.1\r\n{fields}Connection: close\r\n\r\n"),
        )
    };
    let good = format!("Authorization: Bearer {TOKEN}\r\n");
    let ours = "Host: localhost\r\n";
    assert_eq!(with("/instances", &format!("{ours}{good}")).status, 200);
    assert_eq!(
        with("/instances", &format!("Host: ops.example:80\r\n{good}")).status,
        200
    );
    assert_eq!(
        with("/instances", &format!("Host: evil.example\r\n{good}")).status,
        421
    );
    let elsewhere = format!("{ours}{good}Origin: https://evil.example\r\n");
    assert_eq!(with("/instances", &elsewhere).status, 403);
    let none = with("/instances", ours);
    assert_eq!(none.status, 401);
    assert!(
        none.head.contains("WWW-Authenticate: Bearer"),
        "{}",
        none.head
    );
    let began = Instant::now();
    let guess = format!("{ours}Authorization: Bearer 0123456789abcdeF\r\n");
    assert_eq!(with("/instances", &guess).status, 401);
    assert!(
        began.elapsed() >= Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
    // Probes have no token.
    assert_eq!(with("/healthz", ours).json(), json!({"status": "ok"}));
    assert_eq!(with("/readyz", ours).status, 200);
    assert_eq!(with("/nothing", &format!("{ours}{good}")).status, 404);
    let wrong_method = ask(&admin, "DELETE", "/instances", "");
    assert_eq!(wrong_method.status, 405);
    assert!(
        wrong_method.head.contains("Allow: GET, HEAD"),
        "{}",
        wrong_method.head
    );
}

#[test]
fn an_interface_that_others_can_reach_has_a_token() {
    let problem = |builder: AdminBuilder| builder.start().expect_err("is wrong").to_string();
    assert!(problem(Admin::builder().token("short")).contains("16 characters"));
    assert!(problem(Admin::builder().listen("tcp://0.0.0.0:0").without_token()).contains("token"));
    assert!(problem(Admin::builder().token(TOKEN).without_token()).contains("token"));
    // It is found before anything listens there.
    let taken = TcpListener::bind("0.0.0.0:0").expect("binds");
    let port = taken.local_addr().expect("is bound").port();
    let open = Admin::builder().listen(format!("tcp://:{port}"));
    assert!(problem(open.without_token()).contains("token"));
    assert!(problem(Admin::builder().listen("nonsense")).contains("nonsense"));
    let open = Admin::builder().without_token().start().expect("starts");
    assert_eq!((open.token(), get(&open, "/instances").status), (None, 200));
    let random = Admin::builder().start().expect("starts");
    let other = Admin::builder().start().expect("starts");
    assert_ne!(random.token(), other.token());
    assert!(random.token().is_some_and(|token| token.len() >= 32));
}

#[test]
fn a_process_is_ready_while_all_its_parts_take_work() {
    let cluster = Cluster::embedded();
    let admin = cluster.admin().start().expect("starts");
    let gate = cluster.gate().id("gate-1").listen("tcp://127.0.0.1:0");
    let gate = gate.start().expect("starts");
    assert_eq!(get(&admin, "/readyz").json()["ready"], true);
    gate.set_state(State::Hang).expect("is registered");
    let leaving = get(&admin, "/readyz");
    assert_eq!(
        (leaving.status, leaving.json()["leaving"].clone()),
        (503, json!(["gate-1"]))
    );
    assert_eq!(get(&admin, "/healthz").status, 200);
    gate.shutdown();
    assert_eq!(get(&admin, "/readyz").status, 200);
    let node = cluster.node().id("node-1").start().expect("starts");
    let metrics = get(&admin, "/metrics").body;
    let line = r#"epicycle_node_packets_in_total{id="node-1"} 0"#;
    assert!(metrics.contains(line), "{metrics}");
    node.shutdown();
    assert!(!get(&admin, "/metrics").body.contains("node-1"));
}

#[test]
fn the_metrics_are_those_of_the_parts_of_the_process() {
    let monitor = Monitor::new();
    let world = World::with(|gate| gate.reactors(2).monitor(&monitor));
    let mesh = Mesh::builder()
        .id("mesh-1")
        .registry(world.registry.clone());
    let mesh = mesh.monitor(&monitor).service("math", |routes| {
        routes.call("half", |_ctx, n: u32| Ok(n / 2));
    });
    let _mesh = mesh.start().expect("starts");
    let calls = MeshClient::builder().registry(world.registry.clone());
    let calls = calls.start().expect("starts");
    assert_eq!(
        calls
            .call::<_, u32>("/math/half", &8)
            .wait()
            .expect("answers"),
        4
    );
    // It serves nothing.
    let _node = Node::builder().id("node-2").monitor(&monitor).start();
    let _node = _node.expect("starts");
    let admin = admin(&world, |admin| admin.monitor(&monitor));
    let (mut client, cid) = world.known_client("me");
    assert_eq!(world.link().bind(cid, 7), Code::Done);
    assert_eq!(get(&admin, "/users/7").status, 200);
    // Routes that no node serves, and a push after them.
    for route in 1000..2000 {
        client.send(packet(route, 0, "x"));
    }
    let news = packet(7, 0, "news");
    let push = Request::Push {
        target: conn(cid),
        disconnect: false,
        packet: &news,
    };
    assert_eq!(world.link().call(&push), Code::Done);
    client.expect(&news);
    eventually("all packets are counted", || {
        world.gate.stats().packets_in == 1001
    });

    let answer = get(&admin, "/metrics");
    assert_eq!(answer.status, 200);
    assert!(
        answer.head.contains("text/plain; version=0.0.4"),
        "{}",
        answer.head
    );
    for line in [
        r#"epicycle_gate_connections{id="gate-1"} 1"#,
        r#"epicycle_gate_users{id="gate-1"} 1"#,
        r#"epicycle_gate_packets_in_total{id="gate-1"} 1001"#,
        r#"epicycle_gate_refused_total{id="gate-1",reason="unknown_route"} 1000"#,
        r#"epicycle_gate_route_packets_in_total{id="gate-1",route="1"} 1"#,
        r#"epicycle_gate_route_packets_in_total{id="gate-1",route="other"} 1000"#,
        r#"epicycle_gate_route_pushed_total{id="gate-1",route="7"} 1"#,
        r#"epicycle_gate_link_queue_bytes{id="gate-1",node="node-1"} 0"#,
        r#"epicycle_gate_bind_seconds_count{id="gate-1"} 1"#,
        r#"epicycle_gate_drain_stage{id="gate-1"} 0"#,
        r#"epicycle_gate_queued_bytes{id="gate-1"} 0"#,
        r#"epicycle_gate_waiting{id="gate-1"} 0"#,
        r#"epicycle_node_drain_stage{id="node-2"} 0"#,
        r#"epicycle_node_held{id="node-2"} 0"#,
        r#"epicycle_node_call_seconds_count{id="node-2"} 0"#,
        r#"epicycle_cluster_state{id="gate-1",kind="gate"} 1"#,
        r#"epicycle_cluster_state{id="mesh-1",kind="mesh"} 1"#,
        r#"epicycle_rpc_route_arrived_total{id="mesh-1",kind="call",route="/math/half"} 1"#,
        r#"epicycle_master_call_seconds_count 1"#,
        r#"epicycle_cluster_registry_age_seconds 0"#,
    ] {
        assert!(
            answer.body.contains(&format!("{line}\n")),
            "{line}\n{}",
            answer.body
        );
    }
    if let Some(families) = prometheus_families(&answer.body) {
        let written = answer.body.matches("# TYPE ").count();
        assert_eq!(families, written);
    }
}

#[test]
fn with_a_secret_the_interface_needs_it_too() {
    let secret = || Secret::new(b"0123456789abcdef").expect("is long enough");
    let cluster = Cluster::embedded();
    let gate = cluster.gate().id("gate-1").secret(secret());
    let _gate = gate.listen("tcp://127.0.0.1:0").start().expect("starts");
    let busy = r#"{"state":"busy"}"#;
    let with = cluster.admin().secret(secret()).start().expect("starts");
    assert_eq!(
        ask(&with, "PUT", "/instances/gate-1/state", busy).status,
        200
    );
    let without = cluster.admin().start().expect("starts");
    let refused = ask(&without, "PUT", "/instances/gate-1/state", busy);
    assert_ne!(refused.status, 200, "{}", refused.body);
    assert!(refused.json()["error"].is_string());
}

#[cfg(feature = "tls")]
#[test]
fn servers_whose_links_have_tls_are_reached_by_tls() {
    use crate::gate_tls::{issued, settings};

    let (cluster, cert) = (Cluster::embedded(), issued());
    let gate = cluster.gate().id("gate-1").link_tls(settings(&cert, &cert));
    let _gate = gate.listen("tcp://127.0.0.1:0").start().expect("starts");
    let busy = r#"{"state":"busy"}"#;
    let with = cluster.admin().link_tls(settings(&cert, &cert));
    let with = with.start().expect("starts");
    assert_eq!(
        ask(&with, "PUT", "/instances/gate-1/state", busy).status,
        200
    );
    let without = cluster.admin().start().expect("starts");
    let refused = ask(&without, "PUT", "/instances/gate-1/state", busy);
    assert_ne!(refused.status, 200, "{}", refused.body);
}

#[test]
fn the_state_of_a_mesh_is_set_by_those_who_have_the_secret() {
    let secret = || Secret::new(b"the secret of this cluster").expect("is long enough");
    let cluster = Cluster::embedded();
    let mesh = cluster.mesh().id("mesh-1").service("math", |_| {});
    let _mesh = mesh.secret(secret()).start().expect("starts");
    let set = |admin: &Admin, state: &str| {
        let body = format!(r#"{{"state":"{state}"}}"#);
        ask(admin, "PUT", "/instances/mesh-1/state", &body).status
    };
    let state = || cluster.registry().services("mesh").expect("is in memory")[0].state;
    let stranger = cluster.admin().start().expect("starts");
    assert_eq!(set(&stranger, "busy"), 400);
    assert_eq!(state(), State::Work);
    let admin = cluster.admin().secret(secret()).start().expect("starts");
    for (text, wanted) in [("shut", State::Shut), ("work", State::Work)] {
        assert_eq!(set(&admin, text), 200);
        assert_eq!(state(), wanted);
        eventually("the interface has heard of it", || {
            let told = get(&admin, "/instances").json();
            told["instances"][0]["state"] == text
        });
    }
}
