//! A thread that follows the changes of a watch.

use std::thread::{self, JoinHandle};

#[cfg(feature = "testing")]
use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "testing")]
use parking_lot::Mutex;

use super::{Error, Watch, WatchHandle};
use crate::panic;

/// Starts [`Follower`]s: on threads of their own, or in a simulated network without threads.
#[derive(Clone, Default)]
pub(in crate::cluster) struct Followers {
    #[cfg(feature = "testing")]
    by_hand: Option<Arc<Mutex<Vec<Step>>>>,
}

/// Does what the changes so far ask for.
#[cfg(feature = "testing")]
type Step = Box<dyn FnMut() + Send>;

/// A watch that is followed. A drop ends it, and waits for its thread.
#[must_use = "dropping it ends the watch"]
pub(in crate::cluster) struct Follower {
    watch: WatchHandle,
    thread: Option<JoinHandle<()>>,
}

impl Followers {
    /// Returns followers without threads: [`catch_up`](Self::catch_up) does their work.
    #[cfg(feature = "testing")]
    pub(in crate::cluster) fn by_hand() -> Self {
        Self {
            by_hand: Some(Arc::default()),
        }
    }

    /// Does what the changes so far ask for, in the order in which the followers were started.
    #[cfg(feature = "testing")]
    pub(in crate::cluster) fn catch_up(&self) {
        if let Some(steps) = &self.by_hand {
            steps.lock().iter_mut().for_each(|step| step());
        }
    }

    /// Calls `each` with each change, and with `None` when the watch has ended.
    ///
    /// # Errors
    ///
    /// [`Error::Backend`] if a thread cannot be started.
    pub(in crate::cluster) fn follow<T: Send + 'static>(
        &self,
        name: &'static str,
        watch: Watch<T>,
        mut each: impl FnMut(Option<T>) + Send + 'static,
    ) -> Result<Follower, Error> {
        let handle = watch.handle();
        #[cfg(feature = "testing")]
        if let Some(steps) = &self.by_hand {
            let mut watch = watch;
            let step = move || {
                while let Some(change) = watch.try_next() {
                    each(Some(change));
                }
            };
            steps.lock().push(Box::new(step));
            return Ok(Follower {
                watch: handle,
                thread: None,
            });
        }
        let run = move || {
            for change in watch {
                each(Some(change));
            }
            each(None);
        };
        let thread = thread::Builder::new().name(format!("epicycle-{name}"));
        let thread = thread
            .spawn(run)
            .map_err(|error| Error::backend(name, format!("no thread for its watch: {error}")))?;
        Ok(Follower {
            watch: handle,
            thread: Some(thread),
        })
    }
}

impl Follower {
    /// Returns for how long the source has been lost.
    pub(in crate::cluster) fn lost_for(&self) -> Option<Duration> {
        self.watch.lost_since().map(|since| since.elapsed())
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.watch.close();
        if let Some(thread) = self.thread.take()
            // What it does can drop the last handle of its owner. It ends by itself then.
            && thread.thread().id() != thread::current().id()
            && let Err(panicked) = thread.join()
        {
            panic::report("epicycle::cluster", "the follower of a watch", panicked);
        }
    }
}
