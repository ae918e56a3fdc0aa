//! Servers that another process replaces while they run.

use std::io;
use std::os::fd::OwnedFd;
#[cfg(feature = "signals")]
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::options::Options;
use super::start::{setup, start};
use super::watcher::Watcher;
use super::{Running, Server};
use crate::engine::handler::EventHandler;
use crate::engine::listen::Listen;
use crate::engine::listen::handover::{Control, Predecessor, Successor, Successors};
use crate::error::Error;

/// # Restart
impl Server {
    /// Lets another process take over, and takes over from the process that has the control socket, if there is one. Default:
    /// off.
    ///
    /// At the start, a server receives the listeners of the process that has the control socket now. Each takes the place of the
    /// address with its port; those of ports that the kernel chose, and of Unix sockets, take their places in their order. TLS
    /// and all other options are the new server's own. It binds the addresses for which it receives no socket, and those of UDP.
    /// When it serves the listeners, the old process stops accepting, and shuts down as [`Engine::shutdown`](crate::Engine::shutdown) does: answers that are owed or awaited come
    /// first. No connection is refused in between, and what waits in the backlogs is kept. If the new process does not start,
    /// the old one goes on.
    ///
    /// With the feature `signals`, SIGUSR2 starts the new process: the program of this one, at its path of the start, with the
    /// same arguments. So an upgrade replaces the file and sends the signal.
    ///
    /// Costs two threads.
    ///
    /// ```no_run
    /// use epicycle::handover::Control;
    /// use epicycle::{Server, service};
    ///
    /// let report = Server::bind("tcp://:9000")
    ///     .replaceable(Control::at("/run/echo.control"))
    ///     .run(|_| service(|conn, bytes| conn.write(bytes).into()))?;
    /// # Ok::<(), epicycle::Error>(())
    /// ```
    pub fn replaceable(mut self, control: Control) -> Self {
        self.options.control = Some(control);
        self
    }
}

/// Starts a server that takes over, if there is a process to take over from, and that can be replaced.
pub(super) fn start_replaceable<H: EventHandler>(
    control: &Control,
    mut listens: Vec<Listen>,
    options: Options,
    factory: impl Fn(usize) -> H + Send + Sync + 'static,
) -> Result<Running<H>, Error> {
    let replacing = Replacing::begin(control, listens.iter_mut())?;
    let mut running = start(listens, options, factory)?;
    let engine = running.engine.clone();
    let release = move || {
        engine.stop_accepting();
        while engine.is_accepting() {
            thread::sleep(Duration::from_millis(1));
        }
    };
    let (ours, engine) = (running.engine.clone(), running.engine.clone());
    let watchers =
        replacing.finish(move || ours.listeners(), release, move || engine.shutdown())?;
    running.watchers.extend(watchers);
    Ok(running)
}

/// The start of a server that takes over, if there is a process to take over from, and that can be replaced.
pub(crate) struct Replacing {
    control: Control,
    old: Option<Predecessor>,
    /// Looked up before an upgrade can replace the file.
    #[cfg(feature = "signals")]
    program: PathBuf,
}

impl Replacing {
    /// Returns true if there is a process to take over from.
    #[cfg(feature = "cluster")]
    pub(crate) fn takes_over(&self) -> bool {
        self.old.is_some()
    }

    /// Puts the sockets of the old process in the places of the addresses.
    pub(crate) fn begin<'l>(
        control: &Control,
        listens: impl Iterator<Item = &'l mut Listen>,
    ) -> Result<Self, Error> {
        #[cfg(feature = "signals")]
        let program = std::env::current_exe().map_err(setup("the path of the program"))?;
        let mut old = control
            .predecessor()
            .map_err(setup("the connection to the old process"))?;
        if let Some(old) = &mut old {
            take_over(old, listens)?;
        }
        Ok(Self {
            control: control.clone(),
            old,
            #[cfg(feature = "signals")]
            program,
        })
    }

    /// Relieves the old process, and waits for the next one, which gets `listeners`. When it serves them, `release` gives up those of
    /// this process, then the other one goes on, and this one is `replaced`.
    pub(crate) fn finish(
        self,
        listeners: impl Fn() -> io::Result<Vec<OwnedFd>> + Send + 'static,
        release: impl FnOnce() + Send + 'static,
        replaced: impl FnOnce() + Send + 'static,
    ) -> Result<Vec<Watcher>, Error> {
        let takes_over = self.old.is_some();
        if let Some(old) = self.old {
            old.relieve().map_err(setup("the old process' end"))?;
            let id = std::process::id();
            log::info!(target: "epicycle::server", "process {id} has taken over from the one before");
        }
        let successors = match self.control.listen() {
            Ok(successors) => Arc::new(successors),
            // The old one has gone.
            Err(error) if takes_over => {
                log::error!(target: "epicycle::server", "this process serves, and cannot be replaced: {error}");
                return Ok(Vec::new());
            }
            Err(error) => return Err(error),
        };
        let mut watchers = Vec::new();
        #[cfg(feature = "signals")]
        {
            let restarts = restarts::watch(self.program);
            watchers.push(restarts.map_err(setup("the watch on SIGUSR2"))?);
        }
        let watched = Arc::downgrade(&successors);
        let wait = move || {
            let Some(successor) = hand_over(&successors, listeners) else {
                return;
            };
            log::info!(target: "epicycle::server", "another process has taken over");
            release();
            // Frees the path for the new process, which waits for the end of this connection.
            successors.close();
            drop(successor);
            // Others that have asked are told at once, and do not wait for an answer.
            drop(successors);
            replaced();
        };
        let end_wait = move || {
            if let Some(successors) = watched.upgrade() {
                successors.close();
            }
        };
        let waits = Watcher::start("epicycle-handover", end_wait, wait);
        watchers.push(waits.map_err(setup("the thread that waits for successors"))?);
        Ok(watchers)
    }
}

/// Puts the sockets of the old process in the places of the addresses.
fn take_over<'l>(
    old: &mut Predecessor,
    listens: impl Iterator<Item = &'l mut Listen>,
) -> Result<(), Error> {
    let mut sockets = old
        .receive()
        .map_err(setup("the listeners of the old process"))?;
    let mut others = Vec::new();
    for listen in listens.filter(|listen| listen.is_stream()) {
        let has_its_port = |socket: &OwnedFd| listen.is_bound_by(socket) == Some(true);
        match take(&mut sockets, has_its_port) {
            Some(socket) => listen.take_over(socket),
            None => others.push(listen),
        }
    }
    for listen in others {
        if let Some(socket) = take(&mut sockets, |socket| listen.is_bound_by(socket).is_none()) {
            listen.take_over(socket);
        }
    }
    let surplus = sockets.len();
    if surplus > 0 {
        log::warn!(
            target: "epicycle::server",
            "the old process has {surplus} listener(s) that this one has not: they close"
        );
    }
    Ok(())
}

/// Takes the first socket that fits.
fn take(sockets: &mut Vec<OwnedFd>, fits: impl Fn(&OwnedFd) -> bool) -> Option<OwnedFd> {
    let found = sockets.iter().position(fits)?;
    Some(sockets.remove(found))
}

/// Waits until another process has taken over. Returns `None` at the end of the wait.
fn hand_over(
    successors: &Successors,
    listeners: impl Fn() -> io::Result<Vec<OwnedFd>>,
) -> Option<Successor> {
    loop {
        let successor = match successors.accept() {
            Ok(successor) => successor?,
            Err(error) => {
                log::error!(target: "epicycle::server", "this process cannot be replaced any more: {error}");
                return None;
            }
        };
        match listeners().and_then(|sockets| successor.hand_over(&sockets)) {
            Ok(successor) => return Some(successor),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                log::warn!(target: "epicycle::server", "another process has not taken over: it has ended, or has not started all it has");
            }
            Err(error) => {
                log::warn!(target: "epicycle::server", "another process has not taken over: {error}");
            }
        }
    }
}

/// The start of the new process by SIGUSR2.
#[cfg(feature = "signals")]
mod restarts {
    use std::path::{Path, PathBuf};
    use std::process::Command;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::{env, io, thread};

    use crate::engine::server::watcher::Watcher;
    use crate::sys::signals::RestartSignals;

    /// Starts the thread that waits for the signal.
    pub(super) fn watch(program: PathBuf) -> io::Result<Watcher> {
        let signals = RestartSignals::watch()?;
        let closer = signals.closer();
        Watcher::start(
            "epicycle-restart",
            move || closer.close(),
            move || restart_on(signals, &program),
        )
    }

    fn restart_on(mut signals: RestartSignals, program: &Path) {
        let mut last: Option<Started> = None;
        while signals.next() {
            if let Some(last) = &last
                && last.runs.load(Ordering::Acquire)
            {
                let id = last.id;
                log::warn!(target: "epicycle::signals", "SIGUSR2: process {id} is starting already");
                continue;
            }
            match start(program) {
                Ok(started) => {
                    let id = started.id;
                    log::info!(target: "epicycle::signals", "SIGUSR2: process {id} is to take over");
                    last = Some(started);
                }
                Err(error) => {
                    let program = program.display();
                    log::error!(target: "epicycle::signals", "SIGUSR2: cannot start {program}: {error}");
                }
            }
        }
    }

    /// A process that is to take over.
    struct Started {
        id: u32,
        runs: Arc<AtomicBool>,
    }

    /// Starts the program, and a thread that tells its end.
    fn start(program: &Path) -> io::Result<Started> {
        let mut child = Command::new(program).args(env::args_os().skip(1)).spawn()?;
        let (id, runs) = (child.id(), Arc::new(AtomicBool::new(true)));
        let ran = runs.clone();
        let thread = thread::Builder::new().name("epicycle-successor".to_owned());
        thread.spawn(move || {
            let end = child.wait();
            ran.store(false, Ordering::Release);
            match end {
                Ok(status) => {
                    log::warn!(target: "epicycle::signals", "process {id}, which was to take over, has ended: {status}");
                }
                Err(error) => {
                    log::error!(target: "epicycle::signals", "the end of process {id} is not known: {error}");
                }
            }
        })?;
        Ok(Started { id, runs })
    }
}
