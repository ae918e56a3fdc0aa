//! The proof of the cluster's secret, before a session of rpc opens: both sides prove that they have it, and it is never sent.

use std::borrow::Cow;

use crate::cluster::Kind;
use crate::cluster::drpc::{MAC, NONCE, Party, Role, Secret};
use crate::rpc::wire::{Codec, Kind as MessageKind, Message, Status, code};
use crate::rpc::{Hooks, Next, Plugin, Session};

/// The plugin of one side.
///
/// | The client sends | The mesh answers |
/// |---|---|
/// | a CALL of `/cluster/hello` with its nonce | with its nonce and its proof |
/// | a CALL of `/cluster/prove` with its proof | with nothing |
pub(super) struct Proves {
    secret: Secret,
    /// The role of this side.
    role: Role,
}

const HELLO: &str = "/cluster/hello";
const PROVE: &str = "/cluster/prove";

/// The name of a session's nonces, which it keeps until it is open.
const NONCES: &str = "cluster-secret";

/// The nonces of a session, as far as they are known.
#[derive(Clone, Copy)]
struct Nonces {
    client: [u8; NONCE],
    mesh: Option<[u8; NONCE]>,
}

impl Proves {
    pub(super) fn new(secret: Secret, role: Role) -> Self {
        Self { secret, role }
    }

    fn mac(&self, role: Role, client: [u8; NONCE], mesh: [u8; NONCE]) -> [u8; MAC] {
        let (dialler, listener) = parties(client, mesh);
        self.secret.mac(role, &dialler, &listener)
    }

    fn check(
        &self,
        mac: &[u8],
        role: Role,
        client: [u8; NONCE],
        mesh: [u8; NONCE],
    ) -> Result<(), Status> {
        let (dialler, listener) = parties(client, mesh);
        let is_right = mac
            .try_into()
            .is_ok_and(|mac| self.secret.verify(mac, role, &dialler, &listener));
        match is_right {
            true => Ok(()),
            false => Err(refused(
                "the other side does not have the secret of the cluster",
            )),
        }
    }

    /// Takes a message of a client.
    fn serve(&self, session: &Session, message: &Message<'_>) -> Result<Next, Status> {
        let known = session.swap().get::<Nonces>(NONCES);
        if message.kind != MessageKind::Call {
            return Err(refused("the secret of the cluster has to be proved first"));
        }
        let (next, body) = match (&*message.uri, known.as_deref()) {
            (uri, None) if uri == HELLO.as_bytes() => {
                let client = message.body.as_ref().try_into();
                let client = client.map_err(|_| refused("the nonce has another length"))?;
                let mesh = rand::random();
                let nonces = Nonces {
                    client,
                    mesh: Some(mesh),
                };
                session.swap().set(NONCES, nonces);
                let mac = self.mac(Role::Listener, client, mesh);
                (Next::Await, [&mesh[..], &mac].concat())
            }
            (
                uri,
                Some(&Nonces {
                    client,
                    mesh: Some(mesh),
                }),
            ) if uri == PROVE.as_bytes() => {
                self.check(&message.body, Role::Dialler, client, mesh)?;
                session.swap().remove(NONCES);
                (Next::Go, Vec::new())
            }
            _ => return Err(refused("the secret of the cluster has to be proved first")),
        };
        let mut reply = Message::new(MessageKind::Reply);
        reply.seq = Cow::Owned(message.seq.to_vec());
        reply.uri = Cow::Owned(message.uri.to_vec());
        reply.codec = Codec::PLAIN;
        reply.body = body.into();
        session.write(reply)?;
        Ok(next)
    }

    /// Takes an answer of a mesh.
    fn go_on(&self, session: &Session, message: &Message<'_>) -> Result<Next, Status> {
        let known = session.swap().get::<Nonces>(NONCES);
        let known = known.filter(|_| message.kind == MessageKind::Reply);
        let Some(known) = known.as_deref() else {
            return Err(refused("the mesh does not prove the secret of the cluster"));
        };
        if let Some(status) = message.status() {
            return Err(match status.code {
                code::NOT_FOUND => {
                    refused("the mesh has no secret of a cluster; give it the one of this client")
                }
                _ => status,
            });
        }
        if known.mesh.is_some() {
            session.swap().remove(NONCES);
            return Ok(Next::Go);
        }
        let Some((mesh, mac)) = message.body.split_first_chunk::<NONCE>() else {
            return Err(refused("the answer of the mesh is too short"));
        };
        self.check(mac, Role::Listener, known.client, *mesh)?;
        let nonces = Nonces {
            mesh: Some(*mesh),
            ..*known
        };
        session.swap().set(NONCES, nonces);
        let mac = self.mac(Role::Dialler, known.client, *mesh);
        session.write(call(PROVE, &mac))?;
        Ok(Next::Await)
    }
}

impl Plugin for Proves {
    fn name(&self) -> &str {
        "cluster-secret"
    }

    fn hooks(&self) -> Hooks {
        match self.role {
            Role::Dialler => Hooks::POST_DIAL,
            Role::Listener => Hooks::POST_ACCEPT,
        }
    }

    fn post_dial(&self, session: &Session) -> Result<Next, Status> {
        let client: [u8; NONCE] = rand::random();
        session.swap().set(NONCES, Nonces { client, mesh: None });
        session.write(call(HELLO, &client))?;
        Ok(Next::Await)
    }

    fn post_accept(&self, _: &Session) -> Result<Next, Status> {
        Ok(Next::Await)
    }

    fn early(&self, session: &Session, message: &Message<'_>) -> Result<Next, Status> {
        match self.role {
            Role::Dialler => self.go_on(session, message),
            Role::Listener => self.serve(session, message),
        }
    }
}

fn call(uri: &'static str, body: &[u8]) -> Message<'static> {
    let mut call = Message::call(uri);
    call.codec = Codec::PLAIN;
    call.body = Cow::Owned(body.to_vec());
    call
}

/// Returns both sides. No link between servers has such parties, so that no proof of a link is one here.
fn parties(client: [u8; NONCE], mesh: [u8; NONCE]) -> (Party<'static>, Party<'static>) {
    let party = |id, nonce| Party {
        kind: Kind::Mesh.code(),
        id,
        nonce,
    };
    (party("client", client), party("mesh", mesh))
}

fn refused(reason: &'static str) -> Status {
    Status::new(code::UNAUTHORIZED, reason)
}
