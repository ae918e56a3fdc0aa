//! Gates that another one replaces while they run.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use epicycle::cluster::Cluster;
#[cfg(feature = "kcp")]
use epicycle::cluster::Error;
use epicycle::cluster::client::Client;
use epicycle::cluster::gate::{Gate, GateBuilder};
use epicycle::cluster::node::Node;
use epicycle::cluster::registry::MemoryRegistry;
use epicycle::handover::Control;

use crate::registry::BeforeWatch;
use crate::resume::{ECHO, Seen, World, library_client, options};
use crate::util::client::TempPath;
use crate::util::{LONG, await_some, eventually};

/// A gate at a control socket, which tells when it is replaced.
fn replaceable(gate: GateBuilder, path: &TempPath, replaced: &Sender<()>) -> GateBuilder {
    let replaced = replaced.clone();
    gate.replaceable(Control::at(&path.0), move || {
        let _ = replaced.send(());
    })
}

#[test]
fn a_gate_is_replaced_without_a_lost_request_and_its_users_go_along() {
    let (world, path) = (World::new(options()), TempPath::new());
    let (sender, replaced) = mpsc::channel();
    let gate = || {
        let gate = world.cluster.gate().resume(options()).reactors(2);
        let gate = gate.listen("ws://127.0.0.1:0/play");
        replaceable(gate.listen("tcp://127.0.0.1:0"), &path, &sender)
    };
    let old = gate().start().expect("starts");
    let addrs = old.client_addrs().to_vec();
    let urls = [
        format!("ws://{}/play", addrs[0].as_socket_addr().expect("is one")),
        addrs[1].to_string(),
    ];
    let seen = [Seen::default(), Seen::default()];
    let clients: Vec<_> = (0..2)
        .map(|n| {
            let client = library_client(7 + n as i64, &seen[n]).control_packets(true);
            client.connect(&urls[n]).expect("connects")
        })
        .collect();
    eventually("both have tokens", || {
        seen.iter().all(|seen| seen.tokens() > 0)
    });

    // Others come all the time, at both addresses.
    let (is_over, served) = (AtomicBool::new(false), Mutex::new(0));
    let new = thread::scope(|scope| {
        for url in &urls {
            let (is_over, served) = (&is_over, &served);
            scope.spawn(move || {
                while !is_over.load(Ordering::Acquire) {
                    let client = Client::builder().call_timeout(LONG).connect(url);
                    let answer = client.expect("connects").request(ECHO, r#""x""#);
                    assert_eq!(answer.expect("is answered"), r#""0 x""#);
                    *served.lock().expect("is whole") += 1;
                }
            });
        }
        let served = || *served.lock().expect("is whole");
        eventually("they are served", || served() > 10);
        let new = gate().start().expect("starts");
        assert_eq!(new.client_addrs(), addrs);
        replaced.recv_timeout(LONG).expect("is told");
        old.drain(LONG);
        let before = served();
        eventually("they are served", || served() > before + 10);
        is_over.store(true, Ordering::Release);
        new
    });
    eventually("both are back", || new.stats().resumed == 2);
    for (n, client) in clients.iter().enumerate() {
        let answer = client.request(ECHO, r#""on""#).expect("is answered");
        assert_eq!(answer, format!("\"{} on\"", n + 7));
        assert_eq!(seen[n].count("resumed"), 1);
        assert_eq!(seen[n].count("connected true"), 0);
    }
    assert!(replaced.try_recv().is_err());
}

#[test]
fn a_gate_that_does_not_start_leaves_the_old_one_in_place() {
    let (world, path) = (World::new(options()), TempPath::new());
    let (sender, replaced) = mpsc::channel();
    let gate = |gate: GateBuilder| replaceable(gate.listen("tcp://127.0.0.1:0"), &path, &sender);
    let old = gate(world.cluster.gate()).start().expect("starts");
    for refused in [
        world.cluster.gate().max_connections(0),
        world.cluster.gate().link("tcp://no-address"),
        // The port is that of the old one.
        world.cluster.gate().link(old.link_addr().to_string()),
    ] {
        gate(refused).start().expect_err("does not start");
    }
    let asks = |gate: &Gate| {
        let client = Client::builder().call_timeout(LONG);
        let client = client.connect(gate.client_addrs()[0].to_string());
        client.expect("connects").request(ECHO, r#""x""#)
    };
    assert_eq!(asks(&old).expect("is answered"), r#""0 x""#);
    assert!(replaced.try_recv().is_err());

    // It has its own addresses where nobody runs, and the path is free at the end of each.
    let addr = old.client_addrs()[0].clone();
    drop(old);
    assert!(!path.0.exists());
    let alone = gate(world.cluster.gate()).start().expect("starts");
    assert_ne!(alone.client_addrs()[0], addr);
    assert_eq!(asks(&alone).expect("is answered"), r#""0 x""#);
}

#[test]
fn sockets_are_found_by_their_ports_and_an_id_that_is_taken_is_refused() {
    let (cluster, path) = (Cluster::embedded(), TempPath::new());
    let (sender, replaced) = mpsc::channel();
    let gate = |gate: GateBuilder| replaceable(gate, &path, &sender);
    let old = cluster.gate().id("gate-1").listen("tcp://127.0.0.1:0");
    let old = gate(old.listen("ws://127.0.0.1:0/"))
        .start()
        .expect("starts");
    let ports = old.client_addrs().to_vec();
    let (tcp, ws) = (format!("tcp://{}", ports[0]), format!("ws://{}/", ports[1]));

    let same = cluster.gate().id("gate-1").listen(&*tcp);
    let error = gate(same).start().expect_err("has the id of the old one");
    assert!(error.to_string().contains("\"gate-1\""), "{error}");
    assert!(replaced.try_recv().is_err());

    // In another order, with one more in front.
    let new = cluster.gate().id("gate-2").listen("tcp://127.0.0.1:0");
    let new = gate(new.listen(&*ws).listen(&*tcp))
        .start()
        .expect("starts");
    replaced.recv_timeout(LONG).expect("is told");
    let found = new.client_addrs();
    assert_eq!(found[1..], [ports[1].clone(), ports[0].clone()]);
    assert!(!ports.contains(&found[0]));
    drop(old);
    for url in [tcp, ws] {
        drop(Client::builder().connect(&url).expect("connects"));
    }
}

#[test]
fn a_gate_that_drains_is_replaced_by_one_that_binds_its_addresses() {
    let (cluster, path) = (Cluster::embedded(), TempPath::new());
    let (sender, replaced) = mpsc::channel();
    let gate = |addr: &str| replaceable(cluster.gate().listen(addr), &path, &sender);
    let old = gate("tcp://127.0.0.1:0").start().expect("starts");
    let addr = format!("tcp://{}", old.client_addrs()[0]);
    // It keeps the drain from its end.
    let client = Client::builder().connect(&addr).expect("connects");
    eventually("it is there", || old.stats().connections == 1);
    let draining = thread::spawn(move || old.drain(LONG));
    eventually("nobody is accepted any more", || {
        TcpListener::bind(addr.trim_start_matches("tcp://")).is_ok()
    });
    let new = gate(&addr).start().expect("starts");
    assert_eq!(format!("tcp://{}", new.client_addrs()[0]), addr);
    replaced.recv_timeout(LONG).expect("is told");
    drop(client);
    draining.join().expect("ends");
    drop(new);
}

#[test]
fn a_client_that_opens_its_websocket_while_the_gate_is_replaced_is_served() {
    let (cluster, path) = (Cluster::embedded(), TempPath::new());
    let (sender, replaced) = mpsc::channel();
    let gate = || {
        let gate = cluster.gate().max_connections(1);
        replaceable(gate.listen("ws://127.0.0.1:0/play"), &path, &sender)
    };
    let old = gate().start().expect("starts");
    let addr = old.client_addrs()[0].as_socket_addr().expect("is one");
    let mut client = TcpStream::connect(addr).expect("connects");
    // The old gate has accepted the first one if the next one is too many.
    let _next = TcpStream::connect(addr).expect("connects");
    eventually("one is refused", || old.stats().clients_refused == 1);
    let new = gate().start().expect("starts");
    replaced.recv_timeout(LONG).expect("is told");
    let draining = thread::spawn(move || old.drain(LONG));
    client
        .set_read_timeout(Some(Duration::from_millis(200)))
        .expect("is set");
    let ended = client.peek(&mut [0]).map_err(|error| error.kind());
    assert_eq!(ended, Err(ErrorKind::WouldBlock));
    let request = "GET /play HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    client.write_all(request.as_bytes()).expect("is sent");
    client.set_read_timeout(Some(LONG)).expect("is set");
    let mut status = [0; 12];
    client.read_exact(&mut status).expect("is answered");
    assert_eq!(&status, b"HTTP/1.1 101");
    assert!(!draining.is_finished());
    drop(client);
    draining.join().expect("ends");
    drop(new);
}

#[test]
fn a_gate_may_end_in_the_call_that_tells_that_it_is_replaced() {
    let (cluster, path) = (Cluster::embedded(), TempPath::new());
    let gate: Arc<Mutex<Option<Gate>>> = Arc::default();
    let (own, (sender, replaced)) = (gate.clone(), mpsc::channel());
    let old = cluster.gate().listen("tcp://127.0.0.1:0");
    let old = old.replaceable(Control::at(&path.0), move || {
        drop(own.lock().expect("is whole").take());
        let _ = sender.send(());
    });
    *gate.lock().expect("is whole") = Some(old.start().expect("starts"));
    let (sender, _) = mpsc::channel();
    let new = replaceable(cluster.gate().listen("tcp://127.0.0.1:0"), &path, &sender);
    let new = new.start().expect("starts");
    replaced.recv_timeout(LONG).expect("is told");
    assert!(gate.lock().expect("is whole").is_none());
    drop(new);
}

#[cfg(feature = "kcp")]
#[test]
fn kcp_is_not_handed_over() {
    let (path, (sender, _)) = (TempPath::new(), mpsc::channel());
    let gate = Gate::builder().listen("kcp://127.0.0.1:0");
    let error = replaceable(gate, &path, &sender).start();
    let error = error.expect_err("is refused");
    assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");
    assert!(error.to_string().contains("kcp://"), "{error}");
}

#[test]
fn the_first_client_of_a_gate_finds_the_nodes() {
    let registry = MemoryRegistry::new();
    let node = Node::builder().registry(registry.clone());
    let node = node.route(ECHO, |_, cx| cx.respond("here"));
    let _node = node.start().expect("starts");
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let addr = format!("tcp://{}", listener.local_addr().expect("is bound"));
    drop(listener);
    let slow = BeforeWatch(registry, || thread::sleep(Duration::from_millis(100)));
    let gate = Gate::builder().registry(slow).listen(&*addr);
    let gate = thread::spawn(move || gate.start().expect("starts"));
    let client = await_some("it listens", || {
        Client::builder().call_timeout(LONG).connect(&addr).ok()
    });
    let answer = client.request(ECHO, "").expect("is answered");
    assert_eq!(answer, r#""here""#);
    drop(gate.join().expect("has started"));
}
