//! TLS options for clients.

use std::fmt;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::{ResolvesClientCert, Resumption, WebPkiServerVerifier};
use rustls::pki_types::ServerName;
use rustls::sign::CertifiedKey;

use super::error::TlsError;
use super::identity::Identity;
use super::pin::Pin;
use super::roots::Roots;
use super::session::Session;
use super::verifier::Verifier;

/// TLS for outbound connections: the trusted authorities, and the client's own certificate.
///
/// The server must present a certificate for the host of the connection, issued by one of the [`Roots`]. Sessions are
/// resumed if the server allows it. Clones share the memory for that.
///
/// ```no_run
/// use epicycle::tls::{Roots, TlsClient};
///
/// let tls = TlsClient::new(&Roots::native()?)?.alpn(&["h2"]);
/// # Ok::<(), epicycle::tls::TlsError>(())
/// ```
#[derive(Clone)]
pub struct TlsClient {
    config: Arc<ClientConfig>,
    verifier: Arc<Verifier>,
    server_name: Option<ServerName<'static>>,
    roots: Option<Roots>,
    identity: Option<Identity>,
}

impl TlsClient {
    /// Returns a client that trusts the authorities in `roots`.
    ///
    /// # Errors
    ///
    /// Returns [`TlsError::Setup`] if the roots cannot be used.
    pub fn new(roots: &Roots) -> Result<Self, TlsError> {
        let authorities =
            WebPkiServerVerifier::builder_with_provider(roots.store.clone(), super::provider())
                .build()
                .map_err(TlsError::setup)?;
        let mut this = Self::verifying(Some(authorities))?;
        this.roots = Some(roots.clone());
        Ok(this)
    }

    /// Returns a client that takes any certificate, of anybody, for any name. So whoever is between it and the server can read
    /// and change what is sent. With [`pins`](Self::pins) the server must still have one of these.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new).
    pub fn without_verification() -> Result<Self, TlsError> {
        Self::verifying(None)
    }

    fn verifying(authorities: Option<Arc<WebPkiServerVerifier>>) -> Result<Self, TlsError> {
        let verifier = Arc::new(Verifier {
            authorities,
            pins: Vec::new(),
            provider: super::provider(),
        });
        let config = ClientConfig::builder_with_provider(super::provider())
            .with_safe_default_protocol_versions()
            .map_err(TlsError::setup)?
            .dangerous()
            .with_custom_certificate_verifier(verifier.clone())
            .with_no_client_auth();
        Ok(Self {
            config: Arc::new(config),
            verifier,
            server_name: None,
            roots: None,
            identity: None,
        })
    }

    /// Sets the pins. The server's own certificate must be one of them, or have the key of one, beside the verification that
    /// it needs without them. Default: none.
    #[must_use]
    pub fn pins(mut self, pins: impl IntoIterator<Item = Pin>) -> Self {
        Arc::make_mut(&mut self.verifier).pins = pins.into_iter().collect();
        let config = Arc::make_mut(&mut self.config);
        // A session that was begun by other rules is not resumed by these.
        config.resumption = Resumption::default();
        config
            .dangerous()
            .set_certificate_verifier(self.verifier.clone());
        self
    }

    /// Returns false if the client takes [any certificate](Self::without_verification), or any that is pinned.
    pub fn is_verifying(&self) -> bool {
        self.verifier.authorities.is_some()
    }

    /// Sets the protocols to offer by ALPN, most preferred first. Default: none.
    #[must_use]
    pub fn alpn(mut self, protocols: &[impl AsRef<[u8]>]) -> Self {
        Arc::make_mut(&mut self.config).alpn_protocols = super::protocols(protocols);
        self
    }

    /// Sets the certificate for servers that ask for one. Default: none.
    #[must_use]
    pub fn identity(mut self, identity: Identity) -> Self {
        let config = Arc::make_mut(&mut self.config);
        config.client_auth_cert_resolver = Arc::new(FixedCertificate(identity.key.clone()));
        self.identity = Some(identity);
        self
    }

    /// Sets the name, or IP address, that the server's certificate must be valid for. It is also sent as SNI. Default:
    /// the host of the address to which the client connects.
    ///
    /// # Errors
    ///
    /// Returns [`TlsError::ServerName`] if it is neither a name nor an IP address.
    pub fn server_name(mut self, name: &str) -> Result<Self, TlsError> {
        self.server_name = Some(parse_name(name)?);
        Ok(self)
    }

    /// Returns true if the name to verify is set.
    #[cfg(any(feature = "gateway", feature = "rpc"))]
    pub(crate) fn has_server_name(&self) -> bool {
        self.server_name.is_some()
    }

    /// Returns true if another client trusts the same servers, and shows them the same name and certificate.
    #[cfg(feature = "gateway")]
    pub(crate) fn has_rules_of(&self, other: &Self) -> bool {
        let roots = |this: &Self| this.roots.as_ref().map(|roots| roots.store.roots.clone());
        let shown = |this: &Self| {
            let identity = this.identity.as_ref();
            identity.map(|identity| identity.key.cert.clone())
        };
        self.server_name == other.server_name
            && self.verifier.pins == other.verifier.pins
            && self.config.alpn_protocols == other.config.alpn_protocols
            && shown(self) == shown(other)
            && roots(self) == roots(other)
    }

    /// Returns a session with a server that must prove that it is `host`.
    pub(crate) fn session(&self, host: &str) -> Result<Session, TlsError> {
        let name = self.name_for(host)?;
        Session::client(self.config.clone(), name).map_err(TlsError::setup)
    }

    /// Returns the state of a connection that blocks.
    #[cfg(any(feature = "memcache", feature = "rabbitmq"))]
    pub(crate) fn connection(&self, host: &str) -> Result<rustls::ClientConnection, TlsError> {
        let name = self.name_for(host)?;
        rustls::ClientConnection::new(self.config.clone(), name).map_err(TlsError::setup)
    }

    /// Returns the rules of a session of another engine.
    #[cfg(feature = "grpc")]
    pub(crate) fn config(&self) -> Arc<ClientConfig> {
        self.config.clone()
    }

    /// Returns the name to verify for a connection to `host`.
    pub(crate) fn name_for(&self, host: &str) -> Result<ServerName<'static>, TlsError> {
        match &self.server_name {
            Some(name) => Ok(name.clone()),
            None => parse_name(host),
        }
    }
}

fn parse_name(name: &str) -> Result<ServerName<'static>, TlsError> {
    ServerName::try_from(name.to_owned()).map_err(|_| TlsError::ServerName {
        name: name.to_owned(),
    })
}

/// Presents one certificate to any server that asks.
#[derive(Debug)]
struct FixedCertificate(Arc<CertifiedKey>);

impl ResolvesClientCert for FixedCertificate {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        _schemes: &[rustls::SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl fmt::Debug for TlsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsClient")
            .field("server_name", &self.server_name)
            .finish_non_exhaustive()
    }
}
