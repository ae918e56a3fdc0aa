use toml::de::DeValue;

use super::read::{Reader, Size, Table, Value};
use super::source;
use crate::balance::KeyHash;
use crate::gateway::settings::{
    BalanceBy, HashKey, HealthCheck, HealthProbe, NodeSettings, NodeState, PoolSettings,
    ProxyVersion, UpstreamTimeouts,
};

/// Reads a `[pool.NAME]`.
pub(super) fn read(reader: &mut Reader, mut table: Table<'_>) -> PoolSettings {
    let mut pool = PoolSettings {
        nodes: nodes(reader, &mut table),
        ..PoolSettings::default()
    };
    if let Some(path) = table.get::<String>(reader, "nodes_file", "nodes_file") {
        pool.nodes_file = Some(reader.path(&path));
    }
    if let Some(table) = table.table(reader, "discover", "discover") {
        pool.discover = source::read(reader, table);
    }
    if let Some(value) = table.take(reader, "balance", "balance") {
        balance(reader, value, &mut pool.balance);
    }
    table.set(reader, "fail_open", "fail_open", &mut pool.fail_open);
    table.set(reader, "slow_start", "slow_start", &mut pool.slow_start);
    if let Some(table) = table.table(reader, "health", "health") {
        pool.health = health(reader, table);
    }
    if let Some(table) = table.table(reader, "eject", "ejection") {
        ejection(reader, table, &mut pool);
    }
    if let Some(table) = table.table(reader, "timeout", "timeouts") {
        timeouts(reader, table, &mut pool.timeouts);
    }
    if let Some(value) = table.take(reader, "via", "via") {
        pool.via = super::via(reader, value);
    }
    connections(reader, &mut table, &mut pool);
    let into = &mut pool.max_in_flight;
    table.set(reader, "max_in_flight", "max_in_flight", into);
    let (key, into) = ("max_in_flight_per_node", &mut pool.max_in_flight_per_node);
    table.set(reader, key, key, into);
    retries(reader, &mut table, &mut pool);
    #[cfg(feature = "tls")]
    if let Some(table) = table.table(reader, "tls", "tls") {
        pool.tls = tls(reader, table);
    }
    #[cfg(not(feature = "tls"))]
    if let Some(value) = table.take(reader, "tls", "tls") {
        value.wrong(reader, "it needs the cargo feature `tls`");
    }
    let words = [
        ("v1", Some(ProxyVersion::V1)),
        ("v2", Some(ProxyVersion::V2)),
    ];
    let into = &mut pool.proxy_protocol;
    table.set_word(reader, "proxy_protocol", "proxy_protocol", &words, into);
    table.finish(reader);
    pool
}

/// Reads `nodes`.
pub(super) fn nodes(reader: &mut Reader, table: &mut Table<'_>) -> Vec<NodeSettings> {
    let Some(value) = table.take(reader, "nodes", "nodes") else {
        return Vec::new();
    };
    let items = value.into_items(reader, &table.place_of("nodes"));
    // A node that cannot be read keeps its place, since places are numbers.
    items.into_iter().map(|item| node(reader, item)).collect()
}

/// Reads a node: an address, or a table with one.
fn node(reader: &mut Reader, value: Value<'_>) -> NodeSettings {
    if !matches!(value.value, DeValue::Table(_)) {
        return NodeSettings::new(value.read::<String>(reader).unwrap_or_else(unread));
    }
    let span = value.span.clone();
    let place = value.key.clone();
    let Some(mut table) = value.into_table(reader, "") else {
        return NodeSettings::new(unread());
    };
    let to: Option<String> = table.get_unplaced(reader, "to");
    if to.is_none() && !table.had("to") {
        let remedy = "it needs `to`, such as \"http://10.0.0.1:8080\"";
        reader.problem(span, format!("{place}: {remedy}"));
    }
    let mut node = NodeSettings::new(to.unwrap_or_else(unread));
    if let Some(weight) = table.get_unplaced(reader, "weight") {
        node.weight = weight;
    }
    if let Some(backup) = table.get_unplaced(reader, "backup") {
        node.backup = backup;
    }
    node.name = table.get_unplaced(reader, "name");
    node_state(reader, &mut table, &mut node.state);
    table.finish(reader);
    node
}

/// Reads `state`, a word, if it is there.
pub(super) fn node_state(
    reader: &mut Reader,
    table: &mut Table<'_>,
    into: &mut impl From<NodeState>,
) {
    let Some(value) = table.take_unplaced("state") else {
        return;
    };
    let words = [NodeState::Up, NodeState::Drain, NodeState::Down];
    let word = value.value.as_str();
    match words.into_iter().find(|state| word == Some(state.as_str())) {
        Some(state) => *into = state.into(),
        None => value.wrong(reader, "use \"up\" or \"drain\" or \"down\""),
    }
}

/// Returns a sound address for a node that could not be read, so that only that is reported.
fn unread() -> String {
    "tcp://127.0.0.1:1".to_owned()
}

/// Reads a word, or a table for a hash: `{ hash = "path", replicas = 160, ring = "crc32", bound = 1.25 }`.
fn balance(reader: &mut Reader, value: Value<'_>, into: &mut BalanceBy) {
    let words = [
        ("random", BalanceBy::Random),
        ("round_robin", BalanceBy::RoundRobin),
        ("weighted", BalanceBy::Weighted),
        ("least", BalanceBy::Least),
        ("p2c", BalanceBy::TwoChoices),
    ];
    if !matches!(value.value, DeValue::Table(_)) {
        let word = value.value.as_str();
        match words.into_iter().find(|(known, _)| word == Some(known)) {
            Some((_, balance)) => *into = balance,
            None => value.wrong(
                reader,
                "use \"weighted\", \"round_robin\", \"random\", \"least\", \"p2c\", or a table such as { hash = \"ip\" }",
            ),
        }
        return;
    }
    let (span, name) = (value.span.clone(), value.key.clone());
    let Some(mut table) = value.into_table(reader, "") else {
        return;
    };
    let hash = table.take_unplaced("hash");
    let (mut replicas, mut ring, mut bound) = (160, KeyHash::default(), None);
    if let Some(given) = table.get_unplaced(reader, "replicas") {
        replicas = given;
    }
    let words = [("xxh3", KeyHash::Xxh3), ("crc32", KeyHash::Crc32)];
    table.set_word(reader, "ring", "", &words, &mut ring);
    if let Some(given) = table.get_unplaced(reader, "bound") {
        bound = Some(given);
    }
    table.finish(reader);
    let Some(hash) = hash else {
        reader.problem(
            span,
            format!("{name}: it needs `hash`, such as \"ip\" or \"path\""),
        );
        return;
    };
    match hash.value.as_str().and_then(hash_key) {
        Some(key) => {
            *into = BalanceBy::Hash {
                key,
                replicas,
                ring,
                bound,
            };
        }
        None => hash.wrong(
            reader,
            "use \"ip\", \"path\", \"uri\", \"header:NAME\", \"cookie:NAME\" or \"query:NAME\"",
        ),
    }
}

fn hash_key(text: &str) -> Option<HashKey> {
    match text.split_once(':') {
        None => match text {
            "ip" => Some(HashKey::Ip),
            "path" => Some(HashKey::Path),
            "uri" => Some(HashKey::Uri),
            _ => None,
        },
        Some((_, "")) => None,
        Some(("header", name)) => Some(HashKey::Header(name.to_owned())),
        Some(("cookie", name)) => Some(HashKey::Cookie(name.to_owned())),
        Some(("query", name)) => Some(HashKey::Query(name.to_owned())),
        Some(_) => None,
    }
}

/// Reads `{ tcp = true }` or `{ http = "/healthz" }`, with the options of the check.
fn health(reader: &mut Reader, mut table: Table<'_>) -> Option<HealthCheck> {
    let (span, key) = (table.span.clone(), table.key.clone());
    let tcp: Option<bool> = table.get(reader, "tcp", "probe");
    let http: Option<String> = table.get(reader, "http", "probe");
    let mut probe = match (tcp, http) {
        (None | Some(false), Some(path)) => HealthProbe::http(path),
        (Some(true), None) => HealthProbe::Tcp,
        _ => {
            let remedy = "use either http = \"/path\" or tcp = true";
            reader.problem(span, format!("{key}: {remedy}"));
            HealthProbe::Tcp
        }
    };
    if let HealthProbe::Http {
        method,
        host,
        statuses,
        body,
        ..
    } = &mut probe
    {
        table.set(reader, "method", "probe", method);
        table.set(reader, "host", "probe", host);
        table.set(reader, "body", "probe", body);
        if let Some(value) = table.take(reader, "status", "probe") {
            for item in value.into_items(reader, "") {
                match status_range(&item) {
                    Some(range) => statuses.push(range),
                    None => item.wrong(
                        reader,
                        "use a status such as 204, or a range such as \"200-299\"",
                    ),
                }
            }
        }
    }
    let mut check = HealthCheck::new(probe);
    table.set(reader, "interval", "interval", &mut check.interval);
    table.set(reader, "timeout", "timeout", &mut check.timeout);
    table.set(reader, "down_after", "down_after", &mut check.down_after);
    table.set(reader, "up_after", "up_after", &mut check.up_after);
    table.finish(reader);
    Some(check)
}

fn status_range(value: &Value<'_>) -> Option<(u16, u16)> {
    let (first, last) = match &value.value {
        DeValue::Integer(status) => {
            let status = u16::from_str_radix(status.as_str(), status.radix()).ok()?;
            (status, status)
        }
        DeValue::String(range) => {
            let (first, last) = range.split_once('-')?;
            (first.trim().parse().ok()?, last.trim().parse().ok()?)
        }
        _ => return None,
    };
    (100 <= first && first <= last && last <= 599).then_some((first, last))
}

fn ejection(reader: &mut Reader, mut table: Table<'_>, pool: &mut PoolSettings) {
    let mut ejection = pool.ejection.clone();
    if let Some(failures) = table.get::<u32>(reader, "failures", "failures") {
        ejection = ejection.failures(failures);
    }
    if let Some(base) = table.get(reader, "time", "base") {
        ejection = ejection.base(base);
    }
    if let Some(max) = table.get(reader, "max_time", "max") {
        ejection = ejection.max(max);
    }
    if let Some(value) = table.take(reader, "max_percent", "max_percent") {
        match value.read::<u8>(reader) {
            Some(percent) if percent > 100 => value.wrong(reader, "use 0 to 100"),
            Some(percent) => ejection = ejection.max_percent(percent),
            None => {}
        }
    }
    pool.ejection = ejection;
    table.set(reader, "on_5xx", "on_5xx", &mut pool.eject_5xx);
    table.finish(reader);
}

fn timeouts(reader: &mut Reader, mut table: Table<'_>, into: &mut UpstreamTimeouts) {
    table.set(reader, "connect", "connect", &mut into.connect);
    table.set(
        reader,
        "tls_handshake",
        "tls_handshake",
        &mut into.tls_handshake,
    );
    table.set(
        reader,
        "response_head",
        "response_head",
        &mut into.response_head,
    );
    table.set(reader, "body_idle", "body_idle", &mut into.body_idle);
    table.set(reader, "request", "request", &mut into.request);
    table.set(
        reader,
        "expect_continue",
        "expect_continue",
        &mut into.expect_continue,
    );
    table.set(reader, "tunnel_idle", "tunnel_idle", &mut into.tunnel_idle);
    table.finish(reader);
}

fn connections(reader: &mut Reader, table: &mut Table<'_>, pool: &mut PoolSettings) {
    let into = &mut pool.connections;
    table.set(
        reader,
        "max_idle",
        "connections.max_idle",
        &mut into.max_idle,
    );
    table.set(
        reader,
        "idle_timeout",
        "connections.idle_timeout",
        &mut into.idle_timeout,
    );
    table.set(
        reader,
        "max_lifetime",
        "connections.max_lifetime",
        &mut into.max_lifetime,
    );
    table.set(
        reader,
        "max_requests",
        "connections.max_requests",
        &mut into.max_requests,
    );
    let most = &mut into.max_connections;
    table.set(
        reader,
        "max_connections",
        "connections.max_connections",
        most,
    );
    table.set(
        reader,
        "max_pending",
        "connections.max_pending",
        &mut into.max_pending,
    );
    let pending = &mut into.pending_timeout;
    table.set(
        reader,
        "pending_timeout",
        "connections.pending_timeout",
        pending,
    );
    let into = &mut pool.limits;
    table.set_size(reader, "max_head", "limits.max_head", &mut into.max_head);
    table.set(
        reader,
        "max_headers",
        "limits.max_headers",
        &mut into.max_headers,
    );
}

fn retries(reader: &mut Reader, table: &mut Table<'_>, pool: &mut PoolSettings) {
    let into = &mut pool.retries;
    table.set(reader, "retries", "retries.max", &mut into.max);
    if let Some(Size(bytes)) = table.get(reader, "retry_body", "retries.body") {
        into.body = usize::try_from(bytes).unwrap_or(usize::MAX);
    }
    table.set(reader, "retry_on", "retries.statuses", &mut into.statuses);
    if let Some(mut budget) = table.table(reader, "retry_budget", "retries") {
        budget.set(
            reader,
            "percent",
            "budget_percent",
            &mut into.budget_percent,
        );
        budget.set(reader, "floor", "budget_floor", &mut into.budget_floor);
        budget.finish(reader);
    }
}

#[cfg(feature = "tls")]
fn tls(reader: &mut Reader, mut table: Table<'_>) -> Option<crate::tls::TlsClient> {
    use crate::tls::{Pin, Roots, TlsClient};

    let (span, key) = (table.span.clone(), table.key.clone());
    let ca: Option<String> = table.get(reader, "ca", "ca");
    let name: Option<String> = table.get(reader, "name", "name");
    let mut verify = true;
    table.set(reader, "verify", "verify", &mut verify);
    let pins: Vec<String> = table.get(reader, "pins", "pins").unwrap_or_default();
    let identity = super::identity(reader, &mut table, "tls", false);
    table.finish(reader);
    if ca.is_some() && !verify {
        let remedy = "`ca` has no effect with `verify = false`; remove one of them";
        reader.problem(span.clone(), format!("{key}: {remedy}"));
    }
    let built = (|| {
        let mut client = match (ca, verify) {
            (_, false) => TlsClient::without_verification()?,
            (Some(ca), true) => TlsClient::new(&Roots::from_pem_file(reader.path(&ca))?)?,
            (None, true) => TlsClient::new(&Roots::native()?)?,
        };
        client = client.alpn(&["http/1.1"]);
        if !pins.is_empty() {
            let pin = |pin: &String| match pin.starts_with("sha256//") {
                true => pin.parse(),
                false => Pin::from_pem_file(reader.path(pin)),
            };
            client = client.pins(pins.iter().map(pin).collect::<Result<Vec<_>, _>>()?);
        }
        if let Some(identity) = identity {
            client = client.identity(identity);
        }
        match name {
            Some(name) => client.server_name(&name),
            None => Ok(client),
        }
    })();
    built
        .map_err(|error| reader.problem(span, format!("{key}: {error}")))
        .ok()
}
