//! `fetch` over real sockets.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::thread;
use std::time::Duration;

use epicycle::fetch::{self, Client, FetchError, PoolLimits};
use epicycle::http::{HttpCodec, Limits, ServerResponse};
use epicycle::{Action, ConnectError, EventHandler, Running, Server, TimeoutKind};

use crate::client::PythonServer;
use crate::site::{Site, start};
use crate::util::{LONG, eventually, expect_panics, noise, skipped};

fn url<H: EventHandler>(running: &Running<H>, path: &str) -> String {
    let addr = running.local_addrs()[0].as_socket_addr();
    format!("http://{}{path}", addr.expect("an IP address"))
}

/// A server in the test's hands.
struct Origin(TcpListener);

impl Origin {
    fn new() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").expect("binds"))
    }

    fn url(&self) -> String {
        format!("http://{}/", self.0.local_addr().expect("has one"))
    }

    fn accept(&self) -> BufReader<TcpStream> {
        let (stream, _) = self.0.accept().expect("accepts");
        stream.set_read_timeout(Some(LONG)).expect("is set");
        BufReader::new(stream)
    }

    /// Answers the first request of the next connection, and keeps the connection open.
    fn answer(self, response: &str) -> thread::JoinHandle<BufReader<TcpStream>> {
        let response = response.to_owned();
        thread::spawn(move || {
            let mut stream = self.accept();
            read_head(&mut stream);
            say(&mut stream, &response);
            stream
        })
    }
}

fn read_head(stream: &mut BufReader<TcpStream>) -> String {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        let read = stream.read_line(&mut head).expect("reads");
        assert!(read > 0, "the stream ends after {head:?}");
    }
    head
}

fn say(stream: &mut BufReader<TcpStream>, bytes: impl AsRef<[u8]>) {
    stream.get_mut().write_all(bytes.as_ref()).expect("sends");
}

#[test]
fn a_url_is_fetched_whole_or_as_a_stream() {
    let (running, _) = start(Server::bind("tcp://127.0.0.1:0"), Site::mirror);
    let response = fetch::get(url(&running, "/a?b=c#d")).expect("answers");
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "text/plain");
    assert_eq!(response.body(), "GET /a?b=c\n");
    let client = Client::new().expect("starts");
    let response = client.put(url(&running, "")).body("x").stream();
    let mut body = String::new();
    let mut read = response.expect("answers").into_body();
    read.read_to_string(&mut body).expect("is complete");
    assert_eq!(body, "PUT /\nx");
    let response = client.head(url(&running, "/")).send().expect("answers");
    assert_eq!(response.headers()["content-length"], "7");
    assert!(response.body().is_empty());
}

#[test]
fn requests_to_one_server_share_its_connections() {
    let (running, _) = start(Server::bind("tcp://127.0.0.1:0"), Site::mirror);
    let limits = PoolLimits::default().max_per_destination(2);
    let client = Client::builder().pool(limits).start().expect("starts");
    for _ in 0..20 {
        client.get(url(&running, "/")).send().expect("answers");
    }
    assert_eq!(running.engine().stats().total().accepted, 1);
    thread::scope(|scope| {
        for thread in 0..8 {
            let (client, running) = (&client, &running);
            scope.spawn(move || {
                for n in 0..50 {
                    let path = format!("/{thread}/{n}");
                    let response = client.post(url(running, &path)).body("x").send();
                    let body = response.expect("answers").into_body();
                    assert_eq!(body, format!("POST {path}\nx"));
                }
            });
        }
    });
    assert!(running.engine().stats().total().accepted <= 2);
}

#[test]
fn headers_are_those_of_the_request_then_those_of_the_client() {
    let origin = Origin::new();
    let url = origin.url();
    let host = url["http://".len()..].trim_end_matches('/').to_owned();
    let served = thread::spawn(move || {
        let mut stream = origin.accept();
        let head = read_head(&mut stream);
        say(&mut stream, "HTTP/1.1 204 No Content\r\n\r\n");
        head
    });
    let client = Client::builder().header("A", "1").header("B", "1");
    let client = client.start().expect("starts");
    let response = client.get(url).header("b", "2").header("c", "3").send();
    assert_eq!(response.expect("answers").status(), 204);
    let agent = concat!("epicycle/", env!("CARGO_PKG_VERSION"));
    assert_eq!(
        served.join().expect("no panic"),
        format!(
            "GET / HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {agent}\r\nA: 1\r\nb: 2\r\nc: 3\r\n\r\n"
        )
    );
}

#[test]
fn a_large_body_is_sent_as_the_server_takes_it() {
    let codec = || HttpCodec::new(Limits::default().max_body(64 << 20));
    let (running, _) = start(
        Server::bind("tcp://127.0.0.1:0").max_frame(65 << 20),
        move || {
            Site::new(codec, |conn, _, request| {
                let body = request.body().to_vec();
                conn.send(ServerResponse::ok().shared_body(body)).into()
            })
        },
    );
    let client = Client::builder().max_body(64 << 20).start();
    let client = client.expect("starts");
    let body = noise(4, 20 << 20);
    for _ in 0..2 {
        let response = client.post(url(&running, "/")).body(body.clone()).send();
        assert!(response.expect("answers").body() == &body);
    }
    assert_eq!(running.engine().stats().total().accepted, 1);
}

#[test]
fn a_response_that_comes_before_the_end_of_the_request_is_told() {
    let origin = Origin::new();
    let url = origin.url();
    let served = origin.answer("HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n");
    let client = Client::new().expect("starts");
    let response = client.post(url).body(noise(3, 20 << 20)).send();
    assert_eq!(response.expect("answers").status(), 413);
    drop(served.join().expect("no panic"));
    let engine = client.engine();
    eventually("the connection ends", || engine.connections() == 0);
}

#[test]
fn a_reader_sets_the_pace_of_its_server() {
    const LEN: usize = 32 << 20;
    let (running, _) = start(
        Server::bind("tcp://127.0.0.1:0").outbound_limit(LEN * 2),
        || {
            let body = bytes(LEN);
            Site::of(move |conn, _, _| {
                conn.send(ServerResponse::ok().shared_body(body.clone()))
                    .into()
            })
        },
    );
    let client = Client::new().expect("starts");
    let response = client.get(url(&running, "/")).stream().expect("answers");
    let mut body = response.into_body();
    let received = || client.engine().stats().total().bytes_in;
    eventually("it pauses", || received() > 256 << 10);
    // Longer than it would take to receive everything.
    let before = received();
    thread::sleep(Duration::from_millis(200));
    let after = received();
    assert!(
        after <= 1 << 20,
        "{before}, then {after} bytes are read ahead"
    );
    let mut read = Vec::new();
    body.read_to_end(&mut read).expect("is complete");
    assert!(read == bytes(LEN));
    // The connection is whole.
    drop(body);
    client
        .get(url(&running, "/"))
        .max_body(LEN as u64)
        .send()
        .expect("answers");
    assert_eq!(running.engine().stats().total().accepted, 1);
}

fn bytes(len: usize) -> epicycle::Bytes {
    noise(7, len).into()
}

#[test]
fn an_endless_body_is_read_as_it_comes_and_ends_with_its_reader() {
    let origin = Origin::new();
    let url = origin.url();
    let client = Client::new().expect("starts");
    let served = origin.answer("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    let mut body = client.get(url).stream().expect("answers").into_body();
    let mut stream = served.join().expect("no panic");
    for event in ["one", "two"] {
        say(&mut stream, format!("4\r\n{event}\n\r\n"));
        let mut read = [0; 4];
        body.read_exact(&mut read).expect("it is there");
        assert_eq!(&read[..3], event.as_bytes());
    }
    drop(body);
    let end = stream.read(&mut [0]);
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
}

#[test]
fn what_goes_wrong_is_an_error_with_its_cause() {
    let client = Client::builder()
        .response_timeout(Duration::from_millis(300))
        .read_timeout(Duration::from_millis(300))
        .max_body(5)
        .start()
        .expect("starts");
    for (bad, problem) in [
        ("", "not a URI"),
        ("example.org", "another scheme"),
        ("ftp://example.org/", "another scheme"),
        ("/path", "another scheme"),
        ("http://a b/", "not a URI"),
        ("http:///path", "not a URI"),
        ("http://me@example.org/", "Authorization"),
        ("http://example.org:0/", "port 0"),
        ("http://example.org:99999/", "65535"),
        #[cfg(not(feature = "tls"))]
        ("https://example.org/", "`tls`"),
    ] {
        let error = client.get(bad).send().expect_err("is refused");
        assert!(error.to_string().contains(problem), "{bad:?}: {error}");
        assert!(matches!(error, FetchError::Url { .. }), "{error}");
    }
    for (name, value) in [
        ("Host", "x"),
        ("Content-Length", "1"),
        ("a b", "x"),
        ("a", "\n"),
    ] {
        let request = client.get("http://127.0.0.1:1/").header(name, value);
        let error = request.send().expect_err("is refused");
        assert!(!matches!(error, FetchError::NoResponse(_)), "{error}");
    }
    let closed = Origin::new().url();
    let error = client.get(closed).send().expect_err("nobody listens");
    assert!(matches!(error, FetchError::Connect { .. }), "{error}");
    let error = client.get("http://no.such.name.invalid/").send();
    let error = error.expect_err("it does not resolve");
    let is_name = matches!(
        &error,
        FetchError::Connect {
            error: ConnectError::Address(_),
            ..
        }
    );
    assert!(is_name, "{error}");

    let failing = |response: &str| {
        let origin = Origin::new();
        let url = origin.url();
        let served = origin.answer(response);
        let error = client.get(url).send().expect_err("is no response");
        drop(served.join().expect("no panic"));
        error
    };
    let error = failing("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n123456");
    assert!(matches!(error, FetchError::TooLong { max: 5 }), "{error}");
    let error = failing("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\n123456\r\n");
    assert!(matches!(error, FetchError::TooLong { max: 5 }), "{error}");
    let error = failing("SSH-2.0-OpenSSH\r\n\r\n");
    assert!(matches!(error, FetchError::Response(_)), "{error}");
    let error = failing("");
    assert!(
        matches!(error, FetchError::Timeout(TimeoutKind::Response)),
        "{error}"
    );
    let error = failing("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n123");
    assert!(
        matches!(error, FetchError::Timeout(TimeoutKind::Read)),
        "{error}"
    );
    assert!(error.is_timeout());
    let ending = |response: &'static str| {
        let origin = Origin::new();
        let url = origin.url();
        let served = thread::spawn(move || drop(origin.answer(response).join()));
        let error = client.get(url).send().expect_err("is no response");
        served.join().expect("no panic");
        error
    };
    let error = ending("");
    assert!(matches!(error, FetchError::NoResponse(_)), "{error}");
    let error = ending("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n123");
    assert!(matches!(error, FetchError::CutShort(_)), "{error}");
    let error = ending("HTTP/1.1 200");
    assert!(matches!(error, FetchError::CutShort(_)), "{error}");
}

#[test]
fn a_stream_that_is_cut_short_ends_with_an_error() {
    let origin = Origin::new();
    let url = origin.url();
    let client = Client::new().expect("starts");
    let served = origin.answer("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello");
    let mut body = client.get(url).stream().expect("answers").into_body();
    let mut read = [0; 5];
    body.read_exact(&mut read).expect("they are there");
    drop(served.join().expect("no panic"));
    let error = body.read(&mut read).expect_err("the rest is missing");
    assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
    assert!(matches!(cause, Some(FetchError::CutShort(_))), "{error}");
    body.read(&mut read).expect_err("it has no clean end");
}

#[test]
fn the_timeout_covers_the_wait_for_a_connection_and_the_body() {
    let origin = Origin::new();
    let url = origin.url();
    let limits = PoolLimits::default().max_per_destination(1);
    let client = Client::builder().pool(limits).start().expect("starts");
    let served = origin.answer("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n1");
    let short = Duration::from_millis(200);
    let mut body = client.get(&url).stream().expect("answers").into_body();
    // The only connection is taken.
    let error = client.get(&url).timeout(short).send().expect_err("waits");
    assert!(
        matches!(error, FetchError::Deadline { timeout } if timeout == short),
        "{error}"
    );
    let mut stream = served.join().expect("no panic");
    say(&mut stream, "2345");
    let mut read = Vec::new();
    body.read_to_end(&mut read).expect("is complete");
    let served = thread::spawn(move || {
        read_head(&mut stream);
        say(&mut stream, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n1");
        stream
    });
    let request = client.get(&url).timeout(short).stream();
    let error = request.expect("answers").into_body().read_to_end(&mut read);
    let error = error.expect_err("the rest does not come");
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    drop(served.join());
}

#[test]
fn a_blocking_call_on_a_reactors_thread_is_an_error() {
    let (running, _) = start(Server::bind("tcp://127.0.0.1:0"), || {
        Site::of(|conn, _, _| {
            let whole = fetch::get("http://127.0.0.1:1/").map(drop);
            let stream =
                Client::new().and_then(|client| client.get("http://127.0.0.1:1/").stream());
            let are_refused = matches!(
                (whole, stream.map(drop)),
                (Err(FetchError::OnReactor), Err(FetchError::OnReactor))
            );
            conn.send(ServerResponse::ok().body(&are_refused.to_string()))
                .into()
        })
    });
    let response = fetch::get(url(&running, "/")).expect("answers");
    assert_eq!(response.body(), "true");
    // The client's own thread is one too.
    let client = Client::new().expect("starts");
    let (tell, told) = mpsc::channel();
    let (second, second_url) = (client.clone(), url(&running, "/"));
    client.get(url(&running, "/")).send_then(move |_| {
        tell.send(second.get(second_url).send())
            .expect("is awaited");
    });
    let result = told.recv_timeout(LONG).expect("is called");
    assert!(matches!(result, Err(FetchError::OnReactor)));
}

#[test]
fn a_handler_answers_with_what_another_server_says() {
    let (origin, _) = start(Server::bind("tcp://127.0.0.1:0"), Site::mirror);
    let client = Client::new().expect("starts");
    let target = url(&origin, "/");
    let (front, _) = start(Server::bind("tcp://127.0.0.1:0"), move || {
        let (client, target) = (client.clone(), target.clone());
        Site::of(move |conn, _, request| {
            let answer = conn.defer_answer();
            let asked = client.post(&target).body(request.body().to_vec());
            asked.send_then(move |response| {
                let body = response.expect("answers").into_body();
                let _ = answer.send(ServerResponse::ok().shared_body(body));
            });
            Action::Continue
        })
    });
    let client = Client::new().expect("starts");
    let response = client.post(url(&front, "/")).body("x").send();
    assert_eq!(response.expect("answers").body(), "POST /\nx");
}

#[test]
fn each_receiver_is_called_once_even_if_others_panic_or_the_client_ends() {
    expect_panics();
    let (running, _) = start(Server::bind("tcp://127.0.0.1:0"), Site::mirror);
    let silent = Origin::new();
    let client = Client::new().expect("starts");
    let called = Arc::new(AtomicUsize::new(0));
    let count = |called: &Arc<AtomicUsize>| {
        let called = called.clone();
        move |_| {
            called.fetch_add(1, Ordering::Relaxed);
        }
    };
    client
        .get(url(&running, "/"))
        .send_then(|_| panic!("on purpose"));
    client.get("nonsense").send_then(|_| panic!("on purpose"));
    for _ in 0..10 {
        client.get(url(&running, "/")).send_then(count(&called));
        client.get("nonsense").send_then(count(&called));
    }
    client.get(silent.url()).send_then(count(&called));
    eventually("the others are answered", || {
        called.load(Ordering::Relaxed) == 20
    });
    // No answer comes for the last one.
    client.engine().shutdown_within(Duration::ZERO);
    eventually("the end is told", || called.load(Ordering::Relaxed) == 21);
    let error = client
        .get(url(&running, "/"))
        .send()
        .expect_err("it has ended");
    assert!(matches!(error, FetchError::Stopped), "{error}");
}

#[test]
fn the_last_clone_of_a_client_may_be_dropped_by_its_own_thread() {
    let (running, _) = start(Server::bind("tcp://127.0.0.1:0"), Site::mirror);
    let client = Client::new().expect("starts");
    let engine = client.engine().clone();
    let (tell, told) = mpsc::channel();
    let dropped = Arc::new(Barrier::new(2));
    let (last, wait) = (client.clone(), dropped.clone());
    client.get(url(&running, "/")).send_then(move |response| {
        wait.wait();
        drop(last);
        tell.send(response.is_ok()).expect("is awaited");
    });
    drop(client);
    dropped.wait();
    assert!(told.recv_timeout(LONG).expect("is called"));
    eventually("it ends", || engine.run_on(0, |_, _| ()).is_err());
}

#[test]
fn addresses_that_are_not_allowed_are_not_dialled() {
    let (running, _) = start(Server::bind("tcp://127.0.0.1:0"), Site::mirror);
    let client = Client::builder().allow(|ip| !ip.is_loopback()).start();
    let error = client.expect("starts").get(url(&running, "/")).send();
    let error = error.expect_err("it is denied");
    let FetchError::Connect { error, .. } = error else {
        panic!("{error}");
    };
    assert!(
        matches!(error.last(), ConnectError::Denied { .. }),
        "{error}"
    );
    assert_eq!(running.engine().stats().total().accepted, 0);
}

#[test]
fn pythons_server_is_fetched_from() {
    let body = noise(9, 3_000_000);
    let Some(python) = PythonServer::start(&body) else {
        return skipped("python3 is not installed");
    };
    let client = Client::new().expect("starts");
    let url = format!("http://localhost:{}", python.addr.port());
    for _ in 0..3 {
        let response = client.get(format!("{url}/noise")).send();
        assert!(response.expect("answers").body() == &body);
        let mut read = Vec::new();
        let response = client.get(format!("{url}/noise")).stream();
        response
            .expect("answers")
            .into_body()
            .read_to_end(&mut read)
            .expect("is complete");
        assert!(read == body);
        let response = client.get(format!("{url}/none")).send();
        assert_eq!(response.expect("answers").status(), 404);
    }
    let response = client.post(url).body("x").send().expect("answers");
    assert_eq!(response.status(), 501);
}

#[cfg(feature = "tls")]
#[test]
fn https_is_fetched_and_its_certificate_checked() {
    use crate::pki;
    let (running, _) = start(pki::local(&pki::server_tls()), Site::mirror);
    let addr = running.local_addrs()[0]
        .as_socket_addr()
        .expect("an IP address");
    let url = format!("https://localhost:{}/x", addr.port());
    let client = Client::builder()
        .tls(&pki::client_tls())
        .start()
        .expect("starts");
    for _ in 0..3 {
        let response = client.get(&url).send().expect("answers");
        assert_eq!(response.body(), "GET /x\n");
    }
    assert_eq!(running.engine().stats().total().accepted, 1);
    let roots = pki::Authority::new("another").roots();
    let tls = epicycle::tls::TlsClient::new(&roots).expect("is sound");
    let client = Client::builder().tls(&tls).start().expect("starts");
    let error = client.get(&url).send().expect_err("it is not trusted");
    let FetchError::Connect { error, .. } = error else {
        panic!("{error}");
    };
    assert!(matches!(error.last(), ConnectError::Tls(_)), "{error}");
}
