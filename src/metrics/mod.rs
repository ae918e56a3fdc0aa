//! Counters of the running engine, one set for each reactor, and [sets of your own](crate::metric_set). Reading them blocks no
//! reactor.
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

mod cell;
mod exposition;
#[cfg(feature = "histogram")]
mod histogram;
mod label;
mod set;

use std::sync::Arc;

pub use self::cell::{Counter, Gauge, TimeCounter, TimeGauge};
pub use self::exposition::{CONTENT_TYPE, Expose, Exposition, prometheus};
#[cfg(feature = "histogram")]
pub use self::histogram::{Distribution, Histogram};
pub use self::label::{ByLabel, Label};
use crate::metric_set;

/// The names that the code of [`metric_set!`] uses.
#[doc(hidden)]
pub mod kind {
    pub use super::exposition::Series;
    pub use super::set::{By, Kind, counter, gauge, longest, time};
    #[cfg(feature = "histogram")]
    pub use super::set::{histogram, time_histogram};
}

metric_set! {
    /// The counters of one reactor at one moment, or the sum of several.
    ///
    /// Counters count from the start. A field whose text contains "now" is a gauge: it goes up and down.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    #[non_exhaustive]
    pub struct ReactorStats("epicycle") {
        /// Connections open now, including draining ones.
        connections: gauge,
        /// Connections accepted, including those refused afterwards.
        accepted: counter,
        /// Connections refused: by a limit, or by `on_open`.
        refused: counter,
        /// Outbound connections made.
        connected: counter,
        /// Attempts to connect that failed.
        connect_failures: counter,
        /// Connections closed.
        closed: counter,
        /// UDP sessions closed to make room for others.
        evicted: counter,
        /// Connections that a shutdown closed after everything was sent.
        drained: counter,
        /// Connections that a shutdown closed with output unsent, at its deadline or before.
        forced: counter,
        /// Bytes received.
        bytes_in: counter,
        /// Bytes that the kernel accepted for sending.
        bytes_out: counter,
        /// Frames passed to `react`.
        frames: counter,
        /// Datagrams received.
        datagrams_in: counter,
        /// Datagrams that the kernel accepted for sending.
        datagrams_out: counter,
        /// Datagrams dropped by the engine: those of refused or paused sessions, malformed ones, and those that the kernel
        /// refused to send. Datagrams that the kernel or the network drops later are not counted.
        datagrams_dropped: counter,
        /// Datagrams received without their end, because they were longer than the buffer.
        datagrams_truncated: counter,
        /// Bytes in buffers that connections hold now.
        buffered: gauge,
        /// Files that wait to be sent now. Each holds a descriptor.
        files: gauge,
        /// Kernel pipes that joined connections use now or keep for reuse. Each holds two descriptors.
        kernel_pipes: gauge,
        /// Requests from other threads that wait for the reactor now.
        queued: gauge,
        /// Timers pending now.
        timers: gauge,
        /// Turns of the event loop.
        turns: counter,
        /// The time that the loop worked, as opposed to waiting in the poll.
        busy: time,
        /// The lag of the loop: the duration of its last turn, for which an event that arrived at the turn's start had to
        /// wait.
        lag: longest,
        /// The longest lag since the start.
        max_lag: longest,
        /// Failed calls of `accept(2)`.
        accept_errors: counter,
        /// Connections closed because the peer reset them.
        resets: counter,
        /// Connections closed by another socket error.
        io_errors: counter,
        /// TLS handshakes completed.
        handshakes: counter,
        /// TLS handshakes that failed: refused by either side, interrupted, or timed out.
        handshake_failures: counter,
        /// Connections closed because TLS failed, in the handshake or later.
        tls_errors: counter,
        /// Connections closed because they did not begin with the PROXY header that the listener expects.
        proxy_errors: counter,
        /// Connections closed because of a malformed or oversized frame.
        frame_errors: counter,
        /// Connections closed by a timeout.
        timeouts: counter,
        /// Requests that the codec answered in place of the handler. See [`Closed::refused`](crate::Closed::refused).
        refusals: counter,
        /// Writes refused and connections closed at the outbound limit or at the limit of files.
        overflows: counter,
        /// Connections without their own limits, because 65,535 other sets of limits were in use on the reactor: a new UDP
        /// session is refused then, and another connection has the limits of the server.
        limit_sets_lacking: counter,
        /// Panics in callbacks.
        panics: counter,
    }

    /// The counters of one reactor, on cache lines of their own, so that reactors do not slow each other down.
    #[derive(Debug, Default)]
    #[repr(align(128))]
    pub(crate) struct Metrics;
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

metric_set! {
    /// The counters of an engine's host name lookups at one moment.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    #[non_exhaustive]
    pub struct LookupStats("epicycle_lookups") {
        /// Names that wait for a thread now; at most [`lookup_queue`](crate::Server::lookup_queue).
        waiting: gauge,
        /// Lookups under way now; at most [`lookup_threads`](crate::Server::lookup_threads).
        running: gauge,
        /// Names whose addresses are cached now; at most 1,024.
        kept: gauge,
        /// Lookups carried out.
        completed: counter,
        /// Lookups carried out that found no address.
        failed: counter,
        /// Lookups dropped before they began, because no connect waited for them any more.
        dropped: counter,
        /// Connects that failed because the queue was full.
        refused: counter,
    }
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

impl Expose for Stats {
    fn expose(&self, labels: &[(&str, &str)], to: &mut Exposition) {
        let mut reactor = |name: &str, stats: &ReactorStats| {
            let own = [("reactor", name)];
            stats.expose(&[labels, own.as_slice()].concat(), to);
        };
        for (number, stats) in self.reactors.iter().enumerate() {
            reactor(&number.to_string(), stats);
        }
        reactor("main", &self.main);
        self.lookups.expose(labels, to);
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
