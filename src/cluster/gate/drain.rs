//! The end of a gate, in stages.

use std::thread;
use std::time::{Duration, Instant};

use super::clients::close;
use super::handler::{GateReactor, Session};
use super::listener::Door;
use super::shared::DrainStage;
use super::{Gate, GateStats};
use crate::cluster::packet::GoodbyeReason;
use crate::cluster::reactors::on_all;
use crate::engine::handler::{Engine, Reactor};

/// The time that nodes of due have for what they are about to send. They do not know Bye.
const GRACE: Duration = Duration::from_secs(2);

/// The time that clients have to take what was sent to them, once they are closed. Then they are reset.
const CLOSING: Duration = Duration::from_secs(3);

/// The time between two looks at what is left.
const LOOK: Duration = Duration::from_millis(5);

impl Gate {
    /// The usual deadline of a [`drain`](Self::drain): 60 s.
    pub const DRAIN: Duration = Duration::from_secs(60);

    /// Stops in stages, and waits for the end:
    ///
    /// 1. registers the state `hang`, and accepts connections of servers only;
    /// 2. tells the clients that speak control packets to go elsewhere, and serves those that are there, or open a WebSocket, until they
    ///    have gone, until the deadline at the longest;
    /// 3. closes those that are left, with all output sent;
    /// 4. tells the servers that have dialled it to send no more. Those of due do not know that, and are served for 2 s more;
    /// 5. ends, as [`shutdown`](Self::shutdown) does.
    ///
    /// [`GateStats::state`](super::GateStats) is 3, and `connections` tells how many are left.
    pub fn drain(self, deadline: Duration) {
        let ends = Instant::now().checked_add(deadline);
        if let Err(error) = self.shared.registered.begin_drain() {
            log::warn!(target: "epicycle::cluster", "the gate {} is not registered as hang: {error}", self.id());
        }
        let Some(running) = &self.running else {
            return;
        };
        let engine = running.engine();
        // Servers may dial: those that start now have clients here too.
        for (listener, door) in self.shared.doors.iter().enumerate() {
            if !matches!(door, Door::Links) {
                engine.unlisten(listener);
            }
        }
        let clients = self.stats().connections;
        log::info!(target: "epicycle::cluster", "the gate {} drains: {clients} clients may go, for {deadline:?} at the longest", self.id());
        self.shared.enter(DrainStage::Waits);
        on_all(engine, |_| GateReactor::say_goodbye);
        // Those who have gone come back at other gates, which take their users over. Those who open a WebSocket are no connections yet.
        let are_gone = || self.shared.admission.open() == 0;
        self.wait(ends, |stats| {
            stats.connections == 0 && stats.away == 0 && are_gone()
        });
        let left = self.stats();
        if left.connections + left.away > 0 {
            let (connections, away) = (left.connections, left.away);
            log::warn!(target: "epicycle::cluster", "the gate {} closes {connections} clients that are left, and gives up {away} users that are away", self.id());
        }
        if self.close_clients(engine) > 0 {
            let ends = Instant::now().checked_add(GRACE);
            self.wait(ends, |stats| stats.links == 0);
        }
    }

    /// Closes the clients, waits until nodes have been told of the end of each, and says Bye. Returns the number of links whose peer
    /// does not know that.
    pub(super) fn close_clients(&self, engine: &Engine<GateReactor>) -> usize {
        engine.stop_accepting();
        self.shared.enter(DrainStage::Closes);
        on_all(engine, |_| {
            |gate: &mut GateReactor, reactor: &mut Reactor<'_, GateReactor>| {
                gate.say_goodbye(reactor);
                gate.end_away_users(false, reactor);
                end_clients(reactor, false);
                reactor.request_turn_end();
            }
        });
        let ends = Instant::now().checked_add(CLOSING);
        self.wait(ends, |stats| stats.connections == 0 && stats.away == 0);
        on_all(engine, |_| {
            |gate: &mut GateReactor, reactor: &mut Reactor<'_, GateReactor>| {
                gate.end_away_users(true, reactor);
                end_clients(reactor, true);
                reactor.request_turn_end();
            }
        });
        let ends = Instant::now().checked_add(CLOSING);
        self.wait(ends, |stats| stats.connections == 0);
        self.shared.enter(DrainStage::Leaves);
        let of_due = on_all(engine, |_| |gate, reactor| gate.say_bye(reactor));
        of_due.iter().sum()
    }

    fn wait(&self, ends: Option<Instant>, is_done: impl Fn(&GateStats) -> bool) {
        while !is_done(&self.stats()) && ends.is_none_or(|ends| Instant::now() < ends) {
            thread::sleep(LOOK);
        }
    }
}

impl GateReactor {
    /// Tells the clients that the gate is about to stop.
    pub(super) fn say_goodbye(&mut self, reactor: &mut Reactor<'_, Self>) {
        if std::mem::replace(&mut self.said_goodbye, true) {
            return;
        }
        reactor.for_each(|conn, session| {
            if let Session::Client(client) = session {
                self.send_goodbye(conn, client, GoodbyeReason::Stopping);
            }
        });
    }

    /// Tells the servers that have dialled this one that it takes no more. Returns the number of those that do not know that.
    pub(super) fn say_bye(&self, reactor: &mut Reactor<'_, Self>) -> usize {
        let mut of_due = 0;
        reactor.for_each(|conn, session| {
            if let Session::Inbound(link) = session {
                of_due += usize::from(!link.bye(conn));
            }
        });
        of_due
    }
}

fn end_clients(reactor: &mut Reactor<'_, GateReactor>, force: bool) {
    reactor.for_each(|conn, session| {
        if let Session::Client(client) = session {
            client.is_ended = true;
            match force {
                true => conn.abort(),
                false => close(conn),
            }
        }
    });
}
