//! The actors of a node: where they are, who is bound to them, and the letters that wait for them.

use std::any::{Any, TypeId};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, RwLock};

use super::hand_over::Sender;
use crate::cluster::{Error, Event};

/// The maximum number of actors of a node.
const MAX_ACTORS: usize = 65_536;

/// The maximum number of users that are bound to actors.
const MAX_USERS: usize = 1_000_000;

/// All actors of a node.
#[derive(Default)]
pub(super) struct ActorTable {
    maps: RwLock<Maps>,
    /// The number of actors, for those who wait for their end.
    count: Mutex<usize>,
    changed: Condvar,
    /// The letters that full mailboxes have refused.
    refused: AtomicU64,
}

/// The actors at one moment.
pub(super) struct Summary {
    /// The number of those that the drain of the node waits for.
    pub(super) awaited: usize,
    pub(super) kinds: BTreeMap<String, Mailboxes>,
}

/// The letters that wait for the actors of a kind.
#[derive(Default)]
pub(super) struct Mailboxes {
    pub(super) waiting: usize,
    pub(super) longest: usize,
}

/// The maximum number of kinds that are told apart in a [`Summary`].
const MAX_KINDS: usize = 64;

#[derive(Default)]
struct Maps {
    /// By `kind/id`.
    actors: HashMap<Arc<str>, Arc<Entry>>,
    /// The actors of a user, one of each kind.
    users: HashMap<i64, Vec<Arc<Entry>>>,
    /// True once the node ends.
    is_closed: bool,
}

/// An actor.
pub(super) struct Entry {
    /// `kind/id`.
    pub(super) name: Arc<str>,
    /// The beginning of a log line about it.
    pub(super) who: String,
    pub(super) kind_len: usize,
    /// The reactor that it lives on.
    pub(super) reactor: usize,
    pub(super) type_id: TypeId,
    pub(super) routes: Vec<i32>,
    pub(super) events: Vec<Event>,
    /// True if the drain of the node waits for it.
    pub(super) is_awaited: bool,
    /// The actor that has spawned it.
    pub(super) owner: Option<Weak<Entry>>,
    mailbox: Mutex<Mailbox>,
    /// The actor itself, while it does not run.
    body: Mutex<Option<Box<dyn Any + Send>>>,
    /// The users that are bound to it.
    users: Mutex<HashSet<i64>>,
}

struct Mailbox {
    letters: VecDeque<Letter>,
    capacity: usize,
    /// True while a task is on its way that takes the letters.
    is_scheduled: bool,
    is_closed: bool,
}

/// Something that an actor gets.
pub(super) struct Letter {
    pub(super) from: Sender,
    pub(super) cid: i64,
    pub(super) uid: i64,
    pub(super) what: Content,
}

pub(super) enum Content {
    Start,
    Packet {
        route: i32,
        seq: i32,
        data: Vec<u8>,
    },
    Event(Event),
    /// A call, whose type the actor's type determines.
    Call(Box<dyn Any + Send>),
    ChildEnded {
        child: Arc<Entry>,
        has_panicked: bool,
    },
    /// A user is no longer bound to it, since it was bound to another one or unbound.
    Unbound(i64),
    Stop,
}

/// The effect of a letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Posted {
    /// A task must be scheduled that takes the letters.
    MustSchedule,
    Waits,
}

impl ActorTable {
    /// Adds an actor.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] if there is one of this name, [`Error::Busy`] if there are too many, and [`Error::Draining`] at the end.
    pub(super) fn add(&self, entry: &Arc<Entry>) -> Result<(), Error> {
        let mut maps = self.maps.write();
        if maps.is_closed {
            return Err(Error::Draining);
        }
        if maps.actors.contains_key(&entry.name) {
            let problem = format!(
                "there is an actor {} already; kill it, or choose another id",
                entry.name
            );
            return Err(Error::argument("id", problem));
        }
        if maps.actors.len() >= MAX_ACTORS {
            return Err(Error::Busy {
                what: "table of actors",
            });
        }
        maps.actors.insert(entry.name.clone(), entry.clone());
        *self.count.lock() += 1;
        Ok(())
    }

    /// Removes an actor, and unbinds its users.
    pub(super) fn remove(&self, entry: &Arc<Entry>) {
        let mut maps = self.maps.write();
        maps.actors.remove(&entry.name);
        let users = std::mem::take(&mut *entry.users.lock());
        for uid in users {
            unbind(&mut maps.users, uid, |bound| Arc::ptr_eq(bound, entry));
        }
        *self.count.lock() -= 1;
        self.changed.notify_all();
    }

    pub(super) fn find(&self, kind: &str, id: &str) -> Option<Arc<Entry>> {
        let name = format!("{kind}/{id}");
        self.maps.read().actors.get(&*name).cloned()
    }

    /// Binds a user to an actor, in place of the one of the same kind, which is returned if it is another one.
    pub(super) fn bind(&self, uid: i64, entry: &Arc<Entry>) -> Result<Option<Arc<Entry>>, Error> {
        let mut maps = self.maps.write();
        maps.check_bind(uid, entry)?;
        let before = unbind(&mut maps.users, uid, |bound| bound.kind() == entry.kind());
        maps.bind(uid, entry);
        Ok(before.filter(|before| !Arc::ptr_eq(before, entry)))
    }

    /// Binds a user to an actor, unless it has one of the same kind. Returns true if it was bound.
    pub(super) fn bind_if_free(&self, uid: i64, entry: &Arc<Entry>) -> Result<bool, Error> {
        let mut maps = self.maps.write();
        maps.check_bind(uid, entry)?;
        let bound = maps.users.get(&uid);
        let is_free = bound.is_none_or(|bound| bound.iter().all(|it| it.kind() != entry.kind()));
        if is_free {
            maps.bind(uid, entry);
        }
        Ok(is_free)
    }

    /// Unbinds a user from its actor of a kind, which is returned.
    pub(super) fn unbind(&self, uid: i64, kind: &str) -> Option<Arc<Entry>> {
        unbind(&mut self.maps.write().users, uid, |bound| {
            bound.kind() == kind
        })
    }

    /// Unbinds a user from this actor, if it is still bound to it.
    pub(super) fn unbind_from(&self, uid: i64, entry: &Arc<Entry>) {
        unbind(&mut self.maps.write().users, uid, |bound| {
            Arc::ptr_eq(bound, entry)
        });
    }

    /// Returns the actors that a user is bound to.
    pub(super) fn of_user(&self, uid: i64) -> Vec<Arc<Entry>> {
        self.maps
            .read()
            .users
            .get(&uid)
            .cloned()
            .unwrap_or_default()
    }

    /// Returns true if there is an actor that the drain of the node waits for.
    pub(super) fn has_awaited(&self) -> bool {
        self.maps
            .read()
            .actors
            .values()
            .any(|entry| entry.is_awaited)
    }

    /// Puts a letter behind those that wait for an actor.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`] if too many wait, and [`Error::NotFoundEndpoint`] if the actor has ended or is about to.
    pub(super) fn post(&self, entry: &Entry, letter: Letter) -> Result<Posted, Error> {
        let posted = entry.post(letter);
        if let Err(Error::Busy { .. }) = posted {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        posted
    }

    /// Returns the number of letters that full mailboxes have refused.
    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Returns what waits for the actors. The kinds beyond the first 64 are one, `other`.
    pub(super) fn summary(&self) -> Summary {
        let actors: Vec<Arc<Entry>> = self.maps.read().actors.values().cloned().collect();
        let mut all: BTreeMap<&str, Mailboxes> = BTreeMap::new();
        for entry in &actors {
            all.entry(entry.kind()).or_default().add(entry.waiting());
        }
        let mut summary = Summary {
            awaited: actors.iter().filter(|entry| entry.is_awaited).count(),
            kinds: BTreeMap::new(),
        };
        for (number, (kind, mailboxes)) in all.into_iter().enumerate() {
            let kind = if number < MAX_KINDS { kind } else { "other" };
            let sum = summary.kinds.entry(kind.to_owned()).or_default();
            sum.waiting += mailboxes.waiting;
            sum.longest = sum.longest.max(mailboxes.longest);
        }
        summary
    }

    /// Takes no more actors, and returns those that are there.
    pub(super) fn close(&self) -> Vec<Arc<Entry>> {
        let mut maps = self.maps.write();
        maps.is_closed = true;
        let mut actors: Vec<_> = maps.actors.values().cloned().collect();
        // A seed of a simulated network always ends them in the same order.
        actors.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        actors
    }

    /// Returns true if there is no actor.
    #[cfg(feature = "testing")]
    pub(super) fn is_empty(&self) -> bool {
        *self.count.lock() == 0
    }

    /// Waits until there is no actor, or the time is over.
    pub(super) fn await_end(&self, time: Duration) {
        let deadline = Instant::now().checked_add(time);
        let mut count = self.count.lock();
        while *count > 0 {
            match deadline {
                Some(deadline) => {
                    if self.changed.wait_until(&mut count, deadline).timed_out() {
                        return;
                    }
                }
                None => self.changed.wait(&mut count),
            }
        }
    }
}

impl Maps {
    /// # Errors
    ///
    /// [`Error::NotFoundEndpoint`] if the actor has ended, and [`Error::Busy`] if too many users are bound.
    fn check_bind(&self, uid: i64, entry: &Arc<Entry>) -> Result<(), Error> {
        let there = self.actors.get(&entry.name);
        if !there.is_some_and(|there| Arc::ptr_eq(there, entry)) {
            return Err(entry.is_gone());
        }
        if self.users.len() >= MAX_USERS && !self.users.contains_key(&uid) {
            return Err(Error::Busy {
                what: "table of users that are bound to actors",
            });
        }
        Ok(())
    }

    fn bind(&mut self, uid: i64, entry: &Arc<Entry>) {
        self.users.entry(uid).or_default().push(entry.clone());
        entry.users.lock().insert(uid);
    }
}

impl Mailboxes {
    fn add(&mut self, waiting: usize) {
        self.waiting += waiting;
        self.longest = self.longest.max(waiting);
    }
}

fn unbind(
    users: &mut HashMap<i64, Vec<Arc<Entry>>>,
    uid: i64,
    is_it: impl Fn(&Arc<Entry>) -> bool,
) -> Option<Arc<Entry>> {
    let bound = users.get_mut(&uid)?;
    // There is one of each kind.
    let at = bound.iter().position(is_it)?;
    let entry = bound.swap_remove(at);
    entry.users.lock().remove(&uid);
    if bound.is_empty() {
        users.remove(&uid);
    }
    Some(entry)
}

/// The parts of an actor that is about to be made.
pub(super) struct Plan {
    pub(super) name: Arc<str>,
    pub(super) kind_len: usize,
    pub(super) reactor: usize,
    pub(super) type_id: TypeId,
    pub(super) routes: Vec<i32>,
    pub(super) events: Vec<Event>,
    pub(super) is_awaited: bool,
    pub(super) owner: Option<Weak<Entry>>,
    pub(super) capacity: usize,
}

impl Entry {
    pub(super) fn new(plan: Plan, body: Box<dyn Any + Send>) -> Self {
        Self {
            who: format!("the actor {}: ", plan.name),
            name: plan.name,
            kind_len: plan.kind_len,
            reactor: plan.reactor,
            type_id: plan.type_id,
            routes: plan.routes,
            events: plan.events,
            is_awaited: plan.is_awaited,
            owner: plan.owner,
            mailbox: Mutex::new(Mailbox {
                letters: VecDeque::new(),
                capacity: plan.capacity,
                is_scheduled: false,
                is_closed: false,
            }),
            body: Mutex::new(Some(body)),
            users: Mutex::default(),
        }
    }

    pub(super) fn kind(&self) -> &str {
        &self.name[..self.kind_len]
    }

    pub(super) fn id(&self) -> &str {
        &self.name[self.kind_len + 1..]
    }

    pub(super) fn is_gone(&self) -> Error {
        let wanted = format!("actor {}", self.name);
        Error::NotFoundEndpoint { wanted }
    }

    fn post(&self, letter: Letter) -> Result<Posted, Error> {
        let mut mailbox = self.mailbox.lock();
        if mailbox.is_closed {
            return Err(self.is_gone());
        }
        if mailbox.letters.len() >= mailbox.capacity {
            return Err(Error::Busy {
                what: "mailbox of the actor",
            });
        }
        Ok(mailbox.push(letter))
    }

    /// Puts a letter behind those that wait, however many there are.
    pub(super) fn post_anyway(&self, letter: Letter) -> Posted {
        let mut mailbox = self.mailbox.lock();
        match mailbox.is_closed {
            true => Posted::Waits,
            false => mailbox.push(letter),
        }
    }

    /// Puts the last letter behind those that wait. No others are taken after it.
    pub(super) fn close(&self, last: Letter) -> Posted {
        let mut mailbox = self.mailbox.lock();
        if std::mem::replace(&mut mailbox.is_closed, true) {
            return Posted::Waits;
        }
        mailbox.push(last)
    }

    /// Takes the next letter. After the last one, the next letter must be scheduled.
    pub(super) fn next(&self) -> Option<Letter> {
        let mut mailbox = self.mailbox.lock();
        let letter = mailbox.letters.pop_front();
        if letter.is_none() {
            mailbox.is_scheduled = false;
        }
        letter
    }

    /// Takes no letters any more, and returns those that wait.
    pub(super) fn clear(&self) -> VecDeque<Letter> {
        let mut mailbox = self.mailbox.lock();
        mailbox.is_closed = true;
        std::mem::take(&mut mailbox.letters)
    }

    pub(super) fn has_user(&self, uid: i64) -> bool {
        self.users.lock().contains(&uid)
    }

    pub(super) fn waiting(&self) -> usize {
        self.mailbox.lock().letters.len()
    }

    pub(super) fn take_body(&self) -> Option<Box<dyn Any + Send>> {
        self.body.lock().take()
    }

    pub(super) fn put_body(&self, body: Box<dyn Any + Send>) {
        *self.body.lock() = Some(body);
    }
}

impl Mailbox {
    fn push(&mut self, letter: Letter) -> Posted {
        self.letters.push_back(letter);
        match std::mem::replace(&mut self.is_scheduled, true) {
            true => Posted::Waits,
            false => Posted::MustSchedule,
        }
    }
}

#[cfg(test)]
impl Entry {
    /// Returns an actor of reactor 0 without routes. The kind is before the slash of its name.
    pub(super) fn for_test(name: &str) -> Self {
        let plan = Plan {
            name: name.into(),
            kind_len: name.find('/').expect("has a kind"),
            reactor: 0,
            type_id: TypeId::of::<()>(),
            routes: Vec::new(),
            events: Vec::new(),
            is_awaited: false,
            owner: None,
            capacity: 1,
        };
        Self::new(plan, Box::new(()))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_bound_again_though_as_many_are_bound_as_may_be() {
        let table = ActorTable::default();
        let [one, two] = ["table/1", "table/2"].map(|name| {
            let entry = Arc::new(Entry::for_test(name));
            table.add(&entry).expect("has room");
            entry
        });
        assert_eq!(table.bind_if_free(7, &one).ok(), Some(true));
        let others = (8..7 + MAX_USERS as i64).map(|uid| (uid, Vec::new()));
        table.maps.write().users.extend(others);
        let stranger = -1;
        for full in [
            table.bind(stranger, &one).map(drop),
            table.bind_if_free(stranger, &one).map(drop),
        ] {
            assert!(matches!(full, Err(Error::Busy { .. })));
        }
        assert_eq!(table.bind_if_free(7, &two).ok(), Some(false));
        let before = table.bind(7, &two).expect("has its place");
        assert!(before.is_some_and(|before| Arc::ptr_eq(&before, &one)));
        assert!(two.has_user(7) && !one.has_user(7));
        table.remove(&two);
        assert!(table.of_user(7).is_empty(), "it goes with its actor");
        assert_eq!(table.bind_if_free(stranger, &one).ok(), Some(true));
    }
}
