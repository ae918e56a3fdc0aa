//! Running a test with many seeds, and one of them again.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::str::FromStr;

use parking_lot::Mutex;

use crate::simnet::tally::Tally;

/// The seed to run instead of all others.
const ONE: &str = "EPICYCLE_SEED";

/// How many seeds to run instead of as many as the test says.
const COUNT: &str = "EPICYCLE_SEEDS";

/// What all tests of this process have been through.
static TOTAL: Mutex<Option<Tally>> = Mutex::new(None);

/// Runs `test` with each seed. The first that fails is told on standard error, and its panic goes on. At the end
/// standard error hears what the simulations have been through: connections, bytes, virtual time and mishaps, of this test and of
/// all in this process so far.
///
/// With `EPICYCLE_SEED=1234` in the environment only that seed runs; with `EPICYCLE_SEEDS=100000` so many from the first
/// one on.
///
/// ```
/// use epicycle::testing::each_seed;
///
/// let mut sum = 0;
/// each_seed(0..10, |seed| sum += seed);
/// assert_eq!(sum, 45);
/// ```
///
/// # Panics
///
/// As `test` does; or when one of the variables is no number.
pub fn each_seed(seeds: Range<u64>, mut test: impl FnMut(u64)) {
    let first = seeds.start;
    let seeds = match (variable(ONE), variable(COUNT)) {
        (Some(seed), _) => seed..seed + 1,
        (None, Some(count)) => first..first + count,
        (None, None) => seeds,
    };
    // What the thread has counted elsewhere is not this test's.
    Tally::collect();
    let count = seeds.end.saturating_sub(seeds.start);
    for seed in seeds {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| test(seed))) {
            eprintln!(
                "seed {seed} of {} fails; to replay it, run that test with {ONE}={seed}",
                test_name()
            );
            resume_unwind(panic);
        }
    }
    let tally = Tally {
        seeds: count,
        ..Tally::collect()
    };
    let mut total = TOTAL.lock();
    let total = total.get_or_insert_default();
    *total += tally;
    eprintln!("{}: {tally}\n  in all so far: {total}", test_name());
}

fn test_name() -> String {
    let thread = std::thread::current();
    thread.name().unwrap_or_default().to_owned()
}

fn variable(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    match u64::from_str(&value) {
        Ok(number) => Some(number),
        Err(_) => panic!("{name} is {value:?}, which is no number"),
    }
}
