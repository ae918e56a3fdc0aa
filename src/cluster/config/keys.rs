//! The keys of due's configuration, and what they set.

use super::value::{Problem, Value};
use super::{ClientsConfig, Config, PacketConfig, ResumeConfig, ServerConfig};
use crate::codec::ByteOrder;

/// The effect of a key on `T`.
enum Effect<T> {
    Sets(fn(&mut T, Value<'_>) -> Result<(), Problem>),
    /// None, for this reason.
    None(&'static str),
}

use Effect::Sets;

type Keys<T> = &'static [(&'static str, Effect<T>)];

/// The keys that are in no table of servers.
const ROOT: Keys<Config> = &[
    (
        "pid",
        Sets(|config, value| set(&mut config.pid_file, value.optional()?.map(Into::into))),
    ),
    (
        "mode",
        Sets(|config, value| set(&mut config.mode, value.named()?)),
    ),
    (
        "shutdownMaxWaitTime",
        Sets(|config, value| set(&mut config.shutdown_max_wait, Some(value.time()?))),
    ),
    ("timezone", Effect::None("times are those of the system")),
    (
        "task.size",
        Effect::None("work that blocks has a pool of threads with a bounded queue"),
    ),
    (
        "task.nonblocking",
        Effect::None("work that blocks has a pool of threads with a bounded queue"),
    ),
    (
        "task.disablePurge",
        Effect::None("work that blocks has a pool of threads with a bounded queue"),
    ),
];

const PACKET: Keys<PacketConfig> = &[
    (
        "byteOrder",
        Sets(|packet, value| set(&mut packet.byte_order, byte_order(value)?)),
    ),
    (
        "routeBytes",
        Sets(|packet, value| set(&mut packet.route_bytes, Some(value.number()?))),
    ),
    (
        "seqBytes",
        Sets(|packet, value| set(&mut packet.seq_bytes, Some(value.number()?))),
    ),
    (
        "bufferBytes",
        Sets(|packet, value| set(&mut packet.max_data, Some(value.size()?))),
    ),
    (
        "heartbeatTime",
        Sets(|packet, value| set(&mut packet.heartbeat_time, Some(value.flag()?))),
    ),
];

/// The keys of `cluster.gate.resume`, which due does not have.
const RESUME: Keys<ResumeConfig> = &[
    (
        "window",
        Sets(|resume, value| set(&mut resume.window, Some(value.time()?))),
    ),
    (
        "buffer",
        Sets(|resume, value| set(&mut resume.buffer, Some(value.size()?))),
    ),
    (
        "lifetime",
        Sets(|resume, value| set(&mut resume.lifetime, Some(value.time()?))),
    ),
    (
        "maxUsers",
        Sets(|resume, value| set(&mut resume.max_users, Some(value.number()?))),
    ),
    (
        "maxBytes",
        Sets(|resume, value| set(&mut resume.max_bytes, Some(value.size()?))),
    ),
];

/// The keys of `cluster.gate`, `cluster.node`, `cluster.mesh` and `cluster.client`.
const SERVER: Keys<ServerConfig> = &[
    (
        "id",
        Sets(|server, value| set(&mut server.id, value.optional()?)),
    ),
    (
        "name",
        Sets(|server, value| set(&mut server.name, value.optional()?)),
    ),
    (
        "addr",
        Sets(|server, value| set(&mut server.addr, value.optional()?)),
    ),
    ("expose", Sets(expose)),
    (
        "codec",
        Sets(|server, value| set(&mut server.codec, value.named()?)),
    ),
    (
        "dispatch",
        Sets(|server, value| set(&mut server.dispatch, value.named()?)),
    ),
    (
        "weight",
        Sets(|server, value| set(&mut server.weight, Some(value.number()?))),
    ),
    (
        "callTimeout",
        Sets(|server, value| set(&mut server.call_timeout, Some(value.time()?))),
    ),
    (
        "timeout",
        Sets(|server, value| set(&mut server.call_timeout, Some(value.time()?))),
    ),
    (
        "dialTimeout",
        Sets(|server, value| set(&mut server.dial_timeout, Some(value.time()?))),
    ),
    (
        "connNum",
        Effect::None("each reactor has one link to each server"),
    ),
    (
        "dialRetryTimes",
        Effect::None("a server is dialled as long as it is registered"),
    ),
    (
        "writeTimeout",
        Effect::None("a link that is not read is bounded in bytes, by `LaneOptions`"),
    ),
    (
        "writeQueueSize",
        Effect::None("a link that is not read is bounded in bytes, by `LaneOptions`"),
    ),
    (
        "faultRecoveryTime",
        Effect::None("a link is dialled again after 50 ms to 5 s"),
    ),
    ("encryptor", Effect::None("use TLS")),
    ("decryptor", Effect::None("use TLS")),
];

/// The keys of `network.tcp.server` and its like.
const CLIENTS: Keys<ClientsConfig> = &[
    (
        "addr",
        Sets(|clients, value| set(&mut clients.addr, value.optional()?)),
    ),
    (
        "path",
        Sets(|clients, value| set(&mut clients.path, value.optional()?)),
    ),
    (
        "origins",
        Sets(|clients, value| set(&mut clients.origins, Some(value.list()?))),
    ),
    (
        "maxConnNum",
        Sets(|clients, value| set(&mut clients.max_connections, Some(value.number()?))),
    ),
    (
        "certFile",
        Sets(|clients, value| set(&mut clients.cert_file, value.optional()?.map(Into::into))),
    ),
    (
        "keyFile",
        Sets(|clients, value| set(&mut clients.key_file, value.optional()?.map(Into::into))),
    ),
    (
        "heartbeatInterval",
        Sets(|clients, value| set(&mut clients.heartbeat_interval, Some(value.time()?))),
    ),
    (
        "heartbeatMechanism",
        Sets(|clients, value| set(&mut clients.heartbeat_ticks, ticks(value)?)),
    ),
    (
        "authorizeTimeout",
        Sets(|clients, value| set(&mut clients.authorize_timeout, Some(value.time()?))),
    ),
    (
        "mtu",
        Sets(|clients, value| set(&mut clients.mtu, Some(value.size()?))),
    ),
    (
        "noDelay",
        Sets(|clients, value| set(&mut clients.no_delay, Some(value.numbers()?))),
    ),
    (
        "ackNoDelay",
        Sets(|clients, value| set(&mut clients.ack_no_delay, Some(value.flag()?))),
    ),
    (
        "windowSize",
        Sets(|clients, value| set(&mut clients.window_size, Some(value.numbers()?))),
    ),
    (
        "readBuffer",
        Effect::None("the system's default holds, which `net.core.rmem_default` sets"),
    ),
    (
        "writeBuffer",
        Effect::None("the system's default holds, which `net.core.wmem_default` sets"),
    ),
    (
        "handshakeTimeout",
        Effect::None("a client has 10 s to ask for its WebSocket"),
    ),
    (
        "writeTimeout",
        Effect::None("a client that does not read is bounded in bytes, by `outbound_limit`"),
    ),
    (
        "writeQueueSize",
        Effect::None("a client that does not read is bounded in bytes, by `outbound_limit`"),
    ),
];

/// The parts of due that have keys of their own, which are for other programs or the application.
const ELSEWHERE: [&str; 14] = [
    "cache",
    "config",
    "crypto",
    "eventbus",
    "http",
    "locate",
    "lock",
    "log",
    "network.kcp.client",
    "network.tcp.client",
    "network.ws.client",
    "registry",
    "tls",
    "transport",
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
        let reason = "no part of epicycle reads it from here";
        let path = format!("{part}.*");
        return Ok(Applied::NoEffect { path, reason });
    }
    if let Some(key) = path.strip_prefix("cluster.gate.resume.") {
        return run(RESUME, &mut config.resume, key, path, value);
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
    for transport in TRANSPORTS {
        let prefix = format!("network.{transport}.server.");
        paths.extend(names(&prefix, &mut CLIENTS.iter().map(|key| key.0)));
    }
    paths
}

/// Returns true if the key is in a table of which this module knows all keys.
pub(super) fn is_ours(path: &str) -> bool {
    ["cluster", "network", "packet", "task"]
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
        Some((_, Sets(apply))) => apply(into, value).map(|()| Applied::Done),
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

/// Reads the host that others dial. With due it tells whether to use the public address, which is unknown here.
fn expose(server: &mut ServerConfig, value: Value<'_>) -> Result<(), Problem> {
    server.expose = match value.flag() {
        Ok(false) => None,
        Ok(true) => {
            return Err(
                "write the host that other servers reach, such as \"203.0.113.7\"".to_owned(),
            );
        }
        Err(_) => value.optional()?,
    };
    Ok(())
}

fn byte_order(value: Value<'_>) -> Result<Option<ByteOrder>, Problem> {
    match value.text()? {
        "big" => Ok(Some(ByteOrder::Big)),
        "little" => Ok(Some(ByteOrder::Little)),
        other => Err(format!("{other:?} is not one of big, little")),
    }
}

fn ticks(value: Value<'_>) -> Result<Option<bool>, Problem> {
    match value.text()? {
        "resp" => Ok(Some(false)),
        "tick" => Ok(Some(true)),
        other => Err(format!("{other:?} is not one of resp, tick")),
    }
}
