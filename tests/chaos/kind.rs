//! The kinds of server, with their requests and expected answers.

/// Each answers a request with the request's own payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Echo,
    Frames,
    Http,
    /// An echo over TLS.
    Tls,
    /// A gate of a cluster, whose node sends packets back. It is not among the [`KINDS`], and stands for all of them.
    #[cfg(feature = "cluster")]
    Packets,
}

/// The kinds that one process serves at once, in the order of their numbers.
pub(crate) const KINDS: [Kind; 4] = [Kind::Echo, Kind::Frames, Kind::Http, Kind::Tls];

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Echo => "echo",
            Kind::Frames => "frames",
            Kind::Http => "http",
            Kind::Tls => "tls",
            #[cfg(feature = "cluster")]
            Kind::Packets => "packets",
        }
    }

    /// Returns the place of its server among those of a process.
    pub(crate) fn server(self) -> usize {
        self as usize % KINDS.len()
    }

    /// Returns a request whose answer has this `payload`.
    pub(crate) fn request(self, payload: &[u8]) -> Vec<u8> {
        let head = match self {
            Kind::Echo | Kind::Tls => Vec::new(),
            Kind::Frames => (payload.len() as u32).to_be_bytes().to_vec(),
            Kind::Http => {
                let len = payload.len();
                format!("POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len}\r\n\r\n")
                    .into_bytes()
            }
            #[cfg(feature = "cluster")]
            Kind::Packets => head_of_a_packet(payload.len()).to_vec(),
        };
        [&head, payload].concat()
    }

    /// Returns the offset in `received` of the first answer's payload, once it is known. The payload must have `len` bytes.
    ///
    /// # Errors
    ///
    /// If `received` is not an answer to such a request.
    fn start(self, received: &[u8], len: usize) -> Result<Option<usize>, String> {
        match self {
            Kind::Echo | Kind::Tls => Ok(Some(0)),
            Kind::Frames => match received.first_chunk() {
                None => Ok(None),
                Some(length) if u32::from_be_bytes(*length) as usize == len => Ok(Some(4)),
                Some(length) => Err(format!("a frame that begins with {length:?}, not {len}")),
            },
            #[cfg(feature = "cluster")]
            Kind::Packets => match received.first_chunk() {
                None => Ok(None),
                Some(head) if *head == head_of_a_packet(len) => Ok(Some(head.len())),
                Some(head) => Err(format!(
                    "a packet that begins with {head:?}, of {len} bytes"
                )),
            },
            Kind::Http => {
                let Some(end) = end_of_head(received) else {
                    return Ok(None);
                };
                let head = String::from_utf8_lossy(&received[..end]).to_lowercase();
                let length = format!("\r\ncontent-length: {len}\r\n");
                if head.starts_with("http/1.1 200 ") && head.contains(&length) {
                    Ok(Some(end))
                } else {
                    Err(format!("not the answer with {len} bytes: {head}"))
                }
            }
        }
    }

    /// Returns the length of the answer to a request with this payload, if `received` begins with all of it.
    ///
    /// # Errors
    ///
    /// If `received` begins with something else.
    pub(crate) fn answer(self, received: &[u8], payload: &[u8]) -> Result<Option<usize>, String> {
        let Some(start) = self.start(received, payload.len())? else {
            return Ok(None);
        };
        let end = start + payload.len();
        let there = &received[start..end.min(received.len())];
        if !payload.starts_with(there) {
            return Err(format!("an answer of {} bytes is wrong", payload.len()));
        }
        Ok((there.len() == payload.len()).then_some(end))
    }

    /// Checks that `received` begins with the answers to requests with these payloads, and returns the rest. Without `whole`,
    /// it may end early, or with an error response.
    ///
    /// # Errors
    ///
    /// If it differs, or, with `whole`, if some of it is missing.
    pub(crate) fn compare<'a>(
        self,
        mut received: &'a [u8],
        payloads: &[Vec<u8>],
        whole: bool,
    ) -> Result<&'a [u8], String> {
        for (n, payload) in payloads.iter().enumerate() {
            if !whole && self.is_refusal(received) {
                return Ok(&[]);
            }
            match self.answer(received, payload)? {
                Some(end) => received = &received[end..],
                None if whole => {
                    let (all, left) = (payloads.len(), received.len());
                    return Err(format!(
                        "{n} of {all} answers are whole, {left} bytes are left"
                    ));
                }
                None => return Ok(&[]),
            }
        }
        Ok(received)
    }

    /// Returns true for an HTTP response that reports a bad or slow request.
    pub(crate) fn is_refusal(self, received: &[u8]) -> bool {
        let begins = |class: &[u8]| received.starts_with(class);
        self == Kind::Http && (begins(b"HTTP/1.1 4") || begins(b"HTTP/1.1 5"))
    }
}

/// Returns the size, the header, the route 1 and the seq 1 of a packet with so many bytes of data.
#[cfg(feature = "cluster")]
fn head_of_a_packet(len: usize) -> [u8; 9] {
    let [a, b, c, d] = (len as u32 + 5).to_be_bytes();
    [a, b, c, d, 0, 0, 1, 0, 1]
}

fn end_of_head(received: &[u8]) -> Option<usize> {
    let end = received.windows(4).position(|four| four == b"\r\n\r\n")?;
    Some(end + 4)
}
