//! The recorded conversations with Teleport, replayed against real peers: as the server and as the client.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use epicycle::rpc::plugins::auth::Verify;
use epicycle::rpc::plugins::heartbeat::Pong;
use epicycle::rpc::wire::{Dialect, Kind, Message};
use epicycle::rpc::{Peer, PeerBuilder, ProtocolChoice, Router, Status};
use serde::{Deserialize, Serialize};

use crate::recordings::recorded;
use crate::util::{LONG, expect_panics};
use crate::wire::{Form, decode};

/// A recorded conversation.
struct Conversation {
    version: String,
    protocol: String,
    scenario: String,
    /// The client's bytes, and the server's. Empty ones mean the end of the stream.
    sent: Vec<Vec<u8>>,
    answered: Vec<Vec<u8>>,
}

impl Conversation {
    fn dialect(&self) -> Dialect {
        match &*self.version {
            "v400" => Dialect::V4_0,
            _ => Dialect::V4_1,
        }
    }

    fn form(&self) -> Form {
        match &*self.protocol {
            "json" => Form::Json(self.dialect()),
            "pb" => Form::Pb(self.dialect()),
            _ => Form::Raw(self.dialect()),
        }
    }

    fn name(&self) -> String {
        format!("{} {} {}", self.version, self.protocol, self.scenario)
    }
}

/// The conversations whose routes the server below has.
fn conversations() -> Vec<Conversation> {
    let mut found: BTreeMap<(String, String, String), Conversation> = BTreeMap::new();
    for row in recorded() {
        let is_known = matches!(&*row.version, "v400" | "b2c0579")
            && matches!(&*row.protocol, "raw" | "json" | "pb");
        if !is_known || !is_served(&row.scenario) {
            continue;
        }
        let key = (row.version, row.protocol, row.scenario);
        let conversation = found.entry(key).or_insert_with_key(|key| Conversation {
            version: key.0.clone(),
            protocol: key.1.clone(),
            scenario: key.2.clone(),
            sent: Vec::new(),
            answered: Vec::new(),
        });
        let rows = match &*row.side {
            "C>S" if !row.bytes.is_empty() => &mut conversation.sent,
            _ => &mut conversation.answered,
        };
        rows.push(row.bytes);
    }
    found.into_values().collect()
}

fn is_served(scenario: &str) -> bool {
    const OTHERS: [&str; 8] = [
        "secure",
        "ws_",
        "proxy",
        "ignorecase",
        "binder",
        "read_limit",
        "unknown_call_echo",
        "edge_over",
    ];
    // `real_ip` shows the address of the recorded client.
    scenario != "real_ip" && !OTHERS.iter().any(|other| scenario.starts_with(other))
}

/// The difference from the recording that is on purpose.
enum Difference {
    None,
    /// The reason of the error is that of another JSON parser.
    Reason,
    /// Lists in forms keep their order, zero values of protobuf are left out.
    Body,
    /// Another status, since here a body without a codec costs one call, and an empty body is no text.
    Status(i32),
}

fn difference(scenario: &str) -> Difference {
    match scenario {
        "err_400" | "divide_by_zero_panic" | "panic" => Difference::Reason,
        "form" | "protobuf_min" => Difference::Body,
        "edge_codec_0_with_body"
        | "edge_codec_0_no_body"
        | "edge_empty_body"
        | "edge_json_null" => Difference::Status(400),
        _ => Difference::None,
    }
}

#[derive(Deserialize, Serialize)]
struct Form3 {
    a: u8,
    l: Vec<String>,
    s: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "UPPERCASE")]
struct Division {
    a: i64,
    b: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Pair {
    #[prost(string, tag = "1")]
    field1: String,
    #[prost(int32, tag = "2")]
    field2: i32,
    #[prost(int32, tag = "3")]
    field3: i32,
}

/// The routes of the recorded server.
fn routes() -> Router {
    let mut routes = Router::new();
    routes.call("/math/add", |ctx, numbers: Vec<i64>| {
        if ctx.query("push_status").as_deref() == Some("yes") {
            let text = format!("{} numbers are being added...", numbers.len());
            ctx.session().push("/push/status", &text)?;
        }
        Ok(numbers.iter().sum::<i64>())
    });
    routes.call("/math/divide", |_ctx, Division { a, b }: Division| {
        assert!(b != 0, "on purpose: integer divide by zero");
        Ok(a / b)
    });
    routes.call("/err/fail", |_ctx, text: String| {
        let reason = "reason \"quoted\" <&> 中文";
        Err::<(), _>(Status::new(1234, format!("custom message: {text}")).with_reason(reason))
    });
    routes.call("/err/panic", |_ctx, text: String| -> Result<(), Status> {
        std::panic::panic_any(format!("boom: {text}"))
    });
    routes.call("/echo/text", |_ctx, text: String| Ok(text));
    routes.call("/echo/form", |_ctx, form: Form3| Ok(form));
    routes.call("/echo/pb", |_ctx, pair: epicycle::rpc::wire::Pb<Pair>| {
        Ok(pair)
    });
    routes.call("/echo/meta", |ctx, _: String| {
        let call = ctx.incoming();
        for key in ["K1", "K2"] {
            if let Some(value) = call.meta().get(key) {
                ctx.add_reply_meta(format!("R-{key}"), value);
            }
        }
        let has_second = call.meta().get("K2").is_some();
        Ok(format!(
            "{}|{}",
            call.path(),
            if has_second { "0" } else { "" }
        ))
    });
    routes.push("/push/note", |ctx, text: String| {
        if text == "back" {
            ctx.session().push("/push/back", &format!("back: {text}"))?;
        }
        Ok(())
    });
    routes.unknown_call(|ctx, body, out| {
        if !ctx.path().starts_with("/any/") {
            return Err(Status::new(404, "Not Found"));
        }
        ctx.add_reply_meta("X-Unknown", ctx.path());
        out.extend_from_slice(body);
        Ok(())
    });
    routes
}

fn server() -> Peer {
    start(Peer::builder().plugin(Pong))
}

/// The same server with authentication.
fn guarded() -> Peer {
    start(
        Peer::builder().plugin(Verify::new(|token, _session| match token {
            "tok123" => Ok(()),
            _ => Err(Status::new(403, "auth fail").with_reason("auth fail detail")),
        })),
    )
}

fn start(builder: PeerBuilder) -> Peer {
    let listen = "tcp4://127.0.0.1:0";
    builder
        .listen_with(listen, ProtocolChoice::raw())
        .listen_with(listen, ProtocolChoice::json())
        .listen_with(listen, ProtocolChoice::pb(Dialect::V4_0))
        .listen_with(listen, ProtocolChoice::pb(Dialect::V4_1))
        .routes(routes())
        .reactors(1)
        .start()
        .expect("starts")
}

/// A message without what is different on purpose.
fn comparable(conversation: &Conversation, bytes: &[u8]) -> Message<'static> {
    let (message, consumed) = decode(conversation.form(), bytes).expect("is a message");
    assert_eq!(consumed, bytes.len());
    let mut message = message.into_owned();
    match difference(&conversation.scenario) {
        Difference::None => {}
        Difference::Reason => {
            let status = message.status().expect("is a failure");
            message.set_status(&status.with_reason(""), usize::MAX);
        }
        Difference::Body => message.body = Default::default(),
        Difference::Status(_) => unreachable!("is not compared"),
    }
    message.size = 0;
    message
}

/// Reads a whole message, or nothing at the end of the stream.
fn read(form: Form, socket: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut byte = [0];
    loop {
        match socket.read(&mut byte) {
            Ok(1) => bytes.push(byte[0]),
            _ => return bytes,
        }
        let size = bytes
            .get(..4)
            .map(|size| u32::from_be_bytes(size.try_into().expect("has 4 bytes")) as usize);
        let own = if matches!(form, Form::Raw(_)) { 0 } else { 4 };
        if size.is_some_and(|size| bytes.len() == size + own) {
            return bytes;
        }
    }
}

#[test]
fn recorded_clients_get_the_recorded_answers() {
    expect_panics();
    let (server, guarded) = (server(), guarded());
    let conversations = conversations();
    let mut answers = 0;
    for conversation in &conversations {
        let name = conversation.name();
        let form = conversation.form();
        let listener = match form {
            Form::Json(_) => 1,
            Form::Pb(Dialect::V4_0) => 2,
            Form::Pb(Dialect::V4_1) => 3,
            _ => 0,
        };
        let server = match conversation.scenario.starts_with("auth") {
            true => &guarded,
            false => &server,
        };
        let addr = &server.local_addrs()[listener];
        let addr = addr.as_socket_addr().expect("is TCP");
        let mut socket = TcpStream::connect(addr).expect("connects");
        socket.set_read_timeout(Some(LONG)).expect("is set");
        for bytes in &conversation.sent {
            socket.write_all(bytes).expect("is sent");
        }
        let mut expected: Vec<_> = conversation.answered.iter().collect();
        if conversation.scenario == "edge_two_calls_one_write" {
            // Teleport answers them in any order.
            expected.reverse();
        }
        if conversation.scenario == "push_and_push_back" {
            continue;
        }
        for expected in expected {
            let answer = read(form, &mut socket);
            answers += 1;
            if let Difference::Status(code) = difference(&conversation.scenario) {
                let (message, _) = decode(form, &answer).expect("is answered");
                assert_eq!(
                    message.status().map(|status| status.code),
                    Some(code),
                    "{name}"
                );
                continue;
            }
            if expected.is_empty() || answer.is_empty() {
                assert!(
                    expected.is_empty() && answer.is_empty(),
                    "{name}: {answer:?}"
                );
                continue;
            }
            let (answer, expected) = (
                comparable(conversation, &answer),
                comparable(conversation, expected),
            );
            assert!(
                answer == expected,
                "{name}: {answer}\nwhere Teleport sent {expected}"
            );
        }
    }
    assert!(
        conversations.is_empty() || answers > 140,
        "only {answers} answers"
    );
}

#[test]
fn a_client_sends_the_recorded_bytes_and_takes_the_recorded_answers() {
    let client = Peer::builder()
        .reactors(1)
        .call_timeout(None)
        .start()
        .expect("starts");
    let mut seen = 0;
    for conversation in &conversations() {
        let name = conversation.name();
        let (form, dialect) = (conversation.form(), conversation.dialect());
        let [sent] = &conversation.sent[..] else {
            continue;
        };
        let Ok((call, _)) = decode(form, sent) else {
            continue;
        };
        // Those with a `seq` or bytes that no client sends by itself are replayed by the other test.
        let is_plain = call.kind == Kind::Call
            && *call.seq == *b"0"
            && !conversation.scenario.starts_with("edge_");
        if !is_plain {
            continue;
        }
        let Some(answer) = conversation
            .answered
            .last()
            .filter(|answer| !answer.is_empty())
        else {
            continue;
        };
        let protocol = match form {
            Form::Json(_) => ProtocolChoice::json_of(dialect),
            Form::Pb(_) => ProtocolChoice::pb(dialect),
            _ => ProtocolChoice::raw_of(dialect),
        };
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let addr = listener.local_addr().expect("is bound");
        let session = client.dial_with(addr, protocol).expect("connects");
        let mut socket = listener.accept().expect("is connected").0;
        socket.set_read_timeout(Some(LONG)).expect("is set");
        let uri = String::from_utf8(call.uri.to_vec()).expect("is text");
        let body = epicycle::rpc::wire::Raw(call.body.to_vec().into());
        let mut outgoing = session
            .call::<_, epicycle::rpc::wire::Raw>(uri, &body)
            .codec(call.codec);
        for (key, value) in call.meta.iter() {
            outgoing = outgoing.meta(key, value);
        }
        let pending = outgoing.filters(call.filters.ids()).send();
        let received = read(form, &mut socket);
        if call.filters.is_empty() {
            assert_eq!(received, *sent, "{name}");
        } else {
            // Gzip is written complete here.
            let (mut ours, _) = decode(form, &received).expect("is a message");
            ours.size = call.size;
            assert_eq!(ours, call, "{name}");
        }
        for bytes in &conversation.answered {
            socket.write_all(bytes).expect("is sent");
        }
        let (reply, _) = decode(form, answer).expect("is a message");
        let result = pending.wait();
        match reply.status() {
            Some(status) => assert_eq!(result.expect_err("fails"), status, "{name}"),
            None => assert_eq!(result.expect("succeeds").0, *reply.body, "{name}"),
        }
        seen += 1;
    }
    assert!(seen == 0 || seen > 60, "only {seen} calls");
}
