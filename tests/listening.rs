//! Listeners that are opened and closed while the engine runs.

mod util;

#[cfg(feature = "tls")]
#[path = "tls/pki.rs"]
#[allow(dead_code)]
mod pki;

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::thread;
use std::time::Duration;

use epicycle::{AcceptMode, Error, Listen, Origin, Running, Server, UdpSessions, service};

use crate::util::app::{App, local, start, start_client};
use crate::util::client::{Client, TempPath};
use crate::util::process::{alone, descriptors};
use crate::util::{LONG, eventually};

const ANY: &str = "tcp://127.0.0.1:0";

/// Engines that accept in each of the ways. Each has told the number of the listener at the start of a connection.
fn engines() -> Vec<(&'static str, Running<App>)> {
    let tells = |app: App| {
        app.on_open(|conn| match conn.origin() {
            Origin::Accepted { listener } => conn.write(&[b'0' + listener as u8]).is_ok(),
            _ => false,
        })
    };
    let by_ports = local().reactors(2).accept_mode(AcceptMode::ReusePort);
    let client = epicycle::Client::new().reactors(2);
    let udp = Listen::on("udp://127.0.0.1:0").sessions(UdpSessions::new());
    vec![
        ("one reactor", start(local(), tells).0),
        ("a main reactor", start(local().reactors(2), tells).0),
        ("a listener each", start(by_ports, tells).0),
        ("UDP alone", start(Server::bind(udp).reactors(2), tells).0),
        ("a client", start_client(client, tells).0),
    ]
}

fn is_refused(addr: &epicycle::Addr) -> bool {
    Client::try_connect(addr).is_err_and(|error| {
        matches!(
            error.kind(),
            ErrorKind::ConnectionRefused | ErrorKind::NotFound
        )
    })
}

#[test]
fn a_listener_opened_later_serves_and_when_it_closes_its_connections_stay() {
    for (what, running) in engines() {
        let engine = running.engine();
        let at_start = running.local_addrs().len();
        let first = engine.listen(ANY).expect(what);
        let second = engine.listen(ANY).expect(what);
        assert_eq!(
            (first.listener, second.listener),
            (at_start, at_start + 1),
            "{what}"
        );
        assert!(engine.is_accepting(), "{what}");
        let clients = [&first, &second, &first].map(|listening| {
            let client = Client::connect(&listening.local_addr);
            assert_eq!(client.recv(1), [b'0' + listening.listener as u8], "{what}");
            client
        });
        assert!(engine.unlisten(first.listener), "{what}");
        assert!(!engine.unlisten(first.listener), "{what}");
        eventually(what, || is_refused(&first.local_addr));
        for client in &clients {
            client.round_trip("hello");
        }
        assert_eq!(
            Client::connect(&second.local_addr).recv(1).len(),
            1,
            "{what}"
        );
        drop(clients);
        let report = running.shutdown();
        assert_eq!(report.forced, 0, "{what}");
        assert!(is_refused(&second.local_addr), "{what}");
    }
}

#[test]
fn a_listener_of_the_start_can_be_closed() {
    for (what, running) in engines() {
        let Some(addr) = running.local_addrs().first().cloned() else {
            continue;
        };
        assert!(running.engine().unlisten(0), "{what}");
        assert!(!running.engine().is_accepting(), "{what}");
        assert!(!running.engine().unlisten(0), "{what}");
        eventually(what, || {
            UdpSocket::bind(addr.as_socket_addr().expect("is IP")).is_ok() && is_refused(&addr)
        });
    }
}

#[test]
fn a_client_that_connects_as_soon_as_the_listener_is_open_is_served() {
    for (what, running) in engines() {
        for _ in 0..20 {
            let listening = running.engine().listen(ANY).expect(what);
            assert_eq!(
                Client::connect(&listening.local_addr).recv(1).len(),
                1,
                "{what}"
            );
            assert!(running.engine().unlisten(listening.listener), "{what}");
        }
    }
}

#[test]
fn the_path_of_a_unix_listener_is_removed_when_it_closes() {
    let (running, _log) = start_client(epicycle::Client::new(), |app| app);
    let path = TempPath::new();
    for _ in 0..3 {
        let listening = running.engine().listen(path.addr()).expect("listens");
        let client = Client::connect(&listening.local_addr);
        client.round_trip("hello");
        let taken = running.engine().listen(path.addr()).expect_err("is taken");
        assert!(matches!(taken, Error::Bind { .. }), "{taken}");
        assert!(running.engine().unlisten(listening.listener));
        eventually("the path is removed", || !path.0.exists());
        client.round_trip("still here");
    }
}

#[test]
fn a_udp_listener_that_closes_keeps_its_sessions_and_takes_no_new_ones() {
    for (what, running) in engines() {
        let listen = Listen::on("udp://127.0.0.1:0").sessions(UdpSessions::new());
        let listening = running.engine().listen(listen).expect(what);
        let server = listening.local_addr.as_socket_addr().expect("is IP");
        let peer = || {
            let socket = UdpSocket::bind("127.0.0.1:0").expect("binds");
            socket.connect(server).expect("connects");
            socket.set_read_timeout(Some(LONG)).expect("is set");
            socket
        };
        let mut answer = [0; 10];
        let known = peer();
        known.send(b"hello").expect("sends");
        // The number of the listener comes first.
        assert_eq!(known.recv(&mut answer).expect("an answer"), 1, "{what}");
        assert_eq!(known.recv(&mut answer).expect("an answer"), 5, "{what}");
        assert!(running.engine().unlisten(listening.listener), "{what}");
        let dropped = || running.engine().stats().total().datagrams_dropped;
        let before = dropped();
        eventually(what, || {
            peer().send(b"hello").expect("sends");
            dropped() > before
        });
        known.send(b"again").expect("sends");
        assert_eq!(known.recv(&mut answer).expect("an answer"), 5, "{what}");
        for id in 0..running.engine().reactors() {
            let end = |_: &mut App, reactor: &mut epicycle::Reactor<'_, App>| {
                reactor.for_each(|conn, _| conn.close());
            };
            running.engine().run_on(id, end).expect("is taken");
        }
        eventually(what, || UdpSocket::bind(server).is_ok());
    }
}

#[cfg(feature = "tls")]
#[test]
fn a_listener_opened_later_uses_tls_if_it_is_to() {
    use epicycle::tls::{Identity, TlsClient, TlsServer};

    let issued = pki::TRUSTED.issue(&["localhost"]);
    let identity = Identity::from_pem(issued.certificate, issued.key).expect("they match");
    let tls = TlsServer::new(identity).expect("is set up");
    let (running, log) = start(local().reactors(2), |app| {
        app.on_open(|conn| {
            let outbound = matches!(conn.origin(), Origin::Connected { .. });
            conn.tls().is_some() && (!outbound || conn.write(b"hello").is_ok())
        })
        .react(|conn, _, bytes| match conn.origin() {
            Origin::Connected { .. } => epicycle::Action::Close,
            _ => conn.write(bytes).into(),
        })
    });
    let listening = running
        .engine()
        .listen(Listen::on(ANY).tls(&tls))
        .expect("listens");
    let port = listening.local_addr.as_socket_addr().expect("is IP").port();
    let roots = pki::TRUSTED.roots();
    let connect = epicycle::Connect::to(format!("tcp4://localhost:{port}"));
    let connect = connect.tls(&TlsClient::new(&roots).expect("is set up"));
    running.engine().connect(connect).expect("is taken");
    for n in 0..2 {
        assert_eq!(log.await_close(n).0.bytes_in, 5);
    }
    assert_eq!(running.shutdown().stats.total().handshakes, 2);
}

#[test]
fn a_listener_that_cannot_be_opened_is_an_error_and_changes_nothing() {
    let (running, _log) = start(local().reactors(2), |app| app);
    let engine = running.engine();
    let taken = running.local_addrs()[0].clone();
    let taken = taken.as_socket_addr().expect("is IP");
    assert!(matches!(engine.listen(taken), Err(Error::Bind { .. })));
    assert!(matches!(
        engine.listen("tpc://x"),
        Err(Error::Address { .. })
    ));
    let sessions = Listen::on(ANY).sessions(UdpSessions::new());
    assert!(matches!(engine.listen(sessions), Err(Error::Option { .. })));
    Client::to(&running).round_trip("hello");
    engine.stop_accepting();
    assert!(matches!(engine.listen(ANY), Err(Error::Stopped)));
    assert!(!engine.unlisten(0));
    eventually("it accepts no more", || !engine.is_accepting());

    // This handler takes no datagrams.
    let deaf = Server::bind(ANY).start(|_| service(|_, _| epicycle::Action::Close));
    let deaf = deaf.expect("starts");
    let refused = deaf
        .engine()
        .listen("udp://127.0.0.1:0")
        .expect_err("is refused");
    assert!(refused.to_string().contains("sessions"), "{refused}");
}

#[test]
fn a_handover_has_the_listeners_of_the_moment() {
    let (running, _log) = start(local().reactors(2), |app| app);
    let engine = running.engine();
    let later = engine.listen(ANY).expect("listens");
    assert_eq!(engine.listeners().expect("copies").len(), 2);
    assert!(engine.unlisten(0));
    let sockets = engine.listeners().expect("copies");
    assert_eq!(sockets.len(), 1);
    let (next, _log) = start(
        Server::bind(sockets.into_iter().next().expect("is one")),
        |app| app,
    );
    assert_eq!(next.local_addrs(), [later.local_addr]);
}

#[test]
fn listeners_that_come_and_go_amid_a_shutdown_leave_nothing() {
    let name = "listeners_that_come_and_go_amid_a_shutdown_leave_nothing";
    alone(name, || {
        drop(engines());
        let before = descriptors();
        for round in 0..10 {
            for (what, running) in engines() {
                let engine = running.engine().clone();
                let busy = thread::spawn(move || {
                    let mut opened = Vec::new();
                    loop {
                        match engine.listen(ANY) {
                            Ok(listening) => opened.push(listening),
                            Err(Error::Stopped) => return opened,
                            Err(error) => panic!("{error}"),
                        }
                        if opened.len() % 3 == 0 {
                            engine.unlisten(opened[opened.len() / 2].listener);
                        }
                    }
                });
                thread::sleep(Duration::from_millis(round % 4));
                running.shutdown();
                let opened = busy.join().expect("no panic");
                for listening in opened.iter().rev().take(5) {
                    assert!(is_refused(&listening.local_addr), "{what}");
                }
            }
        }
        eventually("no descriptor is left", || descriptors() <= before);
    });
}
