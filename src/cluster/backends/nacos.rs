use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use super::BackendStats;
use super::http::{HttpServers, HttpSettings, Problem, escape, excerpt};
use crate::cluster::Error;
use crate::tls::TlsClient;

/// The servers of Nacos, by its open API v1. Clones share its connections.
#[derive(Clone)]
pub struct Nacos(Arc<Shared>);

/// Sets up a [`Nacos`].
#[derive(Clone)]
#[must_use = "it does nothing until `build` is called"]
pub struct NacosBuilder {
    http: HttpSettings,
    namespace: String,
    user: Option<(String, String)>,
}

struct Shared {
    servers: HttpServers,
    namespace: String,
    user: Option<(String, String)>,
}

/// The parameters of a call.
pub(in crate::cluster) type Params<'p> = &'p [(&'p str, &'p str)];

impl Nacos {
    /// Returns the server of a URL, such as `http://127.0.0.1:8848/nacos`. Nothing is dialled yet.
    ///
    /// # Errors
    ///
    /// As [`NacosBuilder::build`].
    pub fn open(url: &str) -> Result<Self, Error> {
        Self::builder().url(url).build()
    }

    /// Returns a builder.
    pub fn builder() -> NacosBuilder {
        NacosBuilder {
            http: HttpSettings::new(),
            namespace: String::new(),
            user: None,
        }
    }

    /// Returns its state. Calls do not queue.
    pub fn stats(&self) -> BackendStats {
        self.0.servers.stats()
    }

    pub(in crate::cluster) fn namespace(&self) -> &str {
        &self.0.namespace
    }

    /// Makes a call. Returns none if what it concerns is not there.
    pub(in crate::cluster) fn call(
        &self,
        method: &str,
        path: &str,
        params: Params<'_>,
    ) -> Result<Option<Vec<u8>>, Error> {
        let servers = &self.0.servers;
        servers.attempt(|url| {
            let mut form = encode(params);
            if let Some(user) = &self.0.user {
                let token = servers.token(|| self.log_in(url, user))?;
                form += &format!("&accessToken={}", escape(&token));
            }
            // A form, since the metadata of an instance can be longer than a URL may be.
            let has_form = matches!(method, "POST" | "PUT");
            let request = match has_form {
                true => servers
                    .client()
                    .request(method, format!("{url}{path}"))
                    .header("Content-Type", FORM)
                    .body(form),
                false => servers
                    .client()
                    .request(method, format!("{url}{path}?{form}")),
            };
            let response = request.send().map_err(Problem::lost)?;
            match response.status().as_u16() {
                200 => Ok(Some(response.body().to_vec())),
                404 => Ok(None),
                401 | 403 if self.0.user.is_some() => Err(Problem::Token),
                status => Err(Problem::of_status(status, &excerpt(response.body()))),
            }
        })
    }

    fn log_in(&self, url: &str, (name, password): &(String, String)) -> Result<String, Problem> {
        #[derive(Deserialize)]
        struct LoggedIn {
            #[serde(rename = "accessToken")]
            token: String,
        }

        let client = self.0.servers.client();
        let form = encode(&[("username", name), ("password", password)]);
        let request = client.post(format!("{url}/v1/auth/login"));
        let request = request.header("Content-Type", FORM).body(form);
        let response = request.send().map_err(Problem::lost)?;
        match response.status().as_u16() {
            200 => serde_json::from_slice(response.body())
                .map(|answer: LoggedIn| answer.token)
                .map_err(|error| Problem::Refused(format!("there is no token: {error}"))),
            status => Err(Problem::of_status(status, &excerpt(response.body()))),
        }
    }

    pub(in crate::cluster) fn error(&self, problem: impl Into<String>) -> Error {
        self.0.servers.error(problem)
    }
}

const FORM: &str = "application/x-www-form-urlencoded";

fn encode(params: Params<'_>) -> String {
    let pairs = params.iter().filter(|(_, value)| !value.is_empty());
    let pairs: Vec<_> = pairs
        .map(|(name, value)| format!("{name}={}", escape(value)))
        .collect();
    pairs.join("&")
}

impl NacosBuilder {
    /// Adds the URL of a server, with its path, and with `https` for TLS. If one does not answer, the next one is asked.
    pub fn url(mut self, url: impl Into<String>) -> Self {
        self.http.urls.push(url.into());
        self
    }

    /// Sets the id of the namespace. The default is that of `public`, which is empty.
    pub fn namespace(mut self, id: impl Into<String>) -> Self {
        self.namespace = id.into();
        self
    }

    /// Sets the user. It is exchanged for a token.
    pub fn user(mut self, name: impl Into<String>, password: impl Into<String>) -> Self {
        self.user = Some((name.into(), password.into()));
        self
    }

    /// Sets the time that a server has to be reached, and to answer, each. The default is 3 s.
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
    pub fn build(self) -> Result<Nacos, Error> {
        Ok(Nacos(Arc::new(Shared {
            servers: HttpServers::start("nacos", "http://127.0.0.1:8848/nacos", self.http)?,
            namespace: self.namespace,
            user: self.user,
        })))
    }
}

impl fmt::Debug for NacosBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NacosBuilder")
            .field("http", &self.http)
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Nacos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nacos")
            .field("servers", &self.0.servers)
            .field("namespace", &self.0.namespace)
            .finish_non_exhaustive()
    }
}
