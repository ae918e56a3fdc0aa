//! Sessions: each peer address is a connection.

use std::collections::HashSet;
use std::io::IoSlice;
use std::net::UdpSocket;
use std::thread;
use std::time::Duration;

use epicycle::codec::{self, LengthField, Lines};
use epicycle::{
    AcceptMode, Action, CloseReason, Conn, ConnInfo, Connect, DetachError, EventHandler, Listen,
    Origin, PipeError, Running, Server, TimeoutKind, UdpSessions, WriteError,
};

use crate::peer::Peer;
use crate::util::app::{App, Cut, What, start};
use crate::util::{LONG, eventually, expect_panics, noise};

fn sessions(sessions: UdpSessions) -> Server {
    Server::bind(Listen::on("udp://127.0.0.1:0").sessions(sessions)).reactors(1)
}

fn plain() -> Server {
    sessions(UdpSessions::new())
}

#[test]
fn every_size_comes_back_in_every_mode() {
    for addr in ["udp4://127.0.0.1:0", "udp6://[::1]:0", "udp://:0"] {
        for batch in [1, 64] {
            for (reactors, mode) in [
                (1, AcceptMode::MainReactor),
                (2, AcceptMode::MainReactor),
                (2, AcceptMode::ReusePort),
            ] {
                println!("{addr}, batch {batch}, {reactors} reactors, {mode:?}");
                let listen = Listen::on(addr).batch(batch).sessions(UdpSessions::new());
                let server = Server::bind(listen).reactors(reactors).accept_mode(mode);
                let (running, log) = start(server, |app| app);
                let peers: Vec<_> = (0..3).map(|_| Peer::of(&running)).collect();
                for size in [1, 64, 1472, 65_507] {
                    for (n, peer) in peers.iter().enumerate() {
                        peer.round_trip(noise(n as u64, size));
                    }
                }
                let report = running.shutdown();
                assert_eq!((report.drained, report.forced), (3, 0));
                assert_eq!((log.opened(), log.frames(), log.closed()), (3, 12, 3));
                let total = report.stats.total();
                assert_eq!((total.datagrams_in, total.datagrams_out), (12, 12));
                assert_eq!((total.accepted, total.closed, total.connections), (3, 3, 0));
            }
        }
    }
}

#[test]
fn a_session_opens_reacts_and_closes_in_this_order() {
    let (running, log) = start(plain(), |app| {
        app.react(|conn, _, frame| {
            assert_eq!(conn.origin(), Origin::Accepted { listener: 0 });
            conn.write(frame).expect("is queued");
            match frame {
                b"bye" => Action::Close,
                _ => Action::Continue,
            }
        })
    });
    let peer = Peer::of(&running);
    for word in ["hello", "you", "bye"] {
        peer.round_trip(word);
    }
    let (closed, reason) = log.await_close(0);
    assert!(matches!(*reason, CloseReason::Local), "{reason}");
    assert_eq!((closed.bytes_in, closed.bytes_out), (11, 11));
    assert_eq!(closed.peer.as_socket_addr(), Some(peer.addr()));
    let what: Vec<_> = log.entries().into_iter().map(|entry| entry.what).collect();
    assert!(matches!(
        what[..],
        [
            What::Open,
            What::Frame(5),
            What::Frame(3),
            What::Frame(3),
            What::Close(..)
        ]
    ));
    // The next datagram of that peer opens another one.
    peer.round_trip("hello again");
    assert_eq!(log.opened(), 2);
    assert_ne!(log.ids()[0], log.ids()[1]);
}

#[test]
fn each_write_is_a_datagram() {
    let (running, _) = start(plain(), |app| {
        app.react(|conn, _, _| {
            conn.write(b"one").expect("is queued");
            conn.write(b"two").expect("is queued");
            conn.write(b"").expect("is queued");
            conn.write_shared(vec![3; 1000]).expect("is queued");
            let slices = [&b"f"[..], b"", b"our"].map(IoSlice::new);
            conn.write_vectored(&slices).expect("is queued");
            conn.send("five").expect("is queued");
            conn.write(&[6; 65_507]).expect("is queued");
            let refused = conn.write(&[0; 65_508]);
            assert!(matches!(
                refused,
                Err(WriteError::TooLong { len: 65_508, .. })
            ));
            let refused = conn.write_shared(vec![0; 70_000]);
            assert!(matches!(refused, Err(WriteError::TooLong { .. })));
            assert_eq!(conn.buffered_out(), 0);
            Action::Continue
        })
    });
    let peer = Peer::of(&running);
    peer.send("go");
    assert_eq!(peer.recv(), b"one");
    assert_eq!(peer.recv(), b"two");
    assert_eq!(peer.recv(), b"");
    assert_eq!(peer.recv(), [3; 1000]);
    assert_eq!(peer.recv(), b"four");
    assert_eq!(peer.recv(), b"five");
    assert_eq!(peer.recv(), [6; 65_507]);
    assert_eq!(peer.recv_soon(), None);
}

#[test]
fn a_datagram_is_decoded_by_itself() {
    let (running, log) = start(plain(), |app| {
        app.codec(Cut::Lines(Lines::with_max(10)))
            .react(|conn, _, line| conn.send(line).into())
    });
    let peer = Peer::of(&running);
    // Two lines, and a last one that the end of the datagram ends.
    peer.send("a\nb\nc");
    for line in ["a\n", "b\n", "c\n"] {
        assert_eq!(peer.recv(), line.as_bytes());
    }
    // Nothing is left of it for the next.
    peer.round_trip("d\n");
    // What is malformed costs the rest of its datagram, and not the session.
    peer.send("e\nfar too long a line\ng\n");
    assert_eq!(peer.recv(), b"e\n");
    peer.send("h");
    assert_eq!(peer.recv(), b"h\n");
    // Nothing to decode, but the session takes note of it.
    peer.send("");
    peer.round_trip("i\n");
    assert_eq!((log.opened(), log.closed()), (1, 0));
    assert_eq!(running.shutdown().stats.total().datagrams_dropped, 1);
}

#[test]
fn a_frame_that_ends_with_its_datagram_does_not_go_on_in_the_next() {
    let (running, log) = start(plain(), |app| {
        app.codec(Cut::Length(Default::default()))
            .react(|conn, _, frame| conn.send(frame).into())
    });
    let peer = Peer::of(&running);
    peer.send(b"\0\0\0\x05hel");
    peer.send(b"lo");
    peer.round_trip(b"\0\0\0\x05whole");
    assert_eq!((log.opened(), log.frames()), (1, 1));
    assert_eq!(running.shutdown().stats.total().datagrams_dropped, 2);
}

#[test]
fn a_truncated_datagram_is_not_passed_off_as_whole() {
    let listen = Listen::on("udp://127.0.0.1:0")
        .sessions(UdpSessions::new())
        .max_datagram(100);
    let (running, log) = start(Server::bind(listen).reactors(1), |app| app);
    let peer = Peer::of(&running);
    peer.send([1; 101]);
    peer.round_trip([2; 100]);
    assert_eq!((log.opened(), log.frames()), (1, 1));
    let total = running.shutdown().stats.total();
    assert_eq!((total.datagrams_truncated, total.datagrams_dropped), (1, 1));
}

#[test]
fn a_silent_session_ends_after_the_idle_timeout() {
    let idle = UdpSessions::new().idle_timeout(Duration::from_millis(100));
    // The server's own idle timeout is for its connections.
    let server = sessions(idle).idle_timeout(Duration::from_secs(3600));
    let (running, log) = start(server, |app| app);
    let (silent, busy) = (Peer::of(&running), Peer::of(&running));
    silent.round_trip("hello");
    let id = log.await_open(0);
    while log.closed() == 0 {
        busy.round_trip("still here");
        thread::sleep(Duration::from_millis(5));
    }
    let (closed, reason) = log.await_close(0);
    assert_eq!(closed.id, id);
    assert!(matches!(*reason, CloseReason::Timeout(TimeoutKind::Idle)));
    assert!(closed.open_for >= Duration::from_millis(100));
    silent.round_trip("hello again");
    // On a machine that stood still for so long, the busy one may have ended too.
    assert!(log.opened() >= 3);
    assert!(running.engine().stats().total().timeouts >= 1);
}

#[test]
fn past_the_cap_new_peers_are_refused() {
    let (running, log) = start(sessions(UdpSessions::new().max_sessions(2)), |app| {
        app.react(|conn, _, frame| match frame {
            b"bye" => Action::Close,
            frame => conn.write(frame).into(),
        })
    });
    let peers: Vec<_> = (0..3).map(|_| Peer::of(&running)).collect();
    peers[0].round_trip("a");
    peers[1].round_trip("b");
    peers[2].send("c");
    eventually("it is refused", || {
        running.engine().stats().total().refused == 1
    });
    assert_eq!(running.engine().connections(), 2);
    assert_eq!(running.engine().stats().total().datagrams_dropped, 1);
    peers[0].round_trip("those that are in go on");
    peers[0].send("bye");
    log.await_close(0);
    peers[2].round_trip("there is room again");
}

#[test]
fn a_refused_session_has_no_callbacks() {
    let (running, log) = start(plain(), |app| {
        app.on_open(|conn| {
            conn.write(b"go away").expect("is queued");
            false
        })
    });
    let peer = Peer::of(&running);
    for n in 1..=3 {
        peer.send("hello");
        assert_eq!(peer.recv(), b"go away");
        eventually("it is gone", || running.engine().connections() == 0);
        assert_eq!((log.opened(), log.frames(), log.closed()), (n, 0, 0));
    }
}

#[test]
fn handles_write_from_other_threads() {
    let (running, log) = start(plain(), |app| app.react(|_, _, _| Action::Continue));
    let peers: Vec<_> = (0..4).map(|_| Peer::of(&running)).collect();
    for (n, peer) in peers.iter().enumerate() {
        peer.send("hello");
        log.await_open(n);
    }
    let ids = log.ids();
    thread::scope(|scope| {
        for (id, peer) in ids.iter().zip(&peers) {
            let handle = running.engine().handle(*id).expect("is open");
            scope.spawn(move || {
                for n in 0..100_u32 {
                    handle.write(n.to_be_bytes().to_vec()).expect("is taken");
                    assert_eq!(peer.recv(), n.to_be_bytes());
                }
                handle.send("an item").expect("is taken");
                assert_eq!(peer.recv(), b"an item");
                handle.close().expect("is taken");
            });
        }
    });
    eventually("all are closed", || log.closed() == 4);
}

#[test]
fn completions_come_once_the_kernel_has_the_datagram() {
    let (running, log) = start(plain(), |app| app);
    let peer = Peer::of(&running);
    peer.round_trip("hello");
    let handle = running.engine().handle(log.ids()[0]).expect("is open");
    let (sender, done) = std::sync::mpsc::channel();
    for n in 0..3_u8 {
        let sender = sender.clone();
        let flushed = handle.write_flushed(vec![n], move |result| {
            sender.send((n, result.is_ok())).expect("it listens");
        });
        flushed.expect("is taken");
    }
    for n in 0..3 {
        assert_eq!(done.recv_timeout(LONG), Ok((n, true)));
        assert_eq!(peer.recv(), [n]);
    }
}

#[test]
fn a_full_queue_refuses_then_drains() {
    let (running, log) = start(plain().outbound_limit(64 << 10), |app| {
        app.react(|conn, session, _| {
            let refused = loop {
                match conn.write(&[7; 1000]) {
                    Ok(()) => session.number += 1,
                    Err(error) => break error,
                }
            };
            assert!(matches!(refused, WriteError::Full { .. }), "{refused}");
            Action::Continue
        })
        .on_drain(|conn, _| conn.write(b"drained").into())
    });
    let peer = Peer::of(&running);
    peer.send("go");
    while peer.recv() != b"drained" {}
    assert_eq!(log.count(|what| matches!(what, What::Drain)), 1);
    assert_eq!(log.closed(), 0);
}

#[test]
fn a_paused_session_drops_what_comes() {
    let (running, log) = start(plain(), |app| {
        app.react(|conn, _, frame| {
            conn.write(frame).expect("is queued");
            if frame == b"pause" {
                conn.pause_reads();
            }
            Action::Continue
        })
    });
    let (peer, other) = (Peer::of(&running), Peer::of(&running));
    other.round_trip("the other one");
    peer.round_trip("pause");
    peer.send("lost");
    eventually("it is dropped", || {
        running.engine().stats().total().datagrams_dropped == 1
    });
    other.round_trip("is not concerned");
    let handle = running.engine().handle(log.ids()[1]).expect("is open");
    let resumed = handle.run(|_, conn, _| {
        conn.resume_reads();
        conn.write(b"resumed").expect("is queued");
    });
    resumed.expect("is taken");
    assert_eq!(peer.recv(), b"resumed");
    peer.round_trip("hello");
}

#[test]
fn a_thousand_sessions_are_told_apart() {
    for (reactors, mode) in [(1, AcceptMode::MainReactor), (2, AcceptMode::ReusePort)] {
        let listen = Listen::on("udp://127.0.0.1:0").sessions(UdpSessions::new());
        let server = Server::bind(listen).reactors(reactors).accept_mode(mode);
        let (running, log) = start(server, |app| {
            app.react(|conn, session, frame| {
                session.number += 1;
                let mut answer = session.number.to_be_bytes().to_vec();
                answer.extend_from_slice(frame);
                conn.write(&answer).into()
            })
        });
        let peers: Vec<_> = (0..1000).map(|_| Peer::of(&running)).collect();
        for round in 1..=3_u64 {
            for some in peers.chunks(50) {
                for (n, peer) in some.iter().enumerate() {
                    peer.send(noise(round, n + 1));
                }
                for (n, peer) in some.iter().enumerate() {
                    let answer = peer.recv();
                    assert_eq!(answer[..8], round.to_be_bytes());
                    assert_eq!(answer[8..], noise(round, n + 1));
                }
            }
        }
        assert_eq!(log.opened(), 1000);
        assert_eq!(running.engine().connections(), 1000);
        let unique: HashSet<_> = log.ids().into_iter().collect();
        assert_eq!(unique.len(), 1000);
        running.engine().broadcast("news").expect("is taken");
        for peer in &peers {
            assert_eq!(peer.recv(), b"news");
        }
        let report = running.shutdown();
        assert_eq!(
            (report.drained, report.forced, log.closed()),
            (1000, 0, 1000)
        );
    }
}

#[test]
fn a_panic_ends_its_session_alone() {
    expect_panics();
    let (running, log) = start(plain(), |app| {
        app.react(|conn, _, frame| {
            assert!(frame != b"bad", "on purpose");
            conn.write(frame).into()
        })
    });
    let (culprit, other) = (Peer::of(&running), Peer::of(&running));
    culprit.round_trip("hello");
    other.round_trip("hello");
    culprit.send("bad");
    for n in 0..20_u8 {
        other.send([n]);
    }
    for n in 0..20_u8 {
        assert_eq!(other.recv(), [n]);
    }
    let (closed, reason) = log.await_close(0);
    assert_eq!(closed.id, log.ids()[0]);
    assert!(matches!(*reason, CloseReason::Panic));
    culprit.round_trip("a new one");
    assert_eq!((log.opened(), log.closed()), (3, 1));
}

#[test]
fn what_needs_a_stream_is_refused() {
    let (running, log) = start(plain(), |app| {
        app.react(|conn, _, _| {
            let file = std::fs::File::open(std::env::current_exe().expect("a path"));
            let refused = conn.send_file(file.expect("opens"), ..10);
            assert!(matches!(refused, Err(WriteError::File(_))), "{refused:?}");
            let detached = conn.detach(|_| {});
            assert_eq!(detached, Err(DetachError::NotPlain));
            conn.write(b"refused").into()
        })
    });
    let peer = Peer::of(&running);
    peer.send("go");
    assert_eq!(peer.recv(), b"refused");
    let other = Peer::of(&running);
    other.send("go");
    eventually("it opens", || log.opened() == 2);
    let ids = log.ids();
    let (sender, answer) = std::sync::mpsc::channel();
    let asked = running.engine().run_on(0, move |_, reactor| {
        let piped = reactor.pipe(ids[0], ids[1]);
        let same = reactor.with(ids[0], |conn, _| conn.pipe(ids[1]));
        sender.send((piped, same)).expect("it listens");
    });
    asked.expect("is taken");
    let first = log.ids()[0];
    let refused = Err(PipeError::NoStream(first));
    assert_eq!(answer.recv_timeout(LONG), Ok((refused, Some(refused))));
}

#[test]
fn no_new_session_opens_once_accepting_has_stopped() {
    let (running, log) = start(plain(), |app| app);
    let (known, unknown) = (Peer::of(&running), Peer::of(&running));
    known.round_trip("hello");
    running.engine().stop_accepting();
    known.round_trip("still there?");
    unknown.send("me too");
    eventually("it is refused", || {
        running.engine().stats().total().refused == 1
    });
    known.round_trip("still there");
    assert_eq!(log.opened(), 1);
}

#[test]
fn a_panic_in_on_open_costs_that_session_and_its_datagram() {
    expect_panics();
    let (running, log) = start(plain(), |app| {
        let mut count = 0;
        app.on_open(move |_| {
            count += 1;
            assert!(count != 1, "on purpose");
            true
        })
    });
    let peer = Peer::of(&running);
    peer.send("lost");
    eventually("it is gone", || {
        let total = running.engine().stats().total();
        (total.panics, total.closed, total.connections) == (1, 1, 0)
    });
    peer.round_trip("hello");
    assert_eq!((log.opened(), log.closed()), (2, 0));
}

#[test]
fn timers_of_a_session_run_and_end_with_it() {
    let (running, log) = start(plain(), |app| {
        app.react(|conn, _, _| {
            conn.set_timer(Duration::from_millis(1), 7);
            conn.set_timer(Duration::from_secs(3600), 8);
            Action::Continue
        })
        .on_timer(|conn, _, token| {
            conn.write(&[token as u8]).expect("is queued");
            Action::Close
        })
    });
    let peer = Peer::of(&running);
    peer.send("go");
    assert_eq!(peer.recv(), [7]);
    log.await_close(0);
    assert_eq!(log.count(|what| matches!(what, What::Timer(_))), 1);
}

#[test]
fn shutdown_closes_sessions_at_once_and_sends_their_last_words() {
    let server = plain().drain_deadline(Duration::from_secs(3600));
    let (running, log) = start(server, |app| {
        app.on_shutdown(|reactor| {
            assert_eq!(reactor.broadcast("farewell"), 3);
        })
    });
    let peers: Vec<_> = (0..3).map(|_| Peer::of(&running)).collect();
    for peer in &peers {
        peer.round_trip("hello");
    }
    let report = running.shutdown();
    assert_eq!((report.drained, report.forced), (3, 0));
    for (n, peer) in peers.iter().enumerate() {
        assert_eq!(peer.recv(), b"farewell");
        let (_, reason) = log.await_close(n);
        assert!(matches!(*reason, CloseReason::Shutdown));
    }
}

#[test]
fn an_aborted_session_ends_at_once() {
    let (running, log) = start(plain(), |app| {
        app.react(|conn, _, _| {
            conn.abort();
            assert!(matches!(conn.write(b"late"), Err(WriteError::Closed)));
            Action::Continue
        })
    });
    let peer = Peer::of(&running);
    peer.send("hello");
    let (_, reason) = log.await_close(0);
    assert!(matches!(*reason, CloseReason::Aborted));
    assert_eq!(peer.recv_soon(), None);
}

fn client_of(running: &Running<App>, to: &str, token: u64) {
    let connect = Connect::to(to).token(token);
    running.engine().connect(connect).expect("is taken");
}

#[test]
fn an_outbound_session_talks_to_its_peer_alone() {
    let server = UdpSocket::bind("127.0.0.1:0").expect("binds");
    server.set_read_timeout(Some(LONG)).expect("is an option");
    let addr = server.local_addr().expect("is bound");
    let (running, log) = start(plain(), |app| {
        app.on_open(|conn| {
            assert_eq!(conn.origin(), Origin::Connected { token: 7 });
            conn.write(b"hello").is_ok()
        })
        .react(|conn, _, frame| match frame {
            b"bye" => Action::Close,
            frame => conn.write(frame).into(),
        })
    });
    client_of(&running, &format!("udp://{addr}"), 7);
    let mut bytes = [0; 16];
    let (n, client) = server.recv_from(&mut bytes).expect("receives");
    assert_eq!(&bytes[..n], b"hello");
    // Nobody else gets through.
    let stranger = UdpSocket::bind("127.0.0.1:0").expect("binds");
    stranger.send_to(b"me too", client).expect("sends");
    for word in [&b"one"[..], b"two"] {
        server.send_to(word, client).expect("sends");
        let n = server.recv(&mut bytes).expect("receives");
        assert_eq!(&bytes[..n], word);
    }
    server.send_to(b"bye", client).expect("sends");
    let (closed, reason) = log.await_close(0);
    assert!(matches!(*reason, CloseReason::Local), "{reason}");
    assert_eq!(closed.peer.as_socket_addr(), Some(addr));
    assert_eq!(log.frames(), 3);
}

#[test]
fn an_outbound_session_ends_when_nobody_listens() {
    let gone = UdpSocket::bind("127.0.0.1:0").expect("binds");
    let addr = gone.local_addr().expect("is bound");
    drop(gone);
    let (running, log) = start(plain(), |app| {
        app.on_open(|conn| conn.write(b"anybody?").is_ok())
    });
    client_of(&running, &format!("udp://{addr}"), 0);
    let (_, reason) = log.await_close(0);
    assert!(matches!(*reason, CloseReason::Reset(_)), "{reason}");
    assert_eq!(running.shutdown().stats.total().resets, 1);
}

codec::one_of! {
    enum Either {
        Text(Lines),
        Messages(LengthField),
    }
    enum EitherFrame;
    impl Encode<&[u8]> for Text | Messages;
}

/// Echoes lines, and messages once a line has asked for them.
struct Switches;

impl EventHandler for Switches {
    type Codec = Either;
    type Session = ();

    fn codec(&mut self, _: &ConnInfo<'_>) -> Either {
        Lines::new().into()
    }

    fn on_open(&mut self, _: &mut Conn<'_, Self>) -> Option<()> {
        Some(())
    }

    fn react(&mut self, conn: &mut Conn<'_, Self>, (): &mut (), frame: EitherFrame<'_>) -> Action {
        match frame {
            EitherFrame::Text(b"messages") => {
                conn.switch(LengthField::default());
                Action::Continue
            }
            EitherFrame::Text(line) => conn.send(line).into(),
            EitherFrame::Messages(message) => conn.send(message).into(),
        }
    }
}

#[test]
fn a_datagram_that_is_no_frame_takes_a_session_back_to_its_first_codec() {
    let running = plain().start(|_| Switches).expect("starts");
    let peer = UdpSocket::bind("127.0.0.1:0").expect("binds");
    peer.set_read_timeout(Some(LONG)).expect("is set");
    let addr = running.local_addrs()[0]
        .as_socket_addr()
        .expect("an address");
    peer.connect(addr).expect("connects");
    let round_trip = |datagram: &[u8]| {
        peer.send(datagram).expect("sends");
        let mut back = [0; 64];
        let n = peer.recv(&mut back).expect("receives");
        assert_eq!(&back[..n], datagram);
    };
    round_trip(b"hello\n");
    peer.send(b"messages\n").expect("sends");
    round_trip(b"\0\0\0\x02hi");
    // It ends within a message.
    peer.send(b"\0\0\0\x09hi").expect("sends");
    round_trip(b"hello\n");
    assert_eq!(running.engine().connections(), 1);
}
