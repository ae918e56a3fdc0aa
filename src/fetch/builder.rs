use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::client::Client;
use super::error::FetchError;
use super::fetcher::{Fetcher, Options};
use super::pool::PoolLimits;
use crate::engine::client::Client as EngineClient;
use crate::engine::connect::Connect;
use crate::engine::connect::resolve::Resolve;
use crate::engine::handler::Engine;
use crate::error::Error;
use crate::http::Limits;
#[cfg(feature = "tls")]
use crate::tls::{Roots, TlsClient};

/// The options of a [`Client`].
///
/// ```no_run
/// use std::time::Duration;
/// use epicycle::fetch::{Client, PoolLimits};
///
/// let client = Client::builder()
///     .connect_timeout(Duration::from_secs(2))
///     .timeout(Duration::from_secs(30))
///     .header("Authorization", "Bearer x")
///     .pool(PoolLimits::default().max_per_destination(8))
///     .start()?;
/// # Ok::<(), epicycle::fetch::FetchError>(())
/// ```
#[must_use = "a client does nothing until it is started"]
pub struct Builder {
    engine: EngineClient,
    read_timeout: Duration,
    options: Options,
}

impl Client {
    /// Returns the options of a client, to change them.
    pub fn builder() -> Builder {
        Builder::default()
    }
}

impl Builder {
    /// Sets the timeout of a connect, from the name lookup to the end of the TLS handshake. Default: 10 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.options.connect = self.options.connect.timeout(timeout);
        self
    }

    /// Sets the time within which a response must begin, counted from when the request is sent. Default: 30 s.
    /// `Duration::MAX` means no limit: use it, or a longer time than the server's, for long polling.
    pub fn response_timeout(mut self, timeout: Duration) -> Self {
        self.options.response_timeout = (timeout != Duration::MAX).then_some(timeout);
        self
    }

    /// Sets the time for which a server may be silent within a response. Default: 30 s. `Duration::MAX` means no limit:
    /// use it for a stream of events. The time in which a reader takes nothing does not count.
    pub fn read_timeout(mut self, timeout: Duration) -> Self {
        self.read_timeout = timeout;
        self
    }

    /// Sets the time that a whole request may take. Default: no limit.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.options.timeout = Some(timeout);
        self
    }

    /// Sets the maximum length of a body that is held whole, in bytes. Default: 16 MiB.
    pub fn max_body(mut self, bytes: u64) -> Self {
        self.options.max_body = bytes;
        self
    }

    /// Sets the maximum length of a response's head, in bytes. Default: 16 KiB.
    pub fn max_head(mut self, bytes: usize) -> Self {
        self.options.limits = self.options.limits.max_head(bytes);
        self
    }

    /// Adds a header to each request. One of the same name, by [`Request::header`](super::Request::header), replaces it.
    /// By default there is a `User-Agent`, which one of that name replaces.
    pub fn header(mut self, name: impl Into<String>, value: impl AsRef<[u8]>) -> Self {
        let name = name.into();
        if name.eq_ignore_ascii_case("user-agent") {
            self.options
                .headers
                .retain(|(other, _)| !other.eq_ignore_ascii_case(&name));
        }
        self.options.headers.push((name, value.as_ref().to_owned()));
        self
    }

    /// Sets the bounds of the connections.
    pub fn pool(mut self, limits: PoolLimits) -> Self {
        self.options.pool = limits;
        self
    }

    /// Asks about each IP address right before it is dialled, as [`Connect::allow`] does. Use it for URLs that others
    /// choose.
    pub fn allow(mut self, is_allowed: impl Fn(IpAddr) -> bool + Send + Sync + 'static) -> Self {
        self.options.connect = self.options.connect.allow(is_allowed);
        self
    }

    /// Looks host names up with this. Default: the system's resolver, on threads of its own.
    pub fn resolver(mut self, resolver: impl Resolve) -> Self {
        self.engine = self.engine.resolver(resolver);
        self
    }

    /// Sets the trusted authorities, and a certificate of this side, for `https`. Default: the authorities that the
    /// system trusts, which the first `https` request reads.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: &TlsClient) -> Self {
        self.options.tls = tls.clone().into();
        self
    }

    /// Starts the client's thread.
    ///
    /// # Errors
    ///
    /// [`FetchError::Start`] if it cannot be started, or if an option has a bad value.
    pub fn start(self) -> Result<Client, FetchError> {
        let (engine, options) = self.finish();
        let factory = fetchers(&options);
        let running = engine.start(factory).map_err(FetchError::Start)?;
        let engine = running.engine().clone();
        Ok(Client::with(engine, Some(running), options))
    }

    /// Starts the client's engine in another way, with the function `start`. It receives the options and the factory of the
    /// handlers. Its purpose is the simulated network, where only [`Request::send_then`](super::Request::send_then) is
    /// of use:
    ///
    #[cfg_attr(feature = "testing", doc = "```")]
    #[cfg_attr(not(feature = "testing"), doc = "```ignore")]
    /// use std::time::Duration;
    /// use epicycle::fetch::Client;
    /// use epicycle::testing::{Link, World};
    ///
    /// let mut world = World::new(1, Link::calm())?;
    /// let origin = world.listen(([192, 168, 0, 2], 80));
    /// let client = Client::builder().start_with(|engine, fetcher| {
    ///     let host = world.start([192, 168, 0, 3], engine, fetcher)?;
    ///     Ok(world.engine(host).clone())
    /// })?;
    /// client.get("http://192.168.0.2/").send_then(|response| {
    ///     assert_eq!(response.unwrap().body(), "hello");
    /// });
    /// world.run_for(Duration::from_secs(1));
    /// let accepted = world.accept(origin).unwrap();
    /// world.send(accepted, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
    /// world.run_for(Duration::from_secs(1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`FetchError::Start`] with the error of `start`.
    pub fn start_with(
        self,
        start: impl FnOnce(
            EngineClient,
            Box<dyn Fn(usize) -> Fetcher + Send + Sync>,
        ) -> Result<Engine<Fetcher>, Error>,
    ) -> Result<Client, FetchError> {
        let (engine, options) = self.finish();
        let engine = start(engine, Box::new(fetchers(&options))).map_err(FetchError::Start)?;
        Ok(Client::with(engine, None, options))
    }

    fn finish(self) -> (EngineClient, Arc<Options>) {
        let engine = self.engine.read_timeout(self.read_timeout);
        (engine, Arc::new(self.options))
    }
}

fn fetchers(options: &Arc<Options>) -> impl Fn(usize) -> Fetcher + Send + Sync + 'static {
    let options = options.clone();
    move |_reactor| Fetcher::new(options.clone())
}

#[cfg(feature = "tls")]
impl Options {
    /// Reads the system's authorities if nothing else is set.
    pub(super) fn prepare_tls(&self) -> Result<(), FetchError> {
        if self.tls.get().is_none() {
            let tls = Roots::native().and_then(|roots| TlsClient::new(&roots));
            let tls = tls.map_err(|error| FetchError::Tls(Box::new(error)))?;
            // Another thread may have set it meanwhile.
            let _ = self.tls.set(tls.alpn(&["http/1.1"]));
        }
        Ok(())
    }
}

impl Default for Builder {
    fn default() -> Self {
        let agent = concat!("epicycle/", env!("CARGO_PKG_VERSION"));
        let seconds = Duration::from_secs;
        Self {
            engine: EngineClient::new(),
            read_timeout: seconds(30),
            options: Options {
                headers: vec![("User-Agent".to_owned(), agent.into())],
                timeout: None,
                max_body: 16 << 20,
                // Each dial has an address of its own.
                connect: Connect::to("tcp://127.0.0.1:80"),
                pool: PoolLimits::default(),
                limits: Limits::default().max_body(u64::MAX),
                response_timeout: Some(seconds(30)),
                #[cfg(feature = "tls")]
                tls: Default::default(),
            },
        }
    }
}

/// The values of headers are left out, since some are secret.
impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("connect", &self.options.connect)
            .field("pool", &self.options.pool)
            .field("timeout", &self.options.timeout)
            .field("max_body", &self.options.max_body)
            .finish_non_exhaustive()
    }
}
