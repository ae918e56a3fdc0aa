//! The frames between the servers of a cluster: as a stream, and each as a request and as an answer.
#![no_main]

use epicycle::cluster::drpc::{Answer, Frame, FrameCodec, Incoming, MAX_FRAME, Request};
use epicycle::codec::{Codec, Decoded};
use epicycle_fuzz::{Case, Subject, check};
use libfuzzer_sys::fuzz_target;

struct Frames;

impl Subject for Frames {
    type Codec = FrameCodec;

    fn codec(&self) -> FrameCodec {
        FrameCodec::default()
    }

    fn limit(&self) -> usize {
        MAX_FRAME
    }

    fn note(&self, frame: Incoming<'_>, log: &mut Vec<Vec<u8>>) {
        log.push(format!("{frame:?}").into_bytes());
        let Incoming::Frame(frame) = frame else {
            return;
        };
        let mut wire = Vec::new();
        if let Ok(request) = Request::decode(&frame) {
            // More targets than this side sends, or a longer channel, may be received.
            if request.encode_into(frame.seq, &mut wire).is_ok() {
                assert_eq!(
                    Request::decode(&single(&mut wire)).expect("is sound"),
                    request
                );
            }
        }
        wire.clear();
        if let Ok(answer) = Answer::decode(&frame) {
            answer
                .encode_into(frame.seq, &mut wire)
                .expect("was received");
            let again = Answer::decode(&single(&mut wire)).expect("is sound");
            assert_eq!((again.op, again.code), (answer.op, answer.code));
        }
    }
}

/// Decodes bytes that are one frame.
fn single(wire: &mut [u8]) -> Frame<'_> {
    let len = wire.len();
    match FrameCodec::default().decode(wire) {
        Ok(Decoded::Frame {
            frame: Incoming::Frame(frame),
            consumed,
        }) if consumed == len => frame,
        other => panic!("{other:?}"),
    }
}

fuzz_target!(|data: &[u8]| {
    if let Some(case) = Case::<0>::new(data) {
        check(&Frames, &case);
    }
});
