//! Log lines of messages, with their contents and times. Slow calls are warnings.

use std::thread;
use std::time::Duration;

use epicycle::rpc::{Peer, PeerBuilder, Router};

use crate::Outcome;

/// The log options that both peers have.
fn logging(peer: PeerBuilder) -> PeerBuilder {
    peer.log_details()
        .slow(Duration::from_millis(50))
        // Secrets are left out of the log here: the password, and the token in the reply.
        .redact(|logged| {
            if logged.path == "/login" {
                logged.body = "***".to_owned();
            }
        })
}

pub(crate) fn run() -> Outcome {
    let mut routes = Router::new();
    routes.call("add", |_ctx, numbers: Vec<i64>| {
        Ok(numbers.iter().sum::<i64>())
    });
    routes.call("login", |_ctx, _password: String| Ok("token"));
    routes.call_blocking("nap", |_ctx, _: ()| {
        thread::sleep(Duration::from_millis(60));
        Ok(())
    });
    routes.push("note", |_ctx, _: String| Ok(()));
    let server = Peer::builder().listen("tcp://127.0.0.1:0").routes(routes);
    let server = logging(server).start()?;

    let client = logging(Peer::builder()).reactors(1).start()?;
    let session = client.dial(&server.local_addrs()[0])?;
    session.push("/note", "hello")?;
    let sum: i64 = session.call("/add", &[1, 2]).meta("author", "me").wait()?;
    println!("the sum is {sum}");
    session.call::<_, String>("/login", "12345").wait()?;
    session.call::<_, ()>("/nap", &()).wait()?;
    // The failure is in the log line.
    let nowhere = session.call::<_, ()>("/nowhere", &()).wait();
    println!("a call to nowhere: {}", nowhere.expect_err("is nowhere"));
    Ok(())
}
