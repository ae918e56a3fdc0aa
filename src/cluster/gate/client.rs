use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::options::RateLimit;
use super::resume::{Resumable, TakenUser};
use super::work::Parcel;
use crate::addr::Addr;
use crate::cluster::packet::EncodedPacket;
use crate::engine::conn::write::WriteError;
use crate::engine::handler::ConnTimer;

/// A client, as the session of its connection.
pub(super) struct Client {
    /// Its number, or 0 until its WebSocket is open.
    pub(super) cid: i64,
    /// The address that limits count: that of the peer, or the one that a trusted proxy has told.
    pub(super) ip: Option<IpAddr>,
    /// True if a proxy has told it in a field of the request.
    pub(super) is_told: bool,
    /// The time of its last sign of life.
    pub(super) last: Instant,
    pub(super) speaks_control: bool,
    limiter: Option<Box<Limiter>>,
    /// The event that its packets wait for. Nothing is read meanwhile.
    pub(super) wait: Wait,
    /// The packet that was read last, if it waits.
    pub(super) held: Option<Held>,
    /// The nodes that its packets of stateful routes were sent to.
    pub(super) places: Vec<Place>,
    /// The packets that a node has rejected since its user has moved, in the order in which they were read. They go before the one
    /// that is held.
    pub(super) returned: VecDeque<Held>,
    /// The number of packets of stateful routes that were read.
    pub(super) read: u64,
    /// The time until the locator is asked again.
    pub(super) retry_after: Duration,
    pub(super) share: Share,
    /// True while nothing is read because the client has sent too much.
    pub(super) is_delayed: bool,
    /// WebSocket messages of size 0 in a row.
    pub(super) empty_in_row: u8,
    pub(super) authorizing: Option<ConnTimer>,
    /// The number of packets that were sent to it, but for heartbeats and control packets, while no token was issued.
    pub(super) sent: u64,
    pub(super) resumable: Option<Box<Resumable>>,
    pub(super) resuming: Option<Box<Resuming>>,
    /// True if it seemed silent when the gate was late itself.
    pub(super) is_doubted: bool,
    /// True once it has tried to resume.
    pub(super) has_tried: bool,
    /// True if it is closed since nothing comes from it any more.
    pub(super) is_lost: bool,
    /// True if it is closed on purpose.
    pub(super) is_ended: bool,
    /// True over KCP until the peer has proved its address.
    #[cfg(feature = "kcp")]
    pub(super) is_unproved: bool,
}

/// The part of a client in the load of the links.
#[derive(Default)]
pub(super) struct Share {
    /// The number of the load.
    pub(super) load: u64,
    pub(super) bytes: usize,
}

/// A client that has asked to resume.
pub(super) struct Resuming {
    /// The gate that has its user, if it is another one.
    pub(super) from: Option<Box<str>>,
    pub(super) uid: i64,
    pub(super) last: u64,
    pub(super) taken: Option<TakenUser>,
    /// The pushes that have come meanwhile, and if they were passed on from the old connection. They follow those that were missed.
    pub(super) pending: Vec<(Arc<Parcel>, bool)>,
    pub(super) bytes: usize,
}

/// The event that the packets of a client wait for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    Nothing,
    /// The answer of the locator.
    Locator,
    /// The nodes that have to take or reject what was sent to them, so that nothing overtakes it on the way to another node.
    Nodes,
    /// The locator, which still names the node that the user has left.
    Move,
    /// The link to a node, which has much to send.
    Link,
    /// The user that it takes back.
    Resume,
}

impl Wait {
    /// Returns true for those that [`GateStats::waiting`](super::GateStats::waiting) counts.
    pub(super) fn is_counted(self) -> bool {
        matches!(self, Wait::Locator | Wait::Nodes | Wait::Move)
    }
}

/// The node of an alias that a client's packets were sent to.
pub(super) struct Place {
    pub(super) alias: Arc<str>,
    pub(super) nid: Arc<str>,
    /// The number of the last one on the way to that node.
    pub(super) last: u64,
    pub(super) left: Left,
    /// True if the node has rejected one, and does not know that all of them are back.
    pub(super) rejects: bool,
    /// The number of times that the locator still named it then.
    pub(super) tries: u32,
}

impl Place {
    pub(super) fn new(alias: Arc<str>, nid: Arc<str>) -> Self {
        Self {
            alias,
            nid,
            last: 0,
            left: Left::No,
            rejects: false,
            tries: 0,
        }
    }
}

/// True if the user of a client has left a node.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    No,
    /// The node has rejected a packet. The user may have come back since.
    Moved,
    /// The node takes no more.
    Ended,
}

/// A packet of a stateful route, with its user when it was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Held {
    /// Its place among those of its connection.
    pub(super) order: u64,
    pub(super) uid: i64,
    /// The number of times that it was tried at a node that has rejected it.
    pub(super) tries: u32,
    pub(super) bytes: Box<[u8]>,
}

impl Resuming {
    /// Holds a push back.
    pub(super) fn hold(&mut self, parcel: &Arc<Parcel>, limit: usize) -> Result<(), WriteError> {
        self.keep(parcel, false, limit)
    }

    /// Holds a push back that was passed on from the old connection, and is for the user only.
    pub(super) fn hold_passed(
        &mut self,
        parcel: &Arc<Parcel>,
        limit: usize,
    ) -> Result<(), WriteError> {
        self.keep(parcel, true, limit)
    }

    fn keep(
        &mut self,
        parcel: &Arc<Parcel>,
        is_passed: bool,
        limit: usize,
    ) -> Result<(), WriteError> {
        let queued = self.bytes;
        self.bytes += size_of::<Arc<Parcel>>() + parcel.packet.as_bytes().len();
        if self.bytes > limit {
            return Err(WriteError::Full { queued, limit });
        }
        self.pending.push((parcel.clone(), is_passed));
        Ok(())
    }
}

impl Client {
    /// The tokens of its timers.
    pub(super) const LIFE: u64 = 0;
    pub(super) const TICK: u64 = 1;
    pub(super) const AUTHORIZE: u64 = 2;
    pub(super) const RESUME: u64 = 3;
    pub(super) const RETRY: u64 = 4;
    pub(super) const HELD_UP: u64 = 7;
    #[cfg(feature = "kcp")]
    pub(super) const FLUSH: u64 = 5;
    /// Packets that have waited are handled.
    #[cfg(feature = "kcp")]
    pub(super) const READ: u64 = 6;

    pub(super) fn new(ip: Option<IpAddr>, now: Instant, rate: Option<RateLimit>) -> Self {
        Self {
            cid: 0,
            ip,
            is_told: false,
            last: now,
            speaks_control: false,
            limiter: rate.map(|rate| Box::new(Limiter::new(rate, now))),
            wait: Wait::Nothing,
            held: None,
            places: Vec::new(),
            returned: VecDeque::new(),
            read: 0,
            retry_after: Duration::ZERO,
            share: Share::default(),
            is_delayed: false,
            empty_in_row: 0,
            authorizing: None,
            sent: 0,
            resumable: None,
            resuming: None,
            is_doubted: false,
            has_tried: false,
            is_lost: false,
            is_ended: false,
            #[cfg(feature = "kcp")]
            is_unproved: false,
        }
    }

    /// Counts a packet that was sent, and keeps it if the client can resume.
    pub(super) fn count(&mut self, packet: &EncodedPacket) {
        match &mut self.resumable {
            Some(resumable) => resumable.pushes.push(packet.clone()),
            None => self.sent += 1,
        }
    }

    /// Takes back a packet that was rejected.
    pub(super) fn take_back(&mut self, packet: Held) {
        // A node may reject one that was read earlier after another node's have come back.
        let place = (self.returned).partition_point(|other| other.order < packet.order);
        self.returned.insert(place, packet);
    }

    /// Notes that a node has rejected a packet of this client.
    pub(super) fn leave(&mut self, nid: &str, left: Left) {
        let places = self.places.iter_mut();
        for place in places.filter(|place| &*place.nid == nid) {
            (place.left, place.rejects) = (left, true);
        }
    }

    /// Returns the client's address, as far as it is known. `peer` is that of the connection.
    pub(super) fn address(&self, peer: &Addr) -> String {
        match self.ip.filter(|_| self.is_told) {
            Some(ip) => ip.to_string(),
            None => peer.to_string(),
        }
    }

    /// Counts a packet. Returns the time for which the client sends too fast.
    pub(super) fn over_rate(&mut self, len: usize, now: Instant) -> Option<(RateLimit, Duration)> {
        let limiter = self.limiter.as_mut()?;
        let over = limiter.take(len, now)?;
        Some((limiter.rate, over))
    }
}

/// A meter of packets and bytes: the generic cell rate algorithm, which needs a time for each and no timer.
struct Limiter {
    rate: RateLimit,
    began: Instant,
    /// The times at which all that was sent would have been sent at the allowed rate.
    packets_at: Duration,
    bytes_at: Duration,
}

impl Limiter {
    fn new(rate: RateLimit, now: Instant) -> Self {
        Self {
            rate,
            began: now,
            packets_at: Duration::ZERO,
            bytes_at: Duration::ZERO,
        }
    }

    /// Counts a packet, unless it is too much and not to be delayed. Returns how far it is ahead of the burst.
    fn take(&mut self, len: usize, now: Instant) -> Option<Duration> {
        let now = now.saturating_duration_since(self.began);
        let cost = |units: usize, rate: u32| match rate {
            0 => Duration::ZERO,
            rate => Duration::from_secs_f64(units as f64 / f64::from(rate)),
        };
        let packets_at = self.packets_at.max(now) + cost(1, self.rate.packets);
        let bytes_at = self.bytes_at.max(now) + cost(len, self.rate.bytes);
        let ahead = packets_at.max(bytes_at).saturating_sub(now);
        let over = ahead.saturating_sub(self.rate.burst);
        let counts = over.is_zero() || self.rate.policy == super::OverRate::Delay;
        if counts {
            (self.packets_at, self.bytes_at) = (packets_at, bytes_at);
        }
        (!over.is_zero()).then_some(over)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::OverRate;
    use super::*;

    #[test]
    fn a_burst_passes_and_then_the_rate_holds() {
        let now = Instant::now();
        let rate = RateLimit::per_second(10, 0).policy(OverRate::Drop);
        let mut limiter = Limiter::new(rate, now);
        let mut passed = |at: Duration| {
            let all = 0..100;
            all.filter(|_| limiter.take(1000, now + at).is_none())
                .count()
        };
        assert_eq!(passed(Duration::ZERO), 10);
        assert_eq!(passed(Duration::from_millis(300)), 3);
        assert_eq!(passed(Duration::from_secs(60)), 10, "no more is saved up");
    }

    #[test]
    fn bytes_are_limited_too_and_a_delay_tells_for_how_long() {
        let now = Instant::now();
        let mut limiter = Limiter::new(RateLimit::per_second(0, 1000), now);
        assert_eq!(limiter.take(1000, now), None);
        let over = limiter.take(500, now).expect("that is too much");
        assert_eq!(over.as_millis(), 500);
        let over = limiter.take(500, now + over).expect("still too much");
        assert_eq!(over.as_millis(), 500);
    }
}
