mod client;
mod link;
pub(in crate::cluster) mod wire;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use percent_encoding::percent_decode_str;

use self::client::{Credentials, NatsClient, Settings};
use self::link::Link;
use super::BackendStats;
use crate::addr::Endpoint;
use crate::cluster::Error;
use crate::engine::client::Client;
use crate::engine::server::Running;
use crate::tls::{Roots, TlsClient};

/// A NATS server, or the servers of a NATS cluster. Clones share the connection, which has a thread of its own.
#[derive(Clone)]
pub struct Nats(Arc<Shared>);

struct Shared {
    link: Arc<Link>,
    /// Taken at the end.
    running: Option<Running<NatsClient>>,
}

/// Sets up a [`Nats`].
#[derive(Clone)]
#[must_use = "it does nothing until `build` is called"]
pub struct NatsBuilder {
    urls: Vec<String>,
    credentials: Credentials,
    timeout: Duration,
    tls: Option<TlsClient>,
}

/// A subscription. Its drop ends it.
pub(in crate::cluster) struct NatsSubscription {
    link: Arc<Link>,
    sid: u64,
}

const PORT: u16 = 4222;

impl Nats {
    /// Returns the server of a URL, such as `nats://127.0.0.1:4222`. It is dialled at once.
    ///
    /// # Errors
    ///
    /// As [`NatsBuilder::build`].
    pub fn open(url: &str) -> Result<Self, Error> {
        Self::builder().url(url).build()
    }

    /// Returns a builder.
    pub fn builder() -> NatsBuilder {
        NatsBuilder {
            urls: Vec::new(),
            credentials: Credentials::default(),
            timeout: Duration::from_secs(3),
            tls: None,
        }
    }

    /// Returns its state. The queue is in bytes.
    pub fn stats(&self) -> BackendStats {
        self.0.link.stats()
    }

    pub(in crate::cluster) fn publish(&self, subject: &str, payload: &[u8]) -> Result<(), Error> {
        check(subject)?;
        self.0.link.publish(subject, payload)
    }

    /// Calls `deliver` with each payload of a subject, on the thread of the connection.
    pub(in crate::cluster) fn subscribe(
        &self,
        subject: &str,
        deliver: impl Fn(&[u8]) + Send + Sync + 'static,
    ) -> Result<NatsSubscription, Error> {
        check(subject)?;
        let sid = self.0.link.subscribe(subject, Arc::new(deliver))?;
        Ok(NatsSubscription {
            link: self.0.link.clone(),
            sid,
        })
    }
}

impl NatsSubscription {
    /// Returns an error if the server is lost, or has not confirmed the subscription in time.
    pub(in crate::cluster) fn confirm(&self) -> Result<(), Error> {
        self.link.await_confirmed(self.sid)
    }
}

impl Drop for NatsSubscription {
    fn drop(&mut self) {
        self.link.unsubscribe(self.sid);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            let _ = running.engine().run_on(0, NatsClient::end);
            running.engine().shutdown_within(Duration::from_secs(1));
            running.join();
        }
    }
}

impl NatsBuilder {
    /// Adds the URL of a server: `nats://USER:PASSWORD@HOST:PORT`, or `tls` in place of `nats`. In a password, `@` is `%40`. If one
    /// is lost, the next one is dialled. The user of the last URL that has one is the user of all.
    pub fn url(mut self, url: impl Into<String>) -> Self {
        self.urls.push(url.into());
        self
    }

    /// Sets the user.
    pub fn user(mut self, name: impl Into<String>, password: impl Into<String>) -> Self {
        self.credentials.user = Some(name.into());
        self.credentials.password = Some(password.into());
        self
    }

    /// Sets the token.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.credentials.token = Some(token.into());
        self
    }

    /// Sets the time that a server has to be reached, and to answer, each. The default is 3 s.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets the trusted authorities, and a certificate of this side, for servers that speak TLS. The default is the system's
    /// authorities.
    pub fn tls(mut self, tls: &TlsClient) -> Self {
        self.tls = Some(tls.clone());
        self
    }

    /// Returns the backend, whose thread begins to dial.
    ///
    /// # Errors
    ///
    /// Returns [`Error::InvalidArgument`] if there is no URL, one is none of NATS, or the timeout is below 1 ms or above an hour, and [`Error::Start`] if the thread cannot be
    /// started.
    pub fn build(mut self) -> Result<Nats, Error> {
        super::check_timeout(self.timeout)?;
        let mut servers = Vec::new();
        let mut requires_tls = false;
        for url in &self.urls {
            let server = Server::parse(url).ok_or_else(|| invalid(url))?;
            requires_tls |= server.is_secure;
            if let Some((user, password)) = server.user {
                self.credentials.user = Some(user);
                self.credentials.password = Some(password);
            }
            servers.push((server.endpoint, server.host));
        }
        if servers.is_empty() {
            return Err(invalid(""));
        }
        let names: Vec<_> = servers
            .iter()
            .map(|(server, _)| server.to_string())
            .collect();
        // Servers without TLS do without the system's authorities.
        let tls = match self.tls {
            Some(tls) => Some(tls),
            None => Roots::native()
                .and_then(|roots| TlsClient::new(&roots))
                .ok(),
        };
        let link = Arc::new(Link::new(names.join(", "), self.timeout));
        let settings = Mutex::new(Some(Settings {
            servers,
            timeout: self.timeout,
            credentials: self.credentials,
            tls,
            requires_tls,
        }));
        let shared = link.clone();
        let running = Client::new().outbound_limit(64 << 20).start(move |_| {
            let settings = settings.lock().take();
            let settings = settings.unwrap_or_else(|| unreachable!("there is one reactor"));
            NatsClient::new(settings, shared.clone())
        })?;
        Ok(Nats(Arc::new(Shared {
            link,
            running: Some(running),
        })))
    }
}

/// A server as a URL has it.
struct Server {
    endpoint: Endpoint,
    host: String,
    is_secure: bool,
    user: Option<(String, String)>,
}

impl Server {
    fn parse(url: &str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://").unwrap_or(("nats", url));
        let is_secure = match scheme {
            "nats" => false,
            "tls" => true,
            _ => return None,
        };
        let (user, authority) = match rest.rsplit_once('@') {
            Some((user, authority)) => (Some(user), authority),
            None => (None, rest),
        };
        let authority = authority.trim_end_matches('/');
        let has_port = authority
            .rsplit_once(':')
            .is_some_and(|(host, _)| !host.contains(':') || host.ends_with(']'));
        let address = if has_port {
            format!("tcp://{authority}")
        } else {
            format!("tcp://{authority}:{PORT}")
        };
        let endpoint: Endpoint = address.parse().ok()?;
        let Endpoint::Tcp { host, .. } = &endpoint else {
            return None;
        };
        if host.is_empty() {
            return None;
        }
        Some(Self {
            host: host.clone(),
            endpoint,
            is_secure,
            user: user.map(|user| {
                let (name, password) = user.split_once(':').unwrap_or((user, ""));
                (decoded(name), decoded(password))
            }),
        })
    }
}

/// Resolves `%40` and the like.
fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// A subject is written into a line, between spaces.
fn check(subject: &str) -> Result<(), Error> {
    let is_clean = |byte: u8| byte > b' ' && byte != 0x7f;
    let is_subject = subject.bytes().all(is_clean)
        && !subject.contains(['*', '>'])
        && !subject.split('.').any(str::is_empty);
    if !is_subject {
        let problem = format!(
            "{subject:?} is no subject of NATS: use no spaces, no * and no >, and nothing empty between dots"
        );
        return Err(Error::argument("topic", problem));
    }
    Ok(())
}

fn invalid(url: &str) -> Error {
    // It may have a password.
    let url = url.rsplit('@').next().unwrap_or_default();
    let problem = format!("{url:?}; give one such as nats://USER:PASSWORD@HOST:4222");
    Error::argument("url", problem)
}

impl fmt::Debug for NatsBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsBuilder")
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Nats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nats")
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
