//! Several requests under way on one connection: each is answered in order, and memory stays bounded.

use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use std::{fs, thread};

use epicycle::http::ServerResponse;
use epicycle::{Action, CloseReason};

use crate::site::{Site, reflection, start};
use crate::util::app::local;
use crate::util::client::Client;
use crate::util::eventually;
use crate::util::process::alone;
use crate::wire::answers;

const MANY: usize = 100_000;

fn requests(from: usize, to: usize) -> Vec<u8> {
    let requests = (from..to).map(|n| format!("GET /{n} HTTP/1.1\r\nHost: a\r\n\r\n"));
    requests.collect::<String>().into_bytes()
}

/// How much memory this process holds, in bytes.
fn resident() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<usize>().ok());
    kib.map_or(0, |kib| kib << 10)
}

/// A mirror that notes the most output that has waited on a connection.
fn watched(most: &Arc<AtomicUsize>) -> Site {
    let most = most.clone();
    Site::of(move |conn, _, request| {
        let sent = conn.send(reflection(&request));
        most.fetch_max(conn.buffered_out(), Ordering::Relaxed);
        sent.into()
    })
}

#[test]
fn a_hundred_thousand_requests_are_answered_in_order() {
    let most = Arc::<AtomicUsize>::default();
    let for_site = most.clone();
    let (running, _) = start(local(), move || watched(&for_site));
    let client = Client::to(&running);
    thread::scope(|scope| {
        scope.spawn(|| {
            for n in (0..MANY).step_by(1000) {
                client.send(requests(n, n + 1000));
            }
        });
        let mut answers = answers(&client);
        for n in 0..MANY {
            assert_eq!(answers.get().text(), format!("GET /{n}\n"));
        }
    });
    let most = most.load(Ordering::Relaxed);
    assert!(most < 3 << 20, "{most} bytes waited");
}

#[test]
fn a_client_that_reads_nothing_until_all_is_sent_is_not_read_either() {
    let test = "pipelining::a_client_that_reads_nothing_until_all_is_sent_is_not_read_either";
    alone(test, || {
        let most = Arc::<AtomicUsize>::default();
        let for_site = most.clone();
        let server = local().send_buffer(64 << 10).recv_buffer(64 << 10);
        let (running, log) = start(server, move || watched(&for_site));
        let client = Client::to(&running);
        client.0.set_send_buffer_size(64 << 10).expect("is set");
        let all = requests(0, MANY);
        let before = resident();
        thread::scope(|scope| {
            // It blocks when the server stops reading, and is done only when its answers are read.
            let sending = scope.spawn(|| client.send(&all));
            let mut seen = 0;
            eventually("the server reads no more", || {
                let now = running.engine().stats().total().frames;
                thread::sleep(Duration::from_millis(50));
                now > 0 && std::mem::replace(&mut seen, now) == now
            });
            assert!(!sending.is_finished(), "everything was taken");
            let frames = log.frames();
            assert!(frames < MANY, "all {frames} were handled");
            let grown = resident().saturating_sub(before);
            assert!(grown < 32 << 20, "{grown} bytes more are held");
            let mut answers = answers(&client);
            for n in 0..MANY {
                assert_eq!(answers.get().text(), format!("GET /{n}\n"));
            }
        });
        let most = most.load(Ordering::Relaxed);
        assert!(most < 3 << 20, "{most} bytes waited");
    });
}

#[test]
fn answers_that_come_later_from_other_threads_are_in_order() {
    let (running, log) = start(local(), || {
        Site::of(|conn, _, request| {
            let answer = reflection(&request);
            let (handle, wait) = (conn.handle(), fastrand::u64(..500));
            match fastrand::u8(..3) {
                0 => return conn.send(answer).into(),
                1 => drop(thread::spawn(move || {
                    thread::sleep(Duration::from_micros(wait));
                    handle.send(answer)
                })),
                _ => drop(thread::spawn(move || {
                    handle.run(move |_, conn, _| {
                        conn.send(answer).expect("is taken");
                    })
                })),
            }
            Action::Continue
        })
    });
    let client = Client::to(&running);
    client.send(requests(0, 1000));
    let mut answers = answers(&client);
    for n in 0..1000 {
        assert_eq!(answers.get().text(), format!("GET /{n}\n"));
    }
    assert_eq!(log.frames(), 1000);
}

#[test]
fn one_request_is_in_the_handlers_hands_at_a_time() {
    // The answers that are owed would be waited for.
    let server = local().drain_deadline(Duration::ZERO);
    let (running, log) = start(server, || Site::of(|_, _, _| Action::Continue));
    let client = Client::to(&running);
    client.send(requests(0, 10));
    eventually("the first is handled", || log.frames() == 1);
    client.send(requests(10, 20));
    // Whatever another connection has had, this one could have had as well.
    let other = Client::to(&running);
    other.send(requests(0, 1));
    eventually("another is handled", || log.frames() > 1);
    assert_eq!(log.frames(), 2);
}

#[test]
fn a_client_that_has_ended_its_stream_gets_all_its_answers() {
    for late in [false, true] {
        let (running, log) = start(local(), move || {
            Site::of(move |conn, _, request| {
                let answer = reflection(&request);
                if !late {
                    return conn.send(answer).into();
                }
                let handle = conn.handle();
                thread::spawn(move || {
                    thread::sleep(Duration::from_millis(5));
                    handle.send(answer)
                });
                Action::Continue
            })
        });
        let client = Client::to(&running);
        client.send(requests(0, 20));
        client.0.shutdown(Shutdown::Write).expect("shuts down");
        let mut answers = answers(&client);
        for n in 0..20 {
            assert_eq!(answers.get().text(), format!("GET /{n}\n"), "late: {late}");
        }
        answers.expect_end();
        let (closed, reason) = log.await_end(0);
        assert!(matches!(*reason, CloseReason::Peer), "{reason}");
        assert_eq!((closed.unsent, closed.undecoded), (0, 0));
    }
}

#[test]
fn what_comes_behind_the_last_request_is_never_handled() {
    let last: [&str; 3] = [
        "GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        "GET /last HTTP/1.0\r\n\r\n",
        "GET /last HTTP/1.1\r\nHost: a\r\nConnection: x, Close\r\n\r\n",
    ];
    for last in last {
        let (running, log) = start(local(), Site::mirror);
        let client = Client::to(&running);
        client.send(
            [
                b"GET /first HTTP/1.1\r\nHost: a\r\n\r\n",
                last.as_bytes(),
                &requests(0, 3),
            ]
            .concat(),
        );
        let mut answers = answers(&client);
        let first = answers.get();
        assert_eq!(
            (first.text(), first.header("connection")),
            ("GET /first\n", None)
        );
        let last = answers.get();
        assert_eq!(
            (last.text(), last.header("connection")),
            ("GET /last\n", Some("close"))
        );
        answers.expect_end();
        assert_eq!(log.frames(), 2);
    }
}

#[test]
fn an_answer_that_closes_is_the_last() {
    let (running, log) = start(local(), || {
        Site::of(|conn, _, _| conn.send(ServerResponse::ok().close().body("bye")).into())
    });
    let client = Client::to(&running);
    client.send(requests(0, 3));
    let mut answers = answers(&client);
    let answer = answers.get();
    assert_eq!(
        (answer.text(), answer.header("connection")),
        ("bye", Some("close"))
    );
    answers.expect_end();
    assert_eq!(log.frames(), 1);
}
