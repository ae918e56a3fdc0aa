//! The kernel's figures about a server: a process with its threads and its children.

use std::error::Error;
use std::fs;
use std::time::Duration;

/// Returns the processor time of all threads. The kernel updates it at each tick, and when a thread sleeps.
pub(crate) fn processor_time(pid: u32) -> Result<Duration, Box<dyn Error>> {
    let mut nanoseconds = 0;
    for pid in with_children(pid)? {
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            // A thread may have ended meanwhile.
            let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else {
                continue;
            };
            let first = text.split(' ').next().unwrap_or(&text);
            nanoseconds += first.parse::<u64>()?;
        }
    }
    Ok(Duration::from_nanos(nanoseconds))
}

/// Returns the resident memory in bytes.
pub(crate) fn resident(pid: u32) -> Result<u64, Box<dyn Error>> {
    let mut kilobytes = 0;
    for pid in with_children(pid)? {
        let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let figure = line.and_then(|line| line.split_whitespace().next());
        kilobytes += figure.ok_or("no VmRSS in /proc")?.parse::<u64>()?;
    }
    Ok(kilobytes * 1024)
}

fn with_children(pid: u32) -> Result<Vec<u32>, Box<dyn Error>> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    let mut pids = vec![pid];
    for child in text.split_whitespace() {
        pids.extend(with_children(child.parse()?)?);
    }
    Ok(pids)
}
