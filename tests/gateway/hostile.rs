//! Hostile clients and hostile nodes, beside others that must not notice.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use epicycle::gateway::settings::{ListenerSettings, PoolSettings, RouteSettings};
use fastrand::Rng;

use crate::evil::evil_node;
use crate::peers::{Asker, Origin, figure, ok, pool_of, with_listener};
use crate::util::{eventually, noise};

/// Does something that no client should, and does not mind what comes of it.
fn attack<H: epicycle::gateway::Hooks>(gateway: &epicycle::gateway::Running<H>, rng: &mut Rng) {
    let mut client = Asker::to(gateway);
    let _ = client
        .stream
        .get_ref()
        .set_read_timeout(Some(Duration::from_millis(300)));
    let host = ["evil.test", "good.test"][rng.usize(..2)];
    let get = format!("GET /big HTTP/1.1\r\nHost: {host}\r\n\r\n");
    match rng.u32(..9) {
        0 => client.send(noise(rng.u64(..), 300)),
        1 => client.send(&get[..rng.usize(..get.len())]),
        2 => client.send(get.repeat(20)),
        3 => client.send(format!(
            "POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 9999\r\n\r\npart"
        )),
        4 => client.send(format!(
            "POST / HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
        )),
        5 => client.send(format!(
            "GET / HTTP/1.1\r\nHost: {host}\r\nX: {}\r\n\r\n",
            "a".repeat(80_000)
        )),
        6 => client.send(format!(
            "GET / HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n{}",
            "early".repeat(1000)
        )),
        _ => client.send(get),
    }
    match rng.u32(..4) {
        0 => client.reset(),
        1 => client.end_writes(),
        2 => drop(client.stream.get_mut().read(&mut [0; 100])),
        _ => drop(client.recv_to_end()),
    }
}

#[test]
fn hostile_clients_and_nodes_cost_nobody_else_anything_and_leave_nothing_behind() {
    let page = noise(7, 200_000);
    let sent = page.clone();
    let origin = Origin::start(move |_, _| ok(&sent));
    let mut listener = ListenerSettings::new("tcp://127.0.0.1:0");
    listener.timeouts.head = Duration::from_millis(500);
    listener.timeouts.body_idle = Duration::from_millis(500);
    listener.timeouts.idle = Duration::from_millis(2000);
    let mut good = pool_of(&origin);
    good.connections.idle_timeout = Duration::from_millis(500);
    let mut evil = PoolSettings::of([evil_node()]);
    evil.connections.idle_timeout = Duration::from_millis(500);
    evil.timeouts.response_head = Duration::from_millis(200);
    evil.timeouts.body_idle = Duration::from_millis(200);
    let gateway = with_listener(listener, good).pool("evil", evil);
    let gateway = gateway
        .route(RouteSettings::to("app").host("good.test"))
        .route(RouteSettings::to("evil").host("evil.test"));
    let gateway = gateway
        .build()
        .expect("is sound")
        .start_plain()
        .expect("it starts");

    let is_over = Arc::new(AtomicBool::new(false));
    thread::scope(|threads| {
        let attackers: Vec<_> = (0..6)
            .map(|n| {
                let gateway = &gateway;
                threads.spawn(move || {
                    let mut rng = Rng::with_seed(n);
                    for _ in 0..40 {
                        attack(gateway, &mut rng);
                    }
                })
            })
            .collect();
        let controls: Vec<_> = (0..2)
            .map(|_| {
                let (gateway, page, is_over) = (&gateway, &page, &is_over);
                threads.spawn(move || {
                    let mut served = 0;
                    let mut client = Asker::to(gateway);
                    while !is_over.load(Ordering::SeqCst) || served < 20 {
                        let answer = client.ask("GET / HTTP/1.1\r\nHost: good.test\r\n\r\n");
                        assert_eq!(answer.status(), 200);
                        assert!(answer.body == *page, "it is not the page");
                        served += 1;
                    }
                })
            })
            .collect();
        for attacker in attackers {
            attacker.join().expect("it ends");
        }
        is_over.store(true, Ordering::SeqCst);
        for control in controls {
            control.join().expect("it was served");
        }
    });
    eventually("all connections are closed", || {
        gateway.engine().connections() == 0
    });
    assert_eq!(
        figure(&gateway, |proxy| proxy.waiting()
            + proxy.in_flight() as usize),
        0
    );
    assert_eq!(figure(&gateway, |proxy| proxy.upstream_connections()), 0);
}
