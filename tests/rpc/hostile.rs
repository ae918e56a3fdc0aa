//! Invalid input from a peer.

use epicycle::codec::{Decoded, FrameError};
use epicycle::rpc::wire::{
    Dialect, FilterPipe, Filters, Kind, Limits, Message, Status, WireError, code,
};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::wire::{Form, decode, decode_within};

fn feed(form: Form, bytes: &[u8]) -> Result<Option<usize>, WireError> {
    let mut protocol = form.protocol();
    match protocol.decode(bytes, &Limits::default(), &Filters::standard())? {
        Decoded::Frame { .. } => Ok(None),
        Decoded::NeedMore { at_least } => Ok(Some(at_least)),
        other => panic!("{form:?}: {other:?}"),
    }
}

#[test]
fn sizes_that_no_message_has_are_refused_at_once() {
    for form in Form::all().filter(|form| form.is_stream()) {
        let min = match form {
            Form::Raw(_) | Form::RawDetected(_) => 6,
            _ => 1,
        };
        for size in 0..min {
            let error = feed(form, &u32::to_be_bytes(size)).unwrap_err();
            assert!(
                matches!(error, WireError::TooShort { .. }),
                "{form:?}: {error}"
            );
        }
    }
}

#[test]
fn a_hostile_size_is_refused_before_anything_is_asked_for() {
    for form in Form::all().filter(|form| form.is_stream()) {
        let largest = match form {
            Form::Raw(_) | Form::RawDetected(_) => 16 << 20,
            _ => (16 << 20) - 4,
        };
        assert_eq!(
            feed(form, &u32::to_be_bytes(largest)).unwrap(),
            Some(16 << 20)
        );
        for size in [largest + 1, 1 << 31, u32::MAX] {
            let error = feed(form, &u32::to_be_bytes(size)).unwrap_err();
            assert!(
                matches!(
                    error,
                    WireError::TooLong {
                        max: 0x100_0000,
                        ..
                    }
                ),
                "{error}"
            );
            assert!(matches!(
                error.into(),
                FrameError::TooLong {
                    max: 0x100_0000,
                    ..
                }
            ));
        }
    }
}

#[test]
fn a_websocket_message_over_the_limit_is_refused() {
    let mut limits = Limits::default();
    limits.message = 10;
    for form in [Form::WsJson(Dialect::V4_1), Form::WsPb(Dialect::V4_1)] {
        let error = decode_within(form, &[b' '; 11], &limits).unwrap_err();
        assert!(matches!(error, WireError::TooLong { size: 11, max: 10 }));
    }
}

#[test]
fn what_is_wrong_with_a_header_shows_before_the_message_is_complete() {
    let raw = Form::Raw(Dialect::V4_1);
    let error = feed(raw, b"\0\0\0\x20s").unwrap_err();
    assert!(matches!(
        error,
        WireError::Version {
            found: b's',
            expected: b'r'
        }
    ));
    let error = feed(raw, b"\0\0\0\x20r\x09").unwrap_err();
    assert!(matches!(
        error,
        WireError::TooManyFilters { count: 9, max: 8 }
    ));
    let error = feed(raw, b"\0\0\0\x07r\x02").unwrap_err();
    assert!(matches!(
        error,
        WireError::Truncated {
            field: "filters",
            len: 2,
            left: 1
        }
    ));
    let error = feed(Form::Json(Dialect::V4_1), b"\0\0\0\x20\x09").unwrap_err();
    assert!(matches!(
        error,
        WireError::TooManyFilters { count: 9, max: 8 }
    ));
}

#[test]
fn more_filters_can_be_allowed_up_to_what_a_byte_says() {
    let mut limits = Limits::default();
    limits.filters = 255;
    for form in Form::all() {
        let mut message = Message::call("/x");
        let ids = vec![b'm'; 255];
        message.filters = FilterPipe::from_ids(&ids);
        let bytes = form.encode(&message).expect("can be sent");
        let (decoded, _) = decode_within(form, &bytes, &limits).expect("is a message");
        assert_eq!(decoded.filters.len(), 255);
        let error = decode(form, &bytes).unwrap_err();
        assert!(matches!(
            error,
            WireError::TooManyFilters { count: 255, max: 8 }
        ));
        let ids = vec![b'm'; 256];
        message.filters = FilterPipe::from_ids(&ids);
        let error = form.encode(&message).unwrap_err();
        assert!(matches!(
            error,
            WireError::TooManyFilters {
                count: 256,
                max: 255
            }
        ));
    }
}

#[test]
fn lengths_that_lead_beyond_the_message_are_refused() {
    let cases: [(&[u8], &str); 8] = [
        (b"", "seq"),
        (b"\0", "seq"),
        (b"\0\x02x", "seq"),
        (b"\0\0", "type"),
        (b"\0\0\x01\xff\xff", "URI"),
        (b"\0\0\x01\0\0\0", "metadata"),
        (b"\0\0\x01\0\0\0\x01", "metadata"),
        (b"\0\0\x01\0\0\0\0", "codec"),
    ];
    for (payload, expected) in cases {
        let size = 6 + payload.len() as u32;
        let bytes = [&size.to_be_bytes(), &b"r\0"[..], payload].concat();
        match decode(Form::Raw(Dialect::V4_1), &bytes) {
            Err(WireError::Truncated { field, .. }) => assert_eq!(field, expected),
            other => panic!("{payload:02x?}: {other:?}"),
        }
    }
    // The largest length of the other dialect.
    let bytes = b"\0\0\0\x0br\0\xff\xff\xff\xff\x01";
    let error = decode(Form::Raw(Dialect::V4_0), bytes).unwrap_err();
    assert!(matches!(
        error,
        WireError::Truncated {
            len: 0xffff_ffff,
            left: 1,
            ..
        }
    ));
}

#[test]
fn json_and_protobuf_that_are_none_are_refused_with_a_reason() {
    let json: [&[u8]; 12] = [
        b"",
        b"{",
        b"[]",
        b"{}",
        br#"{"mtype":1,"seq":2}"#,
        br#"{"mtype":1,"body_codec":256}"#,
        br#"{"mtype":1,"body_codec":-1}"#,
        br#"{"mtype":1,"mtype":1}"#,
        br#"{"mtype":1,"xfer_pipe":[256]}"#,
        br#"{"mtype":1,"xfer_pipe":["g"]}"#,
        br#"{"mtype":1,"body":"\x"}"#,
        br#"{"mtype":1,"seq":"\x","body":"\x","xfer_pipe":[]}"#,
    ];
    for json in json {
        let error = decode(Form::WsJson(Dialect::V4_1), json).unwrap_err();
        let text = String::from_utf8_lossy(json);
        assert!(
            matches!(
                error,
                WireError::Malformed {
                    protocol: "JSON",
                    ..
                }
            ),
            "{text}: {error}"
        );
    }
    for number in ["0", "4", "-1", "258"] {
        let json = format!("{{\"mtype\":{number}}}");
        let error = decode(Form::WsJson(Dialect::V4_1), json.as_bytes()).unwrap_err();
        assert!(matches!(error, WireError::UnknownKind { .. }), "{error}");
    }
    // A wrong wire type, a group, no field, an unending varint, a codec that is no byte.
    let pb: [&[u8]; 5] = [
        b"\x08\x01",
        b"\xa3\x01",
        b"\x02\x01",
        &[0xff; 11],
        b"\x10\x01\x28\x80\x02",
    ];
    for pb in pb {
        let error = decode(Form::WsPb(Dialect::V4_1), pb).unwrap_err();
        let is_malformed = matches!(
            error,
            WireError::Malformed {
                protocol: "protobuf",
                ..
            }
        );
        assert!(is_malformed, "{pb:02x?}: {error}");
    }
    // Empty, 4, and -1 in ten bytes.
    let minus_one = [&[0x10][..], &[0xff; 9], &[1]].concat();
    for (pb, number) in [(&b""[..], 0), (b"\x10\x04", 4), (&minus_one, -1)] {
        let error = decode(Form::WsPb(Dialect::V4_1), pb).unwrap_err();
        assert!(
            matches!(error, WireError::UnknownKind { kind } if kind == number),
            "{error}"
        );
    }
    let error = decode(Form::WsPb(Dialect::V4_1), b"\x10\x01\x32\x05abc").unwrap_err();
    assert!(matches!(
        error,
        WireError::Truncated {
            len: 5,
            left: 3,
            ..
        }
    ));
}

#[test]
fn what_fits_no_length_field_is_refused_before_a_byte_is_written() {
    let long = vec![b'x'; 65_536];
    for field in ["seq", "URI", "metadata"] {
        let mut message = Message::new(Kind::Call);
        match field {
            "seq" => message.seq = (&long[..]).into(),
            "URI" => message.uri = (&long[..]).into(),
            // With its key, one byte more than fits.
            _ => message.meta.add("", &long[1..]),
        }
        for form in Form::all() {
            let mut out = b"before".to_vec();
            let sent = form
                .sender()
                .encode(&message, &Filters::standard(), &mut out);
            let is_short = matches!(
                form,
                Form::Raw(Dialect::V4_1) | Form::RawDetected(Dialect::V4_1)
            );
            if is_short {
                let error = sent.unwrap_err();
                let WireError::FieldTooLong {
                    field: named,
                    len,
                    max,
                } = error
                else {
                    panic!("{error}");
                };
                assert_eq!((named, len, max), (field, 65_536, 65_535));
                assert_eq!(out, b"before");
            } else {
                sent.expect("fits");
            }
        }
    }
}

#[test]
fn a_long_reason_is_shortened_until_it_fits() {
    let form = Form::Raw(Dialect::V4_1);
    let max = form.sender().max_field();
    let mut reply = Message::new(Kind::Reply);
    reply.meta.add("K", "v");
    let reason = "\"é".repeat(50_000);
    reply.set_status(
        &Status::of(code::INTERNAL_SERVER_ERROR, Dialect::V4_1).with_reason(reason),
        max,
    );
    assert!(reply.meta.encoded().len() > max - 30);
    let bytes = form.encode(&reply).expect("fits");
    let (reply, _) = decode(form, &bytes).expect("is a message");
    let status = reply.status().expect("is one of failure");
    assert_eq!(status.message, "Internal Server Error");
    assert!(status.reason.ends_with('…'));
    assert_eq!(reply.meta.get_str("K").unwrap(), "v");
}

#[test]
fn a_gzip_bomb_is_refused_while_it_inflates() {
    // A thousand times as much as it is, and packed eight times over.
    let zeros = vec![0; 32 << 20];
    let filters = Filters::standard();
    for ids in [&b"g"[..], b"gg", b"gggggggg"] {
        let pipe = FilterPipe::from_ids(ids);
        let bomb = pipe
            .pack((&zeros[..]).into(), &filters)
            .expect("can be packed");
        assert!(bomb.len() < 64 << 10);
        let size = (6 + ids.len() + bomb.len()) as u32;
        let bytes = [
            &size.to_be_bytes(),
            &[b'r', ids.len() as u8][..],
            ids,
            &bomb,
        ]
        .concat();
        let error = decode(Form::Raw(Dialect::V4_1), &bytes).unwrap_err();
        assert!(
            matches!(error, WireError::Filter { id: b'g', .. }),
            "{error}"
        );
        assert!(
            error.to_string().contains("more than 16777216 bytes"),
            "{error}"
        );
        let error = pipe.unpack(bomb, &filters, 1 << 20).unwrap_err();
        assert!(
            error.to_string().contains("more than 1048576 bytes"),
            "{error}"
        );
    }
}

proptest! {
    #[test]
    fn garbage_is_a_message_an_error_or_a_wish_for_more(input in garbage()) {
        for form in Form::all() {
            let mut protocol = form.protocol();
            match protocol.decode(&input, &Limits::default(), &Filters::standard()) {
                Ok(Decoded::Frame { consumed, frame }) => {
                    prop_assert!(consumed > 0 && consumed <= input.len());
                    prop_assert_eq!(frame.size, consumed);
                }
                Ok(Decoded::NeedMore { at_least }) => {
                    prop_assert!(at_least > input.len() && at_least <= 16 << 20);
                    prop_assert!(form.is_stream());
                }
                Ok(other) => panic!("{other:?}"),
                Err(error) => prop_assert!(!error.to_string().is_empty()),
            }
        }
    }

    /// One byte of a good message is another one.
    #[test]
    fn a_damaged_message_harms_nobody(at: prop::sample::Index, byte: u8, filtered: bool) {
        let mut message = Message::call("/math/add?a=b");
        message.seq = b"0"[..].into();
        message.meta.add("K", "v");
        message.body = b"[1,2,3]"[..].into();
        message.filters = FilterPipe::from_ids(if filtered { &b"gm"[..] } else { b"" });
        for form in Form::all() {
            let mut bytes = form.encode(&message).expect("can be sent");
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let mut protocol = form.protocol();
            let _ = protocol.decode(&bytes, &Limits::default(), &Filters::standard());
        }
    }
}

/// Bytes that often begin like a message.
fn garbage() -> impl Strategy<Value = Vec<u8>> {
    let small = vec(prop_oneof![Just(0u8), 0..16u8, any::<u8>()], 0..40);
    let framed = |head: &'static [u8]| {
        vec(prop_oneof![Just(0u8), 0..8u8, any::<u8>()], 0..60).prop_map(move |rest| {
            let size = (4 + head.len() + rest.len()) as u32;
            [&size.to_be_bytes(), head, &rest].concat()
        })
    };
    prop_oneof![
        small,
        framed(b"r\0"),
        framed(b"r\x01m"),
        framed(b"r\x01g\x1f\x8b\x08\0\0\0\0\0\0\xff"),
        framed(b"\0")
    ]
}
