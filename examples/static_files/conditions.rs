//! The conditions of a request (RFC 9110, section 13). They decide if a file is sent, and if only a part of it is.

use std::time::{Duration, SystemTime};

use epicycle::http::ServerRequest;
use httpdate::parse_http_date;

/// The conditional headers of a request.
#[derive(Debug, Default)]
pub(crate) struct Conditions {
    if_match: Option<String>,
    if_unmodified_since: Option<String>,
    if_none_match: Option<String>,
    if_modified_since: Option<String>,
    if_range: Option<String>,
    range: Option<String>,
}

/// The validators of a file: they change when the file does.
#[derive(Clone, Debug)]
pub(crate) struct Validators {
    /// An entity tag, with its quotes.
    pub(crate) etag: String,
    pub(crate) modified: Option<SystemTime>,
}

/// The result of the conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Send,
    /// The client has the current file already.
    NotModified,
    /// The file is not in the state that the client wants.
    Failed,
}

impl Conditions {
    pub(crate) fn of(request: &ServerRequest<'_>) -> Self {
        // Several lines with one name are one list.
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
            // Ranges apply only to GET (section 14.2).
            range: header("range").filter(|_| request.method() == "GET"),
        }
    }

    /// Evaluates the conditions in the order of section 13.2.2. A malformed date is ignored.
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

    /// Returns the requested range, unless it is for another state of the file (section 13.1.5).
    pub(crate) fn range(&self, file: &Validators) -> Option<&str> {
        let applies = match &self.if_range {
            None => true,
            Some(tag) if tag.contains('"') => file.matches(tag, Comparison::Strong),
            Some(date) => !file.is_weak() && file.is_of(date),
        };
        self.range.as_deref().filter(|_| applies)
    }
}

/// The comparison of entity tags (section 8.8.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    /// Equal tags mean equal bytes.
    Strong,
    /// Equal tags mean equivalent contents.
    Weak,
}

impl Validators {
    /// Makes the validators of a file from its metadata.
    pub(crate) fn new(inode: u64, len: u64, modified: Option<SystemTime>) -> Self {
        let since = modified.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
        let nanos = since.unwrap_or_default().as_nanos();
        // A file may change twice within one tick of its file system's clock, so the tag of a recent change is weak.
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

    /// Returns true if the file's tag is in a list of tags. `*` matches every tag.
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

    /// Returns true if the file has not changed since a date, to the second. Returns `None` for a malformed date.
    fn is_unchanged_since(&self, date: &str) -> Option<bool> {
        let date = parse_http_date(date).ok()?;
        Some(self.modified? < date + Duration::from_secs(1))
    }

    /// Returns true if the date is that of the file's last change.
    fn is_of(&self, date: &str) -> bool {
        self.modified.map(httpdate::fmt_http_date).as_deref() == Some(date)
    }
}

/// Returns the tags of a list, each with its quotes and its `W/`, up to the first malformed one.
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
