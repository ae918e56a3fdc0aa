use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, Visitor};

use super::{Dialect, Framed, Framing, Limits, Protocol, check_filters, encode_wrapped, sendable};
use crate::codec::Decoded;
use crate::rpc::wire::{Codec, FilterPipe, Filters, Kind, Message, Meta, Sink, WireError};

/// Messages as JSON.
///
/// ```text
/// u32 size | u8 n | n filter ids | {"seq":"..","mtype":1,"uri":"..","meta":"..","body_codec":106,"body":".."}
/// ```
///
/// The size does not count its own 4 bytes. The filters wrap the JSON. In a WebSocket, the JSON is the whole message,
/// with `,"xfer_pipe":[103]` at its end, and the filters wrap only the body.
///
/// # Bodies that are not text, and messages that are not JSON
///
/// Strings are bytes: bytes that are not UTF-8 are sent unchanged. Teleport escapes only `"` in a body, so its output
/// is not JSON if the body contains a backslash. Such a message is read as its sender meant it, unless every backslash
/// happens to form a valid escape; then it cannot be told from JSON.
#[derive(Clone, Debug)]
pub struct JsonProtocol {
    dialect: Dialect,
    detects: bool,
    websocket: bool,
}

pub(super) const FRAMING: Framing = Framing {
    version: None,
    size_counts_itself: false,
};

impl JsonProtocol {
    /// Returns a protocol for a peer whose dialect is known. Messages of both dialects are accepted.
    pub fn new(dialect: Dialect) -> Self {
        Self {
            dialect,
            detects: false,
            websocket: false,
        }
    }

    /// Returns a protocol for a listener. It takes the dialect of the first message, so that one port serves both.
    /// Until then it uses v4.1.
    pub fn detect() -> Self {
        Self {
            detects: true,
            ..Self::new(Dialect::default())
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

    fn encode_json(&self, message: &Message<'_>, body: &[u8], capacity: usize) -> Vec<u8> {
        let mut json = Vec::with_capacity(capacity);
        let kind_key: &[u8] = match self.dialect {
            Dialect::V4_0 => br#"","ptype":"#,
            Dialect::V4_1 => br#"","mtype":"#,
        };
        json.extend_from_slice(br#"{"seq":""#);
        escape(&message.seq, &mut json);
        json.extend_from_slice(kind_key);
        json.push(b'0' + message.kind as u8);
        json.extend_from_slice(br#","uri":""#);
        escape(&message.uri, &mut json);
        json.extend_from_slice(br#"","meta":""#);
        escape(message.meta.encoded(), &mut json);
        json.extend_from_slice(br#"","body_codec":"#);
        json.extend_from_slice(message.codec.0.to_string().as_bytes());
        json.extend_from_slice(br#","body":""#);
        escape(body, &mut json);
        if self.websocket {
            let ids: Vec<_> = message.filters.ids().iter().map(u8::to_string).collect();
            json.extend_from_slice(br#"","xfer_pipe":["#);
            json.extend_from_slice(ids.join(",").as_bytes());
            json.extend_from_slice(b"]}");
        } else {
            json.extend_from_slice(br#""}"#);
        }
        json
    }

    /// Builds a message from its JSON, with the filters of a WebSocket message.
    fn read<'a>(
        &mut self,
        json: Cow<'a, [u8]>,
        limits: &Limits,
        filters: &Filters,
    ) -> Result<Message<'a>, WireError> {
        let parsed = match &json {
            Cow::Borrowed(json) => Envelope::read(json, self.websocket)?,
            Cow::Owned(json) => Envelope::read(json, self.websocket)?.into_owned(),
        };
        let (number, dialect) = match (parsed.mtype, parsed.ptype) {
            (Some(number), _) => (number, Dialect::V4_1),
            (None, Some(number)) => (number, Dialect::V4_0),
            (None, None) => return Err(malformed("it has neither an mtype nor a ptype")),
        };
        let kind = u8::try_from(number).ok().and_then(Kind::from_number);
        let kind = kind.ok_or_else(|| WireError::UnknownKind { kind: number })?;
        if self.detects {
            (self.dialect, self.detects) = (dialect, false);
        }
        let mut message = Message::new(kind);
        message.seq = parsed.seq.0;
        message.uri = parsed.uri.0;
        message.meta = Meta::from_cow(parsed.meta.0);
        message.codec = Codec(parsed.body_codec);
        message.body = parsed.body.0;
        if self.websocket {
            check_filters(parsed.xfer_pipe.len(), limits)?;
            message.filters = FilterPipe::from_owned(parsed.xfer_pipe);
            let body = std::mem::take(&mut message.body);
            message.body = message.filters.unpack(body, filters, limits.message)?;
        }
        Ok(message)
    }
}

impl Protocol for JsonProtocol {
    fn id(&self) -> u8 {
        b'j'
    }

    fn name(&self) -> &'static str {
        "json"
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
            message = self.read(src.into(), limits, filters)?;
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
            let json = pipe.unpack(content.into(), filters, limits.message)?;
            message = self.read(json, limits, filters)?;
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
        let parts = [&message.seq, &message.uri, &message.body];
        let lengths: usize = parts.iter().map(|part| part.len()).sum();
        // Room for the names, and for the escaped quotes of a JSON body.
        let capacity = 96 + lengths + lengths / 8 + message.meta.encoded().len();
        if self.websocket {
            sendable(&message.filters)?;
            let body = message
                .filters
                .pack(Cow::Borrowed(&message.body), filters)?;
            out.put(&self.encode_json(message, &body, capacity));
            return Ok(());
        }
        let json = self.encode_json(message, &message.body, capacity);
        encode_wrapped(&FRAMING, message, json, filters, out)
    }
}

fn malformed(what: impl Into<String>) -> WireError {
    WireError::Malformed {
        protocol: "JSON",
        what: what.into(),
    }
}

/// Appends `bytes` as the contents of a JSON string. Bytes beyond ASCII are not changed.
fn escape(bytes: &[u8], json: &mut Vec<u8>) {
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| ESCAPED[usize::from(*byte)]) {
        json.extend_from_slice(&rest[..at]);
        match rest[at] {
            byte @ (b'"' | b'\\') => json.extend_from_slice(&[b'\\', byte]),
            b'\n' => json.extend_from_slice(b"\\n"),
            b'\r' => json.extend_from_slice(b"\\r"),
            b'\t' => json.extend_from_slice(b"\\t"),
            byte => {
                let digit = |nibble: u8| b"0123456789abcdef"[usize::from(nibble)];
                json.extend_from_slice(b"\\u00");
                json.extend_from_slice(&[digit(byte >> 4), digit(byte & 15)]);
            }
        }
        rest = &rest[at + 1..];
    }
    json.extend_from_slice(rest);
}

/// The bytes that must be escaped in a JSON string.
const ESCAPED: [bool; 256] = {
    let mut escaped = [false; 256];
    let mut control = 0;
    while control < b' ' as usize {
        escaped[control] = true;
        control += 1;
    }
    escaped[b'"' as usize] = true;
    escaped[b'\\' as usize] = true;
    escaped
};

/// The contents of a message's JSON. Other keys are ignored; missing ones are empty.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Envelope<'a> {
    #[serde(borrow)]
    seq: Text<'a>,
    mtype: Option<i64>,
    ptype: Option<i64>,
    #[serde(borrow)]
    uri: Text<'a>,
    #[serde(borrow)]
    meta: Text<'a>,
    body_codec: u8,
    #[serde(borrow)]
    body: Text<'a>,
    xfer_pipe: Vec<u8>,
}

/// A JSON string that need not be UTF-8.
#[derive(Default)]
struct Text<'a>(Cow<'a, [u8]>);

impl<'a> Envelope<'a> {
    fn read(json: &'a [u8], websocket: bool) -> Result<Self, WireError> {
        serde_json::from_slice(json).or_else(|error| {
            Self::read_unescaped(json, websocket).ok_or_else(|| malformed(error.to_string()))
        })
    }

    /// Reads a message of Teleport whose body has only its quotes escaped.
    ///
    /// Everything before the body is valid JSON, so the first occurrence of the quoted body key is the key itself.
    fn read_unescaped(json: &'a [u8], websocket: bool) -> Option<Self> {
        const KEY: &[u8] = br#","body":""#;
        const PIPE: &[u8] = br#"","xfer_pipe":"#;
        let key = memchr::memmem::find(json, KEY)?;
        let (head, rest) = (&json[..key], &json[key + KEY.len()..]);
        let (body, pipe) = if websocket {
            let end = memchr::memmem::rfind(rest, PIPE)?;
            let pipe = rest[end + PIPE.len()..].strip_suffix(b"}")?;
            (&rest[..end], serde_json::from_slice(pipe).ok()?)
        } else {
            (rest.strip_suffix(br#""}"#)?, Vec::new())
        };
        // The closing brace can only be appended to a copy.
        let head = [head, b"}"].concat();
        let mut envelope = serde_json::from_slice::<Envelope<'_>>(&head)
            .ok()?
            .into_owned();
        envelope.body = Text(unescape_quotes(body));
        envelope.xfer_pipe = pipe;
        Some(envelope)
    }

    /// Returns an owned copy.
    fn into_owned<'b>(self) -> Envelope<'b> {
        let owned = |text: Text<'_>| Text(Cow::Owned(text.0.into_owned()));
        Envelope {
            seq: owned(self.seq),
            mtype: self.mtype,
            ptype: self.ptype,
            uri: owned(self.uri),
            meta: owned(self.meta),
            body_codec: self.body_codec,
            body: owned(self.body),
            xfer_pipe: self.xfer_pipe,
        }
    }
}

/// Unescapes `\"`, and nothing else.
fn unescape_quotes(body: &[u8]) -> Cow<'_, [u8]> {
    let mut quotes = memchr::memmem::find_iter(body, br#"\""#).peekable();
    if quotes.peek().is_none() {
        return Cow::Borrowed(body);
    }
    let mut unescaped = Vec::with_capacity(body.len());
    let mut copied = 0;
    for quote in quotes {
        unescaped.extend_from_slice(&body[copied..quote]);
        copied = quote + 1;
    }
    unescaped.extend_from_slice(&body[copied..]);
    Cow::Owned(unescaped)
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // serde_json does not require UTF-8 of a string that is requested as bytes.
        deserializer.deserialize_bytes(TextVisitor)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Text<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_bytes<E: Error>(self, bytes: &'de [u8]) -> Result<Self::Value, E> {
        Ok(Text(Cow::Borrowed(bytes)))
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Self::Value, E> {
        Ok(Text(Cow::Owned(bytes.to_vec())))
    }
}
