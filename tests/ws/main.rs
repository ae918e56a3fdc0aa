//! WebSocket over real sockets: opening, messages, every way to end, and the limits on hostile peers.
#![cfg(feature = "ws")]

#[path = "../util/mod.rs"]
mod util;

mod client;
mod closing;
mod messages;
mod peer;
#[cfg(feature = "tls")]
#[allow(dead_code)]
#[path = "../tls/pki.rs"]
mod pki;
mod resources;
#[cfg(feature = "tls")]
mod secure;
mod service;
mod upgrade;
