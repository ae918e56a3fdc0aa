use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::cluster::Error;

/// The users in a room.
#[derive(Debug)]
pub(super) struct Members {
    max: usize,
    /// The time for which a member that has lost its connection stays.
    window: Duration,
    /// With the time at which the member goes, if it has lost its connection.
    users: BTreeMap<i64, Option<Instant>>,
}

impl Members {
    pub(super) fn new(max: usize, window: Duration) -> Self {
        Self {
            max,
            window,
            users: BTreeMap::new(),
        }
    }

    /// Adds a user. Returns false if it is a member already.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`] if the room is full.
    pub(super) fn join(&mut self, uid: i64) -> Result<bool, Error> {
        if self.users.contains_key(&uid) {
            return Ok(false);
        }
        if self.users.len() >= self.max {
            return Err(Error::Busy { what: "room" });
        }
        self.users.insert(uid, None);
        Ok(true)
    }

    /// Removes a user. Returns false if it is no member.
    pub(super) fn leave(&mut self, uid: i64) -> bool {
        self.users.remove(&uid).is_some()
    }

    /// Notes that a member has lost its connection. Returns false if that is known, or if it is no member.
    pub(super) fn lose(&mut self, uid: i64, now: Instant) -> bool {
        match self.users.get_mut(&uid) {
            Some(lost @ None) => {
                // A window without an end has none.
                *lost = Some(now.checked_add(self.window).unwrap_or(now + FOREVER));
                true
            }
            _ => false,
        }
    }

    /// Notes that a member is connected. Returns true if it had lost its connection.
    pub(super) fn regain(&mut self, uid: i64) -> bool {
        let member = self.users.get_mut(&uid);
        member.is_some_and(|lost| lost.take().is_some())
    }

    /// Removes and returns the members whose window is over.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<i64> {
        let is_over = |lost: &Option<Instant>| lost.is_some_and(|until| until <= now);
        let over = self.users.iter().filter(|(_, lost)| is_over(lost));
        let over: Vec<i64> = over.map(|(uid, _)| *uid).collect();
        for uid in &over {
            self.users.remove(uid);
        }
        over
    }

    /// Returns the time at which the first window ends.
    pub(super) fn first_expiry(&self) -> Option<Instant> {
        let first = self.users.values().flatten().min().copied();
        first.filter(|_| self.window < FOREVER)
    }

    pub(super) fn contains(&self, uid: i64) -> bool {
        self.users.contains_key(&uid)
    }

    pub(super) fn all(&self) -> Vec<i64> {
        self.users.keys().copied().collect()
    }

    pub(super) fn connected(&self) -> Vec<i64> {
        let connected = self.users.iter().filter(|(_, lost)| lost.is_none());
        connected.map(|(uid, _)| *uid).collect()
    }
}

const FOREVER: Duration = Duration::from_secs(100 * 365 * 86_400);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_that_lost_its_connection_stays_for_the_window() {
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let mut members = Members::new(3, Duration::from_secs(30));
        for uid in [7, 8, 9] {
            assert_eq!(members.join(uid).ok(), Some(true));
        }
        assert_eq!(members.join(7).ok(), Some(false));
        assert!(
            members
                .join(10)
                .is_err_and(|error| error.to_string().contains("room is full"))
        );
        assert!(members.lose(7, at(0)) && members.lose(8, at(5)));
        assert!(!members.lose(7, at(20)), "the window does not begin again");
        assert!(!members.lose(10, at(0)));
        assert_eq!(
            (members.all(), members.connected()),
            (vec![7, 8, 9], vec![9])
        );
        assert!(members.expire(at(29)).is_empty());
        assert!(members.regain(8) && !members.regain(8) && !members.regain(9));
        assert_eq!(members.expire(at(30)), [7]);
        assert!(members.expire(at(1000)).is_empty());
        assert_eq!(members.connected(), [8, 9]);
        assert!(members.leave(8) && !members.leave(8) && !members.contains(8));
    }

    #[test]
    fn a_window_can_be_none_or_endless() {
        let now = Instant::now();
        let mut none = Members::new(1, Duration::ZERO);
        let mut endless = Members::new(1, Duration::MAX);
        for members in [&mut none, &mut endless] {
            members.join(1).expect("has room");
            members.lose(1, now);
        }
        assert_eq!(none.expire(now), [1]);
        assert!(
            endless
                .expire(now + Duration::from_secs(1 << 30))
                .is_empty()
        );
    }
}
