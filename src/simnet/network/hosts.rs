//! The hosts: their addresses and listeners, the connections between them, and everything that keeps two of them apart.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};

use super::wire::{Ending, Far, Place, Wire};
use super::{Arrived, End, Happening, Network, State, any_port};

/// The place of a listener within its host.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Door {
    Tcp(u16),
    Unix(Box<[u8]>),
}

/// The owner of a listener.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Listening {
    /// A listener of an engine. `local` is true if only its own host reaches it.
    Engine {
        engine: usize,
        listener: usize,
        local: bool,
    },
    /// A listener of the test, with its number.
    Script(usize),
}

#[derive(Debug)]
pub(super) struct Host {
    /// The address by which the network knows the host.
    primary: IpAddr,
    /// All its addresses. Only the primary one has the list.
    addrs: Vec<IpAddr>,
    is_down: bool,
    next_port: u16,
}

/// The first port that a host assigns by itself.
const FIRST_PORT: u16 = 32_768;

/// The number of times that a SYN is sent again, after 1, 2, 4 … seconds, as on Linux.
const SYN_RETRIES: u32 = 6;

impl Network {
    /// Adds a host, if there is none with this address.
    pub(crate) fn add_host(&self, ip: IpAddr) {
        self.0.lock().hosts.entry(ip).or_insert_with(|| Host {
            primary: ip,
            addrs: vec![ip],
            is_down: false,
            next_port: FIRST_PORT,
        });
    }

    /// Gives a host another address. Returns false if it is taken.
    pub(crate) fn add_address(&self, host: IpAddr, ip: IpAddr) -> bool {
        let mut state = self.0.lock();
        if state.hosts.contains_key(&ip) {
            return false;
        }
        if let Some(primary) = state.hosts.get_mut(&host) {
            primary.addrs.push(ip);
        }
        let alias = Host {
            primary: host,
            addrs: Vec::new(),
            is_down: false,
            next_port: FIRST_PORT,
        };
        state.hosts.insert(ip, alias);
        true
    }

    pub(crate) fn has_host(&self, ip: IpAddr) -> bool {
        self.0.lock().hosts.contains_key(&ip)
    }

    /// Takes a host down, or up again. A host that is down answers nothing, and its connections never know.
    pub(crate) fn set_down(&self, host: IpAddr, is_down: bool) {
        let mut state = self.0.lock();
        let Some(entry) = state.hosts.get_mut(&host) else {
            return;
        };
        if std::mem::replace(&mut entry.is_down, is_down) == is_down {
            return;
        }
        state.note(if is_down { "down" } else { "up" }, 0, 0);
        if is_down {
            state.down += 1;
            let State { wires, hosts, .. } = &mut *state;
            let is_of_it = |ip| hosts.get(&ip).is_some_and(|entry| entry.primary == host);
            for wire in wires.iter_mut().filter(|wire| is_of_it(wire.home)) {
                wire.crashed = true;
            }
            state.listeners.retain(|(owner, _), _| *owner != host);
        } else {
            state.down -= 1;
            state.release();
        }
    }

    /// Cuts or heals one direction between two hosts. Everything under way waits, as TCP sends it again.
    pub(crate) fn set_cut(&self, from: IpAddr, to: IpAddr, is_cut: bool) {
        let mut state = self.0.lock();
        state.note(if is_cut { "cut" } else { "heal" }, 0, 0);
        if is_cut {
            state.cuts.insert((from, to));
        } else if state.cuts.remove(&(from, to)) {
            state.release();
        }
    }

    /// Makes a host listen. Returns the place, with the port that was assigned for 0.
    ///
    /// # Errors
    ///
    /// As `bind(2)`: the address is in use, or the host does not have it.
    pub(crate) fn listen(
        &self,
        host: IpAddr,
        place: Place,
        mut to: Listening,
    ) -> io::Result<Place> {
        let mut state = self.0.lock();
        let (door, place) = match place {
            Place::Unix(path) => (Door::Unix(path.clone()), Place::Unix(path)),
            Place::Ip(addr) => {
                if let Listening::Engine { local, .. } = &mut to {
                    *local = addr.ip().is_loopback();
                }
                let addr = state.local_addr(host, addr)?;
                (Door::Tcp(addr.port()), Place::Ip(addr))
            }
        };
        if state.listeners.contains_key(&(host, door.clone())) {
            return Err(ErrorKind::AddrInUse.into());
        }
        state.listeners.insert((host, door), to);
        Ok(place)
    }

    /// Closes a listener of an engine, or all of them.
    pub(crate) fn unlisten(&self, number: usize, only: Option<usize>) {
        let leaves = |to: &Listening| match to {
            Listening::Engine {
                engine, listener, ..
            } => *engine == number && only.is_none_or(|only| only == *listener),
            Listening::Script(_) => false,
        };
        self.0.lock().listeners.retain(|_, to| !leaves(to));
    }

    /// Adds a listener of the test. Returns its number.
    ///
    /// # Errors
    ///
    /// As for [`listen`](Self::listen).
    pub(crate) fn listen_by_script(&self, addr: SocketAddr) -> io::Result<usize> {
        self.add_host(addr.ip());
        let number = self.0.lock().accepted.len();
        self.listen(addr.ip(), Place::Ip(addr), Listening::Script(number))?;
        self.0.lock().accepted.push(Default::default());
        Ok(number)
    }

    /// Closes a listener of the test.
    pub(crate) fn unlisten_by_script(&self, number: usize) {
        let is_another =
            |to: &mut Listening| !matches!(to, Listening::Script(this) if *this == number);
        self.0.lock().listeners.retain(|_, to| is_another(to));
    }

    /// Takes the next connection that has arrived at a listener of the test.
    pub(crate) fn accept(&self, listener: usize) -> Option<usize> {
        self.0.lock().accepted[listener].pop_front()
    }

    /// Connects a scripted peer. Returns the number of the connection.
    pub(crate) fn connect(&self, from: SocketAddr, host: IpAddr, to: Place) -> usize {
        let mut state = self.0.lock();
        let wire = Wire::new((host, from.ip()), (to, Place::Ip(from)));
        let number = state.add_wire(wire);
        state.tally.connections += 1;
        state.note("connect", number, 0);
        if state.is_held(number, &Happening::Arrive) {
            state.held.push((number, Happening::Arrive));
        } else {
            state.arrive(self, number);
        }
        number
    }

    /// Begins a connect of a reactor.
    ///
    /// # Errors
    ///
    /// As `connect(2)`, where the own host refuses it.
    pub(crate) fn dial(
        &self,
        (host, poller): (IpAddr, usize),
        to: Place,
        local: Option<SocketAddr>,
    ) -> io::Result<End> {
        let mut state = self.0.lock();
        let (home, away, local) = match &to {
            Place::Unix(path) => {
                let door = Door::Unix(path.clone());
                if !state.listeners.contains_key(&(host, door)) {
                    return Err(ErrorKind::NotFound.into());
                }
                (host, host, Place::Unix(Box::default()))
            }
            Place::Ip(to) => {
                let is_own = to.ip().is_loopback();
                let from = match is_own {
                    true => to.ip(),
                    false => state.source_for(host, to.ip())?,
                };
                let local = match local {
                    Some(local) if !local.ip().is_unspecified() => local,
                    Some(local) => SocketAddr::new(from, local.port()),
                    None => any_port(from),
                };
                let local = state.local_addr(host, local)?;
                let (home, away) = match is_own {
                    true => (host, host),
                    false => (local.ip(), to.ip()),
                };
                (home, away, Place::Ip(local))
            }
        };
        let mut wire = Wire::new((home, away), (local, to));
        wire.poller = Some(poller);
        wire.connecting = true;
        let number = state.add_wire(wire);
        state.tally.connections += 1;
        state.note("dial", number, 0);
        let at = match home == away {
            true => state.now,
            false => state.now + state.delay(number),
        };
        state.plan(at, number, Happening::Syn);
        Ok(End::new(self.clone(), number))
    }
}

impl State {
    pub(super) fn primary(&self, ip: IpAddr) -> Option<IpAddr> {
        self.hosts.get(&ip).map(|host| host.primary)
    }

    pub(super) fn is_down(&self, ip: IpAddr) -> bool {
        let primary = self.primary(ip).and_then(|ip| self.hosts.get(&ip));
        primary.is_some_and(|host| host.is_down)
    }

    /// Returns the host's own address for connections to another one.
    pub(super) fn source_for(&self, host: IpAddr, to: IpAddr) -> io::Result<IpAddr> {
        let addrs = self.hosts.get(&host).map(|host| &host.addrs[..]);
        let same_version = |ip: &&IpAddr| ip.is_ipv4() == to.is_ipv4();
        let addr = addrs.unwrap_or_default().iter().find(same_version);
        addr.copied()
            .ok_or_else(|| ErrorKind::NetworkUnreachable.into())
    }

    /// Checks that the host has an address, and assigns a port for 0.
    pub(super) fn local_addr(
        &mut self,
        host: IpAddr,
        mut addr: SocketAddr,
    ) -> io::Result<SocketAddr> {
        let ip = addr.ip();
        let is_own = self.primary(ip) == Some(host);
        if !(ip.is_unspecified() || ip.is_loopback() || is_own) {
            return Err(ErrorKind::AddrNotAvailable.into());
        }
        if addr.port() == 0
            && let Some(host) = self.hosts.get_mut(&host)
        {
            addr.set_port(host.next_port);
            host.next_port = host.next_port.checked_add(1).unwrap_or(FIRST_PORT);
        }
        Ok(addr)
    }

    /// Returns the listener at the far end of a connection that `from` opens.
    fn listener(&self, host: IpAddr, place: &Place, from: IpAddr) -> Option<Listening> {
        let host = self.primary(host)?;
        let door = match place {
            Place::Ip(addr) => Door::Tcp(addr.port()),
            Place::Unix(path) => Door::Unix(path.clone()),
        };
        let found = *self.listeners.get(&(host, door))?;
        let is_hidden = matches!(found, Listening::Engine { local: true, .. });
        (!is_hidden || self.primary(from) == Some(host)).then_some(found)
    }

    /// Hands the connection of a scripted peer to the engine.
    pub(super) fn arrive(&mut self, network: &Network, number: usize) {
        let wire = &self.wires[number];
        match self.listener(wire.home, &wire.local, wire.away) {
            Some(Listening::Engine {
                engine, listener, ..
            }) => {
                self.deliver(network, number, engine, listener);
                self.may_break(number);
            }
            // Nobody listens, or only another scripted peer does.
            Some(Listening::Script(_)) | None => {
                let wire = &mut self.wires[number];
                wire.closed = true;
                wire.ended = true;
                wire.ending = Ending::Reset;
            }
        }
    }

    fn deliver(&mut self, network: &Network, number: usize, engine: usize, listener: usize) {
        let arrived = Arrived {
            engine,
            listener,
            end: End::new(network.clone(), number),
            peer: self.wires[number].remote.clone(),
        };
        self.news.arrived.push(arrived);
    }

    /// Answers the SYN of a reactor, or loses it.
    pub(super) fn syn(&mut self, network: &Network, number: usize) {
        let wire = &self.wires[number];
        if wire.closed || wire.crashed {
            return;
        }
        let (home, away) = (wire.home, wire.away);
        self.note("syn", number, 0);
        if self.cuts.contains(&(home, away)) || self.is_down(away) {
            let wire = &mut self.wires[number];
            wire.syns += 1;
            let happening = match wire.syns {
                0..=SYN_RETRIES => Happening::Syn,
                _ => Happening::GiveUp,
            };
            let pause = 1_000_000 << (wire.syns - 1);
            return self.plan(self.now + pause, number, happening);
        }
        let answer = match self.listener(away, &self.wires[number].remote, home) {
            _ if self.primary(away).is_none() => Happening::Refused(ErrorKind::HostUnreachable),
            None => Happening::Refused(ErrorKind::ConnectionRefused),
            Some(Listening::Script(listener)) => {
                self.accepted[listener].push_back(number);
                Happening::Opened
            }
            Some(Listening::Engine {
                engine, listener, ..
            }) => {
                let wire = &self.wires[number];
                let mut twin = Wire::new((away, home), (wire.remote.clone(), wire.local.clone()));
                twin.far = Far::Twin(number);
                let twin = self.add_wire(twin);
                self.wires[number].far = Far::Twin(twin);
                self.deliver(network, twin, engine, listener);
                Happening::Opened
            }
        };
        let at = match home == away {
            true => self.now,
            false => self.now + self.delay_back(number),
        };
        // Nothing overtakes the answer.
        let wire = &mut self.wires[number];
        wire.last_arrival = wire.last_arrival.max(at);
        self.plan(at, number, answer);
    }

    /// Opens the connection of a reactor.
    pub(super) fn opened(&mut self, number: usize) {
        self.note("opened", number, 0);
        let wire = &mut self.wires[number];
        if wire.closed || wire.crashed {
            return self.reset_peer(number);
        }
        wire.connecting = false;
        self.change(number);
        self.plan_read(number);
        self.may_break(number);
    }

    /// Ends the connect of a reactor.
    pub(super) fn refused(&mut self, number: usize, error: ErrorKind) {
        self.note("refused", number, 0);
        let wire = &mut self.wires[number];
        wire.connecting = false;
        wire.break_off(error);
        self.change(number);
    }

    /// Returns true if something cannot pass now: a cut separates the hosts, or the one that it goes to is down.
    pub(super) fn is_held(&self, number: usize, happening: &Happening) -> bool {
        if self.cuts.is_empty() && self.down == 0 {
            return false;
        }
        // A SYN and a datagram are lost, and the rest of these is no matter of the network.
        if let Happening::Syn
        | Happening::GiveUp
        | Happening::Room
        | Happening::Datagram(_)
        | Happening::DatagramRoom = happening
        {
            return false;
        }
        let Wire { home, away, .. } = self.wires[number];
        let (from, to) = match happening {
            Happening::Read | Happening::Reset => (home, away),
            _ => (away, home),
        };
        self.cuts.contains(&(from, to)) || self.is_down(to)
    }

    /// Sends again what could not pass.
    fn release(&mut self) {
        for (number, happening) in std::mem::take(&mut self.held) {
            let at = match &happening {
                Happening::Read | Happening::Reset => self.now + self.delay(number),
                _ => self.arrival(number, 0),
            };
            self.plan(at, number, happening);
        }
    }
}
