//! Records that a flood of clients or failures could repeat without end.

use std::fmt;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Warns, but at most ten times in ten seconds from one place in the code. The next warning from there tells how many are left out.
macro_rules! warn_seldom {
    ($($text:tt)+) => { $crate::cluster::seldom::log_seldom!(warn, $($text)+) };
}

/// Informs, as seldom as [`warn_seldom`] warns.
#[cfg(feature = "grpc")]
macro_rules! info_seldom {
    ($($text:tt)+) => { $crate::cluster::seldom::log_seldom!(info, $($text)+) };
}

macro_rules! log_seldom {
    ($level:ident, $($text:tt)+) => {{
        static PLACE: $crate::cluster::seldom::Seldom = $crate::cluster::seldom::Seldom::new();
        if let Some(left_out) = PLACE.pass(std::time::Instant::now()) {
            log::$level!(target: "epicycle::cluster", "{}{left_out}", format_args!($($text)+));
        }
    }};
}

#[cfg(feature = "grpc")]
pub(in crate::cluster) use info_seldom;
pub(in crate::cluster) use {log_seldom, warn_seldom};

/// Counts the warnings of one place.
pub(in crate::cluster) struct Seldom(Mutex<Window>);

struct Window {
    began: Option<Instant>,
    passed: u32,
    left_out: u64,
}

const WINDOW: Duration = Duration::from_secs(10);
const MAX: u32 = 10;

impl Seldom {
    pub(in crate::cluster) const fn new() -> Self {
        Self(Mutex::new(Window {
            began: None,
            passed: 0,
            left_out: 0,
        }))
    }

    /// Returns how many were left out since the last one that has passed, or `None` if this one is left out too.
    pub(in crate::cluster) fn pass(&self, now: Instant) -> Option<LeftOut> {
        let mut window = self.0.lock();
        if window.began.is_none_or(|began| now >= began + WINDOW) {
            window.began = Some(now);
            window.passed = 0;
        }
        if window.passed == MAX {
            window.left_out += 1;
            return None;
        }
        window.passed += 1;
        Some(LeftOut(std::mem::take(&mut window.left_out)))
    }
}

/// The number of warnings that were left out. It is empty text for none.
#[derive(Debug, PartialEq)]
pub(in crate::cluster) struct LeftOut(u64);

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => Ok(()),
            count => write!(f, " ({count} more of these were left out before)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_leaves_ten_warnings_in_ten_seconds_and_the_next_tells_how_many_are_missing() {
        let (place, begin) = (Seldom::new(), Instant::now());
        for _ in 0..10 {
            assert_eq!(place.pass(begin), Some(LeftOut(0)));
        }
        for second in 0..10 {
            assert_eq!(place.pass(begin + Duration::from_secs(second)), None);
        }
        let next = place.pass(begin + WINDOW).expect("passes");
        assert_eq!(next.to_string(), " (10 more of these were left out before)");
        assert_eq!(place.pass(begin + WINDOW).expect("passes").to_string(), "");
    }
}
