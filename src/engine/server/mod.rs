//! Servers: their options, their start and their end.

pub(crate) mod acceptor;

mod options;
pub(crate) mod replacing;
mod settings;
#[cfg(feature = "signals")]
mod signals;
#[cfg(feature = "testing")]
pub(crate) mod simulated;
mod start;
pub(crate) mod watcher;

use std::fmt;
use std::thread::JoinHandle;

pub use self::options::AcceptMode;
use self::options::Options;
use self::watcher::Watcher;
use crate::addr::Addr;
use crate::engine::handler::engine::Engine;
use crate::engine::handler::{Action, Conn, EventHandler, Service, service};
use crate::engine::listen::Listen;
use crate::error::Error;
use crate::metrics::Stats;
use crate::panic;

/// The configuration of a server: its addresses and its options.
///
/// Every option has a default that suits a production server. The documentation of each method gives the default and the
/// cost.
///
/// ```
/// use std::time::Duration;
/// use epicycle::{Server, service};
///
/// let running = Server::bind("tcp://127.0.0.1:0")
///     .reactors(2)
///     .idle_timeout(Duration::from_secs(300))
///     .start(|_reactor| service(|conn, bytes| conn.write(bytes).into()))?;
/// println!("listening on {}", running.local_addrs()[0]);
/// let report = running.shutdown();
/// assert_eq!(report.forced, 0);
/// # Ok::<(), epicycle::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "a server does nothing until it is run or started"]
pub struct Server {
    listens: Vec<Listen>,
    options: Options,
}

/// A running server. A drop shuts the server down and waits for its end.
#[must_use = "dropping it shuts the server down"]
pub struct Running<H: EventHandler> {
    engine: Engine<H>,
    main: Option<JoinHandle<()>>,
    reactors: Vec<JoinHandle<()>>,
    /// The threads that wait for signals and for successors.
    watchers: Vec<Watcher>,
}

/// The result of a shutdown.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report {
    /// The number of connections that were open at the shutdown, or made during it, and closed with all output sent.
    pub drained: usize,
    /// The number of connections that were reset at the deadline, or broke before it.
    pub forced: usize,
    /// The final counters.
    pub stats: Stats,
}

impl Report {
    /// Makes the report from the counters, which outlive a reactor whose thread panics.
    pub(crate) fn of(stats: Stats) -> Self {
        let total = stats.total();
        Self {
            drained: total.drained as usize,
            forced: total.forced as usize,
            stats,
        }
    }
}

impl Server {
    /// Creates a server on one address or socket. [`Listen`] lists the possible types. [`run`](Self::run) and
    /// [`start`](Self::start) report a bad address.
    pub fn bind(listen: impl Into<Listen>) -> Self {
        Self::unbound().and(listen)
    }

    /// Creates a server that listens nowhere.
    pub(crate) fn unbound() -> Self {
        Self {
            listens: Vec::new(),
            options: Options::default(),
        }
    }

    /// Adds another address or socket.
    pub fn and(mut self, listen: impl Into<Listen>) -> Self {
        self.listens.push(listen.into());
        self
    }

    /// Runs the server until a shutdown has ended. An [`Action`](crate::Action), [`Engine::shutdown`], or a signal with the
    /// option `stop_on_signals` begins a shutdown.
    ///
    /// `factory` makes the handler of each reactor. It is called on the thread of the reactor, with the reactor's number.
    ///
    /// # Errors
    ///
    /// As for [`start`](Self::start).
    pub fn run<H: EventHandler>(
        self,
        factory: impl Fn(usize) -> H + Send + Sync + 'static,
    ) -> Result<Report, Error> {
        Ok(self.start(factory)?.join())
    }

    /// Starts the threads. Returns when every reactor has booted and the listeners are open.
    ///
    /// # Errors
    ///
    /// Returns an [`Error`] that names the wrong address or option, the address that cannot be bound, or the reactor whose
    /// handler panicked at boot. No thread is left running then.
    pub fn start<H: EventHandler>(
        mut self,
        factory: impl Fn(usize) -> H + Send + Sync + 'static,
    ) -> Result<Running<H>, Error> {
        match self.options.control.take() {
            None => start::start(self.listens, self.options, factory),
            Some(control) => {
                replacing::start_replaceable(&control, self.listens, self.options, factory)
            }
        }
    }
}

/// Runs a server that calls `react` with all received bytes. Each reactor has a copy of the closure.
///
/// At a UDP address, each peer is a connection: a [session](Listen::sessions) with the options of the [`Listen`], or with the
/// defaults of [`UdpSessions`](crate::UdpSessions). `react` is called with each datagram. Each write is one datagram.
///
/// SIGINT (ctrl-c) and SIGTERM shut the server down gracefully, as described at [`Server::stop_on_signals`]. This needs the
/// feature `signals`, which is on by default.
///
/// # Errors
///
/// As for [`Server::start`].
pub fn serve<F>(listen: impl Into<Listen>, react: F) -> Result<(), Error>
where
    F: FnMut(&mut Conn<'_, Service>, &[u8]) -> Action + Clone + Send + Sync + 'static,
{
    let server = Server::bind(listen.into().or_sessions());
    #[cfg(feature = "signals")]
    let server = server.stop_on_signals();
    server.run(move |_| service(react.clone()))?;
    Ok(())
}

impl<H: EventHandler> Running<H> {
    fn new(engine: Engine<H>) -> Self {
        Self {
            engine,
            main: None,
            reactors: Vec::new(),
            watchers: Vec::new(),
        }
    }

    /// Returns the addresses of the listeners in the order in which they were given, with the ports that the kernel chose.
    pub fn local_addrs(&self) -> &[Addr] {
        self.engine.local_addrs()
    }

    /// Returns the engine, which can be cloned and given to other threads.
    pub fn engine(&self) -> &Engine<H> {
        &self.engine
    }

    /// Shuts the server down gracefully and waits for its end.
    pub fn shutdown(self) -> Report {
        self.engine.shutdown();
        self.join()
    }

    /// Waits for the end. Something else has to begin the shutdown.
    pub fn join(mut self) -> Report {
        self.wait()
    }

    fn wait(&mut self) -> Report {
        for reactor in self.reactors.drain(..) {
            if let Err(panic) = reactor.join() {
                panic::report("epicycle::server", "a reactor", panic);
            }
        }
        if let Some(main) = self.main.take()
            && main.join().is_err()
        {
            log::error!(target: "epicycle::server", "the main reactor died");
        }
        self.watchers.clear();
        self.engine.end_helpers();
        Report::of(self.engine.stats())
    }
}

impl<H: EventHandler> fmt::Debug for Running<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Running").field(&self.engine).finish()
    }
}

impl<H: EventHandler> Drop for Running<H> {
    fn drop(&mut self) {
        if !self.reactors.is_empty() {
            self.engine.shutdown();
            self.wait();
        }
    }
}
