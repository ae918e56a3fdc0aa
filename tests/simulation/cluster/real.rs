//! Real nodes: they note what gates tell them as the scripted ones do, answer, and bind users.

use epicycle::cluster::drpc::Code;
use epicycle::cluster::locator::MemoryLocator;
use epicycle::cluster::node::{Node, NodeBuilder, Request, RouteFlag};
use epicycle::cluster::registry::MemoryRegistry;
use epicycle::cluster::{Error, Event};

use super::node::{ECHO, LOGIN, Log, PLAY, Told, What};

/// The state of a real node.
pub(crate) struct Game {
    id: String,
    log: Log,
}

/// Returns the options of a node that writes to a log.
pub(crate) fn builder(
    id: &str,
    log: &Log,
    registry: &MemoryRegistry,
    locator: &MemoryLocator,
) -> NodeBuilder<Game> {
    let (own, log) = (id.to_owned(), log.clone());
    let mut node = Node::builder()
        .id(id)
        .registry(registry.clone())
        .locator(locator.clone())
        .state(move |_| Game {
            id: own.clone(),
            log: log.clone(),
        })
        .route(ECHO, echo)
        .route(LOGIN, login)
        .route_with(PLAY, RouteFlag::Stateful, echo);
    for event in [Event::Connect, Event::Reconnect, Event::Disconnect] {
        node = node.event(event, move |game, cx| {
            note(game, cx, What::Event(event.code()));
            Ok::<(), Error>(())
        });
    }
    node
}

fn echo(game: &mut Game, cx: &mut Request<'_>) -> Result<(), Error> {
    let data = text(cx);
    note(game, cx, What::Packet(data.clone()));
    match cx.seq() {
        0 => Ok(()),
        _ => cx.respond(&format!("{data}@{}", game.id)),
    }
}

/// Binds a user to the client's connection, and then to this node.
fn login(game: &mut Game, cx: &mut Request<'_>) -> Result<(), Error> {
    let data = text(cx);
    note(game, cx, What::Packet(data.clone()));
    let uid: i64 = data.parse().expect("is a user");
    cx.bind_gate(uid, move |_: &mut Game, cx, bound| {
        if bound.is_err() {
            return logged_in(cx, uid, Code::Failed);
        }
        cx.bind_node(uid, move |_: &mut Game, cx, bound| {
            bound?;
            logged_in(cx, uid, Code::Done)
        })
    })
}

fn logged_in(cx: &mut Request<'_>, uid: i64, code: Code) -> Result<(), Error> {
    cx.respond(&format!("{uid}={}", code.code()))
}

fn text(cx: &Request<'_>) -> String {
    String::from_utf8_lossy(cx.data()).into_owned()
}

fn note(game: &Game, cx: &Request<'_>, what: What) {
    game.log.lock().push(Told {
        gate: cx.gid().to_owned(),
        cid: cx.cid(),
        uid: cx.uid(),
        what,
    });
}
