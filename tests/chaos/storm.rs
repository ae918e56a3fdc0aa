//! The storm from its beginning to its end, and what has to hold then.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use std::{env, thread};

use super::behaviour::{BEHAVIOURS, Behaviour};
use super::control::{Group, Latencies, Phase};
use super::crowd::{AWAY, Crowd, Done, unleash};
use super::kind::KINDS;
use super::process::{Counts, Look, Servers};
use super::server::{MOST_A_CONNECTION, Mode};
use super::summary::Summary;
use crate::util::process::{descriptor_limit, limit_descriptors};

/// How many hostile clients there are at a time.
const CLIENTS: usize = 2000;

/// For how many seconds they keep coming, instead of for [`SHORT`].
const SECONDS: &str = "EPICYCLE_CHAOS_SECONDS";

const SHORT: Duration = Duration::from_millis(2000);

/// How long the storm before lasts, after which the servers' process has all the memory that it keeps.
const WARM_UP: Duration = Duration::from_millis(1500);

/// How long the control group is alone.
const ALONE: Duration = Duration::from_millis(500);

/// What an allocator may keep more of after one storm than after another, in bytes; and for each connection, much less than any
/// buffer or session that is forgotten.
const SLACK: u64 = 2 << 20;
const SLACK_A_CONNECTION: u64 = 256;

/// What there was to see.
pub(crate) struct Seen {
    pub(crate) before: Look,
    pub(crate) after: Look,
    pub(crate) done: Done,
    pub(crate) control: Latencies,
    pub(crate) end: Vec<Counts>,
}

/// Has the servers, in that mode, pass a storm.
pub(crate) fn pass(test: &str, mode: Mode, seed: u64) {
    // One at a time: each is to have the machine for itself.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let clients = clients();
    let servers = Servers::start(test);
    let seen = weather(servers, seed, clients, seconds());
    Summary {
        mode,
        seed,
        clients,
    }
    .print(&seen);
    judge(&seen, clients);
}

fn weather(mut servers: Servers, seed: u64, clients: usize, lasting: Duration) -> Seen {
    let addresses = servers.addresses;
    let storm = Crowd {
        seed,
        count: clients,
        lasting,
        behaviours: &BEHAVIOURS,
    };
    // Floods are what fills the reactors' pools of buffers, which then stay full.
    let floods = [&BEHAVIOURS[..], &[Behaviour::Flooding; 9]].concat();
    let warm_up = Crowd {
        seed: !seed,
        lasting: WARM_UP,
        behaviours: &floods,
        ..storm
    };
    let group = Group::new();
    thread::scope(|scope| {
        let control = scope.spawn(|| group.run(seed, &addresses));
        let ended = End(&group);
        group.enter(Phase::WarmUp);
        no_harm(&unleash(warm_up, &addresses));
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
            end: servers.end(),
        }
    })
}

/// Ends the control group, also when something fails: its threads would be waited for.
struct End<'a>(&'a Group);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.enter(Phase::End);
    }
}

fn judge(seen: &Seen, clients: usize) {
    no_harm(&seen.done);
    for (kind, (before, after)) in KINDS
        .iter()
        .zip(seen.before.servers.iter().zip(&seen.after.servers))
    {
        let server = kind.name();
        every_open_has_its_close(after);
        for behaviour in BEHAVIOURS {
            let who = behaviour.words();
            let count = |counts: &Counts, why: Option<&str>| -> u64 {
                let ends = counts.ends.get(who).into_iter().flatten();
                ends.filter(|(reason, _)| why.is_none_or(|why| why == reason.as_str()))
                    .map(|(_, count)| count)
                    .sum()
            };
            let ended = |why| count(after, why) - count(before, why);
            let connected = seen.done.connected.get(&(who, server));
            let connected = connected.copied().unwrap_or(0);
            assert!(connected > 0, "nobody came to {who:?} of {server}");
            assert_eq!(ended(None), connected, "those to {who:?} of {server}");
            let right: u64 = behaviour
                .ends(*kind)
                .iter()
                .map(|why| ended(Some(why)))
                .sum();
            assert!(
                right == connected || seen.done.away > AWAY,
                "{} clients to {who:?} of {server} did not end by {:?}",
                connected - right,
                behaviour.ends(*kind)
            );
        }
    }
    for counts in &seen.end {
        every_open_has_its_close(counts);
        assert_eq!((counts.of("drained"), counts.of("forced")), (0, 0));
    }
    assert!(seen.control.requests > 100, "hardly a request was made");
    let peak = seen.after.peak_connections;
    assert!(
        peak > clients as u64 / 2,
        "no more than {peak} connections at once"
    );
    assert_eq!(
        seen.after.descriptors, seen.before.descriptors,
        "descriptors"
    );
    assert!(
        seen.after.peak_buffered < peak * MOST_A_CONNECTION as u64,
        "{} bytes were buffered",
        seen.after.peak_buffered
    );
    if let (Some(before), Some(after)) = (seen.before.memory, seen.after.memory) {
        let connections: u64 = seen.done.connected.values().sum();
        let most = before + SLACK + SLACK_A_CONNECTION * connections;
        assert!(
            after <= most,
            "{before} bytes of memory have become {after}"
        );
        let (most, peak) = (
            before + SLACK + peak * MOST_A_CONNECTION as u64,
            seen.after.peak_memory,
        );
        assert!(
            peak <= most,
            "{before} bytes of memory were {peak} in between"
        );
    }
}

fn every_open_has_its_close(counts: &Counts) {
    let (name, of) = (&counts.name, |what| counts.of(what));
    assert_eq!(of("on_open"), of("on_close"), "callbacks of {name}");
    assert_eq!(of("accepted"), of("on_open"), "accepted by {name}");
    assert_eq!(of("closed"), of("on_close"), "closed by {name}");
    for none in [
        "connections",
        "refused",
        "buffered",
        "panics",
        "accept_errors",
    ] {
        assert_eq!(of(none), 0, "{none} of {name}");
    }
}

fn no_harm(done: &Done) {
    let some: Vec<_> = done.wronged.iter().take(10).collect();
    let count = done.wronged.len();
    assert!(
        some.is_empty(),
        "{count} clients were wronged, such as {some:#?}"
    );
}

/// How many clients this process has descriptors for.
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

fn seconds() -> Duration {
    let Ok(seconds) = env::var(SECONDS) else {
        return SHORT;
    };
    match seconds.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => panic!("{SECONDS} is {seconds:?}, which is no whole number"),
    }
}
