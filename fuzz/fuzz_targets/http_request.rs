//! [`HttpCodec`] and [`HttpStreamCodec`]: requests with their bodies whole or in parts, which must be the same.
//! The options are the limits, and the form and the time of the answers.
#![no_main]

use std::cell::Cell;

use epicycle::codec::{Codec, Encode, FrameError, Stage, encode_to_vec};
use epicycle::http::{
    Chunk, End, Headers, HttpCodec, HttpStreamCodec, Limits, RequestPart, ServerRequest,
    ServerResponse, StatusCode,
};
use epicycle_fuzz::{Case, Subject, check};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some(case) = Case::<3>::new(data) else {
        return;
    };
    let case = case.ended_by(b"\r\n\r\n");
    let [head, body, answer] = case.options;
    let settings = Settings {
        head: 4 * usize::from(head),
        body: u64::from(body),
        answer: answer % 4,
        early: false,
    };
    let whole = check(&Requests(settings), &case);
    let parts = check(&Parts::new(settings), &case);
    assert_eq!(whole.error, parts.error);
    // Parts of a refused request may have been returned already.
    assert!(parts.frames.starts_with(&whole.frames));
    assert!(parts.error.is_some() || parts.frames.len() - whole.frames.len() < 3);
    let early = Settings {
        early: true,
        ..settings
    };
    check(&Parts::new(early), &case);
});

#[derive(Clone, Copy)]
struct Settings {
    head: usize,
    body: u64,
    answer: u8,
    /// The answer does not wait for the body.
    early: bool,
}

impl Settings {
    fn limits(self) -> Limits {
        Limits::default()
            .max_line(self.head)
            .max_head(self.head)
            .max_headers(4)
            .max_body(self.body)
    }

    fn answer<C>(self, codec: &mut C) -> bool
    where
        C: for<'a> Encode<ServerResponse<'a>> + for<'a> Encode<Chunk<'a>> + Encode<End>,
    {
        let answer = match self.answer {
            0 => ServerResponse::ok().body("hello"),
            1 => ServerResponse::new(StatusCode::NO_CONTENT),
            2 => ServerResponse::ok().sized(2),
            _ => ServerResponse::ok().streamed(),
        };
        // An answer to CONNECT has no body.
        let answered =
            encode_to_vec(codec, answer).or_else(|_| encode_to_vec(codec, ServerResponse::ok()));
        if self.answer > 1 && answered.is_ok() {
            // These are refused if the answer has no body.
            let _ = encode_to_vec(codec, Chunk(b"ab"));
            let _ = encode_to_vec(codec, End);
        }
        answered.is_ok()
    }
}

struct Requests(Settings);

impl Subject for Requests {
    type Codec = HttpCodec;

    fn codec(&self) -> HttpCodec {
        HttpCodec::new(self.0.limits())
    }

    fn limit(&self) -> usize {
        // A head, chunks of one byte with 16 digits and two line ends each, extensions, and trailers.
        3 * self.0.head + 21 * self.0.body as usize + 1024
    }

    fn note(&self, request: ServerRequest<'_>, log: &mut Vec<Vec<u8>>) {
        assert!(request.body().len() as u64 <= self.0.body);
        log.push(about(&request));
        log.push(request.body().to_vec());
        log.push(listed(request.trailers()));
    }

    fn answer(&self, codec: &mut HttpCodec) -> bool {
        self.0.answer(codec)
    }

    fn is_over(&self, codec: &HttpCodec) -> bool {
        codec.is_upgraded() || codec.stage() == Stage::Finished
    }

    fn kind(&self, error: &FrameError) -> &'static str {
        refused(error)
    }
}

struct Parts {
    settings: Settings,
    /// True once a request is complete.
    complete: Cell<bool>,
}

impl Parts {
    fn new(settings: Settings) -> Self {
        Self {
            settings,
            complete: Cell::new(false),
        }
    }
}

impl Subject for Parts {
    type Codec = HttpStreamCodec;

    fn codec(&self) -> HttpStreamCodec {
        self.complete.set(false);
        HttpStreamCodec::new(self.settings.limits())
    }

    fn limit(&self) -> usize {
        // A head, trailers, or the line before a chunk.
        (self.settings.head + 1).max(1024)
    }

    fn note(&self, part: RequestPart<'_>, log: &mut Vec<Vec<u8>>) {
        match part {
            RequestPart::Head(request) => {
                log.push(about(&request));
                log.push(Vec::new());
            }
            RequestPart::Body(part) => {
                assert!(!part.is_empty());
                let body = log.last_mut().expect("a head comes first");
                body.extend_from_slice(part);
                assert!(body.len() as u64 <= self.settings.body);
            }
            RequestPart::End(trailers) => {
                log.push(listed(trailers));
                self.complete.set(true);
            }
            _ => unreachable!("there are no other parts"),
        }
    }

    fn answer(&self, codec: &mut HttpStreamCodec) -> bool {
        let due = self.complete.take() || self.settings.early;
        due && self.settings.answer(codec)
    }

    fn may_answer_late(&self) -> bool {
        // An answer before the end of its request is the last on the connection.
        !self.settings.early
    }

    fn is_over(&self, codec: &HttpStreamCodec) -> bool {
        codec.is_upgraded() || codec.stage() == Stage::Finished
    }

    fn kind(&self, error: &FrameError) -> &'static str {
        refused(error)
    }
}

/// Describes a request, without its body.
fn about(request: &ServerRequest<'_>) -> Vec<u8> {
    let _ = request.to_http();
    let about = format!(
        "{} {} {:?} {:?} {:?} {:?} {} {} {:?} {}",
        request.method(),
        request.target(),
        request.path(),
        request.query(),
        request.host(),
        request.version(),
        request.keep_alive(),
        request.expects_continue(),
        request.content_length(),
        request.wants_upgrade("websocket"),
    );
    [about.as_bytes(), &listed(request.headers())].concat()
}

fn listed(headers: Headers<'_>) -> Vec<u8> {
    let mut list = Vec::new();
    for (name, value) in headers {
        assert!(!name.is_empty());
        list.extend_from_slice(name.as_bytes());
        list.extend_from_slice(b": ");
        list.extend_from_slice(value);
        list.extend_from_slice(b"\r\n");
    }
    list
}

/// Returns one kind for all errors: if the input has several faults, the division decides which is found first.
fn refused(_: &FrameError) -> &'static str {
    "refused"
}
