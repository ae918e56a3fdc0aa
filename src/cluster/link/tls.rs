use std::fmt;

use crate::tls::{TlsClient, TlsServer};

/// TLS on links: for those that others dial, and for those that this server dials.
///
/// A server with it registers an address with `is_secure=true`, which only servers with TLS can dial. It still dials addresses
/// without. The cluster's secret, if there is one, is proved inside TLS.
///
/// # Examples
///
/// ```no_run
/// use epicycle::cluster::link::LinkTls;
/// use epicycle::tls::{Identity, Roots, TlsClient, TlsServer};
///
/// let identity = || Identity::from_pem_files("server.pem", "server.key");
/// let authority = Roots::from_pem_file("authority.pem")?;
/// // Each side shows its certificate and checks the other's, which all have the name `cluster.internal`.
/// let server = TlsServer::new(identity()?)?.require_client_certificate(&authority)?;
/// let client = TlsClient::new(&authority)?
///     .server_name("cluster.internal")?
///     .identity(identity()?);
/// let tls = LinkTls::new(&server, &client);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct LinkTls {
    pub(in crate::cluster) server: TlsServer,
    pub(in crate::cluster) client: TlsClient,
}

impl LinkTls {
    /// Returns the settings. Unless the client has a [`server_name`](TlsClient::server_name) or [`pins`](TlsClient::pins), the
    /// certificate of each server must have the host of its registered address.
    pub fn new(server: &TlsServer, client: &TlsClient) -> Self {
        Self {
            server: server.clone(),
            client: client.clone(),
        }
    }
}

impl fmt::Debug for LinkTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkTls").finish_non_exhaustive()
    }
}
