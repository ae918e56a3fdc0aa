use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::BackendStats;
use super::http::{HttpServers, HttpSettings, Problem, excerpt};
use crate::cluster::Error;
use crate::cluster::ending::Ending;
use crate::fetch::{Request, Response};
use crate::tls::TlsClient;

/// The agent of Consul on this machine, or several agents. Clones share its connections.
#[derive(Clone)]
pub struct Consul(Arc<Shared>);

/// Sets up a [`Consul`].
#[derive(Clone)]
#[must_use = "it does nothing until `build` is called"]
pub struct ConsulBuilder {
    http: HttpSettings,
    token: Option<String>,
}

struct Shared {
    servers: HttpServers,
    token: Option<String>,
}

/// An answer, with the number of the last change that it knows of.
pub(in crate::cluster) struct Indexed<T> {
    pub(in crate::cluster) value: T,
    pub(in crate::cluster) index: u64,
}

/// An agent holds a query for this time at most.
const HELD: Duration = Duration::from_secs(60);

impl Consul {
    /// Returns the agent of a URL, such as `http://127.0.0.1:8500`. Nothing is dialled yet.
    ///
    /// # Errors
    ///
    /// As [`ConsulBuilder::build`].
    pub fn open(url: &str) -> Result<Self, Error> {
        Self::builder().url(url).build()
    }

    /// Returns a builder.
    pub fn builder() -> ConsulBuilder {
        ConsulBuilder {
            http: HttpSettings::new(),
            token: None,
        }
    }

    /// Returns its state. Calls do not queue.
    pub fn stats(&self) -> BackendStats {
        self.0.servers.stats()
    }

    /// Has the agent change something. Returns false if it does not know what is to be changed.
    pub(in crate::cluster) fn put(&self, path: &str, body: &impl Serialize) -> Result<bool, Error> {
        let body = serde_json::to_vec(body).map_err(|error| Error::Codec(Arc::new(error)))?;
        self.put_bytes(path, &body)
    }

    /// The same, with a body that is encoded already.
    pub(in crate::cluster) fn put_bytes(&self, path: &str, body: &[u8]) -> Result<bool, Error> {
        self.0.servers.attempt(|url| {
            let request = self.0.servers.client().put(format!("{url}{path}"));
            let request = request.header("Content-Type", "application/json");
            let response = self.authorized(request).body(body.to_vec()).send();
            let response = response.map_err(Problem::lost)?;
            let status = response.status().as_u16();
            let message = excerpt(response.body());
            // Older agents tell by a status of 500 that they do not know a check.
            let is_unknown = status == 404
                || message.contains("does not have associated TTL")
                || message.contains("Unknown check");
            match status {
                200 => Ok(true),
                _ if is_unknown => Ok(false),
                _ => Err(Problem::of_status(status, &message)),
            }
        })
    }

    /// Returns what the agent knows as soon as it has changed since `index`, or else after a minute. 0 is before all changes.
    pub(in crate::cluster) fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        index: u64,
        ending: &Ending,
    ) -> Result<Indexed<Option<T>>, Error> {
        let servers = &self.0.servers;
        servers.attempt(|url| {
            let mark = if path.contains('?') { '&' } else { '?' };
            let query = format!("{mark}index={index}&wait={}ms", HELD.as_millis());
            let request = servers.client().get(format!("{url}{path}{query}"));
            // It holds a request for up to a sixteenth longer.
            let request = servers.patiently(self.authorized(request), HELD + HELD / 16);
            let response = ending.interrupt(request).send();
            let response = response.map_err(|error| match ending.is_over() {
                true => Problem::Ended,
                false => Problem::lost(error),
            })?;
            let header = response.headers().get("X-Consul-Index");
            let new = header.and_then(|value| std::str::from_utf8(value.as_ref()).ok());
            let new = new.and_then(|value| value.parse().ok()).unwrap_or(0);
            let value = read(path, &response)?;
            // An index that is lower is that of a server without the old data.
            let index = if new < index { 0 } else { new };
            Ok(Indexed { value, index })
        })
    }

    /// Returns what the agent has at a path.
    pub(in crate::cluster) fn find<T: DeserializeOwned>(
        &self,
        path: &str,
    ) -> Result<Option<T>, Error> {
        let servers = &self.0.servers;
        servers.attempt(|url| {
            let request = servers.client().get(format!("{url}{path}"));
            let response = self.authorized(request).send().map_err(Problem::lost)?;
            read(path, &response)
        })
    }

    fn authorized(&self, request: Request) -> Request {
        match &self.0.token {
            Some(token) => request.header("X-Consul-Token", token),
            None => request,
        }
    }

    pub(in crate::cluster) fn error(&self, problem: impl Into<String>) -> Error {
        self.0.servers.error(problem)
    }
}

/// Reads an answer. There is none if the agent does not know what it was asked for.
fn read<T: DeserializeOwned>(path: &str, response: &Response<Bytes>) -> Result<Option<T>, Problem> {
    let value = match response.status().as_u16() {
        200 => serde_json::from_slice(response.body()),
        404 => return Ok(None),
        status => return Err(Problem::of_status(status, &excerpt(response.body()))),
    };
    value.map_err(|error| Problem::Refused(format!("{path} answers strangely: {error}")))
}

impl ConsulBuilder {
    /// Adds the URL of an agent, with `https` for TLS. If one does not answer, the next one is asked. Servers are registered at one
    /// agent, so a record is written again at the next one.
    pub fn url(mut self, url: impl Into<String>) -> Self {
        self.http.urls.push(url.into());
        self
    }

    /// Sets the token of the access control list.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// Sets the time that an agent has to be reached, and to answer, each. The default is 3 s.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.http.timeout = timeout;
        self
    }

    /// Sets the trusted authorities, and a certificate of this side, for `https`. The default is the system's authorities.
    pub fn tls(mut self, tls: &TlsClient) -> Self {
        self.http.tls = Some(tls.clone());
        self
    }

    /// Returns the backend. Its thread is started, but nothing is dialled yet.
    ///
    /// # Errors
    ///
    /// Returns [`Error::InvalidArgument`] if there is no URL, one is neither `http` nor `https` or has a user, or the timeout is below
    /// 1 ms or above an hour, and [`Error::Backend`] if the thread cannot be started.
    pub fn build(self) -> Result<Consul, Error> {
        Ok(Consul(Arc::new(Shared {
            servers: HttpServers::start("consul", "http://127.0.0.1:8500", self.http)?,
            token: self.token,
        })))
    }
}

impl fmt::Debug for ConsulBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsulBuilder")
            .field("http", &self.http)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Consul {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consul")
            .field("servers", &self.0.servers)
            .finish_non_exhaustive()
    }
}
