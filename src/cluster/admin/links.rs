//! The links of the interface to gates and nodes: an engine of its own, which threads ask.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use crate::Bytes;
use crate::cluster::drpc::{
    Answer, Code, FrameCodec, Incoming, Request, Scope, Secret, Target, Value,
};
use crate::cluster::follower::{Follower, Followers};
#[cfg(feature = "tls")]
use crate::cluster::link::LinkTls;
use crate::cluster::link::{Identity, LaneEvent, LaneOptions, Lanes, LinkTimer, registered};
use crate::cluster::registry::{Instance, LinkEndpoint, Registry};
use crate::cluster::{Error, Kind, State, new_uuid};
use crate::engine::client::Client;
use crate::engine::conn::close::{CloseReason, Closed};
use crate::engine::conn::origin::{ConnInfo, Origin};
use crate::engine::connect::FailedConnect;
use crate::engine::handler::{Action, Conn, EventHandler, Reactor};
use crate::engine::server::Running;
use crate::metric_set;
use crate::metrics::{Expose, Exposition};

/// Asks gates and nodes, from any thread.
pub(in crate::cluster) struct Links {
    /// It tells the reactor what has changed, and ends before it.
    _following: [Follower; 2],
    running: Running<Master>,
    metrics: Arc<LinksMetrics>,
}

/// The side that dials, as the other servers shall know it.
pub(in crate::cluster) struct Dialler {
    ours: Identity,
    secret: Option<Secret>,
    #[cfg(feature = "tls")]
    tls: Option<LinkTls>,
}

/// A question to a server.
pub(in crate::cluster) enum Order {
    SetState(State),
    Disconnect {
        uid: i64,
        force: bool,
    },
    GetAddr(i64),
    #[cfg(feature = "cluster-http")]
    Push {
        uid: i64,
        packet: Bytes,
    },
    Broadcast {
        scope: Scope,
        packet: Bytes,
    },
}

/// The answer of a server.
pub(in crate::cluster) struct Told {
    pub(in crate::cluster) code: Code,
    pub(in crate::cluster) total: u64,
    pub(in crate::cluster) addr: String,
}

/// An answer that is awaited.
pub(in crate::cluster) struct Pending(Receiver<Result<Told, Error>>);

/// The handler of the engine.
pub(in crate::cluster) struct Master {
    lanes: Lanes<Waiter>,
    /// The servers that are registered, by kind.
    known: HashMap<Kind, Arc<[(Identity, LinkEndpoint)]>>,
}

struct Waiter {
    sender: SyncSender<Result<Told, Error>>,
    asked: Instant,
    metrics: Arc<LinksMetrics>,
}

metric_set! {
    /// The metrics of the links at one moment. Counters count from their start.
    #[derive(Clone, Debug, Default)]
    pub(in crate::cluster) struct LinksStats("epicycle_master") {
        /// Calls to gates and nodes that were answered, with the time that it took.
        call: time_histogram,
        /// Calls that have failed: no link, or no answer in time.
        calls_failed: counter,
    }
    /// The metrics of the links.
    #[derive(Debug, Default)]
    pub(in crate::cluster) struct LinksMetrics;
}

/// The longest wait for an answer: that for a link, and that of the call.
const LONGEST: Duration = Duration::from_secs(10);

impl Links {
    /// Begins to dial all gates and nodes. Returns when the first lists are known.
    pub(in crate::cluster) fn start(
        registry: &dyn Registry,
        dialler: Dialler,
    ) -> Result<Self, Error> {
        let running = Client::new().start(move |_| Master {
            lanes: dialler.lanes(),
            known: HashMap::new(),
        })?;
        let follow = |kind: Kind| {
            let mut watch = registry.watch(kind.as_str())?;
            let engine = running.engine().clone();
            let set = move |list: Vec<Instance>| {
                // One that is shut can be told to work again.
                let peers = registered(&list);
                // There is one for each change of the registry, whose watch keeps the latest only.
                engine.run_anyway(0, move |master, reactor| {
                    master.set_peers(kind, peers, reactor);
                });
            };
            if let Some(first) = watch.next() {
                set(first);
            }
            Followers::default().follow("registry", watch, move |list| {
                // At the end the last servers stay.
                if let Some(list) = list {
                    set(list);
                }
            })
        };
        let following = [follow(Kind::Gate)?, follow(Kind::Node)?];
        Ok(Self {
            _following: following,
            running,
            metrics: Arc::default(),
        })
    }

    /// Asks a server. Returns at once.
    pub(in crate::cluster) fn begin(&self, id: &str, order: Order) -> Pending {
        let (sender, receiver) = sync_channel(1);
        let waiter = Waiter {
            sender,
            asked: Instant::now(),
            metrics: self.metrics.clone(),
        };
        let id = id.to_owned();
        // Each thread that asks waits for its answers, so that the number of tasks is bounded.
        self.running.engine().run_anyway(0, move |master, reactor| {
            master.ask(&id, &order, waiter, reactor);
        });
        Pending(receiver)
    }

    /// Asks a server, and waits for its answer.
    pub(in crate::cluster) fn ask(&self, id: &str, order: Order) -> Result<Told, Error> {
        self.begin(id, order).wait()
    }

    pub(in crate::cluster) fn expose(&self, to: &mut Exposition) {
        self.metrics.read().expose(&[], to);
    }
}

impl Dialler {
    pub(in crate::cluster) fn new(
        secret: Option<Secret>,
        #[cfg(feature = "tls")] tls: Option<LinkTls>,
    ) -> Self {
        Self {
            ours: Identity::new(Kind::Master, new_uuid()),
            secret,
            #[cfg(feature = "tls")]
            tls,
        }
    }

    fn lanes(&self) -> Lanes<Waiter> {
        let (ours, secret) = (self.ours.clone(), self.secret.clone());
        let lanes = Lanes::new(ours, secret, LaneOptions::default());
        #[cfg(feature = "tls")]
        let lanes = lanes.tls(self.tls.as_ref().map(|tls| tls.client.clone()));
        lanes
    }
}

impl Pending {
    pub(in crate::cluster) fn wait(self) -> Result<Told, Error> {
        let timeout = Error::Timeout {
            what: "a request to a server".into(),
            after: LONGEST,
        };
        self.0.recv_timeout(LONGEST).unwrap_or(Err(timeout))
    }
}

impl Order {
    fn request(&self) -> Request<'_> {
        let user = |id| Target {
            scope: Scope::User,
            id,
        };
        match self {
            Order::SetState(state) => Request::SetState {
                state: state.code(),
            },
            Order::Disconnect { uid, force } => Request::Disconnect {
                target: user(*uid),
                force: *force,
            },
            Order::GetAddr(uid) => Request::GetAddr { target: user(*uid) },
            #[cfg(feature = "cluster-http")]
            Order::Push { uid, packet } => Request::Push {
                target: user(*uid),
                disconnect: false,
                packet,
            },
            Order::Broadcast { scope, packet } => Request::Broadcast {
                scope: *scope,
                disconnect: false,
                packet,
            },
        }
    }
}

impl Waiter {
    fn end(self, result: Result<Told, Error>) {
        match &result {
            Ok(_) => self.metrics.call.record_time(self.asked.elapsed()),
            Err(_) => self.metrics.calls_failed.add(1),
        }
        // There is room for the only result, unless nobody waits any more.
        let _ = self.sender.try_send(result);
    }
}

impl Told {
    fn of(answer: &Answer<'_>) -> Self {
        let mut told = Self {
            code: answer.code,
            total: 0,
            addr: String::new(),
        };
        match answer.value {
            Value::Total(total) => told.total = total,
            Value::Addr(addr) => addr.clone_into(&mut told.addr),
            Value::Ip(Some(ip)) => told.addr = ip.to_string(),
            _ => {}
        }
        told
    }
}

impl Master {
    fn set_peers(
        &mut self,
        kind: Kind,
        peers: Arc<[(Identity, LinkEndpoint)]>,
        reactor: &mut Reactor<'_, Self>,
    ) {
        self.known.insert(kind, peers);
        let all: Vec<_> = self
            .known
            .values()
            .flat_map(|peers| peers.iter().cloned())
            .collect();
        self.lanes.set_peers(&all, reactor, &mut note);
    }

    fn ask(&mut self, id: &str, order: &Order, waiter: Waiter, reactor: &mut Reactor<'_, Self>) {
        let request = order.request();
        let asked = self.lanes.call(id, &request, waiter, reactor.now());
        if let Err((waiter, error)) = asked {
            waiter.end(Err(error));
        }
        self.lanes.flush(reactor);
    }
}

/// Takes what a lane tells.
fn note(_: &Identity, event: LaneEvent<'_, Waiter>) {
    if let LaneEvent::Answered { token, result } = event {
        token.end(result.map(|answer| Told::of(&answer)));
    }
}

impl EventHandler for Master {
    type Codec = FrameCodec;
    /// The token of the lane.
    type Session = u64;

    fn codec(&mut self, _: &ConnInfo<'_>) -> FrameCodec {
        FrameCodec::default()
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<u64> {
        let Origin::Connected { token } = conn.origin() else {
            return None;
        };
        self.lanes.on_open(token, conn).then_some(token)
    }

    fn react(&mut self, conn: &mut Conn<'_, Self>, token: &mut u64, frame: Incoming<'_>) -> Action {
        self.lanes.receive(*token, conn, frame, &mut note)
    }

    fn on_drain(&mut self, conn: &mut Conn<'_, Self>, token: &mut u64) -> Action {
        self.lanes.on_drain(*token, conn);
        Action::Continue
    }

    fn on_close(
        &mut self,
        reactor: &mut Reactor<'_, Self>,
        info: &Closed,
        token: u64,
        _: CloseReason,
    ) {
        self.lanes.on_close(token, info.id, reactor, &mut note);
    }

    fn on_connect_failed(&mut self, reactor: &mut Reactor<'_, Self>, failed: FailedConnect) {
        self.lanes.on_connect_failed(&failed, reactor);
    }
}

impl LinkTimer for Master {
    fn on_link_timer(&mut self, reactor: &mut Reactor<'_, Self>, at: Duration) {
        self.lanes.on_timer(at, reactor, &mut note);
    }
}
