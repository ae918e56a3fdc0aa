//! The backends of the cluster, against real servers, which each test starts for itself.

#[allow(dead_code, reason = "other tests use the rest of the stand-ins")]
#[path = "../cluster/rig.rs"]
mod rig;
#[path = "../util/mod.rs"]
mod util;
#[allow(
    dead_code,
    reason = "the recordings that are bytes are read by other tests"
)]
#[path = "../cluster/vectors.rs"]
mod vectors;

mod bus;
mod bus_faults;
mod caches;
mod center;
mod consul;
mod due_gate;
mod due_node;
mod etcd_registry;
mod etcd_server;
mod hostile;
mod https;
mod interworking;
mod interworking_gate;
mod interworking_node;
mod interworking_ops;
mod interworking_redis;
mod kafka;
mod memcache;
mod nacos;
mod nats_bus;
mod nats_server;
mod process;
mod rabbitmq;
mod redis_bus;
mod redis_cache;
mod redis_locator;
mod redis_lock;
mod redis_server;
mod redis_topology;
mod registries;
mod speed;
mod standin;
mod state;
