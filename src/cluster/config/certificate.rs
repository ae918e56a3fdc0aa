use super::{CertificateConfig, Config};
use crate::cluster::Error;
#[cfg(feature = "tls")]
use crate::tls::{Identity, TlsServer};

impl Config {
    /// Returns TLS with the certificate of a table of this configuration, or `None` if there is none.
    #[cfg(feature = "tls")]
    pub(in crate::cluster) fn tls_server(
        &self,
        table: &str,
        certificate: &CertificateConfig,
    ) -> Result<Option<TlsServer>, Error> {
        certificate
            .server()
            .map_err(|error| self.certificate_fault(table, certificate, &error))
    }

    /// Refuses the certificate of a table.
    #[cfg(not(feature = "tls"))]
    pub(in crate::cluster) fn check_no_tls(
        &self,
        table: &str,
        certificate: &CertificateConfig,
    ) -> Result<(), Error> {
        certificate
            .check_none()
            .map_err(|error| self.certificate_fault(table, certificate, &error))
    }

    fn certificate_fault(
        &self,
        table: &str,
        certificate: &CertificateConfig,
        error: &Error,
    ) -> Error {
        let key = match certificate.cert_file {
            Some(_) => "certFile",
            None => "keyFile",
        };
        let problem = match error {
            Error::InvalidArgument { problem, .. } => problem.clone(),
            error => error.to_string(),
        };
        self.fault(&format!("{table}.{key}"), &problem)
    }
}

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
    fn check_none(&self) -> Result<(), Error> {
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
