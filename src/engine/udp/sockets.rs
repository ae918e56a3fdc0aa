//! The UDP sockets of a reactor, with their output queues and sessions.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use mio::{Registry, Token};
use slab::Slab;

use crate::addr::{Addr, Endpoint, Family};
use crate::clock::millis;
use crate::engine::conn::limits::{Limits, NEVER};
use crate::engine::slots::ConnId;
use crate::engine::slots::MAX_SLOTS;
use crate::engine::udp::recency::Recency;
use crate::engine::udp::{MAX_SESSIONS, UdpOptions, UdpSessions};
use crate::error::Error;
use crate::sys::datagram::{DatagramOptions, DatagramSocket, Refused, SendQueue};
use crate::sys::socket::bind_first;
use crate::sys::stack::NetworkStack;

/// The UDP sockets of one reactor.
#[derive(Debug, Default)]
pub(crate) struct UdpSockets {
    sockets: Slab<UdpSocket>,
    /// The sockets that may have input.
    ready: VecDeque<usize>,
    /// The sockets to flush at the end of the turn.
    dirty: Vec<usize>,
    /// The connected sockets whose session has ended.
    idle: Vec<usize>,
}

/// A UDP socket.
#[derive(Debug)]
pub(crate) struct UdpSocket {
    pub(crate) socket: Arc<DatagramSocket>,
    pub(crate) queue: SendQueue,
    pub(crate) delivery: Delivery,
    /// True while the kernel may have datagrams.
    pub(crate) readable: bool,
    /// True while the kernel has no room for the queued output.
    pub(crate) blocked: bool,
    /// True while the socket is registered for writability. It is only registered while it is blocked, because each sent
    /// datagram causes such an event.
    pub(crate) watches_room: bool,
    /// The sessions to notify when the queue is flushed up to a position.
    pub(crate) waiting: BTreeSet<(u64, ConnId)>,
    is_ready: bool,
    is_dirty: bool,
    /// True if it takes no new sessions, and closes with the last one.
    is_closing: bool,
}

/// The receiver of a socket's datagrams.
#[derive(Debug)]
pub(crate) enum Delivery {
    /// `on_datagram`, for each datagram.
    Datagrams { listener: usize },
    /// A session for each peer.
    Sessions(Box<Sessions>),
    /// The only session of a socket.
    Connected {
        slot: Option<usize>,
        /// The peer of a socket that the kernel has not connected. Its port is 0 until a datagram has come from there.
        from: Option<SocketAddr>,
    },
}

/// The sessions of a socket.
#[derive(Debug)]
pub(crate) struct Sessions {
    pub(crate) listener: usize,
    /// The slots of the sessions, by peer.
    open: HashMap<SocketAddr, usize>,
    max: usize,
    /// The order of the last datagrams from the peers, if new peers can evict sessions.
    recency: Option<Recency>,
    /// The idle timeout, in milliseconds.
    pub(crate) idle: u64,
}

impl Sessions {
    fn new(listener: usize, options: &UdpSessions) -> Self {
        Self {
            listener,
            open: HashMap::new(),
            max: options.max,
            recency: options.evict_silent.then(Recency::new),
            idle: millis(options.idle),
        }
    }

    /// Records a datagram from a peer. Returns the slot of its session.
    #[inline]
    pub(crate) fn touch(&mut self, peer: &SocketAddr) -> Option<usize> {
        let slot = self.open.get(peer).copied()?;
        if let Some(recency) = &mut self.recency {
            recency.touch(slot);
        }
        Some(slot)
    }

    /// Returns true if one more session may open, possibly after an eviction.
    pub(crate) fn has_room(&self) -> bool {
        self.open.len() < self.max || self.recency.is_some()
    }

    /// Returns the slot of the session that must be evicted before another one opens.
    pub(crate) fn to_evict(&self) -> Option<usize> {
        match &self.recency {
            Some(recency) if self.open.len() >= self.max => recency.first(),
            _ => None,
        }
    }

    pub(crate) fn insert(&mut self, peer: SocketAddr, slot: usize) {
        self.open.insert(peer, slot);
        if let Some(recency) = &mut self.recency {
            recency.touch(slot);
        }
    }

    /// Removes a session, unless the peer has a newer one.
    pub(crate) fn remove(&mut self, peer: &SocketAddr, slot: usize) {
        if self.open.get(peer) == Some(&slot) {
            self.open.remove(peer);
            if let Some(recency) = &mut self.recency {
                recency.remove(slot);
            }
        }
    }
}

// Sessions take slots, and must leave some for streams.
const _: () = assert!(MAX_SESSIONS < MAX_SLOTS);

/// The token of the first UDP socket. The tokens below are those of connections and listeners.
pub(crate) const PORTS: usize = 2 * MAX_SLOTS;

/// A UDP address to bind: its number, the address and the options.
pub(crate) type UdpPlace = (usize, Endpoint, UdpOptions);

/// The UDP sockets of each reactor and their local addresses.
pub(crate) struct BoundSockets {
    pub(crate) reactors: Vec<UdpSockets>,
    /// The local addresses with the numbers of the listeners.
    pub(crate) addrs: Vec<(usize, Addr)>,
}

/// The options that all UDP sockets of a server share.
#[derive(Clone, Debug)]
pub(crate) struct Common {
    pub(crate) reuse_port: bool,
    pub(crate) device: Option<String>,
    pub(crate) limits: Limits,
    pub(crate) stack: NetworkStack,
}

/// Binds the UDP sockets of `count` reactors.
///
/// With `reuse_port` every reactor has a socket on each address. Otherwise each address has one socket, and the sockets are
/// dealt to the reactors in turn.
pub(crate) fn bind(
    places: Vec<UdpPlace>,
    count: usize,
    common: &Common,
) -> Result<BoundSockets, Error> {
    let mut reactors: Vec<UdpSockets> = (0..count).map(|_| UdpSockets::default()).collect();
    let mut addrs = Vec::new();
    for (number, addr, udp) in places {
        let targets = addr.resolve()?;
        let family = match addr {
            Endpoint::Udp { family, .. } => family,
            _ => Family::Any,
        };
        let bound = bind_one(number, (&targets, family), &udp, common, &mut reactors);
        let bound = bound.map_err(|source| Error::Bind {
            addr: addr.to_string(),
            source,
        })?;
        addrs.push((number, Addr::Ip(bound)));
    }
    Ok(BoundSockets { reactors, addrs })
}

/// Refuses an address without sessions if the handler does not handle datagrams.
pub(crate) fn check_handler(place: &UdpPlace, handles_datagrams: bool) -> Result<(), Error> {
    let (_, addr, options) = place;
    if handles_datagrams || options.sessions.is_some() {
        return Ok(());
    }
    Err(Error::Option {
        name: "sessions",
        problem: format!(
            "the handler takes no datagrams, which are all that arrives at {addr}: give the address sessions, \
             Listen::on({:?}).sessions(UdpSessions::new()), or implement on_datagram and set HANDLES_DATAGRAMS",
            addr.to_string()
        ),
    })
}

fn bind_one(
    number: usize,
    (targets, family): (&[SocketAddr], Family),
    udp: &UdpOptions,
    common: &Common,
    reactors: &mut [UdpSockets],
) -> io::Result<SocketAddr> {
    // The kernel copies a multicast datagram to each socket of an address.
    let spread = common.reuse_port && udp.groups.is_empty();
    let options = DatagramOptions {
        batch: udp.batch,
        longest: udp.max_datagram,
        broadcast: udp.broadcast,
        recv_buffer: udp.recv_buffer,
        send_buffer: udp.send_buffer,
        groups: udp.groups.clone(),
        device: common.device.clone(),
        reuse_port: spread || udp.shares_addr,
    };
    let bind = |addr, dual_stack| common.stack.bind_datagram(addr, dual_stack, &options);
    let first = bind_first(targets, family, bind)?;
    let bound = first.local_addr()?;
    let delivery = || match &udp.sessions {
        None => Delivery::Datagrams { listener: number },
        Some(sessions) => {
            let sessions = Sessions::new(number, sessions);
            Delivery::Sessions(Box::new(sessions))
        }
    };
    let owner = number % reactors.len();
    let outbound = common.limits.outbound;
    for (index, sockets) in reactors.iter_mut().enumerate() {
        if spread && index != owner {
            let sibling = first.sibling(&options)?;
            sockets.insert(UdpSocket::new(sibling, delivery(), outbound));
        }
    }
    reactors[owner].insert(UdpSocket::new(first, delivery(), outbound));
    Ok(bound)
}

/// Returns the limits of a session. A datagram arrives whole and never waits for its peer, so the timeouts for that are off.
pub(crate) fn session_limits(limits: &Limits, idle: u64) -> Limits {
    Limits {
        idle,
        read: NEVER,
        write_stall: NEVER,
        watch_open: idle != NEVER || limits.handshake != NEVER || limits.lifetime != NEVER,
        ..limits.clone()
    }
}

impl UdpSocket {
    /// Removes and returns the waiting sessions whose position the queue has passed.
    pub(crate) fn take_flushed(&mut self) -> BTreeSet<(u64, ConnId)> {
        let next = self.queue.gone() + 1;
        let still_waiting = self.waiting.split_off(&(next, ConnId::new(0, 0, 0)));
        std::mem::replace(&mut self.waiting, still_waiting)
    }

    fn new(socket: DatagramSocket, delivery: Delivery, outbound: usize) -> Self {
        Self {
            queue: SendQueue::new(outbound, socket.takes_runs()),
            socket: Arc::new(socket),
            delivery,
            readable: false,
            blocked: false,
            watches_room: false,
            waiting: BTreeSet::new(),
            is_ready: false,
            is_dirty: false,
            is_closing: false,
        }
    }

    /// Creates the entry of a socket with one peer. The kernel has connected it to that, unless it is told by `from`.
    pub(crate) fn connected(
        socket: DatagramSocket,
        from: Option<SocketAddr>,
        outbound: usize,
    ) -> Self {
        Self::new(socket, Delivery::Connected { slot: None, from }, outbound)
    }
}

impl UdpSockets {
    pub(crate) fn insert(&mut self, port: UdpSocket) -> usize {
        self.sockets.insert(port)
    }

    pub(crate) fn remove(&mut self, index: usize) -> Option<UdpSocket> {
        self.sockets.try_remove(index)
    }

    pub(crate) fn get(&self, index: usize) -> Option<&UdpSocket> {
        self.sockets.get(index)
    }

    pub(crate) fn get_mut(&mut self, index: usize) -> Option<&mut UdpSocket> {
        self.sockets.get_mut(index)
    }

    /// Returns the socket of the listener with a number.
    pub(crate) fn of_listener(&self, number: usize) -> Option<usize> {
        let is_it = |port: &UdpSocket| match &port.delivery {
            Delivery::Datagrams { listener } => *listener == number,
            Delivery::Sessions(sessions) => sessions.listener == number,
            Delivery::Connected { .. } => false,
        };
        self.sockets
            .iter()
            .find(|(_, port)| is_it(port))
            .map(|(index, _)| index)
    }

    /// Gives the sockets of a simulated network to their reactor.
    #[cfg(feature = "testing")]
    pub(crate) fn assign(&self, poller: usize) {
        for (_, port) in &self.sockets {
            if let Some(end) = port.socket.as_simulated() {
                end.assign(poller);
            }
        }
    }

    /// Takes over sockets that were bound elsewhere, and registers them. One that cannot be registered is closed.
    pub(crate) fn adopt(&mut self, mut bound: UdpSockets, registry: &Registry) {
        for port in bound.sockets.drain() {
            let socket = port.socket.clone();
            let index = self.sockets.insert(port);
            if let Err(error) = watch(registry, index, &socket) {
                log::error!(target: "epicycle::udp", "cannot watch a socket, so it is closed: {error}");
                self.sockets.try_remove(index);
            }
        }
    }

    /// Closes the socket of a listener, after its last session.
    pub(crate) fn unlisten(&mut self, number: usize) {
        let Some(index) = self.of_listener(number) else {
            return;
        };
        let Some(port) = self.sockets.get_mut(index) else {
            return;
        };
        port.is_closing = true;
        match &mut port.delivery {
            Delivery::Sessions(sessions) if !sessions.open.is_empty() => {
                sessions.max = 0;
                sessions.recency = None;
            }
            _ => self.idle.push(index),
        }
    }

    /// Registers all sockets with tokens from [`PORTS`] on.
    pub(crate) fn register(&self, registry: &Registry) -> io::Result<()> {
        self.sockets
            .iter()
            .try_for_each(|(index, port)| watch(registry, index, &port.socket))
    }

    /// Queues the pieces as one datagram, which is sent at the end of the turn. Returns its length in bytes. `to` has the
    /// address family of the socket. It is none for a connected socket.
    pub(crate) fn push<'a>(
        &mut self,
        index: usize,
        to: Option<SocketAddr>,
        pieces: impl Iterator<Item = &'a [u8]> + Clone,
    ) -> Result<usize, Refused> {
        let port = self.sockets.get_mut(index).ok_or(Refused::Closed)?;
        let len = port.queue.push(to, pieces)?;
        if !port.is_dirty && !port.blocked {
            port.is_dirty = true;
            self.dirty.push(index);
        }
        Ok(len)
    }

    /// Returns the position behind all queued output of a socket.
    pub(crate) fn position(&self, index: usize) -> u64 {
        self.sockets
            .get(index)
            .map_or(0, |port| port.queue.position())
    }

    /// Records an event of a socket.
    pub(crate) fn on_event(&mut self, index: usize, readable: bool, writable: bool) {
        let Some(port) = self.sockets.get_mut(index) else {
            return;
        };
        if writable && port.blocked {
            port.blocked = false;
            port.is_dirty = true;
            self.dirty.push(index);
        }
        if readable {
            port.readable = true;
            self.enqueue(index, false);
        }
    }

    /// Adds a socket to those that will be served, before all others if `first` is true.
    pub(crate) fn enqueue(&mut self, index: usize, first: bool) {
        let Some(port) = self.sockets.get_mut(index) else {
            return;
        };
        if !std::mem::replace(&mut port.is_ready, true) {
            if first {
                self.ready.push_front(index);
            } else {
                self.ready.push_back(index);
            }
        }
    }

    /// Returns the number of sockets to serve.
    #[inline]
    pub(crate) fn ready(&self) -> usize {
        self.ready.len()
    }

    /// Takes the next socket to serve.
    pub(crate) fn next_ready(&mut self) -> Option<usize> {
        let index = self.ready.pop_front()?;
        if let Some(port) = self.sockets.get_mut(index) {
            port.is_ready = false;
        }
        Some(index)
    }

    /// Takes the next socket to flush.
    #[inline]
    pub(crate) fn next_dirty(&mut self) -> Option<usize> {
        let index = self.dirty.pop()?;
        if let Some(port) = self.sockets.get_mut(index) {
            port.is_dirty = false;
        }
        Some(index)
    }

    /// Returns true if there is work that no event will announce.
    #[inline]
    pub(crate) fn have_work(&self) -> bool {
        !self.ready.is_empty() || !self.dirty.is_empty()
    }

    /// Removes a session that has ended.
    pub(crate) fn forget(&mut self, index: usize, peer: &Addr, slot: usize) {
        let Some(port) = self.sockets.get_mut(index) else {
            return;
        };
        match &mut port.delivery {
            Delivery::Datagrams { .. } => {}
            Delivery::Sessions(sessions) => {
                if let Addr::Ip(peer) = peer {
                    sessions.remove(peer, slot);
                }
                if port.is_closing && sessions.open.is_empty() {
                    self.idle.push(index);
                }
            }
            Delivery::Connected { .. } => self.idle.push(index),
        }
    }

    /// Takes the next connected socket whose session has ended.
    #[inline]
    pub(crate) fn next_idle(&mut self) -> Option<usize> {
        self.idle.pop()
    }

    /// Removes all sockets, so that the caller can close them.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = UdpSocket> + '_ {
        self.ready.clear();
        self.dirty.clear();
        self.idle.clear();
        self.sockets.drain()
    }

    /// Stops receiving.
    pub(crate) fn stop(&mut self) {
        while let Some(index) = self.next_ready() {
            if let Some(port) = self.sockets.get_mut(index) {
                port.readable = false;
            }
        }
    }
}

/// Registers a socket for readability.
pub(crate) fn watch(registry: &Registry, index: usize, socket: &DatagramSocket) -> io::Result<()> {
    socket.watch(registry, Token(PORTS + index))
}

/// Registers a socket again: for writability too while it is blocked.
pub(crate) fn rewatch(registry: &Registry, index: usize, port: &mut UdpSocket) -> io::Result<()> {
    let token = Token(PORTS + index);
    port.socket.rewatch(registry, token, port.blocked)?;
    port.watches_room = port.blocked;
    Ok(())
}
