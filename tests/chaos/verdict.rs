//! The conditions that must hold after the storm.

use super::behaviour::{BEHAVIOURS, Behaviour};
use super::control::Latencies;
use super::crowd::Done;
use super::kind::{KINDS, Kind};
use super::process::{Counts, Look};
use super::server::MOST_A_CONNECTION;
use super::storm::Seen;

/// The bytes that the allocator may keep more after one storm than after another; and the same for each connection, which is
/// much less than a leaked buffer or session.
const SLACK: u64 = 2 << 20;
const SLACK_A_CONNECTION: u64 = 256;

/// The descriptors of the pipes that two reactors may keep.
const MOST_PIPES: u64 = 2 * 4 * 2;

/// Asserts all conditions. `clients` is the planned number of clients at a time.
pub(crate) fn on(seen: &Seen, clients: usize) {
    on_clients(&seen.done);
    for (n, kind) in KINDS.into_iter().enumerate() {
        for counts in [&seen.after.servers[n], &seen.end[n]] {
            on_callbacks(counts);
        }
        match kind {
            Kind::Tls => on_handshakes(seen, n),
            _ => {
                for behaviour in BEHAVIOURS {
                    on_ends(seen, n, kind, behaviour);
                }
                on_shutdown(&seen.end[n]);
            }
        }
    }
    on_control(seen);
    on_resources(seen, clients);
}

/// Asserts all conditions for a gateway, or the gate of a cluster, which stands for every kind.
#[cfg(any(feature = "gateway", feature = "cluster"))]
pub(crate) fn on_one(seen: &Seen, kind: Kind) {
    on_clients(&seen.done);
    for behaviour in BEHAVIOURS {
        let who = behaviour.words();
        let connected = seen.done.connected.get(&(who, kind.name()));
        assert!(connected.is_some(), "nobody came to {who:?}");
    }
    for counts in [&seen.after.servers[0], &seen.end[0]] {
        for none in ["connections", "buffered", "panics", "accept_errors"] {
            assert_eq!(counts.of(none), 0, "{none}");
        }
    }
    let refused = |look: &Look| look.servers[0].of("refused");
    assert!(
        refused(&seen.after) > refused(&seen.before),
        "no crowd was refused"
    );
    assert!(seen.end[0].of("drained") + seen.end[0].of("forced") > 0);
    on_control(seen);
    on_what_is_left(seen);
}

/// Asserts that the control group was served.
fn on_control(seen: &Seen) {
    let Latencies {
        requests, excused, ..
    } = seen.control;
    assert!(requests > 100, "hardly a request was made");
    assert!(
        excused <= requests / 100,
        "{excused} connections of the control group ended early, with {requests} requests"
    );
}

/// Asserts that each hostile client received what it must.
pub(crate) fn on_clients(done: &Done) {
    let some: Vec<_> = done.wronged.iter().take(10).collect();
    let count = done.wronged.len();
    assert!(
        some.is_empty(),
        "{count} clients were wronged, such as {some:#?}"
    );
}

/// Asserts that each connection was opened and closed once, by the handler's count and by the engine's.
fn on_callbacks(counts: &Counts) {
    let (name, of) = (&counts.name, |what| counts.of(what));
    assert_eq!(of("on_open"), of("on_close"), "callbacks of {name}");
    assert_eq!(
        of("accepted"),
        of("on_open") + of("refused") + of("handshake_failures"),
        "accepted by {name}"
    );
    assert_eq!(
        of("closed"),
        of("on_close") + of("handshake_failures"),
        "closed by {name}"
    );
    for none in ["connections", "buffered", "panics", "accept_errors"] {
        assert_eq!(of(none), 0, "{none} of {name}");
    }
}

/// Asserts that each client's connection was closed, for a reason that fits its behaviour.
fn on_ends(seen: &Seen, server: usize, kind: Kind, behaviour: Behaviour) {
    let (before, after) = (&seen.before.servers[server], &seen.after.servers[server]);
    let (who, name) = (behaviour.words(), kind.name());
    let ended = |why| after.ended(who, why) - before.ended(who, why);
    let connected = seen.done.connected.get(&(who, name));
    let connected = connected.copied().unwrap_or(0);
    assert!(connected > 0, "nobody came to {who:?} of {name}");
    let refused = match behaviour {
        Behaviour::Crowding => after.of("refused") - before.of("refused"),
        _ => 0,
    };
    assert_eq!(
        ended(None) + refused,
        connected,
        "those to {who:?} of {name}"
    );
    let reasons = behaviour.ends(kind);
    let right: u64 = reasons.iter().map(|why| ended(Some(why))).sum();
    let wrong = ended(None) - right;
    let late = seen.done.late.get(&(who, name)).copied().unwrap_or(0);
    assert!(
        wrong <= late,
        "{wrong} clients to {who:?} of {name} did not end by {reasons:?}, and {late} were late"
    );
}

/// Asserts that the TLS server refused each hostile client's connection, or its handshake failed.
fn on_handshakes(seen: &Seen, server: usize) {
    let count = |what| seen.after.servers[server].of(what) - seen.before.servers[server].of(what);
    let connected = |(who, kind): &(&str, &str)| {
        let hostile = *kind == Kind::Tls.name();
        hostile.then(|| seen.done.connected[&(*who, *kind)])
    };
    let connected: u64 = seen.done.connected.keys().filter_map(connected).sum();
    assert!(connected > 0, "nobody came to the TLS server");
    let ended = count("handshake_failures") + count("refused");
    // Connections of the control group may have been late too.
    let most = connected + seen.control.excused;
    assert!(
        (connected..=most).contains(&ended),
        "{ended} handshakes failed or were refused, of {connected} to {most}"
    );
}

/// Asserts that a shutdown during a storm reports all connections it has closed, some of them by force.
fn on_shutdown(counts: &Counts) {
    let (drained, forced) = (counts.of("drained"), counts.of("forced"));
    let name = &counts.name;
    assert!(
        drained > 0 && forced > 0,
        "{drained} drained and {forced} forced by {name}"
    );
    let ended = counts.ended_by("Shutdown");
    assert!(
        drained + forced >= ended,
        "{drained} drained and {forced} forced, of {ended} by {name}"
    );
}

fn on_resources(seen: &Seen, clients: usize) {
    let (before, after) = (&seen.before, &seen.after);
    let peak = after.peak_connections;
    assert!(
        peak > clients as u64 / 2,
        "no more than {peak} connections at once"
    );
    let allowed = peak * MOST_A_CONNECTION as u64;
    let buffered = after.peak_buffered;
    assert!(buffered <= allowed, "{buffered} bytes were buffered");
    on_what_is_left(seen);
    if let Some(before) = before.memory {
        let peak = after.peak_memory;
        let most = before + SLACK + allowed;
        assert!(peak <= most, "{before} bytes of memory were {peak} at most");
    }
}

/// Asserts that the process has as many descriptors and as much memory as before.
fn on_what_is_left(seen: &Seen) {
    let connections = seen.done.connected.values().sum();
    on_what_is_left_of(&seen.before, &seen.after, connections);
}

/// Asserts that the process has as many descriptors and as much memory as before, after so many connections.
pub(crate) fn on_what_is_left_of(before: &Look, after: &Look, connections: u64) {
    assert_eq!(after.descriptors, before.descriptors, "descriptors");
    let pipes = before.pipes + MOST_PIPES;
    assert!(after.pipes <= pipes, "{} descriptors of pipes", after.pipes);
    if let (Some(before), Some(now)) = (before.memory, after.memory) {
        let most = before + SLACK + SLACK_A_CONNECTION * connections;
        assert!(now <= most, "{before} bytes of memory have become {now}");
    }
}
