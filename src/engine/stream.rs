//! A connection's stream of bytes, whatever carries it.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

use mio::{Registry, Token};
use socket2::SockRef;

use crate::addr::Addr;
use crate::error::StreamError;
use crate::sys::datagram::DatagramSocket;
pub(crate) use crate::sys::socket::Received;
use crate::sys::socket::{StreamSocket, to_addr};
#[cfg(feature = "tls")]
use crate::tls::TlsInfo;
#[cfg(feature = "tls")]
use crate::tls::stream::{Scratch, TlsStream};

/// What the reactor reads plain bytes from and writes plain bytes to.
#[derive(Debug)]
pub(crate) enum Stream {
    /// A TCP or Unix socket.
    Plain(StreamSocket),
    /// The same with TLS on it.
    #[cfg(feature = "tls")]
    Tls(Box<TlsStream>),
    /// No stream, but datagrams to and from one peer, which the socket's owner receives and sends.
    Datagram(Box<DatagramStream>),
}

/// A session's share of a UDP socket.
#[derive(Debug)]
pub(crate) struct DatagramStream {
    pub(crate) socket: Arc<DatagramSocket>,
    /// The socket's place among those of the reactor.
    pub(crate) port: usize,
    /// The peer, as the socket knows it; none where it is connected.
    pub(crate) to: Option<SocketAddr>,
    /// The place behind its last datagram in the socket's queue, or behind what it found no room after.
    pub(crate) queued_to: u64,
}

/// The room that a reactor's streams share for bytes on their way through.
#[derive(Debug, Default)]
pub(crate) struct TlsScratch {
    #[cfg(feature = "tls")]
    tls: Scratch,
}

#[cfg_attr(
    not(feature = "tls"),
    allow(unused_variables, reason = "only TLS needs room of its own")
)]
impl Stream {
    /// Has its events told with a token; there are none over datagrams.
    pub(crate) fn watch(&self, registry: &Registry, token: Token) -> io::Result<()> {
        match self.socket() {
            Some(socket) => socket.watch(registry, token),
            None => Ok(()),
        }
    }

    /// Connects and shakes hands as far as that goes now; returns whether it is done.
    pub(crate) fn open(
        &mut self,
        writable: bool,
        records: &mut TlsScratch,
    ) -> Result<bool, StreamError> {
        match self {
            Stream::Plain(socket) => Ok(writable && socket.is_connected()?),
            #[cfg(feature = "tls")]
            Stream::Tls(tls) => tls.open(writable, &mut records.tls),
            Stream::Datagram(_) => Ok(true),
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
            #[cfg(feature = "tls")]
            Stream::Tls(tls) => tls.recv(into, &mut records.tls),
            Stream::Datagram(_) => Err(StreamError::WouldBlock),
        }
    }

    /// Sends bytes; returns how many were accepted.
    #[inline]
    pub(crate) fn send(
        &mut self,
        bytes: &[u8],
        records: &mut TlsScratch,
    ) -> Result<usize, StreamError> {
        match self {
            Stream::Plain(socket) => socket.send(bytes).map_err(StreamError::from),
            #[cfg(feature = "tls")]
            Stream::Tls(tls) => tls.send(bytes, &mut records.tls),
            Stream::Datagram(_) => Err(StreamError::WouldBlock),
        }
    }

    /// Sends several slices as one; returns how many bytes were accepted.
    pub(crate) fn send_vectored(
        &mut self,
        slices: &[IoSlice<'_>],
        records: &mut TlsScratch,
    ) -> Result<usize, StreamError> {
        match self {
            Stream::Plain(socket) => socket.send_vectored(slices).map_err(StreamError::from),
            #[cfg(feature = "tls")]
            Stream::Tls(tls) => tls.send_vectored(slices, &mut records.tls),
            Stream::Datagram(_) => Err(StreamError::WouldBlock),
        }
    }

    /// Sends what was accepted and the kernel has not taken yet.
    pub(crate) fn flush(&mut self) -> Result<(), StreamError> {
        match self {
            Stream::Plain(_) | Stream::Datagram(_) => Ok(()),
            #[cfg(feature = "tls")]
            Stream::Tls(tls) => tls.flush(),
        }
    }

    /// Whether there is anything to [`flush`](Self::flush).
    #[inline]
    pub(crate) fn has_tail(&self) -> bool {
        match self {
            Stream::Plain(_) | Stream::Datagram(_) => false,
            #[cfg(feature = "tls")]
            Stream::Tls(tls) => tls.has_tail(),
        }
    }

    /// How many of the bytes accepted the kernel has not taken yet.
    #[inline]
    pub(crate) fn unsent(&self) -> usize {
        match self {
            Stream::Plain(_) | Stream::Datagram(_) => 0,
            #[cfg(feature = "tls")]
            Stream::Tls(tls) => tls.unsent(),
        }
    }

    /// Ends the stream behind everything that was accepted.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when the kernel has to take output first: to be called again after the next flush.
    pub(crate) fn shutdown_write(&mut self) -> Result<(), StreamError> {
        match self {
            Stream::Plain(socket) => socket.shutdown_write().map_err(StreamError::from),
            #[cfg(feature = "tls")]
            Stream::Tls(tls) => tls.shutdown_write(),
            Stream::Datagram(_) => Ok(()),
        }
    }

    /// Makes the close send RST and drop whatever is still on its way.
    pub(crate) fn reset_on_close(&self) {
        if let Some(socket) = self.socket() {
            socket.reset_on_close();
        }
    }

    /// The pending error, if the connection is broken; reading it clears it.
    pub(crate) fn take_error(&self) -> Option<io::Error> {
        self.socket()?.take_error()
    }

    /// How many bytes the peer has acknowledged of those that the socket has taken, `plain` of the application's, if the
    /// kernel can tell. Only good to compare with: of a Unix socket the kernel counts its own buffers.
    pub(crate) fn acknowledged(&self, plain: u64) -> Option<u64> {
        let taken = match self {
            #[cfg(feature = "tls")]
            Stream::Tls(tls) => tls.taken(),
            _ => plain,
        };
        let outstanding = self.socket()?.unacknowledged()?;
        Some(taken.wrapping_sub(outstanding))
    }

    /// Whether there is input that has not been received.
    pub(crate) fn has_input(&self) -> bool {
        match self {
            #[cfg(feature = "tls")]
            Stream::Tls(tls) => tls.has_input(),
            _ => self.socket().is_some_and(StreamSocket::has_input),
        }
    }

    /// The same of what the application would receive at once: an encrypted stream may yet have none for it.
    pub(crate) fn has_decrypted_input(&self) -> bool {
        match self {
            #[cfg(feature = "tls")]
            Stream::Tls(tls) => tls.has_plaintext(),
            _ => self.has_input(),
        }
    }

    pub(crate) fn local_addr(&self) -> io::Result<Addr> {
        self.options().local_addr().map(|addr| to_addr(&addr))
    }

    pub(crate) fn options(&self) -> SockRef<'_> {
        SockRef::from(self)
    }

    pub(crate) fn raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }

    /// The stream socket, if there is one.
    fn socket(&self) -> Option<&StreamSocket> {
        match self {
            Stream::Plain(socket) => Some(socket),
            #[cfg(feature = "tls")]
            Stream::Tls(tls) => Some(tls.socket()),
            Stream::Datagram(_) => None,
        }
    }

    /// The share of a UDP socket, if it is that.
    #[inline]
    pub(crate) fn datagram(&self) -> Option<&DatagramStream> {
        match self {
            Stream::Datagram(datagram) => Some(datagram),
            _ => None,
        }
    }

    /// The same, to be changed.
    pub(crate) fn datagram_mut(&mut self) -> Option<&mut DatagramStream> {
        match self {
            Stream::Datagram(datagram) => Some(datagram),
            _ => None,
        }
    }

    /// The socket itself, unless bytes pass through more than it.
    pub(crate) fn into_socket(self) -> Option<OwnedFd> {
        match self {
            Stream::Plain(socket) => socket.into_fd(),
            #[cfg(feature = "tls")]
            Stream::Tls(_) => None,
            Stream::Datagram(_) => None,
        }
    }

    /// What was negotiated, when it is a TLS stream that has shaken hands.
    #[cfg(feature = "tls")]
    pub(crate) fn tls(&self) -> Option<TlsInfo<'_>> {
        match self {
            Stream::Tls(tls) => tls.info(),
            _ => None,
        }
    }

    /// Whether its socket is a Unix one.
    pub(crate) fn is_unix(&self) -> bool {
        self.socket().is_some_and(StreamSocket::is_unix)
    }

    /// Whether it speaks TLS.
    pub(crate) fn has_tls(&self) -> bool {
        match self {
            #[cfg(feature = "tls")]
            Stream::Tls(_) => true,
            _ => false,
        }
    }

    /// Whether a TLS handshake is under way, or was broken off.
    pub(crate) fn is_shaking_hands(&self) -> bool {
        match self {
            #[cfg(feature = "tls")]
            Stream::Tls(tls) => tls.is_connected() && tls.is_handshaking(),
            _ => false,
        }
    }

    /// Whether it is a kernel's socket that carries the application's bytes as they are.
    pub(crate) fn is_plain(&self) -> bool {
        self.as_plain().is_some_and(StreamSocket::is_kernels)
    }

    /// The socket, if it carries the application's bytes as they are.
    #[inline]
    pub(crate) fn as_plain(&self) -> Option<&StreamSocket> {
        match self {
            Stream::Plain(socket) => Some(socket),
            #[cfg(feature = "tls")]
            Stream::Tls(_) => None,
            Stream::Datagram(_) => None,
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Stream::Plain(socket) => socket.as_fd(),
            #[cfg(feature = "tls")]
            Stream::Tls(tls) => tls.socket().as_fd(),
            Stream::Datagram(datagram) => datagram.socket.as_fd(),
        }
    }
}
