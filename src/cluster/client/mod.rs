//! Clients of gates: for tests, for bots, and for programs that talk to a cluster from outside.
//!
//! ```
//! use epicycle::cluster::client::Client;
//! use epicycle::cluster::gate::Gate;
//! use epicycle::cluster::registry::MemoryRegistry;
//!
//! let gate = Gate::builder().listen("tcp://127.0.0.1:0").registry(MemoryRegistry::new()).start()?;
//! let client = Client::builder()
//!     .route(7, |_, packet| println!("news: {:?}", packet.data))
//!     .connect(format!("{}", gate.client_addrs()[0]))?;
//! // No node serves this route, so no answer comes.
//! client.push(1, "hello")?;
//! # Ok::<(), epicycle::cluster::Error>(())
//! ```
//!
//! A client sends **pushes**, which have no answer, and **requests**, whose answer has the same route and seq. What the gate
//! sends besides answers goes to the handlers of its [routes](ClientBuilder::route). Handlers run on the thread of the client's
//! reactor: they must not block, and work through the [`ClientContext`] that they get.
//!
//! [`Clients`] are the threads. Many clients can share them; a client that is connected without has one of its own.
//!
//! | Event | Result |
//! |---|---|
//! | the connection ends | all requests under way fail with [`Error::LinkDown`](super::Error); [`ClientEvent::Disconnected`]; it dials again |
//! | the gate says nothing for three heartbeats | the same |
//! | the gate is about to stop, and the client [knows](ClientBuilder::control_packets) its goodbye | [`ClientEvent::Goodbye`]; nothing new is sent; when the requests under way have ended, it leaves, and dials again after the time that the gate tells |
//! | the user has logged in elsewhere, or a node or an operator [kicks](crate::cluster::node::Request::kick) it, likewise | [`ClientEvent::Goodbye`]; it does not dial again |
//! | it is connected again | [`ClientEvent::Connected`], whose `again` is true. The gate does not know the user until it logs in anew |
//! | it has a [token](Client::set_resume_token) when the connection ends | requests under way wait on; when it is connected again it takes its user back: [`ClientEvent::Resumed`], and then the packets that it has missed |
//! | the gate refuses that | the requests fail, [`ClientEvent::ResumeRefused`], and [`ClientEvent::Connected`] |
//! | a packet that is none, or is too large | the connection closes, as above |
//! | it is kicked, and does not know control packets, or by a reset | [`ClientEvent::Disconnected`]; it dials again |
//! | no answer in time | the request fails with [`Error::Timeout`](super::Error). An answer that comes later is a push |

mod address;
mod builder;
mod calls;
mod codec;
mod configured;
mod handler;
mod link;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread::{self, ThreadId};
use std::time::Duration;

use bytes::Bytes;

use self::handler::{ClientReactor, Dialled};
use super::Error;
use super::packet::{GoodbyeReason, ResumeRefusal};
use crate::engine::client::Client as EngineClient;
use crate::engine::conn::close::CloseReason;
use crate::engine::connect::ConnectError;
use crate::engine::handler::{Engine, HandleError, Reactor};
use crate::engine::server::Running;

pub use self::builder::ClientBuilder;
pub use self::link::ClientContext;

/// The threads of clients. A clone is another name for the same threads. They end with the last clone and the last client.
///
/// ```
/// use epicycle::cluster::client::{Client, Clients};
///
/// let clients = Clients::start(2)?;
/// let bots: Result<Vec<_>, _> = (0..10)
///     .map(|_| Client::builder().dial(&clients, "tcp://127.0.0.1:3553"))
///     .collect();
/// assert_eq!(bots?.len(), 10);
/// # Ok::<(), epicycle::cluster::Error>(())
/// ```
#[derive(Clone)]
pub struct Clients {
    threads: Arc<Threads>,
}

struct Threads {
    engine: Engine<ClientReactor>,
    /// Taken at the end.
    running: Option<Running<ClientReactor>>,
    ids: Arc<[OnceLock<ThreadId>]>,
    last_token: AtomicU64,
}

/// A client of a gate. A clone is another name for the same client, which closes when the last one is dropped.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    clients: Clients,
    reactor: usize,
    token: u64,
    to: String,
    is_connected: Arc<AtomicBool>,
}

/// An event of the connection of a client.
#[derive(Debug)]
#[non_exhaustive]
pub enum ClientEvent<'a> {
    /// The connection is open, and packets can be sent.
    Connected {
        /// True if the client was connected before.
        again: bool,
    },
    /// The connection is open again, with the user: see [`Client::set_resume_token`]. The pushes that the client has missed follow.
    /// Requests that were under way wait on.
    Resumed {
        /// The number of packets that follow.
        missed: u32,
    },
    /// The user cannot be taken back. [`Connected`](Self::Connected) follows: the client logs in anew.
    ResumeRefused {
        /// The reason.
        reason: ResumeRefusal,
    },
    /// The gate is about to close the connection: see [`ClientBuilder::control_packets`].
    Goodbye {
        /// The reason.
        reason: GoodbyeReason,
        /// The time after which the client dials again. `None` if it does not.
        retry_in: Option<Duration>,
    },
    /// The connection has ended.
    Disconnected {
        /// The reason.
        reason: &'a CloseReason,
    },
    /// An attempt to connect has failed.
    ConnectFailed {
        /// The reason.
        error: &'a ConnectError,
        /// The delay before the next attempt. `None` if there is none: the client is closed.
        retry_in: Option<Duration>,
    },
}

impl Clients {
    /// Starts the threads, one for each reactor.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Start`] if the kernel refuses a thread or a descriptor, and for 0 reactors.
    pub fn start(reactors: usize) -> Result<Self, Error> {
        let ids: Arc<[_]> = (0..reactors).map(|_| OnceLock::new()).collect();
        let running = EngineClient::new().reactors(reactors).start({
            let ids = ids.clone();
            move |reactor| {
                let _ = ids[reactor].set(thread::current().id());
                ClientReactor::default()
            }
        });
        let running = running?;
        let threads = Threads {
            engine: running.engine().clone(),
            running: Some(running),
            ids,
            last_token: AtomicU64::new(0),
        };
        Ok(Self {
            threads: Arc::new(threads),
        })
    }
}

impl Clients {
    /// Runs a task on a reactor. The error is `None` if the reactor has ended.
    fn run_on(
        &self,
        reactor: usize,
        task: impl FnOnce(&mut ClientReactor, &mut Reactor<'_, ClientReactor>) + Send + 'static,
    ) -> Result<(), Option<Error>> {
        let asked = self.threads.engine.run_on(reactor, task);
        asked.map_err(|error| match error {
            HandleError::MailboxFull => Some(Error::Busy {
                what: "mailbox of the client's reactor",
            }),
            _ => None,
        })
    }
}

impl Threads {
    /// Returns true on the thread of one of the reactors.
    fn is_own(&self) -> bool {
        let this = thread::current().id();
        self.ids.iter().any(|id| id.get() == Some(&this))
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        let running = self.running.take();
        // The drop waits for the threads, so it must not run on one of them.
        if self.is_own() {
            self.engine.shutdown();
            thread::spawn(move || drop(running));
        }
    }
}

impl Client {
    /// Returns a builder with the defaults.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::new()
    }

    /// Returns the address of the gate, as it was given.
    pub fn peer(&self) -> &str {
        &self.inner.to
    }

    /// Returns true while the client has a connection.
    pub fn is_connected(&self) -> bool {
        self.inner.is_connected.load(Ordering::Acquire)
    }

    /// Sends a packet without an answer. It returns when the packet is on its way to the client's reactor. If the connection ends
    /// before it is sent, it is lost.
    ///
    /// # Errors
    ///
    /// [`Error::LinkDown`] while there is no connection, and [`Error::Busy`] if the reactor has too much to do. What the reactor
    /// meets is logged: a packet that the [format](ClientBuilder::packets) cannot hold, or a gate that does not read.
    pub fn push(&self, route: i32, data: impl Into<Bytes>) -> Result<(), Error> {
        let data = data.into();
        self.inner.run(move |client, reactor| {
            let pushed = client.with(reactor, |context| context.push(route, &data));
            if let Err(error) = pushed {
                log::warn!(target: "epicycle::cluster", "a push to route {route} is lost: {error}");
            }
        })
    }

    /// Sends a request and waits for its answer, as long as [`call_timeout`](ClientBuilder::call_timeout) allows.
    ///
    /// # Errors
    ///
    /// - [`Error::LinkDown`]: there is no connection, or it has ended before the answer came: it is unknown if the request was carried out.
    /// - [`Error::Timeout`]: no answer came in time. A gate answers nothing to a packet that it refuses, nor a node whose handler fails.
    /// - [`Error::Busy`]: all numbers of this route are in use, the gate does not read, or the reactor has too much to do.
    /// - [`Error::TooLarge`], [`Error::RouteOverflow`], [`Error::InvalidArgument`]: the [format](ClientBuilder::packets) cannot hold the
    ///   request.
    /// - [`Error::IllegalRequest`]: this is the thread of the client's own reactor, where nothing may wait.
    pub fn request(&self, route: i32, data: impl Into<Bytes>) -> Result<Bytes, Error> {
        if self.inner.clients.threads.is_own() {
            return Err(Error::IllegalRequest {
                what: "a wait on the thread of the client's reactor; use `request_then`",
            });
        }
        let (sender, receiver) = mpsc::sync_channel(1);
        self.request_then(route, data, move |_, reply| {
            let _ = sender.send(reply.map(Bytes::copy_from_slice));
        })?;
        // The reactor keeps the time. If it ends, it drops the sender.
        receiver.recv().unwrap_or(Err(Error::Cancelled))
    }

    /// Sends a request. `then` gets the answer on the thread of the client's reactor, or the error that [`request`](Self::request)
    /// would return.
    ///
    /// # Errors
    ///
    /// [`Error::LinkDown`] while there is no connection, and [`Error::Busy`]. `then` is not called then.
    pub fn request_then(
        &self,
        route: i32,
        data: impl Into<Bytes>,
        then: impl FnOnce(&mut ClientContext<'_>, Result<&[u8], Error>) + Send + 'static,
    ) -> Result<(), Error> {
        let data = data.into();
        self.inner.run(move |client, reactor| {
            client.with(reactor, |context| {
                context.ask(route, &data, Box::new(then));
            });
        })
    }

    /// Sets the token with which the client takes its user back after a loss of its connection. The application gets it from its node
    /// ([`resume_token`](crate::cluster::node::Request::resume_token)), and sends it to its client. It is good once, so that a new one
    /// is set after each [`ClientEvent::Resumed`].
    ///
    /// # Errors
    ///
    /// [`Error::Busy`] if the reactor has too much to do, and [`Error::LinkDown`] while there is no connection.
    pub fn set_resume_token(&self, token: impl Into<String>) -> Result<(), Error> {
        let token = token.into();
        self.inner.run(move |client, _| {
            client.link.resume_token = Some(token);
        })
    }

    /// Closes the client: it sends what is queued, ends the connection, and does not dial again. Requests under way fail with
    /// [`Error::LinkDown`]. If it has a [token](Self::set_resume_token), the gate is told that the user does not come back. A drop of the
    /// last clone does the same.
    pub fn close(&self) {
        self.inner.close();
    }
}

impl Inner {
    fn down(&self) -> Error {
        Error::LinkDown {
            peer: self.to.clone(),
        }
    }

    /// Runs a task for this client on its reactor, if it is connected.
    fn run(
        &self,
        task: impl FnOnce(&mut Dialled, &mut Reactor<'_, ClientReactor>) + Send + 'static,
    ) -> Result<(), Error> {
        if !self.is_connected.load(Ordering::Acquire) {
            return Err(self.down());
        }
        let token = self.token;
        let asked = self.clients.run_on(self.reactor, move |handler, reactor| {
            if let Some(client) = handler.client(token) {
                task(client, reactor);
            }
        });
        asked.map_err(|error| error.unwrap_or_else(|| self.down()))
    }

    fn close(&self) {
        let token = self.token;
        (self.clients.threads.engine).run_anyway(self.reactor, move |handler, reactor| {
            handler.close(token, reactor);
        });
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clients")
            .field("reactors", &self.threads.ids.len())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("to", &self.inner.to)
            .field("is_connected", &self.is_connected())
            .finish_non_exhaustive()
    }
}
