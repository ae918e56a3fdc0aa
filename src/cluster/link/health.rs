use std::time::Duration;

use crate::cluster::Error;

/// The state of a peer that cannot be reached.
#[derive(Debug, Default)]
pub(super) struct Health {
    /// True if one of both sides does not accept the other one.
    is_refused: bool,
    /// The time from which there was no link.
    failing_since: Option<Duration>,
}

/// The time after which a peer that cannot be reached is passed over, if another one will do.
const PASSED_OVER: Duration = Duration::from_secs(1);

impl Health {
    /// Notes that there is a link.
    #[inline]
    pub(super) fn up(&mut self) {
        if self.failing_since.is_some() {
            *self = Self::default();
        }
    }

    /// Notes that there is no link.
    pub(super) fn down(&mut self, now: Duration) {
        self.failing_since.get_or_insert(now);
    }

    /// Notes the error with which a link has ended.
    pub(super) fn failed(&mut self, error: &Error, now: Duration) {
        self.is_refused = matches!(error, Error::Unauthorized { .. } | Error::Refused { .. });
        self.down(now);
    }

    /// Returns true if a link will not come before one of both sides is set up in another way.
    #[inline]
    pub(super) fn is_refused(&self) -> bool {
        self.is_refused
    }

    /// Returns true if another peer should be taken, if there is one.
    #[inline]
    pub(super) fn is_bad(&self, now: Duration) -> bool {
        let failing = self.failing_since;
        self.is_refused || failing.is_some_and(|since| now >= since + PASSED_OVER)
    }
}
