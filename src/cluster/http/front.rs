//! The connections of the server: requests come in, are handled on other threads, and are answered.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::cors::Cors;
use super::proxy::HttpProxy;
use super::request::{HttpError, HttpReply, HttpRequest};
use super::routes::Table;
use crate::Bytes;
use crate::engine::conn::origin::ConnInfo;
use crate::engine::handler::{Action, Conn, EventHandler};
use crate::http::{HttpCodec, Limits, NoRoute, ServerRequest, ServerResponse, StatusCode};
use crate::panic;
use crate::workers::WorkerPool;

/// The handler of the server's engine.
pub(super) struct Front {
    pub(super) routes: Arc<Table>,
    pub(super) workers: Arc<WorkerPool>,
    pub(super) proxy: Arc<HttpProxy>,
    pub(super) cors: Option<Arc<Cors>>,
    pub(super) max_body: u64,
}

impl Front {
    fn send(conn: &mut Conn<'_, Self>, reply: &HttpReply, allowed: Option<&str>) -> Action {
        let status = StatusCode::from_u16(reply.status);
        let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = ServerResponse::new(status).shared_body(reply.body.clone());
        for (name, value) in &reply.headers {
            response = response.header(name, value);
        }
        if let Some(origin) = allowed {
            response = response.header("Access-Control-Allow-Origin", origin);
            response = response.header("Vary", "Origin");
        }
        conn.send(response).into()
    }

    /// Answers the question of a browser if it may send a request.
    fn permit(conn: &mut Conn<'_, Self>, request: &ServerRequest<'_>, origin: &str) -> Action {
        let methods = "GET, HEAD, POST, PUT, PATCH, DELETE";
        let mut response = ServerResponse::new(StatusCode::NO_CONTENT)
            .header("Access-Control-Allow-Origin", origin)
            .header("Access-Control-Allow-Methods", methods)
            .header("Access-Control-Max-Age", "600")
            .header("Vary", "Origin");
        let headers = request.header("Access-Control-Request-Headers");
        if let Some(headers) = headers {
            response = response.header("Access-Control-Allow-Headers", headers);
        }
        conn.send(response).into()
    }

    fn no_route(conn: &mut Conn<'_, Self>, none: &NoRoute, allowed: Option<&str>) -> Action {
        let reply = match none {
            NoRoute::NotFound => HttpError::new(404, "nothing is here").reply(),
            NoRoute::MethodNotAllowed { allow } => {
                let error = HttpError::new(405, format!("this path has {allow}"));
                error.reply().header("Allow", allow)
            }
        };
        Self::send(conn, &reply, allowed)
    }

    /// Returns the request as a value of its own.
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
            body: Bytes::copy_from_slice(request.body()),
            peer: conn.peer_addr().as_socket_addr(),
            user: None,
            proxy: self.proxy.clone(),
        }
    }
}

impl EventHandler for Front {
    type Codec = HttpCodec;
    type Session = ();

    fn codec(&mut self, _: &ConnInfo<'_>) -> HttpCodec {
        let limits = Limits::default().max_head(16 << 10).max_headers(64);
        HttpCodec::new(limits.max_body(self.max_body))
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
        let allowed = self.cors.as_ref();
        let allowed = allowed.and_then(|cors| cors.allowed(request.header("Origin")));
        let asks = request.method() == "OPTIONS"
            && request.header("Access-Control-Request-Method").is_some();
        if let (Some(origin), true) = (allowed, asks) {
            return Self::permit(conn, &request, origin);
        }
        let found = match self.routes.find(request.method(), request.path()) {
            Ok(found) => found,
            Err(none) => return Self::no_route(conn, &none, allowed),
        };
        let mut own = self.own(conn, &request);
        for (name, _) in found.params.iter() {
            if let Some(value) = found.params.decoded(name) {
                own.params.insert(name.to_owned(), value.into_owned());
            }
        }
        let (routes, allowed) = (self.routes.clone(), allowed.map(str::to_owned));
        let late = allowed.clone();
        let answer = conn
            .defer_answer()
            .if_dropped(move |_: &mut Self, conn, ()| {
                let failed = HttpError::new(500, "it has failed; see the log").reply();
                let _ = Self::send(conn, &failed, late.as_deref());
            });
        let origin = allowed.clone();
        let submitted = self.workers.submit(move || {
            let reply = handle(&routes, &mut own);
            // A client that has left gets no answer.
            let _ = answer.run(move |_, conn, ()| {
                if let Action::Refused(error) = Self::send(conn, &reply, origin.as_deref()) {
                    log::warn!(target: "epicycle::cluster", "an answer was refused: {error}");
                    conn.close();
                }
            });
        });
        if submitted.is_err() {
            let busy = HttpError::new(503, "too many requests are under way; try again");
            return Self::send(conn, &busy.reply(), allowed.as_deref());
        }
        Action::Continue
    }
}

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
            HttpError::new(500, "it has failed; see the log").reply()
        }
    }
}
