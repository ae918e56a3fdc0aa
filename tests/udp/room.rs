//! A kernel without room for more: queued datagrams wait for it. The loopback interface never refuses, so this needs a
//! slow interface in a network namespace of its own.

use std::env;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use epicycle::{Action, Listen, Running, Server, UdpSessions};

use crate::peer::Peer;
use crate::util::app::{App, What, start};
use crate::util::{LONG, eventually, not_here};

const ALONE: &str = "EPICYCLE_TEST_NETWORK";

/// Runs the body of the test named `test` in a process with a network of its own, whose loopback interface takes
/// 2 MB a second.
fn with_slow_loopback(test: &str, body: impl FnOnce()) {
    if env::var(ALONE).is_ok_and(|name| name == test) {
        // The parent waits for this process: it has to end even if it hangs.
        thread::spawn(|| {
            thread::sleep(2 * LONG);
            eprintln!("out of time");
            std::process::abort();
        });
        return body();
    }
    let script = "ip link set lo up && tc qdisc add dev lo root tbf rate 16mbit burst 70k latency 5s && exec \"$@\"";
    let run = |command: &str| {
        let output = Command::new("unshare")
            .args(["--net", "sh", "-ec", script, "sh", command])
            .args(["--exact", test, "--nocapture", "--test-threads=1"])
            .env(ALONE, test)
            .output();
        output.ok()
    };
    if run("true").is_none_or(|output| !output.status.success()) {
        return not_here("a slow interface needs unshare, ip and tc as root");
    }
    let own = env::current_exe().expect("a path");
    let output = run(&own.to_string_lossy()).expect("runs itself");
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(out.contains("1 passed"), "{}\n{out}\n{err}", output.status);
}

/// A client with room for all that comes while it is kept from reading, whatever the system's limit.
fn patient(server: &Running<App>) -> Peer {
    let peer = Peer::of(server);
    #[cfg(target_os = "linux")]
    rustix::net::sockopt::set_socket_recv_buffer_size_force(&peer.0, 16 << 20).expect("as root");
    peer
}

#[test]
fn what_the_kernel_has_no_room_for_is_sent_when_it_has() {
    with_slow_loopback(
        "room::what_the_kernel_has_no_room_for_is_sent_when_it_has",
        || {
            for batch in [1, 64] {
                let most = Arc::new(AtomicUsize::new(0));
                let seen = most.clone();
                let listen = Listen::on("udp://127.0.0.1:0")
                    .batch(batch)
                    .send_buffer(16 << 10);
                let (running, _) = start(Server::bind(listen).reactors(1), move |app| {
                    let seen = seen.clone();
                    app.on_datagram(|udp, datagram| {
                        for n in 0..500_u32 {
                            let mut bytes = [7; 1000];
                            bytes[..4].copy_from_slice(&n.to_be_bytes());
                            udp.reply(&bytes).expect("is queued");
                        }
                        udp.reply(datagram.data).into()
                    })
                    .tick(move |reactor| {
                        let queued = reactor.udp(0).map_or(0, |udp| udp.queued());
                        seen.fetch_max(queued, Ordering::Relaxed);
                        Some(Duration::from_millis(1))
                    })
                });
                let peer = patient(&running);
                for _ in 0..3 {
                    peer.send("go");
                    for n in 0..500_u32 {
                        let bytes = peer.recv();
                        assert_eq!((bytes.len(), &bytes[..4]), (1000, &n.to_be_bytes()[..]));
                    }
                    assert_eq!(peer.recv(), b"go");
                }
                let waited = most.load(Ordering::Relaxed);
                assert!(waited > 100_000, "only {waited} bytes waited");
                eventually("the rest is sent", || {
                    running.engine().stats().total().datagrams_out == 1503
                });
                assert_eq!(running.shutdown().stats.total().datagrams_dropped, 0);
            }
        },
    );
}

#[test]
fn sessions_wait_for_room_too() {
    with_slow_loopback("room::sessions_wait_for_room_too", || {
        let (sender, done) = mpsc::channel();
        let listen = Listen::on("udp://127.0.0.1:0")
            .sessions(UdpSessions::new())
            .send_buffer(16 << 10);
        let server = Server::bind(listen).reactors(1).outbound_limit(100 << 10);
        let (running, log) = start(server, move |app| {
            let sender = sender.clone();
            app.react(move |conn, _, _| {
                while conn.write(&[7; 1000]).is_ok() {}
                Action::Continue
            })
            .on_drain(move |conn, _| {
                let sender = sender.clone();
                let written = conn.write_then("drained", move |result| {
                    sender.send(result.is_ok()).expect("it listens");
                });
                written.into()
            })
        });
        let peer = patient(&running);
        for _ in 0..3 {
            peer.send("go");
            while peer.recv() != b"drained" {}
            assert_eq!(done.recv_timeout(LONG), Ok(true));
        }
        assert_eq!(log.count(|what| matches!(what, What::Drain)), 3);
        assert_eq!((log.opened(), log.closed()), (1, 0));
    });
}

#[test]
fn a_session_that_never_lets_the_queue_run_empty_keeps_nobody_else_from_hearing_of_its_own() {
    let name = "room::a_session_that_never_lets_the_queue_run_empty_keeps_nobody_else_from_hearing_of_its_own";
    with_slow_loopback(name, || {
        let (sender, done) = mpsc::channel();
        let listen = Listen::on("udp://127.0.0.1:0")
            .sessions(UdpSessions::new())
            .send_buffer(16 << 10);
        // Half a second's worth of what leaves, so that no delay lets it run empty.
        let server = Server::bind(listen).reactors(1).outbound_limit(1 << 20);
        let flooded = Arc::new(Mutex::new(None));
        let flooding = flooded.clone();
        let (running, log) = start(server, move |app| {
            let (sender, flooding) = (sender.clone(), flooding.clone());
            app.react(move |conn, _, frame| {
                let sender = sender.clone();
                let written = conn.write_then(frame.to_vec(), move |result| {
                    sender.send(result.is_ok()).expect("it listens");
                });
                written.into()
            })
            .tick(move |reactor| {
                if let Some(id) = *flooding.lock().expect("is whole") {
                    reactor.with(id, |conn, _| while conn.write(&[7; 1000]).is_ok() {});
                }
                Some(Duration::from_millis(1))
            })
        });
        let (one, other) = (Peer::of(&running), Peer::of(&running));
        one.round_trip("hello");
        assert_eq!(done.recv_timeout(LONG), Ok(true));
        *flooded.lock().expect("is whole") = Some(log.ids()[0]);
        for _ in 0..100 {
            assert_eq!(one.recv().len(), 1000);
        }
        for n in 0..3_u8 {
            other.round_trip([n]);
            assert_eq!(done.recv_timeout(LONG), Ok(true));
        }
        assert!(running.engine().stats().total().overflows > 0);
        assert_eq!(log.closed(), 0);
    });
}
