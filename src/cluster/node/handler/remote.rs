//! The calls of other threads.

use super::passing::spread;
use super::{NodeReactor, Session};
use crate::cluster::Error;
use crate::cluster::node::context::{Glimpse, Reactors, Subject, Task};
use crate::cluster::reactors::{Calls, call_all, glimpse_all};
use crate::engine::handler::{Engine, HandleError, Reactor};

impl<T: 'static> NodeReactor<T> {
    /// Hands users over to whom the application wants.
    fn hand_over(&mut self, users: Vec<i64>, reactor: &mut Reactor<'_, Self>) {
        self.core.now = reactor.now();
        let from = self.own_sender();
        let router = self.router.clone();
        for uid in users {
            self.left.insert(uid);
            if let Some(handler) = router.hand_over() {
                self.run(&from, (0, uid), Subject::Own, |state, request| {
                    handler(state, request)
                });
            }
        }
        self.settle(reactor);
    }

    fn say_bye(&self, reactor: &mut Reactor<'_, Self>) -> usize {
        let mut of_due = 0;
        reactor.for_each(|conn, session| {
            if let Session::Inbound(link) = session {
                of_due += usize::from(!link.inbound.bye(conn));
            }
        });
        of_due
    }
}

impl<T: 'static> Reactors for Engine<NodeReactor<T>> {
    fn post(&self, reactor: usize, task: Task) -> Result<(), Error> {
        let run = move |node: &mut NodeReactor<T>, reactor: &mut Reactor<'_, NodeReactor<T>>| {
            node.run_task(task, reactor);
        };
        self.run_on(reactor, run).map_err(|error| match error {
            HandleError::MailboxFull => Error::Busy {
                what: "mailbox of a reactor",
            },
            _ => Error::Draining,
        })
    }

    fn post_anyway(&self, reactor: usize, task: Task) {
        self.run_anyway(reactor, move |node, reactor| node.run_task(task, reactor));
    }

    fn hand_over(&self, users: &[i64]) -> Calls<()> {
        call_all(self, |id| {
            let reactors = self.reactors();
            let here = users
                .iter()
                .filter(|uid| spread(**uid as u64, reactors) == id);
            let here: Vec<i64> = here.copied().collect();
            move |node, reactor| node.hand_over(here, reactor)
        })
    }

    fn say_bye(&self) -> Calls<usize> {
        self.stop_accepting();
        call_all(self, |_| |node, reactor| node.say_bye(reactor))
    }

    fn glimpse(&self) -> Vec<Glimpse> {
        glimpse_all(self, |node, reactor| Glimpse {
            queues: node.core.lanes.queued(reactor),
            locating: node.core.locating_len,
            held: node.waiting.len(),
        })
    }
}
