use std::cell::RefCell;

use flate2::{Compress, Compression, FlushCompress};

use super::TAIL;
use super::negotiate::{Agreed, Direction, MIN_BITS};

/// Compresses the messages of one connection.
#[derive(Debug)]
pub(in crate::ws) struct Compressor {
    direction: Direction,
    level: u8,
    /// With context takeover: the state of this connection.
    own: Option<Box<Compress>>,
}

thread_local! {
    /// The state for messages without context takeover, and a buffer for one message. All connections of a thread share
    /// it.
    static SHARED: RefCell<Option<Shared>> = const { RefCell::new(None) };
    static OUTPUT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

struct Shared {
    level: u8,
    bits: u8,
    state: Box<Compress>,
}

/// The capacity that is kept for the next message, in bytes.
const KEPT: usize = 64 << 10;

/// The free space that a flush is sure not to fill, in bytes.
const FLUSH_ROOM: usize = 64;

impl Compressor {
    pub(in crate::ws) fn new(agreed: &Agreed) -> Self {
        Self {
            direction: agreed.ours,
            level: agreed.level,
            own: None,
        }
    }

    /// Compresses a message and passes it to `send`. Passes `None` if the message is better sent uncompressed.
    pub(in crate::ws) fn compress<R>(
        &mut self,
        message: &[u8],
        send: impl FnOnce(Option<&[u8]>) -> R,
    ) -> R {
        if self.direction.bits < MIN_BITS {
            return send(None);
        }
        let mut out = OUTPUT.take();
        out.clear();
        let whole = if self.direction.takeover {
            let (level, bits) = (self.level, self.direction.bits);
            let state = self.own.get_or_insert_with(|| new_state(level, bits));
            let whole = run(state, message, &mut out);
            if !whole {
                // The peer has not received the message that the state refers to.
                state.reset();
            }
            whole
        } else {
            let mut shared = self.borrow_shared();
            let whole = run(&mut shared.state, message, &mut out);
            SHARED.set(Some(shared));
            whole && out.len() < message.len()
        };
        let sent = send(whole.then_some(&out[..]));
        out.shrink_to(KEPT);
        OUTPUT.set(out);
        sent
    }

    fn borrow_shared(&self) -> Shared {
        let (level, bits) = (self.level, self.direction.bits);
        match SHARED.take() {
            Some(mut shared) if (shared.level, shared.bits) == (level, bits) => {
                shared.state.reset();
                shared
            }
            _ => Shared {
                level,
                bits,
                state: new_state(level, bits),
            },
        }
    }
}

fn new_state(level: u8, bits: u8) -> Box<Compress> {
    Box::new(Compress::new_with_window_bits(
        Compression::new(level.into()),
        false,
        bits,
    ))
}

/// Appends the compressed message to `out`, without its tail. Returns true on success.
fn run(state: &mut Compress, message: &[u8], out: &mut Vec<u8>) -> bool {
    out.reserve(message.len() / 4 + FLUSH_ROOM);
    let start = state.total_in();
    loop {
        let taken = (state.total_in() - start) as usize;
        if state
            .compress_vec(&message[taken..], out, FlushCompress::Sync)
            .is_err()
        {
            return false;
        }
        if out.len() < out.capacity() {
            break;
        }
        out.reserve(out.len() / 2 + FLUSH_ROOM);
    }
    let whole = out.ends_with(&TAIL) && (state.total_in() - start) as usize == message.len();
    out.truncate(out.len() - TAIL.len().min(out.len()));
    whole
}

#[cfg(all(test, not(loom)))]
mod tests {
    use proptest::prelude::*;

    use super::super::{DeflateOptions, Inflater};
    use super::*;
    use crate::ws::extension;

    /// Both ends of a connection, after the handshake.
    fn ends(options: DeflateOptions) -> (Compressor, Inflater) {
        let offer = options.offer();
        let offers = extension::parse(&offer).expect("is well formed");
        let agreed = options.accept(&offers).expect("is acceptable");
        (Compressor::new(&agreed), Inflater::new(agreed.ours))
    }

    fn there_and_back(
        ends: &mut (Compressor, Inflater),
        message: &[u8],
        cut: usize,
    ) -> Option<usize> {
        let (compressor, inflater) = ends;
        compressor.compress(message, |compressed| {
            let compressed = compressed?;
            let mut back = Vec::new();
            let mut sink = |bytes: &[u8]| {
                back.extend_from_slice(bytes);
                Ok(())
            };
            let (front, rest) = compressed.split_at(cut.min(compressed.len()));
            inflater.inflate(front, false, &mut sink).expect("inflates");
            inflater.inflate(rest, true, &mut sink).expect("inflates");
            assert!(back == message);
            Some(compressed.len())
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn what_is_compressed_is_inflated_again(
            messages in prop::collection::vec(("[ab]{1,500}|\\PC{1,50}", 1..300usize), 1..6),
            bits in 9..=15u8, takeover: bool, level in 1..=9u8, cut in 0..100usize,
        ) {
            let options = DeflateOptions::default().window_bits(bits).context_takeover(takeover).level(level);
            let mut ends = ends(options);
            for (piece, count) in messages {
                let message = piece.repeat(count);
                let size = there_and_back(&mut ends, message.as_bytes(), cut);
                prop_assert!(!takeover || size.is_some());
            }
        }
    }

    #[test]
    fn a_peer_that_takes_no_window_of_ours_gets_nothing_compressed() {
        for takeover in [false, true] {
            let options = DeflateOptions::default().context_takeover(takeover);
            let answer = "permessage-deflate; server_no_context_takeover; client_max_window_bits=8";
            let answers = extension::parse(answer).expect("is well formed");
            let agreed = options.conclude(&answers[0].params).expect("is an answer");
            let is_compressed =
                Compressor::new(&agreed).compress(&[7; 10_000], |out| out.is_some());
            assert!(!is_compressed);
        }
    }

    #[test]
    fn takeover_makes_what_comes_again_tiny() {
        let mut random = fastrand::Rng::with_seed(7);
        let message: Vec<u8> = (0..1000).map(|_| random.u8(..)).collect();
        let mut ends = ends(DeflateOptions::default().context_takeover(true));
        let first = there_and_back(&mut ends, &message, 0).expect("is sent compressed");
        let second = there_and_back(&mut ends, &message, 0).expect("is sent compressed");
        assert!(first >= 1000 && second < 50, "{first}, {second}");
    }

    #[test]
    fn what_does_not_become_smaller_is_sent_as_it_is() {
        let mut random = fastrand::Rng::with_seed(8);
        let message: Vec<u8> = (0..100_000).map(|_| random.u8(..)).collect();
        let mut ends = ends(DeflateOptions::default());
        assert_eq!(there_and_back(&mut ends, &message, 0), None);
        assert!(there_and_back(&mut ends, &[7; 100_000], 10).is_some_and(|size| size < 1000));
    }
}
