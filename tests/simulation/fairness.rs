//! The division of a turn's work: by its cost, not by the number of input bytes.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use epicycle::codec::{Codec, Decoded, FrameError, Lines};
use epicycle::testing::{Link, Peer, Simulation, spend};
use epicycle::{Action, Conn, ConnInfo, EventHandler, Server};

/// A byte is a frame that costs a thousand times as much, or a skip that costs the same.
#[derive(Default)]
struct Costly {
    cost: usize,
}

const COST: usize = 1000;

impl Codec for Costly {
    type Frame<'a> = u8;

    fn decode(&mut self, src: &mut [u8]) -> Result<Decoded<u8>, FrameError> {
        self.cost += COST;
        Ok(match src[0] {
            b'-' => Decoded::Skip { consumed: 1 },
            frame => Decoded::Frame { frame, consumed: 1 },
        })
    }

    fn take_cost(&mut self) -> usize {
        std::mem::take(&mut self.cost)
    }
}

/// Notes whose frames come.
struct Notes<C> {
    codec: fn() -> C,
    frames: Vec<u8>,
}

impl<C: for<'a> Codec<Frame<'a> = u8>> Notes<C> {
    fn start(server: Server, codec: fn() -> C) -> Simulation<Self> {
        let make = |_| Self {
            codec,
            frames: Vec::new(),
        };
        Simulation::new(1, Link::calm(), server, make).expect("a simulation")
    }
}

impl<C: for<'a> Codec<Frame<'a> = u8>> EventHandler for Notes<C> {
    type Codec = C;
    type Session = ();

    fn codec(&mut self, _: &ConnInfo<'_>) -> C {
        (self.codec)()
    }

    fn on_open(&mut self, _: &mut Conn<'_, Self>) -> Option<()> {
        Some(())
    }

    fn react(&mut self, _: &mut Conn<'_, Self>, (): &mut (), frame: u8) -> Action {
        self.frames.push(frame);
        Action::Continue
    }
}

#[test]
fn what_a_codec_has_cost_counts_for_the_read_budget() {
    for flood in [*b"xx", *b"-x"] {
        // As much as ten frames cost.
        let server = Server::bind("tcp://:1").read_budget(10 * COST);
        let mut sim = Notes::start(server, Costly::default);
        let (flooder, neighbour) = (sim.connect(), sim.connect());
        sim.run_until_quiet();
        let turns = sim.stats().turns;
        sim.send(flooder, flood.repeat(500));
        sim.send(neighbour, "n");
        sim.run_until_quiet();
        let turns = sim.stats().turns - turns;
        assert!((100..=120).contains(&turns), "{turns} turns of ten frames");
        let notes = &sim.handler().frames;
        assert_eq!(notes.len(), if flood == *b"xx" { 1001 } else { 501 });
        let before = notes.iter().position(|note| *note == b'n');
        assert!(
            before.is_some_and(|before| before <= 10),
            "{before:?} first"
        );
    }
}

/// Skips all there is, a byte at a time.
struct Skips;

impl Codec for Skips {
    type Frame<'a> = u8;

    fn decode(&mut self, _: &mut [u8]) -> Result<Decoded<u8>, FrameError> {
        Ok(Decoded::Skip { consumed: 1 })
    }
}

#[test]
fn what_a_codec_skips_counts_for_the_frame_budget() {
    let server = Server::bind("tcp://:1").frame_budget(10);
    let mut sim = Notes::start(server, || Skips);
    let peer = sim.connect();
    sim.run_until_quiet();
    let turns = sim.stats().turns;
    sim.send(peer, "-".repeat(1000));
    sim.run_until_quiet();
    let turns = sim.stats().turns - turns;
    assert!((100..=110).contains(&turns), "{turns} turns of ten skips");
    assert_eq!(sim.stats().frames, 0);
}

/// What has happened, in order.
type Events = Rc<RefCell<Vec<Event>>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Timer(u64),
    Line,
}

/// Sets as many timers as a line says, all for the same moment.
struct Alarmed {
    events: Events,
}

const MOMENT: Duration = Duration::from_millis(50);

impl EventHandler for Alarmed {
    type Codec = Lines;
    type Session = ();

    fn codec(&mut self, _: &ConnInfo<'_>) -> Lines {
        Lines::new()
    }

    fn on_open(&mut self, _: &mut Conn<'_, Self>) -> Option<()> {
        Some(())
    }

    fn react(&mut self, conn: &mut Conn<'_, Self>, (): &mut (), line: &[u8]) -> Action {
        let count = std::str::from_utf8(line)
            .ok()
            .and_then(|line| line.parse().ok());
        for n in 0..count.unwrap_or(0) {
            conn.set_timer(MOMENT, n);
        }
        self.events.borrow_mut().push(Event::Line);
        Action::Continue
    }

    fn on_peer_shutdown(&mut self, _: &mut Conn<'_, Self>, (): &mut ()) -> Action {
        Action::Continue
    }

    fn on_timer(&mut self, _: &mut Conn<'_, Self>, (): &mut (), n: u64) -> Action {
        spend(Duration::from_micros(2));
        self.events.borrow_mut().push(Event::Timer(n));
        Action::Continue
    }
}

fn alarmed(server: Server) -> (Simulation<Alarmed>, Events) {
    let events = Events::default();
    let make = |_| Alarmed {
        events: events.clone(),
    };
    let sim = Simulation::new(1, Link::calm(), server, make).expect("a simulation");
    (sim, events)
}

const TIMERS: u64 = 10_000;

#[test]
fn timers_due_together_let_others_have_their_turn_and_keep_their_order() {
    let (mut sim, events) = alarmed(Server::bind("tcp://:1"));
    let (owner, neighbour) = (sim.connect(), sim.connect());
    sim.send(owner, format!("{TIMERS}\n"));
    sim.run_until_quiet();
    let due = sim.run_until(MOMENT * 2, |_| events.borrow().len() > 1);
    assert!(due, "the first of them have run");
    sim.send(neighbour, "and I?\n");
    let turns = sim.stats().turns;
    sim.run_until_quiet();
    sim.run_for(MOMENT);
    let turns = sim.stats().turns - turns;
    assert!((5..=20).contains(&turns), "{turns} turns");

    let events = events.borrow();
    let fired = events.iter().filter_map(|event| match event {
        Event::Timer(n) => Some(*n),
        Event::Line => None,
    });
    assert!(fired.eq(0..TIMERS), "out of order");
    let line = events
        .iter()
        .skip(1)
        .position(|event| *event == Event::Line);
    assert!(
        line.is_some_and(|line| line < 3000),
        "{line:?} timers first"
    );
}

#[test]
fn tasks_due_together_run_in_order_though_one_of_them_panics() {
    let (mut sim, _) = alarmed(Server::bind("tcp://:1"));
    sim.contain_panics(true);
    let ran = Arc::<Mutex<Vec<u64>>>::default();
    let tasks = ran.clone();
    sim.engine()
        .run_on(0, move |_, reactor| {
            for n in 0..TIMERS {
                let ran = tasks.clone();
                reactor.schedule(MOMENT, move |_, _| {
                    ran.lock().expect("one thread").push(n);
                    if n % 1000 == 7 {
                        std::panic::resume_unwind(Box::new("as planned"));
                    }
                });
            }
        })
        .expect("there is room");
    sim.run_for(MOMENT / 2);
    let turns = sim.stats().turns;
    sim.run_for(MOMENT * 2);
    assert!(
        ran.lock()
            .expect("one thread")
            .iter()
            .copied()
            .eq(0..TIMERS)
    );
    assert_eq!(sim.stats().panics, TIMERS / 1000);
    let turns = sim.stats().turns - turns;
    assert!((9..=20).contains(&turns), "{turns} turns");
}

#[test]
fn limits_that_run_out_together_are_divided_among_turns() {
    let limit = Duration::from_secs(30);
    let (mut sim, _) = alarmed(Server::bind("tcp://:1").idle_timeout(limit));
    let idlers: Vec<Peer> = (0..5000).map(|_| sim.connect()).collect();
    for peer in &idlers {
        // So that nothing is awaited from it when its connection is closed.
        sim.shutdown(*peer);
    }
    sim.run_until_quiet();
    let (mut ended, mut most) = (0, 0);
    sim.run_until(limit * 2, |sim| {
        let timeouts = sim.stats().timeouts;
        most = most.max(timeouts - ended);
        ended = timeouts;
        ended == idlers.len() as u64
    });
    assert_eq!(ended, idlers.len() as u64);
    assert!(most < 2000, "{most} in one turn");
}
