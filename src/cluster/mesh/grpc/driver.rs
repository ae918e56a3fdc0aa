//! The thread of the clients' connections.

use std::thread;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::oneshot;

use crate::cluster::Error;
use crate::engine::reactor_thread;

/// The most threads that look up host names at once.
const LOOKUPS: usize = 4;

/// A thread that runs connections until this is dropped.
pub(super) struct Driver {
    pub(super) handle: Handle,
    /// Its drop ends the thread.
    _running: oneshot::Sender<()>,
}

impl Driver {
    pub(super) fn start() -> Result<Self, Error> {
        let runtime = runtime()?;
        let handle = runtime.handle().clone();
        let (running, ended) = oneshot::channel();
        let run = move || {
            // The callbacks of calls run here, and must not wait for other calls.
            let _mark = reactor_thread::mark();
            let _ = runtime.block_on(ended);
            runtime.shutdown_background();
        };
        spawn("epicycle-grpc", run)?;
        Ok(Self {
            handle,
            _running: running,
        })
    }
}

/// Returns a runtime for one thread.
pub(super) fn runtime() -> Result<Runtime, Error> {
    let mut builder = Builder::new_current_thread();
    let built = builder
        .enable_io()
        .enable_time()
        .max_blocking_threads(LOOKUPS)
        .build();
    built.map_err(|error| Error::backend("runtime of gRPC", error.to_string()))
}

pub(super) fn spawn(
    name: &str,
    run: impl FnOnce() + Send + 'static,
) -> Result<thread::JoinHandle<()>, Error> {
    let spawned = thread::Builder::new().name(name.to_owned()).spawn(run);
    spawned.map_err(|error| Error::backend("thread of gRPC", error.to_string()))
}
