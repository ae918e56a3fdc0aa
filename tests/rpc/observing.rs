//! A peer at work, as others see it: statistics, log lines, traces; and routes made of a value's methods.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use epicycle::metrics::prometheus;
use epicycle::rpc::plugins::auth::Verify;
use epicycle::rpc::wire::{Dialect, Kind, Message, Meta};
use epicycle::rpc::{
    CallCtx, Codec, Outcome, Peer, PushCtx, Responder, RouteStats, Router, Session, SessionConn,
    Status, code, controller, push_controller,
};
use log::Level;
use parking_lot::Mutex;

use crate::ends::{dial, listening, start};
use crate::util::logs::logs;
use crate::util::{LONG, eventually, expect_panics};
use crate::wire::Form;

fn pair(routes: Router) -> (Peer, Peer, Session) {
    let (server, client) = (start(listening().routes(routes)), start(Peer::builder()));
    let session = dial(&client, &server);
    (server, client, session)
}

fn of_call(server: &Peer, path: &str) -> RouteStats {
    server.stats().call(path).expect("is a route").stats.clone()
}

#[test]
fn each_message_is_counted_at_its_route_by_its_outcome() {
    let kept: Mutex<Vec<Responder<i64>>> = Mutex::default();
    let mut routes = Router::new();
    routes.call("/half", |_ctx, n: i64| match n % 2 {
        0 => Ok(n / 2),
        _ => Err(Status::new(1001, "odd")),
    });
    routes.call("/panic", |_ctx, (): ()| -> Result<(), Status> {
        panic!("on purpose")
    });
    routes.call_blocking("/block", |_ctx, n: i64| Ok(n));
    routes.call_later("/keep", move |_ctx, _: i64, reply| kept.lock().push(reply));
    routes.push("/note", |_ctx, n: i64| match n {
        0 => Ok(()),
        _ => Err(Status::new(code::BAD_MESSAGE, "")),
    });
    let (server, _client, session) = pair(routes);
    assert_eq!(session.call("/half", &4).wait(), Ok(2i64));
    assert_eq!(
        session
            .call::<_, i64>("/half", &3)
            .wait()
            .map_err(|error| error.code),
        Err(1001)
    );
    assert!(session.call::<_, i64>("/half", "text").wait().is_err());
    expect_panics();
    assert!(session.call::<_, ()>("/panic", &()).wait().is_err());
    assert_eq!(session.call("/block", &5).wait(), Ok(5i64));
    assert!(session.call::<_, ()>("/nowhere", &()).wait().is_err());
    session.push("/note", &0).expect("is sent");
    session.push("/note", &1).expect("is sent");
    session.push("/nowhere", &1).expect("is sent");
    let (first, second) = (
        session.call::<_, i64>("/keep", &1).send(),
        session.call::<_, i64>("/keep", &1).send(),
    );
    eventually("both are under way", || {
        of_call(&server, "/keep").in_flight() == 2
    });
    first.cancel();
    eventually("one is cancelled", || {
        of_call(&server, "/keep").ended[Outcome::Cancelled] == 1
    });
    assert_eq!(of_call(&server, "/keep").in_flight(), 1);

    let half = of_call(&server, "/half");
    assert_eq!((half.arrived, half.in_flight()), (3, 0));
    assert_eq!(half.ended[Outcome::Ok], 1);
    assert_eq!(half.ended[Outcome::Other], 1);
    assert_eq!(half.ended[Outcome::BadMessage], 1);
    assert_eq!(
        of_call(&server, "/panic").ended[Outcome::InternalServerError],
        1
    );
    assert_eq!(of_call(&server, "/block").ended[Outcome::Ok], 1);
    let stats = server.stats();
    let note = &stats.push("/note").expect("is a route").stats;
    assert_eq!(
        (note.ended[Outcome::Ok], note.ended[Outcome::BadMessage]),
        (1, 1)
    );
    assert_eq!(
        (
            stats.unknown.arrived,
            stats.unknown.ended[Outcome::NotFound]
        ),
        (2, 2)
    );
    assert_eq!(
        (
            stats.peer.sessions,
            stats.peer.stray_pushes,
            stats.peer.cancels
        ),
        (1, 1, 1)
    );

    session.abort();
    eventually("its session has ended", || {
        of_call(&server, "/keep").in_flight() == 0
    });
    assert_eq!(of_call(&server, "/keep").ended[Outcome::Cancelled], 2);
    assert!(second.wait().is_err());
    let mut text = String::new();
    prometheus(&server.stats(), &mut text);
    assert!(
        text.contains(
            r#"epicycle_rpc_route_ended_total{kind="call",route="/half",outcome="400"} 1"#
        ),
        "{text}"
    );
    assert!(text.contains("epicycle_rpc_sessions 0"), "{text}");
}

#[test]
fn the_bytes_of_messages_are_counted_as_they_are_on_the_wire() {
    let mut routes = Router::new();
    routes.call_bytes("/a", |_ctx, body, out| {
        out.extend_from_slice(body);
        Ok(())
    });
    let server = start(listening().routes(routes));
    let addr = server.local_addrs()[0].as_socket_addr().expect("is TCP");
    let mut socket = TcpStream::connect(addr).expect("connects");
    let mut sizes = (0, 0);
    for body in [3usize, 100_000] {
        let mut call = ((18 - 1 + body) as u32).to_be_bytes().to_vec();
        call.extend_from_slice(b"r\0\0\x010\x01\0\x02/a\0\0s");
        call.resize(call.len() + body, b'x');
        let size = call.len() as u32;
        call[..4].copy_from_slice(&size.to_be_bytes());
        socket.write_all(&call).expect("writes");
        let mut head = [0; 4];
        socket.read_exact(&mut head).expect("reads");
        let reply = u32::from_be_bytes(head) as usize;
        socket.read_exact(&mut vec![0; reply - 4]).expect("reads");
        sizes = (sizes.0 + call.len() as u64, sizes.1 + reply as u64);
        let stats = of_call(&server, "/a");
        assert_eq!((stats.bytes_in, stats.bytes_out), sizes);
    }
}

#[test]
fn times_are_counted_if_asked_for() {
    let routes = || {
        let mut routes = Router::new();
        routes.call("/quick", |_ctx, (): ()| Ok(()));
        routes.call_blocking("/sleep", |_ctx, (): ()| {
            std::thread::sleep(Duration::from_millis(20));
            Ok(())
        });
        routes
    };
    let client = start(Peer::builder());
    let server = start(listening().routes(routes()).count_time());
    let session = dial(&client, &server);
    for path in ["/quick", "/sleep"] {
        session.call::<_, ()>(path, &()).wait().expect("answers");
        let stats = server.stats();
        let times = stats
            .call(path)
            .and_then(|route| route.times.as_ref())
            .expect("are counted");
        assert_eq!(times.count(), 1);
        let time = times.time_quantile(1.0).expect("is one");
        assert_eq!(
            time >= Duration::from_millis(20),
            path == "/sleep",
            "{time:?}"
        );
    }
    let mut text = String::new();
    prometheus(&server.stats(), &mut text);
    assert!(
        text.contains(r#"epicycle_rpc_route_time_seconds_count{kind="call",route="/sleep"} 1"#),
        "{text}"
    );

    let server = start(listening().routes(routes()));
    let session = dial(&client, &server);
    session
        .call::<_, ()>("/quick", &())
        .wait()
        .expect("answers");
    assert!(
        server
            .stats()
            .call("/quick")
            .expect("is a route")
            .times
            .is_none()
    );
}

#[test]
fn messages_are_logged_as_teleport_does_it() {
    let logs = logs();
    let mut routes = Router::new();
    routes.call("/logged/add", |_ctx, numbers: Vec<i64>| {
        Ok(numbers.iter().sum::<i64>())
    });
    routes.push("/logged/note", |_ctx, _: String| Ok(()));
    let (server, _client, session) = pair(routes);
    let reply: i64 = session
        .call("/logged/add", &[1, 2])
        .meta("K", "v")
        .no_timeout()
        .seq("a")
        .wait()
        .expect("adds");
    assert_eq!(reply, 3);
    let (local, remote) = (
        session.local_addr().to_string(),
        session.remote_addr().to_string(),
    );
    let line = |first: &str, rest: &str| {
        eventually(rest, || {
            logs.with(rest)
                .iter()
                .any(|(level, line)| *level == Level::Info && line == &format!("{first} {rest}"))
        });
    };
    line(
        "CALL<-",
        &format!(r#"{local} - /logged/add "a" RECV({{"size":34}}) SEND({{"size":16}})"#),
    );
    line(
        "CALL->",
        &format!(r#"{remote} - /logged/add "a" SEND({{"size":34}}) RECV({{"size":16}})"#),
    );
    session
        .prepare_push("/logged/note", "hi")
        .seq("b")
        .send()
        .expect("is sent");
    line(
        "PUSH->",
        &format!(r#"{remote} - /logged/note "b" SEND({{"size":31}})"#),
    );
    line(
        "PUSH<-",
        &format!(r#"{local} - /logged/note "b" RECV({{"size":31}})"#),
    );
    // A peer cannot forge a line.
    let _ = session
        .call::<_, ()>("/nowhere\nCALL<-", &())
        .no_timeout()
        .seq("\n")
        .wait();
    let forged = format!(r#"{local} - /nowhere\nCALL<- "\n" RECV({{"size":34}}) SEND("#);
    eventually("the line is escaped", || !logs.with(&forged).is_empty());
    drop(server);
}

#[test]
fn a_log_line_can_have_the_details_the_cost_and_no_secrets() {
    let logs = logs();
    let mut routes = Router::new();
    routes.call_blocking("/detailed/sleep", |_ctx, secret: String| {
        std::thread::sleep(Duration::from_millis(20));
        Ok(secret)
    });
    let server = start(
        listening()
            .routes(routes)
            .slow(Duration::from_millis(10))
            .log_details()
            .redact(|logged| {
                assert_eq!(logged.path, "/detailed/sleep");
                if logged.kind == Kind::Call {
                    assert_eq!(logged.query, "password=hunter2");
                    (logged.query, logged.body) = (String::new(), "***".to_owned());
                }
            }),
    );
    let client = start(Peer::builder());
    let session = dial(&client, &server);
    let long = "x".repeat(5000);
    let echo: String = session
        .call("/detailed/sleep?password=hunter2", &long)
        .no_timeout()
        .meta("K", "v")
        .meta("Authorization", "Basic hunter2")
        .real_ip([10, 1, 2, 3].into())
        .wait()
        .expect("answers");
    assert_eq!(echo, long);
    let found = || {
        logs.with("/detailed/sleep")
            .into_iter()
            .find(|(_, line)| line.starts_with("CALL<-"))
    };
    eventually("it is logged", || found().is_some());
    let (level, line) = found().expect("is logged");
    assert_eq!(level, Level::Warn);
    assert!(line.contains("ms(slow) "), "{line}");
    assert!(line.contains("(real: 10.1.2.3) "), "{line}");
    assert!(
        line.contains(r#""meta":"K=v&Authorization=***&X-Real-IP=10.1.2.3","body":"***"})"#),
        "{line}"
    );
    assert!(!line.contains("hunter2"), "{line}");
    // The reply's body, cut.
    assert!(
        line.contains(&"x".repeat(1023)) && !line.contains(&"x".repeat(1024)),
        "{line}"
    );
}

#[test]
fn a_redaction_that_panics_hides_everything_and_costs_no_call() {
    expect_panics();
    let logs = logs();
    let mut routes = Router::new();
    routes.call("/redacted/badly", |_ctx, secret: String| Ok(secret));
    let builder = listening().routes(routes).log_details();
    let server = start(builder.redact(|_| panic!("on purpose")));
    let client = start(Peer::builder());
    let session = dial(&client, &server);
    let uri = "/redacted/badly?password=hunter3";
    let echo = session.call::<_, String>(uri, "hunter3").wait();
    assert_eq!(echo.as_deref(), Ok("hunter3"));
    let lines = || {
        let lines = logs.with("/redacted/badly").into_iter();
        lines
            .map(|(_, line)| line)
            .find(|line| line.starts_with("CALL<-"))
    };
    eventually("it is logged", || lines().is_some());
    let line = lines().expect("is logged");
    assert!(line.contains(r#""body":"***""#), "{line}");
    assert!(!line.contains("hunter3"), "{line}");
}

#[test]
fn a_peer_cannot_forge_a_line_of_the_log() {
    let logs = logs();
    let form = Form::Raw(Dialect::V4_1);
    let told = |plugin: Verify, message: &Message<'_>| {
        let server = start(listening().plugin(plugin));
        let addr = server.local_addrs()[0].as_socket_addr().expect("is TCP");
        let mut socket = TcpStream::connect(addr).expect("connects");
        let bytes = form.encode(message).expect("fits");
        socket.write_all(&bytes).expect("is sent");
        let _ = socket.read_to_end(&mut Vec::new());
    };
    let verify = || {
        Verify::new(|name, _| {
            let reason = format!("nobody is called {name}");
            Err(Status::new(403, "no").with_reason(reason))
        })
    };
    // Before anybody has authenticated.
    let mut call = Message::call("/x\nFORGED by a path\u{2028}");
    told(verify(), &call);
    call.uri = b"/auth/verify"[..].into();
    call.codec = Codec::PLAIN;
    call.body = b"\r\nFORGED by a name"[..].into();
    told(verify(), &call);
    for (text, shown) in [
        ("FORGED by a path", r"CALL /x\nFORGED by a path\u{2028}"),
        ("FORGED by a name", r"nobody is called \r\nFORGED by a name"),
    ] {
        eventually("it is logged", || !logs.with(text).is_empty());
        for (_, line) in logs.with(text) {
            assert!(line.contains(shown) && !line.contains('\n'), "{line:?}");
        }
    }
}

#[test]
fn a_call_inside_a_call_belongs_to_its_trace_and_ends_by_its_deadline() {
    let (sender, receiver) = mpsc::channel();
    let mut routes = Router::new();
    routes.call_async("/outer", |ctx, (): ()| async move {
        let inner: Result<(), Status> = ctx.call(ctx.session(), "/inner", &()).await;
        inner
    });
    let server = start(listening().routes(routes));
    let mut routes = Router::new();
    routes.call_later("/inner", move |ctx, (): (), reply: Responder<()>| {
        let meta = ctx.meta();
        let get = |key| meta.get_str(key).map(std::borrow::Cow::into_owned);
        let told = (
            get(Meta::TRACE_PARENT),
            get(Meta::TRACE_STATE),
            get("X-Timeout"),
        );
        sender.send((told, reply)).expect("is awaited");
    });
    let client = start(Peer::builder().routes(routes));
    let session = dial(&client, &server);
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let begun = Instant::now();
    let outer = session
        .call::<_, ()>("/outer", &())
        .timeout(Duration::from_millis(300))
        .meta(Meta::TRACE_PARENT, trace)
        .meta(Meta::TRACE_STATE, "a=b")
        .send();
    let ((parent, state, timeout), _unanswered) = receiver.recv_timeout(LONG).expect("is called");
    assert_eq!(
        (parent.as_deref(), state.as_deref()),
        (Some(trace), Some("a=b"))
    );
    let timeout: u64 = timeout.expect("has a time").parse().expect("is a number");
    assert!((1..=300).contains(&timeout), "{timeout}");
    assert_eq!(
        outer.wait().map_err(|error| error.code),
        Err(code::HANDLE_TIMEOUT)
    );
    assert!(begun.elapsed() >= Duration::from_millis(299));
}

#[test]
fn a_session_shows_its_connection_on_its_reactor() {
    let kept: Mutex<Vec<Responder<()>>> = Mutex::default();
    let mut routes = Router::new();
    routes.call_later("/keep", move |_ctx, (): (), reply| kept.lock().push(reply));
    let (server, _client, session) = pair(routes);
    let _pending = session.call::<_, ()>("/keep", &()).send();
    eventually("it is under way", || {
        of_call(&server, "/keep").in_flight() == 1
    });
    let look = |session: &Session| {
        let (sender, receiver) = mpsc::channel();
        let look = move |conn: &SessionConn<'_>| {
            let port = rustix::net::getsockname(conn.fd).expect("is a socket");
            let numbers = (conn.calls_sent, conn.calls_received, conn.bytes_waiting);
            sender.send((port, numbers)).expect("is awaited");
        };
        session.with_conn(look).expect("is open");
        receiver.recv_timeout(LONG).expect("is shown")
    };
    let (addr, numbers) = look(&session);
    let port = |addr: &epicycle::Addr| addr.as_socket_addr().expect("is TCP");
    assert_eq!(
        std::net::SocketAddr::try_from(addr).expect("is TCP"),
        port(&session.local_addr())
    );
    assert_eq!(numbers, (1, 0, 0));
    assert_eq!(look(&server.sessions()[0]).1, (0, 1, 0));
    session.abort();
    assert!(session.wait_closed(LONG));
    assert!(session.with_conn(|_| unreachable!()).is_err());
}

struct Numbers;

impl Numbers {
    fn add(&self, _: &mut CallCtx<'_>, numbers: Vec<i64>) -> Result<i64, Status> {
        Ok(numbers.iter().sum())
    }

    fn xx_zz(&self, ctx: &mut CallCtx<'_>, (): ()) -> Result<String, Status> {
        Ok(ctx.path())
    }
}

struct MyNews(mpsc::Sender<String>);

impl MyNews {
    fn status(&self, _: &PushCtx<'_>, text: String) -> Result<(), Status> {
        self.0.send(text).map_err(|_| Status::new(1001, ""))
    }
}

#[test]
fn the_methods_of_a_value_are_routes() {
    let (sender, receiver) = mpsc::channel();
    let mut routes = Router::new();
    routes.group("v1", |routes| {
        controller!(routes, Numbers => Numbers { add, xx_zz, "Add__2" = add });
    });
    push_controller!(routes, MyNews(sender) => MyNews { status });
    let (_server, _client, session) = pair(routes);
    assert_eq!(session.call("/v1/numbers/add", &[1, 2]).wait(), Ok(3));
    assert_eq!(session.call("/v1/numbers/add_2", &[1, 2]).wait(), Ok(3));
    let path = session.call("/v1/numbers/xx_zz", &()).wait();
    assert_eq!(path, Ok("/v1/numbers/xx_zz".to_owned()));
    session.push("/my_news/status", "hi").expect("is sent");
    assert_eq!(receiver.recv_timeout(LONG).as_deref(), Ok("hi"));
}
