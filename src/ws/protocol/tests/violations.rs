use super::*;

/// Feeds `bytes` byte by byte. The last byte, and no earlier one, must be refused with `code`.
#[track_caller]
fn fails_at_the_end(bytes: &[u8], code: u16) {
    let cuts: Vec<_> = (1..bytes.len()).collect();
    let mut codec = server();
    let (_, error) = feed(&mut codec, bytes, &cuts);
    let (said, reason) = goodbye(&mut codec, error.expect("is refused"));
    assert_eq!(said, code, "{reason}");
    let mut codec = server();
    let (_, error) = feed(
        &mut codec,
        &bytes[..bytes.len() - 1],
        &cuts[..cuts.len().saturating_sub(1)],
    );
    assert!(error.is_none(), "{error:?} came early");
}

#[test]
fn bits_and_opcodes_that_mean_nothing_are_refused_at_once() {
    for first in 0..=255_u8 {
        let reserved = first & 0x70 != 0;
        let opcode = first & 0x0F;
        let unknown = matches!(opcode, 3..=7 | 11..=15);
        let fragmented_control = opcode >= 8 && first & 0x80 == 0;
        // The bit of an extension is checked with the header: it is valid only if an extension is in use.
        if reserved && first & 0x30 == 0 && !unknown && !fragmented_control {
            fails_at_the_end(&raw(first, b"")[..6], 1002);
        } else if reserved || unknown || fragmented_control {
            fails_at_the_end(&[first], 1002);
        }
    }
}

#[test]
fn headers_that_break_the_rules_are_refused() {
    // No mask.
    fails_at_the_end(&[0x81, 0x05], 1002);
    // Long control frames.
    for opcode in [0x88, 0x89, 0x8A] {
        fails_at_the_end(&[opcode, 0xFE], 1002);
        fails_at_the_end(&[opcode, 0xFF], 1002);
    }
    // Lengths that are not in their shortest form, and one with its highest bit set.
    fails_at_the_end(&[0x82, 0xFE, 0, 125, 0, 0, 0, 0], 1002);
    fails_at_the_end(
        &[0x82, 0xFF, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0, 0, 0, 0],
        1002,
    );
    fails_at_the_end(&[0x82, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 1002);
    // A client accepts no masked frames.
    let (_, error) = feed(&mut client(), &raw(0x81, b"a"), &[]);
    assert!(error.is_some());
}

#[test]
fn fragments_out_of_order_are_refused() {
    let end_of_header = |frame: Vec<u8>| frame[..6].to_vec();
    fails_at_the_end(&end_of_header(raw(0x80, b"a")), 1002);
    fails_at_the_end(&end_of_header(raw(0x00, b"a")), 1002);
    for second in [0x81, 0x82, 0x01, 0x02] {
        fails_at_the_end(
            &[raw(0x01, b"a"), end_of_header(raw(second, b"b"))].concat(),
            1002,
        );
    }
    fails_at_the_end(
        &[
            raw(0x01, b"a"),
            raw(0x80, b"b"),
            end_of_header(raw(0x80, b"c")),
        ]
        .concat(),
        1002,
    );
}

#[test]
fn text_that_is_none_is_refused_at_its_first_wrong_byte() {
    // Roughly Autobahn's cases of section 6: each ends with the first invalid byte.
    let wrong: [&[u8]; 14] = [
        b"\x80",
        b"\xFF",
        b"\xFE",
        b"\xC0",
        b"\xC1",
        b"\xF5",
        b"\xF8",
        b"\xC2\x41",
        b"\xE0\x9F",
        b"\xED\xA0",
        b"\xE2\x82\x28",
        b"\xF0\x8F",
        b"\xF4\x90",
        b"\xF0\x9F\x98\x41",
    ];
    for bytes in wrong {
        for before in ["", "a", "κόσμε", "€uro 😀", &"x".repeat(200)] {
            let text = [before.as_bytes(), bytes].concat();
            let behind = [&text[..], b"............"].concat();
            // In one frame, of which no more has arrived.
            let frame = raw(0x81, &behind);
            let end = frame.len() - 12;
            fails_at_the_end(&frame[..end], 1007);
            // In a fragment, and across two of them.
            for cut in 0..text.len() {
                let first = raw(0x01, &text[..cut]);
                let second = raw(0x80, &behind[cut..]);
                let end = second.len() - 12;
                fails_at_the_end(&[&first[..], &second[..end]].concat(), 1007);
            }
        }
    }
}

#[test]
fn text_that_ends_within_a_character_is_refused() {
    for text in ["ä", "€", "😀"] {
        for cut in 1..text.len() {
            let part = &text.as_bytes()[..cut];
            fails_at_the_end(&raw(0x81, part), 1007);
            let fragments = [raw(0x01, part), raw(0x80, b"")].concat();
            fails_at_the_end(&fragments, 1007);
        }
    }
}

#[test]
fn a_long_text_that_is_none_is_refused_when_it_is_there() {
    let mut text = vec![b'a'; 100_000];
    text[50_000] = 0xFF;
    let mut codec = server();
    let (seen, error) = feed(&mut codec, &raw(0x81, &text), &[20, 60_000]);
    assert_eq!(seen, []);
    assert_eq!(goodbye(&mut codec, error.expect("is refused")).0, 1007);
}

#[test]
fn closes_that_break_the_rules_are_refused() {
    fails_at_the_end(&raw(0x88, b"\x03"), 1002);
    for code in [
        0_u16, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535,
    ] {
        fails_at_the_end(&raw(0x88, &code.to_be_bytes()), 1002);
    }
    fails_at_the_end(&raw(0x88, b"\x03\xE8\xFF"), 1007);
    fails_at_the_end(&raw(0x88, "\u{3}€".as_bytes()), 1002);
}
