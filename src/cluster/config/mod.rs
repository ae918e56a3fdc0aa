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

mod certificate;
#[cfg(feature = "crypto")]
mod crypto;
mod keys;
mod sources;
mod tables;
mod value;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, io};

use toml::de::DeTable;

use self::keys::Applied;
use self::sources::{Folder, flatten, pairs, read_text};
use self::value::Value;
use super::packet::PacketOptions;
use super::{Error, Mode};
use crate::error::error_messages;
use crate::fault::{lines, nearest};

pub use self::tables::{
    CertificateConfig, ClientsConfig, CryptoConfig, GrpcConfig, HttpConfig, KeysConfig, LogConfig,
    LogFormat, LogRotation, PacketConfig, ResumeConfig, ServerConfig, TerminalConfig,
};
pub use crate::fault::Fault;

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
    /// `http`.
    pub http: HttpConfig,
    /// `transport.grpc`.
    pub grpc: GrpcConfig,
    /// `log`.
    pub log: LogConfig,
    /// `crypto`.
    pub crypto: CryptoConfig,
    warnings: Vec<String>,
    /// The keys of whose lack of meaning was told already.
    told: BTreeSet<String>,
    /// The place of each key that has set something, as a fault without a problem.
    places: BTreeMap<String, Fault>,
    /// The tables of listeners, with the warning for those whose address has not come yet.
    silent: BTreeMap<String, Option<Fault>>,
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

impl Config {
    /// Reads the files, the environment and the flags of this process. Warnings are logged. If this is before the logger of the process
    /// is installed, call [`log_warnings`](Self::log_warnings) behind that.
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
        let (config, faults) = Self::collect(env::vars_os().filter_map(utf8), flags)?;
        config.log_warnings();
        config.unless(faults)
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
        let (config, faults) = Self::collect(environment, flags)?;
        config.unless(faults)
    }

    fn collect(
        environment: impl IntoIterator<Item = (String, String)>,
        flags: impl IntoIterator<Item = String>,
    ) -> Result<(Self, Vec<Fault>), ConfigError> {
        let environment: BTreeMap<String, String> = environment.into_iter().collect();
        let flags = pairs(flags.into_iter().collect());
        let mut flag = flags.iter().rev().filter(|(name, _)| name == "etc");
        let flag = flag.find_map(|(_, folder)| folder.as_ref());
        let given = flag.or(environment.get("DUE_ETC"));
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
        let silent = std::mem::take(&mut config.silent).into_values().flatten();
        config
            .warnings
            .extend(silent.map(|fault| fault.to_string()));
        // The environment and flags, which have no lines, come last.
        faults.sort_by(|a, b| {
            let (a_place, b_place) = ((a.line, a.column), (b.line, b.column));
            (a.line == 0, &a.file, a_place).cmp(&(b.line == 0, &b.file, b_place))
        });
        Ok((config, faults))
    }

    fn unless(self, faults: Vec<Fault>) -> Result<Self, ConfigError> {
        match faults.is_empty() {
            true => Ok(self),
            false => Err(ConfigError::Faults(faults)),
        }
    }

    /// Returns what is no fault and should be known: unknown keys, with the one that may be meant, and keys that have no meaning here.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Logs the [warnings](Self::warnings).
    pub fn log_warnings(&self) {
        for warning in &self.warnings {
            log::warn!(target: "epicycle::cluster", "{warning}");
        }
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

    /// Returns the error for a key whose value cannot be used where it is needed.
    pub(in crate::cluster) fn fault(&self, path: &str, problem: &str) -> Error {
        let place = self.place(path);
        Error::argument("config", format!("{place}{path}: {problem}"))
    }

    /// Returns the file and the line of a key, or nothing if the program has set it.
    pub(in crate::cluster) fn place(&self, path: &str) -> String {
        (self.places.get(path)).map_or_else(String::new, ToString::to_string)
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
        entries.sort_by_key(|(_, value)| value.span().start);
        for (path, value) in entries {
            let place = |problem| Fault::at(&text, file, &value.span(), problem);
            let applied = keys::apply(self, &path, Value::Toml(value.get_ref()));
            self.note_place(&applied, &path, &place);
            self.note_listener(&applied, &path, Some(&place));
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
                self.note_place(&applied, path, &place);
                self.note_listener(&applied, path, None);
                self.note(applied, name, false, place, faults);
            } else if keys::is_ours(&rest.to_ascii_lowercase().replace('_', ".")) {
                let unknown = unknown(name, names.keys().map(String::as_str), '_');
                self.warnings.push(place(unknown).to_string());
            }
        }
    }

    fn take_flags(&mut self, flags: &[(String, Option<String>)], faults: &mut Vec<Fault>) {
        let place = |problem| Fault::whole("flags", problem);
        for (path, text) in flags {
            let Some(text) = text else {
                // The application has flags of its own.
                if path == "etc" || keys::all().contains(path) {
                    let problem = format!("{path} has no value; write --{path}=VALUE");
                    faults.push(place(problem));
                }
                continue;
            };
            let applied = keys::apply(self, path, Value::Text(text));
            self.note_place(&applied, path, &place);
            self.note_listener(&applied, path, None);
            self.note(applied, path, !keys::is_ours(path), place, faults);
        }
    }

    fn note_place(
        &mut self,
        applied: &Result<Applied, String>,
        path: &str,
        place: &dyn Fn(String) -> Fault,
    ) {
        if matches!(applied, Ok(Applied::Done)) {
            self.places.insert(path.to_owned(), place(String::new()));
        }
    }

    /// Notes if the table of a listener in a file has its address. Without one, the rest of it has no effect.
    fn note_listener(
        &mut self,
        applied: &Result<Applied, String>,
        path: &str,
        in_file: Option<&dyn Fn(String) -> Fault>,
    ) {
        let Some((table, key)) = path.rsplit_once('.') else {
            return;
        };
        let is_listener = table.starts_with("network.") && table.ends_with(".server");
        if !is_listener || !matches!(applied, Ok(Applied::Done)) {
            return;
        }
        if key == "addr" {
            self.silent.insert(table.to_owned(), None);
        } else if let Some(place) = in_file
            && !self.silent.contains_key(table)
        {
            let problem =
                format!("{path} has no effect: {table} has no `addr`; add one, such as \":3553\"");
            self.silent.insert(table.to_owned(), Some(place(problem)));
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
                let unknown = unknown(name, paths.iter().map(String::as_str), '.');
                self.warnings.push(place(unknown).to_string());
            }
            Err(problem) => faults.push(place(format!("{name}: {problem}"))),
        }
    }
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

fn unknown<'k>(name: &str, known: impl IntoIterator<Item = &'k str>, separator: char) -> String {
    // The part that the tables have in common is no sign that this key was meant.
    let is_near = |near: &&str| {
        let key = near.rsplit(separator).next().unwrap_or(near);
        strsim::damerau_levenshtein(near, name) <= (key.len() / 3).max(1)
    };
    match nearest(name, known).filter(is_near) {
        Some(near) => format!("{name}: the key is unknown; did you mean `{near}`?"),
        None => format!("{name}: the key is unknown"),
    }
}
