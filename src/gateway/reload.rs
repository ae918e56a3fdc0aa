//! The change of settings while a gateway runs.
//!
//! Everything that can fail comes first. Then the new settings go to each reactor as one value. A reactor takes them over
//! between two callbacks, so no exchange sees half of them.

use std::io;
use std::mem;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use socket2::SockRef;

use super::Gateway;
use super::access_log::{Logger, Sink};
use super::admin::{AdminServer, IF_MATCH};
use super::differences;
use super::discover::{self, Discover, DiscoverError, Followed};
use super::error::GatewayError;
use super::hooks::Hooks;
use super::node_lists::NodeLists;
use super::pool::SharedPool;
use super::rules::client_limits;
use super::running::Control;
use super::settings::{ListenerKind, ListenerSettings, NodeSettings, Problem, Settings};
use super::shared::{Change, Open, Source, State};
use super::start::{listen, shared_pool};
use super::status::Reloaded;
use crate::addr::Addr;
use crate::engine::listen::Listen;
use crate::error::Error;
use crate::panic;

/// The time in which a reactor must take over new settings. One that takes longer blocks.
const PATIENCE: Duration = Duration::from_secs(30);

/// The times between two questions to a source that fails: the first, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// The changes to the listeners.
#[derive(Default)]
struct ListenerChanges {
    /// The places, in the new settings, of those to open, and the open listener whose socket they go on with.
    open: Vec<(usize, Option<usize>)>,
    /// The numbers of those that are closed, or opened with other options.
    close: Vec<usize>,
    /// The numbers of those that are gone, or serve clients of another kind by now.
    left: Vec<usize>,
    #[cfg(feature = "tls")]
    certificates: Vec<(crate::tls::TlsServer, crate::tls::TlsServer)>,
}

/// The change of the admin interface.
enum AdminChange {
    /// It stays where it is, or stays away.
    Keep,
    /// This one takes its place.
    Replace(Option<AdminServer>),
}

impl<H: Hooks> Control<H> {
    /// Takes over other settings, without a refused connection or a lost request.
    ///
    /// Exchanges under way keep the settings that they began with, and tunnels stay. Nodes that stay keep their health, their
    /// connections and their place in the balance. What operators have changed in a pool lasts if the pool has the same nodes as in
    /// the settings that were taken over last. A listener whose address stays goes on with its socket.
    ///
    /// Blocks until all reactors have taken the settings over. So do not call it in a hook. In a simulation it does not wait.
    ///
    /// # Errors
    ///
    /// [`GatewayError`] if a listener or the access log cannot be opened. Nothing has changed then.
    pub fn reload(&self, gateway: &Gateway) -> Result<Reloaded, GatewayError> {
        let (settings, source) = ((*gateway.settings).clone(), gateway.source.clone());
        self.take_configuration("configuration", settings, source, None)
    }

    /// Takes over a configuration, unless another one than the `expected` one is in force.
    pub(super) fn take_configuration(
        &self,
        by: &'static str,
        mut settings: Settings,
        source: Source,
        expected: Option<u64>,
    ) -> Result<Reloaded, GatewayError> {
        let state = &mut *self.shared.state.lock();
        let reloaded = self.change(state, by, Some(source), |lists, before| {
            let generation = self.shared.generation.load(Ordering::Relaxed);
            if expected.is_some_and(|expected| expected != generation) {
                let problem =
                    format!("configuration {generation} is in force by now; read it again");
                return Err(GatewayError::Conflict(Problem::new(IF_MATCH, problem)));
            }
            lists.configure(before, &mut settings);
            Ok(settings)
        })?;
        self.shared.sources.end_all_but(&state.settings);
        if let Err(error) = self.follow_sources_of(state) {
            log::error!(target: "epicycle::gateway::pool", "{error}");
        }
        Ok(reloaded)
    }

    /// Sets the nodes of a pool. They take the place of those in the settings, also after [`reload`](Self::reload). Nodes that
    /// stay keep their health, their connections and their place in the balance, and those that go are drained.
    ///
    /// Blocks until all reactors have taken them over. So do not call it in a hook.
    ///
    /// # Errors
    ///
    /// [`GatewayError::Settings`] if there is no such pool, or if it cannot have these nodes. Nothing has changed then.
    pub fn set_nodes(&self, pool: &str, nodes: Vec<NodeSettings>) -> Result<(), GatewayError> {
        let state = &mut *self.shared.state.lock();
        check_pool(state, pool)?;
        self.set_nodes_of(state, pool, nodes).map(drop)
    }

    /// Sets the nodes of a pool that there is. Returns false if it had these before.
    fn set_nodes_of(
        &self,
        state: &mut State,
        pool: &str,
        nodes: Vec<NodeSettings>,
    ) -> Result<bool, GatewayError> {
        let mut settings = (*state.settings).clone();
        if !settings.pools.contains_key(pool) {
            return Ok(false);
        }
        let (mut changed, is_empty) = (state.lists.clone(), nodes.is_empty());
        changed.discover(pool, nodes, &mut settings);
        let now = |settings: &Settings| settings.pools.get(pool).map(|pool| pool.nodes.clone());
        if !is_empty && now(&settings) == now(&state.settings) {
            state.lists = changed;
            return Ok(false);
        }
        self.change(state, "source", None, |lists, _| {
            let mut problems = settings.problems();
            if is_empty {
                let problem = "there is no node; add one";
                problems.push(Problem::new(format!("pools.{pool}.nodes"), problem));
            }
            *lists = changed;
            sound(settings, problems)
        })?;
        Ok(true)
    }

    /// Changes the nodes of pools as an operator asks for it.
    pub(super) fn change_nodes<T>(
        &self,
        make: impl FnOnce(&mut NodeLists, &mut Settings) -> Result<T, GatewayError>,
    ) -> Result<T, GatewayError> {
        let mut made = None;
        let state = &mut *self.shared.state.lock();
        self.change(state, "operator", None, |lists, before| {
            let mut settings = before.clone();
            made = Some(make(lists, &mut settings)?);
            let problems = settings.problems();
            sound(settings, problems)
        })?;
        made.ok_or(GatewayError::Start(Error::Stopped))
    }

    /// Follows a source of the nodes of a pool, on a thread of its own, until the gateway ends, the pool or the source. Its lists
    /// take the place of those in the settings, also after [`reload`](Self::reload). A pool has at most one source that matters:
    /// of several, the last list counts, also over that of a source in the settings.
    ///
    /// # Errors
    ///
    /// [`GatewayError::Settings`] if there is no such pool, [`GatewayError::Start`] if there is no thread for it.
    pub fn discover(&self, pool: &str, source: impl Discover) -> Result<(), GatewayError> {
        let state = self.shared.state.lock();
        check_pool(&state, pool)?;
        let followed = self.shared.sources.add(pool, None);
        self.follow_on_a_thread(followed, source)
    }

    /// Follows the sources that the settings have.
    pub(super) fn follow_sources(&self) -> Result<(), GatewayError> {
        self.follow_sources_of(&self.shared.state.lock())
    }

    /// Follows the sources that the settings have and that are not followed yet.
    fn follow_sources_of(&self, state: &State) -> Result<(), GatewayError> {
        let sources = &self.shared.sources;
        for (name, pool) in &state.settings.pools {
            let Some(settings) = &pool.discover else {
                continue;
            };
            if sources.has(name, settings) {
                continue;
            }
            let source = discover::source(settings, pool.uses_tls()).map_err(|problem| {
                GatewayError::Settings(vec![Problem {
                    place: format!("pools.{name}.discover"),
                    problem: problem.to_string(),
                }])
            })?;
            let followed = sources.add(name, Some(settings.clone()));
            self.follow_on_a_thread(followed, source)?;
        }
        Ok(())
    }

    fn follow_on_a_thread(
        &self,
        followed: Followed,
        source: impl Discover,
    ) -> Result<(), GatewayError> {
        let (control, ended) = (self.clone(), followed.clone());
        let thread = thread::Builder::new().name("discover".to_owned());
        let started = thread.spawn(move || control.follow(followed, source));
        started.map(drop).map_err(|source| {
            self.shared.sources.remove(&ended);
            let what = "the thread of a source of nodes";
            GatewayError::Start(Error::Setup { what, source })
        })
    }

    fn follow(&self, mut followed: Followed, mut source: impl Discover) {
        let stop = followed.stop.clone();
        let mut delay = RETRY.0;
        while !stop.is_set() {
            let mut next = Err("the source panicked".into());
            panic::catch("epicycle::gateway::pool", "a source of nodes", || {
                next = source.next(&stop);
            });
            let result = match next {
                Ok(Some(nodes)) => self.use_list(&mut followed, nodes),
                Ok(None) => break,
                Err(error) => Err(error),
            };
            let Err(error) = result else {
                delay = RETRY.0;
                continue;
            };
            if stop.is_set() {
                break;
            }
            followed.on_failure(error.to_string());
            // One that hears of changes by itself may have a list before.
            if stop.wait_for_wake(delay) {
                break;
            }
            delay = (2 * delay).min(RETRY.1);
        }
        self.shared.sources.remove(&followed);
    }

    /// Sets the nodes that a source tells.
    fn use_list(
        &self,
        followed: &mut Followed,
        nodes: Vec<NodeSettings>,
    ) -> Result<(), DiscoverError> {
        Followed::check(&nodes)?;
        let state = &mut *self.shared.state.lock();
        // Other settings end a source while they are locked.
        if followed.stop.is_set() {
            return Ok(());
        }
        let count = nodes.len();
        let has_changed = self.set_nodes_of(state, &followed.pool, nodes)?;
        followed.on_list(count, has_changed);
        Ok(())
    }

    /// Changes the settings to those that `make` returns, counts the change, and remembers it.
    fn change(
        &self,
        state: &mut State,
        by: &'static str,
        source: Option<Source>,
        make: impl FnOnce(&mut NodeLists, &Settings) -> Result<Settings, GatewayError>,
    ) -> Result<Reloaded, GatewayError> {
        let (mut lists, before) = (state.lists.clone(), state.settings.clone());
        let made = make(&mut lists, &before);
        let mut reloaded = match made.and_then(|settings| self.take(state, settings)) {
            Ok(reloaded) => reloaded,
            Err(error) => {
                self.note_refused(by, &error);
                return Err(error);
            }
        };
        state.lists = lists;
        if let Some(source) = source {
            state.source = source;
        }
        let registry = &self.shared.registry;
        registry.reloads.fetch_add(1, Ordering::Relaxed);
        reloaded.generation = 1 + self.shared.generation.fetch_add(1, Ordering::Relaxed);
        reloaded.changed = differences::between(&before, &state.settings);
        let opened = reloaded
            .opened
            .iter()
            .map(|on| format!("listener {on} is open"));
        let closed = reloaded
            .closed
            .iter()
            .map(|on| format!("listener {on} is closed"));
        let changes = reloaded.changed.iter().cloned();
        self.shared
            .note(by, changes.chain(opened).chain(closed).collect(), None);
        Ok(reloaded)
    }

    /// Counts and remembers a change whose settings could not be read, among those that were refused.
    pub fn note_failed_reload(&self, error: &GatewayError) {
        self.note_refused("configuration", error);
    }

    fn note_refused(&self, by: &'static str, error: &GatewayError) {
        let failed = &self.shared.registry.failed_reloads;
        failed.fetch_add(1, Ordering::Relaxed);
        self.shared.note(by, Vec::new(), Some(error.to_string()));
    }

    fn take(&self, state: &mut State, mut settings: Settings) -> Result<Reloaded, GatewayError> {
        let mut reloaded = Reloaded::default();
        keep_fixed(&state.settings, &mut settings, &mut reloaded.needs_restart);
        let ended = self.ended_pools(state, &settings)?;
        let pools = updated_pools(&state.pools, &settings, self.engine.reactors(), ended)?;
        let logger = match (&settings.access_log, &state.settings.access_log) {
            (new, old) if new == old => None,
            (new, _) => {
                let opened = new.as_ref().map(Logger::open).transpose();
                Some(opened.map_err(GatewayError::Log)?)
            }
        };
        let changes = ListenerChanges::between(&state.listeners, &mut settings);
        // A new admin interface closes again if a listener cannot be opened.
        let admin = self.admin_for(state, &settings)?;
        let opened = self.open(state, &settings, &changes)?;

        #[cfg(feature = "tls")]
        for (old, new) in &changes.certificates {
            old.reload_from(new);
        }
        state.settings = Arc::new(settings);
        state.pools = pools;
        *self.shared.live_pools.lock() = state.live_pools();
        let replaced = logger.map(|logger| mem::replace(&mut *self.shared.logger.lock(), logger));
        let sink = || replaced.is_some().then(|| self.shared.sink());
        self.hand_out(&state.settings, &state.pools, Some(&changes.left), sink)?;
        reloaded.opened = changes.opened(&state.settings);
        reloaded.closed = changes.closed(&state.listeners);
        for number in &changes.close {
            self.engine.unlisten(*number);
        }
        state
            .listeners
            .retain(|open| !changes.close.contains(&open.number));
        // Settings that the engine need not hear of.
        for open in &mut state.listeners {
            let all = &state.settings.listeners;
            if let Some(new) = all.iter().find(|new| new.on == open.settings.on) {
                open.settings = new.clone();
            }
        }
        state.listeners.extend(opened);
        self.change_admin(admin, &state.settings);
        Ok(reloaded)
    }

    /// Opens the admin interface of new settings, if it has another address than the one that is open.
    fn admin_for(&self, state: &State, settings: &Settings) -> Result<AdminChange, GatewayError> {
        let listen =
            |settings: &Settings| settings.admin.as_ref().map(|admin| admin.listen.clone());
        if listen(&state.settings) == listen(settings) || self.engine.is_simulated() {
            return Ok(AdminChange::Keep);
        }
        let admin = settings.admin.as_ref();
        let admin = admin
            .map(|admin| self.start_admin(admin, None))
            .transpose()?;
        Ok(AdminChange::Replace(admin))
    }

    fn change_admin(&self, change: AdminChange, settings: &Settings) {
        let mut open = self.shared.admin.lock();
        match change {
            AdminChange::Keep => {
                if let (Some(open), Some(admin)) = (&*open, &settings.admin) {
                    open.set(admin);
                }
            }
            // The old one closes. The answer to the one who asked for that still goes out.
            AdminChange::Replace(admin) => *open = admin,
        }
    }

    /// Opens new listeners. If one of them cannot be opened, none is.
    fn open(
        &self,
        state: &State,
        settings: &Settings,
        changes: &ListenerChanges,
    ) -> Result<Vec<Open>, GatewayError> {
        if changes.open.is_empty() {
            return Ok(Vec::new());
        }
        // The reactors must know them before the first client comes.
        let mut both = (*state.settings).clone();
        let coming = changes
            .open
            .iter()
            .map(|(place, _)| &settings.listeners[*place]);
        both.listeners.extend(coming.cloned());
        self.hand_out(&Arc::new(both), &state.pools, None, || None)?;
        let mut opened = Vec::new();
        for (place, from) in &changes.open {
            let settings = &settings.listeners[*place];
            let socket = match from {
                Some(number) => self.copy_of(state, *number),
                None => Ok(None),
            };
            let listening = socket.and_then(|socket| {
                let place = socket.map_or_else(|| Listen::on(&*settings.on), Listen::socket);
                Ok(self.engine.listen(listen(settings, place))?)
            });
            match listening {
                Ok(listening) => opened.push(Open {
                    number: listening.listener,
                    local_addr: listening.local_addr,
                    settings: settings.clone(),
                }),
                Err(error) => {
                    for open in &opened {
                        self.engine.unlisten(open.number);
                    }
                    self.hand_out(&state.settings, &state.pools, None, || None)?;
                    return Err(error);
                }
            }
        }
        Ok(opened)
    }

    /// Returns a copy of the socket of an open listener.
    fn copy_of(&self, state: &State, number: usize) -> Result<Option<OwnedFd>, GatewayError> {
        let open = state.listeners.iter().find(|open| open.number == number);
        let Some(addr) = open.map(|open| &open.local_addr) else {
            return Ok(None);
        };
        let failed = |source| {
            GatewayError::Start(Error::Bind {
                addr: addr.to_string(),
                source,
            })
        };
        let copies = self.engine.listeners().map_err(failed)?;
        Ok(copies.into_iter().find(|socket| is_at(socket, addr)))
    }

    /// Returns the numbers of removed pools to which no reactor refers any more, if settings have new pools that may take them.
    fn ended_pools(&self, state: &State, settings: &Settings) -> Result<Vec<usize>, GatewayError> {
        let is_new = |name: &str| state.pools.iter().all(|pool| *pool.name != *name);
        let has_new = settings.all_pools().any(|(name, _)| is_new(name));
        let is_left = |pool: &Arc<SharedPool>| {
            !settings.has_pool(&pool.name) && !state.settings.has_pool(&pool.name)
        };
        if !has_new || !state.pools.iter().any(is_left) || self.engine.is_simulated() {
            return Ok(Vec::new());
        }
        let (tell, told) = mpsc::channel();
        let reactors = self.engine.reactors();
        for reactor in 0..reactors {
            let tell = tell.clone();
            let asked = self.engine.run_on(reactor, move |proxy, reactor| {
                let _ = tell.send(proxy.ended_pools(reactor));
            });
            asked.map_err(|_| Error::Stopped)?;
        }
        let numbers = state.pools.iter().enumerate();
        let left = numbers.filter(|(_, pool)| is_left(pool));
        let mut ended: Vec<usize> = left.map(|(number, _)| number).collect();
        for _ in 0..reactors {
            let there = told.recv_timeout(PATIENCE).map_err(|_| Error::Stopped)?;
            ended.retain(|number| there.contains(number));
        }
        Ok(ended)
    }

    /// Gives settings to all reactors, and waits until they have taken them over.
    fn hand_out(
        &self,
        settings: &Arc<Settings>,
        pools: &[Arc<SharedPool>],
        left: Option<&[usize]>,
        sink: impl Fn() -> Option<Option<Sink>>,
    ) -> Result<(), GatewayError> {
        let pools: Arc<[_]> = pools.into();
        let left: Option<Arc<[_]>> = left.map(Into::into);
        let (done, taken) = mpsc::channel();
        let reactors = self.engine.reactors();
        for reactor in 0..reactors {
            let change = Change {
                settings: settings.clone(),
                pools: pools.clone(),
                left: left.clone(),
                sink: sink(),
            };
            let done = done.clone();
            let asked = self.engine.run_on(reactor, move |proxy, reactor| {
                proxy.take_over(change, reactor);
                let _ = done.send(());
            });
            asked.map_err(|_| Error::Stopped)?;
        }
        if self.engine.is_simulated() {
            // They have their turns when this one is over.
            return Ok(());
        }
        for _ in 0..reactors {
            taken.recv_timeout(PATIENCE).map_err(|_| Error::Stopped)?;
        }
        Ok(())
    }
}

/// Returns an error unless there is a pool of that name.
fn check_pool(state: &State, pool: &str) -> Result<(), GatewayError> {
    match state.settings.pools.contains_key(pool) {
        true => Ok(()),
        false => Err(GatewayError::Settings(vec![Problem {
            place: format!("pools.{pool}"),
            problem: "there is no such pool".to_owned(),
        }])),
    }
}

/// Returns settings that have no problem.
fn sound(settings: Settings, problems: Vec<Problem>) -> Result<Settings, GatewayError> {
    match problems.is_empty() {
        true => Ok(settings),
        false => Err(GatewayError::Settings(problems)),
    }
}

/// Keeps the settings that cannot change, and names those that should.
fn keep_fixed(old: &Settings, new: &mut Settings, changed: &mut Vec<&'static str>) {
    if new.reactors != old.reactors {
        changed.push("reactors");
        new.reactors = old.reactors;
    }
    let most = |settings: &Settings| {
        let limits = settings.listeners.iter().map(|listener| &listener.limits);
        let all = limits.clone().filter_map(|limits| limits.max_clients);
        let per_ip = limits.filter_map(|limits| limits.max_clients_per_ip);
        (all.max(), per_ip.min())
    };
    for new in &mut new.listeners {
        let same = old.listeners.iter().find(|old| old.on == new.on);
        if let Some(old) = same
            && new.kind == ListenerKind::Udp
            && old.datagrams != new.datagrams
        {
            changed.push("udp_idle and max_sessions of a UDP listener");
            new.datagrams = old.datagrams.clone();
        }
    }
    if most(old) != most(new) {
        changed.push("max_clients and max_clients_per_ip");
    }
}

/// Returns all pools, by their numbers, with new settings. New pools take the numbers of those that have `ended`, so that pools that come
/// and go take no more and more memory.
fn updated_pools(
    old: &[Arc<SharedPool>],
    settings: &Settings,
    reactors: usize,
    mut ended: Vec<usize>,
) -> Result<Vec<Arc<SharedPool>>, GatewayError> {
    let mut pools = old.to_vec();
    for (name, settings) in settings.all_pools() {
        if let Some(pool) = pools.iter_mut().find(|pool| *pool.name == *name) {
            *pool = Arc::new(shared_pool(name, &settings, reactors, Some(pool))?);
            continue;
        }
        let pool = Arc::new(shared_pool(name, &settings, reactors, None)?);
        match ended.pop() {
            Some(number) => pools[number] = pool,
            None => pools.push(pool),
        }
    }
    Ok(pools)
}

impl ListenerChanges {
    fn between(open: &[Open], new: &mut Settings) -> Self {
        let mut changes = Self::default();
        for (place, new) in new.listeners.iter_mut().enumerate() {
            let Some(old) = open.iter().find(|open| open.settings.on == new.on) else {
                changes.open.push((place, None));
                continue;
            };
            if !serves_alike(&old.settings, new) {
                changes.left.push(old.number);
            }
            if !changes.goes_on(&old.settings, new) {
                changes.open.push((place, Some(old.number)));
                changes.close.push(old.number);
            }
        }
        for open in open {
            if !new.listeners.iter().any(|new| new.on == open.settings.on) {
                changes.close.push(open.number);
                changes.left.push(open.number);
            }
        }
        changes
    }

    /// Returns the addresses that are new.
    fn opened(&self, settings: &Settings) -> Vec<String> {
        let fresh = self.open.iter().filter(|(_, from)| from.is_none());
        fresh
            .map(|(place, _)| settings.listeners[*place].on.clone())
            .collect()
    }

    /// Returns the addresses at which nobody listens any more.
    fn closed(&self, open: &[Open]) -> Vec<String> {
        let goes_on = |number| self.open.iter().any(|(_, from)| *from == Some(number));
        open.iter()
            .filter(|open| self.close.contains(&open.number) && !goes_on(open.number))
            .map(|open| open.settings.on.clone())
            .collect()
    }

    /// Returns true if the engine need not hear of the change of a listener.
    fn goes_on(&mut self, old: &ListenerSettings, new: &mut ListenerSettings) -> bool {
        if new.kind == ListenerKind::Udp {
            return true;
        }
        let is_same = old.proxy_protocol == new.proxy_protocol
            && format!("{:?}", client_limits(old)) == format!("{:?}", client_limits(new));
        #[cfg(feature = "tls")]
        {
            match (&old.tls, &new.tls) {
                (None, None) => {}
                (Some(old_tls), Some(new_tls))
                    if is_same && old.client_auth_digest == new.client_auth_digest =>
                {
                    self.certificates.push((old_tls.clone(), new_tls.clone()));
                    new.tls = Some(old_tls.clone());
                }
                _ => return false,
            }
        }
        is_same
    }
}

/// Returns true if the clients of a listener could be those of another one: they speak the same protocol, and have shown the same
/// of who they are.
fn serves_alike(old: &ListenerSettings, new: &ListenerSettings) -> bool {
    #[cfg(feature = "tls")]
    if old.tls.is_some() != new.tls.is_some() || old.client_auth_digest != new.client_auth_digest {
        return false;
    }
    old.kind == new.kind && old.proxy_protocol == new.proxy_protocol
}

/// Returns true if a socket has this address.
pub(super) fn is_at(socket: &OwnedFd, addr: &Addr) -> bool {
    let local: io::Result<_> = SockRef::from(socket).local_addr();
    local.is_ok_and(|local| match addr {
        Addr::Unix(Some(path)) => local.as_pathname() == Some(path),
        other => local.as_socket().is_some() && local.as_socket() == other.as_socket_addr(),
    })
}
