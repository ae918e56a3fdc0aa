//! The handles of actors.

use std::any::TypeId;
use std::fmt;
use std::sync::Arc;

use super::{Actor, ActorContext, Call, Timed};
use crate::cluster::Error;
use crate::cluster::codec::EncodeBody;
use crate::cluster::node::actor_table::{Content, Entry, Letter};
use crate::cluster::node::context::{Core, HandlerError, Posting};
use crate::cluster::node::hand_over::Sender;
use crate::cluster::node::shared::Shared;

/// A handle of an actor. Any thread can have it. It does not keep the actor from its end.
#[derive(Clone)]
pub struct ActorRef {
    pub(super) entry: Arc<Entry>,
    home: Home,
}

/// The node of actors.
#[derive(Clone)]
pub(in crate::cluster::node) struct Home {
    pub(in crate::cluster::node) shared: Arc<Shared>,
    pub(in crate::cluster::node) posting: Posting,
}

impl ActorRef {
    /// Returns the kind.
    pub fn kind(&self) -> &str {
        self.entry.kind()
    }

    /// Returns the id, which no other actor of the kind has.
    pub fn id(&self) -> &str {
        self.entry.id()
    }

    /// Returns the number of messages that wait.
    pub fn waiting(&self) -> usize {
        self.entry.waiting()
    }

    /// Sends the actor a packet. `uid` may be 0 if no user is concerned.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Codec`] if the value cannot be encoded, [`Error::Busy`] if 4,096 messages wait, and
    /// [`Error::NotFoundEndpoint`] if the actor has ended or is about to.
    pub fn deliver(
        &self,
        route: i32,
        uid: i64,
        value: &(impl EncodeBody + ?Sized),
    ) -> Result<(), Error> {
        let data = self.home.shared.options.codec.encode(value)?;
        let what = Content::Packet {
            route,
            seq: 0,
            data,
        };
        self.post(Letter {
            uid,
            ..own(&self.home.shared, what)
        })
    }

    /// Calls `then` with the actor, on its reactor.
    ///
    /// # Errors
    ///
    /// Returns [`Error::InvalidArgument`] if the actor is of another type, and those of [`deliver`](Self::deliver) but for that of
    /// encoding.
    pub fn invoke<A: Actor, E: Into<HandlerError>>(
        &self,
        then: impl FnOnce(&mut A, &mut ActorContext<'_, A>) -> Result<(), E> + Send + 'static,
    ) -> Result<(), Error> {
        self.post(self.call(then)?)
    }

    /// Calls `then` with the actor, however many messages wait for it.
    pub(in crate::cluster::node) fn invoke_anyway<A: Actor, E: Into<HandlerError>>(
        &self,
        then: impl FnOnce(&mut A, &mut ActorContext<'_, A>) -> Result<(), E> + Send + 'static,
    ) -> Result<(), Error> {
        let posted = self.entry.post_anyway(self.call(then)?);
        self.home.schedule(&self.entry, posted);
        Ok(())
    }

    fn call<A: Actor, E: Into<HandlerError>>(
        &self,
        then: impl FnOnce(&mut A, &mut ActorContext<'_, A>) -> Result<(), E> + Send + 'static,
    ) -> Result<Letter, Error> {
        if self.entry.type_id != TypeId::of::<A>() {
            let problem = format!("{} is no {}", self.entry.name, std::any::type_name::<A>());
            return Err(Error::argument("actor", problem));
        }
        let call: Timed<A> = Box::new(move |actor, cx| then(actor, cx).map_err(Into::into));
        Ok(own(&self.home.shared, Content::Call(Box::new(Call(call)))))
    }

    /// Binds a user to the actor, unless it has one of this kind. Returns true if it was bound.
    pub(in crate::cluster::node) fn bind_if_free(&self, uid: i64) -> Result<bool, Error> {
        check_user(uid)?;
        self.home.shared.actors.bind_if_free(uid, &self.entry)
    }

    /// Unbinds a user from the actor, if it is still bound to it.
    pub(in crate::cluster::node) fn let_go(&self, uid: i64) {
        self.home.shared.actors.unbind_from(uid, &self.entry);
    }

    /// Ends the actor, when it has handled the messages that wait. It gets no further ones.
    pub fn kill(&self) {
        let posted = self.entry.close(own(&self.home.shared, Content::Stop));
        self.home.schedule(&self.entry, posted);
    }

    fn post(&self, letter: Letter) -> Result<(), Error> {
        let posted = self.home.shared.actors.post(&self.entry, letter)?;
        self.home.schedule(&self.entry, posted);
        Ok(())
    }
}

impl Home {
    pub(super) fn of(core: &Core) -> Self {
        Self {
            shared: core.shared.clone(),
            posting: core.posting.clone(),
        }
    }

    pub(super) fn reference(self, entry: &Arc<Entry>) -> ActorRef {
        ActorRef {
            entry: entry.clone(),
            home: self,
        }
    }

    pub(super) fn find(self, kind: &str, id: &str) -> Option<ActorRef> {
        let entry = self.shared.actors.find(kind, id)?;
        Some(self.reference(&entry))
    }
}

/// Returns a letter of the node itself.
pub(super) fn own(shared: &Shared, what: Content) -> Letter {
    let from = Sender {
        id: shared.ours.id.as_str().into(),
        is_node: true,
    };
    let (cid, uid) = (0, 0);
    Letter {
        from,
        cid,
        uid,
        what,
    }
}

/// # Errors
///
/// [`Error::InvalidArgument`] if nobody can have this number.
pub(super) fn check_user(uid: i64) -> Result<(), Error> {
    match uid > 0 {
        true => Ok(()),
        false => Err(Error::argument(
            "uid",
            format!("{uid} is no user; it must be above 0"),
        )),
    }
}

impl fmt::Debug for ActorRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ActorRef").field(&self.entry.name).finish()
    }
}
