//! The negotiations of outbound connections that are being opened.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::engine::handler::EventHandler;
use crate::engine::handler::context::Served;

impl<H: EventHandler> Served<'_, H> {
    /// Goes on with the negotiation of a connection, if it has one. Returns true once it is over.
    pub(super) fn negotiate(&mut self) -> bool {
        let link = &self.slot.link;
        let id = link.state.id;
        let Some(negotiating) = self.cx.negotiations.get_mut(&id) else {
            return true;
        };
        let writable = link.state.is_writable();
        let asked = AssertUnwindSafe(|| negotiating.advance(&link.stream, writable));
        let advanced = catch_unwind(asked).unwrap_or_else(|panic| {
            self.cx.report_panic(panic, "Negotiation");
            Err(io::Error::other("the negotiation panicked"))
        });
        match advanced {
            Ok(true) => {
                self.cx.negotiations.remove(&id);
                true
            }
            Ok(false) => false,
            Err(error) => {
                self.fail(error.into());
                false
            }
        }
    }
}
