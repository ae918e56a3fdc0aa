//! Echoes over outbound connections, on every transport and against every server.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::thread;

use epicycle::{Action, Bytes, CloseReason, ConnId, Connect, Endpoint, Handle, Origin, Server};

use crate::util::app::{App, Log, start, start_client};
use crate::util::client::{Client, TempPath};
use crate::util::process::raise_descriptor_limit;
use crate::util::{eventually, noise, skipped};
use crate::{address, client, copy_back, plain_echo};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const SIZES: [usize; 6] = [1, 2, 1000, 16 * KIB, 80 * KIB + 1, MIB];

/// Sends `bytes` in so many pieces once it is open, and closes when all of them are back. It aborts when something
/// else comes.
fn sends(app: App, bytes: Arc<Vec<u8>>, pieces: usize) -> App {
    let expected = bytes.clone();
    app.on_open(move |conn| {
        let piece = bytes.len().div_ceil(pieces);
        bytes.chunks(piece).all(|piece| conn.write(piece).is_ok())
    })
    .react(move |conn, session, frame| {
        let from = session.number as usize;
        if expected.get(from..from + frame.len()) != Some(frame) {
            conn.abort();
            return Action::Continue;
        }
        session.number += frame.len() as u64;
        if session.number as usize == expected.len() {
            Action::Close
        } else {
            Action::Continue
        }
    })
}

/// Waits for the end of so many connections, each of which has got back what it sent.
fn all_came_back(log: &Log, connections: usize, bytes: usize) {
    for n in 0..connections {
        let (closed, reason) = log.await_close(n);
        assert!(matches!(*reason, CloseReason::Local), "{reason}");
        assert_eq!(closed.bytes_in, bytes as u64);
        assert_eq!(closed.bytes_out, bytes as u64);
    }
    assert!(log.failures().is_empty());
}

fn matrix(to: &Endpoint) {
    for reactors in [1, 2] {
        for size in SIZES {
            for pieces in [1, 7] {
                println!("{to}, {reactors} reactors, {size} bytes in {pieces} pieces");
                let bytes = Arc::new(noise(size as u64, size));
                let make = move |app| sends(app, bytes.clone(), pieces);
                let (running, log) = start_client(client(reactors), make);
                for token in 0..4 {
                    let connect = Connect::to(to.clone()).token(token);
                    running.engine().connect(connect).expect("is taken");
                }
                all_came_back(&log, 4, size);
                let total = running.shutdown().stats.total();
                assert_eq!((total.connected, total.closed), (4, 4));
                assert_eq!((total.accepted, total.connect_failures), (0, 0));
            }
        }
    }
}

#[test]
fn tcp4_comes_back_from_a_server_of_ours() {
    let (server, _) = start(Server::bind("tcp://127.0.0.1:0").reactors(2), |app| app);
    matrix(&address(&server).into());
}

#[test]
fn tcp6_comes_back_from_a_server_of_ours() {
    if TcpListener::bind("[::1]:0").is_err() {
        return skipped("this host has no IPv6");
    }
    let (server, _) = start(Server::bind("tcp://[::1]:0").reactors(2), |app| app);
    matrix(&address(&server).into());
}

#[test]
fn unix_comes_back_from_a_server_of_ours() {
    let path = TempPath::new();
    let (_server, _) = start(Server::bind(path.addr()).reactors(2), |app| app);
    matrix(&path.addr().parse().expect("an address"));
}

#[test]
fn tcp_comes_back_from_a_plain_server() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let addr = listener.local_addr().expect("has an address");
    plain_echo(listener);
    matrix(&addr.into());
}

#[test]
fn unix_comes_back_from_a_plain_server() {
    let path = TempPath::new();
    let listener = UnixListener::bind(&path.0).expect("binds");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.expect("accepts");
            thread::spawn(move || copy_back(&stream, &stream));
        }
    });
    matrix(&path.addr().parse().expect("an address"));
}

#[test]
fn a_thousand_connects_at_once_are_all_served() {
    raise_descriptor_limit();
    let (server, _) = start(Server::bind("tcp://127.0.0.1:0").reactors(2), |app| app);
    let addr = address(&server);
    let bytes = Arc::new(noise(1, 1000));
    let (running, log) = start_client(client(2), move |app| sends(app, bytes.clone(), 1));
    for token in 0..1000 {
        let connect = Connect::to(addr).token(token);
        running.engine().connect(connect).expect("is taken");
    }
    all_came_back(&log, 1000, 1000);
    eventually("none is left", || running.engine().connections() == 0);
}

#[test]
fn the_origin_tells_which_connection_it_is() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let plain = listener.local_addr().expect("has an address");
    plain_echo(listener);
    let origins = Arc::<Mutex<Vec<Origin>>>::default();
    let seen = origins.clone();
    let server = Server::bind("tcp://127.0.0.1:0").and("tcp://127.0.0.1:0");
    let (running, log) = start(server.reactors(2), move |app| {
        let seen = seen.clone();
        app.on_open(move |conn| {
            seen.lock().expect("no panics").push(conn.origin());
            true
        })
    });
    let clients: Vec<_> = running.local_addrs().iter().map(Client::connect).collect();
    log.await_open(1);
    for token in [7, u64::MAX] {
        let connect = Connect::to(plain).token(token);
        running.engine().connect(connect).expect("is taken");
    }
    log.await_open(3);
    let origins = origins.lock().expect("no panics");
    for origin in [
        Origin::Accepted { listener: 0 },
        Origin::Accepted { listener: 1 },
        Origin::Connected { token: 7 },
        Origin::Connected { token: u64::MAX },
    ] {
        let times = origins.iter().filter(|seen| **seen == origin).count();
        assert_eq!(times, 1, "{origin:?} of {origins:?}");
    }
    drop(clients);
}

/// Passes on what arrives to a connection of its own, and back; what comes before that one is open waits.
fn proxies(app: App, to: Endpoint) -> App {
    let partners = Rc::new(RefCell::new(HashMap::<ConnId, Handle<App>>::new()));
    let waiting = RefCell::new(HashMap::<u64, Handle<App>>::new());
    let of = partners.clone();
    let ends = partners.clone();
    app.on_open(move |conn| {
        let own = conn.handle();
        match conn.origin() {
            Origin::Connected { token } => {
                let partner = waiting.borrow_mut().remove(&token).expect("waits");
                partners.borrow_mut().insert(partner.id(), own.clone());
                let resumed = partner.run(|_, conn, _| conn.resume_reads());
                partners.borrow_mut().insert(own.id(), partner);
                resumed.is_ok()
            }
            _ => {
                conn.pause_reads();
                let token = conn.id().as_u64();
                let connect = Connect::to(to.clone()).token(token);
                waiting.borrow_mut().insert(token, own);
                let reactor = conn.id().reactor();
                conn.engine().connect_on(reactor, connect).is_ok()
            }
        }
    })
    .react(move |conn, _, frame| {
        let of = of.borrow();
        let partner = of.get(&conn.id()).expect("has a partner");
        match partner.write(Bytes::copy_from_slice(frame)) {
            Ok(()) => Action::Continue,
            Err(_) => Action::Close,
        }
    })
    .on_close(move |_, info, _| {
        if let Some(partner) = ends.borrow_mut().remove(&info.id) {
            let _ = partner.close();
        }
    })
}

#[test]
fn one_engine_is_a_server_and_a_client() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let plain = listener.local_addr().expect("has an address");
    plain_echo(listener);
    let server = Server::bind("tcp://127.0.0.1:0").reactors(2);
    let (running, log) = start(server, move |app| proxies(app, plain.into()));
    let bytes = noise(1, MIB);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let client = Client::to(&running);
                client.echo_all(&bytes);
                client.end_writes();
                assert!(client.recv_to_end().is_empty());
            });
        }
    });
    eventually("all close", || log.closed() == 16);
    let total = running.shutdown().stats.total();
    assert_eq!((total.accepted, total.connected), (8, 8));
}
