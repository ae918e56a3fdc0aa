//! RPC: the wire formats, compared with recordings of Teleport.

#[path = "../util/mod.rs"]
mod util;

mod ages;
mod binder;
mod bodies;
mod broadcasts;
mod codec;
mod config;
mod endings;
mod ends;
mod filters;
mod foreign;
mod full;
mod futures;
mod hostile;
#[cfg(feature = "ws")]
mod http;
mod limits;
mod multi;
mod names;
mod observing;
mod peers;
mod plugins;
#[cfg(feature = "cli")]
mod program;
mod properties;
mod proxy;
mod recordings;
mod replay;
#[cfg(feature = "rpc-secure")]
mod secure;
mod sessions;
mod streams;
mod vectors;
#[cfg(feature = "ws")]
mod websocket;
mod wire;
