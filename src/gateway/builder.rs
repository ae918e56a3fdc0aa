use super::Gateway;
use super::error::GatewayError;
use super::settings::{
    AdminSettings, Drain, ListenerSettings, PoolSettings, RouteSettings, Settings,
};

/// Collects the settings of a [`Gateway`].
///
/// ```
/// use epicycle::gateway::Gateway;
/// use epicycle::gateway::settings::{PoolSettings, RouteSettings};
///
/// let gateway = Gateway::builder()
///     .listen("tcp://127.0.0.1:0")
///     .pool("app", PoolSettings::of(["http://10.0.0.1:8080", "http://10.0.0.2:8080"]))
///     .pool("static", PoolSettings::of(["http://10.0.0.3"]))
///     .route(RouteSettings::to("app"))
///     .route(RouteSettings::to("static").path("/static/*"))
///     .build()?;
/// # let _ = gateway;
/// # Ok::<(), epicycle::gateway::GatewayError>(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "a gateway does nothing until it is started"]
pub struct Builder {
    settings: Settings,
}

impl Builder {
    /// Adds a listener: an address, or a [`ListenerSettings`].
    pub fn listen(mut self, listener: impl Into<ListenerSettings>) -> Self {
        self.settings.listeners.push(listener.into());
        self
    }

    /// Adds a route.
    pub fn route(mut self, route: RouteSettings) -> Self {
        self.settings.routes.push(route);
        self
    }

    /// Adds a pool. It replaces an earlier one of that name.
    pub fn pool(mut self, name: impl Into<String>, pool: PoolSettings) -> Self {
        self.settings.pools.insert(name.into(), pool);
        self
    }

    /// Adds a node to the pool `default`, and a route for all requests to it.
    pub fn to(mut self, node: impl Into<String>) -> Self {
        const NAME: &str = "default";
        let pools = &mut self.settings.pools;
        if !pools.contains_key(NAME) {
            self.settings.routes.push(RouteSettings::to(NAME));
        }
        let pool = pools.entry(NAME.to_owned()).or_default();
        pool.nodes.push(super::settings::NodeSettings::new(node));
        self
    }

    /// Sets the number of reactors. Default: one for each CPU.
    pub fn reactors(mut self, reactors: usize) -> Self {
        self.settings.reactors = Some(reactors);
        self
    }

    /// Sets the rules for the end of the gateway.
    pub fn drain(mut self, drain: Drain) -> Self {
        self.settings.drain = drain;
        self
    }

    /// Opens an admin interface.
    pub fn admin(mut self, admin: AdminSettings) -> Self {
        self.settings.admin = Some(admin);
        self
    }

    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// [`GatewayError::Settings`] with all problems.
    pub fn build(self) -> Result<Gateway, GatewayError> {
        Gateway::new(self.settings)
    }
}

impl<A: Into<String>> From<A> for ListenerSettings {
    fn from(on: A) -> Self {
        ListenerSettings::new(on)
    }
}
