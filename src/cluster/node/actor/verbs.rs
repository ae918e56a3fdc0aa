//! The verbs of a handler that concern actors.

use std::sync::Arc;

use super::life::run;
use super::reference::{check_user, own};
use super::{Actor, ActorOptions, ActorRef, Home};
use crate::cluster::Error;
use crate::cluster::node::Node;
use crate::cluster::node::actor_table::{Content, Entry, Letter, Posted};
use crate::cluster::node::context::{Request, Subject};
use crate::cluster::packet::Packet;

/// # Actors
impl Request<'_> {
    /// Starts an actor. `kind` must not contain a `/`. The actor gets its first call when this handler has ended.
    ///
    /// # Errors
    ///
    /// Returns [`Error::InvalidArgument`] if there is one of this kind and id, or the kind cannot be one, and [`Error::Busy`] if the
    /// node has 65,536 actors.
    pub fn spawn<A: Actor>(&mut self, kind: &str, id: &str, actor: A) -> Result<ActorRef, Error> {
        self.spawn_with(ActorOptions::default(), kind, id, actor)
    }

    /// Starts an actor with options.
    ///
    /// # Errors
    ///
    /// As [`spawn`](Self::spawn).
    pub fn spawn_with<A: Actor>(
        &mut self,
        options: ActorOptions,
        kind: &str,
        id: &str,
        actor: A,
    ) -> Result<ActorRef, Error> {
        Home::of(self.core).spawn(options, (kind, id), actor, None)
    }

    /// Returns the actor of a kind and an id.
    pub fn actor(&self, kind: &str, id: &str) -> Option<ActorRef> {
        Home::of(self.core).find(kind, id)
    }

    /// Binds a user to an actor, so that [`next`](Self::next) finds it. A user is bound to one actor of each kind.
    ///
    /// # Errors
    ///
    /// Returns [`Error::NotFoundEndpoint`] if there is no such actor, [`Error::InvalidArgument`] if `uid` is not above 0, and
    /// [`Error::Busy`] if 1,000,000 users are bound.
    pub fn bind_actor(&mut self, uid: i64, kind: &str, id: &str) -> Result<(), Error> {
        check_user(uid)?;
        match self.core.shared.actors.find(kind, id) {
            Some(entry) => {
                let before = self.core.shared.actors.bind(uid, &entry)?;
                self.tell_unbound(before, uid);
                Ok(())
            }
            None => {
                let wanted = format!("actor {kind}/{id}");
                Err(Error::NotFoundEndpoint { wanted })
            }
        }
    }

    /// Unbinds a user from its actor of a kind.
    pub fn unbind_actor(&mut self, uid: i64, kind: &str) {
        let before = self.core.shared.actors.unbind(uid, kind);
        self.tell_unbound(before, uid);
    }

    fn tell_unbound(&self, actor: Option<Arc<Entry>>, uid: i64) {
        if let Some(entry) = actor {
            let home = Home::of(self.core);
            // There is at most one for each time that the user was bound.
            let posted = entry.post_anyway(own(&home.shared, Content::Unbound(uid)));
            home.schedule(&entry, posted);
        }
    }

    /// Hands a packet to the user's actor that has its route, or an event to all of the user's actors that have it. They answer the
    /// client as this handler would.
    ///
    /// # Errors
    ///
    /// Returns [`Error::NotFoundRoute`] if the user is bound to no actor that has the route, [`Error::Busy`] if too many messages
    /// wait for the actor, and [`Error::IllegalRequest`] if there is neither packet nor event.
    #[expect(
        clippy::should_implement_trait,
        reason = "it is due's name, and a request is no iterator"
    )]
    pub fn next(&mut self) -> Result<(), Error> {
        let actors = self.core.shared.actors.of_user(self.uid);
        match self.subject {
            Subject::Packet(Packet { route, .. }) => {
                let mut having = actors.iter().filter(|entry| entry.routes.contains(&route));
                match having.next() {
                    Some(entry) => self.hand_to(entry),
                    None => Err(Error::NotFoundRoute { route }),
                }
            }
            Subject::Event(event) => {
                let mut result = Ok(());
                for entry in actors.iter().filter(|entry| entry.events.contains(&event)) {
                    result = result.and(self.hand_to(entry));
                }
                result
            }
            Subject::Own => self.hand_nothing(),
        }
    }

    /// Hands the packet or the event to an actor, which answers the client as this handler would.
    ///
    /// # Errors
    ///
    /// As [`next`](Self::next), and [`Error::NotFoundEndpoint`] if the actor has ended or is about to.
    pub fn next_to(&mut self, actor: &ActorRef) -> Result<(), Error> {
        self.hand_to(&actor.entry)
    }

    fn hand_to(&mut self, entry: &Arc<Entry>) -> Result<(), Error> {
        let what = match self.subject {
            Subject::Packet(Packet { route, seq, data }) => {
                let data = data.to_vec();
                Content::Packet { route, seq, data }
            }
            Subject::Event(event) => Content::Event(event),
            Subject::Own => return self.hand_nothing(),
        };
        let (from, cid, uid) = (self.from.clone(), self.cid, self.uid);
        // Events are as few as connections, and what they tell is not told again.
        let is_event = matches!(what, Content::Event(_));
        let letter = Letter {
            from,
            cid,
            uid,
            what,
        };
        let posted = match is_event {
            true => entry.post_anyway(letter),
            false => self.core.shared.actors.post(entry, letter)?,
        };
        if posted == Posted::MustSchedule && entry.reactor == self.core.id {
            let entry = entry.clone();
            self.core
                .deferred
                .push_back(Box::new(move |_, core| run(&entry, core)));
            self.core.is_pending = true;
            return Ok(());
        }
        Home::of(self.core).schedule(entry, posted);
        Ok(())
    }

    fn hand_nothing(&self) -> Result<(), Error> {
        let what = "a call that is neither a packet nor an event cannot be handed on; use `ActorRef::invoke`";
        Err(Error::IllegalRequest { what })
    }
}

/// # Actors
impl Node {
    /// Starts an actor, as [`Request::spawn`] does.
    ///
    /// # Errors
    ///
    /// As [`Request::spawn`].
    pub fn spawn<A: Actor>(&self, kind: &str, id: &str, actor: A) -> Result<ActorRef, Error> {
        self.home()
            .spawn(ActorOptions::default(), (kind, id), actor, None)
    }

    /// Returns the actor of a kind and an id.
    pub fn actor(&self, kind: &str, id: &str) -> Option<ActorRef> {
        self.home().find(kind, id)
    }
}
