//! Answers that cannot be sent: the client receives an error instead, and the log has the cause.

use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use epicycle::http::{Chunk, End, HttpCodec, Limits, ServerRequest, ServerResponse, StatusCode};
use epicycle::{
    Action, Answer, CloseReason, Conn, HandleError, Server, TimeoutKind, WorkerPool, WriteError,
};
use log::Level;

use crate::site::{Site, start};
use crate::util::app::local;
use crate::util::client::Client;
use crate::util::logs::logs;
use crate::util::{LONG, eventually, expect_panics};
use crate::wire::answers;

/// Answers that no client may be sent, by their paths, and what their errors mention.
const REFUSED: [(&str, &str); 3] = [
    ("/header", "X-Broken"),
    ("/length", "Content-Length"),
    ("/body", "204"),
];

fn refused(path: &str) -> ServerResponse<'static> {
    match path {
        "/header" => ServerResponse::ok().header("X-Broken", "a\nb"),
        "/length" => ServerResponse::ok()
            .header("Content-Length", "1")
            .body(b"x"),
        "/body" => ServerResponse::new(StatusCode::NO_CONTENT).body(b"x"),
        _ => ServerResponse::ok(),
    }
}

/// Sees that a client was answered 500, and that the error was told to the log and the handler.
fn expect_500(client: Client, mentioned: &str, reason: &CloseReason) {
    let mut answers = answers(&client);
    let answer = answers.get();
    assert_eq!(
        (answer.status, answer.header("connection")),
        (500, Some("close"))
    );
    answers.expect_end();
    let CloseReason::Refused(WriteError::Frame(error)) = reason else {
        panic!("{reason:?}");
    };
    assert!(error.to_string().contains(mentioned), "{error}");
    let name = client.name();
    eventually("it is logged", || {
        logs().have(Level::Warn, &[&name, mentioned])
    });
}

#[test]
fn an_answer_that_is_refused_is_answered_500_and_told() {
    logs();
    let act = || Site::of(|conn, _, request| conn.send(refused(request.path())).into());
    let (running, log) = start(local(), act);
    for (n, (path, mentioned)) in REFUSED.into_iter().enumerate() {
        let client = Client::to(&running);
        client.send(format!(
            "GET {path} HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\n"
        ));
        client.end_writes();
        let (_, reason) = log.await_end(n);
        expect_500(client, mentioned, &reason);
    }
}

#[test]
fn an_answer_of_another_thread_that_is_refused_is_answered_500_and_told() {
    logs();
    let act = || {
        Site::of(|conn, _, request| {
            let (handle, answer) = (conn.handle(), refused(request.path()));
            std::thread::spawn(move || handle.send(answer));
            Action::Continue
        })
    };
    let (running, log) = start(local(), act);
    for (n, (path, mentioned)) in REFUSED.into_iter().enumerate() {
        let client = Client::to(&running);
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        client.end_writes();
        let (_, reason) = log.await_end(n);
        expect_500(client, mentioned, &reason);
    }
}

#[test]
fn an_answer_that_has_begun_is_cut_short_for_all_to_see() {
    let act = || {
        Site::of(|conn, _, _| {
            conn.send(ServerResponse::ok().sized(10)).expect("is taken");
            conn.send(End).into()
        })
    };
    let (running, log) = start(local(), act);
    let client = Client::to(&running);
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let received = String::from_utf8(client.recv_to_end()).expect("is text");
    assert!(received.starts_with("HTTP/1.1 200 "), "{received}");
    assert!(
        received.ends_with("Content-Length: 10\r\n\r\n"),
        "{received}"
    );
    drop(client);
    let (_, reason) = log.await_end(0);
    let CloseReason::Refused(WriteError::Frame(error)) = &*reason else {
        panic!("{reason:?}");
    };
    assert!(
        error
            .to_string()
            .contains("10 of the announced bytes remain"),
        "{error}"
    );
}

#[test]
fn an_answer_that_ends_with_the_connection_is_reset_when_it_is_cut_short() {
    expect_panics();
    let act = || {
        Site::of(|conn, _, request| {
            conn.send(ServerResponse::ok().streamed())
                .expect("is taken");
            conn.send(Chunk(b"some of it")).expect("is taken");
            match request.path() {
                "/whole" => conn.send(End).into(),
                "/close" => Action::Close,
                _ => panic!("on purpose"),
            }
        })
    };
    let (running, _) = start(local(), act);
    for path in ["/whole", "/close", "/panic"] {
        let client = Client::to(&running);
        client.send(format!("GET {path} HTTP/1.0\r\n\r\n"));
        let (received, end) = client.recv_to_any_end();
        if path == "/whole" {
            assert!(
                received.ends_with(b"\r\n\r\nsome of it") && end.is_ok(),
                "{end:?}"
            );
        } else {
            assert!(Client::is_reset(&end), "{path}: {received:?}, {end:?}");
        }
    }
}

#[test]
fn an_item_that_nobody_waits_for_is_dropped_with_a_warning() {
    let (running, log) = start(local(), Site::mirror);
    let client = Client::to(&running);
    client.send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut answers = answers(&client);
    assert_eq!(answers.get().text(), "GET /1\n");
    let name = client.name();
    logs();
    let engine = running.engine();
    let late = |_: &mut _, reactor: &mut epicycle::Reactor<'_, Site>| {
        let mut open = None;
        reactor.for_each(|conn, _| open = Some(conn.handle()));
        open.expect("is open")
            .send(ServerResponse::ok())
            .expect("is taken");
    };
    engine.run_on(0, late).expect("is taken");
    eventually("it is logged", || {
        logs().have(Level::Warn, &[&name, "no request waits"])
    });
    client.send("GET /2 HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(answers.get().text(), "GET /2\n");
    assert_eq!(log.ended(), 0);
}

#[test]
fn an_access_log_can_tell_of_requests_that_no_handler_gets() {
    logs();
    let server = patient().read_timeout(Duration::from_millis(200));
    let limits = || HttpCodec::new(Limits::default().max_body(10));
    let (running, log) = start(server, move || {
        Site::new(limits, |conn, _, _| conn.send(ServerResponse::ok()).into())
    });
    let long = format!("GET /{} HTTP/1.1\r\n", "x".repeat(9000));
    let refused = [
        ("GET / HTTP/3.0\r\nHost: a\r\n\r\n", 505),
        ("GET /a HTTP/1.1\r\n\r\n", 400),
        (
            "PUT /b HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n",
            413,
        ),
        (&long, 414),
        (
            "PUT /c HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello",
            408,
        ),
        ("GET /d HTTP/1.1\r\n", 408),
    ];
    for (n, (request, status)) in refused.into_iter().enumerate() {
        let client = Client::to(&running);
        client.send(format!("GET /first HTTP/1.1\r\nHost: a\r\n\r\n{request}"));
        let mut answers = answers(&client);
        assert_eq!(answers.get().status, 200);
        assert_eq!(answers.get().status, status);
        let name = client.name();
        eventually("it is logged", || {
            logs().have(Level::Debug, &[&name, &format!("answered {status}")])
        });
        answers.expect_end();
        drop(client);
        let (closed, _) = log.await_end(n);
        let refused = closed.refused.expect("is told");
        assert_eq!(refused.status, status);
        let input = request.as_bytes();
        assert_eq!(*refused.input, input[..input.len().min(256)]);
        let shown = format!(
            "status: {status}, input: \"{}",
            request[..10].escape_default()
        );
        assert!(format!("{refused:?}").contains(&shown), "{refused:?}");
        assert_eq!(running.engine().stats().total().refusals, n as u64 + 1);
    }
    // One that is answered is the handler's to tell of.
    let client = Client::to(&running);
    client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert_eq!(answers(&client).get().status, 200);
    drop(client);
    assert_eq!(log.await_end(refused.len()).0.refused, None);
}

#[test]
fn a_request_that_is_not_answered_by_the_end_of_a_shutdown_is_answered_503() {
    let (asked, requests) = mpsc::channel();
    let (running, log) = start(patient(), later(&asked));
    let client = Client::to(&running);
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let _owed = next(&requests);
    running.shutdown();
    let mut answers = answers(&client);
    assert_eq!(answers.get().status, 503);
    answers.expect_end();
    assert_eq!(
        log.await_end(0).0.refused.map(|refused| refused.status),
        Some(503)
    );
}

type Deferred = Answer<Site>;

/// Leaves the answers to the test.
fn later(asked: &Sender<Deferred>) -> impl Fn() -> Site + Send + Sync + use<> {
    let asked = Mutex::new(asked.clone());
    move || {
        let asked = asked.lock().expect("is sound").clone();
        Site::of(move |conn, _, _| {
            asked.send(conn.defer_answer()).expect("the test waits");
            Action::Continue
        })
    }
}

fn next(asked: &Receiver<Deferred>) -> Deferred {
    asked.recv_timeout(LONG).expect("is asked")
}

/// A server that does not wait long at the end for answers that a test leaves owed.
fn patient() -> Server {
    local().drain_deadline(Duration::from_millis(500))
}

#[test]
fn a_deferred_answer_is_given_from_any_thread() {
    let (asked, requests) = mpsc::channel();
    let (running, log) = start(patient(), later(&asked));
    let client = Client::to(&running);
    client.send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut answers = answers(&client);
    next(&requests)
        .send(ServerResponse::ok().body(b"one"))
        .expect("is open");
    assert_eq!(answers.get().text(), "one");
    let by_task = next(&requests).run(|_, conn, session| {
        session.count += 1;
        conn.send(ServerResponse::ok().body(b"two"))
            .expect("is taken");
    });
    by_task.expect("is open");
    assert_eq!(answers.get().text(), "two");
    assert_eq!(log.ended(), 0);
}

#[test]
fn a_deferred_answer_that_is_dropped_is_answered_500_and_told() {
    logs();
    let (asked, requests) = mpsc::channel();
    let (running, log) = start(patient(), later(&asked));
    let client = Client::to(&running);
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let answer = next(&requests);
    let handle = answer.handle().clone();
    drop(answer);
    let mut answers = answers(&client);
    assert_eq!(answers.get().status, 500);
    answers.expect_end();
    let name = client.name();
    drop(client);
    let (_, reason) = log.await_end(0);
    assert!(matches!(*reason, CloseReason::Unanswered), "{reason}");
    assert!(logs().have(Level::Warn, &[&name, "dropped an answer"]));
    assert_eq!(handle.run(|_, _, _| ()), Err(HandleError::Closed));
}

#[test]
fn a_job_that_panics_or_is_rejected_leaves_no_request_unanswered() {
    expect_panics();
    let pool = WorkerPool::builder()
        .threads(1)
        .queue(1)
        .build()
        .expect("starts");
    let (running, _) = start(patient(), {
        let pool = pool.clone();
        move || {
            let pool = pool.clone();
            Site::of(move |conn, _, _| {
                let answer = conn.defer_answer();
                let _ = pool.submit(move || {
                    let _owed = answer;
                    panic!("on purpose");
                });
                Action::Continue
            })
        }
    });
    let ask = || {
        let client = Client::to(&running);
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        client
    };
    assert_eq!(answers(&ask()).get().status, 500);
    // The pool is busy, and its queue full.
    let (free, busy) = mpsc::channel::<()>();
    let (tell, is_busy) = mpsc::channel();
    let gate = move || {
        tell.send(()).expect("the test waits");
        let _ = busy.recv();
    };
    pool.submit(gate).expect("is taken");
    is_busy.recv_timeout(LONG).expect("it is there");
    pool.submit(|| ()).expect("is taken");
    assert_eq!(answers(&ask()).get().status, 500);
    drop(free);
}

#[test]
fn a_full_mailbox_loses_neither_an_answer_nor_its_failure() {
    let (asked, requests) = mpsc::channel();
    let (running, _) = start(patient().mailbox(1), later(&asked));
    let (given, dropped) = (Client::to(&running), Client::to(&running));
    for client in [&given, &dropped] {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    let deferred = [next(&requests), next(&requests)];
    let of_given = deferred.iter().position(|answer| {
        let (tell, peer) = mpsc::channel();
        let ask = move |_: &mut _, conn: &mut Conn<'_, Site>, _: &mut _| {
            tell.send(conn.peer_addr().to_string())
                .expect("the test waits");
        };
        answer.handle().run(ask).expect("is open");
        peer.recv_timeout(LONG).expect("is told") == given.name()
    });
    let engine = running.engine();
    // The reactor is busy, and its mailbox full.
    let (free, busy) = mpsc::channel::<()>();
    let (tell, is_busy) = mpsc::channel();
    let gate = move |_: &mut _, _: &mut epicycle::Reactor<'_, Site>| {
        tell.send(()).expect("the test waits");
        let _ = busy.recv();
    };
    engine.run_on(0, gate).expect("is taken");
    is_busy.recv_timeout(LONG).expect("it is there");
    while engine.run_on(0, |_, _| ()).is_ok() {}
    let [first, second] = deferred;
    let (answer, other) = match of_given {
        Some(0) => (first, second),
        _ => (second, first),
    };
    answer
        .send(ServerResponse::ok().body(b"late"))
        .expect("is taken");
    drop(other);
    drop(free);
    assert_eq!(answers(&given).get().text(), "late");
    assert_eq!(answers(&dropped).get().status, 500);
}

#[test]
fn a_deferred_answer_does_not_reach_the_next_request() {
    let kept = Arc::<Mutex<Vec<Deferred>>>::default();
    let for_site = kept.clone();
    let (running, log) = start(patient(), move || {
        let kept = for_site.clone();
        Site::of(move |conn, _, request: ServerRequest<'_>| {
            let answer = conn.defer_answer();
            kept.lock().expect("is sound").push(answer);
            match request.path() {
                // Answered at once after all.
                "/1" => conn.send(ServerResponse::ok().body(b"one")).into(),
                _ => Action::Continue,
            }
        })
    });
    let client = Client::to(&running);
    client.send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut answers = answers(&client);
    assert_eq!(answers.get().text(), "one");
    let deferred = || kept.lock().expect("is sound").len();
    eventually("it is asked again", || deferred() == 2);
    let second = kept.lock().expect("is sound").pop();
    let first = kept.lock().expect("is sound").pop();
    let (first, second) = (first.expect("is kept"), second.expect("is kept"));
    first
        .send(ServerResponse::ok().body(b"wrong"))
        .expect("is open");
    second
        .send(ServerResponse::ok().body(b"two"))
        .expect("is open");
    assert_eq!(answers.get().text(), "two");
    client.send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /3 HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(answers.get().text(), "one");
    eventually("it is asked again", || deferred() == 2);
    let third = kept.lock().expect("is sound").pop().expect("is kept");
    // Of the one that was answered.
    kept.lock().expect("is sound").clear();
    third
        .send(ServerResponse::ok().body(b"three"))
        .expect("is open");
    assert_eq!(answers.get().text(), "three");
    assert_eq!(log.ended(), 0);
}

#[test]
fn a_request_that_is_being_answered_is_not_idle() {
    let brief = Duration::from_millis(200);
    let (asked, requests) = mpsc::channel();
    let (running, log) = start(patient().idle_timeout(brief), later(&asked));
    let client = Client::to(&running);
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let answer = next(&requests);
    thread::sleep(3 * brief);
    assert_eq!(log.ended(), 0);
    answer.send(ServerResponse::ok()).expect("is open");
    let mut answers = answers(&client);
    assert_eq!(answers.get().status, 200);
    // Now it is.
    answers.expect_end();
    drop(client);
    let (_, reason) = log.await_end(0);
    let idle = CloseReason::Timeout(TimeoutKind::Idle);
    assert_eq!(reason.to_string(), idle.to_string());
}

#[test]
fn a_handler_that_does_not_answer_in_time_has_503_answered() {
    logs();
    let brief = Duration::from_millis(200);
    let (asked, requests) = mpsc::channel();
    let server = patient().answer_timeout(brief).idle_timeout(20 * brief);
    let (running, log) = start(server, later(&asked));
    let client = Client::to(&running);
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let answer = next(&requests);
    let mut of_client = answers(&client);
    let unavailable = of_client.get();
    assert_eq!(
        (unavailable.status, unavailable.header("connection")),
        (503, Some("close"))
    );
    of_client.expect_end();
    let _ = answer.send(ServerResponse::ok());
    let name = client.name();
    drop(client);
    let (_, reason) = log.await_end(0);
    let in_vain = CloseReason::Timeout(TimeoutKind::Answer);
    assert_eq!(reason.to_string(), in_vain.to_string());
    assert!(logs().have(Level::Warn, &[&name, "no answer in time"]));
}

#[test]
fn an_answer_that_does_not_go_on_has_the_answer_timeout_between_its_parts() {
    // A thread of this test goes on four times as often, for a busy machine may wake it late.
    const BRIEF: Duration = Duration::from_secs(1);
    let begin = || {
        Site::of(|conn, _, request| {
            let handle = conn.handle();
            let goes_on = request.path() == "/on";
            thread::spawn(move || {
                for _ in 0..if goes_on { 8 } else { 0 } {
                    thread::sleep(BRIEF / 4);
                    let _ = handle.send(Chunk(b"x"));
                }
                goes_on.then(|| handle.send(End))
            });
            conn.send(ServerResponse::ok().streamed()).into()
        })
    };
    let (running, log) = start(patient().answer_timeout(BRIEF), begin);
    let [on, off] = ["/on", "/off"].map(|path| {
        let client = Client::to(&running);
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        client
    });
    let cut = String::from_utf8(off.recv_to_end()).expect("is text");
    assert!(cut.ends_with("chunked\r\n\r\n"), "{cut}");
    drop(off);
    let (_, reason) = log.await_end(0);
    assert!(
        matches!(*reason, CloseReason::Timeout(TimeoutKind::Answer)),
        "{reason}"
    );
    assert_eq!(answers(&on).get().text(), "xxxxxxxx");
}
