//! Connects by way of other proxies: `via` of pools and of listeners.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::thread;
use std::time::Duration;

use epicycle::gateway::settings::{ListenerKind, ListenerSettings, PoolSettings, RouteSettings};
use epicycle::gateway::{NoHooks, Running};
use log::Level;

use crate::forward::{connect, get, listener, opened, start, with_users};
use crate::peers::{Asker, Origin, builder, ok, pool_of, with_listener};
use crate::socks::Target;
use crate::util::eventually;
use crate::util::logs::logs;
use crate::util::ports::DeadPort;

fn addr_of(gateway: &Running<NoHooks>) -> SocketAddr {
    let addr = gateway.local_addrs()[0].as_socket_addr();
    addr.expect("an address")
}

fn via(text: impl AsRef<str>, mut listener: ListenerSettings) -> ListenerSettings {
    listener.via = Some(text.as_ref().parse().expect("is a proxy"));
    listener
}

fn socks(mut listener: ListenerSettings) -> ListenerSettings {
    listener.kind = ListenerKind::Socks5;
    listener
}

#[test]
fn requests_and_tunnels_go_by_way_of_another_proxy() {
    let (origin, target) = (Origin::start(|_, _| ok("far")), Target::start());
    let rules = ["127.0.0.0/8:*", "localhost:*"];
    let http = start(with_users(listener(&rules)));
    let socks5 = start(socks(with_users(listener(&rules))));
    let open = start(socks(listener(&rules)));
    for proxy in [
        format!("http://alice:secret@{}", addr_of(&http)),
        format!("socks5://alice:secret@{}", addr_of(&socks5)),
        format!("socks5://{}", addr_of(&open)),
    ] {
        let near = start(via(&proxy, listener(&["127.0.0.0/8:*", "localhost:*"])));
        let mut client = Asker::to(&near);
        for _ in 0..2 {
            let response = client.ask(get(origin.addr, ""));
            assert_eq!(
                (response.status(), response.text()),
                (200, "far"),
                "{proxy}"
            );
        }
        // The proxy looks the name up.
        let to = format!("localhost:{}", target.addr.port());
        client.send(connect(&to, "") + "ping");
        opened(&mut client);
        assert_eq!(client.recv(4), b"ping", "{proxy}");
        client.end_writes();
        assert_eq!(client.recv_to_end(), b"");
    }
    assert_eq!((origin.accepted(), target.accepted()), (3, 3));
    eventually("the tunnels have ended", || target.ended() == 3);
}

#[test]
fn a_pool_reaches_its_nodes_by_way_of_a_proxy() {
    let origin = Origin::start(|_, _| ok("far"));
    let proxy = start(listener(&["127.0.0.0/8:*"]));
    let mut pool = pool_of(&origin);
    pool.via = Some(
        format!("http://{}", addr_of(&proxy))
            .parse()
            .expect("is a proxy"),
    );
    let gateway = builder(pool).route(RouteSettings::to("app")).build();
    let gateway = gateway
        .expect("it is sound")
        .start_plain()
        .expect("it starts");
    assert_eq!(Asker::to(&gateway).get("/").text(), "far");
    let metrics = proxy.control().metrics();
    assert!(
        metrics.contains("epicycle_gateway_tunnels 1\n"),
        "{metrics}"
    );
}

#[test]
fn the_log_and_an_explanation_name_the_proxy() {
    logs();
    let dead = DeadPort::new();
    // It accepts nobody, and the kernel connects them.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    for (proxy, status, why) in [
        (dead.addr, 502, "refused"),
        (
            silent.local_addr().expect("an address"),
            504,
            "longer than the connect timeout",
        ),
    ] {
        let proxy = format!("socks5://alice:secret@{proxy}");
        let told = proxy.replace("alice:secret@", "");
        let mut settings = via(&proxy, listener(&["127.0.0.0/8:*", "far.test:*"]));
        settings.tunnels.connect = Duration::from_millis(100);
        let near = start(settings.clone());
        for request in [connect("127.0.0.1:25", ""), get("127.0.0.1:25", "")] {
            assert_eq!(Asker::to(&near).ask(request).status(), status);
        }
        let by = format!("by way of {told}");
        eventually("both are logged", || {
            let lines = logs().with(&by).into_iter();
            let is_told = |(level, line): &(Level, String)| {
                *level == Level::Warn && line.contains(why) && !line.contains("secret")
            };
            lines.filter(is_told).count() == 2
        });
        let mut pool = PoolSettings::of(["http://127.0.0.1:9"]);
        pool.via = Some(proxy.parse().expect("is a proxy"));
        let gateway = with_listener(settings, pool)
            .listen("tcp://127.0.0.2:8080")
            .route(RouteSettings::to("app"))
            .build()
            .expect("it is sound");
        for (request, wanted) in [
            ("GET http://a.test:8080/", "http://127.0.0.1:9"),
            ("GET http://far.test:81/", "far.test:81"),
            ("CONNECT far.test:443", "the proxy looks it up"),
        ] {
            let text = gateway.explain(request).expect("is a request").to_string();
            let line = format!("via       {told}");
            assert!(text.contains(wanted) && text.contains(&line), "{text}");
        }
    }
}

/// A proxy that awaits each of the messages, and answers it with these bytes, cut at this place.
fn scripted(answers: &'static [(usize, &'static [u8])], cut: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            stream.set_nodelay(true).expect("is set");
            let mut sent = 0;
            for (len, answer) in answers {
                let mut asked = vec![0; *len];
                match len {
                    // A head of HTTP.
                    0 => {
                        while !asked.ends_with(b"\r\n\r\n") {
                            let mut byte = [0];
                            stream.read_exact(&mut byte).expect("it comes");
                            asked.push(byte[0]);
                        }
                    }
                    _ => stream.read_exact(&mut asked).expect("it comes"),
                }
                let (first, rest) = answer.split_at(cut.saturating_sub(sent).min(answer.len()));
                sent += answer.len();
                stream.write_all(first).expect("it is taken");
                if !first.is_empty() && !rest.is_empty() {
                    thread::sleep(Duration::from_millis(2));
                }
                stream.write_all(rest).expect("it is taken");
            }
            let _ = stream.read(&mut [0; 64]);
        }
    });
    addr
}

const SOCKS: &[(usize, &[u8])] = &[
    (3, b"\x05\x00"),
    (10, b"\x05\x00\x00\x01\x7f\x00\x00\x01\x12\x34220 hello"),
];
const HTTP: &[(usize, &[u8])] = &[(
    0,
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 200 Yes\r\nA: b\r\n\r\n220 hello",
)];

#[test]
fn answers_of_a_proxy_may_come_in_any_pieces_with_the_target_behind_them() {
    for (scheme, answers) in [("socks5", SOCKS), ("http", HTTP)] {
        let all: usize = answers.iter().map(|(_, answer)| answer.len()).sum();
        for cut in 0..all {
            let proxy = scripted(answers, cut);
            let near = start(via(
                format!("{scheme}://{proxy}"),
                listener(&["127.0.0.0/8:*"]),
            ));
            let mut client = Asker::to(&near);
            client.send(connect("127.0.0.1:25", ""));
            opened(&mut client);
            assert_eq!(client.recv(9), b"220 hello", "{scheme}, cut at {cut}");
        }
    }
}

/// The answers of a scripted proxy: after how many bytes, and what.
type Answers = &'static [(usize, &'static [u8])];

#[test]
fn what_a_proxy_refuses_is_told() {
    const LONG: &[u8] = &[b'x'; 20 << 10];
    let cases: Vec<(&str, Answers, u16)> = vec![
        ("socks5", &[(3, b"\x05\xff")], 502),
        ("socks5", &[(3, b"\x05\x02")], 502),
        ("socks5", &[(3, b"\x04\x00")], 502),
        (
            "socks5",
            &[
                (3, b"\x05\x00"),
                (10, b"\x05\x02\x00\x01\x00\x00\x00\x00\x00\x00"),
            ],
            403,
        ),
        (
            "socks5",
            &[
                (3, b"\x05\x00"),
                (10, b"\x05\x05\x00\x01\x00\x00\x00\x00\x00\x00"),
            ],
            502,
        ),
        (
            "socks5",
            &[
                (3, b"\x05\x00"),
                (10, b"\x05\x00\x00\x09\x00\x00\x00\x00\x00\x00"),
            ],
            502,
        ),
        ("http", &[(0, b"HTTP/1.1 407 No\r\n\r\n")], 502),
        ("http", &[(0, b"HTTP/1.1 403 No\r\n\r\n")], 403),
        ("http", &[(0, b"HTTP/1.1 504 No\r\n\r\n")], 504),
        ("http", &[(0, b"SSH-2.0-x\r\n\r\n")], 502),
        ("http", &[(0, LONG)], 502),
    ];
    for (scheme, answers, status) in cases {
        let proxy = scripted(answers, 0);
        let near = start(via(
            format!("{scheme}://{proxy}"),
            listener(&["127.0.0.0/8:*"]),
        ));
        let response = Asker::to(&near).ask(connect("127.0.0.1:25", ""));
        assert_eq!(response.status(), status, "{scheme} {answers:?}");
        assert_eq!(
            Asker::to(&near).ask(get("127.0.0.1:25", "")).status(),
            status
        );
    }
    // It ends the connection, or says nothing.
    let silent: [Answers; 2] = [&[(3, b"")], &[]];
    for answers in silent {
        let proxy = scripted(answers, 0);
        let mut settings = via(format!("socks5://{proxy}"), listener(&["127.0.0.0/8:*"]));
        settings.tunnels.connect = Duration::from_millis(200);
        let near = start(settings);
        let response = Asker::to(&near).ask(connect("127.0.0.1:25", ""));
        assert!(matches!(response.status(), 502 | 504), "{}", response.head);
    }
}
