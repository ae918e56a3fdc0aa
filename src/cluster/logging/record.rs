//! The forms of a record.

use std::backtrace::Backtrace;
use std::fmt::Write;
use std::path::Path;

use flexi_logger::DeferredNow;
use log::{LevelFilter, Record};
use serde_json::{Map, Value};

use crate::cluster::config::LogFormat;

/// The fields that records have besides their text.
pub(super) struct Form {
    pub(super) stack_level: LevelFilter,
    pub(super) time_format: String,
    pub(super) has_full_path: bool,
}

/// A record with all its parts.
pub(super) struct Filled {
    level: &'static str,
    time: String,
    place: Option<String>,
    message: String,
    stack: Option<String>,
}

impl Form {
    pub(super) fn fill(&self, record: &Record<'_>) -> Filled {
        let file = record.file().map(|file| match self.has_full_path {
            true => file,
            false => {
                let name = Path::new(file).file_name().and_then(|name| name.to_str());
                name.unwrap_or(file)
            }
        });
        let has_stack = record.level() <= self.stack_level;
        Filled {
            level: record.level().as_str(),
            time: DeferredNow::new().format(&self.time_format).to_string(),
            place: file
                .zip(record.line())
                .map(|(file, line)| format!("{file}:{line}")),
            message: record.args().to_string(),
            stack: has_stack.then(|| Backtrace::force_capture().to_string()),
        }
    }
}

impl Filled {
    /// Returns the record as a line. A stack adds lines to text.
    pub(super) fn line(&self, format: LogFormat) -> String {
        match format {
            LogFormat::Text => self.text(),
            LogFormat::Json => self.json(),
        }
    }

    fn text(&self) -> String {
        // A write to a String cannot fail.
        let mut line = format!("{}[{}]", self.level, self.time);
        if let Some(place) = &self.place {
            let _ = write!(line, " {place}");
        }
        line.push(' ');
        for character in self.message.chars() {
            match character {
                // A message of several lines must not look like several records.
                '\n' => line.push_str("\n\t"),
                '\t' => line.push('\t'),
                // Those of a stranger's text would command the terminal of whoever reads the log.
                _ if character.is_control() => line.extend(character.escape_default()),
                _ => line.push(character),
            }
        }
        if let Some(stack) = &self.stack {
            let _ = write!(line, "\nStack:\n{}", stack.trim_end());
        }
        line.push('\n');
        line
    }

    fn json(&self) -> String {
        let mut object = Map::new();
        let mut put = |name: &str, value: &str| object.insert(name.to_owned(), value.into());
        put("level", self.level);
        put("time", &self.time);
        if let Some(place) = &self.place {
            put("file", place);
        }
        put("msg", &self.message);
        if let Some(stack) = &self.stack {
            put("stack", stack);
        }
        format!("{}\n", Value::Object(object))
    }
}
