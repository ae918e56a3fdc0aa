//! Bodies that a handler receives in parts.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use epicycle::codec::{Codec, Decoded};
use epicycle::http::{
    Chunk, Continue, End, HttpCodec, HttpStreamCodec, Limits, RequestPart, ServerResponse,
    StatusCode,
};
use epicycle::{Action, Conn};

use crate::site::{Session, Site, start};
use crate::util::app::local;
use crate::util::client::Client;
use crate::util::{LONG, eventually, noise};
use crate::wire::answers;

type Parts = Site<HttpStreamCodec>;

/// Sends each body back in parts while it still comes.
fn echo() -> Parts {
    Site::new(HttpStreamCodec::default, |conn, session, part| {
        let sent = match part {
            RequestPart::Head(request) => {
                session.count = 0;
                conn.send(
                    ServerResponse::ok()
                        .streamed()
                        .header("X-Path", request.path()),
                )
            }
            RequestPart::Body(bytes) => {
                session.count += bytes.len();
                conn.send(Chunk(bytes))
            }
            RequestPart::End(trailers) => {
                let note = trailers.get("x-note").unwrap_or(b"");
                conn.send(Chunk(note)).and_then(|()| conn.send(End))
            }
            _ => Ok(()),
        };
        sent.into()
    })
}

#[test]
fn parts_are_answered_while_the_rest_still_comes() {
    let (running, _) = start(local(), echo);
    let client = Client::to(&running);
    client.send("POST /up HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
    // The answer has begun, and has the first part in it.
    let mut begun = Vec::new();
    while !begun.ends_with(b"5\r\nhello\r\n") {
        begun.extend(client.recv(1));
    }
    client.send("7\r\n, world\r\n0\r\nX-Note: !\r\n\r\n");
    let rest = client.recv("7\r\n, world\r\n1\r\n!\r\n0\r\n\r\n".len());
    assert_eq!(rest, b"7\r\n, world\r\n1\r\n!\r\n0\r\n\r\n");
}

#[test]
fn a_shutdown_waits_for_a_body_whose_request_the_handler_has() {
    let take = || {
        Site::new(HttpStreamCodec::default, |conn, _, part| match part {
            RequestPart::End(_) => conn.send(ServerResponse::ok().body(b"thanks")).into(),
            _ => Action::Continue,
        })
    };
    let (running, log) = start(local().drain_deadline(2 * LONG), take);
    let (known, unknown) = (Client::to(&running), Client::to(&running));
    known.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello");
    unknown.send("POST / HTTP/1.1\r\nHo");
    eventually("the handler has the first", || log.frames() == 2);
    let read = || running.engine().stats().total().bytes_in;
    eventually("the second has begun", || read() > 70);
    running.engine().shutdown();
    let mut of_unknown = answers(&unknown);
    assert_eq!(of_unknown.get().status, 503);
    of_unknown.expect_end();
    drop(unknown);
    known.send("world");
    let mut answers = answers(&known);
    let answer = answers.get();
    assert_eq!(answer.text(), "thanks");
    assert_eq!(answer.header("connection"), Some("close"));
    answers.expect_end();
    drop(known);
    let report = running.join();
    assert_eq!((report.drained, report.forced), (2, 0));
}

#[test]
fn a_body_larger_than_any_buffer_goes_there_and_back() {
    const LEN: usize = 32 << 20;
    let (running, _) = start(local().max_frame(64 << 10), echo);
    let client = Client::to(&running);
    let body = noise(3, LEN);
    let mut answers = answers(&client);
    for chunked in [false, true] {
        thread::scope(|scope| {
            scope.spawn(|| {
                let head = "POST /large HTTP/1.1\r\nHost: a\r\n";
                if !chunked {
                    client.send(format!("{head}Content-Length: {LEN}\r\n\r\n"));
                    return client.send(&body);
                }
                client.send(format!("{head}Transfer-Encoding: chunked\r\n\r\n"));
                for part in body.chunks(100_000) {
                    client.send(format!("{:x}\r\n", part.len()));
                    client.send(part);
                    client.send("\r\n");
                }
                client.send("0\r\n\r\n");
            });
            let answer = answers.get();
            assert!(answer.body == body, "chunked: {chunked}");
        });
    }
}

#[test]
fn requests_in_parts_are_pipelined_as_others_are() {
    let (running, log) = start(local(), echo);
    let client = Client::to(&running);
    let requests = (0..1000).map(|n| match n % 3 {
        0 => format!("GET /{n} HTTP/1.1\r\nHost: a\r\n\r\n"),
        1 => format!("PUT /{n} HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"),
        _ => format!("PUT /{n} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n2\r\nbc\r\n0\r\n\r\n"),
    });
    client.send(requests.collect::<String>());
    let mut answers = answers(&client);
    for n in 0..1000 {
        let answer = answers.get();
        assert_eq!(answer.header("x-path"), Some(&*format!("/{n}")));
        assert_eq!(answer.text(), if n % 3 == 0 { "" } else { "abc" });
    }
    assert_eq!(log.ended(), 0);
}

#[test]
fn an_answer_before_the_end_of_an_upload_ends_the_connection() {
    let (running, log) = start(local(), || {
        Site::new(HttpStreamCodec::default, |conn, _, part| match part {
            RequestPart::Head(_) => {
                let answer = ServerResponse::text(StatusCode::FORBIDDEN, "no");
                conn.send(answer).into()
            }
            RequestPart::Body(_) => panic!("what is of no use is not handed out"),
            _ => Action::Continue,
        })
    });
    let client = Client::to(&running);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10000000\r\n\r\n");
    // What the client still sends must not cost it the answer.
    for _ in 0..100 {
        if (&client.0).write_all(&[b'x'; 10_000]).is_err() {
            break;
        }
    }
    let mut of_refused = answers(&client);
    let answer = of_refused.get();
    assert_eq!(
        (answer.status, answer.header("connection")),
        (403, Some("close"))
    );
    of_refused.expect_end();
    drop(client);
    log.await_end(0);

    // One that is complete, or has no body, is nothing of the kind.
    let client = Client::to(&running);
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut answers = answers(&client);
    assert_eq!(answers.get().status, 403);
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(answers.get().status, 403);
    assert_eq!(running.engine().stats().total().panics, 0);
}

const EXPECTING: &str =
    "POST /up HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";

/// Answers at the end.
fn at_the_end(conn: &mut Conn<'_, Parts>, session: &mut Session, part: RequestPart<'_>) -> Action {
    match part {
        RequestPart::Body(bytes) => session.count += bytes.len(),
        RequestPart::End(_) => {
            let body = session.count.to_string();
            return conn.send(ServerResponse::ok().body(&body)).into();
        }
        _ => {}
    }
    Action::Continue
}

#[test]
fn a_client_is_told_to_go_on_behind_the_head() {
    let (running, _) = start(local(), || Site::new(HttpStreamCodec::default, at_the_end));
    let client = Client::to(&running);
    client.send(EXPECTING);
    let mut answers = answers(&client);
    assert_eq!(answers.get().status, 100);
    client.send("hello");
    assert_eq!(answers.get().text(), "5");
}

#[test]
fn a_handler_may_decide_itself_whether_a_client_goes_on() {
    let (running, _) = start(local(), || {
        let codec = || HttpStreamCodec::default().manual_continue();
        Site::new(codec, |conn, session, part| match part {
            RequestPart::Head(request) if request.path() == "/refused" => conn
                .send(ServerResponse::new(StatusCode::PAYLOAD_TOO_LARGE))
                .into(),
            RequestPart::Head(request) => {
                assert!(request.expects_continue());
                let handle = conn.handle();
                thread::spawn(move || {
                    thread::sleep(Duration::from_millis(20));
                    handle.send(Continue)
                });
                Action::Continue
            }
            part => at_the_end(conn, session, part),
        })
    });
    let client = Client::to(&running);
    client.send(EXPECTING);
    let mut of_taken = answers(&client);
    assert_eq!(of_taken.get().status, 100);
    client.send("hello");
    assert_eq!(of_taken.get().text(), "5");

    client.send(EXPECTING.replace("/up", "/refused"));
    let answer = of_taken.get();
    assert_eq!(
        (answer.status, answer.header("connection")),
        (413, Some("close"))
    );
    of_taken.expect_end();
}

#[test]
fn an_upload_that_stalls_is_answered_408_and_one_that_goes_on_is_not() {
    let brief = Duration::from_millis(600);
    let (running, log) = start(local().read_timeout(brief), || {
        Site::new(HttpStreamCodec::default, at_the_end)
    });
    let (slow, stalled) = (Client::to(&running), Client::to(&running));
    let head = "POST /up HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n";
    stalled.send([head, "hello"].concat());
    slow.send(head);
    for _ in 0..10 {
        thread::sleep(brief / 8);
        slow.send("x");
    }
    assert_eq!(answers(&slow).get().text(), "10");
    let mut answers = answers(&stalled);
    assert_eq!(answers.get().status, 408);
    answers.expect_end();
    drop(stalled);
    log.await_end(0);
}

#[test]
fn a_handler_that_takes_no_more_slows_the_client_down() {
    const LEN: usize = 64 << 20;
    const PAUSE_AT: usize = 1 << 20;
    let paused_with = Arc::<AtomicUsize>::default();
    let for_site = paused_with.clone();
    let server = local().read_timeout(Duration::from_millis(1000));
    let (running, log) = start(server, move || {
        let paused_with = for_site.clone();
        Site::new(HttpStreamCodec::default, move |conn, session, part| {
            let before = session.count;
            let action = at_the_end(conn, session, part);
            if (before..session.count).contains(&PAUSE_AT) {
                conn.pause_reads();
                let (handle, paused_with) = (conn.handle(), paused_with.clone());
                thread::spawn(move || {
                    // Longer than the read timeout: that the server does not read is no fault of the client's.
                    thread::sleep(Duration::from_millis(1500));
                    handle.run(move |_, conn, session| {
                        paused_with.store(session.count, Ordering::Relaxed);
                        conn.resume_reads();
                    })
                });
            }
            action
        })
    });
    let client = Client::to(&running);
    let body = vec![b'x'; LEN];
    thread::scope(|scope| {
        scope.spawn(|| {
            client.send(format!(
                "POST /up HTTP/1.1\r\nHost: a\r\nContent-Length: {LEN}\r\n\r\n"
            ));
            client.send(&body);
        });
        assert_eq!(answers(&client).get().text(), LEN.to_string());
    });
    let paused_with = paused_with.load(Ordering::Relaxed);
    assert!(
        paused_with < 2 * PAUSE_AT,
        "{paused_with} bytes were taken in the pause"
    );
    assert_eq!(log.ended(), 0);
}

#[test]
fn a_limit_on_bodies_holds_for_parts_as_well() {
    let limits = Limits::default().max_body(1000);
    let (running, _) = start(local(), move || {
        Site::new(move || HttpStreamCodec::new(limits), at_the_end)
    });
    let head = "POST / HTTP/1.1\r\nHost: a\r\n";
    let chunk = format!("{:x}\r\n{}\r\n", 501, "x".repeat(501));
    for request in [
        format!("{head}Content-Length: 1001\r\n\r\n"),
        format!("{head}Transfer-Encoding: chunked\r\n\r\n{chunk}{chunk}"),
    ] {
        let client = Client::to(&running);
        client.send(request);
        let mut answers = answers(&client);
        assert_eq!(answers.get().status, 413);
        answers.expect_end();
    }
}

#[test]
fn what_becomes_faulty_within_a_body_is_answered_400() {
    let (running, _) = start(local(), || Site::new(HttpStreamCodec::default, at_the_end));
    let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello";
    for rest in [
        "XX",
        "\r\nz\r\n",
        "\r\n0\r\nBad Name: 1\r\n\r\n",
        "\n0\r\n\r\n",
    ] {
        let client = Client::to(&running);
        client.send([head, rest].concat());
        let mut answers = answers(&client);
        assert_eq!(answers.get().status, 400, "{rest:?}");
        answers.expect_end();
    }
}

#[test]
fn who_takes_over_at_the_head_gets_what_is_behind_it() {
    let (tell, told) = mpsc::channel();
    let (running, _) = start(local(), move || {
        let tell = tell.clone();
        Site::new(HttpStreamCodec::default, move |conn, _, part| {
            let RequestPart::Head(_) = part else {
                panic!("nothing else is handed out: {part:?}");
            };
            conn.send(ServerResponse::upgrade("other"))
                .expect("is owed");
            let tell = tell.clone();
            let left = conn.detach(move |detached| {
                let _ = tell.send(detached.unread);
            });
            left.expect("is plain");
            Action::Continue
        })
    });
    let head = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n";
    for behind in ["", "hello"] {
        let client = Client::to(&running);
        client.send(format!("{head}{behind}"));
        let unread = told.recv_timeout(LONG).expect("is detached");
        assert_eq!(unread.escape_ascii().to_string(), behind);
    }
}

#[test]
fn a_chunk_of_any_size_is_no_more_than_too_long() {
    for size in [u64::MAX, u64::MAX - 1, 1 << 63] {
        let mut codec = HttpCodec::new(Limits::default().max_body(u64::MAX));
        let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        let mut input = format!("{head}{size:x}\r\n").into_bytes();
        match codec.decode(&mut input).expect("may go on") {
            Decoded::NeedMore { at_least } => assert!(at_least > 1 << 60, "{at_least}"),
            other => panic!("{other:?}"),
        }
    }
}
