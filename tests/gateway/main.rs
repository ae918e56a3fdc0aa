//! The gateway: its configuration file, and the program as a user runs it.

#[path = "../util/mod.rs"]
mod util;

mod config;
