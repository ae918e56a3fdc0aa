//! Sessions, and the state that all sessions of a peer share.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::task::Wake;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::codec::Formats;
use super::logging::LogOptions;
use super::outgoing::{CallState, Outgoing, WhenFull};
use super::reply::local;
use super::stats::{AllMeters, Counters};
use super::stream::{Link, Signal, Stream};
use super::swap::Swap;
use super::wire::{Codec, Kind, Message, Status, code};
use crate::addr::Addr;
use crate::engine::connect::Reconnect;
use crate::engine::handler::HandleError;
use crate::engine::reactor_thread;
use crate::engine::slots::ConnId;
use crate::panic;

/// One end of a conversation with another peer: calls and pushes go out on it.
///
/// Clones stand for the same session. It can be used from any thread. It ends when its connection does, unless it
/// [redials](super::PeerBuilder::redial).
#[derive(Clone)]
pub struct Session(Arc<Inner>);

struct Inner {
    peer: Arc<Shared>,
    end_point: Mutex<EndPoint>,
    id: Mutex<Arc<str>>,
    is_dialled: bool,
    /// True once the application has set the identifier.
    has_own_id: AtomicBool,
    /// True if the other side takes nothing but replies.
    only_answers: AtomicBool,
    is_aborted: AtomicBool,
    health: AtomicU8,
    age: SharedTime,
    handle_timeout: SharedTime,
    swap: OnceLock<Swap>,
    end: Mutex<End>,
    ended: Condvar,
}

/// The place and the addresses of a session.
struct EndPoint {
    place: Place,
    local: Addr,
    remote: Addr,
}

/// The place where orders for a session go.
#[derive(Clone)]
enum Place {
    /// The session has ended.
    Nowhere,
    Conn(ConnId),
    /// A session that redials has several connections, one after the other.
    Home(Arc<Home>),
}

/// The reactor of a session that redials.
pub(super) struct Home {
    reactor: usize,
    /// The token of the session's connections.
    token: u64,
    /// The number of pushes that wait for a connection.
    pushes: AtomicUsize,
}

/// The most pushes that wait for a connection. Each holds its message.
pub(super) const MAX_HELD_PUSHES: usize = 1024;

/// A time that threads share, in microseconds. 0 means none.
struct SharedTime(AtomicU64);

#[derive(Default)]
struct End {
    has_ended: bool,
    callbacks: Vec<Box<dyn FnOnce() + Send>>,
}

/// The state of a [`Session`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Health {
    /// It takes calls and pushes.
    Open,
    /// It is about to close: it takes no more calls, and those under way go on.
    Closing,
    /// It has ended.
    Closed,
    /// Its connection has ended, and a new one is being made. Calls and pushes wait for it.
    Redialling,
}

/// The state that the sessions of a peer share.
pub(super) struct Shared {
    pub(super) formats: Arc<Formats>,
    pub(super) settings: Settings,
    pub(super) sessions: Sessions,
    pub(super) counters: Counters,
    /// The number of calls that wait for their replies, on all sessions.
    pub(super) calls: Arc<AtomicUsize>,
    /// The number of deferred and blocking handlers at work, for all sessions.
    pub(super) deferred: Arc<AtomicUsize>,
    pub(super) meters: AllMeters,
    /// None if no plugin wants to see what is sent.
    pub(super) before_write: Option<Arc<dyn BeforeWrite>>,
    target: OnceLock<Box<dyn Target>>,
    /// The peer, which knows more than its sessions.
    peer: OnceLock<Weak<dyn Any + Send + Sync>>,
}

/// The options of a peer.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    /// The codec of bodies for which no other is set.
    pub(super) body_codec: Codec,
    /// The time within which the reply to a call must arrive.
    pub(super) call_timeout: Option<Duration>,
    /// The timeout of dials that set none. `None` is that of the engine.
    pub(super) dial_timeout: Option<Duration>,
    /// The local address of dials that set none.
    pub(super) dial_from: Option<IpAddr>,
    /// The time within which a handler must answer.
    pub(super) handle_timeout: Option<Duration>,
    /// The policy for new connections of dialled sessions whose dial has none of its own.
    pub(super) redial: Option<Reconnect>,
    /// The time after which a session closes.
    pub(super) session_age: Option<Duration>,
    /// The time within which a closing session ends its calls.
    pub(super) close_within: Duration,
    /// The most calls of a session that wait for their replies.
    pub(super) max_calls: usize,
    /// The most calls of a session that its deferred handlers have not answered.
    pub(super) max_deferred: usize,
    /// The most calls of all sessions that wait for their replies.
    pub(super) max_total_calls: usize,
    /// The most calls of all sessions that deferred handlers have not answered.
    pub(super) max_total_deferred: usize,
    /// The most streams of a session that one side has opened.
    pub(super) max_streams: usize,
    /// The most bytes of items that wait for their readers, of all streams of a session.
    pub(super) max_stream_bytes: usize,
    /// The first grant of credit for items that arrive.
    pub(super) stream_credit: u32,
    /// True if a reply tells the text of a handler's panic.
    pub(super) tells_panics: bool,
    pub(super) log: LogOptions,
}

/// A request to the reactor of a session.
pub(super) enum Order {
    Send(Outgoing),
    /// Send a message also if the session is not open.
    Write(Outgoing),
    /// End this call and tell the other side.
    Cancel(Arc<CallState>),
    /// End the connection at once, since the other side is gone. A session that redials goes on.
    Lose,
    /// Call the plugin with this name after this time.
    Timer(Box<str>, Duration),
    /// Count the session's age from now.
    Age,
    /// Close the session once its calls have ended, or after this time.
    Close(Duration),
    /// Close the session at once.
    Abort,
    /// Do something for a stream.
    Stream(Arc<Stream>, Signal),
    /// Show the connection.
    Show(Box<dyn FnOnce(&SessionConn<'_>) + Send>),
}

/// The connection of a session, as its reactor sees it: see [`Session::with_conn`].
#[derive(Debug)]
#[non_exhaustive]
pub struct SessionConn<'a> {
    /// The socket. Do not read from it or write to it.
    pub fd: BorrowedFd<'a>,
    /// The number of calls of this side that wait for their replies.
    pub calls_sent: usize,
    /// The number of calls of the other side whose handlers reply later, and have not yet.
    pub calls_received: usize,
    /// The number of bytes that wait to be sent.
    pub bytes_waiting: usize,
}

/// Sees calls and pushes before they are sent, on the sender's thread.
pub(super) trait BeforeWrite: Send + Sync {
    fn before_write(&self, session: &Session, message: &mut Message<'static>)
    -> Result<(), Status>;
}

/// The engine that serves the sessions.
pub(super) trait Target: Send + Sync {
    /// Gives an order to the reactor of a connection, or returns it with the reason why the reactor does not take it.
    fn order(&self, conn: ConnId, order: Order) -> Result<(), (HandleError, Box<Order>)>;

    /// Gives an order to the reactor of a session that redials, or returns it with the reason why the reactor does not take
    /// it.
    fn order_home(&self, home: &Home, order: Order) -> Result<(), (HandleError, Box<Order>)>;

    /// Gives an order that needs no room in the reactor's mailbox. The caller bounds the number of such orders.
    fn order_anyway(&self, reactor: usize, address: Address, order: Order);

    /// Has a task polled on its reactor. It needs no room in the reactor's mailbox.
    fn poll(&self, reactor: usize, waker: Arc<TaskWaker>);
}

/// Has a task of a reactor polled when it is woken.
pub(super) struct TaskWaker {
    peer: Arc<Shared>,
    reactor: usize,
    task: u64,
    /// True from when it is woken until it is polled.
    is_woken: AtomicBool,
}

impl TaskWaker {
    pub(super) fn new(peer: Arc<Shared>, reactor: usize, task: u64) -> Self {
        Self {
            peer,
            reactor,
            task,
            is_woken: AtomicBool::new(false),
        }
    }

    /// Returns the number of the task, which is polled now. It may be woken again from now on.
    pub(super) fn begin_poll(&self) -> u64 {
        self.is_woken.store(false, Ordering::Release);
        self.task
    }
}

/// Marks that a task is polled, as long as it exists.
pub(super) struct Polling(());

impl Polling {
    pub(super) fn begin() -> Self {
        IS_POLLING.set(true);
        Self(())
    }
}

impl Drop for Polling {
    fn drop(&mut self) {
        IS_POLLING.set(false);
    }
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

impl Shared {
    pub(super) fn new(
        formats: Arc<Formats>,
        settings: Settings,
        before_write: Option<Arc<dyn BeforeWrite>>,
        routes: usize,
    ) -> Self {
        Self {
            formats,
            settings,
            before_write,
            meters: AllMeters::new(routes),
            sessions: Sessions::default(),
            counters: Counters::default(),
            calls: Arc::default(),
            deferred: Arc::default(),
            target: OnceLock::new(),
            peer: OnceLock::new(),
        }
    }

    /// Sets the engine, when its first reactor boots.
    pub(super) fn set_target(&self, target: impl FnOnce() -> Box<dyn Target>) {
        self.target.get_or_init(target);
    }

    pub(super) fn set_peer(&self, peer: Weak<dyn Any + Send + Sync>) {
        self.peer.get_or_init(|| peer);
    }

    /// Returns the peer, unless it has ended.
    pub(super) fn peer(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        self.peer.get()?.upgrade()
    }
}

impl Session {
    pub(super) fn new(
        peer: Arc<Shared>,
        conn: ConnId,
        local: Addr,
        remote: Addr,
        is_dialled: bool,
    ) -> Self {
        let id = if is_dialled { &local } else { &remote };
        let settings = &peer.settings;
        Self(Arc::new(Inner {
            age: SharedTime::new(settings.session_age),
            handle_timeout: SharedTime::new(settings.handle_timeout),
            id: Mutex::new(id.to_string().into()),
            peer,
            end_point: Mutex::new(EndPoint {
                place: Place::Conn(conn),
                local,
                remote,
            }),
            is_dialled,
            has_own_id: AtomicBool::new(false),
            only_answers: AtomicBool::new(false),
            is_aborted: AtomicBool::new(false),
            health: AtomicU8::new(Health::Open as u8),
            swap: OnceLock::new(),
            end: Mutex::default(),
            ended: Condvar::new(),
        }))
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.0.peer
    }

    /// Returns the session's identifier: the remote address if it was accepted, and the local one if it was dialled, until
    /// [`set_id`](Self::set_id). If another session has that address, as is usual with Unix sockets, `#` and a number follow once
    /// the session is open. When a session has redialled, the local address is another one, and the identifier follows it unless
    /// it was set.
    pub fn id(&self) -> Arc<str> {
        self.0.id.lock().clone()
    }

    /// Sets the session's identifier. Another session of the peer with this identifier is closed.
    pub fn set_id(&self, id: impl Into<Arc<str>>) {
        let replaced = self.0.peer.sessions.rename(self, id.into());
        if let Some(other) = replaced {
            other.close();
        }
    }

    /// Returns a number that no other session has as long as this one exists.
    pub(super) fn number(&self) -> usize {
        Arc::as_ptr(&self.0).addr()
    }

    /// Returns the address of this end. It is that of the last connection.
    pub fn local_addr(&self) -> Addr {
        self.0.end_point.lock().local.clone()
    }

    /// Returns the address of the other end. It is that of the last connection.
    pub fn remote_addr(&self) -> Addr {
        self.0.end_point.lock().remote.clone()
    }

    /// Returns true if this side has dialled.
    pub fn is_client(&self) -> bool {
        self.0.is_dialled
    }

    /// Returns the state of the session.
    pub fn health(&self) -> Health {
        match self.0.health.load(Ordering::Acquire) {
            0 => Health::Open,
            1 => Health::Closing,
            3 => Health::Redialling,
            _ => Health::Closed,
        }
    }

    /// Returns the values that the application keeps with the session.
    pub fn swap(&self) -> &Swap {
        self.0.swap.get_or_init(Swap::default)
    }

    /// Returns the age at which the session closes, if there is one.
    pub fn age(&self) -> Option<Duration> {
        self.0.age.get()
    }

    /// Closes the session after this time, counted from now, as [`close`](Self::close) does. The time is shortened at random by
    /// up to a tenth, so that sessions that opened together do not close together. `None` or zero: it has no such limit. The
    /// default is the peer's [`session_age`](super::PeerBuilder::session_age), counted from when the session opens.
    pub fn set_age(&self, age: impl Into<Option<Duration>>) {
        self.0.age.set(age.into());
        // A session that has ended needs no age.
        let _ = self.order(Order::Age);
    }

    /// Returns the time within which the session's handlers must reply, if there is a limit.
    pub fn handle_timeout(&self) -> Option<Duration> {
        self.0.handle_timeout.get()
    }

    /// Sets the time within which a handler must reply to a call of this session, from the next call on. `None` or zero: no limit
    /// but the caller's own. The default is the peer's [`handle_timeout`](super::PeerBuilder::handle_timeout).
    pub fn set_handle_timeout(&self, timeout: impl Into<Option<Duration>>) {
        self.0.handle_timeout.set(timeout.into());
    }

    /// Closes the session. New calls are refused from now on, on both sides. Calls under way end first, within the peer's
    /// [`close_within`](super::PeerBuilder::close_within). Then the connection closes, and calls that are left end with
    /// [`CONNECTION_CLOSED`](code::CONNECTION_CLOSED). Returns at once. A session that redials ends now.
    pub fn close(&self) {
        self.close_within(self.0.peer.settings.close_within);
    }

    /// Closes the session as [`close`](Self::close) does, with another limit of time.
    pub fn close_within(&self, time: Duration) {
        let is_first = self.begin_close();
        self.order_end(Order::Close(time), is_first);
    }

    /// Closes the connection at once. All calls under way end with [`CONNECTION_CLOSED`](code::CONNECTION_CLOSED).
    pub fn abort(&self) {
        self.begin_close();
        let is_first = !self.0.is_aborted.swap(true, Ordering::AcqRel);
        self.order_end(Order::Abort, is_first);
    }

    /// Has [`Plugin::on_timer`](super::Plugin::on_timer) of a plugin of the peer called after this time. Each session has one
    /// such time for each plugin; another call replaces it. Before the session is open the plugin is not called.
    ///
    /// All times of a session share one timer of its reactor. The first one costs about 180 bytes until the session ends.
    pub fn set_timer(&self, plugin: &str, after: Duration) {
        // A session that has ended needs no timer.
        let _ = self.order(Order::Timer(plugin.into(), after));
    }

    /// Ends the connection at once, since the other side is gone. A session that redials goes on.
    pub(super) fn lose(&self) {
        let _ = self.order(Order::Lose);
    }

    /// Calls `callback` when the session has ended, on the reactor's thread. If it has ended already, calls it at once.
    pub fn on_close(&self, callback: impl FnOnce() + Send + 'static) {
        let mut end = self.0.end.lock();
        if !end.has_ended {
            end.callbacks.push(Box::new(callback));
            return;
        }
        drop(end);
        callback();
    }

    /// Waits until the session has ended, or until the time is over. Returns true if it has ended.
    ///
    /// It does not wait on a reactor's thread, which would have to end the session.
    pub fn wait_closed(&self, within: Duration) -> bool {
        let mut end = self.0.end.lock();
        let deadline = Instant::now().checked_add(within);
        while !end.has_ended && !is_on_loop() {
            let expired = match deadline {
                Some(deadline) => self.0.ended.wait_until(&mut end, deadline).timed_out(),
                None => {
                    self.0.ended.wait(&mut end);
                    false
                }
            };
            if expired {
                break;
            }
        }
        end.has_ended
    }

    /// Returns true if the other side takes nothing but replies.
    pub(super) fn only_answers(&self) -> bool {
        self.0.only_answers.load(Ordering::Acquire)
    }

    /// Marks that the other side takes nothing but replies.
    pub(super) fn set_only_answers(&self) {
        self.0.only_answers.store(true, Ordering::Release);
    }

    /// Marks that no new calls are made. Returns false if that was so before.
    pub(super) fn begin_close(&self) -> bool {
        loop {
            let health = self.health();
            if !matches!(health, Health::Open | Health::Redialling) {
                return false;
            }
            if self.change_health(health, Health::Closing) {
                return true;
            }
        }
    }

    /// Returns false if the session is not in the first state.
    fn change_health(&self, from: Health, to: Health) -> bool {
        (self.0.health)
            .compare_exchange(from as u8, to as u8, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// Gives a session that redials its reactor, and the token of its connections.
    pub(super) fn settle_at(&self, reactor: usize, token: u64) -> Arc<Home> {
        let home = Arc::new(Home {
            reactor,
            token,
            pushes: AtomicUsize::new(0),
        });
        self.0.end_point.lock().place = Place::Home(home.clone());
        home
    }

    /// Marks that the session has lost its connection and makes a new one. Returns false if it is closing.
    pub(super) fn begin_redial(&self) -> bool {
        self.change_health(Health::Open, Health::Redialling) || self.health() == Health::Redialling
    }

    /// Sets the addresses of the new connection.
    pub(super) fn set_addrs(&self, local: Addr, remote: Addr) {
        let mut end_point = self.0.end_point.lock();
        (end_point.local, end_point.remote) = (local, remote);
    }

    /// Marks that the new connection is open.
    pub(super) fn end_redial(&self) {
        self.change_health(Health::Redialling, Health::Open);
        let address = self.local_addr().to_string().into();
        self.0.peer.sessions.rename_to_address(self, address);
    }

    /// Marks the end of the session and tells everybody who waits for it.
    pub(super) fn end(&self) {
        self.0.health.store(Health::Closed as u8, Ordering::Release);
        self.0.end_point.lock().place = Place::Nowhere;
        self.0.peer.sessions.remove(self);
        let callbacks = {
            let mut end = self.0.end.lock();
            end.has_ended = true;
            std::mem::take(&mut end.callbacks)
        };
        self.0.ended.notify_all();
        for callback in callbacks {
            panic::catch(
                "epicycle::rpc",
                "a callback of `Session::on_close`",
                callback,
            );
        }
    }

    /// Shows the session's connection to `look`, on its reactor: the socket, for options that this crate does not know, and the
    /// numbers of what is under way. `look` must not block.
    ///
    /// ```
    /// # fn demo(session: &epicycle::rpc::Session) -> Result<(), epicycle::rpc::Status> {
    /// session.with_conn(|conn| println!("{} bytes wait", conn.bytes_waiting))?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`CONNECTION_CLOSED`](code::CONNECTION_CLOSED) if the session has ended, and [`WRITE_FAILED`](code::WRITE_FAILED) if the
    /// mailbox of its reactor is full. If the connection ends before `look` can be called, it is dropped.
    pub fn with_conn(
        &self,
        look: impl FnOnce(&SessionConn<'_>) + Send + 'static,
    ) -> Result<(), Status> {
        self.order(Order::Show(Box::new(look)))
    }

    /// Sends a message as it is. A CALL or a PUSH with an empty `seq` gets the session's next number. Nobody waits for the reply
    /// to a CALL; a plugin may [await](super::Next::Await) it. For messages that make up a protocol of their own, such as those
    /// before a session opens. If the session redials, it goes to the connection that is being made, and is dropped if there is
    /// none yet.
    ///
    /// # Errors
    ///
    /// [`CONNECTION_CLOSED`](code::CONNECTION_CLOSED) if the session has ended, and [`WRITE_FAILED`](code::WRITE_FAILED) if the
    /// mailbox of its reactor is full.
    pub fn write(&self, message: Message<'static>) -> Result<(), Status> {
        let has_own_seq = message.kind == Kind::Reply || !message.seq.is_empty();
        self.order(Order::Write(Outgoing {
            message,
            has_own_seq,
            call: None,
            when_full: WhenFull::Send,
            on_sent: None,
        }))
    }

    /// Sends a message. A CALL's waiter is told if that fails.
    pub(super) fn send(&self, mut outgoing: Outgoing) -> Result<(), Status> {
        match self.health() {
            Health::Open => {}
            Health::Redialling if outgoing.call.is_none() && !self.has_room_for_push() => {
                let reason = "too many pushes wait for a connection";
                return refuse(Order::Send(outgoing), local(code::WRITE_FAILED, reason));
            }
            Health::Redialling => {}
            Health::Closing | Health::Closed => {
                return refuse(Order::Send(outgoing), local(code::CONNECTION_CLOSED, ""));
            }
        }
        if self.only_answers() {
            let reason = "a session over HTTP only answers; it takes no calls and no pushes";
            return refuse(Order::Send(outgoing), local(code::WRITE_FAILED, reason));
        }
        if let Err(status) = self.before_write(&mut outgoing.message) {
            return refuse(Order::Send(outgoing), status);
        }
        // A plugin may have set it.
        outgoing.has_own_seq |= !outgoing.message.seq.is_empty();
        self.order(Order::Send(outgoing))
    }

    /// Lets the plugins see a CALL or a PUSH that is to be sent.
    pub(super) fn before_write(&self, message: &mut Message<'static>) -> Result<(), Status> {
        match &self.0.peer.before_write {
            Some(plugins) => plugins.before_write(self, message),
            None => Ok(()),
        }
    }

    pub(super) fn cancel(&self, call: Arc<CallState>) {
        let is_first = call.set_cancelled();
        self.order_end(Order::Cancel(call), is_first);
    }

    /// Gives an order to end something. The first such order is carried out also if the reactor's mailbox is full: a session that
    /// is to close would otherwise stay open, and nobody would know. There is one for each thing, so they are bounded.
    fn order_end(&self, order: Order, is_first: bool) {
        // If the reactor is gone, so is what the order is to end.
        let _ = self.order_by(order, is_first);
    }

    fn has_room_for_push(&self) -> bool {
        match &self.0.end_point.lock().place {
            Place::Home(home) => home.held_pushes() < MAX_HELD_PUSHES,
            _ => true,
        }
    }

    fn order(&self, order: Order) -> Result<(), Status> {
        self.order_by(order, false)
    }

    /// Gives an order. With `anyway` it needs no room in the reactor's mailbox.
    fn order_by(&self, order: Order, anyway: bool) -> Result<(), Status> {
        let closed = || local(code::CONNECTION_CLOSED, "");
        let place = self.0.end_point.lock().place.clone();
        let Some(target) = self.0.peer.target.get() else {
            return refuse(order, closed());
        };
        let (reactor, address) = match &place {
            Place::Conn(conn) => (conn.reactor(), Address::Conn(*conn)),
            Place::Home(home) => (home.reactor, Address::Home(home.token)),
            Place::Nowhere => return refuse(order, closed()),
        };
        if is_loop_of(&self.0.peer, reactor) {
            give(Work::Order(address.of_plugin(), order));
            return Ok(());
        }
        let given = match &place {
            Place::Conn(conn) => target.order(*conn, order),
            Place::Home(home) => target.order_home(home, order),
            Place::Nowhere => Err((HandleError::Closed, Box::new(order))),
        };
        given.or_else(|(error, order)| {
            let status = match error {
                HandleError::MailboxFull if anyway => {
                    target.order_anyway(reactor, address, *order);
                    return Ok(());
                }
                HandleError::Closed => closed(),
                error => local(code::WRITE_FAILED, error.to_string()),
            };
            refuse(*order, status)
        })
    }
}

impl Link for Session {
    fn signal(&self, stream: &Arc<Stream>, signal: Signal) -> bool {
        let place = self.0.end_point.lock().place.clone();
        let (reactor, address) = match &place {
            Place::Conn(conn) => (conn.reactor(), Address::Conn(*conn)),
            Place::Home(home) => (home.reactor, Address::Home(home.token)),
            Place::Nowhere => return false,
        };
        let Some(target) = self.0.peer.target.get() else {
            return false;
        };
        let order = Order::Stream(stream.clone(), signal);
        if is_loop_of(&self.0.peer, reactor) {
            give(Work::Order(address.of_plugin(), order));
        } else {
            target.order_anyway(reactor, address, order);
        }
        true
    }
}

/// Returns the reason why an order is not carried out. A call that waits is told.
fn refuse(order: Order, status: Status) -> Result<(), Status> {
    if let Order::Send(outgoing) | Order::Write(outgoing) = order {
        settle(outgoing, &status);
    }
    Err(status)
}

/// Tells whoever waits that a message is not sent.
pub(super) fn settle(outgoing: Outgoing, status: &Status) {
    if let Some(call) = outgoing.call {
        call.waiter.settle(Err(status.clone()));
    }
    if let Some(on_sent) = outgoing.on_sent {
        on_sent.tell(Err(status.clone()));
    }
}

impl SharedTime {
    fn new(time: Option<Duration>) -> Self {
        let this = Self(AtomicU64::new(0));
        this.set(time);
        this
    }

    #[inline]
    fn get(&self) -> Option<Duration> {
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            micros => Some(Duration::from_micros(micros)),
        }
    }

    fn set(&self, time: Option<Duration>) {
        let micros = |time: Duration| {
            time.as_nanos()
                .div_ceil(1000)
                .try_into()
                .unwrap_or(u64::MAX)
        };
        self.0.store(time.map_or(0, micros), Ordering::Relaxed);
    }
}

impl PartialEq for Session {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Session {}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("id", &self.id())
            .field("health", &self.health())
            .finish()
    }
}

/// The sessions of a peer, by their identifiers, and the number of those whose address another one had.
#[derive(Default)]
pub(super) struct Sessions(Mutex<HashMap<Arc<str>, Session>>, AtomicU64);

impl Sessions {
    // The lock of an identifier comes before that of the sessions, so that a session is listed under the identifier that it has.

    /// Adds a session. Returns another one that had its identifier.
    ///
    /// Two sessions may have one address, which is no identifier that anybody chose: the ends of Unix sockets have none, and a
    /// port may serve connections to several addresses. The later one gets a number.
    pub(super) fn insert(&self, session: &Session) -> Option<Session> {
        let mut id = session.0.id.lock();
        let mut sessions = self.0.lock();
        if !session.0.has_own_id.load(Ordering::Acquire) {
            *id = self.free(&sessions, id.clone());
        }
        sessions.insert(id.clone(), session.clone())
    }

    /// Sets the identifier of a session. Returns another one that had it.
    fn rename(&self, session: &Session, new: Arc<str>) -> Option<Session> {
        let mut id = session.0.id.lock();
        session.0.has_own_id.store(true, Ordering::Release);
        let old = std::mem::replace(&mut *id, new.clone());
        let mut sessions = self.0.lock();
        if sessions.get(&old) != Some(session) {
            // It is not listed, or not any more.
            return None;
        }
        sessions.remove(&old);
        sessions.insert(new, session.clone())
    }

    /// Changes the identifier of a session to an address, or to one with a number if another session has that address. One that
    /// the application has set stays.
    fn rename_to_address(&self, session: &Session, address: Arc<str>) {
        let mut id = session.0.id.lock();
        if session.0.has_own_id.load(Ordering::Acquire) {
            return;
        }
        let mut sessions = self.0.lock();
        let is_listed = sessions.get(&*id) == Some(session);
        if is_listed {
            sessions.remove(&*id);
        }
        *id = self.free(&sessions, address);
        if is_listed {
            sessions.insert(id.clone(), session.clone());
        }
    }

    /// Returns this identifier, or one with a number if a session has it.
    fn free(&self, sessions: &HashMap<Arc<str>, Session>, id: Arc<str>) -> Arc<str> {
        if !sessions.contains_key(&id) {
            return id;
        }
        let number = self.1.fetch_add(1, Ordering::Relaxed) + 2;
        format!("{id}#{number}").into()
    }

    fn remove(&self, session: &Session) {
        let id = session.0.id.lock();
        let mut sessions = self.0.lock();
        if sessions.get(&*id) == Some(session) {
            sessions.remove(&*id);
        }
    }

    pub(super) fn get(&self, id: &str) -> Option<Session> {
        self.0.lock().get(id).cloned()
    }

    pub(super) fn len(&self) -> usize {
        self.0.lock().len()
    }

    /// Returns all sessions, sorted by their identifiers.
    pub(super) fn all(&self) -> Vec<Session> {
        let mut all: Vec<_> = (self.0.lock().iter())
            .map(|(id, session)| (id.clone(), session.clone()))
            .collect();
        all.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        all.into_iter().map(|(_, session)| session).collect()
    }
}

thread_local! {
    /// The reactor whose callback runs on this thread: its peer, by its address, and its number.
    static CURRENT: Cell<Option<(usize, usize)>> = const { Cell::new(None) };
    /// True if there is work. Unlike the queue it needs no destructor, so that a look at it is cheap.
    static HAS_WORK: Cell<bool> = const { Cell::new(false) };
    /// The peer whose blocking handler runs on this thread, by its address.
    static WORKS_FOR: Cell<usize> = const { Cell::new(0) };
    /// True while a task is polled.
    static IS_POLLING: Cell<bool> = const { Cell::new(false) };
    /// The connection of a session that redials whose plugins run, with its token.
    static SETTING_UP: Cell<Option<(u64, ConnId)>> = const { Cell::new(None) };
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
pub(super) enum Work {
    Order(Address, Order),
    Poll(Arc<TaskWaker>),
}

/// The addressee of an order.
#[derive(Clone, Copy)]
pub(super) enum Address {
    Conn(ConnId),
    /// The session that redials with this token, on whatever connection it has.
    Home(u64),
}

impl Address {
    /// Returns the connection that is being set up, if a plugin of its session gives the order: the plugin's messages cannot
    /// wait until the session is open.
    fn of_plugin(self) -> Self {
        if let Address::Home(token) = self
            && let Some((own, conn)) = SETTING_UP.get()
            && token == own
        {
            return Address::Conn(conn);
        }
        self
    }
}

/// Marks, as long as it exists, that the plugins of a session run that redials.
pub(super) struct SettingUp(());

pub(super) fn begin_setting_up(token: u64, conn: ConnId) -> SettingUp {
    SETTING_UP.set(Some((token, conn)));
    SettingUp(())
}

impl Drop for SettingUp {
    fn drop(&mut self) {
        SETTING_UP.set(None);
    }
}

impl Home {
    pub(super) fn reactor(&self) -> usize {
        self.reactor
    }

    pub(super) fn token(&self) -> u64 {
        self.token
    }

    pub(super) fn held_pushes(&self) -> usize {
        self.pushes.load(Ordering::Relaxed)
    }

    pub(super) fn add_push(&self) {
        self.pushes.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn remove_push(&self) {
        self.pushes.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Marks this thread as a reactor's as long as it exists.
pub(super) struct Entered(Option<(usize, usize)>);

pub(super) fn enter(peer: &Arc<Shared>, reactor: usize) -> Entered {
    let this = Some((Arc::as_ptr(peer) as usize, reactor));
    Entered(CURRENT.replace(this))
}

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.set(self.0);
    }
}

/// Returns true if this thread runs a reactor, of any engine. Callbacks also run, and values are also dropped, outside of a
/// peer's handler.
pub(super) fn is_on_loop() -> bool {
    reactor_thread::is_current()
}

/// Runs a blocking handler of a peer on this thread, a worker's.
pub(super) fn work_for(peer: &Arc<Shared>, job: impl FnOnce()) {
    /// Ends the mark, also if the job panics.
    struct Worked(usize);
    impl Drop for Worked {
        fn drop(&mut self) {
            WORKS_FOR.set(self.0);
        }
    }
    let _worked = Worked(WORKS_FOR.replace(Arc::as_ptr(peer) as usize));
    job();
}

/// Returns true if this thread cannot wait for the end of a peer: it runs a reactor, or a handler that the peer waits for.
pub(super) fn is_waited_for_by(peer: &Arc<Shared>) -> bool {
    is_on_loop() || WORKS_FOR.get() == Arc::as_ptr(peer) as usize
}

fn is_loop_of(peer: &Arc<Shared>, reactor: usize) -> bool {
    CURRENT.get() == Some((Arc::as_ptr(peer) as usize, reactor))
}

/// Has work done before the callback on this thread returns to the reactor.
pub(super) fn give(work: Work) {
    WORK.with_borrow_mut(|queue| queue.push_back(work));
    HAS_WORK.set(true);
}

/// Returns true if a callback on this thread has given work.
#[inline]
pub(super) fn has_work() -> bool {
    HAS_WORK.get()
}

/// Takes the oldest piece of work that a callback on this thread has given.
pub(super) fn next_work() -> Option<Work> {
    let work = WORK.with_borrow_mut(VecDeque::pop_front);
    HAS_WORK.set(work.is_some());
    work
}
