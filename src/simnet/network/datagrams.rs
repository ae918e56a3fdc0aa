//! Datagram sockets. What they send may be lost, arrive twice, and overtake.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};

use super::wire::Readiness;
use super::{Happening, Network, Source, State};

/// A simulated datagram socket. Dropping it closes it.
#[derive(Debug)]
pub(crate) struct DatagramEnd {
    network: Network,
    number: usize,
}

/// A datagram, with the address that it comes from.
pub(crate) type Datagram = (SocketAddr, Vec<u8>);

/// A datagram on its way.
#[derive(Debug)]
pub(super) struct InFlight {
    /// The hosts from and to which it travels.
    path: (IpAddr, IpAddr),
    from: SocketAddr,
    to: SocketAddr,
    bytes: Vec<u8>,
}

#[derive(Debug)]
pub(super) struct DatagramSocket {
    host: IpAddr,
    local: SocketAddr,
    /// The only address that it sends to and receives from.
    peer: Option<SocketAddr>,
    poller: Option<usize>,
    token: Option<usize>,
    /// True while an event is due.
    changed: bool,
    arrived: VecDeque<Datagram>,
    /// The number of bytes in `arrived`.
    len: usize,
    error: Option<ErrorKind>,
    /// True if an event must report that there is room.
    has_room: bool,
    closed: bool,
}

/// The most bytes that wait in a socket, as by Linux's `net.core.rmem_default`.
const RECEIVE_BUFFER: usize = 212_992;

impl Network {
    /// Binds a socket on a host. `peer` connects it.
    ///
    /// # Errors
    ///
    /// As `bind(2)` and `connect(2)`.
    pub(crate) fn bind_datagrams(
        &self,
        host: IpAddr,
        local: Option<SocketAddr>,
        peer: Option<SocketAddr>,
    ) -> io::Result<DatagramEnd> {
        let mut state = self.0.lock();
        let own = match peer {
            Some(peer) if !peer.ip().is_loopback() => state.source_for(host, peer.ip())?,
            Some(peer) => peer.ip(),
            None => host,
        };
        let local = match local {
            Some(local) if !local.ip().is_unspecified() => local,
            Some(local) => SocketAddr::new(own, local.port()),
            None => SocketAddr::new(own, 0),
        };
        let local = state.local_addr(host, local)?;
        if peer.is_none() && !state.bound_at(host, local.port()).is_empty() {
            return Err(ErrorKind::AddrInUse.into());
        }
        Ok(state.add_socket(self, host, local, peer))
    }

    /// Makes a socket that nobody polls receive what a test wants to send and see.
    pub(crate) fn bind_datagrams_by_script(&self, addr: SocketAddr) -> io::Result<DatagramEnd> {
        self.add_host(addr.ip());
        self.bind_datagrams(addr.ip(), Some(addr), None)
    }
}

impl DatagramEnd {
    /// Returns another socket on the same address. Peers are divided among them.
    pub(crate) fn sibling(&self) -> Self {
        let mut state = self.network.0.lock();
        let DatagramSocket { host, local, .. } = state.sockets[self.number];
        state.add_socket(&self.network, host, local, None)
    }

    /// Gives the socket to a reactor.
    pub(crate) fn assign(&self, poller: usize) {
        self.network.0.lock().sockets[self.number].poller = Some(poller);
    }

    /// Registers the socket for events with this token.
    pub(crate) fn watch(&self, token: usize) {
        let mut state = self.network.0.lock();
        state.sockets[self.number].token = Some(token);
        state.change_socket(self.number);
    }

    pub(crate) fn local(&self) -> SocketAddr {
        self.network.0.lock().sockets[self.number].local
    }

    /// Acts as `recvfrom(2)`.
    pub(crate) fn receive(&self) -> io::Result<Datagram> {
        let mut state = self.network.0.lock();
        let socket = &mut state.sockets[self.number];
        if let Some(error) = socket.error.take() {
            return Err(error.into());
        }
        let Some((from, bytes)) = socket.arrived.pop_front() else {
            return Err(ErrorKind::WouldBlock.into());
        };
        socket.len -= bytes.len();
        state.note("recvfrom", self.number, bytes.len());
        Ok((from, bytes))
    }

    /// Acts as `sendto(2)`. A connected socket needs no address.
    pub(crate) fn send(&self, to: Option<SocketAddr>, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.network.0.lock();
        state.note("sendto", self.number, bytes.len());
        state.send_datagram(self.number, to, bytes)
    }
}

impl Drop for DatagramEnd {
    fn drop(&mut self) {
        let mut state = self.network.0.lock();
        let socket = &mut state.sockets[self.number];
        socket.closed = true;
        socket.arrived = VecDeque::new();
        let (host, port) = (socket.host, socket.local.port());
        if let Some(bound) = state.bound.get_mut(&(host, port)) {
            bound.retain(|number| *number != self.number);
        }
    }
}

impl DatagramSocket {
    pub(super) fn is_registered(&self) -> bool {
        self.token.is_some() || self.closed
    }

    /// Returns the readiness of the socket, and resets what an event reports only once.
    pub(super) fn take_readiness(&mut self) -> Option<Readiness> {
        self.changed = false;
        let token = self.token.filter(|_| !self.closed)?;
        let ready = Readiness {
            token,
            readable: !self.arrived.is_empty() || self.error.is_some(),
            writable: std::mem::take(&mut self.has_room),
            read_closed: false,
            error: self.error.is_some(),
        };
        (ready.readable || ready.writable).then_some(ready)
    }
}

impl State {
    fn add_socket(
        &mut self,
        network: &Network,
        host: IpAddr,
        local: SocketAddr,
        peer: Option<SocketAddr>,
    ) -> DatagramEnd {
        let number = self.sockets.len();
        self.sockets.push(DatagramSocket {
            host,
            local,
            peer,
            poller: None,
            token: None,
            changed: false,
            arrived: VecDeque::new(),
            len: 0,
            error: None,
            has_room: false,
            closed: false,
        });
        self.bound
            .entry((host, local.port()))
            .or_default()
            .push(number);
        DatagramEnd {
            network: network.clone(),
            number,
        }
    }

    fn bound_at(&self, host: IpAddr, port: u16) -> &[usize] {
        self.bound
            .get(&(host, port))
            .map_or(&[], |bound| &bound[..])
    }

    fn send_datagram(
        &mut self,
        number: usize,
        to: Option<SocketAddr>,
        bytes: &[u8],
    ) -> io::Result<()> {
        let DatagramSocket {
            host, local, peer, ..
        } = self.sockets[number];
        let Some(to) = to.or(peer) else {
            return Err(ErrorKind::NotConnected.into());
        };
        if let Some(error) = self.sockets[number].error.take() {
            return Err(error.into());
        }
        let (from_ip, to_ip) = match to.ip().is_loopback() {
            true => (host, host),
            false => (self.source_for(host, to.ip())?, to.ip()),
        };
        let link = self.link_of(from_ip, to_ip);
        let (interference, loss, duplicates) = (link.interference, link.loss, link.duplicates);
        if self.sockets[number].poller.is_some() && self.chance(interference) {
            self.tally.interfered += 1;
            let at = self.now + self.delay_between(from_ip, to_ip);
            self.plan(at, number, Happening::DatagramRoom);
            return Err(ErrorKind::WouldBlock.into());
        }
        let from = match local.ip().is_unspecified() {
            true => SocketAddr::new(from_ip, local.port()),
            false => local,
        };
        let copies = match (self.chance(loss), self.chance(duplicates)) {
            (true, _) => 0,
            (false, true) => 2,
            (false, false) => 1,
        };
        for _ in 0..copies {
            let at = self.now + self.delay_between(from_ip, to_ip);
            let datagram = InFlight {
                path: (from_ip, to_ip),
                from,
                to,
                bytes: bytes.to_vec(),
            };
            self.plan(at, number, Happening::Datagram(Box::new(datagram)));
        }
        Ok(())
    }

    /// Lets a datagram arrive that a socket has sent.
    pub(super) fn datagram_arrives(&mut self, sender: usize, datagram: InFlight) {
        let InFlight {
            path: (from_ip, to_ip),
            from,
            to,
            bytes,
        } = datagram;
        if self.cuts.contains(&(from_ip, to_ip)) || self.is_down(to_ip) {
            return;
        }
        self.note("datagram", sender, bytes.len());
        let Some(host) = self.primary(to_ip) else {
            return self.refuse_datagram(sender, ErrorKind::HostUnreachable);
        };
        match self.recipient(host, to.port(), from) {
            Some(number) => {
                let socket = &mut self.sockets[number];
                if socket.len + bytes.len() <= RECEIVE_BUFFER {
                    socket.len += bytes.len();
                    socket.arrived.push_back((from, bytes));
                    self.change_socket(number);
                }
            }
            None => self.refuse_datagram(sender, ErrorKind::ConnectionRefused),
        }
    }

    /// Tells a connected socket that what it has sent did not arrive.
    fn refuse_datagram(&mut self, sender: usize, error: ErrorKind) {
        let socket = &mut self.sockets[sender];
        if socket.peer.is_some() && !socket.closed {
            socket.error = Some(error);
            self.change_socket(sender);
        }
    }

    /// Returns the socket of a host that receives from an address: the one that is connected to it, or one of the others.
    fn recipient(&self, host: IpAddr, port: u16, from: SocketAddr) -> Option<usize> {
        let bound = self.bound_at(host, port);
        let connected = bound
            .iter()
            .find(|number| self.sockets[**number].peer == Some(from));
        if let Some(connected) = connected {
            return Some(*connected);
        }
        let others = bound
            .iter()
            .filter(|number| self.sockets[**number].peer.is_none());
        let others: Vec<usize> = others.copied().collect();
        // A peer always has the same socket.
        let hash = match from.ip() {
            IpAddr::V4(ip) => ip.to_bits() as usize,
            IpAddr::V6(ip) => ip.to_bits() as usize,
        };
        let place = (hash + usize::from(from.port())).checked_rem(others.len())?;
        others.get(place).copied()
    }

    pub(super) fn datagram_room(&mut self, number: usize) {
        self.sockets[number].has_room = true;
        self.change_socket(number);
    }

    /// Makes an event due for a socket.
    fn change_socket(&mut self, number: usize) {
        let socket = &mut self.sockets[number];
        if let Some(poller) = socket.poller
            && !socket.changed
            && !socket.closed
        {
            socket.changed = true;
            self.changed[poller].push(Source::Datagrams(number));
        }
    }
}
