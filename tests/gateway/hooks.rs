//! The hooks: what they see, what they may change, and what their failures cost.

use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use epicycle::gateway::settings::{ListenerSettings, PoolSettings, RouteSettings};
use epicycle::gateway::{
    EndedBy, Hooks, ProxyError, Record, Reply, RequestHead, ResponseHead, Running, Verdict,
};
use epicycle::http::{HeaderBlock, StatusCode};

use crate::peers::{Asker, Deed, Origin, builder, figure, idle, ok, pool_of, with_listener};
use crate::util::{eventually, expect_panics};

/// The status, the target, who ended it, and the tries.
type Done = (u16, String, EndedBy, u32);

/// Hooks that note what they see, and do what the request's target says.
#[derive(Clone, Default)]
struct Noting {
    seen: Arc<Mutex<Vec<String>>>,
    done: Arc<Mutex<Vec<Done>>>,
}

impl Noting {
    fn note(&self, what: String) {
        self.seen.lock().expect("sound").push(what);
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().expect("sound").clone()
    }

    fn done(&self) -> Vec<Done> {
        self.done.lock().expect("sound").clone()
    }
}

impl Hooks for Noting {
    type Exchange = String;

    fn on_request(&mut self, request: &mut RequestHead<'_>, path: &mut String) -> Verdict {
        request.path().clone_into(path);
        self.note(format!("request {} {}", request.method(), request.target()));
        match &**path {
            "/panic" => panic!("on purpose"),
            "/change" => {
                request.set_method("PUT");
                request.set_target("/changed?yes");
                request.set_host("other.test");
                request.fields().set("X-Set", "1").expect("is sound");
                request.fields().remove("X-Gone");
                assert!(request.fields().set("X-Bad", "a\r\nb").is_err());
                assert_eq!(request.client(), Some(IpAddr::from([127, 0, 0, 1])));
                Verdict::Forward
            }
            "/answer" => Verdict::Answer(Reply::text(StatusCode::IM_A_TEAPOT, "tea")),
            "/close" => Verdict::Close,
            "/pool" => Verdict::Pool("other".to_owned()),
            "/no-pool" => Verdict::Pool("nowhere".to_owned()),
            "/route" => Verdict::Route("other".to_owned()),
            "/node" => {
                let node = request.field("x-node").unwrap_or_default();
                Verdict::Node(String::from_utf8_lossy(node).into_owned())
            }
            "/no-node" => Verdict::Node("http://192.0.2.1".to_owned()),
            "/bad-target" => {
                request.set_target("/a b\r\nX: y");
                Verdict::Forward
            }
            _ => Verdict::Forward,
        }
    }

    fn on_response(
        &mut self,
        response: &mut ResponseHead<'_>,
        path: &mut String,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        self.note(format!("response {}", response.status()));
        match &**path {
            "/panic-late" => panic!("on purpose"),
            "/change" => {
                response.set_status(StatusCode::ACCEPTED);
                response.fields().set("X-Response", "2")?;
                response.fields().remove("Server");
            }
            "/refuse" | "/refuse-long" | "/panic-in-error" => {
                return Err("it is not to my taste".into());
            }
            _ => {}
        }
        Ok(())
    }

    fn on_error(&mut self, error: &ProxyError, path: &mut String) -> Reply {
        self.note(format!("error {}", error.status()));
        match &**path {
            "/panic-in-error" => panic!("on purpose"),
            "/refuse" => Reply::text(StatusCode::GONE, "refused"),
            _ => error.reply(),
        }
    }

    fn on_interim(&mut self, status: StatusCode, _: &HeaderBlock, path: &mut String) {
        self.note(format!("interim {}", status.as_u16()));
        assert_ne!(path, "/panic-in-interim", "on purpose");
    }

    fn on_request_part(&mut self, part: &[u8], path: &mut String) {
        self.note(format!("sent {}", part.len()));
        assert_ne!(path, "/panic-in-upload", "on purpose");
    }

    fn on_upgrade(&mut self, protocol: &str, path: &mut String) {
        self.note(format!("upgrade {protocol}"));
        assert_ne!(path, "/panic-in-upgrade", "on purpose");
    }

    fn on_response_part(&mut self, part: &[u8], path: &mut String) {
        self.note(format!("received {}", part.len()));
        if path == "/panic-in-body" {
            panic!("on purpose");
        }
    }

    fn on_done(&mut self, record: &Record<'_>, path: &mut String) {
        let entry = (
            record.status,
            record.target.to_owned(),
            record.ended_by,
            record.tries,
        );
        self.done.lock().expect("sound").push(entry);
        assert_ne!(path, "/panic-when-done", "on purpose");
    }
}

fn start(origin: &Origin) -> (Running<Noting>, Noting) {
    let hooks = Noting::default();
    let made = hooks.clone();
    let other = Origin::start(|_, _| ok("other"));
    let mut named = RouteSettings::to("other").path("/only-by-name");
    named.name = Some("other".to_owned());
    let gateway = builder(pool_of(origin))
        .pool("other", PoolSettings::of([other.url()]))
        .route(RouteSettings::to("app"))
        .route(named);
    let gateway = gateway.build().expect("is sound");
    (
        gateway.start(move |_| made.clone()).expect("it starts"),
        hooks,
    )
}

#[test]
fn hooks_see_each_part_of_an_exchange_in_order() {
    let origin = Origin::start(|_, _| {
        Deed::Send(
            b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
                .to_vec(),
        )
    });
    let (gateway, hooks) = start(&origin);
    let mut client = Asker::to(&gateway);
    client.send("POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc");
    assert_eq!(client.response().expect("the hints").status(), 103);
    assert_eq!(client.response().expect("the response").text(), "ok");
    eventually("it is done", || !hooks.done().is_empty());
    let seen = [
        "request POST /x",
        "sent 3",
        "interim 103",
        "response 200 OK",
        "received 2",
    ];
    assert_eq!(hooks.seen(), seen);
    assert_eq!(hooks.done(), [(200, "/x".to_owned(), EndedBy::Nobody, 1)]);
}

#[test]
fn an_upload_that_becomes_too_long_is_a_413_in_its_record() {
    let origin = Origin::start(|_, request| ok(&request.body));
    let hooks = Noting::default();
    let made = hooks.clone();
    let mut listener = ListenerSettings::new("tcp://127.0.0.1:0");
    listener.limits.max_body = 4;
    let gateway = with_listener(listener, pool_of(&origin)).route(RouteSettings::to("app"));
    let gateway = gateway.build().expect("is sound");
    let gateway = gateway.start(move |_| made.clone()).expect("it starts");
    let mut client = Asker::to(&gateway);
    client.send("POST /up HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
    eventually("a part has passed", || {
        hooks.seen().contains(&"sent 3".to_owned())
    });
    client.send("2\r\nde\r\n0\r\n\r\n");
    assert_eq!(client.response().expect("the refusal").status(), 413);
    eventually("it is done", || !hooks.done().is_empty());
    assert_eq!(hooks.done(), [(413, "/up".to_owned(), EndedBy::Gateway, 1)]);
}

#[test]
fn hooks_change_requests_and_responses() {
    let origin = Origin::start(|_, _| {
        Deed::Send(b"HTTP/1.1 200 OK\r\nServer: s\r\nContent-Length: 2\r\n\r\nok".to_vec())
    });
    let (gateway, _) = start(&origin);
    let response = Asker::to(&gateway).ask("GET /change HTTP/1.1\r\nHost: a\r\nX-Gone: 1\r\n\r\n");
    assert_eq!((response.status(), response.text()), (202, "ok"));
    assert_eq!(response.field("x-response"), Some("2"));
    assert_eq!(response.field("server"), None);
    let request = &origin.requests()[0];
    assert_eq!(request.first_line(), "PUT /changed?yes HTTP/1.1");
    assert_eq!(request.field("host"), Some("other.test"));
    assert_eq!(request.field("x-set"), Some("1"));
    assert_eq!(request.field("x-gone"), None);
    assert_eq!(request.field("x-bad"), None);
}

#[test]
fn a_hook_answers_by_itself_or_chooses_the_pool() {
    let origin = Origin::start(|_, _| ok("app"));
    let (gateway, hooks) = start(&origin);
    let mut client = Asker::to(&gateway);
    // All on one connection of the client.
    let answer = client.get("/answer");
    assert_eq!((answer.status(), answer.text()), (418, "tea"));
    assert_eq!(client.get("/pool").text(), "other");
    assert_eq!(client.get("/route").text(), "other");
    assert_eq!(client.get("/").text(), "app");
    let node = format!(
        "GET /node HTTP/1.1\r\nHost: a\r\nX-Node: {}\r\n\r\n",
        origin.url()
    );
    assert_eq!(client.ask(node).text(), "app");
    assert_eq!(client.get("/no-pool").status(), 500);
    assert_eq!(client.get("/no-node").status(), 500);
    assert_eq!(client.get("/bad-target").status(), 500);
    assert_eq!(client.get("/").text(), "app");
    assert_eq!(origin.requests().len(), 3);
    client.send("GET /close HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(client.recv_to_end().is_empty());
    let first = (418, "/answer".to_owned(), EndedBy::Gateway, 0);
    assert_eq!(hooks.done()[0], first);
}

#[test]
fn a_refused_response_is_an_error_and_its_connection_is_used_again_unless_much_is_left() {
    let long = vec![b'x'; 1 << 20];
    let origin = Origin::start(move |_, request| match request.first_line() {
        line if line.contains("/refuse-long") => ok(&long),
        line if line.contains("/refuse") => ok([b'x'; 60 << 10]),
        _ => ok("fine"),
    });
    let (gateway, _) = start(&origin);
    let mut client = Asker::to(&gateway);
    let answer = client.get("/refuse");
    assert_eq!((answer.status(), answer.text()), (410, "refused"));
    eventually("the rest is read", || idle(&gateway) == 1);
    assert_eq!(client.get("/").text(), "fine");
    assert_eq!(origin.accepted(), 1);
    assert_eq!(client.get("/refuse-long").status(), 502);
    eventually("it is closed", || origin.ended() == 1);
    assert_eq!(client.get("/").text(), "fine");
    assert_eq!(origin.accepted(), 2);
}

#[test]
fn a_panic_in_a_hook_fails_its_exchange_and_no_other() {
    expect_panics();
    let origin = Origin::start(|_, _| ok("fine"));
    let (gateway, hooks) = start(&origin);
    let mut other = Asker::to(&gateway);
    assert_eq!(other.get("/").text(), "fine");
    let mut client = Asker::to(&gateway);
    assert_eq!(client.get("/panic").status(), 500);
    assert_eq!(client.get("/panic-late").status(), 500);
    assert_eq!(client.get("/").text(), "fine");
    // After the head only a cut tells.
    client.send("GET /panic-in-body HTTP/1.1\r\nHost: a\r\n\r\n");
    let cut = client.response().expect("the head");
    assert_eq!((cut.status(), cut.is_complete), (200, false));
    assert_eq!(other.get("/").text(), "fine");
    assert_eq!(hooks.done().len(), 6);
}

#[test]
fn a_panic_in_any_hook_is_a_500_or_a_cut_and_leaves_nothing_behind() {
    expect_panics();
    let origin = Origin::start(|_, request| {
        match request.first_line() {
        line if line.contains("upgrade") => Deed::Send(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
                .to_vec(),
        ),
        line if line.contains("interim") => Deed::Send(
            b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
                .to_vec(),
        ),
        _ => ok("fine"),
    }
    });
    let (gateway, hooks) = start(&origin);
    let upload = "Content-Length: 3\r\n\r\nabc";
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    for (path, rest, status) in [
        ("/panic-in-upload", upload, 500),
        ("/panic-in-interim", "\r\n", 500),
        ("/panic-in-error", "\r\n", 500),
        ("/panic-when-done", "\r\n", 200),
    ] {
        let mut client = Asker::to(&gateway);
        let mut answer = client.ask(format!("PUT {path} HTTP/1.1\r\nHost: a\r\n{rest}"));
        if answer.status() == 103 {
            answer = client.response().expect("another one");
        }
        assert_eq!(answer.status(), status, "{path}");
        // The client's connection serves on, unless its upload was not taken.
        if path == "/panic-in-upload" {
            client = Asker::to(&gateway);
        }
        assert_eq!(client.get("/").text(), "fine", "{path}");
    }
    // The head of the 101 was passed on already.
    let mut client = Asker::to(&gateway);
    client.send(format!(
        "GET /panic-in-upgrade HTTP/1.1\r\nHost: a\r\n{upgrade}"
    ));
    assert_eq!(client.response().expect("the head").status(), 101);
    assert!(client.recv_to_end().is_empty());
    eventually("all are done", || hooks.done().len() == 9);
    let held = |proxy: &mut epicycle::gateway::Proxy<Noting>| {
        proxy.node_connections() - proxy.idle_connections()
    };
    eventually("no connection is held", || figure(&gateway, held) == 0);
}

#[test]
fn hooks_see_that_the_protocol_changes_and_that_a_client_has_left() {
    let origin = Origin::start(|_, request| {
        match request.first_line() {
        line if line.contains("/hang") => Deed::Hang,
        _ => Deed::Send(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n\r\n"
                .to_vec(),
        ),
    }
    });
    let (gateway, hooks) = start(&origin);
    let mut client = Asker::to(&gateway);
    client.send("GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    assert_eq!(client.response().expect("the head").status(), 101);
    let seen = [
        "request GET /ws",
        "response 101 Switching Protocols",
        "upgrade websocket",
    ];
    assert_eq!(hooks.seen(), seen);
    drop(client);
    eventually("it is done", || hooks.done().len() == 1);

    let mut client = Asker::to(&gateway);
    client.send("GET /hang HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("it is there", || origin.requests().len() == 2);
    client.reset();
    eventually("it is done", || hooks.done().len() == 2);
    // No status was sent; this one is for logs.
    let left = (499, "/hang".to_owned(), EndedBy::Client, 1);
    assert_eq!(hooks.done()[1], left);
}

#[test]
fn a_record_tells_which_timeout_ended_an_exchange() {
    type Seen = Arc<Mutex<Vec<(u16, &'static str)>>>;

    struct Keeper(Seen);

    impl Hooks for Keeper {
        type Exchange = ();

        fn on_done(&mut self, record: &Record<'_>, (): &mut ()) {
            let entry = (record.status, record.timeout);
            self.0.lock().expect("is sound").push(entry);
        }
    }

    let half = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf";
    for (change, path, expected) in [
        (
            (|pool| pool.timeouts.response_head = Duration::from_millis(60))
                as fn(&mut PoolSettings),
            "/hang",
            (504, "response_head"),
        ),
        (
            |pool| pool.timeouts.request = Duration::from_millis(60),
            "/hang",
            (504, "request"),
        ),
        (
            |pool| pool.timeouts.body_idle = Duration::from_millis(60),
            "/half",
            (200, "body_idle"),
        ),
        (|_| {}, "/", (200, "")),
    ] {
        let origin = Origin::start(|_, request| match request.first_line().split(' ').nth(1) {
            Some("/hang") => Deed::Hang,
            Some("/half") => Deed::Send(half.to_vec()),
            _ => ok("fine"),
        });
        let mut pool = pool_of(&origin);
        change(&mut pool);
        let seen = Seen::default();
        let keeper = seen.clone();
        let gateway = builder(pool).route(RouteSettings::to("app")).build();
        let gateway = gateway
            .expect("it is sound")
            .start(move |_| Keeper(keeper.clone()));
        let gateway = gateway.expect("it starts");
        let mut client = Asker::to(&gateway);
        client.get(path);
        eventually("it is recorded", || {
            !seen.lock().expect("is sound").is_empty()
        });
        assert_eq!(seen.lock().expect("is sound")[0], expected, "{path}");
    }
}
