//! A gateway whose client sends anything. Its node gets sound requests, each of which the client has sent, in their order and with
//! their bodies.
#![no_main]

use std::time::Duration;

use epicycle::testing::{Link, World};
use epicycle_fuzz::Case;
use epicycle_fuzz::gateway::{self, GATEWAY, Message, NODE};
use libfuzzer_sys::fuzz_target;

/// Returns what the node gets, and whether the client's connection was closed by the gateway.
fn run<'a>(pieces: impl Iterator<Item = &'a [u8]>, ends: bool) -> Vec<Message> {
    let mut world = World::new(1, Link::calm()).expect("a world");
    let node = world.listen((NODE, 80));
    let host = gateway::start(&mut world);
    let client = world.connect((GATEWAY, 8080));
    for piece in pieces {
        world.send(client, piece);
        world.run_for(Duration::from_millis(2));
    }
    let mut seen = Vec::new();
    let mut connections = Vec::new();
    let mut quiet = 0;
    // Each request is answered when it is complete. After a second the gateway itself answers an Expect.
    while quiet < 8 {
        world.run_for(Duration::from_millis(200));
        while let Some(served) = world.accept(node) {
            connections.push((served, Vec::new()));
        }
        quiet += 1;
        for (served, input) in &mut connections {
            let more = world.take_received(*served);
            if !more.is_empty() {
                quiet = 0;
            }
            input.extend(more);
            let (messages, is_sound) = gateway::requests(input);
            assert!(is_sound, "malformed: {:?}", String::from_utf8_lossy(input));
            let complete = messages
                .iter()
                .filter(|message| message.is_complete)
                .count();
            if complete > 0 {
                assert_eq!(
                    complete,
                    messages.len(),
                    "a request before the answer to another"
                );
                assert_eq!(complete, 1, "two requests at once");
                seen.extend(messages);
                input.clear();
                world.send(*served, "HTTP/1.1 204 No Content\r\n\r\n");
            }
        }
    }
    match ends {
        true => world.shutdown(client),
        false => world.reset(client),
    }
    world.run_for(Duration::from_secs(200));
    for (served, input) in connections {
        // One that is cut must not look complete.
        let (messages, _) = gateway::requests(&[&input[..], world.received(served)].concat());
        assert!(
            !messages.iter().any(|message| message.is_complete),
            "{messages:?}"
        );
        world.close(served);
    }
    world.run_for(Duration::from_secs(200));
    gateway::finish(world, host);
    seen
}

fuzz_target!(|data: &[u8]| {
    let Some(case) = Case::<1>::new(data) else {
        return;
    };
    let ends = case.options[0] & 1 == 0;
    let seen = run([&case.input[..]].into_iter(), ends);
    let in_pieces = run(case.pieces(), ends);
    assert_eq!(seen, in_pieces, "in pieces of {:?}", case.pieces);
    // The gateway may answer some itself.
    let (sent, _) = gateway::requests(&case.input);
    let mut sent = sent.iter().filter(|message| message.is_complete);
    for request in &seen {
        let method = |message: &Message| message.line.split(' ').next().map(str::to_owned);
        let found = sent.find(|sent| method(sent) == method(request) && sent.body == request.body);
        assert!(found.is_some(), "{request:?} was not sent");
        for name in [
            "proxy-connection",
            "keep-alive",
            "http2-settings",
            "proxy-authorization",
        ] {
            assert!(!request.names.iter().any(|other| other == name), "{name}");
        }
        let count = |name: &str| request.names.iter().filter(|other| *other == name).count();
        assert!(count("host") == 1 && count("content-length") + count("transfer-encoding") <= 1);
    }
});
