//! The client's side of HTTP/1.1: a [`ClientCodec`] sends [`ClientRequest`]s and returns the [`ClientResponse`]s to
//! them. A [`StreamCodec`] returns the responses in parts as they arrive.
//!
//! Requests may be sent before earlier ones are answered. Responses arrive in the order of the requests.
//!
//! ```
//! use std::time::Duration;
//! use epicycle::http::client::{ClientCodec, ClientRequest, ClientResponse};
//! use epicycle::{Action, Client, Conn, ConnInfo, EventHandler};
//!
//! struct Fetch;
//!
//! impl EventHandler for Fetch {
//!     type Codec = ClientCodec;
//!     type Session = ();
//!
//!     fn codec(&mut self, _: &ConnInfo<'_>) -> ClientCodec {
//!         ClientCodec::default().response_timeout(Duration::from_secs(60))
//!     }
//!
//!     fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<()> {
//!         conn.send(ClientRequest::get("example.org", "/page").header("Accept", "text/*")).ok()
//!     }
//!
//!     fn react(&mut self, _conn: &mut Conn<'_, Self>, (): &mut (), response: ClientResponse<'_>) -> Action {
//!         println!("{}: {}", response.status(), String::from_utf8_lossy(response.body()));
//!         Action::Shutdown
//!     }
//! }
//!
//! # use std::io::{Read, Write};
//! # let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
//! # let server = listener.local_addr().unwrap();
//! let running = Client::new().start(|_reactor| Fetch)?;
//! running.engine().connect(server).expect("the engine runs");
//! # let mut peer = listener.accept().unwrap().0;
//! # let expected = "GET /page HTTP/1.1\r\nHost: example.org\r\nAccept: text/*\r\n\r\n";
//! # let mut request = vec![0; expected.len()];
//! # peer.read_exact(&mut request).unwrap();
//! # assert_eq!(request, expected.as_bytes());
//! # peer.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").unwrap();
//! # drop(peer);
//! running.join();
//! # Ok::<(), epicycle::Error>(())
//! ```
//!
//! # Timeouts
//!
//! [`ClientCodec::response_timeout`] limits the time that a server takes to begin its response. The engine's options
//! set the others: [`read_timeout`](crate::Client::read_timeout) limits the time for a response, from its first byte to
//! its last. [`idle_timeout`](crate::Client::idle_timeout) limits the time in which nothing happens: between requests,
//! and until a response begins. For a limit on a single request, set a [timer](crate::Conn::set_timer).

mod codec;
mod exchanges;
mod head;
mod request;
mod response;
mod stream;

pub use self::codec::ClientCodec;
pub use self::request::ClientRequest;
pub use self::response::ClientResponse;
pub use self::stream::{ResponsePart, StreamCodec};
