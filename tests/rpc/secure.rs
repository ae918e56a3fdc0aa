//! The plugin `secure`: what is encrypted as Teleport does it, and what its replacement protects.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use epicycle::rpc::plugins::secure::{ACCEPT, SECURE, Secure};
use epicycle::rpc::wire::{Dialect, Kind, Message, Raw};
use epicycle::rpc::{Codec, Peer, ProtocolChoice, Reply, Router, Session, Status, code};
use parking_lot::Mutex;

use crate::ends::{dial, listening, read_message, start};
use crate::recordings::recorded;
use crate::util::{LONG, eventually};
use crate::wire::{Form, decode};

const KEY: [u8; 32] = [7; 32];
const OLD_KEY: &[u8; 16] = b"0123456789abcdef";
const FORM: Form = Form::Raw(Dialect::V4_1);

fn gcm() -> Secure {
    Secure::new("k1", KEY).expect("is long enough")
}

fn ecb() -> Secure {
    Secure::for_old_peers(OLD_KEY).expect("is long enough")
}

fn routes() -> Router {
    let mut routes = Router::new();
    routes.call("/math/add", |_ctx, numbers: Vec<i64>| {
        Ok(numbers.iter().sum::<i64>())
    });
    routes.call_bytes("/echo", |ctx, body, out| {
        let query = ctx.query("q").unwrap_or_default();
        ctx.add_reply_meta("Query", query);
        out.extend_from_slice(body);
        Ok(())
    });
    routes
}

fn connect(server: &Peer) -> TcpStream {
    let addr = server.local_addrs()[0].as_socket_addr().expect("is TCP");
    let socket = TcpStream::connect(addr).expect("connects");
    socket.set_read_timeout(Some(LONG)).expect("is set");
    socket
}

/// A session with a test in place of the other peer.
fn captured(client: &Peer, dialect: Dialect) -> (Session, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let addr = listener.local_addr().expect("is bound");
    let session = client
        .dial_with(addr, ProtocolChoice::raw_of(dialect))
        .expect("connects");
    let socket = listener.accept().expect("is connected").0;
    socket.set_read_timeout(Some(LONG)).expect("is set");
    (session, socket)
}

#[test]
fn recorded_conversations_are_the_same_byte_for_byte_on_both_sides() {
    let rows = recorded();
    let cases = [
        (
            "v400",
            Dialect::V4_0,
            "secure_suite",
            OLD_KEY,
            "/math/add?a=b",
        ),
        (
            "b2c0579",
            Dialect::V4_1,
            "secure_suite",
            OLD_KEY,
            "/math/add?a=b",
        ),
        (
            "b2c0579",
            Dialect::V4_1,
            "secure_three_ways",
            b"cipherkey1234567",
            "/math/add?secret=q",
        ),
    ];
    for (version, dialect, scenario, key, uri) in cases {
        let is_of = |row: &&crate::recordings::Recorded| {
            (&*row.version, &*row.scenario) == (version, scenario)
        };
        let rows: Vec<_> = rows.iter().filter(is_of).collect();
        let secure = || {
            Secure::for_old_peers(key)
                .expect("is long enough")
                .dialect(dialect)
        };
        // As the server.
        let server = start(listening().routes(routes()).plugin(secure()));
        let mut socket = connect(&server);
        for pair in rows.chunks(2) {
            socket.write_all(&pair[0].bytes).expect("is sent");
            assert_eq!(
                read_message(&mut socket),
                pair[1].bytes,
                "{version} {scenario}"
            );
        }
        // As the client.
        let client = start(Peer::builder().plugin(secure()).call_timeout(None));
        let (session, mut socket) = captured(&client, dialect);
        for (at, pair) in rows.chunks(2).enumerate() {
            let numbers: &[i64] = match (scenario, at) {
                ("secure_three_ways", 0) => &[1, 2],
                (_, 2) => &[1, 2, 4],
                _ => &[1, 2, 3],
            };
            let uri = if at == 0 { uri } else { "/math/add" };
            let mut call = session.call::<_, i64>(uri, numbers);
            let is_asked = at == 0 || scenario == "secure_three_ways" && at == 1;
            if is_asked {
                call = call.meta(SECURE, "true");
            }
            if at > 0 {
                call = call.meta(ACCEPT, if is_asked { "false" } else { "true" });
            }
            let pending = call.send();
            assert_eq!(
                read_message(&mut socket),
                pair[0].bytes,
                "{version} {scenario}"
            );
            socket.write_all(&pair[1].bytes).expect("is sent");
            assert_eq!(pending.wait(), Ok(numbers.iter().sum()));
        }
    }
}

#[test]
fn every_kind_of_message_goes_through_encrypted_in_every_protocol_and_codec() {
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let builder = |seen: &Arc<Mutex<Vec<String>>>| {
        let (pushes, mut routes) = (seen.clone(), routes());
        routes.push("/note", move |push, text: String| {
            assert!(push.meta().get(SECURE).is_some(), "it was encrypted");
            pushes.lock().push(text);
            Ok(())
        });
        Peer::builder().routes(routes)
    };
    let dialects = [Dialect::V4_0, Dialect::V4_1];
    for plugin in [gcm, ecb] {
        for proto in dialects.into_iter().flat_map(|dialect| {
            let raw = ProtocolChoice::raw_of(dialect);
            [
                raw,
                ProtocolChoice::json_of(dialect),
                ProtocolChoice::pb(dialect),
            ]
        }) {
            let server = builder(&seen).plugin(plugin().always().required());
            let server = start(server.listen_with("tcp4://127.0.0.1:0", proto.clone()));
            let client = start(builder(&seen).plugin(plugin().always().required()));
            let session = client
                .dial_with(&server.local_addrs()[0], proto)
                .expect("connects");
            for codec in [Codec::JSON, Codec::PROTOBUF, Codec::FORM] {
                for body in [&b""[..], b"x", &[9; 1000]] {
                    let body = Raw(body.to_vec().into());
                    let reply: Reply<Raw> = (session.call("/echo?q=a%20b", &body).codec(codec))
                        .wait()
                        .expect("is answered");
                    assert_eq!((&reply.body, reply.codec), (&body, codec));
                    assert_eq!(reply.meta.get_str("Query").as_deref(), Some("a b"));
                }
            }
            let status = session
                .call::<_, ()>("/nowhere", &())
                .wait()
                .expect_err("fails");
            assert_eq!(status.code, code::NOT_FOUND);
            session.push("/note", "up").expect("is sent");
            eventually("it arrives", || seen.lock().len() == 1);
            // A broadcast is encrypted for each session.
            server.broadcast("/note", "down").expect("is sent");
            eventually("it arrives", || seen.lock().len() == 2);
            seen.lock().clear();
            // The server calls its client.
            let back = server.sessions().pop().expect("is open");
            let call = back.call::<_, i64>("/math/add", &[1, 2]);
            assert_eq!(call.wait(), Ok(3));
        }
    }
}

/// A call of a client, and a server with the same key.
fn sealed_call(plugin: Secure, uri: &str) -> (Session, TcpStream, Message<'static>) {
    let client = start(Peer::builder().plugin(plugin).call_timeout(None));
    let (session, mut socket) = captured(&client, Dialect::V4_1);
    session
        .call::<_, i64>(uri, &[1, 2, 3])
        .meta(SECURE, "true")
        .then(|_| {});
    let sent = read_message(&mut socket);
    let call = decode(FORM, &sent).expect("is a message").0.into_owned();
    // Dropping the client would end the session.
    std::mem::forget(client);
    (session, socket, call)
}

/// Sends a message to a server. Returns the status of the reply, if it has one.
fn status_of(server: &Peer, message: &Message<'_>) -> Option<Status> {
    let mut socket = connect(server);
    socket
        .write_all(&FORM.encode(message).expect("fits"))
        .expect("is sent");
    let answer = read_message(&mut socket);
    decode(FORM, &answer).expect("is a message").0.status()
}

#[test]
fn a_message_that_was_changed_or_moved_does_not_decrypt_and_all_are_refused_alike() {
    let server = start(listening().routes(routes()).plugin(gcm()));
    let (_session, _socket, call) = sealed_call(gcm(), "/math/add?q=secret");
    let shows = |text: &[u8]| {
        let whole = FORM.encode(&call).expect("fits");
        whole.windows(text.len()).any(|window| window == text)
    };
    assert!(!shows(b"secret") && !shows(b"[1,2,3]") && shows(b"/math/add"));
    assert_eq!(status_of(&server, &call), None, "as it was sent");
    type Change = fn(&mut Message<'static>);
    let changes: [Change; 12] = [
        |call| call.body.to_mut()[0] ^= 1,
        |call| call.body.to_mut()[12] ^= 1,
        |call| *call.body.to_mut().last_mut().expect("is long") ^= 1,
        |call| call.body.to_mut().truncate(20),
        |call| call.body.to_mut().clear(),
        |call| call.uri = [b"/echo", &call.uri[9..]].concat().into(),
        |call| call.uri = b"/math/add"[..].into(),
        |call| *call.uri.to_mut() = call.uri.replace_once(b"ciphertext=", b"ciphertext=00"),
        |call| call.seq.to_mut()[3] ^= 1,
        |call| call.codec = Codec::PLAIN,
        |call| call.meta.set(SECURE, "gcm:k2"),
        |call| call.meta.set(SECURE, "true"),
    ];
    let expected = Status::new(400, "Bad Message").with_reason("the message cannot be decrypted");
    for (at, change) in changes.iter().enumerate() {
        let mut changed = call.clone();
        change(&mut changed);
        assert_eq!(
            status_of(&server, &changed).as_ref(),
            Some(&expected),
            "change {at}"
        );
    }
    // A push of the same content is no call of it.
    let mut push = call.clone();
    push.kind = Kind::Push;
    let mut socket = connect(&server);
    socket
        .write_all(&FORM.encode(&push).expect("fits"))
        .expect("is sent");
    let plain = [&b"\0\0\0\x1dr\0\0\x011\x01\0\x09/math/add\0\0j[1,2]"[..]].concat();
    socket.write_all(&plain).expect("is sent");
    let answer = read_message(&mut socket);
    assert_eq!(*decode(FORM, &answer).expect("is a message").0.body, *b"3");
}

/// Replaces a part of bytes.
trait ReplaceOnce {
    fn replace_once(&self, from: &[u8], to: &[u8]) -> Vec<u8>;
}

impl ReplaceOnce for [u8] {
    fn replace_once(&self, from: &[u8], to: &[u8]) -> Vec<u8> {
        let at = self.windows(from.len()).position(|window| window == from);
        let at = at.expect("is there");
        [&self[..at], to, &self[at + from.len()..]].concat()
    }
}

#[test]
fn a_wrong_padding_and_a_wrong_body_are_the_same_to_an_old_peer() {
    let server = start(listening().routes(routes()).plugin(ecb()));
    let (_session, _socket, call) = sealed_call(ecb(), "/math/add");
    assert_eq!(status_of(&server, &call), None, "as it was sent");
    let mut statuses = Vec::new();
    // Each first byte of the only block gives another garbage, with a padding or without.
    for byte in 0..=255u8 {
        let mut changed = call.clone();
        let text = String::from_utf8(changed.body.to_vec()).expect("is JSON");
        let at = text.find("ciphertext\":\"").expect("is there") + 13;
        changed.body = [&text[..at], &format!("{byte:02x}"), &text[at + 2..]]
            .concat()
            .into_bytes()
            .into();
        if changed.body != call.body {
            statuses.extend(status_of(&server, &changed));
        }
    }
    assert_eq!(statuses.len(), 255);
    // A text with a right padding that is no JSON, and one that is no text of the key.
    for text in ["76a6ff5f1d0e6cbda1b2e1b2ab8ea4d7", "zz", ""] {
        let mut changed = call.clone();
        let envelope = format!(
            r#"{{"cipherversion":"4032af8d61035123906e58e067140cc5","ciphertext":"{text}"}}"#
        );
        changed.body = envelope.into_bytes().into();
        statuses.extend(status_of(&server, &changed));
    }
    let mut valid = call.clone();
    let (_session, _socket, other) = sealed_call(ecb(), "/math/add");
    assert_eq!(other.body, call.body, "equal texts look equal");
    // Valid encryption of what is no list of numbers.
    let client = start(Peer::builder().plugin(ecb()).call_timeout(None));
    let (session, mut socket) = captured(&client, Dialect::V4_1);
    session
        .call::<_, ()>("/math/add", "text")
        .meta(SECURE, "true")
        .then(|_| {});
    let sent = read_message(&mut socket);
    valid.body = decode(FORM, &sent)
        .expect("is a message")
        .0
        .body
        .into_owned()
        .into();
    statuses.extend(status_of(&server, &valid));
    let expected = Status::new(400, "Bad Message").with_reason("the message cannot be decrypted");
    assert_eq!(statuses.len(), 259);
    assert!(
        statuses.iter().all(|status| *status == expected),
        "{statuses:?}"
    );
}

#[test]
fn a_message_is_not_taken_by_the_side_that_sent_it_and_a_plain_reply_not_for_an_encrypted_one() {
    let client = start(Peer::builder().routes(routes()).plugin(gcm()));
    let (session, mut socket) = captured(&client, Dialect::V4_1);
    let call = |accept: &str| {
        let call = session
            .call::<_, i64>("/math/add", &[1, 2])
            .meta(SECURE, "true");
        call.meta(ACCEPT, accept)
            .timeout(Duration::from_secs(60))
            .send()
    };
    // The call comes back as one of the other side's.
    let pending = call("true");
    let sent = read_message(&mut socket);
    socket.write_all(&sent).expect("is sent");
    let refusal = read_message(&mut socket);
    let (refusal, _) = decode(FORM, &refusal).expect("is a message");
    assert_eq!(refusal.status().map(|status| status.code), Some(400));
    // A reply without encryption.
    let (sent, _) = decode(FORM, &sent).expect("is a message");
    let mut reply = Message::reply(&sent, false);
    reply.codec = Codec::JSON;
    reply.body = b"1000"[..].into();
    let plain = FORM.encode(&reply).expect("fits");
    socket.write_all(&plain).expect("is sent");
    assert_eq!(pending.wait().expect_err("fails").code, 400);
    // It is taken where the caller wants it.
    let pending = call("false");
    let sent = read_message(&mut socket);
    let (sent, _) = decode(FORM, &sent).expect("is a message");
    reply.seq = sent.seq.clone();
    socket
        .write_all(&FORM.encode(&reply).expect("fits"))
        .expect("is sent");
    assert_eq!(pending.wait(), Ok(1000));
}

#[test]
fn keys_are_rotated_and_both_modes_live_side_by_side() {
    let both = || gcm().and_old_peers(OLD_KEY).expect("is long enough");
    let rotated = Secure::new("k2", [8; 16]).and_then(|secure| secure.accept_key("k1", KEY));
    let server = rotated
        .and_then(|secure| secure.and_old_peers(OLD_KEY))
        .expect("are right");
    let server = start(listening().routes(routes()).plugin(server));
    let client = start(Peer::builder().plugin(both()));
    let session = dial(&client, &server);
    let add = |secure: Option<&str>, accept: Option<&str>| {
        let mut call = session.call::<_, i64>("/math/add?q=1", &[1, 2]);
        if let Some(secure) = secure {
            call = call.meta(SECURE, secure);
        }
        if let Some(accept) = accept {
            call = call.meta(ACCEPT, accept);
        }
        call.wait()
    };
    for secure in ["true", "ecb"] {
        assert_eq!(add(Some(secure), None), Ok(3));
        assert_eq!(add(Some(secure), Some("false")), Ok(3));
    }
    assert_eq!(add(None, Some("ecb")), Ok(3));
    assert_eq!(add(None, None), Ok(3));
    // The reply has the server's own key, which this client does not know.
    assert_eq!(add(None, Some("true")).expect_err("fails").code, 400);
    assert_eq!(
        add(Some("rot13"), None).expect_err("fails").code,
        code::UNKNOWN_ERROR
    );

    assert!(Secure::new("k", [1; 17]).is_err());
    assert!(Secure::for_old_peers([1; 33]).is_err());
    assert!(gcm().accept_key("k1", KEY).is_err());
}

#[test]
fn a_peer_may_demand_encryption_and_has_a_status_of_its_own() {
    let own = Status::new(1001, "Encrypt");
    let server = gcm().required().status(own.clone());
    let server = start(listening().routes(routes()).plugin(server));
    let client = start(Peer::builder().plugin(gcm()));
    let session = dial(&client, &server);
    let call = || session.call::<_, i64>("/math/add", &[1, 2]);
    assert_eq!(call().wait(), Err(own.clone()));
    assert_eq!(call().meta(SECURE, "true").wait(), Ok(3));
    let stranger = Secure::new("k1", [9; 32]).expect("is long enough");
    let stranger = start(Peer::builder().plugin(stranger.always()));
    let session = dial(&stranger, &server);
    let call = session.call::<_, i64>("/math/add", &[1, 2]);
    assert_eq!(call.wait(), Err(own));
}

#[test]
fn a_call_that_demands_an_encrypted_reply_gets_one_of_its_own_mode() {
    let both = || gcm().and_old_peers(OLD_KEY).expect("is long enough");
    // The reply: whoever knows messages of old peers makes one of their blocks.
    let client = start(Peer::builder().plugin(both()));
    let (session, mut socket) = captured(&client, Dialect::V4_1);
    let pending = session
        .call::<_, i64>("/math/add", &[1, 2])
        .meta(SECURE, "true")
        .timeout(Duration::from_secs(60))
        .send();
    let sent = read_message(&mut socket);
    let (sent, _) = decode(FORM, &sent).expect("is a message");
    let old = start(Peer::builder().plugin(ecb()));
    let (other, mut old_socket) = captured(&old, Dialect::V4_1);
    let push = other.prepare_push("/x", &1000).meta(SECURE, "true");
    push.send().expect("is sent");
    let recorded = read_message(&mut old_socket);
    let (recorded, _) = decode(FORM, &recorded).expect("is a message");
    let mut reply = Message::reply(&sent, false);
    reply.meta.set(SECURE, "true");
    reply.codec = recorded.codec;
    reply.body = recorded.body.clone();
    socket
        .write_all(&FORM.encode(&reply).expect("fits"))
        .expect("is sent");
    assert_eq!(pending.wait().expect_err("fails").code, 400);

    // The call: whoever sees it on its way asks for a plain reply.
    let server = start(listening().routes(routes()).plugin(both()));
    let mut to_server = connect(&server);
    let _pending = session
        .call::<_, i64>("/math/add", &[1, 2])
        .meta(SECURE, "true")
        .timeout(Duration::from_secs(60))
        .send();
    let sent = read_message(&mut socket);
    let (mut sent, _) = decode(FORM, &sent).expect("is a message");
    sent.meta.set(ACCEPT, "false");
    to_server
        .write_all(&FORM.encode(&sent).expect("fits"))
        .expect("is sent");
    let reply = read_message(&mut to_server);
    let (reply, _) = decode(FORM, &reply).expect("is a message");
    assert_eq!(reply.status(), None);
    assert_ne!(*reply.body, *b"3", "it is encrypted");
    let told = reply.meta.get_str(SECURE);
    assert_eq!(told.as_deref(), Some("gcm:k1"));
}

#[test]
fn a_path_without_a_route_does_not_tell_whether_a_text_of_an_old_peer_decrypts() {
    let server = start(listening().routes(routes()).plugin(ecb()));
    let (_session, _socket, call) = sealed_call(ecb(), "/math/add?q=secret");
    assert_eq!(status_of(&server, &call), None, "as it was sent");
    let mut with_bad_body = call.clone();
    let text = String::from_utf8(call.body.to_vec()).expect("is JSON");
    let at = text.find("ciphertext\":\"").expect("is there") + 13;
    with_bad_body.body = format!("{}zz{}", &text[..at], &text[at + 2..])
        .into_bytes()
        .into();
    let mut with_bad_query = call.clone();
    *with_bad_query.uri.to_mut() = call.uri.replace_once(b"ciphertext=", b"ciphertext=00");
    for mut changed in [with_bad_body, with_bad_query, call] {
        let is_right = changed.body == text.as_bytes()
            && !changed.uri.windows(13).any(|w| w == b"ciphertext=00");
        let code = status_of(&server, &changed).map(|status| status.code);
        assert_eq!(code, (!is_right).then_some(400));
        *changed.uri.to_mut() = changed.uri.replace_once(b"/math/add", b"/nowhere");
        let code = status_of(&server, &changed).map(|status| status.code);
        assert_eq!(code, Some(404));
    }
}
