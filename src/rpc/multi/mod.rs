//! Clients of services with several addresses.

mod address;
mod builder;
mod client;
mod flight;
mod options;
mod pool;
mod state;
mod stats;

pub use self::builder::MultiClientBuilder;
pub use self::client::{MultiCall, MultiClient, MultiPush};
pub use self::stats::{AddressStats, MultiStats};
