use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
#[cfg(feature = "rpc")]
use std::time::Instant;
use std::{fmt, io};

use bytes::Bytes;
use parking_lot::Mutex;

use super::context::Arrival;
use super::outlet::{Outlet, OutletTarget};
use super::{Command, Completion, EventHandler, Handle, HandleError, Moment, Reactor};
use crate::addr::Addr;
use crate::clock::millis;
use crate::engine::conn::limits::Limits;
#[cfg(feature = "rpc")]
use crate::engine::connect::resolve::LookupResult;
use crate::engine::connect::resolve::Lookups;
use crate::engine::listen::admission::Admission;
use crate::engine::listen::listeners::{AllListening, ListenerChange};
use crate::engine::listen::profile::ListenProfiles;
use crate::engine::mailbox::{Mailbox, PushError, Wake};
use crate::engine::slots::{ConnId, Liveness};
use crate::engine::udp::sockets::Common;
use crate::metrics::{Metrics, Stats};
use crate::sys::options::SocketOptions;
use crate::workers::WorkerPool;

/// A running engine. Any thread can use it to stop the engine, observe it, or run tasks on its reactors.
pub struct Engine<H: EventHandler> {
    shared: Arc<Shared<H>>,
}

/// The state that all threads of an engine share.
pub(crate) struct Shared<H: EventHandler> {
    pub(crate) reactors: Box<[Peer<H>]>,
    pub(crate) main: Option<MainReactor>,
    pub(crate) admission: Admission,
    pub(crate) local_addrs: Vec<Addr>,
    /// The listeners. Empty once the engine has stopped listening.
    pub(crate) listening: Mutex<AllListening>,
    pub(crate) profiles: ListenProfiles,
    /// The limits of connections for which no others are set.
    pub(crate) limits: Limits,
    /// The number of the next listener.
    pub(crate) next_listener: AtomicUsize,
    /// The options of further listeners.
    pub(crate) listen_options: ListenOptions,
    /// False once the engine accepts no more connections.
    pub(crate) accepting: AtomicBool,
    /// The number of threads that still accept.
    pub(crate) acceptors: AtomicUsize,
    /// The drain deadline of a shutdown that gives none, in milliseconds.
    pub(crate) drain_deadline: u64,
    /// The shortest drain deadline that a shutdown has asked for, in milliseconds, or [`RUNNING`].
    pub(crate) drain_within: AtomicU64,
    /// The number of reactors on which an answer may still be owed or awaited. Draining begins when it is 0.
    pub(crate) unsettled: AtomicUsize,
    /// The reactor that gets the next outbound or adopted connection.
    pub(crate) next_reactor: AtomicUsize,
    pub(crate) next_dial: AtomicU64,
    pub(crate) lookups: Lookups,
    /// Reads files. It is created when the first file is read. File reads do not share threads with name lookups,
    /// because a name server may take long to answer.
    pub(crate) reads: OnceLock<WorkerPool>,
}

/// A reactor, as other threads see it.
pub(crate) struct Peer<H: EventHandler> {
    pub(crate) mailbox: Mailbox<Command<H>, mio::Waker>,
    pub(crate) liveness: Liveness,
    pub(crate) metrics: Arc<Metrics>,
    /// The number of its connections, including those in its mailbox.
    pub(crate) load: AtomicUsize,
}

/// The thread that accepts for the other reactors.
pub(crate) struct MainReactor {
    pub(crate) waker: mio::Waker,
    pub(crate) metrics: Metrics,
    /// The listeners to open and to close.
    pub(crate) changes: Mutex<Vec<ListenerChange>>,
}

/// The options of listeners that are opened while the engine runs.
pub(crate) struct ListenOptions {
    pub(crate) socket: SocketOptions,
    pub(crate) udp: Common,
}

/// The value of `drain_within` before a shutdown.
pub(crate) const RUNNING: u64 = u64::MAX;

/// The number of files that are read at the same time.
const READING_THREADS: usize = 4;

impl<H: EventHandler> Shared<H> {
    /// Gives a request to a reactor.
    fn request(&self, reactor: usize, command: Command<H>) -> Result<(), HandleError> {
        let reactors = self.reactors.len();
        let peer = self.reactors.get(reactor);
        let peer = peer.ok_or(HandleError::NoSuchReactor { reactor, reactors })?;
        peer.mailbox.push(command)?;
        Ok(())
    }

    /// Gives a request to a connection's reactor, if the connection is open.
    pub(super) fn request_on(&self, id: ConnId, command: Command<H>) -> Result<(), HandleError> {
        if !self.is_open(id) {
            return Err(HandleError::Closed);
        }
        self.request(id.reactor(), command)
    }
}

impl<H: EventHandler> OutletTarget for Shared<H> {
    fn is_open(&self, id: ConnId) -> bool {
        let reactor = self.reactors.get(id.reactor());
        reactor.is_some_and(|reactor| reactor.liveness.is_open(id))
    }

    fn write(&self, id: ConnId, bytes: Bytes) -> Result<(), HandleError> {
        self.request_on(id, Command::Write(id, bytes))
    }

    fn write_then(
        &self,
        id: ConnId,
        bytes: Bytes,
        moment: Moment,
        done: Completion,
    ) -> Result<(), HandleError> {
        self.request_on(id, Command::WriteThen(id, bytes, moment, done))
    }

    fn close(&self, id: ConnId) -> Result<(), HandleError> {
        self.request_on(id, Command::Close(id))
    }

    fn abort(&self, id: ConnId) -> Result<(), HandleError> {
        self.request_on(id, Command::Abort(id))
    }
}

impl<H: EventHandler> Engine<H> {
    pub(crate) fn new(shared: Shared<H>) -> Self {
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Returns the addresses that it listens on since the start, in the order they were given, with the ports that the kernel
    /// chose. Those of later listeners are in their [`Listening`](crate::Listening).
    pub fn local_addrs(&self) -> &[Addr] {
        &self.shared.local_addrs
    }

    /// Returns the number of reactors. The main reactor is not counted.
    pub fn reactors(&self) -> usize {
        self.shared.reactors.len()
    }

    /// Returns the number of connections, including those that are opening or closing.
    pub fn connections(&self) -> usize {
        let load = |reactor: &Peer<H>| reactor.load.load(Ordering::Relaxed);
        self.shared.reactors.iter().map(load).sum()
    }

    /// Returns the counters of all reactors.
    pub fn stats(&self) -> Stats {
        let read = |reactor: &Peer<H>| {
            let mut stats = reactor.metrics.read();
            stats.connections = reactor.load.load(Ordering::Relaxed) as u64;
            stats.queued = reactor.mailbox.len() as u64;
            stats
        };
        Stats {
            reactors: self.shared.reactors.iter().map(read).collect(),
            main: self
                .shared
                .main
                .as_ref()
                .map(|main| main.metrics.read())
                .unwrap_or_default(),
            lookups: self.shared.lookups.stats(),
        }
    }

    /// Returns a handle to a connection, or `None` if it is not open.
    pub fn handle(&self, id: ConnId) -> Option<Handle<H>> {
        self.is_open(id).then(|| Handle::new(id, self.clone()))
    }

    /// Returns copies of the listening sockets, for a process that is to take them over: see
    /// [`handover`](crate::engine::listen::handover). Empty once the engine has stopped listening.
    ///
    /// The path of a Unix socket stays when this engine ends if a copy of the socket is still open somewhere. UDP
    /// sockets are not included.
    ///
    /// # Errors
    ///
    /// The error of `dup(2)`.
    pub fn listeners(&self) -> io::Result<Vec<OwnedFd>> {
        let listening = self.shared.listening.lock();
        listening.streams().map(|bound| bound.hand_over()).collect()
    }

    /// Stops accepting, and continues to serve the connections and UDP sockets it has, without a deadline. A server
    /// does this when another one takes over from it. Returns at once: [`is_accepting`](Self::is_accepting) returns
    /// false when it is done. Call [`shutdown`](Self::shutdown) when the last of the
    /// [`connections`](Self::connections) has ended.
    pub fn stop_accepting(&self) {
        if self.shared.accepting.swap(false, Ordering::AcqRel) {
            log::info!(target: "epicycle::server", "accepting no more connections");
            self.shared.listening.lock().clear();
            if let Some(main) = &self.shared.main {
                Wake::wake(&main.waker);
            }
            for reactor in &self.shared.reactors {
                let _ = reactor.mailbox.push_unbounded(Command::StopAccepting);
            }
        }
    }

    /// Returns true while it accepts connections. Once it returns false, all accepted connections count among the
    /// [`connections`](Self::connections).
    pub fn is_accepting(&self) -> bool {
        let listening = self.shared.listening.lock();
        if self.shared.accepting.load(Ordering::Acquire) {
            return listening.has_streams();
        }
        listening.had_streams() && self.shared.acceptors.load(Ordering::Acquire) > 0
    }

    /// Begins to shut down in stages. The engine stops accepting, lets connections drain, and resets those that take
    /// longer than the server's drain deadline. [`Running::join`](crate::Running::join) waits for the end.
    ///
    /// If somebody waits for an answer on a connection, at either end, the connection drains once the answer has
    /// come, if its codec [reports that](crate::codec::Stage). As long as there is such a connection,
    /// [`connect`](Self::connect) works, because the answer may need it.
    ///
    /// Does nothing once a shutdown has begun.
    pub fn shutdown(&self) {
        let within = self.shared.drain_deadline;
        let first = self.shared.drain_within.compare_exchange(
            RUNNING,
            within,
            Ordering::AcqRel,
            Ordering::Relaxed,
        );
        if first.is_ok() {
            self.stop();
        }
    }

    /// Shuts down with another deadline than the server's, counted from now.
    ///
    /// If a shutdown is under way, the earlier deadline applies. With [`Duration::ZERO`] it ends at once. A deadline
    /// later than the one in force changes nothing.
    pub fn shutdown_within(&self, deadline: Duration) {
        let within = millis(deadline).min(RUNNING - 1);
        // A deadline that is not shorter than an earlier one, and begins later, ends later.
        let before = self.shared.drain_within.fetch_min(within, Ordering::AcqRel);
        if before == RUNNING {
            self.stop();
        } else if within < before {
            log::info!(target: "epicycle::server", "hurrying the shutdown");
            self.request_shutdown();
        }
    }

    /// Returns true while outbound connections can be made: until a shutdown waits for no more answers.
    pub(crate) fn takes_connects(&self) -> bool {
        !self.is_stopping() || self.shared.unsettled.load(Ordering::Acquire) > 0
    }

    /// Counts a reactor that waits for no more answers. Returns true for the last one, and notifies the others then.
    pub(crate) fn report_settled(&self) -> bool {
        let is_last = self.shared.unsettled.fetch_sub(1, Ordering::AcqRel) == 1;
        if is_last {
            for reactor in &self.shared.reactors {
                let _ = reactor.mailbox.push_unbounded(Command::Settled);
            }
        }
        is_last
    }

    fn stop(&self) {
        let listens = !self.shared.local_addrs.is_empty();
        let level = if listens {
            log::Level::Info
        } else {
            log::Level::Debug
        };
        log::log!(target: "epicycle::server", level, "shutting down");
        self.shared.accepting.store(false, Ordering::Release);
        self.shared.listening.lock().clear();
        if let Some(main) = &self.shared.main {
            Wake::wake(&main.waker);
        }
        self.request_shutdown();
    }

    fn request_shutdown(&self) {
        for reactor in &self.shared.reactors {
            // A reactor that has ended needs no shutdown.
            let _ = reactor.mailbox.push_unbounded(Command::Shutdown);
        }
    }

    /// Returns true if the engine is shutting down or has ended.
    pub fn is_stopping(&self) -> bool {
        self.shared.drain_within.load(Ordering::Acquire) != RUNNING
    }

    /// Writes the same bytes to every connection that is open when its reactor handles the request. The bytes are
    /// copied for each connection only if they are few. A connection at its outbound limit misses the message.
    ///
    /// # Errors
    ///
    /// The first error of a reactor that did not accept the request. The other reactors still send the message.
    pub fn broadcast(&self, bytes: impl Into<Bytes>) -> Result<(), HandleError> {
        let bytes = bytes.into();
        let mut result = Ok(());
        for reactor in 0..self.reactors() {
            result = result.and(self.request(reactor, Command::Broadcast(bytes.clone())));
        }
        result
    }

    /// Runs `task` on a reactor's thread.
    ///
    /// # Errors
    ///
    /// [`HandleError::Closed`] if the reactor has ended, [`HandleError::MailboxFull`] if it is too busy, and
    /// [`HandleError::NoSuchReactor`].
    pub fn run_on(
        &self,
        reactor: usize,
        task: impl FnOnce(&mut H, &mut Reactor<'_, H>) + Send + 'static,
    ) -> Result<(), HandleError> {
        self.request(reactor, Command::OnReactor(Box::new(task)))
    }

    /// Runs `task` on a reactor's thread, also when its mailbox is full. The caller bounds the number of such tasks.
    #[cfg(feature = "rpc")]
    pub(crate) fn run_anyway(
        &self,
        reactor: usize,
        task: impl FnOnce(&mut H, &mut Reactor<'_, H>) + Send + 'static,
    ) {
        // A reactor that has ended has no use for it.
        let _ = (self.peer(reactor).mailbox).push_unbounded(Command::OnReactor(Box::new(task)));
    }

    /// Returns true in a simulation, which runs the reactors on the thread of its caller.
    #[cfg(feature = "gateway")]
    pub(crate) fn is_simulated(&self) -> bool {
        self.shared.lookups.are_simulated()
    }

    /// Returns the present time, which is virtual in a simulation.
    #[cfg(feature = "rpc")]
    pub(crate) fn now(&self) -> Instant {
        self.shared.lookups.now()
    }

    /// Looks a host name up, even if its addresses are cached. The callback is called once, on a lookup thread or on a reactor's.
    #[cfg(feature = "rpc")]
    pub(crate) fn look_up(
        &self,
        host: String,
        callback: impl FnOnce(LookupResult) + Send + 'static,
    ) {
        let shared = self.shared.clone();
        // On a reactor, so that the lookup is part of a turn, as those of connects are.
        self.run_anyway(0, move |_, _| {
            let asked = shared
                .lookups
                .look_up(&host, true, |_, found| callback(found));
            if let Err(error) = asked {
                log::debug!(target: "epicycle::conn", "{host} is not looked up: {error:?}");
            }
        });
    }

    /// Runs `task` on a reactor's thread after `delay`, counted from when the reactor handles the request. It never
    /// runs early, and is as exact as [`Conn::set_timer`](crate::Conn::set_timer).
    ///
    /// # Errors
    ///
    /// As for [`run_on`](Self::run_on).
    pub fn schedule(
        &self,
        reactor: usize,
        delay: Duration,
        task: impl FnOnce(&mut H, &mut Reactor<'_, H>) + Send + 'static,
    ) -> Result<(), HandleError> {
        self.run_on(reactor, move |_, reactor| reactor.schedule(delay, task))
    }

    pub(crate) fn request(&self, reactor: usize, command: Command<H>) -> Result<(), HandleError> {
        self.shared.request(reactor, command)
    }

    /// Gives an accepted and admitted connection to a reactor.
    pub(crate) fn deal(&self, reactor: usize, arrival: Arrival) {
        let target = &self.shared.reactors[reactor];
        target.load.fetch_add(1, Ordering::Relaxed);
        // Connections in the mailbox are bounded by descriptors and by max_connections.
        let dealt = target.mailbox.push_unbounded(Command::Adopt(arrival));
        if let Err(PushError::Closed(command) | PushError::Full(command)) = dealt {
            target.load.fetch_sub(1, Ordering::Relaxed);
            if let Command::Adopt(arrival) = command {
                self.shared.admission.release(arrival.counted_as());
            }
        }
    }

    /// Runs a file read on a worker thread.
    pub(crate) fn read(&self, job: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let pool = match self.shared.reads.get() {
            Some(pool) => pool,
            None => {
                let pool = WorkerPool::builder()
                    .threads(READING_THREADS)
                    .queue(usize::MAX)
                    .name("epicycle-files")
                    .build()
                    .map_err(io::Error::other)?;
                self.shared.reads.get_or_init(|| pool)
            }
        };
        pool.submit(job).map_err(io::Error::other)
    }

    /// Ends the worker threads, without waiting for them. Called after the reactors have ended.
    pub(crate) fn end_helpers(&self) {
        self.shared.lookups.end();
        if let Some(reads) = self.shared.reads.get() {
            reads.shutdown(Duration::ZERO);
        }
    }

    pub(super) fn outlet(&self, id: ConnId) -> Outlet {
        Outlet::new(id, self.shared.clone())
    }

    #[inline]
    pub(crate) fn peer(&self, reactor: usize) -> &Peer<H> {
        &self.shared.reactors[reactor]
    }

    pub(crate) fn shared(&self) -> &Shared<H> {
        &self.shared
    }

    pub(crate) fn is_open(&self, id: ConnId) -> bool {
        self.shared.is_open(id)
    }
}

impl<H: EventHandler> Clone for Engine<H> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
        }
    }
}

impl<H: EventHandler> fmt::Debug for Engine<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("reactors", &self.reactors())
            .field("local_addrs", &self.local_addrs())
            .finish_non_exhaustive()
    }
}
