//! The trusted certificate authorities.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;

use super::error::TlsError;
use super::pem::Pem;

/// The certificate authorities that may issue the peer's certificate.
///
/// ```no_run
/// use epicycle::tls::{Roots, TlsClient};
///
/// let internal = TlsClient::new(&Roots::from_pem_file("our-ca.pem")?)?;
/// let public = TlsClient::new(&Roots::native()?)?;
/// # Ok::<(), epicycle::tls::TlsError>(())
/// ```
#[derive(Clone)]
pub struct Roots {
    pub(super) store: Arc<RootCertStore>,
}

impl Roots {
    /// Returns the authorities that the operating system trusts, or those in the files that the environment variables
    /// `SSL_CERT_FILE` and `SSL_CERT_DIR` name. Reads them at each call.
    ///
    /// # Errors
    ///
    /// Returns [`TlsError::NoNativeRoots`] if none can be found.
    pub fn native() -> Result<Self, TlsError> {
        let found = rustls_native_certs::load_native_certs();
        let mut store = RootCertStore::empty();
        // Some systems carry certificates that cannot be parsed. The others are still usable.
        let (usable, ignored) = store.add_parsable_certificates(found.certs);
        if usable == 0 {
            let problems = found.errors.iter().map(ToString::to_string).collect();
            return Err(TlsError::NoNativeRoots { problems });
        }
        log::debug!(target: "epicycle::tls", "{usable} native roots, {ignored} ignored");
        Ok(Self {
            store: Arc::new(store),
        })
    }

    /// Reads all certificates of a PEM file.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be read, contains no certificate, or contains an invalid one.
    pub fn from_pem_file(path: impl AsRef<Path>) -> Result<Self, TlsError> {
        Self::new(Pem::read(path.as_ref())?)
    }

    /// Reads all certificates of PEM text in memory.
    ///
    /// # Errors
    ///
    /// The same as for [`from_pem_file`](Self::from_pem_file).
    pub fn from_pem(text: impl AsRef<[u8]>) -> Result<Self, TlsError> {
        Self::new(Pem::new("the given root certificate text", text.as_ref()))
    }

    fn new(pem: Pem<'_>) -> Result<Self, TlsError> {
        let certificates: Vec<CertificateDer<'static>> = pem.certificates()?;
        let mut store = RootCertStore::empty();
        for certificate in certificates {
            store
                .add(certificate)
                .map_err(|error| TlsError::BadCertificate {
                    origin: pem.origin.clone(),
                    problem: error.to_string(),
                })?;
        }
        Ok(Self {
            store: Arc::new(store),
        })
    }
}

impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Roots({})", self.store.len())
    }
}
