//! Connections that the peer makes: a socket awaits one, as an outbound connection that is not open yet.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::addr::Addr;
use crate::sys::socket::{self, StreamSocket};

/// A socket that awaits one connection, and the check of its peer.
#[derive(Clone, Debug)]
pub(crate) struct Awaiting {
    socket: Arc<StreamSocket>,
    pub(crate) admits: Admits,
}

/// A check of each peer that connects.
#[derive(Clone)]
pub(crate) struct Admits(Arc<dyn Fn(SocketAddr) -> bool + Send + Sync>);

impl Awaiting {
    /// Opens a socket at a local address. Returns the address with the port that was assigned for 0, too.
    pub(crate) fn bind(
        local: SocketAddr,
        admits: impl Fn(SocketAddr) -> bool + Send + Sync + 'static,
    ) -> io::Result<(Self, SocketAddr)> {
        let socket = socket::await_peer(local)?;
        let bound = socket.local_addr()?.as_socket_addr().unwrap_or(local);
        let awaiting = Self {
            socket: Arc::new(socket),
            admits: Admits(Arc::new(admits)),
        };
        Ok((awaiting, bound))
    }

    /// Returns the socket.
    ///
    /// # Errors
    ///
    /// It has a copy. Each socket is for one attempt.
    pub(crate) fn into_socket(self) -> io::Result<StreamSocket> {
        let single = Arc::into_inner(self.socket);
        single.ok_or_else(|| io::Error::other("another attempt has the socket that awaits"))
    }
}

impl Admits {
    /// Returns true if the peer may have the connection.
    pub(crate) fn admits(&self, peer: &Addr) -> bool {
        matches!(peer, Addr::Ip(peer) if (self.0)(*peer))
    }
}

impl fmt::Debug for Admits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Admits")
    }
}
