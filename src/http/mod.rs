//! HTTP/1.1 for servers and clients, with the feature `http`.
//!
//! [`HttpCodec`] finds requests in a connection's input, and encodes the answers. It works on TCP, Unix sockets and TLS
//! alike, as any codec does. It sends only valid messages, and answers in the order of the requests, as long as the
//! handler writes nothing past it. The [`client`] module is the client's side.
//!
//! ```
//! use epicycle::http::{HttpCodec, ServerRequest, ServerResponse};
//! use epicycle::{Action, Conn, ConnInfo, EventHandler, Server};
//!
//! struct Hello;
//!
//! impl EventHandler for Hello {
//!     type Codec = HttpCodec;
//!     type Session = ();
//!
//!     fn codec(&mut self, _: &ConnInfo<'_>) -> HttpCodec {
//!         HttpCodec::default()
//!     }
//!
//!     fn on_open(&mut self, _conn: &mut Conn<'_, Self>) -> Option<()> {
//!         Some(())
//!     }
//!
//!     fn react(&mut self, conn: &mut Conn<'_, Self>, (): &mut (), request: ServerRequest<'_>) -> Action {
//!         let answer = format!("Hello, {}!\n", request.path());
//!         conn.send(ServerResponse::ok().header("Content-Type", "text/plain").body(&answer)).into()
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
//! The server's options set the timeouts:
//!
//! - [`read_timeout`](crate::Server::read_timeout) limits the time for a request, from its first byte to its last. For
//!   [`HttpStreamCodec`] it limits the time for the head, and then the time from each part of the body to the next.
//! - [`idle_timeout`](crate::Server::idle_timeout) limits the time that a connection is kept alive between requests.
//! - [`answer_timeout`](crate::Server::answer_timeout) limits the time that the handler takes to answer. When it
//!   expires, the client gets a 503.
//! - [`write_stall_timeout`](crate::Server::write_stall_timeout) limits the time for which a client does not read its
//!   answer.
//! - [`handshake_timeout`](crate::Server::handshake_timeout) limits the wait for the first request.
//!
//! Set all of them on a server that faces the public.
//!
//! # Slow answers
//!
//! A handler must not block. It defers the answer with [`Conn::defer_answer`](crate::Conn::defer_answer) and passes it
//! to a job in a [`WorkerPool`](crate::WorkerPool), which sends it. If the job panics, it drops the
//! [`Answer`](crate::Answer), and the client gets a 500. If the pool rejects the job, the answer is dropped too, but
//! the handler may still answer directly before its callback ends:
//!
//! ```
//! # use epicycle::http::{HttpCodec, ServerRequest, ServerResponse, StatusCode};
//! # use epicycle::{Action, Conn, ConnInfo, EventHandler, WorkerPool};
//! struct Api {
//!     pool: WorkerPool,
//! }
//!
//! impl EventHandler for Api {
//! #   type Codec = HttpCodec;
//! #   type Session = ();
//! #   fn codec(&mut self, _: &ConnInfo<'_>) -> HttpCodec { HttpCodec::default() }
//! #   fn on_open(&mut self, _: &mut Conn<'_, Self>) -> Option<()> { Some(()) }
//!     fn react(&mut self, conn: &mut Conn<'_, Self>, (): &mut (), request: ServerRequest<'_>) -> Action {
//!         let answer = conn.defer_answer();
//!         let query = request.body().to_vec();
//!         let job = move || {
//!             let result = query; // from a database, for example
//!             // This fails if the client has gone; there is nothing left to do then.
//!             let _ = answer.send(ServerResponse::ok().shared_body(result));
//!         };
//!         match self.pool.submit(job) {
//!             Ok(()) => Action::Continue,
//!             Err(rejected) => {
//!                 let why = rejected.to_string();
//!                 let busy = ServerResponse::text(StatusCode::SERVICE_UNAVAILABLE, &why);
//!                 conn.send(busy.header("Retry-After", "1")).into()
//!             }
//!         }
//!     }
//! }
//! ```
//!
//! Use [`Answer::run`](crate::Answer::run) for a response that borrows: it is built on the connection's own thread.
//!
//! # An access log
//!
//! The handler logs the answers that it sends. The codec reports its own answers in
//! [`Closed::refused`](struct@crate::Closed): those to requests that were malformed, too large or too slow, which the
//! handler has not seen, and those to requests that the handler has not answered. Keep the current request in the
//! session to tell these two apart, and to log the requests that the client abandoned.
//!
//! ```
//! # use epicycle::http::{HttpCodec, ServerRequest};
//! # use epicycle::{Action, CloseReason, Closed, Conn, ConnInfo, EventHandler, Reactor};
//! # struct Api;
//! # impl EventHandler for Api {
//! #   type Codec = HttpCodec;
//! #   type Session = Option<String>;
//! #   fn codec(&mut self, _: &ConnInfo<'_>) -> HttpCodec { HttpCodec::default() }
//! #   fn on_open(&mut self, _: &mut Conn<'_, Self>) -> Option<Option<String>> { Some(None) }
//! #   fn react(&mut self, _: &mut Conn<'_, Self>, _: &mut Option<String>, _: ServerRequest<'_>) -> Action { Action::Close }
//! /// `under_way` is the request that `react` stored, which has no answer yet.
//! fn on_close(&mut self, _: &mut Reactor<'_, Self>, info: &Closed, under_way: Option<String>, reason: CloseReason) {
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
//! # A relay
//!
//! A proxy is made of the two codecs in parts. What one side receives becomes what the other side sends:
//! [`client::ClientRequest::relayed`], [`ServerResponse::relayed`] and [`Headers::end_to_end`] leave out what is about
//! one connection. Header lines are copied as they were received, and not checked again.
//!
//! ```
//! use epicycle::http::client::{self, StreamCodec};
//! use epicycle::http::{Chunk, HeaderBlock, HttpStreamCodec, RequestPart, ServerResponse, Trailers};
//! use epicycle::{Conn, EventHandler, WriteError};
//!
//! /// Passes a part of a client's request on to the origin. `block` is one for all messages.
//! fn ask<H>(origin: &mut Conn<'_, H>, block: &mut HeaderBlock, part: RequestPart<'_>) -> Result<(), WriteError>
//! where
//!     H: EventHandler<Codec = StreamCodec>,
//! {
//!     match part {
//!         RequestPart::Head(request) => {
//!             block.fill(request.headers().end_to_end())?;
//!             origin.send(client::ClientRequest::relayed(&request).block(block))
//!         }
//!         RequestPart::Body(bytes) => origin.send(Chunk(bytes)),
//!         RequestPart::End(trailers) => {
//!             block.fill(trailers.end_to_end())?;
//!             origin.send(Trailers(block))
//!         }
//!         _ => Ok(()),
//!     }
//! }
//!
//! /// Passes a part of the origin's response on to the client.
//! fn answer<H>(client: &mut Conn<'_, H>, block: &mut HeaderBlock, part: client::ResponsePart<'_>) -> Result<(), WriteError>
//! where
//!     H: EventHandler<Codec = HttpStreamCodec>,
//! {
//!     match part {
//!         client::ResponsePart::Interim(response) | client::ResponsePart::Head(response) => {
//!             block.fill(response.headers().end_to_end())?;
//!             client.send(ServerResponse::relayed(&response).block(block))
//!         }
//!         client::ResponsePart::Body(bytes) => client.send(Chunk(bytes)),
//!         client::ResponsePart::End(trailers) => {
//!             block.fill(trailers.end_to_end())?;
//!             client.send(Trailers(block))
//!         }
//!         client::ResponsePart::Upgraded(bytes) => client.write(bytes),
//!         _ => Ok(()),
//!     }
//! }
//! ```
//!
//! Use [`manual_continue`](HttpStreamCodec::manual_continue), so that the origin decides about `100 Continue`. If the
//! origin fails after its head was passed on, [abort](crate::Conn::abort) the client's connection: the response must
//! not look complete. Before that, send a 502: it is refused with [`SendError`] if the response has begun. It is refused also
//! if no response is due. A client that waits for none is [closed](crate::Conn::close), since an abort could cost it the rest of
//! its last response. A client of HTTP/1.0 may name no host: give the request that of the origin, with
//! [`host`](client::ClientRequest::host).
//!
//! [`Conn::with`](crate::Conn::with) reaches the other connection. Its documentation has the rules by which a relay reads no
//! more from one connection than the other takes.
//!
//! A simple proxy has one origin connection for each client: it dials in `on_open`, and pauses the client's reads until that
//! connection is open. If a proxy dials for each request, the head is there before the connection is. Encode it at once with a new `StreamCodec`, by
//! [`encode_to_vec`](crate::codec::encode_to_vec), and pause reads. Once the connection is open,
//! [switch](crate::Conn::switch) it to that codec and write the bytes. In one handler, both codecs are
//! [`one_of!`](crate::codec::one_of). `tests/http/proxy.rs` is a complete proxy with backpressure both ways.
//!
//! # Beside the codecs
//!
//! A [`Router`] maps methods and paths to values. An [`SseEvent`] is a server-sent event, for a page's `EventSource`.
//! The module contains no further framework.
//!
//! # Safety
//!
//! Messages are read by the strict rules of RFC 9112. A message that another implementation might read differently is
//! refused, not repaired. See [`MessageError`].

mod answer;
mod assembly;
mod block;
mod check;
mod chunked;
pub mod client;
mod codec;
mod error;
mod exchange;
pub(crate) mod fields;
#[cfg(any(feature = "cluster", feature = "gateway"))]
mod forwarded_for;
#[cfg(any(feature = "cluster", feature = "gateway"))]
pub(crate) mod guard;
pub(crate) mod head;
mod limits;
pub(crate) mod lines;
mod list;
mod parts;
mod prefix;
mod prepared;
mod reader;
mod relay;
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
#[cfg(any(feature = "cluster", feature = "gateway"))]
pub(crate) use self::forwarded_for::forwarded_for;
pub use self::head::Version;
pub use self::limits::Limits;
pub use self::lines::HeaderLine;
pub use self::prepared::Prepared;
#[cfg(feature = "gateway")]
pub(crate) use self::request::KeptHead;
pub use self::request::ServerRequest;
pub use self::response::{Chunk, Continue, End, ServerResponse, Trailers};
pub use self::router::{Match, NoRoute, Params, RouteError, Router};
pub use self::sse::SseEvent;
pub use self::stream::{HttpStreamCodec, RequestPart};
#[cfg(feature = "cluster-http")]
pub(crate) use self::write::refusal;
