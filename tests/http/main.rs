//! HTTP over real sockets: what a client may rely on, and what it cannot do to a server.
#![cfg(feature = "http")]

#[path = "../util/mod.rs"]
mod util;

mod answering;
mod cases;
mod patience;
mod pipelining;
mod site;
mod wire;
mod writing;
