//! Runs a test with many seeds, or replays one of them.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::str::FromStr;

use parking_lot::Mutex;

use crate::simnet::tally::Tally;

/// The variable with the one seed to run.
const ONE: &str = "EPICYCLE_SEED";

/// The variable with the number of seeds to run, in place of the test's own.
const COUNT: &str = "EPICYCLE_SEEDS";

/// The counts of all tests of this process.
static TOTAL: Mutex<Option<Tally>> = Mutex::new(None);

/// Runs `test` with each seed.
///
/// If a seed fails, prints it on standard error and resumes the panic. At the end, prints the totals of the simulations on
/// standard error: connections, bytes, virtual time and faults, of this test and of all tests in this process so far.
///
/// With `EPICYCLE_SEED=1234` in the environment, only that seed runs. With `EPICYCLE_SEEDS=100000`, that number of seeds runs,
/// from the first one on.
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
/// If `test` does, or if one of the variables is not a number.
pub fn each_seed(seeds: Range<u64>, mut test: impl FnMut(u64)) {
    let first = seeds.start;
    let seeds = match (variable(ONE), variable(COUNT)) {
        (Some(seed), _) => seed..seed + 1,
        (None, Some(count)) => first..first + count,
        (None, None) => seeds,
    };
    // Drops the counts of simulations that this thread ran before.
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
        Err(_) => panic!("{name} is {value:?}, which is not a number; set it to one, or unset it"),
    }
}
