//! Requests of forward listeners, whose clients name their targets: in absolute form, or by `CONNECT`.

use std::rc::Rc;

use super::asking::{Prepared, is_tls, unsendable};
use super::{ClientSession, Proxy, Purpose, Session, guarded, peer};
use crate::authority::Authority;
use crate::engine::connect::ConnectError;
use crate::engine::handler::{Conn, Reactor};
use crate::engine::slots::ConnId;
use crate::gateway::destination::NamedTarget;
use crate::gateway::dial;
use crate::gateway::egress::{Target, TargetError, Way};
use crate::gateway::error::{Cause, Phase, ProxyError};
use crate::gateway::exchange::{Answer, Body, Exchange, Extras, Place};
use crate::gateway::forwarding::{self, Hop};
use crate::gateway::hooks::{Hooks, RequestHead, Verdict};
use crate::gateway::reply::Reply;
use crate::gateway::request::{self, MaxForwards};
use crate::gateway::route::Route;
use crate::gateway::rules::Listener;
use crate::http::{ServerRequest, ServerResponse, StatusCode};

impl<H: Hooks> Proxy<H> {
    /// Makes the head that the target gets.
    pub(super) fn prepare_target(
        &mut self,
        conn: &mut Conn<'_, Self>,
        listener: &Listener,
        route: &Rc<Route>,
        port: Option<u16>,
        exchange: &mut Exchange<H::Exchange>,
        request: &ServerRequest<'_>,
    ) -> Result<Prepared, ProxyError> {
        let settings = &listener.settings;
        let rules = &listener.forwarding;
        exchange.route = Some(route.clone());
        if exchange.is_connect {
            // If it fails, the bytes behind it were meant for the target, and are no request.
            exchange.is_last = true;
        }
        request::check_method(request.method(), true)?;
        let target = target(request)?;
        if exchange.is_connect && !matches!(exchange.body, Body::None | Body::Sized(0)) {
            return Err(bad_request("a CONNECT has no body"));
        }
        if let Some(check) = self.admit_through(conn, listener, exchange, request)? {
            return Ok(Prepared::Check(check));
        }
        let peer = peer(conn);
        let believes = forwarding::trusts(rules, peer);
        let head = &mut exchange.head;
        let gathered = request::gather(request, settings.underscores, believes, &mut head.fields);
        let seen = gathered.map_err(unsendable)?;
        forwarding::restore_client(rules, peer, exchange.client, request, &mut head.fields)
            .map_err(unsendable)?;
        if let Err(error) = request::check(request, seen, rules, settings.underscores) {
            // The target gets none of them.
            head.fields.clear();
            return Err(error);
        }
        exchange.nominated = request::nominated(request.headers());
        head.method.push_str(request.method());
        // The target's authority, whatever the client says in `Host` (RFC 9112, section 3.2.2).
        head.host.push_str(request.authority().unwrap_or_default());
        head.target.push_str(match exchange.is_connect {
            true => request.target(),
            false => request::target(request, request.target()),
        });
        head.is_checked = true;
        exchange.upgrade = request::upgrade(request, seen, route);
        exchange.is_private = request::is_private(request, seen);
        let guard = listener.guard.clone();
        exchange.target = Some(NamedTarget::new(target, guard, &self.target_hasher));
        self.allow_target(conn, listener, port, exchange)
    }

    /// Goes on with a request whose head is gathered: asks the hook and the policy.
    fn allow_target(
        &mut self,
        conn: &mut Conn<'_, Self>,
        listener: &Listener,
        port: Option<u16>,
        exchange: &mut Exchange<H::Exchange>,
    ) -> Result<Prepared, ProxyError> {
        let (Some(route), Some(named)) = (&exchange.route, &exchange.target) else {
            return Err(no_pool());
        };
        let version = exchange.version();
        let head = &mut exchange.head;
        match request::max_forwards(&head.method, head.fields.headers()) {
            MaxForwards::Unlimited => {}
            MaxForwards::Here => {
                return Ok(Prepared::Answer(Reply::new(StatusCode::NO_CONTENT)));
            }
            MaxForwards::Left(left) => {
                let set = head.fields.set("Max-Forwards", left.to_string());
                set.map_err(unsendable)?;
            }
        }
        let hook = exchange.hook.get_or_insert_default();
        let mut view = RequestHead {
            head: &mut exchange.head,
            peer: conn.peer_addr(),
            client: exchange.client,
            user: Extras::user(exchange.extras.as_deref()),
            route: &route.name,
            version,
            content_length: match exchange.body {
                Body::Sized(len) => Some(len),
                Body::None | Body::Chunked => None,
            },
        };
        match guarded(|| self.hooks.on_request(&mut view, hook))? {
            Verdict::Forward => {}
            Verdict::Answer(reply) => return Ok(Prepared::Answer(reply)),
            Verdict::Close => return Ok(Prepared::Close),
            Verdict::Route(_) | Verdict::Pool(_) | Verdict::Node(_) => {
                let what = "a request of a forward listener goes to its target only";
                let status = StatusCode::INTERNAL_SERVER_ERROR;
                let cause = Cause::Hook(what.into());
                return Err(ProxyError::new(status, Phase::Request, cause));
            }
        }
        let way = match exchange.is_connect {
            true => Way::Connect,
            false => Way::Http,
        };
        let checked = named.guard.check(&named.target, way);
        checked.map_err(ProxyError::refused)?;
        if exchange.is_connect {
            return Ok(Prepared::Connect);
        }
        let number = route.pool.ok_or_else(no_pool)?;
        exchange.pool = Some(number);
        let hop = Hop {
            peer: peer(conn),
            is_tls: is_tls(conn),
            port,
            host: &exchange.asked.host,
            version,
        };
        let rules = &listener.forwarding;
        let head = &mut exchange.head;
        let are_new = !forwarding::are_in(&head.fields);
        forwarding::set(rules, &hop, exchange.client, are_new, &mut head.fields)
            .map_err(unsendable)?;
        self.count(conn, exchange, number);
        Ok(Prepared::Dispatch)
    }

    /// Dials the target of a `CONNECT`.
    pub(super) fn connect_target(
        &mut self,
        conn: &mut Conn<'_, Self>,
        client: &mut ClientSession<H>,
    ) {
        let Some(exchange) = client.exchange.as_deref_mut() else {
            return;
        };
        let Some(named) = &exchange.target else {
            return;
        };
        // The next bytes wait until there is a tunnel.
        conn.pause_reads();
        self.last_dial += 1;
        let token = self.last_dial;
        let listener = &client.listener;
        let via = client.listener.settings.via.as_ref();
        let connect = dial::connect(&named.guard, &named.target, Way::Connect, via);
        let connect = connect
            .timeout(listener.settings.tunnels.connect)
            .token(token);
        exchange.notes.tries += 1;
        match conn.reactor().connect(connect) {
            Ok(dial) => {
                exchange.place = Place::Dialing(token);
                self.connects.insert(token, dial);
                self.target_dials.insert(token, conn.id());
            }
            Err(error) => self.fail(conn, client, ProxyError::connect(error, via)),
        }
    }

    /// Joins the connection to the target of a `CONNECT` with that of its client.
    pub(super) fn on_tunnel_open(
        &mut self,
        conn: &mut Conn<'_, Self>,
        client: ConnId,
        token: u64,
    ) -> Option<Session<H>> {
        let idle = conn.with(client, |conn, session| {
            let Session::Client(client) = session else {
                return None;
            };
            let exchange = client.exchange.as_deref_mut()?;
            if exchange.place != Place::Dialing(token) {
                return None;
            }
            exchange.place = Place::Nowhere;
            conn.send(ServerResponse::new(StatusCode::OK)).ok()?;
            exchange.place = Place::Tunnel;
            exchange.answer = Answer::Begun;
            let notes = &mut exchange.notes;
            notes.status = Some(StatusCode::OK);
            notes.times.connected = Some(notes.since(conn.now()));
            Some(client.listener.settings.tunnels.idle)
        });
        let Some(idle) = idle.flatten() else {
            Self::forsake(conn);
            return None;
        };
        self.meters.all.tunnels.add(1);
        Self::join(conn, client, idle);
        Some(Session::Target)
    }

    /// Tells a client that the target of its `CONNECT` cannot be reached.
    pub(super) fn on_tunnel_failed(
        &mut self,
        client: ConnId,
        token: u64,
        error: ConnectError,
        reactor: &mut Reactor<'_, Self>,
    ) {
        reactor.with(client, |conn, session| {
            let Session::Client(client) = session else {
                return;
            };
            if let Some(exchange) = client.exchange.as_deref_mut()
                && exchange.place == Place::Dialing(token)
            {
                exchange.place = Place::Nowhere;
                let via = client.listener.settings.via.as_ref();
                let error = ProxyError::connect(error, via);
                self.fail(conn, client, error);
            }
        });
    }

    /// Returns false if a connection to a target has opened that the policy refuses by now. Its request fails.
    pub(super) fn may_keep(&mut self, conn: &mut Conn<'_, Self>, token: u64) -> bool {
        let Some(dial) = self.dials.get(&token) else {
            return true;
        };
        let Purpose::Serve(to, _) = &dial.purpose else {
            return true;
        };
        let named = to.target.as_ref().map(|named| &*named.target);
        if self.may_still_reach(conn, dial.pool, named) {
            return true;
        }
        if let Some(addr) = conn.peer_addr().as_socket_addr() {
            let error = ConnectError::Denied { addr };
            conn.defer(move |proxy, reactor| proxy.on_dial_failed(token, error, reactor));
        }
        false
    }

    /// Returns true if the policy allows where a connection leads, as it may have changed since the connection was made.
    pub(super) fn may_still_reach(
        &self,
        conn: &Conn<'_, Self>,
        pool: usize,
        target: Option<&Target>,
    ) -> bool {
        let (Some(target), Some(ip)) = (target, conn.peer_addr().ip()) else {
            return true;
        };
        // The pool of a forward listener has its name.
        let listener = self.rules.listeners.get(&*self.pools[pool].shared.name);
        if self.pools[pool].settings().via.is_some() {
            // It leads to the proxy.
            return listener.is_none_or(|listener| listener.guard.check(target, Way::Http).is_ok());
        }
        // One that is closed still serves what is under way.
        listener.is_none_or(|listener| listener.guard.check_addr(target, ip, Way::Http).is_ok())
    }
}

/// Returns the target that a request names.
fn target(request: &ServerRequest<'_>) -> Result<Target, ProxyError> {
    let named = match (request.method(), request.scheme()) {
        ("CONNECT", _) => request.target().parse(),
        (_, None) => {
            return Err(bad_request(
                "this is a forward proxy; send the whole URL, or CONNECT",
            ));
        }
        (_, Some(scheme)) if !scheme.eq_ignore_ascii_case("http") => {
            return Err(bad_request("only http is forwarded; use CONNECT"));
        }
        (_, Some(_)) => of_authority(request.authority().unwrap_or_default()),
    };
    named.map_err(|error| {
        bad_request(match error {
            TargetError::NoHost => "the target has no host",
            TargetError::Port => "the port of the target is missing, or no number from 1 to 65535",
            TargetError::Host => "the host of the target is neither an IP address nor a name",
            TargetError::NumericHost => {
                "the host of the target is a number, but no address of four decimal numbers"
            }
        })
    })
}

/// Returns the target of an authority, whose port is 80 if it is left out.
fn of_authority(text: &str) -> Result<Target, TargetError> {
    match Authority::parse(text.as_bytes()) {
        Ok(Authority { port: None, .. }) => format!("{}:80", text.trim_end_matches(':')).parse(),
        _ => text.parse(),
    }
}

fn bad_request(what: &'static str) -> ProxyError {
    ProxyError::request(StatusCode::BAD_REQUEST, what)
}

fn no_pool() -> ProxyError {
    ProxyError::new(StatusCode::NOT_FOUND, Phase::Request, Cause::NoRoute)
}
