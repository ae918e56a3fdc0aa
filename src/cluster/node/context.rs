//! A request of a client, and the part of a reactor that serves it.

use std::any::{Any, TypeId};
use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::alarms::Alarms;
use super::hand_over::{Item, Sender};
use super::reply::{Reply, reply_of};
use super::shared::Shared;
use super::stats::NodeCounters;
use crate::cluster::codec::DecodeBody;
use crate::cluster::dispatch::RouteTable;
use crate::cluster::drpc::RejectReason;
use crate::cluster::link::{Identity, LaneEvent, Lanes};
use crate::cluster::packet::Packet;
use crate::cluster::reactors::Calls;
use crate::cluster::registry::LinkEndpoint;
use crate::cluster::seldom::warn_seldom;
use crate::cluster::{Error, Event};
use crate::sys::monotonic;

/// The error of a handler.
pub type HandlerError = Box<dyn std::error::Error + Send + Sync>;

/// The least time between two warnings about packets that were rejected.
const WARNING_INTERVAL: Duration = Duration::from_secs(1);

/// The part of a reactor that is the same whatever the application's state is.
pub(super) struct Core {
    pub(super) id: usize,
    pub(super) shared: Arc<Shared>,
    pub(super) posting: Posting,
    pub(super) lanes: Lanes<Asked>,
    /// The time at which the turn began.
    pub(super) now: Instant,
    /// The turn in which a handler ran last, by its beginning, and the time at which that handler ended, in nanoseconds.
    last_handler: (Instant, u64),
    /// True if the end of the turn has something to do.
    pub(super) is_pending: bool,
    /// All servers that are registered, but this one.
    pub(super) peers: Arc<[(Identity, LinkEndpoint)]>,
    pub(super) gates: Vec<Arc<str>>,
    pub(super) table: RouteTable,
    /// The nodes that something was sent to. The others are not dialled.
    pub(super) dialled: HashSet<String>,
    pub(super) has_new_peer: bool,
    /// Calls that have ended, to be told.
    pub(super) ended: Vec<(Call, Result<Reply, Error>)>,
    /// The items that the locator's answers have released.
    pub(super) released: Vec<Item>,
    /// The calls at the end of the turn.
    pub(super) deferred: VecDeque<Task>,
    /// The calls after a time. The engine gets it when the handler has ended.
    pub(super) timers: Vec<(Duration, Task)>,
    /// The times at which actors want to be called.
    pub(super) alarms: Alarms,
    /// Packets from this node to itself.
    pub(super) own_packets: VecDeque<OwnPacket>,
    /// The packets that wait for the locator, in order for each place.
    pub(super) locating: HashMap<Place, VecDeque<Locating>>,
    /// The number of those that wait.
    pub(super) locating_len: usize,
    /// Questions to several gates, by their numbers.
    pub(super) gathering: HashMap<u64, Gather>,
    pub(super) last_gather: u64,
    /// The time of the last warning about a packet that was rejected.
    warned: Option<Instant>,
    /// The buffer for what is encoded.
    pub(super) packet: Vec<u8>,
}

type LaneEvents<'e> = dyn FnMut(&Identity, LaneEvent<'_, Asked>) + 'e;

/// A call that runs on a reactor later, with the application's state.
pub(super) type Task = Box<dyn FnOnce(&mut dyn Any, &mut Core) + Send>;

/// The reactors of a node, whatever state they have.
pub(super) trait Reactors: Send + Sync {
    fn post(&self, reactor: usize, task: Task) -> Result<(), Error>;

    /// Posts what is bounded in another way.
    fn post_anyway(&self, reactor: usize, task: Task);

    /// Calls the hand-over of each of these users on its reactor. Their packets are rejected from then on.
    fn hand_over(&self, users: &[i64]) -> Calls<()>;

    /// Tells the servers that have dialled this one that it takes no more. The results are the numbers of those that do not know
    /// that.
    fn say_bye(&self) -> Calls<usize>;

    /// Returns the state of each reactor that answers in time.
    fn glimpse(&self) -> Vec<Glimpse>;
}

/// The state of a reactor at one moment.
pub(super) struct Glimpse {
    /// The bytes that wait for each server.
    pub(super) queues: Vec<(String, u64)>,
    /// The number of calls that wait for the locator.
    pub(super) locating: usize,
    /// The number of items that wait for the locator or another reactor.
    pub(super) held: usize,
}

/// The way for tasks to the reactors, from any thread. The first reactor opens it.
#[derive(Clone, Default)]
pub(super) struct Posting(Arc<OnceLock<Box<dyn Reactors>>>);

impl Posting {
    pub(super) fn open(&self, reactors: impl Reactors + 'static) {
        self.0.get_or_init(|| Box::new(reactors));
    }

    pub(super) fn reactors(&self) -> Option<&dyn Reactors> {
        self.0.get().map(|reactors| &**reactors)
    }

    pub(super) fn post(&self, reactor: usize, task: Task) -> Result<(), Error> {
        let reactors = self.0.get().ok_or(Error::Draining)?;
        reactors.post(reactor, task)
    }

    pub(super) fn post_anyway(&self, reactor: usize, task: Task) {
        // There is no task before the first reactor runs.
        if let Some(reactors) = self.0.get() {
            reactors.post_anyway(reactor, task);
        }
    }
}

/// A call that runs when a gate has answered.
pub(super) type Call = Box<dyn FnOnce(&mut dyn Any, &mut Core, Result<Reply, Error>)>;

/// A call whose gate has not answered.
pub(super) struct Asked {
    pub(super) call: Call,
    pub(super) since: Instant,
}

/// A user's gate (no alias), or its node of an alias.
pub(super) type Place = (i64, Option<Arc<str>>);

/// A call that runs when a user has been located.
pub(super) type Found = Box<dyn FnOnce(&mut Core, Result<Option<Arc<str>>, Error>)>;

/// A call that waits for the locator.
pub(super) struct Locating {
    /// The changes of the locations that were known when it began to wait. An answer from before them is out of date.
    pub(super) changes: u64,
    pub(super) found: Found,
}

pub(super) struct OwnPacket {
    pub(super) uid: i64,
    pub(super) packet: Vec<u8>,
}

/// A question that several gates were asked.
pub(super) struct Gather {
    pub(super) missing: usize,
    pub(super) total: u64,
    pub(super) then: Call,
}

/// A handler that takes longer delays all that waits for its reactor.
const SLOW: Duration = Duration::from_millis(50);

impl Core {
    pub(super) fn new(
        id: usize,
        shared: Arc<Shared>,
        posting: Posting,
        peers: Arc<[(Identity, LinkEndpoint)]>,
        table: RouteTable,
    ) -> Self {
        let (ours, options) = (shared.ours.clone(), &shared.options);
        let lanes = Lanes::new(ours, options.secret.clone(), options.lanes.clone());
        let lanes = lanes.chance(&options.chance);
        #[cfg(feature = "tls")]
        let lanes = lanes.tls(options.tls.as_ref().map(|tls| tls.client.clone()));
        Self {
            id,
            lanes,
            now: Instant::now(),
            last_handler: (Instant::now(), monotonic::nanos()),
            posting,
            is_pending: false,
            peers,
            gates: Vec::new(),
            table,
            dialled: HashSet::new(),
            has_new_peer: false,
            ended: Vec::new(),
            released: Vec::new(),
            deferred: VecDeque::new(),
            timers: Vec::new(),
            alarms: Alarms::default(),
            own_packets: VecDeque::new(),
            locating: HashMap::new(),
            locating_len: 0,
            gathering: HashMap::new(),
            last_gather: 0,
            warned: None,
            packet: Vec::new(),
            shared,
        }
    }

    pub(super) fn counters(&self) -> &NodeCounters {
        &self.shared.counters[self.id]
    }

    /// Calls `with` with the lanes, and with what takes their events.
    pub(super) fn with_lanes<R>(
        &mut self,
        with: impl FnOnce(&mut Lanes<Asked>, &mut LaneEvents<'_>) -> R,
    ) -> R {
        let Self {
            id,
            shared,
            lanes,
            ended,
            now,
            warned,
            ..
        } = self;
        let counters = &shared.counters[*id];
        with(lanes, &mut |peer, event| match event {
            LaneEvent::GaveUp { frames, .. } => counters.given_up.add(frames),
            LaneEvent::Answered { token, result } => {
                counters.calls.subtract(1);
                if result.is_ok() {
                    let took = now.saturating_duration_since(token.since);
                    counters.call.record_time(took);
                } else {
                    counters.calls_failed.add(1);
                }
                ended.push((token.call, reply_of(&peer.id, result)));
            }
            LaneEvent::Rejected { route, reason, .. } => {
                counters.packets_rejected.add(1);
                let is_new = warned.is_none_or(|at| *now >= at + WARNING_INTERVAL);
                if reason == RejectReason::UnknownRoute && is_new {
                    *warned = Some(*now);
                    log::warn!(target: "epicycle::cluster", "the node {} has no route {route}: it drops what is delivered to it", peer.id);
                }
            }
            _ => {}
        })
    }

    /// Returns the time at which a handler begins. Only the first of a turn needs the clock, since little happens between two.
    fn handler_begins(&self) -> u64 {
        match self.last_handler {
            (turn, ended) if turn == self.now => ended,
            _ => monotonic::nanos(),
        }
    }

    /// Counts a handler that has ended. Returns the time that it took.
    fn handler_ends(&mut self, began: u64) -> Duration {
        let ended = monotonic::nanos();
        self.last_handler = (self.now, ended);
        let took = ended.saturating_sub(began);
        let counters = self.counters();
        counters.handled.add(1);
        counters.handling.add_nanos(took);
        Duration::from_nanos(took)
    }

    /// Returns true if calls, timers or items are left from the handlers of this callback.
    #[inline]
    pub(super) fn has_calls(&self) -> bool {
        let has_calls = !self.ended.is_empty() || !self.released.is_empty();
        let has_timers = !self.timers.is_empty() || self.alarms.is_changed();
        has_calls || has_timers || self.has_new_peer
    }
}

/// A packet or an event of a client, with what its handler can do.
///
/// Whatever it sends leaves at the end of the reactor's turn, in the order in which it was sent.
pub struct Request<'a> {
    pub(super) core: &'a mut Core,
    pub(super) from: &'a Sender,
    pub(super) cid: i64,
    pub(super) uid: i64,
    pub(super) subject: Subject<'a>,
    /// The type of the state that its handler has.
    pub(super) state: TypeId,
    values: Vec<Box<dyn Any + Send>>,
}

#[derive(Clone, Copy)]
pub(super) enum Subject<'a> {
    Packet(Packet<'a>),
    Event(Event),
    /// The application called by itself.
    Own,
}

/// The parts of a request that a later call needs.
#[derive(Clone)]
pub(super) struct Origin {
    from: Sender,
    cid: i64,
    uid: i64,
    /// The packet has no data any more.
    subject: Subject<'static>,
    state: TypeId,
}

impl<'a> Request<'a> {
    pub(super) fn new(
        core: &'a mut Core,
        state: TypeId,
        from: &'a Sender,
        (cid, uid): (i64, i64),
        subject: Subject<'a>,
    ) -> Self {
        Self {
            core,
            from,
            cid,
            uid,
            subject,
            state,
            values: Vec::new(),
        }
    }
}

impl<'a> Request<'a> {
    /// Returns the id of the client's gate. It is empty if another node sent the packet.
    pub fn gid(&self) -> &'a str {
        if self.from.is_node { "" } else { &self.from.id }
    }

    /// Returns the id of the node that sent the packet. It is empty if a client did.
    pub fn nid(&self) -> &'a str {
        if self.from.is_node { &self.from.id } else { "" }
    }

    /// Returns the number of the client's connection, or 0 if another node sent the packet.
    pub fn cid(&self) -> i64 {
        self.cid
    }

    /// Returns the user, or 0 if the connection has none.
    pub fn uid(&self) -> i64 {
        self.uid
    }

    /// Returns the packet's route. That of an event is 0.
    pub fn route(&self) -> i32 {
        match self.subject {
            Subject::Packet(packet) => packet.route,
            Subject::Event(_) | Subject::Own => 0,
        }
    }

    /// Returns the packet's seq: above 0 if the client awaits an answer.
    pub fn seq(&self) -> i32 {
        match self.subject {
            Subject::Packet(packet) => packet.seq,
            Subject::Event(_) | Subject::Own => 0,
        }
    }

    /// Returns the packet's data, as it came: encrypted, if the client has encrypted it. Events and later calls have none.
    pub fn data(&self) -> &'a [u8] {
        match self.subject {
            Subject::Packet(packet) => packet.data,
            Subject::Event(_) | Subject::Own => &[],
        }
    }

    /// Returns the event, if it is one.
    pub fn event(&self) -> Option<Event> {
        match self.subject {
            Subject::Event(event) => Some(event),
            Subject::Packet(_) | Subject::Own => None,
        }
    }

    /// Returns the time at which the turn began.
    pub(super) fn now(&self) -> Instant {
        self.core.now
    }

    /// Decodes the data with the node's codec. Data of a client is decrypted before, if the node has a cipher.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Codec`] if the data cannot be decrypted, or is not such a value.
    pub fn parse<V: DecodeBody>(&self) -> Result<V, Error> {
        #[cfg(feature = "crypto")]
        if let Some(cipher) = &self.core.shared.options.cipher
            && let (Subject::Packet(packet), false) = (self.subject, self.from.is_node)
        {
            let data = cipher.decrypt(packet.data)?;
            return self.core.shared.options.codec.decode(&data);
        }
        self.core.shared.options.codec.decode(self.data())
    }

    /// Keeps a value for the middleware and the handler that come after. It takes the place of an earlier one of its type.
    pub fn set<V: Send + 'static>(&mut self, value: V) {
        match self.values.iter_mut().find_map(|old| old.downcast_mut()) {
            Some(old) => *old = value,
            None => self.values.push(Box::new(value)),
        }
    }

    /// Returns the value of this type that was [set](Self::set).
    pub fn get<V: Send + 'static>(&self) -> Option<&V> {
        self.values.iter().find_map(|value| value.downcast_ref())
    }

    /// Runs a handler. Its error or panic costs what it was called for, and nothing else.
    pub(super) fn attend<S: ?Sized>(
        &mut self,
        state: &mut S,
        handler: impl FnOnce(&mut S, &mut Request<'_>) -> Result<(), HandlerError>,
    ) {
        attend(
            self,
            "",
            |request| request,
            |request| handler(state, request),
        );
    }

    pub(super) fn origin(&self) -> Origin {
        let subject = match self.subject {
            Subject::Packet(packet) => Subject::Packet(Packet {
                data: &[],
                ..packet
            }),
            Subject::Event(event) => Subject::Event(event),
            Subject::Own => Subject::Own,
        };
        Origin {
            from: self.from.clone(),
            cid: self.cid,
            uid: self.uid,
            subject,
            state: self.state,
        }
    }

    /// Returns what runs `then` later, with the state and this request.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] if the state is of another type.
    pub(super) fn later_call<S: 'static, R, E: Into<HandlerError>>(
        &self,
        then: impl FnOnce(&mut S, &mut Request<'_>, R) -> Result<(), E> + Send + 'static,
    ) -> Result<impl FnOnce(&mut dyn Any, &mut Core, R) + Send + 'static, Error> {
        self.origin().call(then)
    }
}

/// Runs a handler, whose context `cx` has the request. Returns true if it panicked.
///
/// The text of an error, and the drops of the error and of the values of middleware, are the application's code, too.
pub(super) fn attend<'r, C>(
    cx: &mut C,
    who: &str,
    request: impl for<'c> Fn(&'c mut C) -> &'c mut Request<'r>,
    handler: impl FnOnce(&mut C) -> Result<(), HandlerError>,
) -> bool {
    let began = request(cx).core.handler_begins();
    let ended = catch_unwind(AssertUnwindSafe(|| {
        let result = handler(cx).map_err(|error| error.to_string());
        request(cx).values.clear();
        result
    }));
    let request = request(cx);
    let took = request.core.handler_ends(began);
    let counters = request.core.counters();
    if took > SLOW {
        counters.slow_handlers.add(1);
        warn_seldom!(
            "{who}the handler of {request} took {took:?}; all others of its reactor wait meanwhile"
        );
    }
    match ended {
        Ok(Ok(())) => false,
        Ok(Err(error)) => {
            counters.handler_errors.add(1);
            warn_seldom!("{who}the handler of {request}: {error}");
            false
        }
        Err(panic) => {
            counters.handler_panics.add(1);
            let what = format!("{who}the handler of {request}");
            crate::panic::report("epicycle::cluster", &what, panic);
            let values = std::mem::take(&mut request.values);
            crate::panic::catch("epicycle::cluster", "the drop of a value", || drop(values));
            true
        }
    }
}

impl Origin {
    /// Returns the origin of what the application does by itself.
    pub(super) fn own(shared: &Shared) -> Self {
        Self {
            from: Sender {
                id: shared.ours.id.as_str().into(),
                is_node: true,
            },
            cid: 0,
            uid: 0,
            subject: Subject::Own,
            state: shared.state,
        }
    }

    pub(super) fn call<S: 'static, R, E: Into<HandlerError>>(
        self,
        then: impl FnOnce(&mut S, &mut Request<'_>, R) -> Result<(), E> + Send + 'static,
    ) -> Result<impl FnOnce(&mut dyn Any, &mut Core, R) + Send + 'static, Error> {
        if TypeId::of::<S>() != self.state {
            let problem = format!(
                "{} is not the state of this handler; write the type of the first argument",
                std::any::type_name::<S>()
            );
            return Err(Error::argument("state", problem));
        }
        Ok(move |state: &mut dyn Any, core: &mut Core, result: R| {
            // The type was checked above.
            if let Some(state) = state.downcast_mut::<S>() {
                let mut request = self.request(core);
                request.attend(state, |state, request| {
                    then(state, request, result).map_err(Into::into)
                });
            }
        })
    }

    /// Calls `then` without a state.
    pub(super) fn run<E: Into<HandlerError>>(
        self,
        core: &mut Core,
        then: impl FnOnce(&mut Request<'_>) -> Result<(), E>,
    ) {
        self.request(core)
            .attend(&mut (), |(), request| then(request).map_err(Into::into));
    }

    fn request<'a>(&'a self, core: &'a mut Core) -> Request<'a> {
        let client = (self.cid, self.uid);
        Request::new(core, self.state, &self.from, client, self.subject)
    }
}

/// The subject, for logs.
impl fmt::Display for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.subject {
            Subject::Packet(packet) => write!(f, "route {}", packet.route)?,
            Subject::Event(event) => write!(f, "event {event}")?,
            Subject::Own => f.write_str("a call by the application")?,
        }
        write!(f, " (connection {}, user {})", self.cid, self.uid)
    }
}

impl fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("gid", &self.gid())
            .field("nid", &self.nid())
            .field("cid", &self.cid)
            .field("uid", &self.uid)
            .field("route", &self.route())
            .field("seq", &self.seq())
            .field("event", &self.event())
            .finish_non_exhaustive()
    }
}
