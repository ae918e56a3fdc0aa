//! [`ClientCodec`] and [`StreamCodec`]: the responses to a few requests, whole or in parts, which must be the same. The
//! options are the limits and the requests.
#![no_main]

use epicycle::codec::{Codec, Encode, FrameError, Stage, encode_to_vec};
use epicycle::http::client::{
    ClientCodec, ClientRequest, ClientResponse, ResponsePart, StreamCodec,
};
use epicycle::http::{Headers, Limits};
use epicycle_fuzz::{Case, Subject, check};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some(case) = Case::<3>::new(data) else {
        return;
    };
    let [head, body, asked] = case.options;
    let settings = Settings {
        head: 4 * usize::from(head),
        body: u64::from(body),
        asked,
    };
    let whole = check(&Responses(settings), &case);
    assert!(whole.frames.len() <= 4 * REQUESTS);
    let parts = check(&Parts(settings), &case);
    assert_eq!(whole.error, parts.error);
    // Parts of a refused response may have been returned already.
    assert!(parts.frames.starts_with(&whole.frames));
    assert!(parts.error.is_some() || parts.frames.len() == whole.frames.len());
});

/// The number of requests.
const REQUESTS: usize = 4;

#[derive(Clone, Copy)]
struct Settings {
    head: usize,
    body: u64,
    /// Two bits for each request.
    asked: u8,
}

impl Settings {
    fn limits(self) -> Limits {
        Limits::default()
            .max_line(self.head)
            .max_head(self.head)
            .max_headers(4)
            .max_body(self.body)
    }

    fn ask<C: for<'a> Encode<ClientRequest<'a>>>(self, mut codec: C) -> C {
        for n in 0..REQUESTS {
            let request = match self.asked >> (2 * n) & 3 {
                0 => ClientRequest::get("a", "/"),
                1 => ClientRequest::new("HEAD", "a", "/"),
                2 => ClientRequest::get("a", "/").upgrade("chat"),
                _ => ClientRequest::new("CONNECT", "a:1", "a:1"),
            };
            // A request behind one that may change the protocol is refused.
            let _ = encode_to_vec(&mut codec, request);
        }
        codec
    }
}

struct Responses(Settings);

impl Subject for Responses {
    type Codec = ClientCodec;

    fn codec(&self) -> ClientCodec {
        self.0.ask(ClientCodec::new(self.0.limits()))
    }

    fn limit(&self) -> usize {
        // A head, chunks of one byte with 16 digits and two line ends each, extensions, and trailers. For a body up to the end
        // of the stream, the codec asks for pieces of 64 KiB.
        3 * self.0.head + 21 * self.0.body as usize + 1024 + (64 << 10)
    }

    fn note(&self, response: ClientResponse<'_>, log: &mut Vec<Vec<u8>>) {
        assert!(response.body().len() as u64 <= self.0.body);
        log.push(about(&response));
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

struct Parts(Settings);

impl Subject for Parts {
    type Codec = StreamCodec;

    fn codec(&self) -> StreamCodec {
        self.0.ask(StreamCodec::new(self.0.limits()))
    }

    fn limit(&self) -> usize {
        // A head, trailers, or the line before a chunk.
        (self.0.head + 1).max(1024)
    }

    fn note(&self, part: ResponsePart<'_>, log: &mut Vec<Vec<u8>>) {
        match part {
            ResponsePart::Interim(response) => {
                assert!(!response.has_body() && !response.is_upgrade())
            }
            ResponsePart::Head(response) => {
                log.push(about(&response));
                log.push(listed(response.headers()));
                log.push(Vec::new());
                if response.is_upgrade() {
                    log.push(Vec::new());
                }
            }
            ResponsePart::Body(bytes) => {
                let body = log.last_mut().expect("a head comes before");
                body.extend_from_slice(bytes);
                assert!(!bytes.is_empty() && body.len() as u64 <= self.0.body);
            }
            ResponsePart::End(trailers) => log.push(listed(trailers)),
            ResponsePart::Upgraded(bytes) => assert!(!bytes.is_empty()),
            other => panic!("{other:?}"),
        }
    }

    fn is_over(&self, codec: &StreamCodec) -> bool {
        codec.stage() == Stage::Finished
    }

    fn kind(&self, _: &FrameError) -> &'static str {
        "refused"
    }
}

/// Describes a response without `keep_alive`, which depends on further input.
fn about(response: &ClientResponse<'_>) -> Vec<u8> {
    let _ = response.to_http();
    let about = format!(
        "{} {:?} {:?} {} {} {:?}",
        response.status(),
        response.reason(),
        response.version(),
        response.is_upgrade(),
        response.has_body(),
        response.content_length(),
    );
    about.into_bytes()
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
