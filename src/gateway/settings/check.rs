//! The check of settings.

use std::collections::HashSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::template::is_template;
use super::{
    AdminSettings, BalanceBy, BasicAuth, ChosenBy, FieldChanges, HashKey, HealthProbe, HostField,
    LimitBy, LimitSettings, ListenerKind, ListenerSettings, LogFormat, MirrorSettings, NodeAddr,
    PoolSettings, Problem, Rate, RouteAuth, RouteSettings, Secret, Settings, SourceSettings,
    TargetSettings, Token, WebSocketMode,
};
use crate::addr::Endpoint;
use crate::http::fields::{is_token, is_value};
use crate::http::head::is_host;

/// The longest time for which parts of a response may wait for others.
const MAX_FLUSH_INTERVAL: Duration = Duration::from_secs(10);

/// The times between two look-ups of a name.
const LOOK_UP_EVERY: RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(24 * 60 * 60);

/// The timeouts of a session of ZooKeeper.
const SESSION_TIMEOUT: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(600);

/// The most bytes of a request's body that are kept for retries.
const MAX_RETRY_BODY: usize = 64 << 10;

/// The problems that were found so far.
#[derive(Default)]
struct Problems(Vec<Problem>);

impl Problems {
    fn add(&mut self, place: impl Into<String>, problem: impl Into<String>) {
        self.0.push(Problem {
            place: place.into(),
            problem: problem.into(),
        });
    }

    fn unless(&mut self, is_right: bool, place: impl Into<String>, problem: impl Into<String>) {
        if !is_right {
            self.add(place, problem);
        }
    }

    fn timeouts(&mut self, place: &str, timeouts: &[(&str, Duration)]) {
        for (name, timeout) in timeouts {
            let remedy = "zero would end everything at once; leave it out for the default";
            self.unless(!timeout.is_zero(), format!("{place}.{name}"), remedy);
        }
    }

    fn heads(&mut self, place: &str, max_head: usize, max_headers: usize) {
        let place = |name: &str| format!("{place}.{name}");
        let remedy = "use 256 bytes or more";
        self.unless(max_head >= 256, place("max_head"), remedy);
        let remedy = "use 1 to 256";
        let is_right = (1..=256).contains(&max_headers);
        self.unless(is_right, place("max_headers"), remedy);
    }
}

pub(super) fn problems(settings: &Settings) -> Vec<Problem> {
    let mut problems = Problems::default();
    if settings.reactors == Some(0) {
        problems.add("reactors", "0 reactors serve nobody; use 1 or more");
    }
    if settings.listeners.is_empty() {
        let remedy = "there is no listener; add one, such as tcp://127.0.0.1:8080";
        problems.add("listeners", remedy);
    }
    if let Some(log) = &settings.access_log
        && let LogFormat::Template(text) = &log.format
        && let Err(remedy) = is_template(text)
    {
        problems.add("access_log.format", remedy);
    }
    let mut addresses = HashSet::new();
    for (n, listener) in settings.listeners.iter().enumerate() {
        // Also at port 0: the address is the name by which a connection finds its listener's settings.
        let is_right = addresses.insert(&*listener.on);
        let remedy = "another listener has this address; remove one, or write it in another way";
        problems.unless(is_right, format!("listeners[{n}].on"), remedy);
        check_listener(&mut problems, &format!("listeners[{n}]"), listener);
    }
    if let Some(admin) = &settings.admin {
        check_admin(&mut problems, settings, admin);
    }
    let mut places = HashSet::new();
    for (n, route) in settings.routes.iter().enumerate() {
        let place = format!("routes[{n}]");
        check_pools(&mut problems, &place, route, settings);
        if let Some(mirror) = &route.mirror {
            check_mirror(&mut problems, &place, mirror, settings);
        }
        let same = !places.insert((&route.host, &route.path));
        let remedy = "another route has the same host and path; remove one";
        problems.unless(!same, &*place, remedy);
        check_route(&mut problems, &place, route);
    }
    for (n, listener) in settings.listeners.iter().enumerate() {
        check_forwarding(
            &mut problems,
            &format!("listeners[{n}].pool"),
            listener,
            settings,
        );
    }
    check_kinds_of_nodes(&mut problems, settings);
    for (name, pool) in &settings.pools {
        let is_right = settings
            .listeners
            .iter()
            .all(|listener| listener.on != *name);
        let remedy = "a listener has this address, and its pool this name; choose another one";
        problems.unless(is_right, format!("pools.{name}"), remedy);
        check_pool(&mut problems, &format!("pools.{name}"), pool);
    }
    let drain = [("deadline", settings.drain.deadline)];
    problems.timeouts("drain", &drain);
    problems.0
}

fn check_admin(problems: &mut Problems, settings: &Settings, admin: &AdminSettings) {
    match admin.listen.parse::<Endpoint>() {
        Ok(Endpoint::Tcp { .. } | Endpoint::Unix(_) | Endpoint::UnixAbstract(_)) => {}
        Ok(_) => problems.add("admin.listen", "it needs a stream; use unix:// or tcp://"),
        Err(error) => problems.add("admin.listen", error.to_string()),
    }
    let is_right = admin.token.is_some() || !admin.is_exposed();
    let remedy = "others than this host's users can reach it; add a `token`, or use unix:///PATH or tcp://127.0.0.1:PORT";
    problems.unless(is_right, "admin.listen", remedy);
    let others = &mut settings.listeners.iter();
    let is_right = admin.listen.ends_with(":0") || others.all(|other| other.on != admin.listen);
    let remedy = "a listener has this address; use another one";
    problems.unless(is_right, "admin.listen", remedy);
    if let Some(problem) = admin.token.as_ref().and_then(Token::problem) {
        problems.add("admin.token", problem);
    }
    for (n, host) in admin.hosts.iter().enumerate() {
        let is_right = is_host(host.as_bytes()) && !host.contains(':');
        let remedy = "write a name without a port, such as gateway.example.org";
        problems.unless(is_right, format!("admin.hosts[{n}]"), remedy);
    }
}

fn check_listener(problems: &mut Problems, place: &str, listener: &ListenerSettings) {
    match listener.on.parse::<Endpoint>() {
        Ok(Endpoint::Udp { .. }) if listener.kind != ListenerKind::Udp => problems.add(
            format!("{place}.on"),
            "it needs a stream; use tcp:// or unix://",
        ),
        Ok(Endpoint::Udp { .. }) => {}
        Ok(_) if listener.kind == ListenerKind::Udp => {
            problems.add(format!("{place}.on"), "it needs datagrams; use udp://");
        }
        Ok(_) => {}
        Err(error) => problems.add(format!("{place}.on"), error.to_string()),
    }
    let is_right = (listener.health_path.as_ref()).is_none_or(|path| path.starts_with('/'));
    let remedy = "write a path that begins with a slash, such as /healthz";
    problems.unless(is_right, format!("{place}.health_path"), remedy);
    let remedy = "it needs `tls`, as only TLS tells the name; add it";
    let is_right = !listener.sni_match || listener.is_tls();
    problems.unless(is_right, format!("{place}.sni_match"), remedy);
    let is_right = !listener.sni_match || listener.kind != ListenerKind::Forward;
    let remedy = "clients of a forward proxy ask for other hosts than its own; remove it";
    problems.unless(is_right, format!("{place}.sni_match"), remedy);
    let timeouts = &listener.timeouts;
    problems.timeouts(
        &format!("{place}.timeouts"),
        &[
            ("head", timeouts.head),
            ("idle", timeouts.idle),
            ("body_idle", timeouts.body_idle),
            ("write_stall", timeouts.write_stall),
            ("max_age", timeouts.max_age),
        ],
    );
    let tunnels = &listener.tunnels;
    problems.timeouts(
        &format!("{place}.tunnels"),
        &[
            ("handshake", tunnels.handshake),
            ("connect", tunnels.connect),
            ("idle", tunnels.idle),
            ("bind", tunnels.bind),
        ],
    );
    let has_rules = !(listener.egress.allow.is_empty() && listener.egress.deny.is_empty());
    let is_right = !has_rules || listener.has_targets();
    let remedy = "only clients of a forward or SOCKS listener name their targets; remove it";
    problems.unless(is_right, format!("{place}.egress"), remedy);
    check_targets(problems, &format!("{place}.targets"), listener);
    let is_right = listener.via.is_none() || listener.has_targets();
    let remedy = "only a forward or SOCKS listener has it, and pools have their own; remove it";
    problems.unless(is_right, format!("{place}.egress.via"), remedy);
    let is_right = listener.users.is_none() || listener.has_targets();
    let remedy = "only clients of a forward or SOCKS listener tell their names; remove it";
    problems.unless(is_right, format!("{place}.users"), remedy);
    let is_http =
        !listener.has_targets() && !matches!(listener.kind, ListenerKind::Tcp | ListenerKind::Udp);
    let is_right = listener.auth.is_none() || is_http;
    let remedy = "only requests of HTTP have it; for clients that name targets there are `users`";
    problems.unless(is_right, format!("{place}.auth"), remedy);
    if let Some(auth) = &listener.auth {
        check_realm(problems, place, auth);
    }
    let is_right = listener.rate_limits.is_empty() || is_http;
    let remedy = "the rate of requests is limited where there are requests of HTTP; remove it";
    problems.unless(is_right, format!("{place}.rate_limits"), remedy);
    check_rates(problems, place, &listener.rate_limits);
    let is_right = listener.kind == ListenerKind::Socks5 || !listener.bind;
    let remedy = "only clients of a SOCKS listener await connections; remove it";
    problems.unless(is_right, format!("{place}.bind"), remedy);
    let is_right = listener.via.is_none() || !listener.bind;
    let remedy = "peers do not come by way of a proxy; remove it, or `egress.via`";
    problems.unless(is_right, format!("{place}.bind"), remedy);
    check_datagrams(problems, place, listener);
    let limits = &listener.limits;
    let at = format!("{place}.limits");
    problems.heads(&at, limits.max_head, limits.max_headers);
    let is_right = (1 << 10..=32 << 20).contains(&limits.high_water);
    problems.unless(is_right, format!("{at}.high_water"), "use 1 KiB to 32 MiB");
    problems.unless(
        limits.max_requests > 0,
        format!("{at}.max_requests"),
        "use 1 or more",
    );
}

fn check_datagrams(problems: &mut Problems, place: &str, listener: &ListenerSettings) {
    let (is_udp, datagrams) = (listener.kind == ListenerKind::Udp, &listener.datagrams);
    let is_right = !is_udp || (!listener.is_tls() && listener.proxy_protocol.is_empty());
    let remedy = "datagrams have neither TLS nor PROXY headers; remove `tls` and `proxy_protocol`";
    problems.unless(is_right, format!("{place}.on"), remedy);
    let at = format!("{place}.datagrams");
    problems.timeouts(&at, &[("idle", datagrams.idle)]);
    let is_right = (1..=1 << 20).contains(&datagrams.max_sessions);
    problems.unless(is_right, format!("{at}.max_sessions"), "use 1 to 1048576");
    let relays = datagrams.associate || datagrams.advertise.is_some();
    let is_right = listener.kind == ListenerKind::Socks5 || !relays;
    let remedy = "only clients of a SOCKS listener ask for a relay; remove it";
    problems.unless(is_right, format!("{at}.associate"), remedy);
    let is_right = listener.via.is_none() || !relays;
    let remedy = "datagrams would go past the proxy; remove it, or `egress.via`";
    problems.unless(is_right, format!("{at}.associate"), remedy);
}

/// Checks that the pools of UDP listeners have nodes for datagrams, and no others do.
fn check_kinds_of_nodes(problems: &mut Problems, settings: &Settings) {
    let listeners = settings.listeners.iter();
    let udp = listeners.filter(|listener| listener.kind == ListenerKind::Udp);
    let udp: Vec<&String> = udp.filter_map(|listener| listener.pool.as_ref()).collect();
    for (name, pool) in &settings.pools {
        let wants_udp = udp.contains(&name);
        if wants_udp && pool.proxy_protocol.is_some() {
            let remedy = "datagrams have no PROXY headers; remove it";
            problems.add(format!("pools.{name}.proxy_protocol"), remedy);
        }
        if wants_udp && pool.via.is_some() {
            let remedy = "datagrams would go past the proxy; remove it";
            problems.add(format!("pools.{name}.via"), remedy);
        }
        for (n, node) in pool.nodes.iter().enumerate() {
            let is_right = match NodeAddr::of(node, pool.uses_tls()) {
                Ok(addr) => addr.is_udp() == wants_udp,
                // That is told already.
                Err(_) => true,
            };
            let remedy = match wants_udp {
                true => "the nodes of a UDP listener take datagrams; write udp://",
                false => "only the nodes of UDP listeners are udp://; write tcp:// or http://",
            };
            problems.unless(is_right, format!("pools.{name}.nodes[{n}]"), remedy);
        }
    }
}

/// Checks the pool of a listener that forwards.
fn check_forwarding(
    problems: &mut Problems,
    at: &str,
    listener: &ListenerSettings,
    settings: &Settings,
) {
    let name = match (&listener.pool, listener.kind) {
        (Some(name), ListenerKind::Tcp | ListenerKind::Udp) => name,
        (None, ListenerKind::Tcp | ListenerKind::Udp) => {
            let remedy = "a TCP or UDP listener needs `pool`, the name of a pool";
            return problems.add(at, remedy);
        }
        (Some(_), _) => {
            let remedy =
                "only a TCP or UDP listener has a pool of its own; remove it, and write a route";
            return problems.add(at, remedy);
        }
        (None, _) => return,
    };
    let Some(pool) = settings.pools.get(name) else {
        return problems.add(at, format!("there is no pool {name:?}"));
    };
    let is_right = match &pool.balance {
        BalanceBy::Hash { key, .. } => *key == HashKey::Ip,
        _ => true,
    };
    let remedy =
        "its pool hashes a part of requests, and a connection has none; use `hash = \"ip\"`";
    problems.unless(is_right, at, remedy);
}

fn check_targets(problems: &mut Problems, place: &str, listener: &ListenerSettings) {
    let targets = &listener.targets;
    let is_right = *targets == TargetSettings::default() || listener.kind == ListenerKind::Forward;
    let remedy = "only a forward listener keeps connections to targets; remove it";
    problems.unless(is_right, place, remedy);
    let timeouts = [
        ("idle_timeout", targets.idle_timeout),
        ("response_head", targets.response_head),
        ("body_idle", targets.body_idle),
        ("request", targets.request),
    ];
    problems.timeouts(place, &timeouts);
    let limits = &targets.limits;
    problems.heads(place, limits.max_head, limits.max_headers);
    let is_right = targets.retry_body <= MAX_RETRY_BODY;
    let remedy = "use at most 64 KiB";
    problems.unless(is_right, format!("{place}.retry_body"), remedy);
}

fn check_route(problems: &mut Problems, place: &str, route: &RouteSettings) {
    if let Some(host) = &route.host {
        let name = host.strip_prefix("*.").unwrap_or(host);
        // An IPv6 address has its colons in brackets.
        let has_port = name.rsplit(']').next().is_some_and(|end| end.contains(':'));
        let is_right =
            !name.is_empty() && !name.contains('*') && !has_port && is_host(name.as_bytes());
        let remedy = "write a host without a port, such as app.example.org or *.example.org";
        problems.unless(is_right, format!("{place}.host"), remedy);
    }
    if let Some(path) = &route.path {
        let begins = path.starts_with('/') || path == "*";
        let stars = path.matches('*').count();
        let is_right = begins && (stars == 0 || stars == 1 && path.ends_with('*'));
        let remedy = "write a path that begins with a slash; a * may be its last character";
        problems.unless(is_right, format!("{place}.path"), remedy);
    }
    for (name, path) in [
        ("strip_prefix", &route.strip_prefix),
        ("add_prefix", &route.add_prefix),
        ("rewrite", &route.rewrite),
    ] {
        let is_right = path.as_ref().is_none_or(|path| {
            path.starts_with('/')
                && path
                    .bytes()
                    .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#'))
        });
        let remedy = "write a path that begins with a slash, with escapes and without a query";
        problems.unless(is_right, format!("{place}.{name}"), remedy);
    }
    if let HostField::Name(name) = &route.host_field {
        let is_right = is_host(name.as_bytes());
        let remedy = "write a host, with a port if it needs one";
        problems.unless(is_right, format!("{place}.host_field"), remedy);
    }
    check_changes(problems, &format!("{place}.request"), &route.request);
    check_changes(problems, &format!("{place}.response"), &route.response);
    let is_right = route.flush_interval <= MAX_FLUSH_INTERVAL;
    let remedy = "clients would wait for long; use 10s or less";
    problems.unless(is_right, format!("{place}.flush_interval"), remedy);
    let is_right = route.websocket != WebSocketMode::Frames || cfg!(feature = "ws");
    let remedy = "frames are seen only with the cargo feature `ws`; add it, or use \"tunnel\"";
    problems.unless(is_right, format!("{place}.websocket"), remedy);
    for protocol in &route.upgrade {
        let at = format!("{place}.upgrade");
        let is_right = protocol.split('/').all(|part| is_token(part.as_bytes()));
        problems.unless(is_right, &*at, format!("{protocol:?} is no protocol"));
        let is_h2c = protocol.eq_ignore_ascii_case("h2c");
        problems.unless(!is_h2c, at, "h2c is never passed on; remove it");
    }
    let is_right = route.compress.is_none_or(|level| (1..=9).contains(&level));
    problems.unless(
        is_right,
        format!("{place}.compress"),
        "use a level of 1 to 9",
    );
    check_rates(problems, place, &route.rate_limits);
    if let RouteAuth::Basic(auth) = &route.auth {
        check_realm(problems, place, auth);
    }
    for (status, page) in &route.error_pages {
        let at = format!("{place}.error_pages.{status}");
        let is_right = (400..=599).contains(status);
        problems.unless(is_right, &*at, "an error has a status from 400 to 599");
        let is_right = is_value(page.content_type.as_bytes());
        problems.unless(is_right, at, "the type has a control character");
    }
}

fn check_realm(problems: &mut Problems, place: &str, auth: &BasicAuth) {
    // It stands in quotes.
    let is_sound = |char: char| matches!(char, ' '..='~') && !matches!(char, '"' | '\\');
    let remedy = "use printable ASCII without quotes and backslashes";
    let is_right = auth.realm.chars().all(is_sound);
    problems.unless(is_right, format!("{place}.auth.realm"), remedy);
}

/// Checks the choice of a pool.
fn check_pools(problems: &mut Problems, place: &str, route: &RouteSettings, settings: &Settings) {
    let mut named = Vec::new();
    if route.split.is_empty() || !route.pool.is_empty() {
        named.push((format!("{place}.pool"), &route.pool));
    }
    let split = route.split.keys();
    named.extend(split.map(|name| (format!("{place}.split.{name}"), name)));
    for (n, rule) in route.when.iter().enumerate() {
        let at = format!("{place}.when[{n}]");
        named.push((format!("{at}.pool"), &rule.pool));
        let (ChosenBy::Header(name) | ChosenBy::Cookie(name)) = &rule.by;
        let is_right = is_token(name.as_bytes());
        problems.unless(is_right, at, "it is no name of a field or of a cookie");
    }
    for (at, name) in named {
        let problem = format!("there is no pool {name:?}");
        problems.unless(settings.pools.contains_key(name), at, problem);
    }
    if !route.split.is_empty() {
        let at = format!("{place}.split");
        let remedy = "the split names all pools; remove `pool`";
        problems.unless(route.pool.is_empty(), format!("{place}.pool"), remedy);
        let total: u64 = route.split.values().copied().map(u64::from).sum();
        let is_right = (1..=10_000).contains(&total);
        problems.unless(is_right, at, "use weights of 1 to 10000 in total");
    }
    if let Some(cookie) = &route.sticky {
        let at = format!("{place}.sticky");
        let remedy = "only a split needs it; remove it";
        problems.unless(!route.split.is_empty(), &*at, remedy);
        problems.unless(
            is_token(cookie.as_bytes()),
            &*at,
            "it is no name of a cookie",
        );
        // It is the value of the cookie.
        let are_right = route.split.keys().all(|name| is_token(name.as_bytes()));
        let remedy = "the names of its pools must have letters, digits and hyphens only";
        problems.unless(are_right, at, remedy);
    }
}

fn check_mirror(
    problems: &mut Problems,
    place: &str,
    mirror: &MirrorSettings,
    settings: &Settings,
) {
    let place = format!("{place}.mirror");
    let at = |name: &str| format!("{place}.{name}");
    let is_right = settings.pools.contains_key(&mirror.pool);
    let problem = format!("there is no pool {:?}", mirror.pool);
    problems.unless(is_right, at("pool"), problem);
    let is_right = (1..=100).contains(&mirror.percent);
    problems.unless(is_right, at("percent"), "use 1 to 100");
    let is_right = mirror.max_body <= MirrorSettings::MAX_BODY;
    problems.unless(is_right, at("max_body"), "use at most 64 KiB");
    let is_right = mirror.max_in_flight > 0;
    problems.unless(is_right, at("max_in_flight"), "use 1 or more");
    problems.timeouts(&place, &[("timeout", mirror.timeout)]);
    let remedy = "a copy without an end would keep its place; use a time";
    let is_right = mirror.timeout < Duration::MAX;
    problems.unless(is_right, at("timeout"), remedy);
}

fn check_rates(problems: &mut Problems, place: &str, limits: &[LimitSettings]) {
    for (n, limit) in limits.iter().enumerate() {
        let at = format!("{place}.rate_limits[{n}]");
        let most = 1..=Rate::MAX;
        let is_right = most.contains(&limit.rate.requests);
        problems.unless(is_right, format!("{at}.rate"), "use 1 to 1000000 requests");
        let is_right = most.contains(&limit.burst);
        problems.unless(is_right, format!("{at}.burst"), "use 1 to 1000000");
        let is_right = limit.max_keys > 0;
        problems.unless(is_right, format!("{at}.max_keys"), "use 1 or more");
        if let LimitBy::Header(name) = &limit.by {
            let is_right = is_token(name.as_bytes());
            problems.unless(is_right, format!("{at}.by"), "it is no name of a field");
        }
        let remedy = "the same limit is there already; remove one";
        problems.unless(!limits[..n].contains(limit), at, remedy);
    }
}

fn check_changes(problems: &mut Problems, place: &str, changes: &FieldChanges) {
    let named = changes.remove.iter().map(|name| ("remove", name, None));
    let set = changes
        .set
        .iter()
        .map(|(name, value)| ("set", name, Some(value)));
    let add = changes
        .add
        .iter()
        .map(|(name, value)| ("add", name, Some(value)));
    for (what, name, value) in named.chain(set).chain(add) {
        let at = || format!("{place}.{what}.{name}");
        problems.unless(is_token(name.as_bytes()), at(), "it is no name of a field");
        let is_right = value.is_none_or(|value| is_value(value.as_bytes()));
        problems.unless(is_right, at(), "the value has a control character");
        let is_own = [
            "connection",
            "content-length",
            "transfer-encoding",
            "host",
            "upgrade",
            "te",
            "trailer",
        ]
        .iter()
        .any(|own| own.eq_ignore_ascii_case(name));
        let remedy = "the gateway itself writes this field; for Host there is `host_field`";
        problems.unless(!is_own, at(), remedy);
    }
}

fn check_source(problems: &mut Problems, place: &str, source: &SourceSettings, uses_tls: bool) {
    match source {
        SourceSettings::Dns(dns) => {
            match dns.addr(uses_tls) {
                Ok(addr) if addr.is_tls && cfg!(not(feature = "tls")) => {
                    problems.add(format!("{place}.dns"), "TLS needs the cargo feature `tls`");
                }
                Ok(_) => {}
                Err(problem) => {
                    problems.add(format!("{place}.dns"), format!("{:?}: {problem}", dns.name));
                }
            }
            let is_right = LOOK_UP_EVERY.contains(&dns.every);
            problems.unless(is_right, format!("{place}.every"), "use 100ms to 24h");
        }
        SourceSettings::Srv(srv) => match srv.service() {
            Ok(("https", _)) if cfg!(not(feature = "tls")) => {
                problems.add(format!("{place}.srv"), "TLS needs the cargo feature `tls`");
            }
            Ok(_) => {}
            Err(problem) => {
                problems.add(format!("{place}.srv"), format!("{:?}: {problem}", srv.name));
            }
        },
        SourceSettings::ZooKeeper(zk) => {
            if let Err(problem) = zk.target() {
                problems.add(
                    format!("{place}.zk"),
                    format!("{:?}: {problem}", zk.connect),
                );
            }
            let is_right = SESSION_TIMEOUT.contains(&zk.session_timeout);
            problems.unless(
                is_right,
                format!("{place}.session_timeout"),
                "use 1s to 10m",
            );
            let is_user = |auth: &Secret| {
                auth.reveal()
                    .split_once(':')
                    .is_some_and(|(name, _)| !name.is_empty())
            };
            let is_right = zk.auth.as_ref().is_none_or(is_user);
            problems.unless(is_right, format!("{place}.auth"), "write \"NAME:PASSWORD\"");
        }
    }
}

fn check_pool(problems: &mut Problems, place: &str, pool: &PoolSettings) {
    if let Some(source) = &pool.discover {
        check_source(
            problems,
            &format!("{place}.discover"),
            source,
            pool.uses_tls(),
        );
        let is_right = pool.nodes_file.is_none();
        let remedy = "the nodes come either from a file or from a source; remove `nodes_file`";
        problems.unless(is_right, format!("{place}.discover"), remedy);
    }
    if pool.nodes.is_empty() && pool.nodes_file.is_none() && pool.discover.is_none() {
        problems.add(format!("{place}.nodes"), "there is no node; add one");
    }
    for (n, node) in pool.nodes.iter().enumerate() {
        let at = format!("{place}.nodes[{n}]");
        match NodeAddr::of(node, pool.uses_tls()) {
            Ok(addr) if addr.is_tls && cfg!(not(feature = "tls")) => {
                problems.add(at, "TLS needs the cargo feature `tls`");
            }
            Ok(_) => {}
            Err(problem) => problems.add(at, format!("{:?}: {problem}", node.to)),
        }
    }
    if let BalanceBy::Hash {
        key,
        replicas,
        bound,
        ..
    } = &pool.balance
    {
        let at = format!("{place}.balance");
        problems.unless(*replicas > 0, &*at, "0 replicas are no ring; use 160");
        let is_right = bound.is_none_or(|bound| bound > 1.0);
        problems.unless(
            is_right,
            &*at,
            "the bound must be more than 1, such as 1.25",
        );
        let name = match key {
            HashKey::Header(name) | HashKey::Cookie(name) => name,
            _ => "x",
        };
        problems.unless(is_token(name.as_bytes()), at, "the key has no valid name");
    }
    if let Some(health) = &pool.health {
        let at = format!("{place}.health");
        let times = [("interval", health.interval), ("timeout", health.timeout)];
        problems.timeouts(&at, &times);
        let is_right = health.down_after > 0 && health.up_after > 0;
        problems.unless(is_right, &*at, "use 1 or more for down_after and up_after");
        if let HealthProbe::Http { path, method, .. } = &health.probe {
            let is_right = path.starts_with('/') && path.bytes().all(|b| b.is_ascii_graphic());
            problems.unless(is_right, &*at, "the path must begin with a slash");
            problems.unless(is_token(method.as_bytes()), at, "the method is none");
        }
    }
    if pool.via.is_some() {
        let at = format!("{place}.via");
        let addrs = pool.nodes.iter();
        let mut addrs = addrs.filter_map(|node| NodeAddr::parse(&node.to, pool.uses_tls()).ok());
        let is_right = addrs.all(|addr| addr.target().is_some());
        let remedy =
            "a proxy reaches only hosts with ports, and no Unix sockets; remove it, or the node";
        problems.unless(is_right, &*at, remedy);
        let remedy = "the header of `proxy_protocol` would reach the proxy, not the node; remove one of them";
        problems.unless(pool.proxy_protocol.is_none(), at, remedy);
    }
    let timeouts = &pool.timeouts;
    problems.timeouts(
        &format!("{place}.timeouts"),
        &[
            ("connect", timeouts.connect),
            ("tls_handshake", timeouts.tls_handshake),
            ("response_head", timeouts.response_head),
            ("body_idle", timeouts.body_idle),
            ("request", timeouts.request),
            ("expect_continue", timeouts.expect_continue),
            ("tunnel_idle", timeouts.tunnel_idle),
        ],
    );
    let connections = &pool.connections;
    let at = format!("{place}.connections");
    let times = [
        ("idle_timeout", connections.idle_timeout),
        ("max_lifetime", connections.max_lifetime),
        ("pending_timeout", connections.pending_timeout),
    ];
    problems.timeouts(&at, &times);
    let is_right = connections.max_connections != Some(0);
    problems.unless(is_right, &*at, "max_connections of 0 serves nobody");
    let is_right = connections.max_requests > 0;
    problems.unless(is_right, at, "max_requests of 0 serves nobody");
    for (name, limit) in [
        ("max_in_flight", pool.max_in_flight),
        ("max_in_flight_per_node", pool.max_in_flight_per_node),
    ] {
        let remedy = "0 serves nobody; use 1 or more";
        problems.unless(limit != Some(0), format!("{place}.{name}"), remedy);
    }
    let limits = &pool.limits;
    problems.heads(
        &format!("{place}.limits"),
        limits.max_head,
        limits.max_headers,
    );
    let retries = &pool.retries;
    let at = format!("{place}.retries");
    let is_right = retries.body <= MAX_RETRY_BODY;
    problems.unless(is_right, format!("{at}.body"), "use at most 64 KiB");
    for status in &retries.statuses {
        let is_right = matches!(status, 502..=504);
        let problem = format!("{status} is not for retries; use 502, 503 or 504");
        problems.unless(is_right, format!("{at}.statuses"), problem);
    }
}
