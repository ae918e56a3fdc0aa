//! Tests with a real browser as the client.
#![cfg(feature = "ws")]

mod chromium;
mod dashboard;
mod events;
#[cfg(feature = "gateway")]
mod gateway;
#[cfg(all(feature = "gateway", feature = "tls"))]
#[path = "../tls/pki.rs"]
#[allow(dead_code)]
mod pki;
#[cfg(all(feature = "gateway", feature = "tls"))]
mod proxied;
#[cfg(feature = "rpc")]
mod rpc;
#[path = "../util/mod.rs"]
mod util;
