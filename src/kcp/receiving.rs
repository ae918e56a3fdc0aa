use std::collections::VecDeque;

use super::segment::distance;

/// The half of a connection that receives.
#[derive(Debug)]
pub(super) struct Receiving {
    /// The number of the first segment that has not arrived.
    next: u32,
    window: usize,
    /// The segments from `next` on that have arrived out of turn.
    early: VecDeque<Option<Vec<u8>>>,
    /// The data that the application has not read yet.
    ready: VecDeque<Vec<u8>>,
    /// The numbers and times to acknowledge.
    pub(super) acks: Vec<(u32, u32)>,
}

impl Receiving {
    pub(super) fn new(window: u16) -> Self {
        Self {
            next: 0,
            window: window.into(),
            early: VecDeque::new(),
            ready: VecDeque::new(),
            acks: Vec::new(),
        }
    }

    pub(super) fn next(&self) -> u32 {
        self.next
    }

    /// Returns the number of segments for which there is room.
    pub(super) fn room(&self) -> u16 {
        // The window is a u16.
        self.window.saturating_sub(self.ready.len()) as u16
    }

    /// Takes a segment, unless it is beyond the window.
    pub(super) fn push(&mut self, sn: u32, ts: u32, data: &[u8]) {
        let ahead = distance(sn, self.next);
        if ahead >= self.window as i32 {
            return;
        }
        // One that has come before is acknowledged anew: the acknowledgement was lost, perhaps.
        if self.acks.len() < 2 * self.window {
            self.acks.push((sn, ts));
        }
        let Ok(ahead) = usize::try_from(ahead) else {
            return;
        };
        if ahead == 0 && self.early.is_empty() && self.room() > 0 {
            self.next = self.next.wrapping_add(1);
            return self.ready.push_back(data.to_vec());
        }
        if self.early.len() <= ahead {
            self.early.resize(ahead + 1, None);
        }
        self.early[ahead].get_or_insert_with(|| data.to_vec());
        self.advance();
    }

    /// Takes the data of the next segment.
    pub(super) fn pop(&mut self) -> Option<Vec<u8>> {
        let data = self.ready.pop_front();
        self.advance();
        data
    }

    /// Makes ready what has arrived in order, as far as there is room.
    fn advance(&mut self) {
        while self.room() > 0
            && let Some(Some(data)) = self.early.front_mut()
        {
            self.ready.push_back(std::mem::take(data));
            self.early.pop_front();
            self.next = self.next.wrapping_add(1);
        }
    }
}
