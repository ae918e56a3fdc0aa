use rustc_hash::FxHashMap;

use crate::cluster::Error;

/// The highest number of requests under way.
const MAX_CALLS: usize = 65_536;

/// The requests that wait for their answers, by route and seq.
pub(super) struct Calls<T> {
    waiting: FxHashMap<(i32, i32), T>,
    last_seq: i32,
    max_seq: i32,
}

impl<T> Calls<T> {
    /// Creates a table for seqs of this width, in bytes.
    pub(super) fn new(seq_bytes: usize) -> Self {
        Self {
            waiting: FxHashMap::default(),
            last_seq: 0,
            max_seq: match seq_bytes {
                0 => 0,
                1 => i8::MAX.into(),
                2 => i16::MAX.into(),
                _ => i32::MAX,
            },
        }
    }

    /// Returns a seq that no request of this route has.
    pub(super) fn free_seq(&mut self, route: i32) -> Result<i32, Error> {
        if self.max_seq == 0 {
            let problem = "packets without a seq have no answers; only push, or set `PacketOptionsBuilder::seq_bytes`";
            return Err(Error::argument("seq_bytes", problem));
        }
        let tries = match self.waiting.len() {
            MAX_CALLS.. => 0,
            waiting => waiting + 1,
        };
        for _ in 0..tries {
            self.last_seq = self.last_seq % self.max_seq + 1;
            if !self.waiting.contains_key(&(route, self.last_seq)) {
                return Ok(self.last_seq);
            }
        }
        Err(Error::Busy {
            what: "table of requests under way",
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn insert(&mut self, route: i32, seq: i32, call: T) {
        self.waiting.insert((route, seq), call);
    }

    pub(super) fn take(&mut self, route: i32, seq: i32) -> Option<T> {
        self.waiting.remove(&(route, seq))
    }

    /// Calls `with` for each.
    pub(super) fn each(&mut self, mut with: impl FnMut(i32, i32, &mut T)) {
        for ((route, seq), call) in &mut self.waiting {
            with(*route, *seq, call);
        }
    }

    /// Removes those for which `is_over` returns true. Returns them with their routes.
    pub(super) fn take_if(&mut self, mut is_over: impl FnMut(&T) -> bool) -> Vec<(i32, T)> {
        let over = self.waiting.extract_if(|_, call| is_over(call));
        over.map(|((route, _), call)| (route, call)).collect()
    }

    /// Removes all.
    pub(super) fn take_all(&mut self) -> Vec<T> {
        self.waiting.drain().map(|(_, call)| call).collect()
    }
}
