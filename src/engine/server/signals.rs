//! The graceful shutdown by SIGINT and SIGTERM.

use std::io;
use std::time::{Duration, Instant};

use super::Server;
use super::settings::Settings;
use super::watcher::Watcher;
use crate::engine::handler::{Engine, EventHandler};
use crate::error::Error;
use crate::sys::signals::{Escalation, Step, StopSignals};

/// # Signals
impl Server {
    /// Shuts the server down gracefully when the process receives SIGINT (ctrl-c) or SIGTERM. Default: off, the signals have
    /// the effect that the program has chosen. [`serve`](crate::serve) turns the option on.
    ///
    /// The first signal begins [`Engine::shutdown`] with the [drain deadline](Self::drain_deadline). A signal during a
    /// shutdown ends the drain at once, like [`Engine::shutdown_within`] with zero. One more signal ends the process, in case
    /// a callback hangs. A signal within half a second of the last one counts as the same signal.
    ///
    /// The signals shut down every server and client of the process that has this option. When all of them have ended, the
    /// signals end the process again, as they do by default.
    ///
    /// Costs a thread and two descriptors. Needs the feature `signals`, which is on by default. A signal handler that the
    /// program has installed before is called as well. One that it installs later replaces this one. A program that uses
    /// these signals for other purposes calls [`Engine::shutdown`] itself.
    ///
    /// ```no_run
    /// use epicycle::{Server, service};
    ///
    /// let report = Server::bind("unix:///tmp/echo.sock")
    ///     .stop_on_signals()
    ///     .run(|_| service(|conn, bytes| conn.write(bytes).into()))?;
    /// println!("{} drained, {} forced", report.drained, report.forced);
    /// # Ok::<(), epicycle::Error>(())
    /// ```
    pub fn stop_on_signals(mut self) -> Self {
        self.options.stop_on_signals = true;
        self
    }
}

/// Begins to receive the signals if the option is set.
pub(super) fn watch(settings: &Settings) -> Result<Option<StopSignals>, Error> {
    let signals = settings
        .stop_on_signals
        .then(StopSignals::watch)
        .transpose();
    signals.map_err(|source| Error::Setup {
        what: "the watch on signals",
        source,
    })
}

/// Starts the thread that waits for the signals.
pub(super) fn start<H: EventHandler>(
    signals: StopSignals,
    engine: Engine<H>,
) -> io::Result<Watcher> {
    let closer = signals.closer();
    Watcher::start(
        "epicycle-signals",
        move || closer.close(),
        move || stop_on(signals, &engine),
    )
}

fn stop_on<H: EventHandler>(mut signals: StopSignals, engine: &Engine<H>) {
    let mut escalation = Escalation::default();
    while let Some(signal) = signals.next() {
        match escalation.next(Instant::now(), engine.is_stopping()) {
            Step::Wait => {}
            Step::ShutDown => {
                log::info!(
                    target: "epicycle::signals",
                    "{signal}: shutting down; a second signal ends the connections at once"
                );
                engine.shutdown();
            }
            Step::Hurry => {
                log::info!(
                    target: "epicycle::signals",
                    "{signal}: ending the connections; another signal ends the process"
                );
                engine.shutdown_within(Duration::ZERO);
            }
            Step::EndProcess => {
                if let Err(error) = signal.end_process() {
                    log::error!(target: "epicycle::signals", "{signal} cannot end the process: {error}");
                }
            }
        }
    }
}
