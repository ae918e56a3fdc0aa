//! The packets between clients and gates. The options are their format.
#![no_main]

use epicycle::cluster::packet::{PacketCodec, PacketFrame, PacketOptions};
use epicycle::codec::{ByteOrder, Codec};
use epicycle_fuzz::{Case, Subject, check};
use libfuzzer_sys::fuzz_target;

struct Packets(PacketOptions);

impl Subject for Packets {
    type Codec = PacketCodec;

    fn codec(&self) -> PacketCodec {
        PacketCodec::new(self.0)
    }

    fn limit(&self) -> usize {
        // A heartbeat with a time may be longer than any packet.
        self.0.max_packet().max(13)
    }

    fn note(&self, frame: <PacketCodec as Codec>::Frame<'_>, log: &mut Vec<Vec<u8>>) {
        log.push(format!("{frame:?}").into_bytes());
        let encoded = match frame {
            PacketFrame::Packet { packet, whole } => {
                let encoded = self.0.encode(&packet).expect("it was received");
                let ours = self.0.decode_message(encoded.as_bytes());
                let Ok(PacketFrame::Packet { packet: ours, .. }) = ours else {
                    panic!("{ours:?}");
                };
                assert_eq!(ours, packet);
                assert_eq!(encoded.as_bytes().len(), whole.len());
                return;
            }
            PacketFrame::Heartbeat(heartbeat) => self.0.encode_heartbeat(heartbeat),
            PacketFrame::Control(control) => {
                self.0.encode_control(&control).expect("it was received")
            }
            _ => return,
        };
        let again = self.0.decode_message(encoded.as_bytes());
        assert_eq!(again.expect("it was encoded"), frame);
    }
}

fuzz_target!(|data: &[u8]| {
    let Some(case) = Case::<4>::new(data) else {
        return;
    };
    let [order, route, seq, max] = case.options;
    let options = PacketOptions::builder()
        .byte_order([ByteOrder::Big, ByteOrder::Little][usize::from(order % 2)])
        .route_bytes([1, 2, 4][usize::from(route % 3)])
        .seq_bytes([0, 1, 2, 4][usize::from(seq % 4)])
        .max_data(max.into())
        .build();
    let subject = Packets(options.expect("is supported"));
    check(&subject, &case);
    // The same input as one message.
    let _ = subject.0.decode_message(&case.input);
});
