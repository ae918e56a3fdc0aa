use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::cluster::{Error, Event, Kind, State};

/// A gate, node or mesh as it is registered.
///
/// # Examples
///
/// ```
/// use epicycle::cluster::registry::{Instance, RouteSpec};
/// use epicycle::cluster::{Kind, State};
///
/// let mut node = Instance::new(Kind::Node, "node-1", "drpc://127.0.0.1:7001?is_secure=false");
/// node.routes.push(RouteSpec::new(3).stateful());
/// assert_eq!(
///     node.to_json()?,
///     r#"{"id":"node-1","name":"node","kind":"node","alias":"node","state":"work","#.to_owned()
///         + r#""routes":[{"i":3,"s":true}],"endpoint":"drpc://127.0.0.1:7001?is_secure=false"}"#
/// );
/// assert_eq!(Instance::from_json(node.to_json()?.as_bytes())?, node);
/// # Ok::<(), epicycle::cluster::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Instance {
    /// The id, unlike that of any other instance.
    pub id: String,
    /// The name under which it is registered: `gate`, `node` or `mesh`.
    pub name: String,
    /// The kind.
    pub kind: Kind,
    /// The name that was configured. Nodes of one alias serve the same routes.
    #[serde(default)]
    pub alias: String,
    /// The state.
    pub state: State,
    /// The numbers of the [`Event`]s that it wants.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<i32>,
    /// The routes that it serves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<RouteSpec>,
    /// The services that it has, if it is a mesh.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<String>,
    /// The address of its links: `drpc://HOST:PORT?is_secure=false`.
    #[serde(default)]
    pub endpoint: String,
    /// The share that it gets of the packets, relative to the others. 0 counts as 1.
    #[serde(default, skip_serializing_if = "is_default")]
    pub weight: u32,
    /// Whatever the application adds.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// Fields of other versions, which are kept.
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}

/// A route that a node serves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RouteSpec {
    /// The route.
    #[serde(default, rename = "i")]
    pub id: i32,
    /// True if it is never for packets of clients.
    #[serde(default, rename = "n", skip_serializing_if = "is_default")]
    pub internal: bool,
    /// True if it is served by the node that the user is bound to.
    #[serde(default, rename = "s", skip_serializing_if = "is_default")]
    pub stateful: bool,
    /// True if the connection must have a user.
    #[serde(default, rename = "a", skip_serializing_if = "is_default")]
    pub authorized: bool,
}

impl RouteSpec {
    /// Returns a route without flags.
    pub fn new(id: i32) -> Self {
        Self {
            id,
            ..Self::default()
        }
    }

    /// Makes it one that is never for packets of clients.
    #[must_use]
    pub fn internal(mut self) -> Self {
        self.internal = true;
        self
    }

    /// Makes it one that is served by the node that the user is bound to.
    #[must_use]
    pub fn stateful(mut self) -> Self {
        self.stateful = true;
        self
    }

    /// Makes it one for which the connection must have a user.
    #[must_use]
    pub fn authorized(mut self) -> Self {
        self.authorized = true;
        self
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// The maximum length of an instance's id, name and alias, in bytes.
const MAX_NAME: usize = 255;

impl Instance {
    /// Returns an instance in `work`, whose name and alias are those of its kind.
    pub fn new(kind: Kind, id: impl Into<String>, endpoint: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            name: kind.to_string(),
            kind,
            alias: kind.to_string(),
            state: State::Work,
            events: Vec::new(),
            routes: Vec::new(),
            services: Vec::new(),
            endpoint: endpoint.into(),
            weight: 0,
            metadata: BTreeMap::new(),
            other: BTreeMap::new(),
        }
    }

    /// Returns true if the instance wants this event.
    pub fn wants(&self, event: Event) -> bool {
        self.events.contains(&event.code().into())
    }

    /// Reads a record of the registry.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Codec`] if it is not one, and [`Error::InvalidArgument`] if its id or name is not allowed.
    pub fn from_json(record: &[u8]) -> Result<Self, Error> {
        let instance: Self =
            serde_json::from_slice(record).map_err(|error| Error::Codec(Arc::new(error)))?;
        instance.check()?;
        Ok(instance)
    }

    /// Returns the record of the registry.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Codec`] if a field among [`other`](Self::other) cannot be JSON.
    pub fn to_json(&self) -> Result<String, Error> {
        serde_json::to_string(self).map_err(|error| Error::Codec(Arc::new(error)))
    }

    /// Checks id and name, which are parts of keys and paths of the backends.
    ///
    /// # Errors
    ///
    /// Returns [`Error::InvalidArgument`] if one is empty, longer than 255 bytes, or has a slash or a control character.
    pub fn check(&self) -> Result<(), Error> {
        for (name, text) in [("id", &self.id), ("name", &self.name)] {
            let is_odd = |c: char| c == '/' || c.is_control();
            if text.is_empty() || text.len() > MAX_NAME || text.contains(is_odd) {
                let problem = format!(
                    "{text:?} of an instance is not allowed; use 1 to {MAX_NAME} bytes without slashes"
                );
                return Err(Error::argument(name, problem));
            }
        }
        Ok(())
    }
}
