//! Timeouts and timers in virtual time: never early, even if they begin in a long turn, and never late.

use std::time::Duration;

use epicycle::codec::{Codec, Decoded, FrameError, Lines};
use epicycle::testing::{Ending, Link, Peer, Reading, Simulation, each_seed, spend};
use epicycle::{
    Action, CloseReason, Closed, Conn, ConnInfo, EventHandler, Reactor, Server, TimeoutKind,
};
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

    fn codec(&mut self, _: &ConnInfo<'_>) -> Lines {
        Lines::new()
    }

    fn on_open(&mut self, _conn: &mut Conn<'_, Self>) -> Option<()> {
        Some(())
    }

    fn react(&mut self, conn: &mut Conn<'_, Self>, (): &mut (), line: &[u8]) -> Action {
        let line = match line.strip_prefix(b"long ") {
            Some(rest) => {
                spend(LONG_TURN);
                rest
            }
            None => line,
        };
        match line {
            b"close" => Action::Close,
            b"flood" => conn.write(&[0; 1 << 20]).into(),
            b"flood and shut down" => {
                conn.write(&[0; 1 << 20]).expect("it is taken");
                Action::Shutdown
            }
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

    fn on_close(&mut self, _: &mut Reactor<'_, Self>, _info: &Closed, (): (), reason: CloseReason) {
        if let CloseReason::Timeout(kind) = reason {
            self.limit = Some(kind);
        }
        self.ended.push(reason.to_string());
    }
}

/// How long it takes to react to a line that begins with `long `.
const LONG_TURN: Duration = Duration::from_millis(800);

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

/// When a limit begins to count that begins with what arrives now: whole milliseconds, rounded up.
fn moment(sim: &Simulation<Obedient>) -> Duration {
    Duration::from_millis((sim.now() + HOP).as_micros().div_ceil(1000) as u64)
}

/// The same of the idle timeout, which traffic puts off all the time: up to two milliseconds later.
fn activity(sim: &Simulation<Obedient>) -> Duration {
    Duration::from_millis((sim.now() + HOP).as_millis() as u64 + 2)
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
        let mut active = Duration::from_millis(2);
        for _ in 0..rng.usize(0..5) {
            sim.run_for(limit.mul_f64(rng.f64() * 0.98));
            active = activity(&sim);
            sim.send(peer, b"a line\n");
        }
        ends(&mut sim, peer, active + limit, Ending::Finished);
        ended_by(&sim, TimeoutKind::Idle);
    });
}

#[test]
fn output_that_a_slow_peer_takes_puts_off_the_idle_timeout() {
    each_seed(0..30, |seed| {
        let limit = Duration::from_secs(5);
        let (mut sim, peer) = world(seed, server().idle_timeout(limit));
        // A mebibyte in ten seconds.
        sim.set_reading(peer, Reading::Slowly(100 << 10));
        sim.send(peer, b"flood\n");
        let all = sim.run_until(4 * limit, |sim| sim.received(peer).len() == 1 << 20);
        assert!(all, "{} bytes came", sim.received(peer).len());
        assert!(sim.now() > limit, "it takes longer than the limit");
        assert_eq!(sim.ending(peer), Ending::Open);
        sim.run_for(2 * limit);
        assert_eq!(sim.ending(peer), Ending::Finished);
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
        let began = moment(&sim);
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
            let since = moment(&sim);
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
        let closed = moment(&sim);
        sim.run_for(closed + limit - Duration::from_micros(1) - sim.now());
        assert_eq!(sim.ending(peer), Ending::Finished);
        assert!(!sim.is_closed(peer), "before its time");
        sim.run_for(Duration::from_micros(1));
        assert!(sim.is_closed(peer), "not in time");
        assert_eq!(sim.handler().ended, ["closed by this side"]);
    });
}

#[test]
fn timers_run_out_in_order_and_in_their_microsecond() {
    each_seed(0..300, |seed| {
        let mut rng = Rng::with_seed(seed);
        let (mut sim, peer) = world(seed, server());
        let mut due = Vec::new();
        for _ in 0..rng.usize(1..20) {
            sim.run_for(Duration::from_micros(rng.u64(..5000)));
            let digits = rng.u32(1..32);
            let delay = rng.u64(..1 << digits);
            sim.send(peer, format!("{delay}\n"));
            let exact = (sim.now() + HOP).as_micros() as u64 + delay;
            let is_long = delay >= 1_000_000;
            due.push(match is_long {
                // The end of the millisecond in which it is.
                true => exact.next_multiple_of(1000),
                false => exact,
            });
        }
        due.sort_unstable();
        let due_by = |moment: Duration| {
            let due = due.iter();
            due.filter(|due| u128::from(**due) <= moment.as_micros())
                .count()
        };
        let micro = Duration::from_micros(1);
        for time in &due {
            let time = Duration::from_micros(*time);
            sim.run_for((time - micro).saturating_sub(sim.now()));
            assert!(sim.handler().timers.len() <= due_by(sim.now()), "early");
            // A reactor's ticks are finer, and not a part of a microsecond.
            sim.run_for((time + micro).saturating_sub(sim.now()));
            assert!(
                sim.handler().timers.len() >= due_by(sim.now() - micro),
                "late"
            );
        }
        assert_eq!(sim.handler().timers.len(), due.len());
    });
}

/// Has a turn take long: says when that begins.
fn long_turn(sim: &mut Simulation<Obedient>, peer: Peer, line: &str) -> Duration {
    sim.run_for(Duration::from_micros(123_456));
    sim.send(peer, format!("long {line}\n"));
    sim.now() + HOP
}

/// Checks that a peer is open until `limit` after the end of the long turn, and not for long after that.
fn outlives(sim: &mut Simulation<Obedient>, peer: Peer, began: Duration, limit: Duration) {
    let due = began + LONG_TURN + limit;
    sim.run_for(due - Duration::from_micros(1) - sim.now());
    assert!(!sim.is_closed(peer), "before its time");
    assert_eq!(sim.ending(peer), Ending::Open, "before its time");
    sim.run_for(Duration::from_millis(4));
    assert_ne!(sim.ending(peer), Ending::Open, "not in time");
}

/// Shorter than the turn in which it begins.
const LIMIT: Duration = Duration::from_millis(400);

#[test]
fn what_begins_after_a_long_callback_has_all_its_time() {
    let never = Duration::from_secs(3600);
    let server = || server().drain_deadline(never).write_stall_timeout(never);
    let cases = [
        (server().drain_deadline(LIMIT), "flood and close"),
        (server().write_stall_timeout(LIMIT), "flood"),
        (server().idle_timeout(LIMIT), "line"),
        (server().drain_deadline(LIMIT), "flood and shut down"),
    ];
    for (server, line) in cases {
        println!("{line}");
        let (mut sim, peer) = world(1, server);
        if line.starts_with("flood") {
            sim.set_reading(peer, Reading::Never);
        }
        let began = long_turn(&mut sim, peer, line);
        outlives(&mut sim, peer, began, LIMIT);
    }

    let (mut sim, peer) = world(1, server().fin_timeout(LIMIT));
    sim.keep_open(peer);
    let began = long_turn(&mut sim, peer, "close");
    sim.run_for(began + LONG_TURN + LIMIT - Duration::from_micros(1) - sim.now());
    assert!(!sim.is_closed(peer), "before its time");
    sim.run_for(Duration::from_millis(2));
    assert!(sim.is_closed(peer), "not in time");

    let (mut sim, peer) = world(1, server());
    let began = long_turn(&mut sim, peer, "400000");
    sim.run_for(began + LONG_TURN + LIMIT - Duration::from_micros(1) - sim.now());
    assert!(sim.handler().timers.is_empty(), "before its time");
    sim.run_for(Duration::from_millis(2));
    assert_eq!(sim.handler().timers, [400_000], "not in time");
}

#[test]
fn what_begins_behind_somebody_elses_long_callback_has_all_its_time() {
    // One who comes then.
    for server in [
        server().idle_timeout(LIMIT),
        server().handshake_timeout(LIMIT),
        server().lifetime(LIMIT),
    ] {
        let (mut sim, _) = world(1, server);
        sim.run_for(LIMIT / 4);
        let began = sim.now();
        sim.engine()
            .run_on(0, |_, _| spend(LONG_TURN))
            .expect("there is room");
        // It waits in the same mailbox.
        let newcomer = sim.connect();
        outlives(&mut sim, newcomer, began, LIMIT);
    }

    // One who is there already, and is served behind it.
    let lines = [
        ("line\n", server().idle_timeout(LIMIT)),
        ("par", server().read_timeout(LIMIT)),
    ];
    for (line, server) in lines {
        let (mut sim, busy) = world(1, server);
        let other = sim.connect();
        sim.run_for(LIMIT / 4);
        sim.send(busy, "long line\n");
        sim.send(other, line);
        let began = sim.now() + HOP;
        outlives(&mut sim, other, began, LIMIT);
    }
}

/// Skips `[]`; any other byte is a frame.
struct Brackets;

impl Codec for Brackets {
    type Frame<'a> = u8;

    fn decode(&mut self, src: &mut [u8]) -> Result<Decoded<u8>, FrameError> {
        Ok(match *src {
            [b'[', b']', ..] => Decoded::Skip { consumed: 2 },
            [b'['] => Decoded::NeedMore { at_least: 2 },
            _ => Decoded::Frame {
                frame: src[0],
                consumed: 1,
            },
        })
    }
}

#[derive(Default)]
struct Patient {
    ended: Option<TimeoutKind>,
}

impl EventHandler for Patient {
    type Codec = Brackets;
    type Session = ();

    fn codec(&mut self, _: &ConnInfo<'_>) -> Brackets {
        Brackets
    }

    fn on_open(&mut self, _conn: &mut Conn<'_, Self>) -> Option<()> {
        Some(())
    }

    fn react(&mut self, _conn: &mut Conn<'_, Self>, (): &mut (), _: u8) -> Action {
        Action::Continue
    }

    fn on_close(&mut self, _: &mut Reactor<'_, Self>, _info: &Closed, (): (), reason: CloseReason) {
        if let CloseReason::Timeout(kind) = reason {
            self.ended = Some(kind);
        }
    }
}

#[test]
fn what_is_skipped_renews_no_timeout() {
    let second = Duration::from_secs(1);
    let (idle, read) = (
        server().idle_timeout(20 * second),
        server().read_timeout(20 * second),
    );
    // The first piece, those that follow every 3 seconds, and which limit runs out, if any.
    for (server, first, next, kind) in [
        (idle, "x", "[]", Some(TimeoutKind::Idle)),
        (server().idle_timeout(20 * second), "x", "[]x", None),
        (read, "[", "][", Some(TimeoutKind::Read)),
        (server().read_timeout(20 * second), "[", "]x[", None),
    ] {
        let mut sim = Simulation::new(1, Link::calm(), server.fin_timeout(second), |_| {
            Patient::default()
        })
        .expect("a simulation");
        let peer = sim.connect();
        sim.send(peer, first);
        let begun = sim.now();
        while sim.now() < begun + 60 * second && sim.handler().ended.is_none() {
            sim.run_for(3 * second);
            sim.send(peer, next);
        }
        assert_eq!(sim.handler().ended, kind, "{first} and then {next}");
        if kind.is_some() {
            assert!(
                sim.now() < begun + 30 * second,
                "{first} and then {next}: too late"
            );
        }
        sim.finish();
    }
}
