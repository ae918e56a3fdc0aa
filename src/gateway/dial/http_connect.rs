//! The client's side of `CONNECT` (RFC 9110, section 9.3.6).

use super::{Dialogue, Refused, Target, Via};

/// The most bytes of an answer's head, and of all heads together.
const MAX_HEAD: usize = 16 << 10;

/// A negotiation with an HTTP proxy.
#[derive(Default)]
pub(super) struct HttpConnect {
    has_asked: bool,
    /// The head of the answer, as far as it has come.
    head: Vec<u8>,
    /// The bytes of interim responses.
    skipped: usize,
}

impl HttpConnect {
    fn ask(&mut self, via: &Via, target: &Target, send: &mut Vec<u8>) {
        let mut head = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
        if let Some(credentials) = via.basic() {
            head += "Proxy-Authorization: Basic ";
            head += &credentials;
            head += "\r\n";
        }
        head += "\r\n";
        send.extend(head.as_bytes());
        self.has_asked = true;
    }
}

impl Dialogue for HttpConnect {
    fn take(
        &mut self,
        via: &Via,
        target: &Target,
        received: &[u8],
        send: &mut Vec<u8>,
    ) -> Result<Option<usize>, Refused> {
        if !self.has_asked {
            self.ask(via, target, send);
        }
        let mut taken = 0;
        while taken < received.len() {
            let before = self.head.len();
            self.head.extend_from_slice(&received[taken..]);
            if self.head.len() + self.skipped > MAX_HEAD + received.len() {
                return Err(Refused::malformed(
                    "its answer has a head of more than 16 KiB",
                ));
            }
            // The end may begin in what has come earlier.
            let from = before.saturating_sub(3);
            let found = memchr::memmem::find(&self.head[from..], b"\r\n\r\n");
            let Some(end) = found.map(|at| from + at + 4) else {
                return Ok(None);
            };
            self.head.truncate(end);
            taken += end - before;
            match status(&self.head)? {
                100..200 => {
                    self.skipped += end;
                    self.head.clear();
                }
                200..300 => return Ok(Some(taken)),
                status => return Err(Refused::Status(status)),
            }
        }
        Ok(None)
    }
}

/// Returns the status of an answer.
fn status(head: &[u8]) -> Result<u16, Refused> {
    let mut fields = [httparse::EMPTY_HEADER; 100];
    let mut answer = httparse::Response::new(&mut fields);
    match answer.parse(head) {
        Ok(httparse::Status::Complete(_)) => {}
        _ => return Err(Refused::malformed("its answer is none of HTTP/1.1")),
    }
    match answer.code {
        Some(101) | None => Err(Refused::malformed("its answer has no sound status")),
        Some(code) => Ok(code),
    }
}
