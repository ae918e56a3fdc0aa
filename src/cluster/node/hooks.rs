//! The functions of an application that are called when a node starts and ends.

use parking_lot::Mutex;

/// A stage in the life of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stage {
    /// Before it listens.
    Init,
    /// It is registered.
    Start,
    /// It is about to stop, and serves still.
    Close,
    /// It has ended.
    Destroy,
}

type Hook = Box<dyn FnOnce() + Send>;

/// The hooks that have not been called yet. The lock is never waited for: with it threads may share a node, though not its hooks.
#[derive(Default)]
pub(super) struct Hooks(Mutex<Vec<(Stage, Hook)>>);

impl Hooks {
    pub(super) fn add(&mut self, stage: Stage, hook: impl FnOnce() + Send + 'static) {
        self.0.get_mut().push((stage, Box::new(hook)));
    }

    /// Calls those of a stage.
    pub(super) fn run(&mut self, stage: Stage) {
        let hooks = self.0.get_mut();
        for (_, hook) in hooks.extract_if(.., |(of, _)| *of == stage) {
            crate::panic::catch("epicycle::cluster", "a hook of a node", hook);
        }
    }
}
