//! Options of listeners and pools, each by what it does.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use epicycle::gateway::settings::{ForwardedFor, ListenerSettings, PoolSettings, RouteSettings};
use epicycle::gateway::{NoHooks, Running};

use crate::peers::{Asker, Origin, ok, pool_of, start, with_listener};
use crate::util::eventually;

fn listening(origin: &Origin, change: impl FnOnce(&mut ListenerSettings)) -> Running<NoHooks> {
    let mut listener = ListenerSettings::new("tcp://127.0.0.1:0");
    change(&mut listener);
    let gateway = with_listener(listener, pool_of(origin)).route(RouteSettings::to("app"));
    let gateway = gateway.build().expect("it is sound");
    gateway.start_plain().expect("it starts")
}

#[test]
fn a_connection_to_a_node_is_used_for_so_long() {
    let origin = Origin::start(|_, _| ok("x"));
    let mut pool = pool_of(&origin);
    let age = Duration::from_millis(100);
    pool.connections.max_lifetime = age;
    let gateway = start(pool);
    let begun = Instant::now();
    let mut client = Asker::to(&gateway);
    eventually("another one is made", || {
        assert_eq!(client.get("/").status(), 200);
        origin.accepted() == 2
    });
    assert!(begun.elapsed() >= age);
    assert!(origin.requests().len() > 2, "it was not used again");
}

#[test]
fn a_client_is_told_to_close_when_its_connection_has_a_certain_age() {
    let origin = Origin::start(|_, _| ok("x"));
    let age = Duration::from_millis(100);
    let gateway = listening(&origin, |listener| listener.timeouts.max_age = age);
    let begun = Instant::now();
    let mut client = Asker::to(&gateway);
    assert_eq!(client.get("/").field("connection"), None);
    eventually("it is told", || {
        client.get("/").field("connection") == Some("close")
    });
    // It is shortened by up to a tenth.
    assert!(begun.elapsed() >= age * 9 / 10);
    assert!(client.recv_to_end().is_empty());
}

#[test]
fn a_client_is_told_to_close_once_the_end_of_the_gateway_is_near() {
    let origin = Origin::start(|_, _| ok("x"));
    let gateway = listening(&origin, |_| ());
    let mut client = Asker::to(&gateway);
    assert_eq!(client.get("/").field("connection"), None);
    gateway.control().begin_drain();
    assert_eq!(client.get("/").field("connection"), Some("close"));
    assert!(client.recv_to_end().is_empty());
    // It still serves others.
    assert_eq!(Asker::to(&gateway).get("/").status(), 200);
}

#[test]
fn clients_beyond_max_clients_are_refused_until_others_leave() {
    let origin = Origin::start(|_, _| ok("x"));
    for per_ip in [false, true] {
        let gateway = listening(&origin, |listener| {
            let limits = &mut listener.limits;
            match per_ip {
                true => limits.max_clients_per_ip = Some(1),
                false => limits.max_clients = Some(1),
            }
        });
        let mut first = Asker::to(&gateway);
        assert_eq!(first.get("/").status(), 200);
        let mut second = Asker::to(&gateway);
        second.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(second.response().is_none());
        assert_eq!(first.get("/").status(), 200);
        drop(first);
        eventually("there is room", || {
            let mut third = Asker::to(&gateway);
            third.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            third
                .response()
                .is_some_and(|answer| answer.status() == 200)
        });
    }
}

#[test]
fn the_limits_of_clients_count_all_listeners_together() {
    let origin = Origin::start(|_, _| ok("x"));
    for per_ip in [false, true] {
        let mut limited = ListenerSettings::new("tcp://127.0.0.1:0");
        match per_ip {
            true => limited.limits.max_clients_per_ip = Some(1),
            false => limited.limits.max_clients = Some(1),
        }
        let gateway = with_listener(limited, pool_of(&origin))
            .listen("tcp4://127.0.0.1:0")
            .route(RouteSettings::to("app"));
        let gateway = gateway.build().expect("it is sound");
        let gateway = gateway.start_plain().expect("it starts");
        let mut first = Asker::to(&gateway);
        assert_eq!(first.get("/").status(), 200);
        let other = &gateway.local_addrs()[1];
        let other = other.as_socket_addr().expect("it is of TCP");
        let mut second = TcpStream::connect(other).expect("the kernel accepts it");
        // The gateway may have closed it already.
        let _ = second.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(second.read(&mut [0; 1]).unwrap_or(0), 0);
    }
}

#[test]
fn a_client_that_takes_no_output_is_given_up_and_its_node_with_it() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let node = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let _ = stream.read(&mut [0; 4096]).expect("a request");
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n";
        stream.write_all(head.as_bytes()).expect("is taken");
        while stream.write_all(&[b'x'; 64 << 10]).is_ok() {}
    });
    let mut listener = ListenerSettings::new("tcp://127.0.0.1:0");
    listener.timeouts.write_stall = Duration::from_millis(100);
    let gateway = with_listener(listener, PoolSettings::of([url])).route(RouteSettings::to("app"));
    let gateway = gateway.build().expect("it is sound").start_plain();
    let gateway = gateway.expect("it starts");
    let mut client = Asker::to(&gateway);
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    node.join().expect("its connection ends");
}

#[test]
fn the_fields_about_clients_are_those_that_are_asked_for() {
    let origin = Origin::start(|_, _| ok("x"));
    let request = "GET / HTTP/1.1\r\nHost: a.test:81\r\nX-Forwarded-For: 9.9.9.9\r\n\r\n";
    let gateway = listening(&origin, |listener| {
        let fields = &mut listener.forwarding;
        fields.forwarded = true;
        fields.x_forwarded_for = ForwardedFor::Replace;
    });
    assert_eq!(Asker::to(&gateway).ask(request).status(), 200);
    let seen = origin.requests().pop().expect("it came");
    let forwarded = "for=127.0.0.1;host=\"a.test:81\";proto=http";
    assert_eq!(seen.field("forwarded"), Some(forwarded));
    assert_eq!(seen.field("x-forwarded-for"), Some("127.0.0.1"));

    let gateway = listening(&origin, |listener| {
        let fields = &mut listener.forwarding;
        fields.x_forwarded_for = ForwardedFor::Off;
        (fields.x_real_ip, fields.x_forwarded, fields.via) = (false, false, false);
    });
    assert_eq!(Asker::to(&gateway).ask(request).status(), 200);
    let seen = origin.requests().pop().expect("it came");
    for name in [
        "forwarded",
        "x-real-ip",
        "x-forwarded-proto",
        "x-forwarded-host",
        "via",
    ] {
        assert_eq!(seen.field(name), None, "{name}");
    }
    // Nobody has touched it.
    assert_eq!(seen.field("x-forwarded-for"), Some("9.9.9.9"));
}
