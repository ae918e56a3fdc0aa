//! The retry budget.

use std::time::Duration;

use epicycle::balance::RetryBudget;
use proptest::collection::vec;
use proptest::prelude::*;

fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

#[test]
fn few_requests_can_be_retried_too() {
    let mut budget = RetryBudget::new();
    let now = millis(123_456_789);
    assert_eq!((0..100).filter(|_| budget.try_retry(now)).count(), 10);
    for _ in 0..100 {
        budget.request(now);
    }
    assert_eq!((0..100).filter(|_| budget.try_retry(now)).count(), 20);
}

#[test]
fn what_is_older_than_the_window_is_forgotten() {
    let mut budget = RetryBudget::new().floor(0).percent(50);
    for _ in 0..10 {
        budget.request(millis(0));
    }
    assert_eq!(
        (0..9).filter(|_| budget.try_retry(millis(9_999))).count(),
        5
    );
    assert!(!budget.try_retry(millis(10_000)));
    // The retries are forgotten as well.
    for _ in 0..4 {
        budget.request(millis(30_000));
    }
    assert_eq!(
        (0..9).filter(|_| budget.try_retry(millis(30_000))).count(),
        2
    );
}

#[test]
fn a_time_that_goes_back_is_taken_for_the_latest() {
    let mut budget = RetryBudget::new().floor(0);
    budget.request(millis(50_000));
    for _ in 0..9 {
        budget.request(millis(1_000));
    }
    assert_eq!((0..9).filter(|_| budget.try_retry(millis(0))).count(), 2);
    assert!(!budget.try_retry(millis(55_000)));
}

#[test]
fn odd_settings_do_no_harm() {
    let mut none = RetryBudget::new().percent(0).floor(0);
    none.request(millis(0));
    assert!(!none.try_retry(millis(0)));
    let mut moment = RetryBudget::new().window(Duration::ZERO);
    moment.request(Duration::MAX);
    assert!(moment.try_retry(Duration::MAX));
    let mut all = RetryBudget::new().percent(u32::MAX).floor(u32::MAX);
    all.request(millis(0));
    assert!(all.try_retry(millis(0)));
}

proptest! {
    /// Retries are allowed as a list of all that has happened says, with the window counted in steps of a tenth.
    #[test]
    fn retries_stay_within_the_share_of_the_window(
        events in vec((any::<bool>(), 0u64..3000), 0..300), percent in 0u32..60, floor in 0u32..5,
    ) {
        let mut budget = RetryBudget::new().percent(percent).floor(floor);
        let (mut now, mut requests, mut retries) = (0, Vec::new(), Vec::new());
        for (is_request, passed) in events {
            now += if passed > 2000 { passed } else { passed / 20 };
            let step = now / 1000;
            let recent = |times: &Vec<u64>| times.iter().filter(|time| **time + 10 > step).count();
            if is_request {
                budget.request(millis(now));
                requests.push(step);
            } else {
                let allowed = recent(&requests) as u32 * percent / 100 + floor;
                let may = (recent(&retries) as u32) < allowed;
                prop_assert_eq!(budget.try_retry(millis(now)), may);
                if may {
                    retries.push(step);
                }
            }
        }
    }
}
