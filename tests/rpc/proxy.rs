//! The plugin `proxy`: what is forwarded arrives as it was sent, and ends as its caller does.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use epicycle::rpc::plugins::proxy::Proxy;
use epicycle::rpc::wire::{Dialect, Raw};
use epicycle::rpc::{Codec, Peer, ProtocolChoice, Reply, Responder, Router, Session, Status, code};
use parking_lot::Mutex;

use crate::ends::{dial, listening, read_message, start};
use crate::recordings::recorded;
use crate::util::{LONG, eventually};
use crate::wire::{Form, decode};

/// Replaces the first address of the recorded client, with its port.
fn readdressed(bytes: &[u8], addr: &str) -> Vec<u8> {
    let text = bytes.to_vec();
    let Some(at) = text.windows(10).position(|window| window == b"127.0.0.1:") else {
        return text;
    };
    let port = text[at + 10..]
        .iter()
        .take_while(|byte| byte.is_ascii_digit());
    let end = at + 10 + port.count();
    [&text[..at], addr.as_bytes(), &text[end..]].concat()
}

#[test]
fn both_legs_carry_the_recorded_bytes() {
    let rows = recorded();
    for (version, dialect) in [("v400", Dialect::V4_0), ("b2c0579", Dialect::V4_1)] {
        let of_proxy = |row: &&crate::recordings::Recorded| {
            row.version == version && row.scenario.starts_with("proxy_")
        };
        let (back, front): (Vec<_>, Vec<_>) =
            (rows.iter().filter(of_proxy)).partition(|row| row.scenario == "proxy_backend_leg");
        assert!(rows.is_empty() || front.len() >= 4 && front.len() == back.len());
        for (front, back) in front.chunks(2).zip(back.chunks(2)) {
            let form = Form::Raw(dialect);
            let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
            let to_backend = start(Peer::builder());
            let addr = listener.local_addr().expect("is bound");
            let chosen = to_backend
                .dial_with(addr, ProtocolChoice::raw_of(dialect))
                .expect("connects");
            let mut backend = listener.accept().expect("connects").0;
            backend.set_read_timeout(Some(LONG)).expect("is set");

            let (expected, _) = decode(form, &back[0].bytes).expect("is a message");
            let recorded_seq = String::from_utf8(expected.seq.to_vec()).expect("is text");
            let program = recorded_seq.split_once('>').map(|(_, rest)| rest);
            let proxy = Proxy::new(move |_| Ok(chosen.clone()));
            let proxy = match program.and_then(|rest| rest.split_once('[')) {
                Some((program, _)) => proxy.program(program),
                None => proxy.short_seqs(),
            };
            let mut routes = Router::new();
            proxy.add_to(&mut routes);
            // A Go caller tells no deadline, and this peer waits without one, so that the metadata is the recorded one.
            let server = start(listening().routes(routes).call_timeout(None));
            let addr = server.local_addrs()[0].as_socket_addr().expect("is TCP");
            let mut client = TcpStream::connect(addr).expect("connects");
            client.set_read_timeout(Some(LONG)).expect("is set");
            client.write_all(&front[0].bytes).expect("is sent");

            let forwarded = read_message(&mut backend);
            let (mut forwarded, _) = decode(form, &forwarded).expect("is a message");
            let own = client.local_addr().expect("is bound").to_string();
            let seq = readdressed(&expected.seq, &own);
            let number = seq
                .iter()
                .position(|byte| *byte == b'[')
                .unwrap_or(seq.len());
            assert!(forwarded.seq.starts_with(&seq[..number]), "{forwarded}");
            assert_eq!(*forwarded.uri, *expected.uri);
            assert_eq!(
                (forwarded.codec, &forwarded.body),
                (expected.codec, &expected.body)
            );
            let real_ip = expected
                .meta
                .get_str("X-Real-IP")
                .expect("is recorded")
                .into_owned();
            let mut meta = expected.meta.clone();
            meta.set("X-Real-IP", readdressed(real_ip.as_bytes(), &own));
            // The chosen session's own time for calls.
            forwarded.meta.remove("X-Timeout");
            assert_eq!(forwarded.meta.encoded(), meta.encoded());

            let (mut reply, _) = decode(form, &back[1].bytes).expect("is a message");
            reply.seq = forwarded.seq.clone();
            reply.size = 0;
            backend
                .write_all(&form.encode(&reply).expect("fits"))
                .expect("is sent");
            assert_eq!(
                read_message(&mut client),
                front[1].bytes,
                "{}",
                front[0].scenario
            );
        }
    }
}

/// A backend, a proxy and a client, each with one reactor.
struct Chain {
    backend: Peer,
    proxy: Peer,
    _to_backend: Peer,
    client: Peer,
    session: Session,
}

fn chain(routes: Router, client: Router) -> Chain {
    let backend = start(listening().routes(routes));
    let to_backend = start(Peer::builder());
    let chosen = dial(&to_backend, &backend);
    let mut routes = Router::new();
    routes.call("/own", |_ctx, n: u8| Ok(n));
    Proxy::new(move |label| match &*label.uri {
        "/secret" => Err(Status::new(403, "Forbidden")),
        _ => Ok(chosen.clone()),
    })
    .add_to(&mut routes);
    let proxy = start(listening().routes(routes).max_deferred(3));
    let client = start(Peer::builder().routes(client));
    let session = dial(&client, &proxy);
    Chain {
        backend,
        proxy,
        _to_backend: to_backend,
        client,
        session,
    }
}

#[test]
fn body_codec_filters_and_metadata_go_through_in_both_directions() {
    let mut routes = Router::new();
    routes.call_bytes("/echo", |ctx, body, out| {
        let call = ctx.incoming();
        assert_eq!(
            call.body_codec(),
            Codec(b'z'),
            "no codec that the proxy knows"
        );
        out.extend_from_slice(body);
        ctx.set_reply_codec(Codec(b'y'));
        ctx.add_reply_filters(b"m")?;
        for (key, value) in call.meta().iter().filter(|(key, _)| **key == *b"K") {
            ctx.add_reply_meta(key, value);
        }
        let ip = call.real_ip().expect("is told");
        ctx.add_reply_meta("Ip", ip.to_string());
        ctx.add_reply_meta("Filters", call.message().filters.ids());
        Ok(())
    });
    routes.call("/fail", |ctx, _: ()| {
        ctx.add_reply_meta("K", "kept");
        Err::<(), _>(Status::new(1234, "Custom").with_reason("why"))
    });
    let chain = chain(routes, Router::new());
    let session = &chain.session;
    let call = |real_ip: Option<&str>| {
        let body = Raw("body".into());
        let mut call = session
            .call::<_, Reply<Raw>>("/echo?q=1", &body)
            .codec(Codec(b'z'));
        call = call.filters(b"gm").meta("K", "1").meta("K", "2");
        if let Some(ip) = real_ip {
            call = call.meta("X-Real-IP", ip);
        }
        call.wait().expect("is answered")
    };
    let reply = call(None);
    assert_eq!(
        (reply.body.0.as_ref(), reply.codec),
        (&b"body"[..], Codec(b'y'))
    );
    assert_eq!(reply.meta.get_all("K").count(), 2);
    assert_eq!(reply.meta.get_str("Ip").as_deref(), Some("127.0.0.1"));
    assert_eq!(reply.meta.get_str("Filters").as_deref(), Some("gm"));
    let reply = call(Some("10.1.2.3"));
    assert_eq!(reply.meta.get_str("Ip").as_deref(), Some("10.1.2.3"));
    assert_eq!(reply.meta.get_all("X-Real-IP").count(), 0);

    let status = session
        .call::<_, ()>("/fail", &())
        .wait()
        .expect_err("fails");
    assert_eq!(status, Status::new(1234, "Custom").with_reason("why"));
    let status = session
        .call::<_, ()>("/secret", &())
        .wait()
        .expect_err("fails");
    assert_eq!(status, Status::new(403, "Forbidden"));
    let status = session
        .call::<_, ()>("/nowhere", &())
        .wait()
        .expect_err("fails");
    assert_eq!(status.code, code::NOT_FOUND);
    assert_eq!(
        session.call::<_, u8>("/own", &7u8).wait(),
        Ok(7),
        "own routes come first"
    );
}

type Held = Arc<Mutex<Vec<Responder<u8>>>>;

fn holding() -> (Router, Held) {
    let held = Held::default();
    let holding = held.clone();
    let mut routes = Router::new();
    routes.call_later("/hold", move |ctx, n: u8, reply| {
        let left = ctx.deadline().expect("is told") - ctx.arrived_at().expect("is known");
        assert!(left <= Duration::from_secs(n.into()), "{left:?}");
        holding.lock().push(reply);
    });
    routes.call("/quick", |_ctx, n: u8| Ok(n));
    (routes, held)
}

#[test]
fn deadline_and_cancellation_go_through_and_nothing_waits_meanwhile() {
    let (routes, held) = holding();
    let chain = chain(routes, Router::new());
    let hold = |session: &Session, seconds: u8| {
        let before = held.lock().len();
        let call = session.call::<_, u8>("/hold", &seconds);
        let call = call.timeout(Duration::from_secs(seconds.into())).send();
        eventually("it arrives", || held.lock().len() > before);
        call
    };
    let is_cancelled = |at: usize| held.lock()[at].is_cancelled();
    let cancelled = hold(&chain.session, 20);
    assert_eq!(chain.session.call::<_, u8>("/quick", &1u8).wait(), Ok(1));
    let answered = hold(&chain.session, 20);
    assert!(!is_cancelled(0));
    cancelled.cancel();
    eventually("the backend learns of it", || is_cancelled(0));
    assert!(!is_cancelled(1));
    held.lock().pop().expect("is there").send(Ok(9));
    assert_eq!(answered.wait(), Ok(9));
    let gone = dial(&chain.client, &chain.proxy);
    let lost = hold(&gone, 20);
    gone.abort();
    eventually("the backend learns of it", || is_cancelled(1));
    assert!(lost.wait().is_err());
    let late = hold(&chain.session, 1);
    assert_eq!(late.wait().expect_err("fails").code, code::HANDLE_TIMEOUT);
    eventually("the backend learns of it", || is_cancelled(2));
}

#[test]
fn forwarded_calls_count_in_the_limits_and_end_when_the_backend_does() {
    let (routes, held) = holding();
    let chain = chain(routes, Router::new());
    let hold = || {
        let call = chain.session.call::<_, u8>("/hold", &30u8);
        call.timeout(Duration::from_secs(30)).send()
    };
    let calls = [hold(), hold(), hold()];
    eventually("all arrive", || held.lock().len() == 3);
    assert_eq!(
        hold().wait().expect_err("fails").code,
        code::TOO_MANY_REQUESTS
    );
    for session in chain.backend.sessions() {
        session.abort();
    }
    for call in calls {
        let status = call.wait().expect_err("fails");
        assert_eq!(
            (status.code, &*status.message),
            (code::BAD_GATEWAY, "Bad Gateway")
        );
    }
    let status = hold().wait().expect_err("fails");
    assert_eq!(status.code, code::BAD_GATEWAY, "the session is gone");
}

#[test]
fn pushes_go_through() {
    let seen: Arc<Mutex<Vec<(String, String)>>> = Arc::default();
    let pushes = seen.clone();
    let mut routes = Router::new();
    routes.push("/note", move |push, text: String| {
        let seq = String::from_utf8_lossy(push.seq()).into_owned();
        pushes.lock().push((seq, text));
        Ok(())
    });
    let chain = chain(routes, Router::new());
    for text in ["a", "b"] {
        chain.session.push("/note", text).expect("is sent");
    }
    chain.session.push("/_/other", "reserved").expect("is sent");
    eventually("both arrive", || seen.lock().len() == 2);
    let seen = seen.lock();
    for (at, (seq, text)) in seen.iter().enumerate() {
        assert_eq!(text, ["a", "b"][at]);
        let own = format!("{}@{at}>", chain.session.id());
        assert!(
            seq.starts_with(&own) && seq.ends_with(&format!("[{at}]")),
            "{seq}"
        );
    }
}
