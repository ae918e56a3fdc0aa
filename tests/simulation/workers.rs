//! Worker pools in virtual time: jobs take a time that the seed draws, and their answers come through the mailbox.

use std::collections::HashSet;
use std::time::Duration;

use epicycle::codec::Lines;
use epicycle::testing::{Link, Peer, World, each_seed};
use epicycle::{Action, Conn, ConnInfo, EventHandler, Server, WorkerPool};
use fastrand::Rng;

use super::world;

/// Has each line answered by a worker, in order within a connection.
struct Jobs {
    pool: WorkerPool,
    opened: u64,
}

impl Jobs {
    fn new(pool: &WorkerPool) -> Self {
        Self {
            pool: pool.clone(),
            opened: 0,
        }
    }
}

impl EventHandler for Jobs {
    type Codec = Lines;
    type Session = u64;

    fn codec(&mut self, _: &ConnInfo<'_>) -> Lines {
        Lines::new()
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<u64> {
        self.opened += 1;
        Some(self.opened * 2 + conn.id().reactor() as u64)
    }

    fn react(&mut self, conn: &mut Conn<'_, Self>, key: &mut u64, line: &[u8]) -> Action {
        let answer = conn.defer_answer();
        let answer = answer.if_dropped(|_, conn, _| {
            conn.send("busy").expect("there is room");
        });
        let line = String::from_utf8_lossy(line).into_owned();
        // A job that the queue has no place for drops its answer.
        let _ = self.pool.submit_ordered(*key, move || {
            let _ = answer.send(format!("did {line}"));
        });
        Action::Continue
    }
}

fn run(seed: u64) -> u64 {
    let mut rng = Rng::with_seed(seed);
    let link = world::link(&mut rng).resets(0);
    let mut world = World::new(seed, link).expect("a world");
    let builder = WorkerPool::builder().threads(3);
    let takes = Duration::from_millis(1)..=Duration::from_millis(500);
    let pool = world.worker_pool(builder, takes).expect("a pool");
    let jobs = |_| Jobs::new(&pool);
    let server = world::server_on("tcp://:9000", &mut rng).reactors(2);
    let host = world.start([192, 168, 0, 1], server, jobs);
    let host = host.expect("an engine");
    let peers: Vec<Peer> = (0..4).map(|_| world.connect((host, 9000))).collect();
    for n in 0..20 {
        for peer in &peers {
            world.send(*peer, format!("{n}\n"));
        }
        world.run_for(Duration::from_millis(rng.u64(..50)));
    }
    world.run_for(Duration::from_secs(60));
    let expected: String = (0..20).map(|n| format!("did {n}\n")).collect();
    for peer in peers {
        assert_eq!(world.received(peer), expected.as_bytes());
    }
    let stats = pool.stats();
    assert_eq!((stats.completed, stats.running, stats.keys), (80, 0, 0));
    world.fingerprint()
}

#[test]
fn workers_answer_each_connection_in_order_and_the_same_seed_has_the_same_trace() {
    let mut different = HashSet::new();
    let mut runs = 0;
    each_seed(0..60, |seed| {
        let first = run(seed);
        assert_eq!(first, run(seed));
        different.insert(first);
        runs += 1;
    });
    assert_eq!(different.len(), runs);
}

#[test]
fn jobs_take_their_time_on_as_many_threads_as_there_are_and_a_full_queue_refuses() {
    let mut world = World::new(1, Link::calm()).expect("a world");
    let builder = WorkerPool::builder().threads(2).queue(3);
    let second = Duration::from_secs(1);
    let pool = world.worker_pool(builder, second..=second).expect("a pool");
    let jobs = |_| Jobs::new(&pool);
    let host = world.start([192, 168, 0, 1], Server::bind("tcp://:9000"), jobs);
    let host = host.expect("an engine");
    let peers: Vec<Peer> = (0..8).map(|_| world.connect((host, 9000))).collect();
    for (n, peer) in peers.iter().enumerate() {
        world.send(*peer, "work\n");
        // The first two jobs leave the queue before the others come.
        if n == 1 {
            world.run_for(Duration::from_millis(1));
        }
    }
    let answered = |world: &World, answer: &str| {
        let has_it = |peer: &&Peer| world.received(**peer) == answer.as_bytes();
        peers.iter().filter(has_it).count()
    };
    world.run_for(Duration::from_millis(500));
    assert_eq!(answered(&world, "busy\n"), 3);
    let mut done = Vec::new();
    for _ in 0..4 {
        done.push(answered(&world, "did work\n"));
        world.run_for(second);
    }
    assert_eq!(done, [0, 2, 4, 5]);
    assert_eq!(pool.stats().rejected, 3);
}
