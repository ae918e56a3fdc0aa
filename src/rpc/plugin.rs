//! Plugins: code that runs at given points of a peer's life and of each message.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use bitflags::bitflags;

use super::context::{AfterBody, Incoming};
use super::peer::{AfterStart, Peer};
use super::reply::local;
use super::route_info::RouteInfo;
use super::session::{BeforeWrite, Session};
use super::wire::{Kind, Message, Status, code};
use crate::addr::Addr;
use crate::error::Error;
use crate::panic;

bitflags! {
    /// The hooks that a [`Plugin`] has.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Hooks: u32 {
        /// [`Plugin::pre_new_peer`].
        const PRE_NEW_PEER = 1;
        /// [`Plugin::post_new_peer`].
        const POST_NEW_PEER = 1 << 1;
        /// [`Plugin::post_reg`].
        const POST_REG = 1 << 2;
        /// [`Plugin::post_listen`].
        const POST_LISTEN = 1 << 3;
        /// [`Plugin::post_dial`].
        const POST_DIAL = 1 << 4;
        /// [`Plugin::post_accept`].
        const POST_ACCEPT = 1 << 5;
        /// [`Plugin::post_disconnect`].
        const POST_DISCONNECT = 1 << 6;
        /// [`Plugin::pre_write_call`].
        const PRE_WRITE_CALL = 1 << 7;
        /// [`Plugin::post_write_call`].
        const POST_WRITE_CALL = 1 << 8;
        /// [`Plugin::pre_write_reply`].
        const PRE_WRITE_REPLY = 1 << 9;
        /// [`Plugin::post_write_reply`].
        const POST_WRITE_REPLY = 1 << 10;
        /// [`Plugin::pre_write_push`].
        const PRE_WRITE_PUSH = 1 << 11;
        /// [`Plugin::post_write_push`].
        const POST_WRITE_PUSH = 1 << 12;
        /// [`Plugin::pre_read_header`].
        const PRE_READ_HEADER = 1 << 13;
        /// [`Plugin::post_read_call_header`].
        const POST_READ_CALL_HEADER = 1 << 14;
        /// [`Plugin::pre_read_call_body`].
        const PRE_READ_CALL_BODY = 1 << 15;
        /// [`Plugin::post_read_call_body`].
        const POST_READ_CALL_BODY = 1 << 16;
        /// [`Plugin::post_read_push_header`].
        const POST_READ_PUSH_HEADER = 1 << 17;
        /// [`Plugin::pre_read_push_body`].
        const PRE_READ_PUSH_BODY = 1 << 18;
        /// [`Plugin::post_read_push_body`].
        const POST_READ_PUSH_BODY = 1 << 19;
        /// [`Plugin::post_read_reply_header`].
        const POST_READ_REPLY_HEADER = 1 << 20;
        /// [`Plugin::pre_read_reply_body`].
        const PRE_READ_REPLY_BODY = 1 << 21;
        /// [`Plugin::post_read_reply_body`].
        const POST_READ_REPLY_BODY = 1 << 22;
    }
}

impl Hooks {
    /// The hooks that can be registered with a group or a handler. The others know only the peer's plugins.
    const OF_ROUTES: Hooks = Hooks::POST_REG
        .union(Hooks::PRE_WRITE_REPLY)
        .union(Hooks::POST_WRITE_REPLY)
        .union(Hooks::PRE_READ_CALL_BODY)
        .union(Hooks::POST_READ_CALL_BODY)
        .union(Hooks::PRE_READ_PUSH_BODY)
        .union(Hooks::POST_READ_PUSH_BODY);
}

/// The next step for a session that is not open yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The next plugin, or the session opens.
    Go,
    /// The next message of the other side goes to [`Plugin::early`] of this plugin. Until then the session is not listed and
    /// serves nothing.
    Await,
}

/// Code that runs at given points of a peer's life and of each message: its hooks.
///
/// A plugin tells which [`hooks`](Self::hooks) it has. Only these are called, and the others cost nothing.
///
/// Hooks run in this order: the peer's left plugins, those of groups from the outermost to the innermost, the handler's, the
/// peer's right plugins. The first error ends the row. Hooks that read or write messages run on the session's reactor and must
/// not block. Exceptions are `pre_write_call` and `pre_write_push`, which run on the sender's thread, and `post_read_call_body`
/// and `post_read_push_body`, which run where the body is decoded: on the worker of a blocking handler, and on the thread that
/// takes the item of a stream.
///
/// The items of streams pass the hooks of pushes. The other messages of a stream, which grant credit and end it, pass
/// `pre_read_header` alone.
///
/// A panic in a hook counts as an error with [`INTERNAL_SERVER_ERROR`](super::code::INTERNAL_SERVER_ERROR), and as an
/// [`Error`] of the start in a hook of the start.
///
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering};
/// use epicycle::rpc::{Hooks, Incoming, Peer, Plugin, Status};
///
/// /// Counts the calls.
/// #[derive(Default)]
/// struct Count(AtomicU64);
///
/// impl Plugin for Count {
///     fn name(&self) -> &str {
///         "count"
///     }
///
///     fn hooks(&self) -> Hooks {
///         Hooks::POST_READ_CALL_HEADER
///     }
///
///     fn post_read_call_header(&self, _call: &mut Incoming<'_>) -> Result<(), Status> {
///         self.0.fetch_add(1, Ordering::Relaxed);
///         Ok(())
///     }
/// }
///
/// let peer = Peer::builder().plugin(Count::default()).start()?;
/// # Ok::<(), epicycle::Error>(())
/// ```
#[allow(unused_variables)]
pub trait Plugin: Send + Sync + 'static {
    /// Returns the plugin's name. A peer has no two plugins of one name, nor does a route.
    fn name(&self) -> &str;

    /// Returns the hooks that the plugin has.
    fn hooks(&self) -> Hooks;

    /// Called before the peer starts.
    ///
    /// # Errors
    ///
    /// An error ends the start, as in the three hooks below.
    fn pre_new_peer(&self) -> Result<(), Error> {
        Ok(())
    }

    /// Called when the peer has started.
    fn post_new_peer(&self, peer: &Peer) -> Result<(), Error> {
        Ok(())
    }

    /// Called for each route that the plugin applies to, before the peer starts.
    fn post_reg(&self, route: &RouteInfo) -> Result<(), Error> {
        Ok(())
    }

    /// Called for each address that the peer listens on.
    fn post_listen(&self, addr: &Addr) -> Result<(), Error> {
        Ok(())
    }

    /// Called when an outbound connection has opened, before the session opens.
    ///
    /// # Errors
    ///
    /// An error closes the connection and is the result of the dial.
    fn post_dial(&self, session: &Session) -> Result<Next, Status> {
        Ok(Next::Go)
    }

    /// Called when a connection was accepted, before the session opens.
    ///
    /// # Errors
    ///
    /// An error closes the connection, once what was sent before has left.
    fn post_accept(&self, session: &Session) -> Result<Next, Status> {
        Ok(Next::Go)
    }

    /// Called with the message that the plugin [awaits](Next::Await) before the session opens.
    ///
    /// # Errors
    ///
    /// An error closes the connection, once what was sent before has left. It is the result of a dial.
    fn early(&self, session: &Session, message: &Message<'_>) -> Result<Next, Status> {
        Ok(Next::Go)
    }

    /// Called when the time has come that [`Session::set_timer`] set for this plugin. `quiet` is the time for which nothing was
    /// received on the connection and nothing left it. Returns the time until the next call, if there is to be one. A plugin
    /// of the peer only; it is not one of the [hooks](Self::hooks).
    ///
    /// # Errors
    ///
    /// An error means that the other side is gone, and ends the connection at once. A session that redials goes on.
    fn on_timer(&self, session: &Session, quiet: Duration) -> Result<Option<Duration>, Status> {
        Ok(None)
    }

    /// Called when a session has ended.
    fn post_disconnect(&self, session: &Session) {}

    /// Called before a CALL is sent, on the sender's thread. An empty `seq` becomes the session's next number; the plugin may set
    /// another one.
    ///
    /// # Errors
    ///
    /// An error is the result of the call.
    fn pre_write_call(&self, session: &Session, call: &mut Message<'static>) -> Result<(), Status> {
        Ok(())
    }

    /// Called when a CALL has been sent.
    fn post_write_call(&self, session: &Session, call: &Message<'_>) {}

    /// Called before a REPLY is sent.
    ///
    /// # Errors
    ///
    /// An error is sent in place of the reply.
    fn pre_write_reply(&self, call: &Incoming<'_>, reply: &mut Message<'_>) -> Result<(), Status> {
        Ok(())
    }

    /// Called when a REPLY has been sent.
    fn post_write_reply(&self, call: &Incoming<'_>, reply: &Message<'_>) {}

    /// Called before a PUSH is sent, on the sender's thread. A broadcast is a push of each session then.
    ///
    /// # Errors
    ///
    /// An error is returned to the sender.
    fn pre_write_push(&self, session: &Session, push: &mut Message<'static>) -> Result<(), Status> {
        Ok(())
    }

    /// Called when a PUSH has been sent.
    fn post_write_push(&self, session: &Session, push: &Message<'_>) {}

    /// Called with each message, before anything else.
    ///
    /// # Errors
    ///
    /// An error closes the session.
    fn pre_read_header(&self, session: &Session) -> Result<(), Status> {
        Ok(())
    }

    /// Called with each CALL, before its route is looked up. The plugin may change the message: its URI decides on the route.
    ///
    /// # Errors
    ///
    /// An error is the answer to the call, as in the two hooks below.
    fn post_read_call_header(&self, call: &mut Incoming<'_>) -> Result<(), Status> {
        Ok(())
    }

    /// Called before the body of a CALL is decoded. The plugin may change the body.
    fn pre_read_call_body(&self, call: &mut Incoming<'_>) -> Result<(), Status> {
        Ok(())
    }

    /// Called when the body of a CALL has been decoded. Not called for handlers on encoded bodies.
    fn post_read_call_body(&self, call: &Incoming<'_>) -> Result<(), Status> {
        Ok(())
    }

    /// Called with each PUSH, before its route is looked up.
    ///
    /// # Errors
    ///
    /// An error drops the push and is logged, as in the two hooks below.
    fn post_read_push_header(&self, push: &mut Incoming<'_>) -> Result<(), Status> {
        Ok(())
    }

    /// Called before the body of a PUSH is decoded.
    fn pre_read_push_body(&self, push: &mut Incoming<'_>) -> Result<(), Status> {
        Ok(())
    }

    /// Called when the body of a PUSH has been decoded. An error for the item of a stream ends the stream, on both sides.
    fn post_read_push_body(&self, push: &Incoming<'_>) -> Result<(), Status> {
        Ok(())
    }

    /// Called with each REPLY to a call that waits.
    ///
    /// # Errors
    ///
    /// An error is the result of the call, as in the two hooks below.
    fn post_read_reply_header(
        &self,
        session: &Session,
        reply: &mut Message<'_>,
    ) -> Result<(), Status> {
        Ok(())
    }

    /// Called before the body of a REPLY that is not a failure is decoded. The plugin may change the body.
    fn pre_read_reply_body(
        &self,
        session: &Session,
        reply: &mut Message<'_>,
    ) -> Result<(), Status> {
        Ok(())
    }

    /// Called after [`pre_read_reply_body`](Self::pre_read_reply_body) of all plugins, before the caller gets the reply.
    fn post_read_reply_body(&self, session: &Session, reply: &Message<'_>) -> Result<(), Status> {
        Ok(())
    }
}

/// Plugins in the order in which their hooks run.
#[derive(Clone, Default)]
pub(super) struct Plugins {
    all: Vec<Arc<dyn Plugin>>,
    /// The hooks that any of them has.
    hooks: Hooks,
}

impl Plugins {
    pub(super) fn push(&mut self, plugin: Arc<dyn Plugin>) {
        self.hooks |= plugin.hooks();
        self.all.push(plugin);
    }

    /// Returns plugins that run between those of `left` and those of `right`.
    pub(super) fn between(&self, left: &Plugins, right: &Plugins) -> Self {
        let mut row = left.clone();
        for plugin in self.all.iter().chain(&right.all) {
            row.push(plugin.clone());
        }
        row
    }

    /// Returns the name that two plugins have.
    pub(super) fn duplicate(&self) -> Option<&str> {
        let mut names: Vec<_> = self.all.iter().map(|plugin| plugin.name()).collect();
        names.sort_unstable();
        let twice = names.windows(2).find(|pair| pair[0] == pair[1]);
        twice.map(|pair| pair[0])
    }

    /// Returns a plugin of a route with a hook that is not called there.
    pub(super) fn misplaced(&self) -> Option<&str> {
        let is_misplaced = |plugin: &&Arc<dyn Plugin>| !Hooks::OF_ROUTES.contains(plugin.hooks());
        self.all
            .iter()
            .find(is_misplaced)
            .map(|plugin| plugin.name())
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.all.iter().map(|plugin| plugin.name())
    }

    /// Returns true if one of them has one of these hooks.
    #[inline]
    pub(super) fn have(&self, hooks: Hooks) -> bool {
        self.hooks.intersects(hooks)
    }

    /// Returns the plugins with this hook, and their places.
    pub(super) fn with(&self, hook: Hooks) -> impl Iterator<Item = (usize, &dyn Plugin)> {
        let plugins = self.all.iter().enumerate();
        plugins
            .filter(move |(_, plugin)| plugin.hooks().contains(hook))
            .map(|(place, plugin)| (place, &**plugin))
    }

    pub(super) fn get(&self, place: usize) -> Option<&dyn Plugin> {
        self.all.get(place).map(|plugin| &**plugin)
    }

    /// Calls a hook of all plugins that have it, until one fails.
    #[inline]
    pub(super) fn run(
        &self,
        hook: Hooks,
        call: impl FnMut(&dyn Plugin) -> Result<(), Status>,
    ) -> Result<(), Status> {
        if !self.have(hook) {
            return Ok(());
        }
        self.run_all(hook, call)
    }

    #[cold]
    fn run_all(
        &self,
        hook: Hooks,
        mut call: impl FnMut(&dyn Plugin) -> Result<(), Status>,
    ) -> Result<(), Status> {
        self.with(hook)
            .try_for_each(|(_, plugin)| guarded(plugin, || call(plugin)))
    }

    /// Calls a hook that cannot fail.
    #[inline]
    pub(super) fn tell(&self, hook: Hooks, mut call: impl FnMut(&dyn Plugin)) {
        // A panic is logged and has no other effect.
        let _ = self.run(hook, |plugin| {
            call(plugin);
            Ok(())
        });
    }
}

/// Calls a hook. Its panic is an error.
pub(super) fn guarded<T>(
    plugin: &dyn Plugin,
    hook: impl FnOnce() -> Result<T, Status>,
) -> Result<T, Status> {
    catch_unwind(AssertUnwindSafe(hook)).unwrap_or_else(|payload| {
        let reason = panic::message(&*payload).to_owned();
        panic::report(
            "epicycle::rpc",
            &format!("the plugin {:?}", plugin.name()),
            payload,
        );
        Err(local(code::INTERNAL_SERVER_ERROR, reason))
    })
}

/// Calls a hook of the start. Its panic is an error.
fn guarded_at_start(
    plugin: &dyn Plugin,
    hook: impl FnOnce(&dyn Plugin) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut result = Ok(());
    let called = guarded(plugin, || {
        result = hook(plugin);
        Ok(())
    });
    called.map_err(|status| Error::Option {
        name: "plugin",
        problem: format!("the plugin {:?} panicked: {}", plugin.name(), status.reason),
    })?;
    result
}

impl Plugins {
    /// Calls a hook of the start of all plugins that have it, until one fails.
    pub(super) fn run_at_start(
        &self,
        hook: Hooks,
        call: impl Fn(&dyn Plugin) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.with(hook)
            .try_for_each(|(_, plugin)| guarded_at_start(plugin, &call))
    }
}

impl AfterStart for Plugins {
    fn after_start(&self, peer: &Peer) -> Result<(), Error> {
        for addr in peer.local_addrs() {
            self.run_at_start(Hooks::POST_LISTEN, |plugin| plugin.post_listen(addr))?;
        }
        self.run_at_start(Hooks::POST_NEW_PEER, |plugin| plugin.post_new_peer(peer))
    }
}

impl BeforeWrite for Plugins {
    fn before_write(
        &self,
        session: &Session,
        message: &mut Message<'static>,
    ) -> Result<(), Status> {
        match message.kind {
            Kind::Push => self.run(Hooks::PRE_WRITE_PUSH, |plugin| {
                plugin.pre_write_push(session, message)
            }),
            _ => self.run(Hooks::PRE_WRITE_CALL, |plugin| {
                plugin.pre_write_call(session, message)
            }),
        }
    }
}

impl AfterBody for Plugins {
    fn after_body(&self, message: &Incoming<'_>) -> Result<(), Status> {
        match message.message.kind {
            Kind::Push => self.run(Hooks::POST_READ_PUSH_BODY, |plugin| {
                plugin.post_read_push_body(message)
            }),
            _ => self.run(Hooks::POST_READ_CALL_BODY, |plugin| {
                plugin.post_read_call_body(message)
            }),
        }
    }
}

impl fmt::Debug for Plugins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}
