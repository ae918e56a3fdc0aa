use epicycle::Error;
use epicycle::codec::{ByteOrder, Codec, FrameError, LengthField};

use crate::feed::{OPEN, at_least, encoded, every_split, owned};

// The seven examples in the documentation of netty's LengthFieldBasedFrameDecoder.

#[test]
fn netty_1_length_at_offset_0_header_kept() {
    let codec = LengthField::builder().length(2).strip(0).build();
    check_netty(
        codec,
        b"\x00\x0CHELLO, WORLD",
        b"\x00\x0CHELLO, WORLD",
        b"HELLO, WORLD",
    );
}

#[test]
fn netty_2_length_at_offset_0_header_stripped() {
    let codec = LengthField::builder().length(2).strip(2).build();
    check_netty(
        codec,
        b"\x00\x0CHELLO, WORLD",
        b"HELLO, WORLD",
        b"HELLO, WORLD",
    );
}

#[test]
fn netty_3_length_of_the_whole_message() {
    let codec = LengthField::builder()
        .length(2)
        .adjustment(-2)
        .strip(0)
        .build();
    let whole = b"\x00\x0EHELLO, WORLD";
    check_netty(codec, whole, whole, b"HELLO, WORLD");
    let codec = LengthField::builder()
        .length(2)
        .includes_length(true)
        .strip(0)
        .build();
    check_netty(codec, whole, whole, b"HELLO, WORLD");
}

#[test]
fn netty_4_three_byte_length_behind_a_header() {
    let codec = LengthField::builder().offset(2).length(3).strip(0).build();
    let whole = b"\xCA\xFE\x00\x00\x0CHELLO, WORLD";
    check_netty(codec, whole, whole, b"\xCA\xFEHELLO, WORLD");
}

#[test]
fn netty_5_three_byte_length_before_a_header() {
    let codec = LengthField::builder()
        .length(3)
        .adjustment(2)
        .strip(0)
        .build();
    let whole = b"\x00\x00\x0C\xCA\xFEHELLO, WORLD";
    check_netty(codec, whole, whole, b"\xCA\xFEHELLO, WORLD");
}

#[test]
fn netty_6_length_between_headers_first_header_and_length_stripped() {
    let codec = LengthField::builder()
        .offset(1)
        .length(2)
        .adjustment(1)
        .strip(3)
        .build();
    let whole = b"\xCA\x00\x0C\xFEHELLO, WORLD";
    check_netty(codec, whole, b"\xFEHELLO, WORLD", b"\xCA\xFEHELLO, WORLD");
}

#[test]
fn netty_7_length_of_the_whole_message_between_headers() {
    let whole = b"\xCA\x00\x10\xFEHELLO, WORLD";
    let codec = LengthField::builder()
        .offset(1)
        .length(2)
        .adjustment(-3)
        .strip(3)
        .build();
    check_netty(codec, whole, b"\xFEHELLO, WORLD", b"\xCA\xFEHELLO, WORLD");
}

fn check_netty(codec: Result<LengthField, Error>, wire: &[u8], frame: &[u8], item: &[u8]) {
    let codec = codec.expect("a description that is possible");
    let input = [wire, wire].concat();
    assert_eq!(
        every_split(&codec, &input, OPEN),
        Ok(vec![frame.to_vec(), frame.to_vec()])
    );
    assert_eq!(encoded(&codec, item), Ok(wire.to_vec()));
}

#[test]
fn a_length_field_may_be_little_endian_and_of_any_width() {
    let wires: [(usize, &[u8], &[u8]); 5] = [
        (1, b"\x02hi", b"\x02hi"),
        (2, b"\x00\x02hi", b"\x02\x00hi"),
        (3, b"\x00\x00\x02hi", b"\x02\x00\x00hi"),
        (4, b"\x00\x00\x00\x02hi", b"\x02\x00\x00\x00hi"),
        (8, b"\0\0\0\0\0\0\0\x02hi", b"\x02\0\0\0\0\0\0\0hi"),
    ];
    for (width, big, little) in wires {
        for (order, wire) in [(ByteOrder::Big, big), (ByteOrder::Little, little)] {
            let codec = LengthField::builder()
                .length(width)
                .byte_order(order)
                .build()
                .unwrap();
            assert_eq!(encoded(&codec, "hi"), Ok(wire.to_vec()));
            assert_eq!(every_split(&codec, wire, OPEN), Ok(owned(&["hi"])));
        }
    }
}

#[test]
fn max_frame_counts_the_whole_frame_and_is_checked_when_the_header_is_there() {
    let codec = LengthField::builder()
        .offset(1)
        .length(2)
        .max_frame(10)
        .build()
        .unwrap();
    let found = codec.clone().decode(&mut [b'x', 0, 7]).map(at_least);
    assert_eq!(found.unwrap(), Some(10));
    assert_eq!(
        every_split(&codec, b"x\0\x071234567", OPEN),
        Ok(owned(&["1234567"]))
    );
    assert_eq!(
        every_split(&codec, b"x\0\x08", OPEN),
        Err((owned(&[]), "too long"))
    );
    assert_eq!(encoded(&codec, "x1234567"), Ok(b"x\0\x071234567".to_vec()));
    assert_eq!(encoded(&codec, "x12345678"), Err("too long"));

    let codec = LengthField::default();
    let at = |len: u32| codec.clone().decode(&mut len.to_be_bytes()).map(at_least);
    assert_eq!(at(1 << 20).unwrap(), Some((1 << 20) + 4));
    let too_long = FrameError::TooLong {
        len: (1 << 20) + 5,
        max: (1 << 20) + 4,
    };
    assert_eq!(
        at((1 << 20) + 1).unwrap_err().to_string(),
        too_long.to_string()
    );
}

#[test]
fn lengths_that_make_no_frame_are_malformed() {
    let whole = LengthField::builder()
        .length(2)
        .adjustment(-2)
        .build()
        .unwrap();
    assert_eq!(
        every_split(&whole, b"\0\x01", OPEN),
        Err((owned(&[]), "malformed"))
    );
    assert_eq!(every_split(&whole, b"\0\x02", OPEN), Ok(owned(&[""])));
    let stripped = LengthField::builder().length(2).strip(4).build().unwrap();
    assert_eq!(
        every_split(&stripped, b"\0\x01", OPEN),
        Err((owned(&[]), "malformed"))
    );
    assert_eq!(every_split(&stripped, b"\0\x02xx", OPEN), Ok(owned(&[""])));
    for adjustment in [i64::MIN + 20, -9, 0, 1 << 20] {
        let wide = LengthField::builder()
            .length(8)
            .adjustment(adjustment)
            .build()
            .unwrap();
        assert_eq!(
            every_split(&wide, &[0xFF; 8], OPEN),
            Err((owned(&[]), "malformed"))
        );
    }
}

#[test]
fn items_whose_length_cannot_be_told_are_not_sent() {
    let byte = LengthField::builder().length(1).build().unwrap();
    assert_eq!(encoded(&byte, [0; 255]).map(|wire| wire.len()), Ok(256));
    assert_eq!(encoded(&byte, [0; 256]), Err("too long"));
    let with_itself = LengthField::builder()
        .length(1)
        .includes_length(true)
        .build()
        .unwrap();
    assert_eq!(
        encoded(&with_itself, [0; 254]).map(|wire| wire.len()),
        Ok(255)
    );
    assert_eq!(encoded(&with_itself, [0; 255]), Err("too long"));
    let uncounted = LengthField::builder().adjustment(2).build().unwrap();
    assert_eq!(encoded(&uncounted, "x"), Err("malformed"));
    let behind = LengthField::builder().offset(2).build().unwrap();
    assert_eq!(encoded(&behind, "x"), Err("malformed"));
    let stripped = LengthField::builder().strip(6).build().unwrap();
    assert_eq!(encoded(&stripped, "x"), Err("malformed"));
}

#[test]
fn impossible_length_fields_are_refused_with_the_options_name() {
    let new = LengthField::builder;
    for (builder, name, problem) in [
        (new().length(5), "length", "1, 2, 3, 4 and 8 are"),
        (new().length(0), "length", "1, 2, 3, 4 and 8 are"),
        (new().max_frame(3), "max_frame", "must be 4 or more"),
        (
            new().strip(9).max_frame(8),
            "max_frame",
            "must be 9 or more",
        ),
        (
            new().max_frame((1 << 30) + 1),
            "max_frame",
            "at most 1073741824",
        ),
        (new().offset(usize::MAX), "max_frame", "at most 1073741824"),
        (
            new().adjustment(-4).includes_length(true),
            "adjustment",
            "use one of them",
        ),
        (
            new().adjustment(i64::MAX),
            "adjustment",
            "none of them between 4 and",
        ),
        (
            new().adjustment(i64::MIN),
            "adjustment",
            "none of them between 4 and",
        ),
        (
            new().length(1).strip(300),
            "adjustment",
            "none of them between 300 and",
        ),
    ] {
        let error = builder.clone().build().unwrap_err();
        assert!(
            matches!(error, Error::Option { name: found, .. } if found == name),
            "{error}"
        );
        assert!(error.to_string().contains(problem), "{error}");
    }
}
