mod servers;
mod subscriptions;

use std::fmt;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use redis::{Cmd, FromRedisValue, RedisError, Script};

use self::servers::{Servers, is_about_user};
use super::BackendStats;
use super::pool::{Dial, Failure, Pool};
use crate::cluster::Error;

pub(in crate::cluster) use self::subscriptions::{Listener, Subscriptions};

/// A Redis server, a group of them behind sentinels, or a Redis cluster. Clones share its connections.
///
/// Valkey and others that speak Redis's protocol serve as well.
#[derive(Clone)]
pub struct Redis(Arc<Pool<Servers>>);

/// Sets up a [`Redis`].
#[derive(Clone)]
#[must_use = "it does nothing until `build` is called"]
pub struct RedisBuilder {
    urls: Vec<String>,
    topology: Topology,
    connections: usize,
    timeout: Duration,
    root_certificates: Option<Vec<u8>>,
}

#[derive(Clone, Debug)]
enum Topology {
    Single,
    Cluster,
    Sentinel { master: String },
}

impl Redis {
    /// Returns the server of a URL: `redis://USER:PASSWORD@HOST:PORT/DATABASE`, with `rediss` for TLS, and `?protocol=resp3` for the
    /// newer protocol. Nothing is dialled yet.
    ///
    /// # Errors
    ///
    /// Returns [`Error::InvalidArgument`] if it is no such URL.
    pub fn open(url: &str) -> Result<Self, Error> {
        Self::builder().url(url).build()
    }

    /// Returns a builder.
    pub fn builder() -> RedisBuilder {
        RedisBuilder {
            urls: Vec::new(),
            topology: Topology::Single,
            connections: 8,
            timeout: Duration::from_secs(3),
            root_certificates: None,
        }
    }

    /// Returns its state.
    pub fn stats(&self) -> BackendStats {
        self.0.stats()
    }

    /// Returns the answer to a command.
    pub(in crate::cluster) fn query<R: FromRedisValue>(&self, command: &Cmd) -> Result<R, Error> {
        // An answer of another type costs that call, and not the connection.
        let answer: redis::Value = (self.0).run(|connection| {
            command
                .query(&mut **connection)
                .map_err(|error| self.failure(&error))
        })?;
        read(answer)
    }

    /// Runs a script with one key. It answers true if it did something.
    pub(in crate::cluster) fn run_script(
        &self,
        script: &Script,
        key: &str,
        args: &[&str],
    ) -> Result<bool, Error> {
        let mut call = script.key(key);
        for arg in args {
            call.arg(*arg);
        }
        let answer: redis::Value = (self.0).run(|connection| {
            call.invoke(&mut **connection)
                .map_err(|error| self.failure(&error))
        })?;
        let (answer,): (String,) = read(answer)?;
        Ok(answer == "OK")
    }

    /// Deletes a key if it holds this value, and publishes a message in a channel in the same step. Returns false if it does not.
    pub(in crate::cluster) fn delete_if(
        &self,
        key: &str,
        value: &str,
        told: Option<(&str, &str)>,
    ) -> Result<bool, Error> {
        static DELETE_IF: LazyLock<Script> = LazyLock::new(|| {
            Script::new(
                "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {'NO'} end \
                 redis.call('DEL', KEYS[1]) \
                 if ARGV[2] then redis.call('PUBLISH', ARGV[2], ARGV[3]) end return {'OK'}",
            )
        });
        match told {
            Some((channel, message)) => {
                self.run_script(&DELETE_IF, key, &[value, channel, message])
            }
            None => self.run_script(&DELETE_IF, key, &[value]),
        }
    }

    /// Notes that a connection for subscriptions has brought something.
    fn note_answer(&self) {
        self.0.health().answered();
    }

    /// Notes that a connection for subscriptions was lost. One on which the server has refused something was not.
    fn note_loss(&self, error: &RedisError) {
        match self.failure(error) {
            Failure::Connection(problem) => self.0.health().lost(problem),
            Failure::Refused(_) => {}
        }
    }

    /// Returns what an error means, with the server and the remedy.
    fn describe(&self, error: &RedisError) -> String {
        self.0.dial().describe(error)
    }

    /// Tells if a connection can still be used after an error.
    fn failure(&self, error: &RedisError) -> Failure {
        let is_lost = error.is_unrecoverable_error()
            || error.is_io_error()
            || error.is_timeout()
            || error.code() == Some("READONLY")
            || is_about_user(error);
        let problem = self.describe(error);
        if is_lost {
            Failure::Connection(problem)
        } else {
            Failure::Refused(problem)
        }
    }

    /// Returns a new connection for subscriptions, or the problem.
    fn dial_for_subscriptions(&self) -> Result<redis::Connection, RedisError> {
        self.0.dial().dial_for_subscriptions()
    }
}

impl RedisBuilder {
    /// Adds the URL of a server, as [`Redis::open`] has it. A cluster and a group with sentinels may have several.
    pub fn url(mut self, url: impl Into<String>) -> Self {
        self.urls.push(url.into());
        self
    }

    /// Tells that the URLs are those of some servers of a Redis cluster. The others are found through them. A command whose answer
    /// is lost may be sent again, up to three times, so a number may be counted twice.
    pub fn cluster(mut self) -> Self {
        self.topology = Topology::Cluster;
        self
    }

    /// Tells that the URLs are those of sentinels, which know where the master of this name is. The user, the password, the database
    /// and TLS of a URL are the master's too.
    pub fn sentinel(mut self, master: impl Into<String>) -> Self {
        self.topology = Topology::Sentinel {
            master: master.into(),
        };
        self
    }

    /// Sets the maximum number of connections, those for subscriptions not included. Calls of more threads wait. The default is 8.
    pub fn connections(mut self, connections: usize) -> Self {
        self.connections = connections;
        self
    }

    /// Sets the time that a call may take: to wait for a connection, to dial, and to get an answer, each. The default is 3 s.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets the certificates of the authorities that are trusted with `rediss`, as PEM, in place of the system's.
    pub fn root_certificates(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.root_certificates = Some(pem.into());
        self
    }

    /// Returns the backend. Nothing is dialled yet.
    ///
    /// # Errors
    ///
    /// Returns [`Error::InvalidArgument`] if there is no URL, one is none of Redis, or the timeout is below 1 ms or above an hour.
    pub fn build(self) -> Result<Redis, Error> {
        super::check_timeout(self.timeout)?;
        let (connections, timeout) = (self.connections, self.timeout);
        let servers = Servers::new(self)?;
        Ok(Redis(Arc::new(Pool::new(servers, connections, timeout))))
    }
}

fn read<R: FromRedisValue>(answer: redis::Value) -> Result<R, Error> {
    redis::from_redis_value(answer)
        .map_err(|error| Error::backend(Servers::BACKEND, error.to_string()))
}

impl fmt::Debug for RedisBuilder {
    /// Leaves out the URLs, which may have passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisBuilder")
            .field("topology", &self.topology)
            .field("connections", &self.connections)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis")
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
