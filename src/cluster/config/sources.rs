//! The places that a configuration is read from: files and flags.

use std::path::{Path, PathBuf};
use std::{fs, io};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::ConfigError;
use crate::sys::files::read_at_most;

/// The most bytes of a file.
const MAX_FILE: u64 = 8 << 20;

/// Where the files are, and whether they may be missing.
pub(super) struct Folder {
    pub(super) path: PathBuf,
    pub(super) is_given: bool,
}

impl Folder {
    /// Returns the files, in the order of their names.
    pub(super) fn files(&self) -> Result<Vec<PathBuf>, ConfigError> {
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

pub(super) fn read_text(file: &Path) -> Result<String, ConfigError> {
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
pub(super) fn flatten<'t>(
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

/// Returns the flags as names and values, if they have one: those that begin with `--`, whose value is behind `=` or the next argument.
pub(super) fn pairs(flags: Vec<String>) -> Vec<(String, Option<String>)> {
    let mut pairs = Vec::new();
    let mut flags = flags.into_iter().peekable();
    while let Some(flag) = flags.next() {
        let Some(flag) = flag.strip_prefix("--") else {
            continue;
        };
        match flag.split_once('=') {
            Some((name, value)) => pairs.push((name.to_owned(), Some(value.to_owned()))),
            None if flags.peek().is_some_and(|next| !next.starts_with("--")) => {
                pairs.push((flag.to_owned(), flags.next()));
            }
            None => pairs.push((flag.to_owned(), None)),
        }
    }
    pairs
}
