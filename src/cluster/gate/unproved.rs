use std::collections::VecDeque;

use crate::engine::slots::ConnId;

/// The sessions whose peers have not proved their addresses, in the order in which they opened.
#[derive(Debug)]
pub(super) struct Unproved {
    /// Those, and some that have proved it or ended since.
    opened: VecDeque<ConnId>,
    count: usize,
    limit: usize,
}

impl Unproved {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            opened: VecDeque::new(),
            count: 0,
            limit: limit.max(1),
        }
    }

    /// Notes a session that opens.
    pub(super) fn add(&mut self, id: ConnId) {
        self.opened.push_back(id);
        self.count += 1;
    }

    /// Notes that one has proved its address or ended.
    pub(super) fn subtract(&mut self) {
        self.count -= 1;
    }

    /// Takes the oldest session if there are too many. It may have proved its address or ended already.
    pub(super) fn take_excess(&mut self) -> Option<ConnId> {
        match self.count > self.limit {
            true => self.opened.pop_front(),
            false => None,
        }
    }

    /// Forgets those that have proved their address or ended, if they are as many as may be unproved.
    pub(super) fn tidy(&mut self, is_unproved: impl FnMut(&ConnId) -> bool) {
        if self.opened.len() - self.count > self.limit {
            self.opened.retain(is_unproved);
        }
    }
}
