//! The system's monotonic clock, in whole nanoseconds.
//!
//! [`Instant`](std::time::Instant) reads the same clock. It takes three times as many instructions to subtract two of
//! them as to read the clock. rustix finds the clock in the vDSO by itself, and crashes there under valgrind.
#![allow(unsafe_code)]

#[cfg(not(target_vendor = "apple"))]
const CLOCK: libc::clockid_t = libc::CLOCK_MONOTONIC;
#[cfg(target_vendor = "apple")]
const CLOCK: libc::clockid_t = libc::CLOCK_UPTIME_RAW;

/// Returns the time of the clock in nanoseconds.
#[inline]
pub(crate) fn nanos() -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `now` is valid for writes of a timespec. The call has no other effect.
    let result = unsafe { libc::clock_gettime(CLOCK, &raw mut now) };
    // It fails only for a clock that the system does not have.
    debug_assert_eq!(result, 0, "the system has a monotonic clock");
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
