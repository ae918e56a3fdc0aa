//! The configuration of a process, with the keys of due: from files, the environment and flags.
//!
//! ```
//! use epicycle::cluster::config::Config;
//! # let folder = std::env::temp_dir().join(format!("epicycle-config-{}", std::process::id()));
//! # std::fs::create_dir_all(&folder)?;
//! # std::fs::write(folder.join("etc.toml"), "[cluster.gate]\nname = \"hall\"\ncallTimeout = \"2s\"\n")?;
//! // etc.toml: [cluster.gate]
//! //           name = "hall"
//! //           callTimeout = "2s"
//! let environment = [("EPICYCLE_CLUSTER_GATE_CALL_TIMEOUT".to_owned(), "1s".to_owned())];
//! let flags = [format!("--etc={}", folder.display()), "--mode=release".to_owned()];
//! let config = Config::read(environment, flags)?;
//! assert_eq!(config.gate.name.as_deref(), Some("hall"));
//! assert_eq!(config.gate.call_timeout, Some(std::time::Duration::from_secs(1)));
//! # std::fs::remove_dir_all(&folder)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`Config::load`] reads those of this process. A later source has precedence:
//!
//! 1. `*.toml` in the folder `etc`, or in the one that the environment names in `DUE_ETC`, or the flag `--etc`; in the order of their
//!    names.
//! 2. The environment: `EPICYCLE_CLUSTER_GATE_CALL_TIMEOUT` is `cluster.gate.callTimeout`. `DUE_MODE` is `mode`.
//! 3. Flags: `--cluster.gate.callTimeout=1s`, or the value as the next argument.
//! 4. What the program sets after it has given the configuration to a builder.
//!
//! Times are texts with a unit, such as `10s`. Sizes are bytes, or texts such as `4K`. Unknown keys and keys without a meaning here are
//! [warnings](Config::warnings). Files other than `etc.toml` may have tables of the application.

mod keys;
mod value;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, fs, io};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use self::keys::Applied;
use self::value::Value;
use super::codec::Codec;
use super::dispatch::Policy;
use super::packet::PacketOptions;
use super::{Error, Mode};
use crate::codec::ByteOrder;
use crate::error::error_messages;
use crate::fault::{lines, nearest};
use crate::sys::files::read_at_most;

pub use crate::fault::Fault;

/// The most bytes of a file.
const MAX_FILE: u64 = 8 << 20;

/// The configuration of a process. `None` is a key that was not given, or is an empty text.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Config {
    /// `pid`: the file for the number of the process.
    pub pid_file: Option<PathBuf>,
    /// `mode`.
    pub mode: Option<Mode>,
    /// `shutdownMaxWaitTime`. Zero is no limit.
    pub shutdown_max_wait: Option<Duration>,
    /// `packet`.
    pub packet: PacketConfig,
    /// `cluster.gate`.
    pub gate: ServerConfig,
    /// `cluster.gate.resume`.
    pub resume: ResumeConfig,
    /// `cluster.node`.
    pub node: ServerConfig,
    /// `cluster.mesh`.
    pub mesh: ServerConfig,
    /// `cluster.client`.
    pub client: ServerConfig,
    /// `network.tcp.server`.
    pub tcp: ClientsConfig,
    /// `network.ws.server`.
    pub ws: ClientsConfig,
    /// `network.kcp.server`.
    pub kcp: ClientsConfig,
    warnings: Vec<String>,
    /// The keys of whose lack of meaning was told already.
    told: BTreeSet<String>,
}

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
    /// `certFile`.
    pub cert_file: Option<PathBuf>,
    /// `keyFile`.
    pub key_file: Option<PathBuf>,
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

/// The reason why a configuration cannot be used.
#[non_exhaustive]
pub enum ConfigError {
    /// A file or the folder cannot be read.
    Read {
        /// The path.
        file: PathBuf,
        /// The error of the kernel.
        source: io::Error,
    },
    /// Values have faults. There is at least one. The file of a fault is `environment` or `flags` if it is in none.
    Faults(Vec<Fault>),
}

error_messages! {
    ConfigError {
        Self::Read { file, source } => "cannot read {}: {source}" (file.display()),
        Self::Faults(faults) => "{}" (lines(faults)),
    }
    causes {
        Self::Read { source, .. } => source,
    }
}

/// Where the files are, and whether they may be missing.
struct Folder {
    path: PathBuf,
    is_given: bool,
}

impl Config {
    /// Reads the files, the environment and the flags of this process. Warnings are logged.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub fn load() -> Result<Self, ConfigError> {
        let utf8 = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        let flags = env::args_os().skip(1);
        let flags = flags.filter_map(|flag| flag.into_string().ok());
        let config = Self::read(env::vars_os().filter_map(utf8), flags)?;
        for warning in &config.warnings {
            log::warn!(target: "epicycle::cluster", "{warning}");
        }
        Ok(config)
    }

    /// Reads the configuration from the files of the folder that `environment` or `flags` name, or of `etc`, then from these
    /// variables and flags.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Read`] if a file or a folder that was named cannot be read, and [`ConfigError::Faults`] with all faults.
    pub fn read(
        environment: impl IntoIterator<Item = (String, String)>,
        flags: impl IntoIterator<Item = String>,
    ) -> Result<Self, ConfigError> {
        let environment: BTreeMap<String, String> = environment.into_iter().collect();
        let flags = pairs(flags.into_iter().collect());
        let flag = flags.iter().rev().find(|(name, _)| name == "etc");
        let given = flag
            .map(|(_, folder)| folder)
            .or(environment.get("DUE_ETC"));
        let folder = Folder {
            path: given.map_or("etc".into(), Into::into),
            is_given: given.is_some(),
        };

        let (mut config, mut faults) = (Self::default(), Vec::new());
        for file in folder.files()? {
            config.take_file(&file, &mut faults)?;
        }
        config.take_environment(&environment, &mut faults);
        config.take_flags(&flags, &mut faults);
        if let Err(error) = config.packet_options() {
            faults.push(Fault::whole("packet", error.to_string()));
        }
        match faults.is_empty() {
            true => Ok(config),
            false => Err(ConfigError::Faults(faults)),
        }
    }

    /// Returns what is no fault and should be known: unknown keys, with the one that may be meant, and keys that have no meaning here.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Returns the format of packets.
    ///
    /// # Errors
    ///
    /// As [`PacketOptionsBuilder::build`](super::packet::PacketOptionsBuilder::build), but not after [`read`](Self::read).
    pub fn packet_options(&self) -> Result<PacketOptions, Error> {
        let (packet, mut options) = (&self.packet, PacketOptions::builder());
        if let Some(order) = packet.byte_order {
            options = options.byte_order(order);
        }
        if let Some(bytes) = packet.route_bytes {
            options = options.route_bytes(bytes);
        }
        if let Some(bytes) = packet.seq_bytes {
            options = options.seq_bytes(bytes);
        }
        if let Some(bytes) = packet.max_data {
            options = options.max_data(bytes);
        }
        options
            .heartbeat_time(packet.heartbeat_time.unwrap_or(false))
            .build()
    }

    fn server_mut(&mut self, kind: &str) -> Option<&mut ServerConfig> {
        match kind {
            "gate" => Some(&mut self.gate),
            "node" => Some(&mut self.node),
            "mesh" => Some(&mut self.mesh),
            "client" => Some(&mut self.client),
            _ => None,
        }
    }

    fn clients_mut(&mut self, transport: &str) -> Option<&mut ClientsConfig> {
        match transport {
            "tcp" => Some(&mut self.tcp),
            "ws" => Some(&mut self.ws),
            "kcp" => Some(&mut self.kcp),
            _ => None,
        }
    }

    fn take_file(&mut self, file: &Path, faults: &mut Vec<Fault>) -> Result<(), ConfigError> {
        let text = read_text(file)?;
        let (document, errors) = DeTable::parse_recoverable(&text);
        for error in &errors {
            let span = error.span().unwrap_or(0..0);
            let problem = format!("this is no TOML: {}", error.message());
            faults.push(Fault::at(&text, file, &span, problem));
        }
        if !errors.is_empty() {
            return Ok(());
        }
        let is_main = file.file_name().is_some_and(|name| name == "etc.toml");
        let mut entries = Vec::new();
        flatten("", document.get_ref(), &mut entries);
        for (path, value) in entries {
            let place = |problem| Fault::at(&text, file, &value.span(), problem);
            let applied = keys::apply(self, &path, Value::Toml(value.get_ref()));
            let may_be_another = !is_main && !keys::is_ours(&path);
            self.note(applied, &path, may_be_another, place, faults);
        }
        Ok(())
    }

    fn take_environment(
        &mut self,
        environment: &BTreeMap<String, String>,
        faults: &mut Vec<Fault>,
    ) {
        let place = |problem| Fault::whole("environment", problem);
        if let Some(mode) = environment.get("DUE_MODE") {
            let applied = keys::apply(self, "mode", Value::Text(mode));
            self.note(applied, "DUE_MODE", false, place, faults);
        }
        let paths = keys::all();
        let names: BTreeMap<String, &String> =
            paths.iter().map(|path| (variable(path), path)).collect();
        for (name, text) in environment {
            let Some(rest) = name.strip_prefix("EPICYCLE_") else {
                continue;
            };
            if let Some(path) = names.get(name) {
                let applied = keys::apply(self, path, Value::Text(text));
                self.note(applied, name, false, place, faults);
            } else if keys::is_ours(&rest.to_ascii_lowercase().replace('_', ".")) {
                let unknown = unknown(name, names.keys().map(String::as_str));
                self.warnings.push(place(unknown).to_string());
            }
        }
    }

    fn take_flags(&mut self, flags: &[(String, String)], faults: &mut Vec<Fault>) {
        let place = |problem| Fault::whole("flags", problem);
        for (path, text) in flags {
            let applied = keys::apply(self, path, Value::Text(text));
            // The application has flags of its own.
            self.note(applied, path, !keys::is_ours(path), place, faults);
        }
    }

    /// Notes what became of a key.
    fn note(
        &mut self,
        applied: Result<Applied, String>,
        name: &str,
        may_be_another: bool,
        place: impl Fn(String) -> Fault,
        faults: &mut Vec<Fault>,
    ) {
        match applied {
            Ok(Applied::Done) => {}
            Ok(Applied::NoEffect { path, reason }) => {
                if self.told.insert(path.clone()) {
                    let problem = format!("{path} has no effect: {reason}");
                    self.warnings.push(place(problem).to_string());
                }
            }
            Ok(Applied::Unknown) if may_be_another => {}
            Ok(Applied::Unknown) => {
                let paths = keys::all();
                let unknown = unknown(name, paths.iter().map(String::as_str));
                self.warnings.push(place(unknown).to_string());
            }
            Err(problem) => faults.push(place(format!("{name}: {problem}"))),
        }
    }
}

impl Folder {
    /// Returns the files, in the order of their names.
    fn files(&self) -> Result<Vec<PathBuf>, ConfigError> {
        if self.path.is_file() {
            return Ok(vec![self.path.clone()]);
        }
        let entries = match fs::read_dir(&self.path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !self.is_given => {
                return Ok(Vec::new());
            }
            Err(error) => return Err(self.unreadable(error)),
        };
        let mut files = Vec::new();
        for entry in entries {
            let path = entry.map_err(|error| self.unreadable(error))?.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "toml")
            {
                files.push(path);
            }
        }
        files.sort_unstable();
        Ok(files)
    }

    fn unreadable(&self, source: io::Error) -> ConfigError {
        ConfigError::Read {
            file: self.path.clone(),
            source,
        }
    }
}

fn read_text(file: &Path) -> Result<String, ConfigError> {
    let text = read_at_most(MAX_FILE, file).and_then(|bytes| {
        let too_large = || io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 8 MiB");
        let no_text = |_| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                "it is no text; save it as UTF-8",
            )
        };
        String::from_utf8(bytes.ok_or_else(too_large)?).map_err(no_text)
    });
    text.map_err(|source| ConfigError::Read {
        file: file.to_owned(),
        source,
    })
}

/// Returns all values that are no tables, with their paths. The parser bounds the depth.
fn flatten<'t>(
    prefix: &str,
    table: &'t DeTable<'t>,
    into: &mut Vec<(String, &'t Spanned<DeValue<'t>>)>,
) {
    for (name, value) in table {
        let path = format!("{prefix}{}", name.get_ref());
        match value.get_ref() {
            DeValue::Table(table) => flatten(&format!("{path}."), table, into),
            _ => into.push((path, value)),
        }
    }
}

/// Returns the flags as names and values: those that begin with `--`, whose value is behind `=` or the next argument.
fn pairs(flags: Vec<String>) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    let mut flags = flags.into_iter().peekable();
    while let Some(flag) = flags.next() {
        let Some(flag) = flag.strip_prefix("--") else {
            continue;
        };
        match flag.split_once('=') {
            Some((name, value)) => pairs.push((name.to_owned(), value.to_owned())),
            None if flags.peek().is_some_and(|next| !next.starts_with("--")) => {
                pairs.push((flag.to_owned(), flags.next().unwrap_or_default()));
            }
            None => {}
        }
    }
    pairs
}

/// Returns the variable of a key: `EPICYCLE_CLUSTER_GATE_CALL_TIMEOUT` of `cluster.gate.callTimeout`.
fn variable(path: &str) -> String {
    let mut name = "EPICYCLE_".to_owned();
    for char in path.chars() {
        match char {
            '.' => name.push('_'),
            upper if upper.is_ascii_uppercase() => {
                name.push('_');
                name.push(upper);
            }
            lower => name.push(lower.to_ascii_uppercase()),
        }
    }
    name
}

fn unknown<'k>(name: &str, known: impl IntoIterator<Item = &'k str>) -> String {
    match nearest(name, known) {
        Some(near) => format!("{name}: the key is unknown; did you mean `{near}`?"),
        None => format!("{name}: the key is unknown"),
    }
}
