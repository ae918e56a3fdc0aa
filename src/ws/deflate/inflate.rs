use std::cell::RefCell;

use flate2::{Decompress, FlushDecompress, Status};

use super::TAIL;
use super::negotiate::Direction;
use crate::ws::failure::Failure;

/// Decompresses the messages of one connection.
#[derive(Debug)]
pub(in crate::ws) struct Inflater {
    direction: Direction,
    /// With context takeover, or within a fragmented message: the state of this connection.
    own: Option<Box<Decompress>>,
}

/// The number of bytes that are decompressed at a time.
const STEP: usize = 8 << 10;

/// The maximum number of streams that may end within a message. Each end causes a costly reset of the state.
const MAX_ENDS: usize = 64;

thread_local! {
    /// The state for messages without context takeover. All connections of a thread share it.
    static SHARED: RefCell<Option<(u8, Box<Decompress>)>> = const { RefCell::new(None) };
}

impl Inflater {
    pub(in crate::ws) fn new(direction: Direction) -> Self {
        Self {
            direction,
            own: None,
        }
    }

    /// Decompresses a fragment, with `last` for the last one of its message. Passes the output to `sink`, at most 8 KiB
    /// at a time.
    ///
    /// # Errors
    ///
    /// Returns a failure with 1007 if the input is not compressed data. Returns a failure of `sink` at once.
    pub(in crate::ws) fn inflate(
        &mut self,
        fragment: &[u8],
        last: bool,
        mut sink: impl FnMut(&[u8]) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let bits = self.direction.bits;
        let mut state = self.own.take().unwrap_or_else(|| borrow_shared(bits));
        let mut ends = 0;
        run(&mut state, fragment, &mut ends, &mut sink)?;
        if last {
            run(&mut state, &TAIL, &mut ends, &mut sink)?;
        }
        if self.direction.takeover || !last {
            self.own = Some(state);
        } else {
            SHARED.set(Some((bits, state)));
        }
        Ok(())
    }
}

/// Returns a state for a message without context takeover.
fn borrow_shared(bits: u8) -> Box<Decompress> {
    match SHARED.take() {
        Some((of, mut state)) if of == bits => {
            state.reset(false);
            state
        }
        // A window of 512 bytes also decompresses data for one of 256 bytes.
        _ => Box::new(Decompress::new_with_window_bits(false, bits.max(9))),
    }
}

fn run(
    state: &mut Decompress,
    input: &[u8],
    ends: &mut usize,
    sink: &mut impl FnMut(&[u8]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut chunk = [0; STEP];
    let mut rest = input;
    loop {
        let before = (state.total_in(), state.total_out());
        let status = state
            .decompress(rest, &mut chunk, FlushDecompress::Sync)
            .map_err(|_| Failure::data("compressed data that cannot be decompressed"))?;
        let taken = (state.total_in() - before.0) as usize;
        let made = (state.total_out() - before.1) as usize;
        rest = &rest[taken..];
        if made > 0 {
            sink(&chunk[..made])?;
        }
        if status == Status::StreamEnd {
            // The sender may end its stream with a message (section 7.2.3.4). The next data starts a new stream.
            *ends += 1;
            if *ends > MAX_ENDS {
                return Err(Failure::data(
                    "compressed data with too many stream ends in one message",
                ));
            }
            state.reset(false);
        }
        if rest.is_empty() && made < chunk.len() {
            return Ok(());
        }
        if taken == 0 && made == 0 && status != Status::StreamEnd {
            return Err(Failure::data(
                "compressed data on which the decompressor makes no progress",
            ));
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use flate2::{Compress, Compression, FlushCompress};

    use super::*;
    use crate::ws::failure::CloseCode;

    const ALONE: Direction = Direction {
        takeover: false,
        bits: 15,
    };
    const TAKEOVER: Direction = Direction {
        takeover: true,
        bits: 15,
    };

    fn inflate(inflater: &mut Inflater, fragment: &[u8], last: bool) -> Result<Vec<u8>, Failure> {
        let mut out = Vec::new();
        inflater.inflate(fragment, last, |bytes| {
            out.extend_from_slice(bytes);
            Ok(())
        })?;
        Ok(out)
    }

    #[test]
    fn the_examples_of_the_rfc_say_hello() {
        // Sections 7.2.3.1, 7.2.3.3, 7.2.3.4 and 7.2.3.5.
        let messages: [&[u8]; 4] = [
            &[0xF2, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00],
            &[
                0x00, 0x05, 0x00, 0xFA, 0xFF, 0x48, 0x65, 0x6C, 0x6C, 0x6F, 0x00,
            ],
            &[0xF3, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00, 0x00],
            &[
                0xF2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xFF, 0xFF, 0xCA, 0xC9, 0xC9, 0x07, 0x00,
            ],
        ];
        for direction in [ALONE, TAKEOVER, Direction { bits: 8, ..ALONE }] {
            let mut inflater = Inflater::new(direction);
            for message in messages {
                assert_eq!(
                    inflate(&mut inflater, message, true).expect("inflates"),
                    b"Hello"
                );
                let (front, back) = message.split_at(3);
                let mut parts = inflate(&mut inflater, front, false).expect("inflates");
                parts.extend(inflate(&mut inflater, back, true).expect("inflates"));
                assert_eq!(parts, b"Hello");
            }
        }
    }

    #[test]
    fn a_message_may_refer_to_the_one_before_it_only_with_takeover() {
        // Section 7.2.3.2.
        let (first, second): (&[u8], &[u8]) = (
            &[0xF2, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00],
            &[0xF2, 0x00, 0x11, 0x00, 0x00],
        );
        let mut inflater = Inflater::new(TAKEOVER);
        assert_eq!(
            inflate(&mut inflater, first, true).expect("inflates"),
            b"Hello"
        );
        assert_eq!(
            inflate(&mut inflater, second, true).expect("inflates"),
            b"Hello"
        );
        let mut inflater = Inflater::new(ALONE);
        assert_eq!(
            inflate(&mut inflater, first, true).expect("inflates"),
            b"Hello"
        );
        let failure = inflate(&mut inflater, second, true).expect_err("has no history");
        assert_eq!(failure.code, CloseCode::INVALID_DATA);
        assert_eq!(
            inflate(&mut inflater, first, true).expect("inflates"),
            b"Hello"
        );
    }

    #[test]
    fn nonsense_is_refused() {
        let mut inflater = Inflater::new(ALONE);
        for nonsense in [
            &b"\xFF\xFF\xFF"[..],
            b"\x06",
            &b"\x03\x00".repeat(MAX_ENDS + 1),
        ] {
            let failure = inflate(&mut inflater, nonsense, true).expect_err("is nonsense");
            assert_eq!(failure.code, CloseCode::INVALID_DATA);
        }
    }

    #[test]
    fn the_sink_stops_it_at_once() {
        let mut bomb = Vec::with_capacity(4096);
        Compress::new(Compression::best(), false)
            .compress_vec(&vec![0; 1 << 20], &mut bomb, FlushCompress::Sync)
            .expect("compresses");
        let mut taken = 0;
        let failure = Inflater::new(ALONE).inflate(&bomb, true, |bytes| {
            taken += bytes.len();
            if taken > 20_000 {
                return Err(Failure::too_big(20_001, 20_000));
            }
            Ok(())
        });
        assert_eq!(failure.expect_err("is too much").code, CloseCode::TOO_BIG);
        assert!(taken <= 20_000 + STEP);
    }
}
