//! Certificates and keys in PEM.

use std::io;
use std::path::Path;

use rustls::pki_types::pem::{Error, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::error::TlsError;
use crate::sys::files::read_at_most;

/// The most bytes of a file. The bundles of all public authorities have some 200 KiB.
const MAX_FILE: u64 = 8 << 20;

/// PEM text, and its source for error messages.
pub(super) struct Pem<'a> {
    pub(super) origin: String,
    pub(super) text: std::borrow::Cow<'a, [u8]>,
}

impl<'a> Pem<'a> {
    pub(super) fn read(path: &Path) -> Result<Self, TlsError> {
        let text = read_at_most(MAX_FILE, path).and_then(|text| {
            let remedy = "it is larger than 8 MiB; name a file with certificates or a key in PEM";
            text.ok_or_else(|| io::Error::new(io::ErrorKind::FileTooLarge, remedy))
        });
        let text = text.map_err(|source| TlsError::File {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            origin: path.display().to_string(),
            text: text.into(),
        })
    }

    pub(super) fn new(what: &str, text: &'a [u8]) -> Self {
        Self {
            origin: what.to_owned(),
            text: text.into(),
        }
    }

    /// Returns all certificates in the text: at least one.
    pub(super) fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let certificates: Vec<_> = CertificateDer::pem_slice_iter(&self.text)
            .collect::<Result<_, _>>()
            .map_err(|error| self.problem(&error))?;
        if certificates.is_empty() {
            return Err(TlsError::NoCertificate {
                origin: self.origin.clone(),
            });
        }
        Ok(certificates)
    }

    pub(super) fn key(&self) -> Result<PrivateKeyDer<'static>, TlsError> {
        PrivateKeyDer::from_pem_slice(&self.text).map_err(|error| match error {
            Error::NoItemsFound => TlsError::NoKey {
                origin: self.origin.clone(),
            },
            error => self.problem(&error),
        })
    }

    fn problem(&self, error: &Error) -> TlsError {
        TlsError::Pem {
            origin: self.origin.clone(),
            problem: error.to_string(),
        }
    }
}
