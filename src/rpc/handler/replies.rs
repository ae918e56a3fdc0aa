//! Replies on their way out.

use std::borrow::Cow;

use super::PeerHandler;
use crate::engine::handler::{Action, Conn, WriteError};
use crate::rpc::context::{Incoming, ReplyHead};
use crate::rpc::wire::{Kind, Message, Status, UriError, code};

/// Answers a call that has no handler, or gets none now.
#[cold]
pub(super) fn refuse(
    conn: &mut Conn<'_, PeerHandler>,
    call: &Incoming<'_>,
    code: i32,
    reason: &'static str,
) -> Action {
    let mut reply = Message::reply(&call.message, call.dialect.echoes_uri());
    let status = Status::of(code, call.dialect).with_reason(reason);
    fail_reply(conn, &mut reply, &status)
}

/// Answers a call whose URI has no route.
#[cold]
pub(super) fn refuse_uri(
    conn: &mut Conn<'_, PeerHandler>,
    call: &Incoming<'_>,
    error: UriError,
) -> Action {
    let echoes = call.dialect.echoes_uri() && error == UriError::NoPath;
    let mut reply = Message::reply(&call.message, echoes);
    let reason = error.text(call.dialect);
    let status = Status::of(code::BAD_MESSAGE, call.dialect).with_reason(reason);
    fail_reply(conn, &mut reply, &status)
}

/// Sends a reply, with what its handler has set.
pub(super) fn finish_reply<'a>(
    conn: &mut Conn<'_, PeerHandler>,
    reply: &mut Message<'a>,
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
            put_reply(conn, reply)
        }
        Err(status) => fail_reply(conn, reply, &status),
    }
}

/// Sends a reply to a call that failed.
#[cold]
pub(super) fn fail_reply(
    conn: &mut Conn<'_, PeerHandler>,
    reply: &mut Message<'_>,
    status: &Status,
) -> Action {
    reply.set_status(status, conn.codec().max_field());
    put_reply(conn, reply)
}

/// Sends a reply. One that cannot be encoded is replaced by a failure, so that the caller learns of it.
#[inline]
fn put_reply(conn: &mut Conn<'_, PeerHandler>, reply: &Message<'_>) -> Action {
    match conn.send(reply) {
        Ok(()) => Action::Continue,
        Err(error) => put_instead(conn, &reply.seq, error),
    }
}

#[cold]
fn put_instead(conn: &mut Conn<'_, PeerHandler>, seq: &[u8], error: WriteError) -> Action {
    let WriteError::Frame(error) = error else {
        return Err(error).into();
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
