use std::path::PathBuf;

/// The log of requests.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AccessLog {
    /// The place to which it is written.
    pub to: LogTarget,
    /// The format of a line. Default: JSON.
    pub format: LogFormat,
    /// The number of lines that wait for the writer. Further ones are dropped and counted. A line takes some 500 bytes.
    /// Default: 8,192.
    pub queue: usize,
}

/// The place of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LogTarget {
    /// The standard output.
    Stdout,
    /// A file. Lines are appended. It is opened anew when it is told so, for programs that rotate logs.
    File(PathBuf),
}

/// The format of the lines of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum LogFormat {
    /// A JSON object.
    #[default]
    Json,
    /// The combined format of Apache and nginx.
    Combined,
    /// A text with fields in braces, such as `{client} {status} {target}`.
    Template(String),
}

impl AccessLog {
    /// Returns a log in JSON.
    pub fn new(to: LogTarget) -> Self {
        Self {
            to,
            format: LogFormat::default(),
            queue: 8192,
        }
    }
}
