//! A node on one reactor.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::context::{Core, Request, Sender, Subject};
use super::router::{HandlerError, Router};
use super::shared::Shared;
use super::stats::NodeCounters;
use crate::cluster::drpc::{self, Answer, Code, FrameCodec, Incoming, Value};
use crate::cluster::link::{Identity, Inbound, LaneEvent, LinkTimer, Verdict};
use crate::cluster::packet::{Packet, PacketFrame};
use crate::cluster::registry::LinkEndpoint;
use crate::cluster::{Event, Kind};
use crate::engine::conn::close::{CloseReason, Closed};
use crate::engine::conn::origin::{ConnInfo, Origin};
use crate::engine::connect::FailedConnect;
use crate::engine::handler::{Action, Conn, EventHandler, Reactor};

/// The part of a node that one reactor has: the application's state, and handlers that run one at a time.
pub(super) struct NodeReactor<T> {
    core: Core,
    state: T,
    router: Arc<Router<T>>,
}

pub(super) enum Session {
    /// A link that another server has dialled.
    Inbound(Box<Link>),
    /// A link that this side has dialled, with its token.
    Lane(u64),
}

pub(super) struct Link {
    inbound: Inbound,
    sender: Sender,
}

/// A handler that takes longer delays all that waits for its reactor.
const SLOW: Duration = Duration::from_millis(50);

impl<T: 'static> NodeReactor<T> {
    pub(super) fn new(id: usize, shared: Arc<Shared>, state: T, router: Arc<Router<T>>) -> Self {
        Self {
            core: Core::new(id, shared),
            state,
            router,
        }
    }

    /// Takes the servers that are registered now.
    pub(super) fn set_peers(
        &mut self,
        peers: &[(Identity, LinkEndpoint)],
        reactor: &mut Reactor<'_, Self>,
    ) {
        let mut events = counting(&self.core.shared.counters[self.core.id]);
        self.core.lanes.set_peers(peers, reactor, &mut events);
    }

    fn open_link(&self, conn: &mut Conn<'_, Self>) -> Option<Session> {
        let shared = &self.core.shared;
        let (options, counters) = (&shared.options, self.core.counters());
        let links: u64 = shared.counters.iter().map(|all| all.links.get()).sum();
        if links >= options.max_links as u64 {
            log::warn!(
                target: "epicycle::cluster",
                "no link for {}: there are {links} already; raise max_links", conn.peer_addr()
            );
            counters.links_refused.add(1);
            return None;
        }
        counters.links.add(1);
        let link = Link {
            inbound: Inbound::open(shared.ours.clone(), options.secret.clone(), conn),
            sender: Sender {
                id: "".into(),
                is_node: false,
            },
        };
        Some(Session::Inbound(Box::new(link)))
    }

    fn on_link_frame(
        &mut self,
        conn: &mut Conn<'_, Self>,
        link: &mut Link,
        frame: Incoming<'_>,
    ) -> Action {
        let (seq, request) = match link.inbound.receive(conn, frame) {
            Ok(Verdict::Serve { seq, request }) => (seq, request),
            Ok(Verdict::Done) => return Action::Continue,
            Err(error) => {
                log::warn!(target: "epicycle::cluster", "the link of {}: {error}", link.inbound.name());
                return Action::Close;
            }
        };
        self.core.now = conn.now();
        identify(link);
        let mut answer = Answer::new(request.op().code(), Code::Done);
        match request {
            drpc::Request::Deliver { cid, uid, packet } => {
                answer.code = self.deliver(&link.sender, cid, uid, packet);
            }
            drpc::Request::Trigger { event, cid, uid } => {
                self.core.counters().events.add(1);
                if let Some(event) = Event::from_code(event) {
                    self.on_event(&link.sender, event, cid, uid);
                }
            }
            drpc::Request::GetState => {
                answer.value = Value::State(self.core.shared.registered.state_code());
            }
            // All that came before has been taken or rejected.
            drpc::Request::Ping => {}
            drpc::Request::SetState { state } => answer.code = self.set_state(state),
            // The link has refused what a node does not serve, and has nothing to do for a Bye.
            _ => answer.code = Code::Failed,
        }
        if self.core.is_pending {
            conn.request_turn_end();
        }
        if seq == 0 {
            return Action::Continue;
        }
        match conn.send((seq, answer)) {
            Ok(()) => Action::Continue,
            Err(error) => error.into(),
        }
    }

    fn deliver(&mut self, sender: &Sender, cid: i64, uid: i64, packet: &[u8]) -> Code {
        let (shared, counters) = (self.core.shared.clone(), self.core.counters());
        counters.packets_in.add(1);
        counters.bytes_in.add(packet.len() as u64);
        let Ok(PacketFrame::Packet { packet, .. }) = shared.options.packet.decode_message(packet)
        else {
            counters.packets_refused.add(1);
            return Code::Failed;
        };
        let router = self.router.clone();
        let Some(route) = router.route(packet.route) else {
            match router.default_route() {
                Some(handler) => self.handle(sender, cid, uid, packet, |state, request| {
                    handler(state, request)
                }),
                None => self.core.counters().unknown_routes.add(1),
            }
            return Code::Done;
        };
        if route.spec.stateful && uid == 0 {
            self.core.counters().packets_refused.add(1);
            return Code::Failed;
        }
        self.handle(sender, cid, uid, packet, |state, request| {
            route.run(state, request)
        });
        Code::Done
    }

    fn handle(
        &mut self,
        from: &Sender,
        cid: i64,
        uid: i64,
        packet: Packet<'_>,
        handler: impl FnOnce(&mut T, &mut Request<'_>) -> Result<(), HandlerError>,
    ) {
        let subject = Subject::Packet(packet);
        self.run(from, cid, uid, subject, handler);
    }

    fn on_event(&mut self, from: &Sender, event: Event, cid: i64, uid: i64) {
        let router = self.router.clone();
        if let Some(handler) = router.event(event) {
            let subject = Subject::Event(event);
            self.run(from, cid, uid, subject, |state, request| {
                handler(state, request)
            });
        }
    }

    /// Runs a handler. Its error or panic costs what it was called for, and nothing else.
    fn run(
        &mut self,
        from: &Sender,
        cid: i64,
        uid: i64,
        subject: Subject<'_>,
        handler: impl FnOnce(&mut T, &mut Request<'_>) -> Result<(), HandlerError>,
    ) {
        let (core, state) = (&mut self.core, &mut self.state);
        let mut request = Request {
            core,
            from,
            cid,
            uid,
            subject,
        };
        let began = Instant::now();
        let ended = catch_unwind(AssertUnwindSafe(|| handler(state, &mut request)));
        let took = began.elapsed();
        let counters = self.core.counters();
        if took > SLOW {
            counters.slow_handlers.add(1);
            log::warn!(
                target: "epicycle::cluster",
                "the handler of {} took {took:?}; all others of its reactor wait meanwhile",
                Name(subject, cid, uid)
            );
        }
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                counters.handler_errors.add(1);
                log::warn!(target: "epicycle::cluster", "{}: {error}", Name(subject, cid, uid));
            }
            Err(panic) => {
                counters.handler_panics.add(1);
                let name = Name(subject, cid, uid).to_string();
                crate::panic::report("epicycle::cluster", &name, panic);
            }
        }
    }

    /// Sets the state, and has it registered. A number that is no state is only told to those who ask, as due does.
    fn set_state(&self, code: u8) -> Code {
        let shared = self.core.shared.clone();
        let Some(state) = shared.registered.set_state_code(code) else {
            return Code::Done;
        };
        // All under one key, so that the last one stays.
        let asked = self.core.shared.pool.submit_ordered(0, move || {
            if let Err(error) = shared.registered.set_state(state) {
                log::warn!(target: "epicycle::cluster", "the state {state} is not registered: {error}");
            }
        });
        asked.map_or(Code::Failed, |()| Code::Done)
    }
}

/// What a handler was called for, for logs.
struct Name<'a>(Subject<'a>, i64, i64);

impl std::fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self(subject, cid, uid) = self;
        match subject {
            Subject::Packet(packet) => write!(f, "route {}", packet.route)?,
            Subject::Event(event) => write!(f, "event {event}")?,
        }
        write!(f, " (connection {cid}, user {uid})")
    }
}

impl<T: 'static> EventHandler for NodeReactor<T> {
    type Codec = FrameCodec;
    type Session = Session;

    fn codec(&mut self, _: &ConnInfo<'_>) -> FrameCodec {
        FrameCodec::default()
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<Session> {
        match conn.origin() {
            Origin::Connected { token } => {
                let is_wanted = self.core.lanes.on_open(token, conn);
                is_wanted.then_some(Session::Lane(token))
            }
            _ => self.open_link(conn),
        }
    }

    fn react(
        &mut self,
        conn: &mut Conn<'_, Self>,
        session: &mut Session,
        frame: Incoming<'_>,
    ) -> Action {
        match session {
            Session::Inbound(link) => self.on_link_frame(conn, link, frame),
            Session::Lane(token) => {
                let mut events = counting(&self.core.shared.counters[self.core.id]);
                self.core.lanes.receive(*token, conn, frame, &mut events)
            }
        }
    }

    fn on_timer(&mut self, conn: &mut Conn<'_, Self>, session: &mut Session, _: u64) -> Action {
        match session {
            Session::Inbound(link) => link.inbound.on_timer(conn),
            Session::Lane(_) => Action::Continue,
        }
    }

    fn on_drain(&mut self, conn: &mut Conn<'_, Self>, session: &mut Session) -> Action {
        if let Session::Lane(token) = session {
            self.core.lanes.on_drain(*token, conn);
        }
        Action::Continue
    }

    fn on_close(
        &mut self,
        reactor: &mut Reactor<'_, Self>,
        info: &Closed,
        session: Session,
        reason: CloseReason,
    ) {
        match session {
            Session::Inbound(link) => {
                let stats = link.inbound.stats();
                let counters = self.core.counters();
                counters
                    .requests_refused
                    .add(stats.malformed + stats.refused);
                counters.links.subtract(1);
                log::debug!(target: "epicycle::cluster", "the link of {} has ended: {reason}", link.inbound.name());
            }
            Session::Lane(token) => {
                let mut events = counting(&self.core.shared.counters[self.core.id]);
                self.core
                    .lanes
                    .on_close(token, info.id, reactor, &mut events);
            }
        }
    }

    fn on_connect_failed(&mut self, reactor: &mut Reactor<'_, Self>, failed: FailedConnect) {
        self.core.lanes.on_connect_failed(&failed, reactor);
    }

    fn on_turn_end(&mut self, reactor: &mut Reactor<'_, Self>) {
        self.core.is_pending = false;
        self.core.lanes.flush(reactor);
    }
}

impl<T: 'static> LinkTimer for NodeReactor<T> {
    fn on_link_timer(&mut self, reactor: &mut Reactor<'_, Self>, at: Duration) {
        let mut events = counting(&self.core.shared.counters[self.core.id]);
        self.core.lanes.on_timer(at, reactor, &mut events);
    }
}

/// Notes who has dialled.
fn identify(link: &mut Link) {
    if let Some((kind, id)) = link.inbound.peer()
        && *link.sender.id != *id
    {
        link.sender = Sender {
            id: id.into(),
            is_node: kind == Kind::Node.code(),
        };
    }
}

/// Returns a function that counts the events of lanes.
fn counting(counters: &NodeCounters) -> impl FnMut(&Identity, LaneEvent<'_, ()>) {
    |_, event| {
        if let LaneEvent::GaveUp { frames, .. } = event {
            counters.given_up.add(frames);
        }
    }
}
