//! The mailbox: a bounded queue of commands from other threads to a reactor, with one wake-up per batch.
//!
//! The reactor sets `asleep` under the lock of the queue, and only if the queue is empty. A sender that finds it awake has
//! queued its item before the reactor checks the queue and sleeps. A sender that finds it asleep wakes it. The reactor clears
//! `asleep` without the lock when it wakes for another reason. A sender that does not see this yet causes an unnecessary
//! wake-up. No wake-up is ever lost.

use std::collections::VecDeque;

use self::sync::{AtomicBool, Mutex, Ordering};

/// A bounded queue to a thread that sleeps in a system call.
#[derive(Debug)]
pub struct Mailbox<T, W> {
    queue: Mutex<Queue<T>>,
    asleep: AtomicBool,
    capacity: usize,
    waker: W,
}

#[derive(Debug)]
struct Queue<T> {
    items: VecDeque<T>,
    closed: bool,
}

/// A means to wake a reactor.
pub trait Wake {
    /// Ends the current sleep, or makes the next one return at once.
    fn wake(&self);
}

impl Wake for mio::Waker {
    fn wake(&self) {
        if let Err(error) = mio::Waker::wake(self) {
            log::error!(target: "epicycle::reactor", "cannot wake a reactor: {error}");
        }
    }
}

/// The reason why an item was refused, with the item.
#[derive(Debug, PartialEq, Eq)]
pub enum PushError<T> {
    /// The mailbox is full.
    Full(T),
    /// The reactor has ended.
    Closed(T),
}

impl<T, W: Wake> Mailbox<T, W> {
    /// Creates a mailbox for at most `capacity` waiting items.
    pub fn new(capacity: usize, waker: W) -> Self {
        Self {
            queue: Mutex::new(Queue {
                items: VecDeque::new(),
                closed: false,
            }),
            asleep: AtomicBool::new(false),
            capacity,
            waker,
        }
    }

    /// Queues an item and wakes the reactor if it sleeps.
    ///
    /// # Errors
    ///
    /// Returns the item if the mailbox is full or closed.
    pub fn push(&self, item: T) -> Result<(), PushError<T>> {
        self.push_within(self.capacity, item)
    }

    /// Queues an item even if the mailbox is full. Only for items that have another bound.
    ///
    /// # Errors
    ///
    /// Returns the item if the mailbox is closed.
    pub fn push_unbounded(&self, item: T) -> Result<(), PushError<T>> {
        self.push_within(usize::MAX, item)
    }

    fn push_within(&self, capacity: usize, item: T) -> Result<(), PushError<T>> {
        let mut queue = self.queue.lock();
        if queue.closed {
            return Err(PushError::Closed(item));
        }
        if queue.items.len() >= capacity {
            return Err(PushError::Full(item));
        }
        queue.items.push_back(item);
        let asleep = self.asleep.swap(false, Ordering::Relaxed);
        drop(queue);
        if asleep {
            self.waker.wake();
        }
        Ok(())
    }

    /// Takes all queued items. `empty` becomes the new queue, so that its memory is reused.
    pub fn take(&self, empty: VecDeque<T>) -> VecDeque<T> {
        debug_assert!(empty.is_empty());
        std::mem::replace(&mut self.queue.lock().items, empty)
    }

    /// Declares the reactor asleep if the queue is empty. Returns true if it may sleep.
    pub fn try_sleep(&self) -> bool {
        let queue = self.queue.lock();
        let may_sleep = queue.items.is_empty();
        self.asleep.store(may_sleep, Ordering::Relaxed);
        may_sleep
    }

    /// Declares the reactor awake, so that senders need not wake it.
    #[inline]
    pub fn set_awake(&self) {
        self.asleep.store(false, Ordering::Relaxed);
    }

    /// Refuses all further items. Returns the waiting ones.
    pub fn close(&self) -> VecDeque<T> {
        let mut queue = self.queue.lock();
        queue.closed = true;
        std::mem::take(&mut queue.items)
    }

    /// Returns the number of waiting items.
    pub fn len(&self) -> usize {
        self.queue.lock().items.len()
    }

    /// Returns true if no item waits.
    #[cfg(any(all(test, not(loom)), feature = "internals"))]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(not(test))]
mod sync {
    pub(super) use parking_lot::Mutex;
    pub(super) use std::sync::atomic::{AtomicBool, Ordering};
}

/// A lock whose release can trigger a test's callback, as if another thread ran at the worst moment.
#[cfg(all(test, not(loom)))]
mod sync {
    use std::cell::RefCell;
    use std::ops::{Deref, DerefMut};

    pub(super) use std::sync::atomic::{AtomicBool, Ordering};

    thread_local! {
        static NEXT_RELEASE: RefCell<Option<Box<dyn FnOnce()>>> = RefCell::default();
    }

    /// Calls `then` right after the next release of such a lock by this thread.
    pub(super) fn on_next_release(then: impl FnOnce() + 'static) {
        NEXT_RELEASE.set(Some(Box::new(then)));
    }

    #[derive(Debug)]
    pub(super) struct Mutex<T>(parking_lot::Mutex<T>);

    pub(super) struct MutexGuard<'a, T>(Option<parking_lot::MutexGuard<'a, T>>);

    impl<T> Mutex<T> {
        pub(super) fn new(value: T) -> Self {
            Self(parking_lot::Mutex::new(value))
        }

        pub(super) fn lock(&self) -> MutexGuard<'_, T> {
            MutexGuard(Some(self.0.lock()))
        }
    }

    impl<T> Drop for MutexGuard<'_, T> {
        fn drop(&mut self) {
            self.0 = None;
            if let Some(then) = NEXT_RELEASE.take() {
                then();
            }
        }
    }

    impl<T> Deref for MutexGuard<'_, T> {
        type Target = T;

        fn deref(&self) -> &T {
            self.0.as_ref().expect("it is held until it is dropped")
        }
    }

    impl<T> DerefMut for MutexGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            self.0.as_mut().expect("it is held until it is dropped")
        }
    }
}

/// The replacements by loom, which tries every interleaving.
#[cfg(all(test, loom))]
pub(crate) mod sync {
    pub(crate) use loom::sync::MutexGuard;
    pub(super) use loom::sync::atomic::{AtomicBool, Ordering};

    #[derive(Debug)]
    pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(loom::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().unwrap()
        }
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::sync::{Arc, Condvar};
    use loom::thread;

    /// A model of an eventfd: `wake` sets it, `sleep` waits for it and resets it.
    #[derive(Default)]
    struct Event {
        set: loom::sync::Mutex<bool>,
        changed: Condvar,
    }

    impl Event {
        fn sleep(&self) {
            let mut set = self.set.lock().unwrap();
            while !*set {
                set = self.changed.wait(set).unwrap();
            }
            *set = false;
        }
    }

    impl Wake for Arc<Event> {
        fn wake(&self) {
            *self.set.lock().unwrap() = true;
            self.changed.notify_one();
        }
    }

    /// Receives like the reactor. A lost wake-up is a deadlock, which loom reports.
    fn receive(mailbox: &Mailbox<u32, Arc<Event>>, event: &Event, count: usize) -> Vec<u32> {
        let mut received = Vec::new();
        while received.len() < count {
            if mailbox.try_sleep() {
                event.sleep();
                mailbox.set_awake();
            }
            received.extend(mailbox.take(VecDeque::new()));
        }
        received
    }

    #[test]
    fn no_wake_up_is_lost() {
        loom::model(|| {
            let event = Arc::new(Event::default());
            let mailbox = Arc::new(Mailbox::new(8, event.clone()));
            let senders: Vec<_> = (0..2)
                .map(|n| {
                    let mailbox = mailbox.clone();
                    thread::spawn(move || mailbox.push(n).unwrap())
                })
                .collect();
            let mut received = receive(&mailbox, &event, 2);
            received.sort_unstable();
            assert_eq!(received, [0, 1]);
            for sender in senders {
                sender.join().unwrap();
            }
        });
    }

    #[test]
    fn one_senders_items_keep_their_order() {
        loom::model(|| {
            let event = Arc::new(Event::default());
            let mailbox = Arc::new(Mailbox::new(8, event.clone()));
            let sender = thread::spawn({
                let mailbox = mailbox.clone();
                move || (0..3).for_each(|n| mailbox.push(n).unwrap())
            });
            assert_eq!(receive(&mailbox, &event, 3), [0, 1, 2]);
            sender.join().unwrap();
        });
    }

    #[test]
    fn an_item_is_either_received_or_given_back_by_close() {
        loom::model(|| {
            let event = Arc::new(Event::default());
            let mailbox = Arc::new(Mailbox::new(8, event));
            let sender = thread::spawn({
                let mailbox = mailbox.clone();
                move || mailbox.push(7)
            });
            let left = mailbox.close();
            match sender.join().unwrap() {
                Ok(()) => assert_eq!(left, [7]),
                Err(error) => assert_eq!(error, PushError::Closed(7)),
            }
        });
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::sync::on_next_release;
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;

    impl Wake for Arc<AtomicUsize> {
        fn wake(&self) {
            self.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_batch_wakes_once() {
        let wakes = Arc::new(AtomicUsize::new(0));
        let mailbox = Mailbox::new(8, wakes.clone());
        assert!(mailbox.try_sleep());
        for n in 0..5 {
            mailbox.push(n).unwrap();
        }
        assert_eq!(wakes.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn an_item_that_comes_when_the_reactor_has_just_fallen_asleep_wakes_it() {
        let wakes = Arc::new(AtomicUsize::new(0));
        let mailbox = Arc::new(Mailbox::new(8, wakes.clone()));
        let sender = mailbox.clone();
        on_next_release(move || sender.push(1).unwrap());
        assert!(mailbox.try_sleep(), "nothing was queued at that moment");
        assert_eq!(mailbox.len(), 1);
        assert_eq!(wakes.load(Ordering::Relaxed), 1, "the wake-up is lost");
    }

    #[test]
    fn an_awake_reactor_is_not_woken() {
        let wakes = Arc::new(AtomicUsize::new(0));
        let mailbox = Mailbox::new(8, wakes.clone());
        mailbox.push(1).unwrap();
        assert!(!mailbox.try_sleep(), "an item waits");
        assert_eq!(wakes.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_full_mailbox_gives_the_item_back() {
        let mailbox = Mailbox::new(2, Arc::new(AtomicUsize::new(0)));
        mailbox.push(1).unwrap();
        mailbox.push(2).unwrap();
        assert_eq!(mailbox.push(3), Err(PushError::Full(3)));
        mailbox.push_unbounded(4).unwrap();
        assert_eq!(mailbox.take(VecDeque::new()), [1, 2, 4]);
        assert!(mailbox.is_empty());
    }
}
