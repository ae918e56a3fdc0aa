use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::BackendStats;
use super::health::Health;
use crate::cluster::Error;
use crate::fetch::{Client, FetchError};
use crate::tls::TlsClient;

/// The servers of a backend that speaks HTTP. If one does not answer, the next one is asked.
pub(super) struct HttpServers {
    backend: &'static str,
    client: Client,
    urls: Vec<String>,
    #[cfg(feature = "consul")]
    timeout: Duration,
    /// The server that answered last.
    current: AtomicUsize,
    /// That of the user, which the server has given.
    token: Mutex<Option<String>>,
    health: Mutex<Health>,
}

/// The settings of the builder of such a backend.
#[derive(Clone)]
pub(super) struct HttpSettings {
    pub(super) urls: Vec<String>,
    pub(super) timeout: Duration,
    pub(super) tls: Option<TlsClient>,
}

/// The reason why one server did not do what it was asked.
pub(super) enum Problem {
    /// It has not answered, or cannot serve now. Another one may.
    Lost(String),
    Refused(String),
    /// Nobody waits for the answer any more.
    #[cfg(any(feature = "consul", feature = "etcd"))]
    Ended,
    /// The token is no longer valid.
    #[cfg_attr(
        not(any(feature = "etcd", feature = "nacos")),
        expect(dead_code, reason = "Consul's tokens do not end")
    )]
    Token,
}

/// The greatest answer.
const MAX_BODY: u64 = 64 << 20;

impl HttpServers {
    /// Starts the thread of the connections. Nothing is dialled yet.
    pub(super) fn start(
        backend: &'static str,
        example: &str,
        settings: HttpSettings,
    ) -> Result<Self, Error> {
        super::check_timeout(settings.timeout)?;
        // A user in it would be shown wherever the URL is.
        let is_url = |url: &String| {
            (url.starts_with("http://") || url.starts_with("https://")) && !url.contains('@')
        };
        if settings.urls.is_empty() || !settings.urls.iter().all(is_url) {
            let problem = format!(
                "give those of {backend}, such as {example}, and the user by a call of its own"
            );
            return Err(Error::argument("url", problem));
        }
        let mut client = Client::builder()
            .connect_timeout(settings.timeout)
            .response_timeout(settings.timeout)
            .timeout(settings.timeout * 2)
            .max_body(MAX_BODY);
        if let Some(tls) = &settings.tls {
            client = client.tls(tls);
        }
        let client = client
            .start()
            .map_err(|error| Error::backend(backend, error.to_string()))?;
        let urls = settings.urls.iter();
        Ok(Self {
            backend,
            client,
            urls: urls
                .map(|url| url.trim_end_matches('/').to_owned())
                .collect(),
            #[cfg(feature = "consul")]
            timeout: settings.timeout,
            current: AtomicUsize::new(0),
            token: Mutex::default(),
            health: Mutex::new(Health::new(backend)),
        })
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Makes a request that the server holds until something happens, for at most `wait`.
    #[cfg(feature = "consul")]
    pub(super) fn patiently(
        &self,
        request: crate::fetch::Request,
        wait: Duration,
    ) -> crate::fetch::Request {
        request.timeout(wait + self.timeout)
    }

    #[cfg(any(feature = "etcd", feature = "nacos"))]
    /// Returns the token of the user, and asks for one if there is none.
    pub(super) fn token(
        &self,
        log_in: impl FnOnce() -> Result<String, Problem>,
    ) -> Result<String, Problem> {
        if let Some(token) = &*self.token.lock() {
            return Ok(token.clone());
        }
        let token = log_in()?;
        *self.token.lock() = Some(token.clone());
        Ok(token)
    }

    /// Asks one server after the other until one answers.
    pub(super) fn attempt<R>(
        &self,
        mut call: impl FnMut(&str) -> Result<R, Problem>,
    ) -> Result<R, Error> {
        let first = self.current.load(Ordering::Relaxed);
        let mut last = String::new();
        for offset in 0..self.urls.len() {
            let index = (first + offset) % self.urls.len();
            let url = &self.urls[index];
            let mut result = call(url);
            if matches!(&result, Err(Problem::Token)) {
                *self.token.lock() = None;
                result = call(url);
            }
            match result {
                Ok(answer) => {
                    self.current.store(index, Ordering::Relaxed);
                    self.answered();
                    return Ok(answer);
                }
                Err(Problem::Refused(problem)) => {
                    self.answered();
                    return Err(self.error(problem));
                }
                Err(Problem::Token) => {
                    self.answered();
                    return Err(self.error("the token of the user is refused"));
                }
                #[cfg(any(feature = "consul", feature = "etcd"))]
                Err(Problem::Ended) => return Err(self.error("the watch has ended")),
                Err(Problem::Lost(problem)) => last = format!("{url}: {problem}"),
            }
        }
        self.health.lock().lost(&last);
        Err(self.error(last))
    }

    pub(super) fn stats(&self) -> BackendStats {
        let engine = self.client.engine().stats();
        let connections = engine.reactors.iter().map(|reactor| reactor.connections);
        BackendStats {
            connections: connections.sum::<u64>() as usize,
            ..self.health.lock().stats()
        }
    }

    fn answered(&self) {
        self.health.lock().answered();
    }

    pub(super) fn error(&self, problem: impl Into<String>) -> Error {
        Error::backend(self.backend, problem)
    }
}

impl Problem {
    pub(super) fn lost(error: FetchError) -> Self {
        Self::Lost(match error {
            // Its text names an option that the builders of backends call otherwise.
            FetchError::Timeout(_) => {
                "no answer in time; raise `timeout` if it may take longer".to_owned()
            }
            error => error.to_string(),
        })
    }

    /// Returns the problem that a status tells.
    pub(super) fn of_status(status: u16, message: &str) -> Self {
        let problem = format!("status {status}: {message}");
        // A server without a leader, or one that is about to stop. Another one may serve.
        if status >= 500 {
            Self::Lost(problem)
        } else {
            Self::Refused(problem)
        }
    }
}

/// Returns text as a part of a path or a value of a form.
#[cfg(any(feature = "consul", feature = "nacos"))]
pub(in crate::cluster) fn escape(text: &str) -> String {
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// Returns the beginning of an answer as text, for an error.
pub(super) fn excerpt(body: &[u8]) -> String {
    String::from_utf8_lossy(&body[..body.len().min(200)])
        .trim()
        .to_owned()
}

impl HttpSettings {
    pub(super) fn new() -> Self {
        Self {
            urls: Vec::new(),
            timeout: Duration::from_secs(3),
            tls: None,
        }
    }
}

impl fmt::Debug for HttpSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpSettings")
            .field("urls", &self.urls)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for HttpServers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpServers")
            .field("urls", &self.urls)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
