//! The HTTP server of applications, over real sockets.

use std::fs;
use std::sync::mpsc;

use epicycle::cluster::client::Client;
use epicycle::cluster::config::Config;
use epicycle::cluster::container::{Component, IntoComponent};
use epicycle::cluster::http::{Cors, HttpError, HttpReply, HttpServer};
use epicycle::cluster::node::HandlerError;
use epicycle::cluster::registry::{Instance, Registry};
use epicycle::cluster::{Cluster, Error, Watch};
use epicycle::fetch::{self, Client as Fetcher};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::util::{LONG, expect_panics};

#[derive(Serialize, Deserialize, ToSchema)]
struct Note {
    text: String,
    by: Author,
}

#[derive(Serialize, Deserialize, ToSchema)]
struct Author {
    name: String,
}

struct Site {
    server: HttpServer,
    client: Fetcher,
}

impl Site {
    fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> (u16, Value) {
        let (status, text) = self.raw(method, path, headers, body);
        (
            status,
            serde_json::from_str(&text).unwrap_or(Value::String(text)),
        )
    }

    fn raw(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> (u16, String) {
        let response = self.send(method, path, headers, body);
        let body = String::from_utf8_lossy(response.body()).into_owned();
        (response.status().as_u16(), body)
    }

    fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> ::http::Response<epicycle::Bytes> {
        let url = format!("http://{}{path}", self.server.addr());
        let mut request = self.client.request(method, url).timeout(LONG);
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        if !body.is_empty() {
            request = request.body(body.to_owned());
        }
        request.send().expect("is answered")
    }
}

fn site(cluster: &Cluster) -> Site {
    expect_panics();
    let builder = cluster
        .http()
        .listen("tcp://127.0.0.1:0")
        .cors(Cors::origins(["https://game.example"]));
    let builder = builder.openapi("/docs", "Notes", "1.2").routes(|routes| {
        routes
            .get("/hello/{name}", |request| {
                let times = request.query("times").and_then(|times| times.parse().ok());
                Ok(HttpReply::text(
                    request.param("name").repeat(times.unwrap_or(1)),
                ))
            })
            .summary("Says a name")
            .query("times", "how often");
        routes.get("/panic", |_| panic!("deliberate"));
        routes.get("/target", |request| {
            let service = request.proxy().mesh()?.service("nowhere")?;
            Ok(HttpReply::text(service.target().to_string()))
        });
        routes.group("/api", |api| {
            api.middleware(|request, next| {
                let uid = request.header("X-User").and_then(|uid| uid.parse().ok());
                request.set_user(uid.ok_or_else(|| HttpError::new(401, "log in first"))?);
                let reply = next.run(request)?;
                Ok(reply.header("X-Seen", "yes"))
            });
            api.get("/me", |request| HttpReply::json(&request.user()));
            api.group("/notes", |notes| {
                notes
                    .post("/", |request| {
                        let note: Note = request.json()?;
                        Ok(HttpReply::json(&note)?.status(201))
                    })
                    .takes::<Note>()
                    .returns::<Note>();
            });
            api.post("/push/{uid}", |request| {
                let uid = request.param("uid").parse();
                let uid = uid.map_err(|_| HttpError::new(400, "the uid is a number"))?;
                let value: Value = request.json()?;
                request.proxy().push(uid, 9, &value)?;
                HttpReply::json(&request.proxy().broadcast(9, &"all")?)
            });
        });
    });
    Site {
        server: builder.start().expect("starts"),
        client: Fetcher::new().expect("starts"),
    }
}

#[test]
fn routes_have_parameters_groups_and_middleware() {
    let site = site(&Cluster::embedded());
    assert_eq!(
        site.raw("GET", "/hello/Zo%C3%AB?times=2", &[], ""),
        (200, "ZoëZoë".to_owned())
    );
    let user = [("X-User", "7")];
    assert_eq!(site.ask("GET", "/api/me", &user, ""), (200, json!(7)));
    assert_eq!(
        site.ask("GET", "/api/me", &[], ""),
        (401, json!({"error": "log in first"}))
    );
    let note = json!({"text": "hi", "by": {"name": "Ada"}});
    assert_eq!(
        site.ask("POST", "/api/notes/", &user, &note.to_string()),
        (201, note)
    );
    let (status, told) = site.ask("POST", "/api/notes/", &user, "{}");
    assert_eq!(status, 400);
    assert!(
        told["error"]
            .as_str()
            .is_some_and(|text| text.contains("missing field")),
        "{told}"
    );
    assert_eq!(site.ask("GET", "/nothing", &[], "").0, 404);
    let wrong = site.send("DELETE", "/hello/x", &[], "");
    assert_eq!(
        (wrong.status().as_u16(), &wrong.headers()["Allow"]),
        (405, &"GET, HEAD".parse().expect("is text"))
    );
    let seen = site.send("GET", "/api/me", &user, "");
    assert_eq!(seen.headers()["X-Seen"], "yes");
}

#[test]
fn a_handler_that_panics_is_answered_and_ends_nothing_else() {
    let site = site(&Cluster::embedded());
    for _ in 0..20 {
        let (status, told) = site.ask("GET", "/panic", &[], "");
        assert_eq!(status, 500);
        assert!(!told.to_string().contains("deliberate"), "{told}");
    }
    assert_eq!(site.raw("GET", "/hello/x", &[], "").0, 200);
}

#[test]
fn a_wrong_argument_of_a_handler_is_nothing_that_the_client_is_told() {
    let site = site(&Cluster::embedded());
    let (status, told) = site.ask("GET", "/target", &[], "");
    assert_eq!(status, 500);
    assert_eq!(told, json!({"error": "it has failed; see the log"}));
}

#[test]
fn a_body_that_is_too_long_is_refused() {
    let site = site(&Cluster::embedded());
    let long = "x".repeat((4 << 20) + 1);
    assert_eq!(
        site.raw("POST", "/api/notes/", &[("X-User", "7")], &long).0,
        413
    );
}

#[test]
fn pages_of_other_origins_are_let_in_as_configured() {
    let site = site(&Cluster::embedded());
    let allow = "Access-Control-Allow-Origin";
    let ours = [("Origin", "https://game.example")];
    let answer = site.send("GET", "/hello/x", &ours, "");
    assert_eq!(answer.headers()[allow], "https://game.example");
    let error = site.send("GET", "/nothing", &ours, "");
    assert_eq!(error.headers()[allow], "https://game.example");
    let others = site.send("GET", "/hello/x", &[("Origin", "https://evil.example")], "");
    assert!(!others.headers().contains_key(allow));
    let asks = [
        ("Origin", "https://game.example"),
        ("Access-Control-Request-Method", "POST"),
        ("Access-Control-Request-Headers", "x-user"),
    ];
    let permitted = site.send("OPTIONS", "/api/notes/", &asks, "");
    assert_eq!(permitted.status().as_u16(), 204);
    assert_eq!(
        permitted.headers()["Access-Control-Allow-Headers"],
        "x-user"
    );
}

#[test]
fn the_routes_are_described_as_openapi() {
    let site = site(&Cluster::embedded());
    let (status, api) = site.ask("GET", "/docs.json", &[], "");
    assert_eq!(status, 200);
    assert_eq!(api["info"]["title"], "Notes");
    assert_eq!(
        api["paths"]["/hello/{name}"]["get"]["summary"],
        "Says a name"
    );
    let parameters = &api["paths"]["/hello/{name}"]["get"]["parameters"];
    assert_eq!(parameters[0]["in"], "path");
    assert_eq!(parameters[1]["name"], "times");
    let note = &api["paths"]["/api/notes/"]["post"]["requestBody"]["content"]["application/json"]["schema"];
    assert_eq!(note["properties"]["text"]["type"], "string", "{api}");
    // The files that it refers to are there.
    assert!(
        api["components"]["schemas"]["Author"]["properties"]["name"].is_object(),
        "{api}"
    );
    let (status, page) = site.raw("GET", "/docs", &[], "");
    assert_eq!(status, 200);
    assert!(page.contains("fetch(\"/docs.json\")"));
    let page = page.replace("fetch(\"/docs.json\")", "");
    for outside in [
        "//", "src=", "href=", "url(", "@import", "import(", "<link", "<iframe",
    ] {
        assert!(!page.contains(outside), "it needs the network: {outside}");
    }
}

#[test]
fn handlers_push_to_users_and_find_them() {
    let cluster = Cluster::embedded();
    let node = cluster
        .node()
        .route(2, |_, cx| -> Result<(), HandlerError> {
            cx.bind_gate(7, |_: &mut (), cx, bound| {
                bound?;
                cx.respond("in")
            })?;
            Ok(())
        });
    let _node = node.start().expect("starts");
    let gate = cluster
        .gate()
        .listen("tcp://127.0.0.1:0")
        .start()
        .expect("starts");
    let site = site(&cluster);
    let (heard, hears) = mpsc::channel();
    let client = Client::builder().route(9, move |_, packet| {
        let _ = heard.send(packet.data.to_vec());
    });
    let client = client
        .connect(gate.client_addrs()[0].to_string())
        .expect("connects");
    client.request(2, "").expect("logs in");
    let user = [("X-User", "7")];
    assert_eq!(
        site.ask("POST", "/api/push/7", &user, "{\"a\":1}"),
        (200, json!(1))
    );
    assert_eq!(hears.recv_timeout(LONG).expect("comes"), b"{\"a\":1}");
    assert_eq!(hears.recv_timeout(LONG).expect("comes"), b"\"all\"");
    assert_eq!(site.ask("POST", "/api/push/8", &user, "1").0, 404);
}

/// A registry and a locator whose calls panic.
struct Broken;

impl Registry for Broken {
    fn register(&self, _: &Instance) -> Result<(), Error> {
        panic!("on purpose")
    }

    fn deregister(&self, _: &Instance) -> Result<(), Error> {
        panic!("on purpose")
    }

    fn services(&self, _: &str) -> Result<Vec<Instance>, Error> {
        panic!("on purpose")
    }

    fn watch(&self, _: &str) -> Result<Watch<Vec<Instance>>, Error> {
        panic!("on purpose")
    }
}

#[test]
fn a_registry_that_panics_is_an_error_of_the_start() {
    expect_panics();
    let server = HttpServer::builder().listen("tcp://127.0.0.1:0");
    let error = server.registry(Broken).start().expect_err("it panics");
    assert!(error.to_string().contains("registry"), "{error}");
}

/// A configuration of these lines.
fn config(text: &str) -> Config {
    let dir = tempfile::tempdir().expect("is made");
    fs::write(dir.path().join("etc.toml"), text).expect("is written");
    let flag = format!("--etc={}", dir.path().display());
    Config::read([], [flag]).expect("is sound")
}

#[test]
fn the_server_takes_the_configuration_of_due() {
    let config = config(
        r#"
        [http]
        addr = "127.0.0.1:0"
        bodyLimit = "1K"
        concurrency = 7
        console = true
        [http.cors]
        enable = true
        allowOrigins = ["https://a.example"]
        [http.swagger]
        enable = true
        title = "Games"
        basePath = "/about"
        "#,
    );
    assert_eq!(config.warnings().len(), 1, "{:?}", config.warnings());
    assert!(config.warnings()[0].contains("http.console has no effect"));
    let server = HttpServer::builder().config(&config).expect("is right");
    let server = server.routes(|routes| {
        routes.post("/len", |request| HttpReply::json(&request.body().len()));
    });
    let site = Site {
        server: server.start().expect("starts"),
        client: Fetcher::new().expect("starts"),
    };
    assert_eq!(
        site.ask("POST", "/len", &[], &"x".repeat(1024)),
        (200, json!(1024))
    );
    assert_eq!(site.raw("POST", "/len", &[], &"x".repeat(1025)).0, 413);
    let allowed = |origin: &str| {
        let answer = site.send("POST", "/len", &[("Origin", origin)], "x");
        answer.headers().contains_key("Access-Control-Allow-Origin")
    };
    assert!(allowed("https://a.example") && !allowed("https://b.example"));
    assert_eq!(
        site.ask("GET", "/about.json", &[], "").1["info"]["title"],
        "Games"
    );
}

#[cfg(feature = "tls")]
#[test]
fn the_server_speaks_tls_as_configured() {
    use epicycle::tls::{Roots, TlsClient};

    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("is made");
    let (cert, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let dir = tempfile::tempdir().expect("is made");
    let files = ["cert.pem", "key.pem"].map(|name| dir.path().join(name));
    fs::write(&files[0], &cert).expect("is written");
    fs::write(&files[1], key).expect("is written");
    let half = format!(
        "[http]\naddr = \"127.0.0.1:0\"\ncertFile = \"{}\"\n",
        files[0].display()
    );
    let error = HttpServer::builder()
        .config(&config(&half))
        .expect_err("lacks the key");
    assert!(error.to_string().contains("keyFile"), "{error}");

    let whole = format!("{half}keyFile = \"{}\"\n", files[1].display());
    let server = HttpServer::builder()
        .config(&config(&whole))
        .expect("is right");
    let server = server.routes(|routes| {
        routes.get("/", |_| Ok(HttpReply::text("secret")));
    });
    let server = server.start().expect("starts");
    let roots = Roots::from_pem(cert.as_bytes()).expect("is right");
    let tls = TlsClient::new(&roots).expect("is right");
    let client = Fetcher::builder().tls(&tls).start().expect("starts");
    let ask = |scheme: &str| {
        let request = client.request("GET", format!("{scheme}://{}/", server.addr()));
        request.timeout(LONG).send()
    };
    assert_eq!(ask("https").expect("is answered").body(), "secret");
    assert!(ask("http").is_err());
}

#[test]
fn a_container_can_start_and_end_the_server() {
    let http = HttpServer::builder().listen("tcp://127.0.0.1:0");
    let http = http.routes(|routes| {
        routes.get("/", |_| Ok(HttpReply::text("here")));
    });
    let mut component = http.into_component();
    component.start().expect("starts");
    let banner = component.banner();
    assert_eq!(banner[0].0, "HTTP");
    let url = format!("http://{}/", banner[0].1);
    assert_eq!(fetch::get(&url).expect("is answered").body(), "here");
    component.close(LONG).expect("ends");
    assert!(fetch::get(&url).is_err());
}

#[test]
fn a_route_that_cannot_be_is_told_at_the_start() {
    let twice = HttpServer::builder()
        .listen("tcp://127.0.0.1:0")
        .routes(|routes| {
            routes.get("/a", |_| Ok(HttpReply::text("")));
            routes.get("/a", |_| Ok(HttpReply::text("")));
        });
    let error = twice.start().expect_err("is twice there");
    assert!(error.to_string().contains("/a"), "{error}");
}

#[test]
fn clients_are_not_told_where_other_servers_are() {
    let lost = Error::Backend {
        backend: "redis",
        problem: "10.0.0.7:6379: connection refused".to_owned(),
    };
    let down = Error::LinkDown {
        peer: "10.0.0.7:6379".to_owned(),
    };
    for error in [lost, down] {
        let told = HttpError::from(error);
        assert_eq!(told.status, 502);
        assert!(!told.problem.contains("10.0.0.7"), "{}", told.problem);
    }
    let busy = HttpError::from(Error::Busy { what: "queue" });
    assert!(busy.status == 503 && busy.problem.contains("queue"));
}
