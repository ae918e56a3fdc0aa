//! The parts of a URL.

use std::fmt;

use ::http::Uri;

use super::error::FetchError;
use crate::addr::{Endpoint, Family};

/// A place to connect to. Connections are kept by it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Destination {
    pub(super) is_tls: bool,
    /// In lower case. An IPv6 address has no brackets.
    host: String,
    port: u16,
}

/// A URL, taken apart for a request.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) destination: Destination,
    /// The value of the `Host` header.
    pub(super) host: String,
    /// The path with the query.
    pub(super) path: String,
}

impl Destination {
    pub(super) fn endpoint(&self) -> Endpoint {
        Endpoint::Tcp {
            host: self.host.clone(),
            port: self.port,
            family: Family::Any,
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl Target {
    pub(super) fn parse(url: &str) -> Result<Self, FetchError> {
        let bad = |problem| FetchError::Url {
            url: url.to_owned(),
            problem,
        };
        let uri: Uri = url.parse().map_err(|_| {
            bad("it is not a URI; write http://host/path, and percent-encode other characters")
        })?;
        let is_tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") if cfg!(feature = "tls") => true,
            Some("https") => return Err(bad("https needs the cargo feature `tls`")),
            _ => return Err(bad("it has another scheme than http and https")),
        };
        let authority = uri
            .authority()
            .filter(|authority| !authority.host().is_empty());
        let authority = authority.ok_or_else(|| bad("it has no host"))?;
        if authority.as_str().contains('@') {
            return Err(bad("it has a user; set the header Authorization instead"));
        }
        let usual = if is_tls { 443 } else { 80 };
        // `Uri` takes a number that is too large for no port at all.
        let port = authority.as_str().strip_prefix(authority.host());
        let port = match port.unwrap_or_default() {
            "" | ":" => usual,
            port => match port.trim_start_matches(':').parse() {
                Ok(0) => return Err(bad("port 0 cannot be connected to")),
                Ok(port) => port,
                Err(_) => return Err(bad("its port is not a number up to 65535")),
            },
        };
        let host = authority.host().to_ascii_lowercase();
        let name = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        Ok(Self {
            host: match port == usual {
                true => host,
                false => format!("{host}:{port}"),
            },
            destination: Destination {
                is_tls,
                host: name,
                port,
            },
            path: path.to_owned(),
        })
    }
}
