//! The registry on Consul, against a server that stands in for an agent.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use epicycle::cluster::backends::Consul;
use epicycle::cluster::registry::{ConsulRegistry, Registry};
use epicycle::cluster::{Error, Kind};
use log::Level;
use serde_json::{Value, json};

use crate::registries::{self, node};
use crate::standin::{Reply, Request, Standin};
use crate::util::eventually;
use crate::util::logs::logs;
use crate::vectors::rows;

#[derive(Default)]
struct Agent {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    index: u64,
    services: BTreeMap<String, Value>,
    token: Option<String>,
    /// Queries that it has held.
    held: usize,
}

impl Agent {
    fn change(&self, change: impl FnOnce(&mut BTreeMap<String, Value>)) {
        let mut state = self.state.lock().expect("is whole");
        change(&mut state.services);
        state.index += 1;
        self.changed.notify_all();
    }

    fn answer(&self, request: &Request) -> Reply {
        let mut state = self.state.lock().expect("is whole");
        if state.token.is_some() && request.headers.get("x-consul-token") != state.token.as_ref() {
            return Reply::new(403, "Permission denied");
        }
        let path = request.path.strip_prefix("/v1/").expect("is of version 1");
        if path == "agent/service/register" {
            drop(state);
            let service: Value = serde_json::from_slice(&request.body).expect("is JSON");
            let id = service["ID"].as_str().expect("has an id").to_owned();
            self.change(|services| drop(services.insert(id, service)));
            return Reply::new(200, "");
        }
        if request.method == "GET"
            && let Some(id) = path.strip_prefix("agent/service/")
        {
            return match state.services.get(id) {
                Some(service) => Reply::new(200, json!({"Meta": service["Meta"]}).to_string()),
                None => Reply::new(404, format!("unknown service ID: {id}")),
            };
        }
        if let Some(id) = path.strip_prefix("agent/service/deregister/") {
            drop(state);
            self.change(|services| drop(services.remove(id)));
            return Reply::new(200, "");
        }
        if let Some(id) = path.strip_prefix("agent/check/pass/service:") {
            assert_eq!(request.method, "PUT");
            return match state.services.contains_key(id) {
                true => Reply::new(200, ""),
                false => Reply::new(404, format!("Unknown check ID \"service:{id}\"")),
            };
        }
        let name = path.strip_prefix("health/service/").expect("is a list");
        assert!(request.params.contains_key("passing"));
        let index: u64 = request.params["index"].parse().expect("is a number");
        let wait = request.params["wait"].strip_suffix("ms").expect("is in ms");
        let wait = Duration::from_millis(wait.parse().expect("is a number"));
        if index > 0 {
            state.held += 1;
            let same = |state: &mut State| state.index.max(1) == index;
            let waited = self.changed.wait_timeout_while(state, wait, same);
            state = waited.expect("is whole").0;
        }
        let found: Vec<_> = (state.services.values())
            .filter(|service| service["Name"] == *name)
            .map(|service| json!({"Service": {"Service": name, "Meta": service["Meta"]}}))
            .collect();
        let mut reply = Reply::new(200, Value::from(found).to_string());
        reply.headers = vec![("X-Consul-Index", state.index.max(1).to_string())];
        reply
    }
}

fn start() -> (Arc<Agent>, Standin) {
    let agent = Arc::new(Agent::default());
    let own = agent.clone();
    let server = Standin::start(move |request| own.answer(request));
    (agent, server)
}

fn open(server: &Standin) -> Consul {
    let builder = Consul::builder().url(server.url());
    let builder = builder.timeout(Duration::from_secs(1));
    builder.build().expect("is complete")
}

fn registry(server: &Standin) -> ConsulRegistry {
    ConsulRegistry::new(&open(server))
}

#[test]
fn instances_are_found_until_they_are_taken_out() {
    let (_agent, server) = start();
    registries::instances_are_found_until_they_are_taken_out(registry(&server), registry(&server));
}

#[test]
fn a_record_that_another_server_has_by_now_is_left_to_it() {
    let (_agent, server) = start();
    registries::a_record_that_another_server_has_by_now_is_left_to_it(registry(&server));
}

#[test]
fn a_record_of_another_process_is_left_to_it() {
    let (agent, server) = start();
    let (ours, theirs) = (registry(&server), registry(&server));
    registries::a_record_of_another_process_is_left_to_it(&ours, &theirs);

    let logs = logs();
    let (own, mut other) = (node("node-twice"), node("node-twice"));
    other.endpoint = "drpc://127.0.0.1:7998?is_secure=false".to_owned();
    ours.register(&own).expect("registers");
    theirs.register(&other).expect("registers");
    eventually("the beats of the first one tell", || {
        logs.have(
            Level::Warn,
            &["Consul: another server", "127.0.0.1:7998", "node-twice"],
        )
    });
    agent.change(BTreeMap::clear);
    eventually("the second one writes it again", || {
        ours.services("node")
            .is_ok_and(|list| list == [other.clone()])
    });
    theirs.deregister(&other).expect("answers");
    // Longer than the time between two beats, of which the first one sends none.
    std::thread::sleep(Duration::from_secs(6));
    assert!(ours.services("node").expect("answers").is_empty());
}

#[test]
fn a_service_that_is_no_record_is_told_once_for_each_change() {
    let (agent, server) = start();
    let logs = logs();
    let registry = registry(&server);
    let bad = |what: &str| json!({"Name": "node", "Meta": {"id": what}});
    let told = |what: &str| logs.with(&format!("{what:?}}} is no record")).len();
    agent.change(|services| drop(services.insert("bad".to_owned(), bad("told-once"))));
    let mut watch = registry.watch("node").expect("watches");
    for n in 0..3 {
        assert!(registry.services("node").expect("answers").is_empty());
        // It changes beside it.
        let good = node(&format!("node-{n}"));
        registry.register(&good).expect("registers");
        while !watch.next().expect("is open").contains(&good) {}
        registry.deregister(&good).expect("answers");
    }
    assert_eq!(told("told-once"), 1);
    agent.change(|services| drop(services.insert("bad".to_owned(), bad("told-again"))));
    assert!(registry.services("node").expect("answers").is_empty());
    assert_eq!((told("told-once"), told("told-again")), (1, 1));
}

#[test]
fn a_record_that_is_forgotten_is_written_again() {
    let (agent, server) = start();
    registries::a_record_that_is_forgotten_is_written_again(registry(&server), || {
        agent.change(BTreeMap::clear);
    });
}

#[test]
fn a_server_that_is_lost_is_found_again() {
    let (_agent, mut server) = start();
    let consul = open(&server);
    let registry = ConsulRegistry::new(&consul);
    let is_up = || consul.stats().is_up;
    let mut watch = registries::a_server_that_is_lost_is_found_again(&mut server, &registry, is_up);
    // The watch waits for up to a minute, but the beats of the records notice it sooner.
    server.pause();
    eventually("the beats notice", || !is_up());
    assert!(watch.try_next().is_none());
    server.resume();
    eventually("they notice it again", is_up);
    registry.register(&node("node-3")).expect("registers");
    let mut ids = Vec::new();
    while ids != ["node-1", "node-2", "node-3"] {
        let list = watch.next().expect("is open");
        ids = list.into_iter().map(|instance| instance.id).collect();
    }
}

#[test]
fn the_end_of_a_watch_ends_the_query_that_the_agent_holds() {
    let (agent, server) = start();
    let registry = registry(&server);
    let mut watch = registry.watch("node").expect("watches");
    assert!(watch.next().expect("is open").is_empty());
    eventually("the agent holds a query", || {
        agent.state.lock().expect("is whole").held == 1
    });
    assert_eq!(server.connections(), 1);
    drop(watch);
    eventually("the connection is closed", || server.connections() == 0);
}

#[test]
fn services_are_those_of_due() {
    let (agent, server) = start();
    let registry = registry(&server);
    let node = node("node-1");
    registry.register(&node).expect("registers");
    let service = {
        let state = agent.state.lock().expect("is whole");
        state.services["node-node-1"].clone()
    };
    assert_eq!(service["Name"], "node");
    assert_eq!(service["Address"], "127.0.0.1");
    let port = service["Port"].as_u64().expect("is a number");
    assert!(node.endpoint.contains(&format!(":{port}?")));
    assert_eq!(service["TaggedAddresses"]["drpc"]["Port"], port);
    let checks = service["Checks"].as_array().expect("is a list");
    let text = |check: usize, field: &str| checks[check][field].as_str().unwrap_or_default();
    assert_eq!(text(0, "TCP"), format!("127.0.0.1:{port}"));
    assert_eq!((text(0, "Interval"), text(0, "Timeout")), ("10s", "5s"));
    assert_eq!(text(1, "CheckID"), "service:node-node-1");
    assert_eq!(text(1, "TTL"), "10s");
    assert_eq!(text(1, "DeregisterCriticalServiceAfter"), "30s");
    let meta = &service["Meta"];
    for (field, value) in [
        ("id", "node-1"),
        ("kind", "node"),
        ("alias", "hall"),
        ("state", "work"),
        ("endpoint", &*node.endpoint),
        ("weight", "3"),
        ("events", "[1,3]"),
        ("services", "[\"Shop\",\"Mail\"]"),
        ("_zone", "a b"),
    ] {
        assert_eq!(meta[field], value, "{field}");
    }
    // The routes of the recording are those of this node.
    let recorded = rows("registry_consul");
    let Some(row) = recorded.iter().find(|row| row.data.contains("routes-0")) else {
        return;
    };
    let recorded: BTreeMap<String, String> = serde_json::from_str(&row.data).expect("is JSON");
    assert_eq!(recorded.len(), 2);
    for (field, value) in &recorded {
        assert_eq!(meta[field], **value);
        assert!(value.len() <= 512);
    }
}

#[test]
fn lists_that_are_too_long_for_one_value_are_split_and_read_again() {
    let (_agent, server) = start();
    let registry = registry(&server);
    let mut node = node("node-1");
    node.services = (0..100).map(|n| format!("Service{n}")).collect();
    registry.register(&node).expect("registers");
    let found = registry.services("node").expect("answers");
    assert_eq!(found, [node.clone()]);

    node.metadata.insert("long".to_owned(), "x".repeat(513));
    let error = registry.register(&node).expect_err("is too long");
    assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");
}

#[test]
fn services_of_others_are_left_out() {
    let (agent, server) = start();
    let other = json!({"ID": "x", "Name": "node", "Meta": {"kind": "node", "id": "a/b"}});
    let nothing = json!({"ID": "y", "Name": "node", "Meta": {}});
    agent.change(|services| {
        services.insert("x".to_owned(), other);
        services.insert("y".to_owned(), nothing);
    });
    let registry = registry(&server);
    registry.register(&node("node-1")).expect("registers");
    let found = registry.services("node").expect("answers");
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].kind, Kind::Node);
}

#[test]
fn tokens_are_sent_and_not_shown() {
    let (agent, server) = start();
    agent.state.lock().expect("is whole").token = Some("sesame".to_owned());
    let with = |token: &str| {
        let builder = Consul::builder().url(server.url()).token(token);
        assert!(!format!("{builder:?}").contains(token));
        ConsulRegistry::new(&builder.build().expect("is complete"))
    };
    with("sesame").register(&node("node-1")).expect("registers");
    let error = with("parsley").services("node").expect_err("is wrong");
    assert!(error.to_string().contains("Permission denied"), "{error}");
}

#[test]
fn the_next_agent_is_asked_if_one_is_not_there() {
    let (_agent, server) = start();
    let nobody = crate::process::free_port();
    let builder = Consul::builder().url(format!("http://127.0.0.1:{nobody}"));
    let consul = builder.url(server.url()).build().expect("is complete");
    let registry = ConsulRegistry::new(&consul);
    registry.register(&node("node-1")).expect("registers");
    assert!(consul.stats().is_up);
    for url in ["", "127.0.0.1:8500", "http://user@host"] {
        let error = Consul::open(url).expect_err("is no URL");
        assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");
    }
}
