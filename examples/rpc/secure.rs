//! Messages that are encrypted one by one, and the rotation of a key.

use epicycle::rpc::plugins::secure::{ACCEPT, SECURE, Secure};
use epicycle::rpc::{Hooks, Incoming, Peer, Plugin, Router, Status};

use crate::Outcome;

/// Shows messages as they arrive.
struct Show;

impl Plugin for Show {
    fn name(&self) -> &str {
        "show"
    }

    fn hooks(&self) -> Hooks {
        Hooks::POST_READ_CALL_HEADER
    }

    fn post_read_call_header(&self, call: &mut Incoming<'_>) -> Result<(), Status> {
        let secure = call.meta().get_str(SECURE).unwrap_or("no".into());
        let body = format!("{:?}", String::from_utf8_lossy(call.body()));
        let uri = call.uri();
        println!(
            "on the wire: {} bytes to {uri:.30}, secure: {secure}, body: {body:.12}",
            call.body().len()
        );
        Ok(())
    }
}

pub(crate) fn run() -> Outcome {
    let (old_key, new_key) = ([1; 32], [2; 32]);
    let mut routes = Router::new();
    routes.call("greet", |ctx, name: String| {
        Ok(format!(
            "{}, {name}",
            ctx.query("greeting").unwrap_or_default()
        ))
    });
    // It encrypts with the new key, and still takes the old one.
    let secure = Secure::new("new", new_key)?.accept_key("old", old_key)?;
    let server = Peer::builder()
        .listen("tcp://127.0.0.1:0")
        .routes(routes)
        .plugin(Show)
        .plugin(secure)
        .start()?;

    let dial = |secure: Secure| -> Outcome {
        let client = Peer::builder().reactors(1).plugin(secure).start()?;
        let session = client.dial(&server.local_addrs()[0])?;
        let greet = || session.call::<_, String>("/greet?greeting=hello", "ann");
        println!("encrypted: {}", greet().meta(SECURE, "true").wait()?);
        let plain_reply = greet().meta(SECURE, "true").meta(ACCEPT, "false");
        println!("its reply is not: {}", plain_reply.wait()?);
        println!("plain: {}", greet().wait()?);
        Ok(())
    };
    dial(Secure::new("old", old_key)?)?;
    dial(Secure::new("new", new_key)?)?;
    if let Err(error) = dial(Secure::new("new", [3; 32])?) {
        println!("another key: {error}");
    }
    Ok(())
}
