//! `epicycle rpc`: a peer at the command line.

use std::borrow::Cow;
use std::process::{Command, Output};
use std::sync::Arc;

use epicycle::Listen;
use epicycle::rpc::wire::{Dialect, Raw};
use epicycle::rpc::{Peer, ProtocolChoice, Router, Status, WebSocket};
use epicycle::tls::{Identity, TlsServer};
use parking_lot::Mutex;

use crate::ends::{listening, start};
use crate::util::client::TempPath;
use crate::util::eventually;

fn rpc(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_epicycle"))
        .arg("rpc")
        .args(args)
        .output()
        .expect("starts")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("is text")
}

fn routes() -> Router {
    let mut routes = Router::new();
    routes.call("add", |ctx, numbers: Vec<i64>| {
        let author = ctx.meta().get_str("Author").map(Cow::into_owned);
        if let Some(author) = author {
            ctx.add_reply_meta("Thanks", author);
        }
        Ok(numbers.iter().sum::<i64>())
    });
    routes.call("same", |ctx, body: Raw| {
        let codec = ctx.body_codec();
        ctx.set_reply_codec(codec);
        Ok(body)
    });
    routes.call("fail", |_, ()| {
        Err::<(), _>(Status::new(1001, "Bad Division").with_reason("1 / 0"))
    });
    routes
}

fn listening_to(protocol: ProtocolChoice) -> (Peer, String) {
    let peer = start(listening().protocol(protocol).routes(routes()));
    let addr = format!("{}", peer.local_addrs()[0]);
    (peer, addr)
}

#[test]
fn the_program_calls_in_every_protocol_and_prints_reply_metadata_and_cost() {
    for (name, protocol) in [
        ("raw", ProtocolChoice::raw()),
        ("raw4", ProtocolChoice::raw()),
        ("json", ProtocolChoice::json()),
        ("json4", ProtocolChoice::json()),
        ("pb", ProtocolChoice::pb(Dialect::V4_1)),
        ("pb4", ProtocolChoice::pb(Dialect::V4_0)),
        ("ws-raw", WebSocket::raw("/ws").into()),
        ("ws-raw4", WebSocket::raw("/ws").into()),
        ("ws-json", WebSocket::json("/ws").into()),
        ("ws-json4", WebSocket::json("/ws").into()),
        ("ws-pb", WebSocket::pb("/ws").into()),
        ("ws-pb4", WebSocket::pb("/ws").dialect(Dialect::V4_0).into()),
    ] {
        let (_peer, addr) = listening_to(protocol);
        let said = rpc(&[
            "call",
            &addr,
            "/add",
            "[1, 2, 3]",
            "--proto",
            name,
            "--meta",
            "Author=me you",
        ]);
        assert!(said.status.success(), "{name}: {said:?}");
        assert_eq!(text(&said.stdout), "6\n", "{name}");
        let rest = text(&said.stderr);
        assert!(rest.contains("meta Thanks: me you\n"), "{name}: {rest}");
        assert!(
            rest.contains("codec json, 1 bytes, after "),
            "{name}: {rest}"
        );
    }
}

#[test]
fn the_program_sends_a_body_in_the_codec_that_is_named() {
    let (_peer, addr) = listening_to(ProtocolChoice::raw());
    for (codec, body, wanted) in [
        ("plain", "not JSON", "not JSON"),
        ("form", r#"{"a": "1 2", "b": 3}"#, "a=1+2&b=3"),
        ("protobuf", "08960180ff", "08960180ff"),
        ("json", "\"text\"", "\"text\""),
    ] {
        let said = rpc(&["call", &addr, "/same", body, "--codec", codec]);
        assert!(said.status.success(), "{codec}: {said:?}");
        assert_eq!(text(&said.stdout), format!("{wanted}\n"), "{codec}");
        assert!(
            text(&said.stderr).contains(&format!("codec {codec}, ")),
            "{said:?}"
        );
    }
}

#[test]
fn the_program_asks_for_a_websocket_at_a_path_also_over_tls() {
    let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("is made");
    let (certificate, key) = (issued.cert.pem(), issued.signing_key.serialize_pem());
    let identity = Identity::from_pem(&certificate, &key).expect("is right");
    let tls = TlsServer::new(identity).expect("is right");
    let listen = Listen::on("tcp4://127.0.0.1:0").tls(&tls);
    let peer = Peer::builder().listen_with(listen, WebSocket::json("/rpc"));
    let peer = start(peer.routes(routes()));
    let listens = peer.local_addrs()[0].as_socket_addr().expect("is TCP");
    let port = listens.port();
    let file = TempPath::new();
    std::fs::write(&file.0, certificate).expect("is written");
    let ca = file.0.display().to_string();
    let addr = format!("tls://localhost:{port}");
    let args = ["call", &addr, "/add", "[1, 2]", "--proto", "ws-json"];
    let said = rpc(&[&args[..], &["--path", "/rpc?from=here", "--ca", &ca]].concat());
    assert!(said.status.success(), "{said:?}");
    assert_eq!(text(&said.stdout), "3\n");
    // At the path of the default there is none.
    let said = rpc(&[&args[..], &["--ca", &ca]].concat());
    assert_eq!(said.status.code(), Some(1), "{said:?}");
    assert!(text(&said.stderr).contains("404"), "{said:?}");
    let said = rpc(&["call", &addr, "/add", "[]", "--path", "/rpc"]);
    assert!(
        text(&said.stderr).contains("--path is for WebSockets"),
        "{said:?}"
    );
}

#[test]
fn a_push_of_the_program_arrives() {
    let notes = Arc::<Mutex<Vec<String>>>::default();
    let kept = notes.clone();
    let mut routes = Router::new();
    routes.push("note", move |ctx, note: String| {
        let by = ctx.meta().get_str("By").unwrap_or_default().into_owned();
        kept.lock().push(format!("{by}: {note}"));
        Ok(())
    });
    let peer = start(listening().routes(routes));
    let addr = peer.local_addrs()[0].to_string();
    let said = rpc(&["push", &addr, "/note", "\"hello\"", "-m", "By=me"]);
    assert!(said.status.success(), "{said:?}");
    eventually("the push arrives", || *notes.lock() == ["me: hello"]);
}

#[test]
fn failures_of_the_program_name_their_cause_and_have_an_exit_code() {
    let (_peer, addr) = listening_to(ProtocolChoice::raw());
    for (args, code, wanted) in [
        (&["call", &addr, "/fail"][..], 1, "1001 Bad Division: 1 / 0"),
        (&["call", &addr, "/none"], 1, "404 "),
        (&["call", &addr, "/add", "text"], 1, "the body is not JSON"),
        (
            &["call", &addr, "/add", "1", "-c", "form"],
            1,
            "a form is an object",
        ),
        (
            &["call", &addr, "/add", "0", "-c", "protobuf"],
            1,
            "hexadecimal",
        ),
        (
            &["call", &addr, "/add", "[]", "--ca", "a.pem"],
            1,
            "write tls://",
        ),
        (
            &[
                "call",
                "tls://127.0.0.1:1",
                "/add",
                "[]",
                "--ca",
                "/nonexistent",
            ],
            1,
            "/nonexistent",
        ),
        (&["call", "tcp://127.0.0.1:1", "/add"], 1, "refused"),
        (&["call", "gopher://127.0.0.1:1", "/add"], 1, "tcp://"),
        (
            &["call", &addr, "/add", "[]", "--proto", "morse"],
            2,
            "raw4",
        ),
        (
            &["call", &addr, "/add", "[]", "--meta", "novalue"],
            2,
            "KEY=VALUE",
        ),
        (&["call"], 2, "<ADDR>"),
    ] {
        let said = rpc(args);
        assert_eq!(said.status.code(), Some(code), "{args:?}: {said:?}");
        let why = text(&said.stderr);
        assert!(why.contains(wanted), "{args:?}: {why}");
        assert!(said.stdout.is_empty(), "{args:?}: {said:?}");
    }
}
