//! A gateway that runs.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Gateway;
use super::admin::AdminServer;
use super::error::GatewayError;
use super::hooks::Hooks;
use super::proxy::{Proxy, Session};
use super::settings::{AdminSettings, ListenerKind};
use super::shared::{Open, Shared};
use super::status::Reloaded;
use crate::addr::Addr;
use crate::engine::handler::Engine;
use crate::engine::server;

/// A gateway that runs. A drop ends it, as [`shutdown`](Self::shutdown) does.
#[must_use = "`join` waits for its end"]
pub struct Running<H: Hooks> {
    running: server::Running<Proxy<H>>,
    control: Control<H>,
    _admin: OpenAdmin,
}

/// The admin interface, which ends with the gateway.
struct OpenAdmin(Arc<Shared>);

impl Drop for OpenAdmin {
    fn drop(&mut self) {
        let admin = self.0.admin.lock().take();
        if let Some(admin) = admin {
            admin.join();
        }
    }
}

/// Controls a gateway that runs, from any thread but its reactors'. A clone controls the same gateway.
pub struct Control<H: Hooks> {
    pub(super) engine: Engine<Proxy<H>>,
    pub(super) shared: Arc<Shared>,
}

impl<H: Hooks> Proxy<H> {
    /// Returns the control of the gateway that this handler is a part of, for one that was started by
    /// [`Gateway::start_with`](super::Gateway::start_with). `engine` is the gateway's engine.
    pub fn control(&self, engine: &Engine<Self>) -> Control<H> {
        Control {
            engine: engine.clone(),
            shared: self.shared.clone(),
        }
    }
}

impl<H: Hooks> Running<H> {
    pub(super) fn new(
        running: server::Running<Proxy<H>>,
        shared: Arc<Shared>,
        admin_socket: Option<OwnedFd>,
    ) -> Result<Self, GatewayError> {
        {
            let mut state = shared.state.lock();
            for (open, addr) in state.listeners.iter_mut().zip(running.local_addrs()) {
                open.local_addr = addr.clone();
            }
        }
        let engine = running.engine().clone();
        let control = Control { engine, shared };
        let admin = control.shared.state.lock().settings.admin.clone();
        if let Some(admin) = admin {
            match control.start_admin(&admin, admin_socket) {
                Ok(admin) => *control.shared.admin.lock() = Some(admin),
                Err(error) => {
                    running.engine().shutdown_within(Duration::ZERO);
                    running.join();
                    return Err(error);
                }
            }
        }
        let _admin = OpenAdmin(control.shared.clone());
        Ok(Self {
            running,
            control,
            _admin,
        })
    }

    /// Returns the addresses of the listeners that the gateway started with, in the order of the settings.
    pub fn local_addrs(&self) -> &[Addr] {
        self.running.local_addrs()
    }

    /// Returns the engine.
    pub fn engine(&self) -> &Engine<Proxy<H>> {
        self.running.engine()
    }

    /// Returns the control.
    pub fn control(&self) -> &Control<H> {
        &self.control
    }

    /// Takes over other settings, as [`Control::reload`] does.
    ///
    /// # Errors
    ///
    /// As for [`Control::reload`].
    pub fn reload(&self, gateway: &Gateway) -> Result<Reloaded, GatewayError> {
        self.control.reload(gateway)
    }

    /// Stops accepting, lets exchanges end, and waits for the end.
    pub fn shutdown(self) -> server::Report {
        self.control.shutdown();
        self.join()
    }

    /// Waits for the end.
    pub fn join(self) -> server::Report {
        let report = self.running.join();
        self.control.shared.sources.end();
        // Writes what was logged.
        let logger = self.control.shared.logger.lock().take();
        drop(logger);
        report
    }
}

impl<H: Hooks> Control<H> {
    /// Returns the engine.
    pub fn engine(&self) -> &Engine<Proxy<H>> {
        &self.engine
    }

    /// Returns the addresses of the listeners that are open.
    pub fn local_addrs(&self) -> Vec<Addr> {
        let state = self.shared.state.lock();
        let open = state.listeners.iter();
        open.map(|open| open.local_addr.clone()).collect()
    }

    /// Returns the counters in the text format of Prometheus.
    pub fn metrics(&self) -> String {
        self.shared.metrics(&self.engine.stats())
    }

    /// Opens the file of the access log anew, after it was renamed. Lines that were logged before go to the old one.
    pub fn reopen_log(&self) {
        if let Some(logger) = &*self.shared.logger.lock() {
            logger.reopen();
        }
    }

    /// Answers health checks with 503 from now on, and goes on serving. Balancers in front of the gateway then send no more.
    /// [Sends clients away](Self::send_clients_away) as well.
    pub fn begin_drain(&self) {
        self.shared.is_draining.store(true, Ordering::Release);
        self.send_clients_away();
    }

    /// Tells clients to make another connection, with each response from now on (`Connection: close`). Health checks go on to
    /// succeed, as they do while another process takes over the address.
    pub fn send_clients_away(&self) {
        self.shared
            .sends_clients_away
            .store(true, Ordering::Release);
    }

    /// Closes the listeners for datagrams, with their sessions, for a process that has opened the same addresses. The next datagram of
    /// a client then begins a session there.
    pub fn close_udp_listeners(&self) {
        let mut state = self.shared.state.lock();
        let is_udp = |open: &Open| open.settings.kind == ListenerKind::Udp;
        for open in state.listeners.iter().filter(|open| is_udp(open)) {
            self.engine.unlisten(open.number);
        }
        state.listeners.retain(|open| !is_udp(open));
        for reactor in 0..self.engine.reactors() {
            // An engine that has ended has none.
            let _ = self.engine.run_on(reactor, |_, reactor| {
                reactor.for_each(|conn, session| {
                    if let Session::Udp(_) = session {
                        conn.close();
                    }
                });
            });
        }
    }

    /// Stops accepting, lets exchanges end, and resets what takes longer than [`Drain::deadline`](super::settings::Drain).
    pub fn shutdown(&self) {
        self.begin_drain();
        self.shared.sources.end();
        for reactor in 0..self.engine.reactors() {
            // A gateway that has ended has no copies under way.
            let _ = self.engine.run_on(reactor, Proxy::end_mirrors);
        }
        let deadline = self.shared.state.lock().settings.drain.deadline;
        self.engine.shutdown_within(deadline);
    }

    /// Returns the time between [`begin_drain`](Self::begin_drain) and [`shutdown`](Self::shutdown) that the settings ask for.
    pub fn drain_grace(&self) -> Duration {
        self.shared.state.lock().settings.drain.grace
    }

    /// Returns copies of the listening sockets, that of the admin interface included, for a process that
    /// [takes over](Gateway::start_on).
    ///
    /// # Errors
    ///
    /// The error of `dup(2)`.
    pub fn listeners(&self) -> io::Result<Vec<OwnedFd>> {
        let mut all = self.engine.listeners()?;
        if let Some(admin) = &*self.shared.admin.lock() {
            all.append(&mut admin.listeners()?);
        }
        Ok(all)
    }

    /// Accepts no more connections, and serves those that there are, as a gateway does after another process has
    /// [taken over](Gateway::start_on).
    pub fn stop_accepting(&self) {
        if let Some(admin) = &*self.shared.admin.lock() {
            admin.stop_accepting();
        }
        self.engine.stop_accepting();
    }

    /// Returns the address of the admin interface, if there is one.
    pub fn admin_addr(&self) -> Option<Addr> {
        self.shared.admin.lock().as_ref()?.local_addr()
    }

    /// Opens the admin interface, at its address or with a socket that listens there already.
    pub(super) fn start_admin(
        &self,
        settings: &AdminSettings,
        socket: Option<OwnedFd>,
    ) -> Result<AdminServer, GatewayError> {
        let counters = self.shared.registry.admin.clone();
        AdminServer::start(settings, socket, Arc::new(self.clone()), counters)
    }
}

impl<H: Hooks> Clone for Control<H> {
    fn clone(&self) -> Self {
        Self {
            engine: self.engine.clone(),
            shared: self.shared.clone(),
        }
    }
}

impl<H: Hooks> fmt::Debug for Running<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running")
            .field("local_addrs", &self.local_addrs())
            .finish_non_exhaustive()
    }
}

impl<H: Hooks> fmt::Debug for Control<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control")
            .field("local_addrs", &self.local_addrs())
            .finish_non_exhaustive()
    }
}
