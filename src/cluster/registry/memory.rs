use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Instance, Registry};
use crate::cluster::{Error, Watch, WatchSender, watch};

/// A registry in memory, for servers that are in one process, and for tests. Clones share it.
///
/// It holds up to 65,536 instances and 1,024 watches.
#[derive(Clone, Default)]
pub struct MemoryRegistry(Arc<Mutex<Records>>);

#[derive(Default)]
struct Records {
    by_name: HashMap<String, BTreeMap<String, Instance>>,
    count: usize,
    watches: Vec<(String, WatchSender<Vec<Instance>>)>,
}

/// The maximum number of instances.
const MAX: usize = 65_536;
/// The maximum number of watches. Each change is told to all of them.
const MAX_WATCHES: usize = 1024;

impl MemoryRegistry {
    /// Returns an empty registry.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Records {
    fn list(&self, name: &str) -> Vec<Instance> {
        let found = self.by_name.get(name);
        found.map_or_else(Vec::new, |instances| instances.values().cloned().collect())
    }

    fn notify(&mut self, name: &str) {
        let list = self.list(name);
        self.watches.retain(|(watched, sender)| {
            if watched == name {
                sender.replace(list.clone())
            } else {
                !sender.is_closed()
            }
        });
    }
}

impl Registry for MemoryRegistry {
    fn kind(&self) -> &str {
        "memory"
    }

    /// # Errors
    ///
    /// Returns [`Error::InvalidArgument`] if the instance is not allowed, and [`Error::Busy`] if there are too many.
    fn register(&self, instance: &Instance) -> Result<(), Error> {
        instance.check()?;
        let mut records = self.0.lock();
        let (count, by_id) = (
            records.count,
            records.by_name.entry(instance.name.clone()).or_default(),
        );
        let is_new = match by_id.get(&instance.id) {
            Some(old) if old == instance => return Ok(()),
            old => old.is_none(),
        };
        if is_new && count == MAX {
            return Err(Error::Busy { what: "registry" });
        }
        by_id.insert(instance.id.clone(), instance.clone());
        records.count += usize::from(is_new);
        records.notify(&instance.name);
        Ok(())
    }

    fn deregister(&self, instance: &Instance) -> Result<(), Error> {
        let mut records = self.0.lock();
        let Some(by_id) = records.by_name.get_mut(&instance.name) else {
            return Ok(());
        };
        let record = by_id.get(&instance.id);
        if record.is_some_and(|record| record.endpoint == instance.endpoint) {
            by_id.remove(&instance.id);
            if by_id.is_empty() {
                records.by_name.remove(&instance.name);
            }
            records.count -= 1;
            records.notify(&instance.name);
        }
        Ok(())
    }

    fn services(&self, name: &str) -> Result<Vec<Instance>, Error> {
        Ok(self.0.lock().list(name))
    }

    fn watch(&self, name: &str) -> Result<Watch<Vec<Instance>>, Error> {
        let mut records = self.0.lock();
        records.watches.retain(|(_, sender)| !sender.is_closed());
        if records.watches.len() == MAX_WATCHES {
            return Err(Error::Busy {
                what: "list of watches",
            });
        }
        let (sender, watch) = watch();
        sender.replace(records.list(name));
        records.watches.push((name.to_owned(), sender));
        Ok(watch)
    }
}

impl fmt::Debug for MemoryRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let records = self.0.lock();
        f.debug_struct("MemoryRegistry")
            .field("instances", &records.count)
            .field("watches", &records.watches.len())
            .finish()
    }
}
