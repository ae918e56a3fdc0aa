use std::collections::BTreeMap;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use epicycle::cluster::client::Client;
use epicycle::cluster::gate::{Gate, ResumeOptions};
use epicycle::cluster::mesh::Mesh;
use epicycle::cluster::node::{Node, RouteFlag};
use epicycle::cluster::registry::{
    Directory, Instance, LinkEndpoint, MemoryRegistry, Registry, RouteSpec,
};
use epicycle::cluster::{Cluster, Error, Event, Kind, State, Watch, watch};
use log::Level;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::admin::get;
use crate::util::logs::logs;
use crate::util::{LONG, eventually};
use crate::vectors::rows;

pub(crate) fn node(id: &str) -> Instance {
    Instance::new(Kind::Node, id, "drpc://127.0.0.1:7001?is_secure=false")
}

#[test]
fn every_recorded_record_is_read_and_written_as_due_does() {
    let mut seen = 0;
    for row in rows("registry_etcd") {
        if row.dir != "PUT" {
            continue;
        }
        let record = &row.data;
        let instance = Instance::from_json(record.as_bytes()).expect("is a record");
        assert_eq!(instance.to_json().expect("is JSON"), *record);
        let key = format!("/services/{}/{}", instance.name, instance.id);
        assert_eq!(row.scenario, key);
        assert!(instance.other.is_empty(), "{instance:?}");
        if instance.alias == "node" {
            assert!(instance.wants(Event::Disconnect));
            assert_eq!((instance.weight, instance.routes.len()), (3, 9));
        }
        seen += 1;
    }
    assert!(seen == 0 || seen == 13, "{seen}");
}

#[test]
fn fields_of_other_versions_are_kept_and_records_that_are_none_are_refused() {
    let record = r#"{"later":[1],"weight":2,"kind":"node","state":"hang","name":"node","id":"n"}"#;
    let instance = Instance::from_json(record.as_bytes()).expect("is a record");
    assert_eq!((instance.state, instance.weight), (State::Hang, 2));
    let written: Value =
        serde_json::from_str(&instance.to_json().expect("is JSON")).expect("is JSON");
    assert_eq!(written["later"][0], 1);
    for (record, why) in [
        ("{}", "missing field"),
        ("[]", "invalid type"),
        (
            r#"{"id":"a","name":"node","kind":"nodes","state":"work"}"#,
            "unknown variant",
        ),
        (
            r#"{"id":"a","name":"node","kind":"node","state":"resting"}"#,
            "unknown variant",
        ),
        (
            r#"{"id":"a/b","name":"node","kind":"node","state":"work"}"#,
            "not allowed",
        ),
        (
            r#"{"id":"","name":"node","kind":"node","state":"work"}"#,
            "not allowed",
        ),
        ("\u{0}", "expected value"),
    ] {
        let error = Instance::from_json(record.as_bytes()).expect_err("is none");
        assert!(error.to_string().contains(why), "{record}: {error}");
    }
}

proptest! {
    #[test]
    fn records_that_are_written_are_read(
        id in "[a-z0-9-]{1,20}",
        alias in "\\PC{0,10}",
        state in 0..4_u8,
        events in proptest::collection::vec(any::<i32>(), 0..4),
        routes in proptest::collection::vec(any::<(i32, bool, bool, bool)>(), 0..5),
        weight in any::<u32>(),
        metadata in proptest::collection::btree_map("\\PC{0,5}", "\\PC{0,5}", 0..4),
    ) {
        let mut instance = node(&id);
        instance.alias = alias;
        instance.state = State::from_code(state).expect("is one");
        instance.events = events;
        instance.routes = routes.into_iter().map(|(id, internal, stateful, authorized)| {
            let mut spec = RouteSpec::new(id);
            (spec.internal, spec.stateful, spec.authorized) = (internal, stateful, authorized);
            spec
        }).collect();
        instance.weight = weight;
        instance.metadata = metadata;
        let json = instance.to_json().expect("is JSON");
        prop_assert_eq!(Instance::from_json(json.as_bytes()).expect("was written"), instance);
    }

    /// The registry is a map by name and id, and the last list of each watch is that of the map.
    #[test]
    fn the_registry_in_memory_does_what_a_map_does(
        steps in proptest::collection::vec((0..3_usize, 0..3_usize, 0..5_u8), 0..40),
    ) {
        let registry = MemoryRegistry::new();
        let names = ["gate", "node", "mesh"];
        let mut watches: Vec<_> = names.iter().map(|name| registry.watch(name).expect("is in memory")).collect();
        let mut model: BTreeMap<(usize, String), Instance> = BTreeMap::new();
        for (name, id, state) in steps {
            let mut instance = node(&format!("id-{id}"));
            names[name].clone_into(&mut instance.name);
            let key = (name, instance.id.clone());
            match State::from_code(state) {
                Some(state) => {
                    instance.state = state;
                    registry.register(&instance).expect("is allowed");
                    model.insert(key, instance);
                }
                None => {
                    registry.deregister(&instance).expect("is in memory");
                    model.remove(&key);
                }
            }
        }
        for (at, name) in names.iter().enumerate() {
            let expected: Vec<_> = model.iter().filter(|((found, _), _)| *found == at).map(|(_, instance)| instance.clone()).collect();
            prop_assert_eq!(&registry.services(name).expect("is in memory"), &expected);
            let mut last = None;
            while let Some(list) = watches[at].try_next() {
                last = Some(list);
            }
            prop_assert_eq!(last, Some(expected));
        }
    }
}

#[test]
fn a_watch_begins_with_the_list_that_there_is_and_tells_each_change() {
    let registry = MemoryRegistry::new();
    registry.register(&node("a")).expect("is allowed");
    let mut watch = registry.watch("node").expect("is in memory");
    assert_eq!(watch.next(), Some(vec![node("a")]));
    // A record that is the same is not told, and neither are other names.
    registry.register(&node("a")).expect("is allowed");
    let gate = Instance::new(Kind::Gate, "a", "");
    registry.register(&gate).expect("is allowed");
    assert_eq!(watch.try_next(), None);
    registry.register(&node("b")).expect("is allowed");
    registry.deregister(&node("a")).expect("is in memory");
    // A slow reader gets the latest list.
    assert_eq!(watch.next(), Some(vec![node("b")]));
    assert_eq!(watch.try_next(), None);
}

#[test]
fn a_watch_ends_when_it_is_closed_from_another_thread_and_when_its_source_is_gone() {
    let registry = MemoryRegistry::new();
    for end in 0..2 {
        let mut watch = registry.watch("node").expect("is in memory");
        assert_eq!(watch.next(), Some(Vec::new()));
        let handle = watch.handle();
        let reader = thread::spawn(move || watch.next());
        if end == 0 {
            thread::sleep(Duration::from_millis(5));
        }
        handle.close();
        assert_eq!(reader.join().expect("does not panic"), None);
        // Closing it again does nothing.
        handle.close();
    }
    let mut watch = registry.watch("node").expect("is in memory");
    drop(registry);
    assert_eq!(watch.next(), Some(Vec::new()));
    assert_eq!(watch.next(), None);
}

#[test]
fn a_watch_gives_what_waits_in_order_up_to_its_bound() {
    let (sender, mut watch): (_, Watch<i32>) = watch();
    assert!(sender.push(1, 2) && sender.push(2, 2));
    assert!(!sender.push(3, 2));
    assert_eq!(
        (watch.next(), watch.next(), watch.try_next()),
        (Some(1), Some(2), None)
    );
    sender.push(4, 2);
    sender.replace(5);
    assert_eq!((watch.next(), watch.try_next()), (Some(5), None));

    let handle = watch.handle();
    assert!(handle.lost_since().is_none());
    sender.set_lost(true);
    let since = handle.lost_since().expect("is lost");
    sender.set_lost(true);
    assert_eq!(handle.lost_since(), Some(since));
    sender.set_lost(false);
    assert!(handle.lost_since().is_none());

    // Values that wait when it is closed are not read any more.
    sender.push(6, 2);
    handle.close();
    assert_eq!(watch.next(), None);
    assert!(sender.is_closed() && !sender.push(7, 2) && !sender.replace(8));
}

#[test]
fn threads_that_register_at_once_lose_nothing() {
    let registry = MemoryRegistry::new();
    let mut watch = registry.watch("node").expect("is in memory");
    let threads: Vec<_> = (0..8)
        .map(|thread| {
            let registry = registry.clone();
            thread::spawn(move || {
                for n in 0..50 {
                    let node = node(&format!("{thread}-{n}"));
                    registry.register(&node).expect("is allowed");
                    if n % 2 == 0 {
                        registry.deregister(&node).expect("is in memory");
                    }
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("does not panic");
    }
    assert_eq!(
        registry.services("node").expect("is in memory").len(),
        8 * 25
    );
    let mut last = Vec::new();
    while let Some(list) = watch.try_next() {
        last = list;
    }
    assert_eq!(last.len(), 8 * 25);
}

/// A registry whose backend can be lost.
struct Fragile {
    lists: MemoryRegistry,
    sender: parking_lot::Mutex<Option<epicycle::cluster::WatchSender<Vec<Instance>>>>,
}

impl Registry for Fragile {
    fn register(&self, instance: &Instance) -> Result<(), Error> {
        self.lists.register(instance)
    }

    fn deregister(&self, instance: &Instance) -> Result<(), Error> {
        self.lists.deregister(instance)
    }

    fn services(&self, name: &str) -> Result<Vec<Instance>, Error> {
        self.lists.services(name)
    }

    fn watch(&self, name: &str) -> Result<Watch<Vec<Instance>>, Error> {
        let (sender, watch) = watch();
        sender.replace(self.lists.services(name)?);
        *self.sender.lock() = Some(sender);
        Ok(watch)
    }
}

#[test]
fn a_node_knows_its_own_routes_before_the_registry_tells_it_of_them() {
    let lists = MemoryRegistry::new();
    let silent = Fragile {
        lists: lists.clone(),
        sender: parking_lot::Mutex::new(None),
    };
    let (sender, receiver) = mpsc::channel();
    let node = Node::builder()
        .registry(silent)
        .route(1, |_, cx| cx.deliver(2, 0, "to itself"))
        .route_with(2, RouteFlag::Internal, move |_, cx| {
            drop(sender.send(cx.parse::<String>()));
            Ok::<_, Error>(())
        })
        .start()
        .expect("starts");
    let gate = Gate::builder().registry(lists).listen("tcp://127.0.0.1:0");
    let gate = gate.start().expect("starts");
    let client = Client::builder().connect(gate.client_addrs()[0].to_string());
    let client = client.expect("connects");
    client.push(1, "").expect("is sent");
    let text = receiver.recv_timeout(LONG).expect("has come");
    assert_eq!(text.expect("is text"), "to itself");
    drop(node);
}

/// A registry in memory that calls a function before each watch.
pub(crate) struct BeforeWatch<F>(pub(crate) MemoryRegistry, pub(crate) F);

impl<F: Fn() + Send + Sync + 'static> Registry for BeforeWatch<F> {
    fn register(&self, instance: &Instance) -> Result<(), Error> {
        self.0.register(instance)
    }

    fn deregister(&self, instance: &Instance) -> Result<(), Error> {
        self.0.deregister(instance)
    }

    fn services(&self, name: &str) -> Result<Vec<Instance>, Error> {
        self.0.services(name)
    }

    fn watch(&self, name: &str) -> Result<Watch<Vec<Instance>>, Error> {
        (self.1)();
        self.0.watch(name)
    }
}

/// A registry whose first watch waits until it may go on.
type Blocked = BeforeWatch<Box<dyn Fn() + Send + Sync>>;

/// A server that is started anew is dialled by those who know its last address.
#[test]
fn gates_and_nodes_listen_when_they_know_the_other_servers() {
    let listens = |start: fn(Blocked, String) -> Box<dyn Send>| {
        let port = TcpListener::bind("127.0.0.1:0").expect("binds");
        let addr = port.local_addr().expect("is bound");
        drop(port);
        let (asked, is_asked) = mpsc::channel();
        let (go_on, goes_on) = mpsc::channel::<()>();
        let goes_on = parking_lot::Mutex::new(goes_on);
        let wait = move || {
            let _ = asked.send(());
            // At the end of the test nobody tells it any more.
            let _ = goes_on.lock().recv();
        };
        let blocked: Blocked = BeforeWatch(MemoryRegistry::new(), Box::new(wait));
        let started = thread::spawn(move || start(blocked, format!("tcp://{addr}")));
        is_asked.recv_timeout(LONG).expect("asks");
        assert!(TcpStream::connect(addr).is_err());
        drop(go_on);
        let server = started.join().expect("starts");
        TcpStream::connect(addr).expect("listens");
        drop(server);
    };
    listens(|registry, addr| {
        let node = Node::builder().registry(registry).link(addr);
        Box::new(
            node.route(1, |_, cx| cx.respond(""))
                .start()
                .expect("starts"),
        )
    });
    listens(|registry, addr| {
        let gate = Gate::builder().registry(registry).listen(addr);
        Box::new(gate.start().expect("starts"))
    });
}

#[test]
fn a_directory_keeps_its_lists_when_the_registry_is_lost_and_tells_their_age() {
    let fragile = Arc::new(Fragile {
        lists: MemoryRegistry::new(),
        sender: parking_lot::Mutex::new(None),
    });
    fragile.register(&node("a")).expect("is allowed");
    let directory = Directory::start(fragile.clone(), &["node"]).expect("is there");
    assert!(directory.get("node", "a").is_some());
    assert_eq!(directory.age(), Duration::ZERO);
    if let Some(sender) = &*fragile.sender.lock() {
        sender.set_lost(true);
    }
    eventually("the lists get older", || directory.age() > Duration::ZERO);
    assert!(directory.get("node", "a").is_some());
    // It is back, with another list.
    if let Some(sender) = &*fragile.sender.lock() {
        sender.set_lost(false);
        sender.replace(vec![node("b")]);
    }
    eventually("the new list is known", || {
        directory.get("node", "b").is_some()
    });
    assert!(directory.get("node", "a").is_none());
    assert_eq!(directory.age(), Duration::ZERO);
    // The watch ends; the last list stays.
    *fragile.sender.lock() = None;
    assert!(directory.get("node", "b").is_some());
}

#[test]
fn a_directory_follows_the_registry_and_leaves_no_watch_behind() {
    let registry = MemoryRegistry::new();
    let directory = Directory::start(registry.clone(), &["gate", "node"]).expect("is in memory");
    let version = directory.version();
    let waiter = thread::spawn(move || {
        let now = directory.wait(version, LONG);
        (now, directory)
    });
    registry.register(&node("b")).expect("is allowed");
    let (now, directory) = waiter.join().expect("does not panic");
    assert!(now > version);
    registry.register(&node("a")).expect("is allowed");
    eventually("both are known", || directory.list("node").len() == 2);
    let ids: Vec<_> = directory
        .list("node")
        .iter()
        .map(|node| node.id.clone())
        .collect();
    assert_eq!(ids, ["a", "b"]);
    assert!(directory.list("gate").is_empty());
    assert!(directory.confirm("node", "b").expect("is in memory"));
    assert!(!directory.confirm("node", "c").expect("is in memory"));
    drop(directory);
    // The next change finds that the watches have ended.
    registry.deregister(&node("a")).expect("is in memory");
    assert!(
        format!("{registry:?}").contains("watches: 0"),
        "{registry:?}"
    );
}

#[test]
fn endpoints_are_those_of_due_and_others_are_refused() {
    let mut seen = 0;
    for row in rows("registry_etcd").iter().filter(|row| row.dir == "PUT") {
        let instance = Instance::from_json(row.data.as_bytes()).expect("is a record");
        let endpoint: LinkEndpoint = instance.endpoint.parse().expect("is due's");
        assert_eq!(endpoint.to_string(), instance.endpoint);
        assert!(endpoint.address().starts_with("127.0.0.1:27") && !endpoint.is_secure());
        seen += 1;
    }
    assert!(seen == 0 || seen == 13, "{seen}");
    for (text, address, secure) in [
        ("drpc://a.example:1?x=1&is_secure=true", "a.example:1", true),
        ("drpc://[::1]:65535", "[::1]:65535", false),
        ("drpc://10.0.0.1:7/?is_secure=false", "10.0.0.1:7", false),
    ] {
        let endpoint: LinkEndpoint = text.parse().expect("is one");
        assert_eq!(
            (endpoint.address(), endpoint.is_secure()),
            (address, secure)
        );
    }
    for text in [
        "",
        "drpc://",
        "drpc://:1",
        "drpc://host",
        "drpc://host:0",
        "drpc://host:65536",
        "drpc://::1:7",
        "drpc://a b:7",
        "grpc://host:7",
        "host:7",
    ] {
        let error = text.parse::<LinkEndpoint>().expect_err(text);
        assert!(
            matches!(
                error,
                Error::InvalidArgument {
                    name: "endpoint",
                    ..
                }
            ),
            "{error}"
        );
    }
}

#[test]
fn a_record_that_another_server_has_by_now_is_left_to_it() {
    let (registry, before) = (MemoryRegistry::new(), node("node-1"));
    let mut after = before.clone();
    after.endpoint = "drpc://127.0.0.1:7002?is_secure=false".to_owned();
    for instance in [&before, &after] {
        registry.register(instance).expect("is allowed");
    }
    registry.deregister(&before).expect("is no error");
    let left = registry.services("node").expect("is in memory");
    assert_eq!(left, [after.clone()]);
    after.state = State::Hang;
    registry.deregister(&after).expect("is its own");
    assert_eq!(registry.services("node").expect("is in memory"), []);
}

#[test]
fn a_server_whose_id_another_one_takes_says_so_once_and_leaves_the_record_to_it() {
    let (logs, cluster) = (logs(), Cluster::embedded());
    let gate = || {
        let gate = cluster.gate().id("twin").listen("tcp://127.0.0.1:0");
        gate.start().expect("starts")
    };
    let resuming = || {
        let gate = cluster.gate().id("resuming").listen("tcp://127.0.0.1:0");
        gate.resume(ResumeOptions::new()).start().expect("starts")
    };
    let node = || cluster.node().id("twin").start().expect("starts");
    let mesh = || {
        let mesh = Mesh::builder()
            .id("twin")
            .registry(cluster.registry().clone());
        mesh.service("empty", |_| {}).start().expect("starts")
    };
    let (first_gate, first_node) = (gate(), node());
    let (first_resuming, first_mesh) = (resuming(), mesh());
    let (second_gate, second_node) = (gate(), node());
    let (second_resuming, second_mesh) = (resuming(), mesh());
    for (first, second) in [
        (
            format!("the gate twin at drpc://{}", first_gate.link_addr()),
            second_gate.link_addr().to_string(),
        ),
        (
            format!("the gate resuming at drpc://{}", first_resuming.link_addr()),
            second_resuming.link_addr().to_string(),
        ),
        (
            format!("the node twin at drpc://{}", first_node.link_addr()),
            second_node.link_addr().to_string(),
        ),
        (
            format!("the mesh twin at rpc://{}", first_mesh.addr()),
            second_mesh.addr().to_string(),
        ),
    ] {
        let both = [&*first, &*second];
        eventually("the first one warns", || logs.have(Level::Warn, &both));
    }
    drop((first_gate, first_node, first_resuming, first_mesh));
    let registry = cluster.registry();
    for (kind, second) in [
        ("gate", second_gate.link_addr()),
        ("node", second_node.link_addr()),
    ] {
        let left = registry.services(kind).expect("is in memory");
        let of_twin = left.iter().find(|record| record.id == "twin");
        let is_seconds = of_twin.is_some_and(|twin| twin.endpoint.contains(&second.to_string()));
        assert!(is_seconds, "{left:?}");
        let of_second = format!("the {kind} twin at drpc://{second}");
        assert_eq!(logs.with(&of_second), []);
    }
}

#[test]
fn a_server_whose_id_another_one_had_is_registered_again_when_that_one_has_ended() {
    let cluster = Cluster::embedded();
    let node = || cluster.node().id("twin").start().expect("starts");
    let gate = || {
        let gate = cluster.gate().id("twin").listen("tcp://127.0.0.1:0");
        gate.start().expect("starts")
    };
    let (first_node, first_gate) = (node(), gate());
    let metrics = || cluster.monitor().metrics();
    let taken = |metrics: &str| {
        metrics
            .lines()
            .filter(|line| {
                line.starts_with("epicycle_cluster_record_taken") && line.ends_with(" 1")
            })
            .count()
    };
    assert_eq!(taken(&metrics()), 0);
    let (second_node, second_gate) = (node(), gate());
    eventually("both have lost their records", || taken(&metrics()) == 2);
    let admin = cluster.admin().start().expect("starts");
    let told = get(&admin, "/readyz").json();
    assert_eq!(
        (&told["ready"], &told["taken"]),
        (&false.into(), &json!(["twin", "twin"]))
    );
    drop((second_node, second_gate));
    let registry = cluster.registry();
    for (kind, addr) in [
        ("node", first_node.link_addr()),
        ("gate", first_gate.link_addr()),
    ] {
        eventually("it is registered again", || {
            let record = registry.find(kind, "twin").expect("is in memory");
            record.is_some_and(|record| record.endpoint.contains(&addr.to_string()))
        });
    }
    eventually("nobody has lost its record", || taken(&metrics()) == 0);
    assert_eq!(get(&admin, "/readyz").json()["ready"], true);
}

/// A registry that does not answer for a while.
#[derive(Default)]
struct Hanging {
    lists: MemoryRegistry,
    hangs: AtomicBool,
    waiting: AtomicUsize,
}

impl Registry for Hanging {
    fn register(&self, instance: &Instance) -> Result<(), Error> {
        self.lists.register(instance)
    }

    fn deregister(&self, instance: &Instance) -> Result<(), Error> {
        self.lists.deregister(instance)
    }

    fn services(&self, name: &str) -> Result<Vec<Instance>, Error> {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        while self.hangs.load(Ordering::Acquire) {
            thread::sleep(Duration::from_millis(1));
        }
        self.lists.services(name)
    }

    fn watch(&self, name: &str) -> Result<Watch<Vec<Instance>>, Error> {
        self.lists.watch(name)
    }
}

#[test]
fn a_state_is_registered_though_the_registry_does_not_tell_who_has_the_record() {
    let registry = Arc::new(Hanging::default());
    let alone = Node::builder().id("node-1").registry(registry.clone());
    let alone = alone.start().expect("starts");
    registry.hangs.store(true, Ordering::Release);
    registry.register(&node("node-1")).expect("is allowed");
    eventually("the node asks whose record it is", || {
        registry.waiting.load(Ordering::Acquire) > 0
    });
    let (done, is_done) = mpsc::channel();
    let setting = thread::spawn(move || {
        let _ = done.send(alone.set_state(State::Busy));
        alone
    });
    let set = is_done.recv_timeout(LONG);
    registry.hangs.store(false, Ordering::Release);
    set.expect("does not wait").expect("is registered");
    let _alone = setting.join().expect("does not panic");
    let listed = registry.lists.services("node").expect("is in memory");
    assert_eq!(listed[0].state, State::Busy);
}

#[test]
fn what_nodes_disagree_about_is_told_once_at_a_gate() {
    let (logs, cluster) = (logs(), Cluster::embedded());
    let gate = cluster.gate().listen("tcp://127.0.0.1:0");
    let gate = gate.start().expect("starts");
    let disagree = |route: i32| {
        let flags = [RouteSpec::new(route), RouteSpec::new(route).authorized()];
        for (nth, spec) in flags.into_iter().enumerate() {
            let mut node = node(&format!("odd-{route}-{nth}"));
            node.routes.push(spec);
            cluster.registry().register(&node).expect("is allowed");
        }
        let line = format!("route {route} of \"node\"");
        eventually("it is told", || !logs.with(&line).is_empty());
        line
    };
    let first = disagree(7701);
    disagree(7702);
    assert_eq!(logs.with(&first).len(), 1);
    drop(gate);
}

#[test]
fn a_registry_and_a_locator_have_as_many_watches_as_they_may() {
    use epicycle::cluster::locator::{Locator, MemoryLocator};
    let (registry, locator) = (MemoryRegistry::new(), MemoryLocator::new());
    let mut lists: Vec<_> = (0..1024)
        .map(|_| registry.watch("node").expect("has room"))
        .collect();
    let mut places: Vec<_> = (0..1024)
        .map(|_| locator.watch().expect("has room"))
        .collect();
    assert!(matches!(registry.watch("node"), Err(Error::Busy { .. })));
    assert!(matches!(locator.watch(), Err(Error::Busy { .. })));
    // Those that have ended make room.
    lists.pop();
    places.pop();
    assert!(registry.watch("node").is_ok() && locator.watch().is_ok());
}

#[test]
fn the_log_tells_once_that_a_server_is_registered_each_of_its_states_and_its_end() {
    let (logs, cluster) = (logs(), Cluster::embedded());
    let node = cluster.node().id("told-once").name("hall");
    let node = node.route(1, |_, cx| cx.respond("")).start();
    let node = node.expect("starts");
    for state in [State::Busy, State::Busy, State::Work] {
        node.set_state(state).expect("is registered");
    }
    drop(node);
    let told = logs.with("node told-once");
    let told: Vec<_> = told
        .into_iter()
        .filter_map(|(level, line)| (level == Level::Info).then_some(line))
        .collect();
    let told: Vec<_> = told.iter().map(String::as_str).collect();
    let [registered, busy, work, end] = &*told else {
        panic!("{told:?}");
    };
    assert!(
        registered.starts_with("the node told-once (hall) is registered at drpc://")
            && registered.ends_with("in the state work; registry: memory"),
        "{registered}"
    );
    assert!(
        busy.ends_with("was in the state work, and is in busy now"),
        "{busy}"
    );
    assert!(
        work.ends_with("was in the state busy, and is in work now"),
        "{work}"
    );
    assert_eq!(*end, "the node told-once is registered no more");
}
