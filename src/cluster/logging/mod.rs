//! The log of a process: to the console and to files, with the keys of due.
//!
//! Everything in this crate logs by the crate `log`, and so can an application. A program that wants its records elsewhere installs
//! another [`log::Log`], and needs nothing of this.
//!
//! ```
//! use epicycle::cluster::config::Config;
//! use epicycle::cluster::logging::Logger;
//!
//! # let folder = std::env::temp_dir().join(format!("epicycle-logging-{}", std::process::id()));
//! # std::fs::create_dir_all(&folder)?;
//! # let file = folder.join("game.log");
//! // etc.toml: [log]
//! //           terminals = ["file"]
//! //           file.path = "./log/game.log"
//! let flags = ["--log.terminals=file".to_owned(), format!("--log.file.path={}", file.display())];
//! let config = Config::read([], flags)?;
//! Logger::open(&config.log)?.install()?;
//!
//! log::info!("the season begins");
//! assert!(std::fs::read_to_string(&file)?.contains("the season begins"));
//! # std::fs::remove_dir_all(&folder)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | Key | Default | Meaning |
//! |---|---|---|
//! | `level` | `info` | the least serious records: `trace`, `debug`, `info`, `warn`, `error`, `none` |
//! | `terminals` | `["console", "file"]` | as a table, `console = ["error"]`, only these levels |
//! | `stackLevel` | `none` | the least serious records with a stack, which takes milliseconds each. due's is `error` |
//! | `timeFormat` | `2006/01/02 15:04:05.000000` | as Go has it, in local time |
//! | `callFullPath` | false | with the whole path of the source file |
//! | `console.format`, `file.format` | `text` | or `json`: an object a line |
//! | `file.path` | `./log/due.log` | its folder is made |
//! | `file.maxSize` | `100M` | a file that is larger is renamed, and a new one begins |
//! | `file.rotate` | `none` | or `hour`, `day` |
//! | `file.maxAge` | `7d` | renamed files that are older are removed, in whole days; `0` for never |
//!
//! A record is written before the macro returns, so none is lost when the process dies. A record that cannot be written, since the disk
//! is full, for example, is told on standard error.

mod record;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fmt, fs};

use flexi_logger::writers::{ArcFileLogWriter, FileLogWriter, FileLogWriterHandle};
use flexi_logger::{Age, Cleanup, Criterion, FileSpec, Naming, WriteMode};
use log::{Level, LevelFilter, Log, Metadata, Record};

use self::record::Form;
use super::Error;
use super::config::{LogConfig, LogFormat, LogRotation, TerminalConfig};

/// Writes records to the console and to files. It is a [`log::Log`], which [`install`](Self::install) makes that of the process.
pub struct Logger {
    level: LevelFilter,
    /// The levels of targets that begin so. The last one that fits holds.
    targets: Vec<(String, LevelFilter)>,
    form: Form,
    console: Option<Console>,
    file: Option<File>,
}

struct Console {
    levels: Option<Vec<Level>>,
    format: LogFormat,
}

struct File {
    levels: Option<Vec<Level>>,
    format: LogFormat,
    writer: ArcFileLogWriter,
    _handle: FileLogWriterHandle,
}

const PATH: &str = "./log/due.log";
const TIME_FORMAT: &str = "%Y/%m/%d %H:%M:%S%.6f";
const MAX_SIZE: u64 = 100 << 20;
const DAY: u64 = 24 * 3600;

impl Logger {
    /// Opens what a configuration names. Nothing is written to it before [`install`](Self::install).
    ///
    /// # Errors
    ///
    /// [`Error::Backend`] if the file cannot be opened.
    pub fn open(config: &LogConfig) -> Result<Self, Error> {
        let is_on = |terminal: &TerminalConfig| terminal.is_on.unwrap_or(true);
        Ok(Self {
            level: config.level.unwrap_or(LevelFilter::Info),
            targets: Vec::new(),
            form: Form {
                stack_level: config.stack_level.unwrap_or(LevelFilter::Off),
                time_format: config
                    .time_format
                    .clone()
                    .unwrap_or_else(|| TIME_FORMAT.into()),
                has_full_path: config.full_path.unwrap_or(false),
            },
            console: is_on(&config.console).then(|| Console {
                levels: config.console.levels.clone(),
                format: config.console.format.unwrap_or_default(),
            }),
            file: match is_on(&config.file) {
                true => Some(File::open(config)?),
                false => None,
            },
        })
    }

    /// Gives all targets that begin with `prefix` a level of their own. The configuration has no key for that. A mesh over rpc logs each
    /// call at `info` with the target `epicycle::rpc`, so `target("epicycle::rpc", LevelFilter::Warn)` leaves only what is slow or wrong.
    #[must_use]
    pub fn target(mut self, prefix: impl Into<String>, level: LevelFilter) -> Self {
        self.targets.push((prefix.into(), level));
        self
    }

    /// Makes it the logger of the process, until its end.
    ///
    /// # Errors
    ///
    /// [`Error::Backend`] if the process has a logger already.
    pub fn install(self) -> Result<(), Error> {
        let levels = self.targets.iter().map(|(_, level)| *level);
        let level = levels.fold(self.level, Ord::max);
        log::set_boxed_logger(Box::new(self)).map_err(|error| failed(&error))?;
        log::set_max_level(level);
        Ok(())
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let mut targets = self.targets.iter().rev();
        let own = targets.find(|(prefix, _)| metadata.target().starts_with(prefix));
        metadata.level() <= own.map_or(self.level, |(_, level)| *level)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let wants = |levels: &Option<Vec<Level>>| {
            levels
                .as_ref()
                .is_none_or(|levels| levels.contains(&record.level()))
        };
        let console = self
            .console
            .as_ref()
            .filter(|console| wants(&console.levels));
        let file = self.file.as_ref().filter(|file| wants(&file.levels));
        if console.is_none() && file.is_none() {
            return;
        }
        let filled = self.form.fill(record);
        if let Some(console) = console {
            // A console that is gone is no reason to stop.
            let _ = io::stdout()
                .lock()
                .write_all(filled.line(console.format).as_bytes());
        }
        if let Some(file) = file
            && let Err(error) = file
                .writer
                .clone()
                .write_all(filled.line(file.format).as_bytes())
        {
            let _ = writeln!(io::stderr(), "a record of the log is lost: {error}");
        }
    }

    fn flush(&self) {
        let _ = io::stdout().lock().flush();
        if let Some(file) = &self.file {
            let _ = file.writer.clone().flush();
        }
    }
}

impl File {
    fn open(config: &LogConfig) -> Result<Self, Error> {
        let path = config.path.clone().unwrap_or_else(|| PathBuf::from(PATH));
        let about = |error: &dyn fmt::Display| failed(&format!("{}: {error}", path.display()));
        if let Some(folder) = path.parent().filter(|folder| *folder != Path::new("")) {
            fs::create_dir_all(folder).map_err(|error| about(&error))?;
        }
        let size = config.max_size.filter(|size| *size > 0).unwrap_or(MAX_SIZE);
        let (criterion, format) = match config.rotation.unwrap_or_default() {
            LogRotation::None => (Criterion::Size(size), "%Y%m%d-%H%M%S"),
            LogRotation::Hour => (Criterion::AgeOrSize(Age::Hour, size), "%Y%m%d-%H"),
            LogRotation::Day => (Criterion::AgeOrSize(Age::Day, size), "%Y%m%d"),
        };
        let naming = Naming::TimestampsCustomFormat {
            current_infix: Some(""),
            format,
        };
        let age = config.max_age.unwrap_or(Duration::from_secs(7 * DAY));
        let cleanup = match age.as_secs().div_ceil(DAY) {
            0 => Cleanup::Never,
            days => Cleanup::KeepForDays(usize::try_from(days).unwrap_or(usize::MAX)),
        };
        let spec = FileSpec::try_from(&path).map_err(|error| about(&error))?;
        let writer = FileLogWriter::builder(spec)
            .rotate(criterion, naming, cleanup)
            .append()
            .write_mode(WriteMode::Direct)
            .try_build_with_handle();
        let (writer, handle) = writer.map_err(|error| about(&error))?;
        Ok(Self {
            levels: config.file.levels.clone(),
            format: config.file.format.unwrap_or_default(),
            writer,
            _handle: handle,
        })
    }
}

fn failed(error: &dyn fmt::Display) -> Error {
    Error::backend("log", error.to_string())
}

impl fmt::Debug for Logger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Logger")
            .field("level", &self.level)
            .field("console", &self.console.is_some())
            .field("file", &self.file.is_some())
            .finish_non_exhaustive()
    }
}
