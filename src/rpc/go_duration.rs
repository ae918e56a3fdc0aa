//! Durations as Go writes and reads them: `1m30s`, `1.5s`, `100ms`, `10µs`, `0s`.

use std::time::Duration;

const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    // The micro sign, and the Greek letter.
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// The longest duration that Go has, in nanoseconds.
const LONGEST: u64 = i64::MAX as u64;

/// Reads what `time.ParseDuration` reads. A negative duration is read as zero. Returns `None` if the text is none.
pub(super) fn parse(text: &str) -> Option<Duration> {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let is_negative = text.starts_with('-');
    let mut total = 0u64;
    let mut rest = unsigned;
    if unsigned != "0" {
        if rest.is_empty() {
            return None;
        }
        while !rest.is_empty() {
            let (nanos, behind) = one(rest)?;
            total = total.checked_add(nanos)?;
            rest = behind;
        }
    }
    // Go has one negative duration more than it has positive ones.
    if total > LONGEST + u64::from(is_negative) {
        return None;
    }
    Some(Duration::from_nanos(if is_negative { 0 } else { total }))
}

/// Reads a number and its unit. Returns the nanoseconds and what follows.
fn one(text: &str) -> Option<(u64, &str)> {
    let is_digit = |c: char| c.is_ascii_digit();
    let (whole, rest) = text.split_at(text.find(|c| !is_digit(c))?);
    let (fraction, rest) = match rest.strip_prefix('.') {
        Some(rest) => rest.split_at(rest.find(|c| !is_digit(c))?),
        None => ("", rest),
    };
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let end = rest.find(|c| c == '.' || is_digit(c)).unwrap_or(rest.len());
    let (name, behind) = rest.split_at(end);
    let (_, unit) = UNITS.iter().find(|(unit, _)| *unit == name)?;
    let whole = match whole {
        "" => 0,
        whole => whole.parse::<u64>().ok()?,
    };
    let nanos = whole
        .checked_mul(*unit)?
        .checked_add(part(fraction, *unit))?;
    Some((nanos, behind))
}

/// Returns this fraction of a unit, computed as Go does it, so that the last nanosecond is the same.
fn part(fraction: &str, unit: u64) -> u64 {
    let (mut digits, mut scale) = (0u64, 1.0);
    for digit in fraction.bytes() {
        // Digits beyond do not count.
        if digits > LONGEST / 10 {
            break;
        }
        let more = digits * 10 + u64::from(digit - b'0');
        if more > LONGEST + 1 {
            break;
        }
        digits = more;
        scale *= 10.0;
    }
    (digits as f64 * (unit as f64 / scale)) as u64
}

/// Returns what Go's `Duration.String` returns.
pub(super) fn format(duration: Duration) -> String {
    const SECOND: u128 = 1_000_000_000;
    let nanos = duration.as_nanos();
    match nanos {
        0 => return "0s".to_owned(),
        1..1_000 => return format!("{nanos}ns"),
        1_000..1_000_000 => return decimal(nanos, 1_000, 3) + "µs",
        1_000_000..SECOND => return decimal(nanos, 1_000_000, 6) + "ms",
        _ => {}
    }
    let (hours, minutes) = (duration.as_secs() / 3600, duration.as_secs() / 60 % 60);
    let seconds = decimal(nanos % (60 * SECOND), SECOND, 9);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m{seconds}s"),
    }
}

/// Returns the value in units of `unit`, which has so many zeros, without zeros at the end.
fn decimal(value: u128, unit: u128, zeros: usize) -> String {
    let (whole, part) = (value / unit, value % unit);
    match part {
        0 => whole.to_string(),
        _ => {
            let decimal = format!("{whole}.{part:0zeros$}");
            decimal.trim_end_matches('0').to_owned()
        }
    }
}
