//! Tests with a real browser as the client.
#![cfg(feature = "ws")]

mod chromium;
mod dashboard;
mod events;
#[path = "../util/mod.rs"]
mod util;
