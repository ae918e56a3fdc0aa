//! Handlers on encoded bodies: for proxies, and for the least cost. Nothing is decoded or copied.

use bytes::Bytes;
use epicycle::rpc::wire::Raw;
use epicycle::rpc::{Codec, Peer, Router};

use crate::Outcome;

pub(crate) fn run() -> Outcome {
    let mut routes = Router::new();
    // The body lies in the receive buffer, and the reply is written into the send buffer.
    routes.call_bytes("reverse", |_ctx, body, out| {
        out.extend(body.iter().rev());
        Ok(())
    });
    routes.push_bytes("log", |ctx, body| {
        println!("{} pushed {} bytes", ctx.session().id(), body.len());
        Ok(())
    });
    let server = Peer::builder()
        .listen("tcp://127.0.0.1:0")
        .routes(routes)
        .start()?;

    let client = Peer::builder()
        .reactors(1)
        .body_codec(Codec::PLAIN)
        .start()?;
    let session = client.dial(&server.local_addrs()[0])?;
    session.push("/log", &Raw(Bytes::from_static(&[0; 1000])))?;
    let Raw(reversed) = session
        .call("/reverse", &Raw(Bytes::from_static(b"stressed")))
        .wait()?;
    println!("reversed: {}", reversed.escape_ascii());
    Ok(())
}
