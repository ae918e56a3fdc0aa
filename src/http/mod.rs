//! HTTP/1.1 for servers and clients, with the feature `http`.
//!
//! [`HttpCodec`] finds requests in a connection's input, and answers leave through it. It is a codec as any other: it works on
//! TCP, Unix sockets and TLS alike. It sends only valid messages, and answers in the order of the requests, as long as a
//! handler writes nothing past it. A client's side is in [`client`].
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
//! the public sets them all; [`handshake_timeout`](crate::Server::handshake_timeout) limits the wait for the first request.
//!
//! # Slow answers
//!
//! A handler must not block. It takes the answer along with [`Conn::defer_answer`](crate::Conn::defer_answer), and a
//! [`WorkerPool`](crate::WorkerPool) gives it. A job that panics drops the [`Answer`](crate::Answer), and the client gets a 500. A job that
//! is rejected drops it too, but the handler may still answer by itself before its callback ends:
//!
//! ```
//! # use epicycle::http::{HttpCodec, Request, Response, StatusCode};
//! # use epicycle::{Action, Conn, EventHandler, WorkerPool};
//! struct Api {
//!     pool: WorkerPool,
//! }
//!
//! impl EventHandler for Api {
//! #   type Codec = HttpCodec;
//! #   type Session = ();
//! #   fn codec(&mut self) -> HttpCodec { HttpCodec::default() }
//! #   fn on_open(&mut self, _: &mut Conn<'_, Self>) -> Option<()> { Some(()) }
//!     fn react(&mut self, conn: &mut Conn<'_, Self>, (): &mut (), request: Request<'_>) -> Action {
//!         let answer = conn.defer_answer();
//!         let query = request.body().to_vec();
//!         let job = move || {
//!             let result = query; // of a database, say
//!             // The client may have gone meanwhile: then nobody hears it.
//!             let _ = answer.send(Response::ok().shared_body(result));
//!         };
//!         match self.pool.submit(job) {
//!             Ok(()) => Action::Continue,
//!             Err(rejected) => {
//!                 let why = rejected.to_string();
//!                 let busy = Response::text(StatusCode::SERVICE_UNAVAILABLE, &why);
//!                 conn.send(busy.header("Retry-After", "1")).into()
//!             }
//!         }
//!     }
//! }
//! ```
//!
//! A response that borrows is made on the connection's own thread, by [`Answer::run`](crate::Answer::run).
//!
//! # An access log
//!
//! The handler logs what it answers. What the codec has answered in its place it finds in
//! [`Closed::refused`](struct@crate::Closed): requests that were malformed, too large or too slow, which the handler has not seen, and
//! those that it has seen and not answered. Whoever keeps the request under way in the session knows which of the two it was,
//! and which requests were left by their client.
//!
//! ```
//! # use epicycle::http::{HttpCodec, Request};
//! # use epicycle::{Action, CloseReason, Closed, Conn, EventHandler};
//! # struct Api;
//! # impl EventHandler for Api {
//! #   type Codec = HttpCodec;
//! #   type Session = Option<String>;
//! #   fn codec(&mut self) -> HttpCodec { HttpCodec::default() }
//! #   fn on_open(&mut self, _: &mut Conn<'_, Self>) -> Option<Option<String>> { Some(None) }
//! #   fn react(&mut self, _: &mut Conn<'_, Self>, _: &mut Option<String>, _: Request<'_>) -> Action { Action::Close }
//! /// `under_way` is the request that `react` has put there and that has no answer.
//! fn on_close(&mut self, info: &Closed, under_way: Option<String>, reason: CloseReason) {
//!     match (&info.refused, under_way) {
//!         (Some(refused), Some(request)) => println!("{} {request} {}", info.peer, refused.status),
//!         (Some(refused), None) => {
//!             println!("{} {} {}", info.peer, refused.input.escape_ascii(), refused.status);
//!         }
//!         (None, Some(request)) => println!("{} {request} no answer: {reason}", info.peer),
//!         (None, None) => {}
//!     }
//! }
//! # }
//! ```
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
mod check;
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
