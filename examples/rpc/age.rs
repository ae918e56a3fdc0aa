//! Ages: a session closes at its age, once the calls under way have ended; a handler has a time to reply.

use std::thread;
use std::time::{Duration, Instant};

use epicycle::rpc::{Peer, Responder, Router};

use crate::Outcome;

pub(crate) fn run() -> Outcome {
    let mut routes = Router::new();
    routes.call_blocking("nap", |_ctx, millis: u64| {
        thread::sleep(Duration::from_millis(millis));
        Ok(format!("slept for {millis} ms"))
    });
    routes.call_later("forget", |_ctx, _: (), responder: Responder<()>| {
        // Nobody replies in time.
        thread::spawn(move || {
            thread::sleep(Duration::from_secs(1));
            drop(responder);
        });
    });
    let server = Peer::builder()
        .listen("tcp://127.0.0.1:0")
        .routes(routes)
        .session_age(Duration::from_secs(1))
        .handle_timeout(Duration::from_millis(300))
        .start()?;

    let client = Peer::builder().reactors(1).start()?;
    let session = client.dial(&server.local_addrs()[0])?;
    let opened = Instant::now();
    if let Err(status) = session.call::<_, ()>("/forget", &()).wait() {
        println!("a handler that does not reply in time: {status}");
    }
    // The age may be up to a tenth shorter, so that sessions that opened together do not close together.
    let mut calls = 0;
    let refused = loop {
        match session.call::<_, String>("/nap", &100).wait() {
            Ok(_) => calls += 1,
            Err(status) => break status,
        }
    };
    println!("{calls} calls were answered; then: {refused}");
    session.wait_closed(Duration::from_secs(5));
    println!("the session was closed after {:.1?}", opened.elapsed());
    Ok(())
}
