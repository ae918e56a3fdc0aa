//! The conditions of a request (RFC 9110, section 13): whether a file is sent at all, and whether a part of it.

use std::time::{Duration, SystemTime};

use epicycle::http::Request;
use httpdate::parse_http_date;

/// What the headers of a request say about the file it is for.
#[derive(Debug, Default)]
pub(crate) struct Conditions {
    if_match: Option<String>,
    if_unmodified_since: Option<String>,
    if_none_match: Option<String>,
    if_modified_since: Option<String>,
    if_range: Option<String>,
    range: Option<String>,
}

/// By what a client knows one state of a file from another.
#[derive(Clone, Debug)]
pub(crate) struct Validators {
    /// An entity tag, with its quotes.
    pub(crate) etag: String,
    pub(crate) modified: Option<SystemTime>,
}

/// What the conditions come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Send,
    /// The client has it already.
    NotModified,
    /// It is another one than the client wants.
    Failed,
}

impl Conditions {
    pub(crate) fn of(request: &Request<'_>) -> Self {
        // Several lines of a name are one list.
        let header = |name| {
            let lines = request.headers().get_all(name);
            let lines: Vec<_> = lines.map(String::from_utf8_lossy).collect();
            (!lines.is_empty()).then(|| lines.join(", "))
        };
        Self {
            if_match: header("if-match"),
            if_unmodified_since: header("if-unmodified-since"),
            if_none_match: header("if-none-match"),
            if_modified_since: header("if-modified-since"),
            if_range: header("if-range"),
            // Ranges are for GET (section 14.2).
            range: header("range").filter(|_| request.method() == "GET"),
        }
    }

    /// Goes through them in the order of section 13.2.2. A date that is none counts for nothing.
    pub(crate) fn judge(&self, file: &Validators) -> Verdict {
        let wanted = match (&self.if_match, &self.if_unmodified_since) {
            (Some(tags), _) => file.matches(tags, Comparison::Strong),
            (None, Some(date)) => file.is_unchanged_since(date).unwrap_or(true),
            (None, None) => true,
        };
        if !wanted {
            return Verdict::Failed;
        }
        let known = match (&self.if_none_match, &self.if_modified_since) {
            (Some(tags), _) => file.matches(tags, Comparison::Weak),
            (None, Some(date)) => file.is_unchanged_since(date).unwrap_or(false),
            (None, None) => false,
        };
        if known {
            Verdict::NotModified
        } else {
            Verdict::Send
        }
    }

    /// The part that is asked for, unless that is of another state of the file (section 13.1.5).
    pub(crate) fn range(&self, file: &Validators) -> Option<&str> {
        let applies = match &self.if_range {
            None => true,
            Some(tag) if tag.contains('"') => file.matches(tag, Comparison::Strong),
            Some(date) => !file.is_weak() && file.is_of(date),
        };
        self.range.as_deref().filter(|_| applies)
    }
}

/// How entity tags are compared (section 8.8.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    /// They stand for the same bytes.
    Strong,
    /// They stand for what may be taken for the same.
    Weak,
}

impl Validators {
    /// Makes the tag of a file that was `modified` then, of what else its state shows in.
    pub(crate) fn new(inode: u64, len: u64, modified: Option<SystemTime>) -> Self {
        let since = modified.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
        let nanos = since.unwrap_or_default().as_nanos();
        // A file may change twice within a tick of its file system's clock.
        let is_recent = modified.is_none_or(|time| {
            let age = SystemTime::now().duration_since(time);
            age.unwrap_or_default() < Duration::from_secs(1)
        });
        let weak = if is_recent { "W/" } else { "" };
        Self {
            etag: format!("{weak}\"{inode:x}-{len:x}-{nanos:x}\""),
            modified,
        }
    }

    fn is_weak(&self) -> bool {
        self.etag.starts_with("W/")
    }

    /// Whether the tag is among these. `*` stands for any.
    fn matches(&self, tags: &str, comparison: Comparison) -> bool {
        if tags.trim() == "*" {
            return true;
        }
        let opaque = |tag: &str| tag.strip_prefix("W/").unwrap_or(tag).to_owned();
        entity_tags(tags).into_iter().any(|tag| match comparison {
            Comparison::Strong => !self.is_weak() && tag == self.etag,
            Comparison::Weak => opaque(tag) == opaque(&self.etag),
        })
    }

    /// Whether it has not changed since a date, to the second. `None` if that is no date.
    fn is_unchanged_since(&self, date: &str) -> Option<bool> {
        let date = parse_http_date(date).ok()?;
        Some(self.modified? < date + Duration::from_secs(1))
    }

    /// Whether it was last changed at that date.
    fn is_of(&self, date: &str) -> bool {
        self.modified.map(httpdate::fmt_http_date).as_deref() == Some(date)
    }
}

/// The tags of a list, each with its quotes and the `W/` before it, up to the first that is malformed.
fn entity_tags(list: &str) -> Vec<&str> {
    let mut tags = Vec::new();
    let mut rest = list;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let quoted = rest.strip_prefix("W/").unwrap_or(rest);
        let Some(end) = quoted.strip_prefix('"').and_then(|inner| inner.find('"')) else {
            return tags;
        };
        let len = rest.len() - quoted.len() + end + 2;
        tags.push(&rest[..len]);
        rest = &rest[len..];
    }
}
