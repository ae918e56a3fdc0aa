//! The key by which a pool knows connections that can serve the same requests.

use std::hash::{BuildHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use super::egress::{Guard, Target};
use crate::balance::NodeId;
use crate::engine::slots::ConnId;

/// The connections that a request can use.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Destination {
    /// The node. It is [`NodeId::NONE`] if a client names the target.
    pub(super) node: NodeId,
    /// The client, if the connection can serve no other one: it is joined with the client's, or begins with a header of the PROXY
    /// protocol.
    pub(super) client: Option<NamedClient>,
    /// The target, if the client of a forward listener names it.
    pub(super) target: Option<NamedTarget>,
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

/// A target that the client of a forward listener names.
#[derive(Clone, Debug)]
pub(super) struct NamedTarget {
    pub(super) target: Rc<Target>,
    /// The policy by which it was allowed.
    pub(super) guard: Arc<Guard>,
    /// A keyed hash of it. The tables of connections have a hasher that is safe only for keys that no client chooses.
    hash: u64,
}

impl Destination {
    pub(super) fn target(target: NamedTarget) -> Self {
        Self {
            node: NodeId::NONE,
            client: None,
            target: Some(target),
        }
    }

    /// Returns the key of the connections to a node that only this client can use.
    pub(super) fn of_client(node: NodeId, id: ConnId) -> Self {
        Self {
            node,
            client: Some(NamedClient {
                id,
                addrs: None,
                is_joined: true,
            }),
            target: None,
        }
    }

    /// Returns true if a client has named it, or is the only one that can use its connections. So there may be very many.
    pub(super) fn is_of_clients(&self) -> bool {
        self.client.is_some() || self.target.is_some()
    }

    /// Returns true if its connections are joined with those of clients.
    pub(super) fn is_joined(&self) -> bool {
        self.client.is_some_and(|client| client.is_joined)
    }
}

impl NamedTarget {
    pub(super) fn new(target: Target, guard: Arc<Guard>, hasher: &impl BuildHasher) -> Self {
        Self {
            hash: hasher.hash_one(&target),
            target: Rc::new(target),
            guard,
        }
    }
}

impl PartialEq for NamedTarget {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash && self.target == other.target
    }
}

impl Eq for NamedTarget {}

impl Hash for NamedTarget {
    fn hash<S: Hasher>(&self, state: &mut S) {
        self.hash.hash(state);
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
