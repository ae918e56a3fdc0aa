//! The client's codec without sockets: the responses it accepts, and the requests it sends.

use epicycle::codec::{Codec, Decoded, Encode, FrameError, Stage, encode_to_vec};
use epicycle::http::client::{
    ClientCodec, ClientRequest, ClientResponse, ResponsePart, StreamCodec,
};
use epicycle::http::{Chunk, End, HeaderBlock, Headers, Limits, MessageError, SendError};

/// A response that has been kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) status: u16,
    pub(crate) reason: String,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<(String, Vec<u8>)>,
    pub(crate) upgraded: bool,
}

impl Kept {
    pub(crate) fn of(response: &ClientResponse<'_>) -> Self {
        Self {
            status: response.status().as_u16(),
            reason: response.reason().to_owned(),
            headers: Self::fields(response.headers()),
            body: response.body().to_vec(),
            trailers: Self::fields(response.trailers()),
            upgraded: response.is_upgrade(),
        }
    }

    fn fields(headers: Headers<'_>) -> Vec<(String, Vec<u8>)> {
        let owned = |(name, value): (&str, &[u8])| (name.to_owned(), value.to_vec());
        headers.map(owned).collect()
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("is text")
    }
}

pub(crate) fn cause(error: FrameError) -> SendError {
    match error {
        FrameError::Other(error) => *error.downcast().expect("is the codec's"),
        other => panic!("{other}"),
    }
}

/// A client's codec, and how to note what it finds.
trait Hears: Codec + for<'a> Encode<ClientRequest<'a>> {
    fn new() -> Self;
    fn note(found: &mut Vec<Kept>, frame: Self::Frame<'_>);
    /// The responses that are complete.
    fn complete(found: Vec<Kept>, codec: &Self) -> Vec<Kept>;
}

impl Hears for ClientCodec {
    fn new() -> Self {
        Self::default()
    }

    fn note(found: &mut Vec<Kept>, response: ClientResponse<'_>) {
        found.push(Kept::of(&response));
    }

    fn complete(found: Vec<Kept>, _: &Self) -> Vec<Kept> {
        found
    }
}

impl Hears for StreamCodec {
    fn new() -> Self {
        Self::new(Limits::default())
    }

    fn note(found: &mut Vec<Kept>, part: ResponsePart<'_>) {
        let amid = "is within a response";
        match part {
            ResponsePart::Interim(response) => assert!(response.status().is_informational()),
            ResponsePart::Head(response) => found.push(Kept::of(&response)),
            ResponsePart::Body(bytes) => {
                assert!(!bytes.is_empty());
                found.last_mut().expect(amid).body.extend_from_slice(bytes);
            }
            ResponsePart::End(trailers) => {
                found.last_mut().expect(amid).trailers = Kept::fields(trailers);
            }
            ResponsePart::Upgraded(bytes) => {
                assert!(!bytes.is_empty() && found.last().expect(amid).upgraded);
            }
            other => panic!("{other:?}"),
        }
    }

    fn complete(mut found: Vec<Kept>, codec: &Self) -> Vec<Kept> {
        if codec.stage() == Stage::AwaitingRest {
            found.pop();
        }
        found
    }
}

/// Feeds both codecs, each of which has sent these requests, a response in one piece, split everywhere, and byte by
/// byte: what they find up to the end of the stream, and whether there was an error.
pub(crate) fn read(asked: &[(&str, bool)], input: &[u8]) -> (Vec<Kept>, bool) {
    let whole = read_by::<ClientCodec>(asked, input);
    let parts = read_by::<StreamCodec>(asked, input);
    assert_eq!(
        parts,
        whole,
        "in parts: {:?}",
        String::from_utf8_lossy(input)
    );
    whole
}

fn read_by<C: Hears>(asked: &[(&str, bool)], input: &[u8]) -> (Vec<Kept>, bool) {
    let pieces = |cut: usize| vec![&input[..cut], &input[cut..]];
    let whole = feed_to::<C>(asked, &[input]);
    let bytes: Vec<&[u8]> = input.chunks(1).collect();
    assert_eq!(
        feed_to::<C>(asked, &bytes),
        whole,
        "byte by byte: {:?}",
        String::from_utf8_lossy(input)
    );
    for cut in 0..input.len() {
        assert_eq!(
            feed_to::<C>(asked, &pieces(cut)),
            whole,
            "cut at {cut}: {:?}",
            String::from_utf8_lossy(input)
        );
    }
    whole
}

/// The same in these pieces.
pub(crate) fn feed(asked: &[(&str, bool)], pieces: &[&[u8]]) -> (Vec<Kept>, bool) {
    let whole = feed_to::<ClientCodec>(asked, pieces);
    assert_eq!(feed_to::<StreamCodec>(asked, pieces), whole);
    whole
}

fn feed_to<C: Hears>(asked: &[(&str, bool)], pieces: &[&[u8]]) -> (Vec<Kept>, bool) {
    let mut codec = C::new();
    for (method, upgrade) in asked {
        let target = if *method == "CONNECT" { "a:443" } else { "/" };
        let mut request = ClientRequest::new(method, "a", target);
        if *upgrade {
            request = request.upgrade("chat");
        }
        encode_to_vec(&mut codec, request).expect("is taken");
    }
    let mut found = Vec::new();
    let ended = feed_all(&mut codec, pieces, &mut found);
    if let Err(error) = &ended {
        MessageError::of(error).expect("is of the message");
    }
    (C::complete(found, &codec), ended.is_err())
}

fn feed_all<C: Hears>(
    codec: &mut C,
    pieces: &[&[u8]],
    found: &mut Vec<Kept>,
) -> Result<(), FrameError> {
    let (mut kept, mut need) = (Vec::new(), 1);
    for piece in pieces {
        kept.extend_from_slice(piece);
        while !kept.is_empty() && kept.len() >= need {
            need = 1;
            let len = kept.len();
            let consumed = match codec.decode(&mut kept)? {
                Decoded::Frame { frame, consumed } => {
                    C::note(found, frame);
                    consumed
                }
                Decoded::Skip { consumed } => {
                    assert!(consumed > 0);
                    consumed
                }
                Decoded::NeedMore { at_least } => {
                    assert!(at_least > len);
                    need = at_least;
                    continue;
                }
                Decoded::Hold => return Ok(()),
            };
            assert!(consumed <= len);
            kept.drain(..consumed);
        }
    }
    loop {
        let consumed = match codec.decode_eof(&mut kept)? {
            Decoded::Frame { frame, consumed } => {
                C::note(found, frame);
                consumed
            }
            Decoded::Skip { consumed } => consumed,
            Decoded::NeedMore { .. } | Decoded::Hold => return Ok(()),
        };
        let is_amid = consumed == 0 && !kept.is_empty();
        kept.drain(..consumed);
        if kept.is_empty() && !is_amid {
            return Ok(());
        }
    }
}

const GET: (&str, bool) = ("GET", false);
const HEAD: (&str, bool) = ("HEAD", false);
const CONNECT: (&str, bool) = ("CONNECT", false);
const UPGRADE: (&str, bool) = ("GET", true);

#[test]
fn responses_are_read_by_what_was_asked() {
    let bodies = |asked: &[(&str, bool)], input: &str| {
        let (found, error) = read(asked, input.as_bytes());
        assert!(!error, "{input:?}");
        let bodies = found
            .iter()
            .map(|response| (response.status, response.text().to_owned()));
        bodies.collect::<Vec<_>>()
    };
    let with = |status: u16, body: &str| (status, body.to_owned());
    let sized = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nhe\r\n3\r\nllo\r\n0\r\nX: y\r\n\r\n";
    assert_eq!(
        bodies(&[GET, GET], &[sized, chunked].concat()),
        [with(200, "hello"), with(200, "hello")]
    );
    assert_eq!(
        read(&[GET], chunked.as_bytes()).0[0].trailers,
        [("X".to_owned(), b"y".to_vec())]
    );
    // The head of what a GET would have.
    let heads = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nHTTP/1.1 404 Not Found\r\n\r\n";
    assert_eq!(
        bodies(&[HEAD, HEAD, HEAD, GET], &[heads, sized].concat()),
        [
            with(200, ""),
            with(200, ""),
            with(404, ""),
            with(200, "hello")
        ]
    );
    // Statuses without a body.
    let none =
        "HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n";
    assert_eq!(
        bodies(&[GET, GET, GET], &[none, sized].concat()),
        [with(204, ""), with(304, ""), with(200, "hello")]
    );
    // Interim responses.
    let interim = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
    assert_eq!(
        bodies(&[GET, GET], &[interim, sized, interim, chunked].concat()),
        [with(200, "hello"), with(200, "hello")]
    );
    // Up to the end of the stream, and nothing behind it.
    assert_eq!(
        bodies(
            &[GET, GET],
            "HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"
        ),
        [with(200, "HTTP/1.1 200 OK\r\n\r\n")]
    );
    // Nothing is a response after the last one.
    let last = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(
        bodies(&[GET, GET], &[last, sized].concat()),
        [with(200, "")]
    );
    let old = "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(bodies(&[GET, GET], &[old, sized].concat()), [with(200, "")]);
    let kept = "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(
        bodies(&[GET, GET], &[kept, sized].concat()),
        [with(200, ""), with(200, "hello")]
    );
    // Reasons are for people.
    for (line, reason) in [
        ("200 OK", "OK"),
        ("200 ", ""),
        ("200 Not  at all", "Not  at all"),
    ] {
        let found = read(
            &[GET],
            format!("HTTP/1.1 {line}\r\nContent-Length: 0\r\n\r\n").as_bytes(),
        )
        .0;
        assert_eq!(found[0].reason, reason);
    }
}

#[test]
fn a_connection_changes_its_protocol_only_when_asked() {
    let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\nwhatever\0";
    let empty = switch.replace("Upgrade: chat", "Upgrade: chat\r\nContent-Length: 0");
    for switch in [switch, &empty] {
        let (found, error) = read(&[UPGRADE], switch.as_bytes());
        assert!(found[0].upgraded && found.len() == 1 && !error, "{switch}");
    }
    assert_eq!(read(&[GET], switch.as_bytes()), (Vec::new(), true));
    // Others may not take these for a change, or may take the first bytes of the other protocol for a body.
    for (part, other) in [
        ("HTTP/1.1", "HTTP/1.0"),
        ("Connection: Upgrade\r\n", ""),
        ("Connection: Upgrade", "Connection: keep-alive, X-Upgrade"),
        ("Upgrade: chat", "Upgrade: chat\r\nContent-Length: 8"),
        (
            "Upgrade: chat",
            "Upgrade: chat\r\nTransfer-Encoding: chunked",
        ),
    ] {
        let bad = switch.replace(part, other);
        assert_eq!(
            read(&[UPGRADE], bad.as_bytes()),
            (Vec::new(), true),
            "{bad}"
        );
    }
    let (found, error) = read(
        &[CONNECT],
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwhatever\0",
    );
    assert!(found[0].upgraded && found[0].body.is_empty() && !error);
    // What is refused goes on as HTTP.
    let refused = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno";
    for asked in [UPGRADE, CONNECT] {
        let (found, error) = read(&[asked], refused);
        assert_eq!(
            (found[0].upgraded, found[0].text(), error),
            (false, "no", false)
        );
    }
    let mut codec = ClientCodec::default();
    encode_to_vec(&mut codec, ClientRequest::get("a", "/").upgrade("chat")).expect("is taken");
    assert!(!codec.is_ready());
    codec.decode(&mut refused.to_vec()).expect("is a response");
    assert!(codec.is_ready() && codec.outstanding() == 0);
}

#[test]
fn what_could_be_taken_for_another_response_is_refused() {
    let flaws = [
        // Nobody has asked for it.
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n\r\n",
        "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello",
        // It is framed in two ways, or none that is known.
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n0\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        // Its lines are not lines.
        "HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\n",
        "\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length : 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\rb\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 O\rK\r\nContent-Length: 0\r\n\r\n",
        // It is no response.
        "HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 099 OK\r\nContent-Length: 0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloX\r\n0\r\n\r\n",
    ];
    for flaw in flaws {
        let (_, error) = read(&[GET], flaw.as_bytes());
        assert!(error, "{flaw:?}");
    }
}

/// Has a codec that has sent requests look at what has come, once.
fn once<R>(
    codec: &mut ClientCodec,
    input: &[u8],
    look: impl FnOnce(ClientResponse<'_>, usize) -> R,
) -> Result<R, MessageError> {
    match codec.decode(&mut input.to_vec()) {
        Ok(Decoded::Frame { frame, consumed }) => Ok(look(frame, consumed)),
        Ok(other) => panic!("no response: {other:?}"),
        Err(error) => Err(MessageError::of(&error).expect("is of the message")),
    }
}

fn asking(method: &str) -> ClientCodec {
    let mut codec = ClientCodec::default();
    encode_to_vec(&mut codec, ClientRequest::new(method, "a", "/")).expect("is taken");
    codec
}

#[test]
fn what_comes_behind_the_last_response_spoils_the_connection() {
    let unasked = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    for (method, response) in [
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"),
        (
            "GET",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", "HTTP/1.1 304 Not Modified\r\n\r\n"),
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"),
    ] {
        for behind in [unasked, "\r\n", "h"] {
            let mut codec = asking(method);
            let input = [response, behind].concat();
            let keeps = once(&mut codec, input.as_bytes(), |response, consumed| {
                assert_eq!(consumed, input.len() - behind.len());
                response.keep_alive()
            });
            assert_eq!(keeps, Ok(false), "{response:?}");
            assert!(!codec.is_ready());
            let again = encode_to_vec(&mut codec, ClientRequest::get("a", "/2"));
            assert_eq!(cause(again.expect_err("is refused")), SendError::Last);
            once(&mut codec, behind.as_bytes(), |_, _| ()).expect_err("was not asked for");
        }
        // Nothing behind it, or the response to another request, is as it should be.
        let mut codec = asking(method);
        let keeps = once(&mut codec, response.as_bytes(), |response, _| {
            response.keep_alive()
        });
        assert_eq!((keeps, codec.is_ready()), (Ok(true), true));
        let mut codec = asking(method);
        encode_to_vec(&mut codec, ClientRequest::get("a", "/2")).expect("is taken");
        let input = [response, unasked].concat();
        let keeps = once(&mut codec, input.as_bytes(), |response, _| {
            response.keep_alive()
        });
        assert_eq!((keeps, codec.is_ready()), (Ok(true), true));
    }
}

#[test]
fn a_response_that_is_the_last_keeps_nothing_alive() {
    let keeps = |mut codec: ClientCodec, response: &str, last: bool| {
        let mut input = response.as_bytes().to_vec();
        let found = if last {
            codec.decode_eof(&mut input)
        } else {
            codec.decode(&mut input)
        };
        match found {
            Ok(Decoded::Frame { frame, .. }) => frame.keep_alive(),
            other => panic!("no response: {other:?}"),
        }
    };
    // Its body ends with the stream.
    assert!(!keeps(asking("GET"), "HTTP/1.1 200 OK\r\n\r\nhi", true));
    let mut closing = ClientCodec::default();
    encode_to_vec(&mut closing, ClientRequest::get("a", "/").close()).expect("is taken");
    assert!(!keeps(
        closing,
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        false
    ));
}

#[test]
fn interim_responses_are_passed_over_but_not_without_end() {
    let interim = "HTTP/1.1 102 Processing\r\n\r\n";
    let last = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
    // As many to each request.
    let one = [&interim.repeat(16), last].concat();
    let (found, error) = read(&[GET, GET], one.repeat(2).as_bytes());
    assert!(!error && found.iter().all(|response| response.text() == "hi") && found.len() == 2);
    let told = |interim: String| {
        let mut codec = asking("GET");
        let mut input = [&interim, last].concat().into_bytes();
        loop {
            match codec.decode(&mut input) {
                Ok(Decoded::Skip { consumed }) => drop(input.drain(..consumed)),
                Ok(found) => panic!("found {found:?}"),
                Err(error) => return MessageError::of(&error),
            }
        }
    };
    let many = Some(MessageError::TooManyInterim { max: 16 });
    assert_eq!(told(interim.repeat(17)), many);
    let long = format!(
        "HTTP/1.1 103 Early Hints\r\nLink: {}\r\n\r\n",
        "x".repeat(3000)
    );
    let head = Some(MessageError::HeadTooLong { max: 16 << 10 });
    assert_eq!(told(long.repeat(6)), head);
}

#[test]
fn a_length_that_is_told_several_times_is_taken_only_if_that_is_wanted() {
    let with = |length: &str| format!("HTTP/1.1 200 OK\r\n{length}\r\n\r\nhello");
    let several = [
        "Content-Length: 5\r\nContent-Length: 5",
        "Content-Length: 5, ,5",
        "Content-Length: 5,5\r\nContent-Length:5",
    ];
    let others = [
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 5, 6",
        "Content-Length: 5\r\nContent-Length: +5",
        "Content-Length: ,",
        "Content-Length: 5 5",
    ];
    let read = |codec: ClientCodec, length: &str| {
        let mut codec = codec;
        encode_to_vec(&mut codec, ClientRequest::get("a", "/")).expect("is taken");
        once(&mut codec, with(length).as_bytes(), |response, _| {
            response.body().to_vec()
        })
    };
    for length in several {
        read(ClientCodec::default(), length).expect_err(length);
        let body = read(ClientCodec::default().take_repeated_length(), length);
        assert_eq!(body, Ok(b"hello".to_vec()), "{length:?}");
    }
    for length in others {
        read(ClientCodec::default().take_repeated_length(), length).expect_err(length);
    }
}

#[test]
fn a_hundred_headers_are_no_error() {
    let lines = "A: b\r\n".repeat(127);
    let response = format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{lines}\r\n");
    let count = |limits: Limits| {
        let mut codec = ClientCodec::new(limits);
        encode_to_vec(&mut codec, ClientRequest::get("a", "/")).expect("is taken");
        once(&mut codec, response.as_bytes(), |response, _| {
            response.headers().count()
        })
    };
    assert_eq!(count(Limits::default()), Ok(128));
    let max = 127;
    assert_eq!(
        count(Limits::default().max_headers(max)),
        Err(MessageError::TooManyHeaders { max })
    );
    // More is an option.
    let response = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{}\r\n",
        "A: b\r\n".repeat(255)
    );
    let mut codec = ClientCodec::new(Limits::default().max_headers(256));
    encode_to_vec(&mut codec, ClientRequest::get("a", "/")).expect("is taken");
    let headers = once(&mut codec, response.as_bytes(), |response, _| {
        response.headers().count()
    });
    assert_eq!(headers, Ok(256));
}

#[test]
fn responses_are_taken_up_to_the_limits() {
    let limits = Limits::default().max_body(10).max_head(200).max_headers(3);
    let told = |input: String| {
        let mut codec = ClientCodec::new(limits);
        encode_to_vec(&mut codec, ClientRequest::get("a", "/")).expect("is taken");
        match codec.decode(&mut input.into_bytes()) {
            Ok(_) => None,
            Err(error) => MessageError::of(&error),
        }
    };
    let long = "x".repeat(11);
    let body = Some(MessageError::BodyTooLong { max: 10 });
    assert_eq!(
        told("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n".to_owned()),
        None
    );
    assert_eq!(
        told("HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n".to_owned()),
        body
    );
    assert_eq!(
        told("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nb\r\n".to_owned()),
        body
    );
    assert_eq!(told(format!("HTTP/1.1 200 OK\r\n\r\n{long}")), body);
    let head = Some(MessageError::HeadTooLong { max: 200 });
    let lines = format!("X: {}\r\n", "x".repeat(90));
    assert_eq!(told(format!("HTTP/1.1 200 OK\r\n{lines}{lines}\r\n")), head);
    assert_eq!(told(format!("HTTP/1.1 200 OK\r\n{lines}{lines}")), head);
    let many = Some(MessageError::TooManyHeaders { max: 3 });
    assert_eq!(
        told(format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(4))),
        many
    );
}

#[test]
fn requests_that_could_be_taken_for_others_are_refused() {
    let send = |request: ClientRequest<'_>| {
        let mut codec = ClientCodec::default();
        let error = cause(encode_to_vec(&mut codec, request).expect_err("is refused"));
        assert_eq!(codec.outstanding(), 0);
        error
    };
    for (method, host, target) in [
        ("", "a", "/"),
        ("G T", "a", "/"),
        ("GET\r\n", "a", "/"),
        ("GET", "a", ""),
        ("GET", "a", "x"),
        ("GET", "a", "/ HTTP/1.1\r\nX: y"),
        ("GET", "a", "/a b"),
        ("GET", "a", "/\u{e9}"),
        ("GET", "a", "*"),
        ("GET", "a", "a:443"),
        ("CONNECT", "a", "/"),
    ] {
        assert_eq!(
            send(ClientRequest::new(method, host, target)),
            SendError::RequestLine,
            "{method} {host} {target}"
        );
    }
    for host in ["", "a b", "a\r\nX: y", "x@a"] {
        assert_eq!(
            send(ClientRequest::get(host, "/")),
            SendError::Host,
            "{host}"
        );
    }
    let get = || ClientRequest::get("a", "/");
    let name = || "X".to_owned();
    assert_eq!(
        send(get().header("X", "a\r\nY: b")),
        SendError::Header { name: name() }
    );
    for name in [
        "Host",
        "host",
        "Upgrade",
        "Content-Length",
        "Transfer-Encoding",
        "Connection",
    ] {
        let framing = SendError::FramingHeader {
            name: name.to_owned(),
        };
        assert_eq!(send(get().header(name, "b")), framing);
    }
    let block = HeaderBlock::new().with("HOST", "b").expect("is a header");
    assert_eq!(
        send(get().block(&block)),
        SendError::FramingHeader {
            name: "HOST".to_owned()
        }
    );
    assert!(matches!(
        send(get().upgrade("a b")),
        SendError::Header { .. }
    ));
    assert!(matches!(
        send(ClientRequest::new("HEAD", "a", "/").upgrade("chat")),
        SendError::Header { .. }
    ));
}

#[test]
fn requests_are_written_as_they_are_meant() {
    let send = |request: ClientRequest<'_>| {
        let sent = encode_to_vec(&mut ClientCodec::default(), request).expect("is taken");
        String::from_utf8(sent).expect("is text")
    };
    assert_eq!(
        send(ClientRequest::get("a:80", "/?q")),
        "GET /?q HTTP/1.1\r\nHost: a:80\r\n\r\n"
    );
    assert_eq!(
        send(ClientRequest::new("OPTIONS", "a", "*")),
        "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"
    );
    assert_eq!(
        send(ClientRequest::get("a", "http://a/b")),
        "GET http://a/b HTTP/1.1\r\nHost: a\r\n\r\n"
    );
    assert_eq!(
        send(ClientRequest::new("CONNECT", "a:443", "a:443")),
        "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n"
    );
    assert_eq!(
        send(ClientRequest::new("POST", "a", "/")),
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
    );
    assert_eq!(
        send(ClientRequest::get("a", "/").body("")),
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
    );
    assert_eq!(
        send(ClientRequest::get("[::1]:8080", "/").close()),
        "GET / HTTP/1.1\r\nHost: [::1]:8080\r\nConnection: close\r\n\r\n"
    );
    assert_eq!(
        send(
            ClientRequest::get("a", "/")
                .upgrade("chat/2")
                .header("Chat", "x")
        ),
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: chat/2\r\nChat: x\r\n\r\n"
    );
    assert_eq!(
        send(ClientRequest::get("a", "/").upgrade("chat").close()),
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: close, Upgrade\r\nUpgrade: chat\r\n\r\n"
    );
    let block = HeaderBlock::new().with("A", "b").expect("is a header");
    assert_eq!(
        send(
            ClientRequest::post("a", "/", "x")
                .header("C", "d")
                .block(&block)
        ),
        "POST / HTTP/1.1\r\nHost: a\r\nA: b\r\nC: d\r\nContent-Length: 1\r\n\r\nx"
    );
    let large = "x".repeat(10_000);
    assert!(send(ClientRequest::post("a", "/", &large)).ends_with(&large));
}

#[test]
fn a_request_ends_before_the_next_begins() {
    let mut codec = ClientCodec::default();
    let get = || ClientRequest::get("a", "/");
    let refused = |codec: &mut ClientCodec, request| {
        cause(encode_to_vec(codec, request).expect_err("is refused"))
    };
    assert_eq!(
        cause(encode_to_vec(&mut codec, Chunk(b"x")).expect_err("is refused")),
        SendError::NotBegun
    );
    assert_eq!(
        cause(encode_to_vec(&mut codec, End).expect_err("is refused")),
        SendError::NotBegun
    );
    encode_to_vec(&mut codec, get().sized(3)).expect("is taken");
    assert_eq!(refused(&mut codec, get()), SendError::Begun);
    let (left, given) = (3, 4);
    assert_eq!(
        cause(encode_to_vec(&mut codec, Chunk(b"abcd")).expect_err("is refused")),
        SendError::Length { left, given }
    );
    assert_eq!(
        encode_to_vec(&mut codec, Chunk(b"abc")).expect("is taken"),
        b"abc"
    );
    encode_to_vec(&mut codec, get().streamed()).expect("is taken");
    assert_eq!(
        encode_to_vec(&mut codec, Chunk(b"abc")).expect("is taken"),
        b"3\r\nabc\r\n"
    );
    assert_eq!(
        encode_to_vec(&mut codec, Chunk(b"")).expect("is taken"),
        b""
    );
    assert_eq!(refused(&mut codec, get()), SendError::Begun);
    assert_eq!(
        encode_to_vec(&mut codec, End).expect("is taken"),
        b"0\r\n\r\n"
    );
    encode_to_vec(&mut codec, get().close()).expect("is taken");
    assert_eq!(refused(&mut codec, get()), SendError::Last);
    assert_eq!(codec.outstanding(), 3);
}

#[test]
fn an_idle_connection_costs_the_codecs_what_they_say() {
    assert_eq!(size_of::<ClientCodec>(), 104);
    assert_eq!(size_of::<StreamCodec>(), 136);
}

/// Decodes one part of a response, and takes its bytes from the input.
fn part<R>(
    codec: &mut StreamCodec,
    input: &mut Vec<u8>,
    look: impl FnOnce(ResponsePart<'_>) -> R,
) -> R {
    match codec.decode(input).expect("is sound") {
        Decoded::Frame { frame, consumed } => {
            let seen = look(frame);
            input.drain(..consumed);
            seen
        }
        other => panic!("no part: {other:?}"),
    }
}

#[test]
fn a_head_in_parts_tells_what_was_announced() {
    for (method, head, has_body, length) in [
        ("GET", "200 OK\r\nContent-Length: 5", true, Some(5)),
        ("GET", "200 OK\r\nContent-Length: 0", true, Some(0)),
        ("GET", "200 OK\r\nTransfer-Encoding: chunked", true, None),
        ("GET", "200 OK\r\nX: y", true, None),
        ("HEAD", "200 OK\r\nContent-Length: 5", false, Some(5)),
        ("HEAD", "200 OK\r\nTransfer-Encoding: chunked", false, None),
        (
            "GET",
            "304 Not Modified\r\nContent-Length: 5",
            false,
            Some(5),
        ),
        ("GET", "204 No Content\r\nContent-Length: 5", false, Some(5)),
    ] {
        let mut codec = StreamCodec::default();
        encode_to_vec(&mut codec, ClientRequest::new(method, "a", "/")).expect("is taken");
        let mut input = format!("HTTP/1.1 {head}\r\n\r\n").into_bytes();
        part(&mut codec, &mut input, |part| match part {
            ResponsePart::Head(response) => {
                assert_eq!(response.has_body(), has_body, "{method} {head}");
                assert_eq!(response.content_length(), length, "{method} {head}");
                assert_eq!(response.body(), b"");
            }
            other => panic!("{other:?}"),
        });
    }
}

#[test]
fn a_body_without_a_length_is_handed_out_up_to_the_limit_however_it_is_cut() {
    for pieces in [
        &[&b"hello you"[..]][..],
        &[b"hel", b"lo you"],
        &[b"hello", b" ", b"you"],
    ] {
        let mut codec = StreamCodec::new(Limits::default().max_body(5));
        encode_to_vec(&mut codec, ClientRequest::get("a", "/")).expect("is taken");
        let (mut found, head) = (Vec::new(), b"HTTP/1.1 200 OK\r\n\r\n".as_slice());
        let pieces: Vec<&[u8]> = [head].into_iter().chain(pieces.iter().copied()).collect();
        let error = feed_all(&mut codec, &pieces, &mut found).expect_err("is too long");
        let max = 5;
        assert_eq!(
            MessageError::of(&error),
            Some(MessageError::BodyTooLong { max })
        );
        assert_eq!(found[0].body, b"hello");
    }
}

#[test]
fn only_so_many_interim_responses_are_handed_out() {
    let mut codec = StreamCodec::default();
    encode_to_vec(&mut codec, ClientRequest::get("a", "/")).expect("is taken");
    let mut input = b"HTTP/1.1 102 Processing\r\n\r\n".repeat(17);
    for _ in 0..16 {
        part(&mut codec, &mut input, |part| match part {
            ResponsePart::Interim(response) => assert_eq!(response.status().as_u16(), 102),
            other => panic!("{other:?}"),
        });
    }
    let error = codec.decode(&mut input).expect_err("is one too many");
    let max = 16;
    assert_eq!(
        MessageError::of(&error),
        Some(MessageError::TooManyInterim { max })
    );
}

#[test]
fn a_connection_is_reusable_when_both_messages_are_complete_and_nothing_speaks_against_it() {
    for (request, response, reusable) in [
        (
            ClientRequest::get("a", "/"),
            "Content-Length: 2\r\n\r\nhi",
            true,
        ),
        (
            ClientRequest::get("a", "/"),
            "Connection: close\r\nContent-Length: 2\r\n\r\nhi",
            false,
        ),
        (
            ClientRequest::get("a", "/").close(),
            "Content-Length: 2\r\n\r\nhi",
            false,
        ),
        (
            ClientRequest::get("a", "/"),
            "Content-Length: 2\r\n\r\nhi!",
            false,
        ),
        (
            ClientRequest::new("POST", "a", "/").sized(1),
            "Content-Length: 2\r\n\r\nhi",
            false,
        ),
    ] {
        let mut codec = StreamCodec::default();
        assert!(codec.is_reusable());
        encode_to_vec(&mut codec, request).expect("is taken");
        assert!(!codec.is_reusable());
        let mut input = format!("HTTP/1.1 200 OK\r\n{response}").into_bytes();
        let mut is_over = false;
        while !is_over {
            is_over = part(&mut codec, &mut input, |part| {
                matches!(part, ResponsePart::End(_))
            });
        }
        assert_eq!(codec.is_reusable(), reusable, "{response:?}");
        assert_eq!(codec.outstanding(), 0);
    }
}
