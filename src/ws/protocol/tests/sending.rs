use proptest::prelude::*;

use super::*;

/// An item to be sent.
#[derive(Clone, Debug)]
enum Item {
    Message(Message<'static>),
    Fragments(Vec<Message<'static>>),
    Ping(Vec<u8>),
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "\\PC{0,40}",
        ("[a-zäß€😀]{1,8}", 1..2000usize).prop_map(|(piece, count)| piece.repeat(count)),
    ]
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..300),
        (
            any::<u8>(),
            prop::sample::select(vec![0, 125, 126, 4000, 4096, 4097, 65_535, 65_536, 70_000])
        )
            .prop_map(|(byte, len)| vec![byte; len]),
    ]
}

fn items() -> impl Strategy<Value = Vec<Item>> {
    let item = prop_oneof![
        3 => text().prop_map(|text| Item::Message(text.into())),
        3 => bytes().prop_map(|bytes| Item::Message(bytes.into())),
        1 => prop::collection::vec(text().prop_map(Message::from), 1..4).prop_map(Item::Fragments),
        1 => prop::collection::vec(bytes().prop_map(Message::from), 1..4).prop_map(Item::Fragments),
        1 => prop::collection::vec(any::<u8>(), 0..=125usize).prop_map(Item::Ping),
    ];
    prop::collection::vec(item, 0..6)
}

/// Sends all items with one codec and receives them with the other.
fn there_and_back<A: Side, B: Side>(
    from: &mut A,
    to: &mut B,
    items: &[Item],
    cuts: &[prop::sample::Index],
) {
    let mut bytes = Vec::new();
    let (mut expected, mut pongs) = (Vec::new(), Vec::new());
    for item in items {
        match item {
            Item::Message(message) => {
                bytes.extend(sent(from, message.clone()));
                expected.push(Seen::Message(message.clone()));
            }
            Item::Fragments(parts) => {
                for (n, part) in parts.iter().enumerate() {
                    let last = n + 1 == parts.len();
                    bytes.extend(sent(
                        from,
                        Fragment {
                            part: part.clone(),
                            last,
                        },
                    ));
                    bytes.extend(sent(from, Ping(b"between")));
                    pongs.push(Seen::Pong(b"between".to_vec()));
                }
                let whole: Vec<u8> = parts
                    .iter()
                    .flat_map(|part| part.as_bytes().to_vec())
                    .collect();
                expected.push(Seen::Message(match &parts[0] {
                    Message::Text(_) => String::from_utf8(whole).expect("is text").into(),
                    Message::Binary(_) => whole.into(),
                }));
            }
            Item::Ping(payload) => {
                bytes.extend(sent(from, Ping(payload)));
                pongs.push(Seen::Pong(payload.clone()));
            }
        }
    }
    let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    cuts.sort_unstable();
    let (seen, error) = feed(to, &bytes, &cuts);
    assert!(error.is_none(), "{error:?}");
    assert!(seen == expected);
    let answers = poll_output_to_vec(to);
    assert_eq!(feed_all(from, &answers), pongs);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn what_is_sent_is_received(
        items in items(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        there_and_back(&mut client(), &mut server(), &items, &cuts);
        there_and_back(&mut server(), &mut client(), &items, &cuts);
    }

    #[test]
    fn what_is_sent_compressed_is_received(
        items in items(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        takeover: bool, bits in 9..=15u8, threshold in prop::sample::select(vec![0, 1, 100, 10_000]),
    ) {
        let options = DeflateOptions::default().context_takeover(takeover).window_bits(bits).threshold(threshold);
        let (mut client, mut server) = deflating(options, Limits::default());
        for _ in 0..2 {
            there_and_back(&mut client, &mut server, &items, &cuts);
            there_and_back(&mut server, &mut client, &items, &cuts);
        }
    }

    #[test]
    fn no_input_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..4)) {
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.sort_unstable();
        let (mut client, mut server) = deflating(DeflateOptions::default(), Limits::default());
        let _ = feed(&mut client, &bytes, &cuts);
        let _ = feed(&mut server, &bytes, &cuts);
    }
}

#[test]
fn a_frame_has_the_shortest_header() {
    for (len, header) in [
        (0, &b"\x82\0"[..]),
        (125, b"\x82\x7D"),
        (126, b"\x82\x7E\0\x7E"),
        (0xFFFF, b"\x82\x7E\xFF\xFF"),
        (0x1_0000, b"\x82\x7F\0\0\0\0\0\x01\0\0"),
    ] {
        let payload = vec![5; len];
        let expected = [header, &payload].concat();
        assert!(sent(&mut server(), &payload) == expected);
        assert!(sent(&mut server(), Prepared::new(payload)) == expected);
    }
}

#[test]
fn a_client_masks_each_frame_anew() {
    let mut codec = client();
    let frames: Vec<_> = (0..4).map(|_| sent(&mut codec, "the same")).collect();
    assert!(
        frames
            .iter()
            .all(|frame| frame.len() == 2 + 4 + 8 && frame[1] & 0x80 != 0)
    );
    assert!(frames.iter().any(|frame| frame != &frames[0]));
}

#[test]
fn a_fragmented_message_is_not_mixed_with_another() {
    let mut codec = server();
    let fragment = |part: Message<'static>, last| Fragment { part, last };
    assert_eq!(sent(&mut codec, fragment("a".into(), false)), b"\x01\x01a");
    let refused = |error: FrameError| error.to_string();
    let error = encode_to_vec(&mut codec, "b").expect_err("is refused");
    assert_eq!(refused(error), SendError::Unfinished.to_string());
    let error = encode_to_vec(&mut codec, fragment(vec![1].into(), true)).expect_err("is refused");
    assert_eq!(refused(error), SendError::FragmentType.to_string());
    assert_eq!(sent(&mut codec, Ping(b"")), b"\x89\0");
    assert_eq!(sent(&mut codec, fragment("b".into(), true)), b"\x80\x01b");
    assert_eq!(sent(&mut codec, "c"), b"\x81\x01c");
}

/// The first output of a codec after a ping has arrived, as frames of one byte of payload.
fn behind_a_ping<C: Side + Encode<T>, T>(mut codec: C, ping: &[u8], item: T) -> Vec<u8> {
    feed_all(&mut codec, ping);
    let bytes = sent(&mut codec, item);
    assert_eq!(poll_output_to_vec(&mut codec), b"", "it is said once");
    bytes
}

#[test]
fn answers_to_pings_go_before_any_other_frame() {
    let ping = raw(0x89, b"?");
    let ping = &ping[..];
    let fragment = || Fragment {
        part: "a".into(),
        last: false,
    };
    let prepared = Prepared::new("a");
    for (bytes, frame) in [
        (
            behind_a_ping(server(), ping, Message::from("a")),
            &b"\x81\x01a"[..],
        ),
        (behind_a_ping(server(), ping, fragment()), b"\x01\x01a"),
        (behind_a_ping(server(), ping, &prepared), b"\x81\x01a"),
        (behind_a_ping(server(), ping, Ping(b"a")), b"\x89\x01a"),
        (
            behind_a_ping(server(), ping, Close::new(CloseCode::NORMAL, "")),
            b"\x88\x02\x03\xE8",
        ),
    ] {
        assert_eq!(bytes, [&b"\x8A\x01?"[..], frame].concat());
    }
    let mut codec = server();
    feed_all(&mut codec, ping);
    assert_eq!(
        close_notice_to_vec(&mut codec, CloseCause::Shutdown),
        b"\x8A\x01?\x88\x02\x03\xE9"
    );
    // The client's side, whose frames are masked.
    let bytes = behind_a_ping(client(), b"\x89\x01?", Message::from("a"));
    let seen = feed_all(&mut server(), &bytes);
    assert_eq!(seen, [Seen::Pong(b"?".to_vec()), Seen::text("a")]);
    // Between the fragments of a received message, and of a sent one.
    let mut codec = server();
    sent(&mut codec, fragment());
    let pieces = [raw(0x01, b"a"), ping.to_vec(), raw(0x80, b"b")].concat();
    assert_eq!(feed_all(&mut codec, &pieces), [Seen::text("ab")]);
    assert_eq!(sent(&mut codec, fragment()), b"\x8A\x01?\x00\x01a");
}

#[test]
fn control_frames_that_are_too_long_are_refused() {
    assert!(encode_to_vec(&mut server(), Ping(&[0; 126])).is_err());
    let reason = "r".repeat(124);
    assert!(encode_to_vec(&mut server(), Close::new(CloseCode::NORMAL, &reason)).is_err());
    assert_eq!(
        sent(&mut server(), Close::new(CloseCode::NORMAL, &reason[1..])).len(),
        2 + 125
    );
}

#[test]
fn nothing_is_sent_before_the_handshake() {
    let error = encode_to_vec(&mut ServerCodec::default(), "early").expect_err("is refused");
    assert_eq!(error.to_string(), SendError::NotOpen.to_string());
    let error = encode_to_vec(&mut ClientCodec::default(), "early").expect_err("is refused");
    assert_eq!(error.to_string(), SendError::NotOpen.to_string());
}
