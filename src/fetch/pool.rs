//! The bookkeeping of a pool of connections: which are idle, whose turn it is, and what is stale.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::hash::{BuildHasher, Hash, RandomState};
use std::time::{Duration, Instant};

use super::idle::Idle;

/// The bookkeeping of a pool of connections, by destination.
///
/// It has no sockets and no clock. Its user reports what happens, gives the time, and carries out the [steps](Step) that
/// the pool decides on. So it serves any handler that makes connections: give it the key of a destination (`K`), the
/// identifier of a connection (`C`), and a value by which a waiter is known (`W`).
///
/// - A request gets the idle connection of its destination that was used last. If there is none, the pool dials, within
///   its [limits](PoolLimits), and else the request waits.
/// - Requests for one destination are served in order, by whatever comes first: a connection that is given back, or one
///   that opens. Destinations that need a place among all connections take turns.
/// - If all places are taken, the connection that has been idle for longest is closed to make room.
/// - A connection counts until [`closed`](Self::closed) is called, so the limits hold for sockets.
///
/// An operation takes time logarithmic in the number of connections and waiters. Two things are searched one by one:
/// [fresh](Self::request_fresh) requests at the head of a destination's queue, and destinations that lack a place among
/// all connections.
///
/// ```
/// use std::time::Instant;
/// use epicycle::fetch::{Pool, PoolLimits, Step};
///
/// let now = Instant::now();
/// let mut pool = Pool::new(PoolLimits::default());
/// pool.request("origin", "first", None).expect("the queue has room");
/// assert_eq!(pool.next_step(), Some(Step::Dial("origin")));
/// // The connection 7 has opened.
/// pool.opened(&"origin", 7, now);
/// assert_eq!(pool.next_step(), Some(Step::Serve { waiter: "first", connection: 7, reused: false }));
/// pool.release(7, now);
/// pool.request("origin", "second", None).expect("the queue has room");
/// assert_eq!(pool.next_step(), Some(Step::Serve { waiter: "second", connection: 7, reused: true }));
/// assert_eq!(pool.next_step(), None);
/// ```
#[derive(Debug)]
pub struct Pool<K, C, W, S = RandomState> {
    limits: PoolLimits,
    destinations: HashMap<K, Destination<W>, S>,
    connections: HashMap<C, Connection<K>, S>,
    idle: Idle<C>,
    /// The destinations of waiters.
    waiting: HashMap<u64, K, S>,
    /// The deadlines of waiters.
    deadlines: BTreeSet<(Instant, u64)>,
    /// The destinations that would dial if there were places, in turn.
    starved: VecDeque<K>,
    dialing: usize,
    /// The number of connections that are to be closed and still count.
    closing: usize,
    steps: VecDeque<Step<K, C, W>>,
    /// The next number of a waiter or an idle connection.
    next: u64,
}

/// The limits of a [`Pool`].
///
/// A connection in the pool costs about 200 bytes beside the connection itself, a waiter about as much.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolLimits {
    per_destination: usize,
    total: usize,
    idle_per_destination: usize,
    idle: usize,
    idle_timeout: Duration,
    waiting: usize,
}

/// The next task for the user of a [`Pool`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step<K, C, W> {
    /// Make a connection. Report it with [`opened`](Pool::opened) or [`failed`](Pool::failed).
    Dial(K),
    /// Serve this waiter with this connection. Give the connection back with [`release`](Pool::release), or close it.
    Serve {
        /// The waiter.
        waiter: W,
        /// The connection.
        connection: C,
        /// True if the connection has served before. The peer may have closed it in the meantime.
        reused: bool,
    },
    /// Tell this waiter that its deadline has passed.
    TimedOut(W),
    /// Close this connection, and report that with [`closed`](Pool::closed).
    Close(C),
}

/// A request that waits, for [`Pool::cancel`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket(u64);

#[derive(Debug)]
struct Destination<W> {
    /// In order.
    waiters: BTreeMap<u64, Waiter<W>>,
    /// The keys of its idle connections. The one used last is last.
    idle: VecDeque<u64>,
    dialing: usize,
    /// The number of its connections, without those under way.
    open: usize,
    closing: usize,
    is_starved: bool,
}

#[derive(Debug)]
struct Waiter<W> {
    who: W,
    deadline: Option<Instant>,
    /// A connection that has served before is not good enough.
    is_fresh: bool,
}

#[derive(Debug)]
struct Connection<K> {
    destination: K,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Busy,
    Idle(u64),
    Closing,
}

impl PoolLimits {
    /// Sets the maximum number of connections to one destination, including those under way and those that close.
    /// Further requests wait. At least 1. Default: no limit.
    #[must_use]
    pub fn max_per_destination(mut self, connections: usize) -> Self {
        self.per_destination = connections.max(1);
        self
    }

    /// Sets the maximum number of connections to all destinations together. Further requests wait. At least 1. Default:
    /// 1024.
    #[must_use]
    pub fn max_total(mut self, connections: usize) -> Self {
        self.total = connections.max(1);
        self
    }

    /// Sets the maximum number of idle connections to one destination. Default: 100.
    #[must_use]
    pub fn max_idle_per_destination(mut self, connections: usize) -> Self {
        self.idle_per_destination = connections;
        self
    }

    /// Sets the maximum number of idle connections to all destinations together. 0 closes each connection after use.
    /// Default: 256.
    #[must_use]
    pub fn max_idle(mut self, connections: usize) -> Self {
        self.idle = connections;
        self
    }

    /// Sets the time for which a connection is kept idle. Default: 90 s. `Duration::MAX` means for ever.
    #[must_use]
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle_timeout = timeout;
        self
    }

    /// Sets the maximum number of requests that wait, for all destinations together. Further ones are refused. At least
    /// 1. Default: 1024.
    #[must_use]
    pub fn max_waiting(mut self, requests: usize) -> Self {
        self.waiting = requests.max(1);
        self
    }
}

impl Default for PoolLimits {
    fn default() -> Self {
        Self {
            per_destination: usize::MAX,
            total: 1024,
            idle_per_destination: 100,
            idle: 256,
            idle_timeout: Duration::from_secs(90),
            waiting: 1024,
        }
    }
}

impl<W> Default for Destination<W> {
    fn default() -> Self {
        Self {
            waiters: BTreeMap::new(),
            idle: VecDeque::new(),
            dialing: 0,
            open: 0,
            closing: 0,
            is_starved: false,
        }
    }
}

impl<W> Destination<W> {
    fn is_unused(&self) -> bool {
        self.waiters.is_empty() && self.open + self.dialing == 0 && !self.is_starved
    }

    /// Returns true if a dial would serve a waiter that no dial under way serves.
    fn wants_dial(&self) -> bool {
        self.waiters.len() > self.dialing
    }
}

impl<K: Clone + Eq + Hash, C: Copy + Eq + Hash, W> Pool<K, C, W> {
    /// Creates an empty pool.
    pub fn new(limits: PoolLimits) -> Self {
        Self::with_hasher(limits, RandomState::new())
    }
}

impl<K, C, W, S> Pool<K, C, W, S>
where
    K: Clone + Eq + Hash,
    C: Copy + Eq + Hash,
    S: BuildHasher + Clone,
{
    /// Creates an empty pool that finds destinations and connections by this hasher. A faster one than the default is safe if
    /// nobody else chooses the keys.
    pub fn with_hasher(limits: PoolLimits, hasher: S) -> Self {
        Self {
            limits,
            destinations: HashMap::with_hasher(hasher.clone()),
            connections: HashMap::with_hasher(hasher.clone()),
            idle: Idle::default(),
            waiting: HashMap::with_hasher(hasher),
            deadlines: BTreeSet::new(),
            starved: VecDeque::new(),
            dialing: 0,
            closing: 0,
            steps: VecDeque::new(),
            next: 0,
        }
    }

    /// Asks for a connection to a destination. The answer is a [`Step::Serve`] or a [`Step::TimedOut`], or
    /// [`failed`](Self::failed) returns the waiter.
    ///
    /// # Errors
    ///
    /// Returns the waiter if [too many](PoolLimits::max_waiting) wait already.
    pub fn request(
        &mut self,
        destination: K,
        waiter: W,
        deadline: Option<Instant>,
    ) -> Result<Ticket, W> {
        self.ask(destination, waiter, deadline, false)
    }

    /// Asks for a connection that has not served before, for a request that a reused connection has failed.
    ///
    /// # Errors
    ///
    /// As for [`request`](Self::request).
    pub fn request_fresh(
        &mut self,
        destination: K,
        waiter: W,
        deadline: Option<Instant>,
    ) -> Result<Ticket, W> {
        self.ask(destination, waiter, deadline, true)
    }

    fn ask(
        &mut self,
        destination: K,
        who: W,
        deadline: Option<Instant>,
        is_fresh: bool,
    ) -> Result<Ticket, W> {
        let ticket = self.number();
        if !is_fresh && let Some(connection) = self.take_idle(&destination) {
            self.steps.push_back(Step::Serve {
                waiter: who,
                connection,
                reused: true,
            });
            return Ok(Ticket(ticket));
        }
        if self.waiting.len() >= self.limits.waiting {
            return Err(who);
        }
        self.waiting.insert(ticket, destination.clone());
        if let Some(deadline) = deadline {
            self.deadlines.insert((deadline, ticket));
        }
        let waiter = Waiter {
            who,
            deadline,
            is_fresh,
        };
        let waiters = &mut self
            .destinations
            .entry(destination.clone())
            .or_default()
            .waiters;
        waiters.insert(ticket, waiter);
        self.dial_for(&destination);
        Ok(Ticket(ticket))
    }

    /// Withdraws a request that still waits, and returns its waiter. A dial that it has caused goes on.
    pub fn cancel(&mut self, ticket: Ticket) -> Option<W> {
        let (destination, waiter) = self.remove_waiter(ticket.0)?;
        self.forget_unused(&destination);
        Some(waiter.who)
    }

    /// Records that a dial has succeeded.
    pub fn opened(&mut self, destination: &K, connection: C, now: Instant) {
        let entry = self.destinations.entry(destination.clone()).or_default();
        entry.dialing = entry.dialing.saturating_sub(1);
        entry.open += 1;
        self.dialing = self.dialing.saturating_sub(1);
        let first = entry.waiters.keys().next().copied();
        self.connections.insert(
            connection,
            Connection {
                destination: destination.clone(),
                state: State::Busy,
            },
        );
        match first {
            Some(ticket) => self.serve(ticket, connection, false),
            None => self.release(connection, now),
        }
    }

    /// Records that a dial has failed. Returns the waiter whose turn it was, if there is one.
    ///
    /// For each of the others, another dial follows: one attempt for each.
    pub fn failed(&mut self, destination: &K) -> Option<W> {
        let entry = self.destinations.get_mut(destination)?;
        entry.dialing = entry.dialing.saturating_sub(1);
        self.dialing = self.dialing.saturating_sub(1);
        let first = entry.waiters.keys().next().copied();
        let waiter = first.and_then(|ticket| self.remove_waiter(ticket));
        self.dial_for(destination);
        self.use_places();
        self.forget_unused(destination);
        waiter.map(|(_, waiter)| waiter.who)
    }

    /// Gives back a connection that has served and can serve again. It serves the next waiter, or becomes idle.
    pub fn release(&mut self, connection: C, now: Instant) {
        let key = self.number();
        let Some(known) = self.connections.get_mut(&connection) else {
            return;
        };
        if known.state != State::Busy {
            return;
        }
        let Some(entry) = self.destinations.get_mut(&known.destination) else {
            return;
        };
        let mut waiters = entry.waiters.iter();
        if let Some((ticket, _)) = waiters.find(|(_, waiter)| !waiter.is_fresh) {
            let ticket = *ticket;
            return self.serve(ticket, connection, true);
        }
        known.state = State::Idle(key);
        entry.idle.push_back(key);
        self.idle.add(key, connection, now);
        // A waiter may want a fresh connection.
        let wants_dial = entry.wants_dial().then(|| known.destination.clone());
        if entry.idle.len() > self.limits.idle_per_destination
            && let Some(oldest) = entry.idle.front().copied()
        {
            self.close_idle(oldest);
        } else if self.idle.len() > self.limits.idle
            && let Some((oldest, _)) = self.idle.first()
        {
            self.close_idle(oldest);
        }
        if let Some(destination) = wants_dial {
            self.dial_for(&destination);
        }
        // Another destination may want the place.
        self.use_places();
    }

    /// Records that a connection has closed, for any reason. Its place is free.
    pub fn closed(&mut self, connection: C) {
        let Some(Connection { destination, state }) = self.connections.remove(&connection) else {
            return;
        };
        if let Some(entry) = self.destinations.get_mut(&destination) {
            entry.open -= 1;
            match state {
                State::Busy => {}
                State::Idle(key) => {
                    self.idle.remove(key);
                    if let Ok(at) = entry.idle.binary_search(&key) {
                        entry.idle.remove(at);
                    }
                }
                State::Closing => {
                    entry.closing -= 1;
                    self.closing -= 1;
                }
            }
        }
        self.dial_for(&destination);
        self.use_places();
        self.forget_unused(&destination);
    }

    /// Closes the idle connections whose time is over, and ends the wait of requests whose deadline has passed.
    pub fn expire(&mut self, now: Instant) {
        while let Some((key, since)) = self.idle.first()
            && now.saturating_duration_since(since) >= self.limits.idle_timeout
        {
            self.close_idle(key);
        }
        while let Some((deadline, ticket)) = self.deadlines.first().copied()
            && deadline <= now
        {
            self.deadlines.remove(&(deadline, ticket));
            if let Some((destination, waiter)) = self.remove_waiter(ticket) {
                self.steps.push_back(Step::TimedOut(waiter.who));
                self.forget_unused(&destination);
            }
        }
    }

    /// Returns the time at which [`expire`](Self::expire) has something to do.
    pub fn next_deadline(&self) -> Option<Instant> {
        let idle = self
            .idle
            .first()
            .and_then(|(_, since)| since.checked_add(self.limits.idle_timeout));
        let waiting = self.deadlines.first().map(|(deadline, _)| *deadline);
        match (idle, waiting) {
            (Some(idle), Some(waiting)) => Some(idle.min(waiting)),
            (one, other) => one.or(other),
        }
    }

    /// Closes all idle connections to a destination. Use it if one of them turns out to be dead: its server may have
    /// restarted, and the others are dead then too.
    pub fn close_idle_to(&mut self, destination: &K) {
        while let Some(key) = self
            .destinations
            .get(destination)
            .and_then(|entry| entry.idle.front())
        {
            self.close_idle(*key);
        }
    }

    /// Closes all idle connections to the destinations for which `is_stale` is true.
    pub fn close_idle_where(&mut self, is_stale: impl Fn(&K) -> bool) {
        let stale = self.destinations.iter().filter(|(key, _)| is_stale(key));
        let idle: Vec<u64> = stale
            .flat_map(|(_, entry)| entry.idle.iter().copied())
            .collect();
        for key in idle {
            self.close_idle(key);
        }
    }

    /// Closes the idle connection that has been idle for longest, of those to the destinations for which `fits` is true, to make
    /// room for others. Returns it.
    pub fn give_up_idle(&mut self, fits: impl Fn(&K) -> bool) -> Option<C> {
        let found = self.idle.iter().find(|(_, connection)| {
            let known = self.connections.get(connection);
            known.is_some_and(|known| fits(&known.destination))
        });
        let (key, connection) = found?;
        self.close_idle(key);
        Some(connection)
    }

    /// Returns the number of dials to a destination under way that no waiter needs any more.
    pub fn needless_dials(&self, destination: &K) -> usize {
        let entry = self.destinations.get(destination);
        entry.map_or(0, |entry| entry.dialing.saturating_sub(entry.waiters.len()))
    }

    /// Takes back a dial that was not begun, since [nobody needs it](Self::needless_dials) any more.
    pub fn withdraw_dial(&mut self, destination: &K) {
        if let Some(entry) = self.destinations.get_mut(destination) {
            entry.dialing = entry.dialing.saturating_sub(1);
            self.dialing = self.dialing.saturating_sub(1);
        }
        self.use_places();
        self.forget_unused(destination);
    }

    /// Replaces the limits. They hold for what happens from now on; idle connections beyond them close when their time is over.
    pub fn set_limits(&mut self, limits: PoolLimits) {
        self.limits = limits;
    }

    /// Closes all idle connections.
    pub fn close_all_idle(&mut self) {
        while let Some((key, _)) = self.idle.first() {
            self.close_idle(key);
        }
    }

    /// Returns the next step to carry out. Call it until it returns `None`, after each other call.
    pub fn next_step(&mut self) -> Option<Step<K, C, W>> {
        self.steps.pop_front()
    }

    /// Returns true if [`next_step`](Self::next_step) has a step.
    pub fn has_steps(&self) -> bool {
        !self.steps.is_empty()
    }

    /// Returns the number of connections: busy, idle and closing ones, without those under way.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// Returns the number of dials under way.
    pub fn dialing(&self) -> usize {
        self.dialing
    }

    /// Returns the number of idle connections.
    pub fn idle(&self) -> usize {
        self.idle.len()
    }

    /// Returns the number of requests that wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Returns the number of destinations that the pool knows. It forgets those without connections and requests.
    pub fn destinations(&self) -> usize {
        self.destinations.len()
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn places_taken(&self) -> usize {
        self.connections.len() + self.dialing
    }

    /// Takes the idle connection that was used last.
    fn take_idle(&mut self, destination: &K) -> Option<C> {
        let key = self.destinations.get_mut(destination)?.idle.pop_back()?;
        let connection = self.idle.remove(key)?;
        self.set_state(connection, State::Busy);
        Some(connection)
    }

    fn set_state(&mut self, connection: C, state: State) {
        if let Some(known) = self.connections.get_mut(&connection) {
            known.state = state;
        }
    }

    fn serve(&mut self, ticket: u64, connection: C, reused: bool) {
        if let Some((_, waiter)) = self.remove_waiter(ticket) {
            self.steps.push_back(Step::Serve {
                waiter: waiter.who,
                connection,
                reused,
            });
        }
    }

    fn remove_waiter(&mut self, ticket: u64) -> Option<(K, Waiter<W>)> {
        let destination = self.waiting.remove(&ticket)?;
        let entry = self.destinations.get_mut(&destination)?;
        let waiter = entry.waiters.remove(&ticket)?;
        if let Some(deadline) = waiter.deadline {
            self.deadlines.remove(&(deadline, ticket));
        }
        if entry.is_starved && !entry.wants_dial() {
            entry.is_starved = false;
            self.starved.retain(|starved| *starved != destination);
        }
        Some((destination, waiter))
    }

    fn close_idle(&mut self, key: u64) {
        let Some(connection) = self.idle.remove(key) else {
            return;
        };
        let Some(known) = self.connections.get_mut(&connection) else {
            return;
        };
        known.state = State::Closing;
        if let Some(entry) = self.destinations.get_mut(&known.destination) {
            if let Ok(at) = entry.idle.binary_search(&key) {
                entry.idle.remove(at);
            }
            entry.closing += 1;
        }
        self.closing += 1;
        self.steps.push_back(Step::Close(connection));
    }

    /// Dials for the waiters of a destination that no dial serves, as far as there are places.
    fn dial_for(&mut self, destination: &K) {
        while let Some(entry) = self.destinations.get_mut(destination)
            && entry.wants_dial()
        {
            if entry.open + entry.dialing >= self.limits.per_destination {
                // One that closes makes room for one of them.
                if entry.waiters.len() > entry.dialing + entry.closing
                    && let Some(oldest) = entry.idle.front().copied()
                {
                    self.close_idle(oldest);
                    continue;
                }
                return;
            }
            // A destination that lacks a place waits for its turn.
            if entry.is_starved
                || !self.starved.is_empty()
                || self.connections.len() + self.dialing >= self.limits.total
            {
                if !entry.is_starved {
                    entry.is_starved = true;
                    self.starved.push_back(destination.clone());
                }
                self.make_room();
                return;
            }
            self.dial(destination);
        }
    }

    fn dial(&mut self, destination: &K) {
        if let Some(entry) = self.destinations.get_mut(destination) {
            entry.dialing += 1;
            self.dialing += 1;
            self.steps.push_back(Step::Dial(destination.clone()));
        }
    }

    /// Gives free places to the destinations that lack them, in turn.
    fn use_places(&mut self) {
        while self.places_taken() < self.limits.total
            && let Some(destination) = self.starved.pop_front()
        {
            let Some(entry) = self.destinations.get_mut(&destination) else {
                continue;
            };
            entry.is_starved = false;
            if entry.wants_dial() && entry.open + entry.dialing < self.limits.per_destination {
                self.dial(&destination);
            }
            // It queues up again, behind the others, if it wants more.
            let entry = self.destinations.get_mut(&destination);
            if let Some(entry) = entry
                && entry.wants_dial()
                && entry.open + entry.dialing < self.limits.per_destination
            {
                entry.is_starved = true;
                self.starved.push_back(destination);
            } else {
                // At its own bound, one of its idle connections makes room.
                self.dial_for(&destination);
                self.forget_unused(&destination);
            }
        }
        self.make_room();
    }

    /// Closes idle connections, so that each destination that lacks a place gets one.
    fn make_room(&mut self) {
        while self.closing < self.starved.len()
            && let Some((oldest, _)) = self.idle.first()
        {
            self.close_idle(oldest);
        }
    }

    fn forget_unused(&mut self, destination: &K) {
        if self
            .destinations
            .get(destination)
            .is_some_and(Destination::is_unused)
        {
            self.destinations.remove(destination);
        }
    }
}
