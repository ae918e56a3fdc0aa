//! Waits that end on time where the poll waits in whole milliseconds.

#[cfg(any(target_os = "linux", target_os = "android", target_os = "illumos"))]
pub(crate) use self::epoll::PollTimer;
#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "illumos")))]
pub(crate) use self::others::PollTimer;

/// Epoll waits in whole milliseconds, which mio rounds up to. So the last of a wait is left to a timer that the poll watches.
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

    /// A timer of the kernel's that ends a poll's wait. It takes a descriptor from when it is first needed on.
    #[derive(Debug, Default)]
    pub(crate) struct PollTimer {
        fd: Option<OwnedFd>,
        /// The deadline that it is set for.
        set_for: Option<u64>,
    }

    /// A wait that is shorter than this is left to the timer. A longer one is not, because the timer takes a system call.
    const SHORT: Duration = Duration::from_millis(2);

    /// So much the kernel may be late at the end of a wait, besides a thousandth of it: its timer slack, and then some.
    const SLACK: Duration = Duration::from_micros(500);

    impl PollTimer {
        /// Sees that a poll ends when `wait` is over, at that deadline; returns how long it may wait, which can be less than that.
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

    /// A timer whose end is an event of that token. Edge-triggered, so that nobody has to read it.
    fn watched(registry: &Registry, token: Token) -> io::Result<OwnedFd> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let fd = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        registry.register(&mut SourceFd(&fd.as_raw_fd()), token, Interest::READABLE)?;
        Ok(fd)
    }
}

/// Kqueue waits as exactly as it is asked to.
#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "illumos")))]
mod others {
    use std::time::Duration;

    use mio::{Registry, Token};

    #[derive(Debug, Default)]
    pub(crate) struct PollTimer;

    impl PollTimer {
        /// How long a poll may wait.
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
