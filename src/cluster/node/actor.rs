//! Actors: parts of a node that have a state of their own and get one message at a time.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use super::Node;
use super::actor_table::{Content, Entry, Letter, Plan, Posted};
use super::context::{Core, HandlerError, Posting, Request, SLOW, Subject};
use super::hand_over::Sender;
use super::shared::Shared;
use crate::cluster::codec::EncodeBody;
use crate::cluster::packet::Packet;
use crate::cluster::{Error, Event};

/// A part of a node that has a state of its own, such as a table of a game. It gets one message at a time, in the order in which
/// each sender has sent them, and lives on one reactor.
///
/// ```
/// use epicycle::cluster::Cluster;
/// use epicycle::cluster::client::Client;
/// use epicycle::cluster::node::{Actor, ActorContext, ActorRoutes, HandlerError};
///
/// #[derive(Default)]
/// struct Counter {
///     sum: i64,
/// }
///
/// impl Actor for Counter {
///     fn routes(routes: &mut ActorRoutes<Self>) {
///         routes.route(7, Self::add);
///     }
/// }
///
/// impl Counter {
///     fn add(&mut self, cx: &mut ActorContext<'_, Self>) -> Result<(), HandlerError> {
///         self.sum += cx.parse::<i64>()?;
///         cx.respond(&self.sum)?;
///         Ok(())
///     }
/// }
///
/// let cluster = Cluster::embedded();
/// let node = cluster.node().route(7, |_, cx| match cx.actor("counter", "all") {
///     Some(counter) => cx.next_to(&counter),
///     None => {
///         let counter = cx.spawn("counter", "all", Counter::default())?;
///         cx.next_to(&counter)
///     }
/// });
/// let _node = node.start()?;
/// let gate = cluster.gate().listen("tcp://127.0.0.1:0").start()?;
/// let client = Client::builder().connect(gate.client_addrs()[0].to_string())?;
/// assert_eq!(client.request(7, "20")?, "20");
/// assert_eq!(client.request(7, "3")?, "23");
/// # Ok::<(), epicycle::cluster::Error>(())
/// ```
pub trait Actor: Sized + Send + 'static {
    /// Adds the handlers of the routes and events that the actor has.
    fn routes(routes: &mut ActorRoutes<Self>) {
        let _ = routes;
    }

    /// Called first. An error ends the actor.
    #[expect(
        clippy::missing_errors_doc,
        reason = "the application decides about them"
    )]
    fn on_start(&mut self, cx: &mut ActorContext<'_, Self>) -> Result<(), HandlerError> {
        let _ = cx;
        Ok(())
    }

    /// Called last, when the actor was killed. It is not called after a panic.
    fn on_stop(&mut self, cx: &mut ActorContext<'_, Self>) {
        let _ = cx;
    }

    /// Called when an actor that this one has spawned has ended.
    fn on_child_end(
        &mut self,
        cx: &mut ActorContext<'_, Self>,
        child: &ActorRef,
        has_panicked: bool,
    ) {
        let _ = (cx, child, has_panicked);
    }
}

type Handler<A> =
    Arc<dyn Fn(&mut A, &mut ActorContext<'_, A>) -> Result<(), HandlerError> + Send + Sync>;

/// The handlers of an actor.
pub struct ActorRoutes<A> {
    routes: FxHashMap<i32, Handler<A>>,
    events: FxHashMap<u8, Handler<A>>,
    default: Option<Handler<A>>,
}

impl<A: 'static> ActorRoutes<A> {
    /// Sets the handler of a route. The last one counts.
    pub fn route<E: Into<HandlerError>>(
        &mut self,
        route: i32,
        handler: impl Fn(&mut A, &mut ActorContext<'_, A>) -> Result<(), E> + Send + Sync + 'static,
    ) -> &mut Self {
        self.routes.insert(route, boxed(handler));
        self
    }

    /// Sets the handler of an event. The node must have one for it, too, which calls [`Request::next`].
    pub fn event<E: Into<HandlerError>>(
        &mut self,
        event: Event,
        handler: impl Fn(&mut A, &mut ActorContext<'_, A>) -> Result<(), E> + Send + Sync + 'static,
    ) -> &mut Self {
        self.events.insert(event.code(), boxed(handler));
        self
    }

    /// Sets the handler of packets of other routes, which only [`ActorRef::deliver`] and [`Request::next_to`] send. Default: they
    /// are ignored and counted.
    pub fn default_route<E: Into<HandlerError>>(
        &mut self,
        handler: impl Fn(&mut A, &mut ActorContext<'_, A>) -> Result<(), E> + Send + Sync + 'static,
    ) -> &mut Self {
        self.default = Some(boxed(handler));
        self
    }
}

fn boxed<A: 'static, E: Into<HandlerError>>(
    handler: impl Fn(&mut A, &mut ActorContext<'_, A>) -> Result<(), E> + Send + Sync + 'static,
) -> Handler<A> {
    Arc::new(move |actor, cx| handler(actor, cx).map_err(Into::into))
}

/// The context of a handler of an actor. It has all that a [`Request`] has. What that calls later has the state of the node; use
/// [`ActorRef::invoke`] of [`me`](Self::me) to go on with the actor.
pub struct ActorContext<'a, A> {
    request: Request<'a>,
    entry: &'a Arc<Entry>,
    timers: &'a mut Timers<A>,
}

/// The timers of an actor.
struct Timers<A> {
    last: u64,
    waiting: HashMap<u64, Timed<A>>,
}

type Timed<A> =
    Box<dyn FnOnce(&mut A, &mut ActorContext<'_, A>) -> Result<(), HandlerError> + Send>;

/// A call of an actor.
struct Call<A>(Timed<A>);

/// A timer of an actor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ActorTimer(u64);

/// The maximum number of timers of an actor.
const MAX_TIMERS: usize = 4096;

/// The maximum number of letters of an actor that are handled in one turn.
const LETTERS: usize = 64;

impl<A: Actor> ActorContext<'_, A> {
    /// Returns a handle of this actor.
    pub fn me(&self) -> ActorRef {
        Home::of(self.request.core).reference(self.entry)
    }

    /// Unbinds a user from this actor. If it is bound to another one by now, it stays bound to that.
    pub(super) fn let_go(&mut self, uid: i64) {
        self.request.core.shared.actors.unbind_from(uid, self.entry);
    }

    /// Starts another actor, which tells this one its end.
    ///
    /// # Errors
    ///
    /// As [`Request::spawn`].
    pub fn spawn<C: Actor>(&mut self, kind: &str, id: &str, actor: C) -> Result<ActorRef, Error> {
        self.spawn_with(ActorOptions::default(), kind, id, actor)
    }

    /// Starts another actor with options, which tells this one its end.
    ///
    /// # Errors
    ///
    /// As [`Request::spawn`].
    pub fn spawn_with<C: Actor>(
        &mut self,
        options: ActorOptions,
        kind: &str,
        id: &str,
        actor: C,
    ) -> Result<ActorRef, Error> {
        let owner = Some(self.entry.clone());
        Home::of(self.request.core).spawn(options, (kind, id), actor, owner)
    }

    /// Calls `then` after a time, unless the actor has ended by then.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Busy`] if the actor has 4,096 timers.
    pub fn after_time<E: Into<HandlerError>>(
        &mut self,
        delay: Duration,
        then: impl FnOnce(&mut A, &mut ActorContext<'_, A>) -> Result<(), E> + Send + 'static,
    ) -> Result<ActorTimer, Error> {
        if self.timers.waiting.len() >= MAX_TIMERS {
            return Err(Error::Busy {
                what: "list of timers of the actor",
            });
        }
        Ok(self.after_time_anyway(delay, then))
    }

    /// Calls `then` after a time, however many timers the actor has.
    pub(super) fn after_time_anyway<E: Into<HandlerError>>(
        &mut self,
        delay: Duration,
        then: impl FnOnce(&mut A, &mut ActorContext<'_, A>) -> Result<(), E> + Send + 'static,
    ) -> ActorTimer {
        self.timers.last += 1;
        let number = self.timers.last;
        let then: Timed<A> = Box::new(move |actor, cx| then(actor, cx).map_err(Into::into));
        self.timers.waiting.insert(number, then);
        let entry = Arc::downgrade(self.entry);
        let task = move |_: &mut dyn Any, core: &mut Core| on_timer(&entry, core, number);
        self.request.core.timers.push((delay, Box::new(task)));
        ActorTimer(number)
    }

    /// Cancels a timer. Returns true if it was still waiting.
    pub fn cancel(&mut self, timer: ActorTimer) -> bool {
        self.timers.waiting.remove(&timer.0).is_some()
    }

    /// Returns the same context for a shorter time.
    pub(super) fn reborrow(&mut self) -> ActorContext<'_, A> {
        let Request {
            core,
            state,
            from,
            cid,
            uid,
            subject,
            ..
        } = &mut self.request;
        ActorContext {
            request: Request::new(core, *state, from, (*cid, *uid), *subject),
            entry: self.entry,
            timers: self.timers,
        }
    }

    /// Ends this actor, when it has handled the messages that wait.
    pub fn stop(&mut self) {
        self.me().kill();
    }
}

impl<'a, A> Deref for ActorContext<'a, A> {
    type Target = Request<'a>;

    fn deref(&self) -> &Request<'a> {
        &self.request
    }
}

impl<A> DerefMut for ActorContext<'_, A> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.request
    }
}

/// A handle of an actor. Any thread can have it. It does not keep the actor from its end.
#[derive(Clone)]
pub struct ActorRef {
    entry: Arc<Entry>,
    home: Home,
}

/// The node of actors.
#[derive(Clone)]
pub(super) struct Home {
    pub(super) shared: Arc<Shared>,
    pub(super) posting: Posting,
}

impl ActorRef {
    /// Returns the kind.
    pub fn kind(&self) -> &str {
        self.entry.kind()
    }

    /// Returns the id, which no other actor of the kind has.
    pub fn id(&self) -> &str {
        self.entry.id()
    }

    /// Returns the number of messages that wait.
    pub fn waiting(&self) -> usize {
        self.entry.waiting()
    }

    /// Sends the actor a packet. `uid` may be 0 if no user is concerned.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Codec`] if the value cannot be encoded, [`Error::Busy`] if 4,096 messages wait, and
    /// [`Error::NotFoundEndpoint`] if the actor has ended or is about to.
    pub fn deliver(
        &self,
        route: i32,
        uid: i64,
        value: &(impl EncodeBody + ?Sized),
    ) -> Result<(), Error> {
        let data = self.home.shared.options.codec.encode(value)?;
        let what = Content::Packet {
            route,
            seq: 0,
            data,
        };
        self.post(Letter {
            uid,
            ..own(&self.home.shared, what)
        })
    }

    /// Calls `then` with the actor, on its reactor.
    ///
    /// # Errors
    ///
    /// Returns [`Error::InvalidArgument`] if the actor is of another type, and those of [`deliver`](Self::deliver) but for that of
    /// encoding.
    pub fn invoke<A: Actor, E: Into<HandlerError>>(
        &self,
        then: impl FnOnce(&mut A, &mut ActorContext<'_, A>) -> Result<(), E> + Send + 'static,
    ) -> Result<(), Error> {
        if self.entry.type_id != TypeId::of::<A>() {
            let problem = format!("{} is no {}", self.entry.name, std::any::type_name::<A>());
            return Err(Error::argument("actor", problem));
        }
        let call: Timed<A> = Box::new(move |actor, cx| then(actor, cx).map_err(Into::into));
        self.post(own(&self.home.shared, Content::Call(Box::new(Call(call)))))
    }

    /// Ends the actor, when it has handled the messages that wait. It gets no further ones.
    pub fn kill(&self) {
        let posted = self.entry.close(own(&self.home.shared, Content::Stop));
        self.home.schedule(&self.entry, posted);
    }

    fn post(&self, letter: Letter) -> Result<(), Error> {
        let posted = self.entry.post(letter)?;
        self.home.schedule(&self.entry, posted);
        Ok(())
    }
}

/// The options of an actor.
#[derive(Clone, Copy, Debug)]
#[must_use = "it has no effect until an actor is spawned with it"]
pub struct ActorOptions {
    mailbox: usize,
    is_awaited: bool,
}

impl ActorOptions {
    /// Sets the number of messages that may wait. Default: 4,096.
    pub fn mailbox(mut self, messages: usize) -> Self {
        self.mailbox = messages;
        self
    }

    /// Lets [`Node::drain`] wait until the actor has ended by itself. Default: the node ends it.
    pub fn wait(mut self) -> Self {
        self.is_awaited = true;
        self
    }
}

impl Default for ActorOptions {
    fn default() -> Self {
        Self {
            mailbox: 4096,
            is_awaited: false,
        }
    }
}

/// # Actors
impl Request<'_> {
    /// Starts an actor. `kind` must not contain a `/`. The actor gets its first call when this handler has ended.
    ///
    /// # Errors
    ///
    /// Returns [`Error::InvalidArgument`] if there is one of this kind and id, or the kind cannot be one, and [`Error::Busy`] if the
    /// node has 65,536 actors.
    pub fn spawn<A: Actor>(&mut self, kind: &str, id: &str, actor: A) -> Result<ActorRef, Error> {
        self.spawn_with(ActorOptions::default(), kind, id, actor)
    }

    /// Starts an actor with options.
    ///
    /// # Errors
    ///
    /// As [`spawn`](Self::spawn).
    pub fn spawn_with<A: Actor>(
        &mut self,
        options: ActorOptions,
        kind: &str,
        id: &str,
        actor: A,
    ) -> Result<ActorRef, Error> {
        Home::of(self.core).spawn(options, (kind, id), actor, None)
    }

    /// Returns the actor of a kind and an id.
    pub fn actor(&self, kind: &str, id: &str) -> Option<ActorRef> {
        Home::of(self.core).find(kind, id)
    }

    /// Binds a user to an actor, so that [`next`](Self::next) finds it. A user is bound to one actor of each kind.
    ///
    /// # Errors
    ///
    /// Returns [`Error::NotFoundEndpoint`] if there is no such actor, [`Error::InvalidArgument`] if `uid` is not above 0, and
    /// [`Error::Busy`] if 1,000,000 users are bound.
    pub fn bind_actor(&mut self, uid: i64, kind: &str, id: &str) -> Result<(), Error> {
        if uid <= 0 {
            return Err(Error::argument(
                "uid",
                format!("{uid} is no user; it must be above 0"),
            ));
        }
        match self.core.shared.actors.find(kind, id) {
            Some(entry) => self.core.shared.actors.bind(uid, &entry),
            None => {
                let wanted = format!("actor {kind}/{id}");
                Err(Error::NotFoundEndpoint { wanted })
            }
        }
    }

    /// Unbinds a user from its actor of a kind.
    pub fn unbind_actor(&mut self, uid: i64, kind: &str) {
        self.core.shared.actors.unbind(uid, kind);
    }

    /// Hands a packet to the user's actor that has its route, or an event to all of the user's actors that have it. They answer the
    /// client as this handler would.
    ///
    /// # Errors
    ///
    /// Returns [`Error::NotFoundRoute`] if the user is bound to no actor that has the route, [`Error::Busy`] if too many messages
    /// wait for the actor, and [`Error::IllegalRequest`] if there is neither packet nor event.
    #[expect(
        clippy::should_implement_trait,
        reason = "it is due's name, and a request is no iterator"
    )]
    pub fn next(&mut self) -> Result<(), Error> {
        let actors = self.core.shared.actors.of_user(self.uid);
        match self.subject {
            Subject::Packet(Packet { route, .. }) => {
                let mut having = actors.iter().filter(|entry| entry.routes.contains(&route));
                match having.next() {
                    Some(entry) => self.hand_to(entry),
                    None => Err(Error::NotFoundRoute { route }),
                }
            }
            Subject::Event(event) => {
                let mut result = Ok(());
                for entry in actors.iter().filter(|entry| entry.events.contains(&event)) {
                    result = result.and(self.hand_to(entry));
                }
                result
            }
            Subject::Own => self.hand_nothing(),
        }
    }

    /// Hands the packet or the event to an actor, which answers the client as this handler would.
    ///
    /// # Errors
    ///
    /// As [`next`](Self::next), and [`Error::NotFoundEndpoint`] if the actor has ended or is about to.
    pub fn next_to(&mut self, actor: &ActorRef) -> Result<(), Error> {
        self.hand_to(&actor.entry)
    }

    fn hand_to(&mut self, entry: &Arc<Entry>) -> Result<(), Error> {
        let what = match self.subject {
            Subject::Packet(Packet { route, seq, data }) => {
                let data = data.to_vec();
                Content::Packet { route, seq, data }
            }
            Subject::Event(event) => Content::Event(event),
            Subject::Own => return self.hand_nothing(),
        };
        let (from, cid, uid) = (self.from.clone(), self.cid, self.uid);
        // Events are as few as connections, and what they tell is not told again.
        let is_event = matches!(what, Content::Event(_));
        let letter = Letter {
            from,
            cid,
            uid,
            what,
        };
        let posted = match is_event {
            true => entry.post_anyway(letter),
            false => entry.post(letter)?,
        };
        if posted == Posted::MustSchedule && entry.reactor == self.core.id {
            let entry = entry.clone();
            self.core
                .deferred
                .push_back(Box::new(move |_, core| run(&entry, core)));
            self.core.is_pending = true;
            return Ok(());
        }
        Home::of(self.core).schedule(entry, posted);
        Ok(())
    }

    fn hand_nothing(&self) -> Result<(), Error> {
        let what = "a call that is neither a packet nor an event cannot be handed on; use `ActorRef::invoke`";
        Err(Error::IllegalRequest { what })
    }
}

/// # Actors
impl Node {
    /// Starts an actor, as [`Request::spawn`] does.
    ///
    /// # Errors
    ///
    /// As [`Request::spawn`].
    pub fn spawn<A: Actor>(&self, kind: &str, id: &str, actor: A) -> Result<ActorRef, Error> {
        self.home()
            .spawn(ActorOptions::default(), (kind, id), actor, None)
    }

    /// Returns the actor of a kind and an id.
    pub fn actor(&self, kind: &str, id: &str) -> Option<ActorRef> {
        self.home().find(kind, id)
    }
}

impl Home {
    fn of(core: &Core) -> Self {
        Self {
            shared: core.shared.clone(),
            posting: core.posting.clone(),
        }
    }

    fn reference(self, entry: &Arc<Entry>) -> ActorRef {
        ActorRef {
            entry: entry.clone(),
            home: self,
        }
    }

    fn find(self, kind: &str, id: &str) -> Option<ActorRef> {
        let entry = self.shared.actors.find(kind, id)?;
        Some(self.reference(&entry))
    }

    fn spawn<A: Actor>(
        self,
        options: ActorOptions,
        (kind, id): (&str, &str),
        actor: A,
        owner: Option<Arc<Entry>>,
    ) -> Result<ActorRef, Error> {
        if kind.is_empty() || kind.contains('/') {
            let problem =
                format!("{kind:?} cannot be one; it needs a character, and none may be a `/`");
            return Err(Error::argument("kind", problem));
        }
        let mut handlers = ActorRoutes {
            routes: FxHashMap::default(),
            events: FxHashMap::default(),
            default: None,
        };
        A::routes(&mut handlers);
        let name: Arc<str> = format!("{kind}/{id}").into();
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        let events = handlers.events.keys();
        let plan = Plan {
            name,
            kind_len: kind.len(),
            reactor: (hasher.finish() % self.shared.counters.len() as u64) as usize,
            type_id: TypeId::of::<A>(),
            routes: handlers.routes.keys().copied().collect(),
            events: events.filter_map(|code| Event::from_code(*code)).collect(),
            is_awaited: options.is_awaited,
            owner,
            capacity: options.mailbox,
        };
        let body: Box<dyn Body> = Box::new(Living {
            actor,
            handlers,
            timers: Timers {
                last: 0,
                waiting: HashMap::new(),
            },
        });
        let entry = Arc::new(Entry::new(plan, Box::new(body)));
        // It is the first letter, since nobody else knows the actor yet.
        let posted = entry.post_anyway(own(&self.shared, Content::Start));
        self.shared.actors.add(&entry)?;
        self.schedule(&entry, posted);
        Ok(self.reference(&entry))
    }

    fn schedule(&self, entry: &Arc<Entry>, posted: Posted) {
        if posted == Posted::MustSchedule {
            let run_it = entry.clone();
            // There is at most one for each actor, whose number is bounded.
            self.posting
                .post_anyway(entry.reactor, Box::new(move |_, core| run(&run_it, core)));
        }
    }

    /// Ends all actors, starts none any more, and waits until all have ended, as long as `time` allows.
    pub(super) fn end_all(&self, time: Duration) {
        for entry in self.shared.actors.close() {
            let posted = entry.close(own(&self.shared, Content::Stop));
            self.schedule(&entry, posted);
        }
        self.shared.actors.await_end(time);
    }
}

/// Returns a letter of the node itself.
fn own(shared: &Shared, what: Content) -> Letter {
    let from = Sender {
        id: shared.ours.id.as_str().into(),
        is_node: true,
    };
    let (cid, uid) = (0, 0);
    Letter {
        from,
        cid,
        uid,
        what,
    }
}

/// Lets an actor handle its letters: so many that the others of the reactor need not wait for long.
fn run(entry: &Arc<Entry>, core: &mut Core) {
    for _ in 0..LETTERS {
        let Some(letter) = entry.next() else {
            return;
        };
        if !with_body(entry, core, |body, core| body.receive(entry, core, letter)) {
            return;
        }
    }
    let again = entry.clone();
    core.deferred
        .push_back(Box::new(move |_, core| run(&again, core)));
    core.is_pending = true;
}

fn on_timer(entry: &Weak<Entry>, core: &mut Core, number: u64) {
    if let Some(entry) = entry.upgrade() {
        with_body(&entry, core, |body, core| {
            body.on_timer(&entry, core, number)
        });
    }
}

/// Calls `with` with the actor. Returns false if the actor has ended.
fn with_body(
    entry: &Arc<Entry>,
    core: &mut Core,
    with: impl FnOnce(&mut dyn Body, &mut Core) -> Flow,
) -> bool {
    let Some(mut whole) = entry.take_body() else {
        return false;
    };
    let flow = match whole.downcast_mut::<Box<dyn Body>>() {
        Some(body) => with(&mut **body, core),
        None => Flow::Ended {
            has_panicked: false,
        },
    };
    match flow {
        Flow::Goes => {
            entry.put_body(whole);
            true
        }
        Flow::Ended { has_panicked } => {
            let lost = entry.clear();
            crate::panic::catch("epicycle::cluster", "the drop of an actor", || {
                drop((whole, lost));
            });
            end(entry, core, has_panicked);
            false
        }
    }
}

/// Takes an actor that has ended out of the table, and tells its owner.
fn end(entry: &Arc<Entry>, core: &mut Core, has_panicked: bool) {
    core.counters().actors.subtract(1);
    core.shared.actors.remove(entry);
    if let Some(owner) = &entry.owner {
        let child = entry.clone();
        let letter = own(
            &core.shared,
            Content::ChildEnded {
                child,
                has_panicked,
            },
        );
        let posted = owner.post_anyway(letter);
        Home::of(core).schedule(owner, posted);
    }
}

/// The state of an actor after a call.
enum Flow {
    Goes,
    Ended { has_panicked: bool },
}

/// An actor of any type.
trait Body: Send {
    fn receive(&mut self, entry: &Arc<Entry>, core: &mut Core, letter: Letter) -> Flow;

    fn on_timer(&mut self, entry: &Arc<Entry>, core: &mut Core, number: u64) -> Flow;
}

struct Living<A> {
    actor: A,
    handlers: ActorRoutes<A>,
    timers: Timers<A>,
}

impl<A: Actor> Body for Living<A> {
    fn receive(&mut self, entry: &Arc<Entry>, core: &mut Core, letter: Letter) -> Flow {
        let Letter {
            from,
            cid,
            uid,
            what,
        } = letter;
        let client = (cid, uid);
        match what {
            Content::Start => {
                core.counters().actors.add(1);
                let own = (&from, client, Subject::Own);
                let mut has_failed = false;
                let flow = self.attend(entry, core, own, |actor, cx| {
                    let started = actor.on_start(cx);
                    has_failed = started.is_err();
                    started
                });
                match has_failed {
                    true => Flow::Ended {
                        has_panicked: false,
                    },
                    false => flow,
                }
            }
            Content::Packet { route, seq, data } => {
                let Some(handler) = self
                    .handlers
                    .routes
                    .get(&route)
                    .or(self.handlers.default.as_ref())
                else {
                    core.counters().unknown_routes.add(1);
                    return Flow::Goes;
                };
                let (handler, data) = (handler.clone(), &*data);
                let subject = Subject::Packet(Packet { route, seq, data });
                self.attend(entry, core, (&from, client, subject), |actor, cx| {
                    handler(actor, cx)
                })
            }
            Content::Event(event) => {
                let Some(handler) = self.handlers.events.get(&event.code()).cloned() else {
                    return Flow::Goes;
                };
                let about = (&from, client, Subject::Event(event));
                self.attend(entry, core, about, |actor, cx| handler(actor, cx))
            }
            Content::Call(call) => match call.downcast::<Call<A>>() {
                Ok(call) => self.attend(entry, core, (&from, client, Subject::Own), call.0),
                // The type was checked when it was sent.
                Err(_) => Flow::Goes,
            },
            Content::ChildEnded {
                child,
                has_panicked,
            } => {
                let child = Home::of(core).reference(&child);
                self.attend(entry, core, (&from, client, Subject::Own), |actor, cx| {
                    actor.on_child_end(cx, &child, has_panicked);
                    Ok(())
                })
            }
            Content::Stop => {
                let stopped =
                    self.attend(entry, core, (&from, client, Subject::Own), |actor, cx| {
                        actor.on_stop(cx);
                        Ok(())
                    });
                match stopped {
                    Flow::Goes => Flow::Ended {
                        has_panicked: false,
                    },
                    ended => ended,
                }
            }
        }
    }

    fn on_timer(&mut self, entry: &Arc<Entry>, core: &mut Core, number: u64) -> Flow {
        let Some(then) = self.timers.waiting.remove(&number) else {
            return Flow::Goes;
        };
        let Letter { from, .. } = own(&core.shared, Content::Stop);
        self.attend(entry, core, (&from, (0, 0), Subject::Own), then)
    }
}

impl<A: Actor> Living<A> {
    /// Runs a handler. Its error costs what it was called for, its panic the actor.
    fn attend(
        &mut self,
        entry: &Arc<Entry>,
        core: &mut Core,
        (from, client, subject): (&Sender, (i64, i64), Subject<'_>),
        handler: impl FnOnce(&mut A, &mut ActorContext<'_, A>) -> Result<(), HandlerError>,
    ) -> Flow {
        let state = core.shared.state;
        let mut cx = ActorContext {
            request: Request::new(core, state, from, client, subject),
            entry,
            timers: &mut self.timers,
        };
        let (actor, began) = (&mut self.actor, Instant::now());
        let ended = catch_unwind(AssertUnwindSafe(|| handler(actor, &mut cx)));
        let took = began.elapsed();
        let what =
            |request: &Request<'_>| format!("the actor {}: the handler of {request}", entry.name);
        let request = &cx.request;
        let counters = request.core.counters();
        if took > SLOW {
            counters.slow_handlers.add(1);
            log::warn!(
                target: "epicycle::cluster",
                "{} took {took:?}; all others of its reactor wait meanwhile", what(request)
            );
        }
        match ended {
            Ok(Ok(())) => Flow::Goes,
            Ok(Err(error)) => {
                counters.handler_errors.add(1);
                log::warn!(target: "epicycle::cluster", "{}: {error}", what(request));
                Flow::Goes
            }
            Err(panic) => {
                counters.handler_panics.add(1);
                crate::panic::report("epicycle::cluster", &what(request), panic);
                Flow::Ended { has_panicked: true }
            }
        }
    }
}

impl<A> fmt::Debug for ActorRoutes<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ActorRoutes")
            .field("routes", &self.routes.len())
            .field("events", &self.events.len())
            .finish_non_exhaustive()
    }
}

impl<A> fmt::Debug for ActorContext<'_, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ActorContext")
            .field("actor", &self.entry.name)
            .field("request", &self.request)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ActorRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ActorRef").field(&self.entry.name).finish()
    }
}
