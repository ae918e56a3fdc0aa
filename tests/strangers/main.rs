//! WebSockets, and RPC over them, against other implementations, the packages `websockets` for Python and `ws` for node; and RPC
//! peers against one in Python.
#![cfg(feature = "ws")]

#[path = "../util/mod.rs"]
mod util;

mod client;
#[cfg(feature = "rpc")]
mod rpc;
#[cfg(feature = "rpc")]
mod rpc_websocket;
mod server;
