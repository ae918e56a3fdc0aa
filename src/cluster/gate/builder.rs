use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::handler::GateReactor;
use super::listener::{ClientListener, Door};
use super::observed::ObservedGate;
use super::options::{
    DuplicateLogin, HeartbeatMode, Options, RateLimit, ResumeOptions, SlowClient,
};
use super::replacing::Replaceable;
use super::resume::SharedResume;
use super::servers::Servers;
use super::shared::{Backends, Entrances, POOL_QUEUE, Shared};
use super::{Gate, RefusedPacket, watching};
use crate::cluster::chance::Chance;
use crate::cluster::dispatch::Policy;
use crate::cluster::drpc::Secret;
use crate::cluster::follower::Followers;
#[cfg(feature = "tls")]
use crate::cluster::link::LinkTls;
use crate::cluster::link::{Identity, LaneOptions, Registration, endpoint, warn_if_open};
use crate::cluster::locator::{GuardedLocator, LocationCache, Locator, MemoryLocator};
use crate::cluster::packet::{Packet, PacketOptions};
use crate::cluster::registry::{Directory, Registered, Registry};
use crate::cluster::session::MAX_REACTORS;
use crate::cluster::{Error, Kind, Monitor};
use crate::engine::conn::limits::{ConnLimits, OutboundPolicy};
use crate::engine::handler::Engine;
use crate::engine::listen::Listen;
use crate::engine::listen::handover::Control;
use crate::engine::server::{Running, Server};
#[cfg(feature = "kcp")]
use crate::engine::udp::{MAX_SESSIONS, UdpSessions};
use crate::workers::WorkerPool;

/// The options of a [`Gate`].
#[must_use = "a builder does nothing until start is called"]
pub struct GateBuilder {
    pub(super) own: Registration,
    listeners: Vec<ClientListener>,
    link: String,
    locator: Arc<dyn Locator>,
    dispatch: Policy,
    reactors: usize,
    monitor: Option<Monitor>,
    replaceable: Option<Replaceable>,
    pub(super) options: Options,
}

/// The longest output that waits for another server.
const LINK_OUTPUT: usize = 64 << 20;

/// The bytes that a reactor takes of one link before it sends what they have made: two reads, so that it has room for the output in
/// the place for that of a turn, and need not copy it once more.
const READ_BUDGET: usize = 160 << 10;

/// The threads that ask the locator and the registry.
const THREADS: usize = 4;

impl Gate {
    /// Returns the options of a gate, at their defaults.
    pub fn builder() -> GateBuilder {
        GateBuilder {
            own: Registration::new(Kind::Gate),
            listeners: Vec::new(),
            link: "tcp://127.0.0.1:0".to_owned(),
            locator: Arc::new(MemoryLocator::new()),
            dispatch: Policy::default(),
            reactors: 1,
            monitor: None,
            replaceable: None,
            options: Options {
                packet: PacketOptions::default(),
                heartbeat: HeartbeatMode::default(),
                interval: Duration::from_secs(10),
                authorize_timeout: Duration::ZERO,
                max_connections: 5000,
                max_connections_per_ip: usize::MAX,
                max_links: 1024,
                rate: None,
                outbound_limit: 1 << 20,
                slow: SlowClient::default(),
                duplicate: DuplicateLogin::default(),
                resume: None,
                retry_within: 0,
                chance: Chance::default(),
                secret: None,
                #[cfg(feature = "tls")]
                tls: None,
                lanes: LaneOptions::default(),
                on_refused: None,
            },
        }
    }
}

/// # The gate in its cluster
impl GateBuilder {
    /// Sets the instance id, which no other instance has. Default: a new uuid.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.own.id = Some(id.into());
        self
    }

    /// Sets the name that the registry shows as the alias. Default: `gate`.
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

    /// Sets how one of several nodes is picked for a stateless route. Default: [`Policy::Random`].
    pub fn dispatch(mut self, policy: Policy) -> Self {
        self.dispatch = policy;
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

    /// Sets the number of links that other servers may dial. Further ones are closed at once. A node has one for each of its
    /// reactors, one of due has five. Default: 1,024.
    pub fn max_links(mut self, links: usize) -> Self {
        self.options.max_links = links;
        self
    }

    /// Sets the limits of the links to nodes. Their backlog can be 256 MiB at most.
    pub fn lanes(mut self, options: LaneOptions) -> Self {
        self.options.lanes = options;
        self
    }

    /// Sets what happens when a user logs in on a second connection, at this gate or at another one. Default:
    /// [`DuplicateLogin::Replace`].
    pub fn duplicate_login(mut self, policy: DuplicateLogin) -> Self {
        self.options.duplicate = policy;
        self
    }

    /// Lets clients that have lost their connection take their user back, on a new connection to this gate or another one: see
    /// [resume](super#resume). Default: the loss of the connection is the end of the session.
    pub fn resume(mut self, options: ResumeOptions) -> Self {
        self.options.resume = Some(options);
        self
    }

    /// Sets the time within which the clients of a gate that stops shall connect again. Each is told a random part of it, so that they
    /// do not all come to the other gates at once. Default: [`Duration::ZERO`], at once.
    pub fn retry_within(mut self, time: Duration) -> Self {
        self.options.retry_within = u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
        self
    }

    /// Adds the gate to a list of what is observed, for an [admin interface](crate::cluster::admin). Default: it is on none.
    pub fn monitor(mut self, monitor: &Monitor) -> Self {
        self.monitor = Some(monitor.clone());
        self
    }

    /// Sets the number of reactors, up to 1,024. Default: 1.
    pub fn reactors(mut self, reactors: usize) -> Self {
        self.reactors = reactors;
        self
    }
}

/// # Clients
impl GateBuilder {
    /// Adds a listener for clients. See [`ClientListener`] for the addresses.
    pub fn listen(mut self, listener: impl Into<ClientListener>) -> Self {
        self.listeners.push(listener.into());
        self
    }

    /// Sets the format of packets. Clients and nodes must have the same. Default: that of [`PacketOptions`].
    pub fn packet(mut self, options: PacketOptions) -> Self {
        self.options.packet = options;
        self
    }

    /// Sets who sends heartbeats, and their interval. A client that is silent for two intervals is closed; every packet is a sign
    /// of life. One for which output waits and that takes none of it for as long is closed, too. With [`Duration::ZERO`] no client is
    /// closed for either. Default: [`HeartbeatMode::Respond`], 10 s.
    pub fn heartbeat(mut self, mode: HeartbeatMode, interval: Duration) -> Self {
        (self.options.heartbeat, self.options.interval) = (mode, interval);
        self
    }

    /// Closes a client that has no user for this time. Default: [`Duration::ZERO`], never.
    pub fn authorize_timeout(mut self, timeout: Duration) -> Self {
        self.options.authorize_timeout = timeout;
        self
    }

    /// Sets the number of clients that may be connected, those amid a TLS handshake included. Further ones are closed at once.
    /// Default: 5,000.
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.options.max_connections = connections;
        self
    }

    /// Sets the number of clients that may be connected from one IPv4 address or IPv6 /64. Default: no limit.
    pub fn max_connections_per_ip(mut self, connections: usize) -> Self {
        self.options.max_connections_per_ip = connections;
        self
    }

    /// Limits what a client sends over time. Default: no limit.
    pub fn rate_limit(mut self, limit: RateLimit) -> Self {
        self.options.rate = Some(limit);
        self
    }

    /// Sets the number of bytes that may wait for one client, from 16 KiB to 512 MiB, and what happens to a client for which more
    /// would wait. From a quarter of it on the client's packets are not read. Default: 1 MiB, [`SlowClient::Close`].
    pub fn outbound_limit(mut self, bytes: usize, policy: SlowClient) -> Self {
        (self.options.outbound_limit, self.options.slow) = (bytes, policy);
        self
    }

    /// Sets a function that may answer a packet which goes to no node: it returns the data of the answer, whose route and seq are
    /// those of the packet. It runs on the reactor and must not block. A packet that a node has rejected has no data here, unless
    /// its route is stateful. Default: such packets are counted and dropped, as at a gate of due.
    pub fn on_refused(
        mut self,
        answer: impl Fn(&Packet<'_>, RefusedPacket) -> Option<Vec<u8>> + Send + Sync + 'static,
    ) -> Self {
        self.options.on_refused = Some(Arc::new(answer));
        self
    }

    /// Starts the gate, and registers it.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] or [`Error::Start`] if an option or an address is wrong, and the errors of the registry and the
    /// locator.
    pub fn start(mut self) -> Result<Gate, Error> {
        let replacing = match self.replaceable.take() {
            Some(replaceable) => {
                let replacing = replaceable.begin(&mut self.listeners)?;
                if replacing.takes_over() {
                    self.check_own_id()?;
                }
                Some((replacing, replaceable))
            }
            None => None,
        };
        let began = SystemTime::now().duration_since(UNIX_EPOCH);
        let began = began.map_or(0, |since| since.as_micros() as u64);
        let pool = WorkerPool::builder().threads(THREADS).queue(POOL_QUEUE);
        let pool = pool.name("epicycle-gate").build()?;
        let (server, prepared) = self.prepare(Followers::default(), pool, began)?;
        let running = server.start(prepared.factory())?;
        let engine = running.engine().clone();
        let mut gate = prepared.begin(&engine, Some(running))?;
        if let Some((replacing, replaceable)) = replacing {
            gate.replaced_by = replaceable.finish(replacing, &engine)?;
        }
        Ok(gate)
    }

    /// Returns the server of the gate, and the rest of the gate, which begins once the server has started. `began` is the time
    /// in microseconds since 1970.
    pub(super) fn prepare(
        mut self,
        followers: Followers,
        pool: WorkerPool,
        began: u64,
    ) -> Result<(Server, Prepared), Error> {
        self.check()?;
        let ours = Identity::new(Kind::Gate, self.own.take_id());

        // Nothing is read from a client for whom much waits, and a link is read whatever waits for it: see `Inbound`.
        let clients = ConnLimits::new()
            .outbound_limit(self.options.outbound_limit)
            .high_water(self.options.outbound_limit / 4)
            .handshake_timeout(HANDSHAKE);
        // Nothing is heard of a client whose input waits until it has read.
        let clients = match self.options.interval {
            Duration::ZERO => clients,
            interval => clients.write_stall_timeout(interval.saturating_mul(2)),
        };
        let links = ConnLimits::new()
            .outbound_limit(LINK_OUTPUT)
            .outbound_policy(OutboundPolicy::Drop);
        let link = Listen::on(self.link).limits(links);
        #[cfg(feature = "tls")]
        let link = match &self.options.tls {
            Some(tls) => link.tls(&tls.server),
            None => link,
        };
        let mut entrances = Entrances::new(&self.options);
        let link = link.entrance(&entrances.of(&Door::Links));
        let (mut server, mut doors) = (
            Server::bind(link).read_budget(READ_BUDGET),
            vec![Door::Links],
        );
        for listener in self.listeners {
            let (listen, door) = listener.into_parts()?;
            #[cfg(feature = "kcp")]
            let (listen, door) = match door {
                Door::Kcp(options) => {
                    let sessions = UdpSessions::new()
                        .idle_timeout(Duration::MAX)
                        .max_sessions(self.options.max_connections.clamp(1, MAX_SESSIONS));
                    let options = options.max_queued(self.options.outbound_limit);
                    (listen.sessions(sessions), Door::Kcp(options))
                }
                _ => (listen, door),
            };
            let limits = match door {
                Door::Sockets(_) => clients.clone(),
                // Clients over TCP need not speak first.
                _ => clients.clone().handshake_timeout(Duration::MAX),
            };
            let listen = listen.limits(limits).entrance(&entrances.of(&door));
            server = server.and(listen);
            doors.push(door);
        }

        let has_resume = self.options.resume.is_some();
        let servers = Servers::watch(&*self.own.registry, self.dispatch, &ours.id, has_resume)?;
        let directory =
            Directory::start_as(&followers, self.own.registry.clone(), &["gate", "node"])?;
        let directory = Arc::new(directory);
        let locations = LocationCache::start_as(
            &followers,
            self.locator.clone(),
            directory.clone(),
            LocationCache::DEFAULT_CAPACITY,
        )?;
        let backends = Backends {
            registered: Arc::new(Registered::new(self.own.registry.clone())),
            directory,
            locator: self.locator.clone(),
            locations,
            pool,
        };
        let resume = (self.options.resume)
            .map(|resume| {
                SharedResume::new(resume, self.options.secret.as_ref(), &self.options.chance)
            })
            .transpose()?;
        let listening = (doors, entrances);
        let mut shared = Shared::new(
            ours,
            self.options,
            listening,
            self.reactors,
            began,
            backends,
        );
        shared.resume = resume;
        let prepared = Prepared {
            own: self.own,
            servers,
            shared: Arc::new(shared),
            followers,
            monitor: self.monitor,
        };
        Ok((server.reactors(self.reactors), prepared))
    }

    /// Returns the name that the registry will show as the alias.
    pub(in crate::cluster) fn alias(&self) -> &str {
        &self.own.name
    }

    /// Refuses the id of the gate that is to be replaced, whose clients would lose their nodes.
    fn check_own_id(&self) -> Result<(), Error> {
        let Some(id) = &self.own.id else {
            return Ok(());
        };
        match self.own.registry.find(Kind::Gate.as_str(), id)? {
            None => Ok(()),
            Some(_) => {
                let problem = format!(
                    "the gate that runs has {id:?} too; leave it out, or give each process its own"
                );
                Err(Error::argument("id", problem))
            }
        }
    }

    fn check(&self) -> Result<(), Error> {
        let bad = |name, problem: String| Err(Error::argument(name, problem));
        if !(1..=MAX_REACTORS).contains(&self.reactors) {
            let problem = format!("{} is not from 1 to {MAX_REACTORS}", self.reactors);
            return bad("reactors", problem);
        }
        self.options.lanes.check()?;
        if self.options.max_connections == 0 {
            let problem = "0 would close every client at once; use 1 or more".to_owned();
            return bad("max_connections", problem);
        }
        let limit = self.options.outbound_limit;
        if !OUTBOUND.contains(&limit) {
            let (low, high) = (OUTBOUND.start(), OUTBOUND.end());
            return bad(
                "outbound_limit",
                format!("{limit} is not from {low} to {high} bytes"),
            );
        }
        if let Some(rate) = &self.options.rate {
            // Without a burst every packet would be ahead of its time.
            Error::if_zero("burst", rate.burst)?;
        }
        if let Some(resume) = &self.options.resume {
            resume.check(self.options.outbound_limit)?;
        }
        if self.listeners.is_empty() {
            let problem = "no client can connect; add a listener".to_owned();
            return bad("listen", problem);
        }
        Ok(())
    }
}

/// # Restart
impl GateBuilder {
    /// Lets another process take over the listeners for clients, and takes them over from the process that has the control socket, if
    /// there is one. Default: off.
    ///
    /// At the start, a gate receives the sockets of the gate that has the control socket now. Each takes the place of the address with
    /// its port; those of ports that the kernel chose take their places in their order. TLS and all other options are the new gate's
    /// own. It binds the addresses for which it receives no socket. When it is registered, the old gate accepts no more clients, and
    /// calls `replaced` on a thread of its own. No connection is refused in between, and what waits in the backlogs is kept. If the new
    /// gate does not start, the old one goes on.
    ///
    /// The old gate serves the clients that it has until it ends. [`drain`](super::Gate::drain) it in `replaced`, or stop its
    /// [container](crate::cluster::container): its clients are told to go then, come back at the new gate, and with
    /// [resume](Self::resume) take their users along.
    ///
    /// The end of a gate waits for `replaced`, which must not wait for that end therefore, unless it ends the gate by itself. It waits for
    /// a process that is about to take over, too, for the [deadline](Control::deadline) at the longest.
    ///
    /// Both gates run meanwhile. So each has an id and a [`link`](Self::link) of its own, as by default. UDP ports are not handed over,
    /// so the start refuses a `kcp://` listener: give KCP a gate of its own.
    ///
    /// With the feature `signals`, SIGUSR2 starts the new process, as for [`Server::replaceable`](crate::Server::replaceable).
    ///
    /// Costs two threads.
    ///
    /// ```no_run
    /// use epicycle::cluster::container::Container;
    /// use epicycle::cluster::gate::Gate;
    /// use epicycle::handover::Control;
    ///
    /// let container = Container::new();
    /// let process = container.handle();
    /// let gate = Gate::builder()
    ///     .listen("tcp://:3553")
    ///     .replaceable(Control::at("/run/game/gate.control"), move || process.stop());
    /// container.add(gate).serve()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn replaceable(
        mut self,
        control: Control,
        replaced: impl FnOnce() + Send + 'static,
    ) -> Self {
        self.replaceable = Some(Replaceable::new(control, replaced));
        self
    }
}

/// A gate whose server has not started.
pub(super) struct Prepared {
    own: Registration,
    servers: Servers,
    shared: Arc<Shared>,
    followers: Followers,
    monitor: Option<Monitor>,
}

impl Prepared {
    /// Returns what makes the part of each reactor.
    pub(super) fn factory(&self) -> impl Fn(usize) -> GateReactor + Send + Sync + 'static {
        let (shared, known) = (self.shared.clone(), self.servers.known());
        move |id| GateReactor::new(id, shared.clone(), known.clone())
    }

    /// Follows the registry and the locator, and registers the gate.
    pub(super) fn begin(
        self,
        engine: &Engine<GateReactor>,
        running: Option<Running<GateReactor>>,
    ) -> Result<Gate, Error> {
        let shared = self.shared;
        let addrs = engine.local_addrs().to_vec();
        let endpoint = endpoint(&addrs[0], self.own.expose.as_deref())?;
        warn_if_open(&addrs[0], shared.options.secret.is_some());
        #[cfg(feature = "tls")]
        let endpoint = endpoint.with_tls(shared.options.tls.is_some());
        let following = watching::start(&self.followers, self.servers, &shared, engine)?;
        let record = self.own.record(&shared.ours.id, endpoint.to_string());
        let observed = self.monitor.map(|monitor| {
            let observed = Arc::new(ObservedGate::new(shared.clone(), engine.clone()));
            monitor.add(&observed);
            observed
        });
        // A list of gates is watched for clients that come from others. In a simulated network there are no threads.
        let owner = (shared.resume.is_none() && running.is_some())
            .then(|| shared.registered.watch_owner())
            .transpose()?;
        let gate = Gate {
            shared,
            addrs,
            running,
            owner,
            replaced_by: Vec::new(),
            #[cfg(feature = "testing")]
            followers: self.followers,
            following: Some(following),
            observed,
        };
        gate.shared.registered.register(record)?;
        Ok(gate)
    }
}

/// The bytes that may be allowed to wait for one client.
const OUTBOUND: RangeInclusive<usize> = 16 << 10..=512 << 20;

/// The time within which a client must ask for its WebSocket.
const HANDSHAKE: Duration = Duration::from_secs(10);

impl fmt::Debug for GateBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GateBuilder")
            .field("id", &self.own.id)
            .field("name", &self.own.name)
            .field("link", &self.link)
            .field("listeners", &self.listeners)
            .finish_non_exhaustive()
    }
}
