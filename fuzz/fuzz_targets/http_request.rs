//! [`HttpCodec`]: requests, with their bodies in one piece. The options are the limits and how a request is answered.
#![no_main]

use epicycle::codec::{FrameError, encode_to_vec};
use epicycle::http::{Chunk, End, HttpCodec, Limits, Request, Response, StatusCode};
use epicycle_fuzz::{Case, Subject, check};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some(case) = Case::<3>::new(data) else {
        return;
    };
    let [head, body, answer] = case.options;
    let requests = Requests {
        head: 4 * usize::from(head),
        body: u64::from(body),
        answer,
    };
    check(&requests, &case.ended_by(b"\r\n\r\n"));
});

struct Requests {
    head: usize,
    body: u64,
    answer: u8,
}

impl Subject for Requests {
    type Codec = HttpCodec;

    fn codec(&self) -> HttpCodec {
        let limits = Limits::default()
            .max_line(self.head)
            .max_head(self.head)
            .max_headers(4)
            .max_body(self.body);
        HttpCodec::new(limits)
    }

    fn limit(&self) -> usize {
        // A head, chunks of one byte with 16 digits and two line ends each, extensions, and trailers.
        3 * self.head + 21 * self.body as usize + 1024
    }

    fn note(&self, request: Request<'_>, log: &mut Vec<Vec<u8>>) {
        assert!(request.body().len() as u64 <= self.body);
        let about = format!(
            "{request:?} {} {:?} {:?} {} {} {:?} {:?} {}",
            request.path(),
            request.query(),
            request.host(),
            request.keep_alive(),
            request.expects_continue(),
            request.content_length(),
            request.trailers(),
            request.wants_upgrade("websocket"),
        );
        let _ = request.to_http();
        log.push(about.into_bytes());
        log.push(request.body().to_vec());
    }

    fn answer(&self, codec: &mut HttpCodec) -> bool {
        let answer = match self.answer % 4 {
            0 => Response::ok().body("hello"),
            1 => Response::new(StatusCode::NO_CONTENT),
            2 => Response::ok().sized(2),
            _ => Response::ok().streamed(),
        };
        // An answer to CONNECT has no body.
        let answered =
            encode_to_vec(codec, answer).or_else(|_| encode_to_vec(codec, Response::ok()));
        if self.answer % 4 > 1 && answered.is_ok() {
            // Where the answer has no body they are refused.
            let _ = encode_to_vec(codec, Chunk(b"ab"));
            let _ = encode_to_vec(codec, End);
        }
        answered.is_ok()
    }

    fn is_over(&self, codec: &HttpCodec) -> bool {
        use epicycle::codec::{Codec, Stage};
        codec.is_upgraded() || codec.stage() == Stage::Finished
    }

    fn kind(&self, _: &FrameError) -> &'static str {
        // Of several faults the one that is seen first depends on how much has come.
        "refused"
    }
}
