use std::collections::{HashMap, VecDeque};

use crate::cluster::drpc::RejectReason;
use crate::cluster::link::{Identity, LaneEvent};

/// The packets of stateful routes that were sent to nodes and may still be rejected.
///
/// Packets have no answers. So the gate keeps a copy until the node has answered a Ping that was sent later: it answers that when it
/// has taken or rejected all that came before. A node of due rejects nothing, and nothing is kept for it.
#[derive(Default)]
pub(super) struct Kept {
    nodes: HashMap<String, Way>,
}

/// The way to one node.
#[derive(Default)]
struct Way {
    packets: VecDeque<KeptPacket>,
    bytes: usize,
    /// The number of packets that were sent.
    sent: u64,
    /// The packets up to this number have been taken or rejected.
    decided: u64,
    /// The last Ping tells about the packets up to this number.
    asked: u64,
    /// True if the next Ping shall be sent at once.
    is_urgent: bool,
    /// True if the node knows Ping and Reject, `None` until it has told.
    extensions: Option<bool>,
}

struct KeptPacket {
    number: u64,
    cid: i64,
    route: i32,
    seq: i32,
    bytes: Box<[u8]>,
}

/// A Ping to a node, as the token of its call: the number of the last packet before it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fence(pub(super) u64);

/// A change on the link to a node, to be heeded at the end of the turn.
pub(super) enum Notice {
    Rejected {
        nid: String,
        /// The packet's connection, route and seq.
        packet: (i64, i32, i32),
        reason: RejectReason,
    },
    Decided {
        nid: String,
        fence: Fence,
    },
    Up {
        nid: String,
        extensions: bool,
    },
    GaveUp {
        nid: String,
    },
}

/// The maximum number of bytes kept for one node. Beyond it the oldest packet is not kept, and is lost if it is rejected.
const MAX_BYTES: usize = 4 << 20;

impl Kept {
    /// Keeps a packet that was sent. Returns its number on the way to its node.
    pub(super) fn keep(
        &mut self,
        nid: &str,
        (cid, route, seq): (i64, i32, i32),
        packet: &[u8],
    ) -> u64 {
        let way = match self.nodes.get_mut(nid) {
            Some(way) => way,
            None => self.nodes.entry(nid.to_owned()).or_default(),
        };
        if way.extensions == Some(false) {
            return 0;
        }
        way.sent += 1;
        way.bytes += packet.len();
        way.packets.push_back(KeptPacket {
            number: way.sent,
            cid,
            route,
            seq,
            bytes: packet.into(),
        });
        while way.bytes > MAX_BYTES
            && let Some(oldest) = way.packets.pop_front()
        {
            way.bytes -= oldest.bytes.len();
        }
        way.is_urgent |= way.bytes > MAX_BYTES / 2;
        way.sent
    }

    /// Returns the first packet that was sent to the node and fits, if it was kept. It is not kept any longer.
    pub(super) fn take(&mut self, nid: &str, wanted: (i64, i32, i32)) -> Option<Box<[u8]>> {
        let way = self.nodes.get_mut(nid)?;
        let mut packets = way.packets.iter();
        let at = packets.position(|kept| (kept.cid, kept.route, kept.seq) == wanted)?;
        let kept = way.packets.remove(at)?;
        way.bytes -= kept.bytes.len();
        Some(kept.bytes)
    }

    /// Returns true if the node has taken or rejected the packets up to this number, or is gone.
    pub(super) fn is_decided(&self, nid: &str, number: u64) -> bool {
        (self.nodes.get(nid)).is_none_or(|way| way.decided >= number)
    }

    /// Notes that the packets up to this number have been taken or rejected, or have got lost with their link.
    pub(super) fn decided(&mut self, nid: &str, Fence(number): Fence) {
        if let Some(way) = self.nodes.get_mut(nid) {
            way.decide(number);
        }
    }

    /// Notes what a node has told about itself.
    pub(super) fn set_extensions(&mut self, nid: &str, extensions: bool) {
        let way = self.nodes.entry(nid.to_owned()).or_default();
        way.extensions = Some(extensions);
        if !extensions {
            way.decide(way.sent);
        }
    }

    /// Notes that packets were given up before the node has told anything about itself.
    pub(super) fn gave_up(&mut self, nid: &str) {
        if let Some(way) = self.nodes.get_mut(nid)
            && way.extensions.is_none()
        {
            way.decide(way.sent);
        }
    }

    /// Forgets the nodes that are gone.
    pub(super) fn retain(&mut self, is_there: impl Fn(&str) -> bool) {
        self.nodes.retain(|nid, _| is_there(nid));
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

impl Way {
    fn decide(&mut self, number: u64) {
        self.decided = self.decided.max(number);
        while let Some(first) = self.packets.front()
            && first.number <= number
        {
            self.bytes -= first.bytes.len();
            self.packets.pop_front();
        }
    }
}

/// Notes an event of the link to a node.
pub(super) fn note(notices: &mut Vec<Notice>, node: &Identity, event: LaneEvent<'_, Fence>) {
    let nid = node.id.clone();
    notices.push(match event {
        LaneEvent::Up { extensions, .. } => Notice::Up { nid, extensions },
        // Without an answer the link has ended, and with it what was on its way.
        LaneEvent::Answered { token: fence, .. } => Notice::Decided { nid, fence },
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

    fn asked(kept: &mut Kept) -> Vec<u64> {
        let mut asked = Vec::new();
        kept.ask(|_, Fence(number)| {
            asked.push(number);
            true
        });
        asked
    }

    #[test]
    fn a_packet_is_kept_until_a_later_question_is_answered() {
        let mut kept = kept();
        for seq in 1..=3 {
            kept.keep("a", (5, 1, seq), b"data");
        }
        assert!(asked(&mut kept).is_empty(), "there is no hurry");
        kept.hurry("a");
        assert_eq!(asked(&mut kept), [3]);
        assert_eq!(kept.keep("a", (5, 1, 4), b"late"), 4);
        kept.hurry("a");
        assert!(asked(&mut kept).is_empty(), "one at a time");
        assert_eq!(kept.take("a", (5, 1, 2)).as_deref(), Some(&b"data"[..]));
        assert_eq!(kept.take("a", (5, 1, 2)), None);
        kept.decided("a", Fence(3));
        assert!(kept.is_decided("a", 3) && !kept.is_decided("a", 4));
        assert_eq!(kept.take("a", (5, 1, 1)), None);
        assert_eq!((asked(&mut kept), kept.bytes()), (vec![4], 4));
    }

    #[test]
    fn nothing_is_kept_for_a_node_that_rejects_nothing_or_is_gone() {
        let mut kept = Kept::default();
        let first = kept.keep("a", (5, 1, 1), b"data");
        assert!(!kept.is_decided("a", first), "it has not told");
        kept.set_extensions("a", false);
        assert!(kept.is_decided("a", first));
        let second = kept.keep("a", (5, 1, 1), b"data");
        assert!(kept.is_decided("a", second));
        let third = kept.keep("b", (5, 1, 1), b"data");
        kept.gave_up("b");
        assert!(kept.is_decided("b", third));
        let fourth = kept.keep("b", (5, 1, 1), b"data");
        kept.retain(|nid| nid == "a");
        assert!(kept.is_decided("b", fourth));
        assert_eq!(kept.bytes(), 0);
    }

    #[test]
    fn what_is_kept_is_bounded_and_is_asked_about_before() {
        let mut kept = kept();
        let packet = vec![0; 1 << 20];
        for seq in 0..8 {
            kept.keep("a", (5, 1, seq), &packet);
            assert!(kept.bytes() <= MAX_BYTES);
        }
        assert_eq!(asked(&mut kept), [8]);
        assert_eq!(kept.take("a", (5, 1, 3)), None);
        assert!(kept.take("a", (5, 1, 4)).is_some());
    }
}
