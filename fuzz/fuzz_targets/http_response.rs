//! [`ClientCodec`]: the responses to a few requests. The options are the limits and the requests.
#![no_main]

use epicycle::codec::{Codec, FrameError, Stage, encode_to_vec};
use epicycle::http::client::{ClientCodec, Request, Response};
use epicycle::http::{Headers, Limits};
use epicycle_fuzz::{Case, Subject, check};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some(case) = Case::<3>::new(data) else {
        return;
    };
    let [head, body, asked] = case.options;
    let responses = Responses {
        head: 4 * usize::from(head),
        body: u64::from(body),
        asked,
    };
    let outcome = check(&responses, &case);
    assert!(outcome.frames.len() <= 4 * REQUESTS);
});

/// The number of requests.
const REQUESTS: usize = 4;

struct Responses {
    head: usize,
    body: u64,
    /// Two bits for each request.
    asked: u8,
}

impl Subject for Responses {
    type Codec = ClientCodec;

    fn codec(&self) -> ClientCodec {
        let limits = Limits::default()
            .max_line(self.head)
            .max_head(self.head)
            .max_headers(4)
            .max_body(self.body);
        let mut codec = ClientCodec::new(limits);
        for n in 0..REQUESTS {
            let request = match self.asked >> (2 * n) & 3 {
                0 => Request::get("a", "/"),
                1 => Request::new("HEAD", "a", "/"),
                2 => Request::get("a", "/").upgrade("chat"),
                _ => Request::new("CONNECT", "a:1", "a:1"),
            };
            // A request behind one that may change the protocol is refused.
            let _ = encode_to_vec(&mut codec, request);
        }
        codec
    }

    fn limit(&self) -> usize {
        // A head, chunks of one byte with 16 digits and two line ends each, extensions, and trailers. For a body up to the end
        // of the stream, the codec asks for pieces of 64 KiB.
        3 * self.head + 21 * self.body as usize + 1024 + (64 << 10)
    }

    fn note(&self, response: Response<'_>, log: &mut Vec<Vec<u8>>) {
        assert!(response.body().len() as u64 <= self.body);
        let _ = response.to_http();
        // Without `is_keep_alive`, which depends on further input.
        let about = format!(
            "{} {:?} {:?} {}",
            response.status(),
            response.reason(),
            response.version(),
            response.is_upgrade(),
        );
        log.push(about.into_bytes());
        log.push(listed(response.headers()));
        log.push(response.body().to_vec());
        log.push(listed(response.trailers()));
    }

    fn is_over(&self, codec: &ClientCodec) -> bool {
        codec.is_upgraded() || codec.stage() == Stage::Finished
    }

    /// Returns one kind for all errors: if the input has several faults, the division decides which is found first.
    fn kind(&self, _: &FrameError) -> &'static str {
        "refused"
    }
}

fn listed(headers: Headers<'_>) -> Vec<u8> {
    let mut list = Vec::new();
    for (name, value) in headers {
        assert!(!name.is_empty());
        for part in [name.as_bytes(), b": ", value, b"\r\n"] {
            list.extend_from_slice(part);
        }
    }
    list
}
