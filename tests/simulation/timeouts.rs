//! Timeouts and timers in virtual time: not a millisecond early, and none late.

use std::time::Duration;

use epicycle::codec::Lines;
use epicycle::testing::{Ending, Link, Peer, Reading, Simulation, each_seed};
use epicycle::{Action, CloseReason, Closed, Conn, EventHandler, Server, TimeoutKind};
use fastrand::Rng;

/// Does what lines say.
#[derive(Default)]
struct Obedient {
    ended: Vec<String>,
    timers: Vec<u64>,
    limit: Option<TimeoutKind>,
}

impl EventHandler for Obedient {
    type Codec = Lines;
    type Session = ();

    fn codec(&mut self) -> Lines {
        Lines::new()
    }

    fn on_open(&mut self, _conn: &mut Conn<'_, Self>) -> Option<()> {
        Some(())
    }

    fn react(&mut self, conn: &mut Conn<'_, Self>, (): &mut (), line: &[u8]) -> Action {
        match line {
            b"close" => Action::Close,
            b"flood" => conn.write(&[0; 1 << 20]).into(),
            b"flood and close" => {
                conn.write(&[0; 1 << 20]).expect("it is taken");
                Action::Close
            }
            delay => {
                if let Some(delay) = std::str::from_utf8(delay).ok().and_then(|d| d.parse().ok()) {
                    conn.set_timer(Duration::from_micros(delay), delay);
                }
                Action::Continue
            }
        }
    }

    fn on_timer(&mut self, _conn: &mut Conn<'_, Self>, (): &mut (), token: u64) -> Action {
        self.timers.push(token);
        Action::Continue
    }

    fn on_close(&mut self, _info: &Closed, (): (), reason: CloseReason) {
        if let CloseReason::Timeout(kind) = reason {
            self.limit = Some(kind);
        }
        self.ended.push(reason.to_string());
    }
}

/// How long a message is on its way here.
const HOP: Duration = Duration::from_micros(10);

fn world(seed: u64, server: Server) -> (Simulation<Obedient>, Peer) {
    let mut sim =
        Simulation::new(seed, Link::calm(), server, |_| Obedient::default()).expect("a simulation");
    let peer = sim.connect();
    sim.run_for(Duration::ZERO);
    (sim, peer)
}

fn server() -> Server {
    Server::bind("tcp://:1")
}

fn millis(rng: &mut Rng, range: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(rng.u64(range))
}

/// The tick in which something happens that arrives now: whole milliseconds, as limits count.
fn tick(sim: &Simulation<Obedient>) -> Duration {
    Duration::from_millis((sim.now() + HOP).as_millis() as u64)
}

/// Checks that the peer hears of the end when it is `due`, and not before.
fn ends(sim: &mut Simulation<Obedient>, peer: Peer, due: Duration, ending: Ending) {
    let early = (due - Duration::from_micros(1)).saturating_sub(sim.now());
    sim.run_for(early);
    assert_eq!(sim.ending(peer), Ending::Open, "before its time");
    sim.run_for(due + 5 * HOP - sim.now());
    assert_eq!(sim.ending(peer), ending, "not in time");
}

fn ended_by(sim: &Simulation<Obedient>, kind: TimeoutKind) {
    let handler = sim.handler();
    assert_eq!(handler.limit, Some(kind), "{:?}", handler.ended);
    assert_eq!(handler.ended.len(), 1);
}

#[test]
fn idle_connections_end_when_it_is_time() {
    each_seed(0..300, |seed| {
        let mut rng = Rng::with_seed(seed);
        let limit = millis(&mut rng, 50..100_000);
        let (mut sim, peer) = world(seed, server().idle_timeout(limit));
        let mut active = Duration::ZERO;
        for _ in 0..rng.usize(0..5) {
            sim.run_for(limit.mul_f64(rng.f64() * 0.98));
            active = tick(&sim);
            sim.send(peer, b"a line\n");
        }
        ends(&mut sim, peer, active + limit, Ending::Finished);
        ended_by(&sim, TimeoutKind::Idle);
    });
}

#[test]
fn a_frame_that_does_not_become_complete_ends_its_connection() {
    each_seed(0..300, |seed| {
        let mut rng = Rng::with_seed(seed);
        let limit = millis(&mut rng, 50..10_000);
        let (mut sim, peer) = world(seed, server().read_timeout(limit));
        let wait = millis(&mut rng, 0..100_000);
        sim.run_for(wait);
        sim.send(peer, b"whole\nin");
        let began = tick(&sim);
        for _ in 0..rng.usize(0..5) {
            sim.run_for(limit.mul_f64(rng.f64() * 0.19));
            sim.send(peer, b"comple");
        }
        ends(&mut sim, peer, began + limit, Ending::Finished);
        ended_by(&sim, TimeoutKind::Read);
    });
}

#[test]
fn the_first_frame_and_the_lifetime_have_limits() {
    each_seed(0..300, |seed| {
        let mut rng = Rng::with_seed(seed);
        let limit = millis(&mut rng, 50..10_000);
        let (mut sim, peer) = world(seed, server().handshake_timeout(limit));
        sim.send(peer, b"no end of a line");
        ends(&mut sim, peer, limit, Ending::Finished);
        ended_by(&sim, TimeoutKind::Handshake);

        let (mut sim, peer) = world(seed, server().lifetime(limit).handshake_timeout(limit));
        sim.send(peer, b"a line\n");
        sim.run_for(limit / 2);
        sim.send(peer, b"another\n");
        ends(&mut sim, peer, limit, Ending::Finished);
        ended_by(&sim, TimeoutKind::Lifetime);
    });
}

#[test]
fn a_peer_that_takes_nothing_is_reset() {
    each_seed(0..300, |seed| {
        let mut rng = Rng::with_seed(seed);
        let limit = millis(&mut rng, 50..10_000);
        let wait = millis(&mut rng, 0..100_000);
        let stalled = server().write_stall_timeout(limit);
        let draining = server().drain_deadline(limit);
        let cases = [
            (stalled, &b"flood\n"[..], TimeoutKind::WriteStall),
            (draining, b"flood and close\n", TimeoutKind::Drain),
        ];
        for (server, line, kind) in cases {
            let (mut sim, peer) = world(seed, server);
            sim.set_reading(peer, Reading::Never);
            sim.run_for(wait);
            sim.send(peer, line);
            let since = tick(&sim);
            ends(&mut sim, peer, since + limit, Ending::Reset);
            ended_by(&sim, kind);
        }
    });
}

#[test]
fn the_peers_end_is_awaited_no_longer_than_the_limit() {
    each_seed(0..300, |seed| {
        let mut rng = Rng::with_seed(seed);
        let limit = millis(&mut rng, 50..10_000);
        let (mut sim, peer) = world(seed, server().fin_timeout(limit));
        sim.keep_open(peer);
        sim.run_for(limit / 3);
        sim.send(peer, b"close\n");
        let closed = tick(&sim);
        sim.run_for(closed + limit - Duration::from_micros(1) - sim.now());
        assert_eq!(sim.ending(peer), Ending::Finished);
        assert!(!sim.is_closed(peer), "before its time");
        sim.run_for(Duration::from_micros(1));
        assert!(sim.is_closed(peer), "not in time");
        assert_eq!(sim.handler().ended, ["closed by this side"]);
    });
}

#[test]
fn timers_run_out_in_order_and_in_their_millisecond() {
    each_seed(0..300, |seed| {
        let mut rng = Rng::with_seed(seed);
        let (mut sim, peer) = world(seed, server());
        let mut due = Vec::new();
        for _ in 0..rng.usize(1..20) {
            sim.run_for(Duration::from_micros(rng.u64(..5000)));
            let digits = rng.u32(1..32);
            let delay = rng.u64(..1 << digits);
            sim.send(peer, format!("{delay}\n"));
            let exact = sim.now() + HOP + Duration::from_micros(delay);
            // The end of the millisecond in which it is.
            due.push((exact.as_micros().div_ceil(1000) as u64, delay));
        }
        due.sort_by_key(|(tick, _)| *tick);
        for n in 0..due.len() {
            let time = Duration::from_millis(due[n].0);
            sim.run_for((time - Duration::from_micros(1)).saturating_sub(sim.now()));
            let fired = due.iter().filter(|(tick, _)| *tick < due[n].0).count();
            assert!(
                sim.now() >= time || sim.handler().timers.len() == fired,
                "early"
            );
            sim.run_for(time.saturating_sub(sim.now()));
            let fired = due.iter().filter(|(tick, _)| *tick <= due[n].0).count();
            assert!(sim.handler().timers.len() >= fired, "late");
        }
        assert_eq!(sim.handler().timers.len(), due.len());
    });
}
