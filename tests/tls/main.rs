//! TLS on the engine's connections: handshakes, data, and every way to end.
#![cfg(feature = "tls")]

#[path = "../util/mod.rs"]
mod util;

mod adopting;
mod carrying;
mod client;
mod closing;
mod echo;
mod files;
mod flow;
mod handshake;
mod openssl;
mod peer;
mod pipes;
mod pki;
mod starting;
