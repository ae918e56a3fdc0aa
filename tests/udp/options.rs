//! Addresses and options: accepted values, refused values with their errors, and effects.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use epicycle::{
    AcceptMode, Action, Endpoint, Error, Family, Listen, MulticastInterface, Server, UdpSessions,
};

use crate::peer::Peer;
use crate::util::app::{App, Log, start};
use crate::util::{LONG, await_some, not_here};

fn error_of(listen: impl Into<Listen>) -> Error {
    let server = Server::bind(listen).reactors(1);
    let log = Arc::<Log>::default();
    server
        .start(move |_| App::echo(&log))
        .expect_err("is refused")
}

#[test]
fn a_handler_that_takes_no_datagrams_is_refused_where_there_are_no_sessions() {
    let start = |listen: Listen| {
        let server = Server::bind("tcp://127.0.0.1:0").and(listen);
        server.start(|_| epicycle::service(|conn, bytes| conn.write(bytes).into()))
    };
    let listen = || Listen::on("udp://127.0.0.1:0");
    let error = start(listen()).expect_err("would drop everything");
    assert!(
        matches!(
            error,
            Error::Option {
                name: "sessions",
                ..
            }
        ),
        "{error}"
    );
    assert!(
        error.to_string().contains("udp://127.0.0.1:0"),
        "names the address: {error}"
    );
    let running = start(listen().sessions(UdpSessions::new())).expect("starts");
    Peer::to(&running.local_addrs()[1]).round_trip("hello");
}

#[test]
fn serve_answers_datagrams() {
    // Nobody tells which port `serve` has, so it is given one that was free a moment ago.
    let free = UdpSocket::bind("127.0.0.1:0").expect("binds");
    let addr = free.local_addr().expect("is bound");
    drop(free);
    let server = thread::spawn(move || {
        epicycle::serve(format!("udp://{addr}"), |conn, bytes| {
            let written = conn.write(bytes);
            match bytes {
                b"stop" => Action::Shutdown,
                _ => written.into(),
            }
        })
    });
    let peer = UdpSocket::bind("127.0.0.1:0").expect("binds");
    peer.connect(addr).expect("connects");
    peer.set_read_timeout(Some(Duration::from_millis(100)))
        .expect("is an option");
    for text in [&b"hello"[..], b"stop"] {
        let mut answer = [0; 100];
        let n = await_some("it answers", || {
            assert!(text == b"stop" || !server.is_finished(), "it has ended");
            // Refused, until it listens.
            let _ = peer.send(text);
            peer.recv(&mut answer).ok()
        });
        assert_eq!(&answer[..n], text);
    }
    server.join().expect("does not panic").expect("serves");
}

#[test]
fn addresses_are_parsed_and_shown_alike() {
    for text in [
        "udp://127.0.0.1:53",
        "udp4://127.0.0.1:0",
        "udp6://[::1]:9000",
        "udp://:9000",
        "udp://localhost:9000",
        "tcp6://[::1]:9000",
    ] {
        let addr: Endpoint = text.parse().expect("is understood");
        assert_eq!(addr.to_string(), text);
    }
    let addr: Endpoint = "udp6://[::1]:53".parse().expect("is understood");
    assert!(matches!(
        addr,
        Endpoint::Udp { ref host, port: 53, family: Family::V6 } if host == "::1"
    ));
    let resolved = addr.resolve().expect("resolves");
    assert_eq!(resolved, ["[::1]:53".parse().expect("an address")]);
}

#[test]
fn bad_addresses_are_told_the_remedy() {
    for (text, remedy) in [
        ("udp://127.0.0.1", "write udp://127.0.0.1:9000"),
        ("udp4://[::1]:1", "use udp6:// or udp://"),
        ("udp6://127.0.0.1:1", "use udp4:// or udp://"),
        ("udp://::1:53", "write udp://[::1]:9000"),
        ("udp://127.0.0.1:65536", "0 to 65535"),
        ("udp46://127.0.0.1:1", "use tcp://, udp://"),
        ("dtls://127.0.0.1:1", "use tcp://, udp://"),
    ] {
        let error = text.parse::<Endpoint>().expect_err("is refused");
        assert!(error.to_string().contains(remedy), "{error}");
    }
    let error = error_of("udp4://ip6-localhost.invalid:1").to_string();
    assert!(error.contains("does not resolve"), "{error}");
}

#[test]
fn options_that_cannot_work_are_told_the_remedy() {
    let udp = || Listen::on("udp://127.0.0.1:0");
    let group = IpAddr::from([239, 1, 1, 1]);
    let any = MulticastInterface::Any;
    for (listen, name, remedy) in [
        (udp().batch(0), "batch", "from 1 to 64"),
        (udp().batch(65), "batch", "from 1 to 64"),
        (udp().max_datagram(0), "max_datagram", "64 KiB"),
        (udp().max_datagram(65_537), "max_datagram", "64 KiB"),
        (udp().recv_buffer(1 << 31), "recv_buffer", "2147483647"),
        (udp().send_buffer(1 << 32), "send_buffer", "2147483647"),
        (
            udp().join_multicast([127, 0, 0, 1], any),
            "join_multicast",
            "224.0.0.0/4",
        ),
        (
            udp().sessions(UdpSessions::new().max_sessions(0)),
            "max_sessions",
            "from 1 to 2097152",
        ),
        (
            udp().sessions(UdpSessions::new().max_sessions(usize::MAX)),
            "max_sessions",
            "from 1 to 2097152",
        ),
        (
            udp().sessions(UdpSessions::new().idle_timeout(Duration::ZERO)),
            "idle_timeout",
            "Duration::MAX",
        ),
        (
            Listen::on("tcp://127.0.0.1:0").batch(7),
            "batch",
            "use udp://",
        ),
        (
            Listen::on("unix:///nonexistent/x.sock").sessions(UdpSessions::new()),
            "sessions",
            "use udp://",
        ),
        (
            Listen::on("tcp://127.0.0.1:0").join_multicast(group, any),
            "join_multicast",
            "leave the option out",
        ),
        (
            Listen::on("tcp://127.0.0.1:0").broadcast(true),
            "broadcast",
            "use udp://",
        ),
    ] {
        let error = error_of(listen);
        assert!(
            matches!(error, Error::Option { name: n, .. } if n == name),
            "{error}"
        );
        assert!(error.to_string().contains(remedy), "{error}");
    }
}

#[cfg(feature = "tls")]
#[test]
fn there_is_no_tls_over_udp() {
    use epicycle::tls::{Identity, TlsServer};

    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("is made");
    let identity = Identity::from_pem(made.cert.pem(), made.signing_key.serialize_pem());
    let tls = TlsServer::new(identity.expect("is understood")).expect("is made");
    let error = error_of(Listen::on("udp://127.0.0.1:0").tls(&tls)).to_string();
    assert!(error.contains("use a tcp:// address"), "{error}");
}

#[test]
fn an_address_in_use_is_refused() {
    let taken = UdpSocket::bind("127.0.0.1:0").expect("binds");
    let addr = format!("udp://{}", taken.local_addr().expect("is bound"));
    let error = error_of(&addr);
    assert!(matches!(error, Error::Bind { .. }), "{error}");
    assert!(error.to_string().contains(&addr), "{error}");
}

#[test]
fn buffers_are_set() {
    let listen = Listen::on("udp://127.0.0.1:0")
        .recv_buffer(64 << 10)
        .send_buffer(32 << 10);
    let (running, _) = start(Server::bind(listen).reactors(1), |app| {
        app.on_datagram(|udp, _| {
            let socket = udp.socket().expect("is open");
            let options = socket2::SockRef::from(&socket);
            let sizes = (options.recv_buffer_size(), options.send_buffer_size());
            // The kernel doubles them for its own use.
            let sizes = (sizes.0.expect("is told"), sizes.1.expect("is told"));
            udp.reply(format!("{sizes:?}").as_bytes()).into()
        })
    });
    let peer = Peer::of(&running);
    peer.send("how large?");
    let answer = String::from_utf8(peer.recv()).expect("is text");
    let linux = cfg!(target_os = "linux");
    assert!(!linux || answer == "(131072, 65536)", "{answer}");
}

#[test]
fn broadcast_needs_its_flag() {
    for allowed in [false, true] {
        let listen = Listen::on("udp4://127.0.0.1:0").broadcast(allowed);
        let (running, _) = start(Server::bind(listen).reactors(1), |app| {
            app.on_datagram(|udp, datagram| {
                if datagram.data == b"allow" {
                    udp.set_broadcast(true).expect("is an option");
                }
                let socket = udp.socket().expect("is open");
                let on = socket2::SockRef::from(&socket).broadcast();
                let on = on.expect("is told");
                udp.reply(on.to_string().as_bytes()).into()
            })
        });
        let peer = Peer::of(&running);
        peer.send("is it?");
        assert_eq!(peer.recv(), allowed.to_string().as_bytes());
        peer.send("allow");
        assert_eq!(peer.recv(), b"true");
    }
    // With the flag, a broadcast within this machine is sent; 127.255.255.255 is the loopback network's address.
    let all = UdpSocket::bind("0.0.0.0:0").expect("binds");
    all.set_read_timeout(Some(LONG)).expect("is an option");
    let port = all.local_addr().expect("is bound").port();
    let listen = Listen::on("udp4://127.0.0.1:0").broadcast(true);
    let (running, _) = start(Server::bind(listen).reactors(1), move |app| {
        app.on_datagram(move |udp, datagram| {
            let everybody = (Ipv4Addr::new(127, 255, 255, 255), port).into();
            udp.send_to(datagram.data, everybody).into()
        })
    });
    Peer::of(&running).send("hear ye");
    let mut bytes = [0; 16];
    let n = all.recv(&mut bytes).expect("receives");
    assert_eq!(&bytes[..n], b"hear ye");
}

/// The number of the loopback interface, if it can be found out.
fn loopback() -> Option<u32> {
    let number = std::fs::read_to_string("/sys/class/net/lo/ifindex").ok()?;
    number.trim().parse().ok()
}

/// A port that a server and others can share.
fn free_port(any: &str) -> u16 {
    let socket = UdpSocket::bind(any).expect("binds");
    socket.local_addr().expect("is bound").port()
}

#[test]
fn a_group_is_joined_and_left() {
    let group = Ipv4Addr::new(239, 255, 71, 9);
    let lo = MulticastInterface::Addr(Ipv4Addr::LOCALHOST);
    let by_number = loopback().map(MulticastInterface::Index);
    for interface in [Some(lo), by_number].into_iter().flatten() {
        let port = free_port("0.0.0.0:0");
        let sender = UdpSocket::bind("127.0.0.1:0").expect("binds");
        sender.set_read_timeout(Some(LONG)).expect("is an option");
        let options = socket2::SockRef::from(&sender);
        options
            .set_multicast_if_v4(&Ipv4Addr::LOCALHOST)
            .expect("is an option");
        if let Err(error) = sender.send_to(b"is there a route?", (group, port)) {
            let why = format!("no multicast is sent by the loopback interface: {error}");
            return not_here(&why);
        }
        let listen = Listen::on(format!("udp4://0.0.0.0:{port}")).join_multicast(group, interface);
        // Two reactors, on which the socket must not receive two copies.
        let server = Server::bind(listen)
            .reactors(2)
            .accept_mode(AcceptMode::ReusePort);
        let (running, _) = start(server, move |app| {
            app.on_datagram(move |udp, datagram| {
                match datagram.data {
                    b"leave" => udp.leave_multicast(group, interface).expect("is a member"),
                    b"join" => udp.join_multicast(group, interface).expect("is none yet"),
                    b"shout" => {
                        udp.send_multicast_by(interface).expect("is an option");
                        udp.send_to(b"shouted", (group, port).into())
                            .expect("is queued");
                    }
                    // An answer to itself would be answered for ever.
                    b"shouted" => return Action::Continue,
                    _ => {}
                }
                udp.reply(datagram.data).into()
            })
        });
        let mut bytes = [0; 32];
        let mut ask = |to: Ipv4Addr, what: &[u8]| {
            sender.send_to(what, (to, port)).expect("sends");
            let n = sender.recv(&mut bytes).expect("receives");
            assert_eq!(&bytes[..n], what);
        };
        ask(group, b"member");
        ask(Ipv4Addr::LOCALHOST, b"leave");
        sender.send_to(b"nobody", (group, port)).expect("sends");
        ask(Ipv4Addr::LOCALHOST, b"join");
        ask(group, b"member again");
        // Its own comes back to it, as to any member.
        ask(Ipv4Addr::LOCALHOST, b"shout");
        let received = || running.engine().stats().total().datagrams_in;
        crate::util::eventually("it hears itself", || received() == 6);
        running.shutdown();
    }
}

#[test]
fn a_group_of_ipv6_is_joined() {
    // Of such scope that nothing leaves the machine, whichever the interface.
    let group: Ipv6Addr = "ff01::7109".parse().expect("an address");
    let port = free_port("[::]:0");
    let lo = loopback().map(MulticastInterface::Index);
    for interface in [lo, Some(MulticastInterface::Any)].into_iter().flatten() {
        let sender = UdpSocket::bind("[::]:0").expect("binds");
        sender.set_read_timeout(Some(LONG)).expect("is an option");
        if let MulticastInterface::Index(index) = interface {
            let options = socket2::SockRef::from(&sender);
            options.set_multicast_if_v6(index).expect("is an option");
        }
        if sender.send_to(b"is there a route?", (group, port)).is_err() {
            continue;
        }
        let listen = Listen::on(format!("udp6://[::]:{port}")).join_multicast(group, interface);
        let (running, _) = start(Server::bind(listen).reactors(1), |app| app);
        sender.send_to(b"member", (group, port)).expect("sends");
        let mut bytes = [0; 32];
        let n = sender.recv(&mut bytes).expect("receives");
        assert_eq!(&bytes[..n], b"member");
        running.shutdown();
        return;
    }
    not_here("no IPv6 multicast is sent");
}

#[test]
fn a_group_of_ipv6_knows_interfaces_by_number() {
    let group: Ipv6Addr = "ff01::7109".parse().expect("an address");
    let by_addr = MulticastInterface::Addr(Ipv4Addr::LOCALHOST);
    let error = error_of(Listen::on("udp6://[::]:0").join_multicast(group, by_addr));
    let remedy = "use MulticastInterface::Index";
    assert!(error.to_string().contains(remedy), "{error}");
}
