//! The keys of due's configuration, and what they set.

mod crypto;
mod grpc;
mod http;
mod log;
mod servers;

use self::crypto::KEYS;
use self::grpc::GRPC;
use self::http::HTTP;
use self::log::LOG;
use self::servers::{CLIENTS, PACKET, RESUME, ROOT, SERVER};
use super::Config;
use super::value::{Problem, Value};

/// The effect of a key on `T`.
enum Effect<T> {
    Sets(fn(&mut T, Value<'_>) -> Result<(), Problem>),
    /// None, for this reason.
    None(&'static str),
}

type Keys<T> = &'static [(&'static str, Effect<T>)];

/// The parts of due that have keys of their own, which are for other programs or the application.
const ELSEWHERE: [&str; 15] = [
    "cache",
    "config",
    "eventbus",
    "locate",
    "lock",
    "log.aliyun",
    "log.logrus",
    "log.tencent",
    "log.zap",
    "network.kcp.client",
    "network.tcp.client",
    "network.ws.client",
    "registry",
    "tls",
    "transport.rpcx",
];

const SERVERS: [&str; 4] = ["gate", "node", "mesh", "client"];
const TRANSPORTS: [&str; 3] = ["tcp", "ws", "kcp"];

/// The result of applying a key.
pub(super) enum Applied {
    Done,
    /// It has no meaning here. The path is that of the key, or of the table that as a whole has none.
    NoEffect {
        path: String,
        reason: &'static str,
    },
    Unknown,
}

/// Sets what the key at `path` sets.
///
/// # Errors
///
/// The problem of the value.
pub(super) fn apply(config: &mut Config, path: &str, value: Value<'_>) -> Result<Applied, Problem> {
    if let Some(part) = ELSEWHERE.iter().find(|part| is_in(path, part)) {
        let reason = match *part {
            "locate" => "set it in the program: `.locator(RedisLocator::new(…))`, for example",
            "registry" => "set it in the program: `.registry(EtcdRegistry::new(…))`, for example",
            _ => "no part of epicycle reads it from here",
        };
        let path = format!("{part}.*");
        return Ok(Applied::NoEffect { path, reason });
    }
    if let Some(key) = path.strip_prefix("cluster.gate.resume.") {
        return run(RESUME, &mut config.resume, key, path, value);
    }
    if let Some(key) = path.strip_prefix("http.") {
        return run(HTTP, &mut config.http, key, path, value);
    }
    if let Some(key) = path.strip_prefix("log.") {
        return run(LOG, &mut config.log, key, path, value);
    }
    if let Some(key) = path.strip_prefix("transport.grpc.") {
        return run(GRPC, &mut config.grpc, key, path, value);
    }
    if let Some((keys, key)) = crypto::table(&mut config.crypto, path) {
        return run(KEYS, keys, key, path, value);
    }
    if let Some(rest) = path.strip_prefix("cluster.")
        && let Some((kind, key)) = rest.split_once('.')
        && let Some(server) = config.server_mut(kind)
    {
        if let Some(name) = key.strip_prefix("metadata.") {
            server
                .metadata
                .insert(name.to_owned(), value.text()?.to_owned());
            return Ok(Applied::Done);
        }
        return run(SERVER, server, key, path, value);
    }
    if let Some(rest) = path.strip_prefix("network.")
        && let Some((transport, key)) = rest.split_once(".server.")
        && let Some(clients) = config.clients_mut(transport)
    {
        return run(CLIENTS, clients, key, path, value);
    }
    if let Some(key) = path.strip_prefix("packet.") {
        return run(PACKET, &mut config.packet, key, path, value);
    }
    run(ROOT, config, path, path, value)
}

/// Returns the paths of all keys.
pub(super) fn all() -> Vec<String> {
    let names = |prefix: &str, keys: &mut dyn Iterator<Item = &'static str>| -> Vec<String> {
        keys.map(|key| format!("{prefix}{key}")).collect()
    };
    let mut paths = names("", &mut ROOT.iter().map(|key| key.0));
    paths.extend(names("packet.", &mut PACKET.iter().map(|key| key.0)));
    for server in SERVERS {
        let prefix = format!("cluster.{server}.");
        paths.extend(names(&prefix, &mut SERVER.iter().map(|key| key.0)));
    }
    paths.extend(names(
        "cluster.gate.resume.",
        &mut RESUME.iter().map(|key| key.0),
    ));
    paths.extend(names("http.", &mut HTTP.iter().map(|key| key.0)));
    paths.extend(names("log.", &mut LOG.iter().map(|key| key.0)));
    paths.extend(names("transport.grpc.", &mut GRPC.iter().map(|key| key.0)));
    for table in crypto::TABLES {
        paths.extend(names(table, &mut KEYS.iter().map(|key| key.0)));
    }
    for transport in TRANSPORTS {
        let prefix = format!("network.{transport}.server.");
        paths.extend(names(&prefix, &mut CLIENTS.iter().map(|key| key.0)));
    }
    paths
}

/// Returns true if the key is in a table of which this module knows all keys.
pub(super) fn is_ours(path: &str) -> bool {
    [
        "cluster",
        "crypto",
        "http",
        "log",
        "network",
        "packet",
        "task",
        "transport",
    ]
    .iter()
    .any(|table| is_in(path, table))
}

fn is_in(path: &str, table: &str) -> bool {
    path.strip_prefix(table)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

fn run<T>(
    keys: Keys<T>,
    into: &mut T,
    key: &str,
    path: &str,
    value: Value<'_>,
) -> Result<Applied, Problem> {
    match keys.iter().find(|(name, _)| *name == key) {
        Some((_, Effect::Sets(apply))) => apply(into, value).map(|()| Applied::Done),
        Some((_, Effect::None(reason))) => Ok(Applied::NoEffect {
            path: path.to_owned(),
            reason,
        }),
        None => Ok(Applied::Unknown),
    }
}

fn set<T>(field: &mut Option<T>, value: Option<T>) -> Result<(), Problem> {
    *field = value;
    Ok(())
}
