//! Two connections joined, so that what one receives the other sends.

use bytes::Bytes;

use super::context::{Connections, Context, Link};
use super::{Conn, EventHandler, Reactor};
use crate::engine::pipes::{PipeEnd, PipeTask};
use crate::engine::slots::ConnId;
use crate::error::error_messages;

/// Why two connections cannot be joined.
#[derive(Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PipeError {
    /// A connection cannot be joined with itself.
    Itself,
    /// This connection belongs to another reactor; both must belong to the same.
    OtherReactor(ConnId),
    /// This connection is closed or closing, has not opened yet, or has had its write side shut down.
    NotOpen(ConnId),
    /// This connection is joined already.
    Joined(ConnId),
    /// This connection is a UDP session, which is no stream.
    NoStream(ConnId),
}

impl<H: EventHandler> Conn<'_, H> {
    /// Joins this connection with another one of the same reactor, once this callback has returned: what one receives
    /// the other sends, as fast as its peer takes it, until both have ended.
    ///
    /// - What has been written to either is sent first, then what the other has received and not decoded.
    /// - No frame of either is handled any more, nor its drain and its peer's FIN; writes are refused with
    ///   [`WriteError::Closed`](crate::WriteError). [`pause_reads`](Self::pause_reads), timers and
    ///   [`close`](Self::close) work on.
    /// - While the peer of one takes nothing, the other is not read. What waits in between is at most the read buffer,
    ///   or 1 MiB in the kernel, each way.
    /// - The FIN of one peer is passed on to the other. After that of both, both close with
    ///   [`CloseReason::Peer`](crate::CloseReason).
    /// - When one is reset, fails or is aborted, so is the other, at once, behind what it takes of what had arrived before; when one is closed or times out, the other sends what
    ///   waits and closes: with [`CloseReason::Pipe`](crate::CloseReason). `on_close` tells how many bytes went in and
    ///   out of each.
    ///
    /// Bytes on their way through are not shown to `pre_write`. On Linux those between plain sockets stay in the
    /// kernel when there are many (`splice(2)`).
    ///
    /// # Errors
    ///
    /// [`PipeError`], as far as it can be told here. When the other cannot be joined any more by the end of the
    /// callback, this one closes with [`CloseReason::Pipe`](crate::CloseReason).
    pub fn pipe(&mut self, other: ConnId) -> Result<(), PipeError> {
        let this = self.id();
        check_ids(this, other, self.cx.reactor)?;
        if self.link.state.is_datagram() {
            return Err(PipeError::NoStream(this));
        }
        if self.link.state.is_piped() {
            return Err(PipeError::Joined(this));
        }
        if !self.link.state.can_be_piped() {
            return Err(PipeError::NotOpen(this));
        }
        if !self.cx.engine.is_open(other) {
            return Err(PipeError::NotOpen(other));
        }
        self.link.state.begin_pipe();
        self.cx.pipes.tasks.push_back(PipeTask::Join(this, other));
        Ok(())
    }
}

impl<H: EventHandler> Reactor<'_, H> {
    /// Joins two connections of this reactor at once; see [`Conn::pipe`] for what that means.
    ///
    /// # Errors
    ///
    /// [`PipeError`]; the connections go on as they were then.
    pub fn pipe(&mut self, one: ConnId, other: ConnId) -> Result<(), PipeError> {
        join(self.connections, self.cx, one, other)
    }
}

/// Joins two connections.
pub(crate) fn join<H: EventHandler>(
    connections: &mut Connections<H>,
    cx: &mut Context<H>,
    one: ConnId,
    other: ConnId,
) -> Result<(), PipeError> {
    check_ids(one, other, cx.reactor)?;
    for id in [one, other] {
        let slot = connections.get(id).ok_or(PipeError::NotOpen(id))?;
        if slot.link.state.is_datagram() {
            return Err(PipeError::NoStream(id));
        }
        let pipe_end = slot.link.extras.as_ref().and_then(|extras| extras.pipe_end);
        if pipe_end.is_some() {
            return Err(PipeError::Joined(id));
        }
        if !slot.link.state.can_be_piped() {
            return Err(PipeError::NotOpen(id));
        }
    }
    let Some((first, second)) = connections.pair(one, other) else {
        return Err(PipeError::NotOpen(other));
    };
    let (first, second) = (&mut first.link, &mut second.link);
    let splices = first.stream.is_plain() && second.stream.is_plain();
    for (link, partner) in [(&mut *first, other), (&mut *second, one)] {
        link.state.piped();
        link.extras.get_or_insert_default().pipe_end = Some(PipeEnd {
            partner,
            splices,
            bulk: false,
        });
        cx.set_alarm(link);
    }
    hand_over(first, second, cx);
    hand_over(second, first, cx);
    cx.pipes.tasks.push_back(PipeTask::Move(one));
    Ok(())
}

/// Passes on what one has received so far and the handler has not had.
fn hand_over<H: EventHandler>(from: &mut Link, to: &mut Link, cx: &mut Context<H>) {
    let unread = Bytes::from(from.state.inbox.take_bytes(&mut cx.buffers.pool));
    let out = &mut to.state.out;
    out.enqueue_foreign(unread, &cx.buffers.arena, &mut cx.buffers.pool);
    if from.state.saw_peer_eof() {
        to.state.shut_write();
    }
    cx.lists.mark_dirty(&mut to.state);
}

fn check_ids(one: ConnId, other: ConnId, reactor: usize) -> Result<(), PipeError> {
    if one == other {
        return Err(PipeError::Itself);
    }
    let stranger = [one, other].into_iter().find(|id| id.reactor() != reactor);
    stranger.map_or(Ok(()), |id| Err(PipeError::OtherReactor(id)))
}

error_messages! {
    PipeError {
        PipeError::Itself => "a connection cannot be joined with itself",
        PipeError::OtherReactor(id) => "connection {id} belongs to another reactor; join connections of one reactor",
        PipeError::NotOpen(id) => "connection {id} is not open both ways",
        PipeError::Joined(id) => "connection {id} is joined already",
        PipeError::NoStream(id) => "connection {id} is a UDP session; only streams can be joined",
    }
}
