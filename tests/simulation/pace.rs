//! Ticks and intervals keep an even pace, and callbacks see the right time.

use std::time::{Duration, Instant};

use epicycle::codec::Lines;
use epicycle::testing::{Link, Peer, Simulation, each_seed, spend};
use epicycle::{
    Action, CloseReason, Closed, Conn, ConnInfo, ConnTimer, EventHandler, Reactor, Server,
};
use fastrand::Rng;

/// Notes when what happens.
struct Diary {
    ticks: Vec<Instant>,
    timers: Vec<Instant>,
    seen: Vec<(&'static str, Instant)>,
    period: Option<Duration>,
    /// How long ticks and timers take.
    work: Box<dyn FnMut() -> Duration>,
    interval: Option<ConnTimer>,
}

impl Diary {
    fn start(
        period: Option<Duration>,
        work: impl FnMut() -> Duration + Clone + 'static,
    ) -> Simulation<Self> {
        let make = move |_| Self {
            ticks: Vec::new(),
            timers: Vec::new(),
            seen: Vec::new(),
            period,
            work: Box::new(work.clone()),
            interval: None,
        };
        Simulation::new(1, Link::calm(), Server::bind("tcp://:1"), make).expect("a simulation")
    }
}

impl EventHandler for Diary {
    type Codec = Lines;
    type Session = ();

    fn codec(&mut self, _: &ConnInfo<'_>) -> Lines {
        Lines::new()
    }

    fn on_boot(&mut self, reactor: &mut Reactor<'_, Self>) {
        self.seen.push(("boot", reactor.now()));
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<()> {
        self.seen.push(("open", conn.now()));
        Some(())
    }

    fn react(&mut self, conn: &mut Conn<'_, Self>, (): &mut (), line: &[u8]) -> Action {
        self.seen.push(("react", conn.now()));
        let text = std::str::from_utf8(line).unwrap_or_default();
        if let Ok(nanos) = text.parse() {
            self.interval = Some(conn.set_interval(Duration::from_nanos(nanos), 7));
        } else if let Some(interval) = self.interval {
            assert!(conn.cancel_timer(interval), "it was pending");
            assert!(!conn.cancel_timer(interval), "twice");
        }
        Action::Continue
    }

    fn on_timer(&mut self, conn: &mut Conn<'_, Self>, (): &mut (), token: u64) -> Action {
        assert_eq!(token, 7);
        self.timers.push(conn.now());
        spend((self.work)());
        Action::Continue
    }

    fn tick(&mut self, reactor: &mut Reactor<'_, Self>) -> Option<Duration> {
        self.ticks.push(reactor.now());
        spend((self.work)());
        self.period
    }

    fn on_close(&mut self, _: &mut Reactor<'_, Self>, info: &Closed, (): (), _: CloseReason) {
        self.seen.push(("close", info.closed_at));
    }
}

/// Checks that calls came at multiples of the period. The simulation counts microseconds, and long timers milliseconds.
fn are_on_grid(calls: &[Instant], since: Instant, period: Duration) {
    let most = match period < 1000 * MILLI {
        true => MILLI / 500,
        false => MILLI,
    };
    for at in calls {
        let time = *at - since;
        let periods = (time.as_nanos() / period.as_nanos()) as u32;
        let late = time - period * periods;
        assert!(late <= most, "{late:?} behind the {periods}th");
    }
}

const MILLI: Duration = Duration::from_millis(1);

#[test]
fn ticks_keep_an_even_pace_however_long_they_take() {
    each_seed(0..50, |seed| {
        let mut rng = Rng::with_seed(seed);
        let period = Duration::from_micros(rng.u64(1..2_000_000));
        let period = if period >= 1000 * MILLI {
            MILLI * period.as_millis() as u32
        } else {
            period
        };
        let work = {
            let mut rng = rng.fork();
            move || period.mul_f64(rng.f64() * 0.9)
        };
        let mut sim = Diary::start(Some(period), work);
        sim.run_for(period * 1000);
        let ticks = &sim.handler().ticks;
        assert!(
            (1000..=1001).contains(&ticks.len()),
            "{} ticks",
            ticks.len()
        );
        are_on_grid(ticks, ticks[0], period);
    });
}

#[test]
fn ticks_that_were_missed_are_skipped() {
    let period = 10 * MILLI;
    let mut count = 0;
    let work = move || {
        count += 1;
        // The third keeps the loop until three more are past their time.
        if count == 3 { 37 * MILLI } else { MILLI }
    };
    let mut sim = Diary::start(Some(period), work);
    sim.run_for(95 * MILLI);
    let ticks = &sim.handler().ticks;
    let at: Vec<u128> = ticks
        .iter()
        .map(|tick| (*tick - ticks[0]).as_millis())
        .collect();
    assert_eq!(at, [0, 10, 20, 60, 70, 80, 90]);
}

/// A connection with an interval, which was set when the second of the answer.
fn with_interval(sim: &mut Simulation<Diary>, period: Duration) -> (Peer, Instant) {
    let peer = sim.connect();
    sim.send(peer, format!("{}\n", period.as_nanos()));
    sim.run_until_quiet();
    let set = sim.handler().seen.iter().find(|(what, _)| *what == "react");
    (peer, set.expect("it has reacted").1)
}

#[test]
fn an_interval_keeps_an_even_pace_until_it_is_cancelled() {
    // A third of a millisecond is no whole number of anything.
    for period in [MILLI / 3, 10 * MILLI, Duration::from_secs(2)] {
        let mut sim = Diary::start(None, move || period / 2);
        let (peer, set) = with_interval(&mut sim, period);
        sim.run_for(period * 3000);
        let timers = &sim.handler().timers;
        assert!(
            (2999..=3000).contains(&timers.len()),
            "{} calls",
            timers.len()
        );
        are_on_grid(timers, set, period);
        assert_eq!(sim.stats().timers, 1);

        sim.send(peer, "enough\n");
        sim.run_until_quiet();
        let calls = sim.handler().timers.len();
        sim.run_for(period * 10);
        assert_eq!(sim.handler().timers.len(), calls);
        assert_eq!(sim.stats().timers, 0);
    }
}

#[test]
fn calls_of_an_interval_that_were_missed_are_skipped_and_it_ends_with_its_connection() {
    let mut count = 0;
    let work = move || {
        count += 1;
        // The first is the tick's, and the third keeps the loop for long.
        if count == 3 { 1005 * MILLI } else { MILLI }
    };
    let mut sim = Diary::start(None, work);
    let (peer, set) = with_interval(&mut sim, 10 * MILLI);
    sim.run_for(1055 * MILLI);
    let at: Vec<u128> = sim
        .handler()
        .timers
        .iter()
        .map(|at| (*at - set).as_millis())
        .collect();
    assert_eq!(at, [10, 20, 1030, 1040, 1050]);
    sim.close(peer);
    sim.run_until_quiet();
    let calls = sim.handler().timers.len();
    sim.run_for(1000 * MILLI);
    assert_eq!(sim.handler().timers.len(), calls);
    assert_eq!(sim.stats().timers, 0);
}

#[test]
fn callbacks_are_told_the_virtual_time() {
    let mut sim = Diary::start(None, || Duration::ZERO);
    let start = sim.handler().seen[0].1;
    let mut expected = vec![("boot", Duration::ZERO)];
    sim.run_for(Duration::from_secs(100));
    let peer = sim.connect();
    expected.push(("open", sim.now()));
    sim.run_for(Duration::from_secs(1000));
    sim.send(peer, "a line\n");
    expected.push(("react", sim.now() + Duration::from_micros(10)));
    sim.run_for(Duration::from_secs(10_000));
    sim.close(peer);
    expected.push(("close", sim.now() + Duration::from_micros(10)));
    sim.run_until_quiet();
    let seen = sim
        .handler()
        .seen
        .iter()
        .map(|(what, at)| (*what, *at - start));
    assert_eq!(seen.collect::<Vec<_>>(), expected);
}
