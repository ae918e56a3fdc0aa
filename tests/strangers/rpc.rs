//! RPC peers against one in Python, `rpc_peer.py`, in either direction. It uses nothing but Python's standard library.

use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use epicycle::rpc::wire::Dialect;
use epicycle::rpc::{Peer, ProtocolChoice, Reply, Responder, Router, Status, code};
use parking_lot::Mutex;

use crate::util::strangers::{python_alone, spawn_serving};
use crate::util::{LONG, eventually};

const PROTOCOLS: [&str; 6] = ["raw", "raw4", "json", "json4", "pb", "pb4"];

fn of_dial(name: &str) -> ProtocolChoice {
    let dialect = match name.ends_with('4') {
        true => Dialect::V4_0,
        false => Dialect::V4_1,
    };
    match name.trim_end_matches('4') {
        "raw" => ProtocolChoice::raw_of(dialect),
        "json" => ProtocolChoice::json_of(dialect),
        _ => ProtocolChoice::pb(dialect),
    }
}

/// A listener finds out the dialect, where it can.
fn of_listener(name: &str) -> ProtocolChoice {
    match name.trim_end_matches('4') {
        "raw" => ProtocolChoice::raw(),
        "json" => ProtocolChoice::json(),
        _ => of_dial(name),
    }
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/strangers/rpc_peer.py")
}

#[test]
fn a_stranger_calls_this_peer_in_every_protocol() {
    for protocol in PROTOCOLS {
        let Some(mut python) = python_alone() else {
            return;
        };
        let (tell, told) = mpsc::channel();
        let mut routes = Router::new();
        routes.call("/math/add", |_ctx, numbers: Vec<i64>| {
            Ok(numbers.iter().sum::<i64>())
        });
        routes.call("/math/divide", |_ctx, (a, b): (i64, i64)| {
            let failed = || Status::new(1001, "Bad Division").with_reason(format!("{a} / {b}"));
            a.checked_div(b).ok_or_else(failed)
        });
        routes.call_async("/greet", |ctx, greeting: String| async move {
            let name: String = ctx.session().call("/name", &()).await?;
            Ok(format!("{greeting}, {name}"))
        });
        // Its calls end by their deadlines and by cancellation alone.
        let held = Arc::new(Mutex::new(Vec::new()));
        let holds = held.clone();
        routes.call_later("/sleep", move |ctx, _: u64, reply: Responder<()>| {
            holds.lock().push((ctx.seq().to_vec(), reply));
        });
        routes.push("/note", move |_ctx, text: String| {
            let _ = tell.send(text);
            Ok(())
        });
        let server = Peer::builder()
            .listen_with("tcp4://127.0.0.1:0", of_listener(protocol))
            .routes(routes)
            .reactors(1)
            .start()
            .expect("starts");
        let port = server.local_addrs()[0]
            .as_socket_addr()
            .expect("is TCP")
            .port();
        let output = python
            .arg(script())
            .args(["client", &port.to_string(), protocol])
            .output()
            .expect("python runs");
        let said = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(said.trim(), "all is well", "{protocol}: {errors}");
        assert_eq!(
            told.recv_timeout(LONG).as_deref(),
            Ok("a push"),
            "{protocol}"
        );
        let is_cancelled = || {
            let held = held.lock();
            let long = held.iter().find(|(seq, _)| seq == b"long");
            long.is_some_and(|(_, reply)| reply.is_cancelled())
        };
        eventually("the call is cancelled", is_cancelled);
    }
}

/// A running `rpc_peer.py` that serves.
struct Theirs {
    python: Child,
    port: u16,
}

impl Theirs {
    fn start(protocol: &str) -> Option<Self> {
        let mut python = python_alone()?;
        let (python, port) = spawn_serving(python.arg(script()).args(["server", protocol]));
        Some(Self { python, port })
    }
}

impl Drop for Theirs {
    fn drop(&mut self) {
        let _ = self.python.kill();
        let _ = self.python.wait();
    }
}

#[test]
fn this_peer_calls_a_stranger_in_every_protocol() {
    for protocol in PROTOCOLS {
        let Some(theirs) = Theirs::start(protocol) else {
            return;
        };
        let (tell, told) = mpsc::channel();
        let mut routes = Router::new();
        routes.call("/name", |_ctx, _: ()| Ok("a caller"));
        routes.push("/push/status", move |_ctx, text: String| {
            let _ = tell.send(text);
            Ok(())
        });
        let client = Peer::builder()
            .routes(routes)
            .dial_protocol(of_dial(protocol))
            .reactors(1)
            .start()
            .expect("starts");
        let session = client
            .dial(format!("tcp://127.0.0.1:{}", theirs.port))
            .expect("connects");

        let numbers: Vec<i64> = (0..2000).collect();
        for filters in ["", "g", "m", "gm", "mgg"] {
            let call = session.call("/math/add", &numbers).filters(filters);
            let reply: Reply<i64> = call.meta("a key", "an &=+ value").wait().expect(protocol);
            assert_eq!(reply.body, 1_999_000, "{protocol} {filters}");
        }
        assert_eq!(
            told.recv_timeout(LONG).as_deref(),
            Ok("/math/add was called")
        );
        let greeting: Result<String, _> = session.call("/greet", "hello").wait();
        assert_eq!(greeting.as_deref(), Ok("hello, a caller"), "{protocol}");

        let divided = session.call::<_, i64>("/math/divide", &(1, 0)).wait();
        let status = Status::new(1001, "Bad Division").with_reason("1 / 0");
        assert_eq!(divided, Err(status), "{protocol}");
        let nowhere = session.call::<_, ()>("/nowhere", &()).wait();
        assert_eq!(nowhere.map_err(|status| status.code), Err(code::NOT_FOUND));

        // A push before a call is there when the call is.
        session.push("/note", "first").expect("is sent");
        session.push("/note", "second").expect("is sent");
        let noted: Result<Vec<String>, _> = session.call("/noted", &()).wait();
        assert_eq!(noted, Ok(vec!["first".to_owned(), "second".to_owned()]));

        // Deadlines and cancellation travel.
        let timeout = Duration::from_secs(20);
        let left: u64 = session
            .call("/timeout", &())
            .timeout(timeout)
            .wait()
            .expect(protocol);
        assert!((10_000..=20_000).contains(&left), "{left}");
        let pending = session.call::<_, ()>("/sleep", &1).seq("mine").send();
        // A call that is cancelled before it is sent is not sent. What is behind it has arrived, so it has.
        let noted: Result<Vec<String>, _> = session.call("/noted", &()).wait();
        assert!(noted.is_ok(), "{protocol}");
        pending.cancel();
        let ended = pending.wait().map_err(|status| status.code);
        assert_eq!(ended, Err(code::CANCELLED));
        eventually("the cancellation is there", || {
            session.call("/cancelled", &()).wait() == Ok(vec!["mine".to_owned()])
        });
    }
}
