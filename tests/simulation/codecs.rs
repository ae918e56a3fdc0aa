//! Echoes of frames, with every codec that only frames.

use std::rc::Rc;
use std::time::Duration;

use epicycle::codec::{Codec, Delimited, Encode, Fixed, LengthField, Lines, Raw, encode_to_vec};
use epicycle::testing::{Ending, Link, Peer, Simulation, each_seed};
use epicycle::{Action, CloseReason, Closed, Conn, ConnInfo, EventHandler, Reactor};
use fastrand::Rng;

use super::ledger::Ledger;
use super::world::{self, Farewell};

/// A way of cutting, and what can be cut out.
pub(crate) trait Framing: 'static {
    type Codec: for<'a> Codec<Frame<'a> = &'a [u8]> + for<'a> Encode<&'a [u8]>;

    /// Whether a frame is what was sent as one.
    const KEEPS_FRAMES: bool = true;

    fn codec() -> Self::Codec;

    fn payload(rng: &mut Rng) -> Vec<u8> {
        let mut payload = vec![0; world::len(rng)];
        rng.fill(&mut payload);
        payload
    }
}

/// Answers each frame with itself, and checks that it is the next one that was sent.
struct Echo<F: Framing> {
    ledger: Ledger,
    sent: Rc<Vec<Vec<Vec<u8>>>>,
    encoded: Rc<Vec<Vec<Vec<u8>>>>,
    framing: std::marker::PhantomData<F>,
}

impl<F: Framing> EventHandler for Echo<F> {
    type Codec = F::Codec;
    type Session = usize;

    fn codec(&mut self, _: &ConnInfo<'_>) -> F::Codec {
        F::codec()
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<usize> {
        Some(self.ledger.open(conn))
    }

    fn react(&mut self, conn: &mut Conn<'_, Self>, life: &mut usize, frame: &[u8]) -> Action {
        let (peer, n) = self.ledger.frame(conn, *life);
        if F::KEEPS_FRAMES {
            assert_eq!(
                frame, self.sent[peer][n],
                "frame {n} of {peer} is another one"
            );
            self.ledger.wrote(*life, &self.encoded[peer][n]);
        } else {
            self.ledger.wrote(*life, frame);
        }
        conn.send(frame).into()
    }

    fn on_close(
        &mut self,
        _: &mut Reactor<'_, Self>,
        info: &Closed,
        life: usize,
        reason: CloseReason,
    ) {
        self.ledger.close(info, life, &reason);
    }
}

/// Some peers send frames, in a world that follows from the seed, and get them back.
fn echoes<F: Framing>(seed: u64) {
    let mut rng = Rng::with_seed(seed);
    let count = rng.usize(1..6);
    let sent: Vec<Vec<Vec<u8>>> = (0..count)
        .map(|_| {
            (0..rng.usize(0..20))
                .map(|_| F::payload(&mut rng))
                .collect()
        })
        .collect();
    let encoded: Vec<Vec<Vec<u8>>> = sent
        .iter()
        .map(|frames| {
            let encode = |frame: &Vec<u8>| {
                encode_to_vec(&mut F::codec(), &frame[..]).expect("a frame of this codec")
            };
            frames.iter().map(encode).collect()
        })
        .collect();
    let ledger = Ledger::default();
    let (sent, encoded) = (Rc::new(sent), Rc::new(encoded));
    let (server, link) = (world::server(&mut rng), world::link(&mut rng));
    let mut sim = Simulation::new(seed, link, server, |_| Echo::<F> {
        ledger: ledger.clone(),
        sent: sent.clone(),
        encoded: encoded.clone(),
        framing: std::marker::PhantomData,
    })
    .expect("a simulation");

    let peers: Vec<Peer> = (0..count).map(|_| sim.connect()).collect();
    let mut left: Vec<(usize, usize)> = (0..count).map(|peer| (peer, 0)).collect();
    let farewells: Vec<Farewell> = (0..count).map(|_| world::farewell(&mut rng)).collect();
    for peer in &peers {
        sim.set_reading(*peer, world::reading(&mut rng));
    }
    while !left.is_empty() {
        let next = rng.usize(..left.len());
        let (peer, n) = left[next];
        match encoded[peer].get(n) {
            Some(frame) => {
                sim.send(peers[peer], frame);
                left[next].1 += 1;
            }
            None => {
                world::say(&mut sim, peers[peer], farewells[peer]);
                left.swap_remove(next);
            }
        }
        if rng.bool() {
            sim.run_for(Duration::from_micros(rng.u64(..20_000)));
        }
    }
    // Some are shut down in the midst of it: then everything written until then arrives.
    let midway = rng.u32(..4) == 0;
    let forced = if midway {
        sim.finish().forced
    } else {
        sim.run_for(Duration::from_secs(3000));
        0
    };
    let rude =
        |n: &usize| farewells[*n] == Farewell::Close || sim.ending(peers[*n]) == Ending::Reset;
    assert!(
        forced <= (0..count).filter(rude).count(),
        "output was lost without a reason"
    );
    for (n, peer) in peers.iter().enumerate() {
        let whole: Vec<u8> = encoded[n].concat();
        let received = sim.received(*peer);
        assert!(
            whole.starts_with(received),
            "peer {n} received something else"
        );
        let ending = sim.ending(*peer);
        let waits = matches!(farewells[n], Farewell::Shutdown | Farewell::None);
        if ending != Ending::Reset && waits && !midway {
            assert_eq!(received.len(), whole.len(), "peer {n} waits in vain");
            let finished = farewells[n] == Farewell::Shutdown;
            assert_eq!(ending == Ending::Finished, finished, "peer {n}");
        }
    }
    sim.finish();
    ledger.check(&sim, &peers);
}

struct RawBytes;

impl Framing for RawBytes {
    type Codec = Raw;
    const KEEPS_FRAMES: bool = false;

    fn codec() -> Raw {
        Raw
    }
}

struct TextLines;

impl Framing for TextLines {
    type Codec = Lines;

    fn codec() -> Lines {
        Lines::new().crlf()
    }

    fn payload(rng: &mut Rng) -> Vec<u8> {
        // A line may end in LF alone, and CRs may be anywhere in it but at its end.
        let len = world::len(rng).min(60_000);
        let mut line = vec![0; len];
        rng.fill(&mut line);
        line.iter_mut().for_each(|byte| *byte = 11 + *byte % 9);
        line.push(b'.');
        line
    }
}

struct Blocks;

impl Framing for Blocks {
    type Codec = Delimited;

    fn codec() -> Delimited {
        Delimited::new("\r\n\r\n").expect("a delimiter")
    }

    fn payload(rng: &mut Rng) -> Vec<u8> {
        // Parts of the delimiter, but never all of it.
        let len = world::len(rng).min(60_000);
        let mut block = vec![0; len];
        rng.fill(&mut block);
        for quad in block.chunks_mut(4) {
            quad.iter_mut()
                .take(3)
                .for_each(|byte| *byte = b'\n' + *byte % 2 * 3);
            quad.iter_mut().skip(3).for_each(|byte| *byte = b'.');
        }
        block.push(b'.');
        block
    }
}

struct Records;

impl Framing for Records {
    type Codec = Fixed;

    fn codec() -> Fixed {
        Fixed::new(300).expect("a size")
    }

    fn payload(rng: &mut Rng) -> Vec<u8> {
        let mut record = vec![0; 300];
        rng.fill(&mut record);
        record
    }
}

struct Prefixed;

impl Framing for Prefixed {
    type Codec = LengthField;

    fn codec() -> LengthField {
        LengthField::default()
    }
}

#[test]
fn raw_bytes_come_back_whatever_the_network_does() {
    each_seed(0..1000, echoes::<RawBytes>);
}

#[test]
fn lines_come_back_whatever_the_network_does() {
    each_seed(0..1000, echoes::<TextLines>);
}

#[test]
fn delimited_blocks_come_back_whatever_the_network_does() {
    each_seed(0..1000, echoes::<Blocks>);
}

#[test]
fn fixed_records_come_back_whatever_the_network_does() {
    each_seed(0..1000, echoes::<Records>);
}

#[test]
fn length_prefixed_frames_come_back_whatever_the_network_does() {
    each_seed(0..1000, echoes::<Prefixed>);
}

#[test]
fn the_same_seed_has_the_same_trace() {
    fn trace(seed: u64) -> (u64, Duration, Vec<u8>, u64) {
        let server = world::server(&mut Rng::with_seed(seed));
        let echo = |_| epicycle::service(|conn, bytes| conn.write(bytes).into());
        let link = Link::hostile().resets(30);
        let mut sim = Simulation::new(seed, link, server, echo).expect("a simulation");
        let peers: Vec<Peer> = (0..10).map(|_| sim.connect()).collect();
        for peer in &peers {
            sim.send(*peer, [7; 5000]);
            sim.shutdown(*peer);
        }
        sim.run_until_quiet();
        let received = peers.iter().map(|peer| sim.received(*peer));
        let received = received.collect::<Vec<_>>().concat();
        (sim.fingerprint(), sim.now(), received, sim.stats().turns)
    }

    let (mut runs, mut different) = (0, std::collections::HashSet::new());
    each_seed(0..200, |seed| {
        let first = trace(seed);
        assert_eq!(first, trace(seed));
        different.insert(first.0);
        runs += 1;
    });
    assert_eq!(different.len(), runs);
}
