//! Threads that wait for something from outside: signals, or another process.

use std::io;
use std::thread::{self, JoinHandle};

/// A thread that waits until this value is dropped. The drop ends the wait, and joins the thread.
pub(crate) struct Watcher {
    end_wait: Box<dyn Fn() + Send + Sync>,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    pub(crate) fn start(
        name: &str,
        end_wait: impl Fn() + Send + Sync + 'static,
        watch: impl FnOnce() + Send + 'static,
    ) -> io::Result<Self> {
        let thread = thread::Builder::new().name(name.to_owned()).spawn(watch)?;
        Ok(Self {
            end_wait: Box::new(end_wait),
            thread: Some(thread),
        })
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        (self.end_wait)();
        if let Some(thread) = self.thread.take()
            // Its work may drop its owner. It ends by itself then.
            && thread.thread().id() != thread::current().id()
        {
            let _ = thread.join();
        }
    }
}
