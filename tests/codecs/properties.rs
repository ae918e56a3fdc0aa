use epicycle::codec::{ByteOrder, Delimited, Encode, Fixed, LengthField, Lines, encode_to_vec};
use proptest::prelude::*;

use crate::feed::{Bytewise, END, OPEN, encoded, every_split};

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(items in items(), max in 0usize..12) {
        check_roundtrip(&Lines::with_max(max), &items, |item| item);
        check_roundtrip(&Lines::with_max(max).crlf(), &items, |item| item);
        for delimiter in DELIMITERS {
            let codec = Delimited::with_max(delimiter, max).unwrap();
            check_roundtrip(&codec, &items, |item| item);
        }
        check_roundtrip(&Fixed::new(max + 1).unwrap(), &items, |item| item);
        check_roundtrip(&LengthField::default(), &items, |item| item);
    }

    #[test]
    fn only_what_would_be_read_back_otherwise_is_refused(item in item(), max in 0usize..12) {
        check_refusal(&Lines::with_max(max), &item, "\n");
        check_refusal(&Lines::with_max(max).crlf(), &item, "\r\n");
        for delimiter in DELIMITERS {
            check_refusal(&Delimited::with_max(delimiter, max).unwrap(), &item, delimiter);
        }
        check_refusal(&Fixed::new(max + 1).unwrap(), &item, "");
    }

    #[test]
    fn what_any_length_field_encodes_is_decoded(
        (codec, offset, width, strip) in length_fields(),
        items in items(),
    ) {
        check_roundtrip(&codec, &items, |item| {
            let wire = encoded(&codec, &item).unwrap();
            assert_eq!([&wire[..offset], &wire[offset + width..]].concat(), item);
            wire[strip..].to_vec()
        });
    }

    #[test]
    fn garbage_is_frames_or_an_error(
        input in garbage(),
        (field, ..) in length_fields(),
        n in 0usize..9,
    ) {
        let _ = every_split(&Lines::with_max(n), &input, END);
        let _ = every_split(&Delimited::with_max("-\n-", n).unwrap(), &input, END);
        let _ = every_split(&Delimited::with_max("--", n).unwrap(), &input, END);
        let _ = every_split(&Fixed::new(n + 1).unwrap(), &input, END);
        let _ = every_split(&LengthField::default(), &input, END);
        let _ = every_split(&field, &input, END);
    }
}

/// Encodes those of `items` that can be, and decodes them: what comes out is as `frame` says.
fn check_roundtrip<C>(codec: &C, items: &[Vec<u8>], frame: impl Fn(Vec<u8>) -> Vec<u8>)
where
    C: Bytewise + for<'a> Encode<&'a Vec<u8>>,
{
    let (mut wire, mut frames) = (Vec::new(), Vec::new());
    for item in items {
        if let Ok(bytes) = encode_to_vec(&mut codec.clone(), item) {
            wire.extend_from_slice(&bytes);
            frames.push(frame(item.clone()));
        }
    }
    assert_eq!(every_split(codec, &wire, OPEN), Ok(frames));
}

/// Encodes `item` if, and only if, the decoder finds just that in the item with `end` behind it.
fn check_refusal<C>(codec: &C, item: &Vec<u8>, end: &str)
where
    C: Bytewise + for<'a> Encode<&'a Vec<u8>>,
{
    let wire = [item, end.as_bytes()].concat();
    if every_split(codec, &wire, OPEN) == Ok(vec![item.clone()]) {
        assert_eq!(encoded(codec, item), Ok(wire));
    } else {
        assert!(encoded(codec, item).is_err());
    }
}

/// Delimiters of one byte and of several, with and without a way to overlap.
const DELIMITERS: [&str; 6] = ["\n", "--", "-\n-", "\r\n", "\r\n\r\n", "a--a"];

fn items() -> impl Strategy<Value = Vec<Vec<u8>>> {
    proptest::collection::vec(item(), 0..5)
}

fn item() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(byte(), 0..12)
}

fn garbage() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(byte(), 0..40)
}

/// Mostly bytes that mean something to one of the codecs.
fn byte() -> impl Strategy<Value = u8> {
    prop_oneof![
        Just(b'\n'),
        Just(b'\r'),
        Just(b'-'),
        Just(b'a'),
        0u8..8,
        any::<u8>()
    ]
}

/// A codec with its offset, the width of its field, and how much it strips.
fn length_fields() -> impl Strategy<Value = (LengthField, usize, usize, usize)> {
    let widths = prop_oneof![Just(1), Just(2), Just(3), Just(4), Just(8)];
    let orders = prop_oneof![Just(ByteOrder::Big), Just(ByteOrder::Little)];
    let parts = (
        0usize..5,
        widths,
        -10i64..10,
        any::<bool>(),
        0usize..16,
        orders,
        16usize..300,
    );
    parts.prop_filter_map(
        "impossible",
        |(offset, width, adjustment, itself, strip, order, max)| {
            let builder = LengthField::builder()
                .offset(offset)
                .length(width)
                .adjustment(adjustment);
            let builder = builder
                .includes_length(itself)
                .strip(strip)
                .byte_order(order);
            Some((builder.max_frame(max).build().ok()?, offset, width, strip))
        },
    )
}
