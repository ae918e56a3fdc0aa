//! The bookkeeping of a pool of connections, against a naive model.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use epicycle::fetch::{Pool, PoolLimits, Step, Ticket};
use proptest::collection::vec;
use proptest::prelude::*;

type Connections = Pool<u8, u32, u32>;

#[derive(Clone, Debug)]
enum Op {
    Request {
        to: u8,
        fresh: bool,
        within: Option<u64>,
    },
    Cancel(usize),
    DialEnds {
        which: usize,
        well: bool,
    },
    Release(usize),
    /// A connection ends by itself, whatever its state.
    Ends(usize),
    Pass(u64),
    CloseIdleTo(u8),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0u8..4, prop::bool::weighted(0.15), prop::option::weighted(0.4, 1u64..300))
            .prop_map(|(to, fresh, within)| Op::Request { to, fresh, within }),
        1 => any::<usize>().prop_map(Op::Cancel),
        4 => (any::<usize>(), prop::bool::weighted(0.8)).prop_map(|(which, well)| Op::DialEnds { which, well }),
        4 => any::<usize>().prop_map(Op::Release),
        2 => any::<usize>().prop_map(Op::Ends),
        2 => (1u64..120).prop_map(Op::Pass),
        1 => (0u8..4).prop_map(Op::CloseIdleTo),
    ]
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Busy,
    /// Since when, and the number of the release.
    Idle(Instant, u64),
    Closing,
}

#[derive(Clone, Debug)]
struct Waiter {
    who: u32,
    to: u8,
    fresh: bool,
    deadline: Option<Instant>,
    ticket: Ticket,
}

/// Everything in lists, searched from the front.
struct Model {
    limits: [usize; 5],
    idle_timeout: Duration,
    now: Instant,
    waiters: Vec<Waiter>,
    connections: Vec<(u32, u8, State)>,
    dials: Vec<u8>,
    releases: u64,
    asked: u32,
    dialed: u32,
}

impl Model {
    fn first(&self, to: u8, accepts_fresh: bool) -> Option<usize> {
        self.waiters
            .iter()
            .position(|waiter| waiter.to == to && (accepts_fresh || !waiter.fresh))
    }

    fn state(&mut self, connection: u32) -> &mut State {
        let found = self
            .connections
            .iter_mut()
            .find(|(id, ..)| *id == connection);
        &mut found.expect("it is known").2
    }

    fn count(&self, is: impl Fn(u8, State) -> bool) -> usize {
        let all = self.connections.iter();
        all.filter(|(_, to, state)| is(*to, *state)).count()
    }

    fn idle(&self) -> usize {
        self.count(|_, state| matches!(state, State::Idle(..)))
    }

    /// Carries out all steps. `expected` are those that serve somebody or tell somebody, in order.
    fn take_steps(&mut self, pool: &mut Connections, mut expected: VecDeque<Step<u8, u32, u32>>) {
        while let Some(step) = pool.next_step() {
            match step {
                Step::Dial(to) => self.dials.push(to),
                Step::Close(connection) => self.may_close(connection),
                step => assert_eq!(Some(step), expected.pop_front()),
            }
        }
        assert_eq!(expected, []);
    }

    /// Only an idle connection is closed, and none that was used later than another one to the same destination.
    fn may_close(&mut self, connection: u32) {
        let (_, to, state) = *self
            .connections
            .iter()
            .find(|(id, ..)| *id == connection)
            .expect("it is known");
        let State::Idle(_, number) = state else {
            panic!("{connection} is {state:?}");
        };
        let is_older = |other: &&(u32, u8, State)| {
            other.1 == to && matches!(other.2, State::Idle(_, older) if older < number)
        };
        assert!(self.connections.iter().find(is_older).is_none());
        *self.state(connection) = State::Closing;
    }

    fn check(&self, pool: &Connections) {
        let [per_destination, total, idle_per_destination, idle, waiting] = self.limits;
        assert_eq!(pool.connections(), self.connections.len());
        assert_eq!(pool.dialing(), self.dials.len());
        assert_eq!(pool.idle(), self.idle());
        assert_eq!(pool.waiting(), self.waiters.len());
        // The bounds.
        assert!(self.connections.len() + self.dials.len() <= total);
        assert!(self.idle() <= idle);
        assert!(self.waiters.len() <= waiting);
        let mut known = 0;
        let mut lacking = 0;
        for to in 0..4 {
            let open = self.count(|other, _| other == to);
            let idle_here =
                self.count(|other, state| other == to && matches!(state, State::Idle(..)));
            let closing_here = self.count(|other, state| other == to && state == State::Closing);
            let dialing = self.dials.iter().filter(|other| **other == to).count();
            let waiting = self.waiters.iter().filter(|waiter| waiter.to == to).count();
            assert!(open + dialing <= per_destination);
            assert!(idle_here <= idle_per_destination);
            known += usize::from(open + dialing + waiting > 0);
            // Nobody waits in vain.
            assert!(idle_here == 0 || self.first(to, false).is_none());
            if waiting > dialing {
                if open + dialing < per_destination {
                    assert!(
                        self.connections.len() + self.dials.len() == total,
                        "a place is free"
                    );
                    lacking += 1;
                } else {
                    assert!(idle_here == 0 || waiting <= dialing + closing_here);
                }
            }
        }
        let closing = self.count(|_, state| state == State::Closing);
        assert!(
            self.idle() == 0 || closing >= lacking,
            "an idle connection takes the place"
        );
        assert_eq!(pool.destinations(), known, "a destination is kept in vain");
        // The alarm.
        let oldest = self
            .connections
            .iter()
            .filter_map(|(_, _, state)| match state {
                State::Idle(since, _) => Some(*since + self.idle_timeout),
                _ => None,
            });
        let deadlines = self.waiters.iter().filter_map(|waiter| waiter.deadline);
        assert_eq!(pool.next_deadline(), oldest.chain(deadlines).min());
    }

    fn run(&mut self, pool: &mut Connections, op: Op) {
        let mut expected = VecDeque::new();
        match op {
            Op::Request { to, fresh, within } => {
                let who = self.asked;
                self.asked += 1;
                let deadline = within.map(|ms| self.now + Duration::from_millis(ms));
                let asked = match fresh {
                    true => pool.request_fresh(to, who, deadline),
                    false => pool.request(to, who, deadline),
                };
                let last_used =
                    self.connections
                        .iter()
                        .filter_map(|(id, other, state)| match state {
                            State::Idle(_, number) if *other == to => Some((*number, *id)),
                            _ => None,
                        });
                match last_used.max().filter(|_| !fresh) {
                    Some((_, connection)) => {
                        assert!(asked.is_ok());
                        *self.state(connection) = State::Busy;
                        expected.push_back(Step::Serve {
                            waiter: who,
                            connection,
                            reused: true,
                        });
                    }
                    None if self.waiters.len() == self.limits[4] => assert_eq!(asked, Err(who)),
                    None => {
                        let ticket = asked.expect("the queue has room");
                        self.waiters.push(Waiter {
                            who,
                            to,
                            fresh,
                            deadline,
                            ticket,
                        });
                    }
                }
            }
            Op::Cancel(which) => {
                if self.waiters.is_empty() {
                    return;
                }
                let waiter = self.waiters.remove(which % self.waiters.len());
                assert_eq!(pool.cancel(waiter.ticket), Some(waiter.who));
                assert_eq!(pool.cancel(waiter.ticket), None);
            }
            Op::DialEnds { which, well } => {
                if self.dials.is_empty() {
                    return;
                }
                let to = self.dials.remove(which % self.dials.len());
                let first = self.first(to, true).map(|at| self.waiters.remove(at).who);
                if !well {
                    assert_eq!(pool.failed(&to), first);
                } else {
                    let connection = self.dialed;
                    self.dialed += 1;
                    pool.opened(&to, connection, self.now);
                    let state = match first {
                        Some(_) => State::Busy,
                        None => self.idle_now(),
                    };
                    self.connections.push((connection, to, state));
                    expected.extend(first.map(|waiter| Step::Serve {
                        waiter,
                        connection,
                        reused: false,
                    }));
                }
            }
            Op::Release(which) => {
                let busy = self
                    .connections
                    .iter()
                    .filter(|(.., state)| *state == State::Busy);
                let busy: Vec<_> = busy.map(|(id, to, _)| (*id, *to)).collect();
                if busy.is_empty() {
                    return;
                }
                let (connection, to) = busy[which % busy.len()];
                pool.release(connection, self.now);
                match self.first(to, false) {
                    Some(at) => {
                        let waiter = self.waiters.remove(at).who;
                        expected.push_back(Step::Serve {
                            waiter,
                            connection,
                            reused: true,
                        });
                    }
                    None => {
                        let idle = self.idle_now();
                        *self.state(connection) = idle;
                    }
                }
            }
            Op::Ends(which) => {
                if self.connections.is_empty() {
                    return;
                }
                let (connection, ..) = self.connections.remove(which % self.connections.len());
                pool.closed(connection);
                // Nor does it matter to hear it twice.
                pool.closed(connection);
            }
            Op::Pass(ms) => {
                self.now += Duration::from_millis(ms);
                pool.expire(self.now);
                let now = self.now;
                let mut late: Vec<_> = self
                    .waiters
                    .iter()
                    .filter_map(|waiter| Some((waiter.deadline?, waiter.who)))
                    .filter(|(deadline, _)| *deadline <= now)
                    .collect();
                late.sort();
                self.waiters
                    .retain(|waiter| waiter.deadline.is_none_or(|deadline| deadline > now));
                expected.extend(late.into_iter().map(|(_, who)| Step::TimedOut(who)));
            }
            Op::CloseIdleTo(to) => pool.close_idle_to(&to),
        }
        self.take_steps(pool, expected);
        for (_, _, state) in &self.connections {
            assert!(
                !matches!(state, State::Idle(since, _) if self.now - *since >= self.idle_timeout)
            );
        }
        self.check(pool);
    }

    fn idle_now(&mut self) -> State {
        self.releases += 1;
        State::Idle(self.now, self.releases)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn a_pool_keeps_its_bounds_and_lets_nobody_wait_in_vain(
        ops in vec(op(), 1..120),
        per_destination in 1usize..5,
        total in 1usize..8,
        idle_per_destination in 0usize..4,
        idle in 0usize..6,
        waiting in 1usize..12,
    ) {
        let idle_timeout = Duration::from_millis(200);
        let limits = PoolLimits::default()
            .max_per_destination(per_destination)
            .max_total(total)
            .max_idle_per_destination(idle_per_destination)
            .max_idle(idle)
            .idle_timeout(idle_timeout)
            .max_waiting(waiting);
        let bounds = [per_destination, total, idle_per_destination, idle, waiting];
        run_all(ops, limits, bounds, idle_timeout);
    }
}

/// Runs operations, and then ends all connections.
fn run_all(ops: Vec<Op>, limits: PoolLimits, bounds: [usize; 5], idle_timeout: Duration) {
    let mut pool = Connections::new(limits);
    let mut model = Model {
        limits: bounds,
        idle_timeout,
        now: Instant::now(),
        waiters: Vec::new(),
        connections: Vec::new(),
        dials: Vec::new(),
        releases: 0,
        asked: 0,
        dialed: 0,
    };
    for op in ops {
        model.run(&mut pool, op);
    }
    // In the end nothing is left behind.
    while !model.dials.is_empty() || !model.connections.is_empty() || !model.waiters.is_empty() {
        let first = 0;
        let well = true;
        model.run(&mut pool, Op::DialEnds { which: first, well });
        model.run(&mut pool, Op::Ends(first));
    }
    assert_eq!(pool.destinations(), 0);
}

#[test]
fn a_destination_whose_turn_comes_at_its_own_bound_makes_room_there() {
    let request = |to, fresh| Op::Request {
        to,
        fresh,
        within: None,
    };
    let ends = |well| Op::DialEnds { which: 0, well };
    let ops = vec![
        request(0, false),
        request(0, false),
        request(0, false),
        Op::Release(0),
        Op::Release(0),
        Op::Release(0),
        Op::Cancel(0),
        request(1, false),
        ends(true),
        request(1, false),
        request(0, false),
        ends(true),
        ends(true),
        request(3, false),
        request(0, false),
        ends(true),
        Op::Release(0),
        Op::Release(0),
        Op::Release(0),
        ends(true),
        request(3, true),
        Op::Release(10_737_610_563_090_114_452),
        request(3, true),
        ends(false),
    ];
    let limits = PoolLimits::default()
        .max_per_destination(2)
        .max_total(5)
        .max_idle_per_destination(1)
        .max_idle(1)
        .max_waiting(3);
    let idle_timeout = Duration::from_secs(90);
    run_all(ops, limits, [2, 5, 1, 1, 3], idle_timeout);
}

fn pool(limits: PoolLimits) -> (Connections, Instant) {
    (Connections::new(limits), Instant::now())
}

fn steps(pool: &mut Connections) -> Vec<Step<u8, u32, u32>> {
    std::iter::from_fn(|| pool.next_step()).collect()
}

#[test]
fn destinations_that_lack_a_place_take_turns() {
    let (mut pool, now) = pool(PoolLimits::default().max_total(1));
    for (to, who) in [(1, 10), (1, 11), (1, 12), (2, 20), (3, 30)] {
        pool.request(to, who, None).expect("the queue has room");
    }
    assert_eq!(steps(&mut pool), [Step::Dial(1)]);
    let mut served = Vec::new();
    let mut to = 1;
    for connection in 0..5 {
        pool.opened(&to, connection, now);
        let [
            Step::Serve {
                waiter,
                reused: false,
                ..
            },
        ] = steps(&mut pool)[..]
        else {
            panic!("one is served");
        };
        served.push(waiter);
        pool.closed(connection);
        if let [Step::Dial(next)] = steps(&mut pool)[..] {
            to = next;
        }
    }
    assert_eq!(served, [10, 11, 20, 30, 12]);
}

#[test]
fn a_connection_that_is_given_back_serves_before_one_that_is_dialled() {
    let (mut pool, now) = pool(PoolLimits::default());
    pool.request(1, 10, None).expect("the queue has room");
    pool.request(1, 11, None).expect("the queue has room");
    pool.opened(&1, 100, now);
    assert_eq!(steps(&mut pool).len(), 3);
    pool.release(100, now);
    let serve = Step::Serve {
        waiter: 11,
        connection: 100,
        reused: true,
    };
    assert_eq!(steps(&mut pool), [serve]);
    // The second one is spare.
    pool.opened(&1, 101, now);
    assert_eq!((pool.idle(), steps(&mut pool)), (1, vec![]));
}

#[test]
fn a_request_for_a_fresh_connection_gets_no_other() {
    let (mut pool, now) = pool(PoolLimits::default().max_per_destination(1));
    pool.request(1, 10, None).expect("the queue has room");
    pool.opened(&1, 100, now);
    pool.release(100, now);
    steps(&mut pool);
    pool.request_fresh(1, 11, None).expect("the queue has room");
    assert_eq!(steps(&mut pool), [Step::Close(100)]);
    pool.closed(100);
    assert_eq!(steps(&mut pool), [Step::Dial(1)]);
    pool.opened(&1, 101, now);
    let serve = Step::Serve {
        waiter: 11,
        connection: 101,
        reused: false,
    };
    assert_eq!(steps(&mut pool), [serve]);
}
