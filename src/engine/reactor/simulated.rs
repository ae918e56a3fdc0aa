//! The loop without a kernel. A simulation runs its turns one by one and decides on the events.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use mio::Token;

use super::EventLoop;
use super::events::Event;
use crate::engine::handler::EventHandler;
use crate::engine::reactor_thread;
use crate::simnet::network::Readiness;

impl Event for Readiness {
    fn token(&self) -> Token {
        Token(self.token)
    }

    fn is_readable(&self) -> bool {
        self.readable
    }

    fn is_writable(&self) -> bool {
        self.writable
    }

    fn is_read_closed(&self) -> bool {
        self.read_closed
    }

    fn is_priority(&self) -> bool {
        false
    }

    fn is_error(&self) -> bool {
        self.error
    }
}

impl<H: EventHandler> EventLoop<H> {
    /// Returns the time for which the loop would sleep, or `None` if only an event can wake it.
    pub(crate) fn sleeps_for(&mut self) -> Option<Duration> {
        self.timeout()
    }

    /// Sets the time.
    pub(crate) fn set_time(&mut self, since_start: Duration) {
        self.cx.time.clock.set(since_start);
    }

    /// Runs one turn with these events, after a sleep of at most `timeout`. A panic of a callback is contained as in
    /// [`run`](Self::run), after `on_panic` has received it.
    pub(crate) fn turn(
        &mut self,
        timeout: Option<Duration>,
        events: &[Readiness],
        mut on_panic: impl FnMut(&(dyn Any + Send)),
    ) {
        // The test's thread runs it, so the mark is for this turn only.
        let _mark = reactor_thread::mark();
        self.enter_turn(timeout);
        while let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.finish_turn(events.iter()))) {
            on_panic(&*panic);
            self.recover(panic);
        }
    }

    /// Returns true if the engine was shut down and the last connection is gone.
    pub(crate) fn has_ended(&self) -> bool {
        self.is_done()
    }

    pub(crate) fn handler(&self) -> &H {
        &self.handler
    }

    pub(crate) fn handler_mut(&mut self) -> &mut H {
        &mut self.handler
    }
}
