use epicycle::cluster::drpc::{
    Answer, Code, Frame, FrameCodec, Hello, Incoming, LinkHeartbeat, MAX_CHANNEL, MAX_FRAME,
    MAX_TARGETS, Op, Party, RejectReason, Request, Role, Scope, Secret, Taken, Target, Targets,
    Value, unique_targets,
};
use epicycle::cluster::{Error, Event, Kind, State};
use epicycle::codec::{Codec, Decoded, encode_to_vec};

use crate::feed::{every_split, kind};
use crate::vectors::{Row, hex, rows, unhex};

/// The packet of all recorded pushes.
const PACKET: &[u8] = b"\0\0\0\x07\0\0\x01\0\x02hi";

/// Decodes bytes that are one frame.
pub(crate) fn frame(wire: &mut [u8]) -> Frame<'_> {
    let len = wire.len();
    match FrameCodec::default().decode(wire).expect("is a frame") {
        Decoded::Frame {
            frame: Incoming::Frame(frame),
            consumed,
        } => {
            assert_eq!(consumed, len);
            frame
        }
        other => panic!("{other:?}"),
    }
}

pub(crate) fn request_bytes(seq: u64, request: Request<'_>) -> Vec<u8> {
    let mut wire = Vec::new();
    let encoded = request.encode_into(seq, &mut wire);
    encoded.expect("can be encoded");
    let staged = encode_to_vec(&mut FrameCodec::default(), (seq, request));
    assert_eq!(staged.expect("can be encoded"), wire);
    wire
}

pub(crate) fn answer_bytes(seq: u64, answer: Answer<'_>) -> Vec<u8> {
    let mut wire = Vec::new();
    answer.encode_into(seq, &mut wire).expect("can be encoded");
    let staged = encode_to_vec(&mut FrameCodec::default(), (seq, answer));
    assert_eq!(staged.expect("can be encoded"), wire);
    wire
}

fn check_request(seq: u64, request: Request<'_>, row: &Row) {
    assert_eq!(hex(&request_bytes(seq, request)), row.data, "{row:?}");
    let mut wire = row.bytes();
    let found = frame(&mut wire);
    assert_eq!((found.seq, found.op), (seq, request.op().code()), "{row:?}");
    assert_eq!(Request::decode(&found).expect("is one"), request, "{row:?}");
    check_division(&row.bytes());
}

fn check_answer(seq: u64, answer: Answer<'_>, row: &Row) {
    assert_eq!(hex(&answer_bytes(seq, answer)), row.data, "{row:?}");
    let mut wire = row.bytes();
    let found = frame(&mut wire);
    assert_eq!(found.seq, seq, "{row:?}");
    let found = Answer::decode(&found).expect("is one");
    assert_eq!((found.op, found.code), (answer.op, answer.code), "{row:?}");
    check_division(&row.bytes());
}

/// Checks that one frame is found in the bytes, however they are divided.
fn check_division(wire: &[u8]) {
    let (frames, error) = every_split(&FrameCodec::default(), wire);
    assert_eq!((frames.len(), error), (1, None));
}

fn scope(row: &Row) -> Scope {
    if row.scenario.contains(" conn") {
        Scope::Conn
    } else {
        assert!(row.scenario.contains(" user"), "{row:?}");
        Scope::User
    }
}

/// The target of ` conn 3 ` or ` user 7 `.
fn target(row: &Row) -> Target {
    let mut words = row.scenario.split(' ');
    words.find(|word| matches!(*word, "conn" | "user"));
    let id = words.next().and_then(|id| id.parse().ok());
    Target {
        scope: scope(row),
        id: id.expect("is a number"),
    }
}

/// The targets of ` [7 8 -1] `.
fn list(row: &Row) -> Vec<i64> {
    let list = row.scenario.split(['[', ']']).nth(1).expect("has a list");
    let numbers = list.split(' ').map(str::parse);
    numbers.collect::<Result<_, _>>().expect("are numbers")
}

fn id(row: &Row, key: &str) -> i64 {
    match row.get(key) {
        Some("max") => i64::MAX,
        Some(number) => number.parse().expect("is a number"),
        None => 0,
    }
}

fn state(row: &Row) -> State {
    let last = row.scenario.rsplit([' ', '=']).next();
    last.expect("has one").parse().expect("is a state")
}

#[test]
fn every_recorded_request_is_encoded_and_decoded_as_due_does() {
    let rows = rows("drpc");
    let requests: Vec<_> = rows.iter().filter(|row| row.dir == "req").collect();
    for row in &requests {
        let seq = row.number("seq").expect("has a seq");
        let disconnect = row.scenario.ends_with("disconnect");
        let targets = if row.scenario.contains('[') {
            list(row)
        } else {
            Vec::new()
        };
        let targets = Targets::from(&targets[..]);
        let channel = match &row.scenario {
            text if text.contains("room:1") => "room:1",
            _ => "频道",
        };
        let request = match row.scenario.split(' ').next().expect("has a name") {
            "handshake" => {
                let kind: Kind = row
                    .get("kind")
                    .and_then(|kind| kind.parse().ok())
                    .expect("kind");
                let kind = kind.code();
                let id = row.get("id").expect("has an id");
                Request::Handshake { kind, id }
            }
            "bind" => Request::Bind {
                cid: id(row, "cid"),
                uid: id(row, "uid"),
            },
            "unbind" => Request::Unbind {
                uid: id(row, "uid"),
            },
            "getip" => Request::GetIp {
                target: target(row),
            },
            "stat" => Request::Stat { scope: scope(row) },
            "isonline" => Request::IsOnline {
                target: target(row),
            },
            "disconnect" => Request::Disconnect {
                target: target(row),
                force: row.get("force") == Some("true"),
            },
            "push" => Request::Push {
                target: target(row),
                disconnect,
                packet: PACKET,
            },
            "multicast" => Request::Multicast {
                scope: scope(row),
                targets,
                disconnect,
                packet: PACKET,
            },
            "broadcast" => Request::Broadcast {
                scope: scope(row),
                disconnect,
                packet: PACKET,
            },
            "publish" => Request::Publish {
                channel,
                disconnect,
                packet: PACKET,
            },
            "subscribe" => Request::Subscribe {
                scope: scope(row),
                targets,
                channel,
            },
            "unsubscribe" => Request::Unsubscribe {
                scope: scope(row),
                targets,
                channel,
            },
            "trigger" => {
                let events = [Event::Connect, Event::Reconnect, Event::Disconnect];
                let mut words = row.scenario.split(' ');
                let event = words.find_map(|word| events.into_iter().find(|e| e.as_str() == word));
                Request::Trigger {
                    event: event.expect("is named").code(),
                    cid: id(row, "cid"),
                    uid: id(row, "uid"),
                }
            }
            "deliver" => Request::Deliver {
                cid: id(row, "cid"),
                uid: id(row, "uid"),
                packet: PACKET,
            },
            "getstate" => Request::GetState,
            "setstate" => Request::SetState {
                state: state(row).code(),
            },
            other => panic!("{other}"),
        };
        check_request(seq, request, row);
    }
    assert!(
        rows.is_empty() || requests.len() == 99,
        "{}",
        requests.len()
    );
}

#[test]
fn every_recorded_answer_is_encoded_and_decoded_as_due_does() {
    let rows = rows("drpc");
    let answers: Vec<_> = rows.iter().filter(|row| row.dir == "res").collect();
    for row in &answers {
        let name = row.scenario.split(' ').next().expect("has a name");
        let op = Op::all().find(|op| format!("{op:?}").to_lowercase() == name);
        let op = op.unwrap_or_else(|| panic!("{row:?}"));
        let code = Code::from_code(row.number("code").expect("has a code"));
        let mut answer = Answer::new(op.code(), code);
        match &mut answer.value {
            Value::Ip(ip) => *ip = row.number("ip"),
            Value::Total(total) => *total = row.number("total").expect("has a total"),
            Value::Online(online) => *online = row.number("online").expect("tells it"),
            Value::State(found) => *found = state(row).code(),
            _ => {}
        }
        let seq = row.number("seq").expect("has a seq");
        // Here due announces 8 bytes that it does not send. We announce what we send.
        if op == Op::Publish && code != Code::Done {
            let wire = answer_bytes(seq, answer);
            assert_eq!(hex(&wire[4..]), row.data[8..], "{row:?}");
            assert_eq!((row.bytes()[3], wire[3]), (20, 12));
            continue;
        }
        // Here due tells 0.0.0.0. We leave an address out that is not IPv4.
        if row.scenario.ends_with("ip=::1") {
            let wire = answer_bytes(seq, answer);
            assert_eq!(hex(&wire), "0000000c000400000000000000020000");
            continue;
        }
        check_answer(seq, answer, row);
        let mut wire = row.bytes();
        let found = Answer::decode(&frame(&mut wire)).expect("is one");
        // With another code than 0, most values are left out.
        if code == Code::Done || matches!(answer.value, Value::Online(_) | Value::State(_)) {
            assert_eq!(found, answer, "{row:?}");
        }
    }
    assert!(rows.is_empty() || answers.len() == 71, "{}", answers.len());
    let heartbeats = rows.iter().filter(|row| row.dir == "both");
    for row in heartbeats {
        check_heartbeat(row);
    }
}

fn check_heartbeat(row: &Row) {
    assert_eq!(row.data, "0000000180");
    let sent = encode_to_vec(&mut FrameCodec::default(), LinkHeartbeat);
    assert_eq!(sent.expect("fits"), row.bytes());
    assert_eq!(LinkHeartbeat.as_bytes(), row.bytes());
    let expected = vec!["Heartbeat".to_owned()];
    let found = every_split(&FrameCodec::default(), &row.bytes());
    assert_eq!(found, (expected, None));
}

/// Due's own faults, as they look from here.
#[test]
fn what_due_writes_by_mistake_costs_only_its_frame() {
    for row in rows("drpc_quirk") {
        if row.scenario.starts_with("publish channel of 300") {
            // The length is cut to 44, so that most of the name is taken for the packet.
            let mut wire = row.bytes();
            let frame = frame(&mut wire);
            let Ok(Request::Publish {
                channel, packet, ..
            }) = Request::decode(&frame)
            else {
                panic!("{frame:?}");
            };
            assert_eq!((channel, packet.len() > 256), (&*"c".repeat(44), true));
            let channel = &*"c".repeat(300);
            let disconnect = false;
            let request = Request::Publish {
                channel,
                disconnect,
                packet: PACKET,
            };
            let error = request.encode_into(2, &mut Vec::new());
            assert!(matches!(error, Err(Error::TooLarge { len: 300, .. })));
        } else if row.scenario.starts_with("multicast with 8192") {
            let mut wire = row.bytes();
            wire.resize(4 + 0x1000e, 0);
            let frame = frame(&mut wire);
            let Ok(Request::Multicast { targets, .. }) = Request::decode(&frame) else {
                panic!("{frame:?}");
            };
            assert_eq!(targets.len(), 8192);
        } else {
            assert_eq!(row.dir, "note", "{row:?}");
        }
    }
}

/// Each request that a stand-in sent to a due gate or node, and each answer, is what this crate makes of the same values. The
/// exceptions are listed.
#[test]
fn recorded_conversations_with_gates_and_nodes_are_understood() {
    let mut seen = 0;
    for area in ["drpc_gate", "drpc_gate_bad", "drpc_node"] {
        for row in rows(area) {
            seen += 1;
            match (row.dir.as_str(), row.data.as_str()) {
                (_, "0000000180") => check_heartbeat(&row),
                ("c>s", _) => check_conversation_request(&row),
                ("s>c", "FIN") => {}
                ("s>c", data) if data.starts_with("NOTHING") => {}
                ("s>c", _) if row.scenario.starts_with("publish to a channel without") => {
                    // Announces 20 bytes and has 12.
                    let input = &mut row.bytes();
                    let decoded = FrameCodec::default().decode(input).expect("is open");
                    assert_eq!(decoded, Decoded::NeedMore { at_least: 24 });
                }
                ("s>c", _) => check_recorded_answer(&row),
                _ => panic!("{row:?}"),
            }
        }
    }
    assert!(seen == 0 || seen == 94 + 28 + 40, "{seen}");
}

fn check_conversation_request(row: &Row) {
    let mut wire = row.bytes();
    // The engine closes a link for these.
    if let "size 0" | "size 2, op without seq" = row.scenario.as_str() {
        let error = FrameCodec::default().decode(&mut wire).err();
        assert_eq!(kind(&error.expect("is no frame")), "malformed", "{row:?}");
        return;
    }
    let frame = frame(&mut wire);
    let request = Request::decode(&frame);
    let expected = match row.scenario.as_str() {
        "unknown op 99" => "an unknown operation",
        "bind too short" => "shorter",
        "bind too long" => "longer",
        text if text.contains("bad kind") => "a scope",
        _ => {
            let request = request.expect("is sound");
            assert_eq!(hex(&request_bytes(frame.seq, request)), row.data, "{row:?}");
            return check_division(&row.bytes());
        }
    };
    let error = request.expect_err("due does not serve it");
    assert!(error.to_string().contains(expected), "{row:?}: {error}");
    assert!(matches!(error, Error::InvalidMessage { .. }));
}

fn check_recorded_answer(row: &Row) {
    let mut wire = row.bytes();
    let frame = frame(&mut wire);
    let answer = Answer::decode(&frame).expect("is sound");
    assert_eq!(hex(&answer_bytes(frame.seq, answer)), row.data, "{row:?}");
    check_division(&row.bytes());
    if row.scenario.contains("bad kind") {
        // The answer to a request whose body is faulty.
        let refused = Answer::new(frame.op, Code::Failed);
        assert_eq!(hex(&answer_bytes(frame.seq, refused)), row.data, "{row:?}");
    }
}

#[test]
fn every_recorded_link_is_understood_as_a_stream() {
    let rows = rows("link");
    let mut streams = std::collections::BTreeMap::<_, Vec<u8>>::new();
    let mut frames = 0;
    for row in &rows {
        if row.dir == "note" {
            continue;
        }
        let pair = row.scenario.split(' ').next().expect("is first").to_owned();
        let conn: u32 = row.number("conn").expect("has one");
        let dir = row.dir.clone();
        let stream = streams.entry((pair, conn, dir)).or_default();
        stream.extend_from_slice(&row.bytes());
        frames += 1;
        match row.dir.as_str() {
            _ if row.scenario.ends_with("heartbeat") => check_heartbeat(row),
            "dialler" => {
                let mut wire = row.bytes();
                let frame = frame(&mut wire);
                let request = Request::decode(&frame).expect("due sent it");
                let name = format!("{:?}", request.op()).to_lowercase();
                assert!(row.scenario.ends_with(&name), "{row:?} {name}");
                assert_eq!(hex(&request_bytes(frame.seq, request)), row.data);
            }
            "listener" => check_recorded_answer(row),
            other => panic!("{other}"),
        }
    }
    let mut found = 0;
    for stream in streams.values() {
        let (frames, error) = every_split(&FrameCodec::default(), stream);
        assert_eq!(error, None);
        found += frames.len();
    }
    assert_eq!(found, frames);
    assert!(rows.is_empty() || frames > 200, "{frames}");
}

#[test]
fn the_extensions_have_these_bytes() {
    let hello = Hello {
        version: 1,
        features: 0,
        nonce: *b"0123456789abcdef",
    };
    let target = Target {
        scope: Scope::User,
        id: 7,
    };
    let cases = [
        (
            Request::Hello(hello),
            "0000001f 00 20 0000000000000002 01 00000000 30313233343536373839616263646566",
        ),
        (
            Request::Prove { mac: [0xab; 32] },
            &*format!("0000002a 00 21 0000000000000002 {}", "ab".repeat(32)),
        ),
        (Request::Bye, "0000000a 00 22 0000000000000002"),
        (
            Request::Reject {
                cid: 3,
                route: -1,
                seq: 258,
                reason: RejectReason::Draining,
            },
            "0000001b 00 23 0000000000000002 0000000000000003 ffffffff 00000102 03",
        ),
        (
            Request::GetAddr { target },
            "00000013 00 24 0000000000000002 02 0000000000000007",
        ),
        (Request::Ping, "0000000a 00 25 0000000000000002"),
        (
            Request::GetToken { target },
            "00000013 00 26 0000000000000002 02 0000000000000007",
        ),
        (
            Request::Take {
                cid: 3,
                last: 258,
                token: "ab",
            },
            "0000001c 00 27 0000000000000002 0000000000000003 0000000000000102 6162",
        ),
        (
            Request::Leave { cid: 3 },
            "00000012 00 28 0000000000000002 0000000000000003",
        ),
        (
            Request::GiveBack { cid: 3, uid: 4 },
            "0000001a 00 29 0000000000000002 0000000000000003 0000000000000004",
        ),
        (
            Request::PassOn {
                cid: 3,
                uid: 4,
                disconnect: true,
                packet: b"ab",
            },
            "0000001c 40 2a 0000000000000002 0000000000000003 0000000000000004 6162",
        ),
        (
            Request::Collected { cid: 3 },
            "00000012 00 2b 0000000000000002 0000000000000003",
        ),
    ];
    for (request, expected) in cases {
        assert!(request.op().is_extension());
        let mut wire = request_bytes(2, request);
        assert_eq!(hex(&wire), expected.replace(' ', ""));
        assert_eq!(Request::decode(&frame(&mut wire)).expect("is one"), request);
        check_division(&wire);
    }
    let answer = |op: Op, value| Answer {
        op: op.code(),
        code: Code::Done,
        value,
    };
    let taken = Taken::encode(7, ["ab"], [&b"cd"[..]]).expect("is short");
    let taken = Taken::read(&taken).expect("was encoded");
    let cases = [
        (
            answer(Op::Hello, Value::Hello(hello, None)),
            "00000021 00 20 0000000000000002 0000 01 00000000 30313233343536373839616263646566",
        ),
        (
            answer(Op::Hello, Value::Hello(hello, Some([0xcd; 32]))),
            &*format!(
                "00000041 00 20 0000000000000002 0000 01 00000000 30313233343536373839616263646566 {}",
                "cd".repeat(32)
            ),
        ),
        (
            answer(Op::GetAddr, Value::Addr("[::1]:5")),
            "00000013 00 24 0000000000000002 0000 5b3a3a315d3a35",
        ),
        (
            answer(Op::Ping, Value::None),
            "0000000c 00 25 0000000000000002 0000",
        ),
        (
            answer(Op::GetToken, Value::Token("ab")),
            "0000000e 00 26 0000000000000002 0000 6162",
        ),
        (
            answer(Op::Take, Value::Taken(taken)),
            "0000001f 00 27 0000000000000002 0000 0000000000000007 0001 02 6162 00000002 6364",
        ),
        (
            answer(Op::Prove, Value::None),
            "0000000c 00 21 0000000000000002 0000",
        ),
    ];
    for (answer, expected) in cases {
        let mut wire = answer_bytes(2, answer);
        assert_eq!(hex(&wire), expected.replace(' ', ""));
        assert_eq!(Answer::decode(&frame(&mut wire)).expect("is one"), answer);
    }
    for code in 0..=u8::MAX {
        assert_eq!(RejectReason::from_code(code).code(), code);
        assert!(Op::from_code(code).is_none_or(|op| op.code() == code));
    }
    assert_eq!(
        (0..=255).filter_map(Op::from_code).count(),
        Op::all().count()
    );
}

#[test]
fn a_frame_that_cannot_be_is_refused_at_its_size() {
    for size in [0, 2, 3, 5, 8, 9] {
        let mut head = u32::to_be_bytes(size).to_vec();
        let error = FrameCodec::default().decode(&mut head).err();
        assert_eq!(kind(&error.expect("is too short")), "malformed", "{size}");
    }
    for size in [MAX_FRAME as u32 - 3, 1 << 31, u32::MAX] {
        let mut head = size.to_be_bytes().to_vec();
        let error = FrameCodec::default().decode(&mut head).err();
        assert_eq!(kind(&error.expect("is too long")), "too long", "{size}");
    }
    let mut longest = (MAX_FRAME as u32 - 4).to_be_bytes().to_vec();
    longest.push(0);
    let decoded = FrameCodec::default().decode(&mut longest).expect("is open");
    assert_eq!(
        decoded,
        Decoded::NeedMore {
            at_least: MAX_FRAME
        }
    );
    // Without the bit of a heartbeat, a size of 1 is no frame; with it, any other size is none.
    for input in [&b"\0\0\0\x01\0"[..], b"\0\0\0\x0a\x80", b"\0\0\0\x01\x40"] {
        let error = FrameCodec::default().decode(&mut input.to_vec()).err();
        assert_eq!(kind(&error.expect("is none")), "malformed");
    }
}

#[test]
fn a_faulty_body_is_told_and_nothing_is_read_past_its_end() {
    let targets = Targets::from(&[1, 2]);
    let (scope, disconnect, packet) = (Scope::Conn, false, &b""[..]);
    let target = Target { scope, id: 1 };
    let hello = Hello {
        version: 1,
        features: 2,
        nonce: [3; 16],
    };
    // Each with the shortest body that it has.
    let requests = [
        Request::Handshake { kind: 1, id: "" },
        Request::Bind { cid: 1, uid: 1 },
        Request::Unbind { uid: 1 },
        Request::GetIp { target },
        Request::Stat { scope },
        Request::IsOnline { target },
        Request::Disconnect {
            target,
            force: true,
        },
        Request::Push {
            target,
            disconnect,
            packet,
        },
        Request::Multicast {
            scope,
            targets,
            disconnect,
            packet,
        },
        Request::Broadcast {
            scope,
            disconnect,
            packet,
        },
        Request::Publish {
            channel: "c",
            disconnect,
            packet,
        },
        Request::Subscribe {
            scope,
            targets,
            channel: "",
        },
        Request::Unsubscribe {
            scope,
            targets,
            channel: "",
        },
        Request::Trigger {
            event: 1,
            cid: 1,
            uid: 0,
        },
        Request::Deliver {
            cid: 1,
            uid: 1,
            packet,
        },
        Request::SetState { state: 1 },
        Request::Hello(hello),
        Request::Prove { mac: [1; 32] },
        Request::Reject {
            cid: 1,
            route: 1,
            seq: 1,
            reason: RejectReason::Moved,
        },
        Request::GetAddr { target },
    ];
    let mut tried = 0;
    for request in requests {
        let wire = request_bytes(1, request);
        let body = &wire[14..];
        let whole = Frame {
            op: request.op().code(),
            seq: 1,
            disconnect: false,
            body,
        };
        assert_eq!(Request::decode(&whole).expect("is whole"), request);
        for end in 0..body.len() {
            let cut = Frame {
                body: &body[..end],
                ..whole
            };
            let found = Request::decode(&cut);
            assert!(found.is_err(), "{request:?} of {end} bytes is {found:?}");
            tried += 1;
        }
    }
    assert!(tried > 200, "{tried}");
    // A count that is higher than the targets that follow.
    let body = b"\x01\xff\xff\0\0\0\0\0\0\0\x01";
    for op in [Op::Multicast, Op::Subscribe, Op::Unsubscribe] {
        let frame = Frame {
            op: op.code(),
            seq: 1,
            disconnect: false,
            body,
        };
        assert!(Request::decode(&frame).is_err());
    }
    let not_text = Frame {
        op: Op::Publish.code(),
        seq: 1,
        disconnect: false,
        body: b"\x01\xff",
    };
    assert!(Request::decode(&not_text).is_err());
}

#[test]
fn what_cannot_be_encoded_leaves_nothing_behind() {
    let (scope, disconnect, packet) = (Scope::User, false, PACKET);
    let many = vec![1; MAX_TARGETS + 1];
    let channel = &*"x".repeat(MAX_CHANNEL + 1);
    let huge = &*vec![0; MAX_FRAME];
    let refused = [
        Request::Multicast {
            scope,
            targets: Targets::from(&many[..]),
            disconnect,
            packet,
        },
        Request::Publish {
            channel,
            disconnect,
            packet,
        },
        Request::Subscribe {
            scope,
            targets: Targets::from(&many[..1]),
            channel,
        },
        Request::Deliver {
            cid: 1,
            uid: 1,
            packet: huge,
        },
    ];
    for request in refused {
        let mut dst = b"before".to_vec();
        let error = request.encode_into(1, &mut dst).expect_err("is too large");
        assert!(matches!(error, Error::TooLarge { .. }), "{error}");
        assert_eq!(dst, b"before");
    }
    let mut dst = b"before".to_vec();
    let wrong = [
        (Op::Bind, Value::Total(1)),
        (Op::IsOnline, Value::None),
        (Op::GetState, Value::Online(true)),
        (Op::Stat, Value::Addr("a")),
    ];
    for (op, value) in wrong {
        let answer = Answer {
            op: op.code(),
            code: Code::Done,
            value,
        };
        let error = answer.encode_into(1, &mut dst).expect_err("is of another");
        assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");
        assert_eq!(dst, b"before");
    }
    // The longest of each are allowed.
    request_bytes(
        1,
        Request::Multicast {
            scope,
            targets: Targets::from(&many[1..]),
            disconnect,
            packet,
        },
    );
    request_bytes(
        1,
        Request::Publish {
            channel: &channel[1..],
            disconnect,
            packet,
        },
    );
    request_bytes(
        1,
        Request::Deliver {
            cid: 1,
            uid: 1,
            packet: &huge[..MAX_FRAME - 30],
        },
    );
}

#[test]
fn a_long_list_of_targets_goes_in_several_frames_and_each_target_is_in_one() {
    let mut targets: Vec<i64> = (0..10_000).map(|n| n % 9_500 - 5).collect();
    targets.push(-5);
    let unique = unique_targets(&targets);
    let mut sent = Vec::new();
    let mut frames = 0;
    for part in unique.chunks(MAX_TARGETS) {
        let mut wire = request_bytes(
            1,
            Request::Multicast {
                scope: Scope::Conn,
                targets: Targets::from(part),
                disconnect: false,
                packet: PACKET,
            },
        );
        let frame = frame(&mut wire);
        let Ok(Request::Multicast {
            targets, packet, ..
        }) = Request::decode(&frame)
        else {
            panic!("{frame:?}");
        };
        assert_eq!(packet, PACKET);
        sent.extend(targets.iter());
        frames += 1;
    }
    assert_eq!(frames, 10);
    assert_eq!(sent, (-5..9_495).collect::<Vec<_>>());
}

/// The expected proofs were computed with Python's `hmac`.
#[test]
fn a_proof_is_that_of_its_role_nonces_kinds_and_ids() {
    let secret = Secret::new(b"a secret of 24 characters").expect("is long enough");
    let dialler = Party {
        kind: Kind::Gate.code(),
        id: "gate-1",
        nonce: *b"0123456789abcdef",
    };
    let listener = Party {
        kind: Kind::Node.code(),
        id: "node-1",
        nonce: *b"fedcba9876543210",
    };
    let ours = secret.mac(Role::Dialler, &dialler, &listener);
    assert_eq!(hex(&ours), DIALLER);
    let theirs = secret.mac(Role::Listener, &dialler, &listener);
    assert_eq!(hex(&theirs), LISTENER);
    assert!(secret.verify(&ours, Role::Dialler, &dialler, &listener));

    let other = Secret::new(b"another of 24 characters").expect("is long enough");
    let wrong = [
        (&other, Role::Dialler, dialler, listener),
        (&secret, Role::Listener, dialler, listener),
        (&secret, Role::Dialler, listener, dialler),
        (
            &secret,
            Role::Dialler,
            Party { kind: 2, ..dialler },
            listener,
        ),
        (
            &secret,
            Role::Dialler,
            Party {
                id: "gate-2",
                ..dialler
            },
            listener,
        ),
        (
            &secret,
            Role::Dialler,
            Party {
                nonce: [0; 16],
                ..dialler
            },
            listener,
        ),
        (
            &secret,
            Role::Dialler,
            dialler,
            Party {
                id: "node-",
                ..listener
            },
        ),
        (
            &secret,
            Role::Dialler,
            dialler,
            Party {
                nonce: [0; 16],
                ..listener
            },
        ),
    ];
    for (secret, role, dialler, listener) in wrong {
        assert!(!secret.verify(&ours, role, &dialler, &listener));
    }
    assert!(!format!("{secret:?}").contains("characters"));
    let error = Secret::new(b"fifteen bytes..").expect_err("is short");
    assert!(error.to_string().contains("openssl"), "{error}");
}

const DIALLER: &str = "375a5d14e7edbd65fe6190b5c0ba11e6eba7666c0c7c7cce81b7ba00ba52ad63";
const LISTENER: &str = "ecdd8c56f115f31c2046d75006aeed3ee309c8394f55a0e30fc5ffeb23f5882d";

#[test]
fn kinds_states_and_events_have_the_numbers_and_names_of_due() {
    let unhex = |text| unhex(text).expect("is hex")[0];
    for (number, kind) in [
        ("01", "gate"),
        ("02", "node"),
        ("03", "mesh"),
        ("04", "master"),
    ] {
        let kind: Kind = kind.parse().expect("is one");
        assert_eq!(Kind::from_code(unhex(number)), Some(kind));
    }
    for (number, state) in [
        ("00", "shut"),
        ("01", "work"),
        ("02", "busy"),
        ("03", "hang"),
    ] {
        let state: State = state.parse().expect("is one");
        assert_eq!(State::from_code(unhex(number)), Some(state));
    }
    assert_eq!(Event::Reconnect.code(), 2);
    assert!(Kind::from_code(5).is_none() && State::from_code(4).is_none());
    let error = "works".parse::<State>().expect_err("is none");
    assert!(
        error.to_string().contains("shut, work, busy, hang"),
        "{error}"
    );
}
