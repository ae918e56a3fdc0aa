//! Servers outside the process that hold what all servers of a cluster share: Consul, etcd, Kafka, memcached, Nacos, NATS, RabbitMQ, Redis.
//!
//! Each is behind a cargo feature of its own. A backend is opened once, and handed to the adapters that stand beside the
//! implementations in memory, such as [`RedisLocator`](super::locator::RedisLocator). The calls block, for as long as the timeout
//! says, so they belong on a [worker pool](crate::workers) and not on a reactor.
//!
//! A backend that is lost is dialled again, with a growing delay. Until then the calls fail at once.
//!
#![cfg_attr(
    feature = "redis",
    doc = r#"```no_run
use epicycle::cluster::backends::Redis;
use epicycle::cluster::locator::{Locator, RedisLocator};

let redis = Redis::open("redis://127.0.0.1:6379")?;
let locator = RedisLocator::new(&redis);
locator.bind_gate(7, "gate-1")?;
assert!(redis.stats().is_up);
# Ok::<(), epicycle::cluster::Error>(())
```"#
)]

#[cfg(feature = "consul")]
mod consul;
#[cfg(feature = "etcd")]
mod etcd;
#[cfg(feature = "etcd")]
mod etcd_keys;
#[cfg(any(
    feature = "consul",
    feature = "etcd",
    feature = "kafka",
    feature = "memcache",
    feature = "nacos",
    feature = "nats",
    feature = "rabbitmq",
    feature = "redis"
))]
mod health;
#[cfg(any(feature = "consul", feature = "etcd", feature = "nacos"))]
mod http;
#[cfg(feature = "kafka")]
mod kafka;
#[cfg(feature = "memcache")]
mod memcache;
#[cfg(feature = "nacos")]
mod nacos;
#[cfg(feature = "nats")]
mod nats;
#[cfg(any(feature = "memcache", feature = "rabbitmq", feature = "redis"))]
mod pool;
#[cfg(feature = "rabbitmq")]
mod rabbitmq;
#[cfg(feature = "redis")]
mod redis;
#[cfg(any(feature = "memcache", feature = "rabbitmq"))]
mod stream;

use std::time::Duration;

use super::Error;
use crate::metrics::{Expose, Exposition};

/// The parsers by themselves, for fuzzing.
#[cfg(feature = "internals")]
pub(crate) mod parsers {
    #[cfg(feature = "memcache")]
    pub use super::memcache::memcached_values;
    #[cfg(feature = "nats")]
    pub use super::nats::wire::{NatsCodec, NatsOperation};
    #[cfg(feature = "rabbitmq")]
    pub use super::rabbitmq::amqp_messages;
}

#[cfg(feature = "consul")]
pub use self::consul::{Consul, ConsulBuilder};
#[cfg(feature = "etcd")]
pub(in crate::cluster) use self::etcd::{Base64, Number, etcd_error};
#[cfg(feature = "etcd")]
pub use self::etcd::{Etcd, EtcdBuilder};
#[cfg(feature = "etcd")]
pub(in crate::cluster) use self::etcd_keys::{EtcdKeys, EtcdRecord};
#[cfg(feature = "consul")]
pub(in crate::cluster) use self::http::escape;
#[cfg(feature = "kafka")]
pub(in crate::cluster) use self::kafka::KafkaSubscription;
#[cfg(feature = "kafka")]
pub use self::kafka::{Kafka, KafkaBuilder};
#[cfg(feature = "memcache")]
pub use self::memcache::{Memcache, MemcacheBuilder};
#[cfg(feature = "nacos")]
pub use self::nacos::{Nacos, NacosBuilder};
#[cfg(feature = "nats")]
pub(in crate::cluster) use self::nats::NatsSubscription;
#[cfg(feature = "nats")]
pub use self::nats::{Nats, NatsBuilder};
#[cfg(feature = "rabbitmq")]
pub(in crate::cluster) use self::rabbitmq::RabbitMqSubscription;
#[cfg(feature = "rabbitmq")]
pub use self::rabbitmq::{RabbitMq, RabbitMqBuilder};
#[cfg(feature = "redis")]
pub(in crate::cluster) use self::redis::{Listener, Subscriptions};
#[cfg(feature = "redis")]
pub use self::redis::{Redis, RedisBuilder};

/// Checks the timeout of a backend.
fn check_timeout(timeout: Duration) -> Result<(), Error> {
    if (Duration::from_millis(1)..=Duration::from_secs(3600)).contains(&timeout) {
        return Ok(());
    }
    let problem = format!("{timeout:?}; give one from 1 ms to an hour");
    Err(Error::argument("timeout", problem))
}

/// The state of a backend. [`Monitor::add_metrics`](crate::cluster::Monitor::add_metrics) brings it into the metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackendStats {
    /// The backend's name: `redis`, for example.
    pub backend: &'static str,
    /// True if it was reached, and not lost since. A call, a subscription and a watch tell; before the first of them it is false, but
    /// for Kafka and NATS, which are dialled at once.
    pub is_up: bool,
    /// The time since it last answered, to a call or to a sign of life, or `None` if it never did.
    pub last_ok: Option<Duration>,
    /// Calls that wait for a connection; of NATS, bytes.
    pub queue: usize,
    /// Connections, those of RabbitMQ and Redis for subscriptions not included.
    pub connections: usize,
}

impl Expose for BackendStats {
    fn expose(&self, labels: &[(&str, &str)], to: &mut Exposition) {
        let labels = [labels, &[("backend", self.backend)]].concat();
        let help = "1 if the backend was reached and not lost since.";
        let up = f64::from(u8::from(self.is_up));
        to.gauge("epicycle_backend_up", help, &labels, up);
        if let Some(last_ok) = self.last_ok {
            let help = "Seconds since the backend last answered. It lacks until it has.";
            let seconds = last_ok.as_secs_f64();
            to.gauge("epicycle_backend_last_ok_seconds", help, &labels, seconds);
        }
        let help = "Calls that wait for a connection to the backend now; of NATS, bytes.";
        to.gauge("epicycle_backend_queue", help, &labels, self.queue as f64);
        let help = "Connections to the backend now.";
        let connections = self.connections as f64;
        to.gauge("epicycle_backend_connections", help, &labels, connections);
    }
}

/// Has backends expose their state.
macro_rules! expose {
    ($($feature:literal $backend:ident),+) => {$(
        #[cfg(feature = $feature)]
        impl Expose for $backend {
            fn expose(&self, labels: &[(&str, &str)], to: &mut Exposition) {
                self.stats().expose(labels, to);
            }
        }
    )+};
}

expose! {
    "consul" Consul, "etcd" Etcd, "kafka" Kafka, "memcache" Memcache, "nacos" Nacos, "nats" Nats, "rabbitmq" RabbitMq,
    "redis" Redis
}
