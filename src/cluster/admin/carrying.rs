//! The calls, carried out. It may block: each is on a thread of its own.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::answer::Answer;
use super::call::{Broadcast, Call, Receivers};
use super::links::{Links, Order, Told};
use crate::cluster::drpc::{Code, Scope};
use crate::cluster::locator::Locator;
use crate::cluster::mesh::{MeshClient, STATE, Target};
use crate::cluster::packet::{Packet, PacketOptions};
use crate::cluster::registry::{Directory, Instance, ServiceEndpoint};
use crate::cluster::{Error, Kind, Monitor, State};
use crate::http::StatusCode;
use crate::metrics::{CONTENT_TYPE, Exposition};

/// The parts that the calls need.
pub(super) struct Desk {
    pub(super) directory: Directory,
    pub(super) locator: Arc<dyn Locator>,
    pub(super) monitor: Monitor,
    pub(super) packet: PacketOptions,
    pub(super) links: Links,
    /// Calls meshes, if there is a secret, without which they take no orders.
    pub(super) meshes: Option<MeshClient>,
}

/// The time for which the registry may be lost before the process is not ready any more.
const LOST: Duration = Duration::from_secs(10);

impl Desk {
    /// Carries out a call of this client.
    pub(super) fn carry_out(&self, call: &Call, peer: &str) -> Answer {
        let answer = self.act(call).unwrap_or_else(|error| refusal(&error));
        if let Call::SetState { .. } | Call::Kick { .. } | Call::Broadcast(_) = call {
            let status = answer.status.as_u16();
            log::info!(target: "epicycle::cluster", "{peer}: {call}: {status}");
        }
        answer
    }

    /// Answers what a probe asks, which needs no other server and no worker: also while all of them are busy.
    pub(super) fn answer_probe(&self, call: &Call) -> Option<Answer> {
        match call {
            Call::Health => Some(Answer::json(StatusCode::OK, &json!({"status": "ok"}))),
            Call::Ready => Some(self.readiness()),
            _ => None,
        }
    }

    fn act(&self, call: &Call) -> Result<Answer, Error> {
        let ok = |value: Value| Ok(Answer::json(StatusCode::OK, &value));
        match call {
            Call::Health | Call::Ready => Err(Error::IllegalRequest {
                what: "a probe is answered at once",
            }),
            Call::Instances => Ok(self.instances()),
            Call::Metrics => Ok(self.metrics()),
            Call::SetState { id, state } => {
                if !self.set_state(id, *state)? {
                    let problem = format!("no gate, node or mesh {id:?} is registered");
                    return Ok(Answer::problem(StatusCode::NOT_FOUND, &problem));
                }
                ok(json!({"id": id, "state": state}))
            }
            Call::User(uid) => ok(self.user(*uid)?),
            Call::Kick { uid, force } => {
                let gate = self.gate_of(*uid)?;
                let order = Order::Disconnect {
                    uid: *uid,
                    force: *force,
                };
                done(&self.links.ask(&gate, order)?, *uid)?;
                ok(json!({"uid": uid, "gate": gate}))
            }
            Call::Broadcast(broadcast) => self.broadcast(broadcast),
        }
    }

    fn readiness(&self) -> Answer {
        let age = self.directory.age();
        let parts = self.monitor.parts();
        let takes_work = |state: Option<State>| matches!(state, Some(State::Work | State::Busy));
        let leaving = parts.iter().filter(|part| !takes_work(part.state()));
        let leaving: Vec<&str> = leaving.map(|part| part.identity().1).collect();
        let taken = parts.iter().filter(|part| part.taken_by().is_some());
        let taken: Vec<&str> = taken.map(|part| part.identity().1).collect();
        let is_ready = leaving.is_empty() && taken.is_empty() && age < LOST;
        let status = match is_ready {
            true => StatusCode::OK,
            false => StatusCode::SERVICE_UNAVAILABLE,
        };
        let told = json!({
            "ready": is_ready,
            "leaving": leaving,
            "taken": taken,
            "registry_age_ms": millis(age),
        });
        Answer::json(status, &told)
    }

    fn instances(&self) -> Answer {
        let kinds = [Kind::Gate, Kind::Node, Kind::Mesh].into_iter();
        let instances: Vec<Arc<Instance>> = kinds
            .flat_map(|kind| self.directory.list(kind.as_str()))
            .collect();
        let instances: Vec<&Instance> = instances.iter().map(|instance| &**instance).collect();
        let age = millis(self.directory.age());
        let told = json!({"instances": instances, "registry_age_ms": age});
        Answer::json(StatusCode::OK, &told)
    }

    fn metrics(&self) -> Answer {
        let mut exposition = Exposition::new();
        self.monitor.expose(&mut exposition);
        self.links.expose(&mut exposition);
        let age = self.directory.age().as_secs_f64();
        let help = "The time for which the registry has not been reached, or 0.";
        exposition.gauge("epicycle_cluster_registry_age_seconds", help, &[], age);
        let mut text = String::new();
        exposition.write(&mut text);
        Answer {
            status: StatusCode::OK,
            content_type: CONTENT_TYPE,
            body: text.into(),
            allow: None,
        }
    }

    /// Sets the state of a server. Returns false if it is not registered.
    fn set_state(&self, id: &str, state: State) -> Result<bool, Error> {
        let has_links = |kind: Kind| self.directory.get(kind.as_str(), id).is_some();
        if let Some(mesh) = self.directory.get(Kind::Mesh.as_str(), id) {
            return self.set_mesh(&mesh, state).map(|()| true);
        }
        if !has_links(Kind::Gate) && !has_links(Kind::Node) {
            return Ok(false);
        }
        match self.links.ask(id, Order::SetState(state))?.code {
            Code::Done => Ok(true),
            code => Err(refused(id, code)),
        }
    }

    fn set_mesh(&self, mesh: &Instance, state: State) -> Result<(), Error> {
        let Some(client) = &self.meshes else {
            let problem = "a mesh takes orders of those who have its secret; give both the secret of the cluster";
            return Err(Error::argument("id", problem));
        };
        // Whatever its state is.
        let endpoint: ServiceEndpoint = mesh.endpoint.parse()?;
        let address = endpoint.address().to_owned();
        let target = match endpoint.is_secure() {
            true => Target::SecureAddress(address),
            false => Target::Address(address),
        };
        let mesh = client.service(&target.to_string())?;
        mesh.call(STATE, &state).wait()
    }

    fn user(&self, uid: i64) -> Result<Value, Error> {
        let gate = self.locator.locate_gate(uid)?;
        let nodes = self.locator.locate_nodes(uid)?;
        if gate.is_none() && nodes.is_empty() {
            return Err(Error::NotFoundUserLocation { uid });
        }
        let nodes: serde_json::Map<String, Value> = nodes
            .into_iter()
            .map(|(alias, id)| (alias, id.into()))
            .collect();
        let mut told = json!({"uid": uid, "gate": gate, "nodes": nodes});
        if let Some(gate) = gate {
            match self.links.ask(&gate, Order::GetAddr(uid)) {
                Ok(answer) => {
                    told["online"] = (answer.code == Code::Done).into();
                    told["addr"] = answer.addr.into();
                }
                // What is known is told nevertheless.
                Err(error) => told["problem"] = error.to_string().into(),
            }
        }
        Ok(told)
    }

    fn gate_of(&self, uid: i64) -> Result<String, Error> {
        let gate = self.locator.locate_gate(uid)?;
        gate.ok_or(Error::NotFoundUserLocation { uid })
    }

    fn broadcast(&self, broadcast: &Broadcast) -> Result<Answer, Error> {
        let data = serde_json::to_vec(&broadcast.data);
        let data = data.map_err(|error| Error::Codec(Arc::new(error)))?;
        let packet = self.packet.encode(&Packet {
            route: broadcast.route,
            seq: 0,
            data: &data,
        })?;
        let scope = match broadcast.to {
            Receivers::Users => Scope::User,
            Receivers::Connections => Scope::Conn,
        };
        let gates = self.directory.list(Kind::Gate.as_str());
        let gates = gates.iter().filter(|gate| gate.state != State::Shut);
        let asked = gates.map(|gate| {
            let packet = packet.clone().into_bytes();
            let order = Order::Broadcast { scope, packet };
            (gate.id.clone(), self.links.begin(&gate.id, order))
        });
        let asked: Vec<_> = asked.collect();
        let (mut receivers, mut failed) = (0, serde_json::Map::new());
        for (gate, pending) in asked {
            match pending.wait() {
                Ok(told) if told.code == Code::Done => receivers += told.total,
                Ok(told) => drop(failed.insert(gate, refused("it", told.code).to_string().into())),
                Err(error) => drop(failed.insert(gate, error.to_string().into())),
            }
        }
        let status = match failed.is_empty() {
            true => StatusCode::OK,
            false => StatusCode::BAD_GATEWAY,
        };
        let told = json!({"receivers": receivers, "failed": failed});
        Ok(Answer::json(status, &told))
    }
}

/// Returns the error of a request about a user that was not carried out.
fn done(told: &Told, uid: i64) -> Result<(), Error> {
    match told.code {
        Code::Done => Ok(()),
        Code::NotFound => Err(Error::NotFoundUserLocation { uid }),
        code => Err(refused(&format!("the gate of the user {uid}"), code)),
    }
}

fn refused(who: &str, code: Code) -> Error {
    let reason = format!("{who} answered with code {}", code.code());
    Error::Refused { reason }
}

fn refusal(error: &Error) -> Answer {
    let status = match error {
        Error::NotFoundEndpoint { .. } | Error::NotFoundUserLocation { .. } => {
            StatusCode::NOT_FOUND
        }
        Error::InvalidArgument { .. }
        | Error::TooLarge { .. }
        | Error::RouteOverflow { .. }
        | Error::Codec(_) => StatusCode::BAD_REQUEST,
        Error::Timeout { .. } => StatusCode::GATEWAY_TIMEOUT,
        Error::Busy { .. } => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::BAD_GATEWAY,
    };
    Answer::problem(status, &error.to_string())
}

fn millis(time: Duration) -> u64 {
    time.as_millis().try_into().unwrap_or(u64::MAX)
}
