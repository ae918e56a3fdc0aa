use std::borrow::Cow;
use std::io::Write;
use std::time::{Duration, UNIX_EPOCH};

use super::json::JsonLine;
use super::texts::{cut, escape};
use crate::gateway::ip_text::IpText;
use crate::gateway::record::Record;
use crate::gateway::settings::LogFormat;
use crate::gateway::settings::template::{Field, Piece, pieces};
use crate::metrics::Label;

/// The most bytes of a target. The rest is cut off.
const MAX_TARGET: usize = 2 << 10;

/// The most bytes of another text that a client chooses.
const MAX_TEXT: usize = 512;

/// Writes records as lines.
pub(super) struct Format {
    kind: Kind,
    /// The times that were formatted last, since many records are of the same second.
    iso: Second,
    clf: Second,
}

enum Kind {
    Json,
    Combined,
    Template(Vec<Piece>),
}

/// A formatted second.
#[derive(Default)]
struct Second {
    unix_time: Option<u64>,
    text: String,
}

impl Format {
    pub(super) fn new(format: &LogFormat) -> Self {
        Self {
            kind: match format {
                LogFormat::Json => Kind::Json,
                LogFormat::Combined => Kind::Combined,
                LogFormat::Template(text) => Kind::Template(pieces(text)),
            },
            iso: Second::default(),
            clf: Second::default(),
        }
    }

    /// Appends a line, with its end.
    pub(super) fn write(&mut self, record: &Record<'_>, out: &mut Vec<u8>) {
        // Writing to a vector does not fail.
        let _ = match &self.kind {
            Kind::Json => {
                write_json(record, self.iso.of(record.unix_time, iso), out);
                Ok(())
            }
            Kind::Combined => writeln!(
                out,
                "{} - {} [{}] \"{} {} {}\" {} {} \"{}\" \"{}\"",
                client(record).as_str(),
                or_dash(&quoted(record.user, MAX_TEXT)),
                self.clf.of(record.unix_time, clf),
                quoted(record.method, MAX_TEXT),
                quoted(record.target, MAX_TARGET),
                if record.is_http10 {
                    "HTTP/1.0"
                } else {
                    "HTTP/1.1"
                },
                record.status,
                record.response_bytes,
                or_dash(&quoted(&sent(record, "referer"), MAX_TEXT)),
                or_dash(&quoted(&sent(record, "user-agent"), MAX_TEXT)),
            ),
            Kind::Template(pieces) => {
                for piece in pieces {
                    match piece {
                        Piece::Text(text) => out.extend_from_slice(text.as_bytes()),
                        Piece::Field(field) => {
                            let _ = write_field(*field, record, &mut self.iso, out);
                        }
                    }
                }
                writeln!(out)
            }
        };
    }
}

fn write_json(record: &Record<'_>, time: &str, out: &mut Vec<u8>) {
    const ANY: usize = usize::MAX;
    let times = &record.times;
    let mut line = JsonLine::new(out);
    line.text(br#"{"time":"#, time.as_bytes(), ANY);
    line.text(br#","client":"#, client(record).as_bytes(), ANY);
    line.peer(br#","peer":"#, record.peer);
    if !record.user.is_empty() {
        line.text(br#","user":"#, record.user.as_bytes(), MAX_TEXT);
    }
    line.text(br#","method":"#, record.method.as_bytes(), MAX_TEXT);
    line.text(br#","host":"#, record.host.as_bytes(), MAX_TEXT);
    line.text(br#","target":"#, record.target.as_bytes(), MAX_TARGET);
    line.number(br#","status":"#, record.status.into());
    line.number(br#","bytes_in":"#, record.request_bytes);
    line.number(br#","bytes_out":"#, record.response_bytes);
    line.text(br#","route":"#, record.route.as_bytes(), ANY);
    line.text(br#","pool":"#, record.pool.as_bytes(), ANY);
    line.text(br#","node":"#, record.node.as_bytes(), ANY);
    line.millis(br#","queue_ms":"#, Some(times.queued));
    line.millis(br#","connect_ms":"#, times.connected);
    line.millis(br#","first_byte_ms":"#, times.first_byte);
    line.millis(br#","total_ms":"#, Some(times.total));
    line.flag(br#","reused":"#, record.reused);
    line.number(br#","tries":"#, record.tries.into());
    line.text(br#","ended_by":"#, record.ended_by.value().as_bytes(), ANY);
    if !record.timeout.is_empty() {
        line.text(br#","timeout":"#, record.timeout.as_bytes(), ANY);
    }
    let (referer, user_agent) = sent_from(record);
    line.text(br#","referer":"#, referer, MAX_TEXT);
    line.text(br#","user_agent":"#, user_agent, MAX_TEXT);
    line.end();
}

/// Returns the `Referer` and the `User-Agent` that the client sent, or empty texts.
fn sent_from<'a>(record: &Record<'a>) -> (&'a [u8], &'a [u8]) {
    let (mut referer, mut user_agent) = (None, None);
    for line in record.fields.lines() {
        match line.colon() {
            7 if referer.is_none() && line.is("referer") => referer = Some(line.value()),
            10 if user_agent.is_none() && line.is("user-agent") => user_agent = Some(line.value()),
            _ => {}
        }
    }
    (referer.unwrap_or_default(), user_agent.unwrap_or_default())
}

fn write_field(
    field: Field,
    record: &Record<'_>,
    iso_second: &mut Second,
    out: &mut Vec<u8>,
) -> std::io::Result<()> {
    let text = |out: &mut Vec<u8>, text: &str, max: usize| {
        out.extend_from_slice(or_dash(&quoted(text, max)).as_bytes());
        Ok(())
    };
    let time = |out: &mut Vec<u8>, time: Option<Duration>| match time {
        Some(time) => write!(out, "{:.3}", millis(time)),
        None => write!(out, "-"),
    };
    match field {
        Field::Time => write!(out, "{}", iso_second.of(record.unix_time, iso)),
        Field::Client => write!(out, "{}", client(record).as_str()),
        Field::Peer => text(out, &record.peer.to_string(), MAX_TEXT),
        Field::User => text(out, record.user, MAX_TEXT),
        Field::Method => text(out, record.method, MAX_TEXT),
        Field::Host => text(out, record.host, MAX_TEXT),
        Field::Target => text(out, record.target, MAX_TARGET),
        Field::Status => write!(out, "{}", record.status),
        Field::BytesIn => write!(out, "{}", record.request_bytes),
        Field::BytesOut => write!(out, "{}", record.response_bytes),
        Field::Route => text(out, record.route, MAX_TEXT),
        Field::Pool => text(out, record.pool, MAX_TEXT),
        Field::Node => text(out, record.node, MAX_TEXT),
        Field::QueueMs => time(out, Some(record.times.queued)),
        Field::ConnectMs => time(out, record.times.connected),
        Field::FirstByteMs => time(out, record.times.first_byte),
        Field::TotalMs => time(out, Some(record.times.total)),
        Field::Reused => write!(out, "{}", record.reused),
        Field::Tries => write!(out, "{}", record.tries),
        Field::EndedBy => write!(out, "{}", record.ended_by),
        Field::Timeout => text(out, record.timeout, MAX_TEXT),
        Field::Referer => text(out, &sent(record, "referer"), MAX_TEXT),
        Field::UserAgent => text(out, &sent(record, "user-agent"), MAX_TEXT),
    }
}

impl Second {
    fn of(&mut self, unix_time: u64, format: impl FnOnce(u64) -> String) -> &str {
        if self.unix_time != Some(unix_time) {
            self.unix_time = Some(unix_time);
            self.text = format(unix_time);
        }
        &self.text
    }
}

fn iso(unix_time: u64) -> String {
    let time = UNIX_EPOCH + Duration::from_secs(unix_time);
    humantime::format_rfc3339_seconds(time).to_string()
}

/// Returns a time in the form of the Common Log Format: `28/Nov/2026:22:12:37 +0000`.
fn clf(unix_time: u64) -> String {
    let date = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(unix_time));
    let mut parts = date.split(' ').skip(1);
    let mut part = || parts.next().unwrap_or_default();
    let (day, month, year, time) = (part(), part(), part(), part());
    format!("{day}/{month}/{year}:{time} +0000")
}

fn client(record: &Record<'_>) -> IpText {
    record.client.map_or(IpText::NONE, IpText::of)
}

/// Returns a field that the client sent, or an empty text.
fn sent<'a>(record: &Record<'a>, name: &str) -> Cow<'a, str> {
    String::from_utf8_lossy(record.fields.get(name).unwrap_or_default())
}

fn millis(time: Duration) -> f64 {
    (time.as_micros() as f64) / 1e3
}

/// Returns a text of a client without control characters, cut to so many bytes, fit to stand in quotes.
fn quoted(text: &str, max: usize) -> Cow<'_, str> {
    let needs = |char: char| char.is_control() || matches!(char, '"' | '\\');
    let text = cut(text, max);
    match text.contains(needs) {
        true => Cow::Owned(escape(text, needs)),
        false => Cow::Borrowed(text),
    }
}

fn or_dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}
