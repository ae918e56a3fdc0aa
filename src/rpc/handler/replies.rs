//! Replies on their way out.

use std::borrow::Cow;
use std::time::Duration;

use super::PeerHandler;
use crate::engine::handler::{Action, Conn, WriteError};
use crate::rpc::context::{Incoming, ReplyHead};
use crate::rpc::deferred::DeferredCall;
use crate::rpc::logging::{LogOptions, Of};
use crate::rpc::plugin::{Hooks, Plugins};
use crate::rpc::stats::Outcome;
use crate::rpc::wire::{Kind, Message, Status, UriError, code};

/// A call that is served, for those who watch: the statistics, plugins, the log.
#[derive(Clone, Copy)]
pub(super) struct Served<'a> {
    /// The place of its route in the statistics.
    pub(super) meter: usize,
    /// The moment of its arrival in nanoseconds, if times are counted.
    pub(super) began: Option<u64>,
    /// The plugins that see its reply, and the call. None if neither a plugin nor the log needs it.
    pub(super) seen: Option<(&'a Plugins, &'a Incoming<'a>)>,
}

impl<'a> Served<'a> {
    pub(super) fn deferred(call: &'a DeferredCall) -> Self {
        Self {
            meter: call.meter,
            began: call.began,
            seen: call.seen.as_ref().map(|seen| (&*seen.0, &seen.1)),
        }
    }
}

impl PeerHandler {
    #[inline]
    pub(super) fn served<'a>(
        &self,
        conn: &Conn<'_, Self>,
        plugins: &'a Plugins,
        call: &'a Incoming<'a>,
        meter: usize,
        began: Option<u64>,
    ) -> Served<'a> {
        let hooks = Hooks::PRE_WRITE_REPLY | Hooks::POST_WRITE_REPLY;
        let is_seen = plugins.have(hooks) || self.is_logged(conn);
        Served {
            meter,
            began,
            seen: is_seen.then_some((plugins, call)),
        }
    }

    /// Returns the present moment in nanoseconds, if times are counted.
    #[inline]
    pub(super) fn begin_time(&self, conn: &Conn<'_, Self>) -> Option<u64> {
        self.log().counts_time.then(|| conn.elapsed_nanos())
    }

    /// Returns true if messages are logged. The log's own filter is asked once a second, since it costs as much as a hash.
    #[inline]
    fn is_logged(&self, conn: &Conn<'_, Self>) -> bool {
        if !self.log().may_be_on() {
            return false;
        }
        let (second, was_on) = self.logged.get();
        if second == conn.unix_time() {
            return was_on;
        }
        let is_on = self.log().is_on();
        self.logged.set((conn.unix_time(), is_on));
        is_on
    }

    #[inline]
    pub(super) fn log(&self) -> &LogOptions {
        &self.parts.peer.shared.settings.log
    }

    /// Answers a call that has no handler, or gets none now. A plugin's answer goes out in place of the status.
    #[cold]
    pub(super) fn refuse(
        &self,
        conn: &mut Conn<'_, Self>,
        call: &Incoming<'_>,
        served: Served<'_>,
        status: &Status,
    ) -> Action {
        let mut reply = Message::reply(&call.message, call.dialect.echoes_uri());
        match call.answered() {
            Some((head, body)) => {
                let (head, body) = (head.clone(), Ok(Cow::Borrowed(body)));
                self.finish_reply(conn, &mut reply, served, head, body)
            }
            None => self.fail_reply(conn, &mut reply, served, status),
        }
    }

    /// Answers a call whose URI has no route.
    #[cold]
    pub(super) fn refuse_uri(
        &self,
        conn: &mut Conn<'_, Self>,
        call: &Incoming<'_>,
        served: Served<'_>,
        error: UriError,
    ) -> Action {
        let echoes = call.dialect.echoes_uri() && error == UriError::NoPath;
        let mut reply = Message::reply(&call.message, echoes);
        let reason = error.text(call.dialect);
        let status = Status::of(code::BAD_MESSAGE, call.dialect).with_reason(reason);
        self.fail_reply(conn, &mut reply, served, &status)
    }

    /// Sends a reply, with what its handler has set.
    #[inline(always)]
    pub(super) fn finish_reply<'a>(
        &self,
        conn: &mut Conn<'_, Self>,
        reply: &mut Message<'a>,
        served: Served<'_>,
        head: ReplyHead,
        mut result: Result<Cow<'a, [u8]>, Status>,
    ) -> Action {
        reply.meta = head.meta;
        if !head.filters.is_empty()
            && let Err(error) =
                (reply.filters).append_from(&head.filters, conn.codec().registered())
        {
            let status = Status::of(code::INTERNAL_SERVER_ERROR, conn.codec().dialect());
            result = Err(status.with_reason(error.to_string()));
        }
        match result {
            Ok(body) => {
                reply.codec = head.codec.unwrap_or_default();
                reply.body = body;
                self.put_reply(conn, reply, served, Outcome::Ok)
            }
            Err(status) => self.fail_reply(conn, reply, served, &status),
        }
    }

    /// Sends a reply to a call that failed.
    #[cold]
    pub(super) fn fail_reply(
        &self,
        conn: &mut Conn<'_, Self>,
        reply: &mut Message<'_>,
        served: Served<'_>,
        status: &Status,
    ) -> Action {
        reply.set_status(status, conn.codec().max_field());
        self.put_reply(conn, reply, served, Outcome::of(status.code))
    }

    /// Sends a reply. One that cannot be encoded is replaced by a failure, so that the caller learns of it.
    #[inline(always)]
    fn put_reply(
        &self,
        conn: &mut Conn<'_, Self>,
        reply: &mut Message<'_>,
        served: Served<'_>,
        outcome: Outcome,
    ) -> Action {
        if let Some((plugins, call)) = served.seen {
            return self.put_seen(conn, reply, served, (plugins, call), outcome);
        }
        match conn.send(&*reply) {
            Ok(()) => {
                self.count_reply(conn, served, outcome);
                Action::Continue
            }
            Err(error) => self.put_instead(conn, &reply.seq, served, error),
        }
    }

    /// Sends a reply that plugins or the log see.
    #[cold]
    fn put_seen(
        &self,
        conn: &mut Conn<'_, Self>,
        reply: &mut Message<'_>,
        served: Served<'_>,
        (plugins, call): (&Plugins, &Incoming<'_>),
        mut outcome: Outcome,
    ) -> Action {
        let changed = plugins.run(Hooks::PRE_WRITE_REPLY, |plugin| {
            plugin.pre_write_reply(call, reply)
        });
        if let Err(status) = changed {
            reply.set_status(&status, conn.codec().max_field());
            outcome = Outcome::of(status.code);
        }
        if let Err(error) = conn.send(&*reply) {
            return self.put_instead(conn, &reply.seq, served, error);
        }
        self.count_reply(conn, served, outcome);
        plugins.tell(Hooks::POST_WRITE_REPLY, |plugin| {
            plugin.post_write_reply(call, reply);
        });
        if self.log().is_on() {
            reply.size = conn.codec().last_sent();
            let cost = time_since(conn, served.began);
            let addr = call.logged_addr();
            self.log().call_in(Of { addr, cost }, &call.message, reply);
        }
        Action::Continue
    }

    #[inline(always)]
    fn count_reply(&self, conn: &Conn<'_, Self>, served: Served<'_>, outcome: Outcome) {
        let (bytes, time) = (conn.codec().last_sent(), time_since(conn, served.began));
        self.meters.replied(served.meter, outcome, bytes, time);
    }

    #[cold]
    fn put_instead(
        &self,
        conn: &mut Conn<'_, Self>,
        seq: &[u8],
        served: Served<'_>,
        error: WriteError,
    ) -> Action {
        self.meters
            .ended(served.meter, Outcome::InternalServerError);
        let WriteError::Frame(error) = error else {
            return error.into();
        };
        let status = Status::of(code::INTERNAL_SERVER_ERROR, conn.codec().dialect())
            .with_reason(format!("the reply cannot be sent: {error}"));
        let mut failure = Message::new(Kind::Reply);
        failure.seq = seq.into();
        failure.set_status(&status, conn.codec().max_field());
        conn.send(&failure).into()
    }
}

/// Returns the time since a moment of [`PeerHandler::begin_time`].
pub(super) fn time_since(conn: &Conn<'_, PeerHandler>, began: Option<u64>) -> Option<Duration> {
    began.map(|began| Duration::from_nanos(conn.elapsed_nanos().saturating_sub(began)))
}

/// Does what a callback would return.
pub(super) fn obey(conn: &mut Conn<'_, PeerHandler>, action: Action) {
    match action {
        Action::Continue => {}
        Action::Refused(error) => conn.close_refused(*error),
        _ => conn.close(),
    }
}
