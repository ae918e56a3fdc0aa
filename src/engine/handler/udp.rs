//! UDP sockets: datagrams without sessions, and the writes of sessions.

use std::fmt;
use std::io;
use std::iter;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use super::context::{Connections, Context, Link};
use super::{Conn, Engine, EventHandler, Reactor, WriteError};
use crate::codec::{Codec, Encode, encode_to_vec};
use crate::engine::conn::close::CloseReason;
use crate::engine::conn::limits::OutboundPolicy;
use crate::engine::udp::sockets::{Delivery, UdpSocket};
use crate::sys::datagram::{MAX_DATAGRAM, MulticastInterface, Refused};

/// A received datagram. [`on_datagram`](EventHandler::on_datagram) and [`admit`](EventHandler::admit) receive it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Datagram<'a> {
    /// The address of the sender. It is easily forged. An IPv4 peer of a dual-stack socket appears as IPv4.
    pub peer: SocketAddr,
    /// The contents, possibly empty.
    pub data: &'a [u8],
    /// True if the datagram was longer than [`max_datagram`](crate::Listen::max_datagram). The rest is lost.
    pub truncated: bool,
}

/// A UDP socket of a reactor, as callbacks receive it.
///
/// Datagrams are sent at the end of the reactor's turn, in batches and in order. The kernel or the network may drop
/// any of them.
pub struct Udp<'a, H: EventHandler> {
    connections: &'a Connections<H>,
    cx: &'a mut Context<H>,
    port: usize,
    /// The sender of the datagram that is being handled.
    peer: Option<SocketAddr>,
}

impl<'a, H: EventHandler> Udp<'a, H> {
    pub(crate) fn new(
        connections: &'a Connections<H>,
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

    /// Sends a copy of `bytes` to the sender of the datagram that is being handled.
    ///
    /// The sender's address may be forged, and the reply then goes to somebody who did not ask. So do not reply with
    /// more bytes than arrived, until the sender has proved its address.
    ///
    /// # Errors
    ///
    /// As for [`send_to`](Self::send_to). [`WriteError::Closed`] outside [`on_datagram`](EventHandler::on_datagram)
    /// and [`admit`](EventHandler::admit), where there is no sender.
    #[inline]
    pub fn reply(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        let peer = self.peer.ok_or(WriteError::Closed)?;
        self.send_to(bytes, peer)
    }

    /// Sends a copy of `bytes` to any address.
    ///
    /// # Errors
    ///
    /// [`WriteError::TooLong`].
    ///
    /// [`WriteError::Full`] if more would wait for that address than the
    /// [`outbound_limit`](crate::Server::outbound_limit), or more for all addresses together than twice that limit.
    /// Each datagram counts some 50 bytes more than its length.
    ///
    /// If the kernel refuses a datagram later, only that datagram is lost. It is logged and counted as dropped.
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

    /// Returns the local address, with the port that the kernel chose.
    ///
    /// # Errors
    ///
    /// The error of `getsockname(2)`.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.port()?.socket.local_addr()
    }

    /// Returns the number of its listener, counted from 0 in the order in which the listeners were given to the
    /// server. Returns `None` for a socket that is connected, and after the socket was closed.
    pub fn listener(&self) -> Option<usize> {
        match self.port().map(|port| &port.delivery) {
            Ok(Delivery::Datagrams { listener }) => Some(*listener),
            Ok(Delivery::Sessions(sessions)) => Some(sessions.listener),
            Ok(Delivery::Connected { .. }) | Err(_) => None,
        }
    }

    /// Returns the number of bytes that wait to be sent to all addresses. Each datagram counts some 50 bytes more
    /// than its length. The result is at most twice the [`outbound_limit`](crate::Server::outbound_limit).
    pub fn queued(&self) -> usize {
        self.port().map_or(0, |port| port.queue.queued())
    }

    /// Returns the time at which this turn of the loop began, as [`Conn::now`] does.
    pub fn now(&self) -> Instant {
        self.cx.time.turn_at()
    }

    /// Returns the time of day at the beginning of the turn, as [`Conn::unix_time`] does.
    pub fn unix_time(&self) -> u64 {
        self.cx.time.unix_time()
    }

    /// Returns the engine that it belongs to.
    pub fn engine(&self) -> &Engine<H> {
        &self.cx.engine
    }

    /// Returns the reactor that it belongs to, with its connections and timers.
    pub fn reactor(&mut self) -> Reactor<'_, H> {
        Reactor::new(self.connections, self.cx)
    }

    /// Joins a multicast group. With [`AcceptMode::ReusePort`](crate::AcceptMode), each reactor's socket that joins
    /// receives a copy of each datagram of the group.
    ///
    /// # Errors
    ///
    /// The error of `setsockopt(2)`.
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
    /// The error of `setsockopt(2)`.
    pub fn leave_multicast(
        &self,
        group: impl Into<IpAddr>,
        interface: MulticastInterface,
    ) -> io::Result<()> {
        self.port()?.socket.leave(group.into(), interface)
    }

    /// Sets the interface through which multicast datagrams are sent.
    ///
    /// # Errors
    ///
    /// The error of `setsockopt(2)`.
    pub fn send_multicast_by(&self, interface: MulticastInterface) -> io::Result<()> {
        self.port()?.socket.send_multicast_by(interface)
    }

    /// Allows or forbids sending to broadcast addresses (`SO_BROADCAST`).
    ///
    /// # Errors
    ///
    /// The error of `setsockopt(2)`.
    pub fn set_broadcast(&self, on: bool) -> io::Result<()> {
        self.port()?.socket.set_broadcast(on)
    }

    /// Returns the socket, for options that `Udp` does not offer. The engine alone may receive, send and close it.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::NotConnected`] if the socket is closed.
    pub fn socket(&self) -> io::Result<BorrowedFd<'_>> {
        self.port().map(|port| port.socket.as_fd())
    }

    fn port(&self) -> io::Result<&UdpSocket> {
        let port = self.cx.udp_sockets.get(self.port);
        port.ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl<H: EventHandler> Context<H> {
    /// Returns the error for a datagram of `len` bytes that was not queued, and counts it.
    #[cold]
    fn refusal(&mut self, refused: Refused, len: usize) -> WriteError {
        let limit = self.limits.server().outbound;
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

    /// Queues the pieces as one datagram to a session's peer.
    pub(super) fn write_datagram<'b>(
        &mut self,
        link: &mut Link,
        pieces: impl Iterator<Item = &'b [u8]> + Clone,
    ) -> Result<(), WriteError> {
        let state = &mut link.state;
        let Some(stream) = link.stream.datagram_mut() else {
            return Err(WriteError::Closed);
        };
        if !state.takes_writes() {
            return Err(WriteError::Closed);
        }
        let port = stream.port;
        let pushed = self.udp_sockets.push(port, stream.to, pieces.clone());
        stream.queued_to = self.udp_sockets.position(port);
        let refused = match pushed {
            Ok(len) => {
                state.on_datagram_queued(len, self.time.now());
                return Ok(());
            }
            Err(refused) => refused,
        };
        match refused {
            Refused::Closed | Refused::TooLong => {}
            // A queue that is full of other peers' datagrams is not this peer's fault.
            Refused::Full(queued)
                if self.limits_of(&link.state).policy == OutboundPolicy::Close =>
            {
                self.abort(link, CloseReason::OutboundLimit { queued });
            }
            Refused::Full(_) | Refused::Crowded(_) => {
                link.state.on_queue_full();
                self.lists.mark_dirty(&mut link.state);
            }
        }
        let len = pieces.map(<[u8]>::len).sum();
        Err(self.refusal(refused, len))
    }
}

impl<H: EventHandler> Conn<'_, H> {
    pub(super) fn write_datagram<'b>(
        &mut self,
        pieces: impl Iterator<Item = &'b [u8]> + Clone,
    ) -> Result<(), WriteError> {
        self.cx.write_datagram(self.link, pieces)
    }

    /// Encodes an item and queues it as one datagram.
    pub(super) fn send_datagram<T>(&mut self, item: T) -> Result<(), WriteError>
    where
        H::Codec: Encode<T>,
    {
        // The codec must not record a message as sent that is refused anyway.
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
