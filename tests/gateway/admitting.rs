//! Requests that listeners and routes take or refuse: by the address of the client, and by its password.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use epicycle::gateway::settings::{
    BasicAuth, ListenerKind, ListenerSettings, PoolSettings, RouteAuth, RouteSettings,
};
use epicycle::gateway::{
    Builder, Gateway, Hooks, NoHooks, Record, RequestHead, Running, Users, Verdict,
};
use ipnet::IpNet;

use crate::peers::{Asker, Message, Origin, builder, figure, ok, pool_of, with_listener};
use crate::rig::{Client, Folder, Program, explained, metric};
use crate::util::eventually;

/// A user with the password `secret`.
const ALICE: &str = "alice:$2b$04$DT5QgPWgDiLIX1b03H92ROYW5Kb4WW43onJagPX2D0RM0XDrt1.iG";

/// A user for whom a check takes hundreds of milliseconds. The password is unknown.
const SLOW: &str = "slow:$2b$10$DT5QgPWgDiLIX1b03H92ROYW5Kb4WW43onJagPX2D0RM0XDrt1.iG";

/// `alice` with the password `secret`, and with another one; `slow`.
const RIGHT: &str = "Basic YWxpY2U6c2VjcmV0";
const WRONG: &str = "Basic YWxpY2U6U2VjcmV0";
const OF_SLOW: &str = "Basic c2xvdzpzZWNyZXQ=";

fn networks(texts: &[&str]) -> Vec<IpNet> {
    let networks = texts.iter().map(|text| text.parse().expect("a network"));
    networks.collect()
}

fn auth() -> BasicAuth {
    let users = Users::parse(&format!("{ALICE}\n{SLOW}\n"));
    BasicAuth::new(users.expect("they are sound"))
}

fn listener() -> ListenerSettings {
    ListenerSettings::new("tcp://127.0.0.1:0")
}

fn run(builder: Builder) -> Running<NoHooks> {
    let gateway = builder.build().expect("it is sound");
    gateway.start_plain().expect("it starts")
}

/// A gateway whose listener asks for a password, with a route that does not.
fn guarded(origin: &Origin) -> Running<NoHooks> {
    let mut listener = listener();
    listener.auth = Some(auth());
    let mut open = RouteSettings::to("app").path("/open");
    open.auth = RouteAuth::Off;
    run(with_listener(listener, pool_of(origin))
        .route(RouteSettings::to("app"))
        .route(open))
}

fn with_password(path: &str, credentials: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a.test\r\nAuthorization: {credentials}\r\n\r\n")
}

fn forwarded(client: &mut Asker, path: &str, from: &str) -> u16 {
    let request = format!("GET {path} HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-For: {from}\r\n\r\n");
    client.ask(request).status()
}

fn value(gateway: &Running<NoHooks>, name: &str, route: &str) -> f64 {
    let name = format!("epicycle_gateway_route_{name}_total{{route=\"{route}\"}}");
    metric(&gateway.control().metrics(), &name).unwrap_or_else(|| panic!("there is no {name}"))
}

#[test]
fn clients_whose_addresses_are_not_allowed_get_a_403() {
    let origin = Origin::start(|_, _| ok("x"));
    let mut listener = listener();
    listener.forwarding.trusted = networks(&["127.0.0.1/32"]);
    listener.access.deny = networks(&["10.9.0.0/16"]);
    let mut office = RouteSettings::to("app").path("/office");
    office.access.allow = networks(&["10.0.0.0/8", "2001:db8::/32"]);
    office.access.deny = networks(&["10.0.0.13/32"]);
    let gateway = run(with_listener(listener, pool_of(&origin))
        .route(RouteSettings::to("app"))
        .route(office));
    let mut client = Asker::to(&gateway);
    for (path, from, status) in [
        ("/", "192.0.2.1", 200),
        ("/", "10.9.8.7", 403),
        ("/office", "192.0.2.1", 403),
        ("/office", "10.9.8.7", 403),
        ("/office", "10.0.0.13", 403),
        ("/office", "10.0.0.14", 200),
        ("/office", "2001:db8::1", 200),
        ("/office", "2001:db9::1", 403),
        // The last address is the one that the trusted proxy has seen.
        ("/office", "10.0.0.14, 192.0.2.1", 403),
    ] {
        assert_eq!(forwarded(&mut client, path, from), status, "{path} {from}");
    }
    assert_eq!(origin.requests().len(), 3);
    assert_eq!(value(&gateway, "denied", "*/office"), 4.0);
    // Those that the listener refuses have no route.
    assert_eq!(value(&gateway, "denied", "none"), 2.0);
}

#[test]
fn a_request_needs_the_password_of_a_user_and_the_node_does_not_see_it() {
    let origin = Origin::start(|_, _| ok("x"));
    let gateway = guarded(&origin);
    let mut client = Asker::to(&gateway);
    let refused = |answer: &Message| {
        assert_eq!(answer.status(), 401, "{}", answer.head);
        let wanted = "Basic realm=\"epicycle\", charset=\"UTF-8\"";
        assert_eq!(answer.field("www-authenticate"), Some(wanted));
    };
    refused(&client.get("/"));
    refused(&client.ask(with_password("/", WRONG)));
    refused(&client.ask(with_password("/", "Bearer YWxpY2U6c2VjcmV0")));
    let twice = format!(
        "GET / HTTP/1.1\r\nHost: a\r\nAuthorization: {RIGHT}\r\nAuthorization: {RIGHT}\r\n\r\n"
    );
    refused(&client.ask(twice));
    assert_eq!(origin.requests().len(), 0);
    // The second one is remembered.
    for _ in 0..2 {
        assert_eq!(client.ask(with_password("/", RIGHT)).status(), 200);
    }
    assert_eq!(client.ask(with_password("/open", "Bearer x")).status(), 200);
    let seen: Vec<_> = origin.requests();
    let tokens: Vec<_> = seen
        .iter()
        .map(|seen| seen.field("authorization"))
        .collect();
    assert_eq!(tokens, [None, None, Some("Bearer x")]);
    assert_eq!(value(&gateway, "unauthenticated", "*/*"), 4.0);
}

#[test]
fn a_route_has_users_of_its_own_and_its_node_gets_the_password_if_that_is_asked_for() {
    let origin = Origin::start(|_, _| ok("x"));
    let mut route = RouteSettings::to("app");
    let mut own = auth();
    (own.realm, own.pass) = ("Staging".to_owned(), true);
    route.auth = RouteAuth::Basic(own);
    let mut listener = listener();
    let bob = Users::parse(&ALICE.replace("alice", "bob")).expect("it is sound");
    listener.auth = Some(BasicAuth::new(bob));
    let gateway = run(with_listener(listener, pool_of(&origin)).route(route));
    let mut client = Asker::to(&gateway);
    let challenge = client.get("/");
    let wanted = "Basic realm=\"Staging\", charset=\"UTF-8\"";
    assert_eq!(challenge.field("www-authenticate"), Some(wanted));
    assert_eq!(client.ask(with_password("/", RIGHT)).status(), 200);
    assert_eq!(origin.requests()[0].field("authorization"), Some(RIGHT));
}

#[test]
fn where_nothing_is_served_a_password_is_needed_to_find_that_out() {
    let origin = Origin::start(|_, _| ok("x"));
    let mut listener = listener();
    listener.auth = Some(auth());
    let gateway =
        run(with_listener(listener, pool_of(&origin)).route(RouteSettings::to("app").path("/app")));
    let mut client = Asker::to(&gateway);
    assert_eq!(client.get("/nothing").status(), 401);
    assert_eq!(client.ask(with_password("/nothing", RIGHT)).status(), 404);
}

#[test]
fn the_metrics_need_a_password_if_that_is_set_and_the_health_does_not() {
    let mut metrics = listener();
    metrics.kind = ListenerKind::Metrics;
    metrics.auth = Some(auth());
    let gateway = run(Gateway::builder().reactors(1).listen(metrics));
    let mut client = Asker::to(&gateway);
    assert_eq!(client.get("/metrics").status(), 401);
    assert_eq!(client.get("/healthz").status(), 200);
    assert_eq!(client.ask(with_password("/metrics", RIGHT)).status(), 200);
}

#[test]
fn the_check_of_a_password_keeps_nobody_else_waiting() {
    let origin = Origin::start(|_, _| ok("x"));
    let gateway = guarded(&origin);
    let (mut slow, mut other) = (Asker::to(&gateway), Asker::to(&gateway));
    slow.send(with_password("/", OF_SLOW));
    let waits = |slow: &Asker| {
        let stream = slow.stream.get_ref();
        stream.set_nonblocking(true).expect("is set");
        let peeked = stream.peek(&mut [0]);
        stream.set_nonblocking(false).expect("is set");
        peeked.is_err()
    };
    assert_eq!(other.get("/open").status(), 200);
    assert!(
        waits(&slow),
        "the check was over before another request was served"
    );
    assert_eq!(slow.response().expect("an answer").status(), 401);
}

#[test]
fn a_body_waits_in_the_kernel_until_its_client_has_proved_its_name() {
    let origin = Origin::start(|_, _| ok("x"));
    let gateway = guarded(&origin);
    let body = vec![b'x'; 1 << 20];
    let put = |credentials: &str, field: &str| {
        let len = body.len();
        format!(
            "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {len}\r\n{field}Authorization: {credentials}\r\n\r\n"
        )
    };
    let mut client = Asker::to(&gateway);
    client.send(put(RIGHT, ""));
    client.send(&body);
    assert_eq!(client.response().expect("an answer").status(), 200);
    assert!(origin.requests()[0].body == body);
    // No 100 asks for a body that nobody wants.
    let mut client = Asker::to(&gateway);
    client.send(put(WRONG, "Expect: 100-continue\r\n"));
    assert_eq!(client.response().expect("an answer").status(), 401);
    // The whole body is here, and the answer still arrives.
    let mut client = Asker::to(&gateway);
    client.send(put(WRONG, ""));
    client.send(&body);
    assert_eq!(client.response().expect("an answer").status(), 401);
    assert_eq!(origin.requests().len(), 1);
}

#[test]
fn a_client_that_leaves_while_its_password_is_checked_leaves_nothing_behind() {
    let origin = Origin::start(|_, _| ok("x"));
    let gateway = guarded(&origin);
    let mut client = Asker::to(&gateway);
    client.send(with_password("/", OF_SLOW));
    eventually("it has come", || {
        metric(&gateway.control().metrics(), "epicycle_gateway_in_flight") == Some(1.0)
    });
    client.reset();
    eventually("it is gone", || gateway.engine().connections() == 0);
    assert_eq!(figure(&gateway, |proxy| proxy.in_flight() as usize), 0);
    let in_flight = metric(&gateway.control().metrics(), "epicycle_gateway_in_flight");
    assert_eq!(in_flight, Some(0.0));
}

#[test]
fn many_wrong_passwords_of_an_address_are_answered_late_and_others_are_not() {
    let origin = Origin::start(|_, _| ok("x"));
    let mut listener = listener();
    listener.auth = Some(auth());
    listener.forwarding.trusted = networks(&["127.0.0.1/32"]);
    let gateway = run(with_listener(listener, pool_of(&origin)).route(RouteSettings::to("app")));
    let mut client = Asker::to(&gateway);
    let mut wrong = |from: &str| {
        let began = Instant::now();
        let request = format!(
            "GET / HTTP/1.1\r\nHost: a\r\nAuthorization: {WRONG}\r\nX-Forwarded-For: {from}\r\n\r\n"
        );
        assert_eq!(client.ask(request).status(), 401);
        began.elapsed()
    };
    for _ in 0..5 {
        wrong("192.0.2.1");
    }
    assert!(wrong("192.0.2.1") >= Duration::from_secs(1));
    // The client counts, and not the proxy in front of the gateway.
    assert!(wrong("192.0.2.2") < Duration::from_secs(1));
}

#[test]
fn users_that_change_count_at_once() {
    let origin = Origin::start(|_, _| ok("x"));
    let gateway = guarded(&origin);
    let mut client = Asker::to(&gateway);
    assert_eq!(client.ask(with_password("/", RIGHT)).status(), 200);
    let mut settings = settings_of(&origin);
    settings.listeners[0].auth = None;
    let without = Gateway::new(settings.clone()).expect("it is sound");
    gateway.reload(&without).expect("it is taken over");
    assert_eq!(client.get("/").status(), 200);
    let bob = Users::parse(&ALICE.replace("alice", "bob")).expect("it is sound");
    settings.listeners[0].auth = Some(BasicAuth::new(bob));
    let of_bob = Gateway::new(settings).expect("it is sound");
    gateway.reload(&of_bob).expect("it is taken over");
    assert_eq!(client.ask(with_password("/", RIGHT)).status(), 401);
}

/// Returns the settings of a gateway with one route.
fn settings_of(origin: &Origin) -> epicycle::gateway::settings::Settings {
    let built = with_listener(listener(), pool_of(origin))
        .route(RouteSettings::to("app"))
        .build();
    built.expect("it is sound").settings().clone()
}

/// Notes the user of each request, as the hook sees it and as the record tells it.
struct Noting(mpsc::Sender<String>);

impl Hooks for Noting {
    type Exchange = ();

    fn on_request(&mut self, request: &mut RequestHead<'_>, (): &mut ()) -> Verdict {
        assert_eq!(request.field("authorization"), None);
        let seen = format!("{:?}", request.user());
        self.0.send(seen).expect("is awaited");
        Verdict::Forward
    }

    fn on_done(&mut self, record: &Record<'_>, (): &mut ()) {
        let record = format!("{} {}", record.status, record.user);
        self.0.send(record).expect("is awaited");
    }
}

#[test]
fn hooks_are_told_who_asks_and_are_not_asked_about_others() {
    let origin = Origin::start(|_, _| ok("x"));
    let mut route = RouteSettings::to("app");
    route.auth = RouteAuth::Basic(auth());
    let (tell, told) = mpsc::channel();
    let gateway = builder(pool_of(&origin))
        .route(route)
        .build()
        .expect("it is sound");
    let gateway = gateway
        .start(move |_| Noting(tell.clone()))
        .expect("it starts");
    let mut client = Asker::to(&gateway);
    assert_eq!(client.ask(with_password("/", WRONG)).status(), 401);
    assert_eq!(client.ask(with_password("/", RIGHT)).status(), 200);
    let next = || told.recv().expect("it is told");
    assert_eq!(next(), "401 ");
    assert_eq!(next(), "Some(\"alice\")");
    assert_eq!(next(), "200 alice");
}

#[test]
fn a_socks_listener_closes_clients_from_other_addresses() {
    let mut listener = listener();
    listener.kind = ListenerKind::Socks5;
    listener.access.deny = networks(&["127.0.0.0/8"]);
    let gateway = run(Gateway::builder().reactors(1).listen(listener));
    let mut client = Asker::to(&gateway);
    client.send(b"\x05\x01\x00");
    assert_eq!(client.recv_to_end(), b"");
    assert_eq!(value(&gateway, "denied", "none"), 1.0);
}

#[test]
fn the_file_has_the_users_and_the_log_has_their_names() {
    let (origin, folder) = (crate::rig::Origin::start("a"), Folder::new());
    folder.write("users.txt", format!("# staff\n{ALICE}\n"));
    folder.write(
        "gateway.toml",
        format!(
            "log.access = {{ to = \"access.log\", format = \"{{user}} {{status}} {{target}}\" }}\n\
             [[listen]]\non = \"tcp://127.0.0.1:0\"\nallow = [\"127.0.0.0/8\"]\n\
             [[route]]\npool = \"a\"\nauth = {{ users = \"users.txt\", realm = \"Staging\" }}\n\
             [[route]]\npool = \"a\"\npath = \"/open\"\nauth = false\ndeny = [\"10.0.0.0/8\"]\n\
             [pool.a]\nnodes = [{}]\n",
            origin.node()
        ),
    );
    let text = explained(&folder.path("gateway.toml"));
    let wanted = "admits    listener: clients of 127.0.0.0/8 only (403); one of 1 users, by name and password (401)";
    assert!(text.contains(wanted), "{text}");
    assert!(text.contains("; Authorization"), "{text}");
    let program = Program::start(&folder, 1);
    let mut client = Client::to(program.addrs[0]);
    let answer = client.get("/").expect("an answer");
    assert_eq!(answer.status, 401);
    let answer = client
        .send(&with_password("/mine", RIGHT))
        .expect("an answer");
    assert_eq!(answer.status, 200);
    assert_eq!(client.get("/open").expect("an answer").status, 200);
    eventually("it is logged", || {
        folder.read("access.log") == "- 401 /\nalice 200 /mine\n- 200 /open\n"
    });
}

#[test]
fn faults_of_users_and_networks_are_told_with_their_lines() {
    let folder = Folder::new();
    folder.write("users.txt", "alice:plain\n");
    folder.write(
        "gateway.toml",
        "[[listen]]\non = \"tcp://127.0.0.1:0\"\nallow = [\"10.0.0.0/33\"]\n\
         auth = { users = \"users.txt\" }\n\
         [[route]]\npool = \"a\"\nauth = { realm = \"x\" }\n\
         [[route]]\npool = \"a\"\npath = \"/b\"\nauth = true\n\
         [pool.a]\nnodes = [\"http://127.0.0.1:9000\"]\n",
    );
    let error = Gateway::from_file(folder.path("gateway.toml")).expect_err("it has faults");
    let text = error.to_string();
    for wanted in [
        ":3:9: listen[0].allow: write a network",
        ":4:8: listen[0].auth.users: line 1 of the users: the hash is neither",
        ":7:8: route[0].auth: it needs `users`",
        ":11:8: route[1].auth: use { users = \"users.txt\" }, or false",
    ] {
        assert!(text.contains(wanted), "{wanted}\n{text}");
    }
    let mut route = RouteSettings::to("app");
    let mut auth = auth();
    auth.realm = "a\"b".to_owned();
    route.auth = RouteAuth::Basic(auth);
    let pool = PoolSettings::of(["http://127.0.0.1:9000"]);
    let error = builder(pool)
        .route(route)
        .build()
        .expect_err("the realm cannot be sent");
    assert!(error.to_string().contains("without quotes"), "{error}");
}
