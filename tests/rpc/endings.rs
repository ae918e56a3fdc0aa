//! The ends of calls, streams and sessions where they are least convenient.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Wake, Waker};
use std::thread;
use std::time::Duration;

use epicycle::rpc::wire::{Codec, Dialect, Kind, Message};
use epicycle::rpc::{
    Health, Peer, Pending, Receiver, Responder, Router, Sender, Session, Swap, code,
};
use epicycle::{Connect, Reconnect};
use parking_lot::Mutex;

use crate::ends::{block_on, dial, listening, start, try_dial};
use crate::util::process::{alone, descriptors};
use crate::util::{LONG, eventually, expect_panics};
use crate::wire::{Form, decode};

fn routes() -> Router {
    let mut routes = Router::new();
    routes.call("/echo", |_ctx, n: u64| Ok(n));
    let kept = Mutex::new(Vec::new());
    routes.call_later("/never", move |_ctx, _: (), reply: Responder<()>| {
        kept.lock().push(reply);
    });
    routes.stream_async("/sum", |_ctx, _: (), mut rx: Receiver<u64>| async move {
        let mut sum = 0;
        while let Some(n) = rx.next().await {
            sum += n?;
        }
        Ok(sum)
    });
    routes.stream("/count", |_ctx, to: u64, tx: Sender<u64>| {
        (0..to).for_each(|n| tx.send(&n).expect("has room"));
        tx.finish();
    });
    routes
}

/// A server with routes, a client, and the client's session.
fn pair(routes: Router) -> (Peer, Peer, Session) {
    let (server, client) = (start(listening().routes(routes)), start(Peer::builder()));
    let session = dial(&client, &server);
    (server, client, session)
}

/// A client whose only reactor waits, in a push that the server has sent, until something comes out of the channel.
struct Blocked<T> {
    server: Peer,
    client: Peer,
    session: Session,
    gate: mpsc::Sender<T>,
}

fn blocked<T: Send + 'static>(then: impl Fn(T) + Send + Sync + 'static) -> Blocked<T> {
    let (gate, waits) = mpsc::channel::<T>();
    let waits = Mutex::new(waits);
    let (tells, began) = mpsc::channel();
    let tells = Mutex::new(tells);
    let mut pushes = Router::new();
    pushes.push("/block", move |_ctx, _: ()| {
        tells.lock().send(()).expect("is awaited");
        then(waits.lock().recv_timeout(LONG).expect("is released"));
        Ok(())
    });
    let server = start(listening().routes(routes()));
    let client = Peer::builder().routes(pushes);
    let client = start(client.server(|server| server.mailbox(10)));
    let session = dial(&client, &server);
    eventually("it is accepted", || server.session_count() == 1);
    server.sessions()[0].push("/block", &()).expect("is sent");
    began.recv_timeout(LONG).expect("it waits");
    Blocked {
        server,
        client,
        session,
        gate,
    }
}

/// Fills the mailbox of the reactor that waits.
fn fill(session: &Session) {
    eventually("the mailbox is full", || {
        let pushed = session.push("/any", &());
        pushed.is_err_and(|status| status.code == code::WRITE_FAILED)
    });
}

#[test]
fn a_session_closes_also_if_the_mailbox_is_full() {
    for aborts in [false, true] {
        let blocked = blocked(|()| {});
        fill(&blocked.session);
        match aborts {
            true => blocked.session.abort(),
            false => blocked.session.close(),
        }
        blocked.gate.send(()).expect("it waits");
        assert!(blocked.session.wait_closed(LONG), "aborts: {aborts}");
        eventually("the other side knows", || {
            blocked.server.session_count() == 0
        });
        assert_eq!(blocked.client.session_count(), 0);
    }
}

#[test]
fn a_call_is_cancelled_also_if_the_mailbox_is_full() {
    let blocked = blocked(|()| {});
    let call = blocked.session.call::<_, ()>("/never", &()).no_timeout();
    let pending = call.send();
    fill(&blocked.session);
    pending.cancel();
    blocked.gate.send(()).expect("it waits");
    let result = pending.wait_timeout(LONG).expect("ends");
    assert_eq!(result.map_err(|status| status.code), Err(code::CANCELLED));
}

#[test]
fn a_cancellation_that_overtakes_its_call_counts() {
    let (back, cancelled) = mpsc::channel();
    let back = Mutex::new(back);
    // The reactor cancels the call, which waits in its mailbox.
    let blocked = blocked(move |pending: Pending<()>| {
        pending.cancel();
        back.lock().send(pending).expect("is awaited");
    });
    let call = blocked.session.call("/never", &()).no_timeout();
    blocked.gate.send(call.send()).expect("it waits");
    let pending = cancelled.recv_timeout(LONG).expect("comes back");
    let result = pending.wait_timeout(LONG).expect("ends");
    assert_eq!(result.map_err(|status| status.code), Err(code::CANCELLED));
    assert_eq!(blocked.session.call("/echo", &7u64).wait(), Ok(7u64));
}

#[test]
fn the_last_handle_of_a_peer_may_be_dropped_on_its_own_reactor() {
    /// A value of the reactor. It is dropped when the reactor ends, outside of any callback.
    struct Last(Arc<Mutex<Option<Peer>>>, mpsc::Sender<bool>);
    impl Drop for Last {
        fn drop(&mut self) {
            let last = self.0.lock().take();
            let dropped = catch_unwind(AssertUnwindSafe(|| drop(last)));
            let _ = self.1.send(dropped.is_ok());
        }
    }
    let slot: Arc<Mutex<Option<Peer>>> = Arc::default();
    let (tells, dropped) = mpsc::channel();
    let own = slot.clone();
    let server = start(listening().local(move || Last(own.clone(), tells.clone())));
    let client = start(Peer::builder());
    let session = dial(&client, &server);
    eventually("it is accepted", || server.session_count() == 1);
    let handle = server.sessions()[0].peer().expect("runs");
    *slot.lock() = Some(server);
    assert!(handle.shutdown().is_none(), "it does not own the threads");
    assert_eq!(dropped.recv_timeout(LONG), Ok(true));
    assert!(session.wait_closed(LONG));
}

#[test]
fn a_blocking_handler_may_shut_its_own_peer_down() {
    for drops in [false, true] {
        let slot: Arc<Mutex<Option<Peer>>> = Arc::default();
        let mut routes = Router::new();
        let own = slot.clone();
        routes.call_blocking("/stop", move |_ctx, _: ()| {
            let peer = own.lock().take().expect("is there once");
            match drops {
                true => drop(peer),
                false => assert!(peer.shutdown().is_none(), "it does not wait"),
            }
            Ok(7)
        });
        let server = listening().server(|server| server.drain_deadline(3 * LONG));
        let server = start(server.routes(routes));
        let client = start(Peer::builder());
        let session = dial(&client, &server);
        *slot.lock() = Some(server);
        let call = session.call::<_, u64>("/stop", &()).no_timeout().send();
        assert_eq!(call.wait_timeout(LONG).expect("ends"), Ok(7));
        assert!(session.wait_closed(LONG));
    }
}

#[test]
fn waiting_on_a_reactors_thread_fails_outside_of_handlers_too() {
    let (_server, _client, session) = pair(routes());
    let (tells, results) = mpsc::channel();
    let other = Peer::builder().local(move || {
        let result = session.call::<_, ()>("/never", &()).no_timeout().wait();
        tells
            .send(result.expect_err("cannot wait"))
            .expect("is awaited");
    });
    let _other = thread::spawn(move || start(other));
    let status = results.recv_timeout(LONG).expect("does not wait");
    assert!(status.reason.contains("use `then`"), "{status}");
}

#[test]
fn a_waker_that_panics_costs_nobody_anything() {
    struct Panics;
    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            panic!("on purpose: a waker");
        }
    }
    expect_panics();
    let (server, client, session) = pair(routes());
    let waker = Waker::from(Arc::new(Panics));
    let mut context = Context::from_waker(&waker);
    let mut call = Box::pin(session.call::<_, u64>("/echo", &7u64).into_future());
    if call.as_mut().poll(&mut context).is_pending() {
        assert_eq!(session.call("/echo", &8u64).wait(), Ok(8u64));
        assert_eq!(block_on(call), Ok(7));
    }
    let (tx, mut rx) = session.stream("/sum", &()).open::<u64, u64>();
    assert!(rx.poll_next(&mut context).is_pending());
    tx.finish();
    assert_eq!(rx.wait_only(), Ok(0));
    assert_eq!(session.health(), Health::Open);
    assert_eq!((client.session_count(), server.session_count()), (1, 1));
}

#[test]
fn an_item_whose_encoding_panics_costs_no_credit() {
    struct Panics;
    impl serde::Serialize for Panics {
        fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            panic!("on purpose: an item");
        }
    }
    expect_panics();
    let (_server, _client, session) = pair(routes());
    let (tx, _rx) = session.stream("/sum", &()).open::<Panics, u64>();
    tx.wait_room().expect("is accepted");
    let before = tx.credit();
    for _ in 0..2 * before {
        catch_unwind(AssertUnwindSafe(|| tx.send(&Panics))).expect_err("panics");
    }
    assert_eq!(tx.credit(), before);
}

#[test]
fn callbacks_of_a_stream_that_has_ended_are_dropped() {
    let (_server, _client, session) = pair(routes());
    let token = Arc::new(());
    let (tx, rx) = session.stream("/sum", &()).open::<u64, u64>();
    let (handle, kept) = (rx.handle(), token.clone());
    tx.on_cancel(move |_| {
        handle.cancel();
        drop(kept);
    });
    tx.wait_room().expect("is accepted");
    tx.send(&7).expect("has room");
    tx.finish();
    assert_eq!(rx.wait_only(), Ok(7));
    eventually("nobody owns it", || Arc::strong_count(&token) == 1);
}

#[test]
fn a_callback_that_is_set_after_the_end_gets_the_end() {
    let (_server, _client, session) = pair(routes());
    let mut rx: Receiver<u64> = session.stream("/count", &2u64).receive();
    while let Some(item) = rx.wait_next() {
        item.expect("arrives");
    }
    let (tells, ends) = mpsc::channel();
    rx.on_item(drop, move |end| drop(tells.send(end)));
    assert_eq!(ends.recv_timeout(LONG), Ok(Ok(())));
    assert!(ends.recv_timeout(LONG).is_err(), "it is called once");
}

#[test]
fn a_value_of_a_swap_may_use_the_swap_when_it_is_dropped() {
    struct Looks(Arc<Swap>, Arc<AtomicUsize>);
    impl Drop for Looks {
        fn drop(&mut self) {
            self.1.fetch_add(self.0.len() + 1, Ordering::Relaxed);
        }
    }
    let (swap, seen) = (Arc::new(Swap::default()), Arc::default());
    let looks = || Looks(swap.clone(), Arc::clone(&seen));
    swap.set("one", looks());
    assert!(swap.set("one", looks()));
    assert!(swap.remove("one"));
    swap.set("one", looks());
    let other = Swap::default();
    other.set("one", 7);
    swap.copy_from(&other);
    assert_eq!(seen.load(Ordering::Relaxed), 2 + 1 + 2);
}

const RAW: Form = Form::Raw(Dialect::V4_1);

fn connect(server: &Peer) -> TcpStream {
    let addr = server.local_addrs()[0].as_socket_addr().expect("is TCP");
    let socket = TcpStream::connect(addr).expect("connects");
    socket.set_read_timeout(Some(LONG)).expect("is set");
    socket
}

fn encoded(kind: Kind, seq: &str, uri: &str, meta: &[(&str, &str)], body: &str) -> Vec<u8> {
    let mut message = Message::new(kind);
    message.seq = seq.as_bytes().into();
    message.uri = uri.as_bytes().into();
    for (key, value) in meta {
        message.meta.add(key, value);
    }
    if !body.is_empty() {
        message.codec = Codec::JSON;
        message.body = body.as_bytes().into();
    }
    RAW.encode(&message).expect("can be sent")
}

/// Reads a message, and returns what `f` makes of it. Returns `None` at the end.
fn hear<R>(mut socket: &TcpStream, f: impl FnOnce(Message<'_>) -> R) -> Option<R> {
    let mut bytes = vec![0; 4];
    socket.read_exact(&mut bytes).ok()?;
    let size = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize;
    bytes.resize(size, 0);
    socket.read_exact(&mut bytes[4..]).ok()?;
    let (message, _) = decode(RAW, &bytes).expect("is a message");
    Some(f(message))
}

#[test]
fn a_handler_that_waits_for_a_peer_that_has_left_ends() {
    let mut routes = routes();
    routes.call_async("/ask", |ctx, _: ()| async move {
        let call = ctx.session().call::<_, u64>("/anything", &()).no_timeout();
        call.await
    });
    let server = start(listening().routes(routes));
    let socket = connect(&server);
    let ask = encoded(Kind::Call, "a", "/ask", &[], "null");
    (&socket).write_all(&ask).expect("is sent");
    hear(&socket, |message| assert_eq!(message.kind, Kind::Call)).expect("it is called back");
    socket.shutdown(Shutdown::Write).expect("ends");
    let status = hear(&socket, |message| message.status()).expect("is answered");
    let status = status.expect("fails");
    assert_eq!(status.code, code::CONNECTION_CLOSED, "{status}");
    eventually("it is closed", || server.session_count() == 0);
}

#[test]
fn what_a_peer_has_sent_before_it_leaves_counts() {
    const ITEMS: u64 = 20_000;
    let server = start(listening().routes(routes()).stream_credit(1 << 20));
    let socket = connect(&server);
    let mut bytes = encoded(Kind::Call, "s", "/sum", &[("X-Stream", "1")], "null");
    let of = [("X-Stream-Id", "s"), ("X-Stream-By", "opener")];
    for _ in 0..ITEMS {
        bytes.extend(encoded(Kind::Push, "0", "/_/item", &of, "1"));
    }
    bytes.extend(encoded(Kind::Push, "0", "/_/end", &of, ""));
    (&socket).write_all(&bytes).expect("is sent");
    socket.shutdown(Shutdown::Write).expect("ends");
    let mut heard = Vec::new();
    while let Some((uri, body, status)) = hear(&socket, |message| {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (text(&message.uri), text(&message.body), message.status())
    }) {
        assert_eq!(status, None);
        if uri == "/_/item" {
            heard.push(body);
        }
    }
    assert_eq!(heard, [ITEMS.to_string()]);
}

#[test]
fn replies_of_a_peer_before_it_leaves_count() {
    const CALLS: usize = 5000;
    let server = start(listening().routes(routes()));
    let socket = connect(&server);
    // Something is owed, so that the connection stays.
    let owed = encoded(Kind::Call, "a", "/never", &[], "null");
    (&socket).write_all(&owed).expect("is sent");
    eventually("it is accepted", || server.session_count() == 1);
    let session = server.sessions().remove(0);
    let calls: Vec<Pending<u64>> = (0..CALLS)
        .map(|n| {
            loop {
                let pending = session.call("/anything", &n).no_timeout().send();
                match pending.try_result() {
                    None => break pending,
                    // The mailbox is full.
                    Some(_) => thread::sleep(Duration::from_millis(1)),
                }
            }
        })
        .collect();
    let mut bytes = Vec::new();
    while bytes.len() < CALLS * 2 {
        let heard = hear(&socket, |message| {
            (message.kind == Kind::Call).then(|| String::from_utf8_lossy(&message.seq).into_owned())
        });
        if let Some(seq) = heard.expect("arrives") {
            bytes.push(encoded(Kind::Reply, &seq, "", &[], "7"));
        }
        if bytes.len() == CALLS {
            break;
        }
    }
    (&socket).write_all(&bytes.concat()).expect("is sent");
    socket.shutdown(Shutdown::Write).expect("ends");
    for call in calls {
        assert_eq!(call.wait_timeout(LONG).expect("ends"), Ok(7));
    }
    server.shutdown_within(Duration::ZERO);
}

#[test]
fn a_peer_that_says_nonsense_leaves_nothing_under_way() {
    let server = start(listening().routes(routes()));
    let socket = connect(&server);
    let mut bytes = Vec::new();
    let huge = "18446744073709551615";
    for (n, value) in ["0", huge, "-1", "", "1e3", "١", "99999999999999999999999"]
        .iter()
        .enumerate()
    {
        let seq = n.to_string();
        bytes.extend(encoded(
            Kind::Call,
            &seq,
            "/sum",
            &[("X-Stream", value)],
            "null",
        ));
        bytes.extend(encoded(
            Kind::Call,
            &seq,
            "/echo",
            &[("X-Timeout", value)],
            "7",
        ));
        bytes.extend(encoded(
            Kind::Call,
            &seq,
            "/never",
            &[("X-Timeout", value)],
            "null",
        ));
        for kind in [Kind::Reply, Kind::Reply] {
            bytes.extend(encoded(kind, value, "", &[("X-Stream", value)], "7"));
        }
        for by in ["opener", "acceptor", "", "both"] {
            let of = [("X-Stream-Id", &*seq), ("X-Stream-By", by)];
            for path in [
                "/_/item",
                "/_/credit",
                "/_/end",
                "/_/end",
                "/_/item",
                "/_/what",
            ] {
                bytes.extend(encoded(Kind::Push, value, path, &of, "1"));
            }
        }
    }
    // Each call and each stream is cancelled, twice. JSON strings are not plain text, so these are sent by hand.
    for n in 0..8 {
        for _ in 0..3 {
            let mut cancel = Message::push("/_/cancel");
            cancel.codec = Codec::PLAIN;
            cancel.body = n.to_string().into_bytes().into();
            bytes.extend(RAW.encode(&cancel).expect("can be sent"));
        }
    }
    (&socket).write_all(&bytes).expect("is sent");
    let last = encoded(Kind::Call, "last", "/echo", &[], "1");
    (&socket).write_all(&last).expect("is sent");
    while !hear(&socket, |message| *message.seq == *b"last").expect("arrives") {}
    let in_flight = || {
        let routes = ["/sum", "/echo", "/never"];
        let stats = server.stats();
        routes.map(|route| stats.call(route).expect("is a route").stats.in_flight())
    };
    assert_eq!(in_flight(), [0, 0, 0]);
    drop(socket);
    eventually("it has left", || server.session_count() == 0);
    assert_eq!(in_flight(), [0, 0, 0]);
}

#[test]
fn times_of_nothing_and_without_end_are_taken() {
    let (server, _client, session) = pair(routes());
    for time in [Duration::ZERO, Duration::from_nanos(1), Duration::MAX] {
        if time != Duration::from_nanos(1) {
            // It would be over at once.
            session.set_age(time);
        }
        session.set_handle_timeout(time);
        session.set_timer("none", time);
        let echo = session.call::<_, u64>("/echo", &7u64).timeout(time).wait();
        match echo {
            Ok(7) => {}
            Err(status) => assert_eq!(status.code, code::HANDLE_TIMEOUT, "{status}"),
            other => panic!("{other:?}"),
        }
        session.set_age(None);
    }
    server.sessions()[0].set_handle_timeout(Duration::MAX);
    server.sessions()[0].set_age(Duration::MAX);
    let numbers: Receiver<u64> = session
        .stream("/count", &3u64)
        .timeout(Duration::MAX)
        .receive();
    assert_eq!(numbers.into_iter().count(), 3);
    if session.health() == Health::Open {
        assert_eq!(session.call("/echo", &7u64).wait(), Ok(7u64));
    }
    session.close_within(Duration::MAX);
    assert!(session.wait_closed(Duration::MAX));
}

#[test]
fn a_call_that_fails_fast_does_not_wait_for_a_session_that_redials() {
    let server = start(listening().routes(routes()));
    let later = Reconnect::new(Duration::from_secs(60), Duration::from_secs(60));
    let client = start(Peer::builder().redial(later));
    let session = dial(&client, &server);
    assert_eq!(session.call("/echo", &7u64).fail_fast().wait(), Ok(7u64));
    eventually("it is accepted", || server.session_count() == 1);
    let under_way = session.call::<_, ()>("/never", &());
    let under_way = under_way.idempotent().fail_fast().send();
    session
        .call::<_, u64>("/echo", &7u64)
        .wait()
        .expect("it has arrived");
    server.sessions()[0].abort();
    assert_eq!(
        under_way.wait().map_err(|status| status.code),
        Err(code::CONNECTION_CLOSED)
    );
    eventually("it redials", || session.health() == Health::Redialling);
    let call = || {
        session
            .call::<_, u64>("/echo", &7u64)
            .timeout(Duration::from_millis(100))
    };
    let status = call()
        .fail_fast()
        .wait()
        .expect_err("there is no connection");
    assert_eq!(status.code, code::CONNECTION_CLOSED);
    assert!(status.reason.contains("redialling"), "{status}");
    // Others wait.
    assert_eq!(
        call().wait().map_err(|status| status.code),
        Err(code::HANDLE_TIMEOUT)
    );
    session.abort();
}

#[test]
fn a_dial_ends_also_if_the_peer_shuts_down_meanwhile() {
    let server = start(listening().routes(routes()));
    for round in 0..20 {
        let client = start(Peer::builder().redial(Reconnect::new(
            Duration::from_millis(1),
            Duration::from_millis(2),
        )));
        let dials: Vec<_> = (0..4)
            .map(|_| {
                let (client, to) = (client.clone(), server.local_addrs()[0].clone());
                thread::spawn(move || while client.dial(&to).is_ok() {})
            })
            .collect();
        thread::sleep(Duration::from_millis(round));
        client.shutdown_within(LONG);
        let (tells, told) = mpsc::channel();
        thread::spawn(move || {
            dials
                .into_iter()
                .for_each(|dial| dial.join().expect("ends"));
            let _ = tells.send(());
        });
        told.recv_timeout(LONG).expect("each dial ends");
        assert_eq!(
            try_dial(&client, &server).map_err(|status| status.code),
            Err(code::DIAL_FAILED)
        );
    }
    eventually("all have left", || server.session_count() == 0);
}

#[test]
fn a_server_that_leaves_at_each_byte_of_the_handshake_costs_nothing() {
    let name = "endings::a_server_that_leaves_at_each_byte_of_the_handshake_costs_nothing";
    alone(name, || {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let addr = listener.local_addr().expect("is bound");
        let bearer = epicycle::rpc::plugins::auth::Bearer::new("token");
        let client = start(Peer::builder().plugin(bearer));
        let before = descriptors();
        let policy = Reconnect::new(Duration::from_millis(1), Duration::from_millis(2));
        let (tells, ended) = mpsc::channel();
        let to = Connect::to(addr).reconnect(policy.limit(40));
        client.dial_then(to, move |result| drop(tells.send(result)));
        let reply = encoded(Kind::Reply, "0", "/auth/verify", &[], "");
        thread::spawn(move || {
            for n in 1usize.. {
                let (mut socket, _) = listener.accept().expect("it comes again");
                let mut first = [0; 64];
                let got = socket.read(&mut first[..n.min(64)]);
                assert!(got.expect("it authenticates") > 0);
                let _ = socket.write_all(&reply[..n.min(reply.len() - 1)]);
            }
        });
        let status = ended
            .recv_timeout(LONG)
            .expect("it gives up")
            .expect_err("fails");
        assert_eq!(status.code, code::DIAL_FAILED, "{status}");
        assert!(ended.recv().is_err(), "it is told once");
        assert_eq!(client.session_count(), 0);
        eventually("descriptors are closed", || descriptors() <= before);
    });
}
