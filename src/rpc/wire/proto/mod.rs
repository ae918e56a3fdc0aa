//! Protocols, which frame messages: they decode the bytes of a stream or of a WebSocket message into a [`Message`], and
//! encode it.

mod foreign;
mod json;
mod pb;
mod raw;

use super::sink::Room;
use super::{FilterPipe, Filters, Message, Sink, WireError};
use crate::codec::Decoded;

pub(in crate::rpc) use self::foreign::{explain, found as foreign};
pub use self::json::JsonProtocol;
pub use self::pb::PbProtocol;
pub use self::raw::RawProtocol;

/// The version of Teleport that the peer uses.
///
/// | | v4.0.0 | v4.1 |
/// |---|---|---|
/// | length fields of the raw protocol | 4 bytes | 2 bytes |
/// | the JSON key of a message's type | `ptype` | `mtype` |
/// | a REPLY's URI | that of the CALL | empty |
/// | texts of 400 and 405 | Bad Packet, Packet Type Not Allowed | Bad Message, Message Type Not Allowed |
/// | reason of a bad URI | invalid URI for packet | invalid URI for message |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// The dialect of v4.0.0.
    V4_0,
    /// The dialect of v4.1.
    #[default]
    V4_1,
}

impl Dialect {
    /// Returns true if a REPLY has the URI of its CALL. The reply to a call with a [malformed](super::UriError) URI has an
    /// empty one in both dialects.
    pub fn echoes_uri(self) -> bool {
        self == Dialect::V4_0
    }
}

/// Limits on the messages of a peer. Each is checked before memory is allocated for what exceeds it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// The maximum length of a message in bytes. It applies to the whole message on the wire, and to the output of each
    /// of its filters. Default: 16 MiB.
    ///
    /// A connection holds at most this many bytes of an incomplete message. While a filter is undone, its input and its
    /// output exist at once, so that a message briefly takes up to three times the limit.
    pub message: usize,
    /// The maximum number of filters of a message, up to 255. Default: 8.
    ///
    /// Each filter costs a pass over the message.
    pub filters: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message: 16 << 20,
            filters: 8,
        }
    }
}

impl Limits {
    /// Returns the limits of messages before a session opens: at most 4 KiB each.
    pub(crate) fn before_session(&self) -> Self {
        Self {
            message: self.message.min(4096),
            filters: self.filters,
        }
    }
}

/// Frames messages. One value serves one connection in both directions. It has no access to the socket.
///
/// The built-in protocols are [`RawProtocol`], [`JsonProtocol`] and [`PbProtocol`]. A custom one decodes the bytes that
/// have arrived, as often as it is called, and returns when it needs more:
///
/// ```
/// use epicycle::codec::Decoded;
/// use epicycle::rpc::wire::{Filters, Kind, Limits, Message, Protocol, Sink, WireError};
///
/// /// A PUSH in each line: the URI, a space, the body.
/// struct PushLines;
///
/// impl Protocol for PushLines {
///     fn id(&self) -> u8 { b'l' }
///     fn name(&self) -> &'static str { "push lines" }
///
///     fn decode<'a>(
///         &mut self, src: &'a [u8], limits: &Limits, _: &Filters,
///     ) -> Result<Decoded<Message<'a>>, WireError> {
///         let Some(end) = src.iter().position(|byte| *byte == b'\n') else {
///             if src.len() > limits.message {
///                 return Err(WireError::TooLong { size: src.len() as u64, max: limits.message });
///             }
///             return Ok(Decoded::NeedMore { at_least: src.len() + 1 });
///         };
///         let mut parts = src[..end].splitn(2, |byte| *byte == b' ');
///         let mut push = Message::push(parts.next().unwrap_or_default());
///         push.body = parts.next().unwrap_or_default().into();
///         push.size = end + 1;
///         Ok(Decoded::Frame { frame: push, consumed: end + 1 })
///     }
///
///     fn encode(&mut self, push: &Message<'_>, _: &Filters, out: &mut dyn Sink) -> Result<(), WireError> {
///         if push.kind != Kind::Push {
///             return Err(WireError::UnknownKind { kind: push.kind as i64 });
///         }
///         for part in [&push.uri[..], b" ", &push.body, b"\n"] {
///             out.put(part);
///         }
///         Ok(())
///     }
/// }
///
/// let (limits, filters) = (Limits::default(), Filters::standard());
/// let decoded = PushLines.decode(b"/note hi\n/no", &limits, &filters)?;
/// assert!(matches!(decoded, Decoded::Frame { frame, consumed: 9 } if *frame.body == *b"hi"));
/// # Ok::<(), WireError>(())
/// ```
pub trait Protocol: Send {
    /// Returns a byte that identifies the protocol, for logs.
    fn id(&self) -> u8;

    /// Returns the protocol's name, for logs.
    fn name(&self) -> &'static str;

    /// Looks for the first message in `src`, which begins with the first byte that was not consumed.
    ///
    /// Inside a WebSocket, `src` is one complete message. [`Decoded::NeedMore`] requests more bytes; the requested
    /// length must be checked against the limits first.
    ///
    /// # Errors
    ///
    /// Returns a [`WireError`] if the input can never become a message. The connection then closes.
    fn decode<'a>(
        &mut self,
        src: &'a [u8],
        limits: &Limits,
        filters: &Filters,
    ) -> Result<Decoded<Message<'a>>, WireError>;

    /// Appends an encoded message to `out`.
    ///
    /// # Errors
    ///
    /// Returns a [`WireError`] if the message cannot be sent. Nothing has then been appended.
    fn encode(
        &mut self,
        message: &Message<'_>,
        filters: &Filters,
        out: &mut dyn Sink,
    ) -> Result<(), WireError>;

    /// Returns the dialect of the connection, as far as it is known. Default: v4.1.
    fn dialect(&self) -> Dialect {
        Dialect::default()
    }

    /// Returns the maximum length of a `seq`, URI or metadata that it can send, in bytes. Default: unlimited.
    fn max_field(&self) -> usize {
        usize::MAX
    }
}

/// The framing in front of a message's content on a stream: `u32 size | u8 version | u8 n | n filter ids`.
struct Framing {
    /// The byte between the size and the number of filters, if the protocol has one.
    version: Option<u8>,
    /// True if the size counts its own 4 bytes.
    size_counts_itself: bool,
}

/// The result of looking for a message.
enum Framed<'a> {
    /// A complete message of that size. Its content is still wrapped in its filters.
    Whole {
        filters: FilterPipe<'a>,
        content: &'a [u8],
        size: usize,
    },
    /// The input must have at least this many bytes.
    NeedMore { at_least: usize },
}

const SIZE: usize = 4;

impl Framing {
    /// Finds the first message in `src`. Each announced length is checked as soon as it has arrived.
    fn decode<'a>(&self, src: &'a [u8], limits: &Limits) -> Result<Framed<'a>, WireError> {
        let Some((size, rest)) = src.split_first_chunk::<SIZE>() else {
            return Ok(Framed::NeedMore { at_least: SIZE });
        };
        let announced = u64::from(u32::from_be_bytes(*size));
        let size = if self.size_counts_itself {
            announced
        } else {
            announced + SIZE as u64
        };
        let versions = usize::from(self.version.is_some());
        let min = SIZE + versions + 1;
        if size < min as u64 {
            return Err(WireError::TooShort {
                size: announced,
                min: if self.size_counts_itself {
                    min
                } else {
                    min - SIZE
                },
            });
        }
        if size > limits.message as u64 {
            return Err(WireError::TooLong {
                size,
                max: limits.message,
            });
        }
        let size = size as usize;
        if let (Some(expected), Some(&found)) = (self.version, rest.first())
            && found != expected
        {
            return Err(WireError::Version { found, expected });
        }
        if let Some(&count) = rest.get(versions) {
            let count = usize::from(count);
            check_filters(count, limits)?;
            if count > size - min {
                return Err(WireError::Truncated {
                    field: "filters",
                    len: count as u64,
                    left: size - min,
                });
            }
            if let Some(whole) = src.get(..size) {
                let (filters, content) = whole[min..].split_at(count);
                return Ok(Framed::Whole {
                    filters: FilterPipe::from_ids(filters),
                    content,
                    size,
                });
            }
        }
        Ok(Framed::NeedMore { at_least: size })
    }

    /// Writes the framing for a content of `content` bytes, and the first `front` bytes of it, which `fill` writes.
    #[inline]
    fn encode(
        &self,
        filters: &FilterPipe<'_>,
        content: usize,
        front: usize,
        out: &mut dyn Sink,
        fill: impl Fn(&mut Room<'_>),
    ) -> Result<(), WireError> {
        let count = sendable(filters)?;
        let head = SIZE + usize::from(self.version.is_some()) + 1 + filters.len();
        let whole = head + content;
        let size = if self.size_counts_itself {
            whole
        } else {
            whole - SIZE
        };
        let size = u32::try_from(size).map_err(|_| WireError::TooLong {
            size: size as u64,
            max: u32::MAX as usize,
        })?;
        out.put_with(head + front, &mut |room| {
            let mut room = Room::new(room);
            room.put(&size.to_be_bytes());
            if let Some(version) = self.version {
                room.put(&[version]);
            }
            room.put(&[count]);
            room.put(filters.ids());
            fill(&mut room);
        });
        Ok(())
    }
}

/// Refuses a WebSocket message that is too long.
fn check_whole(size: usize, limits: &Limits) -> Result<(), WireError> {
    if size > limits.message {
        return Err(WireError::TooLong {
            size: size as u64,
            max: limits.message,
        });
    }
    Ok(())
}

/// Refuses a message with too many filters.
fn check_filters(count: usize, limits: &Limits) -> Result<(), WireError> {
    if count > limits.filters {
        return Err(WireError::TooManyFilters {
            count,
            max: limits.filters,
        });
    }
    Ok(())
}

/// Returns the number of a message's filters as one byte.
fn sendable(filters: &FilterPipe<'_>) -> Result<u8, WireError> {
    u8::try_from(filters.len()).map_err(|_| WireError::TooManyFilters {
        count: filters.len(),
        max: u8::MAX.into(),
    })
}

/// Writes a message whose content is built in one piece and wrapped by the filters.
fn encode_wrapped(
    framing: &Framing,
    message: &Message<'_>,
    content: Vec<u8>,
    filters: &Filters,
    out: &mut dyn Sink,
) -> Result<(), WireError> {
    let content = message.filters.pack(content.into(), filters)?;
    framing.encode(&message.filters, content.len(), 0, out, |_| {})?;
    out.put(&content);
    Ok(())
}
