use std::any::TypeId;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize};

use parking_lot::Mutex;

use super::Node;
use super::actor_table::ActorTable;
use super::context::{Core, HandlerError, Posting, Request};
use super::handler::NodeReactor;
use super::hooks::{Hooks, Stage};
use super::observed::ObservedNode;
use super::router::{Group, Next, RouteFlags, Router, Routes, boxed};
use super::shared::{Options, Shared};
use super::stats::NodeCounters;
use super::watching::{self, Found};
use crate::cluster::chance::Chance;
use crate::cluster::codec::Codec;
use crate::cluster::dispatch::Policy;
use crate::cluster::drpc::Secret;
use crate::cluster::follower::Followers;
#[cfg(feature = "tls")]
use crate::cluster::link::LinkTls;
use crate::cluster::link::{Identity, LaneOptions, Registration, endpoint, warn_if_open};
use crate::cluster::locator::{GuardedLocator, LocationCache, Locator, MemoryLocator};
use crate::cluster::packet::PacketOptions;
use crate::cluster::reactors::QueuedBytes;
use crate::cluster::registry::{Directory, Registered, Registry};
use crate::cluster::{Error, Event, Kind, Monitor};
use crate::engine::conn::limits::{ConnLimits, OutboundPolicy};
use crate::engine::handler::Engine;
use crate::engine::listen::Listen;
use crate::engine::listen::admission::{Admission, Entrance, Prefix};
use crate::engine::server::Server;
use crate::workers::WorkerPool;

/// The options of a [`Node`]. `T` is the application's state.
#[must_use = "a builder does nothing until start is called"]
pub struct NodeBuilder<T = ()> {
    pub(super) own: Registration,
    link: String,
    locator: Arc<dyn Locator>,
    reactors: usize,
    pub(super) options: Options,
    state: Arc<dyn Fn(usize) -> T + Send + Sync>,
    routes: Routes<T>,
    hooks: Hooks,
    /// The fault of a call that came too late.
    misused: Option<Error>,
}

/// The longest output that waits for a server that has dialled this one.
const LINK_OUTPUT: usize = 64 << 20;

/// The threads that ask the registry and the locator.
const THREADS: usize = 4;

pub(super) const POOL_QUEUE: usize = 65_536;

impl Node {
    /// Returns the options of a node without a state, at their defaults.
    pub fn builder() -> NodeBuilder {
        NodeBuilder {
            own: Registration::new(Kind::Node),
            link: "tcp://127.0.0.1:0".to_owned(),
            locator: Arc::new(MemoryLocator::new()),
            reactors: 1,
            options: Options {
                packet: PacketOptions::default(),
                codec: Codec::default(),
                #[cfg(feature = "crypto")]
                cipher: None,
                dispatch: Policy::default(),
                max_links: 1024,
                secret: None,
                #[cfg(feature = "tls")]
                tls: None,
                lanes: LaneOptions::default(),
                monitor: None,
                chance: Chance::default(),
            },
            state: Arc::new(|_| ()),
            routes: Routes::new(),
            hooks: Hooks::default(),
            misused: None,
        }
    }
}

/// # The node in its cluster
impl<T: 'static> NodeBuilder<T> {
    /// Sets the instance id, which no other instance has. Default: a new uuid.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.own.id = Some(id.into());
        self
    }

    /// Sets the name that the registry shows as the alias. Nodes of one alias have the same routes. Default: `node`.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.own.name = name.into();
        self
    }

    /// Sets the address at which other servers reach this one. Default: `tcp://127.0.0.1:0`.
    pub fn link(mut self, addr: impl Into<String>) -> Self {
        self.link = addr.into();
        self
    }

    /// Sets the host, or the host and port, that the registry shows for [`link`](Self::link). Default: the address that is
    /// listened on, which must not be that of every interface then.
    pub fn expose(mut self, host: impl Into<String>) -> Self {
        self.own.expose = Some(host.into());
        self
    }

    /// Sets the share of the packets that it gets, relative to other nodes, by [`Policy::Weighted`] and [`Policy::Hash`]. Default:
    /// 0, which counts as 1.
    pub fn weight(mut self, weight: u32) -> Self {
        self.own.weight = weight;
        self
    }

    /// Sets what the registry shows besides: whatever the application wants others to know. Default: nothing.
    pub fn metadata(
        mut self,
        metadata: impl IntoIterator<Item = (impl Into<String>, impl Into<String>)>,
    ) -> Self {
        let pairs = metadata.into_iter();
        self.own.metadata = pairs
            .map(|(key, value)| (key.into(), value.into()))
            .collect();
        self
    }

    /// Sets the registry. Default: one in memory, which no other server has.
    pub fn registry(mut self, registry: impl Registry) -> Self {
        self.own.set_registry(registry);
        self
    }

    /// Sets the locator. Default: one in memory, which no other server has.
    pub fn locator(mut self, locator: impl Locator) -> Self {
        self.locator = Arc::new(GuardedLocator(locator));
        self
    }

    /// Sets how one of several nodes is picked for what this node delivers to a stateless route. Default: [`Policy::Random`].
    pub fn dispatch(mut self, policy: Policy) -> Self {
        self.options.dispatch = policy;
        self
    }

    /// Sets the number of reactors. Each has a state of its own, and the packets of a user are handled by one of them: see
    /// [`node`](super). Default: 1.
    pub fn reactors(mut self, reactors: usize) -> Self {
        self.reactors = reactors;
        self
    }

    /// Sets the secret of the cluster. Servers that do not prove that they have it are refused, and so are those of due. Default:
    /// none, so that whoever reaches [`link`](Self::link) can act for every user.
    pub fn secret(mut self, secret: Secret) -> Self {
        self.options.secret = Some(secret);
        self
    }

    /// Uses TLS on links. Default: none.
    #[cfg(feature = "tls")]
    pub fn link_tls(mut self, tls: LinkTls) -> Self {
        self.options.tls = Some(tls);
        self
    }

    /// Sets the format of packets. Gates must have the same. Default: that of [`PacketOptions`].
    pub fn packet(mut self, options: PacketOptions) -> Self {
        self.options.packet = options;
        self
    }

    /// Sets the codec of the packets' data, which clients must have too. Default: [`Codec::Json`].
    pub fn codec(mut self, codec: Codec) -> Self {
        self.options.codec = codec;
        self
    }

    /// Sets the cipher of the data between clients and this node. What it sends to clients is encrypted, and
    /// [`parse`](super::Request::parse) decrypts what a client has sent. Packets between nodes stay as they are. Default: none.
    #[cfg(feature = "crypto")]
    pub fn cipher(mut self, cipher: impl crate::cluster::crypto::Cipher) -> Self {
        self.options.cipher = Some(Arc::new(cipher));
        self
    }

    /// Sets the number of links that other servers may dial. Further ones are closed at once. A gate has one for each of its
    /// reactors, one of due has five. Default: 1,024.
    pub fn max_links(mut self, links: usize) -> Self {
        self.options.max_links = links;
        self
    }

    /// Adds the node to a list of what is observed, for an [admin interface](crate::cluster::admin). Default: it is on none.
    pub fn monitor(mut self, monitor: &Monitor) -> Self {
        self.options.monitor = Some(monitor.clone());
        self
    }

    /// Sets the limits of the links to gates and nodes.
    pub fn lanes(mut self, options: LaneOptions) -> Self {
        self.options.lanes = options;
        self
    }
}

impl<T> NodeBuilder<T> {
    /// Returns the name that the registry will show as the alias.
    pub(in crate::cluster) fn alias(&self) -> &str {
        &self.own.name
    }
}

/// # The application
impl<T: 'static> NodeBuilder<T> {
    /// Sets the application's state: `state` makes a value for each reactor, on its thread. Handlers have it as `&mut`. It comes
    /// before the routes, whose handlers take it.
    pub fn state<S: 'static>(
        self,
        state: impl Fn(usize) -> S + Send + Sync + 'static,
    ) -> NodeBuilder<S> {
        let misused = (!self.routes.is_empty()).then(|| {
            let problem = "it is set after the first route, event or middleware; set it before";
            Error::argument("state", problem)
        });
        NodeBuilder {
            own: self.own,
            link: self.link,
            locator: self.locator,
            reactors: self.reactors,
            options: self.options,
            state: Arc::new(state),
            routes: Routes::new(),
            hooks: self.hooks,
            misused: self.misused.or(misused),
        }
    }

    /// Adds a route without flags. Its handler gets the packets of that route.
    pub fn route<E: Into<HandlerError>>(
        mut self,
        route: i32,
        handler: impl Fn(&mut T, &mut Request<'_>) -> Result<(), E> + Send + Sync + 'static,
    ) -> Self {
        self.routes.root = self.routes.root.route(route, handler);
        self
    }

    /// Adds a route with flags: one [`RouteFlag`](super::RouteFlag), or an array of them.
    pub fn route_with<E: Into<HandlerError>>(
        mut self,
        route: i32,
        flags: impl Into<RouteFlags>,
        handler: impl Fn(&mut T, &mut Request<'_>) -> Result<(), E> + Send + Sync + 'static,
    ) -> Self {
        self.routes.root = self.routes.root.route_with(route, flags, handler);
        self
    }

    /// Adds routes that have middleware in common.
    pub fn group(mut self, routes: impl FnOnce(Group<T>) -> Group<T>) -> Self {
        self.routes.root = self.routes.root.group(routes);
        self
    }

    /// Adds a middleware, which gets the packets of all routes before their handlers do. The one that was added first gets them
    /// first.
    pub fn middleware<E: Into<HandlerError>>(
        mut self,
        middleware: impl Fn(&mut T, &mut Request<'_>, Next<'_, T>) -> Result<(), E>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        self.routes.root = self.routes.root.middleware(middleware);
        self
    }

    /// Adds a handler that gets each packet before the handler of its route does. Its error stops the packet.
    pub fn before<E: Into<HandlerError>>(
        mut self,
        hook: impl Fn(&mut T, &mut Request<'_>) -> Result<(), E> + Send + Sync + 'static,
    ) -> Self {
        self.routes.root = self.routes.root.before(hook);
        self
    }

    /// Adds a function that is called after the handler of each packet, with its result.
    pub fn after(
        mut self,
        hook: impl Fn(&mut T, &mut Request<'_>, &Result<(), HandlerError>) + Send + Sync + 'static,
    ) -> Self {
        self.routes.root = self.routes.root.after(hook);
        self
    }

    /// Sets the handler that a [`drain`](Node::drain) calls for each user that is bound to this node, on the reactor that has the
    /// user's packets. It gives the user to another node, by [`Request::deliver`] for example, and that one binds it. Packets of
    /// stateful routes of that user are rejected from then on, and a gate delivers them to the new node. The request has the user, and
    /// no client.
    pub fn on_handover<E: Into<HandlerError>>(
        mut self,
        handler: impl Fn(&mut T, &mut Request<'_>) -> Result<(), E> + Send + Sync + 'static,
    ) -> Self {
        if self.routes.hand_over.replace(boxed(handler)).is_some() {
            self.routes.twice = Some("on_handover");
        }
        self
    }

    /// Adds a function that is called at a stage of the node's life, on the thread that starts or ends the node. Several of a stage
    /// are called in their order. A panic is logged.
    pub fn hook(mut self, stage: Stage, hook: impl FnOnce() + Send + 'static) -> Self {
        self.hooks.add(stage, hook);
        self
    }

    /// Sets the handler of events: what happens to the connections of clients. Without one, gates do not tell them.
    pub fn event<E: Into<HandlerError>>(
        mut self,
        event: Event,
        handler: impl Fn(&mut T, &mut Request<'_>) -> Result<(), E> + Send + Sync + 'static,
    ) -> Self {
        self.routes.events.push((event, boxed(handler)));
        self
    }

    /// Sets the handler of packets whose route the node does not have. Gates do not send them; other nodes may. Default: they are
    /// ignored and counted.
    pub fn default_route<E: Into<HandlerError>>(
        mut self,
        handler: impl Fn(&mut T, &mut Request<'_>) -> Result<(), E> + Send + Sync + 'static,
    ) -> Self {
        if self.routes.default.replace(boxed(handler)).is_some() {
            self.routes.twice = Some("default_route");
        }
        self
    }

    /// Sets the handler that is called when a gate is lost: its record is gone, and so are its links. After it, the node tells the
    /// [`Event::Disconnect`] of each connection of that gate that it knows of. The request has the gate's id.
    pub fn on_gate_lost<E: Into<HandlerError>>(
        mut self,
        handler: impl Fn(&mut T, &mut Request<'_>) -> Result<(), E> + Send + Sync + 'static,
    ) -> Self {
        if self.routes.gate_lost.replace(boxed(handler)).is_some() {
            self.routes.twice = Some("on_gate_lost");
        }
        self
    }

    /// Starts the node, and registers it.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] or [`Error::Start`] if an option or an address is wrong, or a route is registered twice, and the
    /// errors of the registry.
    pub fn start(self) -> Result<Node, Error> {
        let pool = || WorkerPool::builder().queue(POOL_QUEUE);
        let pools = Pools {
            asking: pool().threads(THREADS).name("epicycle-node").build()?,
            jobs: pool().build()?,
        };
        let (server, prepared) = self.prepare(Followers::default(), pools)?;
        let running = server.start(prepared.factory())?;
        let engine = running.engine().clone();
        prepared.begin(&engine, Some(Box::new(running)))
    }

    /// Returns the server of the node, and the rest of the node, which begins once the server has started.
    pub(super) fn prepare(
        mut self,
        followers: Followers,
        pools: Pools,
    ) -> Result<(Server, Prepared<T>), Error> {
        if let Some(misused) = self.misused {
            return Err(misused);
        }
        self.options.lanes.check()?;
        let router = Arc::new(self.routes.build()?);
        for spec in router.specs() {
            self.options.packet.check_route(spec.id)?;
        }
        let mut hooks = self.hooks;
        hooks.run(Stage::Init);
        let id = self.own.take_id();
        let found = Found::watch(&*self.own.registry)?;
        let directory =
            Directory::start_as(&followers, self.own.registry.clone(), &["gate", "node"])?;
        let directory = Arc::new(directory);
        let locations = LocationCache::start_as(
            &followers,
            self.locator.clone(),
            directory,
            LocationCache::DEFAULT_CAPACITY,
        )?;
        let links = Admission::new(self.options.max_links, usize::MAX, Prefix::HOST);
        let shared = Arc::new(Shared {
            ours: Identity::new(Kind::Node, id),
            alias: self.own.name.as_str().into(),
            options: self.options,
            state: TypeId::of::<T>(),
            registered: Arc::new(Registered::new(self.own.registry.clone())),
            locations,
            users: Mutex::default(),
            pool: pools.asking,
            job_pool: pools.jobs,
            counters: (0..self.reactors)
                .map(|_| NodeCounters::default())
                .collect(),
            queued: QueuedBytes::new(self.reactors),
            links: Mutex::default(),
            entrance: Arc::new(Entrance::new(Arc::new(links), false)),
            parked: Mutex::default(),
            jobs: AtomicUsize::new(0),
            drain: AtomicU8::default(),
            is_unsure: AtomicBool::new(false),
            is_leaving: AtomicBool::new(false),
            hands_over: router.hand_over().is_some(),
            last_fence: AtomicU64::new(0),
            actors: ActorTable::default(),
        });
        // A link is read whatever waits for it: see `Inbound`.
        let limits = ConnLimits::new()
            .outbound_limit(LINK_OUTPUT)
            .outbound_policy(OutboundPolicy::Drop);
        let link = Listen::on(self.link)
            .limits(limits)
            .entrance(&shared.entrance);
        #[cfg(feature = "tls")]
        let link = match &shared.options.tls {
            Some(tls) => link.tls(&tls.server),
            None => link,
        };
        let prepared = Prepared {
            own: self.own,
            found,
            locator: self.locator,
            state: self.state,
            router,
            hooks,
            shared,
            posting: Posting::default(),
            followers,
        };
        Ok((Server::bind(link).reactors(self.reactors), prepared))
    }
}

/// The threads of a node.
pub(super) struct Pools {
    /// Asks the registry and the locator.
    pub(super) asking: WorkerPool,
    /// Runs the application's jobs.
    pub(super) jobs: WorkerPool,
}

/// A node whose server has not started.
pub(super) struct Prepared<T> {
    own: Registration,
    found: Found,
    locator: Arc<dyn Locator>,
    state: Arc<dyn Fn(usize) -> T + Send + Sync>,
    router: Arc<Router<T>>,
    hooks: Hooks,
    shared: Arc<Shared>,
    posting: Posting,
    followers: Followers,
}

impl<T: 'static> Prepared<T> {
    /// Returns what makes the part of each reactor.
    pub(super) fn factory(&self) -> impl Fn(usize) -> NodeReactor<T> + Send + Sync + 'static {
        let (shared, state, router) =
            (self.shared.clone(), self.state.clone(), self.router.clone());
        let posting = self.posting.clone();
        let known = self.found.known(&shared.ours.id, shared.options.dispatch);
        move |id| {
            let (peers, table) = known.clone();
            let core = Core::new(id, shared.clone(), posting.clone(), peers, table);
            NodeReactor::new(core, state(id), router.clone())
        }
    }

    /// Follows the registry and the locator, and registers the node.
    pub(super) fn begin(
        self,
        engine: &Engine<NodeReactor<T>>,
        running: Option<Box<dyn Send + Sync>>,
    ) -> Result<Node, Error> {
        let shared = self.shared;
        let addr = engine.local_addrs()[0].clone();
        let endpoint = endpoint(&addr, self.own.expose.as_deref())?;
        warn_if_open(&addr, shared.options.secret.is_some());
        #[cfg(feature = "tls")]
        let endpoint = endpoint.with_tls(shared.options.tls.is_some());
        let mut record = self.own.record(&shared.ours.id, endpoint.to_string());
        record.routes = self.router.specs();
        record.events = self.router.events(shared.counters.len());
        let following = watching::start(
            &self.followers,
            self.found,
            &*self.locator,
            &shared,
            record.clone(),
            engine,
        )?;
        let mut node = Node {
            shared,
            posting: self.posting,
            hooks: self.hooks,
            addr,
            running,
            following: Some(following),
            observed: None,
        };
        node.shared.registered.register(record)?;
        if let Some(monitor) = &node.shared.options.monitor {
            monitor.add(node.observed.insert(Arc::new(ObservedNode {
                shared: node.shared.clone(),
                posting: node.posting.clone(),
                locator: self.locator,
            })));
        }
        node.hooks.run(Stage::Start);
        Ok(node)
    }
}

impl<T> fmt::Debug for NodeBuilder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeBuilder")
            .field("id", &self.own.id)
            .field("name", &self.own.name)
            .field("link", &self.link)
            .finish_non_exhaustive()
    }
}
