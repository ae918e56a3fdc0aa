//! A whole RPC peer in a simulated network, and a client that sends anything. Each CALL that is not cancelled is answered exactly
//! once, and nobody else notices.
#![no_main]

use std::time::Duration;

use epicycle::codec::Decoded;
use epicycle::rpc::wire::{
    Dialect, Filters, JsonProtocol, Kind, Limits, Message, PbProtocol, Protocol, RawProtocol, Uri,
};
use epicycle::rpc::{Peer, ProtocolChoice, Responder, Router};
use epicycle::testing::{Ending, Link, World};
use epicycle_fuzz::Case;
use libfuzzer_sys::fuzz_target;

const SERVER: [u8; 4] = [192, 168, 0, 1];

fn limits() -> Limits {
    let mut limits = Limits::default();
    limits.message = 1 << 16;
    limits
}

/// A handler of each kind that needs no thread, at a path of one letter.
fn routes() -> Router {
    let mut routes = Router::new();
    routes.call_bytes("/b", |_ctx, body, out| {
        out.extend_from_slice(body);
        Ok(())
    });
    routes.call("/t", |ctx, text: Option<String>| {
        ctx.session().push("/push", &text)?;
        ctx.add_reply_meta("k", "v");
        Ok(text)
    });
    routes.call_later("/l", |_ctx, _: (), reply: Responder<u8>| {
        reply.send(Ok(1));
    });
    // The client may answer, or not.
    routes.call_async("/a", |ctx, _: ()| async move {
        let call = ctx.session().call::<_, Option<String>>("/back", &());
        call.timeout(Duration::from_secs(1)).await
    });
    routes.call("/x", |ctx, _: ()| {
        ctx.session().close();
        Ok(())
    });
    routes.push("/p", |_ctx, _: Vec<u64>| Ok(()));
    routes
}

/// Returns the messages in these bytes, and whether all bytes are messages or the beginning of one.
fn messages(protocol: &mut dyn Protocol, mut bytes: &[u8]) -> (Vec<Message<'static>>, bool) {
    let mut messages = Vec::new();
    loop {
        match protocol.decode(bytes, &limits(), &Filters::standard()) {
            Ok(Decoded::Frame { frame, consumed }) => {
                messages.push(frame.into_owned());
                bytes = &bytes[consumed..];
            }
            Ok(_) => return (messages, true),
            Err(_) => return (messages, false),
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let Some(case) = Case::<1>::new(data) else {
        return;
    };
    let (choice, mut received): (_, Box<dyn Protocol>) = match case.options[0] % 4 {
        0 => (ProtocolChoice::raw(), Box::new(RawProtocol::detect())),
        1 => (ProtocolChoice::json(), Box::new(JsonProtocol::detect())),
        2 => (
            ProtocolChoice::pb(Dialect::V4_0),
            Box::new(PbProtocol::new(Dialect::V4_0)),
        ),
        _ => (
            ProtocolChoice::pb(Dialect::V4_1),
            Box::new(PbProtocol::new(Dialect::V4_1)),
        ),
    };
    let mut world = World::new(1, Link::calm()).expect("a world");
    let server = Peer::builder()
        .listen_with("tcp://:9000", choice)
        .listen_with("tcp://:9001", ProtocolChoice::raw())
        .routes(routes())
        .limits(limits())
        .reactors(1);
    let (server, options, factory) = server.into_server().expect("is right");
    let host = world.start(SERVER, options, factory).expect("starts");

    let client = world.connect((SERVER, 9000));
    let bystander = world.connect((SERVER, 9001));
    for piece in case.pieces() {
        world.send(client, piece);
        world.run_for(Duration::from_micros(20));
    }
    world.run_for(Duration::from_secs(60));

    let (asked, is_right) = messages(&mut *received, &case.input);
    let dialect = received.dialect();
    let mut sent: Box<dyn Protocol> = match case.options[0] % 4 {
        0 => Box::new(RawProtocol::new(dialect)),
        1 => Box::new(JsonProtocol::new(dialect)),
        _ => Box::new(PbProtocol::new(dialect)),
    };
    let (answers, is_whole) = messages(&mut *sent, world.received(client));
    assert!(is_whole, "the peer sends what cannot be read");
    let count = |messages: &[Message<'_>], kind, seq: &[u8]| {
        let is_it = |message: &&Message<'_>| message.kind == kind && message.seq == seq;
        messages.iter().filter(is_it).count()
    };
    let answered = answers.iter().filter(|answer| answer.kind == Kind::Reply);
    for seq in answered.map(|reply| &reply.seq) {
        let replies = count(&answers, Kind::Reply, seq);
        assert!(replies <= count(&asked, Kind::Call, seq), "{seq:?}");
    }
    if is_right && world.ending(client) == Ending::Open {
        for call in asked.iter().filter(|message| message.kind == Kind::Call) {
            // A call that was cancelled need not be answered.
            let cancels = asked.iter().any(|push| {
                let is_cancel = |uri: Uri<'_>| uri.path() == "/_/cancel";
                push.parse_uri().is_ok_and(is_cancel) && push.body == call.seq
            });
            let replies = count(&answers, Kind::Reply, &call.seq);
            let calls = count(&asked, Kind::Call, &call.seq);
            assert!(cancels || replies == calls, "{:?}", call.seq);
        }
    }

    // Somebody else's call is answered, and the session that is left is that of this somebody, or of the client too.
    let (mut call, mut bytes) = (Message::call("/b"), Vec::new());
    call.body = b"still here"[..].into();
    call.codec = epicycle::rpc::Codec::PLAIN;
    let mut protocol = RawProtocol::new(Dialect::V4_1);
    let encoded = protocol.encode(&call, &Filters::standard(), &mut bytes);
    encoded.expect("can be sent");
    world.send(bystander, &bytes);
    world.run_for(Duration::from_secs(1));
    let (answers, _) = messages(&mut protocol, world.received(bystander));
    assert_eq!(answers.len(), 1);
    assert_eq!(&answers[0].body[..], b"still here");
    let is_open = world.ending(client) == Ending::Open;
    assert_eq!(server.session_count(), 1 + usize::from(is_open));
    world.finish(host);
    assert_eq!(server.session_count(), 0);
});
