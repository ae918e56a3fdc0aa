/// The time after which an acknowledgement is missing, in milliseconds, by the times that others took.
#[derive(Debug)]
pub(super) struct RoundTrip {
    smooth: u32,
    variation: u32,
    timeout: u32,
    least: u32,
    interval: u32,
}

const LONGEST: u32 = 60_000;

impl RoundTrip {
    pub(super) fn new(no_delay: bool, interval: u32) -> Self {
        Self {
            smooth: 0,
            variation: 0,
            timeout: 200,
            least: if no_delay { 30 } else { 100 },
            interval,
        }
    }

    pub(super) fn timeout(&self) -> u32 {
        self.timeout
    }

    /// Notes how long an acknowledgement took.
    pub(super) fn note(&mut self, took: u32) {
        let took = took.min(LONGEST);
        if self.smooth == 0 {
            (self.smooth, self.variation) = (took.max(1), took / 2);
        } else {
            let off = took.abs_diff(self.smooth);
            self.variation = (3 * self.variation + off) / 4;
            self.smooth = ((7 * self.smooth + took) / 8).max(1);
        }
        let timeout = self.smooth + self.interval.max(4 * self.variation);
        self.timeout = timeout.clamp(self.least, LONGEST);
    }
}
