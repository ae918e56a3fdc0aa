//! Requests to the reactors of sessions.

use std::sync::Arc;
use std::time::Duration;

use super::SessionConn;
use crate::rpc::outgoing::{CallState, Outgoing};
use crate::rpc::stream::{Signal, Stream};
use crate::rpc::wire::Status;

/// A request to the reactor of a session.
pub(in crate::rpc) enum Order {
    Send(Outgoing),
    /// Send a message also if the session is not open.
    Write(Outgoing),
    /// End this call and tell the other side.
    Cancel(Arc<CallState>),
    /// End the connection at once, since the other side is gone. A session that redials goes on.
    Lose,
    /// Call the plugin with this name after this time.
    Timer(Box<str>, Duration),
    /// Count the session's age from now.
    Age,
    /// Close the session once its calls have ended, or after this time.
    Close(Duration),
    /// Close the session at once.
    Abort,
    /// Do something for a stream.
    Stream(Arc<Stream>, Signal),
    /// Show the connection.
    Show(Box<dyn FnOnce(&SessionConn<'_>) + Send>),
}

/// Returns the reason why an order is not carried out. A call that waits is told.
pub(super) fn refuse(order: Order, status: Status) -> Result<(), Status> {
    if let Order::Send(outgoing) | Order::Write(outgoing) = order {
        settle(outgoing, &status);
    }
    Err(status)
}

/// Tells whoever waits that a message is not sent.
pub(in crate::rpc) fn settle(outgoing: Outgoing, status: &Status) {
    if let Some(call) = outgoing.call {
        call.waiter.settle(Err(status.clone()));
    }
    if let Some(on_sent) = outgoing.on_sent {
        on_sent.tell(Err(status.clone()));
    }
}
