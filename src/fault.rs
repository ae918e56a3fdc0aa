//! Faults of configuration files, with their places and remedies.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// A fault of a configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fault {
    /// The path of the file.
    pub file: PathBuf,
    /// The line, from 1 on. It is 0 if there is none, as in JSON that was read as a whole.
    pub line: usize,
    /// The column, from 1 on, in characters.
    pub column: usize,
    /// The key, the fault, and its remedy.
    pub problem: String,
}

impl Fault {
    /// Returns a fault without a line.
    #[cfg(feature = "cluster")]
    pub(crate) fn whole(file: impl Into<PathBuf>, problem: String) -> Self {
        Self {
            file: file.into(),
            line: 0,
            column: 0,
            problem,
        }
    }

    /// Returns a fault at the bytes `span` of the text of a file.
    pub(crate) fn at(text: &str, file: &Path, span: &Range<usize>, problem: String) -> Self {
        let before = text.get(..span.start).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Self {
            file: file.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            problem,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (file, line, column) = (self.file.display(), self.line, self.column);
        if line == 0 {
            return write!(f, "{file}: {}", self.problem);
        }
        write!(f, "{file}:{line}:{column}: {}", self.problem)
    }
}

/// Returns faults as text, a line each.
pub(crate) fn lines(faults: &[Fault]) -> String {
    let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
    faults.join("\n")
}

/// Returns the known name that is most like `name`, if one is so much like it that it may be meant.
pub(crate) fn nearest<'k>(name: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let distances = known
        .into_iter()
        .map(|known| (strsim::damerau_levenshtein(known, name), known));
    let near = distances.filter(|(distance, known)| *distance <= 1 + known.len() / 4);
    near.min().map(|(_, known)| known)
}
