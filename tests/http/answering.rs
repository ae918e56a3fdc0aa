//! The beginning and the end of an answer, and the state of the connection after it.

use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use epicycle::http::{Chunk, End, HttpCodec, Limits, ServerResponse, StatusCode};
use epicycle::{Action, CloseReason};

use crate::site::{Site, reflection, start};
use crate::util::app::local;
use crate::util::client::Client;
use crate::util::{eventually, expect_panics, noise};
use crate::wire::answers;

const EXPECTING: &str =
    "POST /up HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";

#[test]
fn a_client_that_waits_is_told_once_to_go_on() {
    let (running, _) = start(local(), Site::mirror);
    let client = Client::to(&running);
    let mut answers = answers(&client);
    for _ in 0..3 {
        client.send(EXPECTING);
        assert_eq!(answers.get().status, 100);
        for byte in b"hello" {
            client.send([*byte]);
        }
        assert_eq!(answers.get().text(), "POST /up\nhello");
    }
    let chunked = "POST /up HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nExpect: 100-Continue\r\n\r\n";
    client.send(chunked);
    assert_eq!(answers.get().status, 100);
    for part in ["5\r\n", "hello", "\r\n", "0\r\n", "\r\n"] {
        client.send(part);
    }
    assert_eq!(answers.get().text(), "POST /up\nhello");
}

#[test]
fn a_client_whose_body_is_there_is_not_told_to_go_on() {
    let (running, _) = start(local(), Site::mirror);
    let client = Client::to(&running);
    let mut answers = answers(&client);
    client.send([EXPECTING, "hello"].concat());
    assert_eq!(answers.get().text(), "POST /up\nhello");
    client.send([EXPECTING, "he"].concat());
    client.send("llo");
    assert_eq!(answers.get().text(), "POST /up\nhello");
    // Nor one whose body is empty, or whose version knows no such thing.
    client.send(EXPECTING.replace("Length: 5", "Length: 0"));
    assert_eq!(answers.get().text(), "POST /up\n");
    client.send(EXPECTING.replace("HTTP/1.1", "HTTP/1.0"));
    client.send("hello");
    assert_eq!(answers.get().text(), "POST /up\nhello");
    answers.expect_end();
}

#[test]
fn a_client_is_told_to_go_on_behind_the_earlier_answers() {
    static FIRST: Mutex<Option<epicycle::Handle<Site>>> = Mutex::new(None);
    let (running, log) = start(local(), || {
        Site::of(|conn, _, request| {
            if request.target() == "/first" {
                *FIRST.lock().expect("is sound") = Some(conn.handle());
                return Action::Continue;
            }
            conn.send(reflection(&request)).into()
        })
    });
    let client = Client::to(&running);
    client.send(["GET /first HTTP/1.1\r\nHost: a\r\n\r\n", EXPECTING].concat());
    eventually("the first is handled", || {
        FIRST.lock().expect("is sound").is_some()
    });
    let handle = FIRST.lock().expect("is sound").take().expect("is there");
    // In the same turn as this, at the earliest.
    handle
        .send(ServerResponse::ok().body("first"))
        .expect("is open");
    let mut answers = answers(&client);
    assert_eq!(answers.get().text(), "first");
    assert_eq!(answers.get().status, 100);
    client.send("hello");
    assert_eq!(answers.get().text(), "POST /up\nhello");
    assert_eq!(log.frames(), 2);
}

#[test]
fn other_expectations_are_refused() {
    let (running, _) = start(local(), Site::mirror);
    let client = Client::to(&running);
    client.send(EXPECTING.replace("100-continue", "a-miracle"));
    let mut answers = answers(&client);
    assert_eq!(answers.get().status, 417);
    answers.expect_end();
}

#[test]
fn what_has_no_body_is_sent_without() {
    let (running, _) = start(local(), || {
        Site::of(|conn, _, request| {
            let answer = match request.path() {
                "/204" => ServerResponse::new(StatusCode::NO_CONTENT),
                "/304" => ServerResponse::new(StatusCode::NOT_MODIFIED).header("ETag", "\"a\""),
                // One handler knows of the HEAD, the other does not.
                "/sized" => {
                    let sent = conn.send(ServerResponse::ok().sized(1 << 40));
                    return sent.and_then(|()| conn.send(End)).into();
                }
                "/streamed" => {
                    let sent = conn.send(ServerResponse::ok().streamed());
                    let sent = sent.and_then(|()| conn.send(Chunk(b"unseen")));
                    return sent.and_then(|()| conn.send(End)).into();
                }
                "/empty" => ServerResponse::ok(),
                _ => ServerResponse::ok().body("hello"),
            };
            conn.send(answer).into()
        })
    });
    let client = Client::to(&running);
    let mut answers = answers(&client);
    let mut ask = |method: &str, path: &str| {
        client.send(format!("{method} {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        answers.next(method).expect("an answer")
    };
    assert_eq!(ask("GET", "/204").status, 204);
    assert_eq!(ask("GET", "/304").header("etag"), Some("\"a\""));
    assert_eq!(ask("HEAD", "/hello").header("content-length"), Some("5"));
    assert_eq!(
        ask("HEAD", "/sized").header("content-length"),
        Some("1099511627776")
    );
    assert_eq!(
        ask("HEAD", "/streamed").header("transfer-encoding"),
        Some("chunked")
    );
    assert_eq!(ask("HEAD", "/204").status, 204);
    assert_eq!(ask("GET", "/empty").header("content-length"), Some("0"));
    assert_eq!(ask("GET", "/hello").text(), "hello");
}

#[test]
fn http_1_0_keeps_alive_only_when_asked() {
    let (running, log) = start(local(), || {
        Site::of(|conn, _, request| {
            if request.path() != "/streamed" {
                return conn.send(reflection(&request)).into();
            }
            conn.send(ServerResponse::ok().streamed())
                .expect("is taken");
            conn.send(Chunk(b"hello, ")).expect("is taken");
            conn.send(Chunk(b"world")).expect("is taken");
            conn.send(End).into()
        })
    });
    let client = Client::to(&running);
    client.send("GET /1 HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\nGET /2 HTTP/1.0\r\n\r\nGET /3 HTTP/1.0\r\n\r\n");
    let mut first = answers(&client);
    let answer = first.get();
    assert_eq!(
        (answer.text(), answer.header("connection")),
        ("GET /1\n", Some("keep-alive"))
    );
    let answer = first.get();
    assert_eq!(
        (answer.text(), answer.header("connection")),
        ("GET /2\n", Some("close"))
    );
    first.expect_end();
    assert_eq!(log.frames(), 2);

    // It knows no chunks: the body ends with the connection.
    let client = Client::to(&running);
    client.send("GET /streamed HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    let mut answers = answers(&client);
    let answer = answers.get();
    assert_eq!(
        (answer.text(), answer.header("connection")),
        ("hello, world", Some("close"))
    );
    assert_eq!(answer.header("transfer-encoding"), None);
    answers.expect_end();
}

#[test]
fn bodies_are_taken_up_to_the_limit() {
    let limits = Limits::default().max_body(1000);
    let (running, log) = start(local(), move || {
        Site::new(
            move || HttpCodec::new(limits),
            |conn, _, request| conn.send(reflection(&request)).into(),
        )
    });
    let body = "x".repeat(1001);
    let (most, more) = (&body[..1000], &body[..]);
    let head = "POST / HTTP/1.1\r\nHost: a\r\n";
    let sized = |body: &str| format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
    let chunked = |body: &str| {
        let (a, b) = body.split_at(500);
        let (a_len, b_len) = (a.len(), b.len());
        format!(
            "{head}Transfer-Encoding: chunked\r\n\r\n{a_len:x}\r\n{a}\r\n{b_len:x}\r\n{b}\r\n0\r\n\r\n"
        )
    };
    for taken in [sized(most), chunked(most)] {
        let client = Client::to(&running);
        client.send(taken);
        assert_eq!(answers(&client).get().body.len(), "POST /\n".len() + 1000);
    }
    let frames = log.frames();
    let announced = format!("{head}Expect: 100-continue\r\nContent-Length: 1001\r\n\r\n");
    let huge = format!("{head}Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n");
    for refused in [sized(more), chunked(more), announced, huge] {
        let client = Client::to(&running);
        client.send(&refused);
        let mut answers = answers(&client);
        let answer = answers.get();
        assert_eq!(
            (answer.status, answer.header("connection")),
            (413, Some("close")),
            "{refused:.100}"
        );
        answers.expect_end();
    }
    assert_eq!(log.frames(), frames);
}

#[test]
fn a_body_beyond_the_engines_own_limit_is_413_as_well() {
    let limits = Limits::default().max_body(1 << 40);
    let server = local().max_frame(64 << 10);
    let (running, log) = start(server, move || {
        Site::new(
            move || HttpCodec::new(limits),
            |_, _, _| panic!("nothing is complete"),
        )
    });
    let head = "POST / HTTP/1.1\r\nHost: a\r\n";
    let client = Client::to(&running);
    client.send(format!("{head}Content-Length: 65536\r\n\r\n"));
    let mut of_sized = answers(&client);
    assert_eq!(of_sized.get().status, 413);
    of_sized.expect_end();

    let client = Client::to(&running);
    client.send(format!("{head}Transfer-Encoding: chunked\r\n\r\n"));
    let chunk = format!("{:x}\r\n{}\r\n", 1000, "x".repeat(1000));
    for _ in 0..70 {
        client.send(&chunk);
    }
    let mut of_chunked = answers(&client);
    assert_eq!(of_chunked.get().status, 413);
    of_chunked.expect_end();
    assert_eq!(log.frames(), 0);
}

#[test]
fn a_panic_before_the_answer_is_answered_500() {
    expect_panics();
    let (running, log) = start(local(), || {
        Site::of(|conn, _, request| match request.path() {
            "/before" => panic!("on purpose"),
            "/within" => {
                conn.send(ServerResponse::ok().streamed())
                    .expect("is taken");
                conn.send(Chunk(b"hello")).expect("is taken");
                panic!("on purpose");
            }
            "/after" => {
                conn.send(reflection(&request)).expect("is taken");
                panic!("on purpose");
            }
            _ => conn.send(reflection(&request)).into(),
        })
    });
    let ask = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
    for (n, path) in ["/before", "/within", "/after"].into_iter().enumerate() {
        let client = Client::to(&running);
        client.send([ask("/well"), ask(path), ask("/never")].concat());
        let mut answers = answers(&client);
        assert_eq!(answers.get().text(), "GET /well\n");
        let received = answers.rest();
        let text = String::from_utf8(received).expect("is text");
        let status = if path == "/before" {
            "HTTP/1.1 500 "
        } else {
            "HTTP/1.1 200 "
        };
        assert!(text.starts_with(status), "{path}: {text}");
        assert_eq!(text.matches("HTTP/1.1").count(), 1, "{path}: {text}");
        // What is cut short does not look complete.
        assert!(!text.contains("0\r\n\r\n"), "{path}: {text}");
        drop(client);
        let (_, reason) = log.await_end(n);
        assert!(matches!(*reason, CloseReason::Panic), "{path}: {reason}");
    }
}

#[test]
fn a_shutdown_waits_for_an_answer_that_is_owed() {
    let (running, log) = start(local(), || {
        Site::of(|conn, _, request| {
            let (handle, answer) = (conn.handle(), reflection(&request));
            let engine = conn.engine().clone();
            thread::spawn(move || {
                engine.shutdown();
                thread::sleep(Duration::from_millis(300));
                handle.send(answer)
            });
            Action::Continue
        })
    });
    let (idle, partial) = (Client::to(&running), Client::to(&running));
    partial.send("GET /partial HTTP/1.1\r\n");
    eventually("a part is there", || {
        running.engine().stats().total().bytes_in > 0
    });
    let client = Client::to(&running);
    client.send("GET /owed HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut of_owed = answers(&client);
    let owed = of_owed.get();
    assert_eq!(owed.text(), "GET /owed\n");
    assert_eq!(owed.header("Connection"), Some("close"));
    of_owed.expect_end();
    answers(&idle).expect_end();
    let mut of_partial = answers(&partial);
    assert_eq!(of_partial.get().status, 503);
    of_partial.expect_end();
    drop((client, idle, partial));
    let report = running.join();
    assert_eq!((report.drained, report.forced), (3, 0));
    let (_, reason) = log.await_end(2);
    assert!(matches!(*reason, CloseReason::Shutdown), "{reason}");
}

#[test]
fn a_client_that_leaves_while_its_answer_is_owed_costs_nothing_more() {
    let (running, log) = start(local(), || Site::of(|_, _, _| Action::Continue));
    let client = Client::to(&running);
    client.send("GET /never HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("it is handled", || log.frames() == 1);
    client.reset();
    let (_, reason) = log.await_end(0);
    assert!(matches!(*reason, CloseReason::Reset(_)), "{reason}");
    drop(running);
}

#[test]
fn an_answer_that_closes_is_whole_however_slowly_it_is_read() {
    const LEN: usize = 1 << 20;
    let server = local()
        .drain_deadline(Duration::from_millis(1500))
        .send_buffer(16 << 10);
    let (running, _) = start(server, || {
        Site::of(|conn, _, _| {
            conn.send(ServerResponse::ok().shared_body(noise(1, LEN)))
                .into()
        })
    });
    thread::scope(|scope| {
        // The client's wish, and the end of its stream, are the reasons to close.
        for (header, ends) in [("Connection: close\r\n", false), ("", true)] {
            let client = Client::with_small_window(&running);
            scope.spawn(move || {
                client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{header}\r\n"));
                if ends {
                    client.end_writes();
                }
                let mut received = Vec::new();
                for _ in 0..15 {
                    thread::sleep(Duration::from_millis(200));
                    received.extend(client.recv(LEN / 16));
                }
                received.extend(client.recv_to_end());
                assert!(received.ends_with(&noise(1, LEN)), "{header}");
            });
        }
    });
}
