//! The calls of meshes over this crate's rpc.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::secret::Proves;
use super::transporter::{Channel, Done, MeshAddress, MeshRequest, MeshServer, Transporter};
use crate::addr::Addr;
use crate::cluster::Error;
use crate::cluster::codec::{self, Codec};
use crate::cluster::drpc::{Role, Secret};
use crate::engine::connect::Connect;
use crate::engine::listen::Listen;
use crate::metrics::{Expose, Exposition};
use crate::rpc::wire::{self, Raw, Status, code};
use crate::rpc::{MultiClient, MultiClientBuilder, Peer, PeerBuilder, Router};
#[cfg(feature = "tls")]
use crate::tls::{TlsClient, TlsServer};

/// Services and calls of rpc.
#[derive(Default)]
pub(super) struct RpcTransporter {
    pub(super) listen: Option<Listen>,
    pub(super) services: Vec<String>,
    pub(super) routes: Router,
    pub(super) changes: Vec<ChangePeer>,
    pub(super) spread: Option<Box<Spread>>,
    pub(super) secret: Option<Secret>,
    /// The time that a call usually has.
    pub(super) call_timeout: Duration,
    #[cfg(feature = "tls")]
    pub(super) tls_server: Option<TlsServer>,
    #[cfg(feature = "tls")]
    pub(super) tls_client: Option<TlsClient>,
    /// Makes the calls, if it is a client's.
    peer: Option<Peer>,
}

/// The time for which a call waits for an instance, at most.
const MAX_WAIT: Duration = Duration::from_secs(5);

/// Changes the options of a peer.
pub(super) type ChangePeer = Box<dyn FnOnce(PeerBuilder) -> PeerBuilder + Send + Sync>;
/// Changes the options of the client of one target.
pub(super) type Spread = dyn Fn(MultiClientBuilder) -> MultiClientBuilder + Send + Sync;

impl RpcTransporter {
    /// Starts the peer that makes calls.
    pub(super) fn start_client(&mut self) -> Result<(), Error> {
        let builder = self.change(Peer::builder().reactors(1));
        self.peer = Some(self.proving(builder, Role::Dialler).start()?);
        Ok(())
    }

    /// Makes a peer prove the secret, before anything else is done with a connection.
    fn proving(&self, builder: PeerBuilder, role: Role) -> PeerBuilder {
        match &self.secret {
            Some(secret) => builder.plugin(Proves::new(secret.clone(), role)),
            None => builder,
        }
    }

    fn change(&mut self, builder: PeerBuilder) -> PeerBuilder {
        let changes = std::mem::take(&mut self.changes).into_iter();
        changes.fold(builder, |builder, change| change(builder))
    }
}

impl Transporter for RpcTransporter {
    fn scheme(&self) -> &str {
        "rpc"
    }

    fn services(&self) -> Vec<String> {
        self.services.clone()
    }

    fn serve(mut self: Box<Self>) -> Result<Box<dyn MeshServer>, Error> {
        let listen = self.listen.take();
        let listen = listen.unwrap_or_else(|| Listen::on("tcp://127.0.0.1:0"));
        #[cfg(not(feature = "tls"))]
        let is_secure = false;
        #[cfg(feature = "tls")]
        let (listen, is_secure) = match &self.tls_server {
            Some(tls) => (listen.tls(tls), true),
            None => (listen, false),
        };
        let routes = std::mem::take(&mut self.routes);
        let builder = Peer::builder().codecs(codec::of_rpc()).listen(listen);
        let builder = self.change(builder.routes(routes).count_time());
        let peer = self.proving(builder, Role::Listener).start()?;
        let addr = peer.local_addrs().first().and_then(Addr::as_socket_addr);
        let Some(addr) = addr else {
            let problem = "services are for tcp:// addresses";
            return Err(Error::argument("listen", problem));
        };
        Ok(Box::new(RpcServer {
            peer,
            addr,
            is_secure,
        }))
    }

    fn channel(&self) -> Result<Arc<dyn Channel>, Error> {
        let Some(peer) = &self.peer else {
            let problem = "it serves, and makes no calls";
            return Err(Error::argument("transporter", problem));
        };
        // A call that no instance takes ends before its time is over, and so with the cause.
        let max_wait = MAX_WAIT.min(self.call_timeout / 4 * 3);
        let mut options = MultiClient::builder(peer).max_wait(max_wait);
        if let Some(spread) = &self.spread {
            options = spread(options);
        }
        Ok(Arc::new(RpcChannel {
            client: Mutex::new(Err(Some(options))),
            secure: Mutex::default(),
            #[cfg(feature = "tls")]
            tls: self.tls_client.clone(),
        }))
    }
}

struct RpcServer {
    peer: Peer,
    addr: SocketAddr,
    is_secure: bool,
}

impl MeshServer for RpcServer {
    fn addr(&self) -> SocketAddr {
        self.addr
    }

    fn is_secure(&self) -> bool {
        self.is_secure
    }

    fn expose(&self, labels: &[(&str, &str)], to: &mut Exposition) {
        self.peer.stats().expose(labels, to);
    }

    fn shutdown(&self, deadline: Duration) {
        self.peer.shutdown_within(deadline);
    }
}

struct RpcChannel {
    /// The options until there are addresses.
    client: Mutex<Result<MultiClient, Option<MultiClientBuilder>>>,
    /// The addresses, with whether they want TLS.
    secure: Mutex<HashMap<String, bool>>,
    #[cfg(feature = "tls")]
    tls: Option<TlsClient>,
}

impl RpcChannel {
    /// Returns how to connect to an address, or `None` if it wants TLS, for which there are no options.
    fn connect(&self, address: &MeshAddress) -> Option<Connect> {
        let connect = Connect::to(format!("tcp://{}", address.address));
        if !address.secure {
            return Some(connect);
        }
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            return Some(connect.tls(tls));
        }
        log::warn!(
            target: "epicycle::cluster",
            "no calls go to {}, which wants TLS; set `MeshClientBuilder::tls`", address.address
        );
        None
    }
}

impl Channel for RpcChannel {
    fn set_addresses(&self, addresses: &[MeshAddress]) -> Result<(), Error> {
        let connects = |all: &[MeshAddress]| -> Vec<(Connect, u32)> {
            let connects = all.iter().filter_map(|address| {
                let connect = self.connect(address)?;
                Some((connect, address.weight))
            });
            connects.collect()
        };
        let secure = addresses.iter();
        let secure = secure.map(|address| (address.address.clone(), address.secure));
        let before = std::mem::replace(&mut *self.secure.lock(), secure.collect());
        let stays = |address: &&MeshAddress| {
            before
                .get(&address.address)
                .is_none_or(|secure| *secure == address.secure)
        };
        let staying: Vec<_> = addresses.iter().filter(stays).cloned().collect();
        let has_changed = staying.len() < addresses.len();
        let staying = has_changed.then(|| connects(&staying));
        let connects = connects(addresses);
        if connects.is_empty() {
            let problem = "all instances want TLS; set `MeshClientBuilder::tls`";
            return Err(Error::argument("tls", problem));
        }
        let mut client = self.client.lock();
        match &mut *client {
            Ok(running) => {
                let running = running.clone();
                // Calls that fail by it have callbacks, which may make others.
                drop(client);
                // Connections that were made without TLS, or with it, are not kept for an address that has changed that.
                if let Some(staying) = staying {
                    running.set_addresses(staying)?;
                }
                running.set_addresses(connects)?;
            }
            Err(options) => {
                if let Some(options) = options.take() {
                    let add = |options: MultiClientBuilder, (connect, weight)| {
                        options.to_weighted(connect, weight)
                    };
                    *client = Ok(connects.into_iter().fold(options, add).build()?);
                }
            }
        }
        Ok(())
    }

    fn call(&self, request: MeshRequest, done: Done) {
        let client = self.client.lock().as_ref().ok().cloned();
        let Some(client) = client else {
            // No addresses were set, or they were wrong.
            let wanted = request.path;
            return done(Err(Error::NotFoundEndpoint { wanted }));
        };
        let MeshRequest { path, timeout, .. } = request;
        let (body, codec) = (Raw(request.body), body_codec(&request.codec));
        let mut call = client.call::<_, Raw>(&path, &body);
        call = call.codec(codec).accept(codec).timeout(timeout);
        if let Some(key) = request.key {
            call = call.key_hash(key);
        }
        if request.is_idempotent {
            call = call.idempotent();
        }
        call.then(move |result| {
            let result = result.map(|Raw(body)| body);
            done(result.map_err(|status| error_of(status, path, timeout)));
        });
    }
}

/// Returns the id of a codec in messages of rpc.
fn body_codec(codec: &Codec) -> wire::Codec {
    match codec {
        Codec::Json => wire::Codec::JSON,
        Codec::Protobuf => wire::Codec::PROTOBUF,
        Codec::Own(codec) => codec.id(),
    }
}

/// Returns the error of a call that ended with this status.
pub(super) fn error_of(status: Status, path: String, timeout: Duration) -> Error {
    match status.code {
        code::HANDLE_TIMEOUT => Error::Timeout {
            what: "a call of a service".into(),
            after: timeout,
        },
        code::DIAL_FAILED | code::CONNECTION_CLOSED | code::WRITE_FAILED => Error::LinkDown {
            peer: format!("{path} ({status})"),
        },
        code::TOO_MANY_REQUESTS | code::SERVICE_UNAVAILABLE => Error::Busy { what: "service" },
        code::CANCELLED => Error::Cancelled,
        code::UNAUTHORIZED => Error::Unauthorized {
            reason: status.to_string().into(),
        },
        // A handler's own is left as it is.
        code::NOT_FOUND if status.reason.is_empty() && status.message == "Not Found" => {
            Error::Service(status.with_reason(format!("no method {path}")))
        }
        _ => Error::Service(status),
    }
}
