//! The configuration file: TOML that becomes [`Settings`].
//!
//! The tables are read one by one rather than by serde, which stops at the first fault: a file with several faults is told
//! all of them, each with its line.

mod access;
mod admin;
pub(super) mod json;
mod limit;
mod listen;
mod mirror;
mod nodes;
mod pool;
mod read;
mod route;
mod source;
mod split;

use std::io;
use std::path::{Path, PathBuf};

use toml::de::DeTable;

use self::read::{Reader, Size, Span, Table};
use super::dial::{Via, ViaError};
#[cfg(feature = "tls")]
use super::settings::ListenerKind;
use super::settings::{
    AccessLog, LogFormat, LogTarget, NodeChange, NodeSettings, Problem, Settings,
};
use crate::error::error_messages;
use crate::fault::lines;
use crate::sys::files::read_at_most;

pub use crate::fault::Fault;

/// The most bytes of a configuration file.
const MAX_FILE: u64 = 8 << 20;

/// The faults after which the rest of a file is not told.
const MAX_FAULTS: usize = 100;

/// The reason why a configuration file cannot be used.
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    Read {
        /// The path of the file.
        file: PathBuf,
        /// The error of the kernel.
        source: io::Error,
    },
    /// The file has faults. There is at least one. All of them are listed, or the first hundred.
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

/// Reads a configuration file, and the files that it names, and checks it as a whole.
///
/// # Errors
///
/// [`ConfigError`] with all faults.
pub(super) fn load(path: &Path) -> Result<(Settings, String), ConfigError> {
    let text = load_text(path)?;
    Ok((parse(&text, path)?, text))
}

/// Reads a configuration, and the files that it names, and checks it as a whole. Paths in it are relative to the folder of
/// `path`.
///
/// # Errors
///
/// [`ConfigError`] with all faults.
pub(super) fn parse(text: &str, path: &Path) -> Result<Settings, ConfigError> {
    if text.len() as u64 > MAX_FILE {
        let source = io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 8 MiB");
        let file = path.to_owned();
        return Err(ConfigError::Read { file, source });
    }
    let mut settings = document(text, path, |reader, table| {
        let mut settings = Settings::default();
        whole(reader, table, &mut settings);
        // A setting that could not be read has its default now, and is reported already.
        for problem in settings.problems() {
            reader.problem_at(&problem.place, &problem.problem);
        }
        settings
    })?;
    load_nodes(&mut settings)?;
    // The nodes of these files may not fit the rest.
    match settings.problems() {
        problems if problems.is_empty() => Ok(settings),
        problems => Err(ConfigError::Faults(located(text, path, &problems))),
    }
}

/// Returns problems of the settings of a sound file with their places in it.
pub(super) fn located(text: &str, path: &Path, problems: &[Problem]) -> Vec<Fault> {
    let read = document(text, path, |reader, table| {
        whole(reader, table, &mut Settings::default());
        for problem in problems {
            reader.problem_at(&problem.place, &problem.problem);
        }
    });
    match read {
        Err(ConfigError::Faults(faults)) => faults,
        Ok(()) | Err(ConfigError::Read { .. }) => Vec::new(),
    }
}

/// Reads the files of nodes that pools name.
///
/// # Errors
///
/// [`ConfigError`] with all faults of the first file that has some.
pub(super) fn load_nodes(settings: &mut Settings) -> Result<(), ConfigError> {
    for pool in settings.pools.values_mut() {
        if let Some(path) = &pool.nodes_file {
            pool.nodes = nodes::load(path, pool.uses_tls())?;
        }
    }
    Ok(())
}

/// Reads a configuration that came in a message, as TOML or as JSON. Returns it with its text as TOML. Paths in it are relative
/// to `folder`.
///
/// # Errors
///
/// [`ConfigError`] with all faults. Those of JSON have no line.
pub(super) fn parse_body(
    body: &str,
    is_json: bool,
    folder: &Path,
) -> Result<(Settings, String), ConfigError> {
    let text = match is_json {
        false => body.to_owned(),
        true => toml_of(body)?,
    };
    let path = folder.join(BODY);
    if let Some(at) = json::redaction(&text) {
        let problem = "a secret is redacted here; write the secret itself".to_owned();
        let fault = Fault::at(&text, &path, &(at..at), problem);
        return Err(faults(vec![fault], is_json));
    }
    match parse(&text, &path) {
        Ok(settings) => Ok((settings, text)),
        Err(ConfigError::Faults(found)) => Err(faults(found, is_json)),
        Err(other) => Err(other),
    }
}

/// Reads the change of a node that came in a message, as TOML or as JSON.
///
/// # Errors
///
/// [`ConfigError`] with all faults.
pub(super) fn parse_node_change(body: &str, is_json: bool) -> Result<NodeChange, ConfigError> {
    let text = match is_json {
        false => body.to_owned(),
        true => toml_of(body)?,
    };
    let read = document(&text, Path::new(BODY), |reader, mut table| {
        let mut change = NodeChange {
            weight: table.get_unplaced(reader, "weight"),
            backup: table.get_unplaced(reader, "backup"),
            state: None,
        };
        pool::node_state(reader, &mut table, &mut change.state);
        table.finish(reader);
        change
    });
    read.map_err(|error| match error {
        ConfigError::Faults(found) => faults(found, is_json),
        other => other,
    })
}

/// The name of a message in faults.
const BODY: &str = "body";

fn toml_of(body: &str) -> Result<String, ConfigError> {
    let fault = |line, column, problem| {
        ConfigError::Faults(vec![Fault {
            file: BODY.into(),
            line,
            column,
            problem,
        }])
    };
    let json: serde_json::Value = serde_json::from_str(body).map_err(|error| {
        let problem = format!("this is no JSON: {error}");
        fault(error.line(), error.column(), problem)
    })?;
    json::to_toml(&json).map_err(|problem| fault(0, 0, problem))
}

/// Returns the faults of a message. The lines of what was written as TOML are none of JSON.
fn faults(mut found: Vec<Fault>, is_json: bool) -> ConfigError {
    for fault in &mut found {
        fault.file = BODY.into();
        if is_json {
            (fault.line, fault.column) = (0, 0);
        }
    }
    ConfigError::Faults(found)
}

/// Reads a file of nodes.
///
/// # Errors
///
/// [`ConfigError`] with all faults of the file.
pub(super) fn nodes_of(path: &Path, uses_tls: bool) -> Result<Vec<NodeSettings>, ConfigError> {
    nodes::load(path, uses_tls)
}

/// Reads a node: `10.0.0.1:8080,5` or `http://10.0.0.1:8080`.
///
/// # Errors
///
/// The problem and its remedy.
pub(super) fn node_of(text: &str, uses_tls: bool) -> Result<NodeSettings, String> {
    nodes::node(text, uses_tls)
}

fn load_text(path: &Path) -> Result<String, ConfigError> {
    let text = read_at_most(MAX_FILE, path).and_then(|bytes| {
        let bytes = bytes.ok_or_else(|| {
            let remedy = "it is larger than 8 MiB; a list of nodes can be a `nodes_file`";
            io::Error::new(io::ErrorKind::FileTooLarge, remedy)
        })?;
        String::from_utf8(bytes).map_err(|_| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                "it is no text; save it as UTF-8",
            )
        })
    });
    text.map_err(|source| ConfigError::Read {
        file: path.to_owned(),
        source,
    })
}

/// Makes a value of the text of a file. The paths in it are relative to the folder of `path`.
fn document<T>(
    text: &str,
    path: &Path,
    make: impl FnOnce(&mut Reader, Table<'_>) -> T,
) -> Result<T, ConfigError> {
    let fail = |faults: Vec<(Span, String)>| {
        let faults = faults.into_iter().take(MAX_FAULTS);
        let located = faults.map(|(span, problem)| Fault::at(text, path, &span, problem));
        Err(ConfigError::Faults(located.collect()))
    };
    let (document, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        let faults = errors.iter().map(|error| {
            let span = error.span().unwrap_or(0..0);
            (span, format!("this is no TOML: {}", error.message()))
        });
        return fail(faults.collect());
    }
    let span = document.span();
    let mut reader = Reader::new(path.parent().unwrap_or(Path::new("")));
    let table = Table::new(document.into_inner(), "", "", span);
    let made = make(&mut reader, table);
    match reader.into_problems() {
        problems if problems.is_empty() => Ok(made),
        problems => fail(problems),
    }
}

fn whole(reader: &mut Reader, mut table: Table<'_>, settings: &mut Settings) {
    table.set(reader, "reactors", "reactors", &mut settings.reactors);
    if let Some(admin) = table.table(reader, "admin", "admin") {
        settings.admin = admin::read(reader, admin);
    }
    if let Some(mut drain) = table.table(reader, "drain", "drain") {
        let into = &mut settings.drain;
        drain.set(reader, "grace", "grace", &mut into.grace);
        drain.set(reader, "deadline", "deadline", &mut into.deadline);
        drain.set(
            reader,
            "node_timeout",
            "node_timeout",
            &mut into.node_timeout,
        );
        drain.finish(reader);
    }
    if let Some(mut log) = table.table(reader, "log", "") {
        if let Some(access) = log.table(reader, "access", "access_log") {
            settings.access_log = access_log(reader, access);
        }
        log.finish(reader);
    }
    for table in table.tables(reader, "listen", "listeners") {
        settings.listeners.push(listen::read(reader, table));
    }
    for table in table.tables(reader, "route", "routes") {
        settings.routes.push(route::read(reader, table));
    }
    for (name, table) in table.named_tables(reader, "pool", "pools") {
        settings.pools.insert(name, pool::read(reader, table));
    }
    #[cfg(feature = "tls")]
    offer_no_protocol(settings);
    table.finish(reader);
}

/// Lets the pools of TCP listeners offer no protocol by ALPN: their connections carry any.
#[cfg(feature = "tls")]
fn offer_no_protocol(settings: &mut Settings) {
    let forwarding = settings.listeners.iter();
    let forwarding = forwarding.filter(|listener| listener.kind == ListenerKind::Tcp);
    for name in forwarding.filter_map(|listener| listener.pool.as_ref()) {
        if let Some(pool) = settings.pools.get_mut(name) {
            pool.tls = pool.tls.take().map(|tls| tls.alpn(&[""; 0]));
        }
    }
}

fn access_log(reader: &mut Reader, mut table: Table<'_>) -> Option<AccessLog> {
    let span = table.span.clone();
    let to: Option<String> = table.get(reader, "to", "to");
    let format: Option<String> = table.get(reader, "format", "format");
    let buffer: Option<Size> = table.get(reader, "buffer", "buffer");
    table.finish(reader);
    let Some(to) = to else {
        let remedy = "log.access: it needs `to`: \"stdout\" or the path of a file";
        reader.problem(span, remedy);
        return None;
    };
    let mut log = AccessLog::new(match to.as_str() {
        "stdout" => LogTarget::Stdout,
        path => LogTarget::File(reader.path(path)),
    });
    match format.as_deref() {
        None | Some("json") => {}
        Some("combined") => log.format = LogFormat::Combined,
        Some(template) => log.format = LogFormat::Template(template.to_owned()),
    }
    if let Some(Size(bytes)) = buffer {
        log.buffer = usize::try_from(bytes).unwrap_or(usize::MAX);
    }
    Some(log)
}

/// Reads the address of a proxy. The problem shows none of it, as it may have a password.
fn via(reader: &mut Reader, value: read::Value<'_>) -> Option<Via> {
    match value.value.as_str().map(str::parse) {
        Some(Ok(via)) => Some(via),
        Some(Err(error)) => {
            let error: ViaError = error;
            value.wrong(reader, &error.to_string());
            None
        }
        None => {
            value.wrong(
                reader,
                "write the address of a proxy, such as \"socks5://10.0.0.1:1080\"",
            );
            None
        }
    }
}

/// Reads `cert` and `key`, the files of a certificate.
#[cfg(feature = "tls")]
fn identity(
    reader: &mut Reader,
    table: &mut Table<'_>,
    key_of_table: &str,
    is_needed: bool,
) -> Option<crate::tls::Identity> {
    let span = table.span.clone();
    let cert: Option<String> = table.get(reader, "cert", "cert");
    let key: Option<String> = table.get(reader, "key", "key");
    let (cert, key) = match (cert, key) {
        (Some(cert), Some(key)) => (cert, key),
        (None, None) if !is_needed => return None,
        _ => {
            let remedy = "it needs `cert` and `key`, the paths of PEM files";
            reader.problem(span, format!("{key_of_table}: {remedy}"));
            return None;
        }
    };
    let read = crate::tls::Identity::from_pem_files(reader.path(&cert), reader.path(&key));
    read.map_err(|error| reader.problem(span, format!("{key_of_table}: {error}")))
        .ok()
}
