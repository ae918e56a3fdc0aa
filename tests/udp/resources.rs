//! UDP returns all resources that it takes.

use std::net::UdpSocket;
use std::time::Duration;

use epicycle::{AcceptMode, Action, Connect, Listen, Server, UdpSessions};

use crate::peer::Peer;
use crate::util::app::start;
use crate::util::process::{alone, cpu_time, descriptors};
use crate::util::{eventually, expect_panics};

#[test]
fn no_descriptor_is_left_behind() {
    alone("resources::no_descriptor_is_left_behind", || {
        expect_panics();
        let before = descriptors();
        for mode in [AcceptMode::MainReactor, AcceptMode::ReusePort] {
            let sessions = UdpSessions::new().max_sessions(50);
            let server = Server::bind("udp://127.0.0.1:0")
                .and(Listen::on("udp://127.0.0.1:0").sessions(sessions))
                .reactors(2)
                .accept_mode(mode);
            let (running, log) = start(server, |app| {
                app.on_datagram(|_, datagram| {
                    assert!(datagram.data.is_empty(), "on purpose");
                    Action::Continue
                })
                .react(|_, _, frame| {
                    assert!(frame != b"bad", "on purpose");
                    Action::Close
                })
            });
            let peers: Vec<_> = (0..100)
                .map(|_| Peer::to(&running.local_addrs()[1]))
                .collect();
            for peer in &peers {
                peer.send("bye");
                peer.send("bad");
            }
            Peer::of(&running).send("bad too");
            // Sessions of sockets of their own: some end by themselves, some at the shutdown.
            let (kept, gone) = (socket(), socket());
            for n in 0..20 {
                let to = if n % 2 == 0 { &kept } else { &gone };
                let to = format!("udp://{}", to.local_addr().expect("is bound"));
                running.engine().connect(Connect::to(to)).expect("is taken");
            }
            drop(gone);
            eventually("the sessions have come", || log.opened() > 20);
            running.shutdown();
            assert_eq!(log.opened(), log.closed());
        }
        assert_eq!(descriptors(), before);
    });
}

fn socket() -> UdpSocket {
    UdpSocket::bind("127.0.0.1:0").expect("binds")
}

#[test]
fn a_connected_socket_goes_with_its_session() {
    alone(
        "resources::a_connected_socket_goes_with_its_session",
        || {
            let server = socket();
            let to = format!("udp://{}", server.local_addr().expect("is bound"));
            let (running, log) = start(Server::bind("tcp://127.0.0.1:0").reactors(1), |app| {
                app.on_open(|conn| conn.write(b"hello").is_ok())
                    .react(|_, _, _| Action::Close)
            });
            let before = descriptors();
            for n in 0..50 {
                running
                    .engine()
                    .connect(Connect::to(&to))
                    .expect("is taken");
                let mut bytes = [0; 16];
                let (_, client) = server.recv_from(&mut bytes).expect("receives");
                server.send_to(b"bye", client).expect("sends");
                log.await_close(n);
            }
            eventually("all are closed", || descriptors() == before);
        },
    );
}

#[test]
fn the_port_is_free_after_the_shutdown() {
    let (running, _) = start(Server::bind("udp://127.0.0.1:0").reactors(2), |app| app);
    let addr = running.local_addrs()[0]
        .as_socket_addr()
        .expect("an address");
    Peer::of(&running).round_trip("hello");
    running.shutdown();
    UdpSocket::bind(addr).expect("is free");
}

#[test]
fn sockets_without_traffic_take_no_processor_time() {
    alone(
        "resources::sockets_without_traffic_take_no_processor_time",
        || {
            let sessions = Listen::on("udp://127.0.0.1:0").sessions(UdpSessions::new());
            let server = Server::bind("udp://127.0.0.1:0").and(sessions).reactors(2);
            let (running, _) = start(server, |app| app);
            Peer::of(&running).round_trip("hello");
            Peer::to(&running.local_addrs()[1]).round_trip("hello");
            let turns = || running.engine().stats().total().turns;
            let (before, used) = (turns(), cpu_time());
            std::thread::sleep(Duration::from_millis(300));
            assert!(turns() - before < 20, "{} turns", turns() - before);
            assert!(cpu_time() - used < Duration::from_millis(200));
        },
    );
}
