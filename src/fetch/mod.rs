//! HTTP/1.1 requests for applications: connections that are kept, blocking calls for threads, callbacks for handlers.
//!
//! ```
//! # use epicycle::http::{HttpCodec, ServerRequest, ServerResponse};
//! # use epicycle::{Action, Conn, ConnInfo, EventHandler, Server};
//! # struct Site;
//! # impl EventHandler for Site {
//! #     type Codec = HttpCodec;
//! #     type Session = ();
//! #     fn codec(&mut self, _: &ConnInfo<'_>) -> HttpCodec { HttpCodec::default() }
//! #     fn on_open(&mut self, _: &mut Conn<'_, Self>) -> Option<()> { Some(()) }
//! #     fn react(&mut self, conn: &mut Conn<'_, Self>, _: &mut (), request: ServerRequest<'_>) -> Action {
//! #         conn.send(ServerResponse::ok().body(&request.body().repeat(2))).into()
//! #     }
//! # }
//! # let running = Server::bind("tcp://127.0.0.1:0").start(|_| Site)?;
//! # let url = format!("http://{}/", running.local_addrs()[0].as_socket_addr().unwrap());
//! use std::io::Read;
//! use std::time::Duration;
//! use epicycle::fetch::{self, Client};
//!
//! let response = fetch::get(&url)?;
//! assert_eq!(response.status(), 200);
//!
//! let client = Client::builder().timeout(Duration::from_secs(10)).start()?;
//! let response = client.post(&url).header("Content-Type", "text/plain").body("ab").send()?;
//! assert_eq!(response.body(), "abab");
//!
//! // Or read the body as it arrives.
//! let mut text = String::new();
//! client.post(&url).body("cd").stream()?.into_body().read_to_string(&mut text)?;
//! assert_eq!(text, "cdcd");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A response has the type of the crate [`http`](https://docs.rs/http), with any status: 404 is not an error. Redirects
//! are not followed, and bodies are not decompressed. Proxies and cookies are not supported.
//!
//! # From a handler
//!
//! A callback of an engine must not block. [`Request::send_then`] returns at once, and calls a function with the
//! response on the client's thread. This handler asks another server for its answer:
//!
//! ```
//! use epicycle::fetch::Client;
//! use epicycle::http::{HttpCodec, ServerRequest, ServerResponse, StatusCode};
//! use epicycle::{Action, Conn, ConnInfo, EventHandler};
//!
//! struct Front {
//!     client: Client,
//! }
//!
//! impl EventHandler for Front {
//!     type Codec = HttpCodec;
//!     type Session = ();
//!
//!     fn codec(&mut self, _: &ConnInfo<'_>) -> HttpCodec {
//!         HttpCodec::default()
//!     }
//!
//!     fn on_open(&mut self, _: &mut Conn<'_, Self>) -> Option<()> {
//!         Some(())
//!     }
//!
//!     fn react(&mut self, conn: &mut Conn<'_, Self>, _: &mut (), _: ServerRequest<'_>) -> Action {
//!         let answer = conn.defer_answer();
//!         self.client.get("http://10.0.0.5/price").send_then(move |response| {
//!             let sent = match response {
//!                 Ok(response) => answer.send(ServerResponse::ok().shared_body(response.into_body())),
//!                 Err(error) => {
//!                     let status = StatusCode::BAD_GATEWAY;
//!                     answer.send(ServerResponse::new(status).shared_body(error.to_string()))
//!                 }
//!             };
//!             if sent.is_err() {
//!                 // The client of this server has left.
//!             }
//!         });
//!         Action::Continue
//!     }
//! }
//! ```
//!
//! # Connections
//!
//! A connection that is complete and that the server keeps open serves the next request to the same scheme, host and
//! port. [`PoolLimits`] has the bounds. While it is idle, any byte or the end of its stream closes it.
//!
//! A server may close an idle connection at the moment in which a request is sent on it. If a reused connection ends
//! before the first byte of the response, a request whose method is idempotent (RFC 9110, section 9.2.2) is sent once
//! more, on a new connection. Others, such as `POST`, are not: the server may have carried them out. They fail with
//! [`FetchError::NoResponse`].
//!
//! # For other layers
//!
//! [`Pool`] is the bookkeeping of the connections by itself, without sockets and clock.

mod body;
mod builder;
mod client;
mod error;
mod fetcher;
mod idle;
mod pool;
mod reply;
mod target;

use std::sync::OnceLock;

use bytes::Bytes;

pub use ::http::Response;

pub use self::body::Body;
pub use self::builder::Builder;
#[cfg(any(feature = "consul", feature = "etcd", feature = "nacos"))]
pub(crate) use self::client::Abort;
pub use self::client::{Client, Request};
pub use self::error::FetchError;
pub use self::fetcher::{Fetcher, Session};
pub use self::pool::{Pool, PoolLimits, Step, Ticket};

/// Gets a URL with a client that the whole process shares, and waits for the response with its whole body.
///
/// The client has the default options: a body has at most 16 MiB.
///
/// # Errors
///
/// As for [`Request::send`].
pub fn get(url: impl Into<String>) -> Result<Response<Bytes>, FetchError> {
    static SHARED: OnceLock<Client> = OnceLock::new();
    let client = match SHARED.get() {
        Some(client) => client,
        None => {
            let client = Client::new()?;
            SHARED.get_or_init(|| client)
        }
    };
    client.get(url).send()
}
