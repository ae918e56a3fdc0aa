//! curl as a client.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;

use epicycle::http::{Chunk, End, HttpCodec, Limits, ServerResponse, StatusCode};
use epicycle::{Action, Running};

use crate::site::{Log, Site, reflection, start};
use crate::util::app::local;
use crate::util::client::TempPath;
use crate::util::{noise, skipped};

fn is_there() -> bool {
    let there = Command::new("curl").arg("--version").output().is_ok();
    if !there {
        skipped("curl is not installed");
    }
    there
}

/// What curl gets: its standard output.
fn curl(arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut curl = Command::new("curl")
        .args([
            "--silent",
            "--show-error",
            "--max-time",
            "60",
            "--noproxy",
            "*",
        ])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut stdin = curl.stdin.take().expect("is piped");
    let input = input.to_vec();
    let writing = std::thread::spawn(move || stdin.write_all(&input));
    let output = curl.wait_with_output().expect("ends");
    let _ = writing.join();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {complaint}");
    output.stdout
}

fn text(arguments: &[&str], input: &[u8]) -> String {
    String::from_utf8(curl(arguments, input)).expect("is text")
}

/// A server that mirrors requests, with a streamed body at `/streamed`.
fn server() -> (Running<Site>, Arc<Log>, String) {
    let (running, log) = start(local(), || {
        let codec = || HttpCodec::new(Limits::default().max_body(16 << 20));
        Site::new(codec, |conn, _, request| match request.path() {
            "/streamed" => {
                let begun = conn.send(ServerResponse::ok().streamed());
                let sent = begun
                    .and_then(|()| {
                        request
                            .body()
                            .chunks(7777)
                            .try_for_each(|part| conn.send(Chunk(part)))
                    })
                    .and_then(|()| conn.send(End));
                sent.into()
            }
            "/none" => conn
                .send(ServerResponse::new(StatusCode::NO_CONTENT))
                .into(),
            "/gone" => {
                let answer = ServerResponse::new(StatusCode::FOUND).header("Location", "/there");
                conn.send(answer).into()
            }
            _ => Action::from(conn.send(reflection(&request))),
        })
    });
    let url = format!("http://{}", running.local_addrs()[0]);
    let url = url.replace("tcp://", "");
    (running, log, url)
}

#[test]
fn curl_keeps_its_connection() {
    if !is_there() {
        return;
    }
    let (_running, log, url) = server();
    let urls = format!("{url}/[1-20]");
    let got = text(&[&urls, "--write-out", "%{num_connects} "], b"");
    let expected = (1..=20).map(|n| format!("GET /{n}\n{} ", u8::from(n == 1)));
    assert_eq!(got, expected.collect::<String>());
    assert_eq!(log.frames(), 20);
    // Redirects, answers without a body and HEAD use it further.
    let (gone, none) = (format!("{url}/gone"), format!("{url}/none"));
    let got = text(
        &[
            "--location",
            &gone,
            &none,
            "--write-out",
            "%{response_code} ",
        ],
        b"",
    );
    assert_eq!(got, "GET /there\n200 204 ");
    let connects = ["--write-out", "<%{num_connects}>"];
    let got = text(
        &[&["--head", &gone, &none, &url][..], &connects].concat(),
        b"",
    );
    let statuses = ["HTTP/1.1 302 ", "HTTP/1.1 204 ", "HTTP/1.1 200 "];
    assert!(statuses.iter().all(|status| got.contains(status)), "{got}");
    assert_eq!(
        (got.matches("<1>").count(), got.matches("<0>").count()),
        (1, 2),
        "{got}"
    );
}

#[test]
fn curl_uploads() {
    if !is_there() {
        return;
    }
    let (_running, _log, url) = server();
    let body = noise(11, 5 << 20);
    let file = TempPath::new();
    fs::write(&file.0, &body).expect("writes");
    let file = file.0.display().to_string();
    let expected = [b"PUT /up\n", &body[..]].concat();
    let target = format!("{url}/up");
    // With a length, and the wait for 100 Continue that curl has for large bodies.
    let got = curl(
        &["--upload-file", &file, &target, "--expect100-timeout", "30"],
        b"",
    );
    assert!(got == expected, "{} bytes", got.len());
    // In chunks, since the length of what comes from a pipe is not known.
    let got = curl(&["--upload-file", "-", &target], &body);
    assert!(got == expected, "{} bytes", got.len());
    // Chunks both ways.
    let streamed = format!("{url}/streamed");
    let got = curl(&["--upload-file", "-", &streamed], &body);
    assert!(got == body, "{} bytes", got.len());
    // A form.
    assert_eq!(
        text(&["--data", "a=1&b=2", &target], b""),
        "POST /up\na=1&b=2"
    );
}

#[test]
fn curl_waits_for_100_continue() {
    if !is_there() {
        return;
    }
    let (_running, _log, url) = server();
    let target = format!("{url}/up");
    let expect = [
        "--header",
        "Expect: 100-continue",
        "--data",
        "hello",
        "--expect100-timeout",
        "30",
    ];
    let got = text(&[&["--include", &target][..], &expect].concat(), b"");
    assert!(
        got.starts_with("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n"),
        "{got}"
    );
    assert!(got.ends_with("\r\n\r\nPOST /up\nhello"), "{got}");
}

#[test]
fn curl_speaks_http_1_0() {
    if !is_there() {
        return;
    }
    let (_running, log, url) = server();
    let got = text(&["--http1.0", "--include", &format!("{url}/old")], b"");
    assert!(got.starts_with("HTTP/1.1 200 OK\r\n"), "{got}");
    assert!(
        got.contains("Connection: close\r\n") && got.ends_with("\r\n\r\nGET /old\n"),
        "{got}"
    );
    log.await_end(0);
    // A body without chunks, up to the end.
    let streamed = format!("{url}/streamed");
    let got = text(
        &["--http1.0", "--include", "--data", "hello", &streamed],
        b"",
    );
    assert!(
        !got.contains("Transfer-Encoding") && got.ends_with("\r\n\r\nhello"),
        "{got}"
    );
    log.await_end(1);
}
