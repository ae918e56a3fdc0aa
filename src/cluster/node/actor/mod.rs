//! Actors: parts of a node that have a state of their own and get one message at a time.

mod context;
mod life;
mod reference;
mod verbs;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use rustc_hash::FxHashMap;

use super::context::HandlerError;
use crate::cluster::Event;

pub use self::context::{ActorContext, ActorTimer};
pub(super) use self::life::run_timers;
pub use self::reference::ActorRef;
pub(super) use self::reference::Home;

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

    /// Called when a user that was bound to this actor no longer is: it was bound to another one of the same kind, or unbound.
    #[expect(
        clippy::missing_errors_doc,
        reason = "the application decides about them"
    )]
    fn on_unbind(&mut self, cx: &mut ActorContext<'_, Self>, uid: i64) -> Result<(), HandlerError> {
        let _ = (cx, uid);
        Ok(())
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

    /// Sets the handler of an event. The node must have one for it, too, which calls [`Request::next`](super::Request::next).
    pub fn event<E: Into<HandlerError>>(
        &mut self,
        event: Event,
        handler: impl Fn(&mut A, &mut ActorContext<'_, A>) -> Result<(), E> + Send + Sync + 'static,
    ) -> &mut Self {
        self.events.insert(event.code(), boxed(handler));
        self
    }

    /// Sets the handler of packets of other routes, which only [`ActorRef::deliver`] and
    /// [`Request::next_to`](super::Request::next_to) send. Default: they are ignored and counted.
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

/// The timers of an actor, in the order in which their times come.
struct Timers<A> {
    last: u64,
    waiting: BTreeMap<(Instant, u64), Timed<A>>,
}

type Timed<A> =
    Box<dyn FnOnce(&mut A, &mut ActorContext<'_, A>) -> Result<(), HandlerError> + Send>;

/// A call of an actor.
struct Call<A>(Timed<A>);

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

    /// Lets [`Node::drain`](super::Node::drain) wait until the actor has ended by itself. Default: the node ends it.
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

impl<A> fmt::Debug for ActorRoutes<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ActorRoutes")
            .field("routes", &self.routes.len())
            .field("events", &self.events.len())
            .finish_non_exhaustive()
    }
}
