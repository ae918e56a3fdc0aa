//! Numbered messages of several writers, in one stream: none is torn, none comes twice, and each writer's are in order.

use std::collections::HashMap;

use fastrand::Rng;

/// Writer, number and length stand before each message.
pub(super) const HEADER: usize = 7;

/// One who writes.
#[derive(Debug)]
pub(super) struct Teller {
    who: u8,
    told: u32,
}

impl Teller {
    pub(super) fn new(who: u8) -> Self {
        Self { who, told: 0 }
    }

    /// The head of the next message, with so many bytes behind it.
    pub(super) fn head(&self, len: usize) -> [u8; HEADER] {
        let len = u16::try_from(len).expect("a short message").to_le_bytes();
        let [a, b, c, d] = self.told.to_le_bytes();
        [self.who, a, b, c, d, len[0], len[1]]
    }

    /// The next message.
    pub(super) fn message(&self, rng: &mut Rng) -> Vec<u8> {
        let len = super::world::len(rng);
        let mut message = self.head(len).to_vec();
        message.resize(HEADER + len, self.who ^ self.told as u8);
        message
    }

    /// How many messages there were.
    pub(super) fn told(&self) -> u32 {
        self.told
    }

    /// That was it: the next message has another number.
    pub(super) fn go_on(&mut self) {
        self.told += 1;
    }
}

/// Checks a stream, whose last message may be cut short; returns how many messages of each writer there are.
pub(super) fn check(mut stream: &[u8]) -> HashMap<u8, u32> {
    let mut last: HashMap<u8, (u32, u32)> = HashMap::new();
    while let Some((head, rest)) = stream.split_first_chunk::<HEADER>() {
        let [who, a, b, c, d, low, high] = *head;
        let number = u32::from_le_bytes([a, b, c, d]);
        let len = usize::from(u16::from_le_bytes([low, high])).min(rest.len());
        let count = match last.get(&who) {
            Some((before, count)) => {
                assert!(number > *before, "{number} of {who} comes after {before}");
                count + 1
            }
            None => 1,
        };
        last.insert(who, (number, count));
        let (body, rest) = rest.split_at(len);
        let fill = body.first().copied().unwrap_or_default();
        assert!(
            body.iter().all(|byte| *byte == fill),
            "message {number} of {who} is torn"
        );
        stream = rest;
    }
    last.into_iter()
        .map(|(who, (_, count))| (who, count))
        .collect()
}
