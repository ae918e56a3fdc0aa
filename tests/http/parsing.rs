//! The server's codecs without sockets: input decodes to the same requests however it is cut, and all output can be
//! parsed.

use epicycle::codec::{Codec, Decoded, Encode, FrameError, encode_to_vec};
use epicycle::http::client::{self, ClientCodec};
use epicycle::http::{
    Chunk, End, Headers, HttpCodec, HttpStreamCodec, MessageError, RequestPart, ServerRequest,
    ServerResponse, StatusCode,
};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::cases::cases;
use crate::responses;
use crate::wire::{Answer, Answers};

type Fields = Vec<(String, Vec<u8>)>;

/// What a request is, whoever has read it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plain {
    method: String,
    target: String,
    headers: Fields,
    pub(crate) body: Vec<u8>,
    trailers: Fields,
}

/// The requests found, and the status due to what ends them, if it is an error.
pub(crate) type Outcome = (Vec<Plain>, Option<StatusCode>);

fn fields(headers: Headers<'_>) -> Fields {
    headers
        .map(|(name, value)| (name.to_owned(), value.to_vec()))
        .collect()
}

impl Plain {
    fn of(request: &ServerRequest<'_>) -> Self {
        Self {
            method: request.method().to_owned(),
            target: request.target().to_owned(),
            headers: fields(request.headers()),
            body: request.body().to_vec(),
            trailers: fields(request.trailers()),
        }
    }
}

/// A server's codec, and how to note what it finds.
trait Reads: Codec + Default + for<'a> Encode<ServerResponse<'a>> {
    /// Returns whether the request is complete.
    fn note(found: &mut Vec<Plain>, frame: Self::Frame<'_>) -> bool;
}

impl Reads for HttpCodec {
    fn note(found: &mut Vec<Plain>, request: ServerRequest<'_>) -> bool {
        found.push(Plain::of(&request));
        true
    }
}

impl Reads for HttpStreamCodec {
    fn note(found: &mut Vec<Plain>, part: RequestPart<'_>) -> bool {
        match part {
            RequestPart::Head(request) => found.push(Plain::of(&request)),
            RequestPart::Body(bytes) => {
                assert!(!bytes.is_empty());
                found
                    .last_mut()
                    .expect("has begun")
                    .body
                    .extend_from_slice(bytes);
            }
            RequestPart::End(trailers) => {
                found.last_mut().expect("has begun").trailers = fields(trailers);
                return true;
            }
            _ => {}
        }
        false
    }
}

/// Comes behind everything, since the flaws of a head may be told only at its end.
const TAIL: &[u8] = b"\r\n\r\n\r\n\r\n";

/// Feeds a codec pieces as a connection does, and answers each request once it is complete.
fn feed<C: Reads>(pieces: &[&[u8]]) -> Outcome {
    let mut codec = C::default();
    let (mut kept, mut need, mut found) = (Vec::new(), 1, Vec::new());
    for piece in pieces.iter().chain([&TAIL]) {
        kept.extend_from_slice(piece);
        while !kept.is_empty() && kept.len() >= need {
            need = 1;
            let len = kept.len();
            let (consumed, is_complete) = match codec.decode(&mut kept) {
                Ok(Decoded::Frame { frame, consumed }) => (consumed, C::note(&mut found, frame)),
                Ok(Decoded::Skip { consumed }) => {
                    assert!(consumed > 0);
                    (consumed, false)
                }
                Ok(Decoded::NeedMore { at_least }) => {
                    assert!(
                        at_least > len,
                        "{at_least} bytes asked for, with {len} there"
                    );
                    need = at_least;
                    continue;
                }
                // After an answer that closes.
                Ok(Decoded::Hold) => return (found, None),
                Err(error) => return (found, Some(status(&error))),
            };
            assert!(consumed <= len);
            if is_complete {
                encode_to_vec(&mut codec, ServerResponse::ok()).expect("is taken");
            }
            kept.drain(..consumed);
        }
    }
    (found, None)
}

fn status(error: &FrameError) -> StatusCode {
    MessageError::of(error).expect("is of the message").status()
}

/// Only what is complete can be compared between the two codecs.
fn complete<C: Reads>(mut outcome: Outcome, whole: &Outcome) -> Outcome {
    outcome.0.truncate(whole.0.len());
    outcome
}

/// Both codecs find the same in all of these pieces.
pub(crate) fn check(input: &[u8], cuts: impl Iterator<Item = usize>) -> Outcome {
    let whole = feed::<HttpCodec>(&[input]);
    let bytes: Vec<&[u8]> = input.chunks(1).collect();
    assert_eq!(feed::<HttpCodec>(&bytes), whole, "byte by byte");
    let parts = feed::<HttpStreamCodec>(&[input]);
    assert_eq!(
        complete::<HttpStreamCodec>(parts, &whole),
        whole,
        "in parts"
    );
    let parts = feed::<HttpStreamCodec>(&bytes);
    assert_eq!(
        complete::<HttpStreamCodec>(parts, &whole),
        whole,
        "in parts, byte by byte"
    );
    for cut in cuts {
        let (first, second) = input.split_at(cut);
        assert_eq!(feed::<HttpCodec>(&[first, second]), whole, "cut at {cut}");
        let parts = feed::<HttpStreamCodec>(&[first, second]);
        assert_eq!(
            complete::<HttpStreamCodec>(parts, &whole),
            whole,
            "in parts, cut at {cut}"
        );
    }
    whole
}

#[test]
fn every_case_is_read_the_same_wherever_it_is_split() {
    for case in cases() {
        let len = case.request.len();
        let step = (len / 20).max(1);
        let cuts = (0..len).filter(move |cut| len < 512 || *cut < 60 || cut.is_multiple_of(step));
        check(&case.request, cuts);
    }
}

const TOKEN: &str = "[!#$%&'*+.^_`|~0-9A-Za-z-]{1,12}";

/// A header that says nothing about the message, or its connection.
fn header() -> impl Strategy<Value = (String, Vec<u8>)> {
    let value = "([!-~\u{80}-\u{ff}]([!-~ \t\u{80}-\u{ff}]{0,20}[!-~\u{80}-\u{ff}])?)?";
    let value = value.prop_map(|text: String| text.chars().map(|char| char as u8).collect());
    ("X-[!#$%&'*+.^_`|~0-9A-Za-z-]{1,12}", value)
}

#[derive(Clone, Debug)]
enum Body {
    None,
    Sized(Vec<u8>),
    Chunks(Vec<(Vec<u8>, String)>, Fields),
}

fn body() -> impl Strategy<Value = Body> {
    let bytes = || vec(any::<u8>(), 0..300);
    let extension = "(;[a-z]{1,5}(=([a-z]{1,5}|\"[a-z ]{0,5}\"))?)?";
    let chunks = vec((vec(any::<u8>(), 1..100), extension), 0..5);
    prop_oneof![
        Just(Body::None),
        bytes().prop_map(Body::Sized),
        (chunks, vec(header(), 0..3)).prop_map(|(chunks, trailers)| Body::Chunks(chunks, trailers)),
    ]
}

fn request() -> impl Strategy<Value = (Vec<u8>, Plain)> {
    let target = "/[!-~&&[^ #]]{0,20}";
    let method = TOKEN.prop_filter("is of another form", |method| method != "CONNECT");
    let blank = "[ \t]{0,3}";
    (
        method,
        target,
        vec((header(), blank, blank), 0..6),
        body(),
        any::<bool>(),
    )
        .prop_map(|(method, target, headers, body, empty_line)| {
            let mut wire = if empty_line {
                b"\r\n".to_vec()
            } else {
                Vec::new()
            };
            wire.extend(format!("{method} {target} HTTP/1.1\r\nHost: a\r\n").bytes());
            let mut plain = Plain {
                method,
                target,
                headers: vec![("Host".to_owned(), b"a".to_vec())],
                ..Plain::default()
            };
            for ((name, value), before, behind) in headers {
                line(
                    &mut wire,
                    &name,
                    &[before.as_bytes(), &value, behind.as_bytes()].concat(),
                );
                plain.headers.push((name, value));
            }
            let mut also = |wire: &mut Vec<u8>, name: &str, value: String| {
                line(wire, name, value.as_bytes());
                plain.headers.push((name.to_owned(), value.into_bytes()));
            };
            match body {
                Body::None => wire.extend(b"\r\n"),
                Body::Sized(bytes) => {
                    also(&mut wire, "Content-Length", bytes.len().to_string());
                    wire.extend(b"\r\n");
                    wire.extend(&bytes);
                    plain.body = bytes;
                }
                Body::Chunks(chunks, trailers) => {
                    also(&mut wire, "Transfer-Encoding", "chunked".to_owned());
                    wire.extend(b"\r\n");
                    for (bytes, extension) in chunks {
                        wire.extend(format!("{:X}{extension}\r\n", bytes.len()).bytes());
                        wire.extend(&bytes);
                        wire.extend(b"\r\n");
                        plain.body.extend(bytes);
                    }
                    wire.extend(b"0\r\n");
                    for (name, value) in trailers {
                        line(&mut wire, &name, &value);
                        plain.trailers.push((name, value));
                    }
                    wire.extend(b"\r\n");
                }
            }
            (wire, plain)
        })
}

fn line(wire: &mut Vec<u8>, name: &str, value: &[u8]) {
    for part in [name.as_bytes(), b":", value, b"\r\n"] {
        wire.extend_from_slice(part);
    }
}

/// An answer and what comes of it.
#[derive(Clone, Debug)]
struct Given {
    status: u16,
    headers: Fields,
    body: Vec<u8>,
    form: Form,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Copied,
    Shared,
    Sized,
    Streamed,
}

fn given() -> impl Strategy<Value = Given> {
    let status = prop_oneof![Just(200), Just(204), Just(304), 200..600_u16];
    let body = prop_oneof![vec(any::<u8>(), 0..200), vec(any::<u8>(), 4000..10_000)];
    let form = prop_oneof![
        Just(Form::Copied),
        Just(Form::Shared),
        Just(Form::Sized),
        Just(Form::Streamed)
    ];
    (status, vec(header(), 0..6), body, form).prop_map(|(status, headers, mut body, form)| {
        if matches!(status, 204 | 304) {
            body.clear();
        }
        // Nothing is announced of what has no body.
        let form = if body.is_empty() { Form::Copied } else { form };
        Given {
            status,
            headers,
            body,
            form,
        }
    })
}

/// Writes it in answer to a request with that method.
fn write(codec: &mut HttpCodec, method: &str, given: &Given) -> Vec<u8> {
    let mut request = format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n").into_bytes();
    codec.decode(&mut request).expect("is a request");
    let status = StatusCode::from_u16(given.status).expect("is a status");
    let mut answer = ServerResponse::new(status);
    for (name, value) in &given.headers {
        answer = answer.header(name, value);
    }
    let answer = match given.form {
        Form::Copied => answer.body(&given.body),
        Form::Shared => answer.shared_body(given.body.clone()),
        Form::Sized => answer.sized(given.body.len() as u64),
        Form::Streamed => answer.streamed(),
    };
    let mut wire = encode_to_vec(codec, answer).expect("is taken");
    if matches!(given.form, Form::Sized | Form::Streamed) {
        for part in given.body.chunks(777) {
            wire.extend(encode_to_vec(codec, Chunk(part)).expect("is taken"));
        }
        if given.form == Form::Streamed {
            wire.extend(encode_to_vec(codec, End).expect("is taken"));
        }
    }
    wire
}

fn compare(given: &Given, method: &str, answer: &Answer) {
    assert_eq!(answer.status, given.status);
    let ours = answer
        .headers
        .iter()
        .filter(|(name, _)| name.starts_with("X-"));
    let latin = |value: &[u8]| value.iter().copied().map(char::from).collect::<String>();
    let expected: Vec<_> = given
        .headers
        .iter()
        .map(|(name, value)| (name.clone(), latin(value)))
        .collect();
    assert_eq!(ours.cloned().collect::<Vec<_>>(), expected);
    let body: &[u8] = if method == "HEAD" { b"" } else { &given.body };
    assert!(answer.body == body);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(40) })]

    #[test]
    fn requests_are_read_as_they_were_made_wherever_they_are_split(
        requests in vec(request(), 1..4),
        cuts in vec(any::<prop::sample::Index>(), 8),
    ) {
        let (wire, plain): (Vec<_>, Vec<_>) = requests.into_iter().unzip();
        let wire = wire.concat();
        let cuts = cuts.iter().map(|cut| cut.index(wire.len()));
        prop_assert_eq!(check(&wire, cuts), (plain, None));
    }

    #[test]
    fn requests_with_a_flaw_are_read_the_same_wherever_they_are_split(
        (mut wire, _) in request(),
        at in any::<prop::sample::Index>(),
        flaw in prop_oneof![Just(b'\r'), Just(b'\n'), Just(0), Just(b' '), Just(b':'), any::<u8>()],
        cuts in vec(any::<prop::sample::Index>(), 8),
    ) {
        let at = at.index(wire.len());
        wire[at] = flaw;
        let cuts = cuts.iter().map(|cut| cut.index(wire.len()));
        check(&wire, cuts);
    }

    #[test]
    fn whatever_arrives_is_read_the_same_wherever_it_is_split(
        noise in vec(any::<u8>(), 0..200),
        cuts in vec(any::<prop::sample::Index>(), 8),
    ) {
        if !noise.is_empty() {
            let cuts = cuts.iter().map(|cut| cut.index(noise.len()));
            check(&noise, cuts);
        }
    }

    #[test]
    fn whatever_is_written_can_be_read(
        given in vec((given(), prop_oneof![Just("GET"), Just("HEAD"), Just("POST")]), 1..5),
    ) {
        let mut codec = HttpCodec::default();
        let mut wire = Vec::new();
        for (given, method) in &given {
            wire.extend(write(&mut codec, method, given));
        }
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut response = httparse::Response::new(&mut headers);
        prop_assert!(response.parse(&wire).expect("is an answer").is_complete());
        prop_assert_eq!(response.code, Some(given[0].0.status));
        let mut answers = Answers::new(&wire[..]);
        for (given, method) in &given {
            compare(given, method, &answers.next(method).expect("an answer"));
        }
        answers.expect_end();
        let asked: Vec<_> = given.iter().map(|(_, method)| (*method, false)).collect();
        let (found, error) = responses::feed(&asked, &[&wire]);
        prop_assert!(!error && found.len() == given.len());
        for ((given, method), kept) in given.iter().zip(&found) {
            prop_assert_eq!(kept.status, given.status);
            let body: &[u8] = if *method == "HEAD" { b"" } else { &given.body };
            prop_assert!(kept.body == body);
            let ours = kept.headers.iter().filter(|(name, _)| name.starts_with("X-"));
            let trimmed = |(name, value): &(String, Vec<u8>)| (name.clone(), value.trim_ascii().to_vec());
            prop_assert_eq!(ours.cloned().collect::<Vec<_>>(), given.headers.iter().map(trimmed).collect::<Vec<_>>());
        }
    }

    #[test]
    fn whatever_a_client_sends_a_server_reads(
        asked in vec((TOKEN, "/[!-~&&[^ #]]{0,20}", vec(header(), 0..4), vec(any::<u8>(), 0..6000), 0..4_u8), 1..4),
    ) {
        let mut client = ClientCodec::default();
        let (mut wire, mut expected) = (Vec::new(), Vec::new());
        for (method, target, headers, body, form) in asked {
            let method = if method == "CONNECT" { "GET".to_owned() } else { method };
            let mut request = client::ClientRequest::new(&method, "example.org:80", &target);
            for (name, value) in &headers {
                request = request.header(name, value);
            }
            let request = match form {
                0 => request.body(&body),
                1 => request.shared_body(body.clone()),
                2 => request.sized(body.len() as u64),
                _ => request.streamed(),
            };
            wire.extend(encode_to_vec(&mut client, request).expect("is taken"));
            if form >= 2 && !body.is_empty() {
                for part in body.chunks(999) {
                    wire.extend(encode_to_vec(&mut client, Chunk(part)).expect("is taken"));
                }
            }
            if form >= 3 {
                wire.extend(encode_to_vec(&mut client, End).expect("is taken"));
            }
            expected.push((method, target, headers, body));
        }
        let (found, error) = feed::<HttpCodec>(&[&wire]);
        prop_assert_eq!(error, None);
        let found = found.into_iter().map(|request| {
            let mut headers = request.headers;
            headers.retain(|(name, _)| name.starts_with("X-"));
            (request.method, request.target, headers, request.body)
        });
        prop_assert_eq!(found.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_response_with_a_flaw_is_read_the_same_wherever_it_is_split(
        given in given(),
        at in any::<prop::sample::Index>(),
        flaw in prop_oneof![Just(b'\r'), Just(b'\n'), Just(0), Just(b' '), Just(b':'), any::<u8>()],
        cuts in vec(any::<prop::sample::Index>(), 8),
    ) {
        let mut wire = write(&mut HttpCodec::default(), "GET", &given);
        let at = at.index(wire.len().min(400));
        wire[at] = flaw;
        let whole = responses::feed(&[("GET", false)], &[&wire]);
        let bytes: Vec<&[u8]> = wire.chunks(1).collect();
        prop_assert_eq!(&responses::feed(&[("GET", false)], &bytes), &whole);
        for cut in cuts {
            let (first, second) = wire.split_at(cut.index(wire.len()));
            prop_assert_eq!(&responses::feed(&[("GET", false)], &[first, second]), &whole);
        }
    }

    #[test]
    fn no_header_gets_more_onto_the_wire_than_itself(name in any::<String>(), value in vec(any::<u8>(), 0..40)) {
        let mut codec = HttpCodec::default();
        codec.decode(&mut b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()).expect("is a request");
        let plain = write(&mut HttpCodec::default(), "GET", &Given { status: 200, headers: Vec::new(), body: Vec::new(), form: Form::Copied });
        if let Ok(wire) = encode_to_vec(&mut codec, ServerResponse::ok().header(&name, &value)) {
            prop_assert_eq!(wire.len(), plain.len() + name.len() + value.len() + 4);
            let answer = Answers::new(&wire[..]).get();
            let trimmed: String = value.trim_ascii().iter().copied().map(char::from).collect();
            prop_assert_eq!(answer.header(&name).map(str::trim_ascii), Some(&*trimmed));
        }
    }
}
