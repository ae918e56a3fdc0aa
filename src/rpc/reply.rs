//! The results of calls.

use std::time::Duration;

use super::wire::{BodyError, Codec, Codecs, DecodeBody, Dialect, Message, Meta, Status, code};

/// The reply to a call that succeeded, with all its parts. Take the body's type instead where only the body matters: both
/// are [`FromReply`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reply<R> {
    /// The decoded body.
    pub body: R,
    /// The metadata.
    pub meta: Meta<'static>,
    /// The codec in which the body arrived.
    pub codec: Codec,
    /// The time from sending the call to the arrival of the reply.
    pub cost: Duration,
}

/// A type that a call can return: each type that a body can be decoded into, and [`Reply`] of such a type.
#[diagnostic::on_unimplemented(
    message = "a reply cannot become `{Self}`",
    note = "name the type of the result: `let sum: i64 = session.call(..).wait()?;`"
)]
pub trait FromReply: Sized {
    /// Makes the value from a reply that is not a failure.
    ///
    /// # Errors
    ///
    /// Returns a [`BodyError`] if the body does not encode such a value. The call then fails with
    /// [`BAD_MESSAGE`](code::BAD_MESSAGE).
    fn from_reply(reply: &Message<'_>, cost: Duration, codecs: &Codecs) -> Result<Self, BodyError>;
}

impl<R: DecodeBody> FromReply for R {
    fn from_reply(reply: &Message<'_>, _: Duration, codecs: &Codecs) -> Result<Self, BodyError> {
        reply.unmarshal(codecs)
    }
}

impl<R: DecodeBody> FromReply for Reply<R> {
    fn from_reply(reply: &Message<'_>, cost: Duration, codecs: &Codecs) -> Result<Self, BodyError> {
        Ok(Self {
            body: reply.unmarshal(codecs)?,
            meta: reply.meta.clone().into_owned(),
            codec: reply.codec,
            cost,
        })
    }
}

/// Makes the result of a call from its reply.
pub(super) fn read<R: FromReply>(
    reply: &Message<'_>,
    cost: Duration,
    codecs: &Codecs,
) -> Result<R, Status> {
    match reply.status() {
        Some(status) => Err(status),
        None => R::from_reply(reply, cost, codecs)
            .map_err(|error| local(code::BAD_MESSAGE, format!("the reply: {error}"))),
    }
}

/// Returns a status that arises on this side.
pub(super) fn local(code: i32, reason: impl Into<std::borrow::Cow<'static, str>>) -> Status {
    Status::of(code, Dialect::default()).with_reason(reason)
}
