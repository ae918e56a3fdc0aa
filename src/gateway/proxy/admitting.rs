//! The admission of requests: addresses, and passwords, which other threads check.

use super::{ClientSession, Proxy, REFUSE, Session};
use crate::engine::handler::Conn;
use crate::gateway::admission::{Admission, auth};
use crate::gateway::basic::Credentials;
use crate::gateway::error::{Cause, Phase, ProxyError};
use crate::gateway::exchange::{Exchange, Extras};
use crate::gateway::hooks::{Hooks, path_of};
use crate::gateway::metrics::RouteCounters;
use crate::gateway::request;
use crate::gateway::route::Route;
use crate::gateway::rules::Listener;
use crate::gateway::settings::{BasicAuth, ListenerKind};
use crate::gateway::users::Users;
use crate::http::{HeaderBlock, KeptHead, ServerRequest, StatusCode};

/// A password that must be checked before its request goes on.
pub(super) struct Check {
    credentials: Credentials,
    users: Users,
}

impl<H: Hooks> Proxy<H> {
    /// Returns true, and counts, if a listener refuses clients from this address.
    pub(super) fn refuses_address(&self, conn: &Conn<'_, Self>, listener: &Listener) -> bool {
        let ip = conn.peer_addr().ip();
        let refuses = (listener.admission.as_ref()).is_some_and(|admission| !admission.allows(ip));
        if refuses {
            log::debug!(target: "epicycle::gateway::socks", "{}: its address is not allowed", conn.peer_addr());
            self.unrouted.denied.add(1);
        }
        refuses
    }

    /// Admits a request to its listener, whichever route it takes.
    pub(super) fn admit_at(
        &mut self,
        conn: &Conn<'_, Self>,
        listener: &Listener,
        admission: &Admission,
        exchange: &mut Exchange<H::Exchange>,
        request: &ServerRequest<'_>,
    ) -> Result<Option<Check>, ProxyError> {
        self.check_address(admission, exchange, &self.unrouted)?;
        let is_health = listener.settings.own_health_path() == Some(path_of(request.target()));
        if is_health {
            return Ok(None);
        }
        self.take_tokens(conn, admission, exchange, request, &self.unrouted)?;
        let Some(auth) = auth(Some(admission), None) else {
            return Ok(None);
        };
        let settings = &listener.settings;
        // The requests that have a route are asked for a password once it is known.
        let (host, path) = (
            &exchange.asked.host,
            path_of(request::target(request, request.target())),
        );
        let is_routed =
            settings.kind != ListenerKind::Metrics && self.rules.routes.find(host, path).is_some();
        match is_routed {
            true => Ok(None),
            false => self.authenticate(conn, auth, exchange, request),
        }
    }

    /// Admits a request of a forward listener.
    pub(super) fn admit_through(
        &mut self,
        conn: &Conn<'_, Self>,
        listener: &Listener,
        exchange: &mut Exchange<H::Exchange>,
        request: &ServerRequest<'_>,
    ) -> Result<Option<Check>, ProxyError> {
        let Some(users) = &listener.settings.users else {
            return Ok(None);
        };
        let told = || Credentials::of(request.headers(), "proxy-authorization");
        let known = self.know(conn, users, exchange, told);
        known.map_err(|Unknown| proxy_unauthorized())
    }

    /// Admits a request to its route.
    pub(super) fn admit_to(
        &mut self,
        conn: &Conn<'_, Self>,
        listener: &Listener,
        route: &Route,
        exchange: &mut Exchange<H::Exchange>,
        request: &ServerRequest<'_>,
    ) -> Result<Option<Check>, ProxyError> {
        if let Some(admission) = &route.admission {
            self.check_address(admission, exchange, &route.counters)?;
            self.take_tokens(conn, admission, exchange, request, &route.counters)?;
        }
        match auth(listener.admission.as_deref(), route.admission.as_deref()) {
            Some(auth) => self.authenticate(conn, auth, exchange, request),
            None => Ok(None),
        }
    }

    fn check_address(
        &self,
        admission: &Admission,
        exchange: &Exchange<H::Exchange>,
        counters: &RouteCounters,
    ) -> Result<(), ProxyError> {
        if admission.allows(exchange.client) {
            return Ok(());
        }
        counters.denied.add(1);
        let what = "this address is not allowed";
        Err(ProxyError::request(StatusCode::FORBIDDEN, what))
    }

    /// Takes the tokens for a request, once.
    fn take_tokens(
        &self,
        conn: &Conn<'_, Self>,
        admission: &Admission,
        exchange: &Exchange<H::Exchange>,
        request: &ServerRequest<'_>,
        counters: &RouteCounters,
    ) -> Result<(), ProxyError> {
        if Extras::user(exchange.extras.as_deref()).is_some() {
            // It has them since before its password was checked.
            return Ok(());
        }
        let taken = admission.take_tokens(exchange.client, request.headers(), conn.now());
        taken.map_err(|wait| {
            counters.limited.add(1);
            let seconds = wait.as_nanos().div_ceil(1_000_000_000).max(1);
            let what = "too many requests; try again later";
            ProxyError::request(StatusCode::TOO_MANY_REQUESTS, what)
                .with_field("Retry-After", seconds.to_string())
        })
    }

    fn authenticate(
        &mut self,
        conn: &Conn<'_, Self>,
        auth: &BasicAuth,
        exchange: &mut Exchange<H::Exchange>,
        request: &ServerRequest<'_>,
    ) -> Result<Option<Check>, ProxyError> {
        let told = || Credentials::of(request.headers(), "authorization");
        let known = self.know(conn, &auth.users, exchange, told);
        known.map_err(|Unknown| unauthorized(auth))
    }

    /// Returns nothing if the client has proved its name, or the check of its password.
    fn know(
        &mut self,
        conn: &Conn<'_, Self>,
        users: &Users,
        exchange: &mut Exchange<H::Exchange>,
        told: impl FnOnce() -> Option<Credentials>,
    ) -> Result<Option<Check>, Unknown> {
        let extras = exchange.extras.get_or_insert_default();
        // Other settings may have other users since the check.
        if matches!(&extras.user, Some((_, known)) if known.is_same(users)) {
            return Ok(None);
        }
        let Some(credentials) = told() else {
            self.counters(exchange).unauthenticated.add(1);
            return Err(Unknown);
        };
        let Credentials { user, password } = &credentials;
        if users.remembers(user, password, conn.now()) {
            extras.user = Some((user.as_str().into(), users.clone()));
            return Ok(None);
        }
        Ok(Some(Check {
            credentials,
            users: users.clone(),
        }))
    }

    /// Checks the password of a client. Its request waits meanwhile, and its body is not read.
    pub(super) fn check_user(
        &mut self,
        conn: &mut Conn<'_, Self>,
        client: &mut ClientSession<H>,
        head: KeptHead,
        Check { credentials, users }: Check,
    ) {
        let Some(exchange) = client.exchange.as_deref_mut() else {
            return;
        };
        let extras = exchange.extras.get_or_insert_default();
        extras.unchecked = Some(head);
        if !exchange.upload.is_complete {
            conn.pause_reads();
        }
        let waiting = conn.handle();
        let is_queued = self.shared.check_password(move || {
            let Credentials { user, password } = credentials;
            let is_right = users.verify(&user, &password);
            // A client that has left needs no answer.
            let _ = waiting.run(move |proxy, conn, session| {
                let Session::Client(client) = session else {
                    return;
                };
                if is_right {
                    users.remember(&user, &password, conn.now());
                    return proxy.on_right_password(conn, client, user, users);
                }
                let Some(exchange) = client.exchange.as_deref() else {
                    return;
                };
                log::info!(target: "epicycle::gateway::http", "{}: a wrong password for {user:?}", conn.peer_addr());
                let delay = exchange.client.map(|ip| users.note_failure(ip, conn.now()));
                match delay.filter(|delay| !delay.is_zero()) {
                    None => proxy.refuse_password(conn, client),
                    Some(delay) => drop(conn.set_timer(delay, REFUSE)),
                }
            });
        });
        if !is_queued {
            log::warn!(target: "epicycle::gateway::http", "{}: too many passwords wait to be checked", conn.peer_addr());
            let error = ProxyError::new(StatusCode::SERVICE_UNAVAILABLE, Phase::Pick, Cause::Busy);
            self.fail(conn, client, error);
        }
    }

    /// Goes on with a request whose client has proved its name.
    fn on_right_password(
        &mut self,
        conn: &mut Conn<'_, Self>,
        client: &mut ClientSession<H>,
        user: String,
        users: Users,
    ) {
        let Some(mut exchange) = client.exchange.take() else {
            return;
        };
        let extras = exchange.extras.get_or_insert_default();
        extras.user = Some((user.into(), users));
        let unchecked = extras.unchecked.take();
        conn.resume_reads();
        match unchecked {
            Some(head) => self.take_in(conn, client, exchange, &head.request()),
            None => client.exchange = Some(exchange),
        }
        if let Some(exchange) = &mut client.exchange
            && exchange.upload.is_complete
        {
            // The end of a request without a body may have come during the check.
            Self::send_copy(conn, exchange);
        }
    }

    /// Refuses a request whose client has told a wrong password.
    pub(super) fn refuse_password(
        &mut self,
        conn: &mut Conn<'_, Self>,
        client: &mut ClientSession<H>,
    ) {
        let Some(exchange) = client.exchange.as_deref_mut() else {
            return;
        };
        let was_unchecked =
            (exchange.extras.as_mut()).is_some_and(|extras| extras.unchecked.take().is_some());
        if !was_unchecked {
            return;
        }
        self.counters(exchange).unauthenticated.add(1);
        let route = exchange.route.as_ref();
        let route = route.and_then(|route| route.admission.as_deref());
        let error = match auth(client.listener.admission.as_deref(), route) {
            _ if client.listener.targets.is_some() => proxy_unauthorized(),
            Some(auth) => unauthorized(auth),
            // Other settings ask for none.
            None => ProxyError::request(StatusCode::UNAUTHORIZED, WRONG),
        };
        self.fail(conn, client, error);
    }

    /// Returns the counters of the route of an exchange.
    fn counters<'a>(&'a self, exchange: &'a Exchange<H::Exchange>) -> &'a RouteCounters {
        let route = exchange.route.as_ref();
        route.map_or(&self.unrouted, |route| &route.counters)
    }
}

const WRONG: &str = "a name and its password are needed here";

/// The client has not told who it is.
struct Unknown;

fn proxy_unauthorized() -> ProxyError {
    let challenge = "Basic realm=\"proxy\", charset=\"UTF-8\"";
    ProxyError::request(StatusCode::PROXY_AUTHENTICATION_REQUIRED, WRONG)
        .with_field("Proxy-Authenticate", challenge)
}

fn unauthorized(auth: &BasicAuth) -> ProxyError {
    let challenge = format!("Basic realm=\"{}\", charset=\"UTF-8\"", auth.realm);
    ProxyError::request(StatusCode::UNAUTHORIZED, WRONG).with_field("WWW-Authenticate", challenge)
}

/// Keeps a password that the gateway has checked from nodes, unless they are to get it.
pub(super) fn hide_credentials(listener: &Listener, route: &Route, fields: &mut HeaderBlock) {
    let auth = auth(listener.admission.as_deref(), route.admission.as_deref());
    if auth.is_some_and(|auth| !auth.pass) {
        fields.remove("authorization");
    }
}
