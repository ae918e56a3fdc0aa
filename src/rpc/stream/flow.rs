//! The rules of a stream: credit in both directions, and its ends. No socket, no clock.

use crate::rpc::reply::local;
use crate::rpc::wire::{Status, code};

/// The most items that one side may allow the other to send, at any time.
pub(in crate::rpc) const MAX_CREDIT: u32 = 1 << 20;

/// The side of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::rpc) enum Role {
    /// It has sent the CALL.
    Opener,
    /// It has answered it.
    Acceptor,
}

impl Role {
    /// Returns the side that a value of the metadata names.
    pub(in crate::rpc) fn from_name(name: &[u8]) -> Option<Self> {
        match name {
            b"opener" => Some(Role::Opener),
            b"acceptor" => Some(Role::Acceptor),
            _ => None,
        }
    }

    pub(in crate::rpc) fn name(self) -> &'static str {
        match self {
            Role::Opener => "opener",
            Role::Acceptor => "acceptor",
        }
    }
}

/// One side's view of a stream.
///
/// The opener's end ends its own items. The acceptor's end, a cancellation, and the end of the session end the stream.
#[derive(Debug)]
pub(super) struct Flow {
    role: Role,
    /// The number of items that this side may send.
    credit: u32,
    /// The number of items that the other side may send.
    granted: u32,
    /// The number of items that were consumed since the last grant.
    consumed: u32,
    /// The number of items that may be under way or wait to be consumed.
    window: u32,
    outgoing: Outgoing,
    /// The result of the other side's items, once it has ended them.
    incoming: Option<Result<(), Status>>,
    is_over: bool,
}

/// The state of the items that this side sends.
#[derive(Debug)]
enum Outgoing {
    Open,
    /// This side has ended them.
    Ended,
    /// The stream is over, for this reason.
    Stopped(Status),
}

/// The reason why an item cannot be sent.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::rpc) enum Unsendable {
    NoCredit,
    Ended(Status),
}

/// A fault of the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::rpc) enum Violation {
    /// An item without credit.
    NoCredit,
    /// An item or an end behind the end.
    AfterEnd,
    /// More credit than there may be, or none.
    Credit,
}

impl Violation {
    /// Returns the status with which the stream ends.
    pub(in crate::rpc) fn status(self) -> Status {
        let reason = match self {
            Violation::NoCredit => "an item of a stream for which no credit was granted",
            Violation::AfterEnd => "an item of a stream behind its end",
            Violation::Credit => {
                "a grant of credit that is no number from 1 to 1048576, or exceeds that with earlier ones"
            }
        };
        local(code::BAD_MESSAGE, reason)
    }
}

impl Flow {
    /// `window` is the first grant of this side. 0 means that it takes no items.
    pub(super) fn new(role: Role, window: u32) -> Self {
        Self {
            role,
            credit: 0,
            granted: window,
            consumed: 0,
            window,
            outgoing: Outgoing::Open,
            incoming: None,
            is_over: false,
        }
    }

    pub(super) fn credit(&self) -> u32 {
        match self.outgoing {
            Outgoing::Open => self.credit,
            _ => 0,
        }
    }

    /// Returns true if nothing more is sent or taken.
    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }

    /// Returns the result of the other side's items, once it is known.
    pub(super) fn incoming(&self) -> Option<&Result<(), Status>> {
        self.incoming.as_ref()
    }

    /// Returns the reason why this side can send no more items, if it did not end them itself.
    pub(super) fn stopped(&self) -> Option<&Status> {
        match &self.outgoing {
            Outgoing::Stopped(status) => Some(status),
            _ => None,
        }
    }

    /// Returns the reason why this side can send no more items.
    pub(super) fn closed(&self) -> Option<Status> {
        match &self.outgoing {
            Outgoing::Open => None,
            Outgoing::Ended => Some(local(code::CANCELLED, "this side has ended its items")),
            Outgoing::Stopped(status) => Some(status.clone()),
        }
    }

    /// Adds a grant of the other side.
    pub(super) fn on_credit(&mut self, items: u32) -> Result<(), Violation> {
        if self.is_over {
            return Ok(());
        }
        let sum = self.credit.checked_add(items);
        let sum = sum.filter(|sum| *sum <= MAX_CREDIT && items > 0);
        self.credit = sum.ok_or(Violation::Credit)?;
        Ok(())
    }

    /// Spends credit for one item.
    pub(super) fn send(&mut self) -> Result<(), Unsendable> {
        if let Some(status) = self.closed() {
            return Err(Unsendable::Ended(status));
        }
        self.credit = self.credit.checked_sub(1).ok_or(Unsendable::NoCredit)?;
        Ok(())
    }

    /// Returns the credit of an item that was not sent after all.
    pub(super) fn take_back(&mut self) {
        self.credit += 1;
    }

    /// Ends the items of this side. Returns false if they have ended already.
    pub(super) fn end(&mut self) -> bool {
        if !matches!(self.outgoing, Outgoing::Open) {
            return false;
        }
        self.outgoing = Outgoing::Ended;
        if self.role == Role::Acceptor {
            self.is_over = true;
            self.incoming.get_or_insert_with(|| {
                let reason = "this side has ended the stream";
                Err(local(code::CANCELLED, reason))
            });
        }
        true
    }

    /// Takes an item of the other side. Returns false if it has crossed the end of the stream, and is dropped.
    pub(super) fn on_item(&mut self) -> Result<bool, Violation> {
        if self.is_over {
            return Ok(false);
        }
        if self.incoming.is_some() {
            return Err(Violation::AfterEnd);
        }
        self.granted = self.granted.checked_sub(1).ok_or(Violation::NoCredit)?;
        Ok(true)
    }

    /// Records that an item was consumed. Returns the number of items to grant, if it is time for a grant.
    pub(super) fn consume(&mut self) -> Option<u32> {
        self.consumed += 1;
        let is_due = self.consumed >= self.window.div_ceil(2);
        if !is_due || self.is_over || self.incoming.is_some() {
            return None;
        }
        let items = std::mem::take(&mut self.consumed);
        self.granted += items;
        Some(items)
    }

    /// Takes the end of the other side's items.
    pub(super) fn on_end(&mut self, result: Result<(), Status>) -> Result<(), Violation> {
        if self.is_over {
            return Ok(());
        }
        if self.incoming.is_some() {
            return Err(Violation::AfterEnd);
        }
        if self.role == Role::Opener {
            self.is_over = true;
            if matches!(self.outgoing, Outgoing::Open) {
                let status = result.clone().err().unwrap_or_else(|| {
                    local(code::CANCELLED, "the other side has ended the stream")
                });
                self.outgoing = Outgoing::Stopped(status);
            }
        }
        self.incoming = Some(result);
        Ok(())
    }

    /// Ends the stream: it was cancelled, has failed, or the session has ended. Returns false if it was over.
    pub(super) fn stop(&mut self, status: Status) -> bool {
        if self.is_over {
            return false;
        }
        self.is_over = true;
        if matches!(self.outgoing, Outgoing::Open) {
            self.outgoing = Outgoing::Stopped(status.clone());
        }
        self.incoming.get_or_insert(Err(status));
        true
    }
}
