//! Vectors: the recorded bytes of Teleport v4.0.0 and v4.1.

use epicycle::codec::Decoded;
use epicycle::rpc::wire::{
    Codec, Codecs, Dialect, Filters, Kind, Limits, Message, Meta, Protocol, RawProtocol, Status,
    WireError, code,
};

use crate::recordings::{Recorded, recorded};
use crate::wire::{Form, check_cuts, decode, decode_within};

/// What one side sent at once.
struct Row {
    name: String,
    scenario: String,
    form: Form,
    bytes: Vec<u8>,
}

/// All rows that have messages; none where the recordings are not at hand.
fn rows() -> Vec<Row> {
    let recorded = recorded();
    let is_here = !recorded.is_empty();
    let rows: Vec<_> = recorded.into_iter().filter_map(row).collect();
    assert!(!is_here || rows.len() == 469, "{} rows", rows.len());
    rows
}

fn row(recorded: Recorded) -> Option<Row> {
    let Recorded {
        version,
        protocol,
        scenario,
        index,
        side,
        bytes,
    } = recorded;
    let dialect = match &*version {
        "v400" => Dialect::V4_0,
        "b2c0579" => Dialect::V4_1,
        // Another protocol.
        _ => return None,
    };
    let in_websocket = scenario.starts_with("ws_");
    // A handshake, a close, or the end of the stream.
    let is_silent = bytes.is_empty() || in_websocket && bytes[0] != 0x82;
    if is_silent {
        return None;
    }
    let form = match &*protocol {
        "json" => Form::Json(dialect),
        "pb" => Form::Pb(dialect),
        _ if scenario.starts_with("ws_json") => Form::WsJson(dialect),
        _ if scenario.starts_with("ws_pb") => Form::WsPb(dialect),
        _ => Form::Raw(dialect),
    };
    Some(Row {
        name: format!("{version} {protocol} {scenario} {index} {side}"),
        scenario,
        form,
        bytes: if in_websocket {
            unframed(&bytes)
        } else {
            bytes
        },
    })
}

/// The payload of the one WebSocket frame that these bytes are.
fn unframed(frame: &[u8]) -> Vec<u8> {
    let (len, mut rest) = match frame[1] & 0x7f {
        126 => (u16::from_be_bytes([frame[2], frame[3]]).into(), &frame[4..]),
        len => (usize::from(len), &frame[2..]),
    };
    let mut mask = [0; 4];
    if frame[1] & 0x80 != 0 {
        mask.copy_from_slice(&rest[..4]);
        rest = &rest[4..];
    }
    assert_eq!(rest.len(), len);
    let masked = rest.iter().zip(mask.iter().cycle());
    masked.map(|(byte, mask)| byte ^ mask).collect()
}

/// Rows on which Teleport ended the connection too.
fn is_refused(scenario: &str, error: &WireError) -> Option<bool> {
    Some(match scenario {
        "edge_mtype_0" => matches!(error, WireError::UnknownKind { kind: 0 }),
        "edge_mtype_4" => matches!(error, WireError::UnknownKind { kind: 4 }),
        "edge_wrong_version" => matches!(error, WireError::Version { .. }),
        "edge_unknown_filter" => matches!(error, WireError::UnknownFilter { id: b'z' }),
        "edge_md5_wrong" => matches!(error, WireError::Filter { id: b'm', .. }),
        "edge_gzip_wrong" => matches!(error, WireError::Filter { id: b'g', .. }),
        "edge_size_0" => matches!(error, WireError::TooShort { size: 0, .. }),
        "edge_size_5" => matches!(error, WireError::TooShort { size: 5, .. }),
        _ => return None,
    })
}

/// Calls `check` with each message and its bytes.
fn each_message(mut check: impl FnMut(&Row, &Message<'_>, &[u8])) -> usize {
    let mut seen = 0;
    for row in rows() {
        let mut rest = &row.bytes[..];
        while !rest.is_empty() {
            match decode(row.form, rest) {
                Ok((message, consumed)) => {
                    let expected = is_refused(&row.scenario, &WireError::UnknownKind { kind: -1 });
                    assert_eq!(expected, None, "{} is taken", row.name);
                    assert_eq!(message.size, consumed);
                    check(&row, &message, &rest[..consumed]);
                    rest = &rest[consumed..];
                    seen += 1;
                }
                Err(error) => {
                    let expected = is_refused(&row.scenario, &error);
                    assert_eq!(expected, Some(true), "{}: {error}", row.name);
                    break;
                }
            }
        }
    }
    seen
}

#[test]
fn every_recorded_message_is_decoded_whole_and_at_every_cut() {
    let seen = each_message(|row, _, bytes| {
        if row.form.is_stream() {
            check_cuts(row.form, bytes, 1);
        }
    });
    assert!(seen == 0 || seen == 455, "{seen} messages");
}

#[test]
fn every_recorded_message_is_encoded_to_the_same_bytes() {
    each_message(|row, message, bytes| {
        let encoded = row.form.encode(message).expect("can be sent");
        let (again, consumed) = decode(row.form, &encoded).expect("is a message");
        assert_eq!(consumed, encoded.len(), "{}", row.name);
        let mut again = again.into_owned();
        again.size = message.size;
        assert_eq!(again, *message, "{}", row.name);
        // Compressors differ, and Teleport's JSON is none when there is a backslash in a body.
        let may_differ =
            message.filters.ids().contains(&b'g') || row.scenario == "ws_json_gzip_fails";
        if !may_differ {
            assert_eq!(encoded, bytes, "{}", row.name);
        }
    });
}

#[test]
fn a_listener_finds_out_the_dialect_of_every_recorded_message() {
    each_message(|row, message, bytes| {
        let Form::Raw(dialect) = row.form else {
            return;
        };
        let mut protocol = RawProtocol::detect();
        let decoded = protocol.decode(bytes, &Limits::default(), &Filters::standard());
        let Ok(Decoded::Frame { frame, .. }) = decoded else {
            panic!("{}: {decoded:?}", row.name);
        };
        assert_eq!(frame, *message, "{}", row.name);
        assert_eq!(protocol.dialect(), dialect, "{}", row.name);
    });
}

#[test]
fn the_recorded_metadata_is_read_and_written_as_teleport_does() {
    each_message(|row, message, _| {
        let mut written = Meta::default();
        written.add_all(&message.meta);
        // This one is odd on purpose.
        if row.scenario == "edge_meta_odd" && message.kind == Kind::Call {
            assert_eq!(written.encoded(), b"K1=a%20b%20c%25zz&=v&k&K1=2");
        } else {
            assert_eq!(written.encoded(), message.meta.encoded(), "{}", row.name);
        }
    });
}

#[test]
fn the_recorded_errors_are_statuses_that_are_written_alike() {
    let mut codes = Vec::new();
    each_message(|row, message, _| {
        let Some(status) = message.status() else {
            return;
        };
        codes.push(status.code);
        let mut meta = Meta::default();
        status.write(&mut meta, usize::MAX);
        assert_eq!(meta.encoded(), message.meta.encoded(), "{}", row.name);
        if status.code < 1000
            && !matches!(
                row.scenario.as_str(),
                "binder_range" | "auth_bad" | "auth_bad_token"
            )
        {
            let text = code::text(status.code, row.form.dialect());
            assert_eq!(status.message, text, "{}", row.name);
        }
    });
    codes.sort_unstable();
    codes.dedup();
    assert!(codes.is_empty() || codes == [400, 401, 403, 404, 500, 1234]);
}

#[test]
fn the_recorded_uris_are_routed_as_teleport_did() {
    let refused = ["edge_empty_uri", "edge_uri_query_only", "edge_bad_percent"];
    let elsewhere = [
        ("edge_trailing_slash", "/echo/text/"),
        ("edge_no_leading_slash", "echo/text"),
        ("edge_double_slash", "/text"),
        ("case_differs_404", "/MATH/Add"),
    ];
    each_message(|row, message, _| {
        if message.kind == Kind::Reply {
            return;
        }
        let scenario = row.scenario.as_str();
        let uri = message.parse_uri();
        assert_eq!(uri.is_err(), refused.contains(&scenario), "{}", row.name);
        let Ok(uri) = uri else {
            return;
        };
        if let Some((_, path)) = elsewhere.iter().find(|(name, _)| *name == scenario) {
            assert_eq!(uri.path(), *path);
        } else if ["edge_absolute_uri", "edge_percent_path", "edge_fragment"].contains(&scenario) {
            assert_eq!(uri.path(), "/echo/text");
        }
    });
}

#[test]
fn recorded_filters_are_undone() {
    let mut filtered = 0;
    each_message(|row, message, _| {
        if row.scenario.starts_with("xfer_") {
            filtered += 1;
            let body: &[u8] = match message.kind {
                Kind::Call => b"[1,2]",
                _ => b"3",
            };
            assert_eq!(message.body, body, "{}", row.name);
            assert_eq!(message.codec, Codec::JSON);
            assert!(!message.filters.is_empty());
        }
    });
    assert!(filtered == 0 || filtered == 36, "{filtered}");
}

#[test]
fn recorded_bodies_that_the_issue_names_are_read() {
    let codecs = Codecs::standard();
    each_message(|row, message, _| {
        match (row.scenario.as_str(), message.kind) {
            ("call_reply_json", Kind::Call) => {
                assert_eq!(
                    message.unmarshal::<Vec<i64>>(&codecs).unwrap(),
                    [1, 2, 3, 4, 5]
                );
                let uri = message.parse_uri().unwrap();
                assert_eq!(uri.args().get_str("author").unwrap(), "henrylee2cn");
            }
            ("plain", _) => assert_eq!(message.unmarshal::<String>(&codecs).unwrap(), "hello"),
            ("edge_json_null" | "edge_empty_body" | "edge_codec_0_no_body", Kind::Call) => {
                assert_eq!(message.unmarshal::<Option<String>>(&codecs).unwrap(), None);
                message.unmarshal::<()>(&codecs).unwrap();
                // Teleport takes its zero value, which hides that there was none.
                message.unmarshal::<String>(&codecs).unwrap_err();
            }
            ("edge_unknown_codec", Kind::Call) => {
                let error = message.unmarshal::<String>(&codecs).unwrap_err();
                assert_eq!(error.to_string(), "unsupported codec id: 122");
            }
            ("edge_unknown_codec", _) => {
                let status = message.status().unwrap();
                let expected = Status::of(code::BAD_MESSAGE, row.form.dialect());
                assert_eq!(status, expected.with_reason("unsupported codec id: 122"));
            }
            ("edge_codec_0_with_body", Kind::Call) => {
                message.unmarshal::<String>(&codecs).unwrap_err();
            }
            ("edge_accept_codec_plain", Kind::Call) => {
                assert_eq!(codecs.for_reply(message, None, Codec::FORM), Codec::PLAIN);
            }
            ("edge_accept_codec_unknown" | "edge_accept_codec_garbage", Kind::Call) => {
                assert_eq!(codecs.for_reply(message, None, Codec::FORM), Codec::JSON);
            }
            _ => {}
        }
    });
}

#[test]
fn a_recorded_message_over_the_limit_is_refused_by_its_size_alone() {
    for row in rows() {
        if row.scenario == "edge_over_read_limit_20" {
            let mut limits = Limits::default();
            limits.message = 20;
            let error = decode_within(row.form, &row.bytes[..4], &limits).unwrap_err();
            assert!(matches!(error, WireError::TooLong { size: 28, max: 20 }));
        }
    }
}
