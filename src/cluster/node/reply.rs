//! The answers of gates to what a node asks.

use crate::cluster::Error;
use crate::cluster::drpc::{Answer, Code, Value};

/// An answer that outlives its frame.
pub(super) enum Reply {
    /// It was carried out, and that is all.
    Done,
    Total(u64),
    Online(bool),
    Addr(String),
    Token(String),
}

/// Returns what the gate `peer` has answered.
///
/// # Errors
///
/// [`Error::NotFoundSession`] if the gate does not have the target, and [`Error::Refused`] if it failed in another way.
pub(super) fn reply_of(peer: &str, answer: Result<Answer<'_>, Error>) -> Result<Reply, Error> {
    let answer = answer?;
    match answer.code {
        Code::Done => {}
        Code::NotFound => {
            let (kind, target) = ("such client", 0);
            return Err(Error::NotFoundSession { kind, target });
        }
        code => {
            let reason = format!("{peer} answered with code {}", code.code());
            return Err(Error::Refused { reason });
        }
    }
    Ok(match answer.value {
        Value::Total(total) => Reply::Total(total),
        Value::Online(online) => Reply::Online(online),
        Value::Addr(addr) => Reply::Addr(addr.to_owned()),
        Value::Token(token) => Reply::Token(token.to_owned()),
        Value::Ip(ip) => Reply::Addr(ip.map(|ip| ip.to_string()).unwrap_or_default()),
        _ => Reply::Done,
    })
}
