use epicycle::cluster::packet::{
    Control, GoodbyeReason, Heartbeat, Packet, PacketCodec, PacketFrame, PacketOptions,
    ResumeRefusal,
};
use epicycle::codec::ByteOrder;
use proptest::prelude::*;

use crate::feed::every_split;

fn options() -> impl Strategy<Value = PacketOptions> {
    let order = prop_oneof![Just(ByteOrder::Big), Just(ByteOrder::Little)];
    let route = prop_oneof![Just(1), Just(2), Just(4)];
    let seq = prop_oneof![Just(0), Just(1), Just(2), Just(4)];
    (order, route, seq, 0..64_usize, any::<bool>()).prop_map(|(order, route, seq, max, time)| {
        let builder = PacketOptions::builder().byte_order(order);
        let builder = builder.route_bytes(route).seq_bytes(seq);
        let built = builder.max_data(max).heartbeat_time(time).build();
        built.expect("is supported")
    })
}

fn control() -> impl Strategy<Value = Control<'static>> {
    prop_oneof![
        (0..3_usize, any::<u64>()).prop_map(|(at, last)| Control::Resume {
            token: ["", "a.b", "频道"][at],
            last
        }),
        any::<u32>().prop_map(|count| Control::Resumed { count }),
        any::<u8>().prop_map(|code| Control::Refused {
            reason: ResumeRefusal::from_code(code)
        }),
        (any::<u8>(), any::<u32>()).prop_map(|(code, retry_ms)| Control::Goodbye {
            reason: GoodbyeReason::from_code(code),
            retry_ms
        }),
        any::<u64>().prop_map(|n| Control::Ack { n }),
        Just(Control::Leave),
    ]
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(
        options in options(),
        route in any::<i32>(),
        seq in any::<i32>(),
        data in proptest::collection::vec(any::<u8>(), 0..80),
        narrow in any::<bool>(),
    ) {
        let (route, seq) = if narrow { (route % 100, seq % 100) } else { (route, seq) };
        let packet = Packet { route, seq, data: &data };
        let mut dst = vec![7];
        let encoded = options.encode_into(&packet, &mut dst);
        let limit = |bytes| if bytes == 4 { i64::from(i32::MAX) } else { (1_i64 << (8 * bytes - 1)) - 1 };
        let fits = |value: i32, bytes| i64::from(value) <= limit(bytes) && i64::from(value) >= -limit(bytes) - 1;
        let all_fits = fits(route, options.route_bytes())
            && (options.seq_bytes() == 0 || fits(seq, options.seq_bytes()))
            && data.len() <= options.max_data();
        prop_assert_eq!(encoded.is_ok(), all_fits);
        if !all_fits {
            prop_assert_eq!(dst, [7]);
            return Ok(());
        }
        let wire = &dst[1..];
        prop_assert!(wire.len() <= options.max_packet());
        let seq = if options.seq_bytes() == 0 { 0 } else { seq };
        let packet = Packet { route, seq, data: &data };
        let frame = PacketFrame::Packet { packet, whole: wire };
        prop_assert_eq!(options.decode_message(wire).expect("was encoded"), frame);
        let (frames, error) = every_split(&PacketCodec::new(options), wire);
        prop_assert_eq!((frames, error), (vec![format!("{frame:?}")], None));
    }

    #[test]
    fn controls_and_heartbeats_that_are_encoded_are_decoded(
        options in options(),
        control in control(),
        time in any::<Option<i64>>(),
    ) {
        if let Ok(wire) = options.encode_control(&control) {
            let frame = options.decode_message(wire.as_bytes()).expect("was encoded");
            prop_assert_eq!(frame, PacketFrame::Control(control));
        }
        let heartbeat = Heartbeat { time };
        let wire = options.encode_heartbeat(heartbeat);
        let frame = options.decode_message(wire.as_bytes()).expect("was encoded");
        prop_assert_eq!(frame, PacketFrame::Heartbeat(heartbeat));
    }

    #[test]
    fn no_input_is_read_differently_in_pieces(
        options in options(),
        input in proptest::collection::vec(prop_oneof![Just(0), Just(1), Just(0x80), any::<u8>()], 0..60),
    ) {
        every_split(&PacketCodec::new(options), &input);
    }
}
