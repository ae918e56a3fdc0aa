//! Precise waits where the poll waits in whole milliseconds.

#[cfg(any(target_os = "linux", target_os = "android", target_os = "illumos"))]
pub(crate) use self::epoll::PollTimer;
#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "illumos")))]
pub(crate) use self::others::PollTimer;

/// Epoll waits in whole milliseconds, and mio rounds a timeout up to them. So a timer that the poll watches ends the last
/// part of a wait.
#[cfg(any(target_os = "linux", target_os = "android", target_os = "illumos"))]
mod epoll {
    use std::io;
    use std::os::fd::{AsRawFd, OwnedFd};
    use std::time::Duration;

    use mio::unix::SourceFd;
    use mio::{Interest, Registry, Token};
    use rustix::time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    };

    /// A kernel timer that ends the wait of a poll. It opens a descriptor when it is first needed, and keeps it.
    #[derive(Debug, Default)]
    pub(crate) struct PollTimer {
        fd: Option<OwnedFd>,
        /// The deadline that it is set for.
        set_for: Option<u64>,
    }

    /// The timer ends only waits that are shorter than this, because setting it takes a system call.
    const SHORT: Duration = Duration::from_millis(2);

    /// The time by which the kernel may be late at the end of a wait, in addition to a thousandth of the wait: its timer
    /// slack and a margin.
    const SLACK: Duration = Duration::from_micros(500);

    impl PollTimer {
        /// Makes a poll end after `wait`, at `deadline`. Returns the timeout for the poll, which can be shorter than `wait`.
        pub(crate) fn limit(
            &mut self,
            registry: &Registry,
            token: Token,
            deadline: u64,
            wait: Duration,
        ) -> Duration {
            if wait >= SHORT {
                let on_time = wait - SLACK - wait / 512;
                return Duration::from_millis(
                    u64::try_from(on_time.as_millis()).unwrap_or(u64::MAX),
                );
            }
            if self.set_for != Some(deadline)
                && let Err(error) = self.set(registry, token, deadline, wait)
            {
                log::debug!(target: "epicycle::reactor", "timers are late by up to a millisecond: {error}");
            }
            wait
        }

        fn set(
            &mut self,
            registry: &Registry,
            token: Token,
            deadline: u64,
            wait: Duration,
        ) -> io::Result<()> {
            let fd = match &self.fd {
                Some(fd) => fd,
                None => self.fd.insert(watched(registry, token)?),
            };
            let value = Timespec {
                tv_sec: wait.as_secs() as _,
                tv_nsec: wait.subsec_nanos().into(),
            };
            let once = Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            };
            let setting = Itimerspec {
                it_interval: once,
                it_value: value,
            };
            timerfd_settime(fd, TimerfdTimerFlags::empty(), &setting)?;
            self.set_for = Some(deadline);
            Ok(())
        }
    }

    /// Creates a timer whose end is an event with this token. It is edge-triggered, so nobody has to read it.
    fn watched(registry: &Registry, token: Token) -> io::Result<OwnedFd> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let fd = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        registry.register(&mut SourceFd(&fd.as_raw_fd()), token, Interest::READABLE)?;
        Ok(fd)
    }
}

/// Kqueue needs no timer: its waits are precise.
#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "illumos")))]
mod others {
    use std::time::Duration;

    use mio::{Registry, Token};

    #[derive(Debug, Default)]
    pub(crate) struct PollTimer;

    impl PollTimer {
        /// Returns the timeout for the poll.
        pub(crate) fn limit(
            &mut self,
            _registry: &Registry,
            _token: Token,
            _deadline: u64,
            wait: Duration,
        ) -> Duration {
            wait
        }
    }
}
