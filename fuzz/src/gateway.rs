//! A gateway in a simulated network, and what the two sides of it read.

use std::time::Duration;

use epicycle::codec::{Codec, Decoded, encode_to_vec};
use epicycle::gateway::settings::{ListenerSettings, PoolSettings, RouteSettings};
use epicycle::gateway::{Gateway, NoHooks, Proxy};
use epicycle::http::client::{ClientRequest, ResponsePart, StreamCodec};
use epicycle::http::{Headers, HttpStreamCodec, Limits, RequestPart};
use epicycle::testing::{Host, World};

/// The gateway listens on port 8080 of this host.
pub const GATEWAY: [u8; 4] = [192, 168, 0, 1];

/// The node listens on port 80 of this host.
pub const NODE: [u8; 4] = [192, 168, 0, 2];

/// The limits of heads.
const MAX_HEAD: usize = 2048;

/// Starts a gateway with one reactor.
pub fn start(world: &mut World) -> Host<Proxy<NoHooks>> {
    let mut listener = ListenerSettings::new("tcp://:8080");
    listener.limits.max_head = MAX_HEAD;
    let mut pool = PoolSettings::of(["http://192.168.0.2"]);
    pool.limits.max_head = MAX_HEAD;
    pool.timeouts.response_head = Duration::from_secs(5);
    let gateway = Gateway::builder()
        .reactors(1)
        .listen(listener)
        .pool("app", pool)
        .route(RouteSettings::to("app"))
        .build()
        .expect("is sound");
    let started = gateway.start_with(
        |_| NoHooks,
        |server, factory| Ok(world.start(GATEWAY, server, factory)?),
    );
    started.expect("it starts")
}

/// Asserts that a gateway holds nothing any more, and ends it.
pub fn finish(mut world: World, gateway: Host<Proxy<NoHooks>>) {
    let proxy = world.handler(gateway, 0);
    assert_eq!((proxy.waiting(), proxy.in_flight()), (0, 0));
    assert_eq!(proxy.upstream_connections(), 0);
    let stats = world.stats(gateway);
    assert_eq!((stats.connections, stats.buffered), (0, 0));
    world.finish(gateway);
}

/// A message, as it was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// Method and target, or the status.
    pub line: String,
    /// The names of the fields, in lower case.
    pub names: Vec<String>,
    /// The body.
    pub body: Vec<u8>,
    /// The trailers.
    pub trailers: Vec<(String, Vec<u8>)>,
    /// True if its end was read.
    pub is_complete: bool,
    /// The bytes that follow a change of the protocol.
    pub tunnelled: Vec<u8>,
}

fn names(headers: Headers<'_>) -> Vec<String> {
    headers.map(|(name, _)| name.to_ascii_lowercase()).collect()
}

fn limits() -> Limits {
    Limits::default()
        .max_head(MAX_HEAD)
        .max_line(MAX_HEAD)
        .max_headers(100)
        .max_body(u64::MAX)
}

/// Reads requests. Returns those whose head is there, and true if nothing was malformed.
pub fn requests(input: &[u8]) -> (Vec<Message>, bool) {
    let (mut input, mut from) = (input.to_vec(), 0);
    let mut messages: Vec<Message> = Vec::new();
    let mut codec = HttpStreamCodec::new(limits());
    while from < input.len() {
        let decoded = match codec.decode(&mut input[from..]) {
            Ok(decoded) => decoded,
            Err(_) => return (messages, false),
        };
        let mut is_over = false;
        match decoded {
            Decoded::Frame { frame, consumed } => {
                from += consumed;
                match frame {
                    RequestPart::Head(request) => messages.push(Message {
                        line: format!("{} {}", request.method(), request.target()),
                        names: names(request.headers()),
                        ..Message::default()
                    }),
                    RequestPart::Body(bytes) => {
                        let message = messages.last_mut().expect("a head came before");
                        message.body.extend_from_slice(bytes);
                    }
                    RequestPart::End(trailers) => {
                        let message = messages.last_mut().expect("a head came before");
                        let trailers =
                            trailers.map(|(name, value)| (name.to_owned(), value.to_owned()));
                        message.trailers = trailers.collect();
                        message.is_complete = true;
                        is_over = true;
                    }
                    _ => {}
                }
            }
            Decoded::Skip { consumed } => from += consumed,
            Decoded::NeedMore { .. } | Decoded::Hold => break,
        }
        if is_over {
            // The next one is held back until this one is answered.
            codec = HttpStreamCodec::new(limits());
        }
    }
    (messages, true)
}

/// Reads the response to a request, with the interim ones before it. Returns what is there, and true if nothing was malformed.
pub fn response(
    method: &str,
    upgrade: Option<&str>,
    input: &[u8],
    is_ended: bool,
) -> (Vec<Message>, bool) {
    let (mut input, mut from) = (input.to_vec(), 0);
    let mut messages: Vec<Message> = Vec::new();
    let mut codec = StreamCodec::new(limits());
    let mut request = ClientRequest::new(method, "a.test", "/");
    if let Some(protocol) = upgrade {
        request = request.upgrade(protocol);
    }
    encode_to_vec(&mut codec, request).expect("is sound");
    let mut take = |part: ResponsePart<'_>| match part {
        ResponsePart::Interim(response) => messages.push(Message {
            line: response.status().to_string(),
            names: names(response.headers()),
            is_complete: true,
            ..Message::default()
        }),
        ResponsePart::Head(response) => messages.push(Message {
            line: response.status().to_string(),
            names: names(response.headers()),
            is_complete: response.is_upgrade(),
            ..Message::default()
        }),
        ResponsePart::Body(bytes) => {
            let message = messages.last_mut().expect("a head came before");
            message.body.extend_from_slice(bytes);
        }
        ResponsePart::End(trailers) => {
            let message = messages.last_mut().expect("a head came before");
            let trailers = trailers.map(|(name, value)| (name.to_owned(), value.to_owned()));
            message.trailers = trailers.collect();
            message.is_complete = true;
        }
        ResponsePart::Upgraded(bytes) => {
            let message = messages.last_mut().expect("a head came before");
            message.tunnelled.extend_from_slice(bytes);
        }
        _ => {}
    };
    while from < input.len() {
        let Ok(decoded) = codec.decode(&mut input[from..]) else {
            return (messages, false);
        };
        match decoded {
            Decoded::Frame { frame, consumed } => {
                take(frame);
                from += consumed;
            }
            Decoded::Skip { consumed } => from += consumed,
            Decoded::NeedMore { .. } | Decoded::Hold => break,
        }
    }
    if is_ended
        && from == input.len()
        && let Ok(Decoded::Frame { frame, .. }) = codec.decode_eof(&mut [])
    {
        take(frame);
    }
    (messages, true)
}
