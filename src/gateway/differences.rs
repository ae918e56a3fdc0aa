//! The differences between two configurations, for people.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;

use super::settings::{NodeSettings, RouteSettings, Settings};

/// The most differences that are told.
const MAX: usize = 100;

/// Returns what differs, one text for each part: `pool api: node http://10.0.0.3:8080 is new`.
pub(super) fn between(old: &Settings, new: &Settings) -> Vec<String> {
    let mut found = Vec::new();
    for (name, pool) in &new.pools {
        let Some(before) = old.pools.get(name) else {
            found.push(format!("pool {name} is new"));
            continue;
        };
        nodes(name, &before.nodes, &pool.nodes, &mut found);
        let mut before = before.clone();
        before.nodes.clone_from(&pool.nodes);
        if !is_same(&before, pool) {
            found.push(format!("pool {name} has other options"));
        }
    }
    let gone = old
        .pools
        .keys()
        .filter(|name| !new.pools.contains_key(*name));
    found.extend(gone.map(|name| format!("pool {name} is gone")));
    routes(&old.routes, &new.routes, &mut found);
    for listener in &new.listeners {
        let mut all = old.listeners.iter();
        let before = all.find(|other| other.on == listener.on);
        if before.is_some_and(|before| !is_same(before, listener)) {
            found.push(format!("listener {} has other options", listener.on));
        }
    }
    for (is_same, name) in [
        (old.drain == new.drain, "drain"),
        (old.access_log == new.access_log, "log.access"),
        (old.admin == new.admin, "admin"),
    ] {
        if !is_same {
            found.push(format!("{name} has changed"));
        }
    }
    if found.len() > MAX {
        let more = found.len() - MAX;
        found.truncate(MAX);
        found.push(format!("and {more} more"));
    }
    found
}

fn nodes(pool: &str, old: &[NodeSettings], new: &[NodeSettings], found: &mut Vec<String>) {
    let mut before: BTreeMap<&str, &NodeSettings> =
        old.iter().map(|node| (&*node.to, node)).collect();
    for node in new {
        let to = &node.to;
        let Some(before) = before.remove(&**to) else {
            found.push(format!("pool {pool}: node {to} is new"));
            continue;
        };
        if before.weight != node.weight {
            let (old, new) = (before.weight, node.weight);
            found.push(format!(
                "pool {pool}: node {to} has weight {new} instead of {old}"
            ));
        }
        if before.state != node.state {
            let state = node.state.as_str();
            found.push(format!("pool {pool}: node {to} is put to {state}"));
        }
        if before.backup != node.backup {
            let is = if node.backup { "is" } else { "is no longer" };
            found.push(format!("pool {pool}: node {to} {is} a backup"));
        }
    }
    let gone = before.keys();
    found.extend(gone.map(|to| format!("pool {pool}: node {to} is gone")));
}

fn routes(old: &[RouteSettings], new: &[RouteSettings], found: &mut Vec<String>) {
    let by_name = |routes| -> HashMap<String, &RouteSettings> {
        let routes: &[RouteSettings] = routes;
        routes
            .iter()
            .map(|route| (route.display_name(), route))
            .collect()
    };
    let mut before = by_name(old);
    for route in new {
        let name = route.display_name();
        match before.remove(&name) {
            None => found.push(format!("route {name} is new")),
            Some(before) if !is_same(before, route) => {
                found.push(format!("route {name} has changed"));
            }
            Some(_) => {}
        }
    }
    let mut gone: Vec<_> = before.into_keys().collect();
    gone.sort_unstable();
    found.extend(gone.into_iter().map(|name| format!("route {name} is gone")));
}

/// Some settings have no equality of their own. Their `Debug` tells what matters.
fn is_same<T: Debug>(one: &T, other: &T) -> bool {
    format!("{one:?}") == format!("{other:?}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::settings::{ListenerSettings, NodeState, PoolSettings};

    #[test]
    fn each_part_that_differs_is_told_and_no_other() {
        let mut old = Settings::default();
        old.listeners.push(ListenerSettings::new("tcp://:80"));
        old.pools
            .insert("a".to_owned(), PoolSettings::of(["http://x", "http://y"]));
        old.pools
            .insert("b".to_owned(), PoolSettings::of(["http://x"]));
        old.routes.push(RouteSettings::to("a"));
        assert_eq!(between(&old, &old.clone()), [""; 0]);

        let mut new = old.clone();
        new.pools.remove("b");
        new.pools
            .insert("c".to_owned(), PoolSettings::of(["http://x"]));
        let nodes = vec![
            NodeSettings::new("http://x")
                .weight(3)
                .state(NodeState::Drain),
            NodeSettings::new("http://z"),
        ];
        new.pools.get_mut("a").expect("is there").nodes = nodes;
        new.routes.push(RouteSettings::to("c").path("/c/*"));
        new.listeners[0].proxy_status = true;
        assert_eq!(
            between(&old, &new),
            [
                "pool a: node http://x has weight 3 instead of 1",
                "pool a: node http://x is put to drain",
                "pool a: node http://z is new",
                "pool a: node http://y is gone",
                "pool c is new",
                "pool b is gone",
                "route */c/* is new",
                "listener tcp://:80 has other options",
            ]
        );
    }
}
