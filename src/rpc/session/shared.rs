//! The state that all sessions of a peer share.

use std::any::Any;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use super::Session;
use super::order::Order;
use super::place::{Address, Home};
use super::registry::Sessions;
use crate::engine::connect::Reconnect;
use crate::engine::handler::HandleError;
use crate::engine::slots::ConnId;
use crate::rpc::codec::Formats;
use crate::rpc::logging::LogOptions;
use crate::rpc::stats::{AllMeters, Counters};
use crate::rpc::wire::{Codec, Message, Status};

/// The state that the sessions of a peer share.
pub(in crate::rpc) struct Shared {
    pub(in crate::rpc) formats: Arc<Formats>,
    pub(in crate::rpc) settings: Settings,
    pub(in crate::rpc) sessions: Sessions,
    pub(in crate::rpc) counters: Counters,
    /// The number of calls that wait for their replies, on all sessions.
    pub(in crate::rpc) calls: Arc<AtomicUsize>,
    /// The number of deferred and blocking handlers at work, for all sessions.
    pub(in crate::rpc) deferred: Arc<AtomicUsize>,
    pub(in crate::rpc) meters: AllMeters,
    /// None if no plugin wants to see what is sent.
    pub(in crate::rpc) before_write: Option<Arc<dyn BeforeWrite>>,
    pub(super) target: OnceLock<Box<dyn Target>>,
    /// The peer, which knows more than its sessions.
    peer: OnceLock<Weak<dyn Any + Send + Sync>>,
}

/// The options of a peer.
#[derive(Clone, Debug)]
pub(in crate::rpc) struct Settings {
    /// The codec of bodies for which no other is set.
    pub(in crate::rpc) body_codec: Codec,
    /// The time within which the reply to a call must arrive.
    pub(in crate::rpc) call_timeout: Option<Duration>,
    /// The timeout of dials that set none. `None` is that of the engine.
    pub(in crate::rpc) dial_timeout: Option<Duration>,
    /// The local address of dials that set none.
    pub(in crate::rpc) dial_from: Option<IpAddr>,
    /// The time within which a handler must answer.
    pub(in crate::rpc) handle_timeout: Option<Duration>,
    /// The policy for new connections of dialled sessions whose dial has none of its own.
    pub(in crate::rpc) redial: Option<Reconnect>,
    /// The time after which a session closes.
    pub(in crate::rpc) session_age: Option<Duration>,
    /// The time within which a closing session ends its calls.
    pub(in crate::rpc) close_within: Duration,
    /// The most calls of a session that wait for their replies.
    pub(in crate::rpc) max_calls: usize,
    /// The most calls of a session that its deferred handlers have not answered.
    pub(in crate::rpc) max_deferred: usize,
    /// The most calls of all sessions that wait for their replies.
    pub(in crate::rpc) max_total_calls: usize,
    /// The most calls of all sessions that deferred handlers have not answered.
    pub(in crate::rpc) max_total_deferred: usize,
    /// The most streams of a session that one side has opened.
    pub(in crate::rpc) max_streams: usize,
    /// The most bytes of items that wait for their readers, of all streams of a session.
    pub(in crate::rpc) max_stream_bytes: usize,
    /// The first grant of credit for items that arrive.
    pub(in crate::rpc) stream_credit: u32,
    /// True if a reply tells the text of a handler's panic.
    pub(in crate::rpc) tells_panics: bool,
    pub(in crate::rpc) log: LogOptions,
}

/// Sees calls and pushes before they are sent, on the sender's thread.
pub(in crate::rpc) trait BeforeWrite: Send + Sync {
    fn before_write(&self, session: &Session, message: &mut Message<'static>)
    -> Result<(), Status>;
}

/// The engine that serves the sessions.
pub(in crate::rpc) trait Target: Send + Sync {
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

impl Shared {
    pub(in crate::rpc) fn new(
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
    pub(in crate::rpc) fn set_target(&self, target: impl FnOnce() -> Box<dyn Target>) {
        self.target.get_or_init(target);
    }

    pub(in crate::rpc) fn set_peer(&self, peer: Weak<dyn Any + Send + Sync>) {
        self.peer.get_or_init(|| peer);
    }

    /// Returns the peer, unless it has ended.
    pub(in crate::rpc) fn peer(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        self.peer.get()?.upgrade()
    }
}

/// Has a task of a reactor polled when it is woken.
pub(in crate::rpc) struct TaskWaker {
    pub(super) peer: Arc<Shared>,
    pub(super) reactor: usize,
    task: u64,
    /// True from when it is woken until it is polled.
    pub(super) is_woken: AtomicBool,
}

impl TaskWaker {
    pub(in crate::rpc) fn new(peer: Arc<Shared>, reactor: usize, task: u64) -> Self {
        Self {
            peer,
            reactor,
            task,
            is_woken: AtomicBool::new(false),
        }
    }

    /// Returns the number of the task, which is polled now. It may be woken again from now on.
    pub(in crate::rpc) fn begin_poll(&self) -> u64 {
        self.is_woken.store(false, Ordering::Release);
        self.task
    }
}
