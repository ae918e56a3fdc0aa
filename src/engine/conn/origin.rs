//! The origin of a connection, and what is known of it when its codec is made.

use crate::addr::Addr;

/// The way in which a connection came into the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Origin {
    /// A listener accepted it.
    Accepted {
        /// The listener, counted from 0 in the order in which the listeners were given to the server.
        listener: usize,
    },
    /// This side connected ([`Engine::connect`](crate::Engine::connect)).
    Connected {
        /// The number given to [`Connect::token`](crate::Connect::token).
        token: u64,
    },
    /// An established socket was given to [`Engine::adopt`](crate::Engine::adopt).
    Adopted {
        /// The number given to [`Engine::adopt`](crate::Engine::adopt).
        token: u64,
    },
}

/// The description of a new connection, for which [`EventHandler::codec`](crate::EventHandler::codec) makes the codec.
#[derive(Clone, Copy, Debug)]
pub struct ConnInfo<'a> {
    pub(crate) origin: Origin,
    pub(crate) label: &'a str,
    pub(crate) transport: Transport,
    pub(crate) alpn: Option<&'a [u8]>,
    pub(crate) peer: &'a Addr,
}

/// The transport of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Transport {
    /// TCP.
    Tcp,
    /// A Unix stream socket.
    Unix,
    /// A Unix socket of records ([`unixpacket://`](crate::Endpoint#records)).
    UnixPacket,
    /// A UDP session.
    Udp,
}

impl<'a> ConnInfo<'a> {
    /// Returns the origin: the listener that accepted it, or the number of the outbound or adopted connection.
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// Returns the [label](crate::Listen::label) of the listener that accepted it. It is empty if the listener has none, and
    /// for other connections.
    pub fn label(&self) -> &'a str {
        self.label
    }

    /// Returns the transport.
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// Returns the protocol that both sides have agreed on in the TLS handshake (ALPN, RFC 7301).
    ///
    /// It is `None` without TLS, without such an agreement, and before the handshake: see
    /// [`EventHandler::codec`](crate::EventHandler::codec).
    pub fn alpn(&self) -> Option<&'a [u8]> {
        self.alpn
    }

    /// Returns the peer's address. On a listener that expects [PROXY headers](crate::Listen::proxy_protocol) it is that of the
    /// proxy: the header arrives later, and [`Conn::peer_addr`](crate::Conn::peer_addr) is the client.
    pub fn peer_addr(&self) -> &'a Addr {
        self.peer
    }
}

/// An origin without its number. A connection stores the number elsewhere, to save space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Accepted,
    Connected,
    Adopted,
}

impl Origin {
    pub(crate) fn split(self) -> (Direction, u64) {
        match self {
            Origin::Accepted { listener } => (Direction::Accepted, listener as u64),
            Origin::Connected { token } => (Direction::Connected, token),
            Origin::Adopted { token } => (Direction::Adopted, token),
        }
    }
}

impl Direction {
    pub(crate) fn with(self, number: u64) -> Origin {
        match self {
            Direction::Accepted => Origin::Accepted {
                listener: number as usize,
            },
            Direction::Connected => Origin::Connected { token: number },
            Direction::Adopted => Origin::Adopted { token: number },
        }
    }
}
