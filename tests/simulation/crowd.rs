//! A shutdown of thousands of connections, each of which has output to send before it closes.

use std::time::{Duration, Instant};

use epicycle::codec::{CloseCause, Codec, Decoded, FrameError};
use epicycle::testing::{Link, Simulation, spend};
use epicycle::{
    Action, CloseReason, Closed, Conn, ConnInfo, EventHandler, Outbox, Reactor, Server,
};

/// Says goodbye, which takes it a millisecond.
struct Polite;

impl Codec for Polite {
    type Frame<'a> = &'a [u8];
    const CONVERSES: bool = true;

    fn decode<'a>(&mut self, src: &'a mut [u8]) -> Result<Decoded<&'a [u8]>, FrameError> {
        Ok(Decoded::Frame {
            consumed: src.len(),
            frame: src,
        })
    }

    fn close_notice(&mut self, _: CloseCause<'_>, dst: &mut Outbox<'_>) {
        spend(MILLISECOND);
        dst.put(b"goodbye");
    }
}

/// Looks at the clock every millisecond.
struct Watch {
    last: Option<Instant>,
    longest: Duration,
    closed: usize,
}

const MILLISECOND: Duration = Duration::from_millis(1);

impl EventHandler for Watch {
    type Codec = Polite;
    type Session = ();

    fn codec(&mut self, _: &ConnInfo<'_>) -> Polite {
        Polite
    }

    fn on_open(&mut self, _conn: &mut Conn<'_, Self>) -> Option<()> {
        Some(())
    }

    fn react(&mut self, _conn: &mut Conn<'_, Self>, (): &mut (), _: &[u8]) -> Action {
        Action::Continue
    }

    fn tick(&mut self, reactor: &mut Reactor<'_, Self>) -> Option<Duration> {
        let now = reactor.now();
        if let Some(last) = self.last.replace(now) {
            self.longest = self.longest.max(now - last);
        }
        Some(MILLISECOND)
    }

    fn on_close(&mut self, _: &mut Reactor<'_, Self>, _: &Closed, (): (), reason: CloseReason) {
        assert!(matches!(reason, CloseReason::Shutdown), "{reason}");
        self.closed += 1;
    }
}

#[test]
fn a_shutdown_says_goodbye_to_thousands_without_keeping_the_loop() {
    const CROWD: usize = 5000;
    let server = Server::bind("tcp://:1")
        .tick(MILLISECOND)
        .drain_deadline(Duration::from_secs(60));
    let mut sim = Simulation::new(1, Link::calm(), server, |_| Watch {
        last: None,
        longest: Duration::ZERO,
        closed: 0,
    })
    .expect("a simulation");
    let peers: Vec<_> = (0..CROWD).map(|_| sim.connect()).collect();
    sim.run_for(Duration::from_secs(1));
    assert_eq!(sim.stats().connections, CROWD as u64);
    let report = sim.finish();
    assert_eq!((report.drained, report.forced), (CROWD, 0));
    for peer in peers {
        assert_eq!(sim.received(peer), b"goodbye");
    }
    let watch = sim.handler();
    assert_eq!(watch.closed, CROWD);
    // All of them in one turn would take five seconds.
    let longest = watch.longest;
    assert!(
        longest < Duration::from_millis(1500),
        "a turn took {longest:?}"
    );
}
