//! Admission of sessions: their limits, the handler's decision, and eviction.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};

use epicycle::{CloseReason, Listen, OutboundPolicy, Server, UdpSessions, WriteError};

use crate::peer::Peer;
use crate::util::app::start;
use crate::util::client::Client;
use crate::util::{LONG, eventually, expect_panics};

fn sessions(sessions: UdpSessions) -> Server {
    Server::bind(Listen::on("udp://127.0.0.1:0").sessions(sessions)).reactors(1)
}

#[test]
fn sessions_take_no_place_of_a_stream_and_streams_none_of_a_session() {
    let server = sessions(UdpSessions::new().max_sessions(20)).and("tcp://127.0.0.1:0");
    let server = server.max_connections(2).max_connections_per_ip(2);
    let (running, log) = start(server, |app| app);
    // More than the limits of streams, from one address.
    let peers: Vec<_> = (0..20).map(|_| Peer::of(&running)).collect();
    for peer in &peers {
        peer.round_trip("hello");
    }
    let beyond = Peer::of(&running);
    beyond.send("too many");
    eventually("it is refused", || {
        running.engine().stats().total().refused == 1
    });
    let clients = [(); 2].map(|()| Client::connect(&running.local_addrs()[1]));
    for client in &clients {
        client.round_trip("hello");
    }
    let (bytes, _) = Client::connect(&running.local_addrs()[1]).recv_to_any_end();
    assert_eq!(bytes, b"");
    assert_eq!(log.opened(), 22);
    // The ends of sessions give no place of a stream back.
    let engine = running.engine();
    for id in &log.ids()[..20] {
        engine
            .handle(*id)
            .expect("is open")
            .close()
            .expect("is taken");
    }
    eventually("they are closed", || log.closed() == 20);
    let (bytes, _) = Client::connect(&running.local_addrs()[1]).recv_to_any_end();
    assert_eq!(bytes, b"");
    beyond.round_trip("there is room now");
    let [leaving, staying] = clients;
    drop(leaving);
    eventually("it has left", || log.closed() == 21);
    Client::connect(&running.local_addrs()[1]).round_trip("in its place");
    staying.round_trip("still here");
}

#[test]
fn a_handler_is_asked_before_a_peer_has_a_session() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let (running, log) = start(sessions(UdpSessions::new()), move |app| {
        let count = count.clone();
        app.admit(move |udp, datagram| {
            count.fetch_add(1, Ordering::Relaxed);
            // The way of DTLS and QUIC: the peer returns what was sent to its address.
            let cookie = format!("cookie for {}", datagram.peer);
            if datagram.data.starts_with(cookie.as_bytes()) {
                return true;
            }
            udp.reply(cookie.as_bytes()).expect("is queued");
            false
        })
    });
    let peer = Peer::of(&running);
    peer.send("hello");
    let cookie = peer.recv();
    peer.send("hello again");
    assert_eq!(peer.recv(), cookie);
    assert_eq!((log.opened(), running.engine().connections()), (0, 0));
    let total = running.engine().stats().total();
    assert_eq!((total.refused, total.datagrams_dropped), (2, 2));
    // The datagram that proves it is a frame of the session.
    peer.round_trip(&cookie);
    peer.round_trip("hello");
    assert_eq!((log.opened(), log.frames()), (1, 2));
    assert_eq!(asked.load(Ordering::Relaxed), 3);
}

#[test]
fn a_panic_in_admit_refuses_that_peer_alone() {
    expect_panics();
    let (running, log) = start(sessions(UdpSessions::new()), |app| {
        app.admit(|_, datagram| {
            assert!(datagram.data != b"bad", "on purpose");
            true
        })
    });
    let (culprit, other) = (Peer::of(&running), Peer::of(&running));
    for _ in 0..5 {
        culprit.send("bad");
    }
    other.round_trip("hello");
    eventually("all are refused", || {
        running.engine().stats().total().refused == 5
    });
    assert_eq!(running.engine().stats().total().panics, 5);
    culprit.round_trip("good");
    assert_eq!(log.opened(), 2);
}

#[test]
fn the_session_that_is_silent_for_longest_makes_room() {
    let options = UdpSessions::new().max_sessions(3).evict_silent(true);
    let (running, log) = start(sessions(options), |app| app);
    let [a, b, c, d] = [(); 4].map(|()| Peer::of(&running));
    for peer in [&a, &b, &c, &a] {
        peer.round_trip("hello");
    }
    d.round_trip("hello");
    let (closed, reason) = log.await_close(0);
    assert!(matches!(*reason, CloseReason::Evicted), "{reason}");
    assert_eq!(closed.peer.as_socket_addr(), Some(b.addr()));
    // It gets another session, for which the next one has to go.
    b.round_trip("hello again");
    let (closed, _) = log.await_close(1);
    assert_eq!(closed.peer.as_socket_addr(), Some(c.addr()));
    for peer in [&a, &b, &d] {
        peer.round_trip("still here");
    }
    eventually("there are three", || running.engine().connections() == 3);
    assert_eq!((log.opened(), log.closed()), (5, 2));
    let total = running.engine().stats().total();
    assert_eq!((total.evicted, total.refused), (2, 0));
}

#[test]
fn a_crowd_of_newcomers_evicts_no_more_than_it_has_to() {
    let options = UdpSessions::new().max_sessions(10).evict_silent(true);
    let (running, log) = start(sessions(options), |app| app);
    let peers: Vec<_> = (0..200).map(|_| Peer::of(&running)).collect();
    for some in peers.chunks(50) {
        // Many in one batch, some of them twice.
        for peer in some.iter().chain(&some[..5]) {
            peer.send("hello");
        }
    }
    eventually("all have come", || {
        running.engine().stats().total().datagrams_in == 220
    });
    eventually("ten are left", || running.engine().connections() == 10);
    assert_eq!(log.opened() - log.closed(), 10);
    assert_eq!(
        running.engine().stats().total().evicted as usize,
        log.closed()
    );
}

#[test]
fn a_session_that_floods_leaves_room_for_the_others() {
    for policy in [OutboundPolicy::Drop, OutboundPolicy::Close] {
        let server = sessions(UdpSessions::new()).outbound_limit(100_000);
        let (running, log) = start(server.outbound_policy(policy), |app| app);
        let [flooded, second, third] = [(); 3].map(|()| Peer::of(&running));
        for peer in [&flooded, &second, &third] {
            peer.round_trip("hello");
        }
        let ids = log.ids();
        let (sender, results) = mpsc::channel();
        // All in one turn, at the end of which the kernel takes it.
        let asked = running.engine().run_on(0, move |_, reactor| {
            let mut fill = |which: usize| {
                reactor.with(ids[which], |conn, _| {
                    let mut written = 0;
                    let refused = loop {
                        match conn.write(&[which as u8; 1000]) {
                            Ok(()) => written += 1,
                            Err(error) => break error,
                        }
                    };
                    (written, refused)
                })
            };
            sender.send([fill(0), fill(1), fill(2)]).expect("it waits");
        });
        asked.expect("is taken");
        let [one, two, three] = results.recv_timeout(LONG).expect("comes").map(|filled| {
            let (written, refused) = filled.expect("is open");
            assert!(matches!(refused, WriteError::Full { .. }), "{refused}");
            written
        });
        // The limit, half of the other 100,000 and the half of that.
        assert!((90..=100).contains(&one), "{one}");
        assert!((40..=50).contains(&two), "{two}");
        assert!((20..=25).contains(&three), "{three}");
        for (peer, which, count) in [(&flooded, 0, one), (&second, 1, two), (&third, 2, three)] {
            for _ in 0..count {
                assert_eq!(peer.recv(), [which; 1000]);
            }
        }
        match policy {
            // Only the first has more than most.
            OutboundPolicy::Close => {
                let (closed, reason) = log.await_close(0);
                assert!(matches!(*reason, CloseReason::OutboundLimit { .. }));
                assert_eq!(closed.peer.as_socket_addr(), Some(flooded.addr()));
                assert_eq!(log.closed(), 1);
            }
            _ => flooded.round_trip("still here"),
        }
        second.round_trip("still here");
        third.round_trip("still here");
    }
}

#[test]
fn a_destination_that_is_flooded_leaves_room_for_the_others() {
    let server = Server::bind("udp://127.0.0.1:0")
        .reactors(1)
        .outbound_limit(100_000);
    let (other, (sender, results)) = (Peer::to_nobody(), mpsc::channel());
    let addr = other.addr();
    let (running, _) = start(server, move |app| {
        let sender = sender.clone();
        app.on_datagram(move |udp, _| {
            while udp.reply(&[1; 1000]).is_ok() {}
            let written = udp.send_to(b"for the other", addr);
            sender.send(written.is_ok()).expect("it waits");
            epicycle::Action::Continue
        })
    });
    let peer = Peer::of(&running);
    peer.send("flood me");
    assert_eq!(results.recv_timeout(LONG), Ok(true));
    assert_eq!(other.recv(), b"for the other");
}
