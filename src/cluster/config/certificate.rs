use super::CertificateConfig;
use crate::cluster::Error;
#[cfg(feature = "tls")]
use crate::tls::{Identity, TlsServer};

impl CertificateConfig {
    /// Returns TLS with the certificate, or `None` if there is none.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] if one of the files is missing, or cannot be used.
    #[cfg(feature = "tls")]
    pub fn server(&self) -> Result<Option<TlsServer>, Error> {
        let Some((cert, key)) = self.files()? else {
            return Ok(None);
        };
        let tls = Identity::from_pem_files(cert, key).and_then(TlsServer::new);
        let tls = tls.map_err(|error| Error::argument("certFile", error.to_string()))?;
        Ok(Some(tls))
    }

    /// Refuses a certificate.
    #[cfg(not(feature = "tls"))]
    pub(in crate::cluster) fn check_none(&self) -> Result<(), Error> {
        match self.files()? {
            None => Ok(()),
            Some(_) => {
                let problem = "build epicycle with the feature `tls`";
                Err(Error::argument("certFile", problem))
            }
        }
    }

    fn files(&self) -> Result<Option<(&std::path::Path, &std::path::Path)>, Error> {
        match (&self.cert_file, &self.key_file) {
            (None, None) => Ok(None),
            (Some(cert), Some(key)) => Ok(Some((cert, key))),
            _ => {
                let problem = "a certificate needs `certFile` and `keyFile`";
                Err(Error::argument("certFile", problem))
            }
        }
    }
}
