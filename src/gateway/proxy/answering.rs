//! Answers of the gateway's own, and the end of exchanges.

use std::borrow::Cow;
use std::time::Instant;

use super::{ClientSession, Proxy, guarded};
use crate::addr::Addr;
use crate::balance::NodeId;
use crate::engine::conn::close::Closed;
use crate::engine::handler::Conn;
use crate::gateway::access_log::Sink;
use crate::gateway::error::{Cause, ProxyError};
use crate::gateway::exchange::{Answer, Body, Exchange, Extras};
use crate::gateway::hooks::Hooks;
use crate::gateway::record::{EndedBy, Notes, Record};
use crate::gateway::reply::Reply;
use crate::gateway::rules::Listener;
use crate::http::{ServerResponse, StatusCode};

/// The status in a record of a client that has left before it got one.
pub(super) const CLIENT_LEFT: u16 = 499;

impl<H: Hooks> Proxy<H> {
    /// Ends the exchange of a client with an error: with an answer, or with a cut if the response has begun.
    pub(super) fn fail(
        &mut self,
        conn: &mut Conn<'_, Self>,
        client: &mut ClientSession<H>,
        mut error: ProxyError,
    ) {
        let Some(exchange) = client.exchange.as_deref_mut() else {
            return;
        };
        let pool = exchange.pool.map(|number| &self.pools[number]);
        if let Some((pool, node)) = pool.zip(exchange.last_node) {
            error = error.at(Some(pool.name_of(node)));
        } else if let Some(named) = &exchange.target {
            error = error.at(Some(&named.target.to_string()));
        }
        if error.is_refusal() {
            self.meters.all.egress_refusals.add(1);
        }
        if let (Cause::Overloaded, Some(pool)) = (error.cause(), pool) {
            pool.counters.overloaded.add(1);
        }
        log_failure(&error, exchange);
        self.leave(exchange, &mut conn.reactor());
        if exchange.notes.ended_by == EndedBy::Nobody {
            exchange.notes.ended_by = match error.cause() {
                _ if error.is_refusal() => EndedBy::Gateway,
                Cause::Closed(_) | Cause::Connect(_) | Cause::Response(_) | Cause::Protocol => {
                    EndedBy::Node
                }
                Cause::Timeout => EndedBy::Timeout,
                _ => EndedBy::Gateway,
            };
        }
        if exchange.notes.timeout.is_empty() {
            exchange.notes.timeout = error.timeout();
        }
        if exchange.answer == Answer::Begun {
            Self::flush(conn, exchange);
            // Without its end, the response does not look complete. One that ends with the stream is reset.
            conn.close();
            return self.finish(conn, client);
        }
        let route = exchange.route.as_ref();
        let status = error.status().as_u16();
        let page = route.and_then(|route| route.settings.error_pages.get(&status));
        error.page = page.cloned().map(Box::new);
        error.is_told = client.listener.settings.proxy_status;
        let reply = guarded(|| self.hooks.on_error(&error, exchange.hook()));
        let reply = reply.unwrap_or_else(|panic| panic.reply());
        self.answer(conn, client, &reply);
    }

    /// Answers a client, and ends its exchange.
    pub(super) fn answer(
        &mut self,
        conn: &mut Conn<'_, Self>,
        client: &mut ClientSession<H>,
        reply: &Reply,
    ) {
        let Some(exchange) = client.exchange.as_deref_mut() else {
            return;
        };
        let mut response = ServerResponse::new(reply.status).block(&reply.fields);
        if !reply.body.is_empty() {
            response = response.shared_body(reply.body.clone());
        }
        if exchange.is_last {
            response = response.close();
        }
        let mut status = reply.status;
        let mut sent = conn.send(response);
        if let Err(error) = &sent {
            log::warn!(target: "epicycle::gateway::http", "an answer of a hook was refused: {error}");
            status = StatusCode::INTERNAL_SERVER_ERROR;
            sent = conn.send(ServerResponse::new(status).close());
        }
        if sent.is_err() {
            conn.abort();
        }
        exchange.notes.status = Some(status);
        exchange.notes.response_bytes = reply.body.len() as u64;
        if exchange.notes.ended_by == EndedBy::Nobody {
            exchange.notes.ended_by = EndedBy::Gateway;
        }
        self.finish(conn, client);
    }

    /// Ends the exchange of a client, whose connection takes the next request.
    pub(super) fn finish(&mut self, conn: &mut Conn<'_, Self>, client: &mut ClientSession<H>) {
        let Some(mut exchange) = client.exchange.take() else {
            return;
        };
        exchange.stop_waiting(conn);
        if exchange.has_deadline {
            conn.set_deadline(None);
        }
        if exchange.body != Body::None {
            // They are in use for other connections.
            let _ = conn.set_limits(&client.listener.between);
        }
        let (peer, now) = (conn.peer_addr().clone(), conn.now());
        self.done(exchange, &peer, now);
        conn.resume_reads();
    }

    /// Makes the record of an exchange that has ended.
    pub(super) fn done(
        &mut self,
        mut exchange: Box<Exchange<H::Exchange>>,
        peer: &Addr,
        now: Instant,
    ) {
        let notes = &mut exchange.notes;
        notes.end_wait(now);
        notes.times.total = notes.since(now);
        let pool = exchange.pool.map(|number| &self.pools[number]);
        let node = pool
            .zip(exchange.last_node)
            .map(|(pool, node)| Cow::Borrowed(pool.name_of(node)));
        let target = exchange.target.as_ref();
        let node = node.or_else(|| Some(Cow::Owned(target?.target.to_string())));
        let node = node.unwrap_or_default();
        let record = Record {
            peer,
            client: exchange.client,
            user: Extras::user(exchange.extras.as_deref()).unwrap_or_default(),
            method: &exchange.asked.method,
            host: &exchange.asked.host,
            target: &exchange.asked.target,
            is_http10: exchange.asked.is_http10,
            fields: exchange.head.fields.headers(),
            route: exchange.route.as_ref().map_or("", |route| &route.name),
            pool: pool.map_or("", |pool| &pool.shared.name),
            node: &node,
            status: notes.status.map_or(CLIENT_LEFT, |status| status.as_u16()),
            request_bytes: notes.request_bytes,
            response_bytes: notes.response_bytes,
            unix_time: notes.unix_time,
            times: notes.times,
            reused: notes.reused,
            tries: notes.tries,
            ended_by: notes.ended_by,
            timeout: notes.timeout,
        };
        self.meters.all.in_flight.subtract(1);
        if !notes.is_own {
            let route = exchange.route.as_ref().map(|route| &route.counters);
            route.unwrap_or(&self.unrouted).count(&record);
            if let Some(pool) = pool {
                pool.counters.count(&record);
                if let Some(node) = exchange
                    .last_node
                    .and_then(|node| pool.node_counters.get(&node))
                {
                    node.count(&record);
                }
            }
            if let Some(sink) = &mut self.sink {
                sink.log(&record);
            }
        }
        let hooks = &mut self.hooks;
        let hook = exchange.hook.get_or_insert_default();
        // The exchange has ended, so nothing else follows.
        let _ = guarded(|| hooks.on_done(&record, hook));
        self.spare.put(exchange);
    }
}

impl<H: Hooks> Proxy<H> {
    /// Makes the record of a request that the codec has refused: a malformed one, or one that came too slowly.
    pub(super) fn record_refused(&mut self, info: &Closed, unix_time: u64) {
        let Some(refused) = &info.refused else { return };
        let line = refused
            .input
            .split(|byte| matches!(byte, b'\r' | b'\n'))
            .next();
        let line = String::from_utf8_lossy(line.unwrap_or_default());
        let mut words = line.split(' ');
        let host = host_in(&refused.input);
        let method = words.next().unwrap_or_default();
        let target = words.next().unwrap_or_default();
        let record = Record {
            host: &host,
            is_http10: words.next() == Some("HTTP/1.0"),
            status: refused.status,
            request_bytes: 0,
            response_bytes: 0,
            unix_time,
            ..Record::of(info, method, target)
        };
        self.unrouted.count(&record);
        tell(&mut self.sink, &mut self.hooks, &record);
    }

    /// Makes the record of a client of a TCP or UDP listener.
    pub(super) fn record_forwarded(
        &mut self,
        info: &Closed,
        method: &str,
        listener: &Listener,
        pool: usize,
        node: Option<NodeId>,
        notes: &mut Notes,
    ) {
        notes.end_wait(info.closed_at);
        notes.times.total = notes.since(info.closed_at);
        let pool = &self.pools[pool];
        let record = Record {
            pool: &pool.shared.name,
            node: node.map_or("", |node| pool.name_of(node)),
            status: notes.status.map_or(CLIENT_LEFT, |status| status.as_u16()),
            unix_time: notes.unix_time,
            times: notes.times,
            tries: notes.tries,
            ended_by: notes.ended_by,
            timeout: notes.timeout,
            ..Record::of(info, method, &listener.settings.on)
        };
        listener.counters.count(&record);
        if let Some(node) = node.and_then(|node| pool.node_counters.get(&node)) {
            node.counters.count_tunnel(&record);
        }
        tell(&mut self.sink, &mut self.hooks, &record);
    }
}

/// Gives the log and the hooks the record of a connection that has ended.
pub(super) fn tell<H: Hooks>(sink: &mut Option<Sink>, hooks: &mut H, record: &Record<'_>) {
    if let Some(sink) = sink {
        sink.log(record);
    }
    // Nothing else follows.
    let _ = guarded(|| hooks.on_done(record, &mut H::Exchange::default()));
}

/// Returns the host of a request of which this is the beginning, if its field is there as a whole.
fn host_in(input: &[u8]) -> Cow<'_, str> {
    let lines = input.split_inclusive(|byte| *byte == b'\n').skip(1);
    let values = lines.filter_map(|line| {
        let line = line.strip_suffix(b"\r\n")?;
        let colon = memchr::memchr(b':', line)?;
        let is_host = line[..colon].eq_ignore_ascii_case(b"host");
        is_host.then(|| line[colon + 1..].trim_ascii())
    });
    String::from_utf8_lossy(values.take(1).next().unwrap_or_default())
}

fn log_failure<X>(error: &ProxyError, exchange: &Exchange<X>) {
    let asked = &exchange.asked;
    let (method, target) = (&asked.method, asked.target.escape_debug());
    match error.cause() {
        Cause::Request { .. } | Cause::NoRoute | Cause::Overloaded => {
            log::debug!(target: "epicycle::gateway::http", "{method} {target}: {error}");
        }
        _ if error.is_refusal() => {
            log::info!(target: "epicycle::gateway::http", "{method} {target}: {error}");
        }
        // Clients choose the targets of a forward listener, so that they could fill the log.
        _ if exchange.target.is_some() && !error.is_of_this_side() => {
            log::debug!(target: "epicycle::gateway::http", "{method} {target}: {error}");
        }
        _ => log::warn!(target: "epicycle::gateway::http", "{method} {target}: {error}"),
    }
}
