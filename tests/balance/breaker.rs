//! The circuit breaker.

use std::time::Duration;

use epicycle::balance::{BreakerState, CircuitBreaker, Outcome};
use proptest::collection::vec;
use proptest::prelude::*;

fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Reports this many outcomes. Returns the number of requests that were admitted.
fn report(breaker: &mut CircuitBreaker, outcome: Outcome, times: usize, now: Duration) -> usize {
    let mut admitted = 0;
    for _ in 0..times {
        if let Some(admission) = breaker.try_begin(now) {
            admitted += 1;
            breaker.report(admission, outcome, now);
        }
    }
    admitted
}

#[test]
fn a_breaker_opens_at_its_share_of_failures_and_not_before_the_minimum() {
    let mut breaker = CircuitBreaker::new();
    assert_eq!(report(&mut breaker, Outcome::Failure, 19, millis(1)), 19);
    assert_eq!(breaker.state(millis(1)), BreakerState::Closed);
    assert_eq!(report(&mut breaker, Outcome::Failure, 9, millis(2)), 1);
    assert_eq!(breaker.state(millis(2)), BreakerState::Open);

    let mut breaker = CircuitBreaker::new().percent(50).min_requests(4);
    report(&mut breaker, Outcome::Success, 60, millis(1));
    assert_eq!(report(&mut breaker, Outcome::Failure, 100, millis(2)), 60);
}

#[test]
fn failures_that_are_older_than_the_window_are_forgotten() {
    let mut breaker = CircuitBreaker::new().min_requests(10).window(millis(100));
    report(&mut breaker, Outcome::Failure, 9, millis(0));
    assert_eq!(report(&mut breaker, Outcome::Failure, 9, millis(100)), 9);
    assert_eq!(breaker.state(millis(100)), BreakerState::Closed);
    assert_eq!(report(&mut breaker, Outcome::Failure, 9, millis(150)), 1);
}

#[test]
fn a_half_open_breaker_admits_one_probe_at_a_time_and_closes_after_enough() {
    let mut breaker = CircuitBreaker::new().min_requests(1).open_for(millis(50));
    let late = breaker.try_begin(millis(0)).expect("is closed");
    report(&mut breaker, Outcome::Failure, 1, millis(0));
    assert!(breaker.try_begin(millis(49)).is_none());
    // A call that began before it opened is no probe.
    assert_eq!(breaker.report(late, Outcome::Success, millis(49)), None);

    let probe = breaker.try_begin(millis(50)).expect("is half-open");
    assert!(breaker.try_begin(millis(50)).is_none());
    // An abandoned probe proves nothing, and makes room for another one.
    assert_eq!(breaker.report(probe, Outcome::Abandoned, millis(51)), None);
    assert_eq!(report(&mut breaker, Outcome::Success, 2, millis(52)), 2);
    assert_eq!(breaker.state(millis(52)), BreakerState::HalfOpen);
    let probe = breaker.try_begin(millis(53)).expect("is half-open");
    let changed = breaker.report(probe, Outcome::Success, millis(53));
    assert_eq!(changed, Some(BreakerState::Closed));
    // The failures from before are forgotten.
    let one = breaker.try_begin(millis(54)).expect("is closed");
    breaker.report(one, Outcome::Success, millis(54));
    assert_eq!(breaker.state(millis(54)), BreakerState::Closed);
}

#[test]
fn a_probe_that_fails_opens_the_breaker_for_the_whole_time_again() {
    let mut breaker = CircuitBreaker::new().min_requests(1).open_for(millis(50));
    report(&mut breaker, Outcome::Failure, 1, millis(0));
    assert_eq!(report(&mut breaker, Outcome::Failure, 5, millis(60)), 1);
    assert_eq!(breaker.state(millis(109)), BreakerState::Open);
    assert_eq!(breaker.state(millis(110)), BreakerState::HalfOpen);
}

proptest! {
    /// Whatever happens: an open breaker admits nothing before its time, and one that is half-open no second probe.
    #[test]
    fn a_breaker_admits_what_its_state_allows(
        steps in vec((0..40u64, 0..3u8, any::<bool>()), 1..300),
    ) {
        let mut breaker = CircuitBreaker::new().min_requests(3).open_for(millis(100));
        let (mut now, mut open) = (0, Vec::new());
        let mut opened = None;
        let mut probes = 0;
        for (passes, outcome, begins) in steps {
            now += passes;
            let state = breaker.state(millis(now));
            if let Some(at) = opened && state == BreakerState::Open {
                prop_assert!(now < at + 100);
            }
            if begins {
                let admission = breaker.try_begin(millis(now));
                match state {
                    BreakerState::Closed => prop_assert!(admission.is_some()),
                    BreakerState::Open => prop_assert!(admission.is_none()),
                    BreakerState::HalfOpen => prop_assert_eq!(admission.is_some(), probes == 0),
                }
                let is_probe = state == BreakerState::HalfOpen;
                if let Some(admission) = admission {
                    probes += u32::from(is_probe);
                    open.push((admission, is_probe));
                }
            } else if let Some((admission, was_probe)) = open.pop() {
                let outcomes = [Outcome::Success, Outcome::Failure, Outcome::Abandoned];
                let outcome = outcomes[usize::from(outcome)];
                let changed = breaker.report(admission, outcome, millis(now));
                probes -= u32::from(was_probe);
                if changed == Some(BreakerState::Open) {
                    opened = Some(now);
                }
            }
        }
    }
}
