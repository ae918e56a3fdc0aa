//! Users that log in at once on many connections, at one gate and at two.

use std::collections::HashMap;
use std::time::Duration;

use epicycle::cluster::drpc::Code;
use epicycle::cluster::gate::{DuplicateLogin, HeartbeatMode};
use epicycle::cluster::locator::Locator;
use epicycle::testing::each_seed;

use super::field::{Client, Field, GATES};
use super::node::{ECHO, LOGIN, Told, What};
use crate::world;

const USERS: i64 = 4;

/// Returns the user of each connection that has one, as the nodes see it: every open client sends a packet. `round` is a new number
/// each time.
fn holders(field: &mut Field, clients: &[Client], round: &str) -> HashMap<i64, Vec<usize>> {
    let open: Vec<usize> = (0..clients.len())
        .filter(|at| field.is_open(&clients[*at]))
        .collect();
    for at in &open {
        assert!(field.send(&clients[*at], ECHO, 0, &format!("{round}:{at}")));
    }
    let mut found = Vec::new();
    let prefix = format!("{round}:");
    field.run_until("all packets come", |field| {
        found.clear();
        for log in &field.logs {
            for told in log.lock().iter() {
                if let What::Packet(data) = &told.what
                    && let Some(at) = data.strip_prefix(&prefix)
                {
                    found.push((told.uid, at.parse::<usize>().expect("a number")));
                }
            }
        }
        // One may have been closed before its packet was read.
        let missing = open
            .iter()
            .filter(|at| !found.iter().any(|(_, found)| found == *at));
        missing.into_iter().all(|at| !field.is_open(&clients[*at]))
    });
    let mut holders: HashMap<i64, Vec<usize>> = HashMap::new();
    for (uid, at) in found {
        if uid != 0 && field.is_open(&clients[at]) {
            holders.entry(uid).or_default().push(at);
        }
    }
    holders
}

/// Checks that no user has two connections, and that the locator has those that have one where they are.
fn check(field: &Field, clients: &[Client], holders: &HashMap<i64, Vec<usize>>) {
    for uid in 1..=USERS {
        let holding = holders.get(&uid).map_or(&[][..], |holding| holding);
        assert!(
            holding.len() < 2,
            "the user {uid} has the connections {holding:?}"
        );
        let located = field.locator.locate_gate(uid).expect("is in memory");
        let gate = holding.first().map(|at| GATES[clients[*at].gate].0);
        assert_eq!(located.as_deref(), gate, "the user {uid} has {holding:?}");
    }
    let users: u64 = field.gates.iter().map(|gate| gate.stats().users).sum();
    assert_eq!(users as usize, holders.len());
}

/// Checks that the packets of a connection have the user that the last Reconnect before them has told, or none.
fn users_are_told(told: &[Told]) {
    let mut last = 0;
    for told in told {
        match &told.what {
            What::Event(2) => last = told.uid,
            What::Packet(_) | What::Event(3) => {
                assert!(
                    told.uid == 0 || told.uid == last,
                    "{} in place of {last}",
                    told.uid
                );
            }
            _ => {}
        }
    }
}

/// Lets time pass until nothing changes any more. What a client has sent on a slow link arrives with its packet of this `round`.
fn settle(field: &mut Field, clients: &[Client], round: &str) {
    holders(field, clients, round);
    for _ in 0..50 {
        field.catch_up();
        field.world.run_for(Duration::from_millis(200));
    }
    field.run_until("all binds are answered", |field| {
        let told = field.logs.iter().map(|log| {
            let log = log.lock();
            let binds = log
                .iter()
                .filter(|told| matches!(&told.what, What::Packet(data) if !data.contains(':')));
            let bound = log
                .iter()
                .filter(|told| matches!(told.what, What::Bound(_)));
            binds.count() - bound.count()
        });
        told.sum::<usize>() == 0
    });
    field.run_until("clients that leave are gone", |field| {
        let connections = field.gates.iter().map(|gate| gate.stats().connections);
        let open = clients.iter().filter(|client| field.is_open(client));
        connections.sum::<u64>() == open.count() as u64
    });
    for _ in 0..10 {
        field.catch_up();
        field.world.run_for(Duration::from_millis(200));
    }
}

/// Users log in at once on many connections. Returns the trace.
pub(crate) fn race(seed: u64, policy: DuplicateLogin) -> String {
    let mut rng = fastrand::Rng::with_seed(seed);
    let (client_link, link) = (world::link(&mut rng), world::link(&mut rng));
    let mut field = Field::start(seed, client_link.resets(0), link.resets(0), |gate| {
        gate.duplicate_login(policy)
            .heartbeat(HeartbeatMode::Respond, Duration::ZERO)
    });
    field.open_links();
    let mut clients: Vec<Client> = Vec::new();
    for number in 0..60 {
        match rng.u32(..8) {
            0..2 => clients.push(field.connect(number % GATES.len())),
            2 if !clients.is_empty() => {
                let count = clients.len();
                let leaving = &mut clients[rng.usize(..count)];
                leaving.has_left = true;
                match rng.bool() {
                    true => field.world.reset(leaving.peer),
                    false => field.world.shutdown(leaving.peer),
                }
            }
            _ if !clients.is_empty() => {
                let client = &clients[rng.usize(..clients.len())];
                let uid = rng.i64(1..=USERS).to_string();
                if !client.has_left {
                    field.send(client, LOGIN, number as i32 + 1, &uid);
                }
            }
            _ => {}
        }
        field.pass(Duration::from_millis([1, 20, 200][rng.usize(..3)]));
    }
    settle(&mut field, &clients, "0");
    let held = holders(&mut field, &clients, "a");
    check(&field, &clients, &held);

    // A last login of each user.
    let before = clients.len();
    for uid in 1..=USERS {
        let client = field.connect(rng.usize(..GATES.len()));
        field.send(&client, LOGIN, 1, &uid.to_string());
        clients.push(client);
    }
    settle(&mut field, &clients, "1");
    let now = holders(&mut field, &clients, "b");
    check(&field, &clients, &now);
    for uid in 1..=USERS {
        let at = before + uid as usize - 1;
        let keeps = policy == DuplicateLogin::Refuse && held.contains_key(&uid);
        let expected = if keeps { &held[&uid] } else { &vec![at] };
        assert_eq!(now.get(&uid), Some(expected), "the user {uid}");
        let client = &mut clients[at];
        let code = if keeps { Code::Failed } else { Code::Done };
        let answer = format!("{uid}={}", code.code());
        let read = field.read(client);
        assert!(
            read.iter()
                .any(|(route, _, data)| *route == LOGIN && *data == answer)
        );
    }
    if policy == DuplicateLogin::Replace {
        for at in held.values().flatten() {
            assert!(
                !field.is_open(&clients[*at]),
                "it has lost its user, and stays"
            );
        }
    }
    for told in field.told().values() {
        users_are_told(told);
    }
    let locator = field.locator.clone();
    let trace = field.finish();
    assert!(
        locator.is_empty(),
        "a user stays located at a gate that has ended"
    );
    trace
}

#[test]
fn whoever_logs_in_last_has_the_user_and_nobody_else() {
    each_seed(0..60, |seed| drop(race(seed, DuplicateLogin::Replace)));
}

#[test]
fn an_older_connection_stays_without_its_user_if_it_may() {
    each_seed(0..60, |seed| drop(race(seed, DuplicateLogin::Unbind)));
}

#[test]
fn a_user_that_is_logged_in_is_refused_elsewhere_if_so_chosen() {
    each_seed(0..60, |seed| drop(race(seed, DuplicateLogin::Refuse)));
}
