use super::*;

/// The longest frame that is short, the first that has two bytes of length, and the first that has eight.
const LENGTHS: [usize; 9] = [0, 1, 125, 126, 127, 4096, 0xFFFF, 0x1_0000, 200_000];

#[test]
fn messages_of_every_length_come_whole() {
    for len in LENGTHS {
        let payload = vec![b'*'; len];
        let text = str::from_utf8(&payload).expect("is ASCII");
        assert_eq!(
            feed_all(&mut server(), &raw(0x81, &payload)),
            [Seen::text(text)]
        );
        assert_eq!(
            feed_all(&mut server(), &raw(0x82, &payload)),
            [Seen::binary(&payload)]
        );
    }
}

#[test]
fn the_examples_of_the_rfc_say_hello() {
    // Section 5.7.
    let masked = *b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58";
    assert_eq!(feed_all(&mut server(), &masked), [Seen::text("Hello")]);
    assert_eq!(
        feed_all(&mut client(), b"\x81\x05Hello"),
        [Seen::text("Hello")]
    );
    assert_eq!(
        feed_all(&mut client(), b"\x01\x03Hel\x80\x02lo"),
        [Seen::text("Hello")]
    );
    let mut ends = (client(), server());
    assert_eq!(feed_all(&mut ends.0, b"\x89\x05Hello"), []);
    let pong = poll_output_to_vec(&mut ends.0);
    assert_eq!(
        feed_all(&mut ends.1, &pong),
        [Seen::Pong(b"Hello".to_vec())]
    );
}

#[test]
fn a_message_of_one_frame_is_borrowed_from_the_input() {
    for len in [5, 300, 70_000] {
        let mut input = raw(0x81, &vec![b'a'; len]);
        let end = input.as_ptr_range().end;
        match server().decode(&mut input) {
            Ok(Decoded::Frame {
                frame: Incoming::Message(Message::Text(Cow::Borrowed(text))),
                ..
            }) => {
                assert_eq!(text.as_bytes().as_ptr_range().end, end);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn fragments_with_pings_between_them_are_one_message_however_they_are_cut() {
    let bytes = [
        raw(0x01, "grü".as_bytes()),
        raw(0x89, b"one"),
        raw(0x00, b""),
        raw(0x00, &"ß".as_bytes()[..1]),
        raw(0x8A, b"alive"),
        raw(0x00, &"ß".as_bytes()[1..]),
        raw(0x89, b"two"),
        raw(0x80, b" Gott"),
        raw(0x82, &[7; 300]),
    ]
    .concat();
    let expected = [
        Seen::Pong(b"alive".to_vec()),
        Seen::text("grüß Gott"),
        Seen::binary(&[7; 300]),
    ];
    let pongs = [b"one".to_vec(), b"two".to_vec()].map(Seen::Pong);
    let every: Vec<_> = (1..bytes.len()).collect();
    let cuts = every
        .iter()
        .map(|cut| vec![*cut])
        .chain([vec![], every.clone()]);
    for cuts in cuts {
        let mut codec = server();
        let (seen, error) = feed(&mut codec, &bytes, &cuts);
        assert!(error.is_none(), "{error:?}");
        assert_eq!(seen, expected);
        let answers = poll_output_to_vec(&mut codec);
        assert_eq!(feed_all(&mut client(), &answers), pongs);
        assert_eq!(poll_output_to_vec(&mut codec), b"");
    }
}

#[test]
fn the_stage_tells_a_message_that_has_begun() {
    let mut codec = server();
    assert_eq!(codec.stage(), Stage::Idle);
    feed_all(&mut codec, &raw(0x01, b"a"));
    assert_eq!(codec.stage(), Stage::Receiving);
    feed_all(&mut codec, &raw(0x80, b"b"));
    assert_eq!(codec.stage(), Stage::Idle);
}

#[test]
fn a_long_frame_asks_for_all_of_it_at_once() {
    let bytes = raw(0x82, &[1; 100_000]);
    let mut codec = server();
    for (arrived, at_least) in [
        (1, 2),
        (2, 14),
        (13, 14),
        (14, bytes.len()),
        (50_000, bytes.len()),
    ] {
        let mut input = bytes[..arrived].to_vec();
        match codec.decode(&mut input) {
            Ok(Decoded::NeedMore { at_least: asked }) => assert_eq!(asked, at_least, "{arrived}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_flood_of_pings_keeps_no_more_than_the_last_answers() {
    let ping = raw(0x89, &[9; 125]);
    let mut codec = server();
    for _ in 0..10_000 {
        feed_all(&mut codec, &ping);
    }
    let last = raw(0x89, b"last");
    feed_all(&mut codec, &last);
    let answers = poll_output_to_vec(&mut codec);
    assert!(answers.len() <= MAX_PONGS + 14, "{}", answers.len());
    let seen = feed_all(&mut client(), &answers);
    assert_eq!(seen.last(), Some(&Seen::Pong(b"last".to_vec())));
}

#[test]
fn limits_are_exact() {
    let limits = Limits::default().max_frame(1000).max_message(1500);
    let full = raw(0x82, &[0; 1000]);
    assert_eq!(
        feed_all(&mut ServerCodec::opened(limits, None), &full).len(),
        1
    );
    let parts = [raw(0x02, &[0; 1000]), raw(0x80, &[0; 500])].concat();
    assert_eq!(
        feed_all(&mut ServerCodec::opened(limits, None), &parts).len(),
        1
    );
    let too_long = [
        // Found in the header, before the payload.
        raw(0x82, &[0; 1001])[..8].to_vec(),
        [raw(0x02, &[0; 1000]), raw(0x80, &[0; 501])[..8].to_vec()].concat(),
        [
            raw(0x02, &[0; 1000]),
            raw(0x00, &[0; 400]),
            raw(0x80, &[0; 101])[..6].to_vec(),
        ]
        .concat(),
        b"\x82\xFF\x7F\xFF\xFF\xFF\xFF\xFF\xFF\xFF\0\0\0\0".to_vec(),
    ];
    for bytes in too_long {
        let mut codec = ServerCodec::opened(limits, None);
        let (seen, error) = feed(&mut codec, &bytes, &[]);
        assert_eq!(seen, []);
        let (code, reason) = goodbye(&mut codec, error.expect("is refused"));
        assert_eq!(code, 1009, "{reason}");
    }
}

#[test]
fn a_websocket_at_rest_costs_what_is_documented() {
    assert!(size_of::<ServerCodec>() <= 80);
    assert!(size_of::<Deflate>() <= 40);
}
