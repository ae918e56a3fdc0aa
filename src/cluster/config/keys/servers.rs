//! The keys of servers and of what they have in common.

use super::Effect::{self, Sets};
use super::{Keys, set};
use crate::cluster::config::value::{Problem, Value};
use crate::cluster::config::{ClientsConfig, Config, PacketConfig, ResumeConfig, ServerConfig};
use crate::cluster::packet::PacketOptions;
use crate::codec::ByteOrder;

/// The keys that are in no table of servers.
pub(super) const ROOT: Keys<Config> = &[
    (
        "pid",
        Sets(|config, value| set(&mut config.pid_file, value.path()?)),
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

pub(super) const PACKET: Keys<PacketConfig> = &[
    (
        "byteOrder",
        Sets(|packet, value| set(&mut packet.byte_order, byte_order(value)?)),
    ),
    (
        "routeBytes",
        Sets(|packet, value| {
            let bytes = value.number()?;
            PacketOptions::check_route_bytes(bytes)?;
            set(&mut packet.route_bytes, Some(bytes))
        }),
    ),
    (
        "seqBytes",
        Sets(|packet, value| {
            let bytes = value.number()?;
            PacketOptions::check_seq_bytes(bytes)?;
            set(&mut packet.seq_bytes, Some(bytes))
        }),
    ),
    (
        "bufferBytes",
        Sets(|packet, value| {
            let bytes = value.size()?;
            PacketOptions::check_max_data(bytes)?;
            set(&mut packet.max_data, Some(bytes))
        }),
    ),
    (
        "heartbeatTime",
        Sets(|packet, value| set(&mut packet.heartbeat_time, Some(value.flag()?))),
    ),
];

/// The keys of `cluster.gate.resume`, which due does not have.
pub(super) const RESUME: Keys<ResumeConfig> = &[
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
pub(super) const SERVER: Keys<ServerConfig> = &[
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
        Sets(|server, value| set(&mut server.addr, value.addr()?)),
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
pub(super) const CLIENTS: Keys<ClientsConfig> = &[
    (
        "addr",
        Sets(|clients, value| set(&mut clients.addr, value.addr()?)),
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
        Sets(|clients, value| match value.number()? {
            0 => Err("0 would close every client at once; use 1 or more".to_owned()),
            max => set(&mut clients.max_connections, Some(max)),
        }),
    ),
    (
        "certFile",
        Sets(|clients, value| set(&mut clients.certificate.cert_file, value.path()?)),
    ),
    (
        "keyFile",
        Sets(|clients, value| set(&mut clients.certificate.key_file, value.path()?)),
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
