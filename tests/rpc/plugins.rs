//! Plugins: the order of their hooks, what they can change, and authentication.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use epicycle::rpc::plugins::auth::{Bearer, Verify};
use epicycle::rpc::plugins::heartbeat::Ping;
use epicycle::rpc::plugins::ignore_case::IgnoreCase;
use epicycle::rpc::wire::Message;
use epicycle::rpc::{
    Health, Hooks, Incoming, Next, Peer, Plugin, ProtocolChoice, Receiver, Router, Sender, Session,
    Status, code,
};
use epicycle::{Addr, Error};
use parking_lot::Mutex;

use crate::ends::{dial, listening, start, try_dial};
use crate::util::{LONG, eventually, expect_panics};

type Log = Arc<Mutex<Vec<String>>>;

/// Notes the calls of its hooks.
struct Noting {
    name: &'static str,
    hooks: Hooks,
    log: Log,
}

impl Noting {
    fn note(&self, hook: &str) {
        self.log.lock().push(format!("{} {hook}", self.name));
    }
}

impl Plugin for Noting {
    fn name(&self) -> &str {
        self.name
    }

    fn hooks(&self) -> Hooks {
        self.hooks
    }

    fn pre_new_peer(&self) -> Result<(), Error> {
        self.note("pre_new_peer");
        Ok(())
    }

    fn post_new_peer(&self, peer: &Peer) -> Result<(), Error> {
        assert!(!peer.routes().is_empty());
        self.note("post_new_peer");
        Ok(())
    }

    fn post_reg(&self, route: &epicycle::rpc::RouteInfo) -> Result<(), Error> {
        self.note(&format!("post_reg {}", route.path));
        Ok(())
    }

    fn post_listen(&self, _: &Addr) -> Result<(), Error> {
        self.note("post_listen");
        Ok(())
    }

    fn post_accept(&self, _: &Session) -> Result<Next, Status> {
        self.note("post_accept");
        Ok(Next::Go)
    }

    fn post_dial(&self, _: &Session) -> Result<Next, Status> {
        self.note("post_dial");
        Ok(Next::Go)
    }

    fn post_disconnect(&self, _: &Session) {
        self.note("post_disconnect");
    }

    fn pre_write_call(&self, _: &Session, call: &mut Message<'static>) -> Result<(), Status> {
        call.meta.add("From", self.name);
        self.note("pre_write_call");
        Ok(())
    }

    fn post_write_call(&self, _: &Session, _: &Message<'_>) {
        self.note("post_write_call");
    }

    fn pre_write_reply(&self, call: &Incoming<'_>, reply: &mut Message<'_>) -> Result<(), Status> {
        assert_eq!(*call.seq(), *reply.seq);
        reply.meta.add("Via", self.name);
        self.note("pre_write_reply");
        Ok(())
    }

    fn post_write_reply(&self, _: &Incoming<'_>, _: &Message<'_>) {
        self.note("post_write_reply");
    }

    fn pre_write_push(&self, _: &Session, _: &mut Message<'static>) -> Result<(), Status> {
        self.note("pre_write_push");
        Ok(())
    }

    fn post_write_push(&self, _: &Session, _: &Message<'_>) {
        self.note("post_write_push");
    }

    fn pre_read_header(&self, _: &Session) -> Result<(), Status> {
        self.note("pre_read_header");
        Ok(())
    }

    fn post_read_call_header(&self, _: &mut Incoming<'_>) -> Result<(), Status> {
        self.note("post_read_call_header");
        Ok(())
    }

    fn pre_read_call_body(&self, _: &mut Incoming<'_>) -> Result<(), Status> {
        self.note("pre_read_call_body");
        Ok(())
    }

    fn post_read_call_body(&self, _: &Incoming<'_>) -> Result<(), Status> {
        self.note("post_read_call_body");
        Ok(())
    }

    fn post_read_push_header(&self, _: &mut Incoming<'_>) -> Result<(), Status> {
        self.note("post_read_push_header");
        Ok(())
    }

    fn pre_read_push_body(&self, _: &mut Incoming<'_>) -> Result<(), Status> {
        self.note("pre_read_push_body");
        Ok(())
    }

    fn post_read_push_body(&self, _: &Incoming<'_>) -> Result<(), Status> {
        self.note("post_read_push_body");
        Ok(())
    }

    fn post_read_reply_header(&self, _: &Session, _: &mut Message<'_>) -> Result<(), Status> {
        self.note("post_read_reply_header");
        Ok(())
    }

    fn pre_read_reply_body(&self, _: &Session, _: &mut Message<'_>) -> Result<(), Status> {
        self.note("pre_read_reply_body");
        Ok(())
    }

    fn post_read_reply_body(&self, _: &Session, _: &Message<'_>) -> Result<(), Status> {
        self.note("post_read_reply_body");
        Ok(())
    }
}

fn take(log: &Log) -> Vec<String> {
    std::mem::take(&mut *log.lock())
}

#[test]
fn items_of_streams_pass_the_hooks_of_pushes_and_one_that_is_refused_ends_its_stream() {
    /// Refuses the number 13 once it is decoded.
    struct Superstitious;
    impl Plugin for Superstitious {
        fn name(&self) -> &str {
            "superstitious"
        }

        fn hooks(&self) -> Hooks {
            Hooks::POST_READ_PUSH_BODY
        }

        fn post_read_push_body(&self, push: &Incoming<'_>) -> Result<(), Status> {
            match push.bind::<u64>()? {
                13 => Err(Status::new(1013, "Not That One")),
                _ => Ok(()),
            }
        }
    }
    let log = Log::default();
    let reads = Hooks::POST_READ_PUSH_HEADER | Hooks::PRE_READ_PUSH_BODY;
    let hooks = reads | Hooks::POST_READ_PUSH_BODY;
    let noting = |name, hooks| Noting {
        name,
        hooks,
        log: log.clone(),
    };
    let mut routes = Router::new();
    routes.stream("/count", |_ctx, to: u64, tx: Sender<u64>| {
        (0..to).for_each(|n| tx.send(&n).expect("has credit"));
        tx.finish();
    });
    routes.stream_blocking("/sum", |_ctx, _: (), rx: Receiver<u64>| {
        let numbers = rx.into_iter().collect::<Result<Vec<_>, _>>()?;
        Ok(numbers.iter().sum::<u64>())
    });
    let server = listening().routes(routes);
    let server = start(server.plugin(noting("s", hooks)).plugin(Superstitious));
    let client = start(
        Peer::builder()
            .plugin(noting("c", hooks))
            .plugin(Superstitious),
    );
    let session = dial(&client, &server);
    let of = |who| {
        [
            format!("{who} post_read_push_header"),
            format!("{who} pre_read_push_body"),
            format!("{who} post_read_push_body"),
        ]
    };

    let mut rx = session.stream("/count", &1).receive::<u64>();
    assert_eq!(rx.wait_next(), Some(Ok(0)));
    assert_eq!(rx.wait_next(), None);
    assert_eq!(take(&log), of("c"));
    let (tx, rx) = session.stream("/sum", &()).open::<u64, u64>();
    tx.send_wait(&5).expect("is sent");
    tx.finish();
    assert_eq!(rx.wait_only(), Ok(5));
    assert_eq!(take(&log), [of("s"), of("c")].concat());

    // Whoever reads it learns of it, and the other side too.
    let got: Vec<_> = session
        .stream("/count", &20)
        .receive::<u64>()
        .into_iter()
        .collect();
    assert_eq!(got.len(), 14);
    assert_eq!(got[13].as_ref().map_err(|status| status.code), Err(1013));
    let (tx, rx) = session.stream("/sum", &()).open::<u64, u64>();
    tx.send_wait(&13).expect("is sent");
    assert_eq!(rx.wait_only().map_err(|status| status.code), Err(1013));
    assert_eq!(session.health(), Health::Open);
}

#[test]
fn each_hook_is_called_at_its_place() {
    let log = Log::default();
    let noting = |name, hooks| Noting {
        name,
        hooks,
        log: log.clone(),
    };
    let mut routes = Router::new();
    routes.call("/add", |_ctx, numbers: Vec<i64>| {
        Ok(numbers.iter().sum::<i64>())
    });
    routes.push("/note", |_ctx, _: String| Ok(()));
    let server = start(listening().routes(routes).plugin(noting("s", Hooks::all())));
    let started = [
        "pre_new_peer",
        "post_reg /add",
        "post_reg /note",
        "post_listen",
        "post_new_peer",
    ];
    assert_eq!(take(&log), started.map(|hook| format!("s {hook}")));
    let client = start(Peer::builder().plugin(noting("c", Hooks::all() - Hooks::POST_NEW_PEER)));
    take(&log);

    let session = dial(&client, &server);
    eventually("it is accepted", || server.session_count() == 1);
    let mut opened = take(&log);
    opened.sort();
    assert_eq!(opened, ["c post_dial", "s post_accept"]);

    assert_eq!(session.call("/add", &[1, 2]).wait(), Ok(3));
    let called = take(&log);
    let of = |who: &str| -> Vec<_> {
        let theirs = called.iter().filter(|hook| hook.starts_with(who));
        theirs.map(|hook| hook[2..].to_owned()).collect()
    };
    let client_side = [
        "pre_write_call",
        "post_write_call",
        "pre_read_header",
        "post_read_reply_header",
        "pre_read_reply_body",
        "post_read_reply_body",
    ];
    assert_eq!(of("c"), client_side);
    let server_side = [
        "pre_read_header",
        "post_read_call_header",
        "pre_read_call_body",
        "post_read_call_body",
        "pre_write_reply",
        "post_write_reply",
    ];
    eventually("the server is done", || log.lock().is_empty());
    assert_eq!(of("s"), server_side);

    session.push("/note", "x").expect("is sent");
    eventually("it is read", || {
        log.lock()
            .iter()
            .any(|hook| hook == "s post_read_push_body")
    });
    let mut pushed = take(&log);
    pushed.sort();
    let expected = [
        "c post_write_push",
        "c pre_write_push",
        "s post_read_push_body",
        "s post_read_push_header",
        "s pre_read_header",
        "s pre_read_push_body",
    ];
    assert_eq!(pushed, expected);
    session.close();
    eventually("both have ended", || log.lock().len() == 2);
    let mut ended = take(&log);
    ended.sort();
    assert_eq!(ended, ["c post_disconnect", "s post_disconnect"]);
}

#[test]
fn plugins_of_the_peer_stand_around_those_of_groups_and_handlers() {
    let log = Log::default();
    let hooks = Hooks::PRE_READ_CALL_BODY | Hooks::PRE_WRITE_REPLY;
    let noting = |name| Noting {
        name,
        hooks,
        log: log.clone(),
    };
    let mut routes = Router::new();
    routes.group("g", |routes| {
        routes.plugin(noting("group"));
        routes.with(noting("handler"), |routes| {
            routes.call("now", |_ctx, n: u8| Ok(n));
            routes.call_async("later", |_ctx, n: u8| async move { Ok(n) });
            routes.call_blocking("blocking", |_ctx, n: u8| Ok(n));
        });
    });
    routes.call("plain", |_ctx, n: u8| Ok(n));
    let server = start(
        listening()
            .routes(routes)
            .plugin(noting("left"))
            .plugin_right(noting("right")),
    );
    let client = start(Peer::builder());
    let session = dial(&client, &server);
    let row = |names: &[&str]| -> Vec<String> {
        let hooks = ["pre_read_call_body", "pre_write_reply"];
        let of_all = hooks.map(|hook| names.iter().map(move |name| format!("{name} {hook}")));
        of_all.into_iter().flatten().collect()
    };
    for path in ["/g/now", "/g/later", "/g/blocking"] {
        let reply: epicycle::rpc::Reply<u8> = session.call(path, &7).wait().expect("answers");
        let via: Vec<_> = reply
            .meta
            .get_all("Via")
            .map(std::borrow::Cow::into_owned)
            .collect();
        assert_eq!(
            via,
            [&b"left"[..], b"group", b"handler", b"right"],
            "{path}"
        );
        assert_eq!(
            take(&log),
            row(&["left", "group", "handler", "right"]),
            "{path}"
        );
    }
    session.call::<_, u8>("/plain", &7).wait().expect("answers");
    assert_eq!(take(&log), row(&["left", "right"]));
    // Nobody has a handler, so the peer's plugins see the refusal.
    session
        .call::<_, u8>("/nowhere", &7)
        .wait()
        .expect_err("fails");
    assert_eq!(
        take(&log),
        ["left pre_write_reply", "right pre_write_reply"]
    );
}

/// Fails in one hook.
struct Failing(Hooks);

impl Failing {
    fn check(&self, hook: Hooks) -> Result<(), Status> {
        match self.0 == hook {
            true => Err(Status::new(7, "no")),
            false => Ok(()),
        }
    }
}

impl Plugin for Failing {
    fn name(&self) -> &str {
        "failing"
    }

    fn hooks(&self) -> Hooks {
        self.0
    }

    fn pre_write_call(&self, _: &Session, _: &mut Message<'static>) -> Result<(), Status> {
        self.check(Hooks::PRE_WRITE_CALL)
    }

    fn pre_write_push(&self, _: &Session, _: &mut Message<'static>) -> Result<(), Status> {
        self.check(Hooks::PRE_WRITE_PUSH)
    }

    fn pre_write_reply(&self, _: &Incoming<'_>, _: &mut Message<'_>) -> Result<(), Status> {
        self.check(Hooks::PRE_WRITE_REPLY)
    }

    fn post_read_call_header(&self, _: &mut Incoming<'_>) -> Result<(), Status> {
        self.check(Hooks::POST_READ_CALL_HEADER)
    }

    fn pre_read_call_body(&self, _: &mut Incoming<'_>) -> Result<(), Status> {
        self.check(Hooks::PRE_READ_CALL_BODY)
    }

    fn post_read_call_body(&self, _: &Incoming<'_>) -> Result<(), Status> {
        assert!(self.0 != Hooks::POST_READ_CALL_BODY, "on purpose");
        Ok(())
    }

    fn post_read_reply_header(&self, _: &Session, _: &mut Message<'_>) -> Result<(), Status> {
        self.check(Hooks::POST_READ_REPLY_HEADER)
    }
}

#[test]
fn an_error_of_a_hook_is_the_result_and_a_panic_is_one_too() {
    expect_panics();
    let echo = || {
        let mut routes = Router::new();
        routes.call("/echo", |_ctx, n: u8| Ok(n));
        routes
    };
    let cases = [
        (Hooks::PRE_WRITE_CALL, true, 7),
        (Hooks::POST_READ_REPLY_HEADER, true, 7),
        (Hooks::PRE_WRITE_REPLY, false, 7),
        (Hooks::POST_READ_CALL_HEADER, false, 7),
        (Hooks::PRE_READ_CALL_BODY, false, 7),
        (
            Hooks::POST_READ_CALL_BODY,
            false,
            code::INTERNAL_SERVER_ERROR,
        ),
    ];
    for (hook, at_client, expected) in cases {
        let (mut server, mut client) = (listening().routes(echo()), Peer::builder());
        match at_client {
            true => client = client.plugin(Failing(hook)),
            false => server = server.plugin(Failing(hook)),
        }
        let (server, client) = (start(server), start(client));
        let session = dial(&client, &server);
        for _ in 0..2 {
            let status = session
                .call::<_, u8>("/echo", &1)
                .wait()
                .expect_err("fails");
            assert_eq!(status.code, expected, "{hook:?}");
        }
    }
    let server = start(listening());
    let client = start(Peer::builder().plugin(Failing(Hooks::PRE_WRITE_PUSH)));
    let session = dial(&client, &server);
    assert_eq!(session.push("/any", "x"), Err(Status::new(7, "no")));
}

/// Sends calls elsewhere and changes their bodies.
struct Redirect;

impl Plugin for Redirect {
    fn name(&self) -> &str {
        "redirect"
    }

    fn hooks(&self) -> Hooks {
        Hooks::POST_READ_CALL_HEADER | Hooks::PRE_READ_CALL_BODY
    }

    fn post_read_call_header(&self, call: &mut Incoming<'_>) -> Result<(), Status> {
        call.message_mut().uri = b"/new"[..].into();
        Ok(())
    }

    fn pre_read_call_body(&self, call: &mut Incoming<'_>) -> Result<(), Status> {
        call.message_mut().body = b"\"changed\""[..].into();
        Ok(())
    }
}

#[test]
fn a_plugin_may_change_the_route_and_the_body() {
    let mut routes = Router::new();
    routes.call("/new", |ctx, text: String| {
        Ok(format!("{} {text}", ctx.path()))
    });
    let server = start(listening().routes(routes).plugin(Redirect));
    let client = start(Peer::builder());
    let session = dial(&client, &server);
    let reply: Result<String, _> = session.call("/old", "as sent").wait();
    assert_eq!(reply.as_deref(), Ok("/new changed"));
}

#[test]
fn plugins_that_cannot_work_are_errors_of_the_start() {
    let log = Log::default();
    let noting = |hooks| Noting {
        name: "twice",
        hooks,
        log: log.clone(),
    };
    let error = Peer::builder()
        .plugin(noting(Hooks::empty()))
        .plugin_right(noting(Hooks::empty()))
        .start()
        .expect_err("fails");
    assert!(error.to_string().contains("\"twice\""), "{error}");
    let mut routes = Router::new();
    routes.with(noting(Hooks::POST_ACCEPT), |routes| {
        routes.call("/a", |_ctx, _: ()| Ok(()));
    });
    let error = Peer::builder().routes(routes).start().expect_err("fails");
    let ping = Ping::by_call(Duration::from_secs(2));
    let bad_rate = Peer::builder().plugin(ping).start().expect_err("fails");
    assert!(bad_rate.to_string().contains("at least 3s"), "{bad_rate}");
    assert!(
        error.to_string().contains("only a plugin of the peer"),
        "{error}"
    );
}

fn guarded() -> Peer {
    let mut routes = Router::new();
    routes.call("/math/add", |_ctx, numbers: Vec<i64>| {
        Ok(numbers.iter().sum::<i64>())
    });
    let verify = Verify::new(|token, session| {
        assert_ne!(token, "panic", "on purpose");
        let peer = session.peer().expect("runs");
        assert!(
            peer.session(&session.id()).is_none(),
            "it is not listed yet"
        );
        match token {
            "tok123" => Ok(()),
            _ => Err(Status::new(403, "auth fail").with_reason("auth fail detail")),
        }
    });
    start(listening().routes(routes).plugin(verify))
}

#[test]
fn only_those_who_authenticate_get_a_session() {
    let server = guarded();
    let refused = start(Peer::builder().plugin(Bearer::new("nope")));
    let status = try_dial(&refused, &server).expect_err("is refused");
    assert_eq!(
        status,
        Status::new(403, "auth fail").with_reason("auth fail detail")
    );
    assert_eq!(server.session_count(), 0);
    expect_panics();
    let panicking = start(Peer::builder().plugin(Bearer::new("panic")));
    let status = try_dial(&panicking, &server).expect_err("is refused");
    assert_eq!(
        status.code,
        code::INTERNAL_SERVER_ERROR,
        "the answer arrives"
    );
    let client = start(Peer::builder().plugin(Bearer::with(|_| "tok123".to_owned())));
    let session = try_dial(&client, &server).expect("is accepted");
    assert_eq!(session.call("/math/add", &[1, 2]).wait(), Ok(3));
}

/// Sends bytes, and returns all that comes back until the end of the stream.
fn exchange(server: &Peer, bytes: &[u8]) -> Vec<u8> {
    let addr = server.local_addrs()[0].as_socket_addr().expect("is TCP");
    let mut socket = TcpStream::connect(addr).expect("connects");
    socket.set_read_timeout(Some(LONG)).expect("is set");
    socket.write_all(bytes).expect("is sent");
    let mut answer = Vec::new();
    // A reset ends it too.
    let _ = socket.read_to_end(&mut answer);
    answer
}

#[test]
fn information_in_json_is_read_as_such_and_a_peer_that_does_not_authenticate_is_named() {
    let check = |token: &str, _: &Session| match token {
        "a \"b\"" => Ok(()),
        other => Err(Status::new(1001, other.to_owned())),
    };
    let server = start(listening().plugin(Verify::new(check)));
    let addr = server.local_addrs()[0].as_socket_addr().expect("is TCP");
    let mut socket = TcpStream::connect(addr).expect("connects");
    let body = br#""a \"b\"""#;
    let mut call = ((6 + 3 + 1 + 14 + 2 + 1 + body.len()) as u32)
        .to_be_bytes()
        .to_vec();
    call.extend_from_slice(b"r\0\0\x010\x01\0\x0c/auth/verify\0\0j");
    call.extend_from_slice(body);
    socket.write_all(&call).expect("writes");
    eventually("the session opens", || server.session_count() == 1);

    let client = start(Peer::builder().plugin(Bearer::new("a")));
    let refused = try_dial(&client, &start(listening())).expect_err("is refused");
    assert_eq!(refused.code, code::NOT_FOUND);
    assert!(
        refused.reason.contains("does not authenticate"),
        "{refused}"
    );
}

#[test]
fn authentication_cannot_be_bypassed() {
    let server = guarded();
    let call = b"\0\0\0\x1dr\0\0\x011\x01\0\x09/math/add\0\0j[1,2]";
    let refused = b"\0\0\0\x1fr\0\0\x010\x01\0\x0c/auth/verify\0\0snope";
    let push = b"\0\0\0\x1dr\0\0\x010\x03\0\x0a/push/note\0\0j\"hi\"";
    // The refusal arrives, the connection ends, and what was sent behind it is not served.
    let answer = exchange(&server, &[&refused[..], call].concat());
    assert!(
        answer.ends_with(b"%7Dj") && answer.len() == 0x8f,
        "{answer:?}"
    );
    let answer = exchange(&server, call);
    let text = String::from_utf8_lossy(&answer);
    let words = "the%201th%20package%20want%3A%20CALL%20%2Fauth%2Fverify%2C%20but%20have%3A%20CALL%20%2Fmath%2Fadd";
    assert!(text.contains(words) && text.contains("401"), "{text}");
    assert!(exchange(&server, &[&push[..], call].concat()).is_empty());
    // A message of more than 4 KiB costs nothing before the session is open.
    assert!(exchange(&server, b"\0\x10\0\0r\0").is_empty());
    assert_eq!(server.session_count(), 0);
}

#[test]
fn a_broadcast_does_not_reach_those_who_have_not_authenticated() {
    let server = guarded();
    let addr = server.local_addrs()[0].as_socket_addr().expect("is TCP");
    let mut stranger = TcpStream::connect(addr).expect("connects");
    stranger.set_read_timeout(Some(LONG)).expect("is set");
    let mut routes = Router::new();
    let (sender, pushes) = mpsc::channel();
    let sender = Mutex::new(sender);
    routes.push("/news", move |_ctx, text: String| {
        let _ = sender.lock().send(text);
        Ok(())
    });
    let client = start(Peer::builder().routes(routes).plugin(Bearer::new("tok123")));
    try_dial(&client, &server).expect("is accepted");
    server.broadcast("/news", "secret").expect("is sent");
    assert_eq!(pushes.recv_timeout(LONG).as_deref(), Ok("secret"));
    // The stranger's first message is refused. The refusal is all that arrives.
    stranger
        .write_all(b"\0\0\0\x1fr\0\0\x010\x01\0\x0c/auth/verify\0\0snope")
        .expect("is sent");
    let mut answer = Vec::new();
    let _ = stranger.read_to_end(&mut answer);
    assert_eq!(answer.len(), 0x8f);
}

#[test]
fn a_server_that_does_not_answer_the_authentication_fails_the_dial() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let client = start(Peer::builder().plugin(Bearer::new("x")));
    let addr = silent.local_addr().expect("is bound");
    let accepting = std::thread::spawn(move || silent.accept().map(drop));
    let status = client.dial(addr).expect_err("fails");
    assert_eq!(status.code, code::DIAL_FAILED);
    accepting.join().expect("ends").expect("accepts");
}

#[test]
fn the_case_of_a_path_does_not_count_if_told_so_and_that_of_a_query_does() {
    let mut routes = Router::new();
    routes.call("/math/add", |ctx, _: ()| {
        Ok(ctx.query("Q").unwrap_or_default())
    });
    let server = start(listening().routes(routes).plugin(IgnoreCase));
    let client = start(Peer::builder());
    let session = dial(&client, &server);
    for path in ["/math/add?Q=Xy", "/MATH/Add?Q=Xy", "/math/%41dd?Q=Xy"] {
        let query: Result<String, _> = session.call(path, &()).wait();
        assert_eq!(query.as_deref(), Ok("Xy"), "{path}");
    }
}

/// Sends the calls of a session to a path, and returns the results.
fn sums<const N: usize>(session: &Session, paths: [&str; N]) -> [Result<i64, i32>; N] {
    paths.map(|path| {
        let sum = session.call::<_, i64>(path, &[1, 2]).wait();
        sum.map_err(|status| status.code)
    })
}

#[test]
fn a_path_whose_case_is_changed_stays_the_same_path() {
    let mut routes = Router::new();
    let add =
        |_: &mut epicycle::rpc::CallCtx<'_>, numbers: Vec<i64>| Ok(numbers.iter().sum::<i64>());
    routes.call("/math/add", add);
    let server = start(listening().routes(routes).plugin(IgnoreCase));
    let client = start(Peer::builder());
    let session = dial(&client, &server);
    let sums = sums(
        &session,
        [
            "/Math/Add",
            "/M%41th/add",
            // These would be the path of a host, or of a scheme.
            "/%2FA/math/add",
            "/%2fA/math/add",
            "A%3A/math/add",
            "/%2F/Math/add",
        ],
    );
    let none = Err(code::NOT_FOUND);
    assert_eq!(sums, [Ok(3), Ok(3), none, none, none, none]);
}

/// Fails in a hook, with an error or a panic, for messages of other paths than `/fine`.
struct Faulty {
    hook: Arc<Mutex<Hooks>>,
    panics: bool,
}

const SEEN_FAULT: i32 = 418;

impl Faulty {
    fn fail(&self, hook: Hooks) -> Result<(), Status> {
        if *self.hook.lock() != hook {
            return Ok(());
        }
        assert!(!self.panics, "on purpose");
        Err(Status::new(SEEN_FAULT, "on purpose"))
    }

    fn fail_at_start(&self, hook: Hooks) -> Result<(), Error> {
        assert!(*self.hook.lock() != hook, "on purpose");
        Ok(())
    }
}

impl Plugin for Faulty {
    fn name(&self) -> &str {
        "faulty"
    }

    fn hooks(&self) -> Hooks {
        Hooks::all()
    }

    fn pre_new_peer(&self) -> Result<(), Error> {
        self.fail_at_start(Hooks::PRE_NEW_PEER)
    }

    fn post_new_peer(&self, _: &Peer) -> Result<(), Error> {
        self.fail_at_start(Hooks::POST_NEW_PEER)
    }

    fn post_reg(&self, _: &epicycle::rpc::RouteInfo) -> Result<(), Error> {
        self.fail_at_start(Hooks::POST_REG)
    }

    fn post_listen(&self, _: &Addr) -> Result<(), Error> {
        self.fail_at_start(Hooks::POST_LISTEN)
    }

    fn post_accept(&self, _: &Session) -> Result<Next, Status> {
        self.fail(Hooks::POST_ACCEPT).map(|()| Next::Go)
    }

    fn post_dial(&self, _: &Session) -> Result<Next, Status> {
        self.fail(Hooks::POST_DIAL).map(|()| Next::Go)
    }

    fn post_disconnect(&self, _: &Session) {
        let failed = self.fail(Hooks::POST_DISCONNECT);
        assert_eq!(failed, Ok(()), "on purpose");
    }

    fn pre_write_call(&self, _: &Session, _: &mut Message<'static>) -> Result<(), Status> {
        self.fail(Hooks::PRE_WRITE_CALL)
    }

    fn post_write_call(&self, _: &Session, _: &Message<'_>) {
        assert_eq!(self.fail(Hooks::POST_WRITE_CALL), Ok(()), "on purpose");
    }

    fn pre_write_reply(&self, _: &Incoming<'_>, _: &mut Message<'_>) -> Result<(), Status> {
        self.fail(Hooks::PRE_WRITE_REPLY)
    }

    fn post_write_reply(&self, _: &Incoming<'_>, _: &Message<'_>) {
        assert_eq!(self.fail(Hooks::POST_WRITE_REPLY), Ok(()), "on purpose");
    }

    fn pre_write_push(&self, _: &Session, _: &mut Message<'static>) -> Result<(), Status> {
        self.fail(Hooks::PRE_WRITE_PUSH)
    }

    fn post_write_push(&self, _: &Session, _: &Message<'_>) {
        assert_eq!(self.fail(Hooks::POST_WRITE_PUSH), Ok(()), "on purpose");
    }

    fn pre_read_header(&self, _: &Session) -> Result<(), Status> {
        self.fail(Hooks::PRE_READ_HEADER)
    }

    fn post_read_call_header(&self, _: &mut Incoming<'_>) -> Result<(), Status> {
        self.fail(Hooks::POST_READ_CALL_HEADER)
    }

    fn pre_read_call_body(&self, _: &mut Incoming<'_>) -> Result<(), Status> {
        self.fail(Hooks::PRE_READ_CALL_BODY)
    }

    fn post_read_call_body(&self, _: &Incoming<'_>) -> Result<(), Status> {
        self.fail(Hooks::POST_READ_CALL_BODY)
    }

    fn post_read_push_header(&self, _: &mut Incoming<'_>) -> Result<(), Status> {
        self.fail(Hooks::POST_READ_PUSH_HEADER)
    }

    fn pre_read_push_body(&self, _: &mut Incoming<'_>) -> Result<(), Status> {
        self.fail(Hooks::PRE_READ_PUSH_BODY)
    }

    fn post_read_push_body(&self, _: &Incoming<'_>) -> Result<(), Status> {
        self.fail(Hooks::POST_READ_PUSH_BODY)
    }

    fn post_read_reply_header(&self, _: &Session, _: &mut Message<'_>) -> Result<(), Status> {
        self.fail(Hooks::POST_READ_REPLY_HEADER)
    }

    fn pre_read_reply_body(&self, _: &Session, _: &mut Message<'_>) -> Result<(), Status> {
        self.fail(Hooks::PRE_READ_REPLY_BODY)
    }

    fn post_read_reply_body(&self, _: &Session, _: &Message<'_>) -> Result<(), Status> {
        self.fail(Hooks::POST_READ_REPLY_BODY)
    }
}

/// Routes of each kind of handler.
fn every_kind(noted: &Arc<AtomicUsize>) -> Router {
    let mut routes = Router::new();
    routes.call("/call", |_ctx, n: u8| Ok(n));
    routes.call_bytes("/bytes", |_ctx, body, out| {
        out.extend_from_slice(body);
        Ok(())
    });
    routes.call_later("/later", |_ctx, n: u8, reply| reply.send(Ok(n)));
    routes.call_async("/async", |_ctx, n: u8| async move { Ok(n) });
    routes.call_blocking("/blocking", |_ctx, n: u8| Ok(n));
    routes.call_blocking_in_order("/in_order", |_ctx, n: u8| Ok(n));
    routes.unknown_call(|_ctx, body, out| {
        out.extend_from_slice(body);
        Ok(())
    });
    routes.stream("/stream", |_ctx, n: u8, tx: Sender<u8>| {
        let _ = tx.send(&n);
        tx.finish();
    });
    routes.stream_async("/stream_async", |_ctx, n: u8, tx: Sender<u8>| async move {
        tx.send_async(&n).await?;
        Ok(())
    });
    routes.stream_blocking("/stream_blocking", |_ctx, n: u8, tx: Sender<u8>| {
        tx.send_wait(&n)?;
        Ok(())
    });
    for path in ["/push", "/push_blocking"] {
        let noted = noted.clone();
        let note = move |_: &epicycle::rpc::PushCtx<'_>, _: u8| {
            noted.fetch_add(1, Ordering::SeqCst);
            Ok(())
        };
        match path {
            "/push" => routes.push(path, note),
            _ => routes.push_blocking(path, note),
        }
    }
    routes
}

#[test]
fn whatever_hook_fails_each_call_of_each_kind_of_handler_ends_and_the_session_goes_on() {
    expect_panics();
    let calls = [
        "/call",
        "/bytes",
        "/later",
        "/async",
        "/blocking",
        "/in_order",
        "/unknown",
    ];
    let streams = ["/stream", "/stream_async", "/stream_blocking"];
    for panics in [false, true] {
        let expected = match panics {
            true => code::INTERNAL_SERVER_ERROR,
            false => SEEN_FAULT,
        };
        let hook = Arc::new(Mutex::new(Hooks::empty()));
        let faulty = || Faulty {
            hook: hook.clone(),
            panics,
        };
        let noted = Arc::default();
        let server = start(listening().routes(every_kind(&noted)).plugin(faulty()));
        let client = start(Peer::builder().plugin(faulty()));
        let session = dial(&client, &server);
        let call = |path: &str| {
            let result = session.call::<_, u8>(path, &7u8).wait();
            result.map_err(|status| status.code)
        };
        let stream = |path: &str| {
            let items: Receiver<u8> = session.stream(path, &7u8).receive();
            let items: Result<Vec<u8>, Status> = items.into_iter().collect();
            items.map_err(|status| status.code)
        };
        let fails = Hooks::PRE_WRITE_CALL
            | Hooks::POST_READ_CALL_HEADER
            | Hooks::PRE_READ_CALL_BODY
            | Hooks::POST_READ_CALL_BODY
            | Hooks::PRE_WRITE_REPLY
            | Hooks::POST_READ_REPLY_HEADER
            | Hooks::PRE_READ_REPLY_BODY
            | Hooks::POST_READ_REPLY_BODY;
        let passes = Hooks::POST_WRITE_CALL | Hooks::POST_WRITE_REPLY;
        for one in (fails | passes).iter() {
            *hook.lock() = one;
            for path in calls {
                let is_unseen =
                    one == Hooks::POST_READ_CALL_BODY && matches!(path, "/bytes" | "/unknown");
                let expected = match passes.contains(one) || is_unseen {
                    true => Ok(7),
                    false => Err(expected),
                };
                assert_eq!(call(path), expected, "{one:?} {path} {panics}");
            }
            for path in streams {
                let expected = match passes.contains(one) {
                    true => Ok(vec![7]),
                    false => Err(expected),
                };
                assert_eq!(stream(path), expected, "{one:?} {path} {panics}");
            }
            *hook.lock() = Hooks::empty();
            assert_eq!(call("/call"), Ok(7), "after {one:?}");
        }

        let fails =
            Hooks::POST_READ_PUSH_HEADER | Hooks::PRE_READ_PUSH_BODY | Hooks::POST_READ_PUSH_BODY;
        for one in (fails | Hooks::PRE_WRITE_PUSH | Hooks::POST_WRITE_PUSH).iter() {
            *hook.lock() = one;
            noted.store(0, Ordering::SeqCst);
            for path in ["/push", "/push_blocking"] {
                let sent = session.push(path, &7u8).map_err(|status| status.code);
                let is_refused = one == Hooks::PRE_WRITE_PUSH;
                assert_eq!(sent.is_err(), is_refused, "{one:?}");
            }
            // It is answered behind them.
            assert_eq!(call("/in_order"), Ok(7), "{one:?}");
            let arrives = if one == Hooks::POST_WRITE_PUSH { 2 } else { 0 };
            eventually("they have arrived", || {
                noted.load(Ordering::SeqCst) == arrives
            });
        }
        *hook.lock() = Hooks::empty();

        for call in server.stats().routes {
            eventually("nothing is under way", || call.stats.in_flight() == 0);
        }
        *hook.lock() = Hooks::PRE_READ_HEADER;
        assert_eq!(call("/call"), Err(code::CONNECTION_CLOSED));
        *hook.lock() = Hooks::empty();
        for one in [Hooks::POST_ACCEPT, Hooks::POST_DIAL, Hooks::POST_DISCONNECT] {
            *hook.lock() = one;
            let dialled = try_dial(&client, &server);
            if let Ok(session) = &dialled {
                eventually("it is refused, or it closes", || {
                    session.close();
                    session.health() == Health::Closed
                });
            }
            assert_eq!(dialled.is_err(), one == Hooks::POST_DIAL, "{one:?}");
            eventually("it has ended", || {
                server.session_count() + client.session_count() == 0
            });
        }
        *hook.lock() = Hooks::empty();
        let session = dial(&client, &server);
        assert_eq!(session.call("/call", &7u8).wait(), Ok(7u8));
    }
}

#[test]
fn a_panic_in_a_hook_of_the_start_is_its_error() {
    expect_panics();
    for one in [
        Hooks::PRE_NEW_PEER,
        Hooks::POST_NEW_PEER,
        Hooks::POST_REG,
        Hooks::POST_LISTEN,
    ] {
        let mut routes = Router::new();
        routes.call("/call", |_ctx, n: u8| Ok(n));
        let plugin = Faulty {
            hook: Arc::new(Mutex::new(one)),
            panics: true,
        };
        let error = listening().routes(routes).plugin(plugin).start();
        let error = error.expect_err("fails").to_string();
        assert!(
            error.contains("\"faulty\" panicked: on purpose"),
            "{one:?}: {error}"
        );
    }
}

#[test]
fn a_socket_from_elsewhere_has_to_authenticate_as_one_of_a_listener() {
    let server = Arc::new(guarded());
    let elsewhere = TcpListener::bind("127.0.0.1:0").expect("binds");
    let addr = elsewhere.local_addr().expect("is bound");
    let accept = || {
        let (server, elsewhere) = (server.clone(), elsewhere.try_clone().expect("is cloned"));
        std::thread::spawn(move || {
            let (socket, from) = elsewhere.accept().expect("is connected");
            let session = server.serve(socket, ProtocolChoice::raw());
            (session, from)
        })
    };
    let accepted = accept();
    let stranger = start(Peer::builder());
    let stranger = stranger.dial(addr).expect("is connected");
    let refused = stranger.call::<_, i64>("/math/add", &[1, 2]).wait();
    refused.expect_err("is not served");
    let (session, _) = accepted.join().expect("ends");
    assert_eq!(
        session.expect_err("is refused").code,
        code::UNAUTHORIZED,
        "the one who gave the socket learns of it"
    );

    let accepted = accept();
    let client = start(Peer::builder().plugin(Bearer::new("tok123")));
    let session = client.dial(addr).expect("is accepted");
    assert_eq!(session.call("/math/add", &[1, 2]).wait(), Ok(3));
    let (session, from) = accepted.join().expect("ends");
    let session = session.expect("is open");
    assert!(!session.is_client());
    assert_eq!(*session.id(), *from.to_string());
}
