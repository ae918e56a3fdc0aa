//! Servers for many clients that stay connected, as online games have them, wire-compatible with the Go framework due v2.5.8.
//!
//! Clients hold connections to **gates**. A gate passes their packets on to **nodes**, where the application runs. Nodes push
//! back through the gates. This module has both, and the formats of both ways; gates and nodes of due can be among them.
//!
//! - [`packet`]: what clients and gates say to each other.
//! - [`drpc`]: what gates and nodes say to each other.
//! - [`registry`]: which servers there are. [`locator`]: where a user is. [`dispatch`]: which node gets a packet.
//! - [`link`]: both sides of a connection between servers, without a socket.
//! - [`gate`]: servers that hold clients.
//! - [`node`]: servers on which the application runs. [`Cluster`]: a whole cluster in one process.
//! - [`codec`]: JSON, protobuf and others for the data of packets.
//! - `crypto` (feature `crypto`): ciphers and signatures for the data of packets.
//! - [`config`]: the configuration of a process, with the keys of due.
//! - `logging` (feature `logfile`): the log of a process, to the console and to files.
//! - [`container`]: starts and ends the parts of a process.
//! - [`mesh`]: services that are called by name.
//! - [`admin`]: an interface for operators, and metrics.
//! - `http` (feature `cluster-http`): HTTP for applications.
//! - [`eventbus`], [`lock`], [`cache`]: messages, locks and values that all servers share.
//!
//! Registry, locator, event bus, locks and cache are traits, each with an implementation in memory for servers that are in one
//! process. Their calls may block, so they belong on a [worker pool](crate::workers) and not on a reactor.
//!
//! ```
//! use epicycle::cluster::packet::{Packet, PacketOptions};
//!
//! let options = PacketOptions::builder().route_bytes(1).build()?;
//! let packet = options.encode(&Packet { route: 1, seq: 2, data: b"hi" })?;
//! assert_eq!(packet.as_bytes(), b"\0\0\0\x06\0\x01\0\x02hi");
//! # Ok::<(), epicycle::cluster::Error>(())
//! ```

pub mod admin;
#[cfg(any(
    feature = "consul",
    feature = "etcd",
    feature = "kafka",
    feature = "memcache",
    feature = "nacos",
    feature = "nats",
    feature = "rabbitmq",
    feature = "redis"
))]
pub mod backends;
pub mod cache;
#[cfg(feature = "config")]
pub mod center;
mod chance;
pub mod client;
pub mod codec;
pub mod config;
pub mod container;
#[cfg(feature = "crypto")]
pub mod crypto;
pub mod dispatch;
pub mod drpc;
mod embedded;
#[cfg(any(feature = "consul", feature = "etcd", feature = "nacos"))]
mod ending;
mod error;
pub mod eventbus;
mod follower;
pub mod gate;
mod guarded;
#[cfg(feature = "cluster-http")]
pub mod http;
mod keyed;
pub mod link;
pub mod locator;
pub mod lock;
#[cfg(feature = "logfile")]
pub mod logging;
pub mod mesh;
mod mode;
mod monitor;
pub mod node;
#[cfg(feature = "kcp")]
mod over_kcp;
#[cfg(not(feature = "kcp"))]
#[path = "no_kcp.rs"]
mod over_kcp;
pub mod packet;
#[cfg(any(feature = "consul", feature = "nacos"))]
mod polled;
mod reactors;
pub mod registry;
mod roles;
mod seldom;
mod session;
mod text;
mod uuid;
mod watch;

pub use self::embedded::Cluster;
pub use self::error::Error;
pub use self::mode::Mode;
pub use self::monitor::{Monitor, Observed};
pub use self::roles::{Event, Kind, State};
pub use self::text::{from_text, to_text};
pub use self::uuid::new_uuid;
pub use self::watch::{Watch, WatchHandle, WatchSender, watch};
