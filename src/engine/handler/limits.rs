//! The limits and the deadline of a connection.

use std::time::Duration;

use super::{Conn, EventHandler};
use crate::clock::millis;
use crate::engine::conn::limits::ConnLimits;
use crate::error::Error;

impl<H: EventHandler> Conn<'_, H> {
    /// Calls [`on_deadline`](EventHandler::on_deadline) once this time has passed, counted from now. `None` takes the deadline
    /// back. A connection has one deadline; another call replaces it. An answer does not take it back: the handler does that with
    /// each answer, also with one that it has [deferred](Self::defer_answer).
    ///
    /// It is for limits that change often, on a request for example, and costs less than a timer: a store, as it shares the
    /// timer of the connection's timeouts. The first deadline of a connection costs some 250 bytes until it ends. It is exact to
    /// a millisecond, and never early.
    pub fn set_deadline(&mut self, after: Option<Duration>) {
        let by = after.map(|after| self.cx.time.moment().saturating_add(millis(after)));
        match (&mut self.link.extras, by) {
            (None, None) => {}
            (extras, by) => extras.get_or_insert_default().deadline = by,
        }
        if by.is_some() {
            self.cx.set_alarm(self.link);
        }
    }

    /// Changes limits of this connection. What `limits` does not set stays as it is.
    ///
    /// # Errors
    ///
    /// [`Error::Option`] if a limit cannot work, and if 65,535 other sets of limits are in use on this reactor. The limits then
    /// stay as they are.
    pub fn set_limits(&mut self, limits: &ConnLimits) -> Result<(), Error> {
        let limits = limits.over(self.limits())?;
        let number = self
            .cx
            .limits
            .acquire(&limits)
            .ok_or_else(|| Error::Option {
                name: "limits",
                problem: "65,535 other sets of limits are in use; use fewer different ones"
                    .to_owned(),
            })?;
        let state = &mut self.link.state;
        let wanted_frames = state.wants_frames();
        self.cx.limits.release(state.set_limits(number));
        self.cx.follow_backpressure(state, self.codec);
        // The output may be above another mark now.
        self.cx.lists.mark_dirty(state);
        if state.wants_frames() && !wanted_frames {
            // No event announces the input that has arrived meanwhile.
            self.cx.resume(self.link);
        }
        self.cx.set_alarm(self.link);
        Ok(())
    }
}
