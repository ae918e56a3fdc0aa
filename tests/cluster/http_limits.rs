//! The limits of the HTTP server of applications, its own answers, and its metrics, over real sockets.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use epicycle::cluster::http::{Cors, HttpBuilder, HttpReply, HttpServer, HttpStatusClass};
use epicycle::cluster::{Cluster, Error};
use parking_lot::{Condvar, Mutex};
use serde_json::Value;

use crate::util::{LONG, eventually};

const ORIGIN: &str = "https://game.example";

/// Holds handlers back until it is opened.
#[derive(Default)]
struct Barrier {
    open: Mutex<bool>,
    opened: Condvar,
    reached: AtomicBool,
}

impl Barrier {
    fn pass(&self) {
        self.reached.store(true, Ordering::SeqCst);
        let mut open = self.open.lock();
        while !*open {
            self.opened.wait(&mut open);
        }
    }

    fn open(&self) {
        *self.open.lock() = true;
        self.opened.notify_all();
    }
}

/// A server with `/len`, which tells the length of a body, and `/held`, which does so once the barrier is open.
fn site(builder: HttpBuilder) -> (HttpServer, Arc<Barrier>) {
    let barrier = Arc::new(Barrier::default());
    let at = barrier.clone();
    let builder = builder.listen("tcp://127.0.0.1:0").routes(move |routes| {
        routes.post("/len", |request| HttpReply::json(&request.body().len()));
        routes.post("/held", move |request| {
            at.pass();
            HttpReply::json(&request.body().len())
        });
    });
    (builder.start().expect("starts"), barrier)
}

struct Client(TcpStream);

struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
}

impl Reply {
    fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        let found = headers.find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| &**value)
    }

    /// The text of an error in the form that all of them have.
    fn error(&self) -> String {
        assert_eq!(self.header("Content-Type"), Some("application/json"));
        let told: Value = serde_json::from_str(&self.body).expect("is JSON");
        let error = told["error"].as_str().expect("has a text").to_owned();
        assert_eq!(told.as_object().map(serde_json::Map::len), Some(1));
        error
    }
}

impl Client {
    fn of(server: &HttpServer) -> Self {
        let stream = TcpStream::connect(server.addr()).expect("connects");
        stream.set_read_timeout(Some(LONG)).expect("is set");
        Self(stream)
    }

    fn say(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).expect("is sent");
    }

    fn head(&mut self, path: &str, headers: &str) {
        self.say(&format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\nOrigin: {ORIGIN}\r\n{headers}\r\n"
        ));
    }

    fn post(&mut self, path: &str, len: usize) -> Reply {
        self.head(path, &format!("Content-Length: {len}\r\n"));
        // The answer may come before all of it is sent.
        let _ = self.0.write_all(&vec![b'x'; len]);
        self.reply()
    }

    fn reply(&mut self) -> Reply {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.0.read_exact(&mut byte).expect("is answered");
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).expect("is text");
        let (first, rest) = head.split_once("\r\n").expect("has a first line");
        let pairs = rest.lines().filter_map(|line| line.split_once(": "));
        let headers = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let mut reply = Reply {
            status: first[9..12].parse().expect("is a status"),
            headers: headers.collect(),
            body: String::new(),
        };
        let len = reply.header("Content-Length").expect("has a length");
        let mut body = vec![0; len.parse().expect("is a number")];
        self.0.read_exact(&mut body).expect("is whole");
        reply.body = String::from_utf8(body).expect("is text");
        reply
    }
}

#[test]
fn every_error_of_the_server_is_json_that_pages_may_read() {
    let cors = Cors::origins([ORIGIN]);
    let (server, _) = site(HttpServer::builder().max_body(1000).cors(cors));
    type Send = fn(&mut Client);
    let wrong: [(u16, Send); 5] = [
        (404, |client| client.head("/nothing", "")),
        (413, |client| {
            client.head("/len", "Content-Length: 1001\r\n");
        }),
        (413, |client| {
            client.head("/len", "Transfer-Encoding: chunked\r\n");
            client.say(&format!("3e8\r\n{}\r\n1\r\nx\r\n", "x".repeat(1000)));
        }),
        // The codec refuses it.
        (400, |client| {
            client.head("/len", "Transfer-Encoding: chunked\r\n");
            client.say("no length\r\n");
        }),
        (405, |client| {
            client.say(&format!(
                "GET /len HTTP/1.1\r\nHost: a\r\nOrigin: {ORIGIN}\r\n\r\n"
            ));
        }),
    ];
    for (status, send) in wrong {
        let mut client = Client::of(&server);
        send(&mut client);
        let reply = client.reply();
        assert_eq!(reply.status, status);
        assert!(!reply.error().is_empty());
        assert_eq!(
            reply.header("Access-Control-Allow-Origin"),
            Some(ORIGIN),
            "{status}"
        );
    }
}

#[test]
fn a_head_that_cannot_be_read_is_answered_for_all_origins_or_none() {
    for (cors, expected) in [(Cors::any(), Some("*")), (Cors::origins([ORIGIN]), None)] {
        let (server, _) = site(HttpServer::builder().cors(cors));
        let mut client = Client::of(&server);
        // The origin of an earlier request is not that of this one.
        assert_eq!(client.post("/len", 1).status, 200);
        client.say(&format!("GET\r\nOrigin: {ORIGIN}\r\n\r\n"));
        let reply = client.reply();
        assert_eq!(reply.status, 400);
        reply.error();
        assert_eq!(reply.header("Access-Control-Allow-Origin"), expected);
    }
}

#[test]
fn a_body_of_the_longest_length_is_taken_in_one_piece_or_in_chunks() {
    let (server, _) = site(HttpServer::builder().max_body(1000).max_bodies(1000));
    let mut client = Client::of(&server);
    for _ in 0..3 {
        assert_eq!(client.post("/len", 1000).body, "1000");
        client.head("/len", "Transfer-Encoding: chunked\r\n");
        for _ in 0..500 {
            client.say("2\r\nxy\r\n");
        }
        client.say("0\r\n\r\n");
        assert_eq!(client.reply().body, "1000");
    }
}

#[test]
fn a_body_without_room_beside_the_others_is_put_off() {
    let cors = Cors::origins([ORIGIN]);
    let builder = HttpServer::builder().max_body(1 << 20).max_bodies(1 << 20);
    let (server, barrier) = site(builder.cors(cors));
    let mut first = Client::of(&server);
    first.head("/held", "Content-Length: 700000\r\n");
    first.say(&"x".repeat(700_000));
    eventually("the handler has it", || {
        barrier.reached.load(Ordering::SeqCst)
    });
    assert_eq!(server.stats().body_held_bytes, 700_000);

    let put_off = |reply: Reply| {
        assert_eq!(
            (reply.status, reply.header("Retry-After")),
            (503, Some("1"))
        );
        assert!(reply.error().contains("no room"), "{}", reply.body);
        assert_eq!(reply.header("Access-Control-Allow-Origin"), Some(ORIGIN));
    };
    put_off(Client::of(&server).post("/len", 700_000));
    let mut chunks = Client::of(&server);
    chunks.head("/len", "Transfer-Encoding: chunked\r\n");
    for _ in 0..7 {
        let part = "x".repeat(100_000);
        if chunks
            .0
            .write_all(format!("186a0\r\n{part}\r\n").as_bytes())
            .is_err()
        {
            break;
        }
    }
    put_off(chunks.reply());
    // A request that has room is served meanwhile.
    assert_eq!(Client::of(&server).post("/len", 100_000).body, "100000");

    barrier.open();
    assert_eq!(first.reply().body, "700000");
    eventually("all is given back", || server.stats().body_held_bytes == 0);
    assert_eq!(Client::of(&server).post("/len", 700_000).body, "700000");
    assert_eq!(server.stats().body_refused, 2);
}

#[test]
fn bodies_that_are_announced_but_not_sent_take_no_room() {
    let builder = HttpServer::builder().max_body(1 << 20).max_bodies(1 << 20);
    let (server, _) = site(builder);
    let idle: Vec<Client> = (0..20)
        .map(|_| {
            let mut client = Client::of(&server);
            client.head("/len", "Content-Length: 1000000\r\n");
            client.say("x");
            client
        })
        .collect();
    eventually("all begin", || server.stats().body_held_bytes >= 20);
    assert!(server.stats().body_held_bytes < 1000);
    assert_eq!(Client::of(&server).post("/len", 1_000_000).body, "1000000");
    drop(idle);
    eventually("their bytes are given back", || {
        server.stats().body_held_bytes == 0
    });
    assert_eq!(server.stats().abandoned, 20);
}

#[test]
fn a_body_that_trickles_in_is_refused_in_time_and_gives_its_room_back() {
    let builder = HttpServer::builder().max_body(1 << 20).max_bodies(1 << 20);
    let (server, _) = site(builder.body_timeout(Duration::from_millis(500)));
    let mut slow = Client::of(&server);
    slow.head("/len", "Content-Length: 1000000\r\n");
    slow.say(&"x".repeat(600_000));
    let pause = Duration::from_millis(10);
    slow.0.set_read_timeout(Some(pause)).expect("is set");
    eventually("it is answered", || {
        let _ = slow.0.write_all(b"x");
        slow.0.peek(&mut [0]).is_ok()
    });
    slow.0.set_read_timeout(Some(LONG)).expect("is set");
    let reply = slow.reply();
    assert_eq!(reply.status, 408);
    assert_eq!(reply.error(), "the body took too long to arrive");
    assert_eq!(server.stats().body_held_bytes, 0);
    assert_eq!(Client::of(&server).post("/len", 1_000_000).body, "1000000");
}

#[test]
fn each_request_of_a_connection_has_its_own_time_to_arrive() {
    let timeout = Duration::from_secs(2);
    let (server, _) = site(HttpServer::builder().body_timeout(timeout));
    let mut client = Client::of(&server);
    let (began, mut received) = (Instant::now(), 0);
    while began.elapsed() < timeout * 3 / 2 {
        client.head("/len", "Content-Length: 2\r\n");
        client.say("x");
        received += 1;
        // The time of the first one ends amid a later one.
        eventually("it has begun", || {
            server.stats().body_received_bytes == received
        });
        thread::sleep(timeout / 20);
        client.say("x");
        received += 1;
        assert_eq!(client.reply().body, "2");
    }
}

#[test]
fn all_bodies_have_room_for_the_longest_one() {
    let builder = HttpServer::builder()
        .listen("tcp://127.0.0.1:0")
        .max_bodies(1000);
    let error = builder.start().expect_err("is too small");
    assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");
    assert!(error.to_string().contains("max_bodies"), "{error}");
    // A longer body makes the room larger, unless it is set.
    let builder = HttpServer::builder()
        .listen("tcp://127.0.0.1:0")
        .max_body(1 << 30);
    let _ = builder.start().expect("starts");
}

#[test]
fn the_metrics_of_the_server_are_among_those_of_its_cluster() {
    let cluster = Cluster::embedded();
    let (server, barrier) = site(cluster.http().max_body(1000));
    let text = |name: &str| {
        let role = format!("role=\"http-{}\"", server.addr().port());
        let metrics = cluster.monitor().metrics();
        let mut lines = metrics.lines();
        let line = lines.find(|line| line.starts_with(name) && line.contains(&role));
        line.and_then(|line| line.rsplit_once(' '))
            .map(|(_, value)| value.to_owned())
    };
    let is = |name: &str, expected: &str| {
        eventually(name, || text(name).as_deref() == Some(expected));
    };
    let mut client = Client::of(&server);
    for _ in 0..3 {
        assert_eq!(client.post("/len", 10).status, 200);
    }
    client.head("/nothing", "");
    assert_eq!(client.reply().status, 404);
    // The last answer of a connection, which the codec makes.
    client.say("GET\r\n\r\n");
    assert_eq!(client.reply().status, 400);
    drop(client);
    is("epicycle_http_connections", "0");
    let stats = server.stats();
    assert_eq!(stats.requests[HttpStatusClass::Success], 3);
    assert_eq!(stats.requests[HttpStatusClass::ClientError], 2);
    assert_eq!(stats.body_received_bytes, 30);
    assert_eq!(stats.request_time.count(), 4);

    let mut held = Client::of(&server);
    held.head("/held", "Content-Length: 1\r\n");
    held.say("x");
    is("epicycle_http_in_flight", "1");
    is("epicycle_http_connections", "1");
    is("epicycle_http_body_held_bytes", "1");
    barrier.open();
    assert_eq!(held.reply().status, 200);
    is("epicycle_http_in_flight", "0");
    is("epicycle_http_request_time_seconds_count", "5");

    drop(held);
    server.shutdown();
    assert!(!cluster.monitor().metrics().contains("epicycle_http"));
}
