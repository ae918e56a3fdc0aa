//! The phases of a run, and the work of each.

use std::mem;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use epicycle::Reactor;
use rustix::time::{ClockId, clock_gettime};

use super::{Driver, Event, Pace, Phase};
use crate::load::plan::Nanos;
use crate::load::tally::Failure;
use crate::load::wire::Wire;

/// The time between checks of the timeouts and updates of the progress.
pub(super) const SWEEP: Duration = Duration::from_millis(100);

const MILLI: Duration = Duration::from_millis(1);

/// The resources that the reactor has used so far.
pub(super) struct Meter {
    bytes_in: u64,
    bytes_out: u64,
    cpu: Duration,
}

impl<W: Wire> Driver<W> {
    /// Does the work of the current phase, moves to the next if it is time, and schedules the next step.
    pub(super) fn step(&mut self, reactor: &mut Reactor<'_, Self>) {
        let clock = Instant::now();
        match self.phase {
            Phase::Connecting => self.connect(),
            Phase::Ready if self.epoch.is_some_and(|epoch| clock >= epoch) => {
                self.phase = Phase::Running;
                let now = self.now();
                if matches!(self.pace, Pace::Closed) {
                    reactor.for_each(|conn, session| {
                        if session.ready {
                            self.feed(conn, session, now);
                        }
                    });
                }
            }
            Phase::Ready | Phase::Running | Phase::Draining(_) => {}
            Phase::Done => return,
        }
        if clock >= self.next_sweep {
            self.next_sweep = clock + SWEEP;
            self.sweep(reactor, clock);
        }
        let now = self.now();
        if self.phase == Phase::Running {
            self.dial(clock);
            self.pump(reactor, now);
            if self.begun.is_none() && now >= self.tally.window.from {
                self.begun = Some(Meter::read(reactor));
            }
            if now >= self.tally.window.until {
                self.stop_sending(reactor);
            }
        }
        if let Phase::Draining(until) = self.phase
            && (self.under_way == 0 || now >= until)
        {
            return self.finish(reactor);
        }
        let pause = self.pause(self.now());
        reactor.schedule(pause, Self::step);
    }

    /// Returns the time until the next step.
    fn pause(&self, now: Nanos) -> Duration {
        let window = &self.tally.window;
        let next = match (self.phase, &self.pace) {
            // Requests are due, but no connection has room. An answer will make room without notifying this function, so
            // it checks as often as requests are due.
            (Phase::Running, Pace::Open(schedule)) if schedule.due() <= now => {
                return schedule.period().clamp(MILLI / 10, MILLI);
            }
            (Phase::Running, Pace::Open(schedule)) => schedule.due().min(window.until),
            (Phase::Running, _) if now < window.from => window.from,
            (Phase::Running, _) => window.until,
            _ => return MILLI,
        };
        Duration::from_nanos(next.saturating_sub(now)).min(SWEEP / 10)
    }

    /// Ends the window, and begins to wait for the last answers.
    fn stop_sending(&mut self, reactor: &mut Reactor<'_, Self>) {
        let window = self.tally.window;
        let now = Meter::read(reactor);
        if let Some(begun) = &self.begun {
            self.tally.bytes_in = now.bytes_in - begun.bytes_in;
            self.tally.bytes_out = now.bytes_out - begun.bytes_out;
            self.tally.cpu = now.cpu.saturating_sub(begun.cpu);
        }
        if let Pace::Open(schedule) = &self.pace {
            let unsent = schedule.left_until(window.until) - schedule.left_until(window.from);
            if unsent > 0 {
                let due = schedule.due().max(window.from);
                self.tally.failed(due, Failure::NeverSent, unsent);
            }
        }
        // By then, all requests have been answered or have timed out. After an interrupt, the wait is a second at most.
        let planned = window.until - window.from >= self.plan.duration.as_nanos() as Nanos;
        let patience = match planned {
            true => self.plan.timeout + 2 * SWEEP,
            false => self.plan.timeout.min(Duration::from_secs(1)),
        };
        self.phase = Phase::Draining(window.until + patience.as_nanos() as Nanos);
    }

    fn finish(&mut self, reactor: &mut Reactor<'_, Self>) {
        self.phase = Phase::Done;
        let mut left = 0;
        reactor.for_each(|_, session| left += session.under_way.len() as u64);
        self.tally.cut_off = left;
        let tally = Box::new(self.tally.clone());
        // Fails if the main thread has ended already.
        let _ = self.events.send(Event::Done(tally));
    }

    /// Aborts connections on which a request or the handshake has timed out, and updates the progress.
    fn sweep(&mut self, reactor: &mut Reactor<'_, Self>, clock: Instant) {
        self.live
            .answers
            .fetch_add(mem::take(&mut self.answers), Ordering::Relaxed);
        let errors = self.tally.errors();
        let shown = mem::replace(&mut self.errors_shown, errors);
        self.live
            .errors
            .fetch_add(errors - shown, Ordering::Relaxed);
        let (now, timeout) = (self.now(), self.plan.timeout);
        reactor.for_each(|conn, session| {
            let waited = match session.under_way.front() {
                Some(request) => Duration::from_nanos(now.saturating_sub(request.sent)),
                None if session.ready => return,
                None => clock - session.opened,
            };
            if waited > timeout {
                session.timed_out = true;
                conn.abort();
            }
        });
    }
}

impl Meter {
    fn read<W: Wire>(reactor: &Reactor<'_, Driver<W>>) -> Self {
        let all = reactor.engine().stats().reactors;
        let stats = all.get(reactor.id()).copied().unwrap_or_default();
        let cpu = clock_gettime(ClockId::ThreadCPUTime);
        Self {
            bytes_in: stats.bytes_in,
            bytes_out: stats.bytes_out,
            cpu: Duration::new(cpu.tv_sec as u64, cpu.tv_nsec as u32),
        }
    }
}
