//! Settings that work, and hardly as they are meant.

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::Path;

use super::{
    ListenerKind, ListenerSettings, LogTarget, PoolSettings, Problem, RouteSettings, Settings,
};
use crate::addr::Endpoint;

/// Returns what is most likely a mistake.
pub(super) fn warnings(settings: &Settings) -> Vec<Problem> {
    let mut warnings = Vec::new();
    let mut warn = |place: String, problem: &str| {
        let problem = problem.to_owned();
        warnings.push(Problem { place, problem });
    };
    for (n, listener) in settings.listeners.iter().enumerate() {
        if listener.kind == ListenerKind::Reverse && settings.routes.is_empty() {
            warn(
                format!("listeners[{n}]"),
                "there is no route, so that each request is a 404; add one",
            );
        }
        if listener.has_targets() && is_for_everybody(listener) {
            warn(
                format!("listeners[{n}].on"),
                "whoever reaches it can use it as a proxy; set `users` or `allow`, or listen on an inner address",
            );
        }
    }
    for (n, route) in settings.routes.iter().enumerate() {
        if !strips_something(route) {
            warn(
                format!("routes[{n}].strip_prefix"),
                "no path of the route begins with it, so that nothing is removed",
            );
        }
    }
    let of_routes = settings.routes.iter();
    let of_routes = of_routes.flat_map(|route| {
        let mirror = route.mirror.as_ref().map(|mirror| &mirror.pool);
        route.split.keys().chain([&route.pool]).chain(mirror)
    });
    let of_listeners = settings
        .listeners
        .iter()
        .filter_map(|one| one.pool.as_ref());
    let used: HashSet<&String> = of_routes.chain(of_listeners).collect();
    for (name, pool) in &settings.pools {
        if !used.contains(name) {
            warn(
                format!("pools.{name}"),
                "no route and no listener names it, so that only a hook can use it",
            );
        }
        check_nodes(name, pool, &mut warn);
    }
    if let Some(log) = &settings.access_log
        && let LogTarget::File(path) = &log.to
        && !has_folder(path)
    {
        warn(
            "access_log.to".to_owned(),
            "its folder is not there, so that the gateway cannot start; make it",
        );
    }
    warnings
}

/// Returns true if a listener takes clients from everywhere, and asks them for nothing.
fn is_for_everybody(listener: &ListenerSettings) -> bool {
    let asks = listener.users.is_some() || !listener.access.allow.is_empty();
    let Ok(Endpoint::Tcp { host, .. }) = listener.on.parse() else {
        return false;
    };
    let is_inner = match host.parse() {
        Ok(IpAddr::V4(ip)) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        Ok(IpAddr::V6(ip)) => {
            ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local()
        }
        // An empty host is every interface. A name can be anything.
        Err(_) => !host.is_empty(),
    };
    !asks && !is_inner
}

fn check_nodes(name: &str, pool: &PoolSettings, warn: &mut impl FnMut(String, &str)) {
    let mut known = HashSet::new();
    for (n, node) in pool.nodes.iter().enumerate() {
        let place = format!("pools.{name}.nodes[{n}]");
        if !known.insert(&node.to) {
            warn(
                place,
                "the node is in the list already, so that this one is ignored; give it more weight",
            );
        } else if pool.uses_tls() && node.to.starts_with("http://") {
            warn(
                place,
                "it speaks TLS, since the pool has `tls`; write https://",
            );
        }
    }
    if !pool.nodes.is_empty() && pool.nodes.iter().all(|node| node.weight == 0) {
        warn(
            format!("pools.{name}.nodes"),
            "all weights are 0, so that each of them counts as 1",
        );
    }
}

/// Returns true if a path of the route can begin with the prefix that is removed.
fn strips_something(route: &RouteSettings) -> bool {
    let (Some(prefix), Some(path)) = (&route.strip_prefix, &route.path) else {
        return true;
    };
    let prefix = prefix.trim_end_matches('/');
    match path.strip_suffix('*') {
        Some(begin) => begin.starts_with(prefix) || prefix.starts_with(begin),
        None => path.starts_with(prefix),
    }
}

fn has_folder(file: &Path) -> bool {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.is_dir(),
        _ => true,
    }
}
