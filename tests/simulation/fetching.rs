//! `fetch` on a simulated network: servers that end at every point, and hostile links.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use epicycle::fetch::{Client, FetchError, Fetcher, PoolLimits};
use epicycle::http::{HttpCodec, ServerRequest, ServerResponse};
use epicycle::testing::{Host, Link, Peer, PeerListener, World, each_seed};
use epicycle::{
    Action, CloseReason, Closed, Conn, ConnInfo, EventHandler, Reactor, Server, TimeoutKind,
};
use fastrand::Rng;

use super::world;

const ORIGIN: [u8; 4] = [192, 168, 0, 3];
const CLIENT: [u8; 4] = [192, 168, 0, 4];
const URL: &str = "http://192.168.0.3/";

type Results = Arc<Mutex<Vec<Result<String, FetchError>>>>;

/// A client in a world, with the results of its requests.
struct Visit {
    world: World,
    client: Client,
    host: Host<Fetcher>,
    origin: PeerListener,
    results: Results,
}

impl Visit {
    fn new() -> Self {
        let mut world = World::new(1, Link::calm()).expect("a world");
        let origin = world.listen((ORIGIN, 80));
        let limits = PoolLimits::default().idle_timeout(Duration::from_secs(60));
        let (client, host) = start(&mut world, limits);
        Self {
            world,
            client,
            host,
            origin,
            results: Results::default(),
        }
    }

    fn ask(&mut self, method: &str) {
        let results = self.results.clone();
        let request = self.client.request(method, URL);
        request.send_then(move |result| {
            let text = result.map(|response| String::from_utf8_lossy(response.body()).into());
            results.lock().expect("no panic").push(text);
        });
        self.pass();
    }

    fn pass(&mut self) {
        self.world.run_for(Duration::from_secs(1));
    }

    fn say(&mut self, peer: Peer, bytes: impl AsRef<[u8]>) {
        self.world.send(peer, bytes);
        self.pass();
    }

    fn result(&mut self) -> Result<String, FetchError> {
        let mut results = self.results.lock().expect("no panic");
        assert_eq!(results.len(), 1, "one result is told");
        results.remove(0)
    }

    /// Makes a connection that has served once.
    fn warm(&mut self) -> Peer {
        self.ask("GET");
        let peer = self.world.accept(self.origin).expect("it connects");
        self.say(peer, RESPONSE);
        assert_eq!(self.result().expect("a response"), "hello");
        self.world.take_received(peer);
        assert_eq!(self.world.handler(self.host, 0).idle(), 1);
        peer
    }

    /// Answers a request that has been sent again, on a new connection.
    fn answer_again(&mut self) {
        let peer = self.world.accept(self.origin).expect("it connects again");
        assert!(self.world.received(peer).ends_with(b"\r\n\r\n"));
        self.say(peer, RESPONSE);
        assert_eq!(self.result().expect("a response"), "hello");
    }

    /// Asserts that nothing is sent again.
    fn expect_no_retry(&mut self) {
        assert_eq!(self.world.accept(self.origin), None);
        assert_eq!(self.world.handler(self.host, 0).under_way(), 0);
        assert_eq!(self.world.handler(self.host, 0).connections(), 0);
    }
}

const RESPONSE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

fn start(world: &mut World, limits: PoolLimits) -> (Client, Host<Fetcher>) {
    let mut started = None;
    let client = Client::builder()
        .pool(limits)
        .start_with(|engine, fetcher| {
            let host = world.start(CLIENT, engine, fetcher)?;
            started = Some(host);
            Ok(world.engine(host).clone())
        });
    (client.expect("a client"), started.expect("a host"))
}

#[derive(Clone, Copy, Debug)]
enum End {
    Fin,
    Reset,
}

fn end(visit: &mut Visit, peer: Peer, end: End) {
    match end {
        End::Fin => visit.world.shutdown(peer),
        End::Reset => visit.world.reset(peer),
    }
    visit.pass();
}

#[test]
fn a_request_is_sent_again_only_if_a_reused_connection_ends_before_the_first_byte() {
    for (ending, method) in [
        (End::Fin, "GET"),
        (End::Reset, "PUT"),
        (End::Fin, "POST"),
        (End::Reset, "POST"),
    ] {
        for cut in 0..=RESPONSE.len() {
            let mut visit = Visit::new();
            let peer = visit.warm();
            visit.ask(method);
            visit.say(peer, &RESPONSE[..cut]);
            end(&mut visit, peer, ending);
            let case = format!("{ending:?} after {cut} bytes of the response to {method}");
            match cut {
                0 if method != "POST" => visit.answer_again(),
                0 => {
                    let error = visit.result().expect_err("no response");
                    assert!(
                        matches!(error, FetchError::NoResponse(_)),
                        "{case}: {error}"
                    );
                    visit.expect_no_retry();
                }
                _ if cut == RESPONSE.len() => {
                    assert_eq!(visit.result().expect("a response"), "hello", "{case}");
                    visit.expect_no_retry();
                }
                _ => {
                    let error = visit.result().expect_err("no whole response");
                    assert!(matches!(error, FetchError::CutShort(_)), "{case}: {error}");
                    visit.expect_no_retry();
                }
            }
        }
    }
}

#[test]
fn a_request_is_sent_again_once_and_not_from_a_fresh_connection() {
    for ending in [End::Fin, End::Reset] {
        let mut visit = Visit::new();
        let peer = visit.warm();
        visit.ask("GET");
        end(&mut visit, peer, ending);
        let peer = visit.world.accept(visit.origin).expect("it connects again");
        end(&mut visit, peer, ending);
        let error = visit.result().expect_err("no response");
        assert!(matches!(error, FetchError::NoResponse(_)), "{error}");
        visit.expect_no_retry();
    }
}

#[test]
fn an_interim_response_is_a_first_byte() {
    let mut visit = Visit::new();
    let peer = visit.warm();
    visit.ask("GET");
    visit.say(peer, "HTTP/1.1 103 Early Hints\r\n\r\n");
    end(&mut visit, peer, End::Fin);
    let error = visit.result().expect_err("no response");
    assert!(matches!(error, FetchError::CutShort(_)), "{error}");
    visit.expect_no_retry();
}

#[test]
fn any_byte_or_end_on_an_idle_connection_closes_it() {
    for bytes in ["", "x", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"] {
        let mut visit = Visit::new();
        let peer = visit.warm();
        match bytes {
            "" => visit.world.shutdown(peer),
            bytes => drop(visit.world.send(peer, bytes)),
        }
        visit.world.run_for(Duration::from_secs(10));
        assert_eq!(visit.world.handler(visit.host, 0).idle(), 0, "{bytes:?}");
        visit.ask("POST");
        visit.answer_again();
        assert_eq!(visit.world.received(peer), b"", "{bytes:?}");
    }
}

#[test]
fn an_idle_connection_is_closed_after_its_time() {
    let mut visit = Visit::new();
    let peer = visit.warm();
    visit.world.run_for(Duration::from_secs(50));
    assert!(!visit.world.is_closed(peer));
    visit.world.run_for(Duration::from_secs(15));
    assert!(visit.world.is_closed(peer));
    assert_eq!(visit.world.handler(visit.host, 0).connections(), 0);
}

/// What the origin has seen: how often each request has arrived.
type Seen = Arc<Mutex<HashMap<String, u32>>>;

/// Answers each request with its target, and ends connections as it likes.
struct Origin {
    seen: Seen,
    /// The number of connections that were idle for too long before their first request had arrived.
    unused: usize,
    rng: Rng,
    spoils: bool,
}

impl EventHandler for Origin {
    type Codec = HttpCodec;
    /// True once a request has arrived.
    type Session = bool;

    fn codec(&mut self, _: &ConnInfo<'_>) -> HttpCodec {
        HttpCodec::default()
    }

    fn on_open(&mut self, _: &mut Conn<'_, Self>) -> Option<bool> {
        Some(false)
    }

    fn react(
        &mut self,
        conn: &mut Conn<'_, Self>,
        is_used: &mut bool,
        request: ServerRequest<'_>,
    ) -> Action {
        *is_used = true;
        let target = request.target().to_owned();
        *self
            .seen
            .lock()
            .expect("no panic")
            .entry(target.clone())
            .or_default() += 1;
        let body = target.repeat(self.rng.usize(1..2000));
        match self.rng.u32(..20) {
            0 if self.spoils => conn.abort(),
            1 if self.spoils => conn.close(),
            // It says so, and keeps its word.
            2 => return conn.send(ServerResponse::ok().body(&body).close()).into(),
            // It does not say so.
            3 => {
                if conn.send(ServerResponse::ok().body(&body)).is_ok() {
                    conn.close();
                }
            }
            _ => return conn.send(ServerResponse::ok().body(&body)).into(),
        }
        Action::Continue
    }

    fn on_close(&mut self, _: &mut Reactor<'_, Self>, _: &Closed, is_used: bool, why: CloseReason) {
        let is_idle = matches!(why, CloseReason::Timeout(TimeoutKind::Idle));
        self.unused += usize::from(is_idle && !is_used);
    }
}

/// Sends requests by turns and at once. Returns the fingerprint of the run.
fn fetched(seed: u64, breaks: bool) -> u64 {
    let mut rng = Rng::with_seed(seed);
    let link = match breaks {
        true => world::link(&mut rng).resets(20),
        false => world::link(&mut rng).resets(0),
    };
    let mut world = World::new(seed, link).expect("a world");
    let seen = Seen::default();
    let (theirs, origin_seed) = (seen.clone(), rng.u64(..));
    let server = Server::bind("tcp://:80").idle_timeout(Duration::from_millis(rng.u64(50..5000)));
    let origin = world.start(ORIGIN, server, move |_| Origin {
        seen: theirs.clone(),
        unused: 0,
        rng: Rng::with_seed(origin_seed),
        spoils: breaks,
    });
    let origin = origin.expect("an origin");
    let limits = PoolLimits::default()
        .max_per_destination(rng.usize(1..6))
        .max_idle(rng.usize(0..4))
        .idle_timeout(Duration::from_millis(rng.u64(10..3000)));
    let (client, host) = start(&mut world, limits);
    let results: Arc<Mutex<HashMap<String, Result<(), FetchError>>>> = Arc::default();
    let requests = rng.usize(1..40);
    let mut methods = HashMap::new();
    for n in 0..requests {
        let target = format!("/{n}/");
        let method = ["GET", "PUT", "POST"][rng.usize(..3)];
        methods.insert(target.clone(), method);
        let mut request = client.request(method, format!("http://192.168.0.3{target}"));
        if method != "GET" {
            request = request.body(vec![b'x'; world::len(&mut rng)]);
        }
        if rng.u32(..10) == 0 {
            request = request.timeout(Duration::from_millis(rng.u64(1..2000)));
        }
        let results = results.clone();
        request.send_then(move |result| {
            let result = result.map(|response| {
                let text = String::from_utf8_lossy(response.body()).into_owned();
                assert_eq!(
                    text,
                    target.repeat(text.len() / target.len()),
                    "another one's response"
                );
            });
            let before = results.lock().expect("no panic").insert(target, result);
            assert!(before.is_none(), "told twice");
        });
        if rng.bool() {
            world.run_for(Duration::from_micros(rng.u64(..3_000_000)));
        }
    }
    world.run_for(Duration::from_secs(600));
    let results = results.lock().expect("no panic");
    assert_eq!(results.len(), requests, "each request has a result");
    let seen = seen.lock().expect("no panic");
    let mut lost = 0;
    for (target, result) in &*results {
        let arrived = seen.get(target).copied().unwrap_or(0);
        let most = if methods[target] == "POST" { 1 } else { 2 };
        assert!(arrived <= most, "{target} has arrived {arrived} times");
        match result {
            Ok(()) => assert!(arrived > 0),
            Err(FetchError::Deadline { .. }) => {}
            // It may have been sent at the moment in which the idle connection was closed.
            Err(FetchError::NoResponse(_)) if methods[target] == "POST" => {}
            // The origin has closed a fresh connection while the request was on its way.
            Err(FetchError::NoResponse(CloseReason::Peer)) if arrived == 0 => lost += 1,
            Err(error) => assert!(breaks, "{target}: {error}"),
        }
    }
    let unused = world.handler(origin, 0).unused;
    assert!(
        breaks || lost <= unused,
        "a reused connection lost one: {lost} are lost, {unused} were unused"
    );
    let fetcher = world.handler(host, 0);
    let left = (fetcher.under_way(), fetcher.connections(), fetcher.idle());
    assert_eq!(left, (0, 0, 0));
    assert_eq!(world.stats(host).connections, 0);
    assert_eq!(world.stats(host).buffered, 0, "buffers have leaked");
    world.fingerprint()
}

#[test]
fn each_request_has_its_own_response_and_arrives_as_often_as_it_may() {
    each_seed(0..300, |seed| {
        fetched(seed, false);
    });
}

#[test]
fn whatever_breaks_each_request_has_one_result_and_a_post_arrives_once() {
    each_seed(0..300, |seed| {
        fetched(seed, true);
    });
}

#[test]
fn the_same_seed_has_the_same_trace_of_requests() {
    each_seed(0..30, |seed| {
        assert_eq!(fetched(seed, true), fetched(seed, true));
    });
}
