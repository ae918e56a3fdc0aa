//! The sessions of a peer.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::Session;

/// The sessions of a peer, by their identifiers, and the number of those whose address another one had.
#[derive(Default)]
pub(in crate::rpc) struct Sessions(Mutex<HashMap<Arc<str>, Session>>, AtomicU64);

impl Sessions {
    // The lock of an identifier comes before that of the sessions, so that a session is listed under the identifier that it has.

    /// Adds a session. Returns another one that had its identifier.
    ///
    /// Two sessions may have one address, which is no identifier that anybody chose: the ends of Unix sockets have none, and a
    /// port may serve connections to several addresses. The later one gets a number.
    pub(in crate::rpc) fn insert(&self, session: &Session) -> Option<Session> {
        let mut id = session.0.id.lock();
        let mut sessions = self.0.lock();
        if !session.0.has_own_id.load(Ordering::Acquire) {
            *id = self.free(&sessions, id.clone());
        }
        sessions.insert(id.clone(), session.clone())
    }

    /// Sets the identifier of a session. Returns another one that had it.
    pub(super) fn rename(&self, session: &Session, new: Arc<str>) -> Option<Session> {
        let mut id = session.0.id.lock();
        session.0.has_own_id.store(true, Ordering::Release);
        let old = std::mem::replace(&mut *id, new.clone());
        let mut sessions = self.0.lock();
        if sessions.get(&old) != Some(session) {
            // It is not listed, or not any more.
            return None;
        }
        sessions.remove(&old);
        sessions.insert(new, session.clone())
    }

    /// Sets the identifier of a session, unless another one has it. Returns false then.
    pub(super) fn try_rename(&self, session: &Session, new: Arc<str>) -> bool {
        let mut id = session.0.id.lock();
        let mut sessions = self.0.lock();
        if sessions.get(&new).is_some_and(|other| other != session) {
            return false;
        }
        session.0.has_own_id.store(true, Ordering::Release);
        if sessions.get(&*id) == Some(session) {
            sessions.remove(&*id);
            sessions.insert(new.clone(), session.clone());
        }
        *id = new;
        true
    }

    /// Changes the identifier of a session to an address, or to one with a number if another session has that address. One that
    /// the application has set stays.
    pub(super) fn rename_to_address(&self, session: &Session, address: Arc<str>) {
        let mut id = session.0.id.lock();
        if session.0.has_own_id.load(Ordering::Acquire) {
            return;
        }
        let mut sessions = self.0.lock();
        let is_listed = sessions.get(&*id) == Some(session);
        if is_listed {
            sessions.remove(&*id);
        }
        *id = self.free(&sessions, address);
        if is_listed {
            sessions.insert(id.clone(), session.clone());
        }
    }

    /// Returns this identifier, or one with a number if a session has it.
    fn free(&self, sessions: &HashMap<Arc<str>, Session>, id: Arc<str>) -> Arc<str> {
        if !sessions.contains_key(&id) {
            return id;
        }
        let number = self.1.fetch_add(1, Ordering::Relaxed) + 2;
        format!("{id}#{number}").into()
    }

    pub(super) fn remove(&self, session: &Session) {
        let id = session.0.id.lock();
        let mut sessions = self.0.lock();
        if sessions.get(&*id) == Some(session) {
            sessions.remove(&*id);
        }
    }

    pub(in crate::rpc) fn get(&self, id: &str) -> Option<Session> {
        self.0.lock().get(id).cloned()
    }

    pub(in crate::rpc) fn len(&self) -> usize {
        self.0.lock().len()
    }

    /// Returns all sessions, sorted by their identifiers.
    pub(in crate::rpc) fn all(&self) -> Vec<Session> {
        let mut all: Vec<_> = (self.0.lock().iter())
            .map(|(id, session)| (id.clone(), session.clone()))
            .collect();
        all.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        all.into_iter().map(|(_, session)| session).collect()
    }
}
