//! The configuration file: its keys, and its faults.

use std::fs;
use std::time::Duration;

use epicycle::balance::KeyHash;
use epicycle::gateway::settings::{
    AccessLog, BalanceBy, ChildForm, DnsSettings, ForwardedFor, HashKey, HealthProbe, HostField,
    ListenerKind, LogFormat, LogTarget, OnFin, ProxyVersion, RouteAuth, Secret, Settings,
    SourceSettings, SrvSettings, Underscores, WebSocketMode, ZooKeeperSettings,
};
use epicycle::gateway::{ConfigError, Gateway, GatewayError};
use tempfile::TempDir;

/// A folder for a configuration file and what it names.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("is made"))
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> &Self {
        fs::write(self.0.path().join(name), text).expect("is written");
        self
    }

    fn load(&self) -> Result<Gateway, GatewayError> {
        Gateway::from_file(self.0.path().join("gateway.toml"))
    }
}

fn settings(text: &str) -> Settings {
    let folder = Folder::new();
    folder.write("gateway.toml", text);
    let gateway = folder.load().unwrap_or_else(|error| panic!("{error}"));
    gateway.settings().clone()
}

/// Returns the faults of a text: line, and problem.
fn faults(text: impl AsRef<[u8]>) -> Vec<(usize, String)> {
    let folder = Folder::new();
    folder.write("gateway.toml", text);
    match folder.load() {
        Err(GatewayError::Config(ConfigError::Faults(faults))) => {
            let all = faults.into_iter();
            all.map(|fault| (fault.line, fault.problem)).collect()
        }
        other => panic!("{other:?}"),
    }
}

/// The least that a gateway needs.
const LEAST: &str = r#"
listen = [{ on = "tcp://127.0.0.1:0" }]
route = [{ pool = "a" }]
pool.a.nodes = ["http://127.0.0.1:9000"]
"#;

#[test]
fn every_key_has_a_default_in_the_file_as_in_the_builder() {
    let built = Gateway::builder()
        .listen("tcp://127.0.0.1:0")
        .route(epicycle::gateway::settings::RouteSettings::to("a"))
        .pool(
            "a",
            epicycle::gateway::settings::PoolSettings::of(["http://127.0.0.1:9000"]),
        )
        .build()
        .expect("is sound");
    let (read, built) = (settings(LEAST), built.settings());
    assert_eq!(format!("{read:?}"), format!("{built:?}"));
}

#[test]
fn the_set_up_of_the_shared_cases_is_sound() {
    let gateway = Gateway::from_file("tests/gateway/cases.toml").expect("is sound");
    assert_eq!(gateway.settings().pools.len(), 6);
}

#[test]
fn every_key_becomes_its_setting() {
    let folder = Folder::new();
    folder.write("nodes.txt", "10.0.0.4:80,2\n");
    let user = "alice:$2b$04$DT5QgPWgDiLIX1b03H92ROYW5Kb4WW43onJagPX2D0RM0XDrt1.iG";
    folder.write("users.txt", user);
    folder.write("502.html", "<p>later</p>").write(
        "gateway.toml",
        r#"
reactors = 4
drain = { grace = "1s", deadline = "2s", node_timeout = "3s" }
log.access = { to = "access.log", format = "{client} {status}" }

[[listen]]
on = "tcp://127.0.0.1:0"
kind = "reverse"
proxy_protocol = ["10.0.0.0/8", "192.0.2.1"]
proxy_status = true
underscores = "pass"
on_fin = "finish"
timeout = { head = "4s", idle = "5s", body_idle = "6s", write_stall = "7s", max_age = "8s" }
max_head = "16KiB"
max_headers = 50
max_body = "1GiB"
max_requests = 1000
max_clients = 500
max_clients_per_ip = 20
high_water = "64KiB"
xff = "replace"
trusted = ["10.1.0.0/16", "::1"]
x_real_ip = false
x_forwarded = false
forwarded = true
via = false
max_loops = 3
allow = ["10.0.0.0/8"]
deny = ["10.3.0.1"]
auth = { users = "users.txt", realm = "Inner", pass = true }

[[listen]]
on = "tcp://127.0.0.1:1"
kind = "metrics"

[[route]]
name = "the api"
host = "*.example.org"
path = "/api/*"
pool = "api"
strip_prefix = "/api"
add_prefix = "/v2"
host_field = "node"
request.set = { "X-Env" = "prod" }
request.add = { "X-Tag" = ["a", "b"] }
request.remove = ["Cookie"]
response = { remove = ["Server"] }
max_body = "2MiB"
buffer_request = "64KiB"
flush_interval = "20ms"
upgrade = ["websocket", "chat"]
websocket = "frames"
error_pages = { 502 = "502.html" }

[[route]]
pool = "other"
rewrite = "/index.html"
deny = ["::/0"]
auth = false
host_field = "inner.example.org"

[pool.api]
nodes = [{ to = "tcp://10.0.0.1:8080", weight = 5 }, { to = "tcp://10.0.0.2:8080", backup = true }, "http://10.0.0.3"]
balance = { hash = "cookie:session", replicas = 40, ring = "crc32", bound = 1.5 }
fail_open = false
slow_start = "30s"
health = { http = "/healthz", method = "HEAD", host = "h", status = [204, "200-202"], body = "ok", interval = "9s", timeout = "1s", down_after = 3, up_after = 4 }
eject = { failures = 7, time = "10s", max_time = "1m", max_percent = 30, on_5xx = true }
timeout = { connect = "11s", tls_handshake = "12s", response_head = "13s", body_idle = "14s", request = "15s", expect_continue = "16s", tunnel_idle = "17s" }
max_idle = 18
idle_timeout = "19s"
max_lifetime = "20s"
max_requests = 21
max_connections = 22
max_pending = 23
pending_timeout = "24s"
max_head = 25000
max_headers = 26
retries = 1
retry_body = "27KiB"
retry_on = [502, 504]
retry_budget = { percent = 28, floor = 29 }
proxy_protocol = "v2"

[pool.other]
nodes_file = "nodes.txt"
health.tcp = true
timeout.request = "none"

[pool.named]
# Until the source has told others.
nodes = [{ to = "https://10.0.0.4", name = "inner.example.org" }]
discover = { dns = "https://app.internal", every = "31s", server = "10.0.0.53" }

[pool.service]
discover = { srv = "https://_http._tcp.app.internal", server = "[::1]:5353" }

[pool.registered]
discover = { zk = "zk1,[::1]:2182/services/app", by = "data", auth = "me:secret", session_timeout = "32s" }
"#,
    );
    let gateway = folder.load().unwrap_or_else(|error| panic!("{error}"));
    let all = gateway.settings();
    let seconds = Duration::from_secs;

    assert_eq!(all.reactors, Some(4));
    let drain = &all.drain;
    assert_eq!(
        (drain.grace, drain.deadline, drain.node_timeout),
        (seconds(1), seconds(2), seconds(3))
    );
    let mut log = AccessLog::new(LogTarget::File(folder.0.path().join("access.log")));
    log.format = LogFormat::Template("{client} {status}".to_owned());
    assert_eq!(all.access_log.as_ref(), Some(&log));

    let listener = &all.listeners[0];
    assert_eq!(listener.proxy_protocol.len(), 2);
    assert!(listener.proxy_status);
    assert_eq!(listener.underscores, Underscores::Pass);
    assert_eq!(listener.on_fin, OnFin::Finish);
    let timeouts = &listener.timeouts;
    assert_eq!(
        [
            timeouts.head,
            timeouts.idle,
            timeouts.body_idle,
            timeouts.write_stall,
            timeouts.max_age
        ],
        [4, 5, 6, 7, 8].map(seconds)
    );
    let limits = &listener.limits;
    assert_eq!((limits.max_head, limits.max_headers), (16 << 10, 50));
    assert_eq!((limits.max_body, limits.max_requests), (1 << 30, 1000));
    let clients = (limits.max_clients, limits.max_clients_per_ip);
    assert_eq!(clients, (Some(500), Some(20)));
    assert_eq!(limits.high_water, 64 << 10);
    let forwarding = &listener.forwarding;
    assert_eq!(forwarding.x_forwarded_for, ForwardedFor::Replace);
    assert_eq!(forwarding.trusted.len(), 2);
    assert!(!forwarding.x_real_ip && !forwarding.x_forwarded && !forwarding.via);
    assert!(forwarding.forwarded);
    assert_eq!(forwarding.max_loops, 3);
    let texts =
        |networks: &[ipnet::IpNet]| networks.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(texts(&listener.access.allow), ["10.0.0.0/8"]);
    assert_eq!(texts(&listener.access.deny), ["10.3.0.1/32"]);
    let auth = listener.auth.as_ref().expect("it is asked for");
    assert_eq!(
        (auth.users.len(), &*auth.realm, auth.pass),
        (1, "Inner", true)
    );
    assert_eq!(all.listeners[1].kind, ListenerKind::Metrics);

    let route = &all.routes[0];
    assert_eq!(route.display_name(), "the api");
    assert_eq!(route.host.as_deref(), Some("*.example.org"));
    assert_eq!(route.path.as_deref(), Some("/api/*"));
    assert_eq!(route.strip_prefix.as_deref(), Some("/api"));
    assert_eq!(route.add_prefix.as_deref(), Some("/v2"));
    assert_eq!(route.host_field, HostField::Node);
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(route.request.set, [pair("X-Env", "prod")]);
    assert_eq!(route.request.add, [pair("X-Tag", "a"), pair("X-Tag", "b")]);
    assert_eq!(route.request.remove, ["Cookie"]);
    assert_eq!(route.response.remove, ["Server"]);
    assert_eq!(route.flush_interval, Duration::from_millis(20));
    assert_eq!(route.websocket, WebSocketMode::Frames);
    assert_eq!(
        (route.max_body, route.buffer_request),
        (Some(2 << 20), 64 << 10)
    );
    assert_eq!(route.upgrade, ["websocket", "chat"]);
    let page = &route.error_pages[&502];
    assert_eq!(page.content_type, "text/html; charset=utf-8");
    assert_eq!(page.body, "<p>later</p>");
    let route = &all.routes[1];
    assert_eq!(route.rewrite.as_deref(), Some("/index.html"));
    assert_eq!(texts(&route.access.deny), ["::/0"]);
    assert_eq!(route.auth, RouteAuth::Off);
    assert_eq!(
        route.host_field,
        HostField::Name("inner.example.org".to_owned())
    );

    let pool = &all.pools["api"];
    let nodes: Vec<_> = pool
        .nodes
        .iter()
        .map(|node| (node.to.as_str(), node.weight, node.backup))
        .collect();
    assert_eq!(
        nodes,
        [
            ("tcp://10.0.0.1:8080", 5, false),
            ("tcp://10.0.0.2:8080", 1, true),
            ("http://10.0.0.3", 1, false)
        ]
    );
    assert_eq!(
        pool.balance,
        BalanceBy::Hash {
            key: HashKey::Cookie("session".to_owned()),
            replicas: 40,
            ring: KeyHash::Crc32,
            bound: Some(1.5)
        }
    );
    assert!(!pool.fail_open && pool.eject_5xx);
    assert_eq!(pool.slow_start, seconds(30));
    let health = pool.health.as_ref().expect("is checked");
    let (interval, timeout) = (health.interval, health.timeout);
    assert_eq!((interval, timeout), (seconds(9), seconds(1)));
    assert_eq!((health.down_after, health.up_after), (3, 4));
    assert_eq!(
        health.probe,
        HealthProbe::Http {
            method: "HEAD".to_owned(),
            path: "/healthz".to_owned(),
            host: Some("h".to_owned()),
            statuses: vec![(204, 204), (200, 202)],
            body: Some("ok".to_owned()),
        }
    );
    let ejection = epicycle::balance::Ejection::default()
        .failures(7)
        .base(seconds(10))
        .max(seconds(60))
        .max_percent(30);
    assert_eq!(format!("{:?}", pool.ejection), format!("{ejection:?}"));
    let timeouts = &pool.timeouts;
    assert_eq!(
        [
            timeouts.connect,
            timeouts.tls_handshake,
            timeouts.response_head,
            timeouts.body_idle,
            timeouts.request,
            timeouts.expect_continue,
            timeouts.tunnel_idle
        ],
        [11, 12, 13, 14, 15, 16, 17].map(seconds)
    );
    let connections = &pool.connections;
    assert_eq!(connections.max_idle, 18);
    assert_eq!(connections.idle_timeout, seconds(19));
    assert_eq!(connections.max_lifetime, seconds(20));
    assert_eq!(connections.max_requests, 21);
    assert_eq!(connections.max_connections, Some(22));
    assert_eq!(connections.max_pending, 23);
    assert_eq!(connections.pending_timeout, seconds(24));
    assert_eq!((pool.limits.max_head, pool.limits.max_headers), (25000, 26));
    let retries = &pool.retries;
    assert_eq!((retries.max, retries.body), (1, 27 << 10));
    assert_eq!(retries.statuses, [502, 504]);
    assert_eq!((retries.budget_percent, retries.budget_floor), (28, 29));
    assert_eq!(pool.proxy_protocol, Some(ProxyVersion::V2));

    let pool = &all.pools["other"];
    assert_eq!(
        pool.nodes_file.as_ref(),
        Some(&folder.0.path().join("nodes.txt"))
    );
    assert_eq!(
        pool.health.as_ref().map(|health| &health.probe),
        Some(&HealthProbe::Tcp)
    );
    assert_eq!(pool.timeouts.request, Duration::MAX);

    let pool = &all.pools["named"];
    assert_eq!(pool.nodes[0].name.as_deref(), Some("inner.example.org"));
    let mut dns = DnsSettings::new("https://app.internal");
    dns.every = seconds(31);
    dns.server = Some(([10, 0, 0, 53], 53).into());
    assert_eq!(pool.discover, Some(SourceSettings::Dns(dns)));
    let mut srv = SrvSettings::new("https://_http._tcp.app.internal");
    srv.server = Some("[::1]:5353".parse().expect("is an address"));
    let pool = &all.pools["service"];
    assert_eq!(pool.discover, Some(SourceSettings::Srv(srv)));
    let mut zk = ZooKeeperSettings::new("zk1,[::1]:2182/services/app");
    zk.form = ChildForm::Data;
    zk.auth = Some(Secret::new("me:secret"));
    zk.session_timeout = seconds(32);
    let pool = &all.pools["registered"];
    assert_eq!(pool.discover, Some(SourceSettings::ZooKeeper(zk)));
}

#[test]
fn a_source_that_cannot_be_is_told_with_its_remedy() {
    for (source, wanted) in [
        ("{}", "discover: it needs a source, such as dns = "),
        ("{ every = \"1s\" }", "discover: it needs a source"),
        ("{ dns = 7 }", "discover.dns: use a text in quotes"),
        ("{ dns = \"app.test\" }", "discover.dns: \"app.test\": "),
        (
            "{ dns = \"http://10.0.0.1:80\" }",
            "discover.dns: \"http://10.0.0.1:80\": an IP address needs no look-up",
        ),
        (
            "{ dns = \"unix:///run/app\" }",
            "discover.dns: \"unix:///run/app\": a Unix socket has no name",
        ),
        (
            "{ zk = \"zk1:2181\" }",
            "discover.zk: \"zk1:2181\": it has no path; write zk1:2181,zk2:2181/services/app",
        ),
        (
            "{ srv = \"app.internal\" }",
            "discover.srv: \"app.internal\": it is no service; write _http._tcp.app.internal",
        ),
        (
            "{ srv = \"ftp://_a._tcp.app\" }",
            "discover.srv: \"ftp://_a._tcp.app\": it may begin with tcp://",
        ),
        (
            "{ srv = \"_a._tcp.app\", server = \"ns.app\" }",
            "discover.server: write the IP address of a name server",
        ),
        (
            "{ zk = \"zk1//app\" }",
            "discover.zk: \"zk1//app\": the path ",
        ),
        (
            "{ zk = \"zk1/../a\" }",
            "discover.zk: \"zk1/../a\": the path ",
        ),
        ("{ zk = \"zk1/\" }", "discover.zk: \"zk1/\": the path "),
        (
            "{ zk = \"zk1,,zk2/app\" }",
            "discover.zk: \"zk1,,zk2/app\": a server is malformed",
        ),
        (
            "{ zk = \"zk1:0/app\" }",
            "discover.zk: \"zk1:0/app\": a server is malformed",
        ),
        (
            "{ zk = \"zk1/app\", by = \"path\" }",
            "discover.by: use \"name\" or \"data\"",
        ),
        (
            "{ zk = \"zk1/app\", session_timeout = \"1ms\" }",
            "discover.session_timeout: use 1s to 10m",
        ),
        (
            "{ zk = \"zk1/app\", auth = \"me\" }",
            "discover.auth: write \"NAME:PASSWORD\"",
        ),
        (
            "{ zk = \"zk1/app\", every = \"1s\" }",
            "discover.every: it is no option of `zk`; remove it",
        ),
        (
            "{ zk = \"zk1/app\", dns = \"app.test:80\" }",
            "discover: a pool has one source; remove the others",
        ),
        (
            "{ dns = \"app.test:80\", every = \"0s\" }",
            "discover.every: use 100ms to 24h",
        ),
        (
            "{ dns = \"app.test:80\", evry = \"1s\" }",
            "discover.evry: the key is unknown; did you mean `every`?",
        ),
    ] {
        let text = format!("{LEAST}pool.a.discover = {source}\n");
        let found = faults(text);
        assert_eq!(found.len(), 1, "{found:?}");
        let (line, problem) = &found[0];
        assert_eq!(*line, 5, "{problem}");
        let wanted = format!("pool.a.{wanted}");
        assert!(problem.starts_with(&wanted), "{problem}\nnot {wanted}");
    }
    let both = "pool.a.nodes_file = \"nodes.txt\"\npool.a.discover.dns = \"app.test:80\"\n";
    let found = faults(format!("{LEAST}{both}"));
    assert!(found[0].1.contains("remove `nodes_file`"), "{found:?}");
}

#[test]
fn every_fault_is_told_with_its_line_and_its_remedy() {
    let text = r#"
reactors = 0
tipo = 1

[[listen]]
on = "tcp://127.0.0.1:0"
kind = "mqtt"
timout = { head = "1s" }

[[listen]]

[[route]]
pool = "nowhere"
path = "api"

[[route]]
host = "a.test:80"
limit = { rate = "100" }

[pool.a]
nodes = ["http://127.0.0.1:9000", "gopher://127.0.0.1", { weight = 2 }, 7]
timeout = { connect = 2, request = "soon", body_idle = "0s" }
balance = "fastest"
max_head = "16kilobytes"
retry_on = [500]
proxy_protocol = "v3"
health = { tcp = true, http = "/" }
sticky = true

[mirror]

[admin]
listen = "tcp://0.0.0.0:9901"
"#;
    let faults = faults(text);
    let wanted = [
        (2, "reactors: 0 reactors serve nobody"),
        (
            3,
            "tipo: the key is unknown; possible here: admin, drain, listen",
        ),
        (7, "listen[0].kind: use \"reverse\", \"forward\""),
        (
            8,
            "listen[0].timout: the key is unknown; did you mean `timeout`?",
        ),
        (10, "listen[1]: it needs `on`"),
        (13, "route[0].pool: there is no pool \"nowhere\""),
        (14, "route[0].path: write a path that begins with a slash"),
        (16, "route[1]: it needs `pool`"),
        (17, "route[1].host: write a host without a port"),
        (18, "route[1].limit.rate: write a number of requests"),
        (21, "pool.a.nodes[1]: "),
        (21, "pool.a.nodes[2]: it needs `to`"),
        (21, "pool.a.nodes[3]: use a text in quotes, not a number"),
        (22, "pool.a.timeout.connect: write a time such as \"2s\""),
        (22, "pool.a.timeout.request: "),
        (22, "pool.a.timeout.body_idle: zero would end everything"),
        (23, "pool.a.balance: use \"weighted\""),
        (
            24,
            "pool.a.max_head: write a number of bytes, or a size such as \"256KiB\"",
        ),
        (
            25,
            "pool.a.retry_on: 500 is not for retries; use 502, 503 or 504",
        ),
        (26, "pool.a.proxy_protocol: use \"v1\" or \"v2\""),
        (
            27,
            "pool.a.health: use either http = \"/path\" or tcp = true",
        ),
        (28, "pool.a.sticky: the key is unknown"),
        (30, "mirror: "),
        (
            33,
            "admin.listen: others than this host's users can reach it",
        ),
    ];
    assert_eq!(faults.len(), wanted.len(), "{faults:#?}");
    for ((line, problem), (wanted_line, wanted)) in faults.iter().zip(wanted) {
        assert_eq!(*line, wanted_line, "{problem}");
        assert!(problem.starts_with(wanted), "{problem}\nnot {wanted}");
    }
}

#[test]
fn a_table_that_is_written_otherwise_is_told_with_an_example() {
    let route = "[[route]]\npool = \"a\"\n";
    let pool = "[pool.a]\nnodes = [\"http://127.0.0.1:1\"]\n";
    let listen = "[[listen]]\non = \"tcp://127.0.0.1:0\"\n";
    for (text, wanted) in [
        (
            format!("[listen]\non = \"tcp://127.0.0.1:0\"\n{route}{pool}"),
            "listen: write [[listen]], with two brackets",
        ),
        (
            format!("listen = [\"tcp://127.0.0.1:0\"]\n{route}{pool}"),
            "listen[0]: use a table such as { on = \"tcp://127.0.0.1:8080\" }, not a text",
        ),
        (
            format!("{listen}timeout = \"1s\"\n{route}{pool}"),
            "listen[0].timeout: use a table such as { idle = \"75s\" }, not a text",
        ),
        (
            format!("{listen}{route}limit = \"9/s\"\n{pool}"),
            "route[0].limit: use a table such as { rate = \"100/s\" }, not a text",
        ),
        (
            format!("{listen}{route}{pool}health = \"/\"\n"),
            "pool.a.health: use a table such as { http = \"/healthz\" }, not a text",
        ),
        (
            format!("{listen}{route}[[pool.a]]\nnodes = [\"http://127.0.0.1:1\"]\n"),
            "pool.a: use a table such as [pool.a], not an array",
        ),
        (
            format!("pool.a = \"http://127.0.0.1:1\"\n{listen}{route}"),
            "pool.a: use a table such as { nodes = [\"http://10.0.0.1:9000\"] }, not a text",
        ),
        (
            format!("{listen}{route}{pool}eject = 5\n[drain]\n"),
            "pool.a.eject: use a table such as { failures = 5 }, not a number",
        ),
        (String::new(), "listen: there is no listener"),
    ] {
        let faults = faults(&text);
        let is_told = faults.iter().any(|fault| fault.1.starts_with(wanted));
        assert!(is_told, "{text}\n{faults:?}");
        let of_listener = faults.iter().filter(|fault| fault.1.starts_with("listen"));
        assert!(of_listener.count() <= 1, "{faults:?}");
    }
}

#[test]
fn text_that_is_no_toml_is_told_with_its_line() {
    let found = faults("listen = [\n{ on = }\n]\n");
    assert_eq!(found[0].0, 2, "{found:?}");
    assert!(found[0].1.starts_with("this is no TOML: "), "{found:?}");
    let deep = format!("a = {}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(!faults(deep).is_empty());
}

#[test]
fn two_listeners_with_one_address_are_refused_also_at_port_0() {
    // One of them would have the settings of the other.
    let listener = "[[listen]]\non = \"tcp://127.0.0.1:0\"\nkind = \"socks5\"\n";
    let faults = faults([listener, listener].concat());
    let told = "listen[1].on: another listener has this address";
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(faults[0].1.starts_with(told), "{faults:?}");
}

#[test]
fn an_error_names_the_file() {
    let folder = Folder::new();
    folder.write("gateway.toml", "tipo = 1\n");
    let error = folder.load().expect_err("has faults").to_string();
    let file = folder.0.path().join("gateway.toml");
    let wanted = format!("{}:1:1: tipo: ", file.display());
    assert!(error.contains(&wanted), "{error}");
}

#[test]
fn files_that_cannot_be_read_are_told() {
    let folder = Folder::new();
    let error = folder.load().expect_err("is missing").to_string();
    assert!(error.contains("gateway.toml: No such file"), "{error}");

    folder.write("gateway.toml", vec![b'#'; (8 << 20) + 1]);
    let error = folder.load().expect_err("is too large").to_string();
    assert!(error.contains("larger than 8 MiB"), "{error}");

    folder.write("gateway.toml", b"# \xff");
    let error = folder.load().expect_err("is no text").to_string();
    assert!(error.contains("save it as UTF-8"), "{error}");

    // A file without an end.
    let endless = "[[listen]]\non = \"tcp://:1\"\n\
         tls = { cert = \"/dev/zero\", key = \"/dev/zero\", client_ca = \"/dev/zero\" }\n\
         [[route]]\npool = \"a\"\nerror_pages = { 502 = \"/dev/zero\" }\n\
         [pool.a]\nnodes = [\"http://10.0.0.1\"]\ntls = { ca = \"/dev/zero\" }\n";
    for (line, wanted) in [
        (3, "/dev/zero: it is larger than 8 MiB"),
        (6, "larger than 1 MiB"),
        (9, "/dev/zero: it is larger than 8 MiB"),
    ] {
        let faults = faults(endless);
        let is_told = faults
            .iter()
            .any(|(at, problem)| *at == line && problem.contains(wanted));
        assert!(is_told, "{line}: {faults:?}");
    }
    folder.write(
        "gateway.toml",
        format!("{LEAST}nodes_file = \"/dev/zero\"\n")
            .replace("pool.a.nodes = [\"http://127.0.0.1:9000\"]\n", "[pool.a]\n"),
    );
    let error = folder.load().expect_err("is too large").to_string();
    assert!(
        error.contains("/dev/zero: it is larger than 8 MiB"),
        "{error}"
    );
}

#[test]
fn a_pipe_in_place_of_a_file_is_told_and_not_waited_for() {
    let folder = Folder::new();
    let made = std::process::Command::new("mkfifo")
        .arg(folder.0.path().join("pipe"))
        .status();
    assert!(made.expect("mkfifo runs").success());
    let listener = "[[listen]]\non = \"tcp://:1\"\n";
    let pool = "[[route]]\npool = \"a\"\n[pool.a]\n";
    let nodes = "nodes = [\"http://10.0.0.1\"]\n";
    for text in [
        format!("{listener}{pool}nodes_file = \"pipe\"\n"),
        format!("{listener}tls = {{ cert = \"pipe\", key = \"pipe\" }}\n{pool}{nodes}"),
        format!("{listener}kind = \"socks5\"\nusers = \"pipe\"\n"),
        format!(
            "{listener}[[route]]\npool = \"a\"\nerror_pages = {{ 502 = \"pipe\" }}\n[pool.a]\n{nodes}"
        ),
        format!("{listener}{pool}{nodes}tls = {{ ca = \"pipe\" }}\n"),
    ] {
        folder.write("gateway.toml", &text);
        let error = folder.load().expect_err("it is a pipe").to_string();
        assert!(error.contains("it is a pipe"), "{error}");
    }
}

#[test]
fn a_hundred_faults_are_enough() {
    let text: String = (0..1000).map(|n| format!("k{n} = 1\n")).collect();
    assert_eq!(faults(text).len(), 100);
}

#[test]
fn certificates_come_from_files_relative_to_the_configuration() {
    let folder = Folder::new();
    let made = rcgen::generate_simple_self_signed(["a.test".to_owned()]).expect("is made");
    folder
        .write("site.pem", made.cert.pem())
        .write("site.key", made.signing_key.serialize_pem())
        .write(
            "gateway.toml",
            format!(
                "{LEAST}\n[[listen]]\non = \"tcp://127.0.0.1:0\"\n",
            )
            .replace("listen = [{ on = \"tcp://127.0.0.1:0\" }]\n", "")
                + "tls = [{ cert = \"site.pem\", key = \"site.key\", client_ca = \"site.pem\", client_auth = \"request\" }]\nsni_match = true\n",
        );
    let gateway = folder.load().unwrap_or_else(|error| panic!("{error}"));
    assert!(gateway.settings().listeners[0].tls.is_some());

    folder.write("site.key", "nonsense");
    let error = folder.load().expect_err("has no key").to_string();
    assert!(
        !error.contains("sni_match")
            && error.contains("gateway.toml:7:8: ")
            && error.contains("site.key"),
        "{error}"
    );
}

#[test]
fn nodes_have_tls_settings() {
    let folder = Folder::new();
    let made = rcgen::generate_simple_self_signed(["a.test".to_owned()]).expect("is made");
    folder
        .write("ca.pem", made.cert.pem())
        .write("key.pem", made.signing_key.serialize_pem())
        .write(
            "gateway.toml",
            format!("{LEAST}pool.a.tls = {{ ca = \"ca.pem\", name = \"a.test\", cert = \"ca.pem\", key = \"key.pem\" }}\n"),
        );
    let gateway = folder.load().unwrap_or_else(|error| panic!("{error}"));
    assert!(gateway.settings().pools["a"].tls.is_some());

    folder.write(
        "gateway.toml",
        format!("{LEAST}pool.a.tls = {{ ca = \"none.pem\" }}\n"),
    );
    let error = folder.load().expect_err("has no file").to_string();
    assert!(error.contains("none.pem"), "{error}");
}

#[test]
fn nodes_come_from_a_file_of_their_own() {
    let text = format!("{LEAST}pool.a.nodes_file = \"nodes.txt\"\n")
        .replace("pool.a.nodes = [\"http://127.0.0.1:9000\"]\n", "");
    let folder = Folder::new();
    folder.write("gateway.toml", &text).write(
        "nodes.txt",
        "# the main ones\n10.0.0.1:8080,5\n\n10.0.0.2:8080 # weight 1\nunix:///run/app.sock , 0\n",
    );
    let nodes = |folder: &Folder| {
        let gateway = folder.load().unwrap_or_else(|error| panic!("{error}"));
        let nodes = gateway.settings().pools["a"].nodes.clone();
        let each = nodes.into_iter();
        each.map(|node| (node.to, node.weight, node.backup))
            .collect::<Vec<_>>()
    };
    let node = |to: &str, weight, backup| (to.to_owned(), weight, backup);
    assert_eq!(
        nodes(&folder),
        [
            node("tcp://10.0.0.1:8080", 5, false),
            node("tcp://10.0.0.2:8080", 1, false),
            node("unix:///run/app.sock", 0, false)
        ]
    );

    folder.write("nodes.txt", "10.0.0.1:8080\n10.0.0.2,1\n10.0.0.3:1,x\n");
    let error = folder.load().expect_err("has faults").to_string();
    let lines: Vec<_> = error.lines().collect();
    assert_eq!(lines.len(), 2, "{error}");
    assert!(lines[0].contains("nodes.txt:2:1: "), "{error}");
    assert!(
        lines[1].contains("nodes.txt:3:1: the weight \"x\" is no number"),
        "{error}"
    );

    folder
        .write("gateway.toml", text.replace("nodes.txt", "nodes.toml"))
        .write(
            "nodes.toml",
            "nodes = [{ to = \"http://10.0.0.1\", backup = true }]\n",
        );
    assert_eq!(nodes(&folder), [node("http://10.0.0.1", 1, true)]);
    folder.write("nodes.toml", "nodes = [\"http://10.0.0.1\", \"nothing\"]\n");
    let error = folder.load().expect_err("has a fault").to_string();
    assert!(error.contains("nodes.toml:1:29: nodes[1]: "), "{error}");
}
