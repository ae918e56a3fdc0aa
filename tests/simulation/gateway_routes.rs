//! Limits and mirrors of a gateway's routes, in virtual time.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use epicycle::gateway::settings::{
    LimitBy, LimitSettings, ListenerSettings, MirrorSettings, PoolSettings, Rate, RouteSettings,
};
use epicycle::gateway::{Gateway, NoHooks, Proxy};
use epicycle::http::{HttpStreamCodec, RequestPart, ServerResponse};
use epicycle::testing::{Host, Link, Peer, Reading, World, each_seed};
use epicycle::{Action, Conn, ConnInfo, EventHandler, Server};
use fastrand::Rng;

use super::http_proxies::heard;
use super::world;

const GATEWAY: [u8; 4] = [192, 168, 0, 2];
const ORIGIN: [u8; 4] = [192, 168, 0, 3];
const SHADOW: [u8; 4] = [192, 168, 0, 4];

/// Answers each request once it is complete.
struct Origin;

impl EventHandler for Origin {
    type Codec = HttpStreamCodec;
    type Session = ();

    fn codec(&mut self, _: &ConnInfo<'_>) -> HttpStreamCodec {
        HttpStreamCodec::default()
    }

    fn on_open(&mut self, _: &mut Conn<'_, Self>) -> Option<()> {
        Some(())
    }

    fn react(&mut self, conn: &mut Conn<'_, Self>, (): &mut (), part: RequestPart<'_>) -> Action {
        match part {
            RequestPart::End(_) => conn.send(ServerResponse::ok().body("x")).into(),
            _ => Action::Continue,
        }
    }
}

fn pool([a, b, c, d]: [u8; 4]) -> PoolSettings {
    PoolSettings::of([format!("http://{a}.{b}.{c}.{d}")])
}

fn start(
    world: &mut World,
    rng: &mut Rng,
    reactors: usize,
    route: RouteSettings,
) -> (Host<Origin>, Host<Proxy<NoHooks>>) {
    let server = world::server_on("tcp://:80", rng);
    let origin = world.start(ORIGIN, server, |_| Origin).expect("an origin");
    let mut listener = ListenerSettings::new("tcp://:8080");
    // Slow links must still carry everything.
    let long = Duration::from_secs(10_000);
    listener.timeouts.head = long;
    listener.timeouts.body_idle = long;
    listener.timeouts.idle = long;
    listener.timeouts.write_stall = long;
    let mut app = pool(ORIGIN);
    app.timeouts.connect = long;
    app.timeouts.response_head = long;
    app.timeouts.body_idle = long;
    let gateway = Gateway::builder()
        .reactors(reactors)
        .listen(listener)
        .pool("app", app)
        .pool("shadow", pool(SHADOW))
        .route(route)
        .build()
        .expect("the settings are right");
    let started = gateway.start_with(
        |_| NoHooks,
        |server: Server, factory| Ok(world.start(GATEWAY, server, factory)?),
    );
    (origin, started.expect("a gateway"))
}

fn statuses(world: &World, client: Peer, requests: usize) -> Vec<u16> {
    let received = world.received(client).to_vec();
    let methods = (0..requests).map(|_| "GET");
    let responses = heard(methods, received, world.ending(client));
    let complete = responses.iter().filter(|response| response.is_complete);
    complete.map(|response| response.status).collect()
}

#[test]
fn a_limit_lets_exactly_so_many_requests_pass_whichever_reactors_they_come_to() {
    each_seed(0..100, |seed| {
        let mut rng = Rng::with_seed(seed);
        let mut world = World::new(seed, Link::calm()).expect("a world");
        let (requests, burst) = (rng.u32(1..50), rng.u32(1..10));
        let mut route = RouteSettings::to("app");
        let limit = LimitSettings::new(Rate::per_second(requests)).burst(burst);
        route.rate_limits.push(match rng.bool() {
            true => limit,
            false => limit.by(LimitBy::All),
        });
        let reactors = rng.usize(1..4);
        let (origin, gateway) = start(&mut world, &mut rng, reactors, route);
        let ip = IpAddr::from(Ipv4Addr::new(10, 9, 9, 9));
        let clients: Vec<Peer> = (40_000..40_006)
            .map(|port| world.connect_from(SocketAddr::new(ip, port), (gateway, 8080)))
            .collect();
        world.run_for(Duration::from_millis(1));
        let mut sent = vec![0; clients.len()];
        // In thousandths of a token.
        let full = u64::from(burst) * 1_000_000;
        let mut tokens = full;
        for _ in 0..200 {
            let n = rng.usize(..clients.len());
            world.send(clients[n], "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            // It is answered within that time, and what comes then is for the next one.
            let gap = rng.u64(1..60);
            world.run_for(Duration::from_millis(gap));
            sent[n] += 1;
            let status = *statuses(&world, clients[n], sent[n])
                .last()
                .expect("an answer");
            // The bucket is looked at some microseconds after the request was sent.
            let is_close = tokens.abs_diff(1_000_000) < 1000;
            assert!(
                is_close || (status == 200) == (tokens >= 1_000_000),
                "{status} {tokens}"
            );
            if status == 200 {
                tokens = tokens.saturating_sub(1_000_000);
            } else {
                assert_eq!(status, 429);
            }
            tokens = full.min(tokens + gap * u64::from(requests) * 1000);
        }
        world.finish(gateway);
        world.finish(origin);
    });
}

fn value(world: &World, gateway: Host<Proxy<NoHooks>>, name: &str) -> u64 {
    let metrics = world
        .handler(gateway, 0)
        .control(world.engine(gateway))
        .metrics();
    let name = format!("epicycle_gateway_route_{name}{{route=\"*/*\"}} ");
    let mut lines = metrics.lines();
    let found = lines.find_map(|line| line.strip_prefix(&*name));
    found
        .and_then(|value| value.parse().ok())
        .expect("it is there")
}

/// Some clients send requests while their mirror hangs. Returns the times at which each request was answered.
fn with_mirror(seed: u64, link: Link, mirror: Option<MirrorSettings>) -> Vec<u64> {
    let mut rng = Rng::with_seed(seed);
    let mut world = World::new(seed, link).expect("a world");
    let most = mirror
        .as_ref()
        .map(|mirror| u64::from(mirror.max_in_flight));
    let mut route = RouteSettings::to("app");
    route.mirror = mirror;
    let shadow = world.listen(SocketAddr::from((SHADOW, 80)));
    let (origin, gateway) = start(&mut world, &mut rng, 2, route);
    let clients: Vec<Peer> = (0..4).map(|_| world.connect((gateway, 8080))).collect();
    let mut copies = Vec::new();
    let mut answered = Vec::new();
    for n in 1..=5 {
        for client in &clients {
            let len = rng.usize(..3000);
            let head = format!("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {len}\r\n\r\n");
            world.send(*client, [head.into_bytes(), vec![b'x'; len]].concat());
        }
        let mut steps = 0;
        while clients
            .iter()
            .any(|client| statuses(&world, *client, n).len() < n)
        {
            world.run_for(Duration::from_millis(1));
            steps += 1;
            assert!(steps < 100_000, "a request has no answer");
            while let Some(copy) = world.accept(shadow) {
                // It reads nothing.
                world.set_reading(copy, Reading::Never);
                copies.push(copy);
            }
        }
        answered.push(steps);
        if let Some(most) = most {
            assert!(value(&world, gateway, "mirrors") <= most);
        }
    }
    for client in &clients {
        assert!(
            statuses(&world, *client, 5)
                .iter()
                .all(|status| *status == 200)
        );
    }
    if most.is_some() {
        assert!(!copies.is_empty(), "nothing was copied");
        world.run_for(Duration::from_secs(2000));
        assert_eq!(value(&world, gateway, "mirrors"), 0);
        let copies = [
            "mirror_failed_total",
            "mirror_dropped_total",
            "mirrored_total",
        ];
        let copies = copies.map(|name| value(&world, gateway, name));
        assert_eq!(
            (copies.iter().sum::<u64>(), copies[2]),
            (20, 0),
            "{copies:?}"
        );
    }
    for reactor in 0..2 {
        let proxy = world.handler(gateway, reactor);
        assert_eq!((proxy.in_flight(), proxy.waiting()), (0, 0));
    }
    world.finish(gateway);
    world.finish(origin);
    answered
}

#[test]
fn a_mirror_that_hangs_costs_the_clients_nothing_and_a_bounded_number_of_copies() {
    let mirror = || {
        let mut mirror = MirrorSettings::to("shadow");
        mirror.max_in_flight = 6;
        mirror.timeout = Duration::from_secs(1000);
        Some(mirror)
    };
    each_seed(0..30, |seed| {
        let (with, without) = (
            with_mirror(seed, Link::calm(), mirror()),
            with_mirror(seed, Link::calm(), None),
        );
        assert_eq!(with, without, "the answers came at other times");
        with_mirror(seed, Link::hostile(), mirror());
    });
}
