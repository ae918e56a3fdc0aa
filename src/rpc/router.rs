//! The routes of a peer: which handler takes which message.

use std::any::type_name;
use std::fmt;
use std::sync::Arc;

use super::context::{AsyncCtx, CallCtx, Incoming, PushCtx, reply_codec};
use super::paths::Paths;
use super::plugin::{Plugin, Plugins};
use super::responder::{ReplyToken, Responder};
use super::route_info::RouteInfo;
use super::stream_ends::Accepted;
use super::tasks::Answering;
use super::wire::{DecodeBody, EncodeBody, Kind, Status};
use crate::error::Error;

/// The handlers of a peer, by the paths of their messages. CALLs and PUSHes have routes of their own.
///
/// The path of a route begins with a slash, which is added if it is missing. Case and a slash at the end count. Two handlers of
/// one path, and a path below `/_/`, which belongs to this crate, are errors of [`start`](super::PeerBuilder::start).
///
/// The [`Status`](super::Status) of a handler that fails is the reply. A handler that panics costs its call, which gets
/// [`INTERNAL_SERVER_ERROR`](super::wire::code::INTERNAL_SERVER_ERROR).
///
/// A handler is shared by all reactors, so it is `Send` and `Sync`. A value of its own for each reactor comes from
/// [`CallCtx::local`].
///
/// | Method | The handler runs | For |
/// |---|---|---|
/// | [`call`](Self::call), [`push`](Self::push) | on the reactor | work that does not block |
/// | [`call_bytes`](Self::call_bytes), [`push_bytes`](Self::push_bytes) | on the reactor, on encoded bodies | the least cost |
/// | [`call_blocking`](Self::call_blocking) and others | on a worker pool | files, databases, long computations |
/// | [`call_async`](Self::call_async) | on the reactor, as a future | work that waits for calls of its own |
/// | [`call_later`](Self::call_later) | on the reactor, and replies when it likes | work that ends elsewhere |
/// | [`stream`](Self::stream), and others | in one of these ways | items in either direction |
///
/// ```
/// use epicycle::rpc::{Router, Status};
///
/// let mut routes = Router::new();
/// routes.group("math", |routes| {
///     routes.call("add", |_ctx, numbers: Vec<i64>| Ok(numbers.iter().sum::<i64>()));
/// });
/// routes.push("status", |ctx, text: String| {
///     println!("{} says {text}", ctx.session().id());
///     Ok(())
/// });
/// let paths: Vec<_> = routes.routes().map(|route| route.path.to_string()).collect();
/// assert_eq!(paths, ["/math/add", "/status"]);
/// ```
#[derive(Default)]
pub struct Router {
    table: Table,
    /// The path of the group, without a slash at its end.
    prefix: String,
    /// The plugins of the group.
    plugins: Arc<Plugins>,
    infos: Vec<RouteInfo>,
    faults: Vec<String>,
}

/// The handlers by path.
#[derive(Default)]
pub(super) struct Table {
    pub(super) calls: Paths<Route<CallHandler>>,
    pub(super) pushes: Paths<Route<PushHandler>>,
    pub(super) unknown_call: Option<Route<CallHandler>>,
    pub(super) unknown_push: Option<Route<PushHandler>>,
}

/// A handler, and the plugins of its messages.
pub(super) struct Route<H> {
    pub(super) handler: H,
    pub(super) plugins: Arc<Plugins>,
    /// The place in the statistics.
    pub(super) meter: usize,
}

/// Answers a call: decodes the argument, and appends the encoded result.
pub(super) type CallFn = dyn for<'a> Fn(&mut CallCtx<'a>, &'a Incoming<'a>, &mut Vec<u8>) -> Result<(), Status>
    + Send
    + Sync;

/// Takes a call whose reply is given later.
pub(super) type LaterFn = dyn for<'a> Fn(&CallCtx<'a>, ReplyToken) + Send + Sync;

/// Takes a call whose reply is the result of a future, which is polled on the reactor.
pub(super) type AsyncFn = dyn Fn(AsyncCtx) -> Answering + Send + Sync;

pub(super) type PushFn =
    dyn for<'a> Fn(&PushCtx<'a>, &'a Incoming<'a>) -> Result<(), Status> + Send + Sync;

pub(super) enum CallHandler {
    OnLoop(Box<CallFn>),
    Blocking { run: Arc<CallFn>, in_order: bool },
    Later(Box<LaterFn>),
    Async(Box<AsyncFn>),
    Stream(StreamHandler),
}

/// The handler of a stream.
pub(super) struct StreamHandler {
    /// True if it takes items.
    pub(super) receives: bool,
    pub(super) run: StreamRun,
}

pub(super) enum StreamRun {
    OnLoop(Box<StreamFn>),
    Blocking(Box<StreamFn>),
    Async(Box<AsyncStreamFn>),
}

/// Decodes the argument of a stream. Returns what runs once the stream is accepted.
pub(super) type StreamFn = dyn for<'a> Fn(&CallCtx<'a>) -> Result<Begin, Status> + Send + Sync;

/// Runs the handler of a stream. The result is the stream's end, unless the handler's ends outlive it.
pub(super) type Begin =
    Box<dyn for<'a> FnOnce(&CallCtx<'a>, Accepted) -> Result<(), Status> + Send>;

/// The same for a handler that is a future.
pub(super) type AsyncStreamFn = dyn Fn(AsyncCtx) -> Result<BeginAsync, Status> + Send + Sync;

pub(super) type BeginAsync = Box<dyn FnOnce(Accepted) -> Answering>;

pub(super) enum PushHandler {
    OnLoop(Box<PushFn>),
    Blocking { run: Arc<PushFn>, in_order: bool },
}

impl Table {
    /// Returns the plugins of a route.
    pub(super) fn plugins_of(&self, route: &RouteInfo) -> Arc<Plugins> {
        let plugins = match route.kind {
            Kind::Push => self.pushes.get(&route.path).map(|route| &route.plugins),
            _ => self.calls.get(&route.path).map(|route| &route.plugins),
        };
        plugins.cloned().unwrap_or_default()
    }

    /// Returns true if a handler needs a worker pool.
    pub(super) fn blocks(&self) -> bool {
        let blocks_call = |call: &Route<CallHandler>| match &call.handler {
            CallHandler::Blocking { .. } => true,
            CallHandler::Stream(stream) => matches!(stream.run, StreamRun::Blocking(_)),
            _ => false,
        };
        let blocks_push =
            |push: &Route<PushHandler>| matches!(push.handler, PushHandler::Blocking { .. });
        self.calls.values().any(blocks_call)
            || self.pushes.values().any(blocks_push)
            || self.unknown_call.as_ref().is_some_and(blocks_call)
            || self.unknown_push.as_ref().is_some_and(blocks_push)
    }
}

/// # Calls
impl Router {
    /// Adds a handler that runs on the reactor. It must not block.
    ///
    /// Handlers of a connection run in the order of its messages, and their replies leave in that order.
    pub fn call<A, R, F>(&mut self, path: &str, handler: F)
    where
        A: DecodeBody + 'static,
        R: EncodeBody + 'static,
        F: Fn(&mut CallCtx<'_>, A) -> Result<R, Status> + Send + Sync + 'static,
    {
        let handler = CallHandler::OnLoop(Box::new(typed_call(handler)));
        self.add_call::<A, R>(path, handler);
    }

    /// Adds a handler that runs on the reactor and works on encoded bodies: it gets the argument as it arrived, and appends
    /// the encoded result. It must not block.
    ///
    /// The reply has the codec of the call, or the one that the caller accepts, unless the handler
    /// [sets](CallCtx::set_reply_codec) another.
    pub fn call_bytes<F>(&mut self, path: &str, handler: F)
    where
        F: Fn(&mut CallCtx<'_>, &[u8], &mut Vec<u8>) -> Result<(), Status> + Send + Sync + 'static,
    {
        let handler = CallHandler::OnLoop(Box::new(bytes_call(handler)));
        self.add_call::<&[u8], Vec<u8>>(path, handler);
    }

    /// Adds a handler that runs on the peer's worker pool, where it may block. Handlers run in any order and at the same time.
    pub fn call_blocking<A, R, F>(&mut self, path: &str, handler: F)
    where
        A: DecodeBody + 'static,
        R: EncodeBody + 'static,
        F: Fn(&mut CallCtx<'_>, A) -> Result<R, Status> + Send + Sync + 'static,
    {
        self.add_blocking_call(path, handler, false);
    }

    /// Adds a handler as [`call_blocking`](Self::call_blocking) does. Those of one session run one at a time, in the order of
    /// its messages.
    pub fn call_blocking_in_order<A, R, F>(&mut self, path: &str, handler: F)
    where
        A: DecodeBody + 'static,
        R: EncodeBody + 'static,
        F: Fn(&mut CallCtx<'_>, A) -> Result<R, Status> + Send + Sync + 'static,
    {
        self.add_blocking_call(path, handler, true);
    }

    /// Adds a handler that runs on the reactor and gives its reply later, from any thread: see [`Responder`].
    /// Settings of the reply are made there, too.
    pub fn call_later<A, R, F>(&mut self, path: &str, handler: F)
    where
        A: DecodeBody + 'static,
        R: EncodeBody + 'static,
        F: Fn(&CallCtx<'_>, A, Responder<R>) + Send + Sync + 'static,
    {
        let handler: Box<LaterFn> = Box::new(move |ctx, token| match ctx.argument() {
            Ok(arg) => handler(ctx, arg, Responder::new(token)),
            Err(status) => token.give(Err(status)),
        });
        self.add_call::<A, R>(path, CallHandler::Later(handler));
    }

    /// Adds a handler that is a future. It is polled on the reactor, needs no executor and need not be `Send`. It must not block.
    /// If the caller cancels the call or its time is over, the future is dropped.
    ///
    /// ```
    /// use epicycle::rpc::Router;
    ///
    /// let mut routes = Router::new();
    /// routes.call_async("/greet", |ctx, name: String| async move {
    ///     // A call back to the caller.
    ///     let greeting: String = ctx.session().call("/greeting", &()).await?;
    ///     Ok(format!("{greeting}, {name}"))
    /// });
    /// ```
    pub fn call_async<A, R, F, Fut>(&mut self, path: &str, handler: F)
    where
        A: DecodeBody + 'static,
        R: EncodeBody + 'static,
        F: Fn(AsyncCtx, A) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, Status>> + 'static,
    {
        let handler: Box<AsyncFn> = Box::new(move |ctx| match ctx.argument() {
            Ok(arg) => {
                let result = handler(ctx.clone(), arg);
                Box::pin(async move { ctx.encode(&result.await?) })
            }
            Err(status) => Box::pin(std::future::ready(Err(status))),
        });
        self.add_call::<A, R>(path, CallHandler::Async(handler));
    }

    /// Sets the handler of calls that no route takes, in place of [`NOT_FOUND`](super::wire::code::NOT_FOUND). It runs on the
    /// reactor, on encoded bodies, as that of [`call_bytes`](Self::call_bytes) does.
    pub fn unknown_call<F>(&mut self, handler: F)
    where
        F: Fn(&mut CallCtx<'_>, &[u8], &mut Vec<u8>) -> Result<(), Status> + Send + Sync + 'static,
    {
        self.set_unknown_call(CallHandler::OnLoop(Box::new(bytes_call(handler))));
    }

    pub(super) fn set_unknown_call(&mut self, handler: CallHandler) {
        let route = self.route(handler);
        if self.table.unknown_call.replace(route).is_some() {
            self.faults
                .push("there are two handlers of unknown calls".to_owned());
        }
    }

    fn add_blocking_call<A, R, F>(&mut self, path: &str, handler: F, in_order: bool)
    where
        A: DecodeBody + 'static,
        R: EncodeBody + 'static,
        F: Fn(&mut CallCtx<'_>, A) -> Result<R, Status> + Send + Sync + 'static,
    {
        let run: Arc<CallFn> = Arc::new(typed_call(handler));
        self.add_call::<A, R>(path, CallHandler::Blocking { run, in_order });
    }

    pub(super) fn add_call<A, R>(&mut self, path: &str, handler: CallHandler) {
        let path = self.path(path);
        let route = self.route(handler);
        if !self.table.calls.insert(&path, route) {
            let fault = format!("there are two handlers of calls to {path}");
            return self.faults.push(fault);
        }
        self.infos.push(RouteInfo {
            kind: Kind::Call,
            path,
            argument: type_name::<A>(),
            reply: type_name::<R>(),
        });
    }
}

/// # Pushes
impl Router {
    /// Adds a handler that runs on the reactor. It must not block. An error that it returns is logged.
    pub fn push<A, F>(&mut self, path: &str, handler: F)
    where
        A: DecodeBody + 'static,
        F: Fn(&PushCtx<'_>, A) -> Result<(), Status> + Send + Sync + 'static,
    {
        let handler = PushHandler::OnLoop(Box::new(typed_push(handler)));
        self.add_push::<A>(path, handler);
    }

    /// Adds a handler that runs on the reactor and gets the encoded body. It must not block.
    pub fn push_bytes<F>(&mut self, path: &str, handler: F)
    where
        F: Fn(&PushCtx<'_>, &[u8]) -> Result<(), Status> + Send + Sync + 'static,
    {
        let handler = PushHandler::OnLoop(Box::new(bytes_push(handler)));
        self.add_push::<&[u8]>(path, handler);
    }

    /// Adds a handler that runs on the peer's worker pool, where it may block. Handlers run in any order and at the same time.
    pub fn push_blocking<A, F>(&mut self, path: &str, handler: F)
    where
        A: DecodeBody + 'static,
        F: Fn(&PushCtx<'_>, A) -> Result<(), Status> + Send + Sync + 'static,
    {
        self.add_blocking_push(path, handler, false);
    }

    /// Adds a handler as [`push_blocking`](Self::push_blocking) does. Those of one session run one at a time, in the order of
    /// its messages.
    pub fn push_blocking_in_order<A, F>(&mut self, path: &str, handler: F)
    where
        A: DecodeBody + 'static,
        F: Fn(&PushCtx<'_>, A) -> Result<(), Status> + Send + Sync + 'static,
    {
        self.add_blocking_push(path, handler, true);
    }

    /// Sets the handler of pushes that no route takes. It runs on the reactor and gets the encoded body.
    pub fn unknown_push<F>(&mut self, handler: F)
    where
        F: Fn(&PushCtx<'_>, &[u8]) -> Result<(), Status> + Send + Sync + 'static,
    {
        let handler = PushHandler::OnLoop(Box::new(bytes_push(handler)));
        let route = self.route(handler);
        if self.table.unknown_push.replace(route).is_some() {
            self.faults
                .push("there are two handlers of unknown pushes".to_owned());
        }
    }

    fn add_blocking_push<A, F>(&mut self, path: &str, handler: F, in_order: bool)
    where
        A: DecodeBody + 'static,
        F: Fn(&PushCtx<'_>, A) -> Result<(), Status> + Send + Sync + 'static,
    {
        let run: Arc<PushFn> = Arc::new(typed_push(handler));
        self.add_push::<A>(path, PushHandler::Blocking { run, in_order });
    }

    fn add_push<A>(&mut self, path: &str, handler: PushHandler) {
        let path = self.path(path);
        let route = self.route(handler);
        if !self.table.pushes.insert(&path, route) {
            let fault = format!("there are two handlers of pushes to {path}");
            return self.faults.push(fault);
        }
        self.infos.push(RouteInfo {
            kind: Kind::Push,
            path,
            argument: type_name::<A>(),
            reply: "",
        });
    }
}

impl Router {
    /// Returns a router without routes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds routes below a common path.
    pub fn group(&mut self, path: &str, add: impl FnOnce(&mut Self)) {
        let (outer, plugins) = (self.prefix.clone(), self.plugins.clone());
        if !path.is_empty() {
            self.prefix = join(&outer, path.trim_end_matches('/'));
        }
        add(self);
        (self.prefix, self.plugins) = (outer, plugins);
    }

    /// Adds a plugin for the routes that are added to this group from now on. Outside a group it is for all further routes of
    /// the router.
    pub fn plugin(&mut self, plugin: impl Plugin) {
        Arc::make_mut(&mut self.plugins).push(Arc::new(plugin));
    }

    /// Adds routes with a plugin of their own.
    ///
    /// ```
    /// # use epicycle::rpc::{Hooks, Plugin, Router};
    /// # struct Audit;
    /// # impl Plugin for Audit {
    /// #     fn name(&self) -> &str { "audit" }
    /// #     fn hooks(&self) -> Hooks { Hooks::empty() }
    /// # }
    /// let mut routes = Router::new();
    /// routes.with(Audit, |routes| routes.call("/pay", |_ctx, cents: u64| Ok(cents)));
    /// ```
    pub fn with(&mut self, plugin: impl Plugin, add: impl FnOnce(&mut Self)) {
        self.group("", |routes| {
            routes.plugin(plugin);
            add(routes);
        });
    }

    /// Returns the routes, in the order in which they were added.
    pub fn routes(&self) -> impl Iterator<Item = &RouteInfo> {
        self.infos.iter()
    }

    fn path(&mut self, path: &str) -> Arc<str> {
        let path = join(&self.prefix, path);
        if path.starts_with("/_/") {
            self.faults
                .push(format!("{path}: paths below /_/ are reserved"));
        }
        if path.contains(['?', '#']) {
            let fault = "no URI has this path: what follows ? is its query, and what follows # its fragment";
            self.faults.push(format!("{path}: {fault}"));
        }
        path.into()
    }

    fn route<H>(&self, handler: H) -> Route<H> {
        Route {
            handler,
            plugins: self.plugins.clone(),
            meter: self.infos.len(),
        }
    }

    /// Returns the handlers and the list of the routes. The plugins of each route stand between those of the peer.
    pub(super) fn finish(
        mut self,
        left: &Plugins,
        right: &Plugins,
    ) -> Result<(Table, Vec<RouteInfo>), Error> {
        let (table, unknown) = (&mut self.table, self.infos.len());
        if let Some(route) = &mut table.unknown_call {
            route.meter = unknown;
        }
        if let Some(route) = &mut table.unknown_push {
            route.meter = unknown;
        }
        let calls = (table.calls.values_mut()).chain(&mut table.unknown_call);
        let pushes = (table.pushes.values_mut()).chain(&mut table.unknown_push);
        let rows = calls
            .map(|route| &mut route.plugins)
            .chain(pushes.map(|route| &mut route.plugins));
        for plugins in rows {
            if let Some(name) = plugins.misplaced() {
                let fault = "has a hook that only a plugin of the peer can have";
                self.faults
                    .push(format!("the plugin {name:?} of a route {fault}"));
            }
            *plugins = Arc::new(plugins.between(left, right));
            if let Some(name) = plugins.duplicate() {
                let fault = format!("a route has two plugins with the name {name:?}");
                self.faults.push(fault);
            }
        }
        if let Some(fault) = self.faults.into_iter().next() {
            return Err(Error::Option {
                name: "routes",
                problem: fault,
            });
        }
        Ok((self.table, self.infos))
    }
}

/// Returns a path below a prefix, with one slash between them and one at the beginning.
fn join(prefix: &str, path: &str) -> String {
    format!("{prefix}/{}", path.trim_start_matches('/'))
}

fn typed_call<A, R, F>(
    handler: F,
) -> impl for<'a> Fn(&mut CallCtx<'a>, &'a Incoming<'a>, &mut Vec<u8>) -> Result<(), Status> + Send + Sync
where
    A: DecodeBody + 'static,
    R: EncodeBody + 'static,
    F: Fn(&mut CallCtx<'_>, A) -> Result<R, Status> + Send + Sync,
{
    move |ctx, _, out| {
        let result = handler(ctx, ctx.argument()?)?;
        ctx.encode(&result, out)
    }
}

fn bytes_call<F>(
    handler: F,
) -> impl for<'a> Fn(&mut CallCtx<'a>, &'a Incoming<'a>, &mut Vec<u8>) -> Result<(), Status> + Send + Sync
where
    F: Fn(&mut CallCtx<'_>, &[u8], &mut Vec<u8>) -> Result<(), Status> + Send + Sync,
{
    move |ctx, call, out| {
        handler(ctx, call.body(), out)?;
        reply_codec(call, &mut ctx.reply);
        Ok(())
    }
}

fn typed_push<A, F>(
    handler: F,
) -> impl for<'a> Fn(&PushCtx<'a>, &'a Incoming<'a>) -> Result<(), Status> + Send + Sync
where
    A: DecodeBody + 'static,
    F: Fn(&PushCtx<'_>, A) -> Result<(), Status> + Send + Sync,
{
    move |ctx, _| handler(ctx, ctx.argument()?)
}

fn bytes_push<F>(
    handler: F,
) -> impl for<'a> Fn(&PushCtx<'a>, &'a Incoming<'a>) -> Result<(), Status> + Send + Sync
where
    F: Fn(&PushCtx<'_>, &[u8]) -> Result<(), Status> + Send + Sync,
{
    move |ctx, push| handler(ctx, push.body())
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let routes = self.infos.iter().map(|route| (route.kind, &route.path));
        f.debug_list().entries(routes).finish()
    }
}
