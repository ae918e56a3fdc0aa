//! The samples for the page.

use std::fs;
use std::time::{Duration, Instant};

use epicycle::metrics::ReactorStats;
use epicycle::{Engine, Service};
use serde_json::{Value, json};

/// Returns the counters of an engine, counted from its start. Times are in microseconds, except for `at` in milliseconds and
/// `uptime` in seconds.
pub(crate) fn take(engine: &Engine<Service>, since: Instant) -> Value {
    let stats = engine.stats();
    let total = stats.total();
    let reactors: Vec<Value> = stats.reactors.iter().map(reactor).collect();
    let addr = engine.local_addrs().first().map(ToString::to_string);
    json!({
        "addr": addr.unwrap_or_default(),
        "at": since.elapsed().as_secs_f64() * 1e3,
        "uptime": since.elapsed().as_secs(),
        "accepted": total.accepted,
        "bytes_in": total.bytes_in,
        "bytes_out": total.bytes_out,
        "max_lag": micros(total.max_lag),
        "resets": total.resets,
        "errors": total.accept_errors + total.io_errors + total.frame_errors + total.overflows,
        "panics": total.panics,
        "memory": resident(),
        "reactors": reactors,
    })
}

fn reactor(stats: &ReactorStats) -> Value {
    json!({
        "connections": stats.connections,
        "messages": stats.frames,
        "turns": stats.turns,
        "busy": micros(stats.busy),
        "lag": micros(stats.lag),
        "buffered": stats.buffered,
    })
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

/// Returns the resident memory of this process in bytes, on Linux.
fn resident() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}
