//! Explanations: the way that a request would take, without sending it.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipnet::IpNet;

use super::Gateway;
use super::config::json::{REDACTED, is_secret_field};
use super::egress::{Host, Target, Way};
use super::hooks::{Head, path_of};
use super::kept::Kept;
use super::metrics::Meters;
use super::pool::Pool;
use super::route::Routes;
use super::settings::{
    BalanceBy, BasicAuth, ChosenBy, FieldChanges, ForwardedFor, HashKey, HostField, LimitBy,
    LimitSettings, ListenerKind, ListenerSettings, PoolSettings, RouteAuth, RouteSettings,
};
use super::start::shared_pool;
use crate::addr::Endpoint;
use crate::http::HeaderBlock;

/// The way of a request through a gateway: pairs of a step and what happens there. Its text is a table.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Explanation {
    /// The steps, in order.
    pub steps: Vec<(&'static str, String)>,
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (step, text)) in self.steps.iter().enumerate() {
            let separator = if n > 0 { "\n" } else { "" };
            write!(f, "{separator}{step:<10}{text}")?;
        }
        Ok(())
    }
}

/// A request to explain: `GET http://app.example.org/api/users`.
struct Asked {
    method: String,
    is_tls: bool,
    host: String,
    authority: String,
    port: u16,
    target: String,
}

impl Gateway {
    /// Tells which listener, route, pool and node a request would take, and what is changed on the way. The request is a
    /// method and a URL: `GET http://app.example.org/api/users`. For a TCP or UDP listener it is an address, `tcp://127.0.0.1:5432`;
    /// for a target of a forward or SOCKS listener `CONNECT example.org:443` or `SOCKS5 example.org:443`. Nothing is sent.
    ///
    /// The node is the one that the first request would get if all nodes are up. Hooks are not asked.
    ///
    /// ```
    /// use epicycle::gateway::Gateway;
    ///
    /// let gateway = Gateway::builder().listen("tcp://127.0.0.1:8080").to("http://127.0.0.1:9000").build()?;
    /// let explained = gateway.explain("GET http://localhost:8080/users")?;
    /// assert!(explained.to_string().contains("http://127.0.0.1:9000"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The reason, and what to write, if the text is not a method and a URL.
    pub fn explain(&self, request: &str) -> Result<Explanation, String> {
        for (scheme, kind) in [("tcp", ListenerKind::Tcp), ("udp", ListenerKind::Udp)] {
            let rest = request.trim().strip_prefix(scheme);
            if let Some(address) = rest.and_then(|rest| rest.strip_prefix("://")) {
                return self.explain_forwarding(scheme, kind, address);
            }
        }
        let tunnels = [
            ("CONNECT ", ListenerKind::Forward, Way::Connect),
            ("SOCKS5 ", ListenerKind::Socks5, Way::Socks),
        ];
        for (method, kind, way) in tunnels {
            if let Some(target) = request.trim().strip_prefix(method)
                && let Some(listener) = self.first_of(kind)
            {
                let target = target.trim();
                let parsed = target
                    .parse()
                    .map_err(|error| format!("{target:?}: {error}"))?;
                return Ok(explain_target(listener, &parsed, way, None));
            }
        }
        let asked = Asked::parse(request)?;
        let mut steps = Vec::new();
        let Some(listener) = self.listener_for(&asked) else {
            if let Some(listener) = self
                .first_of(ListenerKind::Forward)
                .filter(|_| !asked.is_tls)
            {
                let parsed = Target::new(asked.host.trim_matches(['[', ']']), asked.port);
                let parsed = parsed.map_err(|error| format!("{:?}: {error}", asked.host))?;
                return Ok(explain_target(listener, &parsed, Way::Http, Some(&asked)));
            }
            let scheme = if asked.is_tls { "TLS" } else { "plain HTTP" };
            let port = asked.port;
            steps.push((
                "listener",
                format!("none: no listener speaks {scheme} on port {port}"),
            ));
            return Ok(Explanation { steps });
        };
        steps.push(("listener", listener.on.clone()));
        if matches!(&*asked.method, "CONNECT" | "TRACE") {
            steps.push(("answer", format!("405, as {} is not served", asked.method)));
            return Ok(Explanation { steps });
        }
        if listener.health_path.as_deref() == Some(path_of(&asked.target)) {
            steps.push((
                "answer",
                "200, or 503 while the gateway is about to end".to_owned(),
            ));
            return Ok(Explanation { steps });
        }
        let meters = Meters::default();
        let routes = Routes::new(
            &self.settings.routes,
            &HashMap::new(),
            &meters,
            &Kept::default(),
        );
        let Some(route) = routes.find(&asked.host, path_of(&asked.target)) else {
            steps.push(("route", "none: the answer is 404".to_owned()));
            return Ok(Explanation { steps });
        };
        steps.push(("route", route.name.to_string()));
        if let Some(admits) = admits(listener, &route.settings) {
            steps.push(("admits", admits));
        }
        if let Some(chooses) = chooses(&route.settings) {
            steps.push(("chooses", chooses));
        }
        let settings = &route.settings;
        let most = settings.split.iter().max_by_key(|(_, weight)| **weight);
        let name = most.map_or(&settings.pool, |(name, _)| name);
        let Some(settings) = self.settings.pools.get(name) else {
            return Ok(Explanation { steps });
        };
        steps.push(("pool", pool_text(name, settings)));

        let shared = shared_pool(name, settings, 1, None).map_err(|error| error.to_string())?;
        let mut pool = Pool::new(Arc::new(shared), 1, listener.limits.high_water, &meters);
        let head = Head {
            method: asked.method.clone(),
            target: route.target(&asked.target).into_owned(),
            host: asked.authority.clone(),
            fields: HeaderBlock::new(),
            is_checked: false,
            has_new_fields: false,
        };
        let key = pool.key(&head, Some(IpAddr::V4(Ipv4Addr::LOCALHOST)));
        let picked = pool.pick(key, &[]).ok();
        let node = picked.map(|chosen| (pool.name_of(chosen.node).to_owned(), chosen.node));
        let depends = match &settings.balance {
            BalanceBy::Hash { key, .. } => match key {
                HashKey::Ip => " for a client at 127.0.0.1",
                HashKey::Header(_) => " for a request without that field",
                HashKey::Cookie(_) => " for a request without that cookie",
                _ => "",
            },
            _ if settings.nodes.len() > 1 => " first",
            _ => "",
        };
        let Some((node, id)) = node else {
            let none = match settings.discover {
                Some(_) => "one of those of the source; none yet, and then the answer is 503",
                None => "none: the answer is 503",
            };
            steps.push(("node", none.to_owned()));
            return Ok(Explanation { steps });
        };
        steps.push(("node", format!("{node}{depends}")));
        if let Some(via) = &pool.settings().via {
            steps.push(("via", via.to_string()));
        }
        let host = match (&route.settings.host_field, pool.addr(id)) {
            (HostField::Keep, _) => asked.authority.clone(),
            (HostField::Node, Some(addr)) => addr.authority.clone(),
            (HostField::Node, None) => String::new(),
            (HostField::Name(name), _) => name.clone(),
        };
        let request = format!("{} {} HTTP/1.1, Host: {host}", head.method, head.target);
        steps.push(("request", request));
        steps.push(("removes", removed(listener, &route.settings)));
        steps.push(("sets", set(listener, &route.settings, &asked)));
        if let Some(mirror) = &route.settings.mirror {
            let (percent, pool, body) = (mirror.percent, &mirror.pool, mirror.max_body);
            let text = format!(
                "{percent}% of the requests with up to {body} bytes of body to {pool}, whose answers are dropped"
            );
            steps.push(("mirrors", text));
        }
        if let Some(level) = route.settings.compress {
            let text =
                format!("gzip, level {level}: texts of more than 1 KiB, for clients that take it");
            steps.push(("compress", text));
        }
        let response = &route.settings.response;
        if !response.is_empty() {
            steps.push(("response", change(response)));
        }
        Ok(Explanation { steps })
    }

    /// Tells the pool and the node of a connection to a TCP listener, or of a datagram to a UDP listener.
    fn explain_forwarding(
        &self,
        scheme: &str,
        kind: ListenerKind,
        address: &str,
    ) -> Result<Explanation, String> {
        let remedy = format!("write the address of a listener, such as {scheme}://127.0.0.1:5432");
        let port = address
            .rsplit_once(':')
            .and_then(|(_, port)| port.parse().ok());
        let wanted: u16 = port.ok_or_else(|| format!("{address:?}: {remedy}"))?;
        let mut steps = Vec::new();
        let mut listeners = self.settings.listeners.iter().filter(|listener| {
            let is_there = match listener.on.parse() {
                Ok(Endpoint::Tcp { port, .. } | Endpoint::Udp { port, .. }) => port == wanted,
                _ => false,
            };
            is_there && listener.kind == kind
        });
        let Some(listener) = listeners.next() else {
            let what = scheme.to_uppercase();
            let none = format!("none: no listener forwards {what} on port {wanted}");
            steps.push(("listener", none));
            return Ok(Explanation { steps });
        };
        steps.push(("listener", listener.on.clone()));
        let pools = &self.settings.pools;
        let found = listener
            .pool
            .as_ref()
            .and_then(|name| pools.get_key_value(name));
        let Some((name, settings)) = found else {
            return Ok(Explanation { steps });
        };
        steps.push(("pool", pool_text(name, settings)));
        let shared = shared_pool(name, settings, 1, None).map_err(|error| error.to_string())?;
        let meters = Meters::default();
        let mut pool = Pool::new(Arc::new(shared), 1, listener.limits.high_water, &meters);
        let key = pool.key_of(Some(IpAddr::V4(Ipv4Addr::LOCALHOST)));
        let Ok(chosen) = pool.pick(key, &[]) else {
            steps.push((
                "node",
                "none: the connection is reset, or the datagram dropped".to_owned(),
            ));
            return Ok(Explanation { steps });
        };
        let depends = match &settings.balance {
            BalanceBy::Hash { .. } => " for a client at 127.0.0.1",
            _ if settings.nodes.len() > 1 => " first",
            _ => "",
        };
        steps.push(("node", format!("{}{depends}", pool.name_of(chosen.node))));
        if let Some(via) = &settings.via {
            steps.push(("via", via.to_string()));
        }
        let mut sends = Vec::new();
        if let Some(version) = settings.proxy_protocol {
            sends.push(format!("a header of the PROXY protocol, {version:?}"));
        }
        if pool.addr(chosen.node).is_some_and(|addr| addr.is_tls) {
            sends.push("TLS".to_owned());
        }
        let what = match kind {
            ListenerKind::Udp => "datagrams",
            _ => "bytes",
        };
        sends.push(format!("the {what} of the client as they are"));
        steps.push(("sends", sends.join("; ")));
        Ok(Explanation { steps })
    }

    fn first_of(&self, kind: ListenerKind) -> Option<&ListenerSettings> {
        let mut listeners = self.settings.listeners.iter();
        listeners.find(|listener| listener.kind == kind)
    }

    /// Returns the listener to which a client with this URL would connect.
    fn listener_for(&self, asked: &Asked) -> Option<&ListenerSettings> {
        let fits = |listener: &&ListenerSettings| {
            listener.kind == ListenerKind::Reverse && listener.is_tls() == asked.is_tls
        };
        let port = |listener: &ListenerSettings| match listener.on.parse() {
            Ok(Endpoint::Tcp { port, .. }) => Some(port),
            _ => None,
        };
        let listeners = self.settings.listeners.iter().filter(fits);
        let mut exact = listeners.clone();
        let found = exact.find(|listener| port(listener) == Some(asked.port));
        // Whoever names no port may come by way of another one.
        let is_usual = asked.port == if asked.is_tls { 443 } else { 80 };
        found.or_else(|| listeners.clone().next().filter(|_| is_usual))
    }
}

/// Tells what a forward or SOCKS listener does with a target, and with a request in absolute form.
fn explain_target(
    listener: &ListenerSettings,
    target: &Target,
    way: Way,
    asked: Option<&Asked>,
) -> Explanation {
    let (kind, unknown, refused, tunnel) = match way {
        Way::Socks => (
            "a SOCKS5 proxy",
            "the connection is closed",
            "the reply is 02",
            "reply 00",
        ),
        _ => (
            "a forward proxy",
            "the answer is 407",
            "the answer is 403",
            "200",
        ),
    };
    let mut steps = vec![("listener", format!("{}, {kind}", listener.on))];
    if listener.users.is_some() {
        let text = format!("a name and a password; without them {unknown}");
        steps.push(("user", text));
    }
    if let Err(refusal) = listener.egress.check(target, way) {
        steps.push(("policy", format!("{refusal}: {refused}")));
        return Explanation { steps };
    }
    steps.push((
        "policy",
        match target.host {
            Host::Ip(_) => "allowed".to_owned(),
            Host::Name(_) if listener.via.is_some() => {
                "the name is allowed; the proxy looks it up, and its addresses are not checked here"
                    .to_owned()
            }
            Host::Name(_) => {
                "the name is allowed; each of its addresses is checked before it is dialled"
                    .to_owned()
            }
        },
    ));
    steps.push(("target", target.to_string()));
    if let Some(via) = &listener.via {
        steps.push(("via", via.to_string()));
    }
    match asked {
        None => steps.push((
            "answer",
            format!("{tunnel} and a tunnel once it is connected"),
        )),
        Some(asked) => {
            let (method, path, host) = (&asked.method, &asked.target, &asked.authority);
            let request = format!("{method} {path} HTTP/1.1, Host: {host}");
            steps.push(("request", request));
            let none = RouteSettings::to(&*listener.on);
            steps.push(("removes", removed(listener, &none)));
            steps.push(("sets", set(listener, &none, asked)));
        }
    }
    Explanation { steps }
}

impl Asked {
    fn parse(text: &str) -> Result<Self, String> {
        let remedy = "write 'GET http://app.example.org/path', 'CONNECT HOST:PORT', 'SOCKS5 HOST:PORT', tcp://HOST:PORT or udp://HOST:PORT";
        let mut words = text.split_ascii_whitespace();
        let (method, url) = match (words.next(), words.next(), words.next()) {
            (Some(method), Some(url), None) => (method, url),
            (Some(url), None, None) if url.contains("://") => ("GET", url),
            _ => return Err(format!("{text:?}: {remedy}")),
        };
        let uri: http::Uri = url
            .parse()
            .map_err(|error| format!("{url:?}: {error}; {remedy}"))?;
        let is_tls = match uri.scheme_str() {
            Some("http" | "ws") => false,
            Some("https" | "wss") => true,
            _ => {
                return Err(format!(
                    "{url:?}: the scheme is not http or https; {remedy}"
                ));
            }
        };
        let authority = uri
            .authority()
            .ok_or_else(|| format!("{url:?}: {remedy}"))?;
        Ok(Self {
            method: method.to_owned(),
            is_tls,
            host: authority.host().to_owned(),
            authority: authority.as_str().to_owned(),
            port: authority
                .port_u16()
                .unwrap_or(if is_tls { 443 } else { 80 }),
            target: uri
                .path_and_query()
                .map_or("/", |target| target.as_str())
                .to_owned(),
        })
    }
}

/// Tells which clients may take a route, unless all may.
fn admits(listener: &ListenerSettings, route: &RouteSettings) -> Option<String> {
    let listed = |networks: &[IpNet]| {
        let networks: Vec<_> = networks.iter().map(ToString::to_string).collect();
        networks.join(", ")
    };
    let mut admits = Vec::new();
    for (of, access) in [("listener", &listener.access), ("route", &route.access)] {
        if !access.allow.is_empty() {
            admits.push(format!(
                "{of}: clients of {} only (403)",
                listed(&access.allow)
            ));
        }
        if !access.deny.is_empty() {
            admits.push(format!(
                "{of}: no clients of {} (403)",
                listed(&access.deny)
            ));
        }
    }
    for (of, limits) in [
        ("listener", &listener.rate_limits),
        ("route", &route.rate_limits),
    ] {
        for LimitSettings {
            rate, burst, by, ..
        } in limits
        {
            let by = match by {
                LimitBy::Ip => "for each address".to_owned(),
                LimitBy::Header(name) => format!("for each value of {name}"),
                LimitBy::All => "in total".to_owned(),
            };
            admits.push(format!("{of}: {rate} {by}, {burst} at once (429)"));
        }
    }
    if let Some(auth) = asked_for(listener, route) {
        let count = auth.users.len();
        admits.push(format!("one of {count} users, by name and password (401)"));
    }
    (!admits.is_empty()).then(|| admits.join("; "))
}

/// Tells by which rules a route chooses among its pools, unless it has one only.
fn chooses(route: &RouteSettings) -> Option<String> {
    let mut chooses = Vec::new();
    for rule in &route.when {
        let part = match &rule.by {
            ChosenBy::Header(name) => format!("the field {name}"),
            ChosenBy::Cookie(name) => format!("the cookie {name}"),
        };
        let value = match &rule.value {
            Some(value) => format!("is {value:?}"),
            None => "is there".to_owned(),
        };
        chooses.push(format!("{} if {part} {value}", rule.pool));
    }
    if let Some(cookie) = &route.sticky {
        chooses.push(format!("the pool that the cookie {cookie} names"));
    }
    let total: u32 = route.split.values().sum();
    let shares = route.split.iter();
    let shares: Vec<_> = shares
        .map(|(name, weight)| format!("{name} {weight} of {total}"))
        .collect();
    if !shares.is_empty() {
        chooses.push(shares.join(", "));
    }
    (!chooses.is_empty()).then(|| chooses.join("; else "))
}

/// Returns the authentication of clients that take a route.
fn asked_for<'a>(
    listener: &'a ListenerSettings,
    route: &'a RouteSettings,
) -> Option<&'a BasicAuth> {
    match (&route.auth, &listener.auth) {
        (RouteAuth::Basic(auth), _) | (RouteAuth::Inherit, Some(auth)) => Some(auth),
        _ => None,
    }
}

fn pool_text(name: &str, settings: &PoolSettings) -> String {
    let (count, how) = (settings.nodes.len(), balance(&settings.balance));
    let nodes = if count == 1 { "node" } else { "nodes" };
    let from = settings.discover.as_ref();
    let from = from.map_or(String::new(), |source| {
        format!(", until there are others from {source}")
    });
    format!("{name}: {count} {nodes}, {how}{from}")
}

fn balance(by: &BalanceBy) -> String {
    match by {
        BalanceBy::Random => "at random by weight".to_owned(),
        BalanceBy::RoundRobin => "in turn".to_owned(),
        BalanceBy::Weighted => "in turn by weight".to_owned(),
        BalanceBy::Least => "the least busy one".to_owned(),
        BalanceBy::TwoChoices => "the better of two".to_owned(),
        BalanceBy::Hash { key, .. } => {
            let key = match key {
                HashKey::Ip => "the client's address".to_owned(),
                HashKey::Path => "the path".to_owned(),
                HashKey::Uri => "path and query".to_owned(),
                HashKey::Header(name) => format!("the field {name}"),
                HashKey::Cookie(name) => format!("the cookie {name}"),
                HashKey::Query(name) => format!("the parameter {name}"),
            };
            format!("by a hash of {key}")
        }
    }
}

fn removed(listener: &ListenerSettings, route: &RouteSettings) -> String {
    use super::settings::Underscores;

    let mut removed = "hop-by-hop fields and those that Connection names".to_owned();
    if !listener.forwarding.trusted.is_empty() {
        removed += "; forwarding fields of peers that are not trusted";
    }
    if listener.underscores == Underscores::Drop {
        removed += "; fields with an underscore";
    }
    if asked_for(listener, route).is_some_and(|auth| !auth.pass) {
        removed += "; Authorization";
    }
    for name in &route.request.remove {
        removed += "; ";
        removed += name;
    }
    removed
}

fn set(listener: &ListenerSettings, route: &RouteSettings, asked: &Asked) -> String {
    let rules = &listener.forwarding;
    let scheme = if asked.is_tls { "https" } else { "http" };
    let mut set = Vec::new();
    for (name, value) in &route.request.set {
        set.push(field(name, value));
    }
    for (name, value) in &route.request.add {
        set.push(format!("{} (added)", field(name, value)));
    }
    match rules.x_forwarded_for {
        ForwardedFor::Append => set.push("X-Forwarded-For: ..., PEER".to_owned()),
        ForwardedFor::Replace => set.push("X-Forwarded-For: CLIENT".to_owned()),
        ForwardedFor::Off => {}
    }
    if rules.x_real_ip {
        set.push("X-Real-IP: CLIENT".to_owned());
    }
    if rules.x_forwarded {
        set.push(format!("X-Forwarded-Proto: {scheme}"));
        set.push(format!("X-Forwarded-Host: {}", asked.authority));
        set.push("X-Forwarded-Port: that of the listener".to_owned());
    }
    if rules.forwarded {
        set.push("Forwarded".to_owned());
    }
    if rules.via {
        set.push("Via: 1.1 epicycle".to_owned());
    }
    set.join("; ")
}

/// Tells a field, unless its value is a secret. Explanations are shown to others.
fn field(name: &str, value: &str) -> String {
    match is_secret_field(name) {
        true => format!("{name}: {REDACTED}"),
        false => format!("{name}: {value}"),
    }
}

fn change(changes: &FieldChanges) -> String {
    let removed = changes.remove.iter().map(|name| format!("removes {name}"));
    let set = changes
        .set
        .iter()
        .map(|(name, value)| format!("sets {}", field(name, value)));
    let added = changes
        .add
        .iter()
        .map(|(name, value)| format!("adds {}", field(name, value)));
    removed
        .chain(set)
        .chain(added)
        .collect::<Vec<_>>()
        .join("; ")
}
