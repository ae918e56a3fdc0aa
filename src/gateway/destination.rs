//! The key by which a pool knows connections that can serve the same requests.

use std::hash::{Hash, Hasher};
use std::net::SocketAddr;

use crate::balance::NodeId;
use crate::engine::slots::ConnId;

/// The connections that a request can use.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Destination {
    pub(super) node: NodeId,
    /// The client, if a header of the PROXY protocol names it to the node.
    pub(super) client: Option<NamedClient>,
}

/// A client whose addresses are told to the node.
#[derive(Clone, Copy, Debug)]
pub(super) struct NamedClient {
    pub(super) id: ConnId,
    /// Its address, and that of the listener. `None` for a client without IP addresses.
    pub(super) addrs: Option<(SocketAddr, SocketAddr)>,
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
