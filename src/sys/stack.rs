//! The network stack that makes sockets: the kernel's, or that of a host in a simulated network.

use std::io;
use std::net::SocketAddr;

use super::datagram::{DatagramOptions, DatagramSocket};
use super::options::SocketOptions;
#[cfg(feature = "testing")]
use super::simulated::SimulatedHost;
use super::socket::{self, StreamSocket};
use crate::addr::Addr;

/// A network stack. A reactor asks it for its outbound sockets.
#[derive(Clone, Debug)]
pub(crate) enum NetworkStack {
    Kernel,
    #[cfg(feature = "testing")]
    Simulated(SimulatedHost),
}

impl NetworkStack {
    /// Returns the host in the simulated network, if it is one.
    #[cfg(feature = "testing")]
    pub(crate) fn as_simulated(&self) -> Option<&SimulatedHost> {
        match self {
            NetworkStack::Kernel => None,
            NetworkStack::Simulated(host) => Some(host),
        }
    }

    /// Starts a non-blocking connect. `has_records` asks for a Unix socket of records.
    pub(crate) fn connect(
        &self,
        to: &Addr,
        has_records: bool,
        local: Option<SocketAddr>,
        options: &SocketOptions,
    ) -> io::Result<StreamSocket> {
        match self {
            NetworkStack::Kernel => socket::connect(to, has_records, local, options),
            #[cfg(feature = "testing")]
            NetworkStack::Simulated(_) if has_records => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "Unix sockets of records are not simulated",
            )),
            #[cfg(feature = "testing")]
            NetworkStack::Simulated(host) => host.connect(to, local).map(StreamSocket::simulated),
        }
    }

    /// Makes a datagram socket bound to `addr`. With `dual_stack`, an IPv6 socket also accepts IPv4 peers.
    pub(crate) fn bind_datagram(
        &self,
        addr: SocketAddr,
        dual_stack: bool,
        options: &DatagramOptions,
    ) -> io::Result<DatagramSocket> {
        match self {
            NetworkStack::Kernel => DatagramSocket::bind(addr, dual_stack, options),
            #[cfg(feature = "testing")]
            NetworkStack::Simulated(host) => {
                let end = host.bind_datagrams(addr)?;
                DatagramSocket::simulated(end, options)
            }
        }
    }

    /// Makes a datagram socket that sends to and receives from `peer` only.
    pub(crate) fn connect_datagram(
        &self,
        peer: SocketAddr,
        local: Option<SocketAddr>,
        options: &DatagramOptions,
    ) -> io::Result<DatagramSocket> {
        match self {
            NetworkStack::Kernel => DatagramSocket::connect(peer, local, options),
            #[cfg(feature = "testing")]
            NetworkStack::Simulated(host) => {
                let end = host.connect_datagrams(local, peer)?;
                DatagramSocket::simulated(end, options)
            }
        }
    }
}
