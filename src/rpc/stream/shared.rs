//! One side of a stream, as the threads share it: its rules, the items that wait, and those who wait for them.

use std::cell::Cell;
use std::collections::VecDeque;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Poll, Waker};
use std::thread;

use parking_lot::{Condvar, Mutex};

use super::flow::{Flow, Role, Unsendable, Violation};
use super::{STREAM_BY, STREAM_ID};
use crate::panic;
use crate::rpc::cancellation::{Callbacks, Cancellation};
use crate::rpc::reply::local;
use crate::rpc::wire::{Message, Meta, Status, code};

/// One side of a stream.
pub(in crate::rpc) struct Stream {
    role: Role,
    link: Box<dyn Link>,
    /// Known to the opener once the CALL is sent.
    id: OnceLock<Id>,
    state: Mutex<State>,
    changed: Condvar,
    /// True once the stream is over. The context of a handler looks at it.
    cancelled: Arc<Cancellation>,
}

/// The identity of a stream on its connection.
struct Id {
    seq: Box<[u8]>,
    /// The metadata of this side's messages.
    meta: Meta<'static>,
}

/// The way to the reactor of the stream's connection.
pub(in crate::rpc) trait Link: Send + Sync {
    /// Has a signal handled on the reactor, behind everything that this thread has sent before. It needs no room in a mailbox:
    /// the stream bounds the number of its signals. Returns false if the session has ended.
    fn signal(&self, stream: &Arc<Stream>, signal: Signal) -> bool;
}

/// A request to the reactor.
pub(in crate::rpc) enum Signal {
    /// Send an item.
    Item(Message<'static>),
    /// Grant the other side credit for this many items.
    Grant(u32),
    /// End the items of this side.
    End(Result<(), Status>),
    /// Cancel the stream.
    Cancel,
    /// Give the reader's callback what has arrived.
    Deliver(Delivery),
}

/// Gives a reader's callback what has arrived when it is dropped: on the reactor, or wherever its signal is lost because the
/// session has ended.
pub(in crate::rpc) struct Delivery(Arc<Stream>);

impl Drop for Delivery {
    fn drop(&mut self) {
        self.0.deliver();
    }
}

/// An item or the end, for a reader.
pub(in crate::rpc) enum Step {
    Item(Item),
    /// Comes once, last.
    End(Result<(), Status>),
}

/// Takes the items, and the end. An error ends the stream.
pub(in crate::rpc) type OnStep = Box<dyn FnMut(Step) -> Result<(), Status> + Send>;

/// Is told once that there is room, or the reason why there will be none.
pub(in crate::rpc) type OnRoom = Box<dyn FnOnce(Result<(), Status>) + Send>;

/// Is told once that the stream was ended by something else than the sender.
pub(in crate::rpc) type OnCancel = Box<dyn FnOnce(Status) + Send>;

/// The most items that a sender may have on their way to the connection's output.
const MAX_WAITING: usize = 64;

/// The number of bytes on their way to the connection's output from which on no more items are taken.
const MAX_WAITING_BYTES: usize = 256 << 10;

struct State {
    flow: Flow,
    items: VecDeque<Item>,
    reader: Reader,
    is_end_told: bool,
    /// The items that are on their way to the connection's output, and their bytes.
    waiting: usize,
    waiting_bytes: usize,
    /// True if the connection's output is above its high-water mark.
    is_congested: bool,
    wakers: Vec<Waker>,
    on_room: Vec<OnRoom>,
    on_cancel: Vec<OnCancel>,
}

/// An item that has arrived.
pub(in crate::rpc) struct Item {
    message: Message<'static>,
    after: Option<AfterItem>,
    _held: Held,
}

/// Sees an item when it has been decoded. An error ends the stream.
pub(in crate::rpc) type AfterItem = Box<dyn FnOnce(Message<'static>) -> Result<(), Status> + Send>;

/// Counts bytes as held as long as it exists.
struct Held {
    bytes: usize,
    total: Arc<AtomicUsize>,
}

impl Item {
    /// `held` counts the bytes of the items of a session that wait for their readers.
    pub(in crate::rpc) fn new(message: Message<'static>, held: &Arc<AtomicUsize>) -> Self {
        let bytes = message.body.len() + message.meta.encoded().len();
        held.fetch_add(bytes, Ordering::Relaxed);
        let total = held.clone();
        Self {
            message,
            after: None,
            _held: Held { bytes, total },
        }
    }

    /// Sets who sees the item when it has been decoded.
    pub(in crate::rpc) fn then(mut self, after: Option<AfterItem>) -> Self {
        self.after = after;
        self
    }

    pub(in crate::rpc) fn into_parts(self) -> (Message<'static>, Option<AfterItem>) {
        (self.message, self.after)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.total.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Whoever takes the items.
enum Reader {
    /// A thread that waits, or nobody yet.
    Idle,
    Task(Waker),
    Callback(OnStep),
    /// The callback runs.
    Busy,
    /// Nobody wants them any more.
    Gone,
}

impl State {
    fn has_room(&self) -> bool {
        self.flow.credit() > 0
            && !self.is_congested
            && self.waiting < MAX_WAITING
            && self.waiting_bytes < MAX_WAITING_BYTES
    }

    /// Returns true if there is room, or the reason why there will be none.
    fn room(&self) -> Option<Result<(), Status>> {
        match self.flow.closed() {
            Some(status) => Some(Err(status)),
            None => self.has_room().then_some(Ok(())),
        }
    }

    /// Records that an item is no longer on its way to the connection's output.
    fn leave(&mut self, bytes: usize) {
        self.waiting = self.waiting.saturating_sub(1);
        self.waiting_bytes = self.waiting_bytes.saturating_sub(bytes);
        if self.waiting == 0 {
            self.is_congested = false;
        }
    }

    fn has_step(&self) -> bool {
        !self.items.is_empty() || (self.flow.incoming().is_some() && !self.is_end_told)
    }

    /// Takes what the reader gets next, and the number of items that can be granted now.
    fn take(&mut self) -> Option<(Step, Option<u32>)> {
        if let Some(item) = self.items.pop_front() {
            return Some((Step::Item(item), self.flow.consume()));
        }
        let result = self.flow.incoming().filter(|_| !self.is_end_told)?.clone();
        self.is_end_told = true;
        Some((Step::End(result), None))
    }
}

/// Those who are told of a change, once the lock is released.
#[derive(Default)]
struct Notices {
    wakers: Vec<Waker>,
    on_room: Vec<OnRoom>,
    room: Option<Result<(), Status>>,
    on_cancel: Vec<OnCancel>,
    stopped: Option<Status>,
    /// Those who wait for the end of the stream.
    ended: Callbacks,
    delivers: bool,
}

impl Stream {
    pub(in crate::rpc) fn new(role: Role, window: u32, link: Box<dyn Link>) -> Arc<Self> {
        Arc::new(Self {
            role,
            link,
            id: OnceLock::new(),
            state: Mutex::new(State {
                flow: Flow::new(role, window),
                items: VecDeque::new(),
                reader: Reader::Idle,
                is_end_told: false,
                waiting: 0,
                waiting_bytes: 0,
                is_congested: false,
                wakers: Vec::new(),
                on_room: Vec::new(),
                on_cancel: Vec::new(),
            }),
            changed: Condvar::new(),
            cancelled: Arc::default(),
        })
    }

    pub(in crate::rpc) fn role(&self) -> Role {
        self.role
    }

    /// Sets the `seq` of the CALL that opens the stream.
    pub(in crate::rpc) fn set_seq(&self, seq: &[u8]) {
        let mut meta = Meta::default();
        meta.set(STREAM_ID, seq);
        meta.set(STREAM_BY, self.role.name());
        let seq = seq.into();
        self.id.get_or_init(|| Id { seq, meta });
    }

    /// Returns the `seq` of the CALL that opened the stream. It is empty before the CALL is sent.
    pub(in crate::rpc) fn seq(&self) -> &[u8] {
        self.id.get().map_or(&[], |id| &id.seq)
    }

    /// Returns the metadata of this side's messages.
    pub(in crate::rpc) fn meta(&self) -> Meta<'static> {
        self.id
            .get()
            .map_or_else(Meta::default, |id| id.meta.clone())
    }

    /// Returns the flag that is true once the stream is over.
    pub(in crate::rpc) fn cancelled(&self) -> Arc<Cancellation> {
        self.cancelled.clone()
    }

    pub(in crate::rpc) fn is_over(&self) -> bool {
        self.cancelled.is_cancelled()
    }

    pub(in crate::rpc) fn signal(self: &Arc<Self>, signal: Signal) -> bool {
        self.link.signal(self, signal)
    }

    /// Changes the state, and tells everybody who waits for what has become true.
    fn change<R>(self: &Arc<Self>, change: impl FnOnce(&mut State) -> R) -> R {
        let mut notices = Notices::default();
        let mut state = self.state.lock();
        let result = change(&mut state);
        if !(state.wakers.is_empty() && state.on_room.is_empty())
            && let Some(room) = state.room()
        {
            notices.wakers = mem::take(&mut state.wakers);
            notices.on_room = mem::take(&mut state.on_room);
            notices.room = Some(room);
        }
        if state.has_step() {
            match mem::replace(&mut state.reader, Reader::Idle) {
                Reader::Task(waker) => notices.wakers.push(waker),
                other => {
                    notices.delivers = matches!(other, Reader::Callback(_));
                    state.reader = other;
                }
            }
        }
        if state.flow.is_over() {
            notices.ended = self.cancelled.mark();
        }
        if let Some(status) = state.flow.stopped() {
            notices.stopped = Some(status.clone());
            notices.on_cancel = mem::take(&mut state.on_cancel);
        } else if state.flow.closed().is_some() {
            // Nobody is told any more. They may own handles of the stream, which would then keep each other alive.
            notices.on_cancel = mem::take(&mut state.on_cancel);
        }
        drop(state);
        self.changed.notify_all();
        self.tell(notices);
        result
    }

    fn tell(self: &Arc<Self>, notices: Notices) {
        for waker in notices.wakers {
            guard("a waker", || waker.wake());
        }
        if let Some(room) = notices.room {
            for callback in notices.on_room {
                guard("a callback of a stream's sender", || callback(room.clone()));
            }
        }
        for callback in notices.on_cancel {
            guard("a callback of a stream's end", || match notices.stopped {
                Some(ref status) => callback(status.clone()),
                None => drop(callback),
            });
        }
        notices.ended.run();
        if notices.delivers {
            self.signal(Signal::Deliver(Delivery(self.clone())));
        }
    }
}

/// The messages of the connection.
impl Stream {
    /// Takes the acceptance of the stream, or credit.
    pub(in crate::rpc) fn on_credit(self: &Arc<Self>, items: u32) -> Result<(), Violation> {
        self.change(|state| state.flow.on_credit(items))
    }

    /// Takes an item.
    pub(in crate::rpc) fn on_item(self: &Arc<Self>, item: Item) -> Result<(), Violation> {
        self.change(|state| {
            if state.flow.on_item()? && !matches!(state.reader, Reader::Gone) {
                state.items.push_back(item);
            }
            Ok(())
        })
    }

    /// Takes the reply of a peer that knows no streams. It is the only item.
    pub(in crate::rpc) fn on_plain_reply(self: &Arc<Self>, reply: Item) {
        self.change(|state| {
            if !state.flow.is_over() && !matches!(state.reader, Reader::Gone) {
                state.items.push_back(reply);
            }
            // The first end of a stream is no violation.
            let _ = state.flow.on_end(Ok(()));
        });
    }

    /// Takes the end of the other side's items.
    pub(in crate::rpc) fn on_end(
        self: &Arc<Self>,
        result: Result<(), Status>,
    ) -> Result<(), Violation> {
        self.change(|state| state.flow.on_end(result))
    }

    /// Ends the stream. Items that have arrived are still read.
    pub(in crate::rpc) fn stop(self: &Arc<Self>, status: Status) -> bool {
        self.change(|state| state.flow.stop(status))
    }

    /// Ends the stream, because nobody wants it any more. Returns false if it was over.
    pub(in crate::rpc) fn cancel(self: &Arc<Self>, status: Status) -> bool {
        self.change(|state| {
            state.items.clear();
            state.flow.stop(status)
        })
    }

    /// Records that an item waits, since the connection's output is above its high-water mark.
    pub(in crate::rpc) fn set_congested(&self) {
        self.state.lock().is_congested = true;
    }

    /// Records that an item is in the connection's output.
    pub(in crate::rpc) fn written(self: &Arc<Self>, bytes: usize) {
        self.change(|state| state.leave(bytes));
    }
}

/// The sender.
impl Stream {
    /// Returns the number of items that can be sent now.
    pub(in crate::rpc) fn credit(&self) -> u32 {
        let state = self.state.lock();
        match state.has_room() {
            true => state.flow.credit(),
            false => 0,
        }
    }

    /// Returns the reason why no more items can be sent.
    pub(in crate::rpc) fn closed(&self) -> Option<Status> {
        self.state.lock().flow.closed()
    }

    /// Begins to send an item, which is encoded next.
    pub(in crate::rpc) fn begin_send(&self) -> Result<(), Unsendable> {
        let mut state = self.state.lock();
        if state.flow.closed().is_none() && !state.has_room() {
            return Err(Unsendable::NoCredit);
        }
        state.flow.send()?;
        state.waiting += 1;
        Ok(())
    }

    /// Sends the item that was begun.
    pub(in crate::rpc) fn finish_send(
        self: &Arc<Self>,
        item: Message<'static>,
    ) -> Result<(), Status> {
        self.state.lock().waiting_bytes += item.body.len();
        match self.signal(Signal::Item(item)) {
            true => Ok(()),
            false => {
                // The session has ended, and its reactor is about to say so.
                let status = local(code::CONNECTION_CLOSED, "");
                self.stop(status.clone());
                Err(status)
            }
        }
    }

    /// Gives up an item that was begun.
    pub(in crate::rpc) fn give_up_send(self: &Arc<Self>) {
        self.change(|state| {
            state.flow.take_back();
            state.leave(0);
        });
    }

    /// Ends the items of this side. Returns false if they have ended already.
    pub(in crate::rpc) fn end(self: &Arc<Self>, result: Result<(), Status>) -> bool {
        let ends = self.change(|state| state.flow.end());
        if ends {
            self.signal(Signal::End(result));
        }
        ends
    }

    /// Marks that this side sends no items. The other side is not told.
    pub(in crate::rpc) fn send_nothing(self: &Arc<Self>) {
        self.change(|state| state.flow.end());
    }

    /// Waits for room. It blocks the thread.
    pub(in crate::rpc) fn wait_room(&self) -> Result<(), Status> {
        let mut state = self.state.lock();
        loop {
            if let Some(room) = state.room() {
                return room;
            }
            self.changed.wait(&mut state);
        }
    }

    pub(in crate::rpc) fn poll_room(&self, waker: &Waker) -> Poll<Result<(), Status>> {
        let mut state = self.state.lock();
        if let Some(room) = state.room() {
            return Poll::Ready(room);
        }
        if !state.wakers.iter().any(|other| other.will_wake(waker)) {
            state.wakers.push(waker.clone());
        }
        Poll::Pending
    }

    pub(in crate::rpc) fn on_room(self: &Arc<Self>, callback: OnRoom) {
        self.change(|state| state.on_room.push(callback));
    }

    pub(in crate::rpc) fn on_cancel(self: &Arc<Self>, callback: OnCancel) {
        self.change(|state| state.on_cancel.push(callback));
    }
}

/// The reader.
impl Stream {
    /// Waits for the next step. It blocks the thread. Returns `None` after the end.
    pub(in crate::rpc) fn wait_step(self: &Arc<Self>) -> Option<Step> {
        let mut state = self.state.lock();
        loop {
            if let Some((step, grant)) = state.take() {
                drop(state);
                self.grant(grant);
                return Some(step);
            }
            if state.is_end_told {
                return None;
            }
            self.changed.wait(&mut state);
        }
    }

    /// Takes the next step if there is one. `Ready(None)` is after the end.
    pub(in crate::rpc) fn poll_step(self: &Arc<Self>, waker: &Waker) -> Poll<Option<Step>> {
        let mut state = self.state.lock();
        if let Some((step, grant)) = state.take() {
            drop(state);
            self.grant(grant);
            return Poll::Ready(Some(step));
        }
        if state.is_end_told {
            return Poll::Ready(None);
        }
        state.reader = Reader::Task(waker.clone());
        Poll::Pending
    }

    /// Gives everything that arrives to a callback on the reactor's thread.
    pub(in crate::rpc) fn read_by(self: &Arc<Self>, callback: OnStep) {
        let mut state = self.state.lock();
        let before = mem::replace(&mut state.reader, Reader::Callback(callback));
        // A reader that has taken the end itself gets it again, since a callback waits for it.
        state.is_end_told = false;
        drop(state);
        drop(before);
        self.signal(Signal::Deliver(Delivery(self.clone())));
    }

    /// Gives the callback what has arrived, if there is one.
    pub(in crate::rpc) fn deliver(self: &Arc<Self>) {
        loop {
            let mut state = self.state.lock();
            let mut callback = match mem::replace(&mut state.reader, Reader::Busy) {
                Reader::Callback(callback) => callback,
                other => {
                    state.reader = other;
                    return;
                }
            };
            let Some((step, grant)) = state.take() else {
                state.reader = Reader::Callback(callback);
                return;
            };
            drop(state);
            let is_last = matches!(step, Step::End(_));
            let mut result = Ok(());
            let panicked = panic::catch("epicycle::rpc", "the callback of a stream", || {
                result = callback(step);
            });
            if panicked {
                let reason = "the callback of the stream panicked";
                result = Err(local(code::INTERNAL_SERVER_ERROR, reason));
            }
            if is_last {
                // It is dropped without the lock, because it is the application's.
                guard("the drop of a stream's callback", || drop(callback));
                return;
            }
            self.state.lock().reader = Reader::Callback(callback);
            match result {
                Ok(()) => self.grant(grant),
                Err(status) => self.abandon(status),
            }
        }
    }

    /// Ends the stream from this side's reader, and tells the other side.
    pub(in crate::rpc) fn abandon(self: &Arc<Self>, status: Status) {
        let was_open = {
            let mut state = self.state.lock();
            state.items.clear();
            !state.flow.is_over()
        };
        if !was_open {
            return;
        }
        self.signal(match self.role {
            Role::Opener => Signal::Cancel,
            Role::Acceptor => Signal::End(Err(status.clone())),
        });
        self.cancel(status);
    }

    /// Drops what arrives from now on.
    pub(in crate::rpc) fn read_nothing(&self) {
        let mut state = self.state.lock();
        let items = mem::take(&mut state.items);
        state.reader = Reader::Gone;
        drop(state);
        drop(items);
    }

    fn grant(self: &Arc<Self>, items: Option<u32>) {
        if let Some(items) = items {
            self.signal(Signal::Grant(items));
        }
    }
}

thread_local! {
    /// The stream whose handler runs on this thread, by its address.
    static RUNNING: Cell<usize> = const { Cell::new(0) };
}

impl Stream {
    /// Runs the handler of the stream. If it panics, the caller ends the stream, and the drop of its ends does not.
    pub(in crate::rpc) fn run<R>(
        self: &Arc<Self>,
        handler: impl FnOnce() -> R,
    ) -> thread::Result<R> {
        let outer = RUNNING.replace(Arc::as_ptr(self) as usize);
        let result = catch_unwind(AssertUnwindSafe(handler));
        RUNNING.set(outer);
        result
    }

    /// Ends the items of this side, whose sender was dropped.
    pub(in crate::rpc) fn end_dropped(self: &Arc<Self>, status: Status) {
        let is_ended_elsewhere = thread::panicking() && RUNNING.get() == Arc::as_ptr(self) as usize;
        if !is_ended_elsewhere {
            self.end(Err(status));
        }
    }
}

/// Calls the application's code.
fn guard(what: &str, code: impl FnOnce()) {
    panic::catch("epicycle::rpc", what, code);
}
