//! Code that the benchmarks of processor time share.

use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

/// The message that asks a server for the processor time of its thread.
pub(crate) const HOW_LONG: &[u8] = b"processor time?";

/// Returns the processor time of this thread in nanoseconds, as the bytes of a server's answer.
pub(crate) fn own_processor_time() -> [u8; 8] {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let nanoseconds = time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64;
    nanoseconds.to_ne_bytes()
}

pub(crate) fn pin_to(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu);
    // Fails on a machine with one processor, where it does not matter.
    let _ = sched_setaffinity(None, &set);
}
