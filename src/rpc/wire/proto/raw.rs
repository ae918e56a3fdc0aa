use std::borrow::Cow;

use super::{Dialect, Framed, Framing, Limits, Protocol, encode_wrapped};
use crate::codec::Decoded;
use crate::rpc::wire::sink::Room;
use crate::rpc::wire::{Codec, Filters, Kind, Message, Meta, Sink, WireError};

/// Teleport's raw protocol, which is its default.
///
/// ```text
/// u32 size | 'r' | u8 n | n filter ids | payload
/// payload:  W seqlen, seq | u8 type | W urilen, uri | W metalen, meta | u8 codec | body
/// ```
///
/// The size counts all bytes, including its own. W is 4 bytes in v4.0.0 and 2 bytes in v4.1, all big-endian. The
/// filters wrap the payload.
#[derive(Clone, Debug)]
pub struct RawProtocol {
    dialect: Dialect,
    /// True while the dialect is to be taken from the first message.
    detects: bool,
}

const FRAMING: Framing = Framing {
    version: Some(b'r'),
    size_counts_itself: true,
};

/// The longest body that is written together with what stands in front of it.
const SHORT_BODY: usize = 2048;

impl RawProtocol {
    /// Returns a protocol for a peer whose dialect is known. A dialling side must know it.
    pub fn new(dialect: Dialect) -> Self {
        Self {
            dialect,
            detects: false,
        }
    }

    /// Returns a protocol for a listener. It takes the dialect of the first message, so that one port serves both.
    ///
    /// The dialect is v4.0.0 if the payload begins with three zero bytes, and v4.1 otherwise. Until then it is v4.1. A
    /// first message of v4.0.0 with a `seq` of 256 bytes or more is not recognised; peers generate numbers as `seq`.
    pub fn detect() -> Self {
        Self {
            dialect: Dialect::default(),
            detects: true,
        }
    }

    /// Returns the width of a length field in bytes.
    fn width(&self) -> usize {
        match self.dialect {
            Dialect::V4_0 => 4,
            Dialect::V4_1 => 2,
        }
    }

    /// Writes the part of a payload in front of the body.
    #[inline]
    fn put_front(&self, message: &Message<'_>, out: &mut Room<'_>) {
        self.put_field(&message.seq, out);
        out.put(&[message.kind as u8]);
        self.put_field(&message.uri, out);
        self.put_field(message.meta.encoded(), out);
        out.put(&[message.codec.0]);
    }

    #[inline]
    fn put_field(&self, field: &[u8], out: &mut Room<'_>) {
        // The caller has checked the length.
        match self.dialect {
            Dialect::V4_0 => out.put(&(field.len() as u32).to_be_bytes()),
            Dialect::V4_1 => out.put(&(field.len() as u16).to_be_bytes()),
        }
        out.put(field);
    }
}

impl Protocol for RawProtocol {
    fn id(&self) -> u8 {
        b'r'
    }

    fn name(&self) -> &'static str {
        "raw"
    }

    fn dialect(&self) -> Dialect {
        self.dialect
    }

    fn max_field(&self) -> usize {
        match self.dialect {
            Dialect::V4_0 => u32::MAX as usize,
            Dialect::V4_1 => u16::MAX.into(),
        }
    }

    fn decode<'a>(
        &mut self,
        src: &'a [u8],
        limits: &Limits,
        filters: &Filters,
    ) -> Result<Decoded<Message<'a>>, WireError> {
        let (pipe, content, size) = match FRAMING.decode(src, limits)? {
            Framed::Whole {
                filters,
                content,
                size,
            } => (filters, content, size),
            Framed::NeedMore { at_least } => return Ok(Decoded::NeedMore { at_least }),
        };
        let payload = pipe.unpack(content.into(), filters, limits.message)?;
        if self.detects {
            self.dialect = match payload.get(..3) {
                Some([0, 0, 0]) => Dialect::V4_0,
                _ => Dialect::V4_1,
            };
        }
        let width = self.width();
        let message = match payload {
            Cow::Borrowed(payload) => {
                let parts = Parts::of(payload, width)?;
                Message {
                    kind: parts.kind,
                    seq: Cow::Borrowed(parts.seq),
                    uri: Cow::Borrowed(parts.uri),
                    meta: Meta::from_encoded(parts.meta),
                    codec: parts.codec,
                    body: Cow::Borrowed(parts.body),
                    filters: pipe,
                    size,
                }
            }
            Cow::Owned(mut payload) => {
                let parts = Parts::of(&payload, width)?;
                let mut message = Message::new(parts.kind);
                message.seq = parts.seq.to_vec().into();
                message.uri = parts.uri.to_vec().into();
                message.meta = Meta::from_encoded(parts.meta).into_owned();
                message.codec = parts.codec;
                // The body is the longest part, so it stays in its memory.
                let front = payload.len() - parts.body.len();
                payload.drain(..front);
                message.body = payload.into();
                message.filters = pipe;
                message.size = size;
                message
            }
        };
        // The message was valid, so its dialect is that of the connection.
        self.detects = false;
        Ok(Decoded::Frame {
            frame: message,
            consumed: size,
        })
    }

    fn encode(
        &mut self,
        message: &Message<'_>,
        filters: &Filters,
        out: &mut dyn Sink,
    ) -> Result<(), WireError> {
        let meta = message.meta.encoded();
        let max = self.max_field();
        check_field("seq", &message.seq, max)?;
        check_field("URI", &message.uri, max)?;
        check_field("metadata", meta, max)?;
        let front = 3 * self.width() + 2 + message.seq.len() + message.uri.len() + meta.len();
        let body = &*message.body;
        if message.filters.is_empty() {
            // A long body is not copied through the memory that the front is written in.
            let (short, long) = match body.len() {
                ..=SHORT_BODY => (body, &[][..]),
                _ => (&[][..], body),
            };
            let whole = front + body.len();
            FRAMING.encode(&message.filters, whole, front + short.len(), out, |room| {
                self.put_front(message, room);
                room.put(short);
            })?;
            if !long.is_empty() {
                out.put(long);
            }
            return Ok(());
        }
        let mut content = Vec::with_capacity(front + body.len());
        content.resize(front, 0);
        self.put_front(message, &mut Room::new(&mut content));
        content.extend_from_slice(body);
        encode_wrapped(&FRAMING, message, content, filters, out)
    }
}

#[inline]
fn check_field(field: &'static str, bytes: &[u8], max: usize) -> Result<(), WireError> {
    let len = bytes.len();
    if len > max {
        return Err(WireError::FieldTooLong { field, len, max });
    }
    Ok(())
}

/// The parts of a payload.
struct Parts<'p> {
    seq: &'p [u8],
    kind: Kind,
    uri: &'p [u8],
    meta: &'p [u8],
    codec: Codec,
    body: &'p [u8],
}

impl<'p> Parts<'p> {
    fn of(payload: &'p [u8], width: usize) -> Result<Self, WireError> {
        let mut rest = payload;
        let seq = field(&mut rest, width, "seq")?;
        let kind = byte(&mut rest, "type")?;
        let kind = Kind::from_number(kind).ok_or(WireError::UnknownKind { kind: kind.into() })?;
        let uri = field(&mut rest, width, "URI")?;
        let meta = field(&mut rest, width, "metadata")?;
        let codec = Codec(byte(&mut rest, "codec")?);
        Ok(Self {
            seq,
            kind,
            uri,
            meta,
            codec,
            body: rest,
        })
    }
}

#[inline]
fn field<'p>(rest: &mut &'p [u8], width: usize, name: &'static str) -> Result<&'p [u8], WireError> {
    let len = match width {
        2 => rest
            .split_first_chunk()
            .map(|(len, behind)| (u16::from_be_bytes(*len).into(), behind)),
        _ => rest
            .split_first_chunk()
            .map(|(len, behind)| (u32::from_be_bytes(*len), behind)),
    };
    let Some((len, behind)) = len else {
        return truncated(name, width as u64, rest.len());
    };
    let Some((field, behind)) = behind.split_at_checked(len as usize) else {
        return truncated(name, len.into(), behind.len());
    };
    *rest = behind;
    Ok(field)
}

#[inline]
fn byte(rest: &mut &[u8], name: &'static str) -> Result<u8, WireError> {
    let Some((&byte, behind)) = rest.split_first() else {
        return truncated(name, 1, 0);
    };
    *rest = behind;
    Ok(byte)
}

#[cold]
fn truncated<T>(field: &'static str, len: u64, left: usize) -> Result<T, WireError> {
    Err(WireError::Truncated { field, len, left })
}
