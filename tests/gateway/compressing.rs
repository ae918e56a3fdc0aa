//! Responses that the gateway compresses.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;
use std::sync::mpsc;
use std::thread;

use epicycle::gateway::settings::{PoolSettings, RouteSettings};
use epicycle::gateway::{Gateway, NoHooks, Running};
use flate2::read::GzDecoder;

use crate::peers::{Asker, Deed, Message, Origin, builder, pool_of};
use crate::rig::{Folder, metric};
use crate::util::{eventually, skipped};

fn start(pool: PoolSettings) -> Running<NoHooks> {
    let mut route = RouteSettings::to("app");
    route.compress = Some(5);
    let gateway = builder(pool).route(route).build().expect("it is sound");
    gateway.start_plain().expect("it starts")
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a.test\r\nAccept-Encoding: br, gzip\r\n\r\n")
}

fn unzipped(message: &Message) -> Vec<u8> {
    let mut body = Vec::new();
    let read = GzDecoder::new(&*message.body).read_to_end(&mut body);
    read.expect("it is whole");
    body
}

fn text(len: usize) -> Vec<u8> {
    let words = (0..).flat_map(|n: u32| format!("word {} ", n * 7919 % 1000).into_bytes());
    words.take(len).collect()
}

fn response(fields: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 200 OK\r\n{fields}Content-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

#[test]
fn a_text_is_compressed_for_a_client_that_takes_it() {
    let body = text(100_000);
    let fields = "Content-Type: application/json\r\nETag: \"v1\"\r\nAccept-Ranges: bytes\r\n";
    let answer = response(fields, &body);
    let origin = Origin::start(move |_, _| Deed::Send(answer.clone()));
    let gateway = start(pool_of(&origin));
    let mut client = Asker::to(&gateway);
    for _ in 0..2 {
        let answer = client.ask(get("/"));
        assert_eq!(answer.field("content-encoding"), Some("gzip"));
        assert_eq!(answer.field("vary"), Some("Accept-Encoding"));
        assert_eq!(answer.field("etag"), Some("W/\"v1\""));
        assert_eq!(answer.field("transfer-encoding"), Some("chunked"));
        for gone in ["content-length", "accept-ranges"] {
            assert_eq!(answer.field(gone), None, "{gone}");
        }
        assert!(answer.body.len() < body.len() / 2, "{}", answer.body.len());
        assert!(unzipped(&answer) == body);
    }
    let plain = client.get("/");
    assert_eq!(plain.field("content-encoding"), None);
    assert_eq!(plain.field("vary"), Some("Accept-Encoding"));
    assert_eq!(plain.field("etag"), Some("\"v1\""));
    assert!(plain.body == body);
    // The node is asked for what the client takes.
    let asked = origin.requests()[0]
        .field("accept-encoding")
        .map(str::to_owned);
    assert_eq!(asked.as_deref(), Some("br, gzip"));
    let value = |name: &str| {
        let name = format!("epicycle_gateway_route_{name}_total{{route=\"*/*\"}}");
        metric(&gateway.control().metrics(), &name)
    };
    assert_eq!(value("compressed"), Some(2.0));
    assert_eq!(value("compress_bytes_in"), Some(200_000.0));
    assert!(value("compress_bytes_out") < Some(100_000.0));
}

#[test]
fn what_must_not_be_changed_is_passed_on_as_it_is() {
    let body = text(5000);
    let long = body.clone();
    let origin = Origin::start(move |_, request| {
        let path = request.first_line().split(' ').nth(1).unwrap_or_default();
        let kind = "Content-Type: text/plain\r\n";
        Deed::Send(match path {
            "/short" => response(kind, &long[..1024]),
            "/image" => response("Content-Type: image/png\r\n", &long),
            "/untyped" => response("", &long),
            "/events" => response("Content-Type: text/event-stream\r\n", &long),
            "/coded" => response(&format!("{kind}Content-Encoding: br\r\n"), &long),
            "/fixed" => response(
                &format!("{kind}Cache-Control: public, no-transform\r\n"),
                &long,
            ),
            "/range" => {
                let range = response(
                    &format!("{kind}Content-Range: bytes 0-4999/9000\r\n"),
                    &long,
                );
                let range = String::from_utf8(range).expect("text");
                range.replace("200 OK", "206 Partial Content").into_bytes()
            }
            "/head" => {
                format!("HTTP/1.1 200 OK\r\n{kind}Content-Length: 5000\r\n\r\n").into_bytes()
            }
            "/304" => b"HTTP/1.1 304 Not Modified\r\nETag: \"v1\"\r\n\r\n".to_vec(),
            _ => response(kind, &long),
        })
    });
    let gateway = start(pool_of(&origin));
    let mut client = Asker::to(&gateway);
    for path in [
        "/short", "/image", "/untyped", "/events", "/coded", "/fixed", "/range",
    ] {
        let answer = client.ask(get(path));
        let len = if path == "/short" { 1024 } else { 5000 };
        assert!(answer.body == body[..len], "{path}");
        assert_ne!(answer.field("content-encoding"), Some("gzip"), "{path}");
        assert_eq!(answer.field("vary"), None, "{path}");
    }
    client.send(get("/head").replace("GET", "HEAD"));
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.extend(client.recv(1));
    }
    let head = String::from_utf8(head).expect("text");
    for field in ["Content-Length: 5000", "Vary: Accept-Encoding"] {
        assert!(head.contains(field), "{head}");
    }
    assert!(!head.contains("gzip"), "{head}");
    let unchanged = client.ask(get("/304"));
    assert_eq!(
        (unchanged.status(), unchanged.field("etag")),
        (304, Some("\"v1\""))
    );
    for request in [
        get("/").replace("br, gzip", "gzip;q=0, br"),
        get("/").replace("br, gzip", "gzip\r\nCache-Control: no-transform"),
    ] {
        assert!(client.ask(request).body == body);
    }
    // A client of HTTP/1.0 could not tell the end of a body of unknown length from a cut.
    let old = Asker::to(&gateway).ask(get("/").replace("HTTP/1.1", "HTTP/1.0"));
    assert_eq!(old.field("content-length"), Some("5000"));
    assert!(old.body == body);
    assert!(unzipped(&Asker::to(&gateway).ask(get("/"))) == body);
}

/// A node that sends a response in parts, each when it is told to.
fn slow(parts: Vec<Vec<u8>>) -> (PoolSettings, mpsc::Sender<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let _ = stream.read(&mut [0; 4096]).expect("a request");
        for part in parts {
            if stream.write_all(&part).is_err() || told.recv().is_err() {
                return;
            }
        }
    });
    (PoolSettings::of([url]), tell)
}

fn chunk(bytes: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

const CHUNKED: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTrailer: Sum\r\nTransfer-Encoding: chunked\r\n\r\n";

/// Reads up to the end of a line, or of a head.
fn read_to(client: &mut Asker, end: &[u8]) -> String {
    let mut input = Vec::new();
    while !input.ends_with(end) {
        input.extend(client.recv(1));
    }
    String::from_utf8(input).expect("text")
}

/// Reads a chunk. The last one is empty.
fn read_chunk(client: &mut Asker) -> Vec<u8> {
    let line = read_to(client, b"\r\n");
    let len = usize::from_str_radix(line.trim(), 16).expect("a length");
    match len {
        0 => Vec::new(),
        len => {
            let mut chunk = client.recv(len + 2);
            chunk.truncate(len);
            chunk
        }
    }
}

/// Returns the first bytes of what was compressed.
fn beginning(zipped: &[u8], len: usize) -> Vec<u8> {
    let mut seen = vec![0; len];
    let read = GzDecoder::new(zipped).read_exact(&mut seen);
    read.expect("so much is there");
    seen
}

#[test]
fn a_slow_response_is_not_held_back() {
    let (pool, go_on) = slow(vec![
        [CHUNKED, &chunk(b"first line\n")].concat(),
        chunk(b"second line\n"),
        b"0\r\nSum: 7\r\n\r\n".to_vec(),
    ]);
    let gateway = start(pool);
    let mut client = Asker::to(&gateway);
    client.send(get("/"));
    let head = read_to(&mut client, b"\r\n\r\n");
    assert!(head.contains("Content-Encoding: gzip"), "{head}");
    let mut zipped = read_chunk(&mut client);
    assert_eq!(beginning(&zipped, 11), b"first line\n");
    go_on.send(()).expect("it waits");
    zipped.extend(read_chunk(&mut client));
    assert_eq!(beginning(&zipped, 23), b"first line\nsecond line\n");
    go_on.send(()).expect("it waits");
    zipped.extend(read_chunk(&mut client));
    let mut all = Vec::new();
    let read = GzDecoder::new(&*zipped).read_to_end(&mut all);
    read.expect("it is whole");
    assert_eq!(all.len(), 23);
    assert!(read_chunk(&mut client).is_empty());
    assert_eq!(read_to(&mut client, b"\r\n\r\n"), "Sum: 7\r\n\r\n");
}

#[test]
fn a_node_that_fails_in_a_compressed_body_cuts_the_response() {
    let (pool, go_on) = slow(vec![[CHUNKED, &chunk(&text(10_000))].concat()]);
    let gateway = start(pool);
    let mut client = Asker::to(&gateway);
    client.send(get("/"));
    read_to(&mut client, b"\r\n\r\n");
    let zipped = read_chunk(&mut client);
    assert!(beginning(&zipped, 10_000) == text(10_000));
    drop(go_on);
    // No last chunk follows.
    assert_eq!(client.recv_to_end(), b"");
}

#[test]
fn a_client_that_does_not_read_a_compressed_body_stops_its_node() {
    // Random digits become half as many bytes.
    let body: Vec<u8> = std::iter::repeat_with(|| fastrand::digit(16) as u8)
        .take(32 << 20)
        .collect();
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let answer = [head.as_bytes(), &body].concat();
    let origin = Origin::start(move |_, _| Deed::Send(answer.clone()));
    let gateway = start(pool_of(&origin));
    let mut client = Asker::to(&gateway);
    client.send(get("/"));
    let buffered = || gateway.engine().stats().total().buffered;
    eventually("output waits", || buffered() >= 256 << 10);
    assert!(buffered() < 1 << 20, "{}", buffered());
    let answer = client.response().expect("an answer");
    assert!(unzipped(&answer) == body);
}

#[test]
fn curl_reads_what_was_compressed() {
    let body = text(300_000);
    let answer = response("Content-Type: text/html\r\n", &body);
    let origin = Origin::start(move |_, _| Deed::Send(answer.clone()));
    let gateway = start(pool_of(&origin));
    let addr = gateway.local_addrs()[0]
        .as_socket_addr()
        .expect("an address");
    let mut curl = Command::new("curl");
    curl.args(["-s", "--compressed", "-w", "%{size_download}", "-o", "-"]);
    let Ok(said) = curl.arg(format!("http://{addr}/")).output() else {
        return skipped("curl is not installed");
    };
    let (read, size) = said.stdout.split_at(body.len());
    assert!(read == body);
    let size: usize = String::from_utf8_lossy(size).parse().expect("a number");
    assert!(size < body.len() / 2, "{size}");
}

#[test]
fn the_file_turns_compression_on() {
    let folder = Folder::new();
    let file = |compress: &str| {
        folder.write(
            "gateway.toml",
            format!(
                "[[listen]]\non = \"tcp://127.0.0.1:0\"\n[[route]]\npool = \"a\"\n{compress}\n\
                 [pool.a]\nnodes = [\"http://127.0.0.1:9000\"]\n"
            ),
        );
        Gateway::from_file(folder.path("gateway.toml"))
    };
    for (line, level) in [
        ("", None),
        ("compress = false", None),
        ("compress = true", Some(5)),
        ("compress = { level = 9 }", Some(9)),
    ] {
        let read = file(line).expect("it is sound");
        assert_eq!(read.settings().routes[0].compress, level, "{line}");
    }
    for (line, wanted) in [
        (
            "compress = { level = 0 }",
            ":5:22: route[0].compress.level: use a level of 1 to 9",
        ),
        (
            "compress = \"gzip\"",
            ":5:12: route[0].compress: use true, false",
        ),
        ("compress = { size = 1 }", "the key is unknown"),
    ] {
        let text = file(line).expect_err(line).to_string();
        assert!(text.contains(wanted), "{text}");
    }
}
