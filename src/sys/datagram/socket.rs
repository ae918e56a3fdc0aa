//! Datagram sockets and their options.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use socket2::{Domain, Protocol, Socket, Type};

use super::multicast::{self, MulticastInterface};
use super::{MAX_BATCH, batches, canonical};
#[cfg(feature = "testing")]
use crate::simnet::network::DatagramEnd;
use crate::sys::options::{named, set_recv_buffer, set_send_buffer};
use crate::sys::socket::{bind_to_device, set_reuse_port};

/// A non-blocking datagram socket.
#[derive(Debug)]
pub(crate) struct DatagramSocket {
    socket: Socket,
    batch: usize,
    longest: usize,
    is_batched: bool,
    hands_over_runs: bool,
    takes_runs: bool,
    is_v6: bool,
    /// The socket in a simulated network. The real one only supplies the descriptor then.
    #[cfg(feature = "testing")]
    simulated: Option<DatagramEnd>,
}

/// The options of a datagram socket.
#[derive(Clone, Debug)]
pub(crate) struct DatagramOptions {
    /// The most datagrams that a call receives or sends, from 1 to [`MAX_BATCH`].
    pub(crate) batch: usize,
    /// The longest datagram received whole, in bytes.
    pub(crate) longest: usize,
    pub(crate) broadcast: bool,
    pub(crate) recv_buffer: Option<usize>,
    pub(crate) send_buffer: Option<usize>,
    pub(crate) groups: Vec<(IpAddr, MulticastInterface)>,
    pub(crate) device: Option<String>,
    pub(crate) reuse_port: bool,
}

impl Default for DatagramOptions {
    fn default() -> Self {
        Self {
            batch: MAX_BATCH,
            longest: 64 << 10,
            broadcast: false,
            recv_buffer: None,
            send_buffer: None,
            groups: Vec::new(),
            device: None,
            reuse_port: false,
        }
    }
}

impl DatagramSocket {
    /// Creates a socket bound to `addr`. With `dual_stack`, an IPv6 socket also accepts IPv4 peers.
    pub(crate) fn bind(
        addr: SocketAddr,
        dual_stack: bool,
        options: &DatagramOptions,
    ) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
        if addr.is_ipv6() {
            socket.set_only_v6(!dual_stack)?;
        }
        if options.reuse_port {
            named("accept_mode", set_reuse_port(&socket))?;
        }
        // Several programs of a host may join a group on one port.
        if !options.groups.is_empty() {
            socket.set_reuse_address(true)?;
        }
        let this = Self::with_options(socket, addr.is_ipv6(), options)?;
        this.socket.bind(&addr.into())?;
        for (group, interface) in &options.groups {
            named("join_multicast", this.join(*group, *interface))?;
        }
        Ok(this)
    }

    /// Creates a socket that sends to and receives from `peer` only.
    pub(crate) fn connect(
        peer: SocketAddr,
        local: Option<SocketAddr>,
        options: &DatagramOptions,
    ) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(peer), Type::DGRAM, Some(Protocol::UDP))?;
        let this = Self::with_options(socket, peer.is_ipv6(), options)?;
        if let Some(local) = local {
            this.socket.bind(&local.into())?;
        }
        this.socket.connect(&peer.into())?;
        Ok(this)
    }

    fn with_options(socket: Socket, is_v6: bool, options: &DatagramOptions) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        named("broadcast", socket.set_broadcast(options.broadcast))?;
        if let Some(bytes) = options.recv_buffer {
            named("recv_buffer", set_recv_buffer(&socket, bytes))?;
        }
        if let Some(bytes) = options.send_buffer {
            named("send_buffer", set_send_buffer(&socket, bytes))?;
        }
        if let Some(device) = &options.device {
            named("bind_to_device", bind_to_device(&socket, device))?;
        }
        let batch = options.batch.clamp(1, MAX_BATCH);
        let is_batched = batch > 1 && batches::SUPPORTED;
        Ok(Self {
            hands_over_runs: is_batched && batches::enable_runs_in(socket.as_fd()),
            takes_runs: is_batched && batches::takes_runs_out(socket.as_fd()),
            socket,
            batch,
            longest: options.longest,
            is_batched,
            is_v6,
            #[cfg(feature = "testing")]
            simulated: None,
        })
    }

    /// Creates a socket of a simulated network.
    #[cfg(feature = "testing")]
    pub(crate) fn simulated(end: DatagramEnd, options: &DatagramOptions) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        Ok(Self {
            socket,
            batch: options.batch.clamp(1, MAX_BATCH),
            longest: options.longest,
            is_batched: false,
            hands_over_runs: false,
            takes_runs: false,
            is_v6: false,
            simulated: Some(end),
        })
    }

    /// Returns the socket in the simulated network, if it is one.
    #[cfg(feature = "testing")]
    #[inline]
    pub(crate) fn as_simulated(&self) -> Option<&DatagramEnd> {
        self.simulated.as_ref()
    }

    /// Registers the socket for readability.
    pub(crate) fn watch(&self, registry: &Registry, token: Token) -> io::Result<()> {
        #[cfg(feature = "testing")]
        if let Some(end) = &self.simulated {
            end.watch(token.0);
            return Ok(());
        }
        registry.register(&mut SourceFd(&self.raw_fd()), token, Interest::READABLE)
    }

    /// Registers the socket again: for readability, and for writability too if `for_room` is true.
    pub(crate) fn rewatch(
        &self,
        registry: &Registry,
        token: Token,
        for_room: bool,
    ) -> io::Result<()> {
        #[cfg(feature = "testing")]
        if self.simulated.is_some() {
            // It reports room only after it has refused a datagram.
            return Ok(());
        }
        let interest = match for_room {
            true => Interest::READABLE | Interest::WRITABLE,
            false => Interest::READABLE,
        };
        registry.reregister(&mut SourceFd(&self.raw_fd()), token, interest)
    }

    /// Creates another socket on the same address. The kernel distributes the peers over them.
    pub(crate) fn sibling(&self, options: &DatagramOptions) -> io::Result<Self> {
        #[cfg(feature = "testing")]
        if let Some(end) = &self.simulated {
            return Self::simulated(end.sibling(), options);
        }
        let addr = self.wire_local_addr()?;
        let dual_stack = addr.is_ipv6() && !self.socket.only_v6()?;
        Self::bind(addr, dual_stack, options)
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        #[cfg(feature = "testing")]
        if let Some(end) = &self.simulated {
            return Ok(end.local());
        }
        self.wire_local_addr().map(canonical)
    }

    fn wire_local_addr(&self) -> io::Result<SocketAddr> {
        let addr = self.socket.local_addr()?.as_socket();
        addr.ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Converts a destination for this socket. An IPv6 socket needs IPv4 addresses in mapped form.
    pub(crate) fn to_wire(&self, addr: SocketAddr) -> SocketAddr {
        match addr {
            SocketAddr::V4(v4) if self.is_v6 => {
                SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port())
            }
            addr => addr,
        }
    }

    /// Joins a multicast group on an interface.
    pub(crate) fn join(&self, group: IpAddr, interface: MulticastInterface) -> io::Result<()> {
        multicast::join(&self.socket, group, interface)
    }

    /// Leaves a multicast group.
    pub(crate) fn leave(&self, group: IpAddr, interface: MulticastInterface) -> io::Result<()> {
        multicast::leave(&self.socket, group, interface)
    }

    /// Selects the interface by which multicast datagrams leave.
    pub(crate) fn send_multicast_by(&self, interface: MulticastInterface) -> io::Result<()> {
        multicast::send_by(&self.socket, self.is_v6, interface)
    }

    pub(crate) fn set_broadcast(&self, on: bool) -> io::Result<()> {
        self.socket.set_broadcast(on)
    }

    pub(crate) fn raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Returns the most datagrams that a call receives or sends.
    pub(crate) fn batch(&self) -> usize {
        self.batch
    }

    /// Returns the length of the longest datagram received whole.
    pub(super) fn longest(&self) -> usize {
        self.longest
    }

    /// Returns true if a call may receive or send several datagrams.
    pub(super) fn is_batched(&self) -> bool {
        self.is_batched
    }

    /// Returns true if the kernel may deliver a run of datagrams as one message.
    pub(super) fn hands_over_runs(&self) -> bool {
        self.hands_over_runs
    }

    /// Returns true if the kernel accepts a run of datagrams as one message.
    pub(crate) fn takes_runs(&self) -> bool {
        self.takes_runs
    }

    /// Makes the socket use one call for each datagram, as on platforms without batches.
    #[cfg(all(test, not(loom)))]
    pub(super) fn make_portable(&mut self) {
        self.is_batched = false;
        self.takes_runs = false;
    }
}

impl AsFd for DatagramSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
