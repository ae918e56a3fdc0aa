use super::*;

const NORMAL: CloseCode = CloseCode::NORMAL;

#[test]
fn the_peers_close_is_answered_with_its_code() {
    for (payload, code, reason) in [
        (&b""[..], None, ""),
        (b"\x03\xE8", Some(1000), ""),
        (b"\x0F\xA0bye", Some(4000), "bye"),
    ] {
        let mut codec = server();
        let seen = feed_all(&mut codec, &raw(0x88, payload));
        assert_eq!(seen, [Seen::Closed(code, reason.to_owned())]);
        assert_eq!(codec.stage(), Stage::Answering);
        let answer = poll_output_to_vec(&mut codec);
        assert_eq!(
            feed_all(&mut client(), &answer),
            [Seen::Closed(code, String::new())]
        );
        assert_eq!(codec.stage(), Stage::Finished);
        assert_eq!(poll_output_to_vec(&mut codec), b"");
        assert_eq!(close_notice_to_vec(&mut codec, CloseCause::Local), b"");
    }
}

#[test]
fn pings_before_a_close_are_answered_before_it() {
    let mut codec = server();
    feed_all(&mut codec, &[raw(0x89, b"a"), raw(0x88, b"")].concat());
    let answers = poll_output_to_vec(&mut codec);
    assert_eq!(answers, b"\x8A\x01a\x88\0");
}

#[test]
fn nothing_counts_behind_a_close() {
    let mut codec = server();
    let bytes = [raw(0x88, b""), raw(0x81, b"a"), vec![0xFF; 100]].concat();
    assert_eq!(
        feed_all(&mut codec, &bytes),
        [Seen::Closed(None, String::new())]
    );
    assert_eq!(poll_output_to_vec(&mut codec), b"\x88\0");
    assert_eq!(feed_all(&mut codec, &raw(0x89, b"a")), []);
    assert_eq!(poll_output_to_vec(&mut codec), b"");
}

#[test]
fn the_handler_may_close_in_its_own_words() {
    let mut codec = server();
    feed_all(&mut codec, &raw(0x88, b"\x03\xE8"));
    assert_eq!(sent(&mut codec, Message::from("last")), b"\x81\x04last");
    assert_eq!(
        sent(&mut codec, Close::new(CloseCode::GOING_AWAY, "")),
        b"\x88\x02\x03\xE9"
    );
    assert_eq!(codec.stage(), Stage::Finished);
    assert_eq!(poll_output_to_vec(&mut codec), b"");
}

#[test]
fn messages_still_come_between_the_two_closes() {
    let (mut client, mut server) = (client(), server());
    let close = sent(&mut server, Close::new(NORMAL, "done"));
    assert_eq!(server.stage(), Stage::Closing);
    let late = [
        sent(&mut client, Message::from("late")),
        sent(&mut client, Ping(b"?")),
    ]
    .concat();
    assert_eq!(feed_all(&mut server, &late), [Seen::text("late")]);
    // Nothing follows a Close, not even a pong.
    assert_eq!(poll_output_to_vec(&mut server), b"");
    assert_eq!(
        feed_all(&mut client, &close),
        [Seen::Closed(Some(1000), "done".to_owned())]
    );
    let answer = poll_output_to_vec(&mut client);
    // The client waits for the server to end the connection.
    assert_eq!(client.stage(), Stage::Closing);
    assert_eq!(
        feed_all(&mut server, &answer),
        [Seen::Closed(Some(1000), String::new())]
    );
    assert_eq!(server.stage(), Stage::Finished);
}

#[test]
fn nothing_is_sent_behind_a_close() {
    let mut codec = server();
    sent(&mut codec, Close::new(NORMAL, ""));
    let refusals = [
        encode_to_vec(&mut codec, Message::from("a")),
        encode_to_vec(&mut codec, Ping(b"")),
        encode_to_vec(&mut codec, Close::new(NORMAL, "")),
        encode_to_vec(
            &mut codec,
            Fragment {
                part: "a".into(),
                last: true,
            },
        ),
        encode_to_vec(&mut codec, Prepared::new("a")),
    ];
    for refusal in refusals {
        let error = refusal.expect_err("is refused").to_string();
        assert_eq!(error, SendError::Closed.to_string());
    }
}

#[test]
fn last_words_tell_why() {
    let too_long = FrameError::TooLong { len: 9, max: 8 };
    let malformed = FrameError::Malformed { what: "it is odd" };
    let cases = [
        (CloseCause::Timeout, 1001),
        (CloseCause::Shutdown, 1001),
        (CloseCause::Panic, 1011),
        (CloseCause::Local, 1000),
        (CloseCause::Malformed(&too_long), 1009),
        (CloseCause::Malformed(&malformed), 1002),
    ];
    for (last, code) in cases {
        let mut codec = server();
        let bytes = close_notice_to_vec(&mut codec, last);
        match &feed_all(&mut client(), &bytes)[..] {
            [Seen::Closed(Some(said), _)] => assert_eq!(*said, code),
            other => panic!("{other:?}"),
        }
        assert_eq!(close_notice_to_vec(&mut codec, CloseCause::Local), b"");
    }
    // A close that has arrived is answered with the same code.
    let mut codec = server();
    feed_all(&mut codec, &raw(0x88, b"\x0F\xA0"));
    assert_eq!(
        close_notice_to_vec(&mut codec, CloseCause::Local),
        b"\x88\x02\x0F\xA0"
    );
}
