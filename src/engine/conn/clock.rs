//! The times of a connection: its last activity, stalled output, and the next limit to expire.

use super::close::TimeoutKind;
use super::flags::{Flags, Marks, Phase};
use super::limits::{Limits, NEVER};
use super::origin::Origin;
use super::{Alarm, ConnState};

impl ConnState {
    /// Returns the time of the last activity, or an earlier time: the beginning of its turn.
    #[inline]
    pub(crate) fn active_at(&self) -> u64 {
        self.active_at
    }

    /// Returns true if output waits that the kernel has refused.
    pub(crate) fn is_stalled(&self) -> bool {
        self.stalled_since != NEVER
    }

    /// Records that the peer has acknowledged bytes. This is progress, even if the kernel refuses more output.
    pub(crate) fn on_acknowledged(&mut self, now: u64) {
        self.active_at = now;
        self.stalled_since = now;
    }

    /// Returns the limit that has expired, or the time of the next check. The last activity may be up to `late`
    /// milliseconds later than recorded.
    pub(crate) fn alarm(&self, now: u64, late: u64, limits: &Limits) -> Alarm {
        let active_at = self.active_at.saturating_add(late);
        let mut next = NEVER;
        let mut expired = |since: u64, limit: u64| {
            let due = since.saturating_add(limit);
            next = next.min(due);
            due <= now
        };
        match self.phase() {
            // The connection waits until the application reads again.
            Phase::Open if self.has(Flags::BROKEN) => match expired(active_at, limits.fin) {
                true => Alarm::FinOver,
                false => Alarm::At(next),
            },
            Phase::Open => {
                // Answers that are owed or awaited get the drain deadline, as output does.
                let grace = if self.has(Flags::DRAINING) {
                    limits.drain
                } else {
                    0
                };
                let lifetime = limits.lifetime.saturating_add(grace);
                let kind = if expired(self.opened_at, lifetime) {
                    TimeoutKind::Lifetime
                } else if !self.has(Flags::GREETED) && expired(self.opened_at, limits.handshake) {
                    TimeoutKind::Handshake
                } else if self.wants_frames() && expired(self.partial_since, limits.read) {
                    TimeoutKind::Read
                } else if expired(self.stalled_since, limits.write_stall) {
                    TimeoutKind::WriteStall
                } else if !self.ignores_response() && expired(self.close_by, 0) {
                    match self.has(Flags::AWAITS_RESPONSE) {
                        true => TimeoutKind::Response,
                        false => TimeoutKind::Close,
                    }
                } else if self.has(Flags::OWES) && expired(active_at, limits.answer) {
                    TimeoutKind::Answer
                } else if !self.has(Flags::OWES) && expired(active_at, limits.idle) {
                    TimeoutKind::Idle
                } else {
                    return Alarm::At(next);
                };
                Alarm::Timeout(kind)
            }
            Phase::Opening if expired(self.close_by, 0) => Alarm::Timeout(match self.origin() {
                Origin::Connected { .. } if self.never_opened() => TimeoutKind::Connect,
                _ => TimeoutKind::Handshake,
            }),
            Phase::Flushing if expired(self.drain_by(active_at, limits), 0) => Alarm::DrainOver,
            Phase::Flushing if expired(self.stalled_since, limits.write_stall) => Alarm::DrainOver,
            Phase::AwaitingFin if expired(self.close_by, 0) => Alarm::FinOver,
            _ => Alarm::At(next),
        }
    }

    /// Returns true if traffic would have postponed the expired limit and there may be some: a loop that is late has
    /// not received all events. If `known` is false, the number of bytes that the peer has acknowledged can only be
    /// found by sending.
    pub(crate) fn may_have_traffic(&self, alarm: Alarm, known: bool) -> bool {
        match alarm {
            Alarm::Timeout(
                TimeoutKind::Handshake
                | TimeoutKind::Read
                | TimeoutKind::Idle
                | TimeoutKind::Response,
            ) => !self.has(Flags::DATAGRAM) && self.wants_frames(),
            Alarm::Timeout(TimeoutKind::WriteStall) => {
                !known && !self.has(Flags::DATAGRAM | Flags::PIPED)
            }
            _ => false,
        }
    }

    /// Returns true if the peer's answer may have begun and nobody reads, because the handler has paused reads.
    fn ignores_response(&self) -> bool {
        self.has(Flags::AWAITS_RESPONSE) && !self.wants_frames()
    }

    /// Returns the end of the drain.
    fn drain_by(&self, active_at: u64, limits: &Limits) -> u64 {
        let by = if self.marks.contains(Marks::DRAINS_BY_PROGRESS) {
            self.close_by.max(active_at.saturating_add(limits.drain))
        } else {
            self.close_by
        };
        let oldest = self.opened_at.saturating_add(limits.lifetime);
        by.min(oldest.saturating_add(limits.drain))
    }
}
