//! TLS on connections, with rustls.
//!
//! A server passes its [`TlsServer`] with an address to listen on, a client its [`TlsClient`] with an address to
//! connect to. Handlers, codecs, limits and closing work as without TLS. `on_open` is called after the handshake, and
//! [`Conn::tls`](crate::Conn::tls) returns the negotiated parameters.
//!
//! ```no_run
//! use epicycle::tls::{Identity, TlsServer};
//!
//! let identity = Identity::from_pem_files("cert.pem", "key.pem")?;
//! let tls = TlsServer::new(identity)?.alpn(&["http/1.1"]);
//! # Ok::<(), epicycle::tls::TlsError>(())
//! ```
//!
//! TLS can also begin in mid-stream, as STARTTLS asks for: [`Conn::start_tls_server`](crate::Conn::start_tls_server) and
//! [`Conn::start_tls_client`](crate::Conn::start_tls_client).
//!
//! Only TLS 1.2 and 1.3 are supported, with the cipher suites that rustls considers safe. Early data (0-RTT) is not
//! supported, since applications would have to withstand replays.

mod client;
mod error;
mod identity;
mod info;
mod pem;
mod pin;
mod resolver;
mod roots;
mod server;
pub(crate) mod session;
pub(crate) mod stream;
mod tail;
#[cfg(all(test, not(loom)))]
mod tests;
mod verifier;

pub use self::client::TlsClient;
pub use self::error::TlsError;
pub use self::identity::Identity;
pub use self::info::{TlsInfo, TlsVersion};
pub use self::pin::Pin;
pub use self::roots::Roots;
pub use self::server::TlsServer;

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

/// Returns the cryptography provider. It does not depend on the default that the process may have installed.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Returns the ALPN protocols in wire format, most preferred first.
fn protocols(names: &[impl AsRef<[u8]>]) -> Vec<Vec<u8>> {
    names.iter().map(|name| name.as_ref().to_vec()).collect()
}
