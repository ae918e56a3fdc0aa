use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cluster::Error;

/// The users in a room.
#[derive(Debug)]
pub(super) struct Members {
    max: usize,
    /// The time for which a member that has lost its connection stays.
    window: Duration,
    users: BTreeMap<i64, Member>,
}

#[derive(Debug, Default)]
struct Member {
    /// The time at which it goes, if it has lost its connection.
    lost_until: Option<Instant>,
    /// The last connection that it was seen with, if any.
    conn: Option<Connection>,
    /// Raised by each sign of life.
    signs: u64,
}

/// The id of a gate, and the number of a connection there.
pub(super) type Connection = (Arc<str>, i64);

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
        self.users.insert(uid, Member::default());
        Ok(true)
    }

    /// Removes a user. Returns false if it is no member.
    pub(super) fn leave(&mut self, uid: i64) -> bool {
        self.users.remove(&uid).is_some()
    }

    /// Notes that a connection of a member has ended. Returns false if the member has another one, if it has lost its connection
    /// already, or if it is no member.
    pub(super) fn lose(&mut self, uid: i64, conn: (&str, i64), now: Instant) -> bool {
        match self.users.get_mut(&uid) {
            Some(member) if member.has_other(conn) => false,
            Some(member) => member.lose(self.window, now),
            None => false,
        }
    }

    /// Notes that a member has no connection, unless there was a sign of life after the one with this number.
    pub(super) fn lose_after(&mut self, uid: i64, signs: u64, now: Instant) -> bool {
        let member = self.users.get_mut(&uid);
        member.is_some_and(|member| member.signs == signs && member.lose(self.window, now))
    }

    /// Notes that a member is connected, by this connection if that is known. Returns true if it had lost its connection.
    pub(super) fn regain(&mut self, uid: i64, conn: Option<(&str, i64)>) -> bool {
        let Some(member) = self.users.get_mut(&uid) else {
            return false;
        };
        member.signs += 1;
        if let Some((gid, cid)) = conn
            && (member.conn.is_none() || member.has_other((gid, cid)))
        {
            member.conn = Some((gid.into(), cid));
        }
        member.lost_until.take().is_some()
    }

    /// Returns the number of the last sign of life of a member.
    pub(super) fn signs(&self, uid: i64) -> u64 {
        self.users.get(&uid).map_or(0, |member| member.signs)
    }

    /// Removes and returns the members whose window is over.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<i64> {
        let is_over = |member: &Member| member.lost_until.is_some_and(|until| until <= now);
        let over = self.users.extract_if(.., |_, member| is_over(member));
        over.map(|(uid, _)| uid).collect()
    }

    /// Returns the time at which the first window ends.
    pub(super) fn first_expiry(&self) -> Option<Instant> {
        let ends = self.users.values().filter_map(|member| member.lost_until);
        ends.min().filter(|_| self.window < FOREVER)
    }

    pub(super) fn contains(&self, uid: i64) -> bool {
        self.users.contains_key(&uid)
    }

    pub(super) fn all(&self) -> Vec<i64> {
        self.users.keys().copied().collect()
    }

    pub(super) fn connected(&self) -> Vec<i64> {
        let connected = self
            .users
            .iter()
            .filter(|(_, member)| member.lost_until.is_none());
        connected.map(|(uid, _)| *uid).collect()
    }
}

impl Member {
    fn has_other(&self, (gid, cid): (&str, i64)) -> bool {
        let conn = self.conn.as_ref();
        conn.is_some_and(|(known, at)| **known != *gid || *at != cid)
    }

    fn lose(&mut self, window: Duration, now: Instant) -> bool {
        if self.lost_until.is_some() {
            return false;
        }
        // A window without an end has none.
        self.lost_until = Some(now.checked_add(window).unwrap_or(now + FOREVER));
        true
    }
}

const FOREVER: Duration = Duration::from_secs(100 * 365 * 86_400);

#[cfg(test)]
mod tests {
    use super::*;

    fn lose(members: &mut Members, uid: i64, now: Instant) -> bool {
        members.lose(uid, ("gate-1", uid), now)
    }

    fn regain(members: &mut Members, uid: i64) -> bool {
        members.regain(uid, Some(("gate-1", uid)))
    }

    #[test]
    fn the_end_of_an_old_connection_takes_nobody_away() {
        let now = Instant::now();
        let mut members = Members::new(1, Duration::from_secs(30));
        members.join(7).expect("has room");
        assert!(!members.regain(7, Some(("gate-1", 1))));
        assert!(!members.regain(7, Some(("gate-2", 1))));
        assert!(!members.lose(7, ("gate-1", 1), now), "it is at gate-2 now");
        let signs = members.signs(7);
        assert!(!members.regain(7, None));
        assert!(!members.lose_after(7, signs, now), "it was seen since");
        assert!(members.lose_after(7, members.signs(7), now));
        assert!(members.regain(7, Some(("gate-2", 1))));
        assert!(members.lose(7, ("gate-2", 1), now));
    }

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
        assert!(lose(&mut members, 7, at(0)) && lose(&mut members, 8, at(5)));
        assert!(
            !lose(&mut members, 7, at(20)),
            "the window does not begin again"
        );
        assert!(!lose(&mut members, 10, at(0)));
        assert_eq!(
            (members.all(), members.connected()),
            (vec![7, 8, 9], vec![9])
        );
        assert!(members.expire(at(29)).is_empty());
        assert!(regain(&mut members, 8) && !regain(&mut members, 8) && !regain(&mut members, 9));
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
            lose(members, 1, now);
        }
        assert_eq!(none.expire(now), [1]);
        assert!(
            endless
                .expire(now + Duration::from_secs(1 << 30))
                .is_empty()
        );
    }
}
