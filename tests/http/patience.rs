//! Slow clients: each has the time that the server grants, and delays no other.

use std::thread;
use std::time::{Duration, Instant};

use epicycle::http::ServerResponse;
use epicycle::{Action, CloseReason, TimeoutKind};

use crate::site::{Site, start};
use crate::util::app::local;
use crate::util::client::Client;
use crate::util::{LONG, eventually, noise};
use crate::wire::answers;

const BRIEF: Duration = Duration::from_millis(500);

fn is_timeout(reason: &CloseReason, kind: TimeoutKind) -> bool {
    matches!(reason, CloseReason::Timeout(other) if *other == kind)
}

#[test]
fn a_head_that_trickles_in_has_as_long_as_its_first_byte_says() {
    let (running, log) = start(local().read_timeout(BRIEF), Site::mirror);
    let client = Client::to(&running);
    // A byte at a time, each well within the timeout, and many more than it has room for.
    let begun = Instant::now();
    let mut sent = 0;
    for byte in b"GET / HTTP/1.1\r\nHost: a\r\nX: "
        .iter()
        .chain([b'x'; 4096].iter())
    {
        client.send([*byte]);
        sent += 1;
        thread::sleep(BRIEF / 20);
        if log.ended() > 0 || begun.elapsed() > LONG || is_readable(&client) {
            break;
        }
    }
    assert!(sent < 1000, "{sent} bytes were waited for");
    let mut answers = answers(&client);
    assert_eq!(answers.get().status, 408);
    answers.expect_end();
    drop(client);
    let (_, reason) = log.await_end(0);
    assert!(is_timeout(&reason, TimeoutKind::Read), "{reason}");
    assert_eq!(log.frames(), 0);
}

fn is_readable(client: &Client) -> bool {
    client.0.set_nonblocking(true).expect("is set");
    let peeked = client.0.peek(&mut [std::mem::MaybeUninit::uninit(); 1]);
    client.0.set_nonblocking(false).expect("is set");
    peeked.is_ok()
}

#[test]
fn a_body_that_stalls_is_answered_408() {
    let (running, log) = start(local().read_timeout(BRIEF), Site::mirror);
    let bodies: [&[u8]; 4] = [
        b"Content-Length: 10\r\n\r\nhello",
        b"Content-Length: 10\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nhel",
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
    ];
    let clients = bodies.map(|body| {
        let client = Client::to(&running);
        client.send([b"POST / HTTP/1.1\r\nHost: a\r\n", body].concat());
        client
    });
    for client in &clients {
        let mut answers = answers(client);
        let answer = answers.get();
        assert_eq!(
            (answer.status, answer.header("connection")),
            (408, Some("close"))
        );
        answers.expect_end();
    }
    drop(clients);
    eventually("all are closed", || log.ended() == bodies.len());
    assert_eq!(log.frames(), 0);
}

#[test]
fn a_connection_between_requests_has_the_idle_timeout_and_ends_without_a_word() {
    let server = local().read_timeout(LONG).idle_timeout(BRIEF);
    let (running, log) = start(server, Site::mirror);
    let (fresh, used) = (Client::to(&running), Client::to(&running));
    used.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut of_used = answers(&used);
    assert_eq!(of_used.get().status, 200);
    of_used.expect_end();
    answers(&fresh).expect_end();
    drop((fresh, used));
    for n in 0..2 {
        let (_, reason) = log.await_end(n);
        assert!(is_timeout(&reason, TimeoutKind::Idle), "{reason}");
    }
}

#[test]
fn a_client_in_time_is_not_answered_408_later() {
    let (running, log) = start(local().read_timeout(BRIEF), Site::mirror);
    let client = Client::to(&running);
    let mut answers = answers(&client);
    for _ in 0..3 {
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n");
        thread::sleep(BRIEF / 10);
        client.send("hello");
        assert_eq!(answers.get().text(), "POST /\nhello");
        // The next request's time begins with its first byte.
        thread::sleep(BRIEF + BRIEF / 2);
    }
    assert_eq!(log.ended(), 0);
}

#[test]
fn a_request_that_is_being_answered_is_not_timed() {
    let (running, log) = start(local().read_timeout(BRIEF), || {
        Site::of(|conn, _, request| {
            let handle = conn.handle();
            let answer = crate::site::reflection(&request);
            thread::spawn(move || {
                thread::sleep(BRIEF * 2);
                handle.send(answer)
            });
            epicycle::Action::Continue
        })
    });
    let client = Client::to(&running);
    // The second waits with its head incomplete, which is no fault of the client's.
    client.send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\n");
    let mut answers = answers(&client);
    assert_eq!(answers.get().text(), "GET /1\n");
    client.send("Host: a\r\n\r\n");
    assert_eq!(answers.get().text(), "GET /2\n");
    assert_eq!(log.ended(), 0);
}

#[test]
fn many_slow_clients_do_not_disturb_others() {
    const SLOW: usize = 200;
    let (running, log) = start(local().read_timeout(BRIEF * 10), Site::mirror);
    let slow: Vec<_> = (0..SLOW).map(|_| Client::to(&running)).collect();
    let head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n";
    for client in &slow {
        client.send(&head[..10]);
    }
    let quick = Client::to(&running);
    let mut of_quick = answers(&quick);
    for at in 10..head.len() {
        for client in &slow {
            client.send(&head[at..=at]);
        }
        quick.send("GET /quick HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(of_quick.get().text(), "GET /quick\n");
    }
    for client in &slow {
        let mut answers = answers(client);
        assert_eq!(answers.get().status, 408);
        answers.expect_end();
    }
    drop(slow);
    eventually("the slow ones are closed", || log.ended() == SLOW);
    quick.send("GET /after HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(of_quick.get().text(), "GET /after\n");
}

#[test]
fn the_lifetime_and_a_drain_end_an_answer_however_slowly_it_is_read() {
    let server = local()
        .lifetime(BRIEF)
        .drain_deadline(BRIEF)
        .send_buffer(16 << 10);
    let (running, log) = start(server, || {
        Site::of(|conn, _, _| {
            let body = noise(1, 8 << 20);
            conn.send(ServerResponse::ok().shared_body(body)).into()
        })
    });
    let client = Client::with_small_window(&running);
    client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    // It takes some of it all the time, which an answer that closes may do for long.
    while client.try_recv(2000).is_some() {
        thread::sleep(BRIEF / 50);
    }
    let (closed, reason) = log.await_end(0);
    assert!(is_timeout(&reason, TimeoutKind::Drain), "{reason}");
    assert!(closed.open_for >= 2 * BRIEF, "{:?}", closed.open_for);
}

#[test]
fn an_answer_that_is_owed_at_the_end_of_the_lifetime_is_given() {
    let server = local().lifetime(BRIEF).drain_deadline(20 * BRIEF);
    let (running, log) = start(server, || {
        Site::of(|conn, _, _| {
            let handle = conn.handle();
            thread::spawn(move || {
                thread::sleep(2 * BRIEF);
                let _ = handle.send(ServerResponse::ok().body("late, but here"));
            });
            Action::Continue
        })
    });
    let client = Client::to(&running);
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut answers = answers(&client);
    let answer = answers.get();
    assert_eq!(answer.text(), "late, but here");
    assert_eq!(answer.header("connection"), Some("close"));
    answers.expect_end();
    drop(client);
    let (_, reason) = log.await_end(0);
    assert!(is_timeout(&reason, TimeoutKind::Lifetime), "{reason}");
}

#[test]
fn an_answer_that_is_not_given_by_the_end_of_the_lifetime_and_a_drain_is_503() {
    let server = local().lifetime(BRIEF).drain_deadline(BRIEF);
    let (running, log) = start(server, || Site::of(|_, _, _| Action::Continue));
    let client = Client::to(&running);
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut answers = answers(&client);
    assert_eq!(answers.get().status, 503);
    answers.expect_end();
    drop(client);
    let (closed, reason) = log.await_end(0);
    assert!(is_timeout(&reason, TimeoutKind::Lifetime), "{reason}");
    assert!(closed.open_for >= 2 * BRIEF, "{:?}", closed.open_for);
}
