//! The key by which a pool knows connections that can serve the same requests.

use std::hash::{Hash, Hasher};
use std::net::SocketAddr;

use crate::balance::NodeId;
use crate::engine::slots::ConnId;

/// The connections that a request can use.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Destination {
    pub(super) node: NodeId,
    /// The client, if the connection can serve no other one: it is joined with the client's, or begins with a header of the PROXY
    /// protocol.
    pub(super) client: Option<NamedClient>,
}

/// A client that has connections to the node of its own.
#[derive(Clone, Copy, Debug)]
pub(super) struct NamedClient {
    pub(super) id: ConnId,
    /// Its address, and that of the listener. `None` for a client without IP addresses, and if no header tells them.
    pub(super) addrs: Option<(SocketAddr, SocketAddr)>,
    /// True if the connection is joined with the client's, so that it can serve nobody else.
    pub(super) is_joined: bool,
}

impl Destination {
    /// Returns true if its connections are joined with those of clients.
    pub(super) fn is_joined(&self) -> bool {
        self.client.is_some_and(|client| client.is_joined)
    }
}

impl PartialEq for NamedClient {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for NamedClient {}

impl Hash for NamedClient {
    fn hash<S: Hasher>(&self, state: &mut S) {
        self.id.hash(state);
    }
}
