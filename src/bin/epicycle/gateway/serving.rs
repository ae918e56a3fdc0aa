//! A gateway that serves: signals, changes of its files, and its end.

use std::error::Error;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use epicycle::gateway::settings::Problem;
use epicycle::gateway::{Control, Gateway, GatewayError, NoHooks, Reloaded, Running};
use epicycle::handover::Successor;
use log::{error, info, warn};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;

use super::watch::Watch;
use super::{Flags, handing_over};

/// The time between two looks at the files.
const LOOK: Duration = Duration::from_secs(1);

/// The time for a reload that the admin interface asks for.
const PATIENCE: Duration = Duration::from_secs(45);

/// An event that the main thread reacts to.
pub(super) enum Event {
    Signal(i32),
    /// Another process has taken over the listeners. It waits until this is dropped.
    Replaced(Successor),
    NotReplaced(String),
    /// The admin interface asks for the file to be read again, and waits for the result.
    Reload(Sender<Result<Reloaded, GatewayError>>),
    /// The admin interface asks for the end.
    Drain,
    /// The gateway has ended.
    Ended,
}

/// A gateway, and what is under way.
struct Serving<'a> {
    flags: &'a Flags,
    control: Control<NoHooks>,
    watch: Watch,
    events: Sender<Event>,
    /// The moment at which the wait before the end is over.
    shuts_down: Option<Instant>,
    end: End,
    is_handing_over: bool,
}

/// The way to the end of this process.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// It serves.
    None,
    /// Another process has its listeners.
    HandedOver,
    /// A signal asks for it.
    Asked,
}

/// Serves until a signal ends it.
pub(super) fn serve(
    flags: &Flags,
    gateway: &Gateway,
    mut watch: Watch,
) -> Result<ExitCode, Box<dyn Error>> {
    let (events, received) = channel();
    // Signals count from now on, so that none of them ends a process that is about to serve.
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2])?;
    let told = events.clone();
    thread::spawn(move || {
        for signal in signals.forever() {
            if told.send(Event::Signal(signal)).is_err() {
                return;
            }
        }
    });
    watch.follow(flags.config.as_deref(), gateway.settings());
    warn_of(gateway);
    let running = start(gateway)?;
    for addr in running.local_addrs() {
        let reactors = running.engine().reactors();
        println!("epicycle gateway listens on {addr} with {reactors} reactor(s); ctrl-c ends it");
    }
    let control = running.control().clone();
    if let Some(addr) = control.admin_addr() {
        println!("epicycle gateway is operated at {addr}");
    }
    take_orders(&control, &events);
    let ended = events.clone();
    let joined = thread::spawn(move || {
        let report = running.join();
        let _ = ended.send(Event::Ended);
        report
    });
    let mut serving = Serving {
        flags,
        control,
        watch,
        events,
        shuts_down: None,
        end: End::None,
        is_handing_over: false,
    };
    serving.react(&received);
    let report = joined.join().map_err(|_| "the gateway has panicked")?;
    let total = report.stats.total();
    println!(
        "epicycle gateway ends: {} connections; at the end {} drained, {} forced",
        total.accepted, report.drained, report.forced
    );
    Ok(ExitCode::SUCCESS)
}

/// Starts the gateway, with the listeners of an older process if there is one.
fn start(gateway: &Gateway) -> Result<Running<NoHooks>, Box<dyn Error>> {
    match handing_over::predecessor()? {
        None => Ok(gateway.start_plain()?),
        Some(old) => {
            let running = gateway.start_on(old.sockets, |_| NoHooks)?;
            old.process.relieve()?;
            info!(target: "epicycle::gateway::config", "took over from another process");
            Ok(running)
        }
    }
}

/// Lets the main thread do what the admin interface asks for, so that it stays in step with signals and changes of the files.
fn take_orders(control: &Control<NoHooks>, events: &Sender<Event>) {
    let told = events.clone();
    control.reread_with(move || {
        let (tell, result) = channel();
        let asked = told.send(Event::Reload(tell)).is_ok();
        let result = asked.then(|| result.recv_timeout(PATIENCE).ok()).flatten();
        result.unwrap_or(Err(GatewayError::Start(epicycle::Error::Stopped)))
    });
    let told = events.clone();
    control.drain_with(move || {
        // Without a receiver the gateway has ended already.
        let _ = told.send(Event::Drain);
    });
}

fn warn_of(gateway: &Gateway) {
    for warning in gateway.warnings() {
        warn!(target: "epicycle::gateway::config", "{warning}");
    }
}

impl Serving<'_> {
    fn react(&mut self, events: &Receiver<Event>) {
        loop {
            let wait = self.shuts_down.map_or(LOOK, |at| {
                at.saturating_duration_since(Instant::now()).min(LOOK)
            });
            match events.recv_timeout(wait) {
                Ok(Event::Signal(SIGHUP)) if self.end != End::None => {
                    warn!(target: "epicycle::gateway::config", "the end is under way, so the configuration stays as it is");
                }
                Ok(Event::Signal(SIGHUP)) => {
                    self.watch.has_changed();
                    // It is logged.
                    let _ = self.reload();
                }
                Ok(Event::Reload(tell)) if self.end != End::None => {
                    let problem = Problem::new("reload", "the end is under way");
                    let _ = tell.send(Err(GatewayError::Conflict(problem)));
                }
                Ok(Event::Reload(tell)) => {
                    self.watch.has_changed();
                    let _ = tell.send(self.reload());
                }
                Ok(Event::Drain) if self.end == End::Asked => {}
                Ok(Event::Drain) => self.end(true),
                Ok(Event::Signal(SIGUSR1)) => self.control.reopen_log(),
                Ok(Event::Signal(SIGUSR2)) => self.hand_over(),
                Ok(Event::Signal(signal)) => self.end(signal == SIGTERM),
                Ok(Event::Replaced(successor)) => self.replaced(successor),
                Ok(Event::NotReplaced(why)) => {
                    self.is_handing_over = false;
                    error!(target: "epicycle::gateway::config", "no other process has taken over: {why}");
                }
                Ok(Event::Ended) | Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {}
            }
            if self.shuts_down.is_some_and(|at| at <= Instant::now()) {
                self.shuts_down = None;
                self.control.shutdown();
            }
            if self.end == End::None && self.watch.has_changed() {
                let _ = self.reload();
            }
        }
    }

    /// Takes over what the files say now. If that is wrong, nothing changes.
    fn reload(&mut self) -> Result<Reloaded, GatewayError> {
        if self.flags.config.is_none() {
            let problem =
                "there is no configuration file to read again; flags have made the configuration";
            let problem = Problem::new("reload", problem);
            warn!(target: "epicycle::gateway::config", "{problem}");
            return Err(GatewayError::Conflict(problem));
        }
        let gateway = match self.flags.gateway() {
            Ok(gateway) => gateway,
            Err(error) => {
                self.control.note_failed_reload(&error);
                for line in error.to_string().lines() {
                    error!(target: "epicycle::gateway::config", "{line}");
                }
                error!(target: "epicycle::gateway::config", "the old configuration stays in force");
                return Err(error);
            }
        };
        match self.control.reload(&gateway) {
            Ok(reloaded) => {
                self.watch
                    .follow(self.flags.config.as_deref(), gateway.settings());
                let mut changes = String::new();
                for on in &reloaded.opened {
                    changes += &format!("; {on} is open");
                }
                for on in &reloaded.closed {
                    changes += &format!("; {on} is closed");
                }
                info!(target: "epicycle::gateway::config", "a new configuration is in force{changes}");
                warn_of(&gateway);
                for name in &reloaded.needs_restart {
                    warn!(target: "epicycle::gateway::config", "a change of {name} needs a restart");
                }
                Ok(reloaded)
            }
            Err(error) => {
                error!(target: "epicycle::gateway::config", "{error}; the old configuration stays in force");
                Err(error)
            }
        }
    }

    /// Ends the gateway, after a time in which health checks fail if `waits`. The second time it ends at once.
    fn end(&mut self, waits: bool) {
        match std::mem::replace(&mut self.end, End::Asked) {
            End::None => {}
            // Its end is near, and its clients are told.
            End::HandedOver if waits => return,
            End::HandedOver => {
                self.shuts_down = None;
                return self.control.shutdown();
            }
            End::Asked => return self.control.engine().shutdown_within(Duration::ZERO),
        }
        self.control.begin_drain();
        let grace = self.control.drain_grace();
        if waits && !grace.is_zero() {
            info!(target: "epicycle::gateway::config", "health checks fail from now on; the end begins in {grace:?}");
            self.shuts_down = Instant::now().checked_add(grace);
        } else {
            self.control.shutdown();
        }
    }

    fn hand_over(&mut self) {
        if self.end != End::None || self.is_handing_over {
            warn!(target: "epicycle::gateway::config", "the end or a hand-over is under way already");
            return;
        }
        match handing_over::begin(&self.control, self.events.clone()) {
            Ok(()) => self.is_handing_over = true,
            Err(error) => {
                error!(target: "epicycle::gateway::config", "cannot start another process: {error}");
            }
        }
    }

    /// Leaves the listeners to another process, and serves the connections that there are. Clients learn by the responses that they
    /// have to make others, so that none of them sends a request on one that closes.
    fn replaced(&mut self, successor: Successor) {
        info!(target: "epicycle::gateway::config", "another process has taken over");
        self.control.close_udp_listeners();
        let engine = self.control.engine();
        self.control.stop_accepting();
        let deadline = Instant::now() + Duration::from_secs(5);
        while engine.is_accepting() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        drop(successor);
        self.end = End::HandedOver;
        self.control.send_clients_away();
        self.shuts_down = Instant::now().checked_add(self.control.drain_grace());
    }
}
