use crate::codec::FrameError;
use crate::error::error_messages;

/// Why something to be sent is not: nothing of it has been.
///
/// It is the cause in the [`FrameError`] of a [`WriteError::Frame`](crate::WriteError::Frame).
#[derive(Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendError {
    /// The WebSocket is not open: the handshake comes first.
    NotOpen,
    /// The handshake is done.
    Open,
    /// A [`Close`](super::Close) has been sent, after which there is nothing.
    Closed,
    /// A message whose last [`Fragment`](super::Fragment) has not been sent.
    Unfinished,
    /// A fragment of another type than the first one of its message.
    FragmentType,
    /// A part of the handshake that cannot be there.
    Handshake {
        /// Which part.
        what: &'static str,
    },
}

impl From<SendError> for FrameError {
    #[cold]
    fn from(error: SendError) -> Self {
        FrameError::Other(Box::new(error))
    }
}

error_messages! {
    SendError {
        SendError::NotOpen => "the WebSocket is not open; the handshake comes first",
        SendError::Open => "the WebSocket's handshake has been sent already",
        SendError::Closed => "a Close has been sent, after which there is nothing",
        SendError::Unfinished => "a fragmented message has begun; send its last fragment first",
        SendError::FragmentType => "all fragments of a message have one type, text or binary",
        SendError::Handshake { what } =>
            "the handshake's {what} is empty, is the codec's to write, or has characters that cannot be there",
    }
}
