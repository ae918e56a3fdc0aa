//! Peers over real sockets: calls and pushes in both directions.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use epicycle::rpc::wire::Dialect;
use epicycle::rpc::{
    Codec, Health, Peer, ProtocolChoice, Reply, Responder, Router, Session, Status, code,
};
use parking_lot::Mutex;

use crate::ends::{block_on, dial, listening, start};
use crate::util::{LONG, eventually, expect_panics};

/// A peer that listens, with one reactor.
fn server(routes: Router) -> Peer {
    start(listening().routes(routes))
}

fn client() -> Peer {
    start(Peer::builder())
}

/// A server with these routes, a client, and the client's session.
fn pair(routes: Router) -> (Peer, Peer, Session) {
    let (server, client) = (server(routes), client());
    let session = dial(&client, &server);
    (server, client, session)
}

/// The server's session of the only client.
fn accepted(server: &Peer) -> Session {
    eventually("the server has the session", || server.session_count() == 1);
    accepted_one(server)
}

/// One of the server's sessions.
fn accepted_one(server: &Peer) -> Session {
    server.sessions().remove(0)
}

fn math() -> Router {
    let mut routes = Router::new();
    routes.group("math", |routes| {
        routes.call("add", |_ctx, numbers: Vec<i64>| {
            Ok(numbers.iter().sum::<i64>())
        });
    });
    routes
}

fn code_of<T: std::fmt::Debug>(result: Result<T, Status>) -> i32 {
    result.expect_err("fails").code
}

#[test]
fn a_call_gets_its_reply() {
    let (_server, _client, session) = pair(math());
    let sum: i64 = session.call("/math/add", &[1, 2, 3]).wait().expect("adds");
    assert_eq!(sum, 6);
    let reply: Reply<i64> = session.call("/math/add", &[4, 5]).wait().expect("adds");
    assert_eq!((reply.body, reply.codec), (9, Codec::JSON));
}

#[test]
fn every_protocol_and_dialect_carries_calls() {
    let listens = |protocol| {
        start(
            Peer::builder()
                .listen_with("tcp4://127.0.0.1:0", protocol)
                .routes(math()),
        )
    };
    let raw = listens(ProtocolChoice::raw());
    let json = listens(ProtocolChoice::json());
    let client = client();
    for dialect in [Dialect::V4_0, Dialect::V4_1] {
        let pb = listens(ProtocolChoice::pb(dialect));
        for (server, protocol) in [
            (&raw, ProtocolChoice::raw_of(dialect)),
            (&json, ProtocolChoice::json_of(dialect)),
            (&pb, ProtocolChoice::pb(dialect)),
        ] {
            let session = client
                .dial_with(&server.local_addrs()[0], protocol)
                .expect("connects");
            let call = session.call("/math/add", &[1, 2]).filters(b"gm");
            assert_eq!(call.wait(), Ok(3));
        }
    }
}

#[test]
fn a_server_calls_its_client_inside_a_call() {
    let mut routes = Router::new();
    routes.call_later("/double", |ctx, n: i64, reply: Responder<i64>| {
        let client = ctx.session().clone();
        client
            .call("/ask", &n)
            .then(move |answer: Result<i64, Status>| reply.send(answer.map(|answer| 2 * answer)));
    });
    let server = server(routes);
    let mut routes = Router::new();
    routes.call("/ask", |_ctx, n: i64| Ok(n + 1));
    let client = start(Peer::builder().routes(routes));
    let session = dial(&client, &server);
    assert_eq!(session.call("/double", &20).wait(), Ok(42));
}

#[test]
fn what_a_handler_pushes_leaves_before_its_reply_and_replies_keep_their_order() {
    let mut routes = Router::new();
    routes.call("/note", |ctx, n: u32| {
        ctx.session().push("/note", &n)?;
        Ok(n)
    });
    let server = server(routes);
    let (sender, events) = mpsc::channel();
    let pushes = Mutex::new(sender.clone());
    let mut routes = Router::new();
    routes.push("/note", move |_ctx, n: u32| {
        let _ = pushes.lock().send(("push", n));
        Ok(())
    });
    let client = start(Peer::builder().routes(routes));
    let session = dial(&client, &server);
    for n in 0..100 {
        let sender = sender.clone();
        session
            .call("/note", &n)
            .then(move |reply: Result<u32, _>| {
                let _ = sender.send(("reply", reply.expect("is answered")));
            });
    }
    for n in 0..100 {
        assert_eq!(events.recv_timeout(LONG), Ok(("push", n)));
        assert_eq!(events.recv_timeout(LONG), Ok(("reply", n)));
    }
}

#[test]
fn errors_arrive_with_code_message_and_reason() {
    let mut routes = math();
    routes.call("/fail", |ctx, _: ()| {
        ctx.add_reply_meta("K", "v");
        Err::<(), _>(Status::new(1234, "custom").with_reason("because"))
    });
    let (_server, _client, session) = pair(routes);
    let failed = session.call("/fail", &()).wait();
    let failed: Result<(), Status> = failed;
    assert_eq!(
        failed,
        Err(Status::new(1234, "custom").with_reason("because"))
    );
    let call = |uri: &str, arg: &str| code_of(session.call::<_, i64>(uri, arg).wait());
    assert_eq!(call("/nowhere", ""), code::NOT_FOUND);
    assert_eq!(call("?x=1", ""), code::BAD_MESSAGE);
    assert_eq!(call("/math/add", "no list"), code::BAD_MESSAGE);
    let wrong_type = session.call::<_, String>("/math/add", &[1]).wait();
    assert_eq!(code_of(wrong_type), code::BAD_MESSAGE);
    assert_eq!(session.call("/math/add", &[1]).wait(), Ok(1), "it goes on");
}

#[test]
fn a_panic_costs_one_call_and_nothing_else() {
    expect_panics();
    let mut routes = math();
    routes.call("/panic", |_ctx, _: ()| -> Result<(), Status> {
        panic!("on purpose")
    });
    routes.call_blocking("/panic/blocking", |_ctx, _: ()| -> Result<(), Status> {
        panic!("on purpose")
    });
    routes.call_later("/panic/later", |_ctx, _: (), _: Responder<()>| {
        panic!("on purpose")
    });
    routes.push("/panic", |_ctx, _: ()| panic!("on purpose"));
    let (_server, _client, session) = pair(routes);
    for path in ["/panic", "/panic/blocking", "/panic/later"] {
        let status = session.call::<_, ()>(path, &()).wait().expect_err("panics");
        let expected = (code::INTERNAL_SERVER_ERROR, "on purpose");
        assert_eq!((status.code, &*status.reason), expected, "{path}");
    }
    session.push("/panic", &()).expect("is sent");
    assert_eq!(session.call("/math/add", &[1]).wait(), Ok(1));
}

#[test]
fn the_text_of_a_panic_can_be_hidden() {
    expect_panics();
    let mut routes = Router::new();
    routes.call("/panic", |_ctx, _: ()| -> Result<(), Status> {
        panic!("on purpose")
    });
    let server = start(listening().routes(routes).hide_panics());
    let client = client();
    let session = dial(&client, &server);
    let status = session
        .call::<_, ()>("/panic", &())
        .wait()
        .expect_err("panics");
    assert_eq!(status, Status::new(500, "Internal Server Error"));
}

#[test]
fn a_blocking_handler_delays_nobody_and_may_wait_for_calls() {
    let (release, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let mut routes = math();
    routes.call_blocking("/wait", move |ctx, _: ()| {
        gate.lock().recv_timeout(LONG).expect("is released");
        ctx.session().call("/answer", &()).wait() as Result<i64, Status>
    });
    let server = server(routes);
    let mut routes = Router::new();
    routes.call("/answer", |_ctx, _: ()| Ok(42i64));
    let client = start(Peer::builder().routes(routes));
    let session = dial(&client, &server);
    let waiting = session.call::<_, i64>("/wait", &()).send();
    assert_eq!(session.call("/math/add", &[1]).wait(), Ok(1));
    assert!(waiting.try_result().is_none());
    release.send(()).expect("it waits");
    assert_eq!(waiting.wait(), Ok(42));
}

#[test]
fn blocking_handlers_of_a_session_run_in_order_if_told_so() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let mut routes = Router::new();
    let log = seen.clone();
    routes.call_blocking_in_order("/log", move |_ctx, n: u32| {
        if n.is_multiple_of(2) {
            thread::yield_now();
        }
        log.lock().push(n);
        Ok(())
    });
    let (_server, _client, session) = pair(routes);
    let calls: Vec<_> = (0..100)
        .map(|n: u32| session.call::<_, ()>("/log", &n).send())
        .collect();
    for call in calls {
        call.wait().expect("is answered");
    }
    assert_eq!(*seen.lock(), (0..100).collect::<Vec<_>>());
}

#[test]
fn a_call_ends_at_its_deadline_on_both_sides() {
    let (sender, tokens) = mpsc::channel();
    let sender = Mutex::new(sender);
    let mut routes = math();
    routes.call_later("/never", move |ctx, _: (), reply: Responder<()>| {
        assert!(ctx.deadline().is_some());
        let _ = sender.lock().send(reply);
    });
    let (_server, _client, session) = pair(routes);
    let call = session.call::<_, ()>("/never", &());
    let status = call
        .timeout(Duration::from_millis(30))
        .wait()
        .expect_err("ends");
    assert_eq!(status.code, code::HANDLE_TIMEOUT);
    let reply = tokens.recv_timeout(LONG).expect("the handler ran");
    eventually("the handler learns of it", || reply.is_cancelled());
    reply.send(Ok(()));
    assert_eq!(session.call("/math/add", &[1]).wait(), Ok(1));
}

#[test]
fn a_handler_that_replies_too_late_is_answered_for() {
    let (sender, tokens) = mpsc::channel();
    let sender = Mutex::new(sender);
    let mut routes = Router::new();
    routes.call_later("/never", move |_ctx, _: (), reply: Responder<()>| {
        let _ = sender.lock().send(reply);
    });
    let server = start(
        listening()
            .routes(routes)
            .handle_timeout(Duration::from_millis(20)),
    );
    let client = client();
    let session = dial(&client, &server);
    let result = session.call::<_, ()>("/never", &()).no_timeout().wait();
    assert_eq!(code_of(result), code::HANDLE_TIMEOUT);
    drop(tokens);
}

#[test]
fn a_cancelled_call_ends_at_once_and_its_handler_learns_of_it() {
    let (sender, tokens) = mpsc::channel();
    let sender = Mutex::new(sender);
    let mut routes = Router::new();
    routes.call_later("/never", move |_ctx, _: (), reply: Responder<()>| {
        let _ = sender.lock().send(reply);
    });
    let (_server, _client, session) = pair(routes);
    let call = session.call::<_, ()>("/never", &()).send();
    let reply = tokens.recv_timeout(LONG).expect("the handler ran");
    assert!(!reply.is_cancelled());
    call.cancel();
    assert_eq!(code_of(call.wait()), code::CANCELLED);
    eventually("the handler learns of it", || reply.is_cancelled());
}

#[test]
fn every_answer_that_comes_too_late_is_counted() {
    let kept: Arc<Mutex<Vec<Responder<()>>>> = Arc::default();
    let late = kept.clone();
    let mut routes = Router::new();
    routes.call_later("/keep", move |_ctx, (): (), reply| late.lock().push(reply));
    let (server, _client, session) = pair(routes);
    let call = || {
        session
            .call::<_, ()>("/keep", &())
            .timeout(Duration::from_millis(20))
    };
    // The first call is over, and so is a second one, when the first one's answer comes.
    for _ in 0..2 {
        let status = call().wait().expect_err("is not answered");
        assert_eq!(status.code, code::HANDLE_TIMEOUT);
    }
    eventually("both are over", || server.stats().peer.timeouts == 2);
    for reply in kept.lock().drain(..) {
        reply.send(Ok(()));
    }
    eventually("both are counted", || server.stats().peer.late_answers == 2);
}

#[test]
fn a_handler_at_work_is_called_when_its_caller_no_longer_waits() {
    let (sender, receiver) = mpsc::channel();
    let (from_later, from_blocking) = (sender.clone(), sender);
    let kept: Mutex<Vec<Responder<()>>> = Mutex::default();
    let mut routes = Router::new();
    routes.call_later("/later", move |ctx, (): (), reply: Responder<()>| {
        let (one, other) = (from_later.clone(), from_later.clone());
        ctx.on_cancel(move || one.send("context").expect("is awaited"));
        reply.on_cancel(move || other.send("responder").expect("is awaited"));
        kept.lock().push(reply);
    });
    routes.call_blocking("/block", move |ctx, (): ()| {
        let (cancelled, end) = mpsc::channel();
        ctx.on_cancel(move || cancelled.send(()).expect("is awaited"));
        from_blocking.send("begun").expect("is awaited");
        end.recv_timeout(LONG).expect("is cancelled");
        // It has happened already.
        let sender = from_blocking.clone();
        ctx.on_cancel(move || sender.send("blocking").expect("is awaited"));
        Ok(())
    });
    routes.call_blocking("/quick", |ctx, (): ()| {
        ctx.on_cancel(|| panic!("it was answered"));
        Ok(())
    });
    let (_server, _client, session) = pair(routes);
    assert_eq!(session.call("/quick", &()).wait(), Ok(()));
    let (later, block) = (
        session.call::<_, ()>("/later", &()),
        session.call::<_, ()>("/block", &()),
    );
    let (later, block) = (later.send(), block.send());
    let next = || receiver.recv_timeout(LONG).expect("is told");
    assert_eq!(next(), "begun");
    later.cancel();
    assert_eq!([next(), next()], ["context", "responder"]);
    // A session that ends is the end of its calls.
    session.abort();
    assert_eq!(next(), "blocking");
    assert!(block.wait().is_err());
}

#[test]
fn queued_work_of_a_cancelled_call_is_not_begun() {
    let runs = Arc::new(AtomicUsize::new(0));
    let (release, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let (counter, mut routes) = (runs.clone(), math());
    routes.call_blocking("/work", move |_ctx, _: ()| {
        counter.fetch_add(1, Ordering::SeqCst);
        gate.lock().recv_timeout(LONG).expect("is released");
        Ok(())
    });
    let pool = epicycle::WorkerPool::builder()
        .threads(1)
        .build()
        .expect("starts");
    let server = start(listening().routes(routes).workers(pool.clone()));
    let client = client();
    let session = dial(&client, &server);
    let first = session.call::<_, ()>("/work", &()).send();
    eventually("the first call runs", || runs.load(Ordering::SeqCst) == 1);
    let second = session.call::<_, ()>("/work", &()).send();
    second.cancel();
    assert_eq!(code_of(second.wait()), code::CANCELLED);
    assert_eq!(session.call("/math/add", &[1]).wait(), Ok(1));
    release.send(()).expect("it waits");
    first.wait().expect("is answered");
    eventually("the queue is empty", || {
        pool.stats().queued + pool.stats().running == 0
    });
    assert_eq!(runs.load(Ordering::SeqCst), 1);
}

#[test]
fn a_dropped_responder_fails_its_call() {
    let mut routes = Router::new();
    routes.call_later("/drop", |_ctx, _: (), _: Responder<()>| {});
    let (_server, _client, session) = pair(routes);
    let result = session.call::<_, ()>("/drop", &()).wait();
    assert_eq!(code_of(result), code::INTERNAL_SERVER_ERROR);
}

#[test]
fn calls_beyond_the_limit_are_refused_on_either_side() {
    let mut routes = Router::new();
    let tokens = Arc::new(Mutex::new(Vec::new()));
    let held = tokens.clone();
    routes.call_later("/hold", move |_ctx, _: (), reply: Responder<()>| {
        held.lock().push(reply);
    });
    let server = start(listening().routes(routes).max_deferred(2));
    let client = start(Peer::builder().max_calls(3));
    let session = dial(&client, &server);
    let hold = || session.call::<_, ()>("/hold", &()).send();
    let held = [hold(), hold()];
    assert_eq!(code_of(hold().wait()), code::TOO_MANY_REQUESTS);
    // Cancelled work counts as long as it goes on.
    held[0].cancel();
    eventually("it is cancelled", || held[0].try_result().is_some());
    assert_eq!(code_of(hold().wait()), code::TOO_MANY_REQUESTS);
    tokens.lock().clear();
    eventually("there is room again", || {
        let held = hold();
        thread::sleep(Duration::from_millis(1));
        held.try_result().is_none()
    });

    let other = dial(&client, &server);
    let calls: Vec<_> = (0..4)
        .map(|_| other.call::<_, ()>("/hold", &()).send())
        .collect();
    let refused = |call: &epicycle::rpc::Pending<()>| matches!(call.try_result(), Some(Err(status)) if status.code == code::TOO_MANY_REQUESTS);
    eventually("the fourth is refused", || calls.iter().any(refused));
    tokens.lock().clear();
}

#[test]
fn close_lets_calls_end_in_both_directions_and_refuses_new_ones() {
    let (sender, tokens) = mpsc::channel();
    let sender = Mutex::new(sender);
    let mut routes = math();
    routes.call_later("/hold", move |_ctx, _: (), reply: Responder<u8>| {
        let _ = sender.lock().send(reply);
    });
    let server = server(routes);
    let (sender, clients) = mpsc::channel();
    let sender = Mutex::new(sender);
    let mut routes = Router::new();
    routes.call_later("/hold", move |_ctx, _: (), reply: Responder<u8>| {
        let _ = sender.lock().send(reply);
    });
    let client = start(Peer::builder().routes(routes));
    let session = dial(&client, &server);
    let back = accepted(&server);

    let forth_call = session.call::<_, u8>("/hold", &()).send();
    let back_call = back.call::<_, u8>("/hold", &()).send();
    let forth_reply = tokens.recv_timeout(LONG).expect("runs");
    let back_reply = clients.recv_timeout(LONG).expect("runs");
    back.close();
    assert_eq!(back.health(), Health::Closing);
    let late = back.call::<_, u8>("/hold", &()).wait();
    assert_eq!(code_of(late), code::CONNECTION_CLOSED);
    eventually("a call from the other side is refused", || {
        let late = session.call::<_, i64>("/math/add", &[1]).wait();
        late.is_err_and(|status| status.code == code::SERVICE_UNAVAILABLE)
    });
    assert!(!back.wait_closed(Duration::ZERO));
    forth_reply.send(Ok(1));
    assert_eq!(forth_call.wait(), Ok(1));
    assert!(!back.wait_closed(Duration::from_millis(20)));
    back_reply.send(Ok(2));
    assert_eq!(back_call.wait(), Ok(2));
    assert!(back.wait_closed(LONG) && session.wait_closed(LONG));
    assert_eq!(session.health(), Health::Closed);
    let after = session.call::<_, i64>("/math/add", &[1]).wait();
    assert_eq!(code_of(after), code::CONNECTION_CLOSED);
}

#[test]
fn a_session_that_closes_gives_up_calls_at_its_deadline() {
    let mut routes = Router::new();
    let tokens = Arc::new(Mutex::new(Vec::new()));
    let held = tokens.clone();
    routes.call_later("/hold", move |_ctx, _: (), reply: Responder<()>| {
        held.lock().push(reply);
    });
    let (_server, _client, session) = pair(routes);
    let call = session.call::<_, ()>("/hold", &()).send();
    eventually("the handler ran", || !tokens.lock().is_empty());
    session.close_within(Duration::from_millis(20));
    assert_eq!(code_of(call.wait()), code::CONNECTION_CLOSED);
    assert!(session.wait_closed(LONG));
}

#[test]
fn a_handler_may_close_its_own_session_and_its_reply_arrives() {
    let mut routes = Router::new();
    routes.call("/bye", |ctx, _: ()| {
        ctx.session().close();
        Ok("bye".to_owned())
    });
    let (_server, _client, session) = pair(routes);
    let reply: Result<String, _> = session.call("/bye", &()).wait();
    assert_eq!(reply.as_deref(), Ok("bye"));
    assert!(session.wait_closed(LONG));
}

#[test]
fn a_shutdown_loses_no_call_in_either_direction() {
    let mut routes = Router::new();
    routes.call_blocking("/slow", |_ctx, n: u32| {
        thread::sleep(Duration::from_millis(50));
        Ok(n)
    });
    let server = server(routes);
    let mut routes = Router::new();
    routes.call_blocking("/slow", |_ctx, n: u32| {
        thread::sleep(Duration::from_millis(50));
        Ok(n)
    });
    let client = start(Peer::builder().routes(routes));
    let session = dial(&client, &server);
    let back = accepted(&server);
    let forth = session.call::<_, u32>("/slow", &1).send();
    let back = back.call::<_, u32>("/slow", &2).send();
    // Both have arrived, since calls of a connection keep their order.
    let unknown = session.call::<_, ()>("/nowhere", &()).wait();
    assert_eq!(code_of(unknown), code::NOT_FOUND);
    server.shutdown();
    assert_eq!((forth.wait(), back.wait()), (Ok(1), Ok(2)));
}

#[test]
fn every_call_ends_when_the_connection_breaks() {
    let tokens = Arc::new(Mutex::new(Vec::new()));
    let held = tokens.clone();
    let mut routes = Router::new();
    routes.call_later("/hold", move |_ctx, _: (), reply: Responder<()>| {
        held.lock().push(reply);
    });
    let (server, _client, session) = pair(routes);
    let calls: Vec<_> = (0..10)
        .map(|_| session.call::<_, ()>("/hold", &()).send())
        .collect();
    eventually("all arrived", || tokens.lock().len() == 10);
    accepted(&server).abort();
    for call in calls {
        assert_eq!(code_of(call.wait()), code::CONNECTION_CLOSED);
    }
    assert!(tokens.lock().iter().all(Responder::is_cancelled));
}

#[test]
fn waiting_on_a_reactors_thread_fails_at_once() {
    let mut routes = Router::new();
    routes.call("/wait", |ctx, _: ()| {
        ctx.session().call::<_, ()>("/anything", &()).wait()
    });
    let (_server, _client, session) = pair(routes);
    let status = session
        .call::<_, ()>("/wait", &())
        .wait()
        .expect_err("fails");
    assert!(status.reason.contains("use `then`"), "{status}");
}

#[test]
fn a_dial_that_fails_says_why() {
    let client = client();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let addr = nobody.local_addr().expect("is bound");
    drop(nobody);
    let status = client.dial(addr).expect_err("fails");
    assert_eq!(status.code, code::DIAL_FAILED);
    assert!(status.reason.contains("refused"), "{status}");
    let status = client.dial("tcp://").expect_err("fails");
    assert_eq!(status.code, code::DIAL_FAILED);
}

#[test]
fn a_socket_from_elsewhere_is_a_session() {
    let (server, client) = (server(math()), client());
    let addr = server.local_addrs()[0].as_socket_addr().expect("is TCP");
    let socket = std::net::TcpStream::connect(addr).expect("connects");
    let protocol = ProtocolChoice::raw_of(Dialect::V4_0);
    let session = client.serve_dialled(socket, protocol);
    let session = session.expect("is taken over");
    assert!(session.is_client());
    assert_eq!(session.call("/math/add", &[1, 2]).wait(), Ok(3));
}

#[test]
fn a_broadcast_reaches_every_session_in_its_protocol() {
    let server = start(listening().listen_with("tcp4://127.0.0.1:0", ProtocolChoice::json()));
    let (sender, pushes) = mpsc::channel();
    let sender = Mutex::new(sender);
    let mut routes = Router::new();
    routes.push("/news", move |ctx, text: String| {
        let _ = sender.lock().send((text, ctx.seq().to_vec()));
        Ok(())
    });
    let client = start(Peer::builder().routes(routes));
    let addrs = server.local_addrs();
    let protocols = [
        (&addrs[0], ProtocolChoice::raw_of(Dialect::V4_1)),
        (&addrs[0], ProtocolChoice::raw_of(Dialect::V4_1)),
        (&addrs[1], ProtocolChoice::json_of(Dialect::V4_1)),
    ];
    for (addr, protocol) in protocols {
        client.dial_with(addr, protocol).expect("connects");
    }
    eventually("all are accepted", || server.session_count() == 3);
    server.broadcast("/news", "hello").expect("is sent");
    for _ in 0..3 {
        assert_eq!(
            pushes.recv_timeout(LONG),
            Ok(("hello".to_owned(), Vec::new()))
        );
    }
}

#[test]
fn a_handler_reaches_its_peer_and_the_other_sessions() {
    let mut routes = Router::new();
    routes.call("/say", |ctx, text: String| {
        let peer = ctx.session().peer().expect("runs");
        peer.broadcast("/said", &text)?;
        Ok(peer.session_count())
    });
    let server = server(routes);
    let (sender, pushes) = mpsc::channel();
    let sender = Mutex::new(sender);
    let mut routes = Router::new();
    routes.push("/said", move |_ctx, text: String| {
        let _ = sender.lock().send(text);
        Ok(())
    });
    let client = start(Peer::builder().routes(routes));
    let (one, _two) = (dial(&client, &server), dial(&client, &server));
    eventually("both are accepted", || server.session_count() == 2);
    assert_eq!(one.call("/say", "hello").wait(), Ok(2));
    for _ in 0..2 {
        assert_eq!(pushes.recv_timeout(LONG).as_deref(), Ok("hello"));
    }
    let session = accepted_one(&server);
    server.shutdown();
    drop(server);
    eventually("its peer is gone", || session.peer().is_none());
}

#[test]
fn a_seq_of_the_applications_is_echoed_and_refused_while_it_is_in_use() {
    let tokens = Arc::new(Mutex::new(Vec::new()));
    let held = tokens.clone();
    let mut routes = Router::new();
    routes.call("/seq", |ctx, _: ()| Ok(ctx.seq().to_vec()));
    routes.call_later("/hold", move |_ctx, _: (), reply: Responder<()>| {
        held.lock().push(reply);
    });
    let (_server, _client, session) = pair(routes);
    for seq in [&b""[..], b"\xff\0 1", b"3", b"007", b"18446744073709551616"] {
        let echoed: Result<Vec<u8>, _> = session.call("/seq", &()).seq(seq).wait();
        assert_eq!(echoed.as_deref(), Ok(seq));
    }
    let hold = |seq: &str| session.call::<_, ()>("/hold", &()).seq(seq).send();
    let first = hold("mine");
    assert_eq!(code_of(hold("mine").wait()), code::WRITE_FAILED);
    // Numbers that the application uses are not given to others.
    let numbers: Vec<_> = (0..30).map(|n: u32| hold(&n.to_string())).collect();
    for _ in 0..30 {
        session
            .call::<_, Vec<u8>>("/seq", &())
            .wait()
            .expect("is answered");
    }
    eventually("all are held", || tokens.lock().len() == 31);
    for reply in tokens.lock().drain(..) {
        reply.send(Ok(()));
    }
    for call in numbers.into_iter().chain([first]) {
        assert_eq!(call.wait(), Ok(()));
    }
}

#[test]
fn settings_of_a_call_arrive() {
    let mut routes = Router::new();
    routes.call("/show", |ctx, body: String| {
        let call = ctx.incoming();
        ctx.set_reply_meta("Seen", call.meta().get("K").unwrap_or_default());
        let query = ctx.query("q").unwrap_or_default();
        let ip = ctx.real_ip().map(|ip| ip.to_string());
        Ok(format!(
            "{body} {query} {} {}",
            ctx.path(),
            ip.unwrap_or_default()
        ))
    });
    let (_server, _client, session) = pair(routes);
    let call = session
        .call("/show", "b")
        .codec(Codec::PLAIN)
        .accept(Codec::JSON);
    let call = call.query("q", "a b&c").meta("K", "v w").filters(b"g");
    let reply: Reply<String> = call.real_ip([10, 0, 0, 9].into()).wait().expect("answers");
    assert_eq!(reply.body, "b a b&c /show 10.0.0.9");
    assert_eq!(reply.codec, Codec::JSON);
    assert_eq!(reply.meta.get_str("Seen").as_deref(), Some("v w"));
    let unknown = session.call::<_, ()>("/show", "b").filters(b"?").wait();
    assert_eq!(code_of(unknown), code::WRITE_FAILED);
}

#[test]
fn handlers_on_bytes_neither_decode_nor_encode() {
    let mut routes = Router::new();
    routes.call_bytes("/reverse", |_ctx, body, out| {
        out.extend(body.iter().rev());
        Ok(())
    });
    routes.unknown_call(|ctx, body, out| {
        ctx.add_reply_meta("X-Unknown", ctx.path());
        out.extend_from_slice(body);
        Ok(())
    });
    let (_server, _client, session) = pair(routes);
    let raw = epicycle::rpc::wire::Raw("abc".into());
    let call = session.call("/reverse", &raw).codec(Codec(b'z'));
    let reply: Reply<epicycle::rpc::wire::Raw> = call.wait().expect("answers");
    assert_eq!((&reply.body.0[..], reply.codec), (&b"cba"[..], Codec(b'z')));
    let reply: Reply<String> = session.call("/any/where", "u").wait().expect("answers");
    assert_eq!(
        reply.meta.get_str("X-Unknown").as_deref(),
        Some("/any/where")
    );
}

#[test]
fn a_reactor_has_values_of_its_own() {
    let mut routes = Router::new();
    routes.call("/count", |ctx, _: ()| {
        let mut count = ctx.local::<u32>().expect("is made");
        *count += 1;
        Ok(*count)
    });
    let server = start(listening().routes(routes).local(|| 40u32));
    let client = client();
    let session = dial(&client, &server);
    for expected in [41, 42] {
        assert_eq!(session.call("/count", &()).wait(), Ok(expected));
    }
}

#[test]
fn two_handlers_of_one_path_are_an_error_of_start() {
    let mut routes = math();
    routes.call("/math/add", |_ctx, _: ()| Ok(()));
    let error = Peer::builder().routes(routes).start().expect_err("fails");
    assert!(error.to_string().contains("/math/add"), "{error}");
    let mut routes = Router::new();
    routes.push("/_/mine", |_ctx, _: ()| Ok(()));
    let error = Peer::builder().routes(routes).start().expect_err("fails");
    assert!(error.to_string().contains("reserved"), "{error}");
}

#[test]
fn a_session_of_the_same_id_is_replaced() {
    let (server, client) = (server(math()), client());
    let (one, two) = (dial(&client, &server), dial(&client, &server));
    eventually("both are accepted", || server.session_count() == 2);
    for session in server.sessions() {
        session.set_id("user 7");
    }
    eventually("one is closed", || server.session_count() == 1);
    assert!(server.session("user 7").is_some());
    eventually("its client learns of it", || {
        one.health() == Health::Closed || two.health() == Health::Closed
    });
}

#[test]
fn a_session_learns_that_its_id_is_taken_or_that_another_one_has_taken_it() {
    let (server, client) = (server(math()), client());
    let sessions = [dial(&client, &server), dial(&client, &server)];
    eventually("both are accepted", || server.session_count() == 2);
    let [one, two] = &server.sessions()[..] else {
        panic!("there are two");
    };
    assert!(one.try_set_id("user 7"));
    assert!(one.try_set_id("user 7"), "it has it");
    let before = two.id();
    assert!(!two.try_set_id("user 7"));
    assert_eq!(
        (two.id(), server.session("user 7")),
        (before, Some(one.clone()))
    );
    assert!(!one.is_replaced());

    two.set_id("user 7");
    assert!(one.is_replaced() && !two.is_replaced());
    let status = one.push("/any", &()).expect_err("is closed");
    assert_eq!(status.code, code::CONNECTION_CLOSED);
    assert!(
        status.reason.contains("has taken the identifier"),
        "{status}"
    );
    eventually("one is closed", || server.session_count() == 1);
    assert_eq!(server.session("user 7"), Some(two.clone()));
    // The identifier of one that has ended is free.
    two.close();
    eventually("both are closed", || server.session_count() == 0);
    drop(sessions);
    let _third = dial(&client, &server);
    eventually("it is accepted", || server.session_count() == 1);
    assert!(server.sessions()[0].try_set_id("user 7"));
}

#[test]
fn sessions_whose_addresses_are_alike_do_not_replace_each_other() {
    let dir = tempfile::tempdir().expect("can be made");
    let path = format!("unix://{}/peer.sock", dir.path().display());
    let server = start(Peer::builder().listen(&*path).routes(math()));
    let client = client();
    // None of these ends has a name.
    let sessions: Vec<_> = (0..3)
        .map(|_| client.dial(&*path).expect("connects"))
        .collect();
    for session in &sessions {
        assert_eq!(session.call("/math/add", &[1, 2]).wait(), Ok(3));
        let listed = client.session(&session.id());
        assert_eq!(listed.as_ref(), Some(session));
    }
    assert_eq!((client.session_count(), server.session_count()), (3, 3));
    sessions[0].close();
    eventually("it is closed", || client.session_count() == 2);
    let next = client.dial(&*path).expect("connects");
    assert_eq!(next.call("/math/add", &[1, 2]).wait(), Ok(3));
    assert_eq!(client.session_count(), 3);
}

#[test]
fn a_session_works_from_100_threads() {
    let (_server, _client, session) = pair(math());
    let threads: Vec<_> = (0..100i64)
        .map(|n| {
            let session = session.clone();
            thread::spawn(move || {
                for m in 0..20 {
                    assert_eq!(session.call("/math/add", &[n, m]).wait(), Ok(n + m));
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("all calls are answered");
    }
}

#[test]
fn a_call_is_a_future_and_dropping_it_cancels() {
    let (sender, tokens) = mpsc::channel();
    let sender = Mutex::new(sender);
    let mut routes = math();
    routes.call_later("/hold", move |_ctx, _: (), reply: Responder<()>| {
        let _ = sender.lock().send(reply);
    });
    let (_server, client, session) = pair(routes);
    let sum = block_on(async { session.call("/math/add", &[1, 2]).await });
    assert_eq!(sum, Ok(3));
    let addr = session.remote_addr();
    let other = block_on(client.dial_async(&addr)).expect("connects");
    let future = other.call::<_, ()>("/hold", &()).into_future();
    let reply = tokens.recv_timeout(LONG).expect("runs");
    drop(future);
    eventually("the handler learns of it", || reply.is_cancelled());
}

#[test]
fn replies_to_no_call_and_pushes_to_nowhere_harm_nothing() {
    use std::io::{Read, Write};

    let server = server(math());
    let addr = server.local_addrs()[0].as_socket_addr().expect("is TCP");
    let mut socket = std::net::TcpStream::connect(addr).expect("connects");
    let stray =
        b"\0\0\0\x13r\0\0\x0299\x02\0\0\0\0j\"x\"\0\0\0\x17r\0\0\x010\x03\0\x05/nope\0\0j\"x\"";
    socket.write_all(stray).expect("is sent");
    socket
        .write_all(b"\0\0\0\x1br\0\0\x010\x01\0\x09/math/add\0\0j[4]")
        .expect("is sent");
    let mut reply = [0; 16];
    socket.read_exact(&mut reply).expect("is answered");
    assert_eq!(&reply, b"\0\0\0\x10r\0\0\x010\x02\0\0\0\0j4");
}

#[test]
fn a_call_that_finds_the_mailbox_full_says_so() {
    let (release, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let mut routes = Router::new();
    routes.push("/block", move |_ctx, _: ()| {
        gate.lock().recv_timeout(LONG).expect("is released");
        Ok(())
    });
    let server = start(listening());
    let client = start(
        Peer::builder()
            .routes(routes)
            .server(|server| server.mailbox(10)),
    );
    let session = dial(&client, &server);
    accepted(&server).push("/block", &()).expect("is sent");
    let refused = |status: &Status| status.code == code::WRITE_FAILED;
    eventually("a push is refused", || {
        session
            .push("/any", &())
            .is_err_and(|status| refused(&status))
    });
    let status = session
        .call::<_, ()>("/any", &())
        .wait()
        .expect_err("fails");
    assert!(
        refused(&status) && status.reason.contains("mailbox"),
        "{status}"
    );
    release.send(()).expect("it waits");
    eventually("calls go on", || {
        let status = session
            .call::<_, ()>("/any", &())
            .wait()
            .expect_err("fails");
        status.code == code::NOT_FOUND
    });
}
