//! Forward listeners: requests in absolute form, `CONNECT`, users, and the policy.

use std::io::Write;
use std::net::{Shutdown, SocketAddr};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use epicycle::gateway::settings::{ForwardedFor, ListenerSettings};
use epicycle::gateway::{
    EndedBy, Gateway, Hooks, NoHooks, Record, Reply, RequestHead, Running, Users, Verdict,
};
use epicycle::http::StatusCode;
use log::Level;

use crate::peers::{Asker, Deed, Message, Origin, figure, idle, ok};
use crate::rig::{Folder, metric};
use crate::socks::Target;
use crate::strangers::free;
use crate::util::eventually;
use crate::util::logs::logs;
use crate::util::ports::{DeadPort, MutePort};

pub(crate) fn listener(allow: &[&str]) -> ListenerSettings {
    let mut listener = ListenerSettings::forward("tcp://127.0.0.1:0");
    listener.egress.allow = allow.iter().map(|rule| rule.parse().expect(rule)).collect();
    listener
}

/// A listener whose clients may reach this address alone.
fn only(addr: SocketAddr) -> ListenerSettings {
    listener(&[&addr.to_string()])
}

/// The hash of the password `secret`.
const SECRET: &str = "$2b$04$DT5QgPWgDiLIX1b03H92ROYW5Kb4WW43onJagPX2D0RM0XDrt1.iG";

/// Adds the user `alice`, with the password `secret`.
pub(crate) fn with_users(mut listener: ListenerSettings) -> ListenerSettings {
    let users = Users::parse(&format!("alice:{SECRET}"));
    listener.users = Some(users.expect("is sound"));
    listener
}

const ALICE: &str = "Proxy-Authorization: Basic YWxpY2U6c2VjcmV0\r\n";
const WRONG: &str = "Proxy-Authorization: Basic YWxpY2U6U2VjcmV0\r\n";

fn gateway(listener: ListenerSettings) -> Gateway {
    let gateway = Gateway::builder().reactors(1).listen(listener).build();
    gateway.expect("it is sound")
}

pub(crate) fn start(listener: ListenerSettings) -> Running<NoHooks> {
    gateway(listener).start_plain().expect("it starts")
}

/// Returns a request in absolute form.
pub(crate) fn get(to: impl std::fmt::Display, fields: &str) -> String {
    format!("GET http://{to} HTTP/1.1\r\nHost: elsewhere.test\r\n{fields}\r\n")
}

pub(crate) fn connect(to: impl std::fmt::Display, fields: &str) -> String {
    format!("CONNECT {to} HTTP/1.1\r\nHost: elsewhere.test\r\n{fields}\r\n")
}

/// Opens a tunnel.
fn tunnel<H: Hooks>(gateway: &Running<H>, to: SocketAddr) -> Asker {
    let mut client = Asker::to(gateway);
    client.send(connect(to, ""));
    opened(&mut client);
    client
}

/// Receives the answer that opens a tunnel.
pub(crate) fn opened(client: &mut Asker) {
    let expected = b"HTTP/1.1 200 OK\r\n";
    let mut head = client.recv(expected.len());
    assert_eq!(
        head,
        expected,
        "{}",
        String::from_utf8_lossy(&[&head[..], &client.recv(100)].concat())
    );
    while !head.ends_with(b"\r\n\r\n") {
        head.extend(client.recv(1));
    }
    let head = String::from_utf8(head).expect("text");
    assert!(
        !head.to_ascii_lowercase().contains("content-length"),
        "{head}"
    );
    assert!(!head.to_ascii_lowercase().contains("connection:"), "{head}");
}

fn figure_of(gateway: &Running<impl Hooks>, name: &str) -> f64 {
    let text = gateway.control().metrics();
    metric(&text, name).unwrap_or_else(|| panic!("{name} is not in\n{text}"))
}

#[test]
fn a_request_in_absolute_form_reaches_its_target_in_origin_form() {
    let origin = Origin::start(|_, _| ok("hello"));
    let gateway = start(only(origin.addr));
    let mut client = Asker::to(&gateway);
    let fields = "Proxy-Connection: keep-alive\r\nProxy-Authorization: Basic eDp5\r\n\
                  Connection: X-Own\r\nX-Own: 1\r\nX-Kept: 2\r\nX_Kept: 3\r\nX-Forwarded-For: 9.9.9.9\r\n";
    let response = client.ask(get(format!("{}/a/b?c=%20d", origin.addr), fields));
    assert_eq!((response.status(), response.text()), (200, "hello"));
    let request = &origin.requests()[0];
    assert_eq!(request.first_line(), "GET /a/b?c=%20d HTTP/1.1");
    assert_eq!(request.field("host"), Some(&*origin.addr.to_string()));
    assert_eq!(request.field("x-kept"), Some("2"));
    assert_eq!(request.field("x_kept"), Some("3"));
    assert_eq!(request.field("via"), Some("1.1 epicycle"));
    // As the client sent it: the gateway tells nothing about the client.
    assert_eq!(request.field("x-forwarded-for"), Some("9.9.9.9"));
    for name in [
        "proxy-connection",
        "proxy-authorization",
        "x-own",
        "x-real-ip",
        "x-forwarded-host",
        "x-forwarded-proto",
    ] {
        assert_eq!(request.field(name), None, "{name}");
    }
    // Without a path it is the root, and OPTIONS is for the server as a whole.
    assert_eq!(client.ask(get(origin.addr, "")).status(), 200);
    assert_eq!(
        client.ask(get(format!("{}?q", origin.addr), "")).status(),
        200
    );
    let options = format!("OPTIONS http://{} HTTP/1.1\r\nHost: a\r\n\r\n", origin.addr);
    assert_eq!(client.ask(options).status(), 200);
    let lines: Vec<_> = origin.requests()[1..]
        .iter()
        .map(|request| request.first_line().to_owned())
        .collect();
    assert_eq!(
        lines,
        ["GET / HTTP/1.1", "GET /?q HTTP/1.1", "OPTIONS * HTTP/1.1"]
    );
}

#[test]
fn bodies_pass_both_ways_through_a_forward_listener() {
    let origin = Origin::start(|_, request| ok(&request.body));
    let gateway = start(only(origin.addr));
    let mut client = Asker::to(&gateway);
    let sized = "x".repeat(300_000);
    let post = |framing: &str, body: &str| {
        format!(
            "POST http://{} HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n{body}",
            origin.addr
        )
    };
    let response = client.ask(post("Content-Length: 300000", &sized));
    assert_eq!(response.text(), sized);
    let response = client.ask(post(
        "Transfer-Encoding: chunked",
        "3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
    ));
    assert_eq!(response.text(), "abcde");
    assert_eq!(origin.accepted(), 1);
}

#[test]
fn a_client_is_named_to_targets_only_if_the_settings_ask_for_it() {
    let origin = Origin::start(|_, _| ok(""));
    let mut listener = only(origin.addr);
    listener.forwarding.x_forwarded_for = ForwardedFor::Append;
    let gateway = start(listener);
    assert_eq!(Asker::to(&gateway).ask(get(origin.addr, "")).status(), 200);
    assert_eq!(
        origin.requests()[0].field("x-forwarded-for"),
        Some("127.0.0.1")
    );
}

#[test]
fn connections_to_targets_are_kept_for_any_client_within_bounds() {
    let (first, second) = (Origin::start(|_, _| ok("")), Origin::start(|_, _| ok("")));
    let mut settings = listener(&[&first.addr.to_string(), &second.addr.to_string()]);
    settings.targets.max_idle = 1;
    settings.targets.idle_timeout = Duration::from_millis(150);
    let gateway = start(settings);
    for _ in 0..3 {
        let mut client = Asker::to(&gateway);
        assert_eq!(client.ask(get(first.addr, "")).status(), 200);
    }
    assert_eq!((first.accepted(), idle(&gateway)), (1, 1));
    // The one that has been idle for longest makes room.
    assert_eq!(Asker::to(&gateway).ask(get(second.addr, "")).status(), 200);
    eventually("the first is closed", || first.ended() == 1);
    assert_eq!(idle(&gateway), 1);
    eventually("the other one has been idle for long enough", || {
        second.ended() == 1 && idle(&gateway) == 0
    });
    let pool = "epicycle_gateway_pool_opens_total{pool=\"tcp://127.0.0.1:0\"}";
    assert_eq!(figure_of(&gateway, pool), 2.0);
}

#[test]
fn a_stale_connection_to_a_target_is_replaced_for_a_request_that_may_be_repeated() {
    let origin = Origin::start(|number, _| match number {
        1 => Deed::Reset,
        _ => ok("here"),
    });
    let gateway = start(only(origin.addr));
    let mut client = Asker::to(&gateway);
    assert_eq!(client.ask(get(origin.addr, "")).status(), 200);
    let response = client.ask(get(origin.addr, ""));
    assert_eq!((response.status(), response.text()), (200, "here"));
    assert_eq!(origin.accepted(), 2);
}

#[test]
fn a_connection_whose_user_has_proved_who_it_is_serves_nobody_else() {
    let origin = Origin::start(|_, _| ok(""));
    let gateway = start(only(origin.addr));
    let mut client = Asker::to(&gateway);
    let private = get(origin.addr, "Authorization: NTLM TlRMTVNTUAABAAAA\r\n");
    assert_eq!(client.ask(private).status(), 200);
    assert_eq!(client.ask(get(origin.addr, "")).status(), 200);
    assert_eq!(origin.accepted(), 2);
}

#[test]
fn a_request_that_names_no_sound_target_is_refused() {
    let origin = Origin::start(|_, _| ok(""));
    let gateway = start(only(origin.addr));
    let port = origin.addr.port();
    let long = format!("{}.test", "a".repeat(300));
    for target in [
        "/".to_owned(),
        "*".to_owned(),
        format!("https://{}/", origin.addr),
        format!("ftp://{}/", origin.addr),
        format!("http://user:pass@{}/", origin.addr),
        format!("http://user@{}/", origin.addr),
        "http://127.0.0.1:0/".to_owned(),
        "http://127.0.0.1:65536/".to_owned(),
        format!("http://:{port}/"),
        "http:///".to_owned(),
        format!("http://2130706433:{port}/"),
        format!("http://0177.0.0.1:{port}/"),
        format!("http://0x7f.1:{port}/"),
        format!("http://127.1:{port}/"),
        format!("http://127.0.0.1.:{port}/"),
        format!("http://[::1%25lo]:{port}/"),
        format!("http://[fe80::1%lo]:{port}/"),
        format!("http://[v1.x]:{port}/"),
        format!("http://%31%32%37.0.0.1:{port}/"),
        format!("http://127.0.0.1%00.test:{port}/"),
        format!("http://{long}/"),
        format!("http://a..b:{port}/"),
        format!("http://127.0.0.1:{port}#/"),
    ] {
        let mut client = Asker::to(&gateway);
        let request = format!("GET {target} HTTP/1.1\r\nHost: {}\r\n\r\n", origin.addr);
        assert_eq!(client.ask(request).status(), 400, "{target}");
    }
    for target in [
        "/",
        "127.0.0.1",
        "127.0.0.1:",
        "127.0.0.1:0",
        "127.0.0.1:65536",
        ":443",
        "[::1%25lo]:443",
        "[fe80::1%lo]:443",
        "user@127.0.0.1:443",
        "http://127.0.0.1:443/",
        "2130706433:443",
        "127.1:443",
        "a..b:443",
    ] {
        let mut client = Asker::to(&gateway);
        assert_eq!(client.ask(connect(target, "")).status(), 400, "{target}");
        assert_eq!(client.recv_to_end(), b"", "{target}");
    }
    let mut client = Asker::to(&gateway);
    let huge = format!("{}.test:443", "a".repeat(64 << 10));
    assert!(matches!(client.ask(connect(huge, "")).status(), 414 | 431));
    let trace = format!("TRACE http://{}/ HTTP/1.1\r\nHost: a\r\n\r\n", origin.addr);
    assert_eq!(Asker::to(&gateway).ask(trace).status(), 405);
    assert_eq!(origin.accepted(), 0);
}

#[test]
fn the_policy_refuses_targets_at_once_and_counts_them() {
    let (origin, other) = (Origin::start(|_, _| ok("")), Target::start());
    let gateway = start(listener(&[
        &origin.addr.to_string(),
        &format!("localhost:{}", other.addr.port()),
    ]));
    let refused = [
        get(other.addr, ""),
        get("169.254.169.254/latest/meta-data", ""),
        get("[::ffff:127.0.0.1]:1", ""),
        connect(other.addr, ""),
        connect("10.0.0.1:443", ""),
        connect("example.org:443", ""),
        // The name is allowed, and its address is not.
        get(format!("localhost:{}", other.addr.port()), ""),
        connect(format!("localhost:{}", other.addr.port()), ""),
    ];
    for request in &refused {
        let response = Asker::to(&gateway).ask(request);
        assert_eq!(response.status(), 403, "{request}");
        assert!(
            !response.text().contains("127.0.0.1"),
            "{}",
            response.text()
        );
    }
    assert_eq!(other.accepted(), 0);
    let counted = figure_of(&gateway, "epicycle_gateway_egress_refusals_total");
    assert_eq!(counted, refused.len() as f64);
    assert_eq!(Asker::to(&gateway).ask(get(origin.addr, "")).status(), 200);
}

#[test]
fn connect_reaches_port_443_only_unless_a_rule_names_another_one() {
    let target = Target::start();
    let gateway = start(listener(&["127.0.0.0/8"]));
    let response = Asker::to(&gateway).ask(connect(target.addr, ""));
    assert_eq!(response.status(), 403);
    assert_eq!(target.accepted(), 0);
}

#[test]
fn nobody_reaches_the_gateways_own_listeners_through_a_forward_listener() {
    let addr = free();
    let mut settings = listener(&["127.0.0.0/8:*"]);
    settings.on = format!("tcp://{addr}");
    let gateway = start(settings);
    for request in [get(addr, ""), connect(addr, "")] {
        assert_eq!(Asker::to(&gateway).ask(request).status(), 403);
    }
}

#[test]
fn a_tunnel_delivers_early_data_bulk_and_half_closes() {
    let target = Target::start();
    let gateway = start(only(target.addr));
    // All at once: the client waits for nothing, and sends no more.
    let mut early = Asker::to(&gateway);
    early.send(connect(target.addr, "") + "GET / HTTP/1.1\r\n\r\n");
    early.end_writes();
    opened(&mut early);
    assert_eq!(early.recv_to_end(), b"GET / HTTP/1.1\r\n\r\n");

    let mut client = tunnel(&gateway, target.addr);
    assert_eq!(figure_of(&gateway, "epicycle_gateway_tunnels"), 1.0);
    let sent: Vec<u8> = (0..8_u32 << 20).map(|n| (n / 7) as u8).collect();
    let mut writer = client.stream.get_ref().try_clone().expect("a copy");
    let expected = sent.clone();
    let writes = thread::spawn(move || {
        writer.write_all(&sent).expect("all of it");
        writer.shutdown(Shutdown::Write).expect("is open");
    });
    let back = client.recv_to_end();
    assert!(back == expected, "other bytes than those sent came back");
    writes.join().expect("ends");
    eventually("nothing is left", || {
        target.ended() == 2 && gateway.engine().connections() == 0
    });
    assert_eq!(figure_of(&gateway, "epicycle_gateway_tunnels"), 0.0);
}

#[test]
fn a_connect_request_may_arrive_in_any_pieces() {
    let target = Target::start();
    let gateway = start(only(target.addr));
    let whole = connect(target.addr, "") + "ping";
    for cut in 0..=whole.len() {
        let mut client = Asker::to(&gateway);
        client.send(&whole[..cut]);
        thread::yield_now();
        client.send(&whole[cut..]);
        opened(&mut client);
        assert_eq!(client.recv(4), b"ping", "cut at {cut}");
    }
    eventually("nothing is left", || gateway.engine().connections() == 0);
}

#[test]
fn a_connect_with_a_body_is_refused() {
    let target = Target::start();
    let gateway = start(only(target.addr));
    for fields in [
        "Content-Length: 5\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
    ] {
        let mut client = Asker::to(&gateway);
        let request = connect(target.addr, fields) + "5\r\nhello\r\n0\r\n\r\n";
        assert_eq!(client.ask(request).status(), 400, "{fields}");
        assert_eq!(client.recv_to_end(), b"", "{fields}");
    }
    assert_eq!(target.accepted(), 0);
    let mut client = Asker::to(&gateway);
    client.send(connect(target.addr, "Content-Length: 0\r\n") + "ping");
    opened(&mut client);
    assert_eq!(client.recv(4), b"ping");
}

#[test]
fn what_follows_a_connect_that_fails_is_no_request() {
    let origin = Origin::start(|_, _| ok(""));
    let gateway = start(only(origin.addr));
    let mut client = Asker::to(&gateway);
    let smuggled = get(format!("{}/smuggled", origin.addr), "");
    let response = client.ask(connect("10.0.0.1:443", "") + &smuggled);
    assert_eq!(response.status(), 403);
    assert_eq!(response.field("connection"), Some("close"));
    assert_eq!(client.recv_to_end(), b"");
    assert_eq!(origin.accepted(), 0);
}

#[test]
fn requests_before_a_connect_on_the_same_connection_are_answered_first() {
    let (origin, target) = (Origin::start(|_, _| ok("first")), Target::start());
    let gateway = start(listener(&[
        &origin.addr.to_string(),
        &target.addr.to_string(),
    ]));
    let mut client = Asker::to(&gateway);
    client.send(get(origin.addr, "") + &connect(target.addr, "") + "ping");
    assert_eq!(client.response().expect("a response").text(), "first");
    opened(&mut client);
    assert_eq!(client.recv(4), b"ping");
}

#[test]
fn an_answer_tells_why_there_is_no_tunnel() {
    let rules = ["127.0.0.0/8:*", "*"];
    let patient = start(listener(&rules));
    let mut settings = listener(&rules);
    settings.tunnels.connect = Duration::from_millis(100);
    let hasty = start(settings);
    let (silent, closed) = (MutePort::new(), DeadPort::new());
    for (gateway, to, status) in [
        (&patient, closed.addr.to_string(), 502),
        (&patient, "no-such-host.invalid:443".to_owned(), 502),
        (&hasty, silent.addr.to_string(), 504),
    ] {
        let mut client = Asker::to(gateway);
        assert_eq!(client.ask(connect(&to, "")).status(), status, "{to}");
        assert_eq!(client.recv_to_end(), b"");
        let mut client = Asker::to(gateway);
        assert_eq!(client.ask(get(&to, "")).status(), status, "{to}");
        // Such a connection goes on.
        assert_eq!(client.ask(get(&to, "")).status(), status, "{to}");
    }
}

#[test]
fn a_client_that_leaves_while_its_tunnel_is_dialled_leaves_nothing_behind() {
    let silent = MutePort::new();
    let gateway = start(listener(&["127.0.0.0/8:*"]));
    let mut client = Asker::to(&gateway);
    client.send(connect(silent.addr, ""));
    eventually("it is dialled", || {
        figure(&gateway, |proxy| proxy.target_dials()) == 1
    });
    client.reset();
    eventually("the dial has ended", || {
        figure(&gateway, |proxy| proxy.target_dials()) == 0
    });
    eventually("nothing is left", || gateway.engine().connections() == 0);
    assert_eq!(figure_of(&gateway, "epicycle_gateway_in_flight"), 0.0);
}

#[test]
fn clients_that_leave_while_their_targets_are_dialled_leave_no_dials_behind() {
    let silent = MutePort::new();
    let mut listener = listener(&["127.0.0.0/8:*"]);
    listener.tunnels.connect = Duration::from_secs(3600);
    let gateway = start(listener);
    let (mut first, mut second) = (Asker::to(&gateway), Asker::to(&gateway));
    for client in [&mut first, &mut second] {
        client.send(get(silent.addr, ""));
    }
    let dials = || figure(&gateway, |proxy| proxy.dials());
    eventually("both are dialled", || dials() == 2);
    first.reset();
    eventually("that of the other one is left", || dials() == 1);
    second.reset();
    eventually("no dial is left", || dials() == 0);
    eventually("nothing is left", || gateway.engine().connections() == 0);
}

#[test]
fn a_tunnel_of_a_forward_listener_in_which_nothing_passes_is_ended() {
    let target = Target::start();
    let mut settings = only(target.addr);
    settings.tunnels.idle = Duration::from_millis(80);
    let gateway = start(settings);
    let mut client = tunnel(&gateway, target.addr);
    assert_eq!(client.recv_to_end(), b"");
    eventually("the target's connection has ended", || target.ended() == 1);
}

#[test]
fn only_users_with_their_passwords_use_a_forward_listener() {
    let (origin, target) = (Origin::start(|_, _| ok("for alice")), Target::start());
    let rules = [origin.addr.to_string(), target.addr.to_string()];
    let gateway = start(with_users(listener(&[&rules[0], &rules[1]])));
    // The second one is remembered.
    for _ in 0..2 {
        let response = Asker::to(&gateway).ask(get(origin.addr, ALICE));
        assert_eq!((response.status(), response.text()), (200, "for alice"));
    }
    let mut client = Asker::to(&gateway);
    for fields in [
        "",
        WRONG,
        "Proxy-Authorization: Basic\r\n",
        "Proxy-Authorization: Basic !\r\n",
        "Proxy-Authorization: Bearer YWxpY2U6c2VjcmV0\r\n",
        "Authorization: Basic YWxpY2U6c2VjcmV0\r\n",
        &format!("{ALICE}{WRONG}"),
    ] {
        // The client may go on, and try again.
        let response = client.ask(get(origin.addr, fields));
        assert_eq!(response.status(), 407, "{fields}");
        let asked = response.field("proxy-authenticate").unwrap_or_default();
        assert!(asked.starts_with("Basic realm="), "{asked}");
    }
    // The policy is nothing that a stranger learns.
    assert_eq!(client.ask(get("10.0.0.1:443", "")).status(), 407);
    assert_eq!(client.ask(get(origin.addr, ALICE)).status(), 200);
    assert!(
        origin
            .requests()
            .iter()
            .all(|request| request.field("proxy-authorization").is_none())
    );
    let response = Asker::to(&gateway).ask(connect(target.addr, WRONG));
    assert_eq!(response.status(), 407);
    let mut client = Asker::to(&gateway);
    client.send(connect(target.addr, ALICE) + "ping");
    opened(&mut client);
    assert_eq!(client.recv(4), b"ping");
    assert_eq!(target.accepted(), 1);
}

#[test]
fn a_request_waits_whole_while_its_password_is_checked() {
    let (origin, target) = (
        Origin::start(|_, request| ok(&request.body)),
        Target::start(),
    );
    let rules = [origin.addr.to_string(), target.addr.to_string()];
    for fresh in 0..3 {
        // Nothing is remembered by another gateway.
        let gateway = start(with_users(listener(&[&rules[0], &rules[1]])));
        let mut client = Asker::to(&gateway);
        match fresh {
            0 => {
                let body = "y".repeat(100_000);
                let head = format!(
                    "POST http://{} HTTP/1.1\r\nHost: a\r\n{ALICE}Content-Length: {}\r\n\r\n",
                    origin.addr,
                    body.len()
                );
                assert_eq!(client.ask(head + &body).text(), body);
            }
            1 => {
                client.send(connect(target.addr, ALICE) + "ping");
                client.end_writes();
                opened(&mut client);
                assert_eq!(client.recv_to_end(), b"ping");
            }
            _ => {
                let head = format!(
                    "PUT http://{} HTTP/1.1\r\nHost: a\r\n{ALICE}Expect: 100-continue\r\nContent-Length: 2\r\n\r\n",
                    origin.addr
                );
                client.send(head);
                assert_eq!(client.recv(25), b"HTTP/1.1 100 Continue\r\n\r\n");
                client.send("ab");
                assert_eq!(client.response().expect("a response").text(), "ab");
            }
        }
    }
}

#[test]
fn further_wrong_passwords_of_an_address_get_a_late_407() {
    let gateway = start(with_users(listener(&[])));
    let mut client = Asker::to(&gateway);
    let mut wrong = || {
        let began = Instant::now();
        assert_eq!(client.ask(get("a.test", WRONG)).status(), 407);
        began.elapsed()
    };
    for _ in 0..5 {
        wrong();
    }
    assert!(wrong() >= Duration::from_millis(990));
}

#[test]
fn a_hook_sees_requests_and_tunnels_of_a_forward_listener() {
    type Seen = Arc<Mutex<Vec<String>>>;

    struct Keeper(Seen);

    impl Hooks for Keeper {
        type Exchange = ();

        fn on_request(&mut self, request: &mut RequestHead<'_>, (): &mut ()) -> Verdict {
            match request.target().contains("blocked") {
                true => Verdict::Answer(Reply::text(StatusCode::FORBIDDEN, "not this one")),
                false => Verdict::Forward,
            }
        }

        fn on_done(&mut self, record: &Record<'_>, (): &mut ()) {
            let Record {
                method,
                node,
                status,
                request_bytes,
                response_bytes,
                ended_by,
                ..
            } = record;
            let line =
                format!("{method} {node} {status} {request_bytes} {response_bytes} {ended_by}");
            self.0.lock().expect("sound").push(line);
        }
    }

    let (origin, target) = (Origin::start(|_, _| ok("12345")), Target::start());
    let seen = Seen::default();
    let keeper = seen.clone();
    let rules = [origin.addr.to_string(), target.addr.to_string()];
    let gateway = gateway(listener(&[&rules[0], &rules[1]]))
        .start(move |_| Keeper(keeper.clone()))
        .expect("it starts");
    let recorded = |count: usize| {
        eventually("it is recorded", || {
            seen.lock().expect("sound").len() == count
        });
        seen.lock().expect("sound")[count - 1].clone()
    };
    let mut client = Asker::to(&gateway);
    assert_eq!(client.ask(get(origin.addr, "")).status(), 200);
    assert_eq!(recorded(1), format!("GET {} 200 0 5 complete", origin.addr));
    let blocked = get(format!("{}/blocked", origin.addr), "");
    assert_eq!(client.ask(blocked).text(), "not this one");
    assert!(recorded(2).contains(" 403 "), "{}", recorded(2));
    drop(client);

    let mut client = tunnel(&gateway, target.addr);
    client.send(b"ping");
    assert_eq!(client.recv(4), b"ping");
    client.end_writes();
    assert_eq!(client.recv_to_end(), b"");
    let line = recorded(3);
    let sent = connect(target.addr, "").len() + 4;
    assert!(
        line.starts_with(&format!("CONNECT {} 200 {sent} ", target.addr)),
        "{line}"
    );
    assert!(
        line.ends_with(EndedBy::Nobody.to_string().as_str()),
        "{line}"
    );
    assert_eq!(
        Asker::to(&gateway)
            .ask(connect("10.0.0.1:443", ""))
            .status(),
        403
    );
    assert!(recorded(4).ends_with(" gateway"), "{}", recorded(4));
}

#[test]
fn another_policy_takes_effect_on_kept_connections_and_leaves_tunnels() {
    let (origin, target) = (Origin::start(|_, _| ok("")), Target::start());
    let rules = [origin.addr.to_string(), target.addr.to_string()];
    let gateway = start(listener(&[&rules[0], &rules[1]]));
    let mut client = Asker::to(&gateway);
    assert_eq!(client.ask(get(origin.addr, "")).status(), 200);
    let mut through = tunnel(&gateway, target.addr);
    assert_eq!(idle(&gateway), 1);
    let reload = |allow: &[&str]| {
        let changed = gateway.control().reload(&self::gateway(listener(allow)));
        changed.expect("it changes");
    };
    reload(&["10.9.9.9"]);
    eventually("the kept connection is closed", || origin.ended() == 1);
    for request in [get(origin.addr, ""), connect(target.addr, "")] {
        assert_eq!(Asker::to(&gateway).ask(request).status(), 403);
    }
    assert_eq!(client.ask(get(origin.addr, "")).status(), 403);
    through.send(b"ping");
    assert_eq!(through.recv(4), b"ping");
    reload(&[&rules[0]]);
    assert_eq!(client.ask(get(origin.addr, "")).status(), 200);
    assert_eq!(origin.accepted(), 2);
}

#[test]
fn a_request_under_way_during_another_policy_ends_and_its_connection_is_not_kept() {
    let (go, held) = std::sync::mpsc::channel::<()>();
    let held = Mutex::new(held);
    let origin = Origin::start(move |_, _| {
        held.lock().expect("sound").recv().expect("is sent");
        ok("late")
    });
    let gateway = start(only(origin.addr));
    let mut client = Asker::to(&gateway);
    client.send(get(origin.addr, ""));
    eventually("it is there", || origin.requests().len() == 1);
    let other = self::gateway(listener(&["10.9.9.9"]));
    gateway.control().reload(&other).expect("it changes");
    go.send(()).expect("is awaited");
    assert_eq!(client.response().expect("a response").text(), "late");
    eventually("it is closed", || origin.ended() == 1);
}

#[test]
fn a_file_describes_a_forward_listener() {
    let origin = Origin::start(|_, _| ok(""));
    let folder = Folder::new();
    folder.write("users.txt", format!("alice:{SECRET}\n"));
    let text = format!(
        "[[listen]]\non = \"tcp://127.0.0.1:0\"\nkind = \"forward\"\nusers = \"users.txt\"\n\
         egress = {{ allow = [\"{}\"] }}\ntunnel = {{ connect = \"1s\", idle = \"2s\" }}\n\
         target = {{ max_idle = 7, idle_timeout = \"3s\", response_head = \"4s\", body_idle = \"5s\", \
         request = \"6s\", max_head = \"16KiB\", max_headers = 50, retries = 1, retry_body = \"1KiB\" }}\n",
        origin.addr
    );
    folder.write("gateway.toml", &text);
    let gateway = Gateway::from_file(folder.path("gateway.toml")).expect("it is sound");
    let targets = &gateway.settings().listeners[0].targets;
    assert_eq!((targets.max_idle, targets.retries), (7, 1));
    assert_eq!(targets.response_head, Duration::from_secs(4));
    let running = gateway.start_plain().expect("it starts");
    let response = Asker::to(&running).ask(get(origin.addr, ALICE));
    assert_eq!(response.status(), 200);
    assert_eq!(origin.requests()[0].field("x-forwarded-for"), None);

    let problem = |from: &str, to: &str| {
        folder.write("gateway.toml", text.replace(from, to));
        let error = Gateway::from_file(folder.path("gateway.toml"));
        error.expect_err("it is refused").to_string()
    };
    for (from, to, told) in [
        (
            "max_idle = 7",
            "max_idle = \"x\"",
            "listen[0].target.max_idle",
        ),
        ("\"4s\"", "\"0s\"", "target.response_head"),
        ("\"1KiB\"", "\"1MiB\"", "target.retry_body"),
        (
            "\"forward\"",
            "\"reverse\"",
            "only clients of a forward or SOCKS listener",
        ),
        (
            "\"forward\"",
            "\"socks5\"",
            "only a forward listener keeps connections",
        ),
        ("users.txt", "nobody.txt", "nobody.txt"),
        (
            "kind = \"forward\"",
            "kind = \"forwarding\"",
            "use \"reverse\", \"forward\"",
        ),
    ] {
        let text = problem(from, to);
        assert!(text.contains(told), "{from} -> {to}: {text}");
    }
}

#[test]
fn a_name_is_looked_up_for_each_dial_and_kept_connections_go_by_name() {
    let origin = Origin::start(|_, _| ok(""));
    let port = origin.addr.port();
    let gateway = start(listener(&["127.0.0.0/8:*", "localhost:*"]));
    let mut client = Asker::to(&gateway);
    let ask = |client: &mut Asker, host: &str| -> Message {
        client.ask(get(format!("{host}:{port}/"), ""))
    };
    assert_eq!(ask(&mut client, "localhost").status(), 200);
    assert_eq!(ask(&mut client, "LocalHost.").status(), 200);
    assert_eq!(origin.accepted(), 1);
    // The same address, and another name for it.
    assert_eq!(ask(&mut client, "127.0.0.1").status(), 200);
    assert_eq!(origin.accepted(), 2);
}

#[test]
fn an_explanation_tells_what_a_forward_listener_does_with_a_target() {
    let gateway = gateway(with_users(listener(&[
        "*.example.org:443",
        "example.org:80",
    ])));
    let explain = |request: &str| match gateway.explain(request) {
        Ok(explained) => explained.to_string(),
        Err(error) => error,
    };
    let text = explain("CONNECT a.example.org:443");
    assert!(
        text.contains("tcp://127.0.0.1:0, a forward proxy"),
        "{text}"
    );
    assert!(text.contains("407") && text.contains("a tunnel"), "{text}");
    let text = explain("CONNECT a.example.org:80");
    assert!(text.contains("the answer is 403"), "{text}");
    let text = explain("GET http://example.org/a?b");
    assert!(
        text.contains("GET /a?b HTTP/1.1, Host: example.org"),
        "{text}"
    );
    assert!(!text.contains("X-Forwarded-For"), "{text}");
    let text = explain("CONNECT 127.1:443");
    assert!(text.contains("is a number"), "{text}");
    let text = explain("SOCKS5 a.example.org:443");
    assert!(text.contains("'SOCKS5 HOST:PORT'"), "{text}");
}

#[test]
fn an_explanation_tells_what_a_socks_listener_does_with_a_target() {
    let mut listener = listener(&["*.example.org:443"]);
    listener.kind = epicycle::gateway::settings::ListenerKind::Socks5;
    let gateway = gateway(with_users(listener));
    let explain = |request: &str| gateway.explain(request).expect("is explained").to_string();
    let text = explain("SOCKS5 a.example.org:443");
    for wanted in [
        "tcp://127.0.0.1:0, a SOCKS5 proxy",
        "without them the connection is closed",
        "target    a.example.org:443",
        "reply 00 and a tunnel",
    ] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
    let text = explain("SOCKS5 a.example.org:80");
    assert!(text.contains("the reply is 02"), "{text}");
}

#[test]
fn clients_cannot_fill_the_log_with_warnings_about_targets_of_their_choice() {
    logs();
    let dead = DeadPort::new();
    let gateway = start(only(dead.addr));
    let refused = format!("refused-{}.test:443", dead.addr.port());
    let dead = dead.addr.to_string();
    for (to, status, wanted) in [(&dead, 502, Level::Debug), (&refused, 403, Level::Info)] {
        for request in [get(to, ""), connect(to, "")] {
            assert_eq!(Asker::to(&gateway).ask(request).status(), status, "{to}");
        }
        let lines = logs().with(to);
        let is_told = |(level, _): &&(Level, String)| *level == wanted;
        assert!(lines.iter().filter(is_told).count() >= 2, "{lines:?}");
        assert!(lines.iter().all(|(level, _)| *level >= wanted), "{lines:?}");
    }
}
