//! Plugins of RPC peers in virtual time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use epicycle::Reconnect;
use epicycle::rpc::plugins::heartbeat::{Ping, Pong};
use epicycle::rpc::plugins::limits::{Limiter, Per};
use epicycle::rpc::{
    Health, Hooks, Incoming, Next, Peer, PeerBuilder, Plugin, Responder, Router, Session, Status,
    code,
};
use epicycle::testing::{Link, World};
use parking_lot::Mutex;

const SERVER: [u8; 4] = [192, 168, 0, 1];
const CLIENT: [u8; 4] = [192, 168, 0, 2];

/// Two peers and their session.
struct Pair {
    world: World,
    server: Peer,
    /// The end of the client, which has dialled.
    session: Session,
    _client: Peer,
}

impl Pair {
    fn new(server: PeerBuilder, client: PeerBuilder) -> Self {
        let mut world = World::new(1, Link::calm()).expect("a world");
        let mut start = |builder: PeerBuilder, host| {
            let (peer, options, factory) = builder.reactors(1).into_server().expect("is right");
            world.start(host, options, factory).expect("starts");
            peer
        };
        let server = start(server.listen("tcp://:9000"), SERVER);
        let client = start(client, CLIENT);
        let dialled: Arc<Mutex<Option<Result<Session, Status>>>> = Arc::default();
        let result = dialled.clone();
        client.dial_then("tcp://192.168.0.1:9000", move |session| {
            *result.lock() = Some(session);
        });
        assert!(world.run_until(Duration::from_secs(9), |_| dialled.lock().is_some()));
        let session = dialled.lock().take().expect("has ended").expect("is open");
        Self {
            world,
            server,
            session,
            _client: client,
        }
    }

    /// Makes a call and returns its result.
    fn call(&mut self, uri: &str) -> Result<u8, Status> {
        let ended: Arc<Mutex<Option<Result<u8, Status>>>> = Arc::default();
        let result = ended.clone();
        self.session
            .call(uri, &1u8)
            .then(move |reply| *result.lock() = Some(reply));
        assert!(
            self.world
                .run_until(Duration::from_secs(60), |_| ended.lock().is_some())
        );
        ended.lock().take().expect("has ended")
    }
}

fn echo() -> Router {
    let mut routes = Router::new();
    routes.call("/echo", |_ctx, n: u8| Ok(n));
    routes
}

#[test]
fn a_rate_limit_goes_by_the_time_of_the_reactor() {
    let limiter = Limiter::new("rate").rate(Per::Session, 4, Duration::from_secs(20));
    let server = Peer::builder().routes(echo()).plugin(limiter);
    let mut pair = Pair::new(server, Peer::builder());
    let answered = |pair: &mut Pair| {
        let calls = (0..8).filter(|_| match pair.call("/echo") {
            Ok(_) => true,
            Err(status) => {
                assert_eq!(status.code, code::TOO_MANY_REQUESTS);
                false
            }
        });
        calls.count()
    };
    assert_eq!(answered(&mut pair), 4, "all at once");
    for (seconds, expected) in [(4, 0), (1, 1), (10, 2), (3600, 4)] {
        pair.world.run_for(Duration::from_secs(seconds));
        assert_eq!(answered(&mut pair), expected, "after {seconds} s");
    }
}

/// Notes the pings that arrive since the last call to `/echo`: the times, and whether they are calls.
#[derive(Clone, Default)]
struct Pings(Arc<Mutex<(Option<Instant>, Vec<Noted>)>>);

type Noted = (Duration, bool);

impl Pings {
    fn note(&self, message: &Incoming<'_>, is_call: bool) {
        let now = message.arrived_at().expect("is known to plugins");
        let (begun, pings) = &mut *self.0.lock();
        if message.path() == "/heartbeat" {
            assert!(message.body().is_empty());
            pings.push((now - begun.expect("a call came first"), is_call));
        } else {
            *begun = Some(now);
        }
    }

    /// Returns the times in whole seconds, and forgets them.
    fn take(&self) -> Vec<u64> {
        let pings = std::mem::take(&mut self.0.lock().1);
        pings.iter().map(|(at, _)| at.as_secs()).collect()
    }
}

impl Plugin for Pings {
    fn name(&self) -> &str {
        "pings"
    }

    fn hooks(&self) -> Hooks {
        Hooks::POST_READ_CALL_HEADER | Hooks::POST_READ_PUSH_HEADER
    }

    fn post_read_call_header(&self, call: &mut Incoming<'_>) -> Result<(), Status> {
        self.note(call, true);
        Ok(())
    }

    fn post_read_push_header(&self, push: &mut Incoming<'_>) -> Result<(), Status> {
        self.note(push, false);
        Ok(())
    }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn a_ping_is_sent_where_nothing_was_read_or_written_for_its_rate() {
    for by_call in [true, false] {
        let pings = Pings::default();
        let server = Peer::builder()
            .routes(echo())
            .plugin(pings.clone())
            .plugin(Pong);
        let ping = match by_call {
            true => Ping::by_call(seconds(3)),
            false => Ping::by_push(seconds(3)),
        };
        let mut pair = Pair::new(server, Peer::builder().plugin(ping.clone()));
        pair.call("/echo").expect("answers");
        pair.world.run_for(seconds(11));
        assert_eq!(pings.take(), [3, 6, 9]);
        // Any message puts it off.
        for _ in 0..10 {
            pair.call("/echo").expect("answers");
            pair.world.run_for(seconds(2));
        }
        assert!(pings.take().is_empty());
        // The way and the rate can be changed.
        match by_call {
            true => ping.use_push(),
            false => ping.use_call(),
        }
        ping.set_rate(seconds(2)).expect_err("is too short");
        pair.call("/echo").expect("answers");
        ping.set_rate(seconds(60)).expect("works");
        pair.world.run_for(seconds(61));
        let is_call = pings.0.lock().1.first().map(|(_, is_call)| *is_call);
        assert_eq!(is_call, Some(!by_call));
        assert_eq!(pings.take(), [0, 60], "a longer rate is told");
        pair.call("/echo").expect("answers");
        ping.set_rate(seconds(4)).expect("works");
        pair.world.run_for(seconds(10));
        assert_eq!(pings.take(), [4, 8], "the new rate counts at once");
        assert_eq!(pair.session.health(), Health::Open);
    }
}

#[test]
fn a_session_that_is_silent_for_twice_its_rate_is_closed_and_one_that_never_pinged_is_not() {
    let server = Peer::builder().routes(echo()).plugin(Pong);
    let mut pair = Pair::new(server, Peer::builder());
    pair.world.run_for(seconds(1000));
    assert_eq!(pair.session.health(), Health::Open);
    let ping = |pair: &mut Pair, rate: &str| pair.call(&format!("/heartbeat?hb_={rate}"));
    // A ping with a bad rate teaches nothing.
    for rate in ["", "x", "-1", "2", "99999999999"] {
        let status = ping(&mut pair, rate).expect_err("is refused");
        assert_eq!(
            status,
            Status::new(400, "Invalid Heartbeat Rate"),
            "{rate:?}"
        );
    }
    // The answer is no number, but `null`.
    let status = ping(&mut pair, "5").expect_err("is no number");
    assert!(status.reason.contains("null"), "{status}");
    // Later ones may change the rate, and a bad one changes nothing.
    for rate in ["10", "x"] {
        let status = ping(&mut pair, rate).expect_err("is no number");
        assert!(status.reason.contains("null"), "{status}");
    }
    pair.world.run_for(seconds(15));
    pair.call("/echo").expect("any message counts");
    let begun = pair.world.now();
    let session = pair.session.clone();
    assert!(
        pair.world
            .run_until(seconds(60), |_| session.health() == Health::Closed)
    );
    let took = pair.world.now() - begun;
    assert!((19..21).contains(&took.as_secs()), "{took:?}");
}

#[test]
fn a_ping_that_fails_closes_its_session() {
    // One peer has no heartbeats, and the other one never answers.
    let mut silent = Router::new();
    silent.call_later("/heartbeat", |ctx, _: (), reply: Responder<()>| {
        ctx.session().on_close(move || drop(reply));
    });
    for (routes, after) in [(echo(), 4..5), (silent, 8..9)] {
        let client = Peer::builder().plugin(Ping::by_call(seconds(4)));
        let mut pair = Pair::new(Peer::builder().routes(routes), client);
        let (begun, session) = (pair.world.now(), pair.session.clone());
        assert!(
            pair.world
                .run_until(seconds(60), |_| session.health() == Health::Closed)
        );
        let took = (pair.world.now() - begun).as_secs();
        assert!(after.contains(&took), "{took} s");
    }
}

#[test]
fn a_server_may_ping_its_clients() {
    let pings = Pings::default();
    let server = Peer::builder().plugin(Ping::by_call(seconds(3)));
    let client = Peer::builder().plugin(pings.clone()).plugin(Pong);
    let mut pair = Pair::new(server, client);
    let session = pair.server.sessions().pop().expect("is open");
    session.call::<_, ()>("/echo", &()).then(drop);
    pair.world.run_for(seconds(10));
    assert_eq!(pings.take(), [3, 6, 9]);
    assert_eq!(pair.session.health(), Health::Open);
}

/// Counts the sessions that open.
#[derive(Clone, Default)]
struct Opened(Arc<Mutex<usize>>);

impl Plugin for Opened {
    fn name(&self) -> &str {
        "opened"
    }

    fn hooks(&self) -> Hooks {
        Hooks::POST_ACCEPT
    }

    fn post_accept(&self, _: &Session) -> Result<Next, Status> {
        *self.0.lock() += 1;
        Ok(Next::Go)
    }
}

#[test]
fn a_session_that_redials_does_so_when_its_ping_gets_no_answer() {
    let opened = Opened::default();
    let mut silent = Router::new();
    silent.call_later("/heartbeat", |ctx, _: (), reply: Responder<()>| {
        ctx.session().on_close(move || drop(reply));
    });
    let server = Peer::builder().routes(silent).plugin(opened.clone());
    let client = Peer::builder()
        .plugin(Ping::by_call(seconds(4)))
        .redial(Reconnect::new(seconds(1), seconds(2)));
    let mut pair = Pair::new(server, client);
    pair.world.run_for(seconds(60));
    let opened = *opened.0.lock();
    assert!((6..=10).contains(&opened), "{opened}");
    assert_ne!(pair.session.health(), Health::Closed);
}

#[cfg(feature = "http")]
#[test]
fn a_session_over_http_takes_no_pings_and_stays_open() {
    let mut world = World::new(1, Link::calm()).expect("a world");
    let mut routes = Router::new();
    routes.call("/hello", |_ctx, _: ()| Ok("hello"));
    let server = Peer::builder()
        .routes(routes)
        .plugin(Ping::by_call(seconds(3)))
        .listen_with("tcp://:9000", epicycle::rpc::Http::new())
        .reactors(1);
    let (_server, options, factory) = server.into_server().expect("is right");
    world.start(SERVER, options, factory).expect("starts");
    let browser = world.connect((SERVER, 9000));
    for _ in 0..2 {
        world.send(browser, "GET /hello HTTP/1.1\r\nHost: x\r\n\r\n");
        world.run_for(seconds(10));
        let answer = String::from_utf8(world.take_received(browser)).expect("is text");
        assert!(answer.ends_with("\"hello\""), "{answer}");
        assert!(!world.is_closed(browser));
    }
}

#[test]
fn a_ping_over_http_ends_no_connection() {
    let mut world = World::new(1, Link::calm()).expect("a world");
    let mut routes = Router::new();
    routes.call_later("/slow", |ctx, _: (), reply: Responder<u8>| {
        let mut reply = Some(reply);
        ctx.on_cancel(move || drop(reply.take()));
    });
    let server = Peer::builder()
        .routes(routes)
        .plugin(Pong)
        .listen_with("tcp://:9000", epicycle::rpc::Http::new())
        .reactors(1);
    let (_server, options, factory) = server.into_server().expect("is right");
    world.start(SERVER, options, factory).expect("starts");
    let gateway = world.connect((SERVER, 9000));
    world.send(gateway, "GET /heartbeat?hb_=3 HTTP/1.1\r\nHost: x\r\n\r\n");
    world.run_for(seconds(1));
    let pong = String::from_utf8(world.take_received(gateway)).expect("is text");
    assert!(pong.starts_with("HTTP/1.1 200 "), "{pong}");
    // Another client behind the same gateway.
    world.send(
        gateway,
        "GET /slow HTTP/1.1\r\nHost: x\r\nX-Timeout: 20000\r\n\r\n",
    );
    world.run_for(seconds(30));
    let answer = String::from_utf8(world.take_received(gateway)).expect("is text");
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(!world.is_closed(gateway));
}

#[test]
fn a_limit_on_calls_keeps_a_ping_back_and_ends_no_session() {
    let mut routes = echo();
    routes.call_later("/never", |ctx, _: u8, reply: Responder<u8>| {
        ctx.session().on_close(move || drop(reply));
    });
    let client = Peer::builder().plugin(Ping::by_call(seconds(3)));
    let client = client.max_total_calls(1).call_timeout(None);
    let pings = Pings::default();
    let server = Peer::builder().routes(routes).plugin(pings.clone());
    let mut pair = Pair::new(server.plugin(Pong), client);
    assert_eq!(pair.call("/echo"), Ok(1));
    let waits = pair.session.call::<_, u8>("/never", &1u8).send();
    pair.world.run_for(seconds(20));
    assert_eq!(pair.session.health(), Health::Open);
    assert_eq!(pings.take(), [] as [u64; 0]);
    waits.cancel();
    pair.world.run_for(seconds(7));
    assert!(!pings.take().is_empty(), "they go on");
    assert_eq!(pair.call("/echo"), Ok(1));
}

#[test]
fn a_first_request_that_does_not_arrive_in_time_gets_408() {
    let mut world = World::new(1, Link::calm()).expect("a world");
    let server = Peer::builder()
        .routes(echo())
        .listen_with("tcp://:9000", epicycle::rpc::Http::new())
        .reactors(1);
    let (_server, options, factory) = server.into_server().expect("is right");
    world.start(SERVER, options, factory).expect("starts");
    let (slow, silent) = (world.connect((SERVER, 9000)), world.connect((SERVER, 9000)));
    world.send(
        slow,
        "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n1234",
    );
    world.run_for(seconds(9));
    assert!(!world.is_closed(slow) && !world.is_closed(silent));
    world.run_for(seconds(2));
    let answer = String::from_utf8(world.take_received(slow)).expect("is text");
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert_eq!(world.take_received(silent), b"");
    world.run_for(seconds(10));
    assert!(world.is_closed(slow) && world.is_closed(silent));
}
