//! A certificate with its private key.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys};

use super::error::TlsError;
use super::pem::Pem;

/// The certificate of a server or a client: its own certificate, the chain from it to a root, and its private key.
///
/// ```no_run
/// use epicycle::tls::Identity;
///
/// let identity = Identity::from_pem_files("fullchain.pem", "privkey.pem")?;
/// println!("for {:?}", identity.dns_names());
/// # Ok::<(), epicycle::tls::TlsError>(())
/// ```
#[derive(Clone)]
pub struct Identity {
    pub(super) key: Arc<CertifiedKey>,
    names: Arc<[String]>,
}

impl Identity {
    /// Reads the certificates from one PEM file and the private key from another, which may be the same file.
    ///
    /// The own certificate must come first, then those of the authorities, as in certbot's `fullchain.pem`.
    ///
    /// # Errors
    ///
    /// Returns an error if a file cannot be read, if its contents are missing or invalid, or if the key does not belong
    /// to the certificate.
    pub fn from_pem_files(
        certificates: impl AsRef<Path>,
        key: impl AsRef<Path>,
    ) -> Result<Self, TlsError> {
        Self::new(Pem::read(certificates.as_ref())?, Pem::read(key.as_ref())?)
    }

    /// Reads PEM text in memory, as [`from_pem_files`](Self::from_pem_files) does.
    ///
    /// # Errors
    ///
    /// The same as for [`from_pem_files`](Self::from_pem_files).
    pub fn from_pem(
        certificates: impl AsRef<[u8]>,
        key: impl AsRef<[u8]>,
    ) -> Result<Self, TlsError> {
        Self::new(
            Pem::new("the given certificate text", certificates.as_ref()),
            Pem::new("the given key text", key.as_ref()),
        )
    }

    fn new(certificates: Pem<'_>, key: Pem<'_>) -> Result<Self, TlsError> {
        let chain = certificates.certificates()?;
        let bad_certificate = |problem: String| TlsError::BadCertificate {
            origin: certificates.origin.clone(),
            problem,
        };
        let names = dns_names(&chain[0]).map_err(|error| bad_certificate(error.to_string()))?;
        let certified = CertifiedKey::from_der(chain, key.key()?, &super::provider());
        let certified = certified.map_err(|error| match error {
            Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => TlsError::KeyMismatch {
                certificate: certificates.origin.clone(),
                key: key.origin.clone(),
            },
            Error::InvalidCertificate(error) => bad_certificate(error.to_string()),
            error => TlsError::BadKey {
                origin: key.origin.clone(),
                problem: error.to_string(),
            },
        })?;
        Ok(Self {
            key: Arc::new(certified),
            names: names.into(),
        })
    }

    /// Returns the DNS names that the certificate is valid for. Wildcards are returned as they are (`*.example.com`).
    pub fn dns_names(&self) -> &[String] {
        &self.names
    }
}

fn dns_names(
    certificate: &rustls::pki_types::CertificateDer<'_>,
) -> Result<Vec<String>, webpki::Error> {
    let parsed = webpki::EndEntityCert::try_from(certificate)?;
    Ok(parsed
        .valid_dns_names()
        .map(str::to_ascii_lowercase)
        .collect())
}

/// Prints the names, never the key.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Identity").field(&self.names).finish()
    }
}
