//! Limits of rates, and of requests under way.

use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use epicycle::gateway::settings::{
    BasicAuth, LimitBy, LimitSettings, ListenerSettings, PoolSettings, Rate, RouteAuth,
    RouteSettings,
};
use epicycle::gateway::{Builder, Gateway, NoHooks, Running, Users};

use crate::peers::{Asker, Message, Origin, builder, figure, ok, pool_of, with_listener};
use crate::rig::{Folder, explained, metric};
use crate::util::eventually;

fn run(builder: Builder) -> Running<NoHooks> {
    let gateway = builder.build().expect("it is sound");
    gateway.start_plain().expect("it starts")
}

/// A limit with so many tokens, that gets no others while a test runs.
fn tokens(burst: u32) -> LimitSettings {
    LimitSettings::new(Rate::per_hour(1)).burst(burst)
}

fn trusting() -> ListenerSettings {
    let mut listener = ListenerSettings::new("tcp://127.0.0.1:0");
    listener.forwarding.trusted = vec!["127.0.0.1/32".parse().expect("a network")];
    listener
}

fn with_field(path: &str, name: &str, value: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n{name}: {value}\r\n\r\n")
}

fn counter(gateway: &Running<NoHooks>, name: &str) -> f64 {
    metric(&gateway.control().metrics(), name).unwrap_or_else(|| panic!("there is no {name}"))
}

#[test]
fn a_client_beyond_its_rate_gets_a_429_that_tells_when_to_come_back_and_others_do_not() {
    let origin = Origin::start(|_, _| ok("x"));
    let mut route = RouteSettings::to("app");
    route.rate_limits.push(tokens(2));
    let gateway = run(with_listener(trusting(), pool_of(&origin)).route(route));
    let mut client = Asker::to(&gateway);
    let mut from = |ip: &str| client.ask(with_field("/", "X-Forwarded-For", ip));
    assert_eq!(from("2001:db8::1").status(), 200);
    assert_eq!(from("2001:db8::2").status(), 200);
    let refused = from("2001:db8::3");
    assert_eq!(refused.status(), 429);
    let seconds = refused.field("retry-after").expect("it is told");
    let seconds: u64 = seconds.parse().expect("a number");
    assert!((3590..=3600).contains(&seconds), "{seconds}");
    assert_eq!(from("2001:db8:0:1::1").status(), 200);
    assert_eq!(from("192.0.2.1").status(), 200);
    assert_eq!(origin.requests().len(), 4);
    let limited = "epicycle_gateway_route_limited_total{route=\"*/*\"}";
    assert_eq!(counter(&gateway, limited), 1.0);
    assert_eq!(counter(&gateway, "epicycle_gateway_limit_keys"), 3.0);
}

#[test]
fn all_reactors_share_the_buckets() {
    let origin = Origin::start(|_, _| ok("x"));
    let mut route = RouteSettings::to("app");
    route.rate_limits.push(tokens(30));
    let gateway = run(builder(pool_of(&origin)).reactors(4).route(route));
    let statuses = Arc::<Mutex<Vec<u16>>>::default();
    thread::scope(|scope| {
        for _ in 0..16 {
            let (gateway, statuses) = (&gateway, statuses.clone());
            scope.spawn(move || {
                let mut client = Asker::to(gateway);
                for _ in 0..5 {
                    let status = client.get("/").status();
                    statuses.lock().expect("sound").push(status);
                }
            });
        }
    });
    let statuses = statuses.lock().expect("sound");
    let count = |wanted: u16| statuses.iter().filter(|status| **status == wanted).count();
    assert_eq!((count(200), count(429)), (30, 50));
}

#[test]
fn a_limit_counts_by_a_field_or_for_the_whole_route_or_listener() {
    let origin = Origin::start(|_, _| ok("x"));
    let mut by_key = RouteSettings::to("app").path("/key");
    by_key
        .rate_limits
        .push(tokens(1).by(LimitBy::Header("X-Key".to_owned())));
    let mut whole = RouteSettings::to("app").path("/whole");
    whole.rate_limits.push(tokens(2).by(LimitBy::All));
    let mut listener = trusting();
    listener.health_path = Some("/healthz".to_owned());
    listener.rate_limits.push(tokens(8).by(LimitBy::All));
    let gateway = run(with_listener(listener, pool_of(&origin))
        .route(RouteSettings::to("app"))
        .route(by_key)
        .route(whole));
    let mut client = Asker::to(&gateway);
    let mut of = |path: &str, key: &str| client.ask(with_field(path, "x-key", key)).status();
    assert_eq!(
        [of("/key", "a"), of("/key", "b"), of("/key", "a")],
        [200, 200, 429]
    );
    assert_eq!(
        [of("/whole", "a"), of("/whole", "b"), of("/whole", "c")],
        [200, 200, 429]
    );
    // Those that the routes have refused came to the listener too.
    assert_eq!([of("/", "a"), of("/", "b"), of("/", "c")], [200, 200, 429]);
    assert_eq!(of("/nothing", "a"), 429);
    assert_eq!(of("/healthz", "a"), 200);
    // Those without the field share a bucket.
    let limited = "epicycle_gateway_route_limited_total{route=\"none\"}";
    assert_eq!(counter(&gateway, limited), 2.0);
}

#[test]
fn a_request_that_one_limit_refuses_takes_nothing_of_another() {
    let origin = Origin::start(|_, _| ok("x"));
    let mut route = RouteSettings::to("app");
    route.rate_limits = vec![tokens(2), tokens(1).by(LimitBy::Header("X-Key".to_owned()))];
    let gateway = run(builder(pool_of(&origin)).route(route));
    let mut client = Asker::to(&gateway);
    let mut of = |key: &str| client.ask(with_field("/", "X-Key", key)).status();
    assert_eq!([of("a"), of("a"), of("a")], [200, 429, 429]);
    // The address has a token left.
    assert_eq!([of("b"), of("c")], [200, 429]);
}

#[test]
fn a_request_whose_password_is_checked_takes_one_token_and_guesses_are_limited() {
    let origin = Origin::start(|_, _| ok("x"));
    let users = "alice:$2b$04$DT5QgPWgDiLIX1b03H92ROYW5Kb4WW43onJagPX2D0RM0XDrt1.iG";
    let users = Users::parse(users).expect("they are sound");
    let mut route = RouteSettings::to("app");
    route.auth = RouteAuth::Basic(BasicAuth::new(users));
    route.rate_limits.push(tokens(3));
    let gateway = run(builder(pool_of(&origin)).route(route));
    let mut client = Asker::to(&gateway);
    let mut with = |credentials: &str| {
        let credentials = format!("Basic {credentials}");
        client
            .ask(with_field("/", "Authorization", &credentials))
            .status()
    };
    let (right, wrong) = ("YWxpY2U6c2VjcmV0", "YWxpY2U6U2VjcmV0");
    assert_eq!(
        [with(right), with(wrong), with(right), with(wrong)],
        [200, 401, 200, 429]
    );
}

#[test]
fn a_reload_keeps_the_buckets_of_limits_that_stay() {
    let origin = Origin::start(|_, _| ok("x"));
    let settings = |limits: Vec<LimitSettings>| {
        let mut route = RouteSettings::to("app");
        route.rate_limits = limits;
        let gateway = builder(pool_of(&origin)).route(route).build();
        gateway.expect("it is sound")
    };
    let running = settings(vec![tokens(2)]).start_plain().expect("it starts");
    let mut client = Asker::to(&running);
    assert_eq!(client.get("/").status(), 200);
    let more = settings(vec![tokens(10).by(LimitBy::All), tokens(2)]);
    running.reload(&more).expect("it is taken over");
    assert_eq!(client.get("/").status(), 200);
    assert_eq!(client.get("/").status(), 429);
    running
        .reload(&settings(Vec::new()))
        .expect("it is taken over");
    assert_eq!(client.get("/").status(), 200);
    assert_eq!(counter(&running, "epicycle_gateway_limit_keys"), 0.0);
    // A limit that comes back begins with full buckets.
    running
        .reload(&settings(vec![tokens(2)]))
        .expect("it is taken over");
    assert_eq!(client.get("/").status(), 200);
}

/// An origin that answers when it is told to.
fn held() -> (Origin, mpsc::Sender<()>) {
    let (tell, told) = mpsc::channel();
    let told = Mutex::new(told);
    let origin = Origin::start(move |_, _| {
        // The test has ended if nobody tells.
        let _ = told.lock().expect("sound").recv();
        ok("x")
    });
    (origin, tell)
}

fn ask(client: &mut Asker) {
    client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
}

fn is_overloaded(answer: &Message) {
    assert_eq!(answer.status(), 503, "{}", answer.head);
    assert_eq!(answer.field("retry-after"), Some("1"));
}

#[test]
fn requests_beyond_max_in_flight_of_a_pool_are_answered_with_503_at_once() {
    let (origin, release) = held();
    let mut pool = pool_of(&origin);
    pool.max_in_flight = Some(2);
    let gateway = run(builder(pool).reactors(2).route(RouteSettings::to("app")));
    let (mut a, mut b) = (Asker::to(&gateway), Asker::to(&gateway));
    ask(&mut a);
    ask(&mut b);
    eventually("both are under way", || {
        counter(&gateway, "epicycle_gateway_in_flight") == 2.0
    });
    for _ in 0..3 {
        is_overloaded(&Asker::to(&gateway).get("/"));
    }
    let overloaded = "epicycle_gateway_pool_overloaded_total{pool=\"app\"}";
    assert_eq!(counter(&gateway, overloaded), 3.0);
    release.send(()).expect("is awaited");
    release.send(()).expect("is awaited");
    assert_eq!(a.response().expect("an answer").status(), 200);
    assert_eq!(b.response().expect("an answer").status(), 200);
    release.send(()).expect("is awaited");
    assert_eq!(a.get("/").status(), 200);
    // A client that leaves frees its place.
    for _ in 0..3 {
        let mut client = Asker::to(&gateway);
        ask(&mut client);
        eventually("it is under way", || {
            counter(&gateway, "epicycle_gateway_in_flight") == 1.0
        });
        client.reset();
        eventually("it is gone", || {
            counter(&gateway, "epicycle_gateway_in_flight") == 0.0
        });
    }
}

#[test]
fn a_full_node_leaves_requests_to_others_and_when_all_are_full_the_answer_is_503() {
    let ((one, release_one), (two, release_two)) = (held(), held());
    let mut pool = PoolSettings::of([one.url(), two.url()]);
    pool.max_in_flight_per_node = Some(1);
    pool.balance =
        epicycle::gateway::settings::BalanceBy::hash(epicycle::gateway::settings::HashKey::Ip);
    let gateway = run(builder(pool).route(RouteSettings::to("app")));
    let (mut a, mut b) = (Asker::to(&gateway), Asker::to(&gateway));
    // The hash of the address chooses the same node for both.
    ask(&mut a);
    ask(&mut b);
    eventually("both nodes have one", || {
        one.requests().len() == 1 && two.requests().len() == 1
    });
    is_overloaded(&Asker::to(&gateway).get("/"));
    release_one.send(()).expect("is awaited");
    release_two.send(()).expect("is awaited");
    assert_eq!(a.response().expect("an answer").status(), 200);
    assert_eq!(b.response().expect("an answer").status(), 200);
    assert_eq!(figure(&gateway, |proxy| proxy.in_flight() as usize), 0);
    for release in [release_one, release_two] {
        let _ = release.send(());
    }
    assert_eq!(a.get("/").status(), 200);
}

#[test]
fn the_file_has_limits_and_their_faults_are_told() {
    let folder = Folder::new();
    let file = |listen: &str, route: &str, pool: &str| {
        folder.write(
            "gateway.toml",
            format!(
                "[[listen]]\non = \"tcp://127.0.0.1:0\"\n{listen}\n\
                 [[route]]\npool = \"a\"\n{route}\n\
                 [pool.a]\nnodes = [\"http://127.0.0.1:9000\"]\n{pool}\n"
            ),
        );
        Gateway::from_file(folder.path("gateway.toml"))
    };
    let sound = file(
        "limit = { rate = \"1000/s\", by = \"listener\" }",
        "limit = [{ rate = \"30/m\", burst = 5 }, { rate = \"2/h\", by = \"header:X-Key\", max_keys = 7 }]",
        "max_in_flight = 10\nmax_in_flight_per_node = 3",
    )
    .expect("it is sound");
    let settings = sound.settings();
    let whole = LimitSettings::new(Rate::per_second(1000)).by(LimitBy::All);
    assert_eq!(settings.listeners[0].rate_limits, [whole]);
    let mut by_key = LimitSettings::new(Rate::per_hour(2)).by(LimitBy::Header("X-Key".to_owned()));
    by_key.max_keys = 7;
    let by_ip = LimitSettings::new(Rate::per_minute(30)).burst(5);
    assert_eq!(settings.routes[0].rate_limits, [by_ip, by_key]);
    let pool = &settings.pools["a"];
    assert_eq!(
        (pool.max_in_flight, pool.max_in_flight_per_node),
        (Some(10), Some(3))
    );
    let text = explained(&folder.path("gateway.toml"));
    let wanted = "admits    listener: 1000/s in total, 1000 at once (429); route: 30/m for each address, 5 at once (429); \
                  route: 2/h for each value of X-Key, 2 at once (429)";
    assert!(text.contains(wanted), "{text}");

    let error = file(
        "limit = { rate = \"0/s\", by = \"route\" }",
        "limit = [{ rate = \"fast\" }, { burst = 0 }, { rate = \"1/s\", burst = 0 }, { rate = \"2/s\" }, { rate = \"2/s\" }]",
        "max_in_flight = 0",
    );
    let text = error.expect_err("it has faults").to_string();
    for wanted in [
        ":3:30: listen[0].limit.by: use \"ip\", \"header:NAME\" or \"listener\"",
        ":3:18: listen[0].limit.rate: use 1 to 1000000 requests",
        ":6:19: route[0].limit[0].rate: write a number of requests and a time",
        ":6:29: route[0].limit[1]: it needs `rate`",
        "route[0].limit[2].burst: use 1 to 1000000",
        "route[0].limit[4]: the same limit is there already",
        ":9:17: pool.a.max_in_flight: 0 serves nobody",
    ] {
        assert!(text.contains(wanted), "{wanted}\n{text}");
    }
}
