//! Ends of servers, of clients and of connections, and limits.

use std::io::Read;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use epicycle::cluster::admin::Admin;
use epicycle::cluster::mesh::GrpcTransporter;
use epicycle::cluster::registry::MemoryRegistry;
use epicycle::cluster::{Error, Monitor};

use crate::mesh_alike::{self, Gatekeeper};
use crate::util::{LONG, eventually};
use crate::{Grpc, client, client_of, mesh, services, who, with};

#[test]
fn calls_under_way_end_before_a_mesh_does() {
    mesh_alike::calls_under_way_end_before_a_mesh_does::<Grpc>();
}

#[test]
fn a_mesh_ends_at_its_deadline_and_its_callers_are_told() {
    let (registry, keeper) = (MemoryRegistry::new(), Arc::<Gatekeeper>::default());
    let mesh = with(&registry, "mesh-1", services("mesh-1", &keeper));
    let mesh = mesh.start().expect("starts");
    let client = client(&registry);
    let (sender, answer) = mpsc::channel();
    client
        .call("/who/waits", &())
        .then(move |result: Result<String, Error>| {
            let _ = sender.send(result);
        });
    eventually("the handler runs", || keeper.waiting() == 1);
    mesh.shutdown_within(Duration::from_millis(50));
    let answer = answer.recv_timeout(LONG).expect("comes");
    assert!(matches!(answer, Err(Error::LinkDown { .. })), "{answer:?}");
    keeper.open();
}

#[test]
fn no_call_fails_while_instances_come_and_go() {
    let registry = MemoryRegistry::new();
    let stays = mesh(&registry, "stays").start().expect("starts");
    let client = client(&registry);
    let stop = AtomicBool::new(false);
    let calls = thread::scope(|scope| {
        let callers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut calls = 0;
                    while !stop.load(Ordering::Relaxed) {
                        who(&client).expect("is answered");
                        calls += 1;
                    }
                    calls
                })
            })
            .collect();
        for _ in 0..30 {
            let comes = mesh(&registry, "comes").start().expect("starts");
            eventually("it is called", || {
                who(&client).is_ok_and(|id| id == "comes")
            });
            comes.shutdown();
        }
        stop.store(true, Ordering::Relaxed);
        let calls = callers
            .into_iter()
            .map(|caller| caller.join().expect("no call fails"));
        calls.sum::<u32>()
    });
    assert!(calls > 10, "{calls}");
    drop(stays);
}

#[test]
fn a_client_that_is_dropped_ends_its_calls_and_its_connections() {
    let (registry, keeper) = (MemoryRegistry::new(), Arc::<Gatekeeper>::default());
    let monitor = Monitor::new();
    let mesh = with(&registry, "mesh-1", services("mesh-1", &keeper)).monitor(&monitor);
    let _mesh = mesh.start().expect("starts");
    let admin = Admin::builder().monitor(&monitor).without_token().start();
    let admin = admin.expect("starts");
    let metrics = || {
        let url = format!("http://{}/metrics", admin.addr());
        let answer = epicycle::fetch::get(url).expect("is answered");
        String::from_utf8_lossy(answer.body()).into_owned()
    };
    // A sample has labels between its name and its value.
    let has = |name: &str, value: &str| {
        let text = metrics();
        let mut lines = text.lines().filter(|line| line.starts_with(name));
        lines.any(|line| line.rsplit(' ').next() == Some(value))
    };
    let client = client(&registry);
    let (sender, answer) = mpsc::channel();
    client
        .call("/who/waits", &())
        .then(move |result: Result<String, Error>| {
            let _ = sender.send(result);
        });
    eventually("the handler runs", || keeper.waiting() == 1);
    eventually("it is counted", || has("epicycle_grpc_connections", "1"));
    drop(client);
    assert!(answer.try_recv().is_err());
    keeper.open();
    let answer = answer.recv_timeout(LONG).expect("comes");
    assert_eq!(answer.expect("is answered"), "mesh-1");
    eventually("the connection ends", || {
        has("epicycle_grpc_connections", "0")
    });
    assert!(has("epicycle_grpc_calls_total", "1"), "{}", metrics());
}

#[test]
fn what_is_too_much_is_refused() {
    let (registry, keeper) = (MemoryRegistry::new(), Arc::<Gatekeeper>::default());
    let small = services("mesh-1", &keeper).max_message(100);
    let _mesh = with(&registry, "mesh-1", small).start().expect("starts");
    let client = client_of(&registry, GrpcTransporter::new().max_calls(1));
    let echo = |len: usize| {
        client
            .call::<_, String>("/who/echo", &"x".repeat(len))
            .wait()
    };
    assert_eq!(echo(90).expect("is answered").len(), 90);
    let long = echo(200);
    assert!(matches!(long, Err(Error::Service(_))), "{long:?}");

    let (sender, answer) = mpsc::channel();
    client
        .call("/who/waits", &())
        .then(move |result: Result<String, Error>| {
            let _ = sender.send(result);
        });
    let busy = who(&client);
    assert!(matches!(busy, Err(Error::Busy { .. })), "{busy:?}");
    keeper.open();
    answer
        .recv_timeout(LONG)
        .expect("comes")
        .expect("is answered");
    eventually("there is room again", || who(&client).is_ok());
}

#[test]
fn a_client_that_says_nothing_is_closed_and_others_wait_for_its_place() {
    let registry = MemoryRegistry::new();
    let few = services("mesh-1", &Arc::default()).max_connections(1);
    let few = few.handshake_timeout(Duration::from_millis(300));
    let mesh = with(&registry, "mesh-1", few).start().expect("starts");
    let mut silent = TcpStream::connect(mesh.addr()).expect("connects");
    let client = client(&registry);
    assert_eq!(who(&client).expect("is answered in the end"), "mesh-1");
    silent.set_read_timeout(Some(LONG)).expect("is set");
    let read = silent.read_to_end(&mut Vec::new());
    assert!(
        read.is_ok()
            || read.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset)
    );
}
