//! The cases of `cases.json`: requests that are right, wrong and ambiguous, with the answers due to them.

use std::io::{self, ErrorKind};
use std::time::Duration;

use serde_json::Value;

use crate::site::{Log, Site, start};
use crate::util::app::local;
use crate::util::client::Client;
use crate::util::eventually;
use crate::wire::answers;
use epicycle::Running;

struct Case {
    name: String,
    request: Vec<u8>,
    /// Lists of statuses in order, one of which has to come; or `wait`, nothing yet; or `close`, nothing but the end.
    expect: Vec<String>,
    /// Whether the server has to close after its last answer.
    close: bool,
}

fn cases() -> Vec<Case> {
    let cases: Value = serde_json::from_str(include_str!("cases.json")).expect("is JSON");
    let cases = cases.as_array().expect("is a list");
    assert_eq!(cases.len(), 66);
    cases.iter().map(case).collect()
}

fn case(case: &Value) -> Case {
    let text = |value: &Value| value.as_str().expect("is text").to_owned();
    let mut request = text(&case["request"]);
    if let Value::Array(generated) = &case["gen"] {
        let times = generated[2].as_u64().expect("is a number") as usize;
        request = request.replace(&text(&generated[0]), &text(&generated[1]).repeat(times));
    }
    Case {
        name: text(&case["name"]),
        request: request.chars().map(|char| char as u8).collect(),
        expect: text(&case["expect"])
            .split('|')
            .map(str::to_owned)
            .collect(),
        close: case["close"] == true,
    }
}

#[test]
fn every_case_is_answered_as_it_should_be() {
    let (running, log) = start(local(), Site::mirror);
    for (n, case) in cases().iter().filter(|case| !is_upgrade(case)).enumerate() {
        let client = Client::to(&running);
        client.send(&case.request);
        judge(case, &client, &running, &log, n, "in one piece");
    }
}

/// How many places of a request are tried, if it is a long one.
const PLACES: usize = 60;

#[test]
fn every_case_is_answered_the_same_wherever_it_is_split() {
    for case in cases().iter().filter(|case| !is_upgrade(case)) {
        let (running, log) = start(local(), Site::mirror);
        let len = case.request.len();
        // A long one where its beginning and its end are, and here and there.
        let is_tried = |at: &usize| {
            len < 512 || *at < PLACES || len - at < 10 || at.is_multiple_of(len / PLACES)
        };
        let places: Vec<usize> = (1..len).filter(is_tried).collect();
        // All at once: what one waits for, the others do not have to.
        let clients: Vec<_> = places.iter().map(|_| Client::to(&running)).collect();
        for (at, client) in places.iter().zip(&clients) {
            client.send(&case.request[..*at]);
        }
        let sent: usize = places.iter().sum();
        eventually("the first parts have been read", || {
            running.engine().stats().total().bytes_in == sent as u64
        });
        for (at, client) in places.iter().zip(&clients) {
            client.send(&case.request[*at..]);
        }
        let all = len * places.len();
        eventually("the second parts have been read", || {
            running.engine().stats().total().bytes_in == all as u64
        });
        for (n, (at, client)) in places.iter().zip(&clients).enumerate() {
            judge(case, client, &running, &log, n, &format!("split at {at}"));
        }
    }
}

/// Whether it asks for WebSocket, of which this server knows nothing.
fn is_upgrade(case: &Case) -> bool {
    case.name.starts_with("ws_")
}

/// Compares what comes with what is expected, and nothing more may come when this side ends.
fn judge(
    case: &Case,
    client: &Client,
    running: &Running<Site>,
    log: &Log,
    before: usize,
    how: &str,
) {
    let name = &case.name;
    if case.expect.iter().any(|expect| expect == "wait") {
        expect_silence(client, name);
        assert_eq!(log.ended(), before, "{name}, {how}: closed");
    }
    let mut answers = answers(client);
    let mut got = Vec::new();
    let mut ended = false;
    while !is_decided(case, &got) {
        match answers.next("GET") {
            Some(answer) => got.push(answer.status.to_string()),
            None => {
                ended = true;
                break;
            }
        }
    }
    if case.close && !ended {
        // By itself, without this side's end.
        answers.expect_end();
    }
    let _ = client.0.shutdown(std::net::Shutdown::Write);
    if !ended {
        answers.expect_end();
    }
    let got = match got.join(",") {
        none if none.is_empty() && ended => "close".to_owned(),
        none if none.is_empty() => "wait".to_owned(),
        statuses => statuses,
    };
    assert!(
        case.expect.contains(&got),
        "{name}, {how}: {got} came, not {:?}",
        case.expect
    );
    eventually("the connection is closed", || log.ended() == before + 1);
    assert!(running.engine().stats().total().panics == 0, "{name}");
}

/// Whether what has come is all that can be expected.
fn is_decided(case: &Case, got: &[String]) -> bool {
    let got = got.join(",");
    let longer = format!("{got},");
    let may_go_on = |expect: &String| match got.as_str() {
        "" => expect != "wait",
        _ => expect.starts_with(&longer),
    };
    !case.expect.iter().any(may_go_on)
}

fn expect_silence(client: &Client, name: &str) {
    let timeout = client.0.read_timeout().expect("has one");
    let briefly = Duration::from_millis(20);
    client.0.set_read_timeout(Some(briefly)).expect("is set");
    let peeked: io::Result<usize> = client.0.peek(&mut [std::mem::MaybeUninit::uninit(); 64]);
    let is_silent = peeked
        .as_ref()
        .is_err_and(|error| matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut));
    assert!(is_silent, "{name}: {peeked:?}");
    client.0.set_read_timeout(timeout).expect("is set");
}
