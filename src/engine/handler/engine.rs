use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use std::{fmt, io};

use bytes::Bytes;
use parking_lot::Mutex;

use super::context::Arrival;
use super::{Command, EventHandler, Handle, HandleError, Reactor};
use crate::addr::Addr;
use crate::clock::millis;
use crate::engine::connect::resolve::Lookups;
use crate::engine::listen::admission::Admission;
use crate::engine::listen::bind::BoundSocket;
use crate::engine::mailbox::{Mailbox, PushError, Wake};
use crate::engine::slots::{ConnId, Liveness};
use crate::metrics::{Metrics, Stats};
use crate::workers::WorkerPool;

/// A running engine, for any thread: to stop it, watch it, or ask something of its reactors.
pub struct Engine<H: EventHandler> {
    shared: Arc<Shared<H>>,
}

/// What all threads of an engine know.
pub(crate) struct Shared<H: EventHandler> {
    pub(crate) reactors: Box<[Peer<H>]>,
    pub(crate) main: Option<MainReactor>,
    pub(crate) admission: Admission,
    pub(crate) local_addrs: Vec<Addr>,
    /// What is listened on, for another process to go on with; empty once it is no more.
    pub(crate) listening: Mutex<Vec<Arc<BoundSocket>>>,
    /// Cleared once it is to accept no more.
    pub(crate) accepting: AtomicBool,
    /// What each listener speaks, by its number.
    #[cfg(feature = "tls")]
    pub(crate) tls: Vec<Option<crate::tls::TlsServer>>,
    /// How many threads still accept.
    pub(crate) acceptors: AtomicUsize,
    /// How long connections may drain after a shutdown that gives no deadline, in milliseconds.
    pub(crate) drain_deadline: u64,
    /// The shortest time to drain that a shutdown has asked for, in milliseconds, or [`RUNNING`].
    pub(crate) drain_within: AtomicU64,
    /// How many reactors wait, or may yet have to wait, for answers before they drain.
    pub(crate) unsettled: AtomicUsize,
    /// Whose turn it is to get a connection that nobody deals.
    pub(crate) next_reactor: AtomicUsize,
    pub(crate) next_dial: AtomicU64,
    pub(crate) lookups: Lookups,
    /// Reads files; made when there is something to read. They do not share threads with names, whose server may not
    /// answer for long.
    pub(crate) reads: OnceLock<WorkerPool>,
}

/// A reactor, as the others see it.
pub(crate) struct Peer<H: EventHandler> {
    pub(crate) mailbox: Mailbox<Command<H>, mio::Waker>,
    pub(crate) liveness: Liveness,
    pub(crate) metrics: Arc<Metrics>,
    /// Its connections, those on their way to it included.
    pub(crate) load: AtomicUsize,
}

/// The thread that accepts for the others.
pub(crate) struct MainReactor {
    pub(crate) waker: mio::Waker,
    pub(crate) metrics: Metrics,
}

/// Nobody has asked for a shutdown.
pub(crate) const RUNNING: u64 = u64::MAX;

/// As many files are read at a time.
const READING_THREADS: usize = 4;

impl<H: EventHandler> Engine<H> {
    pub(crate) fn new(shared: Shared<H>) -> Self {
        Self {
            shared: Arc::new(shared),
        }
    }

    /// The addresses it listens on, in the order they were given; with the ports the kernel chose.
    pub fn local_addrs(&self) -> &[Addr] {
        &self.shared.local_addrs
    }

    /// How many reactors it has, the main one not counted.
    pub fn reactors(&self) -> usize {
        self.shared.reactors.len()
    }

    /// How many connections it has now, those that are opening or closing included.
    pub fn connections(&self) -> usize {
        let load = |reactor: &Peer<H>| reactor.load.load(Ordering::Relaxed);
        self.shared.reactors.iter().map(load).sum()
    }

    /// The counters of all reactors.
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

    /// The way to a connection, if it is open.
    pub fn handle(&self, id: ConnId) -> Option<Handle<H>> {
        self.is_open(id).then(|| Handle::new(id, self.clone()))
    }

    /// The sockets it listens on, as descriptors of their own, for a process that is to take them over: see
    /// [`handover`](crate::engine::listen::handover). Empty once it does not listen any more.
    ///
    /// A Unix socket's path stays when this engine ends, if a copy of the socket is still open somewhere by then. UDP sockets are
    /// not among them.
    ///
    /// # Errors
    ///
    /// What `dup(2)` answers.
    pub fn listeners(&self) -> io::Result<Vec<OwnedFd>> {
        let listening = self.shared.listening.lock();
        listening.iter().map(|bound| bound.hand_over()).collect()
    }

    /// Stops accepting, and serves the connections and UDP sockets it has, without a deadline: what a server does
    /// that another one takes over from. Comes back at once: [`is_accepting`](Self::is_accepting) tells when it
    /// is done, and [`shutdown`](Self::shutdown) follows when the last of the [`connections`](Self::connections)
    /// has ended.
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

    /// Whether it still accepts connections. Once it does not, all that were accepted count among the
    /// [`connections`](Self::connections).
    pub fn is_accepting(&self) -> bool {
        self.shared.acceptors.load(Ordering::Acquire) > 0
    }

    /// Begins to shut down in stages: stop accepting, let connections drain, force those that take longer
    /// than the server's drain deadline. [`Running::join`](crate::Running::join) waits for the end.
    ///
    /// A connection on which somebody waits for an answer, at either end, drains once that has come, if its
    /// codec [tells](crate::codec::Stage). As long as there is one, [`connect`](Self::connect) works: the answer may need it.
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

    /// The same with another deadline than the server's, counted from now.
    ///
    /// It hurries a shutdown that is under way and would last longer; with [`Duration::ZERO`] that ends at once.
    /// A deadline that is later than the one in force changes nothing.
    pub fn shutdown_within(&self, deadline: Duration) {
        let within = millis(deadline).min(RUNNING - 1);
        // A time that is no shorter than an earlier one, and begins later, ends later.
        let before = self.shared.drain_within.fetch_min(within, Ordering::AcqRel);
        if before == RUNNING {
            self.stop();
        } else if within < before {
            log::info!(target: "epicycle::server", "hurrying the shutdown");
            self.tell_to_stop();
        }
    }

    /// Whether connections can be made: until the shutdown waits for no answer any more.
    pub(crate) fn takes_connects(&self) -> bool {
        !self.is_stopping() || self.shared.unsettled.load(Ordering::Acquire) > 0
    }

    /// A reactor waits for no answer any more. Returns whether it was the last, and tells the others then.
    pub(crate) fn settle(&self) -> bool {
        let is_last = self.shared.unsettled.fetch_sub(1, Ordering::AcqRel) == 1;
        if is_last {
            for reactor in &self.shared.reactors {
                let _ = reactor.mailbox.push_unbounded(Command::Settled);
            }
        }
        is_last
    }

    fn stop(&self) {
        log::info!(target: "epicycle::server", "shutting down");
        self.shared.accepting.store(false, Ordering::Release);
        self.shared.listening.lock().clear();
        if let Some(main) = &self.shared.main {
            Wake::wake(&main.waker);
        }
        self.tell_to_stop();
    }

    fn tell_to_stop(&self) {
        for reactor in &self.shared.reactors {
            // A reactor that has ended needs no shutdown.
            let _ = reactor.mailbox.push_unbounded(Command::Shutdown);
        }
    }

    /// Whether it is shutting down or has ended.
    pub fn is_stopping(&self) -> bool {
        self.shared.drain_within.load(Ordering::Acquire) != RUNNING
    }

    /// Writes the same bytes to every connection that is open when its reactor comes to it. Nothing is
    /// copied for each of them unless it is small. A connection at its outbound limit misses the message.
    ///
    /// # Errors
    ///
    /// The first reactor's refusal, when one was too busy; the others get the message all the same.
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
    /// [`HandleError::Closed`] when the reactor has ended, [`HandleError::MailboxFull`] when it is too busy, and
    /// [`HandleError::NoSuchReactor`].
    pub fn run_on(
        &self,
        reactor: usize,
        task: impl FnOnce(&mut H, &mut Reactor<'_, H>) + Send + 'static,
    ) -> Result<(), HandleError> {
        self.request(reactor, Command::OnReactor(Box::new(task)))
    }

    /// Runs `task` on a reactor's thread after `delay`, counted from when the reactor hears of it: never early, and as exact as
    /// [`Conn::set_timer`](crate::Conn::set_timer).
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
        let reactors = self.reactors();
        let peer = self.shared.reactors.get(reactor);
        let peer = peer.ok_or(HandleError::NoSuchReactor { reactor, reactors })?;
        peer.mailbox.push(command)?;
        Ok(())
    }

    /// Gives a reactor a connection that was accepted and admitted.
    pub(crate) fn deal(&self, reactor: usize, arrival: Arrival) {
        let target = &self.shared.reactors[reactor];
        target.load.fetch_add(1, Ordering::Relaxed);
        // Connections on their way are bounded by descriptors and by max_connections.
        let dealt = target.mailbox.push_unbounded(Command::Adopt(arrival));
        if let Err(PushError::Closed(command) | PushError::Full(command)) = dealt {
            target.load.fetch_sub(1, Ordering::Relaxed);
            if let Command::Adopt(arrival) = command {
                self.shared.admission.release(&arrival.peer);
            }
        }
    }

    /// Reads a file off the loops.
    pub(crate) fn read(&self, job: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let pool = match self.shared.reads.get() {
            Some(pool) => pool,
            None => {
                let made = WorkerPool::builder()
                    .threads(READING_THREADS)
                    .queue(usize::MAX)
                    .name("epicycle-files")
                    .build()
                    .map_err(io::Error::other)?;
                self.shared.reads.get_or_init(|| made)
            }
        };
        pool.submit(job).map_err(io::Error::other)
    }

    /// The reactors have ended: so do the threads that worked for them, without being waited for.
    pub(crate) fn end_helpers(&self) {
        self.shared.lookups.end();
        if let Some(reads) = self.shared.reads.get() {
            reads.shutdown(Duration::ZERO);
        }
    }

    #[inline]
    pub(crate) fn peer(&self, reactor: usize) -> &Peer<H> {
        &self.shared.reactors[reactor]
    }

    pub(crate) fn shared(&self) -> &Shared<H> {
        &self.shared
    }

    pub(crate) fn is_open(&self, id: ConnId) -> bool {
        let reactor = self.shared.reactors.get(id.reactor());
        reactor.is_some_and(|reactor| reactor.liveness.is_open(id))
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
