//! A container: starts the components of a process, waits for a signal, and closes them.
//!
//! ```
//! use epicycle::cluster::container::Container;
//! use epicycle::cluster::gate::Gate;
//!
//! let container = Container::new()
//!     .name("play")
//!     .add(Gate::builder().listen("tcp://127.0.0.1:0").listen("ws://127.0.0.1:0/play"));
//! let handle = container.handle();
//! # handle.stop();
//! // Returns when a signal comes, or after `handle.stop()` on another thread.
//! let report = container.serve()?;
//! println!("{report}");
//! # Ok::<(), epicycle::cluster::container::ContainerError>(())
//! ```
//!
//! | Step | Order | When a component fails or panics |
//! |---|---|---|
//! | [`init`](Component::init) | as they were added | nothing is started |
//! | [`start`](Component::start) | as they were added | those before it are closed, and `serve` returns the error |
//! | wait for SIGINT, SIGTERM, SIGQUIT or [`ContainerHandle::stop`] | | |
//! | [`close`](Component::close) | all at once, within [`shutdown_max_wait`](Container::shutdown_max_wait) | the report tells it, and the others go on |
//! | [`destroy`](Component::destroy), then drop | the other way round | the same |
//!
//! A second signal ends the wait for components that are still closing. A third one ends the process. Signals need the feature
//! `signals`, which is on by default.

mod admin;
mod banner;
mod client;
mod component;
mod error;
mod gate;
#[cfg(feature = "cluster-http")]
mod http;
mod mesh;
mod node;
mod pid;
mod report;
mod run;
#[cfg(feature = "signals")]
mod signals;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use self::run::Run;
use super::Mode;
use super::config::Config;

pub use self::admin::AdminComponent;
pub use self::client::ClientComponent;
pub use self::component::{Component, Failure, IntoComponent};
pub use self::error::{ContainerError, Step};
pub use self::gate::GateComponent;
#[cfg(feature = "cluster-http")]
pub use self::http::HttpComponent;
pub use self::mesh::MeshComponent;
pub use self::node::NodeComponent;
pub use self::report::{ComponentReport, Outcome, Report};

/// The components of a process.
#[must_use = "it does nothing until `serve` is called"]
pub struct Container {
    name: String,
    components: Vec<Box<dyn Component>>,
    shutdown_max_wait: Duration,
    pid_file: Option<PathBuf>,
    mode: Mode,
    handle: ContainerHandle,
    orders: Receiver<Order>,
}

/// Stops a container. A clone is another name for the same.
#[derive(Clone)]
pub struct ContainerHandle {
    orders: Sender<Order>,
    /// True once the end has been asked for.
    is_stopping: Arc<AtomicBool>,
}

/// An order to the thread that serves.
enum Order {
    /// The end is asked for, by this.
    Stop(String),
    /// The wait for components is over.
    Hurry,
    Closed(run::Closed),
}

impl Container {
    /// Returns a container without components.
    pub fn new() -> Self {
        let (sender, orders) = mpsc::channel();
        Self {
            name: "epicycle".to_owned(),
            components: Vec::new(),
            shutdown_max_wait: Duration::from_secs(60),
            pid_file: None,
            mode: Mode::default(),
            handle: ContainerHandle {
                orders: sender,
                is_stopping: Arc::default(),
            },
            orders,
        }
    }

    /// Sets the name of the process, for the banner and the log. Default: `epicycle`.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Adds a component. Builders of gates, nodes, meshes and admin interfaces can be added as they are.
    #[expect(clippy::should_implement_trait, reason = "it adds no number")]
    pub fn add(mut self, component: impl IntoComponent) -> Self {
        self.components.push(Box::new(component.into_component()));
        self
    }

    /// Sets the time in which all components must be closed. Those that are not are left behind, and their threads end with the
    /// process. [`Duration::MAX`]: no limit. Default: 60 s.
    pub fn shutdown_max_wait(mut self, time: Duration) -> Self {
        self.shutdown_max_wait = time;
        self
    }

    /// Sets the file for the number of the process. It is written, with its folder, when all components have started, and removed
    /// at the end. Default: none.
    pub fn pid_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.pid_file = Some(path.into());
        self
    }

    /// Sets the mode that the banner shows. Default: [`Mode::Debug`].
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// Sets what a configuration has for a process: `pid`, `mode` and `shutdownMaxWaitTime`.
    pub fn config(mut self, config: &Config) -> Self {
        if let Some(path) = &config.pid_file {
            self = self.pid_file(path);
        }
        if let Some(mode) = config.mode {
            self = self.mode(mode);
        }
        match config.shutdown_max_wait {
            None => self,
            Some(Duration::ZERO) => self.shutdown_max_wait(Duration::MAX),
            Some(time) => self.shutdown_max_wait(time),
        }
    }

    /// Returns a handle that stops the container.
    pub fn handle(&self) -> ContainerHandle {
        self.handle.clone()
    }

    /// Starts the components, waits until the end is asked for, and closes them. On a terminal it prints what has started.
    ///
    /// # Errors
    ///
    /// [`ContainerError::Component`] if a component does not start, [`ContainerError::PidFile`] if that file cannot be written. All
    /// components are closed then. [`ContainerError::Signals`] if the kernel refuses what the wait for signals needs.
    pub fn serve(self) -> Result<Report, ContainerError> {
        Run::new(self).serve()
    }
}

impl ContainerHandle {
    /// Ends the container, as a first signal does.
    pub fn stop(&self) {
        self.ask("a call of stop".to_owned());
    }

    /// Ends the container, or the wait for components that are still closing, as a second signal does.
    pub fn stop_now(&self) {
        self.stop();
        // Without a receiver the container has ended.
        let _ = self.orders.send(Order::Hurry);
    }

    /// Asks for the end, unless somebody has.
    fn ask(&self, why: String) {
        if !self.is_stopping.swap(true, Ordering::AcqRel) {
            let _ = self.orders.send(Order::Stop(why));
        }
    }
}

impl Default for Container {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Container")
            .field("name", &self.name)
            .field("components", &self.components.len())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ContainerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContainerHandle")
            .field("is_stopping", &self.is_stopping.load(Ordering::Relaxed))
            .finish_non_exhaustive()
    }
}
