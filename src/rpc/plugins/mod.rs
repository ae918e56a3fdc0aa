//! Plugins that come with this crate.

pub mod auth;
