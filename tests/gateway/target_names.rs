//! Names of targets whose name server changes its mind, never answers, or has very many addresses.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use epicycle::Running;
use epicycle::gateway::settings::{ListenerKind, ListenerSettings};
use epicycle::gateway::{Gateway, NoHooks, Proxy};

use crate::dns::at_one_port;
use crate::forward::{connect, get, listener};
use crate::peers::{Asker, Deed, Origin};
use crate::rig::metric;
use crate::socks::{GREETING, connect_to_name};
use crate::util::ports::MutePort;
use crate::util::{LONG, eventually};

/// The resolver of a gateway. Names that begin with `hangs` have no answer, and all others the one that the test has set.
#[derive(Clone, Default)]
struct Names(Arc<Inner>);

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The answers to come. The last one is repeated.
    answers: VecDeque<Vec<IpAddr>>,
    asked: usize,
    /// The look-ups that hang.
    hanging: usize,
    is_over: bool,
}

impl Names {
    /// Answers with each of these lists in turn, and then with the last one again and again.
    fn say<I: AsRef<[IpAddr]>>(&self, answers: impl IntoIterator<Item = I>) {
        let answers = answers.into_iter().map(|list| list.as_ref().to_vec());
        self.0.state.lock().expect("sound").answers = answers.collect();
    }

    fn asked(&self) -> usize {
        self.0.state.lock().expect("sound").asked
    }

    fn hanging(&self) -> usize {
        self.0.state.lock().expect("sound").hanging
    }

    fn answer(&self, host: &str) -> io::Result<Vec<SocketAddr>> {
        let mut state = self.0.state.lock().expect("sound");
        state.asked += 1;
        if host.starts_with("hangs") {
            state.hanging += 1;
            let over = self.0.changed.wait_while(state, |state| !state.is_over);
            over.expect("sound").hanging -= 1;
            return Err(io::Error::other("no name server answers"));
        }
        let answer = match state.answers.len() {
            0 | 1 => state.answers.front().cloned(),
            _ => state.answers.pop_front(),
        };
        let with_port = |ip| SocketAddr::new(ip, 0);
        Ok(answer.into_iter().flatten().map(with_port).collect())
    }

    /// Ends the look-ups that hang.
    fn give_up(&self) {
        self.0.state.lock().expect("sound").is_over = true;
        self.0.changed.notify_all();
    }
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    let parse = |text: &&str| text.parse().expect(text);
    texts.iter().map(parse).collect()
}

/// The ways in which a client can name a target.
const WAYS: [Way; 3] = [Way::Absolute, Way::Connect, Way::Socks];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Absolute,
    Connect,
    Socks,
}

/// A gateway with a forward and a SOCKS listener, whose names a test tells.
struct Named {
    names: Names,
    running: Running<Proxy<NoHooks>>,
}

impl Named {
    fn start(allow: &[&str], connect_timeout: Duration) -> Self {
        let names = Names::default();
        let with = |listener: ListenerSettings, on: &str, kind| {
            let mut listener = listener;
            listener.on = format!("tcp://{on}:0");
            listener.kind = kind;
            listener.datagrams.associate = kind == ListenerKind::Socks5;
            listener.tunnels.connect = connect_timeout;
            listener
        };
        let gateway = Gateway::builder()
            .reactors(1)
            .listen(with(listener(allow), "127.0.0.1", ListenerKind::Forward))
            .listen(with(listener(allow), "127.0.0.2", ListenerKind::Socks5))
            .build()
            .expect("it is sound");
        let (resolver, none) = (names.clone(), Duration::ZERO);
        let running = gateway.start_with(
            |_| NoHooks,
            |server, factory| {
                let resolver = move |host: &str| resolver.answer(host);
                Ok(server.resolver(resolver).lookup_ttl(none).start(factory)?)
            },
        );
        Self {
            names,
            running: running.expect("it starts"),
        }
    }

    /// Asks for a target. Returns the status, or the one that tells the same as the reply of SOCKS, and what the target says.
    fn ask(&self, way: Way, host: &str, port: u16) -> (u16, Vec<u8>) {
        let listener = usize::from(way == Way::Socks);
        let addr = self.running.local_addrs()[listener].as_socket_addr();
        let mut client = Asker::at(addr.expect("an address"));
        let request = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        match way {
            Way::Absolute => {
                let response = client.ask(get(format!("{host}:{port}/"), ""));
                return (response.status(), response.body);
            }
            Way::Connect => {
                let response = client.ask_head(connect(format!("{host}:{port}"), ""));
                if response.status() != 200 {
                    return (response.status(), Vec::new());
                }
            }
            Way::Socks => {
                client.send([GREETING, &connect_to_name(host.as_bytes(), port)].concat());
                let code = client.recv(2 + 10)[3];
                let status = match code {
                    0 => 200,
                    2 => 403,
                    4 | 5 => 502,
                    6 => 504,
                    other => panic!("{other}"),
                };
                if status != 200 {
                    return (status, Vec::new());
                }
            }
        }
        let response = client.ask(request);
        (response.status(), response.body)
    }

    /// Returns the number of datagrams that were dropped for this reason.
    fn dropped(&self, reason: &str) -> f64 {
        let (engine, (tell, told)) = (self.running.engine(), std::sync::mpsc::channel());
        let own = engine.clone();
        let asked = engine.run_on(0, move |proxy, _| {
            let _ = tell.send(proxy.control(&own));
        });
        asked.expect("it runs");
        let text = told.recv().expect("it ran").metrics();
        let name = format!("epicycle_gateway_dropped_datagrams_total{{reason=\"{reason}\"}}");
        metric(&text, &name).expect("it is there")
    }

    fn leaves_nothing(&self) {
        eventually("nothing is left", || {
            let (engine, (tell, told)) = (self.running.engine(), std::sync::mpsc::channel());
            let asked = engine.run_on(0, move |proxy, _| {
                let _ = tell
                    .send(proxy.target_dials() + proxy.waiting() + proxy.upstream_connections());
            });
            asked.expect("it runs");
            told.recv().expect("it ran") == 0
                && engine.connections() == 0
                && engine.stats().total().timers == 0
                && engine.stats().lookups.waiting == 0
        });
    }
}

/// Starts origins at `127.0.0.1`, `127.0.0.2` and so on, which have one port. Each answers with its number, and closes.
fn origins(count: usize) -> (Vec<Origin>, u16) {
    let listeners = at_one_port(count);
    let origin = |(n, listener)| {
        Origin::on(listener, move |_, _| {
            let text =
                format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\n{n}");
            Deed::Send(text.into())
        })
    };
    let origins: Vec<_> = (1..).zip(listeners).map(origin).collect();
    let port = origins[0].addr.port();
    (origins, port)
}

const PATIENT: Duration = Duration::from_secs(30);

#[test]
fn a_name_that_changes_its_address_leads_only_where_the_policy_allows() {
    let (origins, port) = origins(2);
    let allow = format!("127.0.0.2:{port}");
    let named = Named::start(&[&allow, "rebind.test:*"], PATIENT);
    let (public, private) = (ips(&["127.0.0.2"]), ips(&["127.0.0.1"]));
    let ask = |way| named.ask(way, "rebind.test", port);
    for way in WAYS {
        // By turns: whichever answer is looked at, the same one is dialled.
        let asked = named.names.asked();
        let turns = (0..20).map(|n| if n % 2 == 0 { &public } else { &private });
        named.names.say(turns);
        for _ in 0..10 {
            assert_eq!(ask(way), (200, b"2".to_vec()), "{way:?}");
            assert_eq!(ask(way).0, 403, "{way:?}");
        }
        assert_eq!(named.names.asked(), asked + 20, "{way:?}");
        for other in [
            "::1",
            "::ffff:127.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "10.0.0.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "::",
        ] {
            named.names.say([ips(&[other])]);
            assert_eq!(ask(way).0, 403, "{way:?} {other}");
        }
    }
    assert_eq!(origins[0].accepted(), 0);
    named.leaves_nothing();
}

#[test]
fn of_several_addresses_only_those_that_the_policy_allows_are_dialled() {
    let (origins, port) = origins(2);
    let rules = [2, 3].map(|n| format!("127.0.0.{n}:{port}"));
    let named = Named::start(&[&rules[0], &rules[1], "mixed.test:*"], PATIENT);
    let private = ["127.0.0.1", "10.0.0.1", "::1", "::ffff:127.0.0.1"];
    let (mut first, mut last) = (private.to_vec(), private.to_vec());
    first.insert(0, "127.0.0.2");
    last.push("127.0.0.2");
    for way in WAYS {
        for list in [&first, &last] {
            named.names.say([ips(list)]);
            let answer = named.ask(way, "mixed.test", port);
            assert_eq!(answer, (200, b"2".to_vec()), "{way:?} {list:?}");
        }
        // Nobody listens there. That tells more than the refusals of others.
        let dead = [&["127.0.0.3"], &private[..]].concat();
        named.names.say([ips(&dead)]);
        assert_eq!(named.ask(way, "mixed.test", port).0, 502, "{way:?}");
        named.names.say([ips(&private)]);
        assert_eq!(named.ask(way, "mixed.test", port).0, 403, "{way:?}");
    }
    assert_eq!(origins[0].accepted(), 0);
    named.leaves_nothing();
}

#[test]
fn of_very_many_addresses_the_last_one_is_reached_and_none_is_told() {
    let (_origins, port) = origins(2);
    let dead: Vec<IpAddr> = (1..50).map(|n| IpAddr::from([127, 1, 0, n])).collect();
    let with_last = [&dead[..], &ips(&["127.0.0.2"])].concat();
    let patient = Named::start(&["127.0.0.0/8:*", "many.test:*"], PATIENT);
    for way in WAYS {
        patient.names.say([&with_last]);
        let answer = patient.ask(way, "many.test", port);
        assert_eq!(answer, (200, b"2".to_vec()), "{way:?}");
        patient.names.say([&dead]);
        assert_eq!(patient.ask(way, "many.test", port).0, 502, "{way:?}");
    }
    patient.leaves_nothing();
    // None of them says anything.
    let mute = MutePort::new();
    let hasty = Named::start(
        &["127.0.0.0/8:*", "many.test:*"],
        Duration::from_millis(300),
    );
    for way in WAYS {
        hasty.names.say([vec![mute.addr.ip(); 50]]);
        let answer = hasty.ask(way, "many.test", mute.addr.port());
        assert_eq!(answer.0, 504, "{way:?}");
    }
    hasty.leaves_nothing();
}

#[test]
fn names_whose_server_never_answers_are_given_up_in_time_and_hold_up_no_others() {
    let (_origins, port) = origins(2);
    let hasty = Named::start(&["127.0.0.0/8:*", "*:*"], Duration::from_millis(100));
    for way in WAYS {
        assert_eq!(hasty.ask(way, "hangs.test", port).0, 504, "{way:?}");
    }
    hasty.leaves_nothing();
    // The resolver goes on waiting, for one name after the other.
    for n in 0..30 {
        let host = format!("hangs-{n}.test");
        assert_eq!(hasty.ask(WAYS[n % 3], &host, port).0, 504, "{host}");
    }
    assert_eq!(hasty.names.hanging(), 31);
    hasty.names.say([ips(&["127.0.0.2"])]);
    for way in WAYS {
        eventually("another name is looked up", || {
            hasty.ask(way, "good.test", port).0 == 200
        });
    }
    hasty.names.give_up();
    eventually("the look-ups end", || hasty.names.hanging() == 0);
    hasty.leaves_nothing();
}

#[test]
fn an_association_looks_up_few_names_at_a_time_whatever_its_client_sends() {
    let named = Named::start(&["*:*", "127.0.0.0/8:*"], PATIENT);
    let addr = named.running.local_addrs()[1].as_socket_addr();
    let mut control = Asker::at(addr.expect("an address"));
    let associate = b"\x05\x03\x00\x01\0\0\0\0\0\0";
    control.send([GREETING, associate].concat());
    let reply = control.recv(2 + 10);
    let ip: [u8; 4] = reply[6..10].try_into().expect("4 bytes");
    let port: [u8; 2] = reply[10..].try_into().expect("2 bytes");
    let relay = SocketAddr::from((ip, u16::from_be_bytes(port)));
    let own = control.stream.get_ref().local_addr().expect("an address");
    let client = UdpSocket::bind((own.ip(), 0)).expect("a port");
    client.set_read_timeout(Some(LONG)).expect("is set");
    let send = |name: &str, port: u16| {
        let mut datagram = b"\0\0\0\x03".to_vec();
        datagram.push(name.len() as u8);
        datagram.extend(name.as_bytes());
        datagram.extend(port.to_be_bytes());
        datagram.extend(b"x");
        client.send_to(&datagram, relay).expect("is sent");
    };
    for n in 0..200 {
        send(&format!("hangs{n}.test"), 53);
    }
    eventually("the others are dropped", || named.dropped("full") == 184.0);
    named.names.give_up();
    eventually("all have failed", || named.dropped("unreachable") == 16.0);
    named.names.say([ips(&["127.0.0.1"])]);
    let target = UdpSocket::bind("127.0.0.1:0").expect("a port");
    target.set_read_timeout(Some(LONG)).expect("is set");
    send(
        "known.test",
        target.local_addr().expect("an address").port(),
    );
    assert_eq!(target.recv(&mut [0; 10]).expect("it comes"), 1);
    drop(control);
    named.leaves_nothing();
}
