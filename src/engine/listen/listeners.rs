//! The listeners of a thread, and the accept with its limits and pauses.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

use crate::addr::Addr;
use crate::engine::listen::StreamPlace;
use crate::engine::listen::admission::Admission;
use crate::engine::listen::bind::{BoundSocket, Listener};
use crate::engine::listen::handshakes::{Handshakes, counted_as};
use crate::error::Error;
use crate::metrics::Metrics;
use crate::sys::options::SocketOptions;
use crate::sys::socket::{self, StreamSocket};

/// The listeners of one thread.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    listeners: Vec<Listener>,
    options: Option<SocketOptions>,
    /// The listener of the last attempt.
    last: usize,
    /// True after an accept that failed for lack of resources. The owner's timer ends it.
    blocked: bool,
    pause: Option<Duration>,
    last_pause: Duration,
}

/// The result of an attempt to accept.
#[derive(Debug)]
pub(crate) enum AcceptOutcome {
    Connection(Accepted),
    /// No connection from this attempt. Another attempt may have one.
    Failed,
    /// No connection waits until the next event or the end of the pause.
    NoneWaits,
}

/// A change of the listeners while they are served.
#[derive(Debug)]
pub(crate) enum ListenerChange {
    Add(Listener),
    /// Close the listener with this number.
    Remove(usize),
}

#[derive(Debug)]
enum ListeningSocket {
    Stream(Arc<BoundSocket>),
    /// A stream listener of a simulated network, which has no socket, with the steps before `on_open`.
    #[cfg(feature = "testing")]
    Simulated(Option<Arc<Handshakes>>),
    /// The sockets of a UDP listener are the reactors'.
    Udp,
}

/// The sockets that listen, as all threads of an engine see them.
#[derive(Debug, Default)]
pub(crate) struct AllListening {
    /// Each with the number of its listener.
    sockets: Vec<(usize, ListeningSocket)>,
    /// True once there was a stream listener.
    had_streams: bool,
}

impl AllListening {
    /// Adds a socket, unless it is known already.
    pub(crate) fn add(&mut self, number: usize, socket: &Arc<BoundSocket>) {
        let mut known = self.streams();
        if !known.any(|known| Arc::ptr_eq(known, socket)) {
            drop(known);
            let socket = ListeningSocket::Stream(socket.clone());
            self.sockets.push((number, socket));
            self.had_streams = true;
        }
    }

    pub(crate) fn add_udp(&mut self, number: usize) {
        self.sockets.push((number, ListeningSocket::Udp));
    }

    #[cfg(feature = "testing")]
    pub(crate) fn add_simulated(&mut self, number: usize, handshakes: Option<Arc<Handshakes>>) {
        self.sockets
            .push((number, ListeningSocket::Simulated(handshakes)));
        self.had_streams = true;
    }

    /// Returns the steps before `on_open` of a listener of a simulated network.
    #[cfg(feature = "testing")]
    pub(crate) fn handshakes(&self, number: usize) -> Option<Arc<Handshakes>> {
        let mut sockets = self.sockets.iter();
        sockets.find_map(|(known, socket)| match socket {
            ListeningSocket::Simulated(handshakes) if *known == number => handshakes.clone(),
            _ => None,
        })
    }

    /// Removes a listener. Returns true if there was one.
    pub(crate) fn remove(&mut self, number: usize) -> bool {
        let before = self.sockets.len();
        self.sockets.retain(|(known, _)| *known != number);
        self.sockets.len() < before
    }

    pub(crate) fn clear(&mut self) {
        self.sockets.clear();
    }

    pub(crate) fn streams(&self) -> impl Iterator<Item = &Arc<BoundSocket>> {
        self.sockets.iter().filter_map(|(_, socket)| match socket {
            ListeningSocket::Stream(socket) => Some(socket),
            _ => None,
        })
    }

    pub(crate) fn has_streams(&self) -> bool {
        let mut sockets = self.sockets.iter();
        sockets.any(|(_, socket)| !matches!(socket, ListeningSocket::Udp))
    }

    pub(crate) fn had_streams(&self) -> bool {
        self.had_streams
    }
}

/// An accepted connection.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) socket: StreamSocket,
    pub(crate) peer: Addr,
    /// The number of the listener.
    pub(crate) listener: usize,
    pub(crate) handshakes: Option<Arc<Handshakes>>,
}

/// The most attempts to accept in one turn.
pub(crate) const ACCEPT_BUDGET: usize = 64;

const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

impl Listeners {
    /// Listens on all places.
    pub(crate) fn bind(
        places: impl IntoIterator<Item = StreamPlace>,
        options: &SocketOptions,
    ) -> Result<Self, Error> {
        let bind = |place| Listener::bind(place, options);
        Ok(Self {
            listeners: places.into_iter().map(bind).collect::<Result<_, _>>()?,
            options: Some(options.clone()),
            ..Self::default()
        })
    }

    /// Returns listeners for another thread on the same addresses. TCP addresses are bound again, so that the kernel spreads
    /// connections over the sockets. The other sockets are shared.
    pub(crate) fn sibling(&self) -> io::Result<Self> {
        let copy = |listener: &Listener| listener.sibling(self.options.as_ref());
        Ok(Self {
            listeners: self.listeners.iter().map(copy).collect::<io::Result<_>>()?,
            options: self.options.clone(),
            ..Self::default()
        })
    }

    /// Returns the local addresses with the numbers of the listeners.
    pub(crate) fn local_addrs(&self) -> io::Result<Vec<(usize, Addr)>> {
        let addr = |listener: &Listener| Ok((listener.number, listener.local_addr()?));
        self.listeners.iter().map(addr).collect()
    }

    /// Adds the sockets to those that listen.
    pub(crate) fn note(&self, all: &mut AllListening) {
        for listener in &self.listeners {
            all.add(listener.number, &listener.bound);
        }
    }

    pub(crate) fn are_any(&self) -> bool {
        !self.listeners.is_empty()
    }

    /// Registers the listeners. Their tokens are `first` and their numbers together.
    pub(crate) fn register(&self, registry: &Registry, first: usize) -> io::Result<()> {
        self.listeners
            .iter()
            .try_for_each(|listener| watch(listener, registry, first))
    }

    /// Adds or closes a listener. `options` are those of accepted sockets.
    pub(crate) fn change(
        &mut self,
        change: ListenerChange,
        options: &SocketOptions,
        registry: &Registry,
        first: usize,
    ) {
        match change {
            ListenerChange::Add(mut listener) => {
                if let Err(error) = watch(&listener, registry, first) {
                    log::error!(
                        target: "epicycle::accept",
                        "cannot watch listener {}, so it is closed: {error}", listener.number
                    );
                    return;
                }
                // Connections may wait since before it was watched.
                listener.ready = true;
                self.options.get_or_insert_with(|| options.clone());
                self.listeners.push(listener);
            }
            ListenerChange::Remove(number) => {
                let leaving = self
                    .listeners
                    .extract_if(.., |known| known.number == number);
                leaving.for_each(|listener| unwatch(&listener, registry));
            }
        }
    }

    // Out of line, so that it takes no registers from the loop over the events.
    #[inline(never)]
    pub(crate) fn mark_ready(&mut self, number: usize) {
        let mut listeners = self.listeners.iter_mut();
        if let Some(listener) = listeners.find(|listener| listener.number == number) {
            listener.ready = true;
        }
    }

    /// Returns true if an attempt to accept may succeed now.
    #[inline]
    pub(crate) fn are_ready(&self) -> bool {
        !self.blocked && self.listeners.iter().any(|listener| listener.ready)
    }

    /// Tries once to accept a connection. A connection that the limits forbid is closed and counted.
    pub(crate) fn accept(&mut self, admission: &Admission, metrics: &Metrics) -> AcceptOutcome {
        if !self.are_ready() {
            return AcceptOutcome::NoneWaits;
        }
        self.last = (self.last + 1) % self.listeners.len();
        let listener = &mut self.listeners[self.last];
        if !listener.ready {
            return AcceptOutcome::Failed;
        }
        match socket::accept(&listener.bound.socket, listener.bound.has_records) {
            Ok((socket, peer)) => {
                self.last_pause = Duration::ZERO;
                metrics.accepted.add(1);
                let accepted = Accepted {
                    socket,
                    peer,
                    listener: listener.number,
                    handshakes: listener.handshakes.clone(),
                };
                let refuse = |why: &str| {
                    metrics.refused.add(1);
                    log::debug!(target: "epicycle::accept", "{} refused: {why}", accepted.peer);
                    AcceptOutcome::Failed
                };
                let steps = listener.handshakes.as_ref();
                if steps.is_some_and(|steps| steps.refuses(&accepted.peer)) {
                    return refuse("it is no trusted proxy");
                }
                if !admission.admit(counted_as(steps, &accepted.peer)) {
                    return refuse("too many connections");
                }
                let Accepted { socket, peer, .. } = &accepted;
                let is_tcp = peer.ip().is_some();
                if !(is_tcp && socket::TCP_INHERITS_OPTIONS)
                    && let Some(options) = &self.options
                    && let Err(error) = options.apply(&socket.options(), is_tcp)
                {
                    log::debug!(target: "epicycle::accept", "{peer}: socket options: {error}");
                }
                return AcceptOutcome::Connection(accepted);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => listener.ready = false,
            Err(error) => {
                metrics.accept_errors.add(1);
                if socket::concerns_one_peer(&error) {
                    log::debug!(target: "epicycle::accept", "accept: {error}");
                } else {
                    self.block(&error);
                }
            }
        }
        AcceptOutcome::Failed
    }

    /// Stops accepting for a pause. Connections that close in the meantime free descriptors and memory.
    fn block(&mut self, error: &io::Error) {
        let pause = (self.last_pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
        log::warn!(
            target: "epicycle::accept",
            "cannot accept ({error}); next attempt in {pause:?}. Raise the limit (ulimit -n) or set max_connections"
        );
        self.blocked = true;
        self.pause = Some(pause);
        self.last_pause = pause;
    }

    /// Returns the time to wait before [`unblock`](Self::unblock), once after each failure.
    pub(crate) fn take_pause(&mut self) -> Option<Duration> {
        self.pause.take()
    }

    pub(crate) fn unblock(&mut self) {
        self.blocked = false;
    }

    /// Closes the listeners.
    pub(crate) fn close(&mut self, registry: &Registry) {
        for listener in self.listeners.drain(..) {
            unwatch(&listener, registry);
        }
    }
}

fn watch(listener: &Listener, registry: &Registry, first: usize) -> io::Result<()> {
    let fd = listener.bound.socket.as_raw_fd();
    let token = Token(first + listener.number);
    registry.register(&mut SourceFd(&fd), token, Interest::READABLE)
}

/// Ends the events of a listener. Another process or reactor may have the socket too, and it would then still cause them.
fn unwatch(listener: &Listener, registry: &Registry) {
    let fd = listener.bound.socket.as_raw_fd();
    if let Err(error) = registry.deregister(&mut SourceFd(&fd)) {
        log::debug!(target: "epicycle::accept", "a listener was not watched: {error}");
    }
}
