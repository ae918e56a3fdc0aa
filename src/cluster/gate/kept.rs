use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use super::client::Held;
use super::resume::refusal_of;
use crate::cluster::drpc::{Answer, Code, RejectReason, Value};
use crate::cluster::link::{Identity, LaneEvent};
use crate::cluster::packet::ResumeRefusal;
use crate::cluster::{Error, Kind};

/// The packets of stateful routes that were sent to nodes and may still be rejected.
///
/// Packets have no answers. So the gate keeps a copy until the node has answered a Ping that was sent later: it answers that when it
/// has taken or rejected all that came before. A node of due rejects nothing, and nothing is kept for it.
#[derive(Default)]
pub(super) struct Kept {
    nodes: BTreeMap<String, Way>,
    /// The number of the last packet to any node, so that a node that comes back under its id has no number twice.
    last: u64,
}

/// The way to one node.
#[derive(Default)]
struct Way {
    packets: VecDeque<KeptPacket>,
    bytes: usize,
    /// The packets that the node has rejected since the last packets were decided. The same key may come several times.
    rejected: HashMap<PacketKey, Vec<RejectReason>>,
    /// The number of these.
    rejections: usize,
    /// The number of the last packet that was sent.
    sent: u64,
    /// The packets up to this number have been taken or rejected.
    decided: u64,
    /// The last Ping tells about the packets up to this number.
    asked: u64,
    /// The Pings in a row that got no answer.
    unanswered: u32,
    /// True if the next Ping shall be sent at once.
    is_urgent: bool,
    /// True if the node knows Ping and Reject, `None` until it has told.
    extensions: Option<bool>,
}

struct KeptPacket {
    number: u64,
    key: PacketKey,
    packet: Held,
}

/// The connection, the route and the seq of a packet.
pub(super) type PacketKey = (i64, i32, i32);

/// A packet that was rejected. It is gone if too many were kept.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Returned {
    pub(super) key: PacketKey,
    pub(super) reason: RejectReason,
    pub(super) packet: Option<Held>,
}

/// A Ping to a node, as the token of its call: the number of the last packet before it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fence(pub(super) u64);

/// A question to another server, as the token of its call.
#[derive(Clone, Copy, Debug)]
pub(super) enum Asked {
    /// A Ping to a node about packets.
    Fence(Fence),
    /// A Ping to a node about all that came before, for a claim of this number.
    Order(u64),
    /// A claim on a user at another gate: the connection, and the user.
    Take(i64, i64),
}

/// A change on the link to a node, to be heeded at the end of the turn.
pub(super) enum Notice {
    Rejected {
        nid: String,
        packet: PacketKey,
        reason: RejectReason,
    },
    Decided {
        nid: String,
        fence: Fence,
    },
    /// There was no answer to a Ping in time.
    Unanswered {
        nid: String,
    },
    Up {
        nid: String,
        extensions: bool,
    },
    GaveUp {
        nid: String,
    },
    /// All that a claim has to wait for at one node is done.
    Ordered(u64),
    /// Another gate has answered the claim of a connection on a user, or has not.
    Taken {
        gid: String,
        cid: i64,
        uid: i64,
        taken: Result<Vec<u8>, ResumeRefusal>,
    },
}

/// The maximum number of bytes kept for one node. Beyond it the oldest packet is not kept, and is lost if it is rejected.
const MAX_BYTES: usize = 4 << 20;

/// After so many Pings without an answer, clients no longer wait for the node.
const MAX_UNANSWERED: u32 = 3;

impl Kept {
    /// Keeps a packet that was sent. Returns its number.
    pub(super) fn keep(&mut self, nid: &str, key: PacketKey, packet: impl FnOnce() -> Held) -> u64 {
        let way = way(&mut self.nodes, self.last, nid);
        if way.extensions == Some(false) {
            return 0;
        }
        self.last += 1;
        way.sent = self.last;
        let kept = KeptPacket {
            number: self.last,
            key,
            packet: packet(),
        };
        way.bytes += kept.weight();
        way.packets.push_back(kept);
        while way.bytes > MAX_BYTES
            && let Some(oldest) = way.packets.pop_front()
        {
            way.bytes -= oldest.weight();
        }
        way.is_urgent |= way.bytes > MAX_BYTES / 2;
        self.last
    }

    /// Notes that a node has rejected a packet. Which one it was is known when all packets of its connection are decided, since those
    /// that are rejected are the last ones. Returns false if nothing is kept for the node.
    pub(super) fn reject(&mut self, nid: &str, key: PacketKey, reason: RejectReason) -> bool {
        let Some(way) = self.nodes.get_mut(nid) else {
            return false;
        };
        // A node that rejects more than it was sent is not believed.
        let undecided = way.sent.saturating_sub(way.decided);
        if undecided == 0 || way.rejections as u64 >= undecided + way.packets.len() as u64 {
            return false;
        }
        way.rejected.entry(key).or_default().push(reason);
        way.rejections += 1;
        way.is_urgent = true;
        true
    }

    /// Returns true if the node has taken or rejected the packets up to this number, or is gone.
    pub(super) fn is_decided(&self, nid: &str, number: u64) -> bool {
        (self.nodes.get(nid)).is_none_or(|way| way.decided >= number)
    }

    /// Notes that the packets up to this number have been taken or rejected, or have got lost with their link. Returns those that were
    /// rejected, in their order.
    pub(super) fn decided(&mut self, nid: &str, Fence(number): Fence) -> Vec<Returned> {
        let way = self.nodes.get_mut(nid);
        way.map_or_else(Vec::new, |way| {
            way.unanswered = 0;
            way.decide(number)
        })
    }

    /// Notes that a Ping was not answered. Another one is sent, but not for ever.
    pub(super) fn unanswered(&mut self, nid: &str) -> Vec<Returned> {
        let Some(way) = self.nodes.get_mut(nid) else {
            return Vec::new();
        };
        way.unanswered += 1;
        if way.unanswered >= MAX_UNANSWERED {
            way.unanswered = 0;
            return way.decide(way.asked);
        }
        way.asked = way.decided;
        way.is_urgent = true;
        Vec::new()
    }

    /// Returns true if a node is known to have the extensions.
    pub(super) fn knows(&self, nid: &str) -> bool {
        (self.nodes.get(nid)).is_some_and(|way| way.extensions == Some(true))
    }

    /// Notes what a node has told about itself.
    pub(super) fn set_extensions(&mut self, nid: &str, extensions: bool) -> Vec<Returned> {
        let way = way(&mut self.nodes, self.last, nid);
        way.extensions = Some(extensions);
        match extensions {
            true => Vec::new(),
            false => way.decide(way.sent),
        }
    }

    /// Notes that packets were given up before the node has told anything about itself.
    pub(super) fn gave_up(&mut self, nid: &str) -> Vec<Returned> {
        match self.nodes.get_mut(nid) {
            Some(way) if way.extensions.is_none() => way.decide(way.sent),
            _ => Vec::new(),
        }
    }

    /// Forgets the nodes that are gone. Returns what they had rejected.
    pub(super) fn retain(&mut self, is_there: impl Fn(&str) -> bool) -> Vec<Returned> {
        let gone = self.nodes.extract_if(.., |nid, _| !is_there(nid));
        gone.flat_map(|(_, mut way)| way.decide(way.sent)).collect()
    }

    /// Asks a node as soon as possible.
    pub(super) fn hurry(&mut self, nid: &str) {
        if let Some(way) = self.nodes.get_mut(nid) {
            way.is_urgent = true;
        }
    }

    /// Asks all nodes as soon as possible.
    pub(super) fn hurry_all(&mut self) {
        for way in self.nodes.values_mut() {
            way.is_urgent = true;
        }
    }

    /// Returns true if a node may still reject something.
    pub(super) fn is_undecided(&self) -> bool {
        self.nodes.values().any(|way| way.decided < way.sent)
    }

    /// Sends the Pings that are due, one at a time to a node.
    pub(super) fn ask(&mut self, mut ping: impl FnMut(&str, Fence) -> bool) {
        for (nid, way) in &mut self.nodes {
            let is_answered = way.decided >= way.asked;
            let is_due = way.is_urgent && is_answered && way.decided < way.sent;
            if is_due && way.extensions == Some(true) && ping(nid, Fence(way.sent)) {
                way.asked = way.sent;
                way.is_urgent = false;
            }
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.nodes.values().map(|way| way.bytes).sum()
    }
}

/// Returns the way to a node. A new one has nothing undecided.
fn way<'n>(nodes: &'n mut BTreeMap<String, Way>, last: u64, nid: &str) -> &'n mut Way {
    if !nodes.contains_key(nid) {
        let way = Way {
            sent: last,
            decided: last,
            asked: last,
            ..Way::default()
        };
        nodes.insert(nid.to_owned(), way);
    }
    nodes.entry(nid.to_owned()).or_default()
}

impl KeptPacket {
    /// Returns about how many bytes it takes in memory.
    fn weight(&self) -> usize {
        size_of::<Self>() + self.packet.bytes.len()
    }
}

impl Way {
    /// Takes out the packets up to this number. Returns those that were rejected, in their order.
    fn decide(&mut self, number: u64) -> Vec<Returned> {
        self.decided = self.decided.max(number);
        let decided = self.packets.partition_point(|kept| kept.number <= number);
        let mut decided: VecDeque<_> = self.packets.drain(..decided).collect();
        let mut returned = Vec::new();
        if !self.rejected.is_empty() {
            // Those of these connections are matched when all of their packets are decided.
            let later: HashSet<i64> = self.packets.iter().map(|kept| kept.key.0).collect();
            let mut undecided = Vec::new();
            while let Some(kept) = decided.pop_back() {
                if later.contains(&kept.key.0) {
                    undecided.push(kept);
                    continue;
                }
                self.bytes -= kept.weight();
                if let Some(reason) = self.rejected.get_mut(&kept.key).and_then(Vec::pop) {
                    self.rejections -= 1;
                    returned.push(Returned {
                        key: kept.key,
                        reason,
                        packet: Some(kept.packet),
                    });
                }
            }
            for kept in undecided {
                self.packets.push_front(kept);
            }
            returned.reverse();
            self.rejected.retain(|key, reasons| {
                if later.contains(&key.0) {
                    return true;
                }
                self.rejections -= reasons.len();
                returned.extend(reasons.drain(..).map(|reason| Returned {
                    key: *key,
                    reason,
                    packet: None,
                }));
                false
            });
        }
        for kept in decided {
            self.bytes -= kept.weight();
        }
        returned
    }
}

/// Notes an event of the link to a node.
pub(super) fn note(notices: &mut Vec<Notice>, node: &Identity, event: LaneEvent<'_, Asked>) {
    let nid = node.id.clone();
    if node.kind == Kind::Gate && !matches!(event, LaneEvent::Answered { .. }) {
        return;
    }
    notices.push(match event {
        LaneEvent::Up { extensions, .. } => Notice::Up { nid, extensions },
        LaneEvent::Answered {
            token: Asked::Order(order),
            ..
        } => Notice::Ordered(order),
        LaneEvent::Answered {
            token: Asked::Take(cid, uid),
            result,
        } => {
            let taken = match result {
                Ok(Answer {
                    value: Value::Taken(taken),
                    ..
                }) => Ok(taken.as_bytes().to_vec()),
                Ok(answer) => Err(refusal_of(answer.code.code())),
                Err(_) => Err(ResumeRefusal::Unavailable),
            };
            Notice::Taken {
                gid: nid,
                cid,
                uid,
                taken,
            }
        }
        LaneEvent::Answered {
            token: Asked::Fence(fence),
            result,
        } => match result {
            Ok(answer) if answer.code != Code::Done => Notice::Unanswered { nid },
            Err(Error::Timeout { .. }) => Notice::Unanswered { nid },
            // With any other error the link has ended, and with it what was on its way.
            Ok(_) | Err(_) => Notice::Decided { nid, fence },
        },
        LaneEvent::Rejected {
            cid,
            route,
            seq,
            reason,
        } => Notice::Rejected {
            nid,
            packet: (cid, route, seq),
            reason,
        },
        LaneEvent::GaveUp { .. } => Notice::GaveUp { nid },
        LaneEvent::Bye => return,
    });
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn kept() -> Kept {
        let mut kept = Kept::default();
        kept.set_extensions("a", true);
        kept
    }

    fn held(data: &[u8]) -> impl FnOnce() -> Held {
        let packet = Held {
            order: 0,
            uid: 7,
            tries: 0,
            bytes: data.into(),
        };
        || packet
    }

    fn asked(kept: &mut Kept) -> Vec<u64> {
        let mut asked = Vec::new();
        kept.ask(|_, Fence(number)| {
            asked.push(number);
            true
        });
        asked
    }

    fn packets(returned: Vec<Returned>) -> Vec<(i32, Option<Vec<u8>>)> {
        let packet = |returned: Returned| {
            let bytes = returned.packet.map(|packet| packet.bytes.into());
            (returned.key.2, bytes)
        };
        returned.into_iter().map(packet).collect()
    }

    #[test]
    fn a_packet_is_kept_until_a_later_question_is_answered() {
        let mut kept = kept();
        for seq in 1..=3 {
            kept.keep("a", (5, 1, seq), held(b"data"));
        }
        assert!(asked(&mut kept).is_empty(), "there is no hurry");
        kept.hurry("a");
        assert_eq!(asked(&mut kept), [3]);
        assert_eq!(kept.keep("a", (6, 1, 4), held(b"late")), 4);
        kept.hurry("a");
        assert!(asked(&mut kept).is_empty(), "one at a time");
        assert!(kept.reject("a", (5, 1, 2), RejectReason::Moved));
        assert!(kept.reject("a", (5, 1, 3), RejectReason::Moved));
        let data = || Some(b"data".to_vec());
        let returned = packets(kept.decided("a", Fence(3)));
        assert_eq!(returned, [(2, data()), (3, data())]);
        assert!(kept.is_decided("a", 3) && !kept.is_decided("a", 4));
        assert_eq!(asked(&mut kept), [4]);
        assert!(packets(kept.decided("a", Fence(4))).is_empty());
        assert_eq!(kept.bytes(), 0);
        assert!(!kept.reject("a", (5, 1, 2), RejectReason::Moved));
    }

    #[test]
    fn of_packets_that_are_alike_the_last_ones_are_those_that_were_rejected() {
        let mut kept = kept();
        for data in [b"1", b"2", b"3"] {
            kept.keep("a", (5, 3, 0), held(data));
        }
        kept.hurry("a");
        assert_eq!(asked(&mut kept), [3]);
        // Behind the question.
        kept.keep("a", (5, 3, 0), held(b"4"));
        assert!(kept.reject("a", (5, 3, 0), RejectReason::Moved));
        assert!(kept.reject("a", (5, 3, 0), RejectReason::Moved));
        assert!(packets(kept.decided("a", Fence(3))).is_empty());
        assert_eq!(asked(&mut kept), [4]);
        let returned = packets(kept.decided("a", Fence(4)));
        assert_eq!(
            returned,
            [(0, Some(b"3".to_vec())), (0, Some(b"4".to_vec()))]
        );
        assert_eq!(kept.bytes(), 0);
    }

    #[test]
    fn a_node_that_comes_back_under_its_id_has_nothing_undecided() {
        let mut kept = kept();
        let before = kept.keep("a", (5, 1, 1), held(b"data"));
        assert!(kept.reject("a", (5, 1, 1), RejectReason::Draining));
        let returned = packets(kept.retain(|_| false));
        assert_eq!(returned, [(1, Some(b"data".to_vec()))]);
        kept.set_extensions("a", true);
        assert!(kept.is_decided("a", before));
        let after = kept.keep("a", (6, 1, 1), held(b"data"));
        assert!(after > before && !kept.is_decided("a", after));
    }

    #[test]
    fn a_question_without_an_answer_is_asked_again_but_not_for_ever() {
        let mut kept = kept();
        let number = kept.keep("a", (5, 1, 1), held(b"data"));
        kept.hurry("a");
        for _ in 1..MAX_UNANSWERED {
            assert_eq!(asked(&mut kept), [number]);
            assert!(kept.unanswered("a").is_empty());
            assert!(!kept.is_decided("a", number));
        }
        assert_eq!(asked(&mut kept), [number]);
        assert!(kept.unanswered("a").is_empty());
        assert!(kept.is_decided("a", number));
    }

    #[test]
    fn nothing_is_kept_for_a_node_that_rejects_nothing_or_is_gone() {
        let mut kept = Kept::default();
        let first = kept.keep("a", (5, 1, 1), held(b"data"));
        assert!(!kept.is_decided("a", first), "it has not told");
        kept.set_extensions("a", false);
        assert!(kept.is_decided("a", first));
        let second = kept.keep("a", (5, 1, 1), held(b"data"));
        assert!(kept.is_decided("a", second));
        let third = kept.keep("b", (5, 1, 1), held(b"data"));
        kept.gave_up("b");
        assert!(kept.is_decided("b", third));
        let fourth = kept.keep("b", (5, 1, 1), held(b"data"));
        kept.retain(|nid| nid == "a");
        assert!(kept.is_decided("b", fourth));
        assert_eq!(kept.bytes(), 0);
    }

    #[test]
    fn a_node_cannot_reject_more_than_it_was_sent() {
        let mut kept = kept();
        for seq in 1..=3 {
            kept.keep("a", (5, 1, seq), held(b"data"));
        }
        let believed = (0..100).filter(|_| kept.reject("a", (5, 1, 2), RejectReason::Moved));
        assert_eq!(believed.count(), 6);
        kept.hurry("a");
        assert_eq!(asked(&mut kept), [3]);
        assert_eq!(kept.decided("a", Fence(3)).len(), 6);
        kept.keep("a", (5, 1, 4), held(b"data"));
        assert!(kept.reject("a", (5, 1, 4), RejectReason::Moved));
    }

    #[test]
    fn what_is_kept_is_bounded_and_is_asked_about_before() {
        let mut kept = kept();
        let packet = vec![0; 1 << 20];
        for seq in 0..8 {
            kept.keep("a", (5, 1, seq), held(&packet));
            assert!(kept.bytes() <= MAX_BYTES);
        }
        assert_eq!(asked(&mut kept), [8]);
        for seq in [3, 7] {
            assert!(kept.reject("a", (5, 1, seq), RejectReason::Moved));
        }
        let returned = packets(kept.decided("a", Fence(8)));
        assert_eq!(returned, [(7, Some(packet)), (3, None)]);
    }
}
