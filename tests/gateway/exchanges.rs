//! Exchanges that do not go as they should: timeouts, clients that leave, bodies that are too long; and other transports.

use std::net::TcpListener;
use std::sync::atomic::Ordering;
use std::time::Duration;

use epicycle::Server;
use epicycle::gateway::settings::{
    ListenerSettings, OnFin, PoolSettings, ProxyVersion, RouteSettings, Underscores,
};

use crate::peers::{Asker, Deed, Origin, builder, figure, ok, pool_of, start, with_listener};
use crate::util::client::TempPath;
use crate::util::eventually;
use crate::util::ports::MutePort;

const SHORT: Duration = Duration::from_millis(60);

#[test]
fn a_node_that_does_not_begin_its_response_in_time_is_a_504() {
    let origin = Origin::start(|_, _| Deed::Hang);
    let mut pool = pool_of(&origin);
    pool.timeouts.response_head = SHORT;
    let gateway = start(pool);
    let mut client = Asker::to(&gateway);
    assert_eq!(client.get("/").status(), 504);
    eventually("the node's connection is closed", || origin.ended() == 1);
    // The client's goes on.
    assert_eq!(client.get("/").status(), 504);
}

#[test]
fn a_response_that_others_may_read_in_another_way_is_a_502() {
    for line in [
        "HTTP/1.2 200 OK",
        "HTTP/2.0 200 OK",
        "HTTP/1.1 600 Odd",
        "HTTP/1.1 099 Odd",
        "HTTP/1.1 103 Hints\r\n\r\nHTTP/1.9 200 OK",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked",
        "HTTP/1.1 200 OK\r\nA: b\rc",
    ] {
        let response = format!("{line}\r\nContent-Length: 2\r\n\r\nok");
        let origin = Origin::start(move |_, _| Deed::Send(response.clone().into_bytes()));
        let gateway = start(pool_of(&origin));
        let mut client = Asker::to(&gateway);
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let mut answer = client.response().expect("an answer");
        if answer.status() == 103 {
            answer = client.response().expect("another one");
        }
        assert_eq!(answer.status(), 502, "{line}");
        eventually("its connection is closed", || origin.ended() == 1);
    }
}

#[test]
fn a_node_that_stops_in_a_body_cuts_the_response() {
    let origin = Origin::start(|_, _| {
        Deed::Send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf".to_vec())
    });
    let mut pool = pool_of(&origin);
    pool.timeouts.body_idle = SHORT;
    let gateway = start(pool);
    let mut client = Asker::to(&gateway);
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let cut = client.response().expect("the head");
    assert_eq!((cut.text(), cut.is_complete), ("half", false));
}

#[test]
fn a_whole_exchange_has_a_limit_if_it_is_set() {
    let origin = Origin::start(|_, _| Deed::Hang);
    let mut pool = pool_of(&origin);
    pool.timeouts.request = SHORT;
    let gateway = start(pool);
    let mut client = Asker::to(&gateway);
    assert_eq!(client.get("/").status(), 504);
    eventually("the node's connection is closed", || origin.ended() == 1);
}

#[test]
fn a_head_that_comes_too_slowly_is_a_408() {
    let origin = Origin::start(|_, _| ok(""));
    let mut listener = ListenerSettings::new("tcp://127.0.0.1:0");
    listener.timeouts.head = SHORT;
    let gateway = with_listener(listener, pool_of(&origin)).route(RouteSettings::to("app"));
    let gateway = gateway
        .build()
        .expect("is sound")
        .start_plain()
        .expect("it starts");
    let mut client = Asker::to(&gateway);
    assert_eq!(client.ask("GET / HTTP/1.1\r\nHo").status(), 408);
}

#[test]
fn the_gateway_says_100_itself_when_the_node_is_silent() {
    let origin = Origin::start(|_, request| ok(&request.body));
    let mut pool = pool_of(&origin);
    pool.timeouts.expect_continue = SHORT;
    let gateway = start(pool);
    let mut client = Asker::to(&gateway);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(client.response().expect("the 100").status(), 100);
    client.send("hello");
    assert_eq!(client.response().expect("the answer").text(), "hello");
    assert_eq!(origin.requests()[0].field("expect"), Some("100-continue"));
}

#[test]
fn a_client_that_leaves_ends_the_nodes_work() {
    let origin = Origin::start(|_, _| Deed::Hang);
    let gateway = start(pool_of(&origin));
    for (n, by_reset) in [true, false].into_iter().enumerate() {
        let mut client = Asker::to(&gateway);
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        eventually("it is there", || origin.requests().len() == n + 1);
        match by_reset {
            true => client.reset(),
            false => client.end_writes(),
        }
        eventually("it is cancelled", || origin.ended() == n + 1);
    }
}

#[test]
fn a_client_that_ends_its_stream_is_answered_if_that_is_set() {
    let (hold, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let origin = Origin::start(move |_, _| {
        let _ = wait.lock().expect("sound").recv();
        ok("done")
    });
    let mut listener = ListenerSettings::new("tcp://127.0.0.1:0");
    listener.on_fin = OnFin::Finish;
    let gateway = with_listener(listener, pool_of(&origin)).route(RouteSettings::to("app"));
    let gateway = gateway
        .build()
        .expect("is sound")
        .start_plain()
        .expect("it starts");
    let mut client = Asker::to(&gateway);
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("it is there", || origin.requests().len() == 1);
    client.end_writes();
    drop(hold);
    assert_eq!(client.response().expect("an answer").text(), "done");
    assert!(client.recv_to_end().is_empty());
}

#[test]
fn a_body_beyond_the_limit_of_its_route_is_a_413() {
    let origin = Origin::start(|_, request| ok(&request.body));
    let mut route = RouteSettings::to("app");
    route.max_body = Some(4);
    let gateway = builder(pool_of(&origin))
        .route(route)
        .build()
        .expect("is sound");
    let gateway = gateway.start_plain().expect("it starts");
    let sized = |len: usize| {
        let body = "x".repeat(len);
        format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {len}\r\n\r\n{body}")
    };
    assert_eq!(Asker::to(&gateway).ask(sized(4)).text(), "xxxx");
    assert_eq!(Asker::to(&gateway).ask(sized(5)).status(), 413);
    let chunked =
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    assert_eq!(Asker::to(&gateway).ask(chunked).status(), 413);
}

#[test]
fn small_bodies_are_gathered_before_a_node_hears_of_them() {
    let origin = Origin::start(|_, request| ok(&request.body));
    let mut route = RouteSettings::to("app");
    route.buffer_request = 100;
    let gateway = builder(pool_of(&origin))
        .route(route)
        .build()
        .expect("is sound");
    let gateway = gateway.start_plain().expect("it starts");
    let mut client = Asker::to(&gateway);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello");
    let mut other = Asker::to(&gateway);
    assert_eq!(other.get("/").status(), 200);
    assert_eq!(origin.requests().len(), 1);
    client.send("world");
    assert_eq!(client.response().expect("an answer").text(), "helloworld");
    // A longer one is streamed.
    let long = "x".repeat(1000);
    let answer = client.ask(format!(
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3e8\r\n{long}\r\n0\r\n\r\n"
    ));
    assert_eq!(answer.text(), long);
}

#[test]
fn an_early_answer_is_passed_on_at_once_and_the_upload_ends() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        use std::io::{Read, Write};
        let (mut stream, _) = listener.accept().expect("a connection");
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno");
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    let gateway = start(PoolSettings::of([format!("http://{addr}")]));
    let mut client = Asker::to(&gateway);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\npart");
    let answer = client.response().expect("an answer");
    assert_eq!((answer.status(), answer.text()), (403, "no"));

    assert!(client.recv_to_end().is_empty());
}

#[test]
fn a_tunnel_carries_bytes_both_ways_and_half_closes() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = listener.local_addr().expect("an address");
    let echo = std::thread::spawn(move || {
        use std::io::{BufRead, BufReader, Read, Write};
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut input = BufReader::new(stream.try_clone().expect("a copy"));
        let mut line = String::new();
        while input.read_line(&mut line).expect("a line") > 2 {}
        let head = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhi";
        stream.write_all(head.as_bytes()).expect("is sent");
        let mut rest = Vec::new();
        input.read_to_end(&mut rest).expect("it ends");
        stream.write_all(&rest).expect("the other half is open");
        line
    });
    let gateway = start(PoolSettings::of([format!("http://{addr}")]));
    let mut client = Asker::to(&gateway);
    // Bytes that are sent early are held back until the protocol has changed.
    client.send(
        "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nearly ",
    );
    let answer = client.response().expect("the 101");
    assert_eq!(
        (answer.status(), answer.field("upgrade")),
        (101, Some("websocket"))
    );
    assert_eq!(client.recv(2), b"hi");
    client.send("late");
    client.end_writes();
    assert_eq!(client.recv_to_end(), b"early late");
    let head = echo.join().expect("it ends").to_ascii_lowercase();
    assert!(
        head.contains("upgrade: websocket") && head.contains("connection: upgrade"),
        "{head}"
    );
    eventually("nothing is left", || gateway.engine().connections() == 0);
}

#[test]
fn a_protocol_that_is_not_allowed_is_not_passed_on() {
    let origin = Origin::start(|_, _| ok("plain"));
    let gateway = start(pool_of(&origin));
    for protocol in ["h2c", "foo/2"] {
        let answer = Asker::to(&gateway).ask(format!(
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: {protocol}\r\nHTTP2-Settings: x\r\n\r\n"
        ));
        assert_eq!(answer.text(), "plain");
    }
    for request in origin.requests() {
        assert_eq!(request.field("upgrade"), None);
        assert_eq!(request.field("http2-settings"), None);
        assert_eq!(request.field("connection"), None);
    }
}

#[test]
fn a_change_of_protocol_that_others_may_read_in_another_way_is_a_502() {
    for fields in [
        "Upgrade: websocket",
        "Connection: keep-alive\r\nUpgrade: websocket",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 2",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked",
    ] {
        let response = format!("HTTP/1.1 101 Switching Protocols\r\n{fields}\r\n\r\nhi");
        let origin = Origin::start(move |_, _| Deed::Send(response.clone().into_bytes()));
        let gateway = start(pool_of(&origin));
        let answer = Asker::to(&gateway).ask(
            "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        );
        assert_eq!(answer.status(), 502, "{fields}");
        eventually("its connection is closed", || origin.ended() == 1);
    }
}

#[test]
fn nodes_may_be_unix_sockets() {
    let path = TempPath::new();
    let origin = Server::bind(path.addr()).reactors(1);
    let _origin = origin
        .start(|_| Telling(|_| "unix".to_owned()))
        .expect("it starts");
    let gateway = start(PoolSettings::of([path.addr()]));
    let mut client = Asker::to(&gateway);
    for _ in 0..2 {
        assert_eq!(client.get("/").text(), "unix");
    }
}

/// Answers each request with the text that a function makes of its connection.
pub(crate) struct Telling(pub(crate) fn(&epicycle::Conn<'_, Self>) -> String);

impl epicycle::EventHandler for Telling {
    type Codec = epicycle::http::HttpCodec;
    type Session = ();

    fn codec(&mut self, _: &epicycle::ConnInfo<'_>) -> Self::Codec {
        Self::Codec::default()
    }

    fn on_open(&mut self, _: &mut epicycle::Conn<'_, Self>) -> Option<()> {
        Some(())
    }

    fn react(
        &mut self,
        conn: &mut epicycle::Conn<'_, Self>,
        (): &mut (),
        _: epicycle::http::ServerRequest<'_>,
    ) -> epicycle::Action {
        let text = (self.0)(conn);
        conn.send(epicycle::http::ServerResponse::ok().body(&text))
            .into()
    }
}

#[test]
fn a_header_of_the_proxy_protocol_names_each_client_to_the_node() {
    let origin = Origin::start(|_, _| ok("x"));
    let listener = epicycle::Listen::on("tcp://127.0.0.1:0")
        .proxy_protocol(epicycle::ProxyProtocol::trust(["127.0.0.0/8"]));
    let told = Server::bind(listener)
        .reactors(1)
        .start(|_| Telling(|conn| conn.peer_addr().to_string()))
        .expect("it starts");
    drop(origin);
    let to = told.local_addrs()[0].as_socket_addr().expect("an address");
    for version in [ProxyVersion::V1, ProxyVersion::V2] {
        let mut pool = PoolSettings::of([format!("http://{to}")]);
        pool.proxy_protocol = Some(version);
        let gateway = start(pool);
        let mut clients = [Asker::to(&gateway), Asker::to(&gateway)];
        for client in &mut clients {
            let own = client
                .stream
                .get_ref()
                .local_addr()
                .expect("an address")
                .to_string();
            for _ in 0..2 {
                assert_eq!(client.get("/").text(), own);
            }
        }
        eventually("one for each", || told.engine().connections() == 2);
        drop(clients);
        eventually("they end with their clients", || {
            told.engine().connections() == 0
        });
    }
}

#[test]
fn a_client_that_leaves_while_a_connection_of_its_own_is_dialled_leaves_no_dial_behind() {
    let silent = MutePort::new();
    let mut pool = PoolSettings::of([format!("http://{}", silent.addr)]);
    pool.proxy_protocol = Some(ProxyVersion::V2);
    pool.timeouts.connect = Duration::from_secs(3600);
    pool.connections.max_connections = Some(1);
    let gateway = start(pool);
    for _ in 0..3 {
        let mut client = Asker::to(&gateway);
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        eventually("it is dialled", || {
            figure(&gateway, |proxy| proxy.dials()) == 1
        });
        client.reset();
        eventually("its dial has gone, and its place", || {
            figure(&gateway, |proxy| proxy.dials() + proxy.node_connections()) == 0
        });
    }
}

#[test]
fn fields_about_the_client_are_set_whatever_it_sends() {
    let origin = Origin::start(|_, _| ok(""));
    let gateway = start(pool_of(&origin));
    let mut client = Asker::to(&gateway);
    client.ask(
        "GET / HTTP/1.1\r\nHost: a.test:81\r\nX-Forwarded-For: 9.9.9.9\r\nX-Real-IP: 9.9.9.9\r\n\
         X-Forwarded-Host: evil\r\nX_Forwarded_For: 8.8.8.8\r\nConnection: X-Real-IP\r\n\r\n",
    );
    let request = &origin.requests()[0];
    let port = gateway.local_addrs()[0]
        .as_socket_addr()
        .expect("an address")
        .port();
    for (name, value) in [
        ("x-forwarded-for", Some("9.9.9.9, 127.0.0.1")),
        ("x-real-ip", Some("127.0.0.1")),
        ("x-forwarded-proto", Some("http")),
        ("x-forwarded-host", Some("a.test:81")),
        ("x-forwarded-port", Some(&*port.to_string())),
        ("x_forwarded_for", None),
        ("via", Some("1.1 epicycle")),
        ("host", Some("a.test:81")),
        ("connection", None),
        ("user-agent", None),
        ("accept-encoding", None),
    ] {
        assert_eq!(request.field(name), value, "{name}");
    }
}

#[test]
fn only_trusted_proxies_tell_about_clients() {
    let origin = Origin::start(|_, _| ok(""));
    for (trusted, xff, real, proto) in [
        (
            "127.0.0.0/8",
            "1.1.1.1, 2.2.2.2, 127.0.0.9, 127.0.0.1",
            "2.2.2.2",
            "https",
        ),
        ("10.0.0.0/8", "127.0.0.1", "127.0.0.1", "http"),
    ] {
        let mut listener = ListenerSettings::new("tcp://127.0.0.1:0");
        listener.forwarding.trusted = vec![trusted.parse().expect("a network")];
        let gateway = with_listener(listener, pool_of(&origin)).route(RouteSettings::to("app"));
        let gateway = gateway
            .build()
            .expect("is sound")
            .start_plain()
            .expect("it starts");
        Asker::to(&gateway).ask(
            "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.1.1.1, 2.2.2.2\r\nX-Forwarded-For: 127.0.0.9\r\n\
             X-Forwarded-Proto: https\r\nForwarded: for=1.1.1.1\r\n\r\n",
        );
        let request = origin.requests().pop().expect("it came");
        assert_eq!(request.field("x-forwarded-for"), Some(xff));
        assert_eq!(request.field("x-real-ip"), Some(real));
        assert_eq!(request.field("x-forwarded-proto"), Some(proto));
    }
}

#[test]
fn a_client_is_the_same_for_every_part_although_its_proxy_nominates_the_list() {
    let origin = Origin::start(|_, _| ok(""));
    let request = |field: &str| {
        format!(
            "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.1.1.1, 2.2.2.2\r\nConnection: {field}\r\n\r\n"
        )
    };
    let mut listener = ListenerSettings::new("tcp://127.0.0.1:0");
    listener.forwarding.trusted = vec!["127.0.0.0/8".parse().expect("a network")];
    let mut denying = listener.clone();
    denying.access.deny = vec!["2.2.2.2/32".parse().expect("a network")];
    let mut allowing = RouteSettings::to("app");
    allowing.access.allow = vec!["127.0.0.1/32".parse().expect("a network")];
    for (listener, route, status) in [
        (listener.clone(), RouteSettings::to("app"), 200),
        (denying, RouteSettings::to("app"), 403),
        (listener, allowing, 403),
    ] {
        let gateway = with_listener(listener, pool_of(&origin)).route(route);
        let gateway = gateway.build().expect("is sound").start_plain();
        let gateway = gateway.expect("it starts");
        for field in ["X-Other", "X-Forwarded-For", "x-forwarded-for, close"] {
            let answer = Asker::to(&gateway).ask(request(field));
            assert_eq!(answer.status(), status, "{field}");
        }
    }
    for (request, list) in origin.requests().iter().zip([
        "1.1.1.1, 2.2.2.2, 127.0.0.1",
        "2.2.2.2, 127.0.0.1",
        "2.2.2.2, 127.0.0.1",
    ]) {
        assert_eq!(request.field("x-forwarded-for"), Some(list));
        assert_eq!(request.field("x-real-ip"), Some("2.2.2.2"));
    }
    assert_eq!(origin.requests().len(), 3);
}

#[test]
fn requests_that_no_node_may_get_are_refused() {
    let origin = Origin::start(|_, _| ok(""));
    let mut listener = ListenerSettings::new("tcp://127.0.0.1:0");
    listener.underscores = Underscores::Refuse;
    let gateway = with_listener(listener, pool_of(&origin));
    let gateway = gateway
        .route(RouteSettings::to("app").host("a.test"))
        .build()
        .expect("is sound");
    let gateway = gateway.start_plain().expect("it starts");
    for (request, status) in [
        (
            "CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n",
            405,
        ),
        ("TRACE / HTTP/1.1\r\nHost: a.test\r\n\r\n", 405),
        ("GET / HTTP/1.1\r\nHost: b.test\r\n\r\n", 404),
        ("GET / HTTP/1.1\r\nHost: a.test\r\nX_A: 1\r\n\r\n", 400),
        (
            "GET / HTTP/1.1\r\nHost: a.test\r\nUpgrade: a b\r\n\r\n",
            400,
        ),
        (
            "GET / HTTP/1.1\r\nHost: a.test\r\nVia: 1.1 x, 1.1 epicycle, 1.1 Epicycle\r\n\r\n",
            508,
        ),
        (
            "OPTIONS * HTTP/1.1\r\nHost: a.test\r\nMax-Forwards: 0\r\n\r\n",
            204,
        ),
        ("GET / HTTP/1.1\r\nHost: a.test\r\nExpect: tea\r\n\r\n", 417),
    ] {
        assert_eq!(
            Asker::to(&gateway).ask(request).status(),
            status,
            "{request}"
        );
    }
    assert!(origin.requests().is_empty());
    let passed =
        "OPTIONS / HTTP/1.1\r\nHost: a.test\r\nMax-Forwards: 2\r\nVia: 1.1 epicycle\r\n\r\n";
    assert_eq!(Asker::to(&gateway).ask(passed).status(), 200);
    assert_eq!(origin.requests()[0].field("max-forwards"), Some("1"));
}

#[test]
fn routes_change_targets_hosts_and_fields() {
    let origin = Origin::start(|_, _| {
        Deed::Send(b"HTTP/1.1 200 OK\r\nServer: s\r\nContent-Length: 0\r\n\r\n".to_vec())
    });
    let mut route = RouteSettings::to("app").path("/api/*");
    route.strip_prefix = Some("/api".to_owned());
    route.add_prefix = Some("/v1/".to_owned());
    route.host_field = epicycle::gateway::settings::HostField::Node;
    route
        .request
        .set
        .push(("X-Env".to_owned(), "prod".to_owned()));
    route.request.remove.push("Cookie".to_owned());
    route.response.remove.push("Server".to_owned());
    route
        .response
        .add
        .push(("X-Served".to_owned(), "here".to_owned()));
    let gateway = builder(pool_of(&origin))
        .route(route)
        .build()
        .expect("is sound");
    let gateway = gateway.start_plain().expect("it starts");
    let mut client = Asker::to(&gateway);
    let answer =
        client.ask("GET /api/a%2f//b?c=%20 HTTP/1.1\r\nHost: a\r\nCookie: x\r\nX-Env: dev\r\n\r\n");
    assert_eq!(
        (answer.field("server"), answer.field("x-served")),
        (None, Some("here"))
    );
    let request = &origin.requests()[0];
    assert_eq!(request.first_line(), "GET /v1/a%2f//b?c=%20 HTTP/1.1");
    assert_eq!(request.field("host"), Some(&*origin.addr.to_string()));
    assert_eq!(
        (request.field("x-env"), request.field("cookie")),
        (Some("prod"), None)
    );
    assert_eq!(client.get("/other").status(), 404);
    assert_eq!(origin.accepted.load(Ordering::SeqCst), 1);
}

#[test]
fn the_node_that_is_tried_next_gets_its_own_host() {
    let gone = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", gone.local_addr().expect("an address"));
    drop(gone);
    let origin = Origin::start(|_, _| ok("fine"));
    let mut pool = PoolSettings::of([url, origin.url()]);
    pool.balance = epicycle::gateway::settings::BalanceBy::RoundRobin;
    for field in [
        epicycle::gateway::settings::HostField::Node,
        epicycle::gateway::settings::HostField::Keep,
    ] {
        let mut route = RouteSettings::to("app");
        route.host_field = field;
        let gateway = builder(pool.clone())
            .route(route)
            .build()
            .expect("is sound");
        let gateway = gateway.start_plain().expect("it starts");
        let answer = Asker::to(&gateway).ask("GET / HTTP/1.0\r\n\r\n");
        assert_eq!(answer.text(), "fine");
        let request = origin.requests().pop().expect("it came");
        assert_eq!(request.field("host"), Some(&*origin.addr.to_string()));
    }
}

#[test]
fn a_client_has_so_many_requests_on_a_connection() {
    let origin = Origin::start(|_, _| ok("fine"));
    let mut listener = ListenerSettings::new("tcp://127.0.0.1:0");
    listener.limits.max_requests = 2;
    let gateway = with_listener(listener, pool_of(&origin)).route(RouteSettings::to("app"));
    let gateway = gateway
        .build()
        .expect("is sound")
        .start_plain()
        .expect("it starts");
    let mut client = Asker::to(&gateway);
    assert_eq!(client.get("/").field("connection"), None);
    assert_eq!(client.get("/").field("connection"), Some("close"));
    assert!(client.recv_to_end().is_empty());
}

#[test]
fn a_tunnel_outlives_the_limit_of_an_exchange() {
    use std::io::{Read, Write};
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let _ = stream.read(&mut [0; 4096]);
        let head =
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        let _ = stream.write_all(head.as_bytes());
        std::thread::sleep(3 * SHORT);
        let _ = stream.write_all(b"still here");
    });
    let mut pool = PoolSettings::of([format!("http://{addr}")]);
    pool.timeouts.request = SHORT;
    pool.timeouts.body_idle = SHORT;
    let gateway = start(pool);
    let mut client = Asker::to(&gateway);
    client.send("GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    assert_eq!(client.response().expect("the 101").status(), 101);
    assert_eq!(client.recv_to_end(), b"still here");
}

#[test]
fn errors_have_pages_and_tell_their_kind_if_that_is_set() {
    let gone = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", gone.local_addr().expect("an address"));
    drop(gone);
    let mut listener = ListenerSettings::new("tcp://127.0.0.1:0");
    listener.proxy_status = true;
    let mut route = RouteSettings::to("app");
    let page = epicycle::gateway::settings::ErrorPage {
        content_type: "text/html".to_owned(),
        body: "<h1>down</h1>".into(),
    };
    route.error_pages.insert(502, page);
    let gateway = with_listener(listener, PoolSettings::of([url])).route(route);
    let gateway = gateway
        .build()
        .expect("is sound")
        .start_plain()
        .expect("it starts");
    let answer = Asker::to(&gateway).get("/");
    assert_eq!((answer.status(), answer.text()), (502, "<h1>down</h1>"));
    assert_eq!(answer.field("content-type"), Some("text/html"));
    assert_eq!(
        answer.field("proxy-status"),
        Some("epicycle; error=connection_refused")
    );
}

#[cfg(feature = "tls")]
#[test]
fn clients_and_nodes_may_speak_tls() {
    use epicycle::tls::{Identity, TlsClient, TlsServer};

    let issued = crate::pki::TRUSTED.issue(&["localhost"]);
    let identity = || Identity::from_pem(&issued.certificate, &issued.key).expect("they match");
    let server = TlsServer::new(identity()).expect("is set up");
    let to_node = TlsClient::new(&crate::pki::TRUSTED.roots()).expect("is set up");
    let origin = Server::bind(epicycle::Listen::on("tcp://127.0.0.1:0").tls(&server)).reactors(1);
    let origin = origin
        .start(|_| Telling(|conn| conn.peer_addr().to_string()))
        .expect("it starts");
    let port = origin.local_addrs()[0]
        .as_socket_addr()
        .expect("an address")
        .port();

    let mut pool = PoolSettings::of([format!("https://localhost:{port}")]);
    pool.tls = Some(to_node.clone());
    let mut listener = ListenerSettings::new("tcp://127.0.0.1:0");
    listener.tls = Some(TlsServer::new(identity()).expect("is set up"));
    listener.sni_match = true;
    let front = with_listener(listener, pool).route(RouteSettings::to("app"));
    let front = front
        .build()
        .expect("is sound")
        .start_plain()
        .expect("it starts");
    // A gateway in front of it speaks TLS to it.
    let port = front.local_addrs()[0]
        .as_socket_addr()
        .expect("an address")
        .port();
    for (host, status) in [("localhost", 200), ("other", 421)] {
        let mut pool = PoolSettings::of([format!("https://localhost:{port}")]);
        pool.tls = Some(to_node.clone());
        let gateway = start(pool);
        let mut client = Asker::to(&gateway);
        for _ in 0..2 {
            let answer = client.ask(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
            assert_eq!(answer.status(), status);
        }
    }
    // A node whose certificate is for another name is refused.
    let mut pool = PoolSettings::of([format!("https://127.0.0.1:{port}")]);
    pool.tls = Some(to_node);
    assert_eq!(Asker::to(&start(pool)).get("/").status(), 502);
}
