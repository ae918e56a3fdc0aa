//! The log lines of messages, in Teleport's form.
//!
//! ```text
//! CALL<- 127.0.0.1:40122 1.2ms /math/add "0" RECV({"size":32}) SEND({"size":20})
//! ```

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use log::Level;

use super::context::Incoming;
use super::session::{LogOptions, Session};
use super::wire::{Message, Meta, Status};

const TARGET: &str = "epicycle::rpc";

/// The number of bytes of a body that are logged.
const MAX_BODY: usize = 1024;

impl LogOptions {
    /// Returns true if a message may be logged. Otherwise nothing is kept for its log line.
    #[inline]
    pub(super) fn is_on(&self) -> bool {
        let least = match self.slow {
            Some(_) => Level::Warn,
            None => Level::Info,
        };
        log::max_level() >= least && log::log_enabled!(target: TARGET, least)
    }

    /// Logs a call that was answered here.
    pub(super) fn call_in(&self, call: &Incoming<'_>, reply: &Message<'_>, cost: Option<Duration>) {
        let of = self.of(address(call), &call.message, cost);
        let (recv, send) = (self.show(&call.message), self.show(reply));
        log::log!(target: TARGET, of.level, "CALL<- {of} RECV({recv}) SEND({send})");
    }

    /// Logs a push that has arrived.
    pub(super) fn push_in(&self, push: &Incoming<'_>, cost: Option<Duration>) {
        let of = self.of(address(push), &push.message, cost);
        let recv = self.show(&push.message);
        log::log!(target: TARGET, of.level, "PUSH<- {of} RECV({recv})");
    }

    /// Logs a call of this side that has ended. `end` is its reply, or the reason why there is none.
    pub(super) fn call_out(
        &self,
        session: &Session,
        call: &Message<'_>,
        end: Result<&Message<'_>, &Status>,
        cost: Duration,
    ) {
        let of = self.of(session.remote_addr().to_string(), call, Some(cost));
        let send = self.show(call);
        match end {
            Ok(reply) => {
                let recv = self.show(reply);
                log::log!(target: TARGET, of.level, "CALL-> {of} SEND({send}) RECV({recv})");
            }
            Err(status) => {
                log::log!(target: TARGET, of.level, "CALL-> {of} SEND({send}) FAILED({status})");
            }
        }
    }

    /// Logs a push that was sent.
    pub(super) fn push_out(&self, session: &Session, push: &Message<'_>) {
        let of = self.of(session.remote_addr().to_string(), push, None);
        let send = self.show(push);
        log::log!(target: TARGET, of.level, "PUSH-> {of} SEND({send})");
    }

    fn of<'a>(&self, addr: String, message: &'a Message<'a>, cost: Option<Duration>) -> Of<'a> {
        let cost = cost.filter(|_| self.counts_time);
        let is_slow = (cost.zip(self.slow)).is_some_and(|(cost, slow)| cost >= slow);
        Of {
            level: if is_slow { Level::Warn } else { Level::Info },
            addr,
            cost,
            is_slow,
            message,
        }
    }

    fn show<'a>(&'a self, message: &'a Message<'a>) -> Shown<'a> {
        Shown {
            message,
            options: self,
        }
    }
}

/// Returns the address of the other end, and that of the client for which it acts.
fn address(message: &Incoming<'_>) -> String {
    let addr = message.remote_addr();
    let own = addr.as_socket_addr().map(|addr| addr.ip());
    match message.real_ip() {
        Some(real) if Some(real) != own => format!("{addr}(real: {real})"),
        _ => addr.to_string(),
    }
}

/// The beginning of a line: address, cost, URI and `seq`.
struct Of<'a> {
    level: Level,
    addr: String,
    cost: Option<Duration>,
    is_slow: bool,
    message: &'a Message<'a>,
}

impl fmt::Display for Of<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.addr)?;
        match self.cost {
            Some(cost) => write!(f, "{cost:?}")?,
            None => f.write_str("-")?,
        }
        if self.is_slow {
            f.write_str("(slow)")?;
        }
        let (uri, seq) = (&self.message.uri, &self.message.seq);
        // Escaped, so that a peer cannot forge a line.
        write!(
            f,
            " {} {:?}",
            String::from_utf8_lossy(uri).escape_debug(),
            String::from_utf8_lossy(seq)
        )
    }
}

/// A message in a line.
struct Shown<'a> {
    message: &'a Message<'a>,
    options: &'a LogOptions,
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (message, meta) = (self.message, &self.message.meta);
        write!(f, "{{\"size\":{}", message.size)?;
        if let Some(error) = meta.get_str(Meta::REPLY_ERROR) {
            write!(f, ",\"error\":{error:?}")?;
        }
        if !self.options.details {
            return f.write_str("}");
        }
        if !meta.is_empty() {
            write!(f, ",\"meta\":{:?}", String::from_utf8_lossy(meta.encoded()))?;
        }
        let body = match &self.options.redact {
            Some(redact) => Cow::Owned(redact(message).into_bytes()),
            None => Cow::Borrowed(&*message.body),
        };
        if !body.is_empty() {
            let start = &body[..body.len().min(MAX_BODY)];
            write!(f, ",\"body\":{:?}", String::from_utf8_lossy(start))?;
        }
        f.write_str("}")
    }
}
