//! Sessions: what an application holds of a conversation, and the way from there to its reactor.

mod order;
mod place;
mod registry;
mod sending;
mod shared;
mod shared_time;
mod thread;
mod work;

use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

pub(super) use self::order::{Order, settle};
use self::place::Place;
pub(super) use self::place::{Address, Home, MAX_HELD_PUSHES, begin_setting_up};
pub(super) use self::shared::{BeforeWrite, Settings, Shared, Target, TaskWaker};
use self::shared_time::SharedTime;
pub(super) use self::thread::{enter, is_on_loop, is_waited_for_by, work_for};
pub(super) use self::work::{Polling, Work, give, has_work, next_work};
use super::swap::Swap;
use super::wire::Status;
use crate::addr::Addr;
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
    /// True if another session has taken the identifier.
    is_replaced: AtomicBool,
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
            is_replaced: AtomicBool::new(false),
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

    /// Sets the session's identifier. Another session of the peer with this identifier is closed, which
    /// [`is_replaced`](Self::is_replaced) tells. [`try_set_id`](Self::try_set_id) closes none.
    pub fn set_id(&self, id: impl Into<Arc<str>>) {
        let replaced = self.0.peer.sessions.rename(self, id.into());
        if let Some(other) = replaced {
            other.close_replaced();
        }
    }

    /// Sets the session's identifier, unless another session of the peer has it. Returns false then, and changes nothing.
    #[must_use = "the identifier is not set if another session has it"]
    pub fn try_set_id(&self, id: impl Into<Arc<str>>) -> bool {
        self.0.peer.sessions.try_rename(self, id.into())
    }

    /// Returns true if another session has taken the identifier of this one, which is closed for that reason.
    pub fn is_replaced(&self) -> bool {
        self.0.is_replaced.load(Ordering::Acquire)
    }

    /// Closes the session since another one has its identifier.
    pub(super) fn close_replaced(&self) {
        log::info!(target: "epicycle::rpc", "{}: closing: another session has taken the identifier {:?}", self.remote_addr(), self.id());
        self.0.is_replaced.store(true, Ordering::Release);
        self.close();
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
    /// [`CONNECTION_CLOSED`](super::code::CONNECTION_CLOSED). Returns at once. A session that redials ends now.
    pub fn close(&self) {
        self.close_within(self.0.peer.settings.close_within);
    }

    /// Closes the session as [`close`](Self::close) does, with another limit of time.
    pub fn close_within(&self, time: Duration) {
        let is_first = self.begin_close();
        self.order_end(Order::Close(time), is_first);
    }

    /// Closes the connection at once. All calls under way end with [`CONNECTION_CLOSED`](super::code::CONNECTION_CLOSED).
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
    /// [`CONNECTION_CLOSED`](super::code::CONNECTION_CLOSED) if the session has ended, and [`WRITE_FAILED`](super::code::WRITE_FAILED) if the
    /// mailbox of its reactor is full. If the connection ends before `look` can be called, it is dropped.
    pub fn with_conn(
        &self,
        look: impl FnOnce(&SessionConn<'_>) + Send + 'static,
    ) -> Result<(), Status> {
        self.order(Order::Show(Box::new(look)))
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
