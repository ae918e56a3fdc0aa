//! The engine: from the sockets to the handler and back.
//!
//! From the bottom up:
//!
//! - data structures without I/O: [`slots`], [`timer`], [`mailbox`]
//! - the sources of connections: [`udp`], [`listen`], [`connect`]
//! - a connection as a state machine ([`conn`]) and its [`stream`]
//! - the types that an application implements and receives: [`handler`]
//! - the event loop: [`reactor`]
//! - threads and their options: [`server`], [`client`]

pub(crate) mod client;
pub(crate) mod conn;
pub(crate) mod connect;
pub(crate) mod handler;
pub(crate) mod listen;
pub(crate) mod mailbox;
pub(crate) mod pipes;
#[cfg(feature = "proxy-protocol")]
pub(crate) mod proxy_protocol;
pub(crate) mod reactor;
pub(crate) mod reactor_thread;
pub(crate) mod server;
pub(crate) mod slots;
pub(crate) mod stream;
pub(crate) mod timer;
pub(crate) mod turn_time;
pub(crate) mod turns;
pub(crate) mod udp;
