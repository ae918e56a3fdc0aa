//! WebSockets with other people's implementations at the other end: the packages `websockets` for Python and `ws` for
//! node.
#![cfg(feature = "ws")]

#[path = "../util/mod.rs"]
mod util;

mod client;
mod server;
