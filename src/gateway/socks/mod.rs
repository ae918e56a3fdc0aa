//! SOCKS5 (RFC 1928, RFC 1929): the handshakes of both sides, without a socket.
//!
//! [`SocksServer`] is a codec for connections of clients. A gateway uses it on listeners of the kind
//! [`Socks5`](crate::gateway::settings::ListenerKind::Socks5).

mod datagram;
mod server;
mod wire;

pub use self::datagram::{DatagramError, DatagramHeader, SocksDatagram, datagram_header};
pub use self::server::{Asked, Choice, SocksAnswer, SocksFrame, SocksServer};
pub use self::wire::{Command, ReplyCode};
