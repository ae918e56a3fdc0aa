//! What the benchmarks that compare servers by their processor time share.

use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

/// Asks a server for the processor time of its thread.
pub(crate) const HOW_LONG: &[u8] = b"processor time?";

/// How long this thread has run so far, in nanoseconds, as a server tells it.
pub(crate) fn own_processor_time() -> [u8; 8] {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let nanoseconds = time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64;
    nanoseconds.to_ne_bytes()
}

pub(crate) fn pin_to(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu);
    // With one processor there is nothing to choose.
    let _ = sched_setaffinity(None, &set);
}
