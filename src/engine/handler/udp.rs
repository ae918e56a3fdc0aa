//! Datagrams without sessions, and what differs for sessions over datagrams.

use std::fmt;
use std::io;
use std::iter;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use super::context::{Connections, Context};
use super::{Conn, Engine, EventHandler, Reactor, WriteError};
use crate::codec::{Codec, Encode, encode_to_vec};
use crate::engine::conn::close::CloseReason;
use crate::engine::conn::limits::OutboundPolicy;
use crate::engine::udp::sockets::{Delivery, UdpSocket};
use crate::sys::datagram::{MAX_DATAGRAM, MulticastInterface, Refused};

/// A datagram that has arrived, for [`on_datagram`](EventHandler::on_datagram).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Datagram<'a> {
    /// Who has sent it, as far as one can tell: the address is easily forged. An IPv4 peer of a dual-stack socket shows
    /// as IPv4.
    pub peer: SocketAddr,
    /// What was sent, possibly nothing.
    pub data: &'a [u8],
    /// It was longer than [`max_datagram`](crate::Listen::max_datagram), and the rest is lost.
    pub truncated: bool,
}

/// A UDP socket of a reactor, as callbacks see it.
///
/// What is sent leaves at the end of the reactor's turn, in batches and in order. The kernel, or the network, may drop
/// any of it.
pub struct Udp<'a, H: EventHandler> {
    connections: &'a mut Connections<H>,
    cx: &'a mut Context<H>,
    port: usize,
    /// Who has sent the datagram that is being handled.
    peer: Option<SocketAddr>,
}

impl<'a, H: EventHandler> Udp<'a, H> {
    pub(crate) fn new(
        connections: &'a mut Connections<H>,
        cx: &'a mut Context<H>,
        port: usize,
        peer: Option<SocketAddr>,
    ) -> Self {
        Self {
            connections,
            cx,
            port,
            peer,
        }
    }

    /// Sends a copy of `bytes` to who has sent the datagram that is being handled.
    ///
    /// Bytes that prove nothing about their sender should not be answered with more than came: the address may be
    /// forged, and the answer go to somebody who has not asked.
    ///
    /// # Errors
    ///
    /// As for [`send_to`](Self::send_to). Outside [`on_datagram`](EventHandler::on_datagram) and
    /// [`admit`](EventHandler::admit) there is nobody to reply to: [`WriteError::Closed`].
    #[inline]
    pub fn reply(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        let peer = self.peer.ok_or(WriteError::Closed)?;
        self.send_to(bytes, peer)
    }

    /// Sends a copy of `bytes` to any address.
    ///
    /// # Errors
    ///
    /// [`WriteError::TooLong`], and [`WriteError::Full`] when more waits for that address than the
    /// [`outbound_limit`](crate::Server::outbound_limit) allows, or than is left of twice that, which is the most that waits for
    /// all addresses. Each datagram is counted with some 50 bytes more than it has. What the kernel refuses later costs that datagram alone: it is logged, and counted as dropped.
    pub fn send_to(&mut self, bytes: &[u8], addr: SocketAddr) -> Result<(), WriteError> {
        let to = match self.port() {
            Ok(port) => port.socket.to_wire(addr),
            Err(_) => return Err(WriteError::Closed),
        };
        let pushed = self
            .cx
            .udp_sockets
            .push(self.port, Some(to), iter::once(bytes));
        match pushed {
            Ok(_) => Ok(()),
            Err(refused) => Err(self.cx.refusal(refused, bytes.len())),
        }
    }

    /// This end's address, with the port the kernel chose.
    ///
    /// # Errors
    ///
    /// What `getsockname(2)` answers.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.port()?.socket.local_addr()
    }

    /// Which listener it is, counted from 0 in the order in which the server was told of them.
    pub fn listener(&self) -> usize {
        match self.port().map(|port| &port.delivery) {
            Ok(Delivery::Datagrams { listener }) => *listener,
            Ok(Delivery::Sessions(sessions)) => sessions.listener,
            Ok(Delivery::Connected { .. }) | Err(_) => usize::MAX,
        }
    }

    /// How many bytes wait to be sent to all addresses, each datagram counted with some 50 more. At most twice the
    /// [`outbound_limit`](crate::Server::outbound_limit).
    pub fn queued(&self) -> usize {
        self.port().map_or(0, |port| port.queue.queued())
    }

    /// When this turn of the loop began, as [`Conn::now`] tells it.
    pub fn now(&self) -> Instant {
        self.cx.time.turn_at()
    }

    /// The engine it belongs to.
    pub fn engine(&self) -> &Engine<H> {
        &self.cx.engine
    }

    /// The reactor it belongs to: its connections, its clock, its timers.
    pub fn reactor(&mut self) -> Reactor<'_, H> {
        Reactor::new(self.connections, self.cx)
    }

    /// Joins a multicast group. With [`AcceptMode::ReusePort`](crate::AcceptMode), each reactor's socket that joins gets a
    /// copy of each of the group's datagrams.
    ///
    /// # Errors
    ///
    /// What `setsockopt(2)` answers.
    pub fn join_multicast(
        &self,
        group: impl Into<IpAddr>,
        interface: MulticastInterface,
    ) -> io::Result<()> {
        self.port()?.socket.join(group.into(), interface)
    }

    /// Leaves a multicast group.
    ///
    /// # Errors
    ///
    /// What `setsockopt(2)` answers.
    pub fn leave_multicast(
        &self,
        group: impl Into<IpAddr>,
        interface: MulticastInterface,
    ) -> io::Result<()> {
        self.port()?.socket.leave(group.into(), interface)
    }

    /// Chooses the interface by which multicast datagrams leave.
    ///
    /// # Errors
    ///
    /// What `setsockopt(2)` answers.
    pub fn send_multicast_by(&self, interface: MulticastInterface) -> io::Result<()> {
        self.port()?.socket.send_multicast_by(interface)
    }

    /// Allows sending to broadcast addresses, or forbids it (`SO_BROADCAST`).
    ///
    /// # Errors
    ///
    /// What `setsockopt(2)` answers.
    pub fn set_broadcast(&self, on: bool) -> io::Result<()> {
        self.port()?.socket.set_broadcast(on)
    }

    /// The socket, for options that are not offered here. Receiving, sending and closing are the engine's.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::NotConnected`] when the socket is closed.
    pub fn socket(&self) -> io::Result<BorrowedFd<'_>> {
        self.port().map(|port| port.socket.as_fd())
    }

    fn port(&self) -> io::Result<&UdpSocket> {
        let port = self.cx.udp_sockets.get(self.port);
        port.ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl<H: EventHandler> Context<H> {
    /// Why a datagram of `len` bytes was not queued.
    #[cold]
    fn refusal(&mut self, refused: Refused, len: usize) -> WriteError {
        let limit = self.limits.outbound;
        let (queued, limit) = match refused {
            Refused::Closed => return WriteError::Closed,
            Refused::TooLong => {
                let max = MAX_DATAGRAM;
                return WriteError::TooLong { len, max };
            }
            Refused::Full(queued) => (queued, limit),
            Refused::Crowded(queued) => (queued, 2 * limit),
        };
        self.metrics.overflows.add(1);
        WriteError::Full { queued, limit }
    }
}

impl<H: EventHandler> Conn<'_, H> {
    /// Queues the pieces as one datagram to the session's peer.
    pub(super) fn write_datagram<'b>(
        &mut self,
        pieces: impl Iterator<Item = &'b [u8]> + Clone,
    ) -> Result<(), WriteError> {
        let state = &mut self.link.state;
        let Some(stream) = self.link.stream.datagram_mut() else {
            return Err(WriteError::Closed);
        };
        if !state.takes_writes() {
            return Err(WriteError::Closed);
        }
        let port = stream.port;
        let pushed = self.cx.udp_sockets.push(port, stream.to, pieces.clone());
        stream.queued_to = self.cx.udp_sockets.position(port);
        let refused = match pushed {
            Ok(len) => {
                state.on_datagram_queued(len, self.cx.time.now());
                return Ok(());
            }
            Err(refused) => refused,
        };
        match refused {
            Refused::Closed | Refused::TooLong => {}
            // What others have queued is no fault of this peer's.
            Refused::Full(queued) if self.cx.limits.policy == OutboundPolicy::Close => {
                let reason = CloseReason::OutboundLimit { queued };
                self.cx.abort(self.link, reason);
            }
            Refused::Full(_) | Refused::Crowded(_) => {
                self.link.state.on_queue_full();
                self.cx.lists.mark_dirty(&mut self.link.state);
            }
        }
        let len = pieces.map(<[u8]>::len).sum();
        Err(self.cx.refusal(refused, len))
    }

    /// Encodes an item and queues it as one datagram.
    pub(super) fn send_datagram<T>(&mut self, item: T) -> Result<(), WriteError>
    where
        H::Codec: Encode<T>,
    {
        // What is refused anyway must not be noted as said.
        if !self.link.state.takes_writes() {
            return Err(WriteError::Closed);
        }
        let bytes = encode_to_vec(self.codec, item).map_err(WriteError::Frame)?;
        self.write_datagram(iter::once(&bytes[..]))?;
        if H::Codec::CONVERSES {
            self.after_send();
        }
        Ok(())
    }
}

impl<H: EventHandler> fmt::Debug for Udp<'_, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Udp")
            .field("listener", &self.listener())
            .field("queued", &self.queued())
            .finish_non_exhaustive()
    }
}
