use std::borrow::Cow;

use super::{Dialect, Framed, Framing, Limits, Protocol, SIZE, encode_wrapped};
use crate::buf::outbox::Outbox;
use crate::codec::Decoded;
use crate::rpc::wire::sink::Room;
use crate::rpc::wire::{Codec, FilterPipe, Filters, Kind, Message, Meta, Sink, WireError};

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
    #[inline(always)]
    fn put_front(&self, message: &Message<'_>, out: &mut Room<'_>) {
        let (kind, codec, meta) = (message.kind as u8, message.codec.0, message.meta.encoded());
        self.put_field(&message.seq, out);
        if self.dialect == Dialect::V4_1 && message.uri.is_empty() && meta.is_empty() {
            // A reply without an error, in one piece.
            return out.put(&[kind, 0, 0, 0, 0, codec]);
        }
        out.put(&[kind]);
        self.put_field(&message.uri, out);
        self.put_field(meta, out);
        out.put(&[codec]);
    }

    #[inline(always)]
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
        let message = match pipe.unpack(content.into(), filters, limits.message)? {
            Cow::Borrowed(payload) => self.parts(payload)?.message(pipe, size),
            Cow::Owned(mut payload) => {
                let parts = self.parts(&payload)?;
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
        let (front, size) = self.lens(message)?;
        let body = &*message.body;
        if !message.filters.is_empty() {
            let mut content = Vec::with_capacity(front + body.len());
            content.resize(front, 0);
            self.put_front(message, &mut Room::new(&mut content));
            content.extend_from_slice(body);
            return encode_wrapped(&FRAMING, message, content, filters, out);
        }
        let (short, long) = split_long(body);
        out.put_with(PLAIN + front + short.len(), &mut |room| {
            self.put_plain(message, size, short, room);
        });
        if !long.is_empty() {
            out.put(long);
        }
        Ok(())
    }
}

/// The length of the framing without filters: `u32 size | 'r' | 0`.
const PLAIN: usize = SIZE + 2;

impl RawProtocol {
    /// Decodes a message that is here as a whole and has no filters, as most are. It is made in its place and not moved.
    /// `None` leaves everything else to [`decode`](Protocol::decode), which also finds the error.
    #[inline(always)]
    pub(in crate::rpc) fn decode_plain<'a>(
        &self,
        src: &'a [u8],
        limits: &Limits,
    ) -> Option<Message<'a>> {
        let &[a, b, c, d, b'r', 0] = src.first_chunk()? else {
            return None;
        };
        let size = u32::from_be_bytes([a, b, c, d]) as usize;
        if self.detects || size > limits.message {
            return None;
        }
        let parts = Parts::of(src.get(PLAIN..size)?, self.width()).ok()?;
        Some(parts.message(FilterPipe::default(), size))
    }

    /// Appends an encoded message to a connection's output, as [`encode`](Protocol::encode) does.
    #[inline(always)]
    pub(in crate::rpc) fn put(
        &mut self,
        message: &Message<'_>,
        filters: &Filters,
        out: &mut Outbox<'_>,
    ) -> Result<(), WireError> {
        if !message.filters.is_empty() {
            return self.encode(message, filters, out);
        }
        let (front, size) = self.lens(message)?;
        let (short, long) = split_long(&message.body);
        let len = PLAIN + front + short.len();
        out.put_with(len, |room| {
            self.put_plain(message, size, short, room);
            len
        });
        if !long.is_empty() {
            out.put(long);
        }
        Ok(())
    }

    /// Returns the length of what stands in front of the body in the payload, and the size of the message without filters.
    #[inline(always)]
    fn lens(&self, message: &Message<'_>) -> Result<(usize, u32), WireError> {
        let (max, meta) = (self.max_field(), message.meta.encoded());
        check_field("seq", &message.seq, max)?;
        check_field("URI", &message.uri, max)?;
        check_field("metadata", meta, max)?;
        let front = 3 * self.width() + 2 + message.seq.len() + message.uri.len() + meta.len();
        let size = PLAIN + front + message.body.len();
        match u32::try_from(size) {
            Ok(whole) => Ok((front, whole)),
            Err(_) => too_long(size),
        }
    }

    /// Fills `room` with a message without filters, up to the end of `body`.
    #[inline(always)]
    fn put_plain(&self, message: &Message<'_>, size: u32, body: &[u8], room: &mut [u8]) {
        let mut room = Room::new(room);
        room.put(&size.to_be_bytes());
        room.put(b"r\0");
        self.put_front(message, &mut room);
        room.put(body);
    }

    /// Finds the parts of a payload. That of a listener's first message tells the dialect.
    fn parts<'p>(&mut self, payload: &'p [u8]) -> Result<Parts<'p>, WireError> {
        if self.detects {
            self.dialect = match payload.get(..3) {
                Some([0, 0, 0]) => Dialect::V4_0,
                _ => Dialect::V4_1,
            };
        }
        Parts::of(payload, self.width())
    }
}

/// Splits off a long body. It is not copied through the memory that the front is written in.
#[inline(always)]
fn split_long(body: &[u8]) -> (&[u8], &[u8]) {
    match body.len() {
        ..=SHORT_BODY => (body, &[]),
        _ => (&[], body),
    }
}

#[cold]
fn too_long<T>(size: usize) -> Result<T, WireError> {
    Err(WireError::TooLong {
        size: size as u64,
        max: u32::MAX as usize,
    })
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
    /// Returns the message, which borrows the payload.
    #[inline(always)]
    fn message(self, filters: FilterPipe<'p>, size: usize) -> Message<'p> {
        Message {
            kind: self.kind,
            seq: Cow::Borrowed(self.seq),
            uri: Cow::Borrowed(self.uri),
            meta: Meta::from_encoded(self.meta),
            codec: self.codec,
            body: Cow::Borrowed(self.body),
            filters,
            size,
        }
    }

    #[inline(always)]
    fn of(payload: &'p [u8], width: usize) -> Result<Self, WireError> {
        let mut rest = payload;
        let seq = field(&mut rest, width, "seq")?;
        let kind = byte(&mut rest, "type")?;
        let kind =
            Kind::from_number(kind).ok_or_else(|| WireError::UnknownKind { kind: kind.into() })?;
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

#[inline(always)]
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

#[inline(always)]
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
