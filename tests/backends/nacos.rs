//! The registry on Nacos, against a server that stands in for it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use epicycle::cluster::Error;
use epicycle::cluster::backends::Nacos;
use epicycle::cluster::registry::{NacosRegistry, Registry};
use serde_json::{Value, json};

use crate::registries::{self, node};
use crate::standin::{Reply, Request, Standin};
use crate::util::eventually;
use crate::util::logs::logs;

#[derive(Default)]
struct State {
    /// By service and address.
    instances: BTreeMap<(String, String), BTreeMap<String, String>>,
    /// The password and the token that is valid.
    user: Option<(String, String)>,
    logins: usize,
}

type Shared = Arc<Mutex<State>>;

fn answer(state: &Shared, request: &Request) -> Reply {
    let mut state = state.lock().expect("is whole");
    let get = |name: &str| request.params.get(name).cloned().unwrap_or_default();
    let path = request
        .path
        .strip_prefix("/nacos/v1/")
        .expect("has the path");
    if path == "auth/login" {
        state.logins += 1;
        return match &state.user {
            Some((password, token)) if *password == get("password") => {
                Reply::new(200, json!({"accessToken": token}).to_string())
            }
            _ => Reply::new(403, "unknown user!"),
        };
    }
    if (state.user.as_ref()).is_some_and(|(_, token)| *token != get("accessToken")) {
        return Reply::new(403, "token invalid!");
    }
    let key = (get("serviceName"), format!("{}:{}", get("ip"), get("port")));
    match (&*request.method, path) {
        ("POST", "ns/instance") => {
            assert_eq!(get("groupName"), "DEFAULT_GROUP");
            assert_eq!(get("clusterName"), "DEFAULT");
            assert_eq!(get("ephemeral"), "true");
            let instance = request.params.clone().into_iter().collect();
            state.instances.insert(key, instance);
            Reply::new(200, "ok")
        }
        ("DELETE", "ns/instance") => {
            state.instances.remove(&key);
            Reply::new(200, "ok")
        }
        ("PUT", "ns/instance/beat") => {
            let code = match state.instances.contains_key(&key) {
                true => 10200,
                false => 20404,
            };
            Reply::new(
                200,
                json!({"clientBeatInterval": 5000, "code": code}).to_string(),
            )
        }
        ("GET", "ns/instance/list") => {
            assert_eq!(get("clusters"), "DEFAULT");
            let of_name = (state.instances.iter()).filter(|((name, _), _)| *name == key.0);
            let hosts: Vec<_> = of_name
                .map(|(_, instance)| {
                    let metadata: Value =
                        serde_json::from_str(&instance["metadata"]).expect("is JSON");
                    json!({"healthy": true, "enabled": true, "metadata": metadata})
                })
                .collect();
            Reply::new(200, json!({"cacheMillis": 100, "hosts": hosts}).to_string())
        }
        other => panic!("{other:?}"),
    }
}

fn start() -> (Shared, Standin) {
    let state = Shared::default();
    let own = state.clone();
    let server = Standin::start(move |request| answer(&own, request));
    (state, server)
}

fn open(server: &Standin) -> Nacos {
    let builder = Nacos::builder().url(format!("{}/nacos", server.url()));
    let builder = builder.timeout(Duration::from_secs(1));
    builder.build().expect("is complete")
}

fn registry(server: &Standin) -> NacosRegistry {
    NacosRegistry::new(&open(server))
}

#[test]
fn instances_are_found_until_they_are_taken_out() {
    let (_state, server) = start();
    registries::instances_are_found_until_they_are_taken_out(registry(&server), registry(&server));
}

#[test]
fn a_record_that_another_server_has_by_now_is_left_to_it() {
    let (_state, server) = start();
    registries::a_record_that_another_server_has_by_now_is_left_to_it(registry(&server));
}

#[test]
fn an_instance_that_is_no_record_is_told_once_for_each_change() {
    let (state, server) = start();
    let logs = logs();
    let registry = registry(&server);
    let told = |what: &str| logs.with(&format!("{what:?}}} is no record")).len();
    for what in ["nacos-once", "nacos-again"] {
        let metadata = json!({"id": what}).to_string();
        let key = ("DEFAULT_GROUP@@node".to_owned(), "127.0.0.1:1".to_owned());
        let instance = BTreeMap::from([("metadata".to_owned(), metadata)]);
        let mut state = state.lock().expect("is whole");
        state.instances.insert(key, instance);
        drop(state);
        for _ in 0..3 {
            assert!(registry.services("node").expect("answers").is_empty());
        }
        assert_eq!(told(what), 1);
    }
}

#[test]
fn a_record_that_is_forgotten_is_written_again() {
    let (state, server) = start();
    registries::a_record_that_is_forgotten_is_written_again(registry(&server), || {
        state.lock().expect("is whole").instances.clear();
    });
}

#[test]
fn a_server_that_is_lost_is_found_again() {
    let (_state, mut server) = start();
    let nacos = open(&server);
    let registry = NacosRegistry::new(&nacos);
    let is_up = || nacos.stats().is_up;
    let mut watch = registries::a_server_that_is_lost_is_found_again(&mut server, &registry, is_up);
    let handle = watch.handle();
    server.pause();
    eventually("the watch notices", || handle.lost_since().is_some());
    assert!(watch.try_next().is_none());
    server.resume();
    eventually("the watch goes on", || handle.lost_since().is_none());
    assert!(is_up());
}

#[test]
fn instances_are_those_of_due() {
    let (state, server) = start();
    let registry = registry(&server);
    let mut node = node("node-1");
    node.routes.truncate(1);
    registry.register(&node).expect("registers");
    let state = state.lock().expect("is whole");
    let ((service, _), instance) = state.instances.first_key_value().expect("is there");
    assert_eq!(service, "DEFAULT_GROUP@@node");
    assert_eq!(instance["weight"], "3");
    let metadata: BTreeMap<String, String> =
        serde_json::from_str(&instance["metadata"]).expect("is JSON");
    let wanted = [
        ("id", "node-1"),
        ("name", "node"),
        ("kind", "node"),
        ("alias", "hall"),
        ("state", "work"),
        ("endpoint", &node.endpoint),
        ("weight", "3"),
        ("routes", "[{\"i\":-2,\"n\":true}]"),
        ("events", "[1,3]"),
        ("services", "[\"Shop\",\"Mail\"]"),
        ("metadata", "{\"zone\":\"a b\"}"),
    ];
    let wanted = wanted.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(metadata, BTreeMap::from(wanted));
}

#[test]
fn users_are_checked_and_tokens_that_have_ended_replaced() {
    let (state, server) = start();
    state.lock().expect("is whole").user = Some(("sesame".to_owned(), "first".to_owned()));
    let with = |password: &str| {
        let builder = Nacos::builder().url(format!("{}/nacos", server.url()));
        let builder = builder.user("game", password);
        assert!(!format!("{builder:?}").contains(password));
        NacosRegistry::new(&builder.build().expect("is complete"))
    };
    let registry = with("sesame");
    registry.register(&node("node-1")).expect("registers");
    registry.services("node").expect("answers");
    assert_eq!(state.lock().expect("is whole").logins, 1);
    state.lock().expect("is whole").user = Some(("sesame".to_owned(), "second".to_owned()));
    registry.services("node").expect("answers");
    assert_eq!(state.lock().expect("is whole").logins, 2);
    let error = with("parsley").services("node").expect_err("is wrong");
    assert!(matches!(error, Error::Backend { .. }), "{error}");
}
