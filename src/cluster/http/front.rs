//! The connections of the server: requests come in, are handled on other threads, and are answered.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::body::{Body, NoRoom};
use super::codec::FrontCodec;
use super::cors::Cors;
use super::proxy::HttpProxy;
use super::request::{FAILED, HttpError, HttpReply, HttpRequest};
use super::routes::Table;
use super::stats::{HttpStatusClass, Metrics};
use crate::Bytes;
use crate::cluster::seldom::warn_seldom;
use crate::engine::conn::close::{CloseReason, Closed};
use crate::engine::conn::origin::ConnInfo;
use crate::engine::handler::{Action, Conn, EventHandler, Reactor};
use crate::http::{Limits, NoRoute, RequestPart, ServerRequest, ServerResponse, StatusCode};
use crate::panic;
use crate::workers::WorkerPool;

/// The handler of the server's engine.
pub(super) struct Front {
    pub(super) routes: Arc<Table>,
    pub(super) workers: Arc<WorkerPool>,
    pub(super) proxy: Arc<HttpProxy>,
    pub(super) cors: Option<Arc<Cors>>,
    pub(super) max_body: u64,
    pub(super) body_timeout: Duration,
    pub(super) metrics: Arc<Metrics>,
}

/// The request under way of a connection.
#[derive(Default)]
pub(super) struct Exchange {
    /// The time at which its head was there, until it is answered.
    began: Option<Instant>,
    /// It, until its body is there.
    arriving: Option<Box<Arriving>>,
    /// True while the connection has a timer for a body: one for many requests.
    is_timed: bool,
}

struct Arriving {
    request: HttpRequest,
    body: Body,
}

impl Front {
    fn send(
        &self,
        conn: &mut Conn<'_, Self>,
        exchange: &mut Exchange,
        reply: &HttpReply,
    ) -> Action {
        let status = StatusCode::from_u16(reply.status);
        let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = ServerResponse::new(status).shared_body(reply.body.clone());
        for (name, value) in &reply.headers {
            response = response.header(name, value);
        }
        let sent = conn.send(response);
        if sent.is_ok() {
            self.answered(exchange, status.as_u16(), conn.now());
        }
        sent.into()
    }

    /// Counts an answer.
    fn answered(&self, exchange: &mut Exchange, status: u16, now: Instant) {
        let cells = &self.metrics.cells;
        cells.requests[HttpStatusClass::of(status)].add(1);
        exchange.arriving = None;
        if let Some(began) = exchange.began.take() {
            cells.in_flight.subtract(1);
            let time = now.saturating_duration_since(began);
            cells.request_time.record_time(time);
        }
    }

    fn refuse(
        &self,
        conn: &mut Conn<'_, Self>,
        exchange: &mut Exchange,
        error: &HttpError,
    ) -> Action {
        self.send(conn, exchange, &error.reply())
    }

    /// Refuses a request that could be carried out a moment later.
    fn put_off(&self, conn: &mut Conn<'_, Self>, exchange: &mut Exchange, problem: &str) -> Action {
        let reply = HttpError::new(503, problem).reply();
        self.send(conn, exchange, &reply.header("Retry-After", "1"))
    }

    /// Answers the question of a browser if it may send a request.
    fn permit(
        &self,
        conn: &mut Conn<'_, Self>,
        exchange: &mut Exchange,
        asked: &HttpRequest,
    ) -> Action {
        let methods = "GET, HEAD, POST, PUT, PATCH, DELETE";
        let mut reply = HttpReply::empty(204)
            .header("Access-Control-Allow-Methods", methods)
            .header("Access-Control-Max-Age", "600");
        if let Some(headers) = asked.header("Access-Control-Request-Headers") {
            reply = reply.header("Access-Control-Allow-Headers", headers);
        }
        self.send(conn, exchange, &reply)
    }

    fn no_route(
        &self,
        conn: &mut Conn<'_, Self>,
        exchange: &mut Exchange,
        none: &NoRoute,
    ) -> Action {
        let reply = match none {
            NoRoute::NotFound => HttpError::new(404, "nothing is here").reply(),
            NoRoute::MethodNotAllowed { allow } => {
                let error = HttpError::new(405, format!("this path has {allow}"));
                error.reply().header("Allow", allow)
            }
        };
        self.send(conn, exchange, &reply)
    }

    /// Returns the request as a value of its own, without its body.
    fn own(&self, conn: &Conn<'_, Self>, request: &ServerRequest<'_>) -> HttpRequest {
        let headers = request.headers().filter_map(|(name, value)| {
            let value = std::str::from_utf8(value).ok()?;
            Some((name.to_owned(), value.to_owned()))
        });
        HttpRequest {
            method: request.method().to_owned(),
            path: request.path().to_owned(),
            query: request.query().unwrap_or_default().to_owned(),
            params: Default::default(),
            headers: headers.collect(),
            body: Bytes::new(),
            share: None,
            peer: conn.peer_addr().as_socket_addr(),
            user: None,
            proxy: self.proxy.clone(),
        }
    }

    fn begin(
        &self,
        conn: &mut Conn<'_, Self>,
        exchange: &mut Exchange,
        request: &ServerRequest<'_>,
    ) -> Action {
        exchange.began = Some(conn.now());
        self.metrics.cells.in_flight.add(1);
        let announced = request.content_length();
        if announced.is_some_and(|len| len > self.max_body) {
            return self.too_long(conn, exchange);
        }
        let room = &self.metrics.room;
        if announced.is_some_and(|len| room.lacks(len)) {
            return self.no_room(conn, exchange);
        }
        exchange.arriving = Some(Box::new(Arriving {
            request: self.own(conn, request),
            body: Body::new(room, announced.unwrap_or(self.max_body)),
        }));
        Action::Continue
    }

    fn go_on(&self, conn: &mut Conn<'_, Self>, exchange: &mut Exchange, part: &[u8]) -> Action {
        self.metrics
            .cells
            .body_received_bytes
            .add(part.len() as u64);
        // Without it, the request is answered, and its connection closes.
        let Some(arriving) = &mut exchange.arriving else {
            return Action::Continue;
        };
        if arriving.body.len() + part.len() as u64 > self.max_body {
            return self.too_long(conn, exchange);
        }
        match arriving.body.push(part) {
            Ok(()) if exchange.is_timed => Action::Continue,
            Ok(()) => self.await_body(conn, exchange),
            Err(NoRoom) => self.no_room(conn, exchange),
        }
    }

    /// Refuses a body that has not arrived in time. Each of its parts is a frame to the engine, whose timeout counts anew for each.
    fn await_body(&self, conn: &mut Conn<'_, Self>, exchange: &mut Exchange) -> Action {
        let (Some(_), Some(began)) = (&exchange.arriving, exchange.began) else {
            return Action::Continue;
        };
        let passed = conn.now().saturating_duration_since(began);
        let left = self.body_timeout.saturating_sub(passed);
        if left.is_zero() {
            let problem = "the body took too long to arrive";
            return self.refuse(conn, exchange, &HttpError::new(408, problem));
        }
        conn.set_timer(left, BODY);
        exchange.is_timed = true;
        Action::Continue
    }

    fn too_long(&self, conn: &mut Conn<'_, Self>, exchange: &mut Exchange) -> Action {
        let problem = format!("the body is longer than {} bytes", self.max_body);
        self.refuse(conn, exchange, &HttpError::new(413, problem))
    }

    fn no_room(&self, conn: &mut Conn<'_, Self>, exchange: &mut Exchange) -> Action {
        self.metrics.cells.body_refused.add(1);
        let problem = "there is no room for the body beside those of other requests; try again";
        self.put_off(conn, exchange, problem)
    }

    /// Has the request carried out, which is complete.
    fn carry_out(&self, conn: &mut Conn<'_, Self>, exchange: &mut Exchange) -> Action {
        let Some(arrived) = exchange.arriving.take() else {
            return Action::Continue;
        };
        let Arriving { mut request, body } = *arrived;
        let asks = request.method == "OPTIONS"
            && request.header("Access-Control-Request-Method").is_some();
        if asks && conn.codec().is_allowed() {
            return self.permit(conn, exchange, &request);
        }
        let found = match self.routes.find(&request.method, &request.path) {
            Ok(found) => found,
            Err(none) => return self.no_route(conn, exchange, &none),
        };
        for (name, _) in found.params.iter() {
            if let Some(value) = found.params.decoded(name) {
                request.params.insert(name.to_owned(), value.into_owned());
            }
        }
        let (bytes, share) = body.into_parts();
        (request.body, request.share) = (bytes.into(), Some(share));
        let answer = conn.defer_answer();
        let answer = answer.if_dropped(|front: &mut Self, conn, exchange| {
            let failed = HttpError::new(500, FAILED);
            let _ = front.refuse(conn, exchange, &failed);
        });
        let routes = self.routes.clone();
        let submitted = self.workers.submit(move || {
            let reply = handle(&routes, &mut request);
            drop(request);
            // A client that has left gets no answer.
            let _ = answer.run(move |front, conn, exchange| {
                if let Action::Refused(error) = front.send(conn, exchange, &reply) {
                    warn_seldom!("an answer was refused: {error}");
                    let _ = front.refuse(conn, exchange, &HttpError::new(500, FAILED));
                }
            });
        });
        if submitted.is_err() {
            let problem = "too many requests are under way; try again";
            return self.put_off(conn, exchange, problem);
        }
        Action::Continue
    }
}

impl EventHandler for Front {
    type Codec = FrontCodec;
    type Session = Exchange;

    fn codec(&mut self, _: &ConnInfo<'_>) -> FrontCodec {
        // The bodies are measured here, where the answer can be one of this server.
        let limits = Limits::default().max_head(16 << 10).max_headers(64);
        FrontCodec::new(limits.max_body(u64::MAX), self.cors.clone())
    }

    fn on_open(&mut self, _: &mut Conn<'_, Self>) -> Option<Exchange> {
        self.metrics.cells.connections.add(1);
        Some(Exchange::default())
    }

    fn react(
        &mut self,
        conn: &mut Conn<'_, Self>,
        exchange: &mut Exchange,
        part: RequestPart<'_>,
    ) -> Action {
        match part {
            RequestPart::Head(request) => self.begin(conn, exchange, &request),
            RequestPart::Body(bytes) => self.go_on(conn, exchange, bytes),
            RequestPart::End(_) => self.carry_out(conn, exchange),
        }
    }

    fn on_timer(&mut self, conn: &mut Conn<'_, Self>, exchange: &mut Exchange, _: u64) -> Action {
        exchange.is_timed = false;
        self.await_body(conn, exchange)
    }

    fn on_close(
        &mut self,
        _: &mut Reactor<'_, Self>,
        closed: &Closed,
        mut exchange: Exchange,
        _: CloseReason,
    ) {
        let cells = &self.metrics.cells;
        cells.connections.subtract(1);
        match &closed.refused {
            Some(refused) => self.answered(&mut exchange, refused.status, closed.closed_at),
            None if exchange.began.is_some() => {
                cells.in_flight.subtract(1);
                cells.abandoned.add(1);
            }
            None => {}
        }
    }
}

/// The token of the only timer.
const BODY: u64 = 0;

/// Runs the handler of a request.
fn handle(routes: &Table, request: &mut HttpRequest) -> HttpReply {
    let path = request.path.clone();
    let Ok(found) = routes.find(&request.method, &path) else {
        return HttpError::new(404, "nothing is here").reply();
    };
    let handled = catch_unwind(AssertUnwindSafe(|| found.value.run(request)));
    match handled {
        Ok(Ok(reply)) => reply,
        Ok(Err(error)) => error.reply(),
        Err(payload) => {
            let (method, path) = (&request.method, path.escape_debug());
            panic::report(
                "epicycle::cluster",
                &format!("the handler of {method} {path}"),
                payload,
            );
            HttpError::new(500, FAILED).reply()
        }
    }
}
