//! Real nodes: they note what gates tell them as the scripted ones do, answer, and bind users.

use std::sync::Arc;

use epicycle::cluster::drpc::Code;
use epicycle::cluster::locator::MemoryLocator;
use epicycle::cluster::node::{Node, NodeBuilder, Request, RouteFlag};
use epicycle::cluster::registry::{MemoryRegistry, Registry};
use epicycle::cluster::{Error, Event, State};
use parking_lot::Mutex;

use super::node::{ECHO, LOGIN, Log, PLAY, TOKEN, Told, What};

/// The route by which a node that drains gives a user to another one.
const TAKE: i32 = 5;

/// The state of a real node.
pub(crate) struct Game {
    id: String,
    log: Log,
    order: Order,
}

/// The packets of all nodes in their order: route and data.
pub(crate) type Order = Arc<Mutex<Vec<(i32, String)>>>;

/// Returns the options of a node that writes to a log.
pub(crate) fn builder(
    id: &str,
    (log, order): (&Log, &Order),
    registry: &MemoryRegistry,
    locator: &MemoryLocator,
) -> NodeBuilder<Game> {
    let (own, log, order) = (id.to_owned(), log.clone(), order.clone());
    let nodes = registry.clone();
    let mut node = Node::builder()
        .id(id)
        .registry(registry.clone())
        .locator(locator.clone())
        .state(move |_| Game {
            id: own.clone(),
            log: log.clone(),
            order: order.clone(),
        })
        .route(ECHO, echo)
        .route(LOGIN, login)
        .route(TOKEN, |_, cx| {
            cx.resume_token(|_: &mut Game, cx, token| cx.respond(&token?))
        })
        .route_with(PLAY, RouteFlag::Stateful, echo)
        .route_with(TAKE, RouteFlag::Internal, |_, cx| {
            cx.bind_node(cx.uid(), |_: &mut Game, _, bound| bound)
        })
        .on_handover(move |_, cx| {
            let nodes = nodes.services("node")?;
            // This node may not have been told of the newest one yet.
            let mut others = nodes.iter().filter(|node| node.state == State::Work);
            let uid = cx.uid();
            let taken = others.any(|other| cx.deliver_to(&other.id, TAKE, uid, "").is_ok());
            assert!(taken, "another one is in work");
            Ok::<(), Error>(())
        });
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
    game.order.lock().push((cx.route(), data.clone()));
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
        cx.bind_node(uid, move |_: &mut Game, cx, bound| match bound {
            Ok(()) => logged_in(cx, uid, Code::Done),
            // It is about to stop.
            Err(Error::Draining) => logged_in(cx, uid, Code::Failed),
            Err(error) => Err(error),
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
