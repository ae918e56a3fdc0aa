//! A callback-style networking engine: hand-rolled event loops for servers that hold many connections.
//!
//! A main reactor accepts connections and deals them to sub-reactors. A sub-reactor is a thread with an event loop: it
//! has its own `Poll`, connections, timers and one handler value. An application implements [`EventHandler`], or passes
//! a closure, as this complete echo server does:
//!
//! ```no_run
//! fn main() -> Result<(), epicycle::Error> {
//!     epicycle::serve("tcp://127.0.0.1:9000", |conn, bytes| conn.write(bytes).into())
//! }
//! ```
//!
//! # The path of a byte
//!
//! ```text
//!            ┌──────────┐ deals ┌─────────────────────── reactor (thread) ──────────────────────┐
//!  connect ─▶│ acceptor │──────▶│ poll ─▶ connection ─▶ inbox ─▶ codec ─▶ EventHandler::react   │
//!            └──────────┘       │                                             │                 │
//!  other threads: Handle ──────▶│ mailbox ─────────────────────────────▶ Conn::write             │
//!                               │                                             ▼                 │
//!                               │ kernel ◀── one write a turn ◀── flush ◀── outbox              │
//!                               └───────────────────────────────────────────────────────────────┘
//! ```
//!
//! The reactor receives input into its scratch buffer. The connection's [`Codec`](codec::Codec) cuts it into frames
//! there, so a frame borrows the received bytes. Output is staged during a turn of the loop and sent at its end, with one
//! system call per connection. A connection that waits holds no buffer.
//!
//! # Where to look
//!
//! - [`Server`]: addresses, limits, timeouts, threads; [`Running`] and [`Engine`] once it runs.
//! - [`Listen`]: the options of one listener, for TCP, Unix sockets and UDP; [`handover`]: listeners that
//!   come from another process.
//! - [`Connect`]: outbound connections, from a server or from a [`Client`] without listeners; [`Resolve`]: the lookup of
//!   their host names.
//! - [`EventHandler`]: the callbacks; [`Conn`] and [`Reactor`]: their arguments.
//! - [`Udp`]: sends datagrams from a callback.
//! - [`Handle`]: access to a connection from another thread; [`Outlet`]: the same without the type of a handler.
//! - [`codec`]: lines, delimiters, length fields, and the traits for other codecs.
//! - [`WorkerPool`]: threads for work that blocks.
//! - [`metrics`]: the counters, their text for Prometheus, and sets of your own. Logging goes through the `log` crate, with the targets
//!   `epicycle::server`, `epicycle::accept`, `epicycle::reactor`, `epicycle::conn`, `epicycle::udp`,
//!   `epicycle::tls`, `epicycle::fetch`, `epicycle::handler`, `epicycle::workers` and `epicycle::signals`.
//!
//! Each of these modules needs the feature of the same name:
//!
//! - `balance`: picks one of several addresses. The feature `rpc` turns it on.
//! - `cluster`: gates, which hold the clients of a cluster, nodes, which run the application, and what they say to each other.
//! - `http`: codecs for HTTP/1.1, for servers and clients. The feature also brings `fetch`: HTTP requests for applications.
//! - `gateway`: a reverse proxy with pools, balancing and health checks.
//! - `ws`: WebSocket, for servers and clients.
//! - `kcp`: KCP, a reliable stream over datagrams, as a state machine; with `cluster`, for the clients of gates.
//! - `rpc`: peers that call each other over one connection, wire-compatible with Teleport v4.
//! - `testing`: a simulated network and virtual time, for tests of handlers and codecs.
//! - `tls`: certificates, trust, and the result of the negotiation.

// docs.rs then shows which feature an item needs.
#![cfg_attr(docsrs, feature(doc_cfg))]
// The types of `internals` have public methods, which nothing can reach without the feature.
#![cfg_attr(not(feature = "internals"), allow(unreachable_pub))]

mod addr;
mod authority;
#[cfg(feature = "balance")]
pub mod balance;
mod buf;
mod charset;
mod clock;
#[cfg(feature = "cluster")]
pub mod cluster;
pub mod codec;
mod engine;
mod error;
#[cfg(any(feature = "cluster", feature = "gateway"))]
mod fault;
#[cfg(feature = "http")]
pub mod fetch;
#[cfg(feature = "gateway")]
pub mod gateway;
#[cfg(feature = "http")]
pub mod http;
#[cfg(feature = "kcp")]
pub mod kcp;
pub mod metrics;
mod panic;
#[cfg(feature = "rpc")]
pub mod rpc;
#[cfg(feature = "testing")]
mod simnet;
mod sys;
#[cfg(feature = "testing")]
pub mod testing;
#[cfg(feature = "tls")]
pub mod tls;
pub mod workers;
#[cfg(feature = "ws")]
pub mod ws;

pub use crate::addr::{Addr, Endpoint, Family};
pub use crate::buf::outbox::Outbox;
pub use crate::engine::client::Client;
pub use crate::engine::conn::close::{CloseReason, Closed, Refused, TimeoutKind};
pub use crate::engine::conn::limits::{ConnLimits, OutboundPolicy};
pub use crate::engine::conn::origin::{ConnInfo, Origin, Transport};
pub use crate::engine::connect::negotiation::Negotiation;
pub use crate::engine::connect::resolve::{Resolve, SystemResolver};
pub use crate::engine::connect::{Connect, ConnectError, FailedAddress, FailedConnect, Reconnect};
#[cfg(feature = "tls")]
pub use crate::engine::handler::StartTlsError;
pub use crate::engine::handler::{
    Action, Adopt, Answer, Conn, ConnTimer, Connecting, Datagram, DetachError, Detached, Engine,
    EventHandler, Frame, Handle, HandleError, Listening, Outlet, PipeError, Reactor, Service, Udp,
    WriteError, service,
};
pub use crate::engine::listen::{Listen, handover};
#[cfg(feature = "proxy-protocol")]
pub use crate::engine::proxy_protocol::{ProxyHeader, ProxyProtocol};
pub use crate::engine::server::acceptor::{Balance, BalancePolicy};
pub use crate::engine::server::{AcceptMode, Report, Running, Server, serve};
pub use crate::engine::slots::ConnId;
pub use crate::engine::udp::UdpSessions;
pub use crate::error::Error;
pub use crate::sys::datagram::MulticastInterface;
pub use crate::sys::unix::PeerCredentials;
pub use crate::workers::WorkerPool;
pub use bytes::Bytes;

#[cfg(all(doctest, feature = "signals"))]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(all(doctest, feature = "tls", feature = "ws"))]
#[doc = include_str!("../docs/tuning.md")]
struct Tuning;

#[cfg(all(doctest, feature = "testing"))]
#[doc = include_str!("../docs/testing.md")]
struct Testing;

#[cfg(all(doctest, feature = "gateway"))]
#[doc = include_str!("../docs/gateway.md")]
struct Gateways;

#[cfg(all(doctest, feature = "rpc", feature = "ws"))]
#[doc = include_str!("../docs/rpc.md")]
struct Rpc;

#[cfg(all(doctest, feature = "rpc"))]
#[doc = include_str!("../docs/from-teleport.md")]
struct FromTeleport;

#[cfg(all(doctest, feature = "cluster"))]
#[doc = include_str!("../docs/cluster.md")]
struct Clusters;

#[cfg(all(doctest, feature = "cluster"))]
#[doc = include_str!("../docs/from-due.md")]
struct FromDue;

#[cfg(all(
    doctest,
    feature = "config",
    feature = "consul",
    feature = "etcd",
    feature = "kafka",
    feature = "memcache",
    feature = "nacos",
    feature = "nats",
    feature = "rabbitmq",
    feature = "redis"
))]
#[doc = include_str!("../docs/cluster-backends.md")]
struct ClusterBackends;

#[cfg(doctest)]
#[doc = include_str!("../docs/from-gnet.md")]
struct FromGnet;

#[cfg(all(doctest, feature = "signals"))]
#[doc = include_str!("../docs/from-tokio.md")]
struct FromTokio;

/// Parts of the engine by themselves, for this package's own tests and benchmarks.
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod internals {
    pub use crate::buf::pool::BufferPool;
    pub use crate::buf::ring::{MAX_CAPACITY, Ring};
    #[cfg(any(feature = "memcache", feature = "nats", feature = "rabbitmq"))]
    pub use crate::cluster::backends::parsers::*;
    pub use crate::engine::mailbox::{Mailbox, PushError, Wake};
    #[cfg(feature = "proxy-protocol")]
    pub use crate::engine::proxy_protocol::proxy_header;
    pub use crate::engine::timer::{TimerKey, Wheel};
    #[cfg(feature = "gateway")]
    pub use crate::gateway::admin_request;
    #[cfg(feature = "gateway")]
    pub use crate::gateway::discover::{dns_answer, zookeeper_frames};
}
