use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::faulty::Faulty;
use super::keeper::{Keep, Keeper, Key, key};
use super::{Instance, Registry};
use crate::cluster::backends::{Base64, Etcd, EtcdKeys, EtcdRecord, Number, etcd_error};
use crate::cluster::{Error, Watch};
use crate::metrics::{Expose, Exposition};

/// A registry on etcd, in the format of due: the record of an instance is the JSON at `/services/NAME/ID`. Clones share it.
///
/// A record ends 11 seconds after its server has died, or has lost etcd. A thread of the registry keeps the records of this process
/// alive, and writes those again that have ended although the process lives. Each watch has a thread.
#[derive(Clone)]
pub struct EtcdRegistry(Arc<Shared>);

struct Shared {
    etcd: Etcd,
    namespace: String,
    keeper: Arc<Keeper<Kept>>,
    faulty: Arc<Faulty>,
    /// Held while records are written, so that a new state and the renewal of an old one cannot cross.
    writing: Mutex<()>,
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

#[derive(Deserialize)]
struct Done {}

/// The time for which a record stays without a sign of life: due's retry interval and one second.
const TTL: i64 = 11;

impl EtcdRegistry {
    /// Returns a registry with the namespace of due, `services`.
    pub fn new(etcd: &Etcd) -> Self {
        Self::with_namespace(etcd, "services")
    }

    /// Returns a registry whose keys begin with `/NAMESPACE/`. Slashes around the namespace do not count.
    pub fn with_namespace(etcd: &Etcd, namespace: &str) -> Self {
        Self(Arc::new(Shared {
            etcd: etcd.clone(),
            namespace: namespace.trim_matches('/').to_owned(),
            keeper: Keeper::new(),
            faulty: Arc::default(),
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

    /// Returns the record of an instance.
    fn find(&self, name: &str, id: &str) -> Result<Option<EtcdRecord>, Error> {
        self.etcd.find(&(self.prefix(name) + id))
    }

    fn keys(&self, name: &str) -> EtcdKeys<Instance> {
        let faulty = self.faulty.clone();
        EtcdKeys {
            etcd: self.etcd.clone(),
            prefix: self.prefix(name),
            read: Box::new(move |_, record| read(record, &faulty)),
        }
    }
}

impl Keep for Shared {
    type Kept = Kept;

    const THREAD: &'static str = "epicycle-etcd";

    const INTERVAL: Duration = Duration::from_millis(TTL as u64 * 1000 / 3);

    fn keeper(&self) -> &Arc<Keeper<Kept>> {
        &self.keeper
    }

    fn keep_one(&self, key: &Key) -> Result<(), Error> {
        let Some(Kept { lease, .. }) = self.keeper.get(key) else {
            return Ok(());
        };
        let alive: KeptAlive = self.of_lease("/v3/lease/keepalive", lease)?;
        let (name, id) = key;
        let stored = self.find(name, id)?;
        if alive.result.ttl.0 > 0 && stored.as_ref().is_some_and(|record| record.lease == lease) {
            return Ok(());
        }
        let _writing = self.writing.lock();
        // It may have been registered anew meanwhile, or taken out.
        let kept = self.keeper.get(key).filter(|kept| kept.lease == lease);
        let Some(Kept { instance, .. }) = kept else {
            return Ok(());
        };
        if let Some(record) = self.find(name, id)?
            && record.lease != lease
        {
            log::warn!(target: "epicycle::cluster", "etcd: another server has the record of {id}, which is left to it");
            self.keeper.remove_if(key, |_| true);
            return Ok(());
        }
        log::warn!(target: "epicycle::cluster", "etcd has no record of {id}, which is registered again");
        let new = self.put(&instance)?;
        let kept = Kept {
            instance,
            lease: new,
        };
        self.keeper.replace(key, kept);
        // It may be alive still, without a record.
        let _ = self.revoke(lease);
        Ok(())
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.keeper.end();
    }
}

fn read(record: &EtcdRecord, faulty: &Faulty) -> Option<Instance> {
    if record.value.0.is_empty() {
        return None;
    }
    match Instance::from_json(&record.value.0) {
        Ok(instance) => Some(instance),
        Err(error) => {
            let key = String::from_utf8_lossy(&record.key.0);
            let problem = format_args!("etcd: {key} is no record of an instance: {error}");
            faulty.warn((&record.key.0, &record.value.0), problem);
            None
        }
    }
}

impl Registry for EtcdRegistry {
    fn kind(&self) -> &str {
        "etcd"
    }

    fn expose(&self, labels: &[(&str, &str)], to: &mut Exposition) {
        self.0.etcd.expose(labels, to);
    }

    fn register(&self, instance: &Instance) -> Result<(), Error> {
        instance.check()?;
        let shared = &*self.0;
        let writing = shared.writing.lock();
        let lease = shared.put(instance)?;
        let kept = Kept {
            instance: instance.clone(),
            lease,
        };
        let old = Keeper::insert(&self.0, key(instance), kept)
            .map_err(|error| etcd_error(format!("no thread to keep records alive: {error}")))?;
        drop(writing);
        if let Some(old) = old {
            // It has no record any more, and ends by itself.
            let _ = shared.revoke(old.lease);
        }
        Ok(())
    }

    /// If etcd cannot be reached, the record ends by itself.
    fn deregister(&self, instance: &Instance) -> Result<(), Error> {
        let shared = &*self.0;
        let _writing = shared.writing.lock();
        let is_it = |kept: &Kept| kept.instance.endpoint == instance.endpoint;
        match shared.keeper.remove_if(&key(instance), is_it) {
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
        self.0.keys(name).list()
    }

    fn find(&self, name: &str, id: &str) -> Result<Option<Instance>, Error> {
        let record = self.0.find(name, id)?;
        Ok(record.and_then(|record| read(&record, &self.0.faulty)))
    }

    fn watch(&self, name: &str) -> Result<Watch<Vec<Instance>>, Error> {
        self.0.keys(name).watch()
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
