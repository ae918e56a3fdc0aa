//! `on_datagram`: received datagrams, their senders, and replies.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use epicycle::{AcceptMode, Action, Listen, Server, WriteError};

use crate::peer::Peer;
use crate::util::app::start;
use crate::util::{LONG, eventually, expect_panics, noise};

fn udp() -> Server {
    Server::bind("udp://127.0.0.1:0").reactors(1)
}

#[test]
fn every_size_comes_back_in_every_mode() {
    for addr in [
        "udp4://127.0.0.1:0",
        "udp6://[::1]:0",
        "udp://localhost:0",
        "udp://:0",
    ] {
        for batch in [1, 64] {
            for (reactors, mode) in [
                (1, AcceptMode::MainReactor),
                (2, AcceptMode::MainReactor),
                (2, AcceptMode::ReusePort),
            ] {
                println!("{addr}, batch {batch}, {reactors} reactors, {mode:?}");
                let listen = Listen::on(addr).batch(batch);
                let server = Server::bind(listen).reactors(reactors).accept_mode(mode);
                let (running, log) = start(server, |app| app);
                let peers: Vec<_> = (0..3).map(|_| Peer::of(&running)).collect();
                for size in [0, 1, 64, 1472, 65_507] {
                    for (n, peer) in peers.iter().enumerate() {
                        peer.round_trip(noise(n as u64, size));
                    }
                }
                let report = running.shutdown();
                let total = report.stats.total();
                assert_eq!((total.datagrams_in, total.datagrams_out), (15, 15));
                assert_eq!(total.bytes_in, total.bytes_out);
                assert_eq!((total.datagrams_dropped, total.datagrams_truncated), (0, 0));
                assert_eq!((total.connections, log.opened()), (0, 0));
            }
        }
    }
}

#[test]
fn nothing_is_lost_on_loopback_at_a_moderate_rate() {
    for batch in [1, 64] {
        let listen = Listen::on("udp://127.0.0.1:0").batch(batch);
        let (running, _) = start(Server::bind(listen).reactors(1), |app| app);
        let peer = Peer::of(&running);
        // At most this many are under way, which fits into any socket's buffer.
        const WINDOW: u64 = 32;
        for n in 0..20_000_u64 {
            peer.send(n.to_be_bytes());
            if n >= WINDOW {
                assert_eq!(
                    peer.recv(),
                    (n - WINDOW).to_be_bytes(),
                    "in order, none missing"
                );
            }
        }
        for n in 20_000 - WINDOW..20_000 {
            assert_eq!(peer.recv(), n.to_be_bytes());
        }
        let total = running.shutdown().stats.total();
        assert_eq!((total.datagrams_in, total.datagrams_out), (20_000, 20_000));
        assert_eq!(total.datagrams_dropped, 0);
    }
}

#[test]
fn reuse_port_spreads_peers_over_the_reactors() {
    let server = Server::bind("udp://127.0.0.1:0")
        .reactors(2)
        .accept_mode(AcceptMode::ReusePort);
    let (running, _) = start(server, |app| app);
    let stats = || running.engine().stats();
    // The kernel chooses by a hash of the addresses: enough peers reach both.
    eventually("both reactors get datagrams", || {
        let peer = Peer::of(&running);
        peer.round_trip("hello");
        peer.round_trip("again");
        stats()
            .reactors
            .iter()
            .all(|reactor| reactor.datagrams_in > 0)
    });
}

#[test]
fn udp_listeners_take_turns_on_the_reactors() {
    let server = Server::bind("udp://127.0.0.1:0")
        .and("tcp://127.0.0.1:0")
        .and("udp://127.0.0.1:0")
        .and("udp://127.0.0.1:0")
        .reactors(2);
    let (running, _) = start(server, |app| {
        app.on_datagram(|udp, _| {
            udp.reply(&[udp.listener().expect("it listens") as u8])
                .into()
        })
    });
    for (listener, reactor) in [(0, 0), (2, 0), (3, 1)] {
        let before = running.engine().stats().reactors[reactor].datagrams_in;
        let peer = Peer::to(&running.local_addrs()[listener]);
        peer.send("which?");
        assert_eq!(peer.recv(), [listener as u8]);
        let after = running.engine().stats().reactors[reactor].datagrams_in;
        assert_eq!(after, before + 1);
    }
}

#[test]
fn a_datagram_tells_who_sent_it_and_others_can_be_sent_to() {
    let third = UdpSocket::bind("127.0.0.1:0").expect("binds");
    third.set_read_timeout(Some(LONG)).expect("is an option");
    let third_addr = third.local_addr().expect("is bound");
    let (running, _) = start(udp(), move |app| {
        app.on_datagram(move |udp, datagram| {
            assert_eq!(udp.listener(), Some(0));
            assert_eq!(udp.engine().reactors(), 1);
            let text = format!("{} {}", datagram.peer, datagram.truncated);
            udp.send_to(datagram.data, third_addr).expect("is queued");
            udp.reply(text.as_bytes()).expect("is queued");
            udp.reply(b"").expect("is queued");
            udp.local_addr().expect("is bound").port().to_string();
            Action::Continue
        })
    });
    let peer = Peer::of(&running);
    peer.send("hello");
    assert_eq!(peer.recv(), format!("{} false", peer.addr()).into_bytes());
    assert_eq!(peer.recv(), b"");
    let mut bytes = [0; 16];
    let (n, from) = third.recv_from(&mut bytes).expect("receives");
    assert_eq!(&bytes[..n], b"hello");
    assert_eq!(Some(from), running.local_addrs()[0].as_socket_addr());
}

#[test]
fn an_ipv4_peer_of_a_dual_stack_socket_shows_as_ipv4() {
    let (running, _) = start(Server::bind("udp://:0").reactors(1), |app| {
        app.on_datagram(|udp, datagram| udp.reply(datagram.peer.to_string().as_bytes()).into())
    });
    let port = running.local_addrs()[0]
        .as_socket_addr()
        .expect("an address")
        .port();
    let peer = UdpSocket::bind("127.0.0.1:0").expect("binds");
    peer.set_read_timeout(Some(LONG)).expect("is an option");
    peer.send_to(b"hello", ("127.0.0.1", port)).expect("sends");
    let mut bytes = [0; 64];
    let n = peer.recv(&mut bytes).expect("receives");
    let addr = peer.local_addr().expect("is bound").to_string();
    assert_eq!(&bytes[..n], addr.as_bytes());
}

#[test]
fn a_truncated_datagram_is_reported() {
    for batch in [1, 64] {
        let listen = Listen::on("udp://127.0.0.1:0")
            .batch(batch)
            .max_datagram(100);
        let (running, _) = start(Server::bind(listen).reactors(1), |app| {
            app.on_datagram(|udp, datagram| {
                let text = format!("{} {}", datagram.data.len(), datagram.truncated);
                udp.reply(text.as_bytes()).into()
            })
        });
        let peer = Peer::of(&running);
        for (size, answer) in [
            (100, "100 false"),
            (101, "100 true"),
            (9000, "100 true"),
            (0, "0 false"),
        ] {
            peer.send(vec![7; size]);
            assert_eq!(peer.recv(), answer.as_bytes(), "batch {batch}");
        }
        assert_eq!(running.shutdown().stats.total().datagrams_truncated, 2);
    }
}

#[test]
fn a_panic_costs_one_datagram() {
    expect_panics();
    for batch in [1, 64] {
        let listen = Listen::on("udp://127.0.0.1:0").batch(batch);
        let server = Server::bind(listen).and("tcp://127.0.0.1:0").reactors(1);
        let (running, _) = start(server, |app| {
            app.on_datagram(|udp, datagram| {
                assert!(datagram.data != b"bad", "on purpose");
                udp.reply(datagram.data).into()
            })
        });
        let client = crate::util::client::Client::connect(&running.local_addrs()[1]);
        client.round_trip("a connection");
        let peer = Peer::of(&running);
        // Some of them come in one batch, whose rest must not be lost.
        for n in 0..30_u8 {
            peer.send([n]);
            peer.send("bad");
        }
        for n in 0..30_u8 {
            assert_eq!(peer.recv(), [n]);
        }
        client.round_trip("is not concerned");
        eventually("all have panicked", || {
            running.engine().stats().total().panics == 30
        });
    }
}

#[test]
fn ticks_timers_tasks_and_boot_can_send() {
    let listener = UdpSocket::bind("127.0.0.1:0").expect("binds");
    listener.set_read_timeout(Some(LONG)).expect("is an option");
    let to = listener.local_addr().expect("is bound");
    let ticks = Arc::new(AtomicUsize::new(0));
    let count = ticks.clone();
    let (running, _) = start(udp().tick(Duration::from_secs(3600)), move |app| {
        let count = count.clone();
        app.on_boot(move |reactor| {
            let mut udp = reactor.udp(0).expect("it is here");
            assert!(matches!(udp.reply(b"to whom?"), Err(WriteError::Closed)));
            udp.send_to(b"boot", to).expect("is queued");
            reactor.schedule(Duration::from_millis(5), move |_, reactor| {
                let mut udp = reactor.udp(0).expect("it is here");
                udp.send_to(b"timer", to).expect("is queued");
            });
        })
        .tick(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
            None
        })
        .on_shutdown(move |reactor| {
            let mut udp = reactor.udp(0).expect("it is still here");
            udp.send_to(b"shutdown", to).expect("is queued");
        })
    });
    let recv = || {
        let mut bytes = [0; 16];
        let n = listener.recv(&mut bytes).expect("receives");
        String::from_utf8_lossy(&bytes[..n]).into_owned()
    };
    assert_eq!((recv(), recv()), ("boot".into(), "timer".into()));
    let sent = running.engine().run_on(0, move |_, reactor| {
        assert!(reactor.udp(1).is_none());
        let mut udp = reactor.udp(0).expect("it is here");
        udp.send_to(b"task", to).expect("is queued");
    });
    sent.expect("is taken");
    assert_eq!(recv(), "task");
    running.shutdown();
    assert_eq!(recv(), "shutdown");
    assert_eq!(ticks.load(Ordering::Relaxed), 0);
}

#[test]
fn a_datagram_can_reach_the_reactors_connections() {
    let server = Server::bind("udp://127.0.0.1:0")
        .and("tcp://127.0.0.1:0")
        .reactors(1);
    let (running, log) = start(server, |app| {
        app.on_datagram(|udp, datagram| {
            let told = udp.reactor().broadcast(datagram.data.to_vec());
            udp.reply(told.to_string().as_bytes()).into()
        })
    });
    let client = crate::util::client::Client::connect(&running.local_addrs()[1]);
    log.await_open(0);
    let peer = Peer::of(&running);
    peer.send("news");
    assert_eq!(peer.recv(), b"1");
    assert_eq!(client.recv(4), b"news");
}

#[test]
fn a_datagram_can_shut_the_server_down_and_close_does_nothing() {
    let (running, _) = start(udp(), |app| {
        app.on_datagram(|udp, datagram| {
            let _ = udp.reply(datagram.data);
            match datagram.data {
                b"shutdown" => Action::Shutdown,
                _ => Action::Close,
            }
        })
    });
    let peer = Peer::of(&running);
    peer.round_trip("close");
    peer.round_trip("still there?");
    peer.round_trip("shutdown");
    running.join();
}

#[test]
fn what_cannot_be_sent_costs_only_itself() {
    for batch in [1, 64] {
        let listen = Listen::on("udp4://127.0.0.1:0").batch(batch);
        let (running, _) = start(Server::bind(listen).reactors(1), |app| {
            app.on_datagram(|udp, datagram| {
                let long = vec![0; 65_508];
                let refused = udp.reply(&long);
                let told = matches!(
                    refused,
                    Err(WriteError::TooLong {
                        len: 65_508,
                        max: 65_507
                    })
                );
                assert!(told, "{refused:?}");
                // The kernel refuses these: a port that is none, the other IP version, no broadcast flag.
                for nowhere in ["127.0.0.1:0", "[::1]:9", "255.255.255.255:9"] {
                    udp.send_to(b"lost", nowhere.parse().expect("an address"))
                        .expect("is queued");
                }
                udp.reply(datagram.data).into()
            })
        });
        let peer = Peer::of(&running);
        peer.round_trip("hello");
        peer.round_trip("again");
        let total = running.shutdown().stats.total();
        assert_eq!((total.datagrams_out, total.datagrams_dropped), (2, 6));
    }
}

#[test]
fn the_queue_is_bounded() {
    let refused = Arc::new(Mutex::new(None));
    let note = refused.clone();
    let (running, _) = start(udp().outbound_limit(64 << 10), move |app| {
        let note = note.clone();
        app.on_datagram(move |udp, _| {
            let mut count = 0;
            let error = loop {
                match udp.reply(&[7; 1000]) {
                    Ok(()) => count += 1,
                    Err(error) => break error,
                }
            };
            assert!((50..=65).contains(&count), "{count}");
            assert!(udp.queued() > 60 << 10);
            *note.lock().expect("nobody panics with it") = Some(error.to_string());
            Action::Continue
        })
    });
    let peer = Peer::of(&running);
    for _ in 0..3 {
        peer.send("flood me");
        for _ in 0..50 {
            assert_eq!(peer.recv(), [7; 1000]);
        }
        while peer.recv_soon().is_some() {}
    }
    let refused = refused.lock().expect("nobody panics with it").take();
    assert!(refused.is_some_and(|text| text.contains("the limit is 65536")));
    assert_eq!(running.shutdown().stats.total().overflows, 3);
}

#[test]
fn a_channel_to_another_thread_can_answer_later() {
    let (sender, requests) = mpsc::channel();
    let (running, _) = start(udp(), move |app| {
        let sender = sender.clone();
        app.on_datagram(move |_, datagram| {
            sender
                .send((datagram.peer, datagram.data.to_vec()))
                .expect("it listens");
            Action::Continue
        })
    });
    let engine = running.engine().clone();
    let worker = std::thread::spawn(move || {
        for (peer, bytes) in requests.iter().take(100) {
            let answer = engine.run_on(0, move |_, reactor| {
                let mut udp = reactor.udp(0).expect("it is here");
                udp.send_to(&bytes, peer).expect("is queued");
            });
            answer.expect("is taken");
        }
    });
    let peer = Peer::of(&running);
    for n in 0..100_u32 {
        peer.round_trip(n.to_be_bytes());
    }
    worker.join().expect("it ends");
}
