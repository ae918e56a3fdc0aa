//! The connections of the interface: requests come in, are checked, and are answered.

use std::sync::Arc;
use std::time::Duration;

use super::answer::Answer;
use super::call::{Call, Name, routes};
use super::carrying::Desk;
use super::token::Token;
use crate::engine::conn::origin::ConnInfo;
use crate::engine::handler::{Action, Conn, EventHandler};
use crate::http::guard::{bearer, is_own_host, is_own_origin};
use crate::http::{HttpCodec, Limits, Router, ServerRequest, ServerResponse, StatusCode};
use crate::workers::WorkerPool;

/// The time that the answer to a wrong token takes.
const DELAY: Duration = Duration::from_secs(1);

/// The longest body of a request.
const MAX_BODY: u64 = 1 << 20;

/// The handler of the interface's engine.
pub(super) struct Front {
    desk: Arc<Desk>,
    workers: Arc<WorkerPool>,
    token: Option<Token>,
    hosts: Vec<String>,
    routes: Router<Name>,
}

impl Front {
    pub(super) fn new(
        desk: Arc<Desk>,
        workers: Arc<WorkerPool>,
        token: Option<Token>,
        hosts: Vec<String>,
    ) -> Self {
        Self {
            desk,
            workers,
            token,
            hosts,
            routes: routes(),
        }
    }

    /// Checks a request. Returns the answer to one that is not let in, and true if it is a guess, whose answer comes late.
    fn check(&self, request: &ServerRequest<'_>) -> Result<(), (Answer, bool)> {
        let host = request.host().unwrap_or_default();
        if !is_own_host(&self.hosts, host) {
            let problem = "the Host is unknown here; use an IP address or localhost, or add the name by `AdminBuilder::host`";
            let answer = Answer::problem(StatusCode::MISDIRECTED_REQUEST, problem);
            return Err((answer, false));
        }
        let found = self.routes.find(request.method(), request.path());
        if found.is_ok_and(|found| found.value.is_open()) {
            return Ok(());
        }
        if !is_own_origin(request, host) {
            let problem = "a page of another origin has sent this";
            let answer = Answer::problem(StatusCode::FORBIDDEN, problem);
            return Err((answer, false));
        }
        let Some(token) = &self.token else {
            return Ok(());
        };
        let refused = |problem| Answer::problem(StatusCode::UNAUTHORIZED, problem);
        match bearer(request) {
            Some(given) if token.is(given) => Ok(()),
            Some(_) => Err((refused("the token is wrong"), true)),
            None => {
                let problem = "a token is needed; send `Authorization: Bearer TOKEN`";
                Err((refused(problem), false))
            }
        }
    }

    fn send(conn: &mut Conn<'_, Self>, answer: &Answer, closes: bool) -> Action {
        let mut response = ServerResponse::new(answer.status)
            .header("Content-Type", answer.content_type)
            .header("Cache-Control", "no-store")
            .shared_body(answer.body.clone());
        if let Some(allow) = &answer.allow {
            response = response.header("Allow", allow);
        }
        if answer.status == StatusCode::UNAUTHORIZED {
            response = response.header("WWW-Authenticate", "Bearer");
        }
        if closes {
            response = response.close();
        }
        conn.send(response).into()
    }

    /// Carries out a call, on another thread.
    fn carry_out(&self, conn: &mut Conn<'_, Self>, call: Call) -> Action {
        let peer = conn.peer_addr().to_string();
        let answer = conn.defer_answer().if_dropped(|_: &mut Self, conn, ()| {
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            let failed = Answer::problem(status, "it has failed; see the log");
            // The connection closes either way.
            let _ = Self::send(conn, &failed, true);
        });
        let desk = self.desk.clone();
        let submitted = self.workers.submit(move || {
            let result = desk.carry_out(&call, &peer);
            // A client that has left gets no answer.
            let _ = answer.run(move |_, conn, ()| {
                if let Action::Refused(error) = Self::send(conn, &result, false) {
                    log::warn!(target: "epicycle::cluster", "an answer was refused: {error}");
                    conn.close();
                }
            });
        });
        if submitted.is_err() {
            let status = StatusCode::SERVICE_UNAVAILABLE;
            let problem = "too many requests are under way; try again";
            return Self::send(conn, &Answer::problem(status, problem), true);
        }
        Action::Continue
    }
}

impl EventHandler for Front {
    type Codec = HttpCodec;
    type Session = ();

    fn codec(&mut self, _: &ConnInfo<'_>) -> HttpCodec {
        let limits = Limits::default().max_head(16 << 10).max_headers(64);
        HttpCodec::new(limits.max_body(MAX_BODY))
    }

    fn on_open(&mut self, _: &mut Conn<'_, Self>) -> Option<()> {
        Some(())
    }

    fn react(
        &mut self,
        conn: &mut Conn<'_, Self>,
        (): &mut (),
        request: ServerRequest<'_>,
    ) -> Action {
        if let Err((answer, is_guess)) = self.check(&request) {
            let (peer, status) = (conn.peer_addr(), answer.status);
            let (method, path) = (request.method(), request.path().escape_debug());
            log::warn!(target: "epicycle::cluster", "{peer}: {method} {path} is refused: {status}");
            if !is_guess {
                return Self::send(conn, &answer, true);
            }
            let late = conn.defer_answer();
            conn.reactor().schedule(DELAY, move |_, _| {
                let _ = late.run(move |_, conn, ()| {
                    let _ = Self::send(conn, &answer, true);
                });
            });
            return Action::Continue;
        }
        match Call::of(&self.routes, &request) {
            Ok(call) => match self.desk.answer_probe(&call) {
                Some(answer) => Self::send(conn, &answer, false),
                None => self.carry_out(conn, call),
            },
            Err(answer) => Self::send(conn, &answer, false),
        }
    }
}
