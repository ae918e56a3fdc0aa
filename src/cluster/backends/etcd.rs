use std::fmt;
use std::io::{BufRead, BufReader, Read};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};

use super::BackendStats;
use super::http::{HttpServers, HttpSettings, Problem, excerpt};
use crate::cluster::Error;
use crate::cluster::ending::Ending;
use crate::fetch::{Body, FetchError};
use crate::tls::TlsClient;

/// The servers of an etcd cluster, by the JSON gateway of etcd 3.4 and later. Clones share its connections.
#[derive(Clone)]
pub struct Etcd(Arc<Shared>);

/// Sets up an [`Etcd`].
#[derive(Clone, Debug)]
#[must_use = "it does nothing until `build` is called"]
pub struct EtcdBuilder {
    http: HttpSettings,
    credentials: Option<Credentials>,
}

#[derive(Clone, Serialize)]
struct Credentials {
    name: String,
    password: String,
}

struct Shared {
    servers: HttpServers,
    credentials: Option<Credentials>,
}

/// An answer that is not wanted.
#[derive(Deserialize)]
struct Refusal {
    #[serde(alias = "error", default)]
    message: String,
}

/// The texts by which a server tells that a user must authenticate anew.
const TOKEN_IS_OLD: [&str; 3] = [
    "invalid auth token",
    "revision of auth store is old",
    "user name is empty",
];
/// The longest reason for which a watch is refused.
const MAX_REFUSAL: u64 = 64 << 10;
/// The greatest answer of a watch, in one line.
const MAX_LINE: usize = 64 << 20;

impl Etcd {
    /// Returns the server of a URL, such as `http://127.0.0.1:2379`. Nothing is dialled yet.
    ///
    /// # Errors
    ///
    /// As [`EtcdBuilder::build`].
    pub fn open(url: &str) -> Result<Self, Error> {
        Self::builder().url(url).build()
    }

    /// Returns a builder.
    pub fn builder() -> EtcdBuilder {
        EtcdBuilder {
            http: HttpSettings::new(),
            credentials: None,
        }
    }

    /// Returns its state. Calls do not queue.
    pub fn stats(&self) -> BackendStats {
        self.0.servers.stats()
    }

    /// Asks one server after the other until one answers.
    pub(in crate::cluster) fn call<T: DeserializeOwned>(
        &self,
        path: &str,
        request: &impl Serialize,
    ) -> Result<T, Error> {
        let body = serde_json::to_vec(request).map_err(|error| Error::Codec(Arc::new(error)))?;
        self.0.servers.attempt(|url| {
            let response = self.request(url, path, &body)?.send();
            let response = response.map_err(Problem::lost)?;
            check(response.status().as_u16(), response.body())?;
            serde_json::from_slice(response.body())
                .map_err(|error| Problem::Refused(format!("{path} answers strangely: {error}")))
        })
    }

    /// Opens a stream of answers, each in a line. It is over after `turn`.
    pub(in crate::cluster) fn stream(
        &self,
        path: &str,
        request: &impl Serialize,
        turn: Duration,
        ending: &Ending,
    ) -> Result<Stream, Error> {
        let body = serde_json::to_vec(request).map_err(|error| Error::Codec(Arc::new(error)))?;
        self.0.servers.attempt(|url| {
            let request = self.request(url, path, &body)?.timeout(turn);
            let response = ending.interrupt(request).stream();
            let response = response.map_err(|error| match ending.is_over() {
                true => Problem::Ended,
                false => Problem::lost(error),
            })?;
            let status = response.status().as_u16();
            let lines = BufReader::new(response.into_body());
            if status != 200 {
                let mut text = Vec::new();
                let _ = lines.take(MAX_REFUSAL).read_until(b'\n', &mut text);
                check(status, &text)?;
                return Err(Problem::of_status(status, "it streams nothing"));
            }
            Ok(Stream(lines))
        })
    }

    fn request(
        &self,
        url: &str,
        path: &str,
        body: &[u8],
    ) -> Result<crate::fetch::Request, Problem> {
        let request = self.0.servers.client().post(format!("{url}{path}"));
        let request = request.header("Content-Type", "application/json");
        let request = match self.token(url)? {
            Some(token) => request.header("Authorization", token),
            None => request,
        };
        Ok(request.body(body.to_vec()))
    }

    /// Returns the token of the user, if there is one.
    fn token(&self, url: &str) -> Result<Option<String>, Problem> {
        #[derive(Deserialize)]
        struct Authenticated {
            token: String,
        }

        let Some(credentials) = &self.0.credentials else {
            return Ok(None);
        };
        let log_in = || {
            let body = serde_json::to_vec(credentials)
                .map_err(|error| Problem::Refused(error.to_string()))?;
            let client = self.0.servers.client();
            let request = client.post(format!("{url}/v3/auth/authenticate"));
            let response = request.body(body).send().map_err(Problem::lost)?;
            check(response.status().as_u16(), response.body())?;
            let answer: Authenticated = serde_json::from_slice(response.body())
                .map_err(|error| Problem::Refused(format!("there is no token: {error}")))?;
            Ok(answer.token)
        };
        self.0.servers.token(log_in).map(Some)
    }
}

fn check(status: u16, body: &[u8]) -> Result<(), Problem> {
    if status == 200 {
        return Ok(());
    }
    let refusal = serde_json::from_slice::<Refusal>(body);
    let message = refusal.map_or_else(|_| excerpt(body), |refusal| refusal.message);
    if TOKEN_IS_OLD.iter().any(|text| message.contains(text)) {
        return Err(Problem::Token);
    }
    Err(Problem::of_status(status, &message))
}

/// Returns the error that etcd is the cause of.
pub(in crate::cluster) fn etcd_error(problem: impl Into<String>) -> Error {
    Error::backend("etcd", problem)
}

/// Answers that come one after the other.
pub(in crate::cluster) struct Stream(BufReader<Body>);

impl Stream {
    /// Waits for the next answer. Returns none when the time of the stream is over.
    pub(in crate::cluster) fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, Error> {
        let mut line = Vec::new();
        loop {
            let read = match self.0.fill_buf() {
                Ok(read) => read,
                Err(error) => {
                    let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
                    if cause.is_some_and(FetchError::is_timeout) {
                        return Ok(None);
                    }
                    return Err(etcd_error(error.to_string()));
                }
            };
            if read.is_empty() {
                return Err(etcd_error("the stream of answers has ended"));
            }
            let end = memchr::memchr(b'\n', read);
            line.extend_from_slice(&read[..end.unwrap_or(read.len())]);
            let used = end.map_or(read.len(), |end| end + 1);
            self.0.consume(used);
            if line.len() > MAX_LINE {
                return Err(etcd_error("an answer is too long"));
            }
            if end.is_some() {
                let answer = serde_json::from_slice(&line);
                return answer
                    .map(Some)
                    .map_err(|error| etcd_error(format!("a stream answers strangely: {error}")));
            }
        }
    }
}

impl EtcdBuilder {
    /// Adds the URL of a server, with `https` for TLS. If one does not answer, the next one is asked.
    pub fn url(mut self, url: impl Into<String>) -> Self {
        self.http.urls.push(url.into());
        self
    }

    /// Sets the user.
    pub fn user(mut self, name: impl Into<String>, password: impl Into<String>) -> Self {
        self.credentials = Some(Credentials {
            name: name.into(),
            password: password.into(),
        });
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
    /// 1 ms or above an hour, and [`Error::Backend`] if the
    /// thread cannot be started.
    pub fn build(self) -> Result<Etcd, Error> {
        let servers = HttpServers::start("etcd", "http://127.0.0.1:2379", self.http)?;
        Ok(Etcd(Arc::new(Shared {
            servers,
            credentials: self.credentials,
        })))
    }
}

/// Bytes in base64, as the gateway has keys and values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::cluster) struct Base64(pub(in crate::cluster) Vec<u8>);

impl Serialize for Base64 {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64_STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = BASE64_STANDARD.decode(text);
        bytes.map(Self).map_err(serde::de::Error::custom)
    }
}

/// A number of 64 bits, which the gateway has as text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::cluster) struct Number(pub(in crate::cluster) i64);

impl Serialize for Number {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Self).map_err(serde::de::Error::custom)
    }
}

/// Returns the first key after all that begin with `prefix`.
pub(in crate::cluster) fn end_of_prefix(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    // A prefix is text, whose bytes are below 255.
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Etcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Etcd")
            .field("servers", &self.0.servers)
            .finish_non_exhaustive()
    }
}
