//! Messages before a session opens: here the client says its name, and the server welcomes or refuses it.
//!
//! A reactor cannot wait, so a plugin asks for the next message and is called with it.

use epicycle::rpc::wire::{Kind, Message};
use epicycle::rpc::{Codec, Hooks, Next, Peer, Plugin, Router, Session, Status, code};

use crate::Outcome;

/// The plugin of the side that accepts.
struct Welcome;

impl Plugin for Welcome {
    fn name(&self) -> &str {
        "welcome"
    }

    fn hooks(&self) -> Hooks {
        Hooks::POST_ACCEPT
    }

    fn post_accept(&self, _session: &Session) -> Result<Next, Status> {
        Ok(Next::Await)
    }

    fn early(&self, session: &Session, message: &Message<'_>) -> Result<Next, Status> {
        let name = String::from_utf8_lossy(&message.body);
        if message.kind != Kind::Push || &*message.uri != b"/hello" || name.is_empty() {
            return Err(Status::new(code::UNAUTHORIZED, "say hello first"));
        }
        session.set_id(&*name);
        session.swap().set("greeting", format!("welcome, {name}"));
        session.write(text("/welcome", "come in"))?;
        Ok(Next::Go)
    }
}

/// The plugin of the side that dials.
struct Hello(&'static str);

impl Plugin for Hello {
    fn name(&self) -> &str {
        "hello"
    }

    fn hooks(&self) -> Hooks {
        Hooks::POST_DIAL
    }

    fn post_dial(&self, session: &Session) -> Result<Next, Status> {
        session.write(text("/hello", self.0))?;
        Ok(Next::Await)
    }

    fn early(&self, _session: &Session, message: &Message<'_>) -> Result<Next, Status> {
        println!(
            "the server says: {}",
            String::from_utf8_lossy(&message.body)
        );
        Ok(Next::Go)
    }
}

fn text(uri: &'static str, body: &str) -> Message<'static> {
    let mut push = Message::new(Kind::Push);
    push.uri = uri.as_bytes().into();
    push.codec = Codec::PLAIN;
    push.body = body.as_bytes().to_vec().into();
    push
}

pub(crate) fn run() -> Outcome {
    let mut routes = Router::new();
    routes.call("greeting", |ctx, _: ()| {
        let greeting = ctx.swap().get::<String>("greeting");
        Ok(greeting.map(|greeting| greeting.to_string()))
    });
    let server = Peer::builder()
        .listen("tcp://127.0.0.1:0")
        .routes(routes)
        .plugin(Welcome)
        .start()?;

    let ann = Peer::builder().reactors(1).plugin(Hello("ann")).start()?;
    let session = ann.dial(&server.local_addrs()[0])?;
    let greeting: Option<String> = session.call("/greeting", &()).wait()?;
    println!("{}", greeting.unwrap_or_default());
    println!(
        "the server knows: {:?}",
        server.session("ann").map(|session| session.id())
    );

    let nobody = Peer::builder().reactors(1).plugin(Hello("")).start()?;
    if let Err(status) = nobody.dial(&server.local_addrs()[0]) {
        println!("nobody is refused: {status}");
    }
    Ok(())
}
