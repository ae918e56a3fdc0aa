//! CALLs by HTTP.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::Shutdown;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use epicycle::http::{ServerRequest, StatusCode};
use epicycle::rpc::plugins::auth::Verify;
use epicycle::rpc::wire::{Html, Limits, Pb};
use epicycle::rpc::{Codec, Http, Peer, ProtocolChoice, Reply, Responder, Router};
use epicycle::rpc::{Status, WebSocket, code};

use crate::ends::{serving, start};
use crate::util::{eventually, expect_panics};
use crate::websocket::Plain;

fn routes() -> Router {
    let mut routes = Router::new();
    routes.call("/math/add", |_ctx, numbers: Vec<i64>| {
        Ok(numbers.iter().sum::<i64>())
    });
    routes.call("/query", |ctx, _: ()| {
        Ok(ctx.query("a").unwrap_or_default())
    });
    routes.call("/echo", |_ctx, body: BTreeMap<String, String>| Ok(body));
    routes.call("/text", |_ctx, text: String| Ok(text));
    routes.call("/pb", |_ctx, Pb(number): Pb<i64>| Ok(Pb(number + 1)));
    routes.call("/page", |_ctx, _: ()| Ok(Html("<h1>hi</h1>".to_owned())));
    routes.call_async("/page/async", |_ctx, _: ()| async {
        Ok(Html("<h1>hi</h1>".to_owned()))
    });
    routes.call_later("/page/later", |_ctx, _: (), reply: Responder<Html>| {
        reply.send(Ok(Html("<h1>hi</h1>".to_owned())));
    });
    routes.call("/meta", |ctx, _: ()| {
        let call = ctx.incoming();
        let meta = call.meta().iter();
        Ok(meta
            .map(|(key, value)| {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                (text(&key), text(&value))
            })
            .collect::<BTreeMap<_, _>>())
    });
    routes.call("/headers", |ctx, _: ()| {
        for (key, value) in [
            ("X-Own", "fine"),
            ("X-Split", "a\r\nX-Injected: 1"),
            ("X-Bad\r\nName", "1"),
            ("Connection", "upgrade"),
            ("Content-Length", "100"),
            ("Transfer-Encoding", "chunked"),
            ("Host", "evil.example"),
            ("Cookie", "secret=1"),
            ("Authorization", "secret"),
            ("Content-Type", "application/x-own"),
            ("", "nameless"),
        ] {
            ctx.add_reply_meta(key, value);
        }
        Ok("body")
    });
    routes.call("/fail", |_ctx, code: i32| -> Result<(), Status> {
        Err(Status::new(code, "failed").with_reason("on purpose\r\nX-Injected: 1"))
    });
    routes.call("/panic", |_ctx, _: ()| -> Result<(), Status> {
        std::panic::panic_any("boom")
    });
    routes.call_blocking("/slow", |_ctx, millis: u64| {
        thread::sleep(Duration::from_millis(millis));
        Ok(millis)
    });
    routes.call_later("/never", |ctx, _: (), reply: Responder<()>| {
        ctx.session().on_close(move || drop(reply));
    });
    routes.call("/push", |ctx, _: ()| ctx.session().push("/note", &"hi"));
    routes.call_async("/call", |ctx, _: ()| async move {
        ctx.session().call::<_, String>("/name", &()).await
    });
    routes
}

fn server() -> Peer {
    start(serving(Http::new(), routes()))
}

/// The head and the body of an answer.
#[derive(Debug)]
struct Answer {
    head: String,
    body: String,
}

impl Answer {
    fn status(&self) -> u16 {
        let status = self.head.split(' ').nth(1).expect("has a status");
        status.parse().expect("is a number")
    }

    fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines
            .find(|(other, _)| other.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }
}

impl Plain {
    fn answer(&mut self) -> Answer {
        let head = self.head();
        let mut answer = Answer {
            head,
            body: String::new(),
        };
        let len = answer
            .header("Content-Length")
            .map_or(0, |len| len.parse().expect("is a number"));
        answer.body = String::from_utf8(self.read(len)).expect("is text");
        answer
    }

    fn ask(&mut self, method: &str, target: &str, headers: &str, body: &str) -> Answer {
        let len = match body {
            "" => String::new(),
            body => format!("Content-Length: {}\r\n", body.len()),
        };
        self.send(format!(
            "{method} {target} HTTP/1.1\r\nHost: a\r\n{headers}{len}\r\n{body}"
        ));
        self.answer()
    }

    fn get(&mut self, target: &str) -> Answer {
        self.ask("GET", target, "", "")
    }

    fn post(&mut self, target: &str, media: &str, body: &str) -> Answer {
        self.ask("POST", target, &format!("Content-Type: {media}\r\n"), body)
    }
}

#[test]
fn a_route_is_called_by_get_and_post_and_bodies_are_in_the_codec_of_their_type() {
    let server = server();
    let mut client = Plain::to(&server);
    let sum = client.post("/math/add", "application/json; charset=utf-8", "[1,2]");
    assert_eq!((sum.status(), &*sum.body), (200, "3"), "{sum:?}");
    assert_eq!(sum.header("Content-Type"), Some("application/json"));
    // Without a type it is JSON.
    assert_eq!(client.ask("POST", "/math/add", "", "[2,3]").body, "5");
    let query = client.get("/query?a=b%20c&d=e");
    assert_eq!(
        (query.status(), &*query.body),
        (200, "\"b c\""),
        "{query:?}"
    );
    let form = client.post("/echo", "application/x-www-form-urlencoded", "a=1&b=x+y");
    assert_eq!(form.body, r#"{"a":"1","b":"x y"}"#);
    let text = client.post("/text", "text/plain", "hello");
    assert_eq!(text.body, "\"hello\"");
    let number = client.post("/pb", "application/x-protobuf", "\x08\x01");
    assert_eq!(
        (&*number.body, number.header("Content-Type")),
        ("\x08\x02", Some("application/protobuf"))
    );

    let accepting = |client: &mut Plain, accept: &str| {
        let headers = format!("Content-Type: application/json\r\nAccept: {accept}\r\n");
        let answer = client.ask("POST", "/echo", &headers, r#"{"a":"1"}"#);
        (
            answer.header("Content-Type").unwrap_or_default().to_owned(),
            answer.body,
        )
    };
    let form = (
        "application/x-www-form-urlencoded".to_owned(),
        "a=1".to_owned(),
    );
    let json = ("application/json".to_owned(), r#"{"a":"1"}"#.to_owned());
    for accept in [
        "application/x-www-form-urlencoded",
        "application/json;q=0.1, application/x-www-form-urlencoded",
        "text/html, application/x-www-form-urlencoded;q=0.9, */*;q=0.8",
    ] {
        assert_eq!(accepting(&mut client, accept), form, "{accept}");
    }
    for accept in [
        "*/*",
        "image/png",
        "text/html,*/*;q=0.8",
        "application/json",
        "nonsense;q=x",
    ] {
        assert_eq!(accepting(&mut client, accept), json, "{accept}");
    }
    let head = client.ask("GET", "/text", "Accept: text/plain\r\n", "");
    assert_eq!(head.status(), 400, "{head:?}");
    client.send("HEAD /query?a=x HTTP/1.1\r\nHost: a\r\n\r\n");
    let head = client.head();
    assert!(
        head.starts_with("HTTP/1.1 200 ") && head.contains("Content-Length: 3\r\n"),
        "{head}"
    );
    assert_eq!(client.get("/query?a=y").body, "\"y\"");
}

#[test]
fn an_error_is_a_status_with_its_json() {
    expect_panics();
    let server = server();
    let mut client = Plain::to(&server);
    let missing = client.get("/nowhere");
    assert_eq!(
        (missing.status(), &*missing.body),
        (404, r#"{"code":404,"message":"Not Found"}"#)
    );
    assert_eq!(missing.header("Content-Type"), Some("application/json"));
    for (code, status) in [
        (400, 400),
        (401, 401),
        (408, 408),
        (429, 429),
        (499, 499),
        (503, 503),
        (599, 599),
        (code::CONNECTION_CLOSED, 503),
        (code::WRITE_FAILED, 502),
        (code::DIAL_FAILED, 502),
        (code::UNKNOWN_ERROR, 500),
        (200, 500),
        (304, 500),
        (600, 500),
        (1001, 500),
        (i32::MIN, 500),
    ] {
        let failed = client.post("/fail", "application/json", &code.to_string());
        assert_eq!(failed.status(), status, "{code}");
        let body: Status = serde_json::from_str(&failed.body).expect("is JSON");
        assert_eq!(
            (body.code, &*body.reason),
            (code, "on purpose\r\nX-Injected: 1")
        );
        assert_eq!(failed.header("X-Injected"), None);
        assert_eq!(failed.header("X-Reply-Error"), None);
    }
    assert_eq!(
        client
            .post("/math/add", "application/json", "no numbers")
            .status(),
        400
    );
    assert_eq!(client.get("/panic").status(), 500);
    assert_eq!(client.post("/math/add", "image/png", "[1]").status(), 415);
    let zipped = "Content-Type: application/json\r\nContent-Encoding: gzip\r\n";
    assert_eq!(client.ask("POST", "/math/add", zipped, "[1]").status(), 415);
    let wrong = client.ask("DELETE", "/math/add", "", "");
    assert_eq!(
        (wrong.status(), wrong.header("Allow")),
        (405, Some("GET, HEAD, POST, OPTIONS"))
    );
    // All of that was on one connection.
    assert_eq!(
        client.post("/math/add", "application/json", "[1]").body,
        "1"
    );
    assert_eq!(server.session_count(), 1);
}

#[test]
fn headers_are_metadata_and_back_and_nothing_is_smuggled() {
    let server = server();
    let mut client = Plain::to(&server);
    let headers = "x-own-thing: a\r\nTRACEPARENT: 00-1\r\nX-REAL-IP: 10.0.0.1\r\nX-Stream: 8\r\n\
        X-Stream-Id: 1\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\nTE: trailers\r\nX-Timeout: 5000\r\n";
    let meta = client.ask("GET", "/meta", headers, "");
    let meta: BTreeMap<String, String> = serde_json::from_str(&meta.body).expect("is JSON");
    let expected = [
        ("X-Own-Thing", "a"),
        ("traceparent", "00-1"),
        ("X-Real-IP", "10.0.0.1"),
        ("X-Timeout", "5000"),
        ("X-Accept-Body-Codec", "106"),
    ];
    let expected = expected.map(|(key, value)| (key.to_owned(), value.to_owned()));
    assert_eq!(meta, BTreeMap::from(expected));

    let answer = client.get("/headers");
    assert_eq!((answer.status(), &*answer.body), (200, "\"body\""));
    assert_eq!(answer.header("X-Own"), Some("fine"));
    assert_eq!(answer.header("Content-Type"), Some("application/x-own"));
    assert_eq!(answer.header("X-Content-Type-Options"), Some("nosniff"));
    for name in [
        "X-Split",
        "X-Injected",
        "Connection",
        "Transfer-Encoding",
        "Host",
        "Cookie",
        "Authorization",
    ] {
        assert_eq!(answer.header(name), None, "{name}");
    }
    assert_eq!(answer.head.matches("Content-Length").count(), 1);
    assert_eq!(client.get("/query?a=x").body, "\"x\"");
}

#[test]
fn html_is_a_page_over_http_and_metadata_elsewhere() {
    let server = start(serving(
        ProtocolChoice::raw().or_http(Http::new()),
        routes(),
    ));
    let mut client = Plain::to(&server);
    let peer = start(Peer::builder().reactors(1));
    let session = peer.dial(&server.local_addrs()[0]).expect("connects");
    for path in ["/page", "/page/async", "/page/later"] {
        let page = client.ask("GET", path, "Accept: text/html,*/*;q=0.8\r\n", "");
        assert_eq!(
            page.header("Content-Type"),
            Some("text/html; charset=utf-8"),
            "{path}"
        );
        assert_eq!(page.body, "<h1>hi</h1>");
        let reply: Reply<String> = session.call(path, &()).wait().expect("succeeds");
        assert_eq!((&*reply.body, reply.codec), ("<h1>hi</h1>", Codec::PLAIN));
        let media = reply
            .meta
            .get_str("Content-Type")
            .map(std::borrow::Cow::into_owned);
        assert_eq!(media.as_deref(), Some("text/html; charset=utf-8"), "{path}");
    }
}

#[test]
fn pipelined_requests_are_answered_in_order_whatever_their_handlers_are() {
    let server = server();
    let mut client = Plain::to(&server);
    let mut requests = String::new();
    for millis in [100, 1, 50] {
        let body = format!("{millis}");
        let len = body.len();
        requests +=
            &format!("POST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: {len}\r\n\r\n{body}");
        requests += &format!("GET /query?a={millis} HTTP/1.1\r\nHost: a\r\n\r\n");
        requests += "PUT /slow HTTP/1.1\r\nHost: a\r\n\r\n";
    }
    client.send(requests);
    for millis in [100, 1, 50] {
        assert_eq!(client.answer().body, format!("{millis}"));
        assert_eq!(client.answer().body, format!("\"{millis}\""));
        assert_eq!(client.answer().status(), 405);
    }
    // The end of the client's stream does not cost it the answer.
    client.send("POST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n200");
    client.0.shutdown(Shutdown::Write).expect("ends");
    assert_eq!(client.answer().body, "200");
    assert_eq!(client.rest(), b"");
}

#[test]
fn a_deadline_in_a_header_ends_a_call() {
    let server = server();
    let mut client = Plain::to(&server);
    let late = client.ask("GET", "/never", "X-Timeout: 50\r\n", "");
    assert_eq!(late.status(), 408, "{late:?}");
    assert_eq!(client.get("/query?a=x").body, "\"x\"");
}

#[test]
fn a_session_over_http_is_neither_called_nor_pushed_to() {
    let server = server();
    let mut client = Plain::to(&server);
    for path in ["/push", "/call"] {
        let failed = client.get(path);
        assert_eq!(failed.status(), 502);
        assert!(
            failed.body.contains("a session over HTTP only answers"),
            "{failed:?}"
        );
    }
    let session = server.sessions().remove(0);
    let failed = session.push("/note", "hi").expect_err("fails");
    assert_eq!(failed.code, code::WRITE_FAILED);
    let failed = session
        .call::<_, ()>("/note", "hi")
        .wait()
        .expect_err("fails");
    assert_eq!(failed.code, code::WRITE_FAILED);
    // A broadcast does not reach it either, and harms nothing.
    server.broadcast("/note", "hi").expect("is sent");
    assert_eq!(client.get("/query?a=x").body, "\"x\"");
}

#[test]
fn pages_of_other_origins_are_served_only_if_they_are_listed() {
    let server = start(serving(
        Http::new().origins(["https://good.example"]),
        routes(),
    ));
    let mut client = Plain::to(&server);
    let mut status = |headers: &str| client.ask("POST", "/math/add", headers, "[1]").status();
    assert_eq!(status(""), 200);
    assert_eq!(status("Origin: http://a\r\n"), 200);
    assert_eq!(status("Origin: https://good.example\r\n"), 200);
    assert_eq!(status("Origin: https://bad.example\r\n"), 403);
    assert_eq!(status("Origin: https://good.example.bad.example\r\n"), 403);
    assert_eq!(status("Origin: null\r\n"), 403);
    assert_eq!(
        status("Origin: http://a\r\nOrigin: https://bad.example\r\n"),
        403
    );
    assert_eq!(status("Sec-Fetch-Site: same-origin\r\n"), 200);
    assert_eq!(status("Sec-Fetch-Site: none\r\n"), 200);
    assert_eq!(status("Sec-Fetch-Site: cross-site\r\n"), 403);
    assert_eq!(status("Sec-Fetch-Site: same-site\r\n"), 403);

    let good = "Origin: https://good.example\r\n";
    let answer = client.ask("POST", "/math/add", good, "[1]");
    assert_eq!(
        answer.header("Access-Control-Allow-Origin"),
        Some("https://good.example")
    );
    assert_eq!(answer.header("Vary"), Some("Origin"));
    let asked = format!(
        "{good}Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: content-type\r\n"
    );
    let allowed = client.ask("OPTIONS", "/math/add", &asked, "");
    assert_eq!(allowed.status(), 204);
    assert_eq!(
        allowed.header("Access-Control-Allow-Origin"),
        Some("https://good.example")
    );
    assert_eq!(
        allowed.header("Access-Control-Allow-Headers"),
        Some("content-type")
    );
    let refused = client.ask(
        "OPTIONS",
        "/math/add",
        "Origin: https://bad.example\r\n",
        "",
    );
    assert_eq!(
        (
            refused.status(),
            refused.header("Access-Control-Allow-Origin")
        ),
        (403, None)
    );
    assert_eq!(client.ask("OPTIONS", "/math/add", "", "").status(), 204);
    assert_eq!(
        client
            .get("/query?a=x")
            .header("Access-Control-Allow-Origin"),
        None
    );

    let anybody = start(serving(Http::new().any_origin(), routes()));
    let mut client = Plain::to(&anybody);
    let answer = client.ask(
        "POST",
        "/math/add",
        "Origin: https://any.example\r\n",
        "[1]",
    );
    assert_eq!(
        answer.header("Access-Control-Allow-Origin"),
        Some("https://any.example")
    );
}

#[test]
fn a_check_sees_each_request_and_may_refuse_it() {
    let http = Http::new().origins(["https://good.example"]);
    let http = http.check(|request| match request.header("authorization") {
        Some("Bearer right") => Ok(()),
        _ => Err(StatusCode::UNAUTHORIZED),
    });
    let server = start(serving(http, routes()));
    let mut client = Plain::to(&server);
    let refused = client.get("/query?a=x");
    assert_eq!(
        (refused.status(), &*refused.body),
        (401, r#"{"code":401,"message":"Unauthorized"}"#)
    );
    assert_eq!(server.session_count(), 0);
    let right = "Authorization: Bearer right\r\n";
    assert_eq!(client.ask("GET", "/query?a=x", right, "").body, "\"x\"");
    assert_eq!(client.get("/query?a=x").status(), 401);
    // A browser asks first, without credentials, and lets the page see a refusal.
    let page = "Origin: https://good.example\r\n";
    let asked = format!("{page}Access-Control-Request-Method: GET\r\n");
    assert_eq!(
        client.ask("OPTIONS", "/query?a=x", &asked, "").status(),
        204
    );
    let refused = client.ask("GET", "/query?a=x", page, "");
    let shown_to = refused.header("Access-Control-Allow-Origin");
    assert_eq!(
        (refused.status(), shown_to),
        (401, Some("https://good.example"))
    );
}

#[test]
fn a_plugin_that_authenticates_sees_the_first_request() {
    let verify = Verify::new(|token, _session| match token {
        "right" => Ok(()),
        _ => Err(Status::new(403, "wrong")),
    });
    let server = start(serving(Http::new(), routes()).plugin(verify));
    let mut client = Plain::to(&server);
    assert_eq!(client.get("/query?a=x").status(), 401);
    assert_eq!(client.rest(), b"");
    let mut client = Plain::to(&server);
    assert_eq!(
        client.post("/auth/verify", "text/plain", "wrong").status(),
        403
    );
    assert_eq!(client.rest(), b"");
    let mut client = Plain::to(&server);
    assert_eq!(
        client.post("/auth/verify", "text/plain", "right").status(),
        200
    );
    assert_eq!(client.get("/query?a=x").body, "\"x\"");
}

#[test]
fn bodies_above_the_limit_get_413_and_nonsense_400() {
    let mut limits = Limits::default();
    limits.message = 100_000;
    for (http, max) in [(Http::new(), 100_000), (Http::new().max_body(5000), 5000)] {
        let server = start(serving(http, routes()).limits(limits.clone()));
        let mut client = Plain::to(&server);
        let text = format!("\"{}\"", "x".repeat(max - 2));
        assert_eq!(client.post("/text", "application/json", &text).body, text);
        client.send(format!(
            "POST /text HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n",
            max + 1
        ));
        assert_eq!(client.answer().status(), 413);
        assert_eq!(client.rest(), b"");
    }
    let server = server();
    let mut client = Plain::to(&server);
    client.send("NONSENSE\r\n\r\n");
    assert_eq!(client.answer().status(), 400);
    let mut client = Plain::to(&server);
    client.send("GET / HTTP/1.1\r\n\r\n");
    assert_eq!(client.answer().status(), 400);
    assert_eq!(client.rest(), b"");
}

#[test]
fn old_clients_and_those_that_expect_a_continue_are_served() {
    let server = server();
    let mut client = Plain::to(&server);
    client.send(
        "POST /math/add HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n",
    );
    assert_eq!(client.head(), "HTTP/1.1 100 Continue\r\n\r\n");
    client.send("[1,2]");
    assert_eq!(client.answer().body, "3");
    client.send("POST /math/add HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n[1\r\n3\r\n,2]\r\n0\r\n\r\n");
    assert_eq!(client.answer().body, "3");
    let mut old = Plain::to(&server);
    old.send("GET /query?a=x HTTP/1.0\r\n\r\n");
    assert_eq!(old.answer().body, "\"x\"");
    assert_eq!(old.rest(), b"");
}

#[test]
fn a_shutdown_waits_for_the_answer_and_says_that_it_is_the_last() {
    let server = server();
    let mut client = Plain::to(&server);
    client.send("POST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n300");
    eventually("the call is under way", || {
        let stats = server.stats();
        stats
            .call("/slow")
            .is_some_and(|slow| slow.stats.in_flight() == 1)
    });
    server.shutdown();
    let answer = client.answer();
    assert_eq!(
        (&*answer.body, answer.header("Connection")),
        ("300", Some("close"))
    );
    assert_eq!(client.rest(), b"");
}

#[test]
fn a_peer_cannot_dial_http() {
    let server = server();
    let client = start(Peer::builder().reactors(1));
    let failed = client
        .dial_with(&server.local_addrs()[0], Http::new())
        .expect_err("fails");
    assert_eq!(failed.code, code::DIAL_FAILED);
    assert!(failed.reason.contains("HTTP"), "{failed}");
}

#[test]
fn curl_calls_routes() {
    let server = start(serving(
        ProtocolChoice::raw().or_http(Http::new()),
        routes(),
    ));
    let url = |path: &str| format!("http://{}{path}", server.local_addrs()[0]);
    let Ok(version) = Command::new("curl").arg("--version").output() else {
        return crate::util::skipped("curl is not installed");
    };
    assert!(version.status.success());
    let curl = |arguments: &[&str], input: &str| {
        let mut curl = Command::new("curl")
            .args(["-sS", "--max-time", "10"])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("runs");
        let mut stdin = curl.stdin.take().expect("is piped");
        stdin.write_all(input.as_bytes()).expect("is sent");
        drop(stdin);
        let output = curl.wait_with_output().expect("ends");
        String::from_utf8(output.stdout).expect("is text")
    };
    let json = "Content-Type: application/json";
    assert_eq!(
        curl(&["-H", json, "-d", "[1,2,3]", &url("/math/add")], ""),
        "6"
    );
    assert_eq!(
        curl(&["-d", "a=1", "-d", "b=2", &url("/echo")], ""),
        r#"{"a":"1","b":"2"}"#
    );
    let long = format!("\"{}\"", "x".repeat(100_000));
    assert_eq!(
        curl(&["-H", json, "--data-binary", "@-", &url("/text")], &long),
        long
    );
    let codes = ["-o", "/dev/null", "-w", "%{http_code} "];
    let (first, second) = (url("/nowhere"), url("/query?a=b"));
    let two = [&codes[..], &[&first], &codes, &[&second]].concat();
    assert_eq!(curl(&two, ""), "404 200 ");
    assert_eq!(
        curl(&["-I", &url("/page")], "").lines().next(),
        Some("HTTP/1.1 200 OK")
    );
}

#[test]
fn two_slashes_in_a_request_are_no_host() {
    let mut routes = routes();
    routes.unknown_call(|ctx, _, out| {
        out.extend_from_slice(format!("\"{}\"", ctx.path()).as_bytes());
        Ok(())
    });
    let http = Http::new().check(|request| match request.path().starts_with("/math") {
        true => Err(StatusCode::UNAUTHORIZED),
        false => Ok(()),
    });
    let server = start(serving(http, routes));
    let mut client = Plain::to(&server);
    assert_eq!(client.get("/math/add").status(), 401);
    for target in ["//x/math/add", "http://a//x/math/add", "//x/math/add?a=b"] {
        assert_eq!(client.get(target).body, "\"//x/math/add\"", "{target}");
    }
    assert_eq!(client.get("///").body, "\"///\"");
    assert_eq!(client.get("//").body, "\"//\"");
}

#[test]
fn a_check_that_panics_costs_one_request() {
    expect_panics();
    let check = |request: &ServerRequest<'_>| {
        assert!(request.query() != Some("panic"), "on purpose");
        Ok(())
    };
    let socket = WebSocket::json("/ws").check(check);
    let http = Http::new().check(check).websocket(socket);
    let server = start(serving(http, routes()));
    let mut client = Plain::to(&server);
    client.send(
        "GET /query?panic HTTP/1.1\r\nHost: a\r\n\r\nGET /query?a=x HTTP/1.1\r\nHost: a\r\n\r\n",
    );
    let refused = client.answer();
    assert_eq!(
        (refused.status(), &*refused.body),
        (500, r#"{"code":500,"message":"Internal Server Error"}"#)
    );
    assert_eq!(client.answer().body, "\"x\"");
    let mut client = Plain::to(&server);
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    assert_eq!(client.ask("GET", "/ws?panic", upgrade, "").status(), 500);
    assert_eq!(client.ask("GET", "/ws", upgrade, "").status(), 101);
}

#[test]
fn a_head_is_answered_without_a_body() {
    let server = server();
    let mut client = Plain::to(&server);
    client.send("HEAD /query?a=x HTTP/1.1\r\nHost: a\r\n\r\nHEAD /no HTTP/1.1\r\nHost: a\r\n\r\n");
    let head = client.head();
    assert!(
        head.starts_with("HTTP/1.1 200 ") && head.contains("Content-Length: 3"),
        "{head}"
    );
    let head = client.head();
    assert!(head.starts_with("HTTP/1.1 404 "), "{head}");
    assert_eq!(client.get("/query?a=y").body, "\"y\"");
}
