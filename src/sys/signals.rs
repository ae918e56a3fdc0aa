//! Waits for the signals that ask a program to stop, or to start its successor.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{fmt, io};

use parking_lot::Mutex;
#[cfg(feature = "cluster")]
use signal_hook::consts::SIGQUIT;
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR2};
use signal_hook::iterator::{Handle, Signals};
use signal_hook::{flag, low_level};

const STOP: [i32; 2] = [SIGINT, SIGTERM];

/// True while nobody waits for the signals. After signal-hook has installed a handler, the default action of the signal does
/// not come back. So while this is true, an action that ends the process replaces it.
static UNWATCHED: AtomicBool = AtomicBool::new(true);

static WATCHERS: Mutex<Watchers> = Mutex::new(Watchers::new());

struct Watchers {
    count: usize,
    /// True once the action for unwatched signals is registered, which happens once in a process.
    registered: bool,
}

/// The same for SIGQUIT.
#[cfg(feature = "cluster")]
static QUIT_UNWATCHED: AtomicBool = AtomicBool::new(true);

#[cfg(feature = "cluster")]
static QUIT_WATCHERS: Mutex<Watchers> = Mutex::new(Watchers::new());

impl Watchers {
    const fn new() -> Self {
        Self {
            count: 0,
            registered: false,
        }
    }

    /// Begins to watch `signals`, whose default action `unwatched` replaces.
    fn add(&mut self, signals: &[i32], unwatched: &'static AtomicBool) -> io::Result<Signals> {
        if !self.registered {
            for signal in signals {
                flag::register_conditional_default(*signal, unwatched)?;
            }
            self.registered = true;
        }
        let watched = Signals::new(signals)?;
        self.count += 1;
        unwatched.store(false, Ordering::SeqCst);
        Ok(watched)
    }

    fn remove(&mut self, unwatched: &AtomicBool) {
        self.count -= 1;
        if self.count == 0 {
            unwatched.store(true, Ordering::SeqCst);
        }
    }
}

/// Receives SIGINT and SIGTERM. They do not end the process while such a value exists.
pub(crate) struct StopSignals(Signals);

/// Keeps SIGQUIT from ending the process while it exists.
#[cfg(feature = "cluster")]
pub(crate) struct QuitSignals {
    _signals: Signals,
}

/// The time within which two signals count as one. `timeout(1)` and some supervisors signal both the process and its group.
const ONE_SIGNAL: Duration = Duration::from_millis(500);

/// The effect of the signals so far.
#[derive(Debug, Default)]
pub(crate) struct Escalation {
    /// The time of the last signal that had an effect.
    last: Option<Instant>,
    hurried: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Wait,
    ShutDown,
    Hurry,
    EndProcess,
}

/// Ends the wait for signals from another thread.
pub(crate) struct Closer(Handle);

/// A signal that was received.
#[derive(Clone, Copy)]
pub(crate) struct Signal(i32);

impl StopSignals {
    pub(crate) fn watch() -> io::Result<Self> {
        WATCHERS.lock().add(&STOP, &UNWATCHED).map(Self)
    }

    /// Receives SIGQUIT as well, which does not end the process while the result exists.
    #[cfg(feature = "cluster")]
    pub(crate) fn add_quit(&self) -> io::Result<QuitSignals> {
        self.0.add_signal(SIGQUIT)?;
        let signals = QUIT_WATCHERS.lock().add(&[SIGQUIT], &QUIT_UNWATCHED)?;
        Ok(QuitSignals { _signals: signals })
    }

    pub(crate) fn closer(&self) -> Closer {
        Closer(self.0.handle())
    }

    /// Blocks until a signal arrives. Returns `None` after a call of [`Closer::close`].
    pub(crate) fn next(&mut self) -> Option<Signal> {
        self.0.forever().next().map(Signal)
    }
}

impl Escalation {
    /// Returns the effect of a signal that arrives now.
    pub(crate) fn next(&mut self, now: Instant, is_stopping: bool) -> Step {
        let is_same = |last| now.saturating_duration_since(last) < ONE_SIGNAL;
        if is_stopping && self.last.is_some_and(is_same) {
            return Step::Wait;
        }
        self.last = Some(now);
        if !is_stopping {
            Step::ShutDown
        } else if !self.hurried {
            self.hurried = true;
            Step::Hurry
        } else {
            Step::EndProcess
        }
    }
}

impl Drop for StopSignals {
    fn drop(&mut self) {
        WATCHERS.lock().remove(&UNWATCHED);
    }
}

#[cfg(feature = "cluster")]
impl Drop for QuitSignals {
    fn drop(&mut self) {
        QUIT_WATCHERS.lock().remove(&QUIT_UNWATCHED);
    }
}

/// Receives SIGUSR2. It does not end the process any more.
pub(crate) struct RestartSignals(Signals);

impl RestartSignals {
    pub(crate) fn watch() -> io::Result<Self> {
        Signals::new([SIGUSR2]).map(Self)
    }

    pub(crate) fn closer(&self) -> Closer {
        Closer(self.0.handle())
    }

    /// Blocks until a signal arrives. Returns false after a call of [`Closer::close`].
    pub(crate) fn next(&mut self) -> bool {
        self.0.forever().next().is_some()
    }
}

impl Closer {
    pub(crate) fn close(&self) {
        self.0.close();
    }
}

impl Signal {
    /// Ends the process as the signal's default action does.
    pub(crate) fn end_process(self) -> io::Result<()> {
        low_level::emulate_default_handler(self.0)
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(low_level::signal_name(self.0).unwrap_or("a signal"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_signal_goes_further_and_two_at_once_count_as_one() {
        let begin = Instant::now();
        let at = |millis| begin + Duration::from_millis(millis);
        let mut escalation = Escalation::default();
        assert_eq!(escalation.next(at(0), false), Step::ShutDown);
        assert_eq!(escalation.next(at(0), true), Step::Wait);
        assert_eq!(escalation.next(at(499), true), Step::Wait);
        assert_eq!(escalation.next(at(500), true), Step::Hurry);
        assert_eq!(escalation.next(at(999), true), Step::Wait);
        assert_eq!(escalation.next(at(1000), true), Step::EndProcess);
    }

    #[test]
    fn a_signal_hurries_a_shutdown_that_another_one_has_begun() {
        let mut escalation = Escalation::default();
        assert_eq!(escalation.next(Instant::now(), true), Step::Hurry);
    }
}
