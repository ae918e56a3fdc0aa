//! One call of a client, from when it is made to its only result. It has no lock and no clock.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::balance::{Admission, InFlight, NodeId, Outcome};
use crate::engine::connect::{Backoff, Reconnect};
use crate::rpc::outgoing::{CallState, Waiter};
use crate::rpc::session::Session;
use crate::rpc::wire::{Message, Meta, Status, code};

/// A call, or a push that waits for a session.
pub(super) struct Flight {
    pub(super) request: Request,
    /// None for a push.
    pub(super) waiter: Option<Waiter>,
    /// The moment at which it was made.
    pub(super) made: Instant,
    /// The attempts that are under way.
    pub(super) attempts: Vec<Attempt>,
    /// The number of attempts that have begun.
    pub(super) begun: u32,
    /// The nodes that were tried.
    pub(super) tried: Vec<NodeId>,
    /// False once a call with a key takes any address.
    pub(super) is_patient: bool,
    /// True while it waits for a session.
    pub(super) is_waiting: bool,
    /// The moment at which its wait for a session ends.
    pub(super) waits_until: Option<Instant>,
    pub(super) retry_at: Option<Instant>,
    pub(super) hedge_at: Option<Instant>,
    /// The reason for the last retry.
    pub(super) last: Option<Status>,
    backoff: Backoff,
}

/// The message, and how it may be sent.
pub(super) struct Request {
    pub(super) message: Message<'static>,
    pub(super) has_own_seq: bool,
    pub(super) key: Option<u64>,
    pub(super) is_idempotent: bool,
    /// The time after which it is sent to a second address as well.
    pub(super) hedge: Option<Duration>,
    /// The moment by which the call must end.
    pub(super) deadline: Option<Instant>,
}

/// One sending of a call.
pub(super) struct Attempt {
    pub(super) number: u64,
    pub(super) node: NodeId,
    pub(super) session: Session,
    pub(super) state: Arc<CallState>,
    pub(super) admission: Option<Admission>,
    /// Counts the call as in flight at its node.
    pub(super) in_flight: InFlight,
}

/// The use of the end of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// It is the result of the call.
    Result,
    /// The other side has not begun the call because it was not sent.
    Unsent,
    /// The call may be sent again, within the budget.
    Retry,
}

impl Flight {
    pub(super) fn new(request: Request, waiter: Option<Waiter>, made: Instant) -> Self {
        Self {
            is_patient: request.key.is_some(),
            request,
            waiter,
            made,
            attempts: Vec::new(),
            begun: 0,
            tried: Vec::new(),
            is_waiting: false,
            waits_until: None,
            retry_at: None,
            hedge_at: None,
            last: None,
            backoff: Backoff::default(),
        }
    }

    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.request.deadline.is_some_and(|by| by <= now)
    }

    /// Returns the moment of the next attempt, unless it would be too late.
    pub(super) fn next_retry(
        &mut self,
        next: Next,
        policy: &Reconnect,
        now: Instant,
    ) -> Option<Instant> {
        let delay = match next {
            Next::Unsent => Duration::ZERO,
            _ => self.backoff.after_failure(policy),
        };
        let at = now.checked_add(delay)?;
        self.request.deadline.is_none_or(|by| at < by).then_some(at)
    }
}

/// Whoever has ended an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ender {
    /// This side.
    Local,
    /// The handler of the other side.
    Handler,
    /// The other side, without running the handler.
    Refusal,
    /// The same, because the session takes no more calls.
    ClosingSession,
}

impl Ender {
    /// Returns the one who has sent a reply with this metadata.
    pub(super) fn of_reply(meta: &Meta<'_>) -> Self {
        match meta.get(Meta::REFUSED).as_deref() {
            None => Ender::Handler,
            Some(b"closing") => Ender::ClosingSession,
            Some(_) => Ender::Refusal,
        }
    }
}

/// Judges the end of an attempt: the outcome for its address, and its use for the call. `was_sent` is true if the call has
/// reached the connection.
pub(super) fn judge(
    status: Option<&Status>,
    ender: Ender,
    was_sent: bool,
    is_idempotent: bool,
) -> (Outcome, Next) {
    let Some(status) = status else {
        return (Outcome::Success, Next::Result);
    };
    let answered = ender != Ender::Local;
    match status.code {
        // It is no fault of the address, which may have other sessions.
        code::SERVICE_UNAVAILABLE if ender == Ender::ClosingSession => {
            (Outcome::Abandoned, Next::Unsent)
        }
        code::SERVICE_UNAVAILABLE if answered => {
            // A handler may have done something before.
            let may_run_again = is_idempotent || ender == Ender::Refusal;
            match may_run_again {
                true => (Outcome::Failure, Next::Retry),
                false => (Outcome::Failure, Next::Result),
            }
        }
        // A limit is no fault of the address.
        code::TOO_MANY_REQUESTS => (Outcome::Abandoned, Next::Result),
        // Its time was over on this side.
        code::HANDLE_TIMEOUT if !answered && !was_sent => (Outcome::Abandoned, Next::Result),
        code::HANDLE_TIMEOUT => (Outcome::Failure, Next::Result),
        code::INTERNAL_SERVER_ERROR | code::BAD_GATEWAY if answered => {
            (Outcome::Failure, Next::Result)
        }
        _ if answered => (Outcome::Success, Next::Result),
        code::CONNECTION_CLOSED | code::WRITE_FAILED if !was_sent => {
            (Outcome::Abandoned, Next::Unsent)
        }
        code::CONNECTION_CLOSED if is_idempotent => (Outcome::Failure, Next::Retry),
        code::CONNECTION_CLOSED => (Outcome::Failure, Next::Result),
        _ => (Outcome::Abandoned, Next::Result),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_runs_again_only_if_it_may_and_an_address_is_blamed_only_for_its_own_faults() {
        use Ender::{ClosingSession, Handler, Local, Refusal};
        use Outcome::{Abandoned, Failure, Success};
        type Case = (i32, Ender, bool, bool, (Outcome, Next));
        let (yes, no) = (true, false);
        #[rustfmt::skip]
        let cases: [Case; 15] = [
            // The one who ended it, then true if it was sent, and true if it is idempotent.
            (code::SERVICE_UNAVAILABLE, Handler, yes, no, (Failure, Next::Result)),
            (code::SERVICE_UNAVAILABLE, Handler, yes, yes, (Failure, Next::Retry)),
            (code::SERVICE_UNAVAILABLE, Refusal, yes, no, (Failure, Next::Retry)),
            (code::SERVICE_UNAVAILABLE, ClosingSession, yes, no, (Abandoned, Next::Unsent)),
            (code::SERVICE_UNAVAILABLE, Local, no, yes, (Abandoned, Next::Result)),
            (code::HANDLE_TIMEOUT, Local, yes, yes, (Failure, Next::Result)),
            (code::HANDLE_TIMEOUT, Local, no, yes, (Abandoned, Next::Result)),
            (code::HANDLE_TIMEOUT, Handler, yes, yes, (Failure, Next::Result)),
            (code::CONNECTION_CLOSED, Local, yes, no, (Failure, Next::Result)),
            (code::CONNECTION_CLOSED, Local, yes, yes, (Failure, Next::Retry)),
            (code::CONNECTION_CLOSED, Local, no, no, (Abandoned, Next::Unsent)),
            (code::CONNECTION_CLOSED, Handler, yes, yes, (Success, Next::Result)),
            (code::TOO_MANY_REQUESTS, Handler, yes, yes, (Abandoned, Next::Result)),
            (code::INTERNAL_SERVER_ERROR, Handler, yes, yes, (Failure, Next::Result)),
            (code::CANCELLED, Local, yes, yes, (Abandoned, Next::Result)),
        ];
        for (code, ender, was_sent, is_idempotent, expected) in cases {
            let status = Status::new(code, "");
            let judged = judge(Some(&status), ender, was_sent, is_idempotent);
            assert_eq!(
                judged, expected,
                "{code} {ender:?} {was_sent} {is_idempotent}"
            );
        }
        assert_eq!(judge(None, Handler, yes, no), (Success, Next::Result));
    }
}
