//! A gateway whose node sends anything. Its client gets a sound response, or a beginning of one that does not look complete, and
//! nothing that the node has not sent.
#![no_main]

use std::time::Duration;

use epicycle::testing::{Ending, Link, World};
use epicycle_fuzz::Case;
use epicycle_fuzz::gateway::{self, GATEWAY, Message, NODE};
use libfuzzer_sys::fuzz_target;

/// The request, and whether the node ends its stream.
#[derive(Clone, Copy)]
struct Asked {
    method: &'static str,
    is_http10: bool,
    upgrade: Option<&'static str>,
    node_ends: bool,
}

/// Returns what the client reads.
fn run<'a>(asked: Asked, pieces: impl Iterator<Item = &'a [u8]>) -> Vec<Message> {
    let mut world = World::new(1, Link::calm()).expect("a world");
    let node = world.listen((NODE, 80));
    let host = gateway::start(&mut world);
    let client = world.connect((GATEWAY, 8080));
    let version = if asked.is_http10 { "1.0" } else { "1.1" };
    let upgrade = asked.upgrade.map_or(String::new(), |protocol| {
        format!("Connection: Upgrade\r\nUpgrade: {protocol}\r\n")
    });
    let request = format!(
        "{} / HTTP/{version}\r\nHost: a.test\r\n{upgrade}\r\n",
        asked.method
    );
    world.send(client, request);
    world.run_for(Duration::from_millis(100));
    let served = world.accept(node).expect("the gateway connects");
    world.keep_open(served);
    for piece in pieces {
        world.send(served, piece);
        world.run_for(Duration::from_millis(2));
    }
    if asked.node_ends {
        world.shutdown(served);
    }
    // All timeouts but that of tunnels.
    world.run_for(Duration::from_secs(200));
    let received = world.received(client).to_vec();
    let ending = world.ending(client);
    let is_ended = ending == Ending::Finished;
    let (read, is_sound) = gateway::response(asked.method, asked.upgrade, &received, is_ended);
    assert!(
        is_sound,
        "malformed: {:?}",
        String::from_utf8_lossy(&received)
    );
    world.close(served);
    world.close(client);
    world.run_for(Duration::from_secs(2 * 3600));
    gateway::finish(world, host);
    read
}

fuzz_target!(|data: &[u8]| {
    let Some(case) = Case::<1>::new(data) else {
        return;
    };
    let options = case.options[0];
    let asked = Asked {
        method: ["GET", "HEAD", "DELETE", "GET"][usize::from(options & 3)],
        is_http10: options & 7 == 4,
        upgrade: (options & 3 == 3).then_some("websocket"),
        node_ends: options & 8 == 0,
    };
    let got = run(asked, [&case.input[..]].into_iter());
    // A division of the input does not change its completeness.
    let in_pieces = run(asked, case.pieces());
    let last = |messages: &[Message]| messages.last().cloned().unwrap_or_default();
    let (whole, pieces) = (last(&got), last(&in_pieces));
    // A head that is malformed in a piece shorter than the codec waits for is refused by a timeout.
    let is_own =
        |message: &Message| matches!(&*message.line, "502 Bad Gateway" | "504 Gateway Timeout");
    if !(is_own(&whole) && is_own(&pieces)) {
        assert_eq!(
            (&whole.line, whole.is_complete),
            (&pieces.line, pieces.is_complete),
            "in pieces of {:?}",
            case.pieces
        );
        assert!(
            !whole.is_complete || whole == pieces,
            "{whole:?}, not {pieces:?}"
        );
    }
    // The client gets what the node has sent, or an error of the gateway. Bytes behind a complete response do not
    // change it.
    let (sent, _) = gateway::response(asked.method, asked.upgrade, &case.input, asked.node_ends);
    let is_own = is_own(&whole);
    let sent = last(&sent);
    if sent.is_complete && sent.line == whole.line && whole.is_complete {
        assert!(is_own || sent.body == whole.body, "another body");
        for name in ["proxy-connection", "keep-alive", "te", "proxy-authenticate"] {
            assert!(!whole.names.iter().any(|other| other == name), "{name}");
        }
        return;
    }
    // It is cut, malformed, or no response at all.
    let is_interim = !sent.is_complete && whole.line.starts_with('1');
    assert!(
        is_own || is_interim || !whole.is_complete,
        "{whole:?}, not {sent:?}"
    );
});
