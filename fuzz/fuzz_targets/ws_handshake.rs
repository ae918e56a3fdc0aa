//! The opening handshake of a WebSocket, and frames after it: the requests of a client, and the answers of a server. The
//! option selects the compression.
#![no_main]

use std::cell::RefCell;

use epicycle::codec::{Codec, FrameError, Stage, encode_to_vec};
use epicycle::ws::{
    self, Accept, ClientCodec, Event, Handshake, Incoming, Limits, Refusal, ServerCodec,
};
use epicycle_fuzz::websocket::Settings;
use epicycle_fuzz::{Case, Subject, check};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some(case) = Case::<1>::new(data) else {
        return;
    };
    let case = case.ended_by(b"\r\n\r\n");
    let settings = Settings::new(case.options[0], 256, 256, true);
    let server = Server {
        settings,
        answers: RefCell::default(),
    };
    check(&server, &case);
    check(&Client(settings), &case);
});

struct Server {
    settings: Settings,
    /// The answers to the requests.
    answers: RefCell<Vec<Result<Accept<'static>, Refusal>>>,
}

impl Subject for Server {
    type Codec = ServerCodec;

    fn codec(&self) -> ServerCodec {
        self.answers.borrow_mut().clear();
        let limits = Limits::default().max_frame(256).max_message(256);
        ServerCodec::new(limits).http_limits(epicycle::http::Limits::default().max_body(64))
    }

    fn limit(&self) -> usize {
        // A head and its body, or chunks.
        3 * (16 << 10) + 21 * 64
    }

    fn note(&self, frame: Incoming<'_>, log: &mut Vec<Vec<u8>>) {
        let Incoming::Request(request) = frame else {
            return log.push(format!("{frame:?}").into_bytes());
        };
        let answer = ws::accept(&request)
            .and_then(|accept| accept.origins(["https://a.example"]))
            .map(|accept| accept.protocol(["a", "b"]));
        let answer = answer.map(|accept| match self.settings.deflate {
            Some(options) => accept.deflate(options).into_owned(),
            None => accept.into_owned(),
        });
        log.push(format!("{request:?} is answered {answer:?}").into_bytes());
        self.answers.borrow_mut().push(answer);
    }

    fn answer(&self, codec: &mut ServerCodec) -> bool {
        let answer = self.answers.borrow_mut().pop();
        answer.is_some_and(|answer| {
            encode_to_vec(codec, answer).expect("a request is answered");
            true
        })
    }

    fn kind(&self, _: &FrameError) -> &'static str {
        "refused"
    }

    fn is_over(&self, codec: &ServerCodec) -> bool {
        matches!(codec.stage(), Stage::Finished | Stage::Closing)
    }
}

/// A client. It always refuses the answer in the end, because the fuzzer cannot know its key.
struct Client(Settings);

impl Subject for Client {
    type Codec = ClientCodec;

    fn codec(&self) -> ClientCodec {
        let mut codec = ClientCodec::default();
        let mut handshake = Handshake::new("a", "/").protocol("a");
        if let Some(options) = self.0.deflate {
            handshake = handshake.deflate(options);
        }
        encode_to_vec(&mut codec, handshake).expect("a handshake");
        codec
    }

    fn limit(&self) -> usize {
        // One byte more than the longest head.
        (16 << 10) + 1
    }

    fn note(&self, event: Event<'_>, _: &mut Vec<Vec<u8>>) {
        panic!("{event:?} without the key");
    }

    fn kind(&self, _: &FrameError) -> &'static str {
        "refused"
    }
}
