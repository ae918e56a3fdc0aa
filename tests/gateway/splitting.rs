//! Routes to several pools: by weight, by what a request says, and by a cookie.

use epicycle::gateway::settings::{PoolRule, PoolSettings, RouteSettings};
use epicycle::gateway::{Gateway, NoHooks, Running};

use crate::peers::{Asker, Origin, ok, pool_of, respond};
use crate::rig::{Folder, explained};

/// A gateway with the pools `api` and `canary`.
struct Rig {
    api: Origin,
    canary: Origin,
    gateway: Running<NoHooks>,
}

impl Rig {
    fn start(reactors: usize, route: RouteSettings) -> Self {
        let api = Origin::start(|_, _| ok("api"));
        let canary = Origin::start(|_, _| ok("canary"));
        let gateway = gateway(reactors, &api, &canary, route);
        Self {
            api,
            canary,
            gateway: gateway.start_plain().expect("it starts"),
        }
    }
}

fn gateway(reactors: usize, api: &Origin, canary: &Origin, route: RouteSettings) -> Gateway {
    let built = Gateway::builder()
        .reactors(reactors)
        .listen("tcp://127.0.0.1:0")
        .pool("api", pool_of(api))
        .pool("canary", pool_of(canary))
        .route(route)
        .build();
    built.expect("it is sound")
}

fn with_field(name: &str, value: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: a.test\r\n{name}: {value}\r\n\r\n")
}

#[test]
fn pools_get_requests_by_their_weights_whatever_the_reactors() {
    let route = RouteSettings::split([("api", 9), ("canary", 1)]);
    let rig = Rig::start(3, route.clone());
    for _ in 0..20 {
        let mut client = Asker::to(&rig.gateway);
        for _ in 0..5 {
            assert_eq!(client.get("/").status(), 200);
        }
    }
    let counts = (rig.api.requests().len(), rig.canary.requests().len());
    assert_eq!(counts, (90, 10));
    // A reload goes on in the sequence.
    let same = gateway(3, &rig.api, &rig.canary, route);
    let mut client = Asker::to(&rig.gateway);
    for _ in 0..5 {
        client.get("/");
    }
    rig.gateway.reload(&same).expect("it is taken over");
    for _ in 0..5 {
        client.get("/");
    }
    let counts = (rig.api.requests().len(), rig.canary.requests().len());
    assert_eq!(counts, (99, 11));
}

#[test]
fn a_client_stays_at_its_pool_by_a_cookie_that_the_gateway_sets() {
    let mut route = RouteSettings::split([("api", 1), ("canary", 1)]);
    route.sticky = Some("release".to_owned());
    let rig = Rig::start(1, route);
    let mut client = Asker::to(&rig.gateway);
    for _ in 0..2 {
        let first = client.get("/");
        let pool = first.text().to_owned();
        let cookie = format!("release={pool}; Path=/; HttpOnly; SameSite=Lax");
        assert_eq!(first.field("set-cookie"), Some(&*cookie));
        for _ in 0..3 {
            let again = client.ask(with_field("Cookie", &format!("a=b; release={pool}")));
            assert_eq!(again.text(), pool);
            assert_eq!(again.field("set-cookie"), None);
        }
    }
    // Values that name no pool are drawn anew.
    for value in ["", "gone", "api2", "canary%00"] {
        let answer = client.ask(with_field("Cookie", &format!("release={value}")));
        let cookie = answer.field("set-cookie").expect("it is set");
        assert!(
            cookie.starts_with(&format!("release={};", answer.text())),
            "{cookie}"
        );
    }
}

#[test]
fn a_rule_sends_requests_to_a_pool_and_sets_no_cookie() {
    let mut route = RouteSettings::split([("api", 1), ("canary", 0)]);
    route.sticky = Some("release".to_owned());
    route.when = vec![
        PoolRule::header("X-Canary", "canary").value("yes"),
        PoolRule::cookie("tester", "canary"),
    ];
    let rig = Rig::start(1, route);
    let mut client = Asker::to(&rig.gateway);
    let answer = client.ask(with_field("x-canary", "yes"));
    assert_eq!(
        (answer.text(), answer.field("set-cookie")),
        ("canary", None)
    );
    let answer = client.ask(with_field("Cookie", "tester=1"));
    assert_eq!(
        (answer.text(), answer.field("set-cookie")),
        ("canary", None)
    );
    let answer = client.ask(with_field("X-Canary", "Yes"));
    assert_eq!(answer.text(), "api");
    assert!(answer.field("set-cookie").is_some());
}

#[test]
fn the_cookie_comes_beside_those_of_the_node_and_not_with_errors_of_the_gateway() {
    let node = Origin::start(|n, _| match n {
        0 => crate::peers::Deed::Send(
            b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n".to_vec(),
        ),
        1 => crate::peers::Deed::Reset,
        _ => respond("404 Not Found", "x"),
    });
    let mut route = RouteSettings::split([("a", 1)]);
    route.sticky = Some("s".to_owned());
    let gateway = Gateway::builder()
        .reactors(1)
        .listen("tcp://127.0.0.1:0")
        .pool("a", pool_of(&node))
        .route(route)
        .build()
        .expect("it is sound");
    let gateway = gateway.start_plain().expect("it starts");
    let mut client = Asker::to(&gateway);
    let both = client.get("/");
    let cookies = both
        .head
        .lines()
        .filter(|line| line.starts_with("Set-Cookie"));
    assert_eq!(cookies.count(), 2, "{}", both.head);
    let failed = client.ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
    assert_eq!((failed.status(), failed.field("set-cookie")), (502, None));
    let missing = Asker::to(&gateway).get("/");
    assert_eq!(missing.status(), 404);
    assert!(missing.field("set-cookie").is_some());
}

#[test]
fn the_file_has_splits_and_an_explanation_tells_them() {
    let folder = Folder::new();
    let file = |route: &str| {
        folder.write(
            "gateway.toml",
            format!(
                "[[listen]]\non = \"tcp://127.0.0.1:0\"\n[[route]]\n{route}\n\
                 [pool.api]\nnodes = [\"http://127.0.0.1:9000\"]\n\
                 [pool.canary]\nnodes = [\"http://127.0.0.1:9001\"]\n"
            ),
        );
        Gateway::from_file(folder.path("gateway.toml"))
    };
    let sound = file(
        "split = { api = 95, canary = 5 }\nsticky = \"cookie:release\"\n\
         when = [{ header = \"X-Canary\", value = \"yes\", pool = \"canary\" }, { cookie = \"beta\", pool = \"canary\" }]",
    )
    .expect("it is sound");
    let route = &sound.settings().routes[0];
    let mut wanted = RouteSettings::split([("api", 95), ("canary", 5)]);
    wanted.sticky = Some("release".to_owned());
    wanted.when = vec![
        PoolRule::header("X-Canary", "canary").value("yes"),
        PoolRule::cookie("beta", "canary"),
    ];
    assert_eq!(*route, wanted);
    let text = explained(&folder.path("gateway.toml"));
    let wanted = "chooses   canary if the field X-Canary is \"yes\"; else canary if the cookie beta is there; else the pool \
                  that the cookie release names; else api 95 of 100, canary 5 of 100";
    assert!(text.contains(wanted), "{text}");
    assert!(text.contains("node      http://127.0.0.1:9000"), "{text}");

    for (route, wanted) in [
        (
            "split = { api = 1, none = 1 }",
            ":4:9: route[0].split: there is no pool \"none\"",
        ),
        (
            "split = { api = 0 }",
            ":4:9: route[0].split: use weights of 1 to 10000 in total",
        ),
        (
            "split = { api = 1 }\npool = \"api\"",
            ":5:8: route[0].pool: the split names all pools",
        ),
        (
            "pool = \"api\"\nsticky = \"cookie:a\"",
            ":5:10: route[0].sticky: only a split needs it",
        ),
        (
            "split = { api = 1 }\nsticky = \"a\"",
            ":5:10: route[0].sticky: write \"cookie:NAME\"",
        ),
        (
            "split = { api = 1 }\nsticky = \"cookie:a b\"",
            "it is no name of a cookie",
        ),
        (
            "pool = \"api\"\nwhen = [{ header = \"A\" }]",
            ":5:9: route[0].when[0]: it needs `header` or `cookie`, and `pool`",
        ),
        (
            "pool = \"api\"\nwhen = [{ header = \"A\", pool = \"none\" }]",
            "there is no pool \"none\"",
        ),
    ] {
        let text = file(route).expect_err(route).to_string();
        assert!(text.contains(wanted), "{wanted}\n{text}");
    }
    let mut odd = RouteSettings::split([("a;b", 1)]);
    odd.sticky = Some("s".to_owned());
    let pool = PoolSettings::of(["http://127.0.0.1:9000"]);
    let built = Gateway::builder()
        .listen("tcp://127.0.0.1:0")
        .pool("a;b", pool)
        .route(odd)
        .build();
    let error = built
        .expect_err("the name is no value of a cookie")
        .to_string();
    assert!(error.contains("letters, digits and hyphens"), "{error}");
}
