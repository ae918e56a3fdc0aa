//! A gateway between clients and origins, on links that split, delay, stall and reset.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use epicycle::gateway::settings::{PoolSettings, RouteSettings};
use epicycle::gateway::{Gateway, NoHooks, Proxy};
use epicycle::http::{
    Chunk, End, HeaderBlock, HttpStreamCodec, RequestPart, ServerResponse, StatusCode, Trailers,
};
use epicycle::testing::{Ending, Host, Peer, World, each_seed};
use epicycle::{Action, Conn, ConnInfo, EventHandler, Server};
use fastrand::Rng;

use super::http_proxies::heard;
use super::world;

const GATEWAY: [u8; 4] = [192, 168, 0, 2];
const ORIGINS: [[u8; 4]; 2] = [[192, 168, 0, 3], [192, 168, 0, 4]];

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
        let (method, kind) = match rng.u32(..9) {
            0 => ("HEAD", "page"),
            1 => ("GET", "chunks"),
            2 => ("GET", "last"),
            3 if version == "1.1" => ("POST", "echo"),
            4 => ("POST", "count"),
            5 => ("PUT", "count"),
            6 if rng.u32(..4) == 0 => ("GET", "drop"),
            7 if rng.u32(..4) == 0 => ("GET", "cut"),
            _ => ("GET", "page"),
        };
        let mut request = format!(
            "{method} /{kind}/{len}/{id} HTTP/{version}\r\nHost: a\r\nConnection: {connection}\r\n"
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
) -> (Vec<Host<Origin>>, Host<Proxy<NoHooks>>) {
    let mut origins = Vec::new();
    for address in ORIGINS {
        let server = world::server_on("tcp://:80", rng);
        let seen = seen.clone();
        let origin = world.start(address, server, move |_| Origin { seen: seen.clone() });
        origins.push(origin.expect("an origin"));
    }
    let mut pool = PoolSettings::of(ORIGINS.map(|[a, b, c, d]| format!("http://{a}.{b}.{c}.{d}")));
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
    let mut route = RouteSettings::to("app");
    route.buffer_request = [0, 500][rng.usize(..2)];
    let mut listener = epicycle::gateway::settings::ListenerSettings::new("tcp://:8080");
    listener.limits.high_water = rng.usize(1 << 10..64 << 10);
    listener.timeouts.head = long;
    listener.timeouts.body_idle = long;
    listener.timeouts.idle = long;
    listener.timeouts.write_stall = long;
    let gateway = Gateway::builder()
        .reactors(rng.usize(1..4))
        .listen(listener)
        .pool("app", pool)
        .route(route)
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
    (origins, started.expect("a gateway"))
}

/// Some clients ask through the gateway. `leave` is the percentage of those that leave at some time.
fn proxied(seed: u64, resets: u32, leave: u32) -> u64 {
    let mut rng = Rng::with_seed(seed);
    let link = world::link(&mut rng).resets(resets);
    let mut world = World::new(seed, link).expect("a world");
    let seen = Seen::default();
    let (origins, gateway) = start(&mut world, &mut rng, &seen);
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
    world.run_for(Duration::from_secs(6000));
    for (client, exchanges) in &clients {
        let ending = world.ending(*client);
        let methods = exchanges.iter().map(|exchange| exchange.method);
        let responses = heard(methods, world.received(*client).to_vec(), ending);
        for (n, (response, exchange)) in responses.iter().zip(exchanges).enumerate() {
            let is_last = n + 1 == responses.len();
            if response.status >= 500 {
                assert!(
                    resets > 0 || exchange.kind == "drop",
                    "{} without a cause",
                    response.status
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
        if resets == 0 && !left.contains(client) && !exchanges.iter().any(may_break) {
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
        // A request is sent again only if a connection that was used before ends without an answer, and never a POST.
        let most = match exchange.method {
            "POST" => 1,
            _ => 2,
        };
        assert!(
            times <= most,
            "{} {} was sent {times} times",
            exchange.method,
            exchange.id
        );
        assert!(
            times < 2 || resets > 0 || exchange.kind == "drop",
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
        proxied(seed, 0, 0);
    });
}

#[test]
fn clients_of_a_gateway_that_leave_disturb_nobody_and_leave_nothing_behind() {
    each_seed(0..600, |seed| {
        proxied(seed, 0, 50);
    });
}

#[test]
fn whatever_breaks_at_a_gateway_no_response_looks_complete_that_is_not_and_no_post_is_sent_twice() {
    each_seed(0..600, |seed| {
        assert_eq!(proxied(seed, 25, 20), proxied(seed, 25, 20));
    });
}
