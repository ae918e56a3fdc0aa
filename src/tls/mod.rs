//! TLS on the engine's connections, with rustls.
//!
//! A server hands out its [`TlsServer`] with an address to listen on, a client its [`TlsClient`] with an
//! address to connect to. Handlers, codecs, limits and closing are the same as without TLS; `on_open` is
//! called once the handshake is done, and [`Conn::tls`](crate::Conn::tls) tells what was negotiated.
//!
//! ```no_run
//! use epicycle::tls::{Identity, TlsServer};
//!
//! let identity = Identity::from_pem_files("cert.pem", "key.pem")?;
//! let tls = TlsServer::new(identity)?.alpn(&["http/1.1"]);
//! # Ok::<(), epicycle::tls::TlsError>(())
//! ```
//!
//! Only TLS 1.2 and 1.3 are spoken, with the cipher suites that rustls takes for safe. There is no early
//! data (0-RTT), whose replays an application would have to withstand.

mod client;
mod error;
mod identity;
mod info;
mod pem;
mod resolver;
mod roots;
mod server;
mod session;
pub(crate) mod stream;
mod tail;
#[cfg(all(test, not(loom)))]
mod tests;

pub use self::client::TlsClient;
pub use self::error::TlsError;
pub use self::identity::Identity;
pub use self::info::{TlsInfo, TlsVersion};
pub use self::roots::Roots;
pub use self::server::TlsServer;

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

/// The cryptography, whatever the process may have installed as its default.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The protocols to be agreed upon, most preferred first, as they go on the wire.
fn protocols(names: &[impl AsRef<[u8]>]) -> Vec<Vec<u8>> {
    names.iter().map(|name| name.as_ref().to_vec()).collect()
}
