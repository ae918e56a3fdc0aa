//! The storm from start to end, and the checks after it.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use std::{env, thread};

use super::behaviour::{BEHAVIOURS, Behaviour};
use super::control::{Group, Latencies, Phase};
use super::crowd::{Crowd, Done, unleash};
use super::kind::{KINDS, Kind};
use super::process::{Counts, Look, Servers};
use super::server::Mode;
use super::summary::Summary;
use super::verdict;
use crate::util::eventually;
use crate::util::process::{descriptor_limit, limit_descriptors};

/// The number of hostile clients at a time.
const CLIENTS: usize = 2000;

/// The variable with the seconds for which clients arrive, instead of [`SHORT`].
const SECONDS: &str = "EPICYCLE_CHAOS_SECONDS";

pub(crate) const SHORT: Duration = Duration::from_millis(1800);

/// The duration of the first storm, after which the servers' process has all the memory that it keeps.
pub(crate) const WARM_UP: Duration = Duration::from_millis(1200);

/// The time for which the control group is alone.
const ALONE: Duration = Duration::from_millis(400);

/// The results of a storm.
pub(crate) struct Seen {
    pub(crate) before: Look,
    pub(crate) after: Look,
    pub(crate) done: Done,
    pub(crate) control: Latencies,
    /// The servers' final counters, after a shutdown during another storm.
    pub(crate) end: Vec<Counts>,
}

/// Storms run one at a time, so that each has the machine for itself.
pub(crate) static ONE: Mutex<()> = Mutex::new(());

/// Runs a storm against servers in that mode.
pub(crate) fn pass(test: &str, mode: Mode, seed: u64) {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let clients = clients();
    let servers = Servers::start(test, "");
    let seen = weather(servers, seed, clients, &KINDS);
    Summary {
        servers: mode.words(),
        seed,
        clients,
    }
    .print(&seen);
    verdict::on(&seen, clients);
}

/// Runs a storm of HTTP clients against a gateway with these nodes.
#[cfg(feature = "gateway")]
pub(crate) fn pass_a_gateway(test: &str, nodes: &str, seed: u64) {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    // Each of them may have a connection to a node, which takes a descriptor of this process too.
    let clients = clients() / 2;
    let servers = Servers::start(test, nodes);
    let seen = weather(servers, seed, clients, &[Kind::Http]);
    Summary {
        servers: "a gateway with two reactors, and hostile nodes",
        seed,
        clients,
    }
    .print(&seen);
    verdict::on_one(&seen, Kind::Http);
}

/// Runs a storm of clients of a cluster against its gate.
#[cfg(feature = "cluster")]
pub(crate) fn pass_a_gate(test: &str, seed: u64) {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    // Each request passes two servers, both ways.
    let clients = clients() / 8;
    let servers = Servers::start(test, "");
    let seen = weather(servers, seed, clients, &[Kind::Packets]);
    Summary {
        servers: "a gate with two reactors, and a node",
        seed,
        clients,
    }
    .print(&seen);
    verdict::on_one(&seen, Kind::Packets);
}

fn weather(mut servers: Servers, seed: u64, clients: usize, kinds: &[Kind]) -> Seen {
    let (addresses, authority) = (servers.addresses, servers.authority.clone());
    let storm = Crowd {
        seed,
        count: clients,
        lasting: seconds(),
        behaviours: &BEHAVIOURS,
        kinds,
    };
    // Floods fill the reactors' pools of buffers, which then stay full.
    let floods = match kinds {
        // They would take all the room of its link to the node, which all clients share.
        #[cfg(feature = "cluster")]
        [Kind::Packets] => BEHAVIOURS.to_vec(),
        _ => [&BEHAVIOURS[..], &[Behaviour::Flooding; 24]].concat(),
    };
    let warm_up = Crowd {
        seed: !seed,
        lasting: WARM_UP,
        behaviours: &floods,
        ..storm
    };
    let group = Group::new();
    thread::scope(|scope| {
        let control = scope.spawn(|| group.run(seed, kinds, &addresses, &authority));
        let ended = End(&group);
        group.enter(Phase::WarmUp);
        verdict::on_clients(&unleash(warm_up, &addresses));
        group.enter(Phase::Pause);
        let before = servers.look_when_quiet();
        servers.forget_the_peak();
        group.enter(Phase::Before);
        thread::sleep(ALONE);
        group.enter(Phase::Storm);
        let done = unleash(storm, &addresses);
        group.enter(Phase::After);
        thread::sleep(ALONE);
        group.enter(Phase::Pause);
        let after = servers.look_when_quiet();
        drop(ended);
        let control = control.join().expect("no panic");
        let control = control.unwrap_or_else(|why| panic!("the control group was wronged: {why}"));
        Seen {
            before,
            after,
            done,
            control,
            end: end_amid(storm, servers),
        }
    })
}

/// Shuts the servers down once the crowd is there.
fn end_amid(storm: Crowd<'_>, mut servers: Servers) -> Vec<Counts> {
    let addresses = servers.addresses;
    let lasting = 4 * ALONE;
    thread::scope(|scope| {
        scope.spawn(|| unleash(Crowd { lasting, ..storm }, &addresses));
        eventually("the crowd is there", || {
            let look = servers.look();
            let open = |counts: &Counts| counts.of("connections");
            look.servers.iter().map(open).sum::<u64>() > storm.count as u64 / 3
        });
        servers.end()
    })
}

/// Ends the control group on drop, so that a failure does not wait for its threads.
struct End<'a>(&'a Group);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.enter(Phase::End);
    }
}

/// Returns the number of clients for which this process has descriptors.
fn clients() -> usize {
    limit_descriptors(descriptor_limit().1);
    let possible = descriptor_limit().0.saturating_sub(200) as usize;
    if possible < CLIENTS {
        eprintln!(
            "ONLY {possible} OF {CLIENTS} CLIENTS: raise the hard limit on descriptors (ulimit -Hn)"
        );
    }
    possible.min(CLIENTS)
}

pub(crate) fn seconds() -> Duration {
    let Ok(seconds) = env::var(SECONDS) else {
        return SHORT;
    };
    match seconds.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => panic!("{SECONDS} is {seconds:?}, which is no whole number"),
    }
}
