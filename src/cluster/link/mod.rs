//! The links between servers, as state machines without sockets and clocks.
//!
//! Whoever sends dials. A [`Lane`] is the dialler's side of one connection to a peer: it introduces itself, proves that it has the
//! secret, keeps calls until they are answered, and keeps what is sent while there is no connection. A [`Listener`] is the other
//! side. The caller passes the time, as a [`Duration`](std::time::Duration) since any fixed moment.
//!
//! ```
//! use std::time::Duration;
//! use epicycle::cluster::Kind;
//! use epicycle::cluster::drpc::{Answer, Code, FrameCodec, Incoming, Request};
//! use epicycle::cluster::link::{Identity, Lane, LaneOptions, Listener, Verdict};
//! use epicycle::codec::{Codec, Decoded};
//!
//! let (gate, node) = (Identity::new(Kind::Gate, "gate-1"), Identity::new(Kind::Node, "node-1"));
//! let mut lane: Lane<()> = Lane::new(gate, node.clone(), None, LaneOptions::default());
//! let mut listener = Listener::new(node, None);
//! let now = Duration::ZERO;
//!
//! // Sent before there is a connection.
//! lane.send(&Request::Deliver { cid: 1, uid: 0, packet: b"\0\0\0\x05\0\0\x01\0\0" }, now, 0)?;
//! lane.connected(now, [1; 16]);
//!
//! let (mut input, mut output) = (lane.take_output(), Vec::new());
//! let mut delivered = 0;
//! while !input.is_empty() {
//!     let Decoded::Frame { frame, consumed } = FrameCodec::default().decode(&mut input)? else {
//!         unreachable!("the frames are complete");
//!     };
//!     match listener.receive(frame, now, || [2; 16], &mut output)? {
//!         Verdict::Serve { seq, request: Request::GetState } => {
//!             let state = epicycle::cluster::drpc::Value::State(1);
//!             let op = Request::GetState.op().code();
//!             Answer { op, code: Code::Done, value: state }.encode_into(seq, &mut output)?;
//!         }
//!         Verdict::Serve { request: Request::Deliver { .. }, .. } => delivered += 1,
//!         _ => {}
//!     }
//!     input.drain(..consumed);
//! }
//! assert_eq!(delivered, 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod calls;
mod clock;
mod dialled;
mod events;
mod health;
mod inbound;
mod lane;
mod lanes;
mod listener;
mod options;
mod peers;
mod queue;
mod registration;
#[cfg(feature = "tls")]
mod tls;

use super::Kind;

pub use self::events::{LaneEvent, LaneStats};
pub(super) use self::inbound::Inbound;
pub use self::lane::Lane;
pub(super) use self::lanes::{Lanes, LinkTimer};
pub use self::listener::{Listener, ListenerStats, Verdict};
pub use self::options::LaneOptions;
pub(super) use self::peers::{endpoint, peers, registered, warn_if_open};
pub(super) use self::registration::Registration;
#[cfg(feature = "tls")]
pub use self::tls::LinkTls;

/// The kind and the id of a server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Identity {
    /// The kind.
    pub kind: Kind,
    /// The instance id.
    pub id: String,
}

impl Identity {
    /// Returns the identity of an instance.
    pub fn new(kind: Kind, id: impl Into<String>) -> Self {
        Self {
            kind,
            id: id.into(),
        }
    }
}
