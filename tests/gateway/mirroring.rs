//! Copies of requests to another pool.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use epicycle::gateway::settings::{
    BasicAuth, MirrorSettings, PoolSettings, RouteAuth, RouteSettings,
};
use epicycle::gateway::{Gateway, NoHooks, Running, Users};

use crate::peers::{Asker, Deed, Origin, ok, pool_of};
use crate::rig::{Folder, explained, metric};
use crate::util::eventually;

/// Starts a gateway that copies requests to `shadow`.
fn start(origin: &Origin, shadow: PoolSettings, mirror: MirrorSettings) -> Running<NoHooks> {
    let mut route = RouteSettings::to("app");
    route.mirror = Some(mirror);
    let gateway = Gateway::builder()
        .reactors(1)
        .listen("tcp://127.0.0.1:0")
        .pool("app", pool_of(origin))
        .pool("shadow", shadow)
        .route(route)
        .build();
    gateway
        .expect("it is sound")
        .start_plain()
        .expect("it starts")
}

fn value(gateway: &Running<NoHooks>, name: &str) -> f64 {
    let name = format!("epicycle_gateway_route_{name}{{route=\"*/*\"}}");
    metric(&gateway.control().metrics(), &name).unwrap_or_else(|| panic!("there is no {name}"))
}

#[test]
fn a_share_of_the_requests_is_copied_and_the_answers_are_dropped() {
    let origin = Origin::start(|_, _| ok("answer"));
    let shadow = Origin::start(|_, _| ok("x".repeat(200_000)));
    let mirror = MirrorSettings::to("shadow").percent(50);
    let gateway = start(&origin, pool_of(&shadow), mirror);
    let mut client = Asker::to(&gateway);
    for n in 0..10 {
        let answer = client.ask(format!(
            "GET /{n}?a=b HTTP/1.1\r\nHost: a.test\r\nX-Own: {n}\r\nConnection: X-Hop\r\nX-Hop: 1\r\n\r\n"
        ));
        assert_eq!(answer.text(), "answer");
        eventually("its copy is answered", || {
            value(&gateway, "mirrored_total") == f64::from((n + 1) / 2)
        });
    }
    let (sent, copied) = (origin.requests(), shadow.requests());
    assert_eq!((sent.len(), copied.len()), (10, 5));
    for copy in copied {
        let same = sent
            .iter()
            .find(|sent| sent.first_line() == copy.first_line());
        assert_eq!(same.expect("it was sent").head, copy.head);
        assert_eq!(copy.field("x-hop"), None);
        assert_eq!(copy.field("x-forwarded-for"), Some("127.0.0.1"));
    }
    // They have a connection of their own, which is used again.
    assert_eq!(shadow.accepted(), 1);
    // The log and the counters of the route know the clients' requests alone.
    let served = "epicycle_gateway_route_requests_total{route=\"*/*\",class=\"2xx\"}";
    assert_eq!(metric(&gateway.control().metrics(), served), Some(10.0));
}

#[test]
fn short_bodies_are_copied_as_a_whole_and_long_ones_are_not() {
    let origin = Origin::start(|_, _| ok("x"));
    let shadow = Origin::start(|_, _| ok("x"));
    let gateway = start(&origin, pool_of(&shadow), MirrorSettings::to("shadow"));
    let mut client = Asker::to(&gateway);
    let put = |len: usize| {
        let head = format!("PUT /{len} HTTP/1.1\r\nHost: a\r\nContent-Length: {len}\r\n\r\n");
        [head.into_bytes(), vec![b'x'; len]].concat()
    };
    let chunked = |len: usize| {
        let head = format!(
            "PUT /c{len} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: Sum\r\nExpect: 100-continue\r\n\r\n"
        );
        let chunk = [format!("{len:x}\r\n").into_bytes(), vec![b'x'; len]].concat();
        [
            head.into_bytes(),
            chunk,
            b"\r\n0\r\nSum: 7\r\n\r\n".to_vec(),
        ]
        .concat()
    };
    for request in [
        put(65_537),
        put(65_536),
        chunked(70_000),
        chunked(7),
        put(0),
    ] {
        assert_eq!(client.ask(request).status(), 200);
    }
    eventually("all are copied", || {
        value(&gateway, "mirrored_total") == 3.0
    });
    let mut copied = shadow.requests();
    copied.sort_by_key(|copy| copy.first_line().len());
    let lines: Vec<_> = copied
        .iter()
        .map(|copy| (copy.first_line(), copy.body.len()))
        .collect();
    let wanted = [
        ("PUT /0 HTTP/1.1", 0),
        ("PUT /c7 HTTP/1.1", 7),
        ("PUT /65536 HTTP/1.1", 65_536),
    ];
    assert_eq!(lines, wanted);
    let of_chunks = &copied[1];
    assert_eq!(of_chunks.field("content-length"), Some("7"));
    for name in ["transfer-encoding", "trailer", "expect"] {
        assert_eq!(of_chunks.field(name), None, "{name}");
    }
}

#[test]
fn a_request_whose_password_is_checked_is_copied_too() {
    let origin = Origin::start(|_, _| ok("x"));
    let shadow = Origin::start(|_, _| ok("x"));
    let users = "alice:$2b$04$DT5QgPWgDiLIX1b03H92ROYW5Kb4WW43onJagPX2D0RM0XDrt1.iG";
    let users = Users::parse(users).expect("they are sound");
    let mut route = RouteSettings::to("app");
    route.mirror = Some(MirrorSettings::to("shadow"));
    route.auth = RouteAuth::Basic(BasicAuth::new(users));
    let gateway = Gateway::builder()
        .reactors(1)
        .listen("tcp://127.0.0.1:0")
        .pool("app", pool_of(&origin))
        .pool("shadow", pool_of(&shadow))
        .route(route)
        .build();
    let gateway = gateway.expect("it is sound").start_plain();
    let gateway = gateway.expect("it starts");
    let mut client = Asker::to(&gateway);
    assert_eq!(client.get("/").status(), 401);
    // The second password is remembered.
    for _ in 0..2 {
        let with = "GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Basic YWxpY2U6c2VjcmV0\r\n\r\n";
        assert_eq!(client.ask(with).status(), 200);
    }
    eventually("both are copied", || {
        value(&gateway, "mirrored_total") == 2.0
    });
    for copy in shadow.requests() {
        assert_eq!(copy.field("authorization"), None);
    }
}

#[test]
fn a_request_that_changes_the_protocol_is_not_copied() {
    let origin = Origin::start(|_, _| ok("x"));
    let shadow = Origin::start(|_, _| ok("x"));
    let gateway = start(&origin, pool_of(&shadow), MirrorSettings::to("shadow"));
    let mut client = Asker::to(&gateway);
    let upgrade =
        "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    assert_eq!(client.ask(upgrade).status(), 200);
    assert_eq!(client.get("/plain").status(), 200);
    eventually("one is copied", || value(&gateway, "mirrored_total") == 1.0);
    assert_eq!(shadow.requests()[0].first_line(), "GET /plain HTTP/1.1");
}

#[test]
fn a_mirror_that_fails_is_seen_by_no_client_and_gets_no_copy_twice() {
    let origin = Origin::start(|_, _| ok("x"));
    let shadow = Origin::start(|n, _| match n {
        0 => ok("x"),
        _ => Deed::Reset,
    });
    let mut pool = pool_of(&shadow);
    pool.retries.max = 5;
    let gateway = start(&origin, pool, MirrorSettings::to("shadow"));
    let mut client = Asker::to(&gateway);
    assert_eq!(client.get("/").status(), 200);
    eventually("it is answered", || {
        value(&gateway, "mirrored_total") == 1.0
    });
    // The connection that was used ends, and so does each fresh one.
    for n in 1..4 {
        assert_eq!(client.get("/").status(), 200);
        eventually("it has failed", || {
            value(&gateway, "mirror_failed_total") == f64::from(n)
        });
    }
    assert_eq!(shadow.requests().len(), 4);
    // Nobody listens.
    let nobody = PoolSettings::of(["http://127.0.0.1:1"]);
    let gateway = start(&origin, nobody, MirrorSettings::to("shadow"));
    assert_eq!(Asker::to(&gateway).get("/").status(), 200);
    eventually("it has failed", || {
        value(&gateway, "mirror_failed_total") == 1.0
    });
}

#[test]
fn a_mirror_that_hangs_costs_a_bounded_number_of_copies_for_a_bounded_time() {
    let origin = Origin::start(|_, _| ok("x"));
    let shadow = Origin::start(|_, _| Deed::Hang);
    let mut mirror = MirrorSettings::to("shadow");
    mirror.max_in_flight = 2;
    mirror.timeout = Duration::from_millis(500);
    let gateway = start(&origin, pool_of(&shadow), mirror);
    let mut client = Asker::to(&gateway);
    for _ in 0..2 {
        assert_eq!(client.get("/").status(), 200);
    }
    eventually("two are under way", || value(&gateway, "mirrors") == 2.0);
    let dropped = || value(&gateway, "mirror_dropped_total");
    assert_eq!(client.get("/").status(), 200);
    eventually("one is dropped, or the others have timed out", || {
        dropped() == 1.0 || value(&gateway, "mirror_failed_total") == 2.0
    });
    eventually("none is under way", || value(&gateway, "mirrors") == 0.0);
    eventually("its connections are closed", || {
        shadow.ended() == shadow.accepted()
    });
    let failed = value(&gateway, "mirror_failed_total");
    assert_eq!(failed + dropped(), 3.0);
}

#[test]
fn a_mirror_that_answers_without_end_is_read_for_a_while_and_counts_as_answered() {
    let origin = Origin::start(|_, _| ok("x"));
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n";
    let answer = [head.as_bytes(), &vec![b'x'; 2 << 20]].concat();
    let shadow = Origin::start(move |_, _| Deed::Send(answer.clone()));
    let mut mirror = MirrorSettings::to("shadow");
    mirror.timeout = Duration::from_secs(3600);
    let gateway = start(&origin, pool_of(&shadow), mirror);
    let mut client = Asker::to(&gateway);
    for n in 1..=3_u8 {
        assert_eq!(client.get("/").text(), "x");
        eventually("its copy is answered", || {
            value(&gateway, "mirrored_total") == f64::from(n)
        });
        eventually("its connection is closed", || {
            shadow.ended() == usize::from(n)
        });
    }
    assert_eq!(value(&gateway, "mirror_failed_total"), 0.0);
}

#[test]
fn the_end_of_the_gateway_does_not_wait_for_a_mirror() {
    let origin = Origin::start(|_, _| ok("x"));
    let shadow = Origin::start(|_, _| Deed::Hang);
    let mut mirror = MirrorSettings::to("shadow");
    mirror.timeout = Duration::from_secs(600);
    let gateway = start(&origin, pool_of(&shadow), mirror);
    assert_eq!(Asker::to(&gateway).get("/").status(), 200);
    eventually("it is under way", || shadow.requests().len() == 1);
    let began = Instant::now();
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || tell.send(gateway.shutdown()).is_ok());
    told.recv_timeout(Duration::from_secs(25)).expect("it ends");
    // The drain's deadline is 30 s.
    assert!(began.elapsed() < Duration::from_secs(25));
}

#[test]
fn a_reload_ends_or_keeps_a_mirror_and_loses_no_request() {
    let origin = Origin::start(|_, _| ok("x"));
    let shadow = Origin::start(|_, _| ok("x"));
    let gateway = start(&origin, pool_of(&shadow), MirrorSettings::to("shadow"));
    let mut client = Asker::to(&gateway);
    assert_eq!(client.get("/1").status(), 200);
    eventually("it is copied", || value(&gateway, "mirrored_total") == 1.0);
    let without = Gateway::builder()
        .reactors(1)
        .listen("tcp://127.0.0.1:0")
        .pool("app", pool_of(&origin))
        .route(RouteSettings::to("app"))
        .build()
        .expect("it is sound");
    gateway.reload(&without).expect("it is taken over");
    eventually("the idle connection is closed", || shadow.ended() == 1);
    assert_eq!(client.get("/2").status(), 200);
    assert_eq!(shadow.requests().len(), 1);
}

#[test]
fn the_file_has_mirrors_and_their_faults_are_told() {
    let folder = Folder::new();
    let file = |mirror: &str| {
        folder.write(
            "gateway.toml",
            format!(
                "[[listen]]\non = \"tcp://127.0.0.1:0\"\n[[route]]\npool = \"a\"\nmirror = {mirror}\n\
                 [pool.a]\nnodes = [\"http://127.0.0.1:9000\"]\n\
                 [pool.shadow]\nnodes = [\"http://127.0.0.1:9001\"]\n"
            ),
        );
        Gateway::from_file(folder.path("gateway.toml"))
    };
    let sound = file(
        "{ pool = \"shadow\", percent = 10, max_body = \"4KiB\", max_in_flight = 7, timeout = \"3s\" }",
    );
    let sound = sound.expect("it is sound");
    let mut wanted = MirrorSettings::to("shadow").percent(10);
    (wanted.max_body, wanted.max_in_flight) = (4096, 7);
    wanted.timeout = Duration::from_secs(3);
    assert_eq!(sound.settings().routes[0].mirror, Some(wanted));
    let text = explained(&folder.path("gateway.toml"));
    let wanted = "mirrors   10% of the requests with up to 4096 bytes of body to shadow, whose answers are dropped";
    assert!(text.contains(wanted), "{text}");
    for (mirror, wanted) in [
        (
            "{ pool = \"none\" }",
            ":5:19: route[0].mirror.pool: there is no pool \"none\"",
        ),
        ("{ percent = 10 }", "route[0].mirror: it needs `pool`"),
        (
            "{ pool = \"shadow\", percent = 0 }",
            "route[0].mirror.percent: use 1 to 100",
        ),
        (
            "{ pool = \"shadow\", max_body = \"65KiB\" }",
            "route[0].mirror.max_body: use at most 64 KiB",
        ),
        (
            "{ pool = \"shadow\", timeout = \"none\" }",
            "route[0].mirror.timeout: a copy without an end",
        ),
        ("\"shadow\"", "route[0].mirror: use a table"),
    ] {
        let text = file(mirror).expect_err(mirror).to_string();
        assert!(text.contains(wanted), "{wanted}\n{text}");
    }
}
