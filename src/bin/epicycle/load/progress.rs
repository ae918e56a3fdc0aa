//! The progress of the run: a bar on a terminal, else lines of text.

use std::io::{IsTerminal, stderr};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::driver::Live;
use super::plan::Plan;

/// The time between lines of text.
const WORDS_EVERY: Duration = Duration::from_secs(3);

/// Shows progress on standard error.
pub(crate) struct Progress {
    bar: ProgressBar,
    connections: usize,
    warm_up: Duration,
    /// The time of the last update, and the number of answers then.
    last: (Instant, u64),
}

impl Progress {
    pub(crate) fn new(plan: &Plan) -> Self {
        let bar = if stderr().is_terminal() {
            ProgressBar::new((plan.warm_up + plan.duration).as_millis() as u64)
        } else {
            ProgressBar::hidden()
        };
        let style = ProgressStyle::with_template("{msg:9} {bar:32} {prefix}");
        bar.set_style(style.expect("the template is well-formed"));
        bar.set_message("connect");
        Self {
            bar,
            connections: plan.connections,
            warm_up: plan.warm_up,
            last: (Instant::now(), 0),
        }
    }

    /// Shows the number of open connections, before the run begins.
    pub(crate) fn connecting(&mut self, live: &Live) {
        let now = Instant::now();
        let made = live.connected.load(Ordering::Relaxed);
        let text = format!("{made} of {} connections are open", self.connections);
        if !self.bar.is_hidden() {
            self.bar.set_prefix(text);
        } else if now - self.last.0 > WORDS_EVERY {
            self.last.0 = now;
            eprintln!("load: {text}");
        }
    }

    /// Shows the elapsed time and the rate of answers.
    pub(crate) fn show(&mut self, epoch: Instant, live: &Live) {
        let (now, answers) = (Instant::now(), live.answers.load(Ordering::Relaxed));
        let since = (now - self.last.0).as_secs_f64();
        if since < 0.2 {
            return;
        }
        let rate = (answers - self.last.1) as f64 / since;
        self.last = (now, answers);
        let gone = now.saturating_duration_since(epoch);
        let phase = if gone < self.warm_up {
            "warm up"
        } else {
            "measure"
        };
        let errors = live.errors.load(Ordering::Relaxed);
        self.bar.set_message(phase);
        self.bar
            .set_prefix(format!("{rate:.0} answers/s, {errors} errors"));
        self.bar.set_position(gone.as_millis() as u64);
    }

    pub(crate) fn end(&self) {
        self.bar.finish_and_clear();
    }
}
