/// How long frames and messages that are received may be.
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
    /// The longest payload of a frame, in bytes as they are sent; beyond it the WebSocket is closed with 1009. Default: 1 MiB.
    ///
    /// A frame that has not come in full is buffered. [`Server::max_frame`](crate::Server::max_frame) bounds it as well, with its
    /// header.
    #[must_use]
    pub fn max_frame(mut self, bytes: usize) -> Self {
        self.frame = saturate(bytes);
        self
    }

    /// The longest message, in bytes once it is put together and decompressed; beyond it the WebSocket is closed with 1009.
    /// Default: 1 MiB.
    ///
    /// A connection amid a fragmented or compressed message holds up to so much.
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
