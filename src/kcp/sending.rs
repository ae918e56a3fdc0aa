use std::collections::VecDeque;

use super::KcpOptions;
use super::round_trip::RoundTrip;
use super::segment::distance;

/// The half of a connection that sends. Times are milliseconds since the connection began.
#[derive(Debug)]
pub(super) struct Sending {
    /// The number of the first segment in flight, or of the next one.
    first: u32,
    /// The segments that were sent. The first of them is not acknowledged.
    flight: VecDeque<Flying>,
    queue: VecDeque<Vec<u8>>,
    /// The bytes in both.
    bytes: usize,
    no_delay: bool,
    fast_resend: u32,
    window: usize,
    peer_window: usize,
    congestion: Option<Congestion>,
    pub(super) round_trip: RoundTrip,
    /// No segment is due before.
    resend_at: u64,
    /// True if a segment was skipped often enough to be sent again at once.
    is_skipped: bool,
    /// The time to ask for the window, while the peer has none, and the time to wait after that.
    probe: Option<(u64, u64)>,
    is_dead: bool,
}

/// A segment that was sent.
#[derive(Debug)]
pub(super) struct Flying {
    /// Empty once it is acknowledged.
    data: Vec<u8>,
    is_acked: bool,
    /// The clock in its head.
    ts: u32,
    resend_at: u64,
    timeout: u32,
    /// The acknowledgements of later ones since it was sent.
    skipped: u32,
    times: u32,
}

/// An acknowledgement of a segment on the way.
pub(super) struct Acked {
    /// True if there was none before. Another one tells nothing about the segments before, nor how long it took.
    pub(super) is_first: bool,
    /// True if it has the time of the segment, which only its receiver knows.
    pub(super) is_its: bool,
}

/// A segment to send now.
pub(super) struct Due<'a> {
    pub(super) sn: u32,
    pub(super) data: &'a [u8],
}

/// The window that losses shrink.
#[derive(Debug)]
struct Congestion {
    window: usize,
    threshold: usize,
    /// The window in bytes, as long as it grows slowly.
    bytes: usize,
    segment: usize,
}

/// The times that a segment is sent again before the peer counts as dead.
const MAX_RESENDS: u32 = 20;

const FIRST_PROBE: u64 = 7000;
const LAST_PROBE: u64 = 120_000;

impl Sending {
    pub(super) fn new(options: &KcpOptions) -> Self {
        let interval = options.interval.as_millis() as u32;
        Self {
            first: 0,
            flight: VecDeque::new(),
            queue: VecDeque::new(),
            bytes: 0,
            no_delay: options.no_delay,
            fast_resend: options.fast_resend,
            window: options.send_window.into(),
            // Every end has room for so many, until it tells.
            peer_window: 32,
            congestion: options.congestion_control.then(|| Congestion {
                window: 1,
                threshold: 2,
                bytes: options.segment(),
                segment: options.segment(),
            }),
            round_trip: RoundTrip::new(options.no_delay, interval),
            resend_at: u64::MAX,
            is_skipped: false,
            probe: None,
            is_dead: false,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns true if a segment was sent again too often.
    pub(super) fn is_dead(&self) -> bool {
        self.is_dead
    }

    pub(super) fn push(&mut self, data: &[u8]) {
        self.bytes += data.len();
        self.queue.push_back(data.to_vec());
    }

    /// Takes the peer's window.
    pub(super) fn on_window(&mut self, window: u16) {
        let was_closed = self.peer_window == 0;
        self.peer_window = window.into();
        if window > 0 {
            self.probe = None;
            if was_closed {
                // Segments that were not sent again meanwhile are due.
                self.resend_at = 0;
            }
        }
    }

    /// Takes the first number that has not arrived at the peer.
    pub(super) fn on_una(&mut self, una: u32) {
        let arrived = distance(una, self.first);
        let is_true = arrived > 0 && arrived as usize <= self.flight.len();
        for _ in 0..if is_true { arrived } else { 0 } {
            self.drop_first();
        }
    }

    /// Takes an acknowledgement, unless it is one of a segment that is not on the way.
    pub(super) fn on_ack(&mut self, sn: u32, ts: u32) -> Option<Acked> {
        let index = usize::try_from(distance(sn, self.first)).ok()?;
        let flying = self.flight.get_mut(index)?;
        let acked = Acked {
            is_first: !std::mem::replace(&mut flying.is_acked, true),
            is_its: flying.ts == ts,
        };
        self.bytes -= std::mem::take(&mut flying.data).len();
        while self.flight.front().is_some_and(|flying| flying.is_acked) {
            self.drop_first();
        }
        Some(acked)
    }

    /// Counts that the segments before `sn` were skipped by an acknowledgement.
    pub(super) fn skip_to(&mut self, sn: u32) {
        if self.fast_resend == 0 {
            return;
        }
        let before = usize::try_from(distance(sn, self.first)).unwrap_or(0);
        for flying in self.flight.iter_mut().take(before) {
            flying.skipped += 1;
            self.is_skipped |= !flying.is_acked && flying.skipped >= self.fast_resend;
        }
    }

    /// Lets the window grow, since segments have arrived.
    pub(super) fn on_progress(&mut self) {
        if let Some(congestion) = &mut self.congestion {
            congestion.grow(self.peer_window);
        }
    }

    /// Returns the number of the first segment that is not acknowledged.
    pub(super) fn first(&self) -> u32 {
        self.first
    }

    /// Returns true if the windows let another segment go.
    pub(super) fn has_next(&self) -> bool {
        let congestion = (self.congestion.as_ref()).map_or(usize::MAX, |own| own.window);
        let window = self.window.min(self.peer_window).min(congestion);
        !self.queue.is_empty() && self.flight.len() < window
    }

    /// Sends the next segment, of `room` bytes at most. The rest of it is the next one.
    pub(super) fn take_next(&mut self, room: usize, now: u64, ts: u32) -> Option<Due<'_>> {
        if !self.has_next() || room == 0 {
            return None;
        }
        let mut data = self.queue.pop_front()?;
        if data.len() > room {
            self.queue.push_front(data.split_off(room));
        }
        let sn = self.first.wrapping_add(self.flight.len() as u32);
        let timeout = self.round_trip.timeout();
        // Without the pace of `no_delay`, the first answer may be late.
        let patience = if self.no_delay { 0 } else { timeout / 8 };
        let resend_at = now + u64::from(timeout + patience);
        self.resend_at = self.resend_at.min(resend_at);
        self.flight.push_back(Flying {
            data,
            is_acked: false,
            ts,
            resend_at,
            timeout,
            skipped: 0,
            times: 0,
        });
        let data = &self.flight.back()?.data;
        Some(Due { sn, data })
    }

    /// Returns true if segments may have to be sent again.
    pub(super) fn has_lost(&self, now: u64) -> bool {
        !self.flight.is_empty() && (self.resend_at <= now || self.is_skipped)
    }

    /// Hands all segments that are missing to `again`, which returns true if it sends them.
    pub(super) fn resend(&mut self, now: u64, ts: u32, mut again: impl FnMut(Due<'_>) -> bool) {
        let (mut lost, mut skipped) = (false, false);
        self.resend_at = u64::MAX;
        self.is_skipped = false;
        let in_flight = self.flight.len();
        // A peer without room drops all but the first one, whose answer tells the window.
        let is_closed = self.peer_window == 0;
        let some = if is_closed { 1 } else { in_flight };
        for (index, flying) in self.flight.iter_mut().take(some).enumerate() {
            if flying.is_acked {
                continue;
            }
            if flying.resend_at <= now {
                lost = true;
                let step = self.round_trip.timeout();
                flying.timeout += if self.no_delay { step / 2 } else { step };
            } else if self.fast_resend > 0 && flying.skipped >= self.fast_resend {
                skipped = true;
                flying.timeout = self.round_trip.timeout();
            } else {
                self.resend_at = self.resend_at.min(flying.resend_at);
                continue;
            }
            (flying.skipped, flying.ts) = (0, ts);
            flying.resend_at = now + u64::from(flying.timeout);
            self.resend_at = self.resend_at.min(flying.resend_at);
            let is_sent = again(Due {
                sn: self.first.wrapping_add(index as u32),
                data: &flying.data,
            });
            flying.times += u32::from(is_sent && !is_closed);
            self.is_dead |= flying.times > MAX_RESENDS;
        }
        if let Some(congestion) = &mut self.congestion {
            if skipped {
                congestion.on_skip(in_flight, self.fast_resend as usize);
            }
            if lost {
                congestion.on_loss();
            }
        }
    }

    /// Returns true if the peer has to be asked for its window now.
    pub(super) fn probes(&mut self, now: u64) -> bool {
        if self.peer_window > 0 || self.queue.is_empty() {
            self.probe = None;
            return false;
        }
        let (at, wait) = *self.probe.get_or_insert((now + FIRST_PROBE, FIRST_PROBE));
        let is_due = at <= now;
        if is_due {
            let wait = (wait + wait / 2).min(LAST_PROBE);
            self.probe = Some((now + wait, wait));
        }
        is_due
    }

    /// Returns the time at which something has to be sent, whatever arrives.
    pub(super) fn due_at(&self) -> Option<u64> {
        let resend = (!self.flight.is_empty()).then_some(self.resend_at);
        let probe = self.probe.map(|(at, _)| at);
        resend.into_iter().chain(probe).min()
    }

    fn drop_first(&mut self) {
        if let Some(flying) = self.flight.pop_front() {
            self.bytes -= flying.data.len();
            self.first = self.first.wrapping_add(1);
        }
    }
}

impl Congestion {
    fn grow(&mut self, peer_window: usize) {
        if self.window >= peer_window {
            return;
        }
        if self.window < self.threshold {
            self.window += 1;
            self.bytes += self.segment;
        } else {
            self.bytes = self.bytes.max(self.segment);
            self.bytes += self.segment * self.segment / self.bytes + self.segment / 16;
            if (self.window + 1) * self.segment <= self.bytes {
                self.window += 1;
            }
        }
    }

    fn on_skip(&mut self, in_flight: usize, resend: usize) {
        self.threshold = (in_flight / 2).max(2);
        self.window = self.threshold + resend;
        self.bytes = self.window * self.segment;
    }

    fn on_loss(&mut self) {
        self.threshold = (self.window / 2).max(2);
        (self.window, self.bytes) = (1, self.segment);
    }
}
