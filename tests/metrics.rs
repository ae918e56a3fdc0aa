//! Metrics: sets with labels and histograms, and the text that monitors read.

mod util;

use std::collections::BTreeMap;
use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

use epicycle::metrics::{self, Exposition, ReactorStats, Stats};
use epicycle::{metric_label, metric_set};
use serde_json::Value;

use crate::util::app::{App, local, start};
use crate::util::client::Client;
use crate::util::eventually;
use crate::util::strangers::python_prometheus;

metric_label! {
    /// The class of a status.
    enum Class("class") {
        Success = "2xx",
        ServerError = "5xx",
    }
}

metric_set! {
    /// The metrics of a gate at one moment.
    #[derive(Clone, Debug, Default)]
    struct GateStats("gate") {
        /// Requests that [`Gate`](crate::Gate) received. A second sentence.
        requests: counter,
        /// Responses.
        responses: counter by Class,
        /// Requests open now.
        open: gauge by Class,
        /// The time spent.
        worked: time,
        /// The longest pause.
        pause: longest,
    }
    #[derive(Debug, Default)]
    struct GateMetrics;
}

#[test]
fn a_set_is_read_and_added_up_by_the_kind_of_each_metric() {
    let (one, other) = (GateMetrics::default(), GateMetrics::default());
    for (metrics, n) in [(&one, 1), (&other, 10)] {
        metrics.requests.add(n);
        metrics.responses[Class::Success].add(n);
        metrics.responses[Class::ServerError].add(2 * n);
        metrics.open[Class::Success].set(5 * n);
        metrics.open[Class::Success].subtract(n);
        metrics.worked.add(Duration::from_secs(n));
        metrics.pause.set(Duration::from_secs(100 / n));
    }
    let mut sum = one.read();
    sum += other.read();
    assert_eq!(sum.requests, 11);
    let responses: Vec<u64> = sum.responses.iter().map(|(_, n)| *n).collect();
    assert_eq!(responses, [11, 22]);
    assert_eq!(sum.open[Class::Success], 44);
    assert_eq!(sum.open[Class::ServerError], 0);
    assert_eq!(sum.worked, Duration::from_secs(11));
    assert_eq!(sum.pause, Duration::from_secs(100));
}

#[test]
fn a_set_is_exposed_with_its_labels_and_the_first_sentence_of_each_text() {
    let stats = GateStats {
        requests: 3,
        worked: Duration::from_micros(1500),
        ..GateStats::default()
    };
    let mut exposition = Exposition::new();
    exposition.add(&[("host", "a\"\\\n")], &stats);
    exposition.add(&[("host", "b")], &stats);
    exposition.gauge("bad name-1", "Two\nlines.", &[("l:1", "x")], 0.5);
    let mut text = String::new();
    exposition.write(&mut text);
    let requests = "# HELP gate_requests_total Requests that Gate received.\n\
        # TYPE gate_requests_total counter\n\
        gate_requests_total{host=\"a\\\"\\\\\\n\"} 3\n\
        gate_requests_total{host=\"b\"} 3\n";
    assert!(text.contains(requests), "{text}");
    assert!(
        text.contains("gate_responses_total{host=\"b\",class=\"5xx\"} 0\n"),
        "{text}"
    );
    assert!(
        text.contains("gate_worked_seconds_total{host=\"b\"} 0.0015\n"),
        "{text}"
    );
    let gauge =
        "# HELP bad_name_1 Two\\nlines.\n# TYPE bad_name_1 gauge\nbad_name_1{l_1=\"x\"} 0.5\n";
    assert!(text.contains(gauge), "{text}");
}

/// A family as Prometheus' own parser reads it: its type, and its samples by name and labels.
struct Family {
    kind: String,
    help: String,
    samples: BTreeMap<String, f64>,
}

/// Reads a text with the parser of `prometheus_client`. It refuses samples that occur twice. None without the parser.
fn parse(text: &str) -> Option<BTreeMap<String, Family>> {
    const SCRIPT: &str = "
import json, sys
from prometheus_client.parser import text_string_to_metric_families
families = {}
for family in text_string_to_metric_families(sys.stdin.read()):
    assert family.name not in families, family.name
    samples = {}
    for sample in family.samples:
        labels = ','.join(f'{k}={v}' for k, v in sample.labels.items())
        key = sample.name + '{' + labels + '}'
        assert key not in samples, key
        samples[key] = sample.value
    families[family.name] = [family.type, family.documentation, samples]
json.dump(families, sys.stdout)
";
    let mut python = python_prometheus()?
        .args(["-c", SCRIPT])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python runs");
    let mut stdin = python.stdin.take().expect("is piped");
    stdin.write_all(text.as_bytes()).expect("it reads");
    drop(stdin);
    let output = python.wait_with_output().expect("it ends");
    assert!(output.status.success(), "the parser refuses:\n{text}");
    let families: Value = serde_json::from_slice(&output.stdout).expect("is JSON");
    let family = |(name, parts): (&String, &Value)| {
        let text = |part: usize| parts[part].as_str().expect("a text").to_owned();
        let samples = parts[2].as_object().expect("samples").iter();
        let sample =
            |(key, value): (&String, &Value)| (key.clone(), value.as_f64().expect("a number"));
        let family = Family {
            kind: text(0),
            help: text(1),
            samples: samples.map(sample).collect(),
        };
        (name.clone(), family)
    };
    Some(
        families
            .as_object()
            .expect("an object")
            .iter()
            .map(family)
            .collect(),
    )
}

fn exposed(stats: &Stats) -> String {
    let mut text = String::new();
    metrics::prometheus(stats, &mut text);
    text
}

#[test]
fn prometheus_reads_every_counter_of_an_engine() {
    let (running, _log) = start(local().reactors(2), |app: App| app);
    let clients: Vec<Client> = (0..4).map(|_| Client::to(&running)).collect();
    for client in &clients {
        client.round_trip("hello");
    }
    eventually("all is counted", || {
        let total = running.engine().stats().total();
        (total.connections, total.bytes_in, total.frames) == (4, 20, 4)
    });
    let stats = running.engine().stats();
    let Some(families) = parse(&exposed(&stats)) else {
        return;
    };
    let sum = |name: &str| families[name].samples.values().sum::<f64>();
    let total = stats.total();
    assert_eq!(sum("epicycle_accepted"), 4.0);
    assert_eq!(sum("epicycle_connections"), 4.0);
    assert_eq!(sum("epicycle_frames"), total.frames as f64);
    assert_eq!(sum("epicycle_bytes_in"), 20.0);
    let busy = sum("epicycle_busy_seconds") - total.busy.as_secs_f64();
    assert!(busy.abs() < 1e-9, "{busy}");
    assert_eq!(sum("epicycle_lookups_completed"), 0.0);
    let accepted = &families["epicycle_accepted"];
    assert_eq!(accepted.kind, "counter");
    assert_eq!(
        accepted.samples["epicycle_accepted_total{reactor=main}"],
        4.0
    );
    assert_eq!(families["epicycle_lag_seconds"].kind, "gauge");
    for (name, family) in &families {
        assert!(matches!(&*family.kind, "counter" | "gauge"), "{name}");
        assert!(family.help.ends_with('.'), "{name}: {}", family.help);
        assert!(!family.help.contains(['`', '[']), "{name}: {}", family.help);
        let per_reactor = if name.contains("lookups") { 1 } else { 3 };
        assert_eq!(family.samples.len(), per_reactor, "{name}");
    }
    // Each field is there, so none was forgotten.
    let fields = format!("{:?}", ReactorStats::default())
        .matches(": ")
        .count();
    let reactors = families.keys().filter(|name| !name.contains("lookups"));
    assert_eq!(reactors.count(), fields);
}

#[cfg(feature = "histogram")]
mod histograms {
    use std::sync::Arc;
    use std::thread;

    use epicycle::metrics::Histogram;

    use super::*;

    metric_set! {
        /// The times and sizes of an upstream.
        #[derive(Clone, Debug, Default)]
        struct UpstreamStats("upstream") {
            /// The time to the first byte.
            first_byte: time_histogram by Class,
            /// The length of a body.
            body: histogram,
        }
        #[derive(Debug, Default)]
        struct UpstreamMetrics;
    }

    #[test]
    fn a_quantile_is_at_most_a_bucket_above_the_value() {
        let histogram = Histogram::default();
        assert_eq!(histogram.read().quantile(0.5), None);
        for value in 1..=10_000 {
            histogram.record(value);
        }
        let read = histogram.read();
        assert_eq!((read.count(), read.sum()), (10_000, 50_005_000));
        for (share, exact) in [
            (0.0, 1),
            (0.001, 10),
            (0.5, 5000),
            (0.99, 9900),
            (1.0, 10_000),
        ] {
            let found = read.quantile(share).expect("there are values");
            assert!(
                (exact..=exact + exact / 31).contains(&found),
                "{share}: {found}"
            );
        }
    }

    #[test]
    fn a_value_above_the_largest_counts_as_the_largest() {
        let histogram = Histogram::default();
        histogram.record(u64::MAX);
        histogram.record_time(Duration::MAX);
        let read = histogram.read();
        assert_eq!(read.count(), 2);
        assert_eq!(read.quantile(1.0), Some((1 << 42) - 1));
    }

    #[test]
    fn readers_of_a_histogram_lose_nothing_that_was_recorded_before() {
        let histogram = Arc::new(Histogram::default());
        let recording = histogram.clone();
        let writer = thread::spawn(move || {
            for value in 0..200_000 {
                recording.record(value % 1000);
            }
        });
        let mut last = 0;
        while !writer.is_finished() {
            let count = histogram.read().count();
            assert!(count >= last);
            last = count;
        }
        writer.join().expect("no panic");
        let read = histogram.read();
        assert_eq!((read.count(), read.sum()), (200_000, 200 * 499_500));
    }

    #[test]
    fn prometheus_reads_histograms_of_times_and_sizes() {
        let (one, other) = (UpstreamMetrics::default(), UpstreamMetrics::default());
        for metrics in [&one, &other] {
            // A microsecond is 1,000 ns; the first bucket ends at 1,023.
            metrics.first_byte[Class::Success].record_time(Duration::from_micros(1));
            metrics.first_byte[Class::Success].record_time(Duration::from_millis(3));
            metrics.first_byte[Class::Success].record_time(Duration::from_secs(600));
            metrics.body.record(0);
            metrics.body.record(4096);
        }
        let mut stats = one.read();
        stats += other.read();
        let mut text = String::new();
        metrics::prometheus(&stats, &mut text);
        let Some(families) = parse(&text) else {
            return;
        };
        let times = &families["upstream_first_byte_seconds"];
        assert_eq!(times.kind, "histogram");
        let at = |le: &str| {
            times.samples[&format!("upstream_first_byte_seconds_bucket{{class=2xx,le={le}}}")]
        };
        assert_eq!(at("0.000001023"), 2.0);
        assert_eq!(at("0.002097151"), 2.0);
        assert_eq!(at("0.004194303"), 4.0);
        assert_eq!(at("68.719476735"), 4.0);
        assert_eq!(at("+Inf"), 6.0);
        assert_eq!(
            times.samples["upstream_first_byte_seconds_count{class=2xx}"],
            6.0
        );
        assert_eq!(
            times.samples["upstream_first_byte_seconds_sum{class=2xx}"],
            1200.006002
        );
        assert_eq!(
            times.samples["upstream_first_byte_seconds_count{class=5xx}"],
            0.0
        );
        let sizes = &families["upstream_body"].samples;
        assert_eq!(sizes["upstream_body_bucket{le=0}"], 2.0);
        assert_eq!(sizes["upstream_body_bucket{le=4095}"], 2.0);
        assert_eq!(sizes["upstream_body_bucket{le=16383}"], 4.0);
        assert_eq!(sizes["upstream_body_sum{}"], 8192.0);
    }
}
