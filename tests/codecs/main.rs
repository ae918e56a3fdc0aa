//! The crate's codecs, driven as a connection drives them, without a socket.

mod feed;
#[cfg(feature = "kcp")]
mod kcp;
mod length_field;
mod properties;

use epicycle::Error;
use epicycle::codec::{Codec, Decoded, Delimited, Fixed, Lines};

use crate::feed::{Bytewise, END, OPEN, at_least, encoded, every_split, owned};

#[test]
fn lines_end_in_lf_or_crlf_and_may_be_empty() {
    let frames = every_split(&Lines::new(), b"one\ntwo\r\n\n\r\nth\rree\r\r\nrest", END);
    assert_eq!(
        frames,
        Ok(owned(&["one", "two", "", "", "th\rree\r", "rest"]))
    );
    assert_eq!(
        every_split(&Lines::new(), b"a\n\r", END),
        Ok(owned(&["a", "\r"]))
    );
    assert_eq!(every_split(&Lines::new(), b"a\n", END), Ok(owned(&["a"])));
}

#[test]
fn lines_are_held_to_the_maximum_without_their_end() {
    let lines = Lines::with_max(3);
    for fits in ["abc\n", "abc\r\n", "ab\r\n"] {
        let line = fits.trim_end();
        assert_eq!(
            every_split(&lines, fits.as_bytes(), OPEN),
            Ok(owned(&[line]))
        );
    }
    for long in ["abcd\n", "abcd\r\n", "abcd", "abc\rd", "ab\r\r\r\n"] {
        assert_eq!(
            every_split(&lines, long.as_bytes(), OPEN),
            Err((owned(&[]), "too long"))
        );
    }
    assert_eq!(every_split(&lines, b"abc\r", OPEN), Ok(owned(&[])));
    assert_eq!(
        every_split(&lines, b"abc\r", END),
        Err((owned(&[]), "too long"))
    );
    assert_eq!(every_split(&lines, b"abc", END), Ok(owned(&["abc"])));

    assert_eq!(encoded(&lines, "abc"), Ok(b"abc\n".to_vec()));
    assert_eq!(encoded(&lines, "abcd"), Err("too long"));
    assert_eq!(
        encoded(&Lines::new(), vec![b'x'; 64 << 10]).unwrap().len(),
        (64 << 10) + 1
    );
    assert_eq!(
        encoded(&Lines::new(), vec![b'x'; (64 << 10) + 1]),
        Err("too long")
    );
}

#[test]
fn lines_that_would_be_read_back_otherwise_are_not_sent() {
    assert_eq!(encoded(&Lines::new(), "a\nb"), Err("malformed"));
    assert_eq!(encoded(&Lines::new(), "a\r"), Err("malformed"));
    assert_eq!(encoded(&Lines::new().crlf(), "a\nb"), Err("malformed"));
    assert_eq!(
        encoded(&Lines::new().crlf(), "a\r"),
        Ok(b"a\r\r\n".to_vec())
    );
}

#[test]
fn a_long_line_that_arrives_byte_by_byte_is_scanned_once() {
    // Scanned from the start for each byte, this would look at 2^39 bytes.
    let mut input = vec![b'x'; 1 << 20];
    input.extend_from_slice(b"\nnext");
    check_one_long_frame(Lines::with_max(1 << 20), &mut input.clone(), 1);
    input.truncate(1 << 20);
    input.extend_from_slice(b"=-=-next");
    check_one_long_frame(Delimited::with_max("=-=-", 1 << 20).unwrap(), &mut input, 4);
}

fn check_one_long_frame(mut codec: impl Bytewise, input: &mut [u8], end: usize) {
    let whole = (1 << 20) + end;
    for len in 1..whole {
        let found = codec.decode(&mut input[..len]).map(at_least);
        assert!(matches!(found, Ok(Some(need)) if need == len + 1));
    }
    let found = codec.decode(&mut input[..whole]);
    let Ok(Decoded::Frame { frame, consumed }) = found else {
        panic!("{found:?}");
    };
    assert_eq!((frame.len(), consumed), (1 << 20, whole));
    let found = codec.decode(&mut input[whole..]).map(at_least);
    assert!(matches!(found, Ok(Some(5))));
}

#[test]
fn delimiters_split_frames_and_the_rest_is_none() {
    let frames = every_split(&delimited("--"), b"one--two------th-ree--rest", END);
    assert_eq!(frames, Ok(owned(&["one", "two", "", "", "th-ree"])));
    let frames = every_split(&delimited("aab"), b"aaabaabxaab", END);
    assert_eq!(frames, Ok(owned(&["a", "", "x"])));
    assert_eq!(
        every_split(&delimited("\0"), b"a\0\0b\0", END),
        Ok(owned(&["a", "", "b"]))
    );
    assert!(matches!(
        Delimited::new(""),
        Err(Error::Option {
            name: "delimiter",
            ..
        })
    ));
    assert!(matches!(
        Delimited::with_max("-", 1 << 30),
        Err(Error::Option { name: "max", .. })
    ));
}

#[test]
fn delimited_frames_are_held_to_the_maximum_without_the_delimiter() {
    let codec = Delimited::with_max("--", 3).unwrap();
    assert_eq!(every_split(&codec, b"abc--abc-", OPEN), Ok(owned(&["abc"])));
    for long in ["abc--abcd--", "abc--abcd-", "abc--abcdefghij"] {
        let split = every_split(&codec, long.as_bytes(), OPEN);
        assert_eq!(split, Err((owned(&["abc"]), "too long")));
    }
    assert_eq!(encoded(&codec, "abc"), Ok(b"abc--".to_vec()));
    assert_eq!(encoded(&codec, "abcd"), Err("too long"));
}

#[test]
fn items_that_would_end_before_their_delimiter_are_not_sent() {
    assert_eq!(encoded(&delimited("--"), "a--b"), Err("malformed"));
    assert_eq!(encoded(&delimited("--"), "a-"), Err("malformed"));
    assert_eq!(encoded(&delimited("\r\n\r\n"), "a\r\n"), Err("malformed"));
    assert_eq!(
        encoded(&delimited("\r\n\r\n"), "a\r"),
        Ok(b"a\r\r\n\r\n".to_vec())
    );
    assert_eq!(encoded(&delimited("abcab"), "xabc"), Err("malformed"));
    assert_eq!(
        encoded(&delimited("abcab"), "xab"),
        Ok(b"xababcab".to_vec())
    );
}

#[test]
fn fixed_frames_have_one_size() {
    let codec = Fixed::new(3).unwrap();
    assert_eq!(
        every_split(&codec, b"abcdefgh", END),
        Ok(owned(&["abc", "def"]))
    );
    assert_eq!(
        codec.clone().decode(&mut [0]).map(at_least).unwrap(),
        Some(3)
    );
    assert_eq!(encoded(&codec, "abc"), Ok(b"abc".to_vec()));
    assert_eq!(encoded(&codec, "ab"), Err("malformed"));
    assert_eq!(encoded(&codec, "abcd"), Err("malformed"));
    assert!(matches!(
        Fixed::new(0),
        Err(Error::Option { name: "size", .. })
    ));
    assert!(matches!(
        Fixed::new((1 << 30) + 1),
        Err(Error::Option { name: "size", .. })
    ));
}

fn delimited(delimiter: &str) -> Delimited {
    Delimited::new(delimiter).expect("it is not empty")
}
