/// Limits on the sizes of the parts of a request or response.
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

/// The highest possible limit on the number of headers.
pub(super) const MAX_HEADERS: usize = 256;

impl Limits {
    /// Sets the maximum length of the request line, in bytes. A longer one is answered with 414. Default: 8 KiB.
    #[must_use]
    pub fn max_line(mut self, bytes: usize) -> Self {
        self.line = saturate(bytes);
        self
    }

    /// Sets the maximum length of the head, from the request line to the empty line, and of the trailer section, in
    /// bytes. A longer one is answered with 431. A client applies the limit also to the sum of all interim responses to
    /// a request. Default: 16 KiB.
    ///
    /// A connection whose request has an incomplete head holds a buffer of up to twice this size.
    #[must_use]
    pub fn max_head(mut self, bytes: usize) -> Self {
        self.head = saturate(bytes);
        self
    }

    /// Sets the maximum number of headers in a head or trailer section. More are answered with 431. Default: 128. The
    /// highest possible value is 256.
    #[must_use]
    pub fn max_headers(mut self, headers: usize) -> Self {
        self.headers = headers.min(MAX_HEADERS) as u16;
        self
    }

    /// Sets the maximum length of a body, in bytes. A longer one is answered with 413. Default: 1 MiB.
    ///
    /// A codec that returns bodies in one piece holds them in memory: a body in chunks of one byte takes six times its
    /// size until it is complete. [`Server::max_frame`](crate::Server::max_frame) limits the request as a whole.
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
