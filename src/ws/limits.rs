/// Limits on the lengths of received frames and messages.
///
/// ```
/// use epicycle::ws::{Limits, ServerCodec};
///
/// let codec = ServerCodec::new(Limits::default().max_message(64 << 10));
/// # let _ = codec;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub(super) frame: u32,
    pub(super) message: u32,
}

impl Limits {
    /// Sets the maximum length of a frame's payload, in bytes on the wire. A longer one closes the WebSocket with 1009.
    /// Default: 1 MiB.
    ///
    /// An incomplete frame is buffered. [`Server::max_frame`](crate::Server::max_frame) limits it as well, including
    /// its header.
    #[must_use]
    pub fn max_frame(mut self, bytes: usize) -> Self {
        self.frame = saturate(bytes);
        self
    }

    /// Sets the maximum length of a message, in bytes after assembly and decompression. A longer one closes the
    /// WebSocket with 1009. Default: 1 MiB.
    ///
    /// A connection holds up to this many bytes of an incomplete fragmented or compressed message.
    #[must_use]
    pub fn max_message(mut self, bytes: usize) -> Self {
        self.message = saturate(bytes);
        self
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            frame: 1 << 20,
            message: 1 << 20,
        }
    }
}

fn saturate(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}
