//! Plugins that come with this crate.

pub mod auth;
pub mod ignore_case;
