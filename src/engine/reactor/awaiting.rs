//! The connections of peers that outbound ones await.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use mio::Token;

use crate::engine::handler::EventHandler;
use crate::engine::handler::context::Served;
use crate::engine::listen::listeners::ACCEPT_BUDGET;
use crate::engine::stream::Stream;
use crate::sys::socket;

impl<H: EventHandler> Served<'_, H> {
    /// Accepts the connection that this one awaits, if it does. Returns false until an event reports the accepted one.
    pub(super) fn await_peer(&mut self) -> bool {
        if !self.cx.awaited.contains_key(&self.slot.link.state.id) {
            return true;
        }
        for _ in 0..ACCEPT_BUDGET {
            match self.accept_awaited() {
                Ok(true) => return false,
                Ok(false) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(error) if socket::concerns_one_peer(&error) => {}
                Err(error) => {
                    self.fail(error.into());
                    return false;
                }
            }
        }
        self.cx.lists.mark_ready(&mut self.slot.link.state);
        false
    }

    /// Accepts a connection. Returns true if its peer is the awaited one.
    fn accept_awaited(&mut self) -> io::Result<bool> {
        let link = &mut self.slot.link;
        let id = link.state.id;
        let (Some(listening), Some(admits)) = (link.stream.socket(), self.cx.awaited.get(&id))
        else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let (socket, peer) = listening.accept()?;
        let asked = AssertUnwindSafe(|| admits.admits(&peer));
        let is_admitted = catch_unwind(asked).unwrap_or_else(|panic| {
            self.cx.report_panic(panic, "the check of a peer");
            false
        });
        if !is_admitted {
            log::debug!(target: "epicycle::accept", "{}: {peer} is not awaited", link.state.name());
            self.cx.metrics.refused.add(1);
            socket.reset_on_close();
            return Ok(false);
        }
        self.cx.awaited.remove(&id);
        // The socket that has awaited it closes, and with it its events.
        link.stream = Stream::plain(socket);
        link.state.peer = peer;
        let registry = self.cx.poll.registry();
        link.stream.watch(registry, Token(id.slot()), true)?;
        Ok(true)
    }
}
