//! Upstreams and `proxy_pass` as pools.

use std::collections::BTreeMap;

use super::parse::Directive;
use super::{Notes, reasons, toml};

/// The nodes of a pool, and the rules that belong to them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Upstream {
    nodes: Vec<Node>,
    /// Keys and their values, as the file has them.
    rules: BTreeMap<&'static str, String>,
}

/// A server of an upstream.
#[derive(Clone, Debug, PartialEq)]
struct Node {
    /// The address without a scheme.
    addr: String,
    weight: u32,
    is_backup: bool,
    is_down: bool,
}

/// The times and retries of a location.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Rules(pub(super) BTreeMap<&'static str, String>);

/// The pools of the new file.
#[derive(Default)]
pub(super) struct Pools {
    upstreams: BTreeMap<String, Upstream>,
    /// The names, schemes, nodes and rules.
    pools: Vec<(String, bool, Upstream, Rules)>,
}

impl Pools {
    /// Reads an `upstream`.
    pub(super) fn add_upstream(&mut self, directive: &Directive, notes: &mut Notes) {
        let mut upstream = Upstream::default();
        let (mut conns, mut fails) = (Vec::new(), Vec::new());
        for child in directive.children() {
            let arg = child.arg();
            let mut rule = |key, value: Option<String>| match value {
                Some(value) => {
                    upstream.rules.insert(key, value);
                }
                None => notes.left(child, "it cannot be read"),
            };
            match child.name.as_str() {
                "server" => server(child, &mut upstream, &mut conns, &mut fails, notes),
                "least_conn" => rule("balance", Some("\"least\"".to_owned())),
                "ip_hash" => rule("balance", Some("{ hash = \"ip\" }".to_owned())),
                "random" => {
                    let balance = if arg == "two" { "p2c" } else { "random" };
                    rule("balance", Some(toml::text(balance)));
                }
                "hash" => match hash_key(arg) {
                    Some(key) => rule(
                        "balance",
                        Some(format!("{{ hash = {} }}", toml::text(&key))),
                    ),
                    None => notes.left(child, "there is no such key; the nodes take turns"),
                },
                "keepalive" => rule("max_idle", arg.parse::<u32>().ok().map(|n| n.to_string())),
                "keepalive_timeout" => rule(
                    "idle_timeout",
                    toml::time(arg).map(|time| toml::text(&time)),
                ),
                "keepalive_time" => rule(
                    "max_lifetime",
                    toml::time(arg).map(|time| toml::text(&time)),
                ),
                "keepalive_requests" => {
                    let most = arg.parse::<u32>().ok().filter(|most| *most > 0);
                    rule("max_requests", most.map(|most| most.to_string()));
                }
                _ => notes.left(child, &reasons::why(child)),
            }
        }
        conns.dedup();
        match conns[..] {
            [] => {}
            [most] if most > 0 => {
                upstream.rules.insert("max_connections", most.to_string());
            }
            _ => notes.left(
                directive,
                "its servers have several max_conns; a pool has one max_connections",
            ),
        }
        fails.dedup();
        match &fails[..] {
            [] => {}
            [(failures, time)] => {
                upstream.rules.insert(
                    "eject",
                    format!("{{ failures = {failures}, time = {} }}", toml::text(time)),
                );
            }
            _ => notes.left(
                directive,
                "its servers have several max_fails or fail_timeout; a pool has one `eject`",
            ),
        }
        if upstream.nodes.is_empty() {
            notes.left(directive, "it has no server that can be carried over");
            return;
        }
        self.upstreams.insert(directive.arg().to_owned(), upstream);
    }

    /// Returns the name of the pool for a `proxy_pass` without its URI.
    pub(super) fn pool(&mut self, scheme: &str, authority: &str, rules: Rules) -> String {
        let upstream = self
            .upstreams
            .get(authority)
            .cloned()
            .unwrap_or_else(|| Upstream {
                nodes: vec![Node::new(authority)],
                rules: BTreeMap::new(),
            });
        let is_tls = scheme == "https";
        let same = self
            .pools
            .iter()
            .find(|(_, tls, nodes, with)| *tls == is_tls && *nodes == upstream && *with == rules);
        if let Some((name, ..)) = same {
            return name.clone();
        }
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        let base: String = authority
            .chars()
            .map(|c| if is_plain(c) { c } else { '_' })
            .collect();
        let base = base.trim_matches('_');
        let base = if base.is_empty() { "pool" } else { base };
        let is_free = |name: &String| self.pools.iter().all(|(other, ..)| other != name);
        let numbered = (2_u32..).map(|n| format!("{base}-{n}"));
        let name = std::iter::once(base.to_owned())
            .chain(numbered)
            .find(is_free);
        let name = name.unwrap_or_default();
        self.pools.push((name.clone(), is_tls, upstream, rules));
        name
    }

    /// Returns the tables of the pools.
    pub(super) fn write(&self) -> String {
        let mut out = String::new();
        for (name, is_tls, upstream, rules) in &self.pools {
            out += &format!("\n[pool.{name}]\nnodes = [\n");
            for node in &upstream.nodes {
                out += &format!("    {},\n", node.write(*is_tls));
            }
            out += "]\n";
            for (key, value) in upstream.rules.iter().chain(&rules.0) {
                out += &format!("{key} = {value}\n");
            }
        }
        out
    }
}

impl Node {
    fn new(addr: &str) -> Self {
        Self {
            addr: addr.to_owned(),
            weight: 1,
            is_backup: false,
            is_down: false,
        }
    }

    fn write(&self, is_tls: bool) -> String {
        let scheme = if is_tls { "https" } else { "http" };
        let to = match self.addr.strip_prefix("unix:") {
            Some(path) => format!("unix://{path}"),
            None => format!("{scheme}://{}", self.addr),
        };
        let to = toml::text(&to);
        let mut rules = String::new();
        if self.weight != 1 {
            rules += &format!(", weight = {}", self.weight);
        }
        if self.is_backup {
            rules += ", backup = true";
        }
        if self.is_down {
            rules += ", state = \"down\"";
        }
        match rules.is_empty() {
            true => to,
            false => format!("{{ to = {to}{rules} }}"),
        }
    }
}

fn server(
    directive: &Directive,
    upstream: &mut Upstream,
    conns: &mut Vec<u32>,
    fails: &mut Vec<(u32, String)>,
    notes: &mut Notes,
) {
    let addr = directive.arg();
    if !is_address(addr) {
        notes.left(
            directive,
            "its address cannot be read; the node is left out",
        );
        return;
    }
    let mut node = Node::new(addr);
    let (mut most, mut failures, mut time) = (None, None, None);
    for arg in &directive.args[1..] {
        let (key, value) = arg.split_once('=').unwrap_or((arg, ""));
        let number = value.parse::<u32>().ok();
        let is_right = match key {
            "weight" => number.map(|number| node.weight = number).is_some(),
            "backup" => {
                node.is_backup = true;
                true
            }
            "down" => {
                node.is_down = true;
                true
            }
            "max_conns" => number.map(|number| most = Some(number)).is_some(),
            "max_fails" => number.map(|number| failures = Some(number)).is_some(),
            "fail_timeout" => toml::time(value).map(|value| time = Some(value)).is_some(),
            _ => false,
        };
        if !is_right {
            notes.left(directive, &format!("{arg:?} has no counterpart"));
        }
    }
    conns.extend(most);
    match failures {
        Some(0) => notes.left(
            directive,
            "max_fails=0 has no counterpart: nodes that fail are ejected for a time",
        ),
        failures if failures.is_some() || time.is_some() => {
            fails.push((
                failures.unwrap_or(1),
                time.unwrap_or_else(|| "10s".to_owned()),
            ));
        }
        _ => {}
    }
    upstream.nodes.push(node);
}

/// Returns true for `HOST`, `HOST:PORT`, `[IPv6]:PORT` and `unix:/PATH`.
pub(super) fn is_address(addr: &str) -> bool {
    if let Some(path) = addr.strip_prefix("unix:") {
        return path.starts_with('/') && !path.contains(char::is_control);
    }
    let to = format!("tcp://{}", with_port(addr));
    let is_plain =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']');
    addr.chars().all(is_plain)
        && to.parse::<epicycle::Endpoint>().is_ok()
        && !addr.starts_with(':')
        && !to.ends_with(":0")
}

fn with_port(addr: &str) -> String {
    match addr.rsplit(']').next().is_some_and(|end| end.contains(':')) {
        true => addr.to_owned(),
        false => format!("{addr}:80"),
    }
}

/// Returns the key of a hash for a variable of nginx.
pub(super) fn hash_key(variable: &str) -> Option<String> {
    let name = variable.strip_prefix('$')?;
    let name = name
        .strip_prefix('{')
        .and_then(|name| name.strip_suffix('}'))
        .unwrap_or(name);
    let of = |prefix: &str, kind: &str| {
        let rest = name.strip_prefix(prefix).filter(|rest| !rest.is_empty())?;
        let is_right = rest.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        is_right.then(|| format!("{kind}:{rest}"))
    };
    match name {
        "remote_addr" | "binary_remote_addr" => Some("ip".to_owned()),
        "request_uri" => Some("uri".to_owned()),
        "uri" => Some("path".to_owned()),
        _ => of("cookie_", "cookie")
            .or_else(|| of("http_", "header").map(|key| key.replace('_', "-")))
            .or_else(|| of("arg_", "query")),
    }
}
