use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use redis::Script;
use serde::{Deserialize, Serialize};

use super::{LocationEvent, Locator, MAX_WAITING, MAX_WATCHES, check};
use crate::cluster::backends::{Listener, Redis, Subscriptions};
use crate::cluster::{Error, Watch, WatchSender, watch};

/// A locator on Redis, in the format of due.
///
/// The gate of a user is the text at `due:locate:locate:user:UID:gate`, and its nodes are the hash at `due:locate:locate:user:UID:node`,
/// by alias. Each change is published in `due:locate:locate:cluster:gate:event` or `…:node:event`. If Redis dies, what it has not
/// stored is lost, and users are found again when they are bound anew.
pub struct RedisLocator {
    redis: Redis,
    prefix: String,
    watches: Arc<Watches>,
    subscriptions: Mutex<Option<Subscriptions>>,
    unbind_gate: Script,
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
        Self {
            redis: redis.clone(),
            prefix: format!("{prefix}:locate"),
            watches: Arc::default(),
            subscriptions: Mutex::default(),
            unbind_gate: Script::new(
                "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {'NO'} end \
                 redis.call('DEL', KEYS[1]) return {'OK'}",
            ),
            unbind_node: Script::new(
                "if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return {'NO'} end \
                 redis.call('HDEL', KEYS[1], ARGV[1]) return {'OK'}",
            ),
        }
    }

    fn key(&self, uid: i64, kind: &str) -> String {
        format!("{}:user:{uid}:{kind}", self.prefix)
    }

    fn channel(&self, kind: &str) -> String {
        format!("{}:cluster:{kind}:event", self.prefix)
    }

    fn publish(&self, change: &Change<'_>) -> Result<(), Error> {
        let mut publish = redis::cmd("PUBLISH");
        publish
            .arg(self.channel(&change.instance))
            .arg(json(change)?);
        self.redis.run(|connection| publish.query(connection))
    }

    fn change(&self, command: &redis::Cmd, change: &Change<'_>) -> Result<(), Error> {
        let channel = self.channel(&change.instance);
        let _: redis::Value = self
            .redis
            .change_and_publish(command, &channel, &json(change)?)?;
        Ok(())
    }
}

fn json(change: &Change<'_>) -> Result<String, Error> {
    serde_json::to_string(change).map_err(|error| Error::Codec(Arc::new(error)))
}

impl Locator for RedisLocator {
    fn kind(&self) -> &str {
        "redis"
    }

    fn bind_gate(&self, uid: i64, gid: &str) -> Result<(), Error> {
        check(uid, &[gid])?;
        let mut set = redis::cmd("SET");
        set.arg(self.key(uid, "gate")).arg(gid).arg("KEEPTTL");
        self.change(&set, &gate_change(BIND_GATE, uid, gid))
    }

    fn unbind_gate(&self, uid: i64, gid: &str) -> Result<bool, Error> {
        check(uid, &[gid])?;
        let key = self.key(uid, "gate");
        let unbound = self.redis.run_script(&self.unbind_gate, &key, &[gid])?;
        if unbound {
            self.publish(&gate_change(UNBIND_GATE, uid, gid))?;
        }
        Ok(unbound)
    }

    fn bind_node(&self, uid: i64, alias: &str, nid: &str) -> Result<(), Error> {
        check(uid, &[alias, nid])?;
        let mut set = redis::cmd("HSET");
        set.arg(self.key(uid, "node")).arg(alias).arg(nid);
        self.change(&set, &node_change(BIND_NODE, uid, alias, nid))
    }

    fn unbind_node(&self, uid: i64, alias: &str, nid: &str) -> Result<bool, Error> {
        check(uid, &[alias, nid])?;
        let key = self.key(uid, "node");
        let unbound = self
            .redis
            .run_script(&self.unbind_node, &key, &[alias, nid])?;
        if unbound {
            self.publish(&node_change(UNBIND_NODE, uid, alias, nid))?;
        }
        Ok(unbound)
    }

    fn locate_gate(&self, uid: i64) -> Result<Option<String>, Error> {
        check(uid, &[])?;
        let mut get = redis::cmd("GET");
        get.arg(self.key(uid, "gate"));
        self.redis.run(|connection| get.query(connection))
    }

    fn locate_node(&self, uid: i64, alias: &str) -> Result<Option<String>, Error> {
        check(uid, &[alias])?;
        let mut get = redis::cmd("HGET");
        get.arg(self.key(uid, "node")).arg(alias);
        self.redis.run(|connection| get.query(connection))
    }

    fn locate_nodes(&self, uid: i64) -> Result<Vec<(String, String)>, Error> {
        check(uid, &[])?;
        let mut get = redis::cmd("HGETALL");
        get.arg(self.key(uid, "node"));
        self.redis.run(|connection| get.query(connection))
    }

    /// Changes that are made while Redis is lost are missed. An [`Interrupted`](LocationEvent::Interrupted) tells that it is there
    /// again.
    fn watch(&self) -> Result<Watch<LocationEvent>, Error> {
        let mut subscriptions = self.subscriptions.lock();
        if subscriptions.is_none() {
            let channels = ["gate", "node"].map(|kind| self.channel(kind));
            let listener = self.watches.clone();
            *subscriptions = Some(Subscriptions::start(
                &self.redis,
                &self.prefix,
                channels,
                listener,
            )?);
        }
        drop(subscriptions);
        let (sender, watch) = watch();
        let mut senders = self.watches.0.lock();
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
                log::warn!(target: "epicycle::cluster", "redis: {channel} carries no change of a location: {error}");
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
            .field("redis", &self.redis)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}
