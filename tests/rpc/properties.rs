//! Properties: any message that is sent is received unchanged.

use std::borrow::Cow;

use epicycle::codec::Decoded;
use epicycle::rpc::wire::{
    Codec, Dialect, Filter, FilterError, FilterPipe, Filters, Kind, Limits, Message, Meta,
};
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::Value;

use crate::wire::{Form, check_cuts, decode};

proptest! {
    #[test]
    fn any_message_survives_every_protocol_and_dialect(messages in vec(message(), 1..4), step in 1usize..40) {
        for form in Form::all() {
            let (mut wire, mut sizes) = (Vec::new(), Vec::new());
            for message in &messages {
                let bytes = form.encode(message).expect("can be sent");
                sizes.push(bytes.len());
                wire.extend(bytes);
            }
            let mut rest = &wire[..];
            let mut protocol = form.protocol();
            for (message, size) in messages.iter().zip(sizes) {
                if form.is_stream() {
                    check_cuts(form, &rest[..size], step);
                }
                // A WebSocket's message ends by itself.
                let input = if form.is_stream() { rest } else { &rest[..size] };
                let decoded = protocol.decode(input, &Limits::default(), &Filters::standard());
                let Ok(Decoded::Frame { frame, consumed }) = decoded else {
                    panic!("{form:?}: {decoded:?} of {message:?}");
                };
                prop_assert_eq!(consumed, size, "{:?}", form);
                prop_assert_eq!(frame.size, size, "{:?}", form);
                let mut expected = message.clone();
                expected.size = size;
                prop_assert_eq!(&frame, &expected, "{:?}", form);
                prop_assert_eq!(protocol.dialect(), form.dialect(), "{:?}", form);
                rest = &rest[size..];
            }
        }
    }

    #[test]
    fn protobuf_is_what_prost_makes_of_it(message in utf8_message(), unknown in vec(any::<u8>(), 0..9)) {
        for form in [Form::Pb(Dialect::V4_1), Form::WsPb(Dialect::V4_1)] {
            let encoded = form.encode(&message).expect("can be sent");
            let pb = if form.is_stream() { &encoded[5..] } else { &encoded[..] };
            let payload = <Payload as prost::Message>::decode(pb).expect("is protobuf");
            prop_assert_eq!(&payload, &Payload::of(&message));
            prop_assert_eq!(prost::Message::encode_to_vec(&payload), pb);
            // A later version's fields are skipped.
            let later = Later { payload: None, number: 7, fixed64: 1, fixed32: 2, bytes: unknown.clone() };
            let mut pb = prost::Message::encode_to_vec(&later);
            pb.extend(prost::Message::encode_to_vec(&payload));
            if form.is_stream() {
                let size = u32::try_from(pb.len() + 1).unwrap().to_be_bytes();
                pb.splice(..0, size.into_iter().chain([0]));
            }
            let (mut again, _) = decode(form, &pb).expect("is a message");
            again.size = 0;
            prop_assert_eq!(&again, &message);
        }
    }

    #[test]
    fn what_is_sent_as_json_is_json(message in utf8_message()) {
        for form in [Form::Json(Dialect::V4_1), Form::WsJson(Dialect::V4_0)] {
            let encoded = form.encode(&message).expect("can be sent");
            let json = if form.is_stream() { &encoded[5..] } else { &encoded[..] };
            let json: Value = serde_json::from_slice(json).expect("is JSON");
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            prop_assert_eq!(&json["seq"], &text(&message.seq));
            prop_assert_eq!(&json["uri"], &text(&message.uri));
            prop_assert_eq!(&json["meta"], &text(message.meta.encoded()));
            prop_assert_eq!(&json["body"], &text(&message.body));
            prop_assert_eq!(&json["body_codec"], message.codec.0);
            let key = if form.is_stream() { "mtype" } else { "ptype" };
            prop_assert_eq!(&json[key], message.kind as u8);
        }
    }

    /// Teleport escapes a body's quotes, and nothing else.
    #[test]
    fn a_body_that_teleport_did_not_escape_is_read_as_it_was_meant(
        body in vec(body_byte(), 0..40), ids in vec(Just(b'm'), 0..2), websocket: bool,
    ) {
        let mut escaped = Vec::new();
        let pipe = FilterPipe::from_ids(if websocket { &ids[..] } else { &[] });
        let packed = pipe.pack(Cow::Borrowed(&body), &Filters::standard()).unwrap();
        for byte in packed.iter() {
            if *byte == b'"' {
                escaped.push(b'\\');
            }
            escaped.push(*byte);
        }
        let head = br#"{"seq":"0","mtype":1,"uri":"/a?\",\"body\":\"","meta":"a=b","body_codec":106,"body":""#;
        let mut json = head.to_vec();
        json.extend_from_slice(&escaped);
        if websocket {
            let ids: Vec<_> = pipe.ids().iter().map(u8::to_string).collect();
            json.extend_from_slice(format!("\",\"xfer_pipe\":[{}]}}", ids.join(",")).as_bytes());
        } else {
            json.extend_from_slice(b"\"}");
        }
        // Where it happens to be JSON, it is read as JSON.
        let string = [b"\"", &escaped[..], b"\""].concat();
        let is_json = serde_json::from_slice::<Bytes>(&string);
        let expected = match &is_json {
            Ok(Bytes(string)) => pipe.unpack(Cow::Borrowed(string), &Filters::standard(), 1 << 20),
            Err(_) => Ok(Cow::Borrowed(&body[..])),
        };
        let form = if websocket { Form::WsJson(Dialect::V4_1) } else { Form::Json(Dialect::V4_1) };
        if !websocket {
            let size = u32::try_from(json.len() + 1).unwrap().to_be_bytes();
            json.splice(..0, size.into_iter().chain([0]));
        }
        match (decode(form, &json), expected) {
            (Ok((message, _)), Ok(expected)) => {
                prop_assert_eq!(&message.body, &expected);
                prop_assert_eq!(&message.uri[..], &br#"/a?","body":""#[..]);
            }
            (Err(_), Err(_)) => {}
            (decoded, expected) => panic!("{decoded:?}, and not {expected:?}"),
        }
    }
}

/// A filter of the application's: it turns all bits around, and adds a byte.
struct Inverted;

impl Filter for Inverted {
    fn id(&self) -> u8 {
        b'~'
    }

    fn name(&self) -> &str {
        "inverted"
    }

    fn pack(&self, bytes: Cow<'_, [u8]>) -> Result<Vec<u8>, FilterError> {
        Ok(bytes.iter().map(|byte| !byte).chain([b'.']).collect())
    }

    fn unpack<'a>(&self, bytes: Cow<'a, [u8]>, max: usize) -> Result<Cow<'a, [u8]>, FilterError> {
        match bytes.split_last() {
            Some((b'.', rest)) if rest.len() <= max => Ok(rest.iter().map(|byte| !byte).collect()),
            _ => Err(FilterError::Corrupt {
                what: "it is not inverted",
            }),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn any_message_survives_any_filters_also_those_of_the_application(
        message in message(), ids in filter_ids(),
    ) {
        let mut filters = Filters::standard();
        filters.register(Inverted).expect("is no duplicate");
        let mut limits = Limits::default();
        limits.filters = 255;
        for form in Form::all() {
            let mut message = message.clone();
            message.filters = FilterPipe::from_ids(&ids);
            let mut bytes = Vec::new();
            let sent = form.sender().encode(&message, &filters, &mut bytes);
            sent.expect("can be sent");
            let mut protocol = form.protocol();
            let decoded = protocol.decode(&bytes, &limits, &filters);
            let Ok(Decoded::Frame { frame, consumed }) = decoded else {
                panic!("{form:?}: {decoded:?} of {message:?}");
            };
            prop_assert_eq!(consumed, bytes.len(), "{:?}", form);
            message.size = consumed;
            prop_assert_eq!(&frame, &message, "{:?}", form);
        }
    }
}

/// A few of all filters, or as many as there can be of a cheap one.
fn filter_ids() -> impl Strategy<Value = Vec<u8>> {
    let all = prop::sample::select(b"gm~".to_vec());
    prop_oneof![vec(all, 0..=10), vec(Just(b'~'), 0..=255)]
}

#[test]
fn what_a_live_teleport_client_sends_with_backslashes_is_read() {
    // A JSON string in the body with a quote in it, a path of Windows, and a digest that ends with a backslash.
    for (text, body) in [
        (&br#"\"say \\"hi\\"\""#[..], &br#""say \"hi\"""#[..]),
        (br"C:\dir\x", br"C:\dir\x"),
        (b"ends with \\", b"ends with \\"),
        (b"\\\"", b"\""),
        (b"line\nbreak", b"line\nbreak"),
    ] {
        let json = [
            br#"{"seq":"1","ptype":3,"uri":"/x","meta":"","body_codec":115,"body":""#,
            text,
            br#"","xfer_pipe":[]}"#,
        ];
        let json = json.concat();
        let (message, _) = decode(Form::WsJson(Dialect::V4_0), &json).expect("is read");
        assert_eq!(message.body, body, "{}", String::from_utf8_lossy(text));
    }
}

#[test]
fn the_json_of_a_message_may_have_its_keys_in_any_order_and_others_too() {
    let json = br#" { "body" : "x", "more": {"a": [1]}, "body_codec": 115, "mtype": 2, "seq": "\u0041" } "#;
    let (message, _) = decode(Form::WsJson(Dialect::V4_1), json).expect("is read");
    assert_eq!(
        (message.kind, &message.seq[..], &message.body[..]),
        (Kind::Reply, &b"A"[..], &b"x"[..])
    );
    assert!(message.uri.is_empty() && message.meta.is_empty());
}

#[test]
fn a_message_shows_itself_as_indented_json() {
    let mut message = Message::call("/a");
    message.seq = b"7"[..].into();
    message.codec = Codec::JSON;
    message.body = b"[1]"[..].into();
    message.filters = FilterPipe::from_ids(b"g");
    let shown = message.to_string();
    let json: Value = serde_json::from_str(&shown).expect("is JSON");
    assert_eq!(json["body"][0], 1);
    assert_eq!(json["xfer_pipe"][0], 103);
    assert!(
        shown.starts_with("{\n  \"seq\": \"7\",\n  \"mtype\": 1,\n  \"uri\": \"/a\","),
        "{shown}"
    );
}

/// A JSON string that need not be UTF-8.
#[derive(serde::Deserialize)]
struct Bytes(#[serde(deserialize_with = "string_bytes")] Vec<u8>);

fn string_bytes<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    struct Visitor;
    impl serde::de::Visitor<'_> for Visitor {
        type Value = Vec<u8>;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a string")
        }
        fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
            Ok(bytes.to_vec())
        }
    }
    deserializer.deserialize_bytes(Visitor)
}

#[derive(Clone, PartialEq, prost::Message)]
struct Payload {
    #[prost(string, tag = "1")]
    seq: String,
    #[prost(int32, tag = "2")]
    mtype: i32,
    #[prost(string, tag = "3")]
    uri: String,
    #[prost(bytes, tag = "4")]
    meta: Vec<u8>,
    #[prost(int32, tag = "5")]
    body_codec: i32,
    #[prost(bytes, tag = "6")]
    body: Vec<u8>,
}

impl Payload {
    fn of(message: &Message<'_>) -> Self {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("is UTF-8");
        Self {
            seq: text(&message.seq),
            mtype: message.kind as i32,
            uri: text(&message.uri),
            meta: message.meta.encoded().to_vec(),
            body_codec: message.codec.0.into(),
            body: message.body.to_vec(),
        }
    }
}

/// Fields that this version does not have.
#[derive(Clone, PartialEq, prost::Message)]
struct Later {
    #[prost(message, optional, tag = "20")]
    payload: Option<Payload>,
    #[prost(uint64, tag = "21")]
    number: u64,
    #[prost(fixed64, tag = "22")]
    fixed64: u64,
    #[prost(fixed32, tag = "23")]
    fixed32: u32,
    #[prost(bytes, tag = "300")]
    bytes: Vec<u8>,
}

fn kind() -> impl Strategy<Value = Kind> {
    prop::sample::select(vec![Kind::Call, Kind::Reply, Kind::Push])
}

fn byte() -> impl Strategy<Value = u8> {
    let odd = prop::sample::select(b"\"\\\0\n\r\t\x1f \xff,:{}[]".to_vec());
    prop_oneof![odd, any::<u8>()]
}

fn body_byte() -> impl Strategy<Value = u8> {
    prop::sample::select(b"\"\\\\nu00a1 ,:{}[]\xff\n".to_vec())
}

fn meta() -> impl Strategy<Value = Meta<'static>> {
    vec((vec(byte(), 0..5), vec(byte(), 0..9)), 0..4).prop_map(|pairs| {
        let mut meta = Meta::default();
        for (key, value) in pairs {
            meta.add(key, value);
        }
        meta
    })
}

fn build(
    kind: Kind,
    seq: Vec<u8>,
    uri: Vec<u8>,
    meta: Meta<'static>,
    codec: u8,
    body: Vec<u8>,
) -> Message<'static> {
    let mut message = Message::new(kind);
    message.seq = seq.into();
    message.uri = uri.into();
    message.meta = meta;
    message.codec = Codec(codec);
    message.body = body.into();
    message
}

/// Any message; its seq is short enough for a listener to find out its dialect.
fn message() -> impl Strategy<Value = Message<'static>> {
    let ids = vec(prop::sample::select(b"gm".to_vec()), 0..=8);
    let body = prop_oneof![vec(byte(), 0..60), vec(Just(b'a'), 0..2000)];
    let parts = (
        kind(),
        vec(byte(), 0..255),
        vec(byte(), 0..300),
        meta(),
        any::<u8>(),
        body,
    );
    (parts, ids).prop_map(|((kind, seq, uri, meta, codec, body), ids)| {
        let mut message = build(kind, seq, uri, meta, codec, body);
        let mut pipe = FilterPipe::default();
        pipe.append(&ids, &Filters::standard()).expect("are known");
        message.filters = pipe;
        message
    })
}

/// A message without filters, all of whose parts are text.
fn utf8_message() -> impl Strategy<Value = Message<'static>> {
    let text = || "[a-zé中\"\\\\\n\u{1}]{0,20}".prop_map(String::into_bytes);
    (kind(), text(), text(), meta(), any::<u8>(), text())
        .prop_map(|(kind, seq, uri, meta, codec, body)| build(kind, seq, uri, meta, codec, body))
}
