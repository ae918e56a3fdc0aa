//! The PROXY protocol: connections by way of a proxy, and those that only pretend.
#![cfg(feature = "proxy-protocol")]

mod util;

#[cfg(feature = "tls")]
#[path = "tls/pki.rs"]
#[allow(dead_code)]
mod pki;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use epicycle::{Connect, ConnectError, Listen, ProxyHeader, ProxyProtocol, Running, Server};

use crate::util::app::{App, Gate, Log, start, start_client};
use crate::util::client::{Client, TempPath};
use crate::util::{LONG, eventually};

const CLIENT: &str = "192.0.2.1:4000";
const SERVER: &str = "192.0.2.2:80";

fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn local_proxies() -> ProxyProtocol {
    ProxyProtocol::trust(["127.0.0.0/8"])
}

fn listen(proxies: ProxyProtocol) -> Server {
    Server::bind(Listen::on("tcp://127.0.0.1:0").proxy_protocol(proxies)).reactors(1)
}

/// Starts a server whose connections begin by telling who the peer is, and by way of whom.
fn serve(server: Server) -> (Running<App>, Arc<Log>) {
    start(server, |app| {
        app.on_open(|conn| {
            let via = conn
                .via()
                .map_or_else(|| "nobody".to_owned(), ToString::to_string);
            let told = format!("{} by way of {via}\n", conn.peer_addr());
            conn.write(told.as_bytes()).is_ok()
        })
    })
}

/// Asserts what the server tells at the beginning, and that it echoes.
fn greeted(client: &Client, peer: &str, via: &str) {
    let told = format!("{peer} by way of {via}\n");
    assert_eq!(String::from_utf8_lossy(&client.recv(told.len())), told);
    client.round_trip("hello");
}

fn is_idle(running: &Running<App>) {
    eventually("nothing is left", || {
        let total = running.engine().stats().total();
        total.connections == 0 && total.timers == 0
    });
}

#[test]
fn a_header_tells_the_address_of_the_client() {
    let (running, log) = serve(listen(local_proxies()));
    let headers = [
        (ProxyHeader::v1(addr(CLIENT), addr(SERVER)), CLIENT),
        (ProxyHeader::v2(addr(CLIENT), addr(SERVER)), CLIENT),
        (
            ProxyHeader::v2(addr("[2001:db8::1]:5"), addr("[2001:db8::2]:6")),
            "[2001:db8::1]:5",
        ),
    ];
    for (n, (header, peer)) in headers.into_iter().enumerate() {
        let client = Client::to(&running);
        client.send(header.as_bytes());
        greeted(&client, peer, &client.name());
        drop(client);
        assert_eq!(log.await_close(n).0.peer.to_string(), peer);
    }
    is_idle(&running);
    assert_eq!(running.shutdown().stats.total().proxy_errors, 0);
}

#[test]
fn a_proxy_that_speaks_for_itself_keeps_its_address() {
    let (running, _log) = serve(listen(local_proxies()));
    let unknown = b"PROXY UNKNOWN\r\n".to_vec();
    for header in [ProxyHeader::local().as_bytes().to_vec(), unknown] {
        let client = Client::to(&running);
        client.send(header);
        greeted(&client, &client.name(), &client.name());
    }
}

#[test]
fn a_header_may_arrive_in_any_two_parts_and_with_input_behind_it() {
    let (running, log) = serve(listen(local_proxies()));
    let headers = [
        ProxyHeader::v1(addr(CLIENT), addr(SERVER)),
        ProxyHeader::v2(addr(CLIENT), addr(SERVER)),
    ];
    let mut opened = 0;
    for header in headers.each_ref().map(ProxyHeader::as_bytes) {
        for at in 0..=header.len() {
            let client = Client::to(&running);
            let (first, second) = header.split_at(at);
            client.send(first);
            // The reactor has looked at the first part when it has run a task.
            drop(Gate::before(running.engine(), 0));
            assert!(at == header.len() || log.opened() == opened);
            client.send([second, b"first"].concat());
            opened += 1;
            let told = format!("{CLIENT} by way of {}\nfirst", client.name());
            assert_eq!(client.recv(told.len()), told.as_bytes());
        }
    }
}

#[test]
fn a_connection_without_a_header_ends_before_the_handler_sees_it() {
    let (running, log) = serve(listen(local_proxies()));
    let v2 = ProxyHeader::v2(addr(CLIENT), addr(SERVER));
    let mut long = v2.as_bytes().to_vec();
    long[14] = 0xff;
    let bad: [&[u8]; 6] = [
        b"GET / HTTP/1.1\r\n\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 4000\r\n",
        &[b"PROXY UNKNOWN ".as_slice(), &[b'x'; 200]].concat(),
        &long,
        &[0; 100],
        b"\x16\x03\x01",
    ];
    for (n, bytes) in bad.iter().enumerate() {
        let client = Client::to(&running);
        client.send(bytes);
        let (answer, _) = client.recv_to_any_end();
        assert!(answer.is_empty());
        eventually("it is counted", || {
            running.engine().stats().total().proxy_errors == n as u64 + 1
        });
    }
    // A peer that ends in the middle of it, or without a byte.
    for half in [&v2.as_bytes()[..20], b"PROXY", b""] {
        let client = Client::to(&running);
        client.send(half);
        client.end_writes();
        assert!(client.recv_to_any_end().0.is_empty());
    }
    is_idle(&running);
    let total = running.shutdown().stats.total();
    assert_eq!(
        (total.proxy_errors, total.accepted, total.refused),
        (9, 9, 0)
    );
    assert_eq!((log.opened(), log.closed()), (0, 0));
}

#[test]
fn a_header_that_does_not_come_in_time_ends_the_connection() {
    let proxies = local_proxies().timeout(Duration::from_millis(50));
    let (running, log) = serve(listen(proxies));
    let silent = Client::to(&running);
    let slow = Client::to(&running);
    slow.send("PROXY TCP4 ");
    for client in [silent, slow] {
        assert!(client.recv_to_any_end().0.is_empty());
    }
    is_idle(&running);
    let total = running.shutdown().stats.total();
    assert_eq!((total.timeouts, log.opened()), (2, 0));
}

#[test]
fn only_trusted_proxies_may_tell_addresses() {
    let header = ProxyHeader::v1(addr(CLIENT), addr(SERVER));
    let trusted = || ProxyProtocol::trust(["127.0.0.2"]);

    let (running, log) = serve(listen(trusted()));
    let client = Client::from_ip(&running, Ipv4Addr::new(127, 0, 0, 2).into());
    client.send(header.as_bytes());
    greeted(&client, CLIENT, &client.name());
    let other = Client::to(&running);
    assert!(other.recv_to_any_end().0.is_empty());
    assert_eq!(log.opened(), 1);
    assert_eq!(running.shutdown().stats.total().refused, 1);

    let (running, _log) = serve(listen(trusted().accept_others(true)));
    let client = Client::from_ip(&running, Ipv4Addr::new(127, 0, 0, 2).into());
    client.send(header.as_bytes());
    greeted(&client, CLIENT, &client.name());
    let other = Client::to(&running);
    greeted(&other, &other.name(), "nobody");
    // It is input like any other.
    other.round_trip(header.as_bytes());
}

#[test]
fn the_peers_of_a_unix_socket_are_trusted() {
    let path = TempPath::new();
    let listen = Listen::on(path.addr()).proxy_protocol(ProxyProtocol::trust::<&str>([]));
    let (running, _log) = serve(Server::bind(listen).reactors(1));
    let client = Client::to(&running);
    client.send(ProxyHeader::v1(addr(CLIENT), addr(SERVER)).as_bytes());
    let told = format!("{CLIENT} by way of ");
    assert_eq!(client.recv(told.len()), told.as_bytes());
}

#[test]
fn the_limit_for_each_address_counts_clients_and_not_the_proxy() {
    let server = listen(local_proxies()).max_connections_per_ip(1);
    let (running, _log) = serve(server);
    let connect = |client: &str| {
        let header = ProxyHeader::v2(addr(client), addr(SERVER));
        let client = Client::to(&running);
        client.send(header.as_bytes());
        client
    };
    let clients = ["192.0.2.1:1", "192.0.2.2:1", "192.0.2.3:1"];
    let open = clients.map(|client| {
        let proxied = connect(client);
        greeted(&proxied, client, &proxied.name());
        proxied
    });
    // Those that have not told yet are counted for nobody.
    let _waiting: Vec<Client> = (0..3).map(|_| Client::to(&running)).collect();
    assert!(connect("192.0.2.1:2").recv_to_any_end().0.is_empty());
    eventually("it is counted", || {
        running.engine().stats().total().refused == 1
    });
    drop(open);
    eventually("they have left", || running.engine().connections() == 3);
    let again = connect("192.0.2.1:3");
    greeted(&again, "192.0.2.1:3", &again.name());
}

#[test]
fn an_outbound_connection_sends_its_header_first() {
    let (server, log) = serve(listen(local_proxies()));
    let to = server.local_addrs()[0]
        .as_socket_addr()
        .expect("an address");
    let (running, _) = start_client(epicycle::Client::new(), |app| {
        app.on_open(|conn| conn.write(b"hello").is_ok())
            .react(|_, _, _| epicycle::Action::Close)
    });
    for header in [
        ProxyHeader::v1(addr(CLIENT), addr(SERVER)),
        ProxyHeader::v2(addr(CLIENT), addr(SERVER)),
    ] {
        let connect = Connect::to(to).proxy_protocol(header);
        running.engine().connect(connect).expect("is taken");
    }
    for n in 0..2 {
        let (closed, _) = log.await_close(n);
        assert_eq!(
            (closed.peer.to_string().as_str(), closed.bytes_in),
            (CLIENT, 5)
        );
    }
}

#[cfg(feature = "tls")]
#[test]
fn a_header_comes_before_the_handshake_of_tls() {
    use epicycle::tls::{Identity, TlsClient, TlsServer};

    let issued = pki::TRUSTED.issue(&["localhost"]);
    let identity = Identity::from_pem(issued.certificate, issued.key).expect("they match");
    let tls = TlsServer::new(identity).expect("is set up");
    let tls = tls.handshake_timeout(Duration::from_millis(300));
    let at = Listen::on("tcp://127.0.0.1:0").tls(&tls);
    let (server, log) = serve(Server::bind(at.proxy_protocol(local_proxies())).reactors(1));
    let port = server.local_addrs()[0]
        .as_socket_addr()
        .expect("an address")
        .port();
    let roots = pki::TRUSTED.roots();
    let (running, client_log) = start_client(epicycle::Client::new(), |app| {
        app.on_open(|conn| conn.write(b"hello").is_ok())
            .react(|_, _, _| epicycle::Action::Close)
    });
    let connect = Connect::to(format!("tcp4://localhost:{port}"))
        .tls(&TlsClient::new(&roots).expect("is set up"))
        .timeout(LONG);
    let header = ProxyHeader::v2(addr(CLIENT), addr(SERVER));
    let proxied = connect.clone().proxy_protocol(header.clone());
    running.engine().connect(proxied).expect("is taken");
    let (closed, _) = log.await_close(0);
    assert_eq!(
        (closed.peer.to_string().as_str(), closed.bytes_in),
        (CLIENT, 5)
    );
    // Without a header the handshake fails, and it is not TLS that is to blame.
    running.engine().connect(connect).expect("is taken");
    client_log.await_failure(0);
    let total = server.engine().stats().total();
    assert_eq!((total.proxy_errors, total.handshake_failures), (1, 0));
    // The timeout of the handshake counts from the accept.
    let client = Client::to(&server);
    client.send(header.as_bytes());
    assert!(client.recv_to_any_end().0.is_empty());
    assert_eq!(log.opened(), 1);
}

#[test]
fn options_that_cannot_work_are_refused() {
    let refused = |server: Server| {
        let started = server.start(|_| epicycle::service(|_, _| epicycle::Action::Close));
        started.map(|_| ()).expect_err("is refused").to_string()
    };
    let udp = Listen::on("udp://127.0.0.1:0").proxy_protocol(local_proxies());
    for (server, told) in [
        (
            listen(ProxyProtocol::trust(["10.0.0.0/8", "10.0.0.0/33"])),
            "\"10.0.0.0/33\" is no network",
        ),
        (
            listen(local_proxies().timeout(Duration::ZERO)),
            "a timeout of zero",
        ),
        (Server::bind(udp), "not for datagrams"),
    ] {
        let error = refused(server);
        assert!(
            error.contains("proxy_protocol") && error.contains(told),
            "{error}"
        );
    }
    let (running, _log) = start_client(epicycle::Client::new(), |app| app);
    let ip = IpAddr::from(Ipv4Addr::LOCALHOST);
    let header = ProxyHeader::v1((ip, 1).into(), (ip, 2).into());
    let connect = Connect::to("udp://127.0.0.1:9").proxy_protocol(header);
    let refused = running.engine().connect(connect).map(|_| ());
    assert!(matches!(refused, Err(ConnectError::Option(_))));
}
