use std::fmt;
use std::str::FromStr;

use crate::authority::Authority;
use crate::cluster::Error;

/// The place that calls of a mesh go to.
///
/// # Examples
///
/// ```
/// use epicycle::cluster::mesh::Target;
///
/// assert_eq!("discovery://math".parse::<Target>()?, Target::Service("math".to_owned()));
/// assert_eq!("direct://mesh-1".parse::<Target>()?, Target::Instance("mesh-1".to_owned()));
/// assert_eq!("direct://[::1]:9000".parse::<Target>()?, Target::Address("[::1]:9000".to_owned()));
/// assert!("math".parse::<Target>().is_err());
/// # Ok::<(), epicycle::cluster::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Target {
    /// `discovery://NAME`: all instances with a service of this name.
    Service(String),
    /// `direct://ID`: the instance of this id.
    Instance(String),
    /// `direct://HOST:PORT`: this address. By TLS if it is that of a registered instance that wants it.
    Address(String),
    /// `direct://HOST:PORT?is_secure=true`: this address, by TLS.
    SecureAddress(String),
}

impl FromStr for Target {
    type Err = Error;

    /// Parses a target.
    ///
    /// # Errors
    ///
    /// Returns [`Error::InvalidArgument`] if it has neither form.
    fn from_str(text: &str) -> Result<Self, Error> {
        let named = |name: &str| (!name.is_empty()).then(|| name.to_owned());
        let target = if let Some(name) = text.strip_prefix("discovery://") {
            named(name).map(Target::Service)
        } else if let Some(direct) = text.strip_prefix("direct://") {
            let (address, is_secure) = match direct.strip_suffix("?is_secure=true") {
                Some(address) => (address, true),
                None => (direct, false),
            };
            let authority = Authority::parse_socket(address.as_bytes());
            let is_address = authority.is_ok_and(|authority| {
                !authority.host.is_empty() && authority.port.is_some_and(|port| port != 0)
            });
            match (is_address, is_secure) {
                (true, true) => Some(Target::SecureAddress(address.to_owned())),
                (true, false) => Some(Target::Address(address.to_owned())),
                (false, _) => named(direct).map(Target::Instance),
            }
        } else {
            None
        };
        target.ok_or_else(|| {
            let forms = "discovery://SERVICE, direct://ID or direct://HOST:PORT";
            Error::argument("target", format!("{text:?} is not {forms}"))
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Service(name) => write!(f, "discovery://{name}"),
            Target::Instance(id) => write!(f, "direct://{id}"),
            Target::Address(address) => write!(f, "direct://{address}"),
            Target::SecureAddress(address) => write!(f, "direct://{address}?is_secure=true"),
        }
    }
}
