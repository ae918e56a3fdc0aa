//! The text format in which Prometheus and compatible monitors read metrics (version 0.0.4).
//!
//! <https://prometheus.io/docs/instrumenting/exposition_formats/>

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

#[cfg(feature = "histogram")]
use super::Distribution;

/// The content type of the text, for the header `Content-Type`.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Metrics that can be exposed. [`metric_set!`](crate::metric_set) implements it.
pub trait Expose {
    /// Adds the metrics to an exposition, each with these labels.
    fn expose(&self, labels: &[(&str, &str)], to: &mut Exposition);
}

/// Appends metrics to `out` in the text format of Prometheus.
///
/// Metrics of an engine begin with `epicycle_`. Each has a label `reactor` with the reactor's number, or `main`. Use an
/// [`Exposition`] for several sets of metrics in one text.
///
/// ```
/// # let running = epicycle::Server::bind("tcp://127.0.0.1:0").reactors(1).start(|_| {
/// #     epicycle::service(|conn, bytes| conn.write(bytes).into())
/// # })?;
/// let mut text = String::new();
/// epicycle::metrics::prometheus(&running.engine().stats(), &mut text);
/// assert!(text.contains("# TYPE epicycle_accepted_total counter\n"));
/// assert!(text.contains("epicycle_accepted_total{reactor=\"0\"} 0\n"));
/// # Ok::<(), epicycle::Error>(())
/// ```
pub fn prometheus(metrics: &impl Expose, out: &mut String) {
    let mut exposition = Exposition::new();
    exposition.add(&[], metrics);
    exposition.write(out);
}

/// Several sets of metrics as one text.
///
/// ```
/// # use epicycle::metrics::Exposition;
/// # let server = |_| epicycle::service(|conn, bytes| conn.write(bytes).into());
/// # let public = epicycle::Server::bind("tcp://127.0.0.1:0").reactors(1).start(server)?;
/// # let admin = epicycle::Server::bind("tcp://127.0.0.1:0").reactors(1).start(server)?;
/// let mut exposition = Exposition::new();
/// exposition.add(&[("engine", "public")], &public.engine().stats());
/// exposition.add(&[("engine", "admin")], &admin.engine().stats());
/// exposition.gauge("build_info", "The version of the program.", &[("version", "1.2.3")], 1.0);
/// let mut text = String::new();
/// exposition.write(&mut text);
/// # assert!(text.contains("epicycle_accepted_total{engine=\"admin\",reactor=\"0\"} 0\n"));
/// # Ok::<(), epicycle::Error>(())
/// ```
#[derive(Debug, Default)]
pub struct Exposition {
    /// All lines of a metric have to stand together.
    families: BTreeMap<String, Family>,
}

#[derive(Debug)]
struct Family {
    kind: &'static str,
    help: String,
    samples: String,
}

/// A metric of a set, with the labels of the set.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct Series<'a> {
    pub prefix: &'a str,
    pub name: &'a str,
    pub help: &'a str,
    pub labels: &'a [(&'a str, &'a str)],
}

impl Series<'_> {
    fn name(&self, suffix: &str) -> String {
        format!("{}_{}{suffix}", self.prefix, self.name)
    }
}

impl Exposition {
    /// Creates one without metrics.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a set of metrics, with these labels on each. Two sets of the same type must differ in a label: Prometheus refuses
    /// a text with two samples of the same name and labels.
    pub fn add(&mut self, labels: &[(&str, &str)], metrics: &impl Expose) {
        metrics.expose(labels, self);
    }

    /// Adds a counter. By convention its name ends in `_total`. In names, characters that Prometheus does not allow become
    /// underscores.
    pub fn counter(&mut self, name: &str, help: &str, labels: &[(&str, &str)], value: f64) {
        self.single(name, "counter", help, labels, value);
    }

    /// Adds a gauge.
    pub fn gauge(&mut self, name: &str, help: &str, labels: &[(&str, &str)], value: f64) {
        self.single(name, "gauge", help, labels, value);
    }

    /// Appends the text to `out`.
    pub fn write(&self, out: &mut String) {
        for (name, family) in &self.families {
            // Writing to a string does not fail.
            let _ = writeln!(out, "# HELP {name} {}", family.help);
            let _ = writeln!(out, "# TYPE {name} {}", family.kind);
            out.push_str(&family.samples);
        }
    }

    fn single(
        &mut self,
        name: &str,
        kind: &'static str,
        help: &str,
        labels: &[(&str, &str)],
        value: f64,
    ) {
        let name = sanitized(name);
        let family = self.family(&name, kind, help);
        family.sample(&name, labels, None, value);
    }

    fn family(&mut self, name: &str, kind: &'static str, help: &str) -> &mut Family {
        self.families
            .entry(name.to_owned())
            .or_insert_with(|| Family {
                kind,
                help: escaped(help, false),
                samples: String::new(),
            })
    }

    fn put(&mut self, series: Series<'_>, suffix: &str, kind: &'static str, value: f64) {
        let help = summary(series.help);
        self.single(&series.name(suffix), kind, &help, series.labels, value);
    }

    pub(super) fn put_counter(&mut self, series: Series<'_>, value: &u64) {
        self.put(series, "_total", "counter", *value as f64);
    }

    pub(super) fn put_gauge(&mut self, series: Series<'_>, value: &u64) {
        self.put(series, "", "gauge", *value as f64);
    }

    pub(super) fn put_time(&mut self, series: Series<'_>, value: &Duration) {
        self.put(series, "_seconds_total", "counter", value.as_secs_f64());
    }

    pub(super) fn put_time_gauge(&mut self, series: Series<'_>, value: &Duration) {
        self.put(series, "_seconds", "gauge", value.as_secs_f64());
    }
}

#[cfg(feature = "histogram")]
impl Exposition {
    /// Adds a histogram of sizes, with a bucket for each second power of two.
    pub(super) fn put_distribution(&mut self, series: Series<'_>, value: &Distribution) {
        let exponents = (0..=32).step_by(2);
        self.put_histogram(series, "", exponents, |value| value as f64, value);
    }

    /// Adds a histogram of times in nanoseconds, with a bucket for each power of two from 1 us to 69 s.
    pub(super) fn put_times(&mut self, series: Series<'_>, value: &Distribution) {
        let seconds = |nanos| nanos as f64 / 1e9;
        self.put_histogram(series, "_seconds", 10..=36, seconds, value);
    }

    fn put_histogram(
        &mut self,
        series: Series<'_>,
        suffix: &str,
        exponents: impl Iterator<Item = u32>,
        scale: impl Fn(u64) -> f64,
        value: &Distribution,
    ) {
        let name = sanitized(&series.name(suffix));
        let family = self.family(&name, "histogram", &summary(series.help));
        let bucket = format!("{name}_bucket");
        for (end, count) in value.up_to_powers(exponents) {
            let end = scale(end).to_string();
            family.sample(&bucket, series.labels, Some(&end), count as f64);
        }
        let count = value.count() as f64;
        family.sample(&bucket, series.labels, Some("+Inf"), count);
        let sum = scale(value.sum());
        family.sample(&format!("{name}_sum"), series.labels, None, sum);
        family.sample(&format!("{name}_count"), series.labels, None, count);
    }
}

impl Family {
    /// Adds a sample, with the end of its bucket if it is one of a histogram.
    fn sample(&mut self, name: &str, labels: &[(&str, &str)], le: Option<&str>, value: f64) {
        let out = &mut self.samples;
        out.push_str(name);
        let le = le.map(|le| ("le", le));
        let mut separator = '{';
        for (label, text) in labels.iter().copied().chain(le) {
            let (label, text) = (sanitized(label).replace(':', "_"), escaped(text, true));
            let _ = write!(out, "{separator}{label}=\"{text}\"");
            separator = ',';
        }
        if separator == ',' {
            out.push('}');
        }
        let _ = writeln!(out, " {value}");
    }
}

/// Returns a name with characters that are allowed in names.
fn sanitized(name: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let mut allowed: String = name
        .chars()
        .map(|c| if allowed(c) { c } else { '_' })
        .collect();
    if !allowed.starts_with(|first: char| !first.is_ascii_digit()) {
        allowed.insert(0, '_');
    }
    allowed
}

/// Returns a text with its special characters escaped, which are quotes in the value of a label alone.
fn escaped(text: &str, in_quotes: bool) -> String {
    let text = text.replace('\\', r"\\").replace('\n', r"\n");
    if in_quotes {
        text.replace('"', r#"\""#)
    } else {
        text
    }
}

/// Returns the first sentence of a doc comment, without marks and links.
fn summary(doc: &str) -> String {
    let doc = doc.trim();
    let end = doc.find(". ").map_or(doc.len(), |end| end + 1);
    let mut text = String::with_capacity(end);
    let mut rest = &doc[..end];
    while let Some(at) = rest.find(['`', '[', ']']) {
        text.push_str(&rest[..at]);
        let link = rest[at..].strip_prefix("](");
        rest = match link.and_then(|link| link.split_once(')')) {
            Some((_, behind)) => behind,
            None => &rest[at + 1..],
        };
    }
    text + rest
}
