use epicycle::Bytes;
use epicycle::cluster::Error;
use epicycle::cluster::packet::{
    Control, EncodedPacket, GoodbyeReason, Heartbeat, Packet, PacketCodec, PacketFrame,
    PacketOptions, ResumeRefusal,
};
use epicycle::codec::{ByteOrder, Codec, Decoded, FrameError, encode_to_vec};

use crate::feed::{every_split, kind};
use crate::vectors::{Row, hex, rows, unhex};

/// The options of a scenario such as `be/route1/seq0:route=1 seq=2 data=6869`.
fn options(row: &Row) -> PacketOptions {
    let builder = PacketOptions::builder();
    let Some((head, _)) = row.scenario.split_once(':') else {
        panic!("{row:?}");
    };
    if head == "default" {
        return builder.build().expect("are the defaults");
    }
    let parts: Vec<_> = head.split('/').collect();
    let number = |text: &str| text[text.len() - 1..].parse::<usize>().expect("is a digit");
    let order = match parts[0] {
        "be" => ByteOrder::Big,
        "le" => ByteOrder::Little,
        other => panic!("{other}"),
    };
    let builder = builder.byte_order(order);
    let builder = builder.route_bytes(number(parts[1]));
    let builder = builder.seq_bytes(number(parts[2]));
    builder.build().expect("is supported by due too")
}

#[test]
fn every_recorded_packet_is_encoded_and_decoded_as_due_does() {
    let rows = rows("packet");
    let mut seen = 0;
    for row in &rows {
        assert_eq!(row.dir, "any");
        let wire = row.bytes();
        if row.scenario.starts_with("heartbeat") {
            check_heartbeat(row, &wire);
            seen += 1;
            continue;
        }
        let options = options(row);
        let data = unhex(row.get("data").expect("has data")).expect("is hex");
        let route = row.number("route").expect("has a route");
        let mut seq = row.number("seq").expect("has a seq");
        let packet = Packet {
            route,
            seq,
            data: &data,
        };
        let encoded = options.encode(&packet).expect("due encodes it");
        assert_eq!(hex(encoded.as_bytes()), row.data, "{}", row.scenario);
        let staged = encode_to_vec(&mut PacketCodec::new(options), packet).expect("is encoded");
        assert_eq!(staged, wire, "{}", row.scenario);

        if options.seq_bytes() == 0 {
            seq = 0;
        }
        let packet = Packet {
            route,
            seq,
            data: &data,
        };
        let frame = PacketFrame::Packet {
            packet,
            whole: &wire,
        };
        let (frames, error) = every_split(&PacketCodec::new(options), &wire);
        assert_eq!((frames, error), (vec![format!("{frame:?}")], None));
        let message = options.decode_message(&wire).expect("is a packet");
        assert_eq!(message, frame, "{}", row.scenario);
        seen += 1;
    }
    assert_eq!(seen, rows.len());
}

fn check_heartbeat(row: &Row, wire: &[u8]) {
    let order = if wire[0] == 0 {
        ByteOrder::Big
    } else {
        ByteOrder::Little
    };
    let options = PacketOptions::builder().byte_order(order);
    let options = options.build().expect("is supported");
    let time = match (row.scenario.contains("time"), order) {
        (false, _) => None,
        (true, ByteOrder::Big) => Some(0x18ec_1f55_fbb2_9823),
        (true, ByteOrder::Little) => Some(0x18ec_1f55_fbb6_447c),
    };
    let heartbeat = Heartbeat { time };
    let encoded = options.encode_heartbeat(heartbeat);
    assert_eq!(hex(encoded.as_bytes()), row.data, "{}", row.scenario);
    let mut codec = PacketCodec::new(options);
    assert_eq!(encode_to_vec(&mut codec, heartbeat).expect("fits"), wire);
    let expected = format!("{:?}", PacketFrame::Heartbeat(heartbeat));
    assert_eq!(every_split(&codec, wire), (vec![expected], None));
}

#[test]
fn what_due_refuses_to_encode_is_refused_and_leaves_nothing_behind() {
    let rows = rows("packet_err");
    for row in &rows {
        let options = options(row);
        let long = vec![b'x'; 5001];
        let packet = Packet {
            route: row.number("route").unwrap_or(1),
            seq: row.number("seq").unwrap_or(1),
            data: if row.scenario.contains("5001") {
                &long
            } else {
                b"x"
            },
        };
        let mut dst = b"before".to_vec();
        let error = options.encode_into(&packet, &mut dst);
        let error = error.expect_err("due refuses it");
        assert_eq!(dst, b"before", "{}", row.scenario);
        let expected = match row.data.as_str() {
            "route overflow" => matches!(error, Error::RouteOverflow { .. }),
            "seq overflow" => matches!(error, Error::SeqOverflow { .. }),
            "message too large" => matches!(error, Error::TooLarge { max: 5000, .. }),
            other => panic!("{other}"),
        };
        assert!(expected, "{}: {error}", row.scenario);
        assert!(options.encode(&packet).is_err());
        assert!(encode_to_vec(&mut PacketCodec::new(options), packet).is_err());
    }
}

/// Each recorded odd message, and what it is here. due only logs what it does not understand; here it is an error, which closes
/// the connection.
#[test]
fn odd_messages_are_understood_as_due_does_or_refused() {
    let options = PacketOptions::default();
    let rows = rows("packet_unpack");
    for row in &rows {
        let wire = unhex(&row.scenario).expect("is hex");
        let found = options.decode_message(&wire);
        let due_reads = row.data.split(" heartbeat=").next().expect("has it first");
        let due_sees_heartbeat = row.data.contains("heartbeat=true");
        match found {
            Ok(PacketFrame::Packet { packet, whole }) => {
                let Packet { route, seq, data } = packet;
                let text = format!("route={route} seq={seq} data={} err=<nil>", hex(data));
                assert_eq!(text, due_reads, "{}", row.scenario);
                assert!(!due_sees_heartbeat);
                assert_eq!(whole, wire);
            }
            Ok(PacketFrame::Heartbeat(_)) => assert!(due_sees_heartbeat, "{}", row.scenario),
            Ok(other) => panic!("{other:?}"),
            Err(error) => {
                assert_eq!(due_reads, "<nil> err=invalid message", "{error}");
                assert!(!due_sees_heartbeat);
            }
        }
    }
}

#[test]
fn a_stream_of_packets_does_not_depend_on_its_division() {
    let options = PacketOptions::default();
    let mut stream = Vec::new();
    for (route, seq, data) in [(1, 2, &b"hi"[..]), (-3, 0, b""), (7, -1, &[9; 40])] {
        let packet = Packet { route, seq, data };
        options.encode_into(&packet, &mut stream).expect("fits");
    }
    stream.extend_from_slice(b"\0\0\0\0");
    let time = Some(-5);
    stream.extend_from_slice(options.encode_heartbeat(Heartbeat { time }).as_bytes());
    let (frames, error) = every_split(&PacketCodec::new(options), &stream);
    assert_eq!((frames.len(), error), (5, None));
    assert_eq!(frames[3], "Empty");
}

#[test]
fn a_packet_that_is_too_long_is_refused_before_its_body() {
    let options = PacketOptions::default();
    let longest = Packet {
        route: 1,
        seq: 1,
        data: &[0; 5000],
    };
    let wire = options.encode(&longest).expect("is the longest");
    assert_eq!(wire.as_bytes().len(), options.max_packet());
    assert_eq!(
        every_split(&PacketCodec::new(options), wire.as_bytes()).1,
        None
    );
    for size in [5006, 1 << 31, u32::MAX] {
        let mut head = size.to_be_bytes().to_vec();
        let error = PacketCodec::new(options).decode(&mut head).err();
        let error = error.expect("four bytes are enough");
        assert_eq!(kind(&error), "too long", "{size}");
    }
}

#[test]
fn a_packet_shorter_than_its_head_is_refused_at_its_header() {
    let options = PacketOptions::default();
    for size in 1..5_u8 {
        let mut input = vec![0, 0, 0, size];
        let decoded = PacketCodec::new(options)
            .decode(&mut input)
            .expect("is open");
        assert_eq!(decoded, Decoded::NeedMore { at_least: 5 });
        input.push(0);
        let error = PacketCodec::new(options).decode(&mut input).err();
        assert_eq!(kind(&error.expect("is too short")), "malformed");
        // The same size is allowed for a heartbeat.
        input[4] = 0x80;
        input.resize(4 + usize::from(size), 0);
        let expected = PacketFrame::Heartbeat(Heartbeat { time: None });
        assert_eq!(options.decode_message(&input).expect("is one"), expected);
    }
}

#[test]
fn a_hundred_packets_of_size_0_in_a_row_are_an_error_and_fewer_are_not() {
    let codec = PacketCodec::new(PacketOptions::default());
    let heartbeat = b"\0\0\0\x01\x80";
    let mut stream = vec![0; 4 * 99];
    stream.extend_from_slice(heartbeat);
    stream.extend(vec![0; 4 * 99]);
    stream.extend_from_slice(heartbeat);
    let mut codec_here = codec.clone();
    let mut frames = 0;
    let mut at = 0;
    while at < stream.len() {
        let decoded = codec_here.decode(&mut stream[at..]).expect("are too few");
        let Decoded::Frame { consumed, .. } = decoded else {
            panic!("{decoded:?}");
        };
        (frames, at) = (frames + 1, at + consumed);
    }
    assert_eq!(frames, 200);
    let (frames, error) = every_split(&codec, &[0; 4 * 100]);
    assert_eq!((frames.len(), error.as_deref()), (99, Some("malformed")));
}

#[test]
fn a_heartbeat_with_time_is_understood_even_if_no_packet_is_that_long() {
    let options = PacketOptions::builder().max_data(0).build();
    let options = options.expect("0 is allowed");
    let heartbeat = Heartbeat { time: Some(7) };
    let wire = options.encode_heartbeat(heartbeat);
    let frame = options.decode_message(wire.as_bytes()).expect("is one");
    assert_eq!(frame, PacketFrame::Heartbeat(heartbeat));
    // A packet of that length is still refused.
    let error = options.decode_message(b"\0\0\0\x09\0\0\x01\0\0abcd").err();
    assert_eq!(kind(&error.expect("is too long")), "too long");
}

#[test]
fn a_message_must_have_the_length_of_its_packet() {
    let options = PacketOptions::default();
    let wire = b"\0\0\0\x07\0\0\x01\0\x02hi";
    assert!(options.decode_message(wire).is_ok());
    for end in 0..wire.len() {
        let error = options.decode_message(&wire[..end]).err();
        assert_eq!(kind(&error.expect("is cut")), "malformed", "{end}");
    }
    let longer = [&wire[..], b"x"].concat();
    assert!(options.decode_message(&longer).is_err());
    let two = [&wire[..], wire].concat();
    assert!(options.decode_message(&two).is_err());
    let empty = options.decode_message(b"\0\0\0\0").expect("is allowed");
    assert_eq!(empty, PacketFrame::Empty);
    assert!(options.decode_message(b"\0\0\0\0\0").is_err());
}

#[test]
fn wrong_options_are_refused_with_a_remedy() {
    let builder = PacketOptions::builder;
    for (result, name, remedy) in [
        (builder().route_bytes(0).build(), "route_bytes", "1, 2 or 4"),
        (builder().route_bytes(3).build(), "route_bytes", "1, 2 or 4"),
        (builder().route_bytes(8).build(), "route_bytes", "1, 2 or 4"),
        (builder().seq_bytes(3).build(), "seq_bytes", "0, 1, 2 or 4"),
        (builder().seq_bytes(8).build(), "seq_bytes", "0, 1, 2 or 4"),
        (
            builder()
                .max_data(PacketOptions::HIGHEST_MAX_DATA + 1)
                .build(),
            "max_data",
            "at most 16760832",
        ),
    ] {
        let error = result.expect_err("is not supported");
        let Error::InvalidArgument { name: found, .. } = &error else {
            panic!("{error}");
        };
        assert_eq!(*found, name);
        assert!(error.to_string().contains(remedy), "{error}");
    }
    let highest = builder().max_data(PacketOptions::HIGHEST_MAX_DATA);
    assert!(highest.build().is_ok());
}

#[test]
fn control_packets_have_these_bytes() {
    let options = PacketOptions::default();
    let cases = [
        (
            Control::Resume {
                token: "t.1",
                last: 258,
            },
            "00000010 01 0001 0000 0000000000000102 742e31",
        ),
        (
            Control::Resumed { count: 3 },
            "00000009 01 0002 0000 00000003",
        ),
        (
            Control::Refused {
                reason: ResumeRefusal::Expired,
            },
            "00000006 01 0003 0000 03",
        ),
        (
            Control::Goodbye {
                reason: GoodbyeReason::Replaced,
                retry_ms: 1500,
            },
            "0000000a 01 0004 0000 02 000005dc",
        ),
        (
            Control::Ack { n: 7 },
            "0000000d 01 0005 0000 0000000000000007",
        ),
    ];
    for (control, expected) in cases {
        let wire = options.encode_control(&control).expect("fits");
        assert_eq!(hex(wire.as_bytes()), expected.replace(' ', ""));
        let expected = PacketFrame::Control(control);
        assert_eq!(
            every_split(&PacketCodec::new(options), wire.as_bytes()),
            (vec![format!("{expected:?}")], None)
        );
        assert_eq!(
            encode_to_vec(&mut PacketCodec::new(options), control).expect("fits"),
            *wire.as_bytes()
        );
    }
}

#[test]
fn a_control_packet_with_wrong_fields_is_refused_and_an_unknown_one_is_told() {
    let options = PacketOptions::default();
    let control = |route: u8, fields: &[u8]| {
        let size = (5 + fields.len()) as u8;
        let head = [0, 0, 0, size, 1, 0, route, 0, 0];
        [&head[..], fields].concat()
    };
    for (route, len) in [
        (1, 7),
        (2, 3),
        (2, 5),
        (3, 0),
        (3, 2),
        (4, 4),
        (4, 6),
        (5, 7),
        (5, 9),
        (6, 1),
    ] {
        let error = options.decode_message(&control(route, &vec![0; len])).err();
        assert_eq!(
            kind(&error.expect("is wrong")),
            "malformed",
            "{route} {len}"
        );
    }
    let not_text = control(1, b"\0\0\0\0\0\0\0\0\xff");
    assert!(options.decode_message(&not_text).is_err());
    let unknown = control(7, b"abc");
    let unknown = options.decode_message(&unknown).expect("is of later");
    assert_eq!(unknown, PacketFrame::Control(Control::Unknown { route: 7 }));
    for code in 0..=u8::MAX {
        assert_eq!(ResumeRefusal::from_code(code).code(), code);
        assert_eq!(GoodbyeReason::from_code(code).code(), code);
    }
}

#[test]
fn an_encoded_packet_is_shared_by_its_receivers_and_checked_when_it_comes_from_elsewhere() {
    let options = PacketOptions::default();
    let data = [5; 2000];
    let packet = Packet {
        route: 1,
        seq: 0,
        data: &data,
    };
    let encoded = options.encode(&packet).expect("fits");
    let copies: Vec<_> = (0..100).map(|_| encoded.clone().into_bytes()).collect();
    assert!(
        copies
            .iter()
            .all(|copy| copy.as_ptr() == encoded.as_bytes().as_ptr())
    );
    let sent = encode_to_vec(&mut PacketCodec::new(options), encoded.clone()).expect("fits");
    assert_eq!(sent, *encoded.as_bytes());

    let passed_on = EncodedPacket::from_wire(&options, encoded.clone().into_bytes());
    assert_eq!(passed_on.expect("is one"), encoded);
    for garbage in [&b""[..], b"\x01\x02\x03", b"\0\0\0\0", b"\0\0\0\x01\0"] {
        let error = EncodedPacket::from_wire(&options, Bytes::copy_from_slice(garbage));
        assert!(matches!(error, Err(FrameError::Malformed { .. })));
    }
}
