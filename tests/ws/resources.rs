//! The limits on the cost of a peer.

use std::fs;
use std::io::{ErrorKind, Write};
use std::time::Duration;

use epicycle::OutboundPolicy;
use epicycle::ws::{DeflateOptions, Limits};
use flate2::{Compress, Compression, FlushCompress};

use crate::peer::{Peer, frame};
use crate::service::{Setup, local, start};
use crate::util::process::alone;

/// The memory this process holds, and the most it has held, in bytes.
fn memory() -> (usize, usize) {
    let status = fs::read_to_string("/proc/self/status").expect("is there");
    let field = |name: &str| {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .expect("is there");
        let kib: usize = line
            .trim()
            .trim_end_matches(" kB")
            .parse()
            .expect("is a number");
        kib << 10
    };
    (field("VmRSS:"), field("VmHWM:"))
}

/// Sends until the connection takes no more, or `max` bytes are sent.
fn flood(peer: &Peer, bytes: &[u8], max: usize) {
    peer.0
        .0
        .set_write_timeout(Some(Duration::from_millis(300)))
        .expect("is set");
    let mut sent = 0;
    while sent < max {
        match (&peer.0.0).write(bytes) {
            Ok(n) => sent += n,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn a_flood_of_pings_by_a_peer_that_does_not_read_has_bounded_memory() {
    alone(
        "resources::a_flood_of_pings_by_a_peer_that_does_not_read_has_bounded_memory",
        || {
            let pings = frame(0x89, &[1; 125]).repeat(500);
            for policy in [OutboundPolicy::PauseReads, OutboundPolicy::Drop] {
                let (server, _log) = start(local().outbound_policy(policy), Setup::default());
                let peer = Peer::to(&server);
                let before = memory().0;
                flood(&peer, &pings, 24 << 20);
                let grown = memory().1.saturating_sub(before);
                assert!(grown < 8 << 20, "{policy:?}: {grown} bytes");
                // Others are served meanwhile.
                let other = Peer::to(&server);
                other.send(0x81, b"hello");
                assert_eq!(other.recv(), (0x81, b"hello".to_vec()));
            }
        },
    );
}

#[test]
fn a_decompression_bomb_is_refused_with_bounded_memory() {
    alone(
        "resources::a_decompression_bomb_is_refused_with_bounded_memory",
        || {
            // What is flushed fully refers to nothing before it, so it may be repeated.
            let mut part = Vec::with_capacity(64 << 10);
            Compress::new(Compression::best(), false)
                .compress_vec(&vec![0; 1 << 20], &mut part, FlushCompress::Full)
                .expect("compresses");
            let bomb = part.repeat(200);
            assert!(bomb.len() < 1 << 20);
            for takeover in [false, true] {
                let setup = Setup {
                    limits: Limits::default().max_message(1 << 20),
                    deflate: Some(DeflateOptions::default().context_takeover(takeover)),
                };
                let (server, _log) = start(local(), setup);
                let peer = Peer::with(&server, "Sec-WebSocket-Extensions: permessage-deflate\r\n");
                let before = memory().0;
                peer.send(0xC2, &bomb);
                peer.expect_end(1009);
                let after = memory().0;
                assert!(after < before + (8 << 20), "{before} bytes became {after}");
            }
        },
    );
}

#[test]
fn a_message_of_endless_fragments_ends_at_the_limit() {
    let setup = Setup {
        limits: Limits::default().max_message(100_000),
        ..Setup::default()
    };
    let (server, _log) = start(local(), setup);
    let peer = Peer::to(&server);
    peer.send(0x01, b"");
    for _ in 0..100 {
        peer.send(0x00, &[b'a'; 1000]);
    }
    peer.send(0x89, b"still here");
    assert_eq!(peer.recv(), (0x8A, b"still here".to_vec()));
    peer.send(0x00, b"a");
    peer.expect_end(1009);
}

#[test]
fn an_idle_websocket_takes_little_memory() {
    alone("resources::an_idle_websocket_takes_little_memory", || {
        const COUNT: usize = 400;
        let setup = Setup {
            deflate: Some(DeflateOptions::default()),
            ..Setup::default()
        };
        let (server, _log) = start(local(), setup);
        let warm: Vec<_> = (0..50).map(|_| compressed_echo(&server)).collect();
        let before = memory().0;
        let peers: Vec<_> = (0..COUNT).map(|_| compressed_echo(&server)).collect();
        let each = memory().0.saturating_sub(before) / COUNT;
        // The test's own end of a connection is in it, and a quarter of it would be a window.
        assert!(each < 8 << 10, "{each} bytes");
        drop((warm, peers));
    });
}

/// A connection on which a compressed message has gone there and back.
fn compressed_echo(server: &epicycle::Running<crate::service::Service>) -> Peer {
    let peer = Peer::with(server, "Sec-WebSocket-Extensions: permessage-deflate\r\n");
    peer.send(0x82, &[5; 5000]);
    assert_eq!(peer.recv().0, 0xC2);
    peer
}
