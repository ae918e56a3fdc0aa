//! The connections of gates that a node knows of.

use std::any::Any;
use std::collections::HashSet;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::{Core, NodeReactor};
use crate::cluster::Event;
use crate::cluster::drpc::{Request, Target};
use crate::cluster::node::context::Subject;
use crate::cluster::node::hand_over::{Item, Sender, What};
use crate::cluster::node::reply::Reply;

/// The connections of a gate.
#[derive(Default)]
pub(super) struct Known {
    /// The user of each, or 0.
    users: FxHashMap<i64, i64>,
    /// Connections whose end the gate has told when it was asked. It may tell the event as well, later.
    ended: HashSet<i64>,
    /// True if its links have ended, and it was not asked for its connections since.
    is_cut: bool,
    /// True once the application was told that it is lost.
    is_lost: bool,
}

impl<T: 'static> NodeReactor<T> {
    /// Remembers a connection, if somebody wants to know of its end, or if it is noted which reactor has it.
    pub(super) fn know(&mut self, from: &Sender, cid: i64, uid: i64) {
        let is_wanted = self.router.follows_connections() || self.outgoing.len() > 1;
        if cid == 0 || from.is_node || !is_wanted {
            return;
        }
        let known = match self.connections.get_mut(&from.id) {
            Some(known) => known,
            None => self.connections.entry(from.id.clone()).or_default(),
        };
        known.users.insert(cid, uid);
    }

    /// Forgets a connection. Returns false if its end was told already.
    pub(super) fn forget(&mut self, gate: &Arc<str>, cid: i64) -> bool {
        let Some(known) = self.connections.get_mut(gate) else {
            return true;
        };
        known.users.remove(&cid);
        let is_news = !known.ended.remove(&cid);
        let is_empty = known.users.is_empty() && known.ended.is_empty();
        if is_empty && !known.is_cut && !known.is_lost {
            self.connections.remove(gate);
        }
        is_news
    }

    /// Ends a connection whose gate did not tell it, unless it did so meanwhile.
    pub(super) fn end_connection(&mut self, from: &Sender, cid: i64) {
        let Some(known) = self.connections.get_mut(&from.id) else {
            return;
        };
        let Some(uid) = known.users.remove(&cid) else {
            return;
        };
        if !known.is_lost {
            known.ended.insert(cid);
        }
        self.forget_owner(&from.id, cid);
        self.tell(from, Event::Disconnect, cid, uid);
    }

    /// Looks at each gate again, behind what has come of it.
    pub(super) fn check_gates(&mut self) {
        let gates: Vec<Arc<str>> = self.connections.keys().cloned().collect();
        for id in gates {
            let is_node = false;
            self.assign(
                self.core.id,
                about_gate(Sender { id, is_node }, What::CheckGate),
            );
        }
    }

    /// Notes that the last link of a gate has ended.
    pub(super) fn on_links_ended(&mut self, from: &Sender) {
        let gate = &from.id;
        if let Some(known) = self.connections.get_mut(gate) {
            known.is_cut = true;
        }
        self.check_gate(gate);
        // Another reactor, which has the new link, may have told it before the end of the old one.
        let has_links = self.core.shared.links.lock().contains_key(gate);
        if has_links {
            self.on_links_began(from);
        }
    }

    /// Gives up the connections of a gate that is not registered and has no link.
    pub(super) fn check_gate(&mut self, gate: &Arc<str>) {
        if self.core.gates.contains(gate) || self.core.shared.links.lock().contains_key(gate) {
            return;
        }
        let Some(known) = self.connections.get_mut(gate) else {
            return;
        };
        let from = Sender {
            id: gate.clone(),
            is_node: false,
        };
        let ended: Vec<i64> = known.users.keys().copied().collect();
        if std::mem::replace(&mut known.is_lost, true) {
            if ended.is_empty() {
                self.connections.remove(gate);
            }
        } else {
            self.core.counters().gates_lost.add(1);
            log::warn!(target: "epicycle::cluster", "the gate {gate} is lost, with {} connections", ended.len());
            let router = self.router.clone();
            if let Some(handler) = router.gate_lost() {
                self.run(&from, (0, 0), Subject::Own, |state, request| {
                    handler(state, request)
                });
            }
        }
        self.end_behind(&from, ended);
    }

    /// Asks a gate whose links had ended which of its connections are left: the events that it could not send are lost, and it may
    /// be another process under the same id.
    pub(super) fn on_links_began(&mut self, from: &Sender) {
        let Some(known) = self.connections.get_mut(&from.id) else {
            return;
        };
        known.is_lost = false;
        if !std::mem::take(&mut known.is_cut) {
            return;
        }
        known.ended.clear();
        let known: Vec<i64> = known.users.keys().copied().collect();
        if known.is_empty() {
            self.connections.remove(&from.id);
        }
        for cid in known {
            let gate = from.clone();
            let target = Target::conn(cid);
            let call = move |_: &mut dyn Any, core: &mut Core, reply| {
                let what = match reply {
                    Ok(Reply::Online(true)) => return,
                    Ok(_) => What::Ended,
                    // It is asked again when its links have come back.
                    Err(_) => What::Unanswered,
                };
                let item = Item {
                    cid,
                    ..about_gate(gate, what)
                };
                core.shared.queued.enqueue_anyway(core.id, item.weight());
                core.released.push(item);
            };
            (self.core).ask(&from.id, &Request::IsOnline { target }, Box::new(call));
        }
    }

    /// Notes that a gate did not say which connections are left.
    pub(super) fn on_unanswered(&mut self, gate: &Arc<str>) {
        if let Some(known) = self.connections.get_mut(gate) {
            known.is_cut = true;
        }
    }

    fn end_behind(&mut self, from: &Sender, connections: Vec<i64>) {
        for cid in connections {
            let item = Item {
                cid,
                ..about_gate(from.clone(), What::Ended)
            };
            self.assign(self.core.id, item);
        }
    }
}

/// Returns an item that concerns a gate, and not one of its connections.
pub(super) fn about_gate(from: Sender, what: What) -> Item {
    let (cid, uid) = (0, 0);
    Item {
        from,
        cid,
        uid,
        what,
    }
}
