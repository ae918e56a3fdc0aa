//! Finds and opens the file for a request's target.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use http_range_header::{EndPosition, StartPosition, parse_range_header};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, percent_encode};
use rustix::io::Errno;

use crate::conditions::Validators;

/// The canonical path of the directory that is served.
pub(crate) struct Root(PathBuf);

/// The result of a search for a file.
pub(crate) enum Found {
    File(Opened),
    /// The target is a directory without its final slash. This is its path with the slash.
    Moved(String),
    Nothing,
    /// The target is malformed.
    Bad,
    Failed,
}

/// An open file with its headers.
pub(crate) struct Opened {
    pub(crate) file: File,
    pub(crate) len: u64,
    pub(crate) content_type: String,
    pub(crate) validators: Validators,
}

/// The requested part of a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Whole,
    Range(Range<u64>),
    /// The range begins after the file's end.
    Beyond,
}

impl Root {
    pub(crate) fn new(dir: &Path) -> io::Result<Self> {
        let root = dir.canonicalize()?;
        if !root.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Ok(Self(root))
    }

    /// Finds and opens the file for a target. Blocks.
    pub(crate) fn find(&self, target: &str) -> Found {
        let path = target.split(['?', '#']).next().unwrap_or_default();
        let Some(relative) = relative(path) else {
            return Found::Bad;
        };
        self.open(&relative, path.ends_with('/'))
            .unwrap_or_else(|error| match error.kind() {
                io::ErrorKind::NotFound
                | io::ErrorKind::NotADirectory
                | io::ErrorKind::PermissionDenied
                | io::ErrorKind::InvalidFilename => Found::Nothing,
                // Symbolic links form a loop.
                _ if Errno::from_io_error(&error) == Some(Errno::LOOP) => Found::Nothing,
                _ => {
                    log::warn!("cannot open {}: {error}", relative.display());
                    Found::Failed
                }
            })
    }

    fn open(&self, relative: &Path, as_dir: bool) -> io::Result<Found> {
        let Some(mut path) = self.inside(relative)? else {
            return Ok(Found::Nothing);
        };
        if path.is_dir() {
            if !as_dir && !relative.as_os_str().is_empty() {
                return Ok(Found::Moved(link_to(relative)));
            }
            match self.inside(&relative.join("index.html"))? {
                Some(index) => path = index,
                None => return Ok(Found::Nothing),
            }
        } else if as_dir {
            return Ok(Found::Nothing);
        }
        // Opening something else, such as a named pipe, could block.
        if !fs::metadata(&path)?.is_file() {
            return Ok(Found::Nothing);
        }
        let file = File::open(&path)?;
        let metadata = file.metadata()?;
        let kind = mime_guess::from_path(&path).first_or_octet_stream();
        let charset = match kind.type_() {
            mime_guess::mime::TEXT => "; charset=utf-8",
            _ => "",
        };
        Ok(Found::File(Opened {
            file,
            len: metadata.len(),
            validators: Validators::new(metadata.ino(), metadata.len(), metadata.modified().ok()),
            content_type: format!("{kind}{charset}"),
        }))
    }

    /// Returns the canonical path, or `None` if a symbolic link leads out of the directory.
    fn inside(&self, relative: &Path) -> io::Result<Option<PathBuf>> {
        let real = self.0.join(relative).canonicalize()?;
        Ok(real.starts_with(&self.0).then_some(real))
    }
}

/// Converts a target's path to a path relative to the root. Returns `None` if it would leave the root.
fn relative(path: &str) -> Option<PathBuf> {
    let below = path.strip_prefix('/')?;
    let decoded: Vec<u8> = percent_decode_str(below).collect();
    if decoded.contains(&0) {
        return None;
    }
    let mut relative = PathBuf::new();
    for component in Path::new(OsStr::from_bytes(&decoded)).components() {
        match component {
            Component::Normal(name) => relative.push(name),
            // From `/./` and `//`.
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    Some(relative)
}

/// Returns the target of a directory, with its final slash.
fn link_to(relative: &Path) -> String {
    let escape = |name: &OsStr| percent_encode(name.as_bytes(), NON_ALPHANUMERIC).to_string();
    let names: Vec<String> = relative.iter().map(escape).collect();
    format!("/{}/", names.join("/"))
}

impl Opened {
    /// Returns the value of the Last-Modified header.
    pub(crate) fn last_modified(&self) -> Option<String> {
        self.validators.modified.map(httpdate::fmt_http_date)
    }

    /// Returns the part that a Range header asks for. A malformed header, or one with several ranges, is ignored.
    pub(crate) fn part(&self, range: Option<&str>) -> Part {
        let parsed = range.and_then(|range| parse_range_header(range).ok());
        let Some([only]) = parsed.as_ref().map(|parsed| parsed.ranges.as_slice()) else {
            return Part::Whole;
        };
        let start = match only.start {
            StartPosition::Index(start) => start,
            StartPosition::FromLast(n) => self.len.saturating_sub(n),
        };
        let end = match only.end {
            EndPosition::Index(last) if last < start => return Part::Whole,
            EndPosition::Index(last) => self.len.min(last.saturating_add(1)),
            EndPosition::LastByte => self.len,
        };
        if start >= end {
            return Part::Beyond;
        }
        Part::Range(start..end)
    }
}
