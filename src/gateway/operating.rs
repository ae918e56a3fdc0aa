//! Changes by operators: of nodes, of the configuration, and the end.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Gateway;
use super::admin::Operate;
use super::config;
use super::error::GatewayError;
use super::hooks::Hooks;
use super::running::Control;
use super::settings::{NodeChange, NodeSettings, Problem};
use super::shared::{Reload, Source};
use super::status::{ChangeStatus, ConnectionsStatus, HealthStatus, PoolStatus, Reloaded};
use crate::engine::handler::HandleError;

/// # Operating
///
/// A change that is made here lies over the nodes of the configuration, or of a [source](Self::discover). It lasts until a configuration
/// is taken over in which the pool has other nodes than in the last one. Each call waits until all reactors have taken the change
/// over, so do not call one in a hook.
impl<H: Hooks> Control<H> {
    /// Adds a node to a pool, or replaces the settings of the node with its address. Returns true if it is new.
    ///
    /// # Errors
    ///
    /// [`GatewayError::NotFound`] if there is no such pool, [`GatewayError::Settings`] for a node that cannot be, and
    /// [`GatewayError::Conflict`] if 4096 nodes of the pool are changed already.
    pub fn set_node(&self, pool: &str, node: NodeSettings) -> Result<bool, GatewayError> {
        self.change_nodes(|lists, settings| lists.set(pool, node, settings))
    }

    /// Changes some settings of a node. `address` is that of the settings, with or without its scheme. Returns its settings.
    ///
    /// ```
    /// use epicycle::gateway::Gateway;
    /// use epicycle::gateway::settings::{NodeChange, NodeState, PoolSettings, RouteSettings};
    ///
    /// let running = Gateway::builder()
    ///     .listen("tcp://127.0.0.1:0")
    ///     .pool("app", PoolSettings::of(["http://127.0.0.1:9001", "http://127.0.0.1:9002"]))
    ///     .route(RouteSettings::to("app"))
    ///     .build()?
    ///     .start_plain()?;
    /// let control = running.control();
    /// control.change_node("app", "127.0.0.1:9002", &NodeChange::default().state(NodeState::Drain))?;
    /// assert_eq!(control.pools()[0].nodes[1].set, NodeState::Drain);
    /// # running.shutdown();
    /// # Ok::<(), epicycle::gateway::GatewayError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`GatewayError::NotFound`] if there is no such pool or node, and [`GatewayError::Conflict`] as for
    /// [`set_node`](Self::set_node).
    pub fn change_node(
        &self,
        pool: &str,
        address: &str,
        change: &NodeChange,
    ) -> Result<NodeSettings, GatewayError> {
        self.change_nodes(|lists, settings| lists.alter(pool, address, change, settings))
    }

    /// Removes a node, which is drained. `address` is as for [`change_node`](Self::change_node). Returns its address.
    ///
    /// # Errors
    ///
    /// [`GatewayError::NotFound`] if there is no such pool or node, and [`GatewayError::Conflict`] if it is the last one.
    pub fn remove_node(&self, pool: &str, address: &str) -> Result<String, GatewayError> {
        self.change_nodes(|lists, settings| lists.remove(pool, address, settings))
    }

    /// Takes over a configuration, as a file has it: TOML, or the same as JSON. Paths in it are relative to the folder of the
    /// file that the gateway was started with. It does not change the file: what is read there next takes its place.
    ///
    /// A configuration without `admin` keeps the admin interface as it is.
    ///
    /// # Errors
    ///
    /// [`GatewayError::Config`] with all faults, [`GatewayError::Conflict`] if it changes the admin interface, which only a file may,
    /// and those of [`reload`](Self::reload). Nothing has changed then.
    pub fn configure(&self, text: &str, is_json: bool) -> Result<Reloaded, GatewayError> {
        self.configure_if(text, is_json, None)
    }

    /// Takes over a configuration, unless another one than the `expected` one is in force.
    fn configure_if(
        &self,
        text: &str,
        is_json: bool,
        expected: Option<u64>,
    ) -> Result<Reloaded, GatewayError> {
        let (file, admin) = {
            let state = self.shared.state.lock();
            (state.source.file.clone(), state.settings.admin.clone())
        };
        let folder = file
            .as_deref()
            .and_then(Path::parent)
            .unwrap_or(Path::new(""));
        let read = config::parse_body(text, is_json, folder).map_err(GatewayError::Config);
        let (mut settings, text) = read.inspect_err(|error| self.note_failed_reload(error))?;
        if settings.admin.is_some() && settings.admin != admin {
            let problem = "the admin interface is changed in the file only; leave `admin` out";
            return Err(GatewayError::Conflict(Problem {
                place: "admin".to_owned(),
                problem: problem.to_owned(),
            }));
        }
        settings.admin = admin;
        let source = Source {
            file,
            text: Some(text.into()),
        };
        self.take_configuration("operator", settings, source, expected)
    }

    /// Reads the configuration file again, as the program does when it is told to, and takes it over.
    ///
    /// # Errors
    ///
    /// [`GatewayError::Conflict`] if the gateway was not started with a file, [`GatewayError::Config`] with all faults of the file,
    /// and those of [`reload`](Self::reload). Nothing has changed then.
    pub fn reread(&self) -> Result<Reloaded, GatewayError> {
        let reload = self.shared.program.lock().reload.clone();
        if let Some(reload) = reload {
            return reload();
        }
        let file = self.shared.state.lock().source.file.clone();
        let file = file.ok_or_else(|| {
            GatewayError::Conflict(Problem {
                place: "reload".to_owned(),
                problem: "there is no file to read again; the program made the configuration"
                    .to_owned(),
            })
        })?;
        let gateway = Gateway::from_file(&file);
        self.reload(&gateway.inspect_err(|error| self.note_failed_reload(error))?)
    }

    /// Sets what [`reread`](Self::reread) does, for a program that reads its configuration in another way.
    pub fn reread_with(
        &self,
        reload: impl Fn() -> Result<Reloaded, GatewayError> + Send + Sync + 'static,
    ) {
        let reload: Reload = Arc::new(reload);
        self.shared.program.lock().reload = Some(reload);
    }

    /// Begins the end: [begins to drain](Self::begin_drain), and [shuts down](Self::shutdown) after the
    /// [grace](Self::drain_grace). Returns at once.
    pub fn drain(&self) {
        self.begin_drain();
        let drain = self.shared.program.lock().drain.clone();
        if let Some(drain) = drain {
            return drain();
        }
        let deadline = self.shared.state.lock().settings.drain.deadline;
        let engine = self.engine.clone();
        // A reactor may not wait for the settings, so it does not call `shutdown`.
        let later = self.engine.schedule(0, self.drain_grace(), move |_, _| {
            engine.shutdown_within(deadline);
        });
        if later.is_err() {
            self.shutdown();
        }
    }

    /// Sets what [`drain`](Self::drain) does once it has begun to drain, for a program that ends in another way.
    pub fn drain_with(&self, drain: impl Fn() + Send + Sync + 'static) {
        self.shared.program.lock().drain = Some(Arc::new(drain));
    }

    /// Returns the number of the configuration in force, and the configuration as JSON, in the form of the file and without its
    /// secrets. If the gateway was not started with a file, it has the principal settings.
    pub fn config_json(&self) -> (u64, String) {
        let state = self.shared.state.lock();
        let mut config = match &state.source.text {
            Some(text) => config::json::redacted(text),
            None => config::json::outline(&state.settings),
        };
        if let Some(reactors) = state.settings.reactors {
            config.insert("reactors".to_owned(), reactors.into());
        }
        let changed = state.settings.pools.iter();
        let changed = changed.filter(|(name, _)| state.lists.differs(name));
        config::json::set_nodes(&mut config, changed);
        let generation = self.shared.generation.load(Ordering::Relaxed);
        (generation, serde_json::Value::Object(config).to_string())
    }
}

impl<H: Hooks> Operate for Control<H> {
    fn config(&self) -> (u64, String) {
        self.config_json()
    }

    fn pools(&self) -> Vec<PoolStatus> {
        self.pools()
    }

    fn pool(&self, name: &str) -> Option<PoolStatus> {
        self.pool(name)
    }

    fn health(&self) -> HealthStatus {
        self.health()
    }

    fn connections(&self) -> ConnectionsStatus {
        self.connections()
    }

    fn history(&self) -> Vec<ChangeStatus> {
        self.history()
    }

    fn metrics(&self) -> String {
        self.metrics()
    }

    fn configure(
        &self,
        text: &str,
        is_json: bool,
        expected: Option<u64>,
    ) -> Result<Reloaded, GatewayError> {
        self.configure_if(text, is_json, expected)
    }

    fn set_node(
        &self,
        pool: &str,
        address: &str,
        body: &str,
        is_json: bool,
    ) -> Result<bool, GatewayError> {
        let change = node_change(body, is_json)?;
        let to = match address.contains("://") {
            true => address.to_owned(),
            false => format!("tcp://{address}"),
        };
        let mut node = NodeSettings::new(to);
        change.apply(&mut node);
        self.set_node(pool, node)
    }

    fn change_node(
        &self,
        pool: &str,
        address: &str,
        body: &str,
        is_json: bool,
    ) -> Result<NodeSettings, GatewayError> {
        self.change_node(pool, address, &node_change(body, is_json)?)
    }

    fn remove_node(&self, pool: &str, address: &str) -> Result<String, GatewayError> {
        self.remove_node(pool, address)
    }

    fn reload(&self) -> Result<Reloaded, GatewayError> {
        self.reread()
    }

    fn drain(&self) {
        self.drain();
    }

    fn has_ended(&self) -> bool {
        let asked = self.engine.run_on(0, |_, _| {});
        matches!(asked, Err(HandleError::Closed))
    }
}

/// Reads a request to the admin interface as far as it can be read without a gateway. Returns the configuration without its secrets, if it
/// has one, and otherwise an empty text.
///
/// # Errors
///
/// The problems.
#[cfg(feature = "internals")]
pub fn admin_request(
    method: &str,
    path: &str,
    body: &str,
    is_json: bool,
) -> Result<String, String> {
    match super::admin::body_of(method, path)? {
        None => Ok(String::new()),
        Some(true) => {
            let read = config::parse_body(body, is_json, Path::new(""));
            let (_, text) = read.map_err(|error| error.to_string())?;
            Ok(serde_json::Value::Object(config::json::redacted(&text)).to_string())
        }
        Some(false) => {
            let read = config::parse_node_change(body, is_json);
            read.map(|_| String::new())
                .map_err(|error| error.to_string())
        }
    }
}

fn node_change(body: &str, is_json: bool) -> Result<NodeChange, GatewayError> {
    config::parse_node_change(body, is_json).map_err(GatewayError::Config)
}
