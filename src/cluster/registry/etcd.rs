use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use serde::{Deserialize, Serialize};

use super::{Instance, Registry};
use crate::cluster::backends::{Base64, Etcd, Number, end_of_prefix};
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

    fn list(&self, name: &str) -> Result<(BTreeMap<Vec<u8>, Instance>, i64), Error> {
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
            let mut renewed = due
                .into_iter()
                .map(|(key, lease)| own.keep_one(&key, lease));
            wait = if renewed.all(|renewed| renewed.is_ok()) {
                KEEP_ALIVE
            } else {
                RETRY
            };
        }
    }

    fn keep_one(&self, key: &(String, String), lease: Number) -> Result<(), Error> {
        let alive: KeptAlive = self.of_lease("/v3/lease/keepalive", lease)?;
        if alive.result.ttl.0 > 0 {
            return Ok(());
        }
        let instance = {
            let state = self.keeper.state.lock();
            match state.kept.get(key) {
                Some(kept) if kept.lease == lease => kept.instance.clone(),
                // It has been registered anew meanwhile, or taken out.
                _ => return Ok(()),
            }
        };
        log::warn!(
            target: "epicycle::cluster",
            "etcd has forgotten {}, which is registered again", instance.id
        );
        let new = self.put(&instance)?;
        let mut state = self.keeper.state.lock();
        match state.kept.get_mut(key) {
            Some(kept) if kept.lease == lease => {
                kept.lease = new;
                Ok(())
            }
            _ => {
                drop(state);
                self.revoke(new)
            }
        }
    }

    fn follow(&self, name: &str, sender: &WatchSender<Vec<Instance>>) {
        let mut position = None;
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
        position: &mut Option<(BTreeMap<Vec<u8>, Instance>, i64)>,
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
                return Err(lost("etcd refuses the watch"));
            };
            if changes.canceled {
                return Err(lost("changes were missed"));
            }
            sender.set_lost(false);
            if changes.events.is_empty() {
                continue;
            }
            for change in changes.events {
                match read(&change.kv) {
                    Some(instance) if change.kind != "DELETE" => {
                        list.insert(change.kv.key.0, instance);
                    }
                    _ => {
                        list.remove(&change.kv.key.0);
                    }
                }
            }
            *revision = changes.header.revision.0;
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

fn lost(problem: &str) -> Error {
    Error::Backend {
        backend: "etcd",
        problem: problem.to_owned(),
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
                .map_err(|error| lost(&format!("no thread to keep records alive: {error}")))?;
            state.is_running = true;
        }
        drop(state);
        if let Some(old) = old {
            shared.revoke(old.lease)?;
        }
        Ok(())
    }

    /// If etcd cannot be reached, the record ends by itself.
    fn deregister(&self, instance: &Instance) -> Result<(), Error> {
        let shared = &*self.0;
        let key = (instance.name.clone(), instance.id.clone());
        let kept = shared.keeper.state.lock().kept.remove(&key);
        shared.keeper.changed.notify_all();
        match kept {
            Some(kept) => shared.revoke(kept.lease),
            None => Ok(()),
        }
    }

    fn services(&self, name: &str) -> Result<Vec<Instance>, Error> {
        let (list, _) = self.0.list(name)?;
        Ok(list.into_values().collect())
    }

    fn watch(&self, name: &str) -> Result<Watch<Vec<Instance>>, Error> {
        let (sender, watch) = watch();
        let (own, name) = (self.0.clone(), name.to_owned());
        thread::Builder::new()
            .name("epicycle-watch".to_owned())
            .spawn(move || own.follow(&name, &sender))
            .map_err(|error| lost(&format!("no thread for a watch: {error}")))?;
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
