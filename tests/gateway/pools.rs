//! Connections to nodes: how many, how long, whose turn; retries, ejection and checks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use epicycle::balance::Ejection;
use epicycle::gateway::settings::{
    BalanceBy, Drain, HealthCheck, HealthProbe, PoolSettings, RouteSettings,
};

use crate::peers::{Asker, Deed, Origin, builder, figure, idle, ok, pool_of, respond, start};
use crate::rig::metric;
use crate::util::eventually;
use crate::util::logs::logs;

/// An origin that answers when it is told to, and counts the requests in hand.
fn gated() -> (Origin, Arc<AtomicBool>, Arc<AtomicUsize>) {
    let (open, in_hand) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let (gate, count) = (open.clone(), in_hand.clone());
    let origin = Origin::start(move |_, _| {
        count.fetch_add(1, Ordering::SeqCst);
        eventually("the gate opens", || gate.load(Ordering::SeqCst));
        ok("late")
    });
    (origin, open, in_hand)
}

#[test]
fn so_many_connections_stay_idle_and_so_long() {
    let (origin, open, in_hand) = gated();
    let mut pool = pool_of(&origin);
    pool.connections.max_idle = 2;
    pool.connections.idle_timeout = Duration::from_millis(300);
    let gateway = start(pool);
    let mut clients: Vec<_> = (0..4).map(|_| Asker::to(&gateway)).collect();
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    eventually("all are there", || in_hand.load(Ordering::SeqCst) == 4);
    open.store(true, Ordering::SeqCst);
    for client in &mut clients {
        assert_eq!(client.response().expect("an answer").text(), "late");
    }
    eventually("two are closed", || origin.ended() >= 2);
    eventually("the others follow", || origin.ended() == 4);
    assert_eq!(idle(&gateway), 0);
}

#[test]
fn requests_beyond_max_connections_wait_and_too_many_or_too_long_is_a_503() {
    let (origin, open, in_hand) = gated();
    let mut pool = pool_of(&origin);
    pool.connections.max_connections = Some(1);
    pool.connections.max_pending = 1;
    let gateway = start(pool);
    let mut clients: Vec<_> = (0..3).map(|_| Asker::to(&gateway)).collect();
    clients[0].send("GET /0 HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("it is there", || in_hand.load(Ordering::SeqCst) == 1);
    clients[1].send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("it waits", || {
        figure(&gateway, |proxy| proxy.waiting()) == 1
    });
    let refused = clients[2].get("/2");
    assert_eq!(refused.status(), 503);
    assert_eq!(refused.field("retry-after"), Some("1"));
    open.store(true, Ordering::SeqCst);
    for client in &mut clients[..2] {
        assert_eq!(client.response().expect("an answer").text(), "late");
    }
    assert_eq!((origin.accepted(), origin.requests().len()), (1, 2));
}

#[test]
fn a_request_that_waits_for_too_long_is_a_503() {
    let (origin, open, in_hand) = gated();
    let mut pool = pool_of(&origin);
    pool.connections.max_connections = Some(1);
    pool.connections.pending_timeout = Duration::from_millis(50);
    let gateway = start(pool);
    let mut first = Asker::to(&gateway);
    first.send("GET /0 HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("it is there", || in_hand.load(Ordering::SeqCst) == 1);
    let mut second = Asker::to(&gateway);
    assert_eq!(second.get("/1").status(), 503);
    open.store(true, Ordering::SeqCst);
    assert_eq!(first.response().expect("an answer").text(), "late");
    assert_eq!(second.get("/2").text(), "late");
}

#[test]
fn a_client_that_leaves_while_it_waits_frees_its_place() {
    let (origin, open, in_hand) = gated();
    let mut pool = pool_of(&origin);
    pool.connections.max_connections = Some(1);
    let gateway = start(pool);
    let mut first = Asker::to(&gateway);
    first.send("GET /0 HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("it is there", || in_hand.load(Ordering::SeqCst) == 1);
    let mut second = Asker::to(&gateway);
    second.send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("it waits", || {
        figure(&gateway, |proxy| proxy.waiting()) == 1
    });
    second.reset();
    eventually("it has left", || {
        figure(&gateway, |proxy| proxy.waiting()) == 0
    });
    open.store(true, Ordering::SeqCst);
    assert_eq!(first.response().expect("an answer").text(), "late");
    assert_eq!(origin.requests().len(), 1);
}

#[test]
fn a_connection_serves_so_many_requests() {
    let origin = Origin::start(|_, _| ok("a"));
    let mut pool = pool_of(&origin);
    pool.connections.max_requests = 2;
    let gateway = start(pool);
    let mut client = Asker::to(&gateway);
    for n in 0..5 {
        assert_eq!(client.get("/").status(), 200);
        assert_eq!(origin.accepted(), n / 2 + 1);
    }
}

/// An origin that answers the first request of each connection, and resets at the second.
fn fickle() -> Origin {
    let answered = AtomicUsize::new(0);
    Origin::start(move |_, request| {
        if request.first_line().contains("/stale") && answered.fetch_add(1, Ordering::SeqCst) == 0 {
            return Deed::Reset;
        }
        ok("fine")
    })
}

#[test]
fn a_request_is_sent_again_if_a_used_connection_ends_and_only_if_it_may_be() {
    for (request, keep, status, times) in [
        ("GET /stale HTTP/1.1\r\nHost: a\r\n\r\n", 0, 200, 2),
        (
            "POST /stale HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
            0,
            502,
            1,
        ),
        (
            "PUT /stale HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
            0,
            502,
            1,
        ),
        (
            "PUT /stale HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
            3,
            200,
            2,
        ),
        (
            "PUT /stale HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            3,
            200,
            2,
        ),
        (
            "PUT /stale HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nabcd",
            3,
            502,
            1,
        ),
        (
            "POST /stale HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
            3,
            502,
            1,
        ),
    ] {
        let origin = fickle();
        let mut pool = pool_of(&origin);
        pool.retries.body = keep;
        let gateway = start(pool);
        let mut client = Asker::to(&gateway);
        assert_eq!(client.get("/").status(), 200);
        assert_eq!(client.ask(request).status(), status, "{request}");
        let stale = origin
            .requests()
            .into_iter()
            .filter(|seen| seen.first_line().contains("stale"));
        let bodies: Vec<_> = stale.map(|seen| seen.body).collect();
        assert_eq!(bodies.len(), times, "{request}");
        assert!(bodies.iter().all(|body| *body == bodies[0]));
    }
}

#[test]
fn a_fresh_connection_that_ends_without_an_answer_is_not_tried_again() {
    let origin = Origin::start(|_, _| Deed::Reset);
    let gateway = start(pool_of(&origin));
    assert_eq!(Asker::to(&gateway).get("/").status(), 502);
    assert_eq!(origin.requests().len(), 1);
}

#[test]
fn a_status_is_tried_at_another_node_only_where_that_is_configured() {
    let busy = Origin::start(|_, _| respond("503 Service Unavailable", "busy"));
    let fine = Origin::start(|_, _| ok("fine"));
    for (statuses, expected) in [(vec![503], 200), (vec![502], 503), (vec![], 503)] {
        let mut pool = PoolSettings::of([busy.url(), fine.url()]);
        pool.balance = BalanceBy::RoundRobin;
        pool.retries.statuses = statuses;
        let gateway = start(pool);
        let mut client = Asker::to(&gateway);
        assert_eq!(client.get("/").status(), expected);
        assert_eq!(client.get("/").status(), 200);
    }
    let mut pool = PoolSettings::of([busy.url(), fine.url()]);
    pool.balance = BalanceBy::RoundRobin;
    pool.retries.statuses = vec![503];
    let gateway = start(pool);
    let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(Asker::to(&gateway).ask(post).status(), 503);
}

#[test]
fn retries_end_with_their_budget() {
    let dead = Origin::start(|_, _| ok(""));
    let fine = Origin::start(|_, _| ok("fine"));
    // Nobody listens there.
    let gone = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", gone.local_addr().expect("an address"));
    drop((gone, dead));
    let mut pool = PoolSettings::of([url, fine.url()]);
    pool.balance = BalanceBy::RoundRobin;
    pool.ejection = Ejection::default().failures(0);
    pool.retries.budget_percent = 0;
    pool.retries.budget_floor = 3;
    let gateway = start(pool);
    let mut client = Asker::to(&gateway);
    let statuses: Vec<u16> = (0..10).map(|_| client.get("/").status()).collect();
    // Each second request begins at the node that is gone.
    let without_budget = [502, 200, 502, 200, 502, 200, 502];
    assert_eq!(statuses, [&[200; 3][..], &without_budget].concat());
}

#[test]
fn a_node_that_fails_is_ejected_and_returns() {
    let is_bad = Arc::new(AtomicBool::new(true));
    let bad = is_bad.clone();
    let first = Origin::start(move |_, _| match bad.load(Ordering::SeqCst) {
        true => respond("500 Internal Server Error", "no"),
        false => ok("first"),
    });
    let second = Origin::start(|_, _| ok("second"));
    let mut pool = PoolSettings::of([first.url(), second.url()]);
    pool.balance = BalanceBy::RoundRobin;
    pool.eject_5xx = true;
    pool.ejection = Ejection::default()
        .failures(2)
        .base(Duration::from_millis(200));
    let gateway = start(pool);
    let mut client = Asker::to(&gateway);
    let mut failures = 0;
    for _ in 0..10 {
        failures += usize::from(client.get("/").status() == 500);
    }
    assert_eq!(failures, 2);
    let ejections = "epicycle_gateway_pool_ejections_total{pool=\"app\"}";
    let text = gateway.control().metrics();
    assert_eq!(metric(&text, ejections), Some(1.0));
    is_bad.store(false, Ordering::SeqCst);
    eventually("it has returned", || client.get("/").text() == "first");
}

#[test]
fn active_checks_take_a_node_out_and_back_before_a_client_sees_it() {
    let is_sick = Arc::new(AtomicBool::new(false));
    let sick = is_sick.clone();
    let first = Origin::start(move |_, request| {
        match (
            request.first_line().contains("/healthz"),
            sick.load(Ordering::SeqCst),
        ) {
            (true, true) => respond("503 Service Unavailable", "alive"),
            (true, false) => ok("alive and well"),
            (false, true) => respond("500 Internal Server Error", "sick"),
            (false, false) => ok("first"),
        }
    });
    let second = Origin::start(|_, _| ok("alive and well"));
    let mut pool = PoolSettings::of([first.url(), second.url()]);
    pool.balance = BalanceBy::RoundRobin;
    let mut probe = HealthProbe::http("/healthz");
    if let HealthProbe::Http { body, .. } = &mut probe {
        *body = Some("well".to_owned());
    }
    let mut health = HealthCheck::new(probe);
    health.interval = Duration::from_millis(20);
    pool.health = Some(health);
    let gateway = start(pool);
    let mut client = Asker::to(&gateway);
    let mut get = || client.get("/").text().to_owned();
    assert!([get(), get()].contains(&"first".to_owned()));
    is_sick.store(true, Ordering::SeqCst);
    eventually("it is down", || (0..4).all(|_| get() == "alive and well"));
    is_sick.store(false, Ordering::SeqCst);
    eventually("it is up", || [get(), get()].contains(&"first".to_owned()));
    let checks = first
        .requests()
        .into_iter()
        .filter(|seen| seen.first_line().contains("healthz"));
    assert!(checks.count() >= 4);
}

#[test]
fn a_connect_is_a_check_too() {
    let gone = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = gone.local_addr().expect("an address");
    drop(gone);
    let fine = Origin::start(|_, _| ok("fine"));
    let mut pool = PoolSettings::of([format!("http://{addr}"), fine.url()]);
    let mut health = HealthCheck::new(HealthProbe::Tcp);
    health.interval = Duration::from_millis(10);
    pool.health = Some(health);
    pool.retries.max = 0;
    let gateway = start(pool);
    let mut client = Asker::to(&gateway);
    eventually("it is down", || {
        (0..4).all(|_| client.get("/").status() == 200)
    });
}

#[test]
fn when_no_node_is_up_all_are_tried_unless_that_is_off() {
    let origin = Origin::start(
        |_, request| match request.first_line().contains("/healthz") {
            true => respond("500 Internal Server Error", ""),
            false => ok("fine"),
        },
    );
    let log = logs();
    for (fail_open, status, then) in [
        (true, 200, "requests go to all of them"),
        (false, 503, "requests are answered with 503"),
    ] {
        let mut pool = pool_of(&origin);
        pool.fail_open = fail_open;
        let mut health = HealthCheck::new(HealthProbe::http("/healthz"));
        health.interval = Duration::from_millis(10);
        pool.health = Some(health);
        let gateway = start(pool);
        let mut client = Asker::to(&gateway);
        eventually("it is down", || {
            figure(&gateway, |proxy| usize::from(proxy.nodes_up() == 0)) == 1
        });
        assert_eq!(client.get("/").status(), status);
        let last = format!("{} was the last node that was up", origin.url());
        assert!(log.have(log::Level::Warn, &[&last, then]));
    }
}

#[test]
fn a_connection_with_bytes_that_nobody_asked_for_is_not_used_again() {
    let origin = Origin::start(|_, _| {
        let mut bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na".to_vec();
        bytes.extend_from_slice(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil");
        Deed::Send(bytes)
    });
    let gateway = start(pool_of(&origin));
    let mut client = Asker::to(&gateway);
    for _ in 0..3 {
        assert_eq!(client.get("/").text(), "a");
    }
    assert_eq!(origin.accepted(), 3);
}

#[test]
fn a_connection_to_a_removed_node_has_its_whole_time_whenever_others_were_removed() {
    let slow = Origin::start(|_, request| {
        let millis = request.first_line().split(['/', ' ']).nth(2);
        let millis = millis.and_then(|millis| millis.parse().ok());
        thread::sleep(Duration::from_millis(millis.unwrap_or(0)));
        ok("slow")
    });
    let other = Origin::start(|_, _| ok("other"));
    let gateway = |node: &Origin| {
        let mut drain = Drain::default();
        drain.node_timeout = Duration::from_millis(1200);
        let builder = builder(pool_of(node)).route(RouteSettings::to("app"));
        builder.drain(drain).build().expect("is sound")
    };
    let running = gateway(&slow).start_plain().expect("it starts");
    let remove_amid = |millis: u64| {
        let mut client = Asker::to(&running);
        let before = slow.requests().len();
        client.send(format!("GET /{millis} HTTP/1.1\r\nHost: a.test\r\n\r\n"));
        eventually("it is there", || slow.requests().len() > before);
        running.reload(&gateway(&other)).expect("is taken over");
        client
    };
    let mut first = remove_amid(100);
    assert_eq!(first.response().expect("is answered").status(), 200);
    running.reload(&gateway(&slow)).expect("is taken over");
    thread::sleep(Duration::from_millis(700));
    // The time of the first removal ends while this one is under way.
    let mut second = remove_amid(700);
    assert_eq!(second.response().map(|answer| answer.status()), Some(200));
    // One that takes longer than the time is cut.
    running.reload(&gateway(&slow)).expect("is taken over");
    let mut third = remove_amid(60_000);
    assert_eq!(third.response().map(|answer| answer.status()), Some(502));
    running.shutdown();
}

#[test]
fn a_timeout_that_other_settings_take_away_ends_no_later_request() {
    let origin = Origin::start(|n, _| {
        let time = if n == 0 { 200 } else { 600 };
        thread::sleep(Duration::from_millis(time));
        ok("late")
    });
    let gateway = |timeout| {
        let mut pool = pool_of(&origin);
        pool.timeouts.request = timeout;
        let gateway = builder(pool).route(RouteSettings::to("app")).build();
        gateway.expect("it is sound")
    };
    let running = gateway(Duration::from_millis(500)).start_plain();
    let running = running.expect("it starts");
    let mut client = Asker::to(&running);
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("it is under way", || origin.requests().len() == 1);
    let reloaded = running.reload(&gateway(Duration::MAX));
    reloaded.expect("is taken over");
    assert_eq!(client.response().expect("an answer").status(), 200);
    assert_eq!(client.get("/").status(), 200);
}
