//! The byte stream of a connection: plain, in records, TLS or datagrams.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

use mio::{Registry, Token};
use socket2::SockRef;

use crate::addr::Addr;
use crate::engine::conn::origin::Transport;
use crate::error::StreamError;
use crate::sys::datagram::DatagramSocket;
use crate::sys::packets::PacketStream;
pub(crate) use crate::sys::socket::Received;
use crate::sys::socket::StreamSocket;
#[cfg(feature = "tls")]
use crate::tls::TlsInfo;
#[cfg(feature = "tls")]
use crate::tls::session::Session;
#[cfg(feature = "tls")]
use crate::tls::stream::{Scratch, TlsStream};

/// The stream from which the reactor reads the application's bytes, and to which it writes them.
#[derive(Debug)]
pub(crate) enum Stream {
    /// A TCP or Unix socket.
    Plain(StreamSocket),
    /// A Unix socket of records.
    Packets(Box<PacketStream>),
    /// A TCP or Unix socket with TLS.
    #[cfg(feature = "tls")]
    Tls(Box<TlsStream>),
    /// Datagrams to and from one peer. The owner of the socket, `UdpSockets`, receives and sends them.
    Datagram(Box<DatagramStream>),
}

/// A session's share of a UDP socket.
#[derive(Debug)]
pub(crate) struct DatagramStream {
    pub(crate) socket: Arc<DatagramSocket>,
    /// The socket's place among those of the reactor.
    pub(crate) port: usize,
    /// The peer in the address family of the socket. None if the socket is connected.
    pub(crate) to: Option<SocketAddr>,
    /// The position in the socket's queue behind the last datagram of this session, or the end of the queue when it found no
    /// room.
    pub(crate) queued_to: u64,
}

/// The scratch buffers that a reactor's streams share.
#[derive(Debug, Default)]
pub(crate) struct TlsScratch {
    #[cfg(feature = "tls")]
    tls: Scratch,
}

#[cfg_attr(
    not(feature = "tls"),
    allow(unused_variables, reason = "only TLS needs scratch buffers")
)]
impl Stream {
    /// Returns the stream without TLS on a socket.
    #[inline]
    pub(crate) fn plain(socket: StreamSocket) -> Self {
        match socket.has_records() {
            false => Stream::Plain(socket),
            true => Self::packets(socket),
        }
    }

    #[cold]
    fn packets(socket: StreamSocket) -> Self {
        Stream::Packets(Box::new(PacketStream::new(socket)))
    }

    /// Returns the stream with TLS instead, if it is plain. `input` has arrived already, and belongs to the handshake.
    #[cfg(feature = "tls")]
    pub(crate) fn with_tls(self, session: Session, input: &mut [u8]) -> Self {
        match self {
            Stream::Plain(socket) => Stream::Tls(Box::new(TlsStream::amid(socket, session, input))),
            other => other,
        }
    }

    /// Registers the socket with a token: for input, and for room for output if `for_room` is true. Does nothing for
    /// datagrams.
    pub(crate) fn watch(
        &self,
        registry: &Registry,
        token: Token,
        for_room: bool,
    ) -> io::Result<()> {
        match self.socket() {
            Some(socket) => socket.watch(registry, token, for_room),
            None => Ok(()),
        }
    }

    /// Registers the socket again, for room for output too. Does nothing for datagrams.
    pub(crate) fn watch_room(&self, registry: &Registry, token: Token) -> io::Result<()> {
        match self.socket() {
            Some(socket) => socket.watch_room(registry, token),
            None => Ok(()),
        }
    }

    /// Continues the connect and the TLS handshake without blocking. Returns true when both are complete.
    pub(crate) fn open(
        &mut self,
        writable: bool,
        records: &mut TlsScratch,
    ) -> Result<bool, StreamError> {
        match self {
            Stream::Plain(socket) => Ok(writable && socket.is_connected()?),
            Stream::Packets(packets) => Ok(writable && packets.socket().is_connected()?),
            #[cfg(feature = "tls")]
            Stream::Tls(tls) => tls.open(writable, &mut records.tls),
            Stream::Datagram(_) => Ok(true),
        }
    }

    /// Looks at received bytes of the socket without taking them. Returns `None` if there are none yet, and no bytes at the
    /// end of the stream.
    pub(crate) fn peek<'a>(&self, into: &'a mut [u8]) -> io::Result<Option<&'a [u8]>> {
        let Some(socket) = self.socket() else {
            return Ok(None);
        };
        match socket.peek(into) {
            Ok(n) => Ok(Some(&into[..n])),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Takes bytes from the socket that a [`peek`](Self::peek) has found, as many as `into` has.
    pub(crate) fn take_peeked(&self, into: &mut [u8]) -> io::Result<()> {
        self.socket()
            .map_or(Ok(()), |socket| socket.take_peeked(into))
    }

    /// Returns true if the socket is connected, false if the connect is still under way.
    ///
    /// # Errors
    ///
    /// The errors of the connect.
    pub(crate) fn is_connected(&self) -> io::Result<bool> {
        self.socket().map_or(Ok(true), StreamSocket::is_connected)
    }

    /// Sends bytes on the socket, below TLS. Returns the number that it takes.
    pub(crate) fn send_raw(&self, bytes: &[u8]) -> io::Result<usize> {
        match self.socket() {
            Some(socket) => socket.send(bytes),
            None => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Sends bytes before anything else, also before TLS. Returns false if the socket is not connected yet.
    ///
    /// # Errors
    ///
    /// The errors of the connect, and `WriteZero` if the kernel does not take them all. Its buffer is empty at that time.
    #[cfg(feature = "proxy-protocol")]
    pub(crate) fn send_first(&self, writable: bool, bytes: &[u8]) -> io::Result<bool> {
        let Some(socket) = self.socket() else {
            return Ok(true);
        };
        if !writable || !socket.is_connected()? {
            return Ok(false);
        }
        match socket.send(bytes) {
            Ok(n) if n == bytes.len() => Ok(true),
            Ok(_) => Err(io::ErrorKind::WriteZero.into()),
            Err(error) => Err(error),
        }
    }

    /// Receives bytes.
    #[inline]
    pub(crate) fn recv(
        &mut self,
        into: &mut [u8],
        records: &mut TlsScratch,
    ) -> Result<Received, StreamError> {
        match self {
            Stream::Plain(socket) => socket.receive(into).map_err(StreamError::from),
            Stream::Packets(packets) => packets.receive(into).map_err(StreamError::from),
            #[cfg(feature = "tls")]
            Stream::Tls(tls) => tls.recv(into, &mut records.tls),
            Stream::Datagram(_) => Err(StreamError::WouldBlock),
        }
    }

    /// Sends bytes. Returns the number of accepted bytes.
    #[inline]
    pub(crate) fn send(
        &mut self,
        bytes: &[u8],
        records: &mut TlsScratch,
    ) -> Result<usize, StreamError> {
        match self {
            Stream::Plain(socket) => socket.send(bytes).map_err(StreamError::from),
            Stream::Packets(packets) => packets.send(bytes).map_err(StreamError::from),
            #[cfg(feature = "tls")]
            Stream::Tls(tls) => tls.send(bytes, &mut records.tls),
            Stream::Datagram(_) => Err(StreamError::WouldBlock),
        }
    }

    /// Sends several slices as one. Returns the number of accepted bytes.
    pub(crate) fn send_vectored(
        &mut self,
        slices: &[IoSlice<'_>],
        records: &mut TlsScratch,
    ) -> Result<usize, StreamError> {
        match self {
            Stream::Plain(socket) => socket.send_vectored(slices).map_err(StreamError::from),
            Stream::Packets(packets) => packets.send_vectored(slices).map_err(StreamError::from),
            #[cfg(feature = "tls")]
            Stream::Tls(tls) => tls.send_vectored(slices, &mut records.tls),
            Stream::Datagram(_) => Err(StreamError::WouldBlock),
        }
    }

    /// Sends the tail: bytes that the stream has accepted and the kernel has not.
    pub(crate) fn flush(&mut self) -> Result<(), StreamError> {
        match self {
            Stream::Plain(_) | Stream::Packets(_) | Stream::Datagram(_) => Ok(()),
            #[cfg(feature = "tls")]
            Stream::Tls(tls) => tls.flush(),
        }
    }

    /// Returns true if there is a tail to [`flush`](Self::flush).
    #[inline]
    pub(crate) fn has_tail(&self) -> bool {
        match self {
            Stream::Plain(_) | Stream::Packets(_) | Stream::Datagram(_) => false,
            #[cfg(feature = "tls")]
            Stream::Tls(tls) => tls.has_tail(),
        }
    }

    /// Returns the number of accepted bytes that the kernel has not taken yet.
    #[inline]
    pub(crate) fn unsent(&self) -> usize {
        match self {
            Stream::Plain(_) | Stream::Packets(_) | Stream::Datagram(_) => 0,
            #[cfg(feature = "tls")]
            Stream::Tls(tls) => tls.unsent(),
        }
    }

    /// Ends the stream after all accepted bytes.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if the kernel must take output first. Call it again after the next flush.
    pub(crate) fn shutdown_write(&mut self) -> Result<(), StreamError> {
        match self {
            Stream::Plain(socket) => socket.shutdown_write().map_err(StreamError::from),
            Stream::Packets(packets) => {
                packets.socket().shutdown_write().map_err(StreamError::from)
            }
            #[cfg(feature = "tls")]
            Stream::Tls(tls) => tls.shutdown_write(),
            Stream::Datagram(_) => Ok(()),
        }
    }

    /// Makes the close send RST and drop unsent output.
    pub(crate) fn reset_on_close(&self) {
        if let Some(socket) = self.socket() {
            socket.reset_on_close();
        }
    }

    /// Returns and clears the pending error of a broken connection.
    pub(crate) fn take_error(&self) -> Option<io::Error> {
        self.socket()?.take_error()
    }

    /// Returns the number of sent bytes that the peer has acknowledged, if the kernel knows it. `plain` is the number of the
    /// application's bytes that the socket has taken. Only compare the result with earlier ones: for a Unix socket the kernel
    /// counts its own buffers.
    pub(crate) fn acknowledged(&self, plain: u64) -> Option<u64> {
        let taken = match self {
            #[cfg(feature = "tls")]
            Stream::Tls(tls) => tls.taken(),
            _ => plain,
        };
        let outstanding = self.socket()?.unacknowledged()?;
        Some(taken.wrapping_sub(outstanding))
    }

    /// Returns true if there is input that has not been received.
    pub(crate) fn has_input(&self) -> bool {
        match self {
            #[cfg(feature = "tls")]
            Stream::Tls(tls) => tls.has_input(),
            Stream::Packets(packets) => packets.has_input(),
            _ => self.socket().is_some_and(StreamSocket::has_input),
        }
    }

    /// Returns true if there is input that the application would receive at once. Encrypted input may contain none for it.
    pub(crate) fn has_decrypted_input(&self) -> bool {
        match self {
            #[cfg(feature = "tls")]
            Stream::Tls(tls) => tls.has_plaintext(),
            _ => self.has_input(),
        }
    }

    pub(crate) fn local_addr(&self) -> io::Result<Addr> {
        match self {
            Stream::Datagram(datagram) => datagram.socket.local_addr().map(Addr::Ip),
            #[cfg(feature = "tls")]
            Stream::Tls(tls) => tls.socket().local_addr(),
            Stream::Plain(socket) => socket.local_addr(),
            Stream::Packets(packets) => packets.socket().local_addr(),
        }
    }

    pub(crate) fn options(&self) -> SockRef<'_> {
        SockRef::from(self)
    }

    pub(crate) fn raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }

    /// Returns the stream socket, if there is one.
    pub(crate) fn socket(&self) -> Option<&StreamSocket> {
        match self {
            Stream::Plain(socket) => Some(socket),
            Stream::Packets(packets) => Some(packets.socket()),
            #[cfg(feature = "tls")]
            Stream::Tls(tls) => Some(tls.socket()),
            Stream::Datagram(_) => None,
        }
    }

    /// Returns the share of a UDP socket, if the stream is one.
    #[inline]
    pub(crate) fn datagram(&self) -> Option<&DatagramStream> {
        match self {
            Stream::Datagram(datagram) => Some(datagram),
            _ => None,
        }
    }

    /// Returns the share of a UDP socket mutably, if the stream is one.
    pub(crate) fn datagram_mut(&mut self) -> Option<&mut DatagramStream> {
        match self {
            Stream::Datagram(datagram) => Some(datagram),
            _ => None,
        }
    }

    /// Returns the socket of a plain stream.
    pub(crate) fn into_socket(self) -> Option<OwnedFd> {
        match self {
            Stream::Plain(socket) => socket.into_fd(),
            #[cfg(feature = "tls")]
            Stream::Tls(_) => None,
            Stream::Packets(_) | Stream::Datagram(_) => None,
        }
    }

    /// Returns the negotiated parameters of a TLS stream after its handshake.
    #[cfg(feature = "tls")]
    pub(crate) fn tls(&self) -> Option<TlsInfo<'_>> {
        match self {
            Stream::Tls(tls) => tls.info(),
            _ => None,
        }
    }

    /// Returns true if the socket is a Unix socket.
    pub(crate) fn is_unix(&self) -> bool {
        self.socket().is_some_and(StreamSocket::is_unix)
    }

    /// Returns the protocol that was agreed on in the TLS handshake.
    pub(crate) fn alpn(&self) -> Option<&[u8]> {
        #[cfg(feature = "tls")]
        if let Some(info) = self.tls() {
            return info.alpn();
        }
        None
    }

    /// Returns the transport.
    pub(crate) fn transport(&self) -> Transport {
        match self {
            Stream::Datagram(_) => Transport::Udp,
            Stream::Packets(_) => Transport::UnixPacket,
            _ if self.is_unix() => Transport::Unix,
            _ => Transport::Tcp,
        }
    }

    /// Returns true if the stream uses TLS.
    pub(crate) fn has_tls(&self) -> bool {
        match self {
            #[cfg(feature = "tls")]
            Stream::Tls(_) => true,
            _ => false,
        }
    }

    /// Returns true if a TLS handshake has begun and is not complete.
    pub(crate) fn is_shaking_hands(&self) -> bool {
        match self {
            #[cfg(feature = "tls")]
            Stream::Tls(tls) => tls.is_connected() && tls.is_handshaking(),
            _ => false,
        }
    }

    /// Returns true if the stream is plain and its socket is a kernel's, not a simulated one.
    pub(crate) fn is_plain(&self) -> bool {
        self.as_plain().is_some_and(StreamSocket::is_kernels)
    }

    /// Returns the socket of a plain stream by reference.
    #[inline]
    pub(crate) fn as_plain(&self) -> Option<&StreamSocket> {
        match self {
            Stream::Plain(socket) => Some(socket),
            #[cfg(feature = "tls")]
            Stream::Tls(_) => None,
            Stream::Packets(_) | Stream::Datagram(_) => None,
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Stream::Plain(socket) => socket.as_fd(),
            Stream::Packets(packets) => packets.socket().as_fd(),
            #[cfg(feature = "tls")]
            Stream::Tls(tls) => tls.socket().as_fd(),
            Stream::Datagram(datagram) => datagram.socket.as_fd(),
        }
    }
}
