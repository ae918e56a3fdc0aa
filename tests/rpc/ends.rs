//! Peers for tests, with one reactor each.

use epicycle::rpc::{Peer, PeerBuilder, Session, Status};

pub(crate) fn start(builder: PeerBuilder) -> Peer {
    builder.reactors(1).start().expect("starts")
}

/// The options of a peer that listens.
pub(crate) fn listening() -> PeerBuilder {
    Peer::builder().listen("tcp4://127.0.0.1:0")
}

pub(crate) fn try_dial(client: &Peer, server: &Peer) -> Result<Session, Status> {
    client.dial(&server.local_addrs()[0])
}

pub(crate) fn dial(client: &Peer, server: &Peer) -> Session {
    try_dial(client, server).expect("connects")
}
