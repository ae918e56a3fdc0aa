use std::fmt;

use super::{Answer, Request};
use crate::buf::outbox::Outbox;
use crate::codec::{Codec, Decoded, Encode, FrameError};

/// The maximum length of a frame in bytes, `size` included: 16 MiB.
pub const MAX_FRAME: usize = 16 << 20;

/// The length of size, header, op and seq.
pub(super) const HEAD: usize = 4 + 1 + 1 + 8;

/// The bit of the header that marks heartbeats.
const HEARTBEAT: u8 = 0x80;
/// The bit of the header that asks to disconnect the receivers of a push.
pub(super) const DISCONNECT: u8 = 0x40;

/// The frame that a dialler sends when it has nothing else to send.
const HEARTBEAT_FRAME: [u8; 5] = [0, 0, 0, 1, HEARTBEAT];

/// The next thing in the input of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Incoming<'a> {
    /// A heartbeat.
    Heartbeat,
    /// A request or an answer.
    Frame(Frame<'a>),
}

/// A request or an answer whose body has not been read yet: see [`Request::decode`] and [`Answer::decode`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The number of the operation, known or not.
    pub op: u8,
    /// The number that a request shares with its answer. 0: no answer is wanted.
    pub seq: u64,
    /// True if the receivers of the push are to be disconnected after it.
    pub disconnect: bool,
    /// The body.
    pub body: &'a [u8],
}

impl fmt::Debug for Frame<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frame")
            .field("op", &self.op)
            .field("seq", &self.seq)
            .field("disconnect", &self.disconnect)
            .field("body", &self.body.escape_ascii().to_string())
            .finish()
    }
}

/// Cuts the stream of a link into frames, and encodes them.
///
/// A frame is refused as soon as its size has arrived if it is longer than [`MAX_FRAME`], or shorter than its head and no
/// heartbeat. A faulty body costs only its frame: it is found when the body is read.
#[derive(Clone, Copy, Debug, Default)]
pub struct FrameCodec(());

impl Codec for FrameCodec {
    type Frame<'a> = Incoming<'a>;

    #[inline]
    fn decode<'a>(&mut self, src: &'a mut [u8]) -> Result<Decoded<Incoming<'a>>, FrameError> {
        let Some(size) = src.first_chunk() else {
            return Ok(Decoded::NeedMore { at_least: 4 });
        };
        let size = u32::from_be_bytes(*size);
        if size as usize > MAX_FRAME - 4 {
            return Err(FrameError::TooLong {
                len: 4 + u64::from(size),
                max: MAX_FRAME,
            });
        }
        let len = 4 + size as usize;
        if len < HEAD && size != 1 {
            return Err(FrameError::Malformed {
                what: "a frame between servers that is shorter than its head",
            });
        }
        let Some(header) = src.get(4) else {
            return Ok(Decoded::NeedMore { at_least: 5 });
        };
        if (header & HEARTBEAT != 0) != (size == 1) {
            return Err(FrameError::Malformed {
                what: "a heartbeat between servers with a body, or a frame without one",
            });
        }
        if size == 1 {
            return Ok(Decoded::Frame {
                frame: Incoming::Heartbeat,
                consumed: len,
            });
        }
        let disconnect = header & DISCONNECT != 0;
        let Some(whole) = src.get(..len) else {
            return Ok(Decoded::NeedMore { at_least: len });
        };
        let mut seq = [0; 8];
        seq.copy_from_slice(&whole[6..HEAD]);
        let frame = Frame {
            op: whole[5],
            seq: u64::from_be_bytes(seq),
            disconnect,
            body: &whole[HEAD..],
        };
        Ok(Decoded::Frame {
            frame: Incoming::Frame(frame),
            consumed: len,
        })
    }
}

/// The heartbeat of a link, to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkHeartbeat;

impl LinkHeartbeat {
    /// Returns the whole frame.
    pub fn as_bytes(self) -> &'static [u8] {
        &HEARTBEAT_FRAME
    }
}

impl Encode<LinkHeartbeat> for FrameCodec {
    fn encode(&mut self, item: LinkHeartbeat, dst: &mut Outbox<'_>) -> Result<(), FrameError> {
        dst.put(item.as_bytes());
        Ok(())
    }
}

/// A request with its seq.
impl Encode<(u64, Request<'_>)> for FrameCodec {
    #[inline]
    fn encode(
        &mut self,
        (seq, request): (u64, Request<'_>),
        dst: &mut Outbox<'_>,
    ) -> Result<(), FrameError> {
        Ok(request.encode_into(seq, dst)?)
    }
}

/// An answer with its seq.
impl Encode<(u64, Answer<'_>)> for FrameCodec {
    #[inline]
    fn encode(
        &mut self,
        (seq, answer): (u64, Answer<'_>),
        dst: &mut Outbox<'_>,
    ) -> Result<(), FrameError> {
        Ok(answer.encode_into(seq, dst)?)
    }
}
