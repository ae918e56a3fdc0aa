//! Requests: from the client to the node.

use std::borrow::Cow;
use std::time::Duration;

use super::admitting::{Check, hide_credentials};
use super::{ClientSession, Proxy, SAY_CONTINUE, guarded, peer};
use crate::engine::handler::{Action, Conn};
use crate::gateway::compress;
use crate::gateway::error::{Cause, Phase, ProxyError};
use crate::gateway::exchange::{Body, Exchange, Expectation, Extras, Kept, Place};
use crate::gateway::forwarding::{self, Hop};
use crate::gateway::hooks::{Hooks, RequestHead, Verdict, path_of};
use crate::gateway::record::{EndedBy, Notes};
use crate::gateway::reply::Reply;
use crate::gateway::request::{self, MaxForwards};
use crate::gateway::route::Route;
use crate::gateway::rules::Listener;
use crate::gateway::settings::HostField;
use crate::http::{
    Chunk, Headers, KeptHead, RequestPart, SendError, ServerRequest, StatusCode, Trailers, Version,
};

/// The next step of a request whose head was prepared.
pub(super) enum Prepared {
    Dispatch,
    /// The target is to be dialled, for a tunnel.
    Connect,
    /// The password of its client is checked first.
    Check(Check),
    Answer(Reply),
    Close,
}

impl<H: Hooks> Proxy<H> {
    pub(super) fn on_request_part(
        &mut self,
        conn: &mut Conn<'_, Self>,
        client: &mut ClientSession<H>,
        part: RequestPart<'_>,
    ) -> Action {
        match part {
            RequestPart::Head(request) => self.begin(conn, client, &request),
            RequestPart::Body(bytes) => self.on_request_body(conn, client, bytes),
            RequestPart::End(trailers) => self.on_request_end(conn, client, trailers),
        }
        Action::Continue
    }

    fn begin(
        &mut self,
        conn: &mut Conn<'_, Self>,
        client: &mut ClientSession<H>,
        request: &ServerRequest<'_>,
    ) {
        client.requests = client.requests.saturating_add(1);
        let listener = client.listener.clone();
        let notes = Notes::at(conn.now(), conn.unix_time());
        let mut exchange = self.spare.take(notes);
        exchange.begin(request);
        // From the fields as they came, and once: every part of the gateway means the same client.
        let rules = &listener.forwarding;
        exchange.client = forwarding::client(rules, peer(conn), request.headers());
        // A client that is told before the end comes loses no request on a connection that closes.
        exchange.is_last = self.shared.sends_clients_away()
            || client.requests >= listener.settings.limits.max_requests
            || client.retires_by(conn.now());
        self.meters.all.in_flight.add(1);
        self.take_in(conn, client, exchange, request);
    }

    /// Prepares the head of a request, and goes on with it.
    pub(super) fn take_in(
        &mut self,
        conn: &mut Conn<'_, Self>,
        client: &mut ClientSession<H>,
        mut exchange: Box<Exchange<H::Exchange>>,
        request: &ServerRequest<'_>,
    ) {
        let listener = client.listener.clone();
        let admitted = match &listener.admission {
            None => Ok(None),
            Some(admission) => self.admit_at(conn, &listener, admission, &mut exchange, request),
        };
        let prepared = match admitted {
            Ok(Some(check)) => Ok(Prepared::Check(check)),
            Ok(None) => match self.own_reply(conn, &listener.settings, request) {
                Some(reply) => {
                    exchange.notes.is_own = true;
                    Ok(Prepared::Answer(reply))
                }
                None => {
                    let port = client.port(conn);
                    match &listener.targets {
                        None => self.prepare(conn, &listener, port, &mut exchange, request),
                        Some(route) => {
                            let exchange = &mut exchange;
                            self.prepare_target(conn, &listener, route, port, exchange, request)
                        }
                    }
                }
            },
            Err(error) => Err(error),
        };
        if exchange.route.is_none() {
            // No node gets them.
            exchange.head.fields.clear();
        }
        let gathers = matches!(prepared, Ok(Prepared::Dispatch)) && exchange.gathers();
        if gathers {
            exchange.place = Place::Gathering;
        }
        if exchange.body != Body::None && conn.set_limits(&listener.uploading).is_err() {
            log::warn!(target: "epicycle::gateway::http", "too many different limits are in use");
        }
        let expects = request.expects_continue();
        client.exchange = Some(exchange);
        match prepared {
            Ok(Prepared::Dispatch) => {
                if expects {
                    self.await_continue(conn, client);
                }
                if !gathers {
                    self.dispatch(conn, client);
                }
            }
            Ok(Prepared::Connect) => {
                if let Some(exchange) = &mut client.exchange {
                    exchange.place = Place::Connecting;
                }
            }
            Ok(Prepared::Check(check)) => {
                self.check_user(conn, client, KeptHead::of(request), check);
            }
            Ok(Prepared::Answer(reply)) => self.answer(conn, client, &reply),
            Ok(Prepared::Close) => {
                if let Some(exchange) = &mut client.exchange {
                    exchange.notes.ended_by = EndedBy::Gateway;
                }
                conn.close();
                self.finish(conn, client);
            }
            Err(error) => self.fail(conn, client, error),
        }
    }

    /// Sets the timer after which the gateway itself says `100 Continue`.
    fn await_continue(&mut self, conn: &mut Conn<'_, Self>, client: &mut ClientSession<H>) {
        let Some(exchange) = &mut client.exchange else {
            return;
        };
        if let Some(number) = exchange.pool {
            let delay = match exchange.place {
                // No node hears of the request before its body is here.
                Place::Gathering => Duration::ZERO,
                _ => self.pools[number].settings().timeouts.expect_continue,
            };
            exchange.expectation = Expectation::Awaited(conn.set_timer(delay, SAY_CONTINUE));
        }
    }

    /// Makes the head that the node gets.
    fn prepare(
        &mut self,
        conn: &mut Conn<'_, Self>,
        listener: &Listener,
        port: Option<u16>,
        exchange: &mut Exchange<H::Exchange>,
        request: &ServerRequest<'_>,
    ) -> Result<Prepared, ProxyError> {
        let settings = &listener.settings;
        let rules = &listener.forwarding;
        request::check_method(request.method(), false)?;
        let peer = peer(conn);
        let head = &mut exchange.head;
        let believes = forwarding::trusts(rules, peer);
        let gathered = request::gather(request, settings.underscores, believes, &mut head.fields);
        let mut seen = gathered.map_err(unsendable)?;
        let client = exchange.client;
        let restored = forwarding::restore_client(rules, peer, client, request, &mut head.fields);
        seen.forwarding |= restored.map_err(unsendable)?;
        request::check(request, seen, rules, settings.underscores)?;
        check_name(conn, listener, &exchange.asked.host)?;
        let forwards = request::max_forwards(request.method(), request.headers());
        if forwards == MaxForwards::Here {
            return Ok(Prepared::Answer(Reply::new(StatusCode::NO_CONTENT)));
        }
        let target = request::target(request, &exchange.asked.target);
        let found = self
            .rules
            .routes
            .find(&exchange.asked.host, path_of(target));
        let mut route = found.cloned().ok_or_else(|| {
            ProxyError::new(StatusCode::NOT_FOUND, Phase::Request, Cause::NoRoute)
        })?;
        if listener.admission.is_some() || route.admission.is_some() {
            exchange.route = Some(route.clone());
            let admitted = self.admit_to(conn, listener, &route, exchange, request);
            if !matches!(admitted, Ok(None)) {
                // No node gets them yet.
                exchange.head.fields.clear();
            }
            if let Some(check) = admitted? {
                return Ok(Prepared::Check(check));
            }
        }
        let target = request::target(request, &exchange.asked.target);
        let head = &mut exchange.head;
        if exchange.extras.is_some() {
            hide_credentials(listener, &route, &mut head.fields);
        }
        exchange.nominated = request::nominated(request.headers());
        head.method.push_str(&exchange.asked.method);
        head.host.push_str(request::host(
            &route.settings.host_field,
            &exchange.asked.host,
        ));
        let sent = route.target(target);
        head.target.push_str(&sent);
        head.is_checked = matches!(sent, Cow::Borrowed(_))
            && route.settings.host_field == HostField::Keep
            && !head.host.is_empty();
        head.has_new_fields = !route.settings.request.is_empty();
        exchange.route = Some(route.clone());
        if let MaxForwards::Left(left) = forwards {
            head.fields
                .set("Max-Forwards", left.to_string())
                .map_err(unsendable)?;
        }
        request::change(&mut head.fields, &route.settings.request).map_err(unsendable)?;

        let mut view = RequestHead {
            head,
            peer: conn.peer_addr(),
            client: exchange.client,
            user: Extras::user(exchange.extras.as_deref()),
            route: &route.name,
            version: request.version(),
            content_length: request.content_length(),
        };
        let hook = exchange.hook.get_or_insert_default();
        let verdict = guarded(|| self.hooks.on_request(&mut view, hook))?;
        let (mut pool, mut node) = (None, None);
        match verdict {
            Verdict::Forward => {}
            Verdict::Answer(reply) => return Ok(Prepared::Answer(reply)),
            Verdict::Close => return Ok(Prepared::Close),
            Verdict::Pool(name) => pool = Some(name),
            Verdict::Node(address) => node = Some(address),
            Verdict::Route(name) => {
                let named = self.rules.routes.named(&name);
                route = named.ok_or_else(|| unknown("route", &name))?.clone();
                exchange.route = Some(route.clone());
            }
        }
        let number = match &pool {
            Some(name) => self.rules.pools.get(&**name).copied(),
            None => match &route.split {
                None => route.pool,
                Some(split) => {
                    let chosen = split.choose(exchange.head.fields.headers());
                    if let Some((name, value)) = chosen.cookie {
                        let secure = if is_tls(conn) { "; Secure" } else { "" };
                        let cookie =
                            format!("{name}={value}; Path=/; HttpOnly; SameSite=Lax{secure}");
                        exchange.extras.get_or_insert_default().cookie = Some(cookie);
                    }
                    chosen.pool
                }
            },
        };
        let number = number
            .ok_or_else(|| unknown("pool", pool.as_deref().unwrap_or(&route.settings.pool)))?;
        exchange.pool = Some(number);
        if let Some(place) = self.pools[number].enter()? {
            exchange.extras.get_or_insert_default().in_pool = Some(place);
        }
        exchange.takes_nodes_host = exchange.head.host.is_empty();
        self.limit_body(exchange, &route)?;
        exchange.upgrade = request::upgrade(request, seen, &route);
        exchange.is_private = request::is_private(request, seen);

        let hop = Hop {
            peer,
            is_tls: is_tls(conn),
            port,
            host: &exchange.asked.host,
            version: request.version(),
        };
        let head = &mut exchange.head;
        let are_new = match head.has_new_fields {
            true => !forwarding::are_in(&head.fields),
            false => !seen.forwarding,
        };
        forwarding::set(rules, &hop, exchange.client, are_new, &mut head.fields)
            .map_err(unsendable)?;
        self.choose(exchange, number, node.as_deref())?;
        self.count(conn, exchange, number);
        if route.settings.compress.is_some() && request.version() == Version::Http11 {
            let wants = compress::is_wanted(request.headers());
            exchange.extras.get_or_insert_default().takes_gzip = wants;
        }
        if let Some(mirror) = &route.mirror
            && exchange.upgrade.is_none()
            && mirror.samples(request.content_length())
        {
            exchange.extras.get_or_insert_default().copied_body = Some(Vec::new());
        }
        Ok(Prepared::Dispatch)
    }

    /// Counts a request for its pool, and limits its time.
    pub(super) fn count(
        &mut self,
        conn: &mut Conn<'_, Self>,
        exchange: &mut Exchange<H::Exchange>,
        number: usize,
    ) {
        let timeout = self.pools[number].settings().timeouts.request;
        if timeout != Duration::MAX {
            conn.set_deadline(Some(timeout));
            exchange.has_deadline = true;
        }
        self.pools[number].count(conn.now());
    }

    /// Chooses the node.
    fn choose(
        &mut self,
        exchange: &mut Exchange<H::Exchange>,
        number: usize,
        node: Option<&str>,
    ) -> Result<(), ProxyError> {
        let pool = &mut self.pools[number];
        exchange.key = pool.key(&exchange.head, exchange.client);
        let chosen = match node {
            None => pool.pick(exchange.key, &[])?,
            Some(address) => {
                let node = pool
                    .node_at(address)
                    .ok_or_else(|| unknown("node", address))?;
                pool.take(node).ok_or_else(|| {
                    ProxyError::new(StatusCode::SERVICE_UNAVAILABLE, Phase::Pick, Cause::NoNode)
                })?
            }
        };
        exchange.chosen = Some(chosen);
        Ok(())
    }

    fn limit_body(
        &self,
        exchange: &mut Exchange<H::Exchange>,
        route: &Route,
    ) -> Result<(), ProxyError> {
        let Some(max) = route.settings.max_body else {
            return Ok(());
        };
        exchange.upload.allowed = max;
        match exchange.body {
            Body::Sized(len) if len > max => Err(body_too_long()),
            _ => Ok(()),
        }
    }

    fn on_request_body(
        &mut self,
        conn: &mut Conn<'_, Self>,
        client: &mut ClientSession<H>,
        bytes: &[u8],
    ) {
        let Some(exchange) = client.exchange.as_deref_mut() else {
            return;
        };
        let len = bytes.len() as u64;
        exchange.notes.request_bytes += len;
        exchange.stop_waiting(conn);
        if len > exchange.upload.allowed {
            return self.fail(conn, client, body_too_long());
        }
        exchange.upload.allowed -= len;
        let seen = guarded(|| self.hooks.on_request_part(bytes, exchange.hook()));
        if let Err(error) = seen {
            return self.fail(conn, client, error);
        }
        exchange.copy_body(bytes);
        match exchange.place {
            Place::On { upstream, .. } => {
                let limit = exchange
                    .pool
                    .map_or(0, |n| self.pools[n].settings().retries.body);
                exchange.upload.keep(bytes, limit);
                let has_room = conn.with(upstream, |upstream, _| {
                    // One that is closing has its `on_close` ahead.
                    upstream.send(Chunk(bytes)).is_err() || upstream.has_room()
                });
                // The end of a complete body is taken at once: a response that came before it would close the connection.
                let is_complete = matches!(exchange.body, Body::Sized(len) if exchange.notes.request_bytes >= len);
                if has_room == Some(false) && !is_complete {
                    conn.pause_reads();
                }
            }
            Place::Gathering | Place::Waiting(_) => {
                if let Kept::Whole(kept) = &mut exchange.upload.kept {
                    kept.extend_from_slice(bytes);
                }
                if exchange.place == Place::Gathering && exchange.is_over_buffer() {
                    exchange.place = Place::Nowhere;
                    self.dispatch(conn, client);
                }
            }
            Place::Connecting
            | Place::Dialing(_)
            | Place::Tunnel
            | Place::Frames { .. }
            | Place::Nowhere => {}
        }
    }

    fn on_request_end(
        &mut self,
        conn: &mut Conn<'_, Self>,
        client: &mut ClientSession<H>,
        trailers: Headers<'_>,
    ) {
        let Some(exchange) = client.exchange.as_deref_mut() else {
            return;
        };
        let upload = &mut exchange.upload;
        upload.is_complete = true;
        request::gather_trailers(trailers, &exchange.nominated, &mut upload.trailers);
        Self::send_copy(conn, exchange);
        match exchange.place {
            Place::On { upstream, .. } if exchange.body == Body::Chunked => {
                conn.with(upstream, |upstream, _| {
                    if upstream.send(Trailers(&exchange.upload.trailers)).is_err() {
                        upstream.abort();
                    }
                });
            }
            Place::Gathering => {
                exchange.place = Place::Nowhere;
                self.dispatch(conn, client);
            }
            Place::Connecting => self.connect_target(conn, client),
            _ => {}
        }
    }
}

impl<X> Exchange<X> {
    /// Begins an empty exchange.
    fn begin(&mut self, request: &ServerRequest<'_>) {
        self.asked.fill(request);
        self.body = Body::of(request);
        self.is_connect = request.method() == "CONNECT";
        // The end of a `CONNECT` is where the tunnel begins.
        let has_body = !matches!(self.body, Body::None | Body::Sized(0));
        self.upload.is_complete = !has_body && !self.is_connect;
    }

    /// Returns true if its body is gathered before a node hears of it.
    fn gathers(&self) -> bool {
        let buffer = self.buffer() as u64;
        buffer > 0
            && match self.body {
                Body::None | Body::Sized(0) => false,
                Body::Sized(len) => len <= buffer,
                Body::Chunked => true,
            }
    }

    fn buffer(&self) -> usize {
        self.route
            .as_ref()
            .map_or(0, |route| route.settings.buffer_request)
    }

    fn is_over_buffer(&self) -> bool {
        matches!(&self.upload.kept, Kept::Whole(kept) if kept.len() > self.buffer())
    }
}

/// Returns true if a connection speaks TLS. Its listener may do something else by now.
pub(super) fn is_tls<H: Hooks>(conn: &Conn<'_, Proxy<H>>) -> bool {
    #[cfg(feature = "tls")]
    return conn.tls().is_some();
    #[cfg(not(feature = "tls"))]
    {
        let _ = conn;
        false
    }
}

/// Refuses a host that the client's TLS name does not cover.
fn check_name<H: Hooks>(
    conn: &Conn<'_, Proxy<H>>,
    listener: &Listener,
    host: &str,
) -> Result<(), ProxyError> {
    #[cfg(feature = "tls")]
    if listener.settings.sni_match
        && let Some(tls) = conn.tls()
        && !tls
            .server_name()
            .is_some_and(|name| request::covers(name, host))
    {
        let what = "the host is not the one of the TLS handshake";
        return Err(ProxyError::request(StatusCode::MISDIRECTED_REQUEST, what));
    }
    let _ = (conn, listener, host);
    Ok(())
}

fn body_too_long() -> ProxyError {
    ProxyError::request(StatusCode::PAYLOAD_TOO_LARGE, "the body is too long")
}

/// Returns the error for a field that cannot be sent.
pub(super) fn unsendable(error: SendError) -> ProxyError {
    let cause = Cause::Hook(Box::new(error));
    ProxyError::new(StatusCode::INTERNAL_SERVER_ERROR, Phase::Request, cause)
}

/// Returns the error for a name that a hook gave.
fn unknown(what: &str, name: &str) -> ProxyError {
    let cause = Cause::Hook(format!("there is no {what} {name:?}").into());
    ProxyError::new(StatusCode::INTERNAL_SERVER_ERROR, Phase::Request, cause)
}
