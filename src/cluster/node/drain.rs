//! The end of a node, in stages.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use super::hooks::Stage;
use super::shared::{Shared, guarded};
use super::{Node, NodeStats};

/// The time that gates of due have for what they are about to send. They do not know Bye.
const GRACE: Duration = Duration::from_secs(2);

/// The time within which other nodes must have bound the users that were handed over.
const HANDING_OVER: Duration = Duration::from_secs(2);

/// The time within which gates learn of the state `hang`. A packet of a stateless route that comes to a node after Bye is lost.
const SETTLING: Duration = Duration::from_millis(500);

/// When nothing has come for this time after Bye, nothing is under way.
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
        self.close();
        let ends = Instant::now().checked_add(deadline);
        if let Err(error) = self.shared.registered.begin_drain() {
            log::warn!(target: "epicycle::cluster", "the node {} is not registered as hang: {error}", self.id());
        }
        let settled = Instant::now() + SETTLING;
        self.wait(ends, |node| Instant::now() >= settled && node.is_idle());
        self.hand_over(ends);
        let Some(reactors) = self.posting.reactors() else {
            return;
        };
        if reactors.say_bye() > 0 {
            let ends = Instant::now().checked_add(GRACE);
            self.wait(ends, |node| node.stats().links == 0);
        } else {
            self.await_quiet(ends);
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

    /// Gives up the users that are bound here.
    fn hand_over(&self, ends: Option<Instant>) {
        let shared = &self.shared;
        shared.is_leaving.store(true, Ordering::Release);
        if shared.is_unsure.load(Ordering::Acquire) {
            self.for_users(ends, |shared, uid| {
                let is_here =
                    |nid: Option<Arc<str>>| nid.is_some_and(|nid| *nid == *shared.ours.id);
                if !guarded(|| shared.locations.node(uid, &shared.alias)).is_ok_and(is_here) {
                    shared.users.lock().remove(&uid);
                }
            });
        }
        let users: Vec<i64> = shared.users.lock().iter().copied().collect();
        if let Some(reactors) = self.posting.reactors() {
            reactors.hand_over(&users);
        }
        if shared.hands_over {
            let ends = Instant::now().checked_add(HANDING_OVER);
            self.wait(ends, |node| {
                node.shared.users.lock().is_empty() && node.is_idle()
            });
        }
        self.for_users(ends, |shared, uid| {
            if let Err(error) = guarded(|| shared.unbind_node(uid)) {
                log::warn!(target: "epicycle::cluster", "the user {uid} stays bound to {}: {error}", shared.ours.id);
            }
        });
    }

    /// Calls `ask` for each user that is bound here, on worker threads, and waits for that: until `ends`, but for ten seconds at
    /// least.
    fn for_users(&self, ends: Option<Instant>, ask: fn(&Shared, i64)) {
        let users: Vec<i64> = self.shared.users.lock().iter().copied().collect();
        let least = Instant::now() + ASKING;
        let ends = ends.map(|ends| ends.max(least));
        let is_late = move || ends.is_some_and(|ends| Instant::now() >= ends);
        let (done, all_done) = mpsc::channel::<()>();
        for users in users.chunks(users.len().div_ceil(ASKERS).max(1)) {
            let (shared, users, done) = (self.shared.clone(), users.to_vec(), done.clone());
            let asked = self.shared.submit(None, move || {
                for uid in users {
                    if is_late() {
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
        drop(done);
        let waited = match ends {
            Some(ends) => all_done.recv_timeout(ends.saturating_duration_since(Instant::now())),
            None => all_done.recv().map_err(Into::into),
        };
        if waited == Err(RecvTimeoutError::Timeout) {
            log::warn!(target: "epicycle::cluster", "the locator is too slow: users stay bound to {}", self.id());
        }
    }

    /// Waits until nothing has come for a moment, and what came has been done.
    fn await_quiet(&self, ends: Option<Instant>) {
        let count = |stats: &NodeStats| stats.packets_in + stats.events;
        let least = Instant::now() + GRACE;
        let (mut last, mut since) = (count(&self.stats()), Instant::now());
        loop {
            let is_quiet = since.elapsed() >= QUIET;
            let ends = match self.is_idle() {
                true if is_quiet => return,
                true => Some(least),
                false => ends.map(|ends| ends.max(least)),
            };
            if ends.is_some_and(|ends| Instant::now() >= ends) {
                return;
            }
            thread::sleep(LOOK);
            let now = count(&self.stats());
            if now != last {
                (last, since) = (now, Instant::now());
            }
        }
    }

    fn wait(&self, ends: Option<Instant>, is_done: impl Fn(&Self) -> bool) {
        while !is_done(self) && ends.is_none_or(|ends| Instant::now() < ends) {
            thread::sleep(LOOK);
        }
    }
}
