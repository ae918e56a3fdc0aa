use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::etcd::{Base64, Etcd, Number, end_of_prefix, etcd_error};
use crate::cluster::ending::Ending;
use crate::cluster::{Error, Watch, WatchSender, watch};

/// The keys of etcd that begin with a prefix, with their values.
pub(in crate::cluster) struct EtcdKeys<T> {
    pub(in crate::cluster) etcd: Etcd,
    pub(in crate::cluster) prefix: String,
    /// Reads the value of a record, whose key begins with the prefix. None leaves it out.
    pub(in crate::cluster) read: ReadRecord<T>,
}

type ReadRecord<T> = Box<dyn Fn(&str, &EtcdRecord) -> Option<T> + Send + Sync>;

#[derive(Deserialize)]
pub(in crate::cluster) struct EtcdRecord {
    pub(in crate::cluster) key: Base64,
    #[serde(default)]
    pub(in crate::cluster) value: Base64,
    #[serde(default)]
    pub(in crate::cluster) lease: Number,
    #[serde(default)]
    mod_revision: Number,
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
    kvs: Vec<EtcdRecord>,
}

#[derive(Deserialize)]
struct Header {
    #[serde(default)]
    revision: Number,
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
    /// Left out by etcd if the value was put.
    #[serde(rename = "type", default)]
    kind: String,
    kv: EtcdRecord,
}

/// The values by their keys, and the revision up to which they are known.
type Position<T> = (BTreeMap<Vec<u8>, T>, i64);

const RETRY: Duration = Duration::from_millis(500);
/// A watch is begun anew after this time, from where it was. So a server that hangs is noticed.
const TURN: Duration = Duration::from_secs(5);

impl Etcd {
    /// Returns the record at a key.
    pub(in crate::cluster) fn find(&self, key: &str) -> Result<Option<EtcdRecord>, Error> {
        #[derive(Serialize)]
        struct Get {
            key: Base64,
        }
        let key = Base64(key.as_bytes().to_vec());
        let found: Found = self.call("/v3/kv/range", &Get { key })?;
        Ok(found.kvs.into_iter().next())
    }
}

impl<T: Clone + Send + 'static> EtcdKeys<T> {
    /// Returns all values, in the order of their keys.
    pub(in crate::cluster) fn list(&self) -> Result<Vec<T>, Error> {
        let (list, _) = self.position()?;
        Ok(list.into_values().collect())
    }

    /// Watches the values, on a thread. Each value of the watch is all of them.
    pub(in crate::cluster) fn watch(self) -> Result<Watch<Vec<T>>, Error> {
        let listed = self.position()?;
        let (sender, watch) = watch();
        sender.replace(listed.0.values().cloned().collect());
        thread::Builder::new()
            .name("epicycle-watch".to_owned())
            .spawn(move || self.follow(&sender, listed))
            .map_err(|error| etcd_error(format!("no thread for a watch: {error}")))?;
        Ok(watch)
    }

    fn range(&self, start_revision: Option<Number>) -> Range {
        Range {
            range_end: Base64(end_of_prefix(&self.prefix)),
            key: Base64(self.prefix.clone().into_bytes()),
            start_revision,
        }
    }

    fn position(&self) -> Result<Position<T>, Error> {
        let found: Found = self.etcd.call("/v3/kv/range", &self.range(None))?;
        let mut list = BTreeMap::new();
        for record in found.kvs {
            if let Some(value) = (self.read)(&self.prefix, &record) {
                list.insert(record.key.0, value);
            }
        }
        Ok((list, found.header.revision.0))
    }

    fn follow(&self, sender: &WatchSender<Vec<T>>, listed: Position<T>) {
        let (mut position, ending) = (Some(listed), Ending::of(sender));
        while !ending.is_over() {
            match self.follow_for_a_turn(sender, &ending, &mut position) {
                Ok(()) => sender.set_lost(false),
                Err(_) if ending.is_over() => {}
                Err(error) => {
                    // The next attempt tells everything that has changed meanwhile.
                    position = None;
                    log::debug!(target: "epicycle::cluster", "the watch of {}: {error}", self.prefix);
                    sender.set_lost(true);
                    ending.wait(RETRY);
                }
            }
        }
    }

    fn follow_for_a_turn(
        &self,
        sender: &WatchSender<Vec<T>>,
        ending: &Ending,
        position: &mut Option<Position<T>>,
    ) -> Result<(), Error> {
        #[derive(Serialize)]
        struct Create {
            create_request: Range,
        }

        let (list, revision) = match position {
            Some(position) => position,
            none => {
                let (list, revision) = self.position()?;
                sender.replace(list.values().cloned().collect());
                sender.set_lost(false);
                none.insert((list, revision))
            }
        };
        let create = Create {
            create_request: self.range(Some(Number(*revision + 1))),
        };
        let mut stream = self.etcd.stream("/v3/watch", &create, TURN, ending)?;
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
                match (self.read)(&self.prefix, &change.kv) {
                    Some(value) if change.kind != "DELETE" => {
                        list.insert(change.kv.key.0, value);
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
