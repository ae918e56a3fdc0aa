//! The links that other servers have dialled.

use std::collections::HashMap;
use std::hash::Hasher;
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHasher};

use super::connections::about_gate;
use super::{Link, NodeReactor, Session};
use crate::cluster::drpc::{self, Answer, Code, Incoming, Op, RejectReason, Value};
use crate::cluster::link::{Inbound, Verdict};
use crate::cluster::node::hand_over::{Back, Item, Note, Sender, Undecided, What};
use crate::cluster::seldom::warn_seldom;
use crate::cluster::{Event, Kind};
use crate::engine::handler::{Action, Conn, Reactor};
use crate::engine::slots::ConnId;

impl<T: 'static> NodeReactor<T> {
    pub(super) fn open_link(&self, conn: &mut Conn<'_, Self>) -> Option<Session> {
        let shared = &self.core.shared;
        let (options, counters) = (&shared.options, self.core.counters());
        if !shared.entrance.admission().admit(None) {
            warn_seldom!(
                "no link for {}: there are {} already; raise max_links",
                conn.peer_addr(),
                options.max_links
            );
            counters.links_refused.add(1);
            return None;
        }
        counters.links.add(1);
        let link = Link {
            inbound: Inbound::open(
                shared.ours.clone(),
                options.secret.clone(),
                &options.chance,
                conn,
            ),
            sender: Sender {
                id: "".into(),
                is_node: false,
            },
            hash: 0,
            owners: FxHashMap::default(),
            has_parked: false,
            has_left: false,
            undecided: Undecided::default(),
        };
        Some(Session::Inbound(Box::new(link)))
    }

    pub(super) fn on_link_frame(
        &mut self,
        conn: &mut Conn<'_, Self>,
        link: &mut Link,
        frame: Incoming<'_>,
    ) -> Action {
        let (seq, request) = match link.inbound.receive(conn, frame) {
            Ok(Verdict::Serve { seq, request }) => (seq, request),
            Ok(Verdict::Done) => return Action::Continue,
            Err(error) => {
                log::warn!(target: "epicycle::cluster", "the link of {}: {error}", link.inbound.name());
                return Action::Close;
            }
        };
        self.core.now = conn.now();
        self.identify(link);
        let mut answer = Answer::new(request.op().code(), Code::Done);
        match request {
            drpc::Request::Deliver { cid, uid, packet } => {
                let back = Back {
                    link: Some(conn.id()),
                    seq,
                    epoch: link.undecided.epoch(),
                    is_collected: cid != 0
                        && !link.sender.is_node
                        && link.inbound.knows_extensions(),
                    is_counted: false,
                };
                self.on_deliver(link, (cid, uid), packet, back);
                self.settle(&mut conn.reactor());
                // It is answered at the end of the turn, or later.
                return Action::Continue;
            }
            drpc::Request::Trigger { event, cid, uid } => {
                self.core.counters().events.add(1);
                if let Some(event) = Event::from_code(event) {
                    self.on_trigger(link, event, cid, uid);
                    self.settle(&mut conn.reactor());
                }
            }
            drpc::Request::Leave { cid } => {
                self.on_leave(link, cid);
                self.settle(&mut conn.reactor());
            }
            drpc::Request::Collected { cid } => {
                self.on_collected(link, conn.id(), cid);
                self.settle(&mut conn.reactor());
            }
            drpc::Request::GetState => {
                answer.value = Value::State(self.core.shared.registered.state_code());
            }
            drpc::Request::Ping => match link.undecided.ping(seq) {
                Some(true) => {
                    // Behind the rejects of this turn.
                    let (op, failed) = (Op::Ping, false);
                    self.note(Some(conn.id()), Note::Answer { op, seq, failed });
                    self.settle(&mut conn.reactor());
                    return Action::Continue;
                }
                Some(false) => return Action::Continue,
                None => answer.code = Code::Failed,
            },
            drpc::Request::SetState { state } => {
                let shared = &self.core.shared;
                answer.code = shared.registered.set_state_code(state, &shared.pool);
            }
            drpc::Request::Bye => {
                if !std::mem::replace(&mut link.has_left, true) {
                    self.core.counters().left.add(1);
                }
            }
            // The link has refused what a node does not serve.
            _ => answer.code = Code::Failed,
        }
        if seq == 0 {
            return Action::Continue;
        }
        match conn.send((seq, answer)) {
            Ok(()) => Action::Continue,
            Err(error) => error.into(),
        }
    }

    /// Notes who has dialled.
    fn identify(&mut self, link: &mut Link) {
        let Some((kind, id)) = link.inbound.peer() else {
            return;
        };
        if !link.sender.id.is_empty() {
            return;
        }
        let shared = self.core.shared.clone();
        let mut links = shared.links.lock();
        link.sender = Sender {
            id: id.into(),
            is_node: kind == Kind::Node.code(),
        };
        let mut hasher = FxHasher::default();
        hasher.write(id.as_bytes());
        link.hash = hasher.finish();
        link.has_parked = shared.parked.lock().contains_key(&link.sender.id);
        let count = links.entry(link.sender.id.clone()).or_default();
        *count += 1;
        let is_first = *count == 1;
        drop(links);
        if is_first && !link.sender.is_node {
            self.tell_all(&link.sender, || What::LinksBegan);
        }
    }

    /// Takes the end of a link.
    pub(super) fn close_link(&mut self, link: Link) {
        let shared = self.core.shared.clone();
        if !link.owners.is_empty() {
            // The next link of the server may be on another reactor, and the connections go on.
            let mut parked = shared.parked.lock();
            parked
                .entry(link.sender.id.clone())
                .or_default()
                .extend(link.owners);
        }
        let was_last = leave(&mut shared.links.lock(), &link.sender.id);
        if was_last && !link.sender.is_node {
            self.tell_all(&link.sender, || What::LinksEnded);
        }
    }

    /// Tells all reactors something about a gate, behind what has come of it.
    fn tell_all(&mut self, gate: &Sender, what: fn() -> What) {
        for reactor in 0..self.outgoing.len() {
            self.assign(reactor, about_gate(gate.clone(), what()));
        }
    }

    fn on_deliver(
        &mut self,
        link: &mut Link,
        client @ (cid, uid): (i64, i64),
        packet: &[u8],
        back: Back,
    ) {
        let counters = self.core.counters();
        counters.packets_in.add(1);
        counters.bytes_in.add(packet.len() as u64);
        let owner = self.place(link, cid, uid);
        if owner == self.core.id && !self.waiting.holds(&link.sender, (cid, uid)) {
            if !self.on_packet(&link.sender, client, packet, back) {
                link.undecided.add();
            }
            return;
        }
        let is_counted = true;
        let back = Back { is_counted, ..back };
        let item = Item {
            from: link.sender.clone(),
            cid,
            uid,
            what: What::Packet {
                packet: packet.to_vec(),
                back,
            },
        };
        link.undecided.add();
        if self.core.shared.queued.enqueue(owner, item.weight()) {
            self.pass(owner, item);
        } else {
            self.refuse(client, packet, back, Some(RejectReason::Overload));
        }
    }

    fn on_trigger(&mut self, link: &mut Link, event: Event, cid: i64, uid: i64) {
        let owner = self.place(link, cid, uid);
        if event == Event::Disconnect {
            link.owners.remove(&cid);
        }
        if owner == self.core.id && !self.waiting.holds(&link.sender, (cid, uid)) {
            return self.on_event(&link.sender, event, cid, uid);
        }
        let from = link.sender.clone();
        let what = What::Event(event);
        self.assign(
            owner,
            Item {
                from,
                cid,
                uid,
                what,
            },
        );
    }
}

/// Notes that a link of a server has ended. Returns true if that was the last one.
fn leave(links: &mut HashMap<Arc<str>, usize>, id: &Arc<str>) -> bool {
    let Some(count) = links.get_mut(id) else {
        return false;
    };
    *count -= 1;
    let was_last = *count == 0;
    if was_last {
        links.remove(id);
    }
    was_last
}

fn send_answer<T: 'static>(conn: &mut Conn<'_, NodeReactor<T>>, op: Op, seq: u64, code: Code) {
    if seq != 0
        && let Err(error) = conn.send((seq, Answer::new(op.code(), code)))
    {
        log::debug!(target: "epicycle::cluster", "an answer to a server is lost: {error}");
    }
}

pub(super) fn write_notes<T: 'static>(
    notes: Vec<(ConnId, Note)>,
    reactor: &mut Reactor<'_, NodeReactor<T>>,
) {
    for (link, note) in notes {
        reactor.with(link, |conn, session| {
            let Session::Inbound(link) = session else {
                return;
            };
            match note {
                Note::Answer { op, seq, failed } => {
                    let code = if failed { Code::Failed } else { Code::Done };
                    send_answer(conn, op, seq, code);
                }
                Note::Decided { epoch } => {
                    for seq in link.undecided.decide(epoch) {
                        send_answer(conn, Op::Ping, seq, Code::Done);
                    }
                }
                Note::Reject {
                    cid,
                    route,
                    seq,
                    reason,
                } => link.inbound.reject(conn, cid, (route, seq), reason),
            }
        });
    }
}
