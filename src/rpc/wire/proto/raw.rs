use std::ops::Range;

use super::{Dialect, Framing, Limits, Protocol, encode_wrapped, part, tail};
use crate::codec::Decoded;
use crate::rpc::wire::sink::Gather;
use crate::rpc::wire::{Codec, FilterPipe, Filters, Kind, Message, Meta, Sink, WireError};

/// Teleport's raw protocol, its default.
///
/// ```text
/// u32 size | 'r' | u8 n | n filter ids | payload
/// payload:  W seqlen, seq | u8 type | W urilen, uri | W metalen, meta | u8 codec | body
/// ```
///
/// The size counts all bytes, its own too. W is 4 bytes in v4.0.0 and 2 in v4.1, all big-endian. The filters wrap the
/// payload.
#[derive(Clone, Debug)]
pub struct RawProtocol {
    dialect: Dialect,
    /// Whether the first message is still to tell the dialect.
    detects: bool,
}

const FRAMING: Framing = Framing {
    head: b"r",
    size_counts_itself: true,
};

impl RawProtocol {
    /// For a peer whose dialect is known, as that of one that is dialled has to be.
    pub fn new(dialect: Dialect) -> Self {
        Self {
            dialect,
            detects: false,
        }
    }

    /// For a listener: the dialect is that of the first message that comes, so one port serves both.
    ///
    /// It is v4.0.0 if the payload begins with three bytes of 0, and v4.1 else; until then it is v4.1. A first message of
    /// v4.0.0 with a seq of 256 bytes or more is not recognised; those that peers make up by themselves are numbers.
    pub fn detect() -> Self {
        Self {
            dialect: Dialect::default(),
            detects: true,
        }
    }

    /// How many bytes a length field has.
    fn width(&self) -> usize {
        match self.dialect {
            Dialect::V4_0 => 4,
            Dialect::V4_1 => 2,
        }
    }

    fn put_field(&self, field: &[u8], out: &mut Gather<'_>) {
        // The length has been checked.
        match self.dialect {
            Dialect::V4_0 => out.put(&(field.len() as u32).to_be_bytes()),
            Dialect::V4_1 => out.put(&(field.len() as u16).to_be_bytes()),
        }
        out.put(field);
    }

    fn put_payload(&self, message: &Message<'_>, out: &mut Gather<'_>) {
        self.put_field(&message.seq, out);
        out.put(&[message.kind as u8]);
        self.put_field(&message.uri, out);
        self.put_field(message.meta.encoded(), out);
        out.put(&[message.codec.0]);
        out.put(&message.body);
        out.flush();
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
        let framed = match FRAMING.decode(src, limits)? {
            Ok(framed) => framed,
            Err(at_least) => return Ok(Decoded::NeedMore { at_least }),
        };
        let pipe = FilterPipe::from_ids(framed.filters);
        let payload = pipe.unpack(framed.content.into(), filters, limits.message)?;
        if self.detects {
            self.dialect = match payload.get(..3) {
                Some([0, 0, 0]) => Dialect::V4_0,
                _ => Dialect::V4_1,
            };
        }
        let parts = Parts::of(&payload, self.width())?;
        // It was a message, so its dialect is the connection's.
        self.detects = false;
        let mut message = Message::new(parts.kind);
        message.seq = part(&payload, parts.seq);
        message.uri = part(&payload, parts.uri);
        message.meta = Meta::from_cow(part(&payload, parts.meta));
        message.codec = parts.codec;
        message.body = tail(payload, parts.body);
        message.filters = pipe;
        message.size = framed.size;
        Ok(Decoded::Frame {
            frame: message,
            consumed: framed.size,
        })
    }

    fn encode(
        &mut self,
        message: &Message<'_>,
        filters: &Filters,
        out: &mut dyn Sink,
    ) -> Result<(), WireError> {
        let fields = [
            ("seq", &message.seq[..]),
            ("URI", &message.uri),
            ("metadata", message.meta.encoded()),
        ];
        let max = self.max_field();
        for (field, bytes) in fields {
            if bytes.len() > max {
                let len = bytes.len();
                return Err(WireError::FieldTooLong { field, len, max });
            }
        }
        let lengths: usize = fields.iter().map(|(_, bytes)| bytes.len()).sum();
        let payload = lengths + 3 * self.width() + 2 + message.body.len();
        if message.filters.is_empty() {
            let mut out = Gather::new(out);
            FRAMING.encode(&message.filters, payload, &mut out)?;
            self.put_payload(message, &mut out);
            return Ok(());
        }
        let mut content = Vec::with_capacity(payload);
        self.put_payload(message, &mut Gather::new(&mut content));
        encode_wrapped(&FRAMING, message, content, filters, out)
    }
}

/// Where the parts of a payload are.
struct Parts {
    seq: Range<usize>,
    kind: Kind,
    uri: Range<usize>,
    meta: Range<usize>,
    codec: Codec,
    /// Where the body begins.
    body: usize,
}

impl Parts {
    fn of(payload: &[u8], width: usize) -> Result<Self, WireError> {
        let mut at = 0;
        let seq = field(payload, &mut at, width, "seq")?;
        let kind = byte(payload, &mut at, "type")?;
        let kind = Kind::from_number(kind).ok_or(WireError::UnknownKind { kind: kind.into() })?;
        let uri = field(payload, &mut at, width, "URI")?;
        let meta = field(payload, &mut at, width, "metadata")?;
        let codec = Codec(byte(payload, &mut at, "codec")?);
        Ok(Self {
            seq,
            kind,
            uri,
            meta,
            codec,
            body: at,
        })
    }
}

fn field(
    payload: &[u8],
    at: &mut usize,
    width: usize,
    name: &'static str,
) -> Result<Range<usize>, WireError> {
    let truncated = |len: u64, left: usize| WireError::Truncated {
        field: name,
        len,
        left,
    };
    let left = payload.len() - *at;
    let Some(len) = payload.get(*at..*at + width) else {
        return Err(truncated(width as u64, left));
    };
    let len = len.iter().fold(0, |len, byte| len << 8 | u64::from(*byte));
    let start = *at + width;
    let left = payload.len() - start;
    if len > left as u64 {
        return Err(truncated(len, left));
    }
    *at = start + len as usize;
    Ok(start..*at)
}

fn byte(payload: &[u8], at: &mut usize, name: &'static str) -> Result<u8, WireError> {
    let Some(&byte) = payload.get(*at) else {
        return Err(WireError::Truncated {
            field: name,
            len: 1,
            left: 0,
        });
    };
    *at += 1;
    Ok(byte)
}
