//! The log lines of messages, in Teleport's form.
//!
//! ```text
//! CALL<- 127.0.0.1:40122 1.2ms /math/add "0" RECV({"size":32}) SEND({"size":20})
//! ```

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use log::Level;

use super::wire::{Kind, Message, Meta, Status};
use crate::panic;

const TARGET: &str = "epicycle::rpc";

/// The number of bytes of a body that are logged.
const MAX_BODY: usize = 1024;

/// The metadata whose values are not logged: those of HTTP that are secrets.
const SECRETS: [&str; 4] = [
    "authorization",
    "proxy-authorization",
    "cookie",
    "set-cookie",
];

const HIDDEN: &str = "***";

/// The options of the log lines of messages.
#[derive(Clone, Default)]
pub(super) struct LogOptions {
    /// True if the time that each call takes is measured.
    pub(super) counts_time: bool,
    /// The time from which on a call is slow.
    pub(super) slow: Option<Duration>,
    /// True if metadata and bodies are logged.
    pub(super) details: bool,
    pub(super) redact: Option<Redact>,
}

pub(super) type Redact = Arc<dyn Fn(&mut Logged<'_>) + Send + Sync>;

/// The contents of a message in a log line, before it is written: see [`PeerBuilder::redact`](super::PeerBuilder::redact).
#[derive(Debug)]
#[non_exhaustive]
pub struct Logged<'a> {
    /// The kind of the message.
    pub kind: Kind,
    /// The decoded path of the CALL or PUSH. For a REPLY, that of its CALL.
    pub path: &'a str,
    /// The query of the URI. Empty for a REPLY.
    pub query: String,
    /// The metadata, as it is on the wire. Empty unless details are logged. The values of `Authorization`,
    /// `Proxy-Authorization`, `Cookie` and `Set-Cookie` are not in it.
    pub meta: String,
    /// The first 1,024 bytes of the body. Empty unless details are logged.
    pub body: String,
}

/// The beginning of a line: the address of the other end, and the time that the call took.
pub(super) struct Of {
    pub(super) addr: String,
    pub(super) cost: Option<Duration>,
}

impl LogOptions {
    /// Returns true if a message may be logged. Otherwise nothing is kept for its log line.
    #[inline]
    pub(super) fn is_on(&self) -> bool {
        self.may_be_on() && log::log_enabled!(target: TARGET, self.least())
    }

    /// Returns false if no message is logged whatever the log's own filter says.
    #[inline]
    pub(super) fn may_be_on(&self) -> bool {
        log::max_level() >= self.least()
    }

    /// Returns the lowest level of a message's line.
    #[inline]
    fn least(&self) -> Level {
        match self.slow {
            Some(_) => Level::Warn,
            None => Level::Info,
        }
    }

    /// Logs a call that was answered here.
    pub(super) fn call_in(&self, of: Of, call: &Message<'_>, reply: &Message<'_>) {
        let line = Line::new(self, of, call);
        line.log("CALL<-", &[("RECV", call), ("SEND", reply)], None);
    }

    /// Logs a push that has arrived.
    pub(super) fn push_in(&self, of: Of, push: &Message<'_>) {
        Line::new(self, of, push).log("PUSH<-", &[("RECV", push)], None);
    }

    /// Logs a call of this side that has ended. `end` is its reply, or the reason why there is none.
    pub(super) fn call_out(&self, of: Of, call: &Message<'_>, end: Result<&Message<'_>, &Status>) {
        let line = Line::new(self, of, call);
        match end {
            Ok(reply) => line.log("CALL->", &[("SEND", call), ("RECV", reply)], None),
            Err(status) => line.log("CALL->", &[("SEND", call)], Some(status)),
        }
    }

    /// Logs a push that was sent.
    pub(super) fn push_out(&self, of: Of, push: &Message<'_>) {
        Line::new(self, of, push).log("PUSH->", &[("SEND", push)], None);
    }
}

/// A line about a CALL and its REPLY, or about a PUSH.
struct Line<'a> {
    options: &'a LogOptions,
    of: Of,
    /// The URI without its query.
    uri: String,
    query: String,
    /// The decoded path.
    path: String,
    seq: String,
}

impl<'a> Line<'a> {
    fn new(options: &'a LogOptions, of: Of, message: &Message<'_>) -> Self {
        let uri = text(&message.uri);
        let (front, query) = uri.split_once('?').unwrap_or((&uri, ""));
        let path = message.parse_uri().map(|uri| uri.path().to_owned());
        Self {
            options,
            of,
            path: path.unwrap_or_else(|_| front.to_owned()),
            uri: front.to_owned(),
            query: query.to_owned(),
            seq: text(&message.seq),
        }
    }

    fn log(&self, what: &str, messages: &[(&str, &Message<'_>)], failure: Option<&Status>) {
        let mut query = String::new();
        let mut parts = String::new();
        for (did, message) in messages {
            let logged = self.logged(message);
            let status = message.meta.get_str(Meta::REPLY_ERROR);
            parts += &format!(" {did}({{\"size\":{}", message.size);
            let fields = [
                ("error", status.as_deref().unwrap_or_default()),
                ("meta", &logged.meta),
                ("body", &logged.body),
            ];
            for (name, value) in fields.iter().filter(|(_, value)| !value.is_empty()) {
                parts += &format!(",\"{name}\":{value:?}");
            }
            parts += "})";
            query += &logged.query;
        }
        if let Some(status) = failure {
            parts += &format!(" FAILED({status})");
        }
        if !query.is_empty() {
            query.insert(0, '?');
        }
        let cost = self.of.cost.filter(|_| self.options.counts_time);
        let is_slow = (cost.zip(self.options.slow)).is_some_and(|(cost, slow)| cost >= slow);
        let level = if is_slow { Level::Warn } else { Level::Info };
        let cost = cost.map_or("-".to_owned(), |cost| format!("{cost:?}"));
        let slow = if is_slow { "(slow)" } else { "" };
        // Escaped, so that a peer cannot forge a line.
        let (uri, query) = (self.uri.escape_debug(), query.escape_debug());
        let (addr, seq) = (&self.of.addr, &self.seq);
        log::log!(target: TARGET, level, "{what} {addr} {cost}{slow} {uri}{query} {seq:?}{parts}");
    }

    /// Returns what is told of one of the line's messages.
    fn logged(&self, message: &Message<'_>) -> Logged<'_> {
        let mut logged = Logged {
            kind: message.kind,
            path: &self.path,
            query: String::new(),
            meta: String::new(),
            body: String::new(),
        };
        if message.kind != Kind::Reply {
            logged.query.clone_from(&self.query);
        }
        if self.options.details {
            logged.meta = text(without_secrets(&message.meta).encoded());
            logged.body = text(&message.body[..message.body.len().min(MAX_BODY)]);
        }
        if let Some(redact) = &self.options.redact
            && panic::catch(TARGET, "the redaction of a log line", || {
                redact(&mut logged);
            })
        {
            // It may not have come to the secret.
            for text in [&mut logged.query, &mut logged.meta, &mut logged.body] {
                HIDDEN.clone_into(text);
            }
        }
        logged
    }
}

fn without_secrets<'a>(meta: &'a Meta<'_>) -> Meta<'a> {
    let is_secret = |key: &[u8]| {
        SECRETS
            .iter()
            .any(|secret| key.eq_ignore_ascii_case(secret.as_bytes()))
    };
    if !meta.iter().any(|(key, _)| is_secret(&key)) {
        return Meta::from_encoded(meta.encoded());
    }
    let mut shown = Meta::default();
    for (key, value) in meta.iter() {
        shown.add(
            &key,
            if is_secret(&key) {
                HIDDEN.as_bytes()
            } else {
                &value
            },
        );
    }
    shown
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl fmt::Debug for LogOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogOptions")
            .field("counts_time", &self.counts_time)
            .field("slow", &self.slow)
            .field("details", &self.details)
            .finish_non_exhaustive()
    }
}
