//! Waits for the signals that ask a program to stop, or to start its successor.

use std::sync::atomic::{AtomicBool, Ordering};
use std::{fmt, io};

use parking_lot::Mutex;
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR2};
use signal_hook::iterator::{Handle, Signals};
use signal_hook::{flag, low_level};

const STOP: [i32; 2] = [SIGINT, SIGTERM];

/// True while nobody waits for the signals. After signal-hook has installed a handler, the default action of the signal does
/// not come back. So while this is true, an action that ends the process replaces it.
static UNWATCHED: AtomicBool = AtomicBool::new(true);

static WATCHERS: Mutex<Watchers> = Mutex::new(Watchers {
    count: 0,
    registered: false,
});

struct Watchers {
    count: usize,
    /// True once the action for unwatched signals is registered, which happens once in a process.
    registered: bool,
}

/// Receives SIGINT and SIGTERM. They do not end the process while such a value exists.
pub(crate) struct StopSignals(Signals);

/// Ends the wait for signals from another thread.
pub(crate) struct Closer(Handle);

/// A signal that was received.
#[derive(Clone, Copy)]
pub(crate) struct Signal(i32);

impl StopSignals {
    pub(crate) fn watch() -> io::Result<Self> {
        let mut watchers = WATCHERS.lock();
        if !watchers.registered {
            for signal in STOP {
                flag::register_conditional_default(signal, &UNWATCHED)?;
            }
            watchers.registered = true;
        }
        let signals = Signals::new(STOP)?;
        watchers.count += 1;
        UNWATCHED.store(false, Ordering::SeqCst);
        Ok(Self(signals))
    }

    pub(crate) fn closer(&self) -> Closer {
        Closer(self.0.handle())
    }

    /// Blocks until a signal arrives. Returns `None` after a call of [`Closer::close`].
    pub(crate) fn next(&mut self) -> Option<Signal> {
        self.0.forever().next().map(Signal)
    }
}

impl Drop for StopSignals {
    fn drop(&mut self) {
        let mut watchers = WATCHERS.lock();
        watchers.count -= 1;
        if watchers.count == 0 {
            UNWATCHED.store(true, Ordering::SeqCst);
        }
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
