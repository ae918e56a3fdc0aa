//! Joined connections: each peer receives the bytes that the other sends, in order.

use std::time::Duration;

use epicycle::codec::Raw;
use epicycle::testing::{Ending, Peer, Simulation, each_seed};
use epicycle::{Action, Conn, ConnId, ConnInfo, EventHandler};
use fastrand::Rng;

use super::world::{self, Farewell};

/// Joins each second connection with the one before it.
#[derive(Default)]
struct Switchboard {
    waiting: Option<ConnId>,
}

impl EventHandler for Switchboard {
    type Codec = Raw;
    type Session = ();

    fn codec(&mut self, _: &ConnInfo<'_>) -> Raw {
        Raw
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<()> {
        match self.waiting.take() {
            Some(other) => conn.pipe(other).expect("both are open"),
            None => self.waiting = Some(conn.id()),
        }
        Some(())
    }

    fn react(&mut self, _: &mut Conn<'_, Self>, (): &mut (), _: &[u8]) -> Action {
        panic!("a frame of a joined connection");
    }
}

#[test]
fn what_one_sends_the_other_receives() {
    each_seed(0..600, |seed| {
        let mut rng = Rng::with_seed(seed);
        let (server, link) = (world::server(&mut rng), world::link(&mut rng));
        let resets = rng.bool();
        let link = if resets {
            link.resets(20)
        } else {
            link.resets(0)
        };
        let mut sim =
            Simulation::new(seed, link, server, |_| Switchboard::default()).expect("a simulation");
        let pairs: Vec<[Peer; 2]> = (0..rng.usize(1..4))
            .map(|_| [sim.connect(), sim.connect()])
            .collect();
        // Which of them are a pair is for the handler to tell, so they come one after the other.
        sim.run_for(Duration::from_millis(20));
        let mut sent = vec![[Vec::new(), Vec::new()]; pairs.len()];
        for (pair, sent) in pairs.iter().zip(&mut sent) {
            for (peer, sent) in pair.iter().zip(sent) {
                sim.set_reading(*peer, world::reading(&mut rng));
                // Each says all it has to say, whether or not the other has ended.
                sim.keep_open(*peer);
                for _ in 0..rng.usize(0..6) {
                    let mut bytes = vec![0; world::len(&mut rng)];
                    rng.fill(&mut bytes);
                    if sim.send(*peer, &bytes) {
                        sent.extend(bytes);
                    }
                    sim.run_for(Duration::from_micros(rng.u64(..20_000)));
                }
                world::say(&mut sim, *peer, Farewell::Shutdown);
            }
        }
        sim.run_for(Duration::from_secs(3000));
        for (pair, sent) in pairs.iter().zip(&sent) {
            for n in 0..2 {
                let (received, other) = (sim.received(pair[n]), &sent[1 - n]);
                assert!(other.starts_with(received), "something else came through");
                // When one of them breaks, so does the other.
                if pair.iter().all(|peer| sim.ending(*peer) != Ending::Reset) {
                    assert_eq!(sim.ending(pair[n]), Ending::Finished);
                    assert_eq!(received.len(), other.len(), "bytes are lost on the way");
                } else {
                    assert!(resets);
                    assert_ne!(sim.ending(pair[n]), Ending::Open);
                }
            }
        }
        sim.finish();
        let stats = sim.stats();
        assert_eq!((stats.connections, stats.buffered), (0, 0));
    });
}
