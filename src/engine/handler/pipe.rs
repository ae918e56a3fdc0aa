//! Pipes: two connections joined, so that one sends what the other receives.

use bytes::Bytes;

use super::context::{Connections, Context, Link};
use super::{Conn, EventHandler, Reactor};
use crate::engine::pipes::{PipeEnd, PipeTask};
use crate::engine::slots::ConnId;
use crate::error::error_messages;

/// The reason for which two connections cannot be joined.
#[derive(Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PipeError {
    /// A connection cannot be joined with itself.
    Itself,
    /// This connection belongs to another reactor. Both must belong to the same one.
    OtherReactor(ConnId),
    /// This connection is closed or closing, has not opened yet, or its write side is shut down.
    NotOpen(ConnId),
    /// This connection is already piped to another one.
    Piped(ConnId),
    /// This connection is a UDP session, which is not a stream.
    NoStream(ConnId),
}

impl<H: EventHandler> Conn<'_, H> {
    /// Joins this connection with another one of the same reactor, once this callback has returned. From then on each
    /// sends what the other receives, as fast as its peer takes it, until both have ended.
    ///
    /// - The output already written to either is sent first. The input that the other has received and not decoded
    ///   follows.
    /// - Neither receives any further call of `react`, `on_drain`, `on_fin` or `on_peer_shutdown`. Writes are refused with
    ///   [`WriteError::Closed`](crate::WriteError). A pause of reads ends. [`pause_reads`](Self::pause_reads), timers and
    ///   [`close`](Self::close) work from then on as before.
    /// - While one peer takes nothing, the other connection is not read. In each direction at most the read buffer,
    ///   or 1 MiB in the kernel, is held in between.
    /// - The FIN of one peer is passed on to the other. After both FINs, both connections close with
    ///   [`CloseReason::Peer`](crate::CloseReason).
    /// - If one is reset, fails or is aborted, the other is aborted at once, after the part of the earlier input that
    ///   it takes without waiting.
    /// - If one is closed or times out, the other sends the rest and closes. Both cases close it with
    ///   [`CloseReason::Pipe`](crate::CloseReason). `on_close` receives the number of bytes in and out of each.
    ///
    /// Piped bytes are not shown to `pre_write`. On Linux, large amounts between plain sockets stay in the kernel
    /// (`splice(2)`).
    ///
    /// # Errors
    ///
    /// [`PipeError`], as far as the error is known here. If the other connection can no longer be joined at the end
    /// of the callback, this one closes with [`CloseReason::Pipe`](crate::CloseReason).
    pub fn pipe(&mut self, other: ConnId) -> Result<(), PipeError> {
        let this = self.id();
        check_ids(this, other, self.cx.reactor)?;
        if self.link.state.is_datagram() {
            return Err(PipeError::NoStream(this));
        }
        if self.link.state.is_piped() {
            return Err(PipeError::Piped(this));
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
    /// Joins two connections of this reactor at once, as [`Conn::pipe`] does.
    ///
    /// # Errors
    ///
    /// [`PipeError`]. Both connections then stay as they were.
    pub fn pipe(&mut self, one: ConnId, other: ConnId) -> Result<(), PipeError> {
        join(self.connections, self.cx, one, other)
    }
}

/// Joins two connections.
pub(crate) fn join<H: EventHandler>(
    connections: &Connections<H>,
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
            return Err(PipeError::Piped(id));
        }
        if !slot.link.state.can_be_piped() {
            return Err(PipeError::NotOpen(id));
        }
    }
    let Some((mut first, mut second)) = connections.pair(one, other) else {
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
    forward_input(first, second, cx);
    forward_input(second, first, cx);
    cx.pipes.tasks.push_back(PipeTask::Move(one));
    Ok(())
}

/// Passes on the input that one connection has received and the handler has not.
fn forward_input<H: EventHandler>(from: &mut Link, to: &mut Link, cx: &mut Context<H>) {
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
    let foreign = [one, other].into_iter().find(|id| id.reactor() != reactor);
    foreign.map_or(Ok(()), |id| Err(PipeError::OtherReactor(id)))
}

error_messages! {
    PipeError {
        PipeError::Itself => "a connection cannot be joined with itself",
        PipeError::OtherReactor(id) => "connection {id} belongs to another reactor; join connections of one reactor",
        PipeError::NotOpen(id) => "connection {id} is not open both ways",
        PipeError::Piped(id) => "connection {id} is piped to another one already",
        PipeError::NoStream(id) => "connection {id} is a UDP session; only streams can be joined",
    }
}
