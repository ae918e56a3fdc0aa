//! Servers of HTTP in a cluster, whose handlers run on other threads.

use std::net::SocketAddr;
use std::time::Duration;

use crate::cluster::Error;
use crate::engine::conn::limits::OutboundPolicy;
use crate::engine::handler::EventHandler;
use crate::engine::listen::Listen;
use crate::engine::server::{Running, Server};

/// Returns a server with the options that all of them have.
pub(in crate::cluster) fn server(listen: Listen) -> Server {
    Server::bind(listen)
        .reactors(1)
        .handshake_timeout(Duration::from_secs(10))
        .answer_timeout(Duration::from_secs(60))
        // A whole answer at once; the next request is read when the client has taken it.
        .outbound_policy(OutboundPolicy::Drop)
}

/// Starts a server. Returns its address too.
pub(in crate::cluster) fn start<H: EventHandler>(
    server: Server,
    make: impl Fn(usize) -> H + Send + Sync + 'static,
) -> Result<(Running<H>, SocketAddr), Error> {
    let running = server.start(make)?;
    let addr = running.local_addrs().first();
    let addr = addr.and_then(crate::Addr::as_socket_addr);
    let addr = addr.ok_or_else(|| Error::argument("listen", "use a tcp:// address"))?;
    Ok((running, addr))
}
