//! Records the engine's log for tests to search.

use std::sync::{Mutex, Once, PoisonError};

use log::{Level, LevelFilter, Log, Metadata, Record};

/// The lines logged so far, by all tests of this process.
pub(crate) struct Logs(Mutex<Vec<(Level, String)>>);

static LOGS: Logs = Logs(Mutex::new(Vec::new()));

/// Starts recording, if it has not started yet.
pub(crate) fn logs() -> &'static Logs {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_logger(&LOGS).expect("is the first");
        log::set_max_level(LevelFilter::Debug);
    });
    &LOGS
}

impl Logs {
    /// Returns the lines that contain `text`, for example the address of a test's own client.
    pub(crate) fn with(&self, text: &str) -> Vec<(Level, String)> {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = lines.iter().filter(|(_, line)| line.contains(text));
        found.cloned().collect()
    }

    /// Returns true if a line of that level contains all of `texts`.
    pub(crate) fn have(&self, level: Level, texts: &[&str]) -> bool {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines
            .iter()
            .any(|(found, line)| *found == level && texts.iter().all(|text| line.contains(text)))
    }
}

impl Log for Logs {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("epicycle")
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let line = (record.level(), record.args().to_string());
            let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            lines.push(line);
        }
    }

    fn flush(&self) {}
}
