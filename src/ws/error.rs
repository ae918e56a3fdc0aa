use crate::codec::FrameError;
use crate::error::error_messages;

/// The reason why an item was not sent. None of its bytes were sent.
///
/// It is the cause inside the [`FrameError`] of a [`WriteError::Frame`](crate::WriteError::Frame).
#[derive(Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendError {
    /// The WebSocket is not open: send the handshake first.
    NotOpen,
    /// The handshake was sent already.
    Open,
    /// A [`Close`](super::Close) was sent. Nothing can follow it.
    Closed,
    /// A fragmented message is incomplete: its last [`Fragment`](super::Fragment) was not sent.
    Unfinished,
    /// The fragment has another type than the first one of its message.
    FragmentType,
    /// A part of the handshake is invalid.
    Handshake {
        /// The name of the part.
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
        SendError::NotOpen => "the WebSocket is not open; send the handshake first",
        SendError::Open => "the WebSocket's handshake has been sent already",
        SendError::Closed => "a Close has been sent; nothing can follow it",
        SendError::Unfinished => "a fragmented message has begun; send its last fragment first",
        SendError::FragmentType => "all fragments of a message must have the same type, text or binary",
        SendError::Handshake { what } =>
            "the handshake's {what} is empty, is one that the codec itself writes, or contains invalid characters",
    }
}
