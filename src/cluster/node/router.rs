//! The routes of a node: which handler gets a packet or an event.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::context::{HandlerError, Request};
use crate::cluster::registry::RouteSpec;
use crate::cluster::{Error, Event};

/// A property of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RouteFlag {
    /// It is served by the node that the user is bound to.
    Stateful,
    /// The connection must have a user.
    Authorized,
    /// It is never for packets of clients.
    Internal,
}

/// The properties of a route: none, one, or several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouteFlags(RouteSpec);

impl From<RouteFlag> for RouteFlags {
    fn from(flag: RouteFlag) -> Self {
        [flag].into()
    }
}

impl<const N: usize> From<[RouteFlag; N]> for RouteFlags {
    fn from(flags: [RouteFlag; N]) -> Self {
        let spec = flags
            .into_iter()
            .fold(RouteSpec::default(), |spec, flag| match flag {
                RouteFlag::Stateful => spec.stateful(),
                RouteFlag::Authorized => spec.authorized(),
                RouteFlag::Internal => spec.internal(),
            });
        Self(spec)
    }
}

pub(super) type Handler<T> =
    Arc<dyn Fn(&mut T, &mut Request<'_>) -> Result<(), HandlerError> + Send + Sync>;

type Middleware<T> =
    Arc<dyn Fn(&mut T, &mut Request<'_>, Next<'_, T>) -> Result<(), HandlerError> + Send + Sync>;

/// The rest of the way of a packet to its handler. A middleware runs it, or stops the packet.
pub struct Next<'r, T> {
    middleware: &'r [Middleware<T>],
    handler: &'r Handler<T>,
}

impl<T> Next<'_, T> {
    /// Runs the other middleware and the handler.
    ///
    /// # Errors
    ///
    /// Returns the error of the handler.
    pub fn run(self, state: &mut T, request: &mut Request<'_>) -> Result<(), HandlerError> {
        match self.middleware.split_first() {
            None => (self.handler)(state, request),
            Some((first, middleware)) => {
                let next = Next {
                    middleware,
                    handler: self.handler,
                };
                first(state, request, next)
            }
        }
    }
}

/// The handlers of a node.
pub(super) struct Router<T> {
    routes: FxHashMap<i32, Route<T>>,
    default: Option<Route<T>>,
    events: FxHashMap<u8, Handler<T>>,
    gate_lost: Option<Handler<T>>,
    hand_over: Option<Handler<T>>,
}

pub(super) struct Route<T> {
    pub(super) spec: RouteSpec,
    middleware: Arc<[Middleware<T>]>,
    handler: Handler<T>,
}

impl<T> Route<T> {
    pub(super) fn run(&self, state: &mut T, request: &mut Request<'_>) -> Result<(), HandlerError> {
        let next = Next {
            middleware: &self.middleware,
            handler: &self.handler,
        };
        next.run(state, request)
    }
}

impl<T> Router<T> {
    /// Returns what serves a route: the default one, if it has none of its own.
    pub(super) fn serving(&self, route: i32) -> Option<&Route<T>> {
        self.routes.get(&route).or(self.default.as_ref())
    }

    pub(super) fn gate_lost(&self) -> Option<&Handler<T>> {
        self.gate_lost.as_ref()
    }

    pub(super) fn hand_over(&self) -> Option<&Handler<T>> {
        self.hand_over.as_ref()
    }

    /// Returns true if the end of a connection is of interest.
    pub(super) fn follows_connections(&self) -> bool {
        self.gate_lost.is_some() || self.event(Event::Disconnect).is_some()
    }

    pub(super) fn event(&self, event: Event) -> Option<&Handler<T>> {
        self.events.get(&event.code())
    }

    /// Returns the routes to register, in their order.
    pub(super) fn specs(&self) -> Vec<RouteSpec> {
        let mut specs: Vec<_> = self.routes.values().map(|route| route.spec).collect();
        specs.sort_unstable_by_key(|spec| spec.id);
        specs
    }

    /// Returns the numbers of the events to register, in their order. A node that remembers connections, since it has several reactors
    /// or wants to know of lost gates, must be told of their ends.
    pub(super) fn events(&self, reactors: usize) -> Vec<i32> {
        let mut events: BTreeSet<i32> = self.events.keys().copied().map(i32::from).collect();
        if reactors > 1 || self.gate_lost.is_some() {
            events.insert(Event::Disconnect.code().into());
        }
        events.into_iter().collect()
    }
}

/// Routes that have middleware in common.
pub struct Group<T> {
    middleware: Vec<Middleware<T>>,
    entries: Vec<Entry<T>>,
}

/// A part of a group, in the order of its registration.
enum Entry<T> {
    Route(RouteSpec, Handler<T>),
    Group(Group<T>),
}

impl<T: 'static> Group<T> {
    pub(super) fn new() -> Self {
        Self {
            middleware: Vec::new(),
            entries: Vec::new(),
        }
    }

    /// Adds a route without flags.
    #[must_use]
    pub fn route<E: Into<HandlerError>>(
        self,
        route: i32,
        handler: impl Fn(&mut T, &mut Request<'_>) -> Result<(), E> + Send + Sync + 'static,
    ) -> Self {
        self.route_with(route, [], handler)
    }

    /// Adds a route with flags.
    #[must_use]
    pub fn route_with<E: Into<HandlerError>>(
        mut self,
        route: i32,
        flags: impl Into<RouteFlags>,
        handler: impl Fn(&mut T, &mut Request<'_>) -> Result<(), E> + Send + Sync + 'static,
    ) -> Self {
        let RouteFlags(flags) = flags.into();
        let spec = RouteSpec { id: route, ..flags };
        self.entries.push(Entry::Route(spec, boxed(handler)));
        self
    }

    /// Adds a middleware, which gets the packets of all routes of this group and of the groups in it. The one that was added
    /// first gets them first.
    #[must_use]
    pub fn middleware<E: Into<HandlerError>>(
        mut self,
        middleware: impl Fn(&mut T, &mut Request<'_>, Next<'_, T>) -> Result<(), E>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        self.middleware.push(Arc::new(move |state, request, next| {
            middleware(state, request, next).map_err(Into::into)
        }));
        self
    }

    /// Adds a handler that gets each packet before the handler of its route does. Its error stops the packet.
    #[must_use]
    pub fn before<E: Into<HandlerError>>(
        self,
        hook: impl Fn(&mut T, &mut Request<'_>) -> Result<(), E> + Send + Sync + 'static,
    ) -> Self {
        self.middleware(move |state, request, next| {
            hook(state, request).map_err(Into::into)?;
            next.run(state, request)
        })
    }

    /// Adds a function that is called after the handler of each packet, with its result.
    #[must_use]
    pub fn after(
        self,
        hook: impl Fn(&mut T, &mut Request<'_>, &Result<(), HandlerError>) + Send + Sync + 'static,
    ) -> Self {
        self.middleware(move |state, request, next| {
            let result = next.run(state, request);
            hook(state, request, &result);
            result
        })
    }

    /// Adds a group.
    #[must_use]
    pub fn group(mut self, routes: impl FnOnce(Group<T>) -> Group<T>) -> Self {
        self.entries.push(Entry::Group(routes(Group::new())));
        self
    }

    /// Adds the routes to those of a node.
    fn add_to(
        self,
        routes: &mut FxHashMap<i32, Route<T>>,
        outer: &[Middleware<T>],
    ) -> Result<(), Error> {
        let all: Arc<[Middleware<T>]> = outer.iter().cloned().chain(self.middleware).collect();
        for entry in self.entries {
            match entry {
                Entry::Group(group) => group.add_to(routes, &all)?,
                Entry::Route(spec, handler) => {
                    let middleware = all.clone();
                    let route = Route {
                        spec,
                        middleware,
                        handler,
                    };
                    if routes.insert(spec.id, route).is_some() {
                        let problem = format!("{} is registered twice; remove one", spec.id);
                        return Err(Error::argument("route", problem));
                    }
                }
            }
        }
        Ok(())
    }
}

/// The routes and events of a node that is about to start.
pub(super) struct Routes<T> {
    pub(super) root: Group<T>,
    pub(super) default: Option<Handler<T>>,
    pub(super) events: Vec<(Event, Handler<T>)>,
    pub(super) gate_lost: Option<Handler<T>>,
    pub(super) hand_over: Option<Handler<T>>,
    /// The name of what was set twice.
    pub(super) twice: Option<&'static str>,
}

impl<T: 'static> Routes<T> {
    pub(super) fn new() -> Self {
        Self {
            root: Group::new(),
            default: None,
            events: Vec::new(),
            gate_lost: None,
            hand_over: None,
            twice: None,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        let Group {
            middleware,
            entries,
        } = &self.root;
        let has_none = middleware.is_empty() && entries.is_empty();
        let others = [&self.default, &self.gate_lost, &self.hand_over];
        let has_others = others.iter().any(|handler| handler.is_some());
        has_none && !has_others && self.events.is_empty()
    }

    /// Returns the router.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] if a route or an event is registered twice.
    pub(super) fn build(self) -> Result<Router<T>, Error> {
        if let Some(twice) = self.twice {
            let problem = "it has two handlers; remove one";
            return Err(Error::argument(twice, problem));
        }
        let default = self.default.map(|handler| Route {
            spec: RouteSpec::default(),
            middleware: self.root.middleware.clone().into(),
            handler,
        });
        let mut router = Router {
            routes: FxHashMap::default(),
            default,
            events: FxHashMap::default(),
            gate_lost: self.gate_lost,
            hand_over: self.hand_over,
        };
        self.root.add_to(&mut router.routes, &[])?;
        for (event, handler) in self.events {
            if router.events.insert(event.code(), handler).is_some() {
                let problem = format!("{event} has two handlers; remove one");
                return Err(Error::argument("event", problem));
            }
        }
        Ok(router)
    }
}

impl<T> fmt::Debug for Next<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Next")
            .field("middleware", &self.middleware.len())
            .finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Group<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group")
            .field("middleware", &self.middleware.len())
            .field("entries", &self.entries.len())
            .finish()
    }
}

pub(super) fn boxed<T, E: Into<HandlerError>>(
    handler: impl Fn(&mut T, &mut Request<'_>) -> Result<(), E> + Send + Sync + 'static,
) -> Handler<T> {
    Arc::new(move |state, request| handler(state, request).map_err(Into::into))
}
