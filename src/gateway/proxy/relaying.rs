//! Responses: from the node to the client.

use std::mem;
use std::time::Duration;

use super::gathering::gathered;
use super::{ClientSession, Next, Proxy, Session, UpstreamSession, guarded};
use crate::balance::Outcome;
use crate::engine::handler::{Action, Conn};
use crate::gateway::error::{Cause, Phase, ProxyError};
use crate::gateway::exchange::{Answer, Body, Exchange, Expectation, Place};
use crate::gateway::hooks::{Hooks, ResponseHead};
use crate::gateway::record::EndedBy;
use crate::gateway::request;
use crate::http::client::{ClientResponse, ResponsePart};
use crate::http::lines::tokens;
use crate::http::{
    Chunk, End, HeaderBlock, Headers, MessageError, ServerResponse, StatusCode, Trailers, Version,
};

/// The bytes of a response that nobody wants which are read, so that its connection can be used again.
const UNWANTED: usize = 64 << 10;

impl<H: Hooks> Proxy<H> {
    pub(super) fn on_response_part(
        &mut self,
        conn: &mut Conn<'_, Self>,
        session: &mut UpstreamSession,
        part: ResponsePart<'_>,
    ) -> Action {
        let Some(id) = session.client else {
            return self.on_unwanted(conn, session, part);
        };
        if let ResponsePart::End(trailers) = part {
            conn.with(id, |conn, session| {
                if let Session::Client(client) = session {
                    self.on_response_end(conn, client, trailers);
                }
            });
            session.client = None;
            return self.give_back(conn, session);
        }
        let next = conn.with(id, |conn, session| match session {
            Session::Client(client) => match part {
                ResponsePart::Interim(response) => self.on_interim(conn, client, &response),
                ResponsePart::Head(response) => self.on_head(conn, client, &response),
                ResponsePart::Body(bytes) => self.on_body(conn, client, bytes),
                _ => Next::Abort,
            },
            _ => Next::Abort,
        });
        match next.unwrap_or(Next::Abort) {
            Next::Continue => {}
            Next::Pause => conn.pause_reads(),
            Next::Drop => {
                session.client = None;
                session.unwanted = Some(UNWANTED);
            }
            Next::Abort => {
                session.client = None;
                conn.abort();
            }
            Next::Pipe(client) => {
                session.client = None;
                let idle = self.pools[session.pool].settings().timeouts.tunnel_idle;
                Self::join(conn, client, idle);
            }
            Next::Frames(client) => self.join_frames(conn, session, client),
        }
        Action::Continue
    }

    /// Reads on, so that the connection can be used again, unless that is much.
    fn on_unwanted(
        &mut self,
        conn: &mut Conn<'_, Self>,
        session: &mut UpstreamSession,
        part: ResponsePart<'_>,
    ) -> Action {
        match (part, &mut session.unwanted) {
            (ResponsePart::Body(bytes), Some(left)) if bytes.len() <= *left => *left -= bytes.len(),
            (ResponsePart::End(_), Some(_)) => return self.give_back(conn, session),
            _ => conn.abort(),
        }
        Action::Continue
    }

    /// Gives a connection back to its pool, or closes it if it cannot be used again.
    fn give_back(&mut self, conn: &mut Conn<'_, Self>, session: &mut UpstreamSession) -> Action {
        session.unwanted = None;
        let number = session.pool;
        let pool = &self.pools[number];
        let limits = &pool.settings().connections;
        let is_old = limits.max_lifetime != Duration::MAX
            && conn.now().saturating_duration_since(session.opened) >= limits.max_lifetime;
        let is_worn = session.requests >= limits.max_requests || is_old;
        let is_reusable = match conn.codec() {
            super::Side::Upstream(codec) => codec.is_reusable(),
            _ => false,
        };
        // The next request of this client takes it only if that is on the same connection.
        let is_leaving = pool.is_leaving(session.node) || session.generation != pool.generation;
        if !is_reusable
            || is_worn
            || is_leaving
            || session.is_private
            || conn.peer_has_shut_down()
            || !self.may_still_reach(conn, number, session.target.as_deref())
        {
            return Action::Close;
        }
        let pool = &mut self.pools[number];
        if pool.must_yield(session.node, conn.id().reactor()) {
            if let Some(place) = &mut session.place {
                place.begin_yield();
            }
            return Action::Close;
        }
        pool.connections.release(conn.id(), conn.now());
        if pool.connections.has_steps() {
            conn.defer(move |proxy, reactor| proxy.settle(number, reactor));
        } else {
            self.settle(number, &mut conn.reactor());
        }
        Action::Continue
    }

    fn on_interim(
        &mut self,
        conn: &mut Conn<'_, Self>,
        client: &mut ClientSession<H>,
        response: &ClientResponse<'_>,
    ) -> Next {
        let Some(exchange) = client.exchange.as_deref_mut() else {
            return Next::Abort;
        };
        exchange.answer = Answer::Interim;
        if let Err(error) = check(response) {
            self.fail_unplaced(conn, client, error);
            return Next::Abort;
        }
        if response.status() == StatusCode::CONTINUE {
            if exchange.expectation == Expectation::Met {
                return Next::Continue;
            }
            exchange.stop_waiting(conn);
        }
        let mut block = mem::take(&mut self.block);
        block.fill_from_response(response);
        let seen = guarded(|| {
            self.hooks
                .on_interim(response.status(), &block, exchange.hook());
        });
        let sent = conn
            .send(ServerResponse::relayed(response).block(&block))
            .map_err(|error| unsendable(Box::new(error)));
        self.block = block;
        match seen.and(sent) {
            Ok(()) => Next::Continue,
            Err(error) => self.refuse(conn, client, error),
        }
    }

    fn on_head(
        &mut self,
        conn: &mut Conn<'_, Self>,
        client: &mut ClientSession<H>,
        response: &ClientResponse<'_>,
    ) -> Next {
        let Some(exchange) = client.exchange.as_deref_mut() else {
            return Next::Abort;
        };
        let status = response.status();
        exchange.notes.times.first_byte = Some(exchange.notes.since(conn.now()));
        exchange.stop_waiting(conn);
        if let Err(error) = check(response) {
            self.report(exchange, Outcome::Failure, conn);
            self.fail_unplaced(conn, client, error);
            return Next::Abort;
        }
        let Some(number) = exchange.pool else {
            return Next::Abort;
        };
        let settings = self.pools[number].settings();
        let is_failure = settings.eject_5xx && status.is_server_error();
        let may_be_retried = settings.retries.statuses.contains(&status.as_u16());
        if may_be_retried && self.retry_status(conn, client) {
            return Next::Drop;
        }
        let Some(exchange) = client.exchange.as_deref_mut() else {
            return Next::Abort;
        };
        let outcome = match is_failure {
            true => Outcome::Failure,
            false => Outcome::Success,
        };
        self.report(exchange, outcome, conn);
        if response.is_upgrade() && !exchange.agrees(response) {
            let error = ProxyError::new(StatusCode::BAD_GATEWAY, Phase::Head, Cause::Protocol);
            self.fail_unplaced(conn, client, error);
            return Next::Abort;
        }
        let mut block = mem::take(&mut self.block);
        let passed = self.pass_head(conn, exchange, response, &mut block);
        self.block = block;
        match passed {
            // The node speaks another protocol by now.
            Err(error) if response.is_upgrade() => {
                self.fail_unplaced(conn, client, error);
                Next::Abort
            }
            Err(error) => self.refuse(conn, client, error),
            Ok(()) if response.is_upgrade() => {
                self.meters.all.tunnels.add(1);
                match exchange.place {
                    Place::On { upstream, .. } if exchange.sees_frames() => {
                        exchange.place = Place::Frames { upstream };
                        Next::Frames(conn.id())
                    }
                    _ => {
                        exchange.place = Place::Tunnel;
                        Next::Pipe(conn.id())
                    }
                }
            }
            Ok(()) => Next::Continue,
        }
    }

    fn pass_head(
        &mut self,
        conn: &mut Conn<'_, Self>,
        exchange: &mut Exchange<H::Exchange>,
        response: &ClientResponse<'_>,
        block: &mut HeaderBlock,
    ) -> Result<(), ProxyError> {
        block.fill_from_response(response);
        let headers = response.headers();
        if exchange.version() == Version::Http11
            && response.has_body()
            && response.content_length().is_none()
        {
            request::announce_trailers(headers, block)
                .map_err(|error| unsendable(Box::new(error)))?;
        }
        let level = (exchange.route.as_ref()).and_then(|route| route.settings.compress);
        let is_compressed = match level {
            None => false,
            Some(level) => self
                .compress_head(exchange, level, response, block)
                .map_err(|error| unsendable(Box::new(error)))?,
        };
        if let Some(route) = &exchange.route {
            request::change(block, &route.settings.response)
                .map_err(|error| unsendable(Box::new(error)))?;
        }
        if let Some(extras) = &mut exchange.extras
            && let Some(cookie) = extras.cookie.take()
        {
            block
                .push("Set-Cookie", cookie)
                .map_err(|error| unsendable(Box::new(error)))?;
        }
        exchange.nominated = request::nominated(headers);
        let pool = exchange.pool.map(|number| &self.pools[number]);
        let node = pool
            .zip(exchange.last_node)
            .map_or("", |(pool, node)| pool.name_of(node));
        let mut view = ResponseHead {
            status: response.status(),
            fields: block,
            node,
            content_length: response.content_length().filter(|_| !is_compressed),
        };
        let hooks = &mut self.hooks;
        let hook = exchange.hook.get_or_insert_default();
        let accepted = guarded(|| hooks.on_response(&mut view, hook))?;
        let status = view.status;
        accepted.map_err(unsendable)?;
        let mut relayed = ServerResponse::relayed(response).block(block);
        if status != response.status() {
            relayed = relayed.with_status(status);
        }
        if is_compressed {
            relayed = relayed.streamed();
        }
        if exchange.is_last {
            relayed = relayed.close();
        }
        conn.send(relayed)
            .map_err(|error| unsendable(Box::new(error)))?;
        exchange.answer = Answer::Begun;
        exchange.notes.status = Some(status);
        if let Some(route) = &exchange.route
            && !is_compressed
        {
            exchange.gathered = gathered(route, response);
        }
        if response.is_upgrade()
            && let Some(protocol) = &exchange.upgrade
        {
            guarded(|| hooks.on_upgrade(protocol, hook))?;
        }
        Ok(())
    }

    fn on_body(
        &mut self,
        conn: &mut Conn<'_, Self>,
        client: &mut ClientSession<H>,
        bytes: &[u8],
    ) -> Next {
        let Some(exchange) = client.exchange.as_deref_mut() else {
            return Next::Abort;
        };
        let seen = guarded(|| self.hooks.on_response_part(bytes, exchange.hook()));
        if let Err(error) = seen {
            return self.refuse(conn, client, error);
        }
        if let Some(extras) = &exchange.extras
            && extras.gzip.is_some()
        {
            return Self::pass_compressed(conn, exchange, bytes);
        }
        match exchange.gathered {
            None => Self::pass_part(conn, exchange, bytes),
            Some(_) => Self::gather(conn, exchange, bytes),
        }
    }

    /// Passes a part of a response on to the client.
    #[inline]
    pub(super) fn pass_part(
        conn: &mut Conn<'_, Self>,
        exchange: &mut Exchange<H::Exchange>,
        bytes: &[u8],
    ) -> Next {
        if conn.send(Chunk(bytes)).is_err() {
            // It is closing, and its `on_close` ahead.
            conn.abort();
            return Next::Continue;
        }
        exchange.notes.response_bytes += bytes.len() as u64;
        match conn.has_room() {
            true => Next::Continue,
            false => Next::Pause,
        }
    }

    fn on_response_end(
        &mut self,
        conn: &mut Conn<'_, Self>,
        client: &mut ClientSession<H>,
        trailers: Headers<'_>,
    ) {
        let Some(exchange) = client.exchange.as_deref_mut() else {
            return;
        };
        exchange.place = Place::Nowhere;
        Self::flush(conn, exchange);
        Self::end_compressed(conn, exchange);
        let block = &mut self.block;
        request::gather_trailers(trailers, &exchange.nominated, block);
        let sent = match block.is_empty() {
            false => conn.send(Trailers(block)),
            true => conn.send(End),
        };
        if let Err(error) = sent {
            log::debug!(target: "epicycle::gateway::http", "the end of a response was refused: {error}");
            conn.abort();
        }
        self.end(conn, client);
    }

    /// Ends an exchange whose response is not passed on, or not further.
    fn refuse(
        &mut self,
        conn: &mut Conn<'_, Self>,
        client: &mut ClientSession<H>,
        error: ProxyError,
    ) -> Next {
        self.fail_unplaced(conn, client, error);
        Next::Drop
    }

    /// Fails an exchange whose connection to the node is in hand.
    fn fail_unplaced(
        &mut self,
        conn: &mut Conn<'_, Self>,
        client: &mut ClientSession<H>,
        error: ProxyError,
    ) {
        if let Some(exchange) = client.exchange.as_deref_mut() {
            exchange.place = Place::Nowhere;
        }
        self.fail(conn, client, error);
    }

    /// Tries another node because of the status that this one has given. Returns false if that is not possible.
    fn retry_status(&mut self, conn: &mut Conn<'_, Self>, client: &mut ClientSession<H>) -> bool {
        let Some(exchange) = client.exchange.as_deref_mut() else {
            return false;
        };
        let Some(node) = exchange.chosen.as_ref().map(|chosen| chosen.node) else {
            return false;
        };
        let Some(number) = exchange.pool else {
            return false;
        };
        if exchange.answer != Answer::Awaited
            || !exchange.is_idempotent()
            || !exchange.can_be_sent_again()
            || !exchange.upload.is_complete
        {
            return false;
        }
        exchange.tried.push(node);
        let Ok(other) = self.pools[number].pick(exchange.key, &exchange.tried) else {
            return false;
        };
        if !self.may_retry(exchange, conn.now()) {
            return false;
        }
        self.report(exchange, Outcome::Failure, conn);
        exchange.chosen = Some(other);
        exchange.place = Place::Nowhere;
        self.dispatch(conn, client);
        true
    }

    /// Ends an exchange that is complete.
    fn end(&mut self, conn: &mut Conn<'_, Self>, client: &mut ClientSession<H>) {
        if let Some(exchange) = client.exchange.as_deref_mut() {
            exchange.notes.ended_by = EndedBy::Nobody;
        }
        self.finish(conn, client);
    }
}

impl<X> Exchange<X> {
    /// Returns true if the node changes to the protocol that was asked for.
    fn agrees(&self, response: &ClientResponse<'_>) -> bool {
        let mut named = response.headers().get_all("upgrade").flat_map(tokens);
        let (first, second) = (named.next(), named.next());
        let wanted = self.upgrade.as_deref().map(str::as_bytes);
        let is_wanted = first
            .zip(wanted)
            .is_some_and(|(first, wanted)| first.eq_ignore_ascii_case(wanted));
        is_wanted && second.is_none() && self.body == Body::None
    }
}

/// Refuses a response that the codec would read, and that others may read in another way.
fn check(response: &ClientResponse<'_>) -> Result<(), ProxyError> {
    let error = match response.status().as_u16() {
        _ if !response.has_known_version() => MessageError::Version,
        100..=599 => return Ok(()),
        _ => MessageError::Malformed {
            what: "a status that is not from 100 to 599",
        },
    };
    let cause = Cause::Response(error);
    Err(ProxyError::new(StatusCode::BAD_GATEWAY, Phase::Head, cause))
}

fn unsendable(error: Box<dyn std::error::Error + Send + Sync>) -> ProxyError {
    ProxyError::new(StatusCode::BAD_GATEWAY, Phase::Head, Cause::Hook(error))
}
