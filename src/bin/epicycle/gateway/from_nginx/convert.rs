//! Servers and locations as listeners and routes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::parse::Directive;
use super::upstream::{Pools, Rules, is_address};
use super::zones::Zones;
use super::{Notes, reasons, toml};

/// Directives that locations take from the blocks around them.
#[derive(Clone, Default)]
struct Scope<'a>(BTreeMap<&'a str, Vec<&'a Directive>>);

/// The settings of a listener that several servers may share.
#[derive(Default)]
struct Listener {
    certificates: Vec<(String, String)>,
    rules: BTreeMap<&'static str, String>,
}

struct Converter<'n> {
    notes: &'n mut Notes,
    pools: Pools,
    zones: Zones,
    listeners: BTreeMap<String, Listener>,
    /// The tables of the routes.
    routes: String,
    /// The hosts and paths that have a route.
    taken: BTreeSet<(Option<String>, String)>,
    has_default: bool,
    access_log: Option<String>,
}

/// Returns the text of the new file without its head, or `None` if there is nothing in it.
pub(super) fn convert(directives: &[Directive], notes: &mut Notes) -> Option<String> {
    let mut converter = Converter {
        notes,
        pools: Pools::default(),
        zones: Zones::default(),
        listeners: BTreeMap::new(),
        routes: String::new(),
        taken: BTreeSet::new(),
        has_default: false,
        access_log: None,
    };
    let mut top = String::new();
    let mut http = Vec::new();
    for directive in directives {
        match directive.name.as_str() {
            "http" => http.extend(directive.children()),
            "worker_processes" => match directive.arg().parse::<u16>() {
                Ok(reactors) if reactors > 0 => top += &format!("reactors = {reactors}\n"),
                _ => converter
                    .notes
                    .left(directive, "not needed: there is a reactor for each CPU"),
            },
            // A file of a site is the inner part.
            "server" | "upstream" => http.push(directive),
            _ => converter.leave(directive),
        }
    }
    converter.http(&http);
    if converter.routes.is_empty() || converter.listeners.is_empty() {
        return None;
    }
    converter.join_families();
    if let Some(log) = &converter.access_log {
        top += log;
    }
    top += "# In nginx each server has its own locations. Here all listeners share the routes below.\n";
    let listeners: String = converter.listeners.iter().map(write_listener).collect();
    Some(top + &listeners + &converter.routes + &converter.pools.write())
}

fn write_listener((on, listener): (&String, &Listener)) -> String {
    let mut out = format!("\n[[listen]]\non = {}\n", toml::text(on));
    if !listener.certificates.is_empty() {
        let pair = |(cert, key): &(String, String)| {
            format!(
                "{{ cert = {}, key = {} }}",
                toml::text(cert),
                toml::text(key)
            )
        };
        let pairs: Vec<_> = listener.certificates.iter().map(pair).collect();
        out += &format!("tls = [{}]\n", pairs.join(", "));
    }
    for (key, value) in &listener.rules {
        out += &format!("{key} = {value}\n");
    }
    out
}

impl<'a> Scope<'a> {
    /// Returns the scope of a block: what it says itself takes the place of what is said around it.
    fn within(&self, block: impl Iterator<Item = &'a Directive>) -> Self {
        let mut own = BTreeMap::<&str, Vec<&Directive>>::new();
        for directive in block {
            own.entry(&directive.name).or_default().push(directive);
        }
        let mut scope = self.clone();
        // The two are one list of rules.
        if own.contains_key("allow") || own.contains_key("deny") {
            scope.0.remove("allow");
            scope.0.remove("deny");
        }
        scope.0.extend(own);
        scope
    }

    fn all(&self, name: &str) -> &[&'a Directive] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    fn last(&self, name: &str) -> Option<&'a Directive> {
        self.all(name).last().copied()
    }
}

/// Directives that are read where they apply, and that blocks inherit.
const INHERITED: [&str; 25] = [
    "access_log",
    "add_header",
    "allow",
    "client_body_timeout",
    "client_header_timeout",
    "client_max_body_size",
    "deny",
    "gzip",
    "gzip_comp_level",
    "keepalive_requests",
    "keepalive_timeout",
    "limit_req",
    "proxy_connect_timeout",
    "proxy_hide_header",
    "proxy_next_upstream",
    "proxy_next_upstream_tries",
    "proxy_read_timeout",
    "proxy_send_timeout",
    "proxy_set_header",
    "send_timeout",
    "ssl_certificate",
    "ssl_certificate_key",
    "underscores_in_headers",
    "proxy_ssl_verify",
    "ssl_protocols",
];

impl<'a> Converter<'_> {
    /// Names a directive that is not carried over.
    fn leave(&mut self, directive: &Directive) {
        self.notes.left(directive, &reasons::why(directive));
    }

    fn http(&mut self, block: &[&'a Directive]) {
        for directive in block {
            match directive.name.as_str() {
                "upstream" => self.pools.add_upstream(directive, self.notes),
                "limit_req_zone" => self.zones.add(directive, self.notes),
                "server" => {}
                name if INHERITED.contains(&name) => self.inherited(directive),
                _ => self.leave(directive),
            }
        }
        let scope = Scope::default().within(block.iter().copied());
        let is_server = |directive: &&'a Directive| directive.name == "server";
        let servers: Vec<&'a Directive> = block.iter().copied().filter(is_server).collect();
        let is_default = |server: &&Directive| {
            let listens = server
                .children()
                .iter()
                .filter(|child| child.name == "listen");
            let mut args = listens.flat_map(|listen| &listen.args);
            args.any(|arg| arg == "default_server" || arg == "default")
        };
        let default = servers
            .iter()
            .copied()
            .find(is_default)
            .map(|server| server.line);
        for server in servers {
            // Without a default server, the first one is it.
            let is_default = default.is_none_or(|line| line == server.line);
            self.server(server, &scope, is_default && !self.has_default);
        }
    }

    /// Names those of the inherited directives that cannot be carried over wherever they stand.
    fn inherited(&mut self, directive: &Directive) {
        match directive.name.as_str() {
            "proxy_ssl_verify" if directive.arg() == "off" => {
                self.notes.left(
                    directive,
                    "certificates of nodes are verified; tls.verify = false turns that off",
                );
            }
            "proxy_ssl_verify" => self.notes.left(directive, "not needed: always so"),
            "ssl_protocols" => self.notes.left(directive, "there are TLS 1.2 and 1.3"),
            "access_log" => self.access_log(directive),
            _ => {}
        }
    }

    fn access_log(&mut self, directive: &Directive) {
        let path = directive.arg();
        if path == "off" {
            self.notes
                .left(directive, "if there is a log, it has all requests");
            return;
        }
        if self.access_log.is_some() {
            self.notes.left(directive, "there is one log");
            return;
        }
        if path.contains('$') || path.contains(':') || path.is_empty() {
            self.notes
                .left(directive, "a log is a file with a fixed name");
            return;
        }
        if directive
            .args
            .get(1)
            .is_some_and(|format| format != "combined")
        {
            self.notes.left(
                directive,
                "its format is not carried over; the log has the format \"combined\"",
            );
        }
        let log = format!(
            "log.access = {{ to = {}, format = \"combined\" }}\n",
            toml::text(path)
        );
        self.access_log = Some(log);
    }

    fn server(&mut self, server: &'a Directive, http: &Scope<'a>, is_default: bool) {
        let scope = http.within(server.children().iter());
        let (mut hosts, mut listens) = (Vec::new(), Vec::new());
        let mut has_regex = false;
        for directive in server.children() {
            match directive.name.as_str() {
                "server_name" => {
                    for name in &directive.args {
                        match host(name) {
                            Some(found) => hosts.extend(found),
                            None => {
                                has_regex = true;
                                self.notes.left(directive, &format!("{name:?} is no host here: there are names, and *.example.org"));
                            }
                        }
                    }
                }
                "listen" => listens.push(directive),
                "location" | "ssl" => {}
                name if INHERITED.contains(&name) => self.inherited(directive),
                _ => self.leave(directive),
            }
        }
        if hosts.is_empty() && has_regex {
            self.notes.left(
                server,
                "none of its names can be carried over; it is left out",
            );
            return;
        }
        let has_names = !hosts.is_empty();
        let mut hosts: Vec<Option<String>> = hosts.into_iter().map(Some).collect();
        if is_default {
            hosts.push(None);
        } else if !has_names {
            self.notes.left(
                server,
                "another server is the default, and this one has no name; it is left out",
            );
            return;
        }
        let before = self.routes.len();
        let locations = server
            .children()
            .iter()
            .filter(|child| child.name == "location");
        for location in locations {
            self.location(location, &scope, &hosts);
        }
        if self.routes.len() == before {
            self.notes.left(
                server,
                "it has no location that can be carried over; its listeners are left out",
            );
            return;
        }
        self.has_default |= is_default;
        if listens.is_empty() {
            self.listener("tcp://0.0.0.0:80".to_owned(), &scope, false, server.line);
        }
        for listen in listens {
            self.listen(listen, &scope);
        }
    }

    fn listen(&mut self, directive: &'a Directive, scope: &Scope<'a>) {
        let Some(on) = address(directive.arg()) else {
            self.notes.left(
                directive,
                "its address cannot be read; the listener is left out",
            );
            return;
        };
        let mut is_tls = scope.last("ssl").is_some_and(|ssl| ssl.arg() == "on");
        for arg in directive.args.iter().skip(1) {
            match arg.as_str() {
                "ssl" => is_tls = true,
                "default_server" | "default" | "reuseport" | "deferred" => {}
                "proxy_protocol" => {
                    self.notes.left(directive, "proxy_protocol needs the networks of the proxies here: set `proxy_protocol` of the listener");
                }
                "http2" => self
                    .notes
                    .left(directive, "there is no HTTP/2; clients use HTTP/1.1"),
                other => self
                    .notes
                    .left(directive, &format!("{other:?} has no counterpart")),
            }
        }
        self.listener(on, scope, is_tls, directive.line);
    }

    fn listener(&mut self, on: String, scope: &Scope<'a>, is_tls: bool, line: usize) {
        let pair = match (
            scope.last("ssl_certificate"),
            scope.last("ssl_certificate_key"),
        ) {
            (Some(cert), Some(key)) => Some((cert.arg().to_owned(), key.arg().to_owned())),
            _ => None,
        };
        if is_tls && pair.is_none() {
            let problem = format!("{on} has TLS and no certificate; the listener is left out");
            self.notes.say(line, problem);
            return;
        }
        let listener = self.listeners.entry(on).or_default();
        if let Some(pair) = pair.filter(|_| is_tls)
            && !listener.certificates.contains(&pair)
        {
            listener.certificates.push(pair);
        }
        let times = [
            ("timeout.head", "client_header_timeout"),
            ("timeout.idle", "keepalive_timeout"),
            ("timeout.body_idle", "client_body_timeout"),
            ("timeout.write_stall", "send_timeout"),
        ];
        for (key, name) in times {
            if let Some(directive) = scope.last(name) {
                match toml::time(directive.arg()).filter(|time| time != "0s") {
                    Some(time) => {
                        listener
                            .rules
                            .entry(key)
                            .or_insert_with(|| toml::text(&time));
                    }
                    None => self.notes.left(directive, "there is no such time"),
                }
            }
        }
        if let Some(directive) = scope.last("keepalive_requests") {
            match directive.arg().parse::<u32>() {
                Ok(most) if most > 0 => {
                    listener
                        .rules
                        .entry("max_requests")
                        .or_insert_with(|| most.to_string());
                }
                _ => self.notes.left(directive, "it is no number"),
            }
        }
        if let Some(directive) = scope.last("underscores_in_headers")
            && directive.arg() == "on"
        {
            listener.rules.insert("underscores", "\"pass\"".to_owned());
        }
    }

    /// Makes one listener of those for all IPv4 and for all IPv6 addresses, since a socket for the latter takes both.
    fn join_families(&mut self) {
        let v6: Vec<String> = self
            .listeners
            .keys()
            .filter(|on| on.starts_with("tcp://[::]:"))
            .cloned()
            .collect();
        for on in v6 {
            let port = &on["tcp://[::]:".len()..];
            let v4 = self.listeners.remove(&format!("tcp://0.0.0.0:{port}"));
            let Some(mut listener) = self.listeners.remove(&on) else {
                continue;
            };
            if let Some(v4) = v4 {
                listener.rules.extend(v4.rules);
                let more = v4
                    .certificates
                    .into_iter()
                    .filter(|pair| !listener.certificates.contains(pair));
                let more: Vec<_> = more.collect();
                listener.certificates.extend(more);
            }
            self.listeners.insert(format!("tcp://:{port}"), listener);
        }
    }

    fn location(&mut self, location: &'a Directive, server: &Scope<'a>, hosts: &[Option<String>]) {
        let args: Vec<&str> = location.args.iter().map(String::as_str).collect();
        let (path, is_exact) = match args[..] {
            ["=", path] => (path, true),
            ["^~", path] => (path, false),
            [path] if path.starts_with('/') => (path, false),
            _ => {
                self.notes.left(location, "there are no regular expressions and no names here; its requests go to the next location that fits");
                return;
            }
        };
        if !is_path(path) || path.contains('*') {
            self.notes.left(location, "its path cannot be one here");
            return;
        }
        for directive in location.children() {
            match directive.name.as_str() {
                "proxy_pass" => {}
                name if INHERITED.contains(&name) => self.inherited(directive),
                "location" => self
                    .notes
                    .left(directive, "a location within another is not carried over"),
                _ => self.leave(directive),
            }
        }
        let mut passes = location
            .children()
            .iter()
            .filter(|child| child.name == "proxy_pass");
        let Some(pass) = passes.next() else {
            self.notes.left(
                location,
                "it has no proxy_pass; ITS REQUESTS GO TO THE NEXT LOCATION THAT FITS",
            );
            return;
        };
        let scope = server.within(location.children().iter());
        let Some((scheme, authority, uri)) = target(pass.arg()) else {
            self.notes.left(
                pass,
                "its target cannot be read; a target has no variables here",
            );
            return;
        };
        let rules = self.rules(&scope);
        let mut route = self.fields(&scope, authority);
        let uri = uri.filter(|uri| *uri != path || is_exact);
        match uri {
            None => {}
            Some(uri) if is_exact => route += &format!("rewrite = {}\n", toml::text(uri)),
            Some(uri) => {
                if path.ends_with('/') != uri.ends_with('/') {
                    self.notes.left(pass, "one of location and URI ends with a slash, the other one does not; look at the paths");
                }
                if !path.trim_end_matches('/').is_empty() {
                    route += &format!(
                        "strip_prefix = {}\n",
                        toml::text(path.trim_end_matches('/'))
                    );
                }
                if !uri.trim_end_matches('/').is_empty() {
                    route += &format!("add_prefix = {}\n", toml::text(uri.trim_end_matches('/')));
                }
            }
        }
        route += &self.access(&scope);
        route += &self
            .zones
            .limits(scope.all("limit_req"), hosts.len(), self.notes);
        route += &compression(&scope);
        let pool = self.pools.pool(scheme, authority, rules);
        let path = if is_exact {
            path.to_owned()
        } else {
            format!("{path}*")
        };
        for host in hosts {
            if !self.taken.insert((host.clone(), path.clone())) {
                let of = host.as_deref().unwrap_or("any host");
                self.notes
                    .left(location, &format!("{of} has a route for this path already"));
                continue;
            }
            self.routes += "\n[[route]]\n";
            if let Some(host) = host {
                self.routes += &format!("host = {}\n", toml::text(host));
            }
            self.routes += &format!(
                "path = {}\npool = {}\n{route}",
                toml::text(&path),
                toml::text(&pool)
            );
        }
    }

    /// Returns the lines for a request's and a response's fields, and for the length of bodies.
    fn fields(&mut self, scope: &Scope<'_>, authority: &str) -> String {
        let (mut set, mut remove, mut added, mut hidden) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        // The host of proxy_pass is nginx's default.
        let own = if authority.starts_with("unix:") {
            "localhost"
        } else {
            authority
        };
        let mut host = Some(own.to_owned());
        for directive in scope.all("proxy_set_header") {
            let name = directive.arg();
            let value = directive.args.get(1).map_or("", String::as_str);
            match (name.to_ascii_lowercase().as_str(), value) {
                ("host", "$host" | "$http_host" | "$host:$server_port") => host = None,
                ("host", "$proxy_host") => {}
                ("host", value) if is_address(value) => host = Some(value.to_owned()),
                ("x-real-ip", "$remote_addr")
                | ("x-forwarded-for", "$proxy_add_x_forwarded_for")
                | ("x-forwarded-proto", "$scheme")
                | ("x-forwarded-host", "$host" | "$http_host")
                | ("x-forwarded-port", "$server_port")
                | ("upgrade", "$http_upgrade")
                | ("connection", _) => {}
                (_, "") => remove.push(name.to_owned()),
                (_, value) if is_fixed(value) && is_field(name) => {
                    set.push((name.to_owned(), value.to_owned()));
                }
                _ => self.notes.left(
                    directive,
                    "a value has no variables here; a hook can set it",
                ),
            }
        }
        for directive in scope.all("proxy_hide_header") {
            hidden.push(directive.arg().to_owned());
        }
        for directive in scope.all("add_header") {
            let value = directive.args.get(1).map_or("", String::as_str);
            match !is_fixed(value) || !is_field(directive.arg()) {
                true => self.notes.left(
                    directive,
                    "a value has no variables here; a hook can set it",
                ),
                false => added.push((directive.arg().to_owned(), value.to_owned())),
            }
        }
        let mut out = String::new();
        match host {
            Some(host) if is_address(&host) => {
                out += &format!("host_field = {}\n", toml::text(&host));
            }
            _ => {}
        }
        let is_removed = |name: &String| is_field(name);
        remove.retain(is_removed);
        hidden.retain(is_removed);
        let mut line = |key: &str, value: Option<String>| {
            if let Some(value) = value {
                out += &format!("{key} = {value}\n");
            }
        };
        line(
            "request.remove",
            (!remove.is_empty()).then(|| toml::texts(&remove)),
        );
        line(
            "request.set",
            (!set.is_empty()).then(|| toml::inline(&single(set))),
        );
        line(
            "response.remove",
            (!hidden.is_empty()).then(|| toml::texts(&hidden)),
        );
        line(
            "response.set",
            (!added.is_empty()).then(|| toml::inline(&single(added))),
        );
        let most = match scope.last("client_max_body_size") {
            None => Some("1MiB".to_owned()),
            Some(directive) => match toml::size(directive.arg()) {
                Some(size) if size.starts_with("0") => Some("none".to_owned()),
                Some(size) => Some(size),
                None => {
                    self.notes.left(directive, "it is no size");
                    None
                }
            },
        };
        line("max_body", most.map(|most| toml::text(&most)));
        out
    }

    /// Returns the times and retries of a location.
    fn rules(&mut self, scope: &Scope<'_>) -> Rules {
        let mut rules = Rules::default();
        for (name, keys) in [
            ("proxy_connect_timeout", &["timeout.connect"][..]),
            (
                "proxy_read_timeout",
                &["timeout.response_head", "timeout.body_idle"],
            ),
        ] {
            if let Some(directive) = scope.last(name) {
                match toml::time(directive.arg()).filter(|time| time != "0s") {
                    Some(time) => rules
                        .0
                        .extend(keys.iter().map(|key| (*key, toml::text(&time)))),
                    None => self.notes.left(directive, "there is no such time"),
                }
            }
        }
        if let Some(directive) = scope.last("proxy_send_timeout")
            && scope.last("proxy_read_timeout").map(Directive::arg) != Some(directive.arg())
        {
            self.notes.left(
                directive,
                "timeout.body_idle of the pool counts both ways, and is proxy_read_timeout's",
            );
        }
        if let Some(directive) = scope.last("proxy_next_upstream_tries")
            && let Ok(tries @ 1..) = directive.arg().parse::<u16>()
        {
            rules.0.insert("retries", (tries - 1).to_string());
        }
        if let Some(directive) = scope.last("proxy_next_upstream") {
            let mut statuses = Vec::new();
            for arg in &directive.args {
                match arg.as_str() {
                    "error" | "timeout" => {}
                    "off" => {
                        rules.0.insert("retries", "0".to_owned());
                    }
                    "http_502" | "http_503" | "http_504" => {
                        statuses.push(arg["http_".len()..].to_owned());
                    }
                    other => self
                        .notes
                        .left(directive, &format!("{other:?} has no counterpart")),
                }
            }
            if !statuses.is_empty() {
                rules
                    .0
                    .insert("retry_on", format!("[{}]", statuses.join(", ")));
            }
        }
        rules
    }

    /// Returns the lines for the networks that may come.
    fn access(&mut self, scope: &Scope<'_>) -> String {
        let (mut allowed, mut denied) = (Vec::new(), Vec::new());
        let mut rules: Vec<&Directive> = [scope.all("allow"), scope.all("deny")].concat();
        rules.sort_by_key(|rule| rule.line);
        let Some(last) = rules.last().copied() else {
            return String::new();
        };
        for rule in &rules {
            let list = if rule.name == "allow" {
                &mut allowed
            } else {
                &mut denied
            };
            list.push(rule.arg().to_owned());
        }
        // The first rule that fits counts in nginx. These have one meaning in any order.
        let all = |list: &[String]| list == ["all"];
        if all(&denied)
            && last.name == "deny"
            && !allowed.is_empty()
            && allowed.iter().all(|network| is_network(network))
        {
            return format!("allow = {}\n", toml::texts(&allowed));
        }
        if all(&denied) && allowed.is_empty() {
            return "deny = [\"0.0.0.0/0\", \"::/0\"]\n".to_owned();
        }
        if denied.iter().all(|network| is_network(network))
            && !denied.is_empty()
            && (allowed.is_empty() || all(&allowed) && last.name == "allow")
        {
            return format!("deny = {}\n", toml::texts(&denied));
        }
        if all(&allowed) && denied.is_empty() {
            return String::new();
        }
        for rule in rules {
            self.leave(rule);
        }
        String::new()
    }
}

/// Returns the line for the compression of responses.
fn compression(scope: &Scope<'_>) -> String {
    if scope.last("gzip").map(Directive::arg) != Some("on") {
        return String::new();
    }
    let level = scope
        .last("gzip_comp_level")
        .and_then(|level| level.arg().parse().ok());
    // nginx's level without the directive.
    let level = level.unwrap_or(1_u8).clamp(1, 9);
    format!("compress = {{ level = {level} }}\n")
}

/// Keeps the last value of each name, since a table has each key once.
fn single(pairs: Vec<(String, String)>) -> Vec<(String, String)> {
    let mut kept = Vec::<(String, String)>::new();
    for (name, value) in pairs {
        kept.retain(|(other, _)| !other.eq_ignore_ascii_case(&name));
        kept.push((name, value));
    }
    kept
}

/// Returns true for a path as requests have it: with escapes, and without a query.
fn is_path(path: &str) -> bool {
    let is_right = |b: u8| b.is_ascii_graphic() && !matches!(b, b'?' | b'#');
    path.starts_with('/') && path.bytes().all(is_right)
}

/// Returns true for a value that a field can have, and that names no variable.
fn is_fixed(value: &str) -> bool {
    !value.contains('$') && !value.contains(char::is_control)
}

/// Returns true for a network, or an address.
fn is_network(network: &str) -> bool {
    network.parse::<IpNet>().is_ok() || network.parse::<IpAddr>().is_ok()
}

/// Returns true for a name of a field that a route may change.
fn is_field(name: &str) -> bool {
    let own = [
        "connection",
        "content-length",
        "transfer-encoding",
        "host",
        "upgrade",
        "te",
        "trailer",
    ];
    !name.is_empty()
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        && !own.iter().any(|own| own.eq_ignore_ascii_case(name))
}

/// Returns the hosts of a server name. There is none for `_` and for an empty one.
fn host(name: &str) -> Option<Vec<String>> {
    if matches!(name, "" | "_") {
        return Some(Vec::new());
    }
    let is_name = |name: &str| {
        !name.is_empty()
            && name.split('.').all(|label| !label.is_empty())
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
    };
    if let Some(below) = name.strip_prefix("*.") {
        return is_name(below).then(|| vec![name.to_ascii_lowercase()]);
    }
    if let Some(both) = name.strip_prefix('.') {
        let both = both.to_ascii_lowercase();
        return is_name(&both).then(|| vec![format!("*.{both}"), both]);
    }
    is_name(name).then(|| vec![name.to_ascii_lowercase()])
}

/// Returns the address of a `listen`.
fn address(listen: &str) -> Option<String> {
    if let Some(path) = listen.strip_prefix("unix:") {
        return path.starts_with('/').then(|| format!("unix://{path}"));
    }
    let is_number = listen.bytes().all(|b| b.is_ascii_digit());
    let on = match listen.parse::<u16>() {
        Err(_) if is_number => return None,
        Ok(port) => format!("tcp://0.0.0.0:{port}"),
        Err(_) => match listen.strip_prefix("*:") {
            Some(port) => format!("tcp://0.0.0.0:{port}"),
            None if is_address(listen) && listen.rsplit(']').next()?.contains(':') => {
                format!("tcp://{listen}")
            }
            None if is_address(listen) => format!("tcp://{listen}:80"),
            None => return None,
        },
    };
    on.parse::<epicycle::Endpoint>().is_ok().then_some(on)
}

/// Returns scheme, authority and URI of a `proxy_pass`.
fn target(url: &str) -> Option<(&str, &str, Option<&str>)> {
    let (scheme, rest) = url.split_once("://")?;
    if !matches!(scheme, "http" | "https")
        || url.contains(['$', '?', '#'])
        || !url.bytes().all(|b| b.is_ascii_graphic())
    {
        return None;
    }
    if let Some(path) = rest.strip_prefix("unix:") {
        let (path, uri) = match path.split_once(':') {
            Some((path, uri)) => (path, Some(uri).filter(|uri| !uri.is_empty())),
            None => (path, None),
        };
        let authority = &rest[..("unix:".len() + path.len())];
        return is_address(authority).then_some((scheme, authority, uri));
    }
    let (authority, uri) = match rest.find('/') {
        Some(at) => (&rest[..at], Some(&rest[at..])),
        None => (rest, None),
    };
    is_address(authority).then_some((scheme, authority, uri))
}
