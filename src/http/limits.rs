/// How large the parts of a request or response may be.
///
/// ```
/// use epicycle::http::{HttpCodec, Limits};
///
/// let codec = HttpCodec::new(Limits::default().max_body(64 << 20));
/// # let _ = codec;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub(super) line: u32,
    pub(super) head: u32,
    pub(super) headers: u16,
    pub(super) body: u64,
}

/// The most headers that can be allowed.
pub(super) const MOST_HEADERS: usize = 256;

impl Limits {
    /// The longest request line, in bytes; beyond it the answer is 414. Default: 8 KiB.
    #[must_use]
    pub fn max_line(mut self, bytes: usize) -> Self {
        self.line = saturate(bytes);
        self
    }

    /// The longest head, from the request line to the empty line, and the longest trailer section, in bytes; beyond
    /// it the answer is 431. A client holds the interim responses to a request to it too, all of them together. Default: 16 KiB. A connection whose request's head is incomplete holds a buffer of up to
    /// twice this size.
    #[must_use]
    pub fn max_head(mut self, bytes: usize) -> Self {
        self.head = saturate(bytes);
        self
    }

    /// The most headers in a head or trailer section; beyond it the answer is 431. Default: 128; no more than 256.
    #[must_use]
    pub fn max_headers(mut self, headers: usize) -> Self {
        self.headers = headers.min(MOST_HEADERS) as u16;
        self
    }

    /// The longest body, in bytes; beyond it the answer is 413. Default: 1 MiB.
    ///
    /// Where bodies are aggregated this is memory: a body that comes in chunks of one byte takes six times its size
    /// until it is complete. [`Server::max_frame`](crate::Server::max_frame) bounds the request as a whole.
    #[must_use]
    pub fn max_body(mut self, bytes: u64) -> Self {
        self.body = bytes;
        self
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            line: 8 << 10,
            head: 16 << 10,
            headers: 128,
            body: 1 << 20,
        }
    }
}

fn saturate(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}
