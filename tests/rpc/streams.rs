//! Streams of items between peers.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use epicycle::rpc::wire::{Codec, Dialect, Kind, Message, Raw};
use epicycle::rpc::{
    Peer, Receiver, Responder, Router, SendError, Sender, Session, Status, WhenFull, code,
};
use parking_lot::Mutex;

use crate::ends::{block_on, dial, listening, start};
use crate::util::{LONG, eventually, expect_panics};
use crate::wire::{Form, decode};

/// A server with these routes, a client, and the client's session.
fn pair(routes: Router) -> (Peer, Peer, Session) {
    let (server, client) = (start(listening().routes(routes)), start(Peer::builder()));
    let session = dial(&client, &server);
    (server, client, session)
}

/// Sends numbers as fast as their reader takes them, and the end.
fn send_all(tx: Sender<u64>, numbers: Vec<u64>) {
    let sent = numbers.iter().take_while(|n| tx.send(n).is_ok()).count();
    let rest = numbers[sent..].to_vec();
    if rest.is_empty() {
        return tx.finish();
    }
    tx.when_room(move |tx| {
        if let Ok(tx) = tx {
            send_all(tx, rest);
        }
    });
}

fn count(_: &epicycle::rpc::CallCtx<'_>, to: u64, tx: Sender<u64>) {
    send_all(tx, (0..to).collect());
}

/// Routes of streams in every direction, by every kind of handler.
fn routes() -> Router {
    type Both = (Sender<u64>, Receiver<u64>);
    let mut routes = Router::new();
    routes.stream("/count", count);
    routes.stream_blocking("/count/blocking", |_ctx, to: u64, tx: Sender<u64>| {
        (0..to).try_for_each(|n| tx.send_wait(&n))?;
        Ok(())
    });
    routes.stream_async(
        "/count/async",
        |_ctx, to: u64, tx: Sender<u64>| async move {
            for n in 0..to {
                tx.send_async(&n).await?;
            }
            Ok(())
        },
    );
    routes.stream(
        "/sum",
        |_ctx, start: u64, (rx, reply): (Receiver<u64>, Responder<u64>)| {
            let sum = Arc::new(Mutex::new(start));
            let total = sum.clone();
            rx.on_item(
                move |n| *sum.lock() += n,
                move |end| reply.send(end.map(|()| *total.lock())),
            );
        },
    );
    routes.stream_blocking("/sum/blocking", |_ctx, start: u64, rx: Receiver<u64>| {
        let numbers = rx.into_iter().collect::<Result<Vec<_>, _>>()?;
        Ok(start + numbers.iter().sum::<u64>())
    });
    routes.stream_async(
        "/sum/async",
        |_ctx, start: u64, mut rx: Receiver<u64>| async move {
            let mut sum = start;
            while let Some(n) = rx.next().await {
                sum += n?;
            }
            Ok(sum)
        },
    );
    routes.stream("/double", |_ctx, _: (), (tx, rx): Both| {
        // The opener grants as much credit as it has itself, but not at the same moment.
        let waiting: Arc<Mutex<Vec<u64>>> = Arc::default();
        let tx = Arc::new(Mutex::new(Some(tx)));
        let (items, last) = (waiting.clone(), tx.clone());
        rx.on_item(
            move |n| {
                let mut waiting = items.lock();
                waiting.push(2 * n);
                let tx = tx.lock();
                let tx = tx.as_ref().expect("has not ended");
                let sent = waiting.iter().take_while(|n| tx.send(n).is_ok()).count();
                waiting.drain(..sent);
            },
            move |end| {
                let tx = last.lock().take().expect("ends once");
                match end {
                    Ok(()) => send_all(tx, waiting.lock().drain(..).collect()),
                    Err(status) => tx.fail(status),
                }
            },
        );
    });
    routes.stream_blocking("/double/blocking", |_ctx, _: (), (tx, rx): Both| {
        for n in rx {
            tx.send_wait(&(2 * n?))?;
        }
        Ok(())
    });
    routes.stream_async(
        "/double/async",
        |_ctx, _: (), (tx, mut rx): Both| async move {
            while let Some(n) = rx.next().await {
                tx.send_async(&(2 * n?)).await?;
            }
            Ok(())
        },
    );
    routes
}

/// A reader of a stream by callbacks: the items, and the ends.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Seen>>);

type Seen = (Vec<u64>, Vec<Result<(), Status>>);

impl Log {
    fn read(&self, rx: Receiver<u64>) -> epicycle::rpc::StreamHandle {
        let (items, ends) = (self.0.clone(), self.0.clone());
        rx.on_item(
            move |item| items.lock().0.push(item),
            move |end| ends.lock().1.push(end),
        )
    }

    fn len(&self) -> usize {
        self.0.lock().0.len()
    }

    /// Waits for the end.
    fn end(&self) -> Result<(), Status> {
        eventually("the stream ends", || !self.0.lock().1.is_empty());
        self.0.lock().1[0].clone()
    }

    fn items(&self) -> Vec<u64> {
        self.0.lock().0.clone()
    }
}

fn code_of<T: std::fmt::Debug>(result: Result<T, Status>) -> i32 {
    result.expect_err("fails").code
}

/// The code of the end of a stream, behind any items. 0 if it has not failed.
fn end_of(rx: Receiver<u64>) -> i32 {
    let failure = rx.into_iter().find_map(Result::err);
    failure.map_or(0, |status| status.code)
}

#[test]
fn a_client_reads_items_by_callbacks_in_a_loop_or_in_a_future() {
    let (_server, _client, session) = pair(routes());
    let expected: Vec<u64> = (0..1000).collect();
    for path in ["/count", "/count/blocking", "/count/async"] {
        let log = Log::default();
        log.read(session.stream(path, &1000).receive());
        assert_eq!(log.end(), Ok(()), "{path}");
        assert_eq!(log.items(), expected, "{path}");

        let rx: Receiver<u64> = session.stream(path, &1000).receive();
        let read: Result<Vec<_>, _> = rx.into_iter().collect();
        assert_eq!(read.as_ref(), Ok(&expected), "{path}");

        let mut rx: Receiver<u64> = session.stream(path, &1000).credit(3).receive();
        let read = block_on(async move {
            let mut read = Vec::new();
            while let Some(item) = rx.next().await {
                read.push(item.expect("arrives"));
            }
            assert!(rx.next().await.is_none());
            read
        });
        assert_eq!(read, expected, "{path}");
    }
}

#[test]
fn a_client_sends_items_and_gets_one_result() {
    let (_server, _client, session) = pair(routes());
    for path in ["/sum", "/sum/blocking", "/sum/async"] {
        let (tx, rx) = session.stream(path, &7).open::<u64, u64>();
        for n in 0..1000 {
            tx.send_wait(&n).expect("is taken");
        }
        tx.finish();
        assert_eq!(rx.wait_only(), Ok(7 + 499_500), "{path}");
        // Without items.
        let rx: Receiver<u64> = session.stream(path, &7).receive();
        assert_eq!(rx.wait_only(), Ok(7), "{path}");
        // A failure of the items is the handler's to judge.
        let (tx, rx) = session.stream(path, &7).open::<u64, u64>();
        tx.send_wait(&1).expect("is taken");
        tx.fail(Status::new(1234, "no more"));
        assert_eq!(code_of(rx.wait_only()), 1234, "{path}");
    }
}

#[test]
fn both_sides_send_items() {
    let (_server, _client, session) = pair(routes());
    for path in ["/double", "/double/blocking", "/double/async"] {
        let (tx, rx) = session.stream(path, &()).open::<u64, u64>();
        let sender = thread::spawn(move || {
            for n in 0..1000 {
                tx.send_wait(&n).expect("is taken");
            }
            tx.finish();
        });
        let read: Result<Vec<_>, _> = rx.into_iter().collect();
        assert_eq!(read, Ok((0..1000).map(|n| 2 * n).collect()), "{path}");
        sender.join().expect("sends");
    }
}

#[test]
fn a_server_opens_a_stream_to_its_client() {
    let (server, client) = (start(listening()), start(Peer::builder().routes(routes())));
    let _session = dial(&client, &server);
    eventually("the server has the session", || server.session_count() == 1);
    let session = server.sessions().remove(0);
    let rx: Receiver<u64> = session.stream("/count", &100).receive();
    assert_eq!(rx.into_iter().filter(Result::is_ok).count(), 100);
}

#[test]
fn a_failed_stream_ends_with_its_status_behind_its_items() {
    expect_panics();
    let mut routes = Router::new();
    routes.stream("/fails", |_ctx, kind: String, tx: Sender<u64>| {
        tx.send(&1).expect("is taken");
        match &*kind {
            "fail" => tx.fail(Status::new(1001, "enough")),
            "panic" => panic!("on purpose"),
            _ => drop(tx),
        }
    });
    routes.stream_blocking("/fails/blocking", |_ctx, kind: String, tx: Sender<u64>| {
        tx.send(&1)?;
        assert_ne!(kind, "panic", "on purpose");
        Err::<(), _>(Status::new(1001, "enough"))
    });
    routes.stream_async(
        "/fails/async",
        |_ctx, kind: String, tx: Sender<u64>| async move {
            tx.send(&1)?;
            assert_ne!(kind, "panic", "on purpose");
            Err::<(), _>(Status::new(1001, "enough"))
        },
    );
    let (_server, _client, session) = pair(routes);
    for (path, kind, code, reason) in [
        ("/fails", "fail", 1001, ""),
        ("/fails", "panic", 500, "on purpose"),
        (
            "/fails",
            "drop",
            500,
            "the sender was dropped without `finish`",
        ),
        ("/fails/blocking", "fail", 1001, ""),
        ("/fails/blocking", "panic", 500, "on purpose"),
        ("/fails/async", "fail", 1001, ""),
        ("/fails/async", "panic", 500, "on purpose"),
    ] {
        let rx: Receiver<u64> = session.stream(path, kind).receive();
        let mut items = rx.into_iter();
        assert_eq!(items.next(), Some(Ok(1)), "{path} {kind}");
        let status = items.next().expect("has an end").expect_err("fails");
        assert_eq!(status.code, code, "{path} {kind}: {status}");
        assert!(status.reason.contains(reason), "{path} {kind}: {status}");
        assert_eq!(items.next(), None);
    }
}

#[test]
fn a_stream_that_is_refused_fails_with_the_reason() {
    let mut routes = routes();
    routes.call("/fails", |_ctx, _: ()| {
        Err::<u64, _>(Status::new(1002, "no"))
    });
    let (_server, _client, session) = pair(routes);
    assert_eq!(end_of(session.stream("/nowhere", &1).receive()), 404);
    assert_eq!(end_of(session.stream("/fails", &()).receive()), 1002);
    assert_eq!(end_of(session.stream("/count", "text").receive()), 400);
    let (tx, rx) = session.stream("/nowhere", &1).open::<u64, u64>();
    assert_eq!(code_of(tx.wait_room()), 404);
    assert!(tx.is_cancelled());
    assert_eq!(end_of(rx), 404);
    // A plain call cannot take items.
    let called = session.call::<_, u64>("/count", &1).wait();
    assert_eq!(code_of(called), code::BAD_MESSAGE);
}

#[test]
fn a_peer_that_answers_without_streams_is_one_item_and_the_end() {
    let mut routes = Router::new();
    routes.call("/one", |_ctx, n: u64| Ok(n + 1));
    let (_server, _client, session) = pair(routes);
    let rx: Receiver<u64> = session.stream("/one", &1).receive();
    assert_eq!(rx.into_iter().collect::<Result<Vec<_>, _>>(), Ok(vec![2]));
    let log = Log::default();
    log.read(session.stream("/one", &2).receive());
    assert_eq!(log.end(), Ok(()));
    assert_eq!(log.items(), [3]);
    let (tx, rx) = session.stream("/one", &3).open::<u64, u64>();
    assert_eq!(rx.wait_only(), Ok(4));
    assert_eq!(
        tx.send(&1),
        Err(SendError::Ended(
            Status::new(499, "Cancelled").with_reason("the other side has ended the stream")
        ))
    );
}

#[test]
fn waiting_for_an_item_on_a_reactors_thread_fails_at_once() {
    let mut routes = routes();
    routes.call("/waits", |ctx, _: ()| {
        let rx: Receiver<u64> = ctx.session().stream("/count", &1).receive();
        let mut items = rx.into_iter();
        let first = items.next().expect("is an error");
        assert_eq!(items.next(), None);
        first
    });
    let (server, client) = (start(listening().routes(routes)), start(Peer::builder()));
    let session = dial(&client, &server);
    let status = session
        .call::<_, u64>("/waits", &())
        .wait()
        .expect_err("fails");
    assert!(status.reason.contains("would wait for itself"), "{status}");
}

/// Routes whose stream never ends by itself, and what becomes of it.
fn endless() -> (Router, mpsc::Receiver<&'static str>) {
    let (told, tells) = mpsc::channel();
    let told = Mutex::new(told);
    let mut routes = Router::new();
    routes.stream("/endless", move |ctx, _: (), tx: Sender<u64>| {
        let told = told.lock().clone();
        assert!(!ctx.is_cancelled());
        let end = told.clone();
        tx.on_cancel(move |status| {
            assert!(matches!(
                status.code,
                code::CANCELLED | code::CONNECTION_CLOSED
            ));
            end.send("cancelled").expect("is heard");
        });
        thread::spawn(move || {
            let mut n = 0;
            while tx.send_wait(&n).is_ok() {
                n += 1;
            }
            assert!(tx.is_cancelled());
            told.send("stopped").expect("is heard");
        });
    });
    (routes, tells)
}

/// Waits until the handlers of some streams have learned of their ends.
fn hear(tells: &mpsc::Receiver<&'static str>, streams: usize) {
    let heard = (0..2 * streams).map(|_| tells.recv_timeout(LONG).expect("is told"));
    assert_eq!(heard.filter(|heard| *heard == "stopped").count(), streams);
    assert!(tells.try_recv().is_err(), "something is told twice");
}

#[test]
fn dropping_a_clients_stream_cancels_it_on_the_other_side() {
    let (routes, tells) = endless();
    let (_server, _client, session) = pair(routes);
    // In each of the three ways to read.
    let rx: Receiver<u64> = session.stream("/endless", &()).receive();
    assert_eq!(rx.into_iter().take(500).filter(Result::is_ok).count(), 500);
    hear(&tells, 1);

    let mut rx: Receiver<u64> = session.stream("/endless", &()).receive();
    assert_eq!(block_on(rx.next()), Some(Ok(0)));
    drop(rx);
    hear(&tells, 1);

    let log = Log::default();
    let handle = log.read(session.stream("/endless", &()).receive());
    eventually("items arrive", || log.len() > 500);
    assert!(!handle.is_over());
    handle.cancel();
    assert_eq!(code_of(log.end()), code::CANCELLED);
    assert!(handle.is_over());
    hear(&tells, 1);
    assert_eq!(log.0.lock().1.len(), 1);
}

#[test]
fn a_handler_that_ends_the_stream_stops_its_caller() {
    let mut routes = Router::new();
    routes.stream_async("/three", |_ctx, _: (), mut rx: Receiver<u64>| async move {
        let mut sum = 0;
        for _ in 0..3 {
            sum += rx.next().await.expect("arrives")?;
        }
        Ok(sum)
    });
    routes.stream_blocking("/refuses", |_ctx, _: (), _rx: Receiver<u64>| {
        Err::<u64, _>(Status::new(1003, "nothing more"))
    });
    let (_server, _client, session) = pair(routes);
    for (path, result) in [("/three", Ok(3)), ("/refuses", Err(1003))] {
        let (tx, rx) = session.stream(path, &()).open::<u64, u64>();
        let status = loop {
            if let Err(SendError::Ended(status)) = tx.send_wait(&1) {
                break status;
            }
        };
        assert_eq!(status.code, result.err().unwrap_or(code::CANCELLED));
        assert_eq!(
            rx.wait_only().map_err(|status| status.code),
            result,
            "{path}"
        );
    }
}

#[test]
fn the_end_of_the_session_ends_each_stream_once_on_both_sides() {
    let (routes, tells) = endless();
    let (server, _client, session) = pair(routes);
    let logs: Vec<Log> = (0..3).map(|_| Log::default()).collect();
    for log in &logs {
        log.read(session.stream("/endless", &()).receive());
    }
    eventually("items arrive", || logs.iter().all(|log| log.len() > 100));
    session.abort();
    for log in &logs {
        assert_eq!(code_of(log.end()), code::CONNECTION_CLOSED);
    }
    hear(&tells, 3);
    eventually("the server has no session", || server.session_count() == 0);
    for log in &logs {
        assert_eq!(log.0.lock().1.len(), 1);
        let expected: Vec<u64> = (0..log.len() as u64).collect();
        assert_eq!(log.items(), expected);
    }
    assert_eq!(
        end_of(session.stream("/endless", &()).receive()),
        code::CONNECTION_CLOSED
    );
}

#[test]
fn a_peer_that_leaves_ends_the_streams_that_wait_for_it() {
    let (routes, tells) = endless();
    let server = start(listening().routes(routes));
    let mut peer = ByHand::dial(&server);
    peer.open("/endless", "1", "null");
    peer.hears(&[
        "REPLY  X-Stream=0 ",
        "PUSH /_/item X-Stream-Id=s&X-Stream-By=acceptor 0",
    ]);
    // There is no credit, so nothing is written that would find out that it has left.
    drop(peer);
    hear(&tells, 1);
    eventually("the server has no session", || server.session_count() == 0);
}

#[test]
fn a_shutdown_waits_for_streams_and_gives_them_up_at_its_deadline() {
    let (server, _client, session) = pair(routes());
    let mut items = session.stream("/count", &3000).receive().into_iter();
    assert_eq!(items.next(), Some(Ok(0u64)));
    let shutdown = thread::spawn(move || server.shutdown_within(LONG));
    // The stream goes on, while new ones are refused.
    eventually("the server refuses streams", || {
        let code = end_of(session.stream("/count", &1).receive());
        matches!(code, code::SERVICE_UNAVAILABLE | code::CONNECTION_CLOSED)
    });
    let rest = items.collect::<Result<Vec<_>, _>>().expect("arrive");
    assert_eq!(rest, (1..3000).collect::<Vec<u64>>());
    assert!(shutdown.join().expect("ends").is_some());

    let (routes, tells) = endless();
    let (server, _client, session) = pair(routes);
    let log = Log::default();
    log.read(session.stream("/endless", &()).receive());
    eventually("items arrive", || log.len() > 0);
    server.shutdown_within(Duration::from_millis(50));
    assert_eq!(code_of(log.end()), code::CONNECTION_CLOSED);
    hear(&tells, 1);
}

#[test]
fn a_session_that_closes_lets_its_streams_end_first() {
    let (_server, _client, session) = pair(routes());
    let mut items = session.stream("/count", &3000).receive().into_iter();
    assert_eq!(items.next(), Some(Ok(0u64)));
    session.close();
    assert_eq!(items.filter(Result::is_ok).count(), 2999);
    assert!(session.wait_closed(LONG));

    let (routes, tells) = endless();
    let (_server, _client, session) = pair(routes);
    let log = Log::default();
    log.read(session.stream("/endless", &()).receive());
    eventually("items arrive", || log.len() > 0);
    session.close_within(Duration::from_millis(50));
    assert_eq!(code_of(log.end()), code::CONNECTION_CLOSED);
    assert!(session.wait_closed(LONG));
    hear(&tells, 1);
}

#[test]
fn streams_beyond_the_limit_are_refused_on_either_side() {
    let kept = Arc::new(Mutex::new(Vec::new()));
    let mut routes = Router::new();
    let keeps = kept.clone();
    routes.stream("/keep", move |_ctx, _: (), tx: Sender<u64>| {
        keeps.lock().push(tx);
    });
    let server = start(listening().routes(routes));
    for (mine, theirs) in [(64, 64), (100, 64), (5, 64)] {
        let client = start(Peer::builder().max_streams(mine));
        let session = dial(&client, &server);
        let limit = mine.min(theirs);
        let open = || session.stream("/keep", &()).receive::<u64>();
        let mut streams: Vec<_> = (0..limit).map(|_| open()).collect();
        let refused = open().into_iter().next().expect("has an end");
        assert_eq!(code_of(refused), code::TOO_MANY_REQUESTS);
        // Each that ends makes room for another one.
        eventually("all handlers have run", || kept.lock().len() == limit);
        for tx in kept.lock().drain(..) {
            tx.finish();
        }
        for stream in streams.drain(..) {
            assert_eq!(stream.into_iter().count(), 0);
        }
        let one: Vec<_> = (0..limit).map(|_| open()).collect();
        eventually("all handlers have run", || kept.lock().len() == limit);
        drop(one);
        kept.lock().clear();
    }
}

#[test]
fn streams_that_are_cancelled_count_until_their_handlers_have_ended() {
    let kept = Arc::new(Mutex::new(Vec::new()));
    let mut routes = Router::new();
    let keeps = kept.clone();
    routes.stream("/keep", move |_ctx, _: (), tx: Sender<u64>| {
        keeps.lock().push(tx);
    });
    let server = start(listening().max_streams(3).routes(routes));
    let client = start(Peer::builder());
    let session = dial(&client, &server);
    for n in 1..=3 {
        let rx: Receiver<u64> = session.stream("/keep", &()).receive();
        eventually("the handler runs", || kept.lock().len() == n);
        drop(rx);
    }
    eventually("all are cancelled", || {
        kept.lock().iter().all(Sender::is_cancelled)
    });
    assert_eq!(
        end_of(session.stream("/keep", &()).receive()),
        code::TOO_MANY_REQUESTS
    );
    kept.lock().clear();
    let _rx: Receiver<u64> = session.stream("/keep", &()).receive();
    eventually("the handler runs", || kept.lock().len() == 1);
}

/// A peer that a test plays by hand: the raw protocol over a socket.
pub(crate) struct ByHand(TcpStream);

const RAW: Form = Form::Raw(Dialect::V4_1);

impl ByHand {
    fn dial(server: &Peer) -> Self {
        let addr = server.local_addrs()[0].as_socket_addr().expect("is TCP");
        Self::of(TcpStream::connect(addr).expect("connects"))
    }

    pub(crate) fn of(socket: TcpStream) -> Self {
        socket.set_read_timeout(Some(LONG)).expect("is set");
        Self(socket)
    }

    /// Sends a message. The metadata is encoded.
    pub(crate) fn say(&mut self, kind: Kind, seq: &str, uri: &str, meta: &str, body: &str) {
        let mut message = Message::new(kind);
        message.seq = seq.as_bytes().into();
        message.uri = uri.as_bytes().into();
        for pair in meta.split('&').filter_map(|pair| pair.split_once('=')) {
            message.meta.add(pair.0, pair.1);
        }
        if !body.is_empty() {
            message.codec = Codec::JSON;
            message.body = body.as_bytes().into();
        }
        self.0
            .write_all(&RAW.encode(&message).expect("can be sent"))
            .expect("is sent");
    }

    /// Opens a stream with the seq `s`.
    pub(crate) fn open(&mut self, uri: &str, credit: &str, arg: &str) {
        self.say(Kind::Call, "s", uri, &format!("X-Stream={credit}"), arg);
    }

    /// Sends a push for the stream `s`.
    pub(crate) fn push(&mut self, path: &str, by: &str, body: &str) {
        self.say(
            Kind::Push,
            "0",
            path,
            &format!("X-Stream-Id=s&X-Stream-By={by}"),
            body,
        );
    }

    /// Reads a message: its kind, URI, metadata and body.
    pub(crate) fn hear(&mut self) -> String {
        let mut bytes = vec![0; 4];
        self.0.read_exact(&mut bytes).expect("arrives");
        let size = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize;
        bytes.resize(size, 0);
        self.0.read_exact(&mut bytes[4..]).expect("arrives");
        let (message, _) = decode(RAW, &bytes).expect("is a message");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let meta = text(message.meta.encoded());
        format!(
            "{} {} {meta} {}",
            message.kind,
            text(&message.uri),
            text(&message.body)
        )
    }

    pub(crate) fn hears(&mut self, expected: &[&str]) {
        for expected in expected {
            assert_eq!(self.hear(), *expected);
        }
    }
}

#[test]
fn the_messages_of_a_stream_are_calls_replies_and_pushes() {
    let server = start(listening().stream_credit(3).routes(routes()));
    let mut peer = ByHand::dial(&server);
    peer.open("/count", "2", "3");
    peer.hears(&[
        "REPLY  X-Stream=0 ",
        "PUSH /_/item X-Stream-Id=s&X-Stream-By=acceptor 0",
        "PUSH /_/item X-Stream-Id=s&X-Stream-By=acceptor 1",
    ]);
    peer.push("/_/credit", "opener", "1");
    peer.hears(&[
        "PUSH /_/item X-Stream-Id=s&X-Stream-By=acceptor 2",
        "PUSH /_/end X-Stream-Id=s&X-Stream-By=acceptor ",
    ]);
    // The other direction. Half of the credit is granted at a time.
    peer.open("/sum", "1", "0");
    peer.hears(&["REPLY  X-Stream=3 "]);
    for n in ["1", "2", "3"] {
        peer.push("/_/item", "opener", n);
    }
    peer.hears(&["PUSH /_/credit X-Stream-Id=s&X-Stream-By=opener 2"
        .replace("opener", "acceptor")
        .as_str()]);
    peer.push("/_/end", "opener", "");
    peer.hears(&[
        "PUSH /_/item X-Stream-Id=s&X-Stream-By=acceptor 6",
        "PUSH /_/end X-Stream-Id=s&X-Stream-By=acceptor ",
    ]);
    // A failure, and a cancellation.
    peer.open("/sum", "1", "0");
    peer.hears(&["REPLY  X-Stream=3 "]);
    let error = "{\"code\":1005}";
    let meta = format!("X-Stream-Id=s&X-Stream-By=opener&X-Reply-Error={error}");
    peer.say(Kind::Push, "", "/_/end", &meta, "");
    let heard = peer.hear();
    assert!(
        heard.starts_with("PUSH /_/end X-Stream-Id=s&X-Stream-By=acceptor&X-Reply-Error="),
        "{heard}"
    );
    assert!(heard.contains("1005"), "{heard}");
    peer.open("/count", "1", "9");
    peer.hears(&[
        "REPLY  X-Stream=0 ",
        "PUSH /_/item X-Stream-Id=s&X-Stream-By=acceptor 0",
    ]);
    peer.say(Kind::Push, "", "/_/cancel", "", "s");
    peer.push("/_/credit", "opener", "5");
    // The next message is that of the next stream.
    peer.open("/count", "1", "0");
    peer.hears(&[
        "REPLY  X-Stream=0 ",
        "PUSH /_/end X-Stream-Id=s&X-Stream-By=acceptor ",
    ]);
}

#[test]
fn a_peer_that_breaks_the_rules_of_a_stream_loses_that_stream() {
    let server = start(listening().stream_credit(2).routes(routes()));
    let mut peer = ByHand::dial(&server);
    let ends_with_400 = |peer: &mut ByHand| loop {
        let heard = peer.hear();
        if heard.starts_with("PUSH /_/end") {
            assert!(heard.contains("%22code%22%3A400"), "{heard}");
            return;
        }
    };
    // Items without credit: this handler takes none until its caller grants credit for the answer.
    peer.open("/double/async", "0", "null");
    peer.hears(&["REPLY  X-Stream=2 "]);
    for _ in 0..9 {
        peer.push("/_/item", "opener", "1");
    }
    ends_with_400(&mut peer);
    // Items to a stream that takes none.
    peer.open("/count", "1", "5");
    peer.push("/_/item", "opener", "1");
    ends_with_400(&mut peer);
    // Credit that is none, and more than there may be.
    for credit in ["0", "-1", "x", "1048577", "99999999999999999999"] {
        peer.open("/count", "1", "5");
        peer.push("/_/credit", "opener", credit);
        ends_with_400(&mut peer);
    }
    for credit in ["", "x", "-1", "1048577"] {
        peer.open("/count", credit, "5");
        let heard = peer.hear();
        assert!(heard.starts_with("REPLY  X-Reply-Error="), "{heard}");
        assert!(heard.contains("%22code%22%3A400"), "{heard}");
    }
    // Two streams with one seq, and pushes to none.
    peer.open("/count", "1", "5");
    peer.hears(&[
        "REPLY  X-Stream=0 ",
        "PUSH /_/item X-Stream-Id=s&X-Stream-By=acceptor 0",
    ]);
    peer.open("/count", "1", "5");
    let heard = peer.hear();
    assert!(
        heard.contains("a%20stream%20with%20this%20seq%20is%20open"),
        "{heard}"
    );
    peer.push("/_/item", "acceptor", "1");
    peer.push("/_/nothing", "opener", "1");
    peer.say(Kind::Push, "", "/_/item", "X-Stream-By=opener", "1");
    peer.say(
        Kind::Push,
        "",
        "/_/end",
        "X-Stream-Id=nobody&X-Stream-By=opener",
        "",
    );
    // The session goes on.
    peer.push("/_/credit", "opener", "1");
    peer.hears(&["PUSH /_/item X-Stream-Id=s&X-Stream-By=acceptor 1"]);
    let stats = server.stats().peer;
    assert_eq!(stats.stream_violations, 7);
    assert!(stats.stray_items >= 4);
}

#[test]
fn an_acceptor_that_breaks_the_rules_loses_that_stream() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("listens");
    let client = start(Peer::builder());
    let addr = format!("tcp://{}", listener.local_addr().expect("is bound"));
    let dialling = thread::spawn(move || {
        let session = client.dial(&*addr).expect("connects");
        (client, session)
    });
    let mut peer = ByHand::of(listener.accept().expect("accepts").0);
    let (_client, session) = dialling.join().expect("connects");
    for n in 0..2 {
        let rx: Receiver<u64> = session.stream("/s", &1).credit(2).receive();
        assert_eq!(peer.hear(), "CALL /s X-Stream=2 1");
        let id = (2 * n).to_string();
        match n {
            0 => {
                peer.say(Kind::Reply, &id, "", "X-Stream=0", "");
                for _ in 0..3 {
                    let meta = format!("X-Stream-Id={id}&X-Stream-By=acceptor");
                    peer.say(Kind::Push, "", "/_/item", &meta, "7");
                }
            }
            _ => peer.say(Kind::Reply, &id, "", "X-Stream=many", ""),
        }
        assert_eq!(peer.hear(), format!("PUSH /_/cancel  {id}"));
        let got: Vec<_> = rx
            .into_iter()
            .map(|item| item.map_err(|status| status.code))
            .collect();
        let expected = [Ok(7), Ok(7), Err(code::BAD_MESSAGE)];
        assert_eq!(got, expected[2 * n..]);
    }
    // A plain peer of Teleport knows no streams: its reply is the only item.
    let rx: Receiver<u64> = session.stream("/s", &1).receive();
    assert_eq!(peer.hear(), "CALL /s X-Stream=64 1");
    peer.say(Kind::Reply, "4", "", "", "8");
    assert_eq!(rx.wait_only(), Ok(8));
    // An item that is none of that type ends the stream, and nothing else.
    let rx: Receiver<u64> = session.stream("/s", &1).receive();
    assert_eq!(peer.hear(), "CALL /s X-Stream=64 1");
    peer.say(Kind::Reply, "5", "", "X-Stream=0", "");
    peer.say(
        Kind::Push,
        "",
        "/_/item",
        "X-Stream-Id=5&X-Stream-By=acceptor",
        "true",
    );
    assert_eq!(end_of(rx), code::BAD_MESSAGE);
    assert_eq!(peer.hear(), "PUSH /_/cancel  5");
}

#[test]
fn a_stream_that_is_not_accepted_in_time_is_given_up() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("listens");
    let client = start(Peer::builder());
    let addr = format!("tcp://{}", listener.local_addr().expect("is bound"));
    let session = client.dial(&*addr).expect("connects");
    let mut peer = ByHand::of(listener.accept().expect("accepts").0);
    let call = session.stream("/s", &1).timeout(Duration::from_millis(20));
    let rx: Receiver<u64> = call.receive();
    assert_eq!(end_of(rx), code::HANDLE_TIMEOUT);
    peer.hears(&["CALL /s X-Stream=64 1", "PUSH /_/cancel  0"]);
    // It is cancelled before it is accepted.
    let rx: Receiver<u64> = session.stream("/s", &1).receive();
    peer.hears(&["CALL /s X-Stream=64 1"]);
    drop(rx);
    peer.hears(&["PUSH /_/cancel  2"]);
}

#[test]
fn a_slow_reader_of_pushes_and_streams_costs_its_own_limit() {
    let sent = Arc::new(AtomicUsize::new(0));
    let mut routes = routes();
    let counts = sent.clone();
    routes.stream("/blocks", move |_ctx, _: (), tx: Sender<Raw>| {
        let counts = counts.clone();
        thread::spawn(move || {
            let block = Raw(vec![b'x'; 64 << 10].into());
            while tx.send_wait(&block).is_ok() {
                counts.fetch_add(1, Ordering::SeqCst);
            }
        });
    });
    let server = start(listening().routes(routes));
    // It grants all credit there is, and reads nothing.
    let mut idle = ByHand::dial(&server);
    idle.open("/blocks", "1000000", "null");
    // Another one grants little credit, reads everything that arrives, and takes one item.
    let notes = Arc::new(AtomicUsize::new(0));
    let noted = notes.clone();
    let mut its_routes = Router::new();
    its_routes.push_bytes("/note", move |_ctx, _| {
        noted.fetch_add(1, Ordering::SeqCst);
        Ok(())
    });
    let client = start(Peer::builder().routes(its_routes));
    let session = dial(&client, &server);
    let mut lazy = session.stream("/blocks", &()).credit(10).receive::<Raw>();
    assert!(lazy.wait_next().expect("arrives").is_ok());
    // The producers of both stop.
    let stopped = || {
        let before = sent.load(Ordering::SeqCst);
        thread::sleep(Duration::from_millis(100));
        before > 20 && before == sent.load(Ordering::SeqCst)
    };
    eventually("the producers stop", stopped);
    let held = sent.load(Ordering::SeqCst) * (64 << 10);
    assert!(
        held < 32 << 20,
        "{held} bytes were sent to readers that take nothing"
    );
    // Pushes to the one that reads nothing are dropped, if told so. The lazy one gets them.
    assert_eq!(server.session_count(), 2);
    let note = Raw(vec![b'x'; 1 << 20].into());
    for n in 1..=50 {
        let sent = server.broadcast_with("/note", &note, WhenFull::Drop);
        sent.expect("is sent");
        eventually("the push arrives", || notes.load(Ordering::SeqCst) == n);
    }
    assert_eq!(server.session_count(), 2);
    assert!(server.stats().peer.dropped_pushes >= 40);
    // Nobody else is delayed, not even on the session of the lazy one.
    for _ in 0..3 {
        let rx: Receiver<u64> = session.stream("/count", &5000).receive();
        assert_eq!(rx.into_iter().filter(Result::is_ok).count(), 5000);
    }
    drop(idle);
    // The lazy one goes on.
    for _ in 0..50 {
        assert!(lazy.wait_next().expect("arrives").is_ok());
    }
}

#[test]
fn items_beyond_the_bytes_of_a_session_end_their_stream() {
    let (server, client) = (
        start(listening().routes(routes())),
        start(Peer::builder().max_stream_bytes(100)),
    );
    let session = dial(&client, &server);
    let mut rx: Receiver<u64> = session.stream("/count", &64).receive();
    let status = loop {
        // Nothing is read until the stream is over.
        eventually("the stream ends", || rx.handle().is_over());
        match rx.wait_next() {
            Some(Ok(_)) => {}
            other => break other.expect("has an end").expect_err("fails"),
        }
    };
    assert_eq!(status.code, code::TOO_MANY_REQUESTS);
    // With a reader that keeps up there is no limit.
    let log = Log::default();
    log.read(session.stream("/count", &1000).receive());
    assert_eq!(log.end(), Ok(()));
}

#[test]
fn an_item_that_finds_no_room_is_dropped_or_fails_the_stream() {
    let mut routes = Router::new();
    routes.stream("/drops", |_ctx, _: (), tx: Sender<u64>| {
        let sent = (0..10).filter(|n| tx.send_or_drop(n) == Ok(true)).count();
        assert_eq!((sent, tx.credit()), (4, 0));
        tx.finish();
    });
    routes.stream("/fails", |_ctx, _: (), tx: Sender<u64>| {
        let sent = (0..10).filter(|n| tx.send_or_fail(n).is_ok()).count();
        assert_eq!(sent, 4);
    });
    let (server, _client, session) = pair(routes);
    let open = |path| {
        session
            .stream(path, &())
            .credit(4)
            .receive::<u64>()
            .into_iter()
    };
    assert_eq!(
        open("/drops").collect::<Result<Vec<_>, _>>(),
        Ok(vec![0, 1, 2, 3])
    );
    let got: Vec<_> = open("/fails")
        .map(|item| item.map_err(|status| status.code))
        .collect();
    assert_eq!(
        got,
        [Ok(0), Ok(1), Ok(2), Ok(3), Err(code::TOO_MANY_REQUESTS)]
    );
    assert_eq!(server.stats().peer.dropped_items, 6);
}

#[test]
fn messages_of_a_handler_and_items_leave_in_the_order_in_which_it_sent_them() {
    let mut routes = Router::new();
    routes.stream("/mixed", |ctx, _: (), tx: Sender<u64>| {
        for n in 0..10 {
            tx.send(&(2 * n)).expect("has credit");
            ctx.session().push("/note", &(2 * n + 1)).expect("is sent");
        }
        tx.finish();
    });
    let server = start(listening().routes(routes));
    let seen: Arc<Mutex<Vec<u64>>> = Arc::default();
    let mut routes = Router::new();
    let notes = seen.clone();
    routes.push("/note", move |_ctx, n: u64| {
        notes.lock().push(n);
        Ok(())
    });
    let client = start(Peer::builder().routes(routes));
    let session = dial(&client, &server);
    let (items, (ended, end)) = (seen.clone(), mpsc::channel());
    session.stream("/mixed", &()).receive().on_item(
        move |n: u64| items.lock().push(n),
        move |result| ended.send(result).expect("is heard"),
    );
    assert_eq!(end.recv_timeout(LONG), Ok(Ok(())));
    assert_eq!(*seen.lock(), (0..20).collect::<Vec<_>>());
}

/// A server that pushes 100 blocks of 64 KiB to whoever calls it, at once: more than the high-water mark. Returns what its
/// client has got, and the results of pushes that wait for room.
fn flood(when_full: WhenFull) -> (Peer, Peer, Session, Arc<Mutex<Vec<u64>>>) {
    let mut routes = Router::new();
    routes.call("/flood", move |ctx, _: ()| {
        for n in 0..100u64 {
            let block = Raw(vec![b'x'; 64 << 10].into());
            let push = ctx.session().prepare_push("/block", &block);
            push.query("n", n.to_string()).when_full(when_full).send()?;
        }
        Ok(())
    });
    routes.call("/patient", |ctx, _: ()| {
        for n in 0..100u64 {
            let block = Raw(vec![b'x'; 64 << 10].into());
            let session = ctx.session().clone();
            let push = ctx.session().prepare_push("/block", &block);
            push.query("n", n.to_string()).send_when_room(move |sent| {
                session.push("/sent", &(n, sent.is_ok())).expect("is sent");
            });
        }
        Ok(())
    });
    let got: Arc<Mutex<Vec<u64>>> = Arc::default();
    let mut mine = Router::new();
    let blocks = got.clone();
    mine.push_bytes("/block", move |ctx, _| {
        let n = ctx.query("n").and_then(|n| n.parse().ok());
        blocks.lock().push(n.expect("is a number"));
        Ok(())
    });
    let sent = got.clone();
    mine.push("/sent", move |_ctx, (n, is_sent): (u64, bool)| {
        assert!(is_sent);
        // Behind the block.
        assert!(sent.lock().contains(&n));
        Ok(())
    });
    let (server, client) = (
        start(listening().routes(routes)),
        start(Peer::builder().routes(mine)),
    );
    let session = dial(&client, &server);
    (server, client, session, got)
}

#[test]
fn a_push_without_room_is_sent_or_dropped_or_closes_the_session() {
    let flooded = |when_full| {
        let (server, client, session, got) = flood(when_full);
        let called = session.call::<_, ()>("/flood", &()).wait();
        (called, got.lock().clone(), (server, client, session))
    };
    let (called, got, _peers) = flooded(WhenFull::Send);
    assert_eq!((called, got.len()), (Ok(()), 100));

    let (called, got, (server, _client, session)) = flooded(WhenFull::Drop);
    assert_eq!(called, Ok(()));
    // The high-water mark is 1 MiB.
    assert_eq!(got, (0..16).collect::<Vec<_>>());
    assert_eq!(server.stats().peer.dropped_pushes, 84);
    assert_eq!(session.health(), epicycle::rpc::Health::Open);

    let (called, _, (server, _client, session)) = flooded(WhenFull::Close);
    assert_eq!(code_of(called), code::CONNECTION_CLOSED);
    assert!(session.wait_closed(LONG));
    eventually("the server has no session", || server.session_count() == 0);
}

#[test]
fn pushes_can_wait_for_room_and_leave_in_order() {
    let (_server, _client, session, got) = flood(WhenFull::Send);
    session
        .call::<_, ()>("/patient", &())
        .wait()
        .expect("is answered");
    // The reply does not wait for them.
    eventually("all arrive", || got.lock().len() == 100);
    assert_eq!(*got.lock(), (0..100).collect::<Vec<_>>());
}

#[test]
fn a_push_that_waits_for_room_learns_of_the_end_of_its_session() {
    let results = Arc::new(Mutex::new(Vec::new()));
    let mut routes = Router::new();
    let told = results.clone();
    routes.call("/flood", move |ctx, _: ()| {
        for _ in 0..2000 {
            let told = told.clone();
            let push = ctx.session().prepare_push("/block", "x");
            push.send_when_room(move |sent| told.lock().push(sent.map_err(|status| status.code)));
        }
        Ok(())
    });
    // No byte of output finds room behind the first.
    let server = start(
        listening()
            .routes(routes)
            .server(|server| server.high_water(1).low_water(0)),
    );
    let mut peer = ByHand::dial(&server);
    peer.say(Kind::Call, "0", "/flood", "", "null");
    eventually("those beyond the limit are refused", || {
        let results = results.lock();
        results
            .iter()
            .filter(|sent| **sent == Err(code::TOO_MANY_REQUESTS))
            .count()
            > 900
    });
    drop(peer);
    eventually("all are told", || results.lock().len() == 2000);
    let results = results.lock();
    let allowed = [
        Ok(()),
        Err(code::TOO_MANY_REQUESTS),
        Err(code::CONNECTION_CLOSED),
    ];
    assert!(results.iter().all(|sent| allowed.contains(sent)));
}

#[test]
fn a_proxy_forwards_a_stream_as_a_call() {
    let mut routes = routes();
    routes.call("/one", |_ctx, n: u64| Ok(n + 1));
    let backend = start(listening().routes(routes));
    let behind = start(Peer::builder());
    let chosen = dial(&behind, &backend);
    let mut routes = Router::new();
    epicycle::rpc::plugins::proxy::Proxy::new(move |_| Ok(chosen.clone())).add_to(&mut routes);
    let (_proxy, _client, session) = pair(routes);
    let rx: Receiver<u64> = session.stream("/one", &1).receive();
    assert_eq!(rx.wait_only(), Ok(2));
    assert_eq!(
        end_of(session.stream("/count", &1).receive()),
        code::BAD_MESSAGE
    );
}
