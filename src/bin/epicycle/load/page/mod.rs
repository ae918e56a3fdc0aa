//! The report as a self-contained web page, without scripts.

mod plot;

use std::fmt::Write as _;
use std::time::Duration;

use super::report::{PERCENTILES, Report, bytes, grouped, name, time, time_at};
use super::tally::Interval;

use self::plot::{Axis, Curve, Plot};

const TEMPLATE: &str = include_str!("page.html");

/// The number of points of the percentile curve for each factor of ten.
const POINTS_PER_NINE: usize = 40;

pub(crate) fn render(report: &Report<'_>) -> String {
    let mut page = String::with_capacity(64 << 10);
    // An inserted part may contain a mark by chance, so it is not searched again.
    let mut rest = TEMPLATE;
    let parts = [
        ("{target}", escape(&report.plan.target.text)),
        ("{target}", escape(&report.plan.target.text)),
        ("{headline}", escape(&report.headline())),
        ("{notes}", notes(report)),
        ("{tiles}", tiles(report)),
        ("{plots}", plots(report)),
        ("{tables}", tables(report)),
    ];
    for (mark, part) in parts {
        if let Some((before, after)) = rest.split_once(mark) {
            page.push_str(before);
            page.push_str(&part);
            rest = after;
        }
    }
    page.push_str(rest);
    page
}

fn notes(report: &Report<'_>) -> String {
    let note = |warning: String| format!("<p class=\"note\">{}</p>", escape(&warning));
    report.warnings().into_iter().map(note).collect()
}

fn tiles(report: &Report<'_>) -> String {
    let tally = report.tally;
    let latency = |at| time_at(&tally.latency, at);
    let errors = tally.errors();
    let tiles = [
        ("answers a second", grouped(tally.throughput()), ""),
        ("median latency", latency(50.0), ""),
        ("p99 latency", latency(99.0), ""),
        ("p99.9 latency", latency(99.9), ""),
        ("slowest answer", latency(100.0), ""),
        (
            "errors",
            grouped(errors as f64),
            if errors > 0 { " bad" } else { "" },
        ),
    ];
    let tile = |(what, value, class): (&str, String, &str)| {
        format!("<div class=\"tile{class}\"><b>{value}</b><span>{what}</span></div>")
    };
    tiles.map(tile).concat()
}

fn plots(report: &Report<'_>) -> String {
    let from = match report.plan.rate {
        Some(_) => {
            "The time from the moment when a request was due. It includes the wait for a stalled server."
        }
        None => {
            "The time from the moment when a request was sent. No requests are sent while the server stalls, so stalls \
             hardly show; use --rate to see them."
        }
    };
    let sections = [
        ("Latency by percentile", from, by_percentile(report)),
        (
            "Latency over time",
            "The latency of the requests that were due at each time.",
            latency_over_time(report),
        ),
        (
            "Throughput over time",
            "The number of right answers that arrived in each second.",
            throughput_over_time(report),
        ),
    ];
    let mut text = String::new();
    for (title, caption, plot) in sections {
        let (svg, key) = (plot.to_svg(title), plot.key());
        let _ = write!(
            text,
            "<section><h2>{title}</h2><p class=\"caption\">{caption}</p>{key}<div class=\"scroll\">{svg}</div></section>"
        );
    }
    text
}

fn by_percentile(report: &Report<'_>) -> Plot {
    let latency = &report.tally.latency;
    // The slowest of all requests is one in 10 to the power of this.
    let nines = (latency.len().max(10) as f64).log10();
    let steps = (nines * POINTS_PER_NINE as f64).ceil() as usize;
    let quantile = |nines: f64| 1.0 - 10_f64.powf(-nines);
    let points = (0..=steps).map(|step| {
        let at = (step as f64 / POINTS_PER_NINE as f64).min(nines);
        let value = latency.value_at_quantile(quantile(at));
        (at, (!latency.is_empty()).then_some(value as f64))
    });
    let marks = [50.0, 90.0, 99.0, 99.9, 99.99, 99.999, 99.9999, 99.99999];
    let marks = marks.map(|percentile: f64| {
        (
            -(1.0 - percentile / 100.0).log10(),
            format!("{percentile} %"),
        )
    });
    let marks = marks.into_iter().filter(|(at, _)| *at <= nines);
    Plot {
        x: Axis::marked(
            nines,
            std::iter::once((0.0, "0 %".to_owned()))
                .chain(marks)
                .collect(),
        ),
        y: times(latency.min(), latency.max()),
        curves: vec![Curve {
            name: "latency",
            class: "first",
            filled: true,
            points: points.collect(),
        }],
        places: Vec::new(),
    }
}

fn latency_over_time(report: &Report<'_>) -> Plot {
    let intervals = &report.tally.intervals;
    let curve = |name, class, value: fn(&Interval) -> u64| Curve {
        name,
        class,
        filled: false,
        points: over_time(report, |interval| {
            (!interval.latency.is_empty()).then(|| value(interval) as f64)
        }),
    };
    let shortest = intervals
        .iter()
        .filter(|interval| !interval.latency.is_empty());
    Plot {
        x: seconds(report),
        y: times(
            shortest
                .map(|interval| interval.latency.value_at_quantile(0.5))
                .min()
                .unwrap_or(0),
            intervals
                .iter()
                .map(|interval| interval.latency.max())
                .max()
                .unwrap_or(0),
        ),
        curves: vec![
            curve("p50", "first", |interval| {
                interval.latency.value_at_quantile(0.5)
            }),
            curve("p99", "second", |interval| {
                interval.latency.value_at_quantile(0.99)
            }),
            curve("slowest", "third", |interval| interval.latency.max()),
        ],
        places: places(report),
    }
}

fn throughput_over_time(report: &Report<'_>) -> Plot {
    let answers = over_time(report, |interval| Some(interval.answers as f64));
    let scaled = |points: Vec<(f64, Option<f64>)>| -> Vec<_> {
        let rate = |(index, (at, count)): (usize, (f64, Option<f64>))| {
            (
                at,
                count.map(|count| count / interval_length(report, index)),
            )
        };
        points.into_iter().enumerate().map(rate).collect()
    };
    let mut curves = vec![Curve {
        name: "answers",
        class: "first",
        filled: true,
        points: scaled(answers),
    }];
    if report.tally.failure_count() > 0 {
        let failures = over_time(report, |interval| Some(interval.failures as f64));
        curves.push(Curve {
            name: "failures of requests due then",
            class: "bad",
            filled: false,
            points: scaled(failures),
        });
    }
    let values = curves.iter().flat_map(|curve| &curve.points);
    let most = values.filter_map(|(_, value)| *value).fold(1.0, f64::max);
    Plot {
        x: seconds(report),
        y: Axis::linear(most, grouped),
        curves,
        places: places(report),
    }
}

/// Returns a value for the middle of each interval.
fn over_time(
    report: &Report<'_>,
    value: impl Fn(&Interval) -> Option<f64>,
) -> Vec<(f64, Option<f64>)> {
    let point = |(index, interval)| {
        let (from, to) = bounds(report, index);
        ((from + to) / 2.0, value(interval))
    };
    report
        .tally
        .intervals
        .iter()
        .enumerate()
        .map(point)
        .collect()
}

/// Returns the range of each interval, and its text.
fn places(report: &Report<'_>) -> Vec<(f64, f64, String)> {
    let place = |(index, interval): (usize, &Interval)| {
        let (from, to) = bounds(report, index);
        let latency = |at| time_at(&interval.latency, at);
        let text = format!(
            "{from:.1} to {to:.1} s: {} answers, {} failed; p50 {}, p99 {}, slowest {}",
            grouped(interval.answers as f64),
            grouped(interval.failures as f64),
            latency(50.0),
            latency(99.0),
            latency(100.0),
        );
        (from, to, text)
    };
    report
        .tally
        .intervals
        .iter()
        .enumerate()
        .map(place)
        .collect()
}

/// Returns the beginning and the end of an interval in seconds. The last interval may be shorter than the others.
fn bounds(report: &Report<'_>, index: usize) -> (f64, f64) {
    let length = Duration::from_nanos(report.tally.window.interval).as_secs_f64();
    let from = index as f64 * length;
    (from, (from + length).min(report.seconds()))
}

fn interval_length(report: &Report<'_>, index: usize) -> f64 {
    let (from, to) = bounds(report, index);
    (to - from).max(1e-9)
}

fn seconds(report: &Report<'_>) -> Axis {
    Axis::exact(report.seconds(), |at| {
        format!("{} s", (at * 100.0).round() / 100.0)
    })
}

fn times(least: u64, most: u64) -> Axis {
    let label = |nanos: f64| match nanos {
        ..1e6 => format!("{} µs", nanos / 1e3),
        ..1e9 => format!("{} ms", nanos / 1e6),
        _ => format!("{} s", nanos / 1e9),
    };
    Axis::logarithmic((least.max(1000)) as f64, (most.max(1000)) as f64, label)
}

fn tables(report: &Report<'_>) -> String {
    let (plan, tally) = (report.plan, report.tally);
    let mut latency = Vec::new();
    if tally.answers() > 0 {
        latency.push(("mean".to_owned(), time(tally.latency.mean())));
    }
    latency.extend(PERCENTILES.map(|at| (name(at), time_at(&tally.latency, at))));
    if plan.rate.is_some() {
        let late = |at| time_at(&tally.lateness, at);
        latency.push(("before sending, p50".to_owned(), late(50.0)));
        latency.push(("before sending, p99".to_owned(), late(99.0)));
    }
    let seconds = report.seconds().max(1e-9);
    let done = vec![
        ("measured".to_owned(), format!("{:.1} s", report.seconds())),
        (
            "warm-up".to_owned(),
            format!("{:.1} s", plan.warm_up.as_secs_f64()),
        ),
        ("answers".to_owned(), grouped(tally.answers() as f64)),
        (
            "connections made".to_owned(),
            grouped(tally.connected as f64),
        ),
        (
            "received".to_owned(),
            format!("{}/s", bytes(tally.bytes_in as f64 / seconds)),
        ),
        (
            "sent".to_owned(),
            format!("{}/s", bytes(tally.bytes_out as f64 / seconds)),
        ),
        (
            "reactors of the generator".to_owned(),
            plan.reactors.to_string(),
        ),
        (
            "their CPU time an answer".to_owned(),
            match report.cpu_per_answer() {
                Some(cpu) => format!("{cpu:.2} µs"),
                None => "none".to_owned(),
            },
        ),
        (
            "their busy time".to_owned(),
            format!("{:.0} %", report.busy() * 100.0),
        ),
    ];
    let errors = report.errors();
    let errors = errors
        .into_iter()
        .map(|(what, count)| (what, grouped(count as f64)));
    let mut text = table("Latency", latency) + &table("Summary", done);
    let errors: Vec<_> = errors.collect();
    if !errors.is_empty() {
        text += &table("Errors", errors);
    }
    text
}

fn table(title: &str, rows: Vec<(String, String)>) -> String {
    let row = |(what, value): (String, String)| {
        format!(
            "<tr><th scope=\"row\">{}</th><td>{}</td></tr>",
            escape(&what),
            escape(&value)
        )
    };
    let rows: String = rows.into_iter().map(row).collect();
    format!("<section><h2>{title}</h2><div class=\"scroll\"><table>{rows}</table></div></section>")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
