//! Messages and orders on their way from a session to its reactor.

use std::sync::Arc;

use super::order::{Order, refuse};
use super::place::{Address, MAX_HELD_PUSHES, Place};
use super::thread::is_loop_of;
use super::work::{Work, give};
use super::{Health, Session};
use crate::engine::handler::HandleError;
use crate::rpc::outgoing::{CallState, Outgoing, OutgoingCall, WhenFull};
use crate::rpc::reply::local;
use crate::rpc::stream::{Link, Signal, Stream};
use crate::rpc::wire::{Kind, Message, Status, code};

impl Session {
    /// Sends a message as it is. A CALL or a PUSH with an empty `seq` gets the session's next number. Nobody waits for the reply
    /// to a CALL; a plugin may [await](crate::rpc::Next::Await) it. For messages that make up a protocol of their own, such as those
    /// before a session opens. If the session redials, it goes to the connection that is being made, and is dropped if there is
    /// none yet.
    ///
    /// # Errors
    ///
    /// [`CONNECTION_CLOSED`](code::CONNECTION_CLOSED) if the session has ended, and [`WRITE_FAILED`](code::WRITE_FAILED) if the
    /// mailbox of its reactor is full.
    pub fn write(&self, message: Message<'static>) -> Result<(), Status> {
        let has_own_seq = message.kind == Kind::Reply || !message.seq.is_empty();
        self.order(Order::Write(Outgoing {
            message,
            has_own_seq,
            call: None,
            when_full: WhenFull::Send,
            on_sent: None,
        }))
    }

    /// Sends a message. A CALL's waiter is told if that fails.
    pub(in crate::rpc) fn send(&self, mut outgoing: Outgoing) -> Result<(), Status> {
        match self.health() {
            Health::Open => {}
            Health::Redialling if outgoing.call.is_none() && !self.has_room_for_push() => {
                let reason = "too many pushes wait for a connection";
                return refuse(Order::Send(outgoing), local(code::WRITE_FAILED, reason));
            }
            Health::Redialling if outgoing.call.as_ref().is_some_and(|call| call.fails_fast) => {
                let status = local(code::CONNECTION_CLOSED, OutgoingCall::REDIALS);
                return refuse(Order::Send(outgoing), status);
            }
            Health::Redialling => {}
            Health::Closing | Health::Closed => {
                let reason = match self.is_replaced() {
                    true => "another session has taken the identifier of this one",
                    false => "",
                };
                return refuse(
                    Order::Send(outgoing),
                    local(code::CONNECTION_CLOSED, reason),
                );
            }
        }
        if self.only_answers() {
            let reason = "a session over HTTP only answers; it takes no calls and no pushes";
            return refuse(Order::Send(outgoing), local(code::WRITE_FAILED, reason));
        }
        if let Err(status) = self.before_write(&mut outgoing.message) {
            return refuse(Order::Send(outgoing), status);
        }
        // A plugin may have set it.
        outgoing.has_own_seq |= !outgoing.message.seq.is_empty();
        self.order(Order::Send(outgoing))
    }

    /// Lets the plugins see a CALL or a PUSH that is to be sent.
    pub(in crate::rpc) fn before_write(
        &self,
        message: &mut Message<'static>,
    ) -> Result<(), Status> {
        match &self.0.peer.before_write {
            Some(plugins) => plugins.before_write(self, message),
            None => Ok(()),
        }
    }

    pub(in crate::rpc) fn cancel(&self, call: Arc<CallState>) {
        let is_first = call.set_cancelled();
        self.order_end(Order::Cancel(call), is_first);
    }

    /// Gives an order to end something. The first such order is carried out also if the reactor's mailbox is full: a session that
    /// is to close would otherwise stay open, and nobody would know. There is one for each thing, so they are bounded.
    pub(super) fn order_end(&self, order: Order, is_first: bool) {
        // If the reactor is gone, so is what the order is to end.
        let _ = self.order_by(order, is_first);
    }

    /// Returns the session's reactor, and where orders for it go there. Returns `None` if it has ended.
    pub(in crate::rpc) fn address(&self) -> Option<(usize, Address)> {
        match &self.0.end_point.lock().place {
            Place::Conn(conn) => Some((conn.reactor(), Address::Conn(*conn))),
            Place::Home(home) => Some((home.reactor, Address::Home(home.token))),
            Place::Nowhere => None,
        }
    }

    fn has_room_for_push(&self) -> bool {
        match &self.0.end_point.lock().place {
            Place::Home(home) => home.held_pushes() < MAX_HELD_PUSHES,
            _ => true,
        }
    }

    pub(super) fn order(&self, order: Order) -> Result<(), Status> {
        self.order_by(order, false)
    }

    /// Gives an order. With `anyway` it needs no room in the reactor's mailbox.
    fn order_by(&self, order: Order, anyway: bool) -> Result<(), Status> {
        let closed = || local(code::CONNECTION_CLOSED, "");
        let place = self.0.end_point.lock().place.clone();
        let Some(target) = self.0.peer.target.get() else {
            return refuse(order, closed());
        };
        let (reactor, address) = match &place {
            Place::Conn(conn) => (conn.reactor(), Address::Conn(*conn)),
            Place::Home(home) => (home.reactor, Address::Home(home.token)),
            Place::Nowhere => return refuse(order, closed()),
        };
        if is_loop_of(&self.0.peer, reactor) {
            give(Work::Order(address.of_plugin(), order));
            return Ok(());
        }
        let given = match &place {
            Place::Conn(conn) => target.order(*conn, order),
            Place::Home(home) => target.order_home(home, order),
            Place::Nowhere => Err((HandleError::Closed, Box::new(order))),
        };
        given.or_else(|(error, order)| {
            let status = match error {
                HandleError::MailboxFull if anyway => {
                    target.order_anyway(reactor, address, *order);
                    return Ok(());
                }
                HandleError::Closed => closed(),
                error => local(code::WRITE_FAILED, error.to_string()),
            };
            refuse(*order, status)
        })
    }
}

impl Link for Session {
    fn signal(&self, stream: &Arc<Stream>, signal: Signal) -> bool {
        let Some((reactor, address)) = self.address() else {
            return false;
        };
        let Some(target) = self.0.peer.target.get() else {
            return false;
        };
        let order = Order::Stream(stream.clone(), signal);
        if is_loop_of(&self.0.peer, reactor) {
            give(Work::Order(address.of_plugin(), order));
        } else {
            target.order_anyway(reactor, address, order);
        }
        true
    }
}
