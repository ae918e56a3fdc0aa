//! A gateway between clients and origins, on links that split, delay, stall and reset.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use epicycle::gateway::settings::{
    BalanceBy, Drain, HashKey, ListenerSettings, NodeSettings, PoolSettings, RouteSettings,
};
use epicycle::gateway::{Gateway, NoHooks, Proxy};
use epicycle::http::{
    Chunk, End, HeaderBlock, HttpStreamCodec, RequestPart, ServerResponse, StatusCode, Trailers,
};
use epicycle::testing::{Ending, Host, Link, Peer, Reading, World, each_seed};
use epicycle::{Action, Conn, ConnInfo, EventHandler, Server};
use fastrand::Rng;

use super::http_proxies::heard;
use super::world;

const GATEWAY: [u8; 4] = [192, 168, 0, 2];
const ORIGINS: [[u8; 4]; 2] = [[192, 168, 0, 3], [192, 168, 0, 4]];

/// Fields that clients send, and that no node may see.
const HOP_BY_HOP: [&str; 3] = ["keep-alive", "proxy-authorization", "x-hop"];

/// The number of times that each request has reached an origin.
type Seen = Arc<Mutex<HashMap<usize, usize>>>;

/// Returns the body that belongs to a request, and to no other.
fn body(id: usize, len: usize) -> Vec<u8> {
    (0..len)
        .map(|at| (at * 7 + id * 13 + at / 251) as u8)
        .collect()
}

/// An origin that counts the requests that reach it. A target is `/KIND/LEN/ID`.
struct Origin {
    seen: Seen,
    /// True if it answers some requests with 503.
    is_busy: bool,
}

#[derive(Default)]
struct Visit {
    kind: String,
    len: usize,
    id: usize,
    sent: usize,
    received: usize,
}

impl EventHandler for Origin {
    type Codec = HttpStreamCodec;
    type Session = Visit;

    fn codec(&mut self, _: &ConnInfo<'_>) -> HttpStreamCodec {
        HttpStreamCodec::default()
    }

    fn on_open(&mut self, _: &mut Conn<'_, Self>) -> Option<Visit> {
        Some(Visit::default())
    }

    fn react(
        &mut self,
        conn: &mut Conn<'_, Self>,
        visit: &mut Visit,
        part: RequestPart<'_>,
    ) -> Action {
        match part {
            RequestPart::Head(request) => {
                for (name, _) in request.headers() {
                    let name = name.to_ascii_lowercase();
                    assert!(!HOP_BY_HOP.contains(&&*name), "{name} came to a node");
                }
                assert_eq!(
                    request.header("x-real-ip"),
                    request.header("x-forwarded-for")
                );
                let mut parts = request.target().split('/').skip(1);
                let mut next = || parts.next().unwrap_or_default();
                *visit = Visit {
                    kind: next().to_owned(),
                    len: next().parse().expect("a length"),
                    id: next().parse().expect("a number"),
                    ..Visit::default()
                };
                *self
                    .seen
                    .lock()
                    .expect("sound")
                    .entry(visit.id)
                    .or_default() += 1;
                match &*visit.kind {
                    "page" => {
                        let _ = conn.send(ServerResponse::ok().sized(visit.len as u64));
                        visit.pump(conn);
                    }
                    "last" => {
                        let _ = conn.send(ServerResponse::ok().sized(visit.len as u64).close());
                        visit.pump(conn);
                    }
                    "chunks" => {
                        let hints = ServerResponse::new(StatusCode::EARLY_HINTS);
                        let _ = conn.send(hints);
                        let _ = conn.send(ServerResponse::ok().streamed());
                        visit.pump(conn);
                    }
                    "echo" => drop(conn.send(ServerResponse::ok().streamed())),
                    "cut" => {
                        let _ = conn.send(ServerResponse::ok().sized(visit.len as u64 + 1));
                        visit.pump(conn);
                        return Action::Close;
                    }
                    "drop" => conn.abort(),
                    // The answer follows the end of the request.
                    _ => {}
                }
            }
            RequestPart::Body(bytes) => {
                visit.received += bytes.len();
                if visit.kind == "echo" {
                    return conn.send(Chunk(bytes)).into();
                }
            }
            RequestPart::End(trailers) => match &*visit.kind {
                "busy" if self.is_busy => {
                    let busy = ServerResponse::new(StatusCode::SERVICE_UNAVAILABLE);
                    return conn.send(busy).into();
                }
                "busy" => {
                    visit.kind = "page".to_owned();
                    let _ = conn.send(ServerResponse::ok().sized(visit.len as u64));
                    visit.pump(conn);
                }
                "echo" => {
                    let mut block = HeaderBlock::new();
                    block.fill(trailers.lines()).expect("they are sound");
                    return conn.send(Trailers(&block)).into();
                }
                "count" => {
                    let count = visit.received.to_string();
                    return conn.send(ServerResponse::ok().body(&count)).into();
                }
                _ => {}
            },
            _ => {}
        }
        Action::Continue
    }

    fn on_drain(&mut self, conn: &mut Conn<'_, Self>, visit: &mut Visit) -> Action {
        visit.pump(conn);
        Action::Continue
    }
}

impl Visit {
    fn pump(&mut self, conn: &mut Conn<'_, Origin>) {
        if !matches!(&*self.kind, "page" | "last" | "chunks" | "cut") {
            return;
        }
        let all = body(self.id, self.len);
        while self.sent < self.len && conn.has_room() {
            let end = (self.sent + 5000).min(self.len);
            if conn.send(Chunk(&all[self.sent..end])).is_err() {
                return;
            }
            self.sent = end;
        }
        if self.sent == self.len && self.kind == "chunks" {
            self.kind.clear();
            let _ = conn.send(End);
        }
    }
}

/// A request, and the response that it may get.
struct Exchange {
    id: usize,
    method: &'static str,
    kind: &'static str,
    request: Vec<u8>,
    body: Vec<u8>,
}

impl Exchange {
    fn random(rng: &mut Rng, id: usize, is_last: bool) -> Self {
        let version = if is_last && rng.bool() { "1.0" } else { "1.1" };
        let connection = if is_last { "close" } else { "keep-alive" };
        let len = world::len(rng);
        let (method, kind) = match rng.u32(..10) {
            0 => ("HEAD", "page"),
            1 => ("GET", "chunks"),
            2 => ("GET", "last"),
            3 if version == "1.1" => ("POST", "echo"),
            4 => ("POST", "count"),
            5 => ("PUT", "count"),
            6 if rng.u32(..4) == 0 => ("GET", "drop"),
            7 if rng.u32(..4) == 0 => ("GET", "cut"),
            8 => (["GET", "POST"][rng.usize(..2)], "busy"),
            _ => ("GET", "page"),
        };
        let mut request = format!(
            "{method} /{kind}/{len}/{id} HTTP/{version}\r\nHost: a\r\nConnection: {connection}, X-Hop\r\n\
             X-Hop: 1\r\nKeep-Alive: timeout=1\r\nProxy-Authorization: x\r\n"
        )
        .into_bytes();
        let has_body = matches!(method, "PUT" | "POST");
        let own = body(id, len);
        if !has_body {
            request.extend_from_slice(b"\r\n");
        } else if version == "1.0" || rng.bool() && kind != "echo" {
            request.extend(format!("Content-Length: {len}\r\n\r\n").bytes());
            request.extend(&own);
        } else {
            request.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
            for piece in own.chunks(rng.usize(1..3000)) {
                request.extend(format!("{:x}\r\n", piece.len()).bytes());
                request.extend(piece);
                request.extend_from_slice(b"\r\n");
            }
            request.extend_from_slice(b"0\r\nSum: 7\r\n\r\n");
        }
        let body = match kind {
            _ if method == "HEAD" => Vec::new(),
            "count" => len.to_string().into_bytes(),
            _ => own,
        };
        Self {
            id,
            method,
            kind,
            request,
            body,
        }
    }
}

fn start(
    world: &mut World,
    rng: &mut Rng,
    seen: &Seen,
) -> (Vec<Host<Origin>>, Gateway, Host<Proxy<NoHooks>>) {
    let mut origins = Vec::new();
    for (number, address) in ORIGINS.into_iter().enumerate() {
        let server = world::server_on("tcp://:80", rng);
        let seen = seen.clone();
        let origin = world.start(address, server, move |_| Origin {
            seen: seen.clone(),
            is_busy: number == 0,
        });
        origins.push(origin.expect("an origin"));
    }
    let mut pool = PoolSettings::default();
    pool.nodes = ORIGINS.iter().map(node).collect();
    // Slow links must still carry everything.
    let long = Duration::from_secs(1000);
    pool.timeouts.connect = long;
    pool.timeouts.response_head = long;
    pool.timeouts.body_idle = long;
    pool.connections.max_idle = rng.usize(1..5);
    if rng.u32(..3) == 0 {
        pool.connections.max_connections = Some(rng.usize(1..3));
        pool.connections.pending_timeout = long;
    }
    pool.retries.body = [0, 100][rng.usize(..2)];
    if rng.bool() {
        pool.retries.statuses = vec![503];
    }
    pool.balance = balance(rng);
    let mut route = RouteSettings::to("app");
    route.buffer_request = [0, 500][rng.usize(..2)];
    let mut listener = ListenerSettings::new("tcp://:8080");
    listener.limits.high_water = rng.usize(1 << 10..64 << 10);
    listener.timeouts.head = long;
    listener.timeouts.body_idle = long;
    listener.timeouts.idle = long;
    listener.timeouts.write_stall = long;
    let mut drain = Drain::default();
    drain.node_timeout = long;
    let gateway = Gateway::builder()
        .reactors(rng.usize(1..4))
        .listen(listener)
        .pool("app", pool)
        .route(route)
        .drain(drain)
        .build()
        .expect("the settings are right");
    let budget = rng.usize(1..64 << 10);
    let started = gateway.start_with(
        |_| NoHooks,
        |server: Server, factory| {
            let server = server.read_budget(budget).drain_deadline(long);
            Ok(world.start(GATEWAY, server, factory)?)
        },
    );
    (origins, gateway, started.expect("a gateway"))
}

fn balance(rng: &mut Rng) -> BalanceBy {
    match rng.u32(..6) {
        0 => BalanceBy::Random,
        1 => BalanceBy::RoundRobin,
        2 => BalanceBy::Least,
        3 => BalanceBy::TwoChoices,
        4 => BalanceBy::hash(HashKey::Uri),
        _ => BalanceBy::Weighted,
    }
}

/// Returns the gateway with other settings. Nodes come and go.
fn changed(gateway: &Gateway, rng: &mut Rng) -> Gateway {
    let mut settings = gateway.settings().clone();
    let pool = settings.pools.get_mut("app").expect("is there");
    let nodes = [&ORIGINS[..1], &ORIGINS[1..], &ORIGINS[..]][rng.usize(..3)];
    pool.nodes = nodes.iter().map(node).collect();
    pool.balance = balance(rng);
    pool.connections.max_idle = rng.usize(1..5);
    let own = ("X-Change".to_owned(), rng.u8(..).to_string());
    settings.routes[0].request.set = vec![own];
    Gateway::new(settings).expect("the settings are right")
}

fn node([a, b, c, d]: &[u8; 4]) -> NodeSettings {
    NodeSettings::new(format!("http://{a}.{b}.{c}.{d}"))
}

/// The disturbances of a run.
#[derive(Clone, Copy, Default)]
struct Trouble {
    /// The percentage of connections that break.
    resets: u32,
    /// The percentage of clients that leave at some time.
    leave: u32,
    /// The number of times that the gateway gets other settings amid the requests.
    changes: u32,
    /// True if the gateway is told to end amid the requests.
    drain: bool,
}

/// Some clients ask through the gateway.
fn proxied(seed: u64, trouble: Trouble) -> u64 {
    let Trouble {
        resets,
        leave,
        changes,
        drain,
    } = trouble;
    let mut rng = Rng::with_seed(seed);
    let link = world::link(&mut rng).resets(resets);
    let mut world = World::new(seed, link).expect("a world");
    let seen = Seen::default();
    let (origins, settings, gateway) = start(&mut world, &mut rng, &seen);
    let control = world.handler(gateway, 0).control(world.engine(gateway));
    let mut id = 0;
    let clients: Vec<(Peer, Vec<Exchange>)> = (0..rng.usize(1..5))
        .map(|_| {
            let count = rng.usize(1..6);
            let exchanges = (1..=count).map(|n| {
                id += 1;
                Exchange::random(&mut rng, id, n == count)
            });
            let exchanges = exchanges.collect();
            (world.connect((gateway, 8080)), exchanges)
        })
        .collect();
    for (client, exchanges) in &clients {
        world.set_reading(*client, world::reading(&mut rng));
        for exchange in exchanges {
            world.send(*client, &exchange.request);
            if rng.bool() {
                world.run_for(Duration::from_micros(rng.u64(..200_000)));
            }
        }
    }
    let mut left = Vec::new();
    for (client, _) in &clients {
        if rng.u32(..100) < leave {
            left.push(*client);
            match rng.bool() {
                true => world.close(*client),
                false => world.reset(*client),
            }
            world.run_for(Duration::from_micros(rng.u64(..200_000)));
        }
    }
    for _ in 0..changes {
        world.run_for(Duration::from_micros(rng.u64(..200_000)));
        let reloaded = control.reload(&changed(&settings, &mut rng));
        reloaded.expect("it is taken over");
    }
    if drain {
        world.run_for(Duration::from_micros(rng.u64(..300_000)));
        world.engine(gateway).shutdown();
    }
    world.run_for(Duration::from_secs(6000));
    for (client, exchanges) in &clients {
        let ending = world.ending(*client);
        let methods = exchanges.iter().map(|exchange| exchange.method);
        let responses = heard(methods, world.received(*client).to_vec(), ending);
        for (n, (response, exchange)) in responses.iter().zip(exchanges).enumerate() {
            let is_last = n + 1 == responses.len();
            if response.status >= 500 {
                assert!(
                    resets > 0 || drain || matches!(exchange.kind, "drop" | "busy"),
                    "{} without a cause for {} {} {}",
                    response.status,
                    exchange.method,
                    exchange.kind,
                    exchange.id
                );
                continue;
            }
            assert_eq!(response.status, 200);
            if response.is_complete {
                assert!(
                    exchange.kind != "cut" && exchange.kind != "drop",
                    "it looks complete"
                );
                assert!(
                    response.body == exchange.body,
                    "the body of another response"
                );
            } else {
                assert!(is_last && exchange.body.starts_with(&response.body));
            }
        }
        let may_break = |exchange: &Exchange| matches!(exchange.kind, "cut");
        if resets == 0 && !drain && !left.contains(client) && !exchanges.iter().any(may_break) {
            assert_eq!(
                responses.len(),
                exchanges.len(),
                "a request without a response"
            );
            assert!(responses.iter().all(|response| response.is_complete));
            assert_eq!(ending, Ending::Finished);
        }
    }
    let all = clients.iter().flat_map(|(_, exchanges)| exchanges);
    for exchange in all {
        let times = seen
            .lock()
            .expect("sound")
            .get(&exchange.id)
            .copied()
            .unwrap_or(0);
        // A request is sent again only if a connection that was used before ends without an answer, or to another node
        // because of its status, and never a POST.
        let most = match (exchange.method, exchange.kind) {
            ("POST", _) => 1,
            (_, "busy") => 3,
            _ => 2,
        };
        assert!(
            times <= most,
            "{} {} was sent {times} times",
            exchange.method,
            exchange.id
        );
        assert!(
            times < 2 || resets > 0 || matches!(exchange.kind, "drop" | "busy"),
            "it was sent again for nothing"
        );
    }
    for reactor in 0..world.engine(gateway).reactors() {
        let proxy = world.handler(gateway, reactor);
        assert_eq!((proxy.waiting(), proxy.upstream_connections()), (0, 0));
        assert_eq!((proxy.in_flight(), proxy.node_connections()), (0, 0));
    }
    let stats = world.stats(gateway);
    assert_eq!((stats.connections, stats.buffered), (0, 0));
    let fingerprint = world.fingerprint();
    world.finish(gateway);
    for origin in origins {
        assert_eq!(world.stats(origin).connections, 0);
        world.finish(origin);
    }
    fingerprint
}

#[test]
fn a_gateway_answers_every_request_with_its_response() {
    each_seed(0..600, |seed| {
        proxied(seed, Trouble::default());
    });
}

#[test]
fn a_gateway_whose_settings_change_amid_requests_answers_every_one_with_its_response() {
    each_seed(0..600, |seed| {
        proxied(
            seed,
            Trouble {
                changes: 1 + (seed % 4) as u32,
                ..Trouble::default()
            },
        );
    });
}

#[test]
fn clients_of_a_gateway_that_leave_disturb_nobody_and_leave_nothing_behind() {
    each_seed(0..600, |seed| {
        proxied(
            seed,
            Trouble {
                leave: 50,
                ..Trouble::default()
            },
        );
    });
}

#[test]
fn whatever_breaks_at_a_gateway_no_response_looks_complete_that_is_not_and_no_post_is_sent_twice() {
    each_seed(0..600, |seed| {
        let trouble = Trouble {
            resets: 25,
            leave: 20,
            changes: (seed % 3) as u32,
            drain: seed % 4 == 0,
        };
        // A seed has one outcome, whichever balancer the pool has.
        assert_eq!(proxied(seed, trouble), proxied(seed, trouble));
    });
}

#[test]
fn a_gateway_that_ends_amid_requests_answers_what_it_has_begun_or_cuts_it_visibly() {
    each_seed(0..300, |seed| {
        proxied(
            seed,
            Trouble {
                drain: true,
                ..Trouble::default()
            },
        );
    });
}

/// A client uploads `first` bytes, and then `last` more. Its node reads nothing of that for long, and answers. Returns true if the client's
/// connection stays open.
fn keeps_client(first: usize, last: usize) -> bool {
    // A part of the upload is one segment, and the node has room for little.
    let link = Link::calm().segments(1 << 30).send_buffer(2000..=2000);
    let mut world = World::new(1, link).expect("a world");
    let nodes = world.listen((ORIGINS[0], 80));
    let mut listener = ListenerSettings::new("tcp://:8080");
    listener.limits.high_water = 8 << 10;
    let mut pool = PoolSettings::default();
    pool.nodes = vec![node(&ORIGINS[0])];
    let gateway = Gateway::builder()
        .reactors(1)
        .listen(listener)
        .pool("app", pool)
        .route(RouteSettings::to("app"));
    let gateway = gateway.build().expect("the settings are right");
    let started = gateway.start_with(
        |_| NoHooks,
        |server: Server, factory| Ok(world.start(GATEWAY, server, factory)?),
    );
    let client = world.connect((started.expect("a gateway"), 8080));
    let head = format!(
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n",
        first + last
    );
    world.send(client, head);
    world.run_for(Duration::from_secs(1));
    let node = world.accept(nodes).expect("it is dialled");
    world.set_reading(node, Reading::Never);
    world.send(client, vec![b'x'; first]);
    world.run_for(Duration::from_secs(1));
    world.send(client, vec![b'x'; last]);
    world.run_for(Duration::from_secs(1));
    world.send(node, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    world.run_for(Duration::from_secs(1));
    let answer = String::from_utf8_lossy(world.received(client)).into_owned();
    assert!(
        answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("ok"),
        "{answer}"
    );
    world.ending(client) == Ending::Open
}

#[test]
fn an_upload_whose_last_part_is_too_much_for_its_node_is_complete() {
    let mut kept = Vec::new();
    // The last part may alone be more than the node and the gateway have room for, or not.
    for first in (0..12_000).step_by(500) {
        let one = keeps_client(first, 1);
        assert_eq!(keeps_client(first, 4000), one, "{first}");
        kept.push(one);
    }
    // A longer upload waits, and its answer comes before its end.
    assert!(kept[0] && !kept[kept.len() - 1], "{kept:?}");
}
