//! The sockets of a simulated network.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::sync::Arc;

use socket2::{Domain, Socket, Type};

use crate::addr::Addr;
use crate::simnet::network::{DatagramEnd, End, Listening, Network, Place};

/// The reactor's end of a simulated connection. It has no descriptor of its own.
#[derive(Debug)]
pub(crate) struct Simulated {
    pub(crate) end: End,
    /// A real socket that supplies the descriptor and accepts options.
    pub(crate) stand_in: Arc<StandIn>,
}

/// A socket that is never connected. All simulated sockets of a simulation share it.
#[derive(Debug)]
pub(crate) struct StandIn(Socket);

/// The host of a reactor in a simulated network.
#[derive(Clone, Debug)]
pub(crate) struct SimulatedHost {
    pub(crate) network: Network,
    pub(crate) ip: IpAddr,
    /// The number of its engine.
    pub(crate) engine: usize,
    /// The number by which the reactor polls.
    pub(crate) poller: usize,
    pub(crate) stand_in: Arc<StandIn>,
}

impl SimulatedHost {
    /// Begins to connect.
    pub(crate) fn connect(&self, to: &Addr, local: Option<SocketAddr>) -> io::Result<Simulated> {
        let end = self
            .network
            .dial((self.ip, self.poller), to_place(to), local)?;
        Ok(Simulated {
            end,
            stand_in: self.stand_in.clone(),
        })
    }

    /// Listens on an address. Returns it, with the port that was assigned for 0.
    pub(crate) fn listen(&self, listener: usize, addr: &Addr) -> io::Result<Addr> {
        let owner = Listening::Engine {
            engine: self.engine,
            listener,
            local: false,
        };
        let bound = self.network.listen(self.ip, to_place(addr), owner);
        bound.map(to_addr)
    }

    /// Closes a listener.
    pub(crate) fn unlisten(&self, listener: usize) {
        self.network.unlisten(self.engine, Some(listener));
    }

    /// Makes a datagram socket that is not [assigned](DatagramEnd::assign) to a reactor yet.
    pub(crate) fn bind_datagrams(&self, local: SocketAddr) -> io::Result<DatagramEnd> {
        self.network.bind_datagrams(self.ip, Some(local), None)
    }

    /// Makes a datagram socket of this reactor that sends to and receives from `peer` only.
    pub(crate) fn connect_datagrams(
        &self,
        local: Option<SocketAddr>,
        peer: SocketAddr,
    ) -> io::Result<DatagramEnd> {
        let end = self.network.bind_datagrams(self.ip, local, Some(peer))?;
        end.assign(self.poller);
        Ok(end)
    }
}

impl Simulated {
    pub(crate) fn local_addr(&self) -> Addr {
        to_addr(self.end.local())
    }
}

impl StandIn {
    pub(crate) fn new() -> io::Result<Self> {
        Socket::new(Domain::IPV4, Type::STREAM, None).map(Self)
    }
}

impl std::os::fd::AsFd for StandIn {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Returns the address of a socket in a simulated network.
pub(crate) fn to_addr(place: Place) -> Addr {
    match place {
        Place::Ip(addr) => Addr::Ip(addr),
        Place::Unix(path) => match path.split_first() {
            None => Addr::Unix(None),
            Some((0, name)) => Addr::UnixAbstract(name.into()),
            Some(_) => {
                let path = std::ffi::OsString::from_vec(path.into());
                Addr::Unix(Some(PathBuf::from(path).into()))
            }
        },
    }
}

/// Returns the place of a socket in a simulated network.
pub(crate) fn to_place(addr: &Addr) -> Place {
    match addr {
        Addr::Ip(addr) => Place::Ip(*addr),
        Addr::Unix(path) => {
            let path = path.as_deref().map(|path| path.as_os_str().as_bytes());
            Place::Unix(path.unwrap_or_default().into())
        }
        Addr::UnixAbstract(name) => Place::Unix([&[0], &name[..]].concat().into()),
    }
}
