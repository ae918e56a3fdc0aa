//! The frames between the servers of a cluster, as due v2.5.8 has them, and extensions of its own.
//!
//! ```text
//! size u32 | header u8 | op u8 | seq u64 | body
//! ```
//!
//! Numbers are big-endian. `size` counts the bytes after it. The heartbeat is the whole frame `00000001 80`. The dialler sends
//! [requests](Request), the listener [answers](Answer) with the same op and seq. A seq of 0 wants no answer. Header bit `40` asks to
//! disconnect the receivers after a push.
//!
//! | op | Request | Body | Answer, behind the code |
//! |---|---|---|---|
//! | 1 | Handshake | kind u8, id (the rest) | |
//! | 2, 3 | Bind, Unbind | cid i64, uid i64; uid i64 | |
//! | 4 | GetIp | scope u8, target i64 | IPv4 as u32; left out when the code is not 0, or there is none |
//! | 5 | Stat | scope u8 | total u64; left out when the code is not 0, or the total is 0 |
//! | 6 | IsOnline | scope u8, target i64 | u8, always there |
//! | 7 | Disconnect | scope u8, target i64, force u8 | |
//! | 8 | Push | scope u8, target i64, packet | |
//! | 9 | Multicast | scope u8, n u16, n × i64, packet | total u64, as 5 |
//! | 10 | Broadcast | scope u8, packet | total u64, as 5 |
//! | 11 | Publish | length u8, channel, packet | total u64; always there when the code is 0 |
//! | 12, 13 | Subscribe, Unsubscribe | scope u8, n u16, n × i64, channel (the rest) | |
//! | 14 | Trigger | event u8, cid i64, uid i64 unless 0 | |
//! | 15 | Deliver | cid i64, uid i64, packet | |
//! | 16, 17 | GetState, SetState | –; state u8 | state u8, always there; – |
//! | 32 | Hello | version u8, features u32, nonce 16 bytes | version, features, nonce, mac of 32 bytes; without a secret no mac |
//! | 33 | Prove | mac of 32 bytes | |
//! | 34 | Bye | – | |
//! | 35 | Reject | cid i64, route i32, seq i32, reason u8 | |
//! | 36 | GetAddr | scope u8, target i64 | address as text |
//! | 37 | Ping | – | |
//! | 38 | GetToken | scope u8, target i64 | token as text |
//! | 39 | Take | cid i64, last u64, token (the rest) | uid i64, n u16, n × (length u8, channel), pushes, each length u32 and packet; left out when the code is not 0 |
//! | 40 | Leave | cid i64 | |
//! | 41 | GiveBack | cid i64, uid i64 | |
//! | 42 | PassOn | cid i64, uid i64, packet | |
//! | 43 | Collected | cid i64 | |
//!
//! 32 to 43 are extensions, for peers that have answered a Hello. due ignores operations that it does not know. A node answers Ping
//! when it has taken or rejected all packets that came before it on the link. Once it has rejected a packet of a connection since the
//! user is elsewhere, it rejects those that come after it as well, until Collected tells that the gate has them all back.
//!
//! 38 to 42 are for [resume](super::gate). A gate sends Take to the gate that has issued a token; the code of a refusal is 256
//! plus the number of its [reason](super::packet::ResumeRefusal). It sends GiveBack to that gate if nothing came of it, also if it got
//! no answer. A gate sends Leave to nodes that know of a connection whose user is on another one by now: they forget it, and tell
//! nobody. It sends PassOn to the gate that has the user now, with what still comes for the old connection. `cid` is always the
//! connection at the gate that has sent Take.
//!
//! This module uses no socket and no clock.
//!
//! ```
//! use epicycle::cluster::drpc::{Answer, Code, Frame, FrameCodec, Incoming, Request, Scope, Target, Value};
//! use epicycle::codec::{Codec, Decoded};
//!
//! // The dialler asks.
//! let target = Target { scope: Scope::User, id: 7 };
//! let mut wire = Vec::new();
//! Request::IsOnline { target }.encode_into(5, &mut wire)?;
//!
//! // The listener decodes and answers.
//! let Decoded::Frame { frame: Incoming::Frame(frame), .. } = FrameCodec::default().decode(&mut wire)? else {
//!     unreachable!("the frame is complete");
//! };
//! assert_eq!(frame.seq, 5);
//! let Request::IsOnline { target } = Request::decode(&frame)? else {
//!     unreachable!("it is what was sent");
//! };
//! let answer = Answer { op: frame.op, code: Code::Done, value: Value::Online(target.id == 7) };
//! let mut wire = Vec::new();
//! answer.encode_into(5, &mut wire)?;
//! assert_eq!(wire, b"\0\0\0\x0d\0\x06\0\0\0\0\0\0\0\x05\0\0\x01");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod answer;
mod frame;
mod op;
mod proof;
mod request;
mod taken;
mod targets;
mod wire;

pub use self::answer::{Answer, Value};
pub use self::frame::{Frame, FrameCodec, Incoming, LinkHeartbeat, MAX_FRAME};
pub use self::op::{Code, Op, RejectReason, Scope, Target};
pub use self::proof::{Party, Role, Secret};
pub use self::request::{Hello, Request};
pub use self::taken::Taken;
pub use self::targets::{MAX_TARGETS, Targets, unique_targets};

/// The maximum length of a channel's name, in bytes.
pub const MAX_CHANNEL: usize = 255;

/// The length of a nonce, in bytes.
pub const NONCE: usize = 16;

/// The length of a proof, in bytes: that of HMAC-SHA256.
pub const MAC: usize = 32;

/// The version of the extensions.
pub const VERSION: u8 = 1;
