//! Requests to the gateway itself: its health, and its counters.

use super::Proxy;
use crate::engine::handler::Conn;
use crate::gateway::hooks::{Hooks, path_of};
use crate::gateway::reply::Reply;
use crate::gateway::settings::{ListenerKind, ListenerSettings};
use crate::http::{ServerRequest, StatusCode};
use crate::metrics::CONTENT_TYPE;

impl<H: Hooks> Proxy<H> {
    /// Returns the answer to a request that no node gets.
    pub(super) fn own_reply(
        &self,
        conn: &Conn<'_, Self>,
        listener: &ListenerSettings,
        request: &ServerRequest<'_>,
    ) -> Option<Reply> {
        let is_metrics = listener.kind == ListenerKind::Metrics;
        let health = listener.own_health_path()?;
        let path = path_of(request.target());
        let is_read = matches!(request.method(), "GET" | "HEAD");
        match path {
            path if path == health && is_read => Some(match self.shared.is_draining() {
                true => Reply::text(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "the gateway is about to end",
                ),
                false => Reply::text(StatusCode::OK, "ok"),
            }),
            "/metrics" if is_metrics && is_read => Some(self.metrics(conn)),
            _ if !is_metrics => None,
            "/metrics" => Some(Reply::text(
                StatusCode::METHOD_NOT_ALLOWED,
                "only GET and HEAD are possible here",
            )),
            _ => Some(Reply::text(
                StatusCode::NOT_FOUND,
                "there is only /metrics and the health",
            )),
        }
    }

    fn metrics(&self, conn: &Conn<'_, Self>) -> Reply {
        let text = self.shared.metrics(&conn.engine().stats());
        let mut reply = Reply::new(StatusCode::OK);
        // The field is well-formed.
        let _ = reply.fields.push("Content-Type", CONTENT_TYPE);
        reply.body = text.into();
        reply
    }
}
