//! Codecs that break their contract: their own connection fails, and no other.

use epicycle::codec::{Codec, Decoded, FrameError};
use epicycle::testing::{Ending, Link, Simulation};
use epicycle::{Action, CloseReason, Closed, Conn, ConnInfo, EventHandler, Reactor, Server};

/// What is wrong with a codec.
#[derive(Clone, Copy, Debug)]
enum Fault {
    SkipsNothing,
    SkipsTooMuch,
    TakesTooMuch,
    TakesNothing,
}

/// Echoes `.`; any other input shows the fault, at once or at the end of the stream.
struct Faulty {
    fault: Fault,
    at_end: bool,
}

impl Codec for Faulty {
    type Frame<'a> = &'a [u8];

    fn decode<'a>(&mut self, src: &'a mut [u8]) -> Result<Decoded<&'a [u8]>, FrameError> {
        if src[0] == b'.' {
            return Ok(Decoded::Frame {
                frame: &src[..1],
                consumed: 1,
            });
        }
        if self.at_end {
            let at_least = src.len() + 1;
            return Ok(Decoded::NeedMore { at_least });
        }
        self.decode_eof(src)
    }

    fn decode_eof<'a>(&mut self, src: &'a mut [u8]) -> Result<Decoded<&'a [u8]>, FrameError> {
        let too_much = src.len() + 1;
        Ok(match self.fault {
            Fault::SkipsNothing => Decoded::Skip { consumed: 0 },
            Fault::SkipsTooMuch => Decoded::Skip { consumed: too_much },
            Fault::TakesTooMuch => Decoded::Frame {
                frame: src,
                consumed: too_much,
            },
            Fault::TakesNothing => Decoded::Frame {
                frame: src,
                consumed: 0,
            },
        })
    }
}

struct Dots {
    fault: Fault,
    at_end: bool,
    ends: Vec<CloseReason>,
}

impl EventHandler for Dots {
    type Codec = Faulty;
    type Session = ();

    fn codec(&mut self, _: &ConnInfo<'_>) -> Faulty {
        Faulty {
            fault: self.fault,
            at_end: self.at_end,
        }
    }

    fn on_open(&mut self, _: &mut Conn<'_, Self>) -> Option<()> {
        Some(())
    }

    fn react(&mut self, conn: &mut Conn<'_, Self>, (): &mut (), frame: &[u8]) -> Action {
        if frame == b"." {
            conn.write(b".").expect("an open connection");
        }
        Action::Continue
    }

    fn on_close(&mut self, _: &mut Reactor<'_, Self>, _: &Closed, (): (), reason: CloseReason) {
        self.ends.push(reason);
    }
}

#[test]
fn a_codec_that_consumes_nothing_or_too_much_ends_its_own_connection() {
    use Fault::{SkipsNothing, SkipsTooMuch, TakesNothing, TakesTooMuch};

    for fault in [SkipsNothing, SkipsTooMuch, TakesTooMuch, TakesNothing] {
        for at_end in [false, true] {
            println!("{fault:?}, at the end: {at_end}");
            // So many frames that those in vain take few turns.
            let server = Server::bind("tcp://:1").frame_budget(100_000);
            let make = |_| Dots {
                fault,
                at_end,
                ends: Vec::new(),
            };
            let mut sim = Simulation::new(1, Link::calm(), server, make).expect("a simulation");
            let (victim, other) = (sim.connect(), sim.connect());
            sim.send(victim, "..!!!");
            if at_end {
                sim.shutdown(victim);
            }
            sim.send(other, "...");
            sim.run_until_quiet();
            assert_eq!(sim.received(victim), b"..", "what came before is answered");
            assert_eq!(sim.ending(victim), Ending::Finished);
            let ends = &sim.handler().ends;
            // Of a stream that has ended there are no endless frames, but one look.
            if !(at_end && matches!(fault, TakesNothing)) {
                assert!(
                    matches!(ends[..], [CloseReason::Frame(FrameError::Codec { .. })]),
                    "{ends:?}"
                );
            }
            sim.send(other, "...");
            sim.run_until_quiet();
            assert_eq!(sim.received(other), b"......");
            assert_eq!(sim.stats().panics, 0);
        }
    }
}

/// Finds so many frames in each byte.
struct Many(usize);

impl Codec for Many {
    type Frame<'a> = usize;

    fn decode(&mut self, _: &mut [u8]) -> Result<Decoded<usize>, FrameError> {
        self.0 = self.0.checked_sub(1).unwrap_or(MANY - 1);
        Ok(Decoded::Frame {
            frame: self.0,
            consumed: usize::from(self.0 == 0),
        })
    }
}

const MANY: usize = 700_000;

struct Count(usize);

impl EventHandler for Count {
    type Codec = Many;
    type Session = ();

    fn codec(&mut self, _: &ConnInfo<'_>) -> Many {
        Many(0)
    }

    fn on_open(&mut self, _: &mut Conn<'_, Self>) -> Option<()> {
        Some(())
    }

    fn react(&mut self, _: &mut Conn<'_, Self>, (): &mut (), _: usize) -> Action {
        self.0 += 1;
        Action::Continue
    }
}

#[test]
fn a_codec_may_find_hundreds_of_thousands_of_frames_in_the_same_input() {
    let server = Server::bind("tcp://:1").frame_budget(50_000);
    let mut sim = Simulation::new(1, Link::calm(), server, |_| Count(0)).expect("a simulation");
    let peer = sim.connect();
    sim.send(peer, "ab");
    sim.run_until_quiet();
    // Those of one byte are not counted with those of the next.
    assert_eq!(sim.handler().0, 2 * MANY);
    assert_eq!(sim.ending(peer), Ending::Open);
}
