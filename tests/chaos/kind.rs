//! The kinds of server: what a request looks like, and what its answer has to be.

use std::ops::Range;

/// Each answers a request with the request's own payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Echo,
    Frames,
    Http,
    /// An echo behind a handshake.
    Tls,
}

pub(crate) const KINDS: [Kind; 4] = [Kind::Echo, Kind::Frames, Kind::Http, Kind::Tls];

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Echo => "echo",
            Kind::Frames => "frames",
            Kind::Http => "http",
            Kind::Tls => "tls",
        }
    }

    /// A request that is to be answered with `payload`.
    pub(crate) fn request(self, payload: &[u8]) -> Vec<u8> {
        let head = match self {
            Kind::Echo | Kind::Tls => Vec::new(),
            Kind::Frames => (payload.len() as u32).to_be_bytes().to_vec(),
            Kind::Http => {
                let len = payload.len();
                format!("POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len}\r\n\r\n")
                    .into_bytes()
            }
        };
        [&head, payload].concat()
    }

    /// Where in `received` the payload of the first answer lies, once all of it is there. `len` is the length it has to have.
    ///
    /// # Errors
    ///
    /// When this is no answer to such a request.
    pub(crate) fn payload(
        self,
        received: &[u8],
        len: usize,
    ) -> Result<Option<Range<usize>>, String> {
        let start = match self {
            Kind::Echo | Kind::Tls => Some(0),
            Kind::Frames => received
                .first_chunk()
                .map(|length| {
                    let announced = u32::from_be_bytes(*length) as usize;
                    (announced == len)
                        .then_some(4)
                        .ok_or_else(|| format!("a frame of {announced} bytes, not {len}"))
                })
                .transpose()?,
            Kind::Http => match end_of_head(received) {
                None => None,
                Some(end) => {
                    let head = String::from_utf8_lossy(&received[..end]).to_lowercase();
                    let right = head.starts_with("http/1.1 200 ")
                        && head.contains(&format!("\r\ncontent-length: {len}\r\n"));
                    if !right {
                        return Err(format!("not the answer with {len} bytes: {head}"));
                    }
                    Some(end)
                }
            },
        };
        let range = start.map(|start| start..start + len);
        Ok(range.filter(|range| range.end <= received.len()))
    }

    /// Compares what came with the answers to requests with these payloads, which it has to begin with; gives the rest.
    ///
    /// # Errors
    ///
    /// When it differs; or, with `whole`, when some of it is missing.
    pub(crate) fn compare<'a>(
        self,
        mut received: &'a [u8],
        payloads: &[Vec<u8>],
        whole: bool,
    ) -> Result<&'a [u8], String> {
        for (n, payload) in payloads.iter().enumerate() {
            let Some(range) = self.payload(received, payload.len())? else {
                if whole {
                    return Err(format!(
                        "{n} of {} answers are whole, {} bytes are left",
                        payloads.len(),
                        received.len()
                    ));
                }
                // Of an echo every byte can be told from a wrong one.
                if self == Kind::Echo && !payload.starts_with(received) {
                    return Err(format!("answer {n} is wrong"));
                }
                return Ok(&[]);
            };
            if received[range.clone()] != payload[..] {
                return Err(format!("answer {n} is wrong"));
            }
            received = &received[range.end..];
        }
        Ok(received)
    }
}

fn end_of_head(received: &[u8]) -> Option<usize> {
    let end = received.windows(4).position(|four| four == b"\r\n\r\n")?;
    Some(end + 4)
}
