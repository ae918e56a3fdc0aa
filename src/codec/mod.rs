//! Codecs: they split a byte stream into frames, and turn what a handler sends into bytes.
//!
//! A frame borrows the bytes it was found in: nothing is copied between the socket and
//! [`react`](crate::EventHandler::react). A codec has no access to sockets or clocks. Each connection has its own codec
//! value, so a codec may keep state. One without state is a unit struct and costs nothing.
//!
//! | Codec | A frame is |
//! |---|---|
//! | [`Raw`] | whatever has arrived |
//! | [`Lines`] | a line that ends in LF or CRLF |
//! | [`Delimited`] | the bytes before a delimiter |
//! | [`Fixed`] | a fixed number of bytes |
//! | [`LengthField`] | the bytes a length field announces |
//! | [`Peek`] | all input so far, which stays: to choose another codec by it |
//!
//! A handler has one type of codec. [`one_of!`](one_of) makes it of several, for connections that speak different protocols.
//!
//! A custom codec needs one method:
//!
//! ```
//! use epicycle::codec::{Codec, Decoded, FrameError};
//!
//! /// One length byte, then that many bytes.
//! struct Pascal;
//!
//! impl Codec for Pascal {
//!     type Frame<'a> = &'a [u8];
//!
//!     fn decode<'a>(&mut self, src: &'a mut [u8]) -> Result<Decoded<&'a [u8]>, FrameError> {
//!         let end = 1 + usize::from(src[0]);
//!         if src.len() < end {
//!             return Ok(Decoded::NeedMore { at_least: end });
//!         }
//!         Ok(Decoded::Frame { frame: &src[1..end], consumed: end })
//!     }
//! }
//!
//! let mut input = *b"\x02hi\x05the";
//! assert_eq!(Pascal.decode(&mut input)?, Decoded::Frame { frame: &b"hi"[..], consumed: 3 });
//! assert_eq!(Pascal.decode(&mut input[3..])?, Decoded::NeedMore { at_least: 6 });
//! # Ok::<(), FrameError>(())
//! ```
//!
//! Most codecs only translate between bytes and frames. A codec that [converses](Codec::CONVERSES) does more: it sends
//! output of its own (it answers a ping or a malformed frame), holds the next request back until the current one is
//! answered, and decides when the connection ends.

mod delimited;
mod fixed;
mod length_field;
mod lines;
pub(crate) mod look;
mod one_of;
mod peek;
mod raw;

use std::time::Duration;

use crate::buf::outbox::{Arena, Outbox};
use crate::buf::pool::BufferPool;
use crate::buf::queue::{MAX_SLICES, OutQueue};
use crate::error::error_messages;

pub use self::delimited::Delimited;
pub use self::fixed::Fixed;
pub use self::length_field::{ByteOrder, LengthField, LengthFieldBuilder};
pub use self::lines::Lines;
#[doc(inline)]
pub use self::one_of::one_of;
pub use self::peek::Peek;
pub use self::raw::Raw;

/// Finds the frames in a connection's input.
pub trait Codec: 'static {
    /// The value that is passed to `react`. It may borrow the input.
    type Frame<'a>;

    /// True if the codec sends output of its own and tracks the state of the conversation. Only then does the engine
    /// call [`poll_output`](Self::poll_output), [`close_notice`](Self::close_notice),
    /// [`begin_drain`](Self::begin_drain) and [`stage`](Self::stage).
    ///
    /// The engine never takes back bytes that such a codec has encoded. An item may therefore take the output past the
    /// outbound limit; the item after it is refused.
    const CONVERSES: bool = false;

    /// Returns whether it converses now, if it is [one of several](one_of) codecs.
    fn converses(&self) -> bool {
        Self::CONVERSES
    }

    /// Looks for the first frame in `src`, which is never empty.
    ///
    /// `src` begins with the first byte that was not consumed yet. After [`Decoded::NeedMore`] the next call gets the
    /// same bytes with more after them, so a codec may remember how far it has searched. The codec may change the
    /// input in place, to unmask or decrypt it.
    ///
    /// # Errors
    ///
    /// Returns a [`FrameError`] if the input can never become a frame. The engine then sends what has been written so
    /// far and closes the connection with this error as the reason.
    fn decode<'a>(&mut self, src: &'a mut [u8]) -> Result<Decoded<Self::Frame<'a>>, FrameError>;

    /// Looks for a last frame in `src`, which ends where the peer's stream ended.
    ///
    /// `src` is empty only if the codec's [`stage`](Self::stage) says that the rest of a message is awaited. At most
    /// one frame is taken from empty input.
    ///
    /// The default finds none. The engine counts the bytes that are left in [`Closed::undecoded`](crate::Closed).
    ///
    /// # Errors
    ///
    /// The same as for [`decode`](Self::decode).
    fn decode_eof<'a>(
        &mut self,
        src: &'a mut [u8],
    ) -> Result<Decoded<Self::Frame<'a>>, FrameError> {
        Ok(Decoded::NeedMore {
            at_least: src.len() + 1,
        })
    }

    /// Returns the work done since the last call that the length of the input does not show, in bytes: the bytes that
    /// were decompressed, for example. Called after each frame and each skip.
    ///
    /// The [read budget](crate::Server::read_budget) counts these bytes as received. A small input that causes a lot of
    /// work therefore does not delay other connections. The default is 0.
    #[inline]
    fn take_cost(&mut self) -> usize {
        0
    }

    /// Appends output of the codec's own, such as a pong. Called each time after input has been decoded.
    fn poll_output(&mut self, dst: &mut Outbox<'_>) {
        let _ = dst;
    }

    /// Appends the last output before this side closes the connection, such as a close frame. Not called if the peer is
    /// gone or the connection is aborted.
    fn close_notice(&mut self, cause: CloseCause<'_>, dst: &mut Outbox<'_>) {
        let _ = (cause, dst);
    }

    /// Returns the status if the [close notice](Self::close_notice) answered a request in place of the handler: HTTP's
    /// 400, for example. Called after the close notice; the engine reports the value in
    /// [`Closed::refused`](crate::Closed::refused).
    fn refused_status(&self) -> Option<u16> {
        None
    }

    /// Returns true while an answer is being sent whose end is the end of the stream. The engine then resets a
    /// connection that ends early, so that the peer does not take the cut answer for a complete one.
    fn is_open_ended(&self) -> bool {
        false
    }

    /// Called when a drain begins. The engine waits for the answers that are still due, from either side, and then
    /// closes the connection. A codec that can mark an answer as the last one does so from now on.
    fn begin_drain(&mut self) {}

    /// Returns whether input is read while output waits above the [high-water mark](crate::Server::high_water). Called
    /// once, when the connection opens, and only with [`OutboundPolicy::PauseReads`](crate::OutboundPolicy), the
    /// default.
    fn backpressure(&self) -> Backpressure {
        Backpressure::ByOrigin
    }

    /// Returns the time within which the peer must begin the answer that it owes, in [`Stage::Awaiting`]. It counts
    /// from when the request was sent, or from the end of the previous answer. Input that is not a frame does not
    /// extend it. `None`, the default, means no limit; return it also once the answer has begun. Called together with
    /// [`stage`](Self::stage).
    fn response_timeout(&self) -> Option<Duration> {
        None
    }

    /// Returns the current state of the conversation. Called each time after input has been decoded or output has been
    /// sent.
    fn stage(&self) -> Stage {
        Stage::Idle
    }
}

/// The choice of reading or pausing while output waits above the [high-water mark](crate::Server::high_water), for
/// [`Codec::backpressure`].
///
/// Two ends that both pause until the other one reads wait forever. At most one end may pause; usually that is the
/// server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Backpressure {
    /// Pauses reads on a connection that was [accepted](crate::Origin::Accepted) until its output has fallen to the
    /// low-water mark. Continues to read on one that this side opened or [adopted](crate::Engine::adopt).
    ByOrigin,
    /// Pauses reads until the output has fallen to the low-water mark. For protocols in which each input causes output,
    /// as requests cause answers.
    PauseReads,
    /// Continues to read. For protocols whose input causes no output, and for protocols in which both peers send on
    /// their own. Only the [outbound limit](crate::Server::outbound_limit) then bounds the output that input can cause.
    ReadOn,
}

/// The state of a [conversation](Codec::CONVERSES), which determines timeouts and shutdown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stage {
    /// Between messages. The idle timeout runs. The connection is closed on a shutdown, or if the peer ends its stream.
    Idle,
    /// A message has begun and its rest has not arrived. The read timeout runs, from the last frame on.
    Receiving,
    /// The handler owes an answer. A shutdown waits for it, and so does the close after the end of the peer's stream.
    Answering,
    /// The handler owes an answer to a message whose rest has not arrived. The read timeout runs, and a shutdown waits
    /// for the answer. The end of the peer's stream closes the connection, since the rest cannot arrive any more.
    Streaming,
    /// The peer owes an answer, and the handler owes none. A shutdown waits for it, unless the peer has ended its
    /// stream. The codec may [limit](Codec::response_timeout) the wait. If the connection is [piped](crate::Conn::pipe), a shutdown
    /// waits for its end.
    Awaiting,
    /// The same, but the answer has begun and its rest has not arrived. The read timeout runs as well, from the last
    /// frame on.
    AwaitingRest,
    /// This side has sent its close message and waits for the peer's. The wait has the same limit as that for a FIN.
    Closing,
    /// There is nothing left to send. The connection closes once the backlog is sent. The [drain
    /// deadline](crate::Server::drain_deadline) counts from when the peer last accepted some of it.
    Finished,
}

/// The reason why this side closes a connection, for [`Codec::close_notice`].
#[derive(Debug)]
#[non_exhaustive]
pub enum CloseCause<'a> {
    /// The input is not a frame.
    Malformed(&'a FrameError),
    /// A timeout expired.
    Timeout,
    /// The server is shutting down.
    Shutdown,
    /// A callback panicked.
    Panic,
    /// The handler failed to answer: an item it sent was refused, or it dropped an [`Answer`](crate::Answer).
    Failed,
    /// The handler did not answer in time.
    Unanswered,
    /// The handler closed the connection.
    Local,
}

/// Encodes an item into bytes, for [`Conn::send`](crate::Conn::send).
///
/// One codec may encode several types of items.
pub trait Encode<T>: Codec {
    /// Appends the encoded item to `dst`.
    ///
    /// # Errors
    ///
    /// Returns a [`FrameError`] if the item cannot be encoded, because it is too long, for example. The bytes appended
    /// up to then are taken back, and the connection stays open.
    fn encode(&mut self, item: T, dst: &mut Outbox<'_>) -> Result<(), FrameError>;
}

/// The result of [`Codec::decode`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded<F> {
    /// A frame.
    Frame {
        /// The frame.
        frame: F,
        /// The number of input bytes that the frame took up, framing included. With 0 the engine calls the codec again
        /// with the same input, so that it can return several frames from it, up to 1,048,576. The last of them must
        /// consume the input.
        consumed: usize,
    },
    /// Input that the handler does not need to see, such as a ping that the codec answers. It renews no timeout, unless
    /// the codec reports that it belongs to a message ([`Stage::Receiving`]). Output that the codec sends in return
    /// renews the idle timeout, as any output does.
    Skip {
        /// The number of input bytes to skip: at least one.
        consumed: usize,
    },
    /// The input must wait. The engine calls the codec again once something has been [sent](crate::Conn::send). Only
    /// for codecs that [converse](Codec::CONVERSES). On a UDP session the rest of the datagram is dropped.
    Hold,
    /// The input holds no complete frame yet.
    NeedMore {
        /// The number of bytes, counted from the start of the input, that the next attempt needs at least. The engine
        /// uses it to receive a long frame in one buffer of the right size.
        at_least: usize,
    },
}

impl<F> Decoded<F> {
    /// Converts the frame, if there is one.
    #[inline]
    pub fn map<G>(self, f: impl FnOnce(F) -> G) -> Decoded<G> {
        match self {
            Decoded::Frame { frame, consumed } => Decoded::Frame {
                frame: f(frame),
                consumed,
            },
            Decoded::Skip { consumed } => Decoded::Skip { consumed },
            Decoded::Hold => Decoded::Hold,
            Decoded::NeedMore { at_least } => Decoded::NeedMore { at_least },
        }
    }
}

/// The reason why a frame could not be decoded or encoded.
#[non_exhaustive]
pub enum FrameError {
    /// The frame is longer than allowed.
    TooLong {
        /// The frame's length in bytes, or the number of bytes that have arrived if its end has not been found.
        len: u64,
        /// The maximum length in bytes.
        max: usize,
    },
    /// The bytes are not a frame of this protocol.
    Malformed {
        /// The fault.
        what: &'static str,
    },
    /// The codec is faulty, not the peer: it consumed more than there is, or it makes no progress.
    Codec {
        /// The fault of the codec.
        what: &'static str,
    },
    /// The item is for another codec than the connection has now, of [several](one_of).
    OtherCodec {
        /// The codecs that encode the item.
        expected: &'static str,
    },
    /// An error of a codec outside this crate.
    Other(Box<dyn std::error::Error + Send + Sync>),
}

error_messages! {
    FrameError {
        FrameError::TooLong { len, max } => "a frame of {len} bytes or more, where at most {max} are allowed",
        FrameError::Malformed { what } => "a malformed frame: {what}",
        FrameError::Codec { what } => "the codec is faulty: {what}",
        FrameError::OtherCodec { expected } => "the item is for {expected}, and the connection has another codec",
        FrameError::Other(error) => "{error}",
    }
    causes {
        FrameError::Other(error) => &**error,
    }
}

/// Encodes one item without a connection: for tests, and for frames that are encoded once and sent to many.
///
/// ```
/// use epicycle::codec::{LengthField, encode_to_vec};
///
/// let frame = encode_to_vec(&mut LengthField::default(), b"hello")?;
/// assert_eq!(frame, b"\0\0\0\x05hello");
/// # Ok::<(), epicycle::codec::FrameError>(())
/// ```
///
/// # Errors
///
/// Returns the error of the codec's [`encode`](Encode::encode).
pub fn encode_to_vec<T, C: Encode<T>>(codec: &mut C, item: T) -> Result<Vec<u8>, FrameError> {
    let (encoded, bytes) = write_to_vec(|dst| codec.encode(item, dst));
    encoded.map(|()| bytes)
}

/// Returns the output of the codec's own ([`Codec::poll_output`]), without a connection: for tests.
///
/// # Examples
///
/// ```
/// use epicycle::codec::{Lines, poll_output_to_vec};
///
/// // `Lines` only translates.
/// assert_eq!(poll_output_to_vec(&mut Lines::new()), b"");
/// ```
pub fn poll_output_to_vec<C: Codec>(codec: &mut C) -> Vec<u8> {
    write_to_vec(|dst| codec.poll_output(dst)).1
}

/// Returns the codec's close notice ([`Codec::close_notice`]), without a connection: for tests.
///
/// # Examples
///
/// ```
/// use epicycle::codec::{Lines, CloseCause, close_notice_to_vec};
///
/// // `Lines` only translates.
/// assert_eq!(close_notice_to_vec(&mut Lines::new(), CloseCause::Timeout), b"");
/// ```
pub fn close_notice_to_vec<C: Codec>(codec: &mut C, cause: CloseCause<'_>) -> Vec<u8> {
    write_to_vec(|dst| codec.close_notice(cause, dst)).1
}

pub(crate) fn write_to_vec<R>(write: impl FnOnce(&mut Outbox<'_>) -> R) -> (R, Vec<u8>) {
    let (mut queue, mut arena, mut pool) = (OutQueue::default(), Arena::empty(), BufferPool::new());
    let result = write(&mut Outbox::new(&mut queue, &mut arena, &mut pool));
    let mut bytes = Vec::with_capacity(queue.len());
    while queue.len() > 0 {
        let mut slices = [std::io::IoSlice::new(&[]); MAX_SLICES];
        let count = queue.slices(&mut slices);
        let start = bytes.len();
        for slice in &slices[..count] {
            bytes.extend_from_slice(slice);
        }
        queue.backlog_sent(bytes.len() - start, &mut pool);
    }
    (result, bytes)
}
