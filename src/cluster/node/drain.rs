//! The end of a node, in stages.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use super::hooks::Stage;
use super::{Node, NodeStats};

/// The time that gates of due have for what they are about to send. They do not know Bye.
const GRACE: Duration = Duration::from_secs(2);

/// The time within which other nodes must have bound the users that were handed over.
const HANDING_OVER: Duration = Duration::from_secs(2);

/// The time within which gates learn of the state `hang`. A packet of a stateless route that comes to a node after Bye is lost.
const SETTLING: Duration = Duration::from_millis(500);

/// When nothing has come for this time after Bye, nothing is under way.
const QUIET: Duration = Duration::from_millis(250);

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
    /// 4. tells gates and nodes to send no more, and takes what was under way. Those of due do not know that, and are served for 2 s
    ///    more;
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
        self.hand_over();
        let Some(reactors) = self.posting.reactors() else {
            return;
        };
        if reactors.say_bye() > 0 {
            let ends = Instant::now().checked_add(GRACE);
            self.wait(ends, |node| node.stats().links == 0);
        } else {
            self.await_quiet();
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
    fn hand_over(&self) {
        let shared = &self.shared;
        shared.is_leaving.store(true, Ordering::Release);
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
        let left: Vec<i64> = shared.users.lock().iter().copied().collect();
        for uid in left {
            if let Err(error) = shared.unbind_node(uid) {
                log::warn!(target: "epicycle::cluster", "the user {uid} stays bound to {}: {error}", self.id());
            }
        }
    }

    /// Waits until nothing has come for a moment.
    fn await_quiet(&self) {
        let count = |stats: &NodeStats| stats.packets_in + stats.events;
        let ends = Instant::now().checked_add(GRACE);
        let (mut last, mut since) = (count(&self.stats()), Instant::now());
        while since.elapsed() < QUIET && ends.is_none_or(|ends| Instant::now() < ends) {
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
