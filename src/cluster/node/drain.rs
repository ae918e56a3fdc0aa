//! The end of a node, in stages.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::thread;
use std::time::{Duration, Instant};

use super::hooks::Stage;
use super::shared::{DrainStage, Shared, guarded};
use super::{Node, NodeStats};
use crate::cluster::reactors::{ANSWERING, Calls};

/// The time that gates of due have for what they are about to send. They do not know Bye.
const GRACE: Duration = Duration::from_secs(2);

/// The time within which other nodes must have bound the users that were handed over.
const HANDING_OVER: Duration = Duration::from_secs(2);

/// The time within which gates learn of the state `hang`. A packet of a stateless route that comes to a node after Bye is lost.
const SETTLING: Duration = Duration::from_millis(500);

/// When nothing has come for this time after Bye, and the others have said Bye as well, nothing is under way.
const QUIET: Duration = Duration::from_millis(250);

/// The least time for asking the locator about all users, and the threads that do.
const ASKING: Duration = Duration::from_secs(10);
const ASKERS: usize = 4;

/// The time between two looks at what is left.
const LOOK: Duration = Duration::from_millis(5);

impl Node {
    /// The usual deadline of a [`drain`](Self::drain): 60 s.
    pub const DRAIN: Duration = Duration::from_secs(60);

    /// Stops in stages, and waits for the end:
    ///
    /// 1. registers the state `hang`, so that it gets packets of stateful routes only;
    /// 2. serves for half a second, so that gates learn of that, and until no job of
    ///    [`spawn_blocking`](super::Request::spawn_blocking), no timer and no actor that
    ///    [asks for it](super::ActorOptions::wait) is left, until the deadline at the longest;
    /// 3. calls [`on_handover`](super::NodeBuilder::on_handover) for each user that is bound to it, waits until others have bound
    ///    them, for 2 s at the longest, and unbinds those that nobody has;
    /// 4. tells gates and nodes to send no more, takes what was under way, and waits for the jobs and timers of that. Those of due do
    ///    not know that, and are served for 2 s more;
    /// 5. ends, as [`shutdown`](Self::shutdown) does.
    ///
    /// A packet that comes too late is rejected, and a gate delivers it to the user's new node.
    pub fn drain(mut self, deadline: Duration) {
        let ends = Instant::now().checked_add(deadline);
        self.announce_drain();
        let mut drain = Drain::begin(ends, Instant::now());
        while !drain.advance(&self, Instant::now()) {
            thread::sleep(LOOK);
        }
    }

    /// Registers the state `hang`.
    pub(super) fn announce_drain(&mut self) {
        self.close();
        self.shared.enter(DrainStage::Waits);
        if let Err(error) = self.shared.registered.begin_drain() {
            log::warn!(target: "epicycle::cluster", "the node {} is not registered as hang: {error}", self.id());
        }
    }

    /// Calls the hooks of the end, once.
    pub(super) fn close(&mut self) {
        self.hooks.run(Stage::Close);
    }

    /// Returns true if nothing of the application is left that the end waits for.
    fn is_idle(&self) -> bool {
        let shared = &self.shared;
        let has_jobs = shared.jobs.load(Ordering::Acquire) > 0;
        !has_jobs && self.stats().timers == 0 && !shared.actors.has_awaited()
    }

    /// Returns true if nothing more comes, and nothing that has come waits for a gate or the locator.
    fn is_left(&self) -> bool {
        let (stats, asking) = (self.stats(), self.shared.pool.stats());
        stats.left >= stats.links && stats.calls == 0 && asking.queued + asking.running == 0
    }

    /// Calls `ask` for each user that is bound here, on worker threads: until `ends`, but for ten seconds at least.
    fn ask_for_users(
        &self,
        ends: Option<Instant>,
        now: Instant,
        ask: fn(&Shared, i64),
    ) -> Questions {
        let users = self.shared.bound_users();
        let is_late = Arc::new(AtomicBool::new(false));
        let (done, all_done) = mpsc::channel::<()>();
        for users in users.chunks(users.len().div_ceil(ASKERS).max(1)) {
            let (shared, users, done) = (self.shared.clone(), users.to_vec(), done.clone());
            let is_late = is_late.clone();
            let asked = self.shared.submit(None, move || {
                for uid in users {
                    if is_late.load(Ordering::Relaxed) {
                        return;
                    }
                    ask(&shared, uid);
                }
                drop(done);
            });
            if let Err(error) = asked {
                log::warn!(target: "epicycle::cluster", "the locator is not asked about users: {error}");
            }
        }
        Questions {
            all_done,
            ends: ends.map(|ends| ends.max(now + ASKING)),
            is_late,
        }
    }
}

/// A drain that is under way.
pub(super) struct Drain {
    ends: Option<Instant>,
    phase: Phase,
}

/// The stages of a drain, each with what ends it.
enum Phase {
    /// Gates learn of the state, and what is left is served.
    Settling {
        least: Instant,
    },
    /// The locator tells which of the users are still here, if changes of it were missed.
    Checking(Questions),
    /// The application hands its users over.
    Leaving {
        calls: Calls<()>,
        ends: Instant,
    },
    /// Others bind them.
    HandingOver {
        ends: Instant,
    },
    /// Those that nobody has are unbound.
    Unbinding(Questions),
    /// Each link is told Bye.
    SayingBye {
        calls: Calls<usize>,
        ends: Instant,
    },
    /// Servers that do not know Bye end their links.
    Grace {
        ends: Instant,
    },
    /// Packets that were under way arrive.
    Quieting {
        count: u64,
        since: Instant,
        least: Instant,
    },
    Over,
}

/// Questions to the locator.
struct Questions {
    /// Ends when all have been answered.
    all_done: Receiver<()>,
    ends: Option<Instant>,
    is_late: Arc<AtomicBool>,
}

impl Drain {
    /// Begins with the stage behind [`announce_drain`](Node::announce_drain).
    pub(super) fn begin(ends: Option<Instant>, now: Instant) -> Self {
        let least = now + SETTLING;
        Self {
            ends,
            phase: Phase::Settling { least },
        }
    }

    /// Goes on, as far as it can now. Returns true when the drain is over.
    pub(super) fn advance(&mut self, node: &Node, now: Instant) -> bool {
        while let Some(next) = self.next(node, now) {
            self.phase = next;
        }
        matches!(self.phase, Phase::Over)
    }

    /// Returns the next phase, if this one has ended.
    fn next(&mut self, node: &Node, now: Instant) -> Option<Phase> {
        let shared = &node.shared;
        let is_past = |ends: Option<Instant>| ends.is_some_and(|ends| now >= ends);
        match &mut self.phase {
            Phase::Settling { least } => {
                let is_done = now >= *least && node.is_idle();
                (is_done || is_past(self.ends)).then(|| self.leave(node, now))
            }
            Phase::Checking(questions) => {
                (questions.are_over(node, now)).then(|| hand_over(node, now))
            }
            Phase::Leaving { calls, ends } => {
                let is_done = calls.poll().1 || now >= *ends;
                is_done.then(|| match shared.hands_over {
                    true => Phase::HandingOver {
                        ends: now + HANDING_OVER,
                    },
                    false => self.unbind(node, now),
                })
            }
            Phase::HandingOver { ends } => {
                let is_done = shared.users.lock().is_empty() && node.is_idle();
                (is_done || now >= *ends).then(|| self.unbind(node, now))
            }
            Phase::Unbinding(questions) => {
                (questions.are_over(node, now)).then(|| match node.posting.reactors() {
                    None => Phase::Over,
                    Some(reactors) => {
                        shared.enter(DrainStage::Leaves);
                        Phase::SayingBye {
                            calls: reactors.say_bye(),
                            ends: now + ANSWERING,
                        }
                    }
                })
            }
            Phase::SayingBye { calls, ends } => {
                let (of_due, over) = calls.poll();
                let has_due = of_due.iter().any(|links| *links > 0);
                (over || now >= *ends).then(|| match has_due {
                    true => Phase::Grace { ends: now + GRACE },
                    false => Phase::Quieting {
                        count: count(&node.stats()),
                        since: now,
                        least: now + GRACE,
                    },
                })
            }
            Phase::Grace { ends } => {
                (node.stats().links == 0 || now >= *ends).then_some(Phase::Over)
            }
            Phase::Quieting {
                count: last,
                since,
                least,
            } => {
                let came = count(&node.stats());
                if came != *last {
                    (*last, *since) = (came, now);
                }
                let is_quiet = now.duration_since(*since) >= QUIET && node.is_left();
                let is_over = match node.is_idle() {
                    true => is_quiet || now >= *least,
                    false => is_past(self.ends.map(|ends| ends.max(*least))),
                };
                is_over.then_some(Phase::Over)
            }
            Phase::Over => None,
        }
    }

    /// Gives up the users that are bound here.
    fn leave(&self, node: &Node, now: Instant) -> Phase {
        let shared = &node.shared;
        shared.enter(DrainStage::HandsOver);
        shared.is_leaving.store(true, Ordering::Release);
        if !shared.is_unsure.load(Ordering::Acquire) {
            return hand_over(node, now);
        }
        Phase::Checking(node.ask_for_users(self.ends, now, |shared, uid| {
            let is_here = |nid: Option<Arc<str>>| nid.is_some_and(|nid| *nid == *shared.ours.id);
            if !guarded(|| shared.locations.node(uid, &shared.alias)).is_ok_and(is_here) {
                shared.users.lock().remove(&uid);
            }
        }))
    }

    fn unbind(&self, node: &Node, now: Instant) -> Phase {
        let left = node.shared.users.lock().len();
        if left > 0 {
            log::warn!(
                target: "epicycle::cluster",
                "the node {} stops, and nobody has taken {left} of its users: gates refuse their packets of stateful routes until they are bound again; hand them over in `on_handover`",
                node.id()
            );
        }
        Phase::Unbinding(node.ask_for_users(self.ends, now, |shared, uid| {
            if let Err(error) = guarded(|| shared.unbind_node(uid)) {
                log::warn!(target: "epicycle::cluster", "the user {uid} stays bound to {}: {error}", shared.ours.id);
            }
        }))
    }
}

fn hand_over(node: &Node, now: Instant) -> Phase {
    let users = node.shared.bound_users();
    match node.posting.reactors() {
        None => Phase::Over,
        Some(reactors) => Phase::Leaving {
            calls: reactors.hand_over(&users),
            ends: now + ANSWERING,
        },
    }
}

/// Returns how much has come so far.
fn count(stats: &NodeStats) -> u64 {
    stats.packets_in + stats.events
}

impl Questions {
    /// Returns true if all have been answered, or it is too late for that.
    fn are_over(&self, node: &Node, now: Instant) -> bool {
        if self.all_done.try_recv() == Err(TryRecvError::Disconnected) {
            return true;
        }
        let is_late = self.ends.is_some_and(|ends| now >= ends);
        if is_late {
            self.is_late.store(true, Ordering::Relaxed);
            log::warn!(target: "epicycle::cluster", "the locator is too slow: users stay bound to {}", node.id());
        }
        is_late
    }
}
