//! The wire formats of RPC peers, without sockets or clocks.
//!
//! A [`Message`] is a CALL, its REPLY, or a PUSH. A [`Protocol`] frames it, [`Filters`] wrap it (compression,
//! checksums), and a body [`Codec`] encodes a value into its body. A fault of the peer is a [`WireError`], which closes
//! the connection, or a [`Status`], which answers one CALL.
//!
//! ```
//! use epicycle::codec::Decoded;
//! use epicycle::rpc::wire::{
//!     Codec, Codecs, Dialect, Filters, Limits, Message, Protocol, RawProtocol,
//! };
//!
//! let (limits, filters, codecs) = (Limits::default(), Filters::standard(), Codecs::standard());
//! let mut protocol = RawProtocol::new(Dialect::V4_1);
//!
//! let mut call = Message::call("/math/add");
//! call.seq = b"0"[..].into();
//! call.meta.add("K", "v 1");
//! call.marshal(&codecs, Codec::JSON, &[1, 2])?;
//!
//! let mut bytes = Vec::new();
//! protocol.encode(&call, &filters, &mut bytes)?;
//! assert_eq!(bytes, b"\0\0\0\x24r\0\0\x010\x01\0\x09/math/add\0\x07K=v%201j[1,2]");
//!
//! // The decoded message borrows the input.
//! let Decoded::Frame { frame, consumed } = protocol.decode(&bytes, &limits, &filters)? else {
//!     unreachable!("the message is complete");
//! };
//! assert_eq!(consumed, bytes.len());
//! assert_eq!(frame.unmarshal::<Vec<i64>>(&codecs)?, [1, 2]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Protocols and dialects
//!
//! | Protocol | On a stream | In a WebSocket message |
//! |---|---|---|
//! | [`RawProtocol`] | `u32 size, 'r', u8 n, n filter ids, payload` | the same |
//! | [`JsonProtocol`] | `u32 size, u8 n, n filter ids, JSON` | JSON, with the filter ids in it |
//! | [`PbProtocol`] | `u32 size, u8 n, n filter ids, protobuf` | protobuf, with the filter ids in it |
//!
//! Teleport v4.0.0 and v4.1 differ in a few bytes, which [`Dialect`] lists. Integers are big-endian.

mod codec;
mod error;
mod filter;
mod message;
mod meta;
mod proto;
mod sink;
mod status;
mod uri;

pub use self::codec::{
    Body, BodyCodec, BodyError, Codec, Codecs, DecodeBody, Dual, EncodeBody, Format, Html, Pb, Raw,
    RawRef, Visit,
};
pub use self::error::{RegistryError, WireError};
pub use self::filter::{Filter, FilterError, FilterPipe, Filters, Gzip, Md5};
pub use self::message::{Kind, Message};
pub use self::meta::Meta;
pub use self::proto::{Dialect, JsonProtocol, Limits, PbProtocol, Protocol, RawProtocol};
pub(super) use self::proto::{explain, foreign};
pub use self::sink::Sink;
pub(super) use self::status::OneLine;
pub use self::status::{Status, code};
pub use self::uri::{Uri, UriError, uri_path};
/// The serializers and deserializers that a custom [`BodyCodec`] receives.
pub use erased_serde;
