//! The backends of the cluster, against real servers, which each test starts for itself.

#[path = "../util/mod.rs"]
mod util;
#[path = "../cluster/vectors.rs"]
mod vectors;

mod redis_bus;
mod redis_cache;
mod redis_locator;
mod redis_lock;
mod redis_server;
mod redis_topology;
