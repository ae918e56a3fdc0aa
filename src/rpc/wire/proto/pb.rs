use std::borrow::Cow;

use super::json::FRAMING;
use super::{Dialect, Framed, Limits, Protocol, check_filters, encode_wrapped, sendable};
use crate::codec::Decoded;
use crate::rpc::wire::{Codec, FilterPipe, Filters, Kind, Message, Meta, Sink, WireError};

/// Messages as protobuf.
///
/// ```text
/// u32 size | u8 n | n filter ids | protobuf
/// seq = 1 string, mtype = 2 int32, uri = 3 string, meta = 4 bytes, body_codec = 5 int32, body = 6 bytes
/// ```
///
/// The size does not count its own 4 bytes. The filters wrap the protobuf. In a WebSocket, the protobuf is the whole
/// message, with `xfer_pipe = 7 bytes`, and the filters wrap only the body.
///
/// Messages of both dialects have the same format. The dialects differ in the contents of replies, so a listener is
/// configured with one of them. Clients of either dialect understand both.
#[derive(Clone, Debug)]
pub struct PbProtocol {
    dialect: Dialect,
    websocket: bool,
}

impl PbProtocol {
    /// Returns a protocol for a peer of that dialect. Messages of both dialects are accepted.
    pub fn new(dialect: Dialect) -> Self {
        Self {
            dialect,
            websocket: false,
        }
    }

    /// Returns the protocol for use inside a WebSocket, where each message is a WebSocket message.
    #[must_use]
    pub fn in_websocket(self) -> Self {
        Self {
            websocket: true,
            ..self
        }
    }

    fn encode_pb(&self, message: &Message<'_>, body: &[u8]) -> Vec<u8> {
        let meta = message.meta.encoded();
        let lengths = message.seq.len() + message.uri.len() + meta.len() + body.len();
        let mut pb = Vec::with_capacity(lengths + 64);
        put_bytes(SEQ, &message.seq, &mut pb);
        put_number(KIND, message.kind as u8, &mut pb);
        put_bytes(URI, &message.uri, &mut pb);
        put_bytes(META, meta, &mut pb);
        put_number(BODY_CODEC, message.codec.0, &mut pb);
        put_bytes(BODY, body, &mut pb);
        if self.websocket {
            put_bytes(XFER_PIPE, message.filters.ids(), &mut pb);
        }
        pb
    }
}

impl Protocol for PbProtocol {
    fn id(&self) -> u8 {
        b'p'
    }

    fn name(&self) -> &'static str {
        "protobuf"
    }

    fn dialect(&self) -> Dialect {
        self.dialect
    }

    fn decode<'a>(
        &mut self,
        src: &'a [u8],
        limits: &Limits,
        filters: &Filters,
    ) -> Result<Decoded<Message<'a>>, WireError> {
        let (mut message, size);
        if self.websocket {
            size = src.len();
            super::check_whole(size, limits)?;
            message = read(src)?;
            check_filters(message.filters.len(), limits)?;
            let body = std::mem::take(&mut message.body);
            message.body = message.filters.unpack(body, filters, limits.message)?;
        } else {
            let (pipe, content);
            (pipe, content, size) = match FRAMING.decode(src, limits)? {
                Framed::Whole {
                    filters,
                    content,
                    size,
                } => (filters, content, size),
                Framed::NeedMore { at_least } => return Ok(Decoded::NeedMore { at_least }),
            };
            message = match pipe.unpack(content.into(), filters, limits.message)? {
                Cow::Borrowed(pb) => read(pb)?,
                Cow::Owned(pb) => read(&pb)?.into_owned(),
            };
            message.filters = pipe;
        }
        message.size = size;
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
        if self.websocket {
            sendable(&message.filters)?;
            let body = message
                .filters
                .pack(Cow::Borrowed(&message.body), filters)?;
            out.put(&self.encode_pb(message, &body));
            return Ok(());
        }
        let pb = self.encode_pb(message, &message.body);
        encode_wrapped(&FRAMING, message, pb, filters, out)
    }
}

// The numbers of the fields.
const SEQ: usize = 1;
const KIND: usize = 2;
const URI: usize = 3;
const META: usize = 4;
const BODY_CODEC: usize = 5;
const BODY: usize = 6;
const XFER_PIPE: usize = 7;

// Wire types: https://protobuf.dev/programming-guides/encoding/#structure
const VARINT: usize = 0;
const I64: usize = 1;
const LEN: usize = 2;
const I32: usize = 5;

fn put_bytes(field: usize, bytes: &[u8], pb: &mut Vec<u8>) {
    if !bytes.is_empty() {
        put_varint(field << 3 | LEN, pb);
        put_varint(bytes.len(), pb);
        pb.extend_from_slice(bytes);
    }
}

fn put_number(field: usize, number: u8, pb: &mut Vec<u8>) {
    if number != 0 {
        put_varint(field << 3 | VARINT, pb);
        put_varint(number.into(), pb);
    }
}

fn put_varint(value: usize, pb: &mut Vec<u8>) {
    // A length delimiter is a varint. Writing it fails only without room, and a vector always has room.
    let _ = prost::encode_length_delimiter(value, pb);
}

/// Reads a message. It is written by hand so that the parts borrow the input; prost's derive copies them.
fn read(mut pb: &[u8]) -> Result<Message<'_>, WireError> {
    let mut message = Message::new(Kind::Call);
    let (mut kind, mut codec) = (0, 0);
    while !pb.is_empty() {
        let tag = take_varint(&mut pb)?;
        match (tag >> 3, tag & 7) {
            (SEQ, LEN) => message.seq = take_bytes(&mut pb)?.into(),
            (KIND, VARINT) => kind = take_varint(&mut pb)?,
            (URI, LEN) => message.uri = take_bytes(&mut pb)?.into(),
            (META, LEN) => message.meta = Meta::from_encoded(take_bytes(&mut pb)?),
            (BODY_CODEC, VARINT) => codec = take_varint(&mut pb)?,
            (BODY, LEN) => message.body = take_bytes(&mut pb)?.into(),
            (XFER_PIPE, LEN) => message.filters = FilterPipe::from_ids(take_bytes(&mut pb)?),
            (field @ SEQ..=XFER_PIPE, wire_type) => {
                return Err(malformed(format!(
                    "field {field} has wire type {wire_type}"
                )));
            }
            // Fields of later versions are skipped.
            (1.., VARINT) => {
                take_varint(&mut pb)?;
            }
            (1.., I64) => {
                take(8, &mut pb)?;
            }
            (1.., LEN) => {
                take_bytes(&mut pb)?;
            }
            (1.., I32) => {
                take(4, &mut pb)?;
            }
            (field, wire_type) => {
                return Err(malformed(format!(
                    "invalid field {field} of wire type {wire_type}"
                )));
            }
        }
    }
    // The sender encodes it as an int32.
    let kind = kind as u32 as i32;
    let known = u8::try_from(kind).ok().and_then(Kind::from_number);
    message.kind = known.ok_or_else(|| WireError::UnknownKind { kind: kind.into() })?;
    message.codec = u8::try_from(codec).map(Codec).map_err(|_| {
        malformed(format!(
            "body_codec is {codec}, which does not fit in a byte"
        ))
    })?;
    Ok(message)
}

fn take_varint(pb: &mut &[u8]) -> Result<usize, WireError> {
    prost::decode_length_delimiter(pb).map_err(|error| malformed(error.to_string()))
}

fn take_bytes<'a>(pb: &mut &'a [u8]) -> Result<&'a [u8], WireError> {
    let len = take_varint(pb)?;
    take(len, pb)
}

fn take<'a>(len: usize, pb: &mut &'a [u8]) -> Result<&'a [u8], WireError> {
    let Some((taken, rest)) = pb.split_at_checked(len) else {
        return Err(WireError::Truncated {
            field: "field of a protobuf message",
            len: len as u64,
            left: pb.len(),
        });
    };
    *pb = rest;
    Ok(taken)
}

fn malformed(what: String) -> WireError {
    WireError::Malformed {
        protocol: "protobuf",
        what,
    }
}
