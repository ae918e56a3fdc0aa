//! The loop without a kernel: its turns, one by one, for a simulation that decides what events there are.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use mio::Token;

use super::EventLoop;
use super::events::Event;
use crate::engine::handler::EventHandler;
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
    /// How long it would sleep; none when only an event can wake it.
    pub(crate) fn sleeps_for(&mut self) -> Option<Duration> {
        self.timeout()
    }

    /// Tells what time it is.
    pub(crate) fn set_time(&mut self, since_start: Duration) {
        self.cx.time.clock.set(since_start);
    }

    /// One turn with these events, after a sleep of at most `timeout`. A panic of a callback is contained as
    /// [`run`](Self::run) does it; `on_panic` is shown it before.
    pub(crate) fn turn(
        &mut self,
        timeout: Option<Duration>,
        events: &[Readiness],
        mut on_panic: impl FnMut(&(dyn Any + Send)),
    ) {
        self.enter_turn(timeout);
        while let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.finish_turn(events.iter()))) {
            on_panic(&*panic);
            self.recover(panic);
        }
    }

    /// Whether the engine was shut down and the last connection is gone.
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
