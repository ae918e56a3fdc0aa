//! `flush_interval`: when the parts of a response reach the client.

use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use epicycle::gateway::settings::{PoolSettings, RouteSettings};
use epicycle::gateway::{NoHooks, Running};

use crate::peers::{Asker, builder};
use crate::util::LONG;

/// A node whose only response comes in parts, each when it is told to, and then the end of the stream.
struct Slow {
    url: String,
    next: mpsc::Sender<Vec<u8>>,
}

impl Slow {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let (next, parts) = mpsc::channel::<Vec<u8>>();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a connection");
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).expect("a request");
            for part in parts {
                stream.write_all(&part).expect("is taken");
            }
        });
        Self { url, next }
    }

    fn send(&self, part: impl AsRef<[u8]>) {
        self.next.send(part.as_ref().to_vec()).expect("it runs");
    }

    fn gateway(&self, interval: Duration) -> Running<NoHooks> {
        let mut route = RouteSettings::to("app");
        route.flush_interval = interval;
        let gateway = builder(PoolSettings::of([&*self.url])).route(route).build();
        let gateway = gateway.expect("it is sound");
        gateway.start_plain().expect("it starts")
    }
}

const FOR_LONG: Duration = Duration::from_secs(10);

/// Sends a request, and reads the head of the response.
fn ask(gateway: &Running<NoHooks>) -> Asker {
    let mut client = Asker::to(gateway);
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.extend(client.recv(1));
    }
    client
}

/// Asserts that the client gets nothing for a while.
fn gets_nothing(client: &mut Asker) {
    let patience = |time| client.stream.get_ref().set_read_timeout(Some(time));
    patience(Duration::from_millis(100)).expect("is set");
    let error = client.stream.read(&mut [0; 1]).expect_err("is held back");
    let late = [io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut];
    assert!(late.contains(&error.kind()), "{error}");
    let patience = client.stream.get_ref().set_read_timeout(Some(LONG));
    patience.expect("is set");
}

#[test]
fn parts_of_a_response_wait_for_the_flush_interval_or_the_end() {
    let node = Slow::start();
    let gateway = node.gateway(FOR_LONG);
    node.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\none");
    let mut client = ask(&gateway);
    gets_nothing(&mut client);
    node.send("two");
    gets_nothing(&mut client);
    node.send("end");
    assert_eq!(client.recv(9), b"onetwoend");

    let node = Slow::start();
    let gateway = node.gateway(Duration::from_millis(20));
    node.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\none");
    let mut client = ask(&gateway);
    assert_eq!(client.recv(3), b"one");
    node.send("two");
    assert_eq!(client.recv(3), b"two");
}

#[test]
fn a_response_of_which_much_has_been_gathered_is_passed_on() {
    let node = Slow::start();
    let gateway = node.gateway(FOR_LONG);
    node.send("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n");
    let begun = Instant::now();
    let mut client = ask(&gateway);
    node.send(vec![b'x'; 70_000]);
    assert_eq!(client.recv(70_000 - (32 << 10)).len(), 70_000 - (32 << 10));
    assert!(begun.elapsed() < FOR_LONG, "it has waited for the interval");
    node.send(vec![b'x'; 30_000]);
    assert_eq!(client.recv(30_000 + (32 << 10)).len(), 30_000 + (32 << 10));
}

#[test]
fn a_response_that_is_cut_has_all_that_came_before() {
    let node = Slow::start();
    let gateway = node.gateway(FOR_LONG);
    node.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\none");
    let mut client = ask(&gateway);
    drop(node);
    assert_eq!(client.recv_to_end(), b"one");
}

#[test]
fn event_streams_and_bodies_of_untold_length_are_never_held_back() {
    for (fields, part, wanted) in [
        (
            "Content-Length: 9\r\nContent-Type: text/event-stream; charset=utf-8",
            "one",
            "one",
        ),
        ("Transfer-Encoding: chunked", "3\r\none\r\n", "3\r\none\r\n"),
        ("Connection: close", "one", "3\r\none\r\n"),
    ] {
        let node = Slow::start();
        let gateway = node.gateway(FOR_LONG);
        node.send(format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n{part}"));
        let begun = Instant::now();
        let mut client = ask(&gateway);
        assert_eq!(client.recv(wanted.len()), wanted.as_bytes(), "{fields}");
        assert!(begun.elapsed() < FOR_LONG, "it has waited: {fields}");
    }
}
