//! The packets between clients and gates.
//!
//! ```text
//! size u32 | header u8 | route i8, i16 or i32 | seq none, i8, i16 or i32 | data
//! ```
//!
//! `size` counts the bytes after it. A request has a `seq` above 0, and its answer has the same route and `seq`. A push has
//! `seq` 0. [`PacketOptions`] has the widths, the byte order and the limit; both ends must have the same.
//!
//! | Header | The rest | Meaning |
//! |---|---|---|
//! | bit 7 set | empty, or the time as `i64`, in nanoseconds since 1970 | heartbeat |
//! | `01` | route, seq 0, fields | [control packet](Control): resume and goodbye, which due does not have |
//! | any other | route, seq, data | packet; the bits are 0 when sent, and ignored on receipt |
//!
//! On TCP and KCP the packets are back to back: [`PacketCodec`] cuts them. On WebSocket a binary message is one packet:
//! [`PacketOptions::decode_message`] checks it.
//!
//! ```
//! use epicycle::cluster::packet::{Packet, PacketCodec, PacketFrame, PacketOptions};
//! use epicycle::codec::{Codec, Decoded};
//!
//! let options = PacketOptions::default();
//! let encoded = options.encode(&Packet { route: 1, seq: 2, data: b"hi" })?;
//!
//! let mut input = encoded.as_bytes().to_vec();
//! let mut codec = PacketCodec::new(options);
//! let Decoded::Frame { frame: PacketFrame::Packet { packet, .. }, consumed } = codec.decode(&mut input)? else {
//!     unreachable!("the packet is complete");
//! };
//! assert_eq!((packet.route, packet.seq, packet.data), (1, 2, &b"hi"[..]));
//! assert_eq!(consumed, encoded.as_bytes().len());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod codec;
mod control;
mod encode;
mod options;

pub use self::codec::{MAX_EMPTY_IN_ROW, PacketCodec};
pub use self::control::{Control, GoodbyeReason, ResumeRefusal};
pub use self::encode::EncodedPacket;
pub use self::options::{PacketOptions, PacketOptionsBuilder};

/// A request, an answer or a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// The route, which says what the packet is about.
    pub route: i32,
    /// The number of the request, above 0, in the request and in its answer. 0 in a push. Always 0 if the options give `seq`
    /// no bytes.
    pub seq: i32,
    /// The application's data.
    pub data: &'a [u8],
}

/// A sign of life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heartbeat {
    /// The sender's time in nanoseconds since 1970, if it tells it.
    pub time: Option<i64>,
}

/// The next thing in the input of a client or a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PacketFrame<'a> {
    /// A packet.
    Packet {
        /// The packet.
        packet: Packet<'a>,
        /// All its bytes, `size` included: what a gate passes on.
        whole: &'a [u8],
    },
    /// A heartbeat.
    Heartbeat(Heartbeat),
    /// A control packet.
    Control(Control<'a>),
    /// A `size` of 0 and nothing else. It means nothing; too many in a row are an error.
    Empty,
}
