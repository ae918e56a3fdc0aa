//! TLS options for servers.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::crypto::ring::Ticketer;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoClientAuth, WebPkiClientVerifier};

use super::error::TlsError;
use super::identity::Identity;
use super::resolver::Resolver;
use super::roots::Roots;
use super::session::Session;

/// TLS for a server's listeners: its certificates, and its requirements on clients.
///
/// Clones share the certificates. Keep a clone to [`reload`](Self::reload) them.
///
/// ```no_run
/// use std::time::Duration;
/// use epicycle::tls::{Identity, TlsServer};
///
/// let tls = TlsServer::new(Identity::from_pem_files("example.com.pem", "example.com.key")?)?
///     .identity(Identity::from_pem_files("example.org.pem", "example.org.key")?)
///     .alpn(&["h2", "http/1.1"])
///     .handshake_timeout(Duration::from_secs(5));
///
/// let renewing = tls.clone();
/// // After a renewal, on whatever thread notices it:
/// renewing.reload([Identity::from_pem_files("example.com.pem", "example.com.key")?])?;
/// # Ok::<(), epicycle::tls::TlsError>(())
/// ```
///
/// Clients may resume their sessions by tickets, in TLS 1.3 and 1.2. Only this value and its clones can read the
/// tickets, so a session cannot be resumed after a restart.
#[derive(Clone)]
pub struct TlsServer {
    config: Arc<ServerConfig>,
    identities: Arc<Resolver>,
    handshake_timeout: Duration,
}

/// The default limit for a handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

impl TlsServer {
    /// Returns a server with one certificate. It is also the default for clients that ask for none of the names of the
    /// other certificates.
    ///
    /// # Errors
    ///
    /// Returns [`TlsError::Setup`] if the system provides no random numbers for the keys of the tickets.
    pub fn new(identity: Identity) -> Result<Self, TlsError> {
        let identities = Arc::new(Resolver::new(vec![identity]));
        let mut config = configure(Arc::new(NoClientAuth), &identities)?;
        config.ticketer = Ticketer::new().map_err(TlsError::setup)?;
        Ok(Self {
            config: Arc::new(config),
            identities,
            handshake_timeout: HANDSHAKE_TIMEOUT,
        })
    }

    /// Adds a certificate, for clients that ask for one of its DNS names (SNI). A wildcard such as `*.example.com`
    /// matches exactly one label. A full name takes precedence over a wildcard.
    #[must_use]
    pub fn identity(self, identity: Identity) -> Self {
        self.identities.add(identity);
        self
    }

    /// Sets the protocols to choose from by ALPN, most preferred first. A client that offers only other protocols is
    /// refused; one that does not use ALPN is accepted. Default: none.
    #[must_use]
    pub fn alpn(mut self, protocols: &[impl AsRef<[u8]>]) -> Self {
        Arc::make_mut(&mut self.config).alpn_protocols = super::protocols(protocols);
        self
    }

    /// Requires a client certificate from one of these authorities. Clients without one are refused. Default: no
    /// certificate is requested.
    ///
    /// # Errors
    ///
    /// Returns [`TlsError::Setup`] if the authorities cannot be used.
    pub fn require_client_certificate(self, from: &Roots) -> Result<Self, TlsError> {
        self.verify_clients(WebPkiClientVerifier::builder_with_provider(
            from.store.clone(),
            super::provider(),
        ))
    }

    /// Requests a client certificate from one of these authorities, but accepts clients without one.
    /// [`TlsInfo::peer_certificates`](super::TlsInfo::peer_certificates) tells them apart.
    ///
    /// # Errors
    ///
    /// The same as for [`require_client_certificate`](Self::require_client_certificate).
    pub fn request_client_certificate(self, from: &Roots) -> Result<Self, TlsError> {
        let verifier =
            WebPkiClientVerifier::builder_with_provider(from.store.clone(), super::provider());
        self.verify_clients(verifier.allow_unauthenticated())
    }

    fn verify_clients(
        mut self,
        verifier: rustls::server::ClientCertVerifierBuilder,
    ) -> Result<Self, TlsError> {
        let verifier = verifier.build().map_err(TlsError::setup)?;
        let mut config = configure(verifier, &self.identities)?;
        config.alpn_protocols = self.config.alpn_protocols.clone();
        // New ticket keys, so that a session cannot be resumed past a stricter verifier.
        config.ticketer = Ticketer::new().map_err(TlsError::setup)?;
        self.config = Arc::new(config);
        Ok(self)
    }

    /// Sets the time within which a handshake must complete; otherwise the connection closes. Default: 10 s.
    /// `Duration::MAX` means no limit.
    #[must_use]
    pub fn handshake_timeout(mut self, limit: Duration) -> Self {
        self.handshake_timeout = limit;
        self
    }

    /// Replaces all certificates, here and in every clone, for all later handshakes. Open connections are not affected.
    /// The first of the new certificates becomes the default.
    ///
    /// # Errors
    ///
    /// Returns [`TlsError::NoIdentity`] if `identities` is empty. Nothing changes in this case.
    pub fn reload(&self, identities: impl IntoIterator<Item = Identity>) -> Result<(), TlsError> {
        let identities: Vec<Identity> = identities.into_iter().collect();
        if identities.is_empty() {
            return Err(TlsError::NoIdentity);
        }
        self.identities.replace(identities);
        Ok(())
    }

    /// Replaces all certificates by those of another value, as [`reload`](Self::reload) does.
    #[cfg(feature = "gateway")]
    pub(crate) fn reload_from(&self, other: &Self) {
        self.identities.replace(other.identities.all());
    }

    /// Returns a session whose peer begins the handshake.
    pub(crate) fn session(&self) -> Result<Session, TlsError> {
        Session::server(self.config.clone()).map_err(TlsError::setup)
    }

    /// Returns the rules of a session of another engine.
    #[cfg(feature = "grpc")]
    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        self.config.clone()
    }

    pub(crate) fn handshake_limit(&self) -> Duration {
        self.handshake_timeout
    }
}

fn configure(
    verifier: Arc<dyn ClientCertVerifier>,
    identities: &Arc<Resolver>,
) -> Result<ServerConfig, TlsError> {
    let builder = ServerConfig::builder_with_provider(super::provider());
    Ok(builder
        .with_safe_default_protocol_versions()
        .map_err(TlsError::setup)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(identities.clone()))
}

impl fmt::Debug for TlsServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsServer")
            .field("identities", &self.identities)
            .field("handshake_timeout", &self.handshake_timeout)
            .finish_non_exhaustive()
    }
}
