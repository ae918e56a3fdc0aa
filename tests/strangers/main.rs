//! WebSockets against other implementations: the packages `websockets` for Python and `ws` for node.
#![cfg(feature = "ws")]

#[path = "../util/mod.rs"]
mod util;

mod client;
mod server;
