//! A proxy over real sockets, whose origins are a server of this crate and Python's.

use std::io::Read;
use std::net::TcpListener;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use epicycle::{Connect, Running, Server};

use crate::client::PythonServer;
use crate::origin::{Site, page};
use crate::proxy::Proxy;
use crate::util::client::Client;
use crate::util::{eventually, noise, skipped};
use crate::wire::{Answer, Answers, answers};

const LEN: usize = 50_000_000;

/// A connection with more output than this has no room.
const HIGH_WATER: u64 = 1 << 20;

/// The most bytes that a proxy may hold for one direction. Buffers have the size of the next power of two, and hold what is read
/// at once beyond the mark.
const MOST_BUFFERED: u64 = 3 * HIGH_WATER;

fn local() -> Server {
    Server::bind("tcp://127.0.0.1:0").reactors(2)
}

/// Starts an origin, and a proxy to it.
fn start() -> (Running<Site>, Running<Proxy>) {
    start_site(Site::default())
}

fn start_site(site: Site) -> (Running<Site>, Running<Proxy>) {
    let origin = local().start(move |_| site.clone()).expect("starts");
    let proxy = proxy_to(&origin.local_addrs()[0].to_string());
    (origin, proxy)
}

fn proxy_to(origin: &str) -> Running<Proxy> {
    let connect = Connect::to(origin);
    local()
        .start(move |_| Proxy::to(connect.clone()))
        .expect("starts")
}

/// Returns the answer to a single request.
fn ask(proxy: &Running<Proxy>, request: impl AsRef<[u8]>) -> Answer {
    let client = Client::to(proxy);
    client.send(request);
    answers(&client).get()
}

fn get(proxy: &Running<Proxy>, path: &str) -> Answer {
    ask(proxy, format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"))
}

/// Waits until nobody is connected to a server, and it holds nothing.
fn await_idle<H: epicycle::EventHandler>(running: &Running<H>) {
    eventually("everybody has left", || {
        let total = running.engine().stats().total();
        (total.connections, total.buffered) == (0, 0)
    });
}

#[test]
fn requests_of_all_kinds_pass_a_proxy_one_after_another() {
    let (origin, proxy) = start();
    let client = Client::to(&proxy);
    client.send(
        "HEAD /page/1000 HTTP/1.1\r\nHost: a\r\n\r\n\
         GET /page/1000 HTTP/1.1\r\nHost: a\r\n\r\n\
         GET /chunks/1000 HTTP/1.1\r\nHost: a\r\n\r\n\
         POST /echo/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nSum: 7\r\n\r\n\
         POST /count/ HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc\
         GET /hints/ HTTP/1.1\r\nHost: a\r\n\r\n\
         POST /count/ HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
    );
    let mut answers = answers(&client);
    let head = answers.next("HEAD").expect("an answer");
    assert_eq!(
        (head.status, head.header("content-length")),
        (200, Some("1000"))
    );
    assert!(answers.get().body == page(0, 1000));
    let chunked = answers.get();
    assert_eq!(chunked.header("transfer-encoding"), Some("chunked"));
    assert!(chunked.body == page(0, 1000));
    let echo = answers.get();
    assert_eq!(echo.text(), "hello");
    assert_eq!(echo.trailers, [("Sum".to_owned(), "7".to_owned())]);
    assert_eq!(answers.get().text(), "3");
    let hints = answers.get();
    assert_eq!(
        (hints.status, hints.header("link")),
        (103, Some("</a.css>"))
    );
    assert_eq!(answers.get().status, 200);
    assert_eq!(answers.get().status, 100);
    client.send("world");
    assert_eq!(answers.get().text(), "5");
    drop(client);
    await_idle(&proxy);
    await_idle(&origin);
    assert_eq!(origin.engine().stats().total().accepted, 7);
}

#[test]
fn a_slow_client_does_not_make_a_proxy_hold_its_download() {
    let (origin, proxy) = start();
    for path in ["/page/", "/chunks/"] {
        let client = Client::to(&proxy);
        client.send(format!(
            "GET {path}{LEN} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        ));
        eventually("the proxy is full", || buffered(&proxy) > HIGH_WATER);
        let mut most = 0;
        let watched = Watched(&client, || most = most.max(buffered(&proxy)));
        let answer = Answers::new(watched).get();
        assert!(answer.body == page(0, LEN));
        assert!(most < MOST_BUFFERED, "{most} bytes are held");
    }
    await_idle(&proxy);
    await_idle(&origin);
}

#[test]
fn a_slow_origin_does_not_make_a_proxy_hold_an_upload() {
    let site = Site::default();
    let (origin, proxy) = start_site(site.clone());
    let body = page(0, LEN);
    for framing in ["Content-Length: 50000000", "Transfer-Encoding: chunked"] {
        site.waits.store(true, Ordering::Relaxed);
        let client = Client::to(&proxy);
        client.send(format!(
            "PUT /late/ HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n"
        ));
        let mut most = 0;
        thread::scope(|scope| {
            let upload = scope.spawn(|| send_body(&client, framing, &body));
            eventually("the proxy is full", || buffered(&proxy) > HIGH_WATER);
            site.waits.store(false, Ordering::Relaxed);
            while !upload.is_finished() {
                most = most.max(buffered(&proxy));
                thread::sleep(Duration::from_millis(1));
            }
        });
        assert_eq!(answers(&client).get().text(), LEN.to_string());
        assert!(most < MOST_BUFFERED, "{most} bytes are held");
    }
    await_idle(&proxy);
    await_idle(&origin);
}

#[test]
fn a_body_goes_there_and_back_through_a_proxy() {
    let (origin, proxy) = start();
    let client = Client::to(&proxy);
    client.send("PUT /echo/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    let body = noise(1, LEN);
    let mut most = 0;
    let answer = thread::scope(|scope| {
        scope.spawn(|| send_body(&client, "chunked", &body));
        let watched = Watched(&client, || most = most.max(buffered(&proxy)));
        Answers::new(watched).get()
    });
    assert!(answer.body == body);
    // Both directions.
    assert!(most < 2 * MOST_BUFFERED, "{most} bytes are held");
    drop(client);
    await_idle(&proxy);
    await_idle(&origin);
}

#[test]
fn an_origin_that_refuses_or_leaves_is_answered_502() {
    let closed = TcpListener::bind("127.0.0.1:0").expect("binds");
    let nobody = closed.local_addr().expect("has one");
    drop(closed);
    let refused = proxy_to(&nobody.to_string());
    assert_eq!(get(&refused, "/").status, 502);
    let upload = "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";
    assert_eq!(ask(&refused, upload).status, 502);
    await_idle(&refused);

    let (origin, proxy) = start();
    assert_eq!(get(&proxy, "/gone/").status, 502);
    // A request that cannot be passed on.
    assert_eq!(ask(&proxy, "GET / HTTP/1.0\r\n\r\n").status, 400);
    await_idle(&proxy);
    await_idle(&origin);
}

#[test]
fn a_response_that_the_origin_cuts_short_ends_visibly_at_the_client() {
    let (origin, proxy) = start();
    for path in ["/cut/1000", "/cut-chunks/1000"] {
        for version in ["1.1", "1.0"] {
            let client = Client::to(&proxy);
            client.send(format!("GET {path} HTTP/{version}\r\nHost: a\r\n\r\n"));
            let (_, end) = client.recv_to_any_end();
            assert!(Client::is_reset(&end), "{path} HTTP/{version}: {end:?}");
        }
    }
    await_idle(&proxy);
    await_idle(&origin);
}

#[test]
fn an_origin_is_left_when_its_client_leaves() {
    let (origin, proxy) = start();
    for request in [
        "GET /never/ HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "PUT /never/ HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhel".to_owned(),
        // The client reads none of it, and the proxy waits for it.
        format!("GET /page/{LEN} HTTP/1.1\r\nHost: a\r\n\r\n"),
    ] {
        for resets in [false, true] {
            let client = Client::to(&proxy);
            client.send(&request);
            eventually("the origin is asked", || origin.engine().connections() == 1);
            match resets {
                true => client.reset(),
                false => drop(client),
            }
            await_idle(&proxy);
            await_idle(&origin);
        }
    }
}

#[test]
fn pythons_server_is_served_by_a_proxy() {
    let body = noise(9, LEN);
    let Some(python) = PythonServer::start(&body) else {
        return skipped("python3 is not installed");
    };
    let proxy = proxy_to(&python.addr.to_string());
    let client = Client::to(&proxy);
    client.send("HEAD /noise HTTP/1.1\r\nHost: a\r\n\r\nGET /noise HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut most = 0;
    let mut answers = Answers::new(Watched(&client, || most = most.max(buffered(&proxy))));
    let head = answers.next("HEAD").expect("an answer");
    assert_eq!(head.header("content-length"), Some("50000000"));
    assert!(answers.get().body == body);
    assert!(most < MOST_BUFFERED, "{most} bytes are held");
    drop(client);
    assert_eq!(get(&proxy, "/none").status, 404);
    // It refuses before it has read the body.
    let upload =
        "PUT /noise HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
    assert_eq!(ask(&proxy, upload).status, 501);
    await_idle(&proxy);
}

fn buffered(proxy: &Running<Proxy>) -> u64 {
    proxy.engine().stats().total().buffered
}

fn send_body(client: &Client, framing: &str, body: &[u8]) {
    if !framing.contains("chunked") {
        return client.send(body);
    }
    for chunk in body.chunks(100_000) {
        client.send(format!("{:x}\r\n", chunk.len()));
        client.send(chunk);
        client.send("\r\n");
    }
    client.send("0\r\n\r\n");
}

/// A client's stream. Each read of it calls the function.
struct Watched<'a, F>(&'a Client, F);

impl<F: FnMut()> Read for Watched<'_, F> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        (self.1)();
        (&self.0.0).read(buffer)
    }
}
