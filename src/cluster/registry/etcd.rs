use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use serde::{Deserialize, Serialize};

use super::{Instance, Registry};
use crate::cluster::backends::{Base64, Etcd, Number, end_of_prefix, etcd_error};
use crate::cluster::{Error, Watch, WatchSender, watch};

/// A registry on etcd, in the format of due: the record of an instance is the JSON at `/services/NAME/ID`. Clones share it.
///
/// A record ends 11 seconds after its server has died, or has lost etcd. A thread of the registry keeps the records of this process
/// alive, and writes those again that have ended although the process lives. Each watch has a thread. It ends up to 5 seconds after
/// the watch.
#[derive(Clone)]
pub struct EtcdRegistry(Arc<Shared>);

struct Shared {
    etcd: Etcd,
    namespace: String,
    keeper: Arc<Keeper>,
    /// Held while records are written, so that a new state and the renewal of an old one cannot cross.
    writing: Mutex<()>,
}

/// The records of this process, by name and id. The thread that keeps them alive waits here, so that it does not hold the registry.
#[derive(Default)]
struct Keeper {
    state: Mutex<KeeperState>,
    changed: Condvar,
}

#[derive(Default)]
struct KeeperState {
    kept: HashMap<(String, String), Kept>,
    is_running: bool,
    is_over: bool,
}

/// A record that is kept alive.
#[derive(Clone)]
struct Kept {
    instance: Instance,
    lease: Number,
}

#[derive(Deserialize)]
struct Lease {
    #[serde(rename = "ID")]
    id: Number,
}

#[derive(Deserialize)]
struct KeptAlive {
    result: Remaining,
}

#[derive(Deserialize)]
struct Remaining {
    /// Left out by etcd if the lease has ended.
    #[serde(rename = "TTL", default)]
    ttl: Number,
}

#[derive(Serialize)]
struct Range {
    key: Base64,
    range_end: Base64,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_revision: Option<Number>,
}

#[derive(Deserialize)]
struct Found {
    header: Header,
    #[serde(default)]
    kvs: Vec<Record>,
}

#[derive(Deserialize)]
struct Header {
    #[serde(default)]
    revision: Number,
}

#[derive(Deserialize)]
struct Record {
    key: Base64,
    #[serde(default)]
    value: Base64,
    #[serde(default)]
    lease: Number,
    #[serde(default)]
    mod_revision: Number,
}

#[derive(Deserialize)]
struct Watched {
    result: Option<Changes>,
}

#[derive(Deserialize)]
struct Changes {
    header: Header,
    /// The watch has ended, since changes that it asked for are no longer kept.
    #[serde(default)]
    canceled: bool,
    #[serde(default)]
    events: Vec<Change>,
}

#[derive(Deserialize)]
struct Change {
    /// Left out by etcd if the record was put.
    #[serde(rename = "type", default)]
    kind: String,
    kv: Record,
}

#[derive(Deserialize)]
struct Done {}

/// The records of a name by their keys, and the revision up to which they are known.
type Position = (BTreeMap<Vec<u8>, Instance>, i64);

/// The time for which a record stays without a sign of life: due's retry interval and one second.
const TTL: i64 = 11;
const KEEP_ALIVE: Duration = Duration::from_millis(TTL as u64 * 1000 / 3);
const RETRY: Duration = Duration::from_millis(500);
/// A watch is begun anew after this time, from where it was. So a server that hangs is noticed, and the end of the watch.
const TURN: Duration = Duration::from_secs(5);

impl EtcdRegistry {
    /// Returns a registry with the namespace of due, `services`.
    pub fn new(etcd: &Etcd) -> Self {
        Self::with_namespace(etcd, "services")
    }

    /// Returns a registry whose keys begin with `/NAMESPACE/`.
    pub fn with_namespace(etcd: &Etcd, namespace: &str) -> Self {
        Self(Arc::new(Shared {
            etcd: etcd.clone(),
            namespace: namespace.to_owned(),
            keeper: Arc::default(),
            writing: Mutex::default(),
        }))
    }
}

impl Shared {
    fn prefix(&self, name: &str) -> String {
        format!("/{}/{name}/", self.namespace)
    }

    /// Writes a record with a lease of its own.
    fn put(&self, instance: &Instance) -> Result<Number, Error> {
        #[derive(Serialize)]
        struct Grant {
            #[serde(rename = "TTL")]
            ttl: Number,
        }
        #[derive(Serialize)]
        struct Put {
            key: Base64,
            value: Base64,
            lease: Number,
        }

        let lease: Lease = self
            .etcd
            .call("/v3/lease/grant", &Grant { ttl: Number(TTL) })?;
        let put = Put {
            key: Base64((self.prefix(&instance.name) + &instance.id).into_bytes()),
            value: Base64(instance.to_json()?.into_bytes()),
            lease: lease.id,
        };
        let done = self.etcd.call::<Done>("/v3/kv/put", &put);
        if let Err(error) = done {
            // It would end by itself.
            let _ = self.revoke(lease.id);
            return Err(error);
        }
        Ok(lease.id)
    }

    /// Ends a lease, and with it the record, unless another one has it by now.
    fn revoke(&self, lease: Number) -> Result<(), Error> {
        self.of_lease::<Done>("/v3/lease/revoke", lease).map(|_| ())
    }

    fn of_lease<T: serde::de::DeserializeOwned>(
        &self,
        path: &str,
        lease: Number,
    ) -> Result<T, Error> {
        #[derive(Serialize)]
        struct Of {
            #[serde(rename = "ID")]
            id: Number,
        }
        self.etcd.call(path, &Of { id: lease })
    }

    fn list(&self, name: &str) -> Result<Position, Error> {
        let prefix = self.prefix(name);
        let range = Range {
            range_end: Base64(end_of_prefix(&prefix)),
            key: Base64(prefix.into_bytes()),
            start_revision: None,
        };
        let found: Found = self.etcd.call("/v3/kv/range", &range)?;
        let mut list = BTreeMap::new();
        for record in found.kvs {
            if let Some(instance) = read(&record) {
                list.insert(record.key.0, instance);
            }
        }
        Ok((list, found.header.revision.0))
    }

    /// Keeps the records alive until there are none, or the registry is gone.
    fn keep(keeper: &Keeper, shared: &Weak<Self>) {
        let mut wait = KEEP_ALIVE;
        loop {
            let deadline = Instant::now() + wait;
            let mut state = keeper.state.lock();
            while !state.is_over && !state.kept.is_empty() && Instant::now() < deadline {
                keeper.changed.wait_until(&mut state, deadline);
            }
            if state.is_over || state.kept.is_empty() {
                state.is_running = false;
                return;
            }
            let kept = state.kept.iter();
            let due: Vec<_> = kept.map(|(key, kept)| (key.clone(), kept.lease)).collect();
            drop(state);
            let Some(own) = shared.upgrade() else {
                continue;
            };
            wait = KEEP_ALIVE;
            for (key, lease) in due {
                if let Err(error) = own.keep_one(&key, lease) {
                    log::debug!(target: "epicycle::cluster", "the record of {} is not kept: {error}", key.1);
                    wait = RETRY;
                }
            }
        }
    }

    /// Keeps a record alive, and writes it again if etcd has none.
    fn keep_one(&self, key: &(String, String), lease: Number) -> Result<(), Error> {
        let alive: KeptAlive = self.of_lease("/v3/lease/keepalive", lease)?;
        let (name, id) = key;
        let stored = self.find(name, id)?;
        if alive.result.ttl.0 > 0 && stored.as_ref().is_some_and(|record| record.lease == lease) {
            return Ok(());
        }
        let _writing = self.writing.lock();
        let instance = {
            let state = self.keeper.state.lock();
            match state.kept.get(key) {
                Some(kept) if kept.lease == lease => kept.instance.clone(),
                // It has been registered anew meanwhile, or taken out.
                _ => return Ok(()),
            }
        };
        if let Some(record) = self.find(name, id)?
            && record.lease != lease
        {
            log::warn!(target: "epicycle::cluster", "etcd: another server has the record of {id}, which is left to it");
            self.keeper.state.lock().kept.remove(key);
            return Ok(());
        }
        log::warn!(target: "epicycle::cluster", "etcd has no record of {id}, which is registered again");
        let new = self.put(&instance)?;
        if let Some(kept) = self.keeper.state.lock().kept.get_mut(key) {
            kept.lease = new;
        }
        // It may be alive still, without a record.
        let _ = self.revoke(lease);
        Ok(())
    }

    /// Returns the record of an instance.
    fn find(&self, name: &str, id: &str) -> Result<Option<Record>, Error> {
        #[derive(Serialize)]
        struct Get {
            key: Base64,
        }
        let key = Base64((self.prefix(name) + id).into_bytes());
        let found: Found = self.etcd.call("/v3/kv/range", &Get { key })?;
        Ok(found.kvs.into_iter().next())
    }

    fn follow(&self, name: &str, sender: &WatchSender<Vec<Instance>>, listed: Position) {
        let mut position = Some(listed);
        while !sender.is_closed() {
            match self.follow_for_a_turn(name, sender, &mut position) {
                Ok(()) => sender.set_lost(false),
                Err(error) => {
                    // The next attempt tells everything that has changed meanwhile.
                    position = None;
                    log::debug!(target: "epicycle::cluster", "the watch of {name}: {error}");
                    sender.set_lost(true);
                    thread::sleep(RETRY);
                }
            }
        }
    }

    fn follow_for_a_turn(
        &self,
        name: &str,
        sender: &WatchSender<Vec<Instance>>,
        position: &mut Option<Position>,
    ) -> Result<(), Error> {
        #[derive(Serialize)]
        struct Create {
            create_request: Range,
        }

        let (list, revision) = match position {
            Some(position) => position,
            none => {
                let (list, revision) = self.list(name)?;
                sender.replace(list.values().cloned().collect());
                sender.set_lost(false);
                none.insert((list, revision))
            }
        };
        let prefix = self.prefix(name);
        let create = Create {
            create_request: Range {
                range_end: Base64(end_of_prefix(&prefix)),
                key: Base64(prefix.into_bytes()),
                start_revision: Some(Number(*revision + 1)),
            },
        };
        let mut stream = self.etcd.stream("/v3/watch", &create, TURN)?;
        while let Some(Watched { result }) = stream.next()? {
            let Some(changes) = result else {
                return Err(etcd_error("etcd refuses the watch"));
            };
            if changes.canceled {
                return Err(etcd_error("changes were missed"));
            }
            // Of a server that is behind, or has begun anew without its data.
            if changes.header.revision.0 < *revision {
                return Err(etcd_error("etcd knows less than before"));
            }
            sender.set_lost(false);
            if changes.events.is_empty() {
                continue;
            }
            for change in changes.events {
                // The header may be ahead of the events.
                *revision = change.kv.mod_revision.0.max(*revision);
                match read(&change.kv) {
                    Some(instance) if change.kind != "DELETE" => {
                        list.insert(change.kv.key.0, instance);
                    }
                    _ => {
                        list.remove(&change.kv.key.0);
                    }
                }
            }
            if !sender.replace(list.values().cloned().collect()) {
                return Ok(());
            }
        }
        Ok(())
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.keeper.state.lock().is_over = true;
        self.keeper.changed.notify_all();
    }
}

fn read(record: &Record) -> Option<Instance> {
    if record.value.0.is_empty() {
        return None;
    }
    match Instance::from_json(&record.value.0) {
        Ok(instance) => Some(instance),
        Err(error) => {
            let key = String::from_utf8_lossy(&record.key.0);
            log::warn!(target: "epicycle::cluster", "etcd: {key} is no record of an instance: {error}");
            None
        }
    }
}

impl Registry for EtcdRegistry {
    fn kind(&self) -> &str {
        "etcd"
    }

    fn register(&self, instance: &Instance) -> Result<(), Error> {
        instance.check()?;
        let shared = &*self.0;
        let writing = shared.writing.lock();
        let lease = shared.put(instance)?;
        let key = (instance.name.clone(), instance.id.clone());
        let kept = Kept {
            instance: instance.clone(),
            lease,
        };
        let mut state = shared.keeper.state.lock();
        let old = state.kept.insert(key, kept);
        if !state.is_running {
            let (keeper, weak) = (shared.keeper.clone(), Arc::downgrade(&self.0));
            thread::Builder::new()
                .name("epicycle-etcd".to_owned())
                .spawn(move || Shared::keep(&keeper, &weak))
                .map_err(|error| etcd_error(format!("no thread to keep records alive: {error}")))?;
            state.is_running = true;
        }
        drop((state, writing));
        if let Some(old) = old {
            // It has no record any more, and ends by itself.
            let _ = shared.revoke(old.lease);
        }
        Ok(())
    }

    /// If etcd cannot be reached, the record ends by itself.
    fn deregister(&self, instance: &Instance) -> Result<(), Error> {
        let shared = &*self.0;
        let key = (instance.name.clone(), instance.id.clone());
        let _writing = shared.writing.lock();
        let kept = shared.keeper.state.lock().kept.remove(&key);
        shared.keeper.changed.notify_all();
        match kept {
            Some(kept) => match shared.revoke(kept.lease) {
                Err(Error::Backend { problem, .. }) if problem.contains("lease not found") => {
                    Ok(())
                }
                revoked => revoked,
            },
            None => Ok(()),
        }
    }

    fn services(&self, name: &str) -> Result<Vec<Instance>, Error> {
        let (list, _) = self.0.list(name)?;
        Ok(list.into_values().collect())
    }

    fn watch(&self, name: &str) -> Result<Watch<Vec<Instance>>, Error> {
        let listed = self.0.list(name)?;
        let (sender, watch) = watch();
        sender.replace(listed.0.values().cloned().collect());
        let (own, name) = (self.0.clone(), name.to_owned());
        thread::Builder::new()
            .name("epicycle-watch".to_owned())
            .spawn(move || own.follow(&name, &sender, listed))
            .map_err(|error| etcd_error(format!("no thread for a watch: {error}")))?;
        Ok(watch)
    }
}

impl fmt::Debug for EtcdRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdRegistry")
            .field("etcd", &self.0.etcd)
            .field("namespace", &self.0.namespace)
            .finish_non_exhaustive()
    }
}
