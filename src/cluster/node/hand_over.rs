//! Which reactor handles what concerns a connection, and how that goes from one reactor to another.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use crate::cluster::Event;
use crate::cluster::drpc::{Op, RejectReason};
use crate::engine::slots::ConnId;

/// The server that has handed a packet or an event to the node.
#[derive(Clone, Debug)]
pub(super) struct Sender {
    /// Its id, or nothing if it has not introduced itself.
    pub(super) id: Arc<str>,
    pub(super) is_node: bool,
}

/// Something that waits for a reactor, or on one.
pub(super) struct Item {
    pub(super) from: Sender,
    pub(super) cid: i64,
    pub(super) uid: i64,
    pub(super) what: What,
}

pub(super) enum What {
    Packet {
        packet: Vec<u8>,
        back: Back,
    },
    Event(Event),
    /// What comes next of the connection is handled by another reactor.
    Leave {
        to: usize,
        fence: u64,
    },
    /// What comes next of the connection waits until another reactor has done what it has of it.
    Await {
        fence: u64,
    },
    /// That has been done, or the locator has answered.
    Release {
        fence: u64,
        found: Option<Found>,
    },
    /// The user of the connection is on another one, and it is told no more.
    Left,
    /// The last link of a gate has ended.
    LinksEnded,
    /// The first link of a gate has begun.
    LinksBegan,
    /// The registry has changed.
    CheckGate,
    /// A connection has ended, although its gate has not told so.
    Ended,
    /// The gate has back what was rejected of the connection.
    Collected {
        link: ConnId,
    },
    /// A gate did not tell whether the connection has ended.
    Unanswered,
}

/// The node that the locator has told, if it has answered.
pub(super) type Found = Result<Option<Arc<str>>, ()>;

/// The link that a packet came by, and the number under which it is answered, or 0.
#[derive(Clone, Copy)]
pub(super) struct Back {
    /// `None` for a packet of this node to itself.
    pub(super) link: Option<ConnId>,
    pub(super) seq: u64,
    /// The epoch of the link in which it came: see [`Undecided`].
    pub(super) epoch: u64,
    /// True if it comes of a gate that tells when it has back what was rejected.
    pub(super) is_collected: bool,
    /// True if the link has counted it as undecided.
    pub(super) is_counted: bool,
}

/// The packets of a link that were neither taken nor rejected yet, and the Pings that wait for that.
#[derive(Default)]
pub(super) struct Undecided {
    /// The number of the first epoch. Each but the last ends with a Ping.
    first: u64,
    closed: VecDeque<Epoch>,
    /// The packets since the last Ping.
    open: usize,
}

struct Epoch {
    packets: usize,
    ping: u64,
}

/// The maximum number of Pings of a link that wait.
const MAX_PINGS: usize = 1024;

impl Undecided {
    /// Returns the epoch of a packet that comes now.
    pub(super) fn epoch(&self) -> u64 {
        self.first + self.closed.len() as u64
    }

    /// Counts a packet that comes now and is not decided at once.
    pub(super) fn add(&mut self) {
        self.open += 1;
    }

    /// Takes the number of a Ping. Returns true if it can be answered now, and `None` if too many wait.
    pub(super) fn ping(&mut self, ping: u64) -> Option<bool> {
        if self.open == 0 && self.closed.is_empty() {
            return Some(true);
        }
        if self.closed.len() >= MAX_PINGS {
            return None;
        }
        let packets = std::mem::take(&mut self.open);
        self.closed.push_back(Epoch { packets, ping });
        Some(false)
    }

    /// Notes that a packet was taken or rejected. Returns the Pings that can be answered.
    pub(super) fn decide(&mut self, epoch: u64) -> Vec<u64> {
        let at = epoch.saturating_sub(self.first) as usize;
        match self.closed.get_mut(at) {
            Some(epoch) => epoch.packets -= 1,
            None => self.open -= 1,
        }
        let mut pings = Vec::new();
        while let Some(epoch) = self.closed.pop_front_if(|epoch| epoch.packets == 0) {
            pings.push(epoch.ping);
            self.first += 1;
        }
        pings
    }
}

/// A message to a server that has dialled this one.
pub(super) enum Note {
    Answer {
        op: Op,
        seq: u64,
        failed: bool,
    },
    /// A packet was taken or rejected.
    Decided {
        epoch: u64,
    },
    Reject {
        cid: i64,
        route: i32,
        seq: i32,
        reason: RejectReason,
    },
}

impl Item {
    /// Returns about how many bytes it takes in memory.
    pub(super) fn weight(&self) -> usize {
        let packet = match &self.what {
            What::Packet { packet, .. } => packet.len(),
            _ => 0,
        };
        size_of::<Self>() + packet
    }

    fn key(&self) -> Key {
        key(&self.from, (self.cid, self.uid))
    }
}

/// A sender and one of its connections, or one of its users if the packet comes of no connection.
type Key = (Arc<str>, i64, i64);

fn key(from: &Sender, (cid, uid): (i64, i64)) -> Key {
    (from.id.clone(), cid, if cid == 0 { uid } else { 0 })
}

/// The connections whose packets wait, for another reactor or for the locator.
#[derive(Default)]
pub(super) struct Waiting {
    by_conn: HashMap<Key, Held>,
    /// Fences that were released before they were awaited.
    released: HashSet<u64>,
}

struct Held {
    fence: u64,
    items: VecDeque<Item>,
}

impl Waiting {
    /// Returns true if what comes of the connection must wait.
    pub(super) fn holds(&self, from: &Sender, client: (i64, i64)) -> bool {
        !self.by_conn.is_empty() && self.by_conn.contains_key(&key(from, client))
    }

    /// Puts an item behind those that wait. Gives it back if none of its connection does.
    pub(super) fn push(&mut self, item: Item) -> Option<Item> {
        if self.by_conn.is_empty() {
            return Some(item);
        }
        match self.by_conn.get_mut(&item.key()) {
            None => Some(item),
            Some(held) => {
                held.items.push_back(item);
                None
            }
        }
    }

    /// Holds what comes of a connection until the fence is released, unless it is already.
    pub(super) fn hold(&mut self, from: &Sender, client: (i64, i64), fence: u64) {
        if !self.released.remove(&fence) {
            let items = VecDeque::new();
            self.by_conn
                .insert(key(from, client), Held { fence, items });
        }
    }

    /// Releases a fence. Returns what has waited for it.
    pub(super) fn release(
        &mut self,
        from: &Sender,
        client: (i64, i64),
        fence: u64,
    ) -> VecDeque<Item> {
        let key = key(from, client);
        match self.by_conn.get(&key) {
            Some(held) if held.fence == fence => {
                let held = self.by_conn.remove(&key);
                held.map_or_else(VecDeque::new, |held| held.items)
            }
            _ => {
                self.released.insert(fence);
                VecDeque::new()
            }
        }
    }

    /// Returns the number of items that wait.
    pub(super) fn len(&self) -> usize {
        self.by_conn.values().map(|held| held.items.len()).sum()
    }

    /// Puts back what must wait again, behind what waits already.
    pub(super) fn put_back(&mut self, from: &Sender, client: (i64, i64), items: VecDeque<Item>) {
        if let Some(held) = self.by_conn.get_mut(&key(from, client)) {
            held.items.extend(items);
        }
    }
}
