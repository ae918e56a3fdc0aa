use std::fmt;
use std::io;
use std::path::PathBuf;

use super::Failure;
use crate::error::error_messages;

/// The reason why a container does not serve.
#[non_exhaustive]
pub enum ContainerError {
    /// A component has failed. All that had started are closed.
    Component {
        /// The name of the component.
        name: String,
        /// The step that failed.
        step: Step,
        /// The error of the component, or the message of its panic.
        error: Failure,
    },
    /// The file for the number of the process cannot be written.
    PidFile {
        /// The path.
        path: PathBuf,
        /// The error of the kernel.
        source: io::Error,
    },
    /// The kernel refuses the wait for signals.
    Signals {
        /// The error of the kernel.
        source: io::Error,
    },
}

/// A step in the life of a component.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Step {
    /// [`Component::init`](super::Component::init).
    Init,
    /// [`Component::start`](super::Component::start).
    Start,
    /// [`Component::close`](super::Component::close).
    Close,
    /// [`Component::destroy`](super::Component::destroy), and the drop.
    Destroy,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Init => "init",
            Self::Start => "start",
            Self::Close => "close",
            Self::Destroy => "destroy",
        })
    }
}

error_messages! {
    ContainerError {
        Self::Component { name, step, error } => "the component {name:?} fails to {step}: {error}",
        Self::PidFile { path, source } => "cannot write the process number to {}: {source}; choose another `pid_file`" (path.display()),
        Self::Signals { source } => "cannot wait for signals: {source}",
    }
    causes {
        Self::Component { error, .. } => &**error,
        Self::PidFile { source, .. } => source,
    }
}
