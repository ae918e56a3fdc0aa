//! Certificates and keys that a server must have.

use std::path::Path;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{SHA256, digest};
use rustls::pki_types::CertificateDer;

use super::error::TlsError;
use super::pem::Pem;

/// The length of a SHA-256.
const LEN: usize = 32;

/// A certificate, or a public key, that a server must have: see [`TlsClient::pins`](super::TlsClient::pins).
///
/// A pinned key stays good when its certificate is renewed. The text form of it is that of curl's `--pinnedpubkey`:
/// `sha256//` and the base64 of the SHA-256 of the key (the DER of its SubjectPublicKeyInfo).
///
/// ```
/// use epicycle::tls::Pin;
///
/// let pin: Pin = "sha256//47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=".parse()?;
/// # Ok::<(), epicycle::tls::TlsError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin(Pinned);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Pinned {
    /// The SHA-256 of the public key.
    Key([u8; LEN]),
    Certificate(CertificateDer<'static>),
}

impl Pin {
    /// Returns the pin of a public key, from the SHA-256 of its SubjectPublicKeyInfo.
    pub fn key(sha256: [u8; LEN]) -> Self {
        Self(Pinned::Key(sha256))
    }

    /// Returns the pin of the first certificate of a PEM file.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be read, or contains no certificate.
    pub fn from_pem_file(path: impl AsRef<Path>) -> Result<Self, TlsError> {
        Self::new(&Pem::read(path.as_ref())?)
    }

    /// Returns the pin of the first certificate of PEM text in memory.
    ///
    /// # Errors
    ///
    /// The same as for [`from_pem_file`](Self::from_pem_file).
    pub fn from_pem(text: impl AsRef<[u8]>) -> Result<Self, TlsError> {
        Self::new(&Pem::new(
            "the given pinned certificate text",
            text.as_ref(),
        ))
    }

    fn new(pem: &Pem<'_>) -> Result<Self, TlsError> {
        let mut certificates = pem.certificates()?;
        Ok(Self(Pinned::Certificate(certificates.swap_remove(0))))
    }

    /// Returns true if a certificate is the pinned one, or has the pinned key.
    pub(super) fn fits(&self, certificate: &CertificateDer<'_>) -> bool {
        match &self.0 {
            Pinned::Certificate(pinned) => pinned == certificate,
            Pinned::Key(pinned) => {
                webpki::EndEntityCert::try_from(certificate).is_ok_and(|parsed| {
                    let key = parsed.subject_public_key_info();
                    digest(&SHA256, &key).as_ref() == pinned
                })
            }
        }
    }
}

impl FromStr for Pin {
    type Err = TlsError;

    /// Reads the pin of a public key.
    fn from_str(text: &str) -> Result<Self, TlsError> {
        let bytes = text
            .strip_prefix("sha256//")
            .and_then(|encoded| STANDARD.decode(encoded).ok());
        let sha256 = bytes.and_then(|bytes| bytes.try_into().ok());
        sha256.map(Self::key).ok_or_else(|| TlsError::Pin {
            text: text.to_owned(),
        })
    }
}
