//! The steps that a connection passes before the handler sees it.

use std::net::IpAddr;
use std::sync::Arc;

use crate::addr::Addr;
#[cfg(feature = "cluster")]
use crate::engine::listen::admission::Entrance;
#[cfg(feature = "proxy-protocol")]
use crate::engine::proxy_protocol::ProxyProtocol;
#[cfg(feature = "tls")]
use crate::tls::{TlsClient, TlsServer};

/// The steps of the connections of one listener, or of one adopted connection.
#[derive(Debug, Default)]
pub(crate) struct Handshakes {
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<TlsServer>,
    /// For adopted connections: this side begins the handshake with this host.
    #[cfg(feature = "tls")]
    pub(crate) tls_client: Option<(TlsClient, String)>,
    #[cfg(feature = "proxy-protocol")]
    pub(crate) proxy: Option<ProxyProtocol>,
    /// Limits the connections that have not passed the steps.
    #[cfg(feature = "cluster")]
    pub(crate) entrance: Option<Arc<Entrance>>,
}

#[cfg_attr(
    not(feature = "proxy-protocol"),
    allow(unused_variables, clippy::unused_self, reason = "there is no header")
)]
impl Handshakes {
    /// Returns the steps to share, or `None` if there are none.
    pub(crate) fn shared(self) -> Option<Arc<Self>> {
        let any = false;
        #[cfg(feature = "tls")]
        let any = any || self.tls.is_some() || self.tls_client.is_some();
        #[cfg(feature = "proxy-protocol")]
        let any = any || self.proxy.is_some();
        any.then(|| Arc::new(self))
    }

    /// Returns the name of the first option that needs a stream of bytes, which a Unix socket of records is not.
    pub(crate) fn needs_bytes(&self) -> Option<&'static str> {
        #[cfg(feature = "tls")]
        if self.tls.is_some() || self.tls_client.is_some() {
            return Some("tls");
        }
        #[cfg(feature = "proxy-protocol")]
        if self.proxy.is_some() {
            return Some("proxy_protocol");
        }
        None
    }

    /// Returns true if the peer is a proxy whose header has to come first.
    pub(crate) fn awaits_header(&self, peer: &Addr) -> bool {
        #[cfg(feature = "proxy-protocol")]
        return self.proxy.as_ref().is_some_and(|proxy| proxy.trusts(peer));
        #[cfg(not(feature = "proxy-protocol"))]
        false
    }

    /// Returns true if connections are accepted from proxies only, and the peer is none.
    pub(crate) fn refuses(&self, peer: &Addr) -> bool {
        #[cfg(feature = "proxy-protocol")]
        return self.proxy.as_ref().is_some_and(|proxy| proxy.refuses(peer));
        #[cfg(not(feature = "proxy-protocol"))]
        false
    }
}

/// Returns the address for which a connection is counted when it is accepted. The client of a proxy is not known then.
pub(crate) fn counted_as(steps: Option<&Arc<Handshakes>>, peer: &Addr) -> Option<IpAddr> {
    match steps.is_some_and(|steps| steps.awaits_header(peer)) {
        true => None,
        false => peer.ip(),
    }
}
