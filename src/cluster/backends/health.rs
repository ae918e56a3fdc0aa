use std::fmt;
use std::time::{Duration, Instant};

use super::BackendStats;
use crate::cluster::error::spelled;

/// Tells if a backend can be reached. The log has a line when that changes, and again each minute while it is down.
pub(super) struct Health {
    backend: &'static str,
    /// True while the backend is down.
    is_lost: bool,
    /// The last problem.
    #[cfg(any(feature = "kafka", feature = "nats"))]
    problem: String,
    warned: Option<Instant>,
    last_ok: Option<Instant>,
}

/// The time after which the log tells again that a backend is down.
const REMIND: Duration = Duration::from_secs(60);

impl Health {
    pub(super) fn new(backend: &'static str) -> Self {
        Self {
            backend,
            is_lost: false,
            #[cfg(any(feature = "kafka", feature = "nats"))]
            problem: String::new(),
            warned: None,
            last_ok: None,
        }
    }

    /// Notes that the backend has answered.
    pub(super) fn answered(&mut self) {
        if std::mem::take(&mut self.is_lost) {
            log::info!(target: "epicycle::cluster", "{} answers again", spelled(self.backend));
        }
        self.warned = None;
        self.last_ok = Some(Instant::now());
    }

    /// Notes that the backend could not be reached.
    pub(super) fn lost(&mut self, problem: impl fmt::Display) {
        self.is_lost = true;
        #[cfg(any(feature = "kafka", feature = "nats"))]
        {
            self.problem = problem.to_string();
        }
        if self.warned.is_some_and(|at| at.elapsed() < REMIND) {
            return;
        }
        self.warned = Some(Instant::now());
        let (backend, state) = (
            spelled(self.backend),
            match self.last_ok {
                Some(_) => "is lost",
                None => "cannot be reached",
            },
        );
        log::warn!(target: "epicycle::cluster", "{backend} {state}: {problem}");
    }

    /// Returns the last problem, while the backend is down.
    #[cfg(any(feature = "kafka", feature = "nats"))]
    pub(super) fn problem(&self) -> Option<&str> {
        self.is_lost.then_some(&*self.problem)
    }

    /// Returns the state, without queue and connections.
    pub(super) fn stats(&self) -> BackendStats {
        BackendStats {
            backend: self.backend,
            is_up: !self.is_lost && self.last_ok.is_some(),
            last_ok: self.last_ok.map(|at| at.elapsed()),
            ..BackendStats::default()
        }
    }
}
