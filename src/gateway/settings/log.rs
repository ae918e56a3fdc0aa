use std::path::PathBuf;

/// The log of requests.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AccessLog {
    /// The place to which it is written.
    pub to: LogTarget,
    /// The format of a line. Default: JSON.
    pub format: LogFormat,
    /// The bytes of a reactor's lines that wait for the writer. Further lines are dropped and counted. The writer takes them
    /// every 50 ms, or once half of it is full; a line has some 300 bytes. Default: 4 MiB.
    pub buffer: usize,
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
            buffer: 4 << 20,
        }
    }
}
