//! Messages in both directions.

use epicycle::Server;
use epicycle::ws::{DeflateOptions, Limits};

use crate::peer::{Peer, frame};
use crate::service::{Setup, What, local, start};
use crate::util::client::{Client, TempPath};
use crate::util::{eventually, noise};

#[test]
fn messages_of_every_size_come_back() {
    let setup = Setup {
        limits: Limits::default().max_frame(5 << 20).max_message(5 << 20),
        ..Setup::default()
    };
    let (server, _log) = start(local().outbound_limit(16 << 20), setup);
    let peer = Peer::to(&server);
    for len in [0, 1, 125, 126, 4096, 0xFFFF, 0x1_0000, 100_000, 5 << 20] {
        let payload = noise(len as u64, len);
        std::thread::scope(|scope| {
            scope.spawn(|| peer.send(0x82, &payload));
            assert!(peer.recv() == (0x82, payload.clone()), "{len}");
        });
    }
}

/// Cases 5.6 to 5.8 of the Autobahn suite.
#[test]
fn a_message_comes_back_behind_the_answers_to_its_pings_wherever_it_is_cut() {
    let (server, _log) = start(local(), Setup::default());
    let peer = Peer::to(&server);
    let bytes = [
        frame(0x01, "grü".as_bytes()),
        frame(0x89, b"?"),
        frame(0x80, "ß dich".as_bytes()),
    ]
    .concat();
    let expect = || {
        assert_eq!(peer.recv(), (0x8A, b"?".to_vec()));
        assert_eq!(peer.recv(), (0x81, "grüß dich".into()));
    };
    for cut in 1..=bytes.len() {
        peer.0.send(&bytes[..cut]);
        peer.0.send(&bytes[cut..]);
        expect();
    }
    for byte in &bytes {
        peer.0.send([*byte]);
    }
    expect();
}

/// Case 5.19 of the Autobahn suite.
#[test]
fn all_pings_between_fragments_are_answered_before_the_message() {
    let (server, _log) = start(local(), Setup::default());
    let peer = Peer::to(&server);
    let fragments =
        |from: u8| [frame(from, b"ab"), frame(0x00, b"cd"), frame(0x89, b"ping")].concat();
    let all = [fragments(0x01), fragments(0x00), frame(0x80, b"ef")].concat();
    for in_one in [true, false] {
        let (first, rest) = all.split_at(fragments(0x01).len());
        if in_one {
            peer.0.send(&all);
        } else {
            peer.0.send(first);
        }
        assert_eq!(peer.recv(), (0x8A, b"ping".to_vec()));
        if !in_one {
            peer.0.send(rest);
        }
        assert_eq!(peer.recv(), (0x8A, b"ping".to_vec()));
        assert_eq!(peer.recv(), (0x81, b"abcdabcdef".to_vec()));
    }
}

#[test]
fn many_messages_at_a_time_come_back_in_order() {
    let (server, _log) = start(local(), Setup::default());
    let peer = Peer::to(&server);
    let payload = |n: usize| format!("{n}:{}", "x".repeat(n % 300)).into_bytes();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let bytes: Vec<u8> = (0..20_000).flat_map(|n| frame(0x81, &payload(n))).collect();
            peer.0.send(bytes);
        });
        for n in 0..20_000 {
            assert_eq!(peer.recv(), (0x81, payload(n)));
        }
    });
}

#[test]
fn the_service_pings_and_sends_fragments() {
    let (server, log) = start(local(), Setup::default());
    let peer = Peer::to(&server);
    peer.send(0x81, b"ping");
    assert_eq!(peer.recv(), (0x89, b"are you there".to_vec()));
    peer.send(0x8A, b"are you there");
    eventually("the pong is handed out", || {
        log.all()
            .iter()
            .any(|what| matches!(what, What::Pong(payload) if payload == b"are you there"))
    });
    peer.send(0x81, b"fragments");
    assert_eq!(peer.recv(), (0x01, b"one ".to_vec()));
    assert_eq!(peer.recv(), (0x00, b"two ".to_vec()));
    assert_eq!(peer.recv(), (0x80, b"three".to_vec()));
}

#[test]
fn messages_are_compressed_when_that_is_agreed_upon() {
    let setup = Setup {
        deflate: Some(DeflateOptions::default()),
        ..Setup::default()
    };
    let (server, _log) = start(local(), setup);
    let peer = Peer::with(
        &server,
        "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n",
    );
    // The example of RFC 7692, section 7.2.3.1.
    peer.send(0xC1, &[0xF2, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00]);
    assert_eq!(peer.recv(), (0x81, b"Hello".to_vec()));
    peer.send(0x82, &[7; 50_000]);
    let (first, payload) = peer.recv();
    assert_eq!(first, 0xC2);
    assert!(payload.len() < 500, "{}", payload.len());
    // A client that offers nothing gets nothing of the kind.
    let plain = Peer::to(&server);
    plain.send(0x82, &[7; 50_000]);
    assert!(plain.recv() == (0x82, vec![7; 50_000]));
}

#[test]
fn unix_sockets_carry_it_as_well() {
    let path = TempPath::new();
    let (server, _log) = start(Server::bind(path.addr()).reactors(1), Setup::default());
    let peer = Peer::over(Client::connect(&server.local_addrs()[0]), "");
    peer.send(0x81, b"hello");
    assert_eq!(peer.recv(), (0x81, b"hello".to_vec()));
}

#[test]
fn a_ping_behind_a_large_message_is_answered() {
    let (server, _log) = start(local().send_buffer(16 << 10), Setup::default());
    let peer = Peer::over(Client::with_small_window(&server), "");
    let message = noise(1, 800_000);
    // Nothing more comes from here, and nothing is read until all of it is there.
    peer.0
        .send([frame(0x82, &message), frame(0x89, b"?")].concat());
    eventually("all is received", || {
        server.engine().stats().total().bytes_in > 800_000 + 20
    });
    assert!(peer.recv() == (0x82, message));
    assert_eq!(peer.recv(), (0x8A, b"?".to_vec()));
}
