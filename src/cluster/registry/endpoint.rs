use std::fmt;
use std::str::FromStr;

use crate::authority::Authority;
use crate::cluster::Error;

/// The address of an instance's links: `drpc://HOST:PORT?is_secure=false`.
///
/// Other parameters are ignored, as due does.
///
/// # Examples
///
/// ```
/// use epicycle::cluster::registry::LinkEndpoint;
///
/// let endpoint: LinkEndpoint = "drpc://10.0.0.1:7001?is_secure=true".parse()?;
/// assert_eq!((endpoint.address(), endpoint.is_secure()), ("10.0.0.1:7001", true));
/// assert_eq!(LinkEndpoint::new("[::1]:7001", false)?.to_string(), "drpc://[::1]:7001?is_secure=false");
/// # Ok::<(), epicycle::cluster::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LinkEndpoint {
    address: String,
    secure: bool,
}

/// The scheme of links between servers.
const SCHEME: &str = "drpc://";

impl LinkEndpoint {
    /// Returns the endpoint of a host and port, with TLS or without.
    ///
    /// # Errors
    ///
    /// Returns [`Error::InvalidArgument`] if the address is not `HOST:PORT`. A port of 0 is none.
    pub fn new(address: impl Into<String>, secure: bool) -> Result<Self, Error> {
        let address = address.into();
        let authority = Authority::parse_socket(address.as_bytes()).ok();
        let is_whole = authority.is_some_and(|authority| {
            !authority.host.is_empty() && authority.port.is_some_and(|port| port != 0)
        });
        if !is_whole {
            let problem =
                format!("{address:?} is not HOST:PORT; write an IPv6 address in brackets");
            return Err(Error::argument("endpoint", problem));
        }
        Ok(Self { address, secure })
    }

    /// Parses what is behind the scheme.
    fn parse(rest: &str) -> Result<Self, Error> {
        let (address, query) = rest.split_once('?').unwrap_or((rest, ""));
        let secure = query.split('&').any(|pair| pair == "is_secure=true");
        Self::new(address.strip_suffix('/').unwrap_or(address), secure)
    }

    /// Returns the same endpoint, with TLS or without.
    #[must_use]
    pub fn with_tls(mut self, secure: bool) -> Self {
        self.secure = secure;
        self
    }

    /// Returns `HOST:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Returns true if the links use TLS.
    pub fn is_secure(&self) -> bool {
        self.secure
    }
}

impl FromStr for LinkEndpoint {
    type Err = Error;

    /// Parses the endpoint of a record.
    ///
    /// # Errors
    ///
    /// Returns [`Error::InvalidArgument`] if the scheme is not `drpc`, or the address not `HOST:PORT`.
    fn from_str(text: &str) -> Result<Self, Error> {
        let Some(rest) = text.strip_prefix(SCHEME) else {
            let problem = format!("{text:?} does not begin with {SCHEME}");
            return Err(Error::argument("endpoint", problem));
        };
        Self::parse(rest)
    }
}

impl fmt::Display for LinkEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}?is_secure={}", self.address, self.secure)
    }
}

/// The address of a mesh's services: `SCHEME://HOST:PORT?is_secure=false`. The scheme names the protocol of the calls.
///
/// # Examples
///
/// ```
/// use epicycle::cluster::registry::ServiceEndpoint;
///
/// let endpoint: ServiceEndpoint = "grpc://10.0.0.1:9000?is_secure=true".parse()?;
/// assert_eq!((endpoint.scheme(), endpoint.address(), endpoint.is_secure()), ("grpc", "10.0.0.1:9000", true));
/// # Ok::<(), epicycle::cluster::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServiceEndpoint {
    scheme: String,
    at: LinkEndpoint,
}

impl ServiceEndpoint {
    /// Returns the endpoint of a scheme, host and port, with TLS or without.
    ///
    /// # Errors
    ///
    /// Returns [`Error::InvalidArgument`] if the scheme is empty or has a colon, or the address is not `HOST:PORT`.
    pub fn new(
        scheme: impl Into<String>,
        address: impl Into<String>,
        secure: bool,
    ) -> Result<Self, Error> {
        let scheme = scheme.into();
        if scheme.is_empty() || scheme.contains([':', '/']) {
            return Err(Error::argument(
                "endpoint",
                format!("{scheme:?} is no scheme"),
            ));
        }
        let at = LinkEndpoint::new(address, secure)?;
        Ok(Self { scheme, at })
    }

    /// Returns the scheme.
    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// Returns `HOST:PORT`.
    pub fn address(&self) -> &str {
        self.at.address()
    }

    /// Returns the host, without brackets, and the port.
    #[cfg(any(feature = "consul", feature = "nacos"))]
    pub(super) fn host_and_port(&self) -> (&str, u16) {
        let (host, port) = self.address().rsplit_once(':').unwrap_or_default();
        let host = host.strip_prefix('[').unwrap_or(host);
        let host = host.strip_suffix(']').unwrap_or(host);
        (host, port.parse().unwrap_or_default())
    }

    /// Returns true if the calls use TLS.
    pub fn is_secure(&self) -> bool {
        self.at.is_secure()
    }
}

impl FromStr for ServiceEndpoint {
    type Err = Error;

    /// Parses the endpoint of a record.
    ///
    /// # Errors
    ///
    /// Returns [`Error::InvalidArgument`] if there is no scheme, or the address is not `HOST:PORT`.
    fn from_str(text: &str) -> Result<Self, Error> {
        let Some((scheme, rest)) = text.split_once("://") else {
            let problem = format!("{text:?} is not SCHEME://HOST:PORT");
            return Err(Error::argument("endpoint", problem));
        };
        let at = LinkEndpoint::parse(rest)?;
        Self::new(scheme, at.address, at.secure)
    }
}

impl fmt::Display for ServiceEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, at) = (&self.scheme, &self.at);
        write!(f, "{scheme}://{}?is_secure={}", at.address, at.secure)
    }
}
