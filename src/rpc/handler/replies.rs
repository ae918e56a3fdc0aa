//! Replies on their way out.

use super::PeerHandler;
use crate::engine::handler::{Action, Conn, WriteError};
use crate::rpc::context::ReplyHead;
use crate::rpc::wire::{Kind, Message, Status, code};

pub(super) fn refuse(
    conn: &mut Conn<'_, PeerHandler>,
    call: &Message<'_>,
    code: i32,
    reason: &'static str,
) -> Action {
    let dialect = conn.codec().dialect();
    let reply = Message::reply(call, dialect.echoes_uri());
    send_reply(
        conn,
        reply,
        Err(Status::of(code, dialect).with_reason(reason)),
    )
}

/// Sends a reply, with what its handler has set.
pub(super) fn finish_reply<'a>(
    conn: &mut Conn<'_, PeerHandler>,
    mut reply: Message<'a>,
    head: ReplyHead,
    mut result: Result<&'a [u8], Status>,
) -> Action {
    reply.meta = head.meta;
    if !head.filters.is_empty()
        && let Err(error) = (reply.filters).append_from(&head.filters, conn.codec().registered())
    {
        let status = Status::of(code::INTERNAL_SERVER_ERROR, conn.codec().dialect());
        result = Err(status.with_reason(error.to_string()));
    }
    if let Ok(body) = result {
        reply.codec = head.codec.unwrap_or_default();
        reply.body = body.into();
    }
    send_reply(conn, reply, result.map(drop))
}

pub(super) fn send_reply(
    conn: &mut Conn<'_, PeerHandler>,
    mut reply: Message<'_>,
    result: Result<(), Status>,
) -> Action {
    if let Err(status) = result {
        reply.set_status(&status, conn.codec().max_field());
    }
    put_reply(conn, &reply)
}

/// Sends a reply. One that cannot be encoded is replaced by a failure, so that the caller learns of it.
fn put_reply(conn: &mut Conn<'_, PeerHandler>, reply: &Message<'_>) -> Action {
    let error = match conn.send(reply) {
        Ok(()) => return Action::Continue,
        Err(WriteError::Frame(error)) => error,
        Err(error) => return Err(error).into(),
    };
    let status = Status::of(code::INTERNAL_SERVER_ERROR, conn.codec().dialect())
        .with_reason(format!("the reply cannot be sent: {error}"));
    let mut failure = Message::new(Kind::Reply);
    failure.seq = (&*reply.seq).into();
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
