use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::Mutex;

use super::{Instance, Registry};
use crate::cluster::drpc::Code;
use crate::cluster::{Error, State};
use crate::metrics::Exposition;
use crate::panic;
use crate::workers::WorkerPool;

/// The time until a server asks for its own record for the first time. Each next time comes after twice that, up to the second one.
const FIRST_LOOK: Duration = Duration::from_secs(1);
const LAST_LOOK: Duration = Duration::from_secs(10);

/// The record of this server in the registry, and its state.
pub(in crate::cluster) struct Registered {
    registry: Arc<dyn Registry>,
    record: Mutex<Option<Instance>>,
    /// The number of the state, which may be one that nobody knows: other servers can set it.
    state: AtomicU8,
    /// From now on the server takes no new work, whoever sets another state.
    is_draining: AtomicBool,
    /// The endpoint of another server that has the record.
    taken_by: Mutex<Option<String>>,
}

impl Registered {
    pub(in crate::cluster) fn new(registry: Arc<dyn Registry>) -> Self {
        Self {
            registry,
            record: Mutex::new(None),
            state: AtomicU8::new(State::Work.code()),
            is_draining: AtomicBool::new(false),
            taken_by: Mutex::new(None),
        }
    }

    /// Returns the number of the state.
    pub(in crate::cluster) fn state_code(&self) -> u8 {
        self.state.load(Ordering::Acquire)
    }

    /// Sets the state for another server, and has it registered by the pool. A number that is no state is only told to those who ask,
    /// as due does.
    pub(in crate::cluster) fn set_state_code(
        self: &Arc<Self>,
        code: u8,
        pool: &WorkerPool,
    ) -> Code {
        let state = State::from_code(code);
        if self.check(state).is_err() {
            return Code::Failed;
        }
        self.state.store(code, Ordering::Release);
        let Some(state) = state else {
            return Code::Done;
        };
        let own = self.clone();
        // All under one key, so that the last one stays.
        let asked = pool.submit_ordered(0, move || {
            if let Err(error) = own.set_state(state) {
                log::warn!(target: "epicycle::cluster", "the state {state} is not registered: {error}");
            }
        });
        asked.map_or(Code::Failed, |()| Code::Done)
    }

    /// Registers the state `hang`, for good.
    pub(in crate::cluster) fn begin_drain(&self) -> Result<(), Error> {
        self.is_draining.store(true, Ordering::SeqCst);
        self.set_state(State::Hang)
    }

    fn check(&self, state: Option<State>) -> Result<(), Error> {
        let takes_work = !matches!(state, Some(State::Hang | State::Shut));
        match takes_work && self.is_draining.load(Ordering::SeqCst) {
            true => Err(Error::Draining),
            false => Ok(()),
        }
    }

    /// Registers the server.
    pub(in crate::cluster) fn register(&self, instance: Instance) -> Result<(), Error> {
        let mut record = self.record.lock();
        self.registry.register(&instance)?;
        let Instance {
            name,
            alias,
            id,
            endpoint,
            state,
            ..
        } = &instance;
        let registry = self.registry.kind();
        log::info!(
            target: "epicycle::cluster",
            "the {name} {id} ({alias}) is registered at {endpoint}, in the state {state}; registry: {registry}"
        );
        *record = Some(instance);
        Ok(())
    }

    /// Registers the server with another state. It may block.
    pub(in crate::cluster) fn set_state(&self, state: State) -> Result<(), Error> {
        let mut record = self.record.lock();
        self.check(Some(state))?;
        self.state.store(state.code(), Ordering::Release);
        let Some(instance) = record.as_mut() else {
            return Ok(());
        };
        let before = std::mem::replace(&mut instance.state, state);
        self.registry.register(instance)?;
        if before != state {
            log::info!(
                target: "epicycle::cluster",
                "the {} {} was in the state {before}, and is in {state} now", instance.name, instance.id
            );
        }
        Ok(())
    }

    /// Warns if another server has taken the record over, as a list of a watch shows, and registers again once that is gone. It may
    /// block.
    pub(in crate::cluster) fn check_list(&self, list: &[Instance]) {
        let is_taken = self.record.lock().as_ref().is_some_and(|own| {
            let record = list.iter().find(|record| record.id == own.id);
            record.is_some_and(|record| record.endpoint != own.endpoint)
        });
        // The list may be older than this server's registration.
        if is_taken || self.taken_by.lock().is_some() {
            self.check_owner();
        }
    }

    /// Warns if another server has taken the record over, and registers again once that is gone. It may block, and holds nothing up
    /// while it asks.
    fn check_owner(&self) {
        let own = self.record.lock().clone();
        let Some(own) = own else {
            return;
        };
        let Ok(record) = self.registry.find(&own.name, &own.id) else {
            return;
        };
        let is_gone = record.is_none();
        let taken = record.map(|record| record.endpoint);
        let taken = taken.filter(|endpoint| *endpoint != own.endpoint);
        if is_gone && self.taken_by.lock().is_some() {
            return self.register_again();
        }
        let mut taken_by = self.taken_by.lock();
        if let Some(other) = taken.as_ref().filter(|_| *taken_by != taken) {
            log::warn!(
                target: "epicycle::cluster",
                "the {} {} at {} is no longer reached: {other} has registered with the same id; give each server an id of its own",
                own.name, own.id, own.endpoint
            );
        }
        *taken_by = taken;
    }

    /// Registers again, since the server that had taken the record is gone.
    fn register_again(&self) {
        let record = self.record.lock();
        let Some(own) = record.as_ref() else {
            return;
        };
        match self.registry.register(own) {
            Ok(()) => {
                self.taken_by.lock().take();
                log::info!(target: "epicycle::cluster", "the {} {} at {} is registered again", own.name, own.id, own.endpoint);
            }
            Err(error) => {
                log::warn!(target: "epicycle::cluster", "the {} {} is not registered again: {error}", own.name, own.id);
            }
        }
    }

    /// Returns the endpoint of another server that has taken the record over.
    pub(in crate::cluster) fn taken_by(&self) -> Option<String> {
        self.taken_by.lock().clone()
    }

    /// Asks for the own record now and then, for a server that watches no list with it.
    ///
    /// # Errors
    ///
    /// [`Error::Backend`] if a thread cannot be started.
    pub(in crate::cluster) fn watch_owner(self: &Arc<Self>) -> Result<OwnerWatch, Error> {
        let (own, (end, ended)) = (Arc::downgrade(self), mpsc::channel::<()>());
        let run = move || {
            // Servers that are configured alike start together, most often.
            let mut pause = FIRST_LOOK;
            while ended.recv_timeout(pause) == Err(RecvTimeoutError::Timeout)
                && let Some(own) = own.upgrade()
            {
                own.check_owner();
                pause = (pause * 2).min(LAST_LOOK);
            }
        };
        let thread = thread::Builder::new().name("epicycle-owner".to_owned());
        let thread = thread.spawn(run).map_err(|error| {
            Error::backend("registry", format!("no thread for the own record: {error}"))
        })?;
        Ok(OwnerWatch {
            end: Some(end),
            thread: Some(thread),
        })
    }

    /// Adds the metrics of the registry's backend.
    pub(in crate::cluster) fn expose(&self, labels: &[(&str, &str)], to: &mut Exposition) {
        let labels = [labels, &[("role", "registry")]].concat();
        self.registry.expose(&labels, to);
    }

    /// Returns what the banner of a process shows: the alias, if the instance is registered, and the kind of the registry.
    pub(in crate::cluster) fn describe(&self) -> Vec<(&'static str, String)> {
        let record = self.record.lock();
        let alias = record.as_ref().map(|record| ("Name", record.alias.clone()));
        let registry = ("Registry", self.registry.kind().to_owned());
        alias.into_iter().chain([registry]).collect()
    }

    /// Takes the server from the registry. It is not registered again.
    pub(in crate::cluster) fn deregister(&self) {
        let mut record = self.record.lock();
        let Some(own) = record.take() else {
            return;
        };
        match self.registry.deregister(&own) {
            Ok(()) => {
                log::info!(target: "epicycle::cluster", "the {} {} is registered no more", own.name, own.id);
            }
            Err(error) => {
                log::warn!(target: "epicycle::cluster", "the {} {} stays registered: {error}", own.name, own.id);
            }
        }
    }
}

/// The thread that asks for a server's own record. A drop ends it, and waits for it.
#[must_use = "dropping it ends the thread"]
pub(in crate::cluster) struct OwnerWatch {
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for OwnerWatch {
    fn drop(&mut self) {
        self.end = None;
        if let Some(thread) = self.thread.take()
            && let Err(panicked) = thread.join()
        {
            panic::report("epicycle::cluster", "the watch of the own record", panicked);
        }
    }
}
