//! Answers that cannot be given: the client gets an error in their place, and the log says why.

use epicycle::http::{End, Response, StatusCode};
use epicycle::{Action, CloseReason, WriteError};
use log::Level;

use crate::site::{Site, start};
use crate::util::app::local;
use crate::util::client::Client;
use crate::util::eventually;
use crate::util::logs::logs;
use crate::wire::answers;

/// Answers that no client may be sent, by their paths, and what their errors mention.
const REFUSED: [(&str, &str); 3] = [
    ("/header", "X-Broken"),
    ("/length", "Content-Length"),
    ("/body", "204"),
];

fn refused(path: &str) -> Response<'static> {
    match path {
        "/header" => Response::ok().header("X-Broken", "a\nb"),
        "/length" => Response::ok().header("Content-Length", "1").body(b"x"),
        "/body" => Response::new(StatusCode::NO_CONTENT).body(b"x"),
        _ => Response::ok(),
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
            conn.send(Response::ok().sized(10)).expect("is taken");
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
    assert!(error.to_string().contains("10 are left"), "{error}");
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
            .send(Response::ok())
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
