use std::time::Duration;

/// The error of a component.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A part of a process that starts and ends with it.
///
/// ```
/// use std::time::Duration;
/// use epicycle::cluster::container::{Component, Container, Failure};
///
/// struct Scores {
///     table: Vec<u32>,
/// }
///
/// impl Component for Scores {
///     fn name(&self) -> &str {
///         "scores"
///     }
///
///     fn start(&mut self) -> Result<(), Failure> {
///         self.table = std::fs::read_to_string("/dev/null")?.lines().flat_map(str::parse).collect();
///         Ok(())
///     }
///
///     fn close(&mut self, _deadline: Duration) -> Result<(), Failure> {
///         std::fs::write("/dev/null", format!("{:?}", self.table))?;
///         Ok(())
///     }
/// }
///
/// let container = Container::new().add(Scores { table: Vec::new() });
/// container.handle().stop();
/// container.serve()?;
/// # Ok::<(), epicycle::cluster::container::ContainerError>(())
/// ```
#[expect(
    clippy::missing_errors_doc,
    reason = "the application decides about them"
)]
pub trait Component: Send + 'static {
    /// Returns the name, for the log, the banner and the report.
    fn name(&self) -> &str;

    /// Prepares the start. No component has started yet.
    fn init(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    /// Starts. It returns when the component works.
    fn start(&mut self) -> Result<(), Failure>;

    /// Returns what the banner shows of the component once it has started, as names and values.
    fn banner(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    /// Lets the work under way end, and takes no new work. It is called on a thread of its own, at the same time as that of the
    /// other components. After the deadline nobody waits for it any more.
    fn close(&mut self, deadline: Duration) -> Result<(), Failure> {
        let _ = deadline;
        Ok(())
    }

    /// Frees what others may have needed until now: all components are closed.
    fn destroy(&mut self) -> Result<(), Failure> {
        Ok(())
    }
}

/// A value that can be added to a [`Container`](super::Container): a component, or a builder of one.
pub trait IntoComponent {
    /// The component.
    type Component: Component;

    /// Returns the component.
    fn into_component(self) -> Self::Component;
}

impl<C: Component> IntoComponent for C {
    type Component = C;

    fn into_component(self) -> C {
        self
    }
}

/// Returns the time for a drain, which leaves some of the time until the deadline for what follows it.
pub(super) fn drain_time(deadline: Duration) -> Duration {
    deadline.saturating_sub((deadline / 4).min(AFTER_DRAIN))
}

/// Servers of due have 2 s at the end of a drain, and the registry may need a while.
const AFTER_DRAIN: Duration = Duration::from_secs(10);
