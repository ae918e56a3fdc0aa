//! The life of an actor: its start, the messages that it handles, its end.

use std::any::TypeId;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use super::reference::own;
use super::{Actor, ActorContext, ActorOptions, ActorRef, ActorRoutes, Call, Home, Timers};
use crate::cluster::node::actor_table::{Content, Entry, Letter, Plan, Posted};
use crate::cluster::node::context::{Core, HandlerError, Request, Subject, attend};
use crate::cluster::node::hand_over::Sender;
use crate::cluster::packet::Packet;
use crate::cluster::{Error, Event};

impl Home {
    pub(super) fn spawn<A: Actor>(
        self,
        options: ActorOptions,
        (kind, id): (&str, &str),
        actor: A,
        owner: Option<&Arc<Entry>>,
    ) -> Result<ActorRef, Error> {
        if kind.is_empty() || kind.contains('/') {
            let problem =
                format!("{kind:?} cannot be one; it needs a character, and none may be a `/`");
            return Err(Error::argument("kind", problem));
        }
        let mut handlers = ActorRoutes {
            routes: FxHashMap::default(),
            events: FxHashMap::default(),
            default: None,
        };
        A::routes(&mut handlers);
        let name: Arc<str> = format!("{kind}/{id}").into();
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        let events = handlers.events.keys();
        let plan = Plan {
            name,
            kind_len: kind.len(),
            reactor: (hasher.finish() % self.shared.counters.len() as u64) as usize,
            type_id: TypeId::of::<A>(),
            routes: handlers.routes.keys().copied().collect(),
            events: events.filter_map(|code| Event::from_code(*code)).collect(),
            is_awaited: options.is_awaited,
            owner: owner.map(Arc::downgrade),
            capacity: options.mailbox,
        };
        let body: Box<dyn Body> = Box::new(Living {
            actor,
            handlers,
            timers: Timers {
                last: 0,
                waiting: BTreeMap::new(),
            },
        });
        let entry = Arc::new(Entry::new(plan, Box::new(body)));
        // It is the first letter, since nobody else knows the actor yet.
        let posted = entry.post_anyway(own(&self.shared, Content::Start));
        self.shared.actors.add(&entry)?;
        self.schedule(&entry, posted);
        Ok(self.reference(&entry))
    }

    pub(super) fn schedule(&self, entry: &Arc<Entry>, posted: Posted) {
        if posted == Posted::MustSchedule {
            let run_it = entry.clone();
            // There is at most one for each actor, whose number is bounded.
            self.posting
                .post_anyway(entry.reactor, Box::new(move |_, core| run(&run_it, core)));
        }
    }

    /// Ends all actors, starts none any more, and waits until all have ended, as long as `time` allows.
    pub(in crate::cluster::node) fn end_all(&self, time: Duration) {
        self.stop_all();
        self.shared.actors.await_end(time);
    }

    /// Has all actors stop, and takes no more.
    pub(in crate::cluster::node) fn stop_all(&self) {
        for entry in self.shared.actors.close() {
            let posted = entry.close(own(&self.shared, Content::Stop));
            self.schedule(&entry, posted);
        }
    }
}

/// The maximum number of letters of an actor that are handled in one turn.
const LETTERS: usize = 64;

/// Lets an actor handle its letters: so many that the others of the reactor need not wait for long.
pub(super) fn run(entry: &Arc<Entry>, core: &mut Core) {
    for _ in 0..LETTERS {
        let Some(letter) = entry.next() else {
            return;
        };
        if !with_body(entry, core, |body, core| body.receive(entry, core, letter)) {
            return;
        }
    }
    let again = entry.clone();
    core.deferred
        .push_back(Box::new(move |_, core| run(&again, core)));
    core.is_pending = true;
}

/// Calls the timers of an actor whose time has come.
pub(in crate::cluster::node) fn run_timers(entry: &Arc<Entry>, core: &mut Core) {
    with_body(entry, core, |body, core| body.on_timers(entry, core));
}

/// Calls `with` with the actor. Returns false if the actor has ended.
fn with_body(
    entry: &Arc<Entry>,
    core: &mut Core,
    with: impl FnOnce(&mut dyn Body, &mut Core) -> Flow,
) -> bool {
    let Some(mut whole) = entry.take_body() else {
        return false;
    };
    let flow = match whole.downcast_mut::<Box<dyn Body>>() {
        Some(body) => {
            let flow = with(&mut **body, core);
            core.alarms.set(entry, body.next_timer());
            flow
        }
        None => Flow::Ended {
            has_panicked: false,
        },
    };
    match flow {
        Flow::Goes => {
            entry.put_body(whole);
            true
        }
        Flow::Ended { has_panicked } => {
            let lost = entry.clear();
            crate::panic::catch("epicycle::cluster", "the drop of an actor", || {
                drop((whole, lost));
            });
            end(entry, core, has_panicked);
            false
        }
    }
}

/// Takes an actor that has ended out of the table, and tells its owner.
fn end(entry: &Arc<Entry>, core: &mut Core, has_panicked: bool) {
    core.counters().actors.subtract(1);
    core.alarms.set(entry, None);
    core.shared.actors.remove(entry);
    if let Some(owner) = entry.owner.as_ref().and_then(Weak::upgrade) {
        let child = entry.clone();
        let letter = own(
            &core.shared,
            Content::ChildEnded {
                child,
                has_panicked,
            },
        );
        let posted = owner.post_anyway(letter);
        Home::of(core).schedule(&owner, posted);
    }
}

/// The state of an actor after a call.
enum Flow {
    Goes,
    Ended { has_panicked: bool },
}

/// An actor of any type.
trait Body: Send {
    fn receive(&mut self, entry: &Arc<Entry>, core: &mut Core, letter: Letter) -> Flow;

    fn on_timers(&mut self, entry: &Arc<Entry>, core: &mut Core) -> Flow;

    /// Returns the time of the next timer.
    fn next_timer(&self) -> Option<Instant>;
}

struct Living<A> {
    actor: A,
    handlers: ActorRoutes<A>,
    timers: Timers<A>,
}

impl<A: Actor> Body for Living<A> {
    fn receive(&mut self, entry: &Arc<Entry>, core: &mut Core, letter: Letter) -> Flow {
        let Letter {
            from,
            cid,
            uid,
            what,
        } = letter;
        let client = (cid, uid);
        match what {
            Content::Start => {
                core.counters().actors.add(1);
                let own = (&from, client, Subject::Own);
                let mut has_failed = false;
                let flow = self.attend(entry, core, own, |actor, cx| {
                    let started = actor.on_start(cx);
                    has_failed = started.is_err();
                    started
                });
                match has_failed {
                    true => Flow::Ended {
                        has_panicked: false,
                    },
                    false => flow,
                }
            }
            Content::Packet { route, seq, data } => {
                let Some(handler) = self
                    .handlers
                    .routes
                    .get(&route)
                    .or(self.handlers.default.as_ref())
                else {
                    core.counters().unknown_routes.add(1);
                    return Flow::Goes;
                };
                let (handler, data) = (handler.clone(), &*data);
                let subject = Subject::Packet(Packet { route, seq, data });
                self.attend(entry, core, (&from, client, subject), |actor, cx| {
                    handler(actor, cx)
                })
            }
            Content::Event(event) => {
                let Some(handler) = self.handlers.events.get(&event.code()).cloned() else {
                    return Flow::Goes;
                };
                let about = (&from, client, Subject::Event(event));
                self.attend(entry, core, about, |actor, cx| handler(actor, cx))
            }
            Content::Call(call) => match call.downcast::<Call<A>>() {
                Ok(call) => self.attend(entry, core, (&from, client, Subject::Own), call.0),
                // The type was checked when it was sent.
                Err(_) => Flow::Goes,
            },
            Content::ChildEnded {
                child,
                has_panicked,
            } => {
                let child = Home::of(core).reference(&child);
                self.attend(entry, core, (&from, client, Subject::Own), |actor, cx| {
                    actor.on_child_end(cx, &child, has_panicked);
                    Ok(())
                })
            }
            Content::Unbound(uid) => {
                self.attend(entry, core, (&from, client, Subject::Own), |actor, cx| {
                    actor.on_unbind(cx, uid)
                })
            }
            Content::Stop => {
                let stopped =
                    self.attend(entry, core, (&from, client, Subject::Own), |actor, cx| {
                        actor.on_stop(cx);
                        Ok(())
                    });
                match stopped {
                    Flow::Goes => Flow::Ended {
                        has_panicked: false,
                    },
                    ended => ended,
                }
            }
        }
    }

    fn on_timers(&mut self, entry: &Arc<Entry>, core: &mut Core) -> Flow {
        let Letter { from, .. } = own(&core.shared, Content::Stop);
        // Those that are set meanwhile come in a later turn.
        let (now, last) = (core.now, self.timers.last);
        while let Some(first) = self.timers.waiting.first_entry() {
            let (at, number) = *first.key();
            if at > now || number > last {
                break;
            }
            let then = first.remove();
            let flow = self.attend(entry, core, (&from, (0, 0), Subject::Own), then);
            if matches!(flow, Flow::Ended { .. }) {
                return flow;
            }
        }
        Flow::Goes
    }

    fn next_timer(&self) -> Option<Instant> {
        let (at, _) = self.timers.waiting.first_key_value()?.0;
        Some(*at)
    }
}

impl<A: Actor> Living<A> {
    /// Runs a handler. Its error costs what it was called for, its panic the actor.
    fn attend(
        &mut self,
        entry: &Arc<Entry>,
        core: &mut Core,
        (from, client, subject): (&Sender, (i64, i64), Subject<'_>),
        handler: impl FnOnce(&mut A, &mut ActorContext<'_, A>) -> Result<(), HandlerError>,
    ) -> Flow {
        let state = core.shared.state;
        let mut cx = ActorContext {
            request: Request::new(core, state, from, client, subject),
            entry,
            timers: &mut self.timers,
        };
        let (actor, who) = (&mut self.actor, &entry.who);
        match attend(&mut cx, who, |cx| &mut cx.request, |cx| handler(actor, cx)) {
            true => Flow::Ended { has_panicked: true },
            false => Flow::Goes,
        }
    }
}
