use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::{Kind, State};
use crate::metrics::{Expose, Exposition};

/// A part of a process that tells its state and its metrics: a gate, a node, a mesh.
pub trait Observed: Send + Sync + 'static {
    /// Returns the kind and the id of the instance.
    fn identity(&self) -> (Kind, &str);

    /// Returns the state in which it is registered. `None` if it has one that nobody knows.
    fn state(&self) -> Option<State>;

    /// Returns the endpoint of another server that has registered with the same id since, so that this one is no longer reached.
    fn taken_by(&self) -> Option<String> {
        None
    }

    /// Adds its metrics, each with these labels. It may block for a moment, so it is not called on a reactor.
    fn expose(&self, labels: &[(&str, &str)], to: &mut Exposition);
}

/// The parts of a process that an [admin interface](super::admin) tells of. Clones share the list.
///
/// A part is on the list from its start to its end.
///
/// ```
/// use epicycle::cluster::Monitor;
/// use epicycle::cluster::gate::Gate;
///
/// let monitor = Monitor::new();
/// let gate = Gate::builder().monitor(&monitor).listen("tcp://127.0.0.1:0").id("gate-1").start()?;
/// assert!(monitor.metrics().contains(r#"epicycle_gate_connections{id="gate-1"} 0"#));
/// gate.shutdown();
/// assert!(monitor.metrics().is_empty());
/// # Ok::<(), epicycle::cluster::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct Monitor(Arc<Lists>);

#[derive(Default)]
struct Lists {
    parts: Mutex<Vec<Weak<dyn Observed>>>,
    /// By role.
    sources: Mutex<BTreeMap<String, Arc<Source>>>,
}

/// Something else that has metrics.
type Source = dyn Expose + Send + Sync;

impl Monitor {
    /// Returns an empty list.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a part. It leaves the list with its last `Arc`.
    pub fn add(&self, part: &Arc<impl Observed>) {
        let mut parts = self.0.parts.lock();
        parts.retain(|part| part.strong_count() > 0);
        let part: Weak<dyn Observed> = Arc::downgrade(&(part.clone() as Arc<dyn Observed>));
        parts.push(part);
    }

    /// Adds what is no part but has metrics: a backend, an event bus, metrics of the application. They get the label `role`. Another one
    /// of that role is replaced. It is held until the last clone of the monitor is gone, and so a backend keeps its connections.
    ///
    /// ```
    /// use epicycle::cluster::Monitor;
    /// use epicycle::cluster::eventbus::{EventBus, MemoryEventBus};
    ///
    /// let (monitor, bus) = (Monitor::new(), MemoryEventBus::new());
    /// monitor.add_metrics("bus", bus.clone());
    /// bus.publish("login", "7")?;
    /// assert!(monitor.metrics().contains(r#"epicycle_bus_published_total{role="bus"} 1"#));
    /// # Ok::<(), epicycle::cluster::Error>(())
    /// ```
    pub fn add_metrics(
        &self,
        role: impl Into<String>,
        source: impl Expose + Send + Sync + 'static,
    ) {
        let replaced = (self.0.sources.lock()).insert(role.into(), Arc::new(source));
        drop(replaced);
    }

    /// Returns the metrics of all parts in the text format of Prometheus, with the label `id`.
    pub fn metrics(&self) -> String {
        let mut exposition = Exposition::new();
        self.expose(&mut exposition);
        let mut text = String::new();
        exposition.write(&mut text);
        text
    }

    /// Adds the metrics of all parts, and of all that was [added](Self::add_metrics).
    pub fn expose(&self, to: &mut Exposition) {
        let sources = self.0.sources.lock().clone();
        for (role, source) in sources {
            source.expose(&[("role", &*role)], to);
        }
        for part in self.parts() {
            let (kind, id) = part.identity();
            part.expose(&[("id", id)], to);
            let labels = [("id", id), ("kind", kind.as_str())];
            let state = part.state().map_or(-1.0, |state| state.code().into());
            let help = "The state: 0 shut, 1 work, 2 busy, 3 hang, -1 unknown.";
            to.gauge("epicycle_cluster_state", help, &labels, state);
            let taken = f64::from(u8::from(part.taken_by().is_some()));
            let help = "1 if another server has registered with the same id, so that this one is no longer reached.";
            to.gauge("epicycle_cluster_record_taken", help, &labels, taken);
        }
    }

    /// Returns the parts that are there now.
    pub(super) fn parts(&self) -> Vec<Arc<dyn Observed>> {
        self.0
            .parts
            .lock()
            .iter()
            .filter_map(Weak::upgrade)
            .collect()
    }
}

impl fmt::Debug for Monitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = self.parts();
        let names = parts.iter().map(|part| part.identity());
        f.debug_list().entries(names).finish()
    }
}
