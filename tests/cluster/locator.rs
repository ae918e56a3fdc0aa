use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use epicycle::cluster::locator::{
    Located, LocationCache, LocationEvent, Locator, MAX_WAITING, MemoryLocator,
};
use epicycle::cluster::registry::{Directory, Instance, MemoryRegistry, Registry};
use epicycle::cluster::{Error, Kind, Watch, WatchSender, watch};
use parking_lot::Mutex;
use proptest::prelude::*;

use crate::registry::node;
use crate::util::eventually;

fn gate(id: &str) -> Instance {
    Instance::new(Kind::Gate, id, "drpc://127.0.0.1:7001")
}

proptest! {
    /// The locator is a map, and its watch tells each change of it in order.
    #[test]
    fn the_locator_in_memory_does_what_a_map_does(
        steps in proptest::collection::vec((1..4_i64, 0..4_u8, 0..2_usize, 0..3_usize), 0..60),
    ) {
        let locator = MemoryLocator::new();
        let watch = locator.watch().expect("is in memory");
        let mut gates: HashMap<i64, String> = HashMap::new();
        let mut nodes: BTreeMap<(i64, String), String> = BTreeMap::new();
        for (uid, step, alias, id) in steps {
            let (alias, id) = (format!("alias-{alias}"), format!("id-{id}"));
            match step {
                0 => {
                    locator.bind_gate(uid, &id).expect("is allowed");
                    gates.insert(uid, id);
                }
                1 => {
                    let was = gates.get(&uid) == Some(&id);
                    prop_assert_eq!(locator.unbind_gate(uid, &id).expect("is allowed"), was);
                    if was {
                        gates.remove(&uid);
                    }
                }
                2 => {
                    locator.bind_node(uid, &alias, &id).expect("is allowed");
                    nodes.insert((uid, alias), id);
                }
                _ => {
                    let key = (uid, alias);
                    let was = nodes.get(&key) == Some(&id);
                    prop_assert_eq!(locator.unbind_node(uid, &key.1, &id).expect("is allowed"), was);
                    if was {
                        nodes.remove(&key);
                    }
                }
            }
            prop_assert_eq!(locator.locate_gate(uid).expect("is allowed"), gates.get(&uid).cloned());
            let of_user: Vec<_> = nodes.iter().filter(|((of, _), _)| *of == uid)
                .map(|((_, alias), nid)| (alias.clone(), nid.clone())).collect();
            prop_assert_eq!(locator.locate_nodes(uid).expect("is allowed"), of_user);
        }
        let mut users: Vec<_> = gates.keys().chain(nodes.keys().map(|(uid, _)| uid)).collect();
        users.sort_unstable();
        users.dedup();
        prop_assert_eq!(locator.len(), users.len());
        drop(locator);
        // The changes by themselves lead to the same.
        let (mut gates_told, mut nodes_told) = (HashMap::new(), BTreeMap::new());
        for change in watch {
            match change {
                LocationEvent::GateBound { uid, gid } => drop(gates_told.insert(uid, gid)),
                LocationEvent::GateUnbound { uid, gid } => prop_assert_eq!(gates_told.remove(&uid), Some(gid)),
                LocationEvent::NodeBound { uid, alias, nid } => drop(nodes_told.insert((uid, alias), nid)),
                LocationEvent::NodeUnbound { uid, alias, nid } => {
                    prop_assert_eq!(nodes_told.remove(&(uid, alias)), Some(nid));
                }
                other => panic!("{other:?}"),
            }
        }
        prop_assert_eq!(gates_told, gates);
        prop_assert_eq!(nodes_told, nodes);
    }
}

#[test]
fn only_the_gate_that_a_user_is_bound_to_can_unbind_it() {
    let locator = MemoryLocator::new();
    // Each gate binds the user and at once thinks that it has lost it. The last bind must stay whatever the order.
    let threads: Vec<_> = (0..8)
        .map(|n| {
            let locator = locator.clone();
            thread::spawn(move || {
                let gid = format!("gate-{n}");
                for _ in 0..200 {
                    locator.bind_gate(7, &gid).expect("is allowed");
                    locator.unbind_gate(7, &gid).expect("is allowed");
                }
                locator.bind_gate(7, &gid).expect("is allowed");
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("does not panic");
    }
    let bound = locator
        .locate_gate(7)
        .expect("is allowed")
        .expect("is bound");
    for n in 0..8 {
        let gid = format!("gate-{n}");
        if gid != bound {
            assert!(!locator.unbind_gate(7, &gid).expect("is allowed"));
        }
    }
    assert!(locator.unbind_gate(7, &bound).expect("is allowed"));
    assert!(locator.is_empty());
}

#[test]
fn wrong_arguments_and_too_many_users_are_refused() {
    let locator = MemoryLocator::with_max_users(2);
    for uid in [0, -1, i64::MIN] {
        let error = locator.bind_gate(uid, "gate-1").expect_err("is no user");
        assert!(
            matches!(error, Error::InvalidArgument { name: "uid", .. }),
            "{error}"
        );
        assert!(locator.locate_node(uid, "node").is_err());
    }
    assert!(locator.bind_gate(1, "").is_err());
    assert!(locator.bind_node(1, "", "node-1").is_err());
    locator.bind_gate(1, "gate-1").expect("is allowed");
    locator.bind_node(2, "node", "node-1").expect("is allowed");
    let error = locator.bind_gate(3, "gate-1").expect_err("is full");
    assert!(matches!(error, Error::Busy { .. }), "{error}");
    // Those that are there may change.
    locator.bind_gate(2, "gate-2").expect("is there");
    assert!(locator.unbind_gate(1, "gate-1").expect("is allowed"));
    locator.bind_gate(3, "gate-1").expect("has room");
}

#[test]
fn a_watch_that_is_not_read_is_told_that_it_missed_changes() {
    let locator = MemoryLocator::new();
    let mut watch = locator.watch().expect("is in memory");
    for _ in 0..MAX_WAITING {
        locator.bind_gate(1, "gate-1").expect("is allowed");
    }
    locator.bind_gate(2, "gate-1").expect("is allowed");
    assert_eq!(watch.next(), Some(LocationEvent::Interrupted));
    locator.bind_gate(3, "gate-1").expect("is allowed");
    let gid = "gate-1".to_owned();
    assert_eq!(watch.next(), Some(LocationEvent::GateBound { uid: 3, gid }));
}

/// A locator that counts what it is asked, with watches that are told by the test.
#[derive(Default)]
struct Counted {
    inner: MemoryLocator,
    asked: AtomicUsize,
    watches: Mutex<Vec<WatchSender<LocationEvent>>>,
    /// Runs in the middle of a look-up.
    amid: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Counted {
    fn tell(&self, event: &LocationEvent) {
        for sender in &*self.watches.lock() {
            sender.push(event.clone(), MAX_WAITING);
        }
    }
}

impl Locator for Counted {
    fn bind_gate(&self, uid: i64, gid: &str) -> Result<(), Error> {
        self.inner.bind_gate(uid, gid)
    }

    fn unbind_gate(&self, uid: i64, gid: &str) -> Result<bool, Error> {
        self.inner.unbind_gate(uid, gid)
    }

    fn bind_node(&self, uid: i64, alias: &str, nid: &str) -> Result<(), Error> {
        self.inner.bind_node(uid, alias, nid)
    }

    fn unbind_node(&self, uid: i64, alias: &str, nid: &str) -> Result<bool, Error> {
        self.inner.unbind_node(uid, alias, nid)
    }

    fn locate_gate(&self, uid: i64) -> Result<Option<String>, Error> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let found = self.inner.locate_gate(uid);
        if let Some(amid) = self.amid.lock().take() {
            amid();
        }
        found
    }

    fn locate_node(&self, uid: i64, alias: &str) -> Result<Option<String>, Error> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.inner.locate_node(uid, alias)
    }

    fn locate_nodes(&self, uid: i64) -> Result<Vec<(String, String)>, Error> {
        self.inner.locate_nodes(uid)
    }

    fn watch(&self) -> Result<Watch<LocationEvent>, Error> {
        let (sender, watch) = watch();
        self.watches.lock().push(sender);
        Ok(watch)
    }
}

struct Scene {
    locator: Arc<Counted>,
    registry: MemoryRegistry,
    directory: Arc<Directory>,
    cache: Arc<LocationCache>,
}

/// A cache over gates `gate-1` and `gate-2` and nodes `node-1` and `node-2`.
fn scene(capacity: usize) -> Scene {
    let registry = MemoryRegistry::new();
    for n in 1..=2 {
        registry
            .register(&gate(&format!("gate-{n}")))
            .expect("is allowed");
        registry
            .register(&node(&format!("node-{n}")))
            .expect("is allowed");
    }
    let directory = Directory::start(registry.clone(), &["gate", "node"]);
    let directory = Arc::new(directory.expect("is in memory"));
    let locator = Arc::new(Counted::default());
    let cache = LocationCache::start(locator.clone(), directory.clone(), capacity);
    let cache = Arc::new(cache.expect("is in memory"));
    Scene {
        locator,
        registry,
        directory,
        cache,
    }
}

impl Scene {
    fn asked(&self) -> usize {
        self.locator.asked.load(Ordering::Relaxed)
    }

    fn gate(&self, uid: i64) -> Option<String> {
        let found = self.cache.gate(uid).expect("is in memory");
        found.map(|gid| gid.to_string())
    }
}

fn bound(uid: i64) -> LocationEvent {
    LocationEvent::GateBound {
        uid,
        gid: "any".to_owned(),
    }
}

#[test]
fn a_known_location_is_not_asked_for_again_until_it_changes() {
    let scene = scene(1000);
    scene.locator.bind_gate(7, "gate-1").expect("is allowed");
    scene
        .locator
        .bind_node(7, "node", "node-1")
        .expect("is allowed");
    assert_eq!(scene.cache.cached_gate(7), Located::Unknown);
    for _ in 0..10 {
        assert_eq!(scene.gate(7).as_deref(), Some("gate-1"));
        let node = scene.cache.node(7, "node").expect("is in memory");
        assert_eq!(node.as_deref(), Some("node-1"));
        // Nowhere is known too.
        assert_eq!(scene.gate(8), None);
        assert_eq!(scene.cache.node(7, "hall").expect("is in memory"), None);
    }
    assert_eq!(scene.asked(), 4);
    assert_eq!(scene.cache.cached_gate(7), Located::At("gate-1".into()));
    assert_eq!(scene.cache.cached_node(7, "hall"), Located::Nowhere);
    assert_eq!(scene.cache.cached_node(7, "other"), Located::Unknown);

    scene.locator.bind_gate(7, "gate-2").expect("is allowed");
    scene.locator.tell(&bound(7));
    eventually("the change is known", || {
        scene.gate(7).as_deref() == Some("gate-2")
    });
    let stats = scene.cache.stats();
    assert_eq!((stats.interrupted, stats.evicted, stats.removed), (0, 0, 0));
    assert!(
        stats.hits >= 36 && stats.lookups == scene.asked() as u64,
        "{stats:?}"
    );
}

#[test]
fn everything_is_forgotten_when_the_watch_was_interrupted_and_nothing_is_kept_after_its_end() {
    let scene = scene(1000);
    for uid in 1..=100 {
        scene.locator.bind_gate(uid, "gate-1").expect("is allowed");
        scene.gate(uid);
    }
    assert_eq!(scene.cache.stats().users, 100);
    // Changes that the watch does not tell.
    for uid in 1..=100 {
        scene.locator.bind_gate(uid, "gate-2").expect("is allowed");
    }
    scene.locator.tell(&LocationEvent::Interrupted);
    eventually("all is forgotten", || scene.cache.stats().interrupted == 1);
    for uid in 1..=100 {
        eventually("it is new", || scene.gate(uid).as_deref() == Some("gate-2"));
    }
    scene.locator.watches.lock().clear();
    eventually("all is forgotten", || scene.cache.stats().users == 0);
    let asked = scene.asked();
    assert_eq!(scene.gate(1).as_deref(), Some("gate-2"));
    assert_eq!(scene.gate(1).as_deref(), Some("gate-2"));
    assert_eq!(scene.asked(), asked + 2);
}

#[test]
fn an_answer_that_a_change_has_overtaken_is_not_remembered() {
    let scene = scene(1000);
    scene.locator.bind_gate(7, "gate-1").expect("is allowed");
    let (locator, cache) = (scene.locator.clone(), Arc::downgrade(&scene.cache));
    *scene.locator.amid.lock() = Some(Box::new(move || {
        // The look-up has read `gate-1` already.
        let cache = cache.upgrade().expect("is asked now");
        cache.bind_gate(7, "gate-2").expect("is allowed");
        assert_eq!(
            locator.inner.locate_gate(7).ok().flatten().as_deref(),
            Some("gate-2")
        );
    }));
    assert_eq!(scene.gate(7).as_deref(), Some("gate-1"));
    assert_eq!(scene.gate(7).as_deref(), Some("gate-2"));
}

#[test]
fn a_location_at_an_instance_that_is_gone_is_none_and_is_removed() {
    let scene = scene(1000);
    scene.locator.bind_gate(7, "gate-1").expect("is allowed");
    scene
        .locator
        .bind_node(7, "node", "node-1")
        .expect("is allowed");
    assert_eq!(scene.gate(7).as_deref(), Some("gate-1"));
    assert!(scene.cache.node(7, "node").expect("is in memory").is_some());
    scene
        .registry
        .deregister(&gate("gate-1"))
        .expect("is in memory");
    scene
        .registry
        .deregister(&node("node-1"))
        .expect("is in memory");
    let is_known = || {
        scene.directory.get("gate", "gate-1").is_some()
            || scene.directory.get("node", "node-1").is_some()
    };
    eventually("both are gone", || !is_known());
    assert_eq!(scene.cache.cached_gate(7), Located::Unknown);
    assert_eq!(scene.gate(7), None);
    assert_eq!(scene.cache.node(7, "node").expect("is in memory"), None);
    assert!(scene.locator.inner.is_empty());
    assert_eq!(scene.cache.stats().removed, 2);
}

#[test]
fn a_location_at_an_instance_that_is_not_known_here_yet_is_not_removed() {
    let scene = scene(1000);
    // This server's directory does not follow changes any more; the registry itself has the new gate.
    let names: [&str; 0] = [];
    let deaf = Arc::new(Directory::start(scene.registry.clone(), &names).expect("is in memory"));
    let cache = LocationCache::start(scene.locator.clone(), deaf, 1000);
    let cache = cache.expect("is in memory");
    scene
        .registry
        .register(&gate("gate-new"))
        .expect("is allowed");
    scene.locator.bind_gate(7, "gate-new").expect("is allowed");
    let found = cache.gate(7).expect("is in memory");
    assert_eq!(found.as_deref(), Some("gate-new"));
    assert_eq!(scene.locator.inner.len(), 1);
}

#[test]
fn one_look_up_serves_all_threads_that_ask_for_the_same_user() {
    let scene = scene(1000);
    scene.locator.bind_gate(7, "gate-1").expect("is allowed");
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let cache = scene.cache.clone();
            thread::spawn(move || cache.gate(7).expect("is in memory"))
        })
        .collect();
    for thread in threads {
        let found = thread.join().expect("does not panic");
        assert_eq!(found.as_deref(), Some("gate-1"));
    }
    assert_eq!(scene.asked(), 1);
}

#[test]
fn the_least_recently_used_are_forgotten_beyond_the_capacity() {
    // At least one user in each of the 64 shards.
    let scene = scene(64);
    for uid in 1..=10_000 {
        scene.gate(uid);
    }
    let stats = scene.cache.stats();
    assert_eq!(stats.users, 64, "{stats:?}");
    assert_eq!(stats.evicted, 10_000 - 64);
    assert_eq!(scene.cache.cached_gate(10_000), Located::Nowhere);
}

#[test]
fn what_this_server_changes_is_known_to_it_at_once() {
    let scene = scene(1000);
    for n in 0..100 {
        let gid = format!("gate-{}", n % 2 + 1);
        scene.cache.bind_gate(7, &gid).expect("is allowed");
        assert_eq!(scene.gate(7), Some(gid.clone()));
        let nid = format!("node-{}", n % 2 + 1);
        scene.cache.bind_node(7, "node", &nid).expect("is allowed");
        let found = scene.cache.node(7, "node").expect("is in memory");
        assert_eq!(found.as_deref(), Some(&*nid));
        assert!(scene.cache.unbind_gate(7, &gid).expect("is allowed"));
        assert!(
            scene
                .cache
                .unbind_node(7, "node", &nid)
                .expect("is allowed")
        );
        assert_eq!(scene.gate(7), None);
    }
}
