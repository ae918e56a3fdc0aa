//! What is served, as a real browser sees it.
#![cfg(feature = "ws")]

mod chromium;
mod dashboard;
mod events;
#[path = "../util/mod.rs"]
mod util;
