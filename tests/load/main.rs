//! The command `epicycle load`: its counts, against servers of this crate that behave well or badly.
#![cfg(feature = "cli")]

mod servers;
#[path = "../util/mod.rs"]
mod util;

use std::fs;
use std::net::TcpListener;
use std::process::{Command, Output};
use std::time::Duration;

use epicycle::EventHandler;
use serde_json::Value;

use self::servers::{Framed, Target, Transport, Web, Ws, echo, stalling};
use self::util::client::TempPath;

const TRANSPORTS: [Transport; 3] = [Transport::Tcp, Transport::Tls, Transport::Unix];

fn load(args: &[String], more: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_epicycle"))
        .arg("load")
        .args(args)
        .args(more.split_whitespace())
        .output()
        .expect("starts")
}

/// Loads a server. Returns the report, and true if the command succeeded.
fn report(args: &[String], more: &str) -> (Value, bool) {
    let output = load(args, &format!("--json {more}"));
    let report = serde_json::from_slice(&output.stdout);
    let report = report.unwrap_or_else(|error| panic!("{error} in {output:?}"));
    (report, output.status.success())
}

fn number(report: &Value, path: &str) -> u64 {
    let value = report.pointer(path).and_then(Value::as_u64);
    value.unwrap_or_else(|| panic!("no number at {path} in {report:#}"))
}

/// Returns the number of errors whose text contains `what`.
fn errors(report: &Value, what: &str) -> u64 {
    let errors = report["errors"].as_object().expect("are listed");
    let fitting = errors.iter().filter(|(name, _)| name.contains(what));
    fitting.filter_map(|(_, count)| count.as_u64()).sum()
}

/// Runs both kinds of loop over each transport.
fn is_measured<H: EventHandler>(protocol: &str, start: impl Fn(Transport) -> Target<H>) {
    for transport in TRANSPORTS {
        let target = start(transport);
        let args = target.args(protocol);
        let closed =
            "--duration 200ms --warm-up 0s --connections 5 --reactors 2 --pipeline 3 --size 1000";
        let (report, is_well) = report(&args, closed);
        assert!(is_well, "{protocol} over {transport:?}: {report:#}");
        assert!(number(&report, "/requests/answered") >= 15, "{report:#}");
        assert_eq!(number(&report, "/requests/failed"), 0, "{report:#}");
        assert_eq!(number(&report, "/connections_made"), 5, "{report:#}");

        let open = "--duration 200ms --warm-up 100ms --rate 1000 --reactors 2 --connections 20 --max-errors 200";
        let (report, is_well) = self::report(&args, open);
        assert!(is_well, "{protocol} over {transport:?}: {report:#}");
        // On a busy machine a few requests may find no free connection at the end, but the report must count them.
        let answered = number(&report, "/requests/answered");
        let unsent = errors(&report, "never sent");
        assert_eq!(answered + unsent, 200, "{report:#}");
        assert_eq!(number(&report, "/requests/failed"), unsent, "{report:#}");
    }
}

#[test]
fn echoes_are_measured_over_each_transport() {
    is_measured("echo", echo);
}

#[test]
fn frames_are_measured_over_each_transport() {
    is_measured("length-field", |transport| {
        Target::start(transport, |_| Framed)
    });
}

#[test]
fn http_is_measured_over_each_transport() {
    is_measured("http", |transport| Target::start(transport, |_| Web));
}

#[test]
fn websockets_are_measured_over_each_transport() {
    is_measured("ws", |transport| Target::start(transport, |_| Ws));
}

#[test]
fn a_stall_shows_in_an_open_loop_and_hardly_in_a_closed_one() {
    let slow = |flags: &str| {
        let target = stalling(Duration::from_secs(1));
        let flags = format!("--duration 3s --warm-up 0s --connections 4 --max-errors 500 {flags}");
        let (report, is_well) = report(&target.args("echo"), &flags);
        assert!(is_well, "{report:#}");
        number(&report, "/slower_than/100ms")
    };
    let (open, closed) = (slow("--rate 1000"), slow(""));
    // A thousand requests were due while the server slept, all but the last hundred more than 100 ms before its end.
    assert!(open >= 850, "{open} of them were slow");
    // Each connection had one request under way.
    assert!((1..100).contains(&closed), "{closed} of them were slow");
}

#[test]
fn other_statuses_than_2xx_are_errors() {
    let target = Target::start(Transport::Tcp, |_| Web);
    let mut args = target.args("http");
    args[0] += "/busy";
    let flags = "--duration 100ms --warm-up 0s --rate 500";
    let (report, is_well) = report(&args, flags);
    assert!(!is_well);
    assert_eq!(number(&report, "/requests/answered"), 0, "{report:#}");
    assert!(errors(&report, "status 503") > 0, "{report:#}");
    assert_eq!(number(&report, "/requests/failed"), 50, "{report:#}");
}

#[test]
fn connections_that_the_server_ends_in_good_order_are_made_again() {
    let target = Target::start(Transport::Tcp, |_| Web);
    let mut args = target.args("http");
    args[0] += "/last";
    let (report, is_well) = report(&args, "--duration 200ms --warm-up 0s --connections 2");
    assert!(is_well, "{report:#}");
    let (answers, made) = (
        number(&report, "/requests/answered"),
        number(&report, "/connections_made"),
    );
    assert!(answers > 2 && made >= answers, "{report:#}");
}

#[test]
fn wrong_answers_are_errors() {
    let target = Target::start(Transport::Tcp, |_| {
        epicycle::service(|conn, bytes| conn.write(&bytes.to_ascii_uppercase()).into())
    });
    let flags = "--duration 200ms --warm-up 0s --connections 2";
    let (report, is_well) = report(&target.args("echo"), flags);
    assert!(!is_well);
    assert_eq!(number(&report, "/requests/answered"), 0, "{report:#}");
    assert!(
        errors(&report, "wrong answer: other bytes") >= 2,
        "{report:#}"
    );
}

#[test]
fn more_than_was_asked_for_is_an_error() {
    let target = Target::start(Transport::Tcp, |_| {
        epicycle::service(|conn, bytes| {
            let twice = conn.write(bytes).and_then(|()| conn.write(bytes));
            twice.into()
        })
    });
    let flags = "--duration 200ms --warm-up 0s --connections 2 --rate 100 --max-errors 1000";
    let (report, _) = report(&target.args("echo"), flags);
    assert!(errors(&report, "without a request") > 0, "{report:#}");
}

#[test]
fn answers_that_do_not_come_are_timeouts() {
    let target = Target::start(Transport::Tcp, |_| {
        epicycle::service(|_, _| epicycle::Action::Continue)
    });
    let flags = "--duration 300ms --warm-up 0s --connections 3 --pipeline 2 --timeout 100ms";
    let (report, is_well) = report(&target.args("echo"), flags);
    assert!(!is_well);
    assert!(errors(&report, "no answer within") >= 6, "{report:#}");
}

#[test]
fn answers_that_are_cut_short_are_errors() {
    let target = Target::start(Transport::Tcp, |_| {
        epicycle::service(|conn, bytes| {
            let _ = conn.write(&bytes[..bytes.len() / 2]);
            epicycle::Action::Close
        })
    });
    let flags = "--duration 200ms --warm-up 0s --connections 3";
    let (report, is_well) = report(&target.args("echo"), flags);
    assert!(!is_well);
    let lost = errors(&report, "connection lost");
    assert!(lost >= 3, "{report:#}");
    assert_eq!(number(&report, "/requests/failed"), lost, "{report:#}");
}

#[test]
fn a_server_that_is_not_there_is_an_error_at_once() {
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let addr = format!("tcp://{}", free.expect("has an address"));
    let output = load(&[addr], "--duration 1m");
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("cannot connect to") && said.contains("refused"),
        "{said}"
    );
}

#[test]
fn a_report_without_an_answer_has_no_times() {
    // Connections wait in the listener's backlog, and nobody answers.
    let silent = TcpListener::bind("127.0.0.1:0").expect("binds");
    let addr = format!("tcp://{}", silent.local_addr().expect("has an address"));
    let file = TempPath::new();
    let flags = "--duration 100ms --warm-up 0s --timeout 100ms --connections 2";
    let page = format!("{flags} --report {}", file.0.display());
    let output = load(std::slice::from_ref(&addr), &page);
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("0 answers in"), "{said}");
    for nonsense in ["an answer", "p99", "NaN"] {
        assert!(!said.contains(nonsense), "{said}");
    }
    let page = fs::read_to_string(&file.0).expect("is written");
    assert!(page.contains("<b>none</b>") && !page.contains("NaN"));
    let (report, _) = report(&[addr], flags);
    for path in ["/latency_us", "/generator/cpu_us_per_answer"] {
        let value = report.pointer(path);
        assert!(value.is_some_and(Value::is_null), "{report:#}");
    }
}

#[test]
fn a_handshake_that_fails_is_an_error_at_once() {
    let target = Target::start(Transport::Tcp, |_| Web);
    let output = load(&target.args("ws"), "--duration 1m");
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("cannot connect to") && said.contains("200"),
        "{said}"
    );
}

#[test]
fn the_page_is_whole_by_itself() {
    let (target, file) = (echo(Transport::Tcp), TempPath::new());
    let flags = "--duration 300ms --warm-up 0s --rate 1000 --max-errors 1000 --report";
    let flags = format!("{flags} {}", file.0.display());
    let output = load(&target.args("echo"), &flags);
    assert!(output.status.success(), "{output:?}");
    let page = fs::read_to_string(&file.0).expect("is written");
    assert!(page.starts_with("<!doctype html>") && page.trim_end().ends_with("</html>"));
    assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
    for part in [
        "by percentile",
        "Latency over time",
        "Throughput over time",
        "Summary",
    ] {
        assert!(page.contains(part), "{part}");
    }
    for elsewhere in ["src=", "href=", "url(", "@import", "<script"] {
        assert!(!page.contains(elsewhere), "{elsewhere}");
    }
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        said.contains("p99.9") && said.contains("open loop"),
        "{said}"
    );
}

#[test]
fn bad_flags_are_refused_in_clear_words() {
    for (flags, wanted) in [
        ("udp://127.0.0.1:9000", "datagrams are not measured"),
        ("gopher://127.0.0.1", "the scheme is unknown"),
        ("tcp://127.0.0.1", "there is no port"),
        ("http:///path", "write http://HOST:PORT/PATH"),
        ("http://127.0.0.1:1 -P ws", "the target speaks http"),
        ("http://127.0.0.1:1/a --path /b", "has a path already"),
        ("http://127.0.0.1:1/\u{1}", "the request cannot be sent"),
        ("http://127.0.0.1:1/ -H nonsense", "Name: value"),
        ("http://127.0.0.1:1/ -H Host:other", "the header \"Host\""),
        ("tcp://127.0.0.1:1 --path /a", "do not apply to echo"),
        ("tcp://127.0.0.1:1 --size 0", "--size must be 1 or more"),
        (
            "tcp://127.0.0.1:1 --connections 0",
            "--connections must be 1 or more",
        ),
        (
            "tcp://127.0.0.1:1 --pipeline 0",
            "--pipeline must be 1 or more",
        ),
        ("tcp://127.0.0.1:1 --reactors 17", "raise --connections"),
        ("tcp://127.0.0.1:1 --rate 0", "--rate must be"),
        ("tcp://127.0.0.1:1 --duration 0s", "longer than zero"),
        ("tcp://127.0.0.1:1 --duration soon", "500ms, 1s or 2m"),
        (
            "tcp://127.0.0.1:1 --size 1000000 --pipeline 2000",
            "256 MiB or less",
        ),
        ("tcp://127.0.0.1:1 --ca /nonexistent", "are for TLS"),
        ("tls://127.0.0.1:1 --ca /nonexistent", "/nonexistent"),
        ("unix:///nonexistent --tls", "add --name"),
        (
            "tcp://127.0.0.1:1 --report /nonexistent/a.html",
            "cannot write /nonexistent/a.html",
        ),
        (
            "tcp://127.0.0.1:1 --connections 1000000000000",
            "raise the limit (ulimit -Hn)",
        ),
    ] {
        let output = load(&[], flags);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{flags}");
        assert!(said.contains(wanted), "{flags}: {said}");
    }
}
