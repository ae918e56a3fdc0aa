//! The opening handshake, and HTTP before it.

use crate::peer::{HEADERS, Peer, frame, recv_head};
use crate::service::{Setup, local, start};
use crate::util::client::Client;

fn ask(client: &Client, path: &str, headers: &str) -> String {
    client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n{headers}\r\n"));
    recv_head(client)
}

#[test]
fn the_answer_is_the_one_of_the_rfc() {
    let (server, _log) = start(local(), Setup::default());
    let headers =
        format!("{HEADERS}Sec-WebSocket-Protocol: v1, v2\r\nOrigin: https://here.example\r\n");
    let head = ask(&Client::to(&server), "/", &headers);
    for line in [
        "HTTP/1.1 101 Switching Protocols",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
        "Sec-WebSocket-Protocol: v2",
        "X-Test: yes",
    ] {
        assert!(head.lines().any(|other| other == line), "{line}: {head}");
    }
    assert!(
        !head.contains("Extensions") && !head.contains("Content-Length"),
        "{head}"
    );
}

#[test]
fn a_page_and_then_a_websocket_on_one_connection() {
    let (server, _log) = start(local(), Setup::default());
    let client = Client::to(&server);
    for _ in 0..3 {
        let head = ask(&client, "/page", "");
        assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
        assert_eq!(client.recv(6), b"a page");
    }
    let peer = Peer::over(client, "");
    peer.send(0x81, b"hello");
    assert_eq!(peer.recv(), (0x81, b"hello".to_vec()));
}

#[test]
fn what_opens_no_websocket_is_refused_and_the_connection_goes_on() {
    let (server, _log) = start(local(), Setup::default());
    let client = Client::to(&server);
    let cases = [
        (String::new(), "426 "),
        (HEADERS.replace("13", "7"), "426 "),
        (HEADERS.replace("ZQ==", "Z==="), "400 "),
        (
            format!("{HEADERS}Origin: https://elsewhere.example\r\n"),
            "403 ",
        ),
        (
            format!("{HEADERS}Sec-WebSocket-Extensions: permessage-deflate;;\r\n"),
            "400 ",
        ),
        (
            format!("{HEADERS}Sec-WebSocket-Extensions: \"permessage-deflate\"\r\n"),
            "400 ",
        ),
    ];
    for (headers, status) in cases {
        let head = ask(&client, "/", &headers);
        assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{head}");
        if status == "426 " {
            assert!(head.contains("\r\nSec-WebSocket-Version: 13\r\n"), "{head}");
            assert!(head.contains("\r\nUpgrade: websocket\r\n"), "{head}");
            assert!(head.contains("\r\nConnection: Upgrade\r\n"), "{head}");
        }
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("Content-Length: "));
        client.recv(length.expect("has a length").parse().expect("is a number"));
    }
    let peer = Peer::over(client, "");
    peer.send(0x81, b"hello");
    assert_eq!(peer.recv(), (0x81, b"hello".to_vec()));
}

#[test]
fn a_request_with_a_body_opens_none() {
    let (server, _log) = start(local(), Setup::default());
    let client = Client::to(&server);
    client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{HEADERS}Content-Length: 8\r\n\r\n\x01\x02\x03\x04\x05\x06\x07\x08"));
    let head = recv_head(&client);
    assert!(head.starts_with("HTTP/1.1 400 "), "{head}");
}

#[test]
fn a_body_of_no_bytes_is_none() {
    let (server, _log) = start(local(), Setup::default());
    let peer = Peer::with(&server, "Content-Length: 0\r\n");
    peer.send(0x81, b"hello");
    assert_eq!(peer.recv(), (0x81, b"hello".to_vec()));
}

#[test]
fn frames_right_behind_the_request_are_taken_however_it_is_cut() {
    let (server, _log) = start(local(), Setup::default());
    let request = format!("GET / HTTP/1.1\r\nHost: a\r\n{HEADERS}\r\n").into_bytes();
    let bytes = [request, frame(0x81, b"early"), frame(0x88, b"")].concat();
    for cut in (0..bytes.len())
        .step_by(7)
        .chain(bytes.len() - 20..bytes.len())
    {
        let client = Client::to(&server);
        client.send(&bytes[..cut]);
        client.send(&bytes[cut..]);
        let answer = client.recv_to_end();
        assert!(
            answer.starts_with(b"HTTP/1.1 101 "),
            "{}",
            answer.escape_ascii()
        );
        assert!(
            answer.ends_with(b"\r\n\r\n\x81\x05early\x88\0"),
            "{}",
            answer.escape_ascii()
        );
    }
}

#[test]
fn the_answer_may_come_later_from_another_thread() {
    let (server, _log) = start(local(), Setup::default());
    let client = Client::to(&server);
    let headers = format!("{HEADERS}Sec-WebSocket-Protocol: late\r\n");
    let request = format!("GET /late HTTP/1.1\r\nHost: a\r\n{headers}\r\n").into_bytes();
    // What comes behind the request waits for the answer.
    client.send([request, frame(0x82, b"patience")].concat());
    let head = recv_head(&client);
    assert!(
        head.contains("\r\nSec-WebSocket-Protocol: late\r\n"),
        "{head}"
    );
    let peer = Peer(client);
    assert_eq!(peer.recv(), (0x82, b"patience".to_vec()));
}
