//! WebSocket (RFC 6455) with permessage-deflate (RFC 7692), for servers and clients, with the feature `ws`.
//!
//! A [`ServerCodec`] starts as HTTP. The handler answers a request for a WebSocket with the result of [`accept`]; from
//! then on both sides send messages. A [`ClientCodec`] starts with a [`Handshake`]. Both work on TCP, Unix sockets and
//! TLS alike.
//!
//! ```
//! use epicycle::ws::{self, Incoming, ServerCodec};
//! use epicycle::{Action, Conn, ConnInfo, EventHandler, Frame, Server};
//!
//! struct Echo;
//!
//! impl EventHandler for Echo {
//!     type Codec = ServerCodec;
//!     type Session = ();
//!
//!     fn codec(&mut self, _: &ConnInfo<'_>) -> ServerCodec {
//!         ServerCodec::default()
//!     }
//!
//!     fn on_open(&mut self, _conn: &mut Conn<'_, Self>) -> Option<()> {
//!         Some(())
//!     }
//!
//!     fn react(&mut self, conn: &mut Conn<'_, Self>, (): &mut (), frame: Frame<'_, Self>) -> Action {
//!         match frame {
//!             Incoming::Request(request) => conn.send(ws::accept(&request)).into(),
//!             Incoming::Message(message) => conn.send(message).into(),
//!             Incoming::Pong(_) | Incoming::Closed(_) => Action::Continue,
//!         }
//!     }
//! }
//!
//! let running = Server::bind("tcp://127.0.0.1:0").start(|_reactor| Echo)?;
//! # use std::io::{Read, Write};
//! # let mut peer = std::net::TcpStream::connect(running.local_addrs()[0].as_socket_addr().unwrap()).unwrap();
//! # peer.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n").unwrap();
//! # peer.write_all(b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n").unwrap();
//! # peer.write_all(b"\x81\x82\0\0\0\0hi\x88\x80\0\0\0\0").unwrap();
//! # let mut answer = Vec::new();
//! # peer.read_to_end(&mut answer).unwrap();
//! # assert!(answer.starts_with(b"HTTP/1.1 101 ") && answer.ends_with(b"\r\n\r\n\x81\x02hi\x88\0"));
//! # Ok::<(), epicycle::Error>(())
//! ```
//!
//! # Sending
//!
//! | [`Conn::send`](crate::Conn::send) of | sends |
//! |---|---|
//! | `&str`, `String` | a text message |
//! | `&[u8]`, `Vec<u8>` | a binary message |
//! | [`Message`] | either |
//! | [`Prepared`] | a message that is framed once and sent to many |
//! | [`Fragment`] | a part of a message that is produced while it is sent |
//! | [`Ping`] | a ping; the codec answers those of the peer |
//! | [`Close`] | the beginning of the closing handshake |
//!
//! An invalid item, such as a message after a `Close`, is refused with a [`SendError`], so that only valid frames leave
//! the connection. Do not write past the codec, with `Conn::write` for example.
//!
//! # Timeouts
//!
//! The server's options set the timeouts:
//!
//! - [`read_timeout`](crate::Server::read_timeout) limits the time in which a frame arrives, and the time until the
//!   next frame of a fragmented message.
//! - [`idle_timeout`](crate::Server::idle_timeout) limits the time in which nothing is received or sent, not even a
//!   ping.
//! - [`fin_timeout`](crate::Server::fin_timeout) limits the time that a peer takes to answer a `Close`.

mod accept;
mod assembly;
mod client;
mod close;
mod deflate;
mod error;
mod extension;
mod failure;
mod frame;
mod handshake;
mod header;
mod key;
mod limits;
mod mask;
mod message;
mod protocol;
mod relay;
mod server;
mod text;

pub use self::accept::{Accept, Refusal, accept};
pub use self::client::{ClientCodec, Event};
pub use self::close::Close;
pub use self::deflate::DeflateOptions;
pub use self::error::SendError;
pub use self::failure::CloseCode;
pub use self::handshake::{Handshake, HandshakeError, Opened};
use self::header::Opcode;
pub use self::limits::Limits;
pub use self::message::{Fragment, Incoming, Message, Ping, Prepared};
pub use self::relay::{RelayCodec, Relayed};
pub use self::server::ServerCodec;
use crate::buf::outbox::Outbox;
use crate::codec::{Encode, FrameError};

// Both codecs encode the items of the table above.
macro_rules! sends {
    ($codec:ty, $($item:ty => |$protocol:ident, $value:ident, $dst:ident| $send:expr;)*) => {
        $(impl Encode<$item> for $codec {
            #[inline]
            fn encode(&mut self, $value: $item, $dst: &mut Outbox<'_>) -> Result<(), FrameError> {
                let $protocol = self.protocol()?;
                $send
            }
        })*
    };
}

macro_rules! both_send {
    ($($codec:ty),*) => {
        $(sends! { $codec,
            Message<'_> => |ws, message, dst| ws.send(message.opcode(), message.as_bytes(), dst);
            &Message<'_> => |ws, message, dst| ws.send(message.opcode(), message.as_bytes(), dst);
            &str => |ws, text, dst| ws.send(Opcode::Text, text.as_bytes(), dst);
            &String => |ws, text, dst| ws.send(Opcode::Text, text.as_bytes(), dst);
            String => |ws, text, dst| ws.send(Opcode::Text, text.as_bytes(), dst);
            &[u8] => |ws, bytes, dst| ws.send(Opcode::Binary, bytes, dst);
            &Vec<u8> => |ws, bytes, dst| ws.send(Opcode::Binary, bytes, dst);
            Vec<u8> => |ws, bytes, dst| ws.send(Opcode::Binary, &bytes, dst);
            Fragment<'_> => |ws, fragment, dst| ws.send_fragment(&fragment, dst);
            Ping<'_> => |ws, ping, dst| ws.send_ping(ping, dst);
            Close<'_> => |ws, close, dst| ws.send_close(close, dst);
        }

        impl<const N: usize> Encode<&[u8; N]> for $codec {
            #[inline]
            fn encode(&mut self, bytes: &[u8; N], dst: &mut Outbox<'_>) -> Result<(), FrameError> {
                self.protocol()?.send(Opcode::Binary, bytes, dst)
            }
        })*
    };
}

both_send!(ServerCodec, ClientCodec);
