use std::io::{self, IsTerminal, Write, stdout};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use super::banner::boxed;
use super::pid::PidFile;
use super::{
    Component, ComponentReport, Container, ContainerError, ContainerHandle, Failure, Order,
    Outcome, Report, Step,
};

/// A container that serves.
pub(super) struct Run {
    container: Container,
    slots: Vec<Slot>,
    pid_file: Option<PidFile>,
}

/// A component and what it did.
struct Slot {
    /// `None` while it closes, and if it has been left behind.
    component: Option<Box<dyn Component>>,
    report: ComponentReport,
}

/// A component that has closed, at this place.
pub(super) struct Closed {
    place: usize,
    component: Box<dyn Component>,
    outcome: Outcome,
}

impl Run {
    pub(super) fn new(mut container: Container) -> Self {
        let components = std::mem::take(&mut container.components).into_iter();
        let slots = components.map(|component| Slot {
            report: ComponentReport {
                name: component.name().to_owned(),
                steps: Vec::new(),
            },
            component: Some(component),
        });
        Self {
            slots: slots.collect(),
            container,
            pid_file: None,
        }
    }

    pub(super) fn serve(mut self) -> Result<Report, ContainerError> {
        #[cfg(feature = "signals")]
        let _signals = super::signals::Watch::start(self.container.handle())
            .map_err(|source| ContainerError::Signals { source })?;
        let served = self.start_and_wait();
        // From here on a signal hurries the end, also if nobody has asked for it.
        self.container
            .handle
            .is_stopping
            .store(true, Ordering::Release);
        self.close();
        self.destroy();
        drop(self.pid_file);
        let report = Report {
            cause: match &served {
                Ok(cause) => cause.clone(),
                Err(error) => error.to_string(),
            },
            components: self.slots.into_iter().map(|slot| slot.report).collect(),
        };
        log::info!(target: "epicycle::cluster", "{}: {report}", self.container.name);
        served.map(|_| report)
    }

    /// Starts the components and waits for the end. Returns its cause.
    fn start_and_wait(&mut self) -> Result<String, ContainerError> {
        for slot in &mut self.slots {
            slot.go(Step::Init, Component::init)?;
        }
        let shows = stdout().is_terminal();
        if shows {
            show(&process_box(&self.container));
        }
        for slot in &mut self.slots {
            if let Some(cause) = asked(&self.container.orders) {
                return Ok(cause);
            }
            slot.go(Step::Start, Component::start)?;
            if shows {
                slot.show();
            }
        }
        if let Some(path) = self.container.pid_file.take() {
            let written = PidFile::write(path);
            self.pid_file =
                Some(written.map_err(|(path, source)| ContainerError::PidFile { path, source })?);
        }
        loop {
            match self.container.orders.recv() {
                Ok(Order::Stop(cause)) => return Ok(cause),
                Ok(_) => {}
                // The container has a handle itself.
                Err(_) => return Ok("nobody".to_owned()),
            }
        }
    }

    /// Closes all components that have started, at once.
    fn close(&mut self) {
        let wait = self.container.shutdown_max_wait;
        let deadline = Instant::now().checked_add(wait);
        let began = Instant::now();
        let mut closing = 0;
        for (place, slot) in self.slots.iter_mut().enumerate() {
            if slot
                .report
                .step(Step::Start)
                .is_none_or(|start| start.problem.is_some())
            {
                continue;
            }
            let Some(component) = slot.component.take() else {
                continue;
            };
            match close_on_thread(place, component, wait, self.container.handle()) {
                Ok(()) => closing += 1,
                Err(error) => slot.note(Outcome {
                    step: Step::Close,
                    took: Duration::ZERO,
                    problem: Some(format!("no thread closes it, so it was dropped: {error}")),
                }),
            }
        }
        while closing > 0 {
            let order = match deadline {
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    self.container.orders.recv_timeout(left)
                }
                None => self
                    .container
                    .orders
                    .recv()
                    .map_err(|_| RecvTimeoutError::Disconnected),
            };
            match order {
                Ok(Order::Closed(closed)) => {
                    closing -= 1;
                    let slot = &mut self.slots[closed.place];
                    slot.component = Some(closed.component);
                    slot.note(closed.outcome);
                }
                Ok(Order::Stop(_)) => {}
                Ok(Order::Hurry) | Err(_) => break,
            }
        }
        for slot in &mut self.slots {
            if slot.component.is_none() && slot.report.step(Step::Close).is_none() {
                slot.note(Outcome {
                    step: Step::Close,
                    took: began.elapsed(),
                    problem: Some("left behind: it has not closed in time".to_owned()),
                });
            }
        }
    }

    /// Destroys and drops the components, the last one first.
    fn destroy(&mut self) {
        for slot in self.slots.iter_mut().rev() {
            let Some(mut component) = slot.component.take() else {
                continue;
            };
            let is_prepared = slot.report.step(Step::Init).is_some();
            let outcome = timed(Step::Destroy, move || {
                let destroyed = if is_prepared {
                    component.destroy()
                } else {
                    Ok(())
                };
                drop(component);
                destroyed
            });
            slot.note(outcome.0);
        }
    }
}

impl Slot {
    /// Takes a step towards the start.
    fn go(
        &mut self,
        step: Step,
        action: impl FnOnce(&mut dyn Component) -> Result<(), Failure>,
    ) -> Result<(), ContainerError> {
        let Some(component) = self.component.as_deref_mut() else {
            return Ok(());
        };
        let (outcome, failure) = timed(step, || action(component));
        self.note(outcome);
        match failure {
            None => Ok(()),
            Some(error) => Err(ContainerError::Component {
                name: self.report.name.clone(),
                step,
                error,
            }),
        }
    }

    fn note(&mut self, outcome: Outcome) {
        let (name, step, took) = (&self.report.name, outcome.step, outcome.took);
        match &outcome.problem {
            None => log::debug!(target: "epicycle::cluster", "{name}: {step} took {took:.1?}"),
            Some(problem) => {
                log::error!(target: "epicycle::cluster", "{name}: {step} failed after {took:.1?}: {problem}");
            }
        }
        self.report.steps.push(outcome);
    }

    /// Prints the component's box. A panic in its banner is logged, and costs the box.
    fn show(&self) {
        let Some(component) = self.component.as_deref() else {
            return;
        };
        crate::panic::catch("epicycle::cluster", "the banner of a component", || {
            show(&boxed(&title(&self.report.name), component.banner()));
        });
    }
}

/// Closes a component on a thread of its own, so that one that hangs can be left behind.
fn close_on_thread(
    place: usize,
    mut component: Box<dyn Component>,
    wait: Duration,
    handle: ContainerHandle,
) -> io::Result<()> {
    let close = move || {
        let (outcome, _) = timed(Step::Close, || component.close(wait));
        let closed = Closed {
            place,
            component,
            outcome,
        };
        // If nobody waits any more, it is dropped here.
        let _ = handle.orders.send(Order::Closed(closed));
    };
    let thread = thread::Builder::new().name("epicycle-close".to_owned());
    thread.spawn(close).map(drop)
}

/// Returns the reason if somebody has asked for the end.
fn asked(orders: &Receiver<Order>) -> Option<String> {
    match orders.try_recv() {
        Ok(Order::Stop(cause)) => Some(cause),
        _ => None,
    }
}

/// Takes a step of a component, and turns its panic into an error.
fn timed(step: Step, action: impl FnOnce() -> Result<(), Failure>) -> (Outcome, Option<Failure>) {
    let began = Instant::now();
    let failure = match catch_unwind(AssertUnwindSafe(action)) {
        Ok(result) => result.err(),
        Err(payload) => {
            let message = format!("it panicked: {}", crate::panic::message(&*payload));
            // The payload's drop is the application's code as well.
            crate::panic::catch("epicycle::cluster", "a panic of a component", || {
                drop(payload);
            });
            Some(message.into())
        }
    };
    let outcome = Outcome {
        step,
        took: began.elapsed(),
        problem: failure.as_ref().map(ToString::to_string),
    };
    (outcome, failure)
}

fn process_box(container: &Container) -> String {
    let rows = [
        ("Name", container.name.clone()),
        ("Version", format!("epicycle {}", env!("CARGO_PKG_VERSION"))),
        ("PID", std::process::id().to_string()),
        ("Mode", container.mode.to_string()),
    ];
    boxed("Global", rows)
}

/// Returns a name with a capital letter, as the titles of boxes have it.
fn title(name: &str) -> String {
    let mut chars = name.chars();
    match chars.next() {
        Some(first) => first.to_uppercase().chain(chars).collect(),
        None => String::new(),
    }
}

/// Prints a box. A terminal that has gone away is no reason to stop.
fn show(text: &str) {
    let _ = stdout().lock().write_all(text.as_bytes());
}
