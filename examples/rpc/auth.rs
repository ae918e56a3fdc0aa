//! Authentication: until a client has presented its token, it has no session and nothing is served.

use clap::Args;
use epicycle::rpc::plugins::auth::{Bearer, Verify};
use epicycle::rpc::{Peer, Router, Status};

use crate::Outcome;

#[derive(Args)]
pub(crate) struct Flags {
    /// The token that the client presents
    #[arg(long, default_value = "secret")]
    token: String,
}

pub(crate) fn run(flags: Flags) -> Outcome {
    let mut routes = Router::new();
    routes.call("whoami", |ctx, _: ()| Ok(ctx.session().id().to_string()));
    let server = Peer::builder()
        .listen("tcp://127.0.0.1:0")
        .routes(routes)
        .plugin(Verify::new(|token, session| match token {
            "secret" => {
                session.set_id("the one who knows");
                Ok(())
            }
            _ => Err(Status::new(403, "auth fail").with_reason("wrong token")),
        }))
        .start()?;

    let client = Peer::builder()
        .reactors(1)
        .plugin(Bearer::new(flags.token))
        .start()?;
    let session = client.dial(&server.local_addrs()[0])?;
    let name: String = session.call("/whoami", &()).wait()?;
    println!("the server knows this client as {name:?}");
    Ok(())
}
