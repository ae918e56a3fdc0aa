use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use redis::Script;
use serde::{Deserialize, Serialize};

use super::{LocationEvent, Locator, MAX_WAITING, MAX_WATCHES, check};
use crate::cluster::backends::{Listener, Redis, Subscriptions};
use crate::cluster::{Error, Watch, WatchSender, watch};
use crate::metrics::{Expose, Exposition};

/// A locator on Redis, in the format of due.
///
/// The gate of a user is the text at `due:locate:locate:user:UID:gate`, and its nodes are the hash at `due:locate:locate:user:UID:node`,
/// by alias. Each change is published in `due:locate:locate:cluster:gate:event` or `…:node:event`. If Redis dies, what it has not
/// stored is lost, and users are found again when they are bound anew. Clones share one connection for their watches.
#[derive(Clone)]
pub struct RedisLocator(Arc<Shared>);

struct Shared {
    redis: Redis,
    prefix: String,
    watches: Arc<Watches>,
    subscriptions: Mutex<Option<Subscriptions>>,
    scripts: Scripts,
}

/// Each changes a key, and tells the others of it, in one step.
struct Scripts {
    bind_gate: Script,
    bind_node: Script,
    unbind_node: Script,
}

#[derive(Default)]
struct Watches(Mutex<Senders>);

#[derive(Default)]
struct Senders {
    all: Vec<WatchSender<LocationEvent>>,
    is_lost: bool,
}

/// A message in one of the channels.
#[derive(Serialize, Deserialize)]
struct Change<'m> {
    uid: i64,
    #[serde(rename = "type")]
    kind: u8,
    #[serde(rename = "insID", borrow)]
    id: Cow<'m, str>,
    #[serde(rename = "insKind", borrow)]
    instance: Cow<'m, str>,
    #[serde(rename = "insName", borrow)]
    alias: Cow<'m, str>,
}

const BIND_GATE: u8 = 1;
const BIND_NODE: u8 = 2;
const UNBIND_GATE: u8 = 3;
const UNBIND_NODE: u8 = 4;

impl RedisLocator {
    /// Returns a locator with the prefix of due, `due:locate`.
    pub fn new(redis: &Redis) -> Self {
        Self::with_prefix(redis, "due:locate")
    }

    /// Returns a locator whose keys and channels begin with `PREFIX:locate`.
    pub fn with_prefix(redis: &Redis, prefix: &str) -> Self {
        Self(Arc::new(Shared {
            redis: redis.clone(),
            prefix: format!("{prefix}:locate"),
            watches: Arc::default(),
            subscriptions: Mutex::default(),
            scripts: Scripts {
                bind_gate: Script::new(
                    "redis.call('SET', KEYS[1], ARGV[1], 'KEEPTTL') \
                     redis.call('PUBLISH', ARGV[2], ARGV[3]) return {'OK'}",
                ),
                bind_node: Script::new(
                    "redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) \
                     redis.call('PUBLISH', ARGV[3], ARGV[4]) return {'OK'}",
                ),
                unbind_node: Script::new(
                    "if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return {'NO'} end \
                     redis.call('HDEL', KEYS[1], ARGV[1]) \
                     redis.call('PUBLISH', ARGV[3], ARGV[4]) return {'OK'}",
                ),
            },
        }))
    }

    fn key(&self, uid: i64, kind: &str) -> String {
        format!("{}:user:{uid}:{kind}", self.0.prefix)
    }

    fn channel(&self, kind: &str) -> String {
        format!("{}:cluster:{kind}:event", self.0.prefix)
    }

    /// Runs a script that changes something and publishes that. The channel and the message are its last arguments.
    fn change(
        &self,
        script: &Script,
        key: &str,
        args: &[&str],
        change: &Change<'_>,
    ) -> Result<bool, Error> {
        let (channel, message) = (self.channel(&change.instance), json(change)?);
        let args = [args, &[&channel, &message]].concat();
        self.0.redis.run_script(script, key, &args)
    }
}

fn json(change: &Change<'_>) -> Result<String, Error> {
    serde_json::to_string(change).map_err(|error| Error::Codec(Arc::new(error)))
}

impl Locator for RedisLocator {
    fn kind(&self) -> &str {
        "redis"
    }

    fn expose(&self, labels: &[(&str, &str)], to: &mut Exposition) {
        self.0.redis.expose(labels, to);
    }

    fn bind_gate(&self, uid: i64, gid: &str) -> Result<(), Error> {
        check(uid, &[gid])?;
        let (script, key) = (&self.0.scripts.bind_gate, self.key(uid, "gate"));
        self.change(script, &key, &[gid], &gate_change(BIND_GATE, uid, gid))
            .map(|_| ())
    }

    fn unbind_gate(&self, uid: i64, gid: &str) -> Result<bool, Error> {
        check(uid, &[gid])?;
        let change = gate_change(UNBIND_GATE, uid, gid);
        let (channel, message) = (self.channel(&change.instance), json(&change)?);
        let told = Some((&*channel, &*message));
        self.0.redis.delete_if(&self.key(uid, "gate"), gid, told)
    }

    fn bind_node(&self, uid: i64, alias: &str, nid: &str) -> Result<(), Error> {
        check(uid, &[alias, nid])?;
        let (script, key) = (&self.0.scripts.bind_node, self.key(uid, "node"));
        let change = node_change(BIND_NODE, uid, alias, nid);
        self.change(script, &key, &[alias, nid], &change)
            .map(|_| ())
    }

    fn unbind_node(&self, uid: i64, alias: &str, nid: &str) -> Result<bool, Error> {
        check(uid, &[alias, nid])?;
        let (script, key) = (&self.0.scripts.unbind_node, self.key(uid, "node"));
        let change = node_change(UNBIND_NODE, uid, alias, nid);
        self.change(script, &key, &[alias, nid], &change)
    }

    fn locate_gate(&self, uid: i64) -> Result<Option<String>, Error> {
        check(uid, &[])?;
        let mut get = redis::cmd("GET");
        get.arg(self.key(uid, "gate"));
        self.0.redis.query(&get)
    }

    fn locate_node(&self, uid: i64, alias: &str) -> Result<Option<String>, Error> {
        check(uid, &[alias])?;
        let mut get = redis::cmd("HGET");
        get.arg(self.key(uid, "node")).arg(alias);
        self.0.redis.query(&get)
    }

    fn locate_nodes(&self, uid: i64) -> Result<Vec<(String, String)>, Error> {
        check(uid, &[])?;
        let mut get = redis::cmd("HGETALL");
        get.arg(self.key(uid, "node"));
        self.0.redis.query(&get)
    }

    /// Changes that are made while Redis is lost are missed. An [`Interrupted`](LocationEvent::Interrupted) tells that it is there
    /// again.
    fn watch(&self) -> Result<Watch<LocationEvent>, Error> {
        let mut subscriptions = self.0.subscriptions.lock();
        if subscriptions.is_none() {
            let channels = ["gate", "node"].map(|kind| self.channel(kind));
            let listener = self.0.watches.clone();
            *subscriptions = Some(Subscriptions::start(
                &self.0.redis,
                &self.0.prefix,
                channels,
                listener,
            )?);
        }
        drop(subscriptions);
        let (sender, watch) = watch();
        let mut senders = self.0.watches.0.lock();
        senders.all.retain(|sender| !sender.is_closed());
        if senders.all.len() == MAX_WATCHES {
            return Err(Error::Busy {
                what: "locator's list of watches",
            });
        }
        sender.set_lost(senders.is_lost);
        senders.all.push(sender);
        Ok(watch)
    }
}

impl Watches {
    fn notify(&self, event: &LocationEvent) {
        self.0.lock().all.retain(|sender| {
            sender.push(event.clone(), MAX_WAITING) || sender.replace(LocationEvent::Interrupted)
        });
    }

    fn set_lost(&self, is_lost: bool) {
        let mut senders = self.0.lock();
        senders.is_lost = is_lost;
        for sender in &senders.all {
            sender.set_lost(is_lost);
        }
    }
}

impl Listener for Arc<Watches> {
    fn on_message(&self, channel: &str, payload: &[u8]) {
        match serde_json::from_slice::<Change<'_>>(payload) {
            Ok(change) => {
                if let Some(event) = change.event() {
                    self.notify(&event);
                }
            }
            // What it would have told is not known, so nothing that is remembered can be relied on.
            Err(error) => {
                log::warn!(target: "epicycle::cluster", "Redis: {channel} carries no change of a location: {error}");
                self.notify(&LocationEvent::Interrupted);
            }
        }
    }

    fn on_found(&self) {
        self.set_lost(false);
        self.notify(&LocationEvent::Interrupted);
    }

    fn on_lost(&self) {
        self.set_lost(true);
    }
}

fn gate_change(kind: u8, uid: i64, gid: &str) -> Change<'_> {
    Change {
        uid,
        kind,
        id: gid.into(),
        instance: "gate".into(),
        alias: "".into(),
    }
}

fn node_change<'m>(kind: u8, uid: i64, alias: &'m str, nid: &'m str) -> Change<'m> {
    Change {
        uid,
        kind,
        id: nid.into(),
        instance: "node".into(),
        alias: alias.into(),
    }
}

impl Change<'_> {
    /// Returns none for kinds that are not known: there is nothing to forget.
    fn event(&self) -> Option<LocationEvent> {
        let (uid, id, alias) = (
            self.uid,
            self.id.clone().into_owned(),
            self.alias.clone().into_owned(),
        );
        Some(match self.kind {
            BIND_GATE => LocationEvent::GateBound { uid, gid: id },
            UNBIND_GATE => LocationEvent::GateUnbound { uid, gid: id },
            BIND_NODE => LocationEvent::NodeBound {
                uid,
                alias,
                nid: id,
            },
            UNBIND_NODE => LocationEvent::NodeUnbound {
                uid,
                alias,
                nid: id,
            },
            _ => return None,
        })
    }
}

impl fmt::Debug for RedisLocator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisLocator")
            .field("redis", &self.0.redis)
            .field("prefix", &self.0.prefix)
            .finish_non_exhaustive()
    }
}
