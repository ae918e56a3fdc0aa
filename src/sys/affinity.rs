//! Pinning a thread to a processor.

use std::io;

/// True if this platform can pin threads.
pub(crate) const SUPPORTED: bool = cfg!(any(target_os = "linux", target_os = "android"));

/// Restricts the calling thread to one processor, counted from 0 (`sched_setaffinity(2)`).
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn pin_to(cpu: usize) -> io::Result<()> {
    use rustix::thread::{CpuSet, sched_setaffinity};

    if cpu >= CpuSet::MAX_CPU {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut set = CpuSet::new();
    set.set(cpu);
    Ok(sched_setaffinity(None, &set)?)
}

/// Fails, because this platform cannot pin a thread to a processor.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn pin_to(_cpu: usize) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
