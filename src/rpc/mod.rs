//! RPC between peers, wire-compatible with Teleport v4.
//!
//! A [`Peer`] listens, dials, or does both. Each connection is a [`Session`], on which both sides send calls and pushes. A
//! [`Router`] says which handler takes which message.
//!
//! ```
//! use epicycle::rpc::{Peer, Router};
//!
//! let mut routes = Router::new();
//! routes.group("math", |routes| {
//!     routes.call("add", |_ctx, numbers: Vec<i64>| Ok(numbers.iter().sum::<i64>()));
//! });
//! let server = Peer::builder().listen("tcp://127.0.0.1:0").routes(routes).start()?;
//!
//! let client = Peer::builder().start()?;
//! let session = client.dial(&server.local_addrs()[0])?;
//! let sum: i64 = session.call("/math/add", &[1, 2, 3]).wait()?;
//! assert_eq!(sum, 6);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Below the peers are the [`wire`] formats, which work without connections, and [`Wire`], the codec that carries their
//! messages in any event handler.

mod broadcast;
mod builder;
mod call;
mod calls;
mod cancellation;
mod codec;
mod config;
mod context;
mod controller;
mod deferred;
mod dials;
mod go_duration;
mod handler;
mod held;
#[cfg(feature = "http")]
mod http;
#[cfg(feature = "http")]
mod http_headers;
mod logging;
#[cfg(feature = "http")]
mod media;
mod multi;
#[cfg(feature = "http")]
mod origins;
mod outgoing;
mod paths;
mod peer;
mod plugin;
pub mod plugins;
mod receiver;
mod reply;
#[cfg(feature = "http")]
mod request_check;
mod responder;
mod route_info;
mod router;
mod sender;
mod session;
mod slot;
mod stats;
mod stream;
mod stream_call;
mod stream_ends;
mod stream_routes;
mod swap;
mod tasks;
mod timers;
#[cfg(feature = "ws")]
mod websocket;
pub mod wire;
mod working;

pub use self::builder::PeerBuilder;
pub use self::call::{Call, CallFuture, Pending, Push};
pub use self::codec::{ProtocolChoice, Wire};
pub use self::config::{Config, Network};
pub use self::context::{AsyncCtx, CallCtx, Incoming, PushCtx};
pub use self::handler::{Line, PeerHandler};
#[cfg(feature = "http")]
pub use self::http::Http;
pub use self::logging::Logged;
pub use self::multi::{
    AddressStats, MultiCall, MultiClient, MultiClientBuilder, MultiPush, MultiStats,
};
pub use self::outgoing::WhenFull;
pub use self::peer::{DialFuture, Peer};
pub use self::plugin::{Hooks, Next, Plugin};
pub use self::receiver::{Items, NextItem, Receiver, StreamHandle};
pub use self::reply::{FromReply, Reply};
pub use self::responder::Responder;
pub use self::route_info::RouteInfo;
pub use self::router::Router;
pub use self::sender::{Ready, SendError, Sender};
pub use self::session::{Health, Session, SessionConn};
pub use self::stats::{Outcome, PeerStats, RouteReport, RouteStats, Stats};
pub use self::stream_call::StreamCall;
pub use self::stream_ends::{ScopedEnds, StreamEnds};
pub use self::swap::Swap;
#[cfg(feature = "ws")]
pub use self::websocket::WebSocket;
pub use self::wire::{Codec, Status, code};
pub use crate::{controller, push_controller};
