//! TLS that begins in mid-stream. All plain output is sent; the stream changes its kind at the end of the turn.

use super::EventLoop;
use crate::clock::millis;
use crate::engine::conn::Step;
use crate::engine::conn::close::CloseReason;
use crate::engine::handler::EventHandler;
use crate::engine::handler::context::{Link, Served, Slot, StartTls};

impl<H: EventHandler> EventLoop<H> {
    /// Puts TLS on the socket of a connection. Does nothing if that is done, or if the connection has ended meanwhile.
    pub(super) fn start_tls(&mut self, index: u32) {
        let Self {
            connections, cx, ..
        } = self;
        let Some(mut place) = connections.place(index as usize) else {
            return;
        };
        let is_due = |slot: &mut Slot<H>| slot.link.state.next_step() == Step::Detach;
        let Some(mut slot) = place.take_if(is_due) else {
            return;
        };
        let Link { state, extras, .. } = &mut slot.link;
        let start = extras.as_mut().and_then(|extras| extras.start_tls.take());
        if let Some(start) = start {
            let StartTls { session, limit } = *start;
            let mut input = state.inbox.take_bytes(&mut cx.buffers.pool);
            state.begin_handshake(cx.time.moment(), millis(limit));
            slot.link.stream = slot.link.stream.with_tls(session, &mut input);
            cx.set_alarm(&mut slot.link);
            cx.lists.mark_ready(&mut slot.link.state);
        }
        // Both directions matter to a handshake.
        let watched = cx.watch_room(&mut slot.link);
        *place = Some(slot);
        drop(place);
        if let Err(error) = watched {
            self.with_slot(index as usize, |served, _| served.fail(error.into()));
        }
    }
}

impl<H: EventHandler> Served<'_, H> {
    /// Continues with the handler after the handshake.
    pub(super) fn on_tls_started(&mut self) {
        let Link { state, .. } = &mut self.slot.link;
        state.end_handshake(self.cx.time.moment());
        self.cx.metrics.handshakes.add(1);
        // The handshake has read ahead of the events, so no event may follow for that input.
        state.on_readable(false);
        self.set_alarm();
        if let Some((mut conn, session)) = self.slot.lend(self.cx, self.connections) {
            let action = self.handler.on_tls(&mut conn, session);
            self.apply_action(action, CloseReason::Local);
        }
        // The drain could not end it while TLS was beginning.
        self.close_if_drained();
        // The last messages of the handshake may not have been sent completely.
        self.mark_dirty();
        self.mark_ready();
    }
}
