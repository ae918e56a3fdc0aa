//! Groups of routes. A plugin of a group runs for its routes only.

use epicycle::rpc::{Hooks, Incoming, Peer, Plugin, Router, Status, code};

use crate::Outcome;

/// Refuses callers that do not say who they are.
struct NeedsAuthor;

impl Plugin for NeedsAuthor {
    fn name(&self) -> &str {
        "needs-author"
    }

    fn hooks(&self) -> Hooks {
        Hooks::PRE_READ_CALL_BODY
    }

    fn pre_read_call_body(&self, call: &mut Incoming<'_>) -> Result<(), Status> {
        match call.query("author") {
            Some(_) => Ok(()),
            None => Err(Status::new(code::BAD_MESSAGE, "who is the author?")),
        }
    }
}

pub(crate) fn run() -> Outcome {
    let mut routes = Router::new();
    routes.call("version", |_ctx, _: ()| Ok(1));
    routes.group("v1", |routes| {
        routes.group("math", |routes| {
            routes.plugin(NeedsAuthor);
            routes.call("add", |_ctx, numbers: Vec<i64>| {
                Ok(numbers.iter().sum::<i64>())
            });
        });
        routes.call("ping", |_ctx, _: ()| Ok("pong"));
    });
    for route in routes.routes() {
        println!(
            "{} {} ({}) -> {}",
            route.kind, route.path, route.argument, route.reply
        );
    }
    let server = Peer::builder()
        .listen("tcp://127.0.0.1:0")
        .routes(routes)
        .start()?;

    let client = Peer::builder().reactors(1).start()?;
    let session = client.dial(&server.local_addrs()[0])?;
    let pong: String = session.call("/v1/ping", &()).wait()?;
    println!("/v1/ping: {pong}");
    let add = |uri| session.call::<_, i64>(uri, &[1, 2, 3]).wait();
    println!("/v1/math/add?author=me: {}", add("/v1/math/add?author=me")?);
    if let Err(status) = add("/v1/math/add") {
        println!("/v1/math/add: {status}");
    }
    Ok(())
}
