//! An HTTP gateway: a reverse proxy with pools of upstream connections, balancing and health checks.

mod builder;
mod config;
mod error;
pub mod settings;

use std::path::Path;
use std::sync::Arc;

use self::settings::Settings;

pub use self::builder::Builder;
pub use self::config::{ConfigError, Fault};
pub use self::error::GatewayError;

/// A gateway whose settings are checked.
///
/// ```
/// use epicycle::gateway::Gateway;
///
/// let gateway = Gateway::builder().listen("tcp://127.0.0.1:0").to("http://127.0.0.1:9000").build()?;
/// assert_eq!(gateway.settings().pools["default"].nodes.len(), 1);
/// # Ok::<(), epicycle::gateway::GatewayError>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "a gateway does nothing until it is started"]
pub struct Gateway {
    settings: Arc<Settings>,
}

impl Gateway {
    /// Returns a builder.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Returns a gateway with the settings of a TOML file. `docs/gateway.md` describes its keys.
    ///
    /// # Errors
    ///
    /// [`GatewayError::Config`] with all faults of the file, each with its line and remedy.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, GatewayError> {
        let settings = config::load(path.as_ref()).map_err(GatewayError::Config)?;
        Self::new(settings)
    }

    /// Returns a gateway with these settings.
    ///
    /// # Errors
    ///
    /// [`GatewayError::Settings`] with all problems.
    pub fn new(settings: Settings) -> Result<Self, GatewayError> {
        let problems = settings.problems();
        match problems.is_empty() {
            true => Ok(Self {
                settings: Arc::new(settings),
            }),
            false => Err(GatewayError::Settings(problems)),
        }
    }

    /// Returns the settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }
}
