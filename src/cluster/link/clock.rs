use std::time::{Duration, Instant};

/// The time since its first moment. It keeps the last answer, since all callbacks of a turn have the same moment.
#[derive(Default)]
pub(super) struct Clock {
    began: Option<Instant>,
    last: Option<(Instant, Duration)>,
}

impl Clock {
    #[inline]
    pub(super) fn time(&mut self, now: Instant) -> Duration {
        match self.last {
            Some((moment, time)) if moment == now => time,
            _ => self.read(now),
        }
    }

    fn read(&mut self, now: Instant) -> Duration {
        let time = now.saturating_duration_since(*self.began.get_or_insert(now));
        self.last = Some((now, time));
        time
    }
}
