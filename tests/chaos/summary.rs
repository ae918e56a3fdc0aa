//! The summary of a storm as text.

use std::collections::BTreeMap;

use super::behaviour::{BEHAVIOURS, Behaviour, CONTROL};
use super::control::TIMED;
use super::kind::KINDS;
use super::storm::Seen;

pub(crate) struct Summary {
    /// A description of the servers.
    pub(crate) servers: &'static str,
    pub(crate) seed: u64,
    pub(crate) clients: usize,
}

impl Summary {
    pub(crate) fn print(&self, seen: &Seen) {
        let connections: u64 = seen.done.connected.values().sum();
        println!();
        println!(
            "{}: {} hostile clients at a time, {connections} in all, by seed {}; at most {} connections at once",
            self.servers, self.clients, self.seed, seen.after.peak_connections
        );
        println!();
        // A gateway records no reasons.
        if seen.after.servers.len() == KINDS.len() {
            self.ends(seen);
            println!();
        }
        self.latencies(seen);
        println!();
        self.resources(seen);
        println!();
        self.end(seen);
    }

    /// Prints a table of the behaviours, with the numbers of clients and of close reasons.
    fn ends(&self, seen: &Seen) {
        let kinds = KINDS.map(|kind| format!("{:>8}", kind.name())).concat();
        println!("{:<26}{kinds}  close reasons", "behaviour");
        let servers = || seen.before.servers.iter().zip(&seen.after.servers);
        let behaviours = BEHAVIOURS.map(Behaviour::words);
        for who in behaviours.into_iter().chain([CONTROL]) {
            let mut numbers = String::new();
            let mut reasons = BTreeMap::<&str, u64>::new();
            for (kind, (before, after)) in KINDS.iter().zip(servers()) {
                let count = |what| after.of(what) - before.of(what);
                let mut ended = 0;
                for (why, all) in after.ends.get(who).into_iter().flatten() {
                    let now = all - before.ended(who, Some(why));
                    *reasons.entry(why).or_default() += now;
                    ended += now;
                }
                let connected = seen.done.connected.get(&(who, kind.name()));
                let connected = *connected.unwrap_or(&ended);
                numbers.push_str(&format!("{connected:>8}"));
                // Connections that were refused or did not complete the handshake have no callbacks.
                let refused = if who == Behaviour::Crowding.words() {
                    count("refused")
                } else {
                    0
                };
                *reasons.entry("refused").or_default() += refused;
                let failed = connected.saturating_sub(ended + refused);
                *reasons.entry("failed handshake").or_default() += failed;
            }
            let reasons: Vec<_> = reasons
                .iter()
                .filter(|(_, count)| **count > 0)
                .map(|(why, count)| format!("{why} {count}"))
                .collect();
            println!("{who:<26}{numbers}  {}", reasons.join(", "));
        }
    }

    fn latencies(&self, seen: &Seen) {
        println!(
            "{:<26}{:>10}{:>10}{:>10}{:>10}  in milliseconds",
            CONTROL, "requests", "p50", "p99", "max"
        );
        for (phase, latencies) in TIMED.iter().zip(&seen.control.of) {
            let quantile = |q| latencies.value_at_quantile(q) as f64 / 1000.0;
            println!(
                "{:<26}{:>10}{:>10.2}{:>10.2}{:>10.2}",
                phase.words(),
                latencies.len(),
                quantile(0.5),
                quantile(0.99),
                quantile(1.0)
            );
        }
        println!(
            "all {} requests had the right answer; this machine delayed {} hostile clients and {} clients of the control group",
            seen.control.requests,
            seen.done.late.values().sum::<u64>(),
            seen.control.excused,
        );
    }

    fn resources(&self, seen: &Seen) {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let (before, after) = (&seen.before, &seen.after);
        println!(
            "{:<26}{:>10}{:>10}{:>10}",
            "the servers' process", "before", "peak", "after"
        );
        println!(
            "{:<26}{:>10}{:>10}{:>10}",
            "descriptors", before.descriptors, "", after.descriptors
        );
        let memory = |look: Option<u64>| {
            look.map_or("unknown".to_owned(), |bytes| format!("{:.1}", mib(bytes)))
        };
        println!(
            "{:<26}{:>10}{:>10.1}{:>10}",
            "memory, MiB",
            memory(before.memory),
            mib(after.peak_memory),
            memory(after.memory)
        );
        println!(
            "{:<26}{:>10.1}{:>10.1}{:>10.1}",
            "of that in buffers, MiB",
            mib(before
                .servers
                .iter()
                .map(|counts| counts.of("buffered"))
                .sum()),
            mib(after.peak_buffered),
            mib(after
                .servers
                .iter()
                .map(|counts| counts.of("buffered"))
                .sum())
        );
    }

    fn end(&self, seen: &Seen) {
        let sum = |what: &str| -> u64 { seen.end.iter().map(|counts| counts.of(what)).sum() };
        println!(
            "shut down amid another storm: {} connections drained, {} forced; on_open {}, on_close {} in all",
            sum("drained"),
            sum("forced"),
            sum("on_open"),
            sum("on_close")
        );
    }
}
