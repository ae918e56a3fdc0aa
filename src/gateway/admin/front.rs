//! The connections of the admin interface: requests come in, are checked, and are answered.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;

use super::Operate;
use super::call::Call;
use super::carrying::{self, Asked};
use super::guard;
use crate::engine::conn::origin::ConnInfo;
use crate::engine::handler::{Action, Conn, EventHandler, Reactor};
use crate::gateway::metrics::{AdminCounters, StatusClass};
use crate::gateway::reply::Reply;
use crate::gateway::settings::AdminSettings;
use crate::http::{
    HttpStreamCodec, Limits, RequestPart, ServerRequest, ServerResponse, StatusCode,
};
use crate::workers::WorkerPool;

/// The time that the answer to a wrong token takes.
const DELAY: Duration = Duration::from_secs(1);

/// The handler of the interface's engine.
pub(super) struct Front {
    gateway: Arc<dyn Operate>,
    settings: Arc<RwLock<AdminSettings>>,
    workers: Arc<WorkerPool>,
    counters: Arc<AdminCounters>,
}

/// The state of a connection.
#[derive(Default)]
pub(super) enum Session {
    /// No request is under way, or it is being answered.
    #[default]
    Idle,
    /// The body of a request comes.
    Receiving(Box<Asked>),
    /// The answer to a request waits for its time.
    Late(Box<Reply>),
}

impl Front {
    pub(super) fn new(
        gateway: Arc<dyn Operate>,
        settings: Arc<RwLock<AdminSettings>>,
        workers: Arc<WorkerPool>,
        counters: Arc<AdminCounters>,
    ) -> Self {
        Self {
            gateway,
            settings,
            workers,
            counters,
        }
    }

    /// Looks at the head of a request. Returns what is asked for, or the answer, and true if that comes late.
    fn examine(&self, request: &ServerRequest<'_>, peer: String) -> Result<Asked, (Reply, bool)> {
        let path = request.path();
        let is_page = path == "/" && matches!(request.method(), "GET" | "HEAD");
        if let Err(refused) = guard::check(&self.settings.read(), request, is_page) {
            self.counters.refusals[refused.reason].add(1);
            let (method, target) = (request.method(), path.escape_debug());
            log::warn!(target: "epicycle::gateway::admin", "{peer}: {method} {target} is refused: {}", refused.problem);
            let mut reply = carrying::problem(refused.status, refused.problem);
            if refused.status == StatusCode::UNAUTHORIZED {
                carrying::add(&mut reply, "WWW-Authenticate", "Bearer");
            }
            return Err((reply, refused.is_guess));
        }
        let call = Call::of(request.method(), path).map_err(|none| {
            let mut reply = carrying::problem(none.status, &none.problem);
            if let Some(allow) = none.allow {
                carrying::add(&mut reply, "Allow", allow);
            }
            (reply, false)
        })?;
        Asked::new(call, request, peer).map_err(|reply| (reply, false))
    }

    fn send(&self, conn: &mut Conn<'_, Self>, reply: &Reply, closes: bool) -> Action {
        self.counters.requests[StatusClass::of(reply.status.as_u16())].add(1);
        let mut response = ServerResponse::new(reply.status).block(&reply.fields);
        if !reply.body.is_empty() {
            response = response.shared_body(reply.body.clone());
        }
        if closes {
            response = response.close();
        }
        conn.send(response).into()
    }

    /// Carries out a call, on another thread.
    fn carry_out(&self, conn: &mut Conn<'_, Self>, asked: Asked) -> Action {
        let answer = conn.defer_answer().if_dropped(|front: &mut Self, conn, _| {
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            let reply = carrying::problem(status, "it has failed; see the log");
            // The connection closes either way.
            let _ = front.send(conn, &reply, true);
        });
        let gateway = self.gateway.clone();
        let submitted = self.workers.submit(move || {
            let reply = carrying::carry_out(&*gateway, &asked);
            // A client that has left gets no answer.
            let _ = answer.run(move |front, conn, _| {
                if let Action::Refused(error) = front.send(conn, &reply, false) {
                    log::warn!(target: "epicycle::gateway::admin", "an answer was refused: {error}");
                    conn.close();
                }
            });
        });
        match submitted {
            Ok(()) => Action::Continue,
            Err(_) => {
                let status = StatusCode::SERVICE_UNAVAILABLE;
                let mut reply =
                    carrying::problem(status, "too many requests are under way; try again");
                carrying::add(&mut reply, "Retry-After", "1");
                self.send(conn, &reply, true)
            }
        }
    }
}

impl EventHandler for Front {
    type Codec = HttpStreamCodec;
    type Session = Session;

    fn codec(&mut self, _: &ConnInfo<'_>) -> HttpStreamCodec {
        let limits = Limits::default().max_head(16 << 10).max_headers(64);
        HttpStreamCodec::new(limits.max_body(8 << 20))
    }

    fn on_open(&mut self, _: &mut Conn<'_, Self>) -> Option<Session> {
        Some(Session::Idle)
    }

    fn react(
        &mut self,
        conn: &mut Conn<'_, Self>,
        session: &mut Session,
        part: RequestPart<'_>,
    ) -> Action {
        match part {
            RequestPart::Head(request) => {
                let peer = conn.peer_addr().to_string();
                match self.examine(&request, peer) {
                    Ok(asked) => *session = Session::Receiving(Box::new(asked)),
                    Err((reply, true)) => {
                        *session = Session::Late(Box::new(reply));
                        conn.pause_reads();
                        conn.set_timer(DELAY, 0);
                    }
                    Err((reply, false)) => return self.send(conn, &reply, request.has_body()),
                }
                Action::Continue
            }
            RequestPart::Body(bytes) => {
                if let Session::Receiving(asked) = session
                    && !asked.take(bytes)
                {
                    *session = Session::Idle;
                    let reply = carrying::too_large();
                    return self.send(conn, &reply, true);
                }
                Action::Continue
            }
            RequestPart::End(_) => match std::mem::take(session) {
                Session::Receiving(asked) => self.carry_out(conn, *asked),
                other => {
                    *session = other;
                    Action::Continue
                }
            },
        }
    }

    fn on_timer(&mut self, conn: &mut Conn<'_, Self>, session: &mut Session, _: u64) -> Action {
        match std::mem::take(session) {
            Session::Late(reply) => self.send(conn, &reply, true),
            other => {
                *session = other;
                Action::Continue
            }
        }
    }

    fn tick(&mut self, reactor: &mut Reactor<'_, Self>) -> Option<Duration> {
        if self.gateway.has_ended() {
            reactor.engine().shutdown();
        }
        Some(DELAY)
    }
}
