//! The report at the end, as text or as JSON.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::plan::Plan;
use super::tally::Tally;

/// The percentiles in the report.
pub(crate) const PERCENTILES: [f64; 7] = [50.0, 75.0, 90.0, 99.0, 99.9, 99.99, 100.0];

/// The report counts requests that took longer than these, in milliseconds.
const OVER: [u64; 5] = [1, 10, 100, 1000, 10_000];

pub(crate) struct Report<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) tally: &'a Tally,
    pub(crate) interrupted: bool,
}

impl<'a> Report<'a> {
    pub(crate) fn new(plan: &'a Plan, tally: &'a Tally, interrupted: bool) -> Self {
        Self {
            plan,
            tally,
            interrupted,
        }
    }

    /// Describes the run in one line.
    pub(crate) fn headline(&self) -> String {
        let plan = self.plan;
        let load = match plan.rate {
            Some(rate) => format!("{} requests/s (open loop)", grouped(rate as f64)),
            None => "as fast as answered (closed loop)".to_owned(),
        };
        format!(
            "{} over {}, {load}, {}, {} each, {} under way on each",
            plan.protocol,
            plan.transport(),
            counted(plan.connections as u64, "connection"),
            bytes(plan.size as f64),
            plan.pipeline,
        )
    }

    /// Returns the measured time in seconds.
    pub(crate) fn seconds(&self) -> f64 {
        self.tally.window.length().as_secs_f64()
    }

    /// Returns the reactors' processor time for an answer, in microseconds. Returns `None` without an answer.
    pub(crate) fn cpu_per_answer(&self) -> Option<f64> {
        let answers: u64 = self
            .tally
            .intervals
            .iter()
            .map(|interval| interval.answers)
            .sum();
        (answers > 0).then(|| self.tally.cpu.as_secs_f64() * 1e6 / answers as f64)
    }

    /// Returns the fraction of the time that the reactors worked, from 0 to 1.
    pub(crate) fn busy(&self) -> f64 {
        let available = self.seconds() * self.plan.reactors as f64;
        self.tally.cpu.as_secs_f64() / available.max(1e-9)
    }

    /// Returns warnings about the figures.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.interrupted {
            let seconds = self.seconds();
            warnings.push(format!("interrupted: only {seconds:.1} s were measured"));
        }
        if self.busy() > 0.9 {
            warnings.push(format!(
                "the generator was busy {:.0} % of the time, so the figures may show its limit instead of the server's; \
                 use more --reactors, or a processor of its own",
                self.busy() * 100.0
            ));
        }
        if let Some(rate) = self.plan.rate
            && self.tally.throughput() < rate as f64 * 0.95
            && self.seconds() > 0.0
        {
            warnings.push(format!(
                "the server did not keep up: it answered {} of {} requests/s",
                grouped(self.tally.throughput()),
                grouped(rate as f64)
            ));
        }
        warnings
    }

    /// Returns all errors with their counts.
    pub(crate) fn errors(&self) -> Vec<(String, u64)> {
        let tally = self.tally;
        let failures = tally.failures.iter();
        let mut errors: Vec<_> = failures
            .map(|(failure, n)| (failure.to_string(), *n))
            .collect();
        let connects = tally.connect_failures.iter();
        errors.extend(connects.map(|(why, n)| (format!("cannot connect: {why}"), *n)));
        if tally.warm_up_failures > 0 {
            errors.push((
                "failed during the warm-up".to_owned(),
                tally.warm_up_failures,
            ));
        }
        errors
    }

    pub(crate) fn to_json(&self) -> String {
        let (plan, tally) = (self.plan, self.tally);
        let errors: serde_json::Map<_, _> = self
            .errors()
            .into_iter()
            .map(|(what, count)| (what, count.into()))
            .collect();
        let over: serde_json::Map<_, _> = OVER
            .iter()
            .map(|millis| (format!("{millis}ms"), over(&tally.latency, *millis).into()))
            .collect();
        let seconds = self.seconds().max(1e-9);
        let report = json!({
            "target": plan.target.text,
            "protocol": plan.protocol.to_string(),
            "transport": plan.transport(),
            "loop": if plan.rate.is_some() { "open" } else { "closed" },
            "rate": plan.rate,
            "connections": plan.connections,
            "pipeline": plan.pipeline,
            "size": plan.size,
            "reactors": plan.reactors,
            "measured_s": self.seconds(),
            "interrupted": self.interrupted,
            "requests": {
                "answered": tally.answers(),
                "failed": tally.failure_count(),
                "cut_off": tally.cut_off,
            },
            "throughput": {
                "answers_per_s": tally.throughput(),
                "bytes_in_per_s": tally.bytes_in as f64 / seconds,
                "bytes_out_per_s": tally.bytes_out as f64 / seconds,
            },
            "latency_us": summary(&tally.latency),
            "slower_than": over,
            "sent_late_us": plan.rate.map(|_| summary(&tally.lateness)),
            "errors": errors,
            "connections_made": tally.connected,
            "timeline": self.timeline(),
            "generator": {
                "cpu_s": tally.cpu.as_secs_f64(),
                "cpu_us_per_answer": self.cpu_per_answer(),
                "busy": self.busy(),
            },
        });
        format!("{report:#}")
    }

    fn timeline(&self) -> Vec<Value> {
        let length = Duration::from_nanos(self.tally.window.interval).as_secs_f64();
        let row = |(index, interval): (usize, &super::tally::Interval)| {
            let latency = &interval.latency;
            json!({
                "at_s": index as f64 * length,
                "answers": interval.answers,
                "failed": interval.failures,
                "p50_us": percentile(latency, 50.0).map(micros),
                "p99_us": percentile(latency, 99.0).map(micros),
                "max_us": percentile(latency, 100.0).map(micros),
            })
        };
        self.tally.intervals.iter().enumerate().map(row).collect()
    }
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tally = self.tally;
        writeln!(f, "{}", self.plan.target.text)?;
        writeln!(f, "  {}", self.headline())?;
        let (answers, failed) = (tally.answers(), tally.failure_count());
        writeln!(
            f,
            "  {} in {:.1} s, {} failed",
            counted(answers, "answer"),
            self.seconds(),
            grouped(failed as f64)
        )?;
        let seconds = self.seconds().max(1e-9);
        writeln!(
            f,
            "  {} answers/s, {}/s in, {}/s out",
            grouped(tally.throughput()),
            bytes(tally.bytes_in as f64 / seconds),
            bytes(tally.bytes_out as f64 / seconds)
        )?;
        if answers > 0 {
            writeln!(f, "\n  latency, mean {}", time(tally.latency.mean()))?;
            for percentile in PERCENTILES {
                let value = tally.latency.value_at_percentile(percentile);
                writeln!(f, "  {:>8}  {:>9}", name(percentile), time(value as f64))?;
            }
        }
        if !tally.lateness.is_empty() {
            let late = |at| time_at(&tally.lateness, at);
            writeln!(
                f,
                "\n  part of it before the request was sent: p50 {}, p99 {}, max {}",
                late(50.0),
                late(99.0),
                late(100.0)
            )?;
        }
        let errors = self.errors();
        if !errors.is_empty() {
            writeln!(f, "\n  errors")?;
        }
        for (what, count) in errors {
            writeln!(f, "  {:>12}  {what}", grouped(count as f64))?;
        }
        if tally.cut_off > 0 {
            let left = counted(tally.cut_off, "request");
            writeln!(f, "  {left} still under way at the end")?;
        }
        write!(f, "\n  the generator: ")?;
        if let Some(cpu) = self.cpu_per_answer() {
            write!(f, "{cpu:.2} µs of CPU an answer, ")?;
        }
        writeln!(f, "busy {:.0} % of the time", self.busy() * 100.0)?;
        for warning in self.warnings() {
            writeln!(f, "  note: {warning}")?;
        }
        Ok(())
    }
}

/// Returns a percentile, from 0 to 100. Returns `None` if there are no values.
pub(crate) fn percentile(histogram: &Histogram<u64>, percentile: f64) -> Option<u64> {
    (!histogram.is_empty()).then(|| histogram.value_at_percentile(percentile))
}

/// Formats a percentile as a time.
pub(crate) fn time_at(histogram: &Histogram<u64>, at: f64) -> String {
    percentile(histogram, at).map_or_else(|| "none".to_owned(), |nanos| time(nanos as f64))
}

fn summary(histogram: &Histogram<u64>) -> Value {
    if histogram.is_empty() {
        return Value::Null;
    }
    let mut values = serde_json::Map::new();
    values.insert("mean".to_owned(), (histogram.mean() / 1e3).into());
    values.insert("min".to_owned(), micros(histogram.min()).into());
    for percentile in PERCENTILES {
        let value = micros(histogram.value_at_percentile(percentile));
        values.insert(name(percentile), value.into());
    }
    values.into()
}

/// Returns the number of values above a limit in milliseconds.
fn over(histogram: &Histogram<u64>, millis: u64) -> u64 {
    let limit = millis * 1_000_000;
    histogram.len() - histogram.count_between(0, limit)
}

fn micros(nanos: u64) -> f64 {
    nanos as f64 / 1e3
}

/// Returns the name of a percentile.
pub(crate) fn name(percentile: f64) -> String {
    if percentile == 100.0 {
        "max".to_owned()
    } else {
        format!("p{percentile}")
    }
}

/// Formats nanoseconds with three digits and a suitable unit.
pub(crate) fn time(nanos: f64) -> String {
    let (value, unit) = match nanos {
        ..1e6 => (nanos / 1e3, "µs"),
        ..1e9 => (nanos / 1e6, "ms"),
        _ => (nanos / 1e9, "s"),
    };
    let digits = match value {
        ..10.0 => 2,
        ..100.0 => 1,
        _ => 0,
    };
    format!("{value:.digits$} {unit}")
}

/// Formats bytes with a suitable unit.
pub(crate) fn bytes(number: f64) -> String {
    match number {
        ..1024.0 => format!("{number:.0} B"),
        ..1048576.0 => format!("{:.1} KiB", number / 1024.0),
        ..1073741824.0 => format!("{:.1} MiB", number / 1048576.0),
        _ => format!("{:.2} GiB", number / 1073741824.0),
    }
}

/// Formats a number with commas between thousands.
pub(crate) fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn counted(number: u64, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {what}{plural}", grouped(number as f64))
}
