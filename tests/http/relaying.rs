//! A proxy made of the two codecs in parts, without sockets: what one side receives is sent on by the other.

use epicycle::codec::{Codec, Decoded, Encode, FrameError, encode_to_vec};
use epicycle::http::client::{self, StreamCodec};
use epicycle::http::{
    Chunk, End, HeaderBlock, HeaderLine, Headers, HttpCodec, HttpStreamCodec, Limits, RequestPart,
    SendError, ServerRequest, ServerResponse, StatusCode, Trailers,
};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::responses::cause;

/// A proxy between a client and its origin.
struct Relay {
    /// The proxy's side of the client's connection.
    server: HttpStreamCodec,
    /// The proxy's side of the origin's connection.
    client: StreamCodec,
    /// One for all messages.
    block: HeaderBlock,
    to_origin: Vec<u8>,
    to_client: Vec<u8>,
}

impl Relay {
    fn new() -> Self {
        Self {
            server: HttpStreamCodec::default().manual_continue(),
            client: StreamCodec::default(),
            block: HeaderBlock::new(),
            to_origin: Vec::new(),
            to_client: Vec::new(),
        }
    }

    /// Takes the bytes of the client from `kept`. Returns whether its request is complete.
    fn request(&mut self, kept: &mut Vec<u8>) -> Result<bool, FrameError> {
        let mut is_complete = false;
        while !kept.is_empty() {
            let (part, consumed) = match self.server.decode(kept)? {
                Decoded::Frame { frame, consumed } => (frame, consumed),
                Decoded::Skip { consumed } => {
                    kept.drain(..consumed);
                    continue;
                }
                Decoded::NeedMore { .. } | Decoded::Hold => return Ok(is_complete),
            };
            let sent = match part {
                RequestPart::Head(request) => {
                    self.block.fill(request.headers().end_to_end())?;
                    let relayed = client::ClientRequest::relayed(&request).block(&self.block);
                    encode_to_vec(&mut self.client, relayed)?
                }
                RequestPart::Body(bytes) => encode_to_vec(&mut self.client, Chunk(bytes))?,
                RequestPart::End(trailers) => {
                    is_complete = true;
                    self.block.fill(trailers.end_to_end())?;
                    encode_to_vec(&mut self.client, Trailers(&self.block))?
                }
                other => panic!("{other:?}"),
            };
            self.to_origin.extend(sent);
            kept.drain(..consumed);
        }
        Ok(is_complete)
    }

    /// Takes the bytes of the origin from `kept`, and the end of its stream with `last`.
    fn response(&mut self, kept: &mut Vec<u8>, last: bool) -> Result<(), FrameError> {
        loop {
            let decoded = if last {
                self.client.decode_eof(kept)?
            } else if kept.is_empty() {
                return Ok(());
            } else {
                self.client.decode(kept)?
            };
            let (part, consumed) = match decoded {
                Decoded::Frame { frame, consumed } => (frame, consumed),
                Decoded::Skip { consumed } => {
                    kept.drain(..consumed);
                    continue;
                }
                Decoded::NeedMore { .. } | Decoded::Hold => return Ok(()),
            };
            let sent = match part {
                client::ResponsePart::Interim(response) | client::ResponsePart::Head(response) => {
                    self.block.fill(response.headers().end_to_end())?;
                    let relayed = ServerResponse::relayed(&response).block(&self.block);
                    encode_to_vec(&mut self.server, relayed)?
                }
                client::ResponsePart::Body(bytes) => encode_to_vec(&mut self.server, Chunk(bytes))?,
                client::ResponsePart::End(trailers) => {
                    self.block.fill(trailers.end_to_end())?;
                    encode_to_vec(&mut self.server, Trailers(&self.block))?
                }
                other => panic!("{other:?}"),
            };
            self.to_client.extend(sent);
            kept.drain(..consumed);
        }
    }
}

/// Returns what the origin gets of a request.
fn relayed_request(request: &str) -> String {
    let mut relay = Relay::new();
    assert!(relay.request(&mut request.into()).expect("is relayed"));
    String::from_utf8(relay.to_origin).expect("is text")
}

/// Returns what the client gets of a response, without a date of the proxy's own.
fn relayed_response(request: &str, response: &str) -> String {
    let mut relay = Relay::new();
    relay.request(&mut request.into()).expect("is relayed");
    let mut response_bytes = response.into();
    for last in [false, true] {
        relay
            .response(&mut response_bytes, last)
            .expect("is relayed");
    }
    let sent = String::from_utf8(relay.to_client).expect("is text");
    match (response.contains("Date: "), sent.split_once("Date: ")) {
        (false, Some((before, behind))) => {
            let (_, behind) = behind.split_once("\r\n").expect("is a line");
            format!("{before}{behind}")
        }
        _ => sent,
    }
}

#[test]
fn a_request_is_passed_on_as_it_was_received_but_for_what_is_about_the_connection() {
    for (request, expected) in [
        (
            "GET /a%20b?c=d HTTP/1.1\r\nhost: example.org:81\r\naccept:*/*\r\nX-Empty:\r\n\r\n",
            "GET /a%20b?c=d HTTP/1.1\r\nHost: example.org:81\r\naccept:*/*\r\nX-Empty:\r\n\r\n",
        ),
        (
            "GET http://b:82?q HTTP/1.1\r\nHost: a\r\nConnection: X-One, keep-alive\r\nX-One: 1\r\n\
             Connection: x-two\r\nX-TWO: 2\r\nX-Three: 3\r\nKeep-Alive: 5\r\nProxy-Connection: close\r\n\r\n",
            "GET /?q HTTP/1.1\r\nHost: b:82\r\nX-Three: 3\r\n\r\n",
        ),
        (
            "OPTIONS http://b HTTP/1.1\r\nHost: a\r\n\r\n",
            "OPTIONS * HTTP/1.1\r\nHost: b\r\n\r\n",
        ),
        (
            "OPTIONS http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
            "OPTIONS / HTTP/1.1\r\nHost: b\r\n\r\n",
        ),
        (
            "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n",
            "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n",
        ),
        (
            "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nX: y\r\n\r\nhello",
            "PUT / HTTP/1.1\r\nHost: a\r\nX: y\r\nContent-Length: 5\r\n\r\nhello",
        ),
        (
            "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
            "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
        ),
        (
            "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTE: trailers\r\nTrailer: X\r\n\r\n\
             5;a=b\r\nhello\r\n0\r\nX: y\r\nHost: b\r\nContent-Length: 7\r\n\r\n",
            "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
             5\r\nhello\r\n0\r\nX: y\r\n\r\n",
        ),
    ] {
        assert_eq!(relayed_request(request), expected);
    }
    // Without a host there is nobody to send it to.
    let error = Relay::new().request(&mut "GET / HTTP/1.0\r\n\r\n".into());
    assert_eq!(cause(error.expect_err("has no host")), SendError::Host);
}

#[test]
fn a_response_is_passed_on_as_the_origin_gave_it() {
    const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    const HEAD: &str = "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n";
    const OLD: &str = "GET / HTTP/1.0\r\nHost: a\r\n\r\n";
    const CHUNKED: &str =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: y\r\n\r\n";
    for (request, response, expected) in [
        // The date and the reason are the origin's.
        (
            GET,
            "HTTP/1.1 200 Fine\r\nDate: today\r\nContent-Length: 5\r\n\r\nhello",
            "HTTP/1.1 200 Fine\r\nDate: today\r\nContent-Length: 5\r\n\r\nhello",
        ),
        (
            GET,
            "HTTP/1.1 200 OK\r\ndate: today\r\nContent-Length: 5\r\n\r\nhello",
            "HTTP/1.1 200 OK\r\ndate: today\r\nContent-Length: 5\r\n\r\nhello",
        ),
        (
            GET,
            "HTTP/1.1 499 \r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 499 \r\nContent-Length: 0\r\n\r\n",
        ),
        (
            GET,
            "HTTP/1.1 200 OK\r\nX: y\r\nConnection: close\r\nUpgrade: h2c\r\n\r\nhello",
            "HTTP/1.1 200 OK\r\nX: y\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        ),
        (GET, CHUNKED, CHUNKED),
        (
            OLD,
            CHUNKED,
            "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello",
        ),
        // A length that is only told.
        (
            HEAD,
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
        ),
        (HEAD, "HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n"),
        (
            GET,
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
        ),
        (
            GET,
            "HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 304 Not Modified\r\n\r\n",
        ),
        (
            GET,
            "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n",
            "HTTP/1.1 204 No Content\r\n\r\n",
        ),
        // Interim responses come before, but not to those who do not know of them.
        (
            GET,
            "HTTP/1.1 103 Early\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
            "HTTP/1.1 103 Early\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
        ),
        (
            OLD,
            "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
            "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n",
        ),
    ] {
        let sent = relayed_response(request, response);
        assert_eq!(sent, expected, "{request:?} {response:?}");
    }
}

#[test]
fn a_relayed_answer_ends_with_its_end_and_not_before() {
    for response in [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 204 No Content\r\n\r\n",
    ] {
        let mut client = StreamCodec::default();
        encode_to_vec(&mut client, client::ClientRequest::get("a", "/")).expect("is taken");
        let mut server = HttpStreamCodec::default();
        let mut request = *b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        while !matches!(server.decode(&mut request), Ok(Decoded::Hold)) {}
        let mut response = response.as_bytes().to_vec();
        let Ok(Decoded::Frame { frame, .. }) = client.decode(&mut response) else {
            panic!("no head");
        };
        let client::ResponsePart::Head(head) = frame else {
            panic!("{frame:?}");
        };
        let is_sized = head.content_length().is_some();
        encode_to_vec(&mut server, ServerResponse::relayed(&head)).expect("is taken");
        if is_sized {
            encode_to_vec(&mut server, Chunk(b"hel")).expect("is taken");
            let error = encode_to_vec(&mut server, End).map_err(cause);
            assert_eq!(error, Err(SendError::Length { left: 2, given: 0 }));
            encode_to_vec(&mut server, Chunk(b"lo")).expect("is taken");
        }
        // The next request is not handed out yet, so that this end cannot be taken for that of its answer.
        assert!(matches!(server.decode(&mut request), Ok(Decoded::Hold)));
        assert_eq!(encode_to_vec(&mut server, End).expect("is taken"), b"");
        assert!(matches!(
            server.decode(&mut request),
            Ok(Decoded::Frame { .. })
        ));
    }
}

#[test]
fn a_change_of_protocol_is_relayed_where_both_sides_agree() {
    let asked = b"GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n";
    let mut server = HttpStreamCodec::default();
    let mut input = *asked;
    let Ok(Decoded::Frame {
        frame: RequestPart::Head(request),
        ..
    }) = server.decode(&mut input)
    else {
        panic!("no head");
    };
    let mut client = StreamCodec::default();
    let relayed = client::ClientRequest::relayed(&request).upgrade("chat");
    let sent = encode_to_vec(&mut client, relayed).expect("is taken");
    assert_eq!(
        String::from_utf8(sent).expect("is text"),
        "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n"
    );
    let mut input =
        *b"HTTP/1.1 101 Switching\r\nUpgrade: chat\r\nConnection: Upgrade\r\nX: y\r\n\r\n";
    let Ok(Decoded::Frame {
        frame: client::ResponsePart::Head(response),
        ..
    }) = client.decode(&mut input)
    else {
        panic!("no head");
    };
    let mut block = HeaderBlock::new();
    let lines = response.headers().end_to_end();
    block.fill(lines).expect("has none of the codec's");
    let sent = encode_to_vec(
        &mut server,
        ServerResponse::relayed(&response).block(&block),
    );
    let sent = String::from_utf8(sent.expect("is taken")).expect("is text");
    assert!(sent.starts_with("HTTP/1.1 101 Switching\r\n"), "{sent}");
    assert!(
        sent.ends_with("Connection: Upgrade\r\nUpgrade: chat\r\nX: y\r\n\r\n"),
        "{sent}"
    );
    assert!(server.is_upgraded() && client.is_upgraded());
}

/// Returns a codec with a request that is owed an answer.
fn asked(request: &str) -> HttpCodec {
    let mut codec = HttpCodec::default();
    let mut input = request.as_bytes().to_vec();
    let found = codec.decode(&mut input);
    assert!(matches!(found, Ok(Decoded::Frame { .. })));
    codec
}

fn text<T>(codec: &mut impl Encode<T>, item: T) -> Result<String, SendError> {
    let sent = encode_to_vec(codec, item).map_err(cause)?;
    Ok(String::from_utf8(sent).expect("is text"))
}

#[test]
fn interim_responses_precede_the_answer() {
    let mut codec = asked("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let hints = || ServerResponse::new(StatusCode::EARLY_HINTS).header("Link", "</style.css>");
    for _ in 0..2 {
        let sent = text(&mut codec, hints()).expect("is taken");
        assert_eq!(
            sent,
            "HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n"
        );
    }
    let status = StatusCode::EARLY_HINTS;
    for bad in [hints().body("x"), hints().streamed(), hints().sized(0)] {
        assert_eq!(text(&mut codec, bad), Err(SendError::Bodiless { status }));
    }
    let status = StatusCode::SWITCHING_PROTOCOLS;
    let change = ServerResponse::new(status);
    assert_eq!(text(&mut codec, change), Err(SendError::Status { status }));
    text(&mut codec, ServerResponse::ok()).expect("is still owed");
    assert_eq!(text(&mut codec, hints()), Err(SendError::NotAsked));
    let mut codec = asked("GET / HTTP/1.0\r\nHost: a\r\n\r\n");
    assert_eq!(text(&mut codec, hints()).as_deref(), Ok(""));
}

#[test]
fn a_client_that_was_told_to_go_on_by_an_interim_response_is_not_told_again() {
    let mut codec = HttpStreamCodec::default().manual_continue();
    let mut input =
        *b"PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
    let found = codec.decode(&mut input);
    assert!(matches!(found, Ok(Decoded::Frame { .. })));
    let interim = ServerResponse::new(StatusCode::CONTINUE);
    let sent = text(&mut codec, interim).expect("is taken");
    assert_eq!(sent, "HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(
        text(&mut codec, epicycle::http::Continue).as_deref(),
        Ok("")
    );
}

#[test]
fn trailers_follow_chunks_and_nothing_else() {
    let block = HeaderBlock::new().with("Sum", "7").expect("is taken");
    for (request, answer, expected) in [
        (
            "GET / HTTP/1.1",
            ServerResponse::ok().streamed(),
            "0\r\nSum: 7\r\n\r\n",
        ),
        ("GET / HTTP/1.0", ServerResponse::ok().streamed(), ""),
        ("HEAD / HTTP/1.1", ServerResponse::ok().streamed(), ""),
        ("GET / HTTP/1.1", ServerResponse::ok().file(0), ""),
    ] {
        let mut codec = asked(&format!("{request}\r\nHost: a\r\n\r\n"));
        text(&mut codec, answer).expect("is taken");
        let sent = text(&mut codec, Trailers(&block));
        assert_eq!(sent.as_deref(), Ok(expected), "{request}");
        assert_eq!(text(&mut codec, Trailers(&block)), Err(SendError::NotBegun));
    }
    let host = HeaderBlock::new().with("Host", "b").expect("is taken");
    let mut client = StreamCodec::default();
    let request = client::ClientRequest::new("PUT", "a", "/").streamed();
    text(&mut client, request).expect("is taken");
    let error = text(&mut client, Trailers(&host));
    assert!(matches!(error, Err(SendError::FramingHeader { .. })));
    let sent = text(&mut client, Trailers(&block));
    assert_eq!(sent.as_deref(), Ok("0\r\nSum: 7\r\n\r\n"));
}

#[test]
fn te_is_named_in_connection() {
    let block = HeaderBlock::new().with("te", "trailers").expect("is taken");
    let get = || client::ClientRequest::get("a", "/");
    for (request, expected) in [
        (
            get().header("TE", "trailers"),
            "Connection: TE\r\nTE: trailers\r\n",
        ),
        (get().block(&block), "Connection: TE\r\nte: trailers\r\n"),
        (
            get().header("TE", "trailers").upgrade("chat"),
            "Connection: Upgrade, TE\r\nUpgrade: chat\r\nTE: trailers\r\n",
        ),
        (
            get().header("TE", "trailers").close(),
            "Connection: close, TE\r\nTE: trailers\r\n",
        ),
    ] {
        let sent = text(&mut StreamCodec::default(), request).expect("is taken");
        assert_eq!(sent, format!("GET / HTTP/1.1\r\nHost: a\r\n{expected}\r\n"));
    }
    for (te, version, accepts) in [
        ("trailers", "1.1", true),
        ("gzip;q=0.5, Trailers", "1.1", true),
        ("trailers", "1.0", false),
        ("gzip", "1.1", false),
    ] {
        let mut input = format!("GET / HTTP/{version}\r\nHost: a\r\nTE: {te}\r\n\r\n").into_bytes();
        let found = HttpCodec::default()
            .decode(&mut input)
            .map(|found| match found {
                Decoded::Frame { frame, .. } => frame.accepts_trailers(),
                other => panic!("{other:?}"),
            });
        assert_eq!(found.expect("is sound"), accepts, "{te}");
    }
}

#[test]
fn the_parts_of_a_target_are_told() {
    for (line, host, expected) in [
        ("GET /a/b?c", "h", ("/a/b?c", None, None)),
        (
            "GET http://a:1/b?c",
            "a:1",
            ("/b?c", Some("http"), Some("a:1")),
        ),
        ("GET HTTPS://a", "a", ("/", Some("HTTPS"), Some("a"))),
        ("GET http://a?b", "a", ("?b", Some("http"), Some("a"))),
        ("CONNECT a:1", "a:1", ("", None, Some("a:1"))),
        ("OPTIONS *", "h", ("*", None, None)),
    ] {
        let mut input = format!("{line} HTTP/1.1\r\nHost: h\r\n\r\n").into_bytes();
        let mut codec = HttpCodec::default();
        let Ok(Decoded::Frame { frame: request, .. }) = codec.decode(&mut input) else {
            panic!("{line} is sound");
        };
        let told = (
            request.path_and_query(),
            request.scheme(),
            request.authority(),
        );
        assert_eq!((told, request.host()), (expected, Some(host)), "{line}");
    }
}

#[test]
fn lines_are_copied_but_not_those_that_frame_a_message() {
    let mut input = b"GET / HTTP/1.1\r\nHost: a\r\nA:  b \r\nb:\xff\r\nConnection: x\r\nContent-Length: 0\r\n\r\n"
        .to_vec();
    let mut codec = HttpCodec::default();
    let Ok(Decoded::Frame { frame: request, .. }) = codec.decode(&mut input) else {
        panic!("it is sound");
    };
    let lines: Vec<_> = request.headers().lines().collect();
    let whole: Vec<_> = lines.iter().map(HeaderLine::as_bytes).collect();
    assert_eq!(
        whole,
        [
            &b"Host: a\r\n"[..],
            b"A:  b \r\n",
            b"b:\xff\r\n",
            b"Connection: x\r\n",
            b"Content-Length: 0\r\n"
        ]
    );
    assert_eq!(
        (lines[1].name(), lines[1].value(), lines[1].colon()),
        (&b"A"[..], &b"b"[..], 1)
    );
    let mut block = HeaderBlock::new();
    for line in &lines[..3] {
        block.push_line(*line).expect("is taken");
    }
    for line in &lines[3..] {
        let error = block.push_line(*line).expect_err("frames a message");
        assert!(matches!(error, SendError::FramingHeader { .. }), "{error}");
    }
    // The host among them is found when a request is sent with them.
    fn sent(block: &HeaderBlock) -> Result<String, SendError> {
        let request = client::ClientRequest::get("a", "/").block(block);
        text(&mut StreamCodec::default(), request)
    }
    assert!(matches!(sent(&block), Err(SendError::FramingHeader { .. })));
    // A refusal keeps the lines before the refused one, and none of those that the block had.
    block.fill(lines[..2].iter().copied()).expect("is taken");
    let error = block.fill(lines[1..].iter().copied());
    assert!(matches!(error, Err(SendError::FramingHeader { .. })));
    assert_eq!(format!("{block:?}"), "[\"A:  b \", \"b:\u{fffd}\"]");
    block.clear();
    assert!(block.is_empty());
    block.push_line(lines[1]).expect("is taken");
    block.push("C", "d").expect("is taken");
    block.push("C", "d\r\n").expect_err("is no value");
    assert_eq!(
        sent(&block).as_deref(),
        Ok("GET / HTTP/1.1\r\nHost: a\r\nA:  b \r\nC: d\r\n\r\n")
    );
}

#[test]
fn what_lives_longer_can_be_given_a_header_that_lives_shorter() {
    let base: ServerResponse<'static> = ServerResponse::ok().header("A", "b");
    let request: client::ClientRequest<'static> = client::ClientRequest::get("a", "/");
    for n in 0..6 {
        let local = n.to_string();
        let mut codec = asked("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let mut answer = base.clone();
        for _ in 0..n {
            answer = answer.header("N", &local);
        }
        let sent = text(&mut codec, answer).expect("is taken");
        assert_eq!(sent.matches(&format!("N: {n}\r\n")).count(), n);
        let sent = text(
            &mut StreamCodec::default(),
            request.clone().header("N", &local),
        );
        assert!(sent.expect("is taken").contains(&local));
    }
}

/// What a message is, whoever reads it.
#[derive(Debug, PartialEq, Eq)]
struct Plain {
    line: String,
    headers: Vec<Vec<u8>>,
    body: Vec<u8>,
    trailers: Vec<Vec<u8>>,
}

fn lines(headers: Headers<'_>) -> Vec<Vec<u8>> {
    headers
        .end_to_end()
        .map(|line| line.as_bytes().to_vec())
        .collect()
}

fn plain_request(request: &ServerRequest<'_>) -> Plain {
    Plain {
        line: format!(
            "{} {} {:?}",
            request.method(),
            request.target(),
            request.host()
        ),
        headers: lines(request.headers()),
        body: request.body().to_vec(),
        trailers: lines(request.trailers()),
    }
}

fn read_request(mut input: Vec<u8>) -> Plain {
    let mut codec = HttpCodec::new(Limits::default());
    match codec.decode(&mut input).expect("is sound") {
        Decoded::Frame { frame, .. } => plain_request(&frame),
        other => panic!("{other:?}"),
    }
}

fn read_response(mut input: Vec<u8>) -> Plain {
    let mut codec = client::ClientCodec::default();
    encode_to_vec(&mut codec, client::ClientRequest::get("a", "/")).expect("is taken");
    match codec.decode_eof(&mut input).expect("is sound") {
        Decoded::Frame { frame, .. } => Plain {
            line: format!("{} {}", frame.status(), frame.reason()),
            headers: lines(frame.headers()),
            body: frame.body().to_vec(),
            trailers: lines(frame.trailers()),
        },
        other => panic!("{other:?}"),
    }
}

const HEADER: &str = "X-[a-z]{1,10}: ?[ -~]{0,20}\r\n";

/// How a body is framed: its headers and bytes.
fn framed(chunked: bool, body: &[u8], trailers: &[String]) -> Vec<u8> {
    if !chunked {
        return [
            format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes(),
            body,
        ]
        .concat();
    }
    let mut wire = b"Transfer-Encoding: chunked\r\n\r\n".to_vec();
    for chunk in body.chunks(7) {
        wire.extend(format!("{:x}\r\n", chunk.len()).bytes());
        wire.extend(chunk);
        wire.extend(b"\r\n");
    }
    wire.extend(format!("0\r\n{}\r\n", trailers.concat()).bytes());
    wire
}

proptest! {
    #[test]
    fn what_is_relayed_is_what_was_received_wherever_it_is_split(
        headers in vec(HEADER, 0..8),
        trailers in vec(HEADER, 0..3),
        body in vec(any::<u8>(), 0..40),
        chunked: bool,
        cuts in vec(any::<prop::sample::Index>(), 0..4),
    ) {
        let tail = framed(chunked, &body, &trailers);
        let request = [format!("PUT /x?y HTTP/1.1\r\nHost: a\r\n{}", headers.concat()).as_bytes(), &tail].concat();
        let response = [format!("HTTP/1.1 201 Made\r\nDate: today\r\n{}", headers.concat()).as_bytes(), &tail].concat();
        let expected = (read_request(request.clone()), read_response(response.clone()));
        let pieces = |whole: &[u8]| {
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(whole.len())).collect();
            cuts.push(whole.len());
            cuts.sort_unstable();
            cuts
        };
        let mut relay = Relay::new();
        let mut start = 0;
        let mut kept = Vec::new();
        for end in pieces(&request) {
            kept.extend_from_slice(&request[start..end]);
            start = end;
            relay.request(&mut kept).expect("is relayed");
        }
        let mut start = 0;
        let mut kept = Vec::new();
        for end in pieces(&response) {
            kept.extend_from_slice(&response[start..end]);
            start = end;
            relay.response(&mut kept, false).expect("is relayed");
        }
        prop_assert!(relay.client.is_reusable());
        prop_assert_eq!((read_request(relay.to_origin), read_response(relay.to_client)), expected);
    }
}
