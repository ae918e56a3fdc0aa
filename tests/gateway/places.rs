//! `max_connections`: the places for connections to a node, which all reactors share.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use epicycle::gateway::settings::{ListenerSettings, PoolSettings, ProxyVersion, RouteSettings};
use epicycle::gateway::{Gateway, NoHooks, Running};

use crate::peers::{Asker, Deed, Origin, ok, pool_of};
use crate::rig::metric;
use crate::util::eventually;

/// Starts a gateway with so many reactors.
fn start(reactors: usize, pool: PoolSettings) -> Running<NoHooks> {
    let gateway = gateway(reactors, pool);
    gateway.start_plain().expect("it starts")
}

fn gateway(reactors: usize, pool: PoolSettings) -> Gateway {
    let gateway = Gateway::builder()
        .reactors(reactors)
        .listen(ListenerSettings::new("tcp://127.0.0.1:0"))
        .pool("app", pool)
        .route(RouteSettings::to("app"));
    gateway.build().expect("it is sound")
}

fn limited(origin: &Origin, connections: usize) -> PoolSettings {
    let mut pool = pool_of(origin);
    pool.connections.max_connections = Some(connections);
    pool
}

/// An origin that takes a while for each request. Returns it with the most requests that it had in hand at once.
fn busy(each: Duration) -> (Origin, Arc<AtomicUsize>) {
    let (now, most) = (AtomicUsize::new(0), Arc::<AtomicUsize>::default());
    let seen = most.clone();
    let origin = Origin::start(move |_, _| {
        seen.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        thread::sleep(each);
        now.fetch_sub(1, Ordering::SeqCst);
        ok("x")
    });
    (origin, most)
}

/// Returns the number of connections to the nodes, as the metrics tell it.
fn connections(gateway: &Running<NoHooks>, origin: &Origin) -> f64 {
    let text = gateway.control().metrics();
    let node = origin.url();
    let name = format!("epicycle_gateway_node_connections{{pool=\"app\",node=\"{node}\"}}");
    metric(&text, &name).expect("is told")
}

#[test]
fn a_node_never_has_more_connections_than_max_connections_whatever_the_reactors() {
    for (reactors, max) in [(4, 1), (4, 3), (2, 2)] {
        let (origin, most) = busy(Duration::from_millis(1));
        let gateway = start(reactors, limited(&origin, max));
        thread::scope(|scope| {
            for _ in 0..12 {
                let mut client = Asker::to(&gateway);
                scope.spawn(move || {
                    for _ in 0..20 {
                        assert_eq!(client.get("/").status(), 200);
                    }
                });
            }
        });
        assert_eq!(most.load(Ordering::SeqCst), max);
        // The clients have gone. The places of what is idle are taken, and no more.
        eventually("its connections are counted", || {
            let open = connections(&gateway, &origin);
            (1.0..=max as f64).contains(&open)
        });
    }
}

#[test]
fn no_reactor_waits_while_another_one_keeps_all_places() {
    let (origin, _) = busy(Duration::from_millis(4));
    let mut pool = limited(&origin, 1);
    pool.connections.pending_timeout = Duration::from_secs(30);
    let gateway = start(2, pool);
    let answered = [const { AtomicUsize::new(0) }; 8];
    thread::scope(|scope| {
        for own in &answered {
            let mut client = Asker::to(&gateway);
            let answered = &answered;
            scope.spawn(move || {
                for _ in 0..60 {
                    assert_eq!(client.get("/").status(), 200);
                    own.fetch_add(1, Ordering::Relaxed);
                }
                // Those of a reactor that gets nothing would have had none by then.
                let least = answered.iter().map(|one| one.load(Ordering::Relaxed)).min();
                assert!(least >= Some(20), "{answered:?}");
            });
        }
    });
}

#[test]
fn an_idle_connection_of_another_reactor_makes_room_at_once() {
    let origin = Origin::start(|_, _| ok("x"));
    let mut pool = limited(&origin, 1);
    pool.connections.pending_timeout = Duration::from_secs(30);
    let gateway = start(4, pool);
    let begun = std::time::Instant::now();
    // Their connections are at different reactors, and all stay.
    let mut clients: Vec<_> = (0..8).map(|_| Asker::to(&gateway)).collect();
    for client in clients.iter_mut().rev() {
        assert_eq!(client.get("/").status(), 200);
    }
    assert!(begun.elapsed() < Duration::from_secs(30));
    assert!(origin.accepted() > 1, "all are at one reactor");
}

#[test]
fn an_idle_connection_of_another_client_makes_room() {
    let node = epicycle::Listen::on("tcp://127.0.0.1:0")
        .proxy_protocol(epicycle::ProxyProtocol::trust(["127.0.0.0/8"]));
    let node = epicycle::Server::bind(node).reactors(1);
    let node = node.start(|_| crate::exchanges::Telling(|conn| conn.peer_addr().to_string()));
    let node = node.expect("it starts");
    let mut pool = PoolSettings::of([format!("http://{}", node.local_addrs()[0])]);
    // Each client has a connection of its own.
    pool.proxy_protocol = Some(ProxyVersion::V2);
    pool.connections.max_connections = Some(1);
    let gateway = start(1, pool);
    let mut clients: Vec<_> = (0..3).map(|_| Asker::to(&gateway)).collect();
    for client in &mut clients {
        assert_eq!(client.get("/").status(), 200);
    }
    assert_eq!(clients[0].get("/").status(), 200);
}

#[test]
fn more_places_are_for_those_who_wait_already_and_fewer_close_what_is_too_many() {
    let origin = Origin::start(|_, request| match request.head.contains("/hang") {
        true => Deed::Hang,
        false => ok("x"),
    });
    let gateway_of = |connections| gateway(2, limited(&origin, connections));
    let running = gateway_of(1).start_plain().expect("it starts");
    let mut first = Asker::to(&running);
    first.send("GET /hang HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("it is there", || origin.requests().len() == 1);
    let mut others: Vec<_> = (0..2).map(|_| Asker::to(&running)).collect();
    for client in &mut others {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    let waiting = "epicycle_gateway_pool_waiting{pool=\"app\"}";
    eventually("they wait", || {
        metric(&running.control().metrics(), waiting) == Some(2.0)
    });
    running.reload(&gateway_of(3)).expect("is taken over");
    for client in &mut others {
        assert_eq!(client.response().expect("an answer").status(), 200);
    }
    running.reload(&gateway_of(1)).expect("is taken over");
    for client in &mut others {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    first.reset();
    for client in &mut others {
        assert_eq!(client.response().expect("an answer").status(), 200);
    }
    eventually("no more than one is left", || {
        connections(&running, &origin) <= 1.0
    });
}
