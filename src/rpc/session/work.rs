//! The queue of what callbacks have given the reactor that runs on this thread.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Wake;

use super::order::Order;
use super::place::Address;
use super::shared::TaskWaker;
use super::thread::is_loop_of;

thread_local! {
    /// True if there is work. Unlike the queue it needs no destructor, so that a look at it is cheap.
    static HAS_WORK: Cell<bool> = const { Cell::new(false) };
    /// True while a task is polled.
    static IS_POLLING: Cell<bool> = const { Cell::new(false) };
    static WORK: RefCell<VecDeque<Work>> = const { RefCell::new(VecDeque::new()) };
}

/// A piece of work that a callback on this thread has given its reactor.
///
/// An order for a session of this reactor does not go through the mailbox. It is carried out when the handler returns and
/// before its reply is sent, so that messages leave in the order in which they were sent.
#[allow(
    clippy::large_enum_variant,
    reason = "most pieces are orders, and a box would cost each message an allocation"
)]
pub(in crate::rpc) enum Work {
    Order(Address, Order),
    Poll(Arc<TaskWaker>),
}

/// Has work done before the callback on this thread returns to the reactor.
pub(in crate::rpc) fn give(work: Work) {
    WORK.with_borrow_mut(|queue| queue.push_back(work));
    HAS_WORK.set(true);
}

/// Returns true if a callback on this thread has given work.
#[inline]
pub(in crate::rpc) fn has_work() -> bool {
    HAS_WORK.get()
}

/// Takes the oldest piece of work that a callback on this thread has given.
pub(in crate::rpc) fn next_work() -> Option<Work> {
    let work = WORK.with_borrow_mut(VecDeque::pop_front);
    HAS_WORK.set(work.is_some());
    work
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        if self.is_woken.swap(true, Ordering::AcqRel) {
            return;
        }
        // A task that is woken while it is polled waits for the next turn, so that one that wakes itself holds nobody up.
        if is_loop_of(&self.peer, self.reactor) && !IS_POLLING.get() {
            give(Work::Poll(self));
        } else if let Some(target) = self.peer.target.get() {
            target.poll(self.reactor, self.clone());
        }
    }
}

/// Marks that a task is polled, as long as it exists.
pub(in crate::rpc) struct Polling(());

impl Polling {
    pub(in crate::rpc) fn begin() -> Self {
        IS_POLLING.set(true);
        Self(())
    }
}

impl Drop for Polling {
    fn drop(&mut self) {
        IS_POLLING.set(false);
    }
}
