//! Codecs cut a byte stream into frames, and make bytes of what is sent.
//!
//! A frame borrows the bytes it was found in: nothing is copied between the socket and
//! [`react`](crate::EventHandler::react). A codec knows no socket and no clock. It is a value of its own
//! for each connection, so it may keep state; one without state is a unit struct and costs nothing.
//!
//! | Codec | A frame is |
//! |---|---|
//! | [`Raw`] | whatever has arrived |
//! | [`Lines`] | a line that ends in LF or CRLF |
//! | [`Delimited`] | the bytes before a delimiter |
//! | [`Fixed`] | a fixed number of bytes |
//! | [`LengthField`] | the bytes a length field announces |
//!
//! A codec of one's own is one method:
//!
//! ```
//! use epicycle::codec::{Codec, Decoded, FrameError};
//!
//! /// A byte that tells a length, then that many bytes.
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
//! Most codecs only translate. One that [converses](Codec::CONVERSES) takes part: it answers a ping or a malformed
//! frame by itself, holds the next request back until this one is answered, and knows when the connection is to end.

mod delimited;
mod fixed;
mod length_field;
mod lines;
pub(crate) mod look;
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
pub use self::raw::Raw;

/// Finds the frames in a connection's input.
pub trait Codec: 'static {
    /// What is handed to `react`; it may borrow the input.
    type Frame<'a>;

    /// Whether the codec takes part in the conversation: by [`poll_output`](Self::poll_output),
    /// [`close_notice`](Self::close_notice), [`begin_drain`](Self::begin_drain) and [`stage`](Self::stage), which are not asked otherwise.
    ///
    /// What has been encoded by such a codec is never taken back: an item may take the output past the outbound
    /// limit, and the next one is refused then.
    const CONVERSES: bool = false;

    /// Looks for the first frame in `src`, which is never empty.
    ///
    /// `src` begins with the first byte not consumed so far. After [`Decoded::NeedMore`] the next call
    /// sees the same bytes with more behind them, so a codec may remember how far it has looked.
    /// The input may be changed in place, to unmask or decrypt it.
    ///
    /// # Errors
    ///
    /// A [`FrameError`] when the input can never become a frame: the connection is closed with it as the
    /// reason, after what has been written is sent.
    fn decode<'a>(&mut self, src: &'a mut [u8]) -> Result<Decoded<Self::Frame<'a>>, FrameError>;

    /// Looks for a last frame in `src`, which ends where the peer ended its stream.
    ///
    /// The default finds none. Whatever is left is counted in [`Closed::undecoded`](crate::Closed).
    ///
    /// # Errors
    ///
    /// As for [`decode`](Self::decode).
    fn decode_eof<'a>(
        &mut self,
        src: &'a mut [u8],
    ) -> Result<Decoded<Self::Frame<'a>>, FrameError> {
        Ok(Decoded::NeedMore {
            at_least: src.len() + 1,
        })
    }

    /// How much work the codec has done since it was last asked beyond what its input shows, in bytes: what it has
    /// decompressed, say. Asked after each frame and each skip.
    ///
    /// The [read budget](crate::Server::read_budget) counts it as if so much had been received, so that a little input
    /// that makes a lot of work does not keep the other connections waiting. The default is none.
    #[inline]
    fn take_cost(&mut self) -> usize {
        0
    }

    /// Appends what the codec has to say by itself, a pong say. Asked each time some input has been decoded.
    fn poll_output(&mut self, dst: &mut Outbox<'_>) {
        let _ = dst;
    }

    /// Appends what is to be said before this side closes the connection, and the last thing it says. Not asked when
    /// the peer is gone, or the connection is aborted.
    fn close_notice(&mut self, cause: CloseCause<'_>, dst: &mut Outbox<'_>) {
        let _ = (cause, dst);
    }

    /// The status with which its last words have answered a request in the handler's place, if they have: HTTP's 400, say.
    /// Asked behind them, and told in [`Closed::refused`](crate::Closed::refused).
    fn refused(&self) -> Option<u16> {
        None
    }

    /// Whether an answer is under way that ends with the stream, so that a stream that ends before would pass for a
    /// complete one: the connection is reset then.
    fn is_open_ended(&self) -> bool {
        false
    }

    /// A shutdown waits for the answers that are owed or awaited, and closes the connection behind them. A codec whose
    /// answers can say that they are the last does so from now on.
    fn begin_drain(&mut self) {}

    /// Whether input is read while output waits above the [high-water mark](crate::Server::high_water). Asked once, when
    /// the connection opens, and only with [`OutboundPolicy::PauseReads`](crate::OutboundPolicy), the default.
    fn backpressure(&self) -> Backpressure {
        Backpressure::ByOrigin
    }

    /// How long the peer may take to begin the answer that it owes, in [`Stage::Awaiting`]. It counts from when the request
    /// was sent, or from the end of the answer to the one before; input that is no frame does not put it off. `None`, the
    /// default, is for ever, and for an answer that has begun. Asked together with [`stage`](Self::stage).
    fn response_timeout(&self) -> Option<Duration> {
        None
    }

    /// Where the conversation stands. Asked each time some input has been decoded or something has been sent.
    fn stage(&self) -> Stage {
        Stage::Idle
    }
}

/// Whether input is read while output waits above the [high-water mark](crate::Server::high_water), for
/// [`Codec::backpressure`].
///
/// Two ends that both stop reading until the other reads wait for ever. So one end at most may pause, which is
/// usually the server's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Backpressure {
    /// A connection that was [accepted](crate::Origin::Accepted) is not read until its output has fallen to the low-water
    /// mark. One that this side made, or that it [adopted](crate::Engine::adopt), is read on.
    ByOrigin,
    /// It is not read until its output has fallen to the low-water mark: for protocols in which each input makes
    /// output, as requests make answers.
    PauseReads,
    /// It is read on: for protocols whose input makes no output, and for peers that both send of their own accord. The
    /// [outbound limit](crate::Server::outbound_limit) is then all that bounds what input can make.
    ReadOn,
}

/// Where a [conversation](Codec::CONVERSES) stands, and what the engine does about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stage {
    /// Between messages: the idle timeout runs, and a connection that the peer has ended is closed. A shutdown
    /// closes it.
    Idle,
    /// A message has begun and its rest is awaited: the read timeout runs, from the last frame on.
    Receiving,
    /// The handler owes an answer: a shutdown, or the end of the peer's stream, waits for it.
    Answering,
    /// Both: the handler owes an answer to a message whose rest is awaited. The read timeout runs, and a shutdown waits.
    /// The end of the peer's stream does not, since the rest cannot come any more.
    Streaming,
    /// The peer owes an answer, and the handler owes none: a shutdown waits for it, unless the peer has ended its stream. The
    /// codec may [limit](Codec::response_timeout) how long it is waited for.
    Awaiting,
    /// Goodbye has been said, and the peer's is awaited for as long as its FIN would be.
    Closing,
    /// Nothing more is to be said: the connection closes once everything is sent. The
    /// [drain deadline](crate::Server::drain_deadline) counts from when the peer last took some of it.
    Finished,
}

/// Why this side closes a connection, for a codec's [last words](Codec::close_notice).
#[derive(Debug)]
#[non_exhaustive]
pub enum CloseCause<'a> {
    /// What was received is not a frame.
    Malformed(&'a FrameError),
    /// A timeout ran out.
    Timeout,
    /// The server shuts down.
    Shutdown,
    /// A callback panicked.
    Panic,
    /// The handler has failed to answer: what it sent was refused, or it has dropped an [`Answer`](crate::Answer).
    Failed,
    /// The handler has not answered in time.
    Unanswered,
    /// The handler closes it.
    Local,
}

/// Makes bytes of an item, for [`Conn::send`](crate::Conn::send).
///
/// One codec may encode several types of items.
pub trait Encode<T>: Codec {
    /// Appends the encoded item to `dst`.
    ///
    /// # Errors
    ///
    /// A [`FrameError`] when the item cannot be encoded, because it is too long, say. What has been
    /// appended by then is taken back, and the connection goes on.
    fn encode(&mut self, item: T, dst: &mut Outbox<'_>) -> Result<(), FrameError>;
}

/// What [`Codec::decode`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded<F> {
    /// A frame.
    Frame {
        /// The frame.
        frame: F,
        /// How many bytes of the input it took up, framing included. With 0 the codec is asked again with the
        /// same input, so that it can find several frames in it, up to 1,048,576; the last of them has to consume it.
        consumed: usize,
    },
    /// Input that the handler need not see, such as a ping that the codec answers. It renews no timeout, unless the codec says that
    /// it belongs to a message ([`Stage::Receiving`]); an answer that the codec sends renews the idle timeout as any output does.
    Skip {
        /// How many bytes it took up: at least one.
        consumed: usize,
    },
    /// Whatever is here has to wait: the codec is asked again once something has been [sent](crate::Conn::send). Only
    /// for codecs that [converse](Codec::CONVERSES). On a UDP session, the rest of the datagram is dropped.
    Hold,
    /// No complete frame yet.
    NeedMore {
        /// How many bytes, counted from the start of the input, the next attempt needs at the least.
        /// The engine receives a long frame in one buffer of the right size thanks to it.
        at_least: usize,
    },
}

/// Why a frame could not be decoded or encoded.
#[non_exhaustive]
pub enum FrameError {
    /// The frame is longer than allowed.
    TooLong {
        /// Its length in bytes, or how much of it there is when the end has not been found.
        len: u64,
        /// The longest allowed, in bytes.
        max: usize,
    },
    /// The bytes are not a frame of this protocol.
    Malformed {
        /// What is wrong with them.
        what: &'static str,
    },
    /// The codec is at fault, and not the peer: it has consumed more than there is, or nothing, for ever.
    Codec {
        /// What it has done.
        what: &'static str,
    },
    /// An error of a codec outside this crate.
    Other(Box<dyn std::error::Error + Send + Sync>),
}

error_messages! {
    FrameError {
        FrameError::TooLong { len, max } => "a frame of {len} bytes or more, where at most {max} are allowed",
        FrameError::Malformed { what } => "a malformed frame: {what}",
        FrameError::Codec { what } => "the codec is faulty: {what}",
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
/// Whatever the codec's [`encode`](Encode::encode) answers.
pub fn encode_to_vec<T, C: Encode<T>>(codec: &mut C, item: T) -> Result<Vec<u8>, FrameError> {
    let (encoded, bytes) = write_to_vec(|dst| codec.encode(item, dst));
    encoded.map(|()| bytes)
}

/// What the codec has to say by itself, without a connection: for tests.
///
/// # Examples
///
/// ```
/// use epicycle::codec::{Lines, speak_to_vec};
///
/// // It does not converse.
/// assert_eq!(speak_to_vec(&mut Lines::new()), b"");
/// ```
pub fn speak_to_vec<C: Codec>(codec: &mut C) -> Vec<u8> {
    write_to_vec(|dst| codec.poll_output(dst)).1
}

/// The codec's last words, without a connection: for tests.
///
/// # Examples
///
/// ```
/// use epicycle::codec::{Lines, CloseCause, last_words_to_vec};
///
/// // It does not converse.
/// assert_eq!(last_words_to_vec(&mut Lines::new(), CloseCause::Timeout), b"");
/// ```
pub fn last_words_to_vec<C: Codec>(codec: &mut C, cause: CloseCause<'_>) -> Vec<u8> {
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
