//! SOCKS listeners: the handshake, the policy, and the tunnel.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use epicycle::gateway::settings::{ListenerKind, ListenerSettings};
use epicycle::gateway::{EndedBy, Gateway, Hooks, NoHooks, Record, Running, Users};

use crate::peers::{Asker, figure};
use crate::util::eventually;
use crate::util::ports::MutePort;

/// A target that sends back what it gets, until the other side ends its stream.
pub(crate) struct Target {
    pub(crate) addr: SocketAddr,
    accepted: Arc<AtomicUsize>,
    ended: Arc<AtomicUsize>,
}

impl Target {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let target = Self {
            addr: listener.local_addr().expect("an address"),
            accepted: Arc::default(),
            ended: Arc::default(),
        };
        let (accepted, ended) = (target.accepted.clone(), target.ended.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                accepted.fetch_add(1, Ordering::SeqCst);
                let ended = ended.clone();
                thread::spawn(move || {
                    let _ = std::io::copy(&mut &stream, &mut &stream);
                    drop(stream);
                    ended.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        target
    }

    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    pub(crate) fn ended(&self) -> usize {
        self.ended.load(Ordering::SeqCst)
    }

    /// Returns the rule that allows it alone.
    fn rule(&self) -> String {
        self.addr.to_string()
    }
}

pub(crate) fn listener(allow: &[&str]) -> ListenerSettings {
    let mut listener = ListenerSettings::new("tcp://127.0.0.1:0");
    listener.kind = ListenerKind::Socks5;
    listener.egress.allow = allow.iter().map(|rule| rule.parse().expect(rule)).collect();
    listener
}

pub(crate) fn start(listener: ListenerSettings) -> Running<NoHooks> {
    let gateway = Gateway::builder().reactors(1).listen(listener).build();
    gateway
        .expect("it is sound")
        .start_plain()
        .expect("it starts")
}

/// Returns a request for an address.
fn connect(to: SocketAddr) -> Vec<u8> {
    let SocketAddr::V4(to) = to else {
        panic!("an IPv4 address")
    };
    let mut request = b"\x05\x01\x00\x01".to_vec();
    request.extend(to.ip().octets());
    request.extend(to.port().to_be_bytes());
    request
}

/// Returns a request for a name.
pub(crate) fn connect_to_name(name: &[u8], port: u16) -> Vec<u8> {
    let mut request = b"\x05\x01\x00\x03".to_vec();
    request.push(u8::try_from(name.len()).expect("a short name"));
    request.extend(name);
    request.extend(port.to_be_bytes());
    request
}

pub(crate) const GREETING: &[u8] = b"\x05\x01\x00";

/// Returns a listener whose only user is `alice`, with the password `secret`.
fn listener_with_users(allow: &[&str]) -> ListenerSettings {
    let mut listener = listener(allow);
    let line = "alice:$2b$04$DT5QgPWgDiLIX1b03H92ROYW5Kb4WW43onJagPX2D0RM0XDrt1.iG";
    listener.users = Some(Users::parse(line).expect("is sound"));
    listener
}

/// Returns a greeting and credentials.
fn credentials(user: &str, password: &str) -> Vec<u8> {
    let mut bytes = b"\x05\x01\x02\x01".to_vec();
    for field in [user, password] {
        bytes.push(u8::try_from(field.len()).expect("short"));
        bytes.extend(field.as_bytes());
    }
    bytes
}

/// Sends a greeting and a request, and returns the code of the reply.
fn ask(client: &mut Asker, request: &[u8]) -> u8 {
    client.send([GREETING, request].concat());
    assert_eq!(client.recv(2), b"\x05\x00");
    reply(client)
}

fn reply(client: &mut Asker) -> u8 {
    let head = client.recv(4);
    assert_eq!((head[0], head[2], head[3]), (5, 0, 1), "{head:x?}");
    client.recv(6);
    head[1]
}

fn tunnels<H: Hooks>(gateway: &Running<H>) -> bool {
    gateway
        .control()
        .metrics()
        .contains("epicycle_gateway_tunnels 1\n")
}

#[test]
fn a_client_reaches_its_target_however_its_handshake_is_cut() {
    let target = Target::start();
    let gateway = start(listener(&[&target.rule()]));
    let whole = [GREETING, &connect(target.addr), b"ping"].concat();
    for cut in 0..=whole.len() {
        let mut client = Asker::to(&gateway);
        client.send(&whole[..cut]);
        if cut >= GREETING.len() {
            assert_eq!(client.recv(2), b"\x05\x00");
        }
        client.send(&whole[cut..]);
        if cut < GREETING.len() {
            assert_eq!(client.recv(2), b"\x05\x00");
        }
        assert_eq!(reply(&mut client), 0, "cut at {cut}");
        assert_eq!(client.recv(4), b"ping");
    }
    eventually("all tunnels have ended", || {
        target.ended() == whole.len() + 1
    });
    eventually("the gateway has forgotten them", || {
        !tunnels(&gateway) && gateway.engine().connections() == 0
    });
}

#[test]
fn a_tunnel_carries_bulk_both_ways_and_keeps_half_closes() {
    let target = Target::start();
    let gateway = start(listener(&[&target.rule()]));
    let mut client = Asker::to(&gateway);
    assert_eq!(ask(&mut client, &connect(target.addr)), 0);
    let sent: Vec<u8> = (0..8_u32 << 20).map(|n| (n / 7) as u8).collect();
    let mut writer = client.stream.get_ref().try_clone().expect("a copy");
    let expected = sent.clone();
    let writes = thread::spawn(move || {
        writer.write_all(&sent).expect("all of it");
        writer.shutdown(std::net::Shutdown::Write).expect("is open");
    });
    assert!(
        client.recv_to_end() == expected,
        "other bytes than those sent came back"
    );
    writes.join().expect("ends");
    eventually("the target's connection has ended", || target.ended() == 1);
}

#[test]
fn what_the_policy_refuses_is_told_and_never_dialled() {
    let (target, other) = (Target::start(), Target::start());
    let gateway = start(listener(&[&target.rule()]));
    let name = |name: &[u8]| connect_to_name(name, target.addr.port());
    for (request, code) in [
        (connect(other.addr), 2),
        (connect("169.254.169.254:80".parse().expect("is one")), 2),
        (connect("0.0.0.0:80".parse().expect("is one")), 2),
        // Only some programs take these for 127.0.0.1.
        (name(b"2130706433"), 4),
        (name(b"0177.0.0.1"), 4),
        (name(b"127.1"), 4),
        (name(b""), 4),
        (name(b"127.0.0.1\0"), 4),
        // Its address is allowed by a rule, and its name by none: the address decides.
        (name(b"127.0.0.1"), 0),
    ] {
        let mut client = Asker::to(&gateway);
        assert_eq!(ask(&mut client, &request), code, "{request:x?}");
        if code != 0 {
            assert_eq!(client.recv_to_end(), b"");
        }
    }
    eventually("the allowed one is connected", || target.accepted() == 1);
    assert_eq!(other.accepted(), 0);
    let metrics = gateway.control().metrics();
    assert!(
        metrics.contains("epicycle_gateway_egress_refusals_total 3\n"),
        "{metrics}"
    );
    assert!(
        metrics.contains("epicycle_gateway_socks_total{reply=\"not_allowed\"} 3\n"),
        "{metrics}"
    );
}

#[test]
fn a_name_is_judged_by_the_address_that_is_dialled() {
    let target = Target::start();
    let rule = format!("localhost:{}", target.addr.port());
    let gateway = start(listener(&[&rule]));
    let request = connect_to_name(b"localhost", target.addr.port());
    // The name is allowed, and what it stands for is not.
    assert_eq!(ask(&mut Asker::to(&gateway), &request), 2);
    assert_eq!(target.accepted(), 0);
    let gateway = start(listener(&[&rule, "127.0.0.0/8", "::1"]));
    assert_eq!(ask(&mut Asker::to(&gateway), &request), 0);
}

#[test]
fn nobody_reaches_the_gateway_through_itself() {
    let own = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = own.local_addr().expect("an address");
    drop(own);
    let mut settings = listener(&["127.0.0.0/8:*"]);
    settings.on = format!("tcp://{addr}");
    let gateway = start(settings);
    assert_eq!(ask(&mut Asker::to(&gateway), &connect(addr)), 2);
}

#[test]
fn a_reply_tells_why_there_is_no_connection() {
    let closed = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = closed.local_addr().expect("an address");
    drop(closed);
    let gateway = start(listener(&["127.0.0.0/8:*", "*"]));
    let command = |command: u8| [b"\x05", &[command][..], &connect(addr)[2..]].concat();
    for (request, code) in [
        (connect(addr), 5),
        (connect_to_name(b"no-such-host.invalid", 80), 4),
        (command(2), 7),
        (command(3), 7),
        (command(9), 7),
        (b"\x05\x01\x00\x05".to_vec(), 8),
    ] {
        let mut client = Asker::to(&gateway);
        assert_eq!(ask(&mut client, &request), code, "{request:x?}");
        assert_eq!(client.recv_to_end(), b"");
    }
}

#[test]
fn a_client_that_speaks_something_else_is_closed() {
    let gateway = start(listener(&[]));
    for (sent, expected) in [
        (&b"\x04\x01\x00\x50\x7f\x00\x00\x01\x00"[..], &b""[..]),
        (b"GET / HTTP/1.1\r\n\r\n", b""),
        (b"\x05\x01\x02", b"\x05\xff"),
        (b"\x05\x01\x00\x04\x01", b"\x05\x00"),
    ] {
        let mut client = Asker::to(&gateway);
        client.send(sent);
        assert_eq!(client.recv_to_end(), expected, "{sent:x?}");
    }
    eventually("they are gone", || gateway.engine().connections() == 0);
}

#[test]
fn a_handshake_that_takes_too_long_is_ended() {
    let mut settings = listener(&[]);
    settings.tunnels.handshake = Duration::from_millis(60);
    let gateway = start(settings);
    let mut client = Asker::to(&gateway);
    client.send(b"\x05\x01");
    assert_eq!(client.recv_to_end(), b"");
}

#[test]
fn a_tunnel_in_which_nothing_passes_is_ended() {
    let target = Target::start();
    let mut settings = listener(&[&target.rule()]);
    settings.tunnels.idle = Duration::from_millis(80);
    let gateway = start(settings);
    let mut client = Asker::to(&gateway);
    assert_eq!(ask(&mut client, &connect(target.addr)), 0);
    assert_eq!(client.recv_to_end(), b"");
    eventually("the target's connection has ended", || target.ended() == 1);
}

#[test]
fn a_client_that_leaves_while_its_target_is_dialled_leaves_nothing_behind() {
    let mute = MutePort::new();
    let gateway = start(listener(&["127.0.0.0/8:*"]));
    let mut client = Asker::to(&gateway);
    client.send([GREETING, &connect(mute.addr)].concat());
    assert_eq!(client.recv(2), b"\x05\x00");
    eventually("it is dialled", || {
        figure(&gateway, |proxy| proxy.target_dials()) == 1
    });
    client.reset();
    eventually("the dial has ended", || {
        figure(&gateway, |proxy| proxy.target_dials()) == 0
    });
    eventually("nothing is left", || gateway.engine().connections() == 0);
}

#[test]
fn only_users_with_their_passwords_get_a_tunnel() {
    let target = Target::start();
    let gateway = start(listener_with_users(&[&target.rule()]));
    // The second one is remembered.
    for _ in 0..2 {
        let mut client = Asker::to(&gateway);
        client.send(
            [
                credentials("alice", "secret"),
                connect(target.addr),
                b"ping".to_vec(),
            ]
            .concat(),
        );
        assert_eq!(client.recv(4), b"\x05\x02\x01\x00");
        assert_eq!(reply(&mut client), 0);
        assert_eq!(client.recv(4), b"ping");
    }
    for (user, password) in [("alice", "Secret"), ("bob", "secret")] {
        let mut client = Asker::to(&gateway);
        client.send([credentials(user, password), connect(target.addr)].concat());
        assert_eq!(
            client.recv_to_end(),
            b"\x05\x02\x01\x01",
            "{user} {password}"
        );
    }
    let mut client = Asker::to(&gateway);
    client.send([GREETING, &connect(target.addr)].concat());
    assert_eq!(client.recv_to_end(), b"\x05\xff");
    assert_eq!(target.accepted(), 2);
}

#[test]
fn further_wrong_passwords_of_an_address_are_answered_late() {
    let gateway = start(listener_with_users(&[]));
    let wrong = |n: u32| {
        let mut client = Asker::to(&gateway);
        let began = Instant::now();
        client.send(credentials("alice", &format!("guess {n}")));
        assert_eq!(client.recv_to_end(), b"\x05\x02\x01\x01");
        began.elapsed()
    };
    for n in 0..5 {
        wrong(n);
    }
    assert!(wrong(5) >= Duration::from_millis(990));
}

#[test]
fn a_hook_gets_the_record_of_a_tunnel() {
    type Seen = Arc<Mutex<Vec<(u16, EndedBy, String, u64, u64)>>>;

    struct Keeper(Seen);

    impl Hooks for Keeper {
        type Exchange = ();

        fn on_done(&mut self, record: &Record<'_>, (): &mut ()) {
            let bytes = (record.request_bytes, record.response_bytes);
            let entry = (
                record.status,
                record.ended_by,
                record.target.to_owned(),
                bytes.0,
                bytes.1,
            );
            self.0.lock().expect("sound").push(entry);
        }
    }

    let target = Target::start();
    let seen = Seen::default();
    let keeper = seen.clone();
    let gateway = Gateway::builder()
        .reactors(1)
        .listen(listener(&[&target.rule()]))
        .build()
        .expect("it is sound")
        .start(move |_| Keeper(keeper.clone()))
        .expect("it starts");
    let mut client = Asker::to(&gateway);
    assert_eq!(ask(&mut client, &connect(target.addr)), 0);
    client.send(b"ping");
    assert_eq!(client.recv(4), b"ping");
    client.end_writes();
    assert_eq!(client.recv_to_end(), b"");
    let mut refused = Asker::to(&gateway);
    assert_eq!(
        ask(
            &mut refused,
            &connect("10.0.0.1:1".parse().expect("is one"))
        ),
        2
    );
    drop(refused);
    eventually("both are recorded", || {
        seen.lock().expect("sound").len() == 2
    });
    let seen = seen.lock().expect("sound");
    let (input, output) = (13 + 4, 12 + 4);
    assert_eq!(
        seen[0],
        (200, EndedBy::Nobody, target.addr.to_string(), input, output)
    );
    assert_eq!(seen[1].0, 403);
    assert_eq!(seen[1].1, EndedBy::Gateway);
    assert_eq!(seen[1].2, "10.0.0.1:1");
}
