//! HTTP/1.1 for servers and clients, with the feature `http`.
//!
//! [`HttpCodec`] finds requests in a connection's input, and answers leave through it. It is a codec as any other: it works on
//! TCP, Unix sockets and TLS alike, and what it promises is kept by itself, so that a handler cannot break it: only
//! valid messages are sent, and answers are in the order of the requests. A client's side is in [`client`].
//!
//! ```
//! use epicycle::http::{HttpCodec, Request, Response};
//! use epicycle::{Action, Conn, EventHandler, Server};
//!
//! struct Hello;
//!
//! impl EventHandler for Hello {
//!     type Codec = HttpCodec;
//!     type Session = ();
//!
//!     fn codec(&mut self) -> HttpCodec {
//!         HttpCodec::default()
//!     }
//!
//!     fn on_open(&mut self, _conn: &mut Conn<'_, Self>) -> Option<()> {
//!         Some(())
//!     }
//!
//!     fn react(&mut self, conn: &mut Conn<'_, Self>, (): &mut (), request: Request<'_>) -> Action {
//!         let answer = format!("Hello, {}!\n", request.path());
//!         conn.send(Response::ok().header("Content-Type", "text/plain").body(&answer)).into()
//!     }
//! }
//!
//! let running = Server::bind("tcp://127.0.0.1:0").start(|_reactor| Hello)?;
//! # use std::io::{Read, Write};
//! # let mut peer = std::net::TcpStream::connect(running.local_addrs()[0].as_socket_addr().unwrap()).unwrap();
//! # peer.write_all(b"GET /you HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
//! # let mut answer = String::new();
//! # peer.read_to_string(&mut answer).unwrap();
//! # assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nHello, /you!\n"), "{answer}");
//! # Ok::<(), epicycle::Error>(())
//! ```
//!
//! # Timeouts
//!
//! They are the server's. [`read_timeout`](crate::Server::read_timeout) is how long a request may take, from its first
//! byte to its last (for [`HttpStreamCodec`]: its head, and from each part of its body to the next);
//! [`idle_timeout`](crate::Server::idle_timeout) is how long a connection is kept alive between requests,
//! [`answer_timeout`](crate::Server::answer_timeout) how long the handler may take to answer, 503 at its end, and
//! [`write_stall_timeout`](crate::Server::write_stall_timeout) how long a client may not read its answer. A server that faces
//! the public sets the first two.
//!
//! # Beside the codecs
//!
//! A [`Router`] finds what belongs to a path, and an [`Event`] is what a page's `EventSource` hears. That is all there is of a
//! framework.
//!
//! # Safety
//!
//! Messages are read by the strict rules of RFC 9112: what another implementation might read differently is refused,
//! not repaired. See [`MessageError`].

mod answer;
mod assembly;
mod beginning;
mod block;
mod chunked;
pub mod client;
mod codec;
mod error;
mod exchange;
pub(crate) mod fields;
mod flags;
pub(crate) mod head;
mod limits;
mod prepared;
mod reader;
mod recent;
mod request;
mod response;
mod router;
mod sse;
mod stream;
mod write;

pub use ::http::StatusCode;

pub use self::block::HeaderBlock;
pub use self::codec::HttpCodec;
pub use self::error::{MessageError, SendError};
pub use self::fields::Headers;
pub use self::head::Version;
pub use self::limits::Limits;
pub use self::prepared::Prepared;
pub use self::request::Request;
pub use self::response::{Chunk, Continue, End, Response};
pub use self::router::{Match, NoRoute, Params, RouteError, Router};
pub use self::sse::Event;
pub use self::stream::{HttpStreamCodec, Part};
