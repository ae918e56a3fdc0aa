//! The reactor that has a connection, and the way of an item to it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Link, NodeReactor};
use crate::cluster::node::hand_over::{Item, What};
use crate::engine::handler::Reactor;
use crate::engine::slots::ConnId;

impl<T: 'static> NodeReactor<T> {
    /// Forgets a connection, when all that came of it is done.
    pub(super) fn on_leave(&mut self, link: &mut Link, cid: i64) {
        let owner = match self.outgoing.len() {
            1 => Some(0),
            _ => (link.owners.remove(&cid)).or_else(|| self.unpark(link, cid)),
        };
        if let Some(owner) = owner {
            let (from, what) = (link.sender.clone(), What::Left);
            let uid = 0;
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

    /// Takes the packets of a connection again. Those that come by this link were rejected.
    pub(super) fn on_collected(&mut self, link: &Link, id: ConnId, cid: i64) {
        let owner = match self.outgoing.len() {
            1 => Some(0),
            _ => link.owners.get(&cid).copied(),
        };
        if let Some(owner) = owner {
            let item = Item {
                from: link.sender.clone(),
                cid,
                uid: 0,
                what: What::Collected { link: id },
            };
            self.assign(owner, item);
        }
    }

    /// Returns the reactor that handles what comes of a client. If it was another one before, the new one waits until that has
    /// done what it has.
    pub(super) fn place(&mut self, link: &mut Link, cid: i64, uid: i64) -> usize {
        let reactors = self.outgoing.len();
        if reactors == 1 {
            return 0;
        }
        let key = match (cid, uid) {
            (0, 0) => return self.core.id,
            (_, 0) => link.hash ^ cid as u64,
            _ => uid as u64,
        };
        let owner = spread(key, reactors);
        if cid == 0 {
            return owner;
        }
        let old = (link.owners.insert(cid, owner)).or_else(|| self.unpark(link, cid));
        match old {
            Some(old) if old != owner => {
                let fence = self.core.shared.last_fence.fetch_add(1, Ordering::Relaxed);
                let from = link.sender.clone();
                let item = |what| Item {
                    from: from.clone(),
                    cid,
                    uid,
                    what,
                };
                self.assign(owner, item(What::Await { fence }));
                self.assign(old, item(What::Leave { to: owner, fence }));
            }
            _ => {}
        }
        owner
    }

    /// Returns the reactor that had a connection when the links before this one ended.
    fn unpark(&self, link: &mut Link, cid: i64) -> Option<usize> {
        if !link.has_parked {
            return None;
        }
        let parked = self.core.shared.parked.lock();
        let owners = parked.get(&link.sender.id);
        let owner = owners.and_then(|owners| owners.get(&cid).copied());
        link.has_parked = owners.is_some();
        drop(parked);
        self.forget_owner(&link.sender.id, cid);
        owner
    }

    /// Forgets which reactor had a connection of a gate whose links have ended.
    pub(super) fn forget_owner(&self, gate: &Arc<str>, cid: i64) {
        if self.outgoing.len() == 1 {
            return;
        }
        let mut parked = self.core.shared.parked.lock();
        if let Some(owners) = parked.get_mut(gate) {
            owners.remove(&cid);
            if owners.is_empty() {
                parked.remove(gate);
            }
        }
    }

    /// Gives a reactor something that is not refused.
    pub(super) fn assign(&mut self, reactor: usize, item: Item) {
        self.core
            .shared
            .queued
            .enqueue_anyway(reactor, item.weight());
        self.pass(reactor, item);
    }

    /// Gives a reactor something that has been counted.
    pub(super) fn pass(&mut self, reactor: usize, item: Item) {
        if reactor == self.core.id {
            return self.accept(item);
        }
        self.outgoing[reactor].push(item);
        self.core.is_pending = true;
    }

    /// Takes an item, which waits if others of its connection do.
    pub(super) fn accept(&mut self, item: Item) {
        if let What::Release { fence, .. } = item.what {
            self.core.shared.queued.dequeue(self.core.id, item.weight());
            let mut items = (self.waiting).release(&item.from, (item.cid, item.uid), fence);
            if let What::Release { found, .. } = item.what {
                self.found = found.filter(|_| !items.is_empty());
            }
            while let Some(item) = items.pop_front() {
                let (from, client) = (item.from.clone(), (item.cid, item.uid));
                self.perform(item);
                self.found = None;
                if self.waiting.holds(&from, client) {
                    return self.waiting.put_back(&from, client, items);
                }
            }
        } else if let Some(item) = self.waiting.push(item) {
            self.perform(item);
        }
    }

    fn perform(&mut self, item: Item) {
        self.core.shared.queued.dequeue(self.core.id, item.weight());
        let Item {
            from,
            cid,
            uid,
            what,
        } = item;
        match what {
            What::Packet { packet, back } => {
                self.on_packet(&from, (cid, uid), &packet, back);
            }
            What::Event(event) => self.on_event(&from, event, cid, uid),
            What::Leave { to, fence } => {
                self.forget(&from.id, cid);
                let what = What::Release { fence, found: None };
                self.assign(
                    to,
                    Item {
                        from,
                        cid,
                        uid,
                        what,
                    },
                );
            }
            What::Left => {
                self.forget(&from.id, cid);
            }
            What::Collected { link } => self.rejecting.end(link, cid),
            What::Await { fence } => self.waiting.hold(&from, (cid, uid), fence),
            What::LinksEnded => self.on_links_ended(&from),
            What::LinksBegan => self.on_links_began(&from),
            What::CheckGate => self.check_gate(&from.id),
            What::Ended => self.end_connection(&from, cid),
            What::Unanswered => self.on_unanswered(&from.id),
            // It was taken before.
            What::Release { .. } => {}
        }
    }

    /// Takes items of another reactor.
    pub(super) fn take(&mut self, items: Vec<Item>, reactor: &mut Reactor<'_, Self>) {
        self.core.now = reactor.now();
        for item in items {
            self.accept(item);
        }
        self.settle(reactor);
    }
}

/// Returns one of several reactors.
pub(super) fn spread(key: u64, reactors: usize) -> usize {
    // Numbers are often consecutive, or multiples of something.
    let spread = key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    spread as usize % reactors
}
