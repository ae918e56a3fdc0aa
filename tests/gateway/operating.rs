//! The admin interface: what it tells, what it changes, and whom it lets in.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use epicycle::gateway::settings::{
    AdminSettings, NodeChange, NodeSettings, NodeState, PoolSettings, RouteSettings,
};
use epicycle::gateway::status::NodeCondition;
use epicycle::gateway::{Gateway, GatewayError, NoHooks, Running};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::rig::{Client, Crowd, Folder, Origin, Program, command, metric};
use crate::util::{LONG, eventually};

const TOKEN: &str = "0123456789abcdef0123";

/// An answer of the admin interface.
#[derive(Debug)]
struct Told {
    status: u16,
    head: String,
    body: String,
}

impl Told {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    fn has(&self, line: &str) -> bool {
        self.head
            .lines()
            .any(|other| other.eq_ignore_ascii_case(line))
    }

    /// Returns all problems as one text.
    fn problems(&self) -> String {
        self.json()["problems"].to_string()
    }
}

fn exchange(mut stream: impl Read + Write, request: &[u8]) -> Told {
    // One that is refused early may be reset while it is written.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    Told {
        status: status.unwrap_or(0),
        head: head.to_owned(),
        body: body.to_owned(),
    }
}

/// A client of the interface.
#[derive(Clone)]
struct Admin {
    to: SocketAddr,
    token: Option<&'static str>,
}

impl Admin {
    fn of(running: &Running<NoHooks>) -> Self {
        let addr = running.control().admin_addr().expect("is open");
        Self {
            to: addr.as_socket_addr().expect("is TCP"),
            token: None,
        }
    }

    /// Sends a request with these fields and this body.
    fn send(&self, line: &str, fields: &str, body: &str) -> Told {
        let stream = TcpStream::connect(self.to).expect("connects");
        stream.set_read_timeout(Some(LONG)).expect("is possible");
        let host = match fields.contains("Host:") {
            true => String::new(),
            false => format!("Host: {}\r\n", self.to),
        };
        let token = self
            .token
            .map(|token| format!("Authorization: Bearer {token}\r\n"));
        let token = token.unwrap_or_default();
        let length = match body.len() {
            0 => String::new(),
            length => format!("Content-Length: {length}\r\n"),
        };
        let request = format!(
            "{line} HTTP/1.1\r\n{host}{token}{fields}{length}Connection: close\r\n\r\n{body}"
        );
        exchange(stream, request.as_bytes())
    }

    fn get(&self, path: &str) -> Told {
        self.send(&format!("GET {path}"), "", "")
    }

    fn json(&self, line: &str, body: &Value) -> Told {
        self.send(
            line,
            "Content-Type: application/json\r\n",
            &body.to_string(),
        )
    }

    fn toml(&self, line: &str, body: &str) -> Told {
        self.send(line, "Content-Type: application/toml\r\n", body)
    }

    /// Returns the node of a pool.
    fn node(&self, pool: &str, number: usize) -> Value {
        self.get(&format!("/pools/{pool}")).json()["nodes"][number].clone()
    }
}

fn start(origins: &[&Origin], admin: AdminSettings) -> Running<NoHooks> {
    let pool = PoolSettings::of(
        origins
            .iter()
            .map(|origin| format!("http://{}", origin.addr)),
    );
    let gateway = Gateway::builder()
        .listen("tcp://127.0.0.1:0")
        .pool("app", pool)
        .route(RouteSettings::to("app"))
        .reactors(2)
        .admin(admin)
        .build();
    gateway.expect("is sound").start_plain().expect("starts")
}

fn loopback() -> AdminSettings {
    AdminSettings::new("tcp://127.0.0.1:0")
}

fn client(running: &Running<NoHooks>) -> Client {
    Client::to(running.local_addrs()[0].as_socket_addr().expect("is TCP"))
}

#[test]
fn the_interface_tells_pools_health_connections_and_metrics() {
    let (one, two) = (Origin::start("one"), Origin::start("two"));
    let running = start(&[&one, &two], loopback());
    let admin = Admin::of(&running);
    assert_eq!(admin.node("app", 0)["latency_ms"], Value::Null);
    let mut client = client(&running);
    for _ in 0..10 {
        client.get("/").expect("is answered");
    }
    let pools = admin.get("/pools");
    assert!(pools.has("Content-Type: application/json"), "{pools:?}");
    assert!(pools.has("Cache-Control: no-store"), "{pools:?}");
    let pool = &pools.json()["pools"][0];
    assert_eq!(
        (&pool["name"], &pool["balance"]),
        (&json!("app"), &json!("weighted"))
    );
    for (n, origin) in [&one, &two].into_iter().enumerate() {
        let node = &pool["nodes"][n];
        assert_eq!(node["address"], format!("http://{}", origin.addr));
        assert_eq!((&node["state"], &node["set"]), (&json!("up"), &json!("up")));
        assert_eq!(
            (&node["weight"], &node["effective_weight"]),
            (&json!(1), &json!(1.0))
        );
        assert_eq!(
            (&node["requests"], &node["share"]),
            (&json!(5), &json!(0.5))
        );
        assert_eq!(
            (&node["health"], &node["failures"]),
            (&json!("unchecked"), &json!(0))
        );
        assert!(
            node["latency_ms"]
                .as_f64()
                .is_some_and(|ms| ms > 0.0 && ms < 1000.0),
            "{node}"
        );
        assert_eq!(node["in_flight"], 0);
        assert!(node["connections"].as_u64() >= Some(1), "{node}");
    }
    assert_eq!(admin.get("/pools/none").status, 404);

    let health = admin.get("/health");
    assert_eq!(
        (health.status, &health.json()["status"]),
        (200, &json!("ok"))
    );
    assert_eq!(health.json()["generation"], 1);
    assert_eq!(
        health.json()["pools"],
        json!([{"name": "app", "nodes": 2, "up": 2}])
    );
    let classes = health.json()["requests"].clone();
    let classes = classes.as_array().expect("an array");
    assert!(
        classes.contains(&json!({"class": "2xx", "requests": 10})),
        "{classes:?}"
    );
    let metrics = admin.get("/metrics").body;
    assert_eq!(metric(&metrics, "epicycle_gateway_in_flight"), Some(0.0));
    let answered = metric(
        &metrics,
        "epicycle_gateway_admin_requests_total{class=\"2xx\"}",
    );
    assert!(answered >= Some(3.0), "{answered:?}");
    let latency = "epicycle_gateway_node_responses_total{pool=\"app\",node=";
    assert!(metrics.contains(latency), "{metrics}");

    let mut slow = TcpStream::connect(running.local_addrs()[0].as_socket_addr().expect("is TCP"))
        .expect("connects");
    slow.write_all(b"GET /slow?password=secret HTTP/1.1\r\nHost: a.test\r\n\r\n")
        .expect("is sent");
    eventually("the exchange is told", || {
        let told = admin.get("/connections").json();
        assert_eq!(told["silent_reactors"], json!([]));
        assert_eq!(told["listeners"][0]["kind"], "reverse");
        let longest = &told["longest"][0];
        assert!(!told.to_string().contains("secret"), "{told}");
        longest["path"] == "/slow" && longest["kind"] == "exchange" && longest["pool"] == "app"
    });
    running.shutdown();
}

#[test]
fn nodes_are_added_weighted_drained_put_down_and_removed_and_the_next_request_knows() {
    let (one, two) = (Origin::start("one"), Origin::start("two"));
    let running = start(&[&one], loopback());
    let admin = Admin::of(&running);
    let mut client = client(&running);
    let added = admin.json(
        &format!("PUT /pools/app/nodes/http%3A%2F%2F{}", two.addr),
        &json!({"weight": 3}),
    );
    assert_eq!(added.status, 201, "{added:?}");
    assert!(
        added.json()["note"]
            .as_str()
            .is_some_and(|note| note.contains("not changed"))
    );
    let mut names = |requests: usize| {
        let mut counts = (0, 0);
        for _ in 0..requests {
            match client.get("/").expect("is answered").body.as_str() {
                "one" => counts.0 += 1,
                _ => counts.1 += 1,
            }
        }
        counts
    };
    assert_eq!(names(8), (2, 6));
    // The address without its scheme is enough.
    let path = format!("PATCH /pools/app/nodes/{}", two.addr);
    let weighed = admin.toml(&path, "weight = 1");
    assert_eq!(
        (weighed.status, &weighed.json()["weight"]),
        (200, &json!(1)),
        "{weighed:?}"
    );
    assert_eq!(names(8), (4, 4));
    for state in ["drain", "down"] {
        let put = admin.json(&path, &json!({"state": state}));
        assert_eq!(
            (put.status, &put.json()["state"]),
            (200, &json!(state)),
            "{put:?}"
        );
        assert_eq!(names(8), (8, 0));
        let node = admin.node("app", 1);
        assert_eq!(
            (&node["state"], &node["set"]),
            (&json!(state), &json!(state))
        );
        assert_eq!(
            (&node["weight"], &node["effective_weight"]),
            (&json!(1), &json!(0.0))
        );
    }
    assert_eq!(admin.json(&path, &json!({"state": "up"})).status, 200);
    assert_eq!(names(8), (4, 4));
    let removed = admin.send(
        &format!("DELETE /pools/app/nodes/http://{}", two.addr),
        "",
        "",
    );
    assert_eq!(removed.status, 200, "{removed:?}");
    assert_eq!(names(8), (8, 0));
    let last = admin.send(&format!("DELETE /pools/app/nodes/{}", one.addr), "", "");
    assert_eq!(last.status, 409, "{last:?}");
    assert_eq!(
        admin.send("DELETE /pools/app/nodes/x:1", "", "").status,
        404
    );
    assert_eq!(
        admin.json("PUT /pools/none/nodes/x:1", &json!({})).status,
        404
    );
    let history = admin.get("/history").json()["changes"].clone();
    let history = history.as_array().expect("an array");
    let told = |text: &str| {
        history
            .iter()
            .any(|entry| entry["changes"].to_string().contains(text))
    };
    assert!(
        told("is put to drain") && told("has weight 1 instead of 3"),
        "{history:?}"
    );
    assert!(
        history.iter().any(|entry| !entry["error"].is_null()),
        "{history:?}"
    );
    running.shutdown();
}

#[test]
fn a_node_that_drains_finishes_what_it_has_and_gets_nothing_even_if_no_other_is_there() {
    let one = Origin::start("one");
    let running = start(&[&one], loopback());
    let control = running.control().clone();
    let mut client = client(&running);
    client.get("/").expect("is answered");
    let slow = std::thread::spawn({
        let mut client = Client::to(running.local_addrs()[0].as_socket_addr().expect("is TCP"));
        move || client.get("/slow").expect("is answered")
    });
    eventually("it is under way", || {
        control.pools()[0].nodes[0].in_flight == 1
    });
    let drain = NodeChange::default().state(NodeState::Drain);
    let address = one.addr.to_string();
    control
        .change_node("app", &address, &drain)
        .expect("is there");
    assert_eq!(client.get("/").expect("is answered").status, 503);
    assert_eq!(slow.join().expect("ends").body, "one");
    eventually("its connections close", || {
        control.pools()[0].nodes[0].connections == 0
    });
    assert_eq!(control.pools()[0].nodes[0].state, NodeCondition::Drain);
    assert_eq!(control.health().status, "degraded");
    let up = NodeChange::default().state(NodeState::Up);
    control.change_node("app", &address, &up).expect("is there");
    assert_eq!(client.get("/").expect("is answered").body, "one");
    let unknown = control.set_node("none", NodeSettings::new("http://127.0.0.1:1"));
    assert!(
        matches!(unknown, Err(GatewayError::NotFound(_))),
        "{unknown:?}"
    );
    running.shutdown();
}

#[test]
fn a_configuration_is_put_as_toml_or_json_and_its_faults_are_all_told() {
    let (one, two) = (Origin::start("one"), Origin::start("two"));
    let folder = Folder::new();
    let text = |origin: &Origin| {
        format!(
            "admin.listen = \"tcp://127.0.0.1:0\"\nlisten = [{{ on = \"tcp://127.0.0.1:0\" }}]\n\
             route = [{{ pool = \"a\", request.set = {{ Authorization = \"Basic SECRET\" }} }}]\n\
             pool.a.nodes = [{}]\n",
            origin.node()
        )
    };
    folder.write("gateway.toml", text(&one));
    let gateway = Gateway::from_file(folder.path("gateway.toml")).expect("is sound");
    let running = gateway.start_plain().expect("starts");
    let admin = Admin::of(&running);
    let mut client = client(&running);
    let config = admin.get("/config");
    assert!(config.has("ETag: \"1\""), "{config:?}");
    assert!(!config.body.contains("SECRET"), "{config:?}");
    let mut json = config.json();
    assert_eq!(
        json["route"][0]["request"]["set"]["Authorization"],
        "(redacted)"
    );

    // A secret that was not told cannot be put back.
    let refused = admin.json("PUT /config", &json);
    assert_eq!(refused.status, 422, "{refused:?}");
    assert!(refused.problems().contains("redacted"), "{refused:?}");
    json["route"] = json!([{"pool": "a"}]);
    json["pool"]["a"]["nodes"] = json!([format!("http://{}", two.addr)]);
    let put = admin.json("PUT /config", &json);
    assert_eq!(
        (put.status, &put.json()["generation"]),
        (200, &json!(2)),
        "{put:?}"
    );
    let changed = put.json()["changed"].to_string();
    assert!(
        changed.contains("is new") && changed.contains("is gone"),
        "{changed}"
    );
    assert!(
        put.json()["note"]
            .as_str()
            .is_some_and(|note| note.contains("not changed"))
    );
    assert_eq!(client.get("/").expect("is answered").body, "two");

    // Only the one that was read is replaced.
    let put = |tag: &str| {
        let fields = format!("Content-Type: application/toml\r\nIf-Match: {tag}\r\n");
        admin.send("PUT /config", &fields, &text(&two)).status
    };
    assert_eq!((put("\"1\""), put("none"), put("\"2\"")), (412, 412, 200));

    let wrong = "reactors = 0\nlisten = [{ on = 5 }]\nroute = [{ pool = \"b\" }]\n";
    let refused = admin.toml("PUT /config", wrong);
    assert_eq!(refused.status, 422, "{refused:?}");
    let problems = refused.json()["problems"].clone();
    assert_eq!(problems.as_array().map(Vec::len), Some(3), "{problems}");
    assert_eq!(
        (&problems[1]["line"], &problems[1]["file"]),
        (&json!(2), &json!("body"))
    );
    let refused = admin.json(
        "PUT /config",
        &json!({"reactors": 0, "listen": [{"on": 5}]}),
    );
    assert!(refused.problems().contains("listen[0].on"), "{refused:?}");
    assert_eq!(refused.json()["problems"][0]["line"], Value::Null);
    assert_eq!(
        admin.json("PUT /config", &json!({"listen": null})).status,
        422
    );
    assert_eq!(admin.toml("PUT /config", "listen = ").status, 400);
    assert_eq!(
        admin
            .send("PUT /config", "Content-Type: application/json\r\n", "{")
            .status,
        400
    );
    let moved = admin.toml("PUT /config", &text(&two).replacen(":0", ":1", 1));
    assert_eq!(moved.status, 409, "{moved:?}");
    assert_eq!(client.get("/").expect("is answered").body, "two");

    // The file is as it was, and counts again once it is read.
    let reloaded = admin.send("POST /reload", "", "");
    assert_eq!(reloaded.status, 200, "{reloaded:?}");
    assert_eq!(client.get("/").expect("is answered").body, "one");
    folder.write("gateway.toml", "listen = 1\nx = 2\n");
    let refused = admin.send("POST /reload", "", "");
    assert_eq!(refused.status, 422, "{refused:?}");
    assert!(refused.problems().contains("\"line\":2"), "{refused:?}");
    assert_eq!(client.get("/").expect("is answered").body, "one");
    running.shutdown();
}

#[test]
fn a_reload_keeps_what_operators_changed_unless_the_pool_has_other_nodes_there() {
    let origins = ["one", "two", "three"].map(Origin::start);
    let folder = Folder::new();
    let text = |count: usize, more: &str| {
        let nodes: Vec<_> = origins[..count].iter().map(Origin::node).collect();
        format!(
            "{more}\nadmin.listen = \"tcp://127.0.0.1:0\"\nlisten = [{{ on = \"tcp://127.0.0.1:0\" }}]\n\
             route = [{{ pool = \"a\" }}]\npool.a.nodes = [{}]\n",
            nodes.join(", ")
        )
    };
    folder.write("gateway.toml", text(2, ""));
    let gateway = Gateway::from_file(folder.path("gateway.toml")).expect("is sound");
    let running = gateway.start_plain().expect("starts");
    let admin = Admin::of(&running);
    let path = format!("PATCH /pools/a/nodes/{}", origins[0].addr);
    assert_eq!(admin.json(&path, &json!({"state": "drain"})).status, 200);
    let config = admin.get("/config").json();
    assert_eq!(
        config["pool"]["a"]["nodes"][0]["state"], "drain",
        "{config}"
    );

    folder.write("gateway.toml", text(2, "drain.grace = \"1s\""));
    assert_eq!(admin.send("POST /reload", "", "").status, 200);
    assert_eq!(admin.node("a", 0)["state"], "drain");
    folder.write("gateway.toml", text(3, ""));
    assert_eq!(admin.send("POST /reload", "", "").status, 200);
    assert_eq!(admin.node("a", 0)["state"], "up");
    running.shutdown();
}

#[test]
fn without_the_token_nothing_is_told_and_nothing_changes() {
    let one = Origin::start("one");
    let running = start(&[&one], loopback().token(TOKEN));
    let open = Admin::of(&running);
    let requests = [
        "GET /config",
        "GET /pools",
        "GET /health",
        "GET /metrics",
        "PUT /config",
        "POST /reload",
        "POST /drain",
        "PATCH /pools/app/nodes/x",
        "GET /none",
    ];
    for line in requests {
        let refused = open.send(line, "", "");
        assert_eq!(refused.status, 401, "{line}: {refused:?}");
        assert!(refused.has("WWW-Authenticate: Bearer"), "{refused:?}");
    }
    // A guess is answered late.
    let began = Instant::now();
    let wrong = format!("Authorization: Bearer {TOKEN}x\r\n");
    assert_eq!(open.send("GET /pools", &wrong, "").status, 401);
    assert!(
        began.elapsed() >= Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
    for wrong in [TOKEN, "Basic 0123456789abcdef0123"] {
        let field = format!("Authorization: {wrong}\r\n");
        assert_eq!(open.send("POST /drain", &field, "").status, 401);
    }
    // The page has no secrets, and asks for the token.
    assert_eq!(open.get("/").status, 200);
    let admin = Admin {
        token: Some(TOKEN),
        ..open
    };
    assert_eq!(admin.get("/health").json()["status"], "ok");
    let metrics = admin.get("/metrics").body;
    let refused = metric(
        &metrics,
        "epicycle_gateway_admin_refusals_total{reason=\"token\"}",
    );
    assert_eq!(refused, Some(requests.len() as f64 + 3.0));
    for path in ["/config", "/metrics", "/history", "/"] {
        assert!(!admin.get(path).body.contains(TOKEN), "{path}");
    }
    running.shutdown();
}

#[test]
fn pages_of_other_origins_and_names_that_were_led_here_change_nothing() {
    let one = Origin::start("one");
    let running = start(&[&one], loopback().host("gateway.example.org"));
    let admin = Admin::of(&running);
    let port = admin.to.port();
    let drain = format!("PATCH /pools/app/nodes/{}", one.addr);
    let drain = |fields: &str| {
        let fields = format!("{fields}Content-Type: application/json\r\n");
        admin.send(&drain, &fields, "{\"state\": \"up\"}").status
    };
    for fields in [
        "Origin: https://evil.example\r\n",
        "Origin: null\r\n",
        &format!("Origin: http://127.0.0.1:{}\r\n", port ^ 1),
        &format!("Origin: http://localhost:{port}\r\n"),
        "Sec-Fetch-Site: cross-site\r\n",
        "Sec-Fetch-Site: same-site\r\n",
    ] {
        assert_eq!(drain(fields), 403, "{fields}");
    }
    for host in [
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example:80",
        "",
    ] {
        assert_eq!(drain(&format!("Host: {host}\r\n")), 421, "{host}");
        assert_eq!(
            admin.send("GET /", &format!("Host: {host}\r\n"), "").status,
            421,
            "{host}"
        );
    }
    for fields in [
        "",
        "Host: localhost:80\r\n",
        "Host: [::1]:80\r\n",
        "Host: Gateway.example.org\r\n",
        &format!("Origin: http://127.0.0.1:{port}\r\nSec-Fetch-Site: same-origin\r\n"),
        "Host: gateway.example.org\r\nOrigin: https://gateway.example.org\r\n",
        "Sec-Fetch-Site: none\r\n",
    ] {
        assert_eq!(drain(fields), 200, "{fields}");
    }
    // What a form of another site can send.
    for content_type in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
    ] {
        let field = format!("Content-Type: {content_type}\r\n");
        assert_eq!(
            admin.send("PUT /config", &field, "{}").status,
            415,
            "{content_type}"
        );
    }
    let twice = "Content-Type: application/json\r\nContent-Type: application/toml\r\n";
    let told = admin.send("PUT /config", twice, "{}");
    assert!(
        told.status == 400 && told.body.contains("twice"),
        "{told:?}"
    );
    let told = admin.send("OPTIONS /config", "Origin: https://evil.example\r\n", "");
    assert!(
        !told.head.to_ascii_lowercase().contains("access-control"),
        "{told:?}"
    );
    assert_eq!(admin.get("/health").json()["generation"], 8);
    running.shutdown();
}

#[test]
fn requests_that_are_none_are_refused_properly() {
    let one = Origin::start("one");
    let running = start(&[&one], loopback());
    let admin = Admin::of(&running);
    let post = admin.send("POST /pools", "", "");
    assert_eq!(post.status, 405);
    assert!(post.has("Allow: GET, HEAD"), "{post:?}");
    assert_eq!(admin.get("/nothing").status, 404);
    assert_eq!(admin.send("PUT /config", "", "").status, 400);
    let path = format!("PUT /pools/app/nodes/{}", one.addr);
    assert_eq!(admin.send(&path, "", "{}").status, 415);
    // A body that is announced as too large is not waited for, and one that becomes too large is cut off.
    let fields = "Content-Type: application/json\r\nContent-Length: 8388609\r\n";
    assert_eq!(admin.send("PUT /config", fields, "").status, 413);
    let chunk = "x".repeat(64 << 10);
    let body = format!("10000\r\n{chunk}\r\n1\r\nx\r\n0\r\n\r\n");
    let fields = "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\nX: ";
    let request = |line: &str| {
        let stream = TcpStream::connect(admin.to).expect("connects");
        let request = format!("{line} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n\r\n{body}");
        exchange(stream, request.as_bytes()).status
    };
    assert_eq!(request(&path), 413);
    assert_eq!(request("POST /reload"), 413);
    for (body, problem) in [
        (json!({"weight": -1}), "weight"),
        (json!({"state": "gone"}), "drain"),
        (json!({"wieght": 1}), "did you mean `weight`"),
        (json!({"weight": 4_294_967_296_u64}), "weight"),
    ] {
        let refused = admin.json(&path, &body);
        assert_eq!(refused.status, 422, "{body}: {refused:?}");
        assert!(refused.problems().contains(problem), "{refused:?}");
    }
    let refused = admin.json("PUT /pools/app/nodes/udp%3A%2F%2Fx%3A1", &json!({}));
    assert_eq!(refused.status, 422, "{refused:?}");
    assert_eq!(admin.send("POST /reload", "", "").status, 409);
    let head = admin.send("HEAD /pools", "", "");
    assert_eq!((head.status, &*head.body), (200, ""));
    assert_eq!(client(&running).get("/").expect("is answered").body, "one");
    running.shutdown();
}

#[test]
fn a_unix_socket_is_for_its_user_alone_and_is_handed_on() {
    let (one, folder) = (Origin::start("one"), Folder::new());
    folder.write(
        "gateway.toml",
        format!(
            "admin.listen = \"unix://{}\"\nlisten = [{{ on = \"tcp://127.0.0.1:0\" }}]\n\
             route = [{{ pool = \"a\" }}]\npool.a.nodes = [{}]\n",
            folder.path("admin.sock").display(),
            one.node()
        ),
    );
    let mut program = Program::start(&folder, 1);
    assert!(program.line().ends_with("admin.sock"), "{}", program.log());
    let mode = fs::metadata(folder.path("admin.sock"))
        .expect("is there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let ask = |line: &str| {
        let stream = UnixStream::connect(folder.path("admin.sock")).ok()?;
        let request = format!("{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        Some(exchange(stream, request.as_bytes()))
    };
    let generation = || Some(ask("GET /health")?.json()["generation"].clone());
    assert_eq!(ask("POST /reload").map(|told| told.status), Some(200));
    assert_eq!(generation(), Some(json!(2)));

    program.signal(Signal::USR2);
    eventually("another process answers", || generation() == Some(json!(1)));
    let status = program.ended();
    assert!(status.success(), "{status}");
    let drained = ask("POST /drain").expect("is answered");
    assert_eq!(drained.status, 202, "{drained:?}");
    assert_eq!(ask("GET /health").map(|told| told.status), Some(503));
    // The default grace is 5 s.
    eventually("it ends", || ask("GET /health").is_none());
}

#[test]
fn the_interface_moves_with_the_file_and_closes_with_it() {
    let (one, folder) = (Origin::start("one"), Folder::new());
    let text = |admin: &str| {
        format!(
            "{admin}\nlisten = [{{ on = \"tcp://127.0.0.1:0\" }}]\nroute = [{{ pool = \"a\" }}]\npool.a.nodes = [{}]\n",
            one.node()
        )
    };
    folder.write("gateway.toml", text("admin.listen = \"tcp://127.0.0.1:0\""));
    let load = || Gateway::from_file(folder.path("gateway.toml")).expect("is sound");
    let running = load().start_plain().expect("starts");
    let first = Admin::of(&running);
    folder.write(
        "gateway.toml",
        text(&format!(
            "admin.listen = \"tcp://127.0.0.1:0\"\nadmin.token = \"{TOKEN}\""
        )),
    );
    // The one who asks gets the answer, and needs the token then.
    assert_eq!(first.send("POST /reload", "", "").status, 200);
    assert_eq!(first.get("/health").status, 401);
    let first = Admin {
        token: Some(TOKEN),
        ..first
    };
    folder.write(
        "gateway.toml",
        text("admin.listen = \"tcp4://127.0.0.1:0\""),
    );
    let told = first.send("POST /reload", "", "");
    assert_eq!(told.status, 200, "{told:?}");
    let second = Admin::of(&running);
    assert_ne!(first.to, second.to);
    assert_eq!(second.get("/health").status, 200);
    eventually("the first one is closed", || {
        TcpStream::connect(first.to).is_err()
    });
    folder.write("gateway.toml", text(""));
    running.reload(&load()).expect("is possible");
    assert!(running.control().admin_addr().is_none());
    eventually("the second one is closed", || {
        TcpStream::connect(second.to).is_err()
    });
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let addr = taken.local_addr().expect("has an address");
    folder.write(
        "gateway.toml",
        text(&format!("admin.listen = \"tcp://{addr}\"")),
    );
    assert!(running.reload(&load()).is_err());
    assert!(load().start_plain().is_err());
    running.shutdown();
}

#[test]
fn changes_by_operators_under_load_fail_no_request() {
    let origins = ["one", "two", "three"].map(Origin::start);
    let running = start(&[&origins[0], &origins[1]], loopback());
    let admin = Admin::of(&running);
    let to = running.local_addrs()[0].as_socket_addr().expect("is TCP");
    let crowd = Crowd::start(16, to);
    let third = format!("/pools/app/nodes/http://{}", origins[2].addr);
    let second = format!("PATCH /pools/app/nodes/{}", origins[1].addr);
    for round in 0..20 {
        assert!(
            admin
                .json(&format!("PUT {third}"), &json!({"weight": 2}))
                .status
                < 300
        );
        let state = if round % 2 == 0 { "drain" } else { "down" };
        assert_eq!(admin.json(&second, &json!({"state": state})).status, 200);
        assert_eq!(admin.get("/connections").status, 200);
        assert_eq!(admin.json(&second, &json!({"state": "up"})).status, 200);
        assert_eq!(admin.send(&format!("DELETE {third}"), "", "").status, 200);
    }
    let failures = crowd.failures.lock().expect("is sound").clone();
    assert!(failures.is_empty(), "{failures:?}");
    assert!(crowd.answers.load(Ordering::Relaxed) > 100);
    drop(crowd);
    running.shutdown();
}

#[test]
fn check_refuses_an_interface_that_others_could_use() {
    let folder = Folder::new();
    let check = |admin: &str| {
        let rest = "listen = [{ on = \"tcp://127.0.0.1:0\" }]\nroute = [{ pool = \"a\" }]\npool.a.nodes = [\"http://127.0.0.1:9\"]\n";
        folder.write("gateway.toml", format!("{admin}\n{rest}"));
        let config = folder.path("gateway.toml");
        let output = command()
            .arg("--check")
            .arg("--config")
            .arg(config)
            .output()
            .expect("runs");
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    folder.write("token", format!("{TOKEN}\n"));
    folder.write("short", "secret\n");
    for (admin, problem) in [
        ("admin.listen = \"tcp://0.0.0.0:9901\"", "add a `token`"),
        ("admin.listen = \"tcp://:9901\"", "add a `token`"),
        ("admin.listen = \"tcp://[::]:9901\"", "add a `token`"),
        ("admin.listen = \"unix://@abstract\"", "add a `token`"),
        (
            "admin.listen = \"udp://127.0.0.1:9901\"",
            "it needs a stream",
        ),
        ("admin.token = \"x\"", "it needs `listen`"),
        (
            "admin = { listen = \"tcp://:1\", token = \"short\" }",
            "16 characters",
        ),
        (
            "admin = { listen = \"tcp://:1\", token_file = \"short\" }",
            "16 characters",
        ),
        (
            "admin = { listen = \"tcp://:1\", token_file = \"gone\" }",
            "cannot read",
        ),
        (
            "admin = { listen = \"tcp://127.0.0.1:1\", hosts = [\"a:1\"] }",
            "without a port",
        ),
        (
            "admin = { listen = \"tcp://127.0.0.1:1\", tokens = \"\" }",
            "did you mean `token`",
        ),
    ] {
        let (is_sound, told) = check(admin);
        assert!(!is_sound && told.contains(problem), "{admin}: {told}");
        assert!(
            told.starts_with(&*folder.path("gateway.toml").to_string_lossy()),
            "{told}"
        );
        assert!(!told.contains("secret"), "{told}");
    }
    for admin in [
        "admin.listen = \"tcp://[::1]:9901\"",
        "admin.listen = \"tcp://localhost:9901\"",
        "admin.listen = \"unix:///run/gateway.sock\"",
        "admin = { listen = \"tcp://0.0.0.0:9901\", token_file = \"token\", hosts = [\"gw.example.org\"] }",
    ] {
        assert_eq!(check(admin), (true, String::new()), "{admin}");
    }
}
