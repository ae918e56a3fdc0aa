//! Plugins that come with this crate.

pub mod auth;
pub mod binder;
pub mod heartbeat;
pub mod ignore_case;
pub mod limits;
pub mod proxy;
#[cfg(feature = "rpc-secure")]
pub mod secure;
