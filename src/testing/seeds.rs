//! Running a test with many seeds, and one of them again.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::str::FromStr;

/// The seed to run instead of all others.
const ONE: &str = "EPICYCLE_SEED";

/// How many seeds to run instead of as many as the test says.
const COUNT: &str = "EPICYCLE_SEEDS";

/// Runs `test` with each seed. The first that fails is told on standard error, and its panic goes on.
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
    for seed in seeds {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| test(seed))) {
            let test = std::thread::current().name().map(str::to_owned);
            let test = test.unwrap_or_default();
            eprintln!("seed {seed} fails; to replay it: {ONE}={seed} cargo test {test}");
            resume_unwind(panic);
        }
    }
}

fn variable(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    match u64::from_str(&value) {
        Ok(number) => Some(number),
        Err(_) => panic!("{name} is {value:?}, which is no number"),
    }
}
