//! Counters of the running engine, one set for each reactor. Reading them blocks no reactor.
//!
//! ```
//! # use epicycle::{Action, Server};
//! let running = Server::bind("tcp://127.0.0.1:0").reactors(1).start(|_| {
//!     epicycle::service(|conn, bytes| conn.write(bytes).into())
//! })?;
//! let stats = running.engine().stats();
//! assert_eq!(stats.total().accepted, 0);
//! assert_eq!(stats.reactors.len(), 1);
//! # Ok::<(), epicycle::Error>(())
//! ```

use std::ops::AddAssign;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The counters of one reactor at one moment, or the sum of several.
///
/// Counters count from the start. A field whose text contains "now" is a gauge: it goes up and down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReactorStats {
    /// Connections open now, including draining ones.
    pub connections: u64,
    /// Connections accepted, including those refused afterwards.
    pub accepted: u64,
    /// Connections refused: by a limit, or by `on_open`.
    pub refused: u64,
    /// Outbound connections made.
    pub connected: u64,
    /// Attempts to connect that failed.
    pub connect_failures: u64,
    /// Connections closed.
    pub closed: u64,
    /// UDP sessions closed to make room for others.
    pub evicted: u64,
    /// Connections that a shutdown closed after everything was sent.
    pub drained: u64,
    /// Connections that a shutdown closed with output unsent, at its deadline or before.
    pub forced: u64,
    /// Bytes received.
    pub bytes_in: u64,
    /// Bytes that the kernel accepted for sending.
    pub bytes_out: u64,
    /// Frames passed to `react`.
    pub frames: u64,
    /// Datagrams received.
    pub datagrams_in: u64,
    /// Datagrams that the kernel accepted for sending.
    pub datagrams_out: u64,
    /// Datagrams dropped by the engine: those of refused or paused sessions, malformed ones, and those that the kernel
    /// refused to send. Datagrams that the kernel or the network drops later are not counted.
    pub datagrams_dropped: u64,
    /// Datagrams received without their end, because they were longer than the buffer.
    pub datagrams_truncated: u64,
    /// Bytes in buffers that connections hold now.
    pub buffered: u64,
    /// Files that wait to be sent now. Each holds a descriptor.
    pub files: u64,
    /// Kernel pipes that joined connections use now or keep for reuse. Each holds two descriptors.
    pub kernel_pipes: u64,
    /// Requests from other threads that wait for the reactor now.
    pub queued: u64,
    /// Timers pending now.
    pub timers: u64,
    /// Turns of the event loop.
    pub turns: u64,
    /// The time that the loop worked, as opposed to waiting in the poll.
    pub busy: Duration,
    /// The lag of the loop: the duration of its last turn, for which an event that arrived at the turn's start had to
    /// wait.
    pub lag: Duration,
    /// The longest lag since the start.
    pub max_lag: Duration,
    /// Failed calls of `accept(2)`.
    pub accept_errors: u64,
    /// Connections closed because the peer reset them.
    pub resets: u64,
    /// Connections closed by another socket error.
    pub io_errors: u64,
    /// TLS handshakes completed.
    pub handshakes: u64,
    /// TLS handshakes that failed: refused by either side, interrupted, or timed out.
    pub handshake_failures: u64,
    /// Connections closed because TLS failed, in the handshake or later.
    pub tls_errors: u64,
    /// Connections closed because of a malformed or oversized frame.
    pub frame_errors: u64,
    /// Connections closed by a timeout.
    pub timeouts: u64,
    /// Requests that the codec answered in place of the handler. See [`Closed::refused`](crate::Closed::refused).
    pub refusals: u64,
    /// Writes refused and connections closed at the outbound limit or at the limit of files.
    pub overflows: u64,
    /// Panics in callbacks.
    pub panics: u64,
}

impl AddAssign for ReactorStats {
    fn add_assign(&mut self, other: Self) {
        self.connections += other.connections;
        self.accepted += other.accepted;
        self.refused += other.refused;
        self.connected += other.connected;
        self.connect_failures += other.connect_failures;
        self.closed += other.closed;
        self.evicted += other.evicted;
        self.drained += other.drained;
        self.forced += other.forced;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
        self.frames += other.frames;
        self.datagrams_in += other.datagrams_in;
        self.datagrams_out += other.datagrams_out;
        self.datagrams_dropped += other.datagrams_dropped;
        self.datagrams_truncated += other.datagrams_truncated;
        self.buffered += other.buffered;
        self.files += other.files;
        self.kernel_pipes += other.kernel_pipes;
        self.queued += other.queued;
        self.timers += other.timers;
        self.turns += other.turns;
        self.busy += other.busy;
        self.lag = self.lag.max(other.lag);
        self.max_lag = self.max_lag.max(other.max_lag);
        self.accept_errors += other.accept_errors;
        self.resets += other.resets;
        self.io_errors += other.io_errors;
        self.handshakes += other.handshakes;
        self.handshake_failures += other.handshake_failures;
        self.tls_errors += other.tls_errors;
        self.frame_errors += other.frame_errors;
        self.timeouts += other.timeouts;
        self.refusals += other.refusals;
        self.overflows += other.overflows;
        self.panics += other.panics;
    }
}

/// The counters of every reactor.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Stats {
    /// One entry per reactor, in order.
    pub reactors: Vec<ReactorStats>,
    /// The counters of the main reactor, which accepts connections and deals them. All are zero if the reactors accept by
    /// themselves.
    pub main: ReactorStats,
    /// The counters of host name lookups, which the reactors share.
    pub lookups: LookupStats,
}

/// The counters of an engine's host name lookups at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LookupStats {
    /// Names that wait for a thread now; at most [`lookup_queue`](crate::Server::lookup_queue).
    pub waiting: u64,
    /// Lookups under way now; at most [`lookup_threads`](crate::Server::lookup_threads).
    pub running: u64,
    /// Names whose addresses are cached now; at most 1,024.
    pub kept: u64,
    /// Lookups carried out.
    pub completed: u64,
    /// Lookups carried out that found no address.
    pub failed: u64,
    /// Lookups dropped before they began, because no connect waited for them any more.
    pub dropped: u64,
    /// Connects that failed because the queue was full.
    pub refused: u64,
}

impl Stats {
    /// Returns the sum over all reactors. `lag` and `max_lag` are the longest of all.
    pub fn total(&self) -> ReactorStats {
        let mut total = self.main;
        for reactor in &self.reactors {
            total += *reactor;
        }
        total
    }
}

/// A counter with one writer. An addition is a load and a store, without a locked instruction.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    #[inline]
    pub(crate) fn add(&self, n: u64) {
        self.set(self.get().wrapping_add(n));
    }

    #[inline]
    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn subtract(&self, n: u64) {
        self.set(self.get().wrapping_sub(n));
    }

    fn duration(&self) -> Duration {
        Duration::from_nanos(self.get())
    }
}

/// The counters of one reactor, on cache lines of their own, so that reactors do not slow each other down.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Metrics {
    pub(crate) accepted: Counter,
    pub(crate) refused: Counter,
    pub(crate) connected: Counter,
    pub(crate) connect_failures: Counter,
    pub(crate) closed: Counter,
    pub(crate) evicted: Counter,
    pub(crate) drained: Counter,
    pub(crate) forced: Counter,
    pub(crate) bytes_in: Counter,
    pub(crate) bytes_out: Counter,
    pub(crate) frames: Counter,
    pub(crate) datagrams_in: Counter,
    pub(crate) datagrams_out: Counter,
    pub(crate) datagrams_dropped: Counter,
    pub(crate) datagrams_truncated: Counter,
    pub(crate) buffered: Counter,
    pub(crate) files: Counter,
    pub(crate) kernel_pipes: Counter,
    pub(crate) timers: Counter,
    pub(crate) turns: Counter,
    pub(crate) busy: Counter,
    pub(crate) lag: Counter,
    pub(crate) max_lag: Counter,
    pub(crate) accept_errors: Counter,
    pub(crate) resets: Counter,
    pub(crate) io_errors: Counter,
    pub(crate) handshakes: Counter,
    pub(crate) handshake_failures: Counter,
    pub(crate) tls_errors: Counter,
    pub(crate) frame_errors: Counter,
    pub(crate) timeouts: Counter,
    pub(crate) refusals: Counter,
    pub(crate) overflows: Counter,
    pub(crate) panics: Counter,
}

impl Metrics {
    pub(crate) fn read(&self) -> ReactorStats {
        ReactorStats {
            connections: 0,
            queued: 0,
            accepted: self.accepted.get(),
            refused: self.refused.get(),
            connected: self.connected.get(),
            connect_failures: self.connect_failures.get(),
            closed: self.closed.get(),
            evicted: self.evicted.get(),
            drained: self.drained.get(),
            forced: self.forced.get(),
            bytes_in: self.bytes_in.get(),
            bytes_out: self.bytes_out.get(),
            frames: self.frames.get(),
            datagrams_in: self.datagrams_in.get(),
            datagrams_out: self.datagrams_out.get(),
            datagrams_dropped: self.datagrams_dropped.get(),
            datagrams_truncated: self.datagrams_truncated.get(),
            buffered: self.buffered.get(),
            files: self.files.get(),
            kernel_pipes: self.kernel_pipes.get(),
            timers: self.timers.get(),
            turns: self.turns.get(),
            busy: self.busy.duration(),
            lag: self.lag.duration(),
            max_lag: self.max_lag.duration(),
            accept_errors: self.accept_errors.get(),
            resets: self.resets.get(),
            io_errors: self.io_errors.get(),
            handshakes: self.handshakes.get(),
            handshake_failures: self.handshake_failures.get(),
            tls_errors: self.tls_errors.get(),
            frame_errors: self.frame_errors.get(),
            timeouts: self.timeouts.get(),
            refusals: self.refusals.get(),
            overflows: self.overflows.get(),
            panics: self.panics.get(),
        }
    }
}

/// Counts a file as waiting for as long as the value lives. It must live and be dropped on the reactor's thread.
#[derive(Debug)]
pub(crate) struct WaitingFile(Arc<Metrics>);

impl WaitingFile {
    pub(crate) fn new(metrics: &Arc<Metrics>) -> Self {
        metrics.files.add(1);
        Self(metrics.clone())
    }
}

impl Drop for WaitingFile {
    fn drop(&mut self) {
        self.0.files.subtract(1);
    }
}
