use std::net::Ipv4Addr;

use epicycle::cluster::drpc::{
    Answer, Code, Frame, FrameCodec, Hello, Op, RejectReason, Request, Scope, Taken, Target,
    Targets, Value,
};
use proptest::prelude::*;

use crate::drpc::{answer_bytes, frame, request_bytes};
use crate::feed::every_split;

/// The values that requests are made of.
#[derive(Clone, Debug)]
struct Material {
    target: Target,
    ids: [i64; 2],
    numbers: Vec<i64>,
    text: String,
    packet: Vec<u8>,
    byte: u8,
    flag: bool,
    nonce: [u8; 16],
}

fn material() -> impl Strategy<Value = Material> {
    let scope = prop_oneof![Just(Scope::Conn), Just(Scope::User)];
    let target = (scope, any::<i64>()).prop_map(|(scope, id)| Target { scope, id });
    let numbers = proptest::collection::vec(any::<i64>(), 0..20);
    let packet = proptest::collection::vec(any::<u8>(), 0..50);
    let small = (any::<u8>(), any::<bool>(), any::<[u8; 16]>());
    (
        target,
        any::<[i64; 2]>(),
        numbers,
        "\\PC{0,20}",
        packet,
        small,
    )
        .prop_map(
            |(target, ids, numbers, text, packet, (byte, flag, nonce))| Material {
                target,
                ids,
                numbers,
                text,
                packet,
                byte,
                flag,
                nonce,
            },
        )
}

/// One request of each operation.
fn requests(of: &Material) -> Vec<Request<'_>> {
    let Material {
        target,
        ids: [cid, uid],
        byte,
        flag: disconnect,
        nonce,
        ..
    } = *of;
    let (scope, packet, channel) = (target.scope, &*of.packet, &*of.text);
    let targets = Targets::from(&of.numbers[..]);
    vec![
        Request::Handshake {
            kind: byte,
            id: channel,
        },
        Request::Bind { cid, uid },
        Request::Unbind { uid },
        Request::GetIp { target },
        Request::Stat { scope },
        Request::IsOnline { target },
        Request::Disconnect {
            target,
            force: disconnect,
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
            channel,
            disconnect,
            packet,
        },
        Request::Subscribe {
            scope,
            targets,
            channel,
        },
        Request::Unsubscribe {
            scope,
            targets,
            channel,
        },
        Request::Trigger {
            event: byte,
            cid,
            uid,
        },
        Request::Deliver { cid, uid, packet },
        Request::GetState,
        Request::SetState { state: byte },
        Request::Hello(Hello {
            version: byte,
            features: cid as u32,
            nonce,
        }),
        Request::Prove {
            mac: [nonce, nonce].concat().try_into().expect("is 32 bytes"),
        },
        Request::Bye,
        Request::Reject {
            cid,
            route: uid as i32,
            seq: cid as i32,
            reason: RejectReason::from_code(byte),
        },
        Request::GetAddr { target },
        Request::Ping,
        Request::GetToken { target },
        Request::Take {
            cid,
            last: uid as u64,
            token: channel,
        },
        Request::Leave { cid },
        Request::GiveBack { cid, uid },
        Request::PassOn {
            cid,
            uid,
            disconnect,
            packet,
        },
        Request::Collected { cid },
    ]
}

proptest! {
    #[test]
    fn requests_that_are_encoded_are_decoded(of in material(), seq in any::<u64>()) {
        let requests = requests(&of);
        prop_assert!(requests.iter().map(Request::op).eq(Op::all()));
        for request in requests {
            let mut wire = request_bytes(seq, request);
            let frame = frame(&mut wire);
            prop_assert_eq!(frame.seq, seq);
            prop_assert_eq!(Request::decode(&frame).expect("was encoded"), request);
        }
    }

    #[test]
    fn answers_that_are_encoded_are_decoded(of in material(), seq in any::<u64>(), code in 0..4_u16) {
        let code = Code::from_code(code);
        let pushes = of.numbers.iter().map(|_| &*of.packet);
        let taken = Taken::encode(of.ids[0], [&*of.text; 2], pushes).expect("is short");
        for op in Op::all() {
            let mut answer = Answer::new(op.code(), code);
            match &mut answer.value {
                Value::Ip(ip) => *ip = Some(Ipv4Addr::from(of.ids[0] as u32)),
                Value::Total(total) => *total = of.ids[0] as u64,
                Value::Online(online) => *online = of.flag,
                Value::State(state) => *state = of.byte,
                Value::Addr(text) | Value::Token(text) => *text = &of.text,
                _ => {}
            }
            if op == Op::Hello && code == Code::Done {
                let hello = Hello { version: of.byte, features: of.ids[1] as u32, nonce: of.nonce };
                answer.value = Value::Hello(hello, of.flag.then_some([of.byte; 32]));
            }
            if op == Op::Take && code == Code::Done {
                let taken = Taken::read(&taken).expect("was encoded");
                prop_assert!(taken.channels().eq([&*of.text; 2]));
                prop_assert!(taken.pushes().eq(of.numbers.iter().map(|_| &*of.packet)));
                answer.value = Value::Taken(taken);
            }
            let mut wire = answer_bytes(seq, answer);
            let found = Answer::decode(&frame(&mut wire)).expect("was encoded");
            let is_left_out = code != Code::Done && matches!(answer.value, Value::Ip(_) | Value::Total(_));
            let expected = if is_left_out { Answer::new(op.code(), code) } else { answer };
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn no_stream_is_read_differently_in_pieces(
        input in proptest::collection::vec(prop_oneof![4 => Just(0), 1 => Just(1), 1 => Just(0x80), 1 => 9..20_u8], 0..60),
    ) {
        every_split(&FrameCodec::default(), &input);
    }

    #[test]
    fn no_body_makes_the_decoder_panic_and_a_decoded_one_is_encoded_again(
        op in 0..44_u8,
        body in proptest::collection::vec(prop_oneof![Just(0), Just(1), Just(2), any::<u8>()], 0..60),
    ) {
        let frame = Frame { op, seq: 1, disconnect: false, body: &body };
        if let Ok(request) = Request::decode(&frame) {
            let mut wire = request_bytes(1, request);
            let again = crate::drpc::frame(&mut wire);
            prop_assert_eq!(Request::decode(&again).expect("was encoded"), request);
        }
        if let Ok(answer) = Answer::decode(&frame) {
            let mut wire = answer_bytes(1, answer);
            let again = Answer::decode(&crate::drpc::frame(&mut wire)).expect("was encoded");
            prop_assert_eq!((again.op, again.code), (answer.op, answer.code));
        }
    }
}
