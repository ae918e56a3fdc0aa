//! The way from a handler to the rest of the cluster.

use std::fmt;
use std::sync::Arc;

use crate::Bytes;
use crate::cluster::admin::links::{Links, Order};
use crate::cluster::codec::{Codec, EncodeBody};
use crate::cluster::drpc::{Code, Scope};
use crate::cluster::locator::Locator;
use crate::cluster::mesh::MeshClient;
use crate::cluster::packet::{Packet, PacketOptions};
use crate::cluster::registry::Directory;
use crate::cluster::{Error, Kind, State};

/// Pushes to users, finds them, and calls meshes. Its calls wait for other servers, so it is for the threads of handlers.
pub struct HttpProxy {
    pub(super) directory: Directory,
    pub(super) links: Links,
    pub(super) locator: Arc<dyn Locator>,
    pub(super) packet: PacketOptions,
    pub(super) codec: Codec,
    pub(super) mesh: Option<MeshClient>,
}

impl HttpProxy {
    /// Returns the id of the gate at which a user is.
    ///
    /// # Errors
    ///
    /// That of the locator.
    pub fn locate_gate(&self, uid: i64) -> Result<Option<String>, Error> {
        Ok(self.locator.locate_gate(uid)?.map(|gate| gate.to_string()))
    }

    /// Returns the id of the node of this name to which a user is bound.
    ///
    /// # Errors
    ///
    /// That of the locator.
    pub fn locate_node(&self, uid: i64, name: &str) -> Result<Option<String>, Error> {
        let nodes = self.locator.locate_nodes(uid)?;
        let node = nodes.into_iter().find(|(alias, _)| *name == **alias);
        Ok(node.map(|(_, id)| id.to_string()))
    }

    /// Pushes to a user, and waits until the gate has taken it.
    ///
    /// # Errors
    ///
    /// [`Error::NotFoundUserLocation`] if the user is at no gate, and the errors of the codec, the locator and the gate.
    pub fn push(
        &self,
        uid: i64,
        route: i32,
        value: &(impl EncodeBody + ?Sized),
    ) -> Result<(), Error> {
        let packet = self.encode(route, value)?;
        self.ask_gate_of(uid, Order::Push { uid, packet })
    }

    /// Closes the connection of a user: after what is queued for it, or at once.
    ///
    /// # Errors
    ///
    /// As [`push`](Self::push).
    pub fn kick(&self, uid: i64, force: bool) -> Result<(), Error> {
        self.ask_gate_of(uid, Order::Disconnect { uid, force })
    }

    /// Pushes to all users of all gates. Returns their number.
    ///
    /// # Errors
    ///
    /// That of the codec, and that of the first gate that has failed; the others have pushed.
    pub fn broadcast(&self, route: i32, value: &(impl EncodeBody + ?Sized)) -> Result<u64, Error> {
        let packet = self.encode(route, value)?;
        let gates = self.directory.list(Kind::Gate.as_str());
        let gates = gates.iter().filter(|gate| gate.state != State::Shut);
        let asked: Vec<_> = gates
            .map(|gate| {
                let (scope, packet) = (Scope::User, packet.clone());
                self.links
                    .begin(&gate.id, Order::Broadcast { scope, packet })
            })
            .collect();
        let mut total = Ok(0);
        for pending in asked {
            let told = pending.wait();
            total = total.and_then(|total: u64| Ok(total + told?.total));
        }
        total
    }

    /// Returns the client of the meshes.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] if the server has none.
    pub fn mesh(&self) -> Result<&MeshClient, Error> {
        let problem = "there is none; set it by `HttpBuilder::mesh_client`";
        (self.mesh.as_ref()).ok_or_else(|| Error::argument("mesh_client", problem))
    }

    fn encode(&self, route: i32, value: &(impl EncodeBody + ?Sized)) -> Result<Bytes, Error> {
        let data = self.codec.encode(value)?;
        let data = &data;
        let packet = self.packet.encode(&Packet {
            route,
            seq: 0,
            data,
        })?;
        Ok(packet.into_bytes())
    }

    fn ask_gate_of(&self, uid: i64, order: Order) -> Result<(), Error> {
        let gate = self.locator.locate_gate(uid)?;
        let gate = gate.ok_or(Error::NotFoundUserLocation { uid })?;
        match self.links.ask(&gate, order)?.code {
            Code::Done => Ok(()),
            Code::NotFound => Err(Error::NotFoundUserLocation { uid }),
            code => Err(Error::Refused {
                reason: format!("the gate {gate} answered with code {}", code.code()),
            }),
        }
    }
}

impl fmt::Debug for HttpProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpProxy").finish_non_exhaustive()
    }
}
