//! Replies on their way out.

use std::borrow::Cow;

use super::PeerHandler;
use crate::engine::handler::{Action, Conn, WriteError};
use crate::rpc::context::{Incoming, ReplyHead};
use crate::rpc::plugin::{Hooks, Plugins};
use crate::rpc::wire::{Kind, Message, Status, UriError, code};

/// The plugins that see a reply, and the call that it answers. None if no plugin wants to see it.
pub(super) type SeenBy<'a> = Option<(&'a Plugins, &'a Incoming<'a>)>;

/// Returns the plugins if one of them wants to see replies.
#[inline]
pub(super) fn seen_by<'a>(plugins: &'a Plugins, call: &'a Incoming<'a>) -> SeenBy<'a> {
    let hooks = Hooks::PRE_WRITE_REPLY | Hooks::POST_WRITE_REPLY;
    plugins.have(hooks).then_some((plugins, call))
}

/// Answers a call that has no handler, or gets none now.
#[cold]
pub(super) fn refuse(
    conn: &mut Conn<'_, PeerHandler>,
    plugins: &Plugins,
    call: &Incoming<'_>,
    status: &Status,
) -> Action {
    let mut reply = Message::reply(&call.message, call.dialect.echoes_uri());
    fail_reply(conn, &mut reply, seen_by(plugins, call), status)
}

/// Answers a call whose URI has no route.
#[cold]
pub(super) fn refuse_uri(
    conn: &mut Conn<'_, PeerHandler>,
    plugins: &Plugins,
    call: &Incoming<'_>,
    error: UriError,
) -> Action {
    let echoes = call.dialect.echoes_uri() && error == UriError::NoPath;
    let mut reply = Message::reply(&call.message, echoes);
    let reason = error.text(call.dialect);
    let status = Status::of(code::BAD_MESSAGE, call.dialect).with_reason(reason);
    fail_reply(conn, &mut reply, seen_by(plugins, call), &status)
}

/// Sends a reply, with what its handler has set.
pub(super) fn finish_reply<'a>(
    conn: &mut Conn<'_, PeerHandler>,
    reply: &mut Message<'a>,
    seen_by: SeenBy<'_>,
    head: ReplyHead,
    mut result: Result<Cow<'a, [u8]>, Status>,
) -> Action {
    reply.meta = head.meta;
    if !head.filters.is_empty()
        && let Err(error) = (reply.filters).append_from(&head.filters, conn.codec().registered())
    {
        let status = Status::of(code::INTERNAL_SERVER_ERROR, conn.codec().dialect());
        result = Err(status.with_reason(error.to_string()));
    }
    match result {
        Ok(body) => {
            reply.codec = head.codec.unwrap_or_default();
            reply.body = body;
            put_reply(conn, reply, seen_by)
        }
        Err(status) => fail_reply(conn, reply, seen_by, &status),
    }
}

/// Sends a reply to a call that failed.
#[cold]
pub(super) fn fail_reply(
    conn: &mut Conn<'_, PeerHandler>,
    reply: &mut Message<'_>,
    seen_by: SeenBy<'_>,
    status: &Status,
) -> Action {
    reply.set_status(status, conn.codec().max_field());
    put_reply(conn, reply, seen_by)
}

/// Sends a reply. One that cannot be encoded is replaced by a failure, so that the caller learns of it.
#[inline]
fn put_reply(
    conn: &mut Conn<'_, PeerHandler>,
    reply: &mut Message<'_>,
    seen_by: SeenBy<'_>,
) -> Action {
    if let Some((plugins, call)) = seen_by {
        return put_seen(conn, reply, plugins, call);
    }
    match conn.send(&*reply) {
        Ok(()) => Action::Continue,
        Err(error) => put_instead(conn, &reply.seq, error),
    }
}

/// Sends a reply that plugins see.
#[cold]
fn put_seen(
    conn: &mut Conn<'_, PeerHandler>,
    reply: &mut Message<'_>,
    plugins: &Plugins,
    call: &Incoming<'_>,
) -> Action {
    let changed = plugins.run(Hooks::PRE_WRITE_REPLY, |plugin| {
        plugin.pre_write_reply(call, reply)
    });
    if let Err(status) = changed {
        reply.set_status(&status, conn.codec().max_field());
    }
    if let Err(error) = conn.send(&*reply) {
        return put_instead(conn, &reply.seq, error);
    }
    plugins.tell(Hooks::POST_WRITE_REPLY, |plugin| {
        plugin.post_write_reply(call, reply);
    });
    Action::Continue
}

#[cold]
fn put_instead(conn: &mut Conn<'_, PeerHandler>, seq: &[u8], error: WriteError) -> Action {
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

/// Does what a callback would return.
pub(super) fn obey(conn: &mut Conn<'_, PeerHandler>, action: Action) {
    match action {
        Action::Continue => {}
        Action::Refused(error) => conn.close_refused(*error),
        _ => conn.close(),
    }
}
