//! Tests with a real browser as the client.
#![cfg(feature = "ws")]

mod chromium;
mod dashboard;
mod events;
#[cfg(feature = "gateway")]
mod gateway;
#[cfg(feature = "rpc")]
mod rpc;
#[path = "../util/mod.rs"]
mod util;
