//! Messages that are written anew are those that were read, without what must not go on.

use proptest::prelude::*;

use super::request::{announce_trailers, gather, gather_trailers, nominated, target};
use super::settings::Underscores;
use crate::codec::{Codec, Decoded, encode_to_vec};
use crate::http::client::{ClientRequest, ResponsePart, StreamCodec};
use crate::http::{
    Chunk, End, HeaderBlock, Headers, HttpStreamCodec, RequestPart, ServerResponse, Trailers,
};

/// Names and values.
type Fields = Vec<(String, Vec<u8>)>;

/// A message as a recipient reads it.
#[derive(Debug, Default, PartialEq)]
struct Message {
    /// Method and target, or status and reason phrase.
    line: String,
    fields: Fields,
    body: Vec<u8>,
    content_length: Option<u64>,
    trailers: Fields,
    /// The interim responses before it.
    interim: Vec<(String, Fields)>,
    is_complete: bool,
}

fn listed(headers: Headers<'_>) -> Fields {
    let pairs = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
    pairs.collect()
}

/// Returns the values of a field, as the members of one list, in lower case.
fn members(fields: &Fields, name: &str) -> Vec<String> {
    let values = fields
        .iter()
        .filter(|(other, _)| other.eq_ignore_ascii_case(name));
    let members = values.flat_map(|(_, value)| {
        let value = String::from_utf8_lossy(value).to_ascii_lowercase();
        let members = value.split(',').map(|member| member.trim().to_owned());
        members.collect::<Vec<_>>()
    });
    members.collect()
}

/// Returns the fields without those between two neighbours: RFC 9110, section 7.6.1, and those that became known since.
fn without_hop_by_hop(fields: &Fields, options: &[String]) -> Fields {
    const HOP_BY_HOP: [&str; 10] = [
        "connection",
        "http2-settings",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    let goes_on = |name: &str| {
        let name = name.to_ascii_lowercase();
        !HOP_BY_HOP.contains(&&*name) && !options.contains(&name)
    };
    let kept = fields.iter().filter(|(name, _)| goes_on(name));
    kept.cloned().collect()
}

fn without(fields: Fields, names: &[&str]) -> Fields {
    let is_named = |name: &str| names.iter().any(|other| other.eq_ignore_ascii_case(name));
    let kept = fields.into_iter().filter(|(name, _)| !is_named(name));
    kept.collect()
}

fn with_names(fields: &Fields, name: &str) -> Fields {
    let named = fields
        .iter()
        .filter(|(other, _)| other.eq_ignore_ascii_case(name));
    named.cloned().collect()
}

/// Returns the trailers that go on. The head has these connection options.
fn expected_trailers(trailers: &Fields, options: &[String]) -> Fields {
    let kept = without_hop_by_hop(trailers, options);
    let kept = kept
        .into_iter()
        .filter(|(name, _)| !name.contains('_'))
        .collect();
    // Those that a recipient must know before it reads the body (RFC 9110, section 6.5.1).
    let early = [
        "Host",
        "Content-Length",
        "Content-Type",
        "Expires",
        "Set-Cookie",
        "X-Forwarded-For",
    ];
    without(kept, &early)
}

/// Feeds a codec. Returns `None` if it refuses the input, or if some of it is left.
fn feed<C: Codec>(codec: &mut C, input: &[u8], mut take: impl FnMut(C::Frame<'_>)) -> Option<()> {
    let mut input = input.to_vec();
    let mut from = 0;
    while from < input.len() {
        from += match codec.decode(&mut input[from..]).ok()? {
            Decoded::Frame { frame, consumed } => {
                take(frame);
                consumed
            }
            Decoded::Skip { consumed } => consumed,
            Decoded::NeedMore { .. } | Decoded::Hold => return None,
        };
    }
    Some(())
}

fn read_request(input: &[u8]) -> Option<Message> {
    let mut message = Message::default();
    feed(&mut HttpStreamCodec::default(), input, |part| match part {
        RequestPart::Head(request) => {
            message.line = format!("{} {}", request.method(), request.target());
            message.fields = listed(request.headers());
            message.content_length = request.content_length();
        }
        RequestPart::Body(bytes) => message.body.extend_from_slice(bytes),
        RequestPart::End(trailers) => {
            message.trailers = listed(trailers);
            message.is_complete = true;
        }
    })?;
    message.is_complete.then_some(message)
}

/// Returns what a node gets.
fn pass_request(input: &[u8]) -> Option<Vec<u8>> {
    let (mut client, mut written) = (StreamCodec::default(), Vec::new());
    let (mut block, mut options) = (HeaderBlock::new(), Vec::new());
    let mut is_chunked = false;
    feed(&mut HttpStreamCodec::default(), input, |part| {
        let bytes = match part {
            RequestPart::Head(request) => {
                options = nominated(request.headers());
                gather(&request, Underscores::Drop, true, &mut block).expect("it is sound");
                let target = target(&request, request.target());
                let anew = ClientRequest::new(request.method(), "a.test", target).block(&block);
                is_chunked = request.has_body() && request.content_length().is_none();
                let anew = match request.content_length() {
                    Some(len) => anew.sized(len),
                    None if is_chunked => anew.streamed(),
                    None => anew,
                };
                encode_to_vec(&mut client, anew)
            }
            RequestPart::Body(bytes) => encode_to_vec(&mut client, Chunk(bytes)),
            RequestPart::End(trailers) if is_chunked => {
                gather_trailers(trailers, &options, &mut block);
                encode_to_vec(&mut client, Trailers(&block))
            }
            RequestPart::End(_) => return,
        };
        written.extend(bytes.expect("what was read can be written"));
    })?;
    Some(written)
}

/// Returns a codec that awaits the response to a request.
fn asking(method: &str) -> StreamCodec {
    let mut codec = StreamCodec::default();
    encode_to_vec(&mut codec, ClientRequest::new(method, "a.test", "/")).expect("it is sound");
    codec
}

fn read_response(method: &str, input: &[u8]) -> Option<Message> {
    let mut message = Message::default();
    let mut codec = asking(method);
    let mut take = |part: ResponsePart<'_>| match part {
        ResponsePart::Interim(response) => {
            let line = format!("{} {:?}", response.status(), response.reason());
            message.interim.push((line, listed(response.headers())));
        }
        ResponsePart::Head(response) => {
            message.line = format!("{} {:?}", response.status(), response.reason());
            message.fields = listed(response.headers());
            message.content_length = response.content_length();
        }
        ResponsePart::Body(bytes) => message.body.extend_from_slice(bytes),
        ResponsePart::End(trailers) => {
            message.trailers = listed(trailers);
            message.is_complete = true;
        }
        other => panic!("{other:?}"),
    };
    feed(&mut codec, input, &mut take)?;
    if let Ok(Decoded::Frame { frame, .. }) = codec.decode_eof(&mut []) {
        take(frame);
    }
    message.is_complete.then_some(message)
}

/// Returns what a client gets.
fn pass_response(method: &str, input: &[u8]) -> Option<Vec<u8>> {
    let mut server = HttpStreamCodec::default();
    let request = format!("{method} / HTTP/1.1\r\nHost: a.test\r\n\r\n");
    feed(&mut server, request.as_bytes(), |_| {}).expect("it is sound");
    let (mut block, mut options, mut written) = (HeaderBlock::new(), Vec::new(), Vec::new());
    let mut take = |part: ResponsePart<'_>| {
        let bytes = match part {
            ResponsePart::Interim(response) => {
                block.fill_from_response(&response);
                encode_to_vec(
                    &mut server,
                    ServerResponse::relayed(&response).block(&block),
                )
            }
            ResponsePart::Head(response) => {
                options = nominated(response.headers());
                block.fill_from_response(&response);
                if response.has_body() && response.content_length().is_none() {
                    announce_trailers(response.headers(), &mut block).expect("they are sound");
                }
                encode_to_vec(
                    &mut server,
                    ServerResponse::relayed(&response).block(&block),
                )
            }
            ResponsePart::Body(bytes) => encode_to_vec(&mut server, Chunk(bytes)),
            ResponsePart::End(trailers) => {
                gather_trailers(trailers, &options, &mut block);
                match block.is_empty() {
                    true => encode_to_vec(&mut server, End),
                    false => encode_to_vec(&mut server, Trailers(&block)),
                }
            }
            other => panic!("{other:?}"),
        };
        written.extend(bytes.expect("what was read can be written"));
    };
    let mut client = asking(method);
    feed(&mut client, input, &mut take)?;
    if let Ok(Decoded::Frame { frame, .. }) = client.decode_eof(&mut []) {
        take(frame);
    }
    Some(written)
}

/// Fields of which some must not go on.
fn field() -> impl Strategy<Value = (String, String)> {
    let name = prop_oneof![
        4 => "[A-Za-z][A-Za-z0-9-]{0,12}",
        2 => "X-[A-C]",
        1 => "[Xx]_[a-z]{1,5}",
        4 => prop::sample::select(vec![
            "Connection", "CONNECTION", "Keep-Alive", "TE", "Proxy-Authorization", "Proxy-Authenticate",
            "Proxy-Connection", "HTTP2-Settings", "Upgrade", "Trailer", "Cookie", "Set-Cookie", "Date", "Via",
            "Authorization", "X-Forwarded-For", "Content-Type",
        ]).prop_map(str::to_owned),
    ];
    let value = prop_oneof![
        3 => "[ -~\u{e0}-\u{ff}\t]{0,20}",
        1 => "X-[A-C]",
        1 => "close, X-[A-C], Authorization, Content-Length",
        1 => "trailers",
        1 => "keep-alive, x-[a-c],, upgrade",
    ];
    (name, value.prop_map(|value| value.trim().to_owned()))
}

fn trailer() -> impl Strategy<Value = (String, String)> {
    let name = prop_oneof![
        "X-[A-C]",
        "X_[a-c]",
        "[A-Z][a-z]{1,8}",
        prop::sample::select(vec![
            "Expires",
            "Set-Cookie",
            "Content-Type",
            "X-Forwarded-For",
            "Connection",
            "Keep-Alive",
        ])
        .prop_map(str::to_owned),
    ];
    (
        name,
        "[a-z ,]{0,9}".prop_map(|value| value.trim().to_owned()),
    )
}

/// The framing of a body.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Framed {
    Absent,
    Sized,
    Chunked,
    UntilEnd,
}

/// Writes fields and what follows them.
fn message(
    line: &str,
    fields: &[(String, String)],
    framed: Framed,
    body: &[u8],
    trailers: &[(String, String)],
) -> Vec<u8> {
    let mut text = format!("{line}\r\n").into_bytes();
    let write = |text: &mut Vec<u8>, fields: &[(String, String)]| {
        for (name, value) in fields {
            text.extend(format!("{name}: ").bytes());
            // One byte for each character, as Latin-1 has them.
            text.extend(value.chars().map(|c| c as u8));
            text.extend_from_slice(b"\r\n");
        }
    };
    write(&mut text, fields);
    match framed {
        Framed::Absent => text.extend_from_slice(b"\r\n"),
        Framed::UntilEnd => {
            text.extend_from_slice(b"\r\n");
            text.extend_from_slice(body);
        }
        Framed::Sized => {
            text.extend(format!("Content-Length: {}\r\n\r\n", body.len()).bytes());
            text.extend_from_slice(body);
        }
        Framed::Chunked => {
            text.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
            for chunk in body.chunks(7) {
                text.extend(format!("{:x};x=1\r\n", chunk.len()).bytes());
                text.extend_from_slice(chunk);
                text.extend_from_slice(b"\r\n");
            }
            text.extend_from_slice(b"0\r\n");
            write(&mut text, trailers);
            text.extend_from_slice(b"\r\n");
        }
    }
    text
}

/// The fields that the codecs write themselves.
const OWN: [&str; 5] = [
    "Host",
    "Content-Length",
    "Transfer-Encoding",
    "Connection",
    "TE",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn a_request_that_is_written_anew_is_the_one_that_was_read_without_what_must_go(
        line in "(GET|PUT|POST|X-OWN|DELETE) /[!-\"$-~]{0,20}",
        fields in prop::collection::vec(field(), 0..12),
        framed in prop::sample::select(vec![Framed::Absent, Framed::Sized, Framed::Chunked]),
        body in prop::collection::vec(any::<u8>(), 0..40),
        trailers in prop::collection::vec(trailer(), 0..4),
    ) {
        let line = format!("{line} HTTP/1.1\r\nHost: a.test");
        let text = message(&line, &fields, framed, &body, &trailers);
        // A message that the parser refuses is not passed on.
        let Some(received) = read_request(&text) else {
            return Ok(());
        };
        let written = pass_request(&text).expect("it is sound");
        let anew = read_request(&written);
        prop_assert!(anew.is_some(), "{:?}", String::from_utf8_lossy(&written));
        let anew = anew.unwrap_or_default();
        let options = members(&received.fields, "connection");
        let mut expected = without(without_hop_by_hop(&received.fields, &options), &OWN);
        expected.retain(|(name, _)| !name.contains('_'));
        if framed == Framed::Chunked {
            expected.extend(with_names(&received.fields, "trailer"));
        }
        prop_assert_eq!(without(anew.fields, &OWN), expected);
        // Without a body, a PUT says so (RFC 9110, section 8.6).
        prop_assert_eq!(
            (anew.line, anew.body, anew.content_length.unwrap_or(0)),
            (received.line, received.body, received.content_length.unwrap_or(0))
        );
        prop_assert_eq!(anew.trailers, expected_trailers(&received.trailers, &options));
    }

    #[test]
    fn a_response_that_is_written_anew_is_the_one_that_was_read_without_what_must_go(
        method in prop::sample::select(vec!["GET", "HEAD"]),
        status in prop::sample::select(vec![200, 204, 205, 206, 304, 404, 500, 599]),
        version in prop::sample::select(vec!["1.0", "1.1"]),
        reason in "[ -~\u{e0}-\u{ff}]{0,10}",
        fields in prop::collection::vec(field(), 0..12),
        interim in prop::collection::vec((100..=199_u16, prop::collection::vec(field(), 0..4)), 0..3),
        framed in prop::sample::select(vec![Framed::Absent, Framed::Sized, Framed::Chunked, Framed::UntilEnd]),
        body in prop::collection::vec(any::<u8>(), 0..40),
        trailers in prop::collection::vec(trailer(), 0..4),
    ) {
        let is_bodiless = method == "HEAD" || matches!(status, 204 | 304);
        let mut text = Vec::new();
        for (status, fields) in interim {
            // A 101 is not asked for.
            let line = format!("HTTP/1.1 {} {reason}", if status == 101 { 103 } else { status });
            text.extend(message(&line, &fields, Framed::Absent, b"", &[]));
        }
        let whole = message(&format!("HTTP/{version} {status} {reason}"), &fields, framed, &body, &trailers);
        match is_bodiless {
            true => {
                let end = whole.windows(4).position(|bytes| bytes == b"\r\n\r\n").map_or(0, |at| at + 4);
                text.extend_from_slice(&whole[..end]);
            }
            false => text.extend(whole),
        }
        // The reason phrase is written in Latin-1 above, and in UTF-8 here.
        let Some(received) = read_response(method, &text) else {
            return Ok(());
        };
        let written = pass_response(method, &text).expect("it is sound");
        let anew = read_response(method, &written);
        prop_assert!(anew.is_some(), "{:?}", String::from_utf8_lossy(&written));
        let anew = anew.unwrap_or_default();
        let options = members(&received.fields, "connection");
        let mut expected = without(without_hop_by_hop(&received.fields, &options), &OWN);
        if anew.content_length.is_none() && !is_bodiless {
            expected.extend(with_names(&received.fields, "trailer"));
        }
        // The server's side adds a Date if there is none (RFC 9110, section 6.6.1).
        let mut fields = without(anew.fields, &OWN);
        if with_names(&expected, "date").is_empty() {
            fields = without(fields, &["Date"]);
        }
        prop_assert_eq!(fields, expected);
        // A 204 must have none (RFC 9110, section 8.6).
        let content_length = received.content_length.filter(|_| status != 204);
        prop_assert_eq!(
            (anew.line, anew.body, anew.content_length),
            (received.line, received.body, content_length)
        );
        prop_assert_eq!(anew.trailers, expected_trailers(&received.trailers, &options));
        let interim: Vec<_> = received.interim.into_iter().map(|(line, fields)| {
            let options = members(&fields, "connection");
            (line, without(without_hop_by_hop(&fields, &options), &OWN))
        }).collect();
        let passed: Vec<_> = anew.interim.into_iter().map(|(line, fields)| (line, without(fields, &OWN))).collect();
        prop_assert_eq!(passed, interim);
    }
}
