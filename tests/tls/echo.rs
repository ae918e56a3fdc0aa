//! Echoes: sizes, ways to accept, and many at once.

use std::sync::LazyLock;
use std::thread;

use epicycle::codec::LengthField;
use epicycle::{AcceptMode, Listen, Server};

use crate::peer::Peer;
use crate::pki::{client_config, local, server_tls};
use crate::util::app::{Cut, start};
use crate::util::client::{Client, TempPath};
use crate::util::noise;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

static PAYLOAD: LazyLock<Vec<u8>> = LazyLock::new(|| noise(1, 8 * MIB));

#[test]
fn every_size_echoes_in_every_mode() {
    let path = TempPath::new();
    let tcp = || Listen::on("tcp://127.0.0.1:0");
    let tls = server_tls();
    let servers = [
        Server::bind(tcp().tls(&tls)).reactors(1),
        Server::bind(tcp().tls(&tls)).reactors(2),
        Server::bind(tcp().tls(&tls))
            .reactors(2)
            .accept_mode(AcceptMode::ReusePort),
        Server::bind(Listen::on(path.addr()).tls(&tls)).reactors(2),
    ];
    for server in servers {
        println!("{server:?}");
        let (running, log) = start(server, |app| app);
        let sizes = [
            1,
            2,
            100,
            KIB,
            16 * KIB - 1,
            16 * KIB,
            16 * KIB + 1,
            80 * KIB,
            MIB,
            5 * MIB,
        ];
        thread::scope(|scope| {
            for seed in 0..4 {
                let running = &running;
                scope.spawn(move || {
                    let peer = Peer::to(running);
                    let mut sizes = sizes;
                    fastrand::Rng::with_seed(seed).shuffle(&mut sizes);
                    for size in sizes {
                        peer.echo_all(&PAYLOAD[seed as usize..][..size]);
                    }
                    peer.close_notify();
                    assert_eq!(peer.recv_to_end().expect("ends well"), b"");
                });
            }
        });
        let report = running.shutdown();
        let total = report.stats.total();
        assert_eq!((report.forced, log.opened(), log.closed()), (0, 4, 4));
        assert_eq!(total.bytes_in, total.bytes_out);
        assert_eq!(total.bytes_in as usize, 4 * sizes.iter().sum::<usize>());
        assert_eq!((total.handshakes, total.handshake_failures), (4, 0));
    }
}

#[test]
fn frames_of_a_codec_come_back_whole() {
    let (running, log) = start(local(&server_tls()), |app| {
        app.codec(Cut::Length(LengthField::default()))
            .react(|conn, _, frame| conn.send(frame).into())
    });
    let peer = Peer::to(&running);
    let mut stream = Vec::new();
    let mut frames = 0;
    for len in [
        0,
        1,
        10,
        5 * KIB,
        20 * KIB,
        300 * KIB,
        3,
        700 * KIB,
        64 * KIB,
    ] {
        stream.extend_from_slice(&(len as u32).to_be_bytes());
        stream.extend_from_slice(&PAYLOAD[..len]);
        frames += 1;
    }
    peer.echo_all(&stream);
    assert_eq!(log.frames(), frames);
    // A record for each byte.
    let mut small = 20u32.to_be_bytes().to_vec();
    small.extend([7; 20]);
    for byte in &small {
        peer.send([*byte]);
    }
    assert_eq!(peer.recv(24), small);
}

#[test]
fn many_connections_echo_at_once() {
    let (running, log) = start(local(&server_tls()), |app| app);
    let config = std::sync::Arc::new(client_config());
    let addr = &running.local_addrs()[0];
    let peers: Vec<Peer> = (0..150)
        .map(|_| Peer::connect(addr, &config, "localhost").expect("shakes hands"))
        .collect();
    for round in 0..3 {
        for (n, peer) in peers.iter().enumerate() {
            peer.send(&PAYLOAD[n + round..][..1000]);
        }
        for (n, peer) in peers.iter().enumerate() {
            assert!(peer.recv(1000) == PAYLOAD[n + round..][..1000]);
        }
    }
    assert_eq!(log.opened(), 150);
    // Nothing is received in part, so nothing is held.
    assert_eq!(running.engine().stats().total().buffered, 0);
}

#[test]
fn keys_can_change_while_data_flows() {
    let (running, _) = start(local(&server_tls()), |app| app);
    let peer = Peer::to(&running);
    for n in 0..5 {
        peer.round_trip(&PAYLOAD[n..][..50 * KIB]);
        peer.update_keys();
        peer.round_trip(&PAYLOAD[n..][..10]);
    }
}

#[test]
fn data_right_behind_the_handshake_is_not_lost() {
    let (running, _) = start(local(&server_tls()), |app| app);
    let config = std::sync::Arc::new(client_config());
    // Often enough for the server to be caught at every point of the handshake.
    for n in 0..300 {
        let client = Client::to(&running);
        let first = &PAYLOAD[n..][..10 + n * 60];
        let peer = Peer::hurried(client, &config, "localhost", first).expect("shakes hands");
        assert!(peer.recv(first.len()) == first);
    }
}
