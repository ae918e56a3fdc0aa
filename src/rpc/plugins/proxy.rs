//! A proxy: calls and pushes that no route takes go on to other sessions, as with Teleport's `proxy` plugin.
//!
//! A function chooses the session for each message. Metadata, body, body codec and filters go on as they are, in both directions.
//! `X-Real-IP` is added if it is absent. The other side gets the caller's deadline, and learns that the caller has cancelled or has
//! gone. Nothing waits on a reactor. Streams are not forwarded: what opens one goes on as a call.
//!
//! A call that is forwarded and not answered counts in the limits of both sides:
//! [`max_deferred`](crate::rpc::PeerBuilder::max_deferred) of the caller's session, and
//! [`max_calls`](crate::rpc::PeerBuilder::max_calls) of the chosen one.
//!
//! ```
//! use epicycle::rpc::plugins::proxy::Proxy;
//! use epicycle::rpc::{Peer, Router};
//!
//! let mut routes = Router::new();
//! routes.call("/math/add", |_ctx, numbers: Vec<i64>| Ok(numbers.iter().sum::<i64>()));
//! let backend = Peer::builder().listen("tcp://127.0.0.1:0").routes(routes).start()?;
//!
//! let to_backend = Peer::builder().start()?;
//! let chosen = to_backend.dial(&backend.local_addrs()[0])?;
//! let mut routes = Router::new();
//! Proxy::new(move |_label| Ok(chosen.clone())).add_to(&mut routes);
//! let proxy = Peer::builder().listen("tcp://127.0.0.1:0").routes(routes).start()?;
//!
//! let client = Peer::builder().start()?;
//! let session = client.dial(&proxy.local_addrs()[0])?;
//! assert_eq!(session.call("/math/add", &[1, 2]).wait(), Ok(3));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::borrow::Cow;
use std::env;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::rpc::call::CallOutcome;
use crate::rpc::context::{AsyncCtx, Incoming};
use crate::rpc::outgoing::{Outgoing, WhenFull};
use crate::rpc::router::{CallHandler, Router};
use crate::rpc::session::Session;
use crate::rpc::stream::STREAM;
use crate::rpc::wire::{Dialect, Message, Meta, Status, code};

/// Forwards the messages that no route takes.
pub struct Proxy {
    choose: Box<Choose>,
    /// The name of the program and the number of the next message, for `seq`s. None in the dialect of v4.0.0.
    numbers: Option<(String, AtomicU64)>,
}

type Choose = dyn Fn(&Label<'_>) -> Result<Session, Status> + Send + Sync;

/// The parts of a message by which its way is chosen.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Label<'a> {
    /// The identifier of the session on which it arrived.
    pub session_id: Arc<str>,
    /// The address of the client, as [`Incoming::real_ip`] tells it.
    pub real_ip: Option<IpAddr>,
    /// The URI.
    pub uri: Cow<'a, str>,
}

impl Proxy {
    /// `choose` returns the session that gets a message, or a status, which is the answer to a call; a push is then dropped. It
    /// runs on the reactor and must not block.
    pub fn new(
        choose: impl Fn(&Label<'_>) -> Result<Session, Status> + Send + Sync + 'static,
    ) -> Self {
        let path = env::current_exe().ok();
        let name = path.as_deref().and_then(|path| path.file_name());
        let name = name.map_or_else(|| "proxy".into(), |name| name.to_string_lossy());
        Self {
            choose: Box::new(choose),
            numbers: Some((name.into_owned(), AtomicU64::new(0))),
        }
    }

    /// Sets the name of the program in `seq`s, which are `SESSION@SEQ>PROGRAM[N]`. Default: the name of the executable.
    pub fn program(mut self, name: impl Into<String>) -> Self {
        self.numbers = Some((name.into(), AtomicU64::new(0)));
        self
    }

    /// Forwards with the `seq`s of Teleport v4.0.0, `SESSION@SEQ`. A call with the `seq` of one that its session waits for
    /// then fails with 502.
    pub fn short_seqs(mut self) -> Self {
        self.numbers = None;
        self
    }

    /// Makes it the handler of calls and pushes that no route takes.
    pub fn add_to(self, routes: &mut Router) {
        let calls = Arc::new(self);
        let pushes = calls.clone();
        routes.set_unknown_call(CallHandler::Async(Box::new(move |ctx| {
            let forwarded = calls.forward(&ctx);
            Box::pin(async move { take_reply(&ctx, forwarded?.await) })
        })));
        routes.unknown_push(move |push, _| {
            let (session, message) = pushes.redirect(push)?;
            session.send(Outgoing {
                message,
                has_own_seq: true,
                call: None,
                when_full: WhenFull::Send,
                on_sent: None,
            })
        });
    }

    fn forward(&self, call: &Incoming<'_>) -> Result<CallOutcome, Status> {
        let (session, message) = self.redirect(call)?;
        let timeout = match call.deadline() {
            Some(_) => None,
            None => session.shared().settings.call_timeout,
        };
        Ok(CallOutcome::send(
            session,
            message,
            timeout,
            call.deadline(),
        ))
    }

    /// Returns the session that gets a message, and the message for it.
    fn redirect(&self, message: &Incoming<'_>) -> Result<(Session, Message<'static>), Status> {
        if message.path().starts_with("/_/") {
            // These are for this peer alone.
            return Err(Status::of(code::NOT_FOUND, message.dialect));
        }
        let label = Label {
            session_id: message.session().id(),
            real_ip: message.real_ip(),
            uri: message.uri(),
        };
        let session = (self.choose)(&label)?;
        let mut forwarded = message.message().clone().into_owned();
        forwarded.size = 0;
        // The items of a stream would not find the way back. So the other side answers a call.
        forwarded.meta.remove(STREAM);
        forwarded.seq = self.seq(&label.session_id, message.seq()).into();
        if forwarded.meta.get(Meta::REAL_IP).is_none()
            && let Some(addr) = message.remote_addr().as_socket_addr()
        {
            // Teleport sends the port as well.
            forwarded.meta.add(Meta::REAL_IP, addr.to_string());
        }
        Ok((session, forwarded))
    }

    fn seq(&self, session: &str, seq: &[u8]) -> Vec<u8> {
        let mut own = [session.as_bytes(), b"@", seq].concat();
        if let Some((program, next)) = &self.numbers {
            let number = next.fetch_add(1, Ordering::Relaxed);
            own.extend_from_slice(format!(">{program}[{number}]").as_bytes());
        }
        own
    }
}

/// Makes the reply to a call of that to the forwarded one.
fn take_reply(
    ctx: &AsyncCtx,
    outcome: Result<Message<'static>, Status>,
) -> Result<Vec<u8>, Status> {
    let reply = outcome.map_err(|status| as_gateway(status, ctx.dialect))?;
    let mut head = ctx.reply.borrow_mut();
    head.codec = Some(reply.codec);
    // It has the filters of the call in any case.
    let added = reply
        .filters
        .ids()
        .strip_prefix(ctx.message().filters.ids());
    let registered = &ctx.session().shared().formats.filters;
    (head.filters)
        .append(added.unwrap_or_default(), registered)
        .map_err(|error| {
            Status::of(code::BAD_GATEWAY, ctx.dialect).with_reason(error.to_string())
        })?;
    let status = reply.status();
    head.meta = reply.meta;
    if head.meta.get(Meta::REFUSED).is_some() {
        // It is not the caller's session that closes.
        head.meta.set(Meta::REFUSED, "busy");
    }
    match status {
        Some(status) => Err(as_gateway(status, ctx.dialect)),
        None => Ok(reply.body.into_owned()),
    }
}

/// Returns the status for the caller. One that arose between this side and the other one is 502.
fn as_gateway(status: Status, dialect: Dialect) -> Status {
    match status.code {
        100..=199 => {
            let reason = match status.reason.is_empty() {
                true => status.message,
                false => status.reason,
            };
            Status::of(code::BAD_GATEWAY, dialect).with_reason(reason)
        }
        _ => status,
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy")
            .field("numbers", &self.numbers)
            .finish_non_exhaustive()
    }
}
