use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use ::http::Response;
use bytes::Bytes;
use parking_lot::Mutex;

use super::body::{Body, Feed, Signal};
use super::error::FetchError;
use super::fetcher::{Fetcher, Job, Options};
use super::reply::{Done, Reply};
use super::target::Target;
use crate::engine::handler::{Engine, HandleError};
use crate::engine::reactor_thread;
use crate::engine::server::Running;
use crate::http::HeaderBlock;

/// A client for HTTP requests. It has a thread of its own, which all its clones share, with their connections.
///
/// Any thread can use it. [`Request::send`] and [`Request::stream`] block, so they are not for callbacks of an engine:
/// [`Request::send_then`] is. When the last clone is dropped, requests under way are completed in the background, for
/// up to 30 s.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    engine: Engine<Fetcher>,
    /// None if something else runs the engine.
    running: Option<Running<Fetcher>>,
    options: Arc<Options>,
}

/// A request that is being built.
#[must_use = "nothing is sent until `send`, `stream` or `send_then`"]
pub struct Request {
    client: Client,
    method: String,
    url: String,
    headers: Vec<(String, Vec<u8>)>,
    body: Option<Bytes>,
    timeout: Option<Duration>,
    max_body: u64,
    /// Called when it is under way.
    started: Option<Started>,
}

type Started = Box<dyn FnOnce(Abort) + Send>;

/// Ends a request that is under way.
#[cfg_attr(
    not(any(feature = "consul", feature = "etcd", feature = "nacos")),
    expect(dead_code, reason = "only watches of backends end requests")
)]
pub(crate) struct Abort {
    client: Client,
    id: u64,
}

/// The number of the next exchange.
static NEXT: AtomicU64 = AtomicU64::new(0);

impl Client {
    /// Starts a client with the default options.
    ///
    /// # Errors
    ///
    /// [`FetchError::Start`] if its thread cannot be started.
    pub fn new() -> Result<Self, FetchError> {
        Self::builder().start()
    }

    pub(super) fn with(
        engine: Engine<Fetcher>,
        running: Option<Running<Fetcher>>,
        options: Arc<Options>,
    ) -> Self {
        let inner = Inner {
            engine,
            running,
            options,
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Returns a request with any method.
    pub fn request(&self, method: impl Into<String>, url: impl Into<String>) -> Request {
        Request {
            client: self.clone(),
            method: method.into(),
            url: url.into(),
            headers: Vec::new(),
            body: None,
            timeout: self.inner.options.timeout,
            max_body: self.inner.options.max_body,
            started: None,
        }
    }

    /// Returns a `GET`.
    pub fn get(&self, url: impl Into<String>) -> Request {
        self.request("GET", url)
    }

    /// Returns a `HEAD`.
    pub fn head(&self, url: impl Into<String>) -> Request {
        self.request("HEAD", url)
    }

    /// Returns a `POST`.
    pub fn post(&self, url: impl Into<String>) -> Request {
        self.request("POST", url)
    }

    /// Returns a `PUT`.
    pub fn put(&self, url: impl Into<String>) -> Request {
        self.request("PUT", url)
    }

    /// Returns a `DELETE`.
    pub fn delete(&self, url: impl Into<String>) -> Request {
        self.request("DELETE", url)
    }

    /// Returns the engine, for its counters.
    pub fn engine(&self) -> &Engine<Fetcher> {
        &self.inner.engine
    }

    fn submit(&self, id: u64, job: Job) {
        // If the engine does not take the task, the job comes back by this.
        let job = Arc::new(Mutex::new(Some(job)));
        let taken = job.clone();
        let asked = self.inner.engine.run_on(0, move |fetcher, reactor| {
            let job = taken.lock().take();
            if let Some(job) = job {
                fetcher.submit(id, job, reactor);
            }
        });
        if let Err(error) = asked
            && let Some(job) = job.lock().take()
        {
            job.reply.fail(match error {
                HandleError::MailboxFull => FetchError::Busy,
                _ => FetchError::Stopped,
            });
        }
    }

    /// Tells the fetcher what a reader wants. It must not be lost, so it waits while the mailbox is full.
    fn signal(&self, id: u64, signal: Signal) {
        let engine = &self.inner.engine;
        while let Err(HandleError::MailboxFull) = engine.run_on(0, move |fetcher, reactor| {
            fetcher.on_signal(id, signal, reactor);
        }) {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

#[cfg(any(feature = "consul", feature = "etcd", feature = "nacos"))]
impl Abort {
    /// The request fails with [`FetchError::Stopped`], unless it is over.
    pub(crate) fn abort(self) {
        self.client.signal(self.id, Signal::Abandon);
    }
}

impl Request {
    /// Adds a header. It replaces a [default header](super::Builder::header) of the same name. `Host`, `Content-Length` and
    /// other headers of the connection are written by the client.
    pub fn header(mut self, name: impl Into<String>, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name.into(), value.as_ref().to_owned()));
        self
    }

    /// Sets the body.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = Some(body.into());
        self
    }

    /// Sets the time that the whole request may take, from this call of `send` to the last byte of the response. Of a
    /// [stream](Self::stream), reading the body counts. `Duration::MAX` means no limit. Default: that of the
    /// [client](super::Builder::timeout).
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Sets the maximum length of a body that [`send`](Self::send) and [`send_then`](Self::send_then) hold, in bytes.
    /// A longer one is [`FetchError::TooLong`]. Default: that of the [client](super::Builder::max_body).
    pub fn max_body(mut self, bytes: u64) -> Self {
        self.max_body = bytes;
        self
    }

    /// Passes what can end the request to another thread, as soon as it is under way.
    #[cfg(any(feature = "consul", feature = "etcd"))]
    pub(crate) fn on_start(mut self, started: impl FnOnce(Abort) + Send + 'static) -> Self {
        self.started = Some(Box::new(started));
        self
    }

    /// Sends the request, waits for the response, and returns it with its whole body.
    ///
    /// Any status is a response, also 404 and 500.
    ///
    /// # Errors
    ///
    /// [`FetchError`] tells why there is no response. [`FetchError::OnReactor`] on the thread of a reactor.
    pub fn send(self) -> Result<Response<Bytes>, FetchError> {
        self.wait(Reply::whole, NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// Sends the request, waits for the head of the response, and returns it with a body to read.
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send).
    pub fn stream(self) -> Result<Response<Body>, FetchError> {
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let client = self.client.clone();
        let feed = Arc::new(Feed::default());
        let response = self.wait(|_, done| Reply::stream(feed.clone(), done), id)?;
        let body = Body::new(feed, move |signal| client.signal(id, signal));
        Ok(response.map(|_| body))
    }

    /// Sends the request and returns at once. `done` is called with the response or the error, exactly once.
    ///
    /// It is called on the client's thread, and must not block. It may be called before this returns, on the calling
    /// thread, if the request cannot be sent. To answer a connection of an engine, take its
    /// [`Answer`](crate::Answer) or [`Handle`](crate::Handle) along.
    pub fn send_then(
        self,
        done: impl FnOnce(Result<Response<Bytes>, FetchError>) + Send + 'static,
    ) {
        let reply = Reply::whole(self.max_body, Box::new(done));
        self.start(NEXT.fetch_add(1, Ordering::Relaxed), reply);
    }

    /// Starts the exchange and waits until its reply is told.
    fn wait(
        self,
        reply: impl FnOnce(u64, Done) -> Reply,
        id: u64,
    ) -> Result<Response<Bytes>, FetchError> {
        if reactor_thread::is_current() {
            return Err(FetchError::OnReactor);
        }
        let (tell, told) = mpsc::sync_channel(1);
        let done = move |result| {
            // Somebody waits for it, as long as this function runs.
            let _ = tell.send(result);
        };
        let reply = reply(self.max_body, Box::new(done));
        // The client must outlive the wait, since its last clone ends the engine.
        let client = self.client.clone();
        self.start(id, reply);
        let result = told.recv().unwrap_or(Err(FetchError::Stopped));
        drop(client);
        result
    }

    fn start(self, id: u64, reply: Reply) {
        match self.prepare() {
            Ok((target, headers)) => {
                let job = Job {
                    method: self.method,
                    target,
                    headers,
                    body: self.body,
                    timeout: self.timeout,
                    reply,
                };
                self.client.submit(id, job);
                if let Some(started) = self.started {
                    let client = self.client;
                    started(Abort { client, id });
                }
            }
            Err(error) => reply.fail(error),
        }
    }

    fn prepare(&self) -> Result<(Target, HeaderBlock), FetchError> {
        let target = Target::parse(&self.url)?;
        if self.method == "CONNECT" {
            let problem = "CONNECT opens a tunnel and is not a request for a resource";
            return Err(FetchError::Request(problem.into()));
        }
        let mut headers = HeaderBlock::new();
        let is_given = |name: &str| {
            let mut given = self.headers.iter();
            given.any(|(other, _)| other.eq_ignore_ascii_case(name))
        };
        let defaults = self.client.inner.options.headers.iter();
        for (name, value) in defaults
            .filter(|(name, _)| !is_given(name))
            .chain(&self.headers)
        {
            headers
                .push(name, value)
                .map_err(|error| FetchError::Request(Box::new(error)))?;
        }
        #[cfg(feature = "tls")]
        if target.destination.is_tls {
            self.client.inner.options.prepare_tls()?;
        }
        Ok((target, headers))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            self.engine.shutdown();
            // Its thread may be the one that drops this, so another one waits for its end.
            let end = thread::Builder::new().name("epicycle-fetch-end".to_owned());
            if let Err(error) = end.spawn(move || drop(running.join())) {
                log::error!(target: "epicycle::fetch", "cannot wait for the end of a client: {error}");
            }
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("engine", &self.inner.engine)
            .finish_non_exhaustive()
    }
}

/// The values of headers are left out, since some are secret.
impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("method", &self.method)
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}
