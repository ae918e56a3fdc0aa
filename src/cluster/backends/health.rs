use std::fmt;
use std::time::Instant;

use super::BackendStats;

/// Tells if a backend can be reached. The log has a line when that changes.
#[derive(Default)]
pub(super) struct Health {
    /// The problem, while the backend is down.
    problem: Option<String>,
    last_ok: Option<Instant>,
}

impl Health {
    /// Notes that the backend has answered.
    pub(super) fn answered(&mut self, backend: &str) {
        if self.problem.take().is_some() {
            log::info!(target: "epicycle::cluster", "{backend} answers again");
        }
        self.last_ok = Some(Instant::now());
    }

    /// Notes that the backend could not be reached.
    pub(super) fn lost(&mut self, backend: &str, problem: impl fmt::Display) {
        if self.problem.replace(problem.to_string()).is_none() {
            log::warn!(target: "epicycle::cluster", "{backend} is lost: {problem}");
        }
    }

    /// Returns the last problem, while the backend is down.
    #[cfg(feature = "kafka")]
    pub(super) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// Returns the state, without queue and connections.
    pub(super) fn stats(&self) -> BackendStats {
        BackendStats {
            is_up: self.problem.is_none() && self.last_ok.is_some(),
            last_ok: self.last_ok.map(|at| at.elapsed()),
            ..BackendStats::default()
        }
    }
}
