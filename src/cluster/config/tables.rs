//! The tables of a configuration.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use log::{Level, LevelFilter};

use crate::cluster::codec::Codec;
use crate::cluster::dispatch::Policy;
use crate::codec::ByteOrder;

/// The format of packets.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct PacketConfig {
    /// `byteOrder`.
    pub byte_order: Option<ByteOrder>,
    /// `routeBytes`.
    pub route_bytes: Option<usize>,
    /// `seqBytes`.
    pub seq_bytes: Option<usize>,
    /// `bufferBytes`: the most bytes of a packet's data.
    pub max_data: Option<usize>,
    /// `heartbeatTime`.
    pub heartbeat_time: Option<bool>,
}

/// A server, or a client, in its cluster.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ServerConfig {
    /// `id`.
    pub id: Option<String>,
    /// `name`: the alias.
    pub name: Option<String>,
    /// `addr`: the address of its links, such as `:7001`.
    pub addr: Option<String>,
    /// `expose`: the host that others dial.
    pub expose: Option<String>,
    /// `codec`.
    pub codec: Option<Codec>,
    /// `dispatch`.
    pub dispatch: Option<Policy>,
    /// `weight`.
    pub weight: Option<u32>,
    /// `callTimeout`, or `timeout`.
    pub call_timeout: Option<Duration>,
    /// `dialTimeout`: the time within which a peer must have answered the opening of a link.
    pub dial_timeout: Option<Duration>,
    /// `metadata`.
    pub metadata: BTreeMap<String, String>,
}

/// Users that may come back to a gate. It is off if nothing is set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ResumeConfig {
    /// `window`: the time within which a user can come back.
    pub window: Option<Duration>,
    /// `buffer`: the bytes of pushes that are kept for a user.
    pub buffer: Option<usize>,
    /// `lifetime` of a token.
    pub lifetime: Option<Duration>,
    /// `maxUsers` that are waited for.
    pub max_users: Option<usize>,
    /// `maxBytes` of pushes that are kept for all users.
    pub max_bytes: Option<usize>,
}

/// A listener of a gate for clients.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ClientsConfig {
    /// `addr`, such as `:3553`.
    pub addr: Option<String>,
    /// `path`, for WebSocket.
    pub path: Option<String>,
    /// `origins`, for WebSocket. `*` is all.
    pub origins: Option<Vec<String>>,
    /// `maxConnNum`.
    pub max_connections: Option<usize>,
    /// `certFile` and `keyFile`.
    pub certificate: CertificateConfig,
    /// `heartbeatInterval`. Zero: none.
    pub heartbeat_interval: Option<Duration>,
    /// `heartbeatMechanism`: true for `tick`, false for `resp`.
    pub heartbeat_ticks: Option<bool>,
    /// `authorizeTimeout`. Zero: none.
    pub authorize_timeout: Option<Duration>,
    /// `mtu`, for KCP.
    pub mtu: Option<usize>,
    /// `noDelay`, for KCP: on if not 0, the interval in milliseconds, the acknowledgements until a segment is sent again, and 1 for no
    /// congestion control.
    pub no_delay: Option<[u16; 4]>,
    /// `ackNoDelay`, for KCP.
    pub ack_no_delay: Option<bool>,
    /// `windowSize`, for KCP: segments that are sent, and received.
    pub window_size: Option<[u16; 2]>,
}

/// A certificate, as files in PEM.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct CertificateConfig {
    /// `certFile`.
    pub cert_file: Option<PathBuf>,
    /// `keyFile`.
    pub key_file: Option<PathBuf>,
}

/// The HTTP server of an application.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct HttpConfig {
    /// `addr`, such as `:8080`.
    pub addr: Option<String>,
    /// `bodyLimit`, in bytes.
    pub max_body: Option<usize>,
    /// `concurrency`: the clients at a time.
    pub max_connections: Option<usize>,
    /// `certFile` and `keyFile`.
    pub certificate: CertificateConfig,
    /// `cors.enable`.
    pub cors: Option<bool>,
    /// `cors.allowOrigins`. Empty is all.
    pub cors_origins: Option<Vec<String>>,
    /// `swagger.enable`.
    pub swagger: Option<bool>,
    /// `swagger.title`.
    pub swagger_title: Option<String>,
    /// `swagger.basePath`.
    pub swagger_path: Option<String>,
}

/// gRPC of meshes and their clients.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct GrpcConfig {
    /// `server.addr`, such as `:9000`.
    pub addr: Option<String>,
    /// `server.certFile` and `server.keyFile`.
    pub certificate: CertificateConfig,
    /// `client.caFile`: the authorities that clients trust.
    pub authorities: Option<PathBuf>,
    /// `client.serverName`: the name in the certificates of servers.
    pub server_name: Option<String>,
}

/// The log of the process.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct LogConfig {
    /// `level`: the least serious records.
    pub level: Option<LevelFilter>,
    /// `stackLevel`: the least serious records with a stack.
    pub stack_level: Option<LevelFilter>,
    /// `timeFormat`, as `chrono` has it. The file has it as Go does.
    pub time_format: Option<String>,
    /// `callFullPath`.
    pub full_path: Option<bool>,
    /// `console`.
    pub console: TerminalConfig,
    /// `file`.
    pub file: TerminalConfig,
    /// `file.path`.
    pub path: Option<PathBuf>,
    /// `file.maxAge`. Zero: files stay.
    pub max_age: Option<Duration>,
    /// `file.maxSize`, in bytes.
    pub max_size: Option<u64>,
    /// `file.rotate`.
    pub rotation: Option<LogRotation>,
}

/// A place that the log is written to.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct TerminalConfig {
    /// True if `terminals` has it.
    pub is_on: Option<bool>,
    /// `terminals.NAME`: only these levels.
    pub levels: Option<Vec<Level>>,
    /// `format`.
    pub format: Option<LogFormat>,
}

/// The form of a record of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// A line of text.
    #[default]
    Text,
    /// A line of JSON.
    Json,
}

/// The time at which a new file of the log begins, besides that at which one is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogRotation {
    /// None.
    #[default]
    None,
    /// Each hour.
    Hour,
    /// Each day.
    Day,
}

/// Ciphers and signers.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct CryptoConfig {
    /// `rsa.encryptor`.
    pub rsa_cipher: KeysConfig,
    /// `rsa.signer`.
    pub rsa_signer: KeysConfig,
    /// `ecc.encryptor`.
    pub ecc_cipher: KeysConfig,
    /// `ecc.signer`.
    pub ecc_signer: KeysConfig,
}

/// The keys of a cipher or a signer, and how it uses them.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct KeysConfig {
    /// `hash`.
    pub hash: Option<String>,
    /// `padding`, of RSA.
    pub padding: Option<String>,
    /// `label`, of RSA.
    pub label: Option<String>,
    /// `delimiter`, of signatures of ECC.
    pub delimiter: Option<String>,
    /// `s1`, of ECC.
    pub s1: Option<String>,
    /// `s2`, of ECC.
    pub s2: Option<String>,
    /// `publicKey`: PEM, as text or as the path of a file.
    pub public_key: Option<String>,
    /// `privateKey`: the same.
    pub private_key: Option<String>,
}

impl fmt::Debug for KeysConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The private key may be here as text.
        f.debug_struct("KeysConfig")
            .field("hash", &self.hash)
            .field("padding", &self.padding)
            .finish_non_exhaustive()
    }
}
