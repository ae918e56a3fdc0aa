//! Clients of services.

use std::fmt;
use std::num::NonZero;
use std::sync::Arc;
use std::time::Duration;

use lru::LruCache;
use parking_lot::Mutex;

use super::call::MeshCall;
use super::instances::{self, addresses};
use super::rpc::RpcTransporter;
use super::target::Target;
use super::transporter::{Channel, MeshAddress, Transporter};
use crate::cluster::codec::{Codec, DecodeBody, EncodeBody};
use crate::cluster::drpc::Secret;
use crate::cluster::follower::{Follower, Followers};
use crate::cluster::registry::{GuardedRegistry, Instance, MemoryRegistry, Registry};
use crate::cluster::{Error, Kind};
use crate::rpc::{MultiClientBuilder, PeerBuilder};

/// A client of the services of a cluster. It follows the registry, and has connections to the instances that it calls.
///
/// It can be used from any thread. Clones stand for the same client. When the last one is dropped, the calls under way end first.
///
/// # Examples
///
/// ```
/// use epicycle::cluster::Error;
/// use epicycle::cluster::mesh::MeshClient;
///
/// let client = MeshClient::builder().start()?;
/// let nobody = client.call::<_, i64>("/math/add", &[1, 2]).wait();
/// assert!(matches!(nobody, Err(Error::NotFoundEndpoint { .. })));
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone)]
pub struct MeshClient(Arc<Inner>);

/// One target of a client: a service, an instance or an address.
#[derive(Clone, Debug)]
pub struct MeshService {
    client: MeshClient,
    target: Target,
}

/// The options of a [`MeshClient`].
#[must_use = "a builder does nothing until start is called"]
pub struct MeshClientBuilder {
    registry: Arc<dyn Registry>,
    rpc: RpcTransporter,
    other: Option<Box<dyn Transporter>>,
    codec: Codec,
    call_timeout: Duration,
}

struct Inner {
    /// It ends before what it knows: its thread must not be the one that waits for the peer's end, for which this one waits.
    follower: Follower,
    known: Arc<Known>,
    codec: Codec,
    call_timeout: Duration,
}

/// The state that the client shares with the thread that follows the registry.
struct Known {
    transporter: Arc<dyn Transporter>,
    /// That of the transporter.
    scheme: String,
    /// Not held while the transporter or one of its channels is called: it may call back.
    state: Mutex<Targets>,
}

struct Targets {
    instances: Vec<Instance>,
    /// The targets that were called, of which the least recently used go.
    open: LruCache<Target, Open>,
}

struct Open {
    channel: Arc<dyn Channel>,
    addresses: Vec<MeshAddress>,
}

/// The maximum number of targets with connections.
const MAX_TARGETS: NonZero<usize> = NonZero::new(1024).expect("is not zero");

impl MeshClient {
    /// Returns the options of a client, at their defaults.
    pub fn builder() -> MeshClientBuilder {
        MeshClientBuilder {
            registry: Arc::new(MemoryRegistry::new()),
            rpc: RpcTransporter::default(),
            other: None,
            codec: Codec::default(),
            call_timeout: Duration::from_secs(3),
        }
    }

    /// Prepares a call of a service. The path names the service and the method: `/math/add` is `add` of `discovery://math`. Nothing
    /// is sent before [`MeshCall::wait`] or [`MeshCall::then`].
    pub fn call<'a, A, R>(&'a self, path: &str, arg: &'a A) -> MeshCall<'a, A, R>
    where
        A: EncodeBody + ?Sized,
        R: DecodeBody,
    {
        let service = path.trim_start_matches('/').split('/').next();
        let service = service.unwrap_or_default();
        self.call_at(&Target::Service(service.to_owned()), path, arg)
    }

    /// Returns a target: `discovery://SERVICE`, `direct://ID` or `direct://HOST:PORT`. It need not exist yet.
    ///
    /// # Errors
    ///
    /// Returns [`Error::InvalidArgument`] if it has none of these forms.
    pub fn service(&self, target: &str) -> Result<MeshService, Error> {
        Ok(MeshService {
            client: self.clone(),
            target: target.parse()?,
        })
    }

    /// Returns the names of the services that are registered, each once.
    pub fn services(&self) -> Vec<String> {
        let state = self.0.known.state.lock();
        let names = state.instances.iter().flat_map(|mesh| mesh.services.iter());
        let mut names: Vec<String> = names.cloned().collect();
        drop(state);
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Returns for how long the list of instances has not been confirmed: zero as long as the registry can be reached.
    pub fn age(&self) -> Duration {
        self.0.follower.lost_for().unwrap_or_default()
    }

    fn call_at<'a, A, R>(&'a self, target: &Target, path: &str, arg: &'a A) -> MeshCall<'a, A, R>
    where
        A: EncodeBody + ?Sized,
        R: DecodeBody,
    {
        let channel = check(path).and_then(|()| self.0.known.channel(target));
        MeshCall::new(channel, &self.0.codec, self.0.call_timeout, path, arg)
    }
}

/// Refuses a path that names no method.
fn check(path: &str) -> Result<(), Error> {
    let names = path.trim_start_matches('/').split_once('/');
    if names.is_some_and(|(service, method)| !service.is_empty() && !method.is_empty()) {
        return Ok(());
    }
    let problem = format!("{path:?} names no method; write /SERVICE/METHOD");
    Err(Error::argument("path", problem))
}

impl MeshService {
    /// Returns the target.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Prepares a call, as [`MeshClient::call`] does. The path also names the service: `/math/add`.
    pub fn call<'a, A, R>(&'a self, path: &str, arg: &'a A) -> MeshCall<'a, A, R>
    where
        A: EncodeBody + ?Sized,
        R: DecodeBody,
    {
        self.client.call_at(&self.target, path, arg)
    }
}

impl Known {
    /// Returns the channel of a target, and opens it if this is the first call.
    fn channel(&self, target: &Target) -> Result<Arc<dyn Channel>, Error> {
        let mut made: Option<Open> = None;
        loop {
            let mut state = self.state.lock();
            if let Some(open) = state.open.get(target) {
                let channel = open.channel.clone();
                drop(state);
                // Another thread has opened one meanwhile.
                drop(made);
                return Ok(channel);
            }
            let addresses = addresses(&state.instances, target, &self.scheme);
            if addresses.is_empty() {
                return Err(instances::none(&state.instances, target, &self.scheme));
            }
            if let Some(open) = made.take_if(|open| open.addresses == addresses) {
                let channel = open.channel.clone();
                let evicted = state.open.push(target.clone(), open);
                drop(state);
                drop(evicted);
                return Ok(channel);
            }
            drop(state);
            let channel = match made.take() {
                Some(open) => open.channel,
                None => self.transporter.channel()?,
            };
            channel.set_addresses(&addresses)?;
            made = Some(Open { channel, addresses });
        }
    }

    /// Takes another list of instances. Only one thread does so.
    fn set(&self, instances: Vec<Instance>) {
        let mut state = self.state.lock();
        let (mut changed, mut gone) = (Vec::new(), Vec::new());
        for (target, open) in &mut state.open {
            let now = addresses(&instances, target, &self.scheme);
            if now.is_empty() {
                gone.push(target.clone());
            } else if now != open.addresses {
                open.addresses.clone_from(&now);
                changed.push((target.clone(), open.channel.clone(), now));
            }
        }
        state.instances = instances;
        let gone = gone.iter().filter_map(|target| state.open.pop(target));
        let gone: Vec<Open> = gone.collect();
        drop(state);
        // Without the lock: a call that fails by it has a callback, which may make another call.
        for (target, channel, addresses) in changed {
            if let Err(error) = channel.set_addresses(&addresses) {
                log::warn!(target: "epicycle::cluster", "the addresses of {target} stay as they were: {error}");
            }
        }
        // The calls under way end first.
        drop(gone);
    }
}

impl MeshClientBuilder {
    /// Sets the registry. Default: one in memory, which no other server has.
    pub fn registry(mut self, registry: impl Registry) -> Self {
        self.registry = Arc::new(GuardedRegistry(registry));
        self
    }

    /// Sets the codec of arguments and replies. Default: [`Codec::Json`].
    pub fn codec(mut self, codec: Codec) -> Self {
        self.codec = codec;
        self
    }

    /// Sets the time within which a reply must arrive. Default: 3 s.
    pub fn call_timeout(mut self, timeout: Duration) -> Self {
        self.call_timeout = timeout;
        self
    }

    /// Changes how calls are spread over the instances of a target, by any [balancer](crate::balance), and the numbers of their
    /// sessions and retries. Default: that of [`MultiClient`](crate::rpc::MultiClient).
    ///
    /// ```
    /// use epicycle::balance::HashRing;
    /// use epicycle::cluster::mesh::MeshClient;
    ///
    /// let client = MeshClient::builder()
    ///     .spread(|multi| multi.balancer(HashRing::new()).attempts(2))
    ///     .start()?;
    /// # Ok::<(), epicycle::cluster::Error>(())
    /// ```
    pub fn spread(
        mut self,
        change: impl Fn(MultiClientBuilder) -> MultiClientBuilder + Send + Sync + 'static,
    ) -> Self {
        self.rpc.spread = Some(Box::new(change));
        self
    }

    /// Changes options of the peer that makes the calls: plugins, limits, the number of reactors. Default: one reactor.
    pub fn peer(
        mut self,
        change: impl FnOnce(PeerBuilder) -> PeerBuilder + Send + Sync + 'static,
    ) -> Self {
        self.rpc.changes.push(Box::new(change));
        self
    }

    /// Sets the TLS of connections to instances whose endpoint says `is_secure=true`. Without it they cannot be called.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: &crate::tls::TlsClient) -> Self {
        self.rpc.tls_client = Some(tls.clone());
        self
    }

    /// Sets the secret of the cluster. Meshes that do not prove that they have it are not called; those over gRPC prove nothing, and
    /// are known by their certificates. Default: none.
    pub fn secret(mut self, secret: Secret) -> Self {
        self.rpc.secret = Some(secret);
        self
    }

    /// Sets the protocol of the calls, in place of rpc. The options of rpc do not apply then.
    pub fn transporter(mut self, transporter: impl Transporter) -> Self {
        self.other = Some(Box::new(transporter));
        self
    }

    /// Starts the client. Blocks until the first list of instances is there.
    ///
    /// # Errors
    ///
    /// [`Error::Start`] if an option is wrong, and the error of the registry.
    pub fn start(mut self) -> Result<MeshClient, Error> {
        Error::if_zero("call_timeout", self.call_timeout)?;
        let transporter: Arc<dyn Transporter> = match self.other {
            Some(mut other) => {
                if let Some(secret) = &self.rpc.secret {
                    other.set_secret(secret)?;
                }
                other.into()
            }
            None => {
                self.rpc.call_timeout = self.call_timeout;
                self.rpc.start_client()?;
                Arc::new(self.rpc)
            }
        };
        let known = Arc::new(Known {
            scheme: transporter.scheme().to_owned(),
            transporter,
            state: Mutex::new(Targets {
                instances: Vec::new(),
                open: LruCache::new(MAX_TARGETS),
            }),
        });
        let mut watch = self.registry.watch(Kind::Mesh.as_str())?;
        if let Some(first) = watch.next() {
            known.set(first);
        }
        let following = known.clone();
        let follower = Followers::default().follow("meshes", watch, move |list| {
            // The last list stays when the registry is gone.
            if let Some(list) = list {
                following.set(list);
            }
        })?;
        Ok(MeshClient(Arc::new(Inner {
            known,
            codec: self.codec,
            call_timeout: self.call_timeout,
            follower,
        })))
    }
}

impl fmt::Debug for MeshClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.0.known.state.lock();
        f.debug_struct("MeshClient")
            .field("instances", &state.instances.len())
            .field("targets", &state.open.len())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for MeshClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MeshClientBuilder")
            .field("codec", &self.codec)
            .field("call_timeout", &self.call_timeout)
            .finish_non_exhaustive()
    }
}
