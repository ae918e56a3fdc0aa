//! Idle connections cost nothing: no turn of the loop, and no read of their sockets while others are served.

use std::cell::Cell;
use std::time::Duration;

use epicycle::testing::{Link, Peer, Simulation};
use epicycle::{EventHandler, Server, service};

/// With every limit that has a timer.
fn server() -> Server {
    Server::bind("tcp://:1")
        .idle_timeout(Duration::from_secs(600))
        .read_timeout(Duration::from_secs(30))
        .handshake_timeout(Duration::from_secs(10))
        .lifetime(Duration::from_secs(3600))
}

/// So many connections to an echo, over each of which a message has gone to and fro.
fn crowd(server: Server, count: usize) -> (Simulation<impl EventHandler>, Vec<Peer>) {
    let echo = |_| service(|conn, bytes| conn.write(bytes).into());
    let mut sim = Simulation::new(1, Link::calm(), server, echo).expect("a simulation");
    let peers: Vec<_> = (0..count).map(|_| sim.connect()).collect();
    for peer in &peers {
        assert!(sim.send(*peer, "hello"));
    }
    sim.run_until_quiet();
    assert!(peers.iter().all(|peer| sim.received(*peer) == b"hello"));
    (sim, peers)
}

#[test]
fn idle_connections_take_no_turns() {
    let long = Duration::from_secs(500);
    let (mut sim, _) = crowd(Server::bind("tcp://:1"), 1000);
    sim.run_for(Duration::from_secs(1));
    let before = sim.stats().turns;
    sim.run_for(long);
    assert_eq!(sim.stats().turns, before);

    // Timers are moved to finer levels now and then, many at a time.
    let (mut sim, _) = crowd(server(), 1000);
    let before = sim.stats().turns;
    sim.run_for(long);
    let turns = sim.stats().turns - before;
    assert!(turns < 20, "{turns} turns");
    assert_eq!(sim.stats().connections, 1000);
}

#[test]
fn a_connection_that_sends_nothing_takes_one_turn_to_open() {
    let (mut sim, _) = crowd(server(), 1);
    let before = sim.stats().turns;
    for _ in 0..100 {
        sim.connect();
        sim.run_until_quiet();
    }
    assert_eq!(sim.stats().turns - before, 100);
}

#[test]
fn a_message_costs_the_same_turns_and_calls_however_many_others_are_idle() {
    let cost = |idle: usize| {
        let (mut sim, peers) = crowd(server(), idle + 1);
        let (turns, calls) = (sim.stats().turns, calls());
        let active = peers[idle / 2];
        for _ in 0..100 {
            sim.send(active, "hello");
            sim.run_until_quiet();
        }
        (sim.stats().turns - turns, self::calls() - calls)
    };
    count_calls();
    let alone = cost(0);
    assert!(alone.0 >= 100 && alone.1 >= 200, "nothing was counted");
    assert_eq!(cost(1000), alone);
}

thread_local! {
    /// What the loop of this thread's simulation has done to sockets, once that is counted.
    static CALLS: Cell<Option<usize>> = const { Cell::new(None) };
}

fn calls() -> usize {
    CALLS.get().unwrap_or(0)
}

/// Has the trace of this thread's simulated sockets counted.
fn count_calls() {
    struct Count;

    impl log::Log for Count {
        fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
            metadata.target() == "epicycle::testing"
        }

        fn log(&self, record: &log::Record<'_>) {
            // Other tests run beside this one, and their traces are long.
            if let Some(calls) = CALLS.get()
                && self.enabled(record.metadata())
            {
                let line = record.args().to_string();
                let call = ["recv", "send"].iter().any(|call| line.contains(call));
                CALLS.set(Some(calls + usize::from(call)));
            }
        }

        fn flush(&self) {}
    }

    log::set_logger(&Count).expect("is the first");
    log::set_max_level(log::LevelFilter::Trace);
    CALLS.set(Some(0));
}
