//! HTTP requests for applications. So far, this is the bookkeeping of their connections: [`Pool`].

mod pool;

pub use self::pool::{Pool, PoolLimits, Step, Ticket};
