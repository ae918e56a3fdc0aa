//! Spinning: before it blocks, the loop polls without waiting for a time. A thread that does not sleep need not be woken.

use std::time::Duration;

use mio::Events;

use super::EventLoop;
use crate::engine::handler::EventHandler;

impl<H: EventHandler> EventLoop<H> {
    /// Polls without waiting until there is an event. Returns false if there is none before the spin or `timeout` is over.
    #[inline(never)]
    pub(super) fn spin(&mut self, events: &mut Events, timeout: Option<Duration>) -> bool {
        let clock = &self.cx.time.clock;
        let within = timeout.unwrap_or(Duration::MAX).min(self.spin);
        let began = clock.elapsed();
        loop {
            // The poll that blocks after this reports an error.
            if self.cx.poll.poll(events, Some(Duration::ZERO)).is_err() {
                return false;
            }
            if !events.is_empty() {
                return true;
            }
            if clock.elapsed() - began >= within {
                return false;
            }
        }
    }
}
