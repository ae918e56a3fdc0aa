//! The packets that were sent to a client, with their numbers.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::options::ResumeOptions;
use crate::cluster::packet::EncodedPacket;

/// The last packets of a client, kept until the client has told that it has them, as far as there is room.
pub(super) struct Pushes {
    /// The number of the last one.
    last: u64,
    kept: VecDeque<EncodedPacket>,
    bytes: usize,
    limit: usize,
    room: Arc<Room>,
}

/// The room for the packets of all clients of a gate.
pub(super) struct Room {
    bytes: AtomicUsize,
    limit: usize,
}

/// The reason why packets cannot be repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// They are not kept any more.
    Lost,
    /// They were never sent.
    Never,
}

impl Room {
    pub(super) fn new(options: &ResumeOptions) -> Arc<Self> {
        Arc::new(Self {
            bytes: AtomicUsize::new(0),
            limit: options.max_bytes,
        })
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Pushes {
    /// Begins to keep packets, after those up to the number `last`.
    pub(super) fn new(last: u64, options: &ResumeOptions, room: &Arc<Room>) -> Self {
        Self {
            last,
            kept: VecDeque::new(),
            bytes: 0,
            limit: options.buffer,
            room: room.clone(),
        }
    }

    /// Counts a packet and keeps it. The oldest ones go, if there is no room for all.
    pub(super) fn push(&mut self, packet: EncodedPacket) {
        self.last += 1;
        let weight = weight(&packet);
        self.bytes += weight;
        let all = self.room.bytes.fetch_add(weight, Ordering::Relaxed) + weight;
        self.kept.push_back(packet);
        let mut over = all.saturating_sub(self.room.limit);
        while (self.bytes > self.limit || over > 0)
            && let Some(gone) = self.forget_first()
        {
            over = over.saturating_sub(gone);
        }
    }

    /// Forgets the packets up to a number, which the client has.
    pub(super) fn ack(&mut self, number: u64) {
        // A client that has more than was sent is not believed.
        if number <= self.last {
            while self.first() <= number && self.forget_first().is_some() {}
        }
    }

    /// Returns the packets after a number.
    pub(super) fn after(&self, number: u64) -> Result<Vec<EncodedPacket>, Missing> {
        if number > self.last {
            return Err(Missing::Never);
        }
        let Some(skipped) = (number + 1).checked_sub(self.first()) else {
            return Err(Missing::Lost);
        };
        Ok(self.kept.iter().skip(skipped as usize).cloned().collect())
    }

    /// Returns the number of the first packet that is kept, or would be.
    fn first(&self) -> u64 {
        self.last + 1 - self.kept.len() as u64
    }

    fn forget_first(&mut self) -> Option<usize> {
        let weight = weight(&self.kept.pop_front()?);
        self.bytes -= weight;
        self.room.bytes.fetch_sub(weight, Ordering::Relaxed);
        Some(weight)
    }
}

impl Drop for Pushes {
    fn drop(&mut self) {
        self.room.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Returns about how many bytes it takes in memory.
fn weight(packet: &EncodedPacket) -> usize {
    size_of::<EncodedPacket>() + packet.as_bytes().len()
}

#[cfg(all(test, not(loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cluster::packet::{Packet, PacketOptions};

    #[derive(Clone, Debug)]
    enum Step {
        Push(usize),
        Ack(u64),
        Other(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0..400_usize).prop_map(Step::Push),
            1 => (0..60_u64).prop_map(Step::Ack),
            1 => (0..400_usize).prop_map(Step::Other),
        ]
    }

    fn packet(number: u64, len: usize) -> EncodedPacket {
        let mut data = number.to_be_bytes().to_vec();
        data.resize(8 + len, 0);
        let packet = Packet {
            route: 1,
            seq: 0,
            data: &data,
        };
        PacketOptions::default().encode(&packet).expect("is short")
    }

    proptest! {
        /// Whatever is pushed and acknowledged: what a client misses comes whole and in order, or is told as lost, and the bounds hold.
        #[test]
        fn what_is_missed_comes_whole_or_is_lost(
            steps in proptest::collection::vec(step(), 0..80),
            begin in 0..20_u64,
        ) {
            let options = ResumeOptions::new().buffer(2000).max_bytes(3000);
            let room = Room::new(&options);
            let mut other = Pushes::new(0, &options, &room);
            let mut pushes = Pushes::new(begin, &options, &room);
            let (mut last, mut acked) = (begin, begin);
            for step in steps {
                match step {
                    Step::Push(len) => {
                        last += 1;
                        pushes.push(packet(last, len));
                    }
                    Step::Ack(number) => {
                        if (acked..=last).contains(&number) {
                            acked = number;
                        }
                        pushes.ack(number);
                    }
                    Step::Other(len) => other.push(packet(0, len)),
                }
                prop_assert_eq!(pushes.last, last);
                prop_assert!(pushes.bytes <= 2000 && other.bytes <= 2000);
                prop_assert!(room.bytes() <= 3000);
                prop_assert_eq!(room.bytes(), pushes.bytes + other.bytes);
                let mut was_lost = true;
                for number in 0..last + 3 {
                    match pushes.after(number) {
                        Ok(missed) => {
                            was_lost = false;
                            prop_assert!(number >= acked);
                            let numbers = missed.iter().map(|packet| {
                                let bytes = packet.as_bytes()[9..17].try_into();
                                u64::from_be_bytes(bytes.expect("is 8 bytes"))
                            });
                            prop_assert!(numbers.eq(number + 1..=last));
                        }
                        Err(Missing::Never) => prop_assert!(number > last),
                        Err(Missing::Lost) => prop_assert!(was_lost && number < last),
                    }
                }
            }
            drop(pushes);
            prop_assert_eq!(room.bytes(), other.bytes);
        }
    }
}
