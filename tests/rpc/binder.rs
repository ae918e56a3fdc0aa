//! The plugin `binder`: parameters from body, query and session, and their rules.

use std::io::{Read, Write};
use std::net::TcpStream;

use epicycle::rpc::plugins::binder::{Binder, Rules, Source};
use epicycle::rpc::{Peer, Router};
use serde::{Deserialize, Serialize};

use crate::ends::{dial, listening, start};
use crate::recordings::recorded;
use crate::util::LONG;

#[derive(Default, Deserialize, Serialize)]
#[serde(default)]
struct Order {
    #[serde(rename = "A")]
    a: i64,
    #[serde(rename = "B")]
    b: i64,
    name: String,
    lines: Vec<u8>,
    ratio: f64,
    #[serde(skip)]
    page: Option<u32>,
    #[serde(skip)]
    user: String,
}

fn division() -> Router {
    let divisor = Rules::new().range(1..=100);
    let binder = Binder::new().body("b", |order: &Order| &order.b, divisor);
    let mut routes = Router::new();
    routes.call(
        "/math/divide",
        binder.call(|_ctx, order| Ok(order.a / order.b)),
    );
    routes
}

#[test]
fn the_recorded_refusal_is_sent_byte_for_byte() {
    let rows = recorded();
    let rows: Vec<_> = (rows.iter())
        .filter(|row| row.scenario == "binder_range")
        .collect();
    let [sent, expected] = &rows[..] else {
        assert!(rows.is_empty(), "{} rows", rows.len());
        return;
    };
    let server = start(listening().routes(division()));
    let addr = server.local_addrs()[0].as_socket_addr().expect("is TCP");
    let mut socket = TcpStream::connect(addr).expect("connects");
    socket.set_read_timeout(Some(LONG)).expect("is set");
    socket.write_all(&sent.bytes).expect("is sent");
    let mut answer = vec![0; expected.bytes.len()];
    socket.read_exact(&mut answer).expect("is answered");
    assert_eq!(answer, expected.bytes);
}

fn orders() -> Router {
    let binder = || {
        Binder::new()
            .body("b", |order: &Order| &order.b, Rules::new().range(1..10))
            .body(
                "name",
                |order: &Order| &order.name,
                Rules::new().nonzero().len(2..=4),
            )
            .body(
                "lines",
                |order: &Order| &order.lines,
                Rules::new().len(..3).err(1001, "Bad Lines"),
            )
            .body(
                "ratio",
                |order: &Order| &order.ratio,
                Rules::new().range(0.0..),
            )
            .body(
                "name",
                |order: &Order| &order.name,
                Rules::new().check(|name: &String| match &**name {
                    "root" => Err("reserved".to_owned()),
                    _ => Ok(()),
                }),
            )
            .query(
                "page",
                |order, page| order.page = Some(page),
                Rules::new().range(1..=9).desc("from 1"),
            )
            .swap(
                "user",
                |order, user: &String| order.user = user.clone(),
                Rules::new().nonzero(),
            )
    };
    let mut routes = Router::new();
    let show = |order: Order| Ok(format!("{} {:?} {}", order.b, order.page, order.user));
    routes.call("/order", binder().call(move |_ctx, order| show(order)));
    routes.call_blocking("/blocking", binder().call(move |_ctx, order| show(order)));
    let later = binder();
    routes.call_later("/later", move |ctx, order, reply| {
        reply.send(later.bind(ctx, order).and_then(show));
    });
    routes.call("/login", |ctx, user: String| {
        ctx.swap().set("user", user);
        Ok(())
    });
    routes
}

#[test]
fn parameters_that_break_a_rule_are_named_and_others_reach_the_handler() {
    let server = start(listening().routes(orders()));
    let client = start(Peer::builder());
    let session = dial(&client, &server);
    let order = |change: fn(&mut Order)| {
        let mut order = Order {
            b: 1,
            name: "abc".to_owned(),
            ..Order::default()
        };
        change(&mut order);
        order
    };
    let call = |uri: &str, order: &Order| session.call::<_, String>(uri, order).wait();
    let status = call("/order", &order(|_| {})).expect_err("nobody has logged in");
    let reason = r#"{"handler": "/order", "param": "user", "reason": "not set"}"#;
    assert_eq!((status.code, &*status.reason), (400, reason));
    session.call::<_, ()>("/login", "me").wait().expect("works");
    for path in ["/order", "/blocking", "/later"] {
        assert_eq!(call(path, &order(|_| {})).as_deref(), Ok("1 None me"));
        let paged = format!("{path}?page=9&page=0");
        assert_eq!(call(&paged, &order(|_| {})).as_deref(), Ok("1 Some(9) me"));
    }
    type Change = fn(&mut Order);
    let cases: [(&str, Change, &str, &str); 11] = [
        ("", |order| order.b = 0, "b", "smaller than 1: 0"),
        ("", |order| order.b = 10, "b", "not smaller than 10: 10"),
        ("", |order| order.name.clear(), "name", "not set"),
        (
            "",
            |order| order.name = "é".to_owned(),
            "name",
            "shorter than 2: 1",
        ),
        (
            "",
            |order| order.name = "éèêëe".to_owned(),
            "name",
            "longer than 4: 5",
        ),
        (
            "",
            |order| order.ratio = -0.5,
            "ratio",
            "smaller than 0: -0.5",
        ),
        (
            "",
            |order| order.name = "root".to_owned(),
            "name",
            "reserved",
        ),
        ("?page=0", |_| {}, "page", "smaller than 1: 0"),
        ("?page=10", |_| {}, "page", "bigger than 9: 10"),
        ("?page=%22", |_| {}, "page", "malformed"),
        ("?page", |_| {}, "page", "malformed"),
    ];
    for (query, change, param, reason) in cases {
        let status = call(&format!("/order{query}"), &order(change)).expect_err("is refused");
        let expected =
            format!(r#"{{"handler": "/order", "param": "{param}", "reason": "{reason}"}}"#);
        assert_eq!((status.code, &*status.message), (400, "Invalid Parameter"));
        assert_eq!(status.reason, expected);
    }
    let status =
        call("/order", &order(|order| order.lines = vec![1, 2, 3])).expect_err("is refused");
    assert_eq!((status.code, &*status.message), (1001, "Bad Lines"));
}

#[test]
fn a_binder_describes_its_parameters_and_has_a_refusal_of_its_own() {
    let binder = Binder::new().err(1000, "No").query(
        "q",
        |_: &mut u8, _: u8| {},
        Rules::new().nonzero().desc("a number"),
    );
    let [param] = binder.params() else {
        panic!("{:?}", binder.params());
    };
    assert_eq!(
        (&*param.name, param.source, &*param.desc),
        ("q", Source::Query, "a number")
    );
    let mut routes = Router::new();
    routes.call("/\"", binder.call(|_ctx, n: u8| Ok(n)));
    let server = start(listening().routes(routes));
    let client = start(Peer::builder());
    let status = dial(&client, &server)
        .call::<_, u8>("/\"", &1u8)
        .wait()
        .expect_err("is refused");
    assert_eq!((status.code, &*status.message), (1000, "No"));
    let reason: serde_json::Value = serde_json::from_str(&status.reason).expect("is JSON");
    assert_eq!(reason["handler"], "/\"");
}

#[cfg(feature = "rpc-regexp")]
#[test]
fn a_text_is_matched_with_a_regular_expression() {
    let word = Rules::new().regexp(r"^\w+$").expect("is one");
    let binder = Binder::new().body("name", |name: &String| name, word);
    assert!(Rules::<String>::new().regexp("(").is_err());
    let mut routes = Router::new();
    routes.call("/name", binder.call(|_ctx, name| Ok(name)));
    let server = start(listening().routes(routes));
    let client = start(Peer::builder());
    let session = dial(&client, &server);
    let call = |name: &str| session.call::<_, String>("/name", name).wait();
    assert_eq!(call("äb1").as_deref(), Ok("äb1"));
    let status = call("a b").expect_err("is refused");
    assert!(
        status.reason.contains(r#""does not match ^\\w+$""#),
        "{status}"
    );
}
