//! The verbs of a handler that concern nodes.

use crate::cluster::Error;
use crate::cluster::codec::EncodeBody;
use crate::cluster::node::context::Request;

/// # Nodes
impl Request<'_> {
    /// Sends a packet to a node that has the route: to that of the user if the route is stateful, else to one by the
    /// [policy](crate::cluster::node::NodeBuilder::dispatch). `uid` may be 0 if no user is concerned.
    ///
    /// # Errors
    ///
    /// Returns [`Error::NotFoundRoute`] if no node has the route, [`Error::NotFoundEndpoint`] if none takes packets,
    /// [`Error::NotFoundUserLocation`] if it is known that the user is on no node, and those of [`push`](Self::push).
    pub fn deliver(
        &mut self,
        route: i32,
        uid: i64,
        value: &(impl EncodeBody + ?Sized),
    ) -> Result<(), Error> {
        self.core
            .with_plain_packet((route, 0), value, |core, packet| {
                core.deliver(route, uid, packet)
            })
    }

    /// Sends a packet to a node. If that does not have the route, it drops the packet, and tells this node, which counts it as
    /// `packets_rejected` and warns. A node of due tells nothing.
    ///
    /// # Errors
    ///
    /// Returns [`Error::NotFoundEndpoint`] if no such node is registered, and those of [`push`](Self::push).
    pub fn deliver_to(
        &mut self,
        nid: &str,
        route: i32,
        uid: i64,
        value: &(impl EncodeBody + ?Sized),
    ) -> Result<(), Error> {
        self.core
            .with_plain_packet((route, 0), value, |core, packet| {
                core.deliver_to(nid, uid, packet)
            })
    }

    /// Sends a packet to this node, whose own route takes it. An actor reaches the handlers of its node that way.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Busy`] if too many such packets wait, [`Error::Codec`] if the value cannot be encoded, and
    /// [`Error::TooLarge`] if its bytes are more than a packet has room for.
    pub fn deliver_here(
        &mut self,
        route: i32,
        uid: i64,
        value: &(impl EncodeBody + ?Sized),
    ) -> Result<(), Error> {
        self.core
            .with_plain_packet((route, 0), value, |core, packet| {
                core.deliver_here(uid, packet)
            })
    }
}
