//! An engine in a world, without its handler type.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use crate::engine::connect::resolve::LookupResult;
use crate::engine::handler::EventHandler;
use crate::engine::handler::engine::Engine;
use crate::engine::server::simulated::SimulatedEngine;
use crate::simnet::network::{Arrived, Readiness};
use crate::sys::simulated::to_addr;

/// An engine that a world runs.
pub(super) trait Process: Any {
    /// Returns the numbers by which the reactors poll the network.
    fn pollers(&self) -> Vec<usize>;

    /// Sets the time of a reactor. Returns the time for which it would sleep, or `None` if only an event can wake it.
    fn sleeps_for(&mut self, reactor: usize, now: Duration) -> Option<Duration>;

    /// Runs one turn of a reactor. `on_panic` receives the panics of its callbacks.
    fn turn(
        &mut self,
        reactor: usize,
        now: Duration,
        timeout: Option<Duration>,
        events: &[Readiness],
        on_panic: &mut dyn FnMut(&(dyn Any + Send)),
    );

    /// Ends a reactor whose shutdown is complete. Returns false if it is not.
    fn end(&mut self, reactor: usize) -> bool;

    /// Releases what the reactors shared, after the last of them has ended.
    fn end_helpers(&mut self);

    /// Accepts a connection.
    fn accept(&mut self, arrived: Arrived);

    /// Sets the time that other threads of the engine would see.
    fn set_time(&mut self, now: Duration);

    /// Does what the engine's other threads would do after a turn: closes the listeners once it accepts no more, and takes a
    /// name to look up.
    fn follow(&mut self, number: usize) -> Option<Arc<str>>;

    /// Completes a lookup.
    fn resolved(&mut self, name: Arc<str>, found: LookupResult);
}

impl<H: EventHandler> Process for SimulatedEngine<H> {
    fn pollers(&self) -> Vec<usize> {
        self.reactors.iter().map(|reactor| reactor.poller).collect()
    }

    fn sleeps_for(&mut self, reactor: usize, now: Duration) -> Option<Duration> {
        let event_loop = &mut self.reactors[reactor].event_loop;
        event_loop.set_time(now);
        event_loop.sleeps_for()
    }

    fn turn(
        &mut self,
        reactor: usize,
        now: Duration,
        timeout: Option<Duration>,
        events: &[Readiness],
        on_panic: &mut dyn FnMut(&(dyn Any + Send)),
    ) {
        self.set_time(now);
        self.reactors[reactor]
            .event_loop
            .turn(timeout, events, on_panic);
    }

    fn set_time(&mut self, now: Duration) {
        SimulatedEngine::set_time(self, now);
    }

    fn end(&mut self, reactor: usize) -> bool {
        let event_loop = &mut self.reactors[reactor].event_loop;
        let has_ended = event_loop.has_ended();
        if has_ended {
            event_loop.end();
        }
        has_ended
    }

    fn end_helpers(&mut self) {
        self.engine.end_helpers();
    }

    fn accept(&mut self, arrived: Arrived) {
        let Arrived {
            listener,
            end,
            peer,
            ..
        } = arrived;
        SimulatedEngine::accept(self, end, to_addr(peer), listener);
    }

    fn follow(&mut self, number: usize) -> Option<Arc<str>> {
        self.follow_accepting(number);
        self.engine.shared().lookups.begin_next()
    }

    fn resolved(&mut self, name: Arc<str>, found: LookupResult) {
        self.engine.shared().lookups.finish(name, found);
    }
}

/// Closes the mailboxes after the loops. Requests left in them hold the engine, and would keep it alive.
impl<H: EventHandler> Drop for SimulatedEngine<H> {
    fn drop(&mut self) {
        self.reactors.clear();
        let engine: &Engine<H> = &self.engine;
        for reactor in 0..engine.reactors() {
            drop(engine.peer(reactor).mailbox.close());
        }
        engine.end_helpers();
    }
}
