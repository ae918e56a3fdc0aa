//! Answers every HTTP request with the same page. Try `curl -i http://127.0.0.1:8080/`.
//!
//! Requests are really parsed, by the `httparse` crate inside a codec: HTTP/1.0 and 1.1, keep-alive,
//! pipelining, HEAD, bodies by Content-Length, limits on all sizes. What it does not do: chunked request
//! bodies are answered 501, `Expect: 100-continue` 417, and lines may end in a bare LF.

mod util;

use std::io::Write;
use std::mem::MaybeUninit;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Parser;
use epicycle::codec::{Codec, Decoded, FrameError};
use epicycle::{Action, Conn, EventHandler, Reactor};
use httparse::Status;

/// An HTTP server that says hello.
#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    listen: util::Listen<8080>,
    /// Answers with 1 KiB of the letter a
    #[arg(long)]
    aaaa: bool,
}

const MAX_HEAD: usize = 16 << 10;
const MAX_HEADERS: usize = 64;
const MAX_BODY: usize = 1 << 20;

/// A request, which borrows the connection's input.
struct Request<'a> {
    method: &'a str,
    target: &'a str,
    version: Version,
    keep_alive: bool,
    body: &'a [u8],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    Http10,
    Http11,
}

/// Why a request is not served: the status it is answered with before the connection closes.
type Refusal = &'static str;

const BAD_REQUEST: Refusal = "400 Bad Request";
const HEAD_TOO_LARGE: Refusal = "431 Request Header Fields Too Large";

/// Cuts requests out of a connection's input.
#[derive(Default)]
struct Http {
    /// How many bytes at the start of the input are known to hold no complete head.
    scanned: usize,
}

impl Codec for Http {
    type Frame<'a> = Result<Request<'a>, Refusal>;
    const IMMUTABLE_FRAMES: bool = true;

    fn decode<'a>(&mut self, src: &'a mut [u8]) -> Result<Decoded<Self::Frame<'a>>, FrameError> {
        // A refusal takes up all input: nothing behind a request that was not understood can be trusted.
        let consumed = src.len();
        Ok(self.parse(src).unwrap_or_else(|refusal| Decoded::Frame {
            frame: Err(refusal),
            consumed,
        }))
    }
}

impl Http {
    fn parse<'a>(
        &mut self,
        src: &'a [u8],
    ) -> Result<Decoded<Result<Request<'a>, Refusal>>, Refusal> {
        let at_least = src.len() + 1;
        let new = &src[self.scanned.min(src.len())..];
        // A head that has been found incomplete is worth another look when another line has come.
        if self.scanned > 0 && src.len() <= MAX_HEAD && !new.contains(&b'\n') {
            self.scanned = src.len();
            return Ok(Decoded::NeedMore { at_least });
        }
        let mut headers = [const { MaybeUninit::uninit() }; MAX_HEADERS];
        let mut request = httparse::Request::new(&mut []);
        let head = match request.parse_with_uninit_headers(src, &mut headers) {
            Ok(Status::Complete(head)) if head <= MAX_HEAD => head,
            Ok(Status::Partial) if src.len() <= MAX_HEAD => {
                self.scanned = src.len();
                return Ok(Decoded::NeedMore { at_least });
            }
            Ok(_) | Err(httparse::Error::TooManyHeaders) => return Err(HEAD_TOO_LARGE),
            Err(_) => return Err(BAD_REQUEST),
        };
        self.scanned = 0;
        let version = match request.version {
            Some(1) => Version::Http11,
            _ => Version::Http10,
        };
        let mut hosts = 0;
        let mut length = None;
        let mut encoded = false;
        let mut keep_alive = version == Version::Http11;
        for header in &*request.headers {
            let (name, value) = (header.name, header.value);
            if name.eq_ignore_ascii_case("host") {
                hosts += 1;
            } else if name.eq_ignore_ascii_case("connection") {
                keep_alive = wants_keep_alive(value).unwrap_or(keep_alive);
            } else if name.eq_ignore_ascii_case("content-length") {
                if length.replace(parse_length(value)?).is_some() {
                    return Err(BAD_REQUEST);
                }
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                encoded = true;
            } else if name.eq_ignore_ascii_case("expect") && version == Version::Http11 {
                return Err("417 Expectation Failed");
            }
        }
        if hosts > 1 || (hosts == 0 && version == Version::Http11) {
            return Err(BAD_REQUEST);
        }
        if encoded {
            // With a length as well, the two contradict each other: an old trick to smuggle requests.
            return Err(if length.is_some() {
                BAD_REQUEST
            } else {
                "501 Not Implemented"
            });
        }
        let end = head + length.unwrap_or(0);
        let Some(body) = src.get(head..end) else {
            return Ok(Decoded::NeedMore { at_least: end });
        };
        let request = Request {
            method: request.method.unwrap_or_default(),
            target: request.path.unwrap_or_default(),
            version,
            keep_alive,
            body,
        };
        Ok(Decoded::Frame {
            frame: Ok(request),
            consumed: end,
        })
    }
}

fn parse_length(value: &[u8]) -> Result<usize, Refusal> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(BAD_REQUEST);
    }
    let length = str::from_utf8(value)
        .ok()
        .and_then(|digits| digits.parse().ok());
    length
        .filter(|length| *length <= MAX_BODY)
        .ok_or("413 Content Too Large")
}

/// What a Connection header says about it, if anything.
fn wants_keep_alive(value: &[u8]) -> Option<bool> {
    let mut options = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    options.find_map(|option| {
        if option.eq_ignore_ascii_case(b"close") {
            Some(false)
        } else if option.eq_ignore_ascii_case(b"keep-alive") {
            Some(true)
        } else {
            None
        }
    })
}

/// A whole response as it goes out, made once a second for the sake of its date.
struct Answer {
    bytes: Vec<u8>,
    /// Where the body begins.
    head: usize,
}

impl Answer {
    fn new(status: &str, connection: &str, body: &[u8]) -> Self {
        let date = httpdate::fmt_http_date(SystemTime::now());
        let length = body.len();
        let mut bytes = format!(
            "HTTP/1.1 {status}\r\nServer: epicycle\r\nDate: {date}\r\n{connection}\
             Content-Type: text/plain\r\nContent-Length: {length}\r\n\r\n"
        )
        .into_bytes();
        let head = bytes.len();
        bytes.extend_from_slice(body);
        Self { bytes, head }
    }
}

/// A reactor's answers: to HTTP/1.1, to HTTP/1.0 with keep-alive, and the last one on a connection.
struct Hello {
    body: &'static [u8],
    plain: Answer,
    keep: Answer,
    close: Answer,
}

impl Hello {
    fn new(body: &'static [u8]) -> Self {
        Self {
            body,
            plain: Answer::new("200 OK", "", body),
            keep: Answer::new("200 OK", "Connection: keep-alive\r\n", body),
            close: Answer::new("200 OK", "Connection: close\r\n", body),
        }
    }
}

impl EventHandler for Hello {
    type Codec = Http;
    type Session = ();

    fn codec(&mut self) -> Http {
        Http::default()
    }

    fn on_open(&mut self, _conn: &mut Conn<'_, Self>) -> Option<()> {
        Some(())
    }

    fn react(
        &mut self,
        conn: &mut Conn<'_, Self>,
        (): &mut (),
        request: Result<Request<'_>, Refusal>,
    ) -> Action {
        let request = match request {
            Ok(request) => request,
            Err(status) => return refuse(conn, status),
        };
        let Request {
            method,
            target,
            body,
            ..
        } = request;
        log::debug!(
            "{} {method} {target}, {} bytes of body",
            conn.id(),
            body.len()
        );
        let answer = match (request.keep_alive, request.version) {
            (false, _) => &self.close,
            (true, Version::Http11) => &self.plain,
            (true, Version::Http10) => &self.keep,
        };
        let end = if method == "HEAD" {
            answer.head
        } else {
            answer.bytes.len()
        };
        let written = conn.write(&answer.bytes[..end]);
        if request.keep_alive {
            written.into()
        } else {
            Action::Close
        }
    }

    /// Makes the answers again at the beginning of each second.
    fn tick(&mut self, _reactor: &mut Reactor<'_, Self>) -> Option<Duration> {
        *self = Self::new(self.body);
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Some(Duration::from_secs(since.as_secs() + 1) - since)
    }
}

fn refuse(conn: &mut Conn<'_, Hello>, status: Refusal) -> Action {
    let mut body = Vec::new();
    let _ = writeln!(body, "{status}");
    let answer = Answer::new(status, "Connection: close\r\n", &body);
    // When the answer cannot be written, closing is all that is left anyway.
    let _ = conn.write(&answer.bytes);
    Action::Close
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    let server = flags.listen.server();
    let server = server
        .idle_timeout(Duration::from_secs(75))
        .read_timeout(Duration::from_secs(30));
    let body: &[u8] = if flags.aaaa {
        &[b'a'; 1024]
    } else {
        b"Hello World!"
    };
    util::run("http", server, move |_reactor| Hello::new(body))
}
