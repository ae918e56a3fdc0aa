//! The codec of a connection: it is made when the connection opens, and another one may take its place.

use super::context::{Context, Link, Served};
use super::converse::pending_frame_len;
use super::{Conn, EventHandler};
use crate::codec::{Backpressure, Codec};
use crate::engine::conn::ConnState;
use crate::engine::conn::limits::OutboundPolicy;
use crate::engine::conn::origin::{ConnInfo, Origin};
use crate::engine::stream::Stream;

impl<H: EventHandler> Context<H> {
    /// Has the handler make the codec of a connection.
    pub(crate) fn make_codec(
        &mut self,
        handler: &mut H,
        stream: &Stream,
        state: &ConnState,
    ) -> H::Codec {
        let origin = state.origin();
        let label = self.profile(origin).map_or("", |profile| &profile.label);
        handler.codec(&ConnInfo {
            origin,
            label,
            transport: stream.transport(),
            alpn: stream.alpn(),
            peer: &state.peer,
        })
    }

    /// Sets if a connection's reads pause while its output is congested, as its codec and its limits ask for.
    pub(crate) fn follow_backpressure(&self, state: &mut ConnState, codec: &H::Codec) {
        let policy = self.limits_of(state).policy;
        state.set_pauses_reads(pauses_reads(codec, state.origin(), policy));
    }
}

/// Returns true if a connection is not read while its output is congested.
///
/// If both ends of a connection did that, each could wait for the other to read for ever.
fn pauses_reads<C: Codec>(codec: &C, origin: Origin, policy: OutboundPolicy) -> bool {
    policy == OutboundPolicy::PauseReads
        && match codec.backpressure() {
            Backpressure::ByOrigin => matches!(origin, Origin::Accepted { .. }),
            Backpressure::PauseReads => true,
            Backpressure::ReadOn => false,
        }
}

impl<H: EventHandler> Served<'_, H> {
    /// Makes the codec anew for the protocol that was agreed on in the TLS handshake.
    pub(crate) fn choose_codec(&mut self) {
        let Link { stream, state, .. } = &mut self.slot.link;
        if stream.alpn().is_some() {
            self.slot.codec = self.cx.make_codec(self.handler, stream, state);
            self.cx.follow_backpressure(state, &self.slot.codec);
        }
    }
}

impl<H: EventHandler> Conn<'_, H> {
    /// Continues with a new codec, which has taken the place of `old`.
    pub(super) fn switched(&mut self, mut old: H::Codec) {
        let state = &mut self.link.state;
        if self.cx.decoding.of == Some(state.id) {
            // The frame in hand may not have consumed its input. The first of several codecs knows it.
            self.cx.decoding.replaced.get_or_insert(old);
        } else if !state.inbox.is_empty() {
            let in_vain = state.inbox.in_vain();
            let mut ring = state.inbox.take();
            if in_vain > 0 {
                let pending = pending_frame_len(&mut old, ring.make_contiguous());
                ring.consume(pending);
            }
            state.inbox.put_back(ring, &mut self.cx.buffers.pool);
            state.inbox.set_need(0, 0);
        }
        self.cx.follow_backpressure(state, self.codec);
        state.release();
        state.recheck_end();
        if let Some(extras) = &mut self.link.extras {
            extras.deferred = 0;
        }
        if H::Codec::CONVERSES && self.link.state.is_draining() {
            self.codec.begin_drain();
        }
        self.end_answer_waits();
        if H::Codec::CONVERSES {
            self.after_decoding(false);
        }
        if self.link.state.is_open() {
            self.cx.resume(self.link);
        }
    }
}
