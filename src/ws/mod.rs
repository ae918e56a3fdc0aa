//! WebSocket (RFC 6455) with permessage-deflate (RFC 7692), for servers and clients, with the feature `ws`.
//!
//! A [`ServerCodec`] begins as HTTP. A request that opens a WebSocket is answered with what [`accept`] makes of it; from then on messages
//! come and go. It works on TCP, Unix sockets and TLS alike. A [`ClientCodec`] begins with a [`Handshake`].
//!
//! ```
//! use epicycle::ws::{self, Incoming, ServerCodec};
//! use epicycle::{Action, Conn, EventHandler, Frame, Server};
//!
//! struct Echo;
//!
//! impl EventHandler for Echo {
//!     type Codec = ServerCodec;
//!     type Session = ();
//!
//!     fn codec(&mut self) -> ServerCodec {
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
//! # What is sent
//!
//! | [`Conn::send`](crate::Conn::send) of | sends |
//! |---|---|
//! | `&str`, `String` | a text message |
//! | `&[u8]`, `Vec<u8>` | a binary message |
//! | [`Message`] | either |
//! | [`Prepared`] | a message that is framed once and sent to many |
//! | [`Fragment`] | a part of a message that is made while it is sent |
//! | [`Ping`] | a ping; the codec answers those of the peer |
//! | [`Close`] | the beginning of the closing handshake |
//!
//! What is not allowed, such as a message after a `Close`, is refused with a [`SendError`], so that nothing but valid frames leaves the
//! connection; nothing should be written past the codec, with `Conn::write` say.
//!
//! # Timeouts
//!
//! They are the server's. [`read_timeout`](crate::Server::read_timeout) is how long a frame may take to arrive, and how long the next
//! one of a fragmented message; [`idle_timeout`](crate::Server::idle_timeout) is how long nothing may come or be sent, not even a ping, and
//! [`fin_timeout`](crate::Server::fin_timeout) how long a peer may take to answer a `Close`.

mod accept;
mod assembly;
mod client;
mod close;
mod deflate;
mod encode;
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
mod server;
mod text;

pub use self::accept::{Accept, Refusal, accept};
pub use self::client::{ClientCodec, Event};
pub use self::close::Close;
pub use self::deflate::DeflateOptions;
pub use self::error::SendError;
pub use self::failure::CloseCode;
pub use self::handshake::{Handshake, HandshakeError, Opened};
pub use self::limits::Limits;
pub use self::message::{Fragment, Incoming, Message, Ping, Prepared};
pub use self::server::ServerCodec;
