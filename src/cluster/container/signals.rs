use std::io;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::{ContainerHandle, Order};
use crate::engine::server::watcher::Watcher;
use crate::sys::signals::{Escalation, QuitSignals, Step, StopSignals};

/// The thread that tells a container the signals.
pub(super) struct Watch {
    _watcher: Watcher,
    _quit: QuitSignals,
}

impl Watch {
    pub(super) fn start(handle: ContainerHandle) -> io::Result<Self> {
        let signals = StopSignals::watch()?;
        let quit = signals.add_quit()?;
        let closer = signals.closer();
        let watcher = Watcher::start(
            "epicycle-signals",
            move || closer.close(),
            move || follow(signals, &handle),
        )?;
        Ok(Self {
            _watcher: watcher,
            _quit: quit,
        })
    }
}

fn follow(mut signals: StopSignals, handle: &ContainerHandle) {
    let mut escalation = Escalation::default();
    while let Some(signal) = signals.next() {
        let is_stopping = handle.is_stopping.load(Ordering::Acquire);
        match escalation.next(Instant::now(), is_stopping) {
            Step::Wait => {}
            Step::ShutDown => {
                log::info!(
                    target: "epicycle::cluster",
                    "{signal}: closing the components; a second signal ends the wait for them"
                );
                handle.ask(signal.to_string());
            }
            Step::Hurry => {
                log::info!(
                    target: "epicycle::cluster",
                    "{signal}: no more waiting; another signal ends the process"
                );
                // Without a receiver the container has ended.
                let _ = handle.orders.send(Order::Hurry);
            }
            Step::EndProcess => {
                if let Err(error) = signal.end_process() {
                    log::error!(target: "epicycle::cluster", "{signal} cannot end the process: {error}");
                }
            }
        }
    }
}
