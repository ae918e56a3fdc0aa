//! The cases of `cases.json`: valid, malformed and ambiguous requests, with their expected answers.

use std::io::{self, ErrorKind};
use std::time::Duration;

use epicycle::Running;
use epicycle::codec::Codec;
use serde_json::Value;

#[cfg(feature = "ws")]
use crate::site::reflection;
use crate::site::{Site, start};
use crate::util::app::local;
use crate::util::client::Client;
use crate::util::eventually;
use crate::wire::answers;

pub(crate) struct Case {
    name: String,
    pub(crate) request: Vec<u8>,
    /// Lists of statuses in order, one of which has to come; or `wait`, nothing yet; or `close`, nothing but the end.
    expect: Vec<String>,
    /// Whether the server has to close after its last answer.
    close: bool,
}

pub(crate) fn cases() -> Vec<Case> {
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

/// How many places of a request are tried, if it is a long one.
const PLACES: usize = 60;

#[test]
fn every_case_is_answered_as_it_should_be() {
    for case in cases().iter().filter(|case| !case.is_upgrade()) {
        try_out(case, Site::mirror);
    }
}

/// The same of a server that can also do what the cases for WebSocket ask for.
#[cfg(feature = "ws")]
#[test]
fn every_case_is_answered_as_it_should_be_where_there_is_websocket_too() {
    use epicycle::Action;
    use epicycle::ws::{Incoming, ServerCodec, accept};

    for case in &cases() {
        try_out(case, || {
            Site::new(ServerCodec::default, |conn, _, frame| match frame {
                Incoming::Request(request) if request.path() == "/ws" => {
                    conn.send(accept(&request)).into()
                }
                Incoming::Request(request) => conn.send(reflection(&request)).into(),
                _ => Action::Continue,
            })
        });
    }
}

/// Sends a case in one piece, and split at every place, or many if it is a long one.
fn try_out<C: Codec>(case: &Case, site: impl Fn() -> Site<C> + Send + Sync + 'static) {
    let (running, log) = start(local(), site);
    let len = case.request.len();
    // A long one where its beginning and its end are, and here and there.
    let is_tried =
        |at: &usize| len < 512 || *at < PLACES || len - at < 10 || at.is_multiple_of(len / PLACES);
    let places: Vec<usize> = (1..=len).filter(is_tried).collect();
    // All at once: what one waits for, the others do not have to.
    let clients: Vec<_> = places.iter().map(|_| Client::to(&running)).collect();
    for (at, client) in places.iter().zip(&clients) {
        client.send(&case.request[..*at]);
    }
    await_input(&running, places.iter().sum());
    for (at, client) in places.iter().zip(&clients) {
        client.send(&case.request[*at..]);
    }
    await_input(&running, len * places.len());
    assert_eq!(running.engine().stats().total().panics, 0, "{}", case.name);
    if case.expects("wait") {
        assert_eq!(log.ended(), 0, "{}: closed", case.name);
    }
    for (at, client) in places.iter().zip(&clients) {
        judge(case, client, *at);
    }
}

fn await_input<C: Codec>(running: &Running<Site<C>>, bytes: usize) {
    eventually("all that was sent has been read", || {
        running.engine().stats().total().bytes_in == bytes as u64
    });
}

impl Case {
    /// Whether it asks for WebSocket, which not every server knows of.
    fn is_upgrade(&self) -> bool {
        self.name.starts_with("ws_")
    }

    fn expects(&self, what: &str) -> bool {
        self.expect.iter().any(|expect| expect == what)
    }
}

/// Compares what comes with what is expected; nothing more may come when this side ends.
fn judge(case: &Case, client: &Client, at: usize) {
    let name = &case.name;
    if case.expects("wait") {
        expect_silence(client, name);
    }
    let mut answers = answers(client);
    let mut got: Vec<String> = Vec::new();
    let mut ended = false;
    while !ended && !is_decided(case, &got) {
        match answers.next("GET") {
            Some(answer) => got.push(answer.status.to_string()),
            None => ended = true,
        }
    }
    if case.close {
        // By itself, without this side's end.
        answers.expect_end();
    }
    if got.last().is_none_or(|status| status != "101") {
        client.end_writes();
        answers.expect_end();
    }
    let got = match got.join(",") {
        none if none.is_empty() && ended => "close".to_owned(),
        none if none.is_empty() => "wait".to_owned(),
        statuses => statuses,
    };
    assert!(
        case.expects(&got),
        "{name}, split at {at}: {got} came, not {:?}",
        case.expect
    );
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
