//! The handlers of a reactor that are futures, polled on the reactor.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::thread;

use super::context::ReplyHead;
use super::session::{Polling, Shared, TaskWaker};
use super::stream::Stream;
use super::wire::Status;
use super::working::Working;
use crate::engine::slots::ConnId;

/// The body of a reply, encoded.
pub(super) type Answering = Pin<Box<dyn Future<Output = Result<Vec<u8>, Status>>>>;

/// The futures of a reactor, by their numbers.
#[derive(Default)]
pub(super) struct Tasks {
    next: Cell<u64>,
    open: RefCell<HashMap<u64, Task>>,
}

/// The future of one call.
pub(super) struct Task {
    pub(super) conn: ConnId,
    pub(super) of: TaskOf,
    pub(super) head: Rc<RefCell<ReplyHead>>,
    pub(super) future: Answering,
    /// Counts a call's as at work. A stream's ends count it themselves.
    pub(super) _working: Option<Working>,
}

/// The work of a task.
#[derive(Clone)]
pub(super) enum TaskOf {
    /// It answers the call with this number on its connection.
    Call(u64),
    /// It ends the stream.
    Stream(Arc<Stream>),
}

/// A future that is ready.
pub(super) struct Finished {
    pub(super) conn: ConnId,
    pub(super) of: TaskOf,
    pub(super) head: ReplyHead,
    pub(super) result: thread::Result<Result<Vec<u8>, Status>>,
}

impl Tasks {
    /// Returns the number of the next task.
    pub(super) fn next_number(&self) -> u64 {
        self.next.replace(self.next.get() + 1)
    }

    /// Adds a task and polls it. Returns its result if it is ready.
    pub(super) fn begin(&self, number: u64, task: Task, peer: &Arc<Shared>) -> Option<Finished> {
        let waker = Arc::new(TaskWaker::new(peer.clone(), task.conn.reactor(), number));
        self.step(number, task, waker)
    }

    /// Polls a task that was woken, if it is still there. Returns its result if it is ready.
    pub(super) fn poll(&self, waker: Arc<TaskWaker>) -> Option<Finished> {
        let number = waker.begin_poll();
        // It is not in the table while it is polled, so that it can be cancelled there.
        let task = self.open.borrow_mut().remove(&number)?;
        self.step(number, task, waker)
    }

    fn step(&self, number: u64, mut task: Task, waker: Arc<TaskWaker>) -> Option<Finished> {
        let waker = Waker::from(waker);
        let mut context = Context::from_waker(&waker);
        let polling = Polling::begin();
        let polled = catch_unwind(AssertUnwindSafe(|| task.future.as_mut().poll(&mut context)));
        drop(polling);
        let result = match polled {
            Ok(Poll::Pending) => {
                self.open.borrow_mut().insert(number, task);
                return None;
            }
            Ok(Poll::Ready(result)) => Ok(result),
            Err(panic) => Err(panic),
        };
        let finished = Finished {
            conn: task.conn,
            of: task.of.clone(),
            head: task.head.take(),
            result,
        };
        discard(task);
        Some(finished)
    }

    /// Drops a task, because its caller no longer waits.
    pub(super) fn cancel(&self, number: u64) {
        let task = self.open.borrow_mut().remove(&number);
        if let Some(task) = task {
            discard(task);
        }
    }
}

/// Drops a task. The drop of its future is the application's code.
fn discard(task: Task) {
    crate::panic::catch("epicycle::rpc", "the drop of a handler's future", || {
        drop(task);
    });
}
