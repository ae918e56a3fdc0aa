//! RPC peers: each call ends exactly once, whatever the network and the other peer do.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use epicycle::rpc::{Peer, Pending, ProtocolChoice, Responder, Router, Session, code};
use epicycle::testing::{World, each_seed};
use epicycle::{Connect, WorkerPool};
use fastrand::Rng;
use parking_lot::Mutex;

use super::rpc_results::Results;
use super::world;

const SERVER: [u8; 4] = [192, 168, 0, 1];
const CLIENT: [u8; 4] = [192, 168, 0, 2];

/// The routes of both peers. A number is answered with itself.
fn routes(results: &Results) -> Router {
    let mut routes = Router::new();
    routes.call("/echo", |_ctx, n: u64| Ok(n));
    routes.call_blocking("/work", |_ctx, n: u64| Ok(n));
    routes.call_later("/never", |ctx, _: u64, reply: Responder<u64>| {
        // It is kept until the session ends.
        ctx.session().on_close(move || drop(reply));
    });
    routes.call_later("/back", |ctx, n: u64, reply: Responder<u64>| {
        let caller = ctx.session().clone();
        let back = caller.call("/echo", &n);
        back.timeout(Duration::from_secs(2))
            .then(move |result| reply.send(result));
    });
    let results = results.clone();
    routes.call("/many", move |ctx, n: u64| {
        // Calls from inside a handler to the session that it serves.
        for _ in 0..n % 4 {
            let (number, ended) = results.expect();
            ctx.session().call("/work", &number).then(ended);
        }
        Ok(n)
    });
    routes
}

fn peer(seed: u64, pool: &WorkerPool, results: &Results) -> epicycle::rpc::PeerBuilder {
    let mut rng = Rng::with_seed(seed);
    Peer::builder()
        .routes(routes(results))
        .workers(pool.clone())
        .reactors(rng.usize(1..=2))
        .close_within(Duration::from_millis(rng.u64(100..3000)))
}

/// Returns the number of calls, and the fingerprint of the world.
fn run(seed: u64) -> (usize, u64) {
    run_over(seed, ProtocolChoice::raw(), ProtocolChoice::raw())
}

fn run_over(seed: u64, listener: ProtocolChoice, dialled: ProtocolChoice) -> (usize, u64) {
    let mut rng = Rng::with_seed(seed);
    let mut world = World::new(seed, world::link(&mut rng)).expect("a world");
    let results = Results::default();
    let takes = Duration::from_millis(1)..=Duration::from_millis(400);
    let builder = WorkerPool::builder().threads(2).queue(rng.usize(2..50));
    let pool = world.worker_pool(builder, takes).expect("a pool");

    let server = peer(seed, &pool, &results).listen_with("tcp://:9000", listener);
    let (server, options, factory) = server.into_server().expect("is right");
    let server_host = world.start(SERVER, options, factory).expect("starts");
    let client = peer(seed + 1, &pool, &results)
        .dial_protocol(dialled)
        .call_timeout(Duration::from_secs(5));
    let (client, options, factory) = client.into_server().expect("is right");
    let client_host = world.start(CLIENT, options, factory).expect("starts");

    let sessions: Arc<Mutex<Vec<Session>>> = Arc::default();
    let dials = 1 + seed as usize % 3;
    let dialled = Arc::new(Mutex::new(0));
    for _ in 0..dials {
        let (sessions, dialled) = (sessions.clone(), dialled.clone());
        let connect = Connect::to("tcp://192.168.0.1:9000").timeout(Duration::from_secs(10));
        client.dial_then(connect, move |session| {
            *dialled.lock() += 1;
            sessions.lock().extend(session);
        });
    }
    let all_dialled = |_: &World| *dialled.lock() == dials;
    assert!(world.run_until(Duration::from_secs(60), all_dialled));

    let pending: RefCell<Vec<Pending<u64>>> = RefCell::default();
    let mut server_runs = true;
    for _ in 0..rng.usize(10..60) {
        let mut sides = sessions.lock().clone();
        if server_runs {
            sides.extend(server.sessions());
        }
        let Some(session) = rng.choice(&sides) else {
            break;
        };
        let paths = ["/echo", "/work", "/never", "/back", "/many", "/nowhere"];
        let path = paths[rng.usize(..paths.len())];
        let (number, ended) = results.expect();
        let call = session.call::<_, u64>(path, &number);
        let call = match rng.u8(..3) {
            0 => call.timeout(Duration::from_millis(rng.u64(1..500))),
            _ => call,
        };
        match rng.u8(..20) {
            0 => {
                // Waited for by a slot in place of a callback.
                let call = call.send();
                call.cancel();
                pending.borrow_mut().push(call);
                ended(Ok(number));
            }
            1 => {
                session.close();
                call.then(ended);
            }
            2 if rng.bool() => {
                session.abort();
                call.then(ended);
            }
            3 if rng.u8(..4) == 0 && server_runs => {
                server_runs = false;
                world.kill(server_host);
                call.then(ended);
            }
            _ => call.then(ended),
        }
        world.run_for(Duration::from_millis(rng.u64(..100)));
    }
    if server_runs && rng.bool() {
        world.finish(server_host);
    }
    world.finish(client_host);
    if server_runs {
        world.run_for(Duration::from_secs(60));
    }

    let count = results.check();
    for call in pending.into_inner() {
        assert!(
            call.try_result().is_some(),
            "a cancelled call has not ended"
        );
    }
    assert_eq!(client.session_count(), 0);
    (count, world.fingerprint())
}

#[test]
fn each_call_between_peers_ends_exactly_once() {
    let mut calls = 0;
    each_seed(0..300, |seed| calls += run(seed).0);
    assert!(calls > 1000, "only {calls} calls");
}

#[cfg(feature = "ws")]
#[test]
fn each_call_over_websocket_ends_exactly_once() {
    use epicycle::rpc::WebSocket;

    let mut calls = 0;
    each_seed(0..200, |seed| {
        let socket = match seed % 3 {
            0 => WebSocket::json("/ws"),
            1 => WebSocket::pb("/ws"),
            _ => WebSocket::raw("/ws"),
        };
        let listener = match seed % 2 {
            0 => socket.clone().into(),
            _ => ProtocolChoice::raw().or_http(socket.clone()),
        };
        calls += run_over(seed, listener, socket.into()).0;
    });
    assert!(calls > 1000, "only {calls} calls");
}

#[test]
fn peers_in_a_world_repeat_themselves() {
    for seed in 0..10 {
        let once = run(seed);
        assert_eq!(run(seed), once);
    }
}

#[test]
fn a_deadline_ends_a_call_at_its_time_and_not_before() {
    let mut world = World::new(1, epicycle::testing::Link::calm()).expect("a world");
    let results = Results::default();
    let server = Peer::builder()
        .routes(routes(&results))
        .reactors(1)
        .listen("tcp://:9000");
    let (_server, options, factory) = server.into_server().expect("is right");
    world.start(SERVER, options, factory).expect("starts");
    let (client, options, factory) = Peer::builder().reactors(1).into_server().expect("is right");
    world.start(CLIENT, options, factory).expect("starts");
    let session: Arc<Mutex<Option<Session>>> = Arc::default();
    let opened = session.clone();
    client.dial_then("tcp://192.168.0.1:9000", move |session| {
        *opened.lock() = session.ok();
    });
    assert!(world.run_until(Duration::from_secs(9), |_| { session.lock().is_some() }));
    let session = session.lock().clone().expect("is open");
    let begun = world.now();
    for millis in [3000, 1000, 2000] {
        let (_, ended) = results.expect();
        let call = session.call::<_, u64>("/never", &0);
        call.timeout(Duration::from_millis(millis)).then(ended);
    }
    for millis in [1000, 2000, 3000u64] {
        let before = results.ended();
        assert_eq!(before as u64, millis / 1000 - 1);
        assert!(world.run_until(Duration::from_secs(9), |_| results.ended() > before));
        let took = (world.now() - begun).as_millis() as u64;
        assert!(
            (millis..millis + 50).contains(&took),
            "{took} ms in place of {millis}"
        );
    }
}

#[test]
fn a_session_has_ten_seconds_to_open() {
    let mut world = World::new(1, epicycle::testing::Link::calm()).expect("a world");
    let listener = world.listen((SERVER, 9000));
    let bearer = epicycle::rpc::plugins::auth::Bearer::new("token");
    let client = Peer::builder().reactors(1).plugin(bearer);
    let (client, options, factory) = client.into_server().expect("is right");
    world.start(CLIENT, options, factory).expect("starts");
    let end = Arc::new(Mutex::new(None));
    let told = end.clone();
    client.dial_then("tcp://192.168.0.1:9000", move |session| {
        *told.lock() = Some(session);
    });
    let begun = world.now();
    assert!(world.run_until(Duration::from_secs(99), |_| end.lock().is_some()));
    let took = (world.now() - begun).as_millis();
    assert!((10_000..10_100).contains(&took), "{took} ms");
    let status = end.lock().take().expect("has ended").expect_err("fails");
    assert_eq!(status.code, code::DIAL_FAILED);
    assert!(world.accept(listener).is_some());
}
