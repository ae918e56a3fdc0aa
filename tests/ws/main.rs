//! WebSocket over real sockets: opening, messages, every way to end, and what a hostile peer can cost.
#![cfg(feature = "ws")]

#[path = "../util/mod.rs"]
mod util;

mod client;
mod closing;
mod messages;
mod peer;
mod resources;
mod service;
mod upgrade;
