//! Clients of SOCKS listeners that await a connection of a peer (`BIND`).

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use epicycle::gateway::settings::ListenerSettings;
use epicycle::gateway::{Gateway, NoHooks, Running};
use socket2::{Domain, Socket, Type};

use crate::peers::{Asker, figure};
use crate::rig::Folder;
use crate::socks::{GREETING, listener, start};
use crate::util::{LONG, eventually};

fn binding(allow: &[&str]) -> ListenerSettings {
    let mut listener = listener(allow);
    listener.bind = true;
    listener
}

/// Asks for a connection from this address. Returns the code of the first reply, and the address in it.
fn bind(client: &mut Asker, ip: [u8; 4], port: u16) -> (u8, SocketAddr) {
    let mut request = [GREETING, b"\x05\x02\x00\x01", &ip].concat();
    request.extend(port.to_be_bytes());
    client.send(request);
    assert_eq!(client.recv(2), b"\x05\x00");
    reply(client)
}

fn reply(client: &mut Asker) -> (u8, SocketAddr) {
    let head = client.recv(4);
    assert_eq!((head[0], head[2], head[3]), (5, 0, 1), "{head:x?}");
    let (ip, port) = (client.recv(4), client.recv(2));
    let ip = Ipv4Addr::new(ip[0], ip[1], ip[2], ip[3]);
    (head[1], (ip, u16::from_be_bytes([port[0], port[1]])).into())
}

/// Connects from an own address.
fn connect(own: [u8; 4], to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket
        .bind(&SocketAddr::from((own, 0)).into())
        .expect("it is free");
    socket.connect(&to.into()).expect("somebody listens");
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(LONG)).expect("is set");
    stream
}

fn is_cut(mut stream: &TcpStream) -> bool {
    stream.read(&mut [0; 1]).is_err()
}

fn waiting(gateway: &Running<NoHooks>) -> usize {
    figure(gateway, |proxy| proxy.target_dials())
}

#[test]
fn a_client_is_joined_with_the_peer_that_it_awaits_and_with_no_other() {
    let gateway = start(binding(&["127.0.0.0/8"]));
    let mut client = Asker::to(&gateway);
    let (code, bound) = bind(&mut client, [127, 0, 0, 1], 0);
    assert_eq!(code, 0);
    assert!(bound.ip().is_loopback(), "the address that it has come to");
    // Only that address.
    assert!(TcpStream::connect(SocketAddr::from(([127, 0, 0, 2], bound.port()))).is_err());
    client.send("early");
    let mut peer = connect([127, 0, 0, 1], bound);
    let second = reply(&mut client);
    assert_eq!(second, (0, peer.local_addr().expect("bound")));
    assert!(TcpStream::connect(bound).is_err(), "there is a second one");
    let mut received = [0; 5];
    peer.read_exact(&mut received).expect("it comes");
    assert_eq!(&received, b"early");
    let bulk: Vec<u8> = (0..3_u32 << 20).map(|n| (n / 5) as u8).collect();
    let (sent, mut writer) = (bulk.clone(), peer.try_clone().expect("a copy"));
    let writes = std::thread::spawn(move || {
        writer.write_all(&sent).expect("all of it");
        writer.shutdown(Shutdown::Write).expect("is open");
    });
    assert!(client.recv_to_end() == bulk, "other bytes than the peer's");
    writes.join().expect("ends");
    // The other way is open still.
    client.send("late");
    client.end_writes();
    let mut rest = Vec::new();
    peer.read_to_end(&mut rest).expect("its end comes");
    assert_eq!(rest, b"late");
    eventually("nothing is left", || gateway.engine().connections() == 0);
    let metrics = gateway.control().metrics();
    assert!(
        metrics.contains("epicycle_gateway_tunnels 0\n"),
        "{metrics}"
    );
}

#[test]
fn other_peers_than_the_awaited_one_are_reset_and_the_wait_goes_on() {
    let gateway = start(binding(&["127.0.0.0/8:*"]));
    let mut client = Asker::to(&gateway);
    let (code, bound) = bind(&mut client, [127, 0, 0, 2], 0);
    assert_eq!(code, 0);
    for _ in 0..20 {
        assert!(is_cut(&connect([127, 0, 0, 1], bound)));
    }
    let peer = connect([127, 0, 0, 2], bound);
    assert_eq!(reply(&mut client), (0, peer.local_addr().expect("bound")));

    let mut client = Asker::to(&gateway);
    let (code, bound) = bind(&mut client, [127, 0, 0, 1], 1);
    assert_eq!(code, 0);
    assert!(is_cut(&connect([127, 0, 0, 1], bound)), "another port");
}

#[test]
fn the_policy_decides_about_the_peer() {
    let gateway = start(binding(&["127.0.0.3", "127.0.0.4:9"]));
    let mut client = Asker::to(&gateway);
    assert_eq!(bind(&mut client, [127, 0, 0, 1], 4000).0, 2, "it is named");
    assert_eq!(client.recv_to_end(), b"");
    assert_eq!(bind(&mut Asker::to(&gateway), [127, 0, 0, 4], 9).0, 0);
    for named in [[127, 0, 0, 1], [127, 0, 0, 4], [0, 0, 0, 0]] {
        let mut client = Asker::to(&gateway);
        let (code, bound) = bind(&mut client, named, 0);
        assert_eq!(code, 0);
        for own in [[127, 0, 0, 1], [127, 0, 0, 4]] {
            assert!(is_cut(&connect(own, bound)), "{own:?} for {named:?}");
        }
    }
    let mut client = Asker::to(&gateway);
    let (_, bound) = bind(&mut client, [0, 0, 0, 0], 0);
    let peer = connect([127, 0, 0, 3], bound);
    assert_eq!(reply(&mut client), (0, peer.local_addr().expect("bound")));
}

#[test]
fn a_wait_ends_after_its_time_and_with_its_client() {
    let mut settings = binding(&["127.0.0.1"]);
    settings.tunnels.bind = Duration::from_millis(100);
    let gateway = start(settings);
    let mut client = Asker::to(&gateway);
    let (_, bound) = bind(&mut client, [127, 0, 0, 1], 0);
    assert_eq!(reply(&mut client).0, 6);
    assert_eq!(client.recv_to_end(), b"");
    assert!(TcpStream::connect(bound).is_err());

    let gateway = start(binding(&["127.0.0.1"]));
    for leave in [
        Asker::reset,
        |client: Asker| drop(client),
        |mut client: Asker| {
            client.send("a part of it");
            client.end_writes();
            // It is told no more, as it has left.
            assert_eq!(client.recv_to_end(), b"");
        },
    ] {
        let mut client = Asker::to(&gateway);
        let (_, bound) = bind(&mut client, [127, 0, 0, 1], 0);
        eventually("it is awaited", || waiting(&gateway) == 1);
        leave(client);
        eventually("the socket is closed", || {
            TcpStream::connect(bound).is_err()
        });
        eventually("nothing is left", || {
            waiting(&gateway) == 0 && gateway.engine().connections() == 0
        });
    }
}

#[test]
fn a_name_or_a_listener_without_bind_gets_no_socket() {
    let gateway = start(binding(&["127.0.0.1"]));
    let mut client = Asker::to(&gateway);
    client.send([GREETING, b"\x05\x02\x00\x03\x09localhost\x00\x50"].concat());
    assert_eq!(client.recv(2), b"\x05\x00");
    assert_eq!(reply(&mut client).0, 8);
    let gateway = start(listener(&["127.0.0.1"]));
    assert_eq!(bind(&mut Asker::to(&gateway), [127, 0, 0, 1], 0).0, 7);
}

#[test]
fn a_file_lets_clients_await_peers_where_that_can_work() {
    let folder = Folder::new();
    let read = |kind: &str, more: &str| {
        let file = format!(
            "[[listen]]\non = \"tcp://127.0.0.1:0\"\nkind = \"{kind}\"\nbind = true\n{more}"
        );
        folder.write("gateway.toml", file);
        Gateway::from_file(folder.path("gateway.toml"))
    };
    let gateway = read("socks5", "tunnel.bind = \"7s\"\n").expect("it is sound");
    let listener = &gateway.settings().listeners[0];
    assert_eq!(
        (listener.bind, listener.tunnels.bind),
        (true, Duration::from_secs(7))
    );
    for (kind, more, expected) in [
        ("forward", "", "only clients of a SOCKS listener"),
        (
            "socks5",
            "egress.via = \"socks5://10.0.0.1:1080\"\n",
            "by way of a proxy",
        ),
        ("socks5", "tunnel.bind = \"0s\"\n", "bind: zero would"),
    ] {
        let error = read(kind, more).expect_err("it cannot work").to_string();
        assert!(error.contains(expected), "{error}");
    }
}
