//! HTTP through a proxy: client, proxy and origin in one world, whose links are hostile.

use std::time::Duration;

use epicycle::codec::{Codec, Decoded, encode_to_vec};
use epicycle::http::client::{ClientRequest, ResponsePart, StreamCodec};
use epicycle::testing::{Ending, Host, Link, Peer, World, each_seed};
use epicycle::{Connect, Server};
use fastrand::Rng;

use super::origin::{Site, page};
use super::proxy::Proxy;
use super::world;

const ORIGIN: [u8; 4] = [192, 168, 0, 3];
const PROXY: [u8; 4] = [192, 168, 0, 2];

/// A request, and the response that it must get.
struct Exchange {
    method: &'static str,
    request: Vec<u8>,
    status: u16,
    body: Vec<u8>,
    trailers: usize,
}

impl Exchange {
    fn random(rng: &mut Rng, is_last: bool) -> Self {
        let (version, connection) = match (is_last, rng.bool()) {
            (false, _) => ("1.1", "keep-alive"),
            (true, true) => ("1.1", "close"),
            // It gets a body without a length up to the end of the stream.
            (true, false) => ("1.0", "close"),
        };
        let len = world::len(rng);
        let (method, path) = match rng.u32(..7) {
            0 => ("HEAD", "page"),
            1 => ("GET", "page"),
            2 => ("GET", "chunks"),
            3 => ("GET", "hints"),
            4 if version == "1.1" => ("PUT", "echo"),
            // It is answered before it is read, and the rest of it need not be read.
            5 => ("PUT", "refuse"),
            _ => ("POST", "late"),
        };
        let mut request = format!(
            "{method} /{path}/{len} HTTP/{version}\r\nHost: a\r\nConnection: {connection}\r\n"
        )
        .into_bytes();
        let has_body = matches!(method, "PUT" | "POST");
        if !has_body {
            request.extend_from_slice(b"\r\n");
        } else if version == "1.0" || rng.bool() && path != "echo" {
            request.extend(format!("Content-Length: {len}\r\n\r\n").bytes());
            request.extend(page(0, len));
        } else {
            request.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
            let mut at = 0;
            while at < len {
                let now = rng.usize(1..=len - at);
                request.extend(format!("{now:x}\r\n").bytes());
                request.extend(page(at, now));
                request.extend_from_slice(b"\r\n");
                at += now;
            }
            request.extend_from_slice(b"0\r\nSum: 7\r\n\r\n");
        }
        let body = match path {
            _ if method == "HEAD" => Vec::new(),
            "page" | "chunks" | "echo" => page(0, len),
            "late" => len.to_string().into_bytes(),
            "refuse" => b"no".to_vec(),
            _ => Vec::new(),
        };
        let trailers = usize::from(path == "echo");
        let status = if path == "refuse" { 403 } else { 200 };
        Self {
            method,
            request,
            status,
            body,
            trailers,
        }
    }
}

/// A response, as a client understands it.
#[derive(Debug, Default)]
pub(super) struct Heard {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
    trailers: usize,
    pub(super) is_complete: bool,
}

/// Returns the responses in a client's input, which answer requests with these methods.
pub(super) fn heard<'a>(
    methods: impl Iterator<Item = &'a str>,
    mut input: Vec<u8>,
    ending: Ending,
) -> Vec<Heard> {
    let mut codec = StreamCodec::default();
    for method in methods {
        encode_to_vec(&mut codec, ClientRequest::new(method, "a", "/")).expect("is encoded");
    }
    let mut heard: Vec<Heard> = Vec::new();
    let mut at = 0;
    loop {
        let rest = &mut input[at..];
        let decoded = match rest.is_empty() {
            true if ending == Ending::Finished => codec.decode_eof(rest),
            true => return heard,
            false => codec.decode(rest),
        };
        // An error at the end is a response that is cut short.
        let Ok(Decoded::Frame { frame, consumed }) = decoded else {
            return heard;
        };
        at += consumed;
        match frame {
            ResponsePart::Head(head) => heard.push(Heard {
                status: head.status().as_u16(),
                ..Heard::default()
            }),
            ResponsePart::Body(bytes) => heard.last_mut().expect("has begun").body.extend(bytes),
            ResponsePart::End(trailers) => {
                let last = heard.last_mut().expect("has begun");
                last.trailers = trailers.count();
                last.is_complete = true;
            }
            _ => {}
        }
    }
}

/// Starts an origin, and a proxy to it.
fn start(world: &mut World, rng: &mut Rng) -> (Host<Site>, Host<Proxy>) {
    let origin = world::server_on("tcp://:80", rng);
    let origin = world
        .start(ORIGIN, origin, |_| Site::default())
        .expect("an origin");
    let proxy = world::server_on("tcp://:8080", rng).reactors(rng.usize(1..4));
    let to = |_| Proxy::to(Connect::to("tcp://192.168.0.3:80"));
    (origin, world.start(PROXY, proxy, to).expect("a proxy"))
}

/// Asserts that nothing is left of the exchanges.
fn finish(world: &mut World, origin: Host<Site>, proxy: Host<Proxy>) {
    for reactor in 0..world.engine(proxy).reactors() {
        assert!(world.handler(proxy, reactor).is_idle());
    }
    for (connections, buffered) in [
        (world.stats(proxy).connections, world.stats(proxy).buffered),
        (
            world.stats(origin).connections,
            world.stats(origin).buffered,
        ),
    ] {
        assert_eq!((connections, buffered), (0, 0));
    }
    world.finish(proxy);
    world.finish(origin);
}

/// Some clients ask through the proxy. `leave` is the percentage of those that leave at some time.
fn proxied(seed: u64, resets: u32, leave: u32) -> u64 {
    let mut rng = Rng::with_seed(seed);
    let link = world::link(&mut rng).resets(resets);
    let mut world = World::new(seed, link).expect("a world");
    let (origin, proxy) = start(&mut world, &mut rng);
    let clients: Vec<(Peer, Vec<Exchange>)> = (0..rng.usize(1..5))
        .map(|_| {
            let count = rng.usize(1..5);
            let exchanges = (1..=count).map(|n| Exchange::random(&mut rng, n == count));
            (world.connect((proxy, 8080)), exchanges.collect())
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
    world.run_for(Duration::from_secs(3000));
    for (client, exchanges) in &clients {
        let ending = world.ending(*client);
        let methods = exchanges.iter().map(|exchange| exchange.method);
        let responses = heard(methods, world.received(*client).to_vec(), ending);
        for (n, (response, exchange)) in responses.iter().zip(exchanges).enumerate() {
            let is_last = n + 1 == responses.len();
            // An origin that refuses may close before it has read the request, and the response may be lost.
            let may_fail = resets > 0 || exchange.status == 403;
            if response.status == 502 {
                assert!(may_fail && is_last, "a failure without a cause");
                continue;
            }
            assert_eq!(response.status, exchange.status);
            if response.is_complete {
                assert!(response.body == exchange.body, "another body");
                assert_eq!(response.trailers, exchange.trailers);
            } else {
                assert!(is_last && exchange.body.starts_with(&response.body));
            }
        }
        if resets == 0 && !left.contains(client) {
            let complete = responses
                .iter()
                .filter(|response| response.is_complete)
                .count();
            let is_refused = exchanges.iter().any(|exchange| exchange.status == 403);
            assert!(
                complete == exchanges.len() || is_refused,
                "{complete} responses"
            );
            assert_eq!(ending, Ending::Finished);
        }
    }
    let fingerprint = world.fingerprint();
    finish(&mut world, origin, proxy);
    fingerprint
}

#[test]
fn an_http_proxy_answers_every_request_with_its_response() {
    each_seed(0..400, |seed| {
        proxied(seed, 0, 0);
    });
}

#[test]
fn clients_of_an_http_proxy_that_leave_disturb_nobody_and_leave_nothing_behind() {
    each_seed(0..400, |seed| {
        proxied(seed, 0, 50);
    });
}

#[test]
fn whatever_breaks_at_an_http_proxy_no_response_looks_complete_that_is_not() {
    each_seed(0..400, |seed| {
        assert_eq!(proxied(seed, 25, 20), proxied(seed, 25, 20));
    });
}

#[test]
fn a_slow_end_of_an_http_proxy_slows_the_other_down_and_nobody_holds_more() {
    const LEN: usize = 50_000_000;
    let mut request =
        format!("PUT /late/ HTTP/1.1\r\nHost: a\r\nContent-Length: {LEN}\r\n\r\n").into_bytes();
    request.extend(page(0, LEN));
    for (slow, request) in [
        (
            [10, 0, 0, 1],
            format!("GET /page/{LEN} HTTP/1.1\r\nHost: a\r\n\r\n").into_bytes(),
        ),
        (ORIGIN, request),
    ] {
        let mut world = World::new(1, Link::calm()).expect("a world");
        let origin = world
            .start(ORIGIN, Server::bind("tcp://:80"), |_| Site::default())
            .expect("an origin");
        let to = |_| Proxy::to(Connect::to("tcp://192.168.0.3:80"));
        let proxy = world
            .start(PROXY, Server::bind("tcp://:8080"), to)
            .expect("a proxy");
        // A MiB a second, and no limit on the other side.
        world.set_link_from(proxy, slow, Link::calm().bandwidth(1 << 20));
        let client = world.connect((proxy, 8080));
        world.send(client, request);
        let mut most = 0;
        world.run_until(Duration::from_secs(60), |world| {
            most = most.max(world.stats(proxy).buffered);
            false
        });
        assert!((1 << 20..3 << 20).contains(&most), "{most} bytes are held");
        let response = world.received(client);
        match slow {
            ORIGIN => assert!(response.ends_with(LEN.to_string().as_bytes())),
            _ => assert!(response.ends_with(&page(0, LEN))),
        }
        world.close(client);
        world.run_for(Duration::from_secs(1));
        finish(&mut world, origin, proxy);
    }
}
