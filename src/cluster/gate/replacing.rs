//! Gates that another process replaces while they run.

use super::handler::GateReactor;
use super::listener::ClientListener;
use crate::cluster::Error;
use crate::engine::handler::Engine;
use crate::engine::listen::handover::Control;
use crate::engine::server::replacing::Replacing;
use crate::engine::server::watcher::Watcher;

/// Where a gate is replaced, and what is done then.
pub(super) struct Replaceable {
    control: Control,
    replaced: Box<dyn FnOnce() + Send>,
}

impl Replaceable {
    pub(super) fn new(control: Control, replaced: impl FnOnce() + Send + 'static) -> Self {
        Self {
            control,
            replaced: Box::new(replaced),
        }
    }

    /// Puts the sockets of the gate that runs, if there is one, in the places of the addresses.
    pub(super) fn begin(&self, listeners: &mut [ClientListener]) -> Result<Replacing, Error> {
        let mut listens = Vec::new();
        listens.extend(listeners.iter_mut().filter_map(ClientListener::listen_mut));
        if listens.iter().any(|listen| !listen.is_stream()) {
            let problem = "UDP ports are not handed over; give `kcp://` a gate of its own";
            return Err(Error::argument("replaceable", problem));
        }
        Ok(Replacing::begin(&self.control, listens.into_iter())?)
    }

    /// Relieves the old gate, and waits for the next one until the watchers are dropped.
    pub(super) fn finish(
        self,
        replacing: Replacing,
        engine: &Engine<GateReactor>,
    ) -> Result<Vec<Watcher>, Error> {
        let (ours, engine) = (engine.clone(), engine.clone());
        // The first one is for links.
        let listeners = move || Ok(ours.listeners()?.into_iter().skip(1).collect());
        let release = move || {
            for door in 1..engine.local_addrs().len() {
                engine.unlisten(door);
            }
        };
        Ok(replacing.finish(listeners, release, self.replaced)?)
    }
}
