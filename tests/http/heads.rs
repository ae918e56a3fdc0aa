//! Heads that two implementations could interpret differently: authorities, lists and versions.

use epicycle::codec::{Codec, Decoded, FrameError, encode_to_vec};
use epicycle::http::client::{ClientCodec, ClientRequest};
use epicycle::http::{HttpCodec, MessageError, StatusCode, Version};

use crate::parsing::check;

/// What a head is answered with, wherever it is split; `None` when it is taken.
fn judge(head: &str) -> Option<StatusCode> {
    let head = format!("{head}\r\n\r\n");
    check(head.as_bytes(), 1..head.len()).1
}

const BAD: Option<StatusCode> = Some(StatusCode::BAD_REQUEST);

/// Authorities with a host, and whether they have a port that is none.
const AUTHORITIES: [&str; 9] = [
    "a",
    "a:80",
    "A.example.:8080",
    "127.0.0.1:65535",
    "[::1]",
    "[::1]:80",
    "[2001:db8::192.0.2.1]:80",
    "a%41_b",
    "a:",
];

/// What looks like an authority.
const OTHERS: [&str; 16] = [
    "a:80x",
    "[::1",
    "::1]",
    "::1",
    "a:b:c",
    "a:-1",
    "a:+80",
    "a:65536",
    "[zz]",
    "[]",
    "[::1]80",
    "[::1%25eth0]",
    "a[b",
    "%zz",
    "a:80:80",
    ":80",
];

#[test]
fn a_host_is_an_authority_or_empty() {
    for host in AUTHORITIES.iter().chain(&[""]) {
        assert_eq!(
            judge(&format!("GET / HTTP/1.1\r\nHost: {host}")),
            None,
            "{host}"
        );
    }
    for host in OTHERS {
        assert_eq!(
            judge(&format!("GET / HTTP/1.1\r\nHost: {host}")),
            BAD,
            "{host}"
        );
    }
}

#[test]
fn a_target_in_absolute_form_has_an_authority() {
    let ask = |authority: &str, rest: &str| {
        judge(&format!("GET http://{authority}{rest} HTTP/1.1\r\nHost: a"))
    };
    for authority in AUTHORITIES {
        for rest in ["", "/", "?q", "/a:b@c"] {
            assert_eq!(ask(authority, rest), None, "{authority}{rest}");
        }
    }
    for authority in OTHERS.iter().chain(&["", "a:b", "x@a", "a\\b"]) {
        for rest in ["", "/", "?q"] {
            assert_eq!(ask(authority, rest), BAD, "{authority}{rest}");
        }
    }
}

#[test]
fn a_tunnel_needs_a_host_and_a_port() {
    let ask = |target: &str| judge(&format!("CONNECT {target} HTTP/1.1\r\nHost: a"));
    for target in ["a:443", "[::1]:1", "127.0.0.1:65535"] {
        assert_eq!(ask(target), None, "{target}");
    }
    let ports = [
        "a", "a:", ":80", "a:99999", "a:0", "a:+80", "[]:80", ":", "[::1]", "[::1]:",
    ];
    for target in OTHERS.iter().chain(&ports) {
        assert_eq!(ask(target), BAD, "{target}");
    }
}

#[test]
fn a_client_sends_no_request_to_what_is_no_authority() {
    let send =
        |host: &str| encode_to_vec(&mut ClientCodec::default(), ClientRequest::get(host, "/"));
    for host in AUTHORITIES {
        send(host).expect("is an authority");
    }
    for host in OTHERS {
        send(host).expect_err(host);
    }
    let tunnel = |target: &str| {
        encode_to_vec(
            &mut ClientCodec::default(),
            ClientRequest::new("CONNECT", "a", target),
        )
    };
    tunnel("a:443").expect("has a port");
    tunnel("a:").expect_err("has no port");
    tunnel("a:0").expect_err("has no port");
}

#[test]
fn empty_members_of_lists_are_ignored() {
    let body = |coding: &str| {
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\n{coding}\r\n\r\n");
        let (found, status) = check(
            format!("{head}1\r\nx\r\n0\r\n\r\n").as_bytes(),
            0..head.len(),
        );
        found
            .first()
            .map(|request| request.body.clone())
            .ok_or(status)
    };
    for coding in [
        "Transfer-Encoding: , chunked",
        "Transfer-Encoding: chunked,",
        "Transfer-Encoding: ,\t,Chunked , ,",
        "Transfer-Encoding:\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: ,",
    ] {
        assert_eq!(body(coding), Ok(b"x".to_vec()), "{coding}");
    }
    let refusals = [
        ("Transfer-Encoding: ,", StatusCode::BAD_REQUEST),
        ("Transfer-Encoding:", StatusCode::BAD_REQUEST),
        (
            "Transfer-Encoding: chunked,, chunked",
            StatusCode::BAD_REQUEST,
        ),
        (
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip",
            StatusCode::BAD_REQUEST,
        ),
        ("Transfer-Encoding: gzip,", StatusCode::BAD_REQUEST),
        (
            "Transfer-Encoding: gzip,, chunked,",
            StatusCode::NOT_IMPLEMENTED,
        ),
        (
            "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked",
            StatusCode::NOT_IMPLEMENTED,
        ),
        ("Expect: , 100-continue, x", StatusCode::EXPECTATION_FAILED),
        (
            "Expect: x\r\nExpect: 100-continue",
            StatusCode::EXPECTATION_FAILED,
        ),
    ];
    for (line, status) in refusals {
        assert_eq!(body(line), Err(Some(status)), "{line}");
    }
    for (lines, expects, keeps_alive) in [
        ("Expect: , 100-continue,", true, true),
        ("Expect: ,", false, true),
        ("Connection: ,close,", false, false),
        ("Connection: ,", false, true),
    ] {
        let mut input =
            format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n{lines}\r\n\r\n")
                .into_bytes();
        let mut codec = epicycle::http::HttpStreamCodec::default();
        let Ok(Decoded::Frame {
            frame: epicycle::http::RequestPart::Head(request),
            ..
        }) = codec.decode(&mut input)
        else {
            panic!("{lines}: no head");
        };
        assert_eq!(request.expects_continue(), expects, "{lines}");
        assert_eq!(request.keep_alive(), keeps_alive, "{lines}");
    }
}

#[test]
fn minor_versions_yet_to_come_are_read_as_1_1() {
    for minor in 2..=9 {
        let head = format!("GET / HTTP/1.{minor}\r\nHost: a\r\n\r\n");
        let (found, status) = check(head.as_bytes(), 0..head.len());
        assert_eq!((found.len(), status), (1, None), "{minor}");
        let mut input = head.into_bytes();
        let Ok(Decoded::Frame { frame, .. }) = HttpCodec::default().decode(&mut input) else {
            panic!("{minor}: no request");
        };
        assert_eq!(frame.version(), Version::Http11);

        let response = format!("HTTP/1.{minor} 200 OK\r\nContent-Length: 2\r\n\r\nhi");
        let read = crate::responses::read(&[("GET", false)], response.as_bytes());
        assert_eq!((read.0[0].text(), read.1), ("hi", false), "{minor}");
    }
    for version in ["HTTP/2.5", "HTTP/2.0", "HTTP/0.9", "HTTP/3.1"] {
        let status = judge(&format!("GET / {version}\r\nHost: a"));
        assert_eq!(
            status,
            Some(StatusCode::HTTP_VERSION_NOT_SUPPORTED),
            "{version}"
        );
        assert_eq!(
            told(&format!("{version} 200 OK\r\n\r\n")),
            Some(MessageError::Version)
        );
    }
    for version in [
        "HTTP/1.10",
        "HTTP/11.2",
        "http/1.2",
        "HTTP/1.x",
        "x HTTP/1.2",
    ] {
        assert_eq!(
            judge(&format!("GET / {version}\r\nHost: a")),
            BAD,
            "{version}"
        );
    }
}

#[test]
fn junk_in_place_of_a_response_is_not_taken_for_another_version() {
    for junk in [
        "SSH-2.0-OpenSSH_9.2\r\n",
        "220 mail.example ESMTP\r\n",
        "HTTP/x.y 200\r\n",
    ] {
        let error = told(junk);
        assert!(
            matches!(error, Some(MessageError::Malformed { .. })),
            "{junk}: {error:?}"
        );
    }
}

/// Why a client does not take what comes in answer to its request.
fn told(response: &str) -> Option<MessageError> {
    let mut codec = ClientCodec::default();
    encode_to_vec(&mut codec, ClientRequest::get("a", "/")).expect("is taken");
    let found = codec.decode(&mut response.as_bytes().to_vec()).map(|_| ());
    found
        .err()
        .and_then(|error: FrameError| MessageError::of(&error))
}

#[test]
fn trailers_that_trickle_in_are_parsed_when_their_end_has_come() {
    let begun = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA";
    // The flaw is not looked at with each byte, or it would be found before the end.
    let rest = b": b\r\nno colon\r\n\r\n";
    let (mut codec, mut input) = (HttpCodec::default(), begun.to_vec());
    for byte in rest {
        let found = codec.decode(&mut input).map(|_| ());
        found.expect("the end has not come");
        input.push(*byte);
    }
    let error = codec.decode(&mut input).map(|_| ()).expect_err("has come");
    assert_eq!(MessageError::of(&error).map(MessageError::status), BAD);
}

#[test]
fn empty_lines_before_a_request_are_skipped_but_not_without_end() {
    let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let few = ["\r\n".repeat(10).as_str(), get].concat();
    let (found, status) = check(few.repeat(2).as_bytes(), 0..40);
    assert_eq!((found.len(), status), (2, None));
    let many = [&"\r\n".repeat(11), get].concat();
    let (found, status) = check(many.as_bytes(), 0..30);
    assert_eq!((found.len(), status), (0, BAD));
}
