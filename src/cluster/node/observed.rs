//! The metrics that a monitor tells of a node.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::context::{Glimpse, Posting};
use super::shared::Shared;
use crate::cluster::locator::Locator;
use crate::cluster::monitor::Observed;
use crate::cluster::{Kind, State};
use crate::metrics::{Expose, Exposition};

/// A node, as an observer sees it.
pub(super) struct ObservedNode {
    pub(super) shared: Arc<Shared>,
    pub(super) posting: Posting,
    pub(super) locator: Arc<dyn Locator>,
}

impl Observed for ObservedNode {
    fn identity(&self) -> (Kind, &str) {
        (Kind::Node, &self.shared.ours.id)
    }

    fn state(&self) -> Option<State> {
        State::from_code(self.shared.registered.state_code())
    }

    fn taken_by(&self) -> Option<String> {
        self.shared.registered.taken_by()
    }

    fn expose(&self, labels: &[(&str, &str)], to: &mut Exposition) {
        let shared = &self.shared;
        shared.stats().expose(labels, to);
        shared.registered.expose(labels, to);
        let locator = [labels, &[("role", "locator")]].concat();
        self.locator.expose(&locator, to);
        let (seen, actors) = (self.look(), shared.actors.summary());
        let users = shared.users.lock().len();
        let jobs = shared.jobs.load(Ordering::Relaxed);
        for (name, help, value) in [
            ("users", "Users that are bound to the node now.", users),
            ("jobs", "Jobs of handlers that have not ended.", jobs),
            (
                "actors_awaited",
                "Actors for which a drain waits, now.",
                actors.awaited,
            ),
            (
                "locating",
                "What is to be sent and waits for the locator, now.",
                seen.locating,
            ),
            (
                "held",
                "Packets and events that wait for the locator or another reactor, now.",
                seen.held,
            ),
            (
                "queued_bytes",
                "Bytes that wait for the reactors now.",
                shared.queued.total(),
            ),
        ] {
            to.gauge(&format!("epicycle_node_{name}"), help, labels, value as f64);
        }
        for (kind, mailboxes) in actors.kinds {
            let labels = [labels, &[("kind", kind.as_str())]].concat();
            let help = "Messages that wait for actors now.";
            let waiting = mailboxes.waiting as f64;
            to.gauge("epicycle_node_mailbox_messages", help, &labels, waiting);
            let help = "Messages that wait now for the actor that has the most.";
            let longest = mailboxes.longest as f64;
            to.gauge("epicycle_node_mailbox_longest", help, &labels, longest);
        }
        for (peer, bytes) in seen.queues {
            let labels = [labels, &[("peer", peer.as_str())]].concat();
            let help = "Bytes that wait for a server now: for its link, or for it to read.";
            to.gauge(
                "epicycle_node_link_queue_bytes",
                help,
                &labels,
                bytes as f64,
            );
        }
    }
}

/// The sum over the reactors.
#[derive(Default)]
struct Seen {
    queues: BTreeMap<String, u64>,
    locating: usize,
    held: usize,
}

impl ObservedNode {
    /// Looks at the reactors, as far as they answer in time.
    fn look(&self) -> Seen {
        let mut seen = Seen::default();
        let Some(reactors) = self.posting.reactors() else {
            return seen;
        };
        for glimpse in reactors.glimpse() {
            let Glimpse {
                queues,
                locating,
                held,
            } = glimpse;
            for (peer, bytes) in queues {
                *seen.queues.entry(peer).or_default() += bytes;
            }
            seen.locating += locating;
            seen.held += held;
        }
        seen
    }
}
